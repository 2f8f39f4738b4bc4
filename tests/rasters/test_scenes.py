"""What is read from a scene's files: scale, bands, grid."""

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from support_rasters import LC08, ONES, RNG, SIX, bands_of, product, window_of

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError, UsageError


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
    np.testing.assert_allclose(read(plain, sensor="landsat5"), (red * 0.0000275 - 0.2) * 10000, rtol=1e-5)
    np.testing.assert_allclose(read(plain, sensor="landsat5", offset=7.0), red * 0.275 + 7, rtol=1e-6)
    # What the file declares is surer than what the sensor's files usually have.
    np.testing.assert_allclose(read(own, sensor="landsat5"), red * 0.2 - 1000, rtol=1e-6)
    np.testing.assert_allclose(read(own, sensor="landsat5", offset=7.0), red * 0.2 + 7, rtol=1e-6)
    np.testing.assert_allclose(read(own, sensor="landsat5", scale=3.0, offset=0.0), red * 3, rtol=1e-6)
    np.testing.assert_allclose(read(plain, scale=0.5, offset=-20.0), red * 0.5 - 20, rtol=1e-6)
    np.testing.assert_allclose(read(plain, offset=-1000.0), red - 1000, rtol=1e-6)


def test_numbers_of_another_dtype_than_the_sensors_are_refused(tmp_path, write_raster, cut, caplog):
    reflectance = RNG.random((6, 8, 8)).astype(np.float32)
    path = write_raster(tmp_path / "toa.tif", reflectance)
    with pytest.raises(BandError, match=r"toa\.tif: has float32 numbers, but landsat7 has uint16") as raised:
        cut(path, sensor="landsat7")
    assert raised.value.remedy == "scale"
    (tile,) = cut(path, sensor="landsat7", scale=10000.0, offset=0.0)
    np.testing.assert_allclose(rasters.read_pixels(tile, ["nir08"])[0], reflectance[3] * 10000, rtol=1e-6)
    named = write_raster(tmp_path / "named.tif", reflectance, names=SIX)
    cut(named)
    assert caplog.messages == ["named has float32 numbers; taking them as reflectance x 10000"]


def test_scale_alone_does_not_lose_the_offset(tmp_path, write_raster, cut):
    product(tmp_path, write_raster, LC08, ["SR_B4", "SR_B5"], ".TIF", "uint16")
    with pytest.raises(UsageError, match="the scale replaces that of landsat8, whose offset is -2000") as raised:
        cut(tmp_path, per_band=True, sensor="landsat8", scale=0.275)
    assert raised.value.remedy == "offset"


def test_a_single_band_of_a_product_is_not_taken_for_all(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / f"{LC08}SR_B5.TIF", ONES)
    with pytest.raises(BandError, match="is a single band of landsat8") as raised:
        cut(path, sensor="landsat8")
    assert raised.value.remedy == "per-band"


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
