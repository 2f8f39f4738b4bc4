"""Text cut to fit, measured as matplotlib draws it."""

from __future__ import annotations

import io

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from rsr_cli.core.figures.canvas import DPI, save, style, tail, width_in, wrap

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@pytest.mark.parametrize("text", ["W", "illicit", "class number 12", "$\\frac{1}{2}$", "Ünïcödé"])
def test_a_width_is_that_of_the_drawn_text(text):
    with style():
        figure = Figure(dpi=DPI)
        FigureCanvasAgg(figure)
        drawn = figure.text(0, 0, text, fontsize=7).get_window_extent()
        assert width_in(text, 7) == pytest.approx(drawn.width / DPI, rel=0.05, abs=4 / DPI)  # hinting moves letters


@pytest.mark.parametrize("name", ["short", "scene/a_0_64", "W" * 300, "a/b/" + "x" * 100 + "_512_1024", "", "a/"])
def test_the_end_of_an_id_stays(name):
    with style():
        cut = tail(name, 1, 6)
        assert width_in(cut, 6) <= 1
    last = name.rpartition("/")[2]
    assert cut == last or (cut[0] == ELLIPSIS and last.endswith(cut[1:]))


def test_lines_fit_and_keep_the_words():
    text = "Land principally occupied by agriculture, with significant areas of natural vegetation"
    with style():
        lines = wrap(text, 1.4, 7, 10)
        assert " ".join(lines) == text
        assert all(width_in(line, 7) <= 1.4 for line in lines)
        assert wrap(text, 1.4, 7, 2)[-1].endswith(ELLIPSIS)
        assert len(wrap(text, 1.4, 7, 2)) == 2
        assert wrap("", 1.4, 7, 2) == []


def test_control_characters_are_drawn_as_escapes():
    with style():
        assert tail("a/\x1b[2J\n", 2, 6) == r"\x1b[2J\n"
        assert wrap("\u202ea\tb", 2, 6, 1) == [r"\u202ea\tb"]


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
def test_the_same_figure_has_the_same_bytes(form):
    files = []
    for _ in range(2):
        with style(**{"svg.hashsalt": "1"}):
            figure = Figure(figsize=(2, 1))
            figure.text(0.1, 0.5, "text")
            files.append(save(figure, form))
    assert files[0] == files[1]
    if form == "png":
        assert Image.open(io.BytesIO(files[0])).size == (2 * DPI, DPI)
