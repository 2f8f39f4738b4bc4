"""From pixels to the ground without a geotransform: by ground control points or rational polynomials."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import GCPTransformer, RPCTransformer

from rsr_cli.core.errors import RasterError
from rsr_cli.core.records.geometry import BEYOND_MAPS, transform_points

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Place = Callable[[Numbers, Numbers], tuple[Any, Any]]

log = logging.getLogger("rsr")

GEO_ERRORS = (RasterioError, rasterio.errors.CRSError, CPLE_BaseError)
#: A polynomial that misses a control point by more pixels than this is replaced by thin plate splines.
MAX_MISS_PX = 1
#: Splines take time with the cube of their points: a second for this many.
MAX_SPLINE_POINTS = 1000
#: Points this close to a line, as a share of its length, do not determine an image's place.
THIN = 1e-6
#: A pole is near if it is closer to the middle of the points than this many times the farthest point.
POLE_RADII = 4
RPC_TOLERANCE_PX = 0.01


@dataclass(frozen=True)
class Placement:
    """What places the pixels of a raster.

    Attributes
    ----------
    crs : CRS
        The coordinate system of the places.
    place : callable
        From columns and rows, counted from the raster's corner, to x and y; each float64 (n,).
    """

    crs: CRS
    place: Place


@cache
def lonlat_crs() -> CRS:
    """Return the coordinate system of footprints, which PROJ reads from its tables.

    Raises
    ------
    RasterError
        PROJ has no such tables, or those of another version: all footprints would be missing.
    """
    try:
        return CRS.from_epsg(4326)
    except rasterio.errors.CRSError as error:
        raise RasterError(f"PROJ cannot read its tables: {error}", remedy="proj-data") from None


def by_rpcs(rpcs: Any) -> Placement:
    """Place pixels by rational polynomials, at the scene's mean height.

    At sea level, mountains would be a kilometre off. Pixels without a solution are placed at infinity.
    """

    def place(columns: Numbers, rows: Numbers) -> tuple[Any, Any]:
        options = {"RPC_HEIGHT": rpcs.height_off, "RPC_PIXEL_ERROR_THRESHOLD": RPC_TOLERANCE_PX}
        with rasterio.Env(), RPCTransformer(rpcs, **options) as transformer:
            return transformer.xy(rows, columns, offset="ul")

    return Placement(lonlat_crs(), place)


def by_points(points: Sequence[GroundControlPoint], crs: CRS | None) -> Placement | None:
    """Place pixels by ground control points, as GDAL does, also across the antimeridian and near a pole.

    Two points place a north-up image, up to five an affine one, more a second-order polynomial. Where it misses a point
    by more than a pixel, thin plate splines go through all of them.

    Returns
    -------
    Placement or None
        None if the points do not determine where the image is, as a single one or several in a line.
    """
    pixels = np.array([(point.col, point.row) for point in points], dtype=float).reshape(-1, 2)
    places = np.array([(point.x, point.y) for point in points], dtype=float).reshape(-1, 2)
    if len(points) == 2:
        pixels, places = _rectangle(pixels), _rectangle(places)
    if not crs or not (np.abs([pixels, places]) < BEYOND_MAPS).all() or _is_thin(pixels):
        log.info("no footprints: the control points do not determine a place (%d)", len(points))
        return None
    try:
        best = _read(pixels, places, crs)
    except (*GEO_ERRORS, np.linalg.LinAlgError) as error:
        log.info("no footprints: %s", error)
        return None
    if not best.stretch < 1 / THIN:
        log.info("no footprints: the control points are one place")
        return None
    return Placement(best.crs, best.polynomial if best.miss_px <= MAX_MISS_PX else best.spline())


def _rectangle(ends: Numbers) -> Numbers:
    """Return the corners of an upright rectangle from two opposite ones."""
    (left, top), (right, bottom) = ends
    return np.array([(left, top), (right, bottom), (left, bottom), (right, top)])


def _is_thin(pixels: Numbers) -> bool:
    """Return whether points (n, 2) are in a line, or one point."""
    if len(pixels) < 3:
        return True
    sides = np.linalg.svd(pixels - pixels.mean(axis=0), compute_uv=False)
    return bool(sides[1] <= sides[0] * THIN)


def _read(pixels: Numbers, places: Numbers, crs: CRS) -> _Reading:
    """Return the best way to read points (n, 2).

    - As they are.
    - As lon/lat about their middle, if they cover more than half of all longitudes and that fits better: they wrapped.
    - If nothing else fits to a pixel and their CRS is geographic, in metres on a map about their middle: near a pole,
      where meridians converge, if that fits better; elsewhere if that fits to a pixel, as four corners far apart may.
    """
    readings = [_Reading(pixels, places, crs)]
    lon, lat = np.array(transform_points(crs, lonlat_crs(), *places.T))
    east, north = np.radians(lon), np.radians(lat)
    globe = np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1)
    middle = globe.mean(axis=0)
    x, y, z = middle / (np.linalg.norm(middle) or 1)
    middle_lon, middle_lat = math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))
    if np.ptp(lon) > 180:
        around = np.stack([middle_lon + (lon - middle_lon + 180) % 360 - 180, lat], axis=-1)
        readings.append(_Reading(pixels, around, lonlat_crs()))
    best = min(readings, key=_Reading.rank)
    may_fit_by_chance = len(pixels) <= 6
    if not crs.is_geographic or (best.miss_px <= MAX_MISS_PX and not may_fit_by_chance):
        return best
    plane = CRS.from_string(f"+proj=aeqd +lat_0={middle_lat!r} +lon_0={middle_lon!r} +datum=WGS84 +units=m")
    flat = _Reading(pixels, np.transpose(transform_points(lonlat_crs(), plane, lon, lat.clip(-90, 90))), plane)
    radius = math.degrees(math.acos(np.clip(globe @ (x, y, z), -1, 1).min()))
    near_pole = 90 - abs(middle_lat) < POLE_RADII * radius
    if best.miss_px <= MAX_MISS_PX:
        return flat if near_pole and flat.miss_px <= MAX_MISS_PX and flat.stretch < best.stretch / 2 else best
    return flat if flat.miss_px < (best.miss_px if near_pole else MAX_MISS_PX) else best


class _Reading:
    """Control points in a CRS, and the polynomial through them.

    Attributes
    ----------
    crs : CRS
        Of the points.
    polynomial : callable
        As `Placement.place`.
    miss_px : float
        Distance in pixels from the polynomial to the point that it misses most.
    stretch : float
        The longer side of a pixel on the ground over the shorter one; infinite if all points are in a line there.
    """

    def __init__(self, pixels: Numbers, places: Numbers, crs: CRS) -> None:
        if not (np.abs([pixels, places]) < BEYOND_MAPS).all():
            raise np.linalg.LinAlgError("the control points are beyond any map")  # before LAPACK writes to stderr
        self.crs = crs
        self._pixels, self._places = pixels, places
        centre = pixels.mean(axis=0)
        middle = places.mean(axis=0)
        sides = np.linalg.lstsq(pixels - centre, places - middle)[0].T  # of a pixel: x and y per column and row
        try:
            self.polynomial = _gdal(pixels, places)
        except CPLE_BaseError:  # points in two rows do not determine a second-order polynomial
            self.polynomial = lambda columns, rows: tuple(
                middle[:, None] + sides @ np.stack([columns - centre[0], rows - centre[1]])
            )
        scale = math.cos(middle[1] * crs.units_factor[1]) if crs.is_geographic else 1.0
        longer, shorter = np.linalg.svd(sides * [[scale], [1]], compute_uv=False)
        self.stretch = longer / shorter if shorter > longer * THIN else math.inf
        self.miss_px = math.inf
        if math.isfinite(self.stretch):
            apart = np.stack(self.polynomial(*pixels.T)) - places.T
            self.miss_px = float(np.nan_to_num(np.hypot(*np.linalg.solve(sides, apart)), nan=np.inf).max())

    def rank(self) -> tuple[float, float]:
        """Return a key that sorts by fit, and readings that all fit to a pixel by the shape of their pixels."""
        return max(self.miss_px, MAX_MISS_PX), self.stretch

    def spline(self) -> Place:
        """Return thin plate splines through the points, or evenly through some of them if there are many."""
        left_top, size = self._pixels.min(axis=0), np.ptp(self._pixels, axis=0)
        cells = np.floor((self._pixels - left_top) / size * (math.isqrt(MAX_SPLINE_POINTS) - 1))
        several = len(cells) > MAX_SPLINE_POINTS
        chosen = np.unique(cells, axis=0, return_index=True)[1] if several else np.arange(len(cells))
        place = _gdal(self._pixels[chosen], self._places[chosen], tps=True)
        # where two points disagree about a pixel there are no splines
        return place if np.isfinite(place(*self._pixels[:1].T)).all() else self.polynomial


def _gdal(pixels: Numbers, places: Numbers, *, tps: bool = False) -> Place:
    points = [GroundControlPoint(*pixel[::-1], *place) for pixel, place in zip(pixels, places, strict=True)]
    with rasterio.Env():  # which keeps GDAL from writing to stderr
        transformer = GCPTransformer(points, tps=tps)

    def place(columns: Numbers, rows: Numbers) -> tuple[Any, Any]:
        with rasterio.Env():
            return transformer.xy(rows, columns, offset="ul")

    return place
