"""Maps of a query and its hits in longitude and latitude, across the antimeridian if need be.

Up to `MOST_NUMBERED` hits are outlines with their ranks. More are filled with the colours of their distances: of all
tiles of a scene, that is a map of what is similar to the query.
"""

from __future__ import annotations

import logging
import math
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from rsr_cli.core.errors import RecordError, RsrError, counted
from rsr_cli.core.figures.canvas import GREY, SMALL_PT, TEXT_PT, save, style, wrap
from rsr_cli.core.figures.gallery import FRAMES
from rsr_cli.core.rasters import Lattice
from rsr_cli.core.records.geometry import to_wkb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.path import Path
    from numpy.typing import NDArray

    from rsr_cli.core.figures.gallery import Hit, Item, Row
    from rsr_cli.core.records.batch import Record

    #: What to outline besides footprints: polygons in degrees, cut at the antimeridian, by name.
    Outlines = Mapping[str, Any]

log = logging.getLogger("rsr")

#: Most hits of a query that are drawn with their ranks.
MOST_NUMBERED = 50
#: Extent of the smallest map, in degrees.
LEAST_SPAN = 0.02
#: How areas are outlined, one after the other.
EDGES = ("--", ":")
# Inches: a map in a page, and one in a figure.
PAGE_IN, FIGURE_IN = (5.2, 3.4), (6.4, 4.2)
#: What a map needs of the properties of a record.
PROPERTIES = ("proj:code", "proj:wkt2", "proj:transform", "proj:shape", "collection", "grid:code", "tiles")


def placed(record: Record) -> Record:
    """Return what a map needs of a record, which takes less memory than all of it."""
    properties = {name: record["properties"][name] for name in PROPERTIES if name in record["properties"]}
    return {"id": record.get("id"), "geometry": record.get("geometry"), "properties": properties}


def outline_of(box: tuple[float, float, float, float]) -> Any:
    """Return west, south, east, north in degrees as a polygon; west > east across the antimeridian."""
    west, south, east, north = box
    return shapely.box(west, south, east + 360 * (west > east), north)


def draw_map(row: Row, number: int, outlines: Outlines) -> tuple[str, list[Item]]:
    """Draw a map for a page.

    Parameters
    ----------
    row : Row
        The query and its hits.
    number : int
        Number of the row, from 0; the elements of a hit have the id ``hit-NUMBER-RANK``.
    outlines : Outlines
        What to outline besides.

    Returns
    -------
    str
        An ``svg`` element, empty if nothing has a footprint.
    list of Item
        Items without a footprint in longitude and latitude, which are not drawn.
    """
    shapes, lost = _footprints(row)
    if shapely.is_missing(shapes).all():
        return "", lost
    with style(**{"svg.hashsalt": str(number)}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=PAGE_IN, layout="constrained")
        _draw(figure.add_subplot(), row, shapes, outlines, f"hit-{number}")
        text = save(figure, "svg").decode()
    return text[text.index("<svg") :], lost


def draw_maps(rows: Iterable[Row], form: str, outlines: Outlines) -> bytes:
    """Draw a figure with one map per query; a warning counts hits without a footprint in longitude and latitude.

    Parameters
    ----------
    rows : iterable of Row
        Queries and their hits.
    form : str
        ``png`` or ``pdf``.
    outlines : Outlines
        What to outline on each map besides.

    Returns
    -------
    bytes
        The file.

    Raises
    ------
    RsrError
        No hit of a query has a footprint.
    """
    found = list(rows)
    count = 0
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(FIGURE_IN[0], FIGURE_IN[1] * len(found)), layout="constrained")
        for axes, row in zip(figure.subplots(len(found), squeeze=False).flat, found, strict=True):
            shapes, lost = _footprints(row)
            count += len(lost)
            if shapely.is_missing(shapes[1:]).all():
                raise RsrError(f"no hit of the query {row.query.name!r} has a footprint in longitude and latitude")
            (name,) = wrap(row.query.name, 0.7 * FIGURE_IN[0], TEXT_PT + 1, 1) or [""]
            axes.set_title(f"{name}: {counted(len(row.hits), 'hit')}", fontsize=TEXT_PT + 1)
            _draw(axes, row, shapes, outlines, "hit", keyed=True)
        if count:
            what = "footprint in longitude and latitude and is" if count == 1 else "footprints and are"
            log.warning("%s without a %s not on the map", counted(count, "record"), what)
        return save(figure, form)


def _footprints(row: Row) -> tuple[NDArray[Any], list[Item]]:
    """Return the footprints of a query and its hits, (1 + n,), None where there is none, and the items without one.

    The footprint of a query whose record is unknown is that of the hit with its id, unless that is an area.
    """
    items: list[Item] = [row.query, *row.hits]
    geometries = [item.record.get("geometry") if item.record else None for item in items]
    data = to_wkb(geometries[:1]) + to_wkb(geometries[1:])  # those of hits are often alike, which is faster
    shapes = shapely.force_2d(shapely.from_wkb(data, on_invalid="ignore"))
    shapes[~(np.abs(shapely.bounds(shapes)) <= [360, 90, 360, 90]).all(axis=1)] = None
    lost = [item for item, shape in zip(items, shapes, strict=True) if shape is None and item.record is not None]
    if row.query.record is None:
        own = [number for number, hit in enumerate(row.hits, 1) if _is_own(hit) and not _is_area(hit)]
        shapes[0] = shapes[own[0]] if own else None
    return shapes, lost


def _is_own(hit: Hit) -> bool:
    """Return whether a hit is the query itself."""
    return hit.name == hit.query.name


def _is_area(hit: Hit) -> bool:
    """Return whether a hit is several tiles."""
    tiles = hit.record["properties"].get("tiles") if hit.record else None
    return isinstance(tiles, list) and len(tiles) > 1


def _draw(axes: Axes, row: Row, shapes: NDArray[Any], outlines: Outlines, name: str, *, keyed: bool = False) -> None:
    """Draw footprints (1 + n,) of a query and its hits, and what explains their colours, with ``keyed`` of labels too.

    The elements of a hit have the id ``NAME-RANK``.
    """
    numbered = len(row.hits) <= MOST_NUMBERED
    moved = _unrolled(np.array([*shapes, *outlines.values()], object))
    colours, distances = _colours(row.hits)
    axes.grid(color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    if not numbered:
        _fill(axes, _shrunk(moved[1 : len(shapes)], _share(row.hits)), colours)
    if moved[0] is not None:
        _draw_outline(axes, moved[0], "black", f"{name}-0", alpha=0.25 * numbered)
        _mark(axes, moved[0], "black", "", f"{name}-0", size_pt=18 if numbered else 10)  # seen below a number
    if numbered:
        for hit, shape, colour in reversed(list(zip(row.hits, moved[1:], colours, strict=False))):  # the first on top
            if shape is not None:
                _draw_outline(axes, shape, colour, f"{name}-{hit.rank}")
                _mark(axes, shape, colour, str(hit.rank), f"{name}-{hit.rank}")
    for title, shape, dashes in zip(outlines, moved[len(shapes) :], cycle(EDGES), strict=False):
        _draw_edge(axes, shape, title, dashes)
    _frame(axes, shapely.total_bounds(moved))
    if distances is not None:
        extend = "min" if np.nanmin(np.asarray(distances.get_array())) < distances.get_clim()[0] else "neither"
        bar = axes.figure.colorbar(distances, ax=axes, label="Distance", extend=extend)
        assert bar.solids is not None
        bar.solids.set_rasterized(True)
    handles, _ = axes.get_legend_handles_labels()
    if keyed:
        handles += _frames(row.hits)
    if handles:
        axes.legend(handles=handles, loc="upper right", fontsize=SMALL_PT)


def _frames(hits: Sequence[Hit]) -> list[Any]:
    """Return a key of the colours that show how labels agree."""
    from matplotlib.patches import Patch

    found = {hit.agreement for hit in hits}
    return [Patch(color=frame.colour, label=frame.meaning) for name, frame in FRAMES.items() if name in found]


def _frame(axes: Axes, bounds: NDArray[np.float64]) -> None:
    """Fit the axes to west, south, east, north, and label them in degrees."""
    lows, highs = bounds.reshape(2, 2)
    room = np.maximum(0.08 * (highs - lows), LEAST_SPAN / 2)
    axes.update_datalim([lows, highs])
    axes.set(xlim=(lows[0] - room[0], highs[0] + room[0]), ylim=(lows[1] - room[1], highs[1] + room[1]))
    axes.set_aspect(1 / max(0.2, math.cos(math.radians((lows[1] + highs[1]) / 2))), adjustable="datalim")
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(lambda x, _: _degrees((x + 180) % 360 - 180, "EW"))
    axes.yaxis.set_major_formatter(lambda y, _: _degrees(y, "NS") if abs(y) <= 90 else "")


def _degrees(value: float, names: str) -> str:
    value = round(float(value), 6)
    return f"{abs(value):g}\N{DEGREE SIGN}{names[value < 0] if value else ''}"


def _colours(hits: Sequence[Hit]) -> tuple[Any, ScalarMappable | None]:
    """Return the colour of each hit, and the scale of these colours if they are those of distances.

    They are if nothing is known of the labels. The scale leaves out the query itself, from which the others are far.
    """
    if any(hit.agreement for hit in hits):
        return [FRAMES[hit.agreement].colour if hit.agreement else GREY for hit in hits], None
    distances = np.array([math.nan if hit.distance is None else hit.distance for hit in hits])
    if np.isnan(distances).all():
        return [GREY] * len(hits), None
    import matplotlib as mpl

    others = distances[[not _is_own(hit) and hit.distance is not None for hit in hits]]
    shown = others if len(others) else distances
    scale = mpl.cm.ScalarMappable(cmap=mpl.colormaps["viridis"].with_extremes(bad=GREY))
    scale.set_array(distances)
    scale.set_clim(np.nanmin(shown), np.nanmax(shown))
    return scale.to_rgba(np.ma.masked_invalid(distances)), scale


def _draw_outline(axes: Axes, shape: Any, colour: Any, name: str, alpha: float = 0.25) -> None:
    """Draw the parts of a footprint, each an element ``NAME-NUMBER``."""
    from matplotlib.patches import PathPatch

    for number, part in enumerate(shapely.get_parts(shape)):
        look = {"facecolor": (colour, alpha), "edgecolor": colour, "linewidth": 1}
        axes.add_patch(PathPatch(_path(part), gid=f"{name}-{number}", **look))


def _mark(axes: Axes, shape: Any, colour: Any, text: str, name: str, size_pt: float = 10) -> None:
    """Mark a footprint with a number, or with a star."""
    (x, y), light = shapely.get_coordinates(shapely.point_on_surface(shape))[0], _is_light(colour)
    edge: dict[str, Any] = {"markeredgecolor": "0.3" if light else "white", "markeredgewidth": 0.6}
    axes.plot(x, y, "o" if text else "*", color=colour, markersize=size_pt, gid=name, **edge)
    ink = "black" if light else "white"
    # as high as the mark, so that it is not seen through another one on top of it
    above = axes.lines[-1].get_zorder()
    axes.annotate(text, (x, y), color=ink, fontsize=SMALL_PT, ha="center", va="center_baseline", zorder=above)


def _is_light(colour: Any) -> bool:
    """Return whether black is easier to read on a colour than white, by its luminance (ITU-R BT.601)."""
    from matplotlib.colors import to_rgb

    return bool(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) > 0.6)


def _fill(axes: Axes, shapes: NDArray[Any], colours: Sequence[Any]) -> None:
    """Fill footprints with colours, the first ones on top."""
    from matplotlib.collections import PathCollection
    from matplotlib.colors import to_rgba_array

    parts, owners = shapely.get_parts(shapes[::-1], return_index=True)
    look = to_rgba_array(colours)[::-1][owners]
    flat = shapely.get_dimensions(parts) > 0
    # an edge in the colour of the face leaves no seam between neighbours
    paths = PathCollection(
        [_path(part) for part in parts[flat]], facecolors=look[flat], edgecolors="face", linewidths=0.3, rasterized=True
    )
    axes.add_collection(paths, autolim=False)
    x, y = shapely.get_coordinates(parts[~flat]).T
    axes.scatter(x, y, s=9, c=look[~flat], rasterized=True)


def _draw_edge(axes: Axes, shape: Any, title: str, dashes: str) -> None:
    """Draw the edge of an area, with its name in the key."""
    from matplotlib.patches import PathPatch

    look = {"facecolor": "none", "edgecolor": "black", "linewidth": 1, "linestyle": dashes}
    for number, part in enumerate(shapely.get_parts(shape)):
        axes.add_patch(PathPatch(_path(part), label="" if number else title, **look))


def _path(part: Any) -> Path:
    """Return the rings of a polygon, in which holes stay empty, or the points of a line or point, as a path."""
    from matplotlib.path import Path

    if shapely.get_num_interior_rings(part) == 0:
        return Path(shapely.get_coordinates(part), closed=shapely.get_dimensions(part) == 2)
    rings = shapely.get_rings(shapely.normalize(part))  # holes run the other way, so they stay empty
    return Path.make_compound_path(*(Path(shapely.get_coordinates(ring), closed=True) for ring in rings))


def _share(hits: Sequence[Hit]) -> float:
    """Return which share of tiles to fill, so that those of one scene that overlap do not hide each other."""
    lattice = Lattice()
    try:
        for hit in hits:
            lattice.add(hit.record or {})
        return lattice.step_share()
    except RecordError:
        return 1.0


def _shrunk(shapes: NDArray[Any], share: float) -> NDArray[Any]:
    """Return shapes shrunk towards the centres of their boxes."""
    if share == 1:
        return shapes
    points, owners = shapely.get_coordinates(shapes, return_index=True)
    bounds = shapely.bounds(shapes)
    centres = (bounds[owners, :2] + bounds[owners, 2:]) / 2
    return np.asarray(shapely.set_coordinates(shapes.copy(), centres + share * (points - centres)))


def _unrolled(shapes: NDArray[Any]) -> NDArray[Any]:
    """Return shapes on one map, their parts moved by whole turns to the east of `_west`, and joined where they meet."""
    parts, owners = shapely.get_parts(shapes, return_index=True)
    bounds = shapely.bounds(parts)
    # 1e-9 allows for rounding of the west end
    turns = np.floor((bounds[:, 0] - _west(bounds[:, 0], bounds[:, 2])) / 360 + 1e-9)
    points, of = shapely.get_coordinates(parts, return_index=True)
    points[:, 0] -= 360 * turns[of]
    parts = shapely.set_coordinates(parts, points)
    moved = np.full(len(shapes), None, object)
    moved[owners] = parts
    counts = np.bincount(owners, minlength=len(shapes))
    ends = np.cumsum(counts)
    for number in np.flatnonzero(counts > 1):
        moved[number] = shapely.union_all(shapely.make_valid(parts[ends[number] - counts[number] : ends[number]]))
    return moved


def _west(wests: NDArray[np.float64], easts: NDArray[np.float64]) -> float:
    """Return the longitude where a map of all parts begins: the east end of the widest gap between them."""
    lefts = (wests + 180) % 360 - 180
    order = np.argsort(lefts, kind="stable")
    lefts, rights = lefts[order], (lefts + easts - wests)[order]
    reached = np.maximum.accumulate(np.append(rights.max() - 360, rights[:-1]))
    return float(lefts[np.argmax(lefts - reached)])
