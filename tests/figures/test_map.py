"""Maps of footprints, read back from the SVG."""

import re

import numpy as np

from rsr_cli.core.figures.gallery import FRAMES, Hit, Item, Row
from rsr_cli.core.figures.map import draw_map

ASKED = Item(name="q", record=None, place="", labels=("a",))
LABELS = {"all": ("a",), "none": ("b",)}


def place(geometry, rank=0, agreement=None):
    record = {"type": "Feature", "id": f"i{rank}", "geometry": geometry, "properties": {}}
    common = {"name": f"i{rank}", "record": record, "place": "", "labels": LABELS.get(agreement)}
    return Hit(**common, query=ASKED, rank=rank, distance=None) if rank else Item(**common)


def square(lon, lat, half=0.5):
    ring = [[lon - half, lat - half], [lon + half, lat - half], [lon + half, lat + half], [lon - half, lat + half]]
    return [[*ring, ring[0]]]


def test_map_crosses_the_antimeridian():
    halves = [[[[179, 1], [180, 1], [180, 2], [179, 2], [179, 1]]], [[[-180, 1], [-179, 1], [-179, 2], [-180, 1]]]]
    hits = [
        place({"type": "MultiPolygon", "coordinates": halves}, 1, "all"),
        place({"type": "Polygon", "coordinates": square(-176, 4)}, 2, "none"),
        place({"type": "Point", "coordinates": [177, 3]}, 3),
        place(None, 4),
        place({"type": "Polygon"}, 5),
        place({"type": "Polygon", "coordinates": square(600000, 5300000)}, 6),
    ]
    drawn, lost = draw_map(Row(place({"type": "Polygon", "coordinates": square(178, 2)}), hits), 7)
    assert [item.name for item in lost] == ["i4", "i5", "i6"]
    groups = dict(re.findall(r'<g id="hit-7-([\d-]+)">(.*?)</g>', drawn, re.DOTALL))
    assert set(groups) == {"0", "0-0", "1", "1-0", "1-1", "2", "2-0", "3", "3-0"}
    middles = {}
    for name, group in groups.items():
        if "-" in name:
            path = re.findall(r"[ML] ([\d.]+) ([\d.]+)", group)
            middles[name] = np.array(path, float).mean(0)[0]
    assert sorted(middles, key=middles.get) == ["3-0", "0-0", "1-0", "1-1", "2-0"]
    assert FRAMES["none"].colour in groups["2-0"]
    assert {"178\N{DEGREE SIGN}E", "178\N{DEGREE SIGN}W", "180\N{DEGREE SIGN}W"} <= set(
        re.findall(r">([\d.]+°\w?)<", drawn)
    )
    assert draw_map(Row(place(None), hits[3:]), 0)[0] == ""


def test_map_keeps_the_order_of_longitudes():
    lons = np.random.default_rng(0).uniform(-4, 12, 8).round(7).tolist()
    hits = [place({"type": "Polygon", "coordinates": square(lon, 50)}, rank) for rank, lon in enumerate(lons, 1)]
    for first in range(8):
        drawn, _ = draw_map(Row(place(None), hits[first:]), 0)
        found = re.findall(r'<g id="hit-0-(\d)-0">.*?M ([\d.]+) ', drawn, re.DOTALL)
        order = [int(rank) for rank, _ in sorted(found, key=lambda pair: float(pair[1]))]
        assert order == [rank + 1 for rank in np.argsort(lons) if rank >= first]
