"""Which band is which, and what the names of products state."""

import numpy as np
import pytest
from support_rasters import L1C, L2A, ONES, SIX, VISIBLE, bands_of

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError, UsageError
from rsr_cli.core.sensors import SENSORS, check_names

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
        assert six == [2, 3, 4, 13, 11, 12]  # as the dataset's own readers take them


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


def test_a_band_that_the_file_calls_something_else_is_not_the_sensors(tmp_path, write_raster, cut):
    """As many bands as the product has, but one of them is no reflectance."""
    names = ["Blue", "Green", "Red", "B4", "B5", "cloud mask"]
    (tile,) = cut(write_raster(tmp_path / "x.tif", bands_of(6, 5, 5), names=names), sensor="landsat5")
    assert tile["properties"]["bands"] == ["blue", "green", "red", "nir08", "swir16", "-"]


def test_a_band_that_is_left_out_is_said(tmp_path, write_raster, cut, caplog):
    names = ["B02", "B8A", "scene classification", "AOT"]
    path = write_raster(tmp_path / "x.tif", bands_of(4, 5, 5), names=names)
    (tile,) = cut(path, sensor="sentinel2-l2a")
    assert tile["properties"]["bands"] == ["blue", "nir08", "-", "-"]
    assert caplog.messages == [
        "x does not use scene classification, AOT, which is no STAC common name and no band of sentinel2-l2a"
    ]
    caplog.clear()
    cut(path, sensor="sentinel2-l2a", bands=["blue", "nir08", "scl", "-"])
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["B1", "B2", "", "B4", "B5", "B7"], None),
        (["blue", "green", "red", "", "", ""], None),
        (["red", "green", "blue", "", "", ""], "describes band 1 as red, which is blue in files of landsat5"),
        (["B2", "B3", "", "", "B5", "B7"], "describes band 1 as green, which is blue in files of landsat5"),
        (["blue", "green", "red", "nir08", "swir16", "swir16"], "describes band 6 as swir16, which is swir22 in files"),
        (["blue", "green", "red", "", "SCL"], "has 5 bands, but files of landsat5 have 6"),
    ],
)
def test_bands_of_which_only_some_are_described(tmp_path, write_raster, cut, names, says):
    """They are the sensor's in its order, unless what is described contradicts that."""
    path = write_raster(tmp_path / "x.tif", bands_of(len(names), 5, 5), names=names)
    if says:
        with pytest.raises(BandError, match=says) as raised:
            cut(path, sensor="landsat5")
        assert raised.value.remedy == "bands"
    else:
        assert cut(path, sensor="landsat5")[0]["properties"]["bands"] == list(SIX)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("B08", "'B08' is not a STAC common name .* the number of one in a product; use nir in .*sentinel2-l2a$"),
        ("b8a", "nir08 in eurosat, hls-s30, sentinel2-l1c, sentinel2-l2a$"),
        ("SR_B5", "rededge071 in .*; nir08 in hls-l30, landsat8; swir16 in landsat5, landsat7$"),
        ("band_4", "red in .*; nir08 in landsat5, landsat7$|nir08 in landsat5, landsat7; red"),
        ("B99", "'B99' is not a STAC common name of a band, but the number of one in a product$"),
        ("NIR08", "did you mean nir08"),
        ("Red", "did you mean red"),
        ("nir8", "did you mean nir08 or nir"),
        ("swir1", "did you mean swir16"),
        ("rededge1", "did you mean rededge"),
        ("VV", "did you mean vv"),
        ("a b", "cannot be a name of your own"),
        ("1", "cannot be a name of your own"),
        ("x:y", "cannot be a name of your own"),
        ("-", "cannot be a name of your own"),
    ],
)
def test_names_that_may_be_mistaken_are_refused(name, says):
    with pytest.raises(UsageError, match=says):
        check_names([name])


def test_names_of_ones_own(tmp_path, write_raster, cut):
    names = ["vv", "vh", "A00", "ndvi", "slope", "mean_red", "dem.v2", "x-1", "scl", "U2018"]
    assert check_names(names) == tuple(names)
    pixels = bands_of(10, 5, 5)
    (tile,) = cut(write_raster(tmp_path / "x.tif", pixels), bands=names)
    assert tile["properties"]["bands"] == names
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["A00", "vv"]), pixels[[2, 0]])


def test_names_from_the_user_come_first(tmp_path, write_raster, cut):
    pixels = bands_of(4, 5, 5)
    path = write_raster(tmp_path / "x.tif", pixels, names=["blue", "green", "red", "nir"])
    (tile,) = cut(path, bands=["nir08", "-", "red", "-"], sensor="landsat5", scale=1.0, offset=0.0)
    assert tile["properties"]["bands"] == ["nir08", "-", "red", "-"]
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["red", "nir08"]), pixels[[2, 0]])
    with pytest.raises(BandError, match=r"x\.tif: has 4 bands, not counting alpha, but 2 are named") as raised:
        cut(path, bands=["red", "nir"])
    assert raised.value.remedy == "bands"


@pytest.mark.parametrize(
    ("count", "names", "sensor", "message"),
    [
        (3, None, None, "has 3 bands, not each described by a STAC common name$"),
        (2, ["red", "red"], None, r"has 2 bands, not each described by a STAC common name \(red, red, ...\)"),
        (2, ["red", ""], None, r"has 2 bands, not each described by a STAC common name \(red, none, ...\)"),
        (2, ["B02", "B8A"], None, r"has 2 bands, not each described by a STAC common name \(B02, B8A, ...\)"),
        (7, None, "landsat5", "has 7 bands, but files of landsat5 have 6"),
    ],
)
def test_bands_are_never_guessed(tmp_path, write_raster, cut, count, names, sensor, message):
    path = write_raster(tmp_path / "x.tif", bands_of(count, 5, 5), names=names)
    with pytest.raises(BandError, match=message) as raised:
        cut(path, sensor=sensor)
    assert raised.value.remedy == ("bands" if sensor else "sensor-or-bands")


@pytest.mark.parametrize(
    ("sensor", "name", "when"),
    [
        ("sentinel2-l2a", "S2A_MSIL2A_20170613T101031_N0205_R022_T33UUP_20170613T101608", "2017-06-13T10:10:31Z"),
        ("sentinel2-l2a", "S2A_MSIL2A_20170613T101031_87_48", "2017-06-13T10:10:31Z"),
        ("sentinel2-l1c", "T33UUP_20170613T101031_B02", "2017-06-13T10:10:31Z"),
        (
            "sentinel2-l1c",
            "S2A_OPER_PRD_MSIL1C_PDMC_20151231T144725_R008_V20151230T105153_20151230T105159",
            "2015-12-30T10:51:53Z",
        ),
        ("sentinel2-l1c", "S2A_OPER_MSI_L1C_TL_SGS__20151230T141433_A002726_T31UFS_B02", None),
        ("sentinel2-l2a", "S2A_MSIL2A_20171313T101031_87_48", None),
        ("sentinel2-l2a", "S2B_MSIL2A_20170924T93020_69_24", "2017-09-24T09:30:20Z"),
        ("hls-s30", "HLS.S30.T10SFH.2020060T185751.v2.0.B02", "2020-02-29T18:57:51Z"),
        ("hls-s30", "HLS.S30.T10SFH.2021400T185751.v2.0.B02", None),
        ("landsat8", "LC09_L2SP_020039_20230804_20230908_02_T1_SR_B5", "2023-08-04T00:00:00Z"),
        ("eurosat", "20170613T101031", None),
        ("rgb", "S2A_MSIL2A_20170613T101031_87_48", None),
    ],
)
def test_the_time_in_a_products_name(tmp_path, write_raster, cut, sensor, name, when):
    dtype = SENSORS[sensor].dtypes[0]
    path = write_raster(tmp_path / f"{name}.tif", ONES.astype(dtype))
    (tile,) = cut(path, sensor=sensor, bands=["red"])
    assert tile["properties"].get("datetime") == when
    (tile,) = cut(path, sensor=sensor, bands=["red"], datetime="2001-02-03T04:05:06Z")
    assert tile["properties"]["datetime"] == "2001-02-03T04:05:06Z"
