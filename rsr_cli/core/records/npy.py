"""Embeddings as a numpy array (``.npy``), which is read and never written: a row is a record that has nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rsr_cli.core.errors import RsrError, Skips
from rsr_cli.core.files import reason
from rsr_cli.core.inputs import map_array
from rsr_cli.core.records.rows import Table, read_rows
from rsr_cli.core.records.space import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import StreamSpace
    from rsr_cli.core.records.tables import TableSettings

#: dtype of an array -> type of a column.
_TYPES = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64(), "int8": pa.int8()}
_VECTORS = "embedding"


class _File:
    """A mapped array (n, dim), see `rows.Source`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.metadata: dict[bytes, bytes] = {}
        try:
            self._array: NDArray[np.generic] = map_array(Path(path))
        except OSError as error:
            raise RsrError(reason(error), path) from None
        except ValueError as error:
            raise RsrError(f"cannot be read as a numpy array: {error}", path) from None
        shape, dtype = self._array.shape, self._array.dtype
        if len(shape) != 2 or not 1 <= shape[1] <= MAX_SIZE:
            remedy = "tile" if len(shape) == 3 else "matrix"
            raise RsrError(f"is an array of shape {shape}, and not one of vectors (n, dim)", path, remedy=remedy)
        if dtype.name not in _TYPES:
            raise RsrError(f"is an array of {dtype}; vectors are of {', '.join(_TYPES)}", path)
        self.n_rows, self._dim = shape
        self.schema = pa.schema([(_VECTORS, pa.list_(_TYPES[dtype.name], self._dim))])

    def batches(self, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read vectors, at most so many at once."""
        for start in range(0, self.n_rows if _VECTORS in columns else 0, rows):
            values = self._array[start : start + rows]
            flat = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).reshape(-1)
            yield pa.RecordBatch.from_arrays([pa.FixedSizeListArray.from_arrays(pa.array(flat), self._dim)], [_VECTORS])


@contextlib.contextmanager
def opened(path: str, _settings: TableSettings) -> Iterator[_File]:
    """Open a file."""
    yield _File(path)


def check(path: str, settings: TableSettings) -> None:
    """Raise RsrError if a file cannot be read or is no array of vectors."""
    Table(_File(path), settings)


def read_records(path: str, stream: StreamSpace | None, skips: Skips, settings: TableSettings) -> Iterator[Batch]:
    """Read the rows of one file as `streams.read` does."""
    with opened(path, settings) as file:
        yield from read_rows(file, stream, skips, settings)
