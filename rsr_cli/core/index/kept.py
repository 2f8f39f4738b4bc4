"""Which rows of a segment may be hits: tested a few at a time as a search finds them, or all at once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    #: Rows in a test: those of a slice, or int64 (n,), each once and in ascending order.
    Rows = slice | NDArray[np.int64]

#: Rows that are tested at once, so that they stay in the processor's cache.
BLOCK_ROWS = 1 << 18
#: The share of many rows is estimated from as many runs of as many.
RUNS, RUN_ROWS = 64, 16
#: Where no record is read, fewer rows are counted, per row that would be sampled.
COUNTED = 16
#: In the time of a test of one row anywhere, as many are tested of those that follow each other.
IN_A_ROW = 64


class Kept:
    """Which rows of a segment may be hits.

    To test all rows of a large segment can take longer than to search it. So the rows that a search finds are tested
    alone, and no record is read twice.

    Parameters
    ----------
    count : int
        Number of rows.
    test : callable
        Returns which rows of a slice, or of an array int64 (n,), may be hits: bool (n,).
    slow : bool
        A test reads records, so that one of all rows takes much longer than a search.

    Attributes
    ----------
    untested : int
        Number of rows that were not tested yet.
    """

    def __init__(self, count: int, test: Callable[[Rows], NDArray[np.bool_]], *, slow: bool = False) -> None:
        self.count = count
        self.slow = slow
        self.untested = count
        self._test = test
        self._tested, self._may = np.zeros((2, count), np.bool_)

    @classmethod
    def where(cls, mask: NDArray[np.bool_]) -> Kept:
        """Return those of a mask, bool (n,)."""
        kept = cls(0, mask.__getitem__)
        kept.count, kept._may = len(mask), mask
        return kept

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which of all rows may be hits, bool (count,)."""
        for first in range(0, self.count if self.untested else 0, BLOCK_ROWS):
            block = slice(first, min(first + BLOCK_ROWS, self.count))
            tested = self._tested[block]
            rows: Rows = first + (~tested).nonzero()[0] if self.slow and tested.any() else block
            self._may[rows] = self._test(rows)
            self._tested[block] = True
        self.untested = 0
        return self._may

    @cached_property
    def share(self) -> float:
        """About which share of the rows may be hits, as of `share_of`."""
        return _estimated([self])

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some rows (n,) may be hits, bool (n,)."""
        if not self.slow and (self.count - self.untested + len(rows)) * IN_A_ROW >= self.count:
            return self.mask[rows]
        if self.untested:
            left = np.unique(rows[~self._tested[rows]])
            for start in range(0, len(left), BLOCK_ROWS):
                some = left[start : start + BLOCK_ROWS]
                self._may[some] = self._test(some)
                self._tested[some] = True
                self.untested -= len(some)
        return self._may[rows]


def share_of(segments: Sequence[Kept]) -> float:
    """Return about which share of the rows of several segments may be hits, whatever was tested before."""
    return segments[0].share if len(segments) == 1 else _estimated(segments)


def _estimated(segments: Sequence[Kept]) -> float:
    ends = np.cumsum([kept.count for kept in segments])
    count = int(ends[-1]) if len(ends) else 0
    sampled = RUNS * RUN_ROWS
    if count <= sampled * (1 if any(kept.slow for kept in segments) else COUNTED):
        return sum(np.count_nonzero(kept.mask) for kept in segments) / max(1, count)
    rows = (np.linspace(0, count - RUN_ROWS, RUNS, dtype=np.int64)[:, None] + np.arange(RUN_ROWS)).ravel()
    owners = np.searchsorted(ends, rows, side="right")
    may = [kept.of(rows[owners == n] - (ends[n] - kept.count)) for n, kept in enumerate(segments) if n in owners]
    return float(np.concatenate(may).mean())
