"""Pixels, and which of them are invalid, against independent readings of the same rasters."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.windows import Window
from support_rasters import (
    IN_ONE_BAND,
    L2A,
    ONES,
    RNG,
    SIX,
    bands_of,
    bilinear,
    grid,
    repeat,
    window_of,
    with_holes,
)

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError, RasterError, RecordError
from rsr_cli.core.rasters.pixels import read_stored


@pytest.mark.parametrize("layout", [{"interleave": "pixel"}, {"tiled": True, "blockxsize": 16, "blockysize": 32}])
def test_pixels_are_those_of_the_window_in_the_order_asked_for(tmp_path, write_raster, cut, layout):
    path = write_raster(tmp_path / "scene.tif", bands_of(6, 70, 111), names=SIX, **layout)
    with rasterio.open(path) as raster:
        for tile in cut(path, size=33, stride_px=19):
            column, row, _, _ = tile["properties"]["window"]
            truth = raster.read([4, 1, 6], window=Window(column, row, 33, 33))
            read = rasters.read_pixels(tile, ["nir08", "blue", "swir22"])
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, truth)


def test_south_up_and_transposed_rasters_are_read_as_stored(tmp_path, write_raster, cut):
    pixels = bands_of(1, 20, 30)
    for number, transform in enumerate([Affine(10, 0, 6e5, 0, 10, 5e6), Affine(0, 10, 6e5, -10, 0, 5e6)]):
        path = write_raster(tmp_path / f"{number}.tif", pixels, names=["red"], transform=transform)
        read = rasters.read_pixels(cut(path, size=10)[4], ["red"])
        np.testing.assert_array_equal(read[0], pixels[0, 10:20, 10:20])


def test_a_band_that_is_missing(tmp_path, write_raster, cut):
    pixels = bands_of(2, 5, 5)
    (tile,) = cut(write_raster(tmp_path / "x.tif", pixels, names=["blue", "red"]))
    with pytest.raises(BandError, match=r"band nir08 is missing \(has blue, red\)") as raised:
        rasters.read_pixels(tile, ["blue", "nir08"])
    assert raised.value.remedy == "fill-missing"
    read = read_stored(tile, ["nir08", "red", "swir16", "blue"], may_lack=["nir08", "swir16"]).calibrated()
    np.testing.assert_array_equal(read[[1, 3]], pixels[[1, 0]])
    assert np.isnan(read[[0, 2]]).all()
    with pytest.raises(BandError, match="band nir08 is missing") as raised:
        read_stored(tile, ["nir08"], may_lack=["nir08"])
    assert (raised.value.remedy, raised.value.facts) == ("other-bands", {"bands": "blue,red"})


@pytest.mark.parametrize(
    ("has", "asked", "remedy", "bands"),
    [
        (("red", "nir"), ("red", "nir08"), "stand-in", "red,nir"),
        (("nir08", "red"), ("red", "nir"), "stand-in", "red,nir08"),
        (("nir",), ("nir08",), "stand-in", "nir"),
        (("red", "nir"), ("nir08", "nir", "red"), "fill-missing", "nir,red"),  # it would be read twice
        (("red", "nir"), ("red", "nir08", "swir16"), "fill-missing", "red"),
        (("red", "nir"), ("swir16", "swir22"), "other-bands", "red,nir"),
    ],
)
def test_the_band_to_read_in_place_of_a_missing_one(tmp_path, write_raster, cut, has, asked, remedy, bands):
    (tile,) = cut(write_raster(tmp_path / "x.tif", bands_of(len(has), 5, 5), names=has))
    with pytest.raises(BandError, match="missing") as raised:
        rasters.read_pixels(tile, asked)
    assert (raised.value.remedy, raised.value.facts.get("bands")) == (remedy, bands)


def test_a_record_whose_grid_has_no_area(tmp_path, write_raster, cut):
    write_raster(tmp_path / "B4.tif", np.ones((1, 4, 4), "uint16"))
    (tile,) = cut(tmp_path, per_band=True, sensor="landsat8")
    tile["properties"]["proj:transform"] = [0.0] * 6
    with pytest.raises(RecordError, match="is not a tile"):
        rasters.read_pixels(tile, ["red"])


@pytest.mark.parametrize("key", ["source", "bands", "window"])
def test_a_record_that_is_not_a_tile(tmp_path, write_raster, cut, key):
    (tile,) = cut(write_raster(tmp_path / "x.tif", bands_of(1, 5, 5), names=["red"]))
    del tile["properties"][key]
    with pytest.raises(RecordError):
        rasters.read_pixels(tile, ["red"])


def test_a_record_of_a_file_that_has_changed(tmp_path, write_raster, cut):
    (tile,) = cut(write_raster(tmp_path / "x.tif", bands_of(1, 5, 5), names=["red"]))
    tile["properties"]["bands"] = ["red", "nir"]
    with pytest.raises(RasterError, match=r"x\.tif: has 1 band, but the record names 2"):
        rasters.read_pixels(tile, ["red"])
    tile["properties"] |= {"bands": ["red"], "window": [5, 0, 5, 5]}
    with pytest.raises(RasterError, match="lies outside the raster"):
        rasters.read_pixels(tile, ["red"])


def test_invalid_pixels_are_nan_and_counted(holes, cut):
    path, invalid, settings = holes
    used = [i for i, name in enumerate(settings["bands"]) if name != "-"]
    names = [settings["bands"][i] for i in used]
    with rasterio.open(path) as raster:
        pixels = raster.read()
    for tile in cut(path, size=13, **settings):
        here = window_of(tile)
        read = rasters.read_pixels(tile, names)
        np.testing.assert_array_equal(np.isnan(read), invalid[used][here])
        np.testing.assert_array_equal(read[~np.isnan(read)], pixels[used][here][~invalid[used][here]])
        assert tile["properties"]["valid"] == pytest.approx(1 - invalid[used][here].any(axis=0).mean(), abs=1e-6)


@pytest.mark.parametrize("kind", ["nodata", "alpha", "internal mask", "mask beside"])
def test_invalid_is_what_rasterio_finds_invalid(tmp_path, write_raster, cut, kind):
    path, _ = with_holes(kind, tmp_path / "x.tif", write_raster)
    (tile,) = cut(path, bands=["red", "green", "nir"])
    with rasterio.open(path) as raster:
        masks = raster.read_masks([1, 2, 3]) > 0
    np.testing.assert_array_equal(np.isfinite(rasters.read_pixels(tile, ["red", "green", "nir"])), masks)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_padding_is_invalid_and_nothing_else_is(tmp_path, write_raster, cut, dtype):
    pixels = RNG.integers(0, 256, (2, 30, 37)).astype(dtype)  # 0 is a value like any other
    path = write_raster(tmp_path / "x.tif", pixels, names=["red", "nir"])
    tiles = cut(path, size=16, edge="pad", stride_px=13)
    assert {tuple(tile["properties"]["window"][:2]) for tile in tiles} >= {(26, 26), (26, 0), (0, 26)}
    padded = np.full((2, 64, 64), np.nan)
    padded[:, :30, :37] = pixels
    for tile in tiles:
        read = rasters.read_pixels(tile, ["red", "nir"])
        np.testing.assert_array_equal(read, padded[window_of(tile)])
        assert tile["properties"]["valid"] == pytest.approx(np.isfinite(read[0]).mean(), abs=1e-6)


def test_a_window_that_reaches_out_on_any_side(tmp_path, write_raster, cut):
    pixels = bands_of(1, 20, 30)
    (tile,) = cut(write_raster(tmp_path / "x.tif", pixels, names=["red"]))
    around = np.pad(pixels.astype(float), ((0, 0), (9, 9), (9, 9)), constant_values=np.nan)
    for column, row in itertools.product((-5, 3, 25), (-6, 4, 17)):
        tile["properties"]["window"] = [column, row, 9, 8]
        expected = around[:, row + 9 : row + 17, column + 9 : column + 18]
        np.testing.assert_array_equal(rasters.read_pixels(tile, ["red"]), expected)


@pytest.mark.parametrize("kind", ["alpha", "internal mask"])
def test_what_a_file_declares_invalid_comes_before_the_sensors_nodata(tmp_path, write_raster, cut, kind):
    path, invalid = with_holes(kind, tmp_path / "x.tif", write_raster)
    with rasterio.open(path, "r+") as raster:
        pixels = raster.read([1, 2, 3])
        pixels[IN_ONE_BAND] = 0
        raster.write(pixels, [1, 2, 3])
    (tile,) = cut(path, bands=["red", "green", "nir"], sensor="landsat7", scale=1.0, offset=0.0)
    expected = np.where(invalid, np.nan, pixels)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["red", "green", "nir"]), expected)


def test_bands_of_three_resolutions_meet_on_the_finest_grid(mixed, cut):
    folder, pixels = mixed
    settings = {"per_band": True, "sensor": "sentinel2-l2a", "scale": 1.0}
    (whole,) = cut(folder, **settings)
    assert whole["properties"]["bands"] == L2A
    assert whole["properties"]["window"] == [0, 0, 240, 180]
    assert whole["properties"]["proj:transform"] == list(grid(10))[:6]
    truth = np.stack([pixels[name] for name in L2A])
    np.testing.assert_allclose(rasters.read_pixels(whole, L2A), truth, atol=0.02)
    # No seam: a tile from anywhere, on no coarse pixel's edge, is that part of the whole.
    tiles = cut(folder, size=23, stride_px=37, edge="shift", **settings)
    assert {tile["properties"]["window"][0] % 6 for tile in tiles} == {0, 1, 2, 3, 4, 5}
    for tile in tiles:
        np.testing.assert_allclose(rasters.read_pixels(tile, L2A), truth[window_of(tile)], atol=0.02)


def test_padding_of_bands_of_three_resolutions(mixed, cut):
    folder, pixels = mixed
    padded = np.full((3, 300, 300), np.nan)
    names = ["coastal", "blue", "swir16"]
    padded[:, :180, :240] = np.stack([pixels[name] for name in names])
    for tile in cut(
        folder, size=47, stride_px=43, edge="pad", per_band=True, sensor="sentinel2-l2a", bands=names, scale=1.0
    ):
        np.testing.assert_allclose(rasters.read_pixels(tile, names), padded[window_of(tile)], atol=0.02)
        expected = np.isfinite(padded[window_of(tile)][0]).mean()
        assert tile["properties"]["valid"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("metres", "east", "south"), [(20, 8, 3), (20, -8, -7), (60, 20, -13), (60, -29, 29)])
def test_a_coarse_grid_that_is_not_aligned_is_read_where_it_is(tmp_path, write_raster, cut, metres, east, south):
    values = RNG.uniform(100, 9000, (240 // metres, 360 // metres))
    write_raster(tmp_path / "B02.tif", np.ones((24, 36), np.float32))
    askew = Affine(metres, 0, 600000 + east, 0, -metres, 5300040 - south)
    write_raster(tmp_path / "B8A.tif", values.astype(np.float32), transform=askew)
    # Fine pixels' centres in coarse pixels; pixels that reach out of the coarse raster have no value.
    x, y = ((np.arange(n) * 10 + 5 - shift) / metres for n, shift in ((36, east), (24, south)))
    across = np.stack([np.interp(x - 0.5, np.arange(values.shape[1]), row) for row in values])
    truth = np.stack([np.interp(y - 0.5, np.arange(values.shape[0]), column) for column in across.T]).T
    half = 5 / metres
    truth[:, (x - half < -1e-9) | (x + half > values.shape[1] + 1e-9)] = np.nan
    truth[(y - half < -1e-9) | (y + half > values.shape[0] + 1e-9)] = np.nan
    for size in (36, 11, 2):
        for tile in cut(tmp_path, size=size, edge="pad", per_band=True, sensor="eurosat", scale=1.0, min_valid=0.0):
            read = rasters.read_pixels(tile, ["nir08"])[0]
            expected = truth[window_of(tile)]
            inside = read[: expected.shape[0], : expected.shape[1]]
            np.testing.assert_allclose(inside, expected, rtol=1e-5, atol=0.02)


@pytest.mark.parametrize("shift", [-4, -3, 3, 4])
def test_a_fine_grid_that_is_not_aligned_is_read_by_the_nearest_pixel(tmp_path, write_raster, cut, shift):
    values = bands_of(2, 30, 30, "float32")
    write_raster(tmp_path / "B02.tif", values[0])
    write_raster(tmp_path / "B03.tif", values[1], transform=Affine(10, 0, 600000 + shift, 0, -10, 5300040 + shift))
    for tile in cut(tmp_path, size=7, per_band=True, sensor="sentinel2-l2a", scale=1.0):
        np.testing.assert_array_equal(rasters.read_pixels(tile, ["blue", "green"]), values[window_of(tile)])


def test_overviews_are_not_mistaken_for_pixels(tmp_path, write_raster, cut):
    values = RNG.uniform(100, 9000, (128, 128)).astype(np.float32)
    write_raster(tmp_path / "x" / "B02.tif", np.ones((256, 256), np.float32))
    coarse = write_raster(tmp_path / "x" / "B8A.tif", values, transform=grid(20))
    with rasterio.open(coarse, "r+") as raster:
        raster.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    for tile in cut(tmp_path, size=101, per_band=True, sensor="sentinel2-l2a", scale=1.0):
        read = rasters.read_pixels(tile, ["nir08"])[0]
        np.testing.assert_allclose(read, bilinear(values.astype(float), 2)[window_of(tile)], atol=0.02)


@pytest.mark.parametrize("kind", ["nodata", "sensor", "sensor, jp2", "sensor, overviews", "mask", "nan"])
@pytest.mark.parametrize("factor", [2, 6])
def test_a_coarse_bands_holes_stay_holes_and_do_not_bleed(tmp_path, write_raster, cut, kind, factor):
    invalid = np.zeros((60, 60), bool)
    invalid[:, :17] = invalid[30, 40] = True
    values = np.where(invalid, 0, 5000).astype("uint16")
    options = {}
    if kind == "nodata":
        options["nodata"] = 0
    elif kind == "mask":
        values, options["mask"] = np.where(invalid, 60000, 5000).astype("uint16"), ~invalid
    elif kind == "nan":
        values = np.where(invalid, np.nan, 5000).astype(np.float32)
    write_raster(tmp_path / "B02.tif", np.ones((60 * factor, 60 * factor), "uint16"))
    ending = "jp2" if kind == "sensor, jp2" else "tif"
    coarse = write_raster(tmp_path / f"B8A.{ending}", values, transform=grid(10 * factor), **options)
    if kind == "sensor, overviews":
        with rasterio.open(coarse, "r+") as raster:
            raster.build_overviews([2, 4], rasterio.enums.Resampling.average)
    sensor = "sentinel2-l2a" if kind.startswith("sensor") else "eurosat"  # which declares no nodata
    fine = repeat(invalid, factor)
    for tile in cut(tmp_path, size=51, stride_px=41, per_band=True, sensor=sensor, scale=1.0, offset=0.0):
        read = rasters.read_pixels(tile, ["nir08"])[0]
        np.testing.assert_array_equal(read[np.isfinite(read)], 5000)
        if kind == "nan":  # a neighbour that is not a number is no number to interpolate with
            assert np.isnan(read)[fine[window_of(tile)]].all()
        else:
            np.testing.assert_array_equal(np.isnan(read), fine[window_of(tile)])
            assert tile["properties"]["valid"] == pytest.approx(1 - np.isnan(read).mean(), abs=1e-6)


def test_files_disagree_about_nodata(tmp_path, write_raster, cut):
    values = bands_of(3, 12, 12)
    values[0, 0, 0], values[1, 0, 1], values[2, 0, 2] = 0, 7, 0
    write_raster(tmp_path / "B1.tif", values[0])
    write_raster(tmp_path / "B2.tif", values[1], nodata=7)
    write_raster(tmp_path / "B3.tif", values[2])
    (tile,) = cut(tmp_path, per_band=True, sensor="landsat5", scale=1.0, offset=0.0)
    read = rasters.read_pixels(tile, ["blue", "green", "red"])
    truth = values.astype(float)
    truth[[0, 1, 2], 0, [0, 1, 2]] = np.nan
    np.testing.assert_array_equal(read, truth)
    assert tile["properties"]["valid"] == pytest.approx(1 - 3 / 144, abs=1e-6)


def test_a_missing_file_says_whether_its_path_is_relative(tmp_path, write_raster, cut, monkeypatch):
    """Relative paths start where the tiles were cut: the remedy says so. Absolute ones are gone."""
    monkeypatch.chdir(tmp_path)
    write_raster("scene.tif", ONES)
    write_raster("green.tif", ONES)
    (tile,) = cut("scene.tif", bands=["red"])
    per_band = {**tile, "properties": tile["properties"] | {"source": {"red": "scene.tif", "nir": "green.tif"}}}
    per_band["properties"]["bands"] = ["red", "nir"]
    absolute = {**tile, "properties": tile["properties"] | {"source": str(tmp_path / "gone.tif")}}
    assert rasters.read_pixels(tile, ["red"]).shape == rasters.read_pixels(per_band, ["nir"]).shape
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    rasters.parts._datasets._open.clear()
    for record, bands, remedy in (
        (tile, ["red"], "relative"),
        (per_band, ["nir"], "relative"),
        (absolute, ["red"], None),
    ):
        with pytest.raises(RasterError, match="no such file") as raised:
            rasters.read_pixels(record, bands)
        assert raised.value.remedy == remedy


def sparse(path, size, **profile):
    """Write a raster of zeros that takes a few kilobytes, and return the record of it as one tile."""
    count, dtype = profile.pop("count", 1), profile.pop("dtype", "uint16")
    layout = {"tiled": True, "compress": "deflate", "SPARSE_OK": True} | profile
    with rasterio.open(path, "w", driver="GTiff", width=size, height=size, count=count, dtype=dtype, **layout):
        pass
    place = {"window": [0, 0, size, size], "bands": list(SIX[:count]), "scale": 1, "offset": 0}
    return {"id": "a", "properties": {"source": str(path), **place}}


@pytest.mark.parametrize(
    ("size", "profile"),
    [
        (20000, {}),
        (20000, {"nodata": 0}),
        (16000, {"count": 3, "dtype": "uint8"}),
        (9000, {"count": 2, "dtype": "float64"}),
        (7000, {"count": 6}),
    ],
)
def test_a_tile_that_takes_too_much_memory_is_refused(tmp_path, size, profile):
    tile = sparse(tmp_path / "x.tif", size, **profile)
    names = tile["properties"]["bands"]
    with pytest.raises(RasterError, match=rf"reading {size} x {size} px of \d bands? takes \S+ GiB") as caught:
        rasters.read_pixels(tile, names)
    assert (caught.value.place, caught.value.remedy) == (str(tmp_path / "x.tif"), "cut")
    tile["properties"]["window"] = [size - 8, 0, 8, 8]
    assert rasters.read_pixels(tile, names).shape == (len(names), 8, 8)
    by_band = {
        **tile["properties"],
        "window": [0, 0, size, size],
        "source": {n: str(tmp_path / "x.tif") for n in names},
    }
    with pytest.raises(RasterError, match="GiB of memory"):
        rasters.read_pixels({"id": "b", "properties": by_band}, names)


def test_a_window_that_is_small_but_shrunk_from_a_large_one_is_refused(tmp_path):
    """A record of a stranger's whose transform makes one pixel of 400."""
    tile = sparse(tmp_path / "x.tif", 20000)
    tile["properties"] |= {"source": {"blue": str(tmp_path / "x.tif")}, "window": [0, 0, 50, 50]}
    tile["properties"]["proj:transform"] = [400, 0, 0, 0, 400, 0]
    with pytest.raises(RasterError, match="GiB of memory"):
        rasters.read_pixels(tile, ["blue"])


def test_a_tile_of_a_file_with_huge_blocks_is_refused(tmp_path):
    tile = sparse(tmp_path / "x.tif", 16384, count=6, blockxsize=16384, blockysize=16384, interleave="pixel")
    tile["properties"]["window"] = [0, 0, 8, 8]
    with pytest.raises(RasterError, match=r"blocks of 16384 x 16384 px.* GiB of memory") as caught:
        rasters.read_pixels(tile, ["red"])
    assert caught.value.remedy == "tiled"


@pytest.mark.parametrize("limit", [48, 64])
def test_few_files_may_be_open(tmp_path, limit):
    sparse(tmp_path / "0.tif", 64)
    for i in range(1, 200):
        (tmp_path / f"{i}.tif").hardlink_to(tmp_path / "0.tif")
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
from concurrent.futures import ThreadPoolExecutor
from rsr_cli.core.rasters import read_pixels

def read(i):
    place = {"window": [0, 0, 8, 8], "bands": ["blue"]}
    return read_pixels({"properties": {"source": f"{i}.tif", **place}}, ["blue"]).size

with ThreadPoolExecutor(4) as threads:
    print(sum(threads.map(read, range(200))))
"""
    command = [sys.executable, "-c", code, str(limit)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("12800\n", "")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("scale", [1, 0.25, -3, 1e35])
def test_pixels_are_calibrated_at_once_or_later_to_the_same_numbers(tmp_path, write_raster, cut, dtype, scale):
    """Small integers stay as they are stored, unless a scale makes them infinite, which no mask would show."""
    pixels = np.arange(3, 53).reshape(2, 5, 5).astype(dtype)
    path = write_raster(tmp_path / "x.tif", pixels, names=["blue", "red"], nodata=9)
    (tile,) = cut(path, scale=scale, offset=7)
    stored = read_stored(tile, ["red", "blue"])
    with np.errstate(over="ignore"):
        expected = pixels[::-1].astype(np.float32) * np.float32(scale) + np.float32(7)
    expected[(pixels[::-1] == 9) | np.isinf(expected)] = np.nan
    np.testing.assert_array_equal(stored.calibrated(), expected)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["red", "blue"]), expected)
    assert stored.invalid is not None
    np.testing.assert_array_equal(stored.invalid, np.isnan(expected))
    small = np.dtype(dtype).itemsize < 4 and scale < 1e30
    assert stored.numbers.dtype == (dtype if small else np.float32)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("declared", [(0, 9, 7), (0, 0, 0), (-1, 9, 300), (2.5, 9, 7), (None, 9, 7), (255, None, None)])
def test_nodata_of_each_band_is_what_gdal_masks(tmp_path, write_raster, cut, dtype, declared):
    pixels = RNG.integers(0, 12, (3, 9, 9)).astype(dtype)
    pixels[0, 0, 0] = np.array(300 if np.dtype(dtype).itemsize > 1 else 44).astype(dtype)  # 300 in one byte is 44
    path = write_raster(tmp_path / "x.tif", pixels)
    bands = "".join(
        f'<VRTRasterBand dataType="{ {"uint8": "Byte"}.get(dtype, dtype.title().replace("Ui", "UI")) }" band="{band}">'
        f"{'' if nodata is None else f'<NoDataValue>{nodata}</NoDataValue>'}"
        f"<SimpleSource><SourceFilename>{path}</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource>"
        "</VRTRasterBand>"
        for band, nodata in enumerate(declared, 1)
    )
    virtual = tmp_path / "x.vrt"
    virtual.write_text(f'<VRTDataset rasterXSize="9" rasterYSize="9">{bands}</VRTDataset>')
    (tile,) = cut(virtual, bands=["red", "green", "blue"], scale=1, offset=0)
    with rasterio.open(virtual) as raster:
        expected = np.where(raster.read_masks() > 0, raster.read().astype(np.float32), np.nan)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["red", "green", "blue"]), expected)
