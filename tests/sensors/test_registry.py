"""The registry of sensors: complete, consistent, and sure of what products' names state."""

from importlib import import_module
from pathlib import Path

import pytest

from rsr_cli.commands.tile import tile
from rsr_cli.core import sensors
from rsr_cli.core.sensors import SENSORS, identify
from rsr_cli.core.sensors.base import COMMON_NAMES, Product


def test_every_family_is_in_the_registry():
    others = ("__init__", "base", "naming", "quality")
    names = [path.stem for path in Path(sensors.__file__).parent.glob("*.py") if path.stem not in others]
    families = [import_module(f"{sensors.__name__}.{name}") for name in names]
    assert sorted(sensor.name for family in families for sensor in family.SENSORS) == sorted(SENSORS)


@pytest.mark.parametrize("name", SENSORS)
def test_a_sensor_is_consistent(name):
    sensor = SENSORS[name]
    assert sensor.name == name
    assert set(sensor.order).isdisjoint(COMMON_NAMES) if sensor.space else set(sensor.order) <= set(COMMON_NAMES)
    assert len(set(sensor.order)) == len(sensor.order)
    if sensor.bands:
        assert sorted(sensor.bands.values()) == sorted(sensor.order)
    for band, common in sensor.bands.items():
        assert sensor.band_of_file(f"x_{band}.tif") == (common, 0)


def test_the_command_offers_every_sensor():
    (option,) = [option for option in tile.params if option.name == "sensor"]
    assert list(option.type.choices) == sorted(SENSORS)
    assert all(f"{name} ({sensor.title})" in option.help for name, sensor in SENSORS.items())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/HLS.S30.T10SFH.2020001T185751.v2.0.B02.tif", "hls-s30"),
        ("/x/HLS.L30.T10SFH.2020366T184512.v2.0.B02.tif", "hls-l30"),
        ("/x/LT04_L2SP_033033_19990110_20200908_02_T1_SR_B1.TIF", "landsat5"),
        ("/x/LT05_L2SP_033033_19990110_20200908_02_T1_SR_B1.TIF", "landsat5"),
        ("/x/LE07_L2SP_033033_19990110_20200908_02_T1_SR_B1.TIF", "landsat7"),
        ("/x/LC08_L2SP_020039_20150804_20200908_02_T1_SR_B5.TIF", "landsat8"),
        ("/x/LC09_L2SP_020039_20230804_20230908_02_T1_SR_B5.TIF", "landsat8"),
        ("/x/S2A_MSIL1C_20210115T101351_N0500_R022_T33UUP_20210115T120000.SAFE/T33UUP_B02.jp2", "sentinel2-l1c"),
        ("/x/S2C_MSIL2A_20250115T101351_N0511_R022_T33UUP_20250115T120000.SAFE/T33UUP_B02.jp2", "sentinel2-l2a"),
        ("/x/S2A_MSIL2A_20210115T101351.SAFE/S2A_MSIL1C_20210115T101351.SAFE/B02.jp2", "sentinel2-l1c"),
        ("/x/LC08_L1TP_020039_20150804_20200908_02_T1_B5.TIF", "landsat8"),
        ("/x/2020-07-28-00_00_2020-07-28-23_59_Sentinel-2_L1C_B02_(Raw).tiff", "sentinel2-l1c"),
        ("/x/B02.tif", None),
        ("/LC08_L2SP/photo.tif", None),
    ],
)
def test_names_that_state_the_sensor(path, name):
    stated = identify(Product(path))
    assert stated is (SENSORS[name] if name else None)
    assert [sensor.name for sensor in SENSORS.values() if sensor.identifies(Product(path))] == ([name] if name else [])
