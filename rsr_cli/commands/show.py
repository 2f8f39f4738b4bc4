"""``rsr show``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from rsr_cli.core.figures.gallery import Gallery

log = logging.getLogger("rsr")

DEFAULT_K, MOST_THUMBNAILS = 10, 50
DEFAULT_STRETCH = 2.0, 98.0


@click.command(cls=options.Command)
@options.inputs
@options.figure("png", "pdf", "html", "tif")
@options.overwrite
@click.option(
    "--queries",
    type=options.File(),
    metavar="FILE",
    help="Records of the queries, to show their thumbnails, footprints and, where the hits lack them, labels.",
)
@options.id_column
@click.option(
    "--rows", type=click.IntRange(1, 50), default=10, show_default=True, help="Show at most this many queries."
)
@click.option(
    "-k",
    type=click.IntRange(1),
    help=f"Show at most this many hits per query, without --map up to {MOST_THUMBNAILS}.  [default: {DEFAULT_K}; with"
    " --map, all]",
)
@options.bands("Bands to display as red, green and blue, or one to display in grey.  [default: red,green,blue]")
@click.option(
    "--stretch",
    type=options.NameList(float),
    metavar="LOW,HIGH",
    help="Percentiles of each band, in all but the brightest tiles of a row, to display as black and full brightness."
    "  [default: {:g},{:g}]".format(*DEFAULT_STRETCH),
)
@options.reach
@click.option(
    "--map",
    "as_map",
    envvar="RSR_SHOW_MAP",
    is_flag=True,
    help="Draw maps in place of thumbnails, as PNG or PDF; a page of HTML has both without it. To a .tif file, write"
    " the distances of the hits of one query as a raster of one pixel per tile of their scene.",
)
@click.option(
    "--bbox", cls=options.Once, type=options.Box(), help="Outline this box on maps, such as that of rsr query --bbox."
)
@click.option(
    "--within",
    cls=options.Once,
    type=options.File(),
    metavar="FILE",
    help="Outline the polygons of this GeoJSON file on maps, such as that of rsr query --within.",
)
@options.keep_going
@options.verbosity
def show(
    inputs: tuple[str, ...],
    output: str,
    overwrite: bool,
    queries: str | None,
    id_column: str | None,
    rows: int,
    k: int | None,
    bands: tuple[str, ...] | None,
    stretch: tuple[float, ...] | None,
    as_map: bool,
    bbox: tuple[float, float, float, float] | None,
    within: str | None,
    skips: Skips,
) -> None:
    """Draw queries and their hits as thumbnails or on maps.

    Reads hits and draws one row per query: its thumbnail, its labels, and its hits. The frame of a hit is green if it
    has all of the query's labels, orange if it has some of them, and red if it has none. Records without pixels, or
    whose files are gone, are drawn without a thumbnail, and so are those without red, green and blue unless --bands
    names others. The tiles of a row are stretched alike.

    A PNG or PDF file is one figure. An HTML file is a page that also has sortable tables and maps of the footprints,
    and that needs no other file and no network.

    With --map, a figure has one map per query. Up to 50 hits are outlined and numbered, areas of merged ones too; more
    are filled with colour. Where no labels are known, the colour is that of the distance. A .tif file is a raster in
    the map of the scene: float32, NaN where there is no hit.
    """
    form = options.figure_format(output)
    only = {"--queries": queries, "-k": k, "--bands": bands, "--stretch": stretch, "--bbox": bbox, "--within": within}
    _check(form, only, as_map=as_map)
    if bands is not None:
        options.band_names(list(dict.fromkeys(bands)))  # one may be shown in several colours
        if len(bands) not in (1, 3):
            raise UsageError("--bands must name three bands, for red, green and blue, or one, for grey")
    limits = stretch or DEFAULT_STRETCH
    if len(limits) != 2 or not 0 <= limits[0] < limits[1] <= 100:
        raise UsageError("--stretch must be two percentiles between 0 and 100, the lower one first")
    if id_column is not None and queries is None:
        raise UsageError("--id-column needs --queries with a table of their records")
    from rsr_cli.core.figures.gallery import Gallery
    from rsr_cli.core.figures.map import draw_maps, placed
    from rsr_cli.core.figures.similarity import SimilarityMap
    from rsr_cli.core.records.tables import TableSettings

    outlines = _outlines(bbox, within)
    with files.Output(output, FIGURES[form], overwrite=overwrite) as out, Progress("records") as progress:
        raster = SimilarityMap(skips)
        gallery = Gallery(rows, k, skips, placed) if as_map else Gallery(rows, k or DEFAULT_K, skips)
        for batch in streams.read(inputs, skips, progress=progress):
            (raster if form == "tif" else gallery).add(batch)
            progress.update(len(batch))
        if form == "tif":
            out.write([raster.geotiff()])
            return
        if queries and (missing := gallery.read_queries(queries, TableSettings(id_column=id_column))):
            absent = f"{counted(missing, 'query')} {'is' if missing == 1 else 'are'} not in {queries}"
            lacks = "footprint" if as_map else "thumbnail"
            log.warning("%s, so no %s is drawn for %s", absent, lacks, "it" if missing == 1 else "them")
        if as_map:
            out.write([draw_maps(gallery.rows(None, DEFAULT_STRETCH), form, outlines)])
            return
        has_pixels = gallery.has_pixels  # of all rows, which come one by one
        _draw(out, form, gallery, bands, (limits[0], limits[1]), outlines)
    for errors in filter(None, gallery.without_thumbnail.values()):
        drawn = "is drawn without a thumbnail:" if len(errors) == 1 else "are drawn without a thumbnail, such as"
        log.warning("%s %s %s", counted(len(errors), "tile"), drawn, explain(errors[0]))
    if has_pixels and queries is None:
        log.warning("queries are drawn without a thumbnail; pass --queries with the file of their records")


def _check(form: str, given: dict[str, Any], *, as_map: bool) -> None:
    """Check that the options are for what is drawn."""
    if form == "html" and as_map:
        raise UsageError("a page of HTML has maps: leave --map out")
    if form == "tif" and not as_map:
        raise UsageError("a .tif file is a map: pass --map")
    unfit: dict[str, tuple[str, ...]] = {
        "a page": (),
        "a raster": tuple(given),
        "maps": ("--bands", "--stretch"),
        "a figure of thumbnails": ("--bbox", "--within"),
    }
    what = {"html": "a page", "tif": "a raster"}.get(form, "maps" if as_map else "a figure of thumbnails")
    for name in unfit[what]:
        if given[name] is not None:
            raise UsageError(f"{name} is not for {what}")
    if not as_map and (given["-k"] or 0) > MOST_THUMBNAILS:
        raise UsageError(f"-k is at most {MOST_THUMBNAILS} without --map")


def _outlines(bbox: tuple[float, float, float, float] | None, within: str | None) -> dict[str, Any]:
    """Return what to outline on maps, by name."""
    from rsr_cli.core.figures.map import outline_of
    from rsr_cli.core.search.area import Area

    outlines = {} if bbox is None else {"--bbox": outline_of(bbox)}
    return outlines if within is None else outlines | {Path(within).name: Area.read(within).geometry}


def _draw(
    out: files.Output,
    form: str,
    gallery: Gallery,
    bands: tuple[str, ...] | None,
    stretch: tuple[float, float],
    outlines: dict[str, Any],
) -> None:
    """Draw a page, or a figure of thumbnails."""
    from rsr_cli.core.figures.gallery import RGB

    agreements = gallery.agreements()
    shown = bands or RGB
    found = gallery.rows(bands, stretch)
    limits = "stretched alike per row, percentiles {:g} to {:g}".format(*stretch)
    note = f"Thumbnails: {', '.join(shown)}; {limits}" if gallery.shows(shown) else ""
    if form == "html":
        from rsr_cli.core.figures.page import write_page

        for text in write_page(found, note, agreements, outlines):
            out.write([text])
    else:
        from rsr_cli.core.figures.plots import draw_rows

        out.write([draw_rows(list(found), form, note)])
