"""A shortlist of codes that is ranked again, against distances computed in numpy over all rows."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
import support
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import batches, binarized, embedding, embedding_records, feature, make_index, weighted_distances

from rsr_cli.core.codes.registry import binarizer_class
from rsr_cli.core.errors import RecordError, Skips, UsageError
from rsr_cli.core.index.kept import Kept
from rsr_cli.core.records.space import Space
from rsr_cli.core.search.ask import Searcher
from rsr_cli.core.search.diversity import Diversity
from rsr_cli.core.search.scope import Scope

N, DIM = 60, 12
METRICS = ["l1", "l2", "cosine", "dot"]
DTYPES = ["int8", "float16", "float32"]
#: Rows of each segment, and rows that are deleted.
SEGMENTS, DELETED = (range(25), range(25, 26), range(26, N)), {3, 25, 40, 41}
LIVE = np.array([row for row in range(N) if row not in DELETED])


def drawn() -> np.ndarray:
    """Draw embeddings of whole numbers, some of them the same, so that distances tie; and one of zeros."""
    vectors = np.random.default_rng(3).integers(-4, 5, (N, DIM)).astype(np.float32)
    vectors[30:38] = vectors[7]
    vectors[50] = 0
    return vectors


VECTORS = drawn()


def grown(path, metric=None, refine=None, method="sign", bits=None):
    """Build an index of several segments with deleted rows."""
    records = binarized(embedding_records(VECTORS), method, bits, keep_embedding=True)
    return support.grown(path, records, SEGMENTS, DELETED, metric, refine)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("i")
    found = {(m, d): grown(folder / f"{m}-{d}.rsr", m, d) for m in METRICS for d in DTYPES}
    found[None] = grown(folder / "codes.rsr")
    found["lsh"] = grown(folder / "lsh.rsr", None, None, "lsh", 20)
    yield found
    for index in found.values():
        index.__exit__()


def stored(metric: str, dtype: str, vectors: np.ndarray = VECTORS) -> np.ndarray:
    """Return what embeddings are once they are stored: float64 (n, dim)."""
    wide = vectors.astype(float)
    if metric == "cosine":
        wide = (wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)).astype(np.float32).astype(float)
    if dtype != "int8":
        return wide.astype(dtype).astype(float)
    digits, powers = np.frexp(np.abs(wide).max(axis=1, keepdims=True) / 127)
    scales = np.ldexp(np.floor(digits * 2**17) / 2**17, powers)
    return np.round(wide / np.where(scales > 0, scales, 1)) * scales


def measured(metric: str, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Measure from one query to all rows in float64."""
    if metric == "l1":
        return np.abs(rows - query).sum(axis=1)
    if metric == "l2":
        return np.sqrt(((rows - query) ** 2).sum(axis=1))
    if metric == "dot":
        return -(rows @ query)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    return np.maximum(0, 1 - rows @ query / np.where(lengths > 0, lengths, 1))


def shortlist(query: np.ndarray, n: int, out=()) -> np.ndarray:
    """Return the n rows whose signs are nearest to a query's, by (distance, row)."""
    bits = ((VECTORS > 0) != (query > 0)).sum(axis=1)
    return np.array([row for _, row in sorted((bits[row], row) for row in LIVE if row not in out)][:n], int)


def agree(hits: list[dict], rows: np.ndarray, distances: np.ndarray, k, radius) -> None:
    """Compare hits with the rows of a shortlist and the distances to all rows.

    Rows are those of the oracle, but for those whose distances differ by less than the rounding of a sum.
    """
    order = sorted(rows.tolist(), key=lambda row: (distances[row], row))
    order = [row for row in order if radius is None or distances[row] <= radius][:k]
    got = np.array([hit["properties"]["distance"] for hit in hits])
    np.testing.assert_allclose(got, distances[order], rtol=1e-6, atol=1e-6)
    ids = [int(hit["id"][1:]) for hit in hits]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(rows.tolist())
    np.testing.assert_allclose(distances[ids], got, rtol=1e-6, atol=1e-6)
    assert all(a < b for a, b, same in zip(ids, ids[1:], got[:-1] == got[1:], strict=False) if same)


def asked(
    index, queries: np.ndarray, k=None, radius=None, rerank=N, size=300, kept=None, **settings
) -> list[list[dict]]:
    searcher = Searcher(Scope(index, radius, kept, rerank=rerank), k, exclude_self=False, skips=Skips(), **settings)
    read = batches([feature(f"q{i}", embedding=embedding(q)) for i, q in enumerate(queries)], ("embedding",), size=size)
    return [[orjson.loads(line) for line in lines] for lines in searcher.by_record(read)]


queries = st.lists(st.integers(-5, 5), min_size=DIM, max_size=DIM).map(lambda values: np.array(values, np.float32))


@settings(max_examples=250, deadline=None)
@given(
    metric=st.sampled_from(METRICS),
    dtype=st.sampled_from(DTYPES),
    query=queries,
    n=st.integers(1, N + 5),
    k=st.none() | st.integers(1, N),
    radius=st.none() | st.sampled_from([0.3, 5.0, 12.0]),
    kept=st.none() | st.sets(st.integers(0, N - 1)),
)
def test_hits_are_those_of_a_brute_force_search(indexes, metric, dtype, query, n, k, radius, kept):
    index, distances = indexes[metric, dtype], measured(metric, query, stored(metric, dtype))
    assume(radius is None or (np.abs(distances - radius) > 1e-6).all())
    out, masks = set(), None
    if kept is not None:
        out = set(range(N)) - kept
        masks = [
            Kept.where(np.isin(np.arange(s.first, s.first + s.count), [*kept.intersection(LIVE)]))
            for s in index.segments
        ]
    (hits,) = asked(index, query[None], k, radius, n, kept=masks)
    agree(hits, shortlist(query, n, out), distances, k, radius)


@settings(max_examples=150, deadline=None)
@given(query=queries, n=st.integers(1, N), k=st.integers(1, N), radius=st.none() | st.sampled_from([2.0, 4.7]))
def test_without_embeddings_bits_count_by_their_values(indexes, query, n, k, radius):
    distances = weighted_distances(query, VECTORS > 0)
    (hits,) = asked(indexes[None], query[None], k, radius, n)
    order = sorted(shortlist(query, n).tolist(), key=lambda row: (distances[row], row))
    order = [row for row in order if radius is None or distances[row] <= radius][:k]
    assert [hit["id"] for hit in hits] == [f"t{row}" for row in order]
    assert [hit["properties"]["distance"] for hit in hits] == distances[order].tolist()


def test_values_of_one_size_are_hammings_distance(indexes):
    query = np.where(np.arange(DIM) % 3, 2.5, -2.5).astype(np.float32)
    (hits,) = asked(indexes[None], query[None], 9)
    bits = ((VECTORS > 0) != (query > 0)).sum(axis=1)
    nearest = shortlist(query, 9)
    assert [hit["id"] for hit in hits] == [f"t{row}" for row in nearest]
    assert [hit["properties"]["distance"] for hit in hits] == bits[nearest].tolist()


def test_weights_of_other_methods_are_of_the_values_behind_their_bits(indexes):
    query = np.random.default_rng(4).standard_normal(DIM).astype(np.float32)
    planes = np.random.RandomState(42).randn(20, DIM)
    values = planes @ query.astype(float)
    distances = weighted_distances(values, (planes @ VECTORS.T.astype(float)).T > 0)
    (hits,) = asked(indexes["lsh"], query[None], 10)
    found = [int(hit["id"][1:]) for hit in hits]
    nearest = np.sort(distances[LIVE])[:10]
    np.testing.assert_allclose([hit["properties"]["distance"] for hit in hits], nearest, atol=1e-4)
    np.testing.assert_allclose(distances[found], nearest, atol=1e-4)


@pytest.mark.parametrize("method", ["sign", "rotated", "trivial", "lsh"])
def test_bits_are_the_signs_of_values(method):
    vectors = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    made = binarizer_class(method)(Space("embedding", 24, "float32", "emb"), None if method == "sign" else 12)
    assert np.array_equal(made(vectors), np.packbits(made.values(vectors) > 0, axis=1))


@pytest.mark.parametrize("metric", METRICS)
def test_all_rows_ranked_again_by_float32_are_the_hits_of_an_index_of_embeddings(tmp_path, metric):
    """Bit for bit, if the shortlist has every row."""
    vectors = np.random.default_rng(5).standard_normal((200, 40)).astype(np.float32)
    vectors[90:99] = vectors[1]
    asks = np.random.default_rng(6).standard_normal((7, 40)).astype(np.float32)
    both = binarized(embedding_records(vectors), keep_embedding=True)
    with (
        make_index(tmp_path / "floats.rsr", embedding_records(vectors), metric) as floats,
        make_index(tmp_path / "codes.rsr", both, metric, refine="float32") as codes,
    ):
        assert (floats.manifest.metric, codes.manifest.metric) == (metric, "hamming")
        assert asked(codes, asks, 30, rerank=200) == asked(floats, asks, 30, rerank=None)


@pytest.mark.parametrize("kind", [("l1", "int8"), ("cosine", "float16"), None, "lsh"])
def test_the_same_hits_whatever_the_batch(indexes, kind):
    asks = np.random.default_rng(8).standard_normal((40, DIM)).astype(np.float32)
    assert asked(indexes[kind], asks, 10, rerank=25, size=1) == asked(indexes[kind], asks, 10, rerank=25, size=40)


def item(index, name, rerank, *, exclude_self=False) -> list[dict]:
    searcher = Searcher(Scope(index, rerank=rerank), 10, exclude_self=exclude_self, skips=Skips())
    (lines,) = searcher.by_item(searcher.queries.ids([name]))
    return [orjson.loads(line) for line in lines]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_item_asks_with_its_stored_embedding(indexes, dtype):
    rows = stored("l1", dtype)
    hits = item(indexes["l1", dtype], "t7", rerank=20)
    agree(hits, shortlist(VECTORS[7], 20), measured("l1", rows[7], rows), 10, None)
    assert (hits[0]["id"], hits[0]["properties"]["distance"]) == ("t7", 0)
    others = item(indexes["l1", dtype], "t7", rerank=20, exclude_self=True)
    agree(others, shortlist(VECTORS[7], 20, {7}), measured("l1", rows[7], rows), 10, None)


def test_an_item_without_a_stored_embedding_cannot_ask(indexes):
    with pytest.raises(UsageError, match="stores no embeddings of its items beside their codes") as caught:
        item(indexes[None], "t7", rerank=20)
    assert caught.value.remedy == "refine"


def test_codes_cannot_be_ranked_again(indexes):
    searcher = Searcher(Scope(indexes["l1", "int8"], rerank=20), 5, exclude_self=False, skips=Skips())
    (record,) = binarized(embedding_records(VECTORS[:1]))
    with pytest.raises(RecordError, match="has a code and no embedding: it was binarized already"):
        list(searcher.by_record(batches([record], searcher.queries.kinds)))


def test_an_index_of_embeddings_has_nothing_to_rank_again(tmp_path):
    index = make_index(tmp_path / "x.rsr", embedding_records(VECTORS), "l1")
    with index, pytest.raises(UsageError, match="compares embeddings, exactly: there are no codes to rank again"):
        Searcher(Scope(index, rerank=20), 5, exclude_self=False, skips=Skips())


def test_an_index_without_rows_has_no_hits(tmp_path):
    with make_index(tmp_path / "x.rsr", [], allow_empty=True) as index:
        assert asked(index, VECTORS[:2], 5, rerank=20) == [[], []]


def test_hits_that_differ_are_of_the_shortlist(tmp_path, caplog):
    """Three scenes of twenty tiles: the nearest of each, by the embeddings, among the fifteen nearest codes."""
    records = binarized(embedding_records(VECTORS), keep_embedding=True)
    for i, record in enumerate(records):
        record["id"] = f"s{i % 3}_{i}_0"
    with make_index(tmp_path / "x.rsr", records, "l1", refine="float32") as index:
        (hits,) = asked(index, VECTORS[:1], 5, rerank=15, diversity=Diversity(per_scene=1))
    bits = ((VECTORS > 0) != (VECTORS[0] > 0)).sum(axis=1)
    nearest = sorted(range(N), key=lambda row: (bits[row], row))[:15]
    distances = measured("l1", VECTORS[0], VECTORS)
    best = [min((distances[row], row) for row in nearest if row % 3 == scene) for scene in {row % 3 for row in nearest}]
    assert [hit["id"] for hit in hits] == [f"s{row % 3}_{row}_0" for _, row in sorted(best)]
    assert caplog.messages == ["hits are among the 15 codes that are ranked again: there may be more beyond these"]


@pytest.mark.parametrize(
    ("n", "k", "radius", "more"),
    [(15, 5, None, False), (15, None, 1e9, True), (15, 10, 0.0, True), (15, 15, 1e9, False), (N, None, 0.0, False)],
)
def test_a_shortlist_that_may_leave_hits_out_is_warned_about(indexes, caplog, n, k, radius, more):
    asked(indexes["l1", "float32"], VECTORS[:2], k, radius, rerank=n)
    says = "hits are among the 15 codes that are ranked again: there may be more beyond these"
    assert caplog.messages == [says] * more


def test_a_shortlist_is_that_of_the_partitions_that_are_searched(tmp_path):
    """All of them, and of more than was measured, have the shortlist of an exact search."""
    vectors = np.random.default_rng(9).standard_normal((600, 16)).astype(np.float32)
    records = binarized(embedding_records(vectors), keep_embedding=True)
    with make_index(tmp_path / "x.rsr", records, "l2", refine="int8", partitions=6) as index:

        def hits(rerank=50, k=5, radius=None, **limits):
            scope = Scope(index, radius, rerank=rerank, **limits)
            searcher = Searcher(scope, k, exclude_self=False, skips=Skips())
            read = batches(embedding_records(vectors[:30] + 0.1), ("embedding",))
            return [[orjson.loads(line) for line in lines] for lines in searcher.by_record(read)]

        exact = hits()
        assert hits(probe=6) == exact
        assert hits(300, recall=0.9) == hits(300)  # as the recall of 300 hits was not measured
        some = hits(probe=1)
        assert some != exact
        all_some, all_exact = (hits(k=None, **limits) for limits in ({"probe": 1}, {}))
        assert {len(each) for each in all_exact} == {50}
        assert {len(each) for each in all_some} <= set(range(1, 51))
        near = hits(k=None, radius=4.5, probe=6)
        assert near == [[hit for hit in each if hit["properties"]["distance"] <= 4.5] for each in all_exact]


sides = st.lists(st.sampled_from(LIVE.tolist()), max_size=4, unique=True)


@settings(max_examples=150, deadline=None)
@given(
    metric=st.sampled_from(METRICS),
    dtype=st.sampled_from(DTYPES),
    likes=sides.filter(bool),
    unlikes=sides,
    combine=st.sampled_from(["mean", "best"]),
    n=st.integers(1, N),
)
def test_examples_are_ranked_again(indexes, metric, dtype, likes, unlikes, combine, n):
    index, rows = indexes[metric, dtype], stored(metric, dtype)
    bits = ((VECTORS > 0)[:, None] != (VECTORS > 0)[None]).sum(axis=2)
    out = {*likes, *unlikes}
    if combine == "best":
        near = bits[likes].min(axis=0).astype(float)
        distances = np.min([measured(metric, rows[like], rows) for like in likes], axis=0)
        if unlikes:
            others = np.min([measured(metric, rows[unlike], rows) for unlike in unlikes], axis=0)
            assume((np.abs(others - distances)[[row for row in LIVE if row not in out]] > 1e-6).all())
            distances[others < distances] = np.inf
    else:
        near = bits[likes].mean(axis=0)
        units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30) if metric == "cosine" else rows
        query = units[likes].mean(axis=0)
        if unlikes:
            near = 2 * near - bits[unlikes].mean(axis=0)
            query = 2 * query - units[unlikes].mean(axis=0)
        assume(metric not in ("cosine", "dot") or np.linalg.norm(query) > 1e-3)
        distances = measured(metric, query.astype(np.float32).astype(float), rows)
    near = near.round(9)
    nearest = [row for _, row in sorted((near[row], row) for row in LIVE if row not in out)][:n]
    nearest = [row for row in nearest if distances[row] < np.inf]
    searcher = Searcher(Scope(index, rerank=n), 10, exclude_self=False, skips=Skips())
    examples = (searcher.queries.ids([f"t{row}" for row in side]) for side in (likes, unlikes))
    (lines,) = searcher.by_examples(*examples, combine)
    agree([orjson.loads(line) for line in lines], np.array(nearest, int), distances, 10, None)


def test_examples_of_a_stream_weigh_bits_by_their_mean(indexes):
    searcher = Searcher(Scope(indexes[None], rerank=N), 8, exclude_self=False, skips=Skips())
    made = [feature(f"q{i}", embedding=embedding(VECTORS[i])) for i in (1, 2)]
    (lines,) = searcher.by_examples(searcher.queries.records(batches(made, ("embedding",))), [], "mean")
    units = VECTORS[1:3].astype(float) / np.linalg.norm(VECTORS[1:3], axis=1, keepdims=True)
    distances = weighted_distances(units.mean(axis=0), VECTORS > 0)
    got = [orjson.loads(line)["properties"]["distance"] for line in lines]
    np.testing.assert_allclose(got, np.sort(distances[LIVE])[:8], atol=1e-4)


def test_what_orders_the_shortlist_is_logged(indexes, caplog):
    caplog.set_level("INFO", "rsr")
    asked(indexes["l2", "int8"], VECTORS[:1], 5, rerank=7)
    asked(indexes[None], VECTORS[:1], 5, rerank=7)
    assert caplog.messages == [
        "the 7 nearest codes of each query are ranked again, by l2 of embeddings",
        "the 7 nearest codes of each query are ranked again, by weights of their bits, as no embeddings are stored",
    ]
