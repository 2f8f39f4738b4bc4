"""Indexes that store embeddings as int8 or float16: what is on disk, and hits against a brute-force search of it."""

from __future__ import annotations

import faiss
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import batches, embedding_records, make_index, written

from rsr_cli.core.errors import IndexFormatError, RecordError, Skips, UsageError
from rsr_cli.core.index import build, flat, integrity, upkeep
from rsr_cli.core.index.kept import Kept
from rsr_cli.core.index.manifest import METRICS, Manifest
from rsr_cli.core.index.reading import Index
from rsr_cli.core.index.stored import Stored, VectorWriter, opened
from rsr_cli.core.records.scaled import written_as

SEGMENT = "segments/000001"
DTYPES = ["int8", "float16"]
BYTES = {"int8": 1, "float16": 2, "float32": 4}
RNG = np.random.default_rng(4)


def drawn(n=700, dim=24) -> np.ndarray:
    """Draw embeddings of several lengths, with ties, a constant dimension, and zeros."""
    vectors = (RNG.standard_normal((n, dim)) * RNG.uniform(0.5, 3, (n, 1))).astype(np.float32)
    vectors[n // 4 : n // 2] = vectors[7]
    vectors[n // 2 : n // 2 + 9] *= 2
    vectors[:, 3] = 1
    vectors[n - 1] = 0
    return vectors


VECTORS = drawn()
QUERIES = np.concatenate([VECTORS[[7, 300, 5]], RNG.standard_normal((12, 24)).astype(np.float32)])


def records(vectors=VECTORS, dtype="int8", first=0) -> list[dict]:
    read = batches(embedding_records(vectors), ("embedding",))
    made = written(written_as(read, dtype, Skips()))
    for number, record in enumerate(made, first):
        record["id"] = f"t{number}"
    return made


def stored_in(path, segment=SEGMENT) -> np.ndarray:
    """Read what a segment stores, with numpy alone: float64 (n, dim)."""
    values = np.load(path / segment / "vectors.npy").astype(float)
    scales = path / segment / "scales.npy"
    return values * np.load(scales).astype(float)[:, None] if scales.exists() else values


def measured(metric: str, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Measure from one query to all rows in extended precision."""
    q, x = query.astype(np.longdouble), rows.astype(np.longdouble)
    if metric == "l1":
        return np.abs(q - x).sum(-1)
    if metric == "l2":
        return np.sqrt(((q - x) ** 2).sum(-1))
    if metric == "dot":
        return -(q * x).sum(-1)
    lengths = np.sqrt((q**2).sum()) * np.sqrt((x**2).sum(-1))
    return 1 - (q * x).sum(-1) / np.where(lengths > 0, lengths, 1)


def agree(found, distances: np.ndarray, k, rows=None, radius=None) -> None:
    """Compare hits with all distances: each is as near as the oracle's, and equal distances are in order."""
    near, hits = found
    rows = np.arange(len(distances)) if rows is None else rows
    expected = np.sort(distances[rows])
    expected = expected[expected <= (np.inf if radius is None else radius)][:k].astype(float)
    np.testing.assert_allclose(near, expected, rtol=1e-6, atol=2e-7)
    np.testing.assert_allclose(distances[hits].astype(float), near, rtol=1e-6, atol=2e-7)
    assert set(hits.tolist()) <= set(rows.tolist())
    assert len(set(hits.tolist())) == len(hits)
    assert all(a < b for a, b, same in zip(hits, hits[1:], near[:-1] == near[1:], strict=False) if same)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(request.param)
    yield
    faiss.omp_set_num_threads(before)


# On disk -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_stored_as_they_came(tmp_path, metric, dtype):
    path = tmp_path / "x.rsr"
    with make_index(path, records(dtype=dtype), metric) as index:
        assert (index.manifest.stored, index.manifest.space.dtype, index.manifest.metric) == (dtype, dtype, metric)
        vectors = np.array([index.vector(row) for row in range(len(VECTORS))])
    values = np.load(path / SEGMENT / "vectors.npy")
    assert (values.dtype, values.nbytes) == (np.dtype(dtype), VECTORS.size * BYTES[dtype])
    (came,) = batches(records(dtype=dtype), ("embedding",), size=1000)
    if metric == "cosine":
        lengths = np.linalg.norm(stored_in(path), axis=1)
        np.testing.assert_allclose(lengths[:-1], 1, rtol=1e-7)
        assert lengths[-1] == 0
        expected = came.vectors / np.maximum(np.linalg.norm(came.vectors, axis=1, keepdims=True), 1e-30)
        np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    else:
        assert np.array_equal(stored_in(path), came.vectors)
        assert np.array_equal(vectors, came.vectors)
    whole = came.vectors if dtype == "float16" else values
    assert np.array_equal(values, whole)
    assert (path / SEGMENT / "scales.npy").exists() == (dtype == "int8" or metric == "cosine")
    sum(integrity.check(path, pytest.fail))


def test_every_float16_becomes_its_float32():
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    values = values[np.isfinite(values)].reshape(-1, 8)
    got = Stored(values).scaled(np.empty((len(values) + 3, 8), np.float32))
    assert np.array_equal(got, values.astype(np.float32))
    assert np.array_equal(np.signbit(got), np.signbit(values))


finite = st.floats(-60000, 60000, width=16) | st.floats(-(2.0**-20), 2.0**-20, width=16)


@settings(max_examples=100, deadline=None)
@given(
    vectors=arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 9)), elements=finite),
    dtype=st.sampled_from(DTYPES),
    metric=st.sampled_from(METRICS),
    k=st.integers(1, 31),
)
def test_any_numbers_are_ranked_as_they_are_stored(tmp_path_factory, vectors, dtype, metric, k):
    path = tmp_path_factory.mktemp("x") / "x.rsr"
    with make_index(path, records(vectors, dtype), metric) as index:
        for query, found in zip(vectors, index.search(vectors, k), strict=True):
            agree(found, measured(metric, query, stored_in(path)), k)


# Search --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("threads")
def test_hits_are_those_of_a_brute_force_search(tmp_path, monkeypatch, metric, dtype):
    monkeypatch.setattr(flat, "COPIED_BYTES", 4 * 24 * 37)  # so that a block has 37 rows
    monkeypatch.setattr(flat, "QUERIES_AT_ONCE", 4)
    monkeypatch.setattr(flat, "PART_BYTES", 24 * 90)  # so that threads divide the rows
    path = tmp_path / "x.rsr"
    with make_index(path, records(dtype=dtype), metric) as index:
        distances = [measured(metric, query, stored_in(path)) for query in QUERIES]
        for k in (1, 20, 333, 700, 900):
            together = index.search(QUERIES, k)
            for query, found, expected in zip(QUERIES, together, distances, strict=True):
                agree(found, expected, k)
                ((near, rows),) = index.search(query[None], k)
                assert (near.tolist(), rows.tolist()) == (found[0].tolist(), found[1].tolist())
        for query, expected in zip(QUERIES, distances, strict=True):
            radius = float(np.sort(expected)[50]) + 1e-4
            agree(index.search(query[None], None, radius)[0], expected, None, radius=radius)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_hits_do_not_depend_on_blocks_and_threads(tmp_path, monkeypatch, metric, dtype):
    """Differences far below float32's rounding of a distance, which each block size adds up otherwise."""
    base = (RNG.standard_normal(768) * 30).astype(np.float32)
    vectors = np.tile(base, (600, 1))
    vectors[np.arange(600), RNG.integers(0, 768, 600)] += RNG.standard_normal(600).astype(np.float32) * 0.2
    queries = RNG.standard_normal((10, 768)).astype(np.float32)
    path = tmp_path / "x.rsr"
    make_index(path, records(vectors, dtype), metric).__exit__()
    found = []
    for size in (1, 1 << 18, 1 << 22):
        monkeypatch.setattr(flat, "COPIED_BYTES", size)
        with Index(path) as index:
            found.append([(near.tolist(), rows.tolist()) for near, rows in index.search(queries, 20)])
    assert found[0] == found[1] == found[2]
    for query, (near, rows) in zip(queries, found[0], strict=True):
        exact = measured(metric, query, stored_in(path)).astype(float)
        least = 2.0**-23 if metric == "cosine" else 1e-15  # queries of unit length are rounded to float32
        np.testing.assert_allclose(exact[rows], np.sort(exact)[:20], rtol=1e-13, atol=least)
        np.testing.assert_allclose(near, exact[rows], rtol=1e-13, atol=least)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_filtered_hits_are_those_of_the_rows_that_are_kept(tmp_path, metric, dtype, share):
    path = tmp_path / "x.rsr"
    mask = np.random.default_rng(1).random(len(VECTORS)) < share
    with make_index(path, records(dtype=dtype), metric) as index:
        for query, found in zip(QUERIES, index.search(QUERIES, 10, kept=[Kept.where(mask)]), strict=True):
            agree(found, measured(metric, query, stored_in(path)), 10, rows=np.flatnonzero(mask))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_queries", [1, 15])
def test_all_partitions_have_the_hits_of_an_exact_search(tmp_path, metric, dtype, n_queries):
    with make_index(tmp_path / "x.rsr", records(dtype=dtype), metric, partitions=6) as index:
        count = index.segments[0].facts.partitions["count"]
        for probe in (count, 2):
            found = index.search(QUERIES[:n_queries], 10, probe=probe)
            exact = index.search(QUERIES[:n_queries], 10)
            for (near, rows), (all_near, all_rows) in zip(found, exact, strict=True):
                if probe == count:
                    assert (near.tolist(), rows.tolist()) == (all_near.tolist(), all_rows.tolist())
                else:
                    assert (np.asarray(near) >= all_near).all()
        lists = tmp_path / "x.rsr" / SEGMENT / "partitions.npy"
        assert lists.stat().st_size > 4 * VECTORS.size  # they hold float32
    sum(integrity.check(tmp_path / "x.rsr", pytest.fail))


@pytest.mark.parametrize("metric", METRICS)
def test_types_are_compared_with_each_other(tmp_path, metric):
    """An index of int8 that is asked with float32, and the reverse."""
    (whole,) = batches(records(), ("embedding",), size=1000)
    paths = {dtype: tmp_path / f"{dtype}.rsr" for dtype in ("int8", "float32")}
    for dtype, path in paths.items():
        with make_index(path, records(dtype=dtype), metric) as index:
            queries = whole.vectors[:9] if dtype == "float32" else VECTORS[:9]
            assert index.binarizer_for(whole.space) is None
            for query, found in zip(queries, index.search(queries, 5), strict=True):
                agree(found, measured(metric, query, stored_in(path)), 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["cosine", "l1", "l2"])
def test_an_item_is_at_no_distance_from_itself(rsr, tmp_path, dtype, metric):
    (tmp_path / "in.geojsonl").write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in records(dtype=dtype)[:40]))
    assert rsr("index", "in.geojsonl", "--metric", metric, "-o", "x.rsr", cwd=tmp_path).returncode == 0
    for asking in (["--id", "t5"], ["in.geojsonl"]):
        done = rsr("query", "x.rsr", *asking, "-k", "1", cwd=tmp_path)
        assert {orjson.loads(line)["properties"]["distance"] for line in done.stdout.splitlines()} == {0.0}
    info = orjson.loads(rsr("info", "--json", "x.rsr", cwd=tmp_path).stdout)
    assert [space["dtype"] for space in info["spaces"]] == [dtype]


@pytest.mark.parametrize("dtype", [*DTYPES, "float32"])
@pytest.mark.parametrize("length", [1e-3, 1, 40])
def test_equal_embeddings_have_a_cosine_distance_of_0(tmp_path, dtype, length):
    vectors = RNG.standard_normal((300, 768)).astype(np.float32)
    vectors *= np.float32(length) / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[[9, 70, 200]] = vectors[4]
    equal = [np.flatnonzero((vectors == vector).all(axis=1)).tolist() for vector in vectors]
    (came,) = batches(records(vectors, dtype), ("embedding",), size=1000)
    with make_index(tmp_path / "x.rsr", records(vectors, dtype), "cosine", partitions=4) as index:
        for queries in (came.vectors, np.stack([index.vector(row) for row in range(300)])):
            for found in (index.search(queries, radius=0.0), index.search(queries, 300, 0.0, probe=4)):
                assert [near.tolist() for near, _ in found] == [[0.0] * len(rows) for rows in equal]
                assert [rows.tolist() for _, rows in found] == equal


# Growing -------------------------------------------------------------------------------------------------------------


def append(path, some, metric=None) -> int:
    takes = build.appendable(path, metric)
    return sum(build.append(batches(some, takes.kinds), path, takes.metric, Skips()))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_appended_deleted_merged_and_compacted_rows_stay_bit_for_bit(tmp_path, metric, dtype):
    path = tmp_path / "x.rsr"
    for first in (0, 300, 500):
        append(path, records(VECTORS[first : {0: 300, 300: 500, 500: 700}[first]], dtype, first), metric)
    with make_index(tmp_path / "whole.rsr", records(dtype=dtype), metric) as whole:
        expected = whole.search(QUERIES, 30)
    with Index(path) as index:
        assert len(index.segments) == 3
        for (near, rows), (all_near, all_rows) in zip(index.search(QUERIES, 30), expected, strict=True):
            assert (near.tolist(), rows.tolist()) == (all_near.tolist(), all_rows.tolist())
    gone = [5, 301, 650]
    upkeep.delete(path, lambda index: upkeep.rows_with_ids(index, [f"t{row}" for row in gone], Skips()))
    left = np.delete(stored_in(tmp_path / "whole.rsr"), gone, axis=0)
    sum(upkeep.merge([path], tmp_path / "merged.rsr", Skips()))
    sum(upkeep.compact(path))
    (segment,) = Manifest.read(path).segments
    assert np.array_equal(stored_in(path, f"segments/{segment.name}"), left)
    for name in ("x.rsr", "merged.rsr"):
        sum(integrity.check(tmp_path / name, pytest.fail))
        with Index(tmp_path / name) as index:
            assert index.manifest.stored == dtype
            for query, (near, _) in zip(QUERIES, index.search(QUERIES, 12), strict=True):
                np.testing.assert_allclose(
                    near, np.sort(measured(metric, query, left))[:12].astype(float), rtol=1e-6, atol=2e-7
                )


def test_an_index_takes_what_it_can_hold(rsr, tmp_path):
    for dtype in ("int8", "float16", "float32"):
        (tmp_path / dtype).write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in records(VECTORS[:9], dtype, 9)))
        append(tmp_path / f"{dtype}.rsr", records(VECTORS[:5], dtype), "l2")
    for mine, theirs in (("int8", "float32"), ("int8", "float16"), ("float16", "int8"), ("float16", "float32")):
        done = rsr("index", "--append", theirs, "-o", f"{mine}.rsr", cwd=tmp_path)
        says = f"{mine}.rsr: the index stores its embeddings as {mine}, and the records' are of {theirs}; pass --dtype "
        assert (done.returncode, says + f"{mine} to rsr embed" in done.stderr.decode()) == (2, True)
    for first, dtype in ((5, "int8"), (14, "float16")):
        (came,) = batches(records(VECTORS[:9], dtype), ("embedding",))
        assert append(tmp_path / "float32.rsr", records(VECTORS[:9], dtype, 10 * first)) == 9
        with Index(tmp_path / "float32.rsr") as index:
            assert np.array_equal([index.vector(row) for row in range(first, first + 9)], came.vectors)
            assert index.manifest.stored == "float32"
    with pytest.raises(
        UsageError, match=r"int8\.rsr: embeddings stored as int8 cannot be in one index with those stored as float16"
    ):
        sum(upkeep.merge([tmp_path / "float16.rsr", tmp_path / "int8.rsr"], tmp_path / "z.rsr", Skips()))


def test_an_older_index_stores_float32_whatever_its_records_were(tmp_path):
    path = tmp_path / "x.rsr"
    make_index(path, records(VECTORS[:20], "float32"), "cosine").__exit__()
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"], manifest["stored"]
    manifest["space"]["dtype"] = "float16"  # as its records had
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))
    append(path, records(VECTORS[20:50], "float16", 20))
    with Index(path) as index:
        assert [segment.vectors.dtype for segment in index.segments] == [np.float32] * 2
    sum(upkeep.compact(path))
    with Index(path) as index:
        assert index.search(VECTORS[30:31], 1)[0][1].tolist() == [30]
        assert index.manifest.stored in (None, "float32")


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["int4", "uint8", 5, [], {}])
def test_a_forged_type_is_refused(tmp_path, stored):
    path = tmp_path / "x.rsr"
    make_index(path, records(VECTORS[:9]), "l1").__exit__()
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    (path / "manifest.json").write_bytes(orjson.dumps(manifest | {"stored": stored}))
    with pytest.raises(IndexFormatError, match=r"manifest\.json is damaged"):
        Manifest.read(path)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_scales_that_are_none_are_refused(tmp_path, recwarn, metric, value):
    path = tmp_path / "x.rsr"
    make_index(path, records(VECTORS[:9]), metric).__exit__()
    scales = np.load(path / SEGMENT / "scales.npy")
    scales[4] = value
    np.save(path / SEGMENT / "scales.npy", scales)
    with Index(path) as index, pytest.raises(IndexFormatError, match="values that are not numbers, or too large"):
        index.search(VECTORS[:2], 9)
    assert not recwarn.list


def test_scales_that_are_missing_or_changed_are_named(tmp_path):
    path = tmp_path / "x.rsr"
    make_index(path, records(VECTORS[:9]), "l1").__exit__()
    scales = path / SEGMENT / "scales.npy"
    whole = scales.read_bytes()
    with Index(path) as index:
        scales.write_bytes(whole)
        with pytest.raises(IndexFormatError, match=r"scales\.npy: was changed by another process"):
            index.search(VECTORS[:2], 3)
    np.save(scales, np.ones(9, np.float64)[:4].repeat(2)[:5].astype(np.float64))
    with pytest.raises(IndexFormatError, match=r"scales\.npy: is damaged"):
        Index(path)
    scales.unlink()
    with pytest.raises(IndexFormatError, match=r"scales\.npy: is missing"):
        Index(path)


def test_an_embedding_that_is_too_long_is_refused_but_for_its_cosine(tmp_path):
    vectors = VECTORS[:9] * np.float32(1e30)
    with pytest.raises(RecordError, match="too long for float32"):
        make_index(tmp_path / "x.rsr", records(vectors), "dot")
    with make_index(tmp_path / "y.rsr", records(vectors), "cosine") as index:
        assert index.search(vectors[3:4], 1)[0][1].tolist() == [3]


def test_what_a_writer_stores_is_opened(tmp_path):
    for dtype, scaled in (("float32", False), ("float16", False), ("float16", True), ("int8", True)):
        folder = tmp_path / f"{dtype}{scaled}"
        folder.mkdir()
        writer = VectorWriter(folder, "v.npy", dtype, scaled=scaled, unit=scaled)
        writer.append(VECTORS[:30])
        ones = np.ones((2, 24), dtype)
        writer.copy(Stored(ones, np.ones(2, np.float32)) if scaled else ones)
        writer.close()
        found = np.asarray(opened(folder, "v.npy", dtype, (32, 24), scaled=scaled), np.float64)
        assert np.array_equal(found[30:], ones)
        lengths = np.linalg.norm(VECTORS[:30].astype(float), axis=1, keepdims=True) if scaled else 1
        np.testing.assert_allclose(found[:30], VECTORS[:30] / lengths, atol=0.05 if dtype == "int8" else 2e-3)
