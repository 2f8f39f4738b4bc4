"""A call that writes fails, writes less, or is the last one of a process: each call of each command."""

from __future__ import annotations

import errno
import signal

import pytest
from faults.commands import parameters
from faults.harness import some

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
    for moment in some(moments, 4, command.name):
        faults.disturbed(command, moment)
