"""RaBitQ: signs of a rotated residual, and two numbers that make a distance of them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.codes.base import UNIT, FittedCode, summed
from rsr_cli.core.codes.rotated import diagonals, transform
from rsr_cli.core.errors import RsrError
from rsr_cli.core.fitted.transform import of_unit_length

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes of the two numbers of a code, float32 and little-endian.
FACTOR_BYTES = 8
ROUNDS = 4
#: A query's numbers are rounded to the odd whole numbers of so many bits and a sign, times a step.
PLANES = 6
_ROWS_AT_ONCE = 256


class RaBitQ(FittedCode):
    r"""Signs of the rotated residual, packed, then two numbers (Gao and Long 2024).

    The residual :math:`r` is the embedding at unit length less the centre, :math:`v` is :math:`r` in rotated
    coordinates, and :math:`s` are its signs, 1 and -1. The numbers are :math:`|r|^2`, and :math:`|r|^2 / (s \cdot v)`,
    which makes the distance of an embedding to its own code 0. The rotation multiplies by random signs and by the
    Hadamard matrix of the greatest power of two of dimensions, the first of them and the last in turn.

    The distance of a query is half its squared Euclidean distance, :math:`(|q|^2 + |r|^2) / 2 - q \cdot r`, where
    :math:`q` is its residual, and :math:`q \cdot r` is estimated by the second number times :math:`s \cdot w`. There
    :math:`w` is the rotated :math:`q`, rounded to 64 levels. So it is an estimate of the cosine distance, and may be a
    little below 0.
    """

    method = "rabitq"

    @cached_property
    def _centre(self) -> NDArray[np.float64]:
        assert self.fitted is not None
        found = self.fitted.arrays.get("centre", np.empty(0))
        if found.shape != (self.dim,) or not np.linalg.norm(found.astype(np.float64)) <= UNIT:
            raise RsrError(f"has no centre of {self.dim} dimensions", self.fitted.place, remedy="fit")
        return found.astype(np.float64)

    @cached_property
    def _diagonals(self) -> NDArray[np.float32]:
        """The random signs of the rounds, float32 (rounds, dim, 1)."""
        assert self.fitted is not None
        return diagonals(ROUNDS, self.dim, self.fitted.settings["seed"])

    @property
    def sign_bytes(self) -> int:
        """Bytes of the signs."""
        return (self.dim + 7) // 8

    def _length(self, bits: int | None) -> int:
        assert self._centre is not None
        return self._checked(bits, 8 * (self.sign_bytes + FACTOR_BYTES))

    def values(self, embeddings: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Return rotated residuals and their squared lengths, float64 (n, dim + 1), of embeddings, float32 (n, dim)."""
        size = 1 << (self.dim.bit_length() - 1)
        found = np.empty((len(embeddings), self.dim + 1))
        for first in range(0, len(embeddings), _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            residuals = of_unit_length(embeddings[some]) - self._centre
            turned = np.ascontiguousarray(residuals.T, np.float32)
            for number, signs in enumerate(self._diagonals):
                turned *= signs
                part = turned[-size:] if number % 2 else turned[:size]
                transform(part)
                part /= np.float32(size**0.5)
            found[some, :-1] = turned.T
        found[:, -1] = np.square(found[:, :-1]).sum(axis=1)
        return found

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return codes, uint8 (n, bytes), of embeddings, float32 (n, dim)."""
        values = self.values(embeddings)
        rotated, squares = values[:, :-1], values[:, -1]
        sums = np.abs(rotated).sum(axis=1)
        factors = np.stack([squares, squares / np.where(sums > 0, sums, 1)], axis=1).astype("<f4")
        return np.concatenate([np.packbits(rotated > 0, axis=1), factors.view(np.uint8)], axis=1)

    def decoded(self, codes: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """Return values of codes (n, bytes), float64 (n, dim + 1): the signs, times the mean size of a number."""
        squares, scales = self.factors(codes)
        signs = 2.0 * np.unpackbits(codes[:, : self.sign_bytes], axis=1, count=self.dim) - 1
        sizes = np.divide(squares, scales * self.dim, out=np.zeros_like(squares), where=scales > 0)
        return np.column_stack([signs * sizes[:, None], squares])

    def completed(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return values (n, dim + 1) with the squared lengths of the residuals."""
        values[:, -1] = np.square(values[:, :-1]).sum(axis=1)
        return values

    def are_sound(self, codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which codes (n, bytes) have numbers that residuals can have, bool (n,)."""
        squares, scales = self.factors(codes)
        return (squares >= 0) & (squares <= 4 * UNIT) & (scales >= 0) & (scales <= 2 * UNIT)

    def factors(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the numbers of codes (n, bytes): float64 (2, n)."""
        return np.ascontiguousarray(codes[:, self.sign_bytes :]).view("<f4").astype(np.float64).T

    @staticmethod
    def rounded(query: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], float]:
        """Return the residual of a query's values (dim + 1,) as odd whole numbers, int64 (dim,), and their step."""
        query = query[:-1]
        step = float(np.abs(query).max(initial=0)) / ((1 << PLANES) - 1) or 1.0
        whole = 2 * np.floor(query / (2 * step)).astype(np.int64) + 1
        return whole.clip(1 - (1 << PLANES), (1 << PLANES) - 1), step

    def measure(self, query: NDArray[np.floating[Any]], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the distances of a query's values (dim + 1,) to codes (n, bytes), float64 (n,)."""
        whole, step = self.rounded(query)
        eights = np.pad(whole, (0, -len(whole) % 8)).reshape(-1, 8)
        tables = eights @ np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).T.astype(np.int64)
        sums = summed(tables, codes[:, : self.sign_bytes])
        return self.distances(query, 2 * sums - whole.sum(), step, self.factors(codes))

    @staticmethod
    def distances(
        query: NDArray[np.floating[Any]],
        products: NDArray[np.signedinteger[Any]],
        step: float,
        factors: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return distances (n,) by the products (n,) of signs and a query's whole numbers, and by what codes state."""
        squares, scales = factors
        distances: NDArray[np.float64] = (query[-1] + squares) / 2 - scales * (step * products)
        return distances
