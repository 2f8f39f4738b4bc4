"""Judging hits: labels and qrels into relevance, queries into metrics."""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rsr_cli.core import streams
from rsr_cli.core.errors import RecordError, Skips, UsageError
from rsr_cli.core.metrics import Judged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.streams import Batch, Record

Match = Literal["any", "exact", "jaccard"]
Labels = frozenset[str]

#: The deepest ranking that is believed; a query's ranks fill an array.
MAX_RANK = 10**7


def relevance(query: Labels, item: Labels, match: Match) -> float:
    """Say how relevant an item is to a query, by their labels.

    ``any``: 1 where they share a label (the paper's). ``exact``: 1 where they have the same labels. ``jaccard``: shared
    labels over all labels, a grade for nDCG; above 0 is relevant. Without labels nothing is relevant.
    """
    shared = len(query & item)
    if match == "any":
        return float(shared > 0)
    if match == "exact":
        return float(shared > 0 and query == item)
    return shared / len(query | item) if shared else 0.0


class LabelTruth:
    """The database's labels.

    Parameters
    ----------
    match : str
        As in `relevance`.
    """

    def __init__(self, match: Match) -> None:
        self._match = match
        self._of_id: dict[str, Labels] = {}
        self._counts: Counter[Labels] = Counter()
        # What all queries of the same labels share: the array of a common label is as long as the database.
        self._judged: dict[tuple[Labels, Labels | None], tuple[NDArray[np.float64], int]] = {}

    def read(self, path: str, skips: Skips) -> None:
        """Read the database's Features.

        Raises
        ------
        RecordError
            A line is not a Feature, or its labels are not a list of names.
        """
        distinct: dict[Labels, Labels] = {}
        for batch in streams.read([path], skips):
            for i, record in enumerate(batch.records):
                try:
                    name = record.get("id")
                    if name is None:
                        raise RecordError("has no id")
                    if str(name) in self._of_id:
                        raise RecordError(f"the id {name!r} comes twice")
                    labels = _labels(record, "labels") or frozenset()
                except RecordError as error:
                    error.place = batch.place(i)
                    skips(error)
                    continue
                self._of_id[str(name)] = distinct.setdefault(labels, labels)
        self._counts.update(self._of_id.values())

    def labels(self, name: str) -> Labels | None:
        """Look up an item's labels."""
        return self._of_id.get(name)

    def judge(self, query: str, labels: Labels, *, exclude_self: bool) -> tuple[NDArray[np.float64], int]:
        """Give the relevance of all relevant items, greatest first, and the number of items."""
        own = self._of_id.get(query) if exclude_self else None
        if (labels, own) not in self._judged:
            self._judged[labels, own] = self._judge(labels, own)
        return self._judged[labels, own]

    def _judge(self, labels: Labels, own: Labels | None) -> tuple[NDArray[np.float64], int]:
        counts = self._counts
        if own is not None:
            counts = counts.copy()
            counts[own] -= 1
        grades: list[float] = []
        for other, count in counts.items():
            grade = relevance(labels, other, self._match)
            if grade:
                grades += [grade] * count
        return np.sort(np.array(grades))[::-1], sum(counts.values())


class Qrels:
    """Relevance judgements of a TREC qrels file: ``query 0 item grade``, separated by white space."""

    def __init__(self) -> None:
        self.grades: dict[str, dict[str, float]] = {}

    def read(self, path: str) -> None:
        """Read the file.

        Raises
        ------
        RecordError
            A line does not have the four fields.
        """
        for name, first, lines in streams.read_lines(path):
            for number, line in enumerate(lines, first):
                fields = line.decode(errors="replace").split()
                if not fields:
                    continue
                try:
                    query, _, item, grade = fields
                    self.grades.setdefault(query, {})[item] = max(0.0, float(int(grade)))
                except ValueError:
                    raise RecordError("is not a line of a qrels file: query 0 item grade", f"{name}:{number}") from None


class Evaluation:
    """Collects hits in any order and judges them query by query.

    Parameters
    ----------
    match : str
        As in `relevance`.
    truth : LabelTruth, Qrels or None
        What is relevant in the whole database; without it the hits' own labels tell what was found.
    exclude_self : bool
        A query's own item does not count.

    Attributes
    ----------
    selves : int
        Hits so far that are the query's own item.
    """

    def __init__(self, match: Match, truth: LabelTruth | Qrels | None, *, exclude_self: bool) -> None:
        self._match: Match = match
        self._truth = truth
        self._exclude_self = exclude_self
        self.selves = 0
        self._queries: dict[str, tuple[int, Labels]] = {}
        self._distinct: dict[Labels, Labels] = {}
        # One entry a hit, in 16 bytes, so that millions fit.
        self._query = array("I")
        self._rank = array("I")
        self._gain = array("d")

    def add(self, batch: Batch, skips: Skips) -> None:
        """Judge a batch of hits.

        Raises
        ------
        RecordError
            A record is not a hit, or its relevance cannot be told.
        """
        for i, hit in enumerate(batch.records):
            try:
                self._add(hit)
            except RecordError as error:
                error.place = batch.place(i)
                skips(error)

    def _add(self, hit: Record) -> None:
        properties = hit["properties"]
        query, rank = properties.get("query"), properties.get("rank")
        if query is None or type(rank) is not int or not 1 <= rank <= MAX_RANK:
            raise RecordError("is not a hit: it has no query and rank; pass the stream through rsr query")
        query, item = str(query), str(hit.get("id"))
        number, labels = self._queries.get(query) or self._new(query, hit)
        if isinstance(self._truth, Qrels):
            gain = self._truth.grades.get(query, {}).get(item, 0.0)
        else:
            found = self._truth.labels(item) if self._truth else _labels(hit, "labels")
            if found is None:
                where = "the truth" if self._truth else "its properties"
                raise RecordError(f"the hit {item!r} has no labels in {where}; see --truth")
            gain = relevance(labels, found, self._match)
        if item == query:
            self.selves += 1
            if self._exclude_self:
                gain = -1.0  # taken out of the ranking
        self._query.append(number)
        self._rank.append(rank)
        self._gain.append(gain)

    def _new(self, query: str, hit: Record) -> tuple[int, Labels]:
        labels: Labels | None = frozenset()
        if not isinstance(self._truth, Qrels):
            labels = _labels(hit, "query_labels")
            if labels is None and self._truth:
                labels = self._truth.labels(query)
            if labels is None:
                raise RecordError(
                    f"the query {query!r} has no labels in query_labels or --truth; label tiles before rsr index"
                )
        assert labels is not None
        self._queries[query] = len(self._queries), self._distinct.setdefault(labels, labels)
        return self._queries[query]

    def judged(self) -> Iterator[tuple[str, Judged]]:
        """Give each query and its judged hits, in the order in which the queries came first.

        Queries that only the qrels name come last, with no hit. A rank that no hit has counts as irrelevant.

        Raises
        ------
        RecordError
            Two hits of a query have the same rank.
        """
        queries = np.frombuffer(self._query, np.uint32) if self._query else np.empty(0, np.uint32)
        ranks = np.frombuffer(self._rank, np.uint32) if self._rank else np.empty(0, np.uint32)
        gains = np.frombuffer(self._gain, np.float64) if self._gain else np.empty(0)
        order = np.lexsort((ranks, queries))
        bounds = np.searchsorted(queries[order], np.arange(len(self._queries) + 1))
        for query, (number, labels) in self._queries.items():
            mine = order[bounds[number] : bounds[number + 1]]
            if not len(mine):  # none of its hits could be judged
                continue
            positions = ranks[mine]
            if (np.diff(positions) == 0).any():
                twice = int(positions[:-1][np.diff(positions) == 0][0])
                raise RecordError(f"the query {query!r} has two hits of rank {twice}; score one run at a time")
            by_rank = np.zeros(int(positions[-1]))
            by_rank[positions - 1] = gains[mine]
            yield query, self._judge(query, labels, by_rank[by_rank >= 0])
        if isinstance(self._truth, Qrels):
            for query in self._truth.grades:
                if query not in self._queries:
                    yield query, self._judge(query, frozenset(), np.empty(0))

    def _judge(self, query: str, labels: Labels, gains: np.ndarray[Any, Any]) -> Judged:
        if self._truth is None:
            return Judged(gains)
        if isinstance(self._truth, LabelTruth):
            return Judged(gains, *self._truth.judge(query, labels, exclude_self=self._exclude_self))
        grades = self._truth.grades.get(query, {})
        kept = [grade for item, grade in grades.items() if grade and not (self._exclude_self and item == query)]
        return Judged(gains, np.sort(np.array(kept))[::-1])


def _labels(record: Record, name: str) -> Labels | None:
    labels = record["properties"].get(name)
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise RecordError(f"its {name} are not a list of names")
    return frozenset(labels)


def read_truth(path: str, match: Match, skips: Skips) -> LabelTruth | Qrels:
    """Read what is relevant: a TREC qrels file where the name ends in ``.qrels``, Features otherwise.

    Raises
    ------
    UsageError
        ``match`` is not ``any`` with qrels, which know no labels.
    """
    if Path(path).suffix == ".qrels":
        if match != "any":
            raise UsageError("--match compares labels, and a qrels file has none; leave it out")
        qrels = Qrels()
        qrels.read(path)
        return qrels
    truth = LabelTruth(match)
    truth.read(path, skips)
    return truth
