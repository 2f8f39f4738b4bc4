"""The classifications of products, against the tables in their guides."""

import numpy as np
import pytest

from rsr_cli.core.rasters.masks import are_marked, cloud_cover
from rsr_cli.core.sensors import SENSORS
from rsr_cli.core.sensors.quality import Marks

# Sentinel-2: https://sentiwiki.copernicus.eu/web/s2-processing, scene classification.
SCL = {
    0: "nodata",
    1: "saturated",
    2: "dark",
    3: "shadow",
    4: "plants",
    5: "soil",
    6: "water",
    7: "unclassified",
    8: "cloud",
    9: "cloud",
    10: "cirrus",
    11: "snow",
}


@pytest.mark.parametrize("number", SCL)
def test_scl(number):
    quality = SENSORS["sentinel2-l2a"].quality
    numbers = np.array([number], np.uint8)
    assert are_marked(numbers, quality.masked)[0] == (SCL[number] in ("nodata", "shadow", "cloud", "cirrus"))
    assert are_marked(numbers, quality.clouds)[0] == (SCL[number] in ("cloud", "cirrus"))


# Landsat Collection 2 QA_PIXEL, table 6-3 of LSDS-1619: number -> what it means.
QA_PIXEL = {
    1: "fill",
    21824: "clear",
    21888: "water",
    21826: "dilated cloud",
    21890: "dilated cloud over water",
    22080: "mid confidence cloud",
    22280: "high confidence cloud",
    23888: "high confidence cloud shadow",
    30048: "high confidence snow",
    54596: "high confidence cirrus",
    55052: "high confidence cirrus and cloud",
}


@pytest.mark.parametrize("number", QA_PIXEL)
@pytest.mark.parametrize("sensor", ["landsat5", "landsat7", "landsat8"])
def test_qa_pixel(number, sensor):
    quality, meaning = SENSORS[sensor].quality, QA_PIXEL[number]
    numbers = np.array([number], np.uint16)
    clear = ("clear", "water", "high confidence snow", "mid confidence cloud")
    assert are_marked(numbers, quality.masked)[0] == (meaning not in clear)
    clouds = ("high confidence cloud", "high confidence cirrus", "high confidence cirrus and cloud")
    assert are_marked(numbers, quality.clouds)[0] == (meaning in clouds)


@pytest.mark.parametrize("sensor", ["hls-l30", "hls-s30"])
def test_fmask(sensor):
    """Bits of table 9 of the HLS guide: reserved, cloud, adjacent, shadow, snow, water, two of aerosol."""
    quality, numbers = SENSORS[sensor].quality, np.arange(256, dtype=np.uint8)
    _, cloud, adjacent, shadow, *_ = np.unpackbits(numbers[:, None], axis=1, bitorder="little").T.astype(bool)
    np.testing.assert_array_equal(are_marked(numbers, quality.masked), cloud | adjacent | shadow)
    np.testing.assert_array_equal(are_marked(numbers, quality.clouds), cloud)
    np.testing.assert_array_equal(are_marked(numbers, quality.fill), numbers == 255)


def test_cloud_cover_is_the_share_of_what_was_observed():
    quality = SENSORS["sentinel2-l2a"].quality
    numbers = np.ma.array([0, 0, 4, 4, 9, 3, 10, 8], mask=[0, 1, 0, 0, 0, 0, 0, 1])
    assert cloud_cover(numbers, quality) == 40  # 9 and 10 of five
    assert cloud_cover(np.ma.array([0, 9], mask=[0, 1]), quality) is None


def test_fill_is_no_cloud():
    quality = SENSORS["hls-l30"].quality
    assert cloud_cover(np.ma.array([255, 255, 64, 66]), quality) == 50


def test_a_mask_in_a_record_and_back():
    for marks in (Marks((1, 3)), Marks(bits=(0, 15)), Marks((255,), (1,))):
        assert Marks.of_property({"source": "x", **marks.as_property()}) == marks
