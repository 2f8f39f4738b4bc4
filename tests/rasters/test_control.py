"""Footprints by ground control points and rational polynomials, against pyproj, shapely and GDAL's own transformers."""

import itertools
import json
import re

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.shutil
import shapely
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import GCPTransformer
from shapely.affinity import translate
from support_footprints import check_inside_and_outside, check_rules
from support_rasters import ONES, RNG, bands_of, same_pixels

EDGE_3857 = 20037508.342789244


def wrapped(lon):
    """Return longitudes from -180 to 180."""
    return (np.asarray(lon) + 180) % 360 - 180


def points_of(place, columns, rows):
    """Return a grid of control points; ``place`` maps columns and rows to x and y."""
    pairs = np.array(list(itertools.product(columns, rows)), dtype=float)
    places = np.transpose(place(*pairs.T))
    return [GroundControlPoint(row, column, x, y) for (column, row), (x, y) in zip(pairs, places, strict=True)]


@pytest.fixture
def tiles_of(tmp_path, write_raster, cut):
    """Return a function that writes a raster with control points and cuts it."""

    def tiles(points, width=100, height=100, size=None, crs="EPSG:4326", **options):
        path = write_raster(tmp_path / "x.tif", bands_of(1, height, width), crs=crs, gcps=points, names=["red"])
        return cut(path, size=size, **options)

    return tiles


def cut_by_hand(ring):
    """Return a polygon of continuous longitudes as its parts between -180 and 180."""
    parts = [translate(shapely.Polygon(ring), turn).intersection(shapely.box(-180, -90, 180, 90)) for turn in (-360, 0)]
    return shapely.union_all(
        [*parts, translate(shapely.Polygon(ring), 360).intersection(shapely.box(-180, -90, 180, 90))]
    )


def box_of(tile):
    """Return the columns and rows of a tile's corners."""
    left, top, width, height = tile["properties"]["window"]
    return np.array([(left, top), (left, top + height), (left + width, top + height), (left + width, top)], float).T


def test_ground_control_points_only(tmp_path, write_raster, cut, capfd):
    true = Affine(0.001, 0.0002, 12, 0.0001, -0.0008, 48)
    points = points_of(lambda columns, rows: true @ (columns, rows), (0.5, 149.5), (0.5, 60, 99.5))
    path = write_raster(tmp_path / "x.tif", bands_of(1, 100, 150), crs="EPSG:4326", gcps=points, names=["red"])
    tiles = cut(path, size=50, chips=str(tmp_path / "chips"))
    assert len(tiles) == 6
    for tile in tiles:
        shape = check_rules(tile)
        corners = shapely.Polygon(np.transpose(true @ tuple(box_of({"properties": {"window": window_in_scene(tile)}}))))
        assert shape.symmetric_difference(corners).area < shape.area * 1e-5
        area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(corners)
        assert tile["properties"]["gsd"] == pytest.approx(abs(area) ** 0.5 / 50, rel=1e-4)
        assert tile["properties"]["proj:code"] == "EPSG:4326"
        assert "proj:transform" not in tile["properties"]
        (again,) = cut(tile["properties"]["source"])
        assert shapely.geometry.shape(again["geometry"]).symmetric_difference(shape).area < shape.area * 1e-5
        same_pixels(again, tile, ["red"])
    assert capfd.readouterr().err == ""  # GDAL keeps its trouble with them to itself


def window_in_scene(chip):
    """Return the window that a chip of 50 pixels was cut from."""
    return [*map(int, chip["id"].split("_")[-2:]), 50, 50]


# Longitudes that wrap -------------------------------------------------------------------------------------------------

MANY = (0, 25, 50, 75, 100)
OVER_180 = {
    "from the west": (Affine(0.02, 0, 179, 0, -0.01, 61), MANY, MANY),
    "just over": (Affine(0.02, 0, 178.01, 0, -0.01, 61), MANY, MANY),
    "mirrored": (Affine(-0.02, 0, 181, 0, -0.01, 61), MANY, MANY),
    "south-up": (Affine(0.02, 0, 179.5, 0, 0.01, -20), MANY, MANY),
    "rotated": (Affine(0.01, 0, 179.7, 0, -0.01, 5) @ Affine.rotation(30), MANY, MANY),
    "corners": (Affine(0.02, 0, 179, 0, -0.01, 61), (0, 100), (0, 100)),
    "two columns": (Affine(0.02, 0, 179, 0, -0.01, 61), (0, 100), MANY),
    "three columns": (Affine(0.02, 0, 179, 0, -0.01, 61), (0, 40, 100), (0, 100)),
    "wide": (Affine(0.4, 0, 165, 0, -0.2, 30), MANY, MANY),
    "pixels five times as high": (Affine(0.001, 0, 179.96, 0, -0.005, 10), MANY, MANY),
}


@pytest.mark.parametrize("case", OVER_180)
def test_control_points_that_wrap_at_180_degrees(tiles_of, case):
    true, columns, rows = OVER_180[case]

    def place(columns, rows):
        lon, lat = true @ (columns, rows)
        return wrapped(lon), lat

    tiles = tiles_of(points_of(place, columns, rows), size=50)
    assert len(tiles) == 4
    for tile in tiles:
        shape = check_rules(tile)
        ring = np.transpose(true @ tuple(box_of(tile)))
        assert shape.symmetric_difference(cut_by_hand(ring)).area < shape.area * 1e-6
        west, _, east, _ = tile["bbox"]
        assert wrapped(west - ring[:, 0].min()) == pytest.approx(0, abs=1e-6)
        assert wrapped(east - ring[:, 0].max()) == pytest.approx(0, abs=1e-6)
        assert (shape.geom_type == "MultiPolygon") == (west > east)
        area = abs(
            pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapely.segmentize(shapely.Polygon(ring), 0.1))[0]
        )
        assert tile["properties"]["gsd"] == pytest.approx(area**0.5 / 50, rel=1e-4)
    assert any(tile["bbox"][0] > tile["bbox"][2] or 180 in map(abs, tile["bbox"][::2]) for tile in tiles)


@pytest.mark.parametrize("columns", [(0, 100), MANY])
def test_control_points_that_wrap_elsewhere(tiles_of, columns):
    true = Affine(0.02, 0, 359, 0, -0.01, 61)  # longitudes from 0 to 360

    def place(columns, rows):
        lon, lat = true @ (columns, rows)
        return lon % 360, lat

    for tile in tiles_of(points_of(place, columns, columns), size=50):
        assert check_rules(tile).geom_type == "Polygon"
        ring = np.transpose(true @ tuple(box_of(tile))) - (360, 0)
        assert shapely.geometry.shape(tile["geometry"]).symmetric_difference(shapely.Polygon(ring)).area < 1e-6


@pytest.mark.parametrize(
    ("crs", "true", "wrap"),
    [
        ("EPSG:3857", Affine(1000, 0, EDGE_3857 - 4e4, 0, -1000, 3e6), True),
        ("EPSG:32660", Affine(1000, 0, 799980, 0, -1000, 7.2e6), False),
        ("EPSG:32601", Affine(1000, 0, 139980, 0, -1000, 7.2e6), False),
        ("EPSG:3413", Affine(1000, 0, -950000, 0, -1000, 950000), False),
        ("EPSG:3413", Affine(4000, 0, -150000, 0, -1000, 40000), False),
        ("EPSG:3031", Affine(1000, 0, -40000, 0, -1000, 60000), False),
    ],
)
@pytest.mark.parametrize("columns", [(0, 100), MANY])
def test_control_points_of_a_map(tiles_of, crs, true, wrap, columns):
    def place(columns, rows):
        x, y = true @ (columns, rows)
        return (x + EDGE_3857) % (2 * EDGE_3857) - EDGE_3857 if wrap else x, y

    for tile in tiles_of(points_of(place, columns, columns), size=50, crs=crs):
        check_inside_and_outside(check_rules(tile), crs, true, tile["properties"]["window"])
        assert tile["properties"]["proj:code"] == crs


@pytest.mark.parametrize(
    ("ends", "box"),
    [
        ((-180, 90, 180, -90), [-180, -90, 180, 90]),
        ((0, 90, 360, -90), [-180, -90, 180, 90]),
        ((-180, 60, 180, -60), [-180, -60, 180, 60]),
        ((-180, 90, 0, -90), [-180, -90, 0, 90]),
        ((0, 80, 90, 0), [0, 0, 90, 80]),
        ((-100, 70, 100, -70), [-100, -70, 100, 70]),
    ],
)
@pytest.mark.parametrize("share", [np.array([0, 1]), np.array([0.005, 0.995]), np.linspace(0, 1, 12)])
def test_control_points_of_a_world_map_do_not_wrap(tiles_of, ends, box, share):
    """Their pixels are square in degrees, which they would not be if the longitudes had wrapped."""
    west, north, east, south = ends
    size = (east - west) / 100
    height = round((north - south) / size)
    true = Affine(size, 0, west, 0, (south - north) / height, north)
    points = points_of(lambda columns, rows: true @ (columns, rows), share * 100, share * height)
    (tile,) = tiles_of(points, height=height)
    shape = check_rules(tile)
    assert tile["bbox"] == pytest.approx(box, abs=1e-6)
    assert shape.area == pytest.approx((box[2] - box[0]) * (box[3] - box[1]), rel=1e-6)


# Poles ----------------------------------------------------------------------------------------------------------------

SWATHS = {
    "over the pole": ("EPSG:3413", Affine(1000, 0, -40e3, 0, -1000, 60e3)),
    "over the pole, turned": ("EPSG:3413", Affine(1000, 0, -40e3, 0, -1000, 60e3) @ Affine.rotation(30)),
    "over the pole, pixels three times as wide": ("EPSG:3031", Affine(3000, 0, -100e3, 0, -1000, 60e3)),
    "pole on the edge": ("EPSG:3413", Affine(1000, 0, 0, 0, -1000, 60e3)),
    "pole a pixel away": ("EPSG:3031", Affine(1000, 0, 1000, 0, -1000, 30e3)),
    "beside the pole": ("EPSG:3413", Affine(1000, 0, 100e3, 0, -1000, 60e3)),
    "a radar's strip": ("EPSG:3995", Affine(400, 0, -200e3, 0, -4000, 500e3)),
    "far from the pole, over 180 degrees": ("EPSG:3413", Affine(1000, 0, -900e3, 0, -1000, 900e3)),
    "a third of a hemisphere": ("+proj=laea +lat_0=70 +lon_0=100 +datum=WGS84", Affine(5e4, 0, -25e5, 0, -5e4, 25e5)),
}


@pytest.mark.parametrize("case", SWATHS)
@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_swaths_near_a_pole(tiles_of, case, count):
    """Control points in lon/lat, as swaths have them, of pixels that are a plane map's."""
    crs, true = SWATHS[case]
    lonlat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    grid = np.linspace(0, 100, count)
    tiles = tiles_of(points_of(lambda columns, rows: lonlat.transform(*(true @ (columns, rows))), grid, grid), size=50)
    for tile in tiles:
        check_inside_and_outside(check_rules(tile), crs, true, tile["properties"]["window"])
        left, top, width, height = tile["properties"]["window"]
        to_map = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
        pole = 90 if tile["bbox"][3] > 0 else -90
        column, row = ~true @ to_map.transform(0, pole)
        inside = min(column - left, left + width - column, row - top, top + height - row)
        if inside > 1:
            assert tile["bbox"][::2] == [-180, 180]
        if abs(inside) > 1:
            assert (pole in tile["bbox"][1::2]) == (inside > 0)


def orbit(node, start, length_px, pixel_km=3.0, width_px=800):
    """Return a function from columns and rows to lon, lat of a swath along an orbit of 98 degrees on a sphere.

    ``node`` is the longitude where the orbit crosses the equator, ``start`` the first row's angle from there.
    """
    inclination = np.radians(98)

    def place(columns, rows):
        along = np.radians(start) + np.asarray(rows) * pixel_km / 6371
        across = (np.asarray(columns) - width_px / 2) * pixel_km / 6371
        track = np.array([np.cos(along), np.sin(along) * np.cos(inclination), np.sin(along) * np.sin(inclination)])
        side = np.array([0, -np.sin(inclination), np.cos(inclination)])[:, None]
        x, y, z = track * np.cos(across) - side * np.sin(across)
        return wrapped(np.degrees(np.arctan2(y, x)) + node), np.degrees(np.arcsin(z))

    return place


@pytest.mark.parametrize(
    ("node", "start", "length_px"),
    [(20, 10, 800), (180, -10, 800), (-20, 75, 800), (100, -100, 800), (20, -50, 4000), (160, 20, 4000)],
)
def test_swaths_along_an_orbit(tiles_of, node, start, length_px):
    """Granules, one over the antimeridian and two over a pole, and half orbits."""
    place = orbit(node, start, length_px)
    points = points_of(place, np.linspace(0, 800, 9), np.linspace(0, length_px, 1 + length_px // 80))
    for tile in tiles_of(points, 800, length_px, size=400):
        left, top, width, height = tile["properties"]["window"]
        columns = RNG.uniform(left - 100, left + width + 100, 1000)
        rows = RNG.uniform(top - 100, top + height + 100, 1000)
        found = shapely.contains_xy(check_rules(tile), *place(columns, rows))
        beyond = np.maximum.reduce([left - columns, columns - left - width, top - rows, rows - top - height])
        assert found[beyond < -1].all()
        assert not found[beyond > 1].any()


# Thin plate splines ---------------------------------------------------------------------------------------------------


def by_gdal(points, columns, rows, **options):
    """Place pixels by GDAL's own transformer, in the points' CRS."""
    with rasterio.Env(), GCPTransformer(points, **options) as transformer:
        return np.transpose(transformer.xy(rows, columns, offset="ul"))


def outline(tile, segments=200):
    """Return the columns and rows of points along a tile's outline."""
    return shapely.get_coordinates(shapely.segmentize(shapely.Polygon(box_of(tile).T), 50 / segments)).T


def apart_px(tile, ring, pixel_degrees=0.01):
    """Return the distance in pixels of a tile's footprint from a ring of continuous longitudes."""
    return check_rules(tile).boundary.hausdorff_distance(cut_by_hand(ring).boundary) / pixel_degrees


@pytest.mark.parametrize("west", [12, 179.2, -180.6])
@pytest.mark.parametrize(("waves_px", "splines"), [(0.3, False), (8, True)])
def test_thin_plate_splines_where_the_polynomial_misses_the_points(tiles_of, west, waves_px, splines):
    def place(columns, rows):
        lon = west + 0.01 * (columns + waves_px * np.sin(rows / 12))
        return lon, 50 - 0.01 * (rows + waves_px * np.sin(columns / 15))

    def place_wrapped(columns, rows):
        lon, lat = place(columns, rows)
        return wrapped(lon), lat

    grid = np.linspace(0, 100, 14)
    points = points_of(place, grid, grid)
    columns, rows = np.transpose([(point.col, point.row) for point in points])
    missed = by_gdal(points, columns, rows) - [(point.x, point.y) for point in points]
    assert (np.abs(missed).max() > 0.01) == splines
    for tile in tiles_of(points_of(place_wrapped, grid, grid), size=50):
        along = outline(tile)
        assert apart_px(tile, by_gdal(points, *along, tps=splines)) < 0.3
        assert apart_px(tile, np.transpose(place(*along))) < 0.6  # between the points the waves are not known


def test_corners_far_apart_are_those_of_a_plane_map_if_its_pixels_fit_them(tiles_of):
    """A row of pixels is no line in lon/lat; halfway between the corners the difference is 9 pixels here."""
    crs, true = "EPSG:32633", Affine(1800, 0, 410e3, 0, -1800, 6.8e6)
    lonlat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    points = points_of(lambda columns, rows: lonlat.transform(*(true @ (columns, rows))), (0, 100), (0, 100))
    for tile in tiles_of(points, size=50):
        check_inside_and_outside(check_rules(tile), crs, true, tile["properties"]["window"])


def test_splines_through_many_points(tiles_of):
    def place(columns, rows):
        return 12 + 0.01 * (columns + 5 * np.sin(rows / 12)), 50 - 0.01 * (rows + 5 * np.sin(columns / 15))

    grid = np.linspace(0, 100, 40)
    for tile in tiles_of(points_of(place, grid, grid), size=50):
        assert apart_px(tile, np.transpose(place(*outline(tile)))) < 0.4


def test_control_points_that_disagree_about_a_pixel(tiles_of):
    points = points_of(lambda columns, rows: (12 + columns / 100, 50 - rows / 100), MANY, MANY)
    (tile,) = tiles_of([*points, GroundControlPoint(50, 50, 12.6, 49.4)])
    assert apart_px(tile, by_gdal([*points, GroundControlPoint(50, 50, 12.6, 49.4)], *outline(tile))) < 0.3


# Points that do not suffice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels",
    [
        [(5, 5)],
        [(5, 5)] * 6,
        [(0, 0), (0, 100)],
        [(0, 50), (100, 50)],
        [(0, 0), (50, 50), (100, 100)],
        [(step, 2 * step) for step in range(0, 50, 7)],
        [(0, 0), (100, 0), (0, np.nan), (0, 100)],
    ],
)
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32633"])
def test_control_points_that_do_not_determine_a_place_give_no_footprint(tiles_of, pixels, crs):
    scale = 1000 if crs == "EPSG:32633" else 0.01
    points = [GroundControlPoint(row, column, column * scale, row * scale) for column, row in pixels]
    (tile,) = tiles_of(points, crs=crs)
    assert tile["geometry"] is None
    assert "bbox" not in tile
    assert "gsd" not in tile["properties"]


@pytest.mark.parametrize("places", [[(12, 50)] * 4, [(12, 50), (13, 51), (14, 52), (15, 53)], [(4e5, 5e6)] * 4])
def test_control_points_of_one_place_or_line_give_no_footprint(tiles_of, places):
    corners = itertools.product((0, 100), (0, 100))
    (tile,) = tiles_of([GroundControlPoint(*corner, *place) for corner, place in zip(corners, places, strict=True)])
    assert tile["geometry"] is None


def test_two_control_points_are_of_a_north_up_image(tiles_of):
    for west in (12, 179.5):
        points = [
            GroundControlPoint(10, 20, wrapped(west + 0.2), 50),
            GroundControlPoint(90, 80, wrapped(west + 0.8), 49.2),
        ]
        (tile,) = tiles_of(points)
        assert tile["bbox"] == pytest.approx([west, 49.1, wrapped(west + 1), 50.1])
        check_rules(tile)


@pytest.mark.parametrize("far", [1e10, 1e200, 1e308])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_control_points_beyond_any_map_give_no_footprint(tmp_path, write_raster, rsr, far, crs):
    """Numbers that overflow would make LAPACK write to stderr."""
    corners = [(0, 0, 1, 1), (0, 8, far, 1), (8, 0, 1, -far), (8, 8, far, -far)]
    path = write_raster(
        tmp_path / "x.tif", np.ones((1, 8, 8), "uint16"), gcps=[GroundControlPoint(*each) for each in corners], crs=crs
    )
    done = rsr("tile", "--bands", "red", "--scale", 1, "--offset", 0, "--whole", path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["geometry"] is None


def test_control_points_without_a_crs_give_no_footprint(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "x.tif", ONES, crs=None, transform=Affine.identity(), names=["red"])
    with rasterio.open(path, "r+") as raster:
        raster.gcps = points_of(lambda columns, rows: (columns, rows), (0, 8), (0, 8)), rasterio.crs.CRS()
    with rasterio.open(path) as raster:
        assert len(raster.gcps[0]) == 4
    (tile,) = cut(path)
    assert tile["geometry"] is None


# Rational polynomials -------------------------------------------------------------------------------------------------


def rpc_pixel(rpc, lon, lat, height):
    """Project lon, lat and height to column and row, by the RPC00B specification."""
    x, y = (lon - rpc.long_off) / rpc.long_scale, (lat - rpc.lat_off) / rpc.lat_scale
    z = (height - rpc.height_off) / rpc.height_scale
    terms = [1, x, y, z, x * y, x * z, y * z, x * x, y * y, z * z, x * y * z, x**3, x * y * y, x * z * z, x * x * y]
    terms += [y**3, y * z * z, x * x * z, y * y * z, z**3]

    def polynomial(coefficients):
        return sum(c * term for c, term in zip(coefficients, terms, strict=True))

    column = polynomial(rpc.samp_num_coeff) / polynomial(rpc.samp_den_coeff) * rpc.samp_scale + rpc.samp_off
    row = polynomial(rpc.line_num_coeff) / polynomial(rpc.line_den_coeff) * rpc.line_scale + rpc.line_off
    return column + 0.5, row + 0.5  # which counts from the first pixel's centre


def rational(**settings):
    """Return rational polynomials of a scene of 1200 x 1000 pixels."""
    first = [1.0, *[0.0] * 19]
    usual = {
        "height_off": 2500.0,
        "height_scale": 500.0,
        "line_off": 500.0,
        "samp_off": 600.0,
        "lat_off": 46.0,
        "lat_scale": 0.1,
        "long_off": 8.0,
        "long_scale": 0.15,
        "line_scale": 500.0,
        "samp_scale": 600.0,
        "line_den_coeff": first,
        "samp_den_coeff": first,
        "line_num_coeff": [0.0, 0.1, -1.0, 0.02, *[0.0] * 16],
        "samp_num_coeff": [0.0, 1.0, 0.05, -0.03, 0.01, *[0.0] * 15],
    }
    return RPC(**usual | settings)


@pytest.fixture
def write_rational(tmp_path, write_raster):
    """Return a function that writes a raster of 1200 x 1000 pixels with rational polynomials, and returns its path."""

    def write(rpc, name="x"):
        path = tmp_path / f"{name}.tif"
        write_raster(path, bands_of(1, 1000, 1200), crs=None, transform=Affine.identity(), names=["red"])
        with rasterio.open(path, "r+") as raster:
            raster.rpcs = rpc
        return path

    return write


@pytest.mark.parametrize("place", [(8, 46), (179.95, 46), (-179.95, -46), (180, 10), (-180, 70), (179.9, 85)])
def test_rational_polynomials_only_at_the_scenes_mean_height(tmp_path, write_rational, cut, place):
    lon, lat = map(float, place)
    rpc = rational(long_off=lon, lat_off=lat)
    over_180 = 0
    for tile in cut(write_rational(rpc), size=400, chips=str(tmp_path / "chips")):
        left, top = map(int, tile["id"].split("_")[-2:])
        box = shapely.LinearRing([(left, top), (left, top + 400), (left + 400, top + 400), (left + 400, top)])
        shape = check_rules(tile)
        found = []
        for part in shapely.get_parts(shape):
            lon, lat = np.array(part.exterior.coords).T
            columns, rows = rpc_pixel(rpc, rpc.long_off + wrapped(lon - rpc.long_off), lat, 2500.0)
            on_edge = np.abs(lon) < 180  # and not where it is cut
            assert shapely.distance(box, shapely.points(columns, rows))[on_edge].max() < 0.1
            found.append(shapely.Polygon(zip(columns, rows, strict=True)).area)
        assert sum(found) == pytest.approx(400**2, rel=1e-3)
        over_180 += len(found) == 2
        assert (tile["bbox"][0] > tile["bbox"][2]) == (len(found) == 2)
        (again,) = cut(tile["properties"]["source"])
        assert shapely.geometry.shape(again["geometry"]).symmetric_difference(shape).area < shape.area * 1e-4
    assert (over_180 > 0) == (abs(place[0]) > 100)


@pytest.mark.parametrize("control", ["points", "polynomials"])
def test_control_places_a_raster_whose_geotransform_has_no_crs(tmp_path, write_raster, cut, control):
    """Such a geotransform places nothing, but it relates bands of different sizes, so it stays in the record."""
    path = tmp_path / "x.vrt"
    write_raster(tmp_path / "x.tif", bands_of(1, 1000, 1200), crs=None, transform=Affine.identity(), names=["red"])
    with rasterio.open(tmp_path / "x.tif", "r+") as raster:
        if control == "polynomials":
            raster.rpcs = rational()
        else:
            true = Affine(1e-4, 0, 8, 0, -1e-4, 46)
            raster.gcps = (
                points_of(lambda columns, rows: true @ (columns, rows), (0, 1200), (0, 1000)),
                rasterio.CRS.from_epsg(4326),
            )
    (expected,) = cut(tmp_path / "x.tif")
    rasterio.shutil.copy(tmp_path / "x.tif", path, driver="VRT")
    place = "<GeoTransform>0, 20, 0, 0, 0, 20</GeoTransform>"
    without = re.sub("<GeoTransform>.*</GeoTransform>", "", path.read_text())
    path.write_text(without.replace("<VRTRasterBand", f"{place}<VRTRasterBand", 1))
    (tile,) = cut(path)
    assert tile["bbox"] == expected["bbox"]
    assert tile["properties"]["gsd"] == expected["properties"]["gsd"]
    assert tile["properties"]["proj:transform"] == [20, 0, 0, 0, 20, 0]
    assert "proj:code" not in tile["properties"]
    for chip in cut(path, size=400, chips=tmp_path / "chips"):
        (again,) = cut(chip["properties"]["source"])
        assert again["bbox"] == pytest.approx(chip["bbox"], abs=1e-6)


UNSOLVABLE = {
    "zero": {"samp_num_coeff": [0.0] * 20},
    "infinite": {"samp_den_coeff": [0.0] * 20},
    "divergent": {"samp_num_coeff": [0.0, 1.0, 0.05, -0.03, 0.01, 0.0, 0.0, 3.0, -2.0, *[0.0] * 11]},
    "half of it beyond the pole": {"lat_off": 90.0},
}


def test_rational_polynomials_without_a_solution_give_no_footprint(write_rational, rsr):
    paths = [write_rational(rational(**settings), name) for name, settings in UNSOLVABLE.items()]
    done = rsr("tile", "--whole", *paths)
    assert done.returncode == 0
    assert done.stderr == b""
    tiles = [json.loads(line) for line in done.stdout.splitlines()]
    assert {tile["id"]: tile["geometry"] for tile in tiles} == dict.fromkeys(UNSOLVABLE)


def test_control_of_real_images(shared_data, cut):
    folder = shared_data / "awkward"
    with rasterio.open(folder / "RGB.byte.rpc.vrt") as raster:
        rpc, box = raster.rpcs, shapely.box(0, 0, raster.width, raster.height)
    (tile,) = cut(folder / "RGB.byte.rpc.vrt", bands=["red", "green", "blue"])
    lon, lat = np.array(check_rules(tile).exterior.coords).T
    found = shapely.points(*rpc_pixel(rpc, lon, lat, rpc.height_off))
    assert shapely.distance(box.exterior, found).max() < 0.25
    assert shapely.Polygon(found).area == pytest.approx(box.area, rel=1e-3)

    # four corners of 7448 x 11521 pixels, of which this has the first 791 x 718; a plane misses them by 20 pixels
    with rasterio.open(folder / "RGB.byte.gcp.vrt") as raster:
        points = raster.gcps[0]
    (tile,) = cut(folder / "RGB.byte.gcp.vrt", bands=["red", "green", "blue"])
    expected = shapely.Polygon(by_gdal(points, *outline(tile), tps=True))
    assert check_rules(tile).symmetric_difference(expected).area < expected.area * 1e-3
    assert shapely.Point(points[2].x, points[2].y).within(expected)  # at pixel 0.5, 0.5
    assert shapely.distance(expected.exterior, shapely.Point(points[2].x, points[2].y)) < 1e-4


def test_gsd_of_control_points_and_rational_polynomials_is_that_of_the_footprint(shared_data, cut):
    geod = pyproj.Geod(ellps="WGS84")
    for name in ("RGB.byte.gcp.vrt", "RGB.byte.rpc.vrt"):
        for tile in cut(shared_data / "awkward" / name, bands=["red", "green", "blue"], size=200, min_valid=0.0):
            area, _ = geod.geometry_area_perimeter(shapely.geometry.shape(tile["geometry"]))
            assert tile["properties"]["gsd"] == pytest.approx(abs(area) ** 0.5 / 200, rel=1e-4)
            assert 1 < tile["properties"]["gsd"] < 1000
