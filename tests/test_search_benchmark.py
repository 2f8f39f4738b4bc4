"""The rig of benchmarks/search.py, on tiny data, with the peers that rsr's own environment has."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import script

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ROWS = 400


@pytest.fixture(scope="module")
def bench():
    """Return the module, whose neighbours it imports by their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return script(BENCHMARKS / "search.py")


@pytest.fixture(scope="module")
def rig(bench, tmp_path_factory):
    """Return how to run the script, and the file of its results."""
    if subprocess.run([*bench.NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no namespaces")
    path = tmp_path_factory.mktemp("search") / "search.json"

    def run(*arguments):
        command = [sys.executable, BENCHMARKS / "search.py", "--json", path, *arguments]
        return subprocess.run(
            list(map(str, command)), env=os.environ, capture_output=True, text=True, timeout=120, check=False
        )

    return run, path


@pytest.fixture(scope="module")
def measured(rig):
    run, path = rig
    done = run("--rows", ROWS, "--peer", "rsr", "faiss IVF", "usearch", "--cold", 1)
    assert done.returncode == 0, done.stderr
    return {result["peer"]: result for result in json.loads(path.read_text())["results"]}


def test_an_exact_search_finds_all_and_every_number_is_there(measured):
    rsr = measured["rsr"]
    asked = rsr["asked"]["all"]
    assert (asked["recall"], asked["hits"]) == (1, 20)
    assert 0 < asked["warm_ms"] <= asked["p90_ms"]
    assert asked["cold_ms"] < asked["process_ms"]
    assert min(rsr["build_s"], rsr["build_mb"], rsr["disk_mb"], asked["memory_mb"]) > 0


def test_a_setting_reaches_the_recall_with_the_least_work(bench, measured):
    for asked in measured["faiss IVF"]["asked"].values():
        reached = [point["setting"] for point in asked["curve"] if point["recall"] >= bench.RECALL]
        assert asked["setting"] == min(reached)


def test_a_filter_leaves_the_rows_that_it_keeps(bench, measured):
    asked = measured["faiss IVF"]["asked"]
    assert set(asked) == {"all", *(kept.name for kept in bench.FILTERS)}
    assert asked["time, 10 %"]["hits"] == 20
    assert 0 < asked["time, 1 %"]["hits"] < 20  # of 400 rows it keeps about 4


def test_a_peer_that_is_not_there_fails_with_its_reason_and_the_others_go_on(measured):
    assert measured["usearch"]["failed"] == "build: ModuleNotFoundError: No module named 'usearch'"


def test_what_is_measured_is_kept_and_what_failed_is_not_tried_with_more(rig, measured):
    run, path = rig
    done = run("--rows", ROWS, ROWS + 1, "--peer", "usearch")
    assert done.returncode == 0, done.stderr
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [str(ROWS + 1)]
    results = {(each["rows"], each["peer"]): each for each in json.loads(path.read_text())["results"]}
    assert results[ROWS, "rsr"] == measured["rsr"]
    assert results[ROWS + 1, "usearch"]["failed"] == f"{measured['usearch']['failed']} with {ROWS} codes"


def test_a_build_that_passes_the_limit_is_stopped(rig, tmp_path):
    run, _ = rig
    other = tmp_path / "other.json"
    done = run("--rows", ROWS, "--peer", "faiss flat", "--limit-minutes", 0, "--json", other)
    assert done.returncode == 0, done.stderr
    assert json.loads(other.read_text())["results"][0]["failed"] == "build: stopped after 0 minutes"


def test_results_of_other_codes_are_not_mixed(rig, measured):
    done = rig[0]("--rows", ROWS, "--peer", "rsr", "--seed", 1)
    assert done.returncode == 1
    assert done.stderr.endswith("has another seed; name another file\n")


def test_the_page_keeps_its_text_and_has_a_row_per_peer_and_table(bench, rig, measured, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Head\n\n{bench.MARKS[0]}\nstale numbers\n{bench.MARKS[1]}\n\nTail\n")
    for _ in range(2):
        assert rig[0]("--page", page).returncode == 0
    text = page.read_text()
    assert text.startswith("# Head\n")
    assert text.endswith("\nTail\n")
    assert "stale" not in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    recall = f"{measured['faiss IVF']['asked']['all']['recall']:.3f}"
    assert sum(row[0] == "faiss IVF" and row[-2] == recall and row[-1] == "20.0" for row in rows) >= 1
    assert sum(row[0] == "rsr" and row[-1] == "20.0" for row in rows) > 1  # with filters too
    assert measured["usearch"]["failed"] in [row[-1] for row in rows if row[0] == "usearch"]
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.strip().splitlines()}) == 1
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


# The parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0, 0.5, 1, 1.3])
def test_the_exponent_is_the_slope_of_the_logarithms(bench, slope):
    rows = [10**5, 10**6, 10**7]
    assert math.isclose(bench.exponent(rows, [3 * count**slope for count in rows]), slope, abs_tol=1e-9)


def test_one_size_has_no_exponent(bench):
    assert bench.exponent([10**5], [1.0]) is None


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0, "0"), (0.0123, "0.012"), (1.234, "1.23"), (56.78, "56.8"), (1234.5, "1,234")]
)
def test_numbers_have_three_digits_that_count(bench, value, text):
    assert bench.number(value) == text


@pytest.fixture
def judge(bench, tmp_path):
    """Return a judge of 60 rows, 19 of them at a query and 11 behind them at one distance, and a filter."""
    codes = np.zeros((60, bench.WIDTH), np.uint8)
    codes[19:30, 0] = 0b11
    codes[30:] = 0b1111
    start, end = bench.FIRST, bench.LAST
    kept = bench.FILTERS[0]
    times = np.full(60, end - 1)
    times[25:35] = start  # the filter keeps 10 rows
    for name, array in {
        "codes": codes,
        "queries": np.zeros((1, bench.WIDTH), np.uint8),
        "times": times,
        "boxes": np.zeros((60, 4), np.float32),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
    return bench.Judge(tmp_path), kept


@pytest.mark.parametrize(
    ("found", "recall", "hits"),
    [
        (range(20), 1, 20),
        ([*range(19), 29], 1, 20),  # another row as near as the twentieth
        ([*range(19), 40], 19 / 20, 20),
        ([0] * 20, 1 / 20, 1),  # a row counts once
        (range(10), 10 / 20, 10),
        ([], 0, 0),
    ],
)
def test_recall_counts_ties_and_no_row_twice(judge, found, recall, hits):
    assert judge[0].hits(0, [list(found)], None) == (recall, hits)


def test_recall_with_a_filter_is_of_the_rows_that_it_keeps(judge):
    hits, kept = judge[0].hits, judge[1]
    assert hits(0, [list(range(25, 35))], kept) == (1, 10)  # all that there are
    assert hits(0, [list(range(20))], kept) == (0, 0)
    assert hits(0, [[24, 25, 26]], kept) == (2 / 10, 2)


def test_a_filter_is_the_same_in_sql_and_numpy(bench, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    bench.write_data(tmp_path, 5000, 0.3, 0)
    times, boxes = np.load(tmp_path / "times.npy"), np.load(tmp_path / "boxes.npy")
    west, south, east, north = map(np.ascontiguousarray, boxes.T)
    columns = {"id": np.arange(5000), "time": times, "west": west, "south": south, "east": east, "north": north}
    import pyarrow as pa

    connection = duckdb.connect()
    connection.register("rows", pa.table(columns))
    for kept in bench.FILTERS:
        statement = f"SELECT id FROM rows WHERE {kept.sql()} ORDER BY id"
        found = [row for (row,) in connection.execute(statement).fetchall()]
        assert found == np.flatnonzero(kept.mask(times, boxes)).tolist()
        assert abs(len(found) / 5000 - kept.share) < 4 * math.sqrt(kept.share / 5000)
