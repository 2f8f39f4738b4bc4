"""A map of the footprints of a query and its hits, drawn by matplotlib as SVG."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.errors import RecordError
from rsr_cli.core.figures.canvas import GREY, SMALL_PT, save, style
from rsr_cli.core.figures.gallery import FRAMES
from rsr_cli.core.records.exact import dumps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from rsr_cli.core.figures.gallery import Item, Row

    #: The polygons, lines and points of a footprint: float64 (n, 2) each, longitude and latitude.
    Parts = list[NDArray[np.float64]]

#: Extent of the smallest map, in degrees.
LEAST_SPAN = 0.02


def draw_map(row: Row, number: int) -> tuple[str, list[Item]]:
    """Draw the footprints of a query and its hits in longitude and latitude, across the antimeridian if need be.

    Parameters
    ----------
    row : Row
        The query and its hits.
    number : int
        Number of the row, from 0; the elements of a hit have the id ``hit-NUMBER-RANK``.

    Returns
    -------
    str
        An ``svg`` element, empty if nothing has a footprint.
    list of Item
        Items without a footprint in longitude and latitude, which are not drawn.
    """
    items: list[Item] = [row.query, *row.hits]
    footprints = [_parts(item) for item in items]
    lost = [item for item, parts in zip(items, footprints, strict=True) if not parts and item.record is not None]
    if not any(footprints):
        return "", lost
    west = _west([part for parts in footprints for part in parts])
    footprints = [[_east_of(west, part) for part in parts] for parts in footprints]

    with style(**{"svg.hashsalt": str(number)}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(color="0.85", linewidth=0.6)
        axes.set_axisbelow(True)
        for item, parts in reversed(list(zip(items, footprints, strict=True))):  # the first ones on top
            if parts:
                _draw_footprint(axes, item, parts, f"hit-{number}-{getattr(item, 'rank', 0)}")
        _frame(axes, np.concatenate([part for parts in footprints for part in parts]))
        text = save(figure, "svg").decode()
    return text[text.index("<svg") :], lost


def _frame(axes: Axes, points: NDArray[np.float64]) -> None:
    """Fit the axes to points (n, 2), and label them in degrees."""
    lows, highs = points.min(0), points.max(0)
    room = np.maximum(0.08 * (highs - lows), LEAST_SPAN / 2)
    axes.set(xlim=(lows[0] - room[0], highs[0] + room[0]), ylim=(lows[1] - room[1], highs[1] + room[1]))
    axes.set_aspect(1 / max(0.2, math.cos(math.radians((lows[1] + highs[1]) / 2))), adjustable="datalim")
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(lambda x, _: _degrees((x + 180) % 360 - 180, "EW"))
    axes.yaxis.set_major_formatter(lambda y, _: _degrees(y, "NS") if abs(y) <= 90 else "")


def _degrees(value: float, names: str) -> str:
    value = round(float(value), 6)
    return f"{abs(value):g}\N{DEGREE SIGN}{names[value < 0] if value else ''}"


def _draw_footprint(axes: Axes, item: Item, parts: Parts, name: str) -> None:
    agreement = getattr(item, "agreement", None)
    colour = FRAMES[agreement].colour if agreement else "black" if not hasattr(item, "rank") else GREY
    for number, part in enumerate(parts):
        axes.fill(*part.T, facecolor=(colour, 0.25), edgecolor=colour, linewidth=1, gid=f"{name}-{number}")
    x, y = (np.min([part.min(0) for part in parts], 0) + np.max([part.max(0) for part in parts], 0)) / 2
    rank = getattr(item, "rank", None)
    marker, size_pt = ("o", 10) if rank else ("*", 14)
    axes.plot(x, y, marker, color=colour, markersize=size_pt, markeredgecolor="white", markeredgewidth=0.6, gid=name)
    axes.annotate(str(rank or ""), (x, y), color="white", fontsize=SMALL_PT, ha="center", va="center_baseline")


def _parts(item: Item) -> Parts:
    """Return a footprint's polygons (their outer rings), lines and points."""
    import shapely
    from shapely.errors import ShapelyError

    try:
        geometry = shapely.from_geojson(dumps((item.record or {}).get("geometry")))
    except (ShapelyError, RecordError):  # none, or malformed
        return []
    rings = [shapely.get_exterior_ring(part) or part for part in shapely.get_parts(geometry) if not part.is_empty]
    parts = [shapely.get_coordinates(ring) for ring in rings]
    on_earth = all((np.abs(part) <= [360, 90]).all() for part in parts)
    return parts if on_earth else []


def _west(parts: Sequence[NDArray[np.float64]]) -> float:
    """Return the longitude where a map of all parts begins: the east end of the widest gap between them."""
    spans = sorted(((part[:, 0].min() + 180) % 360 - 180, np.ptp(part[:, 0])) for part in parts)
    widest, west = -1.0, spans[0][0]
    reached = max(left + span for left, span in spans) - 360
    for left, span in spans:
        if left - reached > widest:
            widest, west = left - reached, left
        reached = max(reached, left + span)
    return float(west)


def _east_of(west: float, part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift a part by whole turns to less than 360 degrees east of ``west``; 1e-9 allows for rounding of ``west``."""
    return part - [360 * math.floor((part[:, 0].min() - west) / 360 + 1e-9), 0]
