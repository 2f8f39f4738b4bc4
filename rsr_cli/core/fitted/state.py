"""Files of what was learned from a sample: arrays and settings as safetensors, which hold no code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from rsr_cli.core.errors import FingerprintError, RecordError, RsrError
from rsr_cli.core.files import reason
from rsr_cli.core.fitted.registry import FIT_METHODS
from rsr_cli.core.inputs import read_bytes
from rsr_cli.core.records.space import Space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Hexadecimal digits of the digest that records state.
DIGITS = 16
#: What a file states of how it was learned.
SETTINGS = ("seed", "sample")
#: Greatest number in an array: embeddings are of unit length, and of what is whitened the variance has a limit.
LARGEST = 2.0**24
#: The name that our settings have in the metadata of a file.
_KEY = "rsr"


@dataclass(frozen=True, eq=False)
class Fitted:
    """What was learned from a sample of embeddings.

    Attributes
    ----------
    method : str
        Its name in `registry.FIT_METHODS`.
    of : Space
        The space of the embeddings.
    arrays : dict
        Name -> float32 array.
    settings : dict
        ``seed`` and ``sample``, the number of embeddings that were learned from.
    data : bytes
        The file.
    place : str
        Its path, for messages.
    """

    method: str
    of: Space
    arrays: dict[str, NDArray[np.float32]]
    settings: dict[str, int]
    data: bytes = field(repr=False)
    place: str = ""

    @classmethod
    def make(cls, method: str, of: Space, arrays: dict[str, NDArray[np.float32]], settings: dict[str, int]) -> Fitted:
        """Make one of what was learned.

        Parameters
        ----------
        method : str
            Its name in `registry.FIT_METHODS`.
        of : Space
            Of the embeddings that the sample is of.
        arrays : dict
            Name -> float32 array, as `learn.learn` returns them.
        settings : dict
            What it was learned with: the seed, and the size of the sample.
        """
        from safetensors.numpy import save

        stated = {"method": method, **settings, "of": of.as_property()}
        metadata = {_KEY: orjson.dumps(stated, option=orjson.OPT_SORT_KEYS).decode()}
        return cls(method, of, arrays, settings, save(arrays, metadata=metadata))

    @classmethod
    def read(cls, path: Path) -> Fitted:
        """Read a file.

        Raises
        ------
        RsrError
            The file cannot be read, or is none that was fitted.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            data = read_bytes(path)
        except OSError as error:
            raise RsrError(f"cannot be read: {reason(error)}", str(path)) from None
        try:
            length = int.from_bytes(data[:8], "little")
            arrays = load(data)
            stated = orjson.loads(orjson.loads(data[8 : 8 + length]).get("__metadata__", {}).get(_KEY, "null"))
        except (SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise RsrError(f"is no safetensors file: {error}", str(path), remedy="fit") from None
        if not isinstance(stated, dict):
            raise RsrError("was not fitted: it does not state a method", str(path), remedy="fit")
        try:
            of = stated.pop("of")
            if not isinstance(of, dict):
                raise ValueError("it does not state what embeddings it was fitted to")
            of = Space.of_property("embedding", of)
            method = stated.pop("method")
            if method not in FIT_METHODS:
                raise ValueError(f"its method {method!r} is unknown")
            if not all(type(stated.get(name)) is int and 0 <= stated[name] < 1 << 32 for name in SETTINGS):
                raise ValueError(f"it does not state {' and '.join(SETTINGS)}, or as no such numbers")
            for name, array in arrays.items():
                if array.dtype != "float32" or not (abs(array) <= LARGEST).all():
                    raise ValueError(f"its {name} is not float32, or has greater numbers than are learned")
        except (RecordError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RsrError(f"is damaged: {error}", str(path), remedy="fit") from None
        return cls(method, of, arrays, stated, data, str(path))

    @cached_property
    def digest(self) -> str:
        """The sha256 of the file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def short_digest(self) -> str:
        """The digest as records state it."""
        return self.digest[:DIGITS]

    def check_space(self, space: Space) -> None:
        """Raise FingerprintError if embeddings are of another space than those that it was fitted to."""
        if (space.fingerprint, space.size) != (self.of.fingerprint, self.of.size):
            what = f"was fitted to embeddings of another vector space ({self.of.difference(space)})"
            raise FingerprintError(what, self.place, remedy="same-space")
