"""Progress on stderr."""

from __future__ import annotations

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

    In a pipe on a terminal only the last command draws, for bars of several processes overwrite each other.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.count = 0
        self._bar: tqdm[None] | None = None
        self._started = self._logged = time.monotonic()
        heard = log.isEnabledFor(logging.WARNING)
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._logs = heard and not terminal
        if heard and terminal and not _is_pipe(sys.stdout):
            from tqdm import tqdm

            self._bar = tqdm(unit=f" {what}", unit_scale=True, file=sys.stderr, leave=False)

    def update(self, n: int) -> None:
        """Count ``n`` more."""
        self.count += n
        if self._bar is not None:
            self._bar.update(n)
        elif self._logs and time.monotonic() - self._logged > LOG_EVERY_S:
            self._logged = time.monotonic()
            log.warning("%d %s, %.1f/s", self.count, self.what, self.count / (self._logged - self._started))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        log.info("%d %s in %.1f s", self.count, self.what, time.monotonic() - self._started)


def _is_pipe(stream: Any) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return False
