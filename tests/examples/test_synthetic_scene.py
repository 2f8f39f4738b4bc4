"""The synthetic scene and its label filter, run as users run them."""

import json
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage
from support import script

SCRIPT = Path(__file__).parents[2] / "examples" / "synthetic_scene.py"
synthetic_scene = script(SCRIPT)
SIZE = 512


def run(*arguments, **options):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def tile(number, window, **extra):
    properties = {"window": window, **extra}
    return json.dumps({"type": "Feature", "id": f"t{number}", "geometry": None, "properties": properties})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene") / "made" / "here"
    done = run("write", folder, "--size", SIZE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.fixture(scope="module")
def scene(folder):
    with rasterio.open(folder / "scene.tif") as raster:
        return raster.read()


@pytest.fixture(scope="module")
def classes(folder):
    with rasterio.open(folder / "mask.tif") as raster:
        return raster.read(1)


def test_the_scene_looks_like_a_product(folder):
    with rasterio.open(folder / "scene.tif") as raster:
        assert raster.descriptions == ("blue", "green", "red", "nir08", "swir16", "swir22")
        assert raster.dtypes == ("uint16",) * 6
        assert raster.crs.to_epsg() == 32633
        assert raster.nodata == 0
        assert raster.res == (10, 10)
        assert raster.shape == (SIZE, SIZE)
        assert raster.profile["tiled"]
        structure = raster.tags(ns="IMAGE_STRUCTURE")
        assert (structure["COMPRESSION"], structure["PREDICTOR"]) == ("DEFLATE", "2")
        grid = raster.transform, raster.crs, raster.shape
    with rasterio.open(folder / "mask.tif") as raster:
        assert (raster.transform, raster.crs, raster.shape) == grid
        assert raster.dtypes == ("uint8",)
        assert raster.nodata == 0
        names = {key: name for key, name in raster.tags(1).items() if key.startswith("CLASS_")}
        assert names == {f"CLASS_{code}": name for name, code in synthetic_scene.CODES.items()}
        colours = raster.colormap(1)
        assert len({colours[code] for code in range(len(names) + 1)}) == len(names) + 1


def test_nodata_is_a_wedge_and_the_same_in_both_files(scene, classes):
    valid = classes > 0
    assert (valid == (scene > 0).all(0)).all()
    assert (valid == (scene > 0).any(0)).all()
    assert not valid[0, 0]
    assert valid[-1, -1]
    assert 0.005 < 1 - valid.mean() < 0.1


def test_same_seed_same_bytes(folder, tmp_path):
    again = run("write", tmp_path, "--size", SIZE, "--seed", 0)
    assert again.returncode == 0
    for name in ("scene.tif", "mask.tif"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_another_seed_makes_another_place():
    one, other = (synthetic_scene.draw_scene(128, seed)[0] for seed in (0, 1))
    assert (one != other).mean() > 0.8


def test_classes_have_their_spectra(scene, classes):
    ndvi = {}
    for name, code in synthetic_scene.CODES.items():
        # Away from mixed borders and from the shallows of lakes.
        inside = ndimage.binary_erosion(classes == code, iterations=12 if name == "lake" else 2)
        assert inside.sum() > 500, name
        mean = scene[:, inside].mean(1)
        # Haze adds up to 60, in the blue band.
        np.testing.assert_allclose(mean, synthetic_scene.COVERS[name].spectrum, rtol=0.1, atol=60, err_msg=name)
        ndvi[name] = (mean[3] - mean[2]) / (mean[3] + mean[2])
    assert min(ndvi["broadleaf_forest"], ndvi["conifer_forest"], ndvi["crop"]) > 0.75
    assert ndvi["crop"] > ndvi["grassland"] > ndvi["stubble"] > ndvi["lake"]
    assert ndvi["conifer_forest"] > ndvi["built_up"] > ndvi["river"]
    assert 0.15 < ndvi["bare_soil"] < 0.4
    assert max(ndvi["lake"], ndvi["river"]) < 0


def test_labels_agree_with_an_independent_count(folder, classes):
    windows = [[col, row, 64, 64] for row in range(0, SIZE, 48) for col in range(0, SIZE, 48)]  # the last reach outside
    lines = "".join(tile(number, window) + "\n" for number, window in enumerate(windows))
    done = run("label", folder / "mask.tif", input=lines)
    assert (done.returncode, done.stderr) == (0, "")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["id"] for record in records] == [f"t{number}" for number in range(len(windows))]
    names = {code: name for name, code in synthetic_scene.CODES.items()}
    for record, (col, row, width, height) in zip(records, windows, strict=True):
        pixels = [int(code) for code in classes[row : row + height, col : col + width].flat if code]
        enough = [code for code in set(pixels) if Fraction(pixels.count(code), len(pixels)) >= Fraction(1, 5)]
        assert record["properties"]["labels"] == sorted(names[code] for code in enough)


def test_labels_at_the_threshold_and_the_rest_untouched(tmp_path):
    mask = tmp_path / "mask.tif"
    pixels = np.array([[0, 0, 3, 3, 7, 7, 7, 7, 7, 7, 7, 7], [0] * 12, [9, 9, 9, 9, 9, 4, 0, 0, 0, 0, 0, 0]], np.uint8)
    with rasterio.open(
        mask, "w", "GTiff", 12, 3, 1, "EPSG:32633", rasterio.Affine(10, 0, 0, 0, -10, 0), "uint8"
    ) as raster:
        raster.write(pixels, 1)
        raster.update_tags(1, CLASS_3="heath", CLASS_4="quarry", CLASS_7="Föhre", CLASS_9="bog")
    windows = [0, 0, 12, 1], [0, 1, 12, 1], [0, 2, 12, 1]
    lines = [tile(number, window, note="ä", labels=["old"]) for number, window in enumerate(windows)]
    lines[1] = "\x1e" + lines[1]  # RFC 8142
    first, empty, last = (json.loads(line) for line in synthetic_scene.label_tiles(lines, mask))
    assert first["properties"] == {"window": [0, 0, 12, 1], "note": "ä", "labels": ["Föhre", "heath"]}  # 2 of 10 count
    assert empty["properties"]["labels"] == []
    assert last["properties"]["labels"] == ["bog"]
    (last,) = synthetic_scene.label_tiles(lines[2:], mask, share=1 / 6)
    assert json.loads(last)["properties"]["labels"] == ["bog", "quarry"]


@pytest.fixture
def label_process(folder):
    command = [sys.executable, str(SCRIPT), "label", str(folder / "mask.tif")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


def test_tiles_are_written_as_they_arrive(label_process):
    for number in range(3):
        label_process.stdin.write(tile(number, [64 * number, 128, 64, 64]) + "\n")
        label_process.stdin.flush()
        assert json.loads(label_process.stdout.readline())["id"] == f"t{number}"
    assert label_process.communicate(timeout=60) == ("", "")
    assert label_process.returncode == 0


def test_a_closed_stdout_ends_it_quietly(label_process):
    label_process.stdin.write(tile(0, [0, 0, 64, 64]) + "\n")
    label_process.stdin.flush()
    label_process.stdout.readline()
    label_process.stdout.close()
    label_process.stdin.write(tile(1, [0, 0, 64, 64]) + "\n")
    label_process.stdin.flush()
    assert label_process.wait(60) == -signal.SIGPIPE
    assert label_process.stderr.read() == ""


@pytest.mark.parametrize("line", ["no JSON", "", "[1]", '{"properties": null}', '{"properties": {"window": [0, 0]}}'])
def test_a_line_that_is_not_a_tile_is_named(folder, line):
    labelled = synthetic_scene.label_tiles([tile(0, [0, 0, 64, 64]), line], folder / "mask.tif")
    next(labelled)
    with pytest.raises(ValueError, match=r"^line 2: not a GeoJSON Feature with properties\.window$"):
        next(labelled)


def test_a_mask_that_names_no_class_is_refused(folder):
    with pytest.raises(ValueError, match=r"scene\.tif: has no band tag CLASS_"):
        next(synthetic_scene.label_tiles([], folder / "scene.tif"))


def test_a_failure_is_one_line_and_status_1(folder, tmp_path):
    done = run("label", folder / "mask.tif", input=tile(0, [0, 0, 64, 64]) + "\n{}\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)
    assert done.stderr == "synthetic_scene.py label: line 2: not a GeoJSON Feature with properties.window\n"
    done = run("label", tmp_path / "none.tif", input="")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "none.tif" in done.stderr


@pytest.mark.parametrize("arguments", [("--size", "8"), ("--seed", "-1")])
def test_wrong_usage_is_status_2(tmp_path, arguments):
    done = run("write", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert done.stderr.endswith("error: --size must be at least 64, --seed at least 0\n")
    assert not (tmp_path / "out").exists()
