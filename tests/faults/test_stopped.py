"""Signals at random moments, and exactly at the calls by which files get and lose their names."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from faults.commands import parameters
from faults.harness import ALL, SEED, Done, some

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
RSR = [sys.executable, "-m", "rsr_cli.main"]
NAMING = "rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,rmdir,fsync,fdatasync,ftruncate"


@pytest.mark.parametrize("command", parameters())
def test_a_random_moment(faults, command):
    """Of processes that have imported everything."""
    faults.expected(command)
    with faults.directory(command) as path:
        begun = time.monotonic()
        faults.programs.run(command.arguments, path)
        duration_s = time.monotonic() - begun
    chance = random.Random(f"{SEED} {command.name}")
    for number in chance.sample(SIGNALS, 1) if not ALL else SIGNALS * 13:
        delay_s = chance.uniform(0, duration_s)
        with faults.directory(command) as path:
            process = faults.programs.start(command.arguments, path)
            time.sleep(delay_s)
            process.send(number)
            faults.check(command, path, process.ended(), f"{number!r} after {delay_s:.3f} s", stopped=number)


@pytest.mark.parametrize("command", parameters() if ALL else parameters("binarize in")[:1])
def test_a_random_moment_from_the_start_of_the_program(faults, command, monkeypatch):
    faults.expected(command)
    monkeypatch.setenv("TMPDIR", str(faults.programs.temporary))
    chance = random.Random(f"{SEED} start {command.name}")
    duration_s = 0.0
    for number in (0, *SIGNALS):
        delay_s = chance.uniform(0, duration_s)
        begun = time.monotonic()
        with faults.directory(command) as path:
            with subprocess.Popen([*RSR, *command.arguments], cwd=path, stdout=-1, stderr=-1) as process:
                if number:
                    time.sleep(delay_s)
                    process.send_signal(number)
                stdout, stderr = process.communicate()
            if not number:
                duration_s = time.monotonic() - begun
                continue
            status = 128 - process.returncode if process.returncode < 0 else process.returncode
            if number == signal.SIGINT and b"KeyboardInterrupt" in stderr:  # Python itself was being loaded
                status, stderr = 130, b""
            done = Done(status, stdout, stderr.decode())
            faults.check(command, path, done, f"{number!r} after {delay_s:.3f} s of the start", stopped=number)


def traced(faults, command, path, log, *injected) -> Done:
    """Run a command with strace attached to the server, whose new processes it follows."""
    options = ["-f", "-qqq", "-o", log, "-e", f"trace={NAMING}", *injected, "-p", str(faults.programs.process)]
    with subprocess.Popen(["strace", *options], stderr=subprocess.PIPE) as strace:
        status = f"/proc/{faults.programs.process}/status"
        while f"TracerPid:\t{strace.pid}\n" not in open(status).read():  # noqa: PTH123, SIM115
            if strace.poll() is not None:
                pytest.skip(strace.stderr.read().decode())
            time.sleep(0.01)
        try:
            return faults.programs.run(command.arguments, path)
        finally:
            strace.terminate()


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
@pytest.mark.parametrize("command", parameters() if ALL else parameters("-o out.rsr") + parameters("--overwrite"))
def test_each_name(faults, command, tmp_path):
    """SIGKILL arrives before the call has done anything, SIGTERM when it has."""
    faults.expected(command)
    log = tmp_path / "log"
    with faults.directory(command) as path:
        traced(faults, command, path, log)
    # strace counts the calls of each thread by themselves
    count = max(Counter(re.findall(r"(?m)^(\d+) +\w+\(", log.read_text())).values())
    moments = [(number, place) for number in (signal.SIGKILL, signal.SIGTERM) for place in range(1, count + 1)]
    for number, place in some(moments, 1, f"strace {command.name}"):
        with faults.directory(command) as path:
            fault = f"inject={NAMING}:signal={number:d}:when={place}"
            done = traced(faults, command, path, log, "-e", fault)
            said = log.read_text()
            twice = said.count("--- SIGTERM") > 1  # in another thread, or at another kind of call
            faults.check(command, path, done, f"{fault}\n{said}", stopped=number, killed=twice)
