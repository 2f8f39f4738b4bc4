"""Disks that fill up: a real file system of memory, with as many free pages as are wanted."""

from __future__ import annotations

import os
import subprocess
from itertools import count
from pathlib import Path

import pytest
from faults.commands import parameters
from faults.harness import ALL, some

PAGE = os.sysconf("SC_PAGE_SIZE")


class Disk:
    """A file system of a few megabytes, which a file fills up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def leave(self, pages: int) -> None:
        """Leave this many pages free."""
        self.empty()
        facts = os.statvfs(self.path)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, facts.f_bavail * facts.f_frsize - pages * PAGE)

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    path = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system of memory cannot be mounted")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("command", parameters())
def test_a_full_disk(faults, command, disk):
    for pages in count() if ALL else some(range(4), 1, command.name):
        with faults.directory(command, below=disk.path) as path:
            disk.leave(pages)
            done = faults.programs.run(command.arguments, path)
            disk.empty()
            faults.check(command, path, done, f"{pages} free pages")
        if done.status == 0:
            break


@pytest.mark.parametrize("command", parameters() if ALL else parameters("score"))
def test_a_full_disk_of_temporary_files(faults, command, disk):
    for pages in some(range(4), 1, command.name):
        with faults.directory(command) as path:
            disk.leave(pages)
            done = faults.programs.run(command.arguments, path, TMPDIR=disk.path)
            disk.empty()
            assert list(disk.path.iterdir()) == []
            faults.check(command, path, done, f"{pages} free pages in TMPDIR")
