"""``rsr binarize``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsr_cli import options
from rsr_cli.core.codes.registry import DEFAULT_METHOD, METHODS, default_method
from rsr_cli.core.errors import UsageError
from rsr_cli.core.fitted.registry import FIT_METHODS
from rsr_cli.core.progress import Progress

if TYPE_CHECKING:
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.space import Space
    from rsr_cli.core.records.tables import TableSettings

_NEED_BITS = " and ".join(name for name, method in METHODS.items() if method.needs_bits)
_SEEDS = ", ".join(
    f"{method.default_seed} for {name}" for name, method in METHODS.items() if method.default_seed is not None
)

_OTHERS = ", ".join(
    f"{code} for {' and '.join(name for name, method in FIT_METHODS.items() if method.code == code)}"
    for code in dict.fromkeys(method.code for method in FIT_METHODS.values())
    if code != DEFAULT_METHOD
)


@click.command(cls=options.RecordsCommand)
@options.inputs
@options.destination
@options.allow_missing
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    help=". ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
    + f".  [default: {DEFAULT_METHOD}; of what rsr fit learned, {_OTHERS}]",
)
@click.option(
    "--bits",
    type=click.IntRange(1, 1 << 20),
    help=f"Bits per code; required for {_NEED_BITS}.  [default: the method's]",
)
@options.seed(f"Seed for methods that draw random numbers.  [default: {_SEEDS}]")
@options.fitted("BINARIZE", "What rsr fit wrote: transform the embeddings by it first, or make its codes.")
@click.option(
    "--keep-embedding",
    is_flag=True,
    help="Keep the embedding beside the code, as it is transformed, for rsr index --refine.",
)
@options.table
@options.keep_going
@options.verbosity
def binarize(
    inputs: tuple[str, ...],
    to: options.Destination,
    allow_missing: bool,
    method: str | None,
    bits: int | None,
    seed: int | None,
    fitted: str | None,
    keep_embedding: bool,
    settings: TableSettings,
    skips: Skips,
) -> None:
    """Turn embeddings into binary codes.

    Reads records with an embedding and writes them with a code in its place, or beside it. A code is written in base64:
    its bits packed into bytes, most significant bit first.
    """
    from rsr_cli.core.codes.base import binarize

    transform = learned = None
    if fitted is not None:
        from rsr_cli.core.fitted.state import Fitted
        from rsr_cli.core.fitted.transform import Transform

        learned = Fitted.read(Path(fitted))
        known = FIT_METHODS[learned.method]
        if known.is_code and method not in (None, known.code):
            raise UsageError(f"--with {fitted} is for --method {known.code}")
        method = method or known.code
        if not known.is_code:
            transform, learned = Transform(learned), None
    make = partial(binarize, method=method, bits=bits, seed=seed, keep_embedding=keep_embedding)

    def chosen(method: str) -> dict[str, Any]:
        """Return what parts state of a method."""
        return {"method": method, "seed": METHODS[method].seed(seed)}

    def by_default(space: Space) -> dict[str, Any]:
        return chosen(default_method(space.facts))

    with to.opened("rsr binarize", skips) as out, Progress("records") as progress:
        embeddings = to.embeddings(inputs, skips, progress, settings, allow_missing=allow_missing)
        made_with: dict[str, Any] = chosen(method) if method else {}
        made_with |= {"bits": bits, "keep_embedding": keep_embedding}
        made_with |= {"vector_column": settings.vector_column, "id_column": settings.id_column}
        made_with |= {"transform": transform and transform.fitted.digest, "fit": learned and learned.digest}
        make.keywords.update(transform=transform, fitted=learned)
        for count in out.fill(embeddings, make, made_with, None if method else by_default):
            progress.update(count)
