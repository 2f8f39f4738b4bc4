"""The trivial hash against the paper's formula, written out again bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from support import bits_of, codes_of


@pytest.mark.parametrize("bits", [1, 32, 96, 256, 768])
def test_trivial_averages_every_lth_dimension(embeddings, bits):
    for record, vector in zip(codes_of(embeddings, "trivial", bits), embeddings, strict=True):
        expected = [int(np.float32(vector[j::bits]).mean(dtype=np.float64) > 0) for j in range(bits)]
        found = bits_of(record)
        # A mean within float32's rounding of 0 may fall on either side in float64.
        sure = [abs(vector[j::bits].astype(float).sum()) > 1e-4 or not vector[j::bits].any() for j in range(bits)]
        assert [f for f, s in zip(found, sure, strict=True) if s] == [
            e for e, s in zip(expected, sure, strict=True) if s
        ]


def test_trivial_is_bit_for_bit_the_papers(embeddings):
    bits = 32
    paper = embeddings.reshape(len(embeddings), 768 // bits, bits).mean(axis=1) > 0
    assert [bits_of(record) for record in codes_of(embeddings, "trivial", bits)] == paper.astype(int).tolist()


def test_trivial_of_all_dimensions_is_sign(embeddings):
    as_trivial = [bits_of(record) for record in codes_of(embeddings, "trivial", 768)]
    assert as_trivial == [bits_of(record) for record in codes_of(embeddings, "sign")]
