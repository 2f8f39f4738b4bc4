"""RaBitQ against the formulas in whole matrices, and against what it is to estimate."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import scipy.linalg
from support import learned

from rsr_cli.core.codes.rabitq import PLANES, ROUNDS, RaBitQ
from rsr_cli.core.errors import RsrError, UsageError
from rsr_cli.core.fitted.state import Fitted
from rsr_cli.core.records.space import Space


def of_unit_length(values):
    norms = np.linalg.norm(values.astype(float), axis=1, keepdims=True)
    return values.astype(float) / np.where(norms, norms, 1)


def drawn(count, dim):
    random = np.random.default_rng(dim)
    return (random.standard_normal((count, dim)) * np.linspace(0.2, 2, dim) + 1).astype(np.float32)


def made_of(values, seed=0):
    fitted = learned("rabitq", values, seed=seed)
    return RaBitQ(Space("embedding", values.shape[1], "float32", "emb"), None, None, fitted)


def rotation(dim, seed):
    """The rotation as one matrix."""
    size = 1 << (dim.bit_length() - 1)
    drawn = np.random.RandomState(seed).bytes(ROUNDS * dim // 8 + 1)
    signs = [1 - 2 * (drawn[i // 8] >> (7 - i % 8) & 1) for i in range(ROUNDS * dim)]
    product = np.eye(dim)
    for number in range(ROUNDS):
        step = np.eye(dim)
        start = dim - size if number % 2 else 0
        step[start : start + size, start : start + size] = scipy.linalg.hadamard(size) / size**0.5
        product = step @ np.diag(signs[number * dim : (number + 1) * dim]) @ product
    return product


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 12, 24, 33, 64])
@pytest.mark.parametrize("seed", [0, 5])
def test_values_are_the_rotated_residual_and_its_squared_length(dim, seed):
    values = drawn(50, dim)
    made, matrix = made_of(values, seed), rotation(dim, seed)
    assert np.allclose(matrix @ matrix.T, np.eye(dim))
    residuals = of_unit_length(values) - of_unit_length(values).mean(axis=0)
    found = made.values(values)
    assert np.allclose(found[:, :-1], residuals @ matrix.T, atol=1e-5)
    assert np.allclose(found[:, -1], np.square(residuals).sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("dim", [8, 13, 24, 64])
def test_a_code_is_signs_and_the_two_numbers(dim):
    values = drawn(80, dim)
    made = made_of(values)
    codes, rotated = made(values), made.values(values)[:, :-1]
    width = -(-dim // 8)
    assert codes.shape == (80, width + 8)
    assert made.bits == 8 * (width + 8)
    assert np.array_equal(np.unpackbits(codes[:, :width], axis=1, count=dim), rotated > 0)
    squares, scales = np.frombuffer(codes[:, width:].tobytes(), "<f4").reshape(-1, 2).T
    assert np.allclose(squares, np.square(rotated).sum(axis=1), rtol=1e-6)
    assert np.allclose(scales * np.abs(rotated).sum(axis=1), squares, rtol=1e-6)


@pytest.mark.parametrize("dim", [8, 13, 24, 300])
def test_distances_are_those_of_the_formula(dim):
    values = drawn(120, dim)
    made = made_of(values)
    codes, rotated = made(values), made.values(values)
    signs = np.where(rotated[:, :-1] > 0, 1.0, -1.0)
    squares, scales = (rotated[:, -1], rotated[:, -1] / np.abs(rotated[:, :-1]).sum(axis=1))
    for query in rotated[:20]:
        levels = (1 << PLANES) - 1
        step = np.abs(query[:-1]).max() / levels
        odd = np.arange(-levels, levels + 1, 2) * step  # each number is rounded to the nearest of these
        nearest = odd[np.abs(query[:-1, None] - odd).argmin(axis=1)]
        wanted = (query[-1] + squares) / 2 - scales * (signs @ nearest)
        assert np.allclose(made.measure(query, codes), wanted, atol=1e-6)
        assert np.array_equal(made.measure(query, codes)[5:9], made.measure(query, codes[5:9]))


def test_it_estimates_the_cosine_distance_without_a_bias():
    values = drawn(2000, 256)
    unit = of_unit_length(values)
    exact = 1 - unit[:100] @ unit.T
    errors = []
    for seed in range(3):
        made = made_of(values, seed)
        codes = made(values)
        found = np.array([made.measure(query, codes) for query in made.values(values[:100])])
        errors.append(found - exact)
    spread = np.std(errors)
    assert abs(np.mean(errors)) < spread / 20
    oracle = faiss.IndexRaBitQ(256, faiss.METRIC_L2)  # which is to err as much, on vectors that are rotated before
    turn = faiss.RandomRotationMatrix(256, 256)
    turn.init(1)
    narrow = turn.apply(unit.astype(np.float32))
    oracle.train(narrow)
    oracle.add(narrow)
    theirs, at = oracle.search(narrow[:100], 2000)
    aligned = np.empty_like(exact)
    np.put_along_axis(aligned, at, theirs.astype(float), axis=1)
    assert spread < 1.1 * np.std(aligned / 2 - exact)


@pytest.mark.parametrize("dim", [1, 8, 13])
def test_degenerate_embeddings_have_distances_too(dim):
    values = drawn(30, dim)
    values[:4] = 0
    values[4:9] = values[4]
    for sample in (values, values[:1], values[:4]):
        made = made_of(sample)
        codes = made(values)
        found = np.array([made.measure(query, codes) for query in made.values(values)])
        assert np.isfinite(found).all()
        assert np.allclose(found[5], found[4])
        own = [made.measure(query, code[None])[0] for query, code in zip(made.decoded(codes), codes, strict=True)]
        assert np.allclose(own, 0, atol=1e-6)


def test_what_was_learned_must_fit():
    values, space = drawn(20, 24), Space("embedding", 24, "float32", "emb")
    fitted = learned("rabitq", values)
    with pytest.raises(UsageError, match="needs what was learned"):
        RaBitQ(space)
    with pytest.raises(UsageError, match="makes 88 bits as it was fitted, not 24"):
        RaBitQ(space, 24, None, fitted)
    for arrays in ({}, {"centre": np.zeros(23, np.float32)}):
        with pytest.raises(RsrError, match="no centre of 24 dimensions"):
            RaBitQ(space, None, None, Fitted.make("rabitq", space, arrays, {}))
    assert RaBitQ(space, None, None, fitted).space != RaBitQ(space, None, None, learned("rabitq", values, seed=1)).space
