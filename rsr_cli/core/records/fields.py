"""The fields of a record: what several commands read from it, and how."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsr_cli.core.records.batch import Record

#: What a search adds to the properties of a found record.
HIT_FIELDS = ("query", "rank", "distance", "query_labels")
#: A time that is not known, numpy's NaT.
NO_TIME = -(2**63)
NO_INTERVAL = NO_TIME, NO_TIME
_NUMBERS = frozenset({int, float})
_LEAP_SECOND = re.compile(r"(?<=:\d\d):60(?=[.Z+-]|$)")


def id_of(record: Record) -> str:
    """Return a record's id, a number as text.

    Raises
    ------
    RecordError
        It has none, or one that is neither text nor a number.
    """
    found = record.get("id")
    if type(found) is str:
        return found
    if not isinstance(found, str | int | float) or isinstance(found, bool):
        what = "has no id" if found is None else f"has an id that is neither text nor a number: {found!r}"
        raise RecordError(what, remedy="id")
    return str(found)


def bbox_of(record: Record) -> tuple[float, float, float, float] | None:
    """Return a record's bounding box as west, south, east, north in degrees; west > east across the antimeridian.

    Raises
    ------
    RecordError
        It is neither four numbers nor, with heights, six.
    """
    box = record.get("bbox")
    if box is None:
        return None
    if isinstance(box, list) and _NUMBERS.issuperset(map(type, box)):
        if len(box) == 4:
            return box[0], box[1], box[2], box[3]
        if len(box) == 6:
            return box[0], box[1], box[3], box[4]
    raise RecordError(f"has a bbox that is neither four nor six numbers: {box!r}")


def interval_of(record: Record) -> tuple[int, int]:
    """Return the first and last moment of a record, in microseconds since 1970 UTC; `NO_TIME` if unknown.

    They are ``datetime``, or if that is null ``start_datetime`` and ``end_datetime``, as in STAC.

    Raises
    ------
    RecordError
        The datetime is not text.
    """
    properties = record["properties"]
    when = properties.get("datetime")
    if when is not None:
        if not isinstance(when, str):
            raise RecordError(f"has a datetime that is not text: {when!r}")
        moment = _microseconds(when)
        return moment, moment
    first, last = properties.get("start_datetime"), properties.get("end_datetime")
    if first is last is None:
        return NO_INTERVAL
    return (
        _microseconds(first) if isinstance(first, str) else NO_TIME,
        _microseconds(last) if isinstance(last, str) else NO_TIME,
    )


@lru_cache(maxsize=4096)
def _microseconds(text: str) -> int:
    """Convert RFC 3339 to microseconds since 1970, a leap second as the one before; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(_LEAP_SECOND.sub(":59", text.upper()))
    except ValueError:
        return NO_TIME
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    passed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def gsd_of(record: Record) -> float | None:
    """Return a record's ground sample distance in metres (STAC's ``gsd``), if it states one."""
    found = record["properties"].get("gsd")
    if found is None:
        return None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) and found > 0 else None


def labels_of(record: Record) -> Sequence[Any]:
    """Return a record's labels; empty if it has no list of them."""
    labels = record["properties"].get("labels")
    return labels if isinstance(labels, list) else ()
