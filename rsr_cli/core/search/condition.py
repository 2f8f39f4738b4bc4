"""Conditions on the properties of a record, written in CQL2, the query language of OGC and STAC."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry import shape

from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rsr_cli.core.records.batch import Record

#: Members of a Feature that CQL2 names like a property.
_MEMBERS = frozenset({"geometry", "bbox"})
#: Comparison -> relation of intervals that it is where a date, a whole day, is compared; the latter is negated or not.
_OF_DAYS = {
    "<": ("t_before", False),
    "<=": ("t_after", True),
    "=": ("t_intersects", False),
    "<>": ("t_disjoint", False),
    ">": ("t_after", False),
    ">=": ("t_before", True),
}
#: What the library evaluates, with ``S_``, ``T_`` and ``A_`` the relations of geometries, times and lists.
_OPERATORS = re.compile(
    r"and|or|not|=|<>|[<>]=?|isnull|like|between|in|[-+*/^%]|div|casei|accenti"
    r"|s_(contains|crosses|disjoint|equals|intersects|overlaps|touches|within)"
    r"|t_(after|before|contains|disjoint|during|equals|finishes|intersects|meets|overlaps|starts)"
    r"|t_(finished|met|overlapped|started)by|a_(containedby|contains|equals|overlaps)",
    re.IGNORECASE,
)
#: Geometries, which the parser takes for functions if it cannot read their coordinates.
_GEOMETRIES = re.compile(r"(multi)?(point|linestring|polygon)|geometrycollection", re.IGNORECASE)
#: A date or time as RFC 3339 writes it, of which the library reads no other.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|[+-]\d\d:\d\d)?)?")
_DIVISIONS = frozenset({"/", "%", "div"})
_MISSING = object()
#: Of one condition: what joins, negates or encloses others.
MAX_PARTS = 1000
_QUOTED = re.compile(r"'(?:[^']|'')*'")
_NESTING = re.compile(r"[()*/^+]|\b(?:and|or|not)\b", re.IGNORECASE)


class Condition:
    """A condition in the text encoding of CQL2 (OGC 21-065r2).

    A property is one of the record's ``properties``, else ``id``, ``geometry``, another member of the record, or a path
    to a member of one, such as ``view.azimuth``. As in SQL, a comparison with a property that is absent or null is
    neither true nor false, and so is one of values of two types: text is never a number. A date is a whole day.

    Parameters
    ----------
    text : str
        The condition.

    Attributes
    ----------
    text : str
        The condition, as it was written.
    names : tuple of str
        The properties that it names.

    Raises
    ------
    UsageError
        It is not CQL2, calls what is no function of it, or states a time or geometry that is none.
    """

    def __init__(self, text: str) -> None:
        import cql2

        if _parts(text) > MAX_PARTS:
            raise UsageError(f"{text[:60]!r}... has more than {MAX_PARTS} parts")
        if text.lstrip().startswith("{"):
            raise UsageError(f"{text[:60]!r} is CQL2 as JSON: it is read as text, such as eo:cloud_cover < 10")
        self.text = text
        self._keys: dict[str, str] = {}
        self._divisors: dict[str, str] = {}
        try:
            self._expression = cql2.Expr(self._plain(cql2.parse_text(text).to_json()))
        except UsageError:
            raise
        except Exception as error:  # the library has no narrower one for a geometry that it cannot read
            raise UsageError(f"{text!r} is not CQL2: {_explained(str(error))}") from None
        self.names = tuple(dict.fromkeys([*self._keys, *self._divisors]))

    def _plain(self, node: Any) -> Any:
        """Rewrite CQL2 in JSON such that the library evaluates it as the standard says.

        Properties become keys without dots, which it takes for paths. Times in BETWEEN and IN, and days in comparisons,
        become what they abbreviate, for it compares these by their text or not at all. What is divided by 0 becomes
        neither true nor false.
        """
        if isinstance(node, list):
            return [self._plain(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "type" in node:
            return _geometry(node)
        if "bbox" in node:
            _check_latitudes("BBOX", node["bbox"][1 :: len(node["bbox"]) // 2])
        for text in (node.get("date"), node.get("timestamp"), *node.get("interval", ())):
            if isinstance(text, str) and text != "..":
                _check_time(text)
        if "property" in node:
            return {"property": self._keys.setdefault(node["property"], f"p{len(self._keys)}")}
        if "op" not in node:
            return {key: self._plain(value) for key, value in node.items()}
        name, arguments = node["op"], node["args"]
        if not _OPERATORS.fullmatch(name):
            raise UsageError(_unknown(name))
        if name in ("/", "%"):  # of which the library makes infinity or 0 if it is by 0
            return {"op": name, "args": [self._plain(arguments[0]), self._divisor(arguments[1])]}
        if name == "between":
            value, least, greatest = arguments
            return self._all("and", (">=", value, least), ("<=", value, greatest))
        if name == "in" and any(isinstance(item, dict) for item in arguments[1]):
            return self._all("or", *(("=", arguments[0], item) for item in arguments[1]))
        if name in _OF_DAYS and any(isinstance(each, dict) and "date" in each for each in arguments):
            relation, negated = _OF_DAYS[name]
            found = {"op": relation, "args": self._plain(arguments)}
            return {"op": "not", "args": [found]} if negated else found
        return {"op": name, "args": self._plain(arguments)}

    def _divisor(self, node: Any) -> Any:
        """Rewrite what is divided by such that there is no value if it is 0."""
        if isinstance(node, int | float) and node:
            return node
        if isinstance(node, dict) and "property" in node:  # a key of its own, that 0 is not a value of
            return {"property": self._divisors.setdefault(node["property"], f"d{len(self._divisors)}")}
        if _divides(node):  # each level would be there twice
            raise UsageError("divides by a quotient; write it as a product")
        inverse = {"op": "*", "args": [0, {"op": "div", "args": [1, node]}]}  # 0, or without a value
        return self._plain({"op": "+", "args": [node, inverse]})

    def _all(self, name: str, *comparisons: tuple[str, Any, Any]) -> dict[str, Any]:
        """Return comparisons joined by ``and`` or ``or``."""
        return {"op": name, "args": [self._plain({"op": op, "args": [left, right]}) for op, left, right in comparisons]}

    def values(self, name: str, record: Record) -> dict[str, Any]:
        """Return the values of a record with an id that the condition names and that are there."""
        found = ((key, _value(key, name, record)) for key in self.names)
        return {key: value for key, value in found if value is not _MISSING and value is not None}

    def of(self, values: dict[str, Any]) -> bool | None:
        """Return whether the condition is true of the values of a record, ``None`` if it is neither true nor false."""
        known = {self._keys[key]: value for key, value in values.items() if key in self._keys}
        known |= {self._divisors[key]: value for key, value in values.items() if key in self._divisors and value != 0}
        try:
            found: bool = self._expression.matches(known)
        except Exception:  # the library has no narrower one for an expression that is neither
            return None
        return found


def _value(key: str, name: str, record: Record) -> Any:
    """Return the value of a property, `_MISSING` if it is not there."""
    properties = record["properties"]
    if key == "id":
        return name
    if key in _MEMBERS:
        return record.get(key)
    if key in properties:
        return properties[key]
    if key in record:
        return record[key]
    for start in (properties, record):
        found: Any = start
        for step in key.split("."):
            found = found.get(step, _MISSING) if isinstance(found, dict) else _MISSING
        if found is not _MISSING:
            return found
    return _MISSING


def _geometry(node: dict[str, Any]) -> dict[str, Any]:
    """Return a geometry in GeoJSON; raise UsageError if it is none."""
    try:
        found = shape(node)
    except (ValueError, TypeError, shapely.errors.ShapelyError):
        raise UsageError(f"a {node['type']} has too few points, or coordinates of other dimensions") from None
    for part in shapely.get_parts(found):  # those of several polygons may have edges in common
        if shapely.get_dimensions(part) == 2 and not shapely.is_valid(part):
            raise UsageError(f"a {node['type']} is not valid: {shapely.is_valid_reason(part)}")
    _check_latitudes(f"a {node['type']}", found.bounds[1::2])
    return node


def _check_latitudes(what: str, latitudes: Iterable[float]) -> None:
    """Raise UsageError if one is off the Earth."""
    if any(abs(each) > 90 for each in latitudes):
        raise UsageError(f"{what} has a latitude beyond 90 degrees; longitudes are before latitudes")


def _check_time(text: str) -> None:
    """Raise UsageError if a text is no date or time."""
    found = _TIME.fullmatch(text)
    try:
        if found:
            date.fromisoformat(found[1])
            return
    except ValueError:
        pass
    raise UsageError(f"{text!r} is not a date or time such as 2023-06-10 or 2023-06-10T07:46:21Z")


def _divides(node: Any) -> bool:
    """Return whether a division is part of an expression."""
    if isinstance(node, dict):
        return node.get("op") in _DIVISIONS or any(map(_divides, node.values()))
    return isinstance(node, list) and any(map(_divides, node))


def _unknown(name: str) -> str:
    """Return why what is called cannot be."""
    if _GEOMETRIES.fullmatch(name):
        return f"{name} has no coordinates that can be read: a space is between them, as in POINT(10.5 47.25)"
    return f"{name} is no function of CQL2"


def _parts(text: str) -> int:
    """Return how deep a condition may be nested; the library sets no limit, and overflows the stack."""
    depth = deepest = words = 0
    for found in _NESTING.findall(_QUOTED.sub("", text)):
        depth += {"(": 1, ")": -1}.get(found, 0)
        deepest, words = max(deepest, depth), words + (found not in "()")
    return deepest + words


def _explained(message: str) -> str:
    """Return where a text is not CQL2, in one line of the parser's message of several."""
    place = message.split("\n", 1)[0].rpartition(":")[2].strip()
    return f"it goes wrong at character {place}" if place.isdecimal() else message
