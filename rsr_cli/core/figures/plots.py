"""Figures drawn by matplotlib: rows of hits, and points."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.figures.canvas import GREY, SMALL_PT, TEXT_PT, save, style, tail, width_in, wrap
from rsr_cli.core.figures.gallery import FRAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from rsr_cli.core.figures.gallery import Hit, Item, Row
    from rsr_cli.core.figures.projection import Points

# Inches: a thumbnail, the gap between two, the widest column of labels, the text below a hit, the outer margin.
CELL_IN, GAP_IN, LABELS_IN, TEXT_IN, MARGIN_IN = 1.0, 0.12, 1.4, 0.58, 0.12
HEAD_IN, FOOT_IN, KEY_IN = 0.25, 0.4, 0.22
LEAST_IN = 4.1  # width of the key
#: Number of classes with a colour of their own; the rarest ones beyond it share one.
MOST_CLASSES = 20
MARKERS = "os^DvPXp<>"
UNLABELLED = "no label"


def draw_rows(rows: Sequence[Row], form: str, note: str) -> bytes:
    """Draw the paper's figure: one row per query, with its thumbnail, its labels, and its hits in frames.

    Parameters
    ----------
    rows : sequence of Row
        At least one.
    form : str
        ``png`` or ``pdf``.
    note : str
        Text below the figure: how the thumbnails were made.

    Returns
    -------
    bytes
        The file.
    """
    with style():
        labels = [_listed(row.query.labels) for row in rows]
        sheet = _Sheet.of(labels, columns=max(len(row.hits) for row in rows))
        sheet.write_heads()
        for number, row in enumerate(rows):
            axes = sheet.cell(MARGIN_IN, number)
            _draw_thumbnail(axes, row.query)
            _write_below(axes, [(tail(row.query.name, CELL_IN, TEXT_PT), TEXT_PT, "black")])
            sheet.write(sheet.labels_in, HEAD_IN + number * (CELL_IN + TEXT_IN), labels[number])
            for column, hit in enumerate(row.hits):
                _draw_hit(sheet.cell(sheet.hits_in + column * (CELL_IN + GAP_IN), number), hit)
        sheet.write_key(note)
        return save(sheet.figure, form)


@dataclass(frozen=True)
class _Sheet:
    """A figure of rows, and where its columns begin; all lengths in inches from its upper left corner."""

    figure: Figure
    labels_in: float
    hits_in: float

    @classmethod
    def of(cls, labels: Sequence[str], columns: int) -> _Sheet:
        """Make a figure with room for one row per text of labels, and for a number of hits."""
        from matplotlib.figure import Figure

        widest_in = max([0.5, *(width_in(line, TEXT_PT) for text in labels for line in text.splitlines())])
        labels_in = MARGIN_IN + CELL_IN + GAP_IN
        hits_in = labels_in + widest_in + 2 * GAP_IN
        right_in = max(LEAST_IN, hits_in + columns * (CELL_IN + GAP_IN) - GAP_IN + MARGIN_IN)
        figure = Figure(figsize=(right_in, HEAD_IN + len(labels) * (CELL_IN + TEXT_IN) + FOOT_IN))
        return cls(figure, labels_in, hits_in)

    def cell(self, left_in: float, number: int) -> Axes:
        """Return axes for a thumbnail in a row."""
        width, height = self.figure.get_size_inches()
        bottom_in = height - HEAD_IN - number * (CELL_IN + TEXT_IN) - CELL_IN
        place = (left_in / width, bottom_in / height, CELL_IN / width, CELL_IN / height)
        return self.figure.add_axes(place, xticks=[], yticks=[], anchor="N")

    def write(self, left_in: float, top_in: float, text: str) -> None:
        """Write lines of text below and right of a point."""
        width, height = self.figure.get_size_inches()
        self.figure.text(left_in / width, 1 - top_in / height, text, va="top", linespacing=1.2)

    def write_heads(self) -> None:
        """Write the heads of the columns."""
        width, height = self.figure.get_size_inches()
        y = 1 - (HEAD_IN - 0.06) / height
        for left_in, title in ((MARGIN_IN, "Query"), (self.labels_in, "Labels"), (self.hits_in, "Hits")):
            self.figure.text(left_in / width, y, title, fontsize=TEXT_PT + 1, weight="bold", va="bottom")

    def write_key(self, note: str) -> None:
        """Explain the frames, and write a note below."""
        from matplotlib.patches import Patch

        width, height = self.figure.get_size_inches()
        handles = [
            Patch(fill=False, edgecolor=frame.colour, linewidth=2, label=f"{frame.sign}  {frame.meaning}")
            for frame in FRAMES.values()
        ]
        place = (MARGIN_IN / width, KEY_IN / height)
        options = {"frameon": False, "borderaxespad": 0, "borderpad": 0, "handlelength": 1.2, "columnspacing": 1.5}
        self.figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=place, ncols=3, fontsize=TEXT_PT, **options
        )
        self.figure.text(MARGIN_IN / width, 0.06 / height, note, fontsize=SMALL_PT, color=GREY)


def _draw_thumbnail(axes: Axes, item: Item) -> None:
    if item.thumbnail is not None:
        axes.imshow(item.thumbnail, interpolation="none")
        return
    axes.set_facecolor("0.85" if item.record else "white")
    text = "unreadable" if item.record else "no thumbnail"
    axes.text(0.5, 0.5, text, color=GREY, ha="center", va="center")


def _listed(labels: Sequence[str] | None) -> str:
    """Break a query's labels into lines that fit beside its thumbnail and id."""
    if labels is None:
        return "unknown"
    lines = [line for label in labels for line in wrap(label, LABELS_IN, TEXT_PT, 4)]
    most = int(72 * (CELL_IN + TEXT_IN - GAP_IN) / (1.2 * TEXT_PT))
    return "\n".join(lines if len(lines) <= most else [*lines[: most - 1], "\N{HORIZONTAL ELLIPSIS}"])


def _draw_hit(axes: Axes, hit: Hit) -> None:
    _draw_thumbnail(axes, hit)
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
    title = f"{hit.rank}" if hit.distance is None else f"{hit.rank}:  {hit.distance:.4g}"
    labels = wrap("; ".join(hit.labels or ()), CELL_IN, SMALL_PT, 2)
    below = [(title, TEXT_PT, "black"), (tail(hit.name, CELL_IN, SMALL_PT), SMALL_PT, GREY)]
    _write_below(axes, [*below, *((line, SMALL_PT, "black") for line in labels)])


def _write_below(axes: Axes, lines: Sequence[tuple[str, float, str]]) -> None:
    """Write lines of (text, size, colour) under a thumbnail of any shape."""
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


def draw_points(points: Points, form: str) -> bytes:
    """Draw points in a plane, coloured by the first label of their records.

    Parameters
    ----------
    points : Points
        The points.
    form : str
        ``png`` or ``pdf``.

    Returns
    -------
    bytes
        The file.
    """
    classes, shown, rest = _classes(points.labels)
    with style():
        import matplotlib as mpl
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 6.4))
        axes = figure.add_subplot(xticks=[], yticks=[], aspect="equal")
        colours = mpl.colormaps["tab10" if len(shown) <= 10 else "tab20"]
        looks = [(name, colours(i), MARKERS[i % len(MARKERS)]) for i, name in enumerate(shown)]
        for name, colour, marker in (*looks, (rest, "0.6", "."), (UNLABELLED, "0.6", ".")):
            xs, ys = points.places[classes == name].T
            if len(xs):
                label = f"{name} ({len(xs)})"
                axes.scatter(xs, ys, 18, color=colour, marker=marker, linewidths=0.3, edgecolors="white", label=label)
        axes.set_title(_title(points), fontsize=TEXT_PT + 1)
        title = "First label" if any(len(labels) > 1 for labels in points.labels) else "Label"
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title=title, frameon=False, alignment="left")
        return save(figure, form, bbox_inches="tight")


def _classes(labels: Sequence[Sequence[str]]) -> tuple[NDArray[np.object_], list[str], str]:
    """Return the class of each record, the classes to show in alphabetical order, and the name of all others."""
    classes = np.array([own[0] if own else UNLABELLED for own in labels], dtype=object)
    counts = Counter(name for name, own in zip(classes.tolist(), labels, strict=True) if own)
    shown = sorted(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CLASSES])
    rest = f"{len(counts) - len(shown)} other classes"
    classes[~np.isin(classes, [*shown, UNLABELLED])] = rest
    return classes, shown, rest


def _title(points: Points) -> str:
    space = points.space
    size = f"{space.size} bits, Hamming" if space.kind == "code" else f"{space.size}-d, Euclidean"
    made_by = ", ".join(filter(None, (space.model, space.facts.get("method")))) or space.fingerprint
    return f"t-SNE of {len(points.labels)} {space.kind}s ({made_by}, {size} distance)"
