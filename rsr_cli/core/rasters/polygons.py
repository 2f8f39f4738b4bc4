"""From outlines in lon/lat to GeoJSON polygons, cut at the antimeridian and at the poles."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

DEGREE_DIGITS = 7  # about a centimetre
#: Degrees of longitude from one point of an outline to the next that only occur near a pole.
NEAR_POLE_TURN = 60
FAN_DEGREES = 5


def is_plain(outlines: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which outlines (n, points, 2) are finite and away from the antimeridian and the poles: bool (n,)."""
    lon, lat = outlines[..., 0], outlines[..., 1]
    with np.errstate(invalid="ignore"):
        steps = np.abs(np.diff(lon, axis=1, append=lon[:, :1]))
        inside = (steps < 180) & (np.abs(lon) <= 180) & (np.abs(lat) < 90 - 10**-DEGREE_DIGITS)
    return inside.all(axis=1)


def corners_of(outlines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners of outlines: (n, 4, 2)."""
    return outlines[:, :: outlines.shape[1] // 4]


def is_bent(outlines: NDArray[np.float64], sizes: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which outlines need more points: the lines between them may miss the edges by a quarter of a pixel.

    A point is compared with the line between its neighbours, which is twice as long as those that are drawn and so
    misses the edge by four times as much.

    Parameters
    ----------
    outlines : numpy.ndarray
        float64 (n, points, 2) of lon, lat.
    sizes : numpy.ndarray
        (n, 2): width and height in pixels.
    """
    edges = (len(outlines), 4, -1)
    lon, lat = outlines[..., 0], outlines[..., 1]
    with np.errstate(invalid="ignore"):
        east = (np.roll(lon, -1, axis=1) - lon + 180) % 360 - 180
        north = np.roll(lat, -1, axis=1) - lat
        shrink = np.cos(np.radians(lat))
        lengths = np.hypot(east * shrink, north).reshape(edges).sum(axis=2)
        pixel = (lengths / np.tile(sizes[:, ::-1], 2)).min(axis=1)  # the edges are down, across, up, and back
        miss = np.hypot((east - np.roll(east, 1, axis=1)) * shrink, north - np.roll(north, 1, axis=1)) / 2
        return np.asarray(miss.reshape(edges)[:, :, 1:].max(axis=(1, 2)) > pixel)  # corners may turn


def is_straight(outlines: NDArray[np.float64], sizes: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Return which outlines stay within a quarter of a pixel of the straight lines between their corners: bool (n,)."""
    corners = corners_of(outlines)
    share = np.linspace(0, 1, outlines.shape[1] // 4, endpoint=False)[:, None]
    edges = np.roll(corners, -1, axis=1) - corners
    straight = corners[:, :, None] + edges[:, :, None] * share
    pixel = np.ptp(corners, axis=1) / sizes.max(axis=1)[:, None]
    apart = np.abs(straight.reshape(outlines.shape) - outlines).max(axis=1)
    return (apart <= pixel / 4 + 1e-12).all(axis=1)


def polygons(rings: NDArray[np.float64]) -> list[dict[str, Any]]:
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


def special(outline: NDArray[np.float64], size: NDArray[np.int_]) -> dict[str, Any]:
    """Return an outline (points, 2) that is not plain; size (width, height) in pixels."""
    if not np.isfinite(outline).all():
        return {"geometry": None}
    excess = np.abs(outline[:, 1]).max() - 90
    if excess > np.ptp(outline[:, 1]) / size[1]:  # a pixel whose centre is on the pole is half outside
        return {"geometry": None}
    outline = outline.clip((-np.inf, -90), (np.inf, 90))
    if not np.ptp(outline[:, 1]):  # beyond the pole
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
    if is_straight(rings, size[None]).all():
        rings = corners_of(rings)
    return _cut(rings[0]) if lon.max() > 180 else polygons(rings)[0]


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
    from shapely import Polygon, box, make_valid
    from shapely.affinity import translate

    whole = make_valid(Polygon(ring))  # which may touch itself
    west = whole.intersection(box(-180, -90, 180, 90))
    east = translate(whole.intersection(box(180, -90, 540, 90)), -360)
    parts = [*_faces(west), *_faces(east)]
    if not parts:
        return {"geometry": None}
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
