"""The encoder in CONTRIBUTING.md, put in place as the page says and run by the real ``rsr``."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
from support_rasters import SIX, bands_of

import rsr_cli
from rsr_cli.core.encoders.statistics import PRITHVI_V1

PACKAGE = Path(rsr_cli.__file__).parent
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def section(title: str) -> str:
    return re.search(rf"^### {title}\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE)[1]


def blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def contributed(tmp_path_factory, torch):
    """Return a directory with a copy of the package, and the files of it in which the page's encoder now is."""
    folder = tmp_path_factory.mktemp("contributed")
    shutil.copytree(PACKAGE, folder / "rsr_cli", ignore=shutil.ignore_patterns("__pycache__"))
    text = section("An encoder")
    code, entry = blocks(text)
    (path,) = re.findall(r"you would save as `(.+?)`:", text)
    (neighbour,) = re.findall(r"its entry, above that of `(.+?)`", text)
    file = folder / "rsr_cli" / path
    assert file.parent.is_dir()
    assert not file.exists()
    file.write_text(code)
    registry = folder / "rsr_cli" / "core" / "encoders" / "registry.py"
    place = f'        Model(\n            name="{neighbour}",\n'
    before, after = registry.read_text().split(place)
    registry.write_text(before + entry + place + after)
    return folder, (file, registry)


@pytest.fixture(scope="module")
def run(rsr, contributed):
    """Return a function that runs the copy's rsr and returns what it wrote to stdout."""

    folder, _ = contributed

    def run(*arguments, stream=None):
        done = rsr(*arguments, input=stream, cwd=folder, env={"PYTHONPATH": str(folder)})
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    return run


def vectors(stream: bytes) -> np.ndarray:
    found = [orjson.loads(line)["properties"]["embedding"] for line in stream.splitlines()]
    assert {(one["model"], one["dim"], one["dtype"]) for one in found} == {("moments", 12, "float32")}
    return np.stack([np.frombuffer(base64.b64decode(one["data"]), "<f4") for one in found])


def test_the_encoder_is_listed_above_its_neighbour(rsr, run):
    rows = [line.split() for line in run("models").decode().splitlines()]
    names = [row[0] for row in rows]
    before = [line.split()[0] for line in rsr("models").stdout.decode().splitlines()]
    place = names.index("moments")
    assert names[place + 1] == "rcf"
    assert [*names[:place], *names[place + 1 :]] == before
    assert rows[place][1:] == ["12", "any", ",".join(SIX), "none"]


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]])
def test_its_style_is_ours(contributed, arguments):
    _, files = contributed
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "--config", ROOT / "pyproject.toml", *files]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_its_vectors_are_the_means_and_deviations_of_normalised_pixels(run, write_raster, tmp_path):
    """DN * 0.5 + 100 is reflectance x 10000; one tile is partly nodata, which is left out."""
    pixels = bands_of(6, 64, 96)
    pixels[:, :20, 10:30] = 0
    path = write_raster(tmp_path / "scene.tif", pixels, names=SIX, nodata=0)
    tiles = run("tile", "--size", "32", "--scale", "0.5", "--offset", "100", path)
    found = vectors(run("embed", "--model", "moments", "--device", "cpu", stream=tiles))
    mean, std = (np.array(values)[:, None, None] for values in (PRITHVI_V1.mean, PRITHVI_V1.std))
    normalised = np.where(pixels == 0, np.nan, (pixels * 0.5 + 100 - mean) / std)
    expected = []
    for row in (0, 32):
        for column in (0, 32, 64):
            window = normalised[:, row : row + 32, column : column + 32]
            expected.append([*np.nanmean(window, (1, 2)), *np.nanstd(window, (1, 2))])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    single = run("embed", "--model", "moments", "--device", "cpu", "--batch-size", "1", stream=tiles)
    np.testing.assert_allclose(vectors(single), found, rtol=1e-6)


def test_its_embeddings_go_through_the_other_commands(run, write_raster, tmp_path):
    path = write_raster(tmp_path / "scene.tif", bands_of(6, 32, 64), names=SIX)
    embeddings = run("embed", "--model", "moments", stream=run("tile", "--size", "32", path))
    run("index", "-o", tmp_path / "i.rsr", stream=embeddings)
    hits = [orjson.loads(line) for line in run("query", tmp_path / "i.rsr", stream=embeddings).splitlines()]
    assert [hit["properties"]["distance"] for hit in hits if hit["properties"]["rank"] == 1] == [0, 0]
    recipe = orjson.loads((tmp_path / "i.rsr" / "manifest.json").read_bytes())["space"]["recipe"]
    assert (recipe["model"], recipe["bands"], recipe["dim"]) == ("moments", list(SIX), 12)
