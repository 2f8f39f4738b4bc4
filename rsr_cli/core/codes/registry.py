"""The registry of codes: a code is one file and one entry here. It imports nothing heavy."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    from rsr_cli.core.codes.base import Binarizer


@dataclass(frozen=True)
class Method:
    """A way to turn embeddings into codes.

    Attributes
    ----------
    binarizer : str
        The class that implements it, as ``module:Class`` in `rsr_cli.core.codes`.
    summary : str
        Its line in the help.
    needs_bits : bool
        Whether the number of bits has no default.
    default_seed : int or None
        The seed if none is given; ``None`` for a method that draws no random numbers.
    asymmetric : bool
        Whether embeddings ask its codes by their values (`Binarizer.values`), and not by the signs of these alone.
    """

    binarizer: str
    summary: str
    needs_bits: bool = True
    default_seed: int | None = None
    asymmetric: bool = False

    def seed(self, given: int | None) -> int | None:
        """Return the seed that is used if one is given or not."""
        return self.default_seed if given is None else given


#: Name -> method, the default first.
METHODS = {
    "sign": Method("sign:Sign", "one bit per dimension, x > 0", needs_bits=False),
    "rotated": Method(
        "rotated:Rotated", "signs after a random rotation", needs_bits=False, default_seed=0, asymmetric=True
    ),
    "trivial": Method("trivial:Trivial", "signs of means over dimensions"),
    "lsh": Method("lsh:LSH", "sides of random planes", default_seed=42),  # the first of the paper's five seeds
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
    module, _, name = METHODS[method].binarizer.partition(":")
    found: type[Binarizer] = getattr(importlib.import_module(f"rsr_cli.core.codes.{module}"), name)
    return found
