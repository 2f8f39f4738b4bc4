"""Rows that are deleted, and ids that occur twice: the later of two rows is refused, or replaces the earlier one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rsr_cli.core.errors import RecordError
from rsr_cli.core.files import sync_directory, sync_file
from rsr_cli.core.index.columns import ArrayFile
from rsr_cli.core.index.manifest import numbered
from rsr_cli.core.index.writer import facts_of
from rsr_cli.core.records.ids import among, common, digests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.index.manifest import Manifest
    from rsr_cli.core.index.reading import Segment

#: Rows whose ids are read at once.
ROWS_AT_ONCE = 1 << 16


class Repeat(NamedTuple):
    """An id that two segments have.

    Attributes
    ----------
    id : str
        The id.
    segment, row : int
        Number of the later segment, and its row.
    earlier, earlier_row : int
        Number of the earlier segment, and its row.
    """

    id: str
    segment: int
    row: int
    earlier: int
    earlier_row: int


def find_repeats(segments: Sequence[Segment], start: int) -> Iterator[Repeat]:
    """Yield the ids of segments from one on that an earlier segment has too, deleted rows aside, in row order."""
    for number in range(max(1, start), len(segments)):
        segment = segments[number]
        is_last = number == len(segments) - 1  # then files are closed, as there may be more than can be open
        both = []
        for earlier in segments[:number]:
            both.append(common(segment.digests, earlier.digests))
            if is_last:
                earlier.close()
        sought = np.unique(np.concatenate(both))
        for rows in _rows_with(segment, sought) if len(sought) else ():
            repeats: list[Repeat] = []
            for before, shared in enumerate(both):
                if len(shared):
                    found = segments[before].rows_of(list(rows))
                    repeats += [Repeat(name, number, rows[name], before, row) for name, row in found.items()]
                    if is_last:
                        segments[before].close()
            yield from sorted(repeats, key=lambda repeat: repeat[1:])


def _rows_with(segment: Segment, sought: NDArray[np.uint64]) -> Iterator[dict[str, int]]:
    """Yield, a block of rows at a time, the rows of those ids of a segment whose digest is among some sorted ones."""
    for first, live in segment.blocks(ROWS_AT_ONCE):
        names = segment.ids(first, live)
        numbers = first + live.nonzero()[0]
        rows = {names[i]: int(numbers[i]) for i in among(sought, digests(names)).nonzero()[0].tolist()}
        if rows:
            yield rows


def settle_repeats(
    repeats: Iterable[Repeat], skips: Skips, place: Callable[[Repeat], str], *, replace_rows: bool
) -> dict[int, list[int]]:
    """Choose the rows to delete, so that no id occurs twice: the earlier ones, or the later ones if ``skips`` lets go.

    Returns
    -------
    dict
        Number of a segment -> its rows.

    Raises
    ------
    RecordError
        An id occurs twice, and the earlier row is not to be replaced.
    """
    gone: dict[int, list[int]] = {}
    later: set[tuple[int, int]] = set()
    for repeat in repeats:
        if replace_rows:
            gone.setdefault(repeat.earlier, []).append(repeat.earlier_row)
        elif (repeat.segment, repeat.row) not in later and (repeat.earlier, repeat.earlier_row) not in later:
            skips(RecordError(f"the index has the id {repeat.id!r} already", place(repeat), remedy="replace"))
            later.add((repeat.segment, repeat.row))
            gone.setdefault(repeat.segment, []).append(repeat.row)
    return gone


def with_deletions(
    manifest: Manifest, segments: Sequence[Segment], rows: Mapping[int, Iterable[int]], generation: int
) -> Manifest:
    """Write the rows that are deleted of some segments, besides those that were, and return the manifest that says so.

    Parameters
    ----------
    manifest : Manifest
        It names the segments.
    segments : sequence of Segment
        The same, open.
    rows : mapping
        Number of a segment -> rows to delete.
    generation : int
        Of the next manifest.
    """
    changed = list(manifest.segments)
    for number, gone in rows.items():
        segment, facts = segments[number], changed[number]
        deleted = np.union1d(segment.deleted, np.fromiter(gone, np.int64))
        segment.close()
        if len(deleted) == facts.deleted:
            continue
        path = segment.directory / f"deleted-{numbered(generation)}.npy"
        while path.exists():  # such as one that is linked from another index
            generation += 1
            path = segment.directory / f"deleted-{numbered(generation)}.npy"
        file = ArrayFile(path, np.int64)
        file.append(deleted)
        file.close()
        sync_file(path)
        sync_directory(segment.directory)
        files = {name: stated for name, stated in facts.files.items() if name != facts.deletions}
        files[path.name] = facts_of(path)
        changed[number] = replace(facts, files=files, deletions=path.name, deleted=len(deleted))
    return replace(manifest, segments=tuple(changed))
