"""Product quantization against faiss's, and against distances in a few lines of numpy."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from support import learned

from rsr_cli.core.codes.pq import PQ
from rsr_cli.core.errors import FingerprintError, RsrError, UsageError
from rsr_cli.core.fitted.state import Fitted
from rsr_cli.core.records.space import Space


def of_unit_length(values):
    norms = np.linalg.norm(values.astype(float), axis=1, keepdims=True)
    return values.astype(float) / np.where(norms, norms, 1)


def drawn(count, dim, kind):
    random = np.random.default_rng(dim)
    values = random.standard_normal((count, dim)) + 1
    if kind == "constant":
        values[:, dim // 2 :] = 3
    if kind == "alike":
        values[:] = values[0]
    if kind == "zeros":
        values[::2] = 0
    return values.astype(np.float32)


KINDS = ["random", "constant", "alike", "zeros"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "parts"), [(24, 8), (24, 24), (10, 1), (112, 14)])
def test_codes_are_those_of_faiss(dim, parts, kind):
    values = drawn(400, dim, kind)
    made = PQ(Space("embedding", dim, "float32", "emb"), None, None, learned("pq", values, 8 * parts))
    oracle = faiss.ProductQuantizer(dim, parts, 8)
    faiss.copy_array_to_vector(made.fitted.arrays["centroids"].ravel(), oracle.centroids)
    narrow = of_unit_length(values).astype(np.float32)
    codes, theirs = made(values), oracle.compute_codes(narrow)
    assert codes.shape == (400, parts)
    # Where two centroids are as near in float32, either is right.
    ours, others = (np.square(narrow - oracle.decode(each)).sum(axis=1) for each in (codes, theirs))
    assert np.allclose(ours, others, atol=1e-6)
    assert kind != "random" or (codes == theirs).mean() > 0.99
    assert np.allclose(made.decoded(codes), oracle.decode(codes), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_distance_is_half_the_squared_one_to_what_the_centroids_make(kind):
    values = drawn(300, 24, kind)
    made = PQ(Space("embedding", 24, "float32", "emb"), None, None, learned("pq", values, 64))
    codes, queries = made(values), made.values(values[:20] * 7)
    assert np.allclose(queries, of_unit_length(values[:20]))
    for query in queries:
        wanted = np.square(query - made.decoded(codes)).sum(axis=1) / 2
        assert np.allclose(made.measure(query, codes), wanted, atol=1e-12)
        assert np.array_equal(made.measure(query, codes)[5:9], made.measure(query, codes[5:9]))


def test_few_embeddings_have_their_own_centroids_and_cosine_distances():
    values = drawn(256, 6, "random")
    made = PQ(Space("embedding", 6, "float32", "emb"), None, None, learned("pq", values, 8))
    unit = of_unit_length(values)
    found = np.array([made.measure(query, made(values)) for query in made.values(values)])
    assert np.allclose(found, 1 - unit @ unit.T, atol=1e-5)


def test_what_was_learned_must_fit():
    values, space = drawn(300, 24, "random"), Space("embedding", 24, "float32", "emb")
    fitted = learned("pq", values, 64)
    assert PQ(space, 64, None, fitted).space.size == 64
    assert PQ(space, None, None, fitted).space.facts["fit"] == fitted.digest[:16]
    with pytest.raises(UsageError, match="needs what was learned"):
        PQ(space)
    with pytest.raises(UsageError, match="makes 64 bits as it was fitted, not 32"):
        PQ(space, 32, None, fitted)
    with pytest.raises(UsageError, match="takes no seed"):
        PQ(space, None, 3, fitted)
    with pytest.raises(FingerprintError, match="another vector space"):
        PQ(Space("embedding", 24, "float32", "other"), None, None, fitted)
    for shape in ((0,), (8, 256, 2), (8, 9, 3)):
        other = Fitted.make("pq", space, {"centroids": np.zeros(shape, np.float32)}, {})
        with pytest.raises(RsrError, match="no centroids of 24 dimensions"):
            PQ(space, None, None, other)


def test_a_sample_that_is_too_small_or_parts_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="256 centroids, and the sample has 255"):
        learned("pq", drawn(255, 24, "random"), 64)
    for bits in (40, 12, 8 * 48):
        with pytest.raises(UsageError, match="bytes that divides the 24 dimensions"):
            learned("pq", drawn(300, 24, "random"), bits)


def test_another_seed_learns_other_centroids():
    values = drawn(600, 24, "random")
    first, again, other = (learned("pq", values, 64, seed) for seed in (1, 1, 2))
    assert first.data == again.data
    assert first.digest != other.digest
