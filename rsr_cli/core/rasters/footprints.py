"""From pixels to lon/lat: the outlines of windows as GeoJSON."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import GCPTransformer, RPCTransformer
from rasterio.warp import transform as transform_points

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

log = logging.getLogger("rsr")

DEGREE_DIGITS = 7  # about a centimetre
# An edge of an outline, where straight pixel edges are not straight in lon/lat, is cut into so many pieces, or more so
# that none is longer than so many pixels.
EDGE_SEGMENTS = 16
SEGMENT_PX = 256


class Locator:
    """From pixels to lon/lat, by a geotransform, ground control points or rational polynomials.

    Attributes
    ----------
    properties : dict
        ``proj:code``, or ``proj:wkt2`` where the CRS has no code.
    transform : Affine or None
        Pixel to CRS, where there is a geotransform.
    """

    def __init__(self, dataset: DatasetReader) -> None:
        self.transform: Affine | None = dataset.transform
        self._crs = dataset.crs
        self._points: list[Any] = []
        self._rpcs = None
        gcps, gcps_crs = dataset.gcps
        if dataset.transform == Affine.identity():  # GDAL's way to say that there is none
            self.transform = None
            if gcps:
                self._points, self._crs = gcps, gcps_crs
            elif dataset.rpcs:
                self._rpcs, self._crs = dataset.rpcs, CRS.from_epsg(4326)
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

    def footprints(self, windows: Sequence[tuple[int, int, int, int]]) -> list[dict[str, Any]]:
        """Draw the outlines of windows in lon/lat.

        Parameters
        ----------
        windows : sequence of tuple of int
            (col_off, row_off, width, height) in pixels.

        Returns
        -------
        list of dict
            For each window ``geometry`` and ``bbox`` after RFC 7946, cut at the antimeridian; only a ``geometry``
            of ``None`` where the raster has no usable CRS or the outline leaves the Earth.
        """
        if not self._crs:
            return [{"geometry": None} for _ in windows]
        outlines = self._outlines(np.asarray(windows, dtype=float))
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

    def _outlines(self, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project outlines, counter-clockwise on a north-up raster: float64 (n, 4 * segments, 2) of lon, lat."""
        segments = max(EDGE_SEGMENTS, -(-int(windows[:, 2:].max()) // SEGMENT_PX))
        step = np.linspace(0, 1, segments, endpoint=False)
        zero, one = np.zeros_like(step), np.ones_like(step)
        right = np.concatenate([zero, step, one, 1 - step])
        down = np.concatenate([step, one, 1 - step, zero])
        columns = windows[:, 0, None] + windows[:, 2, None] * right
        rows = windows[:, 1, None] + windows[:, 3, None] * down
        try:
            xs, ys = self._to_crs(columns.ravel(), rows.ravel())
            lon, lat = transform_points(self._crs, CRS.from_epsg(4326), xs, ys)
        except (RasterioError, rasterio.errors.CRSError, CPLE_BaseError) as error:
            log.info("no footprint: %s", error)
            lon = lat = np.full(columns.size, np.nan)
        return np.stack([np.reshape(lon, columns.shape), np.reshape(lat, columns.shape)], axis=-1)

    def _to_crs(self, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[Any, Any]:
        if self.transform is not None:
            return self.transform @ (columns, rows)
        with rasterio.Env(), self._transformer() as transformer:  # Env keeps GDAL from writing to stderr
            return transformer.xy(rows, columns, offset="ul")

    def _transformer(self) -> Any:
        if self._rpcs is not None:  # at the scene's mean height; at sea level a mountain's picture is a kilometre off
            return RPCTransformer(self._rpcs, RPC_HEIGHT=self._rpcs.height_off)
        try:
            return GCPTransformer(self._points)
        except CPLE_BaseError:  # points in two rows decide no polynomial of second order
            return GCPTransformer(self._points, tps=True)


def _is_plain(outlines: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which outlines (n, points, 2) are finite and away from the antimeridian and the poles: bool (n,)."""
    lon, lat = outlines[..., 0], outlines[..., 1]
    with np.errstate(invalid="ignore"):
        steps = np.abs(np.diff(lon, axis=1, append=lon[:, :1]))
        inside = (steps < 180) & (np.abs(lon) <= 180) & (np.abs(lat) < 90 - 10**-DEGREE_DIGITS)
    return inside.all(axis=1)


def _corners(outlines: NDArray[np.float64]) -> NDArray[np.float64]:
    return outlines[:, :: outlines.shape[1] // 4]


def _is_straight(outlines: NDArray[np.float64], sizes: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Tell which outlines stay within a quarter of a pixel of the straight lines between their corners: bool (n,)."""
    corners = _corners(outlines)
    share = np.linspace(0, 1, outlines.shape[1] // 4, endpoint=False)[:, None]
    edges = np.roll(corners, -1, axis=1) - corners
    straight = corners[:, :, None] + edges[:, :, None] * share
    pixel = np.ptp(corners, axis=1) / sizes.max(axis=1)[:, None]
    apart = np.abs(straight.reshape(outlines.shape) - outlines).max(axis=1)
    return (apart <= pixel / 4 + 1e-12).all(axis=1)


def _polygons(rings: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Write rings (n, points, 2), open and in any direction, as ``geometry`` and ``bbox``."""
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
    """Write an outline (points, 2) that is not plain; size (width, height) in pixels."""
    if not np.isfinite(outline).all():
        return {"geometry": None}
    excess = np.abs(outline[:, 1]).max() - 90
    if excess > np.ptp(outline[:, 1]) / size[1]:  # a pixel whose centre lies on the pole is half outside
        return {"geometry": None}
    points = len(outline)
    outline = _spread_poles(outline.clip((-np.inf, -90), (np.inf, 90)))
    lon = np.unwrap(outline[:, 0], discont=180.001, period=360)
    if abs(lon[-1] - lon[0]) > 180:  # once around the Earth: a pole is inside
        north = outline[:, 1].mean() > 0
        return _close_at_pole(outline if (lon[-1] > lon[0]) == north else outline[::-1])
    lon = lon.round(DEGREE_DIGITS)
    lon -= 360 * np.floor((lon.min() + 180) / 360)
    if np.ptp(lon) >= 360:  # wherever it begins, it is all of them
        lon = (lon - lon.min()) / np.ptp(lon) * 360 - 180
    outline[:, 0] = lon
    rings = outline[None]
    if len(outline) == points and _is_straight(rings, size[None]).all():
        rings = _corners(rings)
    return _cut(rings[0]) if lon.max() > 180 else _polygons(rings)[0]


def _spread_poles(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put a corner at a pole, where any longitude is right, at the longitudes of both its neighbours."""
    at_pole = np.abs(outline[:, 1]) > 90 - 10**-DEGREE_DIGITS
    alone = at_pole & ~np.roll(at_pole, 1) & ~np.roll(at_pole, -1)
    for i in np.flatnonzero(alone)[::-1]:
        before, after = outline[i - 1, 0], outline[(i + 1) % len(outline), 0]
        turn = (round(after - before, DEGREE_DIGITS) + 180) % 360 - 180
        outline[i, 0] = before
        outline = np.insert(outline, i + 1, (before + turn, outline[i, 1]), axis=0)
    return outline


def _cut(ring: NDArray[np.float64]) -> dict[str, Any]:
    """Cut a ring that goes on to the east of the antimeridian."""
    from shapely import Polygon, box, get_parts
    from shapely.affinity import translate

    west = Polygon(ring).intersection(box(-180, -90, 180, 90))
    east = translate(Polygon(ring).intersection(box(180, -90, 540, 90)), -360)
    parts = [part for side in (west, east) for part in get_parts(side) if part.area]
    left, bottom, right, top = ring[:, 0].min(), ring[:, 1].min(), ring[:, 0].max() - 360, ring[:, 1].max()
    return _geometry(parts, (left, bottom, right, top))


def _close_at_pole(outline: NDArray[np.float64]) -> dict[str, Any]:
    """Close an outline around the pole that it encloses, seen from above counter-clockwise."""
    import antimeridian
    from shapely import Polygon, get_parts

    shape = antimeridian.fix_polygon(Polygon(outline), great_circle=False)
    return _geometry(list(get_parts(shape)), shape.bounds)


def _geometry(parts: Sequence[Any], box: Iterable[float]) -> dict[str, Any]:
    rings = [[part.normalize().reverse().exterior.coords] for part in parts]
    rounded = [[[[round(float(v), DEGREE_DIGITS) for v in point] for point in ring] for ring in part] for part in rings]
    kind, coordinates = ("MultiPolygon", rounded) if len(rounded) > 1 else ("Polygon", rounded[0])
    return {
        "geometry": {"type": kind, "coordinates": coordinates},
        "bbox": [round(float(value), DEGREE_DIGITS) for value in box],
    }
