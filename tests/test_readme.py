"""Every command of the README's shell blocks, run in order as a new user would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import needs_torch

ROOT = Path(__file__).parents[1]


def blocks(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty directory with the examples."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


@needs_torch
def test_the_readme_runs(folder, warm_path):
    script = "set -e\n" + "".join(blocks((ROOT / "README.md").read_text()))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": warm_path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len((folder / "hits.geojsonl").read_text().splitlines()) == 10
    assert re.search(r"^map@20 +0\.\d+ +0\.\d+ ", done.stdout, flags=re.MULTILINE), done.stdout
