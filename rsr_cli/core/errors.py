"""The errors a user can meet, each with the exit status it ends the program with.

A message is one line: what was expected, what was found and the way out. The place (file, line, record) is kept
apart, so that whoever knows it best adds it.
"""

from __future__ import annotations

import logging

log = logging.getLogger("rsr")


class RsrError(Exception):
    """The work failed.

    Parameters
    ----------
    message : str
        One line: what is wrong and what to do about it.
    place : str, optional
        Where: a file, ``file:line``, or a record's id.
    """

    status = 1

    def __init__(self, message: str, place: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" if self.place else self.message
        return " ".join(text.split())


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


class OutputError(RsrError):
    """The output cannot be written."""


class ReaderGoneError(RsrError):
    """Whoever read stdout has gone away; nothing is wrong."""

    status = 141


class Skips:
    """What becomes of a record that cannot be used: the end of the run, or with ``keep_going`` a line in the log.

    Attributes
    ----------
    count : int
        Records skipped so far.
    """

    def __init__(self, *, keep_going: bool = False) -> None:
        self.keep_going = keep_going
        self.count = 0

    def __call__(self, error: RecordError) -> None:
        """Raise the error, or with ``keep_going`` log it and count it."""
        if not self.keep_going:
            raise error
        self.count += 1
        log.error("%s; skipped", error)
