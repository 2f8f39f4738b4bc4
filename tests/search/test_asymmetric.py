"""Embeddings that ask rotated codes by weights of bits, against distances computed in numpy over all rows."""

from __future__ import annotations

import numpy as np
import pytest
import support
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import (
    batches,
    binarized,
    codes_of,
    embedding,
    embedding_records,
    feature,
    hits_of,
    make_index,
    weighted_distances,
)

from rsr_cli.core.codes.rotated import Rotated
from rsr_cli.core.errors import Skips
from rsr_cli.core.index import partitions, scan
from rsr_cli.core.index.kept import Kept
from rsr_cli.core.index.summary import summarize
from rsr_cli.core.records.space import Space
from rsr_cli.core.search.ask import Searcher
from rsr_cli.core.search.diversity import Diversity
from rsr_cli.core.search.scope import Scope

N, DIM, BITS = 200, 12, 15
#: Rows of each segment, and rows that are deleted.
SEGMENTS, DELETED = (range(90), range(90, 92), range(92, N)), {3, 40, 91, 150}
LIVE = [row for row in range(N) if row not in DELETED]
ROTATED = Rotated(Space("embedding", DIM, "float32", "emb"), BITS)


def drawn() -> np.ndarray:
    """Draw embeddings of whole numbers, some of them the same, so that distances tie; and one of zeros."""
    vectors = np.random.default_rng(3).integers(-4, 5, (N, DIM)).astype(np.float32)
    vectors[30:60] = vectors[7]
    vectors[70] = 0
    return vectors


VECTORS = drawn()
SIGNS = ROTATED.signs(VECTORS)


def grown(path, refine=None, method="rotated", bits=BITS):
    """Build an index of several segments, the large ones with the codes in the order of a scan, and deleted rows."""
    records = binarized(embedding_records(VECTORS), method, bits, keep_embedding=True)
    return support.grown(path, records, SEGMENTS, DELETED, refine and "l1", refine)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("i")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scan, "FEWEST_ROWS", 20)
        found = {"scan": grown(folder / "scan.rsr")}
        found |= {dtype: grown(folder / f"{dtype}.rsr", dtype) for dtype in ("int8", "float32")}
    found |= {"tables": grown(folder / "tables.rsr"), "sign": grown(folder / "sign.rsr", None, "sign", None)}
    assert [segment.scan is not None for segment in found["scan"].segments] == [True, False, True]
    assert not any(segment.scan for segment in found["tables"].segments)
    yield found
    for index in found.values():
        index.__exit__()


def asked(index, queries, k=None, radius=None, scope=(), size=300, **settings) -> list[list[tuple[str, float]]]:
    searcher = Searcher(Scope(index, radius, **dict(scope)), k, **{"exclude_self": False, "skips": Skips()} | settings)
    made = [feature(f"t{i}", embedding=embedding(query)) for i, query in enumerate(queries)]
    read = batches(made, searcher.queries.kinds, size=size)
    return [hits_of(lines) for lines in searcher.by_record(read)]


def ranked(distances: np.ndarray, k=None, radius=None, may=LIVE) -> list[tuple[str, float]]:
    order = sorted(may, key=lambda row: (distances[row], row))
    return [(f"t{row}", distances[row]) for row in order if radius is None or distances[row] <= radius][:k]


def brute(query, k=None, radius=None, may=LIVE) -> list[tuple[str, float]]:
    return ranked(weighted_distances(ROTATED.values(query[None])[0], SIGNS), k, radius, may)


queries = st.lists(st.integers(-5, 5), min_size=DIM, max_size=DIM).map(lambda values: np.array(values, np.float32))
ks, radii = st.none() | st.integers(1, N + 3), st.none() | st.sampled_from([0.0, 2.5, 6.0])


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["scan", "tables"]),
    some=st.lists(queries, min_size=1, max_size=4),
    k=ks,
    radius=radii,
    kept=st.none() | st.sampled_from([0.01, 0.1, 0.6, 1.0]),
)
def test_hits_are_those_of_a_brute_force_search(indexes, name, some, k, radius, kept):
    index, may, masks = indexes[name], np.isin(np.arange(N), LIVE), None
    if kept is not None:
        may &= np.random.default_rng(int(kept * 100)).random(N) < kept
        masks = [Kept.where(may[s.first : s.first + s.count].copy()) for s in index.segments]
    expected = [brute(query, k, radius, np.flatnonzero(may).tolist()) for query in some]
    assert asked(index, some, k, radius, {"kept": masks}) == expected
    assert asked(index, some, k, radius, {"kept": masks}, size=1) == expected


@settings(max_examples=60, deadline=None)
@given(query=queries, k=ks, radius=radii)
def test_by_request_codes_and_of_other_methods_hamming_distance_counts(indexes, query, k, radius):
    differ = (ROTATED.signs(query[None]) != SIGNS).sum(axis=1)
    assert asked(indexes["scan"], [query], k, radius, symmetric=True) == [ranked(differ, k, radius)]
    of_signs = ((query > 0) != (VECTORS > 0)).sum(axis=1)
    assert asked(indexes["sign"], [query], k, radius) == [ranked(of_signs, k, radius)]
    searcher = Searcher(Scope(indexes["scan"], radius), k, exclude_self=False, skips=Skips())
    made = codes_of(query[None], "rotated", BITS)
    assert hits_of(next(searcher.by_record(batches(made)))) == ranked(differ, k, radius)


def by_ids(index, names, k=9, **settings) -> list[list[tuple[str, float]]]:
    searcher = Searcher(Scope(index), k, **{"exclude_self": False, "skips": Skips()} | settings)
    return [hits_of(lines) for lines in searcher.by_item(searcher.queries.ids(names))]


def test_items_ask_with_the_embeddings_that_are_stored_of_them(indexes):
    rows = [0, 7, 70, 120]
    names = [f"t{row}" for row in rows]
    differ = [(SIGNS[row] != SIGNS).sum(axis=1) for row in rows]
    assert by_ids(indexes["scan"], names) == [ranked(each, 9) for each in differ]
    assert by_ids(indexes["float32"], names) == [brute(VECTORS[row], 9) for row in rows]
    assert by_ids(indexes["float32"], names, symmetric=True) == [ranked(each, 9) for each in differ]
    near = by_ids(indexes["int8"], names, None)
    for row, hits in zip(rows, near, strict=True):
        assert hits[0][1] == 0  # the signs are those of the code, whatever int8 rounds
        exact = dict(brute(VECTORS[row]))
        assert max(abs(distance - exact[name]) for name, distance in hits) < 0.2


def test_what_is_left_out_or_chosen_is_left_out_of_the_same_ranking(indexes):
    some = VECTORS[[0, 1, 2]]
    alone = asked(indexes["scan"], some, 5, exclude_self=True)
    assert alone == [brute(query, 5, None, [row for row in LIVE if row != i]) for i, query in enumerate(some)]
    chosen = asked(indexes["scan"], some, 5, diversity=Diversity(per_scene=1))  # each record is a scene of its own
    assert chosen == [brute(query, 5) for query in some]


def test_ranking_again_by_weights_changes_nothing_and_is_warned_about(indexes, caplog):
    some = VECTORS[:3]
    assert asked(indexes["scan"], some, 5, scope={"rerank": 30}) == [brute(query, 5) for query in some]
    says = "all codes are compared by weights of their bits, so to rank them again by these changes nothing"
    assert caplog.messages == [says]
    caplog.clear()
    asked(indexes["scan"], some, 5, scope={"rerank": 30}, symmetric=True)
    asked(indexes["float32"], some, 5, scope={"rerank": 30})
    assert caplog.messages == []


@settings(max_examples=60, deadline=None)
@given(query=queries, n=st.integers(1, 40))
def test_a_shortlist_is_of_the_nearest_by_weights(indexes, query, n):
    rows = [int(name[1:]) for name, _ in brute(query, n)]
    distances = np.abs(VECTORS - query).sum(axis=1)
    assert asked(indexes["float32"], [query], 9, scope={"rerank": n}) == [ranked(distances, 9, None, rows)]


sides = st.lists(st.sampled_from(LIVE), max_size=4, unique=True)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["scan", "tables", "float32"]),
    likes=sides.filter(bool),
    unlikes=sides,
    combine=st.sampled_from(["mean", "best"]),
    k=ks,
)
def test_examples_that_have_embeddings_are_one_query(indexes, name, likes, unlikes, combine, k):
    """Those of a file, which are no items of the index; or items of one that stores embeddings."""
    values = ROTATED.values(VECTORS)
    out = {*likes, *unlikes} if name == "float32" else set()
    if combine == "best":
        distances = np.min([weighted_distances(values[row], SIGNS) for row in likes], axis=0)
        for row in unlikes:
            distances[weighted_distances(values[row], SIGNS) < distances] = np.inf
    elif len(likes) == 1 and not unlikes:
        distances = weighted_distances(values[likes[0]], SIGNS)
    else:
        wide = values.astype(float)
        units = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)
        mean = units[likes].mean(axis=0)
        mean = 2 * mean - units[unlikes].mean(axis=0) if unlikes else mean
        assume(np.linalg.norm(mean) > 1e-3)
        distances = weighted_distances(mean.astype(np.float32), SIGNS)
    searcher = Searcher(Scope(indexes[name]), k, exclude_self=False, skips=Skips())

    def items(side):
        if name == "float32":
            return searcher.queries.ids([f"t{row}" for row in side])
        made = [feature(f"q{row}", embedding=embedding(VECTORS[row])) for row in side]
        return searcher.queries.records(batches(made, searcher.queries.kinds))

    (lines,) = searcher.by_examples(items(likes), items(unlikes), combine)
    expected = ranked(distances, None, None, [row for row in LIVE if row not in out and distances[row] < np.inf])
    assert hits_of(lines) == expected[:k]


def test_with_an_example_that_is_a_code_all_are(indexes):
    searcher = Searcher(Scope(indexes["scan"]), 9, exclude_self=False, skips=Skips())
    made = [feature("q", embedding=embedding(VECTORS[1]))]
    records = searcher.queries.records(batches(made, searcher.queries.kinds))
    (lines,) = searcher.by_examples([*records, *searcher.queries.ids(["t5"])], [], "mean")
    mean = (SIGNS[[1, 5], None] != SIGNS).sum(axis=2).mean(axis=0)
    assert hits_of(lines) == ranked(mean, 9, None, [row for row in LIVE if row != 5])


def test_of_a_record_with_both_the_embedding_asks(indexes):
    searcher = Searcher(Scope(indexes["scan"]), 9, exclude_self=False, skips=Skips())
    made = binarized(embedding_records(VECTORS[:2]), "rotated", BITS, keep_embedding=True)
    found = [hits_of(lines) for lines in searcher.by_record(batches(made, searcher.queries.kinds))]
    assert found == [brute(query, 9) for query in VECTORS[:2]]


def test_an_empty_index_has_no_hits(tmp_path):
    with make_index(tmp_path / "x.rsr", [], allow_empty=True) as index:
        assert asked(index, VECTORS[:2], 5) == [[], []]


def test_a_summary_states_how_embeddings_ask(indexes):
    assert summarize(indexes["scan"].path)["asymmetric"] is True
    assert "asymmetric" not in summarize(indexes["sign"].path)


@pytest.mark.parametrize("scanned", [False, True])
def test_rows_of_the_nearest_partitions_are_compared_by_weights(tmp_path, monkeypatch, scanned):
    """The partitions are those nearest to the query's code; all of them have the hits of an exact search."""
    monkeypatch.setattr(scan, "FEWEST_ROWS", 1 if scanned else 10**9)
    rng = np.random.default_rng(9)
    vectors = (rng.standard_normal((8, 16))[rng.integers(0, 8, 900)] + 0.4 * rng.standard_normal((900, 16))).astype(
        "f4"
    )
    vectors[rng.random(900) < 0.2] = vectors[0]
    made = Rotated(Space("embedding", 16, "float32", "emb"))
    near = vectors[:40] + 0.1
    with make_index(tmp_path / "x.rsr", codes_of(vectors, "rotated"), partitions=12) as index:
        exact = asked(index, near, 6)
        distances = [weighted_distances(values, made.signs(vectors)) for values in made.values(near)]
        assert exact == [ranked(each, 6, None, range(900)) for each in distances]
        whole = {"probe": index.segments[0].facts.partitions["count"]}
        assert asked(index, near, 6, scope=whole) == exact
        some = asked(index, near, 6, scope={"probe": 2})
        assert some != exact
        assert asked(index, near, 6, scope={"probe": 2}, size=1) == some
        folder = index.segments[0].directory
        centroids, ends = np.load(folder / partitions.CENTROIDS), np.load(folder / partitions.ENDS)
        apart = (np.unpackbits(centroids, axis=1)[None] != made.signs(near)[:, None]).sum(axis=2)
        lists, at, members = np.load(folder / partitions.LISTS), 0, []
        for count in np.diff(ends, prepend=0).tolist():
            room = -(-count // partitions.UNIT) * partitions.UNIT
            members.append(lists[at + 2 * room :][: 8 * count].view(np.int64).tolist())
            at += room * (2 + 8)
        for hits, each, order in zip(some, distances, np.argsort(apart, axis=1, kind="stable"), strict=True):
            inside = [row for number in order[:2] for row in members[number]]
            assert hits == ranked(each, 6, None, inside if len(inside) >= 6 else range(900))
        masks = [Kept.where(np.arange(900) % 3 == 0)]
        filtered = asked(index, near, 6, scope={"kept": masks})
        assert filtered == [ranked(each, 6, None, range(0, 900, 3)) for each in distances]
        assert asked(index, near, 6, scope={"kept": masks, **whole}) == filtered
        assert asked(index, near, 6, scope={"recall": 0.9}, size=1) == asked(index, near, 6, scope={"recall": 0.9})
