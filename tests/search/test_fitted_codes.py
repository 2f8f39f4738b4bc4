"""Codes that have a distance of their own, in an index, against distances computed over all rows."""

from __future__ import annotations

import base64

import numpy as np
import orjson
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st
from support import batches, binarized, codes_of, embedding, embedding_records, feature, hits_of, learned, make_index

from rsr_cli.core.codes.registry import METHODS, binarizer_class
from rsr_cli.core.errors import FingerprintError, RecordError, RsrError, Skips, UsageError
from rsr_cli.core.index import upkeep
from rsr_cli.core.index.kept import Kept
from rsr_cli.core.index.reading import Index
from rsr_cli.core.records.space import Space
from rsr_cli.core.search.ask import Searcher
from rsr_cli.core.search.scope import Scope

N, DIM = 320, 12
#: Rows of each segment, and rows that are deleted.
SEGMENTS, DELETED = (range(90), range(90, 92), range(92, N)), {3, 40, 91, 150}
LIVE = np.array([row not in DELETED for row in range(N)])
FITTED = [name for name, method in METHODS.items() if method.is_fitted]


def drawn():
    """Draw embeddings, some of them the same, so that distances tie; and one of zeros."""
    vectors = (np.random.default_rng(3).integers(-4, 5, (N, DIM)) + 1).astype(np.float32)
    vectors[30:60] = vectors[7]
    vectors[70] = 0
    return vectors


VECTORS = drawn()
STATES = {method: learned(method, VECTORS, 32) for method in FITTED}
CODES = {
    method: binarizer_class(method)(Space("embedding", DIM, "float32", "emb"), None, None, fitted)
    for method, fitted in STATES.items()
}


def grown(path, method, refine=None) -> Index:
    """Build an index of several segments with deleted rows."""
    records = binarized(embedding_records(VECTORS), method, fitted=STATES[method], keep_embedding=True)
    return support.grown(path, records, SEGMENTS, DELETED, refine and "l1", refine, fitted=[STATES[method]])


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("i")
    found = {method: grown(folder / f"{method}.rsr", method) for method in FITTED}
    found |= {f"{method} refined": grown(folder / f"{method}-r.rsr", method, "float32") for method in FITTED}
    yield found
    for index in found.values():
        index.__exit__()


def asked(index, queries, k=None, radius=None, kept=None, size=300, **scope):
    searcher = Searcher(Scope(index, radius, kept, **scope), k, exclude_self=False, skips=Skips())
    made = [feature(f"t{i}", embedding=embedding(query)) for i, query in enumerate(queries)]
    return [hits_of(lines) for lines in searcher.by_record(batches(made, searcher.queries.kinds, size=size))]


def brute(method, query, k=None, radius=None, may=LIVE):
    code = CODES[method]
    distances = code.measure(query, code(VECTORS))
    order = sorted(np.flatnonzero(may).tolist(), key=lambda row: (distances[row], row))
    return [(f"t{row}", distances[row]) for row in order if radius is None or distances[row] <= radius][:k]


queries = st.lists(st.integers(-5, 5), min_size=DIM, max_size=DIM).map(lambda values: np.array(values, np.float32))


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from(FITTED),
    some=st.lists(queries, min_size=1, max_size=4),
    k=st.none() | st.integers(1, N + 3),
    radius=st.none() | st.sampled_from([0.0, 0.1, 0.8]),
    share=st.none() | st.sampled_from([0.01, 0.1, 0.6, 1.0]),
)
def test_hits_are_those_of_a_brute_force_search(indexes, method, some, k, radius, share):
    index, may, kept = indexes[method], LIVE.copy(), None
    if share is not None:
        may &= np.random.default_rng(int(share * 100)).random(N) < share
        kept = [Kept.where(may[s.first : s.first + s.count].copy()) for s in index.segments]
    values = CODES[method].values(np.array(some))
    expected = [brute(method, query, k, radius, may) for query in values]
    assert asked(index, some, k, radius, kept) == expected
    assert asked(index, some, k, radius, kept, size=1) == expected


@pytest.mark.parametrize("method", FITTED)
def test_items_and_codes_ask_as_they_are_decoded(indexes, method):
    index, code = indexes[method], CODES[method]
    values = code.decoded(code(VECTORS[[5, 70]]))
    expected = [brute(method, query, 9) for query in values]
    searcher = Searcher(Scope(index), 9, exclude_self=False, skips=Skips())
    assert [hits_of(lines) for lines in searcher.by_item(searcher.queries.ids(["t5", "t70"]))] == expected
    made = binarized(embedding_records(VECTORS[[5, 70]]), method, fitted=STATES[method])
    assert [hits_of(lines) for lines in searcher.by_record(batches(made, searcher.queries.kinds))] == expected


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize("combine", ["mean", "best"])
def test_examples_are_one_query(indexes, method, combine):
    index, code = indexes[method], CODES[method]
    decoded = code.decoded(code(VECTORS[[5, 6, 100]]))
    searcher = Searcher(Scope(index, below_zero=True), 12, exclude_self=False, skips=Skips())
    likes, unlikes = (searcher.queries.ids(names) for names in (["t5", "t6"], ["t100"]))
    (found,) = (hits_of(lines) for lines in searcher.by_examples(likes, unlikes, combine))
    may = LIVE.copy()
    may[[5, 6, 100]] = False
    codes = code(VECTORS)
    if combine == "mean":
        wanted = (2 * decoded[:2].mean(axis=0) - decoded[2]).astype(np.float32)
        if method == "rabitq":  # the last number is the squared length
            wanted[-1] = np.square(wanted[:-1]).sum()
        distances = code.measure(wanted, codes)
    else:
        distances = np.min([code.measure(each, codes) for each in decoded[:2]], axis=0)
        may &= code.measure(decoded[2], codes) >= distances
    order = sorted(np.flatnonzero(may).tolist(), key=lambda row: (distances[row], row))[:12]
    assert [name for name, _ in found] == [f"t{row}" for row in order]
    assert np.allclose([distance for _, distance in found], distances[order], atol=1e-6)


@pytest.mark.parametrize("method", FITTED)
def test_an_embedding_asks_although_a_code_is_beside_it(indexes, method):
    made = binarized(embedding_records(VECTORS[:9]), method, fitted=STATES[method], keep_embedding=True)
    searcher = Searcher(Scope(indexes[method]), 4, exclude_self=False, skips=Skips())
    found = [hits_of(lines) for lines in searcher.by_record(batches(made, searcher.queries.kinds))]
    assert found == [brute(method, query, 4) for query in CODES[method].values(VECTORS[:9])]
    with pytest.raises(UsageError, match=f"compares {method} by a distance of their own, and no bits"):
        Searcher(Scope(indexes[method]), 4, exclude_self=False, skips=Skips(), symmetric=True)


@pytest.mark.parametrize("numbers", [(np.nan, 1), (1, np.inf), (-1, 1), (1, -1), (3e38, 3e38), (5, 0.1)])
def test_numbers_that_no_embedding_has_are_refused(indexes, numbers, tmp_path):
    (record,) = binarized(embedding_records(VECTORS[:1]), "rabitq", fitted=STATES["rabitq"])
    data = bytearray(base64.b64decode(record["properties"]["code"]["data"]))
    data[-8:] = np.array(numbers, "<f4").tobytes()
    record["properties"]["code"]["data"] = base64.b64encode(data).decode()
    searcher = Searcher(Scope(indexes["rabitq"]), 4, exclude_self=False, skips=Skips())
    with pytest.raises(RecordError, match="in:1: its code has numbers that are of no embedding"):
        list(searcher.by_record(batches(copied([record]), searcher.queries.kinds)))
    with pytest.raises(RecordError, match="in:1: its code has numbers that are of no embedding"):
        make_index(tmp_path / "x.rsr", copied([record]), fitted=[STATES["rabitq"]])


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"fit": None}, "do not go together"),
        ({"fit": ""}, "do not go together"),
        ({"method": "sign"}, "do not go together"),
        ({"method": None}, "do not go together"),
    ],
)
def test_a_code_that_states_what_cannot_be_is_refused(changed, what, tmp_path):
    records = binarized(embedding_records(VECTORS[:3]), "rabitq", fitted=STATES["rabitq"])
    for record in records:
        record["properties"]["code"] |= changed
    for fitted in ([], [STATES["rabitq"]]):
        with pytest.raises(RsrError, match=f"{what}|made with it|needs that"):
            make_index(tmp_path / "x.rsr", copied(records), fitted=fitted)
        assert not (tmp_path / "x.rsr").exists()


def copied(records):
    return orjson.loads(orjson.dumps(records))


@pytest.mark.parametrize("method", FITTED)
def test_a_shortlist_is_ranked_again_by_embeddings(indexes, method):
    query = VECTORS[20] + np.float32(0.5)
    ((*found,),) = asked(indexes[f"{method} refined"], [query], 5, rerank=30)
    shortlist = [int(name[1:]) for name, _ in brute(method, CODES[method].values(query[None])[0], 30)]
    exact = np.abs(VECTORS - query).sum(axis=1)
    wanted = sorted(shortlist, key=lambda row: (exact[row], row))[:5]
    assert found == [(f"t{row}", exact[row]) for row in wanted]
    with pytest.raises(UsageError, match="a distance of their own, and stores no embeddings"):
        asked(indexes[method], [query], 5, rerank=30)


@pytest.mark.parametrize("method", FITTED)
def test_one_segment_of_all_and_merged_indexes_find_the_same(indexes, method, tmp_path):
    records = binarized(embedding_records(VECTORS), method, fitted=STATES[method])
    make_index(tmp_path / "a.rsr", records[:100], fitted=[STATES[method]]).__exit__()
    make_index(tmp_path / "b.rsr", records[100:], fitted=[STATES[method]]).__exit__()
    sum(upkeep.merge([tmp_path / "a.rsr", tmp_path / "b.rsr"], tmp_path / "all.rsr", Skips()))
    upkeep.delete(tmp_path / "all.rsr", lambda i: upkeep.rows_with_ids(i, [f"t{row}" for row in DELETED], Skips()))
    queries = list(VECTORS[[0, 50, 70]])
    expected = asked(indexes[method], queries, 30)
    with Index(tmp_path / "all.rsr") as merged:
        assert asked(merged, queries, 30) == expected
    sum(upkeep.compact(tmp_path / "all.rsr"))
    with Index(tmp_path / "all.rsr") as compacted:
        assert len(compacted.segments) == 1
        assert asked(compacted, queries, 30) == expected


@pytest.mark.parametrize("method", FITTED)
def test_codes_of_another_fit_are_refused(indexes, method, tmp_path):
    other = learned(method, VECTORS, 32, seed=9)

    def made():
        return binarized(embedding_records(VECTORS[:2]), method, fitted=other)

    searcher = Searcher(Scope(indexes[method]), 3, exclude_self=False, skips=Skips())
    with pytest.raises(FingerprintError, match=r"fit [0-9a-f]{16}, not [0-9a-f]{16}"):
        list(searcher.by_record(batches(made(), searcher.queries.kinds)))
    with pytest.raises(UsageError, match="an index needs that for queries"):
        make_index(tmp_path / "x.rsr", made(), fitted=[STATES[method]])
    with pytest.raises(UsageError, match="were not made with it"):
        make_index(tmp_path / "x.rsr", made(), fitted=[other, STATES[method]])
    with pytest.raises(FingerprintError, match="in another vector space"):
        list(searcher.by_record(batches(codes_of(VECTORS[:2], "sign"), searcher.queries.kinds)))


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """Indexes of codes of many embeddings in clusters, divided into 12 partitions, and the embeddings."""
    random = np.random.default_rng(4)
    centres = random.standard_normal((12, DIM)) * 3
    vectors = (centres[random.integers(12, size=1500)] + random.standard_normal((1500, DIM))).astype(np.float32)
    folder, found = tmp_path_factory.mktemp("p"), {}
    for method in FITTED:
        fitted = learned(method, vectors, 32)
        records = binarized(embedding_records(vectors), method, fitted=fitted)
        found[method] = make_index(folder / f"{method}.rsr", records, fitted=[fitted], partitions=12)
    yield found, vectors
    for index in found.values():
        index.__exit__()


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("probe", [1, 3, 12])
def test_partitions_are_searched_as_all_rows_would_be_that_they_hold(divided, method, share, probe):
    indexes, vectors = divided
    index, some = indexes[method], vectors[:40] + np.float32(0.3)
    (segment,) = index.segments
    code, codes = index.code, np.array(segment.vectors)
    may, kept = np.ones(len(codes), bool), None
    if share:
        may = np.random.default_rng(1).random(len(codes)) < share
        kept = [Kept.where(may)]
    segment.partitions.check_rows()
    values = code.values(some)
    points = code.points(code.decoded(codes)).astype(float)
    middles = segment.partitions._centroids
    nearest = middles.nearest(code.points(values), probe)
    home = middles.assigned(middles.points(points.astype(np.float32)))
    for query, lists, found in zip(values, nearest, asked(index, some, 10, None, kept, probe=probe), strict=True):
        distances = code.measure(query, codes)
        inside = np.flatnonzero(may & np.isin(home, lists))
        if len(inside) < 10:  # then all rows are searched
            inside = np.flatnonzero(may)
        order = sorted(inside.tolist(), key=lambda row: (distances[row], row))[:10]
        assert found == [(f"t{row}", distances[row]) for row in order]


@pytest.mark.parametrize("method", FITTED)
def test_a_recall_is_kept_by_embeddings_and_by_codes(divided, method):
    indexes, vectors = divided
    index = indexes[method]
    some = vectors[:300] + np.random.default_rng(0).standard_normal((300, DIM)).astype(np.float32) / 4
    exact = asked(index, some, 10)
    found = asked(index, some, 10, recall=0.95)
    shares = [sum(d <= own[-1][1] for _, d in hits) / 10 for own, hits in zip(exact, found, strict=True)]
    assert np.mean(shares) > 0.95 - 2 * np.std(shares) / 300**0.5
    assert any(hits != own for hits, own in zip(found, exact, strict=True)) or np.mean(shares) == 1
