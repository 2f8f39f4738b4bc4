"""Opening an index directory and asking it."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from bisect import bisect_right
from dataclasses import replace
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.codes.registry import METHODS, binarizer_class, fitted_code
from rsr_cli.core.errors import FingerprintError, IndexFormatError, RecordError, RsrError, UsageError
from rsr_cli.core.files import reason
from rsr_cli.core.fitted.state import Fitted
from rsr_cli.core.fitted.transform import Transform
from rsr_cli.core.index import generations
from rsr_cli.core.index.asked import Asked, AskedFitted
from rsr_cli.core.index.columns import IDS, Columns, map_checked
from rsr_cli.core.index.flat import Flat, merged, nearest
from rsr_cli.core.index.kept import Kept
from rsr_cli.core.index.manifest import (
    CODEBOOK,
    HAMMING,
    SEGMENTS,
    TABLE,
    TRANSFORM,
    VECTORS,
    Manifest,
    SegmentFacts,
    learned_for,
)
from rsr_cli.core.index.partitions import LISTS, PartitionFacts, Partitions
from rsr_cli.core.index.rerank import Refined
from rsr_cli.core.index.scan import SCAN, Scan
from rsr_cli.core.index.stored import names_of, opened
from rsr_cli.core.index.table import Table
from rsr_cli.core.index.weights import WeightedBits
from rsr_cli.core.records.ids import among, digests
from rsr_cli.core.records.space import fingerprint, note_int8, remedy_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rsr_cli.core.codes.base import Binarizer, FittedCode
    from rsr_cli.core.index.flat import Found, Queries, Search
    from rsr_cli.core.index.partitions import Recall
    from rsr_cli.core.records.space import Space

#: Rows whose ids are read at once.
ROWS_AT_ONCE = 1 << 16
#: Files of a segment that may be open at once, and other files of the process.
FILES_PER_SEGMENT, SPARE_FILES = 8, 256


class Segment:
    """An open segment. Its files are opened when they are first asked for.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    facts : SegmentFacts
        What the manifest states of it.
    manifest : Manifest
        That of the index, or of the segments that it will be extended by.
    first : int
        Row of the index that is the segment's row 0.
    code : FittedCode, optional
        What codes are decoded by that have a distance of their own.

    Attributes
    ----------
    count : int
        Number of rows, with those that are deleted.
    columns : Columns
        The columns to filter by.
    refined : Refined or None
        The embeddings beside codes.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    IndexFormatError
        A file is damaged.
    """

    def __init__(
        self, directory: Path, facts: SegmentFacts, manifest: Manifest, first: int = 0, code: FittedCode | None = None
    ) -> None:
        self.directory = directory
        self._code = code
        self.facts = facts
        self.first = first
        self.count = facts.count
        self.columns = Columns(directory, facts.count)
        self._manifest = manifest
        self.refined = Refined(directory, facts.count, manifest.refine) if manifest.refine else None
        self._vector_files = names_of(VECTORS, scaled=manifest.scaled)
        for name in (*self._vector_files, TABLE, *(self.refined.names if self.refined else ())):
            if name not in facts.files:
                raise self._damaged(name, "the manifest does not state its size")
        self._opened = {name: os.stat(os.path.join(directory, name)) for name in facts.files}  # noqa: PTH116, PTH118  thousands
        for name, found in self._opened.items():
            if not stat.S_ISREG(found.st_mode):
                what = "is a directory" if stat.S_ISDIR(found.st_mode) else "not a regular file"
                raise IndexFormatError(f"cannot be opened: {what}", str(directory / name))
            if found.st_size != facts.files[name]["size"]:
                stated = facts.files[name]["size"]
                raise self._damaged(name, f"it has {found.st_size} bytes and the manifest {stated}")

    @cached_property
    def vectors(self) -> Any:
        """The vectors, mapped: uint8 (n, bytes) of codes, or embeddings (n, dim) as an array or as `stored.Stored`."""
        stored, shape = self._manifest, (self.count, self.space.width)
        return opened(self.directory, VECTORS, stored.dtype, shape, scaled=stored.scaled)

    @property
    def space(self) -> Space:
        """The space of the vectors."""
        assert self._manifest.space is not None  # as there are segments
        return self._manifest.space

    def flat(self, kept: Kept | None = None) -> Flat:
        """Return an exact search of the rows that are kept, or of those that are not deleted."""
        metric, max_norm = self._manifest.metric, self._manifest.max_norm
        return Flat(self.vectors, metric, max_norm, kept or self._kept, self.first, self.scan)

    @cached_property
    def _kept(self) -> Kept | None:
        return None if self.live is None else Kept.where(self.live)

    @cached_property
    def scan(self) -> Scan | None:
        """The codes as they are compared by weights of bits, ``None`` if there is no such file."""
        is_stated = self.space.kind == "code" and SCAN in self.facts.files
        return Scan(self.directory, self.count, self.space.width) if is_stated else None

    @cached_property
    def recall(self) -> Recall | None:
        """The recall of the partitions, ``None`` if there are none."""
        if self.facts.partitions is None:
            return None
        try:
            return PartitionFacts.of(self.facts.partitions).recall
        except (KeyError, TypeError, ValueError) as error:
            what = f"its manifest.json is damaged: {error}"
            raise IndexFormatError(what, str(self.directory), remedy="rebuild") from None

    @cached_property
    def partitions(self) -> Partitions:
        """The partitions, if the segment has any."""
        assert self.recall is not None
        assert self.facts.partitions is not None
        if LISTS not in self.facts.files:
            raise self._damaged(LISTS, "the manifest does not state its size")
        count = self.facts.partitions["count"]
        return Partitions(self.directory, count, self.vectors, self._manifest.metric, self._code)

    @cached_property
    def table(self) -> Table:
        """The records."""
        return Table(self.directory, self.count)

    @cached_property
    def deleted(self) -> NDArray[np.int64]:
        """The rows that are deleted, int64, sorted."""
        if self.facts.deletions is None:
            return np.empty(0, np.int64)
        rows = map_checked(self.directory / self.facts.deletions, np.int64, (self.facts.deleted,))
        if rows[0] < 0 or rows[-1] >= self.count or (np.diff(rows) <= 0).any():
            raise self._damaged(self.facts.deletions, "its rows do not ascend, or are beyond the segment's")
        return rows

    @cached_property
    def live(self) -> NDArray[np.bool_] | None:
        """Which rows are not deleted, bool (n,), ``None`` for all."""
        if not self.facts.deleted:
            return None
        live = np.ones(self.count, bool)
        live[self.deleted] = False
        return live

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """The digests of the ids, sorted."""
        if IDS in self.facts.files:
            return self.columns.ids
        found = [digests(self.ids(first, np.ones_like(live))) for first, live in self.blocks(ROWS_AT_ONCE)]
        return np.sort(np.concatenate(found))

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Yield for each block of rows the first one, and which of them are not deleted, bool (n,)."""
        for first in range(0, self.count, size):
            n = min(size, self.count - first)
            yield first, np.ones(n, bool) if self.live is None else self.live[first : first + n]

    def ids(self, first: int, kept: NDArray[np.bool_]) -> list[str]:
        """Return the ids of the rows from the first one on that are kept, bool (n,)."""
        return list(compress(self.table.ids(first, first + len(kept)), kept.tolist()))

    def rows_of(self, names: Sequence[str]) -> dict[str, int]:
        """Return the segment's rows of those ids that are there and not deleted."""
        if IDS in self.facts.files:
            names = list(compress(names, among(self.digests, digests(names)).tolist()))
        found = self.table.rows_of(names) if names else {}
        return {name: row for name, row in found.items() if self.live is None or self.live[row]}

    def labels(self) -> list[str]:
        """Return the names of the labels in the order of their numbers."""
        return self.table.labels()

    def check(self) -> None:
        """Raise IndexFormatError if a file that is open was written to since the segment was opened."""
        used = [
            *self._vector_files,
            *([TABLE] if "table" in vars(self) else []),
            *([LISTS] if "partitions" in vars(self) else []),
        ]
        used += self.refined.names if self.refined and "vectors" in vars(self.refined) else []
        used += [SCAN] if vars(self).get("scan") else []
        for name in used:
            opened, path = self._opened[name], os.path.join(self.directory, name)  # noqa: PTH118  thousands
            try:
                now = os.stat(path)  # noqa: PTH116
            except FileNotFoundError:  # removed, but still open here
                continue
            if (now.st_size, now.st_mtime_ns) != (opened.st_size, opened.st_mtime_ns):
                raise IndexFormatError("was changed by another process while it was read", path, remedy="rebuild")

    def _damaged(self, name: str, what: str) -> IndexFormatError:
        return IndexFormatError(f"is damaged: {what}", str(self.directory / name), remedy="rebuild")

    def close(self) -> None:
        """Close the files. They are opened again if they are asked for."""
        if "table" in vars(self):
            self.table.close()
        for name in ("table", "vectors", "scan", "partitions", "deleted", "digests"):
            vars(self).pop(name, None)
        self.columns = Columns(self.directory, self.count)


class Index:
    """An open index. It stays the generation that was opened, whatever is written meanwhile.

    Parameters
    ----------
    path : Path
        The directory.

    Attributes
    ----------
    manifest : Manifest
        What it holds.
    segments : list of Segment
        In row order.
    learned : dict
        What was learned and its vectors were made with, as `learned_in` returns it.
    code : FittedCode or None
        What compares codes that have a distance of their own.

    Raises
    ------
    IndexFormatError
        The directory is not an index, is damaged, or is of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self.manifest, self._held = generations.hold(path)
            try:
                self.learned = learned_in(path, self.manifest)
                self.code = code_of(self.manifest, self.learned)
                self.segments = open_segments(path / SEGMENTS, self.manifest, self.code)
            except BaseException as error:
                self._held.close()
                if isinstance(error, IndexFormatError) and Manifest.read(path) != self.manifest:
                    continue  # it was removed and built again meanwhile
                raise
            self._firsts = [segment.first for segment in self.segments]
            return

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        for segment in self.segments:
            segment.close()
        self._held.close()

    @cached_property
    def transform(self) -> Transform | None:
        """What its embeddings, or those of its codes, were transformed by."""
        return Transform(self.learned[TRANSFORM]) if TRANSFORM in self.learned else None

    def _at(self, row: int) -> tuple[Segment, int]:
        """Return the segment of a row, and the row in it."""
        segment = self.segments[bisect_right(self._firsts, row) - 1]
        return segment, row - segment.first

    def find(self, name: str) -> int | None:
        """Return the row of an id, if the index has it."""
        for segment in self.segments:
            for row in segment.rows_of([name]).values():
                return segment.first + row
        return None

    def row_of(self, name: str) -> int:
        """Return the row of an id.

        Raises
        ------
        RecordError
            The index has no such id.
        """
        row = self.find(name)
        if row is None:
            similar = [each for some in self.segments for each in some.rows_of(some.table.ids_with(name))][:3]
            hint = f"; did you mean {' or '.join(map(repr, similar))}?" if similar else ""
            raise RecordError(f"has no item with the id {name!r}{hint}", str(self.path))
        return row

    def by_segment(self, rows: NDArray[np.int64]) -> Iterator[tuple[Segment, NDArray[np.bool_], NDArray[np.int64]]]:
        """Yield each segment that has some of the rows (n,), which of them it has, bool (n,), and their rows in it."""
        for segment in self.segments:
            mine = (rows >= segment.first) & (rows < segment.first + segment.count)
            if mine.any():
                yield segment, mine, rows[mine] - segment.first

    def record(self, row: int) -> tuple[str, str]:
        """Return the id of a row and its Feature, without its vector, as text that `table.hit_line` extends."""
        segment, at = self._at(row)
        return segment.table.record(at)

    def vector(self, row: int) -> NDArray[Any]:
        """Return what asks for a row: a code, uint8 (bytes,), or its values; or an embedding, float32 (dim,).

        Raises
        ------
        IndexFormatError
            A value is not finite.
        """
        segment, at = self._at(row)
        dtype = np.uint8 if segment.space.kind == "code" else np.float32
        vector: NDArray[Any] = np.array(segment.vectors[at : at + 1], dtype)[0]
        if not np.isfinite(vector).all():
            raise IndexFormatError("is damaged: it has values that are not numbers", str(self.path), remedy="rebuild")
        return self.code.decoded(vector[None])[0] if self.code else vector

    def embedding(self, row: int) -> NDArray[np.float64]:
        """Return the embedding that is stored beside the code of a row, float64 (dim,).

        Raises
        ------
        UsageError
            None is.
        """
        segment, at = self._at(row)
        if segment.refined is None:
            raise UsageError("stores no embeddings of its items beside their codes", str(self.path), remedy="refine")
        return segment.refined.row(at)

    def values(self, row: int) -> NDArray[Any]:
        """Return the values (bits,) of the code of a row: of the embedding beside it, with the signs that it has."""
        space, refine = self.manifest.space, self.manifest.refine
        assert space is not None
        assert refine is not None
        of = replace(space.of_embedding(), size=refine.dim, dtype="float32")
        binarizer = binarizer_class(space.facts["method"])(of, space.size, space.facts.get("seed"))
        values = np.abs(binarizer.values(self.embedding(row)[None].astype(np.float32))[0])
        return np.where(np.unpackbits(self.vector(row), count=space.size), values, -values)

    def binarizer_for(self, space: Space) -> Binarizer | None:
        """Check that queries can be compared, and return how to binarize them if they are embeddings against codes.

        Raises
        ------
        FingerprintError
            They are in another space.
        """
        mine = self.manifest.space
        if mine is None:
            return None
        binarizer, theirs = None, space
        if mine.kind == "code" and space.kind == "embedding":
            method, of = mine.facts.get("method"), mine.facts.get("of")
            if method not in METHODS:
                raise FingerprintError(
                    f"embeddings cannot be compared with the codes of {self.path}, whose method is unknown: {method}"
                )
            if space.fingerprint == of:
                made = binarizer_class(method)
                binarizer = made(space, mine.size, mine.facts.get("seed"), self.learned.get(CODEBOOK))
                theirs = binarizer.space
            else:
                mine = mine.of_embedding()
        if (theirs.fingerprint, theirs.size) == (mine.fingerprint, mine.size):
            note_int8(theirs.facts.get("precision"), mine.facts.get("precision"))
            return binarizer
        named = mine.facts.get("model")
        what = f"the queries are in another vector space than the index {self.path} ({theirs.difference(mine)})"
        if remedy := remedy_for(theirs, mine):
            raise FingerprintError(what, **remedy)
        raise FingerprintError(
            what,
            # A space that a user named is not of a model that could embed the queries.
            remedy="space-of-index"
            if mine.fingerprint == fingerprint({"space": named, "dim": mine.size})
            else "as-index",
            index=self.path,
            space=named,
        )

    def search(
        self,
        queries: NDArray[Any],
        k: int | None = None,
        radius: float | None = None,
        kept: Sequence[Kept] | None = None,
        without: Sequence[NDArray[np.int64]] | None = None,
        *,
        probe: int | None = None,
        recall: float | None = None,
    ) -> list[Found]:
        """Find each query's nearest rows, in the order of (distance, row).

        Parameters
        ----------
        queries : numpy.ndarray
            As of `Flat.search`; or the values of codes, floating-point (n, bits), to compare these by weights of bits.
        k, radius
            As in `Flat.search`.
        kept : sequence of Kept, optional
            For each segment, which rows may be hits; none that is deleted. By default, all that are not.
        without : sequence of numpy.ndarray, optional
            For each query, int64 rows that may not be its hits, sorted.
        probe : int, optional
            Search only as many partitions of each segment that has partitions; needs ``k``.
        recall : float, optional
            Search as many that the hits have this recall; needs ``k``.

        Returns
        -------
        list of tuple
            For each query the distances, float64 (hits,), and the rows, int64 (hits,).

        Raises
        ------
        UsageError
            That recall, or the recall of k hits, was not measured.
        IndexFormatError
            The vectors are damaged, or were changed meanwhile.
        """
        if not len(queries):
            return []
        asked = self._asked(queries)
        spares = np.array([len(rows) for rows in without]) if without is not None else np.zeros(len(queries), int)
        more = None if k is None else k + int(spares.max())
        flats: list[Flat] = []
        found: list[list[Found]] = []
        for number, segment in enumerate(self.segments):
            flat = segment.flat(None if kept is None else kept[number])
            if segment.recall is None or k is None or probe is recall is None:
                flats.append(flat)
                continue
            # Where partitions have too few hits all rows are searched: how many are wanted must not depend on others.
            hits: list[Any] = [None] * len(queries)
            for spare in np.unique(spares).tolist():
                at = np.flatnonzero(spares == spare)
                if probe is not None:
                    some = segment.partitions.search(flat, asked[at], k + spare, probe)
                else:
                    assert recall is not None
                    some = segment.partitions.search_for(flat, asked[at], k, recall, segment.recall, spare)
                for i, each in zip(at.tolist(), some, strict=True):
                    hits[i] = each
            found.append(hits)
        if found and radius is not None:
            found = [[_within(*each, radius) for each in some] for some in found]
        if flats:

            def search(part: Flat, some: NDArray[np.intp], width: int | None) -> list[Found]:
                return part.search(asked[some], width, radius)

            weighted = isinstance(asked, Asked)
            found.append(self._searched(flats, search, len(queries), more, weighted=weighted))
        self._check()
        ranked = merged(found, len(queries), more)
        if without is None:
            return ranked
        return [_left(*each, rows, k) for each, rows in zip(ranked, without, strict=True)]

    def combined(
        self,
        codes: NDArray[np.uint8],
        weights: NDArray[np.int64],
        divisor: int,
        k: int | None,
        radius: float | None,
        kept: Sequence[Kept] | None,
        without: NDArray[np.int64],
    ) -> Found:
        """Find the rows nearest to several codes together, as `Flat.combined` does; ``without`` may be no hits."""
        more = k if k is None else k + len(without)
        flats = [segment.flat(None if kept is None else kept[i]) for i, segment in enumerate(self.segments)]

        def search(part: Flat, _: NDArray[np.intp], width: int | None) -> list[Found]:
            return [part.combined(codes, weights, divisor, width, radius)]

        (found,) = self._searched(flats, search, 1, more)
        self._check()
        return _left(*found, without, k)

    def measure(self, queries: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the distances of queries, as `search` takes them, to some rows, float64 (queries, rows)."""
        asked, distances = self._asked(queries), np.empty((len(queries), len(rows)))
        for segment, mine, at in self.by_segment(rows):
            distances[:, mine] = segment.flat().measure(asked, at)
        return distances

    def _asked(self, queries: NDArray[Any]) -> Queries:
        """Return what queries ask the vectors with: values ask codes by the codes' own distance, or weights of bits."""
        if self.code:
            return AskedFitted.of(self.code, queries)
        return WeightedBits(queries) if self.manifest.metric == HAMMING and queries.dtype != np.uint8 else queries

    def remeasure(self, query: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return better distances of a query to some rows of codes, float64 (n,).

        Parameters
        ----------
        query : numpy.ndarray
            If embeddings are stored, one (dim,), whose distances are by their metric; else the values (bits,) whose
            signs are its code (`Binarizer.values`), whose distances are those of `WeightedBits`.
        rows : numpy.ndarray
            int64 (n,).

        Raises
        ------
        IndexFormatError
            A file is damaged, or was changed meanwhile.
        """
        found = np.empty(len(rows))
        weighted = None if self.manifest.refine else WeightedBits(query[None])
        for segment, mine, at in self.by_segment(rows):
            if weighted:
                found[mine] = weighted.measure(segment.vectors[at])[0]
            elif segment.refined:
                found[mine] = segment.refined.measure(query, at)
            segment.check()
        return found

    def _searched(
        self, flats: Sequence[Flat], search: Search, n_queries: int, k: int | None, *, weighted: bool = False
    ) -> list[Found]:
        """Search the vectors of some segments."""
        try:
            return nearest(flats, search, n_queries, k, weighted=weighted)
        except IndexFormatError as error:
            error.place = error.place or str(self.path)
            raise

    def _check(self) -> None:
        """Raise IndexFormatError if a file was changed since it was opened."""
        for segment in self.segments:
            segment.check()


def learned_in(path: Path, manifest: Manifest) -> dict[str, Fitted]:
    """Return what was learned and the vectors of an index were made with: file of a segment -> what is in it.

    Raises
    ------
    IndexFormatError
        A file is missing or damaged.
    """
    found = {}
    for name, digest in (learned_for(manifest.space) if manifest.space else {}).items():
        place = path / SEGMENTS / manifest.segments[0].name / name
        try:
            found[name] = Fitted.read(place)
        except RsrError as error:
            raise IndexFormatError(error.message, str(place), remedy="rebuild") from None
        if found[name].short_digest != digest:
            raise IndexFormatError(
                "is damaged: it is not what the vectors were made with", str(place), remedy="rebuild"
            )
    return found


def code_of(manifest: Manifest, learned: dict[str, Fitted]) -> FittedCode | None:
    """Return what compares the codes of an index that have a distance of their own.

    Raises
    ------
    IndexFormatError
        What was learned does not fit them.
    """
    try:
        return fitted_code(manifest.space, learned.get(CODEBOOK)) if manifest.space else None
    except RsrError as error:
        raise IndexFormatError(f"is damaged: {error.message}", error.place, remedy="rebuild") from None


@contextlib.contextmanager
def opened_segments(directory: Path, manifest: Manifest) -> Iterator[list[Segment]]:
    """Open segments as `open_segments` does, and close them at the end."""
    segments = open_segments(directory, manifest)
    try:
        yield segments
    finally:
        for segment in segments:
            segment.close()


def open_segments(directory: Path, manifest: Manifest, code: FittedCode | None = None) -> list[Segment]:
    """Open the segments that a manifest names below a directory; ``code`` is as in `Segment`.

    Raises
    ------
    IndexFormatError
        A file is missing or damaged.
    """
    segments: list[Segment] = []
    first = 0
    _allow_files(FILES_PER_SEGMENT * len(manifest.segments))
    for facts in manifest.segments:
        try:
            segments.append(Segment(directory / facts.name, facts, manifest, first, code))
        except FileNotFoundError as error:
            raise IndexFormatError("is missing", str(error.filename), remedy="rebuild") from None
        except OSError as error:
            raise IndexFormatError(f"cannot be opened: {reason(error)}", str(directory)) from None
        first += facts.count
    return segments


def _allow_files(count: int) -> None:
    """Let this process have as many files open as it needs, if the system allows it: a mapped one is an open one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES if hard == resource.RLIM_INFINITY else min(hard, count + SPARE_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _within(distances: NDArray[np.float64], rows: NDArray[np.int64], radius: float) -> Found:
    near = distances <= radius
    return distances[near], rows[near]


def _left(distances: NDArray[np.float64], rows: NDArray[np.int64], without: NDArray[np.int64], k: int | None) -> Found:
    left = ~np.isin(rows, without)
    return distances[left][:k], rows[left][:k]
