"""Partitions of an index as a whole: several segments, growing, and what was not measured."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import orjson
import pytest
from support import batches, code_records, make_index

from rsr_cli.core.errors import IndexFormatError, Skips, UsageError
from rsr_cli.core.index import build, flat, partitions, upkeep
from rsr_cli.core.index import kept as kept_module
from rsr_cli.core.index.kept import Kept
from rsr_cli.core.index.manifest import Manifest
from rsr_cli.core.index.reading import Index
from rsr_cli.core.index.summary import summarize
from rsr_cli.core.index.table import Table
from rsr_cli.core.search.condition import Condition
from rsr_cli.core.search.filters import Filter
from rsr_cli.core.search.scope import Scope


@pytest.fixture(autouse=True)
def _few_rows_are_enough(monkeypatch):
    monkeypatch.setattr(partitions, "FEWEST_ROWS", 300)


def codes(n, seed=0) -> np.ndarray:
    """Codes in groups, of 64 bits."""
    rng = np.random.default_rng(seed)
    groups = np.random.default_rng(99).integers(0, 2, (12, 64))
    return np.packbits(groups[rng.integers(0, 12, n)] ^ (rng.random((n, 64)) < 0.08), axis=1)


def records(n, seed=0) -> list[dict]:
    return code_records(codes(n, seed), 64, [f"s{seed}_{i}" for i in range(n)])


def append(path, n, seed):
    takes = build.appendable(path, None)
    return sum(build.append(batches(records(n, seed), takes.kinds), path, takes.metric, Skips()))


def test_the_recall_that_is_told_is_the_least_of_the_segments(rsr, tmp_path):
    path = tmp_path / "i.rsr"
    make_index(path, records(600), partitions="auto").__exit__()
    append(path, 400, 1)
    append(path, 50, 2)  # not divided, and so exact
    told = summarize(path)["recall@20"]
    with Index(path) as index:
        both = [each.recall for each in index.segments[:2]]
    tables = [dict(zip(each.probes, (means[each.ks.index(20)] for means in each.recall), strict=True)) for each in both]
    assert len(told) > 3
    expected = {  # as measured with no more
        probe: min(table[max(each for each in table if each <= probe)] for table in tables)
        for probe in {**tables[0], **tables[1]}
    }
    assert told == {str(n): expected[n] for n in sorted(expected)}
    text = rsr("info", path).stdout.decode()
    assert f"\nrecall@20   probe 1: {told['1']}, 2: {told['2']}," in text
    make_index(tmp_path / "few.rsr", records(40)).__exit__()
    assert not [name for name in summarize(tmp_path / "few.rsr") if name.startswith("recall")]


def test_a_segment_has_its_own_partitions_and_compaction_makes_one(tmp_path):
    path = tmp_path / "i.rsr"
    make_index(path, records(600), partitions="auto").__exit__()
    append(path, 400, 1)
    append(path, 50, 2)  # too few to be divided
    with Index(path) as index:
        counts = [segment.facts.partitions and segment.facts.partitions["count"] for segment in index.segments]
        assert counts[2] is None
        assert 10 < counts[0] <= 24  # fewer where k-means leaves some without a row
        assert 10 < counts[1] <= 20
        exact = index.search(codes(40, 7), 10)
        assert [rows.tolist() for _, rows in index.search(codes(40, 7), 10, probe=24)] == [r.tolist() for _, r in exact]
        recalled = index.search(codes(40, 7), 10, recall=0.9)
        found = [np.isin(rows, wanted).mean() for (_, rows), (_, wanted) in zip(recalled, exact, strict=True)]
        assert np.mean(found) > 0.8
        assert all(np.array_equal(np.lexsort((rows, near)), np.arange(10)) for near, rows in recalled)
    sum(upkeep.compact(path))
    with Index(path) as index:
        (segment,) = index.segments
        assert 10 < segment.facts.partitions["count"] <= 32
        assert index.manifest.partitions == "auto"
    sum(upkeep.compact(path, partitions=7))
    with Index(path) as index:
        assert index.segments[0].facts.partitions["count"] <= 7


def test_partitions_are_of_the_rows_that_are_left(tmp_path):
    path = tmp_path / "i.rsr"
    make_index(path, records(600), partitions="auto").__exit__()
    upkeep.delete(path, lambda _: {0: range(0, 600, 2)})
    with Index(path) as index:
        ((_, rows),) = index.search(codes(1, 7), 20, probe=3)
        assert (rows % 2 == 1).all()
        assert len(rows) == 20
    other = tmp_path / "merged.rsr"
    sum(upkeep.merge([path], other, Skips()))
    with Index(other) as index:
        assert index.segments[0].recall is not None
        assert index.search(codes(1, 7), 20, probe=3)[0][1].tolist() == rows.tolist()


@pytest.mark.parametrize("settings", [{"probe": 5}, {"recall": 0.9}, {}])
def test_a_filter_that_reads_records_reads_few_and_each_once(tmp_path, monkeypatch, settings):
    """Of a batch, in which the same rows are near to several queries."""
    for name, value in {"RUNS": 4, "RUN_ROWS": 2, "COUNTED": 1}.items():
        monkeypatch.setattr(kept_module, name, value)
    monkeypatch.setattr(flat, "COPY", 1e9)
    read = []
    real = Table.records
    monkeypatch.setattr(Table, "records", lambda self, rows: read.extend(rows.tolist()) or real(self, rows))
    made = records(600)
    for number, each in enumerate(made):
        each["properties"]["n"] = number % 10
    queries = np.tile(codes(2, 7), (4, 1))
    with make_index(tmp_path / "i.rsr", made, partitions="auto") as index:
        kept = Filter(condition=Condition("n < 5")).select(index.segments).kept
        found = index.search(queries, 5, None, kept, **settings)
        expected = index.search(queries, 5, None, [Kept.where(np.arange(600) % 10 < 5)], **settings)
        assert [rows.tolist() for _, rows in found] == [rows.tolist() for _, rows in expected]
    assert 0 < len(set(read)) == len(read) < 400


def test_what_was_not_measured_is_refused(tmp_path):
    path = tmp_path / "i.rsr"
    with make_index(path, records(600), partitions="auto") as index:
        Scope(index, recall=0.9).check(20)
        Scope(index, probe=3).check(1000)
        with pytest.raises(UsageError, match="the recall of 30 hits was not measured") as caught:
            Scope(index, recall=0.9).check(30)
        assert caught.value.remedy == "recall-k"
        with pytest.raises(UsageError, match="a recall of 1 was not measured for 20 hits"):
            Scope(index, recall=1.0000001).check(20)
        with pytest.raises(UsageError, match="are searched for a number of hits"):
            Scope(index, recall=0.9).check(None)
    with make_index(tmp_path / "flat.rsr", records(20)) as index:
        with pytest.raises(UsageError, match="has no partitions") as caught:
            Scope(index, probe=1).check(20)
        assert caught.value.remedy == "partitions"


def test_partitions_that_the_manifest_does_not_state_well_are_refused(tmp_path):
    path = tmp_path / "i.rsr"
    make_index(path, records(600), partitions="auto").__exit__()
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    stated = manifest["segments"][0]["partitions"]
    for forged in ({}, stated | {"count": "x"}, stated | {"recall": {}}, stated | {"more": 1}):
        manifest["segments"][0]["partitions"] = forged
        (path / "manifest.json").write_bytes(orjson.dumps(manifest))
        with pytest.raises(IndexFormatError, match="is damaged"), Index(path) as index:
            index.search(codes(1), 5, probe=1)


def test_partitions_whose_file_the_manifest_does_not_state_are_refused(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (40, 4), dtype=np.uint8)
    make_index(tmp_path / "i.rsr", code_records(codes, 32), partitions=3).__exit__()
    manifest = Manifest.read(tmp_path / "i.rsr")
    (facts,) = manifest.segments
    files = {name: stated for name, stated in facts.files.items() if name != "partitions.npy"}
    replace(manifest, segments=(replace(facts, files=files),)).write(tmp_path / "i.rsr")
    with (
        Index(tmp_path / "i.rsr") as index,
        pytest.raises(IndexFormatError, match=r"partitions\.npy: is damaged: the manifest does not state its size"),
    ):
        index.search(codes[:1], 3, probe=1)


def test_the_commands_divide_and_probe(rsr, tmp_path):
    lines = b"".join(orjson.dumps(record) + b"\n" for record in records(400))
    done = rsr("index", "-o", "i.rsr", "--partitions", 9, input=lines, cwd=tmp_path)
    assert done.returncode == 0
    exact = rsr("query", "i.rsr", "--id", "s0_3", "-k", 5, cwd=tmp_path)
    for how in (["--probe", 9], ["--recall", 0.9, "-k", 5]):
        done = rsr("query", "i.rsr", "--id", "s0_3", "-k", 5, *how, cwd=tmp_path)
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == 5
        if "--probe" in how:
            assert done.stdout == exact.stdout
    diverse = rsr("query", "i.rsr", "--id", "s0_3", "-k", 5, "--per-scene", 1, "--recall", 0.9, cwd=tmp_path)
    assert diverse.returncode == 0
    for arguments, says in (
        (["--recall", 0.9, "-k", 30], b"the recall of 30 hits was not measured"),
        (["--recall", 0.9, "--probe", 3], b"--recall chooses how many partitions are searched, as --probe does"),
        (["--recall", 0.9, "--radius", 3], b"are searched for a number of hits, and not for all; pass -k"),
        (["--recall", 2], b"2.0 is not in the range"),
    ):
        done = rsr("query", "i.rsr", "--id", "s0_3", *arguments, cwd=tmp_path)
        assert (done.returncode, says in done.stderr) == (2, True)
    assert rsr("index", "--partitions", "some", "-o", "x.rsr", input=lines, cwd=tmp_path).returncode == 2
    assert rsr("index", "-o", "flat.rsr", input=lines, cwd=tmp_path).returncode == 0
    done = rsr("query", "flat.rsr", "--id", "s0_3", "--recall", 0.9, cwd=tmp_path)
    assert (done.returncode, b"flat.rsr has no partitions; add some with rsr index --compact" in done.stderr) == (
        2,
        True,
    )
    assert rsr("index", "--compact", "--partitions", "auto", "-o", "flat.rsr", cwd=tmp_path).returncode == 0
    done = rsr("index", "--partitions", 399, "-o", "many.rsr", input=lines, cwd=tmp_path)
    says = rb"rsr index: many\.rsr: 400 items were divided into 3[0-2]\d partitions, not 399\n"
    assert re.fullmatch(says, done.stderr)
    assert rsr("index", "--delete", "--id", "s0_3", "-o", "many.rsr", cwd=tmp_path).returncode == 0
    done = rsr("index", "--compact", "-o", "many.rsr", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")  # as the number is not asked for again
    few = rsr("query", "flat.rsr", "--id", "s0_3", "--recall", 0.9, "-k", 5, cwd=tmp_path)  # too few to be divided
    assert few.stdout == exact.stdout
