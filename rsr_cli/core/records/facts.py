"""What an index keeps of records to find them by, as columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rsr_cli.core.records.fields import bbox_of, extent_of, gsd_of, id_of, interval_of, label_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Record

NO_BOX = (math.nan,) * 4


class Fact(NamedTuple):
    """What is kept of one record, see `Facts`."""

    id: str
    box: tuple[float, float, float, float]
    interval: tuple[int, int]
    labels: Sequence[str]
    gsd: float
    extent: float

    @classmethod
    def of(cls, record: Record) -> Fact:
        """Read it from a record.

        Raises
        ------
        RecordError
            It has no usable id, bbox, datetime or labels.
        """
        gsd, extent = gsd_of(record), extent_of(record)
        return cls(
            id_of(record),
            bbox_of(record) or NO_BOX,
            interval_of(record),
            label_list(record) or (),
            math.nan if gsd is None else gsd,
            math.nan if extent is None else extent,
        )


@dataclass(frozen=True)
class Facts:
    """What is kept of records.

    Attributes
    ----------
    ids : sequence of str
        In the one form of `fields.id_text`.
    boxes : numpy.ndarray
        float64 (n, 4): west, south, east, north in degrees, west > east across the antimeridian; NaN without one.
    times : numpy.ndarray
        int64 (n, 2): first and last moment in microseconds since 1970 UTC, `fields.NO_TIME` if unknown.
    labels : sequence of sequence of str
        The labels of each.
    gsds, extents : numpy.ndarray
        float64 (n,): ground sample distance, and side of a square as large as the tile, in metres; NaN if unknown.
    """

    ids: Sequence[str]
    boxes: NDArray[np.float64]
    times: NDArray[np.int64]
    labels: Sequence[Sequence[str]]
    gsds: NDArray[np.float64]
    extents: NDArray[np.float64]

    @classmethod
    def of(cls, facts: Sequence[Fact]) -> Facts:
        """Lay the facts of at least one record out as columns."""
        ids, boxes, times, labels, gsds, extents = zip(*facts, strict=True)
        return cls(
            ids,
            np.array(boxes, np.float64),
            np.array(times, np.int64),
            labels,
            np.array(gsds, np.float64),
            np.array(extents, np.float64),
        )

    def take(self, chosen: NDArray[np.bool_]) -> Facts:
        """Return those of the chosen records, bool (n,)."""
        numbers = chosen.nonzero()[0].tolist()
        return Facts(
            [self.ids[i] for i in numbers],
            self.boxes[chosen],
            self.times[chosen],
            [self.labels[i] for i in numbers],
            self.gsds[chosen],
            self.extents[chosen],
        )


def outward(boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round bounding boxes (n, 4) of degrees to float32 such that they contain what they contained.

    One around the whole Earth but for a step of float32 becomes one around all of it.
    """
    rounded = np.concatenate([rounded_down(boxes[:, :2]), rounded_up(boxes[:, 2:])], axis=1)
    rounded[(boxes[:, 0] > boxes[:, 2]) & (rounded[:, 0] <= rounded[:, 2]), ::2] = -180, 180
    return rounded


def rounded_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the greatest float32 that is not greater, of each value."""
    with np.errstate(over="ignore"):  # an infinite one is the nearest
        rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def rounded_up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the least float32 that is not less, of each value."""
    return -rounded_down(-values)


def widened(known: tuple[float, float] | None, found: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the least and the greatest number of those known and those found, ``None`` without any."""
    numbers = found[~np.isnan(found)]
    both = [*(known or ()), *([numbers.min().item(), numbers.max().item()] if len(numbers) else ())]
    return (min(both), max(both)) if both else None
