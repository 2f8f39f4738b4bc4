"""Retrieval metrics, and the value each has for a ranking in random order.

All take, for each query, the relevance of its hits in the order of their ranks, the number R of relevant items in the
whole database and the number N of items in it.

The average precision at k exists in three definitions, which differ in what the sum of the precisions at the relevant
ranks is divided by:

- ``map@k``: the relevant items found among the first k (Blumenstiel et al. 2024; torchmetrics' RetrievalMAP). One hit
  at rank 1 and k - 1 misses score 1.
- ``map_cut@k``: R, all relevant items (trec_eval's map_cut; ir_measures' AP@k).
- ``map_min@k``: min(R, k), the most that can be found.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Ideal:
    """All relevant items of the database, told by how many there are of each relevance.

    Attributes
    ----------
    gains : numpy.ndarray
        float64 (levels,): the relevances above 0 that occur, greatest first.
    counts : numpy.ndarray
        int64 (levels,): how many items have each.
    """

    gains: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, gains: ArrayLike, counts: ArrayLike | None = None) -> Ideal:
        """Count relevances (items,) in any order, each standing for ``counts`` items; those of 0 are left out."""
        gains = np.asarray(gains, np.float64)
        levels, level = np.unique(gains, return_inverse=True)
        totals = np.bincount(level, counts, len(levels)).astype(np.int64)
        some = (levels > 0) & (totals > 0)
        return cls(levels[some][::-1], totals[some][::-1])


@dataclass(frozen=True)
class Judged:
    """One query's hits, judged.

    Attributes
    ----------
    gains : numpy.ndarray
        float64 (hits,): relevance of the hits by rank, 0 for none. More than 0 is relevant.
    ideal : Ideal or None
        All relevant items of the database; ``None`` where they are not known.
    n_items : int or None
        Items in the database; ``None`` where it is not known.
    """

    gains: NDArray[np.float64]
    ideal: Ideal | None = None
    n_items: int | None = None

    @property
    def relevant(self) -> NDArray[np.float64]:
        """1 where a hit is relevant, else 0: float64 (hits,)."""
        return (self.gains > 0).astype(np.float64)

    @property
    def n_relevant(self) -> int:
        """R, the number of relevant items in the database."""
        assert self.ideal is not None
        return int(self.ideal.counts.sum())


def _precisions(judged: Judged, k: int) -> float:
    """Sum the precisions at the ranks of the relevant items among the first k."""
    relevant = judged.relevant[:k]
    return float((np.cumsum(relevant) / np.arange(1, len(relevant) + 1) * relevant).sum())


def _ratio(value: float, by: float) -> float:
    return value / by if by else 0.0


def average_precision(judged: Judged, k: int) -> float:
    """Divide by the relevant items found among the first k: the paper's definition."""
    return _ratio(_precisions(judged, k), float(judged.relevant[:k].sum()))


def average_precision_cut(judged: Judged, k: int) -> float:
    """Divide by R: trec_eval's map_cut."""
    return _ratio(_precisions(judged, k), judged.n_relevant)


def average_precision_min(judged: Judged, k: int) -> float:
    """Divide by min(R, k)."""
    return _ratio(_precisions(judged, k), min(judged.n_relevant, k))


def precision(judged: Judged, k: int) -> float:
    """Share of relevant items among the first k; missing hits count as irrelevant."""
    return float(judged.relevant[:k].sum()) / k


def recall(judged: Judged, k: int) -> float:
    """Share of the R relevant items that are among the first k."""
    return _ratio(float(judged.relevant[:k].sum()), judged.n_relevant)


def reciprocal_rank(judged: Judged, k: int) -> float:
    """One over the rank of the first relevant item among the first k, 0 without one; its mean is the MRR."""
    found = np.flatnonzero(judged.relevant[:k])
    return 1.0 / (int(found[0]) + 1) if len(found) else 0.0


def ndcg(judged: Judged, k: int) -> float:
    """Discounted cumulative gain over the ideal one, gains as they are (Järvelin and Kekäläinen 2002)."""
    assert judged.ideal is not None
    return _ratio(_dcg(judged.gains[:k]), _ideal_dcg(judged.ideal, k))


def _dcg(gains: NDArray[np.float64]) -> float:
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def _ideal_dcg(ideal: Ideal, k: int) -> float:
    places = np.diff(np.minimum(np.cumsum(ideal.counts), k), prepend=0)  # that each level takes among the first k
    return _dcg(np.repeat(ideal.gains, places))


def nmrr(judged: Judged, k: int) -> float:
    """Normalised modified retrieval rank (MPEG-7; Manjunath et al. 2001), 0 best, 1 worst; its mean is the ANMRR.

    The standard's depth is ``k = min(4 R, 2 max R)``; an item that is not among the first k is given rank 1.25 k.
    """
    n_relevant = judged.n_relevant
    if not n_relevant:
        return 1.0
    ranks = np.flatnonzero(judged.relevant[:k]) + 1.0
    return _nmrr((ranks.sum() + (n_relevant - len(ranks)) * 1.25 * k) / n_relevant, n_relevant, k)


def _nmrr(average_rank: float, n_relevant: int, k: int) -> float:
    best = 0.5 + n_relevant / 2
    return float((average_rank - best) / (1.25 * k - best))


# Random order --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _found(n_items: int, n_relevant: int, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the numbers m of R relevant items that may be among the first k of N, and their chances (hypergeometric)."""

    def log_choose(n: int, m: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)

    others = n_items - n_relevant
    least = max(0, k - others)
    numbers = np.arange(least, min(k, n_relevant) + 1)
    first = log_choose(n_relevant, least) + log_choose(others, k - least) - log_choose(n_items, k)
    m = numbers[:-1].astype(np.float64)
    ratios = (n_relevant - m) * (k - m) / ((m + 1) * (others - k + m + 1))  # of the chance of m + 1 to that of m
    return numbers, np.exp(first + np.concatenate([[0.0], np.cumsum(np.log(ratios))]))


def _random_precisions(judged: Judged, k: int, divide: Callable[[NDArray[np.int64]], Any]) -> float:
    """Expect the sum of precisions over a divisor that depends on the number m found.

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


def _random_share(judged: Judged) -> float:
    assert judged.n_items is not None
    return judged.n_relevant / judged.n_items if judged.n_items else 0.0


def _random_precision(judged: Judged, k: int) -> float:
    assert judged.n_items is not None
    return _random_share(judged) * min(k, judged.n_items) / k


def _random_recall(judged: Judged, k: int) -> float:
    assert judged.n_items is not None
    return min(k, judged.n_items) / judged.n_items if judged.n_relevant else 0.0


def _random_reciprocal_rank(judged: Judged, k: int) -> float:
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


def _random_ndcg(judged: Judged, k: int) -> float:
    assert judged.ideal is not None
    assert judged.n_items is not None
    k = min(k, judged.n_items)
    mean_gain = float(judged.ideal.gains @ judged.ideal.counts) / judged.n_items
    return _ratio(_dcg(np.full(k, mean_gain)), _ideal_dcg(judged.ideal, k))


def _random_nmrr(judged: Judged, k: int) -> float:
    assert judged.n_items is not None
    n, r = judged.n_items, judged.n_relevant
    if not r:
        return 1.0
    inside = min(k, n)
    return _nmrr((inside * (inside + 1) / 2 + (n - inside) * 1.25 * k) / n, r, k)


@dataclass(frozen=True)
class Measure:
    """A metric's definition.

    Attributes
    ----------
    value : callable
        (judged, k) -> value of one query.
    random : callable
        (judged, k) -> expected value for a random order.
    needs_truth : bool
        It depends on R, which the hits alone do not tell.
    """

    value: Callable[[Judged, int], float]
    random: Callable[[Judged, int], float]
    needs_truth: bool


MEASURES = {
    "map": Measure(average_precision, lambda j, k: _random_precisions(j, k, lambda m: m), needs_truth=False),
    "map_cut": Measure(
        average_precision_cut, lambda j, k: _random_precisions(j, k, lambda _: j.n_relevant), needs_truth=True
    ),
    "map_min": Measure(
        average_precision_min, lambda j, k: _random_precisions(j, k, lambda _: min(j.n_relevant, k)), needs_truth=True
    ),
    "p": Measure(precision, _random_precision, needs_truth=False),
    "r": Measure(recall, _random_recall, needs_truth=True),
    "ndcg": Measure(ndcg, _random_ndcg, needs_truth=True),
    "mrr": Measure(reciprocal_rank, _random_reciprocal_rank, needs_truth=False),
    "anmrr": Measure(nmrr, _random_nmrr, needs_truth=True),
}

#: How the user writes them.
SPELLINGS = tuple(name if name == "anmrr" else f"{name}@K" for name in MEASURES)
#: The deepest ranking that is believed; a query's ranks fill an array.
MAX_RANK = 10**7
DEFAULT_METRICS = ("map@20", "p@20", "mrr@20")


@dataclass(frozen=True)
class Metric:
    """A metric at a depth, such as ``map@20``.

    Attributes
    ----------
    name : str
        As the user writes it.
    measure : Measure
        What it computes.
    k : int or None
        Depth; ``None`` only for ``anmrr``, where each query then has the standard's.
    """

    name: str
    measure: Measure
    k: int | None

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Read ``NAME@K``.

        Raises
        ------
        UsageError
            It is not a metric, or has no depth.
        """
        found = re.fullmatch(r"([a-z_]+)(?:@([1-9]\d*))?", text.lower())
        measure = MEASURES.get(found[1]) if found else None
        if not found or measure is None:
            raise UsageError(f"unknown metric {text!r}; one of {' '.join(SPELLINGS)}")
        if len(found[2] or "") > len(str(MAX_RANK)) or int(found[2] or 0) > MAX_RANK:
            raise UsageError(f"{text[:40]} looks deeper than {MAX_RANK} ranks")
        if (found[2] is None) == (found[1] != "anmrr"):
            raise UsageError(
                f"{text!r} is written {found[1]}@K, such as {found[1]}@20"
                if found[2] is None
                else "anmrr has its own depth; write it without one"
            )
        return cls(text.lower(), measure, int(found[2]) if found[2] else None)

    def depth(self, judged: Judged, most_relevant: int) -> int:
        """Give k; for ``anmrr`` min(4 R, 2 max R), and ``most_relevant`` is the greatest R of all queries."""
        return self.k or max(1, min(4 * judged.n_relevant, 2 * most_relevant))

    def value(self, judged: Judged, most_relevant: int = 0) -> float:
        """Measure one query."""
        return self.measure.value(judged, self.depth(judged, most_relevant))

    def random(self, judged: Judged, most_relevant: int = 0) -> float:
        """Expect the value of one query if the database were ranked in random order."""
        return self.measure.random(judged, self.depth(judged, most_relevant))


#: What `Means` tells of a metric: its mean, the mean of a random ranking, and what the two hide.
MEANS_COLUMNS = ("metric", "value", "random", "queries", "without_relevant", "nothing_found")


class Means:
    """Metrics' means over queries that come one by one.

    Parameters
    ----------
    metrics : sequence of Metric
        What to measure.
    most_relevant : int
        The greatest R of all queries, for ``anmrr``.

    Attributes
    ----------
    queries : int
        Queries so far.
    """

    def __init__(self, metrics: Sequence[Metric], most_relevant: int = 0) -> None:
        self._metrics = metrics
        self._most_relevant = most_relevant
        self._sums = np.zeros(len(metrics))
        self._random_sums = np.zeros(len(metrics))
        self._depths = [0] * len(metrics)
        self._deepest = 0
        self._least_items: float = math.inf
        self.queries = 0
        self._nothing_found = 0
        # None from the first query on of which it is not known
        self._without_relevant: int | None = 0
        self._levels = True

    def add(self, judged: Judged) -> list[float]:
        """Measure a query, count it in, and give its values."""
        values = [metric.value(judged, self._most_relevant) for metric in self._metrics]
        self._sums += values
        self.queries += 1
        self._nothing_found += not judged.relevant.any()
        depths = [metric.depth(judged, self._most_relevant) for metric in self._metrics]
        self._depths = list(map(max, self._depths, depths))
        self._deepest = max(self._deepest, len(judged.gains))
        if judged.ideal is None:
            self._without_relevant = None
        elif self._without_relevant is not None:
            self._without_relevant += not judged.n_relevant
        if judged.n_items is None:
            self._levels = False
        elif self._levels:
            self._random_sums += [metric.random(judged, self._most_relevant) for metric in self._metrics]
            self._least_items = min(self._least_items, judged.n_items)
        return values

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Give a row of `MEANS_COLUMNS` a metric; ``None`` stands for what is not known."""
        counts = (self.queries, self._without_relevant, self._nothing_found)
        unknown = [None] * len(self._metrics)
        means = (self._sums / self.queries).tolist() if self.queries else unknown
        levels = (self._random_sums / self.queries).tolist() if self.queries and self._levels else unknown
        for metric, mean, level in zip(self._metrics, means, levels, strict=True):
            yield metric.name, mean, level, *counts

    def too_shallow(self) -> Iterator[tuple[str, int, int]]:
        """Name metrics that look deeper than any query's hits go: the metric, its depth, and that of the hits.

        They take the hits that are missing for irrelevant ones.
        """
        for metric, depth in zip(self._metrics, self._depths, strict=True):
            if min(depth, self._least_items) > self._deepest:
                yield metric.name, depth, self._deepest
