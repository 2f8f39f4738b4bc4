"""JSON lines: one GeoJSON Feature per line, vectors in base64.

Reading hands on what has arrived: a batch is what one read of the input gave, at most 128 KiB, so a slow pipe
yields single records at once and a file yields batches of hundreds. Larger blocks are slower: their records outgrow the
processor's cache.
"""

from __future__ import annotations

import contextlib
import select
from binascii import Error as Base64Error
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from pybase64 import b64decode, b64encode_as_string

from rsr_cli.core.errors import RecordError, RsrError, Skips, UpstreamError, shown, visible
from rsr_cli.core.files import Sink, reason
from rsr_cli.core.forms import BYTE_ORDER_MARK, COMPRESSED, HEAD_BYTES, JSON_LINES, compression_of
from rsr_cli.core.inputs import open_input
from rsr_cli.core.records.batch import Batch, Record
from rsr_cli.core.records.exact import Exact, dumps, loads, need_care
from rsr_cli.core.records.fields import id_text, is_hit, is_tile
from rsr_cli.core.records.foreign import refuse_directory, refuse_foreign
from rsr_cli.core.records.scaled import quantized, widened
from rsr_cli.core.records.space import without_vector
from rsr_cli.core.records.tables import NOTHING_STATED, declared_space, dequantized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.files import Output
    from rsr_cli.core.forms import Form
    from rsr_cli.core.records.space import Kind, Space, StreamSpace
    from rsr_cli.core.records.tables import TableSettings

BLOCK_BYTES = 1 << 17
#: A file without line feeds, such as /dev/zero, would fill the memory.
MAX_LINE_BYTES = 256 << 20
#: The type, in place of ``Feature``, of a last line that states that the writer of the stream failed.
FAILURE = "Failure"
RECORD_SEPARATOR = b"\x1e"  # RFC 8142


class Lines(NamedTuple):
    """Consecutive lines of an input.

    Attributes
    ----------
    name : str
        The input's name.
    first : int
        Number of the first line, from 1.
    lines : list of bytes
        Without their line feed.
    ends : bool
        Whether the last line ends in a line feed, which may be missing at the end of a file.
    """

    name: str
    first: int
    lines: list[bytes]
    ends: bool


def read_lines(path: str) -> Iterator[Lines]:
    """Read the lines of a file or of stdin, as they arrive.

    Parameters
    ----------
    path : str
        A file, or ``-`` for stdin.

    Yields
    ------
    Lines
        At least one line.

    Raises
    ------
    UsageError
        stdin is a terminal.
    RsrError
        The file cannot be read.
    """
    with _decompressed(path) as (name, stream):
        first, held = 1, 0
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
            head, newline, tail = block.rpartition(b"\n")
            if not newline:
                pending.append(block)
                held += len(block)
                if held > MAX_LINE_BYTES:
                    raise RsrError(f"line {first} is longer than {MAX_LINE_BYTES >> 20} MiB", name)
                continue
            lines = _unmarked(b"".join([*pending, head]), first).split(b"\n")
            pending, held = [tail] if tail else [], len(tail)
            yield Lines(name, first, lines, ends=True)
            first += len(lines)
        if pending:
            yield Lines(name, first, [_unmarked(b"".join(pending), first)], ends=False)


@contextlib.contextmanager
def _decompressed(path: str) -> Iterator[tuple[str, Any]]:
    """Open an input as `inputs.open_input` does, and decompress it if its name states that it is compressed."""
    with open_input(path) as (name, stream):
        compression = compression_of(path)
        if compression is None:
            yield name, stream
            return
        import pyarrow as pa

        with pa.CompressedInputStream(pa.PythonFile(stream, "r"), compression) as text:
            yield name, text


def _unmarked(text: bytes, first: int) -> bytes:
    """Return lines without the byte order mark that may precede the first one."""
    return text.removeprefix(BYTE_ORDER_MARK) if first == 1 else text


def check(path: str, _settings: TableSettings) -> None:
    """Raise RsrError if a file cannot be read or does not contain JSON lines; pipes are read only once."""
    if path == "-":
        return
    refuse_directory(path)
    if not Path(path).exists() or Path(path).is_file():
        with _decompressed(path) as (name, stream):
            try:
                head = stream.read(HEAD_BYTES).removeprefix(BYTE_ORDER_MARK)
            except OSError as error:
                raise RsrError(reason(error), name) from None
        refuse_foreign(head.split(b"\n"), name)


def read_records(
    path: str, stream: StreamSpace | None, skips: Skips, settings: TableSettings = NOTHING_STATED
) -> Iterator[Batch]:
    """Read the Features of one file, or of stdin for ``-``, as `streams.read` does."""
    size = 0
    for name, first, lines, ends in read_lines(path):
        size += sum(map(len, lines)) + len(lines)
        if first == 1:
            refuse_foreign(lines, name)
        records: list[Record] = []
        numbers: list[int] = []
        read = loads if need_care(lines) else orjson.loads
        for number, line in enumerate(lines, first):
            try:
                records.append(_feature(line, read))
                numbers.append(number)
            except RecordError as error:
                text = line.strip(b" \t\r" + RECORD_SEPARATOR)
                if not text:
                    continue
                if not ends and text.startswith(b"{") and error.message.startswith("not JSON"):
                    error.message, error.remedy = "the last line is cut off in the middle of a record", "cut-off"
                error.place = f"{name}:{number}"
                skips(error)
            except UpstreamError as error:
                error.place = f"{name}:{number}"
                raise
        batch = Batch(name, numbers, records)
        if stream and len(batch):
            take_vectors(batch, stream, skips, settings)
        if len(batch):
            batch.size, size = size, 0
            yield batch


def _feature(text: bytes, read: Callable[[bytes], Any]) -> Record:
    """Parse a line; ``read`` is `exact.loads`, or faster where that is safe."""
    text = text.lstrip(RECORD_SEPARATOR)
    try:
        record = read(text)
    except orjson.JSONDecodeError:
        record = loads(text)  # which says what is wrong
    if not isinstance(record, dict) or record.get("type") != "Feature":
        raise _no_feature(record)
    properties = record.get("properties")
    if not isinstance(properties, dict):
        raise RecordError("the Feature has no properties object")
    if record.get("id") is None and id_text(properties.get("id")) is not None:
        record["id"] = properties["id"]  # where GDAL puts it
    return record


def _no_feature(record: Any) -> RsrError:
    """Return what to raise for JSON that is no Feature."""
    found = record.get("type") if isinstance(record, dict) else type(record).__name__
    if found == FAILURE:
        return upstream_error(record)
    what = shown(found).strip("'") if found else "an object without a type"
    return RecordError(f"not a GeoJSON Feature but {what}", remedy="lines")


def upstream_error(failure: dict[str, Any]) -> UpstreamError:
    """Return what to raise for the last line of a stream whose writer failed."""
    return UpstreamError(*(str(failure.get(field, "unknown")) for field in ("command", "message")))


def form_of(path: str) -> Form:
    """Return the format of an output of this name."""
    return COMPRESSED.get(compression_of(path) or "", JSON_LINES)


class RecordWriter:
    """Writes records to an output: a line each, vectors in base64.

    Parameters
    ----------
    output : Output
        Where the lines go.
    skips : Skips
        Asked about records that cannot be written, as they are nested too deeply.
    """

    def __init__(self, output: Output, skips: Skips) -> None:
        self._output = output
        self._skips = skips
        self._compressed = None
        compression = compression_of(output.name)
        if compression:
            import pyarrow as pa

            self._compressed = pa.CompressedOutputStream(pa.PythonFile(Sink(output), "w"), compression)

    def write(self, batch: Batch) -> None:
        """Write a batch, which gets its vectors back into its records, and flush it."""
        for vectors, space in batch.vector_columns:
            give_vectors(batch.records, vectors, space)
        self.write_lines(batch.apply(dump, self._skips))

    def write_lines(self, lines: Iterable[bytes]) -> None:
        """Write Features that are lines of JSON already, and flush them unless they are compressed."""
        if self._compressed:
            self._compressed.write(b"".join(lines))
        else:
            self._output.write(lines)

    def finish(self) -> None:
        """Complete the output."""
        if self._compressed:
            self._compressed.close()


def batch_of(lines: Iterable[bytes]) -> Batch:
    """Return lines of JSON that a search wrote as a batch."""
    records = [loads(line) for line in lines]
    return Batch("<hits>", range(1, len(records) + 1), records)


def give_vectors(records: Sequence[Record], vectors: NDArray[Any], space: Space) -> None:
    """Write vectors (n, width) of a space into records."""
    import numpy as np

    head = space.as_property()
    if space.dtype == "int8":
        rows, scales = quantized(vectors)
        heads = [{**head, "scale": scale} for scale in scales.tolist()]
    else:
        with np.errstate(over="ignore"):  # whoever takes them refuses infinite ones
            rows = np.ascontiguousarray(vectors, dtype=space.numpy_dtype)
        heads = [head] * len(rows)
    for record, row, stated in zip(records, rows, heads, strict=True):
        record["properties"][space.kind] = {**stated, "data": b64encode_as_string(row.data)}


def failure_line(command: str, message: str, status: int) -> bytes:
    """Return the line that ends the stream of a command that failed."""
    failure = {"type": FAILURE, "command": visible(command), "status": status, "message": visible(message)}
    return orjson.dumps(failure, option=orjson.OPT_APPEND_NEWLINE)


def dump(record: Record) -> bytes:
    """Return one record as a line of JSON, line feed included.

    Raises
    ------
    RecordError
        It is nested too deeply.
    """
    return dumps(record, orjson.OPT_APPEND_NEWLINE)


def take_vectors(batch: Batch, stream: StreamSpace, skips: Skips, settings: TableSettings = NOTHING_STATED) -> None:
    """Move the vectors of a batch from its records into its columns, and drop records without usable ones.

    Raises
    ------
    RecordError
        A record has no vector, or a broken one.
    FingerprintError
        A vector is of another space than the stream's first one.
    """
    for each in stream.columns:
        _take_column(batch, each, skips, settings)


def _take_column(batch: Batch, stream: StreamSpace, skips: Skips, settings: TableSettings) -> None:
    """Move the vectors of one kind."""
    import numpy as np

    kind = stream.kind_in(batch.records)
    scales: list[float] = []

    def take(record: Record) -> bytes:
        properties = record["properties"]
        found = properties.pop(kind, None)
        if kind == "embedding" and _is_of_others(found):
            found = _stated(found, settings)
        if not isinstance(found, dict):
            raise no_vector(record, kind, found, others=stream.space is not None, beside=stream.is_beside)
        n_bytes = stream.admit(found, kind)
        try:
            raw = b64decode(found["data"], validate=True)
        except (Base64Error, KeyError, TypeError, ValueError) as error:
            raise RecordError(f"data is not base64: {error}") from None
        if len(raw) != n_bytes:
            raise RecordError(f"data holds {len(raw)} bytes where {n_bytes} are expected")
        if stream.space is None:
            stream.settle(found, kind)
        if stream.space and stream.space.dtype == "int8":
            scales.append(found["scale"])
        return raw

    raws = batch.apply(take, skips)
    space = stream.space
    if space is None:
        return
    values = np.frombuffer(b"".join(raws), space.numpy_dtype).reshape(len(raws), space.width)
    if space.dtype == "int8":
        values = widened(values, np.array(scales))
    batch.set_vectors(values, space, skips)


def _is_of_others(found: Any) -> bool:
    """Return whether an embedding is a list of numbers or int8, and not as `rsr embed` writes it."""
    if not isinstance(found, dict) or found.get("dtype") != "int8":
        return isinstance(found, list)
    scale: Any = found.get("scale")
    is_ours = "fingerprint" in found and "offset" not in found and isinstance(found.get("data"), str)
    return not (is_ours and type(scale) in (int, float) and scale >= 0)


def _stated(found: list[Any] | dict[str, Any], settings: TableSettings) -> dict[str, Any]:
    """Return a list of numbers, or int8 with its scales and offsets, as a property that states its space, of float32.

    Raises
    ------
    RecordError
        Neither it nor the user names the space, or its values are no numbers.
    """
    import numpy as np

    if isinstance(found, list):
        if not found or not {*map(type, found)} <= {int, float, Exact}:
            raise RecordError(f"its embedding is a list of other things than numbers: {shown(found)}")
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused
            values, facts = np.array(found, np.float32), {}
    else:
        values = dequantized(_int8(found.get("data")), found)
        facts = without_vector(found)
    data = {"dtype": "float32", "data": b64encode_as_string(values.astype("<f4").data)}
    if "fingerprint" in facts:
        return {**facts, **data}
    try:
        return {**declared_space(settings, {}, len(values), "").as_property(), **data}
    except RsrError:
        raise RecordError("its embedding does not state its vector space", remedy="space") from None


def _int8(data: Any) -> NDArray[Any]:
    """Return int8 (dim,) of a list of numbers or of base64; raise RecordError if it is neither."""
    import numpy as np

    if isinstance(data, list) and data and all(type(value) is int and -128 <= value < 128 for value in data):
        return np.array(data, np.int8)
    try:
        raw = b64decode(data, validate=True) if isinstance(data, str) else b""
    except ValueError as error:
        raise RecordError(f"data is not base64: {error}") from None
    if not raw:
        raise RecordError(f"its int8 data is neither a list of numbers from -128 to 127 nor base64: {shown(data)}")
    return np.frombuffer(raw, np.int8)


def no_vector(record: Record, kind: Kind, found: Any, *, others: bool, beside: bool = False) -> RecordError:
    """Return what to raise for a record without a vector of this kind.

    ``others`` of its stream may have one, and it may be asked for ``beside`` another one, which the record has.
    """
    properties = record["properties"]
    if found is not None:
        return RecordError(f"its {kind} is no object that states its vector space and data: {shown(found)}")
    if beside:
        return RecordError(f"has no {kind} beside its code", remedy="keep-embedding")
    if kind == "code" and properties.get("embedding") is not None:
        return RecordError("has no code", remedy="binarize")
    if kind == "embedding" and properties.get("code") is not None:
        return RecordError("has a code and no embedding: it was binarized already", remedy="embedding")
    if is_tile(record):
        return RecordError(f"{'is a hit and ' if is_hit(record) else ''}has no {kind}", remedy="embed")
    if is_hit(record):
        return RecordError(f"is a hit, and hits have no {kind}", remedy="indexed")
    if others:
        return RecordError(f"has no {kind}", remedy="no-vector")
    return RecordError(f"has no {kind}, and is not a tile to make one of", remedy="tile")
