"""Tiles of one scene as pixels: where each is among the others, and a GeoTIFF of one number per tile."""

from __future__ import annotations

import math
import re
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from rsr_cli.core.errors import RasterError, shown
from rsr_cli.core.forms import SIMILARITY_MAP
from rsr_cli.core.records.fields import id_of, scene_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Record

#: Largest raster: 1 GiB of float32.
MAX_PIXELS = 1 << 28
#: Windows at every stride are not nearer to each other than this share of their size; those that are lie anywhere.
LEAST_STEP = 1 / 32
#: A tile may miss a whole pixel of its scene by this share, as its corner is rounded to a double.
ROUNDING_PX = 1e-3
#: Scenes are no larger.
MAX_OFFSET_PX = 1 << 40
#: The strips of a GeoTIFF are so few that its tags stand in its first bytes.
MAX_STRIPS = 128
# What GDAL takes for the name of a CRS and nothing else: of other texts it opens files and URLs.
_CODE, _WKT2 = re.compile(r"(\w+):(\w+)"), re.compile(r"[A-Z]+\[.*\]", re.DOTALL)


class _Sheet(NamedTuple):
    """What all tiles of a lattice have in common."""

    scene: tuple[str | None, str]
    crs: str | None
    #: Of the geotransform, without the corner: a, b, d, e.
    pixel: tuple[float, float, float, float]
    #: Width and height in pixels.
    size: tuple[int, int]


class Lattice:
    """Collects where the tiles of one scene are.

    A tile is a pixel. The step between pixels is the one at which the tiles were cut: the greatest common divisor of
    their offsets, of columns and of rows, without the last one, which may have been moved inside at the scene's edge;
    or the size of the tile, if that divides it, so that tiles that are far apart stay as large as they are. A pixel is
    as large as the step, around the tile's centre: the tile itself where tiles neither overlap nor leave gaps. The last
    tiles stand where they would be if they had not been moved.
    """

    def __init__(self) -> None:
        self._first: tuple[str, _Sheet] | None = None
        self._names: list[str] = []
        self._corners = array("d")

    def __len__(self) -> int:
        return len(self._names)

    def add(self, tile: Record) -> None:
        """Add a tile.

        Raises
        ------
        RasterError
            It does not state its place on a map, or is not of the scene, the map, the pixels and the size of the first.
        """
        name = id_of(tile)
        sheet, corner = _placed(tile)
        if self._first is None:
            self._first = name, sheet
        first, others = self._first
        if sheet != others:
            for what, mine, other in (
                ("scene", sheet.scene[1], others.scene[1]),
                ("collection", sheet.scene[0], others.scene[0]),
                ("map", sheet.crs, others.crs),
                ("pixels", sheet.pixel, others.pixel),
                ("size in pixels", sheet.size, others.size),
            ):
                if mine != other:
                    raise RasterError(
                        f"{name!r} is not of the {what} of {first!r}: {shown(mine)}, not {shown(other)}",
                        remedy="footprints",
                    )
        self._names.append(name)
        self._corners.extend(corner)

    def step_share(self) -> float:
        """Return the step as a share of the tiles' size, of their longer direction: 1 if they do not overlap.

        Raises
        ------
        RasterError
            The tiles are not at every stride of their scene, or too far apart.
        """
        (step, size), _, _ = self._laid()
        return float(min(1.0, (step / size).max()))

    def _laid(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Affine]:
        """Return step and size (2, 2) in pixels of the scene, cells (n, 2), and the geotransform of their first corner.

        Sizes and cells are columns and rows, cells from 0.
        """
        assert self._first is not None
        first, sheet = self._first
        a, b, d, e = sheet.pixel
        corners = np.frombuffer(self._corners).reshape(-1, 2)
        x, y = (corners - corners[0]).T
        with np.errstate(over="ignore", invalid="ignore"):
            offsets = np.stack([e * x - b * y, a * y - d * x], axis=1) / (a * e - b * d)
            near = (np.abs(offsets - np.rint(offsets)) <= ROUNDING_PX) & (np.abs(offsets) < MAX_OFFSET_PX)
        if not near.all():
            other = self._names[(~near).any(axis=1).argmax()]
            what = f"{other!r} is not a whole number of pixels away from {first!r}"
            raise RasterError(what, remedy="footprints")
        columns, rows = np.rint(offsets).astype(np.int64).T
        column, row = columns.min(), rows.min()
        width, height = sheet.size
        step = np.array([_step(np.unique(columns - column), width), _step(np.unique(rows - row), height)])
        cells = -(-np.stack([columns - column, rows - row], axis=1) // step)
        if (step < LEAST_STEP * np.array(sheet.size)).any() or math.prod((cells.max(axis=0) + 1).tolist()) > MAX_PIXELS:
            what = "the tiles of {} are not evenly spaced: their offsets are multiples of {} and {} pixels"
            raise RasterError(what.format(sheet.scene[1], *step), remedy="footprints")
        corner = Affine(a, b, corners[0, 0], d, e, corners[0, 1]) @ (column, row)
        return np.array([step, sheet.size]), cells, Affine(a, b, corner[0], d, e, corner[1])

    def geotiff(self, values: NDArray[np.float32], what: str) -> tuple[bytes, int]:
        """Write a number per tile as a GeoTIFF in the scene's map, NaN where there is no tile.

        Parameters
        ----------
        values : numpy.ndarray
            float32 (n,), in the order in which the tiles were added.
        what : str
            Description of the numbers.

        Returns
        -------
        bytes
            The file.
        int
            Number of pixels without a tile.

        Raises
        ------
        RasterError
            As of `step_share`, or two tiles are in one place, or the map is not known.
        """
        assert self._first is not None
        (step, size), cells, transform = self._laid()
        columns, rows = (cells.max(axis=0) + 1).tolist()
        numbers = cells[:, 1] * columns + cells[:, 0]
        order = np.argsort(numbers, kind="stable")
        same = np.flatnonzero(np.diff(numbers[order]) == 0)
        if len(same):
            one, other = (self._names[order[i]] for i in (same[0], same[0] + 1))
            raise RasterError(f"{one!r} and {other!r} are in the same place of the scene", remedy="footprints")
        pixels = np.full(rows * columns, np.nan, np.float32)
        pixels[numbers] = values
        pixel = transform @ Affine.translation(*((size - step) / 2)) @ Affine.scale(*step)
        with rasterio.Env(), rasterio.MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                count=1,
                height=rows,
                width=columns,
                dtype="float32",
                crs=_crs_of(self._first[1].crs),
                transform=pixel,
                nodata=np.nan,
                compress="deflate",
                blockysize=-(-rows // MAX_STRIPS),
            ) as raster:
                raster.update_tags(TIFFTAG_IMAGEDESCRIPTION=SIMILARITY_MAP)
                raster.set_band_description(1, what)
                raster.write(pixels.reshape(rows, columns), 1)
            return bytes(memory.getbuffer()), rows * columns - len(self)


def _placed(tile: Record) -> tuple[_Sheet, tuple[float, float]]:
    """Return what a tile has in common with the others of its lattice, and its upper left corner on the map."""
    properties = tile["properties"]
    transform, shape = properties.get("proj:transform"), properties.get("proj:shape")
    if transform is None or shape is None:
        missing = "proj:transform" if transform is None else "proj:shape"
        raise RasterError(f"does not state its place on a map ({missing})", remedy="footprints")
    try:
        a, b, left, d, e, top = map(float, transform[:6])
        height, width = shape
        usable = np.isfinite([a * e - b * d, left, top]).all() and a * e - b * d != 0
        usable &= type(width) is type(height) is int and 0 < min(width, height) <= max(width, height) < MAX_OFFSET_PX
    except (TypeError, ValueError, OverflowError):
        usable = False
    if not usable:
        stated = f"proj:transform {shown(transform)} and proj:shape {shown(shape)}"
        raise RasterError(f"states a place that is none: {stated}")
    crs = properties.get("proj:code") or properties.get("proj:wkt2")
    return _Sheet(scene_of(tile), crs, (a, b, d, e), (width, height)), (left, top)


def _crs_of(text: Any) -> CRS | None:
    """Return the CRS that a record states by a code or WKT2.

    Raises
    ------
    RasterError
        It is not known.
    """
    if text is None:
        return None
    try:
        code = _CODE.fullmatch(text)
        if code:
            return CRS.from_authority(*code.groups())
        if _WKT2.fullmatch(text):
            return CRS.from_wkt(text)
    except (CRSError, TypeError):
        pass
    raise RasterError(f"the map of its tiles is not known: {shown(text)}")


def _step(offsets: NDArray[np.int64], size: int) -> int:
    """Return the step of offsets, sorted from 0, of tiles of a size, all in pixels; see `Lattice`."""
    step = int(np.gcd.reduce(offsets[:-1])) if len(offsets) > 2 else int(offsets[-1])
    return step if step % size else size
