"""Changing an index without records: deleting rows, making one segment of all, and merging several indexes."""

from __future__ import annotations

import contextlib
import logging
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.errors import IndexFormatError, OutputError, RecordError, RsrError, Skips
from rsr_cli.core.files import refuse_existing
from rsr_cli.core.index.build import change, check_fits, created_meanwhile, resolve, told
from rsr_cli.core.index.deletions import find_repeats, settle_repeats, with_deletions
from rsr_cli.core.index.generations import NEW, publish, retire, writing
from rsr_cli.core.index.manifest import HAMMING, SEGMENTS, Manifest
from rsr_cli.core.index.reading import Index, opened_segments
from rsr_cli.core.index.scan import SCAN, is_scanned
from rsr_cli.core.index.writer import SegmentWriter, made_by

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rsr_cli.core.index.manifest import Divided
    from rsr_cli.core.index.reading import Segment

log = logging.getLogger("rsr")


def delete(path: Path, choose: Callable[[Index], Mapping[int, Iterable[int]]], *, arguments: Sequence[str] = ()) -> int:
    """Delete rows of an index. They stay on disk until it is compacted.

    Parameters
    ----------
    path : Path
        The index.
    choose : callable
        Returns the rows to delete of the open index, number of a segment -> its rows; nobody else writes meanwhile.
    arguments : sequence of str
        The command line, for the manifest.

    Returns
    -------
    int
        Number of rows that were deleted.

    Raises
    ------
    IndexFormatError
        The directory is not an index, or is damaged.
    OutputError
        It cannot be written.
    """
    final = resolve(path)
    with told(path):
        Manifest.read(path)  # before a lock file is made where no index is
    with told(path), writing(final) as found:
        last = found or Manifest.read(path)
        with Index(path) as index:
            manifest = with_deletions(last, index.segments, choose(index), last.generation + 1)
        if manifest != last:
            publish(final, last, replace(manifest, **made_by(arguments)))
    return last.count - manifest.count


def rows_with_ids(index: Index, ids: Sequence[str], skips: Skips) -> dict[int, list[int]]:
    """Return the rows of some ids, number of a segment -> rows; ``skips`` is asked about an id that no row has."""
    rows = {}
    missing = dict.fromkeys(ids)
    for number, segment in enumerate(index.segments):
        if found := segment.rows_of(list(missing)):
            rows[number] = list(found.values())
            missing = {name: None for name in missing if name not in found}
        segment.close()
    for name in missing:
        remedy = "ids-like" if any(sign in name for sign in "*%") else None
        skips(RecordError(f"has no item with the id {name!r}", str(index.path), remedy=remedy))
    return rows


def compact(path: Path, *, arguments: Sequence[str] = (), partitions: Divided = None) -> Iterator[int]:
    """Make one segment of all rows of an index that are not deleted, in their order.

    The index can be read, and rows can be appended and deleted, meanwhile.

    Parameters
    ----------
    path : Path
        The index.
    arguments : sequence of str
        The command line, for the manifest.
    partitions : str, int or None
        As in `build`; without it, the rows are divided as they were.

    Yields
    ------
    int
        Number of rows copied since the last one.

    Raises
    ------
    IndexFormatError
        The directory is not an index, or is damaged.
    OutputError
        It cannot be written, there is too little space, or it was replaced meanwhile.
    """
    final = resolve(path)
    with Index(path) as index:
        first = index.manifest
        is_one = len(first.segments) < 2 and not any(segment.deleted for segment in first.segments)
        divided = partitions or first.partitions
        lacks = any(is_scanned(first.space, each.count) and SCAN not in each.files for each in first.segments)
        if is_one and divided == first.partitions and not lacks:
            _tidy(final)
            return
        _check_space(path, first)

        def fill(staging: Path) -> Generator[int, None, Manifest]:
            with contextlib.closing(_writer(index, staging, divided)) as writer:
                writer.max_norm = first.max_norm
                try:
                    for segment in index.segments:
                        yield from writer.copy(segment)
                        segment.close()  # there may be more segments than files that can be open
                    writer.finish()
                except IndexFormatError as error:
                    error.place = error.place or str(path)
                    raise
                return writer.manifest(arguments)

        def settle(last: Manifest | None, made: Manifest, staging: Path) -> Manifest:
            n = len(first.segments)
            if last is None or [each.name for each in last.segments[:n]] != [each.name for each in first.segments]:
                raise OutputError("was replaced by another process meanwhile", str(path), remedy="again")
            with opened_segments(path / SEGMENTS, last) as now, opened_segments(staging, made) as new:
                gone = _moved(index.segments, now[:n])
                made = with_deletions(made, new, {0: gone} if gone else {}, last.generation + 1)
            if made.segments or last.segments[n:]:
                segments = (*made.segments, *last.segments[n:])
                return replace(last, segments=segments, partitions=divided, **made_by(arguments))
            return made

        yield from change(path, fill, settle)
    try:
        _tidy(final)
    except OutputError as error:  # the index is as it was to become
        log.warning("%s: what is no longer needed cannot be removed: %s", path, error.message)


def _writer(index: Index, staging: Path, divided: Divided) -> SegmentWriter:
    """Return what writes a segment that stores vectors as those of an index."""
    manifest, fitted = index.manifest, tuple(index.learned.values())
    own = None if manifest.metric == HAMMING else manifest.metric
    metric, refine = (manifest.refine.metric, manifest.refine.dtype) if manifest.refine else (own, None)
    return SegmentWriter(staging / f"{NEW}1", metric, Skips(), divided, refine, fitted, manifest.dtype)


def _tidy(index: Path) -> None:
    """Remove what nobody needs any more, such as the generation that this process itself held when it replaced it."""
    with told(index), writing(index):
        retire(index)


def _check_space(path: Path, manifest: Manifest) -> None:
    """Raise OutputError if a disk has no room for the rows of an index that are not deleted."""
    needed = sum(each.size * (each.count - each.deleted) // each.count for each in manifest.segments)
    free = shutil.disk_usage(path).free
    if free < needed:
        what = f"the new segment takes about {needed / 1e6:,.3g} MB, and {free / 1e6:,.3g} MB are free"
        raise OutputError(f"cannot write: {what}", str(path))


def _moved(segments: Sequence[Segment], now: Sequence[Segment]) -> list[int]:
    """Return the rows in one segment of several, without their deleted rows, of the rows that were deleted since."""
    rows: list[int] = []
    first = 0
    for segment, later in zip(segments, now, strict=True):
        gone = np.setdiff1d(later.deleted, segment.deleted)
        rows += (first + gone - np.searchsorted(segment.deleted, gone)).tolist()
        first += segment.count - len(segment.deleted)
        segment.close()
        later.close()
    return rows


def merge(
    paths: Sequence[Path],
    output: Path,
    skips: Skips,
    *,
    arguments: Sequence[str] = (),
    overwrite: bool = False,
    append: bool = False,
    replace_rows: bool = False,
) -> Iterator[int]:
    """Make one index of several, or append them to one: their segments, one after the other.

    Files are linked, or copied if they are another user's or on another file system; no vector is made again.

    Parameters
    ----------
    paths : sequence of Path
        The indexes, of one vector space and metric.
    output : Path
        The index to create, or to append to.
    skips : Skips
        Asked about rows whose id an earlier row has.
    arguments : sequence of str
        The command line, for the manifest.
    overwrite : bool
        Replace an existing index.
    append : bool
        Append to an existing index.
    replace_rows : bool
        Delete earlier rows that have the ids of later ones.

    Yields
    ------
    int
        Number of rows added since the last one.

    Raises
    ------
    RecordError
        Two rows have one id.
    FingerprintError
        The indexes are of different vector spaces.
    OutputError
        The output exists already, is not an index, or cannot be written.
    """
    exists = resolve(output).exists()
    refuse_existing(output, overwrite=overwrite or append)
    with contextlib.ExitStack() as stack:
        indexes = [stack.enter_context(Index(path)) for path in paths]
        froms = [str(index.path) for index in indexes for _ in index.segments]

        def fill(staging: Path) -> Generator[int, None, Manifest]:
            made = replace(indexes[0].manifest, segments=())
            number = 1
            for index in indexes:
                check_fits(made, index.manifest, str(index.path))
                segments = []
                for segment in index.segments:
                    name = f"{NEW}{number}"
                    _link(segment, staging / name)
                    segments.append(replace(segment.facts, name=name))
                    number += 1
                    yield segment.count - segment.facts.deleted
                made = made.extended(replace(index.manifest, segments=tuple(segments)))
            if not made.segments and not (append and exists):
                raise RsrError("the indexes have no rows", str(output), remedy="remove-index" if exists else None)
            return replace(made, **made_by(arguments))

        def settle(last: Manifest | None, made: Manifest, staging: Path) -> Manifest | None:
            old = last if append else None
            if last is not None and not (append or overwrite):
                raise created_meanwhile(output)
            if not made.segments:
                return None
            if old:
                check_fits(old, made, str(output))
            with contextlib.ExitStack() as opened:
                segments = opened.enter_context(opened_segments(output / SEGMENTS, old)) if old else []
                start = len(segments)
                segments = [*segments, *opened.enter_context(opened_segments(staging, made))]
                gone = settle_repeats(
                    find_repeats(segments, start),
                    skips,
                    lambda repeat: froms[repeat.segment - start],
                    replace_rows=replace_rows,
                )
                made = old.extended(made) if old else made
                return with_deletions(made, segments, gone, last.generation + 1 if last else 1)

        yield from change(output, fill, settle)
    if exists:
        _tidy(resolve(output))


def _link(segment: Segment, directory: Path) -> None:
    """Link the files of a segment into a new directory, or copy them where that is not possible."""
    directory.mkdir()
    for name in segment.facts.files:
        try:
            (directory / name).hardlink_to(segment.directory / name)
        except OSError:
            shutil.copyfile(segment.directory / name, directory / name)
