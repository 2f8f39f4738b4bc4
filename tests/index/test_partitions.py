"""Partitions against a brute-force search and against the exact one, and what they state of their recall."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import code_records, embedding_records, make_index

from rsr_cli.core.codes.rotated import Rotated
from rsr_cli.core.errors import IndexFormatError, UsageError
from rsr_cli.core.index import partitions as module
from rsr_cli.core.index.flat import Flat, unit
from rsr_cli.core.index.kept import Kept
from rsr_cli.core.index.partitions import (
    CENTROIDS,
    ENDS,
    GRID,
    LISTS,
    PartitionFacts,
    Partitions,
    Recall,
    partitions_of,
    write_partitions,
)
from rsr_cli.core.index.weights import WeightedBits
from rsr_cli.core.records.space import Space

ROOT = Path(__file__).parents[2]
METRICS = ("hamming", "l1", "l2", "cosine", "dot")


def clustered(n: int, metric: str, seed: int = 0, dim: int = 24) -> np.ndarray:
    """Vectors in 40 clusters, many of them equal; of embeddings, whole numbers, whose distances have ties."""
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(99).integers(-8, 9, (40, dim))
    values = (middles[rng.integers(40, size=n)] + rng.integers(-2, 3, (n, dim))).astype(np.float32)
    values[rng.random(n) < 0.2] = values[0]
    if metric == "hamming":
        return np.packbits(values > 0, axis=1)
    return unit(values) if metric == "cosine" else values


def flat_of(vectors: np.ndarray, metric: str, kept: np.ndarray | None = None, first: int = 0) -> Flat:
    norm = 0.0 if metric == "hamming" else float(np.linalg.norm(vectors.astype(float), axis=1).max(initial=0))
    return Flat(vectors, metric, norm, None if kept is None else Kept.where(kept), first)


def opened(path: Path, vectors: np.ndarray, metric: str, count: int) -> tuple[PartitionFacts, Partitions]:
    facts = write_partitions(path, flat_of(vectors, metric), count)
    return facts, Partitions(path, facts.count, vectors, metric)


def same(found, expected) -> bool:
    return [(d.tolist(), r.tolist()) for d, r in found] == [(d.tolist(), r.tolist()) for d, r in expected]


def brute_codes(queries: np.ndarray, rows: np.ndarray, may: list[int], k: int) -> list[list[tuple[float, int]]]:
    each = [[(float(np.unpackbits(q ^ rows[i]).sum()), i) for i in may] for q in queries]
    return [sorted(pairs)[:k] for pairs in each]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("masked", [False, True])
def test_all_partitions_find_what_the_exact_search_finds(tmp_path, metric, masked):
    vectors = clustered(1500, metric)
    queries = np.concatenate([vectors[[0, 7]], clustered(30, metric, seed=1)])
    facts, partitions = opened(tmp_path, vectors, metric, 30)
    kept = np.random.default_rng(5).random(1500) < 0.3 if masked else None
    flat = flat_of(vectors, metric, kept, first=100)
    for k in (1, 20, 400, 1500, 3000):
        expected = flat.search(queries, k)
        assert same(partitions.search(flat, queries, k, facts.count), expected)
        assert same(partitions.search(flat, queries, k, facts.count + 5), expected)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_codes_rank_as_brute_force(tmp_path_factory, data):
    n, width = data.draw(st.integers(2, 60)), data.draw(st.integers(1, 4))
    rows = st.lists(st.integers(0, 255), min_size=width, max_size=width)
    codes = np.array(data.draw(st.lists(rows, min_size=n, max_size=n)), np.uint8)
    queries = np.array(data.draw(st.lists(rows, min_size=1, max_size=3)), np.uint8)
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    k = data.draw(st.integers(1, n))
    facts, partitions = opened(tmp_path_factory.mktemp("any"), codes, "hamming", data.draw(st.integers(1, 10)))
    found = partitions.search(flat_of(codes, "hamming", kept), queries, k, facts.count)
    expected = brute_codes(queries, codes, np.flatnonzero(kept).tolist(), k)
    assert [list(zip(d.tolist(), r.tolist(), strict=True)) for d, r in found] == expected
    partitions.check_rows()


@pytest.mark.parametrize("metric", METRICS)
def test_hits_are_the_nearest_rows_of_the_nearest_partitions(tmp_path, metric):
    """Partitions are read from the file here, and are those of the nearest centroid."""
    vectors = clustered(1200, metric)
    queries = clustered(20, metric, seed=2)
    _, partitions = opened(tmp_path, vectors, metric, 25)
    flat = flat_of(vectors, metric)
    ends, centroids = np.load(tmp_path / ENDS), np.load(tmp_path / CENTROIDS)
    raw, size = np.load(tmp_path / LISTS), vectors[:1].nbytes
    at, members = 0, []
    for count in np.diff(ends, prepend=0).tolist():
        room = -(-count // 8) * 8
        assert (
            raw[at : at + count * size].tobytes() == vectors[raw[at + room * size :][: count * 8].view("<i8")].tobytes()
        )
        members.append(raw[at + room * size :][: count * 8].view("<i8"))
        at += room * (size + 8)
    assert at == len(raw)
    assert sorted(np.concatenate(members).tolist()) == list(range(1200))
    if metric == "hamming":
        distances = np.array([[np.unpackbits(q ^ c).sum() for c in centroids] for q in queries])
    else:
        origin, step = np.load(tmp_path / GRID)
        middles = centroids * step + origin
        distances = np.linalg.norm((unit(queries) if metric == "cosine" else queries)[:, None] - middles, axis=2)
        distances = -(queries @ middles.T) if metric == "dot" else distances
    order = np.argsort(distances, axis=1, kind="stable")
    for probe in (1, 4):
        found = partitions.search(flat, queries, 5, probe)
        agree = 0
        for query, near, (measured, rows) in zip(queries, order, found, strict=True):
            inside = np.zeros(1200, bool)
            inside[np.concatenate([members[i] for i in near[:probe]])] = True
            agree += same(flat_of(vectors, metric, inside).search(query[None], 5), [(measured, rows)])
        assert agree >= 18  # rounded to the grid, a query may be nearer to another centroid


@pytest.mark.parametrize("metric", METRICS)
def test_hits_do_not_depend_on_the_batch(tmp_path, monkeypatch, metric):
    monkeypatch.setattr("rsr_cli.core.index.flat.MEASURED_BYTES", 1 << 12)
    vectors, queries = clustered(2000, metric), clustered(40, metric, seed=3)
    facts, partitions = opened(tmp_path, vectors, metric, 30)
    flat = flat_of(vectors, metric, np.arange(2000) % 3 > 0)
    for together, alone in (
        (
            partitions.search(flat, queries, 10, 3),
            [partitions.search(flat, query[None], 10, 3)[0] for query in queries],
        ),
        (
            partitions.search_for(flat, queries, 10, 0.9, facts.recall, spare=1),
            [partitions.search_for(flat, query[None], 10, 0.9, facts.recall, spare=1)[0] for query in queries],
        ),
    ):
        assert same(together, alone)


@pytest.mark.parametrize("metric", ["cosine", "hamming"])
def test_what_others_leave_out_changes_no_hits(tmp_path, metric):
    """Where partitions have too few hits, all rows are searched."""
    vectors, queries = clustered(600, metric), clustered(12, metric, seed=3)
    records = code_records(vectors, 8 * vectors.shape[1]) if metric == "hamming" else embedding_records(vectors)
    without = [np.arange(0, n) for n in (0, 200, 0, 3, 200, 0, 3, 90, 0, 0, 90, 1)]
    with make_index(tmp_path / "i.rsr", records, None if metric == "hamming" else metric, partitions=30) as index:
        for asked in ({"probe": 1}, {"probe": 3}, {"recall": 0.5}):
            together = index.search(queries, 20, without=without, **asked)
            alone = [
                index.search(query[None], 20, without=[rows], **asked)[0]
                for query, rows in zip(queries, without, strict=True)
            ]
            assert same(together, alone)
        exact = index.search(queries, 20, without=without)
        assert not same(index.search(queries, 20, without=without, probe=1), exact)


@pytest.mark.parametrize("metric", METRICS)
def test_k_hits_come_where_k_rows_may_be_hits(tmp_path, metric):
    vectors, queries = clustered(2000, metric), clustered(12, metric, seed=4)
    facts, partitions = opened(tmp_path, vectors, metric, 40)
    for left in (0, 1, 9, 100):
        kept = np.zeros(2000, bool)
        kept[np.random.default_rng(left).permutation(2000)[:left]] = True
        flat = flat_of(vectors, metric, kept)
        for found in (
            partitions.search(flat, queries, 10, 1),
            partitions.search_for(flat, queries, 10, 0.9, facts.recall),
        ):
            assert [len(rows) for _, rows in found] == [min(10, left)] * 12
            assert kept[np.concatenate([rows for _, rows in found])].all()


@pytest.mark.parametrize("metric", ["hamming", "l2"])
def test_partitions_are_the_same_bytes_with_any_number_of_threads(tmp_path, metric):
    np.save(tmp_path / "vectors.npy", np.repeat(clustered(3000, metric, dim=64), 2, axis=0))
    script = f"""
import sys, numpy as np
from pathlib import Path
from rsr_cli.core.index.flat import Flat
from rsr_cli.core.index.partitions import write_partitions
vectors = np.load("vectors.npy")
path = Path(sys.argv[1]); path.mkdir()
facts = write_partitions(path, Flat(vectors, "{metric}", 1e3), 60, seed=7)
(path / "facts").write_text(repr(facts))
"""
    digests = []
    for threads in ("1", "3"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        environment["PYTHONPATH"] = str(ROOT)
        subprocess.run([sys.executable, "-c", script, threads], cwd=tmp_path, env=environment, check=True)
        files = sorted((tmp_path / threads).iterdir())
        assert len(files) == (4 if metric == "hamming" else 5)
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    other = tmp_path / "other"
    other.mkdir()
    write_partitions(other, Flat(np.load(tmp_path / "vectors.npy"), metric, 1e3), 60, seed=8)
    assert (other / CENTROIDS).read_bytes() != (tmp_path / "1" / CENTROIDS).read_bytes()


@pytest.mark.parametrize("floats", [False, True])
def test_the_recall_that_is_stated_holds_for_other_queries(tmp_path, monkeypatch, floats):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from structured import Structured, codes

    metric, n, asked = ("l1", 6000, 600) if floats else ("hamming", 30_000, 2000)
    source = Structured(noise=0.3, seed=3)
    vectors, queries = np.concatenate(list(source.rows(n))), source.queries(asked)
    if not floats:
        vectors, queries = codes(vectors), codes(queries)
    facts, partitions = opened(tmp_path, vectors, metric, 100)
    flat = flat_of(vectors, metric)
    exact = flat.search(queries, 20)
    recall = facts.recall
    assert recall.queries == min(n // 5, module.HELD_BACK[not floats])
    for k in (1, 10, 20):
        for goal in (0.9, 0.98):
            probe = recall.probe_for(goal, k)
            found = partitions.search(flat, queries, k, probe)
            near = [(d <= e[k - 1]).mean() for (d, _), (e, _) in zip(found, exact, strict=True)]
            at = recall.probes.index(probe)
            stated, error = recall.recall[at][recall.ks.index(k)], recall.error[at][recall.ks.index(k)]
            assert probe < facts.count / 2
            assert stated - 2 * error >= goal
            assert abs(np.mean(near) - stated) <= 0.01 + 3 * np.std(near) / asked**0.5
            for_recall = partitions.search_for(flat, queries, k, goal, recall)
            assert same(for_recall, found)


def test_the_recall_holds_for_embeddings_that_ask_by_weights(tmp_path, monkeypatch):
    """It was measured with codes, and a step more is searched."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from structured import DIM, Structured

    source, binarizer = Structured(noise=0.15, seed=3), Rotated(Space("embedding", DIM, "float32", "emb"))
    vectors = np.concatenate([binarizer(some) for some in source.rows(20_000)])
    weighted = WeightedBits(binarizer.values(source.queries(600)))
    facts, partitions = opened(tmp_path, vectors, "hamming", 100)
    flat = flat_of(vectors, "hamming")
    exact = flat.search(weighted, 20)
    for k in (1, 10, 20):
        for goal in (0.9, 0.95, 0.98):
            found = partitions.search_for(flat, weighted, k, goal, facts.recall)
            near = [(d <= e[k - 1]).mean() for (d, _), (e, _) in zip(found, exact, strict=True)]
            assert np.mean(near) >= goal
            probe = facts.recall.probe_for(goal, k)
            assert probe < facts.count / 3
            assert same(found, partitions.search(flat, weighted, k, max(probe + 1, module._half_more(probe))))


def test_the_recall_holds_where_a_filter_keeps_rows_far_from_the_query(tmp_path, monkeypatch):
    """Only rows of other places than a query's own: the nearest of them are far down its ranking."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from structured import Structured, codes

    source = Structured(noise=0.1, seed=4)
    vectors, queries = codes(np.concatenate(list(source.rows(20_000)))), codes(source.queries(60))
    facts, partitions = opened(tmp_path, vectors, "hamming", 100)
    far = np.ones(20_000, bool)
    query = queries[:1]
    ((_, nearest),) = flat_of(vectors, "hamming").search(query, 8000)
    far[nearest] = False
    flat = flat_of(vectors, "hamming", far)
    assert same(partitions.search_for(flat, query, 20, 0.95, facts.recall), flat.search(query, 20))
    half = flat_of(vectors, "hamming", np.arange(20_000) % 2 == 0)
    exact = half.search(queries, 10)
    found = partitions.search_for(half, queries, 10, 0.95, facts.recall)
    assert np.mean([(d <= e[-1]).mean() for (d, _), (e, _) in zip(found, exact, strict=True)]) >= 0.95


def recall_of(**changes) -> Recall:
    facts = {"queries": 100, "ks": (1, 20), "probes": (1, 4), "recall": ((0.7, 0.6), (0.99, 0.97))}
    return Recall(**{**facts, "error": ((0.02, 0.01), (0.01, 0.0)), **changes})


def test_a_recall_that_was_not_measured_is_refused():
    recall = recall_of()
    assert (recall.probe_for(0.5, 20), recall.probe_for(0.6, 20), recall.probe_for(0.97, 20)) == (1, 4, 4)
    assert (recall.probe_for(0.65, 1), recall.probe_for(0.67, 1)) == (1, 4)
    with pytest.raises(UsageError, match=r"0\.98 was not measured for 20 hits, only up to 0\.97"):
        recall.probe_for(0.98, 20)
    with pytest.raises(UsageError, match="recall of 5 hits was not measured, but that of 1, 20"):
        recall.probe_for(0.5, 5)


def test_facts_survive_the_manifest(tmp_path):
    facts, _ = opened(tmp_path, clustered(500, "hamming"), "hamming", 10)
    assert PartitionFacts.of(orjson.loads(orjson.dumps(asdict(facts)))) == facts
    assert facts.recall.ks[:20] == tuple(range(1, 21))


@pytest.mark.parametrize(
    "changes",
    [
        {"queries": 0},
        {"queries": 1.5},
        {"ks": (20, 1)},
        {"ks": (1, True)},
        {"ks": ()},
        {"probes": (1, 1)},
        {"probes": (1,)},
        {"recall": ((0.7, 0.6), (0.99, 1.01))},
        {"recall": ((0.7, 0.6), (0.99,))},
        {"error": ((0.02, 0.01), (0.01, "0"))},
    ],
)
def test_a_recall_of_a_stranger_is_checked(changes):
    with pytest.raises(ValueError, match="recall"):
        recall_of(**changes).check()
    facts = orjson.loads(orjson.dumps(asdict(PartitionFacts(4, 0, recall_of(**changes)))))
    with pytest.raises(ValueError, match="recall"):
        PartitionFacts.of(facts)


@pytest.mark.parametrize("metric", ["hamming", "l2"])
@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        (ENDS, lambda a: a[:-1], "is expected"),
        (ENDS, lambda a: a[::-1].copy(), "ascend"),
        (ENDS, lambda a: a + 1, "ascend"),
        (ENDS, lambda a: a.astype(np.int32), "int32"),
        (CENTROIDS, lambda a: a[:, :-1].copy(), "is expected"),
        (CENTROIDS, lambda a: a[:-1], "is expected"),
        (LISTS, lambda a: a[:-8], "is expected"),
        (LISTS, lambda a: np.append(a, a[:104]), "is expected"),
    ],
)
def test_damaged_files_are_refused(tmp_path, metric, name, damage, what):
    vectors = clustered(800, metric)
    facts, _ = opened(tmp_path, vectors, metric, 10)
    np.save(tmp_path / name, damage(np.load(tmp_path / name)))
    with pytest.raises(IndexFormatError, match=what) as error:
        Partitions(tmp_path, facts.count, vectors, metric)
    assert error.value.place == str(tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(IndexFormatError, match="missing"):
        Partitions(tmp_path, facts.count, vectors, metric)


@pytest.mark.parametrize("metric", ["hamming", "l2"])
@pytest.mark.parametrize("row", [-2, 800, 2**62])
def test_numbers_of_rows_that_do_not_exist_are_refused(tmp_path, metric, row):
    vectors = clustered(800, metric)
    facts, _ = opened(tmp_path, vectors, metric, 10)
    raw = np.load(tmp_path / LISTS)
    first = int(np.load(tmp_path / ENDS)[0])
    at = -(-first // 8) * 8 * vectors[:1].nbytes
    raw[at : at + first * 8] = np.full(first, row, "<i8").view(np.uint8)
    np.save(tmp_path / LISTS, raw)
    partitions = Partitions(tmp_path, facts.count, vectors, metric)
    with pytest.raises(IndexFormatError, match="beyond"):
        partitions.search(flat_of(vectors, metric), vectors[:50], 20, facts.count)
    with pytest.raises(IndexFormatError, match="none of the partitions"):
        partitions.check_rows()


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine", "dot"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_make_no_distances(tmp_path, metric, value):
    vectors = clustered(800, metric)
    facts, _ = opened(tmp_path, vectors, metric, 10)
    lists = np.load(tmp_path / LISTS)
    lists[8:12] = np.array([value], np.float32).view(np.uint8)
    np.save(tmp_path / LISTS, lists)
    partitions = Partitions(tmp_path, facts.count, vectors, metric)
    with contextlib.suppress(IndexFormatError):
        found = partitions.search(flat_of(vectors, metric), vectors[:200], 790, facts.count)
        assert all(np.isfinite(near).all() and (rows >= 0).all() for near, rows in found)


def test_a_grid_of_no_numbers_is_refused(tmp_path):
    vectors = clustered(800, "l2")
    facts, _ = opened(tmp_path, vectors, "l2", 10)
    grid, centroids = np.load(tmp_path / GRID), np.load(tmp_path / CENTROIDS)
    for step in (0, -1, np.nan, np.inf):
        np.save(tmp_path / GRID, np.stack([grid[0], np.full(24, step)]))
        with pytest.raises(IndexFormatError, match="steps"):
            Partitions(tmp_path, facts.count, vectors, "l2")
    np.save(tmp_path / GRID, grid)
    np.save(tmp_path / CENTROIDS, centroids + np.float32("nan"))
    with pytest.raises(IndexFormatError, match="grid"):
        Partitions(tmp_path, facts.count, vectors, "l2")


@pytest.mark.parametrize("metric", METRICS)
def test_odd_vectors_are_divided_too(tmp_path, metric):
    """All equal, all zero, or so small that their squares vanish: there are fewer partitions, or one."""
    for number, size in enumerate((0, 1, 1e-40)):
        values = np.full((60, 16), size, np.float32)
        values[30:] *= 2 if metric in ("l1", "l2", "dot") else 1
        vectors = (
            np.packbits(values > 0, axis=1) if metric == "hamming" else unit(values) if metric == "cosine" else values
        )
        path = tmp_path / str(number)
        path.mkdir()
        facts, partitions = opened(path, vectors, metric, 20)
        assert facts.count <= 2
        flat, queries = flat_of(vectors, metric), vectors[[0, 59]]
        assert same(partitions.search(flat, queries, 40, facts.count), flat.search(queries, 40))
        assert same(partitions.search_for(flat, queries, 20, 0.9, facts.recall), flat.search(queries, 20))


def test_small_segments_have_no_partitions_by_default():
    assert [partitions_of(rows) for rows in (1, 49_999, 50_000, 10**6, 10**7)] == [0, 0, 224, 1000, 3162]
