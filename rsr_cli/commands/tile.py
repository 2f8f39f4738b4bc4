"""``rsr tile``."""

from __future__ import annotations

import logging
import math
import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from rsr_cli import options
from rsr_cli.core.errors import Skips, UsageError, counted
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import jsonl
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.sensors import SENSORS
from rsr_cli.core.sensors.quality import Marks
from rsr_cli.core.sources import DATASETS, Listed
from rsr_cli.core.sources.base import SPLITS
from rsr_cli.core.times import parse_datetime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rsr_cli.core.sources import Found, Source

log = logging.getLogger("rsr")

DEFAULT_SIZE_PX = 224  # the size that most models take
MAX_TILE_PX = 1 << 15
_SENSORS = ", ".join(f"{name} ({sensor.title})" for name, sensor in sorted(SENSORS.items()))
_DATASETS = ", ".join(f"{name} ({dataset.title})" for name, dataset in DATASETS.items())
_CLASSES = ", ".join(
    f"{name} {' or '.join(map(str, dataset.class_counts))}"
    for name, dataset in DATASETS.items()
    if dataset.class_counts
)
_QUALITY = ", ".join(f"{sensor.quality.band} of {name}" for name, sensor in sorted(SENSORS.items()) if sensor.quality)
_NODATA = ", ".join(
    f"{sensor.nodata:g} of {name}" for name, sensor in sorted(SENSORS.items()) if sensor.nodata is not None
)
_DRAWN = " or ".join(name for name, dataset in DATASETS.items() if dataset.draws_splits)


@click.command(cls=options.RecordsCommand)
@click.argument("inputs", nargs=-1, metavar="[RASTER|DIRECTORY|ITEMS]...", type=click.Path(allow_dash=True))
# What to read.
@click.option(
    "--files-from",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="Read more paths from this file, one per line. Relative ones are below the current directory.",
)
@options.per_band
@click.option("--labels-from-parent", is_flag=True, help="Label each scene with the name of the directory above it.")
@click.option(
    "--dataset",
    type=options.Choice(sorted(DATASETS)),
    help=f"Read directories as a dataset of labelled patches: {_DATASETS}.",
)
@click.option("--split", type=click.Choice(SPLITS), help="Split of the dataset.  [default: all]")
@click.option("--classes", type=int, help=f"Number of the dataset's classes: {_CLASSES}.  [default: the first]")
@options.seed(f"Seed for the split drawn by --dataset {_DRAWN}.  [default: 0]")
# How to read it.
@click.option("--sensor", type=options.Choice(sorted(SENSORS)), help=f"Product that the rasters are from: {_SENSORS}.")
@options.bands("Names of a file's bands in order: STAC's, your own such as vv, or - for a band that is not used.")
@options.scaling
@click.option("--datetime", metavar="TIME", help="Acquisition time.  [default: the one that the product states]")
# Which pixels are invalid.
@click.option(
    "--nodata",
    type=float,
    help="Take pixels as invalid that have this value in any band, besides what files declare."
    f"  [default: the sensor's where a band declares none, {_NODATA}]",
)
@click.option(
    "--mask-clouds",
    is_flag=True,
    help=f"Mask clouds and their shadows by the product's own classification: {_QUALITY}.",
)
@click.option("--mask-band", metavar="NAME", help="Mask by this band of the scene's file, or file of its product.")
@click.option(
    "--mask-file",
    metavar="PATTERN",
    help="Mask by the file of this name, relative to the scene's directory. In {stem}_clouds.tif, {stem} is the name of"
    " the scene's file without its ending; with --per-band, of its first band.",
)
@click.option("--mask-values", type=options.Ranges(), metavar="N,N-N", help="Numbers in the mask that are invalid.")
@click.option("--mask-bits", type=options.Ranges(), metavar="N,N-N", help="Bits in the mask that are invalid, from 0.")
# How to cut it.
@click.option(
    "--size", type=click.IntRange(1, MAX_TILE_PX), help="Height and width of a tile in pixels.  [default: 224]"
)
@click.option("--stride", type=click.IntRange(1), help="Step from one tile to the next in pixels.  [default: --size]")
@click.option(
    "--edge",
    type=click.Choice(["drop", "pad", "shift"]),
    default="drop",
    show_default=True,
    help="Leave out tiles that reach over the scene's edge, pad them with invalid pixels, or shift them inside.",
)
@click.option(
    "--grid",
    metavar="NAME:SPACING",
    help="Cut one tile per cell of a grid on the Earth, in place of windows of --size: major-tom:10km, or another"
    " spacing in km or m. Its code (grid:code) is the same for every scene and date.",
)
@click.option("--whole", is_flag=True, help="Treat each scene as one tile.")
@click.option(
    "--min-valid",
    type=click.FloatRange(0, 1),
    help="Minimum share of valid pixels; 0 keeps every tile and measures none."
    "  [default: 0.5; for whole scenes and with --edge pad, any valid pixel]",
)
# What to write.
@options.destination
@click.option("--id-prefix", default="", metavar="TEXT", help="Begin every id with this text.")
@click.option("--chips", type=click.Path(file_okay=False), help="Write each tile as a GeoTIFF to this directory.")
@options.reach
@options.keep_going
@options.verbosity
def tile(
    inputs: tuple[str, ...],
    to: options.Destination,
    files_from: str | None,
    chips: str | None,
    skips: Skips,
    **given: Any,
) -> None:
    """Cut rasters into tiles.

    Reads rasters, or directories of them, and writes one GeoJSON Feature per tile: where it is, which window of which
    file, which bands. Pixels are not copied. The names of the bands come from the file if it states them, else from
    --sensor or --bands.

    ITEMS are STAC: an Item, a collection of Items, or a catalogue that links to them, as a file, a URL, or - for stdin.
    Each Item is a scene. --bands chooses which of its bands are taken.
    """
    if not inputs and files_from is None:
        raise UsageError("no input; pass files or directories, --files-from, or - for STAC Items on stdin")
    options.check_scaling(given["sensor"], given["scale"], given["offset"])
    if not math.isfinite(given["nodata"] or 0):
        raise UsageError("--nodata is not a finite number")
    sensor = SENSORS.get(given["sensor"])
    bands = options.band_names(given["bands"], unused=True) if given["bands"] else None
    source = _source(given, bands)
    paths = [*inputs, *_listed(files_from)]
    if "-" in paths and (files_from is not None or given["per_band"] or given["dataset"] or paths.count("-") > 1):
        raise UsageError("- is STAC Items on stdin, which are read once, not a directory and not in a list")
    if files_from is not None and not given["dataset"] and not to.is_shared:
        source = Listed(source, paths)
    mask = _mask(given)
    if given["grid"] is not None:
        _check_grid_alone(given)
    from rsr_cli.core.rasters import (
        ChipWriter,
        MaskSettings,
        SceneSettings,
        Tiler,
        WindowSettings,
        parse_grid,
        scene_in_id,
    )

    scenes = SceneSettings(
        sensor=sensor,
        bands=bands,
        mask=MaskSettings(**mask) if mask else None,
        datetime=parse_datetime(given["datetime"]) if given["datetime"] else None,
        **{name: given[name] for name in ("scale", "offset", "nodata", "labels_from_parent", "id_prefix")},
    )
    size = given["size"] or DEFAULT_SIZE_PX
    whole = given["whole"] or given["dataset"] is not None
    grid = None if given["grid"] is None else parse_grid(given["grid"])
    windows = WindowSettings(size, given["stride"] or size, given["edge"], whole, grid, given["min_valid"])
    writer = ChipWriter(chips, to.overwrite, resumes=to.parts is not None) if chips else None
    tiler = Tiler(source, scenes, windows, skips, writer)
    of_tile = partial(scene_in_id, whole=whole)
    with to.opened("rsr tile", skips, scene_of=of_tile) as out, Progress("tiles") as progress:

        def cut(scenes: Iterable[Found]) -> Iterator[Batch]:
            for tiles in tiler.cut(scenes):
                yield Batch("tiles", [*range(progress.count, progress.count + len(tiles))], tiles)

        found = to.scenes_of_shard(tiler.find(_reported(paths, progress)))
        used = {"size": size, "stride": windows.stride_px, "min_valid": windows.least_valid}
        for count in out.fill(found, cut, given | used | {"chips": chips and os.path.normpath(chips)}):
            progress.update(count)
    if tiler.dropped:
        log.warning("left out %s without enough valid pixels; see --min-valid", counted(tiler.dropped, "tile"))


def _check_grid_alone(given: dict[str, Any]) -> None:
    """Check that nothing typed beside --grid decides the windows too."""
    for name in ("size", "stride", "whole", "dataset"):
        if given[name]:
            raise UsageError(f"--grid and --{name} both decide the tiles' windows; leave one out")
    if given["edge"] == "shift":
        raise UsageError("--edge shift would move tiles out of the cells of --grid; pass drop or pad")


def _mask(given: dict[str, Any]) -> dict[str, Any] | None:
    """Check the options that say where masks are, and return what `MaskSettings` takes, or None without a mask."""
    chosen = [name for name in ("mask_clouds", "mask_band", "mask_file") if given[name]]
    marks = Marks(given["mask_values"] or (), given["mask_bits"] or ())
    if len(chosen) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise UsageError(f"{names} both state what to mask by; pass one")
    if given["mask_clouds"]:
        quality = SENSORS[given["sensor"]].quality if given["sensor"] else None
        if quality is None:
            raise UsageError(f"--mask-clouds needs a --sensor with a classification: {_QUALITY}")
        if marks != Marks():
            raise UsageError("--mask-clouds has values of its own; leave --mask-values and --mask-bits out")
        return {"band": quality.band, "marks": quality.masked, "quality": quality}
    if chosen and marks == Marks():
        raise UsageError(f"--{chosen[0].replace('_', '-')} needs --mask-values or --mask-bits")
    if not chosen and marks != Marks():
        raise UsageError(f"--mask-{'values' if marks.values else 'bits'} needs --mask-band or --mask-file")
    if unknown := set(re.findall(r"\{\w*\}", given["mask_file"] or "")) - {"{stem}"}:
        raise UsageError(f"--mask-file has {min(unknown)}, but only {{stem}} stands for something")
    return {"band": given["mask_band"] or "", "file": given["mask_file"] or "", "marks": marks} if chosen else None


def _source(given: dict[str, Any], bands: tuple[str, ...] | None) -> Source:
    """Check the options that say what to read, and return where the scenes come from."""
    name, split, classes, seed = (given[key] for key in ("dataset", "split", "classes", "seed"))
    dataset = DATASETS[name] if name else None
    if seed is not None and not (dataset and dataset.draws_splits and split):
        raise UsageError(f"--seed is for --dataset {_DRAWN} with --split: nothing else is drawn")
    if given["whole"] and (given["size"] or given["stride"]):
        raise UsageError("--whole makes each scene one tile; leave --size and --stride out")
    if dataset is None:
        if split or classes is not None:
            raise UsageError("--split and --classes are for --dataset")
        return options.scenes(given["sensor"], bands, per_band=given["per_band"])
    if given["size"] or given["stride"]:
        raise UsageError("--dataset takes each patch whole; leave --size and --stride out")
    if classes is not None and classes not in dataset.class_counts:
        counts = " or ".join(map(str, dataset.class_counts))
        raise UsageError(f"{name} takes --classes {counts}" if counts else f"{name} takes no --classes")
    decided = ("sensor", "scale", "offset", "datetime") if dataset.scale is not None else ()
    for option in (*decided, "labels_from_parent", "per_band"):
        if given[option] is not None and given[option] is not False:
            raise UsageError(f"--dataset {name} decides --{option.replace('_', '-')} itself; leave it out")
    return dataset(split, classes, bands, seed or 0)


def _reported(paths: list[str], progress: Progress) -> Iterator[str]:
    """Yield all paths, and report to a progress how many there are and how many tiles came of the last one."""
    progress.expect(len(paths))
    before = 0
    for path in paths:
        yield path
        progress.read(progress.count - before, 1)
        before = progress.count


def _listed(files_from: str | None) -> Iterator[str]:
    """Read the paths in a list, one per line."""
    if files_from is None:
        return
    for block in jsonl.read_lines(files_from):
        yield from (line.rstrip(b"\r").decode(errors="surrogateescape") for line in block.lines if line.strip())
