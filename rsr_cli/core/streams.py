"""Records in and out: JSON lines, standard streams, files that are whole or not there, progress.

Reading hands on what has arrived: a batch is what one read of the input gave, at most 128 KiB, so a slow pipe
yields single records at once and a file yields batches of hundreds. Larger blocks are slower: their records outgrow the
processor's cache.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import select
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from rsr_cli.core.errors import OutputError, ReaderGoneError, RecordError, RsrError, Skips, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from io import FileIO

    from tqdm import tqdm

Record = dict[str, Any]

log = logging.getLogger("rsr")

ONE_A_LINE = "one Feature a line is expected, as jq -c '.features[]' or ogr2ogr -f GeoJSONSeq writes them"
BLOCK_BYTES = 1 << 17
LOG_EVERY_S = 30.0
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
RECORD_SEPARATOR = b"\x1e"  # RFC 8142


@dataclass(slots=True)
class Batch:
    """Consecutive records of one input.

    Attributes
    ----------
    name : str
        The input's name as the user gave it.
    lines : list of int
        Line of each record, from 1.
    records : list of dict
        GeoJSON Features.
    """

    name: str
    lines: list[int]
    records: list[Record]

    def __len__(self) -> int:
        return len(self.records)

    def place(self, i: int) -> str:
        """Name the input and line of record ``i``."""
        return f"{self.name}:{self.lines[i]}"

    def keep(self, chosen: Sequence[int]) -> None:
        """Drop all records but the chosen ones."""
        self.lines = [self.lines[i] for i in chosen]
        self.records = [self.records[i] for i in chosen]


@contextlib.contextmanager
def _open_input(path: str) -> Iterator[tuple[str, FileIO]]:
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
        raise RsrError(_reason(error), path) from None
    with stream:
        yield path, stream


def _widen_pipe(descriptor: int) -> None:
    """Let a pipe hold a whole block; where the system does not allow it, the pipe stays as it is."""
    import fcntl

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, BLOCK_BYTES)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def read_lines(path: str) -> Iterator[tuple[str, int, list[bytes]]]:
    """Read the lines of a file or of stdin, as they arrive.

    Parameters
    ----------
    path : str
        A file, or ``-`` for stdin.

    Yields
    ------
    tuple of str, int, list of bytes
        The input's name, the number of the first line, and lines without their line feed.

    Raises
    ------
    UsageError
        stdin is a terminal.
    RsrError
        The file cannot be read.
    """
    with _open_input(path) as (name, stream):
        first = 1
        pending: list[bytes] = []
        while True:
            try:
                block: bytes | None = stream.read(BLOCK_BYTES)
            except OSError as error:
                raise RsrError(_reason(error), name) from None
            if block is None:  # a non-blocking pipe that is empty for now
                select.select([stream], [], [])
                continue
            if not block:
                break
            if first == 1 and not pending:
                block = block.removeprefix(BYTE_ORDER_MARK)
            head, newline, tail = block.rpartition(b"\n")
            if not newline:
                pending.append(block)
                continue
            lines = b"".join([*pending, head]).split(b"\n")
            pending = [tail] if tail else []
            yield name, first, lines
            first += len(lines)
        if pending:
            yield name, first, [b"".join(pending)]


def read(inputs: Sequence[str], skips: Skips) -> Iterator[Batch]:
    """Read Features, one a line, from files and stdin.

    Parameters
    ----------
    inputs : sequence of str
        Files; ``-``, or none at all, is stdin.
    skips : Skips
        Asked about lines that hold no Feature.

    Yields
    ------
    Batch
        At least one record, in the input's order.

    Raises
    ------
    RecordError
        A line is not a GeoJSON Feature.
    """
    for path in inputs or ("-",):
        for name, first, lines in read_lines(path):
            batch = Batch(name, [], [])
            for number, line in enumerate(lines, first):
                text = line[1:] if line[:1] == RECORD_SEPARATOR else line
                if not text or text.isspace():
                    continue
                try:
                    batch.records.append(_feature(text))
                    batch.lines.append(number)
                except RecordError as error:
                    error.place = f"{name}:{number}"
                    skips(error)
            if batch.records:
                yield batch


def _feature(text: bytes) -> Record:
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"not JSON: {error}; {ONE_A_LINE}") from None
    if not isinstance(record, dict) or record.get("type") != "Feature":
        found = record.get("type") if isinstance(record, dict) else type(record).__name__
        raise RecordError(f"not a GeoJSON Feature but {found or 'an object without a type'}; {ONE_A_LINE}")
    if not isinstance(record.get("properties"), dict):
        raise RecordError("the Feature has no properties object")
    return record


def dump(record: Record) -> bytes:
    """Serialise one record as a line of JSON, line feed included.

    Raises
    ------
    RecordError
        It is nested too deeply.
    """
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise RecordError(f"cannot be written as JSON: {error}", str(record.get("id"))) from None


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
            raise OutputError(f"cannot write: {_reason(error)}", self.name) from None


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError where ``path`` is there and may not be replaced."""
    if path.exists() and not overwrite:
        raise OutputError("exists already; pass --overwrite to replace it", str(path))


def temporary_beside(path: Path) -> Path:
    """Name a hidden file or directory next to ``path``, unused by any other process on any other machine."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


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
