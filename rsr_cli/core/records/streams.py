"""Records in and out of files: the ending of a file's name picks the codec."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import RsrError, UsageError
from rsr_cli.core.files import Output
from rsr_cli.core.forms import (
    ARRAY_ENDING,
    CSV_ENDINGS,
    GDAL_ENDINGS,
    ITEM_ENDING,
    PARQUET_ENDINGS,
    compression_of,
    is_parquet,
)
from rsr_cli.core.inputs import input_size
from rsr_cli.core.records import jsonl, parts, stac, trec
from rsr_cli.core.records.foreign import is_index
from rsr_cli.core.records.space import StreamSpace
from rsr_cli.core.records.tables import NOTHING_STATED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import ModuleType

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.progress import Progress
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import Kind, Space
    from rsr_cli.core.records.tables import TableSettings


def _codec(path: str) -> ModuleType:
    """Return the module that reads, and mostly writes, a file of this name, JSON lines for standard streams too."""
    if is_parquet(path):
        from rsr_cli.core.records import parquet

        return parquet
    if path.lower().endswith(CSV_ENDINGS):
        from rsr_cli.core.records import csv_table

        return csv_table
    if path.lower().endswith(ARRAY_ENDING):
        from rsr_cli.core.records import npy

        return npy
    if path.lower().endswith(ITEM_ENDING):
        return stac
    return trec if path.lower().endswith(".run") else jsonl


def _files(path: str, *, allow_missing: bool) -> list[str]:
    """Return the files of a directory's parts, or its Parquet files in the order of their names; else the path."""
    if path == "-" or not Path(path).is_dir() or is_index(path):
        return [path]
    if parts.is_parts(path):
        return parts.files(path, allow_missing=allow_missing)
    found = sorted(each for each in Path(path).rglob("*") if is_parquet(each.name) and each.is_file())
    hidden = (".", "_")  # what Spark and others leave beside their files
    found = [each for each in found if not any(part.startswith(hidden) for part in each.relative_to(path).parts)]
    below = [str(each) for each in {file.parent for file in found} if parts.is_parts(str(each))]
    if below:
        raise RsrError("is below the directory, and holds parts", min(below), remedy="name-parts")
    return [str(each) for each in found] or [path]


def read(
    inputs: Sequence[str],
    skips: Skips,
    vectors: Sequence[Kind] = (),
    progress: Progress | None = None,
    settings: TableSettings = NOTHING_STATED,
    beside: Kind | None = None,
    *,
    allow_missing: bool = False,
    may_make_ids: bool = True,
) -> Iterator[Batch]:
    """Read records from files and stdin.

    Parameters
    ----------
    inputs : sequence of str
        Files, and directories of parts or of Parquet files; ``-``, or no input at all, is stdin.
    skips : Skips
        Asked about records that cannot be used.
    vectors : sequence of str
        The kinds of vector to take out of the records, in order of preference; all must be of one space. Without any,
        records keep what they have.
    progress : Progress, optional
        Is given the sizes of the files and of what was read of them.
    settings : TableSettings
        What the user states about embeddings that others made.
    beside : str, optional
        A kind of vector to take beside these; every record must have both.
    allow_missing : bool
        Read parts although some of them are missing.
    may_make_ids : bool
        As ``may_make`` of `rows.files_without_ids`.

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
    stream = StreamSpace(vectors, beside) if vectors else None
    sources = [
        (path, _codec(path), replace(settings, root="" if path == given else given))
        for given in inputs or ("-",)
        for path in _files(given, allow_missing=allow_missing)
    ]
    if (settings.vector_column or settings.id_column) and not any(hasattr(codec, "opened") for _, codec, _ in sources):
        raise UsageError("columns are chosen, and no input is a table", remedy="no-columns")
    for path, codec, stated in sources:
        codec.check(path, stated)
    return _read(sources, stream, skips, progress, may_make_ids=may_make_ids)


def _read(
    sources: Sequence[tuple[str, ModuleType, TableSettings]],
    stream: StreamSpace | None,
    skips: Skips,
    progress: Progress | None,
    *,
    may_make_ids: bool,
) -> Iterator[Batch]:
    """Read one input after the other, and report to a progress what is read and which inputs are empty."""
    tables = [source for source in sources if hasattr(source[1], "opened")]
    if tables:
        from rsr_cli.core.records.rows import files_without_ids

        without = files_without_ids(tables, skips, with_vectors=stream is not None, may_make=may_make_ids)
        sources = [(path, codec, replace(settings, makes_ids=path in without)) for path, codec, settings in sources]
    if progress:
        sizes = [input_size(path) for path, *_ in sources]
        progress.expect(None if None in sizes else sum(filter(None, sizes)))
    for path, codec, settings in sources:
        batch, skipped = None, skips.count
        for batch in codec.read_records(path, stream, skips, settings):
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
    hilbert : bool
        Write the rows of a Parquet file in the order of a Hilbert curve.
    space : Space, optional
        The space of the vectors that hits were found by, which a STAC ItemCollection states.

    Attributes
    ----------
    known_space : None
        As of `part_writer.Writer`: what an earlier run wrote is no part of the output.
    """

    known_space = None

    def __init__(
        self,
        path: str | None,
        skips: Skips,
        *,
        overwrite: bool = False,
        hilbert: bool = False,
        space: Space | None = None,
    ) -> None:
        codec = _codec(path or "-")
        if not hasattr(codec, "RecordWriter"):
            raise UsageError("CSV and numpy arrays are read, and not written", path or "-", remedy="written")
        if path and Path(path).suffix.lower() in GDAL_ENDINGS:
            raise UsageError("is named as a format of GDAL's that is not written", path, remedy="written")
        if path and compression_of(path) and Path(path).stem.lower().endswith((".run", ITEM_ENDING, *PARQUET_ENDINGS)):
            raise UsageError("only JSON lines are compressed; Parquet files are in themselves", path)
        if hilbert and codec in (jsonl, stac, trec):
            raise UsageError("only Parquet files are written in the order of a Hilbert curve", path)
        self._output = Output(path, codec.form_of(path or "-"), overwrite=overwrite)
        self._count = 0
        settings = {"space": space} if codec is stac else {"hilbert": True} if hilbert else {}
        self._writer = codec.RecordWriter(self._output, skips, **settings)

    def __enter__(self) -> Writer:
        self._output.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error == (None, None, None):
                self._writer.finish()
        except BaseException:
            self._output.__exit__(*sys.exc_info())
            raise
        self._output.__exit__(*error)  # type: ignore[arg-type]

    @property
    def unfinished(self) -> int:
        """Records that were written, and are lost if the output is not finished."""
        return 0 if self._output.is_there else self._count

    def fill(
        self,
        inputs: Iterable[Any],
        make: Callable[[Iterable[Any]], Iterable[Batch]],
        *_settings: Any,  # nothing that is there was made with others
    ) -> Iterator[int]:
        """Write what a function makes of batches or scenes, and yield the number of records of each batch."""
        for batch in make(inputs):
            self.write(batch)
            self._count += len(batch)
            yield len(batch)

    def write(self, batch: Batch) -> None:
        """Write a batch; records get their vectors back, if they are written as JSON."""
        self._writer.write(batch)

    def write_lines(self, lines: Iterable[bytes]) -> None:
        """Write Features that are lines of JSON already."""
        self._writer.write_lines(lines)
