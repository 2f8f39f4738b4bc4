"""What `make demo` runs, in a copy of its directory."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from support import needs_torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@needs_torch
def test_demo_runs_again_and_again(tmp_path, warm_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RSR_")}
    env |= {"PATH": warm_path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = {"env": env, "cwd": "/", "capture_output": True, "text": True, "timeout": 300}
    first, second = (subprocess.run([tmp_path / "examples" / "demo.sh"], **run) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert (second.returncode, second.stderr) == (0, "")
    assert first.stdout == second.stdout

    directory = tmp_path / "demo"
    named = [line.split()[0] for line in first.stdout.splitlines() if line.startswith("    ")]
    assert {"scene.tif", "lake.rsr", "lake-hits.geojsonl"} < set(named)
    page = Path(first.stdout.splitlines()[-1].strip())
    assert page == directory / "hits.html"
    assert page.read_text().count("<section>") == 12
    hits = [json.loads(line) for line in (directory / "lake-hits.geojsonl").read_text().splitlines()]
    assert [hit["properties"]["rank"] for hit in hits] == list(range(1, 13))
    assert all(hit["geometry"]["type"] == "Polygon" for hit in hits)
    score = ["rsr", "score", directory / "hits.geojsonl", "--truth", directory / "tiles.geojsonl", "--exclude-self"]
    metrics = subprocess.run([*score, "--format", "jsonl"], **run).stdout.splitlines()
    for metric in map(json.loads, metrics):
        assert metric["value"] > metric["random"]
