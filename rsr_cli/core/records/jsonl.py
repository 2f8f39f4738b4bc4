"""JSON lines: one GeoJSON Feature per line.

Reading hands on what has arrived: a batch is what one read of the input gave, at most 128 KiB, so a slow pipe
yields single records at once and a file yields batches of hundreds. Larger blocks are slower: their records outgrow the
processor's cache.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import orjson

from rsr_cli.core.errors import RecordError, RsrError, Skips
from rsr_cli.core.files import open_input, reason
from rsr_cli.core.records.batch import Batch, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE_A_LINE = "one Feature a line is expected, as jq -c '.features[]' or ogr2ogr -f GeoJSONSeq writes them"
BLOCK_BYTES = 1 << 17
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
RECORD_SEPARATOR = b"\x1e"  # RFC 8142


def read_lines(path: str) -> Iterator[tuple[str, int, list[bytes]]]:
    """Read the lines of a file or of stdin, as they arrive.

    Parameters
    ----------
    path : str
        A file, or ``-`` for stdin.

    Yields
    ------
    tuple of str, int, list of bytes
        The input's name, the number of the first line, and lines without their line feed.

    Raises
    ------
    UsageError
        stdin is a terminal.
    RsrError
        The file cannot be read.
    """
    with open_input(path) as (name, stream):
        first = 1
        pending: list[bytes] = []
        while True:
            try:
                block: bytes | None = stream.read(BLOCK_BYTES)
            except OSError as error:
                raise RsrError(reason(error), name) from None
            if block is None:  # a non-blocking pipe that is empty for now
                select.select([stream], [], [])
                continue
            if not block:
                break
            if first == 1 and not pending:
                block = block.removeprefix(BYTE_ORDER_MARK)
            head, newline, tail = block.rpartition(b"\n")
            if not newline:
                pending.append(block)
                continue
            lines = b"".join([*pending, head]).split(b"\n")
            pending = [tail] if tail else []
            yield name, first, lines
            first += len(lines)
        if pending:
            yield name, first, [b"".join(pending)]


def read_records(path: str, skips: Skips) -> Iterator[Batch]:
    """Read the Features of one file, or of stdin for ``-``, as `streams.read` does."""
    for name, first, lines in read_lines(path):
        batch = Batch(name, [], [])
        for number, line in enumerate(lines, first):
            text = line[1:] if line[:1] == RECORD_SEPARATOR else line
            if not text or text.isspace():
                continue
            try:
                batch.records.append(_feature(text))
                batch.lines.append(number)
            except RecordError as error:
                error.place = f"{name}:{number}"
                skips(error)
        if batch.records:
            yield batch


def _feature(text: bytes) -> Record:
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"not JSON: {error}; {ONE_A_LINE}") from None
    if not isinstance(record, dict) or record.get("type") != "Feature":
        found = record.get("type") if isinstance(record, dict) else type(record).__name__
        raise RecordError(f"not a GeoJSON Feature but {found or 'an object without a type'}; {ONE_A_LINE}")
    if not isinstance(record.get("properties"), dict):
        raise RecordError("the Feature has no properties object")
    return record


def dump(record: Record) -> bytes:
    """Serialise one record as a line of JSON, line feed included.

    Raises
    ------
    RecordError
        It is nested too deeply.
    """
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise RecordError(f"cannot be written as JSON: {error}", str(record.get("id"))) from None
