"""Judging hits: labels and qrels into relevance, queries into metrics.

Hits may come in any order and by the hundred million. They, and the truth they are compared with, are kept in private
SQLite databases, which go to temporary files as they outgrow a few megabytes.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from rsr_cli.core.errors import RecordError, RsrError, Skips, UsageError
from rsr_cli.core.records import jsonl, streams
from rsr_cli.core.scoring.metrics import MAX_RANK, Ideal, Judged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch, Record

Match = Literal["any", "exact", "jaccard"]
Labels = frozenset[str]

CACHE_KIB = 4096


class _Spool:
    """Tables that may outgrow memory: a private database in a temporary file, gone when it is closed.

    As a context manager it ends with RsrError where the temporary file could not be written or read.
    """

    def __init__(self, tables: str) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        # There is nothing to recover: the file has no name, and goes with the process.
        self._database.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{CACHE_KIB}; {tables}; BEGIN"
        )
        self._execute = self._database.execute

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        self._database.close()
        if isinstance(error, sqlite3.Error):
            raise RsrError(f"cannot keep what was read in a temporary file: {error}; see SQLITE_TMPDIR") from None


class _LabelSets:
    """Sets of labels, each kept once and known by its number."""

    def __init__(self) -> None:
        self._numbers: dict[Labels, int] = {}
        self._sets: list[Labels] = []

    def number(self, labels: Labels) -> int:
        """Give a set its number; sets are numbered from 0 as they come."""
        number = self._numbers.setdefault(labels, len(self._sets))
        if number == len(self._sets):
            self._sets.append(labels)
        return number

    def __getitem__(self, number: int) -> Labels:
        return self._sets[number]

    def __len__(self) -> int:
        return len(self._sets)


def relevance(query: Labels, item: Labels, match: Match) -> float:
    """Say how relevant an item is to a query, by their labels.

    ``any``: 1 where they share a label (the paper's). ``exact``: 1 where they have the same labels. ``jaccard``: shared
    labels over all labels, a grade for nDCG; above 0 is relevant. Without labels nothing is relevant.
    """
    return float(_grade(len(query & item), len(query), len(item), match))


def _grade(shared: Any, in_query: int, in_item: Any, match: Match) -> Any:
    """Grade items by how many labels they share with a query: `relevance` for one number or for arrays of them."""
    if match == "any":
        return shared > 0
    if match == "exact":
        return (shared > 0) & (shared == in_query) & (shared == in_item)
    total = in_query + in_item - shared
    return shared / (total + (total == 0))


class LabelTruth(_Spool):
    """The database's labels.

    Parameters
    ----------
    match : str
        As in `relevance`.
    """

    def __init__(self, match: Match) -> None:
        super().__init__("CREATE TABLE items (id TEXT PRIMARY KEY, labels INTEGER) WITHOUT ROWID")
        self._match = match
        self._sets = _LabelSets()
        self._counts: Counter[int] = Counter()
        # What all queries of the same labels share.
        self._ideals: dict[tuple[Labels, int | None], tuple[Ideal, int]] = {}

    def read(self, path: str, skips: Skips) -> None:
        """Read the database's Features.

        Raises
        ------
        RecordError
            A line is not a Feature, its id is missing or comes twice, or its labels are not a list of names.
        """
        for batch in streams.read([path], skips):
            for i, record in enumerate(batch.records):
                try:
                    self._add(record)
                except RecordError as error:
                    error.place = batch.place(i)
                    skips(error)
        self._items = np.array([self._counts[number] for number in range(len(self._sets))], np.int64)
        self._sizes = np.array([len(self._sets[number]) for number in range(len(self._sets))], np.int64)
        with_label = defaultdict(list)
        for number in range(len(self._sets)):
            for label in self._sets[number]:
                with_label[label].append(number)
        self._with_label = {label: np.array(numbers) for label, numbers in with_label.items()}

    def _add(self, record: Record) -> None:
        name = record.get("id")
        if name is None:
            raise RecordError("has no id")
        number = self._sets.number(labels_of(record, "labels") or frozenset())
        try:
            self._execute("INSERT INTO items VALUES (?, ?)", (str(name), number))
        except sqlite3.IntegrityError:
            raise RecordError(f"the id {name!r} comes twice") from None
        self._counts[number] += 1

    def _number(self, name: str) -> int | None:
        found = self._execute("SELECT labels FROM items WHERE id = ?", (name,)).fetchone()
        return found[0] if found else None

    def labels(self, name: str) -> Labels | None:
        """Look up an item's labels."""
        number = self._number(name)
        return None if number is None else self._sets[number]

    def ideal(self, query: str, labels: Labels, *, exclude_self: bool) -> tuple[Ideal, int]:
        """Tell of all relevant items, and count all items."""
        own = self._number(query) if exclude_self else None
        if (labels, own) not in self._ideals:
            self._ideals[labels, own] = self._ideal(labels, own)
        return self._ideals[labels, own]

    def _ideal(self, labels: Labels, own: int | None) -> tuple[Ideal, int]:
        counts = self._items.copy()
        if own is not None:
            counts[own] -= 1
        shared = np.zeros(len(counts), np.int64)
        for label in labels & self._with_label.keys():
            shared[self._with_label[label]] += 1
        return Ideal.of(_grade(shared, len(labels), self._sizes, self._match), counts), int(counts.sum())


class Qrels(_Spool):
    """Relevance judgements of a TREC qrels file: ``query 0 item grade``, separated by white space."""

    def __init__(self) -> None:
        columns = "query TEXT, item TEXT, grade REAL, PRIMARY KEY (query, item)"
        super().__init__(f"CREATE TABLE qrels ({columns}) WITHOUT ROWID")

    def read(self, path: str, skips: Skips) -> None:
        """Read the file; of two lines for one item the last one holds.

        Raises
        ------
        RecordError
            A line does not have the four fields.
        """
        for name, first, lines in jsonl.read_lines(path):
            for number, line in enumerate(lines, first):
                fields = line.decode(errors="replace").split()
                if not fields:
                    continue
                try:
                    query, _, item, grade = fields
                    row = query, item, max(0.0, float(int(grade)))
                except (ValueError, OverflowError):
                    wrong = "is not a line of a qrels file: query 0 item grade"
                    skips(RecordError(wrong, f"{name}:{number}"))
                    continue
                self._execute("INSERT OR REPLACE INTO qrels VALUES (?, ?, ?)", row)

    def grade(self, query: str, item: str) -> float:
        """Look up how relevant an item is to a query; 0 where nobody judged it."""
        found = self._execute("SELECT grade FROM qrels WHERE query = ? AND item = ?", (query, item)).fetchone()
        return found[0] if found else 0.0

    def queries(self) -> Iterator[str]:
        """Name the queries, sorted."""
        return (query for (query,) in self._execute("SELECT DISTINCT query FROM qrels ORDER BY query"))

    def ideal(self, query: str, *, exclude_self: bool) -> Ideal:
        """Tell of all items that are relevant to a query."""
        grades = self._execute("SELECT item, grade FROM qrels WHERE query = ?", (query,))
        return Ideal.of([grade for item, grade in grades if not (exclude_self and item == query)])


class Evaluation(_Spool):
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
        super().__init__(
            "CREATE TABLE queries (number INTEGER PRIMARY KEY, name TEXT UNIQUE, labels INTEGER);"
            "CREATE TABLE hits (query INTEGER, rank INTEGER, gain REAL, item INTEGER, PRIMARY KEY (query, rank))"
            " WITHOUT ROWID"
        )
        self._match: Match = match
        self._truth = truth
        self._exclude_self = exclude_self
        self.selves = 0
        self._sets = _LabelSets()
        self._count = 0
        # Most hits come behind another one of their query.
        self._last: tuple[str | None, int, Labels] = None, 0, frozenset()

    def add(self, batch: Batch, skips: Skips) -> None:
        """Judge a batch of hits.

        Raises
        ------
        RecordError
            A record is not a hit, its relevance cannot be told, or its query has a hit of this rank already.
        """
        for i, hit in enumerate(batch.records):
            try:
                self._add(hit)
            except RecordError as error:
                error.place = batch.place(i)
                skips(error)

    def _add(self, hit: Record) -> None:
        query, rank = query_and_rank(hit)
        item = str(hit.get("id"))
        if query != self._last[0]:
            self._last = query, *self._query(query, hit)
        _, number, labels = self._last
        if isinstance(self._truth, Qrels):
            gain = self._truth.grade(query, item)
        else:
            found = self._truth.labels(item) if self._truth else labels_of(hit, "labels")
            if found is None:
                where = "the truth" if self._truth else "its properties"
                raise RecordError(f"the hit {item!r} has no labels in {where}; see --truth")
            gain = relevance(labels, found, self._match)
        if item == query and self._exclude_self:
            gain = -1.0  # taken out of the ranking
        try:
            # of the item its hash will do: it is only compared
            self._execute("INSERT INTO hits VALUES (?, ?, ?, ?)", (number, rank, gain, hash(item)))
        except sqlite3.IntegrityError:
            raise RecordError(f"the query {query!r} has two hits of rank {rank}; score one run at a time") from None
        self.selves += item == query

    def _query(self, query: str, hit: Record) -> tuple[int, Labels]:
        """Look up a query's number and labels; note a new one."""
        known = self._execute("SELECT number, labels FROM queries WHERE name = ?", (query,)).fetchone()
        if known:
            return known[0], self._sets[known[1]]
        labels: Labels | None = frozenset()
        if not isinstance(self._truth, Qrels):
            labels = labels_of(hit, "query_labels")
            if labels is None and self._truth:
                labels = self._truth.labels(query)
            if labels is None:
                raise RecordError(
                    f"the query {query!r} has no labels in query_labels or --truth; label tiles before rsr index"
                )
        assert labels is not None
        number, self._count = self._count, self._count + 1
        self._execute("INSERT INTO queries VALUES (?, ?, ?)", (number, query, self._sets.number(labels)))
        return number, labels

    def longest_query(self) -> int:
        """Give the length of the longest id that `judged` gives."""
        (longest,) = self._execute("SELECT max(length(name)) FROM queries").fetchone()
        others = self._truth.queries() if isinstance(self._truth, Qrels) else ()
        return max(longest or 0, *map(len, others), 0)

    def judged(self) -> Iterator[tuple[str, Judged]]:
        """Give each query and its judged hits, in the order in which the queries came first.

        Queries that only the qrels name come last, with no hit. A rank that no hit has counts as irrelevant.

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
                raise RecordError(f"the query {query!r} has an item at two ranks; score one run at a time")
            ranks, gains = np.array([hit[2:4] for hit in hits]).T
            by_rank = np.zeros(int(ranks[-1]))
            by_rank[ranks.astype(np.intp) - 1] = gains
            yield query, self._judge(query, self._sets[labels], by_rank[by_rank >= 0])
        if isinstance(self._truth, Qrels):
            for query in self._truth.queries():
                if not self._execute("SELECT 1 FROM queries WHERE name = ?", (query,)).fetchone():
                    yield query, self._judge(query, frozenset(), np.empty(0))

    def _judge(self, query: str, labels: Labels, gains: NDArray[np.float64]) -> Judged:
        if self._truth is None:
            return Judged(gains)
        if isinstance(self._truth, Qrels):
            return Judged(gains, self._truth.ideal(query, exclude_self=self._exclude_self))
        return Judged(gains, *self._truth.ideal(query, labels, exclude_self=self._exclude_self))


def query_and_rank(hit: Record) -> tuple[str, int]:
    """Read what a hit was found for, and its rank.

    Raises
    ------
    RecordError
        The record is not a hit.
    """
    query, rank = hit["properties"].get("query"), hit["properties"].get("rank")
    if query is None or type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise RecordError("is not a hit: it has no query and rank; pass the stream through rsr query")
    return str(query), rank


def labels_of(record: Record, name: str) -> Labels | None:
    """Read the property ``name`` as a set of labels, as `label_list` reads it."""
    labels = label_list(record, name)
    return None if labels is None else frozenset(labels)


def label_list(record: Record, name: str) -> list[str] | None:
    """Read the property ``name``, a list of class names; ``None`` where it is missing.

    Raises
    ------
    RecordError
        It is not a list of names.
    """
    labels = record["properties"].get(name)
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise RecordError(f"its {name} are not a list of names")
    return labels


def truth_of(path: str, match: Match) -> LabelTruth | Qrels:
    """Choose how to read what is relevant: as TREC qrels where the name ends in ``.qrels``, as Features otherwise.

    Raises
    ------
    UsageError
        ``match`` is not ``any`` with qrels, which know no labels.
    """
    if Path(path).suffix != ".qrels":
        return LabelTruth(match)
    if match != "any":
        raise UsageError("--match compares labels, and a qrels file has none; leave it out")
    return Qrels()
