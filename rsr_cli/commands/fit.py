"""``rsr fit``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.errors import UsageError
from rsr_cli.core.fitted.registry import FIT_METHODS
from rsr_cli.core.forms import SAFETENSORS
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import streams

if TYPE_CHECKING:
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.tables import TableSettings


def _named(size: str) -> str:
    """Return the methods that need a size of some name."""
    return " and ".join(name for name, method in FIT_METHODS.items() if method.size == size)


@click.command(cls=options.Command)
@options.inputs
@click.option(
    "-o", "--output", required=True, type=options.File(), metavar="FILE", help="Write to this file, as safetensors."
)
@options.overwrite
@click.option(
    "--method",
    type=click.Choice(list(FIT_METHODS)),
    required=True,
    help=". ".join(f"{name}: {method.summary}" for name, method in FIT_METHODS.items()) + ".",
)
@click.option("--dims", type=click.IntRange(1), help=f"Dimensions to keep; required for {_named('dims')}.")
@click.option("--bits", type=click.IntRange(1), help=f"Bits per code; required for {_named('bits')}.")
@click.option(
    "--sample",
    type=click.IntRange(1, 1 << 31),
    default=50_000,
    show_default=True,
    help="Learn from at most this many embeddings, drawn at random.",
)
@options.seed("Seed for the sample, and for what methods draw.  [default: 0]")
@options.allow_missing
@options.table
@options.keep_going
@options.verbosity
def fit(
    inputs: tuple[str, ...],
    output: str,
    overwrite: bool,
    method: str,
    dims: int | None,
    bits: int | None,
    sample: int,
    seed: int | None,
    allow_missing: bool,
    settings: TableSettings,
    skips: Skips,
) -> None:
    """Learn from a sample of embeddings how to transform or binarize such embeddings.

    Reads records with an embedding and writes a file of numbers for --with of rsr transform, binarize and index. It is
    for embeddings of the same model and settings, also of other places than those it was learned from. Embeddings are
    brought to unit length first.
    """
    size = _size(method, {"dims": dims, "bits": bits})
    from rsr_cli.core.fitted.learn import fit as learned
    from rsr_cli.core.fitted.sample import Reservoir

    drawn = Reservoir(sample, seed or 0)
    with files.Output(output, SAFETENSORS, overwrite=overwrite) as out, Progress("records") as progress:
        for count in drawn.fill(
            streams.read(inputs, skips, ("embedding",), progress, settings, allow_missing=allow_missing)
        ):
            progress.update(count)
        out.write([learned(method, drawn, size, seed or 0).data])


def _size(method: str, given: dict[str, int | None]) -> int | None:
    """Return the number of dimensions or bits that a method needs; raise UsageError if another one is given."""
    needed = FIT_METHODS[method].size
    for name, value in given.items():
        if name == needed and value is None:
            raise UsageError(f"{method} needs --{name}")
        if name != needed and value is not None:
            raise UsageError(f"{method} takes no --{name}" + (f", but --{needed}" if needed else ""))
    return given[needed] if needed else None
