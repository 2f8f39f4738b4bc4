"""``rsr query``."""

from __future__ import annotations

import logging
import math
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsr_cli import options
from rsr_cli.core.errors import RsrError, UsageError, counted
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import streams
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.fields import one_form
from rsr_cli.core.sensors import SENSORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.index.reading import Index
    from rsr_cli.core.records.tables import TableSettings
    from rsr_cli.core.search.examples import Combine
    from rsr_cli.core.search.filters import Filter
    from rsr_cli.core.search.queries import Item, Queries
    from rsr_cli.core.sources import Source

log = logging.getLogger("rsr")

DEFAULT_K = 20  # the paper's


@click.command(cls=options.RecordsCommand)
@click.argument("index", type=options.File(), metavar="INDEX")
@options.inputs
@options.output
@options.hilbert
@options.overwrite
@click.option("-k", type=click.IntRange(1), help="Maximum number of hits per query.  [default: 20; with --radius, all]")
@click.option("--radius", type=float, help="Return only hits within this distance, by --rerank if it is passed.")
@click.option(
    "--rerank",
    type=click.IntRange(1),
    metavar="N",
    help="Rank the N nearest codes of each query again: by the embeddings beside them, if the index stores these (rsr"
    " index --refine), else by weights of their bits. The query needs an embedding; hits are among the N.",
)
@click.option(
    "--symmetric",
    is_flag=True,
    help="Compare codes by Hamming distance, also with embeddings. Without it, these ask rotated codes, and those of"
    " transformed embeddings, by weights: a bit that differs counts by how far the query's value is from 0.",
)
# What to ask with, in place of INPUT.
@click.option(
    "--id",
    "ids",
    envvar="RSR_QUERY_ID",
    multiple=True,
    metavar="ID",
    help="Query with this item of the index. Can be repeated.",
)
@click.option(
    "--at",
    "places",
    envvar="RSR_QUERY_AT",
    multiple=True,
    type=options.LonLat(),
    help="Query with the item whose footprint holds this place, the one with the nearest centre. Can be repeated.",
)
@click.option(
    "--like",
    "like_ids",
    envvar="RSR_QUERY_LIKE",
    multiple=True,
    metavar="ID",
    help="Query with this item as an example. All examples are one query, and none is a hit. Can be repeated.",
)
@click.option(
    "--unlike",
    "unlike_ids",
    envvar="RSR_QUERY_UNLIKE",
    multiple=True,
    metavar="ID",
    help="Prefer what is unlike this item of the index. Can be repeated.",
)
@click.option(
    "--like-from",
    multiple=True,
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="Query with the records of this file as examples. Can be repeated.",
)
@click.option(
    "--unlike-from",
    multiple=True,
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="Prefer what is unlike the records of this file. Can be repeated.",
)
@click.option(
    "--like-within",
    multiple=True,
    type=options.File(),
    metavar="FILE",
    help="Query with all items that share area with the polygons of this GeoJSON file as examples. Can be repeated.",
)
@click.option(
    "--combine",
    type=click.Choice(["mean", "best"]),
    help="How examples make one query. mean: search for their mean, or for twice their mean less that of the --unlike"
    " ones. best: take the distance to the nearest example, and leave out items that are nearer to an --unlike one."
    "  [default: mean]",
)
# What to cut a query from.
@click.option(
    "--raster",
    type=click.Path(),
    metavar="FILE",
    help="Query with a tile of this scene around each place of --at, as large as the first item of the index in pixels,"
    " and embedded as the index was.",
)
@click.option("--sensor", type=options.Choice(sorted(SENSORS)), help="Product that --raster is from, as in rsr tile.")
@options.bands("Names of the bands of --raster in order, as in rsr tile.")
@options.per_band
@options.scaling
@click.option("--weights", type=click.Path(), metavar="FILE", help="Checkpoint to embed --raster with.")
@options.reach
# Which hits to leave out.
@options.exclude_self
@click.option("--exclude-overlap", is_flag=True, help="Leave out items whose footprints share area with the query's.")
@click.option(
    "--min-distance",
    type=options.Length(),
    help="Leave out hits whose centre is nearer than this to that of a better hit, along a great circle: 5km or 500m.",
)
@click.option(
    "--per-scene",
    type=click.IntRange(1),
    metavar="N",
    help="Return at most this many hits of one scene, which is known by the collection and the ids: SCENE_COLUMN_ROW,"
    " or SCENE_CELL.",
)
@click.option(
    "--one-per-place",
    is_flag=True,
    help="Return only the nearest of several hits of one place: of one cell of a grid, or else with footprints that"
    " share more than half of their area.",
)
@click.option(
    "--merge",
    is_flag=True,
    help="Merge hits that touch into areas: the record of the nearest one of each, with the outline and the ids of all"
    " (tiles). -k counts the hits that are merged.",
)
@options.filters("QUERY", "Return only")
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Search as many partitions of the index as find this share of the hits, as measured when it was built: 0.98."
    " Segments without partitions are searched whole, and so are codes for the mean of several examples."
    "  [default: all items are searched]",
)
@click.option(
    "--probe",
    type=click.IntRange(1),
    metavar="N",
    help="Search the N nearest partitions of each segment. Segments without partitions are searched whole, and so are"
    " codes for the mean of several examples.",
)
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
    rerank: int | None,
    symmetric: bool,
    ids: tuple[str, ...],
    places: tuple[tuple[float, float], ...],
    combine: Combine | None,
    raster: str | None,
    sensor: str | None,
    bands: tuple[str, ...] | None,
    per_band: bool,
    scale: float | None,
    offset: float | None,
    weights: str | None,
    exclude_self: bool,
    exclude_overlap: bool,
    min_distance: float | None,
    per_scene: int | None,
    one_per_place: bool,
    merge: bool,
    wanted: Filter,
    recall: float | None,
    probe: int | None,
    settings: TableSettings,
    skips: Skips,
    **examples: tuple[str, ...],
) -> None:
    """Find the nearest items in an index.

    Reads records with a code or an embedding and writes the hits of each, nearest first: the found records with
    query, rank, distance and query_labels. If the index contains codes, embeddings are binarized as its codes were, or
    ask them by weights of their bits; see --symmetric.
    Hits at the same distance are in the order of the index. Filters are exact: hits are the nearest of the items
    that all filters keep.

    Items of the index can be queries themselves, by --id or --at, or examples that together are one query: the
    options that begin with --like and --unlike.
    """
    _check(inputs, ids, places, examples, combine)
    if raster is not None and not places:
        raise UsageError("--raster needs --at, the place to cut a tile around")
    cut = {"sensor": sensor, "bands": bands, "per-band": per_band, "scale": scale, "offset": offset, "weights": weights}
    if raster is None and (given := [name for name, value in cut.items() if value is not None and value is not False]):
        raise UsageError(f"--{given[0]} is for --raster")
    options.check_scaling(sensor, scale, offset)
    if radius is not None and math.isnan(radius):
        raise UsageError("--radius is not a number")
    if recall is not None and probe is not None:
        raise UsageError("--recall chooses how many partitions are searched, as --probe does; leave one out")
    if merge and min_distance:
        raise UsageError("--merge needs hits that touch, and --min-distance leaves them out; leave one out")
    if ids or places or (any(examples.values()) and not (examples["like_from"] or examples["unlike_from"])):
        options.refuse_typed("is for records that are read", *options.TABLE)
    k = DEFAULT_K if k is None and radius is None else k
    if rerank and k and rerank < k:
        raise UsageError(f"--rerank {rerank} leaves fewer hits than -k {k} asks for; pass --rerank {k} or more")
    ids = tuple(dict.fromkeys(map(one_form, ids)))
    unliked = bool(examples["unlike_ids"] or examples["unlike_from"])
    skips.instead["embed"] = "as-index", {"index": index}
    from rsr_cli.core.index.reading import Index
    from rsr_cli.core.search.ask import Searcher
    from rsr_cli.core.search.diversity import Diversity
    from rsr_cli.core.search.scope import Scope

    with (
        Index(Path(index)) as opened,
        streams.Writer(output, skips, overwrite=overwrite, hilbert=hilbert, space=opened.manifest.space) as out,
        Progress("queries", len(ids) or len(places) or (1 if any(examples.values()) else None)) as progress,
    ):
        selection = wanted.select(opened.segments)
        searcher = Searcher(
            Scope(opened, radius, selection.kept, probe, recall, rerank, below_zero=unliked and combine != "best"),
            k,
            exclude_self=exclude_self,
            skips=skips,
            exclude_overlap=exclude_overlap,
            diversity=Diversity(min_distance, per_scene, one_per_place),
            merge=merge,
            symmetric=symmetric,
        )
        queries = searcher.queries
        if raster is not None:
            names = options.band_names(bands, unused=True) if bands else None
            source = options.scenes(sensor, names, per_band=per_band)
            stated = {"sensor": SENSORS.get(sensor or ""), "bands": names, "scale": scale, "offset": offset}
            found = searcher.by_record(_cut(opened, raster, source, stated, places, weights, skips))
        elif ids or places:
            found = searcher.by_item(queries.ids(ids) if ids else queries.at(places))
        elif any(examples.values()):
            likes, unlikes = _examples(queries, examples, skips, settings)
            found = searcher.by_examples(likes, unlikes, combine or "mean")
        else:
            found = searcher.by_record(streams.read(inputs, skips, queries.kinds, progress, settings))
        without = 0
        for hits in found:
            out.write_lines(hits)
            without += not hits
            progress.update(1)
        if without:
            why = "" if selection.any else ": no item of the index matches the filters"
            if not opened.manifest.count:
                why = ": the index is empty"
            what = f"{without} of {counted(progress.count, 'query')} {'has' if without == 1 else 'have'} no hits"
            log.warning("%s and %s left out of the output%s", what, "is" if without == 1 else "are", why)
        if exclude_self and progress.count > without and not searcher.selves:
            log.warning("--exclude-self excluded nothing: no query has the id of an item of the index")


def _cut(
    index: Index,
    raster: str,
    source: Source,
    stated: dict[str, Any],
    places: tuple[tuple[float, float], ...],
    weights: str | None,
    skips: Skips,
) -> Iterator[Batch]:
    """Cut tiles around places from a scene, of which a user states something, and embed them as an index was made."""
    from rsr_cli.core.encoders import registry
    from rsr_cli.core.encoders.base import RunSettings
    from rsr_cli.core.rasters import Around, SceneSettings, Tiler, WindowSettings
    from rsr_cli.core.search.queries import Queries

    space = index.manifest.space
    if space is None:
        raise RsrError("is empty, so it does not state how to embed", str(index.path))
    space = space.of_model()
    around = Around(places, *Queries(index, skips).size_px())
    skips.instead["min-valid"] = "valid-place", {}
    tiler = Tiler(source, SceneSettings(**stated), WindowSettings(around=around), skips)
    tiles = [tile for row in tiler.cut(tiler.find([raster])) for tile in row]
    encoder = registry.load_as(space, weights, str(index.path))
    usual, filled = space.facts.get("precision", "fp32"), space.facts.get("filled", ())
    embedder = encoder.embedder(skips, RunSettings(usual_precision=usual, filled=filled))
    return embedder.embed([Batch(raster, range(1, len(tiles) + 1), tiles)] if tiles else [])


def _check(
    inputs: tuple[str, ...],
    ids: tuple[str, ...],
    places: tuple[tuple[float, float], ...],
    examples: dict[str, tuple[str, ...]],
    combine: str | None,
) -> None:
    """Check that only one way to ask is chosen, and that examples can be one query."""
    liked = [name for name in ("like_ids", "like_from", "like_within") if examples[name]]
    unliked = [name for name in ("unlike_ids", "unlike_from") if examples[name]]
    ways = {"--id": ids, "--at": places, _flag([*liked, *unliked]): [*liked, *unliked], "INPUT": inputs}
    chosen = [name for name, given in ways.items() if given]
    if unliked and (ids or places):
        raise UsageError(
            f"{_flag(unliked)} is for examples: pass --like ID or --like-from FILE in place of {chosen[0]}"
        )
    if len(chosen) > 1:
        raise UsageError(f"pass either {chosen[0]} or {chosen[1]}, not both")
    if unliked and not liked:
        raise UsageError(
            f"{_flag(unliked)} needs an example of what hits are like: --like, --like-from or --like-within"
        )
    if combine and not liked:
        raise UsageError("--combine is for examples: --like, --like-from or --like-within")
    if both := {*map(one_form, examples["like_ids"])} & {*map(one_form, examples["unlike_ids"])}:
        raise UsageError(f"{min(both)!r} is both --like and --unlike")
    if [*examples["like_from"], *examples["unlike_from"]].count("-") > 1:
        raise UsageError("stdin is read once: pass - to one of --like-from and --unlike-from")


def _flag(names: list[str]) -> str:
    """Return the option of the first of some parameters."""
    return f"--{names[0].removesuffix('_ids').replace('_', '-')}" if names else ""


def _examples(
    queries: Queries, examples: dict[str, tuple[str, ...]], skips: Skips, settings: TableSettings
) -> list[Iterator[Item]]:
    """Return the examples that hits are to be like, and those that they are to be unlike."""
    from rsr_cli.core.search.area import Area

    sides: list[Iterator[Item]] = []
    for side in ("like", "unlike"):
        names = dict.fromkeys(map(one_form, examples[f"{side}_ids"]))
        files = examples[f"{side}_from"]
        records = streams.read(files, skips, queries.kinds, settings=settings) if files else ()
        within = [queries.within(Area.read(path).geometry, path) for path in examples.get(f"{side}_within", ())]
        sides.append(chain(queries.ids([*names]), queries.records(records), *within))
    return sides
