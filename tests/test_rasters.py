"""Tiles against independent readings of the same rasters: windows, pixels, what is invalid, chips, footprints."""

import itertools
import json

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.windows import Window

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError, OutputError, RasterError, RecordError

UTM33 = Affine(10, 0, 600000, 0, -10, 5300040)
SIX = ("blue", "green", "red", "nir08", "swir16", "swir22")
RNG = np.random.default_rng(20)

# About the rasters that the tests write.
pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NodataShadowWarning"),
]


def bands_of(count, height, width, dtype="uint16"):
    """Make pixels that tell where they come from: thousands the band, the rest noise without repetition in sight."""
    noise = RNG.integers(0, 999, (count, height, width))
    return (np.arange(1, count + 1)[:, None, None] * 1000 + noise).astype(dtype)


def bilinear(coarse, factor):
    """Interpolate between pixel centres, the outermost pixels going on to the edge."""
    rows, columns = ((np.arange(n * factor) + 0.5) / factor - 0.5 for n in coarse.shape)
    across = np.stack([np.interp(columns, np.arange(coarse.shape[1]), row) for row in coarse])
    return np.stack([np.interp(rows, np.arange(coarse.shape[0]), column) for column in across.T]).T


def repeat(coarse, factor):
    return np.repeat(np.repeat(coarse, factor, axis=-2), factor, axis=-1)


def window_of(record):
    column, row, width, height = record["properties"]["window"]
    return np.s_[..., row : row + height, column : column + width]


# Windows -------------------------------------------------------------------------------------------------------------


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
def test_tiles_come_row_by_row_and_say_their_window(tmp_path, write_raster, cut, edge):
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
        with pytest.raises(RasterError, match=r"small\.tif: is 30 pixels .* --whole, a smaller --size or --edge pad"):
            cut(path, size=40, edge=edge)
    padded = cut(path, size=64, edge="pad")
    assert [tile["properties"]["window"] for tile in padded] == [[0, 0, 64, 64]]
    assert padded[0]["properties"]["valid"] == pytest.approx(30 * 50 / 64**2, abs=1e-6)
    read = rasters.read_pixels(padded[0], ["red"])
    np.testing.assert_array_equal(read[:, :30, :50], pixels)
    assert np.isfinite(read).sum() == 30 * 50
    (whole,) = cut(path)
    assert (whole["id"], whole["properties"]["window"]) == ("small", [0, 0, 50, 30])
    assert whole["properties"]["proj:shape"] == [30, 50]


# Pixels --------------------------------------------------------------------------------------------------------------


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


def test_scale_and_offset(tmp_path, write_raster, cut):
    pixels = bands_of(6, 8, 8)
    plain = write_raster(tmp_path / "plain.tif", pixels, names=SIX)
    own = write_raster(tmp_path / "own.tif", pixels, names=SIX)
    with rasterio.open(own, "r+") as raster:
        raster.scales, raster.offsets = [2e-5] * 6, [-0.1] * 6

    def read(path, **settings):
        (tile,) = cut(path, **settings)
        return rasters.read_pixels(tile, ["red"])[0]

    red = pixels[2].astype(float)
    np.testing.assert_array_equal(read(plain), red)
    np.testing.assert_allclose(read(own), red * 0.2 - 1000, rtol=1e-6)
    # USGS: reflectance = DN * 0.0000275 - 0.2
    np.testing.assert_allclose(read(own, sensor="landsat5"), (red * 0.0000275 - 0.2) * 10000, rtol=1e-5)
    np.testing.assert_allclose(read(own, sensor="landsat5", scale=3.0, offset=0.0), red * 3, rtol=1e-6)
    np.testing.assert_allclose(read(own, sensor="landsat5", offset=7.0), red * 0.275 + 7, rtol=1e-6)
    np.testing.assert_allclose(read(plain, scale=0.5, offset=-20.0), red * 0.5 - 20, rtol=1e-6)
    np.testing.assert_allclose(read(plain, offset=-1000.0), red - 1000, rtol=1e-6)


def test_bands_that_declare_different_scales_are_refused(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "own.tif", bands_of(2, 8, 8), names=["red", "nir"])
    with rasterio.open(path, "r+") as raster:
        raster.scales = [1e-4, 2e-4]
    with pytest.raises(BandError, match=r"own\.tif: its bands declare different scales and offsets; pass --scale"):
        cut(path)
    (tile,) = cut(path, scale=1.0)
    assert (tile["properties"]["scale"], tile["properties"]["offset"]) == (1, 0)


def test_numbers_of_another_dtype_than_the_sensors_are_refused(tmp_path, write_raster, cut, caplog):
    reflectance = RNG.random((6, 8, 8)).astype(np.float32)
    path = write_raster(tmp_path / "toa.tif", reflectance)
    with pytest.raises(BandError, match=r"toa\.tif: holds float32 numbers, and landsat7 has uint16; pass --scale"):
        cut(path, sensor="landsat7")
    (tile,) = cut(path, sensor="landsat7", scale=10000.0, offset=0.0)
    np.testing.assert_allclose(rasters.read_pixels(tile, ["nir08"])[0], reflectance[3] * 10000, rtol=1e-6)
    named = write_raster(tmp_path / "named.tif", reflectance, names=SIX)
    cut(named)
    assert caplog.messages == ["named holds float32 numbers, taken as reflectance x 10000; see --scale"]


# Sentinel-2's bands in ESA's order, and what the two data sets make of it.
VISIBLE = ("coastal", "blue", "green", "red")
L1C = [*VISIBLE, "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22"]
L2A = [name for name in L1C if name != "cirrus"]
EUROSAT = [*L1C[:8], "nir09", "cirrus", "swir16", "swir22", "nir08"]
LANDSAT8 = [*VISIBLE, "nir08", "swir16", "swir22"]


@pytest.mark.parametrize(
    ("sensor", "order"),
    [
        ("sentinel2-l1c", L1C),
        ("sentinel2-l2a", L2A),
        ("eurosat", EUROSAT),
        ("hls-s30", L1C),
        ("landsat5", SIX),
        ("landsat7", SIX),
        ("landsat8", LANDSAT8),
        ("hls-l30", [*LANDSAT8, "cirrus"]),
    ],
)
def test_a_sensor_orders_bands_that_have_no_names(tmp_path, write_raster, cut, sensor, order):
    numbers = np.arange(1, len(order) + 1)
    path = write_raster(tmp_path / "x.tif", np.broadcast_to(numbers[:, None, None], (len(order), 4, 4)).astype("int16"))
    (tile,) = cut(path, sensor=sensor, scale=1.0, offset=0.0)
    assert tile["properties"]["bands"] == list(order)
    six = rasters.read_pixels(tile, SIX)[:, 0, 0].tolist()
    assert six == [order.index(name) + 1 for name in SIX]
    if sensor == "eurosat":
        assert six == [2, 3, 4, 13, 11, 12]  # as the data set's own readers take them


@pytest.mark.parametrize(
    ("sensor", "names", "bands"),
    [
        (None, ["Red", "NIR08", "cloud mask", "blue"], ["red", "nir08", "-", "blue"]),
        ("sentinel2-l2a", ["B12", "B8A", "B02", "SCL"], ["swir22", "nir08", "blue", "-"]),
        ("sentinel2-l1c", ["B1", "B2", "B8", "B8A", "B9", "QA60"], ["coastal", "blue", "nir", "nir08", "nir09", "-"]),
        ("landsat8", ["SR_B2", "SR_B5", "QA_PIXEL", "ST_B10"], ["blue", "nir08", "-", "-"]),
        ("landsat5", ["B2", "B5", "B6", "B7"], ["green", "swir16", "-", "swir22"]),
        ("hls-l30", ["B02", "B05", "Fmask"], ["blue", "nir08", "-"]),
        ("hls-s30", ["B02", "B05", "Fmask"], ["blue", "rededge071", "-"]),
    ],
)
def test_names_in_the_file_come_before_the_sensors_order(tmp_path, write_raster, cut, sensor, names, bands):
    pixels = bands_of(len(names), 5, 5, "int16")
    (tile,) = cut(write_raster(tmp_path / "x.tif", pixels, names=names), sensor=sensor, scale=1.0, offset=0.0)
    assert tile["properties"]["bands"] == bands
    for name in set(bands) - {"-"}:
        np.testing.assert_array_equal(rasters.read_pixels(tile, [name])[0], pixels[bands.index(name)])


def test_names_from_the_user_come_first(tmp_path, write_raster, cut):
    pixels = bands_of(4, 5, 5)
    path = write_raster(tmp_path / "x.tif", pixels, names=["blue", "green", "red", "nir"])
    (tile,) = cut(path, bands=["nir08", "-", "red", "-"], sensor="landsat5", scale=1.0, offset=0.0)
    assert tile["properties"]["bands"] == ["nir08", "-", "red", "-"]
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["red", "nir08"]), pixels[[2, 0]])
    with pytest.raises(
        BandError,
        match=r"x\.tif: has 4 bands, not counting alpha, and --bands names 2; name each, with - for one not used",
    ):
        cut(path, bands=["red", "nir"])


@pytest.mark.parametrize(
    ("count", "names", "sensor", "message"),
    [
        (3, None, None, "has 3 bands whose descriptions name no STAC band each; pass --sensor, or --bands"),
        (2, ["red", "red"], None, r"has 2 bands whose descriptions \(red, red, ...\) name no STAC band each"),
        (2, ["red", ""], None, r"has 2 bands whose descriptions \(red, none, ...\) name no STAC band each"),
        (2, ["B02", "B8A"], None, r"has 2 bands whose descriptions \(B02, B8A, ...\) name no STAC band each"),
        (7, None, "landsat5", "has 7 bands, and a file of landsat5 has 6; pass --bands with a name for each"),
    ],
)
def test_bands_are_never_guessed(tmp_path, write_raster, cut, count, names, sensor, message):
    path = write_raster(tmp_path / "x.tif", bands_of(count, 5, 5), names=names)
    with pytest.raises(BandError, match=message):
        cut(path, sensor=sensor)


def test_a_band_that_is_missing(tmp_path, write_raster, cut):
    pixels = bands_of(2, 5, 5)
    (tile,) = cut(write_raster(tmp_path / "x.tif", pixels, names=["blue", "red"]))
    with pytest.raises(BandError, match=r"band nir08 is missing \(has blue red\); pass --fill-missing mean"):
        rasters.read_pixels(tile, ["blue", "nir08"])
    read = rasters.read_pixels(tile, ["nir08", "red", "swir16", "blue"], missing=True)
    np.testing.assert_array_equal(read[[1, 3]], pixels[[1, 0]])
    assert np.isnan(read[[0, 2]]).all()
    with pytest.raises(BandError, match="band nir08 is missing"):
        rasters.read_pixels(tile, ["nir08"], missing=True)


def test_a_record_whose_grid_has_no_area(tmp_path, write_raster, cut):
    write_raster(tmp_path / "B4.tif", np.ones((1, 4, 4), "uint16"))
    (tile,) = cut(tmp_path, per_band=True, sensor="landsat8")
    tile["properties"]["proj:transform"] = [0.0] * 6
    with pytest.raises(RecordError, match="is not a tile"):
        rasters.read_pixels(tile, ["red"])


@pytest.mark.parametrize("key", ["source", "bands", "window"])
def test_a_record_that_is_no_tile(tmp_path, write_raster, cut, key):
    (tile,) = cut(write_raster(tmp_path / "x.tif", bands_of(1, 5, 5), names=["red"]))
    del tile["properties"][key]
    with pytest.raises(RecordError):
        rasters.read_pixels(tile, ["red"])


def test_a_record_of_a_file_that_has_changed(tmp_path, write_raster, cut):
    (tile,) = cut(write_raster(tmp_path / "x.tif", bands_of(1, 5, 5), names=["red"]))
    tile["properties"]["bands"] = ["red", "nir"]
    with pytest.raises(RasterError, match=r"x\.tif: has 1 bands, and the record names 2"):
        rasters.read_pixels(tile, ["red"])
    tile["properties"] |= {"bands": ["red"], "window": [5, 0, 5, 5]}
    with pytest.raises(RasterError, match="lies outside the raster"):
        rasters.read_pixels(tile, ["red"])


# What is invalid -----------------------------------------------------------------------------------------------------

HOLES = np.zeros((40, 50), bool)
HOLES[:7, :11] = HOLES[20, 30] = HOLES[35:, 49] = True
IN_ONE_BAND = np.zeros((3, 40, 50), bool)
IN_ONE_BAND[1, 25:28, 3:9] = True


def with_holes(kind, path, write_raster):
    """Write three bands, invalid in HOLES; where values tell, the middle one in IN_ONE_BAND too."""
    pixels = bands_of(3, 40, 50)
    everywhere = np.broadcast_to(HOLES, pixels.shape)
    by_value = everywhere | IN_ONE_BAND
    if kind == "nodata":
        return write_raster(path, np.where(by_value, 7, pixels), nodata=7), by_value
    if kind == "nodata of the sensor":
        return write_raster(path, np.where(by_value, 0, pixels)), by_value
    if kind in ("nan", "nan is nodata", "infinite", "nodata and nan"):
        value = {"infinite": -np.inf, "nodata and nan": -9999.0}.get(kind, np.nan)
        pixels = np.where(by_value, value, pixels).astype(np.float32)
        if kind == "nodata and nan":
            pixels[IN_ONE_BAND] = np.nan
        return write_raster(path, pixels, nodata={"nan is nodata": np.nan, "nodata and nan": -9999}.get(kind)), by_value
    if kind in ("alpha", "alpha and nodata"):
        clear = np.where(HOLES, 0, 65535)[None]
        clear[0, 39, 0] = 1  # nearly transparent is still there
        rgba = np.concatenate([pixels, clear]).astype("uint16")
        if kind == "alpha":
            return write_raster(path, rgba, photometric="rgb", alpha="yes"), everywhere
        rgba[:3][IN_ONE_BAND] = 7
        return write_raster(path, rgba, photometric="rgb", alpha="yes", nodata=7), by_value
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal mask"):
        return write_raster(path, pixels, mask=~HOLES), everywhere


KINDS = (
    *("nodata", "nodata of the sensor", "nan", "nan is nodata", "infinite", "nodata and nan"),
    *("alpha", "alpha and nodata", "internal mask", "mask beside"),
)


@pytest.fixture(params=KINDS)
def holes(request, tmp_path, write_raster):
    """Give a raster with holes, bool (bands, height, width) of what is invalid, and what settings it needs."""
    path, invalid = with_holes(request.param, tmp_path / "x.tif", write_raster)
    assert (tmp_path / "x.tif.msk").exists() == (request.param == "mask beside")
    names = {"bands": ["red", "-", "nir"]} if request.param == "infinite" else {"bands": ["red", "green", "nir"]}
    by_sensor = {"sensor": "landsat5", "scale": 1.0, "offset": 0.0} if request.param == "nodata of the sensor" else {}
    return path, invalid, names | by_sensor


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


def test_valid_pixels_are_not_measured_where_all_are(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "x.tif", np.zeros((6, 8, 8), "uint16"), names=SIX)
    assert "valid" not in cut(path, min_valid=1.0)[0]["properties"]
    with pytest.raises(RasterError, match=r"x\.tif: not one of its 1 tiles has enough valid pixels; see --min-valid"):
        cut(path, sensor="landsat5")  # whose nodata is 0


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


def test_a_sensors_nodata_that_its_numbers_cannot_hold(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "x.tif", np.zeros((8, 6, 6), "uint16"))
    (tile,) = cut(path, sensor="hls-l30")  # -9999
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["red", "nir08"]), 0)


@pytest.mark.parametrize("name", ["a?b=c.tif", "a&b.tif", 'a "b".tif', "<a>.tif", "a%20b.tif", "ä#.tif", "a:b.tif"])
def test_odd_file_names_with_a_sensors_nodata(tmp_path, write_raster, cut, name):
    pixels = bands_of(6, 6, 6)
    pixels[:, 2, 3] = 0
    (tile,) = cut(write_raster(tmp_path / name, pixels), sensor="landsat7", scale=1.0, offset=0.0)
    assert tile["id"] == name.removesuffix(".tif")
    assert tile["properties"]["source"] == str(tmp_path / name)
    np.testing.assert_array_equal(rasters.read_pixels(tile, SIX), np.where(pixels, pixels, np.nan))


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
def test_what_a_file_says_is_invalid_comes_before_the_sensors_nodata(tmp_path, write_raster, cut, kind):
    path, invalid = with_holes(kind, tmp_path / "x.tif", write_raster)
    with rasterio.open(path, "r+") as raster:
        pixels = raster.read([1, 2, 3])
        pixels[IN_ONE_BAND] = 0
        raster.write(pixels, [1, 2, 3])
    (tile,) = cut(path, bands=["red", "green", "nir"], sensor="landsat7", scale=1.0, offset=0.0)
    expected = np.where(invalid, np.nan, pixels)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["red", "green", "nir"]), expected)


# One file a band -----------------------------------------------------------------------------------------------------

SENTINEL2 = {10: ("B02", "B03", "B04", "B08"), 20: ("B05", "B06", "B07", "B8A", "B11", "B12"), 60: ("B01", "B09")}
NAMES = {f"B{number:02}": name for number, name in enumerate([n for n in L1C if n != "nir08"], 1)} | {"B8A": "nir08"}


def grid(metres):
    return Affine(metres, 0, 600000, 0, -metres, 5300040)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, write_raster):
    """Give a scene of 240 x 180 pixels of 10 m with bands of 10, 20 and 60 m, and its pixels by STAC name."""
    folder = tmp_path_factory.mktemp("mixed") / "S2A_MSIL2A_20210115T101351"
    pixels = {}
    for metres, bands in SENTINEL2.items():
        for number, band in enumerate(bands):
            values = RNG.uniform(100 + number, 9000, (1800 // metres, 2400 // metres)).astype(np.float32)
            write_raster(folder / f"T33UUP_{band}.tif", values, transform=grid(metres))
            pixels[NAMES[band]] = bilinear(values.astype(float), metres // 10)
    return folder, pixels


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
def test_a_coarse_grid_that_lies_askew_is_read_where_it_lies(tmp_path, write_raster, cut, metres, east, south):
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
def test_a_fine_grid_that_lies_askew_is_read_by_the_nearest_pixel(tmp_path, write_raster, cut, shift):
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": Affine(10, 0, 600010, 0, -10, 5300040)}, "covers another area"),
        ({"transform": Affine(10, 0, 600000, 0, 10, 5300040 - 200)}, "covers another area"),
        ({"transform": Affine(10, 0, 700000, 0, -10, 5300040)}, "covers another area"),
        ({"crs": "EPSG:32634"}, "another coordinate system"),
        ({"pixels": np.ones((1, 20, 21), "uint16")}, "covers another area"),
        ({"pixels": np.ones((2, 20, 20), "uint16")}, "has 2 bands in its file, where one is expected"),
    ],
)
def test_bands_that_do_not_fit_together(tmp_path, write_raster, cut, change, message):
    write_raster(tmp_path / "B1.tif", np.ones((20, 20), "uint16"))
    write_raster(tmp_path / "B2.tif", **{"pixels": np.ones((20, 20), "uint16")} | change)
    with pytest.raises(BandError, match=f"{tmp_path}/B2.tif: green .*{message}"):
        cut(tmp_path, per_band=True, sensor="landsat5")


def test_files_without_a_place_fit_together_by_their_size(tmp_path, write_raster, cut):
    values = bands_of(2, 20, 20)
    for name, band in zip(("B1", "B2"), values, strict=True):
        write_raster(tmp_path / "x" / f"{name}.tif", band, crs=None, transform=Affine.identity())
    tile = cut(tmp_path, size=7, per_band=True, sensor="landsat5", scale=1.0, offset=0.0)[3]
    assert tile["geometry"] is None
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["blue", "green"]), values[window_of(tile)])
    write_raster(tmp_path / "x" / "B3.tif", np.ones((10, 10), "uint16"), crs=None, transform=Affine.identity())
    with pytest.raises(BandError, match=r"B3\.tif: red .* covers another area"):
        cut(tmp_path, per_band=True, sensor="landsat5")


# Chips ---------------------------------------------------------------------------------------------------------------


def same_pixels(one, two, names):
    read = [rasters.read_pixels(tile, names) for tile in (one, two)]
    np.testing.assert_allclose(*read, rtol=1e-6)
    return read[0]


def test_chips_hold_the_window_and_lie_where_it_lies(tmp_path, write_raster, cut):
    pixels = bands_of(4, 40, 60)
    path = write_raster(tmp_path / "scene.tif", pixels, names=["blue", "clouds", "red", "nir08"])
    tiles = cut(path, size=20, chips=str(tmp_path / "chips"), id_prefix="lake/")
    plain = cut(path, size=20)
    assert len(tiles) == len(plain) == 6
    for tile, original in zip(tiles, plain, strict=True):
        properties = tile["properties"]
        assert properties["source"] == f"{tmp_path}/chips/{tile['id']}.tif"
        assert tile["id"] == f"lake/{original['id']}"
        assert properties["window"] == [0, 0, 20, 20]
        assert properties["bands"] == ["blue", "red", "nir08"]
        assert (tile["geometry"], tile["bbox"]) == (original["geometry"], original["bbox"])
        with rasterio.open(properties["source"]) as chip:
            np.testing.assert_array_equal(chip.read(), pixels[[0, 2, 3]][window_of(original)])
            assert chip.descriptions == ("blue", "red", "nir08")
            assert (chip.crs.to_epsg(), chip.dtypes[0], chip.nodata) == (32633, "uint16", None)
            assert list(chip.transform)[:6] == original["properties"]["proj:transform"]
            assert rasterio.enums.ColorInterp.alpha not in chip.colorinterp
        (again,) = cut(properties["source"])
        assert again["geometry"] == original["geometry"]
        same_pixels(again, original, ["blue", "red", "nir08"])
        same_pixels(tile, original, ["nir08", "blue"])
    assert sorted(file.name for file in (tmp_path / "chips" / "lake").iterdir()) == sorted(
        f"{tile['id']}.tif" for tile in plain
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_chips_of_any_number_of_bands_have_no_alpha(tmp_path, write_raster, cut, count, dtype):
    pixels = RNG.integers(0, 127, (count, 9, 9)).astype(dtype)
    path = write_raster(tmp_path / "x.tif", pixels, photometric="minisblack", names=L1C[:count])
    (tile,) = cut(path, chips=str(tmp_path / "chips"))
    (again,) = cut(tile["properties"]["source"])
    np.testing.assert_array_equal(rasters.read_pixels(again, L1C[:count]), pixels)


def test_chips_keep_what_is_invalid(holes, tmp_path, cut):
    path, invalid, settings = holes
    used = [i for i, name in enumerate(settings["bands"]) if name != "-"]
    names = [settings["bands"][i] for i in used]
    for tile in cut(path, size=13, chips=str(tmp_path / "chips"), **settings):
        column, row = map(int, tile["id"].split("_")[-2:])
        here = np.s_[..., row : row + 13, column : column + 13]
        np.testing.assert_array_equal(np.isnan(rasters.read_pixels(tile, names)), invalid[used][here])
        (again,) = cut(tile["properties"]["source"], min_valid=0.0)
        same_pixels(tile, again, names)
    assert not list((tmp_path / "chips").glob("*.msk"))


@pytest.mark.parametrize("value", [63, 255, 0])
def test_chips_of_padded_tiles_lose_no_value(tmp_path, write_raster, cut, value):
    # 63 is what numpy fills masked bytes with, unless told otherwise.
    path = write_raster(tmp_path / "x.tif", np.full((1, 12, 12), value, "uint8"), names=["red"])
    (tile,) = cut(path, size=16, edge="pad", chips=str(tmp_path / "chips"))
    read = rasters.read_pixels(tile, ["red"])[0]
    np.testing.assert_array_equal(read[:12, :12], value)
    assert np.isfinite(read).sum() == 144


def test_chips_of_bands_of_three_resolutions(mixed, tmp_path, cut):
    folder, pixels = mixed
    settings = {"per_band": True, "sensor": "sentinel2-l2a", "scale": 2.0, "offset": -1000.0}
    tiles = cut(folder, size=47, stride_px=43, edge="pad", chips=str(tmp_path), **settings)
    assert len(tiles) > 20
    for tile, original in zip(tiles, cut(folder, size=47, stride_px=43, edge="pad", **settings), strict=True):
        assert tile["id"] == original["id"]
        read = same_pixels(tile, original, L2A)
        (again,) = cut(tile["properties"]["source"])
        same_pixels(again, original, L2A)
        assert again["geometry"] == original["geometry"]
        rows, columns = np.nonzero(np.isfinite(read[0]))
        column, row, _, _ = original["properties"]["window"]
        truth = pixels["nir09"][row + rows.max(), column + columns.max()] * 2 - 1000
        assert read[L2A.index("nir09"), rows.max(), columns.max()] == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize("sensor", ["landsat8", "sentinel2-l2a"])
def test_chips_of_single_band_files_that_declare_nothing(tmp_path, write_raster, cut, sensor):
    # 16959 is what numpy fills masked 16-bit numbers with, unless told otherwise.
    values = np.array([[16959, 300], [0, 16959]], "uint16")
    for band in ("B02", "B03"):
        write_raster(tmp_path / "in" / f"{band}.tif", values)
    (tile,) = cut(tmp_path / "in", per_band=True, sensor=sensor, chips=str(tmp_path / "out"))
    (original,) = cut(tmp_path / "in", per_band=True, sensor=sensor)
    read = same_pixels(tile, original, ["blue", "green"])
    np.testing.assert_array_equal(np.isnan(read), np.broadcast_to(values == 0, read.shape))
    (again,) = cut(tile["properties"]["source"])
    same_pixels(again, original, ["blue", "green"])


def test_chips_of_an_n0400_product_carry_the_offset(tmp_path, write_raster, cut):
    folder = tmp_path / "S2A_MSIL2A_20220301T101351_N0400_R022_T33UUP_20220301T131500.SAFE" / "IMG_DATA"
    write_raster(folder / "T33UUP_20220301T101351_B02_10m.jp2", np.full((16, 16), 1500, "uint16"))
    (tile,) = cut(folder, per_band=True, sensor="sentinel2-l2a", chips=str(tmp_path / "chips"))
    (again,) = cut(tile["properties"]["source"])
    for record in (tile, again):
        np.testing.assert_allclose(rasters.read_pixels(record, ["blue"]), 500)


def test_chips_replace_nothing_unasked(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "x.tif", bands_of(2, 9, 9), names=["red", "nir"])
    before = (tmp_path / "x.tif").read_bytes()
    with pytest.raises(OutputError, match=r"x\.tif: exists already; pass --overwrite"):
        cut(path, chips=str(tmp_path))
    with pytest.raises(OutputError, match=r"x\.tif: is the scene itself; name another directory"):
        cut(path, chips=str(tmp_path), overwrite=True)
    assert (tmp_path / "x.tif").read_bytes() == before
    chips = str(tmp_path / "chips")
    cut(path, chips=chips)
    with pytest.raises(OutputError, match="exists already"):
        cut(path, chips=chips)
    cut(path, chips=chips, overwrite=True)
    assert [file.name for file in (tmp_path / "chips").iterdir()] == ["x.tif"]


# Footprints ----------------------------------------------------------------------------------------------------------


def locate(tmp_path, write_raster, cut, crs, transform, width, height, window=None):
    """Write an empty raster and give the record of a window of it, or of all of it."""
    path = tmp_path / "x.tif"
    shape = {"width": width, "height": height, "count": 1, "dtype": "uint8", "crs": crs, "transform": transform}
    with rasterio.open(path, "w", "GTiff", SPARSE_OK=True, **shape):
        pass
    (whole,) = cut(path, bands=["red"], min_valid=0.0)
    if window is None:
        return whole
    with rasterio.open(path) as raster:
        return whole | rasters.Locator(raster).footprints([window])[0]


def to_lonlat(crs, transform, columns, rows):
    """Project pixels with pyproj: lon from -180 to 180, lat."""
    a, b, c, d, e, f = transform[:6]
    columns, rows = np.asarray(columns, float), np.asarray(rows, float)
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    lon, lat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(x, y)
    return (np.asarray(lon) + 180) % 360 - 180, np.asarray(lat)


def check_rules(record):
    """Check what RFC 7946 asks of every footprint; give it as a shape."""
    shape = shapely.geometry.shape(record["geometry"])
    assert shape.is_valid
    assert shape.area > 0
    parts = shapely.get_parts(shape)
    assert all(part.exterior.is_ccw and not part.interiors for part in parts)
    polygons = record["geometry"]["coordinates"]
    for ring in [polygons[0]] if shape.geom_type == "Polygon" else [polygon[0] for polygon in polygons]:
        assert ring[0] == ring[-1]
        assert len(ring) >= 4
        assert all(-180 <= lon <= 180 and -90 <= lat <= 90 for lon, lat in ring)
        assert all(round(number, 7) == number for point in ring for number in point)
    west, south, east, north = record["bbox"]
    assert (south, north) == (shape.bounds[1], shape.bounds[3])
    if west <= east:
        assert (west, east) == (shape.bounds[0], shape.bounds[2])
    else:
        assert west == min(part.bounds[0] for part in parts if part.bounds[2] == 180)
        assert east == max(part.bounds[2] for part in parts if part.bounds[0] == -180)
    return shape


def check_inside_and_outside(shape, crs, transform, window):
    """Check that pixels of the window are in its footprint and those around it are not, to a pixel."""
    left, top, width, height = window
    columns = RNG.uniform(left - width / 4, left + width * 5 / 4, 2000)
    rows = RNG.uniform(top - height / 4, top + height * 5 / 4, 2000)
    lon, lat = to_lonlat(crs, transform, columns, rows)
    found = shapely.contains_xy(shape, lon, lat)
    beyond = np.maximum.reduce([left - columns, columns - left - width, top - rows, rows - top - height])
    beyond[~np.isfinite(lon)] = np.nan
    assert (beyond < -1).sum() > 300
    assert found[beyond < -1].all()
    assert not found[beyond > 1].any()


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
    """Where the pole is inside too: ``east`` and ``south`` tell where, as a share of the window."""
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
    """MODIS's tiles are 10 degrees high; beyond 180 degrees PROJ wraps what is not there around the Earth."""
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
        ("EPSG:4087", Affine(EDGE_3857 / 180, 0, -EDGE_3857, 0, -EDGE_3857 / 180, EDGE_3857 / 2), (360, 180)),
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


def test_a_tile_off_the_earth_does_not_take_its_neighbours_footprints(tmp_path, write_raster, cut):
    """PROJ fails all points of a row for one that is nowhere, and the first time only."""
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


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (None, Affine.identity()),
        (None, grid(10)),
        ("EPSG:32633", Affine.identity()),  # a CRS, and no word of where
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
    json.dumps(record, allow_nan=False)


def test_ground_control_points_only(tmp_path, write_raster, cut, capfd):
    true = Affine(0.001, 0.0002, 12, 0.0001, -0.0008, 48)
    points = [
        GroundControlPoint(r, c, *(true @ (c, r)), 0) for r, c in itertools.product((0.5, 60, 99.5), (0.5, 149.5))
    ]
    path = write_raster(tmp_path / "x.tif", bands_of(1, 100, 150), crs="EPSG:4326", gcps=points, names=["red"])
    tiles = cut(path, size=50, chips=str(tmp_path / "chips"))
    assert len(tiles) == 6
    for tile in tiles:
        column, row = map(int, tile["id"].split("_")[-2:])
        shape = check_rules(tile)
        corners = [true @ (column + c, row + r) for c, r in ((0, 0), (0, 50), (50, 50), (50, 0))]
        assert shape.symmetric_difference(shapely.Polygon(corners)).area < shape.area * 1e-5
        assert tile["properties"]["proj:code"] == "EPSG:4326"
        assert "proj:transform" not in tile["properties"]
        (again,) = cut(tile["properties"]["source"])
        assert shapely.geometry.shape(again["geometry"]).symmetric_difference(shape).area < shape.area * 1e-5
        same_pixels(again, tile, ["red"])
    assert capfd.readouterr().err == ""  # GDAL keeps its trouble with them to itself


def rpc_pixel(rpc, lon, lat, height):
    """Project lon, lat and height to column and row, after the RPC00B specification."""
    x, y = (lon - rpc.long_off) / rpc.long_scale, (lat - rpc.lat_off) / rpc.lat_scale
    z = (height - rpc.height_off) / rpc.height_scale
    terms = [1, x, y, z, x * y, x * z, y * z, x * x, y * y, z * z, x * y * z, x**3, x * y * y, x * z * z, x * x * y]
    terms += [y**3, y * z * z, x * x * z, y * y * z, z**3]

    def polynomial(coefficients):
        return sum(c * term for c, term in zip(coefficients, terms, strict=True))

    column = polynomial(rpc.samp_num_coeff) / polynomial(rpc.samp_den_coeff) * rpc.samp_scale + rpc.samp_off
    row = polynomial(rpc.line_num_coeff) / polynomial(rpc.line_den_coeff) * rpc.line_scale + rpc.line_off
    return column + 0.5, row + 0.5  # which counts from the first pixel's centre


def test_rational_polynomials_only_at_the_scenes_mean_height(tmp_path, write_raster, cut):
    first = [1, *[0] * 19]
    rpc = RPC(
        height_off=2500.0,
        height_scale=500.0,
        lat_off=46.0,
        lat_scale=0.1,
        long_off=8.0,
        long_scale=0.15,
        line_off=500.0,
        line_scale=500.0,
        samp_off=600.0,
        samp_scale=600.0,
        line_num_coeff=[0.0, 0.1, -1.0, 0.02, *[0.0] * 16],
        line_den_coeff=first,
        samp_num_coeff=[0.0, 1.0, 0.05, -0.03, 0.01, *[0.0] * 15],
        samp_den_coeff=first,
    )
    path = write_raster(
        tmp_path / "x.tif", bands_of(1, 1000, 1200), crs=None, transform=Affine.identity(), names=["red"]
    )
    with rasterio.open(path, "r+") as raster:
        raster.rpcs = rpc
    for tile in cut(path, size=400, chips=str(tmp_path / "chips")):
        left, top = map(int, tile["id"].split("_")[-2:])
        box = shapely.LinearRing([(left, top), (left, top + 400), (left + 400, top + 400), (left + 400, top)])
        shape = check_rules(tile)
        lon, lat = np.array(shape.exterior.coords).T
        columns, rows = rpc_pixel(rpc, lon, lat, 2500.0)
        assert shapely.distance(box, shapely.points(columns, rows)).max() < 0.1
        assert shapely.Polygon(zip(columns, rows, strict=True)).area == pytest.approx(400**2, rel=1e-3)
        (again,) = cut(tile["properties"]["source"])
        assert shapely.geometry.shape(again["geometry"]).symmetric_difference(shape).area < shape.area * 1e-4


def test_control_of_real_images(shared_data, cut):
    folder = shared_data / "awkward"
    with rasterio.open(folder / "RGB.byte.rpc.vrt") as raster:
        rpc, box = raster.rpcs, shapely.box(0, 0, raster.width, raster.height)
    (tile,) = cut(folder / "RGB.byte.rpc.vrt", bands=["red", "green", "blue"])
    lon, lat = np.array(check_rules(tile).exterior.coords).T
    found = shapely.points(*rpc_pixel(rpc, lon, lat, rpc.height_off))
    assert shapely.distance(box.exterior, found).max() < 0.25
    assert shapely.Polygon(found).area == pytest.approx(box.area, rel=1e-3)

    with rasterio.open(folder / "RGB.byte.gcp.vrt") as raster:
        points = raster.gcps[0]
    (tile,) = cut(folder / "RGB.byte.gcp.vrt", bands=["red", "green", "blue"])
    pixels = np.array([(1, point.col, point.row) for point in points])
    plane, *_ = np.linalg.lstsq(pixels, np.array([(point.x, point.y) for point in points]))
    corners = [np.array([1, column, row]) @ plane for column, row in box.exterior.coords]
    expected = shapely.Polygon(corners)
    assert check_rules(tile).symmetric_difference(expected).area < expected.area * 1e-4
