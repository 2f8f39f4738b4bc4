"""``rsr models``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.forms import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rsr_cli.core.encoders.base import Model

HEADER = ("model", "dimensions", "size", "bands", "weights")


@click.command(cls=options.Command)
@click.option(
    "--all",
    "with_backbones",
    envvar="RSR_MODELS_ALL",
    is_flag=True,
    help="Also list terratorch's backbones; this takes seconds.",
)
@options.output
@options.overwrite
@options.verbosity
def models(with_backbones: bool, output: str | None, overwrite: bool) -> None:
    """List the models that rsr embed can use.

    Prints one line per model: its name, the dimensions of its embeddings, the size in pixels to which tiles are
    resized, its input bands, and the source of its weights. Where a column shows an option, pass it to rsr embed. The
    first model is the default.
    """
    from rsr_cli.core.encoders import registry, terratorch

    rows = [_row(model) for model in registry.list_models()]
    if with_backbones:
        needs = ("-", "--size", "--bands --mean --std", "--weights")
        rows += [(name, *needs) for name in terratorch.list_backbones()]
    with files.Output(output, TABLE, overwrite=overwrite) as out:
        out.write(_table([HEADER, *rows]))


def _row(model: Model) -> tuple[str, ...]:
    size = "any" if model.size_px is None else str(model.size_px)
    bands = "embeddings" if model.takes_space else "any" if model.any_bands else ",".join(model.bands)
    weights = str(model.weights or "--weights") if model.needs_weights else "none"
    return model.name, str(model.dim or "any"), size, bands, weights


def _table(rows: Sequence[Sequence[str]]) -> Iterator[bytes]:
    """Align all columns but the last."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield ("  ".join(map(str.ljust, row, widths)).rstrip() + "\n").encode()
