"""The sha256 of a checkpoint, remembered for as long as the file is the same."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.errors import OutputError
from rsr_cli.core.files import whole_file

if TYPE_CHECKING:
    from io import FileIO

#: A file this young may still change without its times changing: some file systems count time in steps of 2 s.
YOUNG_S = 3


def sha256_of(file: FileIO, path: Path) -> str:
    """Return the sha256 of an open file in hexadecimal digits.

    It is kept in ``$XDG_CACHE_HOME/rsr`` (``~/.cache/rsr``), if that can be written, and taken from there while the
    file's path, size, inode and times of change are what they were.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    status = os.fstat(file.fileno())
    now = f"{status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"
    memory = _memory_of(path)
    if memory:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            then, _, digest = memory.read_text("ascii").rpartition(" ")
            if then == now and re.fullmatch("[0-9a-f]{64}", digest):
                return digest
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    if memory and max(status.st_mtime, status.st_ctime) < time.time() - YOUNG_S:
        with contextlib.suppress(OSError, OutputError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(memory, overwrite=True, sync=False) as target:
                target.write(f"{now} {digest}".encode())
    return digest


def _memory_of(path: Path) -> Path | None:
    """Return the file that keeps the digest of another one, if there is a place for it."""
    stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        home = stated if stated.is_absolute() else Path("~/.cache").expanduser()  # the standard ignores relative paths
    except RuntimeError:  # no home directory
        return None
    return home / "rsr" / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
