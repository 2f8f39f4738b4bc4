"""Published data sets as tiles, from miniature copies of their layouts and from real patches."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import rasterio

from rsr_cli.core import rasters
from rsr_cli.core.errors import RasterError, Skips, UsageError
from rsr_cli.core.sources.datasets import NOMENCLATURE_19, WITHOUT_19

SPLITS = {"val": 3, "test": 5}


@pytest.fixture(scope="module")
def miniature(tmp_path_factory, miniature_layouts):
    """Write BigEarthNet v1.0 and ForestNet as the examples of the paper do."""
    folder = tmp_path_factory.mktemp("data")
    miniature_layouts.write_bigearthnet(folder / "BigEarthNet", SPLITS)
    miniature_layouts.write_forestnet(folder / "ForestNetDataset", SPLITS)
    return folder


@pytest.fixture(scope="module")
def newer(miniature, tmp_path_factory):
    """Lay the same patches out as BigEarthNet v2: a directory a product, and all labels in one table."""
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


@pytest.fixture(scope="module")
def patches():
    """Give a function that reads a data set's tiles."""

    def read(dataset, folder, skips=None, **settings):
        tiler = rasters.Tiler(rasters.TileSettings(dataset=dataset, **settings), skips or Skips())
        return [tile for row in tiler.tiles([str(folder)]) for tile in row]

    return read


def rows_of(path):
    return [line.split(",") for line in path.read_text().splitlines()]


# BigEarthNet ---------------------------------------------------------------------------------------------------------


def test_the_19_classes_are_those_of_torchgeo():
    """Its mapping is that of the data set's makers, by numbers."""
    from torchgeo.datasets import BigEarthNet

    names = BigEarthNet.class_sets
    theirs = {names[43][old]: names[19][new] for old, new in BigEarthNet.label_converter.items()}
    assert {old: new for new, olds in NOMENCLATURE_19.items() for old in olds} == theirs
    assert list(NOMENCLATURE_19) == names[19]
    assert set(names[43]) - theirs.keys() == WITHOUT_19


@pytest.mark.parametrize("split", ["val", "test"])
def test_bigearthnet_1_is_read_in_the_order_of_its_list(miniature, patches, split):
    folder = miniature / "BigEarthNet"
    listed = [row[0] for row in rows_of(folder / f"{split}.csv")]
    tiles = patches("bigearthnet", folder, split=split)
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


def test_a_list_as_torchgeo_names_it(miniature, patches, tmp_path):
    folder = tmp_path / "BigEarthNet"
    shutil.copytree(miniature / "BigEarthNet", folder)
    expected = patches("bigearthnet", miniature / "BigEarthNet", split="val")
    (folder / "val.csv").rename(folder / "bigearthnet-val.csv")
    assert [tile["id"] for tile in patches("bigearthnet", folder, split="val")] == [tile["id"] for tile in expected]


def test_19_classes_drop_what_has_none_of_them(miniature, patches, tmp_path, caplog):
    folder = tmp_path / "BigEarthNet"
    shutil.copytree(miniature / "BigEarthNet", folder)
    first, second, *others = sorted((folder / "BigEarthNet-v1.0").iterdir())
    for place, labels in (
        (first, ["Airports", "Bare rock"]),
        (second, ["Vineyards", "Airports", "Olive groves", "Sea and ocean"]),
    ):
        facts = {"labels": labels, "acquisition_date": "2018-05-01 09:00:00"}
        (place / f"{place.name}_labels_metadata.json").write_text(json.dumps(facts))
    tiles = {tile["id"]: tile for tile in patches("bigearthnet", folder, classes=19)}
    assert set(tiles) == {place.name for place in (second, *others)}
    assert tiles[second.name]["properties"]["labels"] == ["Permanent crops", "Marine waters"]
    assert caplog.messages == ["1 patches have none of the 19 classes, and are left out"]
    tiles = {tile["id"]: tile for tile in patches("bigearthnet", folder, classes=43)}
    assert tiles[first.name]["properties"]["labels"] == ["Airports", "Bare rock"]


def test_bigearthnet_2(newer, patches):
    (tile,) = patches("bigearthnet", newer, split="val")
    assert tile["properties"]["labels"] == ["Inland waters", "Mixed forest"]
    assert tile["properties"]["split"] == "val"
    assert tile["properties"]["datetime"] == "2017-06-13T10:10:31Z"
    assert len(patches("bigearthnet", newer, split="test", classes=19)) == 2
    assert Counter(t["properties"]["split"] for t in patches("bigearthnet", newer)) == {"val": 1, "test": 2, "train": 5}
    with pytest.raises(UsageError, match=r"v2 has 19 classes, and v1\.0 has 43"):
        patches("bigearthnet", newer, classes=43)
    read = rasters.read_pixels(tile, ["blue", "swir22"])
    assert read.shape == (2, 120, 120)
    assert np.isfinite(read).all()


def test_a_patch_of_bigearthnet_2_without_a_label(newer, patches, tmp_path, caplog):
    shutil.copytree(newer, tmp_path / "reben")
    rows = pyarrow.parquet.read_table(newer / "metadata.parquet").to_pylist()
    rows[0]["labels"] = []
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "reben" / "metadata.parquet")
    assert len(patches("bigearthnet", tmp_path / "reben")) == len(rows) - 1
    assert caplog.messages == ["1 patches have none of the 19 classes, and are left out"]


def test_real_patches(shared_data, patches):
    folder = shared_data / "bigearthnet_s2"
    tiles = patches("bigearthnet", folder, classes=19)
    assert [tile["id"] for tile in tiles] == sorted(path.name for path in folder.iterdir())
    labels = {tile["id"]: tile["properties"]["labels"] for tile in tiles}
    assert labels["S2A_MSIL2A_20170617T113321_36_85"] == ["Arable land", "Pastures"]
    assert [tile["properties"]["datetime"][:10] for tile in tiles][-1] == "2018-02-04"
    (rgb, *_) = patches("bigearthnet", folder, bands=["blue", "green", "red"])
    assert rgb["properties"]["bands"] == ["blue", "green", "red"]


# ForestNet -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "column"), [(None, 0), (12, 0), (4, 1)])
def test_forestnet(miniature, patches, classes, column):
    folder = miniature / "ForestNetDataset"
    header, *rows = rows_of(folder / "val.csv")
    assert header == ["label", "merged_label", "latitude", "longitude", "year", "example_path"]
    tiles = patches("forestnet", folder, split="val", classes=classes)
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


def test_forestnet_in_red_green_and_blue_alone(miniature, patches):
    (tile, *_) = patches("forestnet", miniature / "ForestNetDataset", split="val", bands=["red", "green", "blue"])
    assert tile["properties"]["bands"] == list(tile["properties"]["source"]) == ["red", "green", "blue"]
    assert rasters.read_pixels(tile, ["red", "green", "blue"]).shape == (3, 332, 332)


def test_chips_of_forestnet(miniature, patches, tmp_path):
    (tile, *_) = patches("forestnet", miniature / "ForestNetDataset", split="val")
    (chip, *_) = patches("forestnet", miniature / "ForestNetDataset", split="val", chips=str(tmp_path / "chips"))
    bands = chip["properties"]["bands"]
    np.testing.assert_array_equal(rasters.read_pixels(chip, bands), rasters.read_pixels(tile, bands))


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 2, 2), np.uint8), np.array(["x"]), np.array([None]), np.zeros((4, 4, 3), complex)]
)
def test_arrays_that_are_no_pictures(tmp_path, cut, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(RasterError, match=r"x\.npy: (is not an array|cannot be read|holds complex)"):
        cut(tmp_path / "x.npy", bands=["red"])


# Folders -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_raster):
    folder = tmp_path_factory.mktemp("classes")
    for name, count in (("forest", 20), ("lake", 11), ("town", 2)):
        for number in range(count):
            write_raster(folder / name / f"{name}_{number}.png", np.ones((3, 8, 8), "uint8"), driver="PNG")
    return folder


def test_splits_of_folders_are_drawn_in_each_class(folders, patches):
    drawn = {
        split: patches("folders", folders, sensor="rgb", split=split, seed=3) for split in ("train", "val", "test")
    }
    counts = {split: Counter(tile["properties"]["labels"][0] for tile in tiles) for split, tiles in drawn.items()}
    assert counts == {
        "train": {"forest": 12, "lake": 7, "town": 2},
        "val": {"forest": 4, "lake": 2},
        "test": {"forest": 4, "lake": 2},
    }
    ids = [tile["id"] for tiles in drawn.values() for tile in tiles]
    everything = patches("folders", folders, sensor="rgb")
    assert sorted(ids) == sorted(tile["id"] for tile in everything)
    assert all(tile["properties"]["split"] == split for split, tiles in drawn.items() for tile in tiles)
    assert all("split" not in tile["properties"] for tile in everything)
    again = patches("folders", folders, sensor="rgb", split="test", seed=3)
    other = patches("folders", folders, sensor="rgb", split="test", seed=4)
    assert [tile["id"] for tile in again] == [tile["id"] for tile in drawn["test"]]
    assert [tile["id"] for tile in other] != [tile["id"] for tile in again]


def test_a_file_beside_the_folders_of_the_classes(folders, patches, write_raster, tmp_path):
    shutil.copytree(folders, tmp_path / "data")
    write_raster(tmp_path / "data" / "overview.png", np.ones((3, 8, 8), "uint8"), driver="PNG")
    with pytest.raises(RasterError, match=r"overview\.png: lies beside the folders of the classes"):
        patches("folders", tmp_path / "data", sensor="rgb")
    skips = Skips(keep_going=True)
    assert len(patches("folders", tmp_path / "data", skips, sensor="rgb")) == 33
    assert skips.count == 1


# What is missing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "gone", "says"),
    [
        ("bigearthnet", "val.csv", r"val\.csv: is missing; it is at https://.*splits"),
        ("bigearthnet", "BigEarthNet-v1.0/{0}/{0}_B11.tif", r"_B11\.tif: is missing.*BigEarthNet-S2-v1\.0\.tar\.gz"),
        ("bigearthnet", "BigEarthNet-v1.0/{0}/{0}_labels_metadata.json", r"is missing.*BigEarthNet-S2-v1\.0\.tar\.gz"),
        ("forestnet", "val.csv", r"val\.csv: is missing; it is at .*ForestNetDataset\.zip"),
        ("forestnet", "{1}/images/visible/composite.png", r"composite\.png: is missing.*ForestNetDataset\.zip"),
        ("forestnet", "{1}/images/infrared/composite.npy", r"composite\.npy: is missing.*ForestNetDataset\.zip"),
    ],
)
def test_a_missing_file_names_its_download(miniature, patches, tmp_path, dataset, gone, says):
    name = {"bigearthnet": "BigEarthNet", "forestnet": "ForestNetDataset"}[dataset]
    shutil.copytree(miniature / name, tmp_path / name)
    patch = rows_of(miniature / "BigEarthNet" / "val.csv")[1][0]
    example = rows_of(miniature / "ForestNetDataset" / "val.csv")[2][5]
    (tmp_path / name / gone.format(patch, example)).unlink()
    with pytest.raises(RasterError, match=says):
        patches(dataset, tmp_path / name, split="val")
    skips = Skips(keep_going=True)
    assert len(patches(dataset, tmp_path / name, skips, split="val")) == (0 if gone == "val.csv" else 2)
    assert skips.count == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "bigearthnet", "--classes", "12"], "bigearthnet takes --classes 43 or 19"),
        (["--dataset", "folders", "--classes", "12"], "folders takes no --classes"),
        (["--dataset", "bigearthnet", "--sensor", "eurosat"], "bigearthnet decides --sensor itself"),
        (["--dataset", "bigearthnet", "--datetime", "2001-01-01"], "bigearthnet decides --datetime itself"),
        (["--dataset", "bigearthnet", "--per-band"], "bigearthnet decides --per-band itself"),
        (["--dataset", "bigearthnet", "--seed", "1"], "--seed belongs to --dataset folders with --split"),
        (["--dataset", "forestnet", "--scale", "1"], "forestnet decides --scale itself"),
        (["--dataset", "bigearthnet", "--bands", "cirrus"], "bigearthnet has no band cirrus"),
        (["--dataset", "bigearthnet", "--size", "60"], "--dataset takes each patch whole"),
        (["--split", "val"], "--split and --classes belong to --dataset"),
        (["--dataset", "imagenet"], "'imagenet' is not one of"),
    ],
)
def test_options_that_do_not_fit(rsr, miniature, arguments, says):
    done = rsr("tile", *arguments, miniature / "BigEarthNet")
    assert (done.returncode, done.stdout) == (2, b"")
    assert says in done.stderr.decode()


def test_a_data_set_pipes(rsr, miniature):
    tiles = rsr("tile", "--dataset", "forestnet", "--classes", "4", "--split", "test", miniature / "ForestNetDataset")
    assert (tiles.returncode, tiles.stderr) == (0, b"")
    done = rsr("embed", "--model", "rcf", "--size", "64", input=tiles.stdout)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == SPLITS["test"]


def test_an_archive_of_arrays_is_no_picture(tmp_path, cut):
    np.savez(tmp_path / "x.npz", a=np.zeros((4, 4)), b=np.zeros((4, 4)))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(RasterError, match=r"x\.npy: is not an array"):
        cut(tmp_path / "x.npy", bands=["red"])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("Mining,Other,nan,101,2004,{0}", "is no example of ForestNet"),
        ("Mining,Other,-1,999,2004,{0}", "is no example of ForestNet"),
        ("Mining,Other,-1,101,99999,{0}", "is no example of ForestNet"),
        (",Other,-1,101,2004,{0}", "is no example of ForestNet"),
        ("Mining,Other,-1,101,{0}", "is no example of ForestNet"),
        ("Mining,Other,-1,101,2004,../{0}", "does not lie in the data set"),
        ("Mining,Other,-1,101,2004,/{0}", "does not lie in the data set"),
    ],
)
def test_rows_that_are_no_example(miniature, patches, tmp_path, row, says):
    folder = tmp_path / "ForestNetDataset"
    shutil.copytree(miniature / "ForestNetDataset", folder)
    header, first, *_ = (folder / "val.csv").read_text().splitlines()
    (folder / "val.csv").write_text(f"{header}\n{row.format(first.split(',')[5])}\n{first}\n")
    with pytest.raises(RasterError, match=says):
        patches("forestnet", folder, split="val")


@pytest.mark.parametrize(
    ("labels", "says"), [('"Pastures"', "labels that are not a list"), ('["Pasture"]', "'Pasture', which is none of")]
)
def test_labels_that_are_none_of_the_43(miniature, patches, tmp_path, labels, says):
    shutil.copytree(miniature / "BigEarthNet", tmp_path / "BigEarthNet")
    name = rows_of(tmp_path / "BigEarthNet" / "val.csv")[0][0]
    place = tmp_path / "BigEarthNet" / "BigEarthNet-v1.0" / name / f"{name}_labels_metadata.json"
    place.write_text(f'{{"labels": {labels}, "acquisition_date": "2018-05-01 09:00:00"}}')
    with pytest.raises(RasterError, match=says):
        patches("bigearthnet", tmp_path / "BigEarthNet", split="val")


def test_empty_lists(miniature, patches, tmp_path):
    for dataset, name, text in (("bigearthnet", "BigEarthNet", ""), ("forestnet", "ForestNetDataset", "")):
        shutil.copytree(miniature / name, tmp_path / name)
        (tmp_path / name / "val.csv").write_text(text)
        with pytest.raises(RasterError, match=r"val\.csv: is empty; it is at "):
            patches(dataset, tmp_path / name, split="val")


def test_a_table_that_is_none(newer, patches, tmp_path):
    shutil.copytree(newer, tmp_path / "reben")
    (tmp_path / "reben" / "metadata.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RasterError, match=r"metadata\.parquet: cannot be read: .*zenodo"):
        patches("bigearthnet", tmp_path / "reben")


def test_zeros_are_numbers_where_the_files_declare_no_nodata(miniature, patches, tmp_path):
    shutil.copytree(miniature / "BigEarthNet", tmp_path / "BigEarthNet")
    name = rows_of(tmp_path / "BigEarthNet" / "val.csv")[0][0]
    with rasterio.open(tmp_path / "BigEarthNet" / "BigEarthNet-v1.0" / name / f"{name}_B02.tif", "r+") as raster:
        raster.write(np.zeros((120, 120), "uint16"), 1)
    (tile, *_) = patches("bigearthnet", tmp_path / "BigEarthNet", split="val")
    assert "nodata" not in tile["properties"]
    assert (rasters.read_pixels(tile, ["blue"]) == 0).all()
