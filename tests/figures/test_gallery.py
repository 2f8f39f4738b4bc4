"""Which hits a figure shows, in which order, and how their labels agree with those of their queries."""

from __future__ import annotations

import json

import pytest

from rsr_cli.core.errors import BandError, RasterError, RecordError, RsrError, Skips
from rsr_cli.core.figures.gallery import Gallery
from rsr_cli.core.records.batch import Batch

RGB = ("red", "green", "blue")


def gallery_of(records, rows=10, k=10, skips=None):
    collected = Gallery(rows, k, skips or Skips())
    collected.add(Batch("in", [*range(1, len(records) + 1)], records))
    return collected


def shown(collected):
    """Return query -> (rank, id) of its hits."""
    return {row.query.name: [(hit.rank, hit.name) for hit in row.hits] for row in collected.rows(RGB, (2, 98))}


@pytest.fixture
def tiles(gallery):
    """Return hits that are tiles, of one query."""
    return [json.loads(line) for line in (gallery / "hits.geojsonl").read_text().splitlines()][:4]


def test_the_first_queries_and_their_nearest_hits_are_kept(hit):
    """In whatever order the hits come, and with gaps between their ranks."""
    hits = [hit(query, rank, f"{query}{rank}", [], []) for rank in (7, 2, 9, 4) for query in "abc"]
    expected = {query: [(2, f"{query}2"), (4, f"{query}4")] for query in "ab"}
    assert shown(gallery_of(hits, rows=2, k=2)) == expected
    assert shown(gallery_of([*hits[::-1]], rows=3, k=3))["c"] == [(2, "c2"), (4, "c4"), (7, "c7")]


@pytest.mark.parametrize(
    ("wanted", "labels", "agreement", "sign"),
    [
        (["a", "b"], ["b", "a", "c"], "all", "\N{CHECK MARK}"),
        (["a", "b"], ["b", "b"], "some", "1/2"),
        (["a", "a", "b"], ["a"], "some", "1/2"),  # labels that occur twice
        (["a"], ["b"], "none", "\N{BALLOT X}"),
        (["a"], [], "none", "\N{BALLOT X}"),
        (["a"], None, None, ""),
        (None, ["a"], None, ""),
        ([], ["a"], None, ""),
        ([], [], None, ""),
    ],
)
def test_labels_agree_in_all_some_or_none(hit, wanted, labels, agreement, sign):
    collected = gallery_of([hit("q", 1, "x", labels, wanted)])
    assert collected.agreements() == {agreement}
    (row,) = collected.rows(RGB, (2, 98))
    assert (row.hits[0].agreement, row.hits[0].sign) == (agreement, sign)


def test_labels_of_queries_are_read_where_hits_lack_them(hit, item, lines, tmp_path):
    (tmp_path / "queries").write_bytes(lines([item("p", ["b"]), item("q", ["a"]), item("q", ["b"]), item("other", 5)]))
    collected = gallery_of([hit("q", 1, "x", ["a"], None), hit("p", 1, "x", ["a"], ["a"]), hit("r", 1, "x", ["a"], [])])
    assert collected.read_queries(str(tmp_path / "queries")) == 1  # r is not there
    rows = {row.query.name: row for row in collected.rows(RGB, (2, 98))}
    assert rows["q"].query.labels == rows["p"].query.labels == ("a",)
    assert rows["r"].query.record is None
    assert rows["q"].query.place.endswith("queries:2")


def test_only_records_with_a_source_have_pixels(hit, tiles):
    bare = [hit("asked", 8, "x", [], []), hit("r", 1, "x", [], [])]
    bare[0]["properties"]["source"] = None
    assert not gallery_of(bare).has_pixels
    collected = gallery_of([*tiles, *bare])
    assert collected.has_pixels
    asked, other = collected.rows(RGB, (2, 98))
    assert [one.thumbnail is not None for one in asked.hits] == [True] * 4 + [False]
    assert other.hits[0].thumbnail is None
    assert not other.has_pixels
    assert collected.without_thumbnail == {RasterError: [], BandError: []}


def test_a_file_that_cannot_be_read_is_remembered_with_its_place(tiles):
    tiles[1]["properties"]["source"] = "gone.tif"
    collected = gallery_of(tiles)
    (row,) = collected.rows(RGB, (2, 98))
    assert [one.thumbnail is None for one in row.hits] == [False, True, False, False]
    assert [str(error) for error in collected.without_thumbnail[RasterError]] == ["in:2: gone.tif: no such file"]


def test_a_missing_band_is_an_error(tiles):
    with pytest.raises(BandError, match="in:1: band swir16 is missing"):
        next(gallery_of(tiles).rows(("swir16", "red", "green"), (2, 98)))
    skips = Skips(keep_going=True)
    (row,) = gallery_of(tiles, skips=skips).rows(("swir16", "red", "green"), (2, 98))
    assert skips.count == 4
    assert all(one.thumbnail is None for one in row.hits)


@pytest.mark.parametrize(
    ("properties", "time"),
    [
        ({"datetime": "2020-01-02T03:04:05Z", "start_datetime": "2019"}, "2020-01-02T03:04:05Z"),
        ({"datetime": None, "start_datetime": "2019"}, "2019"),
        ({}, ""),
    ],
)
def test_a_time_is_that_of_the_image_or_its_beginning(hit, properties, time):
    record = hit("q", 1, "x", [], [])
    record["properties"] |= properties
    (row,) = gallery_of([record]).rows(RGB, (2, 98))
    assert (row.hits[0].time, row.query.time) == (time, "")


def test_hits_of_two_runs_are_refused(hit):
    with pytest.raises(RecordError, match="in:2: the query 'q' has two hits of rank 1"):
        gallery_of([hit("q", 1, "x", [], []), hit("q", 1, "y", [], [])])


def test_without_hits_there_is_nothing_to_draw():
    with pytest.raises(RsrError, match="nothing to draw"):
        next(gallery_of([]).rows(RGB, (2, 98)))
