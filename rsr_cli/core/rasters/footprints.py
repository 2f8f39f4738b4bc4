"""From pixels to the ground: the outlines of windows as GeoJSON, and the size of their pixels."""

from __future__ import annotations

import itertools
import logging
import math
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from rsr_cli.core.rasters.control import GEO_ERRORS, Placement, by_points, by_rpcs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

log = logging.getLogger("rsr")

DEGREE_DIGITS = 7  # about a centimetre
# Straight pixel edges need not be straight in lon/lat: each edge of an outline is cut into EDGE_SEGMENTS pieces, or
# into more so that none is longer than SEGMENT_PX pixels.
EDGE_SEGMENTS = 16
SEGMENT_PX = 256
#: Degrees of longitude from one point of an outline to the next that only occur near a pole.
NEAR_POLE_TURN = 60
FAN_DEGREES = 5
#: Degrees beyond the pole that a spherical map of the world reaches if it is read as one of WGS84's ellipsoid, as newer
#: versions of PROJ read equidistant cylindrical maps: 10,018,754 m from the equator, where the pole is at 10,001,966 m.
SPHERE_EXCESS = 0.16
GSD_DIGITS = 6  # significant ones
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
    """

    def __init__(self, dataset: DatasetReader) -> None:
        transform, self._crs = dataset.transform, dataset.crs
        self.transform: Affine | None = transform
        gcps, gcps_crs = dataset.gcps
        self._placement: Placement | None = None
        if transform != Affine.identity():  # what GDAL returns if there is none
            if self._crs:
                self._placement = Placement(self._crs, lambda columns, rows: transform @ (columns, rows))
        else:
            self.transform, self._crs = None, None
            if gcps:
                self._placement, self._crs = by_points(gcps, gcps_crs), gcps_crs
            elif dataset.rpcs:
                self._placement = by_rpcs(dataset.rpcs)
                self._crs = self._placement.crs
        self.properties = self._describe()

    def _describe(self) -> dict[str, Any]:
        if not self._crs:
            return {}
        authority = self._crs.to_authority(confidence_threshold=100)
        if authority:
            return {"proj:code": ":".join(authority)}
        return {"proj:code": None, "proj:wkt2": self._crs.to_wkt(version="WKT2_2019")}

    def footprints(self, windows: Sequence[tuple[int, int, int, int]]) -> list[dict[str, Any]]:
        """Return the outlines of windows in lon/lat.

        Parameters
        ----------
        windows : sequence of tuple of int
            (col_off, row_off, width, height) in pixels.

        Returns
        -------
        list of dict
            ``geometry`` and ``bbox`` of each window as in RFC 7946, cut at the antimeridian; only a ``geometry`` of
            None if the raster has no usable CRS or the outline leaves the Earth.
        """
        if self._placement is None:
            return [{"geometry": None} for _ in windows]
        outlines = self._outlines(self._placement, np.asarray(windows, dtype=float))
        sizes = np.asarray(windows)[:, 2:]
        found: list[dict[str, Any]] = [{} for _ in windows]
        plain = np.flatnonzero(_is_plain(outlines))
        straight = _is_straight(outlines[plain], sizes[plain])
        for numbers, rings in ((plain[straight], _corners(outlines)), (plain[~straight], outlines)):
            for number, polygon in zip(numbers, _polygons(rings[numbers]), strict=True):
                found[number] = polygon
        for number in np.setdiff1d(np.arange(len(found)), plain):
            found[number] = _special(outlines[number], sizes[number])
        return found

    def gsd(self, window: tuple[int, int, int, int], geometry: dict[str, Any] | None) -> float | None:
        """Return the ground sample distance of a window: the square root of a pixel's area on the ground.

        - Projected CRS: the pixel's area on the map, in metres by the CRS's linear unit. The map's own distortion of
          scale is part of it.
        - Geographic CRS: a pixel of A square radians at latitude p covers A * M * N * cos(p), where
          M = a (1 - e^2) / (1 - e^2 sin^2(p))^(3/2) and N = a / (1 - e^2 sin^2(p))^(1/2) are the radii of curvature
          of the CRS's ellipsoid along the meridian and across it (Snyder 1987, Map Projections - A Working Manual,
          equations 4-18 and 4-20), and p is the latitude of the window's centre.
        - Ground control points or rational polynomials: the footprint's area by the same formula, over the number of
          pixels.

        Parameters
        ----------
        window : tuple of int
            (col_off, row_off, width, height) in pixels.
        geometry : dict or None
            Its footprint.

        Returns
        -------
        float or None
            Metres, to `GSD_DIGITS` significant digits; None if the CRS does not state it.
        """
        left, top, width, height = window
        if self.transform is None:
            area = _ground_area(geometry) / (width * height) if geometry else 0.0
        elif not self._crs:
            return None
        elif self._crs.is_projected:
            area = abs(self.transform.determinant) * self._crs.linear_units_factor[1] ** 2
        elif self._crs.is_geographic:
            radians = self._crs.units_factor[1]
            latitude = (self.transform @ (left + width / 2, top + height / 2))[1] * radians
            if abs(latitude) > math.pi / 2 or not self._ellipsoid:
                return None
            area = abs(self.transform.determinant) * radians**2 * _area_scale(latitude, *self._ellipsoid)
        else:
            return None
        return float(f"{math.sqrt(area):.{GSD_DIGITS}g}") or None

    @cached_property
    def _ellipsoid(self) -> tuple[float, float] | None:
        """The CRS's ellipsoid: semi-major axis in metres and inverse flattening, 0 for a sphere."""
        found = re.search(r'(?:ELLIPSOID|SPHEROID)\["[^"]*",([\d.]+),([\d.]+)', self._crs.to_wkt())
        return (float(found[1]), float(found[2])) if found else None

    def _outlines(self, placement: Placement, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project outlines, counter-clockwise on a north-up raster: float64 (n, 4 * segments, 2) of lon, lat."""
        segments = max(EDGE_SEGMENTS, -(-int(windows[:, 2:].max()) // SEGMENT_PX))
        step = np.linspace(0, 1, segments, endpoint=False)
        zero, one = np.zeros_like(step), np.ones_like(step)
        right = np.concatenate([zero, step, one, 1 - step])
        down = np.concatenate([step, one, 1 - step, zero])
        columns = windows[:, 0, None] + windows[:, 2, None] * right
        rows = windows[:, 1, None] + windows[:, 3, None] * down
        try:
            xs, ys = placement.place(columns.ravel(), rows.ravel())
            lon, lat = transform_points(placement.crs, CRS.from_epsg(4326), xs, ys)
        except GEO_ERRORS as error:
            if len(windows) > 1:  # one point off the Earth fails them all
                return np.concatenate([self._outlines(placement, window[None]) for window in windows])
            log.info("no footprint: %s", error)
            return np.full((*columns.shape, 2), np.nan)
        outlines = np.stack([np.reshape(lon, columns.shape), np.reshape(lat, columns.shape)], axis=-1)
        if self.transform is not None and not self._crs.is_geographic:
            projected = np.stack([np.reshape(xs, columns.shape), np.reshape(ys, columns.shape)], axis=-1)
            astray = self._astray(_corners(projected).reshape(-1, 2), _corners(outlines).reshape(-1, 2))
            outlines[astray.reshape(-1, 4).any(axis=1)] = np.nan
        return outlines

    def _astray(self, points: NDArray[np.float64], lonlat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points (n, 2) of the CRS are not on the Earth: projecting their lonlat (n, 2) leads elsewhere.

        The corners of a sinusoidal map are examples. A cylindrical map may go around the Earth more than once.
        """
        assert self.transform is not None
        pixel = abs(self.transform.determinant) ** 0.5
        astray = np.asarray(~np.isfinite(lonlat).all(axis=1))
        earthly = np.flatnonzero(~astray)
        beyond = np.abs(lonlat[earthly, 1]) > 90  # the pole; `_special` judges how far

        def forward(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.transpose(transform_points(CRS.from_epsg(4326), self._crs, lon, lat))

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
    flattening = 1 / inverse_flattening if inverse_flattening else 0.0
    e2 = flattening * (2 - flattening)
    meridian = semi_major_m * (1 - e2) / (1 - e2 * math.sin(latitude) ** 2) ** 1.5
    across = semi_major_m / (1 - e2 * math.sin(latitude) ** 2) ** 0.5
    return meridian * across * math.cos(latitude)


def _ground_area(geometry: dict[str, Any]) -> float:
    """Return the area of a footprint on WGS84's ellipsoid in square metres.

    That is a^2 / 2 times the integral of q(latitude) along the outline by longitude (Snyder 1987, equation 3-12 for q),
    here by Simpson's rule for each edge.
    """
    semi_major_m, inverse_flattening = WGS84
    e = math.sqrt((2 - 1 / inverse_flattening) / inverse_flattening)

    def q(latitude: NDArray[np.float64]) -> NDArray[np.float64]:
        sine = np.sin(latitude)
        return (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)

    area = 0.0
    for polygon in geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]:
        lon, lat = np.radians(polygon[0]).T
        along = (q(lat[:-1]) + 4 * q((lat[:-1] + lat[1:]) / 2) + q(lat[1:])) / 6
        area += abs(float((along * np.diff(lon)).sum()))
    return area * semi_major_m**2 / 2


def _is_plain(outlines: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which outlines (n, points, 2) are finite and away from the antimeridian and the poles: bool (n,)."""
    lon, lat = outlines[..., 0], outlines[..., 1]
    with np.errstate(invalid="ignore"):
        steps = np.abs(np.diff(lon, axis=1, append=lon[:, :1]))
        inside = (steps < 180) & (np.abs(lon) <= 180) & (np.abs(lat) < 90 - 10**-DEGREE_DIGITS)
    return inside.all(axis=1)


def _corners(outlines: NDArray[np.float64]) -> NDArray[np.float64]:
    return outlines[:, :: outlines.shape[1] // 4]


def _is_straight(outlines: NDArray[np.float64], sizes: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Return which outlines stay within a quarter of a pixel of the straight lines between their corners: bool (n,)."""
    corners = _corners(outlines)
    share = np.linspace(0, 1, outlines.shape[1] // 4, endpoint=False)[:, None]
    edges = np.roll(corners, -1, axis=1) - corners
    straight = corners[:, :, None] + edges[:, :, None] * share
    pixel = np.ptp(corners, axis=1) / sizes.max(axis=1)[:, None]
    apart = np.abs(straight.reshape(outlines.shape) - outlines).max(axis=1)
    return (apart <= pixel / 4 + 1e-12).all(axis=1)


def _polygons(rings: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return rings (n, points, 2), open and in either direction, as ``geometry`` and ``bbox``."""
    x, y = np.moveaxis(rings - rings[:, :1], -1, 0)
    clockwise = (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1) < 0
    rings = np.where(clockwise[:, None, None], rings[:, ::-1], rings).round(DEGREE_DIGITS)
    boxes = np.concatenate([rings.min(axis=1), rings.max(axis=1)], axis=1).tolist()
    closed = np.concatenate([rings, rings[:, :1]], axis=1).tolist()
    return [
        {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": box}
        for ring, box in zip(closed, boxes, strict=True)
    ]


def _special(outline: NDArray[np.float64], size: NDArray[np.int_]) -> dict[str, Any]:
    """Return an outline (points, 2) that is not plain; size (width, height) in pixels."""
    if not np.isfinite(outline).all():
        return {"geometry": None}
    excess = np.abs(outline[:, 1]).max() - 90
    pixel = np.ptp(outline[:, 1]) / size[1]
    outline = outline.clip((-np.inf, -90), (np.inf, 90))
    # a pixel whose centre is on the pole is half outside
    if excess > max(pixel, SPHERE_EXCESS) or not np.ptp(outline[:, 1]):
        return {"geometry": None}
    at_pole = np.abs(outline[:, 1]) > 90 - 10**-DEGREE_DIGITS
    turns = np.abs((np.diff(outline[:, 0], append=outline[:1, 0]) + 180) % 360 - 180)
    edges = ~(at_pole | np.roll(at_pole, -1))  # at a pole, longitude means nothing
    lon = np.unwrap(outline[:, 0], discont=180.001, period=360)
    around = abs(lon[-1] - lon[0]) > 180  # once around the Earth
    if around or np.count_nonzero(at_pole) == 1 or turns[edges].max(initial=0) > NEAR_POLE_TURN:
        return _seen_from_pole(outline)
    lon = lon.round(DEGREE_DIGITS)
    lon -= 360 * np.floor((lon.min() + 180) / 360)
    if np.ptp(lon) >= 360:  # all longitudes, wherever they begin
        lon = (lon - lon.min()) / np.ptp(lon) * 360 - 180
    outline[:, 0] = lon
    rings = outline[None]
    if _is_straight(rings, size[None]).all():
        rings = _corners(rings)
    return _cut(rings[0]) if lon.max() > 180 else _polygons(rings)[0]


def _seen_from_pole(outline: NDArray[np.float64]) -> dict[str, Any]:
    """Return an outline (points, 2) around, through or near a pole.

    On a map centred on the pole it is an ordinary polygon. There the antimeridian and meridian 0 are one straight line:
    each side of it has longitudes of one sign, and becomes polygons of its own.
    """
    from shapely import Polygon, box, union_all

    pole = 90.0 if outline[:, 1].mean() > 0 else -90.0
    angle, distance = np.radians(outline[:, 0]), np.abs(pole - outline[:, 1])
    # sin(pi) is not quite 0, and would leave slivers beyond the line
    seen = Polygon(np.stack([distance * np.sin(angle), distance * np.cos(angle)], axis=-1).round(DEGREE_DIGITS + 3))
    if not seen.is_valid:
        return {"geometry": None}
    sides = [
        Polygon(_unrolled(np.array(face.exterior.coords)[:-1], pole, sign))
        for sign in (-1, 1)
        for face in _faces(seen.intersection(box(min(0, sign * 360), -360, max(0, sign * 360), 360)))
    ]
    parts = _faces(union_all(sides, grid_size=10**-DEGREE_DIGITS))
    lats = [lat for part in parts for lat in part.bounds[1::2]]
    west, east = _span([part.bounds[0::2] for part in parts])
    return _geometry(parts, (west, min(lats), east, max(lats)))


def _faces(shape: Any) -> list[Any]:
    """Return the polygons of an intersection, which may have points and lines too."""
    from shapely import get_parts

    return [part for part in get_parts(shape) if part.geom_type == "Polygon" and part.area]


def _unrolled(ring: NDArray[np.float64], pole: float, sign: int) -> NDArray[np.float64]:
    """Convert an open ring (points, 2), on one side of a map centred on a pole, to lon and lat.

    Near the pole the meridians fan out, and a straight edge is bent in lon and lat: it is cut into pieces that turn by
    `FAN_DEGREES` at most. A corner on the pole gets the longitudes of both its neighbours.
    """

    def lonlat(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.degrees(np.arctan2(np.abs(points[:, 0]), points[:, 1])) * sign, np.hypot(*points.T)

    for _ in range(24):
        lon, distance = lonlat(ring)
        at_pole = distance < 10**-DEGREE_DIGITS
        wide = (np.abs(np.roll(lon, -1) - lon) > FAN_DEGREES) & ~(at_pole | np.roll(at_pole, -1))
        if not wide.any():
            break
        ring = np.insert(ring, np.flatnonzero(wide) + 1, ((ring + np.roll(ring, -1, axis=0)) / 2)[wide], axis=0)
    lon, distance = lonlat(ring)
    lat = pole - np.copysign(distance, pole)
    for i in np.flatnonzero(distance < 10**-DEGREE_DIGITS)[::-1]:
        lon[i], after = lon[i - 1], lon[(i + 1) % len(lon)]
        lon, lat = np.insert(lon, i + 1, after), np.insert(lat, i + 1, pole)
    return np.stack([lon, lat], axis=-1)


def _span(spans: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the west and east ends of spans of longitudes, some of which may meet across the antimeridian."""
    merged: list[tuple[float, float]] = []
    for west, east in sorted(spans):
        if merged and west <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(east, merged[-1][1])
        else:
            merged.append((west, east))
    if len(merged) > 1 and (merged[0][0], merged[-1][1]) == (-180, 180):
        gaps = [(after[0] - before[1], after[0], before[1]) for before, after in itertools.pairwise(merged)]
        return max(gaps)[1:]
    return merged[0][0], merged[-1][1]


def _cut(ring: NDArray[np.float64]) -> dict[str, Any]:
    """Cut a ring that continues to the east of the antimeridian."""
    from shapely import Polygon, box
    from shapely.affinity import translate

    west = Polygon(ring).intersection(box(-180, -90, 180, 90))
    east = translate(Polygon(ring).intersection(box(180, -90, 540, 90)), -360)
    parts = [*_faces(west), *_faces(east)]
    left, bottom, right, top = ring[:, 0].min(), ring[:, 1].min(), ring[:, 0].max() - 360, ring[:, 1].max()
    return _geometry(parts, (left, bottom, right, top))


def _geometry(parts: Sequence[Any], box: Iterable[float]) -> dict[str, Any]:
    rings = [[part.normalize().reverse().exterior.coords] for part in parts]
    rounded = [[[[round(float(v), DEGREE_DIGITS) for v in point] for point in ring] for ring in part] for part in rings]
    kind, coordinates = ("MultiPolygon", rounded) if len(rounded) > 1 else ("Polygon", rounded[0])
    return {
        "geometry": {"type": kind, "coordinates": coordinates},
        "bbox": [round(float(value), DEGREE_DIGITS) for value in box],
    }
