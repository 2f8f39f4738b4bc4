"""Figures drawn by matplotlib: rows of hits, and points."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import visible
from rsr_cli.core.figures.canvas import GREY, SMALL_PT, TEXT_PT, save, style, tail, width_in, wrap
from rsr_cli.core.figures.gallery import FRAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from rsr_cli.core.figures.gallery import Hit, Item, Row
    from rsr_cli.core.figures.projection import Points

# Inches: a thumbnail, the gap between two, the widest column of labels, the text below a hit, the outer margin.
CELL_IN, GAP_IN, LABELS_IN, TEXT_IN, MARGIN_IN = 1.0, 0.12, 1.4, 0.58, 0.12
HEAD_IN, KEY_IN, NOTE_IN, LINE_IN = 0.25, 0.18, 0.22, 1.2 * TEXT_PT / 72
LEAST_IN = 4.1  # width of the key
#: Lines of labels beside a query; with more, a figure of 50 rows would be higher than a PNG file can be.
MOST_LINES = 50
COLOURS, MARKERS = 20, "os^DvPXp<>"
#: Number of classes that differ in colour or marker; the rarest ones beyond it look alike.
MOST_CLASSES = COLOURS * len(MARKERS)
# Of the legend: its rows, before it gets another column, its columns, and the widest name of a class.
LEGEND_ROWS, MOST_COLUMNS, CLASS_IN = 40, 25, 3.0


def draw_rows(rows: Sequence[Row], form: str, note: str) -> bytes:
    """Draw the paper's figure: one row per query, with its thumbnail, its labels, and its hits in frames.

    Parameters
    ----------
    rows : sequence of Row
        At least one.
    form : str
        ``png`` or ``pdf``.
    note : str
        Text below the figure: how the thumbnails were made; empty without any.

    Returns
    -------
    bytes
        The file.
    """
    with style():
        has_thumbnails = any(row.query.has_pixels for row in rows)
        texts = [[] if has_thumbnails else [tail(row.query.name, LABELS_IN, TEXT_PT)] for row in rows]
        for lines, row in zip(texts, rows, strict=True):
            lines += _listed(row.query.labels)
        keyed = any(hit.agreement for row in rows for hit in row.hits)
        foot_in = keyed * KEY_IN + bool(note) * NOTE_IN
        sheet = _Sheet.of(
            texts, columns=max(len(row.hits) for row in rows), has_thumbnails=has_thumbnails, foot_in=foot_in
        )
        labelled = any(row.query.labels for row in rows)
        head = "Labels" if has_thumbnails else "Query and labels" if labelled else "Query"
        sheet.write_heads({MARGIN_IN: "Query", sheet.texts_in: head, sheet.hits_in: "Hits"})
        for number, row in enumerate(rows):
            if has_thumbnails:
                axes = sheet.cell(MARGIN_IN, number)
                _draw_thumbnail(axes, row.query)
                _write_below(axes, [(tail(row.query.name, CELL_IN, TEXT_PT), TEXT_PT, "black")])
            sheet.write(sheet.texts_in, sheet.tops_in[number], "\n".join(texts[number]))
            for column, hit in enumerate(row.hits):
                _draw_hit(sheet.cell(sheet.hits_in + column * (CELL_IN + GAP_IN), number), hit)
        if keyed:
            sheet.write_key(foot_in - KEY_IN)
        sheet.write_note(note)
        return save(sheet.figure, form)


@dataclass(frozen=True)
class _Sheet:
    """A figure of rows, and where its columns and rows begin; all lengths in inches from its upper left corner."""

    figure: Figure
    texts_in: float
    hits_in: float
    tops_in: Sequence[float]

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], columns: int, *, has_thumbnails: bool, foot_in: float) -> _Sheet:
        """Make a figure with room for one row per list of lines, and for a number of hits.

        ``has_thumbnails`` leaves room for the queries' thumbnails. Without any line, there is no column for the texts.
        """
        from matplotlib.figure import Figure

        widest_in = max((width_in(line, TEXT_PT) for lines in texts for line in lines), default=0.0)
        texts_in = MARGIN_IN + has_thumbnails * (CELL_IN + GAP_IN)
        head_in = 0.5 if has_thumbnails else 1.0
        hits_in = texts_in + (max(head_in, widest_in) + 2 * GAP_IN if widest_in else 0)
        right_in = max(LEAST_IN * bool(foot_in), hits_in + columns * (CELL_IN + GAP_IN) - GAP_IN + MARGIN_IN)
        heights_in = [max(CELL_IN + TEXT_IN, len(lines) * LINE_IN + GAP_IN) for lines in texts]
        *tops_in, bottom_in = accumulate(heights_in, initial=HEAD_IN)
        return cls(Figure(figsize=(right_in, bottom_in + foot_in)), texts_in, hits_in, tops_in)

    def cell(self, left_in: float, number: int) -> Axes:
        """Return axes for a thumbnail in a row."""
        width, height = self.figure.get_size_inches()
        bottom_in = height - self.tops_in[number] - CELL_IN
        place = (left_in / width, bottom_in / height, CELL_IN / width, CELL_IN / height)
        return self.figure.add_axes(place, xticks=[], yticks=[], anchor="N")

    def write(self, left_in: float, top_in: float, text: str) -> None:
        """Write lines of text below and right of a point."""
        width, height = self.figure.get_size_inches()
        self.figure.text(left_in / width, 1 - top_in / height, text, va="top", linespacing=1.2)

    def write_heads(self, heads: dict[float, str]) -> None:
        """Write the heads of columns, by where they begin: of two that begin there, the second has contents."""
        width, height = self.figure.get_size_inches()
        y = 1 - (HEAD_IN - 0.06) / height
        for left_in, title in heads.items():
            self.figure.text(left_in / width, y, title, fontsize=TEXT_PT + 1, weight="bold", va="bottom")

    def write_key(self, up_in: float) -> None:
        """Explain the frames, at a height above the lower edge."""
        from matplotlib.patches import Patch

        width, height = self.figure.get_size_inches()
        handles = [
            Patch(fill=False, edgecolor=frame.colour, linewidth=2, label=f"{frame.sign}  {frame.meaning}")
            for frame in FRAMES.values()
        ]
        place = (MARGIN_IN / width, up_in / height)
        options = {"frameon": False, "borderaxespad": 0, "borderpad": 0, "handlelength": 1.2, "columnspacing": 1.5}
        self.figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=place, ncols=3, fontsize=TEXT_PT, **options
        )

    def write_note(self, note: str) -> None:
        """Write a note at the lower edge."""
        width, height = self.figure.get_size_inches()
        self.figure.text(MARGIN_IN / width, 0.06 / height, note, fontsize=SMALL_PT, color=GREY)


def _draw_thumbnail(axes: Axes, item: Item) -> None:
    if item.thumbnail is not None:
        axes.imshow(item.thumbnail, interpolation="none")
        return
    axes.set_facecolor("0.85")
    axes.text(0.5, 0.5, "no thumbnail", color=GREY, ha="center", va="center")


def _listed(labels: Sequence[str] | None) -> list[str]:
    """Break a query's labels into lines that fit into their column."""
    lines = [line for label in labels or () for line in wrap(label, LABELS_IN, TEXT_PT, 4)]
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "\N{HORIZONTAL ELLIPSIS}"]


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
    classes = np.array([own[0] if own else None for own in points.labels], dtype=object)
    counts = Counter(own[0] for own in points.labels if own)
    with style():
        import matplotlib as mpl
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 6.4))
        axes = figure.add_subplot(xticks=[], yticks=[], aspect="equal")
        looks = _looks(counts, mpl.colormaps["tab10" if len(counts) <= 10 else "tab20"])
        for name, colour, marker in (*looks, (None, "0.6", ".")):
            xs, ys = points.places[classes == name].T
            if len(xs):
                (shown,) = ["no label"] if name is None else wrap(name, CLASS_IN, TEXT_PT, 1) or [""]
                label = f"{shown} ({len(xs)})"
                axes.scatter(xs, ys, 18, color=colour, marker=marker, linewidths=0.3, edgecolors="white", label=label)
        axes.set_title(_title(points), fontsize=TEXT_PT + 1)
        if counts:
            title = "First label" if any(len(labels) > 1 for labels in points.labels) else "Label"
            columns = min(MOST_COLUMNS, -(-len(axes.collections) // LEGEND_ROWS))
            beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False, "alignment": "left"}
            axes.legend(title=title, ncols=columns, **beside)
        return save(figure, form, bbox_inches="tight")


def _looks(counts: Counter[str], colours: Colormap) -> list[tuple[str, Any, str]]:
    """Return the classes in alphabetical order, each with its colour and marker.

    No two of the `MOST_CLASSES` most frequent classes have both in common; the others share one colour and marker.
    """
    frequent = sorted(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CLASSES])
    looks = {
        name: (colours(i % COLOURS), MARKERS[(i + i // COLOURS) % len(MARKERS)]) for i, name in enumerate(frequent)
    }
    return [(name, *looks.get(name, ("0.6", "."))) for name in sorted(counts)]


def _title(points: Points) -> str:
    space = points.space
    size = f"{space.size} bits, Hamming" if space.kind == "code" else f"{space.size}-d, Euclidean"
    made_by = ", ".join(filter(None, (space.model, space.facts.get("method")))) or space.fingerprint
    return visible(f"t-SNE of {len(points.labels)} {space.kind}s ({made_by}, {size} distance)")
