"""The retrieval metrics that users choose from.

`METRICS` lists them: one entry adds one, with its name in ``rsr score --metrics``, its line in the help and the manual,
and its comparison with random rankings in the tests. Their formulas are in `formulas`, which is imported when a value
is computed, because it needs numpy.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rsr_cli.core.scoring.formulas import Judged

#: When an item is relevant to a query; see `labels.relevance`.
Match = Literal["any", "exact", "jaccard"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Definition of a metric.

    Attributes
    ----------
    summary : str
        What it is, for the help: one line of at most 66 characters.
    formula : str
        Name of its function in `formulas`: (judged, k) -> value of one query. That of the same name after ``random_``
        returns the expected value of one query if the database is ranked in random order.
    needs_truth : bool
        It depends on R, which hits alone do not show.
    depth : str or None
        Name of a function in `formulas`, for a metric that defines its own depth and is written without ``@K``:
        (judged, greatest R of all queries) -> k.
    """

    summary: str
    formula: str
    needs_truth: bool = False
    depth: str | None = None

    @cached_property
    def value(self) -> Callable[[Judged, int], float]:
        """The function of ``formula``."""
        return _function(self.formula)

    @cached_property
    def random(self) -> Callable[[Judged, int], float]:
        """The function of its expected value."""
        return _function(f"random_{self.formula}")

    @cached_property
    def own_depth(self) -> Callable[[Judged, int], int] | None:
        """The function of ``depth``."""
        return _function(self.depth) if self.depth else None


def _function(name: str) -> Any:
    return getattr(importlib.import_module("rsr_cli.core.scoring.formulas"), name)


METRICS = {
    "map": Measure(
        summary="average precision over relevant hits in the top K (the paper's)",
        formula="average_precision",
    ),
    "map_cut": Measure(
        summary="average precision over all relevant items (trec_eval's map_cut)",
        formula="average_precision_cut",
        needs_truth=True,
    ),
    "map_min": Measure(
        summary="average precision over all relevant items, but at most K",
        formula="average_precision_min",
        needs_truth=True,
    ),
    "p": Measure(
        summary="precision: share of the top K that is relevant",
        formula="precision",
    ),
    "r": Measure(
        summary="recall: share of the relevant items that is in the top K",
        formula="recall",
        needs_truth=True,
    ),
    "ndcg": Measure(
        summary="normalised discounted cumulative gain of the top K",
        formula="ndcg",
        needs_truth=True,
    ),
    "mrr": Measure(
        summary="1 / rank of the first relevant hit in the top K",
        formula="reciprocal_rank",
    ),
    "anmrr": Measure(
        summary="MPEG-7's ANMRR, 0 is best, at twice the largest class's depth",
        formula="nmrr",
        needs_truth=True,
        depth="nmrr_depth",
    ),
}

#: Metric -> how users write it.
SPELLINGS = {name: name if measure.depth else f"{name}@K" for name, measure in METRICS.items()}
DEFAULT_METRICS = ("map@20", "p@20", "mrr@20")
#: The greatest accepted rank and depth: arrays hold the discounts of all ranks.
MAX_RANK = 10**7


@dataclass(frozen=True)
class Metric:
    """A metric at a depth, such as ``map@20``.

    Attributes
    ----------
    name : str
        As the user writes it.
    measure : Measure
        Its definition.
    k : int or None
        Depth, ``None`` if the metric defines its own.
    """

    name: str
    measure: Measure
    k: int | None

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Return the metric that a user writes as ``NAME@K``.

        Raises
        ------
        UsageError
            There is no such metric, or it needs a depth, or defines its own.
        """
        found = re.fullmatch(r"([a-z_]+)(?:@([1-9]\d*))?", text.lower())
        name, k = found.groups() if found else ("", None)
        measure = METRICS.get(name)
        if measure is None:
            raise UsageError(f"unknown metric {text[:40]!r}; one of {' '.join(SPELLINGS.values())}")
        if k and (len(k) > len(str(MAX_RANK)) or int(k) > MAX_RANK):
            raise UsageError(f"{text[:40]} is deeper than {MAX_RANK} ranks")
        if measure.depth and k:
            raise UsageError(f"{name} defines its own depth; write it without @")
        if not measure.depth and not k:
            raise UsageError(f"{name} needs a depth, such as {name}@20")
        return cls(text.lower(), measure, int(k) if k else None)

    def depth(self, judged: Judged, most_relevant: int) -> int:
        """Return how many hits of a query count; ``most_relevant`` is the greatest R of all queries."""
        if self.measure.own_depth:
            return self.measure.own_depth(judged, most_relevant)
        assert self.k is not None
        return self.k

    def value(self, judged: Judged, most_relevant: int = 0) -> float:
        """Return the value of one query."""
        return self.measure.value(judged, self.depth(judged, most_relevant))

    def random(self, judged: Judged, most_relevant: int = 0) -> float:
        """Return the expected value of one query if the database is ranked in random order."""
        return self.measure.random(judged, self.depth(judged, most_relevant))
