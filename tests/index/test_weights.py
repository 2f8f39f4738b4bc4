"""Weights of bits against brute force, and what is lost by rounding them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import weighted_distances

from rsr_cli.core.index.weights import WeightedBits, by_weights
from rsr_cli.core.records.space import Space

#: Values of very different sizes, equal ones, and zeros.
values = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.5, -2.5]),
    st.floats(-100, 100, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@st.composite
def cases(draw):
    """Draw the values of some queries, the bits of some rows, and a number of hits."""
    bits, n, m = draw(st.integers(1, 300)), draw(st.integers(1, 3)), draw(st.integers(1, 40))
    queries = draw(arrays(np.float32, (n, bits), elements=values, fill=st.sampled_from([0.0, 3.0])))
    rows = np.random.default_rng(draw(st.integers(0, 99))).random((m, bits)) < draw(st.sampled_from([0, 0.1, 0.5, 1]))
    rows[: m // 2] = queries[0] > 0  # ties
    return queries, rows, draw(st.integers(1, m))


@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_codes_are_measured_and_found_as_by_brute_force(case):
    queries, rows, k = case
    weighted, codes = WeightedBits(queries), np.packbits(rows, axis=1)
    expected = np.array([weighted_distances(query, rows) for query in queries])
    assert np.array_equal(weighted.measure(codes), expected)
    for own, (distances, numbers, beyond) in zip(expected, weighted.nearest(codes, k), strict=True):
        assert distances.tolist() == np.sort(own)[:k].tolist() == own[numbers].tolist()
        assert len(set(numbers.tolist())) == k
        assert beyond == distances[-1]
    assert np.array_equal(weighted[[0]].measure(codes), expected[:1])


@pytest.mark.parametrize("bits", [1, 3, 8, 100, 768, 1030, 8192, 8193, 20_000])
@pytest.mark.parametrize("kind", ["equal", "zeros", "normal", "one", "two sizes"])
def test_sums_of_weights_fit_into_bytes_and_16_bits(bits, kind):
    drawn = np.random.default_rng(bits).standard_normal(bits)
    sizes = {
        "equal": np.full(bits, -3.0),
        "zeros": np.zeros(bits),
        "normal": drawn,
        "one": np.arange(bits) == bits // 2,
    }
    sizes["two sizes"] = np.where(np.arange(bits) % 3, 1e-30, 1e30)
    weights = np.abs(WeightedBits(sizes[kind][None].astype(np.float64)).signed[0])
    assert np.array_equal(weights, np.rint(weights))
    assert weights.reshape(-1, 4).sum(axis=1).max() <= 255
    assert 0 < weights.sum() <= 65280 or bits > 8192
    if kind in ("equal", "zeros"):
        assert len(set(weights[:bits])) == 1


@pytest.mark.parametrize("bits", [5, 768, 1280])
def test_distances_are_exact_up_to_half_a_weight_per_bit(bits):
    """The unrounded distance is the sum of the values of the bits that differ, over their mean."""
    rng = np.random.default_rng(bits)
    query, rows = rng.standard_normal(bits), rng.random((500, bits)) < 0.5
    sizes = np.abs(query)
    exact = ((rows != (query > 0)) * sizes).sum(axis=1) / sizes.mean()
    step = np.pad(sizes, (0, -bits % 4)).reshape(-1, 4).sum(axis=1).max() / 253 / sizes.mean()
    found = WeightedBits(query[None]).measure(np.packbits(rows, axis=1))[0]
    # half a step of each bit that differs, and of all bits in their mean
    assert (np.abs(found - exact) <= step / 2 * ((rows != (query > 0)).sum(axis=1) + exact) * 1.01).all()


def test_values_of_one_size_are_hamming_distance():
    rng = np.random.default_rng(0)
    for bits in (1, 7, 97, 768):
        rows, signs = rng.random((50, bits)) < 0.5, rng.choice([-0.3, 0.3], (1, bits))
        assert np.array_equal(WeightedBits(signs).measure(np.packbits(rows, axis=1))[0], (rows != (signs > 0)).sum(1))


def test_a_query_is_the_same_in_any_batch():
    queries = np.random.default_rng(1).standard_normal((9, 301)).astype(np.float32)
    together = WeightedBits(queries).signed
    assert all(np.array_equal(WeightedBits(queries[[i]]).signed[0], together[i]) for i in range(9))


def test_only_codes_whose_sums_fit_are_asked_by_weights():
    def space(method, bits, kind="code") -> Space:
        return Space(kind, bits, "uint8" if kind == "code" else "float32", "f", {"method": method, "of": "e"})

    assert by_weights(space("rotated", 8192))
    assert not by_weights(space("rotated", 8193))
    assert not by_weights(space("sign", 768))
    assert not by_weights(space("of another program", 768))
    assert not by_weights(space("rotated", 768, "embedding"))
    assert not by_weights(None)
