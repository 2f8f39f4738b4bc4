"""Directories with one file per band."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from support_rasters import LC08, ONES, bands_of, check_record, grid, messages, records, values

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError
from rsr_cli.core.sensors import SENSORS


def test_the_directory_given_names_a_scene_of_single_band_files(tmp_path, write_raster, cut, monkeypatch):
    write_raster(tmp_path / "product" / "sub" / "x_B2.tif", ONES)
    settings = {"per_band": True, "sensor": "landsat8", "labels_from_parent": True}
    for start, path in ((".", "product/sub"), ("product/sub", "."), ("product/sub", "../sub"), ("product", "sub/")):
        monkeypatch.chdir(tmp_path / start)
        (tile,) = cut(path, **settings)
        assert (tile["id"], tile["properties"]["labels"]) == ("sub", ["product"])
    (tmp_path / "product" / "sub" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "product" / "sub" / "below")
    (tile,) = cut("..", **settings)
    assert (tile["id"], tile["properties"]["labels"]) == ("sub", ["product"])


def test_bigearthnet(shared_data, cut):
    tiles = cut(shared_data / "bigearthnet_s2", per_band=True, sensor="sentinel2-l2a")
    assert len(tiles) == 6
    for tile in tiles:
        check_record(tile)
        properties = tile["properties"]
        assert properties["bands"] == list(SENSORS["sentinel2-l2a"].order)
        assert (properties["window"], properties["offset"]) == ([0, 0, 120, 120], 0)
        (metadata,) = Path(properties["source"]["coastal"]).parent.glob("*_labels_metadata.json")
        taken = json.loads(metadata.read_text())["acquisition_date"].replace(" ", "T") + "Z"
        # one patch is named T94161, and no minute has a 61st second
        assert properties.get("datetime") == (None if "T94161" in tile["id"] else taken)
        with rasterio.open(properties["source"]["coastal"]) as raster:
            coarse = raster.read(1)
            assert coarse.shape == (20, 20)
        fine = rasters.read_pixels(tile, ["coastal"])[0]
        assert np.abs(fine.mean() - coarse.mean()) < 0.05 * coarse.std() + 1
        np.testing.assert_allclose(fine[2:-2:6, 2:-2:6] / 4, coarse / 4, atol=coarse.std())


@pytest.mark.parametrize(
    ("sensor", "one", "other"),
    [
        ("hls-l30", "HLS.L30.T33UUP.2023161T101031.v2.0.B02.tif", "HLS.S30.T33UUP.2023161T101031.v2.0.B05.tif"),
        ("hls-l30", "HLS.L30.T33UUP.2023161T101031.v2.0.B02.tif", "HLS.L30.T33UUQ.2023161T101031.v2.0.B05.tif"),
        ("hls-s30", "HLS.S30.T33UUP.2023161T101031.v2.0.B02.tif", "HLS.S30.T33UUP.2023166T101031.v2.0.B05.tif"),
        ("landsat8", f"{LC08}SR_B2.TIF", f"{LC08.replace('LC08', 'LC09')}SR_B4.TIF"),
        ("landsat8", f"{LC08}SR_B2.TIF", f"{LC08.replace('020039', '020040')}SR_B4.TIF"),
        ("landsat8", f"{LC08.replace('L2SP', 'L1TP')}B4.TIF", f"{LC08}SR_B2.TIF"),
        ("sentinel2-l2a", "R10m/T33UUP_20230613T101031_B02_10m.tif", "R20m/T33UUP_20230616T101031_B8A_20m.tif"),
        ("sentinel2-l2a", "T33UUP_20230613T101031_B02.tif", "T33UUQ_20230613T101031_B03.tif"),
        ("sentinel2-l2a", "B03.tif", "T33UUP_20230613T101031_B02.tif"),
        ("sentinel1", "S1A_IW_20180128T161201_DVP_RTC30_G_gdu_VV.tif", "S1B_IW_20180128T161201_DVP_RTC30_G_gdu_VH.tif"),
    ],
)
def test_files_of_two_products_are_no_scene(tmp_path, write_raster, cut, sensor, one, other):
    for name in (one, other):
        write_raster(tmp_path / "x" / name, ONES)
    names = f"{Path(one).name} and {Path(other).name}"
    with pytest.raises(BandError, match=re.escape(f"{tmp_path}/x: contains files of two products, {names}")) as raised:
        cut(tmp_path, per_band=True, sensor=sensor)
    assert raised.value.remedy == "one-product"


def test_exports_of_eo_browser(tmp_path, write_raster, cut, caplog):
    stem = "2020-07-28-00_00_2020-07-28-23_59_Sentinel-2_L2A_{}_(Raw).tiff"
    for band in ("B02", "B8A"):
        write_raster(tmp_path / "a" / stem.format(band), ONES * 3000)
        write_raster(tmp_path / "b" / stem.replace("_00", ":00").replace("_59", ":59").format(band), ONES * 3000)
        write_raster(tmp_path / "c" / stem.replace("00_2020-07-28", "00_2020-07-29").format(band), ONES * 3000)
    for name, when in (("a", "2020-07-28T00:00:00Z"), ("b", "2020-07-28T00:00:00Z"), ("c", None)):
        caplog.clear()
        (tile,) = cut(tmp_path / name, per_band=True, sensor="sentinel2-l2a")
        assert (tile["properties"]["bands"], tile["properties"].get("datetime")) == (["blue", "nir08"], when)
        assert "16-bit numbers are reflectance x 65535" in caplog.messages[0]
        with pytest.raises(BandError, match="identifies it as sentinel2-l2a, but the sensor is sentinel2-l1c"):
            cut(tmp_path / name, per_band=True, sensor="sentinel2-l1c")
    caplog.clear()
    (tile,) = cut(tmp_path / "a", per_band=True, sensor="sentinel2-l2a", scale=10000 / 65535)
    assert values(tile) == pytest.approx(dict.fromkeys(["blue", "nir08"], 3000 / 65535 * 10000))
    assert caplog.messages == []


@pytest.mark.parametrize("dtype", ["uint16", "uint8", "float32", "int16"])
def test_a_second_band_may_be_the_mask_of_the_first(tmp_path, write_raster, cut, dtype):
    greatest = 1 if dtype == "float32" else np.iinfo(dtype).max
    clear = np.full((40, 60), greatest, dtype)
    clear[5:9, 7:20] = 0
    pixels = bands_of(1, 40, 60, "uint8" if dtype == "uint8" else "int16")[0].astype(dtype)
    write_raster(tmp_path / "B02.tif", np.stack([pixels, clear]))
    coarse = pixels[::2, ::2]
    write_raster(tmp_path / "B05.tif", np.stack([coarse, np.full_like(coarse, greatest)]), transform=grid(20))
    settings = {"per_band": True, "sensor": "sentinel2-l2a", "scale": 2.0, "offset": 0.0}
    (tile,) = cut(tmp_path, **settings)
    assert tile["properties"]["valid"] == pytest.approx(1 - 4 * 13 / 2400, abs=1e-6)
    (chip,) = cut(tmp_path, **settings, chips=tmp_path / "chips")
    for record in (tile, chip):
        read = rasters.read_pixels(record, ["blue"])[0]
        np.testing.assert_array_equal(read, np.where(clear, pixels.astype(float) * 2, np.nan))
    value = float(pixels[20, 30])  # which the mask does not have
    (tile,) = cut(tmp_path, **settings, nodata=value)
    expected = np.where(clear * (pixels != value), pixels.astype(float) * 2, np.nan)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["blue"])[0], expected)


def test_a_second_band_that_is_no_mask(tmp_path, write_raster, cut):
    for second in (bands_of(1, 8, 8)[0], np.ones((8, 8), "uint16"), np.eye(8, dtype="uint16")):
        write_raster(tmp_path / "B02.tif", np.stack([bands_of(1, 8, 8)[0], second]))
        with pytest.raises(BandError, match="blue has 2 bands in its file, where one is expected, or one and its mask"):
            cut(tmp_path, per_band=True, sensor="sentinel2-l2a")
    write_raster(tmp_path / "B02.tif", np.stack([ONES[0], ONES[0] * 65535, ONES[0] * 65535]))
    with pytest.raises(BandError, match="blue has 3 bands in its file"):
        cut(tmp_path, per_band=True, sensor="sentinel2-l2a")


def test_hidden_entries_are_no_bands(tmp_path, write_raster, cut):
    for name in ("B02.tif", "R10m/B03.tif", "R20m/B11.tif"):
        write_raster(tmp_path / "x" / name, ONES)
    for name in ("._B02.tif", ".B04.tif", "R10m/._B03.tif", ".R10m/B04.tif", "__MACOSX/B04.tif", ".git/B04.tif"):
        (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"\0\5\26\7")
    (tile,) = cut(tmp_path / "x", per_band=True, sensor="sentinel2-l2a")
    assert (tile["id"], tile["properties"]["bands"]) == ("x", ["blue", "green", "swir16"])
    (tmp_path / "x").rename(tmp_path / ".x")  # what is named is not hidden
    assert cut(tmp_path / ".x", per_band=True, sensor="sentinel2-l2a")[0]["id"] == ".x"


JUNE = "2023-06-10T10:10:31Z"


@pytest.mark.parametrize(
    ("sensor", "path", "when"),
    [
        ("sentinel2-l2a", "order_20240215T093000/T33UUP_20230610T101031_B02_10m.tif", JUNE),
        ("sentinel2-l2a", "20240215T093000_T33UUP_20230610T101031/B02.tif", JUNE),
        ("sentinel2-l2a", "T33UUP_20240215T093000/T33UUP_20230610T101031_B02.tif", JUNE),
        (
            "sentinel2-l2a",
            "S2A_MSIL2A_20230610T101031_N0205_R022_T33UUP_20240215T093000/B02.tif",
            JUNE,
        ),
        ("sentinel2-l2a", "20230610T101031_20240215T093000_T33UUP/B02.tif", JUNE),
        ("sentinel2-l2a", "S2A_33UUP_20230610_0_L2A/B02.tif", "2023-06-10T00:00:00Z"),
        ("sentinel2-l2a", "order_20240215T093000/B02.tif", None),
        ("sentinel2-l2a", "20240215T093000_B02.tif", None),
        ("hls-s30", "a.2024046T093000.b/HLS.S30.T33UUP.2023161T101031.v2.0.B02.tif", JUNE),
        ("hls-s30", "a.2024046T093000.b/B02.tif", None),
        ("landsat8", f"LC09_L2SP_020039_20240215_20240216_02_T1/{LC08}SR_B2.tif", "2015-08-04T00:00:00Z"),
        ("landsat8", "LC09_L2SP_020039_20240215_20240216_02_T1/B2.tif", "2024-02-15T00:00:00Z"),
        ("landsat8", "20240215/B2.tif", None),
    ],
)
def test_a_date_is_the_products_own(tmp_path, write_raster, cut, sensor, path, when):
    write_raster(tmp_path / path, ONES)
    settings = {"per_band": True, "sensor": sensor, "offset": 0.0}
    directory = (tmp_path / path).parent
    link = tmp_path / "20240101T000000"
    link.symlink_to(directory)
    for start in (tmp_path, directory, link):
        tile = cut(start, **settings)[0]
        assert tile["properties"].get("datetime") == when, start


def test_what_would_be_read_is_shown(tmp_path, write_raster, rsr):
    write_raster(tmp_path / "x" / "blue.tif", ONES)
    done = rsr("tile", "--per-band", "--sensor", "sentinel2-l2a", "x", cwd=tmp_path)
    assert messages(done) == [
        "rsr tile: x: contains no single-band files named as sentinel2-l2a's are, such as NAME_B01.tif (has blue.tif)"
    ]


def test_bad_directories_of_single_band_files(tmp_path, write_raster, rsr):
    made = {
        "other": ("photo.tif", "B99.tif", "xB2.tif"),
        "twice": ("a_B2.tif", "b_B2.TIF"),
        "padded": ("B2.tif", "B02.tif"),
        "some": ("x_B2.tif",),
        "good": ("x_B4.tif", "x_B5.tif"),
    }
    for folder, files in made.items():
        for file in files:
            write_raster(tmp_path / folder / file, ONES)
    write_raster(tmp_path / "moved" / "B4.tif", ONES)
    write_raster(tmp_path / "moved" / "B5.tif", ONES, transform=Affine(10, 0, 0, 0, -10, 0))
    write_raster(tmp_path / "zone" / "B4.tif", ONES)
    write_raster(tmp_path / "zone" / "B5.tif", ONES, crs="EPSG:32634")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "B4.tif").write_text("")
    write_raster(tmp_path / "broken" / "B5.tif", ONES)
    expected = {
        "other": "other: contains no single-band files named as landsat8's are",
        "twice": "twice: blue is in two files, ",
        "padded": "padded: blue is in two files, ",
        "some": "some: bands red, nir08 are missing (has blue)",
        "moved": "moved/B5.tif: nir08 has another coordinate system, or covers another area, than the finest band",
        "zone": "zone/B5.tif: nir08 has another coordinate system, or covers another area, than the finest band",
        "broken": "broken/B4.tif: is empty",
        "good/x_B4.tif": "good/x_B4.tif: is not a directory of single-band files",
    }
    command = ["tile", "--whole", "--per-band", "--sensor", "landsat8", "--bands", "red,nir08", "--keep-going"]
    done = rsr(*command, *expected, "good", cwd=tmp_path)
    assert done.returncode == 3
    (record,) = records(done)
    assert (record["id"], record["properties"]["bands"]) == ("good", ["red", "nir08"])
    said = messages(done)
    assert said.pop() == f"rsr tile: {len(expected)} skipped"
    for line, text in zip(said, expected.values(), strict=True):
        assert line.startswith(f"rsr tile: {text}")
