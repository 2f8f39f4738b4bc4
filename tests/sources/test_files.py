"""Finding rasters by path and in directories: order, names, labels."""

import shutil

import numpy as np
import rasterio
from support_rasters import ONES

from rsr_cli.core import rasters


def test_a_directory_is_walked_in_order(nested, cut):
    ids = [tile["id"] for tile in cut(nested, bands=["red"])]
    assert ids == ["a", "b", "B/x.y", "c/10", "c/b", "c/a/z"]
    sources = [tile["properties"]["source"] for tile in cut(nested, bands=["red"])]
    assert sources == [
        str(nested / name) for name in ("a.TIFF", "b.tif", "B/x.y.tif", "c/10.img", "c/b.tif", "c/a/z.jp2")
    ]


def test_ids_are_the_same_from_anywhere(nested, cut, monkeypatch):
    ids = [tile["id"] for tile in cut(nested, bands=["red"], size=4)]
    assert len(set(ids)) == len(ids) == 6 * 4
    moved = shutil.copytree(nested, nested.parent / "moved" / "elsewhere")
    for start, path in (
        (nested, "."),
        (nested.parent, "in"),
        (nested, "../in/"),
        (moved.parent, moved),
        (moved / "c", ".."),
    ):
        monkeypatch.chdir(start)
        assert [tile["id"] for tile in cut(path, bands=["red"], size=4)] == ids
    for path in (nested / "c" / "b.tif", "b.tif", "./b.tif", "../c/b.tif"):
        assert [tile["id"] for tile in cut(path, bands=["red"])] == ["b"]


def test_labels_are_the_parents_names(nested, cut, monkeypatch):
    labels = [tile["properties"]["labels"] for tile in cut(nested, bands=["red"], labels_from_parent=True)]
    assert labels == [["in"], ["in"], ["B"], ["c"], ["c"], ["a"]]
    monkeypatch.chdir(nested / "c")
    for path, label in (("b.tif", "c"), ("../b.tif", "in"), ("a/../b.tif", "c"), (".", "c"), ("../B", "B")):
        assert cut(path, bands=["red"], labels_from_parent=True)[0]["properties"]["labels"] == [label]


def test_links_are_followed_once(tmp_path, write_raster, cut):
    write_raster(tmp_path / "real" / "x.tif", ONES)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "in")
    assert [tile["id"] for tile in cut(tmp_path / "in", bands=["red"])] == ["link/x"]


def test_hidden_entries_are_left_out(nested, cut):
    expected = [tile["id"] for tile in cut(nested, bands=["red"])]
    for name in ("._b.tif", "c/.DS_Store.tif", ".ipynb_checkpoints/b-checkpoint.tif", "c/.Trash-1000/b.tif"):
        (nested / name).parent.mkdir(exist_ok=True)
        (nested / name).write_bytes(b"\0\5\26\7")
    shutil.copytree(nested / "c", nested / "__MACOSX")
    (nested / ".linked").symlink_to(nested / "c")
    assert [tile["id"] for tile in cut(nested, bands=["red"])] == expected
    assert cut(nested / "__MACOSX", bands=["red"])  # what is named is not hidden


def test_a_subdataset_is_named_by_file_and_part(shared_data, cut):
    awkward = shared_data / "awkward"
    (tile,) = cut(f"netcdf:{awkward}/RGB.nc:Band2", bands=["green"])
    assert tile["id"] == "RGB_Band2"
    with rasterio.open(f"netcdf:{awkward}/RGB.nc:Band2") as raster:
        truth = raster.read(1, masked=True).astype(float).filled(np.nan)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["green"])[0], truth)
    (tile,) = cut(f"HDF5:{awkward}/two-subs.h5://data2", bands=["green"])
    assert tile["id"] == "two-subs_data2"
