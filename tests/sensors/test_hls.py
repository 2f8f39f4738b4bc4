"""HLS products."""

import numpy as np
import pytest
from support_rasters import product, values

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError


def test_hls(tmp_path, write_raster, cut):
    s30 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12", "Fmask", "SZA"]
    l30 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B09", "B10", "B11", "Fmask", "VAA"]
    product(tmp_path / "s", write_raster, "HLS.S30.T10SFH.2020001T185751.v2.0.", s30, nodata=-9999)
    product(tmp_path / "l", write_raster, "HLS.L30.T10SFH.2020366T184512.v2.0.", l30)
    (tile,) = cut(tmp_path / "s", per_band=True, sensor="hls-s30")
    assert tile["properties"]["datetime"] == "2020-01-01T18:57:51Z"
    found = values(tile)
    assert (found["blue"], found["nir"], found["nir08"], found["swir22"], len(found)) == (200, 800, 900, 1300, 13)
    (tile,) = cut(tmp_path / "l", per_band=True, sensor="hls-l30")
    assert tile["properties"]["datetime"] == "2020-12-31T18:45:12Z"
    # B10 and B11 are thermal; B09 is cirrus, B05 near infrared, unlike S30's.
    expected = {"coastal": 100, "blue": 200, "green": 300, "red": 400, "nir08": 500, "swir16": 600, "swir22": 700}
    assert values(tile) == expected | {"cirrus": 800}
    # Fill, whether the files declare it or not.
    for folder, sensor in (("s", "hls-s30"), ("l", "hls-l30")):
        name = next((tmp_path / folder).glob("*.B04.tif")).name
        write_raster(tmp_path / "fill" / folder / name, np.array([[-9999, 5], [0, -9999]], "int16"))
        (tile,) = cut(tmp_path / "fill" / folder, per_band=True, sensor=sensor)
        np.testing.assert_array_equal(rasters.read_pixels(tile, ["red"])[0], [[np.nan, 5], [0, np.nan]])
    with pytest.raises(BandError, match="name or metadata identifies it as hls-l30, but the sensor is hls-s30"):
        cut(tmp_path / "l", per_band=True, sensor="hls-s30")
    with pytest.raises(BandError, match="name or metadata identifies it as hls-s30, but the sensor is hls-l30"):
        cut(tmp_path / "s", per_band=True, sensor="hls-l30")
