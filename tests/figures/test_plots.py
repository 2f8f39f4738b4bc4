"""Points, read back from the image."""

import io

import numpy as np
from matplotlib import colormaps
from PIL import Image

from rsr_cli.core.figures.plots import draw_points
from rsr_cli.core.figures.projection import Points
from rsr_cli.core.records.space import Space

SPACE = Space("embedding", 8, "float32", "f", {"model": "m"})


def test_many_classes_and_none():
    labels = [(f"c{number}",) for number in range(25)] + [("c3", "c4"), (), ()]
    places = np.random.default_rng(0).standard_normal((28, 2)).astype(np.float32)
    points = Points(places, labels, SPACE)
    drawn = draw_points(points, "png")
    with Image.open(io.BytesIO(drawn)) as image:
        assert {"Software", "Creation Time"}.isdisjoint(image.info)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    tab20 = {tuple(round(255 * part) for part in colormaps["tab20"](number)[:3]) for number in range(20)}
    assert tab20 <= colours
    assert (153, 153, 153) in colours  # the other classes, and none
    labelled = Points(places[:26], labels[:26], SPACE)
    with Image.open(io.BytesIO(draw_points(labelled, "png"))) as image:
        assert (153, 153, 153) in {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert draw_points(points, "pdf") == draw_points(points, "pdf")
