"""Rows of values as text: an aligned table, JSON lines or CSV.

JSON lines contain text as it is, in JSON's own escapes. In tables and CSV, control characters are shown as escapes, and
in CSV, which spreadsheets open, no text is a formula.
"""

from __future__ import annotations

import csv
import io
import re
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import orjson

from rsr_cli.core.errors import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LAYOUTS = ("table", "jsonl", "csv")
CHUNK = 1000  # rows
#: Text that spreadsheets take for a formula; a number is none.
FORMULA = re.compile(r"(?![+-]?\d+(\.\d+)?([eE][+-]?\d+)?$)\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def width(texts: Iterable[str]) -> int:
    """Return the width of a column of a table, in characters."""
    return max((len(visible(text)) for text in texts), default=0)


def lay_out(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], layout: str, width: int = 0
) -> Iterator[list[bytes]]:
    """Yield lines of text, in lists that are worth writing at once.

    Parameters
    ----------
    columns : sequence of str
        Names of the columns.
    rows : iterable of sequence
        Values: text, numbers, or ``None`` for what is unknown.
    layout : str
        One of `LAYOUTS`.
    width : int
        Width of a table's first column, in characters; rows are written as they come, before the longest is known.
    """
    lines: Iterator[bytes]
    if layout == "jsonl":
        lines = (orjson.dumps(dict(zip(columns, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    elif layout == "csv":
        lines = map(_csv, chain([columns], rows))
    else:
        lines = _table(columns, rows, width)
    while chunk := list(islice(lines, CHUNK)):
        yield chunk


def _csv(row: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(_csv_cell, row))
    return text.getvalue().encode()


def _csv_cell(value: Any) -> Any:
    """Return a value for CSV; text that would be a formula begins with an apostrophe (OWASP, CSV injection)."""
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if FORMULA.match(value) else visible(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]], width: int) -> Iterator[bytes]:
    widths = [max(width, len(columns[0])), *(max(len(column), len("0.0000")) for column in columns[1:])]
    for row in chain([columns], rows):
        name, *cells = map(_cell, row)
        yield "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip().encode() + b"\n"


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else visible(str(value))
