"""``rsr transform``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from rsr_cli import options
from rsr_cli.core.errors import UsageError
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
@options.fitted("TRANSFORM", "What rsr fit wrote; without it, only the type of number changes.")
@options.dtype
@options.table
@options.keep_going
@options.verbosity
def transform(
    inputs: tuple[str, ...],
    to: options.Destination,
    allow_missing: bool,
    fitted: str | None,
    dtype: str,
    settings: TableSettings,
    skips: Skips,
) -> None:
    """Transform embeddings as rsr fit learned to, or write them in another type of number.

    Reads records with an embedding and writes them with one that is centred, or has fewer dimensions, or takes fewer
    bytes, in its place.
    """
    from rsr_cli.core.fitted.transform import Transform
    from rsr_cli.core.records.scaled import written_as

    if fitted is None and click.get_current_context().get_parameter_source("dtype") is ParameterSource.DEFAULT:
        raise UsageError("there is nothing to do: pass --with or --dtype")
    made = Transform.read(fitted) if fitted else None
    with to.opened("rsr transform", skips) as out, Progress("records") as progress:
        embeddings = to.embeddings(inputs, skips, progress, settings, allow_missing=allow_missing)
        made_with = {"vector_column": settings.vector_column, "id_column": settings.id_column}
        made_with |= {"transform": made.fitted.digest if made else None, "dtype": dtype}

        def make(some: Iterable[Batch]) -> Iterator[Batch]:
            return written_as(made.batches(some) if made else some, dtype, skips)

        for count in out.fill(embeddings, make, made_with):
            progress.update(count)
