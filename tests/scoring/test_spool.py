"""Tables that may outgrow memory."""

from __future__ import annotations

import sqlite3

import pytest

from rsr_cli.core.errors import RsrError
from rsr_cli.core.scoring.spool import CACHE_KIB, Spool


class Numbers(Spool):
    TABLES = "CREATE TABLE numbers (number INTEGER PRIMARY KEY, text TEXT)"

    def add(self, number, text):
        self._execute("INSERT INTO numbers VALUES (?, ?)", (number, text))

    def count(self):
        return self._execute("SELECT count(*), sum(number) FROM numbers").fetchone()


def test_rows_beyond_the_cache_are_kept_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    n = 4 * CACHE_KIB
    with Numbers() as numbers, Numbers() as others:
        for number in range(n):
            numbers.add(number, "x" * 1024)
        assert numbers.count() == (n, n * (n - 1) // 2)
        assert others.count() == (0, None)  # each has a database of its own
        assert list(tmp_path.iterdir()) == []  # a file without a name
    with pytest.raises(sqlite3.ProgrammingError):
        numbers.count()


def test_an_error_of_the_database_is_ours():
    numbers = Numbers()
    numbers.add(1, "a")
    with pytest.raises(RsrError, match="cannot use a temporary file: UNIQUE") as raised, numbers:
        numbers.add(1, "b")
    assert raised.value.remedy == "sqlite-tmpdir"


def test_other_errors_pass():
    with pytest.raises(KeyError), Numbers():
        raise KeyError
