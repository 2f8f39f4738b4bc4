"""Tiles of a grid's cells, against the paper's formulas, pyproj, and the names of Major TOM's own files."""

from __future__ import annotations

import math
import re

import numpy as np
import pyproj
import pytest
import shapely
from rasterio import Affine
from rasterio.control import GroundControlPoint
from support_footprints import check_inside_and_outside, check_rules, to_lonlat
from support_rasters import check_record, window_of

from rsr_cli.core import rasters
from rsr_cli.core.errors import RasterError, Skips, UsageError
from rsr_cli.core.rasters.grids import Cell, MajorTom, parse_grid

#: Name -> CRS, geotransform, and spacing in metres, of scenes of 600 x 400 pixels.
SCENES = {
    "north": ("EPSG:32633", Affine(10, 0, 600000, 0, -10, 5300040), 1000),
    "south": ("EPSG:32722", Affine(10, 0, 790216, 0, -10, 7198039), 500),
    "equator": ("EPSG:32631", Affine(10, 0, 165000, 0, -10, 2000), 1000),
    "greenwich": ("EPSG:32631", Affine(10, 0, 280000, 0, -10, 5700000), 700),
    "high": ("EPSG:32633", Affine(10, 0, 480000, 0, -10, 9300000), 1000),
    "antimeridian": ("EPSG:32660", Affine(10, 0, 721000, 0, -10, 5300000), 500),
    "degrees": ("EPSG:4326", Affine(1e-4, 0, 13.2, 0, -1e-4, 60.3), 500),
    "degrees across the antimeridian": ("EPSG:4326", Affine(1e-3, 0, 179.7, 0, -1e-3, -16.2), 3000),
    "degrees to 360": ("EPSG:4326", Affine(1e-3, 0, 359.7, 0, -1e-3, 16.2), 3000),
    "pole": ("EPSG:3413", Affine(100, 0, -30000, 0, -100, -700000), 5000),
    "mercator": ("EPSG:3857", Affine(20, 0, 1500000, 0, -20, 8400000), 400),
    "feet": ("EPSG:2263", Affine(30, 0, 980000, 0, -30, 200000), 400),
    "south up": ("EPSG:32633", Affine(10, 0, 600000, 0, 10, 5300040), 1000),
    "rotated": ("EPSG:32633", Affine(8, 6, 600000, 6, -8, 5300040), 1000),
    "oblong": ("EPSG:32633", Affine(10, 0, 600000, 0, -20, 5300040), 1000),
}
SIZE = (600, 400)


def corner_of_cell(lon, lat, spacing_m):
    """Return row, column, their latitude and longitude, and the cell's height and width in degrees, as in the paper."""
    height = 180 / math.ceil(math.pi * 6378137 / spacing_m)
    row = math.floor(lat / height)
    columns = math.ceil(2 * math.pi * 6378137 * math.cos(math.radians(row * height)) / spacing_m)
    width = 360 / columns
    column = math.floor(lon / width)
    return row, (column + columns // 2) % columns - columns // 2, row * height, column * width, height, width


def code_of(lon, lat, spacing_m):
    row, column, *_ = corner_of_cell(lon, lat, spacing_m)
    rows, columns = f"{abs(row)}{'U' if row >= 0 else 'D'}", f"{abs(column)}{'R' if column >= 0 else 'L'}"
    return f"MAJORTOM-{spacing_m / 1000:g}-{rows}_{columns}"


@pytest.fixture
def scene(tmp_path, write_raster):
    """Return a function that writes one of the scenes, of one band that has a number per pixel."""

    def write(name, stem="scene", shift=(0, 0), **options):
        crs, transform, spacing_m = SCENES[name]
        pixels = np.arange(SIZE[0] * SIZE[1], dtype="int32").reshape(1, *SIZE[::-1])
        transform = transform @ Affine.translation(*shift)
        path = write_raster(tmp_path / f"{stem}.tif", pixels, crs=crs, transform=transform, names=["red"], **options)
        return path, crs, transform, MajorTom(spacing_m)

    return write


def by_code(tiles):
    found = {tile["properties"]["grid:code"]: tile for tile in tiles}
    assert len(found) == len(tiles)
    return found


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("edge", ["drop", "pad"])
def test_each_tile_is_around_the_centre_of_its_cell(scene, cut, name, edge):
    path, crs, transform, grid = scene(name)
    tiles = cut(path, grid=grid, edge=edge, scale=1)
    assert len(by_code(tiles)) >= (6 if edge == "drop" else 20)
    for tile in tiles:
        properties = tile["properties"]
        left, top, width, height = properties["window"]
        lon, lat = to_lonlat(crs, transform, left + width / 2, top + height / 2)
        *_, south, west, tall, wide = corner_of_cell(float(lon), float(lat), grid.spacing_m)
        columns, rows = pixels_of(crs, transform, west + wide / 2, south + tall / 2)
        assert max(abs(columns - left - width / 2), abs(rows - top - height / 2)) <= 0.51
        assert properties["grid:code"] == code_of(lon, lat, grid.spacing_m)
        check_record(tile)
        assert tile["id"] == f"scene_{properties['grid:code']}"
        inside = left >= 0 and top >= 0 and left + width <= SIZE[0] and top + height <= SIZE[1]
        assert inside or edge == "pad"
        check_inside_and_outside(check_rules(tile), crs, transform, properties["window"])


def pixels_of(crs, transform, lon, lat):
    """Project a place with pyproj; on a map in degrees that goes on beyond 180, to where it is in the scene."""
    project = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    turns = (0, 360, -360) if crs == "EPSG:4326" else (0,)
    found = [~transform @ (x + turn, y) for x, y in [project.transform(lon, lat)] for turn in turns]
    return min(found, key=lambda place: abs(place[0] - SIZE[0] / 2))


@pytest.mark.parametrize("name", SCENES)
def test_no_cell_is_missing(scene, cut, name):
    """Whichever pixel of the scene is asked for, its cell is a tile of the padded scene."""
    path, crs, transform, grid = scene(name)
    padded, whole = by_code(cut(path, grid=grid, edge="pad", scale=1)), by_code(cut(path, grid=grid, scale=1))
    random = np.random.default_rng(4)
    columns, rows = random.uniform(1, SIZE[0] - 1, 500), random.uniform(1, SIZE[1] - 1, 500)
    codes = {code_of(lon, lat, grid.spacing_m) for lon, lat in np.transpose(to_lonlat(crs, transform, columns, rows))}
    assert codes <= padded.keys()
    assert set(whole) == {
        code
        for code, tile in padded.items()
        for left, top, width, height in [tile["properties"]["window"]]
        if left >= 0 and top >= 0 and left + width <= SIZE[0] and top + height <= SIZE[1]
    }


@pytest.mark.parametrize("name", SCENES)
def test_a_tile_is_as_wide_and_high_as_the_spacing(scene, cut, name):
    """To a pixel, and to the 1 % by which a map that is true to scale may differ from the ground."""
    path, crs, transform, grid = scene(name)
    geod = pyproj.Geod(ellps="WGS84")
    for tile in cut(path, grid=grid, scale=1):
        left, top, width, height = tile["properties"]["window"]
        middle = (left + width / 2, top + height / 2)
        for start, end, count in (
            ((left, middle[1]), (left + width, middle[1]), width),
            ((middle[0], top), (middle[0], top + height), height),
        ):
            (west, south), (east, north) = (to_lonlat(crs, transform, *place) for place in (start, end))
            metres = geod.inv(west, south, east, north)[2]
            assert 0.99 * grid.spacing_m <= metres <= 1.01 * grid.spacing_m + metres / count


def test_tiles_on_a_map_in_metres_all_have_the_same_size(scene, cut):
    path, *_, grid = scene("north")
    assert {tuple(tile["properties"]["window"][2:]) for tile in cut(path, grid=grid, scale=1)} == {(100, 100)}
    path, *_, grid = scene("oblong", "oblong")
    assert {tuple(tile["properties"]["window"][2:]) for tile in cut(path, grid=grid, scale=1)} == {(100, 50)}


def test_rows_come_from_north_to_south_and_tiles_from_left_to_right(scene, cut):
    path, *_, grid = scene("antimeridian")
    tiles = cut(path, grid=grid, scale=1)
    codes = [re.fullmatch(r"MAJORTOM-0\.5-(\d+)U_(\d+)([RL])", tile["properties"]["grid:code"]) for tile in tiles]
    rows = [int(code[1]) for code in codes]
    assert rows == sorted(rows, reverse=True)
    assert {code[3] for code in codes} == {"R", "L"}
    for row in set(rows):
        lefts = [tile["properties"]["window"][0] for tile, own in zip(tiles, rows, strict=True) if own == row]
        assert lefts == sorted(lefts)


@pytest.mark.parametrize("shift", [(0, 0), (7, -11), (0.5, 0.25)])
@pytest.mark.parametrize("name", ["north", "south", "high", "antimeridian", "degrees"])
def test_another_date_has_the_same_codes_and_places(scene, cut, name, shift):
    """Of which the raster is the same, or begins elsewhere, by whole pixels or parts of them."""
    first, *_, grid = scene(name, "S2A_MSIL2A_20230610T103629")
    second, *_ = scene(name, "S2B_MSIL2A_20240110T103629", shift)
    one, other = (by_code(cut(path, grid=grid, scale=1)) for path in (first, second))
    common = one.keys() & other.keys()
    assert len(common) > len(one) / 2
    assert {tile["id"] for tile in one.values()}.isdisjoint(tile["id"] for tile in other.values())
    for code in common:
        places = [
            np.array(to @ (tile["properties"]["window"][0], tile["properties"]["window"][1]))
            for tile, to in ((one[code], Affine.identity()), (other[code], Affine.translation(*shift)))
        ]
        assert np.abs(places[0] - places[1]).max() <= 1
        assert one[code]["properties"]["proj:shape"] == other[code]["properties"]["proj:shape"]


def test_the_neighbouring_zone_has_the_same_codes_and_places(tmp_path, write_raster, cut):
    """Two scenes of 110 km of Sentinel-2's size, written without their pixels, that overlap between zones 32 and 33."""
    large = {"height": 10980, "width": 10980, "count": 1, "dtype": "uint8", "SPARSE_OK": "YES", "tiled": True}
    import rasterio

    found = []
    for name, crs, left in (("T33UUP", "EPSG:32633", 300000), ("T32UQU", "EPSG:32632", 690000)):
        path = tmp_path / f"{name}.tif"
        place = {"crs": crs, "transform": Affine(10, 0, left, 0, -10, 5400000)}
        with rasterio.open(path, "w", driver="GTiff", **large, **place) as raster:
            raster.descriptions = ["red"]
        assert path.stat().st_size < 1 << 20
        found.append(by_code(cut(path, grid=MajorTom(10_000), scale=1)))
    one, other = found
    assert len(one) > 80
    assert len(other) > 80
    common = one.keys() & other.keys()
    assert len(common) > 20
    for code in common:
        here, there = (shapely.geometry.shape(tile["geometry"]) for tile in (one[code], other[code]))
        assert here.centroid.distance(there.centroid) * 111_000 < 20  # metres; each is within a pixel of the centre
        assert here.intersection(there).area > 0.95 * here.area  # turned against each other by 4 degrees


def test_pixels_are_those_of_the_window(scene, cut):
    path, *_, grid = scene("north")
    for tile in cut(path, grid=grid, scale=1)[::7]:
        read = rasters.read_pixels(tile, ["red"])
        pixels = np.arange(SIZE[0] * SIZE[1], dtype="int32").reshape(1, *SIZE[::-1])
        np.testing.assert_array_equal(read, pixels[window_of(tile)])


def test_real_tiles_are_in_the_cells_that_name_them(shared_data, cut):
    """TerraMesh cut its tiles out of Major TOM's, of which each was named after its cell: 609U_541L_3_0."""
    files = sorted((shared_data / "terramind" / "S2L2A").glob("*.tif"))
    assert len(files) > 3
    for path in files:
        cell = "_".join(path.stem.split("_")[:2])
        tiles = by_code(cut(path, sensor="sentinel2-l2a", grid=MajorTom(10_000), edge="pad"))
        assert f"MAJORTOM-10-{cell}" in tiles
        tile = tiles[f"MAJORTOM-10-{cell}"]
        assert tile["properties"]["proj:shape"] == [1000, 1000]
        assert 0 < tile["properties"]["valid"] <= 0.224**2 + 1e-6


def test_the_published_example():
    """Snowbird, Utah, in Major TOM's specification of samples, at 10 and 1 km."""
    snowbird = {"type": "Polygon", "coordinates": [[[-111.6556, 40.5829], [-111.6555, 40.5829], [-111.6556, 40.583]]]}
    (cell,) = [cell for row in MajorTom(10_000).rows(snowbird) for cell in row]
    assert cell == Cell("MAJORTOM-10-451U_946L", pytest.approx(-111.709879, abs=1e-6), pytest.approx(40.553892, 1e-6))
    (cell,) = [cell for row in MajorTom(1_000).rows(snowbird) for cell in row]
    assert cell.code == "MAJORTOM-1-4517U_9441L"


@pytest.mark.parametrize("spacing_m", [10, 320, 999, 1000, 7000, 10_000, 100_000, 500_000, 1_000_000])
def test_cells_are_the_formulas_at_any_spacing(spacing_m):
    """Everywhere up to 85 degrees, for even and odd numbers of rows and columns."""
    random = np.random.default_rng(spacing_m)
    for lon, lat in zip(random.uniform(-180, 180, 100), random.uniform(-84, 84, 100), strict=True):
        tiny = shapely.geometry.mapping(shapely.box(lon - 1e-9, lat - 1e-9, lon + 1e-9, lat + 1e-9))
        cells = [cell for row in MajorTom(spacing_m).rows(tiny) for cell in row]
        *_, south, west, height, width = corner_of_cell(lon, lat, spacing_m)
        if south < -85:
            assert cells == []
            continue
        (cell,) = cells
        assert cell.code == code_of(lon, lat, spacing_m)
        assert (cell.lon, cell.lat) == pytest.approx((west + width / 2, south + height / 2), abs=1e-8)


def test_a_footprint_without_an_area_has_no_cell():
    ring = [[15.0, 48.0]] * 5
    assert not any(parse_grid("major-tom:10km").rows({"type": "Polygon", "coordinates": [ring]}))


def test_a_cell_across_the_antimeridian_is_one(scene, cut):
    """A row with an odd number of columns has one; a scene on either side of 180 degrees finds it."""
    odd = 0
    for row in range(400, 460):
        _, _, south, _, height, width = corner_of_cell(0, row * 0.08982 + 0.05, 10_000)
        if round(360 / width) % 2:
            odd += 1
            sides = [
                shapely.box(a, south + height / 4, b, south + height / 2) for a, b in ((179.99, 180), (-180, -179.99))
            ]
            found = [
                {cell.code for cells in MajorTom(10_000).rows(shapely.geometry.mapping(side)) for cell in cells}
                for side in (*sides, shapely.MultiPolygon(sides))
            ]
            assert found[0] == found[1] == found[2] == {f"MAJORTOM-10-{row}U_{round(360 / width) // 2}R"}
    assert odd > 10


@pytest.mark.parametrize(
    ("place", "grid", "says", "remedy"),
    [
        ({"crs": None}, 1000, "has no footprint on a map", "warp"),
        ({"transform": Affine(10, 0, 6e5, 0, -10, 53e5)}, 10, None, None),
        ({"transform": Affine(20, 0, 6e5, 0, -20, 53e5)}, 10, "has pixels larger than the 10 m", "coarser-grid"),
        (  # of which so many rows have no cell that they took minutes
            {"crs": "EPSG:3857", "transform": Affine(0, 180, -1, 10, 5e6, 0)},
            10,
            "has pixels larger than the 10 m",
            "coarser-grid",
        ),
        ({"transform": Affine(10, 0, 6e5, 0, -10, 53e5)}, 10_000, "has no whole cell of the grid", "finer-grid"),
        ({"crs": "EPSG:3413", "transform": Affine(10, 0, 5e4, 0, -10, 5e4)}, 100, "which ends at latitude 85", None),
        (
            {"crs": "EPSG:3857", "transform": Affine(50, 0, 20035300, 0, -50, 5e6)},
            500,
            "over the edge of its map",
            "warp",
        ),
        (
            {"gcps": [GroundControlPoint(r, c, 13 + c / 1e4, 48 - r / 1e4) for r, c in ((0, 0), (0, 90), (60, 9))]},
            100,
            "has no footprint on a map",
            "warp",
        ),
    ],
)
def test_scenes_in_which_no_cell_can_be_cut(tmp_path, write_raster, cut, place, grid, says, remedy):
    if "gcps" in place:
        place["crs"] = "EPSG:4326"
    path = write_raster(tmp_path / "x.tif", np.ones((1, 60, 90), "uint8"), names=["red"], **place)
    settings = {"grid": MajorTom(grid), "edge": "pad" if remedy is None else "drop", "scale": 1}
    if says is None:
        assert len(cut(path, **settings)) > 5000
        return
    with pytest.raises(RasterError, match=says) as raised:
        cut(path, **settings)
    assert raised.value.remedy == remedy
    assert raised.value.place == path
    skips = Skips(keep_going=True)
    assert cut(path, **settings, skips=skips) == []
    assert skips.count == 1


@pytest.mark.parametrize(
    ("text", "name"),
    [("major-tom:10km", "MAJORTOM-10"), ("major-tom:500m", "MAJORTOM-0.5"), ("major-tom:0.32km", "MAJORTOM-0.32")],
)
def test_the_name_of_a_grid_has_kilometres(text, name):
    assert parse_grid(text).name == name
    assert parse_grid("major-tom:5000m") == parse_grid("major-tom:5km") == parse_grid("major-tom:5.0km")


@pytest.mark.parametrize("spacing_m", [10, 123_457, 999_999, 1_000_000])
def test_every_spacing_has_a_name_of_its_own(spacing_m):
    assert float(MajorTom(spacing_m).name.removeprefix("MAJORTOM-")) == spacing_m / 1000


@pytest.mark.parametrize(
    "text",
    [
        *("", "major-tom", "major-tom:", "major-tom:10", "major-tom:km", "major-tom:10 km", "major-tom:10KM", "10km"),
        *("mgrs:10km", "major-tom:-10km", "major-tom:0km", "major-tom:9m", "major-tom:1001km", "major-tom:10.5m"),
        *("major-tom:1e3m", "major-tom:10km:5km", "major-tom:\N{ARABIC-INDIC DIGIT ONE}0km", "major-tom:infkm"),
        *("major-tom:10km\n", "major-tom:99999999999999999999km"),
    ],
)
def test_what_is_no_grid_is_refused(text):
    with pytest.raises(UsageError, match="is no grid; write major-tom and a spacing of 10m to 1000km"):
        parse_grid(text)
