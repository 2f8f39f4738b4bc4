"""Figures, drawn by matplotlib: rows of hits, their map, and points in a plane. The only importer of matplotlib."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import tempfile
import textwrap
import warnings
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from rsr_cli.core.figures.gallery import FRAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from rsr_cli.core.figures.gallery import Hit, Item, Row
    from rsr_cli.core.figures.projection import Points

log = logging.getLogger("rsr")

DPI = 200
# Inches: a picture, the room between two, the column of the query's labels, the room for a hit's text, all margins.
CELL_IN, GAP_IN, LABELS_IN, TEXT_IN, MARGIN_IN = 1.0, 0.12, 1.4, 0.58, 0.12
HEAD_IN, FOOT_IN, KEY_IN = 0.25, 0.4, 0.22
LEAST_IN = 4.1  # the key's width
TEXT_PT, SMALL_PT = 7.0, 6.0
GREY = "#767676"
#: Classes that are told apart; where there are more, the rarest are put together.
MOST_CLASSES = 20
MARKERS = "os^DvPXp<>"
#: The smallest map, in degrees.
LEAST_SPAN = 0.02

# What keeps a figure the same tomorrow, and its text text.
STYLE: dict[str, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "text.parse_math": False, "font.size": TEXT_PT}
UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
}


@contextlib.contextmanager
def _style(**settings: Any) -> Iterator[None]:
    """Draw as matplotlib does by default, whatever the user's matplotlibrc says, and leave no cache behind."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        os.environ["MPLCONFIGDIR"] = folder
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE | settings)
            yield
    missing = {str(warning.message) for warning in told if "missing from font" in str(warning.message)}
    if missing:
        log.warning("%d characters are not in the figure's font, and stand as boxes; an .html has them", len(missing))


def _save(figure: Figure, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=form, dpi=DPI, metadata=UNDATED[form], **options)
    return file.getvalue()


def draw_rows(rows: Sequence[Row], form: str, note: str) -> bytes:
    """Draw the paper's figure: a row a query, with its picture, its labels, and its hits in frames.

    Parameters
    ----------
    rows : sequence of Row
        At least one.
    form : str
        ``png`` or ``pdf``.
    note : str
        What stands below: how the pictures were made.

    Returns
    -------
    bytes
        The file.
    """
    columns = max(len(row.hits) for row in rows)
    height_in = HEAD_IN + len(rows) * (CELL_IN + TEXT_IN) + FOOT_IN

    with _style():
        labels = [_listed(row.query.labels) for row in rows]
        labels_in = max(0.5, *(_width_in(line, TEXT_PT) for text in labels for line in text.splitlines()))
        second_in = MARGIN_IN + CELL_IN + GAP_IN
        third_in = second_in + labels_in + 2 * GAP_IN
        width_in = max(LEAST_IN, third_in + columns * (CELL_IN + GAP_IN) - GAP_IN + MARGIN_IN)

        from matplotlib.figure import Figure

        figure = Figure(figsize=(width_in, height_in))

        def cell(left_in: float, number: int) -> Axes:
            bottom_in = height_in - HEAD_IN - number * (CELL_IN + TEXT_IN) - CELL_IN
            place = (left_in / width_in, bottom_in / height_in, CELL_IN / width_in, CELL_IN / height_in)
            return figure.add_axes(place, xticks=[], yticks=[], anchor="N")

        top = 1 - (HEAD_IN - 0.06) / height_in
        for left_in, title in ((MARGIN_IN, "Query"), (second_in, "Labels"), (third_in, "Hits")):
            figure.text(left_in / width_in, top, title, fontsize=TEXT_PT + 1, weight="bold", va="bottom")
        for number, row in enumerate(rows):
            axes = cell(MARGIN_IN, number)
            _draw_picture(axes, row.query)
            _write_below(axes, [(_tail(row.query.name, CELL_IN, TEXT_PT), TEXT_PT, "black")])
            top = 1 - (HEAD_IN + number * (CELL_IN + TEXT_IN)) / height_in
            figure.text(second_in / width_in, top, labels[number], va="top", linespacing=1.2)
            for column, hit in enumerate(row.hits):
                _draw_hit(cell(third_in + column * (CELL_IN + GAP_IN), number), hit)
        figure.text(MARGIN_IN / width_in, 0.06 / height_in, note, fontsize=SMALL_PT, color=GREY)
        _draw_key(figure, (MARGIN_IN / width_in, KEY_IN / height_in))
        return _save(figure, form)


def _draw_key(figure: Figure, place: tuple[float, float]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(fill=False, edgecolor=frame.colour, linewidth=2, label=f"{frame.sign}  {frame.meaning}")
        for frame in FRAMES.values()
    ]
    options = {"frameon": False, "borderaxespad": 0, "borderpad": 0, "handlelength": 1.2, "columnspacing": 1.5}
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=place, ncols=3, fontsize=TEXT_PT, **options)


def _draw_picture(axes: Axes, item: Item) -> None:
    if item.picture is not None:
        axes.imshow(item.picture, interpolation="none")
        return
    axes.set_facecolor("0.85" if item.record else "white")
    axes.text(0.5, 0.5, "unreadable" if item.record else "no picture", color=GREY, ha="center", va="center")


def _listed(labels: Sequence[str] | None) -> str:
    """Break a query's labels into lines that fit beside its picture and its id."""
    if labels is None:
        return "unknown"
    lines = [line for label in labels for line in _wrap(label, LABELS_IN, TEXT_PT, 4)]
    most = int(72 * (CELL_IN + TEXT_IN - GAP_IN) / (1.2 * TEXT_PT))
    return "\n".join(lines if len(lines) <= most else [*lines[: most - 1], "\N{HORIZONTAL ELLIPSIS}"])


def _draw_hit(axes: Axes, hit: Hit) -> None:
    _draw_picture(axes, hit)
    if hit.agreement:
        colour = FRAMES[hit.agreement].colour
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=2.5)
        axes.annotate(
            hit.sign,
            (1, 1),
            xytext=(-3.5, -3.5),
            xycoords="axes fraction",
            textcoords="offset points",
            color="white",
            weight="bold",
            ha="right",
            va="top",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": colour, "edgecolor": "none"},
        )
    told = f"{hit.rank}" if hit.distance is None else f"{hit.rank}:  {hit.distance:.4g}"
    labels = _wrap("; ".join(hit.labels or ()), CELL_IN, SMALL_PT, 2)
    below = [(told, TEXT_PT, "black"), (_tail(hit.name, CELL_IN, SMALL_PT), SMALL_PT, GREY)]
    _write_below(axes, [*below, *((line, SMALL_PT, "black") for line in labels)])


def _write_below(axes: Axes, lines: Sequence[tuple[str, float, str]]) -> None:
    """Write lines of (text, size, colour) under a picture, whatever its shape."""
    down_pt = 4.0
    for text, size_pt, colour in lines:
        axes.annotate(
            text,
            (0.5, 0),
            xytext=(0, -down_pt),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=size_pt,
            color=colour,
        )
        down_pt += 1.25 * size_pt


@cache
def _width_in(text: str, size_pt: float) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    width_pt, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=size_pt), ismath=False)
    return width_pt / 72


def _most(width_in: float, size_pt: float) -> int:
    """Tell how many of the narrowest letters fit, a quarter as wide as high."""
    return int(72 * width_in / (0.25 * size_pt))


def _tail(name: str, width_in: float, size_pt: float) -> str:
    """Shorten an id to its last part, and to what fits of its end: ids differ there."""
    cut = name.rpartition("/")[2][-_most(width_in, size_pt) :]
    while _width_in(cut, size_pt) > width_in:
        cut = f"\N{HORIZONTAL ELLIPSIS}{cut[2:]}"
    return cut


def _wrap(text: str, width_in: float, size_pt: float, most: int) -> list[str]:
    """Break text into at most so many lines that fit."""
    for chars in range(min(len(text), _most(width_in, size_pt)), 0, -1):
        lines = textwrap.wrap(text, chars, max_lines=most, placeholder="\N{HORIZONTAL ELLIPSIS}")
        if all(_width_in(line, size_pt) <= width_in for line in lines):
            return lines
    return []


def draw_points(points: Points, form: str) -> bytes:
    """Draw points in a plane, coloured by class: by a record's first label.

    Parameters
    ----------
    points : Points
        What is drawn.
    form : str
        ``png`` or ``pdf``.

    Returns
    -------
    bytes
        The file.
    """
    classes = np.array([labels[0] if labels else "no label" for labels in points.labels], dtype=object)
    counts = Counter(name for name, labels in zip(classes.tolist(), points.labels, strict=True) if labels)
    told = sorted(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CLASSES])
    rest = f"{len(counts) - len(told)} other classes"
    classes[~np.isin(classes, [*told, "no label"])] = rest
    space = points.space
    size = f"{space.size} bits, Hamming" if space.kind == "code" else f"{space.size}-d, Euclidean"
    made_by = ", ".join(filter(None, (space.model, space.facts.get("method")))) or space.fingerprint

    with _style():
        import matplotlib as mpl
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 6.4))
        axes = figure.add_subplot(xticks=[], yticks=[], aspect="equal")
        colours = mpl.colormaps["tab10" if len(told) <= 10 else "tab20"]
        looks = [(name, colours(i), MARKERS[i % len(MARKERS)]) for i, name in enumerate(told)]
        for name, colour, marker in (*looks, (rest, "0.6", "."), ("no label", "0.6", ".")):
            xs, ys = points.places[classes == name].T
            if len(xs):
                label = f"{name} ({len(xs)})"
                axes.scatter(xs, ys, 18, color=colour, marker=marker, linewidths=0.3, edgecolors="white", label=label)
        axes.set_title(f"t-SNE of {len(classes)} {space.kind}s ({made_by}, {size} distance)", fontsize=TEXT_PT + 1)
        title = "First of the labels" if any(len(labels) > 1 for labels in points.labels) else "Label"
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title=title, frameon=False, alignment="left")
        return _save(figure, form, bbox_inches="tight")


def draw_map(row: Row, number: int) -> tuple[str, list[Item]]:
    """Draw where a query and its hits are, in longitude and latitude, across the antimeridian where they are.

    Parameters
    ----------
    row : Row
        The query and its hits.
    number : int
        The row's, from 0; ``hit-NUMBER-RANK`` is the id of a hit's elements.

    Returns
    -------
    str
        An ``svg`` element; empty where nothing has a place.
    list of Item
        What has no footprint in longitude and latitude, and is not drawn.
    """
    items: list[Item] = [row.query, *row.hits]
    parts = [_parts(item) for item in items]
    placed = [part for some in parts for part in some]
    lost = [item for item, some in zip(items, parts, strict=True) if not some and item.record is not None]
    if not placed:
        return "", lost
    west = _west(placed)
    # The edges of a footprint that is cut at the antimeridian go together; west has been rounded on its way
    parts = [[part - [360 * math.floor((part[:, 0].min() - west) / 360 + 1e-9), 0] for part in some] for some in parts]

    with _style(**{"svg.hashsalt": str(number)}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(color="0.85", linewidth=0.6)
        axes.set_axisbelow(True)
        for item, some in reversed(list(zip(items, parts, strict=True))):  # the first on top
            if some:
                _draw_place(axes, item, some, f"hit-{number}-{getattr(item, 'rank', 0)}")
        lows, highs = (
            function([function(part, 0) for some in parts for part in some], 0) for function in (np.min, np.max)
        )
        room = np.maximum(0.08 * (highs - lows), LEAST_SPAN / 2)
        axes.set(xlim=(lows[0] - room[0], highs[0] + room[0]), ylim=(lows[1] - room[1], highs[1] + room[1]))
        axes.set_aspect(1 / max(0.2, math.cos(math.radians((lows[1] + highs[1]) / 2))), adjustable="datalim")
        axes.xaxis.set_major_formatter(lambda x, _: _degrees((x + 180) % 360 - 180, "EW"))
        axes.yaxis.set_major_formatter(lambda y, _: _degrees(y, "NS") if abs(y) <= 90 else "")
        text = _save(figure, "svg").decode()
    return text[text.index("<svg") :], lost


def _degrees(value: float, names: str) -> str:
    value = round(float(value), 6)
    return f"{abs(value):g}\N{DEGREE SIGN}{names[value < 0] if value else ''}"


def _draw_place(axes: Axes, item: Item, parts: Sequence[NDArray[np.float64]], name: str) -> None:
    agreement = getattr(item, "agreement", None)
    colour = FRAMES[agreement].colour if agreement else "black" if not hasattr(item, "rank") else GREY
    for number, part in enumerate(parts):
        axes.fill(*part.T, facecolor=(colour, 0.25), edgecolor=colour, linewidth=1, gid=f"{name}-{number}")
    x, y = (np.min([part.min(0) for part in parts], 0) + np.max([part.max(0) for part in parts], 0)) / 2
    rank = getattr(item, "rank", None)
    marker, size_pt = ("o", 10) if rank else ("*", 14)
    axes.plot(x, y, marker, color=colour, markersize=size_pt, markeredgecolor="white", markeredgewidth=0.6, gid=name)
    axes.annotate(str(rank or ""), (x, y), color="white", fontsize=SMALL_PT, ha="center", va="center_baseline")


def _parts(item: Item) -> list[NDArray[np.float64]]:
    """Read a footprint's polygons (their outer rings), lines and points: float64 (n, 2) of longitude and latitude."""
    import shapely
    from shapely.errors import ShapelyError

    try:
        geometry = shapely.from_geojson(orjson.dumps((item.record or {}).get("geometry")))
    except ShapelyError:  # none, or malformed
        return []
    rings = [shapely.get_exterior_ring(part) or part for part in shapely.get_parts(geometry) if not part.is_empty]
    parts = [shapely.get_coordinates(ring) for ring in rings]
    on_earth = all((np.abs(part) <= [360, 90]).all() for part in parts)
    return parts if on_earth else []


def _west(parts: Sequence[NDArray[np.float64]]) -> float:
    """Find where a map of all parts begins: behind the widest stretch of longitude without any."""
    spans = sorted(((part[:, 0].min() + 180) % 360 - 180, np.ptp(part[:, 0])) for part in parts)
    widest, west = -1.0, spans[0][0]
    reached = max(left + span for left, span in spans) - 360
    for left, span in spans:
        if left - reached > widest:
            widest, west = left - reached, left
        reached = max(reached, left + span)
    return float(west)
