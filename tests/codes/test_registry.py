"""The table of codes."""

from __future__ import annotations

import pytest

from rsr_cli.core.codes.base import Binarizer
from rsr_cli.core.codes.registry import METHODS, binarizer_class
from rsr_cli.core.errors import UsageError


@pytest.mark.parametrize("method", METHODS)
def test_the_class_of_a_method_states_the_name_of_its_entry(method):
    found = binarizer_class(method)
    assert issubclass(found, Binarizer)
    assert found.method == method


def test_an_unknown_method_is_refused_with_those_that_are_known():
    with pytest.raises(UsageError) as caught:
        binarizer_class("pca")
    assert str(caught.value) == "unknown method 'pca'; one of sign, trivial, lsh"
