"""Opening an index directory and asking it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rsr_cli.core.codes.registry import METHODS, binarizer_class
from rsr_cli.core.errors import FingerprintError, IndexFormatError, RecordError
from rsr_cli.core.files import reason
from rsr_cli.core.index.flat import Flat
from rsr_cli.core.index.manifest import SEGMENTS, TABLE, VECTORS, Manifest, SegmentFacts
from rsr_cli.core.index.table import Table
from rsr_cli.core.inputs import map_array, open_regular
from rsr_cli.core.records.space import fingerprint, note_int8

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from io import FileIO

    from numpy.typing import NDArray

    from rsr_cli.core.codes.base import Binarizer
    from rsr_cli.core.records.space import Space

T = TypeVar("T")


@dataclass(frozen=True)
class Columns:
    """What the rows of a segment can be filtered by.

    Attributes
    ----------
    boxes : numpy.ndarray
        float32 (n, 4): west, south, east, north in degrees, rounded outward, west > east across the antimeridian; NaN
        without a bounding box.
    """

    boxes: NDArray[np.float32]


class Segment:
    """An open segment: mapped vectors and their records.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    facts : SegmentFacts
        What the manifest states of it.
    space : Space
        The space of its vectors.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    IndexFormatError
        A file is damaged.
    """

    def __init__(self, directory: Path, facts: SegmentFacts, space: Space) -> None:
        self._path = directory / VECTORS
        self._opened: dict[Path, tuple[FileIO, os.stat_result]] = {}
        if not {VECTORS, TABLE} <= facts.files.keys():
            raise self._damaged("the manifest does not state its size")
        for name, stated in facts.files.items():
            path = directory / name
            file = open_regular(path)
            found = os.fstat(file.fileno())
            if found.st_size != stated["size"]:
                what = f"it has {found.st_size} bytes and the manifest {stated['size']}"
                raise self._damaged(what, path)
            self._opened[path] = file, found
        try:
            self.vectors = map_array(self._path)
        except ValueError as error:
            raise self._damaged(str(error)) from None
        dtype = np.dtype(np.uint8 if space.kind == "code" else np.float32)
        expected = (facts.count, space.width)
        if (self.vectors.dtype, self.vectors.shape) != (dtype, expected) or not self.vectors.flags.c_contiguous:
            what = f"it has {self.vectors.dtype} {self.vectors.shape} and the manifest {dtype} {expected}"
            raise self._damaged(what)
        self.table = Table(directory, facts.count)
        self.first = 0
        self.count = facts.count
        self.deleted = np.empty(0, np.int64)

    @cached_property
    def columns(self) -> Columns:
        """What the rows can be filtered by."""
        return Columns(map_array(self._path.with_name("bbox.npy")))

    def check(self) -> None:
        """Raise IndexFormatError if a file was written to since it was opened."""
        for path, (file, opened) in self._opened.items():
            now = os.fstat(file.fileno())
            if (now.st_size, now.st_mtime_ns) != (opened.st_size, opened.st_mtime_ns):
                raise IndexFormatError("was changed by another process while it was read", str(path), remedy="rebuild")

    def _damaged(self, what: str, path: Path | None = None) -> IndexFormatError:
        return IndexFormatError(f"is damaged: {what}", str(path or self._path), remedy="rebuild")

    def close(self) -> None:
        """Close the files."""
        self.table.close()
        for file, _ in self._opened.values():
            file.close()


def _open(path: Path) -> tuple[Manifest, list[Segment]]:
    """Open an index in one generation, again if it was replaced meanwhile."""
    manifest = Manifest.read(path)
    while True:
        if len(manifest.segments) > 1 or manifest.deletions:
            raise IndexFormatError("has deletions or several segments, which this version does not read", str(path))
        segments: list[Segment] = []
        failure = None
        try:
            for facts in manifest.segments:
                assert manifest.space is not None
                segments.append(Segment(path / SEGMENTS / facts.name, facts, manifest.space))
        except FileNotFoundError as error:
            failure = IndexFormatError("is missing", str(error.filename), remedy="rebuild")
        except OSError as error:
            failure = IndexFormatError(f"cannot be opened: {reason(error)}", str(path))
        except IndexFormatError as error:
            failure = error
        latest = Manifest.read(path)
        if latest != manifest:
            manifest = latest
        elif failure:
            raise failure
        else:
            return manifest, segments


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

    Raises
    ------
    IndexFormatError
        The directory is not an index, is damaged, or is of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest, segments = _open(path)
        self.segments = segments
        self._segment = segments[0] if segments else None
        if self._segment is not None:
            self._flat = Flat(self._segment.vectors, self.manifest.metric, self.manifest.max_norm)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        if self._segment is not None:
            self._segment.close()

    def labels(self) -> list[str]:
        """Return the names of the labels in the order of their numbers."""
        return self._segment.table.labels() if self._segment else []

    def find(self, name: str) -> int | None:
        """Return the row of an id, if the index has it."""
        return self._segment.table.row_of(name) if self._segment else None

    def row_of(self, name: str) -> int:
        """Return the row of an id.

        Raises
        ------
        RecordError
            The index has no such id.
        """
        row = self.find(name)
        if row is None:
            similar = self._segment.table.ids_with(name) if self._segment else []
            hint = f"; did you mean {' or '.join(map(repr, similar))}?" if similar else ""
            raise RecordError(f"has no item with the id {name!r}{hint}", str(self.path))
        return row

    def record(self, row: int) -> tuple[str, str]:
        """Return the id of a row and its Feature, without its vector, as text that `table.hit_line` extends."""
        assert self._segment is not None
        return self._segment.table.record(row)

    def vector(self, row: int) -> NDArray[Any]:
        """Return the vector of a row: uint8 (bytes,) of a code, float32 (dim,) of an embedding."""
        assert self._segment is not None
        vector: NDArray[Any] = np.array(self._segment.vectors[row])
        return vector

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
                binarizer = binarizer_class(method)(space, mine.size, mine.facts.get("seed"))
                theirs = binarizer.space
            else:
                mine = mine.of_embedding()
        if (theirs.fingerprint, theirs.size) == (mine.fingerprint, mine.size):
            note_int8(theirs.facts.get("precision"), mine.facts.get("precision"))
            return binarizer
        named = mine.facts.get("model")
        raise FingerprintError(
            f"the queries are in another vector space than the index {self.path} ({theirs.difference(mine)})",
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
        kept: Sequence[NDArray[np.bool_] | None] | None = None,
        without: Sequence[NDArray[np.int64]] | None = None,
    ) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Find each query's nearest rows, as `Flat.search` does.

        Parameters
        ----------
        queries, k, radius
            As in `Flat.search`.
        kept : sequence of numpy.ndarray or None, optional
            Per segment the rows that may be hits, bool (count,), or None for all.
        without : sequence of numpy.ndarray, optional
            Per query the rows that may not be its hits, int64, sorted.

        Raises
        ------
        IndexFormatError
            The vectors are damaged, or were changed meanwhile.
        """
        if self._segment is None or not len(queries):
            return [(np.empty(0), np.empty(0, np.int64))] * len(queries)
        left_out = [self._left_out(kept, rows) for rows in (without or repeat(None, len(queries)))]
        more = None if k is None else k + max(map(len, left_out))
        found = self._checked(lambda flat: flat.search(queries, more, radius))
        results = []
        for (distances, rows), out in zip(found, left_out, strict=True):
            may = ~np.isin(rows, out, assume_unique=True)
            results.append((distances[may][:k], rows[may][:k]))
        return results

    def combined(
        self,
        codes: NDArray[np.uint8],
        weights: NDArray[np.int64],
        divisor: int,
        k: int | None,
        radius: float | None,
        kept: Sequence[NDArray[np.bool_] | None] | None,
        without: NDArray[np.int64],
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Find the rows nearest to several codes together, as `Flat.combined` does; ``without`` may be no hits."""
        if self._segment is None:
            return np.empty(0), np.empty(0, np.int64)
        left_out = self._left_out(kept, without)
        return self._checked(lambda flat: flat.combined(codes, weights, divisor, k, radius, left_out))

    def measure(self, queries: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the distances of queries to some rows, float64 (queries, rows)."""
        return self._checked(lambda flat: flat.measure(queries, rows))

    def _left_out(
        self, kept: Sequence[NDArray[np.bool_] | None] | None, without: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        """Return the rows that may be no hits of a query, sorted."""
        rows = np.empty(0, np.int64) if without is None else without
        if kept is None or kept[0] is None:
            return rows
        return np.union1d(rows, np.flatnonzero(~kept[0]))

    def _checked(self, search: Callable[[Flat], T]) -> T:
        """Search the segment, and check that it was not changed meanwhile."""
        assert self._segment is not None
        try:
            found = search(self._flat)
        except IndexFormatError as error:
            error.place = str(self.path)
            raise
        self._segment.check()
        return found
