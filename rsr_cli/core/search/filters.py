"""Filters: which rows of an index may be hits, by place, time, label and properties.

Place, time and labels are tested in the filter columns. Only what these leave open is read from the table of records:
boxes whose float32 edge is that of the filter's box, footprints on the edge of an area, and the properties that a
condition names.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import RecordError, UsageError, counted
from rsr_cli.core.index.columns import LABEL_ENDS, LABELS
from rsr_cli.core.index.kept import Kept, share_of
from rsr_cli.core.records.facts import NO_BOX, outward, rounded_down, rounded_up
from rsr_cli.core.records.fields import NO_TIME, bbox_of, microseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.index.kept import Rows
    from rsr_cli.core.index.reading import Segment
    from rsr_cli.core.records.batch import Record
    from rsr_cli.core.search.area import Area
    from rsr_cli.core.search.condition import Condition

log = logging.getLogger("rsr")

#: So many labels are looked for one after the other.
FEW_LABELS = 8
#: Footprints that are compared with an area at once.
FOOTPRINTS = 1 << 12
#: If a smaller share of boxes touches, the edges of these alone are compared.
FEW_TOUCHED = 1 / 16
#: Records without a property that a condition names, after which it is warned about.
MANY_ASKED = 500
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

    def select(self, segments: Sequence[Segment], *, whole: bool = False) -> Selection:
        """Select the rows of segments.

        Deleted rows are not selected, nor is a record without a place by a box or an area, or one without a time by an
        interval. Warnings name labels and properties that no record has, a condition that is neither true nor false of
        any record, and a box that touches no record but would with latitude and longitude exchanged.

        Parameters
        ----------
        segments : sequence of Segment
            The segments.
        whole : bool
            Test all rows now. By default, only as many are tested as tell whether there are any.

        Raises
        ------
        IndexFormatError
            A segment is damaged.
        """
        self._check_labels(segments)
        return Selection(self, segments, whole=whole)

    def _check_labels(self, segments: Sequence[Segment]) -> None:
        """Warn of labels that no row has."""
        if not self.labels:
            return
        known = dict.fromkeys(name for segment in segments for name in segment.labels())
        for name in self.labels:
            if name not in known:
                log.warning("no item of the index has the label %r%s", name, _near(name, known))


class Selection:
    """The rows of segments that a filter keeps, see `Filter.select`.

    Attributes
    ----------
    kept : list of Kept or None
        Those of each segment, ``None`` if there is no filter.
    any : bool
        Whether there are any.
    """

    def __init__(self, wanted: Filter, segments: Sequence[Segment], *, whole: bool) -> None:
        self._segments = segments
        self._asked = _Asked()
        self.kept = self._of(wanted) if wanted else None
        self.any = self.kept is None or _any(self.kept, whole=whole)
        if wanted.condition and self.kept:
            self._asked.warn(wanted.condition, whole=not any(kept.untested for kept in self.kept))
        if wanted.box:
            self._check_width(wanted.box)
        if wanted.box and not self.any:
            self._check_order(wanted.box)
        if wanted.interval and not self.any:
            self._check_times()

    def _of(self, wanted: Filter) -> list[Kept]:
        """Return what a filter keeps of each segment."""
        slow = bool(wanted.area or wanted.condition)
        return [Kept(each.count, _Test(wanted, each, self._asked), slow=slow) for each in self._segments]

    def _check_width(self, box: Box) -> None:
        """Warn of a box whose west and east may be exchanged."""
        west, _, east, _ = box
        if west > east and (width := 360 - west + east) > 180:
            what = "the box from %g to %g crosses the antimeridian and is %g degrees wide: west is first"
            log.warning(what, west, east, width)

    def _check_times(self) -> None:
        """Warn of rows without a time, which no interval has."""
        without = sum(int(np.count_nonzero(each.columns.times[:, 0] == NO_TIME)) for each in self._segments)
        if without:
            log.warning("%s of the index %s no time", counted(without, "item"), "states" if without == 1 else "state")

    def _check_order(self, box: Box) -> None:
        """Warn of a box that touches nothing, if it does with its latitudes as longitudes."""
        west, south, east, north = box
        if not -90 <= west <= east <= 90:
            return
        meant = south, west, north, east
        touched = [_any(self._of(Filter(box=each))) for each in (box, meant)]
        if touched == [False, True]:
            shown = (",".join(f"{side:g}" for side in each) for each in (box, meant))
            log.warning("no item touches the box %s, but some touch %s: longitudes are before latitudes", *shown)


def _any(kept: Sequence[Kept], *, whole: bool = False) -> bool:
    """Return whether any row of several segments is kept, by a test of all or as few as tell."""
    if whole:
        return bool(sum(np.count_nonzero(each.mask) for each in kept))
    return share_of(kept) > 0 or any(each.mask.any() for each in kept)


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

    def warn(self, condition: Condition, *, whole: bool) -> None:
        """Warn of properties that no record has, and of a condition that is neither true nor false of any.

        Of some records alone (not ``whole``), a property that none of them has may still be one of others. It is named
        if it looks like another one, or if they are many.
        """
        if not self._count:
            return
        items = counted(self._count, "item") + ("" if whole else " that were looked at")
        missing = [name for name in condition.names if name not in self._seen]
        for name in missing:
            quoted = f"; text is written in single quotes, '{name}'" if f'"{name}"' in condition.text else ""
            hint = _near(name, self._properties) or quoted
            if whole or hint or self._count >= MANY_ASKED:
                log.warning("none of %s has the property %r%s", items, name, hint)
        if whole and not missing and not self._decided:
            log.warning(
                "the condition is neither true nor false of any of %s: it compares values of two types, or calls a "
                "function with values that it does not take",
                items,
            )


class _Test:
    """Tests rows of a segment.

    Parameters
    ----------
    wanted : Filter
        What they must be like.
    segment : Segment
        The segment.
    asked : _Asked
        Is told of what the condition is asked about.
    """

    def __init__(self, wanted: Filter, segment: Segment, asked: _Asked) -> None:
        self._wanted = wanted
        self._segment = segment
        self._columns = segment.columns
        self._asked = asked

    def __call__(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which of some rows (n,) are kept, bool (n,).

        Raises
        ------
        IndexFormatError
            The segment is damaged.
        """
        wanted, live = self._wanted, self._segment.live
        count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        mask = np.ones(count, np.bool_) if live is None else live[rows].copy()
        if wanted.interval:
            mask &= _intersecting(self._columns.times, rows, *wanted.interval)
        if wanted.labels:
            mask &= self._labelled(rows)
        if wanted.box:
            touched, open_ = _touching(self._columns.boxes[rows], wanted.box)
            mask &= touched
            for i, _, record in self._records(rows, mask & open_):
                found = bbox_of(record)
                mask[i] = found is not None and _touch(found, wanted.box)
        if wanted.area:
            mask &= self._within(rows, mask, wanted.area)
        if wanted.condition:
            for i, name, record in self._records(rows, mask):
                mask[i] = self._asked.about(wanted.condition, name, record)
        return mask

    def _records(self, rows: Rows, of: NDArray[np.bool_]) -> Iterator[tuple[int, str, Record]]:
        """Yield the place among the rows (n,), the id and the record of some of them, bool (n,)."""
        places = of.nonzero()[0]
        if not len(places):  # the table of most segments need not be opened
            return
        numbers = rows.start + places if isinstance(rows, slice) else rows[places]
        for i, (name, record) in zip(places.tolist(), self._segment.table.records(numbers), strict=True):
            yield i, name, record

    @cached_property
    def _wanted_labels(self) -> NDArray[np.bool_]:
        """Which labels of the segment are wanted, bool (labels,)."""
        names = set(self._wanted.labels)
        return np.array([name in names for name in self._segment.labels()], np.bool_)

    def _labelled(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which rows (n,) have one of the labels."""
        labels, ends = self._columns.labels, self._columns.label_ends
        last = ends[rows]
        if isinstance(rows, slice):
            first = np.concatenate([ends[rows.start - 1 : rows.start] if rows.start else [0], last[:-1]])
        else:
            first = np.where(rows > 0, ends[rows - 1], 0)
        counts = last - first
        if len(last) and (first.min() < 0 or counts.min() < 0 or last.max() > len(labels)):
            raise self._columns.damaged(LABEL_ENDS, "its numbers do not grow")
        one_each = bool((counts == 1).all())
        if isinstance(rows, slice):
            some = labels[first[0] : last[-1]]
        else:
            some = labels[first if one_each else np.repeat(last - counts.cumsum(), counts) + np.arange(counts.sum())]
        if len(some) and not 0 <= some.min() <= some.max() < len(self._wanted_labels):
            raise self._columns.damaged(LABELS, "it has numbers without a name")
        numbers = self._wanted_labels.nonzero()[0].tolist()
        if len(numbers) <= FEW_LABELS:
            found = np.zeros(len(some), np.bool_)
            for number in numbers:
                found |= some == number
        else:
            found = self._wanted_labels[some]
        if one_each:
            return found
        passed = np.zeros(len(found) + 1, np.int32)  # how many of the wanted labels come before each place
        np.cumsum(found, out=passed[1:])
        return np.diff(passed[counts.cumsum()], prepend=np.int32(0)) > 0

    def _within(self, rows: Rows, mask: NDArray[np.bool_], area: Area) -> NDArray[np.bool_]:
        """Return which of the rows (n,) that a mask (n,) keeps lie in an area.

        A box in the area has its footprint there, and one that does not touch it has not: only the others are read.
        """
        west, south, east, north = outward(np.array([area.box]))[0]
        boxes = self._columns.boxes[rows]
        wests, souths, easts, norths = boxes.T
        possible = (wests >= west) & (easts <= east) & (souths >= south) & (norths <= north)
        # of two boxes the edge at 180 degrees is in no limits, and may be all that one of them has
        possible |= wests > easts
        within, unknown = np.zeros((2, len(boxes)), np.bool_)
        places = (mask & possible).nonzero()[0]
        if not len(places):
            return within
        covered, touched = area.of_boxes(boxes[places].astype(np.float64))
        within[places] = covered
        unknown[places] = touched & ~covered
        records = self._records(rows, unknown)
        while found := list(islice(records, FOOTPRINTS)):
            exact = np.array([bbox_of(record) or NO_BOX for _, _, record in found])
            geometries = [record.get("geometry") for _, _, record in found]
            within[[i for i, _, _ in found]] = area.covers(geometries, exact)
        return within


def _intersecting(times: NDArray[np.int64], rows: Rows, first: int, last: int) -> NDArray[np.bool_]:
    """Return which rows (n,) of intervals have a moment in common with another one."""
    starts, ends = (column[rows] for column in times.T)
    mask: NDArray[np.bool_] = (starts <= last) & (ends >= first) & (starts != NO_TIME)
    return mask


def _touching(boxes: NDArray[np.float32], box: Box) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find boxes (n, 4), rounded outward, that touch a box.

    A value is off by less than a step of float32. So only a box is open that has an edge equal to the limit, rounded to
    float32 such that what passes it may be equal to it.

    Returns
    -------
    tuple of numpy.ndarray
        bool (n,): which touch it, and which of these rounding leaves open.
    """
    west, south, east, north = boxes.T
    # a box's west and south may be at most these, its east and north at least those
    least_west, least_south = rounded_up(np.array(box[:2]))
    most_east, most_north = rounded_down(np.array(box[2:]))
    left, right, across = west <= most_east, east >= least_west, west > east
    if box[0] > box[2]:  # to 180 degrees and from there
        touched = left | right | across
    elif across.any():
        touched = (left & right) | (across & (left | right))
    else:
        touched = left & right
    touched &= south <= most_north
    touched &= north >= least_south
    few: Any = touched.nonzero()[0]
    if len(few) > FEW_TOUCHED * len(west):
        few = slice(None)
    edges = (west[few] == most_east) | (south[few] == most_north)
    edges |= (east[few] == least_west) | (north[few] == least_south)
    open_ = np.zeros(len(west), np.bool_)
    open_[few] = edges & touched[few]
    return touched, open_


def _pieces(box: Box) -> list[Box]:
    """Cut a box at the antimeridian."""
    west, south, east, north = box
    return [box] if west <= east else [(west, south, 180.0, north), (-180.0, south, east, north)]


def _touch(one: Box, other: Box) -> bool:
    """Return whether two boxes have a point in common."""
    return any(
        a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3] for a in _pieces(one) for b in _pieces(other)
    )
