"""The registry of codes: a code is one file and one entry here. It imports nothing heavy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    from rsr_cli.core.codes.base import Binarizer

#: Method -> the module and class of its binarizer, and its line in the help.
METHODS = {
    "sign": ("sign:Sign", "one bit per dimension, x > 0"),
    "trivial": ("trivial:Trivial", "signs of means over dimensions"),
    "lsh": ("lsh:LSH", "sides of random planes"),
}


def binarizer_class(method: str) -> type[Binarizer]:
    """Import the class of a method.

    Raises
    ------
    UsageError
        There is no such method.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}; one of {', '.join(METHODS)}")
    module, _, name = METHODS[method][0].partition(":")
    found: type[Binarizer] = getattr(importlib.import_module(f"rsr_cli.core.codes.{module}"), name)
    return found
