"""``rsr transform``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rsr_cli import options
from rsr_cli.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.tables import TableSettings


@click.command(cls=options.RecordsCommand)
@options.inputs
@options.destination
@options.allow_missing
@options.fitted("TRANSFORM", "What rsr fit wrote.", required=True)
@options.dtype
@options.table
@options.keep_going
@options.verbosity
def transform(
    inputs: tuple[str, ...],
    to: options.Destination,
    allow_missing: bool,
    fitted: str,
    dtype: str,
    settings: TableSettings,
    skips: Skips,
) -> None:
    """Transform embeddings as rsr fit learned to.

    Reads records with an embedding and writes them with one that is centred, or has fewer dimensions, in its place.
    """
    from rsr_cli.core.fitted.transform import Transform
    from rsr_cli.core.records.scaled import written_as

    made = Transform.read(fitted)
    with to.opened("rsr transform", skips) as out, Progress("records") as progress:
        embeddings = to.embeddings(inputs, skips, progress, settings, allow_missing=allow_missing)
        made_with = {"vector_column": settings.vector_column, "id_column": settings.id_column}
        made_with |= {"transform": made.fitted.digest, "dtype": dtype}

        def make(some: Iterable[Batch]) -> Iterator[Batch]:
            return written_as(made.batches(some), dtype, skips)

        for count in out.fill(embeddings, make, made_with):
            progress.update(count)
