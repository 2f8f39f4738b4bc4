"""Building an index of a stream of records, and appending to one; each change of an index is published alike."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from rsr_cli.core.errors import FingerprintError, OutputError, RsrError, UsageError, counted
from rsr_cli.core.files import (
    PREFIX,
    explained,
    follow,
    publish_directory,
    refuse_existing,
    remove,
    temporary_directory,
    whole_directory,
)
from rsr_cli.core.index.deletions import find_repeats, settle_repeats, with_deletions
from rsr_cli.core.index.generations import NEW, place, publish, writing
from rsr_cli.core.index.manifest import EARLIER, GENERATIONS, HAMMING, LOCK, MANIFEST, SEGMENTS, Manifest
from rsr_cli.core.index.reading import learned_in, opened_segments
from rsr_cli.core.index.writer import SegmentWriter, stored_as
from rsr_cli.core.records.fields import in_metres, is_near
from rsr_cli.core.records.space import KINDS, note_int8, remedy_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.fitted.state import Fitted
    from rsr_cli.core.index.manifest import Divided
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import Kind, Space

    #: Writes segments into a directory, yields the number of rows as it goes on, and returns a manifest of them alone.
    Fill = Callable[[Path], Generator[int, None, Manifest]]
    #: Decides, while no other process writes, what becomes of the index: from its manifest, that of the new segments,
    #: and their directory it returns the next manifest, or None if nothing changes.
    Settle = Callable[[Manifest | None, Manifest, Path], Manifest | None]

log = logging.getLogger("rsr")


def build(
    batches: Iterable[Batch],
    path: Path,
    metric: str | None,
    skips: Skips,
    *,
    arguments: Sequence[str] = (),
    overwrite: bool = False,
    allow_empty: bool = False,
    partitions: Divided = None,
    refine: str | None = None,
    fitted: Sequence[Fitted] = (),
) -> Iterator[int]:
    """Build an index directory from a stream of records.

    Vectors and records go to disk as they come, so memory does not grow with the stream. The directory appears under
    its name when it is whole. An index that is replaced keeps its name throughout: its manifest is replaced by one
    rename, and a reader sees either generation, never a mixture.

    Parameters
    ----------
    batches : iterable of Batch
        Records with vectors of one space, and those beside them that `taken` states.
    path : Path
        The directory to create.
    metric : str, optional
        ``l1``, ``l2``, ``cosine`` or ``dot``, for embeddings; ``None`` is the first of `manifest.METRICS`.
    skips : Skips
        Asked about records that cannot be indexed.
    arguments : sequence of str
        The command line, for the manifest.
    overwrite : bool
        Replace an existing index.
    allow_empty : bool
        Let a stream without records make an empty index, but never replace an index that has rows.
    partitions : str, int or None
        Into how many partitions to divide the rows, see `partitions.py`; ``auto`` for a number that suits them.
    refine : str, optional
        What to store the embeddings beside codes as, one of `manifest.DTYPES`; ``None`` stores none.
    fitted : sequence of Fitted
        What was learned and the records were made with. The index keeps it for queries.

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
    UsageError
        What was learned is missing, or the records were made with something else.
    OutputError
        The directory exists already, is not an index, or cannot be written.
    """
    replaces = resolve(path).exists()
    refuse_existing(path, overwrite=overwrite)

    def fill(staging: Path) -> Generator[int, None, Manifest]:
        with contextlib.closing(
            SegmentWriter(staging / f"{NEW}1", metric, skips, partitions, refine, fitted)
        ) as writer:
            yield from writer.fill(batches)
            if not writer.count and not allow_empty:
                raise _no_records()
            return writer.manifest(arguments)

    def settle(last: Manifest | None, made: Manifest, _: Path) -> Manifest:
        if last is not None and not overwrite:
            raise created_meanwhile(path)
        rows = counted(last.count, "row") if last else "an index that cannot be read"
        if replaces and (last is None or last.count) and not made.count:
            raise RsrError(f"no usable record was read, and {rows} would be lost", str(path), remedy="remove-index")
        return made

    yield from change(path, fill, settle)


def append(
    batches: Iterable[Batch],
    path: Path,
    metric: str | None,
    skips: Skips,
    *,
    arguments: Sequence[str] = (),
    replace_rows: bool = False,
    allow_empty: bool = False,
    partitions: Divided = None,
    refine: str | None = None,
    fitted: Sequence[Fitted] = (),
) -> Iterator[int]:
    """Append a stream of records to an index, as a segment of its own.

    Parameters
    ----------
    batches : iterable of Batch
        Records with vectors of the index's space, and those beside them that `appendable` states.
    path : Path
        The index; one that does not exist is created.
    metric, refine : str, optional
        Those of the index, as `appendable` returns them.
    skips : Skips
        Asked about records that cannot be indexed, and about those whose id the index has.
    arguments : sequence of str
        The command line, for the manifest.
    replace_rows : bool
        Delete the rows that have the ids of new ones.
    allow_empty : bool
        Create an index without rows, if there is none, from a stream without records.
    partitions : str, int or None
        As in `build`; without it, a segment that is large enough is divided if the index is.
    fitted : sequence of Fitted
        As in `build`; by default that of the index.

    Yields
    ------
    int
        Number of records added since the last one.

    Raises
    ------
    RecordError
        As in `build`, or an id is in the index.
    FingerprintError
        The records are of another vector space than the index.
    OutputError
        The directory is not an index, or cannot be written.
    """
    known = Manifest.read(path) if resolve(path).exists() else None
    with told(path), contextlib.ExitStack() as stack:
        writers: list[SegmentWriter] = []  # the one that fills the segment, which knows where its rows are from

        def fill(staging: Path) -> Generator[int, None, Manifest]:
            divided = partitions or ("auto" if known and known.partitions else None)
            kept = fitted or (tuple(learned_in(path, known).values()) if known else ())
            stored = known.dtype if known and known.space and known.space.kind == "embedding" else None
            new = SegmentWriter(staging / f"{NEW}1", metric, skips, divided, refine, kept, stored)
            writer = stack.enter_context(contextlib.closing(new))
            writers.append(writer)
            yield from writer.fill(_fitting(batches, known, path))
            if known is None and not writer.count and not allow_empty:
                raise _no_records()
            return writer.manifest(arguments)

        def settle(last: Manifest | None, made: Manifest, staging: Path) -> Manifest | None:
            if last is None and known is None:
                return made
            last = last or Manifest.read(path)  # which says why it could not be read
            if not made.segments:
                return None
            check_fits(last, made, str(path))
            with opened_segments(path / SEGMENTS, last) as old, opened_segments(staging, made) as new:
                repeats = find_repeats([*old, *new], len(old))
                gone = settle_repeats(
                    repeats, skips, lambda repeat: writers[0].place(repeat.row), replace_rows=replace_rows
                )
                if {number: len(rows) for number, rows in gone.items()} == {len(old): made.count}:
                    return None  # every record was skipped
                return with_deletions(last.extended(made), [*old, *new], gone, last.generation + 1)

        yield from change(path, fill, settle)


def _no_records() -> RsrError:
    return RsrError("no usable record was read, and the index would be empty", remedy="allow-empty")


class Taken(NamedTuple):
    """What an index takes of records.

    Attributes
    ----------
    kinds : sequence of str
        The vectors, in order of preference.
    beside : str or None
        The vectors that are to be beside them.
    metric : str or None
        Of embeddings, if the user or the index states it.
    refine : str or None
        What embeddings beside codes are stored as.
    """

    kinds: Sequence[Kind]
    beside: Kind | None
    metric: str | None
    refine: str | None


def taken(metric: str | None, refine: str | None) -> Taken:
    """Return what a new index takes, for a metric of embeddings and for embeddings beside codes."""
    if refine:
        return Taken(("code",), "embedding", metric, refine)
    return Taken(("embedding",) if metric else KINDS, None, metric, None)


def appendable(path: Path, metric: str | None, refine: str | None = None) -> Taken:
    """Return what an index takes that is appended to.

    Parameters
    ----------
    path : Path
        The index; one that does not exist takes what a new one does.
    metric, refine : str, optional
        What is asked for.

    Raises
    ------
    UsageError
        The index has another metric, or stores other embeddings beside its codes.
    IndexFormatError
        The directory is not an index, or is damaged.
    """
    known = Manifest.read(path) if resolve(path).exists() else None
    if known is None or known.space is None:
        return taken(metric, refine)
    own, stored = (known.refine.metric, known.refine.dtype) if known.refine else (known.metric, None)
    if metric not in (None, own):
        raise UsageError(f"the index compares its vectors by {own}, not {metric}", remedy="no-metric")
    if refine and stored is None:
        raise UsageError("the index stores no embeddings beside its codes", remedy="refine")
    if refine not in (None, stored):
        raise UsageError(f"the index stores its embeddings as {stored}, not {refine}", remedy="no-refine")
    if stored:
        return taken(own, stored)
    return Taken((known.space.kind,), None, None if own == HAMMING else own, None)


def check_fits(manifest: Manifest, other: Manifest, place: str) -> None:
    """Check that the segments of two indexes can be in one, and warn if their tiles differ in size.

    Raises
    ------
    FingerprintError
        They are of different vector spaces.
    UsageError
        They have different metrics, store embeddings in different types of number, or others beside their codes.
    """
    if manifest.space is None or other.space is None:
        return
    check_space(manifest.space, other.space, place)
    if manifest.metric != other.metric:
        what = f"vectors compared by {other.metric} cannot be in one index with those compared by {manifest.metric}"
        raise UsageError(f"{place}: {what}", remedy="alike")
    if manifest.dtype != other.dtype:
        what = f"embeddings stored as {other.dtype} cannot be in one index with those stored as {manifest.dtype}"
        raise UsageError(f"{place}: {what}", remedy="alike")
    if manifest.refine != other.refine:
        mine, theirs = (str(each.refine) if each.refine else "none" for each in (manifest, other))
        what = f"codes with these embeddings beside them cannot be in one index: {theirs}; {mine}"
        raise UsageError(f"{place}: {what}", remedy="alike")
    for what, known, new in zip(("pixels", "tiles"), manifest.ranges, other.ranges, strict=True):
        if known and new and not is_near(new, known):
            log.warning(
                "%s: %s of %s and of %s on the ground are in one index: look-alikes may be missed",
                *(place, what, in_metres(*known), in_metres(*new)),
            )


def check_space(mine: Space, theirs: Space, place: str) -> None:
    """Raise FingerprintError if vectors are of another space than those of an index."""
    if (mine.fingerprint, mine.size) != (theirs.fingerprint, theirs.size):
        raise FingerprintError(
            f"the records are in another vector space than the index ({theirs.difference(mine)})",
            place,
            **(remedy_for(theirs, mine) or {"remedy": "same-space"}),
        )
    note_int8(theirs.facts.get("precision"), mine.facts.get("precision"))


def _fitting(batches: Iterable[Batch], known: Manifest | None, path: Path) -> Iterator[Batch]:
    """Yield batches, the first of which must be of an index's vector space, and of a type of number that it holds."""
    for number, batch in enumerate(batches):
        if number == 0 and known and known.space and batch.space:
            check_space(known.space, batch.space, str(path))
            if batch.space.kind == "embedding" and known.dtype not in ("float32", stored_as(batch.space)):
                what = f"the index stores its embeddings as {known.dtype}, and the records' are of {batch.space.dtype}"
                raise UsageError(f"{path}: {what}", remedy="dtype-of-index", dtype=known.dtype)
        yield batch


def change(path: Path, fill: Fill, settle: Settle) -> Generator[int, None, None]:
    """Publish segments that a function writes as a new index, or as part of one that is there.

    Raises
    ------
    OutputError
        The directory is not an index, was created meanwhile, or cannot be written.
    """
    final = resolve(path)
    with told(path):
        if not final.exists():
            yield from _create(final, path, fill, settle)
            return
        (final / SEGMENTS).mkdir(exist_ok=True)
        unpublished = final / SEGMENTS / f"{NEW}-{secrets.token_hex(8)}"
        with contextlib.ExitStack() as stack:
            with whole_directory(unpublished) as staging:
                made = yield from fill(staging)
                last = stack.enter_context(writing(final))  # before others see the segments, which no manifest names
                manifest = settle(last, made, staging)
            try:
                if manifest is not None:
                    publish(final, last, manifest, unpublished)
            finally:
                remove(unpublished)


def _create(final: Path, path: Path, fill: Fill, settle: Settle) -> Generator[int, None, None]:
    """Publish segments as a new index, or as part of one that another process has created meanwhile."""
    with temporary_directory(final) as directory:
        segments = directory / SEGMENTS
        segments.mkdir()
        made = yield from fill(segments)
        settled = settle(None, made, segments) or made
        placed = place(settled, segments, segments, 1)
        replace(placed, generation=1).write(directory)
        try:
            publish_directory(directory, final)
        except FileExistsError:
            if not (final / MANIFEST).exists():
                raise
        else:
            return
        for was, now in zip(settled.segments, placed.segments, strict=True):
            (segments / now.name).rename(segments / was.name)
        yield from change(path, lambda staging: _filled(segments, made, staging), settle)


def _filled(segments: Path, made: Manifest, staging: Path) -> Generator[int, None, Manifest]:
    """Move segments that were written into another directory, and return their manifest, as a `Fill` does."""
    yield from ()
    for entry in segments.iterdir():
        entry.rename(staging / entry.name)
    return made


def created_meanwhile(path: Path) -> OutputError:
    """Return what to raise for an index that was not there, and is not to be changed."""
    return OutputError("was created by another process meanwhile", str(path))


def resolve(path: Path) -> Path:
    """Return what a path is when links are followed: an index that can be written, or nothing.

    Raises
    ------
    OutputError
        It is something else, or it cannot be written.
    """
    with explained(str(path)):
        final = follow(path)
    if final.exists():
        names = {entry.name for entry in final.iterdir()} if final.is_dir() else set()
        names = {name for name in names if not name.startswith(PREFIX)}
        if MANIFEST not in names or not names <= EARLIER | {SEGMENTS, LOCK, GENERATIONS}:
            what = "exists and is not an index, or has other files in it; it is not replaced"
            raise OutputError(what, str(path), remedy="other-output")
        _check_kinds(final)
        if not os.access(final, os.W_OK):
            raise OutputError("cannot write: permission denied", str(path))
    return final


def _check_kinds(index: Path) -> None:
    """Raise OutputError unless all that is written to or removed is in an index itself, and not where a link leads."""
    for folder in (index, index / SEGMENTS, index / GENERATIONS):
        entries: list[Path] = []
        with contextlib.suppress(FileNotFoundError):
            entries = [entry for entry in folder.iterdir() if not entry.name.startswith(PREFIX)]
        for entry in entries:
            kind = "directory" if entry.name in (SEGMENTS, GENERATIONS) or folder.name == SEGMENTS else "regular file"
            with contextlib.suppress(FileNotFoundError):  # another process writes, and has removed it
                mode = entry.lstat().st_mode
                if not (stat.S_ISDIR(mode) if kind == "directory" else stat.S_ISREG(mode)):
                    raise OutputError(f"cannot write: it is not a {kind}", str(entry))


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn the errors of writing an index into ours, as `files.explained` does."""
    try:
        yield
    except FileExistsError:
        raise created_meanwhile(path) from None
    except (OSError, sqlite3.Error) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutputError(f"cannot write: {what.lower()}", str(path)) from None
