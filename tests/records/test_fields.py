"""The fields of a record against what GeoJSON and STAC say of them."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
import shapely
from rasterio import Affine
from support import feature

from rsr_cli.core.errors import RecordError
from rsr_cli.core.records.exact import loads
from rsr_cli.core.records.fields import (
    NO_TIME,
    bbox_of,
    extent_of,
    gsd_of,
    id_of,
    id_text,
    interval_of,
    label_list,
    one_form,
    scene_of,
)


@pytest.mark.parametrize(("found", "text"), [("t1", "t1"), ("", ""), (7, "7"), (-7, "-7"), (0, "0"), (1.5, "1.5")])
def test_an_id_is_text_or_a_number(found, text):
    assert id_of(feature(found)) == text


@pytest.mark.parametrize(
    ("spellings", "text"),
    [
        (["1", "1.0", "1e0", "10e-1", '"1"', '"1.0"', "1.0000000000000000000000"], "1"),
        (["0", "-0", "-0.0", "0.0", "0e5", '"-0.0"', '"-0"', '"0.00"'], "0"),
        (["1000", "1e3", "1000.00"], "1000"),
        (["100000000000000000000000", "1e23"], "1" + "0" * 23),
        (["36893488147419103233", "36893488147419103233.0", '"36893488147419103233"'], "36893488147419103233"),
        (["1.5", "1.50", "15e-1", '"1.5"'], "1.5"),
        (['"1.10"'], "1.10"),
        (['"1e3"'], "1e3"),
        (['"v1.0"'], "v1.0"),
        (['"1.0.0"'], "1.0.0"),
    ],
)
def test_a_number_as_an_id_has_one_form(spellings, text):
    for spelling in spellings:
        assert id_text(loads(spelling.encode())) == text, spelling


def test_text_that_is_no_whole_number_is_kept_as_it_is():
    for text in ("", ".0", "a.0", "1.", "1.01", "+1.0", "1.0 ", "\u0661.0"):
        assert one_form(text) == text


@pytest.mark.parametrize("found", [True, False, ["t1"], {"id": 1}])
def test_an_id_of_another_type_is_refused(found):
    with pytest.raises(RecordError) as caught:
        id_of(feature(found))
    assert str(caught.value) == f"has an id that is neither text nor a number: {found!r}"


def test_an_id_that_is_null_or_absent_is_none():
    nameless = feature("x")
    del nameless["id"]
    for record in (feature(None), nameless):
        with pytest.raises(RecordError, match=r"^has no id$"):
            id_of(record)


@pytest.mark.parametrize("box", [[1, 2, 3, 4], [179.5, -1.25, -179.5, 1.25]])
def test_a_bbox_is_four_numbers(box):
    assert bbox_of(feature("x") | {"bbox": box}) == tuple(box)


_PLACES = {
    "Point": "POINT (3 4)",
    "heights": "POINT Z (3 4 900)",
    "MultiPoint": "MULTIPOINT (3 4, -5 6)",
    "LineString": "LINESTRING (3 4, 5 9, -1 2)",
    "MultiLineString": "MULTILINESTRING ((3 4, 5 9), (7 7, 8 -2))",
    "Polygon": "POLYGON ((0 0, 9 1, 8 7, 0 0), (3 1, 4 1, 4 2, 3 1))",
    "MultiPolygon": "MULTIPOLYGON (((0 0, 1 0, 1 1, 0 0)), ((5 5, 6 5, 6 6, 5 5)))",
    "world": "POLYGON ((-180 -90, 180 -90, 180 90, -180 90, -180 -90))",
    "GeometryCollection": "GEOMETRYCOLLECTION (POINT (3 4), GEOMETRYCOLLECTION (LINESTRING (9 9, 1 1)))",
}


@pytest.mark.parametrize("text", _PLACES.values(), ids=_PLACES)
def test_a_record_without_a_bbox_has_that_of_its_geometry(text):
    shape = shapely.from_wkt(text)
    geometry = orjson.loads(shapely.to_geojson(shape))
    assert bbox_of(feature("x") | {"geometry": geometry}) == shape.bounds
    assert bbox_of(feature("x") | {"geometry": geometry, "bbox": [1, 2, 3, 4]}) == (1, 2, 3, 4)


@pytest.mark.parametrize("west", [172, 175.5, 178, 179.5])
def test_geometries_that_are_cut_at_the_antimeridian(tmp_path, write_raster, cut, west):
    path = write_raster(
        tmp_path / "x.tif", np.ones((1, 8, 8), "uint16"), crs="EPSG:4326", transform=Affine(1, 0, west, 0, -1, 4)
    )
    (tile,) = cut(path, bands=["red"])
    stated = tile.pop("bbox")
    assert bbox_of(tile) == tuple(stated)


@pytest.mark.parametrize("text", ["POINT EMPTY", "POLYGON EMPTY", "MULTIPOLYGON EMPTY", "GEOMETRYCOLLECTION EMPTY"])
def test_empty_geometries_have_no_bbox(text):
    geometry = orjson.loads(shapely.to_geojson(shapely.from_wkt(text)))
    assert bbox_of(feature("x") | {"geometry": geometry}) is None


@pytest.mark.parametrize(
    "geometry",
    [
        "POINT (1 2)",
        {},
        {"type": "Point"},
        {"type": "Circle", "coordinates": [1, 2]},
        {"type": "Point", "coordinates": [1]},
        {"type": "Point", "coordinates": ["a", "b"]},
        {"type": "Polygon", "coordinates": [1, 2]},
        {"type": "GeometryCollection", "geometries": 3},
        [1],
    ],
)
def test_geometries_that_cannot_be_read_are_refused(geometry):
    with pytest.raises(RecordError, match="has a geometry that cannot be read"):
        bbox_of(feature("x") | {"geometry": geometry})


def test_heights_of_a_bbox_are_left_out():
    assert bbox_of(feature("x") | {"bbox": [1, 2, -50, 3.5, 4, 8848]}) == (1, 2, 3.5, 4)


def test_a_bbox_that_is_null_or_absent_is_none():
    assert bbox_of(feature("x")) is None
    assert bbox_of(feature("x") | {"bbox": None}) is None


@pytest.mark.parametrize(
    "box",
    [
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, None],
        [1, 2, 3, "east"],
        [[1, 2], [3, 4]],
        5,
        [True, 2, 3, 4],
        "1234",
        [],
        0,
    ],
)
def test_a_bbox_that_is_not_four_numbers_is_refused(box):
    with pytest.raises(RecordError) as caught:
        bbox_of(feature("x") | {"bbox": box})
    assert str(caught.value) == f"has a bbox that is neither four nor six numbers: {box!r}"


@pytest.mark.parametrize(
    "box",
    [
        [0, 5, 1, 4],
        [0, -91, 1, 0],
        [0, 0, 1, 90.1],
        [0, 0, 0, 1, 95, 9],
        [600000, 5300000, 610000, 5310000],
        [-400, 0, 0, 1],
        [0, 0, 600, 1],
    ],
)
def test_a_bbox_that_is_not_in_degrees_is_refused(box):
    with pytest.raises(RecordError) as caught:
        bbox_of(feature("x") | {"bbox": box})
    assert str(caught.value) == f"has a bbox that is not west, south, east, north in degrees: {box!r}"


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([179, 0, 181, 1], (179, 0, -179, 1)),
        ([-181, 0, -179, 1], (179, 0, -179, 1)),
        ([190, 0, 200, 1], (-170, 0, -160, 1)),
        ([0, -90, 360, 90], (-180, -90, 180, 90)),
        ([-180, -90, 180, 90], (-180, -90, 180, 90)),
        ([0, 0, 1, 90.0000001], (0, 0, 1, 90.0000001)),
    ],
)
def test_longitudes_of_a_bbox_are_turned_to_180_degrees_at_most(box, expected):
    assert bbox_of(feature("x") | {"bbox": box}) == expected


def test_a_bbox_may_have_more_digits_than_a_double():
    box = loads(b"[1.12345678901234567890, 2, 3, 4]")
    assert bbox_of(feature("x") | {"bbox": box}) == (1.1234567890123457, 2, 3, 4)


#: What a record states -> the same moment in UTC, as numpy reads it.
MOMENTS = {
    "2020-01-02T03:04:05Z": "2020-01-02T03:04:05",
    "2020-01-02T03:04:05.25Z": "2020-01-02T03:04:05.25",
    "2020-01-02T03:04:05.000001+00:00": "2020-01-02T03:04:05.000001",
    "2020-01-02T03:04:05+05:30": "2020-01-01T21:34:05",
    "2020-01-02T23:04:05-02:00": "2020-01-03T01:04:05",
    "2020-01-02T03:04:05": "2020-01-02T03:04:05",
    "2020-01-02": "2020-01-02",
    "1969-12-31T23:59:59.5Z": "1969-12-31T23:59:59.5",
    "1582-10-04T00:00:00Z": "1582-10-04",
    "2020-01-02t03:04:05z": "2020-01-02T03:04:05",
    "2016-12-31T23:59:60Z": "2016-12-31T23:59:59",
    "2016-12-31T23:59:60.5+00:00": "2016-12-31T23:59:59.5",
}


def since_1970(text):
    """Return numpy's count of microseconds."""
    return int(np.datetime64(text, "us").astype(np.int64))


@pytest.mark.parametrize("text", MOMENTS)
def test_a_datetime_is_an_interval_of_one_moment(text):
    assert interval_of(feature("x", datetime=text)) == (since_1970(MOMENTS[text]),) * 2


def test_start_and_end_count_where_the_datetime_is_null():
    first, last = "2001-01-01T00:00:00Z", "2001-12-31T23:59:59Z"
    both = {"start_datetime": first, "end_datetime": last}
    expected = since_1970(first[:-1]), since_1970(last[:-1])
    assert interval_of(feature("x", datetime=None, **both)) == expected
    assert interval_of(feature("x", **both)) == expected
    assert interval_of(feature("x", datetime=first, end_datetime=last)) == (expected[0], expected[0])
    assert interval_of(feature("x", start_datetime=first)) == (expected[0], NO_TIME)
    assert interval_of(feature("x", end_datetime=last)) == (NO_TIME, expected[1])


def test_a_time_that_cannot_be_read_is_unknown_as_numpys_nat():
    assert np.isnat(np.int64(NO_TIME).view("datetime64[us]"))
    for properties in ({}, {"datetime": None}, {"datetime": "some day"}, {"datetime": "2020-13-01"}, {"datetime": ""}):
        assert interval_of(feature("x", **properties)) == (NO_TIME, NO_TIME)
    assert interval_of(feature("x", start_datetime=5, end_datetime="1970-01-01T00:00:01Z")) == (NO_TIME, 1_000_000)


@pytest.mark.parametrize("when", [5, True, ["2020-01-01"], {"start": "2020-01-01"}])
def test_a_datetime_that_is_not_text_is_refused(when):
    with pytest.raises(RecordError) as caught:
        interval_of(feature("x", datetime=when))
    assert str(caught.value) == f"has a datetime that is not text: {when!r}"


@pytest.mark.parametrize(
    ("found", "expected"), [(10, 10.0), (0.5, 0.5), *[(odd, None) for odd in (0, -1, True, "10", [10], None)]]
)
def test_a_ground_sample_distance_is_a_number_above_zero(found, expected):
    assert gsd_of(feature("x", gsd=found)) == expected
    assert gsd_of(feature("x")) is None


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"gsd": 10, "proj:shape": [224, 224]}, 2240),
        ({"gsd": 0.5, "proj:shape": [100, 400]}, 100),
        *(({"gsd": gsd, "proj:shape": [1, 1]}, None) for gsd in (None, 0, "10")),
        *(
            ({"gsd": 10, "proj:shape": shape}, None)
            for shape in (None, [], [5], [5, 5, 5], 5, "55", ["5", 5], [5, None], [0, 5], [-5, -5], [True, 5], [[5], 5])
        ),
        ({"proj:shape": [5, 5]}, None),
        ({"gsd": 10}, None),
        ({"gsd": 1e308, "proj:shape": [2**63, 2**63]}, None),
    ],
)
def test_the_extent_of_a_tile_is_the_side_of_a_square(properties, expected):
    assert extent_of(feature("x", **properties)) == expected


def test_labels_are_a_list_of_text_or_none():
    assert label_list(feature("x", labels=["a", "b"])) == ["a", "b"]
    assert label_list(feature("x", labels=[])) == []
    assert label_list(feature("x", query_labels=["c"]), "query_labels") == ["c"]
    for properties in ({}, {"labels": None}):
        assert label_list(feature("x", **properties)) is None


@pytest.mark.parametrize("labels", ["lake", "", {"a": 1}, 5, True, ["a", 1], [["a"]], [None], '["lake"]'])
def test_labels_of_another_type_are_refused(labels):
    with pytest.raises(RecordError) as caught:
        label_list(feature("x", labels=labels))
    assert str(caught.value) == f"its labels must be a list of strings, and are {labels!r}"


@pytest.mark.parametrize(
    ("name", "properties", "expected"),
    [
        ("S2A_T33UUP_0_64", {}, (None, "S2A_T33UUP")),
        ("scene_-32_-64", {}, (None, "scene")),
        ("S2A_MAJORTOM-10-451U_946L", {"grid:code": "MAJORTOM-10-451U_946L"}, (None, "S2A")),
        ("S2A_1_2_MAJORTOM-10-451U_946L", {"grid:code": "MAJORTOM-10-451U_946L"}, (None, "S2A_1_2")),
        ("S2A_0_64", {"grid:code": "MGRS-33UUP", "collection": "l2a"}, ("l2a", "S2A")),
        ("lake_3", {}, (None, "lake_3")),
        ("lake", {"grid:code": None}, (None, "lake")),
        (17, {}, (None, "17")),
    ],
)
def test_the_scene_of_a_tile_is_known_by_its_id(name, properties, expected):
    assert scene_of({"id": name, "properties": properties}) == expected
