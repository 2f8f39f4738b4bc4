"""The formulas of retrieval metrics, each with its expected value for a random ranking.

A metric of one query depends on the relevance of its hits by rank, on the number R of relevant items in the whole
database, and for the random ranking on the number N of all items. A function named ``random_...`` computes the expected
value of the one it is named after, if the database is ranked in random order.

There are three definitions of average precision at k. They divide the sum of the precisions at the relevant ranks by:

- ``map@k``: the relevant hits among the first k (Blumenstiel et al. 2024; torchmetrics' RetrievalMAP). One hit at rank
  1 and k - 1 misses score 1.
- ``map_cut@k``: R, all relevant items (trec_eval's map_cut; ir_measures' AP@k).
- ``map_min@k``: min(R, k), the number that can be found at best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Ideal:
    """All relevant items of the database, counted by relevance.

    Attributes
    ----------
    gains : numpy.ndarray
        float64 (levels,): the distinct relevances above 0, greatest first.
    counts : numpy.ndarray
        int64 (levels,): number of items with each relevance.
    """

    gains: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, gains: ArrayLike, counts: ArrayLike | None = None) -> Ideal:
        """Count relevances (items,) in any order, each for ``counts`` items (default 1); zeros are ignored."""
        gains = np.asarray(gains, np.float64)
        levels, level = np.unique(gains, return_inverse=True)
        totals = np.bincount(level, counts, len(levels)).astype(np.int64)
        some = (levels > 0) & (totals > 0)
        return cls(levels[some][::-1], totals[some][::-1])


@dataclass(frozen=True)
class Judged:
    """The judged hits of one query.

    Attributes
    ----------
    gains : numpy.ndarray
        float64 (hits,): relevance of the hits by rank; more than 0 is relevant.
    ideal : Ideal or None
        All relevant items of the database, ``None`` if unknown.
    n_items : int or None
        N, the number of items in the database, ``None`` if unknown.
    """

    gains: NDArray[np.float64]
    ideal: Ideal | None = None
    n_items: int | None = None

    @property
    def relevant(self) -> NDArray[np.float64]:
        """float64 (hits,): 1 for relevant hits, else 0."""
        return (self.gains > 0).astype(np.float64)

    @property
    def n_relevant(self) -> int:
        """R, the number of relevant items in the database."""
        assert self.ideal is not None
        return int(self.ideal.counts.sum())


def _precisions(judged: Judged, k: int) -> float:
    """Return the sum of the precisions at the ranks of the relevant hits among the first k."""
    relevant = judged.relevant[:k]
    return float((np.cumsum(relevant) / np.arange(1, len(relevant) + 1) * relevant).sum())


def _ratio(value: float, by: float) -> float:
    return value / by if by else 0.0


def average_precision(judged: Judged, k: int) -> float:
    """Return the average precision over the relevant hits among the first k: the paper's definition."""
    return _ratio(_precisions(judged, k), float(judged.relevant[:k].sum()))


def average_precision_cut(judged: Judged, k: int) -> float:
    """Return the average precision over all R relevant items: trec_eval's map_cut."""
    return _ratio(_precisions(judged, k), judged.n_relevant)


def average_precision_min(judged: Judged, k: int) -> float:
    """Return the average precision over min(R, k) items."""
    return _ratio(_precisions(judged, k), min(judged.n_relevant, k))


def precision(judged: Judged, k: int) -> float:
    """Return the share of relevant hits among the first k; missing hits count as irrelevant."""
    return float(judged.relevant[:k].sum()) / k


def recall(judged: Judged, k: int) -> float:
    """Return the share of the R relevant items that are among the first k hits."""
    return _ratio(float(judged.relevant[:k].sum()), judged.n_relevant)


def reciprocal_rank(judged: Judged, k: int) -> float:
    """Return 1 / rank of the first relevant hit among the first k, 0 if there is none; the mean is the MRR."""
    found = np.flatnonzero(judged.relevant[:k])
    return 1.0 / (int(found[0]) + 1) if len(found) else 0.0


def ndcg(judged: Judged, k: int) -> float:
    """Return the discounted cumulative gain divided by the ideal one, gains as is (Järvelin and Kekäläinen 2002)."""
    assert judged.ideal is not None
    return _ratio(_dcg(judged.gains[:k]), _ideal_dcg(judged.ideal, k))


def _dcg(gains: NDArray[np.float64]) -> float:
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def _ideal_dcg(ideal: Ideal, k: int) -> float:
    places = np.diff(np.minimum(np.cumsum(ideal.counts), k), prepend=0)  # of the first k ranks, taken by each level
    return _dcg(np.repeat(ideal.gains, places))


def nmrr(judged: Judged, k: int) -> float:
    """Return the normalised modified retrieval rank (MPEG-7; Manjunath et al. 2001); the mean is the ANMRR.

    0 is best, 1 is worst. An item that is not among the first k has rank 1.25 k.
    """
    n_relevant = judged.n_relevant
    if not n_relevant:
        return 1.0
    ranks = np.flatnonzero(judged.relevant[:k]) + 1.0
    return _nmrr((ranks.sum() + (n_relevant - len(ranks)) * 1.25 * k) / n_relevant, n_relevant, k)


def _nmrr(average_rank: float, n_relevant: int, k: int) -> float:
    best = 0.5 + n_relevant / 2
    return float((average_rank - best) / (1.25 * k - best))


# Random rankings -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _found(n_items: int, n_relevant: int, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return how many of R relevant items can be among the first k of N, and the probabilities (hypergeometric)."""

    def log_choose(n: int, m: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)

    others = n_items - n_relevant
    least = max(0, k - others)
    numbers = np.arange(least, min(k, n_relevant) + 1)
    first = log_choose(n_relevant, least) + log_choose(others, k - least) - log_choose(n_items, k)
    m = numbers[:-1].astype(np.float64)
    ratios = (n_relevant - m) * (k - m) / ((m + 1) * (others - k + m + 1))  # P(m + 1) / P(m)
    return numbers, np.exp(first + np.concatenate([[0.0], np.cumsum(np.log(ratios))]))


def _random_precisions(judged: Judged, k: int, divide: Callable[[NDArray[np.int64]], Any]) -> float:
    """Return the expected sum of precisions, divided by a function of the number m of relevant hits.

    With m relevant items at random among the first k, the expected sum of the precisions at their ranks i is
    ``m / k * sum(1 / i + (i - 1) / i * (m - 1) / (k - 1))``.
    """
    assert judged.n_items is not None
    k = min(k, judged.n_items)
    harmonic = float((1 / np.arange(1, k + 1)).sum())
    others = (k - harmonic) / (k - 1) if k > 1 else 0.0
    numbers, chances = _found(judged.n_items, judged.n_relevant, k)
    m, chances = numbers[numbers > 0], chances[numbers > 0]
    return float((chances * m / k * (harmonic + (m - 1) * others) / divide(m)).sum())


def random_average_precision(judged: Judged, k: int) -> float:
    """Return the expected `average_precision`."""
    return _random_precisions(judged, k, lambda m: m)


def random_average_precision_cut(judged: Judged, k: int) -> float:
    """Return the expected `average_precision_cut`."""
    return _random_precisions(judged, k, lambda _: judged.n_relevant)


def random_average_precision_min(judged: Judged, k: int) -> float:
    """Return the expected `average_precision_min`."""
    return _random_precisions(judged, k, lambda _: min(judged.n_relevant, k))


def _random_share(judged: Judged) -> float:
    assert judged.n_items is not None
    return judged.n_relevant / judged.n_items if judged.n_items else 0.0


def random_precision(judged: Judged, k: int) -> float:
    """Return the expected `precision`."""
    assert judged.n_items is not None
    return _random_share(judged) * min(k, judged.n_items) / k


def random_recall(judged: Judged, k: int) -> float:
    """Return the expected `recall`."""
    assert judged.n_items is not None
    return min(k, judged.n_items) / judged.n_items if judged.n_relevant else 0.0


def random_reciprocal_rank(judged: Judged, k: int) -> float:
    """Return the expected `reciprocal_rank`."""
    assert judged.n_items is not None
    n, r = judged.n_items, judged.n_relevant
    if not r:
        return 0.0
    expected, none_before = 0.0, 1.0
    for i in range(1, min(k, n - r + 1) + 1):
        here = r / (n - i + 1)
        expected += none_before * here / i
        none_before *= 1 - here
    return expected


def random_ndcg(judged: Judged, k: int) -> float:
    """Return the expected `ndcg`."""
    assert judged.ideal is not None
    assert judged.n_items is not None
    k = min(k, judged.n_items)
    mean_gain = _ratio(float(judged.ideal.gains @ judged.ideal.counts), judged.n_items)
    return _ratio(_dcg(np.full(k, mean_gain)), _ideal_dcg(judged.ideal, k))


def random_nmrr(judged: Judged, k: int) -> float:
    """Return the expected `nmrr`."""
    assert judged.n_items is not None
    n, r = judged.n_items, judged.n_relevant
    if not r:
        return 1.0
    inside = min(k, n)
    return _nmrr((inside * (inside + 1) / 2 + (n - inside) * 1.25 * k) / n, r, k)


def nmrr_depth(judged: Judged, most_relevant: int) -> int:
    """Return the standard's depth, min(4 R, 2 max R)."""
    return max(1, min(4 * judged.n_relevant, 2 * most_relevant))
