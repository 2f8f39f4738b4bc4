"""Rasters of one number per tile, read back by rasterio, against the scene that the tiles were cut from."""

from __future__ import annotations

import io

import numpy as np
import pytest
import rasterio
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasterio import Affine
from support import feature

from rsr_cli.core.errors import RasterError
from rsr_cli.core.forms import FIGURES, HEAD_BYTES
from rsr_cli.core.rasters import Lattice, offsets, parse_grid

NORTH_UP = Affine(10, 0, 600000, 0, -10, 5300040)
ROTATED = Affine.translation(600000, 5300040) @ Affine.rotation(30) @ Affine.scale(10, -15)
SOUTH_UP = Affine(10, 0, 600000, 0, 10, 5200040)
DEGREES = Affine(0.001, 0, 179.6, 0, -0.001, 10)  # across the antimeridian
SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m"  # a map without a code


def lay(tiles):
    lattice = Lattice()
    for tile in tiles:
        lattice.add(tile)
    return lattice


def read(tmp_path, tiles):
    """Write a raster of the numbers of tiles, in another order than theirs; return it and how many are missing."""
    order = np.random.default_rng(0).permutation(len(tiles))
    data, missing = lay(tiles[i] for i in order).geotiff(order.astype(np.float32) + 0.25, "numbers")
    (tmp_path / "x.tif").write_bytes(data)
    return rasterio.open(tmp_path / "x.tif"), missing


@pytest.mark.parametrize(
    ("shape", "crs", "transform", "cutting"),
    [
        ((1000, 1000), "EPSG:32633", NORTH_UP, {"size": 64}),
        ((1000, 1000), "EPSG:32633", NORTH_UP, {"size": 64, "edge": "pad"}),
        ((300, 500), "EPSG:32633", NORTH_UP, {"size": 64, "edge": "shift"}),
        ((300, 300), "EPSG:32633", ROTATED, {"size": 32, "stride_px": 16}),
        ((300, 310), "EPSG:32633", SOUTH_UP, {"size": 32, "stride_px": 8, "edge": "pad"}),
        ((300, 400), "EPSG:32633", NORTH_UP, {"size": 32, "stride_px": 50}),
        ((100, 800), "EPSG:4326", DEGREES, {"size": 50}),
        ((64, 300), SINUSOIDAL, Affine(500, 0, -9e5, 0, -500, 5e6), {"size": 64, "edge": "pad"}),
        ((40, 40), "EPSG:32633", ROTATED, {"size": 40}),
        ((64, 200), None, NORTH_UP, {"size": 50}),
        ((40, 90), "EPSG:32633", NORTH_UP, {"size": 40}),
    ],
)
def test_every_tile_of_a_scene_is_a_pixel_in_its_place(tmp_path, write_raster, cut, shape, crs, transform, cutting):
    scene = write_raster(tmp_path / "scene.tif", np.full(shape, 7, np.uint8), crs=crs, transform=transform)
    tiles = cut(scene, bands=["red"], min_valid=0, **cutting)
    raster, missing = read(tmp_path, tiles)
    with raster, rasterio.open(scene) as opened:
        values = raster.read(1)
        assert (raster.crs, raster.dtypes, raster.descriptions) == (opened.crs, ("float32",), ("numbers",))
        assert missing == 0
        assert np.isnan(raster.nodata)
        windows = np.array([tile["properties"]["window"] for tile in tiles])
        shifted = cutting.get("edge") == "shift"
        counts = [len(np.unique(windows[:, axis])) for axis in (0, 1)]
        assert (raster.width, raster.height) == tuple(counts)
        for number, (column, row, width, height) in enumerate(windows.tolist()):
            place = opened.transform @ (column + width / 2, row + height / 2)
            i, j = raster.index(*place)
            assert values[i, j] == number + 0.25
            if not shifted:
                np.testing.assert_allclose(raster.xy(i, j), place, rtol=0, atol=1e-9 * abs(place[0]))
        step = cutting.get("stride_px", cutting["size"])
        pixel = ~opened.transform @ raster.transform
        expected = [step if count > 1 else cutting["size"] for count in counts]
        np.testing.assert_allclose([pixel.a, pixel.b, pixel.d, pixel.e], [expected[0], 0, 0, expected[1]], atol=1e-6)


def test_pixels_without_a_tile_are_nan_and_counted(tmp_path, write_raster, cut):
    """The tiles that are left are not larger for it; what is lost at the edges cannot be known."""
    tiles = cut(write_raster(tmp_path / "s.tif", np.ones((320, 320), np.uint8)), bands=["red"], size=32)
    kept = [tile for tile in tiles if tile["id"] in ("s_64_32", "s_192_32", "s_64_224", "s_128_128")]
    raster, missing = read(tmp_path, kept)
    with raster:
        values = raster.read(1)
        found = {tuple(map(round, ~NORTH_UP @ raster.xy(i, j))): values[i, j] for i, j in np.argwhere(values > 0)}
        assert found == {(80, 48): 0.25, (208, 48): 1.25, (144, 144): 2.25, (80, 240): 3.25}
        assert (missing, raster.transform.a) == (values.size - 4, 320)
        assert values.shape == (7, 5)


def test_chips_are_where_they_were_cut(tmp_path, write_raster, cut):
    scene = write_raster(tmp_path / "s.tif", np.ones((96, 128), np.uint8), transform=ROTATED)
    plain, chips = (cut(scene, bands=["red"], size=32, **more) for more in ({}, {"chips": tmp_path / "chips"}))
    assert chips[1]["properties"]["window"] == [0, 0, 32, 32]
    numbers = np.arange(12, dtype=np.float32)
    assert lay(chips).geotiff(numbers, "") == lay(plain).geotiff(numbers, "")


def test_how_much_of_a_tile_is_its_own(tmp_path, write_raster, cut):
    scene = write_raster(tmp_path / "s.tif", np.ones((128, 160), np.uint8))
    for stride, share in ((8, 0.25), (16, 0.5), (32, 1), (40, 1)):
        assert lay(cut(scene, bands=["red"], size=32, stride_px=stride)).step_share() == share


def tile(name="s_0_0", left=600000.0, top=5300040.0, size=64, **more):
    placed = {"proj:transform": [10.0, 0.0, left, 0.0, -10.0, top], "proj:shape": [size, size]}
    return feature(name, **{"proj:code": "EPSG:32633"} | placed | more)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 32), st.integers(1, 80), st.sampled_from(["drop", "pad", "shift"]), st.integers(), st.data())
def test_a_tile_is_the_pixel_of_its_number(size, stride, edge, seed, data):
    """Whatever the stride and the edge: tiles that are a whole number of tiles apart leave as many pixels between."""
    width, height = (data.draw(st.integers(size, size + 9 * stride)) for _ in range(2))
    columns, rows = offsets(width, size, stride, edge), offsets(height, size, stride, edge)
    assume(len(columns) != 2 != len(rows))  # of two, the stride is not known if the second was shifted
    numbers = np.random.default_rng(abs(seed)).permutation(len(columns) * len(rows)).astype(np.float32)
    tiles = [tile(f"s_{x}_{y}", 600000.0 + 10 * x, 5300040.0 - 10 * y, size=size) for y in rows for x in columns]
    written, missing = lay(tiles).geotiff(numbers, "")
    apart = stride // size if stride % size == 0 else 1
    expected = np.full([(len(axis) - 1) * apart + 1 for axis in (rows, columns)], np.nan, np.float32)
    expected[::apart, ::apart] = numbers.reshape(len(rows), len(columns))
    with rasterio.open(io.BytesIO(written)) as raster:
        np.testing.assert_array_equal(raster.read(1), expected)
    assert missing == np.isnan(expected).sum()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (tile("t_32_0", 600320), "'t_32_0' is not of the scene of 's_0_0': 't', not 's'"),
        (tile("s_32_0", 600320, collection="c"), "'s_32_0' is not of the collection of 's_0_0': 'c', not None"),
        (tile("s_32_0", **{"proj:code": "EPSG:32634"}), "is not of the map of 's_0_0': 'EPSG:32634', not 'EPSG:32633'"),
        (tile("s_32_0", 600320, 5300040, 16), "is not of the size in pixels of 's_0_0': (16, 16), not (64, 64)"),
        (
            tile("s_32_0", **{"proj:transform": [20.0, 0, 600320.0, 0, -20.0, 5300040.0]}),
            "is not of the pixels of 's_0_0': (20.0, 0.0, 0.0, -20.0), not (10.0, 0.0, 0.0, -10.0)",
        ),
        (tile("s_32_0", None), "states a place that is none"),
        (tile("s_32_0", 1e400), "states a place that is none"),
        (tile("s_32_0", **{"proj:transform": [0, 0, 1, 0, 0, 1]}), "states a place that is none"),
        (tile("s_32_0", **{"proj:transform": "10,0,600320"}), "states a place that is none"),
        (tile("s_32_0", **{"proj:shape": [32]}), "states a place that is none"),
        (tile("s_32_0", size=10**40), "states a place that is none"),
        (feature("s_32_0"), "does not state its place on a map (proj:transform)"),
        (tile("s_32_0", **{"proj:shape": None}), "does not state its place on a map (proj:shape)"),
    ],
)
def test_what_is_not_of_the_scene_is_refused(other, message):
    lattice = lay([tile()])
    with pytest.raises(RasterError) as caught:
        lattice.add(other)
    assert message in str(caught.value)
    assert len(lattice) == 1


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([tile("s_5_0", 600053.0)], "'s_5_0' is not a whole number of pixels away from 's_0_0'"),
        ([tile("s_0_1", 1e300)], "'s_0_1' is not a whole number of pixels away from 's_0_0'"),
        ([tile("s_32_0", 600320), tile("s_32_00", 600320)], "'s_32_0' and 's_32_00' are in the same place"),
        ([tile(f"s_{x}_0", 600000 + 10 * x) for x in (64, 129, 192)], "multiples of 1 and 64 pixels"),
        (
            [tile("s_64_64", 600640, 5299400), tile("s_9_9", 64e7 + 6e5, 5300040 - 64e7)],
            "the tiles of s are not evenly spaced",
        ),
        ([], "the map of its tiles is not known: 'EPSG:0'"),
    ],
)
def test_tiles_that_make_no_raster(others, message):
    code = {} if others else {"proj:code": "EPSG:0"}
    lattice = lay([tile(**code), *others])
    with pytest.raises(RasterError) as caught:
        lattice.geotiff(np.zeros(len(lattice), np.float32), "")
    assert message in str(caught.value)


def test_cells_of_a_grid_on_the_earth_are_not_evenly_spaced(tmp_path, write_raster, cut):
    scene = write_raster(tmp_path / "s.tif", np.ones((600, 600), np.uint8))
    with pytest.raises(RasterError, match="are not evenly spaced"):
        lay(cut(scene, bands=["red"], grid=parse_grid("major-tom:1km"))).step_share()


def test_a_stranger_s_map_opens_no_server(silent_server):
    url, asked = silent_server
    for text in (url, f"/vsicurl/{url}", f"urn:ogc:def:crs:{url}"):
        for field in ("proj:code", "proj:wkt2"):
            stated = {"proj:code": None} | {field: text}
            with pytest.raises(RasterError, match="the map of its tiles is not known"):
                lay([tile(**stated)]).geotiff(np.zeros(1, np.float32), "")
    assert not asked.is_set()


@pytest.mark.parametrize("apart", [0, 4000])
def test_the_first_bytes_tell_the_raster_from_a_scene(apart):
    tiles = [tile("s_0_0", size=1), tile("s_1_1", 600000.0 + 10 * apart, 5300040.0 - 10 * apart, size=1)]
    data, _ = lay(tiles[: 1 + (apart > 0)]).geotiff(np.zeros(1 + (apart > 0), np.float32), "")
    assert FIGURES["tif"].pattern.match(data[:HEAD_BYTES])
