"""``rsr index``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rsr_cli import options
from rsr_cli.core.errors import UsageError
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import streams
from rsr_cli.core.records.space import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.tables import TableSettings


@click.command(cls=options.Command)
@options.inputs
@click.option("-o", "--output", required=True, type=options.File(), metavar="DIRECTORY", help="The index to create.")
@options.overwrite
@click.option(
    "--metric",
    type=click.Choice(["l1", "l2", "cosine", "dot"]),
    help="Distance between embeddings; codes are always compared by Hamming distance.  [default: l1]",
)
@click.option("--allow-empty", is_flag=True, help="Build an index without rows from a stream without records.")
@options.table
@options.keep_going
@options.verbosity
def index(
    inputs: tuple[str, ...],
    output: str,
    overwrite: bool,
    metric: str | None,
    allow_empty: bool,
    settings: TableSettings,
    skips: Skips,
) -> None:
    """Build an index of embeddings or codes.

    Reads records with a code or an embedding and writes a directory for rsr query: the vectors as numpy arrays, the
    records in an SQLite database, and a manifest. If records have both, their codes are indexed, unless --metric is
    passed. With --overwrite, the old index can be queried until the new one is complete. It stays as it is if no usable
    record is read, or if a command before rsr index in the pipe fails.
    """
    if output == "-":
        raise UsageError("an index is a directory and cannot be written to stdout; pass its name to -o")
    from rsr_cli.core.index.build import build

    arguments = ["rsr", *sys.argv[1:]]
    with Progress("records") as progress:
        batches = _with_recipes(streams.read(inputs, skips, ("embedding",) if metric else KINDS, progress, settings))
        for added in build(
            batches, Path(output), metric, skips, arguments=arguments, overwrite=overwrite, allow_empty=allow_empty
        ):
            progress.update(added)


def _with_recipes(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Complete the space of the batches with the recipe, as far as the registry of models states it."""
    from rsr_cli.core.encoders.registry import recipe_of

    space = None
    for batch in batches:
        if space is None and batch.space is not None:
            space = replace(batch.space, recipe=recipe_of(batch.space))
        batch.space = space
        yield batch
