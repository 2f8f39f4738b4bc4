"""CSV of embeddings that others made, which is read and never written.

A dimension is a column. Geometries are the GeoJSON of Earth Engine's column ``.geo``, or WKT in a column ``geometry``,
in longitude and latitude. A column of which all values are numbers as JSON writes them is one of numbers; the others,
and ids, are texts. A file is read twice, as only all of its values say which are which.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from rsr_cli.core.errors import RsrError, Skips, shown
from rsr_cli.core.files import reason
from rsr_cli.core.inputs import open_regular
from rsr_cli.core.records.exact import object_in
from rsr_cli.core.records.geometry import to_wkb
from rsr_cli.core.records.roles import IDS, numbered
from rsr_cli.core.records.rows import Table, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import StreamSpace
    from rsr_cli.core.records.tables import TableSettings

#: Bytes that are read at once, of which a row is a part.
BLOCK_BYTES = 8 << 20
#: Where Earth Engine puts a geometry.
_GEOJSON = ".geo"
_PLACES = (_GEOJSON, "geometry")
#: Numbers of JSON: those that int64 holds, and all.
_WHOLE, _NUMBER = r"^(|-?(0|[1-9][0-9]{0,17}))$", r"^(|-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]+)?)$"
#: What names no column, and is a value.
_DECIMAL = re.compile(r"[+-]?[0-9]*\.[0-9]+([eE][+-]?[0-9]+)?|-[0-9]+")
#: How pyarrow names a column.
_COLUMN = re.compile(r"In CSV column #([0-9]+)")
#: What separates fields in other tables, as spreadsheets write them where the decimal mark is a comma.
_OTHER_MARKS = ";\t|"
#: What stands for a number that is missing.
_NONE = ("", "NA", "N/A", "null", "NULL", "None")


class _File:
    """A CSV file, see `rows.Source`; `scan` completes it."""

    def __init__(self, path: str, settings: TableSettings) -> None:
        self.path = path
        self.metadata: dict[bytes, bytes] = {}
        self.n_rows = 0
        with self._reader({}) as reader:
            self._names = reader.schema.names
        if len(self._names) == 1 and any(mark in self._names[0] for mark in _OTHER_MARKS):
            raise RsrError("has other marks than commas between its fields", path, remedy="commas")
        if any(_DECIMAL.fullmatch(name) for name in self._names) or _are_counts(self._names):
            raise RsrError("has numbers in its first line, which must name the columns", path, remedy="first-line")
        vectors = numbered(self._names, settings.vector_column)
        self._types = {name: pa.float32() if name in vectors else pa.string() for name in self._names}
        self._open = [name for name in self._names if name not in (*vectors, *IDS, settings.id_column, *_PLACES)]

    @property
    def schema(self) -> pa.Schema:
        """The columns, geometries of GeoJSON as WKB."""
        return pa.schema(
            [("geometry", pa.binary()) if name == _GEOJSON else (name, self._types[name]) for name in self._names]
        )

    def scan(self) -> None:
        """Count the rows, and find the columns of numbers."""
        kinds = {name: [pa.int64(), pa.float64(), pa.string()] for name in self._open}
        empty = set(self._open)
        with self._reader(dict.fromkeys(self._names, pa.string()), self._open or self._names[:1]) as reader:
            for block in reader:
                self.n_rows += block.num_rows
                for name in self._open:
                    while not _fits(block[name], kinds[name][0]):
                        del kinds[name][0]
                    if name in empty and pc.any(pc.not_equal(block[name], "")).as_py():
                        empty.remove(name)
        self._types |= {name: pa.string() if name in empty else kinds[name][0] for name in self._open}

    def batches(self, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read some columns, at most so many rows at once."""
        names = [_GEOJSON if name == "geometry" and _GEOJSON in self._names else name for name in columns]
        row = 1
        with self._reader({name: self._types[name] for name in names}, names) as reader:
            for block in reader:
                for start in range(0, block.num_rows, rows):
                    part = block.slice(start, rows)
                    found = [self._column(name, part[name], row) for name in names]
                    row += len(part)
                    yield pa.RecordBatch.from_arrays(found, list(columns))

    def _column(self, name: str, column: pa.Array, row: int) -> pa.Array:
        """Return a column that begins at a row, its texts null where they are empty, its GeoJSON as WKB."""
        if not pa.types.is_string(column.type):
            return column
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        if name != _GEOJSON:
            return column
        texts = enumerate(column.to_pylist(), row)
        found = [None if text is None else _of_geojson(text, f"{self.path}:{i}") for i, text in texts]
        return pa.array(found, pa.binary())

    @contextlib.contextmanager
    def _reader(self, types: dict[str, pa.DataType], columns: Sequence[str] = ()) -> Iterator[csv.CSVStreamingReader]:
        """Open the file, and turn the errors of reading it into ours."""
        try:
            open_regular(Path(self.path)).close()
            convert = csv.ConvertOptions(column_types=types, include_columns=list(columns), null_values=_NONE)
            read = csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)  # is as fast, and errors state the row
            parse = csv.ParseOptions(newlines_in_values=True)
            with csv.open_csv(self.path, read, parse, convert) as reader:
                yield reader
        except (pa.ArrowException, UnicodeDecodeError) as error:
            what = str(error).partition("\n")[0].rstrip(".")
            what = _COLUMN.sub(lambda found: f"column {self._names[int(found[1])]}", what)
            remedy = "commas" if what.startswith("CSV parse error") else None
            raise RsrError(f"cannot be read as CSV: {what}", self.path, remedy=remedy) from None
        except OSError as error:
            raise RsrError(reason(error), self.path) from None


def _are_counts(names: Sequence[str]) -> bool:
    """Return whether names are whole numbers that do not number the columns."""
    if not all(name.isascii() and name.isdecimal() for name in names):
        return False
    numbers = [int(name) for name in names]
    return numbers != list(range(numbers[0], numbers[0] + len(numbers)))


def _fits(column: pa.Array, type_: pa.DataType) -> bool:
    """Return whether all texts are empty or values of a type."""
    pattern = {pa.int64(): _WHOLE, pa.float64(): _NUMBER}.get(type_)
    return pattern is None or pc.all(pc.match_substring_regex(column, pattern)).as_py() is not False


def _of_geojson(text: str, place: str) -> bytes | None:
    """Return a geometry of GeoJSON as WKB, None for an empty one, which Earth Engine writes for none."""
    geometry = object_in(text)
    (found,) = to_wkb([geometry])
    if found is None:
        raise RsrError(f"its {_GEOJSON} is no geometry of GeoJSON: {shown(text)}", place)
    return found if geometry.get("coordinates") or geometry.get("geometries") else None


@contextlib.contextmanager
def opened(path: str, settings: TableSettings) -> Iterator[_File]:
    """Open a file."""
    file = _File(path, settings)
    file.scan()
    yield file


def check(path: str, settings: TableSettings) -> None:
    """Raise RsrError if a file cannot be read or is not CSV; its values are not looked at."""
    Table(_File(path, settings), settings)


def read_records(path: str, stream: StreamSpace | None, skips: Skips, settings: TableSettings) -> Iterator[Batch]:
    """Read the rows of one file as `streams.read` does."""
    with opened(path, settings) as file:
        yield from read_rows(file, stream, skips, settings)
