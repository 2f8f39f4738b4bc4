"""Two writers to one output, and readers beside writers: all is as if they had come one after the other."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count as count_from

import numpy as np
import orjson
import pytest
from faults.commands import Command
from faults.harness import ALL, SEED, contents, differences
from support import code, feature

from rsr_cli.core.index.reading import Index

APPEND = "index {}.geojsonl -o out.rsr --append"
PAIRS = {
    "files": ("binarize in.geojsonl -o out.parquet", "binarize other.geojsonl -o out.parquet", ""),
    "files that are replaced": (
        "binarize in.geojsonl -o out.parquet --overwrite",
        "binarize other.geojsonl -o out.parquet --overwrite",
        "third.parquet",
    ),
    "parts": (
        "binarize in.geojsonl --parts out --part-size 20",
        "binarize other.geojsonl --parts out --part-size 20",
        "",
    ),
    "new indexes": ("index in.geojsonl -o out.rsr", "index other.geojsonl -o out.rsr", ""),
    "indexes that are replaced": (
        "index in.geojsonl -o out.rsr --overwrite",
        "index other.geojsonl -o out.rsr --overwrite",
        "deleted.rsr",
    ),
    "append to nothing": (APPEND.format("in"), APPEND.format("other"), ""),
    "append and replace": (APPEND.format("in"), "index other.geojsonl -o out.rsr --overwrite", "y.rsr"),
    "append and delete": (APPEND.format("in"), "index -o out.rsr --delete --label a", "y.rsr"),
    "append and compact": (APPEND.format("third"), "index -o out.rsr --compact", "deleted.rsr"),
    "delete and compact": ("index -o out.rsr --delete --label b", "index -o out.rsr --compact", "deleted.rsr"),
    "merge and compact": ("index z.rsr -o out.rsr --append", "index -o out.rsr --compact", "deleted.rsr"),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_two_writers(faults, pair):
    one, other, given = PAIRS[pair]
    both = Command(pair, one, given), Command(pair, other, given)
    legal = []
    for first, second in (both, both[::-1]):
        with faults.directory(*both) as path:
            begun = time.monotonic()
            status = {first: faults.programs.run(first.arguments, path).status}
            duration_s = time.monotonic() - begun
            legal.append((contents(path)[0], [int(each is not first) for each in both]))  # the second one is refused
            status[second] = faults.programs.run(second.arguments, path).status
            legal.append((contents(path)[0], [status[each] for each in both]))
    chance = random.Random(f"{SEED} {pair}")
    for _ in range(60 if ALL else 1):
        later = chance.randrange(2)
        delay_s = chance.uniform(0, duration_s)
        with faults.directory(*both) as path:
            running = {1 - later: faults.programs.start(both[1 - later].arguments, path)}
            time.sleep(delay_s)
            running[later] = faults.programs.start(both[later].arguments, path)
            done = [running[n].ended() for n in range(2)]
            found, left = contents(path)
            said = f"{pair}: {later} after {delay_s:.3f} s: {done} {left}"
            for each in done:
                faults.check_words(each, said)
            status = [each.status for each in done]
            assert any(status == way and not differences(found, held) for held, way in legal), said
            assert not [name for name in left if "generations" not in name], said
        faults.rounds += 1


def lines(number: int, count: int, begin: str) -> bytes:
    """Return records all of which hold a number, in their codes and in a property."""
    packed = np.full(8, number % 251)
    records = [feature(f"{begin}{i}", n=number % 251, labels=[begin], code=code(packed, 64)) for i in range(count)]
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def read(path) -> tuple[int, int, int]:
    """Open an index and search it; return its generation, the number in all of its rows, and how many they are."""
    with Index(path) as index:
        count = index.manifest.count
        asked = index.vector(index.segments[0].live().argmax() if index.segments[0].deleted.size else 0)
        ((distances, rows),) = index.search(asked[None], count)
        assert distances.tolist() == [0] * count
        numbers = {orjson.loads(index.record(int(row))[1])["properties"]["n"] for row in rows[[0, -1]]}
        assert numbers == set(asked.tolist())
        return index.manifest.generation, numbers.pop(), count


def test_readers_beside_a_writer(faults, tmp_path):
    """Each cycle replaces the index and a file, appends, deletes and compacts; its number says which one it was."""
    index, file = tmp_path / "i.rsr", tmp_path / "hits.geojsonl"
    written: list[int] = []
    is_over = threading.Event()

    def run(words: str) -> None:
        done = faults.programs.run(words.split(), tmp_path)
        assert (done.status, done.stderr) == (0, ""), done

    def write() -> None:
        for number in count_from(1):
            (tmp_path / "in.geojsonl").write_bytes(lines(number, 20 + number % 5, "a"))
            (tmp_path / "more.geojsonl").write_bytes(lines(number, 7, "b"))
            written.append(number)
            run("index in.geojsonl -o i.rsr --overwrite")
            run("index more.geojsonl -o i.rsr --append")
            run("query i.rsr --id a0 -o hits.geojsonl --overwrite")
            run("index -o i.rsr --delete --label b")
            run("index -o i.rsr --compact")
            if is_over.is_set():
                return

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        while not file.exists():
            assert not writer.done(), writer.exception()
            time.sleep(0.01)
        last, seen = 0, set()
        while faults.rounds < (100_000 if ALL else 300) or len(seen) < 5:
            assert not writer.done(), writer.exception()
            generation, number, count = read(index)
            assert generation >= last
            assert number in {each % 251 for each in written[-2:]}
            assert count - 20 - written[-1 if written[-1] % 251 == number else -2] % 5 in (0, 7)
            hits = [orjson.loads(line)["properties"] for line in file.read_bytes().splitlines()]
            (held,) = {hit["n"] for hit in hits}
            assert len(hits) == 20
            last = generation
            seen.add((number, held, count))
            faults.rounds += 1
        is_over.set()
        writer.result()
    run("index -o i.rsr --compact")  # removes what was held until now
    assert contents(tmp_path)[1] == []
