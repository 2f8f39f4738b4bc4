"""Files and directories that are whole or absent, with real processes that die."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from rsr_cli.core.errors import OutputError
from rsr_cli.core.files import PREFIX, Output, locked, whole_directory, whole_file
from rsr_cli.core.forms import TABLE

DYING = """
import os, signal, sys
from pathlib import Path
from rsr_cli.core.files import whole_directory, whole_file
with {call} as target:
    {write}
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL) if {die} else sys.stdin.read()
"""
FILE = {"call": "whole_file(Path(sys.argv[1]), overwrite=True)", "write": "target.write(b'half')"}
DIRECTORY = {"call": "whole_directory(Path(sys.argv[1]))", "write": "(target / 'half').write_text('half')"}


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def write(path, text, **options):
    with whole_file(path, **options) as file:
        file.write(text.encode())


def write_directory(path, name):
    path.mkdir()
    (path / name).write_text(name)


def test_a_file_appears_when_it_is_whole(tmp_path):
    with whole_file(tmp_path / "out") as file:
        file.write(b"all of it")
        assert not (tmp_path / "out").exists()
        (hidden,) = names(tmp_path)
        assert hidden.startswith(PREFIX)
    assert (tmp_path / "out").read_text() == "all of it"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    write(tmp_path / "out", "before")

    def fail(what):
        what.write(b"half") if hasattr(what, "write") else (what / "half").write_text("half")
        raise error

    with pytest.raises(error), whole_file(tmp_path / "out", overwrite=True) as file:
        fail(file)
    with pytest.raises(error), whole_directory(tmp_path / "directory") as directory:
        fail(directory)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text() == "before"


def test_a_disk_that_is_full_is_one_error_of_ours_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for the disk; what is buffered cannot be written at the end either."""
    script = """
import resource, signal, sys
from rsr_cli.core.errors import OutputError
from rsr_cli.core.files import Output
from rsr_cli.core.forms import JSON_LINES
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    with Output("out", JSON_LINES) as output:
        for _ in range(1000):
            output.write([b"x" * 100])
except OutputError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "out: cannot write: file too large\n")
    assert names(tmp_path) == []


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "out"
    write(path, "before")
    created = path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    assert created == 0o666 & ~umask
    for mode in (0o600, 0o664, 0o444):
        path.chmod(mode)
        write(path, "after", overwrite=True)
        assert path.stat().st_mode & 0o777 == mode


def test_a_link_to_itself_is_refused(rsr, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for command in ("binarize", "index"):
        done = rsr(command, "-o", "loop", input=b"", cwd=tmp_path)
        says = f"rsr {command}: loop: cannot write: too many levels of symbolic links\n"
        assert (done.returncode, done.stderr.decode()) == (1, says)
    assert names(tmp_path) == ["loop"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/out")
    write(tmp_path / "link", "through a link to nothing")
    write(tmp_path / "link", "and to a file", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "out").read_text() == "and to a file"


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127])
def test_names_as_long_as_the_file_system_allows(tmp_path, name):
    write(tmp_path / name, "long")
    write(tmp_path / name, "longer", overwrite=True)
    assert (tmp_path / name).read_text() == "longer"
    with whole_directory(tmp_path / ("b" * 255)) as directory:
        (directory / "file").write_text("x")
    assert (tmp_path / ("b" * 255) / "file").exists()


def test_who_comes_second_does_not_replace(tmp_path):
    with pytest.raises(OutputError, match="exists already") as caught, whole_file(tmp_path / "out"):
        (tmp_path / "out").write_text("theirs")
    assert caught.value.remedy == "overwrite"
    assert (tmp_path / "out").read_text() == "theirs"
    with pytest.raises(FileExistsError), whole_directory(tmp_path / "d"):
        write_directory(tmp_path / "d", "theirs")
    assert names(tmp_path / "d") == ["theirs"]
    assert names(tmp_path) == ["d", "out"]


@pytest.mark.parametrize("kind", [FILE, DIRECTORY])
def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path, kind):
    target = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", DYING.format(**kind, die=True), target], capture_output=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    alive = subprocess.Popen(
        [sys.executable, "-c", DYING.format(**kind, die=False), target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with alive:
        assert alive.stdout.readline() == b"ready\n"
        (of_the_living,) = names(tmp_path)
        if kind is FILE:
            write(target, "mine", overwrite=True)
        else:
            with whole_directory(target) as directory:
                (directory / "mine").write_text("mine")
        assert of_the_living in names(tmp_path)
        alive.kill()


def test_a_temporary_that_cannot_be_removed_is_a_warning(tmp_path, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("rsr"), "propagate", True)
    caplog.set_level(logging.WARNING, "rsr")

    def refuse(self, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.PosixPath.unlink", refuse)
    write(tmp_path / "out", "whole")
    assert (tmp_path / "out").read_text() == "whole"
    assert "cannot be removed: permission denied" in caplog.text


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    order = []
    with locked(tmp_path / "lock"):
        second = threading.Thread(target=lambda: [locked(tmp_path / "lock").__enter__(), order.append("second")])
        second.start()
        second.join(0.3)
        order.append("first")
    second.join(10)
    assert order == ["first", "second"]


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OutputError, match="cannot write: no such file or directory"):
        write(tmp_path / "nowhere" / "out", "x")


@pytest.mark.parametrize("number", [13, 32])
def test_an_error_of_another_file_is_not_blamed_on_the_output(tmp_path, number):
    def fail():
        raise OSError(number, "other", "weights.pt")

    with pytest.raises(OSError, match=r"weights\.pt"), whole_file(tmp_path / "out"):
        fail()
    assert names(tmp_path) == []


def test_thousands_of_files_do_not_list_their_directory_each(tmp_path, monkeypatch):
    listed = []
    real = type(tmp_path).iterdir
    monkeypatch.setattr(type(tmp_path), "iterdir", lambda self: listed.append(self) or real(self))
    for number in range(20):
        write(tmp_path / f"{number}.tif", "chip", sync=False)
    assert len(listed) == 1


def test_an_output_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "out"
    with Output(str(path), TABLE) as out:
        out.write([b"a\n"])
        assert not path.exists()
    assert path.read_bytes() == b"a\n"
    with contextlib.suppress(KeyError), Output(str(path), TABLE, overwrite=True) as out:
        out.write([b"b\n"])
        raise KeyError
    assert path.read_bytes() == b"a\n"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_file_that_another_job_made_meanwhile_is_kept(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="exists already"), Output(str(path), TABLE):
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    with Output(str(tmp_path / "ours"), TABLE) as out:
        out.write([b"a\n"])
    (tmp_path / "theirs").write_text("a")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match="no such file or directory"), Output(str(tmp_path / "no" / "out"), TABLE):
        pass


CLEANER = """
import sys, time
from pathlib import Path
from rsr_cli.core.files import _remove_stale
print("ready", flush=True)
until = time.monotonic() + 2
while time.monotonic() < until:
    _remove_stale.__wrapped__(Path(sys.argv[1]))
"""


def test_a_pipe_with_the_name_of_a_temporary_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / f"{PREFIX}0.tmp")
    script = (
        "import sys; from pathlib import Path; from rsr_cli.core.files import _remove_stale as f; f(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, timeout=60)
    assert names(tmp_path) == []


def test_a_directory_that_others_take_for_stale_is_created_again(tmp_path):
    """Between its creation and its lock, a directory looks like one of a dead process."""
    command = [sys.executable, "-c", CLEANER, tmp_path]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE) as other,
    ):
        assert one.stdout.readline() == other.stdout.readline() == b"ready\n"
        written = 0
        while one.poll() is None or other.poll() is None:
            with whole_directory(tmp_path / str(written)) as directory:
                (directory / "x").write_text(str(written))
            written += 1
    assert {path.name: (path / "x").read_text() for path in tmp_path.iterdir()} == {
        str(number): str(number) for number in range(written)
    }
