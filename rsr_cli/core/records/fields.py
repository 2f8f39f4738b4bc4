"""The fields of a record: what several commands read from it, and how."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import RecordError, shown
from rsr_cli.core.records.exact import Exact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsr_cli.core.records.batch import Record

#: What a search adds to the properties of a found record.
HIT_FIELDS = ("query", "rank", "distance", "query_labels")
#: A time that is not known, numpy's NaT.
NO_TIME = -(2**63)
NO_INTERVAL = NO_TIME, NO_TIME
_NUMBERS = frozenset({int, float, Exact})
_TEXT = frozenset({str})
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
#: By this many degrees a corner may be off the Earth, as coordinates are rounded.
ROUNDING_DEGREES = 1e-6
#: Sizes on the ground that differ by a greater factor are worth a warning.
RATIO = 1.5
#: Where in its scene a tile is, at the end of its id.
_WINDOW = re.compile(r"_-?\d+_-?\d+$")
_LEAP_SECOND = re.compile(r"(?<=:\d\d):60(?=[.Z+-]|$)")


def id_of(record: Record) -> str:
    """Return a record's id as text, in the one form of `id_text`.

    Raises
    ------
    RecordError
        It has none, or one that is neither text nor a number.
    """
    found = record.get("id")
    text = id_text(found)
    if text is None:
        what = "has no id" if found is None else f"has an id that is neither text nor a number: {shown(found)}"
        raise RecordError(what, remedy="id")
    return text


def id_text(found: Any) -> str | None:
    """Return an id as text in the form of `one_form`, ``None`` if it is neither text nor a number."""
    if type(found) is str:
        return one_form(found)
    if isinstance(found, Exact):
        return one_form(found.text)
    if isinstance(found, float):
        return one_form(f"{Decimal(repr(found + 0.0)):f}")  # without an exponent, and 0 for -0
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else None


def one_form(text: str) -> str:
    """Return the text of an id, a whole number without decimals: 1, 1.0, 1e0, "1" and "1.0" are one id."""
    whole = _WHOLE.fullmatch(text) if ".0" in text else None
    text = whole[1] if whole else text
    return "0" if text == "-0" else text


def scene_of(record: Record) -> tuple[str | None, str]:
    """Return what identifies the scene of a tile: its collection, and its id without the place in the scene.

    The end of an id that is not the scene's is ``_`` and the ``grid:code``, or the column and row, ``_col_row``. A
    record whose id ends otherwise, such as an image that is one tile, is a scene of its own.
    """
    properties = record["properties"]
    name = id_of(record)
    scene = name.removesuffix(f"_{properties.get('grid:code')}")
    return properties.get("collection"), scene if scene != name else _WINDOW.sub("", name)


def is_tile(record: Record) -> bool:
    """Return whether a record states pixels."""
    return has_pixels(record) and _states(record, "window", "bands")


def has_pixels(record: Record) -> bool:
    """Return whether a record states where its pixels are, if not whole; text in all fields is a table's of others."""
    properties = record["properties"]
    return _states(record, "source") and any(isinstance(properties.get(name), list) for name in ("window", "bands"))


def is_hit(record: Record) -> bool:
    """Return whether a search wrote the record."""
    return _states(record, "query", "rank")


def _states(record: Record, *names: str) -> bool:
    """Return whether a record has all properties of these names; GDAL writes null for those that others have."""
    return all(record["properties"].get(name) is not None for name in names)


def bbox_of(record: Record) -> tuple[float, float, float, float] | None:
    """Return a record's bounding box as west, south, east, north in degrees; west > east across the antimeridian.

    A record without one, as GDAL writes it, has that of its geometry, if any. Longitudes beyond 180 degrees are turned
    back by whole turns.

    Raises
    ------
    RecordError
        It is neither four numbers nor, with heights, six; or is not one in degrees, west and south first (RFC 7946,
        section 5); or the geometry cannot be read.
    """
    box = record.get("bbox")
    if box is None:
        box = _envelope(record.get("geometry"))
    if box is None:
        return None
    if not isinstance(box, list) or len(box) not in (4, 6) or not _NUMBERS.issuperset(map(type, box)):
        raise RecordError(f"has a bbox that is neither four nor six numbers: {shown(box)}")
    half = len(box) // 2
    west, south, east, north = box[0], box[1], box[half], box[half + 1]
    on_earth = -90 - ROUNDING_DEGREES <= south <= north <= 90 + ROUNDING_DEGREES
    if not on_earth or min(west, east) < -360 or max(west, east) > 540:
        raise RecordError(f"has a bbox that is not west, south, east, north in degrees: {box!r}")
    if -180 <= west <= 180 and -180 <= east <= 180:
        return west, south, east, north
    if east - west >= 360:
        return -180, south, 180, north
    return _turned(west), south, _turned(east), north


def _envelope(geometry: Any) -> list[float] | None:
    """Return the box of a geometry; of parts on both sides of the antimeridian, which it cuts, west > east."""
    if geometry is None:
        return None
    try:
        parts = [_box_of(part) for part in _parts(geometry)]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise RecordError(f"has a geometry that cannot be read: {shown(geometry)}") from None
    if not parts:
        return None
    wests, souths, easts, norths = zip(*parts, strict=True)
    west, east = min(wests), max(easts)
    if (west, east) == (-180, 180) and not any(left < 0 < right for left, right in zip(wests, easts, strict=True)):
        west, east = min(left for left in wests if left >= 0), max(right for right in easts if right <= 0)
    return [west, min(souths), east, max(norths)]


def _box_of(positions: list[Any]) -> tuple[float, float, float, float]:
    """Return the box of at least one position."""
    longitudes, latitudes = ([float(position[axis]) for position in positions] for axis in (0, 1))
    return min(longitudes), min(latitudes), max(longitudes), max(latitudes)


def _parts(geometry: dict[str, Any]) -> Iterator[list[Any]]:
    """Yield the positions of each part of a geometry: of a point, a line, the outer ring of a polygon."""
    if geometry["type"] == "GeometryCollection":
        for each in geometry["geometries"]:
            yield from _parts(each)
        return
    several = geometry["type"].startswith("Multi")
    for part in geometry["coordinates"] if several else [geometry["coordinates"]]:
        match geometry["type"].removeprefix("Multi"):
            case "Point":
                positions = [part]
            case "LineString":
                positions = part
            case "Polygon":
                positions = part[0] if part else []
            case _:
                raise ValueError(geometry["type"])
        if positions and positions != [[]]:
            yield positions


def _turned(longitude: float) -> float:
    """Return a longitude between -180 and 180 degrees."""
    return longitude if -180 <= longitude <= 180 else (longitude + 180) % 360 - 180


def interval_of(record: Record) -> tuple[int, int]:
    """Return the first and last moment of a record, in microseconds since 1970 UTC; `NO_TIME` if unknown.

    They are ``datetime``, or if that is null ``start_datetime`` and ``end_datetime``, as in STAC.

    Raises
    ------
    RecordError
        The datetime is not text.
    """
    properties = record["properties"]
    when = properties.get("datetime")
    if when is not None:
        if not isinstance(when, str):
            raise RecordError(f"has a datetime that is not text: {shown(when)}")
        moment = microseconds(when)
        return moment, moment
    first, last = properties.get("start_datetime"), properties.get("end_datetime")
    if first is last is None:
        return NO_INTERVAL
    return (
        microseconds(first) if isinstance(first, str) else NO_TIME,
        microseconds(last) if isinstance(last, str) else NO_TIME,
    )


@lru_cache(maxsize=4096)
def microseconds(text: str) -> int:
    """Convert RFC 3339 to microseconds since 1970, a leap second as the one before; without an offset it is UTC.

    `NO_TIME` is returned for other texts.
    """
    try:
        moment = datetime.fromisoformat(_LEAP_SECOND.sub(":59", text.upper()))
    except ValueError:
        return NO_TIME
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    passed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def gsd_of(record: Record) -> float | None:
    """Return a record's ground sample distance in metres (STAC's ``gsd``), if it states one."""
    found = record["properties"].get("gsd")
    if found is None:
        return None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) and found > 0 else None


def extent_of(record: Record) -> float | None:
    """Return the side of a square as large as a record's tile on the ground, in metres, if it states gsd and shape."""
    gsd, shape = gsd_of(record), record["properties"].get("proj:shape")
    if gsd is None or not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int for side in shape):
        return None
    side = gsd * math.sqrt(math.prod(shape)) if min(shape) > 0 else 0
    return side if 0 < side < math.inf else None


def is_near(found: tuple[float, float], known: tuple[float, float]) -> bool:
    """Return whether the least and greatest of some sizes are within a factor of `RATIO` of others."""
    return known[0] / RATIO <= found[0] and found[1] <= known[1] * RATIO


def in_metres(least: float, greatest: float) -> str:
    """Return a range of sizes as text, with four digits that count."""
    low, high = (f"{float(f'{size:.4g}'):g}" for size in (least, greatest))
    return f"{low} m" if low == high else f"{low} to {high} m"


def label_list(record: Record, name: str = "labels") -> list[str] | None:
    """Return the property ``name``, a list of labels, or ``None`` if the record does not have it.

    Raises
    ------
    RecordError
        It is not a list of strings.
    """
    labels = record["properties"].get(name)
    if labels is None:
        return None
    if not isinstance(labels, list) or not _TEXT.issuperset(map(type, labels)):
        raise RecordError(f"its {name} must be a list of strings, and are {shown(labels)}", remedy="label-list")
    return labels
