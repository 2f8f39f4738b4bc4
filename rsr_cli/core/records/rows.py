"""Rows of tables as records: what Parquet, CSV and numpy files share.

A file of ours states the vector space of each row in the columns ``embedding_space`` and ``code_space``; which column
of others' files is what, `roles` says.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import numpy as np
import orjson
import pyarrow as pa

from rsr_cli.core.errors import RecordError, RsrError, Skips, UsageError, counted, shown
from rsr_cli.core.records.arrow import (
    MEMBERS,
    RECORD,
    RESERVED,
    SCALE,
    SPACES,
    Columns,
    Layout,
    are_valid,
    as_column,
    as_numpy,
    constant,
    is_bytes,
    is_list,
    is_property,
)
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.exact import object_in
from rsr_cli.core.records.geometry import boxes_of, from_wkt, is_lonlat, is_projected, to_lonlat
from rsr_cli.core.records.jsonl import give_vectors, no_vector
from rsr_cli.core.records.roles import IDS, VECTORS, Roles, candidates, columns_of, is_number, is_text, unfit
from rsr_cli.core.records.scaled import widened
from rsr_cli.core.records.space import KINDS, Space
from rsr_cli.core.records.tables import declared_space, dequantized, model_of, quantization_in
from rsr_cli.core.times import parse_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Record
    from rsr_cli.core.records.space import Kind, StreamSpace
    from rsr_cli.core.records.tables import TableSettings

log = logging.getLogger("rsr")

#: Most rows and bytes of vectors that are read at once.
READ_ROWS, READ_BYTES = 8192, 4 << 20
FOOTER = "rsr"
#: Columns of the centre's longitude and latitude in published tables.
_CENTRES = (("centroid_lon", "centroid_lat"), ("centre_lon", "centre_lat"), ("lon", "lat"))


class Source(Protocol):
    """An open file of rows."""

    @property
    def path(self) -> str:
        """Its name."""

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""

    @property
    def metadata(self) -> Mapping[bytes, bytes]:
        """What its footer states."""

    @property
    def n_rows(self) -> int:
        """How many rows it has."""

    def batches(self, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read some columns, at most so many rows at once."""


def read_rows(source: Source, stream: StreamSpace | None, skips: Skips, settings: TableSettings) -> Iterator[Batch]:
    """Read the rows of a file as `streams.read` does; a row's line is its number, from 1."""
    table = Table(source, settings)
    give, candidates = (None, ()) if stream else (_leave_vectors, table.candidates)
    line = 1
    for columns in _ahead(table.read(skips)):
        rows = Columns(table.layout, columns, give, candidates)
        batch = Batch(source.path, range(line, line + columns.num_rows), rows)
        batch.size = round(columns.num_rows * table.row_bytes)
        line += columns.num_rows
        if stream:
            _take_vectors(batch, columns, stream, skips)
        if len(batch):
            yield batch


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches, each of which was read while the one before it was in use."""
    with ThreadPoolExecutor(1, "rows") as thread:
        reading = thread.submit(next, batches, None)
        while (batch := reading.result()) is not None:
            reading = thread.submit(next, batches, None)
            yield batch


def files_without_ids(
    tables: Sequence[tuple[str, ModuleType, TableSettings]], skips: Skips, *, with_vectors: bool, may_make: bool
) -> set[str]:
    """Return the files of others whose rows need ids; log why, and what is odd about their columns.

    They have no column of ids, or ids that are missing or repeat, in the file or between it and another one: parts of
    one table often count their rows from 0 each.

    Parameters
    ----------
    tables : sequence of tuple
        Path, codec and settings of all tables that are read together.
    skips : Skips
        Told what is odd.
    with_vectors : bool
        Whether vectors are read.
    may_make : bool
        Ids may be made in place of those that another file has too, so that they depend on what is read together.

    Raises
    ------
    RsrError
        Then they may not.
    UsageError
        Vectors are read, and the columns of vectors have none of the known names or several, or the ids of two files
        would be the same.
    """
    stems: dict[str, str] = {}
    hashes: dict[str, NDArray[np.int64]] = {}
    none: dict[tuple[str, str | None], list[str]] = {}
    used, unused = set(), set()  # of the columns that are named id
    left_out: dict[tuple[str, ...], list[str]] = {}
    doubts: dict[tuple[str, str | None], list[str]] = {}
    for path, codec, settings in tables:
        with codec.opened(path, settings) as source:
            table = Table(source, settings)
            if table.is_ours:
                left_out.setdefault(table.roles.left_out, []).append(path)
                continue
            if with_vectors:
                table.refuse_unnamed_vectors()
            roles, odd = table.roles, table.unfit_vectors
            stems[path] = table.stem
            apart = ("id",) if roles.vectors else ("id", *VECTORS)  # which nobody asks for
            left_out.setdefault(tuple(name for name in roles.left_out if name not in apart), []).append(path)
            for what in (*roles.doubts, *filter(None, [odd])):
                doubts.setdefault((what, "vector-lists" if what == odd else None), []).append(path)
            if "id" in roles.left_out:
                unused.add(path)
            if roles.id is None:
                why = table.no_ids if with_vectors or roles.properties else ""
                none.setdefault((why, "id-column" if roles.has_candidate_ids else None), []).append(path)
            else:
                columns = [_hashes(batch[0]) for batch in source.batches(READ_ROWS, [roles.id])]
                hashes[path] = np.concatenate([*columns, np.empty(0, np.int64)])
                if roles.id == "id":  # those of another column become a property
                    used.add(path)
    repeat = _that_repeat(hashes)
    if not may_make and (between := [path for path in repeat if not _that_repeat({path: hashes[path]})]):
        raise RsrError("has ids that another file has too", between[0], remedy="id-column")
    named: dict[str, str] = {}
    without = dict.fromkeys([*chain.from_iterable(none.values()), *repeat])
    for path in without:
        first = named.setdefault(stems[path], path)
        if first != path:
            raise UsageError(f"has the name of {first}, and ids would be made of it", path, remedy="above")
    made = "ids are made of the file's name and the row's number"
    for (why, remedy), paths in none.items():
        if why:
            _warn(skips, paths, f"{why}; {made}", remedy)
    _warn(skips, repeat, f"ids are missing or repeat; {made}")
    apart_from = [path for path in stems if path in unused or (path in used and path in repeat)]
    _warn(skips, apart_from, "left out, as a record has one id: id; rename that column to keep it")
    for names, paths in left_out.items():
        _warn(skips, paths if names else [], f"left out, as records do not hold them: {', '.join(names)}")
    for (what, remedy), paths in doubts.items():
        _warn(skips, paths, what, remedy)
    return {*without}


def _warn(skips: Skips, paths: Sequence[str], what: str, remedy: str | None = None) -> None:
    """Warn of what holds for files, if there are any."""
    if paths:
        others = f" and {counted(len(paths) - 1, 'other file')}" if len(paths) > 1 else ""
        skips.warn(RecordError(what, f"{paths[0]}{others}", remedy=remedy))


def _hashes(column: pa.Array) -> NDArray[np.int64]:
    """Return the hash of each id, int64 (n,), 0 for null."""
    return np.array([0 if value is None else hash(str(value)) for value in column.to_pylist()], np.int64)


def _that_repeat(hashes: dict[str, NDArray[np.int64]]) -> list[str]:
    """Return the keys of the arrays with a value that is 0, or that occurs twice in all of them."""
    every = np.concatenate([*hashes.values(), np.empty(0, np.int64)])
    every.sort()
    twice = np.unique(every[1:][np.diff(every) == 0])
    return [name for name, each in hashes.items() if not each.all() or np.isin(each, twice).any()]


class Table:
    """A file, its columns under the names that they have in files of ours.

    Parameters
    ----------
    source : Source
        The open file.
    settings : TableSettings
        What the user states about it.

    Attributes
    ----------
    is_ours : bool
        Whether its columns state vector spaces or whole records.
    roles : Roles
        Which column is what.
    stem : str
        What ids are made of, with the row's number: the file's name below the directory that was named.
    row_bytes : float
        Bytes of the file per row.
    """

    def __init__(self, source: Source, settings: TableSettings) -> None:
        self._source, self._path, schema = source, source.path, source.schema
        footer = {key: object_in(source.metadata.get(key.encode(), b"")) for key in (FOOTER, "geo", "emb")}
        if len(set(schema.names)) < len(schema.names):
            raise RsrError("has two columns of one name", self._path)
        texts = {
            column.name for column in schema if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type)
        }
        self.is_ours = not texts.isdisjoint((*SPACES.values(), RECORD))
        # Below the directory that was named, as files of others may have the same names.
        below = Path(self._path).relative_to(settings.root) if settings.root else Path(Path(self._path).name)
        self.stem = str(below.with_suffix(""))
        geometry = self._geometry(footer["geo"], schema)
        if self.is_ours:
            for column in schema:
                if column.name in KINDS and not (is_list(column.type) or is_bytes(column.type)):
                    raise RsrError(unfit(column.name, column.type, "vectors"), self._path)
                is_sound = is_text(column.type) or pa.types.is_null(column.type)
                if column.name in (*SPACES.values(), RECORD) and not is_sound:
                    raise RsrError(unfit(column.name, column.type, "text"), self._path)
                if column.name == SCALE and not (is_number(column.type) or pa.types.is_null(column.type)):
                    raise RsrError(unfit(column.name, column.type, "numbers"), self._path)
            others = {column.name: column.type for column in schema if column.name not in RESERVED}
            types = {name: type_ for name, type_ in others.items() if is_property(type_)}
            left_out = tuple(name for name in others if name not in types)
            self.roles = Roles((), (), "id" if "id" in schema.names else None, geometry, None, types, left_out)
        else:
            self.roles = Roles.of_schema(schema, geometry, settings, self._path)
        self._settings, self._model, self._footer = settings, footer["emb"], footer[FOOTER]
        self.row_bytes = Path(self._path).stat().st_size / max(1, source.n_rows)
        partitions = _partitions(self._path)
        self._partitions = {name: value for name, value in partitions.items() if name not in schema.names}

    def refuse_unnamed_vectors(self) -> None:
        """Raise RsrError if the columns of vectors have none of the known names, or several, or hold no vectors."""
        if self.roles.meant:
            what = f"has several columns of vectors: {', '.join(self.roles.meant)}"
            raise UsageError(what, self._path, remedy="vector-column")
        if self.unfit_vectors:
            raise RsrError(self.unfit_vectors, self._path, remedy="vector-lists")
        others = candidates(self._source.schema) if self._is_unknown else ()
        if others:
            what = f"has no column of vectors that is named {' or '.join(VECTORS)}, but {', '.join(others)}"
            raise UsageError(what, self._path, remedy="vector-column")

    @property
    def _is_unknown(self) -> bool:
        """Whether it is not known which columns hold vectors, of a file of others that may have some."""
        types = {column.name: column.type for column in self._source.schema}
        is_of_tiles = "source" in types and all(name in types and is_list(types[name]) for name in ("window", "bands"))
        return not (self.is_ours or self.roles.vectors or is_of_tiles)

    @cached_property
    def unfit_vectors(self) -> str | None:
        """What is wrong with a column that is named as one of vectors and holds none, where no other one does."""
        if self.roles.meant or not self._is_unknown:
            return None
        found = (column for column in self._source.schema if column.name in VECTORS)
        return next((unfit(each.name, each.type, "vectors") for each in found if not pa.types.is_null(each.type)), None)

    @property
    def no_ids(self) -> str:
        """Why it has no column of ids."""
        found = (column for column in self._source.schema if column.name in IDS)
        return next((unfit(each.name, each.type, "ids") for each in found), "no column of ids")

    @cached_property
    def candidates(self) -> tuple[tuple[str, int, str], ...]:
        """The columns that may hold the vectors, where that is not known: name, dimensions and type of number."""
        schema, found = self._source.schema, []
        for name in candidates(schema) if self._is_unknown else ():
            several = () if name in schema.names else columns_of(name)
            type_ = schema.field(several[0] if several else name).type
            with suppress(RsrError):  # of several lists per row
                size = len(several) or self._size_of(name)
                while is_list(type_):
                    type_ = type_.value_type
                found.append((name, size, np.dtype(type_.to_pandas_dtype()).name))
        return tuple(found)

    @cached_property
    def layout(self) -> Layout:
        """The columns that records are made of."""
        roles = self.roles
        types = roles.properties | {name: value.type for name, value in self._partitions.items()}
        if roles.time:
            types["datetime"] = pa.timestamp("us", "UTC")
        id_type = self._source.schema.field(roles.id).type if roles.id else pa.string()
        members, nulls = (self._footer.get(name) for name in ("members", "nulls"))
        stated = tuple(members) if isinstance(members, list) and all(isinstance(each, str) for each in members) else ()
        if not {"type", "properties"} <= {*stated} <= {*MEMBERS}:
            stated = MEMBERS
        known = frozenset(name for name in types if isinstance(nulls, list) and name in nulls)
        return Layout(types, id_type, stated, known)

    def _geometry(self, geo: dict[str, Any], schema: pa.Schema) -> str | None:
        """Return the column of geometries, and remember their CRS."""
        name = geo.get("primary_column", "geometry")
        if name not in schema.names:
            return None
        columns = geo.get("columns")
        facts = columns.get(name) if isinstance(columns, dict) else None
        facts = facts if isinstance(facts, dict) else {}
        type_ = schema.field(name).type
        if not (is_bytes(type_) or is_text(type_) or pa.types.is_null(type_)):
            raise RsrError(f"has geometries that are neither WKB nor WKT but of type {type_}", self._path)
        if facts.get("encoding", "WKB") != "WKB":
            raise RsrError(f"has geometries that are encoded as {facts['encoding']}, not as WKB", self._path)
        if "crs" in facts and facts["crs"] is None:
            raise RsrError("does not state the CRS of its geometries", self._path, remedy="crs")
        self._crs = facts.get("crs")
        return str(name)

    @cached_property
    def _space(self) -> Space | None:
        """The space of embeddings that do not state it themselves."""
        if not self.roles.vectors or not (self._settings.space or model_of(self._model)):
            return None
        size = len(self.roles.vectors)
        if size == 1:
            size = self._size_of(self.roles.vectors[0])
        return declared_space(self._settings, self._model, size, self._path) if size else None

    def _size_of(self, name: str) -> int:
        """Return how many values the first vector of a column has, 0 without any."""
        type_ = self._source.schema.field(name).type
        if pa.types.is_fixed_size_list(type_) and not is_list(type_.value_type):
            return int(type_.list_size)
        for columns in self._source.batches(64, [name]):
            for row in columns[0].to_pylist():
                while row and isinstance(row[0], list):
                    if len(row) > 1:
                        raise RsrError(f"has {len(row)} lists in its column {name} per row, and not one", self._path)
                    row = row[0]
                if row:
                    return len(row)
        return 0

    def read(self, skips: Skips) -> Iterator[pa.RecordBatch]:
        """Read the rows: the layout's columns, and the vectors with their spaces; ``skips`` is told of odd times."""
        roles = self.roles
        names = [*roles.properties, *roles.vectors, *filter(None, (roles.id, roles.geometry))]
        if self.is_ours:
            names += [*KINDS, SCALE, *SPACES.values(), "bbox", RECORD]
        names = [name for name in self._source.schema.names if name in names] or self._source.schema.names[:1]
        space = self._space
        rows = max(64, min(READ_ROWS, int(READ_BYTES / max(1.0, self.row_bytes))))
        row = 1
        for read in self._source.batches(rows, names):
            columns = {name: read[name] for name in roles.properties}
            if roles.geometry:
                columns["geometry"] = self._placed(self._as_wkb(read[roles.geometry], row), read)
            if self.is_ours:
                own = (*KINDS, SCALE, *SPACES.values(), "bbox", RECORD)
                columns |= {name: read[name] for name in own if name in names}
            elif roles.vectors:
                columns["embedding"] = self._vectors_in(read)
                stated = None if space is None else orjson.dumps(space.as_property()).decode()
                columns[SPACES["embedding"]] = constant(stated, len(read))
            if roles.id:
                columns["id"] = read[roles.id]
            elif not self.is_ours:
                columns["id"] = pa.array([f"{self.stem}_{number}" for number in range(row, row + len(read))])
            for name, value in self._partitions.items():
                columns[name] = pa.repeat(value, len(read))
            if roles.time:
                columns["datetime"] = self._times(read[roles.time], row, skips)
            row += len(read)
            if len(read):
                yield pa.RecordBatch.from_pydict(columns)
        if row - 1 != self._source.n_rows:
            what = f"was changed while it was read: {row - 1} of its {self._source.n_rows} rows came"
            raise RsrError(what, self._path)

    def _vectors_in(self, read: pa.RecordBatch) -> pa.Array:
        """Return the vectors of rows, int8 ones as the numbers that they stand for."""
        parts = [read[name] for name in self.roles.vectors]
        column = parts[0] if len(parts) == 1 else _joined(parts)
        stated, type_ = quantization_in(self._model), parts[0].type
        while is_list(type_):
            type_ = type_.value_type
        if "scale" not in stated or type_ != pa.int8() or self._space is None:
            return column
        values, fits = _matrix(column, self._space)
        try:
            flat = pa.array(dequantized(values, stated).reshape(-1))
        except RecordError as error:
            raise RsrError(error.message, self._path) from None
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(~fits))

    def _as_wkb(self, column: pa.Array, row: int) -> pa.Array:
        """Return a column of geometries that begins at a row, which may be text, as WKB."""
        if not is_text(column.type):
            return column.cast(pa.binary())
        texts = enumerate(column.to_pylist(), row)
        return pa.array([from_wkt(text, f"{self._path}:{i}") if text else None for i, text in texts], pa.binary())

    def _times(self, column: pa.Array, row: int, skips: Skips) -> pa.Array:
        """Return a column of times that begins at a row as times in UTC, null where a text is none."""
        found = _times(column)
        odd = np.flatnonzero(are_valid(column) & ~are_valid(found))
        if len(odd):
            what = f"its column {self.roles.time} holds {shown(str(column[int(odd[0])]))}, which is no time"
            what += " as 2024-06-01T10:30:00Z is, so no datetime is stated; likewise in other such rows"
            skips.warn(RecordError(what, f"{self._path}:{row + int(odd[0])}"), once="times")
        return found

    def _placed(self, geometries: pa.Array, read: pa.RecordBatch) -> pa.Array:
        """Return geometries in longitude and latitude."""
        if self._crs is None or is_lonlat(self._crs):
            return geometries
        boxes = boxes_of(geometries)
        if self._is_projected and _are_degrees(boxes):
            name = self._crs.get("name", "another CRS") if isinstance(self._crs, dict) else self._crs
            what = f"declares {name}, but its coordinates are degrees"
            if not _centred(read, boxes):
                raise RsrError(what, self._path, remedy="crs")
            if not self._told:
                log.warning(
                    "%s: %s, as its columns of centres confirm; read as longitude and latitude", self._path, what
                )
                self._told = True
            return geometries
        return to_lonlat(geometries, self._crs)

    @cached_property
    def _is_projected(self) -> bool:
        try:
            return is_projected(self._crs)
        except RsrError as error:
            error.place = self._path
            raise

    _crs: Any = None
    _told = False


def _joined(columns: Sequence[pa.Array]) -> pa.Array:
    """Return columns of a dimension each as a column of vectors: null where all are, NaN where one is."""
    values = np.empty((len(columns[0]), len(columns)), np.float32)
    missing = np.ones(len(values), bool)
    for i, column in enumerate(columns):
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused
            values[:, i] = as_numpy(column)
        missing &= ~are_valid(column)
    mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(as_column(values.reshape(-1)), len(columns), mask=mask)


def _partitions(path: str) -> dict[str, pa.Scalar]:
    """Return what the directories above a file state in Hive's way, as in ``year=2024/month=06``."""
    found = {}
    for part in Path(path).parts[:-1]:
        name, equals, value = part.partition("=")
        if name and equals and value != "__HIVE_DEFAULT_PARTITION__":
            value = unquote(value)
            found[name] = pa.scalar(int(value)) if value.isdecimal() and len(value) < 19 else pa.scalar(value)
    return found


def _times(column: pa.Array) -> pa.Array:
    """Return a column of dates, times or texts as times in UTC, null where a text is none."""
    to = pa.timestamp("us", "UTC")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return column.cast(pa.timestamp("us"), safe=False).cast(to)
    texts: list[str | None] = []
    for text in column.to_pylist():
        try:
            texts.append(parse_datetime(text))
        except (UsageError, TypeError):
            texts.append(None)
    return pa.array(texts, pa.string()).cast(to)


def _are_degrees(boxes: NDArray[np.float64]) -> bool:
    """Return whether all boxes (n, 4) are on the Earth if they are read as degrees."""
    sides = np.abs(boxes[~np.isnan(boxes[:, 0])])
    return bool(len(sides) and (sides <= (180, 90, 180, 90)).all())


def _centred(read: pa.RecordBatch, boxes: NDArray[np.float64]) -> bool:
    """Return whether columns of centres lie in boxes (n, 4)."""
    for lon, lat in _CENTRES:
        if lon in read.schema.names and lat in read.schema.names:
            x, y = (as_numpy(read[name]) for name in (lon, lat))
            return bool(((boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])).all())
    return False


def _take_vectors(batch: Batch, columns: pa.RecordBatch, stream: StreamSpace, skips: Skips) -> None:
    """Take the vectors of a batch from its columns, and drop rows without usable ones."""
    first = batch.lines[0]
    for each in stream.columns:
        left = columns if len(batch) == len(columns) else columns.take(as_column(np.array(batch.lines) - first))
        _take_column(batch, left, each, skips)


def _take_column(batch: Batch, columns: pa.RecordBatch, stream: StreamSpace, skips: Skips) -> None:
    """Take the vectors of one kind."""
    there = {kind for kind in KINDS if kind in columns.schema.names and columns[kind].null_count < len(batch)}
    kind = stream.kind_in([{"properties": dict.fromkeys(there, True)}])
    stated = SPACES[kind]
    if kind in there and (stated not in columns.schema.names or columns[stated].null_count == len(batch)):
        raise RsrError(f"does not state the vector space of its {kind}s", batch.name, remedy="space")
    sound, missing = np.zeros(len(batch), bool), np.ones(len(batch), bool)
    if kind in there:
        numbers, texts = _encoded(columns[stated])
        missing = ~are_valid(columns[kind]) | (numbers < 0)
        for number in dict.fromkeys(numbers[~missing].tolist()):
            rows = (numbers == number) & ~missing
            if _admit(texts[number], kind, stream, batch, rows, skips):
                sound |= rows
    for i in np.flatnonzero(missing).tolist():
        record = batch.records[i]
        record["properties"] |= dict.fromkeys(there - {kind}, "in a column")
        error = no_vector(record, kind, None, others=kind in columns.schema.names, beside=stream.is_beside)
        error.place = batch.place(i)
        skips(error)
    if not sound.all():
        chosen = np.flatnonzero(sound)
        batch.keep(chosen.tolist())
        columns = columns.take(as_column(chosen))
    if stream.space is None or not len(batch):
        return
    values, fits = _vectors(columns, kind, stream.space)
    wrong = (
        f"its {kind} does not have the {stream.space.size} {'bits' if kind == 'code' else 'dimensions'} of its space"
    )
    if stream.space.dtype == "int8":
        wrong += f", or no scale in {SCALE}"
    batch.keep_sound(fits, lambda _: wrong, skips)
    if len(batch):
        batch.set_vectors(values if fits.all() else values[fits], stream.space, skips)


def _encoded(column: pa.Array) -> tuple[NDArray[np.int64], list[str]]:
    """Return the number of each row's text, int64 (n,), -1 for null, and the texts."""
    encoded = column.dictionary_encode()
    return _filled(encoded.indices, -1), encoded.dictionary.to_pylist()


def _filled(column: pa.Array, value: int) -> NDArray[np.int64]:
    """Return a column of integers with a value in place of null."""
    return np.nan_to_num(as_numpy(column), nan=value).astype(np.int64)


def _leave_vectors(records: list[Record], columns: pa.RecordBatch) -> None:
    """Write vectors that nobody asked for into their records, where they pass through."""
    for kind, stated in reversed(SPACES.items()):
        if kind not in columns.schema.names or stated not in columns.schema.names:
            continue
        there = are_valid(columns[kind])
        numbers, texts = _encoded(columns[stated])
        for number in np.unique(numbers[there & (numbers >= 0)]).tolist():
            rows = np.flatnonzero(there & (numbers == number))
            space = Space.of_property(kind, _head(texts[number]))
            values, fits = _vectors(columns.take(as_column(rows)), kind, space)
            give_vectors([records[i] for i in rows[fits].tolist()], values[fits], space)


def _admit(text: str, kind: Kind, stream: StreamSpace, batch: Batch, rows: NDArray[np.bool_], skips: Skips) -> bool:
    """Return whether rows that state a space are of the stream's; skip them if it cannot be read."""
    head = _head(text)
    try:
        stream.admit(head, kind)
        if stream.space is None:
            stream.settle(head, kind)
        return True
    except RecordError as error:
        for i in np.flatnonzero(rows).tolist():
            skips(RecordError(error.message, batch.place(i)))
        return False
    except RsrError as error:
        error.place = batch.place(int(rows.argmax()))
        raise


@lru_cache(maxsize=64)
def _head(text: str) -> dict[str, Any]:
    """Return what a row states of its space, as the property of a record does."""
    return object_in(text)


def _vectors(columns: pa.RecordBatch, kind: Kind, space: Space) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return vectors (n, width), of int8 the numbers that they stand for, and which rows have one: bool (n,)."""
    values, fits = _matrix(columns[kind], space)
    if space.dtype != "int8":
        return values, fits
    scales = columns[SCALE] if SCALE in columns.schema.names else pa.nulls(len(columns), pa.float32())
    return widened(values, as_numpy(scales.cast(pa.float32(), safe=False))), fits & are_valid(scales)


def _matrix(column: pa.Array, space: Space) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return vectors (n, width), and which rows have one of this width: bool (n,)."""
    n, width = len(column), space.width
    if pa.types.is_fixed_size_binary(column.type) and column.type.byte_width == width and not column.null_count:
        data = np.frombuffer(column.buffers()[1], np.uint8)
        return data[column.offset * width : (column.offset + n) * width].reshape(n, width), np.ones(n, bool)
    single = np.ones(n, bool)
    if is_list(column.type):
        counts = _filled(column.value_lengths(), 0)
        flat = column.flatten()
        while is_list(flat.type):
            single &= counts == 1
            inner = _filled(flat.value_lengths(), 0)
            ends = np.concatenate([[0], inner.cumsum()])
            at = np.concatenate([[0], counts.cumsum()])
            counts = ends[at[1:]] - ends[at[:-1]]
            flat = flat.flatten()
        values = as_numpy(flat)
    else:
        rows = [row or b"" for row in column.to_pylist()]
        counts = np.array([len(row) for row in rows])
        values = np.frombuffer(b"".join(rows), np.uint8)
    sound = single & (counts == width)
    if sound.all():
        return values.reshape(n, width), sound
    starts = counts.cumsum() - counts
    found = np.zeros((n, width), values.dtype)
    for i in np.flatnonzero(sound):
        found[i] = values[starts[i] : starts[i] + width]
    return found, sound
