"""A similarity map: the distances of one query from the tiles of one scene, as a raster."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.errors import RecordError, RsrError, Skips, counted, shown, visible
from rsr_cli.core.rasters import Lattice
from rsr_cli.core.scoring.evaluation import query_and_rank

if TYPE_CHECKING:
    from rsr_cli.core.records.batch import Batch, Record


class SimilarityMap:
    """Collects the hits of one query, which are tiles of one scene, in any order.

    Parameters
    ----------
    skips : Skips
        Asked about hits that cannot be a pixel.
    """

    def __init__(self, skips: Skips) -> None:
        self._skips = skips
        self._query: str | None = None
        self._lattice = Lattice()
        self._distances = array("d")

    def add(self, batch: Batch) -> None:
        """Add hits.

        Raises
        ------
        RecordError
            A record is not a hit, is one of another query, is several tiles, or states no distance.
        RasterError
            As of `Lattice.add`.
        """
        batch.apply(self._add, self._skips)

    def _add(self, record: Record) -> None:
        query, _ = query_and_rank(record)
        self._query = query if self._query is None else self._query
        if query != self._query:
            what = f"is a hit of the query {query!r}, and the first one is of {self._query!r}"
            raise RecordError(what, remedy="one-query")
        tiles, distance = record["properties"].get("tiles"), record["properties"].get("distance")
        if isinstance(tiles, list) and len(tiles) > 1:
            what = f"is an area of {len(tiles)} merged tiles, and states the distance of the nearest alone"
            raise RecordError(what, remedy="unmerged")
        if not isinstance(distance, int | float):
            raise RecordError(f"its distance is not a number: {shown(distance)}", remedy="query")
        self._lattice.add(record)
        self._distances.append(distance)

    def geotiff(self) -> bytes:
        """Return the map as a GeoTIFF: one float32 per tile, see `Lattice`, NaN where there is no hit.

        A warning counts pixels without a hit.

        Raises
        ------
        RsrError
            There are no hits.
        RasterError
            As of `Lattice.geotiff`.
        """
        if self._query is None or not len(self._lattice):
            raise RsrError("no hits came in, so there is nothing to draw")
        with np.errstate(over="ignore"):
            values = np.frombuffer(self._distances).astype(np.float32)
        data, missing = self._lattice.geotiff(values, f"distance from {visible(self._query)}")
        if missing:
            what = f"{missing} of {counted(missing + len(values), 'pixel')} have no hit and are NaN"
            self._skips.warn(RecordError(what, remedy="all-hits"))
        return data
