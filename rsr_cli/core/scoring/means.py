"""Means of metrics over queries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rsr_cli.core.scoring.formulas import Judged
    from rsr_cli.core.scoring.metrics import Metric

#: Columns of `Means.rows`: a metric, its mean, the mean of random rankings, and counts of queries.
MEANS_COLUMNS = ("metric", "value", "random", "queries", "without_relevant", "nothing_found")


class Means:
    """Means of metrics over queries that arrive one by one.

    Parameters
    ----------
    metrics : sequence of Metric
        The metrics.
    most_relevant : int
        The greatest R of all queries, for metrics that define their own depth.

    Attributes
    ----------
    queries : int
        Number of queries.
    deepest : int
        Greatest number of hits of a query.
    """

    def __init__(self, metrics: Sequence[Metric], most_relevant: int = 0) -> None:
        self._metrics = metrics
        self._most_relevant = most_relevant
        self._sums = np.zeros(len(metrics))
        self._random_sums = np.zeros(len(metrics))
        self._depths = [0] * len(metrics)
        self.deepest = 0
        self._least_items: float = math.inf
        self.queries = 0
        self._nothing_found = 0
        # None once it is unknown for one query.
        self._without_relevant: int | None = 0
        self._levels = True

    def add(self, judged: Judged) -> list[float]:
        """Include a query, and return its value of each metric."""
        values = [metric.value(judged, self._most_relevant) for metric in self._metrics]
        self._sums += values
        self.queries += 1
        self._nothing_found += not judged.relevant.any()
        depths = [metric.depth(judged, self._most_relevant) for metric in self._metrics]
        self._depths = list(map(max, self._depths, depths))
        self.deepest = max(self.deepest, len(judged.gains))
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
        """Yield one row of `MEANS_COLUMNS` per metric, with ``None`` for what is unknown."""
        counts = (self.queries, self._without_relevant, self._nothing_found)
        unknown = [None] * len(self._metrics)
        means = (self._sums / self.queries).tolist() if self.queries else unknown
        levels = (self._random_sums / self.queries).tolist() if self.queries and self._levels else unknown
        for metric, mean, level in zip(self._metrics, means, levels, strict=True):
            yield metric.name, mean, level, *counts

    def too_shallow(self) -> dict[int, list[str]]:
        """Return the metrics that count missing hits of every query as irrelevant: depth -> their names."""
        least_items = self._least_items if self._levels else math.inf
        found: dict[int, list[str]] = {}
        for metric, depth in zip(self._metrics, self._depths, strict=True):
            if min(depth, least_items) > self.deepest:
                found.setdefault(depth, []).append(metric.name)
        return found
