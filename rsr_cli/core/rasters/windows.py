"""Cutting scenes into tiles, and writing tiles as chips."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError

from rsr_cli.core.errors import OutputError, RasterError, RecordError, Skips
from rsr_cli.core.files import refuse_existing, whole_file
from rsr_cli.core.rasters.pixels import Part, parts_of, read_pixels, read_raw
from rsr_cli.core.rasters.scenes import Edge, Found, Scene, TileSettings, find_scenes, open_scene
from rsr_cli.core.sensors.base import UNUSED
from rsr_cli.core.sources.datasets import find_patches, settle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rasterio.io import DatasetWriter

    from rsr_cli.core.records.batch import Record

log = logging.getLogger("rsr")


def offsets(length: int, size: int, stride: int, edge: Edge) -> list[int]:
    """Place windows along one axis of a scene, all in pixels.

    Raises
    ------
    RasterError
        Not one window fits, and ``edge`` does not pad.
    """
    if length < size and edge != "pad":
        raise RasterError(
            f"is {length} pixels in one direction, smaller than a tile of {size}; pass --whole, a smaller --size"
            " or --edge pad"
        )
    starts = list(range(0, length - size + 1, stride))
    if edge == "drop" or (starts and starts[-1] + size == length):
        return starts
    following = starts[-1] + stride if starts else 0
    return [*starts, following if edge == "pad" else length - size] if following < length else starts


class Tiler:
    """Cuts scenes into tiles.

    Parameters
    ----------
    settings : TileSettings
        How.
    skips : Skips
        Asked about scenes and tiles that cannot be used.

    Attributes
    ----------
    dropped : int
        Tiles left out so far for want of valid pixels.
    """

    def __init__(self, settings: TileSettings, skips: Skips) -> None:
        self.settings = settle(settings)
        self.skips = skips
        self.dropped = 0
        self._names: set[int] = set()

    def tiles(self, paths: Iterable[str]) -> Iterator[list[Record]]:
        """Cut every scene among files and directories.

        Parameters
        ----------
        paths : iterable of str
            As in `find_scenes`.

        Yields
        ------
        list of dict
            Features of one row of tiles.

        Raises
        ------
        RasterError, BandError
            As in `find_scenes` and `open_scene`.
        """
        for path in paths:
            try:
                for found in self._find(path):
                    try:
                        self._claim(found)
                        yield from self._cut(open_scene(found, self.settings))
                    except RecordError as error:
                        self.skips(error)
            except RecordError as error:
                self.skips(error)

    def _find(self, path: str) -> Iterator[Found]:
        return (
            find_patches(path, self.settings, self.skips)
            if self.settings.dataset
            else find_scenes([path], self.settings)
        )

    def _claim(self, found: Found) -> None:
        """Raise RasterError where another scene has the name already."""
        name = hash(found.name)  # a set of numbers is small, even for a million scenes
        if name in self._names:
            raise RasterError(
                f"its tiles would have the ids of another scene, {found.name}; name the directory above both, rename"
                " it, or tile it on its own with --id-prefix",
                found.path,
            )
        self._names.add(name)

    def report(self) -> None:
        """Tell how many tiles were left out for want of valid pixels."""
        if self.dropped:
            log.warning("%d tiles without enough valid pixels left out; see --min-valid", self.dropped)

    def _cut(self, scene: Scene) -> Iterator[list[Record]]:
        settings = self.settings
        if settings.whole:
            width, height, columns, rows = scene.width, scene.height, [0], [0]
        else:
            width = height = settings.size_px
            try:
                columns = offsets(scene.width, width, settings.stride_px, settings.edge)
                rows = offsets(scene.height, height, settings.stride_px, settings.edge)
            except RasterError as error:
                error.place = scene.place
                raise
        measured = settings.min_valid != 0 and (scene.maskable or settings.edge == "pad")
        kept, skipped = 0, self.skips.count
        for row in rows:
            windows = [(column, row, width, height) for column in columns]
            tiles = [
                _tile(scene, window, footprint, whole=settings.whole)
                for window, footprint in zip(windows, scene.locate.footprints(windows), strict=True)
            ]
            if measured:
                tiles = [tile for tile in tiles if self._is_valid(tile, scene)]
            if settings.chips:
                tiles = [write_chip(tile, settings.chips, overwrite=settings.overwrite) for tile in tiles]
            kept += len(tiles)
            if tiles:
                yield tiles
        if not kept and self.skips.count == skipped:
            raise RasterError(
                f"not one of its {len(rows) * len(columns)} tiles has enough valid pixels; see --min-valid", scene.place
            )

    def _is_valid(self, tile: Record, scene: Scene) -> bool:
        """Measure a tile and tell whether enough of it is valid; one that cannot be read is not."""
        try:
            pixels = read_pixels(tile, [band for band in scene.bands if band != UNUSED])
        except RasterError as error:
            error.message += f" (tile {tile['id']})"
            self.skips(error)
            return False
        valid = float(np.isfinite(pixels).all(axis=0).mean())
        tile["properties"]["valid"] = round(valid, 6)
        least = self.settings.min_valid
        enough = valid > 0 if least is None else valid >= least
        self.dropped += not enough
        return enough


def _tile(scene: Scene, window: tuple[int, int, int, int], footprint: dict[str, Any], *, whole: bool) -> Record:
    column, row, width, height = window
    where = dict(scene.locate.properties)
    if scene.locate.transform is not None:
        where["proj:transform"] = list(scene.locate.transform @ Affine.translation(column, row))[:6]
    if scene.geometry and footprint["geometry"] is None:
        footprint = {"geometry": scene.geometry, "bbox": scene.geometry["coordinates"] * 2}
    return {
        "type": "Feature",
        "id": scene.name if whole else f"{scene.name}_{column}_{row}",
        **footprint,
        "properties": {**scene.properties, "window": list(window), **where, "proj:shape": [height, width]},
    }


def write_chip(tile: Record, directory: str, *, overwrite: bool = False) -> Record:
    """Write a tile's pixels, as they are, to ``directory/ID.tif``, and point the record there.

    The bands that are used are written, coarser ones on the finest grid. What the file can say of itself it says: the
    bands' names, scale and offset, invalid pixels.

    Raises
    ------
    RasterError
        The tile cannot be read.
    OutputError
        The chip cannot be written, or is there already.
    """
    properties = tile["properties"]
    names = [band for band in properties["bands"] if band != UNUSED]
    path = Path(directory, f"{tile['id']}.tif")
    refuse_existing(path, overwrite=overwrite)
    parts, shape = parts_of(tile, names)
    if path.exists() and any(path.samefile(part.path) for part in parts if Path(part.path).exists()):
        raise OutputError("is the scene itself; name another directory for chips", str(path))
    raw = read_raw(tile, names)
    nodata = _common_nodata(raw, parts)
    transform = properties.get("proj:transform")
    try:
        # In memory first: where a disk is full, libtiff has its own words on stderr.
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                count=len(names),
                height=shape[0],
                width=shape[1],
                dtype=raw.dtype,
                crs=(properties.get("proj:code") or properties.get("proj:wkt2")) if transform else None,
                transform=Affine(*transform) if transform else None,
                nodata=nodata,
                compress="deflate",
                photometric="minisblack",
            ) as chip:
                chip.write(raw.data if nodata is None else raw.filled(nodata))
                if nodata is None and np.ma.is_masked(raw):
                    chip.write_mask(~np.ma.getmaskarray(raw).any(axis=0))
                chip.descriptions = names
                if (properties["scale"], properties["offset"]) != (1, 0):
                    chip.scales = [properties["scale"] / 10000] * len(names)
                    chip.offsets = [properties["offset"] / 10000] * len(names)
                if not transform:
                    _copy_control(parts[0], chip)
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, overwrite=overwrite) as file:
                file.write(memory.getbuffer())
    except (RasterioError, OSError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
        raise OutputError(f"cannot write: {reason}", str(path)) from None
    placed = {"source": str(path), "bands": names, "window": [0, 0, shape[1], shape[0]]}
    return {**tile, "properties": {**{k: v for k, v in properties.items() if k != "nodata"}, **placed}}


def _common_nodata(raw: np.ma.MaskedArray[Any, Any], parts: Sequence[Part]) -> float | None:
    """Find the one value that marks invalid pixels in all bands; NaN where numbers have it and none is declared."""
    declared = {part.opened.dataset.nodatavals[index - 1] for part in parts for index in part.indexes}
    if len(declared) == 1 and (value := declared.pop()) is not None:
        return value
    return np.nan if raw.dtype.kind == "f" and np.ma.is_masked(raw) else None


def _copy_control(part: Part, chip: DatasetWriter) -> None:
    """Give a chip the control points or rational polynomials of its scene, counted from the chip's corner."""
    left, top = part.window[:2]
    points, crs = part.opened.dataset.gcps
    rpcs = copy.copy(part.opened.dataset.rpcs)
    if points:
        moved = [GroundControlPoint(p.row - top, p.col - left, p.x, p.y, p.z, p.id, p.info) for p in points]
        chip.gcps = moved, crs
    elif rpcs:
        rpcs.line_off -= top
        rpcs.samp_off -= left
        chip.rpcs = rpcs
