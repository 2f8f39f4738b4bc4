"""``rsr show``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.errors import UsageError, counted
from rsr_cli.core.forms import FIGURES
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import streams
from rsr_cli.remedies import explain

if TYPE_CHECKING:
    from rsr_cli.core.errors import Skips

log = logging.getLogger("rsr")


@click.command(cls=options.Command)
@options.inputs
@options.figure("png", "pdf", "html")
@options.overwrite
@click.option(
    "--queries",
    type=options.File(),
    metavar="FILE",
    help="Records of the queries, to show their thumbnails and, where the hits lack them, their labels.",
)
@options.id_column
@click.option(
    "--rows", type=click.IntRange(1, 50), default=10, show_default=True, help="Show at most this many queries."
)
@click.option(
    "-k", type=click.IntRange(1, 50), default=10, show_default=True, help="Show at most this many hits per query."
)
@options.bands("Bands to display as red, green and blue, or one to display in grey.  [default: red,green,blue]")
@click.option(
    "--stretch",
    type=options.NameList(float),
    metavar="LOW,HIGH",
    default="2,98",
    show_default=True,
    help="Percentiles of each band, in all but the brightest tiles of a row, to display as black and full brightness.",
)
@options.allow_network
@options.keep_going
@options.verbosity
def show(
    inputs: tuple[str, ...],
    output: str,
    overwrite: bool,
    queries: str | None,
    id_column: str | None,
    rows: int,
    k: int,
    bands: tuple[str, ...] | None,
    stretch: tuple[float, ...],
    skips: Skips,
) -> None:
    """Draw queries and their hits as thumbnails.

    Reads hits and draws one row per query: its thumbnail, its labels, and its hits. The frame of a hit is green if it
    has all of the query's labels, orange if it has some of them, and red if it has none. Records without pixels, or
    whose files are gone, are drawn without a thumbnail, and so are those without red, green and blue unless --bands
    names others. The tiles of a row are stretched alike.

    A PNG or PDF file is one figure. An HTML file is a page that also has sortable tables and maps of the footprints,
    and that needs no other file and no network.
    """
    if bands is not None:
        options.band_names(list(dict.fromkeys(bands)))  # one may be shown in several colours
        if len(bands) not in (1, 3):
            raise UsageError("--bands must name three bands, for red, green and blue, or one, for grey")
    if len(stretch) != 2 or not 0 <= stretch[0] < stretch[1] <= 100:
        raise UsageError("--stretch must be two percentiles between 0 and 100, the lower one first")
    if id_column is not None and queries is None:
        raise UsageError("--id-column needs --queries with a table of their records")
    from rsr_cli.core.figures.gallery import RGB, Gallery
    from rsr_cli.core.records.tables import TableSettings

    form = options.figure_format(output)
    with files.Output(output, FIGURES[form], overwrite=overwrite) as out, Progress("records") as progress:
        gallery = Gallery(rows, k, skips)
        for batch in streams.read(inputs, skips, progress=progress):
            gallery.add(batch)
            progress.update(len(batch))
        if queries and (missing := gallery.read_queries(queries, TableSettings(id_column=id_column))):
            absent = f"{counted(missing, 'query')} {'is' if missing == 1 else 'are'} not in {queries}"
            log.warning("%s, so no thumbnail is drawn for %s", absent, "it" if missing == 1 else "them")
        has_pixels, agreements = gallery.has_pixels, gallery.agreements()  # of all rows, which come one by one
        shown = bands or RGB
        found = gallery.rows(bands, (stretch[0], stretch[1]))
        limits = f"stretched alike per row, percentiles {stretch[0]:g} to {stretch[1]:g}"
        note = f"Thumbnails: {', '.join(shown)}; {limits}" if gallery.shows(shown) else ""
        if form == "html":
            from rsr_cli.core.figures.page import write_page

            for text in write_page(found, note, agreements):
                out.write([text])
        else:
            from rsr_cli.core.figures.plots import draw_rows

            out.write([draw_rows(list(found), form, note)])
    for errors in filter(None, gallery.without_thumbnail.values()):
        drawn = "is drawn without a thumbnail:" if len(errors) == 1 else "are drawn without a thumbnail, such as"
        log.warning("%s %s %s", counted(len(errors), "tile"), drawn, explain(errors[0]))
    if has_pixels and queries is None:
        log.warning("queries are drawn without a thumbnail; pass --queries with the file of their records")
