"""Binary embeddings: one bit per dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsr_cli.core.codes.base import Binarizer
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Sign(Binarizer):
    """The paper's binary embedding: bit j is 1 if dimension j is above 0."""

    method = "sign"

    def _length(self, bits: int | None) -> int:
        if bits not in (None, self.dim):
            raise UsageError(f"sign makes one bit per dimension, {self.dim} here, not {bits}", remedy="bits-method")
        return self.dim

    def values(self, embeddings: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Return the numbers whose signs are the bits, as `Binarizer.values` says."""
        return embeddings
