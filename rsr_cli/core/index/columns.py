"""Files of a segment with one value or vector per row: ``.npy`` arrays, written row by row and mapped to be read."""

from __future__ import annotations

import io
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.records.facts import outward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

    from rsr_cli.core.records.facts import Facts

#: Files that are written in larger pieces are mapped in larger pages.
BUFFER_BYTES = 1 << 20


class ArrayFile:
    """A ``.npy`` file that grows along its first axis.

    Parameters
    ----------
    path : pathlib.Path
        The file to write.
    dtype : numpy.dtype
        Of the values.
    shape : tuple of int
        Of one row.
    """

    def __init__(self, path: Path, dtype: DTypeLike, shape: tuple[int, ...] = ()) -> None:
        self._dtype = np.dtype(dtype)
        self._shape = shape
        self.count = 0
        self._file = path.open("wb", BUFFER_BYTES)
        self._file.write(self._header())

    def _header(self) -> bytes:
        """Return the file's header, which is as long for any number of rows."""
        header = io.BytesIO()
        facts = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.count, *self._shape)}
        np.lib.format.write_array_header_1_0(header, facts)
        return header.getvalue()

    def append(self, rows: NDArray[Any] | Sequence[Any]) -> None:
        """Append rows (n, *shape)."""
        values = np.ascontiguousarray(rows, self._dtype).reshape(-1, *self._shape)
        self.count += len(values)
        self._file.write(values.data)

    def close(self) -> None:
        """Write the number of rows into the header."""
        if not self._file.closed:
            with self._file:
                self._file.seek(0)
                self._file.write(self._header())


class FilterColumns:
    """Writes the columns to filter by.

    ``bbox.npy`` is float32 (n, 4): west, south, east, north in degrees, rounded outward, west > east across the
    antimeridian, NaN without a bounding box. ``times.npy`` is int64 (n, 2): first and last moment in microseconds since
    1970 UTC, numpy's NaT if unknown. ``labels.npy`` is int32: the numbers of all rows' labels, one row after the other,
    and ``label_ends.npy`` int64 (n,): where each row's end. The labels' names are in ``records.sqlite``.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.

    Attributes
    ----------
    labels : dict of str to int
        Label -> number, from 0 in the order in which they came.
    """

    def __init__(self, directory: Path) -> None:
        self.labels: dict[str, int] = {}
        self._boxes = ArrayFile(directory / "bbox.npy", np.float32, (4,))
        self._times = ArrayFile(directory / "times.npy", np.int64, (2,))
        self._labels = ArrayFile(directory / "labels.npy", np.int32)
        self._ends = ArrayFile(directory / "label_ends.npy", np.int64)

    def append(self, facts: Facts) -> None:
        """Append the boxes, times and labels of some records."""
        self._boxes.append(outward(facts.boxes))
        self._times.append(facts.times)
        names = list(chain.from_iterable(facts.labels))
        for name in dict.fromkeys(names):
            self.labels.setdefault(name, len(self.labels))
        self._ends.append(self._labels.count + np.fromiter(map(len, facts.labels), np.int64).cumsum())
        self._labels.append(np.fromiter(map(self.labels.__getitem__, names), np.int32))

    def close(self) -> None:
        """Finish the files."""
        for column in (self._boxes, self._times, self._labels, self._ends):
            column.close()
