"""An index, and what decides its hits: a radius, filters, how many partitions are searched, and what is reranked."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import UsageError
from rsr_cli.core.index.flat import ranked
from rsr_cli.core.index.manifest import HAMMING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.index.flat import Found
    from rsr_cli.core.index.kept import Kept
    from rsr_cli.core.index.reading import Index

    #: Distances and rows in the order of (distance, row), and whether no others would follow.
    Ranked = tuple[NDArray[np.float64], NDArray[np.int64], bool]


log = logging.getLogger("rsr")


@dataclass(frozen=True)
class Scope:
    """What is searched.

    Attributes
    ----------
    index : Index
        An open index.
    radius : float or None
        Maximum distance of a hit.
    kept : sequence of Kept, optional
        The rows that may be hits, as `Index.search` takes them.
    probe : int or None
        Number of partitions to search, ``None`` for all.
    recall : float or None
        Recall that as many partitions are searched for.
    rerank : int or None
        Rank so many of each query's nearest codes again, by the distances of `Index.remeasure`. Hits are among these,
        and the radius is one of these distances.
    below_zero : bool
        Distances of codes can be below 0: those to what hits are to be like, less those to what they are to be unlike.
    """

    index: Index
    radius: float | None = None
    kept: Sequence[Kept] | None = None
    probe: int | None = None
    recall: float | None = None
    rerank: int | None = None
    below_zero: bool = False

    def check(self, k: int | None) -> None:
        """Check that the index can be searched so for k hits.

        Raises
        ------
        UsageError
            The radius is below 0, and no distance of the index can be; or the index has no codes to rank again, no
            partitions, or that recall was not measured.
        """
        space, refine = self.index.manifest.space, self.index.manifest.refine
        metric = refine.metric if self.rerank and refine else self.index.manifest.metric
        if self.rerank:
            if space and space.kind == "embedding":
                what = "compares embeddings, exactly: there are no codes to rank again"
                raise UsageError(what, str(self.index.path), remedy="no-rerank")
            if self.index.code and not refine:
                what = "compares codes by a distance of their own, and stores no embeddings to rank them again by"
                raise UsageError(what, str(self.index.path), remedy="refine")
            by = f"{metric} of embeddings" if refine else "weights of their bits, as no embeddings are stored"
            log.info("the %d nearest codes of each query are ranked again, by %s", self.rerank, by)
        own = self.index.code is not None and not self.rerank  # an estimate, which may be below 0
        below_zero = metric == "dot" or own or (metric == HAMMING and self.below_zero)
        if self.radius is not None and not self.radius >= 0 and not below_zero:
            raise UsageError(f"a radius of {self.radius:g} contains nothing: {metric} distances are 0 or more")
        if self.probe is None and self.recall is None:
            return
        measured = [segment.recall for segment in self.index.segments if segment.recall is not None]
        if not measured and self.index.manifest.partitions is None:
            raise UsageError(f"{self.index.path} has no partitions", remedy="partitions")
        if k is None and self.rerank is None:
            raise UsageError("partitions are searched for a number of hits, and not for all", remedy="k")
        if self.recall is not None and self.rerank is None and k is not None:
            for each in measured:
                each.probe_for(self.recall, k)

    def nearest(
        self, vectors: NDArray[Any], k: int | None, without: Sequence[NDArray[np.int64]], more: bool = False
    ) -> list[Found]:
        """Find the nearest rows of queries, as `Index.search` does.

        With ``more`` there are more hits than those whose recall is asked for: as many are searched for as were
        measured, and all rows if none were.
        """
        recall, wanted = self.recall, k
        if more and recall is not None and k is not None:
            measured = [segment.recall.ks for segment in self.index.segments if segment.recall is not None]
            wanted = min((n for ks in measured for n in ks if n >= k), default=None)
            recall, wanted = (None, k) if wanted is None else (recall, wanted)
        return self.index.search(vectors, wanted, self.radius, self.kept, without, probe=self.probe, recall=recall)

    def ranked(self, vector: NDArray[Any], k: int | None, without: NDArray[np.int64]) -> Ranked:
        """Rank at least the k nearest rows of one query (1, width)."""
        ((distances, rows),) = self.nearest(vector, k, [without], more=True)
        return distances, rows, k is None or len(rows) < k

    def shortlists(self, vectors: NDArray[Any], without: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Find the rows of each query to rank again, int64, sorted, which is how they lie on disk."""
        found = replace(self, radius=None).nearest(vectors, self.rerank, without, more=True)
        return [np.sort(rows[: self.rerank]) for _, rows in found]

    def again(self, fine: NDArray[Any], rows: NDArray[np.int64]) -> Ranked:
        """Rank a shortlist by what `Index.remeasure` measures from ``fine``."""
        return *ranked(self.index.remeasure(fine, rows), rows, self.radius), True

    def combined(
        self,
        codes: NDArray[np.uint8],
        weights: NDArray[np.int64],
        divisor: int,
        k: int | None,
        without: NDArray[np.int64],
    ) -> Ranked:
        """Rank the rows nearest to several codes together, as `Index.combined` does."""
        distances, rows = self.index.combined(codes, weights, divisor, k, self.radius, self.kept, without)
        return distances, rows, k is None or len(rows) < k
