"""Files of a segment with one value or vector per row: ``.npy`` arrays, written row by row and mapped to be read."""

from __future__ import annotations

import contextlib
import errno
import io
import shutil
import tempfile
from functools import cached_property, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import IndexFormatError
from rsr_cli.core.files import reason
from rsr_cli.core.inputs import map_array, map_plain
from rsr_cli.core.records.facts import outward

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

    from rsr_cli.core.records.facts import Facts

BOXES, TIMES, LABELS, LABEL_ENDS, IDS = "bbox.npy", "times.npy", "labels.npy", "label_ends.npy", "ids.npy"
#: Files that are written in larger pieces are mapped in larger pages.
BUFFER_BYTES = 1 << 20


@lru_cache(maxsize=1024)
def array_header(dtype: np.dtype[Any], shape: tuple[int, ...], *, by_column: bool = False) -> bytes:
    """Return the header of a ``.npy`` file, whose values are in the order of rows or of columns."""
    header = io.BytesIO()
    facts = {"descr": dtype.str, "fortran_order": by_column, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    return header.getvalue()


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
        self._file = path.open("xb", BUFFER_BYTES)
        self._file.write(self._header())

    def _header(self) -> bytes:
        """Return the file's header, which is as long for any number of rows."""
        return array_header(self._dtype, (self.count, *self._shape))

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


class ColumnFile:
    """A ``.npy`` file (n, width) that grows along its first axis, and has one column after the other.

    A test of one column then reads that column alone.

    Parameters
    ----------
    path : pathlib.Path
        The file to write.
    dtype : numpy.dtype
        Of the values.
    width : int
        Number of columns.
    """

    def __init__(self, path: Path, dtype: DTypeLike, width: int) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._count = 0
        # unnamed, so that nothing of them can stay
        self._columns = [tempfile.TemporaryFile(dir=path.parent) for _ in range(width)]  # noqa: SIM115

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows (n, width)."""
        self._count += len(rows)
        for file, column in zip(self._columns, np.ascontiguousarray(rows.T, self._dtype), strict=True):
            file.write(column.data)

    def finish(self) -> None:
        """Write the file."""
        with self._path.open("xb", BUFFER_BYTES) as whole:
            whole.write(array_header(self._dtype, (self._count, len(self._columns)), by_column=True))
            for file in self._columns:
                file.seek(0)
                shutil.copyfileobj(file, whole, BUFFER_BYTES)
        self.close()

    def close(self) -> None:
        """Drop what was not written to the file."""
        for file in self._columns:
            file.close()


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
        self._boxes = ColumnFile(directory / BOXES, np.float32, 4)
        self._times = ColumnFile(directory / TIMES, np.int64, 2)
        self._labels = ArrayFile(directory / LABELS, np.int32)
        self._ends = ArrayFile(directory / LABEL_ENDS, np.int64)

    def append(self, facts: Facts) -> None:
        """Append the boxes, times and labels of some records."""
        self._boxes.append(outward(facts.boxes))
        self._times.append(facts.times)
        names = list(chain.from_iterable(facts.labels))
        for name in dict.fromkeys(names):
            self.labels.setdefault(name, len(self.labels))
        self._ends.append(self._labels.count + np.fromiter(map(len, facts.labels), np.int64).cumsum())
        self._labels.append(np.fromiter(map(self.labels.__getitem__, names), np.int32))

    def copy(self, columns: Columns, names: Sequence[str], first: int, kept: NDArray[np.bool_]) -> None:
        """Append the rows of another segment from the first one on that are kept, bool (n,); its labels have names."""
        rows = slice(first, first + len(kept))
        self._boxes.append(columns.boxes[rows][kept])
        self._times.append(columns.times[rows][kept])
        numbers, counts = columns.labels_of(first, kept, len(names))
        found, places = np.unique(numbers, return_index=True)
        mine = np.zeros(len(names), np.int32)
        for number in found[np.argsort(places)].tolist():  # as they come
            mine[number] = self.labels.setdefault(names[number], len(self.labels))
        self._ends.append(self._labels.count + counts.cumsum())
        self._labels.append(mine[numbers])

    def finish(self) -> None:
        """Write the files."""
        self._boxes.finish()
        self._times.finish()
        self.close()

    def close(self) -> None:
        """Close the files."""
        for column in (self._boxes, self._times, self._labels, self._ends):
            column.close()


class Columns:
    """The columns of an open segment, mapped when they are first asked for, and checked, as they may be a stranger's.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    count : int
        Number of rows.

    Raises
    ------
    IndexFormatError
        Of the attributes: a column is missing or damaged.
    """

    def __init__(self, directory: Path, count: int) -> None:
        self._directory = directory
        self._count = count

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """float32 (n, 4): west, south, east, north, rounded outward, west > east across the antimeridian; or NaN."""
        return self._mapped(BOXES, np.float32, (self._count, 4), by_column=True)

    @cached_property
    def times(self) -> NDArray[np.int64]:
        """int64 (n, 2): first and last moment in microseconds since 1970 UTC, `fields.NO_TIME` if unknown."""
        return self._mapped(TIMES, np.int64, (self._count, 2), by_column=True)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """int32: the numbers of the labels of all rows, one row after the other."""
        total = max(0, int(self.label_ends[-1]))
        # a file without values cannot be mapped
        return self._mapped(LABELS, np.int32, (total,)) if total else np.empty(0, np.int32)

    @cached_property
    def label_ends(self) -> NDArray[np.int64]:
        """int64 (n,): where the labels of each row end; that they ascend is checked where they are used."""
        return self._mapped(LABEL_ENDS, np.int64, (self._count,))

    @cached_property
    def ids(self) -> NDArray[np.uint64]:
        """uint64 (n,): the digests of the ids, sorted."""
        return self._mapped(IDS, np.uint64, (self._count,))

    def labels_of(
        self, first: int, kept: NDArray[np.bool_], n_labels: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the labels of the rows from the first one on that are kept, bool (n,), and how many each has.

        Raises
        ------
        IndexFormatError
            A label's number is not one of ``n_labels``.
        """
        begin = int(self.label_ends[first - 1]) if first else 0
        counts = np.diff(self.label_ends[first : first + len(kept)], prepend=begin)
        if begin < 0 or counts.min() < 0:
            raise self.damaged(LABEL_ENDS, "its numbers do not grow")
        numbers = self.labels[begin : begin + int(counts.sum())][np.repeat(kept, counts)]
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < n_labels:
            raise self.damaged(LABELS, "it has labels without a name")
        return numbers, counts[kept]

    def _mapped(self, name: str, dtype: DTypeLike, shape: tuple[int, ...], *, by_column: bool = False) -> NDArray[Any]:
        return map_checked(self._directory / name, dtype, shape, by_column=by_column)

    def damaged(self, name: str, what: str) -> IndexFormatError:
        """Return what to raise for a file that is not as it must be."""
        return IndexFormatError(f"is damaged: {what}", str(self._directory / name), remedy="rebuild")


@contextlib.contextmanager
def opening(path: Path) -> Iterator[None]:
    """Turn the errors of opening a file of an index into ours."""
    try:
        yield
    except FileNotFoundError:
        raise IndexFormatError("is missing", str(path), remedy="rebuild") from None
    except OSError as error:
        remedy = "compact-segments" if error.errno == errno.EMFILE else None
        raise IndexFormatError(f"cannot be opened: {reason(error)}", str(path), remedy=remedy) from None


def map_checked(path: Path, dtype: DTypeLike, shape: tuple[int, ...], *, by_column: bool = False) -> NDArray[Any]:
    """Map an array of an index, whose values are in the order of rows, or may be in that of columns.

    Raises
    ------
    IndexFormatError
        It is missing, damaged, or of another dtype or shape.
    """
    try:
        with opening(path):
            header = array_header(np.dtype(dtype), shape, by_column=by_column)
            found = map_plain(path, header, np.dtype(dtype), shape[::-1] if by_column else shape)
            if found is not None:  # several times as fast, for indexes of many segments
                return found.T if by_column else found
            found = map_array(path)
    except ValueError as error:
        raise IndexFormatError(f"is damaged: {error}", str(path), remedy="rebuild") from None
    is_ordered = found.flags.c_contiguous or (by_column and found.flags.f_contiguous)
    if (found.dtype, found.shape) != (np.dtype(dtype), shape) or not is_ordered:
        what = f"it has {found.dtype} {found.shape}, and {np.dtype(dtype)} {shape} is expected"
        raise IndexFormatError(f"is damaged: {what}", str(path), remedy="rebuild")
    return found
