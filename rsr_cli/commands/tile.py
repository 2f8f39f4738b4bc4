"""``rsr tile``."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.errors import Skips, UsageError
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import jsonl
from rsr_cli.core.sensors.base import SENSORS, check_names, parse_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_SIZE_PX = 224  # the models'


@click.command()
@click.argument("inputs", nargs=-1, metavar="[RASTER|DIRECTORY]...", type=click.Path())
@options.output
@options.overwrite
@click.option("--size", type=click.IntRange(1), help="Height and width in pixels.  [default: 224]")
@click.option("--stride", type=click.IntRange(1), help="Step in pixels.  [default: --size]")
@click.option(
    "--edge",
    type=click.Choice(["drop", "pad", "shift"]),
    default="drop",
    show_default=True,
    help="Tiles that reach over the edge: leave them out, keep them with invalid pixels, or move them inside.",
)
@click.option("--whole", is_flag=True, help="One tile a scene, of its size.")
@click.option(
    "--min-valid",
    type=click.FloatRange(0, 1),
    help="Least share of valid pixels; 0 keeps every tile and measures none.  [default: any valid pixel]",
)
@click.option(
    "--sensor",
    type=click.Choice(sorted(SENSORS)),
    help="The product the rasters are of; of Landsat, Collection 2 Level 2.",
)
@options.bands("Names of a file's bands in order (STAC common names), - for one not used.")
@click.option(
    "--scale", type=float, help="Reflectance x 10000 = DN * scale + offset.  [default: the sensor's, else the file's]"
)
@click.option(
    "--offset", type=float, help="-1000 for Sentinel-2 baseline 04.00 and later.  [default: the sensor's, else 0]"
)
@click.option("--datetime", metavar="TIME", help="Acquisition time.  [default: from the product's name]")
@click.option("--per-band", is_flag=True, help="A directory with one file a band is one scene.")
@click.option("--labels-from-parent", is_flag=True, help="The directory above a scene names its label.")
@click.option(
    "--dataset",
    type=click.Choice(["bigearthnet", "forestnet", "folders"]),
    help="A directory is a published data set of labelled patches; folders has one a class.",
)
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Of --dataset.  [default: all of it]")
@click.option(
    "--classes", type=int, help="Of --dataset: bigearthnet 43 or 19, forestnet 12 or 4.  [default: the first]"
)
@options.seed("Of the draw of a split of folders.  [default: 0]")
@click.option("--id-prefix", default="", metavar="TEXT", help="Put before every id.")
@click.option("--chips", type=click.Path(file_okay=False), help="Write each tile as a GeoTIFF into this directory.")
@click.option("--files-from", type=click.Path(allow_dash=True), metavar="FILE", help="Read paths, one a line.")
@options.keep_going
@options.verbosity
def tile(
    inputs: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    files_from: str | None,
    datetime: str | None,
    size: int | None,
    seed: int | None,
    stride: int | None,
    bands: tuple[str, ...] | None,
    skips: Skips,
    **given: Any,
) -> None:
    """Cut rasters into tiles.

    Reads rasters, or directories of them, and writes one GeoJSON Feature a tile: where it is, which window of which
    file, which bands. No pixels are copied. The bands' names come from the file where it names them, else from
    --sensor or --bands.
    """
    if not inputs and files_from is None:
        raise UsageError("no raster is named; name files or directories, or pass --files-from")
    for flag in ("scale", "offset"):
        if not math.isfinite(given[flag] or 0):
            raise UsageError(f"--{flag} is not a finite number")
    from rsr_cli.core import rasters

    if given["dataset"] and (size or stride):
        raise UsageError("--dataset takes each patch whole; leave --size and --stride out")
    if seed is not None and not (given["dataset"] == "folders" and given["split"]):
        raise UsageError("--seed belongs to --dataset folders with --split: nothing else is drawn")
    size = size or DEFAULT_SIZE_PX
    settings = rasters.TileSettings(
        size_px=size,
        stride_px=stride or size,
        seed=seed or 0,
        datetime=parse_datetime(datetime) if datetime else None,
        bands=check_names(bands, unused=True) if bands else None,
        overwrite=overwrite,
        **given,
    )
    tiler = rasters.Tiler(settings, skips)
    with files.Output(output, overwrite=overwrite) as out, Progress("tiles") as progress:
        for tiles in tiler.tiles(chain(inputs, _listed(files_from))):
            out.write(map(jsonl.dump, tiles))
            progress.update(len(tiles))
        tiler.report()


def _listed(files_from: str | None) -> Iterator[str]:
    """Read the paths of a list, one a line."""
    if files_from is None:
        return
    for _name, _first, lines in jsonl.read_lines(files_from):
        yield from (line.rstrip(b"\r").decode(errors="surrogateescape") for line in lines if line.strip())
