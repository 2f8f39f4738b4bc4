"""Records as Arrow columns, and back.

A property is a column of the type that its values have. Where the columns of a row do not give its record back bit for
bit, as for a number among texts or a member of its own, the column ``rsr_record`` holds the record as JSON, and is
null elsewhere.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_cli.core.errors import RecordError, shown
from rsr_cli.core.records.exact import Exact, dumps, loads
from rsr_cli.core.records.facts import Facts, outward
from rsr_cli.core.records.fields import NO_TIME
from rsr_cli.core.records.geometry import boxes_of, boxes_of_rings, from_wkb, plain_rings, split_json, to_wkb
from rsr_cli.core.records.space import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Record

#: Members of a Feature in the order in which they are written, unless the first record has another one.
MEMBERS = ("type", "id", "geometry", "bbox", "properties")
#: Columns that are no properties.
RECORD = "rsr_record"
#: Columns that state the space of each row's vector.
SPACES = {kind: f"{kind}_space" for kind in KINDS}
#: The column that states the scale of each row's embedding of int8.
SCALE = "embedding_scale"
RESERVED = frozenset({"id", "geometry", "bbox", *KINDS, SCALE, *SPACES.values(), RECORD})
#: STAC's times, which become columns of times where their texts are all written as `_time_texts` writes them.
_TIMES = frozenset({"datetime", "start_datetime", "end_datetime", "created", "updated"})
_TIME = pa.timestamp("us", "UTC")
_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
SIDES = ("xmin", "ymin", "xmax", "ymax")
_BOX = pa.struct([(side, pa.float32()) for side in SIDES])
_UNFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class Layout:
    """The columns that records have in common.

    Attributes
    ----------
    types : dict of str to pyarrow.DataType
        The properties, in their order.
    id_type : pyarrow.DataType
        Of the ids.
    members : tuple of str
        The members of a Feature, in their order.
    nulls : frozenset of str
        The properties that are null where their column is; the others are absent then.
    """

    types: dict[str, pa.DataType]
    id_type: pa.DataType = field(default_factory=pa.string)
    members: tuple[str, ...] = MEMBERS
    nulls: frozenset[str] = frozenset()

    @classmethod
    def of_records(cls, records: Sequence[Record]) -> Layout:
        """Return a layout that fits records, as most that follow will be like them."""
        if not records:
            return cls({})
        names = _merged(record["properties"] for record in records)
        types, nulls = {}, set()
        for name in names:
            if name in RESERVED:
                continue
            values = [record["properties"].get(name) for record in records]
            found = _time_type(values) if name in _TIMES else None
            found = found or _type_of(values)
            if found is not None:
                types[name] = found
            stated = sum(name in record["properties"] for record in records)
            given = sum(value is not None for value in values)
            if stated - given > len(records) - stated:
                nulls.add(name)
        ids = {type(record.get("id")) for record in records}
        members = tuple(member for member in _merged(records) if member in MEMBERS)
        return cls(types, pa.int64() if ids == {int} else pa.string(), members, frozenset(nulls))

    @property
    def schema(self) -> pa.Schema:
        """The columns, without vectors."""
        return pa.schema(
            [
                ("id", self.id_type),
                *self.types.items(),
                ("geometry", pa.binary()),
                ("bbox", _BOX),
                (RECORD, pa.string()),
            ]
        )

    def columns_of(self, records: Sequence[Record]) -> pa.RecordBatch:
        """Return records, which have no vectors, as columns.

        Raises
        ------
        RecordError
            A record cannot be written as JSON.
        """
        columns = {"id": _array([record.get("id") for record in records], self.id_type)}
        for name, type_ in self.types.items():
            columns[name] = _array([record["properties"].get(name) for record in records], type_)
        columns["geometry"] = pa.array(to_wkb([record.get("geometry") for record in records]), pa.binary())
        columns["bbox"] = _box_array(boxes_of(columns["geometry"]))
        columns[RECORD] = pa.nulls(len(records), pa.string())
        batch = pa.RecordBatch.from_pydict(columns, self.schema)
        given = self.records_of(batch)
        if not _are_alike(given, records):
            texts = [
                None if _are_alike(one, record) else dumps(record).decode()
                for one, record in zip(given, records, strict=True)
            ]
            columns[RECORD] = pa.array(texts, pa.string())
            batch = pa.RecordBatch.from_pydict(columns, self.schema)
        return batch

    def records_of(self, batch: pa.RecordBatch) -> list[Record]:
        """Return the rows of columns as records, without vectors.

        Raises
        ------
        RecordError
            A geometry is not WKB, or the column ``rsr_record`` holds no Feature.
        """
        n = batch.num_rows
        members: dict[str, Iterable[Any]] = {
            "type": repeat("Feature", n),
            "id": _values(batch["id"]) if "id" in batch.schema.names else repeat(None, n),
            "geometry": repeat(None, n),
            "bbox": repeat(None, n),
            "properties": self._properties(batch),
        }
        if "geometry" in batch.schema.names:
            members["geometry"], boxes = from_wkb(batch["geometry"])
            members["bbox"] = [None if box[0] != box[0] else box for box in boxes.tolist()]
        records = [
            dict(zip(self.members, row, strict=True))
            for row in zip(*(members[member] for member in self.members), strict=True)
        ]
        for record in records:
            for member in ("id", "bbox"):
                if record.get(member, member) is None:
                    del record[member]
        if RECORD in batch.schema.names:
            for i, text in enumerate(batch[RECORD].to_pylist()):
                if text is not None:
                    records[i] = self._edited(_feature(text), batch.slice(i, 1))
        return records

    def _properties(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """Return the properties of the rows of columns."""
        columns = {name: batch[name] for name in self.types}
        lists = [_values(column) for column in columns.values()]
        if not lists:
            return [{} for _ in range(batch.num_rows)]
        if any(column.null_count and name not in self.nulls for name, column in columns.items()):
            keep = self.nulls
            return [
                {name: value for name, value in zip(columns, row, strict=True) if value is not None or name in keep}
                for row in zip(*lists, strict=True)
            ]
        names = tuple(columns)
        return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]

    def _edited(self, record: Record, row: pa.RecordBatch) -> Record:
        """Return the record of the column ``rsr_record`` with what its other columns state now, which may be edited."""
        properties = record["properties"]
        if "id" in row.schema.names:
            found = _values(row["id"])
            if found != _values(_array([record.get("id")], self.id_type)):
                record["id"] = found[0]
        if "geometry" in row.schema.names:
            stated = pa.array(to_wkb([record.get("geometry")]), pa.binary())
            if not row["geometry"].equals(stated):
                (record["geometry"],), boxes = from_wkb(row["geometry"])
                record["bbox"] = boxes[0].tolist()
        for name, type_ in self.types.items():
            found = _values(row[name])
            if found != _values(_array([properties.get(name)], type_)):
                properties[name] = found[0]
        return record


@dataclass(frozen=True)
class Columns:
    """Rows of a table that are records.

    Attributes
    ----------
    layout : Layout
        Their columns.
    rows : pyarrow.RecordBatch
        The rows, which may have more columns, such as vectors.
    give_vectors : callable, optional
        Writes the vectors of rows into their records.
    candidates : tuple of tuple
        The columns that may hold vectors, where that is not known: name, dimensions and type of number.
    """

    layout: Layout
    rows: pa.RecordBatch
    give_vectors: Callable[[list[Record], pa.RecordBatch], None] | None = None
    candidates: tuple[tuple[str, int, str], ...] = ()

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def records(self) -> list[Record]:
        """Return the records."""
        records = self.layout.records_of(self.rows)
        if self.give_vectors:
            self.give_vectors(records, self.rows)
        return records

    def spaces(self) -> dict[tuple[str, str], int]:
        """Return how many records have a vector of a kind, and what is known of its space, as JSON."""
        found: dict[tuple[str, str], int] = {}
        for kind, space in SPACES.items():
            if kind not in self.rows.schema.names:
                continue
            there = self.rows[kind].is_valid()
            stated = self.rows[space] if space in self.rows.schema.names else pa.nulls(len(self), pa.string())
            counts = {each["values"]: each["counts"] for each in stated.filter(there).value_counts().to_pylist()}
            found |= {(kind, text): count for text, count in counts.items() if text}
            if None in counts:
                for text, count in _shapes(self.rows[kind].filter(pc.and_(there, stated.is_null()))).items():
                    found[kind, text] = count
        return found

    def texts(self, without: Collection[str] = ()) -> list[str] | None:
        """Return the records as JSON, their properties last, and without some of these.

        Returns
        -------
        list of str or None
            None if a record has to be made for each, as the columns do not give it back, or not in this order.
        """
        layout, there = self.layout, self.rows.schema.names
        if layout.members != tuple(member for member in MEMBERS if member in layout.members) or self._has_others:
            return None
        text = Text('{"type":"Feature"')
        if "id" in layout.members and "id" in there:
            if self.rows["id"].null_count:
                return None
            text.add_column(',"id":', self.rows["id"])
        if "geometry" not in there:
            text.add(',"geometry":null')
        elif self._rings is not None:
            text.add(',"geometry":{"type":"Polygon","coordinates":[[[', split_json(self._rings), "]]]}")
            if "bbox" in layout.members:
                text.add(',"bbox":[', split_json(self._boxes), "]")
        else:
            geometries, boxes = from_wkb(self.rows["geometry"])
            text.add(',"geometry":', [dumps(geometry).decode() for geometry in geometries])
            if "bbox" in layout.members:
                text.add("", ["" if box[0] != box[0] else f',"bbox":{dumps(box).decode()}' for box in boxes.tolist()])
        text.add(',"properties":{')
        for i, name in enumerate(name for name in layout.types if name not in without):
            column, key = self.rows[name], f"{',' * (i > 0)}{dumps(name).decode()}:"
            if not column.null_count or name in layout.nulls:
                text.add_column(key, column)
            elif i == 0:  # the next one would begin with a comma
                return None
            elif column.null_count < len(self):
                text.add("", ["" if value is None else f"{key}{dumps(value).decode()}" for value in _values(column)])
        text.add("}}")
        return text.lines(len(self))

    @property
    def _has_others(self) -> bool:
        """Whether the columns do not give every record back."""
        return RECORD in self.rows.schema.names and self.rows[RECORD].null_count < len(self)

    @cached_property
    def _rings(self) -> NDArray[np.float64] | None:
        """The footprints' points, see `geometry.plain_rings`."""
        return plain_rings(self.rows["geometry"])

    @cached_property
    def _boxes(self) -> NDArray[np.float64]:
        """The footprints' boxes: float64 (n, 4), NaN without one."""
        if "geometry" not in self.rows.schema.names:
            return np.full((len(self), 4), np.nan)
        return from_wkb(self.rows["geometry"])[1] if self._rings is None else boxes_of_rings(self._rings)

    def facts(self) -> Facts | None:
        """Return what an index keeps of the records, None if they have to be read one by one."""
        n = len(self)
        there = {name: self.rows[name] for name in (*self.layout.types, "id") if name in self.rows.schema.names}
        if "id" not in there or there["id"].null_count or self._has_others:
            return None
        if not (pa.types.is_string(there["id"].type) or pa.types.is_integer(there["id"].type)):
            return None
        ids = there["id"].cast(pa.string())
        if pc.any(pc.or_(pc.match_substring(ids, ".0"), pc.starts_with(ids, "-0"))).as_py():  # see `fields.one_form`
            return None
        boxes = self._boxes
        around = (boxes[:, 0] == -180) & (boxes[:, 2] == 180)  # may be cut at the antimeridian
        if around.any() or (np.abs(boxes) > (180, 90, 180, 90)).any():
            return None
        times = np.full((n, 2), NO_TIME)
        if "datetime" in there and there["datetime"].null_count < n:
            if there["datetime"].type != _TIME or there["datetime"].null_count:
                return None
            times[:] = as_numpy(there["datetime"].cast(pa.int64()))[:, None]
        elif {"start_datetime", "end_datetime"} & there.keys():
            return None
        labels: Sequence[Sequence[str]] = [()] * n
        if "labels" in there:
            if not is_list(there["labels"].type) or not pa.types.is_string(there["labels"].type.value_type):
                return None
            if there["labels"].flatten().null_count:
                return None
            labels = [each or () for each in _values(there["labels"])]
        gsds = np.full(n, np.nan)
        if "gsd" in there:
            if not pa.types.is_floating(there["gsd"].type):
                return None
            gsds = np.array(as_numpy(there["gsd"]), np.float64)
            gsds[~((gsds > 0) & np.isfinite(gsds))] = np.nan
        extents = np.full(n, np.nan)
        if "proj:shape" in there:
            shapes = there["proj:shape"]
            if not is_list(shapes.type) or not pa.types.is_integer(shapes.type.value_type) or shapes.null_count:
                return None
            if (as_numpy(shapes.value_lengths()) != 2).any() or shapes.flatten().null_count:
                return None
            sides = as_numpy(shapes.flatten()).reshape(n, 2).astype(np.float64)
            extents = np.where(sides.min(axis=1) > 0, gsds * np.sqrt(sides.prod(axis=1)), np.nan)
        return Facts(ids.to_pylist(), boxes, times, labels, gsds, extents)

    def for_table(self) -> pa.RecordBatch:
        """Return the columns of the layout's schema, and no others."""
        schema, there = self.layout.schema, self.rows.schema.names
        columns = {name: self.rows[name] for name in schema.names if name in there}
        if "geometry" not in columns:
            columns["geometry"] = pa.nulls(len(self), pa.binary())
        if "bbox" not in columns or columns["bbox"].type != _BOX:
            columns["bbox"] = _box_array(boxes_of(columns["geometry"]))
        for name in ("id", RECORD):
            columns.setdefault(name, pa.nulls(len(self), schema.field(name).type))
        return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)

    def take(self, chosen: Sequence[int]) -> Columns:
        """Return the chosen ones."""
        return replace(self, rows=self.rows.take(as_column(np.asarray(chosen, np.int64))))


def _feature(text: str) -> Record:
    """Return the record that the column ``rsr_record`` holds; raise RecordError if it is none."""
    found = loads(text.encode())
    if not isinstance(found, dict) or not isinstance(found.get("properties"), dict):
        raise RecordError(f"the column {RECORD} holds no Feature: {shown(found)}")
    return found


def as_numpy(column: pa.Array) -> NDArray[Any]:
    """Return a column as numpy has it, NaN or NaT for null; mostly without pandas, which pyarrow imports first."""
    type_ = column.type
    if column.null_count == 0 and pa.types.is_timestamp(type_):
        return np.from_dlpack(column.view(pa.int64())).view(f"M8[{type_.unit}]")
    if column.null_count == 0 and (pa.types.is_integer(type_) or pa.types.is_floating(type_)):
        return np.from_dlpack(column)
    return column.to_numpy(zero_copy_only=False)


def as_column(numbers: NDArray[Any]) -> pa.Array:
    """Return numbers (n,) as a column, without importing pandas."""
    buffer = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, buffer])


def constant(text: str | None, n: int) -> pa.Array:
    """Return a column of a text, or null, that all n rows have."""
    if text is None:
        return pa.nulls(n, pa.dictionary(pa.int32(), pa.string()))
    data = text.encode()
    texts = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, len(data)], np.int32)), pa.py_buffer(data))
    return pa.DictionaryArray.from_arrays(as_column(np.zeros(n, np.int32)), texts)


def _shapes(vectors: pa.Array) -> dict[str, int]:
    """Return how many vectors have which dimensions and type of number, as JSON."""
    if not is_list(vectors.type):
        return {"{}": len(vectors)}
    while is_list(vectors.type.value_type) and len(vectors.flatten()) == len(vectors):
        vectors = vectors.flatten()
    dtype = np.dtype(vectors.type.value_type.to_pandas_dtype()).name
    sizes = vectors.value_lengths().value_counts().to_pylist()
    return {dumps({"dim": each["values"], "dtype": dtype}).decode(): each["counts"] for each in sizes}


def are_valid(column: pa.Array) -> NDArray[np.bool_]:
    """Return which values of a column are not null: bool (n,)."""
    return as_numpy(column.is_valid()) if column.null_count else np.ones(len(column), bool)


def is_list(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type are lists."""
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def is_bytes(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type are bytes."""
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_))


def is_property(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type can be properties of a record."""
    if is_list(type_):
        return is_property(type_.value_type)
    if pa.types.is_struct(type_):
        return all(is_property(each.type) for each in type_)
    if pa.types.is_dictionary(type_):
        return is_property(type_.value_type)
    return any(
        check(type_)
        for check in (
            *(pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer),
            *(pa.types.is_floating, pa.types.is_decimal, pa.types.is_timestamp, pa.types.is_date, pa.types.is_null),
        )
    )


def _are_alike(one: Any, other: Any) -> bool:
    """Return whether two values are the same JSON, byte by byte."""
    try:
        return dumps(one) == dumps(other)
    except RecordError:  # too deep, or only as a list of records
        return False


class Text:
    """Lines that are alike but for some pieces."""

    def __init__(self, start: str) -> None:
        self._pattern = [start.replace("%", "%%")]
        self._pieces: list[list[str]] = []

    def add(self, before: str, piece: str | list[str] = "", after: str = "") -> None:
        """Append text that all lines have, with a piece that all or each has."""
        if isinstance(piece, list):
            self._pieces.append(piece)
            self._pattern += [before.replace("%", "%%"), "%s", after.replace("%", "%%")]
        else:
            self._pattern.append(f"{before}{piece}{after}".replace("%", "%%"))

    def add_column(self, before: str, column: pa.Array) -> None:
        """Append text that all lines have, and the values of a column as JSON."""
        if _is_constant(column):
            self.add(before, dumps(_values(column.slice(0, 1))[0]).decode())
        elif (rows := _matrix_of(column)) is not None:
            self.add(f"{before}[", split_json(rows), "]")
        elif pa.types.is_string(column.type) and (texts := _split_texts(column)):
            self.add(f'{before}"', texts, '"')
        else:
            self.add(before, _json(column))

    def lines(self, n: int) -> list[str]:
        """Return the n lines."""
        pattern = "".join(self._pattern)
        return [pattern % pieces for pieces in zip(*self._pieces, strict=True)] if self._pieces else [pattern % ()] * n


def _json(column: pa.Array) -> list[str]:
    """Return the values of a column as JSON."""
    if (rows := _matrix_of(column)) is not None:
        return [f"[{row}]" for row in split_json(rows)]
    if is_list(column.type) and not column.null_count:
        flat, lengths = column.flatten(), as_numpy(column.value_lengths())
        if len(flat) and np.ptp(lengths) == 0:
            return [f"[{','.join(row)}]" for row in zip(*[iter(_json(flat))] * int(lengths[0]), strict=True)]
    values = _values(column)
    if pa.types.is_primitive(column.type) and not pa.types.is_temporal(column.type):
        return dumps(values)[1:-1].decode().split(",")
    if pa.types.is_string(column.type) and (texts := _split_texts(column)):
        return [f'"{text}"' for text in texts]
    return [dumps(value).decode() for value in values]


def _matrix_of(column: pa.Array) -> NDArray[Any] | None:
    """Return a column of lists of as many numbers each as int64 or float64 (n, size), None for any other."""
    if not is_list(column.type) or column.null_count or not _is_number(column.type.value_type):
        return None
    flat, lengths = column.flatten(), as_numpy(column.value_lengths())
    if not len(flat) or flat.null_count or np.ptp(lengths):
        return None
    return as_numpy(flat).reshape(len(column), -1)


def _split_texts(column: pa.Array) -> list[str] | None:
    """Return texts as JSON without their quotes, None if one is missing or contains what is between two of them."""
    if column.null_count:
        return None
    texts = dumps(column.to_pylist())[2:-2].decode().split('","')
    return texts if len(texts) == len(column) else None


def _is_number(type_: pa.DataType) -> bool:
    """Return whether numpy holds values of an Arrow type as Python does, in 8 bytes."""
    return bool(pa.types.is_int64(type_) or pa.types.is_float64(type_))


def _is_constant(column: pa.Array) -> bool:
    """Return whether all values of a column are seen to be the same; 0.0 and -0.0 are not."""
    if len(column) == 1:
        return True
    if column.null_count or not len(column):
        return False
    if is_list(column.type):
        flat, lengths = column.flatten(), as_numpy(column.value_lengths())
        if np.ptp(lengths) or not lengths[0]:
            return False
        if pa.types.is_integer(flat.type) and not flat.null_count:
            return bool(np.ptp(as_numpy(flat).reshape(len(column), -1), axis=0).max() == 0)
        return all(_is_constant(flat.take(as_column(np.arange(i, len(flat), lengths[0])))) for i in range(lengths[0]))
    if not (pa.types.is_primitive(column.type) or pa.types.is_string(column.type)):
        return False
    if pa.types.is_floating(column.type) and column[0].as_py() == 0:
        return False
    return bool(pc.all(pc.equal(column, column[0])).as_py())


def _merged(dicts: Iterable[dict[str, Any]]) -> list[str]:
    """Return the keys of dicts in an order that all share, if there is one."""
    merged: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for keys in map(tuple, dicts):
        if keys in seen:
            continue
        seen.add(keys)
        at = 0
        for key in keys:
            if key in merged:
                at = merged.index(key) + 1
            else:
                merged.insert(at, key)
                at += 1
    return merged


def _type_of(values: Iterable[Any]) -> pa.DataType | None:
    """Return the type of a column that holds values exactly, None if there is none."""
    given = [value for value in values if value is not None]
    kinds = set(map(type, given))
    if not kinds:
        return pa.string()
    if kinds == {int, float}:
        return pa.float64()
    if len(kinds) > 1:
        return None
    kind = kinds.pop()
    if kind is list:
        inner = _type_of(chain.from_iterable(given))
        return pa.list_(inner) if inner is not None else None
    if kind is dict:
        fields = {name: _type_of(one.get(name) for one in given) for name in _merged(given)}
        return pa.struct(list(fields.items())) if fields and None not in fields.values() else None
    return _SCALARS.get(kind)


def _time_type(values: Sequence[Any]) -> pa.DataType | None:
    """Return the type of times, if all values are written as `_time_texts` writes them."""
    given = [value for value in values if value is not None]
    column = _array(given, _TIME)
    return _TIME if not given or (column.null_count == 0 and _time_texts(column) == given) else None


def _array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    """Return a column of values, null for those that its type does not hold."""
    with contextlib.suppress(*_UNFIT):
        return _strict_array(values, type_)
    column = []
    for value in values:
        try:
            column.append(_strict_array([value], type_)[0])
        except _UNFIT:
            column.append(None)
    return pa.array([None if value is None else value.as_py() for value in column], type_)


def _strict_array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    if type_ == _TIME:
        return pa.array(values, pa.string()).cast(_TIME)
    return pa.array(values, type_)


def _values(column: pa.Array) -> list[Any]:
    """Return a column as values of JSON."""
    type_ = column.type
    if pa.types.is_dictionary(type_):
        names = _values(column.dictionary)
        return [None if i is None else names[i] for i in column.indices.to_pylist()]
    if pa.types.is_timestamp(type_):
        return _time_texts(column)
    if pa.types.is_date(type_):
        texts = np.datetime_as_string(as_numpy(column.cast(pa.date32(), safe=False))).tolist()
        return [None if text == "NaT" else text for text in texts]  # also of years that Python's dates do not have
    if is_list(type_):
        return _lists(column)
    if pa.types.is_struct(type_):
        names = [each.name for each in type_]
        lists = [_values(each) for each in column.flatten()]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
        return _masked(rows, column)
    if pa.types.is_floating(type_):
        numbers = as_numpy(column)  # NaN for null, and what others write for it
        values: list[Any] = numbers.tolist()
        if not np.isfinite(numbers).all():
            values = [value if math.isfinite(value) else None for value in values]
        return values
    if pa.types.is_decimal(type_):
        return [None if value is None else _number(value) for value in column.to_pylist()]
    return column.to_pylist()


def _number(value: Decimal) -> float | int:
    """Return a decimal as a number of JSON that keeps its value."""
    if value == value.to_integral_value() and -(1 << 63) <= value < 1 << 64:
        return int(value)
    number = float(value)
    return number if Decimal(repr(number)) == value else Exact(f"{value:f}")


def _lists(column: pa.Array) -> list[Any]:
    flat = _values(column.flatten())
    lengths = column.value_lengths()
    if flat and not column.null_count and np.ptp(as_numpy(lengths)) == 0:
        return list(map(list, zip(*[iter(flat)] * (len(flat) // len(column)), strict=True)))
    rows, start = [], 0
    for length in lengths.to_pylist():
        rows.append(None if length is None else flat[start : start + length])
        start += length or 0
    return rows


def _masked(rows: list[Any], column: pa.Array) -> list[Any]:
    """Return rows, None where the column is null."""
    return [row if valid else None for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)]


def _time_texts(column: pa.Array) -> list[str | None]:
    """Return times as RFC 3339 writes them in UTC, with as few digits of 0, 3 and 6 as they need."""
    moments = as_numpy(column.cast(pa.timestamp("us", column.type.tz), safe=False))
    texts = np.datetime_as_string(moments, "us").tolist()
    return [None if text == "NaT" else _shortened(text) for text in texts]


def _shortened(text: str) -> str:
    """Return a time of microseconds with as few digits as it needs."""
    return f"{text[:-7] if text.endswith('.000000') else text.removesuffix('000')}Z"


def _box_array(boxes: NDArray[np.float64]) -> pa.Array:
    """Return boxes (n, 4) as a column of float32, rounded outward; null where they are NaN."""
    none = np.isnan(boxes[:, 0])
    sides = [as_column(side) for side in outward(boxes).T]
    return pa.StructArray.from_arrays(sides, fields=list(_BOX), mask=pa.array(none) if none.any() else None)
