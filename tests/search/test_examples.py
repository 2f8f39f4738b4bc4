"""Queries of several examples, against distances computed in numpy over all rows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import batches, code_records, embedding, embedding_records, feature, make_index
from support_places import tile_at

from rsr_cli.core.errors import RecordError, RsrError, Skips
from rsr_cli.core.index.manifest import MAX_NORM
from rsr_cli.core.search.ask import Searcher
from rsr_cli.core.search.scope import Scope

N = 70
BITS = 20
METRICS = ["l1", "l2", "cosine", "dot", "hamming"]


def drawn() -> dict[str, np.ndarray]:
    """Draw vectors of each metric: bits and small whole numbers, so that many distances are equal.

    Angles between whole numbers are equal too, but not as floating point computes them: for cosine they are others.
    """
    rng = np.random.default_rng(21)
    bits, whole = rng.integers(0, 2, (N, BITS)), rng.integers(-2, 3, (N, 4)).astype(np.float32)
    bits[20:30], whole[20:30] = bits[4], whole[4]
    return {"hamming": bits, "cosine": rng.standard_normal((N, 4)).astype(np.float32)} | dict.fromkeys(
        ("l1", "l2", "dot"), whole
    )


VALUES = drawn()


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("i"), {}
    for metric in METRICS[:-1]:
        found[metric] = make_index(folder / f"{metric}.rsr", embedding_records(VALUES[metric]), metric)
    packed = np.packbits(VALUES["hamming"], axis=1)
    found["hamming"] = make_index(folder / "codes.rsr", code_records(packed, BITS))
    yield found
    for index in found.values():
        index.__exit__()


def distances(metric, queries) -> np.ndarray:
    """Measure the distances of queries, which may lie between codes, to all rows: float64 (queries, N)."""
    if metric == "hamming":
        return np.abs(np.asarray(queries)[:, None].astype(float) - VALUES["hamming"]).sum(axis=2)
    rows, queries = VALUES[metric].astype(float), np.asarray(queries, float)[:, None]
    if metric == "l1":
        return np.abs(queries - rows).sum(axis=2)
    if metric == "l2":
        return np.linalg.norm(queries - rows, axis=2)
    products = (queries * rows).sum(axis=2)
    if metric == "dot":
        return -products
    lengths = np.linalg.norm(queries, axis=2) * np.linalg.norm(rows, axis=1)
    return np.maximum(0, 1 - products / np.where(lengths > 0, lengths, 1))


def mean(measured) -> np.ndarray:
    """Average whole numbers (m, N) without rounding."""
    return np.array([Fraction(int(total), len(measured)) for total in measured.sum(axis=0)])


def expected(metric, likes, unlikes, combine, k, radius) -> list[tuple[int, float]]:
    """Rank all rows by what docs/design.md states of examples."""
    values = VALUES[metric].astype(float)
    if combine == "best":
        near = distances(metric, values[likes]).min(axis=0)
        if unlikes:
            near[distances(metric, values[unlikes]).min(axis=0) < near] = np.inf
    elif metric == "hamming":
        near = mean(distances(metric, values[likes]))
        if unlikes:
            near = 2 * near - mean(distances(metric, values[unlikes]))
    else:
        if metric == "cosine":
            norms = np.linalg.norm(values, axis=1, keepdims=True)
            values = values / np.where(norms > 0, norms, 1)
        query = values[likes].mean(axis=0)
        if unlikes:
            query = 2 * query - values[unlikes].mean(axis=0)
        assume(metric not in ("cosine", "dot") or np.linalg.norm(query) > 1e-3)
        near = distances(metric, query.astype(np.float32)[None])[0]
    order = sorted((d, i) for i, d in enumerate(near.tolist()) if i not in {*likes, *unlikes})
    within = [(i, float(d)) for d, i in order if d < np.inf and (radius is None or d <= radius)]
    return within[:k]


def found(index, likes, unlikes, combine, k=None, radius=None, **settings) -> list[dict]:
    searcher = Searcher(Scope(index, radius), k, exclude_self=False, skips=Skips(), **settings)
    sides = (searcher.queries.ids([f"t{i}" for i in side]) for side in (likes, unlikes))
    (lines,) = searcher.by_examples(*sides, combine)
    return [orjson.loads(line) for line in lines]


rows = st.lists(st.integers(0, N - 1), max_size=5, unique=True)


@settings(max_examples=250, deadline=None)
@given(
    metric=st.sampled_from(METRICS),
    likes=rows.filter(bool),
    unlikes=rows,
    combine=st.sampled_from(["mean", "best"]),
    k=st.none() | st.integers(1, N),
    radius=st.none() | st.sampled_from([0.25, 2.0, 5.0, 8.0]),
)
def test_hits_are_those_of_a_brute_force_search(indexes, metric, likes, unlikes, combine, k, radius):
    hits = found(indexes[metric], likes, unlikes, combine, k, radius)
    ranked = expected(metric, likes, unlikes, combine, k, radius)
    got = [hit["properties"]["distance"] for hit in hits]
    np.testing.assert_allclose(got, [distance for _, distance in ranked], rtol=1e-6, atol=1e-6)
    if metric == "hamming" or combine == "best":  # elsewhere thirds are not exact, and ties are not ties
        assert [hit["id"] for hit in hits] == [f"t{i}" for i, _ in ranked]
    assert not {hit["id"] for hit in hits} & {f"t{i}" for i in (*likes, *unlikes)}
    assert len({hit["properties"]["query"] for hit in hits}) <= 1


@pytest.mark.parametrize("metric", ["hamming", "l2"])
def test_one_example_searches_the_partitions_that_the_item_does(tmp_path, metric):
    values = np.random.default_rng(3).integers(-9, 9, (300, 16))
    if metric == "hamming":
        records, settings = code_records(np.packbits(values > 0, axis=1), 16), {}
    else:
        records, settings = embedding_records(values.astype(np.float32)), {"metric": metric}
    with make_index(tmp_path / "x.rsr", records, partitions=8, **settings) as index:

        def asked(name, combine=None, **limits):
            searcher = Searcher(Scope(index, **limits), 5, exclude_self=True, skips=Skips())
            items = searcher.queries.ids([name])
            (lines,) = searcher.by_examples(items, [], combine) if combine else searcher.by_item(items)
            return lines

        differing = 0
        for i in range(20):
            one = asked(f"t{i}", probe=1)
            differing += one != asked(f"t{i}")
            for combine in ("mean", "best"):
                assert asked(f"t{i}", combine, probe=1) == one
        assert differing > 5


def test_the_query_is_named_after_its_examples(indexes):
    def name(likes, unlikes=()):
        return found(indexes["l1"], likes, unlikes, "mean", 1)[0]["properties"]["query"]

    assert name([3]) == "t3"
    assert name([3, 12]) == "t3+t12"
    assert name([3, 12], [40, 5]) == "t3+t12-t40-t5"
    long = [name([*range(40)]), name([*range(39), 41]), name([*range(40)], [50])]
    assert len(set(long)) == 3
    assert {len(each) for each in long} == {80}
    assert all(each.startswith("t0+t1+t2+") for each in long)


def test_the_labels_are_those_that_all_that_is_like_has(tmp_path):
    records = embedding_records(VALUES["l1"][:6])
    for record, labels in zip(records, (["a", "b", "c"], ["c", "b"], ["b"], ["d"], None, []), strict=True):
        if labels is not None:
            record["properties"]["labels"] = labels
    with make_index(tmp_path / "x.rsr", records, "l1") as index:

        def labels(*likes):
            return found(index, likes, [], "mean", 1)[0]["properties"].get("query_labels")

        assert labels(0, 1) == ["b", "c"]
        assert labels(0, 1, 2) == ["b"]
        assert labels(0, 3) == labels(0, 4) == labels(5) is None


def test_examples_of_files_and_of_the_index_are_one_query(indexes):
    vectors = VALUES["l1"]
    searcher = Searcher(Scope(indexes["l1"]), 5, exclude_self=False, skips=Skips())
    stream = [feature("t7", embedding=embedding(vectors[7])), feature("stranger", embedding=embedding(vectors[9]))]
    both = [*searcher.queries.ids(["t3"]), *searcher.queries.records(batches(stream))]
    (lines,) = searcher.by_examples(both, [], "mean")
    hits = [orjson.loads(line) for line in lines]
    assert {hit["properties"]["query"] for hit in hits} == {"t3+t7+stranger"}
    near = distances("l1", vectors[[3, 7, 9]].astype(float).mean(axis=0).astype(np.float32)[None])[0]
    order = sorted(((d, i) for i, d in enumerate(near.tolist()) if i not in (3, 7)))[:5]
    assert [hit["id"] for hit in hits] == [f"t{i}" for _, i in order]


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_examples_that_cancel_out_are_an_error(tmp_path, metric):
    records = embedding_records(np.array([[3, 4], [-3, -4], [6, 8], [1, 1]], np.float32))
    with make_index(tmp_path / "x.rsr", records, metric) as index:
        with pytest.raises(RsrError, match="the examples cancel each other out"):
            found(index, [0, 1], [], "mean")
        assert [hit["id"] for hit in found(index, [0, 1], [], "best")] == ["t2", "t3"]
        assert [hit["id"] for hit in found(index, [0, 3], [], "mean")] == ["t2", "t1"]


def test_examples_that_are_too_long_together_are_an_error(tmp_path):
    longest = np.full((1, 1), 0.9 * MAX_NORM, np.float32)
    index = make_index(tmp_path / "x.rsr", embedding_records(np.concatenate([longest, -longest])), "l2")
    with index, pytest.raises(RsrError, match=r"the mean of the examples is \d.* long, too long for float32"):
        found(index, [0], [1], "mean")


def test_without_an_example_there_is_no_query(indexes):
    with pytest.raises(RsrError, match="there is no example of what hits are to be like"):
        found(indexes["l1"], [], [3], "mean")
    searcher = Searcher(Scope(indexes["l1"]), 5, exclude_self=False, skips=Skips(keep_going=True))
    with pytest.raises(RsrError, match="there is no example of what hits are to be like"):
        list(searcher.by_examples(searcher.queries.ids(["nobody"]), [], "mean"))


def test_nothing_left_over_is_told(tmp_path, caplog):
    vectors = np.array([[0], [10], [8], [9], [12]], np.float32)
    with make_index(tmp_path / "x.rsr", embedding_records(vectors), "l1") as index:
        assert found(index, [0], [1], "best", 1) == []
        assert caplog.messages == [
            "all items are nearer to an example that they are to be unlike than to those to be like"
        ]
        caplog.clear()
        assert [hit["id"] for hit in found(index, [1], [0], "best", 2)] == ["t3", "t2"]
        assert found(index, [1], [0], "best", 1, 0.5) == []
        assert caplog.messages == []


def test_the_items_within_a_polygon_are_examples(tmp_path):
    boxes = [(i, 0, i + 1, 1) for i in range(6)]
    vectors = np.arange(6, dtype=np.float32)[:, None]
    records = [tile_at(f"t{i}", box, vector) for i, (box, vector) in enumerate(zip(boxes, vectors, strict=True))]
    from shapely import Polygon

    with make_index(tmp_path / "x.rsr", records, "l1") as index:
        searcher = Searcher(Scope(index), 5, exclude_self=False, skips=Skips())
        field = Polygon([(2.9, 0.2), (5, 0.2), (5, 0.4), (2.9, 0.4)])  # touches t5 alone
        (lines,) = searcher.by_examples(searcher.queries.within(field, "f.json"), [], "mean")
        hits = [orjson.loads(line) for line in lines]
        assert {hit["properties"]["query"] for hit in hits} == {"t2+t3+t4"}
        assert [hit["id"] for hit in hits] == ["t1", "t5", "t0"]
        with pytest.raises(RecordError, match=r"f\.json: no tile of .*x\.rsr shares area with its polygons"):
            list(searcher.queries.within(Polygon([(20, 0), (21, 0), (21, 1)]), "f.json"))


def test_examples_and_what_overlaps_them_are_left_out_before_ranking(tmp_path):
    boxes = [(i / 2, 0, i / 2 + 1, 1) for i in range(8)]
    vectors = np.zeros((8, 1), np.float32)
    records = [tile_at(f"t{i}", box, vector) for i, (box, vector) in enumerate(zip(boxes, vectors, strict=True))]
    with make_index(tmp_path / "x.rsr", records, "l1") as index:
        hits = found(index, [0, 4], [7], "mean", 2, exclude_overlap=True)
        assert [hit["id"] for hit in hits] == ["t2", "t6"]
