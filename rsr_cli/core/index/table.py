"""The table of records: ids and GeoJSON Features in SQLite, which any client reads.

A record is stored as the text of a Feature whose properties come last, so that a hit is written by inserting what a
search adds in front of the last two braces. It is parsed only to check that it is one: the text keeps the numbers that
parsing would change, and which `exact.loads` takes ten times as long to find.
"""

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, compress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from rsr_cli.core.errors import IndexFormatError, RsrError
from rsr_cli.core.index.columns import opening
from rsr_cli.core.index.manifest import TABLE
from rsr_cli.core.inputs import open_regular
from rsr_cli.core.records.fields import HIT_FIELDS, id_text
from rsr_cli.core.records.jsonl import dump
from rsr_cli.core.records.space import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch, Record

#: Twice the default of SQLite, at which a bulk insert is faster; a hit still costs one page.
PAGE_BYTES = 8192
#: Properties of an earlier stage or search.
NOT_STORED = frozenset((*KINDS, *HIT_FIELDS))
_TABLES = (
    "CREATE TABLE records (row INTEGER PRIMARY KEY, id TEXT NOT NULL, record TEXT NOT NULL)",
    "CREATE TABLE labels (number INTEGER PRIMARY KEY, name TEXT NOT NULL)",
)
_BULK = f"PRAGMA page_size={PAGE_BYTES}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF"
_BY_ID = "CREATE UNIQUE INDEX by_id ON records (id)"
#: Rows per statement. SQLite takes 32,766 values.
ROWS_AT_ONCE = 8192
VALUES_AT_ONCE = 3 * ROWS_AT_ONCE
#: Rows that are read at once.
ROWS_PER_QUERY = 1000
_INSERT_MANY = f"INSERT INTO records VALUES {', '.join(['(?, ?, ?)'] * ROWS_AT_ONCE)}"
#: Where the records from a row on were read, until the next row; the lines follow each other as the rows do.
_PLACES = "CREATE TEMP TABLE places (row INTEGER PRIMARY KEY, name TEXT, line INTEGER)"


def _location(path: Path, mode: str = "ro&immutable=1") -> str:
    """Return a database file as SQLite names it."""
    return f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"


def stored(record: Record) -> str:
    """Return the text to store for a record: without vectors and fields of a hit, its properties last.

    Raises
    ------
    RecordError
        It is nested too deeply.
    """
    properties = record.pop("properties")
    if not NOT_STORED.isdisjoint(properties):
        properties = {field: value for field, value in properties.items() if field not in NOT_STORED}
    record["properties"] = properties
    return dump(record)[:-1].decode()


def _parsed(text: str, name: str) -> Record | None:
    """Parse a text that is what `stored` returns for an id: one line, a Feature whose properties come last.

    ``None`` is returned for others. An id that is a number in floating point is not compared: parsing rounds long ones.
    """
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    sound = (
        isinstance(record, dict)
        and record.get("type") == "Feature"
        and ((found := record.get("id")) == name or isinstance(found, float) or id_text(found) == name)
        and next(reversed(record)) == "properties"
        and isinstance(record["properties"], dict)
        and text.endswith("}}")
        and "\n" not in text
        and "\r" not in text
    )
    return record if sound else None


def hit_line(text: str, added: dict[str, Any]) -> bytes:
    """Insert properties at the end of a stored record, and return the line of JSON.

    Raises
    ------
    RecordError
        They are nested too deeply.
    """
    comma = b"" if text.endswith("{}}") else b","
    return text[:-2].encode() + comma + dump(added)[1:-1] + b"}\n"


class TableWriter:
    """Writes the records of a segment.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    checks : bool
        Leave out records whose id came before. Otherwise one is an error at the end, which is faster for ids in random
        order.
    """

    def __init__(self, directory: Path, *, checks: bool) -> None:
        self._checks = checks
        self._run: tuple[str, int] | None = None
        location = _location(directory / TABLE, "rwc")
        self._database = sqlite3.connect(location, isolation_level=None, check_same_thread=False, uri=True)
        self._thread = ThreadPoolExecutor(1, "table")
        self._inserting: Future[Any] = self._thread.submit(int)
        self._waiting: list[Any] = []  # row, id and text of each
        # Nothing can be lost that is not thrown away anyway: an unfinished segment is removed.
        self._database.executescript("; ".join([_BULK, *_TABLES, _PLACES, *[_BY_ID] * checks, "BEGIN"]))

    def append(self, row: int, batch: Batch, ids: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """Append ids and stored texts of a batch from a row on, and return which were added."""
        if self._checks:
            added, number = [], row
            for name, text in zip(ids, texts, strict=True):
                insert = "INSERT OR IGNORE INTO records VALUES (?, ?, ?)"
                added.append(self._database.execute(insert, (number, name, text)).rowcount > 0)
                number += added[-1]
        else:
            added = [True] * len(texts)
            self._waiting.extend(chain.from_iterable(zip(range(row, row + len(texts)), ids, texts, strict=True)))
            if len(self._waiting) >= VALUES_AT_ONCE:
                self._insert()
        lines = batch.lines
        if isinstance(lines, range) and all(added):
            lines = lines[:1]  # the others follow it as the rows do
        for number, line in enumerate(compress(lines, added), row):
            if self._run != (batch.name, line - number):
                self._run = batch.name, line - number
                self._database.execute("INSERT INTO places VALUES (?, ?, ?)", (number, batch.name, line))
        return added

    def copy(self, row: int, other: Path, first: int, kept: NDArray[np.bool_]) -> None:
        """Append the rows of another table from the first one on that are kept, bool (n,)."""
        self._database.execute("COMMIT")
        self._database.execute("ATTACH ? AS other", (_location(other),))
        self._database.execute("BEGIN")
        last = first + len(kept)
        if kept.all():
            self._database.execute(
                "INSERT INTO records SELECT row + ?, id, record FROM other.records"
                " WHERE row >= ? AND row < ? ORDER BY row",
                (row - first, first, last),
            )
        else:
            self._database.execute("CREATE TEMP TABLE kept (row INTEGER PRIMARY KEY, moved INTEGER)")
            moved = ((first + at, row + number) for number, at in enumerate(kept.nonzero()[0].tolist()))
            self._database.executemany("INSERT INTO kept VALUES (?, ?)", moved)
            self._database.execute(
                "INSERT INTO records SELECT moved, id, record FROM kept CROSS JOIN other.records USING (row)"
                " ORDER BY kept.row"
            )
            self._database.execute("DROP TABLE kept")
        self._database.execute("COMMIT")
        self._database.execute("DETACH other")
        self._database.execute("BEGIN")

    def _insert(self) -> None:
        """Have another thread insert the rows that wait: it computes beside this one only within a statement."""
        self._inserting.result()
        while len(self._waiting) >= VALUES_AT_ONCE:
            values, self._waiting = self._waiting[:VALUES_AT_ONCE], self._waiting[VALUES_AT_ONCE:]
            self._inserting = self._thread.submit(self._database.execute, _INSERT_MANY, values)

    def twice(self, name: str) -> str:
        """Return the message that an id which came before occurs again."""
        (first,) = self._database.execute("SELECT min(row) FROM records WHERE id = ?", (name,)).fetchone()
        return f"the id {name!r} occurs twice, first at {self.place(first)}"

    def place(self, row: int) -> str:
        """Return the input and line that a row was read from."""
        found = "SELECT name, line + ? - row FROM places WHERE row <= ? ORDER BY row DESC LIMIT 1"
        return "{}:{}".format(*self._database.execute(found, (row, row)).fetchone())

    def finish(self, labels: dict[str, int]) -> None:
        """Write the labels' names, and check that every id is unique, if that was not done before.

        Raises
        ------
        RsrError
            An id occurs twice; IndexFormatError if the rows are copied ones.
        """
        self._inserting.result()
        left = zip(*[iter(self._waiting)] * 3, strict=True)
        self._database.executemany("INSERT INTO records VALUES (?, ?, ?)", left)
        self._database.executemany("INSERT INTO labels VALUES (?, ?)", ((n, name) for name, n in labels.items()))
        try:
            if not self._checks:
                self._database.execute(_BY_ID)
        except sqlite3.IntegrityError:
            name, _ = self._database.execute(
                "SELECT id, min(row) FROM records GROUP BY id HAVING count(*) > 1 ORDER BY 2 LIMIT 1"
            ).fetchone()
            if self._run is None:  # of rows that were copied
                raise IndexFormatError(f"is damaged: the id {name!r} occurs twice", remedy="rebuild") from None
            rows = self._database.execute("SELECT row FROM records WHERE id = ? ORDER BY row LIMIT 2", (name,))
            _, (again,) = rows.fetchall()
            raise RsrError(self.twice(name), self.place(again), remedy="unique-ids") from None
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self._thread.shutdown()
        self._database.close()


class Table:
    """The records of an open segment, which are checked as they are read: the file may come from a stranger.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    count : int
        Number of rows that it must have.

    Raises
    ------
    IndexFormatError
        The file is missing, or cannot be read.
    """

    def __init__(self, directory: Path, count: int) -> None:
        self._path = directory / TABLE
        self._count = count
        try:
            self._database = sqlite3.connect(_location(self._path), uri=True)
            # a view in place of a table could compute forever
            if {sql for (sql,) in self._ask("SELECT sql FROM sqlite_schema")} != {*_TABLES, _BY_ID}:
                raise self._damaged("it has other tables than an index")
            # asked for both at once, SQLite reads the whole table
            if self._ask("SELECT (SELECT min(row) FROM records), (SELECT max(row) FROM records)") != [(0, count - 1)]:
                raise self._damaged(f"its rows are not those from 0 to {count - 1}")
        except (sqlite3.Error, IndexFormatError) as error:
            with opening(self._path):  # raises what is wrong, where SQLite does not say it
                open_regular(self._path).close()
            raise error if isinstance(error, IndexFormatError) else self._unreadable(error) from None

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def rows_of(self, names: Sequence[str]) -> dict[str, int]:
        """Return the rows of those ids that are there."""
        found: dict[str, int] = {}
        for first in range(0, len(names), VALUES_AT_ONCE):
            some = names[first : first + VALUES_AT_ONCE]
            places = ", ".join("?" * len(some))
            found.update(self._ask(f"SELECT id, row FROM records WHERE id IN ({places})", *some))
        if not all(type(row) is int and 0 <= row < self._count for row in found.values()):
            raise self._damaged("it has rows that it cannot have")
        return found

    def ids(self, first: int, last: int) -> list[str]:
        """Return the ids of the rows from the first to before the last."""
        found = self._ask("SELECT id FROM records WHERE row >= ? AND row < ? ORDER BY row", first, last)
        if len(found) != last - first or not all(isinstance(name, str) for (name,) in found):
            raise self._damaged("it has rows without an id")
        return [name for (name,) in found]

    def labels(self) -> list[str]:
        """Return the names of the labels in the order of their numbers."""
        found = self._ask("SELECT number, name FROM labels ORDER BY number")
        if any(not isinstance(name, str) or number != i for i, (number, name) in enumerate(found)):
            raise self._damaged("its labels are not numbered from 0")
        return [name for _, name in found]

    def ids_with(self, text: str) -> list[str]:
        """Return up to three ids that contain a text."""
        found = self._ask("SELECT id FROM records WHERE instr(id, ?) ORDER BY id LIMIT 3", text)
        return [name for (name,) in found if isinstance(name, str)]

    def record(self, row: int) -> tuple[str, str]:
        """Return the id and the stored text of a row."""
        ((name, text, _),) = self._read([row])
        return name, text

    def records(self, rows: NDArray[np.int64]) -> Iterator[tuple[str, Record]]:
        """Yield the ids and the records of rows (n,) in ascending order, several times as fast as one by one.

        Numbers that orjson rounds are rounded.
        """
        for start in range(0, len(rows), ROWS_PER_QUERY):
            for name, _, record in self._read(rows[start : start + ROWS_PER_QUERY].tolist()):
                yield name, record

    def _read(self, rows: list[int]) -> Iterator[tuple[str, str, Record]]:
        """Yield the id, the text and the record of rows in ascending order."""
        marks = ", ".join("?" * len(rows))
        found = self._ask(f"SELECT row, id, record FROM records WHERE row IN ({marks}) ORDER BY row", *rows)
        if len(found) != len(rows):
            missing = min(set(rows).difference(row for row, _, _ in found))
            raise self._damaged(f"it has no row {missing}")
        for row, name, text in found:
            record = _parsed(text, name) if isinstance(name, str) and isinstance(text, str) else None
            if record is None:
                raise self._damaged(f"its row {row} is not a record")
            yield name, text, record

    def _ask(self, statement: str, *values: str | int) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(statement, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter of a message that quotes the file
            raise self._unreadable(error) from None

    def _damaged(self, what: str) -> IndexFormatError:
        return IndexFormatError(f"is damaged: {what}", str(self._path), remedy="rebuild")

    def _unreadable(self, error: Exception) -> IndexFormatError:
        return IndexFormatError(f"cannot be read: {error}", str(self._path), remedy="rebuild")
