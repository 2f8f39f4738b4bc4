"""The errors a user can meet, each with the exit status it ends the program with.

A message is one line that states facts: what was expected and what was found. The place (file, line, record) is kept
apart, so that whoever knows it best adds it, and so is the name of the remedy: which option helps is known to the
command line alone.
"""

from __future__ import annotations

import logging
import reprlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("rsr")


class RsrError(Exception):
    """The work failed.

    Parameters
    ----------
    message : str
        One line: what is wrong.
    place : str, optional
        Where: a file, ``file:line``, or a record's id.
    remedy : str, optional
        Name of what helps, by which the command line finds the option to suggest.
    **facts
        What the suggestion repeats, such as the name of an index.
    """

    status = 1

    def __init__(self, message: str, place: str | None = None, *, remedy: str | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.remedy = remedy
        self.facts = facts

    def within(self, place: str) -> None:
        """Put the place of what was being used, such as a file's line, before the error's own."""
        self.place = f"{place}: {self.place}" if self.place else place

    def __str__(self) -> str:
        message = " ".join(self.message.split())
        return visible(f"{self.place}: {message}" if self.place else message)


class UsageError(RsrError):
    """The options do not fit together, or not with what was read."""

    status = 2


class RecordError(RsrError):
    """One record cannot be used; ``--keep-going`` skips it and goes on."""


class RasterError(RecordError):
    """A raster, or a window of it, cannot be read or located."""


class BandError(RecordError):
    """A band that is needed is not there, or the bands cannot be told apart."""


class FingerprintError(RsrError):
    """Vectors of two vector spaces meet in one index or one query."""


class WeightsError(RsrError):
    """A model's weights are out of reach or do not fit the model."""


class IndexFormatError(RsrError):
    """A directory is not an index that this version reads."""


class UpstreamError(RsrError):
    """The command that wrote a stream failed, as the stream itself states.

    Parameters
    ----------
    command : str
        The command that failed, such as ``rsr embed``.
    message : str
        What it reported.
    """

    def __init__(self, command: str, message: str) -> None:
        super().__init__(f"the command before it failed: {command}: {message}")
        self.failure = command, message


class OutputError(RsrError):
    """The output cannot be written."""


class ReaderGoneError(RsrError):
    """Whoever read stdout has gone away; nothing is wrong."""

    status = 141


#: Spaces and joiners that Python counts as not printable, but that words of many languages need.
SPELLING = "\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def visible(text: str) -> str:
    """Return text on one line that a terminal only shows: control and other invisible characters become escapes."""
    if text.isprintable():
        return text
    shown = (
        char if char.isprintable() or char in SPELLING else char.encode("unicode_escape").decode() for char in text
    )
    return "".join(shown)


def counted(count: int, noun: str) -> str:
    """Return a number of things for a message: ``1 tile``, ``2 tiles``."""
    if count != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{count} {noun}"


_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxlist, _repr.maxstring, _repr.maxother = 3, 6, 80, 80


def shown(value: Any) -> str:
    """Return a value of a record for a message: however large or nested it is, a short line."""
    return _repr.repr(value)


class Skips:
    """What becomes of a record that cannot be used: the end of the run, or with ``keep_going`` a line in the log.

    Parameters
    ----------
    keep_going : bool
        Log errors instead of raising them.
    explain : callable
        Writes an error as one line.

    Attributes
    ----------
    count : int
        Records skipped so far.
    instead : dict
        Remedy -> the remedy and facts that help this command's users instead.
    """

    def __init__(self, *, keep_going: bool = False, explain: Callable[[RsrError], str] = str) -> None:
        self.keep_going = keep_going
        self._explain = explain
        self.count = 0
        self._warned: set[str] = set()
        self.instead: dict[str, tuple[str, dict[str, Any]]] = {}

    def __call__(self, error: RecordError) -> None:
        """Raise the error, or with ``keep_going`` log it and count it."""
        self._helped(error)
        if not self.keep_going:
            raise error
        self.count += 1
        log.error("%s; skipped", self._explain(error))

    def warn(self, doubt: RecordError, *, once: str | None = None) -> None:
        """Log what may be wrong with something that is used nevertheless, of doubts of one name only the first."""
        if once in self._warned:
            return
        if once:
            self._warned.add(once)
        self._helped(doubt)
        log.warning("%s", self._explain(doubt))

    def _helped(self, error: RecordError) -> None:
        """Replace the remedy of an error by the one that helps this command's users, if there is another."""
        if error.remedy in self.instead:
            error.remedy, error.facts = self.instead[error.remedy]
