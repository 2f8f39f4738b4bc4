"""Which rows of a segment may be hits: tested a few at a time as a search finds them, or all at once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    #: Rows in a test: those of a slice, or int64 (n,) in any order.
    Rows = slice | NDArray[np.int64]

#: Rows that are tested at once, so that they stay in the processor's cache.
BLOCK_ROWS = 1 << 18
#: The share of a larger array is estimated from as many runs of as many rows.
RUNS, RUN_ROWS = 64, 16
#: Rows of an array whose share is counted, per row that would be sampled.
COUNTED = 16


class Kept:
    """Which rows of a segment may be hits.

    To test all rows of a large segment can take longer than to search it. So the rows that a search finds are tested
    alone, until as many were tested as there are.

    Parameters
    ----------
    count : int
        Number of rows.
    test : callable
        Returns which rows of a slice, or of an array int64 (n,), may be hits: bool (n,).
    slow : bool
        A test reads records, so that one of all rows takes much longer than a search.
    """

    def __init__(self, count: int, test: Callable[[Rows], NDArray[np.bool_]], *, slow: bool = False) -> None:
        self.count = count
        self.slow = slow
        self._test = test
        self._tested = 0

    @classmethod
    def where(cls, mask: NDArray[np.bool_]) -> Kept:
        """Return those of a mask, bool (n,)."""
        kept = cls(len(mask), mask.__getitem__)
        kept.mask = mask
        return kept

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Which of all rows may be hits, bool (count,)."""
        mask = np.empty(self.count, np.bool_)
        for first in range(0, self.count, BLOCK_ROWS):
            rows = slice(first, min(first + BLOCK_ROWS, self.count))
            mask[rows] = self._test(rows)
        return mask

    @cached_property
    def share(self) -> float:
        """About which share of the rows may be hits. It does not depend on what was tested before."""
        if self.count <= COUNTED * RUNS * RUN_ROWS:
            return float(self.mask.mean()) if self.count else 0.0
        starts = np.linspace(0, self.count - RUN_ROWS, RUNS, dtype=np.int64)
        return float(self.of((starts[:, None] + np.arange(RUN_ROWS)).ravel()).mean())

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some rows (n,) may be hits, bool (n,)."""
        self._tested += len(rows)
        if "mask" in vars(self) or self._tested >= self.count:
            return self.mask[rows]
        return self._test(rows)

    def any(self) -> bool:
        """Return whether any row may be a hit."""
        return self.share > 0 or bool(self.mask.any())
