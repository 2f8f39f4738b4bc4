"""Lines in and out as a user's shell makes them: pipes, signals, full disks, broken lines."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from support import drawn_lines, drawn_record, needs_torch, read_all, says_what_is_lost

from rsr_cli.core.errors import RsrError, Skips
from rsr_cli.core.records.jsonl import failure_line
from rsr_cli.core.records.streams import Writer

RSR = [sys.executable, "-m", "rsr_cli.main"]


def heed_signals() -> None:
    """Undo what a shell does to jobs in the background, and nohup to all: a signal ignored there is ignored here."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


# Reading -------------------------------------------------------------------------------------------------------------


def test_files_are_read_in_the_order_given(tmp_path):
    for name in "ba":
        (tmp_path / name).write_bytes(orjson.dumps(drawn_record(name)) + b"\n")
    assert read_all(tmp_path / "b", tmp_path / "a")[0] == ["b", "a"]


@pytest.mark.parametrize(("name", "says"), [("missing.geojsonl", "no such file"), ("", "is a directory")])
def test_an_input_that_cannot_be_read(tmp_path, name, says):
    with pytest.raises(RsrError, match=says):
        read_all(tmp_path / name)


def test_unknown_fields_pass_through(rsr):
    odd = drawn_record("x") | {"stac_version": "1.1.0", "links": [], "assets": {"a": {"href": "h"}}}
    odd["properties"] |= {"eo:cloud_cover": 3.5, "gsd": 10, "näme": "ü\u2028"}
    done = rsr("binarize", input=orjson.dumps(odd) + b"\n")
    out = orjson.loads(done.stdout)
    del out["properties"]["code"], odd["properties"]["embedding"]
    assert out == odd


def test_an_empty_stream_gives_an_empty_result(rsr, tmp_path):
    done = rsr("binarize", input=b"")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"rsr binarize: <stdin>: is empty\n")
    done = rsr("index", "-o", "lake.rsr", "--allow-empty", input=b"", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"rsr index: <stdin>: is empty\n")
    done = rsr("query", "lake.rsr", input=drawn_lines(2), cwd=tmp_path)
    says = b"rsr query: 2 of 2 queries have no hits and are left out of the output: the index is empty\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", says)


@pytest.fixture(scope="module")
def small_index(rsr, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    assert rsr("index", "-o", "i.rsr", input=drawn_lines(3), cwd=folder).returncode == 0
    return folder / "i.rsr"


@pytest.mark.parametrize(
    ("command", "way"),
    [
        *((name, "pipe") for name in ("query", "binarize", "score")),
        pytest.param("embed", "pipe", marks=needs_torch),
        ("query", "file"),
        ("binarize", "redirected"),
    ],
)
@pytest.mark.parametrize("content", [b"", b" \r\n\x1e\n\n", b"\xef\xbb\xbf"])
def test_an_empty_input_is_a_warning_however_it_is_read(rsr, tmp_path, small_index, command, content, way):
    (tmp_path / "in").write_bytes(content)
    settings = {"query": [small_index], "embed": ["--model", "rcf"]}.get(command, [])
    command = [command, *map(str, settings)]
    if way == "redirected":
        with (tmp_path / "in").open("rb") as file:
            done = subprocess.run([*RSR, *command], stdin=file, capture_output=True, check=False)
    elif way == "pipe":
        done = rsr(*command, input=content)
    else:
        done = rsr(*command, "in", cwd=tmp_path)
    name = "in" if way == "file" else "<stdin>"
    assert (done.returncode, done.stderr.decode()) == (0, f"rsr {command[0]}: {name}: is empty\n")
    if way == "pipe":
        assert rsr(*command, "-q", input=content).stderr == b""


def test_what_is_not_empty_is_not_called_so(rsr, tmp_path):
    """All of it skipped, or a command before it that failed."""
    done = rsr("binarize", "--keep-going", input=b"broken\n")
    assert (done.returncode, b"empty" in done.stderr) == (3, False)
    done = rsr("binarize", input=failure_line("rsr embed", "no such file", 1))
    assert (done.returncode, b"empty" in done.stderr) == (1, False)
    (tmp_path / "empty").touch()
    (tmp_path / "good").write_bytes(drawn_lines(2))
    done = rsr("binarize", "empty", "good", "-", "empty", input=b"", cwd=tmp_path)
    says = [f"rsr binarize: {name}: is empty" for name in ("empty", "<stdin>", "empty")]
    assert (done.returncode, done.stderr.decode().splitlines()) == (0, says)


def test_keep_going_ends_with_3_and_says_what_was_skipped(rsr):
    done = rsr("binarize", "--keep-going", input=drawn_lines(1) + b"broken\n" + drawn_lines(1))
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 2
    first, last = done.stderr.decode().splitlines()
    assert first.startswith("rsr binarize: <stdin>:2: not JSON")
    assert last == "rsr binarize: 1 skipped"


def test_stdin_that_is_a_terminal_is_refused():
    ours, theirs = os.openpty()
    try:
        done = subprocess.run([*RSR, "binarize"], stdin=theirs, capture_output=True, timeout=30, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2
    assert b"no input; name a file or pipe records in" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Flow ----------------------------------------------------------------------------------------------------------------


def test_the_first_result_leaves_before_the_last_input_arrives():
    with subprocess.Popen([*RSR, "binarize"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for i in range(3):
            process.stdin.write(orjson.dumps(drawn_record(f"t{i}")) + b"\n")
            process.stdin.flush()
            assert orjson.loads(process.stdout.readline())["id"] == f"t{i}"
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_memory_does_not_grow_with_the_stream(tmp_path):
    """Ten thousand records and a hundred thousand: the peak may differ by a few batches, not by the stream."""
    block = drawn_lines(10_000, 64)

    def peak(command, times):
        code = (
            "import resource, sys; from rsr_cli.main import main\ntry: main(sys.argv[1:])\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            for i in range(times):
                process.stdin.write(block.replace(b'"id":"t', b'"id":"%d_' % i))
            process.stdin.close()
            kib = int(process.stderr.read())
        assert process.returncode == 0
        return kib

    for command in (["binarize"], ["index", "-o", str(tmp_path / "i.rsr"), "--overwrite"]):
        few, many = peak(command, 1), peak(command, 10)
        assert many - few < 8 * 1024, command


def test_a_pipe_that_does_not_block_is_read_to_its_end():
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    with subprocess.Popen([*RSR, "binarize"], stdin=ours, stdout=subprocess.PIPE) as process:
        os.close(ours)
        for i in range(3):
            os.write(theirs, orjson.dumps(drawn_record(f"t{i}")) + b"\n")
            assert orjson.loads(process.stdout.readline())["id"] == f"t{i}"
        os.close(theirs)
        assert process.stdout.read() == b""
    assert process.returncode == 0


# Ends ----------------------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error():
    script = f"{sys.executable} -m rsr_cli.main binarize | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], input=drawn_lines(3000, 256), capture_output=True, timeout=60, check=False
    )
    first, status = done.stdout.splitlines()
    assert orjson.loads(first)["id"] == "t0"
    assert (status, done.stderr) == (b"141", b"")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_and_leaves_no_half_file(tmp_path, number, status):
    for command in (["binarize", "-o", "out.geojsonl"], ["index", "-o", "out.rsr"]):
        with subprocess.Popen(
            [*RSR, *command], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, preexec_fn=heed_signals
        ) as process:
            process.stdin.write(drawn_lines(3))
            process.stdin.flush()
            deadline = time.monotonic() + 30
            while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert [p.name.startswith(".rsr-") for p in tmp_path.iterdir()] == [True]
            process.send_signal(number)
            assert process.wait(30) == status
            assert says_what_is_lost(process.stderr.read(), command[-1])
        assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored():
    """As under nohup."""
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    with subprocess.Popen(
        [*RSR, "binarize"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=ignore
    ) as process:
        process.stdin.write(drawn_lines(1))
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.stdin.write(drawn_lines(1))
        process.stdin.close()
        assert len(process.stdout.read().splitlines()) == 1
    assert process.returncode == 0


def test_a_full_disk_on_stdout(rsr):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*RSR, "binarize"], input=drawn_lines(3), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"rsr binarize: <stdout>: cannot write: no space left on device\n"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, where mounting one is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here (needs root)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("command", [["binarize", "-o", "out.geojsonl"], ["index", "-o", "out.rsr"]])
def test_a_full_disk_under_a_file(rsr, small_disk, command):
    done = rsr(*command, input=drawn_lines(4000, 256), cwd=small_disk)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"rsr {command[0]}: {command[2]}: cannot write: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(small_disk.iterdir()) == []


# Files ---------------------------------------------------------------------------------------------------------------


def test_an_existing_file_is_refused_before_anything_is_read(rsr, tmp_path):
    (tmp_path / "out").write_bytes(drawn_lines(1))
    done = rsr("binarize", "-o", "out", input=b"broken", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"rsr binarize: out: exists already; pass --overwrite to replace it\n"
    assert (tmp_path / "out").read_bytes() == drawn_lines(1)
    assert rsr("binarize", "-o", "out", "--overwrite", input=drawn_lines(2), cwd=tmp_path).returncode == 0
    assert len((tmp_path / "out").read_bytes().splitlines()) == 2


@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_not_needed(tmp_path, closing):
    """As cron and daemons may have it."""
    (tmp_path / "in").write_bytes(drawn_lines(2))
    script = f"{sys.executable} -m rsr_cli.main binarize in -o out {closing}"
    assert subprocess.run(["bash", "-c", script], cwd=tmp_path, timeout=60, check=False).returncode == 0
    assert len((tmp_path / "out").read_bytes().splitlines()) == 2


def test_devices_and_named_pipes_are_written_to_directly(rsr, tmp_path):
    assert rsr("binarize", "-o", "/dev/null", input=drawn_lines(2)).returncode == 0
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, cwd=tmp_path) as cat:
        assert rsr("binarize", "-o", "pipe", input=drawn_lines(2), cwd=tmp_path).returncode == 0
        assert len(cat.stdout.read().splitlines()) == 2


# Errors --------------------------------------------------------------------------------------------------------------


def test_no_traceback_unless_debug(rsr):
    plain, debug = rsr("binarize", input=b"x\n"), rsr("binarize", "--debug", input=b"x\n")
    assert plain.returncode == debug.returncode == 1
    assert len(plain.stderr.splitlines()) == 1
    assert b"Traceback" in debug.stderr


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["binarize", "--nonsense"], ["binarize", "--bits", "x"], ["index"], ["tile", "--size", "0", "x"]],
)
def test_wrong_usage_is_one_line_and_status_2(rsr, arguments):
    done = rsr(*arguments, input=b"")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(b"rsr")


def test_options_come_from_the_environment(rsr):
    done = rsr("binarize", input=drawn_lines(1), env={"RSR_BINARIZE_METHOD": "lsh", "RSR_BINARIZE_BITS": "32"})
    assert orjson.loads(done.stdout)["properties"]["code"]["method"] == "lsh"
    done = rsr("binarize", "--method", "sign", input=drawn_lines(1), env={"RSR_BINARIZE_METHOD": "lsh"})
    assert orjson.loads(done.stdout)["properties"]["code"]["method"] == "sign"


def test_quiet_says_nothing_but_errors(rsr):
    done = rsr("binarize", "-q", "--keep-going", input=b"broken\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["out.geojsonl.zst", "out.geojsonl.gz", "out.parquet", "out.geojsonl"])
def test_a_writer_that_a_signal_keeps_from_being_opened_says_nothing(tmp_path, capfd, name):
    """Libraries end what they compress as it is destroyed."""
    writer = Writer(str(tmp_path / name), Skips())
    del writer
    gc.collect()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
