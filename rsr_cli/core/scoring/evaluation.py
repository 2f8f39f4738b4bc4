"""Hits grouped by query and judged.

Hits arrive in any order, possibly by the hundred million. They and the ground truth are kept in SQLite databases that
move to temporary files as they grow.
"""

from __future__ import annotations

import contextlib
import sqlite3
from itertools import groupby, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rsr_cli.core.errors import RecordError, RsrError, Skips
from rsr_cli.core.records.fields import id_of, id_text
from rsr_cli.core.records.tables import NOTHING_STATED, TableSettings
from rsr_cli.core.records.trec import word
from rsr_cli.core.scoring.formulas import Judged
from rsr_cli.core.scoring.labels import HitLabels, LabelSets, LabelTruth
from rsr_cli.core.scoring.metrics import MAX_RANK
from rsr_cli.core.scoring.qrels import Qrels, is_qrels
from rsr_cli.core.scoring.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch, Record
    from rsr_cli.core.scoring.labels import Labels
    from rsr_cli.core.scoring.metrics import Match


@contextlib.contextmanager
def open_truth(
    path: str | None, match: Match, skips: Skips, settings: TableSettings = NOTHING_STATED
) -> Iterator[HitLabels | Qrels]:
    """Read what is relevant: from a qrels file, from the database's records, or without a path from the hits alone.

    Parameters
    ----------
    path : str or None
        A file; the ending ``.qrels`` marks a qrels file.
    match : str
        When labels make a hit relevant; see `labels.relevance`.
    skips : Skips
        Asked about lines that cannot be used.
    settings : TableSettings
        What the user states of the database's records, if they are a table.

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
    with Qrels() if is_qrels(path) else LabelTruth(match, settings) as truth:
        truth.read(path, skips)
        yield truth


#: Of the table of queries, those with hits; the others have none that can be used, or are not judged.
_ASKED = "(NOT judged OR EXISTS (SELECT 1 FROM hits WHERE query = number))"


class Counts(NamedTuple):
    """Numbers of queries that show how the hits and the truth of an `Evaluation` fit together.

    Attributes
    ----------
    asked : int
        With hits.
    unjudged : int
        With hits, but without a judgement.
    judged : int
        With a judgement, with or without hits.
    without_hits : int
        With a judgement, but without hits.
    with_gaps : int
        Whose ranks have gaps.
    without_self : int
        Whose own item is relevant, is not excluded, and is not among their hits.
    """

    asked: int
    unjudged: int
    judged: int
    without_hits: int
    with_gaps: int
    without_self: int


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
    hits, judged_hits : int
        Number of hits of judged queries, and of those that the truth judges; it may count others as irrelevant.
    """

    TABLES = """
        CREATE TABLE queries (
            number INTEGER PRIMARY KEY, name TEXT UNIQUE, labels INTEGER, judged INTEGER, misses_self INTEGER
        );
        CREATE TABLE hits (query INTEGER, rank INTEGER, gain REAL, item INTEGER, PRIMARY KEY (query, rank))
        WITHOUT ROWID
    """

    def __init__(self, truth: HitLabels | Qrels, *, exclude_self: bool) -> None:
        super().__init__()
        self._truth = truth
        self._exclude_self = exclude_self
        self.selves = 0
        self.hits = 0
        self.judged_hits = 0
        self._sets = LabelSets()
        self._count = 0
        # Name, number, labels and whether it is judged of the latest hit's query: most hits follow another of the same.
        self._last: tuple[str | None, int, Labels, bool] = None, 0, frozenset(), False

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
        _, number, labels, judged = self._last
        if not judged:
            return
        gain = self._truth.gain(query, labels, hit)
        stored = -1.0 if item == query and self._exclude_self else gain or 0.0  # -1: to leave out of the ranking
        try:
            # The item's hash is enough, because items are only compared.
            self._execute("INSERT INTO hits VALUES (?, ?, ?, ?)", (number, rank, stored, hash(item)))
        except sqlite3.IntegrityError:
            raise RecordError(f"the query {query!r} has two hits of rank {rank}", remedy="one-run") from None
        self.hits += 1
        self.judged_hits += gain is not None
        if item == query:
            self.selves += 1
            self._execute("UPDATE queries SET misses_self = 0 WHERE number = ?", (number,))

    def _query(self, query: str, hit: Record) -> tuple[int, Labels, bool]:
        """Return the number and the labels of a hit's query, and whether it is judged; store a new query."""
        known = self._execute("SELECT number, labels, judged FROM queries WHERE name = ?", (query,)).fetchone()
        if known:
            return known[0], self._sets[known[1]], bool(known[2])
        labels = self._truth.query_labels(query, hit)
        judged = self._truth.judges(query)
        misses_self = not self._exclude_self and bool(self._truth.relevance_of(query, query, labels))
        number, self._count = self._count, self._count + 1
        row = number, query, self._sets.number(labels), judged, misses_self
        self._execute("INSERT INTO queries VALUES (?, ?, ?, ?, ?)", row)
        return number, labels, judged

    def counts(self) -> Counts:
        """Count the queries whose scores may mislead."""
        asked, unjudged, without_self = self._execute(
            f"SELECT count(*), total(NOT judged), total(judged AND misses_self) FROM queries WHERE {_ASKED}"
        ).fetchone()
        with_gaps = "SELECT 1 FROM hits GROUP BY query HAVING max(rank) > count(*)"
        without_hits = sum(1 for _ in self._without_hits())
        return Counts(
            asked=asked,
            unjudged=int(unjudged),
            judged=asked - int(unjudged) + without_hits,
            without_hits=without_hits,
            with_gaps=self._execute(f"SELECT count(*) FROM ({with_gaps})").fetchone()[0],
            without_self=int(without_self),
        )

    def queries(self) -> Iterator[tuple[str, Labels]]:
        """Yield the id and the labels of each query that `judged` yields."""
        for query, labels in self._execute(f"SELECT name, labels FROM queries WHERE judged AND {_ASKED}"):
            yield query, self._sets[labels]
        yield from zip(self._without_hits(), repeat(frozenset()), strict=False)

    def _without_hits(self) -> Iterator[str]:
        for query in self._truth.queries():
            if not self._execute("SELECT 1 FROM queries WHERE name = ?", (query,)).fetchone():
                yield query

    def most_relevant(self) -> int:
        """Return the greatest number of relevant items of any query; the truth must be known."""
        return max((self._judge(*query, np.empty(0)).n_relevant for query in self.queries()), default=0)

    def judged(self, skips: Skips) -> Iterator[tuple[str, Judged]]:
        """Yield each query and its judged hits, in the order in which the queries first appeared.

        Queries that have no hit but are judged by the truth come last. The order of the ranks counts: ranks without a
        hit are closed up.

        Raises
        ------
        RecordError
            A query has the same item at two ranks; if ``skips`` lets it go, the lower one counts.
        RsrError
            The truth judges none of the queries.
        """
        if self._count and not self._execute("SELECT 1 FROM queries WHERE judged").fetchone():
            raise RsrError(self._none_is_judged(), remedy="qrels")
        rows = self._execute(
            "SELECT name, labels, gain, item FROM hits JOIN queries ON number = query ORDER BY query, rank"
        )
        for (query, labels), group in groupby(rows, key=itemgetter(0, 1)):
            items: set[int] = set()
            gains = []
            for _, _, gain, item in group:
                if item in items:
                    skips(RecordError(f"the query {query!r} has an item at two ranks", remedy="one-run"))
                elif gain >= 0:
                    gains.append(gain)
                items.add(item)
            yield query, self._judge(query, self._sets[labels], np.array(gains))
        for query in self._without_hits():
            yield query, self._judge(query, frozenset(), np.empty(0))

    def qrels(self) -> Iterator[bytes]:
        """Yield for each query that `judged` yields what is relevant to it, as lines of a TREC qrels file.

        A query to which nothing is relevant is judged by a line of grade 0, or trec_eval would leave it out.

        Raises
        ------
        RecordError
            An id has white space.
        """
        assert isinstance(self._truth, LabelTruth)
        for query, labels in self.queries():
            items = self._truth.relevant(query, labels, exclude_self=self._exclude_self)
            lines = [f"{word(query)} 0 {word(item)} 1\n" for item in items]
            yield "".join(lines or [f"{word(query)} 0 {word(query)} 0\n"]).encode()

    def _none_is_judged(self) -> str:
        """Return the message for a truth of other queries than those with hits."""
        (first,) = self._execute("SELECT name FROM queries WHERE number = 0").fetchone()
        asked = f"the query {first!r}" if self._count == 1 else f"any of the {self._count} queries, such as {first!r}"
        judged = next(iter(self._truth.queries()), None)
        but = ": it is empty" if judged is None else f", but {judged!r}, for example"
        return f"the ground truth does not judge {asked}{but}"

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
    if query is None or rank is None:
        raise RecordError("is not a hit: it has no query and rank", remedy="query")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        found = repr(rank)[:40]
        raise RecordError(f"is not a hit: its rank is {found}, not a whole number from 1 to {MAX_RANK}", remedy="query")
    return query, rank
