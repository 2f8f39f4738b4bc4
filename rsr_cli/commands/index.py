"""``rsr index``."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsr_cli import options
from rsr_cli.core.errors import UsageError, counted
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import streams
from rsr_cli.core.records.fields import id_of, one_form
from rsr_cli.core.records.foreign import is_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.index.manifest import Divided
    from rsr_cli.core.index.reading import Index
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.tables import TableSettings
    from rsr_cli.core.search.filters import Filter

log = logging.getLogger("rsr")

MAX_PARTITIONS = 1 << 20


class Partitions(click.ParamType):  # type: ignore[type-arg]
    """A number of partitions, or ``auto``."""

    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number or ``auto``."""
        if value == "auto" or isinstance(value, int):
            return value
        if not (value.isascii() and value.isdecimal() and 0 < int(value) <= MAX_PARTITIONS):
            self.fail(f"{value!r} is neither auto nor a number from 1 to {MAX_PARTITIONS}", param, ctx)
        return int(value)


@click.command(cls=options.Command)
@options.inputs
@click.option(
    "-o", "--output", required=True, type=options.File(), metavar="DIRECTORY", help="The index to create or to change."
)
@options.overwrite
@click.option("--append", is_flag=True, help="Append to the index; create it if there is none.")
@click.option(
    "--replace", is_flag=True, help="With --append or several indexes: let a record replace an earlier one with its id."
)
@click.option(
    "--delete",
    is_flag=True,
    help="Delete the items with the ids of the records instead, those that --id names, or all that match the filters.",
)
@click.option(
    "--id",
    "ids",
    envvar="RSR_INDEX_ID",
    multiple=True,
    metavar="ID",
    help="With --delete: delete this item. Can be repeated.",
)
@options.filters("INDEX", "With --delete: delete")
@click.option("--compact", is_flag=True, help="Make one segment of all, without the deleted items, instead.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "l1", "l2", "dot"]),
    help="Distance between embeddings; codes have their own.  [default: cosine]",
)
@click.option(
    "--refine",
    type=click.Choice(["int8", "float16", "float32"]),
    help="Store embeddings beside the codes, in this type of number, for rsr query --rerank; --metric is theirs."
    " Records need both, as rsr binarize --keep-embedding writes them.",
)
@click.option(
    "--partitions",
    type=Partitions(),
    help="Divide the items into N partitions, of which rsr query --recall searches the nearest; auto is a number that"
    " suits how many they are; fewer than 50,000 are not divided.",
)
@click.option("--allow-empty", is_flag=True, help="Build an index without rows from a stream without records.")
@options.fitted(
    "INDEX",
    "What rsr fit wrote and the records were made with; the index keeps it for queries. Can be repeated.",
    multiple=True,
)
@options.allow_missing
@options.table
@options.keep_going
@options.verbosity
def index(**given: Any) -> None:
    """Build an index of embeddings or codes, or change one.

    Reads records with a code or an embedding and writes a directory for rsr query: the vectors as numpy arrays, the
    records in an SQLite database, and a manifest. If records have both, their codes are indexed, unless --metric is
    passed without --refine. Several indexes as INPUT are merged. Whatever changes an index, it can be queried
    meanwhile, and changes at once or not at all. With --overwrite, it stays as it is if no usable record is read, or if
    a command before rsr index in the pipe fails.
    """
    job = Job(**given)
    job.check()
    with Progress("records") as progress:
        for added in job.work(progress):
            progress.update(added)


@dataclass(frozen=True)
class Job:
    """What the command line asks for."""

    inputs: tuple[str, ...]
    output: str
    ids: tuple[str, ...]
    wanted: Filter
    metric: str | None
    refine: str | None
    partitions: Divided
    fitted: tuple[str, ...]
    settings: TableSettings
    skips: Skips
    overwrite: bool
    append: bool
    replace: bool
    delete: bool
    compact: bool
    allow_empty: bool
    allow_missing: bool

    def check(self) -> None:
        """Raise UsageError if the options do not fit together."""
        if self.output == "-":
            raise UsageError("an index is a directory and cannot be written to stdout; pass its name to -o")
        modes = [f"--{name}" for name in ("overwrite", "append", "delete", "compact") if getattr(self, name)]
        if len(modes) > 1:
            raise UsageError(f"pass only one of {' and '.join(modes)}")
        if self.ids and not self.delete:
            raise UsageError("--id names items to --delete")
        if self.wanted and not self.delete:
            raise UsageError("filters choose items to --delete")
        if bool(self.ids) + bool(self.inputs) + bool(self.wanted) > 1:
            raise UsageError("pass either --id, INPUT or filters")
        if self.compact and self.inputs:
            raise UsageError("--compact takes no INPUT: it rewrites the index that -o names")
        if self.replace and (self.compact or self.delete):
            raise UsageError("--replace is for records that are added")
        merged = any(is_index(name) for name in self.inputs)
        if self.compact or self.delete or merged:
            options.refuse_typed("is for an index that is built", "allow_empty")
            options.refuse_typed("is for records that are added", "fitted", "metric", "refine")
        if self.compact or self.ids or self.wanted or merged:
            options.refuse_typed("is for records that are read", *options.TABLE, "allow_missing")
        if self.partitions and self.delete:
            raise UsageError("--partitions is for items that are added, or for --compact")

    def work(self, progress: Progress) -> Iterator[int]:
        """Do it, and yield the number of rows as it goes on."""
        path, arguments = Path(self.output), ["rsr", *sys.argv[1:]]
        merged = [name for name in self.inputs if is_index(name)]
        yield from self._change(path, progress, merged, arguments)
        if isinstance(self.partitions, int):
            self._check_partitions(path, self.partitions)

    def _check_partitions(self, path: Path, wanted: int) -> None:
        """Warn if the last segment has fewer partitions than were asked for."""
        from rsr_cli.core.index.manifest import Manifest

        for segment in Manifest.read(path).segments[-1:]:
            made = segment.partitions["count"] if segment.partitions else 0
            if made < wanted:
                rows = counted(segment.count, "item")
                log.warning("%s: %s were divided into %d partitions, not %d", path, rows, made, wanted)

    def _change(self, path: Path, progress: Progress, merged: Sequence[str], arguments: Sequence[str]) -> Iterator[int]:
        """Do what was asked for."""
        if self.compact:
            from rsr_cli.core.index import upkeep

            yield from upkeep.compact(path, arguments=arguments, partitions=self.partitions)
        elif self.delete:
            yield self._delete(path, arguments, progress)
        elif merged:
            yield from self._merge(path, arguments, merged)
        else:
            yield from self._add(path, arguments, progress)

    def _delete(self, path: Path, arguments: Sequence[str], progress: Progress) -> int:
        """Delete items, and return how many."""
        from rsr_cli.core.index import upkeep

        ids: Iterable[str] = self.ids
        if not ids and not self.wanted:
            batches = streams.read(
                self.inputs, self.skips, progress=progress, settings=self.settings, allow_missing=self.allow_missing
            )
            ids = (name for batch in batches for name in batch.apply(id_of, self.skips))
        names = list(dict.fromkeys(map(one_form, ids)))

        def choose(opened: Index) -> Mapping[int, Iterable[int]]:
            if not self.wanted:
                return upkeep.rows_with_ids(opened, names, self.skips)
            chosen = self.wanted.select(opened.segments, whole=True).kept or ()
            return {number: kept.mask.nonzero()[0] for number, kept in enumerate(chosen)}

        deleted = upkeep.delete(path, choose, arguments=arguments)
        if self.wanted and not deleted:
            log.warning("no item of the index matches the filters, and nothing was deleted")
        return deleted

    def _merge(self, path: Path, arguments: Sequence[str], merged: Sequence[str]) -> Iterator[int]:
        """Merge indexes, and yield the number of rows as it goes on."""
        from rsr_cli.core.index import upkeep

        if len(merged) < len(self.inputs):
            raise UsageError(f"{merged[0]} is an index, and other inputs are not; pass either indexes or records")
        if self.partitions:
            raise UsageError("a merged index has the partitions of its parts; pass --partitions to --compact after it")
        if self.append and any(Path(name).resolve() == path.resolve() for name in merged):
            raise UsageError(f"{path} cannot be appended to itself")
        yield from upkeep.merge(
            [Path(name) for name in self.inputs],
            path,
            self.skips,
            arguments=arguments,
            overwrite=self.overwrite,
            append=self.append,
            replace_rows=self.replace,
        )

    def _add(self, path: Path, arguments: Sequence[str], progress: Progress) -> Iterator[int]:
        """Build an index, or append to one, and yield the number of rows as it goes on."""
        from rsr_cli.core.index import build

        if self.replace and not self.append:
            raise UsageError("--replace needs --append, or several indexes")
        fitted: list[Fitted] = []
        if self.fitted:
            from rsr_cli.core.fitted.state import Fitted

            fitted = [Fitted.read(Path(path)) for path in self.fitted]
        if self.refine:
            self.skips.instead["binarize"] = "binarize-keep", {}
        typed = self.metric if options.is_typed("metric") else None  # of the environment, it is no more than a default
        if self.append:
            takes = build.appendable(path, typed, self.refine)
            work = partial(build.append, replace_rows=self.replace)
        else:
            takes = build.taken(typed, self.refine)
            work = partial(build.build, overwrite=self.overwrite)
        batches = streams.read(
            self.inputs,
            self.skips,
            takes.kinds,
            progress,
            self.settings,
            takes.beside,
            allow_missing=self.allow_missing,
        )
        yield from work(
            _with_recipes(batches),
            path,
            takes.metric or self.metric,
            self.skips,
            arguments=arguments,
            allow_empty=self.allow_empty,
            partitions=self.partitions,
            refine=takes.refine,
            fitted=fitted,
        )


def _with_recipes(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Complete the space of the batches with the recipe, as far as the registry of models states it."""
    from rsr_cli.core.encoders.registry import recipe_of

    space = None
    for batch in batches:
        if space is None and batch.space is not None:
            space = replace(batch.space, recipe=recipe_of(batch.space))
        batch.space = space
        yield batch
