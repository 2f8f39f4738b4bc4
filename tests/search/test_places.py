"""Footprints, centres and what is at a place, against pyproj's geodesics and shapely on every record."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from support import make_index
from support_places import box_geometry, tile_at

from rsr_cli.core.errors import RecordError, Skips
from rsr_cli.core.search import places

SPHERE = Geod(a=places.EARTH_M, b=places.EARTH_M)
WGS84 = Geod(ellps="WGS84")
longitudes = st.floats(-180, 180)
latitudes = st.floats(-90, 90)


def lonlat(vector) -> tuple[float, float]:
    """Convert a unit vector to degrees."""
    x, y, z = vector
    return math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))


@given(longitudes, latitudes, longitudes, latitudes)
def test_distances_are_great_circles_on_the_mean_sphere(lon, lat, lon2, lat2):
    found = places.metres(places.on_sphere(lon, lat), places.on_sphere(lon2, lat2))
    assert found == pytest.approx(SPHERE.inv(lon, lat, lon2, lat2)[2], rel=1e-7, abs=1e-3)
    on_ellipsoid = WGS84.inv(lon, lat, lon2, lat2)[2]
    assert found == pytest.approx(on_ellipsoid, rel=0.006, abs=1e-3)


def test_the_sphere_has_the_mean_radius_of_wgs84():
    assert pytest.approx((2 * WGS84.a + WGS84.b) / 3, abs=1e-3) == places.EARTH_M


@given(longitudes, st.floats(-84, 84), st.floats(1e-4, 0.5))
def test_the_centre_of_a_tile_is_as_far_from_its_corners_on_either_side(lon, lat, side):
    """A box of latitudes is symmetric to its middle meridian, and its centre is within a hundredth of the middle."""
    box = (lon, lat, lon + side, lat + side)
    centre = lonlat(places.centre_of(places.footprint_of({"geometry": box_geometry(*box)})))
    left = SPHERE.inv(*centre, lon, lat)[2]
    right = SPHERE.inv(*centre, lon + side, lat)[2]
    assert left == pytest.approx(right, rel=1e-6, abs=1e-3)
    assert abs(centre[1] - (lat + side / 2)) < side / 100


@pytest.mark.parametrize("south", [-90, -75, 0, 60])
@pytest.mark.parametrize("side", [0.01, 1, 15])
def test_a_tile_across_the_antimeridian_has_the_centre_of_one_elsewhere(south, side):
    at_home, across = (
        places.centre_of(places.footprint_of({"geometry": box_geometry(west, south, west + side, south + side)}))
        for west in (-side / 3, 180 - side / 3)
    )
    np.testing.assert_allclose(across, at_home * (-1, -1, 1), atol=2e-7)


@pytest.mark.parametrize(("south", "north", "pole"), [(60, 90, 1), (89.9, 90, 1), (-90, -45, -1)])
def test_what_is_around_a_pole_has_its_centre_there(south, north, pole):
    geometry = box_geometry(-180, south, 180, north)
    np.testing.assert_allclose(places.centre_of(places.footprint_of({"geometry": geometry})), (0, 0, pole), atol=1e-12)


def test_a_hole_and_the_direction_of_an_outline_count_for_the_centre():
    ring = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
    hole = [[0, 0], [2, 0], [2, 4], [0, 4], [0, 0]]
    expected = places.centre_of(shapely.box(2, 0, 4, 4))
    for outer in (ring, ring[::-1]):
        shape = shapely.Polygon(outer, [hole])
        np.testing.assert_allclose(places.centre_of(shape), expected, atol=1e-6)


def test_what_has_no_area_has_the_centre_of_its_box():
    point = places.footprint_of({"geometry": {"type": "Point", "coordinates": [5, 6, 700]}})
    assert lonlat(places.centre_of(point)) == pytest.approx((5, 6))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"geometry": None}, None),
        ({"geometry": {"type": "GeometryCollection", "geometries": []}}, None),
        ({"geometry": None, "bbox": [1, 2, 3, 4]}, shapely.box(1, 2, 3, 4)),
        (
            {"geometry": None, "bbox": [179, 2, -179, 4]},
            shapely.union(shapely.box(179, 2, 180, 4), shapely.box(-180, 2, -179, 4)),
        ),
        (
            {"geometry": {"type": "Polygon", "coordinates": [[[179, 0], [182, 0], [182, 1], [179, 1], [179, 0]]]}},
            shapely.union(shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -178, 1)),
        ),
        (  # crosses itself: two triangles
            {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}},
            shapely.union(shapely.Polygon([(0, 0), (0.5, 0.5), (0, 1)]), shapely.Polygon([(1, 0), (0.5, 0.5), (1, 1)])),
        ),
    ],
)
def test_footprints(record, expected):
    found = places.footprint_of(record)
    assert found is None if expected is None else shapely.equals(found, expected)


@pytest.mark.parametrize("geometry", [{"type": "Polygon", "coordinates": "here"}, {"type": "Sphere"}, {}, []])
def test_a_geometry_that_cannot_be_read_is_an_error(geometry):
    with pytest.raises(RecordError, match="has a geometry that cannot be read"):
        places.footprint_of({"geometry": geometry})


def crowd(rng, n=60) -> list[tuple[float, float, float, float]]:
    """Draw boxes of all sizes, most of which cross the antimeridian or begin there, or end at a pole."""
    wests = rng.choice([-180, 180, 179, 178.5, -179.5, 170, 0], n) + rng.choice([0, 0.25, 0.5], n)
    wests = np.where(wests > 180, wests - 360, wests)
    souths = rng.choice([-90, -1, 0, 0.5, 88], n)
    sizes = rng.choice([0.25, 0.5, 1, 2], (2, n))
    return [tuple(map(float, box)) for box in zip(wests, souths, wests + sizes[0], souths + sizes[1], strict=True)]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index of overlapping tiles at the antimeridian and the poles; the last has no place."""
    boxes = [*crowd(np.random.default_rng(4)), None]
    records = [tile_at(f"t{i}", box, np.ones(2)) for i, box in enumerate(boxes)]
    with make_index(tmp_path_factory.mktemp("i") / "x.rsr", records, "l2") as opened:
        yield opened, records


def overlap_in_degrees(box, other) -> float:
    """Measure in Python what two boxes (west, south, east, north) share, with east > 180 across the antimeridian."""
    height = min(box[3], other[3]) - max(box[1], other[1])
    widths = (min(box[2], other[2] + turn) - max(box[0], other[0] + turn) for turn in (-360, 0, 360))
    return max(0, height) * sum(max(0, width) for width in widths)


def box_of(record) -> tuple[float, float, float, float] | None:
    if record["geometry"] is None:
        return None
    west, south, east, north = record["bbox"]
    return west, south, east + 360 * (east < west), north


def test_rows_that_share_area_are_those_of_all_records(index):
    opened, records = index
    boxes = [box_of(record) for record in records]
    several = set()
    for box, record in zip(boxes[:-1], records, strict=False):
        found = places.rows_in(opened, places.footprint_of(record), 1e-9).tolist()
        assert found == [i for i, other in enumerate(boxes) if other and overlap_in_degrees(box, other) > 0]
        several.add(len(found))
    assert len(several) > 3


def test_neighbours_that_touch_or_overlap_by_a_sliver_do_not_share_area(tmp_path):
    boxes = [(0, 0, 1, 1), (1, 0, 2, 1), (0.995, 1, 1.995, 2), (0.99, -1, 1.99, 0), (0.98, 0, 1.98, 1)]
    records = [tile_at(f"t{i}", box, np.ones(2)) for i, box in enumerate(boxes)]
    with make_index(tmp_path / "x.rsr", records, "l2") as opened:
        assert places.rows_in(opened, shapely.box(0, 0, 1, 1), 0.01).tolist() == [0, 4]
        assert places.rows_in(opened, shapely.box(0, 0, 1, 1), 0.001).tolist() == [0, 4]
        assert places.rows_in(opened, shapely.box(0.9, 0, 1, 1), 0.001).tolist() == [0, 4]
        assert places.rows_in(opened, shapely.Point(0.5, 0.5), 0.01).tolist() == [0]


places_on_edges = st.tuples(
    st.sampled_from([-180.0, 180.0, 179.0, 179.6, -179.9, -179.5, 0.1, 0.5]),
    st.sampled_from([-90.0, 90.0, -0.3, 0.0, 0.1, 0.75, 89.9, -89.8]),
)


@settings(max_examples=64)
@given(places_on_edges)
def test_the_tile_at_a_place_is_the_one_with_the_nearest_centre(index, place):
    opened, records = index
    lon, lat = place
    held = []
    for row, record in enumerate(records[:-1]):
        west, south, east, north = box_of(record)
        inside = any(west <= lon + turn <= east for turn in (-360, 0, 360)) or abs(lat) == 90
        if inside and south <= lat <= north:
            centre = lonlat(places.centre_of(places.footprint_of(record)))
            held.append((round(SPHERE.inv(lon, lat, *centre)[2], 3), row))
    if held:
        assert places.row_at(opened, lon, lat, Skips()) == min(held)[1]
    else:
        with pytest.raises(RecordError, match="has no tile that holds"):
            places.row_at(opened, lon, lat, Skips())


def test_a_place_where_several_dates_have_tiles_is_told(tmp_path, caplog):
    boxes = [(10, 50, 10.1, 50.1), (10, 50, 10.1, 50.1), (10.05, 50, 10.15, 50.1)]
    records = [tile_at(f"t{i}", box, np.ones(2)) for i, box in enumerate(boxes)]
    with make_index(tmp_path / "x.rsr", records, "l2") as opened:
        assert places.row_at(opened, 10.12, 50.05, Skips()) == 2
        assert caplog.messages == []
        assert places.row_at(opened, 10.06, 50.05, Skips()) == 0
    assert caplog.messages == ["10.06,50.05: 2 items of the index have the nearest centre, of which 't0' is taken"]


def test_a_place_that_no_tile_holds_is_answered_with_the_nearest(tmp_path):
    boxes = [(10, 50, 10.1, 50.1), None, (179.9, 50, 180, 50.1)]
    records = [tile_at(f"t{i}", box, np.ones(2)) for i, box in enumerate(boxes)]
    with make_index(tmp_path / "x.rsr", records, "l2") as opened:
        with pytest.raises(RecordError) as caught:
            places.row_at(opened, -179, 50.05, Skips())
        km = SPHERE.inv(-179, 50.05, 179.95, 50.05)[2] / 1000
        says = f"has no tile that holds -179,50.05; the centre of the nearest, 't2', is {km:.3g} km away"
        assert str(caught.value) == f"{opened.path}: {says}"
        km = SPHERE.inv(-80, -30, 10.05, 50.05)[2] / 1000
        with pytest.raises(RecordError, match=f"is {round(km):,} km away"):
            places.row_at(opened, -80, -30, Skips())
        with pytest.raises(RecordError, match=r"50\.05,10\.02, but one that holds 10\.02,50\.05: the longitude"):
            places.row_at(opened, 50.05, 10.02, Skips())
    alone = make_index(tmp_path / "y.rsr", [tile_at("t", None, np.ones(2))], "l2")
    with alone, pytest.raises(RecordError, match="has no tile that states a place"):
        places.row_at(alone, 0, 0, Skips())


def test_a_geometry_that_cannot_be_read_is_named_with_its_tile(tmp_path):
    record = tile_at("odd", (0, 0, 1, 1), np.ones(2))
    record["geometry"] = {"type": "Polygon", "coordinates": [[[0, 0], [1, None]]]}
    opened = make_index(tmp_path / "x.rsr", [record], "l2")
    with opened, pytest.raises(RecordError, match=r"x\.rsr: odd: has a geometry that cannot be read"):
        places.row_at(opened, 0.5, 0.5, Skips())
