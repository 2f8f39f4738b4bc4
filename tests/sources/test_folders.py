"""One folder per class, with drawn splits."""

import shutil
from collections import Counter

import numpy as np
import pytest

from rsr_cli.core.errors import RasterError, Skips


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_raster):
    folder = tmp_path_factory.mktemp("classes")
    for name, count in (("forest", 20), ("lake", 11), ("town", 2)):
        for number in range(count):
            write_raster(folder / name / f"{name}_{number}.png", np.ones((3, 8, 8), "uint8"), driver="PNG")
    return folder


def test_splits_of_folders_are_drawn_in_each_class(folders, cut):
    drawn = {
        split: cut(folders, dataset="folders", sensor="rgb", split=split, seed=3) for split in ("train", "val", "test")
    }
    counts = {split: Counter(tile["properties"]["labels"][0] for tile in tiles) for split, tiles in drawn.items()}
    assert counts == {
        "train": {"forest": 12, "lake": 7, "town": 2},
        "val": {"forest": 4, "lake": 2},
        "test": {"forest": 4, "lake": 2},
    }
    ids = [tile["id"] for tiles in drawn.values() for tile in tiles]
    everything = cut(folders, dataset="folders", sensor="rgb")
    assert sorted(ids) == sorted(tile["id"] for tile in everything)
    assert all(tile["properties"]["split"] == split for split, tiles in drawn.items() for tile in tiles)
    assert all("split" not in tile["properties"] for tile in everything)
    again = cut(folders, dataset="folders", sensor="rgb", split="test", seed=3)
    other = cut(folders, dataset="folders", sensor="rgb", split="test", seed=4)
    assert [tile["id"] for tile in again] == [tile["id"] for tile in drawn["test"]]
    assert [tile["id"] for tile in other] != [tile["id"] for tile in again]


def test_a_file_beside_the_folders_of_the_classes(folders, cut, write_raster, tmp_path):
    shutil.copytree(folders, tmp_path / "data")
    write_raster(tmp_path / "data" / "overview.png", np.ones((3, 8, 8), "uint8"), driver="PNG")
    with pytest.raises(RasterError, match=r"overview\.png: is beside the folders of the classes"):
        cut(tmp_path / "data", dataset="folders", sensor="rgb")
    skips = Skips(keep_going=True)
    assert len(cut(tmp_path / "data", dataset="folders", skips=skips, sensor="rgb")) == 33
    assert skips.count == 1


def test_hidden_folders_are_no_classes(folders, cut, write_raster, tmp_path):
    shutil.copytree(folders, tmp_path / "data")
    for name in (".ipynb_checkpoints/a.png", ".Trash-1000/b.png", "__MACOSX/lake/c.png", "lake/._d.png", ".e.png"):
        write_raster(tmp_path / "data" / name, np.ones((3, 8, 8), "uint8"), driver="PNG")
    for split in (None, "train", "test"):
        settings = {"dataset": "folders", "sensor": "rgb", "split": split, "seed": 3}
        expected, found = (
            [(t["id"], t["properties"]["labels"]) for t in cut(root, **settings)]
            for root in (folders, tmp_path / "data")
        )
        assert found == expected
