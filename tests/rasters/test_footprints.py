"""Footprints, and the ground sample distance, against pyproj and shapely."""

import itertools
import json

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from rasterio import Affine
from support_footprints import check_inside_and_outside, check_rules, to_lonlat
from support_rasters import grid

from rsr_cli.core import rasters


def locate(tmp_path, write_raster, cut, crs, transform, width, height, window=None):
    """Write an empty raster and return the record of a window of it, or of all of it."""
    path = tmp_path / "x.tif"
    shape = {"width": width, "height": height, "count": 1, "dtype": "uint8", "crs": crs, "transform": transform}
    with rasterio.open(path, "w", "GTiff", SPARSE_OK=True, **shape):
        pass
    (whole,) = cut(path, bands=["red"], min_valid=0.0)
    if window is None:
        return whole
    with rasterio.open(path) as raster:
        return whole | rasters.Locator(raster).footprints([window])[0][0]


def check_edges(shape, crs, transform, window, tolerance_px=0.25):
    """Check that the footprint's edges run along the window's, and that its corners are there."""
    left, top, width, height = window
    ring = np.array(shape.exterior.coords)
    share = np.linspace(0, 1, 50)[:, None]
    points = np.concatenate([one + (two - one) * share for one, two in itertools.pairwise(ring)])
    x, y = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform(*points.T)
    columns, rows = ~Affine(*transform[:6]) @ (np.asarray(x), np.asarray(y))
    box = shapely.LinearRing([(left, top), (left, top + height), (left + width, top + height), (left + width, top)])
    assert shapely.distance(box, shapely.points(columns, rows)).max() < tolerance_px
    lon, lat = to_lonlat(crs, transform, *np.array(box.coords).T)
    apart = np.abs(ring[:, None] - np.stack([lon, lat], axis=-1)).max(axis=-1).min(axis=0)
    assert apart.max() < 2e-7  # corners to the last digit


PLAIN = {
    "a tile": ("EPSG:32633", grid(10), (1120, 448, 224, 224), None),
    "a tile at 80 degrees north": ("EPSG:32633", Affine(10, 0, 330000, 0, -10, 8900000), (0, 0, 224, 224), None),
    "a tile in the south": ("EPSG:32721", Affine(30, 0, 300000, 0, -30, 6.2e6), (999, 1, 512, 512), None),
    "a Sentinel-2 scene": ("EPSG:32633", Affine(10, 0, 399960, 0, -10, 6700020), (0, 0, 10980, 10980), None),
    "a Landsat scene": ("EPSG:32622", Affine(30, 0, 200000, 0, -30, 7.8e6), (0, 0, 7700, 7900), None),
    "a wide tile": ("EPSG:32633", grid(60), (0, 100, 1830, 64), None),
    "south-up": ("EPSG:32633", Affine(10, 0, 6e5, 0, 10, 5.2e6), (10, 20, 224, 224), None),
    "rotated": ("EPSG:32633", grid(10) @ Affine.rotation(33), (10, 20, 224, 100), None),
    "transposed": ("EPSG:32633", Affine(0, 10, 6e5, 10, 0, 5e6), (10, 20, 224, 100), None),
    "equal area": ("EPSG:3035", Affine(20, 0, 3e6, 0, -20, 4e6), (0, 0, 1000, 1000), None),
    "Web Mercator": ("EPSG:3857", Affine(38.2, 0, -8e6, 0, -38.2, 5e6), (0, 256, 512, 256), None),
    "degrees": ("EPSG:4326", Affine(1e-4, 0, 151, 0, -1e-4, -33), (7, 9, 224, 224), None),
    "another datum": ("EPSG:4267", Affine(1e-3, 0, -100, 0, -1e-3, 40), (0, 0, 224, 224), None),
    "polar, off the pole": ("EPSG:3413", Affine(500, 0, -1e6, 0, -500, -5e5), (100, 100, 224, 224), None),
    "no code": ("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m", grid(30) @ Affine.scale(9), (0, 0, 500, 9), 1),
}


@pytest.mark.parametrize("case", PLAIN)
def test_footprints_follow_pyproj(tmp_path, write_raster, cut, case):
    crs, transform, window, no_code = PLAIN[case]
    record = locate(tmp_path, write_raster, cut, crs, transform, 11000, 11000, window)
    shape = check_rules(record)
    assert shape.geom_type == "Polygon"
    check_edges(shape, crs, transform, window)
    check_inside_and_outside(shape, crs, transform, window)
    properties = record["properties"]
    if no_code:
        assert properties["proj:code"] is None
        assert pyproj.CRS.from_wkt(properties["proj:wkt2"]).equals(pyproj.CRS(crs), ignore_axis_order=True)
        assert properties["proj:wkt2"].startswith("PROJCRS[")
    else:
        assert properties["proj:code"] == crs
        assert "proj:wkt2" not in properties


EDGE_3857 = 20037508.342789244

PARTED = {
    "UTM 1": ("EPSG:32701", Affine(10, 0, 139980, 0, -10, 8200000), (0, 0, 10980, 10980)),
    "UTM 60": ("EPSG:32760", Affine(10, 0, 799980, 0, -10, 8200000), (0, 0, 10980, 10980)),
    "UTM 60, far north": ("EPSG:32660", Affine(100, 0, 499980, 0, -100, 8200000), (0, 0, 1098, 1098)),
    "Mercator about the Pacific": ("EPSG:3832", Affine(1000, 0, 3289584, 0, -1000, -2e6), (0, 0, 100, 100)),
    "degrees over 180": ("EPSG:4326", Affine(0.25, 0, 170, 0, -0.25, 60), (0, 0, 80, 80)),
    "degrees under -180": ("EPSG:4326", Affine(0.25, 0, -190, 0, -0.25, 60), (0, 0, 80, 80)),
    "degrees of another datum over 180": ("EPSG:4267", Affine(0.25, 0, 170, 0, -0.25, 60), (0, 0, 80, 80)),
    "degrees of a third datum over 180": ("EPSG:4617", Affine(0.25, 0, 170, 0, -0.25, 60), (0, 0, 80, 80)),
    "over the edge of Web Mercator": ("EPSG:3857", Affine(1000, 0, EDGE_3857 - 1e4, 0, -1000, 9e6), (0, 0, 20, 20)),
    "Arctic": ("EPSG:3413", Affine(1000, 0, -900000, 0, -1000, 900000), (0, 0, 100, 100)),
    "Antarctic": ("EPSG:3031", Affine(1000, 0, -50000, 0, -1000, -900000), (0, 0, 100, 100)),
    "Antarctic, south-up": ("EPSG:3031", Affine(1000, 0, -50000, 0, 1000, -1000000), (0, 0, 100, 100)),
    "pole on the edge": ("EPSG:3413", Affine(1000, 0, -50000, 0, -1000, 100000), (0, 0, 100, 100)),
    "Himawari": (
        "+proj=geos +h=35785863 +lon_0=140.7 +sweep=y +datum=WGS84",
        Affine(2000, 0, 3.3e6, 0, -2000, 0),
        (0, 0, 400, 400),
    ),
}


@pytest.mark.parametrize("case", PARTED)
def test_footprints_are_cut_at_the_antimeridian(tmp_path, write_raster, cut, case):
    crs, transform, window = PARTED[case]
    record = locate(tmp_path, write_raster, cut, crs, transform, *window[2:])
    shape = check_rules(record)
    assert shape.geom_type == "MultiPolygon"
    assert len(shape.geoms) == 2
    west, _, east, _ = record["bbox"]
    assert west > east
    check_inside_and_outside(shape, crs, transform, window)


@pytest.mark.parametrize(
    ("crs", "transform", "west", "east"),
    [
        ("EPSG:4326", Affine(0.25, 0, 160, 0, -0.25, 60), 160, 180),
        ("EPSG:4326", Affine(0.25, 0, -180, 0, -0.25, 60), -180, -160),
        ("EPSG:4326", Affine(0.25, 0, 180, 0, -0.25, 60), -180, -160),
        ("EPSG:4326", Affine(0.25, 0, 200, 0, -0.25, 60), -160, -140),
        ("EPSG:3857", Affine(EDGE_3857 / 720, 0, EDGE_3857 * 8 / 9, 0, -1e3, 0), 160, 180),
        ("EPSG:3857", Affine(EDGE_3857 / 720, 0, -EDGE_3857, 0, -1e3, 0), -180, -160),
        ("EPSG:3832", Affine(3339584.723798207 / 80 / 1.5, 0, 3339584.723798207, 0, -1e3, 0), -180, -160),
        ("EPSG:3832", Affine(3339584.723798207 / 80 / 1.5, 0, 3339584.723798207 / 3, 0, -1e3, 0), 160, 180),
    ],
)
def test_footprints_that_touch_the_antimeridian_stay_whole(tmp_path, write_raster, cut, crs, transform, west, east):
    record = locate(tmp_path, write_raster, cut, crs, transform, 80, 80)
    shape = check_rules(record)
    assert shape.geom_type == "Polygon"
    assert (record["bbox"][0], record["bbox"][2]) == pytest.approx((west, east), abs=1e-6)
    assert shape.area == pytest.approx((east - west) * (shape.bounds[3] - shape.bounds[1]))


@pytest.mark.parametrize("flip", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize(("crs", "south"), [("EPSG:3413", False), ("EPSG:3031", True), ("EPSG:6931", False)])
def test_footprints_around_a_pole(tmp_path, write_raster, cut, crs, south, flip):
    x, y = flip
    transform = Affine(1000 * x, 0, -130000 * x, 0, -1000 * y, 170000 * y)
    record = locate(tmp_path, write_raster, cut, crs, transform, 300, 300)
    shape = check_rules(record)
    assert shape.contains(shapely.Point(12, -89.99 if south else 89.99))
    assert record["bbox"][0::2] == [-180, 180]
    assert record["bbox"][1 if south else 3] == (-90 if south else 90)
    check_inside_and_outside(shape, crs, transform, (0, 0, 300, 300))


@pytest.mark.parametrize(
    ("crs", "west", "east"), [("EPSG:3413", 45, 135), ("EPSG:3995", 90, 180), ("EPSG:3031", 0, 90)]
)
def test_footprints_with_a_pole_at_the_corner(tmp_path, write_raster, cut, crs, west, east):
    transform = Affine(1000, 0, 0, 0, -1000, 100000)
    record = locate(tmp_path, write_raster, cut, crs, transform, 100, 100)
    shape = check_rules(record)
    assert record["bbox"][0::2] == [west, east]
    check_inside_and_outside(shape, crs, transform, (0, 0, 100, 100))


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:3031", "EPSG:3408"])
@pytest.mark.parametrize("size", [2e3, 2e5, 6e6])
@pytest.mark.parametrize("east", [0, 0.25, 0.4, 1])
@pytest.mark.parametrize("south", [0, 0.1, 0.25, 0.5, 1])
def test_footprints_with_a_pole_anywhere_on_the_edge(tmp_path, write_raster, cut, crs, size, east, south):
    """And inside: ``east`` and ``south`` are the pole's place as a share of the window."""
    transform = Affine(size / 100, 0, -size * east, 0, -size / 100, size * south)
    shape = check_rules(locate(tmp_path, write_raster, cut, crs, transform, 100, 100))
    check_inside_and_outside(shape, crs, transform, (0, 0, 100, 100))


MODIS = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m"


@pytest.mark.parametrize(
    ("h", "v", "on_earth"),
    [(18, 4, True), (35, 9, False), (0, 8, False), (1, 8, True), (14, 0, False), (17, 17, False)],
)
def test_tiles_of_a_sinusoidal_map_that_reach_off_the_earth_have_no_footprint(
    tmp_path, write_raster, cut, h, v, on_earth
):
    """MODIS's tiles are 10 degrees high; beyond 180 degrees PROJ wraps points that do not exist around the Earth."""
    metres = 6371007.181 * np.pi / 18
    transform = Affine(metres / 240, 0, (h - 18) * metres, 0, -metres / 240, (9 - v) * metres)
    record = locate(tmp_path, write_raster, cut, MODIS, transform, 240, 240)
    assert (record["geometry"] is not None) == on_earth
    if on_earth:
        check_inside_and_outside(check_rules(record), MODIS, transform, (0, 0, 240, 240))


@pytest.mark.parametrize(
    ("crs", "transform", "shape"),
    [
        *(("EPSG:4326", Affine(360 / n, 0, -180, 0, -360 / n, 90), (n, n // 2)) for n in (1440, 3600, 700, 900, 1100)),
        ("EPSG:4326", Affine(0.25, 0, 0, 0, -0.25, 90), (1440, 720)),
        ("EPSG:4326", Affine(0.25, 0, -0.125, 0, -0.25, 90.125), (1440, 721)),
        ("EPSG:4326", Affine(0.25, 0, -180.125, 0, -0.25, 90.125), (1440, 721)),
        *(
            ("EPSG:4087", Affine(EDGE_3857 / n, 0, -EDGE_3857, 0, -EDGE_3857 / n, EDGE_3857 / 2), (2 * n, n))
            for n in (180, 1800, 21600)
        ),
        ("EPSG:3857", Affine(EDGE_3857 / 512, 0, -EDGE_3857, 0, -EDGE_3857 / 512, EDGE_3857), (1024, 1024)),
        ("+proj=longlat +R=6371229 +no_defs", Affine(0.5, 0, 0, 0, -0.5, 90), (720, 360)),
    ],
)
def test_the_whole_world_stays_one_polygon(tmp_path, write_raster, cut, crs, transform, shape):
    record = locate(tmp_path, write_raster, cut, crs, transform, *shape)
    north = 85.0511288 if crs == "EPSG:3857" else 90
    assert record["bbox"] == [-180, -north, 180, north]
    assert record["geometry"]["type"] == "Polygon"
    assert check_rules(record).area == pytest.approx(360 * 2 * north)


@pytest.mark.parametrize("n", [180, 5400])
def test_equidistant_tiles_cover_the_world_by_any_version_of_proj(tmp_path, write_raster, cut, n):
    """10,018,754 m from the equator is the pole of a sphere, but 17 km beyond that of WGS84's ellipsoid."""
    transform = Affine(EDGE_3857 / n, 0, -EDGE_3857, 0, -EDGE_3857 / n, EDGE_3857 / 2)
    locate(tmp_path, write_raster, cut, "EPSG:4087", transform, 2 * n, n)
    tiles = cut(tmp_path / "x.tif", bands=["red"], size=n // 4, min_valid=0.0)
    assert len(tiles) == 32
    assert sum(check_rules(tile).area for tile in tiles) == pytest.approx(360 * 180)
    _, to_row_1 = to_lonlat("EPSG:4087", transform, 0, n / 4)
    assert tiles[0]["bbox"] == pytest.approx([-180, float(to_row_1), -135, 90])
    with rasterio.open(tmp_path / "x.tif") as raster:
        ((sliver, _),) = rasters.Locator(raster).footprints([(0, 0, n // 4, 1)])
    _, bottom = to_lonlat("EPSG:4087", transform, 0, 1)
    assert (sliver["geometry"] is None) == (bottom >= 90)


def test_a_tile_off_the_earth_does_not_take_its_neighbours_footprints(tmp_path, write_raster, cut):
    """PROJ fails all points of a row if one is nowhere, and only the first time."""
    pixels = np.ones((1, 20, 200), "uint8")
    transform = Affine(2e5, 0, -2e7, 0, -2e5, 2e6)  # 20,000 km to the west of the middle to 20,000 km to the east
    for name in ("first", "second"):
        path = write_raster(tmp_path / f"{name}.tif", pixels, names=["red"], crs="+proj=moll", transform=transform)
        found = [tile["geometry"] is not None for tile in cut(path, size=20)]
        assert found == [False, *[True] * 8, False]


def test_tiles_outside_a_satellites_view_have_no_footprint(tmp_path, write_raster, cut):
    crs = "+proj=geos +h=35786023 +lon_0=-75 +sweep=x +ellps=GRS80"
    transform = Affine(20000, 0, -5430000, 0, -20000, 5430000)
    boxes = {
        "corner": (0, 0, 60, 60),
        "limb": (0, 240, 40, 60),
        "nadir": (250, 250, 60, 60),
        "Andes": (290, 330, 64, 64),
    }
    records = {name: locate(tmp_path, write_raster, cut, crs, transform, 543, 543, box) for name, box in boxes.items()}
    for name in ("corner", "limb"):
        assert records[name]["geometry"] is None
    for name in ("nadir", "Andes"):
        shape = check_rules(records[name])
        check_inside_and_outside(shape, crs, transform, boxes[name])
        check_edges(shape, crs, transform, boxes[name], tolerance_px=0.3)  # the datum differs by centimetres
    whole = locate(tmp_path, write_raster, cut, crs, transform, 543, 543)
    assert whole["geometry"] is None
    assert "bbox" not in whole
    assert "Geostationary" in whole["properties"]["proj:wkt2"]


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:32633", "ESRI:54008"])
@pytest.mark.parametrize("size", [1e10, 1e14, 1e200, 1e300])
def test_places_beyond_any_map_have_no_footprint(tmp_path, write_raster, rsr, crs, size):
    """GDAL turns the longitudes of web Mercator back by one turn at a time, which would take for ever."""
    transform = Affine(size, 0, size, 0, -size, size)
    path = write_raster(tmp_path / "x.tif", np.ones((1, 8, 8), "uint16"), crs=crs, transform=transform)
    tile = ["tile", "--bands", "red", "--scale", 1, "--offset", 0, path]
    done = rsr(*tile, "--whole")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["geometry"] is None
    done = rsr(*tile, "--grid", "major-tom:10km")
    assert done.returncode == 1
    assert b"has no footprint on a map" in done.stderr


def test_a_point_that_is_not_on_a_map_does_not_fail_its_neighbours(tmp_path, write_raster, rsr):
    """PROJ fails all points of a call, if it is asked for one outside of a projection's domain."""
    transform = Affine(-1, 5e6, 5e6, 5e6, 0, 0)
    path = write_raster(tmp_path / "a.tif", np.ones((1, 24, 24), "uint16"), crs="EPSG:32633", transform=transform)
    done = rsr("tile", "--sensor", "rgb", "--bands", "red", "--scale", 1, "--size", 1, "--min-valid", 0, path)
    geometries = [json.loads(line)["geometry"] for line in done.stdout.splitlines()]
    assert (done.returncode, len(geometries)) == (0, 24**2)


def test_footprints_that_cross_themselves_and_the_antimeridian(tmp_path, write_raster, rsr):
    """Of pixels of half the Earth; GEOS refuses to cut an invalid polygon."""
    transform = Affine(180, 1, 0, 10, 1, 1)
    path = write_raster(tmp_path / "a.tif", np.ones((1, 37, 37), "uint16"), crs="EPSG:4326", transform=transform)
    done = rsr("tile", "--sensor", "rgb", "--bands", "red", "--scale", 1, "--size", 1, "--min-valid", 0, path)
    geometries = [json.loads(line)["geometry"] for line in done.stdout.splitlines()]
    assert (done.returncode, len(geometries)) == (0, 37**2)
    cut = [shapely.geometry.shape(each) for each in geometries if each and each["type"] == "MultiPolygon"]
    assert cut
    assert all(shape.is_valid for shape in cut)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (None, Affine.identity()),
        (None, grid(10)),
        ("EPSG:32633", Affine.identity()),  # a CRS without a place
        ('LOCAL_CS["site",UNIT["metre",1]]', grid(10)),
        ("+proj=longlat +R=1737400 +no_defs", Affine(0.1, 0, 0, 0, -0.1, 10)),  # the Moon
        ("EPSG:4326", grid(10)),  # metres taken for degrees
        ("+proj=moll +datum=WGS84", Affine(2e5, 0, -1.8e7, 0, -2e5, 9e6)),  # corners beyond the Earth
    ],
)
def test_no_usable_crs_no_footprint(tmp_path, write_raster, cut, crs, transform):
    record = locate(tmp_path, write_raster, cut, crs, transform, 180, 90)
    assert record["geometry"] is None
    assert not record.get("bbox")
    placed = transform != Affine.identity()
    assert record["properties"].get("proj:transform") == (list(transform)[:6] if placed else None)
    assert ("proj:code" in record["properties"]) == (crs is not None and placed)
    assert ("gsd" in record["properties"]) == (crs == "+proj=longlat +R=1737400 +no_defs")
    json.dumps(record, allow_nan=False)


# Ground sample distance ----------------------------------------------------------------------------------------------

US_FOOT = 1200 / 3937  # metres


@pytest.mark.parametrize(
    ("crs", "transform", "gsd"),
    [
        ("EPSG:32633", grid(10), 10),
        ("EPSG:32633", grid(10) @ Affine.rotation(33), 10),
        ("EPSG:32633", Affine(30, 0, 6e5, 0, 7.5, 5e6), 15),  # the geometric mean of both sides
        ("EPSG:2263", Affine(3, 0, 1e6, 0, -3, 2e5), 3 * US_FOOT),
        ("EPSG:32633", Affine(10, 0, 1.66e5, 0, -10, 2e4), 10),  # the zone's edge at the equator, where 10 m are 9.99
        ("EPSG:3031", Affine(10, 0, 0, 0, -10, 2e6), 10),  # true to scale at 71 S, here at 72
        ("+proj=laea +lat_0=45 +lon_0=-100 +units=km", Affine(0.5, 0, 0, 0, -0.5, 0), 500),
    ],
)
def test_gsd_of_a_projected_grid_is_its_pixel_size_in_metres(tmp_path, write_raster, cut, crs, transform, gsd):
    side = abs(transform.determinant) ** 0.5
    assert side * pyproj.CRS(crs).axis_info[0].unit_conversion_factor == pytest.approx(gsd, rel=1e-12)
    path = write_raster(tmp_path / "x.tif", np.ones((20, 30), "uint8"), crs=crs, transform=transform, names=["red"])
    assert [tile["properties"]["gsd"] for tile in cut(path, size=10)] == [float(f"{gsd:.6g}")] * 6


@pytest.mark.parametrize(
    ("crs", "x", "y"),
    [
        ("EPSG:3857", 1.95e7, -4.8e6),  # 39.5 S
        ("EPSG:3857", -8e6, 8.4e6),  # 60 N
        ("EPSG:3857", -2.00376e7, 8.4e6),  # across the antimeridian
        ("EPSG:3395", 1e6, 8.36e6),  # the ellipsoid's Mercator
        ("EPSG:3995", -5e5, -1e5),  # 85 N; true to scale at 71
        ("EPSG:3413", 2e6, -2.5e6),
        ("EPSG:32633", 4e6, 5e6),  # far outside the zone
        ("EPSG:4087", 0, 7e6),
        ("+proj=geos +h=35785831 +lon_0=0 +sweep=y +datum=WGS84", 3e6, 3e6),
    ],
)
@pytest.mark.parametrize("angle", [0, 30])
def test_gsd_where_the_map_is_not_true_to_scale_is_on_the_ground(tmp_path, write_raster, cut, crs, x, y, angle):
    transform = Affine(4, 0, x, 0, -4, y) @ Affine.rotation(angle)
    path = write_raster(tmp_path / "x.tif", np.ones((400, 200), "uint8"), crs=crs, transform=transform, names=["red"])
    geod = pyproj.Geod(ellps="WGS84")
    tiles = cut(path, size=200)
    assert len(tiles) == 2
    for tile in tiles:
        left, top, width, height = tile["properties"]["window"]
        corners = [left, left + width, left + width, left], [top, top, top + height, top + height]
        lon, lat = to_lonlat(crs, transform, *corners)
        area, _ = geod.polygon_area_perimeter(lon, lat)
        assert tile["properties"]["gsd"] == pytest.approx(abs(area) ** 0.5 / 200, rel=1e-4)
        assert abs(tile["properties"]["gsd"] - 4) > 0.04


@pytest.mark.parametrize(("y", "pixel", "gsd"), [(-4789800, 4, 3.09), (8399738, 10, 5.01), (0, 10, 10)])
def test_gsd_in_web_mercator(tmp_path, write_raster, cut, y, pixel, gsd):
    """A pixel of the map at 39.5 S and 60 N has the cosine of the latitude as its share on the ground."""
    transform = Affine(pixel, 0, 19e6, 0, -pixel, y)
    path = write_raster(tmp_path / "x.tif", np.ones((9, 9), "uint8"), crs="EPSG:3857", transform=transform)
    (tile,) = cut(path, bands=["red"])
    assert tile["properties"]["gsd"] == pytest.approx(gsd, rel=4e-3)  # the Earth is flatter than the cosine


@pytest.mark.parametrize(("crs", "north"), [("EPSG:3857", 66.513260443), ("EPSG:4087", 90)])
def test_gsd_of_the_whole_world_is_that_of_its_area(tmp_path, write_raster, cut, crs, north):
    """The grid of EPSG:4087 ends at the poles with PROJ 9.5, and 17 km beyond them with 9.8."""
    width = 2 * 20037508.342789244
    transform = Affine(width / 100, 0, -width / 2, 0, -width / 100, 25 * width / 100)
    whole = locate(tmp_path, write_raster, cut, crs, transform, 100, 50)
    geod = pyproj.Geod(ellps="WGS84")
    area, _ = geod.polygon_area_perimeter([0, 0.001, 0.001, 0], [-north, -north, north, north])
    assert whole["properties"]["gsd"] == pytest.approx((abs(area) * 360000 / 5000) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(1e-4, 0, 12, 0, -1e-4, 60.001)),
        ("EPSG:4326", Affine(0.001, 0, 12, 0, -0.0005, 60.005)),
        ("EPSG:4326", Affine(1e-4, 0, 12, 0, 1e-4, -33)),
        ("EPSG:4267", Affine(1e-4, 0, -100, 0, -1e-4, 40)),  # Clarke's ellipsoid
        ("EPSG:4807", Affine(1e-4, 0, 3, 0, -1e-4, 54)),  # grads
        ("+proj=longlat +R=1737400 +no_defs", Affine(0.001, 0, 0, 0, -0.001, 10)),  # the Moon
    ],
)
def test_gsd_of_a_geographic_grid_is_that_of_the_tiles_latitude(tmp_path, write_raster, cut, crs, transform):
    path = write_raster(tmp_path / "x.tif", np.ones((400, 10), "uint8"), crs=crs, transform=transform, names=["red"])
    degrees = np.degrees(pyproj.CRS(crs).axis_info[0].unit_conversion_factor)
    geod = pyproj.CRS(crs).get_geod()
    tiles = cut(path, size=10)
    for tile in tiles:
        _, row, _, _ = tile["properties"]["window"]
        ends = [(4.5, row + 5), (5.5, row + 5), (5, row + 4.5), (5, row + 5.5)]  # across and along the middle pixel
        west, east, north, south = np.array([transform @ end for end in ends]) * degrees
        sides = [geod.inv(*one, *two)[2] for one, two in ((west, east), (north, south))]
        assert tile["properties"]["gsd"] == pytest.approx(np.sqrt(np.prod(sides)), rel=6e-6)  # 6 digits
    assert len({tile["properties"]["gsd"] for tile in tiles}) > 3


def test_gsd_of_60_degrees_north_is_half_as_wide_as_high(tmp_path, write_raster, cut):
    transform = Affine(0.001, 0, 12, 0, -0.001, 60.005)
    path = write_raster(tmp_path / "x.tif", np.ones((10, 10), "uint8"), crs="EPSG:4326", transform=transform)
    (tile,) = cut(path, bands=["red"])
    # 55.8 m and 111.4 m per thousandth of a degree
    assert tile["properties"]["gsd"] == pytest.approx((55.800 * 111.412) ** 0.5, rel=1e-4)
