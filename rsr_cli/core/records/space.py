"""Vector spaces: what must be the same for two vectors to be compared."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import orjson

from rsr_cli.core.errors import FingerprintError, RecordError, shown
from rsr_cli.core.records.exact import Exact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

log = logging.getLogger("rsr")

Kind = Literal["embedding", "code"]
#: In the order in which they are preferred where a record has both.
KINDS: tuple[Kind, ...] = ("code", "embedding")

#: Maximum accepted vector length, in dimensions or bits.
MAX_SIZE = 1 << 24
#: The dtypes that an embedding may have, little-endian in the record.
DTYPES = {"int8": "|i1", "float16": "<f2", "float32": "<f4", "float64": "<f8"}
#: What a code keeps of its embedding, besides the fingerprint.
EMBEDDING_FACTS = ("model", "weights", "filled", "unit", "precision", "transform")
#: Types of the facts that are used.
_FACTS: dict[str, Any] = {
    **dict.fromkeys(("model", "weights", "unit", "precision", "method", "of", "fit"), str | None),
    "filled": list | None,
    "seed": int | None,
    "transform": dict | None,
}
#: What a record states of a transform: how it was learned, the digest of its file, and the embedding's space before it.
TRANSFORM_FACTS = ("method", "fit", "of")
#: The name that a record's property has for the vector's size.
_SIZE = {"embedding": "dim", "code": "bits"}


def without_vector(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a record's ``embedding`` or ``code`` states of its space, without what is of this vector alone."""
    own = ("data", "scale", "offset") if found.get("dtype") == "int8" else ("data",)
    return {key: value for key, value in found.items() if key not in own}


@dataclass(frozen=True)
class Space:
    """A vector space: two vectors may be compared only if their spaces have the same fingerprint.

    Attributes
    ----------
    kind : str
        ``embedding`` or ``code``.
    size : int
        Dimensions of an embedding, bits of a code.
    dtype : str
        The type of number that embeddings are written in, one of `DTYPES`, whatever they are compared with; ``uint8``
        (packed bits) for codes.
    fingerprint : str
        Hash of the recipe.
    facts : dict
        The rest of what a record states: ``model``, the specification of the model with every setting that is not its
        default; ``weights``, the sha256 of its checkpoint; ``filled``, the bands that were missing; ``unit``, that of
        pixels that are not reflectance; ``precision``, that of the model's arithmetic if it was not fp32;
        ``transform``, what the embeddings were transformed by, see `TRANSFORM_FACTS`; for codes ``method``, ``seed``,
        ``fit``, the digest of what was learned, and ``of``, the fingerprint of the embedding.
    recipe : dict
        Everything that the fingerprint hashes, and the precision, which it does not; as far as they are known. Records
        do not carry it, an index does.
    """

    kind: Kind
    size: int
    dtype: str
    fingerprint: str
    facts: dict[str, Any] = field(default_factory=dict, compare=False)
    recipe: dict[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of_property(cls, kind: Kind, found: dict[str, Any]) -> Space:
        """Read the space of a record's ``embedding`` or ``code`` property.

        Raises
        ------
        RecordError
            The property does not state its fingerprint, size or dtype, or states facts that cannot be read.
        """
        name, size = _SIZE[kind], found.get(_SIZE[kind])
        if not isinstance(found.get("fingerprint"), str):
            raise RecordError(f"its {kind} has no fingerprint")
        if type(size) is not int or not 1 <= size <= MAX_SIZE:
            raise RecordError(f"its {kind} does not state its {name}, a number from 1 to {MAX_SIZE}")
        dtype = "uint8" if kind == "code" else found.get("dtype")
        if kind == "embedding" and not (isinstance(dtype, str) and dtype in DTYPES):
            raise RecordError(f"its embedding has the dtype {shown(dtype)}; supported are {', '.join(DTYPES)}")
        own = ("fingerprint", "dtype", name)
        facts = {key: value for key, value in without_vector(found).items() if key not in own}
        space = cls(kind, size, str(dtype), found["fingerprint"], facts)
        space.check()
        return space

    def check(self) -> None:
        """Raise RecordError if a value that is used is of another type."""
        if self.kind not in KINDS or self.dtype not in ({"uint8"} if self.kind == "code" else DTYPES):
            raise RecordError(f"its vectors are of an unknown kind: {shown(self.kind)} {shown(self.dtype)}")
        if type(self.size) is not int or not 1 <= self.size <= MAX_SIZE or not isinstance(self.fingerprint, str):
            raise RecordError(f"its {self.kind} does not state its size and fingerprint")
        if not isinstance(self.facts, dict):
            raise RecordError(f"its {self.kind} states no facts")
        for key, value in self.facts.items():
            texts = value or () if key == "filled" else ()
            if key == "transform" and isinstance(value, dict):
                texts = [value.get(name) for name in TRANSFORM_FACTS]
            if not (
                isinstance(value, _FACTS.get(key, object))
                and _is_plain(value)
                and all(isinstance(text, str) for text in texts)
            ):
                raise RecordError(f"its {self.kind} states {key} in a way that cannot be read: {shown(value)}")

    def as_property(self) -> dict[str, Any]:
        """Return the record's property without its data."""
        dtype = {} if self.kind == "code" else {"dtype": self.dtype}
        return {**self.facts, "fingerprint": self.fingerprint, _SIZE[self.kind]: self.size, **dtype}

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of the values, little-endian."""
        import numpy as np

        return np.dtype(np.uint8 if self.kind == "code" else DTYPES[self.dtype])

    @property
    def width(self) -> int:
        """Values per vector: the dimensions of an embedding, the bytes of a code."""
        return (self.size + 7) // 8 if self.kind == "code" else self.size

    @property
    def padding(self) -> int:
        """The bits of a code's last byte that are not part of it, and so must be 0."""
        return (1 << 8 * self.width - self.size) - 1

    @property
    def n_bytes(self) -> int:
        """Bytes per vector."""
        return self.width * self.numpy_dtype.itemsize

    @property
    def model(self) -> str | None:
        """Specification of the model."""
        found = self.facts.get("model")
        return found if isinstance(found, str) else None

    def of_embedding(self) -> Space:
        """Return the space of a code's embedding as far as the code states it; its size is 0, for unknown."""
        facts = {key: self.facts[key] for key in EMBEDDING_FACTS if key in self.facts}
        return Space("embedding", 0, "", str(self.facts.get("of")), facts, self.recipe.get("embedding", {}))

    def of_model(self) -> Space:
        """Return the space of what the model makes: of a code's embedding, and before a transform."""
        space = self.of_embedding() if self.kind == "code" else self
        transform = space.facts.get("transform")
        if not transform:
            return space
        facts = {key: value for key, value in space.facts.items() if key != "transform"}
        return Space("embedding", 0, "", transform["of"], facts, space.recipe.get("embedding", {}))

    def settings(self) -> dict[str, str]:
        """Return everything that records state about the space, one readable value per setting."""
        name, *given = (self.model or "unknown").split(":")
        settings = {"model": name, **dict(item.partition("=")[::2] for item in given)}
        for key, value in self.facts.items():
            if key == "seed":  # of the code; the model's is part of its specification
                key = f"{self.facts.get('method')} seed"
            if key == "transform" and value:
                value = f"{value['method']} {value['fit']}"
            if key not in ("model", "of", "precision"):
                settings[key] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        return settings | ({_SIZE[self.kind]: str(self.size)} if self.size else {})

    def difference(self, other: Space) -> str:
        """Describe how this space differs from another one: the fingerprints, and the settings that records state."""
        if self.kind != other.kind:
            return f"{self.kind}s, not {other.kind}s"
        mine, theirs = self.settings(), other.settings()
        names = list(dict.fromkeys([*mine, *theirs]))
        if mine.get("method") != theirs.get("method"):
            names = [name for name in names if not name.endswith(" seed")]
        if not (self.size and other.size):
            names = [name for name in names if name not in _SIZE.values()]
        if mine["model"] != theirs["model"]:  # the settings of two models have nothing in common
            mine, theirs, names = {"model": self.model or "unknown"}, {"model": other.model or "unknown"}, ["model"]
        settings = [
            f"{name} {_short(mine.get(name))}, not {_short(theirs.get(name))}"
            for name in names
            if mine.get(name) != theirs.get(name)
        ]
        return "; ".join([f"fingerprint {self.fingerprint}, not {other.fingerprint}", *settings])


def remedy_for(codes: Space, mine: Space) -> dict[str, Any] | None:
    """Return the remedy where codes of an index's embeddings are not as its own, with its facts, or ``None``."""
    method, seed, of = (mine.facts.get(name) for name in ("method", "seed", "of"))
    is_known = mine.kind == "code" and method and of and not mine.facts.get("fit")
    if codes.kind != "code" or codes.facts.get("of") != of or not is_known:
        return None
    facts = {"method": method, "bits": mine.size}
    return {"remedy": "code", **facts} if seed is None else {"remedy": "code-seeded", **facts, "seed": seed}


def note_int8(mine: object, theirs: object) -> bool:
    """Warn if only one of two precisions is int8, whose vectors are near all others, but not as near; return if so."""
    is_mixed = mine != theirs and "int8" in (mine, theirs)
    if is_mixed:
        other = (theirs if mine == "int8" else mine) or "fp32"
        log.warning("vectors computed in int8 are compared with those in %s: a few bits of each code differ", other)
    return is_mixed


def _short(value: str | None) -> str:
    if value is None:
        return "default"
    return value if len(value) <= 60 else f"{value[:12]}..."


def fingerprint(recipe: dict[str, Any]) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of a recipe's sorted JSON."""
    return hashlib.sha256(orjson.dumps(recipe, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _is_plain(value: Any, levels: int = 16) -> bool:
    """Return whether a value of JSON has at most some levels, and no number that a double does not hold."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return levels > 0 and all(_is_plain(item, levels - 1) for item in inner)
    return not isinstance(value, Exact)


class StreamSpace:
    """The one space that all vectors of a stream share, whatever files they come from.

    Parameters
    ----------
    kinds : sequence of str
        The vectors to take, in order of preference: the first one that any of the first records has is taken.
    beside : str, optional
        A kind to take beside that one.

    Attributes
    ----------
    space : Space or None
        Of the first vector.
    is_beside : bool
        Whether the vectors are beside others.
    columns : tuple of StreamSpace
        This one, and that of the vectors beside it.
    """

    def __init__(self, kinds: Sequence[Kind], beside: Kind | None = None) -> None:
        self._kinds = kinds
        self.is_beside = False
        self.columns: tuple[StreamSpace, ...] = (self,)
        if beside:
            other = StreamSpace((beside,))
            other.is_beside = True
            self.columns = (self, other)
        self._kind: Kind | None = None
        self._is_mixed = False
        self.space: Space | None = None

    def kind_in(self, records: Iterable[dict[str, Any]]) -> Kind:
        """Return the kind of vector to take, chosen from the first records that have one."""
        if self._kind is not None:
            return self._kind
        found = (kind for record in records for kind in self._kinds if record["properties"].get(kind) is not None)
        self._kind = next(found, None)
        return self._kind or self._kinds[-1]

    def admit(self, found: dict[str, Any], kind: Kind) -> int:
        """Check that a record's property is of the stream's space, if that is known.

        Returns
        -------
        int
            Bytes per vector.

        Raises
        ------
        RecordError
            The property does not state its space.
        FingerprintError
            The vector is of another space, or of another type of number.
        """
        if self.space is None:
            return Space.of_property(kind, found).n_bytes
        if (found.get("fingerprint"), found.get("dtype")) != self._key:
            other = Space.of_property(kind, found)
            if other.fingerprint == self.space.fingerprint:
                what = f"its embedding is of {other.dtype}, and the first one of {self.space.dtype}"
                raise FingerprintError(what, remedy="same-dtype")
            difference = other.difference(self.space)
            raise FingerprintError(
                f"its {kind} is in another vector space than the first one ({difference})", remedy="same-space"
            )
        if found.get("precision") != self._precision and not self._is_mixed:
            self._is_mixed = note_int8(found.get("precision"), self._precision)
        return self._n_bytes

    def settle(self, found: dict[str, Any], kind: Kind) -> None:
        """Let a property whose vector is sound decide the stream's space."""
        self.space = Space.of_property(kind, found)
        self._key = found["fingerprint"], found.get("dtype")
        self._n_bytes = self.space.n_bytes
        self._precision = self.space.facts.get("precision")
