"""Every command of the README's shell blocks, run in order as a new user would."""

import re
import shutil
from pathlib import Path

from support import needs_torch
from support_docs import run_page

ROOT = Path(__file__).parents[1]


@needs_torch
def test_the_readme_runs(tmp_path, warm_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    written = run_page(ROOT / "README.md", tmp_path, warm_path)
    assert len((tmp_path / "hits.geojsonl").read_text().splitlines()) == 10
    assert re.search(r"^map@20 +0\.\d+ +0\.\d+ ", written, flags=re.MULTILINE), written
