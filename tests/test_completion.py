"""Completion in real shells, with the lines that rsr.1 asks users to add to their shell's start-up file."""

import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import time
import tomllib
from pathlib import Path

import pytest

from rsr_cli.core.codes.registry import METHODS
from rsr_cli.main import COMMANDS

BIN = Path(sys.executable).parent
SECTIONS = Path(__file__).parent.parent / "man" / "sections.toml"
LINES = tomllib.loads(SECTIONS.read_text())["rsr"]["sections"]["SHELL COMPLETION"]
# What the user typed -> what is offered
CASES = [
    ("rsr bina", ["binarize"]),
    ("rsr ", list(COMMANDS)),
    ("rsr binarize --method ", list(METHODS)),
    ("rsr binarize --method t", ["trivial"]),
    ("rsr query --exclude-s", ["--exclude-self"]),
    ("rsr show --s", ["--stretch"]),
    ("rsr embed --model vit", ["vit_b_16_rgb"]),
]


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


def start(shell):
    """Return the line of the manual that turns completion on."""
    return next(line for place, line in LINES.items() if place.startswith(f"{shell},"))


@pytest.fixture
def environment(tmp_path):
    """Return the environment of a user who has rsr in the PATH and no start-up files."""
    (tmp_path / "records.geojsonl").touch()
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    return {"PATH": path, "HOME": str(tmp_path), "TERM": "xterm", "LC_ALL": "C.UTF-8"}


def run(command, environment):
    options = {"env": environment, "cwd": environment["HOME"], "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(command, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@needs("bash")
@pytest.mark.parametrize(("typed", "offered"), CASES)
def test_bash(typed, offered, environment):
    # Like readline, call the function registered for rsr with the name of the command.
    script = f"""
        {start("bash")}
        function=$(complete -p rsr | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        $function rsr
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert run(["bash", "--norc", "-c", script, "bash", *typed.split(" ")], environment) == offered


@needs("fish")
@pytest.mark.parametrize(("typed", "offered"), CASES)
def test_fish(typed, offered, environment):
    found = run(["fish", "--no-config", "-c", f'{start("fish")}; complete -C "$argv[1]"', typed], environment)
    assert set(offered) <= set(found)


@needs("zsh")
@pytest.mark.parametrize(("typed", "offered"), CASES)
def test_zsh(typed, offered, environment):
    """Press Tab at a prompt, because zsh completes nowhere else."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (50, 200))
    options = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    shell = subprocess.Popen(["zsh", "-f", "-i"], env=environment, cwd=environment["HOME"], **options)
    os.close(theirs)

    def read_until(*wanted):
        seen, deadline = "", time.monotonic() + 60
        while not all(text in seen for text in wanted):
            ready, _, _ = select.select([ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"zsh shows {seen!r} and not {wanted}"
            seen += os.read(ours, 4096).decode(errors="replace")

    try:
        # The quotes distinguish the terminal's echo of the line from what the line prints.
        os.write(ours, f'autoload -Uz compinit; compinit -D; {start("zsh")}; PS1="pro""mpt> "\r'.encode())
        read_until("prompt> ")
        os.write(ours, typed.encode())
        read_until(typed)
        os.write(ours, b"\t")
        read_until(*offered) if len(offered) > 1 else read_until(offered[0].removeprefix(typed.split(" ")[-1]))
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "models"])  # which reads nothing
def test_inputs_are_files(command, environment):
    """The answer asks the shell to offer files."""
    asked = {"_RSR_COMPLETE": "bash_complete", "COMP_WORDS": f"rsr {command} rec", "COMP_CWORD": "2"}
    assert run([BIN / "rsr"], environment | asked) == ["file,rec"]
