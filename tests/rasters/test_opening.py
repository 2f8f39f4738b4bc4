"""Files that are hard to open, and arrays."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from support_rasters import SIX, bands_of

from rsr_cli.core import rasters
from rsr_cli.core.errors import RasterError


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


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 2, 2), np.uint8), np.array(["x"]), np.array([None]), np.zeros((4, 4, 3), complex)]
)
def test_arrays_that_are_not_images(tmp_path, cut, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(RasterError, match=r"x\.npy: (is not an array|cannot be read|has complex)"):
        cut(tmp_path / "x.npy", bands=["red"])


def test_an_archive_of_arrays_is_not_an_image(tmp_path, cut):
    np.savez(tmp_path / "x.npz", a=np.zeros((4, 4)), b=np.zeros((4, 4)))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(RasterError, match=r"x\.npy: is not an array"):
        cut(tmp_path / "x.npy", bands=["red"])


NAMES = ["red", "green", "blue", "nir"]


@pytest.fixture
def aerial(write_raster):
    """Return a function that writes four bands of which the last is flagged as alpha, and 0 in half of it."""

    def write(path, dtype="uint8", names=None):
        pixels = bands_of(4, 40, 40).astype(dtype)
        pixels[3, :20] = 0
        path = write_raster(path, pixels, names=names)
        with rasterio.open(path, "r+") as raster:
            raster.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        return path, pixels.astype(float)

    return write


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    ("described", "settings"),
    [
        (NAMES, {}),
        (["B4", "B3", "B2", "B8"], {"sensor": "sentinel2-l2a", "scale": 2.0}),
        (None, {"bands": NAMES}),
        (None, {"bands": ["-", "green", "-", "nir"]}),
        (NAMES, {"bands": NAMES, "scale": 40.0}),
    ],
)
def test_a_name_beats_the_alpha_flag(tmp_path, cut, aerial, dtype, described, settings):
    path, pixels = aerial(tmp_path / "x.tif", dtype, described)
    truth = pixels[[1, 3]] * settings.get("scale", 1)
    if "sensor" in settings:
        truth[pixels[[1, 3]] == 0] = np.nan  # its nodata
    (tile,), (chip,) = cut(path, **settings), cut(path, chips=tmp_path / "chips", **settings)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["green", "nir"]), truth)
    if "sensor" not in settings:
        np.testing.assert_array_equal(rasters.read_pixels(chip, ["green", "nir"]), truth)
        assert tile["properties"].get("valid", 1) == 1


def test_a_file_whose_bands_the_sensor_orders_has_no_alpha(tmp_path, write_raster, cut):
    """One of many bands is flagged if the file was written as a photograph."""
    pixels = bands_of(6, 8, 8)
    path = write_raster(tmp_path / "x.tif", pixels)
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = [*[ColorInterp.gray] * 3, ColorInterp.alpha, *[ColorInterp.undefined] * 2]
    (tile,) = cut(path, sensor="landsat7", scale=1.0, offset=0.0)
    assert tile["properties"]["bands"] == list(SIX)
    np.testing.assert_array_equal(rasters.read_pixels(tile, SIX), pixels)


@pytest.mark.parametrize("names", [["red", "green", "blue"], ["red", "green", "blue", "-"]])
def test_alpha_that_nothing_names_is_alpha(tmp_path, cut, aerial, caplog, names):
    path, _ = aerial(tmp_path / "x.tif", "uint16")
    (tile,) = cut(path, bands=names)
    assert (tile["properties"]["bands"], tile["properties"]["valid"]) == (names[:3], 0.5)
    assert np.isnan(rasters.read_pixels(tile, ["red"])[0, :20]).all()
    # but its numbers are not those of transparency
    assert caplog.messages == [
        "x has other numbers than 0 and 65535 in band 4, which is flagged as alpha; taking it as alpha"
    ]


def test_alpha_with_transparent_and_feathered_edges_is_believed(tmp_path, write_raster, cut, caplog):
    pixels = bands_of(4, 40, 40).astype("uint8")
    pixels[3] = 255
    pixels[3, 10], pixels[3, :10] = 100, 0
    cut(write_raster(tmp_path / "x.tif", pixels, photometric="rgb", alpha="yes"), sensor="rgb")
    assert caplog.messages == []
