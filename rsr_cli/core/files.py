"""Files: standard streams, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rsr_cli.core.errors import OutputError, ReaderGoneError, RsrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO

PIPE_BYTES = 1 << 17


@contextlib.contextmanager
def open_input(path: str) -> Iterator[tuple[str, FileIO]]:
    """Open a file, or stdin for ``-``, unbuffered: a read gives what is there."""
    if path == "-":
        if sys.stdin is None or sys.stdin.isatty():
            what = "closed" if sys.stdin is None else "a terminal"
            raise UsageError(f"reads records from stdin, which is {what}; name a file or pipe records in")
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stream:
            if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
                _widen_pipe(stream.fileno())
            yield "<stdin>", stream
        return
    if path.endswith(".parquet"):
        raise UsageError("GeoParquet is not read yet; convert it with: ogr2ogr -f GeoJSONSeq /vsistdout/ FILE", path)
    try:
        stream = Path(path).open("rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise RsrError(reason(error), path) from None
    with stream:
        yield path, stream


def _widen_pipe(descriptor: int) -> None:
    """Let a pipe hold a whole block; where the system does not allow it, the pipe stays as it is."""
    import fcntl

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def reason(error: OSError) -> str:
    """Return the system's own words for an error, in lower case."""
    return (error.strerror or str(error)).lower()


class Output:
    """Where lines go: stdout, or a file that appears under its name only when it is whole.

    Parameters
    ----------
    path : str or None
        A file; ``-`` or ``None`` is stdout. A device or named pipe is written to directly.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    OutputError
        The file is there already, or cannot be written.
    """

    def __init__(self, path: str | None, *, overwrite: bool = False) -> None:
        self._overwrite = overwrite
        self._temporary: Path | None = None
        self._final = None if path in (None, "-") else Path(str(path))
        self.name = "<stdout>" if self._final is None else str(self._final)
        if self.name.endswith(".parquet"):
            raise OutputError("GeoParquet is not written yet; use an ending such as .geojsonl", self.name)

    def __enter__(self) -> Output:
        with self._explained():
            try:
                self._stream = self._open()
            except BaseException:  # a signal too
                if self._temporary:
                    self._temporary.unlink(missing_ok=True)
                raise
        return self

    def _open(self) -> BinaryIO:
        if self._final is None:
            if sys.stdout is None:
                raise OutputError("cannot write: it is closed", self.name)
            return open(sys.stdout.fileno(), "wb", closefd=False)
        if self._final.exists() and not self._final.is_file():
            return self._final.open("wb")
        refuse_existing(self._final, overwrite=self._overwrite)
        self._temporary = temporary_beside(self._final)
        return self._temporary.open("xb")

    def write(self, lines: Iterable[bytes]) -> None:
        """Write lines and hand them on at once."""
        with self._explained():
            self._stream.write(b"".join(lines))
            self._stream.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._temporary is None:
            if kind is None:
                with self._explained():
                    self._stream.close()
            return
        try:
            if kind is None:
                with self._explained():
                    self._stream.flush()
                    os.fsync(self._stream.fileno())
                    self._publish(self._temporary, Path(self.name))
        finally:
            with contextlib.suppress(OSError):
                self._stream.close()
            self._temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path, final: Path) -> None:
        """Give the file its name, and without ``overwrite`` only if nobody has taken it meanwhile."""
        if not self._overwrite:
            try:
                final.hardlink_to(temporary)
            except FileExistsError:
                refuse_existing(final, overwrite=False)
            except OSError:  # a file system without hard links
                refuse_existing(final, overwrite=False)
            else:
                return
        temporary.replace(final)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise ReaderGoneError("the reader has gone away", self.name) from None
            raise OutputError(f"cannot write: {reason(error)}", self.name) from None


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError where ``path`` is there and may not be replaced."""
    if path.exists() and not overwrite:
        raise OutputError("exists already", str(path), remedy="overwrite")


def temporary_beside(path: Path) -> Path:
    """Name a hidden file or directory next to ``path``, unused by any other process on any other machine."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
