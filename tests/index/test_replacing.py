"""An index that is replaced: readers and writers in processes of their own, and writers that are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import numpy as np
import orjson
import pytest
from support import code, feature

from rsr_cli.core.index.reading import Index

RSR = [sys.executable, "-m", "rsr_cli.main"]
# Every row of an index holds the index's own number, in its code and in its record.
WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from rsr_cli.core.errors import Skips
from rsr_cli.core.index.build import build
from support import batches, code, feature
import numpy as np
number = int(sys.argv[2])
for _ in range(int(sys.argv[3])):
    number += 1
    n = number % 200
    records = [feature(f"t{{i}}", n=n, code=code(np.full(8, n), 64)) for i in range(20 + number % 7)]
    sum(build(batches(records), Path(sys.argv[1]), None, Skips(), overwrite=True))
"""


def writer(path, number, rounds):
    tests = str(__import__("pathlib").Path(__file__).parents[1])
    return subprocess.Popen([sys.executable, "-c", WRITER.format(tests=tests), path, str(number), str(rounds)])


def read(path) -> tuple[int, int]:
    """Open an index, and return its number and generation, the same in all of its rows."""
    with Index(path) as index:
        rows = range(index.manifest.count)
        vectors = {int(value) for row in rows for value in index.vector(row)}
        records = {orjson.loads(index.record(row)[1])["properties"]["n"] for row in rows}
        assert len(vectors) == 1
        assert vectors == records
        return vectors.pop(), index.manifest.generation


def test_readers_beside_two_writers_see_one_generation_each(tmp_path):
    path = tmp_path / "i.rsr"
    with writer(path, 0, 1) as first:
        assert first.wait(60) == 0
    seen = set()
    with writer(path, 10, 60) as one, writer(path, 100, 60) as other:
        opened = 0
        while one.poll() is None or other.poll() is None:
            seen.add(read(path))
            opened += 1
        assert (one.returncode, other.returncode) == (0, 0)
    assert opened > 100
    assert len(seen) > 10
    assert read(path)[1] == 121
    with writer(path, 0, 1) as last:  # removes what was still being read then
        assert last.wait(60) == 0
    assert sorted(entry.name for entry in path.iterdir()) == ["lock", "manifest.json", "segments"]
    assert [entry.name for entry in (path / "segments").iterdir()] == ["000122"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["i.rsr"]


def test_an_open_index_outlives_its_replacement(tmp_path):
    path = tmp_path / "i.rsr"
    with writer(path, 1, 1) as first:
        assert first.wait(60) == 0
    with Index(path) as index:
        with writer(path, 2, 1) as second:
            assert second.wait(60) == 0
        assert sorted(entry.name for entry in (path / "segments").iterdir()) == ["000001", "000002"]
        assert index.vector(19).tolist() == [2] * 8
        assert orjson.loads(index.record(19)[1])["properties"]["n"] == 2
    assert read(path) == (3, 2)
    with writer(path, 3, 1) as third:
        assert third.wait(60) == 0
    assert [entry.name for entry in (path / "segments").iterdir()] == ["000003"]


def test_a_writer_killed_at_any_moment_leaves_a_whole_index(tmp_path):
    path = tmp_path / "i.rsr"
    with writer(path, 0, 1) as first:
        assert first.wait(60) == 0
    chance = random.Random(7)
    for _ in range(12):
        with writer(path, chance.randrange(100), 10_000) as process:
            time.sleep(0.4 + chance.random() * 0.5)
            process.send_signal(signal.SIGKILL)
        number, generation = read(path)
        assert generation >= 1
        assert 0 <= number < 200
    with writer(path, 5, 1) as last:
        assert last.wait(60) == 0
    assert len(list((path / "segments").iterdir())) == 1  # what the dead have left is gone


def test_what_cannot_be_published_leaves_no_segment(tmp_path, monkeypatch):
    from support import batches

    from rsr_cli.core.errors import OutputError, Skips
    from rsr_cli.core.index import build

    def records():
        return batches([feature("new", code=code(np.zeros(4), 32))])

    path = tmp_path / "i.rsr"
    assert sum(build.build(records(), path, None, Skips())) == 1

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build.Manifest, "write", fail)
    with pytest.raises(OutputError, match="no space left on device"):
        sum(build.build(records(), path, None, Skips(), overwrite=True))
    assert [entry.name for entry in (path / "segments").iterdir()] == ["000001"]
    with Index(path) as index:
        assert index.row_of("new") == 0


def test_a_signal_after_the_manifest_was_replaced_keeps_its_segment(tmp_path, monkeypatch):
    from support import batches

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.index import build

    def records():
        return batches([feature("new", code=code(np.zeros(4), 32))])

    path = tmp_path / "i.rsr"
    assert sum(build.build(records(), path, None, Skips())) == 1
    write = build.Manifest.write

    def stopped(self, index):
        write(self, index)
        raise KeyboardInterrupt

    monkeypatch.setattr(build.Manifest, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        sum(build.build(records(), path, None, Skips(), overwrite=True))
    with Index(path) as index:
        assert (index.manifest.generation, index.row_of("new")) == (2, 0)
