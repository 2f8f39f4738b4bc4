"""Rotated signs against products with whole matrices, and against what a rotation is for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from support import bits_of, codes_of

from rsr_cli.core.codes.rotated import ROUNDS, Rotated
from rsr_cli.core.errors import UsageError
from rsr_cli.core.records.space import Space


def rotated(dim, bits=None, seed=None) -> Rotated:
    return Rotated(Space("embedding", dim, "float32", "emb"), bits, seed)


def matrix(dim, seed) -> list[list[int]]:
    """The rotation, times the root of its dimension to the power of the rounds, in whole numbers."""
    padded = 1 << (dim - 1).bit_length()
    drawn = np.random.RandomState(seed).bytes(ROUNDS * padded // 8 + 1)
    signs = [1 - 2 * (drawn[i // 8] >> (7 - i % 8) & 1) for i in range(ROUNDS * padded)]
    product = np.eye(padded, dtype=object)
    hadamard = scipy.linalg.hadamard(padded, dtype=int).astype(object)
    for first in range(0, len(signs), padded):
        product = hadamard.dot(np.array(signs[first : first + padded], object)[:, None] * product)
    return product[:, :dim].tolist()


@pytest.mark.parametrize(("dim", "bits"), [(1, None), (2, None), (3, None), (3, 4), (13, 5), (24, 32), (64, None)])
@pytest.mark.parametrize("seed", [0, 7])
def test_bits_are_signs_of_the_product_with_the_matrix(dim, bits, seed):
    """In whole numbers, whose sums are exact."""
    embeddings = np.random.default_rng(dim).integers(-9, 10, (300, dim)).astype(np.float32)
    rows = matrix(dim, seed)[: bits or dim]
    for record, vector in zip(codes_of(embeddings, "rotated", bits, seed), embeddings.tolist(), strict=True):
        assert bits_of(record) == [int(sum(a * int(b) for a, b in zip(row, vector, strict=True)) > 0) for row in rows]


def test_values_are_a_rotation_of_the_embedding(embeddings):
    embeddings, dim = embeddings[embeddings.any(axis=1)], embeddings.shape[1]
    values = rotated(dim, 1 << (dim - 1).bit_length()).values(embeddings).astype(float)
    scale = np.linalg.norm(values, axis=1) / np.linalg.norm(embeddings.astype(float), axis=1)
    cosines = (values @ values.T) / np.outer(*2 * [np.linalg.norm(values, axis=1)])
    vectors = embeddings.astype(float) / np.linalg.norm(embeddings.astype(float), axis=1, keepdims=True)
    assert np.allclose(cosines, vectors @ vectors.T, atol=1e-5)
    assert np.allclose(np.log2(scale), np.round(np.log2(scale) * 2) / 2, atol=1e-5)  # powers of the root of 2


@pytest.mark.parametrize("factor", [2.0**-140, 2.0**-3, 2.0**120])
def test_the_length_of_an_embedding_changes_no_bit(factor):
    embeddings = np.random.default_rng(0).integers(-99, 100, (50, 48)).astype(np.float32)
    scaled = (embeddings.astype(float) * factor).astype(np.float32)
    assert np.array_equal(rotated(48)(scaled), rotated(48)(embeddings))


def test_the_largest_numbers_do_not_overflow():
    embeddings = np.full((2, 1024), np.finfo(np.float32).max, np.float32)
    embeddings[1] *= -1
    codes = np.unpackbits(rotated(1024)(embeddings), axis=1)
    assert np.array_equal(codes[0], 1 - codes[1])
    assert np.isfinite(rotated(1024).values(embeddings)).all()


def test_no_length_gives_no_bit():
    assert not rotated(40)(np.zeros((3, 40), np.float32)).any()


def test_rows_are_independent(embeddings):
    """Also of those that are computed at once."""
    many = np.tile(embeddings, (600 // len(embeddings) + 1, 1))
    assert np.array_equal(rotated(many.shape[1])(many)[-len(embeddings) :], rotated(many.shape[1])(embeddings))


def test_more_bits_than_the_padded_dimension_are_refused():
    assert rotated(24, 32).space.size == 32
    with pytest.raises(UsageError, match="rotated makes 32 bits at most of 24 dimensions, not 33"):
        rotated(24, 33)


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_of_features_that_are_never_negative_are_kept(seed):
    """Signs of what a network's last ReLU returns know only where it is 0."""
    drawn = np.random.default_rng(seed)
    centres = np.maximum(drawn.standard_normal((40, 256)), 0)
    noise = 0.5 * drawn.standard_normal((1000, 256))
    features = np.maximum(np.repeat(centres, 25, axis=0) + noise, 0).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    nearest = np.argsort(-(unit @ unit.T), axis=1)[:, 1:21].tolist()

    def recall(bits) -> float:
        signed = bits.astype(np.float32) * 2 - 1
        found = np.argsort(-(signed @ signed.T), axis=1, kind="stable")[:, 1:21].tolist()
        return sum(len({*a} & {*b}) for a, b in zip(nearest, found, strict=True)) / 20_000

    assert recall(rotated(256, seed=seed).signs(features)) > recall(features > 0) + 0.15
