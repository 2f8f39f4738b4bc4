"""``rsr query``."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rsr_cli import options
from rsr_cli.core.errors import UsageError, counted
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import streams
from rsr_cli.core.records.fields import one_form

if TYPE_CHECKING:
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.tables import TableSettings
    from rsr_cli.core.search.filters import Filter

log = logging.getLogger("rsr")

DEFAULT_K = 20  # the paper's


@click.command(cls=options.RecordsCommand)
@click.argument("index", type=options.File(), metavar="INDEX")
@options.inputs
@options.output
@options.hilbert
@options.overwrite
@click.option("-k", type=click.IntRange(1), help="Maximum number of hits per query.  [default: 20; with --radius, all]")
@click.option("--radius", type=float, help="Return only hits within this distance.")
@options.exclude_self
@click.option(
    "--id",
    "ids",
    envvar="RSR_QUERY_ID",
    multiple=True,
    metavar="ID",
    help="Query with this item of the index. Can be repeated.",
)
@options.filters
@options.table
@options.keep_going
@options.verbosity
def query(
    index: str,
    inputs: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    hilbert: bool,
    k: int | None,
    radius: float | None,
    exclude_self: bool,
    ids: tuple[str, ...],
    wanted: Filter,
    settings: TableSettings,
    skips: Skips,
) -> None:
    """Find the nearest items in an index.

    Reads records with a code or an embedding and writes the hits of each, nearest first: the found records with
    query, rank, distance and query_labels. If the index contains codes, embeddings are binarized as its codes were.
    Hits at the same distance are in the order of the index. Filters are exact: hits are the nearest of the items
    that all filters keep.
    """
    if ids and inputs:
        raise UsageError("pass either --id or INPUT, not both")
    if radius is not None and math.isnan(radius):
        raise UsageError("--radius is not a number")
    ids = tuple(dict.fromkeys(map(one_form, ids)))
    skips.instead["embed"] = "as-index", {"index": index}
    from rsr_cli.core.index.reading import Index
    from rsr_cli.core.search.ask import Searcher

    with (
        Index(Path(index)) as opened,
        streams.Writer(output, skips, overwrite=overwrite, hilbert=hilbert, space=opened.manifest.space) as out,
        Progress("queries", len(ids) or None) as progress,
    ):
        kept = wanted.kept(opened.segments)
        searcher = Searcher(
            opened,
            DEFAULT_K if k is None and radius is None else k,
            radius,
            exclude_self=exclude_self,
            skips=skips,
            kept=kept,
        )
        found = (
            searcher.by_id(ids)
            if ids
            else searcher.by_record(streams.read(inputs, skips, searcher.kinds, progress, settings))
        )
        without = 0
        for hits in found:
            out.write_lines(hits)
            without += not hits
            progress.update(1)
        if without:
            why = "" if opened.manifest.count else ": the index is empty"
            if opened.manifest.count and not any(mask is None or mask.any() for mask in kept):
                why = ": the filter keeps no item of the index"
            what = f"{without} of {counted(progress.count, 'query')} {'has' if without == 1 else 'have'} no hits"
            log.warning("%s and %s left out of the output%s", what, "is" if without == 1 else "are", why)
        if exclude_self and progress.count > without and not searcher.selves:
            log.warning("--exclude-self excluded nothing: no query has the id of one of its hits")
