"""Directories with one file per band."""

import json
from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine
from support_rasters import ONES, check_record, messages, records

from rsr_cli.core import rasters
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
        "broken": "broken/B4.tif: cannot be read: ",
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
