"""GeoParquet 1.1: records as rows, read and written by row groups.

Footprints are WKB, with their boxes in the column ``bbox``, so that a query by place skips row groups. Embeddings are
lists of a fixed size, codes binary values of one. The columns ``embedding_space`` and ``code_space`` state the vector
space of each row, as a record does, so that what SQL, geopandas or another program makes of a file can be read again.
"""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from rsr_cli.core.errors import RecordError, RsrError, Skips, UsageError
from rsr_cli.core.files import Sink, reason
from rsr_cli.core.forms import PARQUET
from rsr_cli.core.inputs import open_regular
from rsr_cli.core.records.arrow import MEMBERS, RECORD, RESERVED, SIDES, SPACES, Columns, Layout, is_list
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.exact import dumps, object_in
from rsr_cli.core.records.geometry import boxes_of, geometry_types, is_lonlat, is_projected, to_lonlat
from rsr_cli.core.records.hilbert import Sorter
from rsr_cli.core.records.jsonl import batch_of, give_vectors, no_vector
from rsr_cli.core.records.roles import Roles, repeat_of
from rsr_cli.core.records.space import KINDS, Space
from rsr_cli.core.records.tables import NOTHING_STATED, declared_space, model_of
from rsr_cli.core.times import parse_datetime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.files import Output
    from rsr_cli.core.forms import Form
    from rsr_cli.core.records.batch import Record
    from rsr_cli.core.records.space import Kind, StreamSpace
    from rsr_cli.core.records.tables import TableSettings

log = logging.getLogger("rsr")

#: Most rows and bytes of a row group.
GROUP_ROWS, GROUP_BYTES = 100_000, 128 << 20
#: So many records decide the columns.
SAMPLE_ROWS = 1000
#: Most rows and bytes of vectors that are read at once.
READ_ROWS, READ_BYTES = 8192, 4 << 20
#: Bytes of a column that are read at once, as a row group may have any size.
BUFFER_BYTES = 1 << 20
FOOTER = "rsr"
#: Columns of the centre's longitude and latitude in published tables.
_CENTRES = (("centroid_lon", "centroid_lat"), ("centre_lon", "centre_lat"), ("lon", "lat"))


# Reading -------------------------------------------------------------------------------------------------------------


def check(path: str, settings: TableSettings) -> None:
    """Raise RsrError if a file cannot be read, is not Parquet or has no records."""
    with _opened(path) as file:
        _Table(file, path, settings)


def read_records(
    path: str, stream: StreamSpace | None, skips: Skips, settings: TableSettings = NOTHING_STATED
) -> Iterator[Batch]:
    """Read the rows of one file as `streams.read` does; a row's line is its number, from 1."""
    with _opened(path) as file:
        table = _Table(file, path, settings)
        line = 1
        for columns in _ahead(table.read()):
            give = None if stream else _leave_vectors
            batch = Batch(path, range(line, line + columns.num_rows), Columns(table.layout, columns, give))
            batch.size = round(columns.num_rows * table.row_bytes)
            line += columns.num_rows
            if stream:
                _take_vectors(batch, columns, stream, skips)
            if len(batch):
                yield batch


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches, each of which was read while the one before it was in use."""
    with ThreadPoolExecutor(1, "parquet") as thread:
        reading = thread.submit(next, batches, None)
        while (batch := reading.result()) is not None:
            reading = thread.submit(next, batches, None)
            yield batch


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    """Open a file, and turn the errors of reading it into ours."""
    try:
        open_regular(Path(path)).close()
        with pq.ParquetFile(path) as file:
            metadata, stated = file.metadata, [name for name in SPACES.values() if name in file.schema_arrow.names]
        reads = {"buffer_size": BUFFER_BYTES, "pre_buffer": False}  # which would keep all that was read
        with pq.ParquetFile(path, metadata=metadata, read_dictionary=stated, **reads) as file:
            yield file
    except pa.ArrowException as error:
        raise RsrError(f"cannot be read as Parquet: {_first_line(error)}", path) from None
    except OSError as error:
        raise RsrError(reason(error), path) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


class _Table:
    """A file, its columns under the names that they have in files of ours.

    Parameters
    ----------
    file : pyarrow.parquet.ParquetFile
        The open file.
    path : str
        Its name.
    settings : TableSettings
        What the user states about it.

    Attributes
    ----------
    row_bytes : float
        Bytes of the file per row.
    """

    def __init__(self, file: pq.ParquetFile, path: str, settings: TableSettings) -> None:
        self._file, self._path = file, path
        schema = file.schema_arrow
        stated = file.metadata.metadata or {}
        footer = {key: object_in(stated.get(key.encode(), b"")) for key in (FOOTER, "geo", "emb")}
        if len(set(schema.names)) < len(schema.names):
            raise RsrError("has two columns of one name", path)
        texts = {
            column.name for column in schema if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type)
        }
        self._is_ours = not texts.isdisjoint((*SPACES.values(), RECORD))
        # Below the directory that was named, as files of others may have the same names.
        below = Path(path).relative_to(settings.root) if settings.root else Path(Path(path).name)
        self._stem = str(below.with_suffix(""))
        geometry = self._geometry(footer["geo"], schema)
        if self._is_ours:
            types = {column.name: column.type for column in schema if column.name not in RESERVED}
            self._roles = Roles(None, "id" if "id" in schema.names else None, geometry, None, types)
        else:
            self._roles = Roles.of_schema(schema, geometry, settings, path)
        self._settings, self._model = settings, footer["emb"]
        self.row_bytes = Path(path).stat().st_size / max(1, file.metadata.num_rows)
        self._partitions = {name: value for name, value in _partitions(path).items() if name not in schema.names}
        self._footer = footer[FOOTER]

    @cached_property
    def _makes_ids(self) -> bool:
        """Whether ids are made of the file's name and the row's number, which is told."""
        if self._is_ours:
            return False
        if self._roles.id is None:
            what = "has no column of ids"
        elif repeat_of(columns[0] for columns in self._file.iter_batches(READ_ROWS, columns=[self._roles.id])):
            what = f"has ids in {self._roles.id} that repeat"
        else:
            return False
        log.warning("%s: %s; ids are made of the file's name and the row's number", self._path, what)
        return True

    @cached_property
    def layout(self) -> Layout:
        """The columns that records are made of."""
        roles = self._roles
        types = roles.properties | {name: value.type for name, value in self._partitions.items()}
        if roles.time:
            types["datetime"] = pa.timestamp("us", "UTC")
        id_type = pa.string() if self._makes_ids or not roles.id else self._file.schema_arrow.field(roles.id).type
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
        if not (pa.types.is_binary(type_) or pa.types.is_large_binary(type_)):
            raise RsrError(f"has geometries that are not WKB but {type_}", self._path)
        if facts.get("encoding", "WKB") != "WKB":
            raise RsrError(f"has geometries that are encoded as {facts['encoding']}, not as WKB", self._path)
        if "crs" in facts and facts["crs"] is None:
            raise RsrError("does not state the CRS of its geometries", self._path, remedy="crs")
        self._crs = facts.get("crs")
        return str(name)

    @cached_property
    def _space(self) -> Space | None:
        """The space of embeddings that do not state it themselves."""
        if self._roles.vector is None or not (self._settings.space or model_of(self._model)):
            return None
        inner = self._file.schema_arrow.field(self._roles.vector).type
        is_flat = pa.types.is_fixed_size_list(inner) and not is_list(inner.value_type)
        size = inner.list_size if is_flat else self._first_length()
        if not size:
            return None
        while is_list(inner):
            inner = inner.value_type
        dtype = {pa.float16(): "float16", pa.float64(): "float64"}.get(inner, "float32")
        return declared_space(self._settings, self._model, size, dtype, self._path)

    def _first_length(self) -> int:
        """Return how many values the first vector has, 0 without any."""
        for columns in self._file.iter_batches(64, columns=[self._roles.vector]):
            for row in columns[0].to_pylist():
                if row:
                    return len(row) * (len(row[0]) if isinstance(row[0], list) else 1)
        return 0

    def read(self) -> Iterator[pa.RecordBatch]:
        """Read the rows: the layout's columns, and the vectors with their spaces."""
        roles = self._roles
        if roles.left_out:
            log.warning("%s: left out, as records do not hold them: %s", self._path, ", ".join(roles.left_out))
        names = [*roles.properties, *filter(None, (roles.vector, roles.id, roles.geometry))]
        if self._is_ours:
            names += [*KINDS, *SPACES.values(), "bbox", RECORD]
        names = [name for name in self._file.schema_arrow.names if name in names]
        space = self._space
        rows = max(64, min(READ_ROWS, int(READ_BYTES / max(1.0, self.row_bytes))))
        row = 1
        for read in self._file.iter_batches(rows, columns=names):
            columns = {name: read[name] for name in roles.properties}
            if roles.geometry:
                columns["geometry"] = self._placed(read[roles.geometry].cast(pa.binary()), read)
            if self._is_ours:
                columns |= {name: read[name] for name in (*KINDS, *SPACES.values(), "bbox", RECORD) if name in names}
            elif roles.vector:
                columns["embedding"] = read[roles.vector]
                columns[SPACES["embedding"]] = _constant(space, len(read))
            if self._makes_ids:
                columns["id"] = pa.array([f"{self._stem}_{number}" for number in range(row, row + len(read))])
            elif roles.id:
                columns["id"] = read[roles.id]
            for name, value in self._partitions.items():
                columns[name] = pa.repeat(value, len(read))
            if roles.time:
                columns["datetime"] = _times(read[roles.time])
            row += len(read)
            if len(read):
                yield pa.RecordBatch.from_pydict(columns)
        if row - 1 != self._file.metadata.num_rows:
            what = f"was changed while it was read: {row - 1} of its {self._file.metadata.num_rows} rows came"
            raise RsrError(what, self._path)

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
            x, y = (read[name].to_numpy(zero_copy_only=False) for name in (lon, lat))
            return bool(((boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])).all())
    return False


def _constant(space: Space | None, n: int) -> pa.Array:
    """Return the column of a space that all rows have."""
    if space is None:
        return pa.nulls(n, pa.dictionary(pa.int32(), pa.string()))
    text = orjson.dumps(space.as_property()).decode()
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text], pa.string()))


def _take_vectors(batch: Batch, columns: pa.RecordBatch, stream: StreamSpace, skips: Skips) -> None:
    """Take the vectors of a batch from its columns, and drop rows without a usable one."""
    there = {kind for kind in KINDS if kind in columns.schema.names and columns[kind].null_count < len(batch)}
    kind = stream.kind_in([{"properties": dict.fromkeys(there, True)}])
    stated = SPACES[kind]
    if kind in there and (stated not in columns.schema.names or columns[stated].null_count == len(batch)):
        raise RsrError(f"does not state the vector space of its {kind}s", batch.name, remedy="space")
    sound, missing = np.zeros(len(batch), bool), np.ones(len(batch), bool)
    if kind in there:
        numbers, texts = _encoded(columns[stated])
        missing = ~columns[kind].is_valid().to_numpy(zero_copy_only=False) | (numbers < 0)
        for number in dict.fromkeys(numbers[~missing].tolist()):
            rows = (numbers == number) & ~missing
            if _admit(texts[number], kind, stream, batch, rows, skips):
                sound |= rows
    for i in np.flatnonzero(missing).tolist():
        error = no_vector(batch.records[i], kind, None)
        error.place = batch.place(i)
        skips(error)
    column = columns[kind] if kind in there else None
    if not sound.all():
        chosen = np.flatnonzero(sound)
        batch.keep(chosen.tolist())
        column = column.take(pa.array(chosen)) if column is not None else None
    if stream.space is None or not len(batch):
        return
    values, fits = _matrix(column, stream.space)
    wrong = f"its {kind} has not the {stream.space.size} {'bits' if kind == 'code' else 'dimensions'} of its space"
    batch.keep_sound(fits, lambda _: wrong, skips)
    if len(batch):
        batch.set_vectors(values if fits.all() else values[fits], stream.space, skips)


def _encoded(column: pa.Array) -> tuple[NDArray[np.int64], list[str]]:
    """Return the number of each row's text, int64 (n,), -1 for null, and the texts."""
    encoded = column.dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(), encoded.dictionary.to_pylist()


def _leave_vectors(records: list[Record], columns: pa.RecordBatch) -> None:
    """Write vectors that nobody asked for into their records, where they pass through."""
    for kind, stated in reversed(SPACES.items()):
        if kind not in columns.schema.names or stated not in columns.schema.names:
            continue
        there = columns[kind].is_valid().to_numpy(zero_copy_only=False)
        numbers, texts = _encoded(columns[stated])
        for number in np.unique(numbers[there & (numbers >= 0)]).tolist():
            rows = np.flatnonzero(there & (numbers == number))
            space = Space.of_property(kind, _head(texts[number]))
            values, fits = _matrix(columns[kind].take(pa.array(rows)), space)
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


def _matrix(column: pa.Array, space: Space) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return vectors (n, width), and which rows have one of this width: bool (n,)."""
    n, width = len(column), space.width
    if pa.types.is_fixed_size_binary(column.type) and column.type.byte_width == width and not column.null_count:
        data = np.frombuffer(column.buffers()[1], np.uint8)
        return data[column.offset * width : (column.offset + n) * width].reshape(n, width), np.ones(n, bool)
    if is_list(column.type):
        counts = column.value_lengths().fill_null(0).to_numpy()
        flat = column.flatten()
        while is_list(flat.type):
            inner = flat.value_lengths().fill_null(0).to_numpy()
            ends = np.concatenate([[0], inner.cumsum()])
            at = np.concatenate([[0], counts.cumsum()])
            counts = ends[at[1:]] - ends[at[:-1]]
            flat = flat.flatten()
        values = flat.to_numpy(zero_copy_only=False)
    else:
        rows = [row or b"" for row in column.to_pylist()]
        counts = np.array([len(row) for row in rows])
        values = np.frombuffer(b"".join(rows), np.uint8)
    sound = counts == width
    if sound.all():
        return values.reshape(n, width), sound
    starts = counts.cumsum() - counts
    found = np.zeros((n, width), values.dtype)
    for i in np.flatnonzero(sound):
        found[i] = values[starts[i] : starts[i] + width]
    return found, sound


# Writing -------------------------------------------------------------------------------------------------------------


def form_of(_path: str) -> Form:
    """Return the format of an output."""
    return PARQUET


class RecordWriter:
    """Writes records to an output.

    Parameters
    ----------
    output : Output
        Where the bytes go.
    skips : Skips
        Asked about records that cannot be written.
    hilbert : bool
        Write the rows in the order of a Hilbert curve through their footprints, once all are known.
    """

    def __init__(self, output: Output, skips: Skips, *, hilbert: bool = False) -> None:
        self._sink = Sink(output)
        self._sorter = Sorter(output.folder) if hilbert else None
        self._skips = skips
        self._held: list[Batch] = []
        self._layout: Layout | None = None
        self._writer: pq.ParquetWriter | None = None
        self._group: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._types: set[str] = set()
        self._box = np.full(4, np.nan)

    def write_lines(self, lines: Iterable[bytes]) -> None:
        """Write Features that are lines of JSON already."""
        self.write(batch_of(lines))

    def write(self, batch: Batch) -> None:
        """Write a batch: to the output, once a row group is full."""
        if self._layout is None:
            self._held.append(batch)
            if sum(map(len, self._held)) < SAMPLE_ROWS and not batch.columns:
                return
            self._begin()
            return
        self._add(batch)

    def _begin(self) -> None:
        """Decide the columns, and add what was held back to see them."""
        first = self._held[0] if self._held else None
        if first and first.columns:
            self._layout = first.columns.layout
        else:
            self._layout = Layout.of_records([record for batch in self._held for record in batch.records])
        held, self._held = self._held, []
        for batch in held:
            self._add(batch)

    def _add(self, batch: Batch) -> None:
        assert self._layout is not None
        columns = batch.columns
        if columns is not None and columns.layout == self._layout:
            rows = columns.for_table()
        else:
            rows = self._columns_of(batch)
        self._types |= geometry_types(rows["geometry"])
        self._box = _widened(self._box, rows["bbox"])
        if batch.vectors is not None and batch.space is not None:
            rows = _with_vectors(rows, batch.vectors, batch.space)
        if self._writer is None:
            self._open(rows.schema)
        if self._sorter:
            self._sorter.add(rows, boxes_of(rows["geometry"]))
            return
        self._group.append(rows)
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write_group()

    def _columns_of(self, batch: Batch) -> pa.RecordBatch:
        """Return a batch as columns, without records that cannot be written."""
        assert self._layout is not None
        try:
            return self._layout.columns_of(batch.records)
        except RecordError:
            batch.apply(dumps, self._skips)
            return self._layout.columns_of(batch.records)

    def _open(self, schema: pa.Schema) -> None:
        names = set(schema.names) - {"geometry", "code", "embedding", RECORD}
        texts = [field.name for field in schema if field.name not in ("id", "geometry", "bbox", *KINDS)]
        sides = [f"bbox.{side}" for side in SIDES]
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            use_dictionary=texts,
            use_byte_stream_split=sides,
            write_statistics=[*(names - {"bbox"}), *sides],
        )

    def _write_group(self) -> None:
        """Write a row group, and keep the rows that are too many for it."""
        assert self._writer is not None
        table = pa.Table.from_batches(self._group)
        self._writer.write_table(table.slice(0, GROUP_ROWS), GROUP_ROWS)
        rest = table.slice(GROUP_ROWS)
        self._group, self._rows, self._bytes = rest.to_batches(), rest.num_rows, rest.nbytes

    def finish(self) -> None:
        """Complete the file."""
        if self._layout is None:
            self._begin()
        assert self._layout is not None
        if self._writer is None:
            self._open(self._layout.schema)
        assert self._writer is not None
        if self._sorter:
            for table in self._sorter.tables(GROUP_ROWS, GROUP_BYTES):
                self._writer.write_table(table, GROUP_ROWS)
        while self._rows:
            self._write_group()
        self._writer.add_key_value_metadata(self._footer(self._layout))
        self._writer.close()

    def _footer(self, layout: Layout) -> dict[str, str]:
        box = {side: ["bbox", side] for side in SIDES}
        geometry: dict[str, Any] = {"encoding": "WKB", "geometry_types": sorted(self._types)}
        if not np.isnan(self._box).any():
            geometry["bbox"] = self._box.tolist()
        geometry["covering"] = {"bbox": box}
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
        ours = {"members": layout.members, "nulls": sorted(layout.nulls)}
        return {"geo": orjson.dumps(geo).decode(), FOOTER: orjson.dumps(ours).decode()}


def _widened(box: NDArray[np.float64], column: pa.Array) -> NDArray[np.float64]:
    """Return a box that contains another one and those of a column."""
    sides = [side.to_numpy(zero_copy_only=False) for side in column.flatten()]
    least = [np.fmin.reduce(side, initial=np.nan) for side in sides[:2]]
    most = [np.fmax.reduce(side, initial=np.nan) for side in sides[2:]]
    return np.concatenate([np.fmin(box[:2], least), np.fmax(box[2:], most)]).astype(np.float64)


def _with_vectors(rows: pa.RecordBatch, vectors: NDArray[Any], space: Space) -> pa.RecordBatch:
    """Return rows with the columns of their vectors and spaces."""
    values = np.ascontiguousarray(vectors, space.numpy_dtype)
    if space.kind == "code":
        type_ = pa.binary(space.width)
        column = pa.FixedSizeBinaryArray.from_buffers(type_, len(values), [None, pa.py_buffer(values)])
    else:
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), space.width)
    text = orjson.dumps(space.as_property()).decode()
    head = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(values), np.int32)), [text])
    return rows.append_column(space.kind, column).append_column(SPACES[space.kind], head)
