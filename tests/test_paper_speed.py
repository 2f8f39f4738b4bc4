"""The rig of benchmarks/paper_speed.py, on tiny data and without Milvus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXACT = ["rsr", "rsr, hits as JSON", "rsr, its own threads", "faiss flat", "faiss flat, its own threads"]
DATA = ["float-768", "hash-32"]


def rig(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "paper_speed.py", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # nothing is measured here, and threads stall a busy machine
    return subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("speed") / "speed.json"
    sizes = ["--rows", 300, "--queries", 10, "--turns", 2, "--nlist", 4, "--nprobe", 1]
    done = rig("--data", *DATA, *sizes, "--json", path)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_the_table_has_a_row_for_every_contender(measured):
    table, facts = measured
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    assert {len(row) for row in cells} == {9}
    assert [row[:3] for row in cells[2:]] == [[data, "300", name] for data in DATA for name in [*EXACT, "faiss IVF"]]
    assert [(row["data"], row["name"]) for row in facts["rows"]] == [(row[0], row[2]) for row in cells[2:]]
    assert "Milvus is not measured" in table


def test_exact_searches_find_the_same_and_one_list_of_four_does_not(measured):
    recall = {(row["data"], row["name"]): row["recall"] for row in measured[1]["rows"]}
    assert all(recall[data, name] == 1 for data in DATA for name in EXACT)
    assert all(0 < recall[data, "faiss IVF"] < 1 for data in DATA)


def test_every_number_is_there(measured):
    for row in measured[1]["rows"]:
        assert 0 < row["median_ms"] <= row["p90_ms"]
        assert min(row["memory_mb"], row["disk_mb"], row["build_s"]) > 0


def test_a_python_without_milvus_is_refused_in_one_line():
    done = rig("--milvus-python", sys.executable)
    assert done.returncode == 2
    assert "--milvus-python cannot be used: " in done.stderr.splitlines()[-1]
