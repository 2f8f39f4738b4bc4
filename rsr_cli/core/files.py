"""Standard streams, and files and directories that are either whole or absent.

An output is written under a hidden temporary name beside its own and renamed when it is complete. The writer holds a
lock (flock) on the temporary, so that a later writer can tell temporaries of dead processes from those of running ones
and remove them. On a file system without such locks they stay.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import secrets
import select
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rsr_cli.core.errors import OutputError, ReaderGoneError
from rsr_cli.core.forms import refuse_compressed, refuse_other

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import FileIO, RawIOBase
    from types import TracebackType

    from rsr_cli.core.forms import Form

log = logging.getLogger("rsr")

#: Start of the name of a temporary.
PREFIX = ".rsr-"
#: Time that a `Lock` is tried for, as another process may only be asking whether it is held.
PROBED_S = 0.5
_unfinished: set[Path] = set()


def reason(error: OSError) -> str:
    """Return the system's description of an error, in lower case."""
    return (error.strerror or str(error)).lower()


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn the system's errors on writing into ours.

    Raises
    ------
    ReaderGoneError
        The process that read a pipe has exited.
    OutputError
        Any other failure.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise ReaderGoneError("the reader has gone away", name) from None
        raise OutputError(f"cannot write: {reason(error)}", name) from None


def follow(path: Path) -> Path:
    """Return what a symbolic link leads to, whether it exists or not; raise OSError if links form a loop."""
    final = Path(os.path.realpath(path))
    if final.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return final


# Writing -------------------------------------------------------------------------------------------------------------


def refuse_existing(path: Path, *, overwrite: bool, form: Form | None = None) -> None:
    """Raise OutputError if ``path`` exists and may not be replaced, at all or by a file of another format."""
    if form:
        refuse_other(path, form)
    if path.exists() and not overwrite:
        raise OutputError("exists already", str(path), remedy="overwrite")


@contextlib.contextmanager
def whole_file(
    path: Path, *, overwrite: bool = False, sync: bool = True, form: Form | None = None
) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when the block ends without an error.

    The file is synced to disk before it is renamed, and the directory after. A file that replaces another one keeps its
    permissions. A symbolic link is followed.

    Parameters
    ----------
    path : pathlib.Path
        The file to create.
    overwrite : bool
        Replace an existing file.
    sync : bool
        Wait until the file is on disk.
    form : Form, optional
        The format that an existing file must have to be replaced.

    Raises
    ------
    OutputError
        The file exists, is of another format, another process created it meanwhile, or it cannot be written.
    """

    def create(temporary: Path) -> int:
        return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    with contextlib.ExitStack() as stack:
        with explained(str(path)):
            refuse_existing(path, overwrite=overwrite, form=form)
            final = follow(path)
            temporary, descriptor = stack.enter_context(_temporary(final, create))
        stream = open(descriptor, "wb", closefd=False)  # noqa: SIM115  closing it may fail, too
        try:
            yield stream
            with explained(str(path)):
                stream.close()
        finally:
            with contextlib.suppress(OSError):  # the error that matters was raised already
                stream.close()
        with explained(str(path)):
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(descriptor, stat.S_IMODE(final.stat().st_mode))
            if sync:
                os.fsync(descriptor)
            else:
                os.close(os.dup(descriptor))  # a file system on a network says now what it could not write
            if overwrite or not _linked(temporary, final):
                refuse_existing(final, overwrite=overwrite, form=form)
                temporary.replace(final)
            if sync:
                sync_directory(final.parent)


def _linked(temporary: Path, final: Path) -> bool:
    """Link a file to its final name, if that is free; return False on a file system without hard links."""
    try:
        final.hardlink_to(temporary)
    except FileExistsError:
        refuse_existing(final, overwrite=False)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Create a directory that appears under its name only when the block ends without an error.

    Parameters
    ----------
    path : pathlib.Path
        The directory to create; its parent must exist. An empty directory of this name is replaced.

    Yields
    ------
    pathlib.Path
        A temporary directory beside it, to be filled.

    Raises
    ------
    FileExistsError
        Another process has created a directory of this name meanwhile.
    OSError
        It cannot be written.
    """
    with temporary_directory(path) as temporary:
        yield temporary
        publish_directory(temporary, path)


@contextlib.contextmanager
def temporary_directory(path: Path) -> Iterator[Path]:
    """Create a temporary directory beside a path, and remove it at the end, unless it was published."""

    def create(temporary: Path) -> int:
        while True:
            temporary.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process took it for stale before it was opened
                return os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    with _temporary(path, create) as (temporary, _):
        yield temporary


def publish_directory(temporary: Path, path: Path) -> None:
    """Write a directory to disk, and move it to its name, if there is none; raises as `whole_directory` does."""
    for directory, _below, names in os.walk(temporary):
        for name in names:
            sync_file(Path(directory, name))
        sync_directory(Path(directory))
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        raise
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Force a file's contents to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Force a directory's entries to disk, if its permissions and file system allow it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _temporary(final: Path, create: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    """Create a locked temporary beside ``final``, and remove what is left of it at the end."""
    _remove_stale(final.parent)
    temporary = _temporary_name(final)
    descriptor = None
    _unfinished.add(temporary)
    try:
        while descriptor is None:
            descriptor = create(temporary)
            _lock(descriptor)
            if not os.path.lexists(temporary):  # another process took it for stale before it was locked
                os.close(descriptor)
                descriptor = None
        yield temporary, descriptor
    finally:
        try:
            remove(temporary)
        finally:
            _unfinished.discard(temporary)
            if descriptor is not None:
                _close(descriptor)


def _close(descriptor: int) -> None:
    """Close a file to which all was written before, or nothing: an error says no more than that."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _temporary_name(final: Path) -> Path:
    return final.with_name(f"{PREFIX}{secrets.token_hex(8)}.tmp")  # short, beside a name of 255 bytes


def remove_unfinished() -> None:
    """Remove this process's temporaries, while other threads may be about to publish or remove them."""
    for temporary in _unfinished.copy():
        taken = _temporary_name(temporary)
        with contextlib.suppress(OSError):  # published, or removed
            temporary.rename(taken)  # then nobody can publish half of it
            remove(taken)


def _lock(descriptor: int, *, wait: bool = True) -> bool:
    """Lock an open file or directory; return False if another process holds the lock, or there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


@functools.cache  # once per directory and process, which may write thousands of files
def _remove_stale(parent: Path) -> None:
    """Remove temporaries in a directory whose writers have died: those that nobody holds a lock on."""
    with contextlib.suppress(OSError):
        for entry in parent.iterdir():
            if not (entry.name.startswith(PREFIX) and entry.name.endswith(".tmp")):
                continue
            with contextlib.suppress(OSError):
                kind = os.O_RDWR if entry.is_file() else os.O_RDONLY
                descriptor = os.open(entry, kind | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)  # it may be a pipe
                try:
                    if _lock(descriptor, wait=False):
                        remove(entry)
                finally:
                    os.close(descriptor)


def _lock_free(descriptor: int) -> bool:
    """Lock an open file unless another process holds the lock; return whether none does, also if there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _opened_to_lock(path: Path, flags: int = 0) -> int:
    """Open a file such that it can be locked: NFS wants it to be open for writing."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        try:  # another user's, which a local file system locks all the same, or on a read-only one
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise error from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock on a file, which is created if needed, and hold it, if the file system has locks."""
    descriptor = _opened_to_lock(path, os.O_CREAT)
    try:
        if not _lock_free(descriptor):
            log.info("%s: waits for another process, which holds it", path)
            _lock(descriptor)
        yield
    finally:
        _close(descriptor)


class Lock:
    """The lock on a file, which is created, and removed when the lock is released.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Attributes
    ----------
    held : bool
        Whether this process holds it: no other one does, or the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        given_up = time.monotonic() + PROBED_S
        while True:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if not _lock_free(self._descriptor):
                os.close(self._descriptor)
                if time.monotonic() > given_up:
                    self.held = False
                    return
                time.sleep(PROBED_S / 10)
                continue
            with contextlib.suppress(FileNotFoundError):  # its holder removed it before it was locked here
                if os.path.samestat(os.fstat(self._descriptor), path.stat()):
                    break
            os.close(self._descriptor)
        self.held = True

    def release(self) -> None:
        """Let others have it."""
        if self.held:
            remove(self._path)
            _close(self._descriptor)
            self.held = False


def is_locked(path: Path) -> bool:
    """Return whether another process holds a `Lock`, or may, as this user cannot open it."""
    try:
        descriptor = _opened_to_lock(path)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        return not _lock_free(descriptor)
    finally:
        _close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or directory if it exists; warn if that fails."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: cannot be removed: %s", path, reason(error))


def write_all(stream: RawIOBase | BinaryIO, data: bytes) -> None:
    """Write all bytes to a stream; wait where it is non-blocking and full."""
    rest = memoryview(data)
    while rest:
        written = stream.write(rest)
        if written is None:
            select.select([], [stream], [])
        else:
            rest = rest[written:]


def write_stdout(data: bytes) -> None:
    """Write bytes to stdout, unless it is closed, a terminal, or no longer read."""
    if sys.stdout is None or sys.stdout.isatty():
        return
    with contextlib.suppress(OSError), open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stream:
        write_all(stream, data)


class Output:
    """A stream of bytes to stdout, or to a file that appears under its name only when it is whole.

    Parameters
    ----------
    path : str or None
        A file; ``-`` or ``None`` is stdout. A device or named pipe is written to directly.
    form : Form
        Its format.
    overwrite : bool
        Replace an existing file of this format.

    Raises
    ------
    UsageError
        The file's name states another format.
    OutputError
        The file exists already, or cannot be written.
    ReaderGoneError
        The process that read stdout has exited.
    """

    def __init__(self, path: str | None, form: Form, *, overwrite: bool = False) -> None:
        refuse_compressed(path or "-", form)
        self._form = form
        self._overwrite = overwrite
        self._path = None if path in (None, "-") else Path(str(path))
        self.name = "<stdout>" if self._path is None else str(self._path)
        self._file: contextlib.AbstractContextManager[BinaryIO] | None = None
        self._opened: os.stat_result | None = None
        self._cut = False
        self.is_open = False

    @property
    def is_there(self) -> bool:
        """Whether the file has its name, which it gets once it is whole."""
        with contextlib.suppress(OSError):
            return bool(self._path and self._opened and os.path.samestat(self._opened, self._path.stat()))
        return False

    @property
    def folder(self) -> Path:
        """The directory of the file."""
        return self._path.parent if self._path else Path()

    def __enter__(self) -> Output:
        with explained(self.name):
            direct = self._path is None or (self._path.exists() and not self._path.is_file())
            if direct:
                self._stream: FileIO | BinaryIO = self._open_stream()
        if self._path is not None and not direct:
            self._file = whole_file(self._path, overwrite=self._overwrite, form=self._form)
            self._stream = self._file.__enter__()
            self._opened = os.fstat(self._stream.fileno())
        self.is_open = True
        return self

    def _open_stream(self) -> FileIO:
        if self._path is not None:
            return self._path.open("wb", buffering=0)
        if sys.stdout is None:
            raise OutputError("cannot write: it is closed", self.name)
        return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)

    def write(self, chunks: Iterable[bytes]) -> None:
        """Write chunks of bytes, the last of which ends a line if they are text, and flush them."""
        with explained(self.name):
            self._cut = True
            write_all(self._stream, b"".join(chunks))
            self._cut = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.is_open = False
        if self._file is not None:
            self._file.__exit__(kind, error, traceback)
        elif self._cut:  # what follows on stdout is to begin a line
            with contextlib.suppress(OSError):
                write_all(self._stream, b"\n")
        else:
            with explained(self.name):
                self._stream.close()


class Sink:
    """An output as a binary file, for libraries that write to one."""

    closed = False

    def __init__(self, output: Output) -> None:
        self._output = output
        self._at = 0

    def write(self, data: bytes) -> int:
        """Write bytes, and return their number; drop what a library writes before the start, or after a failure."""
        if self._output.is_open:
            self._output.write([data])
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._at

    def flush(self) -> None:
        """Do nothing: what is written is flushed."""

    def close(self) -> None:
        """Do nothing: the output is closed by whoever opened it."""
