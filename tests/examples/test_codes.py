"""The table of quality over bytes: its parts, its numbers and its page, also that in docs/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
from PIL import Image
from support import needs_torch, script

ROOT = Path(__file__).parents[2]
CODES = ROOT / "examples" / "codes"
N, DIM, K = 250, 16, 20


@pytest.fixture(scope="module")
def table():
    return script(CODES / "table.py")


@pytest.fixture(scope="module")
def run(warm):
    """Return a function that runs codes.py, or another script, with this rsr."""

    def call(*words, script="codes.py"):
        command = [sys.executable, CODES / script, *map(str, words)]
        done = subprocess.run(
            command, env={**os.environ, "RSR": " ".join(map(str, warm))}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    return call


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    """Halve labelled embeddings that lie around their classes, and measure one half with what the other half learns."""
    folder = tmp_path_factory.mktemp("codes")
    random = np.random.default_rng(5)
    classes = random.integers(0, 4, N)
    vectors = (random.normal(size=(4, DIM))[classes] + random.normal(size=(N, DIM)) + 0.7).astype(np.float32)
    vectors[10:40] = vectors[10:40].round()  # ties of codes, and of embeddings
    space = {"model": "drawn", "weights": None, "fingerprint": "0123456789abcdef", "dim": DIM, "dtype": "float32"}
    columns = {
        "id": [f"t{row}" for row in range(N)],
        "labels": pa.array([["abcd"[each]] for each in classes], pa.list_(pa.string())),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
        "embedding_space": pa.array([json.dumps(space)] * N).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), folder / "all.parquet")
    run("halve", folder / "all.parquet", folder / "a.parquet", folder / "b.parquet", "--seed", 3)
    (folder / "x.3").mkdir()
    run("fit", folder / "b.parquet", folder / "fit", "--seed", 3)
    run("measure", folder / "a.parquet", folder / "a.parquet", "--labels", "--seed", 3,
        "--fit", f"half={folder / 'fit'}", "-o", folder / "x.3" / "a.json")  # fmt: skip
    return folder


def rows(path):
    read = pq.read_table(path)
    return read["id"].to_pylist(), np.stack(read["embedding"].to_numpy()), read["labels"].to_pylist()


def test_the_halves_are_all_records(measured):
    mine, theirs = rows(measured / "a.parquet")[0], rows(measured / "b.parquet")[0]
    assert abs(len(mine) - len(theirs)) <= 1
    assert sorted(mine + theirs) == sorted(rows(measured / "all.parquet")[0])
    assert mine != sorted(mine, key=lambda name: int(name[1:]))  # in a random order


def distances(vectors, centre):
    """Return the distances that some ways to store and ask come to, from the vectors alone."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centred = unit - centre
    signs, centred_signs = vectors > 0, centred > 0
    turned = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    weights = np.abs(centred)
    return {
        ("float32", None, "default", 0): 1 - unit @ unit.T,
        ("float32, L1", None, "default", 0): np.abs(vectors[:, None] - vectors).sum(2),
        ("float32, centred", "half", "default", 0): 1 - turned @ turned.T,
        ("sign", None, "default", 0): (signs[:, None] != signs).sum(2),
        ("centred sign", "half", "symmetric", 0): (centred_signs[:, None] != centred_signs).sum(2),
        ("centred sign", "half", "default", 0): ((centred_signs[:, None] != centred_signs) * weights[:, None]).sum(2),
    }


def test_the_values_are_those_of_a_brute_force_search(measured):
    ids, vectors, labels = rows(measured / "a.parquet")
    unit = rows(measured / "b.parquet")[1].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    part = json.loads((measured / "x.3" / "a.json").read_text())
    found = {(row["way"], row["fit"], row["asked"], row["rerank"]): row for row in part["results"]}
    assert part["ids"] == sorted(ids)
    order = [ids.index(name) for name in part["ids"]]
    vectors, exact = vectors.astype(np.float64), None
    for key, far in distances(vectors, unit.mean(axis=0)).items():
        far = far.astype(float)
        np.fill_diagonal(far, np.inf)
        near = np.argsort(far, axis=1, kind="stable")[:, :K]
        exact = near if exact is None else exact
        tolerance = 0.01 if key == ("centred sign", "half", "default", 0) else 1e-12
        for metric in ("recall@20", "map@20", "p@20"):
            expected = []
            for row in order:
                right = np.array([labels[hit] == labels[row] for hit in near[row]])
                precisions = right.cumsum() / np.arange(1, K + 1)
                values = {
                    "recall@20": len(set(near[row]) & set(exact[row])) / K,
                    "map@20": precisions[right].mean() if right.any() else 0,
                    "p@20": right.mean(),
                }
                expected.append(values[metric])
            off = np.abs(np.array(found[key][metric]) - expected)
            assert off.mean() <= tolerance, (key, metric)  # weights are rounded to whole numbers, which swaps some hits


def test_every_way_is_measured_in_its_bytes(measured):
    part = json.loads((measured / "x.3" / "a.json").read_text())
    found = {(row["way"], row["fit"], row["asked"], row["rerank"]): row["bytes"] for row in part["results"]}
    bits = {"sign", "rotated", "rotated, short", "centred sign", "centred rotated"}
    bits |= {"median", "itq", "pca, rotated", "trivial"}
    for (way, _, _, rerank), size in found.items():
        sizes = {"lsh": 4, "rabitq": DIM / 8 + 8, "int8, centred": DIM + 4, **dict.fromkeys(bits, DIM / 8)}
        code = sizes.get(way, 4 * DIM)
        assert size == code + (DIM + 4 if rerank else 0), (way, rerank)
    assert {way for way, _, asked, _ in found if asked == "symmetric"} == bits - {"sign", "trivial"}
    assert {rerank for *_, rerank in found} == {0, 100}  # 400 are more than there are


def test_times_are_of_every_way_to_search(run, measured, tmp_path):
    run(measured / "all.parquet", measured / "fit", "--rows", 500, "-o", tmp_path / "speed.json", script="speed.py")
    speed = json.loads((tmp_path / "speed.json").read_text())
    assert speed["rows"] == 500
    assert all(each["ms"] > 0 for each in speed["times"])
    part = json.loads((measured / "x.3" / "a.json").read_text())
    searched = {(row["way"], row["asked"]) for row in part["results"]}
    assert {(each["way"], each["asked"]) for each in speed["times"]} == searched | {
        *(("sign", "100"), ("sign", "400"), ("int8", "default"))
    }


def test_intervals_are_those_of_another_bootstrap(table):
    values = np.random.default_rng(2).beta(2, 1, 150)
    mean, low, high = table.interval(values[None])
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9999, random_state=0)
    assert mean == pytest.approx(values.mean(), abs=1e-4)
    assert [low, high] == pytest.approx([*theirs.confidence_interval], abs=0.006)
    assert table.interval(np.full((3, 5), 0.5)) == [0.5] * 3
    # All that differs is the seed: the mean of three draws of 0, 0 and 3 is 0 in 8 of 27 samples, and 3 in one.
    assert table.interval(np.outer([0, 0, 3], np.ones(7))) == [1, 0, 3]


def test_differences_are_of_the_same_queries(table, measured):
    (results,) = [table.gather(measured.parent, "x", [measured.name])]
    mine = results["encoders"][measured.name]
    part = json.loads((measured / "x.3" / "a.json").read_text())
    by_key = {(row["way"], row["fit"], row["asked"], row["rerank"]): row for row in part["results"]}
    for row in mine["rows"]:
        key = tuple(row[name] for name in ("way", "fit", "asked", "rerank"))
        less = np.subtract(by_key[key]["map@20"], by_key["float32", None, "default", 0]["map@20"])
        assert row["map@20 to float32"][0] == pytest.approx(less.mean(), abs=1e-4)
        assert row["map@20 to float32"][1] <= row["map@20 to float32"][0] <= row["map@20 to float32"][2]
    assert table.of(mine["rows"], *table.FLOAT)["map@20 to float32"] == [0, 0, 0]
    best = table.best_unfitted(mine)
    rivals = [row for row in mine["rows"] if row["fit"] is None and row["rerank"] == 0 and row["bytes"] == DIM / 8]
    assert {row["way"] for row in rivals} == {"sign", "rotated", "rotated, short", "trivial"}
    assert best["map@20"][1] == max(row["map@20"][1] for row in rivals)


@needs_torch
def test_make_writes_the_page_and_its_chart(warm, tmp_path, write_raster):
    """On 40 chips of two classes with rcf; a second run makes nothing but the page."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    random = np.random.default_rng(0)
    for number in range(40):
        kind = ("field", "lake")[number % 2]
        pixels = random.integers(500, 900 + 1500 * (number % 2), (6, 16, 16)).astype(np.uint16)
        names = ("blue", "green", "red", "nir08", "swir16", "swir22")
        write_raster(tmp_path / "chips" / kind / f"{kind}_{number}.tif", pixels, names=names)
    out = tmp_path / "out"

    def make(*arguments):
        done = subprocess.run(
            ["make", "-C", CODES, "-j2", "table", f"OUT={out}", "LABELLED=mine", "SEEDS=0", "MODEL_rcf=--model rcf",
             f"TILES_mine=--whole --labels-from-parent --scale 1 {tmp_path / 'chips'}",
             f"RSR={' '.join(map(str, warm))}", *arguments],
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    make()
    page = (out / "codes.md").read_text()
    assert "Each of 40 tiles of mine" in page
    assert "| centred rotated | the other half | 96 |" in page
    with Image.open(out / "codes.png") as image:
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    assert "codes.py" not in make()
    assert (out / "codes.md").read_text() == page


def test_the_page_in_docs_is_what_the_results_say(table):
    results = json.loads((ROOT / "docs" / "codes.json").read_text())
    text = (ROOT / "docs" / "codes.md").read_text()
    assert table.page(text, results) == text
    assert (ROOT / "docs" / "codes.png").exists()
