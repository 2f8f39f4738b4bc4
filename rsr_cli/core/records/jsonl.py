"""JSON lines: one GeoJSON Feature per line, vectors in base64.

Reading hands on what has arrived: a batch is what one read of the input gave, at most 128 KiB, so a slow pipe
yields single records at once and a file yields batches of hundreds. Larger blocks are slower: their records outgrow the
processor's cache.
"""

from __future__ import annotations

import select
from binascii import Error as Base64Error
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from pybase64 import b64decode, b64encode_as_string

from rsr_cli.core.errors import RecordError, RsrError, Skips, UpstreamError
from rsr_cli.core.files import open_input, reason
from rsr_cli.core.records.batch import Batch, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsr_cli.core.records.space import StreamSpace

ONE_PER_LINE = "one Feature per line is expected, as jq -c '.features[]' or ogr2ogr -f GeoJSONSeq writes them"
BLOCK_BYTES = 1 << 17
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: First bytes of TIFF, BigTIFF, PNG, JPEG, JPEG 2000, HDF5 and netCDF files.
RASTERS = (
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG", b"\xff\xd8\xff"),
    *(b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51", b"\x89HDF", b"CDF\x01", b"CDF\x02"),
)
GZIP = b"\x1f\x8b"
#: The type, in place of ``Feature``, of a last line that states that the writer of the stream failed.
FAILURE = "Failure"
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


def read_records(path: str, stream: StreamSpace | None, skips: Skips) -> Iterator[Batch]:
    """Read the Features of one file, or of stdin for ``-``, as `streams.read` does."""
    if path != "-" and Path(path).is_dir():
        index = Path(path, "manifest.json").exists()
        raise RsrError(
            "is an index and not records" if index else "is a directory", path, remedy=None if index else "tile"
        )
    for name, first, lines in read_lines(path):
        if first == 1:
            _check_text(lines[0], name)
        batch = Batch(name, [], [])
        for number, line in enumerate(lines, first):
            try:
                batch.records.append(_feature(line))
                batch.lines.append(number)
            except RecordError as error:
                if line.strip().strip(RECORD_SEPARATOR):  # not blank
                    error.place = f"{name}:{number}"
                    skips(error)
            except UpstreamError as error:
                error.place = f"{name}:{number}"
                raise
        if stream and batch.records:
            take_vectors(batch, stream, skips)
        if batch.records:
            yield batch


def _check_text(line: bytes, name: str) -> None:
    """Raise RsrError if the first line is not that of a text file."""
    if line.startswith(RASTERS):
        raise RsrError("is a raster and not JSON lines", name, remedy="tile")
    if line.startswith(GZIP) or b"\0" in line:
        raise RsrError("is a binary or compressed file and not JSON lines", name)


def _feature(text: bytes) -> Record:
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if text[:1] == RECORD_SEPARATOR:
            return _feature(text[1:])
        raise RecordError(f"not JSON: {error}; {ONE_PER_LINE}") from None
    if not isinstance(record, dict) or record.get("type") != "Feature":
        found = record.get("type") if isinstance(record, dict) else type(record).__name__
        if found == FAILURE:
            raise UpstreamError(*(str(record.get(field, "unknown")) for field in ("command", "message")))
        raise RecordError(f"not a GeoJSON Feature but {found or 'an object without a type'}; {ONE_PER_LINE}")
    if not isinstance(record.get("properties"), dict):
        raise RecordError("the Feature has no properties object")
    return record


def write_records(batch: Batch, skips: Skips) -> bytes:
    """Return a batch as lines of JSON, its vectors in base64.

    Raises
    ------
    RecordError
        A record is nested too deeply.
    """
    if batch.vectors is not None and batch.space is not None:
        import numpy as np

        head = batch.space.as_property()
        rows = np.ascontiguousarray(batch.vectors, dtype=batch.space.numpy_dtype)
        for record, row in zip(batch.records, rows, strict=True):
            record["properties"][batch.space.kind] = {**head, "data": b64encode_as_string(row.data)}
    return b"".join(batch.apply(dump, skips))


def failure_line(command: str, message: str, status: int) -> bytes:
    """Return the line that ends the stream of a command that failed."""
    return orjson.dumps(
        {"type": FAILURE, "command": command, "status": status, "message": message}, option=orjson.OPT_APPEND_NEWLINE
    )


def dump(record: Record) -> bytes:
    """Return one record as a line of JSON, line feed included.

    Raises
    ------
    RecordError
        It is nested too deeply.
    """
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise RecordError(f"cannot be written as JSON: {error}") from None


def take_vectors(batch: Batch, stream: StreamSpace, skips: Skips) -> None:
    """Move the vectors of a batch from its records into its column, and drop records without a usable one.

    Raises
    ------
    RecordError
        A record has no vector, or a broken one.
    FingerprintError
        A vector is of another space than the stream's first one.
    """
    import numpy as np

    kind = stream.kind_in(batch.records)

    def take(record: Record) -> bytes:
        properties = record["properties"]
        found = properties.pop(kind, None)
        if not isinstance(found, dict):
            if kind == "embedding" and "code" in properties:
                raise RecordError("has a code and no embedding: it was binarized already", remedy="embedding")
            raise RecordError(f"has no {kind}", remedy="binarize" if kind == "code" else "embed")
        n_bytes = stream.admit(found, kind)
        try:
            raw = b64decode(found["data"], validate=True)
        except (Base64Error, KeyError, TypeError, ValueError) as error:
            raise RecordError(f"data is not base64: {error}") from None
        if len(raw) != n_bytes:
            raise RecordError(f"data holds {len(raw)} bytes where {n_bytes} are expected")
        if stream.space is None:
            stream.settle(found, kind)
        return raw

    raws = batch.apply(take, skips)
    space = stream.space
    if space is None:
        return
    batch.space = space
    values = np.frombuffer(b"".join(raws), space.numpy_dtype).reshape(len(raws), space.width)
    if kind == "embedding":
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused
            values = values.astype(np.float32, copy=False)
    batch.vectors = values
    if kind == "embedding" and not (finite := np.isfinite(values).all(axis=1)).all():
        for i in np.flatnonzero(~finite):
            skips(RecordError("its embedding holds NaN or infinite values", batch.place(int(i))))
        batch.keep(np.flatnonzero(finite).tolist())
