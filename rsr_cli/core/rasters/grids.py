"""Grids of cells on the Earth, each with a code that is the same for every scene and date."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Spacings in metres that name a grid.
MIN_SPACING_M, MAX_SPACING_M = 10, 1_000_000
#: Rows of Major TOM's published tables are up to this latitude, in degrees north and south.
MAX_LATITUDE = 85


class Cell(NamedTuple):
    """A cell of a grid: its code as STAC's ``grid:code``, and its centre in degrees."""

    code: str
    lon: float
    lat: float


@dataclass(frozen=True)
class MajorTom:
    """The grid of Major TOM (Francis and Czerwinski 2024, section 3.1) at a spacing.

    Rows of cells are parallel to the equator, and the cells of a row begin at longitude 0. A cell is named after its
    south-west corner, by rows up or down from the equator and columns right or left of longitude 0, as in the column
    ``grid_cell`` of Major TOM's tables; the code is that of STAC's grid extension, such as ``MAJORTOM-10-451U_946L``.

    Attributes
    ----------
    spacing_m : int
        Distance between rows, and greatest distance between columns, in metres.
    """

    spacing_m: int

    @property
    def name(self) -> str:
        """The beginning of every code, which has the spacing in kilometres."""
        return f"MAJORTOM-{self.spacing_m / 1000:g}"

    def count_rows(self, south: float, north: float) -> float:
        """Return how many rows there are between two latitudes."""
        from majortom_eg import MajorTomGrid

        return float((north - south) / MajorTomGrid(self.spacing_m, overlap=False).lat_spacing)

    def rows(self, geometry: dict[str, Any]) -> Iterator[list[Cell]]:
        """Yield the cells that a footprint intersects, a row of the grid at a time, from north to south.

        Parameters
        ----------
        geometry : dict
            Polygon or MultiPolygon in lon/lat, cut at the antimeridian.
        """
        from majortom_eg import MajorTomGrid
        from shapely import box, get_parts
        from shapely.geometry import shape

        grid, footprint = MajorTomGrid(self.spacing_m, overlap=False), shape(geometry)
        height = grid.lat_spacing
        _, south, _, north = footprint.bounds
        for row in range(math.floor(north / height), math.floor(south / height) - 1, -1):
            if abs(row * height) > MAX_LATITUDE:
                continue
            cells = {}
            for part in get_parts(footprint.intersection(box(-180, row * height, 180, (row + 1) * height))):
                for cell in grid.generate_grid_cells(part) if part.area else ():  # of a line or point there is none
                    west, bottom, east, _ = cell.geom.bounds
                    if round(bottom / height) == row:  # not a neighbour that it only touches
                        column = _turned(round(west / (east - west)), round(360 / (east - west)))
                        code = f"{self.name}-{_counted(row, 'UD')}_{_counted(column, 'RL')}"
                        cells[code] = Cell(code, (west + east) / 2, (row + 0.5) * height)
            yield list(cells.values())


def _turned(column: int, count: int) -> int:
    """Return the number of a column as the tables have it, from that of one beyond the antimeridian."""
    return (column + count // 2) % count - count // 2


def _counted(number: int, ways: str) -> str:
    """Return a row or column as the tables name it: ``451U``, ``946L``."""
    return f"{abs(number)}{ways[number < 0]}"


def parse_grid(text: str) -> MajorTom:
    """Return the grid of a name and a spacing, such as ``major-tom:10km``.

    Raises
    ------
    UsageError
        There is no such grid.
    """
    found = re.fullmatch(r"major-tom:([0-9]{1,9}(?:\.[0-9]{1,9})?)(k?)m", text)
    metres = Decimal(found[1]) * (1000 if found[2] else 1) if found else Decimal(0)
    if metres % 1 or not MIN_SPACING_M <= metres <= MAX_SPACING_M:
        raise UsageError(
            f"{text!r} is no grid; write major-tom and a spacing of {MIN_SPACING_M}m to {MAX_SPACING_M // 1000}km,"
            " in whole metres, as in major-tom:10km"
        )
    return MajorTom(int(metres))
