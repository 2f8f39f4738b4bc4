"""The manual pages match the commands, render cleanly, and contain examples that run."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import click
import numpy as np
import pytest
import rasterio
from support import needs_torch
from support_stac import item, save

from rsr_cli.main import COMMANDS, cli

ROOT = Path(__file__).parent.parent
MAN = ROOT / "man"
WRITTEN = tomllib.loads((MAN / "sections.toml").read_text())
PAGES = ["rsr", *(f"rsr-{name}" for name in COMMANDS)]
# In the order of sections.toml: an example may use the files that earlier ones wrote.
EXAMPLES = [
    (name, block.removeprefix("$ "))
    for name, page in WRITTEN.items()
    if name in PAGES
    for block in page["examples"].strip().split("\n\n")
    if block.startswith("$ ")
]
HLS_L30 = {"blue": "B02", "green": "B03", "red": "B04", "nir08": "B05", "swir16": "B06", "swir22": "B07"}

needs_groff = pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")


def command_of(name):
    if name == "rsr":
        return cli
    command = name.removeprefix("rsr-")
    return getattr(importlib.import_module(f"rsr_cli.commands.{command}"), command)


def options_of(name):
    return [param for param in command_of(name).params if isinstance(param, click.Option) and not param.hidden]


def plain(name):
    """Return a page's text without fonts and escapes."""
    text = re.sub(r"\\f[BIR]|\\:|\\&", "", (MAN / f"{name}.1").read_text())
    return text.replace(r"\-", "-")


def section(name, title):
    return plain(name).partition(f'.SH "{title}"\n')[2].partition(".SH ")[0]


def render(name, width):
    command = ["groff", "-man", "-Tutf8", "-ww", f"-rLL={width}n", "-P-cbou", str(MAN / f"{name}.1")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_pages_are_up_to_date(tmp_path):
    subprocess.run([sys.executable, MAN / "build.py", tmp_path], check=True, timeout=60)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    stored = {path.name: path.read_text() for path in MAN.glob("*.1")}
    assert sorted(stored) == sorted(f"{name}.1" for name in PAGES)
    assert stored == fresh, "run `make man`"


@pytest.mark.parametrize("name", PAGES)
def test_every_option_is_listed(name):
    listed = [names for names in section(name, "OPTIONS").split(".TP\n") if names]
    words = Counter(word.rstrip(",") for entry in listed for word in entry.splitlines()[0].split(" "))
    for option in options_of(name):
        for spelling in option.opts:
            assert words[spelling] == 1
        if isinstance(option.type, click.Choice):
            assert words[f"[{'|'.join(option.type.choices)}]"] >= 1
    assert words["--help"] == 1


@pytest.mark.parametrize("name", PAGES[1:])
def test_variables_are_named_after_their_options(name):
    listed = set(re.findall(r"\bRSR_\w+", section(name, "ENVIRONMENT")))
    longest = [max(option.opts, key=len).lstrip("-") for option in options_of(name) if option.expose_value]
    assert listed == {f"{name}-{option}".upper().replace("-", "_") for option in longest}


@pytest.mark.parametrize("name", PAGES)
def test_page_has_the_usual_sections(name):
    titles = re.findall(r'^\.SH "(.*)"$', plain(name), re.MULTILINE)
    assert titles[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert {"OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES"} < set(titles)
    assert titles[-2:] == ["EXAMPLES", "SEE ALSO"]
    assert set(re.findall(r"(rsr[\w-]*)\(1\)", section(name, "SEE ALSO"))) == set(PAGES) - {name}


@needs_groff
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [60, 80, 200])
def test_page_renders_without_a_warning(name, width):
    done = render(name, width)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@needs_groff
@pytest.mark.parametrize("name", PAGES)
def test_examples_can_be_copied_from_the_page(name):
    shown = [line.strip() for line in render(name, 200).stdout.splitlines()]
    examples = [example for page, example in EXAMPLES if page == name]
    assert examples
    for example in examples:
        lines = [line.strip() for line in example.splitlines()]
        assert any(shown[i : i + len(lines)] == lines for i in range(len(shown))), example


def write_raster(path, pixels, names, **profile):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(path, "w", **profile | {"count": count, "height": height, "width": width}) as raster:
        raster.descriptions = names
        raster.write(pixels)


@pytest.fixture
def scenes(tmp_path, miniature_layouts):
    """Write the files that the examples start from, all cut from one synthetic scene."""
    write = [sys.executable, ROOT / "examples" / "synthetic_scene.py", "write", tmp_path, "--size", "512"]
    subprocess.run(write, check=True, timeout=60)
    with rasterio.open(tmp_path / "mask.tif") as mask:
        classes = mask.read(1)
        names = {code: mask.tags(1).get(f"CLASS_{code}") for code in range(256)}
    with rasterio.open(tmp_path / "scene.tif") as scene:
        pixels, bands, profile = scene.read(), scene.descriptions, scene.profile
    for row, col in np.ndindex(8, 8):
        part = np.s_[64 * row : 64 * (row + 1), 64 * col : 64 * (col + 1)]
        label = names[np.bincount(classes[part].ravel()).argmax()]
        if label:  # elsewhere is mostly nodata
            left, top = profile["transform"].c + 640 * col, profile["transform"].f - 640 * row
            place = {"transform": rasterio.Affine(10, 0, left, 0, -10, top)}
            path = tmp_path / "images" / label / f"{label}_{8 * row + col}.tif"
            write_raster(path, pixels[:, *part], bands, **profile | place)
    shutil.copy(sorted((tmp_path / "images" / "lake").iterdir())[0], tmp_path / "chip.tif")
    product = "HLS.L30.T33UUP.2023161T100214.v2.0"
    assets = {}
    for name, band in zip(bands, pixels, strict=True):
        path = tmp_path / "granules" / product / f"{product}.{HLS_L30[name]}.tif"
        write_raster(path, band[None], [None], **profile)
        assets[name] = {"href": str(path), "eo:bands": [{"name": HLS_L30[name], "common_name": name}]}
    save(tmp_path / "items.json", {"type": "FeatureCollection", "features": [item(product, assets)]})
    miniature_layouts.write_bigearthnet(tmp_path / "BigEarthNet", {"test": 2})
    names = ",".join(f"e{i}" for i in range(64))
    np.savetxt(tmp_path / "samples.csv", np.eye(64), delimiter=",", header=names, comments="")
    return tmp_path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@needs_torch
def test_examples_run(scenes, warm_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("RSR_")}
    env |= {"PATH": warm_path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    assert {name for name, _ in EXAMPLES} == set(PAGES)
    for name, example in EXAMPLES:
        shell = ["bash", "-e", "-o", "pipefail", "-c", example]
        done = subprocess.run(shell, cwd=scenes, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{name}: {example}\n{done.stderr}"
        if not {">", "-o", "--parts"} & {*example.split()}:
            assert done.stdout, f"{name}: {example} wrote nothing"
    empty = [path.name for path in scenes.glob("*.geojsonl") if not path.stat().st_size]
    assert empty == []
