"""The paper's trivial hash: signs of means over dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsr_cli.core.codes.base import Binarizer
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Trivial(Binarizer):
    """Bit j is 1 if the mean of dimensions j, j + bits, j + 2 bits, ... is above 0."""

    method = "trivial"

    def _length(self, bits: int | None) -> int:
        bits = super()._length(bits)
        if self.dim % bits:
            raise UsageError(f"trivial needs a number of bits that divides the {self.dim} dimensions, not {bits}")
        return bits

    def values(self, embeddings: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Return the numbers whose signs are the bits, as `Binarizer.values` says."""
        shape = len(embeddings), self.dim // self.bits, self.bits
        means: NDArray[np.floating[Any]] = embeddings.reshape(shape).mean(axis=1)
        return means
