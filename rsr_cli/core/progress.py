"""Progress on stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("rsr")

LOG_EVERY_S = 30.0


class Progress:
    """Counts records on stderr: a bar on a terminal, a sparse line in a log, nothing when quiet.

    In a pipe on a terminal only the last command draws, for bars of several processes overwrite each other. Messages of
    this process are written above its bar.

    Parameters
    ----------
    what : str
        What is counted, in the plural.
    total : int, optional
        How many there are. Else it is estimated if `expect` and `read` are called.

    Attributes
    ----------
    notes : list of str
        Warnings to log at the end, unless an error is raised, which says more.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.count = 0
        self.total = total
        self.notes: list[str] = []
        self._size: float | None = None
        self._read, self._read_size = 0, 0.0
        self._bar: tqdm[None] | None = None
        self._stack = contextlib.ExitStack()
        self._started = self._logged = time.monotonic()
        heard = log.isEnabledFor(logging.WARNING)
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._logs = heard and not terminal
        self._draws = heard and terminal and not _is_pipe(sys.stdout)

    def expect(self, size: float | None) -> None:
        """State how large the whole input is, in bytes or another unit; ``None`` if unknown."""
        self._size = size

    def read(self, n: int, size: float) -> None:
        """State that ``n`` more were read from the next ``size`` units of the input, to estimate the total."""
        self._read += n
        self._read_size += size
        if self._size and self._read and self._read_size:
            self.total = round(self._read * max(1.0, self._size / self._read_size))
            if self._bar is not None:
                self._bar.total = self.total

    def update(self, n: int) -> None:
        """Count ``n`` more."""
        self.count += n
        if self._bar is not None:
            self._bar.update(n)
        elif self._logs and time.monotonic() - self._logged > LOG_EVERY_S:
            self._logged = time.monotonic()
            self._log(self.count / (self._logged - self._started))

    def _log(self, rate: float) -> None:
        if self.total is None or not rate:
            log.warning("%d %s, %.1f/s", self.count, self.what, rate)
            return
        from tqdm import tqdm

        left = tqdm.format_interval(max(0, self.total - self.count) / rate)
        log.warning("%d of about %d %s, %.1f/s, %s left", self.count, self.total, self.what, rate, left)

    def __enter__(self) -> Progress:
        self._started = self._logged = time.monotonic()
        if self._draws:
            from tqdm.contrib.logging import tqdm_logging_redirect

            self._bar = self._stack.enter_context(
                tqdm_logging_redirect(
                    total=self.total,
                    unit=f" {self.what}",
                    unit_scale=True,
                    file=sys.stderr,
                    leave=False,
                    dynamic_ncols=True,
                    loggers=[log],
                )
            )
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if error[0] is None:
            for note in self.notes:
                log.warning("%s", note)
        log.info("%d %s in %.1f s", self.count, self.what, time.monotonic() - self._started)


def _is_pipe(stream: Any) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return False
