"""Cutting scenes into tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rsr_cli.core.errors import RasterError, RecordError
from rsr_cli.core.rasters.ahead import read_ahead
from rsr_cli.core.rasters.grids import MAX_LATITUDE
from rsr_cli.core.rasters.masks import cloud_cover
from rsr_cli.core.rasters.pixels import is_masked, read_quality
from rsr_cli.core.rasters.scenes import Scene, SceneSettings, open_scene
from rsr_cli.core.rasters.strips import STRIP_TILES, read_each
from rsr_cli.core.sensors.base import UNUSED
from rsr_cli.core.sources.files import absolute

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.rasters.chips import ChipWriter
    from rsr_cli.core.rasters.grids import MajorTom
    from rsr_cli.core.rasters.pixels import Pixels
    from rsr_cli.core.records.batch import Record
    from rsr_cli.core.sources import Found, Source

#: Least share of valid pixels of a tile, unless the user states one. EuroSAT's chips (rcf, 768 bits) with 50 % of their
#: pixels left found their like as well as whole ones (map@20 0.400, not 0.419), and the whole chip first in 92 of 100
#: cases; with 30 % it was 0.378 and 80, with 10 % 0.322 and 53.
MIN_VALID = 0.5
Edge = Literal["drop", "pad", "shift"]
Window = tuple[int, int, int, int]
#: A tile's window, and the code of its cell in a grid.
_Place = tuple[Window, str | None]
#: A tile and the share of its pixels that are valid, or why it cannot be read.
_Measured = tuple["Record", "float | RecordError"]


@dataclass(frozen=True)
class Around:
    """Tiles around places, of a size in pixels.

    Attributes
    ----------
    places : sequence of tuple of float
        Longitudes and latitudes in degrees.
    width_px, height_px : int
        Of each tile.
    """

    places: Sequence[tuple[float, float]]
    width_px: int
    height_px: int


@dataclass(frozen=True)
class WindowSettings:
    """How scenes are cut.

    Attributes
    ----------
    size_px, stride_px : int
        Height and width of a tile, and the step from one to the next, in pixels of the finest band used.
    edge : str
        Tiles that reach over the scene's right or lower edge: ``drop`` leaves them out, ``pad`` keeps them with
        invalid pixels outside, ``shift`` moves them inside.
    whole : bool
        Each scene is one tile.
    grid : MajorTom or None
        Each of its cells is a tile, in place of windows at every stride.
    min_valid : float or None
        Least share of valid pixels; 0 keeps every tile and measures none. None is `MIN_VALID` for tiles that are cut,
        and any valid pixel for whole scenes and where edges are padded.
    around : Around or None
        Each of its places is the centre of a tile, in place of windows at every stride.
    """

    size_px: int = 224
    stride_px: int = 224
    edge: Edge = "drop"
    whole: bool = False
    grid: MajorTom | None = None
    min_valid: float | None = None
    around: Around | None = None

    @property
    def least_valid(self) -> float | None:
        """The share of valid pixels that a tile must have; ``None`` is any."""
        return MIN_VALID if self.min_valid is None and not self.whole and self.edge != "pad" else self.min_valid


def offsets(length: int, size: int, stride: int, edge: Edge) -> list[int]:
    """Return the offsets of windows along one axis of a scene, all in pixels.

    Raises
    ------
    RasterError
        No window fits, and ``edge`` does not pad.
    """
    if length < size and edge != "pad":
        raise RasterError(f"is {length} pixels in one direction, smaller than a tile of {size}", remedy="smaller")
    starts = list(range(0, length - size + 1, stride))
    if edge == "drop" or (starts and starts[-1] + size == length):
        return starts
    following = starts[-1] + stride if starts else 0
    return [*starts, following if edge == "pad" else length - size] if following < length else starts


class Tiler:
    """Cuts scenes into tiles.

    Parameters
    ----------
    source : Source
        Finds the scenes.
    scenes : SceneSettings
        What is known about the scenes.
    windows : WindowSettings
        How they are cut.
    skips : Skips
        Asked about scenes and tiles that cannot be used.
    chips : ChipWriter, optional
        Writes each tile's pixels.

    Attributes
    ----------
    dropped : int
        Number of tiles left out because too few of their pixels are valid.
    """

    def __init__(
        self,
        source: Source,
        scenes: SceneSettings,
        windows: WindowSettings,
        skips: Skips,
        chips: ChipWriter | None = None,
    ) -> None:
        self._source = source
        self._scenes = scenes
        self._windows = windows
        self._skips = skips
        self._chips = chips
        self._names: dict[int, int] = {}
        self.dropped = 0

    def find(self, paths: Iterable[str]) -> Iterator[Found]:
        """Find every scene at the paths, which are not opened yet.

        Parameters
        ----------
        paths : iterable of str
            Files and directories, which the source searches.

        Yields
        ------
        Found
            With the name that its tiles' ids begin with, which no other scene has.

        Raises
        ------
        RasterError
            As in `Source.find`, or a scene's name is that of another one.
        """
        for path in paths:
            try:
                for found in self._source.find(path, self._skips):
                    named = replace(found, name=self._scenes.id_prefix + found.name)
                    try:
                        self._claim(named)
                    except RasterError as error:
                        self._skips(error)
                    else:
                        yield named
            except RecordError as error:
                self._skips(error)

    def cut(self, scenes: Iterable[Found]) -> Iterator[list[Record]]:
        """Cut scenes that `find` found.

        Yields
        ------
        list of dict
            Features, from left to right and from top to bottom.

        Raises
        ------
        RasterError, BandError
            As in `open_scene`.
        """
        for found in scenes:
            try:
                scene = open_scene(found, self._scenes)
                for doubt in scene.doubts:
                    doubt.message = f"{found.name} {doubt.message}"
                    self._skips.warn(doubt)
                yield from self._cut(scene)
            except RecordError as error:
                self._skips(error)

    def _claim(self, found: Found) -> None:
        """Raise RasterError if this scene or another one has the name already."""
        name, path = hash(found.name), hash(absolute(found.path))  # numbers are small, even for a million scenes
        if name not in self._names:
            self._names[name] = path
        elif self._names[name] == path:
            raise RasterError("is given twice", found.path)
        else:
            raise RasterError(
                f"its tiles would have the ids of another scene, {found.name}", found.path, remedy="id-prefix"
            )

    def _cut(self, scene: Scene) -> Iterator[list[Record]]:
        """Cut one scene."""
        settings = self._windows
        rows = self._rows_of_places(scene)
        first = list(islice(rows, STRIP_TILES + 1))
        tiles = (self._row(scene, places) for places in chain(first, rows))
        measured: Iterable[list[_Measured]]
        if settings.min_valid == 0 or not (scene.maskable or settings.edge == "pad"):
            measured = ([(tile, 1.0) for tile in row] for row in tiles)
        elif self._chips or sum(map(len, first)) <= STRIP_TILES:  # a chip is read again, of blocks decoded here
            measured = map(partial(_measure, scene), tiles)
        else:
            measured = read_ahead(tiles, partial(_measure, scene), lambda tile: tile, n_bands=len(_used(scene)))
        count, kept, skipped = 0, 0, self._skips.count
        for some in measured:
            count += len(some)
            usable = list(self._usable(some))
            kept += len(usable)
            if usable:
                yield usable
        if not kept and self._skips.count == skipped:
            what = "its only tile has too few" if count == 1 else f"none of its {count} tiles has enough"
            raise RasterError(f"{what} valid pixels", scene.place, remedy="min-valid")

    def _row(self, scene: Scene, places: Sequence[_Place]) -> list[Record]:
        """Return the records of a row of places."""
        footprints = scene.locate.footprints([window for window, _ in places])
        return [
            _tile(scene, window, code, footprint, gsd, whole=self._windows.whole)
            for (window, code), (footprint, gsd) in zip(places, footprints, strict=True)
        ]

    def _usable(self, measured: Iterable[_Measured]) -> Iterator[Record]:
        """Yield the tiles that have enough valid pixels, or their chips; skip those that cannot be read."""
        for tile, valid in measured:
            try:
                if isinstance(valid, RecordError):
                    raise valid
                if self._is_enough(valid):
                    yield self._chips.write(tile) if self._chips else tile
                else:
                    self.dropped += 1
            except RasterError as error:
                error.message += f" (tile {tile['id']})"
                self._skips(error)

    def _is_enough(self, valid: float) -> bool:
        """Return whether a share of valid pixels is enough."""
        least = self._windows.least_valid
        return valid > 0 if least is None else valid >= least

    def _rows_of_places(self, scene: Scene) -> Iterator[list[_Place]]:
        """Return the places of tiles, a row at a time, from top to bottom."""
        settings = self._windows
        if settings.whole:
            return iter([[((0, 0, scene.width, scene.height), None)]])
        if settings.grid:
            return _cells(scene, settings.grid, pad=settings.edge == "pad")
        if settings.around:
            return iter([[(window, None)] for window in _windows_around(scene, settings.around)])
        size = settings.size_px
        try:
            columns = offsets(scene.width, size, settings.stride_px, settings.edge)
            rows = offsets(scene.height, size, settings.stride_px, settings.edge)
        except RasterError as error:
            error.place = scene.place
            raise
        return ([((column, row, size, size), None) for column in columns] for row in rows)


def _windows_around(scene: Scene, around: Around) -> list[Window]:
    """Return the windows around places, each once, moved inside where they would reach over the scene's edge.

    Raises
    ------
    RasterError
        The scene has no place on a map, does not contain one of the places, or is smaller than a tile.
    """
    if not scene.locate.is_map:
        raise RasterError("has no place on a map, where a longitude and latitude are found", scene.place, remedy="warp")
    size, tile = (scene.width, scene.height), (around.width_px, around.height_px)
    if scene.width < around.width_px or scene.height < around.height_px:
        sizes = [f"{width} x {height} px" for width, height in (size, tile)]
        raise RasterError(f"is of {sizes[0]}, smaller than a tile of {sizes[1]}", scene.place)
    windows: dict[Window, None] = {}
    lons, lats = zip(*around.places, strict=True)
    centres = np.transpose(scene.locate.find(lons, lats, size)).round(6)  # on the edge is inside
    for (lon, lat), centre in zip(around.places, centres, strict=True):
        if not ((centre >= 0) & (centre <= size)).all():  # NaN off the map
            exchanged = np.ravel(scene.locate.find([lat], [lon], size))
            meant = ((exchanged >= 0) & (exchanged <= size)).all()
            hint = f", but {lat:g},{lon:g}: the longitude is first" if meant else ""
            raise RasterError(f"does not contain the place {lon:g},{lat:g}{hint}", scene.place)
        start = np.round(centre - np.divide(tile, 2)).clip(0, np.subtract(size, tile)).astype(int).tolist()
        windows[start[0], start[1], *tile] = None
    return list(windows)


def _cells(scene: Scene, grid: MajorTom, *, pad: bool) -> Iterator[list[_Place]]:
    """Yield the windows of a grid's cells: each is around the cell's centre, as wide and high as the grid's spacing.

    Only those that are whole are yielded, or with ``pad`` all of those that have a pixel of the scene.

    Raises
    ------
    RasterError
        There is none, the scene has no place, or a pixel is larger than a cell.
    """
    size = np.array((scene.width, scene.height))
    ((footprint, _),) = scene.locate.footprints([(0, 0, scene.width, scene.height)])
    if footprint["geometry"] is None or not scene.locate.is_map:
        raise RasterError("has no footprint on a map, where the cells of a grid are", scene.place, remedy="warp")
    too_coarse = RasterError(
        f"has pixels larger than the {grid.spacing_m} m of a grid's cells", scene.place, remedy="coarser-grid"
    )
    _, south, _, north = footprint["bbox"]
    if grid.count_rows(south, north) > size.sum() + 1:  # too many to look for cells in each
        raise too_coarse
    astray = "reaches over the edge of its map, where cells of a grid are not found"
    found = False
    for cells in grid.rows(footprint["geometry"]):
        if not cells:
            continue
        codes, lon, lat = zip(*cells, strict=True)
        centres = np.transpose(scene.locate.find(lon, lat, (scene.width, scene.height)))
        if not np.isfinite(centres).all():
            raise RasterError(astray, scene.place, remedy="warp")
        sizes_m = scene.locate.pixel_sizes(*centres.T)
        if (sizes_m > grid.spacing_m).any():
            raise too_coarse
        sizes = np.ceil((grid.spacing_m / sizes_m).round(6))
        starts = np.round(centres - sizes / 2)
        if (np.maximum(starts - size, -starts - sizes) > 2 * sizes).any():  # they all intersect the footprint
            raise RasterError(astray, scene.place, remedy="warp")
        kept = (starts < size) & (starts + sizes > 0) if pad else (starts >= 0) & (starts + sizes <= size)
        windows = np.concatenate([starts, sizes], axis=1)[kept.all(axis=1)].astype(int).tolist()
        names = np.array(codes)[kept.all(axis=1)].tolist()
        if windows:
            found = True
            yield sorted(zip(map(tuple, windows), names, strict=True))
    if not found and pad:
        raise RasterError(f"has no cell of the grid {grid.name}, which ends at latitude {MAX_LATITUDE}", scene.place)
    if not found:
        raise RasterError(f"has no whole cell of the grid {grid.name}", scene.place, remedy="finer-grid")


def _used(scene: Scene) -> list[str]:
    """Return the bands that count."""
    return [band for band in scene.bands if band != UNUSED]


def _measure(scene: Scene, tiles: Sequence[Record]) -> list[_Measured]:
    """Measure the valid pixels of tiles and their clouds, which go into the records."""
    unmasked = [
        {**tile, "properties": {name: value for name, value in tile["properties"].items() if name != "mask"}}
        for tile in tiles
    ]
    measured: list[_Measured] = []
    for tile, pixels in zip(tiles, read_each(unmasked, _used(scene)), strict=True):
        try:
            if isinstance(pixels, RecordError):
                raise pixels
            measured.append((tile, _valid_share(tile, scene, pixels)))
        except RecordError as error:
            measured.append((tile, error))
    return measured


def _valid_share(tile: Record, scene: Scene, pixels: Pixels) -> float:
    """Return the share of valid pixels of a tile; ``pixels`` are those without its mask."""
    properties = tile["properties"]
    usable = np.ones(pixels.numbers.shape[1:], bool) if pixels.invalid is None else ~pixels.invalid.any(axis=0)
    if "mask" in properties:
        quality = read_quality(tile)
        usable &= ~is_masked(tile, quality)
        if scene.quality and (cover := cloud_cover(quality, scene.quality)) is not None:
            properties["eo:cloud_cover"] = cover
    valid = float(usable.mean())
    properties["valid"] = round(valid, 6)
    return valid


def scene_in_id(name: str, *, whole: bool) -> str:
    """Return the name of the scene that the tile with an id was cut from, or that it is the whole of, see `_tile`."""
    return name if whole else name.rsplit("_", 2)[0]  # before its column and row, or the two parts of a grid's code


def _tile(
    scene: Scene, window: Window, code: str | None, footprint: dict[str, Any], gsd: float | None, *, whole: bool
) -> Record:
    """Return the record of a window of a scene, or of a grid's cell that has a code."""
    column, row, width, height = window
    where = dict(scene.locate.properties)
    if scene.locate.transform is not None:
        a, b, left, d, e, top = scene.locate.transform[:6]
        where["proj:transform"] = [a, b, a * column + b * row + left, d, e, d * column + e * row + top]
    where["proj:shape"] = [height, width]
    if code is not None:
        where["grid:code"] = code
    if gsd is not None:
        where["gsd"] = gsd
    if scene.geometry and footprint["geometry"] is None:
        footprint = {"geometry": scene.geometry, "bbox": scene.geometry["coordinates"] * 2}
    return {
        "type": "Feature",
        "id": scene.name if whole else f"{scene.name}_{code or f'{column}_{row}'}",
        **footprint,
        "properties": {**scene.properties, "window": list(window), **where},
    }
