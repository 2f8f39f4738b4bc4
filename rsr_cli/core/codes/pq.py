"""Product quantization: a byte for each part of the dimensions, the number of the nearest centroid."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.codes.base import UNIT, FittedCode, summed
from rsr_cli.core.errors import RsrError
from rsr_cli.core.fitted.learn import CENTROIDS
from rsr_cli.core.fitted.transform import of_unit_length

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS_AT_ONCE = 1 << 10


class PQ(FittedCode):
    """Byte m is the number of the centroid nearest to part m of the embedding at unit length, the first of equals.

    The distance of a query is half the squared Euclidean distance to what the centroids make of the code, which is the
    cosine distance where they make the embedding itself (Jegou et al. 2011, asymmetric distance).
    """

    method = "pq"

    @cached_property
    def centroids(self) -> NDArray[np.float64]:
        """The centroids, float64 (parts, 256, dim / parts)."""
        assert self.fitted is not None
        found = self.fitted.arrays.get("centroids", np.empty(0))
        if (
            found.ndim != 3
            or found.shape[1] != CENTROIDS
            or found.shape[0] * found.shape[2] != self.dim
            or not (np.abs(found) <= UNIT).all()
        ):
            raise RsrError(f"has no centroids of {self.dim} dimensions", self.fitted.place, remedy="fit")
        return found.astype(np.float64)

    def _length(self, bits: int | None) -> int:
        return self._checked(bits, 8 * len(self.centroids))

    def values(self, embeddings: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Return embeddings at unit length, float64 (n, dim)."""
        return of_unit_length(embeddings)

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return codes, uint8 (n, parts), of embeddings, float32 (n, dim)."""
        codes = np.empty((len(embeddings), len(self.centroids)), np.uint8)
        norms = np.square(self.centroids).sum(axis=2)
        for first in range(0, len(embeddings), _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            values = self.values(embeddings[some]).reshape(-1, *self.centroids[:, 0].shape)
            for part, centroids in enumerate(self.centroids):
                codes[some, part] = (norms[part] - 2 * values[:, part] @ centroids.T).argmin(axis=1)
        return codes

    def decoded(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return what the centroids make of codes (n, parts): float64 (n, dim)."""
        return self.centroids[np.arange(codes.shape[1]), codes].reshape(len(codes), -1)

    def measure(self, query: NDArray[np.floating[Any]], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the distances of a query's values (dim,) to codes (n, parts), float64 (n,)."""
        parts = query.reshape(len(self.centroids), 1, -1)
        tables = np.square(parts - self.centroids).sum(axis=2) / 2
        return summed(tables, codes)
