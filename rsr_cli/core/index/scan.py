"""A copy of a segment's codes that is scanned with the weights of a query's bits as fast as by Hamming distance.

scan.npy is uint8 (bytes,): lists of `LIST_ROWS` rows, the last one of a multiple of `BLOCK_ROWS`. A list is its codes
as faiss's fast scan reads them, in blocks that interleave rows (`packed`), and then the numbers of its rows as int64.

faiss compares with tables of bytes for each four bits, and adds in 16 bits (André et al. 2015, Cache Locality Is Not
Enough: High-Performance Nearest Neighbor Search with Product Quantization Fast Scan). It scales a query's tables so
that the greatest spans 255. A byte beyond the code's last one, 0 in each row, has a table that spans 255 whatever the
query is: so the scale is 1, and `WeightedBits`, which are whole numbers, are compared exactly.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from rsr_cli.core.errors import IndexFormatError
from rsr_cli.core.index.columns import ArrayFile, map_checked
from rsr_cli.core.index.weights import SUM_OF_FOUR, WeightedBits, by_weights, use_bits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from rsr_cli.core.index.asked import Candidates
    from rsr_cli.core.records.space import Space

SCAN = "scan.npy"
#: Rows below which codes are searched by tables of bytes as they are, in a millisecond or two.
FEWEST_ROWS = 50_000
#: Rows in a block: of 64, faiss compares a million as fast as by Hamming distance, of 32 half as fast.
BLOCK_ROWS = 64
#: A search of a part begins at a multiple of these rows: few, so that threads have equal parts, and each list costs.
LIST_ROWS = 1 << 16
#: Rows that are packed at once, which stay in the processor's cache.
PACKED_ROWS = 1 << 13
#: Where the rows of half a block stand: byte i of rows i and i + 16, in this order.
ORDER = np.arange(16).reshape(2, 8).T.ravel()


def packed(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return codes as faiss's ``pq4_fast_scan`` reads them.

    For each block of `BLOCK_ROWS` rows, for each byte of a code, for each 32 rows of the block: the lower four bits of
    that byte of two rows in each of 16 bytes, and then the upper four.

    Parameters
    ----------
    codes : numpy.ndarray
        uint8 (n, bytes).

    Returns
    -------
    numpy.ndarray
        uint8 (blocks, (bytes + 1) * `BLOCK_ROWS`): a byte per code more, which is 0, as are the rows beyond the n-th.
    """
    count, width = codes.shape
    padded = np.zeros((_room(count), width + 1), np.uint8)
    padded[:count, :width] = codes
    rows = padded.reshape(-1, BLOCK_ROWS // 32, 2, 16, width + 1)[:, :, :, ORDER]
    first, second = rows[:, :, 0], rows[:, :, 1]
    pairs = np.concatenate([first & 15 | second << 4, first >> 4 | second & 240], axis=2)
    return np.ascontiguousarray(pairs.transpose(0, 3, 1, 2)).reshape(len(rows), -1)


def write_scan(directory: Path, codes: NDArray[np.uint8]) -> None:
    """Write the file of a segment's codes, uint8 (n, bytes)."""
    file = ArrayFile(directory / SCAN, np.uint8)
    for piece in _pieces(codes):
        file.append(piece)
    file.close()


def _pieces(codes: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of the file of codes (n, bytes), piece by piece."""
    for first in range(0, len(codes), LIST_ROWS):
        some = codes[first : first + LIST_ROWS]
        for start in range(0, len(some), PACKED_ROWS):
            yield packed(some[start : start + PACKED_ROWS]).ravel()
        yield np.arange(first, first + _room(len(some))).view(np.uint8)


def _room(rows: Any) -> Any:
    """Return how many rows there is room for, where there are some: whole blocks."""
    return -(-rows // BLOCK_ROWS) * BLOCK_ROWS


def is_scanned(space: Space | None, count: int) -> bool:
    """Return whether a segment of some vectors has the file: enough codes that embeddings ask by weights of bits."""
    return count >= FEWEST_ROWS and by_weights(space)


class Scan:
    """The file of an open segment, mapped when it is first asked for, and checked.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    count : int
        Number of rows.
    width : int
        Bytes of a code.
    """

    def __init__(self, directory: Path, count: int, width: int) -> None:
        self._path = directory / SCAN
        self._count = count
        self._width = width + 1

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        return map_checked(self._path, np.uint8, (_room(self._count) * (self._width + 8),))

    @cached_property
    def _opened(self) -> tuple[Any, ...]:
        """The index of faiss, and what it uses and does not own; the lists stay in the mapped file."""
        mapped, width = self._bytes, self._width
        offset = self._path.stat().st_size - len(mapped)
        starts = np.arange(0, self._count, LIST_ROWS)
        sizes = np.minimum(LIST_ROWS, self._count - starts)
        lists: Any = faiss.OnDiskInvertedLists(len(starts), width, str(self._path))
        lists.read_only = True
        lists.prefetch_nthread = 0
        lists.totsize = offset + len(mapped)
        table = np.stack([sizes, _room(sizes), offset + starts * (width + 8)], axis=1).astype(np.uint64)
        faiss.memcpy(lists.lists.data(), faiss.swig_ptr(table), table.nbytes)
        try:
            lists.do_mmap()
        except RuntimeError:
            raise self._damaged("it cannot be mapped") from None
        shape = 8 * width, len(starts), 2 * width, 4
        coarse: Any = faiss.IndexFlatIP(8 * width)
        index: Any = faiss.IndexIVFPQFastScan(coarse, *shape, faiss.METRIC_INNER_PRODUCT, BLOCK_ROWS)
        index.by_residual = False
        use_bits(index.pq, 4)
        index.is_trained, index.ntotal = True, self._count
        index.replace_invlists(lists)
        return index, coarse, lists

    def _damaged(self, what: str) -> IndexFormatError:
        return IndexFormatError(f"is damaged: {what}", str(self._path), remedy="rebuild")

    def nearest(self, queries: WeightedBits, k: int, start: int, count: int) -> Iterator[Candidates]:
        """Return of each query the k nearest of some rows, and at most all, as `WeightedBits.nearest` does.

        Parameters
        ----------
        queries : WeightedBits
            As many as n.
        k : int
            Number of rows.
        start, count : int
            The first of the rows, the first of a list, from which they are counted; and how many there are: up to the
            end of a list.

        Raises
        ------
        IndexFormatError
            The file is damaged.
        """
        index, *_used = self._opened  # held here, as another thread may open them too
        numbers = np.arange(start // LIST_ROWS, -(-(start + count) // LIST_ROWS))
        lists = np.tile(numbers, (len(queries), 1))
        settings = faiss.SearchParametersIVF()
        settings.nprobe = len(numbers)
        # Of each byte faiss takes the lower four bits first. The table of the byte beyond adds 255 to each row, as
        # faiss leaves out those whose sum is 0.
        halves = queries.signed.reshape(len(queries), -1, 2, 4)[:, :, ::-1].reshape(len(queries), -1)
        weights = np.pad(halves, ((0, 0), (0, 8)))
        weights[:, -8] = -SUM_OF_FOUR
        products, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        apart = np.zeros(lists.shape, np.float32)  # the distances of the lists, which count for nothing
        of_queries, *others = map(faiss.swig_ptr, (weights, lists, apart, products, rows))
        index.search_preassigned_c(len(queries), of_queries, k, *others, False, settings)
        if (rows < start).any() or (rows >= start + count).any():
            raise self._damaged("it has numbers beyond the segment's rows")
        return queries.ranked(products, rows - start)

    def check(self, codes: NDArray[np.uint8]) -> None:
        """Raise IndexFormatError unless the file is made of a segment's codes, uint8 (n, bytes)."""
        at = 0
        for piece in _pieces(codes):
            if not np.array_equal(self._bytes[at : at + len(piece)], piece):
                raise self._damaged("it is not made of the segment's codes")
            at += len(piece)
