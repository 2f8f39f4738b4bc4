"""Locality-sensitive hashing: sides of random planes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.codes.base import Binarizer

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LSH(Binarizer):
    """Bit j is the side of random plane j on which an embedding lies (Charikar 2002).

    The planes' normals are ``numpy.random.RandomState(seed).randn(bits, dim)``.
    """

    method = "lsh"

    @cached_property
    def _planes(self) -> NDArray[np.float64]:
        # RandomState, not Generator: the paper's numbers come from this stream of numbers.
        return np.random.RandomState(self.seed).randn(self.bits, self.dim)

    def values(self, embeddings: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Return the numbers whose signs are the bits, as `Binarizer.values` says."""
        return embeddings @ self._planes.T
