"""Signs after a random rotation, which spreads what an embedding has over all bits."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.codes.base import Binarizer
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Transforms, each after random signs: one leaves a sparse embedding's structure, three are as good as any rotation.
ROUNDS = 3
_ROWS_AT_ONCE = 256


class Rotated(Binarizer):
    r"""Bit j is 1 if dimension j of the rotated embedding is above 0.

    The rotation is that of fast cross-polytope hashing [1]_, :math:`H D_3 H D_2 H D_1 x`, times a constant: :math:`H`
    is the Hadamard matrix of Sylvester's construction, and :math:`D_i` is a diagonal matrix of random signs. The
    embedding is padded with zeros to a power of two :math:`d`, so there may be as many bits, and divided by a power
    of two near its largest value, which changes no sign. What follows are sums and differences of float32 in one
    order, so the bits are the same on every machine.

    The k-th sign of :math:`D_i` is minus where bit :math:`(i - 1) d + k` of ``numpy.random.RandomState(seed).bytes``
    is 1, most significant bit of a byte first, and both counted from 0.

    References
    ----------
    .. [1] Andoni et al.: Practical and Optimal LSH for Angular Distance. NeurIPS 2015. https://arxiv.org/abs/1509.02897
    """

    method = "rotated"

    def _length(self, bits: int | None) -> int:
        bits = super()._length(bits)
        most = 1 << (self.dim - 1).bit_length()
        if bits > most:
            raise UsageError(f"rotated makes {most} bits at most of {self.dim} dimensions, not {bits}")
        return bits

    @cached_property
    def _rotation(self) -> Rotation:
        assert self.seed is not None
        return Rotation(self.dim, self.seed)

    def values(self, embeddings: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Return the numbers whose signs are the bits, as `Binarizer.values` says."""
        _, exponents = np.frexp(np.abs(embeddings).max(axis=1, initial=0))
        return self._rotation(np.ldexp(embeddings, -exponents[:, None]))[:, : self.bits]


class Rotation:
    """The rotation of `Rotated`, times a constant.

    Parameters
    ----------
    dim : int
        Dimensions.
    seed : int
        Of the random signs.
    """

    def __init__(self, dim: int, seed: int) -> None:
        self.padded = 1 << (dim - 1).bit_length()
        self._signs = diagonals(ROUNDS, self.padded, seed)

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rotated embeddings, float32 (n, padded), of some (n, dim) that are not near float32's limits."""
        found = np.empty((len(embeddings), self.padded), np.float32)
        for first in range(0, len(embeddings), _ROWS_AT_ONCE):
            some = embeddings[first : first + _ROWS_AT_ONCE]
            rotated = np.zeros((self.padded, len(some)), np.float32)  # a column each, along which numpy is fast
            rotated[: some.shape[1]] = some.T
            for signs in self._signs:
                rotated *= signs
                transform(rotated)
            found[first : first + len(some)] = rotated.T
        return found


def diagonals(rounds: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Return the random signs of some rounds, float32 (rounds, dim, 1), drawn as `Rotated` states."""
    count = rounds * dim
    drawn = np.frombuffer(np.random.RandomState(seed).bytes(-(-count // 8)), np.uint8)
    return (1 - 2.0 * np.unpackbits(drawn, count=count)).reshape(rounds, -1, 1).astype(np.float32)


def transform(columns: NDArray[np.float32]) -> None:
    """Multiply columns, (d, n) with d a power of two, by the Hadamard matrix of Sylvester's construction, in place."""
    half = 1
    while half < len(columns):
        pairs = columns.reshape(-1, 2, half, columns.shape[1])
        differences = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = differences
        half *= 2
