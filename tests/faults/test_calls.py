"""A call that writes fails, writes less, or is the last one of a process: each call of each command."""

from __future__ import annotations

import errno
import re
import signal

import pytest
from faults.commands import COMMANDS, parameters
from faults.harness import some

FULL = "cannot write: no space left on device"
HELD = "what is no longer needed cannot be removed: cannot write: input/output error"
#: What failed once, or named no file: a command, which of its calls that match, how it fails, status and what is said.
FOUND = (
    ("tile to Parquet", r"write #\d+ \(deleted\)", 0, errno.ENOSPC, 1, f"tile: out.parquet: {FULL}"),
    ("binarize again", "close out.parquet", 0, errno.EIO, 0, ""),
    ("binarize parts", r"close out/shard-0.lock \(deleted\)", 0, errno.EIO, 0, ""),
    ("index, append", "close out.rsr/lock", 0, errno.EIO, 0, ""),
    ("index, compact", "open64 out.rsr/lock", 1, errno.EIO, 0, f"index: out.rsr: {HELD}"),
    ("tile", "read scene.tif", -1, errno.EIO, 1, "tile: scene.tif: input/output error"),
    ("binarize parts", "read out/part-.*", 0, errno.EIO, 1, "binarize: out/part-0-000001.parquet: input/output error"),
)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def faults_of(number: int, call: str) -> list[str]:
    """Return what is done to a call; the errors and signals take turns."""
    found = [f"error:{ERRORS[number % 3]}", f"before:{signal.SIGKILL:d}", f"after:{signal.SIGKILL:d}"]
    found.append(f"{('before', 'after')[number % 2]}:{SIGNALS[number // 2 % 3]:d}")
    if call.startswith(("write", "pwrite")):
        found.append("short:0")
    return [f"write:{number}:{each}" for each in found]


@pytest.mark.parametrize("command", parameters())
def test_each_call(faults, command):
    calls = faults.expected(command).calls["write"]
    moments = [fault for number, call in enumerate(calls, 1) for fault in faults_of(number, call)]
    for moment in some(moments, 3, command.name):
        faults.disturb(command, moment)


@pytest.mark.parametrize(("name", "call", "which", "number", "status", "says"), FOUND)
def test_what_was_found(faults, name, call, which, number, status, says):
    """What is said names a file, and what is done is no failure if something fails after that."""
    (command,) = (each for each in COMMANDS if each.name == name)
    kind = "read" if call.startswith("read") else "write"
    calls = faults.expected(command).calls[kind]
    place = [n for n, found in enumerate(calls, 1) if re.fullmatch(call, found)][which]
    with faults.directory(command) as path:
        done, _ = faults.run(command, path, f"{kind}:{place}:error:{number}")
    assert (done.status, done.stderr) == (status, f"rsr {says}\n" if says else "")
