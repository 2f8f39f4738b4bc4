"""Landsat products, Collection 2."""

import numpy as np
import pytest
import rasterio
from support_rasters import LC08, product, values

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError


def test_landsat_collection_2(tmp_path, write_raster, cut):
    bands = ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7", "ST_B10", "QA_PIXEL", "SR_QA_AEROSOL"]
    product(tmp_path / LC08[:-1], write_raster, LC08, bands, ".TIF", "uint16")
    red = np.full((4, 4), 20000, "uint16")
    red[1, 2] = 0  # fill, which the file does not declare
    write_raster(tmp_path / LC08[:-1] / f"{LC08}SR_B4.TIF", red)
    (tile,) = cut(tmp_path, per_band=True, sensor="landsat8", bands=["red", "nir08", "swir22"])
    assert tile["id"] == LC08[:-1]
    properties = tile["properties"]
    assert (properties["scale"], properties["offset"], properties["datetime"]) == (0.275, -2000, "2015-08-04T00:00:00Z")
    read = rasters.read_pixels(tile, ["red", "nir08", "swir22"])
    np.testing.assert_allclose(read[:, 0, 0], [20000 * 0.275 - 2000, 500 * 0.275 - 2000, 700 * 0.275 - 2000])
    assert np.argwhere(np.isnan(read)).tolist() == [[0, 1, 2]]
    assert properties["valid"] == pytest.approx(15 / 16)
    with pytest.raises(BandError, match="name or metadata identifies it as landsat8, but the sensor is landsat5"):
        cut(tmp_path, per_band=True, sensor="landsat5")
    # In a directory of another name, the product's name and the time are in the files'.
    (tmp_path / LC08[:-1]).rename(tmp_path / "lake")
    for path, name in ((tmp_path / "lake", LC08[:-1]), (tmp_path, f"lake/{LC08[:-1]}")):
        (tile,) = cut(path, per_band=True, sensor="landsat8")
        assert (tile["id"], tile["properties"]["datetime"]) == (name, "2015-08-04T00:00:00Z")


@pytest.mark.parametrize(("platform", "sensor"), [("LT05", "landsat5"), ("LT04", "landsat5"), ("LE07", "landsat7")])
def test_landsat_4_to_7(tmp_path, write_raster, cut, platform, sensor):
    bands = ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7", "ST_B6", "SR_ATMOS_OPACITY"]
    stem = f"{platform}_L2SP_033033_19990110_20200908_02_T1_"
    product(tmp_path, write_raster, stem, bands, ".TIF", "uint16")
    (tile,) = cut(tmp_path, per_band=True, sensor=sensor, scale=1.0, offset=0.0)
    assert values(tile) == {"blue": 100, "green": 200, "red": 300, "nir08": 400, "swir16": 500, "swir22": 600}
    assert tile["properties"]["datetime"] == "1999-01-10T00:00:00Z"


def test_landsat_level_1_has_another_scale(tmp_path, write_raster, cut):
    product(tmp_path, write_raster, LC08.replace("L2SP", "L1TP"), ["B4", "B5"], ".TIF", "uint16")
    with pytest.raises(BandError, match="is a Level-1 product, but landsat8 is Level 2") as raised:
        cut(tmp_path, per_band=True, sensor="landsat8")
    assert raised.value.remedy == "scale"
    with pytest.raises(BandError, match="identifies it as landsat8, but the sensor is landsat7"):
        cut(tmp_path, per_band=True, sensor="landsat7", scale=0.2, offset=-1000.0)
    (tile,) = cut(tmp_path, per_band=True, sensor="landsat8", scale=0.2, offset=-1000.0)
    assert tile["id"] == LC08.replace("L2SP", "L1TP")[:-1]
    assert values(tile) == pytest.approx({"red": -980, "nir08": -960})


def test_a_landsat_products_metadata_states_level_spacecraft_and_time(tmp_path, write_raster, cut):
    """The files' names do not state them."""
    level_1, level_2 = tmp_path / "one", tmp_path / "two"
    for folder, stem, level in ((level_1, "scene_", "L1TP"), (level_2, "scene_SR_", "L2SP")):
        product(folder, write_raster, stem, ["B4", "B5"], ".TIF", "uint16")
        facts = {"PROCESSING_LEVEL": level, "SPACECRAFT_ID": "LANDSAT_9", "DATE_ACQUIRED": "2023-07-04"}
        lines = [f'    {key} = "{value}"' for key, value in facts.items()]
        lines += ['    SCENE_CENTER_TIME = "10:02:14.1234567Z"', '    PROCESSING_LEVEL = "L1TP"', "END"]
        (folder / "scene_MTL.txt").write_text("\n".join(lines))
    with pytest.raises(BandError, match="is a Level-1 product, but landsat8 is Level 2"):
        cut(level_1, per_band=True, sensor="landsat8")
    (tile,) = cut(level_2, per_band=True, sensor="landsat8")
    assert tile["properties"]["datetime"] == "2023-07-04T10:02:14Z"
    assert values(tile) == pytest.approx({"red": 100 * 0.275 - 2000, "nir08": 200 * 0.275 - 2000})
    for sensor in ("landsat7", "sentinel2-l2a"):
        with pytest.raises(BandError, match=f"name or metadata identifies it as landsat8, but the sensor is {sensor}"):
            cut(level_2, per_band=True, sensor=sensor)


def test_landsat_as_it_comes(shared_data, cut):
    folder = shared_data / "scenes" / "landsat8_per_band"
    tiles = cut(folder, per_band=True, sensor="landsat8", scale=1.0, offset=0.0, size=200)
    assert len(tiles) == 9
    assert tiles[0]["properties"]["bands"] == ["blue", "green", "red", "nir08", "swir16", "swir22"]
    with rasterio.open(folder / "l8_B5.tif") as raster:
        truth = raster.read(1).astype(float)
    truth[truth == 0] = np.nan
    for tile in tiles:
        column, row, _, _ = tile["properties"]["window"]
        nir = rasters.read_pixels(tile, ["nir08"])[0]
        np.testing.assert_array_equal(nir, truth[row : row + 200, column : column + 200])
    path = shared_data / "scenes" / "LE70220491999322EDC01_stack.gtif"
    names = ["blue", "green", "red", "nir08", "swir16", "swir22", "-", "-"]
    (tile,) = cut(path, bands=names)
    assert tile["id"] == "LE70220491999322EDC01_stack"
    with rasterio.open(path) as raster:
        masked = raster.read([1, 2, 3, 4, 5, 6], masked=True)
    np.testing.assert_array_equal(rasters.read_pixels(tile, names[:6]), masked.astype(float).filled(np.nan))
    assert tile["properties"].get("valid", 1) == pytest.approx(1 - masked.mask.any(axis=0).mean(), abs=1e-6)
    with pytest.raises(BandError, match="has 8 bands, but files of landsat7 have 6") as raised:
        cut(path, sensor="landsat7", scale=1.0, offset=0.0)
    assert raised.value.remedy == "bands"
