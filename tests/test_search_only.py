"""What works without PyTorch, in an installation of requirements-search.txt, and what says that it does not."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import orjson
import pytest
from support import embedding
from support_rasters import SIX, bands_of

from rsr_cli.core.encoders.registry import MODELS
from rsr_cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
#: Requirements that requirements-search.txt leaves out.
LEFT_OUT = {"huggingface_hub", "terratorch", "timm", "torch"}
#: A program that has none of them, wherever the tests run; torchvision comes with terratorch.
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, *context):
        return None if name in {LEFT_OUT | {"torchvision"}} else super().find_spec(name, *context)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
from rsr_cli.main import main
main()
"""


@pytest.fixture
def search_only(tmp_path):
    """Return a function that runs rsr without PyTorch, in an empty directory."""

    def run(*arguments, status=0, stream=None):
        command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
        done = subprocess.run(command, input=stream, capture_output=True, cwd=tmp_path, timeout=120, check=False)
        assert done.returncode == status, done.stderr.decode()
        return done.stdout if status == 0 else done.stderr.decode()

    return run


def test_the_requirements_are_those_of_the_project_without_pytorch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "requirements-search.txt").read_text().splitlines()
    names = {requirement: re.match(r"[\w-]+", requirement)[0] for requirement in project}
    assert set(names.values()) >= LEFT_OUT
    wanted = [requirement for requirement in project if names[requirement] not in LEFT_OUT]
    assert [line for line in lines if not line.startswith("#")] == wanted


def test_every_command_but_embed_works(search_only, write_raster, tmp_path):
    random = np.random.default_rng(3)
    scene = write_raster(tmp_path / "scene.tif", bands_of(6, 64, 64), names=SIX)
    search_only("tile", "--size", 32, "--scale", 1, scene, "-o", "tiles.geojsonl")
    records = [orjson.loads(line) for line in (tmp_path / "tiles.geojsonl").read_bytes().splitlines()]
    for number, record in enumerate(records):
        labels = ["lake"] if number % 2 else ["road"]
        record["properties"] |= {"embedding": embedding(random.standard_normal(16)), "labels": labels}
    embedded = b"".join(orjson.dumps(record) + b"\n" for record in records)
    search_only("binarize", "-o", "codes.parquet", stream=embedded)
    search_only("fit", "--method", "itq", "--bits", 2, "-o", "itq.safetensors", stream=embedded)
    assert search_only("transform", "--with", "itq.safetensors", stream=embedded).count(b'"dim":2') == 4
    search_only("index", "codes.parquet", "-o", "i.rsr")
    search_only("query", "i.rsr", "-k", 3, "-o", "hits.geojsonl", stream=embedded)
    assert b"map" in search_only("score", "hits.geojsonl").lower()
    search_only("show", "hits.geojsonl", "--queries", "tiles.geojsonl", "-o", "hits.html")
    search_only("plot", "codes.parquet", "-o", "points.png")
    assert b"bits 16" in search_only("info", "i.rsr")
    assert len(search_only("models").splitlines()) == 1 + len(MODELS)
    assert len((tmp_path / "hits.geojsonl").read_bytes().splitlines()) == 12
    assert {path.name for path in tmp_path.iterdir()} >= {"hits.html", "points.png"}
    assert search_only("check", "i.rsr") == b"i.rsr: OK\n"
    assert len(COMMANDS) == 13  # a new one belongs above


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        *((name, ", ".join(model.libraries)) for name, model in MODELS.items() if model.libraries),
        ("timm_resnet50:bands=red:mean=1:std=1:size=64", "torch, terratorch"),
        ("unheard_of", "torch, terratorch"),
    ],
)
def test_embed_says_in_one_line_what_to_install(search_only, model, missing):
    (line,) = search_only("embed", "--model", model, status=2, stream=b"").splitlines()
    name = model.partition(":")[0]
    assert line.startswith((f"rsr embed: {name} needs", f"rsr embed: model {name}, which is not one of rsr's own, "))
    assert f" needs packages that are not installed ({missing}); pip install . in the clone of rsr installs" in line


def test_the_list_of_backbones_says_so_too(search_only):
    (line,) = search_only("models", "--all", status=2).splitlines()
    assert "the list of terratorch's backbones needs packages that are not installed (torch, terratorch); pip" in line


def test_a_misspelled_model_is_named_without_terratorch(search_only):
    assert "did you mean prithvi_eo_v1_100" in search_only("embed", "--model", "prithvi_eo_v1_10", status=2, stream=b"")


def test_nothing_is_sought_before_pytorch_is(search_only, tmp_path):
    """A checkpoint that is not there is of no interest yet."""
    assert "packages that are not installed" in search_only("embed", "--weights", "none.pt", status=2, stream=b"")
    assert "takes no layer" in search_only("embed", "--model", "rcf:layer=3", status=2, stream=b"")
