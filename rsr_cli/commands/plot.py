"""``rsr plot``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.forms import FIGURES
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
@options.figure("png", "pdf")
@options.overwrite
@click.option(
    "--sample",
    type=click.IntRange(3),
    default=1000,  # the paper's
    show_default=True,
    help="Plot at most this many records, drawn at random.",
)
@options.seed("Seed for the sample and for t-SNE.  [default: 0]")
@options.table
@options.keep_going
@options.verbosity
def plot(
    inputs: tuple[str, ...],
    output: str,
    overwrite: bool,
    sample: int,
    seed: int | None,
    settings: TableSettings,
    skips: Skips,
) -> None:
    """Plot embeddings or codes as points, laid out by t-SNE.

    Reads records with an embedding or a code and draws each as a point, whose colour and marker show its first label.
    Points that lie close together have similar vectors. Codes are compared by Hamming distance, embeddings by
    Euclidean distance.
    """
    from rsr_cli.core.figures.plots import draw_points
    from rsr_cli.core.figures.projection import project

    form = options.figure_format(output)
    with files.Output(output, FIGURES[form], overwrite=overwrite) as out, Progress("records") as progress:
        points = project(
            _counted(streams.read(inputs, skips, KINDS, progress, settings), progress), sample, seed or 0, skips
        )
        out.write([draw_points(points, form)])


def _counted(batches: Iterable[Batch], progress: Progress) -> Iterator[Batch]:
    for batch in batches:
        progress.update(len(batch))
        yield batch
