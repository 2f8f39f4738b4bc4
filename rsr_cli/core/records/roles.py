"""Which column of a table that others made is what."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from rsr_cli.core.errors import UsageError
from rsr_cli.core.records.arrow import RESERVED, is_list, is_property
from rsr_cli.core.sensors.base import NUMBERED, span

if TYPE_CHECKING:
    from collections.abc import Collection

    from rsr_cli.core.records.tables import TableSettings

#: Columns of vectors and of ids in published tables: Clay, Earth Index, Major TOM, terratorch, Earth Engine's exports,
#: and plain ones.
VECTORS = ("embedding", "embeddings")
IDS = ("id", "chips_id", "tile_id", "unique_id", "file_id", "system:index")
#: Columns of times, by which `datetime` is stated where no column has that name.
TIMES = ("timestamp", "time", "date")
#: The columns of a dimension each that AlphaEarth's embeddings have.
_ALPHA_EARTH = "A00..A63"
#: Most names of columns in a message.
_SHOWN = 12


@dataclass(frozen=True)
class Roles:
    """Which column of a table is what.

    Attributes
    ----------
    vectors : tuple of str
        The column of vectors, or the columns of a dimension each; none if there are none, or if several may be meant.
    meant : tuple of str
        The columns of vectors, if several may be meant, the first and last one of those of a dimension each.
    id, geometry, time : str or None
        The columns, as far as there are any.
    properties : dict of str to pyarrow.DataType
        The others that records can hold.
    left_out : tuple of str
        Those that they cannot.
    doubts : tuple of str
        What is odd about columns whose names are known and whose types are others.
    """

    vectors: tuple[str, ...]
    meant: tuple[str, ...]
    id: str | None
    geometry: str | None
    time: str | None
    properties: dict[str, pa.DataType] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @classmethod
    def of_schema(cls, schema: pa.Schema, geometry: str | None, settings: TableSettings, path: str) -> Roles:
        """Find them by their known names, or by those that the user states.

        Raises
        ------
        UsageError
            The user names a column that is not there, or that holds no vectors or ids.
        """
        types = {column.name: column.type for column in schema}
        found = _vectors(types, settings.vector_column, path)
        vectors = found[0] if len(found) == 1 else ()
        meant = tuple(each[0] if len(each) == 1 else f"{each[0]}..{each[-1]}" for each in found if not vectors)
        known = next((name for name in IDS if name in types and is_id(types[name])), None)
        ident = settings.id_column or known
        if settings.id_column:
            _require(settings.id_column, types, path)
            if not is_id(types[settings.id_column]):
                raise UsageError(unfit(settings.id_column, types[settings.id_column], "ids"), path)
        if settings.makes_ids:
            ident = None
        taken = {*vectors, ident, geometry} | ({"id"} if settings.makes_ids else set())
        if geometry and "bbox" in types and pa.types.is_struct(types["bbox"]):  # a record has that of its geometry
            taken.add("bbox")
        others = {name: type_ for name, type_ in types.items() if name not in taken}
        doubts = {}
        for name, fits, what, helps in _STATED:
            if name in others and not fits(others[name]):
                doubts[name] = f"{unfit(name, others.pop(name), what)}, so it is left out; {helps}rename it to keep it"
        left_out = [name for name, type_ in others.items() if name in RESERVED or not is_property(type_)]
        kept = {name: type_ for name, type_ in others.items() if name not in left_out}
        time = None if "datetime" in types else next((name for name in TIMES if name in kept), None)
        if time and not _is_time(kept[time]):
            doubts[time] = f"{unfit(time, kept[time], 'times')}, so no datetime is stated"
            time = None
        return cls(vectors, meant, ident, geometry, time, kept, tuple(left_out), tuple(doubts.values()))

    @property
    def has_candidate_ids(self) -> bool:
        """Whether a property may be ids: texts or whole numbers."""
        return any(is_text(type_) or pa.types.is_integer(type_) for type_ in self.properties.values())


def unfit(name: str, type_: pa.DataType, what: str) -> str:
    """Return what is wrong with a column of another type than it should be."""
    return f"its column {name} is of type {type_} and holds no {what}"


def _is_labels(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type are lists of strings, or all null."""
    return bool(
        pa.types.is_null(type_)
        or (is_list(type_) and (pa.types.is_null(type_.value_type) or is_text(type_.value_type)))
    )


def _is_time(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type are times, dates or texts that may state them, or all null."""
    checks = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_null, is_text)
    return any(check(type_) for check in checks)


def is_text(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type are texts."""
    if pa.types.is_dictionary(type_):
        return is_text(type_.value_type)
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


#: Columns of a known name: what their type has to fit, what they hold then, and what helps besides another name.
_STATED = (
    ("labels", _is_labels, "lists of strings", "write a list per row in Parquet, or "),
    ("datetime", _is_time, "times", ""),
)


def is_vector(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type are lists of numbers, or lists of such."""
    inner = type_
    while is_list(inner):
        inner = inner.value_type
    return inner is not type_ and (pa.types.is_floating(inner) or inner == pa.int8())


def is_id(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type are texts or numbers, or all null."""
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating)
    return any(check(type_) for check in (*checks, pa.types.is_decimal, pa.types.is_dictionary, pa.types.is_null))


def is_number(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type are numbers."""
    return bool(pa.types.is_floating(type_) or pa.types.is_integer(type_))


def numbered(names: Collection[str], column: str | None) -> tuple[str, ...]:
    """Return the columns of a dimension each.

    Parameters
    ----------
    names : collection of str
        All columns.
    column : str, optional
        What the user states: the first and the last one, as in ``A00..A63``. Without it, the columns of a product that
        has no others like them: all of AlphaEarth's, or those of a table of ``id`` and ``1`` to the last (terratorch).

    Returns
    -------
    tuple of str
        They need not be there if the user states them; none if a column has the name that is stated.
    """
    if column is not None:
        return () if column in names else columns_of(column)
    if set(columns_of(_ALPHA_EARTH)) <= set(names):
        return columns_of(_ALPHA_EARTH)
    counted = columns_of(f"1..{len(names) - 1}") if len(names) > 2 else ()
    return counted if counted and set(names) == {"id", *counted} else ()


def candidates(schema: pa.Schema) -> list[str]:
    """Return what may be a table's vectors: columns of lists, and the first and last of columns of numbers in a row."""
    numbers = [column.name for column in schema if is_number(column.type)]
    split = {name: match.groups() for name in numbers if (match := NUMBERED.fullmatch(name))}
    found = [column.name for column in schema if is_vector(column.type)]
    ordered = sorted(split, key=lambda name: (split[name][0], int(split[name][1])))
    for _, run in groupby(enumerate(ordered), lambda each: (split[each[1]][0], int(split[each[1]][1]) - each[0])):
        names = [name for _, name in run]
        if len(names) > 2 and columns_of(f"{names[0]}..{names[-1]}") == tuple(names):
            found.append(f"{names[0]}..{names[-1]}")
    return found


def _vectors(types: dict[str, pa.DataType], column: str | None, path: str) -> list[tuple[str, ...]]:
    """Return the columns that may be meant: each one of vectors, or several of a dimension each."""
    several = numbered(types, column)
    if column is None:
        found: list[tuple[str, ...]] = [(name,) for name in VECTORS if name in types and is_vector(types[name])]
        found += [several] if several and all(pa.types.is_floating(types[name]) for name in several) else []
        return found
    chosen = several or (column,)
    for name in chosen:
        _require(name, types, path)
        if not (is_number if several else is_vector)(types[name]):
            what = "numbers" if several else "vectors"
            raise UsageError(unfit(name, types[name], what), path, remedy=None if several else "vector-lists")
    return [chosen]


def columns_of(text: str) -> tuple[str, ...]:
    """Return the columns of a run such as ``A00..A63``, none if the text states no run of two or more."""
    names = span(text)
    return names if len(names) > 1 else ()


def _require(name: str, types: dict[str, pa.DataType], path: str) -> None:
    if name not in types:
        more = f" and {len(types) - _SHOWN} more" if len(types) > _SHOWN else ""
        raise UsageError(f"has no column {name}; its columns are {', '.join([*types][:_SHOWN])}{more}", path)
