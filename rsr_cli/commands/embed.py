"""``rsr embed``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsr_cli import options
from rsr_cli.core.encoders import registry, specification
from rsr_cli.core.encoders.base import MAX_INPUT_PX, RunSettings
from rsr_cli.core.encoders.placement import PRECISIONS
from rsr_cli.core.encoders.pooling import POOLS
from rsr_cli.core.errors import RsrError, UsageError
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import streams
from rsr_cli.core.records.scaled import WRITTEN, written_as
from rsr_cli.core.records.space import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rsr_cli.core.encoders.specification import EncoderSettings
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import Space

_SEEDS = ", ".join(f"{model.seed} for {model.name}" for model in registry.list_models() if model.seed is not None)


def _complete_model(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [model.name for model in registry.list_models() if model.name.startswith(incomplete)]


@click.command(cls=options.RecordsCommand)
@options.inputs
@options.destination
@options.allow_missing
@click.option(
    "--model",
    default=registry.DEFAULT,
    show_default=True,
    metavar="MODEL",
    shell_complete=_complete_model,
    help="A name from rsr models, with settings if you like: rcf:seed=3:bands=red,green,blue.",
)
@click.option("--weights", type=click.Path(), metavar="FILE", help="Checkpoint.  [default: see rsr models]")
@click.option("--pool", type=click.Choice(POOLS), help="How tokens become one vector.  [default: the model's]")
@click.option("--layer", type=int, help="Layer to pool; -1 is the last.  [default: the last]")
@click.option(
    "--size", type=click.IntRange(1, MAX_INPUT_PX), help="Resize tiles to this many pixels.  [default: the model's]"
)
@options.seed(f"Seed for models with random weights.  [default: {_SEEDS}]")
@options.bands("Input bands in the model's order.  [default: the model's]")
@click.option(
    "--mean",
    type=options.NameList(float),
    metavar="X,...",
    help="Mean per band, in reflectance x 10000 or in the unit of the band.",
)
@click.option("--std", type=options.NameList(float), metavar="X,...", help="Standard deviation per band, likewise.")
@click.option(
    "--space",
    metavar="NAME",
    help="Vector space of pixels that are embeddings and do not state it, for --model mean.",
)
@click.option(
    "--as",
    "like",
    envvar="RSR_EMBED_AS",
    type=click.Path(),
    metavar="INDEX|FILE",
    help="Embed as an index, or the records of a file, were embedded: with the same model and settings.",
)
@click.option(
    "--fill-missing",
    is_flag=True,
    help="Fill bands that a tile lacks with the model's mean, for vectors that are compared only with each other.",
)
@click.option(
    "--device", metavar="NAME", help="cpu, cuda, cuda:1, cuda:all or mps.  [default: an accelerator, else cpu]"
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Number format of the model; auto is bf16 where the device and the model suit it, else fp32; int8 is faster"
    " on CPUs with AVX-512 VNNI, and changes a few bits of a code.  [default: auto]",
)
@options.dtype
@click.option("--batch-size", type=click.IntRange(1), help="Tiles per forward pass.  [default: cpu 16, else 64]")
@options.reach
@options.keep_going
@options.verbosity
def embed(
    inputs: tuple[str, ...],
    to: options.Destination,
    allow_missing: bool,
    like: str | None,
    fill_missing: bool,
    device: str | None,
    precision: str | None,
    dtype: str,
    batch_size: int | None,
    skips: Skips,
    **model: Any,
) -> None:
    """Encode tiles into embeddings with a foundation model.

    Reads the pixels of each tile and writes the same records with an embedding, in the same order. Invalid pixels are
    replaced by the model's mean; a tile without any valid pixel is an error. --model mean averages pixels that are
    embeddings already, as of AlphaEarth, and needs no torch.
    """
    skips.instead["id-column"] = "rename-id", {}
    space = None
    if like is None:
        settings = _settings(**model)
    else:
        _check_alone(fill_missing=fill_missing, **model)
        space = _space_of(like, skips)
    filled = space.facts.get("filled", ()) if space else None
    with to.opened("rsr embed", skips) as out:
        progress = Progress("tiles")
        batches = streams.read(
            inputs, skips, progress=progress, allow_missing=allow_missing, may_make_ids=not to.is_shared
        )
        tiles = to.of_shard(batches, skips)
        # imports torch only if the settings suit the model
        encoder = registry.load_as(space, model["weights"], like or "") if space else registry.load_encoder(settings)
        known = out.known_space or space
        usual = known.facts.get("precision", "fp32") if known else "auto"
        embedder = encoder.embedder(skips, RunSettings(device, precision, usual, batch_size, fill_missing, filled))
        with progress:
            usually = encoder.space(filled or ())  # of reflectance
            made_with = {**usually.facts, "fill_missing": fill_missing, "fingerprint": usually.fingerprint}
            made_with["precision"] = embedder.precision
            made_with["dtype"] = dtype if dtype != WRITTEN[0] else None  # as of parts of earlier versions

            def make(some: Iterable[Batch]) -> Iterator[Batch]:
                return written_as(embedder.embed(some), dtype, skips)

            for count in out.fill(tiles, make, made_with):
                progress.update(count)


def _check_alone(**flags: Any) -> None:
    """Check that nothing typed beside --as decides the space: it is taken from the index or file, whole."""
    for name in flags:
        if name != "weights" and options.is_typed(name):
            raise UsageError(f"--{name.replace('_', '-')} and --as both decide the vector space; leave one out")


def _space_of(path: str, skips: Skips) -> Space:
    """Return the space of the embeddings in an index or file, or of those that its codes were made from."""
    if path == "-":
        raise UsageError("--as cannot read stdin; name an index or a file")
    if Path(path).is_dir():
        from rsr_cli.core.index.manifest import Manifest

        space = Manifest.read(Path(path)).space
    else:
        try:
            space = next((batch.space for batch in streams.read([path], skips, KINDS)), None)
        except RsrError as error:
            if error.remedy in ("embed", "binarize", "tile", "space", "vector-column", "no-vector"):
                error.remedy = "as-inputs"
            raise
    if space is None:
        raise RsrError("has no records, so it does not state a vector space", path, remedy="as-inputs")
    return space.of_model()


def _settings(model: str, weights: str | None, **flags: Any) -> EncoderSettings:
    """Combine a specification with the flags beside it."""
    stated = specification.parse(model)
    if flags["bands"]:
        options.band_names(flags["bands"])
    given = {field: flags[key] for key, (field, _) in specification.KEYS.items() if flags[key] is not None}
    for key, (field, _) in specification.KEYS.items():
        if field in given and getattr(stated, field) not in (None, given[field]):
            raise click.UsageError(f"--{key} and --model state different values; leave one out")
    return replace(stated, weights=weights, **given)
