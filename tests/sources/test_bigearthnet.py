"""BigEarthNet, from miniature copies of its layouts and from real patches."""

import json
import shutil
from collections import Counter

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import rasterio
from support import needs_torch
from support_rasters import (
    rows_of,
)

from rsr_cli.core import rasters
from rsr_cli.core.errors import RasterError, UsageError
from rsr_cli.core.sources.bigearthnet import NOMENCLATURE_19, WITHOUT_19


@pytest.fixture(scope="module")
def newer(miniature, tmp_path_factory):
    """Lay the same patches out as BigEarthNet v2: one directory per product, all labels in one table."""
    folder = tmp_path_factory.mktemp("reben")
    rows = []
    for old in sorted((miniature / "BigEarthNet" / "BigEarthNet-v1.0").iterdir()):
        column, row = old.name.rsplit("_", 2)[1:]
        product = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
        place = folder / "BigEarthNet-S2" / product / f"{product}_{column}_{row}"
        place.mkdir(parents=True)
        for file in old.glob("*.tif"):
            shutil.copy(file, place / f"{place.name}_{file.stem.rsplit('_', 1)[1]}.tif")
        rows.append({"patch_id": place.name, "labels": ["Pastures"], "split": "train", "country": "Austria"})
    rows[0] |= {"labels": ["Inland waters", "Mixed forest"], "split": "validation"}
    rows[1]["split"] = rows[2]["split"] = "test"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "metadata.parquet")
    return folder


@needs_torch
def test_the_19_classes_are_those_of_torchgeo():
    """Its mapping is the authors', by numbers."""
    from torchgeo.datasets import BigEarthNet

    names = BigEarthNet.class_sets
    theirs = {names[43][old]: names[19][new] for old, new in BigEarthNet.label_converter.items()}
    assert {old: new for new, olds in NOMENCLATURE_19.items() for old in olds} == theirs
    assert list(NOMENCLATURE_19) == names[19]
    assert set(names[43]) - theirs.keys() == WITHOUT_19


@pytest.mark.parametrize("split", ["val", "test"])
def test_bigearthnet_1_is_read_in_the_order_of_its_list(miniature, cut, split):
    folder = miniature / "BigEarthNet"
    listed = [row[0] for row in rows_of(folder / f"{split}.csv")]
    tiles = cut(folder, dataset="bigearthnet", split=split)
    assert [tile["id"] for tile in tiles] == listed
    for tile in tiles:
        properties = tile["properties"]
        place = folder / "BigEarthNet-v1.0" / tile["id"]
        assert properties["labels"] == json.loads((place / f"{tile['id']}_labels_metadata.json").read_text())["labels"]
        assert properties["split"] == split
        assert properties["datetime"] == "2017-06-13T10:10:31Z"
        assert properties["window"] == [0, 0, 120, 120]
        assert len(properties["bands"]) == 12
        with rasterio.open(place / f"{tile['id']}_B8A.tif") as raster:
            coarse = raster.read(1)
        fine = rasters.read_pixels(tile, ["nir08"])[0]
        assert np.abs(fine.reshape(60, 2, 60, 2).mean((1, 3)) - coarse)[1:-1, 1:-1].max() < 0.2 * np.ptp(coarse)
        assert tile["geometry"]["type"] == "Polygon"


def test_a_list_as_torchgeo_names_it(miniature, cut, tmp_path):
    folder = tmp_path / "BigEarthNet"
    shutil.copytree(miniature / "BigEarthNet", folder)
    expected = cut(miniature / "BigEarthNet", dataset="bigearthnet", split="val")
    (folder / "val.csv").rename(folder / "bigearthnet-val.csv")
    assert [tile["id"] for tile in cut(folder, dataset="bigearthnet", split="val")] == [tile["id"] for tile in expected]


def test_19_classes_drop_what_has_none_of_them(miniature, cut, tmp_path, caplog):
    folder = tmp_path / "BigEarthNet"
    shutil.copytree(miniature / "BigEarthNet", folder)
    first, second, *others = sorted((folder / "BigEarthNet-v1.0").iterdir())
    for place, labels in (
        (first, ["Airports", "Bare rock"]),
        (second, ["Vineyards", "Airports", "Olive groves", "Sea and ocean"]),
    ):
        facts = {"labels": labels, "acquisition_date": "2018-05-01 09:00:00"}
        (place / f"{place.name}_labels_metadata.json").write_text(json.dumps(facts))
    tiles = {tile["id"]: tile for tile in cut(folder, dataset="bigearthnet", classes=19)}
    assert set(tiles) == {place.name for place in (second, *others)}
    assert tiles[second.name]["properties"]["labels"] == ["Permanent crops", "Marine waters"]
    assert caplog.messages == ["left out 1 patch with none of the 19 classes"]
    tiles = {tile["id"]: tile for tile in cut(folder, dataset="bigearthnet", classes=43)}
    assert tiles[first.name]["properties"]["labels"] == ["Airports", "Bare rock"]


def test_bigearthnet_2(newer, cut):
    (tile,) = cut(newer, dataset="bigearthnet", split="val")
    assert tile["properties"]["labels"] == ["Inland waters", "Mixed forest"]
    assert tile["properties"]["split"] == "val"
    assert tile["properties"]["datetime"] == "2017-06-13T10:10:31Z"
    assert len(cut(newer, dataset="bigearthnet", split="test", classes=19)) == 2
    assert Counter(t["properties"]["split"] for t in cut(newer, dataset="bigearthnet")) == {
        "val": 1,
        "test": 2,
        "train": 5,
    }
    with pytest.raises(UsageError, match=r"v2 has 19 classes; only v1\.0 has 43"):
        cut(newer, dataset="bigearthnet", classes=43)
    read = rasters.read_pixels(tile, ["blue", "swir22"])
    assert read.shape == (2, 120, 120)
    assert np.isfinite(read).all()


def test_a_patch_of_bigearthnet_2_without_a_label(newer, cut, tmp_path, caplog):
    shutil.copytree(newer, tmp_path / "reben")
    rows = pyarrow.parquet.read_table(newer / "metadata.parquet").to_pylist()
    rows[0]["labels"] = []
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "reben" / "metadata.parquet")
    assert len(cut(tmp_path / "reben", dataset="bigearthnet")) == len(rows) - 1
    assert caplog.messages == ["left out 1 patch with none of the 19 classes"]


def test_real_patches(shared_data, cut):
    folder = shared_data / "bigearthnet_s2"
    tiles = cut(folder, dataset="bigearthnet", classes=19)
    assert [tile["id"] for tile in tiles] == sorted(path.name for path in folder.iterdir())
    labels = {tile["id"]: tile["properties"]["labels"] for tile in tiles}
    assert labels["S2A_MSIL2A_20170617T113321_36_85"] == ["Arable land", "Pastures"]
    assert [tile["properties"]["datetime"][:10] for tile in tiles][-1] == "2018-02-04"
    (rgb, *_) = cut(folder, dataset="bigearthnet", bands=["blue", "green", "red"])
    assert rgb["properties"]["bands"] == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("labels", "says"), [('"Pastures"', "labels that are not a list"), ('["Pasture"]', "'Pasture', which is none of")]
)
def test_labels_that_are_none_of_the_43(miniature, cut, tmp_path, labels, says):
    shutil.copytree(miniature / "BigEarthNet", tmp_path / "BigEarthNet")
    name = rows_of(tmp_path / "BigEarthNet" / "val.csv")[0][0]
    place = tmp_path / "BigEarthNet" / "BigEarthNet-v1.0" / name / f"{name}_labels_metadata.json"
    place.write_text(f'{{"labels": {labels}, "acquisition_date": "2018-05-01 09:00:00"}}')
    with pytest.raises(RasterError, match=says):
        cut(tmp_path / "BigEarthNet", dataset="bigearthnet", split="val")


def test_a_table_that_cannot_be_read(newer, cut, tmp_path):
    shutil.copytree(newer, tmp_path / "reben")
    (tmp_path / "reben" / "metadata.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RasterError, match=r"metadata\.parquet: cannot be read: .*zenodo"):
        cut(tmp_path / "reben", dataset="bigearthnet")


def test_zeros_are_numbers_where_the_files_declare_no_nodata(miniature, cut, tmp_path):
    shutil.copytree(miniature / "BigEarthNet", tmp_path / "BigEarthNet")
    name = rows_of(tmp_path / "BigEarthNet" / "val.csv")[0][0]
    with rasterio.open(tmp_path / "BigEarthNet" / "BigEarthNet-v1.0" / name / f"{name}_B02.tif", "r+") as raster:
        raster.write(np.zeros((120, 120), "uint16"), 1)
    (tile, *_) = cut(tmp_path / "BigEarthNet", dataset="bigearthnet", split="val")
    assert "nodata" not in tile["properties"]
    assert (rasters.read_pixels(tile, ["blue"]) == 0).all()


def test_a_single_patch(shared_data, cut, monkeypatch):
    patch = shared_data / "bigearthnet_s2" / "S2A_MSIL2A_20170613T101031_87_48"
    (of_all,) = [tile for tile in cut(patch.parent, dataset="bigearthnet") if tile["id"] == patch.name]
    assert cut(patch, dataset="bigearthnet") == [of_all]
    monkeypatch.chdir(patch)
    (here,) = cut(".", dataset="bigearthnet")
    assert (here["id"], here["properties"]["labels"]) == (patch.name, of_all["properties"]["labels"])
    np.testing.assert_array_equal(*(rasters.read_pixels(tile, ["swir16"]) for tile in (here, of_all)))
    with pytest.raises(RasterError, match=r"contains neither a patch of BigEarthNet .* nor v2's metadata\.parquet"):
        cut(shared_data / "scenes", dataset="bigearthnet")


def test_hidden_directories_are_no_patches(miniature, cut, tmp_path):
    shutil.copytree(miniature / "BigEarthNet", tmp_path / "x")
    patches = tmp_path / "x" / "BigEarthNet-v1.0"
    expected = [tile["id"] for tile in cut(tmp_path / "x", dataset="bigearthnet")]
    one = patches / expected[0]
    shutil.copytree(one, patches / f".{one.name}")
    (one / f"._{one.name}_labels_metadata.json").write_bytes(b"\0\5\26\7")
    assert [tile["id"] for tile in cut(tmp_path / "x", dataset="bigearthnet")] == expected
