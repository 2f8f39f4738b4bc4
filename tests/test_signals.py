"""Signals that come while the main thread waits in a library, or in a library's callback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import orjson
import pytest
from support import code, drawn_lines, embedding, feature, needs_torch
from support_rasters import SIX

from rsr_cli.core.files import PREFIX

RSR = [sys.executable, "-m", "rsr_cli.main"]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
EMBED = pytest.param("embed", marks=needs_torch)


def heed_signals() -> None:
    """Undo what a shell does to jobs in the background."""
    for number in STATUS:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a process in the temporary directory, its signals as in a terminal."""
    processes = []

    def run(command, **options):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options
        process = subprocess.Popen(command, cwd=tmp_path, preexec_fn=heed_signals, **pipes)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(event, process) -> None:
    deadline = time.monotonic() + 60
    while not event():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def record(source, **properties) -> bytes:
    place = {"source": source, "window": [0, 0, 8, 8], "bands": list(SIX), "scale": 1, "offset": 0}
    return orjson.dumps(feature("a", **place, **properties)) + b"\n"


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("command", ["tile", EMBED, "show"])
def test_a_server_that_does_not_answer(tmp_path, start, silent_server, number, command):
    url, asked = silent_server
    (tmp_path / "in.geojsonl").write_bytes(record(url, query="q", rank=1, distance=1))
    arguments = {
        "tile": ["tile", "--allow-network", "--whole", "-o", "out.geojsonl", url],
        "embed": ["embed", "--allow-network", "--model", "rcf", "-o", "out.geojsonl", "in.geojsonl"],
        "show": ["show", "--allow-network", "-o", "out.html", "in.geojsonl"],
    }
    process = start([*RSR, *arguments[command]])
    wait_for(asked.is_set, process)
    process.send_signal(number)
    assert process.wait(20) == STATUS[number]
    assert process.stderr.read() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["in.geojsonl"]


@pytest.mark.parametrize("command", ["tile", EMBED])
def test_the_stream_says_that_a_signal_stopped_it(tmp_path, start, silent_server, command):
    url, asked = silent_server
    (tmp_path / "in.geojsonl").write_bytes(record(url))
    arguments = ["tile", "--whole", url] if command == "tile" else ["embed", "--model", "rcf", "in.geojsonl"]
    process = start([*RSR, *arguments, "--allow-network"], stdout=subprocess.PIPE)
    wait_for(asked.is_set, process)
    process.send_signal(signal.SIGTERM)
    last = orjson.loads(process.communicate(timeout=20)[0])
    says = {"type": "Failure", "command": f"rsr {command}", "status": 143, "message": "stopped by SIGTERM"}
    assert last == says


@needs_torch
def test_a_failure_is_not_held_up_by_a_server_that_does_not_answer(tmp_path, start, silent_server):
    """The second tile is read ahead when the first one fails."""
    url, _ = silent_server
    (tmp_path / "in.geojsonl").write_bytes(record("gone.tif") + record(url))
    process = start([*RSR, "embed", "--model", "rcf", "--allow-network", "in.geojsonl"], stdout=subprocess.PIPE)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"gone.tif: no such file" in err
    assert orjson.loads(out)["type"] == "Failure"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills_at_once(start, silent_server, number):
    url, asked = silent_server
    # even while what the first one does takes its time
    slow = "from rsr_cli import signals; signals.GRACE_S = 1e6; from rsr_cli.main import main; main()"
    process = start([sys.executable, "-c", slow, "tile", "--allow-network", "--whole", url])
    wait_for(asked.is_set, process)
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(number)
    assert process.wait(20) in (-number, STATUS[number])
    assert process.stderr.read() == b""


def test_a_terminal_that_closes_sends_several_hangups(tmp_path, start):
    process = start([*RSR, "binarize", "-o", "out.geojsonl"], stdin=subprocess.PIPE)
    wait_for(lambda: any(tmp_path.iterdir()), process)
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 129
    assert process.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []


IN_A_CALLBACK = """
import logging, os, signal
from rsr_cli.main import main

def interrupt(message):
    os.kill(os.getpid(), {number})
    return True

log = logging.getLogger("rasterio._env")
log.setLevel(logging.INFO)
log.addFilter(interrupt)  # called as GDAL reports an error
main(["tile", "--keep-going", "--whole", "-o", "out.geojsonl", "broken"])
"""


@pytest.mark.parametrize("number", STATUS)
def test_a_callback_that_swallows_the_exception(tmp_path, start, write_raster, number):
    path = write_raster(tmp_path / "broken" / "x.tif", np.ones((6, 64, 64), np.uint16), names=SIX)
    broken = Path(path).read_bytes()[:200]
    for name in "xyz":
        (tmp_path / "broken" / f"{name}.tif").write_bytes(broken)
    process = start([sys.executable, "-c", IN_A_CALLBACK.format(number=int(number))])
    assert process.wait(60) == STATUS[number]
    assert process.stderr.read() == b""
    assert [entry.name for entry in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_search_that_takes_minutes(tmp_path, start, number):
    codes = np.random.default_rng(0).integers(0, 256, (3000, 1 << 14), np.uint8)
    lines = b"".join(orjson.dumps(feature(f"t{i}", code=code(row, 1 << 17))) + b"\n" for i, row in enumerate(codes))
    done = subprocess.run([*RSR, "index", "-o", "x.rsr"], input=lines, cwd=tmp_path, check=True, timeout=60)
    assert done.returncode == 0
    (tmp_path / "queries.geojsonl").write_bytes(lines)
    process = start([*RSR, "query", "x.rsr", "queries.geojsonl", "-o", "out.geojsonl"])
    wait_for(lambda: any(path.name.startswith(PREFIX) for path in tmp_path.iterdir()), process)
    process.send_signal(number)
    assert process.wait(20) == STATUS[number]
    assert process.stderr.read() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["queries.geojsonl", "x.rsr"]


def test_an_index_that_is_replaced_stays_as_it_was(tmp_path, start):
    subprocess.run([*RSR, "index", "-o", "x.rsr"], input=drawn_lines(3), cwd=tmp_path, check=True, timeout=60)
    manifest = (tmp_path / "x.rsr" / "manifest.json").read_bytes()
    process = start([*RSR, "index", "-o", "x.rsr", "--overwrite"], stdin=subprocess.PIPE)
    process.stdin.write(drawn_lines(5))
    process.stdin.flush()
    wait_for(lambda: len(list((tmp_path / "x.rsr" / "segments").iterdir())) == 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert [path.name for path in (tmp_path / "x.rsr" / "segments").iterdir()] == ["000001"]
    assert (tmp_path / "x.rsr" / "manifest.json").read_bytes() == manifest


def test_unfinished_files_are_removed_by_another_thread(tmp_path):
    """The writer's thread cannot publish what was removed, and leaves nothing behind."""
    from rsr_cli.core.errors import OutputError
    from rsr_cli.core.files import remove_unfinished, whole_directory, whole_file

    def from_outside():
        thread = threading.Thread(target=remove_unfinished)
        thread.start()
        thread.join()

    with pytest.raises(OutputError), whole_file(tmp_path / "a"):
        from_outside()
    with pytest.raises(FileNotFoundError), whole_directory(tmp_path / "b"):
        from_outside()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metric", [None, "l1", "cosine"])
def test_an_index_that_is_cut_short_while_it_is_queried(tmp_path, start, metric):
    """Where faiss reads the vectors, or numpy, or nothing that is missing."""
    rng = np.random.default_rng(0)
    if metric:
        lines = b"".join(
            orjson.dumps(feature(f"t{i}", embedding=embedding(v))) + b"\n"
            for i, v in enumerate(rng.standard_normal((2000, 512)))
        )
    else:
        codes = rng.integers(0, 256, (2000, 2048), np.uint8)
        lines = b"".join(orjson.dumps(feature(f"t{i}", code=code(c, 1 << 14))) + b"\n" for i, c in enumerate(codes))
    choice = ["--metric", metric] if metric else []
    subprocess.run([*RSR, "index", "-o", "x.rsr", *choice], input=lines, cwd=tmp_path, check=True, timeout=60)
    vectors = tmp_path / "x.rsr" / "segments" / "000001" / "vectors.npy"
    whole = vectors.read_bytes()
    query = lines[: lines.index(b"\n") + 1]
    for size, says in ((0, b"was cut short"), (len(whole) // 2, b"was cut short"), (len(whole), b"was changed")):
        vectors.write_bytes(whole)
        process = start([*RSR, "query", "x.rsr", "-k", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write(query)
        process.stdin.flush()
        assert orjson.loads(process.stdout.readline())["id"] == "t0"
        os.truncate(vectors, size)
        stdout, stderr = process.communicate(query, timeout=60)
        assert process.returncode == 1
        (line,) = stderr.splitlines()
        assert line.startswith(b"rsr query: ")
        assert says in line
        assert str(vectors.relative_to(tmp_path)).encode() in line
        assert orjson.loads(stdout)["type"] == "Failure"


def test_a_file_that_is_cut_short_removes_the_output(tmp_path, start):
    code = """
import mmap, os
from pathlib import Path
from rsr_cli import main, signals
from rsr_cli.core.files import whole_file
from rsr_cli.core.inputs import note_mapped

signals.heed(lambda status, message: None)
Path("mapped").write_bytes(bytes(1 << 20))
note_mapped(Path("mapped"))
with open("mapped", "rb") as file, whole_file(Path("out")):
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    os.truncate("mapped", 0)
    mapped[1 << 19]  # by the main thread, which has the interpreter's lock
"""
    process = start([sys.executable, "-c", code])
    assert process.wait(60) == 1
    assert process.stderr.read().strip() == b"%s: was cut short by another process while it was read" % bytes(
        tmp_path / "mapped"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mapped"]


@pytest.mark.parametrize("at", ["threading.Thread.start", "ctypes.CDLL.__init__", "logging.Logger.addHandler"])
def test_a_signal_as_the_program_starts_is_no_traceback(tmp_path, at):
    script = (
        "import ctypes, logging, os, signal, threading\nfrom rsr_cli.main import main\n"
        f"original = {at}\n"
        "def interrupted(*given, **named):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return original(*given, **named)\n"
        f"{at} = interrupted\n"
        "main(['info', 'x'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=tmp_path, timeout=60)
    assert done.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert b"Traceback" not in done.stderr
