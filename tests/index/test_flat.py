"""The exact search against a brute-force search, ties included, and against faiss's own."""

from __future__ import annotations

from itertools import pairwise

import faiss
import numpy as np
import pytest
from scipy import stats
from support import code_records, embedding_records, make_index

from rsr_cli.core.errors import RecordError
from rsr_cli.core.index import flat
from rsr_cli.core.index import kept as kept_module
from rsr_cli.core.index.kept import Kept


def brute_hamming(queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.array([[bin(int.from_bytes(q ^ c, "big")).count("1") for c in codes] for q in queries])


def brute(metric: str, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Distances in extended precision, in a formulation of their own."""
    q, x = queries.astype(np.longdouble)[:, None], rows.astype(np.longdouble)[None]
    if metric == "l1":
        return np.abs(q - x).sum(-1)
    if metric == "l2":
        return np.sqrt(((q - x) ** 2).sum(-1))
    if metric == "cosine":
        return 1 - (q * x).sum(-1) / np.sqrt((q**2).sum(-1) * (x**2).sum(-1))
    return -(q * x).sum(-1)


def ranking(distances: np.ndarray, k: int) -> list[list[int]]:
    return [sorted(range(len(row)), key=lambda i, row=row: (row[i], i))[:k] for row in distances]


@pytest.fixture(params=[1, 3])
def threads(request):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(request.param)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("bits", [32, 768, 100])
@pytest.mark.usefixtures("threads")
def test_codes_rank_as_brute_force_with_ties(tmp_path, bits):
    rng = np.random.default_rng(bits)
    n_bytes = (bits + 7) // 8
    used = np.packbits(np.arange(8 * n_bytes) < bits)  # the bits behind the last one are 0
    codes = rng.integers(0, 256, (700, n_bytes), dtype=np.uint8) & used
    codes[:, :-1] &= rng.integers(0, 2, n_bytes - 1, dtype=np.uint8) * 255 if bits == 32 else 255  # masses of ties
    codes[100:400] = codes[5]
    queries = np.concatenate([codes[[5, 150, 699]], rng.integers(0, 256, (30, n_bytes), dtype=np.uint8) & used])
    distances = brute_hamming(queries, codes)
    with make_index(tmp_path / "i.rsr", code_records(codes, bits)) as index:
        for k in (1, 20, 250, 699, 700, 2000):
            together = index.search(queries, k)
            assert [rows.tolist() for _, rows in together] == ranking(distances, k)
            for (near, rows), all_ in zip(together, distances, strict=True):
                assert near.tolist() == all_[rows].tolist()
            alone = [index.search(query[None], k)[0] for query in queries]
            assert [rows.tolist() for _, rows in alone] == [rows.tolist() for _, rows in together]


@pytest.mark.parametrize("metric", ["l1", "l2", "dot"])
def test_embeddings_rank_as_brute_force_with_ties(tmp_path, metric):
    rng = np.random.default_rng(3)
    # Integers: every distance is exact in any precision, so a tie is a tie for every way to compute it.
    rows = rng.integers(-3, 4, (900, 24)).astype(np.float32)
    rows[200:500] = rows[7]
    queries = np.concatenate([rows[[7, 300]], rng.integers(-3, 4, (40, 24)).astype(np.float32)])
    distances = brute(metric, queries, rows)
    with make_index(tmp_path / "i.rsr", embedding_records(rows), metric) as index:
        for k in (1, 20, 333, 900):
            found = index.search(queries, k)
            assert [hit_rows.tolist() for _, hit_rows in found] == ranking(distances, k)
            np.testing.assert_allclose(
                np.stack([near for near, _ in found]), np.sort(distances, axis=1)[:, :k].astype(float), rtol=1e-12
            )


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine", "dot"])
@pytest.mark.usefixtures("threads")
def test_nearly_equal_embeddings_rank_as_in_exact_arithmetic(tmp_path, metric):
    """Differences far below float32's rounding of a distance: faiss alone gets their order wrong."""
    rng = np.random.default_rng(11)
    base = rng.standard_normal(768).astype(np.float32) * 30
    rows = np.tile(base, (600, 1))
    rows[np.arange(600), rng.integers(0, 768, 600)] += rng.standard_normal(600).astype(np.float32) * 1e-4
    queries = rng.standard_normal((25, 768)).astype(np.float32)
    with make_index(tmp_path / "i.rsr", embedding_records(rows), metric) as index:
        stored = np.stack([index.vector(i) for i in range(600)])
        distances = brute(metric, queries, stored).astype(np.float64)
        for k in (1, 20):
            together = index.search(queries, k)
            alone = [index.search(query[None], k)[0] for query in queries]
            for (near, hits), (near_alone, hits_alone), exact in zip(together, alone, distances, strict=True):
                assert hits.tolist() == hits_alone.tolist()
                assert near.tolist() == near_alone.tolist()
                # only float64's own rounding, of a cosine before it is taken from 1, may part ours from the exact order
                np.testing.assert_allclose(exact[hits], np.sort(exact)[:k], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine", "dot"])
@pytest.mark.parametrize("rounding", [0.01, 0.05])
def test_embeddings_so_long_that_no_error_has_a_bound_are_all_measured(monkeypatch, metric, rounding):
    monkeypatch.setattr(flat, "FLOAT32_ROUNDING", rounding)
    vectors = np.random.default_rng(5).standard_normal((200, 47)).astype(np.float32)
    vectors[0] = 0
    stored = flat.unit(vectors) if metric == "cosine" else vectors
    found = flat.Flat(stored, metric, 12.0).search(vectors[:9], 5)
    with np.errstate(invalid="ignore"):
        distances = np.nan_to_num(brute(metric, vectors[:9], stored), nan=1).astype(np.float64)
    assert [rows.tolist() for _, rows in found] == ranking(np.round(distances, 6), 5)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine", "dot"])
@pytest.mark.parametrize("size", [1e-19, 1e-22, 1e-25, 1e-40])
def test_embeddings_whose_products_float32_cannot_hold_rank_as_in_exact_arithmetic(tmp_path, metric, size):
    """Products and squares underflow, of every row or of most; at 1e-40, embeddings are subnormal themselves."""
    rng = np.random.default_rng(4)
    rows = (rng.standard_normal((400, 16)) * size).astype(np.float32)
    rows[::2] *= np.float32(1e-3)
    rows[7] = 0
    queries = (rng.standard_normal((10, 16)) * size).astype(np.float32)
    with make_index(tmp_path / "i.rsr", embedding_records(rows), metric) as index:
        stored = np.stack([index.vector(i) for i in range(400)])
        with np.errstate(invalid="ignore"):
            distances = np.nan_to_num(brute(metric, queries, stored), nan=1).astype(np.float64)
        for (near, hits), exact in zip(index.search(queries, 20), distances, strict=True):
            least = 2.0**-23 if metric == "cosine" else 0  # queries of unit length are rounded to float32
            np.testing.assert_allclose(exact[hits], np.sort(exact)[:20], rtol=1e-13, atol=least)
            np.testing.assert_allclose(near, exact[hits], rtol=1e-13, atol=least)
            assert (near != 0).all()


def test_a_dot_product_of_zero_has_no_sign(tmp_path):
    rows = np.array([[0, 1], [1e-30, 0], [-1e-30, 0]], np.float32)
    with make_index(tmp_path / "i.rsr", embedding_records(rows), "dot") as index:
        ((near, hits),) = index.search(np.array([[1e-30, 0]], np.float32), 5)
    assert hits.tolist() == [1, 0, 2]
    assert near.tolist() == pytest.approx([-1e-60, 0, 1e-60], rel=1e-6, abs=0)
    assert np.signbit(near).tolist() == [True, False, False]


def test_cosine_is_one_minus_the_cosine(tmp_path):
    rows = np.array([[3, 4], [4, 3], [-3, -4], [0, 0], [30, 40]], np.float32)
    with make_index(tmp_path / "i.rsr", embedding_records(rows), "cosine") as index:
        ((near, hits),) = index.search(np.array([[6, 8]], np.float32), 5)
        assert hits.tolist() == [0, 4, 1, 3, 2]
        np.testing.assert_allclose(near, [0, 0, 1 - 24 / 25, 1, 2], atol=1e-6)


def test_small_cosine_distances_have_small_errors(tmp_path):
    """One minus the cosine of float64 has few digits of them, or none."""
    rng = np.random.default_rng(7)
    rows = np.tile(rng.standard_normal(64).astype(np.float32), (100, 1))
    rows += rng.standard_normal((100, 64)).astype(np.float32) * np.float32(1e-5)
    with make_index(tmp_path / "i.rsr", embedding_records(rows), "cosine") as index:
        stored = np.stack([index.vector(row) for row in range(100)])
        distances = brute("cosine", stored[:1], stored).astype(np.float64)
        ((near, hits),) = index.search(stored[:1], 100)
    assert 0 < near[1] < near[-1] < 1e-8
    np.testing.assert_allclose(near[1:], distances[0][hits[1:]], rtol=1e-7)


@pytest.mark.parametrize("metric", ["hamming", "l1", "l2", "dot"])
@pytest.mark.parametrize("k", [None, 10])
def test_radius_is_a_closed_ball(tmp_path, metric, k):
    rng = np.random.default_rng(5)
    if metric == "hamming":
        rows = rng.integers(0, 256, (1500, 4), dtype=np.uint8)
        index = make_index(tmp_path / "i.rsr", code_records(rows, 32))
        distances = brute_hamming(rows[:20], rows)
    else:
        rows = rng.integers(-2, 3, (1500, 12)).astype(np.float32)
        index = make_index(tmp_path / "i.rsr", embedding_records(rows), metric)
        distances = brute(metric, rows[:20], rows).astype(np.float64)
    with index:
        for radius in (float(np.sort(distances[0])[3]), float(np.median(distances)), float(distances.min()) - 1, 1e9):
            expected = [
                [i for i in row if all_[i] <= radius]
                for row, all_ in zip(ranking(distances, 1500), distances, strict=True)
            ]
            found = [hits.tolist() for _, hits in index.search(rows[:20], k, radius)]
            assert found == [hits[:k] for hits in expected]


@pytest.mark.parametrize("kind", ["code", "l1", "l2", "dot"])
def test_vectors_are_a_numpy_array_that_faiss_ranks_alike(tmp_path, kind):
    rng = np.random.default_rng(1)
    if kind == "code":
        rows = rng.integers(0, 256, (777, 96), dtype=np.uint8)
        index = make_index(tmp_path / "i.rsr", code_records(rows, 768))
        theirs = faiss.IndexBinaryFlat(768)
    else:
        rows = rng.standard_normal((777, 40)).astype(np.float32)
        index = make_index(tmp_path / "i.rsr", embedding_records(rows), kind)
        metrics = {"l1": faiss.METRIC_L1, "l2": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT}
        theirs = faiss.IndexFlat(40, metrics[kind])
    stored = np.load(tmp_path / "i.rsr" / "segments" / "000001" / "vectors.npy")
    assert stored.dtype == rows.dtype
    np.testing.assert_array_equal(stored, rows)
    theirs.add(stored)
    with index:
        found = [hits.tolist() for _, hits in index.search(rows[:50], 20)]
    assert found == theirs.search(rows[:50], 20)[1].tolist()


def test_long_and_short_embeddings(tmp_path):
    """Squares that float32 cannot hold: cosine does not care, l2 and dot refuse."""
    directions = np.random.default_rng(2).standard_normal((20, 8))
    for size in (1e25, 1e-25):
        rows = (directions * size).astype(np.float32)
        with make_index(tmp_path / f"{size}.rsr", embedding_records(rows), "cosine") as index:
            found = index.search(rows, 3)
            assert [hits[0] for _, hits in found] == list(range(20))
            np.testing.assert_allclose([near[0] for near, _ in found], 0, atol=1e-12)
    for metric in ("l1", "l2", "dot"):
        with pytest.raises(RecordError, match="too long for float32"):
            make_index(tmp_path / "x.rsr", embedding_records((directions * 1e25).astype(np.float32)), metric)
    assert not (tmp_path / "x.rsr").exists()


# Sums of distances, and distances of some rows -----------------------------------------------------------------------


@pytest.mark.parametrize("bits", [96, 100])
@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_weighted_sums_rank_as_brute_force_with_ties(monkeypatch, bits, block):
    monkeypatch.setattr(flat, "COMPARED_ROWS", block)
    rng = np.random.default_rng(bits)
    used = np.packbits(np.arange(8 * -(-bits // 8)) < bits)
    codes = rng.integers(0, 256, (200, len(used)), dtype=np.uint8) & used
    codes[50:120] = codes[3]  # ties
    weights, left_out = np.array([6, 6, -3, 0]), np.array([3, 4, 55, 199])
    sums = weights @ brute_hamming(codes[:4], codes) / 7
    for out in (np.empty(0, np.int64), left_out):
        searched = flat.Flat(codes, "hamming", 0, Kept.where(~np.isin(np.arange(200), out)), first=1000)
        may = [row for row in ranking(sums[None], 200)[0] if row not in out]
        for k in (None, 1, 20, 75, 200, 300):
            for radius in (None, float(np.median(sums)), float(sums.min()), -1e9):
                near, rows = searched.combined(codes[:4], weights, 7, k, radius)
                expected = [row for row in may if radius is None or sums[row] <= radius][:k]
                assert (rows - 1000).tolist() == expected
                assert near.tolist() == sums[expected].tolist()


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine", "dot", "hamming"])
def test_measured_distances_are_those_that_a_search_returns(metric):
    rng = np.random.default_rng(6)
    vectors = rng.standard_normal((300, 40)).astype(np.float32)
    if metric == "cosine":
        vectors = flat.unit(vectors)
    if metric == "hamming":
        vectors = rng.integers(0, 256, (300, 16), dtype=np.uint8)
    searched = flat.Flat(vectors, metric, 100.0)
    queries = vectors[:3] * 2
    for number, (near, rows) in enumerate(searched.search(queries, 300)):
        assert searched.measure(queries, rows)[number].tolist() == near.tolist()
    assert searched.measure(queries, np.empty(0, np.int64)).shape == (3, 0)


# Some of the rows, in parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["hamming", "l1", "l2", "dot"])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.05, 0.3, 0.9, 1.0])
def test_rows_that_are_kept_rank_as_brute_force_whatever_their_share(monkeypatch, metric, share):
    monkeypatch.setattr(flat, "COPIED_BYTES", 640)  # many pieces
    monkeypatch.setattr(flat, "COPIED_PER_HIT", 1)
    rng = np.random.default_rng(int(1000 * share))
    vectors = rng.integers(0, 4, (3000, 8), dtype=np.uint8)
    vectors = vectors if metric == "hamming" else vectors.astype(np.float32)
    queries = vectors[:5]
    kept = rng.random(3000) < share
    near = (vectors[:, None] != queries).any(2).sum(1).argsort(kind="stable")[:100]
    for mask in (kept, kept & ~np.isin(np.arange(3000), near)):  # the second without the nearest rows
        chosen = mask.nonzero()[0]
        searched = flat.Flat(vectors, metric, 100.0, Kept.where(mask), first=10)
        if not len(chosen):
            assert [len(rows) for _, rows in searched.search(queries, 20)] == [0] * 5
            continue
        alone = flat.Flat(vectors[chosen], metric, 100.0)
        for k, radius in ((1, None), (20, None), (None, 3.0), (40, 3.0), (5000, None)):
            for (far, rows), (exact, numbers) in zip(
                searched.search(queries, k, radius), alone.search(queries, k, radius), strict=True
            ):
                assert (rows - 10).tolist() == chosen[numbers].tolist()
                assert far.tolist() == exact.tolist()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n_queries", [1, 2, 7])
@pytest.mark.parametrize("sizes", [{"PART_BYTES": 100}, {"FEW_BYTES": 10, "TOGETHER_BYTES": 1800}])
def test_parts_and_threads_do_not_change_a_ranking(monkeypatch, threads, n_queries, sizes):
    monkeypatch.setattr(flat.faiss, "omp_get_max_threads", lambda: threads)
    for name, value in sizes.items():
        monkeypatch.setattr(flat, name, value)
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 3, (500, 8), dtype=np.uint8)
    kept = rng.random(500) < 0.5
    whole = flat.Flat(vectors, "hamming", 0, Kept.where(kept))
    firsts = [0, 3, 200, 201, 500]
    parts = [whole.part(slice(*ends)) for ends in pairwise(firsts)]
    for k, radius in ((1, None), (30, None), (None, 6.0), (None, None)):
        search = searching(vectors[:n_queries], radius)
        found = flat.nearest(parts, search, n_queries, k)
        for (far, rows), (exact, numbers) in zip(found, whole.search(vectors[:n_queries], k, radius), strict=True):
            assert rows.tolist() == numbers.tolist()
            assert far.tolist() == exact.tolist()


def test_arrays_are_searched_together_where_little_is_to_do_in_each():
    """Each is once in the tasks, in its order: several small ones of codes in one, a large one in parts."""
    counts = [10, 20_000, 10, 5_000_000, 10, 10]  # codes of 8 bytes
    vectors = np.zeros((sum(counts), 8), np.uint8)
    ends = np.cumsum([0, *counts])
    arrays = [flat.Flat(vectors[start:end], "hamming", 0, None, int(start)) for start, end in pairwise(ends)]

    def sizes(*arguments) -> list[list[int]]:
        return [[len(part.vectors) for part in parts] for parts in flat._tasks(*arguments)]

    assert sizes(arrays, 2, 20) == [[10, 20_000, 10], [2_500_000], [2_500_000, 10, 10]]
    assert sizes(arrays, 1, 20) == [counts]
    assert sizes(arrays, 2, 1000) == [[10], [20_000], [10], [2_500_000], [2_500_000], [10], [10]]
    medium = [flat.Flat(vectors[:400_000], "hamming", 0) for _ in range(8)]  # of 3.2 MB, 12.8 MB for each of 2 threads
    assert sizes(medium, 2, 20) == [[400_000] * 4, [400_000] * 4]
    assert sizes(medium, 2, None) == [[400_000]] * 8


def searching(queries, radius=None):
    return lambda part, some, k: part.search(queries[some], k, radius)


@pytest.fixture
def _as_if_there_were_many_rows(monkeypatch):
    monkeypatch.setattr(flat, "COPY", 1e9)
    monkeypatch.setattr(flat, "SPARE_CANDIDATES", 2)
    for name, value in {"BLOCK_ROWS": 64, "RUNS": 8, "RUN_ROWS": 4, "COUNTED": 1}.items():
        monkeypatch.setattr(kept_module, name, value)


@pytest.mark.usefixtures("_as_if_there_were_many_rows")
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("metric", ["hamming", "l2", "cosine"])
@pytest.mark.parametrize("case", ["random", "far", "near", "late"])
def test_testing_what_is_found_finds_what_testing_all_rows_finds(metric, case, slow):
    """Of rows at random, of those that are far from the queries or near them, and of the last ones."""
    rng = np.random.default_rng(1)
    vectors = rng.integers(0, 4, (3000, 8), dtype=np.uint8)
    vectors = vectors if metric == "hamming" else vectors.astype(np.float32)
    vectors = flat.unit(vectors) if metric == "cosine" else vectors
    near = flat.Flat(vectors, metric, 100.0).measure(vectors[:5], np.arange(3000)).min(axis=0)
    order = {"random": rng.permutation(3000), "far": (-near).argsort(), "near": near.argsort()}
    for count in (0, 1, 15, 300, 1500, 3000):
        may = np.zeros(3000, bool)
        may[order.get(case, np.arange(3000)[::-1])[:count]] = True
        parts = [
            flat.Flat(
                vectors[rows], metric, 100.0, Kept(len(may[rows]), may[rows].__getitem__, slow=slow), 7 + rows.start
            )
            for rows in (slice(0, 1000), slice(1000, 1001), slice(1001, 3000))
        ]
        chosen = may.nonzero()[0]
        alone = flat.Flat(vectors[chosen], metric, 100.0)
        for k, radius in ((1, None), (20, None), (None, 1.0), (40, 1.0), (700, None), (5000, None)):
            if not count:
                assert not any(len(rows) for _, rows in flat.nearest(parts, searching(vectors[:5], radius), 5, k))
                continue
            for (far, rows), (exact, numbers) in zip(
                flat.nearest(parts, searching(vectors[:5], radius), 5, k),
                alone.search(vectors[:5], k, radius),
                strict=True,
            ):
                assert (rows - 7).tolist() == chosen[numbers].tolist()
                assert far.tolist() == exact.tolist()


@pytest.mark.parametrize("share", [0.003, 0.05, 0.3, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("k", [1, 5, 20, 100, 1000])
def test_rows_to_search_for_hold_enough_that_may_be_hits(k, share):
    """Of as many rows fewer than k may be hits in less than one case of 50, and twice as many are not needed."""
    rows = flat.rows_for(k, share)
    assert stats.binom.cdf(k - 1, rows, share) < 0.02
    assert rows <= 2 * (stats.nbinom.ppf(0.98, k, share) + k) + 8


def ranked(codes, query, may, k) -> tuple[list, list]:
    """Rank by brute force: rows and distances."""
    near = np.bitwise_count(codes ^ query).sum(axis=1, dtype=int)
    order = np.lexsort((np.arange(len(codes)), near))
    rows = order[may[order]][:k]
    return rows.tolist(), near[rows].tolist()


@pytest.mark.parametrize(("share", "slow"), [(0.5, False), (0.2, False), (0.5, True), (0.02, True)])
def test_where_many_rows_may_be_hits_few_are_tested(share, slow):
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 256, (100_000, 96), dtype=np.uint8)
    may = rng.random(100_000) < share
    kept = Kept(100_000, may.__getitem__, slow=slow)
    ((far, rows),) = flat.nearest([flat.Flat(codes, "hamming", 0, kept)], searching(codes[:1]), 1, 10)
    assert (rows.tolist(), far.tolist()) == ranked(codes, codes[0], may, 10)
    assert 100_000 - kept.untested < 1024 + 40 / share + 40


@pytest.mark.parametrize(
    ("rows", "share", "slow", "queries", "k"),
    [
        (100_000, 0.001, False, 1, 10),  # few may be hits
        (100_000, 0.2, False, 100, 10),  # copied once for many queries
        (30_000, 0.2, True, 1000, 10),  # reading for many queries is reading all
        (30_000, 0.5, True, 1, 25_000),
    ],
)
def test_where_that_is_less_work_all_rows_are_tested_once(rows, share, slow, queries, k):
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 256, (rows, 96), dtype=np.uint8)
    may = rng.random(rows) < share
    kept = Kept(rows, may.__getitem__, slow=slow)
    searches = []

    def search(part, some, width):
        searches.append(part.kept)
        return part.search(codes[some], width)

    found = flat.nearest([flat.Flat(codes, "hamming", 0, kept)], search, queries, k)
    assert (found[-1][1].tolist(), found[-1][0].tolist()) == ranked(codes, codes[queries - 1], may, k)
    assert kept.untested == 0
    assert None not in searches


def test_few_deletions_among_many_hits_copy_nothing():
    codes = np.random.default_rng(5).integers(0, 256, (100_000, 96), dtype=np.uint8)
    may = np.arange(100_000) != 7
    searched = []

    def search(part, some, width):
        searched.append((part.kept, width))
        return part.search(codes[some], width)

    found = flat.nearest([flat.Flat(codes, "hamming", 0, Kept.where(may))], search, 20, 2_000)
    assert (found[7][1].tolist(), found[7][0].tolist()) == ranked(codes, codes[7], may, 2_000)
    assert searched[0][0] is None
    assert searched[0][1] < 2_050
    assert len(searched) == 1


def test_candidates_of_many_segments_fit_in_memory(monkeypatch):
    monkeypatch.setattr(flat, "COPY", 1e9)
    monkeypatch.setattr(flat, "CANDIDATES", 1000)
    codes = np.random.default_rng(6).integers(0, 256, (4_000, 8), dtype=np.uint8)
    may = np.arange(4_000) % 2 == 0
    parts = [flat.Flat(codes[i : i + 40], "hamming", 0, Kept.where(may[i : i + 40]), i) for i in range(0, 4_000, 40)]
    together = []

    def search(part, some, width):
        together.append(len(some) * min(width, 40))
        return part.search(codes[some], width)

    found = flat.nearest(parts, search, 10, 5)
    assert [rows.tolist() for _, rows in found] == [ranked(codes, code, may, 5)[0] for code in codes[:10]]
    assert max(together) * len(parts) <= 4_000  # of one query, that is as many as there are
