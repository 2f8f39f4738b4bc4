"""Hits: the found records with query, rank and distance, alone or merged into areas, as lines of JSON."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import shapely

from rsr_cli.core.errors import RecordError
from rsr_cli.core.index.table import hit_line
from rsr_cli.core.records.exact import loads
from rsr_cli.core.records.fields import HIT_FIELDS, bbox_of, gsd_of, interval_of, scene_of
from rsr_cli.core.records.jsonl import dump
from rsr_cli.core.search.places import centre_of, footprint_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.index.reading import Index
    from rsr_cli.core.records.batch import Record

#: Digits of a degree in footprints, as those of tiles have: about a centimetre.
DEGREE_DIGITS = 7
#: Metres of a degree of latitude, at least.
DEGREE_M = 110_574
#: Latitude at which the map ends on which footprints touch.
MAP_END = 89.999


@dataclass
class Hit:
    """A row that was found.

    Attributes
    ----------
    distance : float
        From the query.
    row : int
        In the index.
    id, text : str
        Of its record, as they are stored.
    """

    distance: float
    row: int
    id: str
    text: str

    @classmethod
    def at(cls, index: Index, distance: float, row: int) -> Hit:
        """Read the record of a row."""
        return cls(distance, row, *index.record(row))

    @cached_property
    def record(self) -> Record:
        """The record."""
        return orjson.loads(self.text)

    @cached_property
    def footprint(self) -> Any:
        """Where it is, as `places.footprint_of` has it."""
        try:
            return footprint_of(self.record)
        except RecordError as error:
            error.within(self.id)
            raise

    @cached_property
    def scene(self) -> tuple[str | None, str]:
        """What identifies its scene."""
        return scene_of(self.record)

    @cached_property
    def centre(self) -> NDArray[np.float64] | None:
        """The centre of the footprint as a unit vector, None without a place."""
        return None if self.footprint is None else centre_of(self.footprint)


def lines(asked: Any, labels: list[str] | None, hits: Sequence[Hit]) -> list[bytes]:
    """Return the hits of a query, in the order of their ranks, as lines of JSON.

    Parameters
    ----------
    asked : str or number
        The query's id.
    labels : list of str or None
        Of the query.
    hits : sequence of Hit
        In the order of their ranks.
    """
    return [hit_line(hit.text, _added(asked, rank, hit.distance, labels)) for rank, hit in enumerate(hits, 1)]


def _added(*values: Any) -> dict[str, Any]:
    """Return what a hit has besides its record."""
    return {field: value for field, value in zip(HIT_FIELDS, values, strict=True) if value is not None}


def area_lines(asked: Any, labels: list[str] | None, hits: Sequence[Hit]) -> list[bytes]:
    """Return the hits of a query merged into areas, the one with the nearest tile first, as lines of JSON.

    Hits are of one area if their footprints overlap or touch, or others between them do. An area is the record of its
    nearest tile with the geometry and bbox of all, the ids of all as ``tiles``, and their ``start_datetime`` and
    ``end_datetime`` if they are of several times.
    """
    merged = []
    for rank, tiles in enumerate(_touching(hits), 1):
        nearest = tiles[0]
        area: Record = loads(nearest.text.encode())
        if len(tiles) > 1:
            area["geometry"] = _union(tiles)
            area["bbox"] = bbox_of({"geometry": area["geometry"]})
        area["properties"] |= _times_of(tiles) | _added(asked, rank, nearest.distance, labels)
        area["properties"]["tiles"] = [tile.id for tile in tiles]
        merged.append(dump(area))
    return merged


def _touching(hits: Sequence[Hit]) -> list[list[Hit]]:
    """Return hits in groups that touch, in the order of the first of each; a hit without a place is alone.

    Footprints touch that are less than a pixel apart, as neighbours are that a grid cut from one scene, and corners do.
    They are compared on Mercator's map, where a pixel is as wide as high, and again a whole turn to the east and west.
    """
    leader = list(range(len(hits)))

    def first(i: int) -> int:
        while leader[i] != i:
            leader[i] = i = leader[leader[i]]
        return i

    placed = [i for i, hit in enumerate(hits) if hit.footprint is not None]
    maps = shapely.transform(np.array([hits[i].footprint for i in placed], object), _mercator)
    pixels = np.array([(gsd_of(hits[i].record) or 0) / DEGREE_M for i in placed]) + 10.0**-DEGREE_DIGITS
    stretch = 1 / np.cos(np.radians([min(max(map(abs, hits[i].footprint.bounds[1::2])), MAP_END) for i in placed]))
    tree = shapely.STRtree(maps)
    for turn in (-360, 0, 360):
        moved = shapely.transform(maps, lambda points, turn=turn: points + np.array((turn, 0)))
        for a, b in tree.query(moved, "dwithin", pixels * stretch).T.tolist():
            one, other = first(placed[a]), first(placed[b])
            leader[max(one, other)] = min(one, other)
    groups: dict[int, list[Hit]] = {}
    for i, hit in enumerate(hits):
        groups.setdefault(first(i), []).append(hit)
    return list(groups.values())


def _mercator(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return longitudes and latitudes (n, 2) on Mercator's map of a sphere, in degrees at the equator."""
    latitudes = np.radians(points[:, 1].clip(-MAP_END, MAP_END))
    return np.stack([points[:, 0], np.degrees(np.arcsinh(np.tan(latitudes)))], axis=1)


def _union(tiles: Sequence[Hit]) -> dict[str, Any]:
    """Return the union of footprints as GeoJSON, its outlines counter-clockwise (RFC 7946)."""
    whole = shapely.union_all([tile.footprint for tile in tiles], grid_size=10**-DEGREE_DIGITS)
    turned = shapely.reverse(shapely.normalize(whole))
    rounded = shapely.transform(turned, lambda points: points.round(DEGREE_DIGITS))
    return orjson.loads(shapely.to_geojson(rounded))


def _times_of(tiles: Sequence[Hit]) -> dict[str, str]:
    """Return the first and last time that tiles state, if there are several."""
    stated = []
    for tile in tiles:
        properties = tile.record["properties"]
        one = properties.get("datetime")
        ends = (one, one) if one is not None else (properties.get("start_datetime"), properties.get("end_datetime"))
        stated += [pair for pair in zip(interval_of(tile.record), ends, strict=True) if isinstance(pair[1], str)]
    if len({moment for moment, _ in stated}) < 2:
        return {}
    return {"start_datetime": min(stated)[1], "end_datetime": max(stated)[1]}
