"""Where records are: footprints on the Earth, their centres, what they share, and the rows of an index at a place.

Footprints are longitudes and latitudes, straight between their points, and cut at the antimeridian (RFC 7946).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import shapely

from rsr_cli.core.errors import RecordError
from rsr_cli.core.records.fields import ROUNDING_DEGREES, bbox_of
from rsr_cli.core.search.area import turned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.index.reading import Index
    from rsr_cli.core.records.batch import Record

Box = tuple[float, float, float, float]
#: Mean radius of WGS84's ellipsoid in metres, (2 a + b) / 3: great circles are on a sphere of it, and so up to 0.6 %
#: off the ellipsoid's geodesics.
EARTH_M = 6371008.7714
#: The centre of a footprint is computed with points that are no further apart, in degrees: the great circles between
#: them are then within a metre of the straight lines in longitude and latitude.
DENSE_DEGREES = 0.1


def footprint_of(record: Record) -> Any:
    """Return the footprint of a record as a shapely geometry in two dimensions, None if it states no place.

    A record without a geometry has that of its bbox.

    Raises
    ------
    RecordError
        The geometry or bbox cannot be read.
    """
    geometry = record.get("geometry")
    if geometry is None:
        box = bbox_of(record)
        if box is None:
            return None
        west, south, east, north = box
        return turned(shapely.box(west, south, east + 360 * (east < west), north))
    try:
        shape = shapely.force_2d(shapely.from_geojson(orjson.dumps(geometry, default=float)))
        # A record of a stranger may cross itself; of such a geometry no area is known.
        shape = shape if shape.is_valid else shapely.make_valid(shape)
    except (shapely.errors.ShapelyError, TypeError) as error:
        what = str(error).partition("\n")[0]
        raise RecordError(f"has a geometry that cannot be read: {what}") from None
    return None if shape.is_empty else turned(shape)


def on_sphere(lon: ArrayLike, lat: ArrayLike) -> NDArray[np.float64]:
    """Return places in degrees as unit vectors: float64 (..., 3)."""
    lon, lat = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def metres(places: NDArray[np.float64], others: NDArray[np.float64] | Any) -> Any:
    """Return great-circle distances in metres between unit vectors (..., 3)."""
    return 2 * EARTH_M * np.arcsin(np.minimum(np.linalg.norm(places - others, axis=-1) / 2, 1))


def centre_of(footprint: Any) -> NDArray[np.float64]:
    """Return the centre of mass of a footprint on the sphere as a unit vector, float64 (3,).

    That is the direction of the integral of the unit vectors over the footprint, which by Stokes' theorem is half the
    sum of the cross products of neighbouring points along its outline: parts on both sides of the antimeridian, and
    around a pole, are added as they are. What has no area has the centre of its box.
    """
    total = np.zeros(3)
    for part in shapely.get_parts(footprint):
        if part.geom_type == "Polygon":
            for ring in shapely.get_rings(shapely.segmentize(shapely.normalize(part), DENSE_DEGREES)):
                points = on_sphere(*shapely.get_coordinates(ring).T)
                points -= points[0]  # of the same area, and small tiles lose no digits
                total += np.cross(points[1:], points[:-1]).sum(axis=0)  # normalize turns outlines clockwise
    length = np.linalg.norm(total)
    if length > 0:
        return np.asarray(total / length)
    west, south, east, north = footprint.bounds
    return on_sphere((west + east) / 2, (south + north) / 2)


def equal_area(footprint: Any) -> Any:
    """Return a footprint on a map of equal areas, the cylindrical one (Snyder 1987, equations 10-1 and 10-2)."""
    return shapely.transform(
        footprint, lambda points: np.stack([points[:, 0], np.degrees(np.sin(np.radians(points[:, 1])))], axis=1)
    )


def holds(footprint: Any, lon: float, lat: float) -> bool:
    """Return whether a place is in a footprint or on its outline; a pole, and the antimeridian, at any longitude."""
    if abs(lat) == 90:
        return bool(footprint.bounds[3] == 90 if lat > 0 else footprint.bounds[1] == -90)
    places = [(lon, lat), (-lon, lat)] if abs(lon) == 180 else [(lon, lat)]
    return bool(shapely.intersects(footprint, shapely.MultiPoint(places)))


def rows_near(index: Index, footprint: Any) -> NDArray[np.int64]:
    """Return the rows of an index whose boxes meet that of a part of a footprint, or touch it: int64, sorted."""
    found = [np.empty(0, np.int64)]
    for part in shapely.get_parts(footprint):
        for segment in index.segments:
            rows = _meeting(segment.columns.boxes, part.bounds)
            found.append(segment.first + np.setdiff1d(rows, segment.deleted, assume_unique=True))
    return np.unique(np.concatenate(found))


def _meeting(boxes: NDArray[np.float32], box: Box) -> NDArray[np.int64]:
    """Return the numbers of the boxes (n, 4) that meet a box, as arcs of longitude and latitude do."""
    west, south, east, north = box
    rows = np.flatnonzero((boxes[:, 1] <= north + ROUNDING_DEGREES) & (boxes[:, 3] >= south - ROUNDING_DEGREES))
    wests, easts = boxes[rows, 0].astype(np.float64), boxes[rows, 2].astype(np.float64)
    widths = easts - wests + 360 * (easts < wests)
    behind = (west - wests + ROUNDING_DEGREES) % 360 <= widths + 2 * ROUNDING_DEGREES
    ahead = (wests - west + ROUNDING_DEGREES) % 360 <= east - west + 2 * ROUNDING_DEGREES
    return np.asarray(rows[behind | ahead])


def footprint_at(index: Index, row: int) -> Any:
    """Return the footprint of a row of an index, None if it states no place.

    Raises
    ------
    RecordError
        Its geometry cannot be read.
    """
    name, text = index.record(row)
    try:
        return footprint_of(orjson.loads(text))
    except RecordError as error:
        error.within(f"{index.path}: {name}")
        raise


def row_at(index: Index, lon: float, lat: float, skips: Skips) -> int:
    """Return the row whose footprint holds a place; of several the one with the nearest centre, then the first.

    A warning says where several have the nearest centre, such as those of several dates.

    Raises
    ------
    RecordError
        None does.
    """
    held = sorted(_holding(index, lon, lat))
    if held:
        row = held[0][1]
        if (same := sum(distance == held[0][0] for distance, _ in held)) > 1:
            what = f"{same} items of the index have the nearest centre, of which {index.record(row)[0]!r} is taken"
            skips.warn(RecordError(what, f"{lon:g},{lat:g}", remedy="id-of-date"))
        return row
    what = f"has no tile that holds {lon:g},{lat:g}"
    if abs(lon) <= 90 and any(_holding(index, lat, lon)):
        raise RecordError(f"{what}, but one that holds {lat:g},{lon:g}: the longitude is first", str(index.path))
    place = on_sphere(lon, lat)
    nearest = min(_centres_from(index, place), default=None)
    if nearest is None:
        raise RecordError("has no tile that states a place", str(index.path))
    footprint = footprint_at(index, nearest[1])
    distance_km = metres(centre_of(footprint), place) / 1000
    shown = f"{distance_km:,.0f}" if distance_km >= 100 else f"{distance_km:.3g}"
    name, _ = index.record(nearest[1])
    raise RecordError(f"{what}; the centre of the nearest, {name!r}, is {shown} km away", str(index.path))


def _holding(index: Index, lon: float, lat: float) -> Iterator[tuple[float, int]]:
    """Yield of each row whose footprint holds a place the distance to its centre, in metres, and its number."""
    place = on_sphere(lon, lat)
    around = shapely.box(-180, lat, 180, lat) if abs(lat) == 90 else shapely.Point(lon, lat)
    for row in rows_near(index, around).tolist():
        footprint = footprint_at(index, row)
        if footprint is not None and holds(footprint, lon, lat):
            yield round(float(metres(centre_of(footprint), place)), 3), row  # to a millimetre: ties stay ties


def _centres_from(index: Index, place: NDArray[np.float64]) -> Iterator[tuple[float, int]]:
    """Yield of each segment the distance from a place to the nearest centre of a box, in metres, and its row."""
    for segment in index.segments:
        away = metres(_middles(segment.columns.boxes.astype(np.float64)), place)
        away[segment.deleted] = np.nan
        if not np.isnan(away).all():
            row = int(np.nanargmin(away))
            yield float(away[row]), segment.first + row


def _middles(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the middles of boxes (n, 4) as unit vectors (n, 3)."""
    wests, souths, easts, norths = boxes.T
    return on_sphere((wests + easts) / 2 + 180 * (easts < wests), (souths + norths) / 2)


def circles_around(index: Index, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return circles that contain the boxes of rows, and so the centres of their footprints.

    Returns
    -------
    middles : numpy.ndarray
        Unit vectors, float64 (n, 3); NaN without a box.
    radii_m : numpy.ndarray
        float64 (n,): along great circles; infinite around a box that is wider than half of the Earth.
    """
    boxes = np.full((len(rows), 4), np.nan)
    for segment, mine, at in index.by_segment(rows):
        boxes[mine] = segment.columns.boxes[at]
    middles = _middles(boxes)
    # the point of a box that is the farthest from its middle is a corner, and the eastern are as far as the western
    corners = (metres(on_sphere(boxes[:, 0], boxes[:, side]), middles) for side in (1, 3))
    widths = boxes[:, 2] - boxes[:, 0] + 360 * (boxes[:, 2] < boxes[:, 0])
    return middles, np.where(widths > 180, np.inf, np.maximum(*corners))


def rows_in(index: Index, footprint: Any, least_share: float) -> NDArray[np.int64]:
    """Return the rows whose footprints share area with one: more than a share of the smaller one's area: int64, sorted.

    Where one has no area, as a point, they need only meet.
    """
    area = equal_area(footprint)
    found = []
    for row in rows_near(index, footprint).tolist():
        other = footprint_at(index, row)
        if other is not None and shares(area, equal_area(other), least_share, min):
            found.append(row)
    return np.array(found, np.int64)


def shares(area: Any, other: Any, least_share: float, of: Any) -> bool:
    """Return whether two footprints on a map of equal areas share more than a share of the smaller one, or larger."""
    whole = of(area.area, other.area)
    if not area.intersects(other):
        return False
    return whole == 0 or area.intersection(other).area > least_share * whole
