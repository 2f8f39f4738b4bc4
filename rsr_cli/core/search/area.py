"""Areas on the map, as a GeoJSON file draws them, and which footprints lie within."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import shapely
from shapely.affinity import translate
from shapely.geometry import shape

from rsr_cli.core.errors import UsageError, shown
from rsr_cli.core.files import reason
from rsr_cli.core.inputs import read_bytes
from rsr_cli.core.records.fields import ROUNDING_DEGREES
from rsr_cli.core.records.geometry import is_lonlat, to_wkb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.records.geometry import Geometry

RECORD_SEPARATOR = b"\x1e"  # RFC 8142
#: What precedes the code in the name of a CRS, as in urn:ogc:def:crs:OGC:1.3:CRS84.
_URN = re.compile(r"^urn:ogc:def:crs:(\w+):[\d.]*:", re.IGNORECASE)
#: Boxes of longitudes, and by how much each is moved to be on the map from -180 to 180.
_TURNS = ((-540, 360), (-180, 0), (180, -360))


@dataclass(frozen=True)
class Area:
    """An area on the map in degrees, cut at the antimeridian.

    Parameters
    ----------
    geometry : shapely.Geometry
        A valid polygon, or several, within -180..180 degrees of longitude.
    """

    geometry: Any

    @classmethod
    def read(cls, path: str) -> Area:
        """Read the polygons of a GeoJSON file, of one object or one per line; together they are the area.

        Raises
        ------
        UsageError
            The file is no GeoJSON, has other geometries than polygons or none, is not in degrees, or has a polygon that
            is not valid.
        """
        try:
            objects = _objects(read_bytes(Path(path)))
        except OSError as error:
            raise UsageError(f"cannot be read: {reason(error)}", path) from None
        except orjson.JSONDecodeError:
            raise UsageError("is not GeoJSON", path, remedy="vector") from None
        try:
            polygons = [_polygon(geometry) for found in objects for geometry in _geometries(found)]
        except UsageError as error:
            error.within(path)
            raise
        if not polygons:
            raise UsageError("has no polygon", path)
        geometry = polygons[0] if len(polygons) == 1 else shapely.union_all(polygons)
        shapely.prepare(geometry)
        return cls(geometry)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Least and greatest longitude and latitude: west, south, east, north."""
        return self.geometry.bounds

    def of_boxes(self, boxes: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which boxes (n, 4), west > east across the antimeridian, are in the area, and which touch it."""
        west, south, east, north = boxes.T
        beyond = (west > east) & (east > -180)  # has a part on the other side of the antimeridian
        before = ~beyond | (west < 180)
        inside, touched = np.ones(len(boxes), np.bool_), np.zeros(len(boxes), np.bool_)
        for some, start, end in (
            (before, west, np.where(west > east, 180, east)),
            (beyond, np.full_like(west, -180), east),
        ):
            shapes = _rectangles(start[some], south[some], end[some], north[some])
            inside[some] &= shapely.covers(self.geometry, shapes)
            touched[some] |= shapely.intersects(self.geometry, shapes)
        return inside, touched

    def covers(self, footprints: Sequence[Geometry | None], boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which footprints lie in the area, with their edges; one that is ``None`` is its box (n, 4)."""
        shapes = shapely.from_wkb(to_wkb(footprints))
        west, _, east, _ = shapely.bounds(shapes).T
        for i in ((west < -180) | (east > 180)).nonzero()[0]:
            shapes[i] = turned(shapes[i])
        found = shapely.covers(self.geometry, shapes)
        without = np.array([footprint is None for footprint in footprints])
        found[without], _ = self.of_boxes(boxes[without])
        return found


def turned(geometry: Any) -> Any:
    """Return a geometry whose parts beyond 180 degrees of longitude are where they are on the map."""
    west, _, east, _ = geometry.bounds
    if west >= -180 and east <= 180:
        return geometry
    dimensions = shapely.get_dimensions(geometry)
    parts = []
    for start, move in _TURNS:
        cut = shapely.intersection(geometry, shapely.box(start, -91, start + 360, 91))
        # what only touches the antimeridian leaves its edge there
        same = [part for part in shapely.get_parts(cut) if shapely.get_dimensions(part) == dimensions]
        parts += [translate(part, move) for part in same]
    return shapely.union_all(parts)


def _rectangles(
    west: NDArray[np.float64], south: NDArray[np.float64], east: NDArray[np.float64], north: NDArray[np.float64]
) -> NDArray[Any]:
    """Return rectangles (n,), as lines or points those that are none, with which a polygon could not be compared."""
    shapes = np.asarray(shapely.box(west, south, east, north), object)
    flat, point = (west == east) | (south == north), (west == east) & (south == north)
    corners = np.stack([west, south, east, north], axis=1).reshape(-1, 2, 2)
    shapes[flat] = shapely.linestrings(corners[flat])
    shapes[point] = shapely.points(corners[point, 0])
    return shapes


def _objects(data: bytes) -> list[Any]:
    """Parse a file of one JSON object, or of one per line."""
    try:
        return [orjson.loads(data)]
    except orjson.JSONDecodeError:
        lines = [line.strip(RECORD_SEPARATOR + b" \t\r") for line in data.split(b"\n")]
        return [orjson.loads(line) for line in lines if line]


def _geometries(found: Any) -> Iterator[Any]:
    """Yield the geometries of a GeoJSON object."""
    if not isinstance(found, dict):
        raise UsageError(f"is not GeoJSON: {shown(found)}", remedy="vector")
    crs = found.get("crs")
    name = crs.get("properties", {}).get("name", "") if isinstance(crs, dict) else ""
    if name and not is_lonlat(_URN.sub(r"\1:", str(name))):
        raise UsageError(f"is in {name}, not in longitude and latitude of WGS84", remedy="vector")
    kind = found.get("type")
    several = {"FeatureCollection": "features", "GeometryCollection": "geometries"}.get(str(kind))
    if several:
        members = found.get(several)
        if not isinstance(members, list):
            raise UsageError(f"is not GeoJSON: its {several} are {shown(members)}")
        for member in members:
            yield from _geometries(member)
    elif kind == "Feature":
        if found.get("geometry") is not None:
            yield from _geometries(found["geometry"])
    else:
        yield found


def _polygon(geometry: Any) -> Any:
    """Return a GeoJSON geometry, which must be a valid polygon, or several, in degrees."""
    if geometry.get("type") not in ("Polygon", "MultiPolygon"):
        raise UsageError(f"has {shown(geometry.get('type'))} where a Polygon or MultiPolygon is expected")
    try:
        polygon = shapely.force_2d(shape(geometry))
    except Exception:  # what shapely raises for coordinates that are none is not documented
        raise UsageError(f"has a geometry that cannot be read: {shown(geometry)}") from None
    if polygon.is_empty:
        raise UsageError("has a polygon without coordinates")
    west, south, east, north = polygon.bounds
    off = max(-90 - south, north - 90, -360 - west, east - 540) > ROUNDING_DEGREES
    if off or not all(map(math.isfinite, polygon.bounds)):
        raise UsageError(f"is not in degrees: a polygon spans {west:g} {south:g} {east:g} {north:g}", remedy="vector")
    if not polygon.is_valid:
        raise UsageError(f"has a polygon that is not valid: {shapely.is_valid_reason(polygon)}")
    return turned(polygon)
