"""Relevance by TREC qrels files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsr_cli.core.errors import RecordError, Skips
from rsr_cli.core.records import jsonl
from rsr_cli.core.records.fields import id_of, one_form
from rsr_cli.core.scoring.formulas import Ideal
from rsr_cli.core.scoring.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsr_cli.core.records.batch import Record
    from rsr_cli.core.scoring.labels import Labels


def is_qrels(path: str) -> bool:
    """Return whether the ending of a file's name marks it as a qrels file."""
    return path.endswith(".qrels")


class Qrels(Spool):
    """Judges hits by a qrels file, with lines of ``query 0 item grade`` separated by white space."""

    TABLES = """
        CREATE TABLE qrels (query TEXT, item TEXT, grade REAL, line INTEGER, PRIMARY KEY (query, item)) WITHOUT ROWID
    """

    def read(self, path: str, skips: Skips) -> None:
        """Read the file.

        Raises
        ------
        RecordError
            A line does not have the four fields, or contradicts an earlier one.
        """
        for name, first, lines, _ in jsonl.read_lines(path):
            for number, line in enumerate(lines, first):
                fields = line.decode(errors="replace").split()
                if not fields:
                    continue
                try:
                    query, _, item, grade = fields
                    row = one_form(query), one_form(item), max(0.0, float(int(grade)))
                except (ValueError, OverflowError):
                    wrong = "is not a line of a qrels file: query 0 item grade"
                    skips(RecordError(wrong, f"{name}:{number}"))
                    continue
                if self._execute("INSERT OR IGNORE INTO qrels VALUES (?, ?, ?, ?)", (*row, number)).rowcount:
                    continue
                known = "SELECT grade, line FROM qrels WHERE query = ? AND item = ?"
                grade_before, line_before = self._execute(known, row[:2]).fetchone()
                if grade_before != row[2]:
                    what = f"contradicts line {line_before}, which judges the same item for the same query"
                    skips(RecordError(f"{what}: {row[2]:g} here, {grade_before:g} there", f"{name}:{number}"))

    def query_labels(self, query: str, hit: Record) -> Labels:  # noqa: ARG002
        """Return no labels: a qrels file judges by id."""
        return frozenset()

    def judges(self, query: str) -> bool:
        """Return whether the file has a line of the query."""
        return self._execute("SELECT 1 FROM qrels WHERE query = ?", (query,)).fetchone() is not None

    def relevance_of(self, item: str, query: str, labels: Labels) -> float | None:  # noqa: ARG002
        """Return how relevant an item is to a query, ``None`` if it was not judged."""
        found = self._execute("SELECT grade FROM qrels WHERE query = ? AND item = ?", (query, item)).fetchone()
        return found[0] if found else None

    def gain(self, query: str, labels: Labels, hit: Record) -> float | None:
        """Return how relevant a hit is to its query, ``None`` if it was not judged."""
        return self.relevance_of(id_of(hit), query, labels)

    def ideal(self, query: str, labels: Labels, *, exclude_self: bool) -> tuple[Ideal, None]:  # noqa: ARG002
        """Return all items that are relevant to a query; the size of the database is unknown."""
        grades = self._execute("SELECT item, grade FROM qrels WHERE query = ?", (query,))
        return Ideal.of([grade for item, grade in grades if not (exclude_self and item == query)]), None

    def queries(self) -> Iterator[str]:
        """Yield the judged queries in sorted order; they count even if they have no hit."""
        return (query for (query,) in self._execute("SELECT DISTINCT query FROM qrels ORDER BY query"))
