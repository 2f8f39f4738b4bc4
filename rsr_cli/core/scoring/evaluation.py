"""Hits grouped by query and judged.

Hits arrive in any order, possibly by the hundred million. They and the ground truth are kept in SQLite databases that
move to temporary files as they grow.
"""

from __future__ import annotations

import contextlib
import sqlite3
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.errors import RecordError, Skips
from rsr_cli.core.records.fields import id_of, id_text
from rsr_cli.core.scoring.labels import HitLabels, LabelSets, LabelTruth
from rsr_cli.core.scoring.metrics import MAX_RANK, Judged
from rsr_cli.core.scoring.qrels import Qrels, is_qrels
from rsr_cli.core.scoring.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch, Record
    from rsr_cli.core.scoring.labels import Labels, Match


@contextlib.contextmanager
def open_truth(path: str | None, match: Match, skips: Skips) -> Iterator[HitLabels | Qrels]:
    """Read what is relevant: from a qrels file, from the database's records, or without a path from the hits alone.

    Parameters
    ----------
    path : str or None
        A file; the ending ``.qrels`` marks a qrels file.
    match : str
        When labels make a hit relevant; see `labels.relevance`.
    skips : Skips
        Asked about lines that cannot be used.

    Yields
    ------
    HitLabels or Qrels
        What `Evaluation` judges hits by.

    Raises
    ------
    RecordError
        A line cannot be used.
    """
    if path is None:
        with HitLabels(match) as hit_labels:
            yield hit_labels
        return
    with Qrels() if is_qrels(path) else LabelTruth(match) as truth:
        truth.read(path, skips)
        yield truth


class Evaluation(Spool):
    """Collects hits in any order and judges them query by query.

    Parameters
    ----------
    truth : HitLabels or Qrels
        Judges hits; see `open_truth`.
    exclude_self : bool
        Ignore hits that are their query's own item.

    Attributes
    ----------
    selves : int
        Number of hits that are their query's own item.
    """

    TABLES = """
        CREATE TABLE queries (number INTEGER PRIMARY KEY, name TEXT UNIQUE, labels INTEGER);
        CREATE TABLE hits (query INTEGER, rank INTEGER, gain REAL, item INTEGER, PRIMARY KEY (query, rank))
        WITHOUT ROWID
    """

    def __init__(self, truth: HitLabels | Qrels, *, exclude_self: bool) -> None:
        super().__init__()
        self._truth = truth
        self._exclude_self = exclude_self
        self.selves = 0
        self._sets = LabelSets()
        self._count = 0
        # Name, number and labels of the latest hit's query: most hits follow another one of the same query.
        self._last: tuple[str | None, int, Labels] = None, 0, frozenset()

    def add(self, batch: Batch, skips: Skips) -> None:
        """Judge a batch of hits.

        Raises
        ------
        RecordError
            A record is not a hit, cannot be judged, or has the query and rank of an earlier hit.
        """
        batch.apply(self._add, skips)

    def _add(self, hit: Record) -> None:
        query, rank = query_and_rank(hit)
        item = id_of(hit)
        if query != self._last[0]:
            self._last = query, *self._query(query, hit)
        _, number, labels = self._last
        gain = self._truth.gain(query, labels, hit)
        if item == query and self._exclude_self:
            gain = -1.0  # marks a hit to leave out of the ranking
        try:
            # The item's hash is enough, because items are only compared.
            self._execute("INSERT INTO hits VALUES (?, ?, ?, ?)", (number, rank, gain, hash(item)))
        except sqlite3.IntegrityError:
            raise RecordError(f"the query {query!r} has two hits of rank {rank}", remedy="one-run") from None
        self.selves += item == query

    def _query(self, query: str, hit: Record) -> tuple[int, Labels]:
        """Return the number and the labels of a hit's query; store a new query."""
        known = self._execute("SELECT number, labels FROM queries WHERE name = ?", (query,)).fetchone()
        if known:
            return known[0], self._sets[known[1]]
        labels = self._truth.query_labels(query, hit)
        number, self._count = self._count, self._count + 1
        self._execute("INSERT INTO queries VALUES (?, ?, ?)", (number, query, self._sets.number(labels)))
        return number, labels

    def longest_query(self) -> int:
        """Return the length of the longest query id that `judged` yields."""
        (longest,) = self._execute("SELECT max(length(name)) FROM queries").fetchone()
        return max(longest or 0, *map(len, self._truth.queries()), 0)

    def most_relevant(self) -> int:
        """Return the greatest number of relevant items of any query; the truth must be known."""
        return max((judged.n_relevant for _, judged in self.judged()), default=0)

    def judged(self) -> Iterator[tuple[str, Judged]]:
        """Yield each query and its judged hits, in the order in which the queries first appeared.

        Queries that have no hit but are judged by the truth come last. A rank without a hit counts as irrelevant.

        Raises
        ------
        RecordError
            A query has the same item at two ranks.
        """
        rows = self._execute(
            "SELECT name, labels, rank, gain, item FROM hits JOIN queries ON number = query ORDER BY query, rank"
        )
        for (query, labels), group in groupby(rows, key=itemgetter(0, 1)):
            hits = list(group)
            if len({hit[4] for hit in hits}) < len(hits):
                raise RecordError(f"the query {query!r} has an item at two ranks", remedy="one-run")
            ranks, gains = np.array([hit[2:4] for hit in hits]).T
            by_rank = np.zeros(int(ranks[-1]))
            by_rank[ranks.astype(np.intp) - 1] = gains
            yield query, self._judge(query, self._sets[labels], by_rank[by_rank >= 0])
        for query in self._truth.queries():
            if not self._execute("SELECT 1 FROM queries WHERE name = ?", (query,)).fetchone():
                yield query, self._judge(query, frozenset(), np.empty(0))

    def _judge(self, query: str, labels: Labels, gains: NDArray[np.float64]) -> Judged:
        return Judged(gains, *self._truth.ideal(query, labels, exclude_self=self._exclude_self))


def query_and_rank(hit: Record) -> tuple[str, int]:
    """Return the id of a hit's query, and its rank.

    Raises
    ------
    RecordError
        The record is not a hit.
    """
    query, rank = id_text(hit["properties"].get("query")), hit["properties"].get("rank")
    if query is None or type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise RecordError("is not a hit: it has no query and rank", remedy="query")
    return query, rank
