"""Sentinel-2 products as ESA lays them out."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from support_rasters import ONES, safe

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError
from rsr_cli.core.sensors import SENSORS


@pytest.mark.parametrize("sensor", ["landsat8", "hls-s30", "sentinel2-l1c"])
def test_a_sentinel_2_product_is_not_taken_for_another(tmp_path, write_raster, cut, sensor):
    safe(tmp_path, write_raster, "N0509")
    with pytest.raises(BandError, match=f"name or metadata identifies it as sentinel2-l2a, but the sensor is {sensor}"):
        cut(tmp_path, per_band=True, sensor=sensor)


def test_a_safe_tree_of_level_2a(tmp_path, write_raster, cut, monkeypatch):
    name, pixels = safe(tmp_path, write_raster, "N0400")
    (whole,) = cut(tmp_path / name, per_band=True, sensor="sentinel2-l2a")
    properties = whole["properties"]
    assert whole["id"] == name
    assert properties["datetime"].startswith("2022-01-15T10:13:")
    assert properties["window"] == [0, 0, 72, 72]
    finest = {band: path.split("_")[-1] for band, path in properties["source"].items()}
    expected = dict.fromkeys(["blue", "green", "red", "nir"], "10m.jp2")
    expected |= dict.fromkeys(
        ["coastal", "rededge071", "rededge075", "rededge078", "nir08", "swir16", "swir22"], "20m.jp2"
    )
    assert finest == expected | {"nir09": "60m.jp2"}
    assert list(properties["source"]) == list(SENSORS["sentinel2-l2a"].order)
    assert (properties["scale"], properties["offset"]) == (1, -1000)

    tiles = cut(tmp_path / name, per_band=True, sensor="sentinel2-l2a", size=31, stride_px=17)
    assert len(tiles) == 9
    for tile in tiles:
        column, row, _, _ = tile["properties"]["window"]
        here = np.s_[row : row + 31, column : column + 31]
        for band, file, factor in (
            ("red", "R10m/{}B04_10m", 1),
            ("nir08", "R20m/{}B8A_20m", 2),
            ("nir09", "R60m/{}B09_60m", 6),
        ):
            dn = pixels[f"IMG_DATA/{file.format('T33UUP_20220115T101309_')}.jp2"][0].astype(float)
            centres = (np.arange(72) + 0.5) / factor - 0.5
            across = np.stack([np.interp(centres, np.arange(len(dn)), line) for line in dn])
            fine = np.stack([np.interp(centres, np.arange(len(dn)), line) for line in across.T]).T
            read = rasters.read_pixels(tile, [band])[0]
            assert np.abs(read - (fine[here] - 1000)).max() <= (0 if factor == 1 else 0.501)  # whole numbers

    (by_parent,) = cut(tmp_path, per_band=True, sensor="sentinel2-l2a")
    assert by_parent["id"] == name
    assert by_parent["properties"]["datetime"] == "2022-01-15T10:13:09Z"
    # The offset does not hang on how the product is called upon.
    monkeypatch.chdir(tmp_path / name / "GRANULE" / "L2A_T33UUP_A025397_20220115T101310" / "IMG_DATA")
    file = "R10m/T33UUP_20220115T101309_B02_10m.jp2"
    for tile, count in (
        *((cut(path, per_band=True, sensor="sentinel2-l2a")[0], 12) for path in (".", "../IMG_DATA")),
        (cut("R20m", per_band=True, sensor="sentinel2-l2a")[0], 10),
        (cut(file, sensor="sentinel2-l2a", bands=["blue"])[0], 1),
    ):
        assert tile["id"] == {12: "IMG_DATA", 10: "R20m", 1: Path(file).stem}[count]
        assert len(tile["properties"]["bands"]) == count
        assert tile["properties"]["offset"] == -1000
        assert tile["properties"]["datetime"] == "2022-01-15T10:13:09Z"
    (tile,) = cut(".", per_band=True, sensor="sentinel2-l2a", offset=0.0)
    assert tile["properties"]["offset"] == 0


@pytest.mark.parametrize(("baseline", "offset"), [("N0300", 0), ("N0214", 0), ("N0510", -1000)])
def test_a_safe_tree_of_level_1c(tmp_path, write_raster, cut, baseline, offset):
    name, pixels = safe(tmp_path, write_raster, baseline, "L1C")
    (tile,) = cut(tmp_path / name, per_band=True, sensor="sentinel2-l1c")
    assert tile["properties"]["bands"] == list(SENSORS["sentinel2-l1c"].order)
    assert tile["properties"]["offset"] == offset
    blue = pixels["IMG_DATA/T33UUP_20220115T101309_B02.jp2"][0]
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["blue"])[0], blue.astype(float) + offset)


def test_the_offset_needs_the_products_own_directory(tmp_path, write_raster, cut):
    name = "S2B_MSIL2A_20220115T101309_N0400_R022_T33UUP_20220115T120000"
    for folder, offset in ((name, 0), (f"{name}.SAFE", -1000)):
        write_raster(tmp_path / folder / "B02.tif", ONES)
        (tile,) = cut(tmp_path / folder, per_band=True, sensor="sentinel2-l2a")
        assert tile["properties"]["offset"] == offset


def test_two_orders_of_the_same_bands(shared_data, cut):
    path = next((shared_data / "terramind" / "S2L1C").glob("*.tif"))
    (tile,) = cut(path, sensor="sentinel2-l1c")
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(rasters.read_pixels(tile, ["nir08", "nir09", "cirrus"]), raster.read([9, 10, 11]))
    (other,) = cut(path.parents[1] / "S2L2A" / path.name, sensor="sentinel2-l2a")
    # Level 1 and 2 of one place see the same things: each band is most like itself.
    names = ["blue", "green", "red", "nir08", "swir16", "swir22"]
    one, two = (rasters.read_pixels(record, names).reshape(6, -1) for record in (tile, other))
    likeness = np.corrcoef(one, two)[:6, 6:]
    assert (likeness.argmax(axis=0) == np.arange(6)).all()
