"""Eight-bit colours."""

import numpy as np
import pytest
from support_rasters import values

from rsr_cli.core.errors import BandError


def test_eight_bit_colours(tmp_path, write_raster, cut):
    pixels = np.arange(0, 3 * 85, 85, dtype="uint8")[:, None, None] + np.zeros((3, 4, 4), "uint8")
    (tile,) = cut(write_raster(tmp_path / "x.png", pixels, driver="PNG"), sensor="rgb")
    assert values(tile) == pytest.approx({"red": 0, "green": 10000 / 3, "blue": 20000 / 3})
    with pytest.raises(BandError, match="has uint16 numbers, but rgb has uint8") as raised:
        cut(write_raster(tmp_path / "y.tif", pixels.astype("uint16")), sensor="rgb")
    assert raised.value.remedy == "scale"


def test_a_products_true_colour_image_is_a_photograph(tmp_path, write_raster, cut):
    folder = tmp_path / "S2B_MSIL2A_20220115T101309_N0400_R022_T33UUP_20220115T120000.SAFE"
    path = write_raster(folder / "T33UUP_20220115T101309_TCI_10m.jp2", np.full((3, 16, 16), 51, "uint8"))
    (tile,) = cut(path, sensor="rgb")
    assert values(tile) == pytest.approx(dict.fromkeys(["red", "green", "blue"], 2000))
    with pytest.raises(BandError, match="identifies it as sentinel2-l2a, but the sensor is sentinel2-l1c"):
        cut(path, sensor="sentinel2-l1c")
