"""The table of codes."""

from __future__ import annotations

import numpy as np
import pytest
from support import batches, binarized, embedding_records, learned, make_index

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
    vectors = np.random.default_rng(0).standard_normal((300, 24)).astype(np.float32)
    bits = 8 if METHODS[method].needs_bits else None
    fitted = learned(method, vectors, 64) if METHODS[method].is_fitted else None
    records = binarized(embedding_records(vectors), method, bits, fitted=fitted)
    with make_index(tmp_path / "x.rsr", records, fitted=[fitted] if fitted else []) as index:
        (batch,) = batches(embedding_records(vectors), KINDS)
        binarizer = index.binarizer_for(batch.space)
        codes = binarizer(batch.vectors)
        found = index.search(index.code.decoded(codes) if index.code else codes, 1)
    assert np.allclose([distances[0] for distances, _ in found], 0, atol=1e-7)


def test_an_unknown_method_is_refused_with_those_that_are_known():
    with pytest.raises(UsageError) as caught:
        binarizer_class("pca")
    assert str(caught.value) == f"unknown method 'pca'; one of {', '.join(METHODS)}"
