"""Binary codes: sign, trivial hash and locality-sensitive hashing, as in Blumenstiel et al. 2024; packing.

Every method maps float32 embeddings (n, dim) to bits (n, bits); bit j of a code is its j-th most significant bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import UsageError
from rsr_cli.core.records.fields import Vectors, encode, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch

METHODS = ("sign", "trivial", "lsh")
DEFAULT_SEED = 42  # the first of the paper's five


@dataclass(frozen=True)
class Binarizer:
    """One way from embeddings to codes.

    Parameters
    ----------
    method : str
        ``sign``: one bit a dimension, x > 0 (the paper's binary embedding). ``trivial``: bit j is the sign of the
        mean of dimensions j, j + bits, j + 2 bits, ... ``lsh``: bit j is the side of random plane j
        (Charikar 2002), planes drawn by ``numpy.random.RandomState(seed).randn(bits, dim)``.
    dim : int
        Length of the embeddings.
    of : str
        Fingerprint of the embeddings.
    bits : int
        Length of the codes; for ``sign`` it is ``dim``.
    seed : int or None
        Of the planes; only for ``lsh``.

    Raises
    ------
    UsageError
        ``bits`` does not fit the method and ``dim``.
    """

    method: str
    dim: int
    of: str
    bits: int
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"unknown method {self.method!r}; one of {', '.join(METHODS)}")
        if self.method == "sign" and self.bits != self.dim:
            raise UsageError(f"sign gives one bit a dimension, {self.dim} here, not {self.bits}")
        if self.method == "trivial" and self.dim % self.bits:
            raise UsageError(f"trivial needs --bits that divide the {self.dim} dimensions, and {self.bits} does not")

    @property
    def head(self) -> dict[str, Any]:
        """The ``code`` property without its data."""
        facts = {"method": self.method, "bits": self.bits}
        if self.seed is not None:
            facts["seed"] = self.seed
        facts["of"] = self.of
        return {**facts, "fingerprint": fingerprint({**facts, "dim": self.dim})}

    @cached_property
    def _planes(self) -> NDArray[np.float64]:
        # RandomState, not Generator: the paper's numbers come from this stream of numbers.
        return np.random.RandomState(self.seed).randn(self.bits, self.dim)

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
        values: NDArray[Any] = embeddings
        if self.method == "trivial":
            values = embeddings.reshape(len(embeddings), self.dim // self.bits, self.bits).mean(axis=1)
        elif self.method == "lsh":
            values = embeddings @ self._planes.T
        return np.packbits(values > 0, axis=1)


def binarize(
    batches: Iterable[Batch], method: str, bits: int | None, seed: int | None, skips: Skips
) -> Iterator[Batch]:
    """Put a code in the place of each record's embedding.

    Parameters
    ----------
    batches : iterable of Batch
        Records with embeddings of one vector space; they are changed in place.
    method, bits, seed
        As in `Binarizer`; ``bits`` of ``None`` is one a dimension for ``sign``, ``seed`` of ``None`` is 42 for ``lsh``.
    skips : Skips
        Asked about records without a usable embedding.

    Raises
    ------
    UsageError
        The settings do not fit each other or the embeddings.
    RecordError, FingerprintError
        As in `records.Vectors.take`.
    """
    if method == "lsh":
        seed = DEFAULT_SEED if seed is None else seed
    elif seed is not None:
        raise UsageError(f"--seed belongs to lsh; {method} draws nothing")
    if method != "sign" and bits is None:
        raise UsageError(f"{method} needs --bits, 32 in the paper")
    vectors = Vectors("embedding")
    binarizer = None
    for batch in batches:
        embeddings = vectors.take(batch, skips)
        if vectors.head is None or not len(batch):
            continue
        if binarizer is None:
            dim = vectors.head["dim"]
            binarizer = Binarizer(method, dim, vectors.head["fingerprint"], dim if bits is None else bits, seed)
            head = binarizer.head
        for record, code in zip(batch.records, binarizer(embeddings), strict=True):
            record["properties"]["code"] = {**head, "data": encode(code)}
        yield batch
