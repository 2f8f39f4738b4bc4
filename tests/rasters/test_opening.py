"""Files that are hard to open, and arrays."""

import numpy as np
import pytest
import rasterio
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


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex_numbers_are_refused(tmp_path, cut, dtype):
    """Radar's single-look complex images are of 16-bit integers, for which numpy has no type."""
    path = tmp_path / "x.tif"
    with rasterio.open(path, "w", driver="GTiff", width=8, height=8, count=2, dtype=dtype):
        pass
    with pytest.raises(RasterError, match=r"x\.tif: has complex numbers, which are not reflectance$"):
        cut(path, bands=["-", "red"])
