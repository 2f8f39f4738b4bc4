"""Queries of codes that are numbers, and no codes themselves: what measures them, exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from rsr_cli.core.codes.pq import PQ
from rsr_cli.core.codes.rabitq import PLANES, RaBitQ

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.codes.base import FittedCode

    #: The distances and rows of one query's candidates, ranked, and a distance that no other row is below.
    Candidates = tuple[NDArray[np.float64], NDArray[np.int64], float]

#: What is wrong with a code that is not sound, see `FittedCode.are_sound`.
UNSOUND = "its code has numbers that are of no embedding"
FLOAT32_ROUNDING = 2.0**-24  # greatest relative error of one operation
#: Rows of codes that are compared at once.
COMPARED_ROWS = 1 << 14


class Asked(ABC):
    """Queries that ask codes by a distance of their own."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, some: Any) -> Asked:
        """Return some of the queries, by their numbers or as a slice."""

    @property
    @abstractmethod
    def points(self) -> NDArray[Any]:
        """What is compared with the middles of partitions: codes, uint8 (n, bytes), or float32 (n, dim)."""

    @abstractmethod
    def measure(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the distances to codes (m, bytes), float64 (n, m)."""

    @abstractmethod
    def nearest(self, codes: NDArray[np.uint8], k: int) -> Iterator[Candidates]:
        """Yield of each query the nearest of codes (m, bytes), about k and at most m, by (distance, row)."""


class AskedFitted(Asked):
    """Queries of codes that are fitted.

    Parameters
    ----------
    code : FittedCode
        What measures them.
    values : numpy.ndarray
        float64 (n, numbers): what it compares with codes, see `FittedCode.values`.
    """

    def __init__(self, code: FittedCode, values: NDArray[np.floating[Any]]) -> None:
        self._code = code
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, some: Any) -> AskedFitted:
        """Return some of the queries, by their numbers or as a slice."""
        return type(self)(self._code, self._values[some])

    @property
    def points(self) -> NDArray[Any]:
        """What is compared with the middles of partitions, float32 (n, dim)."""
        return self._code.points(self._values)

    def measure(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the distances to codes (m, bytes), float64 (n, m)."""
        return np.array([self._code.measure(each, codes) for each in self._values]).reshape(len(self), len(codes))

    @staticmethod
    def of(code: FittedCode, values: NDArray[np.floating[Any]]) -> AskedFitted:
        """Return queries of a code."""
        return (ByParts if isinstance(code, PQ) else BySigns)(code, values)


class ByParts(AskedFitted):
    """Queries of product quantization."""

    def nearest(self, codes: NDArray[np.uint8], k: int) -> Iterator[Candidates]:
        """Yield of each query the nearest of codes (m, bytes): faiss finds them, and they are measured again.

        faiss rounds the query to float32, and adds as many squares of differences as there are dimensions, which are
        not negative (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1).
        """
        assert isinstance(self._code, PQ)
        quantizer, longest = _quantizer(self._code)
        near, rows = np.empty((len(self), k), np.float32), np.empty((len(self), k), np.int64)
        heaps: Any = faiss.float_maxheap_array_t()
        heaps.nh, heaps.k, heaps.val, heaps.ids = len(self), k, faiss.swig_ptr(near), faiss.swig_ptr(rows)
        narrow = np.ascontiguousarray(self._values, np.float32)
        quantizer.search(faiss.swig_ptr(narrow), len(self), faiss.swig_ptr(codes), len(codes), heaps, True)
        terms = (self._code.dim + 4) * FLOAT32_ROUNDING
        for query, farthest, at in zip(self._values, near.max(axis=1), rows, strict=True):
            length = float(np.linalg.norm(query))
            lost = 2 * FLOAT32_ROUNDING * length * (length + longest)
            distances = self._code.measure(query, codes[at])
            order = np.lexsort((at, distances))
            yield distances[order], at[order], float(farthest) * (1 - terms / (1 - terms)) / 2 - lost


class BySigns(AskedFitted):
    """Queries of RaBitQ: the product of signs and whole numbers is a sum of Hamming distances."""

    def nearest(self, codes: NDArray[np.uint8], k: int) -> Iterator[Candidates]:
        """Yield of each query the k nearest of codes (m, bytes), and the distance of the last.

        An odd whole number w is the sum of 1 or -1 times 1, 2, 4, ..., and (w + 1 + 2 + 4 + ...) / 2 has a bit of 1 for
        each that is added. So a query is as many codes of signs, whose products follow from bits that differ.
        """
        assert isinstance(self._code, RaBitQ)
        width, planes = self._code.sign_bytes, np.arange(PLANES)
        rounded = [self._code.rounded(query) for query in self._values]
        added = np.array([(whole + (1 << PLANES) - 1) // 2 for whole, _ in rounded])
        signs = np.packbits(added[:, None] >> planes[:, None] & 1, axis=2).reshape(-1, width)
        found = [(np.empty(0), np.empty(0, np.int64))] * len(self)
        for first in range(0, len(codes), COMPARED_ROWS):
            some = codes[first : first + COMPARED_ROWS]
            differing = hammings(signs, some[:, :width]).reshape(len(self), PLANES, len(some))
            products = np.zeros((len(self), len(some)), np.int32)
            for plane in planes[::-1]:  # in place, as numpy multiplies no matrices of whole numbers fast
                products *= 2
                products -= differing[:, plane]
            products *= 2
            products += ((1 << PLANES) - 1) * self._code.dim
            factors = self._code.factors(some)
            for i, (query, (_, step)) in enumerate(zip(self._values, rounded, strict=True)):
                near = self._code.distances(query, products[i], step, factors)
                distances, rows = found[i]
                may = np.flatnonzero(near < distances[-1]) if len(rows) == k else np.arange(len(near))
                distances, rows = np.concatenate([distances, near[may]]), np.concatenate([rows, first + may])
                order = np.lexsort((rows, distances))[:k]
                found[i] = distances[order], rows[order]
        yield from ((distances, rows, float(distances[-1])) for distances, rows in found)


@lru_cache(maxsize=2)
def _quantizer(code: PQ) -> tuple[Any, float]:
    """Return faiss's product quantizer with the centroids of a code, and the greatest length that a code stands for."""
    parts, _, size = code.centroids.shape
    quantizer: Any = faiss.ProductQuantizer(parts * size, parts, 8)
    faiss.copy_array_to_vector(code.centroids.astype(np.float32).ravel(), quantizer.centroids)
    return quantizer, float(np.sqrt(np.square(code.centroids).sum(axis=2).max(axis=1).sum()))


def hammings(codes: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the bits that differ between codes (m, bytes) and others (n, bytes): int32 (m, n)."""
    codes, others = np.ascontiguousarray(codes), np.ascontiguousarray(others)
    distances = np.empty((len(codes), len(others)), np.int32)
    operands = map(faiss.swig_ptr, (codes, others))
    faiss.hammings(*operands, *distances.shape, codes.shape[1], faiss.swig_ptr(distances))  # type: ignore[attr-defined]
    return distances
