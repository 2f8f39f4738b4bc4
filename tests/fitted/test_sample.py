"""Samples of a stream: fair, seeded, and the same however the stream is cut into batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from rsr_cli.core.errors import RsrError
from rsr_cli.core.fitted.sample import Reservoir
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.space import Space

SPACE = Space("embedding", 2, "float32", "emb")


def batches(values, cuts):
    start = 0
    for end in [*sorted(cuts), len(values)]:
        some = values[start:end]
        yield Batch("here", range(len(some)), [{} for _ in some], some, SPACE)
        start = end


def numbered(count):
    return np.stack([np.arange(count), np.full(count, 7)], axis=1).astype(np.float32)


def drawn(count, size, seed=0, cuts=()):
    reservoir = Reservoir(size, seed)
    counts = list(reservoir.fill(batches(numbered(count), cuts)))
    assert reservoir.seen == sum(counts) == count
    found = reservoir.drawn()
    assert reservoir.space is SPACE
    assert found.dtype == np.float32
    assert (found[:, 1] == 7).all()
    return found[:, 0].astype(int).tolist()


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 5), st.lists(st.integers(0, 60), max_size=8), st.data())
def test_a_sample_does_not_depend_on_batches(count, size, seed, cuts, data):
    found = drawn(count, size, seed, [min(cut, count) for cut in cuts])
    assert found == drawn(count, size, seed)
    assert found == sorted(set(found))
    assert len(found) == min(count, size)
    assert set(found) <= set(range(count))
    more = data.draw(st.integers(0, 20))  # what comes later takes places, and moves nothing else
    assert set(drawn(count + more, size, seed)) & set(range(count)) <= set(found)


def test_every_row_is_drawn_as_often():
    counts = np.zeros(30)
    for seed in range(2000):
        counts[drawn(30, 6, seed, cuts=[7, 19])] += 1
    assert chisquare(counts).pvalue > 0.001


def test_a_stream_without_embeddings_has_no_sample():
    with pytest.raises(RsrError, match="no embeddings to learn from"):
        Reservoir(3, 0).drawn()
