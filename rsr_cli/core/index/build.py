"""Building an index directory from a stream of records."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

import rsr_cli
from rsr_cli.core.errors import IndexFormatError, OutputError, RsrError, Skips, counted
from rsr_cli.core.files import (
    PREFIX,
    explained,
    follow,
    locked,
    refuse_existing,
    remove,
    sync_directory,
    sync_file,
    whole_directory,
)
from rsr_cli.core.index.columns import ArrayFile, FilterColumns
from rsr_cli.core.index.flat import drop_too_long, unit
from rsr_cli.core.index.manifest import (
    EARLIER,
    HAMMING,
    LOCK,
    MANIFEST,
    METRICS,
    SEGMENTS,
    TABLE,
    VECTORS,
    Manifest,
    SegmentFacts,
    segment_name,
)
from rsr_cli.core.index.table import NOT_STORED, TableWriter, stored
from rsr_cli.core.records.facts import Fact, Facts, widened

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import Space


def build(
    batches: Iterable[Batch],
    path: Path,
    metric: str | None,
    skips: Skips,
    *,
    arguments: Sequence[str] = (),
    overwrite: bool = False,
    allow_empty: bool = False,
) -> Iterator[int]:
    """Build an index directory from a stream of records.

    Vectors and records go to disk as they come, so memory does not grow with the stream. The directory appears under
    its name when it is whole. An index that is replaced keeps its name throughout: its manifest is replaced by one
    rename, and a reader sees either generation, never a mixture.

    Parameters
    ----------
    batches : iterable of Batch
        Records with vectors of one space.
    path : Path
        The directory to create.
    metric : str, optional
        ``l1``, ``l2``, ``cosine`` or ``dot``, for embeddings; ``None`` is ``l1``, the paper's.
    skips : Skips
        Asked about records that cannot be indexed.
    arguments : sequence of str
        The command line, for the manifest.
    overwrite : bool
        Replace an existing index.
    allow_empty : bool
        Let a stream without records make an empty index, but never replace an index that has rows.

    Yields
    ------
    int
        Number of records added since the last one.

    Raises
    ------
    RecordError
        A record has no usable id, bbox, datetime or labels, or an embedding too long for float32's squares.
    RsrError
        An id occurs twice, or no record came.
    OutputError
        The directory exists already, is not an index, or cannot be written.
    """
    with explained(str(path)):
        final = follow(path)
    replaces = final.exists()
    if replaces:
        _check_replaceable(path)
        if not os.access(final, os.W_OK):
            raise OutputError("cannot write: permission denied", str(path))
    refuse_existing(path, overwrite=overwrite)
    try:
        if replaces:
            (final / SEGMENTS).mkdir(exist_ok=True)
            unpublished = final / SEGMENTS / secrets.token_hex(8)
            with contextlib.ExitStack() as stack:
                with whole_directory(unpublished) as segment:
                    manifest = yield from _fill(segment, batches, metric, skips, arguments, allow_empty=allow_empty)
                    stack.enter_context(locked(final / LOCK))  # before the segment is seen, as other writers clean up
                try:
                    _publish(final, unpublished, manifest)
                finally:
                    remove(unpublished)  # unless it has its place
            return
        with whole_directory(final) as directory:
            segment = directory / SEGMENTS / segment_name(1)
            segment.mkdir(parents=True)
            manifest = yield from _fill(segment, batches, metric, skips, arguments, allow_empty=allow_empty)
            manifest.write(directory)
    except FileExistsError:
        raise OutputError("was created by another process meanwhile", str(path)) from None
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutputError(f"cannot write: {reason.lower()}", str(path)) from None


def _check_replaceable(path: Path) -> None:
    """Raise OutputError if a directory is not an index, or holds more than one."""
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    names = {name for name in names if not name.startswith(PREFIX)}
    elsewhere = (path / SEGMENTS).is_symlink()
    if MANIFEST not in names or not names <= EARLIER | {SEGMENTS, LOCK} or elsewhere:
        raise OutputError("exists and is not an index, or has other files in it; it is not replaced", str(path))


def _publish(index: Path, unpublished: Path, manifest: Manifest) -> None:
    """Make a segment the content of an index whose lock is held, and remove what was there before."""
    current: set[str] = set()
    try:
        last = Manifest.read(index)
        current = {segment.name for segment in last.segments}
        manifest = manifest.following(last)
        rows = counted(last.count, "row") if last.count else ""
    except IndexFormatError as error:
        if error.remedy != "rebuild":
            raise
        rows = "an index that cannot be read"
    if rows and not manifest.count:
        raise OutputError(f"no usable record was read, and {rows} would be lost", str(index), remedy="remove-index")
    _remove_others(index, {*current, unpublished.name})
    names = {segment.name for segment in manifest.segments}
    segments = [index / SEGMENTS / name for name in names]
    try:
        for segment in segments:
            unpublished.rename(segment)
        sync_directory(index / SEGMENTS)
        manifest.write(index)
    except BaseException:
        # a signal may come when the manifest names the segment already
        if not _names(index, names):
            for segment in segments:
                remove(segment)
        raise
    _remove_others(index, names)
    for name in EARLIER - {MANIFEST}:
        remove(index / name)


def _names(index: Path, names: set[str]) -> bool:
    """Return whether the manifest names these segments, or cannot be read."""
    try:
        return names <= {segment.name for segment in Manifest.read(index).segments}
    except IndexFormatError as error:
        return error.remedy != "rebuild"


def _remove_others(index: Path, names: set[str]) -> None:
    """Remove all segments but some, such as those that a killed writer left unpublished; the index is locked."""
    for entry in (index / SEGMENTS).iterdir():
        if not entry.name.startswith(PREFIX) and entry.name not in names:
            remove(entry)


def _fill(
    directory: Path,
    batches: Iterable[Batch],
    metric: str | None,
    skips: Skips,
    arguments: Sequence[str],
    *,
    allow_empty: bool,
) -> Generator[int, None, Manifest]:
    """Write a segment, yield as `build` does, and return the manifest of an index of it alone."""
    with contextlib.closing(SegmentWriter(directory, metric, skips)) as writer:
        for batch in batches:
            yield writer.add(batch)
        writer.finish()
    if not writer.count and not allow_empty:
        raise RsrError("no usable record was read, and the index would be empty", remedy="allow-empty")
    return writer.manifest(arguments)


class SegmentWriter:
    """Writes the files of one segment.

    Parameters
    ----------
    directory : pathlib.Path
        An empty directory.
    metric, skips
        As in `build`.

    Attributes
    ----------
    count : int
        Number of rows.
    """

    def __init__(self, directory: Path, metric: str | None, skips: Skips) -> None:
        self._directory = directory
        self._metric = metric
        self._skips = skips
        self._space: Space | None = None
        self.count = 0
        self._max_norm = 0.0
        self._gsd: tuple[float, float] | None = None
        self._extent: tuple[float, float] | None = None
        self._files: dict[str, dict[str, Any]] = {}
        self._vectors: ArrayFile | None = None
        self._columns = FilterColumns(directory)
        self._table = TableWriter(directory, checks=skips.keep_going)

    def add(self, batch: Batch) -> int:
        """Append a batch, and return how many of its records were added."""
        if batch.vectors is not None and batch.space and batch.space.kind == "embedding":
            if self._metric == "cosine":
                batch.vectors = unit(batch.vectors)
            self._max_norm = max(self._max_norm, drop_too_long(batch, self._skips))
        texts, facts = self._stored(batch)
        if batch.vectors is None or batch.space is None or facts is None:
            return 0
        ids = facts.ids
        new = np.array(self._table.append(self.count, batch, ids, texts), bool)
        batch.keep_sound(new, lambda i: self._table.twice(ids[i]), self._skips)
        facts = facts if new.all() else facts.take(new)
        if not len(batch):
            return 0
        values = batch.vectors
        if self._vectors is None:
            self._space = batch.space
            self._vectors = ArrayFile(self._directory / VECTORS, values.dtype, values.shape[1:])
        self._vectors.append(values)
        self._columns.append(facts)
        self._gsd, self._extent = widened(self._gsd, facts.gsds), widened(self._extent, facts.extents)
        self.count += len(batch)
        return len(batch)

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
        if self._vectors is not None:
            self._vectors.close()
        self._columns.close()
        arrays, table = sorted(self._directory.glob("*.npy")), self._directory / TABLE
        with ThreadPoolExecutor(2) as pool:  # hash and write to disk what is complete, while the rest is completed
            hashed = [pool.submit(_facts_of, path) for path in arrays]
            synced = [pool.submit(sync_file, path) for path in arrays]
            self._table.finish(self._columns.labels)
            self._table.close()
            hashed.append(pool.submit(_facts_of, table))
            sync_file(table)
            for each in synced:
                each.result()
        self._files = {path.name: facts.result() for path, facts in zip((*arrays, table), hashed, strict=True)}

    def close(self) -> None:
        """Close the files."""
        if self._vectors is not None:
            self._vectors.close()
        self._columns.close()
        self._table.close()

    def manifest(self, arguments: Sequence[str]) -> Manifest:
        """Return the manifest of an index of this segment alone."""
        metric = HAMMING if self._space is None or self._space.kind == "code" else self._metric or METRICS[0]
        return Manifest(
            generation=1,
            metric=metric,
            space=self._space,
            max_norm=self._max_norm,
            gsd=self._gsd,
            extent=self._extent,
            segments=(SegmentFacts(segment_name(1), self.count, self._files),) if self.count else (),
            made_with={"rsr": rsr_cli.__version__, "faiss": faiss.__version__, "python": platform.python_version()},
            arguments=[os.fsencode(word).decode(errors="backslashreplace") for word in arguments],
        )


def _facts_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}
