"""Lines in and out as a user's shell makes them: pipes, signals, full disks, broken lines."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import pytest
from support import embedding

from rsr_cli.core import files
from rsr_cli.core.errors import OutputError, RecordError, RsrError, Skips
from rsr_cli.core.records import jsonl, streams

RSR = [sys.executable, "-m", "rsr_cli.main"]


def heed_signals() -> None:
    """Undo what a shell does to jobs in the background, and nohup to all: a signal ignored there is ignored here."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def record(name, dim=16) -> dict:
    vector = np.random.default_rng(abs(hash(name))).standard_normal(dim).astype(np.float32)
    return {"type": "Feature", "id": name, "geometry": None, "properties": {"embedding": embedding(vector, "m", "f")}}


def lines(n, dim=16) -> bytes:
    return b"".join(orjson.dumps(record(f"t{i}", dim)) + b"\n" for i in range(n))


def read_all(*paths, keep_going=False):
    skips = Skips(keep_going=keep_going)
    batches = list(streams.read([str(path) for path in paths], skips))
    return [r["id"] for b in batches for r in b.records], [b.place(i) for b in batches for i in range(len(b))], skips


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n", b"\n \t\n"])
@pytest.mark.parametrize("start", [b"", b"\x1e"])
@pytest.mark.parametrize("last", [True, False])
def test_line_endings_and_record_separators(tmp_path, ending, start, last):
    text = ending.join(start + orjson.dumps(record(f"t{i}")) for i in range(5)) + (ending if last else b"")
    (tmp_path / "in").write_bytes(text)
    assert read_all(tmp_path / "in")[0] == [f"t{i}" for i in range(5)]


def test_places_count_blank_lines(tmp_path):
    (tmp_path / "in").write_bytes(b"\n\n" + lines(1) + b"\n" + lines(1))
    assert read_all(tmp_path / "in")[1] == [f"{tmp_path}/in:3", f"{tmp_path}/in:5"]


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_lines_that_span_blocks(tmp_path, monkeypatch, size):
    monkeypatch.setattr(jsonl, "BLOCK_BYTES", size)
    (tmp_path / "in").write_bytes(lines(20))
    ids, places, _ = read_all(tmp_path / "in")
    assert ids == [f"t{i}" for i in range(20)]
    assert places == [f"{tmp_path}/in:{i}" for i in range(1, 21)]


def test_files_are_read_in_the_order_given(tmp_path):
    for name in "ba":
        (tmp_path / name).write_bytes(orjson.dumps(record(name)) + b"\n")
    assert read_all(tmp_path / "b", tmp_path / "a")[0] == ["b", "a"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b'{"type":"Feature","properties":{"x":NaN}}', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "not a GeoJSON Feature but list"),
        (b'{"type":"FeatureCollection","features":[]}', "not a GeoJSON Feature but FeatureCollection"),
        (b'{"a":1}', "not a GeoJSON Feature but an object without a type"),
        (b'{"type":"Feature"}', "no properties"),
        (b'{"type":"Feature","properties":null}', "no properties"),
        (b'{"type":"Feature","properties":{}}{"type":"Feature"}', "not JSON"),
    ],
)
def test_a_broken_line_is_named_or_skipped(tmp_path, line, says):
    (tmp_path / "in").write_bytes(lines(2) + line + b"\n" + lines(1))
    with pytest.raises(RecordError) as caught:
        read_all(tmp_path / "in")
    assert str(caught.value).startswith(f"{tmp_path}/in:3: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    ids, _, skips = read_all(tmp_path / "in", keep_going=True)
    assert (ids, skips.count) == (["t0", "t1", "t0"], 1)


@pytest.mark.parametrize("path", ["missing.geojsonl", "."])
def test_an_input_that_cannot_be_read(path):
    with pytest.raises(RsrError, match=r"no such file|is a directory"):
        read_all(path)


def test_unknown_fields_pass_through(rsr):
    odd = record("x") | {"stac_version": "1.1.0", "links": [], "assets": {"a": {"href": "h"}}}
    odd["properties"] |= {"eo:cloud_cover": 3.5, "gsd": 10, "näme": "ü\u2028"}
    done = rsr("binarize", input=orjson.dumps(odd) + b"\n")
    out = orjson.loads(done.stdout)
    del out["properties"]["code"], odd["properties"]["embedding"]
    assert out == odd


def test_an_empty_stream_gives_an_empty_result(rsr, tmp_path):
    done = rsr("binarize", input=b"")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = rsr("index", "-o", "lake.rsr", input=b"", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"rsr index: no records were read, and the index is empty\n")
    done = rsr("query", "lake.rsr", input=lines(2), cwd=tmp_path)
    says = b"rsr query: 2 of 2 queries have no hits and are not in the output: the index is empty\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", says)


def test_a_byte_order_mark_is_no_part_of_the_first_line(rsr):
    assert rsr("binarize", input=b"\xef\xbb\xbf" + lines(1)).stdout == rsr("binarize", input=lines(1)).stdout


def test_a_feature_collection_is_told_what_is_expected(rsr):
    for text in (b'{"type": "FeatureCollection", "features": []}', b'{\n  "type": "FeatureCollection"\n}'):
        done = rsr("binarize", input=text)
        assert done.returncode == 1
        assert b"<stdin>:1: not " in done.stderr
        assert b"one Feature per line is expected, as jq -c '.features[]'" in done.stderr


def test_keep_going_ends_with_3_and_says_what_was_skipped(rsr):
    done = rsr("binarize", "--keep-going", input=lines(1) + b"broken\n" + lines(1))
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
    assert b"terminal" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Flow ----------------------------------------------------------------------------------------------------------------


def test_the_first_result_leaves_before_the_last_input_arrives():
    with subprocess.Popen([*RSR, "binarize"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for i in range(3):
            process.stdin.write(orjson.dumps(record(f"t{i}")) + b"\n")
            process.stdin.flush()
            assert orjson.loads(process.stdout.readline())["id"] == f"t{i}"
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_memory_does_not_grow_with_the_stream(tmp_path):
    """Ten thousand records and a hundred thousand: the peak may differ by a few batches, not by the stream."""
    block = lines(10_000, 64)

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
            os.write(theirs, orjson.dumps(record(f"t{i}")) + b"\n")
            assert orjson.loads(process.stdout.readline())["id"] == f"t{i}"
        os.close(theirs)
        assert process.stdout.read() == b""
    assert process.returncode == 0


# Ends ----------------------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error():
    script = f"{sys.executable} -m rsr_cli.main binarize | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], input=lines(3000, 256), capture_output=True, timeout=60, check=False)
    first, status = done.stdout.splitlines()
    assert orjson.loads(first)["id"] == "t0"
    assert (status, done.stderr) == (b"141", b"")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_in_silence_and_leaves_no_half_file(tmp_path, number, status):
    for command in (["binarize", "-o", "out.geojsonl"], ["index", "-o", "out.rsr"]):
        with subprocess.Popen(
            [*RSR, *command], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, preexec_fn=heed_signals
        ) as process:
            process.stdin.write(lines(3))
            process.stdin.flush()
            deadline = time.monotonic() + 30
            while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert [p.name.startswith(".rsr-") for p in tmp_path.iterdir()] == [True]
            process.send_signal(number)
            assert process.wait(30) == status
            assert process.stderr.read() == b""
        assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored():
    """As under nohup."""
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    with subprocess.Popen(
        [*RSR, "binarize"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=ignore
    ) as process:
        process.stdin.write(lines(1))
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.stdin.write(lines(1))
        process.stdin.close()
        assert len(process.stdout.read().splitlines()) == 1
    assert process.returncode == 0


def test_a_full_disk_on_stdout(rsr):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*RSR, "binarize"], input=lines(3), stdout=full, stderr=subprocess.PIPE, check=False)
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
    done = rsr(*command, input=lines(4000, 256), cwd=small_disk)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"rsr {command[0]}: {command[2]}: cannot write: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(small_disk.iterdir()) == []


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "out"
    with files.Output(str(path)) as out:
        out.write([b"a\n"])
        assert not path.exists()
    assert path.read_bytes() == b"a\n"
    with contextlib.suppress(KeyError), files.Output(str(path), overwrite=True) as out:
        out.write([b"b\n"])
        raise KeyError
    assert path.read_bytes() == b"a\n"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_existing_file_is_refused_before_anything_is_read(rsr, tmp_path):
    (tmp_path / "out").write_text("mine")
    done = rsr("binarize", "-o", "out", input=b"broken", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"rsr binarize: out: exists already; pass --overwrite to replace it\n"
    assert (tmp_path / "out").read_text() == "mine"
    assert rsr("binarize", "-o", "out", "--overwrite", input=lines(2), cwd=tmp_path).returncode == 0
    assert len((tmp_path / "out").read_bytes().splitlines()) == 2


def test_a_file_that_another_job_made_meanwhile_is_kept(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="exists already"), files.Output(str(path)):
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_not_needed(tmp_path, closing):
    """As cron and daemons may have it."""
    (tmp_path / "in").write_bytes(lines(2))
    script = f"{sys.executable} -m rsr_cli.main binarize in -o out {closing}"
    assert subprocess.run(["bash", "-c", script], cwd=tmp_path, timeout=60, check=False).returncode == 0
    assert len((tmp_path / "out").read_bytes().splitlines()) == 2


def test_a_record_that_is_nested_too_deeply(rsr):
    deep = record("x")
    deep["properties"]["deep"] = None
    line = orjson.dumps(deep).replace(b'"deep":null', b'"deep":' + b"[" * 400 + b"]" * 400)
    done = rsr("binarize", input=line + b"\n")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert b"x: cannot be written as JSON" in done.stderr


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    with files.Output(str(tmp_path / "ours")) as out:
        out.write([b"a\n"])
    (tmp_path / "theirs").write_text("a")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_devices_and_named_pipes_are_written_to_directly(rsr, tmp_path):
    assert rsr("binarize", "-o", "/dev/null", input=lines(2)).returncode == 0
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, cwd=tmp_path) as cat:
        assert rsr("binarize", "-o", "pipe", input=lines(2), cwd=tmp_path).returncode == 0
        assert len(cat.stdout.read().splitlines()) == 2


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match="no such file or directory"), files.Output(str(tmp_path / "no" / "out")):
        pass


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
    done = rsr("binarize", input=lines(1), env={"RSR_BINARIZE_METHOD": "lsh", "RSR_BINARIZE_BITS": "32"})
    assert orjson.loads(done.stdout)["properties"]["code"]["method"] == "lsh"
    done = rsr("binarize", "--method", "sign", input=lines(1), env={"RSR_BINARIZE_METHOD": "lsh"})
    assert orjson.loads(done.stdout)["properties"]["code"]["method"] == "sign"


def test_quiet_says_nothing_but_errors(rsr):
    done = rsr("binarize", "-q", "--keep-going", input=b"broken\n")
    assert len(done.stderr.splitlines()) == 1
