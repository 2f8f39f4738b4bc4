"""``rsr show``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.errors import UsageError
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import streams
from rsr_cli.core.records.space import KINDS
from rsr_cli.core.sensors.base import check_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch

log = logging.getLogger("rsr")

#: The options that only one of the two figures knows, and their defaults.
OF_HITS = {"queries": None, "rows": 10, "k": 10, "bands": ("red", "green", "blue"), "stretch": (2.0, 98.0)}
OF_TSNE = {"sample": 1000, "seed": 0}  # the paper's sample


@click.command()
@options.inputs
@click.option("-o", "--output", required=True, type=click.Path(), metavar="FILE", help="A .png, .pdf or .html.")
@options.overwrite
@click.option("--queries", type=click.Path(), metavar="FILE", help="The queries' records, for their pictures.")
@click.option("--rows", type=click.IntRange(1, 50), help="Show the first queries.  [default: 10]")
@click.option("-k", type=click.IntRange(1, 50), help="Hits a query.  [default: 10]")
@options.bands("Three to show as red, green and blue.  [default: red,green,blue]")
@click.option(
    "--stretch",
    type=options.NameList(float),
    metavar="LOW,HIGH",
    help="Percentiles, of a band in a row, that become black and full colour.  [default: 2,98]",
)
@click.option("--tsne", is_flag=True, help="Draw embeddings or codes as points instead, by t-SNE.")
@click.option("--sample", type=click.IntRange(3), help="Of --tsne: draw at most so many records.  [default: 1000]")
@options.seed("Of --tsne: of the draw.  [default: 0]")
@options.keep_going
@options.verbosity
def show(inputs: tuple[str, ...], output: str, overwrite: bool, tsne: bool, skips: Skips, **given: Any) -> None:
    """Draw hits with their pictures, or vectors as points.

    Reads hits and draws a row a query: its picture, its labels, and its hits in frames, green where a hit has all of
    the query's labels, orange where it has some (how many of how many), red where it has none. An HTML page holds
    everything in itself, with sortable tables and maps. With --tsne, reads records with a code or an embedding.
    """
    form = Path(output).suffix.lower().removeprefix(".")
    if form not in ("png", "pdf", *(() if tsne else ("html",))):
        raise UsageError(
            f"{output!r} does not end in .png or .pdf{'' if tsne else ' or .html'}; the ending is the format"
        )
    unfit = [name for name in (OF_HITS if tsne else OF_TSNE) if given[name] is not None]
    if unfit:
        flags = ", ".join(f"-{name}" if len(name) == 1 else f"--{name}" for name in unfit)
        raise UsageError(f"{flags} does not go with --tsne" if tsne else f"{flags} needs --tsne")
    chosen = {**OF_HITS, **OF_TSNE, **{name: value for name, value in given.items() if value is not None}}
    bands, stretch = check_names(chosen["bands"]), chosen["stretch"]
    if len(bands) != 3:
        raise UsageError("--bands names three bands, for red, green and blue")
    if len(stretch) != 2 or not 0 <= stretch[0] < stretch[1] <= 100:
        raise UsageError("--stretch is two percentiles from 0 to 100, the lower one first")
    with files.Output(output, overwrite=overwrite) as out, Progress("records") as progress:
        batches = _counted(streams.read(inputs, skips, KINDS if tsne else ()), progress)
        if tsne:
            from rsr_cli.core.figures.plots import draw_points
            from rsr_cli.core.figures.projection import project

            out.write([draw_points(project(batches, chosen["sample"], chosen["seed"], skips), form)])
            return
        from rsr_cli.core.figures.gallery import Gallery
        from rsr_cli.core.figures.page import write_page
        from rsr_cli.core.figures.plots import draw_rows

        gallery = Gallery(chosen["rows"], chosen["k"], skips)
        for batch in batches:
            gallery.add(batch)
        if chosen["queries"] and (missing := gallery.read_queries(chosen["queries"])):
            log.warning("%d of the queries are not in %s, and have no picture", missing, chosen["queries"])
        rows = gallery.rows(bands, stretch)
        note = f"{', '.join(bands)}; percentiles {stretch[0]:g} to {stretch[1]:g} of each row"
        if form == "html":
            for text in write_page(rows, note):
                out.write([text])
        else:
            out.write([draw_rows(list(rows), form, note)])


def _counted(batches: Iterable[Batch], progress: Progress) -> Iterator[Batch]:
    for batch in batches:
        progress.update(len(batch))
        yield batch
