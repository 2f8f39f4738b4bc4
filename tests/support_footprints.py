"""Checks of footprints that several test modules share, against pyproj and shapely."""

import numpy as np
import pyproj
import shapely
from support_rasters import RNG


def to_lonlat(crs, transform, columns, rows):
    """Project pixels with pyproj: lon from -180 to 180, lat."""
    a, b, c, d, e, f = transform[:6]
    columns, rows = np.asarray(columns, float), np.asarray(rows, float)
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    lon, lat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(x, y)
    return (np.asarray(lon) + 180) % 360 - 180, np.asarray(lat)


def check_rules(record):
    """Check what RFC 7946 requires of every footprint; return it as a shape."""
    shape = shapely.geometry.shape(record["geometry"])
    assert shape.is_valid
    assert shape.area > 0
    parts = shapely.get_parts(shape)
    assert all(part.exterior.is_ccw and not part.interiors for part in parts)
    polygons = record["geometry"]["coordinates"]
    for ring in [polygons[0]] if shape.geom_type == "Polygon" else [polygon[0] for polygon in polygons]:
        assert ring[0] == ring[-1]
        assert len(ring) >= 4
        assert all(-180 <= lon <= 180 and -90 <= lat <= 90 for lon, lat in ring)
        assert all(round(number, 7) == number for point in ring for number in point)
    west, south, east, north = record["bbox"]
    assert (south, north) == (shape.bounds[1], shape.bounds[3])
    if west <= east:
        assert (west, east) == (shape.bounds[0], shape.bounds[2])
    else:
        assert west == min(part.bounds[0] for part in parts if part.bounds[2] == 180)
        assert east == max(part.bounds[2] for part in parts if part.bounds[0] == -180)
    return shape


def check_inside_and_outside(shape, crs, transform, window):
    """Check that pixels of the window are in its footprint and those around it are not, to a pixel."""
    left, top, width, height = window
    columns = RNG.uniform(left - width / 4, left + width * 5 / 4, 2000)
    rows = RNG.uniform(top - height / 4, top + height * 5 / 4, 2000)
    lon, lat = to_lonlat(crs, transform, columns, rows)
    found = shapely.contains_xy(shape, lon, lat)
    beyond = np.maximum.reduce([left - columns, columns - left - width, top - rows, rows - top - height])
    beyond[~np.isfinite(lon)] = np.nan
    assert (beyond < -1).sum() > 300
    assert found[beyond < -1].all()
    assert not found[beyond > 1].any()
