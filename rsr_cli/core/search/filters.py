"""Filters: which rows of an index may be hits, by place, time, label and properties.

Place, time and labels are tested in the filter columns, block by block. Only what these leave open is read from the
table of records: boxes whose float32 edge is that of the filter's box, footprints on the edge of an area, and the
properties that a condition names.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.errors import RecordError, UsageError, counted
from rsr_cli.core.index.columns import LABEL_ENDS, LABELS
from rsr_cli.core.records.facts import NO_BOX, outward, rounded_down, rounded_up
from rsr_cli.core.records.fields import NO_TIME, bbox_of, microseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.index.reading import Segment
    from rsr_cli.core.records.batch import Record
    from rsr_cli.core.search.area import Area
    from rsr_cli.core.search.condition import Condition

log = logging.getLogger("rsr")

#: Rows that are tested at once, so that they stay in the processor's cache.
BLOCK_ROWS = 1 << 18
#: So many labels are looked for one after the other.
FEW_LABELS = 8
Box = tuple[float, float, float, float]
_LAST_TIME = 2**63 - 1
#: A year, a month or a day, which is all of it.
_PERIOD = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
DAY_LETTERS = len("2023-06-10")


def parse_box(text: str) -> Box:
    """Return west, south, east, north in degrees of a text, with commas; west > east across the antimeridian.

    Raises
    ------
    UsageError
        It is not a box in degrees.
    """
    try:
        numbers = [float(number) for number in text.split(",")]
        found = bbox_of({"bbox": numbers}) if all(map(math.isfinite, numbers)) else None
    except (ValueError, RecordError):
        found = None
    if found is None:
        raise UsageError(f"{text!r} is not west,south,east,north in degrees, such as 9.9,50,10.4,50.2")
    return found


def parse_interval(text: str) -> tuple[int, int]:
    """Return the first and last moment of a text, in microseconds since 1970 UTC.

    It is a time in RFC 3339, a day, month or year, which is all of it, or an interval of two as in STAC API, of which
    one may be ``..`` or empty.

    Raises
    ------
    UsageError
        It is none of these.
    """
    start, slash, end = text.partition("/")
    first = NO_TIME + 1 if slash and start in ("", "..") else _period(start, text)[0]
    last = _LAST_TIME if slash and end in ("", "..") else _period(end if slash else start, text)[1]
    if (first, last) == (NO_TIME + 1, _LAST_TIME):
        raise UsageError(f"{text!r} has no end that is a time")
    if first > last:
        raise UsageError(f"{text!r} ends before it begins")
    return first, last


def _period(text: str, whole: str) -> tuple[int, int]:
    """Return the first and last microsecond of a time, day, month or year."""
    try:
        if _PERIOD.fullmatch(text):
            period = np.datetime64(text)
            after = (period.astype(np.int64) + 1).astype(period.dtype)
            first, end = (each.astype("datetime64[us]").astype(int).item() for each in (period, after))
            return first, end - 1
        moment = microseconds(text) if len(text) > DAY_LETTERS else NO_TIME
    except ValueError:
        moment = NO_TIME
    if moment == NO_TIME:
        where = "" if text == whole else f" in {whole!r}"
        between = ", and an interval is as 2023-06/2023-08" if where or ".." in text else ""
        raise UsageError(f"{text!r}{where} is not a date or time such as 2023-06-10 or 2023-06-10T07:46:21Z{between}")
    return moment, moment


@dataclass(frozen=True)
class Filter:
    """What rows must be like to be hits; all that is given must hold.

    Parameters
    ----------
    box : tuple of float, optional
        West, south, east, north in degrees, west > east across the antimeridian, which the bounding box of a record
        must touch.
    area : Area, optional
        Where the footprint of a record must lie, with its edges; its bounding box if it has no geometry.
    interval : tuple of int, optional
        First and last moment in microseconds since 1970 UTC, which the time of a record must touch.
    labels : tuple of str
        Labels of which a record must have one.
    condition : Condition, optional
        What must be true of a record.
    """

    box: Box | None = None
    area: Area | None = None
    interval: tuple[int, int] | None = None
    labels: tuple[str, ...] = ()
    condition: Condition | None = None

    def __bool__(self) -> bool:
        return bool(self.box or self.area or self.interval or self.labels or self.condition)

    def kept(self, segments: Sequence[Segment]) -> list[NDArray[np.bool_] | None]:
        """Find the rows of each segment that the filter keeps, bool (count,), ``None`` if there is no filter.

        Deleted rows are not kept, nor is a record without a place by a box or an area, or one without a time by an
        interval. A warning names labels and properties that no record has, a condition that is neither true nor false
        of any record, and a box that touches no record but would with latitude and longitude exchanged.

        Raises
        ------
        IndexFormatError
            A segment is damaged.
        """
        if not self:
            return [None] * len(segments)
        self._check_labels(segments)
        asked = _Asked()
        masks: list[NDArray[np.bool_] | None] = [self._of(segment, asked) for segment in segments]
        if self.condition:
            asked.warn(self.condition)
        if self.box and not any(mask is not None and mask.any() for mask in masks):
            _check_order(self.box, segments)
        return masks

    def _of(self, segment: Segment, asked: _Asked) -> NDArray[np.bool_]:
        """Return which rows of a segment are kept."""
        mask = np.ones(segment.count, np.bool_) if segment.live is None else segment.live.copy()
        if self.interval:
            first, last = self.interval
            _intersecting(segment.columns.times, first, last, mask)
        if self.labels:
            _with_labels(segment, self.labels, mask)
        if self.box:
            open_ = _touching(segment.columns.boxes, self.box, mask)
            self._check_boxes(segment, mask, open_[mask[open_]])
        if self.area:
            mask &= _in_area(segment, mask, self.area)
        if self.condition and mask.any():
            rows = mask.nonzero()[0]
            for row, (name, record) in zip(rows.tolist(), segment.table.records(rows), strict=True):
                mask[row] = asked.about(self.condition, name, record)
        return mask

    def _check_boxes(self, segment: Segment, mask: NDArray[np.bool_], rows: NDArray[np.int64]) -> None:
        """Decide rows whose float32 box leaves open whether they touch the box, by the boxes of their records."""
        assert self.box
        if not len(rows):  # the table of most segments need not be opened
            return
        for row, (_, record) in zip(rows.tolist(), segment.table.records(rows), strict=True):
            found = bbox_of(record)
            mask[row] = found is not None and _touch(found, self.box)

    def _check_labels(self, segments: Sequence[Segment]) -> None:
        """Warn of labels that no row has."""
        if not self.labels:
            return
        known = dict.fromkeys(name for segment in segments for name in segment.labels())
        for name in self.labels:
            if name not in known:
                log.warning("no item of the index has the label %r%s", name, _near(name, known))


def _check_order(box: Box, segments: Sequence[Segment]) -> None:
    """Warn of a box that touches nothing, if it does with its latitudes as longitudes."""
    west, south, east, north = box
    if not -90 <= west <= east <= 90:
        return
    meant = south, west, north, east
    touched = [any(Filter(box=each)._of(segment, _Asked()).any() for segment in segments) for each in (box, meant)]
    if touched == [False, True]:
        shown = (",".join(f"{side:g}" for side in each) for each in (box, meant))
        log.warning("no item touches the box %s, but some touch %s: longitudes are before latitudes", *shown)


def _near(name: str, known: Iterable[str]) -> str:
    """Return a hint at names that are nearly this one, an empty one without any."""
    lower = {each.lower(): each for each in known}
    near = [lower[each] for each in difflib.get_close_matches(name.lower(), lower)]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


class _Asked:
    """What a condition was asked about, for a warning if it is not meant so."""

    def __init__(self) -> None:
        self._count = 0
        self._decided = 0
        self._seen: set[str] = set()
        self._properties: dict[str, None] = {}

    def about(self, condition: Condition, name: str, record: Record) -> bool:
        """Return whether a condition is true of a record."""
        values = condition.values(name, record)
        found = condition.of(values)
        self._count += 1
        self._decided += found is not None
        self._seen.update(values)
        if len(values) < len(condition.names):
            self._properties.update(dict.fromkeys(record["properties"]))
        return found is True

    def warn(self, condition: Condition) -> None:
        """Warn of properties that no record has, and of a condition that is neither true nor false of any."""
        if not self._count:
            return
        missing = [name for name in condition.names if name not in self._seen]
        for name in missing:
            quoted = f"; text is written in single quotes, '{name}'" if f'"{name}"' in condition.text else ""
            hint = _near(name, self._properties) or quoted
            log.warning("none of %s has the property %r%s", counted(self._count, "item"), name, hint)
        if not missing and not self._decided:
            log.warning(
                "the condition is neither true nor false of any of %s: it compares values of two types, or calls what "
                "is no function of CQL2",
                counted(self._count, "item"),
            )


def _blocks(count: int) -> Iterator[slice]:
    """Yield blocks of rows that stay in the processor's cache."""
    return (slice(first, min(first + BLOCK_ROWS, count)) for first in range(0, count, BLOCK_ROWS))


def _intersecting(times: NDArray[np.int64], first: int, last: int, mask: NDArray[np.bool_]) -> None:
    """Clear the mask (n,) of intervals (n, 2) that have no moment in common with another."""
    starts, ends = times.T
    for block in _blocks(len(times)):
        mask[block] &= (starts[block] <= last) & (ends[block] >= first) & (starts[block] != NO_TIME)


def _touching(boxes: NDArray[np.float32], box: Box, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Clear the mask (n,) of boxes (n, 4), rounded outward, that do not touch a box.

    A value is off by less than a step of float32. So only a box is open that has an edge equal to the limit, rounded to
    float32 such that what passes it may be equal to it.

    Returns
    -------
    numpy.ndarray
        int64: the rows that rounding leaves open.
    """
    # a box's west and south may be at most these, its east and north at least those
    limits = [
        (*rounded_down(np.array([east, north])), *rounded_up(np.array([west, south])))
        for west, south, east, north in _pieces(box)
    ]
    open_ = []
    for block in _blocks(len(boxes)):
        west, south, east, north = boxes[block].T
        across = west > east
        is_across = bool(across.any())
        touched, doubtful = np.zeros((2, len(west)), np.bool_)
        for most_east, most_north, least_west, least_south in limits:
            left, right = west <= most_east, east >= least_west
            # two boxes, one to 180 degrees and one from there
            sides = (left & right) | (across & (left | right)) if is_across else left & right
            sides &= south <= most_north
            sides &= north >= least_south
            touched |= sides
            if sides.any():
                edges = (west == most_east) | (south == most_north) | (east == least_west) | (north == least_south)
                doubtful |= edges & sides
        open_.append(block.start + doubtful.nonzero()[0])
        mask[block] &= touched
    return np.concatenate(open_)


def _pieces(box: Box) -> list[Box]:
    """Cut a box at the antimeridian."""
    west, south, east, north = box
    return [box] if west <= east else [(west, south, 180.0, north), (-180.0, south, east, north)]


def _touch(one: Box, other: Box) -> bool:
    """Return whether two boxes have a point in common."""
    return any(
        a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3] for a in _pieces(one) for b in _pieces(other)
    )


def _with_labels(segment: Segment, names: Sequence[str], mask: NDArray[np.bool_]) -> None:
    """Clear the mask (count,) of rows of a segment that have none of the labels."""
    known = segment.labels()
    wanted = np.array([name in names for name in known], np.bool_)
    numbers = wanted.nonzero()[0].tolist()
    labels, ends = segment.columns.labels, segment.columns.label_ends

    start = 0
    for rows in _blocks(segment.count):
        block = ends[rows]
        some = labels[max(0, start) : block[-1]]
        if len(some) and not 0 <= some.min() <= some.max() < len(known):
            raise segment.columns.damaged(LABELS, "it has numbers without a name")
        if len(numbers) <= FEW_LABELS:
            found = np.zeros(len(some), np.bool_)
            for number in numbers:
                found |= some == number
        else:
            found = wanted[some]
        counts = np.diff(block, prepend=start)
        if len(found) != len(block) or (counts != 1).any():
            if start < 0 or counts.min() < 0 or int(block[-1]) - start != len(found):
                raise segment.columns.damaged(LABEL_ENDS, "its numbers do not grow")
            passed = np.zeros(len(found) + 1, np.int32)  # how many of the wanted labels come before each place
            np.cumsum(found, out=passed[1:])
            found = np.diff(passed[block - start], prepend=np.int32(0)) > 0
        mask[rows] &= found
        start = int(block[-1])


def _in_area(segment: Segment, mask: NDArray[np.bool_], area: Area) -> NDArray[np.bool_]:
    """Return which of the rows that a mask (count,) keeps lie in an area.

    A box in the area has its footprint there, and one that does not touch it has not: only the others are read.
    """
    west, south, east, north = outward(np.array([area.box]))[0]
    within = np.zeros(segment.count, np.bool_)
    boxes = segment.columns.boxes
    for rows in _blocks(segment.count):
        wests, souths, easts, norths = boxes[rows].T
        possible = (wests >= west) & (easts <= east) & (souths >= south) & (norths <= north)
        # of two boxes the edge at 180 degrees is in no limits, and may be all that one of them has
        possible |= wests > easts
        numbers = rows.start + (mask[rows] & possible).nonzero()[0]
        if not len(numbers):
            continue
        covered, touched = area.of_boxes(boxes[numbers].astype(np.float64))
        within[numbers[covered]] = True
        unknown = numbers[touched & ~covered]
        if len(unknown):
            found = [record for _, record in segment.table.records(unknown)]
            exact = np.array([bbox_of(record) or NO_BOX for record in found])
            within[unknown] = area.covers([record.get("geometry") for record in found], exact)
    return within
