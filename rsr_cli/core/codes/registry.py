"""The registry of codes: a code is one file and one entry here. It imports nothing heavy."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from rsr_cli.core.errors import RsrError, UsageError
from rsr_cli.core.fitted.registry import FIT_METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rsr_cli.core.codes.base import Binarizer, FittedCode
    from rsr_cli.core.fitted.state import Fitted
    from rsr_cli.core.records.space import Space


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
        Whether embeddings ask its codes by their values (`Binarizer.values`), and not by the signs of these alone, also
        where they were not centred.
    is_fitted : bool
        Whether it needs what was learned from a sample.
    """

    binarizer: str
    summary: str
    needs_bits: bool = True
    default_seed: int | None = None
    asymmetric: bool = False
    is_fitted: bool = False

    def is_weighed(self, facts: Mapping[str, Any]) -> bool:
        """Return whether embeddings ask its codes by weights of bits, of a space that states some facts."""
        return not self.is_fitted and (self.asymmetric or facts.get("transform") is not None)

    def seed(self, given: int | None) -> int | None:
        """Return the seed that is used if one is given or not."""
        return self.default_seed if given is None else given


#: Name -> method.
METHODS = {
    "rotated": Method(
        "rotated:Rotated", "signs after a random rotation", needs_bits=False, default_seed=0, asymmetric=True
    ),
    "sign": Method("sign:Sign", "one bit per dimension, x > 0", needs_bits=False),
    "trivial": Method("trivial:Trivial", "signs of means over dimensions"),
    "lsh": Method("lsh:LSH", "sides of random planes", default_seed=42),  # the first of the paper's five seeds
    "pq": Method("pq:PQ", "product quantization", needs_bits=False, is_fitted=True),
    "rabitq": Method("rabitq:RaBitQ", "rotated signs and two numbers", needs_bits=False, is_fitted=True),
}


#: Of embeddings that were not transformed.
DEFAULT_METHOD = "rotated"


def default_method(facts: Mapping[str, Any]) -> str:
    """Return the method for embeddings of a space that states some facts, where none is asked for."""
    transform = facts.get("transform")
    known = FIT_METHODS.get(transform["method"]) if transform else None
    return known.code if known and not known.is_code else DEFAULT_METHOD


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


def fitted_code(space: Space, fitted: Fitted | None) -> FittedCode | None:
    """Return what compares codes of a space that have a distance of their own, ``None`` of other vectors.

    Raises
    ------
    UsageError, RsrError
        What was learned is missing, or is not what the codes were made with.
    """
    if space.kind != "code":
        return None
    method = METHODS.get(str(space.facts.get("method")))
    if (method is not None and method.is_fitted) != bool(space.facts.get("fit")):
        what = f"its method, {space.facts.get('method')}, and what was learned from a sample do not go together"
        raise RsrError(f"a code states what cannot be: {what}")
    if method is None or not method.is_fitted:
        return None
    made = binarizer_class(str(space.facts["method"]))
    if fitted is None:
        raise UsageError(f"codes of {made.method} need what was learned from a sample", remedy="with")
    found = made(fitted.of, space.size, None, fitted)
    if found.space.fingerprint != space.fingerprint:
        raise RsrError("is not what the codes were made with", fitted.place)
    return cast("FittedCode", found)
