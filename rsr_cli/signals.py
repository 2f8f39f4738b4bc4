"""Signals stop the program, whatever it is doing, and leave no unfinished output.

Python runs the handler of a signal between two steps of the main thread. That is never while the main thread waits in a
library for a network, a model or a lock. So a thread watches for signals too, and ends the process if the main thread
does not.

A mapped file that another process cuts short raises SIGBUS in the thread that reads it. No handler in Python would ever
run, so one is installed through ctypes: it takes the interpreter's lock, reports the file and ends the process.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from rsr_cli.core.files import remove_unfinished
from rsr_cli.core.inputs import cut_short

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

log = logging.getLogger("rsr")

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Time that the main thread has to stop by itself.
GRACE_S = 1.0

_received: list[int] = []
_end_stream: Callable[[int, str], None]
#: Says what is lost if the program ends now.
_at_stake: list[Callable[[], str | None]] = []


class Signalled(BaseException):
    """A signal asked the program to stop; as the exception unwinds, unfinished files are removed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def heed(end_stream: Callable[[int, str], None]) -> None:
    """Let signals stop the program from now on, except those that the caller ignores, as nohup does.

    Parameters
    ----------
    end_stream : callable
        Writes to stdout why the program ends, where the main thread cannot; takes the exit status and the reason.
    """
    global _end_stream
    _end_stream = end_stream
    heeded = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)  # Python writes the number of each signal to it, at once
    threading.Thread(target=_watch, args=(ours,), name="signals", daemon=True).start()
    ctypes.CDLL(None).signal(signal.SIGBUS, _bus_error)
    # What is raised in a library's callback ends here.
    sys.excepthook = _except_ours(sys.excepthook)
    sys.unraisablehook = _except_ours(sys.unraisablehook)
    for number in heeded:  # now that what they raise, which may be at once, is handled
        signal.signal(number, _stop)


def at_stake(found: Callable[[], str | None]) -> None:
    """Let a function say what is lost if a signal stops the program, for a line on stderr; ``None`` if nothing is."""
    _at_stake[:] = [found]


def lost() -> str | None:
    """Return what is lost as a signal stops the program."""
    return _at_stake[0]() if _at_stake else None


def received() -> int | None:
    """Return the number of the signal that stops the program, if one has arrived."""
    return _received[0] if _received else None


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    _received.append(number)
    for other in (signal.SIGINT, signal.SIGTERM):  # a further one ends the process at once
        if signal.getsignal(other) is _stop:
            signal.signal(other, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) is _stop:  # a closed terminal sends several
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise Signalled(number)


def _watch(descriptor: int) -> NoReturn:
    """Wait for a signal, and then end the process: at once after a second one, or when the time is over."""
    first = _next(descriptor)
    _received.append(first)
    further = select.select([descriptor], [], [], GRACE_S)[0]
    if further and os.read(descriptor, 1)[0] in (signal.SIGINT, signal.SIGTERM):
        os._exit(128 + first)
    _end(128 + first, reason(first))


def _next(descriptor: int) -> int:
    """Wait for the next signal that stops, and return its number."""
    while (number := os.read(descriptor, 1)[0]) not in STOPPING:
        pass
    return number


def _except_ours(hook: Callable[..., Any]) -> Callable[..., None]:
    """Return a hook for exceptions that ends the process if `Signalled` is lost."""

    def checked(*found: Any) -> None:
        if Signalled in (found[0], getattr(found[0], "exc_type", None)):
            _end(128 + _received[0], reason(_received[0]))
        hook(*found)

    return checked


def _report_cut_short(_number: int) -> None:
    path = cut_short()
    message = f"{path or 'a file'}: was cut short by another process while it was read"
    log.error("%s", message)
    _end(1, message)


_bus_error = ctypes.CFUNCTYPE(None, ctypes.c_int)(_report_cut_short)  # kept: C calls it


def reason(number: int) -> str:
    """Return why the program ends, for those who read its stream."""
    return f"stopped by {signal.Signals(number).name}"


def _end(status: int, message: str) -> NoReturn:
    remove_unfinished()
    if sys.stderr is not None and (what := lost()):
        log.error("%s: %s", message, what, extra={"last": True})
    if sys.stdout is not None and select.select([], [sys.stdout], [], 0)[1]:  # it would not wait for a reader
        _end_stream(status, message)
    os._exit(status)
