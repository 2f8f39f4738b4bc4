"""Labels of records, and relevance by labels."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import RecordError, RsrError, Skips, counted
from rsr_cli.core.records import streams
from rsr_cli.core.records.fields import id_of, label_list
from rsr_cli.core.records.tables import NOTHING_STATED, TableSettings
from rsr_cli.core.scoring.formulas import Ideal
from rsr_cli.core.scoring.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsr_cli.core.records.batch import Record
    from rsr_cli.core.scoring.metrics import Match

log = logging.getLogger("rsr")

Labels = frozenset[str]


def label_set(record: Record, name: str) -> Labels | None:
    """Return the property ``name`` as a set of labels; see `label_list`."""
    labels = label_list(record, name)
    return None if labels is None else frozenset(labels)


def relevance(query: Labels, item: Labels, match: Match) -> float:
    """Return how relevant an item is to a query, from 0 to 1.

    ``any``: 1 if they share a label (the paper's rule). ``exact``: 1 if they have the same labels. ``jaccard``: number
    of shared labels divided by the number of all labels of both, a grade for nDCG; more than 0 is relevant. Without
    labels, nothing is relevant.
    """
    return float(_grade(len(query & item), len(query), len(item), match))


def _grade(shared: Any, in_query: int, in_item: Any, match: Match) -> Any:
    """Return `relevance` from numbers of labels, which may be arrays (items,)."""
    if match == "any":
        return shared > 0
    if match == "exact":
        return (shared > 0) & (shared == in_query) & (shared == in_item)
    total = in_query + in_item - shared
    return shared / (total + (total == 0))


class LabelSets:
    """Sets of labels, each stored once and numbered from 0 in order of arrival."""

    def __init__(self) -> None:
        self._numbers: dict[Labels, int] = {}
        self._sets: list[Labels] = []

    def number(self, labels: Labels) -> int:
        """Return the number of a set, a new one if the set is new."""
        number = self._numbers.setdefault(labels, len(self._sets))
        if number == len(self._sets):
            self._sets.append(labels)
        return number

    def __getitem__(self, number: int) -> Labels:
        return self._sets[number]

    def __len__(self) -> int:
        return len(self._sets)


class HitLabels(Spool):
    """Judges hits by the labels that hits carry, without ground truth.

    Parameters
    ----------
    match : str
        When a hit is relevant; see `relevance`.
    """

    def __init__(self, match: Match) -> None:
        super().__init__()
        self._match: Match = match

    def query_labels(self, query: str, hit: Record) -> Labels:
        """Return the labels of a hit's query.

        Raises
        ------
        RecordError
            They are unknown or malformed.
        """
        labels = label_set(hit, "query_labels")
        if labels is None:
            labels = self.labels(query)
        if labels is None:
            raise RecordError(f"the query {query!r} has no labels", remedy="labels")
        return labels

    def labels(self, name: str) -> Labels | None:  # noqa: ARG002
        """Return an item's labels by its id, ``None`` if they are unknown."""
        return None

    def judges(self, query: str) -> bool:  # noqa: ARG002
        """Return whether the hits of a query can be judged."""
        return True

    def relevance_of(self, item: str, query: str, labels: Labels) -> float | None:  # noqa: ARG002
        """Return how relevant an item is to a query, ``None`` if the database is unknown or does not have the item."""
        found = self.labels(item)
        return None if found is None else relevance(labels, found, self._match)

    def gain(self, query: str, labels: Labels, hit: Record) -> float:  # noqa: ARG002
        """Return how relevant a hit is to its query.

        Raises
        ------
        RecordError
            The hit's labels are unknown or malformed.
        """
        found = label_set(hit, "labels")
        if found is None:
            raise RecordError(f"the hit {hit.get('id')!r} has no labels", remedy="labels")
        return relevance(labels, found, self._match)

    def ideal(self, query: str, labels: Labels, *, exclude_self: bool) -> tuple[Ideal | None, int | None]:  # noqa: ARG002
        """Return all relevant items of the database and its size, ``None`` for what is unknown."""
        return None, None

    def queries(self) -> Iterator[str]:
        """Yield the queries that count even if they have no hit."""
        yield from ()


class LabelTruth(HitLabels):
    """Judges hits by the labels of the database's records.

    Parameters
    ----------
    match : str
        When a hit is relevant; see `relevance`.
    settings : TableSettings
        What the user states of the records, if they are a table.
    """

    TABLES = "CREATE TABLE items (id TEXT PRIMARY KEY, labels INTEGER) WITHOUT ROWID"

    def __init__(self, match: Match, settings: TableSettings = NOTHING_STATED) -> None:
        super().__init__(match)
        self._settings = settings
        self._sets = LabelSets()
        self._counts: Counter[int] = Counter()
        self._unlabelled = 0
        self._is_sorted = False
        # Queries with the same labels share these.
        self._ideals: dict[tuple[Labels, int | None], tuple[Ideal, int]] = {}

    def read(self, path: str, skips: Skips) -> None:
        """Read the database's records.

        Raises
        ------
        RecordError
            A line is not a Feature, has no id or one that came before, or has malformed labels.
        RsrError
            No record has labels.
        """
        for batch in streams.read([path], skips, settings=self._settings):
            batch.apply(self._add, skips)
        if self._unlabelled and self._unlabelled == self._counts.total():
            raise RsrError("no record has labels", path, remedy="labels")
        if self._unlabelled:
            some = f"{self._unlabelled} of {counted(self._counts.total(), 'record')} in the ground truth"
            what = "has no labels, and counts" if self._unlabelled == 1 else "have no labels, and count"
            log.warning("%s %s as irrelevant", some, what)
        self._items = np.array([self._counts[number] for number in range(len(self._sets))], np.int64)
        self._sizes = np.array([len(self._sets[number]) for number in range(len(self._sets))], np.int64)
        with_label = defaultdict(list)
        for number in range(len(self._sets)):
            for label in self._sets[number]:
                with_label[label].append(number)
        self._with_label = {label: np.array(numbers) for label, numbers in with_label.items()}

    def _add(self, record: Record) -> None:
        name = id_of(record)
        labels = label_set(record, "labels")
        number = self._sets.number(labels or frozenset())
        try:
            self._execute("INSERT INTO items VALUES (?, ?)", (name, number))
        except sqlite3.IntegrityError:
            raise RecordError(f"the id {name!r} occurs twice", remedy="truth") from None
        self._counts[number] += 1
        self._unlabelled += labels is None

    def _number(self, name: str) -> int | None:
        found = self._execute("SELECT labels FROM items WHERE id = ?", (name,)).fetchone()
        return found[0] if found else None

    def labels(self, name: str) -> Labels | None:
        """Return an item's labels by its id, ``None`` if the database does not have the item."""
        number = self._number(name)
        return None if number is None else self._sets[number]

    def gain(self, query: str, labels: Labels, hit: Record) -> float:
        """Return how relevant a hit is to its query.

        Raises
        ------
        RecordError
            The database does not have the hit.
        """
        name = id_of(hit)
        gain = self.relevance_of(name, query, labels)
        if gain is None:
            raise RecordError(f"the hit {name!r} is not in the ground truth", remedy="truth")
        return gain

    def ideal(self, query: str, labels: Labels, *, exclude_self: bool) -> tuple[Ideal, int]:
        """Return all relevant items of the database and its size, both without the query's own item if excluded."""
        own = self._number(query) if exclude_self else None
        if (labels, own) not in self._ideals:
            self._ideals[labels, own] = self._ideal(labels, own)
        return self._ideals[labels, own]

    def relevant(self, query: str, labels: Labels, *, exclude_self: bool) -> Iterator[str]:
        """Yield the ids of the items that are relevant to a query, without its own if excluded, in a stable order."""
        if not self._is_sorted:
            self._execute("CREATE INDEX by_labels ON items (labels)")
            self._is_sorted = True
        for number in range(len(self._sets)):
            if relevance(labels, self._sets[number], self._match):
                for (name,) in self._execute("SELECT id FROM items WHERE labels = ? ORDER BY id", (number,)):
                    if not (exclude_self and name == query):
                        yield name

    def _ideal(self, labels: Labels, own: int | None) -> tuple[Ideal, int]:
        counts = self._items.copy()
        if own is not None:
            counts[own] -= 1
        shared = np.zeros(len(counts), np.int64)
        for label in labels & self._with_label.keys():
            shared[self._with_label[label]] += 1
        return Ideal.of(_grade(shared, len(labels), self._sizes, self._match), counts), int(counts.sum())
