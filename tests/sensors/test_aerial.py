"""Photographs."""

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
