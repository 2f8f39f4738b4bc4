"""Hamming distance with weights: a query that is an embedding counts each bit by how sure its sign was.

Weights are whole numbers, and so small that faiss's tables of bytes hold the weights of four bits, and 16 bits those of
all (`scan.py`). So sums are exact in any order, ties are ties, and there is one such distance, however it is computed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from rsr_cli.core.codes.registry import METHODS
from rsr_cli.core.index.asked import Asked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.index.asked import Candidates
    from rsr_cli.core.records.space import Space

#: Longest codes that are searched by weights: beyond, the weights that 16 bits hold would be too coarse.
MOST_BITS = 1 << 13
#: The greatest sums of the weights of four bits, and of all bits; and by how much rounding may raise one weight.
SUM_OF_FOUR, SUM_OF_ALL, ROUNDING = 255, 65535 - 255, 0.5
#: Bytes of float64 that are computed with at once, which stay in the processor's cache.
BLOCK_BYTES = 1 << 19


class WeightedBits(Asked):
    """Queries of codes whose bits count by how far their values are from 0 (asymmetric distance).

    A bit that differs counts as its value's share of the query's mean absolute value, so that a distance is one of bits
    and equal to Hamming's where all values are as large. It orders as the Euclidean distance of the values to codes of
    1 and -1 does, or the inner product (Gordo et al. 2014, Asymmetric Distances for Binary Embeddings), up to the
    rounding of the weights to whole numbers, of which the four bits with the greatest sum have about 253.

    Parameters
    ----------
    values : numpy.ndarray
        (n, bits): the numbers whose signs are the queries' codes. Of nothing but zeros all weights are equal.

    Attributes
    ----------
    codes : numpy.ndarray
        uint8 (n, bytes): the signs.
    signed : numpy.ndarray
        float32 (n, 8 * bytes): the weights, with the sign of the value; 0 beyond the last bit.
    """

    def __init__(self, values: NDArray[Any]) -> None:
        weights = np.array([_weights(one) for one in values]).reshape(values.shape)  # one by one: the same in any batch
        self.codes = np.packbits(values > 0, axis=1)
        self.signed = np.zeros((len(values), 8 * self.codes.shape[1]), np.float32)
        self.signed[:, : values.shape[1]] = np.where(values > 0, weights, -weights)
        self._bits = values.shape[1]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, some: Any) -> WeightedBits:
        """Return some of the queries, by their numbers or as a slice."""
        chosen = WeightedBits(np.empty((0, self._bits)))
        chosen.codes, chosen.signed = self.codes[some], self.signed[some]
        return chosen

    @property
    def points(self) -> NDArray[np.uint8]:
        """What is compared with the middles of partitions: the codes."""
        return self.codes

    def distances(self, products: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return distances, float64 (n, k), from the sums of the signed weights of the bits that rows have, (n, k)."""
        weights = self.signed.astype(np.float64)
        most, total = weights.clip(0).sum(axis=1, keepdims=True), np.abs(weights).sum(axis=1, keepdims=True)
        return (most - products) * self._bits / total

    def measure(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the distances to codes (m, bytes), float64 (n, m)."""
        products = np.empty((len(self), len(codes)))
        weights = self.signed.astype(np.float64)
        step = max(1, BLOCK_BYTES // (8 * weights.shape[1]))
        for start in range(0, len(codes), step):
            some = slice(start, start + step)
            products[:, some] = weights @ np.unpackbits(codes[some], axis=1).T.astype(np.float64)
        return self.distances(products)

    def nearest(self, codes: NDArray[np.uint8], k: int) -> Iterator[Candidates]:
        """Yield of each query the k nearest of codes (m, bytes), by tables of the weights of each byte."""
        products, rows = np.empty((len(self), k), np.float32), np.empty((len(self), k), np.int64)
        heaps = faiss.float_minheap_array_t()
        heaps.nh, heaps.k, heaps.val, heaps.ids = len(self), k, faiss.swig_ptr(products), faiss.swig_ptr(rows)
        tables, queries = _quantizer(codes.shape[1]), np.ascontiguousarray(self.signed)
        tables.search_ip(faiss.swig_ptr(queries), len(self), faiss.swig_ptr(codes), len(codes), heaps, True)
        return self.ranked(products, rows)

    def ranked(self, products: NDArray[np.float32], rows: NDArray[np.int64]) -> Iterator[Candidates]:
        """Yield of each query the rows with the greatest products, (n, k), as `nearest` does."""
        for near, at in zip(self.distances(products), rows, strict=True):
            order = np.lexsort((at, near))
            yield near[order], at[order], float(near[order[-1]])


def by_weights(space: Space | None) -> bool:
    """Return whether embeddings ask the vectors of a space by weights: codes, as far as their method states it."""
    if space is None or space.kind != "code" or space.size > MOST_BITS:
        return False
    method = METHODS.get(str(space.facts.get("method")))
    return method is not None and method.is_weighed(space.facts)


def corners(bits: int) -> NDArray[np.float32]:
    """Return all codes of some bits in their order, float32 (2 ** bits, bits), the most significant bit first."""
    return np.unpackbits(np.arange(1 << bits, dtype=np.uint8)[:, None], axis=1)[:, 8 - bits :].astype(np.float32)


def use_bits(tables: Any, bits: int) -> None:
    """Have a product quantizer of faiss take each of its parts for some bits of a code."""
    faiss.copy_array_to_vector(np.tile(corners(bits), (tables.M, 1)).ravel(), tables.centroids)


@lru_cache(maxsize=2)
def _quantizer(width: int) -> Any:
    """Return faiss's product quantizer of codes of some bytes, a part per byte."""
    tables = faiss.ProductQuantizer(8 * width, width, 8)
    use_bits(tables, 8)
    return tables


def _weights(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the weights of the bits of one query, whole numbers (bits,)."""
    sizes = np.abs(values.astype(np.float64))
    if not sizes.any():
        sizes[:] = 1
    fours = np.pad(sizes, (0, -len(sizes) % 4)).reshape(-1, 4).sum(axis=1)
    scale = (SUM_OF_FOUR - 4 * ROUNDING) / fours.max()
    if len(sizes) <= MOST_BITS:
        scale = min(scale, (SUM_OF_ALL - len(sizes) * ROUNDING) / sizes.sum())
    weights: NDArray[np.float64] = np.rint(sizes * scale)
    return weights
