"""Asking an open index, against a brute-force search over the vectors."""

from __future__ import annotations

import math

import numpy as np
import orjson
import pytest
from support import batches, binarized, code, code_records, embedding, embedding_records, feature, make_index
from support_places import tile_at

from rsr_cli.core.errors import FingerprintError, RecordError, Skips, UsageError
from rsr_cli.core.index.kept import Kept
from rsr_cli.core.search import ask
from rsr_cli.core.search.ask import Searcher
from rsr_cli.core.search.scope import Scope


@pytest.fixture(scope="module")
def rows():
    """Vectors, float32 (60, 6), of small whole numbers: many distances are equal, and all are exact."""
    drawn = np.random.default_rng(9).integers(-2, 3, (60, 6)).astype(np.float32)
    drawn[20:30] = drawn[19]
    return drawn


@pytest.fixture
def index(tmp_path, rows):
    """An open index of the vectors by l1, as t0 to t59; every other item has labels."""
    records = embedding_records(rows)
    for number, record in enumerate(records[::2]):
        record["properties"]["labels"] = [f"c{number % 3}"]
    with make_index(tmp_path / "i.rsr", records, "l1") as opened:
        yield opened


def searcher(index, k=5, radius=None, *, exclude_self=False, skips=None, kept=None, **settings) -> Searcher:
    return Searcher(Scope(index, radius, kept), k, exclude_self=exclude_self, skips=skips or Skips(), **settings)


def by_id(index, names, **settings):
    """Ask with items of the index."""
    asking = searcher(index, **settings)
    return asking.by_item(asking.queries.ids(names))


def parsed(found) -> list[list[dict]]:
    """Parse the hits of each query."""
    return [[orjson.loads(line) for line in lines] for lines in found]


def ids(found) -> list[list[str]]:
    return [[hit["id"] for hit in hits] for hits in parsed(found)]


def nearest(rows, number, k=None, *, but=(), radius=math.inf) -> list[str]:
    """Rank all rows by (distance, row) in Python, and name the first k."""
    distances = [sum(abs(a - b) for a, b in zip(row, rows[number].tolist(), strict=True)) for row in rows.tolist()]
    order = sorted((distance, i) for i, distance in enumerate(distances) if distance <= radius and i not in but)
    return [f"t{i}" for _, i in order[:k]]


# By record -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 60])
def test_records_find_what_is_nearest_whatever_their_batches(index, rows, size):
    found = searcher(index).by_record(batches(embedding_records(rows), size=size))
    assert ids(found) == [nearest(rows, i, 5) for i in range(60)]


@pytest.mark.parametrize("k", [1, 5, 59, 60, 100])
def test_without_itself_an_item_still_has_k_hits(index, rows, k):
    found = parsed(searcher(index, k, exclude_self=True).by_record(batches(embedding_records(rows))))
    assert [[hit["id"] for hit in hits] for hits in found] == [nearest(rows, i, k, but=[i]) for i in range(60)]
    assert {len(hits) for hits in found} == {min(k, 59)}
    assert all([hit["properties"]["rank"] for hit in hits] == [*range(1, len(hits) + 1)] for hits in found)


def test_equal_vectors_before_the_item_itself_are_hits_and_it_is_not(index):
    """The rows 19 to 29 are equal, so the last one is not among the first 3 + 1 that are found for it."""
    (hits,) = ids(by_id(index, ["t29"], k=3, exclude_self=True))
    assert hits == ["t19", "t20", "t21"]


def test_only_the_own_id_is_excluded(index, rows):
    stranger = feature("stranger", embedding=embedding(rows[8]))
    assert ids(searcher(index, 5, exclude_self=True).by_record(batches([stranger]))) == [nearest(rows, 8, 5)]


def test_a_number_is_its_own_id_as_text(tmp_path, rows):
    records = [feature(i, embedding=embedding(row)) for i, row in enumerate(rows[:4])]
    with make_index(tmp_path / "numbers.rsr", records, "l1") as index:
        asked = [feature(name, embedding=embedding(rows[2])) for name in (2, "2")]
        found = parsed(searcher(index, 4, exclude_self=True).by_record(batches(asked)))
        assert [sorted(hit["id"] for hit in hits) for hits in found] == [[0, 1, 3]] * 2
        assert [{hit["properties"]["query"] for hit in hits} for hits in found] == [{2}, {"2"}]


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("k", [None, 4])
def test_a_radius_limits_the_hits_and_k_those_within_it(index, rows, k, exclude_self):
    found = ids(searcher(index, k, 4.0, exclude_self=exclude_self).by_record(batches(embedding_records(rows))))
    assert found == [nearest(rows, i, k, radius=4, but=[i] if exclude_self else []) for i in range(60)]
    assert len({len(hits) for hits in found}) > 1


def test_a_query_without_a_hit_has_an_empty_list_in_its_place(index, rows):
    far = [feature(f"far{i}", embedding=embedding(np.full(6, 100 + i))) for i in range(2)]
    asked = [far[0], *embedding_records(rows[:1]), far[1]]
    found = ids(searcher(index, 1, 10.0).by_record(batches(asked)))
    assert found == [[], nearest(rows, 0, 1), []]


def test_an_empty_index_has_no_hits(tmp_path, rows):
    with make_index(tmp_path / "empty.rsr", [], allow_empty=True) as index:
        assert ids(searcher(index).by_record(batches(embedding_records(rows[:3])))) == [[], [], []]


def test_the_labels_of_a_query_travel_with_its_hits_if_it_has_any(index, rows):
    asked = embedding_records(rows[:3])
    for record, labels in zip(asked, (["a", "b"], [], None), strict=True):
        record["properties"]["labels"] = labels
    found = parsed(searcher(index, 2).by_record(batches(asked)))
    expected = [["a", "b"], [], "absent"]
    assert [[hit["properties"].get("query_labels", "absent") for hit in hits] for hits in found] == [
        [labels] * 2 for labels in expected
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [(None, "in:2: has no id"), (True, "in:2: has an id that is neither text nor a number: True")],
)
def test_a_query_that_cannot_be_named_is_refused_or_skipped(index, rows, name, says):
    def asked():
        records = embedding_records(rows[:3])
        records[1]["id"] = name
        return batches(records)

    with pytest.raises(RecordError) as caught:
        list(searcher(index).by_record(asked()))
    assert str(caught.value) == says
    skips = Skips(keep_going=True)
    assert ids(searcher(index, skips=skips).by_record(asked())) == [nearest(rows, 0, 5), nearest(rows, 2, 5)]
    assert skips.count == 1


def test_queries_of_another_space_are_refused_even_where_others_are_skipped(index, rows):
    asked = batches(embedding_records(rows[:2], "elsewhere"))
    with pytest.raises(FingerprintError, match=r"another vector space .*elsewhere.*emb"):
        list(searcher(index, skips=Skips(keep_going=True)).by_record(asked))


def test_codes_are_asked_for_only_where_the_index_has_codes(tmp_path, index):
    assert searcher(index).queries.kinds == ("embedding",)
    with make_index(tmp_path / "codes.rsr", [feature("a", code=code(np.zeros(2), 16))]) as codes:
        assert searcher(codes).queries.kinds == ("code", "embedding")
    with make_index(tmp_path / "empty.rsr", [], allow_empty=True) as empty:
        assert searcher(empty).queries.kinds == ("code", "embedding")


def test_embeddings_are_binarized_as_the_codes_of_the_index_were(tmp_path, rows):
    with make_index(tmp_path / "codes.rsr", binarized(embedding_records(rows), "lsh", 20, 3)) as index:
        by_embedding = list(searcher(index).by_record(batches(embedding_records(rows), searcher(index).queries.kinds)))
        by_code = list(searcher(index).by_record(batches(binarized(embedding_records(rows), "lsh", 20, 3))))
        assert by_embedding == by_code == list(by_id(index, [f"t{i}" for i in range(60)]))
        planes = np.random.RandomState(3).randn(20, 6)
        bits = rows.astype(float) @ planes.T > 0
        assert [[hit["properties"]["distance"] for hit in hits] for hits in parsed(by_code)] == np.sort(
            (bits[:, None] != bits[None]).sum(-1), axis=1
        )[:, :5].tolist()


@pytest.mark.parametrize("candidates", [1, 40, 120, 1000])
@pytest.mark.parametrize(("k", "radius"), [(40, None), (None, 6.0), (3, 6.0)])
def test_queries_asked_in_parts_find_the_same(index, rows, monkeypatch, candidates, k, radius):
    monkeypatch.setattr(ask, "CANDIDATES", candidates)
    found = searcher(index, k, radius).by_record(batches(embedding_records(rows), size=50))
    assert ids(found) == [nearest(rows, i, k, radius=math.inf if radius is None else radius) for i in range(60)]


@pytest.mark.parametrize(("candidates", "at_once"), [(1, 1), (5, 1), (9, 1), (10, 2), (17, 3), (100, 20)])
def test_no_more_queries_are_searched_at_once_than_fit_the_candidates(index, rows, monkeypatch, candidates, at_once):
    monkeypatch.setattr(ask, "CANDIDATES", candidates)
    search, numbers = index.search, []
    monkeypatch.setattr(
        index, "search", lambda queries, *limits, **how: numbers.append(len(queries)) or search(queries, *limits, **how)
    )
    found = ids(searcher(index, 5).by_record(batches(embedding_records(rows[:12]))))
    assert found == [nearest(rows, i, 5) for i in range(12)]
    assert numbers == [min(at_once, 12 - first) for first in range(0, 12, at_once)]


def test_queries_too_long_for_float32_are_named_or_skipped(index, rows):
    asked = embedding_records(rows[:3])
    asked[1]["properties"]["embedding"] = embedding(np.full(6, 1e25))
    with pytest.raises(RecordError, match=r":2: its embedding is 2\.4e\+25 long, too long for float32"):
        list(searcher(index, 5).by_record(batches(asked)))
    asked = embedding_records(rows[:3])
    asked[1]["properties"]["embedding"] = embedding(np.full(6, 1e25))
    skips = Skips(keep_going=True)
    assert ids(searcher(index, 5, skips=skips).by_record(batches(asked))) == [nearest(rows, i, 5) for i in (0, 2)]
    assert skips.count == 1


def test_a_radius_below_0_is_refused_where_no_distance_can_be(index):
    with pytest.raises(UsageError, match=r"a radius of -1 contains nothing"):
        searcher(index, None, -1)


# By id ---------------------------------------------------------------------------------------------------------------


def test_ids_ask_as_their_records_do(index, rows):
    records = embedding_records(rows)
    for number, record in enumerate(records[::2]):
        record["properties"]["labels"] = [f"c{number % 3}"]
    by_record = list(searcher(index).by_record(batches([records[i] for i in (58, 3, 0)])))
    assert list(by_id(index, ["t58", "t3", "t0"])) == by_record
    assert parsed(by_record)[0][0]["properties"]["query_labels"] == ["c2"]  # 58 / 2 = 29 = 2 modulo 3


def test_an_unknown_id_is_refused_when_its_turn_comes(index, rows):
    found = by_id(index, ["t4", "nobody", "t5"])
    assert ids([next(found)]) == [nearest(rows, 4, 5)]
    with pytest.raises(RecordError) as caught:
        next(found)
    assert str(caught.value) == f"{index.path}: has no item with the id 'nobody'"


def test_an_unknown_id_is_skipped_and_the_others_are_answered(index, rows, caplog):
    skips = Skips(keep_going=True)
    found = by_id(index, ["nobody", "t4", "nobody else", "t5"], skips=skips)
    assert ids(found) == [nearest(rows, 4, 5), nearest(rows, 5, 5)]
    assert skips.count == 2
    assert caplog.messages == [
        f"{index.path}: has no item with the id 'nobody'; skipped",
        f"{index.path}: has no item with the id 'nobody else'; skipped",
    ]


def test_an_empty_index_has_no_id(tmp_path):
    skips = Skips(keep_going=True)
    with make_index(tmp_path / "empty.rsr", [], allow_empty=True) as index:
        assert list(by_id(index, ["t0"], skips=skips)) == []
    assert skips.count == 1


# Ground sample distance ----------------------------------------------------------------------------------------------


def ask_at(path, of_index, of_queries, size=300) -> None:
    """Ask an index of items at some ground sample distances with queries at others; None states none."""

    def records(distances):
        stated = [{} if gsd is None else {"gsd": gsd} for gsd in distances]
        return [feature(f"t{i}", embedding=embedding(np.ones(4)), **gsd) for i, gsd in enumerate(stated)]

    with make_index(path, records(of_index), "l1") as index:
        found = list(searcher(index).by_record(batches(records(of_queries), size=size)))
    assert len(found) == len(of_queries)


@pytest.mark.parametrize(
    ("of_index", "gsd"),
    [
        ([30], 20),
        ([30], 45),
        ([30], 30),
        ([30, 60], 20),
        ([30, 60], 90),
        ([30, 60], 40),
        ([None, 30], 45),
        ([30], None),
        ([None], 1000),
    ],
)
def test_no_warning_up_to_one_and_a_half_times(tmp_path, caplog, of_index, gsd):
    ask_at(tmp_path / "i.rsr", of_index, [gsd])
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("of_index", "gsd", "has"),
    [
        ([30], math.nextafter(20, 0), "30 m"),
        ([30], math.nextafter(45, 100), "30 m"),
        ([60, 30, None], math.nextafter(20, 0), "30 to 60 m"),
        ([30, None, 60], math.nextafter(90, 100), "30 to 60 m"),
    ],
)
def test_a_warning_beyond_one_and_a_half_times(tmp_path, caplog, of_index, gsd, has):
    ask_at(tmp_path / "i.rsr", of_index, [None, 30, gsd])
    (message,) = caplog.messages
    assert message.startswith(f"a query has a ground sample distance of {round(gsd)} m and the index {has}: ")


@pytest.mark.parametrize("size", [1, 2, 300])
def test_the_warning_comes_once_and_names_the_first_query(tmp_path, caplog, size):
    ask_at(tmp_path / "i.rsr", [30], [30, 10, 90, 5], size)
    (message,) = caplog.messages
    assert "a ground sample distance of 10 m" in message


def tiles_of(*shapes, gsd=10) -> list[dict]:
    """Make records of tiles of some shapes in pixels, or of none."""
    stated = [{} if shape is None else {"proj:shape": shape} for shape in shapes]
    return [feature(f"t{i}", embedding=embedding(np.ones(4)), gsd=gsd, **shape) for i, shape in enumerate(stated)]


@pytest.mark.parametrize(
    ("of_index", "shape", "has"),
    [
        ([[224, 224]], [149, 149], "2240 m"),
        ([[224, 224]], [337, 337], "2240 m"),
        ([[224, 224]], [16, 400], "2240 m"),
        ([[64, 64], None, [224, 224]], [42, 42], "640 to 2240 m"),
        ([[64, 64], None, [224, 224]], [340, 340], "640 to 2240 m"),
        ([[224, 224]], [150, 150], None),
        ([[224, 224]], [336, 336], None),
        ([[224, 224]], [112, 448], None),
        ([[64, 64], [224, 224]], [100, 100], None),
        ([None], [5, 5], None),
        ([[5, 5]], None, None),
    ],
)
def test_a_warning_where_tiles_differ_in_extent_by_more_than_one_and_a_half_times(
    tmp_path, caplog, of_index, shape, has
):
    with make_index(tmp_path / "i.rsr", tiles_of(*of_index), "l1") as index:
        list(searcher(index).by_record(batches(tiles_of(None, shape, [1, 1]) if has else tiles_of(shape), size=1)))
    if has is None:
        assert caplog.messages == []
        return
    (message,) = caplog.messages
    side = round(10 * math.sqrt(shape[0] * shape[1]))
    assert message.startswith(f"a query is a tile of {side} m on the ground and the index has tiles of {has}: ")


def test_extents_are_compared_in_metres_and_resolutions_apart(tmp_path, caplog):
    """The same pixels at 30 m are another ground sample distance and extent; a third of them only the former."""
    with make_index(tmp_path / "i.rsr", tiles_of([90, 90]), "l1") as index:
        list(searcher(index).by_record(batches(tiles_of([30, 30], gsd=30))))
        assert [message.split(" of ")[0] for message in caplog.messages] == ["a query has a ground sample distance"]
        caplog.clear()
        list(searcher(index).by_record(batches(tiles_of([90, 90], gsd=30))))
        assert [message.split(" of ")[0] for message in caplog.messages] == [
            "a query has a ground sample distance",
            "a query is a tile",
        ]


def test_a_query_whose_labels_are_nested_too_deeply_is_skipped(tmp_path):
    labels: list = []
    for _ in range(300):
        labels = [labels]
    records = code_records(np.zeros((3, 4), np.uint8), 32)
    deep = feature("deep", code=code(np.zeros(4), 32), labels=labels)
    plain = feature("q", code=code(np.zeros(4), 32))
    with make_index(tmp_path / "i.rsr", records) as index:
        skips = Skips(keep_going=True)
        searcher = Searcher(Scope(index), 1, exclude_self=False, skips=skips)
        found = [orjson.loads(line) for lines in searcher.by_record(batches([deep, plain])) for line in lines]
        assert [hit["properties"]["query"] for hit in found] == ["q"]
        assert skips.count == 1
        deep["properties"]["code"] = code(np.zeros(4), 32)
        searcher = Searcher(Scope(index), 1, exclude_self=False, skips=Skips())
        with pytest.raises(RecordError, match="labels must be a list of strings"):
            list(searcher.by_record(batches([deep])))


# What is left out, and merged ----------------------------------------------------------------------------------------


@pytest.fixture
def neighbours(tmp_path):
    """An index of two rows of four tiles that touch, at two dates each, which all have the same vector."""
    records = [
        tile_at(
            f"{date}_{col}_{row}",
            (179.9 + col / 20 - 360 * (col > 1), row / 20, 179.95 + col / 20 - 360 * (col > 1), (row + 1) / 20),
            np.ones(2),
        )
        for date in ("may", "june")
        for row in range(2)
        for col in range(4)
    ]
    with make_index(tmp_path / "n.rsr", records, "l1") as opened:
        yield opened


def test_what_overlaps_the_query_is_left_out_before_ranking(neighbours):
    """Neighbours, which touch it, are not, across the antimeridian neither; and k hits come where k are."""
    query = tile_at("q", (179.95, 0, 180, 0.05), np.ones(2))
    asked = [query, tile_at("wide", (179.96, 0.01, 180.02, 0.09), np.ones(2)), tile_at("nowhere", None, np.ones(2))]
    found = ids(searcher(neighbours, 20, exclude_overlap=True).by_record(batches(asked)))
    everything = ids(searcher(neighbours, 20).by_record(batches([tile_at("q", None, np.ones(2))])))[0]
    assert found[0] == [name for name in everything if not name.endswith("_1_0")]
    assert found[1] == [name for name in everything if not name.endswith(("_1_0", "_2_0", "_1_1", "_2_1"))]
    assert found[2] == everything
    again = tile_at("q", (179.95, 0, 180, 0.05), np.ones(2))
    assert ids(searcher(neighbours, 3, exclude_overlap=True).by_record(batches([again]))) == [found[0][:3]]


def test_an_item_overlaps_itself_and_its_other_dates(neighbours):
    (found,) = ids(by_id(neighbours, ["june_2_1"], k=20, exclude_overlap=True))
    assert len(found) == 14
    assert not {"june_2_1", "may_2_1"} & {*found}


def test_a_query_without_a_place_is_warned_about_once(neighbours, caplog):
    asked = [tile_at(f"q{i}", None, np.ones(2)) for i in range(2)]
    list(searcher(neighbours, exclude_overlap=True).by_record(batches(asked)))
    assert caplog.messages == ["a query states no place, so nothing that overlaps it is left out"]


def test_a_query_whose_footprint_cannot_be_read_is_named_or_skipped(neighbours):
    def asked():
        records = [tile_at(f"q{i}", (0, 0, 1, 1), np.ones(2)) for i in range(3)]
        records[1]["geometry"] = {"type": "Polygon", "coordinates": [[["here"]]]}
        return batches(records)

    assert len(list(searcher(neighbours).by_record(asked()))) == 3  # nothing reads it
    with pytest.raises(RecordError, match=r"in:2: has a geometry that cannot be read"):
        list(searcher(neighbours, exclude_overlap=True).by_record(asked()))
    skips = Skips(keep_going=True)
    assert len(list(searcher(neighbours, exclude_overlap=True, skips=skips).by_record(asked()))) == 2
    assert skips.count == 1


def test_hits_are_merged_after_they_are_taken(neighbours):
    searcher = Searcher(Scope(neighbours), 6, exclude_self=True, skips=Skips(), merge=True)
    (areas,) = parsed(searcher.by_item(searcher.queries.ids(["may_3_1"])))
    assert [area["properties"]["tiles"] for area in areas] == [
        [f"may_{col}_{row}" for row in (0, 1) for col in range(4)][:6]
    ]


def test_items_are_asked_for_by_their_places(neighbours):
    asking = searcher(neighbours, 1)
    found = asking.by_item(asking.queries.at([(179.99, 0.01), (180, 0.02), (-179.96, 0.06)]))
    assert [hit["properties"]["query"] for hits in parsed(found) for hit in hits] == ["may_1_0", "may_2_1"]


def test_a_place_that_no_item_holds_is_refused_or_skipped(neighbours, caplog):
    with pytest.raises(RecordError, match="has no tile that holds 10,10"):
        list(searcher(neighbours).queries.at([(10, 10)]))
    skips = Skips(keep_going=True)
    found = searcher(neighbours, skips=skips).queries.at([(10, 10), (179.99, 0.01)])
    assert [item.record["id"] for item in found] == ["may_1_0"]
    assert skips.count == 1


def test_only_rows_that_are_kept_are_hits(index, rows):
    """As filters choose them, beside what a query leaves out itself, and examples."""
    mask = np.arange(60) % 3 > 0
    kept = [Kept.where(mask)]
    others = [i for i in range(60) if not mask[i]]
    found = ids(searcher(index, 5, exclude_self=True, kept=kept).by_record(batches(embedding_records(rows))))
    assert found == [nearest(rows, i, 5, but=[i, *others]) for i in range(60)]
    asking = searcher(index, 5, kept=kept)
    assert ids(asking.by_examples(asking.queries.ids(["t7"]), [], "best")) == [nearest(rows, 7, 5, but=[7, *others])]
