"""Points and rows of hits, read back from the files."""

import html
import io
import re
from collections import Counter

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from rsr_cli.core.figures.gallery import FRAMES, Hit, Item, Row
from rsr_cli.core.figures.plots import _looks, draw_points, draw_rows
from rsr_cli.core.figures.projection import Points
from rsr_cli.core.records.space import Space

SPACE = Space("embedding", 8, "float32", "f", {"model": "m"})


GREY = (153, 153, 153)


def drawn(labels, form="png"):
    places = np.random.default_rng(0).standard_normal((len(labels), 2)).astype(np.float32)
    return draw_points(Points(places, labels, SPACE), form)


def colours_of(png):
    with Image.open(io.BytesIO(png)) as image:
        assert {"Software", "Creation Time"}.isdisjoint(image.info)
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def words_of(svg):
    """Return the texts of a figure."""
    return [html.unescape(text) for text in re.findall("<text [^>]*>(.*?)</text>", svg.decode(), re.DOTALL)]


@pytest.mark.parametrize("number", [1, 10, 25, 45])
def test_the_legend_names_every_class(number):
    labels = [(f"c{i}",) for i in range(number)] + [("c0", "c1"), (), ()]
    named = {f"c{i} ({1 + (i == 0)})" for i in range(number)}
    words = words_of(drawn(labels, "svg"))
    assert sorted(word for word in words if word[0] == "c") == sorted(named)
    assert {"First label", "no label (2)"} <= set(words)
    map_ = colormaps["tab10" if number <= 10 else "tab20"]
    used = {tuple(round(255 * part) for part in map_(i)[:3]) for i in range(min(number, 20))}
    assert used | {GREY} <= colours_of(drawn(labels))
    assert b"#999999" not in drawn(labels[:-2], "svg")


def test_classes_differ_in_colour_or_marker():
    counts = Counter({f"c{i}": 300 - i for i in range(250)})
    looks = _looks(counts, colormaps["tab20"])
    assert [name for name, *_ in looks] == sorted(counts)
    own = [look for name, *look in looks if counts[name] > 100]
    assert len(set(map(tuple, own))) == len(own) == 200
    assert {tuple(look) for name, *look in looks if counts[name] <= 100} == {("0.6", ".")}


def test_without_labels_there_is_no_legend():
    assert words_of(drawn([()] * 5, "svg")) == ["t-SNE of 5 embeddings (m, 8-d, Euclidean distance)"]


def test_odd_names_of_classes():
    """A class named as records without one are, and text that would break the legend."""
    words = words_of(drawn([("no label",), ("no label",), (), ("a\n\x1b[2J",), ("$x$",), ("W" * 300,), ("",)], "svg"))
    assert {"no label (2)", "no label (1)", r"a\n\x1b[2J (1)", "$x$ (1)", " (1)"} <= set(words)


# Rows of hits --------------------------------------------------------------------------------------------------------


def row(labels, *hits, pixels=True):
    """Return a query named q and its hits, given by their labels."""
    stated = {"source": "x.tif", "bands": ["red"], "window": [0, 0, 4, 4]}

    def record(name):
        return {"type": "Feature", "id": name, "geometry": None, "properties": stated if pixels else {}}

    query = Item(name="q", record=record("q"), place="", labels=labels)
    thumbnail = np.full((4, 4, 4), 200, np.uint8) if pixels else None
    found = [
        Hit(name=f"h{rank}", record=record(f"h{rank}"), place="", labels=own, query=query, rank=rank, distance=None)
        for rank, own in enumerate(hits, 1)
    ]
    for one in (query, *found):
        one.thumbnail = thumbnail
    return Row(query, found)


def texts(*rows, note="note"):
    return words_of(draw_rows(rows, "svg", note))


def test_rows_leave_out_what_is_empty():
    key = {f"{frame.sign}  {frame.meaning}" for frame in FRAMES.values()}
    labelled = texts(row(("a", "b"), ("a",), ("b", "a"), None))
    assert {"Query", "Labels", "Hits", "q", "a", "b", "h1", "1", "note", "1/2"} <= set(labelled)
    assert {" ".join(entry.split()) for entry in key} <= {" ".join(word.split()) for word in labelled}
    assert sorted(texts(row(None, None, None), note="")) == ["1", "2", "Hits", "Query", "h1", "h2", "q"]
    assert not key & set(texts(row((), ("a",)), row(None, ("a",))))
    without = texts(row(("a",), ("a",), pixels=False), note="")
    assert {"Query and labels", "Hits", "q", "a", "no thumbnail", "h1"} <= set(without)
    assert "Labels" not in without


def test_a_row_is_as_high_as_its_labels():
    names = tuple(f"class {number}" for number in range(45))
    words = texts(row(names, names), row(("class 0",), names))
    assert set(names) <= set(words)
    heights = [
        Image.open(io.BytesIO(draw_rows([row(names[:number], None)], "png", ""))).height for number in (1, 8, 25, 45)
    ]
    assert heights[0] == heights[1] < heights[2] < heights[3]
    more = texts(row(tuple(f"class {number}" for number in range(200)), None))
    assert "class 48" in more
    assert "class 49" not in more
