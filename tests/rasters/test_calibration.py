"""From numbers to reflectance x 10000: whose scale and offset count, and what is said when the result is doubtful."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from support_rasters import LC08, RNG, SIX, bands_of, product

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError, UsageError


def declare(path, scales, offsets):
    with rasterio.open(path, "r+") as raster:
        raster.scales, raster.offsets = scales, offsets
    return path


@pytest.mark.parametrize("sensor", [None, "sentinel2-l2a"])
def test_each_band_has_the_scale_that_its_file_declares(tmp_path, write_raster, cut, sensor):
    scales, offsets = [1e-4, 2e-4, 1e-4], [-0.1, 0.05, 0.0]
    pixels = bands_of(3, 8, 8)
    path = declare(write_raster(tmp_path / "x.tif", pixels, names=["blue", "green", "red"]), scales, offsets)
    truth = (pixels * np.array(scales)[:, None, None] + np.array(offsets)[:, None, None]) * 10000
    (tile,) = cut(path, sensor=sensor)
    assert (tile["properties"]["scale"], tile["properties"]["offset"]) == ([1, 2, 1], [-1000, 500, 0])
    np.testing.assert_allclose(rasters.read_pixels(tile, ["red", "blue", "green"]), truth[[2, 0, 1]], rtol=1e-6)
    # one file per band, and chips, which keep the bands that are used
    for band, values, scale, offset in zip(("B02", "B03", "B04"), pixels, scales, offsets, strict=True):
        declare(write_raster(tmp_path / "bands" / f"{band}.tif", values), [scale], [offset])
    (apart,) = cut(tmp_path / "bands", per_band=True, sensor="sentinel2-l2a")
    np.testing.assert_allclose(rasters.read_pixels(apart, ["blue", "green", "red"]), truth, rtol=1e-6)
    (chip,) = cut(path, bands=["-", "green", "red"], chips=tmp_path / "chips", sensor=sensor)
    assert (chip["properties"]["scale"], chip["properties"]["offset"]) == ([2, 1], [500, 0])
    (again,) = cut(chip["properties"]["source"])
    for record in (chip, again):
        np.testing.assert_allclose(rasters.read_pixels(record, ["red", "green"]), truth[[2, 1]], rtol=1e-6)


def test_a_difference_from_the_sensor_is_said(tmp_path, write_raster, cut, caplog):
    path = write_raster(tmp_path / "x.tif", np.full((6, 8, 8), 9000, "uint16"), names=SIX)
    declare(path, [2.75e-5] * 6, [-0.2] * 6)
    cut(path, sensor="landsat8")
    assert caplog.messages == []
    declare(path, [1e-4] * 6, [0.0] * 6)
    (tile,) = cut(path, sensor="landsat8")
    assert (tile["properties"]["scale"], tile["properties"]["offset"]) == (1, 0)
    assert caplog.messages == [
        "x declares scale 0.0001 and offset 0 of blue, where landsat8 has scale 2.75e-05 and offset -0.2;"
        " taking the file's"
    ]
    # As baseline 04.00 of Sentinel-2 declares it: the sensor alone does not state the offset.
    caplog.clear()
    for scales, offsets, warned in (
        ([1e-4] * 6, [-0.1] * 6, False),
        ([1e-4] * 6, [-0.1] * 5 + [-0.07], False),
        ([5e-5] * 6, [-0.1] * 6, True),
        ([5e-5] * 6, [0.0] * 6, True),
    ):
        declare(path, scales, offsets)
        for sensor in ("sentinel2-l2a", "sentinel2-l1c"):
            (tile,) = cut(path, sensor=sensor)
            expected = [offset * 10000 for offset in offsets]
            assert tile["properties"]["offset"] == pytest.approx(expected if len(set(offsets)) > 1 else expected[0])
        assert [" declares scale 5e-05 and offset " in line for line in caplog.messages] == [True] * 2 * warned
        caplog.clear()


@pytest.mark.parametrize(("scale", "offset"), [(0.0, 0.0), (np.nan, 0.0), (np.inf, 0.0), (1e-4, np.nan), (1e300, 0.0)])
def test_a_scale_that_cannot_be(tmp_path, write_raster, cut, scale, offset):
    path = declare(write_raster(tmp_path / "x.tif", bands_of(1, 8, 8), names=["red"]), [scale], [offset])
    with pytest.raises(BandError, match=r"declares scale \S+ and offset \S+ of red, which cannot be") as raised:
        cut(path)
    assert raised.value.remedy == "scale"
    assert cut(path, scale=1.0, offset=0.0)[0]["properties"]["scale"] == 1


@pytest.mark.parametrize("number", [1e300, -1e308])
def test_numbers_that_overflow_are_invalid(tmp_path, write_raster, rsr, number):
    """And numpy does not warn of them on stderr."""
    pixels = np.where(np.arange(64).reshape(1, 8, 8) < 32, 1000.0, number)
    path = write_raster(tmp_path / "x.tif", pixels)
    done = rsr("tile", "-q", "--bands", "red", "--scale", "1e30", "--offset", 0, "--whole", path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["properties"]["valid"] == 0.5


def test_bands_of_which_only_some_declare_a_scale(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "x.tif", bands_of(2, 8, 8), names=["red", "nir"])
    declare(path, [1e-4, 1.0], [-0.1, 0.0])
    for sensor in (None, "sentinel2-l2a"):
        with pytest.raises(BandError, match=r"red declares scale 0\.0001 and offset -0\.1, but nir") as raised:
            cut(path, sensor=sensor)
        assert raised.value.remedy == "scale"
        assert cut(path, sensor=sensor, bands=["red", "-"])[0]["properties"]["offset"] == -1000
    declare(path, [1e-4, 1.0], [0.0, 0.0])  # it comes to the same
    assert cut(path)[0]["properties"]["scale"] == 1


def test_bands_that_are_not_used_do_not_count(tmp_path, write_raster, cut):
    """Neither their scale nor their data type."""
    for name, dtype, scale in (("red", "uint16", 1e-4), ("qa", "uint8", 1.0), ("heat", "float32", 0.1)):
        declare(write_raster(tmp_path / f"{name}.tif", np.full((4, 4), 100, dtype), names=[name]), [scale], [0.0])
    bands = "".join(
        f'<VRTRasterBand dataType="{dtype}" band="{number}"><Description>{name}</Description><Scale>{scale}</Scale>'
        f'<SimpleSource><SourceFilename relativeToVRT="1">{name}.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for number, (name, dtype, scale) in enumerate(
            (("red", "UInt16", 1e-4), ("qa", "Byte", 1), ("heat", "Float32", 0.1)), 1
        )
    )
    stack = tmp_path / "stack.vrt"
    stack.write_text(f'<VRTDataset rasterXSize="4" rasterYSize="4">{bands}</VRTDataset>')
    for settings in ({}, {"sensor": "sentinel2-l2a"}, {"bands": ["red", "-", "-"]}):
        (tile,) = cut(stack, **settings)
        assert (tile["properties"]["scale"], tile["properties"]["offset"]) == (1, 0)
        np.testing.assert_allclose(rasters.read_pixels(tile, ["red"]), 100)


@pytest.mark.parametrize("sensor", [None, "landsat5"])
def test_a_scale_alone_does_not_lose_the_offset_that_the_file_declares(tmp_path, write_raster, cut, sensor):
    path = declare(write_raster(tmp_path / "x.tif", bands_of(6, 4, 4), names=SIX), [1e-4] * 6, [-0.1] * 6)
    with pytest.raises(UsageError, match="the scale replaces that the file declares, whose offset is -1000") as raised:
        cut(path, sensor=sensor, scale=1.0)
    assert raised.value.remedy == "offset"


def test_a_name_of_ones_own_is_no_reflectance(tmp_path, write_raster, cut, caplog):
    """Its numbers stay in their unit, whatever the sensor's or the other bands' scale is."""
    pixels = np.stack([np.full((4, 4), 2000), np.full((4, 4), 40)]).astype("int16")
    path = write_raster(tmp_path / "x.tif", pixels)
    (tile,) = cut(path, bands=["red", "slope"], sensor="sentinel2-l2a", offset=-1000.0)
    assert rasters.read_pixels(tile, ["red", "slope"])[:, 0, 0].tolist() == [1000, -960]  # the user's offset is for all
    declare(path, [1e-4, 0.5], [-0.1, 0.0])
    for sensor in (None, "sentinel2-l2a"):
        (tile,) = cut(path, bands=["red", "slope"], sensor=sensor)
        assert rasters.read_pixels(tile, ["red", "slope"])[:, 0, 0].tolist() == [1000, 20]
    floats = write_raster(tmp_path / "db.tif", np.full((2, 4, 4), -12.5))
    caplog.clear()
    (tile,) = cut(floats, bands=["vv", "A00"])
    assert rasters.read_pixels(tile, ["vv", "A00"])[:, 0, 0].tolist() == [-12.5, -12.5]
    assert caplog.messages == []


def six(*values, dtype="uint16"):
    """Return six bands of 300 x 300 pixels, evenly distributed from 0.8 to 1.2 times each value."""
    return (np.array(values)[:, None, None] * RNG.uniform(0.8, 1.2, (6, 300, 300))).astype(dtype)


REFLECTANCE = (0.04, 0.06, 0.05, 0.35, 0.2, 0.1)


@pytest.mark.parametrize(
    ("pixels", "settings", "says"),
    [
        (six(*(10000 * r for r in REFLECTANCE)), {}, None),
        (six(*(10000 * r for r in REFLECTANCE)), {"sensor": "landsat7"}, "below -100 (100% of blue, 100% of green"),
        (six(*(65535 * r for r in REFLECTANCE)), {}, "above 16000 (100% of nir08), which reflectance x 10000 cannot"),
        (six(*(65535 * r for r in REFLECTANCE)), {"scale": 1.0}, "above 16000 (100% of nir08)"),
        (six(*(65535 * r for r in REFLECTANCE)), {"scale": 10000 / 65535}, None),
        (six(*((r + 0.2) / 0.0000275 for r in REFLECTANCE)), {"sensor": "landsat7"}, None),
        (six(*((r + 0.2) / 0.0000275 for r in REFLECTANCE)), {}, "above 16000 (100% of nir08"),
        # digital numbers of Level 1, as at-sensor reflectance of 0.02 to 0.25 is written there
        (six(7000, 6200, 5900, 17000, 9000, 6500), {"sensor": "landsat7"}, "has numbers below -100 ("),
        (six(*REFLECTANCE, dtype="float32"), {}, "has float32 numbers; taking them as reflectance x 10000"),
        (six(*REFLECTANCE, dtype="float32"), {"scale": 1.0}, "has reflectance x 10000 of 2 at most"),
        (six(*REFLECTANCE, dtype="float32"), {"scale": 10000.0}, None),
        (six(*(255 * r for r in REFLECTANCE), dtype="uint8"), {}, "has uint8 numbers; taking them as reflectance"),
        (six(*(255 * r for r in REFLECTANCE), dtype="uint8"), {"scale": 10000 / 255}, None),
    ],
)
def test_numbers_that_cannot_be_reflectance_are_said_once(tmp_path, write_raster, cut, caplog, pixels, settings, says):
    path = write_raster(tmp_path / "x.tif", pixels, names=SIX)
    assert len(cut(path, size=100, **settings)) == 9
    assert len(caplog.messages) == (says is not None)
    assert says is None or caplog.messages[0].startswith("x has ")
    assert says is None or says in caplog.messages[0]


def marked(pixels, value, share, bands=slice(None)):
    """Write a value into rows of some bands, beginning where the sample does."""
    pixels = pixels.astype(np.result_type(pixels, np.array(value)) if isinstance(value, float) else "int32")
    pixels[bands, 24 : 24 + round(300 * share)] = value
    return pixels


PLAIN = six(*(10000 * r for r in REFLECTANCE))
DECIBELS = RNG.normal(-12, 3, (2, 300, 300)).astype("float32")


@pytest.mark.parametrize(
    ("pixels", "settings", "where", "value"),
    [
        (marked(PLAIN, -9999, 1 / 3), {}, "below -100 (36% of blue, 36% of green,", "-9999"),
        (marked(PLAIN, -9999, 0.03), {}, "below -100 (5% of blue,", "-9999"),
        (marked(PLAIN, -9999, 1 / 3, slice(0, 1)), {}, "below -100 (36% of blue), which", "-9999"),
        (marked(PLAIN, 65535, 1 / 3), {}, "above 16000 (36% of blue,", "65535"),
        (marked(PLAIN, -9999, 1 / 3), {"scale": 2.0, "offset": -7.0}, "below -100 (36% of blue,", "-9999"),
        (marked(PLAIN * 1.0, -3.4028234663852886e38, 1 / 3), {"scale": 1.0}, "below -100 (", "-3.4028234663852886e+38"),
        (
            marked(DECIBELS, -9999.0, 1 / 3),
            {"sensor": "sentinel1"},
            "below -100 (36% of vv, 36% of vh), which b",
            "-9999",
        ),
        (marked(DECIBELS, 32767.0, 1 / 3), {"sensor": "sentinel1"}, "above 100 (36% of vv,", "32767"),
        (np.full((6, 90, 90), -9999), {}, None, None),  # what is empty states nothing
        (marked(PLAIN, -9999, 0.003), {}, None, None),
    ],
)
def test_one_number_that_may_mark_invalid_pixels_is_named(
    tmp_path, write_raster, cut, caplog, pixels, settings, where, value
):
    path = write_raster(tmp_path / "x.tif", pixels, names=SIX if len(pixels) == 6 else ["vv", "vh"])
    cut(path, **{"scale": 1.0, "offset": 0.0} | settings if "sensor" not in settings else settings)
    found = [line for line in caplog.messages if "cannot be" in line]
    assert len(found) == (value is not None)
    if value:
        assert f"x has numbers {where}" in found[0]
        assert found[0].endswith(f"cannot be; most of them are {value}")
        caplog.clear()
        (tile,) = cut(path, nodata=float(value), **settings)
        assert [line for line in caplog.messages if "cannot be" in line] == []
        assert tile["properties"]["valid"] == pytest.approx(
            float((pixels != float(value)).all(axis=0).mean()), abs=1e-6
        )


def test_linear_backscatter_beside_a_number_that_marks_invalid_pixels(tmp_path, write_raster, cut, caplog):
    """It is not taken for decibels, and what is negative is invalid."""
    path = write_raster(tmp_path / "x.tif", marked(10 ** (DECIBELS / 10), -9999.0, 1 / 3))
    (tile,) = cut(path, sensor="sentinel1-power")
    assert tile["properties"]["valid"] == pytest.approx(2 / 3)
    assert caplog.messages == []


def test_real_imagery_is_plausible(shared_data, cut, caplog):
    cut(shared_data / "eurosat_ms" / "Industrial", sensor="eurosat")
    cut(shared_data / "eurosat_ms", sensor="sentinel2-l1c")  # its bands are in another order
    cut(shared_data / "bigearthnet_s2", per_band=True, sensor="sentinel2-l2a")
    assert caplog.messages == []
    for name in ("S2L1C", "S2L2A"):
        cut(shared_data / "terramind" / name, sensor=f"sentinel2-{name[2:].lower()}")
    # Four of ten have the offset in their numbers: those of the cirrus band of Level 1C are about 1010 instead of 10.
    assert [(line.split()[0], " and products of baseline 04.00" in line) for line in caplog.messages] == [
        (name, True) for name in ("282D_485L_3_3", "433D_629L_3_1", "609U_541L_3_0", "433D_629L_3_1")
    ]
    caplog.clear()
    raw = shared_data / "scenes" / "landsat8_per_band" / "l8_B4.tif"  # Level 1, which nothing but its MTL file states
    cut(raw, bands=["red"], sensor="landsat8")
    assert ["has numbers below -100 (" in line for line in caplog.messages] == [True]


def test_blocks_that_cannot_be_read_are_not_sampled(tmp_path, write_raster, cut, caplog):
    path = Path(write_raster(tmp_path / "x.tif", six(*(65535 * r for r in REFLECTANCE)), names=SIX, compress="deflate"))
    with rasterio.open(path) as raster:
        first = range(100 // raster.block_shapes[0][0])
        offsets = [int(raster.get_tag_item(f"BLOCK_OFFSET_0_{row}", "TIFF", bidx=1)) for row in first]
    whole = bytearray(path.read_bytes())
    for offset in offsets:
        whole[offset : offset + 100] = bytes(100)
    path.write_bytes(whole)
    assert len(cut(path, size=100)) == 9  # reading the tiles will report it
    assert "above 16000 (100% of nir08)" in caplog.messages[0]


def test_a_scale_that_a_sensor_states_is_for_its_data_types(tmp_path, write_raster, cut):
    product(tmp_path, write_raster, LC08, ["SR_B4", "SR_B5"], ".TIF", "uint8")
    with pytest.raises(BandError, match="has uint8 numbers, but landsat8 has uint16"):
        cut(tmp_path, per_band=True, sensor="landsat8")
    for path in tmp_path.glob("*.TIF"):
        declare(path, [1 / 255], [0.0])
    (tile,) = cut(tmp_path, per_band=True, sensor="landsat8")
    np.testing.assert_allclose(rasters.read_pixels(tile, ["red"]), 100 / 255 * 10000, rtol=1e-6)
