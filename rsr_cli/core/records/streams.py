"""One door for records in files: the ending of a file's name picks the codec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsr_cli.core.records import jsonl

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch


def read(inputs: Sequence[str], skips: Skips) -> Iterator[Batch]:
    """Read records from files and stdin.

    Parameters
    ----------
    inputs : sequence of str
        Files; ``-``, or none at all, is stdin.
    skips : Skips
        Asked about lines that hold no Feature.

    Yields
    ------
    Batch
        At least one record, in the input's order.

    Raises
    ------
    RecordError
        A line is not a GeoJSON Feature.
    """
    for path in inputs or ("-",):
        yield from jsonl.read_records(path, skips)
