"""Checking an index: every flipped bit is found."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from support import code_records, embedding_records, make_index

from rsr_cli.core.index import integrity, upkeep
from rsr_cli.core.index.writer import facts_of

if TYPE_CHECKING:
    from rsr_cli.core.errors import IndexFormatError


@pytest.fixture
def lake(tmp_path):
    path = tmp_path / "i.rsr"
    rng = np.random.default_rng(0)
    make_index(path, embedding_records(rng.standard_normal((40, 4)).astype(np.float32)), "l2").__exit__()
    upkeep.delete(path, lambda _: {0: [3]})
    return path


def damage_of(path) -> list[IndexFormatError]:
    found: list[IndexFormatError] = []
    sum(integrity.check(path, found.append))
    return found


def test_a_sound_index_has_no_damage_and_every_byte_is_read(lake):
    files = [path for path in (lake / "segments").rglob("*") if path.is_file()]
    assert len(files) == 8
    assert sum(integrity.check(lake, pytest.fail)) == sum(path.stat().st_size for path in files)


def test_any_flipped_bit_is_found_and_its_file_named(lake):
    chance = random.Random(1)
    for path in sorted((lake / "segments").rglob("*.*")):
        sound = path.read_bytes()
        for _ in range(40):
            at = chance.randrange(8 * len(sound))
            flipped = bytearray(sound)
            flipped[at // 8] ^= 1 << at % 8
            path.write_bytes(flipped)
            assert [error.place for error in damage_of(lake)] == [str(path)]
        path.write_bytes(sound)
    assert damage_of(lake) == []


def test_files_that_are_cut_missing_or_no_files_are_named(lake):
    segment = lake / "segments" / "000001"
    (segment / "bbox.npy").unlink()
    (segment / "ids.npy").write_bytes(b"")
    (segment / "times.npy").unlink()
    (segment / "times.npy").mkdir()
    says = {error.place.rpartition("/")[2]: error.message for error in damage_of(lake)}
    assert says.keys() == {"bbox.npy", "ids.npy", "times.npy"}
    assert says["bbox.npy"] == "is missing"
    assert "it has 0 bytes" in says["ids.npy"]


def test_the_command_names_all_and_fails(rsr, tmp_path):
    for name in ("a.rsr", "b.rsr"):
        make_index(tmp_path / name, code_records(np.zeros((3, 4), np.uint8), 32)).__exit__()
    done = rsr("check", "a.rsr", "b.rsr", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"a.rsr: OK\nb.rsr: OK\n")
    for name in ("vectors.npy", "records.sqlite"):
        path = tmp_path / "b.rsr" / "segments" / "000001" / name
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    done = rsr("check", "a.rsr", "b.rsr", cwd=tmp_path)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (1, b"a.rsr: OK\n", 2)
    assert all("is damaged: it has not the sha256 that the manifest states; build it again" in line for line in lines)
    (tmp_path / "c.rsr").mkdir()
    (tmp_path / "c.rsr" / "manifest.json").write_text("{")
    done = rsr("check", "b.rsr", "c.rsr", "nowhere", "a.rsr", cwd=tmp_path)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (1, b"a.rsr: OK\n")
    assert [line.split(": ")[1].partition("/")[0] for line in lines] == ["b.rsr", "b.rsr", "c.rsr", "nowhere"]
    assert rsr("check", "nowhere", cwd=tmp_path).returncode == 1
    (tmp_path / "records.geojsonl").write_bytes(b'{"type":"Feature","id":"a","geometry":null,"properties":{}}\n')
    done = rsr("check", "records.geojsonl", cwd=tmp_path)
    assert done.stderr == b"rsr check: records.geojsonl: is a file and not an index, which is a directory\n"
    assert rsr("check", cwd=tmp_path).returncode == 2


def test_partitions_that_list_a_row_twice_are_found(tmp_path, lake):
    path = tmp_path / "p.rsr"
    codes = np.random.default_rng(0).integers(0, 256, (50, 4), dtype=np.uint8)
    make_index(path, code_records(codes, 32), partitions=1).__exit__()
    assert damage_of(path) == []
    lists = path / "segments" / "000001" / "partitions.npy"
    data = np.load(lists)
    rows = data[-56 * 8 :].view(np.int64)  # room for a multiple of 8 rows
    assert sorted(rows[:50].tolist()) == list(range(50))
    rows[7] = rows[6]
    np.save(lists, data)
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["segments"][0]["files"]["partitions.npy"] = facts_of(lists)
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))
    (error,) = damage_of(path)
    assert "a row is in none of the partitions, or in two" in error.message
