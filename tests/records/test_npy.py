"""Embeddings as numpy arrays."""

from __future__ import annotations

import os

import numpy as np
import orjson
import pytest
from scipy.spatial.distance import cdist

from rsr_cli.core.errors import Skips
from rsr_cli.core.records import streams
from rsr_cli.core.records.tables import TableSettings

RNG = np.random.default_rng(8)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", "i1"])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_an_array_is_read_as_it_is(tmp_path, dtype, layout):
    vectors = (RNG.standard_normal((20_000, 7)) * 20).astype(dtype)
    np.save(tmp_path / "v.npy", layout(vectors))
    found = list(streams.read([str(tmp_path / "v.npy")], Skips(), ("embedding",), settings=TableSettings("s")))
    assert len(found) > 1
    assert np.array_equal(np.concatenate([batch.vectors for batch in found]), vectors.astype(np.float32))
    assert found[-1].records[-1] == {"type": "Feature", "id": "v_20000", "geometry": None, "properties": {}}


def test_an_array_is_searched(rsr, tmp_path):
    vectors = RNG.standard_normal((100, 16)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    done = rsr("index", "v.npy", "--space", "mine", "-o", "x.rsr", cwd=tmp_path)
    says = "v.npy: no column of ids; ids are made of the file's name and the row's number"
    assert (done.returncode, done.stderr.decode()) == (0, f"rsr index: {says}\n")
    done = rsr("query", "x.rsr", "--id", "v_5", "-k", "9", cwd=tmp_path)
    nearest = np.argsort(cdist(vectors[4:5], vectors, "cosine")[0])[:9] + 1
    assert [orjson.loads(line)["id"] for line in done.stdout.splitlines()] == [f"v_{i}" for i in nearest]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 4, 4)), "is an array of shape (3, 4, 4), and not one of vectors (n, dim); cut rasters into"),
        (
            np.zeros(5),
            "is an array of shape (5,), and not one of vectors (n, dim); write it again with a row per vector",
        ),
        (np.zeros((5, 0)), "is an array of shape (5, 0), and not one of vectors (n, dim)"),
        (np.zeros((5, 2), np.int64), "is an array of int64; vectors are of float16, float32, float64, int8"),
        (np.zeros((5, 2), np.complex64), "is an array of complex64; vectors are of"),
        (np.zeros((5, 2), "f4,f4"), "is an array of "),
        (np.array([["a", None]], object), "cannot be read as a numpy array: "),
        (np.array([[1, np.nan]]), "x.npy:1: its embedding holds NaN or infinite values"),
    ],
)
def test_what_is_odd_is_one_line(rsr, tmp_path, array, says):
    np.save(tmp_path / "x.npy", array)
    done = rsr("index", "x.npy", "--space", "s", "-o", "x.rsr", cwd=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr.decode().splitlines()[-1]


def test_an_array_that_is_none_or_empty(rsr, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((0, 4)))
    assert rsr("binarize", "x.npy", "--space", "s", cwd=tmp_path).stderr.endswith(b"x.npy: is empty\n")
    np.save(tmp_path / "x.npy", np.zeros((50, 4)))
    os.truncate(tmp_path / "x.npy", 500)
    for name in ("x.npy", "none.npy", "pipe.npy"):
        if name == "pipe.npy":
            os.mkfifo(tmp_path / name)
        done = rsr("binarize", name, "--space", "s", cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_the_space_has_to_be_named(rsr, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 2)))
    done = rsr("binarize", "x.npy", cwd=tmp_path)
    assert done.returncode == 1
    assert b"x.npy: does not state the vector space of its embeddings; pass --space NAME" in done.stderr
