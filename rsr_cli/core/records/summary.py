"""What is in a stream of records: how many, where, when, and of which vector space."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.records.exact import dumps, object_in
from rsr_cli.core.records.facts import NO_BOX, widened
from rsr_cli.core.records.fields import NO_TIME, bbox_of, gsd_of, interval_of, label_list
from rsr_cli.core.records.space import KINDS, without_vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch, Record


@dataclass
class Summary:
    """Numbers of records and ranges of their values.

    Attributes
    ----------
    records : int
        Number of records.
    sides : numpy.ndarray or None
        Of the boxes of all: least longitude and latitude and greatest ones, as they are and turned to 0 to 360 degrees.
    interval : tuple of int or None
        First and last moment, in microseconds since 1970 UTC.
    gsd : tuple of float or None
        Least and greatest ground sample distance, in metres.
    labels : Counter
        Label -> number of records that have it.
    spaces : Counter
        Kind of vector, and JSON of what is known of its space -> number of records.
    candidates : dict
        Columns that may hold vectors, where that is not known, as `Batch.columns` has them -> None.
    """

    records: int = 0
    sides: NDArray[np.float64] | None = None
    interval: tuple[int, int] | None = None
    gsd: tuple[float, float] | None = None
    labels: Counter[str] = field(default_factory=Counter)
    spaces: Counter[tuple[str, str]] = field(default_factory=Counter)
    candidates: dict[tuple[str, int, str], None] = field(default_factory=dict)

    def add(self, batch: Batch, skips: Skips) -> None:
        """Count the records of a batch.

        Raises
        ------
        RecordError
            A record has a bbox, datetime or labels that cannot be read.
        """
        columns = batch.columns
        if columns:
            self.spaces.update(columns.spaces())
            self.candidates |= dict.fromkeys(columns.candidates)
        facts = columns.facts() if columns else None
        if facts:
            boxes, times, gsds, labels = facts.boxes, facts.times, facts.gsds, facts.labels
        else:
            found = batch.apply(_read, skips)
            if not found:
                return
            read = [list(column) for column in zip(*found, strict=True)]
            boxes, times, gsds = (np.array(column, dtype) for column, dtype in zip(read, "dqd", strict=False))
            labels = read[3]
            if not columns:
                self.spaces.update(space for some in read[4] for space in some)
        self.records += len(batch)
        self.labels.update(label for some in labels for label in some)
        self.widen(boxes, times)
        self.gsd = widened(self.gsd, gsds)

    def widen(self, boxes: NDArray[np.floating[Any]], times: NDArray[np.int64]) -> None:
        """Widen extent and interval to contain boxes (n, 4), NaN for none, and first and last moments (n, 2)."""
        known = boxes[~np.isnan(boxes[:, 0])].astype(np.float64)
        if len(known):
            west, south, east, north = known.T
            with np.errstate(invalid="ignore"):  # of an index with infinite ones
                begin = west % 360
                end = begin + np.where(west > east, east - west + 360, east - west)
            low = np.array([np.where(west > east, -180, west).min(), south.min(), begin.min()])
            high = np.array([np.where(west > east, 180, east).max(), north.max(), end.max()])
            if self.sides is not None:
                low, high = np.minimum(low, self.sides[0]), np.maximum(high, self.sides[1])
            self.sides = np.stack([low, high])
        moments = times[times != NO_TIME]
        if len(moments):
            both = [*(self.interval or ()), int(moments.min()), int(moments.max())]
            self.interval = min(both), max(both)

    @property
    def bbox(self) -> list[float] | None:
        """West, south, east, north of all records in degrees, the narrower way around the Earth."""
        if self.sides is None:
            return None
        (west, south, begin), (east, north, end) = self.sides.tolist()
        if end - begin < east - west:
            west, east = begin - 360 * (begin >= 180), end - 360 * (end > 180)
        return [west, south, east, north]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, without what is not known."""
        found = {
            "records": self.records,
            "bbox": self.bbox,
            "interval": [_text(moment) for moment in self.interval] if self.interval else None,
            "gsd": list(self.gsd) if self.gsd else None,
            "labels": dict(self.labels.most_common()) or None,
            "spaces": [
                {"kind": kind} | object_in(text) | {"kind": kind, "records": count}  # whatever a record calls its own
                for (kind, text), count in self.spaces.most_common()
            ]
            or None,
            "candidates": [dict(zip(("column", "dim", "dtype"), each, strict=True)) for each in self.candidates]
            or None,
        }
        return {name: value for name, value in found.items() if value is not None}


def _text(microseconds: int) -> str:
    """Return a moment as RFC 3339 writes it."""
    text = str(np.datetime64(microseconds, "us"))
    return f"{text.removesuffix('.000000')}Z"


def _read(record: Record) -> tuple[Any, ...]:
    """Return what is counted of a record: box, interval, ground sample distance, labels, and spaces of its vectors."""
    spaces = []
    for kind in KINDS:
        found = record["properties"].get(kind)
        if isinstance(found, dict):
            spaces.append((kind, dumps(without_vector(found)).decode()))
        elif kind == "embedding" and isinstance(found, list):
            spaces.append((kind, dumps({"dim": len(found)}).decode()))
    box, gsd, labels = bbox_of(record) or NO_BOX, gsd_of(record), label_list(record) or ()
    return box, interval_of(record), np.nan if gsd is None else gsd, labels, spaces
