"""Rows in the order of a Hilbert curve, on which what is near is mostly near on the Earth.

Rows are put aside in a file until all are known, dealt to files of one row group each, and each of these is sorted in
memory, so that memory does not grow with the number of rows.
"""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rsr_cli.core.records.arrow import as_column

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from numpy.typing import NDArray

#: The curve passes through 2^20 x 2^20 cells, the largest of which is 38 m wide.
LEVEL = 20
#: Most files at once.
MAX_FILES = 256


def hilbert_numbers(boxes: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return where on a Hilbert curve the middles of boxes are.

    Parameters
    ----------
    boxes : numpy.ndarray
        float64 (n, 4): xmin, ymin, xmax, ymax in degrees; NaN for none, which come last.

    Returns
    -------
    numpy.ndarray
        uint64 (n,), a quadrant per two bits; the curve in each is turned so that its ends meet those of its neighbours
        (Hilbert 1891).
    """
    none = np.isnan(boxes[:, 0])
    middles = np.nan_to_num(boxes[:, :2] + boxes[:, 2:]) / 2
    shares = np.add(middles, (180, 90)) / (360, 180)
    x, y = (shares * (1 << LEVEL)).clip(0, (1 << LEVEL) - 1).astype(np.uint64).T
    numbers = np.zeros(len(boxes), np.uint64)
    for level in reversed(range(LEVEL)):
        bit = np.uint64(1 << level)
        right, up = (x & bit) > 0, (y & bit) > 0
        numbers += np.uint64(1 << 2 * level) * (3 * right ^ up).astype(np.uint64)
        x, y = x & (bit - np.uint64(1)), y & (bit - np.uint64(1))
        flipped = right & ~up
        x, y = np.where(flipped, bit - np.uint64(1) - x, x), np.where(flipped, bit - np.uint64(1) - y, y)
        x, y = np.where(up, x, y), np.where(up, y, x)
    return np.where(none, np.uint64(1 << 2 * LEVEL), numbers)


class Sorter:
    """Puts rows aside, and returns them in order.

    Parameters
    ----------
    folder : pathlib.Path
        Where unnamed files are written, which disappear with the process.
    """

    def __init__(self, folder: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._folder = folder
        self._bytes = 0
        self._numbers: list[NDArray[np.uint64]] = []
        self._aside: _Rows | None = None

    def add(self, rows: pa.RecordBatch, boxes: NDArray[np.float64]) -> None:
        """Put rows aside, whose boxes (n, 4) are in degrees."""
        if self._aside is None:
            self._aside = self._file(rows.schema)
        self._aside.write(rows)
        self._bytes += rows.nbytes
        self._numbers.append(hilbert_numbers(boxes))

    def _file(self, schema: pa.Schema) -> _Rows:
        return _Rows(self._stack.enter_context(tempfile.TemporaryFile(dir=self._folder)), schema)

    def tables(self, most_rows: int, most_bytes: int) -> Iterator[pa.Table]:
        """Yield all rows, in order, in tables of at most so many rows and bytes.

        Those at one place stay in the order in which they came.
        """
        if self._aside is None:
            return
        numbers = np.concatenate(self._numbers)
        order = np.argsort(numbers, kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        group = max(1, min(most_rows, most_bytes * len(order) // self._bytes))
        rows_per_file = max(group, -(-len(order) // MAX_FILES))
        files = [self._file(self._aside.schema) for _ in range(0, len(order), rows_per_file)]
        ranks: list[list[NDArray[np.int64]]] = [[] for _ in files]
        start = 0
        for batch in self._aside.read():
            where = rank[start : start + batch.num_rows]
            start += batch.num_rows
            for i in np.unique(where // rows_per_file).tolist():
                chosen = np.flatnonzero(where // rows_per_file == i)
                files[i].write(batch.take(as_column(chosen)))
                ranks[i].append(where[chosen])
        for file, parts in zip(files, ranks, strict=True):
            table = pa.Table.from_batches(file.read()).unify_dictionaries()
            table = table.take(as_column(np.argsort(np.concatenate(parts))))
            yield from (table.slice(first, group) for first in range(0, len(table), group))
        self._stack.close()


class _Rows:
    """Rows in an unnamed file."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._file = file
        self.schema = schema
        self._writer = pa.ipc.new_stream(file, schema)

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows."""
        self._writer.write_batch(rows)

    def read(self) -> Iterator[pa.RecordBatch]:
        """Read all rows; there can be no more then."""
        self._writer.close()
        self._file.seek(0)
        yield from pa.ipc.open_stream(self._file)
