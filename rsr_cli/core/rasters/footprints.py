"""From pixels to the ground: the outlines of windows as GeoJSON, and the size of their pixels."""

from __future__ import annotations

import logging
import math
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from rsr_cli.core.rasters.control import GEO_ERRORS, Placement, by_points, by_rpcs, lonlat_crs
from rsr_cli.core.rasters.polygons import corners_of, is_bent, is_plain, is_straight, polygons, special
from rsr_cli.core.records.geometry import transform_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

log = logging.getLogger("rsr")

# Straight pixel edges need not be straight in lon/lat: each edge of an outline is cut into so many pieces, first into
# few, which tell that most are straight. Or into more so that none is longer than SEGMENT_PX pixels, and where these do
# not suffice, into FINER times as many.
FEW_SEGMENTS = 4
EDGE_SEGMENTS = 16
SEGMENT_PX = 256
FINER = (4, 16)
#: Degrees beyond the pole that a spherical map of the world reaches if it is read as one of WGS84's ellipsoid, as newer
#: versions of PROJ read equidistant cylindrical maps: 10,018,754 m from the equator, where the pole is at 10,001,966 m.
SPHERE_EXCESS = 0.16
GSD_DIGITS = 6  # significant ones
#: Up to this share, a map's unit is as good as the metre on the ground, so that all tiles of a UTM zone state 10 m.
TRUE_TO_SCALE = 0.01
#: A geotransform with such a number states no place, and products with it may overflow.
MAX_COEFFICIENT = 1e15
#: Semi-major axis in metres and inverse flattening.
WGS84 = (6378137.0, 298.257223563)


class Locator:
    """From pixels to the ground, by a geotransform, ground control points or rational polynomials.

    Attributes
    ----------
    properties : dict
        ``proj:code``, or ``proj:wkt2`` if the CRS has no code.
    transform : Affine or None
        Pixel to CRS, if there is a geotransform.
    is_map : bool
        There is a geotransform and its CRS.
    """

    def __init__(self, dataset: DatasetReader) -> None:
        transform, self._crs = dataset.transform, dataset.crs
        gcps, gcps_crs = dataset.gcps
        # The identity is what GDAL returns if there is none; of some drivers, rasterio returns unset memory then.
        sound = all(abs(coefficient) < MAX_COEFFICIENT for coefficient in transform[:6])
        given = transform != Affine.identity() and sound and transform.determinant
        self.transform: Affine | None = transform if given else None
        self._map = self.transform if self._crs else None  # without a CRS, a geotransform places nothing
        self.is_map = self._map is not None
        self._placement: Placement | None = None
        if self._map is not None:
            self._placement = Placement(self._crs, lambda columns, rows: transform @ (columns, rows))
        elif gcps:
            self._placement, self._crs = by_points(gcps, gcps_crs), None if given else gcps_crs
        elif dataset.rpcs:
            self._placement = by_rpcs(dataset.rpcs)
            self._crs = None if given else self._placement.crs
        else:
            self._crs = None
        self.properties = self._describe()

    def _describe(self) -> dict[str, Any]:
        if not self._crs:
            return {}
        authority = self._crs.to_authority(confidence_threshold=100)
        if authority:
            return {"proj:code": ":".join(authority)}
        return {"proj:code": None, "proj:wkt2": self._crs.to_wkt(version="WKT2_2019")}

    def footprints(self, windows: Sequence[tuple[int, int, int, int]]) -> list[tuple[dict[str, Any], float | None]]:
        """Return the outlines of windows in lon/lat, and the ground sample distance in each.

        That is the square root of a pixel's area on the ground:

        - Geographic CRS: a pixel of A square radians at latitude p covers A * M * N * cos(p), where
          M = a (1 - e^2) / (1 - e^2 sin^2(p))^(3/2) and N = a / (1 - e^2 sin^2(p))^(1/2) are the radii of curvature
          of the CRS's ellipsoid along the meridian and across it (Snyder 1987, Map Projections - A Working Manual,
          equations 4-18 and 4-20), and p is the latitude of the window's centre.
        - Other CRS, ground control points or rational polynomials: the footprint's area on the ellipsoid per pixel.
          Where a projected CRS is true to scale, see `TRUE_TO_SCALE`, the pixel's size on the map.

        Parameters
        ----------
        windows : sequence of tuple of int
            (col_off, row_off, width, height) in pixels.

        Returns
        -------
        list of tuple of dict and float or None
            ``geometry`` and ``bbox`` of each window as in RFC 7946, cut at the antimeridian; only a ``geometry`` of
            None if the raster has no usable CRS or the outline leaves the Earth. And metres, to `GSD_DIGITS`
            significant digits; None if nothing states them.
        """
        if self._placement is None:
            return [({"geometry": None}, None) for _ in windows]
        numbers = np.arange(len(windows))
        boxes = np.asarray(windows, dtype=float)
        sizes = np.asarray(windows)[:, 2:]
        areas = np.empty(len(windows))
        found: list[dict[str, Any]] = [{} for _ in windows]
        for segments in (FEW_SEGMENTS, EDGE_SEGMENTS):
            outlines = self._outlines(self._placement, boxes[numbers], segments)
            areas[numbers] = ground_areas(outlines)
            bent = is_bent(outlines, sizes[numbers])
            plain = is_plain(outlines) & ~bent
            straight = plain.copy()
            straight[plain] = is_straight(outlines[plain], sizes[numbers[plain]])
            curved = plain & ~straight if segments == EDGE_SEGMENTS else np.zeros_like(plain)
            for chosen, rings in ((straight, corners_of(outlines)), (curved, outlines)):
                for number, polygon in zip(numbers[chosen], polygons(rings[chosen]), strict=True):
                    found[number] = polygon
            others = ~(straight | curved)
            numbers, outlines, bent = numbers[others], outlines[others], bent[others]
            if not len(numbers):
                break
        for number, outline, is_rough in zip(numbers, outlines, bent, strict=True):
            if is_rough:
                outline = self._finer_outline(self._placement, boxes[number])
            found[number] = special(outline, sizes[number])
            areas[number] = _area_of(found[number]["geometry"])
        return list(zip(found, self._distances(windows, areas / sizes.prod(axis=1)), strict=True))

    def find(
        self, lon: Sequence[float], lat: Sequence[float], size: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where places are in a raster that `is_map`.

        Parameters
        ----------
        lon, lat : sequence of float
            Degrees.
        size : tuple of int
            Width and height of the raster in pixels.

        Returns
        -------
        columns, rows : numpy.ndarray
            float64 (n,), counted from the raster's corner; NaN for a place that is not on its map.

        """
        assert self._map
        try:
            xs, ys = np.array(transform_points(lonlat_crs(), self._crs, lon, lat))
        except GEO_ERRORS:
            if len(lon) == 1:
                return np.full(1, np.nan), np.full(1, np.nan)
            each = [self.find([one], [other], size) for one, other in zip(lon, lat, strict=True)]  # as in `_outlines`
            columns, rows = np.transpose(each, (1, 0, 2))[..., 0]
            return columns, rows
        if self._crs.is_geographic:  # a map may begin at any longitude
            turn, middle = 2 * math.pi / self._crs.units_factor[1], (self._map @ (size[0] / 2, size[1] / 2))[0]
            xs += turn * np.round((middle - xs) / turn)
        return ~self._map @ (xs, ys)

    def pixel_sizes(self, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the width and height on the ground of pixels of a raster that `is_map`.

        Where a projected CRS is true to scale, see `TRUE_TO_SCALE`, those on the map.

        Parameters
        ----------
        columns, rows : numpy.ndarray
            float64 (n,), as `find` returns them.

        Returns
        -------
        numpy.ndarray
            float64 (n, 2), in metres.
        """
        assert self._placement
        assert self._map
        ends = np.array([(-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5)])
        xs, ys = self._placement.place(columns[:, None] + ends[:, 0], rows[:, None] + ends[:, 1])
        lon, lat = np.radians(transform_points(self._crs, lonlat_crs(), xs.ravel(), ys.ravel()))
        lon, lat = lon.reshape(-1, 2, 2), lat.reshape(-1, 2, 2)
        meridian, across = _radii(lat.mean(axis=2), *WGS84)
        east = (np.diff(lon)[..., 0] + math.pi) % (2 * math.pi) - math.pi
        sizes = np.hypot(across * np.cos(lat.mean(axis=2)) * east, meridian * np.diff(lat)[..., 0])
        if self._crs.is_projected:
            a, b, _, d, e, _ = self._map[:6]
            on_map = np.hypot((a, b), (d, e)) * self._crs.linear_units_factor[1]
            sizes = np.where((np.abs(sizes / on_map - 1) < TRUE_TO_SCALE).all(axis=1, keepdims=True), on_map, sizes)
        return np.asarray(sizes)

    def _distances(
        self, windows: Sequence[tuple[int, int, int, int]], areas: NDArray[np.float64]
    ) -> list[float | None]:
        """Return the ground sample distance in windows, whose pixels cover these areas (n,) in square metres."""
        if self._map is not None and self._crs.is_geographic:
            areas = np.array([self._area_at(window) for window in windows])
        distances = np.sqrt(areas)
        if self._map is not None and self._crs.is_projected:
            on_map = math.sqrt(abs(self._map.determinant)) * self._crs.linear_units_factor[1]
            distances[np.abs(distances / on_map - 1) < TRUE_TO_SCALE] = on_map
        return [float(f"{distance:.{GSD_DIGITS}g}") if distance > 0 else None for distance in distances.tolist()]

    def _area_at(self, window: tuple[int, int, int, int]) -> float:
        """Return the area in square metres of a window's central pixel, on a geographic grid; NaN off the Earth."""
        assert self._map is not None
        left, top, width, height = window
        radians = self._crs.units_factor[1]
        latitude = (self._map @ (left + width / 2, top + height / 2))[1] * radians
        if abs(latitude) > math.pi / 2 or not self._ellipsoid:
            return math.nan
        return float(abs(self._map.determinant) * radians**2 * _area_scale(latitude, *self._ellipsoid))

    @cached_property
    def _ellipsoid(self) -> tuple[float, float] | None:
        """The CRS's ellipsoid: semi-major axis in metres and inverse flattening, 0 for a sphere."""
        found = re.search(r'(?:ELLIPSOID|SPHEROID)\["[^"]*",([\d.]+),([\d.]+)', self._crs.to_wkt())
        return (float(found[1]), float(found[2])) if found else None

    def _finer_outline(self, placement: Placement, window: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project the outline of a window with as many points as it needs: float64 (points, 2) of lon, lat."""
        for finer in FINER:
            outlines = self._outlines(placement, window[None], EDGE_SEGMENTS, finer)
            if not is_bent(outlines, window[None, 2:])[0]:
                break
        return outlines[0]

    def _outlines(
        self, placement: Placement, windows: NDArray[np.float64], segments: int, finer: int = 1
    ) -> NDArray[np.float64]:
        """Project outlines, counter-clockwise on a north-up raster: float64 (n, 4 * segments, 2) of lon, lat."""
        segments = max(segments, -(-int(windows[:, 2:].max()) // SEGMENT_PX)) * finer
        step = np.linspace(0, 1, segments, endpoint=False)
        zero, one = np.zeros_like(step), np.ones_like(step)
        right = np.concatenate([zero, step, one, 1 - step])
        down = np.concatenate([step, one, 1 - step, zero])
        columns = windows[:, 0, None] + windows[:, 2, None] * right
        rows = windows[:, 1, None] + windows[:, 3, None] * down
        try:
            xs, ys = placement.place(columns.ravel(), rows.ravel())
            lon, lat = transform_points(placement.crs, lonlat_crs(), xs, ys)
        except GEO_ERRORS as error:
            if len(windows) > 1:  # one point off the Earth fails them all
                return np.concatenate([self._outlines(placement, window[None], segments) for window in windows])
            log.info("no footprint: %s", error)
            return np.full((*columns.shape, 2), np.nan)
        outlines = np.stack([np.reshape(lon, columns.shape), np.reshape(lat, columns.shape)], axis=-1)
        if self._map is not None and not self._crs.is_geographic:
            projected = np.stack([np.reshape(xs, columns.shape), np.reshape(ys, columns.shape)], axis=-1)
            astray = self._astray(corners_of(projected).reshape(-1, 2), corners_of(outlines).reshape(-1, 2))
            outlines[astray.reshape(-1, 4).any(axis=1)] = np.nan
            north = outlines[..., 1]
            north[np.abs(north) < 90 + SPHERE_EXCESS] = north[np.abs(north) < 90 + SPHERE_EXCESS].clip(-90, 90)
        return outlines

    def _astray(self, points: NDArray[np.float64], lonlat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points (n, 2) of the CRS are not on the Earth: projecting their lonlat (n, 2) leads elsewhere.

        The corners of a sinusoidal map are examples. A cylindrical map may go around the Earth more than once.
        """
        assert self._map is not None
        pixel = abs(self._map.determinant) ** 0.5
        astray = np.asarray(~np.isfinite(lonlat).all(axis=1))
        earthly = np.flatnonzero(~astray)
        beyond = np.abs(lonlat[earthly, 1]) > 90  # the pole; `special` judges how far

        def forward(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.float64]:
            try:
                return np.transpose(transform_points(lonlat_crs(), self._crs, lon, lat))
            except GEO_ERRORS:  # of one of them
                if len(lon) == 1:
                    return np.full((1, 2), np.nan)
                return np.concatenate([forward(lon[i : i + 1], lat[i : i + 1]) for i in range(len(lon))])

        with np.errstate(invalid="ignore"):
            back = forward(lonlat[earthly, 0], lonlat[earthly, 1].clip(-90, 90))
            apart = back - points[earthly]
            apart[beyond, 1] = 0
            moved = ~(np.hypot(*apart.T) < pixel)
            if moved.any():
                lon, lat = lonlat[earthly[moved]].T
                elsewhere = forward(lon, np.where(lat > 0, lat - 10, lat + 10))
                moved[moved] = ~(np.abs(elsewhere - back[moved])[:, 0] < pixel)
        astray[earthly] = moved
        return astray


def _area_scale(latitude: float, semi_major_m: float, inverse_flattening: float) -> float:
    """Return square metres per square radian of longitude and latitude, at a latitude in radians."""
    meridian, across = _radii(latitude, semi_major_m, inverse_flattening)
    return float(meridian * across * math.cos(latitude))


def _radii(latitude: Any, semi_major_m: float, inverse_flattening: float) -> tuple[Any, Any]:
    """Return an ellipsoid's radii of curvature in metres, along the meridian and across it, at latitudes in radians."""
    flattening = 1 / inverse_flattening if inverse_flattening else 0.0
    e2 = flattening * (2 - flattening)
    bulge = 1 - e2 * np.sin(latitude) ** 2
    return semi_major_m * (1 - e2) / bulge**1.5, semi_major_m / bulge**0.5


def ground_areas(rings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the areas on WGS84's ellipsoid, in square metres, of rings (n, points, 2) of lon, lat.

    That is a^2 / 2 times the integral of q(latitude) along the ring by longitude (Snyder 1987, equation 3-12 for q),
    here by Simpson's rule for each edge.
    """
    semi_major_m, inverse_flattening = WGS84
    e = math.sqrt((2 - 1 / inverse_flattening) / inverse_flattening)

    def q(latitude: NDArray[np.float64]) -> NDArray[np.float64]:
        sine = np.sin(latitude)
        return (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)

    lon, lat = np.radians(np.moveaxis(rings, -1, 0))
    lon_after, lat_after = np.roll(lon, -1, axis=1), np.roll(lat, -1, axis=1)
    with np.errstate(invalid="ignore"):
        along = (q(lat) + 4 * q((lat + lat_after) / 2) + q(lat_after)) / 6
        return np.asarray(np.abs((along * (lon_after - lon)).sum(axis=1)) * semi_major_m**2 / 2)


def _area_of(geometry: dict[str, Any] | None) -> float:
    """Return the area of a footprint on the ground in square metres, NaN without one."""
    if geometry is None:
        return math.nan
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    return float(sum(ground_areas(np.array(polygon[0])[None])[0] for polygon in polygons))
