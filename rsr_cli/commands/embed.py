"""``rsr embed``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.encoders.placement import PRECISIONS
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import jsonl, streams
from rsr_cli.core.sensors.base import check_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsr_cli.core.errors import Skips

log = logging.getLogger("rsr")


@click.command()
@options.inputs
@options.output
@options.overwrite
@click.option("--model", default="prithvi_eo_v1_100", show_default=True, metavar="NAME", help="See --list-models.")
@click.option("--weights", type=click.Path(), metavar="FILE", help="A checkpoint.  [default: see --list-models]")
@click.option("--pool", type=click.Choice(["mean", "cls", "max", "gem"]), help="How tokens become one vector.")
@click.option("--layer", type=int, help="Which of the model's layers to pool, -1 the last.")
@click.option(
    "--size", type=click.IntRange(1), help="Resize tiles to so many pixels.  [default: the model's; rcf takes any]"
)
@options.bands("The model's input bands in order, where it does not say them itself.")
@click.option("--mean", type=options.NameList(float), metavar="X,...", help="A value a band, reflectance x 10000.")
@click.option("--std", type=options.NameList(float), metavar="X,...", help="A value a band, reflectance x 10000.")
@click.option("--fill-missing", type=click.Choice(["mean"]), help="Give missing bands the model's mean.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps.  [default: an accelerator, else cpu]")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help="Arithmetic.")
@click.option("--batch-size", type=click.IntRange(1), help="Tiles a forward pass.  [default: cpu 16, else 64]")
@options.seed("Of rcf's filters.  [default: 0]")
@click.option("--list-models", is_flag=True, help="List the models, with -v terratorch's backbones too, and exit.")
@options.keep_going
@options.verbosity
def embed(
    inputs: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    bands: tuple[str, ...] | None,
    size: int | None,
    seed: int | None,
    fill_missing: str | None,
    device: str | None,
    precision: str,
    batch_size: int | None,
    list_models: bool,
    skips: Skips,
    **model: Any,
) -> None:
    """Encode tiles into embeddings with a foundation model.

    Reads tiles, reads their pixels, and writes the same records with an embedding, in the same order. Invalid pixels
    are given the model's mean; a tile without any valid pixel is an error.
    """
    with files.Output(output, overwrite=overwrite) as out:
        if list_models:
            out.write(_models())
            return
        from rsr_cli.core.encoders import load_encoder
        from rsr_cli.core.encoders.base import EncoderSettings
        from rsr_cli.core.encoders.placement import place
        from rsr_cli.core.encoders.run import Embedder

        settings = EncoderSettings(**model, size_px=size, seed=seed or 0, bands=check_names(bands) if bands else None)
        encoder = load_encoder(settings)
        placement = place(device, precision, batch_size)
        embedder = Embedder(encoder, placement, skips, fill_missing=fill_missing is not None)
        with Progress("tiles") as progress:
            for tiles in embedder.embed(streams.read(inputs, skips)):
                out.write(map(jsonl.dump, tiles))
                progress.update(len(tiles))


def _models() -> Iterator[bytes]:
    """Describe the models, one a line; terratorch's backbones by name alone."""
    from rsr_cli.core import encoders

    for model in encoders.list_models():
        size, names = f"{model.size_px or 'any'} px", " ".join(model.bands) or "any bands"
        yield f"{model.name:24}{model.dim:5}-d  {size:8} {names}; {model.weights}\n".encode()
    if log.isEnabledFor(logging.INFO):
        yield from (
            f"{name:24}  --weights --bands --mean --std --size\n".encode() for name in encoders.list_backbones()
        )
