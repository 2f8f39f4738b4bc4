"""``rsr binarize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rsr_cli import options
from rsr_cli.core.codes.registry import METHODS
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import streams

if TYPE_CHECKING:
    from rsr_cli.core.errors import Skips


@click.command()
@options.inputs
@options.output
@options.overwrite
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="sign",
    show_default=True,
    help=". ".join(f"{method}: {summary}" for method, (_, summary) in METHODS.items()) + ".",
)
@click.option(
    "--bits",
    type=click.IntRange(1, 1 << 20),
    help="Bits per code. sign has one per dimension; other methods require a number.",
)
@options.seed("Seed for methods that use random numbers, such as lsh.  [default: 42]")
@options.keep_going
@options.verbosity
def binarize(
    inputs: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    method: str,
    bits: int | None,
    seed: int | None,
    skips: Skips,
) -> None:
    """Turn embeddings into binary codes.

    Reads records with an embedding and writes them with a code in its place. A code is written in base64: its bits
    packed into bytes, most significant bit first.
    """
    from rsr_cli.core.codes.base import binarize

    with streams.Writer(output, skips, overwrite=overwrite) as out, Progress("records") as progress:
        for batch in binarize(streams.read(inputs, skips, ("embedding",)), method, bits, seed):
            out.write(batch)
            progress.update(len(batch))
