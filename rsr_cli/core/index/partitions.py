"""Partitions: a search of the nearest partitions of a segment alone, with a recall that was measured.

A segment's vectors are stored a second time, embeddings as float32, partition by partition, in files that are mapped:

partitions.npy        uint8 (bytes,): for each partition its vectors, then the numbers of their rows as int64, each with
                      room for a multiple of `UNIT` rows
partition_ends.npy    int64 (partitions,): how many rows the partitions up to each have
centroids.npy         the middle of each partition: uint8 (partitions, bytes) of codes, or float32 (partitions, dim) of
                      embeddings, whole numbers on a grid
grid.npy              float64 (2, dim), of embeddings: the grid's origin, and its step in each dimension

faiss's inverted lists scan them; of embeddings, each is read once for many queries. Neither the partitions nor what a
search finds depends on the batch, the threads or the processor: codes are compared in integers, also by weights of
their bits, for which the partitions nearest to a query's code are searched; coordinates on the grid
are so small that float32 adds them exactly, and hits are ranked by (distance, row) as by `Flat`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from rsr_cli.core.errors import IndexFormatError, UsageError
from rsr_cli.core.index.asked import Asked, AskedFitted
from rsr_cli.core.index.columns import ArrayFile, map_checked
from rsr_cli.core.index.flat import (
    CANDIDATES,
    FAISS_METRIC,
    GROWTH,
    SPARE_CANDIDATES,
    Flat,
    completed,
    in_threads,
    may_be_hits,
    nearest,
    rows_for,
    unit,
)
from rsr_cli.core.index.manifest import HAMMING
from rsr_cli.core.index.stored import Stored
from rsr_cli.core.index.weights import WeightedBits, use_bits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from rsr_cli.core.codes.base import FittedCode
    from rsr_cli.core.index.asked import Candidates
    from rsr_cli.core.index.flat import Found, Queries
    from rsr_cli.core.index.stored import Vectors

LISTS, ENDS, CENTROIDS, GRID = "partitions.npy", "partition_ends.npy", "centroids.npy", "grid.npy"
#: Rows below which a segment is searched flat in a fraction of a millisecond.
FEWEST_ROWS = 50_000
#: Rows per partition that the partitions are learned from, and how often their centroids are moved.
SAMPLE, ITERATIONS = 50, 10
#: Number of coordinates, of rows and centroids together, that are compared at once.
AT_ONCE = 1 << 22
#: A block of a list has room for a multiple of this many rows, so that row numbers are aligned.
UNIT = 8
#: Rows that are held back to measure the recall, of codes and, which are slower to search exactly, of embeddings; at
#: 0.98 the recall of the nearest hit then has a standard error of 0.0022 and of 0.0044, that of more hits less.
HELD_BACK = {True: 4000, False: 1000}
#: Numbers of hits for which the recall is measured. More hits are found where only some rows may be hits.
MEASURED = (*range(1, 21), 50, 100, 200)
ENOUGH = 0.999
#: Standard errors that a measured recall must be above the one asked for.
ERRORS = 2.0
#: Codes beyond those asked for: of 768 bits few have more at the distance of the last hit.
SPARE_CODES = 12
#: Queries per partition, on average, from which the partitions of a batch are searched one by one, not the queries.
TOGETHER = 2
#: What has faiss divide queries among threads in a search of given lists.
DIVIDED = 3
#: Candidates beyond the hits that are asked for before a query is searched exactly.
MOST_CANDIDATES = 1 << 11


@dataclass(frozen=True)
class Recall:
    """The recall of partitions, measured on rows of their segment: each was a query that its own row is no hit of.

    Attributes
    ----------
    queries : int
        Number of rows.
    ks : tuple of int
        Numbers of hits.
    probes : tuple of int
        Numbers of partitions searched, ascending.
    recall : tuple
        For each probe and each k the mean share of the hits that are as near as the k-th of an exact search.
    error : tuple
        The standard error of each mean.
    """

    queries: int
    ks: tuple[int, ...]
    probes: tuple[int, ...]
    recall: tuple[tuple[float, ...], ...]
    error: tuple[tuple[float, ...], ...]

    def probe_for(self, recall: float, k: int) -> int:
        """Return the fewest partitions whose search has a recall.

        Raises
        ------
        UsageError
            That recall, or the recall of k hits, was not measured.
        """
        if k not in self.ks:
            ks = ", ".join(map(str, self.ks)).replace(", ".join(map(str, range(2, 20))), "...")
            raise UsageError(f"the recall of {k} hits was not measured, but that of {ks}", remedy="recall-k")
        at = self.ks.index(k)
        least = [means[at] - ERRORS * errors[at] for means, errors in zip(self.recall, self.error, strict=True)]
        for probe, found in zip(self.probes, least, strict=True):
            if found >= recall:
                return probe
        raise UsageError(
            f"a recall of {recall:g} was not measured for {k} hits, only up to {np.floor(max(least) * 1e4) / 1e4:g}",
            remedy="recall-lower",
        )

    def check(self) -> None:
        """Raise ValueError if a value is of another type or out of range."""
        numbers = [self.queries, *self.ks, *self.probes]
        if not all(type(number) is int and number > 0 for number in numbers) or not self.ks or not self.probes:
            raise ValueError("a recall has no queries, numbers of hits or probes")
        if sorted(set(self.ks)) != list(self.ks) or sorted(set(self.probes)) != list(self.probes):
            raise ValueError("numbers of hits, or probes, of a recall do not ascend")
        for table in (self.recall, self.error):
            values = [value for row in table for value in row]
            if [len(row) for row in table] != [len(self.ks)] * len(self.probes):
                raise ValueError("a table of recall has not a number per probe and number of hits")
            if not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
                raise ValueError("a recall is not between 0 and 1")


@dataclass(frozen=True)
class PartitionFacts:
    """The partitions of a segment as the manifest states them.

    Attributes
    ----------
    count : int
        Number of partitions.
    seed : int
        Of the rows that they were learned from and measured on.
    recall : Recall
        What a search of some of them finds.
    """

    count: int
    seed: int
    recall: Recall

    @classmethod
    def of(cls, facts: dict[str, Any]) -> PartitionFacts:
        """Make facts of what the manifest's JSON has.

        Raises
        ------
        TypeError, ValueError
            A value is missing or of another type.
        """
        recall = dict(facts["recall"])
        for name in ("recall", "error"):
            recall[name] = tuple(map(tuple, recall[name]))
        recall["ks"], recall["probes"] = tuple(recall["ks"]), tuple(recall["probes"])
        made = cls(**{**facts, "recall": Recall(**recall)})
        if type(made.count) is not int or type(made.seed) is not int or made.count < 1:
            raise ValueError("its partitions have no number")
        made.recall.check()
        return made


def partitions_of(rows: int) -> int:
    """Return into how many partitions a segment is divided by default; 0 if it is searched flat.

    A search compares a query with all centroids and with the rows of some partitions: about as many of both if there
    are as many partitions as a partition has rows.
    """
    return round(rows**0.5) if rows >= FEWEST_ROWS else 0


# Centroids -----------------------------------------------------------------------------------------------------------


class Centroids:
    """The middles of partitions, and which are nearest to a vector.

    Parameters
    ----------
    values : numpy.ndarray
        uint8 (p, bytes), or float32 (p, dim) of whole numbers on the grid.
    grid : numpy.ndarray or None
        float64 (2, dim): origin and step in each dimension; ``None`` for codes.
    metric : str
        As in `Flat`.
    """

    def __init__(self, values: NDArray[Any], grid: NDArray[np.float64] | None, metric: str) -> None:
        self.values = values
        self.grid = grid
        self._metric = metric

    def points(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Return what is compared with centroids: codes as they are, embeddings rounded to the grid, float32."""
        return vectors if self.grid is None else _rounded(vectors, self.grid[0], self.grid[1])

    def nearest(self, vectors: NDArray[Any], probe: int) -> NDArray[np.int64]:
        """Return the numbers (n, probe) of the nearest centroids, by (distance, number).

        For ``dot`` the partitions of the greatest products with a query come first; else it is the Euclidean distance.
        """
        return self._nearest(self.points(vectors), vectors if self._metric == "dot" else None, probe)

    def assigned(self, points: NDArray[Any]) -> NDArray[np.int64]:
        """Return the number (n,) of the nearest centroid of points."""
        return self._nearest(points, None, 1)[:, 0]

    def _nearest(self, points: NDArray[Any], products_of: NDArray[np.float32] | None, probe: int) -> NDArray[np.int64]:
        if self.grid is None:
            near: NDArray[np.int64] = faiss.knn_hamming(np.ascontiguousarray(points), self.values, probe)[1]
            return near
        if products_of is not None:  # whatever is added to all centroids, or multiplies a query, leaves their order
            longest = np.abs(products_of).max(axis=1, keepdims=True).astype(np.float64)
            points = _rounded(products_of, 0.0, np.where(longest > 0, longest, 1) / _levels(points.shape[1]))
        count = len(self.values)
        norms = 0 if products_of is not None else self._norms
        found = np.empty((len(points), probe), np.int64)
        step = max(1, AT_ONCE // count)
        for start in range(0, len(points), step):
            distances = norms - 2 * (points[start : start + step] @ self.values.T)
            if probe == 1:
                found[start : start + step, 0] = distances.argmin(axis=1)
                continue
            keys = distances.astype(np.int64) * count + np.arange(count)
            keys = np.partition(keys, probe - 1, axis=1)[:, :probe] if probe < count else keys
            found[start : start + step] = np.sort(keys, axis=1) % count
        return found

    @cached_property
    def _norms(self) -> NDArray[np.float32]:
        """The squared length of each centroid, float32 (p,)."""
        norms: NDArray[np.float32] = np.square(self.values).sum(axis=1)
        return norms

    def moved(self, points: NDArray[Any], assigned: NDArray[np.int64]) -> Centroids:
        """Return the centroids in the middle of their points: the bits that most have, or the rounded mean."""
        values = self.values.copy()
        order = np.argsort(assigned, kind="stable")
        sizes = np.bincount(assigned, minlength=len(values))
        for number, end in zip(sizes.nonzero()[0].tolist(), sizes.cumsum()[sizes > 0].tolist(), strict=True):
            members = points[order[end - sizes[number] : end]]
            if self.grid is None:
                bits = np.unpackbits(members, axis=1).sum(axis=0, dtype=np.int64)
                values[number] = np.packbits(2 * bits > len(members))
            else:
                values[number] = np.rint(members.mean(axis=0, dtype=np.float64))
        return Centroids(values, self.grid, self._metric)


def _levels(dim: int) -> int:
    """Return the greatest coordinate on the grid: float32 holds whole numbers up to 2^24, as dim (2 levels)^2 is."""
    return int((2**24 / dim) ** 0.5 / 2)


def _rounded(
    vectors: NDArray[np.float32], origin: NDArray[np.float64] | float, step: NDArray[np.float64]
) -> NDArray[np.float32]:
    levels = _levels(vectors.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):  # of an index with values that are not finite
        points = np.clip(np.rint((vectors.astype(np.float64) - origin) / step), -levels, levels)
    return np.nan_to_num(points, copy=False).astype(np.float32) + 0  # and no zero with a sign


def learn(sample: NDArray[Any], metric: str, count: int, rng: np.random.Generator) -> Centroids:
    """Find partitions of a sample by k-means (Lloyd 1982): of codes with the majority of each bit for a mean.

    Parameters
    ----------
    sample : numpy.ndarray
        uint8 (n, bytes) or float32 (n, dim).
    metric : str
        As in `Flat`.
    count : int
        Number of partitions; there are fewer if fewer vectors differ.
    rng : numpy.random.Generator
        Draws the first centroids.
    """
    grid = None
    if metric != HAMMING:
        wide = sample.astype(np.float64)
        with np.errstate(invalid="ignore"):  # of an index with values that are not numbers
            origin = wide.mean(axis=0)
            spread = np.sqrt(np.square(wide - origin).mean()) * 4 / _levels(sample.shape[1])  # beyond 4 deviations is 4
        grid = np.stack([origin, np.full_like(origin, spread or 1)])
    points = np.ascontiguousarray(Centroids(sample[:0], grid, metric).points(sample))
    distinct = np.unique(points.view(np.dtype((np.void, points[:1].nbytes))), return_index=True)[1]
    centroids = Centroids(points[rng.permutation(distinct)[:count]], grid, metric)
    for _ in range(ITERATIONS):
        centroids = centroids.moved(points, centroids.assigned(points))
    return centroids


# Building ------------------------------------------------------------------------------------------------------------


def write_partitions(
    directory: Path, flat: Flat, count: int, seed: int = 0, code: FittedCode | None = None
) -> PartitionFacts:
    """Divide the vectors of a segment into partitions, write their files, and measure their recall.

    Takes the memory of a sample of `SAMPLE` rows per partition, and 24 bytes per row.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    flat : Flat
        Exact search of all its rows.
    count : int
        Number of partitions, see `partitions_of`; there are fewer if fewer of the vectors differ.
    seed : int
        Of the rows that are drawn.
    code : FittedCode, optional
        What codes are decoded by that have a distance of their own; partitions are those of what they are decoded to.

    Returns
    -------
    PartitionFacts
        For the manifest.
    """
    rows = len(flat.vectors)
    rng = np.random.default_rng(seed)
    held = min(HELD_BACK[flat.metric == HAMMING], -(-rows // 5))
    drawn = rng.permutation(rng.choice(rows, min(rows, held + SAMPLE * count), replace=False, shuffle=False))
    # What is learned from a row may be good for this row, so others are asked for, unless there are none.
    asked, sample = np.sort(drawn[:held]), np.sort(drawn[held:] if len(drawn) > held else drawn)

    def points(some: slice | NDArray[np.int64]) -> NDArray[Any]:
        return code.points(code.decoded(flat.vectors[some])) if code else _numbers(flat, some)

    learned = learn(points(sample), flat.metric, count, rng)
    assigned = np.empty(rows, np.int32)
    row_bytes = _numbers(flat, slice(1)).nbytes
    step = max(1, (16 * AT_ONCE) // max(1, points(slice(1)).nbytes))
    for start in range(0, rows, step):
        assigned[start : start + step] = learned.assigned(learned.points(points(slice(start, start + step))))
    sizes = np.bincount(assigned, minlength=len(learned.values))
    assigned = (np.cumsum(sizes > 0, dtype=np.int32) - 1)[assigned]
    centroids = Centroids(learned.values[sizes > 0], learned.grid, flat.metric)
    ends = sizes[sizes > 0].cumsum()
    np.save(directory / CENTROIDS, centroids.values)
    np.save(directory / ENDS, ends)
    if centroids.grid is not None:
        np.save(directory / GRID, centroids.grid)
    order = np.argsort(assigned, kind="stable")
    lists = ArrayFile(directory / LISTS, np.uint8)
    start = 0
    for end in ends.tolist():
        members = order[start:end]
        spare = -len(members) % UNIT
        for first in range(0, len(members), step):  # all rows may be alike, and in one partition
            some = _numbers(flat, members[first : first + step])
            lists.append(np.ascontiguousarray(some).view(np.uint8).ravel())
        lists.append(np.zeros(spare * row_bytes, np.uint8))
        lists.append(members.view(np.uint8))
        lists.append(np.zeros(spare * members[:1].nbytes, np.uint8))
        start = end
    lists.close()
    del order
    return PartitionFacts(len(ends), seed, _measure(centroids, assigned, flat, asked, code))


def _numbers(flat: Flat, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
    """Return some vectors as partitions have them: uint8 (n, bytes), or float32 (n, dim)."""
    some = flat.vectors[rows]
    return some if isinstance(some, np.ndarray) and some.dtype == np.uint8 else np.asarray(some, np.float32)


def _measure(
    centroids: Centroids,
    assigned: NDArray[np.int32],
    flat: Flat,
    asked: NDArray[np.int64],
    code: FittedCode | None,
) -> Recall:
    """Measure the recall of partitions, with some rows as queries: which partitions have the hits of an exact search.

    A hit is one of the k if it is as near as the k-th, so that those with equal distances count alike.
    """
    points = _numbers(flat, asked)
    queries: Queries = points
    if code:
        decoded = AskedFitted.of(code, code.decoded(points))
        queries, points = decoded, decoded.points
    ks = [k for k in MEASURED if k < len(flat.vectors)] or [1]
    count = len(centroids.values)
    found = flat.search(queries, min(len(flat.vectors), ks[-1] + 1 + SPARE_CANDIDATES))  # one is the query's own row
    distances = np.full((len(asked), len(found[0][0])), np.inf)
    ranks = np.full(distances.shape, count)
    for start in range(0, len(asked), max(1, AT_ONCE // count)):
        some = slice(start, start + max(1, AT_ONCE // count))
        order = np.argsort(centroids.nearest(points[some], count), axis=1)
        for i, own in enumerate(asked[some], start):
            others = found[i][1] != own
            rows = found[i][1][others]
            distances[i, : len(rows)] = found[i][0][others]
            ranks[i, : len(rows)] = order[i - start, assigned[rows]]
    probes: list[int] = []
    means: list[tuple[float, ...]] = []
    errors: list[tuple[float, ...]] = []
    while not probes or (probes[-1] < count and min(means[-1]) < ENOUGH):
        probes.append(min(count, 1 if not probes else max(probes[-1] + 1, _half_more(probes[-1]))))
        inside = ranks < probes[-1]
        shares = [
            np.minimum(1, np.count_nonzero(inside & (distances <= distances[:, k - 1 : k]), axis=1) / k) for k in ks
        ]
        means.append(tuple(round(float(share.mean()), 4) for share in shares))
        errors.append(tuple(round(float(share.std()) / len(asked) ** 0.5, 4) for share in shares))
    return Recall(len(asked), tuple(ks), tuple(probes), tuple(means), tuple(errors))


def _half_more(probe: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    return probe * 4 // 3 if probe % 3 == 0 else probe * 3 // 2


# Searching -----------------------------------------------------------------------------------------------------------


class Partitions:
    """The open partitions of a segment.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    count : int
        Number of partitions.
    vectors : numpy.ndarray or Stored
        The segment's vectors (n, width), as in `Flat`.
    metric : str
        As in `Flat`.
    code : FittedCode, optional
        As in `write_partitions`.

    Raises
    ------
    IndexFormatError
        A file is missing or damaged.
    """

    def __init__(
        self, directory: Path, count: int, vectors: Vectors, metric: str, code: FittedCode | None = None
    ) -> None:
        self._directory = directory
        self.count = count
        self._rows, self._width = len(vectors), int(vectors.shape[1])
        self._metric = metric
        dim = code.dim if code else self._width  # of what is compared with centroids
        dtype = np.dtype(np.uint8 if code or metric == HAMMING else np.float32)
        self._vector_bytes = dtype.itemsize * self._width
        row_bytes = self._vector_bytes + 8
        grid = None
        if metric != HAMMING:
            grid = np.array(map_checked(directory / GRID, np.float64, (2, dim)))
            if not (np.isfinite(grid).all() and (grid[1] > 0).all()):
                raise self._damaged(GRID, "its steps are not numbers above 0")
        values = np.array(map_checked(directory / CENTROIDS, dtype if grid is None else np.float32, (count, dim)))
        if grid is not None and not (np.abs(values) <= _levels(dim)).all():
            raise self._damaged(CENTROIDS, "they are not on the grid")
        self._centroids = Centroids(values, grid, metric)
        ends = np.array(map_checked(directory / ENDS, np.int64, (count,)))
        sizes = np.diff(ends, prepend=0)
        if (sizes < 1).any() or (sizes > self._rows).any() or ends[-1] != self._rows:
            raise self._damaged(ENDS, "they do not ascend to the number of rows")
        self._sizes = sizes
        room = -(-sizes // UNIT) * UNIT
        mapped = map_checked(directory / LISTS, np.uint8, (int(room.sum()) * row_bytes,))
        starts = (room.cumsum() - room) * row_bytes
        self._room, self._starts, self._bytes = room, starts, np.asarray(mapped)
        self._offset = (directory / LISTS).stat().st_size - mapped.nbytes
        # A view for each element, as it may be the first of a vector.
        self._used: list[Any] = []
        self._vectors = np.lib.stride_tricks.sliding_window_view(self._bytes.view(dtype), self._width)

    def _damaged(self, name: str, what: str) -> IndexFormatError:
        return IndexFormatError(f"is damaged: {what}", str(self._directory / name), remedy="rebuild")

    @cached_property
    def _lists(self) -> Any:
        """The lists of faiss, which stay in the mapped file."""
        lists: Any = faiss.OnDiskInvertedLists(self.count, self._vector_bytes, str(self._directory / LISTS))
        lists.read_only = True
        lists.prefetch_nthread = 0
        lists.totsize = self._offset + len(self._bytes)
        table = np.stack([self._sizes, self._room, self._offset + self._starts], axis=1).astype(np.uint64)
        faiss.memcpy(lists.lists.data(), faiss.swig_ptr(table), table.nbytes)
        try:
            lists.do_mmap()
        except RuntimeError:
            raise self._damaged(LISTS, "it cannot be mapped") from None
        return lists

    @cached_property
    def _index(self) -> Any:
        """The index of faiss that searches the lists."""
        if self._metric == HAMMING:
            coarse: Any = faiss.IndexBinaryFlat(self._width * 8)
            return self._of_lists(faiss.IndexBinaryIVF(coarse, self._width * 8, self.count), coarse)
        coarse = faiss.IndexFlatL2(self._width)
        index: Any = faiss.IndexIVFFlat(coarse, self._width, self.count, FAISS_METRIC[self._metric])
        index.parallel_mode = DIVIDED
        return self._of_lists(index, coarse)

    @cached_property
    def _by_weights(self) -> Any:
        """The index of faiss that searches lists of codes by a table of weights for each byte."""
        coarse: Any = faiss.IndexFlatIP(8 * self._width)
        shape = 8 * self._width, self.count, self._width, 8
        index: Any = faiss.IndexIVFPQ(coarse, *shape, faiss.METRIC_INNER_PRODUCT)
        index.by_residual, index.parallel_mode = False, DIVIDED
        use_bits(index.pq, 8)
        return self._of_lists(index, coarse)

    def _of_lists(self, index: Any, coarse: Any) -> Any:
        """Return an index of faiss that searches the lists it is told."""
        index.is_trained, index.ntotal = True, self._rows
        index.replace_invlists(self._lists)
        self._used.append(coarse)  # which the index does not own
        return index

    def check_rows(self) -> None:
        """Raise IndexFormatError unless each row of the segment is in one partition, in ascending order in it."""
        seen = np.zeros(self._rows, bool)
        for start, room, size in zip(self._starts, self._room, self._sizes, strict=True):
            at = start + room * self._vector_bytes
            rows = self._bytes[at : at + size * 8].view(np.int64)
            if (rows < 0).any() or (rows >= self._rows).any() or (np.diff(rows) < 1).any() or seen[rows].any():
                raise self._damaged(LISTS, "a row is in none of the partitions, or in two")
            seen[rows] = True

    def search(self, flat: Flat, queries: Queries, k: int, probe: int) -> list[Found]:
        """Find each query's nearest rows in its nearest partitions, in the order of (distance, row).

        Queries for which these have fewer than k rows that may be hits are searched exactly, and so are those with more
        equal distances than candidates.

        Parameters
        ----------
        flat : Flat
            Exact search of the segment, with the rows that may be hits.
        queries : numpy.ndarray or WeightedBits
            As of `Flat.search`.
        k : int
            Maximum number of hits per query.
        probe : int
            Number of partitions.

        Returns
        -------
        list of tuple
            As of `Flat.search`.

        Raises
        ------
        IndexFormatError
            The partitions are damaged.
        """
        share = 1.0 if flat.kept is None else flat.kept.share
        wanted = min(k, self._rows)
        width = rows_for(wanted, share)
        results: list[Any] = [None] * len(queries)
        unsettled = list(range(len(queries)))
        while unsettled and wanted and width <= wanted + MOST_CANDIDATES:
            width += SPARE_CODES if self._metric == HAMMING else SPARE_CANDIDATES
            found = zip(unsettled, self._ranked(flat, queries[unsettled], wanted, probe, width), strict=True)
            still = []
            for i, (distances, rows, settled) in found:
                if not settled:
                    still.append(i)
                elif len(rows) == wanted:
                    results[i] = distances, rows
            unsettled = still
            width *= GROWTH
        return _exact(results, flat, queries, k)

    def _ranked(
        self, flat: Flat, queries: Queries, k: int, probe: int, width: int
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64], bool]]:
        """Rank the rows of each query's nearest partitions by (distance, row), as far as some candidates tell.

        Parameters
        ----------
        flat, queries, k, probe
            As in `search`.
        width : int
            Number of candidates: the nearest rows of the partitions, as faiss measures them.

        Yields
        ------
        tuple
            Of each query, the distances and rows as of `Flat.search`, and whether no other row of its partitions can
            be one of the k.
        """
        if self._metric == "cosine" and not isinstance(queries, Asked):
            queries = unit(queries)
        step = max(1, CANDIDATES // (width * min(probe, self.count)))
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            points: NDArray[Any] = some.points if isinstance(some, Asked) else np.ascontiguousarray(some)
            lists = self._centroids.nearest(points, min(probe, self.count))
            if isinstance(some, AskedFitted):
                yield from (self._decoded(flat, some[[i]], each, k, width) for i, each in enumerate(lists))
                continue
            near, rows, at = self._candidates(some if isinstance(some, WeightedBits) else points, lists, width)
            whole = rows[:, -1] < 0
            may = rows >= 0
            if flat.kept is not None:
                may[may] = flat.kept.of(rows[may])
            rows = np.where(may, rows, -1)
            if self._metric == HAMMING:
                found = _in_order(near, rows, k)
            else:
                own = (flat.vectors, rows) if isinstance(flat.vectors, Stored) else (self._vectors, at)
                found = flat.rescore(points, near, rows, k, *own)
            for (distances, ranked, beyond), all_were in zip(found, whole.tolist(), strict=True):
                settled = all_were or (len(ranked) >= k and distances[k - 1] < beyond)
                yield distances[:k], ranked[:k] + flat.first, settled

    def _decoded(
        self, flat: Flat, query: AskedFitted, lists: NDArray[np.int64], k: int, width: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], bool]:
        """Rank the rows of some partitions, of codes that have a distance of their own, as `_ranked` does."""
        starts, sizes = self._starts[lists], self._sizes[lists]
        ends = starts + self._room[lists] * self._vector_bytes
        codes = np.concatenate(
            [self._bytes[start : start + n * self._vector_bytes] for start, n in zip(starts, sizes, strict=True)]
        ).reshape(-1, self._vector_bytes)
        rows = np.concatenate([self._bytes[end : end + n * 8] for end, n in zip(ends, sizes, strict=True)]).view(
            np.int64
        )
        if (rows < 0).any() or (rows >= self._rows).any():
            raise self._damaged(LISTS, "it has numbers beyond the segment's rows")
        ((distances, at, beyond),) = query.nearest(codes, min(width, len(codes)))
        rows = rows[at]
        if flat.kept is not None:
            may = flat.kept.of(rows)
            distances, rows = distances[may], rows[may]
        order = np.lexsort((rows, distances))[:k]
        is_settled = width >= len(codes) or (len(order) >= k and distances[order[-1]] < beyond)
        return distances[order], rows[order] + flat.first, is_settled

    def search_for(
        self, flat: Flat, queries: Queries, k: int, recall: float, measured: Recall, spare: int = 0
    ) -> list[Found]:
        """Find each query's nearest rows with a recall, in the order of (distance, row).

        Where only some rows may be hits, these can be far down a query's ranking, and how far depends on the filter. So
        the nearest K rows of all are searched for as K of them were measured. If k that may be hits are among them, the
        recall holds for these; else K is raised, and beyond what was measured, the rows are searched exactly.

        Parameters
        ----------
        flat, queries, k
            As in `search`.
        recall : float
            Mean share of the k hits that are as near as the k-th of an exact search.
        measured : Recall
            The recall of these partitions.
        spare : int
            Hits beyond k that are found likewise, for a caller who drops as many (such as a query's own row).

        Raises
        ------
        UsageError
            That recall, or the recall of k hits, was not measured.
        IndexFormatError
            The partitions are damaged.
        """
        measured.probe_for(recall, k)
        share = 1.0 if flat.kept is None else flat.kept.share
        results: list[Any] = [None] * len(queries)
        unsettled = list(range(len(queries)))
        least = k / share if share else np.inf
        for more in measured.ks:
            if more < least or not unsettled:
                continue
            least = 2 * more
            try:
                probe = measured.probe_for(recall, more)
            except UsageError:  # so many are not found with that recall
                break
            if isinstance(queries, Asked):  # measured with codes: by weights the recall is up to 0.016 less
                probe = max(probe + 1, _half_more(probe))
            found = self.search(flat.of_all(), queries[unsettled], more + spare, probe)
            for i, (distances, rows), may in zip(unsettled, found, may_be_hits([flat], found), strict=True):
                if np.count_nonzero(may) >= min(k + spare, self._rows):
                    results[i] = distances[may][: k + spare], rows[may][: k + spare]
            unsettled = [i for i in unsettled if results[i] is None]
        return _exact(results, flat, queries, k + spare)

    def _candidates(
        self, queries: Queries, lists: NDArray[np.int64], k: int
    ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """Return the k nearest rows in some partitions.

        What faiss measures (n, k), the rows (n, k), -1 for none, and, of embeddings, where in `_vectors` they are.
        """
        near: NDArray[Any]
        if isinstance(queries, WeightedBits):
            products = np.empty((len(queries), k), np.float32)
            near, rows = self._query_by_query(self._by_weights, queries.signed, lists, products, pairs=False)
            near, at = queries.distances(near), rows
        elif self._metric == HAMMING:
            assert isinstance(queries, np.ndarray)
            distances = np.empty((len(queries), k), np.int32)
            near, rows = self._query_by_query(self._index, queries, lists, distances, pairs=False)
            at = rows
        else:
            assert isinstance(queries, np.ndarray)
            if lists.size < TOGETHER * self.count:
                distances = np.empty((len(queries), k), np.float32)
                near, places = self._query_by_query(self._index, queries, lists, distances, pairs=True)
            else:
                near, places = self._list_by_list(queries, lists, k)
            is_one = places >= 0
            places = np.where(is_one, places, 0)
            numbers, within = places >> 32, places & 0xFFFFFFFF
            starts = self._starts[numbers]
            ends = starts + self._room[numbers] * self._vector_bytes
            rows = np.where(is_one, self._bytes.view(np.int64)[ends // 8 + within], -1)
            at = starts // self._vectors.itemsize + within * self._width
        if (rows < -1).any() or (rows >= self._rows).any():
            raise self._damaged(LISTS, "it has numbers beyond the segment's rows")
        return near, rows, at

    def _query_by_query(
        self, index: Any, queries: NDArray[Any], lists: NDArray[np.int64], near: NDArray[Any], *, pairs: bool
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return what an index of faiss finds: distances, in ``near``, and the rows, or places as ``pairs``.

        A place is the number of a partition times 2^32, and that of the row in it; -1 is none.
        """
        index.nprobe = lists.shape[1]
        found, apart = np.empty(near.shape, np.int64), np.zeros(lists.shape, near.dtype)
        of_queries, *others = map(faiss.swig_ptr, (queries, lists, apart, near, found))
        index.search_preassigned_c(len(queries), of_queries, near.shape[1], *others, pairs)
        return near, found

    def _list_by_list(
        self, queries: NDArray[np.float32], lists: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the same of embeddings; each partition is read once, for all queries that search it."""
        n, probe = lists.shape
        order = lists.argsort(axis=None, kind="stable")
        numbers = lists.ravel()[order]
        ends = np.flatnonzero(np.diff(numbers, append=-1)) + 1
        sign = 1 if self._metric in ("l1", "l2") else -1
        near = np.full((n * probe, k), sign * np.inf, np.float32)
        places = np.full((n * probe, k), -1)

        def search(part: tuple[int, int]) -> None:
            pairs, number = order[slice(*part)], numbers[part[0]]
            size, start = int(self._sizes[number]), self._starts[number]
            vectors = self._bytes[start : start + size * self._vector_bytes].view(np.float32).reshape(size, -1)
            found, within = faiss.knn(queries[pairs // probe], vectors, min(k, size), FAISS_METRIC[self._metric])
            near[pairs, : found.shape[1]] = found
            places[pairs, : found.shape[1]] = np.where(within < 0, -1, (number << 32) + within)

        in_threads(search, list(pairwise([0, *ends.tolist()])))
        near, places = near.reshape(n, -1), places.reshape(n, -1)
        best = np.argpartition(sign * near, k - 1, axis=1)[:, :k]
        order = np.argsort(sign * np.take_along_axis(near, best, axis=1), axis=1)
        best = np.take_along_axis(best, order, axis=1)
        return np.take_along_axis(near, best, axis=1), np.take_along_axis(places, best, axis=1)


def _in_order(near: NDArray[np.int32] | NDArray[np.float64], rows: NDArray[np.int64], k: int) -> Iterator[Candidates]:
    """Yield what `Flat.rescore` does of codes: faiss orders those at equal distances as it meets them."""
    order = np.lexsort((rows, near, rows < 0))[:, :k]
    distances = np.take_along_axis(near, order, axis=1).astype(np.float64)
    ranked = np.take_along_axis(rows, order, axis=1)
    for i, (count, beyond) in enumerate(
        zip(np.count_nonzero(rows >= 0, axis=1).tolist(), near[:, -1].tolist(), strict=True)
    ):
        yield distances[i, :count], ranked[i, :count], beyond


def _exact(results: list[Found | None], flat: Flat, queries: Queries, k: int) -> list[Found]:
    """Return results, of which those that are ``None`` are searched exactly."""
    weighted = isinstance(queries, Asked)

    def search(missing: NDArray[np.intp]) -> list[Found]:
        def part(some: Flat, numbers: NDArray[np.intp], width: int | None) -> list[Found]:
            return some.search(queries[missing[numbers]], width)

        return nearest([flat], part, len(missing), k, weighted=weighted)

    return completed(results, search)
