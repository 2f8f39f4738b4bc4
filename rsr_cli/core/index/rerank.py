"""Embeddings that an index stores beside its codes, by which a shortlist of these is ranked again.

``refine.npy`` is int8, float16 or float32 (n, dim). Of int8 ``scales.npy`` is float32 (n,): what the whole numbers of
each row are multiplied by. All sums are those of float64 and of one row, so they do not depend on the other rows.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import FingerprintError, IndexFormatError
from rsr_cli.core.index.columns import ArrayFile, map_checked
from rsr_cli.core.index.flat import measured, unit
from rsr_cli.core.inputs import read_scattered

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.index.manifest import Refine
    from rsr_cli.core.records.batch import Batch

REFINE, SCALES = "refine.npy", "scales.npy"
INT8_MAX = 127
#: Bytes of float64 that are computed with at once, which stay in the processor's cache.
BLOCK_BYTES = 1 << 19


class RefineWriter:
    """Writes the embeddings beside the codes of a segment.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    dtype : str
        What to store them as: ``int8``, ``float16`` or ``float32``.
    metric : str
        Of ``cosine`` they are stored at unit length.

    Attributes
    ----------
    dim : int
        Their dimensions, once there are some.
    """

    def __init__(self, directory: Path, dtype: str, metric: str) -> None:
        self._directory = directory
        self.dtype = dtype
        self.metric = metric
        self.dim = 0
        self._files: list[ArrayFile] = []

    def prepare(self, batch: Batch, skips: Skips) -> None:
        """Drop records whose embedding cannot be stored.

        Raises
        ------
        FingerprintError
            The embeddings are not those that the codes were made of.
        RecordError
            An embedding has values beyond float16's.
        """
        assert batch.space is not None
        assert batch.beside is not None
        values, space = batch.beside
        if not self._files and space.fingerprint != batch.space.facts.get("of"):
            what = space.difference(batch.space.of_embedding())
            raise FingerprintError(f"its embedding is not that of its code ({what})", batch.place(0))
        if self.metric == "cosine":
            batch.beside = unit(values), space
        elif self.dtype == "float16":
            largest = np.abs(values).max(axis=1)
            sound = largest <= np.finfo(np.float16).max
            what = "its embedding has values up to {:.2g}, beyond float16's"
            batch.keep_sound(sound, lambda i: what.format(largest[i]), skips)

    def append(self, embeddings: NDArray[np.float32]) -> None:
        """Append embeddings (n, dim)."""
        if self.dtype != "int8":
            self.copy(embeddings.astype(self.dtype))
            return
        scales = (np.abs(embeddings).max(axis=1) / INT8_MAX).astype(np.float32)
        whole = np.rint(embeddings / np.where(scales > 0, scales, 1).astype(np.float64)[:, None])
        self.copy(whole.clip(-INT8_MAX, INT8_MAX).astype(np.int8), scales)

    def copy(self, *arrays: NDArray[Any]) -> None:
        """Append rows as they are stored: values (n, dim), and of int8 scales (n,)."""
        if not self._files:
            self.dim = arrays[0].shape[1]
            named = zip((REFINE, SCALES), arrays, strict=False)
            self._files = [ArrayFile(self._directory / name, rows.dtype, rows.shape[1:]) for name, rows in named]
        for file, rows in zip(self._files, arrays, strict=True):
            file.append(rows)

    def close(self) -> None:
        """Finish the files."""
        for file in self._files:
            file.close()


class Refined:
    """The embeddings beside the codes of an open segment, mapped when they are first asked for, and checked.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    count : int
        Number of rows.
    refine : Refine
        What the manifest states of them.
    """

    def __init__(self, directory: Path, count: int, refine: Refine) -> None:
        self._directory = directory
        self._refine = refine
        self.names = (REFINE, SCALES) if refine.dtype == "int8" else (REFINE,)
        self._shapes = {REFINE: (count, refine.dim), SCALES: (count,)}
        self._dtypes = {REFINE: refine.dtype, SCALES: "float32"}

    @cached_property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The files: values (n, dim), and of int8 the scales, float32 (n,).

        Raises
        ------
        IndexFormatError
            One is missing or damaged.
        """
        return tuple(map_checked(self._directory / name, self._dtypes[name], self._shapes[name]) for name in self.names)

    @cached_property
    def _scattered(self) -> tuple[NDArray[Any], ...]:
        """The same, to read a row here and there."""
        for array in self.arrays:
            read_scattered(array)
        return self.arrays

    def row(self, row: int) -> NDArray[np.float64]:
        """Return the embedding of a row, float64 (dim,); raise IndexFormatError if its values are not finite."""
        return self._sound(self._rows(np.array([row])))[0]

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the embeddings of some rows, float64 (n, dim)."""
        values, *scales = (array[rows] for array in self._scattered)
        wide = values.astype(np.float64)
        for factors in scales:
            wide *= np.where(factors >= 0, factors, np.nan)[:, None]
        return wide

    def _sound(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return numbers that embeddings have, or distances to them; raise IndexFormatError if one is not finite."""
        if not np.isfinite(numbers).all():
            where = str(self._directory / self.names[-1])
            raise IndexFormatError("is damaged: it has values that are not numbers", where, remedy="rebuild")
        return numbers

    def measure(self, query: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the distances of a query (dim,) to some rows, float64 (n,), as an index of embeddings measures.

        Raises
        ------
        IndexFormatError
            A file is damaged, or a value is not finite, as a distance to it is not either.
        """
        metric, dim = self._refine.metric, self._refine.dim
        if len(query) != dim:
            what = f"is damaged: its embeddings have {dim} dimensions, and the query's {len(query)}"
            raise IndexFormatError(what, str(self._directory / REFINE), remedy="rebuild")
        wide = (unit(query[None])[0] if metric == "cosine" else query).astype(np.float64)
        found = np.empty(len(rows))
        with np.errstate(invalid="ignore"):
            step = max(1, BLOCK_BYTES // (8 * dim))
            for start in range(0, len(rows), step):
                some = slice(start, start + step)
                found[some] = measured(metric, wide, self._rows(rows[some]))
        return self._sound(found)
