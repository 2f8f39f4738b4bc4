"""Exact search of vectors by brute force.

Codes are compared by Hamming distance, or by weights of bits, in integers. For embeddings faiss finds candidates in
float32, and the candidates are measured again in float64; a bound on float32's rounding error tells when no row outside
them can belong to the result. So the ranking is that of a brute-force search by (distance, row), whatever the batch or
the number of threads. Embeddings of int8 and float16 are turned to float32 block by block for that, and measured as
they are stored.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import faiss
import numpy as np

from rsr_cli.core.errors import IndexFormatError
from rsr_cli.core.fitted.transform import of_unit_length
from rsr_cli.core.index.asked import COMPARED_ROWS, FLOAT32_ROUNDING, Asked, hammings
from rsr_cli.core.index.kept import Kept, share_of
from rsr_cli.core.index.manifest import HAMMING, MAX_NORM
from rsr_cli.core.index.scan import LIST_ROWS
from rsr_cli.core.index.stored import Stored
from rsr_cli.core.index.weights import WeightedBits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.index.asked import Candidates
    from rsr_cli.core.index.scan import Scan
    from rsr_cli.core.index.stored import Vectors
    from rsr_cli.core.records.batch import Batch

    #: Codes, uint8 (n, bytes), or what asks them by other numbers; or embeddings, float32 (n, dim).
    Queries = NDArray[Any] | Asked
    #: The distances, float64 (hits,), and the rows, int64 (hits,), of one query.
    Found = tuple[NDArray[np.float64], NDArray[np.int64]]
    #: Searches an array with the queries of some numbers for k rows each.
    Search = Callable[["Flat", NDArray[np.intp], int | None], list[Found]]

T = TypeVar("T")
R = TypeVar("R")

#: Candidates of a search by radius alone, before more are asked for.
FIRST_CANDIDATES = 256
#: Candidates beyond those asked for, so that float32's rounding rarely asks for a second search.
SPARE_CANDIDATES = 32
GROWTH = 4
#: Bytes of embeddings in float64 that a thread measures at once.
MEASURED_BYTES = 1 << 18
FLOAT32_UNDERFLOW = 2.0**-126  # greatest absolute error of a number below float32's normal ones, flushed to zero or not
#: Maximum number of candidates in memory, and of queries by weights, which have tables of 100 kB or so.
CANDIDATES, WEIGHTED = 1 << 22, 1 << 8
#: Nanoseconds, about, that decide how rows that may be hits are found: to search a byte of a row, also by tables of
#: weights, to return one more row of a search, to copy a row and a byte of it, to test a row among all or alone, and to
#: read its record for that.
SEARCH_BYTE, TABLE_BYTE, RETURN, COPY, COPY_BYTE, TEST, TEST_ONE, READ = 0.0375, 0.45, 2000, 25, 0.25, 1.2, 150, 20_000
#: Rows that may be hits to search for beyond k: standard deviations of their number, and some; and rows of all.
DEVIATIONS, SOME, SPARE_ROWS = 2.5, 3, 8
#: Bytes of vectors that are copied at once, which stay in the processor's cache; as many rows per hit at least; and the
#: most bytes for these.
COPIED_BYTES, COPIED_PER_HIT, MOST_COPIED_BYTES = 1 << 21, 16, 1 << 26
#: Queries for which a block of int8 or float16 is turned to float32 once.
QUERIES_AT_ONCE = 1024
#: Bytes of vectors that a thread searches for one query, in a part of an array at least.
PART_BYTES = 1 << 22
#: A thread takes several arrays of codes together, if so many hits or fewer are asked for: arrays of so many bytes
#: together, and any number of those of few bytes.
TOGETHER_HITS, TOGETHER_BYTES, FEW_BYTES = 100, 1 << 26, 1 << 20

#: Cosine distance up to which embeddings count as equal: each may have been rounded to float32 twice.
EQUAL = 2 * (2 * FLOAT32_ROUNDING) ** 2
FAISS_METRIC = {
    "l1": faiss.METRIC_L1,
    "l2": faiss.METRIC_L2,
    "cosine": faiss.METRIC_INNER_PRODUCT,
    "dot": faiss.METRIC_INNER_PRODUCT,
}


def drop_too_long(batch: Batch, skips: Skips) -> float:
    """Drop records whose embedding is so long that distances would not be float32.

    Returns
    -------
    float
        Greatest Euclidean norm of the others.

    Raises
    ------
    RecordError
        An embedding is too long.
    """
    assert batch.vectors is not None
    norms = np.linalg.norm(batch.vectors.astype(np.float64), axis=1)
    sound = norms <= MAX_NORM
    batch.keep_sound(sound, lambda i: f"its embedding is {norms[i]:.1e} long, too long for float32", skips)
    return float(norms.max(initial=0, where=sound))


def unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors (n, dim) scaled to length 1; a vector of zeros stays."""
    with np.errstate(invalid="ignore"):  # of an index with values that are not finite, which its search refuses
        return of_unit_length(values).astype(np.float32)


class Flat:
    """Searches an array of vectors.

    Parameters
    ----------
    vectors : numpy.ndarray or Stored
        uint8 (n, bytes) of codes, or embeddings (n, dim), of unit length for ``cosine``; may be mapped.
    metric : str
        ``hamming`` or one of `manifest.METRICS`.
    max_norm : float
        Greatest Euclidean norm of an embedding.
    kept : Kept, optional
        Which rows may be hits.
    first : int
        Number of the first row.
    scan : Scan, optional
        The codes of the segment, to be compared by weights of bits.
    start : int
        The row of the segment that is the first one here.
    """

    def __init__(
        self,
        vectors: Vectors,
        metric: str,
        max_norm: float,
        kept: Kept | None = None,
        first: int = 0,
        scan: Scan | None = None,
        start: int = 0,
    ) -> None:
        self.vectors: Any = vectors
        self.metric = metric
        self.max_norm = max_norm
        self.kept = kept
        self.first = first
        self.scan = scan
        self._start = start

    def part(self, rows: slice) -> Flat:
        """Return a search of some of the rows."""
        kept = None if self.kept is None else Kept.where(self.kept.mask[rows])
        first, start = self.first + rows.start, self._start + rows.start
        return Flat(self.vectors[rows], self.metric, self.max_norm, kept, first, self.scan, start)

    def of_all(self) -> Flat:
        """Return a search of all rows, whether or not they may be hits."""
        return Flat(self.vectors, self.metric, self.max_norm, None, self.first, self.scan, self._start)

    def search(self, queries: Queries, k: int | None = None, radius: float | None = None) -> list[Found]:
        """Find each query's nearest rows, in the order of (distance, row).

        Parameters
        ----------
        queries : numpy.ndarray or Asked
            uint8 (n, bytes) of codes, or what asks codes by other numbers; or float32 (n, dim) of embeddings.
        k : int, optional
            Maximum number of hits per query.
        radius : float, optional
            Maximum distance of a hit.

        Returns
        -------
        list of tuple
            For each query the distances, float64 (hits,), and the rows, int64 (hits,). Distances are bits that
            differ for codes, or what `Asked` measures; for embeddings sums of absolute differences (l1), Euclidean
            (l2), one minus the cosine, or the negative dot product.

        Raises
        ------
        IndexFormatError
            A vector has values that are not finite.
        """
        if self.metric == "cosine" and not isinstance(queries, Asked):
            queries = unit(queries)
        found = self._search(queries, k, radius)
        return [(distances, rows + self.first) for distances, rows in found]

    def combined(
        self,
        codes: NDArray[np.uint8],
        weights: NDArray[np.int64],
        divisor: int,
        k: int | None = None,
        radius: float | None = None,
    ) -> Found:
        """Find the rows of codes whose weighted sum of distances to several codes is least, by (sum, row).

        Every row is compared: no bound tells which rows a sum of distances can leave out.

        Parameters
        ----------
        codes : numpy.ndarray
            uint8 (m, bytes).
        weights : numpy.ndarray
            int64 (m,): that of the distance to each code, times ``divisor``.
        divisor : int
            What the sums are divided by, so that they are whole numbers until then.
        k, radius
            As in `search`; the radius is one of sums.

        Returns
        -------
        tuple of numpy.ndarray
            The sums, float64 (hits,), and the rows, int64 (hits,).
        """
        count = len(self.vectors)
        wanted = count if k is None else min(k, count)
        sums, rows = np.empty(0), np.empty(0, np.int64)
        farthest = np.inf if radius is None else radius
        for start in range(0, count, COMPARED_ROWS):
            near = weights @ hammings(codes, self.vectors[start : start + COMPARED_ROWS]) / divisor
            possible = near <= farthest
            if self.kept is not None:
                possible &= self.kept.mask[start : start + COMPARED_ROWS]
            chosen = np.flatnonzero(possible)
            sums, rows = np.concatenate([sums, near[chosen]]), np.concatenate([rows, start + chosen])
            if len(sums) > wanted:
                order = np.lexsort((rows, sums))[:wanted]
                sums, rows = sums[order], rows[order]
                farthest = sums[-1]
        order = np.lexsort((rows, sums))
        return sums[order], rows[order] + self.first

    def measure(self, queries: Queries, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the distances of queries to some rows, float64 (queries, rows), exactly as `search` measures them.

        The rows are counted from 0.

        Raises
        ------
        IndexFormatError
            A vector has values that are not finite.
        """
        vectors = self.vectors[rows]
        if isinstance(queries, Asked):
            return queries.measure(vectors)
        if self.metric == HAMMING:
            return hammings(queries, vectors).astype(np.float64)
        wide = in_float64(unit(queries) if self.metric == "cosine" else queries, self.metric)
        with np.errstate(invalid="ignore"):
            found = np.array([measured(self.metric, query, vectors) for query in wide]).reshape(len(wide), len(rows))
        _check_finite(found)
        return found

    def _search(self, queries: Queries, k: int | None, radius: float | None) -> list[Found]:
        """Search as `search` does, with rows that are counted from 0."""
        if self.kept is not None:
            return self._copied(queries, k, radius)
        exact, most = self.metric == HAMMING, CANDIDATES
        if isinstance(queries, Asked):
            exact, most = False, WEIGHTED
        elif exact and k is not None:
            return self._codes(queries, k, np.inf if radius is None else radius)
        count = len(self.vectors)
        wanted = count if k is None else min(k, count)
        width = min(count, FIRST_CANDIDATES if k is None else wanted if exact else wanted + SPARE_CANDIDATES)
        farthest = np.inf if radius is None else radius
        results: list[Any] = [None] * len(queries)
        open_queries = np.arange(len(queries))
        while len(open_queries):
            unsettled = []
            step = min(max(1, CANDIDATES // width), most)
            for start in range(0, len(open_queries), step):
                some = open_queries[start : start + step]
                found = self._candidates(queries[some], width, wanted)
                for i, (distances, rows, beyond) in zip(some, found, strict=True):
                    limit = min(farthest, distances[wanted - 1]) if len(distances) >= wanted else farthest
                    if not (width == count or limit < beyond or (exact and len(distances) >= wanted)):
                        unsettled.append(i)
                        continue
                    hits = min(wanted, np.count_nonzero(distances <= farthest))
                    results[i] = (distances[:hits].copy(), rows[:hits].copy())
            open_queries = np.array(unsettled, dtype=np.intp)
            width = min(count, width * GROWTH)
        return results

    def _codes(self, queries: NDArray[np.uint8], k: int, radius: float) -> list[Found]:
        """Search for the k nearest codes, which faiss ranks by (distance, row)."""
        k = min(k, len(self.vectors))
        if not k:
            return [(np.empty(0), np.empty(0, np.int64)) for _ in queries]
        found: list[Found] = []
        step = max(1, CANDIDATES // k)
        for start in range(0, len(queries), step):
            near, rows = self._nearest(np.ascontiguousarray(queries[start : start + step]), k)
            found += zip(near.astype(np.float64), rows, strict=True)
        if radius == np.inf:
            return found
        return [(near[near <= radius], rows[near <= radius]) for near, rows in found]

    def _copied(self, queries: Queries, k: int | None, radius: float | None) -> list[Found]:
        """Search the rows that may be hits, copied piece by piece."""
        assert self.kept is not None
        chosen = self.kept.mask.nonzero()[0]
        row_bytes = max(1, self.vectors[:1].nbytes)
        wanted = min(max(COPIED_BYTES // row_bytes, COPIED_PER_HIT * (k or 0)), MOST_COPIED_BYTES // row_bytes)
        size = min(max(1, wanted), len(chosen))
        is_array = isinstance(self.vectors, np.ndarray)
        buffer = np.empty((size, self.vectors.shape[1]), self.vectors.dtype) if is_array else None
        found: list[list[Found]] = []
        for start in range(0, len(chosen), max(1, size)):
            rows = chosen[start : start + size]
            if buffer is None:
                values = self.vectors[rows]
            else:
                values = np.take(self.vectors, rows, axis=0, out=buffer[: len(rows)], mode="clip")
            pieces = Flat(values, self.metric, self.max_norm)._search(queries, k, radius)
            found.append([(distances, rows[at]) for distances, at in pieces])
        return merged(found, len(queries), k)

    def _candidates(self, queries: Queries, width: int, k: int) -> Iterator[Candidates]:
        """Yield what the nearest rows tell of the k nearest, as `rescore` does, and all of them for codes."""
        if isinstance(queries, Asked):
            if self.scan is not None and isinstance(queries, WeightedBits):
                yield from self.scan.nearest(queries, width, self._start, len(self.vectors))
            else:
                yield from queries.nearest(self.vectors, width)
            return
        queries = np.ascontiguousarray(queries)
        near, rows = self._nearest(queries, width)
        if self.metric == HAMMING:
            yield from ((each.astype(np.float64), at, float(each[-1])) for each, at in zip(near, rows, strict=True))
        else:
            yield from self.rescore(queries, near, rows, k, self.vectors, rows)

    def _nearest(self, queries: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return faiss's k nearest rows per query: their distances (n, k) and numbers (n, k)."""
        if self.metric == HAMMING:
            found: tuple[NDArray[Any], NDArray[np.int64]] = faiss.knn_hamming(queries, self.vectors, k)
            return found
        if isinstance(self.vectors, Stored):
            near, rows = _nearest_stored(queries, self.vectors, self.metric, k)
        else:
            near, rows = faiss.knn(queries, self.vectors, k, FAISS_METRIC[self.metric])
        _check_finite(np.where(rows < 0, np.inf, near))
        return near, rows

    def rescore(
        self,
        queries: NDArray[np.float32],
        near: NDArray[np.float32],
        rows: NDArray[np.int64],
        k: int,
        vectors: Vectors,
        at: NDArray[np.int64],
    ) -> Iterator[Candidates]:
        """Measure candidates in float64 and sort them by (distance, row).

        Those that are farther than the k-th, whatever was rounded, are left out. The bound is the greatest rounding
        error of a float32 sum of dim + 3 products in any order, underflow included (Higham 2002, Accuracy and Stability
        of Numerical Algorithms, sections 2.1 and 3.1).

        Parameters
        ----------
        queries : numpy.ndarray
            float32 (n, dim).
        near : numpy.ndarray
            float32 (n, candidates): faiss's distances or products, the nearest first.
        rows : numpy.ndarray
            int64 (n, candidates), -1 for what is no candidate.
        k : int
            Number of rows that are wanted.
        vectors : numpy.ndarray or Stored
            (any, dim): where the vectors of the candidates are.
        at : numpy.ndarray
            int64 (n, candidates): the numbers of the candidates' vectors among these.

        Yields
        ------
        tuple
            Of each query the distances, float64 (hits,), the rows, int64 (hits,), and a distance that no row beyond
            ``near`` is below.
        """
        wide = in_float64(queries, self.metric)
        dim, norms = wide.shape[1], np.linalg.norm(wide, axis=1)
        terms = (dim + 3) * FLOAT32_ROUNDING
        gamma = terms / (1 - terms)
        # faiss's distance times `share`, less `lost`, is no more than the distance.
        share = 1 - gamma if self.metric == "l1" else 1.0
        lost = 4 * (dim + 3) * FLOAT32_UNDERFLOW * (1 + norms + self.max_norm)  # per product, a sum and two operands
        if self.metric == "l2":
            lost += gamma * (norms + self.max_norm) ** 2
        elif self.metric != "l1":
            lost += gamma * norms * self.max_norm
        if self.metric == "cosine":  # of unit vectors whose lengths were rounded too
            lost += 8 * FLOAT32_ROUNDING
        least = near.astype(np.float64) if self.metric in ("l1", "l2") else -near.astype(np.float64)
        least *= share
        least -= lost[:, None]
        may = rows >= 0
        if terms < 0.5:  # else there is no bound
            kth = np.where(may & (may.cumsum(axis=1) == k), least, np.inf).min(axis=1)
            may &= least <= (((kth + lost) / share + lost) / share)[:, None]
        distances = self._measured(wide, may, vectors, at)
        order = np.lexsort((rows, distances))
        beyond = least[:, -1] if terms < 0.5 else np.full(len(least), -np.inf)
        if self.metric == "l2":
            beyond = np.sqrt(np.maximum(beyond, 0))
        elif self.metric == "cosine":
            beyond = beyond + 1
        for i, count in enumerate(np.count_nonzero(may, axis=1).tolist()):
            ranked = order[i, :count]
            yield distances[i, ranked], rows[i, ranked], float(beyond[i])

    def _measured(
        self, wide: NDArray[np.float64], may: NDArray[np.bool_], vectors: Vectors, at: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the distances (n, candidates) of queries to their candidates that may be hits, and infinity else."""
        distances = np.full(may.shape, np.inf)
        chosen = may.ravel().nonzero()[0]
        size = max(1, MEASURED_BYTES // max(1, wide[:1].nbytes))

        def measure(start: int) -> None:
            some = chosen[start : start + size]
            with np.errstate(invalid="ignore"):
                near = measured(self.metric, wide[some // may.shape[1]], vectors[at.ravel()[some]])
            _check_finite(near)
            distances.ravel()[some] = near

        in_threads(measure, range(0, len(chosen), size))
        return distances


def _nearest_stored(
    queries: NDArray[np.float32], vectors: Stored, metric: str, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return what `faiss.knn` does, of int8 or float16: blocks are turned to float32 in the processor's cache.

    A product is multiplied by the scale of its row, which takes less time than to multiply the row. Each product is
    computed alone: a library of linear algebra would divide small ones among threads of its own.
    """
    are_products = metric in ("cosine", "dot")
    step = max(1, COPIED_BYTES // (4 * vectors.shape[1]))
    buffer = np.empty((min(step, len(vectors)), vectors.shape[1]), np.float32)
    near, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for first in range(0, len(queries), QUERIES_AT_ONCE):
        some = queries[first : first + QUERIES_AT_ONCE]
        heap = faiss.ResultHeap(len(some), k, keep_max=are_products)
        for start in range(0, len(vectors), step):
            block = vectors[start : start + step]
            if are_products:
                found = _products(some, block.unscaled(buffer))
                if block.scales is not None:
                    found *= block.scales
                at = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
            else:
                found, at = faiss.knn(some, block.scaled(buffer), min(k, len(block)), FAISS_METRIC[metric])
                at += start
            heap.add_result(found, np.ascontiguousarray(at))
        heap.finalize()
        near[first : first + len(some)], rows[first : first + len(some)] = heap.D, heap.I
    return near, rows


def _products(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the products of queries (m, dim) and vectors (n, dim): float32 (m, n)."""
    found = np.empty((len(queries), len(vectors)), np.float32)
    for query, products in zip(queries, found, strict=True):
        operands = map(faiss.swig_ptr, (products, query, vectors))
        faiss.fvec_inner_products_ny(*operands, *vectors.shape[::-1])  # type: ignore[attr-defined]
    return found


def _check_finite(distances: NDArray[np.floating[Any]]) -> None:
    if not np.isfinite(distances).all():
        raise IndexFormatError("has vectors with values that are not numbers, or too large ones", remedy="rebuild")


def merged(found: Sequence[Sequence[Found]], n_queries: int, k: int | None) -> list[Found]:
    """Merge what was found in several parts: the nearest rows of each query, in the order of (distance, row)."""
    if len(found) == 1:
        return list(found[0])
    results: list[Found] = []
    for i in range(n_queries):
        distances = np.concatenate([part[i][0] for part in found] or [np.empty(0)])
        rows = np.concatenate([part[i][1] for part in found] or [np.empty(0, np.int64)])
        order = np.lexsort((rows, distances))[:k]
        results.append((distances[order], rows[order]))
    return results


def nearest(
    flats: Sequence[Flat], search: Search, n_queries: int, k: int | None, *, weighted: bool = False
) -> list[Found]:
    """Search several arrays as if they were one, for the rows that may be hits.

    Either more rows are searched for, and of these alone it is tested whether they may be hits, or all rows are tested,
    and those that may be are copied and searched: what takes less time, and finds the same.

    Parameters
    ----------
    flats : sequence of Flat
        The arrays.
    search : callable
        Called with an array, the numbers of some queries, and k, returns what is found for these.
    n_queries : int
        Number of queries.
    k : int or None
        Maximum number of hits per query.
    weighted : bool
        Codes are asked by numbers (`Asked`), which takes longer per byte.

    Returns
    -------
    list of tuple
        For each query the distances, float64 (hits,), and the rows, int64 (hits,), in the order of (distance, row).
    """
    results: list[Any] = [None] * n_queries
    missing = np.arange(n_queries)
    share = _share(flats) if any(flat.kept is not None for flat in flats) else 0.0
    whole = [flat.of_all() for flat in flats] if share else []
    width = None if k is None else rows_for(k, share)
    while share and len(missing) and _more_is_faster(flats, share, len(missing), k, width, weighted):
        step = max(1, CANDIDATES // _returned(flats, width))
        for start in range(0, len(missing), step):
            some = missing[start : start + step]
            found = _in_parts(whole, search, some, width)
            for i, (distances, rows), may in zip(some, found, may_be_hits(flats, found), strict=True):
                if width is None or len(rows) < width or (k is not None and np.count_nonzero(may) >= k):
                    results[i] = distances[may][:k], rows[may][:k]
        missing = np.array([i for i in missing if results[i] is None], np.intp)
        width = width and width * GROWTH
    return completed(results, lambda missing: _in_parts(flats, search, missing, k))


def completed(results: list[Found | None], search: Callable[[NDArray[np.intp]], list[Found]]) -> list[Found]:
    """Return the results of queries, those that are ``None`` found by a search for the queries of these numbers."""
    missing = np.array([i for i, found in enumerate(results) if found is None], np.intp)
    found = iter(search(missing) if len(missing) else ())
    return [next(found) if each is None else each for each in results]


def rows_for(k: int, share: float) -> int:
    """Return how many rows to search for, so that hardly ever fewer than k may be hits, if any row may by chance."""
    share = max(share, 1e-9)
    return int((k + DEVIATIONS * (k * (1 - share)) ** 0.5 + SOME * (1 - share)) / share) + SPARE_ROWS


def _share(flats: Sequence[Flat]) -> float:
    """Return about which share of the rows of several arrays may be hits."""
    count = sum(len(flat.vectors) for flat in flats)
    limited = [flat.kept for flat in flats if flat.kept is not None]
    left_out = sum(kept.count for kept in limited) * (1 - share_of(limited))
    return 1 - left_out / max(1, count)


def _returned(flats: Sequence[Flat], k: int | None) -> int:
    """Return how many rows of several arrays a search for k rows returns before they are merged."""
    return sum(min(FIRST_CANDIDATES if k is None else k, len(flat.vectors)) for flat in flats)


def _more_is_faster(
    flats: Sequence[Flat], share: float, n_queries: int, k: int | None, width: int | None, weighted: bool
) -> bool:
    """Return whether to search for more rows takes less time than to test all and to copy those that may be hits."""
    limited = [flat.kept for flat in flats if flat.kept is not None]
    count, row_bytes = sum(len(flat.vectors) for flat in flats), flats[0].vectors[:1].nbytes
    untested = sum(kept.untested for kept in limited)
    slow = any(kept.slow and kept.untested for kept in limited)
    returned = _returned(flats, width) - _returned(flats, k)
    tested = 0 if not untested else (width or FIRST_CANDIDATES) * (READ if slow else TEST_ONE)
    scanned = sum(len(flat.vectors) for flat in flats if flat.scan is not None or not weighted)
    copied_byte = TABLE_BYTE if weighted else SEARCH_BYTE
    searched = scanned * SEARCH_BYTE + (count - scanned) * TABLE_BYTE - share * count * copied_byte
    more = n_queries * (row_bytes * searched + returned * RETURN + tested)
    return more < share * count * (COPY + row_bytes * COPY_BYTE) + untested * (READ if slow else TEST)


def may_be_hits(flats: Sequence[Flat], found: Sequence[Found]) -> list[NDArray[np.bool_]]:
    """Return which rows that were found, bool (hits,) for each query, may be hits, in arrays one after the other."""
    rows = np.concatenate([rows for _, rows in found])
    may = np.ones(len(rows), np.bool_)
    owners = np.searchsorted([flat.first for flat in flats], rows, side="right") - 1
    for number in np.unique(owners) if len(flats) > 1 else [0]:
        flat = flats[number]
        if flat.kept is not None:
            mine = owners == number
            may[mine] = flat.kept.of(rows[mine] - flat.first)
    return np.split(may, np.cumsum([len(rows) for _, rows in found])[:-1])


def _in_parts(flats: Sequence[Flat], search: Search, some: NDArray[np.intp], k: int | None) -> list[Found]:
    """Search several arrays for some queries.

    Faiss uses several threads for several queries; for fewer, and for embeddings that are turned to float32, the arrays
    are divided among as many threads.
    """
    threads = faiss.omp_get_max_threads()
    if len(some) >= threads and not isinstance(flats[0].vectors, Stored):
        return merged([search(flat, some, k) for flat in flats], len(some), k)
    tasks = _tasks(flats, threads, k)
    found = in_threads(lambda parts: [search(part, some, k) for part in parts], tasks)
    return merged([part for parts in found for part in parts], len(some), k)


def _tasks(flats: Sequence[Flat], threads: int, k: int | None) -> list[list[Flat]]:
    """Divide arrays among threads: large ones in parts, and several small ones of codes together.

    Between two small arrays Python has as much to do as faiss within one, and only one thread at a time does it.
    """
    together = flats[0].metric == HAMMING and k is not None and k <= TOGETHER_HITS
    most = min(TOGETHER_BYTES, sum(flat.vectors.nbytes for flat in flats) // threads)
    tasks: list[list[Flat]] = []
    room = 0
    for flat in flats:
        parts = _divided(flat, threads)
        size = flat.vectors.nbytes if flat.vectors.nbytes > FEW_BYTES else 0
        if not together or len(parts) > 1 or size > room or not tasks:
            tasks += [[part] for part in parts]
            room = most - size if len(parts) == 1 else 0
        else:
            tasks[-1] += parts
            room -= size
    return tasks


def in_threads(work: Callable[[T], R], each: Sequence[T]) -> list[R]:
    """Return what a function makes of several things, in as many threads as faiss uses."""
    threads = min(faiss.omp_get_max_threads(), len(each))
    if threads <= 1:
        return list(map(work, each))
    with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, each))


def _divided(whole: Flat, threads: int) -> list[Flat]:
    """Divide an array among threads, unless it is small."""
    count = len(whole.vectors)
    pieces = max(1, min(threads, whole.vectors.nbytes // PART_BYTES))
    size = -(-count // pieces)
    if whole.scan is not None:
        size = -(-size // LIST_ROWS) * LIST_ROWS
    return [whole.part(slice(first, min(first + size, count))) for first in range(0, count, size)]


def ranked(distances: NDArray[np.float64], rows: NDArray[np.int64], radius: float | None = None) -> Found:
    """Return rows and their distances in the order of (distance, row), those that are no farther than a radius."""
    order = np.lexsort((rows, distances))
    near = order if radius is None else order[distances[order] <= radius]
    return distances[near], rows[near]


def in_float64(queries: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """Return queries (n, dim), of unit length for ``cosine``, as `measured` takes them, float64 (n, dim)."""
    return of_unit_length(queries) if metric == "cosine" else queries.astype(np.float64)


def measured(metric: str, query: NDArray[np.float64], vectors: Vectors) -> NDArray[np.float64]:
    """Return the distances, float64 (n,), of embeddings (n, dim) to a query (dim,), or each to its own query (n, dim).

    Each is computed alone, of a query that `in_float64` returned. One minus the cosine is half the squared distance of
    the vectors scaled to length 1, and is computed so, as the error of a small distance is small then; what rounding
    both to float32 may have made is 0. To a vector of zeros it is 1.
    """
    vectors = np.asarray(vectors, np.float64)
    if metric == "l1":
        return np.abs(vectors - query).sum(axis=1)
    if metric == "l2":
        return np.sqrt(np.square(vectors - query).sum(axis=1))
    if metric == "dot":
        return 0.0 - (vectors * query).sum(axis=1)  # and no zero with a sign
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = vectors / np.where(lengths > 0, lengths, 1)
    apart -= query
    halves = np.square(apart, out=apart).sum(axis=1) / 2
    halves[halves <= EQUAL] = 0
    return np.where((lengths[:, 0] == 0) | ~query.any(axis=-1), 1.0, halves)
