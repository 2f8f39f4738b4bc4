"""Geometries as well-known binary (WKB), many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from rsr_cli.core.errors import RecordError, RsrError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray
    from rasterio.crs import CRS

Geometry = dict[str, Any]
_POINT, _POLYGON = 1, 3
_TYPE_OF_POINT = b"\x01\0\0\0"
_TYPES = dict(
    enumerate(
        (
            *("Point", "LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon"),
            "GeometryCollection",
        ),
        1,
    )
)
#: Bytes before the coordinates of a point, and of a polygon of one ring: byte order, type, numbers of rings and points.
_POINT_HEAD, _POLYGON_HEAD = 5, 13
_POINT_BYTES = 16
_FEWEST_POINTS = 4
#: Coordinates that no map reaches, in the units of a projected CRS and of a geographic one.
BEYOND_MAPS, BEYOND_TURNS = 1e9, 1e7


def to_wkb(geometries: Sequence[Geometry | None]) -> list[bytes | None]:
    """Return GeoJSON geometries in WKB, little-endian; ``None`` for one that is none or is not sound."""
    rings = _plain_rings(geometries)
    if rings is not None:
        n, points, _ = rings.shape
        rows = np.empty((n, _POLYGON_HEAD + points * _POINT_BYTES), np.uint8)
        rows[:, :_POLYGON_HEAD] = np.frombuffer(_polygon_head(points), np.uint8)
        rows[:, _POLYGON_HEAD:] = rings.reshape(n, -1).view(np.uint8)
        data, width = rows.tobytes(), rows.shape[1]
        return [data[i : i + width] for i in range(0, len(data), width)]
    return [None if geometry is None else _one_to_wkb(geometry) for geometry in geometries]


def _polygon_head(points: int) -> bytes:
    """Return the first bytes of a polygon of one ring."""
    return b"\x01" + np.array([_POLYGON, 1, points], "<u4").tobytes()


def _plain_rings(geometries: Sequence[Geometry | None]) -> NDArray[np.float64] | None:
    """Return the rings (n, points, 2) of polygons that have one each, of as many points; None if others are there.

    Rings that are not closed, or have coordinates that are none, are others: a reader of WKB refuses them.
    """
    try:
        if {geometry["type"] for geometry in geometries} != {"Polygon"}:  # type: ignore[index]
            return None
        rings = np.array([geometry["coordinates"] for geometry in geometries], "<f8")  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return None
    if rings.ndim != 4 or rings.shape[1::2] != (1, 2) or rings.shape[2] < _FEWEST_POINTS:
        return None
    rings = np.ascontiguousarray(rings[:, 0])
    return rings if np.isfinite(rings).all() and (rings[:, 0] == rings[:, -1]).all() else None


def _one_to_wkb(geometry: Geometry) -> bytes | None:
    import shapely
    from shapely.geometry import shape

    try:
        return bytes(shapely.to_wkb(shape(geometry), byte_order=1, flavor="iso"))
    except Exception:  # what shapely raises for coordinates that are none is not documented
        return None


def from_wkt(text: str, place: str) -> bytes:
    """Return a geometry in well-known text (WKT) as WKB, little-endian; raise RsrError if it is none."""
    import shapely

    try:
        return bytes(shapely.to_wkb(shapely.from_wkt(text), byte_order=1, flavor="iso"))
    except shapely.errors.ShapelyError as error:
        what = str(error).partition("\n")[0]
        raise RsrError(f"its geometry is not WKT: {what}", place) from None


def from_wkb(column: pa.Array) -> tuple[list[Geometry | None], NDArray[np.float64]]:
    """Read geometries.

    Parameters
    ----------
    column : pyarrow.Array
        WKB (n,), binary.

    Returns
    -------
    list of dict or None
        GeoJSON geometries, None for null.
    numpy.ndarray
        float64 (n, 4): the least and greatest x and y, as xmin, ymin, xmax, ymax; NaN without any coordinates.

    Raises
    ------
    RecordError
        A geometry is not WKB.
    """
    rows = column.to_pylist()
    found: list[Geometry | None] = [None] * len(rows)
    boxes = np.full((len(rows), 4), np.nan)
    heads: dict[tuple[int, bytes], list[int]] = {}
    for i, row in enumerate(rows):
        if row is not None:
            heads.setdefault(
                (len(row), row[: _POINT_HEAD if row[1:5] == _TYPE_OF_POINT else _POLYGON_HEAD]), []
            ).append(i)
    for (size, head), numbers in heads.items():
        data = b"".join(rows[i] or b"" for i in numbers)
        points = _coordinates(np.frombuffer(data, np.uint8).reshape(len(numbers), size), head) if size else None
        if points is None:
            _read_others(rows, numbers, found, boxes)
            continue
        boxes[numbers] = boxes_of_rings(points)
        if len(head) == _POINT_HEAD:
            for i, (point,) in zip(numbers, points.tolist(), strict=True):
                found[i] = {"type": "Point", "coordinates": point}
        else:
            for i, ring in zip(numbers, points.tolist(), strict=True):
                found[i] = {"type": "Polygon", "coordinates": [ring]}
    return found, boxes


def split_json(numbers: NDArray[Any]) -> list[str]:
    """Return each row of an array (n, ...) of numbers as JSON, without the brackets at its ends."""
    text = orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    depth = numbers.ndim - 1
    return text[depth + 1 : -depth - 1].split(f"{']' * depth},{'[' * depth}")


def boxes_of(column: pa.Array) -> NDArray[np.float64]:
    """Return the boxes of geometries in WKB (n,) as `from_wkb` does."""
    rings = plain_rings(column)
    return from_wkb(column)[1] if rings is None else boxes_of_rings(rings)


def boxes_of_rings(rings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the boxes (n, 4) of rings (n, points, 2)."""
    boxes = np.tile(rings[:, 0], 2)
    for points in np.moveaxis(rings[:, 1:], 1, 0):  # is faster than reducing along so short an axis
        np.minimum(boxes[:, :2], points, out=boxes[:, :2])
        np.maximum(boxes[:, 2:], points, out=boxes[:, 2:])
    return boxes


def plain_rings(column: pa.Array) -> NDArray[np.float64] | None:
    """Return the rings (n, points, 2) of polygons in WKB that have one each, of as many points, None for others."""
    if not len(column) or column.null_count:
        return None
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    size = int(offsets[1] - offsets[0])
    if size <= _POLYGON_HEAD or (np.diff(offsets) != size).any():
        return None
    rows = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].reshape(-1, size)
    head = rows[0, :_POLYGON_HEAD].tobytes()
    return _coordinates(rows, head) if (rows[:, :_POLYGON_HEAD] == rows[0, :_POLYGON_HEAD]).all() else None


def is_lonlat(crs: Any) -> bool:
    """Return whether a CRS, in PROJJSON or as a text, is WGS84 in longitude and latitude."""
    if isinstance(crs, str):
        return crs.upper() in ("OGC:CRS84", "EPSG:4326")
    known = crs.get("id") if isinstance(crs, dict) else None
    return isinstance(known, dict) and (known.get("authority"), str(known.get("code"))) in (
        ("OGC", "CRS84"),
        ("EPSG", "4326"),
    )


def is_projected(crs: Any) -> bool:
    """Return whether the coordinates of a CRS are lengths, and not degrees; raise RsrError if PROJ does not know it."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return bool(CRS.from_user_input(crs).is_projected)
    except CRSError as error:
        what = str(error).partition("\n")[0]
        raise RsrError(f"has a CRS that cannot be used: {what}") from None


def transform_points(source: CRS, target: CRS, xs: Any, ys: Any) -> tuple[Any, Any]:
    """Transform points from one CRS to another as rasterio does; those beyond any map become infinite or NaN.

    GDAL turns longitudes back by one turn at a time, for ever if they are so large that a turn is less than a rounding.
    """
    from rasterio.warp import transform

    limit = BEYOND_TURNS if source.is_geographic else BEYOND_MAPS
    points = np.array([xs, ys], dtype=float)
    found = transform(source, target, *np.where(np.abs(points) < limit, points, np.nan))
    return found[0], found[1]


def to_lonlat(column: pa.Array, crs: Any) -> pa.Array:
    """Return geometries in WKB (n,) of a CRS, which is anything that PROJ reads, in longitude and latitude."""
    import pyarrow as pa
    import shapely
    from rasterio.crs import CRS

    known, lonlat = CRS.from_user_input(crs), CRS.from_user_input("OGC:CRS84")
    with np.errstate(invalid="ignore"):  # NaN among coordinates
        shapes = shapely.from_wkb(column.to_numpy(zero_copy_only=False))
    turned = shapely.transform(shapes, lambda points: np.stack(transform_points(known, lonlat, *points.T), axis=1))
    return pa.array(shapely.to_wkb(turned, byte_order=1, flavor="iso"), pa.binary(), from_pandas=True)


def geometry_types(column: pa.Array) -> set[str]:
    """Return the types of geometries in WKB as GeoParquet names them, such as ``Polygon`` or ``Point Z``."""
    found = set()
    for head in {row[:5] for row in column.to_pylist() if row is not None}:
        number = int.from_bytes(head[1:5], "little" if head[0] else "big")
        kind, z = number % 1000, bool(number & 1 << 31) or number // 1000 in (1, 3)
        found.add(f"{_TYPES.get(kind & 0xFF, 'Geometry')}{' Z' * z}")
    return found


def _coordinates(rows: NDArray[np.uint8], head: bytes) -> NDArray[np.float64] | None:
    """Return the coordinates (n, points, 2) of points or polygons of one ring, uint8 (n, size), that begin alike.

    None if they are others.
    """
    n, size = rows.shape
    points = (size - len(head)) // _POINT_BYTES
    known = b"\x01" + _TYPE_OF_POINT if len(head) == _POINT_HEAD else _polygon_head(points)
    if points < 1 or head != known or size != len(head) + points * _POINT_BYTES:
        return None
    values = np.ascontiguousarray(rows[:, len(head) :]).view("<f8").reshape(n, points, 2)
    return values if np.isfinite(values).all() else None  # an empty point has NaN


def _read_others(
    rows: Sequence[bytes | None], numbers: Sequence[int], found: list[Geometry | None], boxes: NDArray[np.float64]
) -> None:
    """Read geometries of other types."""
    import shapely
    from shapely.geometry import mapping

    try:
        with np.errstate(invalid="ignore"):  # NaN among coordinates
            shapes = shapely.from_wkb([rows[i] for i in numbers])
            boxes[list(numbers)] = shapely.bounds(shapes)
    except shapely.errors.ShapelyError as error:
        raise RecordError(f"a geometry is not WKB: {error}") from None
    for i, each in zip(numbers, shapes, strict=True):
        found[i] = _lists(mapping(each))


def _lists(value: Any) -> Any:
    """Return a mapping of shapely's with lists in place of tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple | list) else value
