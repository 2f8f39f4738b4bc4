"""Indexes that grow and shrink: whatever was done to one, it answers as a list of its records does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import batches, code, code_records, embedding, feature, make_index

from rsr_cli.core.errors import IndexFormatError, RecordError, Skips
from rsr_cli.core.index import build, deletions, flat, integrity, kept, upkeep
from rsr_cli.core.index.kept import Kept
from rsr_cli.core.index.reading import Index, Segment
from rsr_cli.core.index.summary import summarize
from rsr_cli.core.search.condition import Condition
from rsr_cli.core.search.filters import Filter, parse_interval

METRICS = [None, "l1", "l2", "cosine", "dot"]
#: What embeddings beside codes are stored as, which are compared by L2.
REFINE = [None, "int8", "float16", "float32"]
DIM = 8


def record(name: str, number: int, metric: str | None) -> dict:
    """A record whose vector is one of a few, so that distances tie, and whose place, time and labels vary.

    One with a code has an embedding beside it.
    """
    rng = np.random.default_rng(number % 13)
    values = rng.integers(-3, 4, DIM)
    vector = {"embedding": embedding(values)}
    if metric is None:
        vector["code"] = code(np.packbits(values > 0), DIM)
    made = feature(name, n=number, labels=[f"l{number % 3}", f"m{number % 5}"], **vector)
    made["bbox"] = [west_of(number), number % 70, west_of(number) + 1.25, number % 70 + 1.5]
    made["properties"]["datetime"] = f"2023-01-{day_of(number):02}T00:00:00Z"
    return made


def west_of(n: int) -> float:
    return n % 300 - 150.25


def day_of(n: int) -> int:
    return n % 28 + 1


#: Filters, and which records they keep, by their number.
FILTERS = [
    (Filter(box=(-150, 3, -140, 9)), lambda n: west_of(n) <= -140 and west_of(n) + 1.25 >= -150 and 1.5 <= n % 70 <= 9),
    (Filter(box=(140, -9, -149, 90)), lambda n: west_of(n) + 1.25 >= 140 or west_of(n) <= -149),
    (Filter(interval=parse_interval("2023-01-05/2023-01-09")), lambda n: 5 <= day_of(n) <= 9),
    (Filter(labels=("l1", "m4")), lambda n: n % 3 == 1 or n % 5 == 4),
    (Filter(condition=Condition("n >= 3 AND n < 40")), lambda n: 3 <= n < 40),
    (
        Filter(box=(-160, 0, 160, 30), interval=parse_interval("../2023-01-20"), labels=("l0", "l2")),
        lambda n: west_of(n) <= 160 and n % 70 <= 30 and day_of(n) <= 20 and n % 3 != 1,
    ),
]


def brute_force(rows: list[dict], query: np.ndarray, metric: str | None) -> list[tuple[float, int]]:
    """Rank all rows by distance in float64, then by row."""
    vectors = np.array([row["vector"] for row in rows], float)
    match metric:
        case None:
            distances = (vectors != query).sum(1)
        case "l1":
            distances = np.abs(vectors - query).sum(1)
        case "l2":
            distances = np.sqrt(((vectors - query) ** 2).sum(1))
        case "dot":
            distances = -(vectors @ query)
        case "cosine":
            lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
            distances = 1 - (vectors @ query) / np.where(lengths > 0, lengths, 1)
    return sorted(zip(distances.tolist(), range(len(rows)), strict=True))


def vector_of(made: dict, metric: str | None) -> np.ndarray:
    number = made["properties"]["n"]
    values = np.random.default_rng(number % 13).integers(-3, 4, DIM)
    return (values > 0).astype(int) if metric is None else values


def live_in(segment: Segment) -> np.ndarray:
    """Which rows are not deleted."""
    return np.ones(segment.count, bool) if segment.live is None else segment.live


class Growing(RuleBasedStateMachine):
    """An index and the list of rows that it should have."""

    @initialize(
        metric=st.sampled_from(METRICS),
        refine=st.sampled_from(REFINE),
        count=st.integers(0, 9),
        partitions=st.sampled_from([None, "auto", 2, 5]),
    )
    def create(self, metric, refine, count, partitions):
        self.partitions = partitions
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "i.rsr"
        self.metric = metric
        self.refine = refine if metric is None else None
        self.rows: list[dict] = []
        self.number = 0
        self.readers: list[tuple[Index, list[dict]]] = []
        if count:
            self.append(count)
        else:
            make_index(self.path, [], allow_empty=True, partitions=partitions).__exit__()

    def made(self, count: int, names: list[str] | None = None) -> list[dict]:
        numbers = range(self.number, self.number + count)
        self.number += count
        names = names or [f"t{number}" for number in numbers]
        return [record(name, number, self.metric) for name, number in zip(names, numbers, strict=True)]

    def stored(self, made: list[dict]) -> list[dict]:
        return [
            {"id": each["id"], "n": each["properties"]["n"], "vector": vector_of(each, self.metric)} for each in made
        ]

    def build(self, path, made, **how):
        takes = build.appendable(path, "l2" if self.refine else self.metric, self.refine)
        read = batches(made, takes.kinds, size=4, beside=takes.beside)
        how |= {"partitions": self.partitions, "refine": takes.refine}
        return sum(build.append(read, path, takes.metric, Skips(), **how))

    @rule(count=st.integers(1, 12))
    def append(self, count):
        made = self.made(count)
        stored = self.stored(made)
        assert self.build(self.path, made) == count
        self.rows += stored

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), fresh=st.integers(0, 3))
    def replace(self, data, fresh):
        known = [row["id"] for row in self.rows]
        names = data.draw(st.lists(st.sampled_from(known), unique=True, min_size=1, max_size=5))
        names += [f"t{self.number + 100 + i}" for i in range(fresh)]
        self.number += 200
        made = self.made(len(names), names)
        stored = self.stored(made)
        self.build(self.path, made, replace_rows=True)
        self.rows = [row for row in self.rows if row["id"] not in names] + stored

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def refuse(self, data):
        name = data.draw(st.sampled_from([row["id"] for row in self.rows]))
        made = [*self.made(2), *self.made(1, [name])]
        generation = Index(self.path).manifest.generation
        with pytest.raises(RecordError, match="has the id"):
            self.build(self.path, made)
        assert Index(self.path).manifest.generation == generation

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def leave_out(self, data):
        name = data.draw(st.sampled_from([row["id"] for row in self.rows]))
        made = [*self.made(2), *self.made(1, [name])]
        stored = self.stored(made)
        takes = build.appendable(self.path, None if self.refine else self.metric)
        skips = Skips(keep_going=True)
        read = batches(made, takes.kinds, beside=takes.beside)
        sum(build.append(read, self.path, takes.metric, skips, refine=takes.refine))
        assert skips.count == 1
        self.rows += stored[:2]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def delete(self, data):
        names = data.draw(st.lists(st.sampled_from([row["id"] for row in self.rows]), unique=True, max_size=6))
        skips = Skips(keep_going=True)
        gone = upkeep.delete(self.path, lambda index: upkeep.rows_with_ids(index, [*names, "nobody"], skips))
        assert (gone, skips.count) == (len(names), 1)
        self.rows = [row for row in self.rows if row["id"] not in names]

    @rule(partitions=st.sampled_from([None, 1, 3]))
    def compact(self, partitions):
        copied = sum(upkeep.compact(self.path, partitions=partitions))
        assert copied in (0, len(self.rows))
        assert len(Index(self.path).segments) <= 1

    @rule(parts=st.lists(st.integers(1, 6), min_size=1, max_size=3))
    def merge(self, parts):
        paths = []
        for number, count in enumerate(parts):
            made = self.made(count)
            self.rows += self.stored(made)
            paths.append(self.folder / f"part{number}.rsr")
            self.build(paths[-1], made)
        assert sum(upkeep.merge(paths, self.path, Skips(), append=True)) == sum(parts)
        for path in paths:
            shutil.rmtree(path)

    @rule()
    def merge_into_another(self):
        if self.rows:
            other = self.folder / "other.rsr"
            sum(upkeep.merge([self.path], other, Skips()))
            self.release()  # as the directory is removed, and no generation of it replaced
            shutil.rmtree(self.path)
            other.rename(self.path)

    @rule()
    def hold(self):
        self.readers.append((Index(self.path), list(self.rows)))

    @rule()
    def release(self):
        for reader, _ in self.readers:
            reader.__exit__()
        self.readers = []

    @invariant()
    def answers(self):
        with Index(self.path) as index:
            self.agree(index, self.rows)
            assert summarize(self.path)["records"] == len(self.rows)
            self.columns_agree(index)
        damaged: list[IndexFormatError] = []
        sum(integrity.check(self.path, damaged.append))
        assert damaged == []

    @invariant()
    def readers_keep_what_they_opened(self):
        for reader, rows in self.readers:
            self.agree(reader, rows)

    def agree(self, index: Index, rows: list[dict]) -> None:
        assert index.manifest.count == len(rows)
        live = [segment.first + row for segment in index.segments for row in live_in(segment).nonzero()[0].tolist()]
        assert [index.record(row)[0] for row in live] == [row["id"] for row in rows]
        assert [orjson.loads(index.record(row)[1])["properties"]["n"] for row in live] == [row["n"] for row in rows]
        for number, row in zip(live, rows, strict=True):
            assert index.row_of(row["id"]) == number
        query = np.random.default_rng(5).integers(-3, 4, DIM)
        if self.refine and live:
            values = np.array([np.random.default_rng(row["n"] % 13).integers(-3, 4, DIM) for row in rows])
            again = index.remeasure(query.astype(np.float32), np.array(live))
            expected = np.linalg.norm(values - query, axis=1)
            np.testing.assert_allclose(again, expected, atol=0.1 if self.refine == "int8" else 1e-9)
            stored = np.array([index.embedding(row) for row in live])
            np.testing.assert_allclose(stored, values, atol=0.02 if self.refine == "int8" else 0)
        bits = (query > 0).astype(int)
        asked = np.packbits(bits)[None] if self.metric is None else query.astype(np.float32)[None]
        ranked = brute_force(rows, bits if self.metric is None else query, self.metric) if rows else []
        for k in (1, 3, None):
            ((distances, found),) = index.search(asked, k)
            self.agree_on(ranked[:k], distances, found, live)
            if k is not None:  # with all partitions
                ((distances, found),) = index.search(asked, k, probe=100)
                self.agree_on(ranked[:k], distances, found, live)
        some = [
            Kept.where((np.arange(segment.first, segment.first + segment.count) % 3 > 0) & live_in(segment))
            for segment in index.segments
        ]
        without = np.array(live[::4], np.int64)
        ((distances, found),) = index.search(asked, 3, None, some, [without])
        ((probed, probed_rows),) = index.search(asked, 3, None, some, [without], probe=100)
        assert (probed.tolist(), probed_rows.tolist()) == (distances.tolist(), found.tolist())
        chosen = [(distance, row) for distance, row in ranked if live[row] % 3 and live[row] not in without]
        self.agree_on(chosen[:3], distances, found, live)
        for wanted, keeps in FILTERS:
            chosen = [(distance, row) for distance, row in ranked if keeps(rows[row]["n"])]
            masks = wanted.select(index.segments).kept
            for probe in (None, 100):
                ((distances, found),) = index.search(asked, 3, None, masks, probe=probe)
                self.agree_on(chosen[:3], distances, found, live)
            ((distances, found),) = index.search(asked, None, 6.0, masks)
            self.agree_on([each for each in chosen if each[0] <= 6.0], distances, found, live)

    def agree_on(self, ranked, distances, found, live):
        np.testing.assert_allclose(distances, [distance for distance, _ in ranked], atol=1e-6)
        if self.metric == "cosine":  # of vectors that were rounded to unit length: what ties here may not tie there
            expected = {live[row]: distance for distance, row in ranked}
            assert len(set(found.tolist())) == len(found)
            assert all(
                abs(expected[row] - d) < 1e-6
                for row, d in zip(found.tolist(), distances, strict=True)
                if row in expected
            )
        else:
            assert found.tolist() == [live[row] for _, row in ranked]

    def columns_agree(self, index: Index) -> None:
        at = 0
        for segment in index.segments:
            names = segment.labels()
            for row in live_in(segment).nonzero()[0].tolist():
                n = self.rows[at]["n"]
                assert segment.columns.boxes[row].tolist() == [west_of(n), n % 70, west_of(n) + 1.25, n % 70 + 1.5]
                day = np.datetime64(f"2023-01-{day_of(n):02}", "us").astype(int)
                assert segment.columns.times[row].tolist() == [day, day]
                one = np.zeros(segment.count - row, bool)
                one[0] = True
                labels, _ = segment.columns.labels_of(row, one, len(names))
                assert [names[number] for number in labels.tolist()] == [f"l{n % 3}", f"m{n % 5}"]
                at += 1
        assert at == len(self.rows)

    def teardown(self):
        if hasattr(self, "folder"):
            self.release()
            shutil.rmtree(self.folder)


@pytest.fixture(autouse=True)
def _without_waiting_for_disks(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def _as_if_there_were_many_rows(monkeypatch):
    """Estimate what filters keep, and search for more than k rows to test these alone."""
    monkeypatch.setattr(flat, "COPY", 1e9)
    monkeypatch.setattr(flat, "SPARE_CANDIDATES", 1)
    monkeypatch.setattr(flat, "GROWTH", 2)
    for name, value in {"BLOCK_ROWS": 8, "RUNS": 2, "RUN_ROWS": 2, "COUNTED": 1}.items():
        monkeypatch.setattr(kept, name, value)


@pytest.fixture
def of_many_segments(tmp_path):
    """An index of more segments than files can be open in `limited`."""
    made = [record(f"t{i}", i, None) for i in range(100)]
    for i, each in enumerate(made):
        make_index(tmp_path / f"{i}.rsr", [each]).__exit__()
    path = tmp_path / "i.rsr"
    sum(upkeep.merge([tmp_path / f"{i}.rsr" for i in range(100)], path, Skips()))
    return path


def limited(*arguments, records=()) -> subprocess.CompletedProcess:
    command = ["bash", "-c", 'ulimit -n 80; exec "$@"', "bash", sys.executable, "-m", "rsr_cli.main", *arguments]
    return subprocess.run(command, input=b"".join(orjson.dumps(each) + b"\n" for each in records), capture_output=True)


def test_an_index_of_more_segments_than_files_can_be_open_is_changed(of_many_segments):
    path = of_many_segments
    changed = [record("t70", 500, None), record("new", 501, None)]
    query = limited("query", path, records=[record("q", 5, None)])
    assert query.stderr.endswith(b"too many open files; make one segment of all with rsr index --compact\n")
    done = [
        limited("index", "--append", "--replace", "-o", path, records=changed),
        limited("index", "--delete", "-o", path, "--id", "t7", "--id", "t99"),
        limited("info", "--json", path),
        limited("index", "--compact", "-o", path),
        limited("query", path, "-k", "1000", records=[record("q", 5, None)]),
    ]
    assert [(each.returncode, each.stderr) for each in done] == [(0, b"")] * 5
    names = [f"t{i}" for i in range(100) if i not in (7, 99)] + ["new"]
    assert orjson.loads(done[2].stdout)["records"] == len(names)
    assert sorted(orjson.loads(line)["id"] for line in done[4].stdout.splitlines()) == sorted(names)
    assert Index(path).record(98)[0] == "new"


def test_a_table_that_cannot_be_opened_for_too_many_files_is_no_damaged_one(of_many_segments):
    deleted = limited("index", "--delete", "-o", of_many_segments, "--label", "l1")
    assert deleted.returncode == 1
    assert re.search(rb"cannot be opened: too many open files; make one .* rsr index --compact\n$", deleted.stderr)


def test_replacing_takes_memory_for_the_numbers_of_rows_and_not_for_their_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(deletions, "ROWS_AT_ONCE", 500)
    names = [f"{i:0100}" for i in range(20_000)]
    for name in ("i.rsr", "j.rsr"):
        make_index(tmp_path / name, code_records(np.zeros((len(names), 1), np.uint8), 8, names)).__exit__()
    with Index(tmp_path / "i.rsr") as first, Index(tmp_path / "j.rsr") as second:
        segments = [*first.segments, *second.segments]
        tracemalloc.start()
        found = deletions.find_repeats(segments, 1)
        gone = deletions.settle_repeats(found, Skips(), lambda _: "", replace_rows=True)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert gone == {0: list(range(len(names)))}
    assert peak < 100 * len(names)


def test_compacting_a_damaged_index_names_it(tmp_path, recwarn):
    path = tmp_path / "i.rsr"
    make_index(path, [record("a", 1, None)]).__exit__()
    columns = path / "segments" / "000001" / "ids.npy"
    array = np.load(columns)
    np.save(columns, array + 1)  # so that the next record with this id is taken for a new one
    sum(build.append(batches([record("a", 2, None)]), path, None, Skips()))
    with pytest.raises(IndexFormatError, match=r"i\.rsr: is damaged: the id 'a' occurs twice"):
        sum(upkeep.compact(path))
    other = tmp_path / "j.rsr"
    make_index(other, [record(f"t{i}", i, "l2") for i in range(20)], "l2").__exit__()
    vectors = other / "segments" / "000001" / "vectors.npy"
    array = np.load(vectors)
    array[3, 1] = np.inf
    np.save(vectors, array)
    with pytest.raises(IndexFormatError, match=r"j\.rsr: has vectors with values that are not numbers"):
        sum(upkeep.compact(other, partitions=3))
    assert recwarn.list == []


def test_an_infinite_box_of_a_damaged_index_is_described_without_a_warning(tmp_path, recwarn):
    path = tmp_path / "i.rsr"
    make_index(path, [record("a", 1, None)]).__exit__()
    columns = path / "segments" / "000001" / "bbox.npy"
    array = np.load(columns)
    array[0] = np.inf
    np.save(columns, array)
    assert summarize(path)["records"] == 1
    assert recwarn.list == []


class TestGrowing(Growing.TestCase):
    settings = settings(
        max_examples=40,
        stateful_step_count=15,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a shorter example takes minutes to find
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
