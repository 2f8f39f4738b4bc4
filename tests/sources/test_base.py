"""What all datasets have in common: files that are missing or empty."""

import shutil

import pytest
from support_rasters import rows_of

from rsr_cli.core.errors import RasterError, Skips


@pytest.mark.parametrize(
    ("dataset", "gone", "says"),
    [
        ("bigearthnet", "val.csv", r"val\.csv: is missing; download it from https://.*splits"),
        ("bigearthnet", "BigEarthNet-v1.0/{0}/{0}_B11.tif", r"_B11\.tif: is missing.*BigEarthNet-S2-v1\.0\.tar\.gz"),
        ("bigearthnet", "BigEarthNet-v1.0/{0}/{0}_labels_metadata.json", r"is missing.*BigEarthNet-S2-v1\.0\.tar\.gz"),
        ("forestnet", "val.csv", r"val\.csv: is missing; download it from .*ForestNetDataset\.zip"),
        ("forestnet", "{1}/images/visible/composite.png", r"composite\.png: is missing.*ForestNetDataset\.zip"),
        ("forestnet", "{1}/images/infrared/composite.npy", r"composite\.npy: is missing.*ForestNetDataset\.zip"),
    ],
)
def test_a_missing_file_names_its_download(miniature, cut, tmp_path, dataset, gone, says):
    name = {"bigearthnet": "BigEarthNet", "forestnet": "ForestNetDataset"}[dataset]
    shutil.copytree(miniature / name, tmp_path / name)
    patch = rows_of(miniature / "BigEarthNet" / "val.csv")[1][0]
    example = rows_of(miniature / "ForestNetDataset" / "val.csv")[2][5]
    (tmp_path / name / gone.format(patch, example)).unlink()
    with pytest.raises(RasterError, match=says):
        cut(tmp_path / name, dataset=dataset, split="val")
    skips = Skips(keep_going=True)
    assert len(cut(tmp_path / name, dataset=dataset, skips=skips, split="val")) == (0 if gone == "val.csv" else 2)
    assert skips.count == 1


def test_empty_lists(miniature, cut, tmp_path):
    for dataset, name, text in (("bigearthnet", "BigEarthNet", ""), ("forestnet", "ForestNetDataset", "")):
        shutil.copytree(miniature / name, tmp_path / name)
        (tmp_path / name / "val.csv").write_text(text)
        with pytest.raises(RasterError, match=r"val\.csv: is empty; download it from "):
            cut(tmp_path / name, dataset=dataset, split="val")
