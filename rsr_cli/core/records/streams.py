"""Records in and out of files: the ending of a file's name picks the codec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsr_cli.core.errors import UsageError
from rsr_cli.core.files import Output
from rsr_cli.core.forms import JSON_LINES
from rsr_cli.core.inputs import input_size
from rsr_cli.core.records import jsonl
from rsr_cli.core.records.space import StreamSpace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import ModuleType

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.progress import Progress
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import Kind


def _codec(path: str, remedy: str) -> ModuleType:
    """Return the module that reads and writes a file of this name, JSON lines for standard streams too."""
    if path.endswith(".parquet"):
        raise UsageError("is named as a Parquet file, which is not supported yet", path, remedy=remedy)
    return jsonl


def read(
    inputs: Sequence[str], skips: Skips, vectors: Sequence[Kind] = (), progress: Progress | None = None
) -> Iterator[Batch]:
    """Read records from files and stdin.

    Parameters
    ----------
    inputs : sequence of str
        Files; ``-``, or no input at all, is stdin.
    skips : Skips
        Asked about records that cannot be used.
    vectors : sequence of str
        The kinds of vector to take out of the records, in order of preference; all must be of one space. Without any,
        records keep what they have.
    progress : Progress, optional
        Is given the sizes of the files and of what was read of them.

    Returns
    -------
    iterator of Batch
        At least one record each, in the input's order; with ``vectors``, those that have one.

    Raises
    ------
    UsageError
        stdin is closed or a terminal, or the format is not supported.
    RsrError
        A file cannot be read or does not contain records, which is checked for all before the first one is read.
    RecordError
        A line is not a GeoJSON Feature, or has no usable vector.
    FingerprintError
        Vectors are of two spaces.
    """
    stream = StreamSpace(vectors) if vectors else None
    sources = [(path, _codec(path, "vector")) for path in inputs or ("-",)]
    for path, codec in sources:
        codec.check(path)
    return _read(sources, stream, skips, progress)


def _read(
    sources: Sequence[tuple[str, ModuleType]], stream: StreamSpace | None, skips: Skips, progress: Progress | None
) -> Iterator[Batch]:
    """Read one input after the other, and report to a progress what is read and which inputs are empty."""
    if progress:
        sizes = [input_size(path) for path, _ in sources]
        progress.expect(None if None in sizes else sum(filter(None, sizes)))
    for path, codec in sources:
        batch, skipped = None, skips.count
        for batch in codec.read_records(path, stream, skips):
            if progress:
                progress.read(len(batch), batch.size)
            yield batch
        if progress and batch is None and skips.count == skipped:
            progress.notes.append(f"{'<stdin>' if path == '-' else path}: is empty")


class Writer:
    """Writes records to stdout or a file, in the format of its ending.

    Parameters
    ----------
    path, overwrite
        As in `files.Output`.
    skips : Skips
        Asked about records that cannot be written.
    """

    def __init__(self, path: str | None, skips: Skips, *, overwrite: bool = False) -> None:
        self._codec = _codec(path or "-", "parquet")
        self._skips = skips
        self._output = Output(path, JSON_LINES, overwrite=overwrite)

    def __enter__(self) -> Writer:
        self._output.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._output.__exit__(*error)  # type: ignore[arg-type]

    def write(self, batch: Batch) -> None:
        """Write a batch, which gets its vectors back into its records, and flush it."""
        self._output.write([self._codec.write_records(batch, self._skips)])

    def write_lines(self, lines: Iterable[bytes]) -> None:
        """Write Features that are lines of JSON already, and flush them."""
        self._output.write(lines)
