"""Locality-sensitive hashing against the paper's formula, written out again bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from support import bits_of, codes_of


@pytest.mark.parametrize("seed", [42, 84, 126, 168, 210])
def test_lsh_is_the_side_of_seeded_planes(embeddings, seed):
    planes = np.random.RandomState(seed).randn(32, 768)
    for record, vector in zip(codes_of(embeddings, "lsh", 32, seed), embeddings, strict=True):
        expected = [int(sum(float(a) * float(b) for a, b in zip(plane, vector, strict=True)) > 0) for plane in planes]
        assert bits_of(record) == expected


def test_lsh_takes_42_by_default_and_says_so(embeddings):
    by_default, named = codes_of(embeddings, "lsh", 64), codes_of(embeddings, "lsh", 64, 42)
    assert [r["properties"]["code"] for r in by_default] == [r["properties"]["code"] for r in named]
    assert by_default[0]["properties"]["code"]["seed"] == 42
