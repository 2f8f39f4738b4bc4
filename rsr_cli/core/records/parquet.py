"""GeoParquet 1.1: records as rows, read and written by row groups.

Footprints are WKB, with their boxes in the column ``bbox``, so that a query by place skips row groups. Embeddings are
lists of a fixed size, codes binary values of one; of int8 the column ``embedding_scale`` states the scale of each row.
The columns ``embedding_space`` and ``code_space`` state the vector
space of each row, as a record does, so that what SQL, geopandas or another program makes of a file can be read again.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from rsr_cli.core.errors import RecordError, RsrError, Skips
from rsr_cli.core.files import Sink, explained, reason
from rsr_cli.core.forms import PARQUET
from rsr_cli.core.inputs import open_regular
from rsr_cli.core.records.arrow import RECORD, SCALE, SIDES, SPACES, Layout, as_column, as_numpy, constant
from rsr_cli.core.records.exact import dumps
from rsr_cli.core.records.geometry import boxes_of, geometry_types
from rsr_cli.core.records.hilbert import Sorter
from rsr_cli.core.records.jsonl import batch_of
from rsr_cli.core.records.roles import IDS
from rsr_cli.core.records.rows import FOOTER, Table, read_rows
from rsr_cli.core.records.scaled import quantized
from rsr_cli.core.records.space import KINDS, Space

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.files import Output
    from rsr_cli.core.forms import Form
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import StreamSpace
    from rsr_cli.core.records.tables import TableSettings

log = logging.getLogger("rsr")

#: Most rows and bytes of a row group.
GROUP_ROWS, GROUP_BYTES = 100_000, 128 << 20
#: So many records decide the columns.
SAMPLE_ROWS = 1000
#: Bytes of a column that are read at once, as a row group may have any size.
BUFFER_BYTES = 1 << 20


# Reading -------------------------------------------------------------------------------------------------------------


class _File:
    """An open Parquet file, see `rows.Source`."""

    def __init__(self, file: pq.ParquetFile, path: str) -> None:
        self._file, self.path = file, path
        stored: pa.Schema = file.schema_arrow
        pickle.dumps(stored)  # decodes its texts, such as time zones, which fails if they are not UTF-8
        self.schema = pa.schema([(each.name, pa.string() if _is_uuid(each) else each.type) for each in stored])
        self.metadata: dict[bytes, bytes] = file.metadata.metadata or {}
        self.n_rows: int = file.metadata.num_rows

    def batches(self, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read some columns, at most so many rows at once, whose texts and offsets are sound."""
        for batch in self._file.iter_batches(rows, columns=columns):
            batch.validate(full=True)
            read = [_uuids(batch[i]) if _is_uuid(each) else batch[i] for i, each in enumerate(batch.schema)]
            yield pa.RecordBatch.from_arrays(read, batch.schema.names)


def _is_uuid(column: pa.Field) -> bool:
    """Return whether a column holds UUIDs, by its type, or as ids of 16 bytes."""
    is_typed = getattr(column.type, "extension_name", None) == "arrow.uuid"  # pa.uuid came with pyarrow 18
    return is_typed or (column.name in IDS and column.type == pa.binary(16))


def _uuids(column: pa.Array) -> pa.Array:
    """Return UUIDs as texts."""
    values = getattr(column, "storage", column).to_pylist()
    return pa.array([None if each is None else str(UUID(bytes=each)) for each in values], pa.string())


@contextlib.contextmanager
def opened(path: str, _settings: TableSettings) -> Iterator[_File]:
    """Open a file, and turn the errors of reading it into ours."""
    try:
        open_regular(Path(path)).close()
        with pq.ParquetFile(path) as file:
            metadata, columns = file.metadata, file.schema_arrow
        stated = [each.name for each in columns if each.name in SPACES.values() and not pa.types.is_nested(each.type)]
        reads = {"buffer_size": BUFFER_BYTES, "pre_buffer": False}  # which would keep all that was read
        with pq.ParquetFile(path, metadata=metadata, read_dictionary=stated, **reads) as file:
            yield _File(file, path)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        what = str(error).partition("\n")[0].rstrip(".")
        raise RsrError(f"cannot be read as Parquet: {what}", path) from None
    except OSError as error:
        raise RsrError(reason(error), path) from None


def check(path: str, settings: TableSettings) -> None:
    """Raise RsrError if a file cannot be read, is not Parquet or has no records."""
    with opened(path, settings) as file:
        Table(file, settings)


def read_records(path: str, stream: StreamSpace | None, skips: Skips, settings: TableSettings) -> Iterator[Batch]:
    """Read the rows of one file as `streams.read` does."""
    with opened(path, settings) as file:
        yield from read_rows(file, stream, skips, settings)


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
        self._name = output.name
        self._sorter = Sorter(output.folder) if hilbert else None
        self._skips = skips
        self._held: list[Batch] = []
        self._layout: Layout | None = None
        self._writer: pq.ParquetWriter | None = None
        self._group: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._types: set[str] = set()
        self._box = np.full(4, np.nan)
        self._spaces: set[Space] = set()

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
        for vectors, space in batch.vector_columns:
            rows = _with_vectors(rows, vectors, space)
            self._spaces.add(space)
        if self._writer is None:
            self._open(rows.schema)
        if self._sorter:
            with explained(self._name):
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
            with explained(self._name):
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
        ours: dict[str, Any] = {"members": layout.members, "nulls": sorted(layout.nulls)}
        footer = {"geo": geo, FOOTER: ours}
        embeddings = [space for space in self._spaces if space.kind == "embedding"]
        if len(embeddings) == 1:
            footer |= _emb(*embeddings)
        return {key: orjson.dumps(value).decode() for key, value in footer.items()}


def _emb(space: Space) -> dict[str, Any]:
    """Return the fields of STAC's embedding extension as a footer, where other products state their model too."""
    model = {"model": {"id": space.model}} if space.model else {}
    return {"emb": {"version": "0.0.1", "type": "chip", "dimensions": space.size, "data_type": space.dtype, **model}}


def _widened(box: NDArray[np.float64], column: pa.Array) -> NDArray[np.float64]:
    """Return a box that contains another one and those of a column."""
    sides = [as_numpy(side) for side in column.flatten()]
    least = [np.fmin.reduce(side, initial=np.nan) for side in sides[:2]]
    most = [np.fmax.reduce(side, initial=np.nan) for side in sides[2:]]
    return np.concatenate([np.fmin(box[:2], least), np.fmax(box[2:], most)]).astype(np.float64)


def _with_vectors(rows: pa.RecordBatch, vectors: NDArray[Any], space: Space) -> pa.RecordBatch:
    """Return rows with the columns of their vectors and spaces."""
    if space.dtype == "int8":
        values, scales = quantized(vectors)
        rows = rows.append_column(SCALE, as_column(scales))
    else:
        values = np.ascontiguousarray(vectors, space.numpy_dtype)
    if space.kind == "code":
        type_ = pa.binary(space.width)
        column = pa.FixedSizeBinaryArray.from_buffers(type_, len(values), [None, pa.py_buffer(values)])
    else:
        column = pa.FixedSizeListArray.from_arrays(as_column(values.reshape(-1)), space.width)
    head = constant(orjson.dumps(space.as_property()).decode(), len(values))
    return rows.append_column(space.kind, column).append_column(SPACES[space.kind], head)
