"""Binary codes of embeddings, as in Blumenstiel et al. 2024: what every method declares, and packing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from rsr_cli.core.codes.registry import METHODS, binarizer_class, default_method
from rsr_cli.core.errors import UsageError
from rsr_cli.core.records.space import EMBEDDING_FACTS, Space, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.fitted.state import Fitted
    from rsr_cli.core.fitted.transform import Transform
    from rsr_cli.core.records.batch import Batch

T = TypeVar("T", np.float64, np.int64)
#: Length that embeddings and their means have at most, with what is rounded.
UNIT = 1.001
#: Rows that are measured at once, which stay in the processor's cache.
_ROWS_AT_ONCE = 1 << 10


class Binarizer(ABC):
    """Maps embeddings of one space to codes.

    Parameters
    ----------
    of : Space
        The embeddings' space.
    bits : int, optional
        Length of the codes; ``None`` is one per dimension, for methods that allow it.
    seed : int, optional
        For methods that draw random numbers; ``None`` takes the method's default.
    fitted : Fitted, optional
        What was learned, for methods that need it.

    Attributes
    ----------
    method : str
        Its name in the registry, whose entry says whether it needs bits and takes a seed.

    Raises
    ------
    UsageError
        ``bits`` or ``seed`` do not fit the method and the embeddings.
    FingerprintError
        What was learned is of other embeddings.
    """

    method: ClassVar[str]

    def __init__(
        self, of: Space, bits: int | None = None, seed: int | None = None, fitted: Fitted | None = None
    ) -> None:
        self.check(bits, seed, fitted)
        self.of = of
        self.fitted = fitted
        if fitted:
            fitted.check_space(of)
        self.dim = of.size
        self.bits = self._length(bits)
        self.seed = METHODS[self.method].seed(seed)

    @classmethod
    def check(cls, bits: int | None, seed: int | None, fitted: Fitted | None = None) -> None:
        """Check what can be checked before the first embedding.

        Raises
        ------
        UsageError
            The method needs bits, or what was learned, or takes no seed.
        """
        entry = METHODS[cls.method]
        if bits is None and entry.needs_bits:
            raise UsageError(f"{cls.method} needs a number of bits", remedy="bits")
        if fitted is None and entry.is_fitted:
            raise UsageError(f"{cls.method} needs what was learned from a sample", remedy="with")
        if seed is not None and entry.default_seed is None:
            raise UsageError(f"{cls.method} takes no seed, as it draws nothing", remedy="seed")

    def _length(self, bits: int | None) -> int:
        """Return the length of the codes; raise UsageError if ``bits`` does not fit the embeddings.

        A length that was returned is passed in again when an index of such codes is queried with embeddings.
        """
        return bits or self.dim

    @cached_property
    def space(self) -> Space:
        """The codes' space."""
        facts: dict[str, Any] = {"method": self.method, "bits": self.bits}
        if self.seed is not None:
            facts["seed"] = self.seed
        facts["of"] = self.of.fingerprint
        hashed = {**facts, "dim": self.dim}
        if self.fitted:
            hashed["fit"] = self.fitted.digest
            facts["fit"] = self.fitted.short_digest
        facts.pop("bits")
        made_by: dict[str, Any] = {key: self.of.facts[key] for key in EMBEDDING_FACTS if key in self.of.facts}
        recipe = {**hashed, "embedding": self.of.recipe}
        return Space("code", self.bits, "uint8", fingerprint(hashed), {**made_by, **facts}, recipe)

    @abstractmethod
    def values(self, embeddings: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Return the numbers whose signs are the bits, (n, bits), of embeddings, float32 (n, dim).

        Of a `FittedCode` they are what a query is compared by.
        """

    def signs(self, embeddings: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the bits, bool (n, bits), of embeddings, float32 (n, dim): 1 where the value is above 0."""
        return self.values(embeddings) > 0

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Binarize and pack.

        Parameters
        ----------
        embeddings : numpy.ndarray
            float32 (n, dim).

        Returns
        -------
        numpy.ndarray
            uint8 (n, ceil(bits / 8)), most significant bit first, zero-padded.
        """
        return np.packbits(self.signs(embeddings), axis=1)


class FittedCode(Binarizer):
    """Makes codes that are not compared by Hamming distance, but by one of their own, of what was learned.

    Raises
    ------
    RsrError
        What was learned is not for the method.
    """

    def _checked(self, bits: int | None, own: int) -> int:
        """Return the bits of the codes; raise UsageError if others were asked for."""
        if bits not in (None, own):
            raise UsageError(f"{self.method} makes {own} bits as it was fitted, not {bits}", remedy="bits-fitted")
        return own

    def points(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return float32 (n, dim) of values: what is near by Euclidean distance is near by the codes' own."""
        return values[:, : self.dim].astype(np.float32)

    def are_sound(self, codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which codes (n, bytes) stand for an embedding, bool (n,)."""
        return np.ones(len(codes), np.bool_)

    def completed(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return values (n, numbers) that were averaged, with the numbers that follow from others."""
        return values

    @abstractmethod
    def decoded(self, codes: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """Return about what `values` made of the embeddings of codes (n, bytes): (n, numbers)."""

    @abstractmethod
    def measure(self, query: NDArray[np.floating[Any]], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the distances of a query's values, (numbers,), to codes (n, bytes), float64 (n,)."""


def summed(tables: NDArray[T], codes: NDArray[np.uint8]) -> NDArray[T]:
    """Return the sums (n,) of what tables (bytes, 256) have for the bytes of codes (n, bytes)."""
    starts, found = 256 * np.arange(len(tables)), np.empty(len(codes), tables.dtype)
    for first in range(0, len(codes), _ROWS_AT_ONCE):
        some = codes[first : first + _ROWS_AT_ONCE]
        found[first : first + len(some)] = tables.ravel().take(some + starts).sum(axis=1)
    return found


def binarize(
    batches: Iterable[Batch],
    method: str | None,
    bits: int | None,
    seed: int | None,
    *,
    keep_embedding: bool = False,
    transform: Transform | None = None,
    fitted: Fitted | None = None,
) -> Iterator[Batch]:
    """Replace each record's embedding with a code, or put a code beside it.

    Parameters
    ----------
    batches : iterable of Batch
        Records with embeddings of one space; they are changed in place.
    method, bits, seed
        As in `registry.METHODS` and `Binarizer`; a method of ``None`` is that of `registry.default_method`.
    keep_embedding : bool
        Keep the embeddings, as `Batch.beside`; they are those that the codes are made of.
    transform : Transform, optional
        What to transform the embeddings by first.
    fitted : Fitted, optional
        What was learned, for methods that need it.

    Yields
    ------
    Batch
        The same records with codes.

    Raises
    ------
    UsageError
        The settings do not fit each other or the embeddings.
    """
    if method is not None:
        binarizer_class(method).check(bits, seed, fitted)
    binarizer = None
    for batch in transform.batches(batches) if transform else batches:
        if batch.space is None or batch.vectors is None:
            continue
        if binarizer is None:
            made = binarizer_class(method or default_method(batch.space.facts))
            binarizer = made(batch.space, bits, seed, fitted)
        if keep_embedding:
            batch.beside = batch.vectors, batch.space
        batch.vectors, batch.space = binarizer(batch.vectors), binarizer.space
        yield batch
