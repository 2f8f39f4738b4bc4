"""Filters against brute force over the records themselves, in plain Python."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.affinity import translate
from shapely.geometry import mapping
from support import code_records, make_index

from rsr_cli.core.errors import IndexFormatError, UsageError
from rsr_cli.core.index import kept as kept_module
from rsr_cli.core.index import table
from rsr_cli.core.index.reading import Index
from rsr_cli.core.search.area import Area
from rsr_cli.core.search.condition import Condition
from rsr_cli.core.search.filters import Filter, parse_box, parse_interval

FEW = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Return a function that indexes records, and returns the numbers of those that a filter keeps."""
    monkeypatch.setattr(kept_module, "BLOCK_ROWS", 8)
    monkeypatch.setattr(table, "ROWS_PER_QUERY", 4)
    indexes = {}

    def ask(records, wanted) -> list[int]:
        key = orjson.dumps(records)
        if key not in indexes:
            blank = code_records(np.zeros((len(records), 4), np.uint8), 32)
            for record, code in zip(records, blank, strict=True):
                record["properties"] = code["properties"] | record["properties"]
            whole = [code | record for record, code in zip(records, blank, strict=True)]
            indexes[key] = make_index(tmp_path / f"{len(indexes)}.rsr", whole)
        (found,) = wanted.select(indexes[key].segments).kept
        rows = np.random.default_rng(7).permutation(len(records))[: len(records) // 2 + 1]
        assert found.of(rows).tolist() == found.mask[rows].tolist()
        return found.mask.nonzero()[0].tolist()

    yield ask
    for index in indexes.values():
        index.__exit__()


def those(flags) -> list[int]:
    return [i for i, flag in enumerate(flags) if flag]


# Places around which boxes are drawn, such that their edges meet, and by how much they miss: less than half a step of
# float32 there (7.6e-6 degrees at 100, 9.5e-7 at 10), about one, and much more.
EDGES = st.sampled_from([-180.0, -100.1, -10.0, 0.0, 10.1, 100.0, 179.9, 180.0])
MISSES = st.sampled_from([0.0, 1e-9, -1e-9, 3e-7, -3e-7, 8e-6, -8e-6, 0.5, -0.5])
LONGITUDES = st.builds(lambda edge, miss: min(180.0, max(-180.0, edge + miss)), EDGES, MISSES)
LATITUDES = st.builds(
    lambda edge, miss: min(90.0, max(-90.0, edge + miss)), st.sampled_from([-90.0, -10.1, 0.0, 33.3, 90.0]), MISSES
)


@st.composite
def boxes(draw):
    """Draw a box, which may be a point, a line, or across the antimeridian."""
    west, east = draw(st.one_of(st.tuples(LONGITUDES, LONGITUDES), LONGITUDES.map(lambda at: (at, at))))
    south, north = sorted(draw(st.one_of(st.tuples(LATITUDES, LATITUDES), LATITUDES.map(lambda at: (at, at)))))
    # a box around the whole Earth, but for a step of float32, is stored as one around all of it
    return [east if 0 < west - east < 1e-4 else west, south, east, north]


def stretches(box) -> list[tuple[float, float]]:
    west, _, east, _ = box
    return [(west, east)] if west <= east else [(west, 180), (-180, east)]


def meet(one, other) -> bool:
    """Compare two boxes as closed sets of longitudes and latitudes."""
    pairs = itertools.product(stretches(one), stretches(other))
    longitudes = any(max(a, c) <= min(b, d) for (a, b), (c, d) in pairs)
    return longitudes and max(one[1], other[1]) <= min(one[3], other[3])


@FEW
@given(st.lists(st.one_of(st.none(), boxes()), min_size=20, max_size=40), st.lists(boxes(), min_size=5, max_size=20))
def test_boxes_that_touch_are_kept_and_no_others(kept, drawn, asked):
    records = [{"bbox": box, "properties": {}} if box else {"properties": {}} for box in drawn]
    for box in asked:
        found = kept(records, Filter(box=parse_box(",".join(map(repr, box)))))
        assert found == those(box_ is not None and meet(box_, box) for box_ in drawn)


def test_only_records_whose_edge_is_in_doubt_are_read(kept, monkeypatch):
    """An exact filter reads the records whose float32 box may be rounded across the limit, and no others."""
    from rsr_cli.core.index.table import Table

    read = []
    real = Table.records
    monkeypatch.setattr(Table, "records", lambda self, rows: read.extend(rows.tolist()) or real(self, rows))
    records = [{"bbox": [i / 10, 0, i / 10 + 0.1, 1], "properties": {}} for i in range(100)]
    assert kept(records, Filter(box=(3.05, 0.5, 4.05, 0.6))) == list(range(30, 41))
    assert read == []
    assert kept(records, Filter(box=(3.1, 0.5, 4.1, 0.6))) == those(
        meet(r["bbox"], (3.1, 0.5, 4.1, 0.6)) for r in records
    )
    assert set(read) <= {29, 30, 31, 40, 41}
    assert len(read) >= 2


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,50,2,40", "1,2,3,95", "nan,0,1,1", "0,0,inf,1", "-400,0,1,1"]
)
def test_what_is_no_box(text):
    with pytest.raises(UsageError, match=r"is not west,south,east,north in degrees"):
        parse_box(text)


def test_boxes_are_read_as_those_of_records():
    assert parse_box("170,-20,190,-10") == (170, -20, -170, -10)
    assert parse_box("1, 2, 0, 3, 4, 100") == (1, 2, 3, 4)


START = datetime(2023, 1, 1, tzinfo=UTC)
MOMENTS = st.builds(
    lambda days, micros: START + timedelta(days=days, microseconds=micros),
    st.integers(0, 800),
    st.sampled_from([0, 1, -1, 500_000]),
)


@st.composite
def times(draw):
    """Draw the properties of a time, and its first and last moment if it has both."""
    first, last = sorted([draw(MOMENTS), draw(MOMENTS)])
    some = {"start_datetime": first.isoformat(), "end_datetime": last.isoformat()}
    return draw(
        st.sampled_from(
            [
                ({"datetime": first.isoformat()}, (first, first)),
                ({"datetime": None, **some}, (first, last)),
                ({"datetime": "some day"}, None),
                ({}, None),
                ({"start_datetime": first.isoformat()}, None),
                ({"end_datetime": last.isoformat()}, None),
            ]
        )
    )


@FEW
@given(st.lists(times(), min_size=10, max_size=40), MOMENTS, MOMENTS)
def test_times_that_touch_are_kept_and_no_others(kept, drawn, one, other):
    records = [{"properties": properties} for properties, _ in drawn]
    start, end = sorted([one, other])
    day = start.date()
    day_end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, microseconds=-1)
    day_start = day_end - timedelta(days=1, microseconds=-1)
    low, high = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
    for text, least, greatest in (
        (f"{start.isoformat()}/{end.isoformat()}", start, end),
        (f"{start.isoformat()}/..", start, high),
        (f"/{end.isoformat()}", low, end),
        (start.isoformat(), start, start),
        (f"{day}", day_start, day_end),
        (f"{day}/", day_start, high),
        (f"../{day}", low, day_end),
    ):
        found = kept(records, Filter(interval=parse_interval(text)))
        assert found == those(span is not None and span[0] <= greatest and span[1] >= least for _, span in drawn), text


@pytest.mark.parametrize(
    ("text", "first", "after"),
    [
        ("2023", "2023-01-01", "2024-01-01"),
        ("2024-02", "2024-02-01", "2024-03-01"),
        ("2023-12-31", "2023-12-31", "2024-01-01"),
        ("2023/2024-02", "2023-01-01", "2024-03-01"),
    ],
)
def test_years_months_and_days_are_whole(text, first, after):
    expected = [np.datetime64(each, "us").astype(int).item() for each in (first, after)]
    assert parse_interval(text) == (expected[0], expected[1] - 1)


def test_a_time_without_an_offset_is_utc():
    assert parse_interval("2023-07-01T10:00:00") == parse_interval("2023-07-01T12:00:00+02:00")
    assert parse_interval("2016-12-31T23:59:60Z") == parse_interval("2016-12-31t23:59:59z")


@pytest.mark.parametrize(
    "text",
    ["", "/", "..", "../..", "some day", "20230701", "2023-13", "2023-02-30", "2024/2023", "2023/2024/2025", "1"],
)
def test_what_is_no_time(text):
    with pytest.raises(UsageError, match=r"date or time|no end that is a time|ends before it begins"):
        parse_interval(text)


NAMES = ["lake", "forest", "a b", "Äcker", "lake\x00"]


@FEW
@given(
    st.lists(st.one_of(st.none(), st.lists(st.sampled_from(NAMES), max_size=4)), min_size=1, max_size=40),
    st.lists(st.sampled_from([*NAMES, "none"]), min_size=1, max_size=3),
)
def test_records_with_one_of_the_labels_are_kept(kept, drawn, wanted):
    records = [{"properties": {} if labels is None else {"labels": labels}} for labels in drawn]
    assert kept(records, Filter(labels=tuple(wanted))) == those(set(labels or ()) & set(wanted) for labels in drawn)


def test_a_label_that_no_record_has_is_named(kept, caplog):
    records = [{"properties": {"labels": ["Lake", "Forest"]}}]
    assert kept(records, Filter(labels=("lake", "Forest"))) == [0]
    assert kept(records, Filter(labels=("road",))) == []
    assert caplog.messages == [
        "no item of the index has the label 'lake'; did you mean 'Lake'?",
        "no item of the index has the label 'road'",
    ]


def test_ends_of_labels_of_a_damaged_index(kept, tmp_path):
    records = [{"properties": {"labels": ["a", "b", "c"][: i % 3]}} for i in range(30)]
    kept(records, Filter(labels=("a",)))
    path = next(tmp_path.glob("*.rsr/segments/*/label_ends.npy"))
    ends = np.load(path)
    for row in (3, 7, 8, 15, 28):
        for end in (-1, 0, 10**9):
            forged = ends.copy()
            forged[row] = end
            np.save(path, forged)
            with Index(path.parents[2]) as index, pytest.raises(IndexFormatError, match="do not grow"):
                _ = Filter(labels=("a",)).select(index.segments).kept[0].mask


def test_labels_of_a_damaged_index(kept, tmp_path):
    kept([{"properties": {"labels": ["a", "b"]}}, {"properties": {"labels": ["a"]}}], Filter(labels=("a",)))
    path = next(tmp_path.glob("*.rsr/segments/*/labels.npy"))
    whole = path.read_bytes()
    for number in (2, -1):
        path.write_bytes(whole[:-4] + np.int32(number).tobytes())
        with Index(path.parents[2]) as index, pytest.raises(IndexFormatError, match="numbers without a name"):
            _ = Filter(labels=("a",)).select(index.segments).kept[0].mask


def rectangle(west, south, east, north) -> dict:
    return mapping(shapely.box(west, south, east, north))


@pytest.fixture
def area(tmp_path):
    """Return a function that writes geometries as lines of GeoJSON, and reads them as an area."""

    def read(*geometries) -> Area:
        (tmp_path / "area.geojsonl").write_bytes(b"".join(orjson.dumps(mapping(each)) + b"\n" for each in geometries))
        return Area.read(str(tmp_path / "area.geojsonl"))

    return read


# Corners that areas and footprints share, so that some have an edge in common. A shift by 180 degrees keeps eighths.
CORNERS = st.integers(-6, 6).map(lambda number: number / 8)


@st.composite
def polygons(draw):
    """Draw a polygon that is valid."""
    points = draw(st.lists(st.tuples(CORNERS, CORNERS), min_size=3, max_size=6, unique=True))
    hull = shapely.MultiPoint(points).convex_hull
    return hull if hull.geom_type == "Polygon" else shapely.box(*hull.buffer(0.25).bounds)


# Where edges that are slanted cross, or are cut, is rounded.
UPRIGHT = polygons().map(lambda polygon: shapely.box(*polygon.bounds))
AREAS = st.lists(st.one_of(st.tuples(polygons()), st.lists(UPRIGHT, min_size=2, max_size=3)), min_size=1, max_size=5)
FOOTPRINTS = st.lists(polygons(), min_size=10, max_size=40)


@FEW
@given(AREAS, FOOTPRINTS, st.lists(st.builds(shapely.Point, CORNERS, CORNERS), max_size=10))
def test_footprints_that_lie_in_the_area_are_kept_and_no_others(kept, area, areas, footprints, points):
    footprints = [*footprints, *points]
    records = [{"geometry": mapping(each), "properties": {}} for each in footprints]
    for outlines in areas:
        whole = shapely.union_all(outlines)
        expected = those(footprint.covered_by(whole) for footprint in footprints)
        assert kept(records, Filter(area=area(*outlines))) == expected


def cut(geometry):
    """Move a polygon around longitude 0 to around 180, cut as in RFC 7946."""
    halves = (
        translate(shapely.intersection(geometry, shapely.box(-90, -90, 0, 90)), 180),
        translate(shapely.intersection(geometry, shapely.box(0, -90, 90, 90)), -180),
    )
    parts = [half for half in halves if half.geom_type == "Polygon" and not half.is_empty]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


@FEW
@given(
    st.lists(st.lists(UPRIGHT, min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(UPRIGHT, min_size=10, max_size=20),
)
def test_areas_across_the_antimeridian(kept, area, areas, footprints):
    """Around longitude 180, cut there or written on beyond it, against the same around 0."""
    for move in (cut, lambda each: translate(each, -180)):
        records = [{"geometry": mapping(move(each)), "properties": {}} for each in footprints]
        for outlines in areas:
            whole = shapely.union_all(outlines)
            expected = those(footprint.covered_by(whole) for footprint in footprints)
            assert kept(records, Filter(area=area(*map(cut, outlines)))) == expected
            assert kept(records, Filter(area=area(*(translate(each, 180) for each in outlines)))) == expected


def test_without_a_geometry_the_box_is_the_footprint(kept, area):
    records = [
        {"bbox": [0.5, 0.5, 1, 1], "properties": {}},
        {"bbox": [0.5, 0.5, 2.5, 1], "properties": {}},
        {"geometry": rectangle(0, 0, 2, 2), "properties": {}},
        {"geometry": {"type": "GeometryCollection", "geometries": []}, "properties": {}},
        {"properties": {}},
        {"bbox": [179, 0, -179, 1], "properties": {}},
        {"bbox": [179, 1, -180, 1], "properties": {}},
    ]
    assert kept(records, Filter(area=area(shapely.box(0, 0, 2, 2)))) == [0, 2]
    halves = shapely.box(178, 0, 180, 2), shapely.box(-180, 0, -178, 2)
    assert kept(records, Filter(area=area(*halves))) == [5, 6]
    assert kept(records, Filter(area=area(halves[0]))) == [6]
    triangle = shapely.Polygon([(0.4, 0.4), (1.2, 0.4), (1.2, 1.2)])
    assert kept(records, Filter(area=area(triangle))) == []


def test_footprints_in_the_area_are_not_read(kept, area, monkeypatch):
    from rsr_cli.core.index.table import Table

    read = []
    real = Table.records
    monkeypatch.setattr(Table, "records", lambda self, rows: read.extend(rows.tolist()) or real(self, rows))
    records = [{"geometry": rectangle(i, 0, i + 1, 1), "properties": {}} for i in range(40)]
    trapezoid = shapely.Polygon([(2.5, -1), (20.5, -1), (19.5, 2), (3, 2)])
    assert kept(records, Filter(area=area(trapezoid))) == list(range(3, 19))
    assert set(read) == {19}  # whether 2 lies within the bounds needs no record


def test_all_filters_must_hold(kept):
    draw = np.random.default_rng(4)
    records = []
    for i in range(1000):
        west, south = draw.integers(0, 10, 2).tolist()
        properties = {
            "datetime": f"2023-{draw.integers(1, 13):02}-10T00:00:00Z",
            "labels": [["lake"], ["road", "lake"], []][i % 3],
            "n": i,
        }
        records.append({"bbox": [west, south, west + 1, south + 1], "properties": properties})
    wanted = Filter((2, 2, 4, 4), None, parse_interval("2023-03/2023-06"), ("road",), Condition("n > 100"))
    expected = those(
        meet(r["bbox"], (2, 2, 4, 4)) and 3 <= int(r["properties"]["datetime"][5:7]) <= 6 and i % 3 == 1 and i > 100
        for i, r in enumerate(records)
    )
    assert len(expected) > 3
    assert kept(records, wanted) == expected


def test_no_filter_is_none(kept):
    assert not Filter()
    assert Filter().select([]).kept is None
    assert Filter(box=(0, 0, 0, 0))
