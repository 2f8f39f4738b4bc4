"""Tables that may outgrow memory."""

from __future__ import annotations

import sqlite3
from typing import Self

from rsr_cli.core.errors import RsrError

CACHE_KIB = 4096


class Spool:
    """A private SQLite database, kept in a temporary file once it outgrows `CACHE_KIB` and gone when it is closed.

    Subclasses define their tables in ``TABLES``. As a context manager, it raises RsrError if the temporary file cannot
    be written or read.
    """

    TABLES = ""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        # Nothing has to be recovered after a crash: the file has no name and disappears with the process.
        self._database.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{CACHE_KIB}; {self.TABLES}; BEGIN"
        )
        self._execute = self._database.execute

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        self._database.close()
        if isinstance(error, sqlite3.Error):
            raise RsrError(f"cannot use a temporary file: {error}", remedy="sqlite-tmpdir") from None
