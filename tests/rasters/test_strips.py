"""Tiles that are read at once, against each of them read by itself."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from support_rasters import RNG, bands_of

from rsr_cli.core.errors import RasterError, RecordError
from rsr_cli.core.rasters import parts, strips
from rsr_cli.core.rasters.pixels import Pixels, memory_of, read_stored
from rsr_cli.core.rasters.strips import are_side_by_side, read_each
from rsr_cli.core.records.exact import loads


def changed(tile, **properties):
    return {**tile, "properties": {**tile["properties"], **properties}}


def together(read):
    """Return how many tiles were read at once, each time."""
    kept = list(read)
    return [len(list(group)) for _, group in itertools.groupby(kept, lambda pixels: id(pixels.numbers.base))]


@pytest.mark.parametrize("stride", [8, 5])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("edge", ["pad", "shift"])
def test_tiles_side_by_side_are_read_at_once_as_each_by_itself(tmp_path, write_raster, cut, stride, dtype, edge):
    pixels = bands_of(2, 8, 45).astype(dtype)
    pixels[0, 2:5, 3:13] = 9
    path = write_raster(tmp_path / "x.tif", pixels, names=["blue", "red"], nodata=9)
    tiles = cut(path, size=8, stride_px=stride, edge=edge, scale=2, offset=1)
    assert all(are_side_by_side(*pair) for pair in itertools.pairwise(tiles))
    for asked, lacking in ((["red"], []), (["red", "pan", "blue"], ["pan"])):
        read = list(read_each(tiles, asked, may_lack=lacking))
        assert together(read) == [len(tiles)]
        for tile, one in zip(tiles, read, strict=True):
            alone = read_stored(tile, asked, may_lack=lacking)
            np.testing.assert_array_equal(one.calibrated(), alone.calibrated())
            assert (one.invalid is None) == (alone.invalid is None)
            assert one.numbers.dtype == alone.numbers.dtype


def test_rows_and_what_fits_into_memory_are_read_at_once(tmp_path, write_raster, cut, monkeypatch):
    path = write_raster(tmp_path / "x.tif", bands_of(1, 8, 160), names=["red"])
    tiles = cut(path, size=4, stride_px=4)
    assert together(read_each(tiles, ["red"])) == [16, 16, 8] * 2
    monkeypatch.setattr(strips, "STRIP_BYTES", memory_of(4 * 4 * 3, 1))
    assert together(read_each(tiles[:40], ["red"])) == [*[3] * 13, 1]


@pytest.mark.parametrize("broken", [0, 2, 5])
def test_a_tile_that_cannot_be_read_does_not_take_its_neighbours_along(tmp_path, write_raster, cut, broken):
    path = write_raster(tmp_path / "x.tif", bands_of(1, 8, 48), names=["red"])
    tiles = cut(path, size=8)
    truth = [read_stored(tile, ["red"]).numbers for tile in tiles]
    tiles[broken] = changed(tiles[broken], mask={"source": 3})
    read = list(read_each(tiles, ["red"]))
    assert isinstance(read.pop(broken), RecordError)
    truth.pop(broken)
    for pixels, expected in zip(read, truth, strict=True):
        assert isinstance(pixels, Pixels)
        np.testing.assert_array_equal(pixels.numbers, expected)


def test_a_broken_block_fails_for_its_own_tile(tmp_path, write_raster, cut):
    """The strip fails as a whole."""
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    path = write_raster(tmp_path / "x.tif", bands_of(1, 16, 64), names=["red"], **blocks)
    tiles = cut(path, size=16)
    whole = [pixels.numbers for pixels in read_each(tiles, ["red"])]
    with rasterio.open(path) as raster:
        start = int(raster.get_tag_item("BLOCK_OFFSET_2_0", "TIFF", bidx=1))
    with Path(path).open("r+b") as file:
        file.seek(start)
        file.write(bytes(50))
    parts._datasets._open.clear()
    read = list(read_each(tiles, ["red"]))
    broken = read.pop(2)
    assert isinstance(broken, RasterError)
    assert "cannot be read" in broken.message
    for pixels, expected in zip(read, whole[:2] + whole[3:], strict=True):
        np.testing.assert_array_equal(pixels.numbers, expected)


def test_only_tiles_of_one_file_and_row_without_a_gap_are_side_by_side(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "x.tif", bands_of(2, 16, 32), names=["blue", "red"])
    tiles = cut(path, size=8, stride_px=8)
    one, two, three = tiles[:3]
    assert are_side_by_side(one, two)
    assert not are_side_by_side(two, one)
    assert not are_side_by_side(one, one)
    assert not are_side_by_side(one, three)
    assert not are_side_by_side(tiles[3], tiles[4])  # the next row
    for other in (
        {"source": "other.tif"},
        {"bands": ["red", "blue"]},
        {"scale": 2},
        {"offset": [1, 2]},
        {"nodata": 3},
        {"unit": "dB"},
        {"mask": {"source": "m.tif", "values": [1]}},
        {"window": [8, 0, 8, 9]},
        {"window": [8, 0, 8]},
        {"window": [8.0, 0, 8, 8]},
        {"window": [8, 0, 0, 8]},
        {"window": None},
    ):
        assert not are_side_by_side(one, changed(two, **other)), other
    masked = [changed(tile, mask={"source": "m", "values": [1]}) for tile in tiles]
    assert not are_side_by_side(*masked[:2])
    by_band = [changed(tile, source={"blue": "b.tif", "red": "r.tif"}) for tile in (one, two)]
    assert are_side_by_side(*by_band)
    moved = [*two["properties"]["proj:transform"]]
    moved[2] += 1
    for other in (moved, "x", None, [None] * 6):
        assert not are_side_by_side(by_band[0], changed(by_band[1], **{"proj:transform": other}))
    by_band[1]["properties"]["source"] = {"blue": "b.tif", "red": "s.tif"}
    assert not are_side_by_side(*by_band)


def test_a_tile_beyond_the_raster_is_an_error_beside_one_inside_too(tmp_path, write_raster, cut):
    tiles = cut(write_raster(tmp_path / "x.tif", bands_of(1, 16, 64), names=["red"]), size=16)
    beyond = changed(tiles[-1], window=[64, 0, 16, 16])
    assert are_side_by_side(tiles[-1], beyond)
    *inside, error = read_each([*tiles, beyond], ["red"])
    assert all(isinstance(pixels, Pixels) for pixels in inside)
    assert isinstance(error, RasterError)
    assert "outside the raster" in error.message


@pytest.mark.parametrize("number", ["0.10000000000000001", "2e0", "1"])
def test_a_scale_with_more_digits_than_a_double_is_read(tmp_path, write_raster, cut, number):
    (tile,) = cut(write_raster(tmp_path / "x.tif", bands_of(1, 8, 8), names=["red"]))
    tile["properties"]["scale"] = loads(f'{{"scale": {number}}}'.encode())["scale"]
    (read,) = read_each([tile], ["red"])
    np.testing.assert_array_equal(read.calibrated(), read.numbers * np.float32(number))


@pytest.mark.parametrize(
    ("size", "stride", "at_once"), [(12, 12, [5]), (12, 6, [10]), (8, 8, [1] * 8), (9, 9, [1] * 7)]
)
@pytest.mark.parametrize("nodata", [None, 5])
def test_bands_of_other_resolutions_are_read_at_once_where_tiles_end_between_pixels(
    tmp_path, write_raster, cut, size, stride, at_once, nodata
):
    for name, metres in (("B02", 10), ("B8A", 20), ("B01", 60)):
        count = 660 // metres
        pixels = RNG.integers(1, 20, (1, count, count)).astype("uint16")
        transform = Affine(metres, 0, 6e5, 0, -metres, 5e6)
        write_raster(tmp_path / "x" / f"{name}.tif", pixels, transform=transform, nodata=nodata)
    known = {"per_band": True, "sensor": "sentinel2-l2a", "scale": 1, "offset": 0, "min_valid": 0}
    tiles = cut(tmp_path / "x", size=size, stride_px=stride, **known)
    row = [tile for tile in tiles if tile["properties"]["window"][1] == 0]
    bands = ["coastal", "nir08", "blue"]
    read = list(read_each(row, bands))
    assert together(read) == at_once
    for tile, one in zip(row, read, strict=True):
        np.testing.assert_array_equal(one.calibrated(), read_stored(tile, bands).calibrated())
