"""ForestNet, from a miniature copy of its layout."""

import shutil

import numpy as np
import pytest
import rasterio
from support_rasters import rows_of

from rsr_cli.core import rasters
from rsr_cli.core.errors import RasterError


@pytest.mark.parametrize(("classes", "column"), [(None, 0), (12, 0), (4, 1)])
def test_forestnet(miniature, cut, classes, column):
    folder = miniature / "ForestNetDataset"
    header, *rows = rows_of(folder / "val.csv")
    assert header == ["label", "merged_label", "latitude", "longitude", "year", "example_path"]
    tiles = cut(folder, dataset="forestnet", split="val", classes=classes)
    assert [tile["id"] for tile in tiles] == [row[5] for row in rows]
    for tile, row in zip(tiles, rows, strict=True):
        properties = tile["properties"]
        assert properties["labels"] == [row[column]]
        assert tile["geometry"] == {"type": "Point", "coordinates": [float(row[3]), float(row[2])]}
        assert tile["bbox"] == [float(row[3]), float(row[2])] * 2
        assert properties["datetime"] is None
        assert properties["start_datetime"] == f"{row[4]}-01-01T00:00:00Z"
        assert properties["window"] == [0, 0, 332, 332]
        # Input = DN / 255 * 10000, order blue green red nir swir1 swir2
        with rasterio.open(folder / row[5] / "images/visible/composite.png") as raster:
            visible = raster.read().astype(float)
        infrared = np.load(folder / row[5] / "images/infrared/composite.npy").astype(float)
        expected = np.concatenate([visible[::-1], np.moveaxis(infrared, -1, 0)]) / 255 * 10000
        pixels = rasters.read_pixels(tile, ["blue", "green", "red", "nir08", "swir16", "swir22"])
        np.testing.assert_allclose(pixels, expected, rtol=1e-6)
        mixed = rasters.read_pixels(tile, ["swir22", "red", "blue", "nir08"])
        np.testing.assert_allclose(mixed, expected[[5, 2, 0, 3]], rtol=1e-6)


def test_forestnet_in_red_green_and_blue_alone(miniature, cut):
    (tile, *_) = cut(miniature / "ForestNetDataset", dataset="forestnet", split="val", bands=["red", "green", "blue"])
    assert tile["properties"]["bands"] == list(tile["properties"]["source"]) == ["red", "green", "blue"]
    assert rasters.read_pixels(tile, ["red", "green", "blue"]).shape == (3, 332, 332)


def test_chips_of_forestnet(miniature, cut, tmp_path):
    (tile, *_) = cut(miniature / "ForestNetDataset", dataset="forestnet", split="val")
    (chip, *_) = cut(miniature / "ForestNetDataset", dataset="forestnet", split="val", chips=str(tmp_path / "chips"))
    bands = chip["properties"]["bands"]
    np.testing.assert_array_equal(rasters.read_pixels(chip, bands), rasters.read_pixels(tile, bands))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("Mining,Other,nan,101,2004,{0}", "is not an example of ForestNet"),
        ("Mining,Other,-1,999,2004,{0}", "is not an example of ForestNet"),
        ("Mining,Other,-1,101,99999,{0}", "is not an example of ForestNet"),
        (",Other,-1,101,2004,{0}", "is not an example of ForestNet"),
        ("Mining,Other,-1,101,{0}", "is not an example of ForestNet"),
        ("Mining,Other,-1,101,2004,../{0}", "is outside the dataset"),
        ("Mining,Other,-1,101,2004,/{0}", "is outside the dataset"),
    ],
)
def test_rows_that_are_not_an_example(miniature, cut, tmp_path, row, says):
    folder = tmp_path / "ForestNetDataset"
    shutil.copytree(miniature / "ForestNetDataset", folder)
    header, first, *_ = (folder / "val.csv").read_text().splitlines()
    (folder / "val.csv").write_text(f"{header}\n{row.format(first.split(',')[5])}\n{first}\n")
    with pytest.raises(RasterError, match=says):
        cut(folder, dataset="forestnet", split="val")
