"""Windows of tiles, and which tiles are kept."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from support_rasters import (
    SIX,
    bands_of,
)

from rsr_cli.core import rasters
from rsr_cli.core.errors import RasterError


@given(st.integers(1, 400), st.integers(1, 90), st.integers(1, 120), st.sampled_from(["drop", "pad", "shift"]))
def test_offsets_cover_without_duplicates_and_keep_inside(length, size, stride, edge):
    if length < size and edge != "pad":
        with pytest.raises(RasterError, match=f"is {length} pixels in one direction, smaller than a tile of {size}"):
            rasters.offsets(length, size, stride, edge)
        return
    starts = rasters.offsets(length, size, stride, edge)
    inside = [start for start in range(0, length, stride) if start + size <= length]
    assert starts[: len(inside)] == inside
    assert all(one < two for one, two in itertools.pairwise(starts))
    assert len(starts) <= len(inside) + (edge != "drop")
    covered = {pixel for start in starts for pixel in range(start, start + size)}
    if edge == "pad":
        assert all(start % stride == 0 and start < length for start in starts)
        assert all(start + size < length for start in starts[:-1])  # each reaches ground that the one before does not
    else:
        assert all(0 <= start <= length - size for start in starts)
    if edge != "drop" and stride <= size:
        assert covered >= set(range(length))


@pytest.mark.parametrize("edge", ["drop", "pad", "shift"])
def test_tiles_come_row_by_row_and_state_their_window(tmp_path, write_raster, cut, edge):
    path = write_raster(tmp_path / "scene.tif", bands_of(1, 50, 85), names=["red"])
    columns = {"drop": [0, 24, 48], "pad": [0, 24, 48, 72], "shift": [0, 24, 48, 53]}[edge]
    rows = {"drop": [0], "pad": [0, 24], "shift": [0, 18]}[edge]
    tiles = cut(path, size=32, stride_px=24, edge=edge)
    assert [tile["properties"]["window"] for tile in tiles] == [[c, r, 32, 32] for r in rows for c in columns]
    assert [tile["id"] for tile in tiles] == [f"scene_{c}_{r}" for r in rows for c in columns]
    for tile in tiles:
        column, row, _, _ = tile["properties"]["window"]
        assert tile["properties"]["proj:shape"] == [32, 32]
        assert tile["properties"]["proj:transform"] == [10, 0, 600000 + 10 * column, 0, -10, 5300040 - 10 * row]


def test_a_scene_smaller_than_a_tile(tmp_path, write_raster, cut):
    pixels = bands_of(1, 30, 50)
    path = write_raster(tmp_path / "small.tif", pixels, names=["red"])
    for edge in ("drop", "shift"):
        with pytest.raises(RasterError, match=r"small\.tif: is 30 pixels .* smaller than a tile of 40") as raised:
            cut(path, size=40, edge=edge)
        assert raised.value.remedy == "smaller"
    padded = cut(path, size=64, edge="pad")
    assert [tile["properties"]["window"] for tile in padded] == [[0, 0, 64, 64]]
    assert padded[0]["properties"]["valid"] == pytest.approx(30 * 50 / 64**2, abs=1e-6)
    read = rasters.read_pixels(padded[0], ["red"])
    np.testing.assert_array_equal(read[:, :30, :50], pixels)
    assert np.isfinite(read).sum() == 30 * 50
    (whole,) = cut(path)
    assert (whole["id"], whole["properties"]["window"]) == ("small", [0, 0, 50, 30])
    assert whole["properties"]["proj:shape"] == [30, 50]


def test_valid_pixels_are_not_measured_where_all_are(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "x.tif", np.zeros((6, 8, 8), "uint16"), names=SIX)
    assert "valid" not in cut(path, min_valid=1.0)[0]["properties"]
    with pytest.raises(RasterError, match=r"x\.tif: its only tile has too few valid pixels") as raised:
        cut(path, sensor="landsat5")  # whose nodata is 0
    assert raised.value.remedy == "min-valid"


def test_min_valid(tmp_path, write_raster, cut):
    pixels = np.ones((1, 10, 40), "uint8")
    pixels[0, :, 10:20] = 0
    pixels[0, 5:, 20:30] = 0
    pixels[0, 0, 30] = 0  # shares of 1, 0, 0.5 and 0.99
    path = write_raster(tmp_path / "x.tif", pixels, names=["red"], nodata=0)

    def kept(least):
        return {t["properties"]["window"][0]: t["properties"].get("valid") for t in cut(path, size=10, min_valid=least)}

    assert kept(None) == {0: 1, 20: 0.5, 30: 0.99}
    assert kept(0.5) == {0: 1, 20: 0.5, 30: 0.99}
    assert kept(0.51) == {0: 1, 30: 0.99}
    assert kept(1.0) == {0: 1}
    assert kept(0.0) == dict.fromkeys([0, 10, 20, 30])


def test_one_invalid_pixel_of_a_large_tile_shows(tmp_path, write_raster, cut):
    pixels = np.ones((1, 300, 300), "uint8")
    pixels[0, 299, 299] = 0
    (tile,) = cut(write_raster(tmp_path / "x.tif", pixels, names=["red"], nodata=0))
    assert tile["properties"]["valid"] < 1


def test_tiles_around_places_are_centred_there_or_moved_inside(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "scene.tif", bands_of(1, 60, 100), names=["red"])
    to_lonlat = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    columns, rows = [50.0, 31.4, 2.0, 99.9, 50.2, 0.0], [30.0, 20.6, 3.0, 59.9, 29.9, 60.0]
    places = [to_lonlat.transform(600000 + 10 * c, 5300040 - 10 * r) for c, r in zip(columns, rows, strict=True)]
    tiles = cut(path, around=rasters.Around(places, 20, 10))
    windows = [[40, 25], [21, 16], [0, 0], [80, 50], [0, 50]]  # the fifth place is in the window of the first
    assert [tile["properties"]["window"] for tile in tiles] == [[*start, 20, 10] for start in windows]
    assert [tile["id"] for tile in tiles] == [f"scene_{column}_{row}" for column, row in windows]
    assert {tuple(tile["properties"]["proj:shape"]) for tile in tiles} == {(10, 20)}


def test_places_that_no_tile_can_be_cut_around(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "scene.tif", bands_of(1, 60, 100), names=["red"])
    for place in ((15.0, 50.0), (16.4, 91.0), (-164.0, 47.8)):
        with pytest.raises(RasterError, match=r"scene\.tif: does not contain the place "):
            cut(path, around=rasters.Around([(16.34, 47.846), place], 20, 10))
    with pytest.raises(RasterError, match=r"scene\.tif: is of 100 x 60 px, smaller than a tile of 101 x 10 px"):
        cut(path, around=rasters.Around([(16.34, 47.846)], 101, 10))
    nowhere = write_raster(tmp_path / "nowhere.tif", bands_of(1, 60, 100), names=["red"], crs=None)
    with pytest.raises(RasterError, match=r"nowhere\.tif: has no place on a map"):
        cut(nowhere, around=rasters.Around([(16.34, 47.846)], 20, 10))
