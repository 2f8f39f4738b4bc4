"""TREC run files: hits as lines of ``query Q0 item rank score tag``, which trec_eval and its like read.

trec_eval orders the hits of a query by their scores, as 32-bit floats, and those of the same score by their ids, the
greatest first; it ignores the ranks. A run is read in that order. It is written with minus the rank as the score, so
that no tie can reorder it.
"""

from __future__ import annotations

import math
import struct
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import RecordError, RsrError, Skips, shown
from rsr_cli.core.forms import RUN
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.fields import id_of, id_text, is_hit, one_form
from rsr_cli.core.records.foreign import refuse_directory
from rsr_cli.core.records.jsonl import batch_of, no_vector, read_lines
from rsr_cli.core.records.tables import NOTHING_STATED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rsr_cli.core.files import Output
    from rsr_cli.core.forms import Form
    from rsr_cli.core.records.batch import Record
    from rsr_cli.core.records.space import StreamSpace
    from rsr_cli.core.records.tables import TableSettings

TAG = "rsr"


def check(path: str, _settings: TableSettings) -> None:
    """Raise RsrError if a file cannot be read or is no run."""
    refuse_directory(path)
    first = next(read_lines(path), None)
    if first and first.lines[0].strip() and len(first.lines[0].split()) != 6:
        raise RsrError("is not a run file: query Q0 item rank score tag", path)


def read_records(
    path: str, stream: StreamSpace | None, skips: Skips, _settings: TableSettings = NOTHING_STATED
) -> Iterator[Batch]:
    """Read the hits of a file as `streams.read` does, a query per batch, in the order of trec_eval.

    Raises
    ------
    RecordError
        A line does not have the six fields, or the lines of a query do not stand together.
    """
    seen: set[int] = set()
    for query, lines in groupby(_lines(path, skips), lambda line: line[1]):
        hits = sorted(lines, key=lambda line: (line[3], line[2].encode()), reverse=True)
        if hash(query) in seen:
            what = f"is of the query {query!r}, whose other lines stand further above; sort the file by query"
            raise RsrError(what, f"{path}:{min(number for number, *_ in hits)}")
        seen.add(hash(query))
        records: list[Record] = [
            {"type": "Feature", "id": item, "geometry": None, "properties": {"query": query, "rank": rank}}
            for rank, (_, _, item, _) in enumerate(hits, 1)
        ]
        batch = Batch(path, [number for number, *_ in hits], records)
        if stream:
            error = no_vector(records[0], stream.kind_in([]), None, others=False)
            error.place = batch.place(0)
            skips(error)
        else:
            yield batch


def _lines(path: str, skips: Skips) -> Iterator[tuple[int, str, str, float]]:
    """Yield the number, query, item and score of each line."""
    for name, first, lines, _ in read_lines(path):
        for number, line in enumerate(lines, first):
            fields = line.decode(errors="replace").split()
            if not fields:
                continue
            try:
                query, _, item, _, score, _ = fields
                value = _single(float(score))
            except ValueError:
                skips(RecordError("is not a line of a run file: query Q0 item rank score tag", f"{name}:{number}"))
                continue
            yield number, one_form(query), one_form(item), value


def _single(score: float) -> float:
    """Return a score as trec_eval keeps it, a 32-bit float; raise ValueError for NaN."""
    if math.isnan(score):
        raise ValueError
    try:
        return float(struct.unpack("f", struct.pack("f", score))[0])
    except OverflowError:
        return math.copysign(math.inf, score)


def form_of(_path: str) -> Form:
    """Return the format of an output."""
    return RUN


class RecordWriter:
    """Writes hits to an output.

    Parameters
    ----------
    output : Output
        Where the lines go.
    skips : Skips
        Asked about records that cannot be written.
    """

    def __init__(self, output: Output, skips: Skips) -> None:
        self._output = output
        self._skips = skips

    def write(self, batch: Batch) -> None:
        """Write a batch of hits.

        Raises
        ------
        RecordError
            A record is not a hit, or an id has white space.
        """
        self._output.write(batch.apply(_run_line, self._skips))

    def write_lines(self, lines: Iterable[bytes]) -> None:
        """Write hits that are lines of JSON already."""
        self.write(batch_of(lines))

    def finish(self) -> None:
        """Complete the output, which lines always are."""


def _run_line(record: Record) -> bytes:
    """Return a hit as a line of a run."""
    if not is_hit(record):
        raise RecordError("is not a hit, and a run file holds nothing else", remedy="query")
    properties = record["properties"]
    rank = properties["rank"]
    return " ".join(
        [word(id_text(properties["query"])), "Q0", word(id_of(record)), str(rank), str(-rank), f"{TAG}\n"]
    ).encode()


def word(name: Any) -> str:
    """Return an id for a file of words; raise RecordError if it is none, or has white space."""
    if not isinstance(name, str) or name.split() != [name]:
        raise RecordError(f"has an id that files of TREC cannot hold, which separate by white space: {shown(name)}")
    return name
