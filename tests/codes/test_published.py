"""Every code and transform on published embeddings, which are no random numbers: 417 tiles of Clay, 768 dimensions."""

from __future__ import annotations

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.linalg
from sklearn.decomposition import PCA
from support import learned

from rsr_cli.core.codes.rabitq import PLANES
from rsr_cli.core.codes.registry import METHODS, binarizer_class
from rsr_cli.core.fitted.registry import FIT_METHODS
from rsr_cli.core.fitted.transform import Transform
from rsr_cli.core.records.space import Space

DIM = 768


@pytest.fixture(scope="module")
def vectors(shared_data) -> np.ndarray:
    table = pq.read_table(shared_data / "embeddings" / "clay_v0_03WVN_20220610.gpq", columns=["embeddings"])
    return np.stack(table["embeddings"].to_numpy()).astype(np.float32)


@pytest.fixture(scope="module")
def unit(vectors) -> np.ndarray:
    return vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)


def hadamard_turns(size: int, drawn: np.ndarray) -> np.ndarray:
    """Return the product of rounds of signs and Hadamard matrices, orthogonal (size, size)."""
    turned = np.eye(size)
    for signs in drawn.reshape(-1, size):
        turned = scipy.linalg.hadamard(size) / size**0.5 @ np.diag(signs) @ turned
    return turned


def rotated(vectors):
    drawn = 1 - 2.0 * np.unpackbits(np.frombuffer(np.random.RandomState(0).bytes(3 * 1024 // 8), np.uint8))
    return (np.pad(vectors.astype(float), ((0, 0), (0, 256))) @ hadamard_turns(1024, drawn).T)[:, :DIM]


#: Method -> the number of bits, and the numbers whose signs they are.
FORMULAS = {
    "sign": (None, lambda vectors: vectors.astype(float)),
    "rotated": (None, rotated),
    "trivial": (32, lambda vectors: vectors.astype(float).reshape(-1, DIM // 32, 32).sum(axis=1)),
    "lsh": (64, lambda vectors: vectors.astype(float) @ np.random.RandomState(42).randn(64, DIM).T),
}


def test_every_code_is_here():
    assert {*FORMULAS, "pq", "rabitq"} == {*METHODS}


@pytest.mark.parametrize("method", FORMULAS)
def test_bits_are_signs_of_the_formula(vectors, method):
    bits, formula = FORMULAS[method]
    codes = binarizer_class(method)(Space("embedding", DIM, "float32", "emb"), bits)(vectors)
    values = formula(vectors)
    sure = np.abs(values) > 1e-5 * np.abs(values).max()
    assert sure.mean() > 0.99
    assert np.array_equal(np.unpackbits(codes, axis=1, count=values.shape[1])[sure], (values > 0)[sure])


def test_product_quantization_is_that_of_faiss(vectors, unit):
    made = binarizer_class("pq")(Space("embedding", DIM, "float32", "emb"), None, None, learned("pq", vectors, 8 * 96))
    oracle = faiss.ProductQuantizer(DIM, 96, 8)
    faiss.copy_array_to_vector(made.fitted.arrays["centroids"].ravel(), oracle.centroids)
    codes, theirs = made(vectors), oracle.compute_codes(unit.astype(np.float32))
    assert (codes == theirs).mean() > 0.99
    distances = np.square(unit[5] - oracle.decode(codes)).sum(axis=1) / 2
    assert np.allclose(made.measure(made.values(vectors[5:6])[0], codes), distances, atol=1e-6)


def test_rabitq_estimates_the_cosine_distance(vectors, unit):
    """By its formula, of a query whose numbers are rounded to the nearest of some that are as far from each other."""
    fitted = learned("rabitq", vectors)
    made = binarizer_class("rabitq")(Space("embedding", DIM, "float32", "emb"), None, None, fitted)
    codes, values = made(vectors), made.values(vectors)
    residuals = unit - unit.mean(axis=0)
    assert np.allclose(np.linalg.norm(values[:, :-1], axis=1), np.linalg.norm(residuals, axis=1), atol=1e-5)
    assert np.allclose(values[:, :-1] @ values[:, :-1].T, residuals @ residuals.T, atol=1e-5)
    squares = np.square(values[:, :-1]).sum(axis=1)
    scales = squares / np.abs(values[:, :-1]).sum(axis=1)
    signs = np.where(values[:, :-1] > 0, 1, -1)
    levels = (1 << PLANES) - 1
    for query in values[::60]:
        odd = np.arange(-levels, levels + 1, 2) * np.abs(query[:-1]).max() / levels
        nearest = odd[np.abs(query[:-1, None] - odd).argmin(axis=1)]
        wanted = (query[-1] + squares) / 2 - scales * (signs @ nearest)
        assert np.allclose(made.measure(query, codes), wanted, atol=1e-5)


@pytest.mark.parametrize("method", [name for name, method in FIT_METHODS.items() if not method.is_code])
def test_transforms_are_those_of_scikit_learn_and_numpy(vectors, unit, method):
    transform = Transform(learned(method, vectors, 32))
    found = transform(vectors).astype(float)
    if method in ("mean", "median"):
        assert np.allclose(found, unit - getattr(np, method)(unit, axis=0), atol=1e-6)
        return
    oracle = PCA(32, whiten=method == "whiten", svd_solver="full").fit(unit)
    wanted = oracle.transform(unit)
    if method == "itq":  # turned among the components, which changes no distance
        assert np.allclose(found @ found.T, wanted @ wanted.T, atol=1e-5)
        return
    found *= np.sign((found * wanted).sum(axis=0))
    assert np.allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())
