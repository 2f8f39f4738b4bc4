"""A checkpoint's sha256: computed once, and again when the file may be another one."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from rsr_cli.core.encoders.digest import YOUNG_S, sha256_of
from rsr_cli.core.inputs import open_regular

FORGED = "0" * 64


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rsr"


@pytest.fixture(scope="module")
def old_files(tmp_path_factory):
    """Write files and wait until no program can have changed them just now."""
    paths = [tmp_path_factory.mktemp("old") / "weights.pt" for _ in range(20)]
    for path in paths:
        path.write_bytes(b"weights")
    time.sleep(YOUNG_S + 0.1)
    return paths


@pytest.fixture
def old(old_files):
    """Return such a file of the test's own."""
    return old_files.pop()


def digest(path):
    with open_regular(path) as file:
        return sha256_of(file, path)


def forge(cache):
    """Let what is remembered be wrong, to see whether it is used."""
    (memory,) = cache.iterdir()
    memory.write_text(f"{memory.read_text().rpartition(' ')[0]} {FORGED}")
    return memory


def test_a_digest_is_computed_once(cache, old):
    assert digest(old) == hashlib.sha256(b"weights").hexdigest()
    forge(cache)
    assert digest(old) == FORGED


def test_a_link_and_another_directory_lead_to_the_same_digest(cache, old, tmp_path, monkeypatch):
    digest(old)
    forge(cache)
    (tmp_path / "link.pt").symlink_to(old)
    assert digest(tmp_path / "link.pt") == FORGED
    monkeypatch.chdir(old.parent)
    assert digest(old.relative_to(old.parent)) == FORGED


@pytest.mark.parametrize("how", ["rewritten", "longer", "replaced", "moved"])
def test_another_file_of_the_name_is_read_again(cache, tmp_path, old, how):
    path = old
    digest(path)
    forge(cache)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    if how == "replaced":
        (tmp_path / "other").write_bytes(b"WEIGHTS")
        (tmp_path / "other").rename(path)
    elif how == "moved":
        path = path.rename(tmp_path / "moved.pt")
    else:
        path.write_bytes(b"WEIGHTS" if how == "rewritten" else b"weights and biases")
    os.utime(path, ns=times)  # as cp -p does
    assert digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_just_written_is_not_remembered(cache, tmp_path):
    """It may be written again within the same tick of the file system's clock."""
    path = tmp_path / "weights.pt"
    path.write_bytes(b"weights")
    os.utime(path, (1e9, 1e9))
    assert digest(path) == hashlib.sha256(b"weights").hexdigest()
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"\xff", b"1 2 3 4 5", b"0" * 64])
def test_a_memory_that_cannot_be_read_is_replaced(cache, old, content):
    digest(old)
    (memory,) = cache.iterdir()
    right = memory.read_bytes()
    memory.write_bytes(content)
    assert digest(old) == hashlib.sha256(b"weights").hexdigest()
    assert memory.read_bytes() == right


@pytest.mark.parametrize("place", ["/dev/null", "/proc/self", "relative", "", None])
def test_a_cache_that_cannot_be_written_is_done_without(old, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/dev/null")
    if place is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", place)
    assert digest(old) == hashlib.sha256(b"weights").hexdigest()
    assert not list(tmp_path.iterdir())


def test_a_home_that_is_unknown_is_done_without(old, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 123456789)  # as in a container under a foreign user
    assert digest(old) == hashlib.sha256(b"weights").hexdigest()
