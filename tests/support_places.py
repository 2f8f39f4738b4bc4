"""Records that have a place: tiles anywhere on the Earth, across the antimeridian and around the poles too."""

from __future__ import annotations

import orjson
import shapely
from support import embedding, feature


def box_geometry(west, south, east, north) -> dict:
    """Draw a box as RFC 7946 has it: one whose east is beyond 180 is cut at the antimeridian."""
    parts = [shapely.box(west, south, min(east, 180), north)]
    if east > 180:
        parts.append(shapely.box(-180, south, east - 360, north))
    shape = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return orjson.loads(shapely.to_geojson(shape))


def tile_at(name, box, vector, **properties) -> dict:
    """Build a record with an embedding and a box as its footprint, or without a place."""
    record = feature(name, embedding=embedding(vector), **properties)
    if box is not None:
        west, south, east, north = box
        record["geometry"] = box_geometry(*box)
        record["bbox"] = [west, south, east - 360 * (east > 180), north]
        record["properties"] = record.pop("properties")  # the last, as an index stores it
    return record
