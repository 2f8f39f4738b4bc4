"""Files that may be anything: pipes, devices, directories, too large ones."""

import os

import pytest

from rsr_cli.core import inputs


def make(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(kind)


@pytest.mark.parametrize("kind", ["pipe", "directory", "/dev/zero", "/dev/null", "/nonexistent", "loop"])
@pytest.mark.parametrize("read", [inputs.open_regular, inputs.read_bytes])
def test_only_regular_files_are_read(tmp_path, kind, read):
    make(tmp_path / "loop", kind)
    with pytest.raises(OSError, match=r"[Nn]o(t a regular file| such file)|[Ii]s a directory|[Tt]oo many levels"):
        read(tmp_path / "loop")


def test_a_file_is_read_whole_up_to_a_size(tmp_path):
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "b").symlink_to("a")
    assert inputs.read_bytes(tmp_path / "b") == b"text"
    os.truncate(tmp_path / "a", inputs.MAX_BYTES + 1)
    with pytest.raises(OSError, match=r"[Ff]ile too large"):
        inputs.read_bytes(tmp_path / "a")


def test_a_mapped_file_that_is_cut_short_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_mapped", {})  # without what other tests map
    path = tmp_path / "a"
    path.write_bytes(b"text")
    inputs.note_mapped(path)
    assert inputs.cut_short() is None
    path.write_bytes(b"tex")
    assert inputs.cut_short() == path
    path.unlink()
    assert inputs.cut_short() is None
