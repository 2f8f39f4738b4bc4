"""Writing the files of a segment."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

import rsr_cli
from rsr_cli.core.codes.registry import fitted_code
from rsr_cli.core.errors import UsageError
from rsr_cli.core.files import sync_file
from rsr_cli.core.index.asked import UNSOUND
from rsr_cli.core.index.columns import IDS, ArrayFile, FilterColumns
from rsr_cli.core.index.flat import Flat, drop_too_long, unit
from rsr_cli.core.index.manifest import (
    CODEBOOK,
    DTYPES,
    METRICS,
    TABLE,
    TRANSFORM,
    VECTORS,
    Manifest,
    Refine,
    SegmentFacts,
    has_scales,
    learned_for,
    metric_of,
)
from rsr_cli.core.index.partitions import partitions_of, write_partitions
from rsr_cli.core.index.rerank import RefineWriter
from rsr_cli.core.index.scan import is_scanned, write_scan
from rsr_cli.core.index.stored import VectorWriter, opened
from rsr_cli.core.index.table import NOT_STORED, TableWriter, stored
from rsr_cli.core.inputs import map_array, sha256_of
from rsr_cli.core.records.facts import Fact, Facts, widened
from rsr_cli.core.records.ids import digests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from rsr_cli.core.codes.base import FittedCode
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.fitted.state import Fitted
    from rsr_cli.core.index.manifest import Divided
    from rsr_cli.core.index.reading import Segment
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import Space

#: Rows of another segment that are copied at once.
ROWS_AT_ONCE = 1 << 17


class SegmentWriter:
    """Writes the files of one segment.

    Parameters
    ----------
    directory : pathlib.Path
        The directory to create.
    metric, skips, partitions, refine, fitted
        As in `build`.
    stored : str, optional
        What to store embeddings as, one of `manifest.DTYPES`; ``None`` is the type that the first ones are written in.

    Attributes
    ----------
    count : int
        Number of rows.
    max_norm : float
        Greatest Euclidean norm of an embedding.
    """

    def __init__(
        self,
        directory: Path,
        metric: str | None,
        skips: Skips,
        partitions: Divided = None,
        refine: str | None = None,
        fitted: Sequence[Fitted] = (),
        stored: str | None = None,
    ) -> None:
        directory.mkdir()
        self._directory = directory
        self._metric = metric
        self._skips = skips
        self._divided: Divided = partitions
        self._partitions: dict[str, Any] | None = None
        self._space: Space | None = None
        self._learned: dict[str, Fitted] = {}
        self._code: FittedCode | None = None
        self.count = 0
        self.max_norm = 0.0
        self._gsd: tuple[float, float] | None = None
        self._extent: tuple[float, float] | None = None
        self._files: dict[str, dict[str, Any]] = {}
        self._stored_as = stored
        self._vectors: VectorWriter | None = None
        self._fitted = fitted
        self._refine = RefineWriter(directory, refine, metric or METRICS[0]) if refine else None
        self._columns = FilterColumns(directory)
        self._ids = ArrayFile(directory / IDS, np.uint64)
        self._table = TableWriter(directory, checks=skips.keep_going)

    def fill(self, batches: Iterable[Batch]) -> Iterator[int]:
        """Append all batches, yield how many of the records of each were added, and complete the files."""
        for batch in batches:
            yield self.add(batch)
        self.finish()

    def add(self, batch: Batch) -> int:
        """Append a batch, and return how many of its records were added."""
        if batch.vectors is not None and batch.space and batch.space.kind == "embedding":
            self._stored_as = self._stored_as or stored_as(batch.space)
            is_cosine = metric_of(batch.space, self._metric) == "cosine"
            if is_cosine and self._stored_as != "float32":
                self.max_norm = 1.0  # by their scales
            else:
                if is_cosine:
                    batch.vectors = unit(batch.vectors)
                self.max_norm = max(self.max_norm, drop_too_long(batch, self._skips))
        elif batch.vectors is not None and batch.space:
            learned = files_of(batch.space, self._fitted).get(CODEBOOK)
            self._code = self._code or fitted_code(batch.space, learned)
            if self._code:
                batch.keep_sound(self._code.are_sound(batch.vectors), lambda _: UNSOUND, self._skips)
        if self._refine and len(batch):
            self._refine.prepare(batch, self._skips)
        texts, facts = self._stored(batch)
        if batch.vectors is None or batch.space is None or facts is None:
            return 0
        ids = facts.ids
        new = np.array(self._table.append(self.count, batch, ids, texts), bool)
        batch.keep_sound(new, lambda i: self._table.twice(ids[i]), self._skips)
        facts = facts if new.all() else facts.take(new)
        if not len(batch):
            return 0
        self._vectors_of(batch.space).append(batch.vectors)
        if self._refine and batch.beside:
            self._refine.append(batch.beside[0])
        self._columns.append(facts)
        self._ids.append(digests(facts.ids))
        self._gsd, self._extent = widened(self._gsd, facts.gsds), widened(self._extent, facts.extents)
        self.count += len(batch)
        return len(batch)

    def _vectors_of(self, space: Space) -> VectorWriter:
        """Return what writes the vectors, the first of which decide the space."""
        if self._vectors is None:
            self._learned = files_of(space, self._fitted)
            self._code = self._code or fitted_code(space, self._learned.get(CODEBOOK))
            self._space = space
            scaled = has_scales(self.dtype, self.metric)
            unit_length = scaled and self.metric == "cosine"
            self._vectors = VectorWriter(self._directory, VECTORS, self.dtype, scaled=scaled, unit=unit_length)
        return self._vectors

    def copy(self, segment: Segment) -> Iterator[int]:
        """Append the rows of another segment that are not deleted, and yield how many were since the last time."""
        names = segment.labels()
        for first, kept in segment.blocks(ROWS_AT_ONCE):
            if not kept.any():
                continue
            rows = slice(first, first + len(kept))
            self._vectors_of(segment.space).copy(segment.vectors[rows][kept])
            if self._refine and segment.refined:
                self._refine.copy(segment.refined.vectors[rows][kept])
            self._columns.copy(segment.columns, names, first, kept)
            self._ids.append(digests(segment.ids(first, kept)))
            self._table.copy(self.count, segment.directory / TABLE, first, kept)
            self.count += int(kept.sum())
            yield int(kept.sum())

    def place(self, row: int) -> str:
        """Return the input and line that a row was read from."""
        return self._table.place(row)

    def _stored(self, batch: Batch) -> tuple[list[str], Facts | None]:
        """Return the texts to store of a batch, whose records that have none are dropped, and their facts."""
        if batch.columns is not None:
            texts, facts = batch.columns.texts(NOT_STORED), batch.columns.facts()
            if texts is not None and facts is not None:
                return texts, facts
        rows = batch.apply(lambda record: (Fact.of(record), stored(record)), self._skips)
        return [text for _, text in rows], Facts.of([fact for fact, _ in rows]) if rows else None

    def finish(self) -> None:
        """Complete the files, and check that every id is unique, if that was not done with each record."""
        self._columns.finish()
        self._close_arrays()
        if self.count:
            np.lib.format.open_memmap(self._directory / IDS, mode="r+").sort()
        self._partitions = self._divide()
        if is_scanned(self._space, self.count):
            write_scan(self._directory, map_array(self._directory / VECTORS))
        for name, learned in self._learned.items():
            (self._directory / name).write_bytes(learned.data)
        files, table = sorted(path for path in self._directory.iterdir() if path.name != TABLE), self._directory / TABLE
        with ThreadPoolExecutor(2) as pool:  # hash and write to disk what is complete, while the rest is completed
            hashed = [pool.submit(facts_of, path) for path in files]
            synced = [pool.submit(sync_file, path) for path in files]
            self._table.finish(self._columns.labels)
            hashed.append(pool.submit(facts_of, table))
            sync_file(table)
            for each in synced:
                each.result()
        self._files = {path.name: facts.result() for path, facts in zip((*files, table), hashed, strict=True)}

    def _divide(self) -> dict[str, Any] | None:
        """Divide the rows into partitions, and return what the manifest states of them."""
        count = partitions_of(self.count) if self._divided == "auto" else min(self._divided or 0, self.count)
        if not count:
            return None
        assert self._space is not None  # as there are rows
        scaled, shape = has_scales(self.dtype, self.metric), (self.count, self._space.width)
        vectors = opened(self._directory, VECTORS, self.dtype, shape, scaled=scaled)
        flat = Flat(vectors, self.metric, self.max_norm)
        return asdict(write_partitions(self._directory, flat, count, code=self._code))

    @property
    def metric(self) -> str:
        """How the vectors are compared."""
        return metric_of(self._space, self._metric)

    @property
    def dtype(self) -> str:
        """What the vectors are stored as."""
        return "uint8" if self._space and self._space.kind == "code" else self._stored_as or "float32"

    def close(self) -> None:
        """Close the files."""
        self._close_arrays()
        self._table.close()

    def _close_arrays(self) -> None:
        for each in (self._vectors, self._refine, self._columns, self._ids):
            if each is not None:
                each.close()

    def manifest(self, arguments: Sequence[str]) -> Manifest:
        """Return the manifest of an index of this segment alone."""
        stored = self._refine if self.count else None
        segment = SegmentFacts(self._directory.name, self.count, self._files, partitions=self._partitions)
        return Manifest(
            generation=1,
            metric=self.metric,
            space=self._space,
            max_norm=self.max_norm,
            gsd=self._gsd,
            extent=self._extent,
            stored=None if self.dtype == "uint8" or self._space is None else self.dtype,
            refine=Refine(stored.dtype, stored.metric, stored.dim) if stored else None,
            segments=(segment,) if self.count else (),
            partitions=self._divided,
            **made_by(arguments),
        )


def files_of(space: Space, fitted: Sequence[Fitted]) -> dict[str, Fitted]:
    """Return what was learned that vectors of a space need: file of a segment -> what is in it.

    Raises
    ------
    UsageError
        It is missing, or the vectors were made with something else.
    """
    found = {
        name: [each for each in fitted if each.short_digest == digest] for name, digest in learned_for(space).items()
    }
    for name, some in found.items():
        if not some:
            stated = space.facts["transform"]["method"] if name == TRANSFORM else space.facts.get("method")
            what = f"the {space.kind}s were made with what was learned ({stated}), and an index needs that for queries"
            raise UsageError(what, remedy="with")
    for each in fitted:
        if not any(each in some for some in found.values()):
            raise UsageError(f"the {space.kind}s were not made with it", each.place, remedy="no-with")
    return {name: some[0] for name, some in found.items()}


def made_by(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what a manifest states of the program and its command line."""
    return {
        "made_with": {"rsr": rsr_cli.__version__, "faiss": faiss.__version__, "python": platform.python_version()},
        "arguments": [os.fsencode(word).decode(errors="backslashreplace") for word in arguments],
    }


def stored_as(space: Space) -> str:
    """Return what embeddings are stored as that are written in the type of a space."""
    return space.dtype if space.dtype in DTYPES else "float32"


def facts_of(path: Path) -> dict[str, Any]:
    """Return the size and the sha256 of a file, as the manifest states them."""
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}
