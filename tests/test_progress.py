"""Progress as a terminal shows it, and as a log has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from support import drawn_lines, make_index

from rsr_cli.core import progress as module
from rsr_cli.core.errors import Skips
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import jsonl, streams

RSR = f"{sys.executable} -m rsr_cli.main"


def on_terminal(script, cwd):
    """Run a shell script on a terminal of 80 columns, and return all that it writes there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        ["bash", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env=os.environ | {"TERM": "xterm"},
    ) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # the terminal is gone with its last process
            while block := os.read(ours, 1 << 16):
                written += block
        os.close(ours)
    return process.returncode, written.decode()


def screen(written):
    """Return the lines that a terminal shows after this was written to it."""
    lines, column = [""], 0
    for part in re.findall(r"\r|\n|\x1b\[K|[^\r\n\x1b]+", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            lines.append("")
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:column]
        else:
            lines[-1] = lines[-1].ljust(column)[:column] + part + lines[-1][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


@pytest.fixture
def many(tmp_path):
    """Return a directory with 20,000 records, some of them broken, and an index of 200."""
    (tmp_path / "many").write_bytes((drawn_lines(4999) + b"broken\n") * 4)
    lines = drawn_lines(200)
    (tmp_path / "few").write_bytes(lines)
    make_index(tmp_path / "i.rsr", [jsonl.orjson.loads(line) for line in lines.splitlines()])
    return tmp_path


def test_a_bar_shows_the_share_and_the_time_left_and_goes(many):
    status, written = on_terminal(f"{RSR} query i.rsr many -k 1 --keep-going > hits", many)
    bars = re.findall(
        r"\r *(\d+)%\|[^|]*\| *([\d.]+k?)/([\d.]+k?) \[\d\d:\d\d<\d\d:\d\d, +[\d.]+k? queries/s\]", written
    )
    assert status == 3
    assert len(bars) > 3
    assert all(19.5 <= float(total.rstrip("k")) <= 20.5 for _, _, total in bars)  # estimated from what was read
    shares = [int(share) for share, _, _ in bars]
    assert shares[0] < shares[-1] <= 100
    assert [line for line in screen(written) if "%|" in line] == []


def test_messages_are_whole_lines_above_the_bar(many):
    _, written = on_terminal(f"{RSR} binarize many --keep-going -o codes", many)
    assert "%|" in written
    *messages, summary, empty = screen(written)
    assert [line.split(": ")[:3] for line in messages if line.startswith("rsr")] == [
        ["rsr binarize", f"many:{5000 * n}", "not JSON"] for n in (1, 2, 3, 4)
    ]
    assert (summary, empty) == ("rsr binarize: 4 skipped", "")


def test_in_a_pipe_only_the_last_command_draws_and_no_message_is_torn(many):
    script = f"{RSR} binarize many --keep-going | {RSR} index -o codes.rsr"
    _, written = on_terminal(script, many)
    assert set(re.findall(r"(\w+)/s", written)) == {"records"}
    assert "%|" not in written  # what comes from a pipe has no size
    messages = [line for line in screen(written) if "skipped" in line]
    assert len(messages) == 5
    assert all(line.startswith("rsr binarize: ") for line in messages)


def test_ids_have_a_total(many):
    written = on_terminal(f"{RSR} query i.rsr --id t1 --id t2 --id t3 > hits", many)[1]
    assert re.search(r"0%\|[^|]*\| 0.00/3.00 ", written)


def test_quiet_and_dumb_terminals_get_no_bar_and_no_escape(many):
    assert on_terminal(f"{RSR} binarize -q few -o codes", many) == (0, "")
    written = on_terminal(f"TERM=dumb {RSR} binarize -q nothing", many)[1]
    assert written == "rsr binarize: nothing: no such file or directory\r\n"


def test_the_total_is_estimated_from_what_was_read():
    progress = Progress("records")
    progress.read(10, 1000)
    assert progress.total is None
    progress.expect(10_000)
    progress.read(10, 1000)
    assert progress.total == 100
    progress.read(60, 6000)
    progress.read(5, 2000)
    assert progress.total == 85
    progress.read(5, 500)  # more than was expected: the file has grown
    assert progress.total == 90


@pytest.mark.parametrize("size", [100, 5000])
def test_all_bytes_of_all_files_are_counted(tmp_path, monkeypatch, size):
    monkeypatch.setattr(jsonl, "BLOCK_BYTES", size)
    for name, content in (("a", drawn_lines(20)), ("b", b"\n" + drawn_lines(30))):
        (tmp_path / name).write_bytes(content)
    progress = Progress("records")
    batches = streams.read([str(tmp_path / "a"), str(tmp_path / "b")], Skips(), progress=progress)
    totals = [progress.total for _ in batches]
    assert totals[-1] == 50
    assert all(45 <= total <= 55 for total in totals)


def test_the_size_of_a_pipe_is_unknown(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a").write_bytes(drawn_lines(5))
    progress = Progress("records")
    with subprocess.Popen(["cp", tmp_path / "a", tmp_path / "pipe"]):
        list(streams.read([str(tmp_path / "a"), str(tmp_path / "pipe")], Skips(), progress=progress))
    assert progress.total is None


def test_a_log_states_what_is_left(caplog, monkeypatch):
    monkeypatch.setattr(module, "LOG_EVERY_S", -1.0)
    with Progress("tiles") as progress:
        progress.update(5)
        progress.expect(8)
        progress.read(10, 2)
        progress.update(5)
    assert re.fullmatch(r"5 tiles, [\d.]+/s", caplog.messages[0])
    assert re.fullmatch(r"10 of about 40 tiles, [\d.]+/s, \d\d:\d\d left", caplog.messages[1])


def test_tile_estimates_from_its_list_of_files(many, write_raster):
    import numpy as np

    for name in "abcd":
        write_raster(many / f"{name}.tif", np.ones((1, 300, 300), np.uint8), names=("red",))
    (many / "list").write_text("c.tif\nd.tif\n")
    written = on_terminal(f"{RSR} tile --size 4 a.tif b.tif --files-from list > tiles", many)[1]
    assert set(re.findall(r"%\|[^|]*\| *[\d.]+k/([\d.]+k) ", written)) == {"22.5k"}
