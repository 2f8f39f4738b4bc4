"""The table of codes."""

from __future__ import annotations

import numpy as np
import pytest
from support import batches, binarized, embedding_records, make_index

from rsr_cli.core.codes.base import Binarizer
from rsr_cli.core.codes.registry import METHODS, binarizer_class
from rsr_cli.core.errors import UsageError
from rsr_cli.core.records.space import KINDS


@pytest.mark.parametrize("method", METHODS)
def test_the_class_of_a_method_states_the_name_of_its_entry(method):
    found = binarizer_class(method)
    assert issubclass(found, Binarizer)
    assert found.method == method


@pytest.mark.parametrize("method", METHODS)
def test_embeddings_are_asked_of_an_index_as_its_codes_were_made(tmp_path, method):
    """Whatever length a method chooses is a length that it takes."""
    vectors = np.random.default_rng(0).standard_normal((30, 24)).astype(np.float32)
    bits = 8 if METHODS[method].needs_bits else None
    with make_index(tmp_path / "x.rsr", binarized(embedding_records(vectors), method, bits)) as index:
        (batch,) = batches(embedding_records(vectors), KINDS)
        binarizer = index.binarizer_for(batch.space)
        found = index.search(binarizer(batch.vectors), 1)
    assert [distances[0] for distances, _ in found] == [0] * 30


def test_an_unknown_method_is_refused_with_those_that_are_known():
    with pytest.raises(UsageError) as caught:
        binarizer_class("pca")
    assert str(caught.value) == f"unknown method 'pca'; one of {', '.join(METHODS)}"
