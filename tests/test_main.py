"""What rsr does about a command line that it cannot run, and about a command that fails in a pipe."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import orjson
import pytest
from support import drawn_lines, failure_in, feature, needs_torch

from rsr_cli.main import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable

RSR = [sys.executable, "-m", "rsr_cli.main"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["qeury"], "rsr: no such command 'qeury'; did you mean 'query'?"),
        (["foo"], "rsr: no such command 'foo'; see rsr --help"),
        (["query", "--min-distence"], "rsr query: no such option '--min-distence'; did you mean '--min-distance'?"),
        (["binarize", "--ternary"], "rsr binarize: no such option '--ternary'; see rsr binarize --help"),
        (["query"], "rsr query: missing argument 'INDEX'; see rsr query --help"),
        (
            ["query", "-k", "five"],
            "rsr query: invalid value for '-k': 'five' is not a number; see rsr query --help",
        ),
    ],
)
def test_a_command_line_that_cannot_be_run_says_what_to_type(rsr, arguments, says):
    done = rsr(*arguments)
    assert (done.returncode, done.stderr.decode()) == (2, says + "\n")
    assert failure_in(done.stdout)["message"] == says.partition(": ")[2]


EVERY_COMMAND = (
    "tile",
    "embed",
    "models",
    "fit",
    "transform",
    "binarize",
    "index",
    "query",
    "score",
    "show",
    "plot",
    "info",
)


def test_every_command_is_tried():
    assert {*EVERY_COMMAND, "check"} == set(COMMANDS)  # which has no output


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_an_output_without_a_name_is_wrong_usage(rsr, command):
    done = rsr(command, "-o", "")
    says = f"rsr {command}: invalid value for '-o' / '--output': the name is empty; see rsr {command} --help\n"
    assert (done.returncode, done.stderr.decode()) == (2, says)


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", ""],
        ["show", "x", "-o", "x.png", "--queries", ""],
        ["score", "x", "--truth", ""],
        *([command, ""] for command in ("binarize", "score", "index -o x.rsr", "plot -o x.png", "show -o x.png")),
    ],
)
def test_an_input_without_a_name_is_wrong_usage(rsr, tmp_path, arguments):
    done = rsr(*arguments[0].split(), *arguments[1:], cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines()), b"empty" in done.stderr) == (2, 1, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["--version"], *([name, "--help"] for name in EVERY_COMMAND)]
)
def test_help_for_a_full_disk_and_for_a_reader_that_is_gone(arguments):
    name = " ".join(["rsr", *arguments[:-1]])
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run([*RSR, *arguments], stdout=full, stderr=subprocess.PIPE, check=False)
    says = f"{name}: <stdout>: cannot write: no space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (1, says)
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([*RSR, *arguments], stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


# A command that fails in a pipe --------------------------------------------------------------------------------------


@pytest.fixture
def piped(warm_path, tmp_path) -> Callable[..., tuple[list[int], list[str], bytes]]:
    """Run a pipe of ``rsr`` in bash; return the status of each command, the lines on stderr, and what came out."""

    def run(script: str, stdin: bytes = b"") -> tuple[list[int], list[str], bytes]:
        bash = ["bash", "-c", f'{script}; echo "${{PIPESTATUS[@]}}" > statuses']
        env = os.environ | {"PATH": warm_path}
        done = subprocess.run(bash, input=stdin, capture_output=True, cwd=tmp_path, env=env, timeout=120, check=False)
        statuses = list(map(int, (tmp_path / "statuses").read_text().split()))
        return statuses, done.stderr.decode().splitlines(), done.stdout

    return run


@pytest.fixture
def lake(rsr, tmp_path):
    """Build an index of three rows in a directory of its own."""
    assert rsr("index", "-o", "lake.rsr", input=drawn_lines(3), cwd=tmp_path).returncode == 0
    return tmp_path


def rows(rsr, lake) -> int:
    return len(rsr("query", "lake.rsr", "--id", "t0", cwd=lake).stdout.splitlines())


@pytest.mark.parametrize(
    "before",
    [
        "rsr binarize missing",
        "rsr binarize --no-such-option",
        "rsr binarise",
        "rsr --debug binarize missing",
        "rsr",
        "rsr tile missing.tif",
        "rsr query missing.rsr --id a",
        "rsr binarize missing | rsr binarize",
        "(cat good; rsr binarize missing)",
        "(rsr binarize missing; cat good)",
        "rsr binarize good missing",
        "rsr binarize missing | cat good - good",
        "rsr binarize missing > later; cat later",
    ],
)
@pytest.mark.parametrize("options", ["--overwrite", "--overwrite --allow-empty", "--overwrite --keep-going"])
def test_an_index_is_not_replaced_by_the_stream_of_a_command_that_failed(rsr, piped, lake, before, options):
    (lake / "good").write_bytes(drawn_lines(2))
    manifest = (lake / "lake.rsr" / "manifest.json").read_bytes()
    statuses, said, out = piped(f"{before} | rsr index -o lake.rsr {options}")
    assert (statuses[-1], out) == (1, b"")
    assert ": the command before it failed: rsr" in said[-1]
    assert (lake / "lake.rsr" / "manifest.json").read_bytes() == manifest
    assert rows(rsr, lake) == 3


def test_the_first_command_that_failed_is_named_to_the_end_of_the_pipe(piped, tmp_path):
    (tmp_path / "good").write_bytes(drawn_lines(2))
    statuses, said, out = piped("rsr binarize good missing | rsr query no.rsr - | rsr binarize")
    assert statuses == [1, 1, 1]
    statuses, said, out = piped("rsr binarize good - | cat | cat", b'{"type":"Feature"}\n')
    *codes, last = map(orjson.loads, out.splitlines())
    says = "<stdin>:1: the Feature has no properties object"
    assert [record["id"] for record in codes] == ["t0", "t1"]
    assert last == {"type": "Failure", "command": "rsr binarize", "status": 1, "message": says}
    statuses, said, out = piped("rsr tile none.tif | rsr binarize | rsr binarize")
    assert statuses == [1, 1, 1]
    last = failure_in(out)
    assert (last["command"], last["message"]) == ("rsr tile", "none.tif: no such file")
    assert said[-1] == "rsr binarize: <stdin>:1: the command before it failed: rsr tile: none.tif: no such file"


@pytest.mark.parametrize(
    "after",
    [
        *("binarize -o out", "score -o out", "show -o out.html", "plot -o out.png", "query lake.rsr -o out"),
        pytest.param("embed -o out", marks=needs_torch),
    ],
)
def test_every_reader_fails_and_leaves_nothing_under_its_output(rsr, piped, lake, after):
    hits = rsr("query", "lake.rsr", input=drawn_lines(2), cwd=lake).stdout
    labelled = b'"properties":{"labels":["a"],"query_labels":["a"],'  # else score may fail before the last line comes
    (lake / "hits").write_bytes(hits.replace(b'"properties":{', labelled))
    (lake / "vectors").write_bytes(drawn_lines(2))
    before = "hits" if after.split()[0] in ("score", "show") else "vectors"
    name = after.split()[-1]
    mine = {"out": b'{"mine":1}', "out.html": b"<html>mine", "out.png": b"\x89PNG\r\n\x1a\nmine"}[name]
    (lake / name).write_bytes(mine)
    settings = " --model rcf:bands=red" if after.startswith("embed") else ""
    statuses, said, _ = piped(f"rsr binarize missing | cat {before} - | rsr {after} --overwrite{settings}")
    assert statuses[-1] == 1
    assert "the command before it failed: rsr binarize: missing: no such file or directory" in said[-1]
    assert (lake / name).read_bytes() == mine


@pytest.mark.parametrize(
    "arguments", [["binarize", b"\xff"], ["binarize", b"--\xff"], ["query", b"\xff.rsr", "in"], [b"\xff"]]
)
def test_text_that_is_not_unicode_is_shown_in_the_last_line(tmp_path, arguments):
    done = subprocess.run([*RSR, *arguments], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode > 0
    (line,) = done.stderr.decode().splitlines()
    assert r"\udcff" in line
    assert failure_in(done.stdout)["message"] == line.partition(": ")[2]


@pytest.mark.parametrize(
    ("name", "says"), [("a" * 300, f"{'a' * 300}: file name too long"), ("", "an input has an empty name")]
)
def test_a_name_that_no_file_can_have(rsr, tmp_path, name, says):
    for arguments in (["binarize", name], ["score", name], ["score", "/dev/null", "--truth", name]):
        done = rsr(*arguments, cwd=tmp_path)
        assert (done.returncode > 0, done.stderr.decode()) == (True, f"rsr {arguments[0]}: {says}\n")


def test_a_stream_that_ends_well_has_no_last_line(rsr, lake):
    broken = b'{"type":"Feature"}\n'
    done = rsr("binarize", "--keep-going", input=broken + drawn_lines(1))
    assert (done.returncode, len(done.stdout.splitlines()), b"Failure" in done.stdout) == (3, 1, False)
    assert rsr("binarize", "--help").stdout.startswith(b"Usage")
    for arguments in (["score", "missing"], ["index", "missing", "-o", "new.rsr"], ["models", "--bad"]):
        done = rsr(*arguments, cwd=lake)
        assert done.returncode > 0
        assert done.stdout == b""


def test_what_goes_to_a_file_or_a_terminal_leaves_stdout_alone(rsr, tmp_path):
    for arguments, env in (
        (["missing", "-o", "out"], {}),
        (["--no-such-option", "-qo", "out"], {}),
        (["--no-such-option"], {"RSR_BINARIZE_OUTPUT": "out"}),
    ):
        done = rsr("binarize", *arguments, cwd=tmp_path, env=env)
        assert (done.returncode > 0, done.stdout, list(tmp_path.iterdir())) == (True, b"", [])
    assert failure_in(rsr("binarize", "missing", "-o", "-", cwd=tmp_path).stdout)["command"] == "rsr binarize"
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*RSR, "binarize", "missing"], stdout=theirs, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stderr.read() == b"rsr binarize: missing: no such file or directory\n"
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        os.read(ours, 1)
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_stopped_says_so_downstream(number):
    restore = lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP)]  # noqa: E731
    with subprocess.Popen(
        [*RSR, "binarize"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=restore
    ) as process:
        process.stdin.write(drawn_lines(1))
        process.stdin.flush()
        assert orjson.loads(process.stdout.readline())["id"] == "t0"
        process.send_signal(number)
        assert failure_in(process.stdout.read()) == {
            "command": "rsr binarize",
            "status": 128 + number,
            "message": f"stopped by {number.name}",
        }
        assert process.wait() == 128 + number
        assert process.stderr.read() == b""


def test_the_last_line_begins_a_line_even_if_a_write_was_cut():
    """A signal comes while a record of 3 MB is half written."""
    record = feature("large", text="x" * 3_000_000)
    record["properties"]["embedding"] = orjson.loads(drawn_lines(1))["properties"]["embedding"]
    with subprocess.Popen([*RSR, "binarize"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(orjson.dumps(record) + b"\n")
        process.stdin.flush()
        head = process.stdout.read1(1000)
        process.send_signal(signal.SIGTERM)
        cut, last = (head + process.stdout.read()).splitlines()
        assert process.wait() == 143
    assert len(cut) < 3_000_000
    assert orjson.loads(last)["message"] == "stopped by SIGTERM"
