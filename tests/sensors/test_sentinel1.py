"""Radar backscatter: decibels, power and amplitude are told apart, and read in decibels."""

import base64
import json

import numpy as np
import pytest
import rasterio
from support import needs_torch

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError
from rsr_cli.core.sensors import identify
from rsr_cli.core.sensors.base import Product

UNITS = {"sentinel1": "dB", "sentinel1-power": "power", "sentinel1-amplitude": "amplitude"}


def test_backscatter_as_it_comes(shared_data, cut):
    tiles = cut(shared_data / "terramind" / "S1RTC", sensor="sentinel1")
    assert len(tiles) == 5
    for tile in tiles:
        properties = tile["properties"]
        facts = {"bands": ["vv", "vh"], "unit": "dB", "scale": 1, "offset": 0}
        assert {key: properties[key] for key in facts} == facts
        with rasterio.open(properties["source"]) as raster:
            truth = raster.read()
        read = rasters.read_pixels(tile, ["vv", "vh"])
        np.testing.assert_allclose(read, truth, rtol=1e-6)
        assert read[0].mean() > read[1].mean()  # more comes back as it was sent


@pytest.mark.parametrize("sensor", UNITS)
@pytest.mark.parametrize("unit", UNITS.values())
def test_numbers_in_another_unit_are_refused(tmp_path, write_raster, cut, sensor, unit):
    decibels = np.random.default_rng(2).normal(-12, 4, (2, 50, 50)).astype("float32")
    pixels = {"dB": decibels, "power": 10 ** (decibels / 10), "amplitude": 10 ** (decibels / 20)}[unit]
    path = write_raster(tmp_path / "x.tif", pixels)
    if (unit == "dB") == (sensor == "sentinel1"):  # nothing tells power from amplitude
        (tile,) = cut(path, sensor=sensor)
        assert tile["properties"]["unit"] == UNITS[sensor]
        expected = decibels * {"dB": 1, "power": 1, "amplitude": 0.5}[unit]
        expected = expected * (2 if sensor == "sentinel1-amplitude" else 1)
        np.testing.assert_allclose(rasters.read_pixels(tile, ["vv", "vh"]), expected, rtol=1e-5, atol=1e-5)
    else:
        says = "is not linear: 100% of" if unit == "dB" else "is not in dB: 0% of the numbers sampled are below zero"
        with pytest.raises(BandError, match=says) as raised:
            cut(path, sensor=sensor)
        assert raised.value.remedy == ("sensor" if unit == "dB" else "sensor-linear")


def test_other_bands_beside_backscatter_do_not_count(tmp_path, write_raster, cut):
    """Google Earth Engine adds the angle of incidence."""
    pixels = np.stack([np.full((8, 8), value, "float32") for value in (-9, 38, 40)])
    (tile,) = cut(write_raster(tmp_path / "x.tif", pixels), sensor="sentinel1", bands=["vv", "angle", "angle2"])
    assert (tile["properties"]["unit"], tile["properties"]["scale"]) == ("dB", 1)


@pytest.mark.parametrize(("sensor", "per_ten"), [("sentinel1-power", 10), ("sentinel1-amplitude", 20)])
@pytest.mark.parametrize("kind", ["float32", "float64", "uint16"])
def test_linear_backscatter_is_read_in_decibels(tmp_path, write_raster, cut, sensor, per_ten, kind):
    """Numbers that are not positive have none: they are invalid, in chips too, which keep numbers and unit."""
    truth = np.random.default_rng(1).uniform(0.01, 3, (2, 40, 40)).astype("float32")
    factor = 1000 if kind == "uint16" else 1
    pixels = np.round(truth * factor).astype(kind) if factor > 1 else truth.astype(kind)
    pixels[0, :10] = 0
    if factor == 1:
        pixels[1, 39, :30] = -0.001  # where noise was removed
    angle = np.full((1, 40, 40), 38).astype(kind)  # has a unit of its own
    path = write_raster(tmp_path / "x.tif", np.concatenate([pixels, angle]))
    scale = {"scale": 1 / factor, "offset": 0.0} if factor > 1 else {}
    settings = {"sensor": sensor, "bands": ["vv", "vh", "angle"], "size": 20, "min_valid": 0.01, **scale}
    tiles = cut(path, **settings)
    chips = cut(path, **settings, chips=tmp_path / "chips")
    assert len(tiles) == len(chips) == 4
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = per_ten * np.log10(pixels.astype(float) / factor)
    expected[~np.isfinite(expected)] = np.nan
    for tile, chip in zip(tiles, chips, strict=True):
        column, row, *_ = tile["properties"]["window"]
        here = expected[:, row : row + 20, column : column + 20]
        again = cut(chip["properties"]["source"], bands=settings["bands"])  # as the chip itself states unit and scale
        for record in (tile, chip, *again):
            properties = record["properties"]
            assert properties["unit"] == sensor.removeprefix("sentinel1-")
            np.testing.assert_allclose(rasters.read_pixels(record, ["vv", "vh"]), here, rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(rasters.read_pixels(record, ["angle"]), 38 / factor, rtol=1e-6)
            assert properties["valid"] == pytest.approx(np.isfinite(here).all(axis=0).mean(), abs=1e-6)


@needs_torch
def test_the_three_units_make_the_same_pixels_and_the_same_space(tmp_path, write_raster, cut, call):
    decibels = np.random.default_rng(2).normal(-12, 4, (2, 64, 64)).astype("float32")
    vectors = {}
    for sensor, pixels in (
        ("sentinel1", decibels),
        ("sentinel1-power", 10 ** (decibels / 10)),
        ("sentinel1-amplitude", 10 ** (decibels / 20)),
    ):
        (tile,) = cut(write_raster(tmp_path / f"{sensor}.tif", pixels), sensor=sensor)
        (tmp_path / "tile").write_text(json.dumps(tile))
        call("embed", "--model", "rcf:bands=vv,vh:mean=-12,-19:std=5,5", "-o", tmp_path / sensor, tmp_path / "tile")
        vectors[sensor] = json.loads((tmp_path / sensor).read_text())["properties"]["embedding"]
    assert {(one["unit"], one["fingerprint"]) for one in vectors.values()} == {
        ("dB", vectors["sentinel1"]["fingerprint"])
    }
    arrays = [np.frombuffer(base64.b64decode(one["data"]), "<f4") for one in vectors.values()]
    for other in arrays[1:]:
        np.testing.assert_allclose(other, arrays[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("unit", [["power"], 1, None, {}, "K"])
def test_a_unit_that_a_record_cannot_have_changes_nothing(tmp_path, write_raster, cut, unit):
    (tile,) = cut(write_raster(tmp_path / "x.tif", np.full((2, 4, 4), -9.0)), bands=["vv", "vh"])
    tile["properties"]["unit"] = unit
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["vh"]), -9)


@pytest.mark.parametrize(
    ("stem", "when"),
    [
        ("S1A_IW_20180128T161201_DVP_RTC30_G_gpuncd_FD6A_{}.tif", "2018-01-28T16:12:01Z"),
        ("S1B_IW_GRDH_1SDV_20170613T165043_33UUP_70_48_{}.tif", "2017-06-13T16:50:43Z"),
        ("2023-06-10-00_00_2023-06-10-23_59_Sentinel-1_IW_VV+VH_{}_(Raw).tiff", "2023-06-10T00:00:00Z"),
        ("iw-{}.rtc.tiff", None),
        ("{}.tif", None),
    ],
)
def test_single_band_files(tmp_path, write_raster, cut, caplog, stem, when):
    for band, value in (("vv", 0.3), ("vh", 0.1)):
        name = stem.format(band if stem.startswith("iw") else band.upper())
        write_raster(tmp_path / "order_20240101T000000" / name, np.full((4, 4), value, "float32"))
    (tile,) = cut(tmp_path / "order_20240101T000000", per_band=True, sensor="sentinel1-power")
    expected = 10 * np.log10([0.3, 0.1])
    np.testing.assert_allclose(rasters.read_pixels(tile, ["vv", "vh"])[:, 0, 0], expected, rtol=1e-5)
    assert tile["properties"].get("datetime") == when
    assert tile["id"] == (stem.split("_{}")[0] if "1" in stem else "order_20240101T000000")
    assert caplog.messages == []


def test_other_polarizations_are_read_where_they_are_there(tmp_path, write_raster, cut):
    for band in ("HH", "HV"):
        write_raster(tmp_path / f"x_{band}.tif", np.full((4, 4), -9, "float32"))
    assert cut(tmp_path, per_band=True, sensor="sentinel1")[0]["properties"]["bands"] == ["hh", "hv"]
    stack = write_raster(tmp_path / "stack" / "x.tif", np.full((2, 4, 4), -9.0), names=["Gamma0_VH_db", "Gamma0_VV_db"])
    assert cut(stack, sensor="sentinel1")[0]["properties"]["bands"] == ["vh", "vv"]


def test_a_name_that_states_the_unit(tmp_path, write_raster, cut):
    name = "S1A_IW_20180128T161201_DVP_RTC30_G_g{}uncd_FD6A_VV.tif"
    for letter, sensor in (("d", "sentinel1"), ("p", "sentinel1-power"), ("a", "sentinel1-amplitude")):
        assert identify(Product(f"/x/{name.format(letter)}")).name == sensor
    path = write_raster(tmp_path / name.format("p"), np.full((1, 4, 4), 0.3, "float32"))
    with pytest.raises(BandError, match="identifies it as sentinel1-power, but the sensor is sentinel1-amplitude"):
        cut(path, bands=["vv"], sensor="sentinel1-amplitude")
    with pytest.raises(BandError, match="identifies it as sentinel1-power, but the sensor is sentinel2-l2a"):
        cut(path, bands=["vv"], sensor="sentinel2-l2a")
