"""Dates and times, in RFC 3339 and UTC as STAC's ``datetime``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rsr_cli.core.errors import UsageError


def parse_datetime(text: str) -> str:
    """Return a date or time in UTC, as RFC 3339.

    Raises
    ------
    UsageError
        The text is neither a date nor a time.
    """
    try:
        when = datetime.fromisoformat(text)
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a date or time such as 2023-06-10 or 2023-06-10T07:46:21Z") from None
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def year_and_day(when: str) -> tuple[float, float]:
    """Split a date or time into its year and its zero-based day of the year."""
    moment = datetime.fromisoformat(parse_datetime(when))
    return float(moment.year), float((moment - datetime(moment.year, 1, 1, tzinfo=UTC)) // timedelta(days=1))
