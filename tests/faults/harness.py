"""Runs command lines, disturbs them, and checks what they leave: nothing, or what an undisturbed run would leave."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import warm
from faults.commands import MADE, Command, write_inputs, write_records
from support import says_what_is_lost

from rsr_cli.core.files import PREFIX

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

#: Set by ``make faults``: every moment, and many rounds, in place of a few of each.
ALL = os.environ.get("RSR_FAULTS") == "all"
SEED = int(os.environ.get("RSR_FAULTS_SEED", "1"))
#: What stays in an index for its next writer.
LOCK = "lock"
#: What a manifest states of a segment that has numbers in it, as names of files have.
NAMES = ("name", "files", "deletions")
#: What is said of a run that does not fail.
WARNING = r": cannot be removed: |no longer needed cannot be removed|is made again$|in it already$|nothing was deleted$"


def some(found: Sequence[Any], count: int, name: str) -> list[Any]:
    """Return all that was found, or in the ordinary suite only some of it, in its order."""
    if ALL or len(found) <= count:
        return list(found)
    return [found[n] for n in sorted(random.Random(f"{SEED} {name}").sample(range(len(found)), count))]


class Done(NamedTuple):
    """How a process ended: its status as a shell has it, and its streams."""

    status: int
    stdout: bytes
    stderr: str


class Running:
    """A process of ``rsr``."""

    def __init__(self, connection: socket.socket, process: int, streams: list[Any]) -> None:
        self._connection, self._streams = connection, streams
        self._handle = None
        with contextlib.suppress(ProcessLookupError):
            self._handle = os.pidfd_open(process)

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def ended(self, timeout_s: float | None = 60) -> Done:
        """Wait for its end; raise TimeoutError if it has not come, and it goes on."""
        self._connection.settimeout(timeout_s)
        status = int(self._connection.recv(16))
        self._connection.close()
        if self._handle is not None:
            os.close(self._handle)
        texts = []
        for stream in self._streams:
            stream.seek(0)
            texts.append(stream.read())
            stream.close()
        return Done(128 - status if status < 0 else status, texts[0], texts[1].decode())


class Programs:
    """A server of `warm.py`, whose processes start at once, with the shim loaded if there is one."""

    def __init__(self, place: Path, shim: Path | None) -> None:
        self._socket = str(place / "socket")
        self.temporary = place / "tmp"
        self.temporary.mkdir()
        environment = {**os.environ, **({"LD_PRELOAD": str(shim)} if shim else {}), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", warm.__file__, "serve", self._socket]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self._server.stdout.readline() == b"ready\n"
        self.process = self._server.pid
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def close(self) -> None:
        self._server.communicate()

    def start(self, arguments: Sequence[str], directory: Path, **variables: object) -> Running:
        """Start ``rsr`` in a directory."""
        streams = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        environment = {**self._environment, "TMPDIR": str(self.temporary)}
        environment |= {name: str(value) for name, value in variables.items()}
        nothing, here = os.open(os.devnull, os.O_RDONLY), os.open(directory, os.O_RDONLY)
        try:
            files = [nothing, *(stream.fileno() for stream in streams), here]
            return Running(*warm.start(self._socket, list(arguments), environment, files), streams)
        finally:
            os.close(nothing)
            os.close(here)

    def run(self, arguments: Sequence[str], directory: Path, **variables: object) -> Done:
        """Run ``rsr`` in a directory."""
        return self.start(arguments, directory, **variables).ended()


# What is there -------------------------------------------------------------------------------------------------------


def contents(directory: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what a directory holds, by name, and what in it belongs to nothing.

    An index is its manifest, without what counts its changes, and its segments in their order, without the numbers
    that their names are. Of parts, those count that the file of their shard names.
    """
    held: dict[str, Any] = {}
    strays: list[str] = []
    for path in sorted(directory.iterdir()):
        if path.name.startswith(PREFIX):
            strays.append(path.name)
        else:
            held[path.name], left = contents_of(path)
            strays += [f"{path.name}/{name}" for name in left]
    return held, strays


def contents_of(path: Path) -> tuple[Any, list[str]]:
    """Return what a file, an index or a directory of parts holds, and what in it belongs to nothing."""
    if not path.is_dir():
        return path.read_bytes(), []
    return _index(path) if (path / "manifest.json").exists() else _parts(path)


def _files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _index(directory: Path) -> tuple[dict[str, Any], list[str]]:
    files = _files(directory)
    manifest = orjson.loads(files.pop("manifest.json"))
    files.pop(LOCK, None)
    digest = manifest.pop("sha256")
    assert hashlib.sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest() == digest
    facts = {name: value for name, value in manifest.items() if name not in ("generation", "arguments", "segments")}
    segments = []
    for segment in manifest["segments"]:
        stated = {}
        for name, numbers in segment["files"].items():
            data = files.pop(f"segments/{segment['name']}/{name}")
            assert (len(data), hashlib.sha256(data).hexdigest()) == (numbers["size"], numbers["sha256"]), name
            stated[re.sub(r"\d+", "N", name)] = data
        segments.append({**{k: v for k, v in segment.items() if k not in NAMES}, "files": stated})
    # A manifest that had to be copied stays for a day, with all that it names.
    copies = [orjson.loads(files.pop(name)) for name in list(files) if name.endswith("-copy.json")]
    kept = {segment["name"] for copy in copies for segment in copy["segments"]}
    files = {name: data for name, data in files.items() if Path(name).parent.name not in kept}
    folders = {path.name for path in (directory / "segments").iterdir()}
    empty = [f"segments/{name}" for name in folders - kept - {segment["name"] for segment in manifest["segments"]}]
    if (directory / "generations").exists() and not copies:
        empty.append("generations")
    return facts | {"segments": segments}, [*files, *empty]


def _parts(directory: Path) -> tuple[dict[str, Any], list[str]]:
    files = _files(directory)
    held = {name: files.pop(name) for name in ("parts.json",) if name in files}
    for name in sorted(files):
        if re.fullmatch(r"shard-\d+\.json", name):
            state = orjson.loads(files.pop(name))
            held[f"{name} is complete"] = state["complete"]
            for part in state["parts"]:
                held[part["name"]] = data = files.pop(part["name"])
                assert hashlib.sha256(data).hexdigest() == part["sha256"]
    return held, list(files)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Name what differs between the contents of two directories."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(one.keys() | other.keys())
        return [line for n in names for line in differences(one.get(n), other.get(n), f"{path}/{n}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            line for n, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{path}/{n}")
        ]
    return [] if one == other else [f"{path}: {str(one)[:80]} {str(other)[:80]}"]


# Rounds --------------------------------------------------------------------------------------------------------------


@dataclass
class Expected:
    """What an undisturbed run of a command finds and leaves, and then the one that sweeps."""

    before: dict[str, Any]
    after: dict[str, Any]
    swept: dict[str, Any]
    calls: dict[str, list[str]] = field(default_factory=dict)


class Faults:
    """Rounds of commands that are disturbed.

    Attributes
    ----------
    programs : Programs
        What runs the commands.
    rounds : int
        How many were run.
    """

    def __init__(self, place: Path, programs: Programs, write_raster: Any) -> None:
        self.programs = programs
        self.rounds = 0
        self._place = place
        self._expected: dict[Command, Expected] = {}
        self.inputs = place / "inputs"
        self.inputs.mkdir()
        write_inputs(self.inputs, write_raster)
        for words in MADE:
            self._succeed(words.split(), self.inputs)
            if not (self.inputs / "in.geojsonl").exists():
                write_records(self.inputs)

    def _succeed(self, arguments: Sequence[str], directory: Path) -> None:
        done = self.programs.run(arguments, directory)
        assert (done.status, done.stdout, done.stderr) == (0, b"", ""), (arguments, done)

    @contextlib.contextmanager
    def directory(self, *commands: Command, below: Path | None = None) -> Iterator[Path]:
        """Make a directory with the inputs of commands, and what is there before them; remove it if all goes well."""
        path = Path(tempfile.mkdtemp(dir=below or self._place))
        names = {"scene.tif": "scene.tif"}
        for command in commands:
            names |= {word: word for word in command.arguments if (self.inputs / word).exists()}
            if command.given:
                names[command.output] = command.given
        for name, given in names.items():
            source = self.inputs / given
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path / name)
        yield path
        shutil.rmtree(path)

    def expected(self, command: Command) -> Expected:
        """Run a command undisturbed, once, and return what it leaves."""
        if command not in self._expected:
            with self.directory(command) as path:
                before = contents(path)[0]
                self._succeed(command.arguments, path)
                after, strays = contents(path)
                assert not strays
                assert before != after
                assert self.programs.run(command.swept, path).status == 0
                swept, strays = contents(path)
                assert not strays
            kinds = {}
            for kind in ("write", "read"):
                with self.directory(command) as path:
                    kinds[kind] = self.run(command, path, f"{kind}:0:log:0")[1].splitlines()
                    assert differences(contents(path)[0], after) == []
            self._expected[command] = Expected(before, after, swept, kinds)
        return self._expected[command]

    def run(self, command: Command, path: Path, fault: str) -> tuple[Done, str]:
        """Run a command with one call disturbed, or all noted, and return how it ended, and the calls."""
        log = path.with_suffix(".log")
        done = self.programs.run(command.arguments, path, FAULT=fault, FAULT_BELOW=path, FAULT_LOG=log)
        calls = log.read_text().replace(f"{path}/", "").strip() if log.exists() else ""
        log.unlink(missing_ok=True)
        return done, calls

    def disturb(self, command: Command, fault: str) -> None:
        """Disturb one call of a command, and check all that follows."""
        self.expected(command)
        with self.directory(command) as path:
            done, call = self.run(command, path, fault)
            action, value = fault.split(":")[2:]
            stopped = int(value) if action in ("before", "after") else None
            self.check(command, path, done, f"{fault} at {call!r}", stopped=stopped)

    def check(
        self, command: Command, path: Path, done: Done, fault: str, *, stopped: int | None = None, killed: bool = False
    ) -> None:
        """Check what a command that was disturbed has left, and that another run puts all right.

        Parameters
        ----------
        command : Command
            What was run.
        path : Path
            Where.
        done : Done
            How it ended.
        fault : str
            What disturbed it, for messages.
        stopped : int, optional
            The signal that stopped it, if one did.
        killed : bool
            Further signals came, which end it at once.
        """
        self.rounds += 1
        said = f"{command.words}\n{fault}\n{done.status} {done.stderr!r}"
        assert done.stdout == b"", said
        expected = self.expected(command)
        found, left = contents(path)
        lost = differences(found, expected.after)
        is_done = not lost
        said += f"\n{lost[:5]} {left}"
        if done.status in (0, 1):
            assert is_done == (done.status == 0), said
        if not is_done:
            assert self._as_before(command, found, expected), said
        if not (stopped is not None and done.status != 0):
            self.check_words(done, said)
        elif stopped == signal.SIGKILL:
            assert (done.status, done.stderr) == (128 + stopped, ""), said
        else:
            assert done.status == 128 + stopped, said
            assert says_what_is_lost(done.stderr.encode(), command.output), said
            assert not (is_done and done.stderr), said
            assert killed or not [name for name in left if PREFIX in name], said
        if "rsr" in command.output and (path / command.output).exists():
            sound = self.programs.run(["check", command.output], path)
            assert sound.status == 0, (said, sound)
        again = self.programs.run(command.arguments, path)
        said += f"\nthen {again.status} {again.stderr!r}"
        found, left = contents(path)
        assert differences(found, expected.after) == [], said
        if not is_done:
            assert (again.status, left) == (0, []), (said, left)
        else:  # it is refused, or changes nothing
            self.check_words(again, said)
            swept = self.programs.run(command.swept, path)
            found, left = contents(path)
            assert (swept.status, left, differences(found, expected.swept)) == (0, [], []), (said, swept, left)
        temporary = list(self.programs.temporary.iterdir())
        for each in temporary if stopped == signal.SIGKILL else ():  # which a figure's fonts may be in
            shutil.rmtree(each)
        assert temporary == [] or stopped == signal.SIGKILL, said

    @staticmethod
    def _as_before(command: Command, found: dict[str, Any], expected: Expected) -> bool:
        """Return whether the output is as it was before, or, if it grows, a part of what it is to be."""
        if not command.grows:
            return differences(found, expected.before) == []
        grown, whole = found.pop(command.output, {}), expected.after[command.output]
        before = {name: data for name, data in expected.before.items() if name != command.output}
        parts = {name: data for name, data in grown.items() if not name.endswith(" is complete")}
        return differences(found, before) == [] and all(whole.get(name) == data for name, data in parts.items())

    @staticmethod
    def check_words(done: Done, said: str) -> None:
        """Check that a command that failed says why in one line, and another one nothing but warnings."""
        lines = done.stderr.splitlines()
        assert all(re.match(r"rsr \w+: ", line) for line in lines), said
        assert "Traceback" not in done.stderr, said
        assert "bug in rsr" not in done.stderr, said
        errors = [line for line in lines if not re.search(WARNING, line)]
        assert done.status in (0, 1), said
        assert len(errors) == done.status, said
        assert all(re.match(r"rsr \w+: .+: ", line) for line in errors), said  # it states a place
