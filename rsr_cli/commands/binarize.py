"""``rsr binarize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import jsonl, streams

if TYPE_CHECKING:
    from rsr_cli.core.errors import Skips


@click.command()
@options.inputs
@options.output
@options.overwrite
@click.option(
    "--method",
    type=click.Choice(["sign", "trivial", "lsh"]),
    default="sign",
    show_default=True,
    help="sign: one bit a dimension, x > 0. trivial: signs of means over dimensions. lsh: sides of random planes.",
)
@click.option("--bits", type=click.IntRange(1, 1 << 20), help="Length of the code; trivial and lsh need it.")
@options.seed("Of lsh's planes.  [default: 42]")
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

    Reads records with an embedding and writes them with a code in its place: bits packed into bytes, most
    significant bit first, in base64.
    """
    from rsr_cli.core.codes import base as codes

    with files.Output(output, overwrite=overwrite) as out, Progress("records") as progress:
        for batch in codes.binarize(streams.read(inputs, skips), method, bits, seed, skips):
            out.write(map(jsonl.dump, batch.records))
            progress.update(len(batch))
