"""Input: streams of records, and files that are read whole or mapped, which must be regular ones."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import math
import mmap
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import RsrError, UsageError
from rsr_cli.core.files import reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    import numpy as np
    from numpy.typing import NDArray

PIPE_BYTES = 1 << 17
#: Size of the largest file that is read whole.
MAX_BYTES = 64 << 20
_mapped: dict[Path, int] = {}


@contextlib.contextmanager
def open_input(path: str) -> Iterator[tuple[str, FileIO]]:
    """Open a file, or stdin for ``-``, unbuffered: a read returns what has arrived.

    Yields
    ------
    tuple of str and FileIO
        The name to use in messages, and the stream.

    Raises
    ------
    UsageError
        stdin is closed or a terminal.
    RsrError
        The file cannot be opened.
    """
    if path == "-":
        if sys.stdin is None or sys.stdin.isatty():
            what = "stdin is closed" if sys.stdin is None else "no input"
            raise UsageError(f"{what}; name a file or pipe records in")
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stream:
            if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
                _widen_pipe(stream.fileno())
            yield "<stdin>", stream
        return
    try:
        stream = Path(path).open("rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise RsrError(reason(error), path) from None
    with stream:
        yield path, stream


def _widen_pipe(descriptor: int) -> None:
    """Enlarge a pipe to hold a whole block; leave it as it is where the system refuses."""
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the name of a file to an error of reading it, which states none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def open_regular(path: Path) -> FileIO:
    """Open a regular file, unbuffered; one that is not could keep a reader waiting, or have no end.

    Raises
    ------
    OSError
        It is another kind of file, such as a named pipe or a device, or cannot be opened.
    """
    return os.fdopen(_open_regular(path)[0], "rb", buffering=0)


def _open_regular(path: Path) -> tuple[int, int]:
    """Open a regular file, and return its descriptor and size; raise OSError as `open_regular` does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return descriptor, found.st_size
    os.close(descriptor)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_bytes(path: Path) -> bytes:
    """Read a small file whole, as `read_file` does; raise OSError if it is not a regular file."""
    with open_regular(path) as file:
        return read_file(file)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a regular file; raise OSError as `open_regular` does."""
    with open_regular(path) as file, named(path):
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(file: FileIO) -> bytes:
    """Read an open file whole.

    Raises
    ------
    OSError
        It has more than `MAX_BYTES`, or cannot be read.
    """
    if os.fstat(file.fileno()).st_size > MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(file.name))
    return file.readall()


def map_array(path: Path) -> NDArray[Any]:
    """Map a numpy array (``.npy``).

    Raises
    ------
    OSError
        It is not a regular file, or cannot be opened.
    ValueError
        It is not a whole array.
    """
    import numpy as np

    open_regular(path).close()
    try:
        with np.errstate(all="ignore"):
            array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # what numpy raises for an odd header is not documented
        raise ValueError(str(error)) from None
    note_mapped(path)
    return array


def map_plain(path: Path, header: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Map a numpy array (``.npy``) whose header is known, ``None`` if it has another, or not as many values.

    Raises
    ------
    OSError
        It is not a regular file, or cannot be opened.
    """
    import numpy as np

    count = math.prod(shape)
    descriptor, size = _open_regular(path)
    try:
        is_plain = size == len(header) + count * dtype.itemsize and os.read(descriptor, len(header)) == header
        if not count or not is_plain:
            return None
        mapped = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    _mapped[path] = size
    return np.frombuffer(mapped, dtype, count, len(header)).reshape(shape)


def read_scattered(array: NDArray[Any]) -> None:
    """Turn off read-ahead for a mapped array, whose rows are read in no order."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    if base is not None:
        base.madvise(mmap.MADV_RANDOM)


def note_mapped(path: Path) -> None:
    """Remember the size of a file that is mapped: if it is cut short, reading it is no error but a signal."""
    _mapped[path] = path.stat().st_size


def cut_short() -> Path | None:
    """Return a mapped file that is smaller than it was, if any."""
    for path, size in _mapped.items():
        with contextlib.suppress(OSError):
            if path.stat().st_size < size:
                return path.absolute()
    return None


def input_size(path: str) -> int | None:
    """Return how many bytes are to be read from a file, or from stdin for ``-``; ``None`` if that is unknown."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = sys.stdin.fileno() if path == "-" else None
        found = Path(path).stat() if descriptor is None else os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            return found.st_size - (0 if descriptor is None else os.lseek(descriptor, 0, os.SEEK_CUR))
    return None
