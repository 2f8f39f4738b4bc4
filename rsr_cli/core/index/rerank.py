"""Embeddings that an index stores beside its codes, by which a shortlist of these is ranked again.

``refine.npy`` is int8, float16 or float32 (n, dim), see `stored`. All sums are those of float64 and of one row, so they
do not depend on the other rows.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import FingerprintError, IndexFormatError
from rsr_cli.core.index.flat import in_float64, measured, unit
from rsr_cli.core.index.stored import Stored, VectorWriter, names_of, opened
from rsr_cli.core.inputs import read_scattered
from rsr_cli.core.records.scaled import drop_beyond

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.index.manifest import Refine
    from rsr_cli.core.index.stored import Vectors
    from rsr_cli.core.records.batch import Batch

REFINE = "refine.npy"
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
        self.dtype = dtype
        self.metric = metric
        self.dim = 0
        is_int8 = dtype == "int8"
        self._rows = VectorWriter(directory, REFINE, dtype, scaled=is_int8, unit=is_int8 and metric == "cosine")

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
        if not self.dim and space.fingerprint != batch.space.facts.get("of"):
            what = space.difference(batch.space.of_embedding())
            raise FingerprintError(f"its embedding is not that of its code ({what})", batch.place(0))
        if self.metric == "cosine":
            batch.beside = unit(values), space
        else:
            drop_beyond(batch, values, self.dtype, skips)

    def append(self, embeddings: NDArray[np.float32]) -> None:
        """Append embeddings (n, dim)."""
        self.dim = embeddings.shape[1]
        self._rows.append(embeddings)

    def copy(self, rows: Vectors) -> None:
        """Append rows as they are stored."""
        self.dim = rows.shape[1]
        self._rows.copy(rows)

    def close(self) -> None:
        """Finish the files."""
        self._rows.close()


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
        self._count = count
        self._scaled = refine.dtype == "int8"
        self.names = names_of(REFINE, scaled=self._scaled)

    @cached_property
    def vectors(self) -> Vectors:
        """The embeddings (n, dim).

        Raises
        ------
        IndexFormatError
            A file is missing or damaged.
        """
        shape = self._count, self._refine.dim
        return opened(self._directory, REFINE, self._refine.dtype, shape, scaled=self._scaled)

    @cached_property
    def _scattered(self) -> Vectors:
        """The same, to read a row here and there."""
        found = self.vectors
        for array in (found.values, found.scales) if isinstance(found, Stored) else (found,):
            if array is not None:
                read_scattered(array)
        return found

    def row(self, row: int) -> NDArray[np.float64]:
        """Return the embedding of a row, float64 (dim,); raise IndexFormatError if its values are not finite."""
        return self._sound(self._rows(np.array([row])))[0]

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the embeddings of some rows, float64 (n, dim)."""
        return np.asarray(self._scattered[rows], np.float64)

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
        (wide,) = in_float64(unit(query[None]) if metric == "cosine" else query[None], metric)
        found = np.empty(len(rows))
        with np.errstate(invalid="ignore"):
            step = max(1, BLOCK_BYTES // (8 * dim))
            for start in range(0, len(rows), step):
                some = slice(start, start + step)
                found[some] = measured(metric, wide, self._rows(rows[some]))
        return self._sound(found)
