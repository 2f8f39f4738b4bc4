"""Maps of footprints, read back from the SVG and the PNG."""

import io
import re

import matplotlib as mpl
import numpy as np
import orjson
import pytest
import shapely
from PIL import Image
from support_places import box_geometry

from rsr_cli.core.errors import RsrError
from rsr_cli.core.figures.gallery import FRAMES, Hit, Item, Row
from rsr_cli.core.figures.map import draw_map, draw_maps, outline_of, placed

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
    drawn, lost = draw_map(Row(place({"type": "Polygon", "coordinates": square(178, 2)}), hits), 7, {})
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
    assert draw_map(Row(place(None), hits[3:]), 0, {})[0] == ""


def test_the_number_of_a_hit_is_below_the_mark_of_a_nearer_one_in_the_same_place():
    footprint = {"type": "Polygon", "coordinates": square(9, 50)}
    drawn, _ = draw_map(Row(place(None), [place(footprint, 1), place(footprint, 2)]), 0, {})
    order = re.findall(r'<g id="hit-0-(\d)">|>(\d)</text>', drawn)
    assert order == [("2", ""), ("", "2"), ("1", ""), ("", "1")]


def test_map_keeps_the_order_of_longitudes():
    lons = np.random.default_rng(0).uniform(-4, 12, 8).round(7).tolist()
    hits = [place({"type": "Polygon", "coordinates": square(lon, 50)}, rank) for rank, lon in enumerate(lons, 1)]
    for first in range(8):
        drawn, _ = draw_map(Row(place(None), hits[first:]), 0, {})
        found = re.findall(r'<g id="hit-0-(\d)-0">.*?M ([\d.]+) ', drawn, re.DOTALL)
        order = [int(rank) for rank, _ in sorted(found, key=lambda pair: float(pair[1]))]
        assert order == [rank + 1 for rank in np.argsort(lons) if rank >= first]


def hit(name, geometry, rank, distance=None, query=ASKED, **properties):
    record = {"type": "Feature", "id": name, "geometry": geometry, "properties": properties}
    return Hit(name=name, record=record, place="", labels=None, query=query, rank=rank, distance=distance)


def groups_of(drawn):
    """Return what is drawn under each name, as points (n, 2)."""
    groups = re.findall(r'<g id="hit-0-([\d-]+)">(.*?)</g>', drawn, re.DOTALL)
    return {name: np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", group), float) for name, group in groups}


def test_halves_of_a_tile_are_joined_at_the_antimeridian():
    row = Row(ASKED, [hit("a", box_geometry(179, 0, 182, 1), 1), hit("b", box_geometry(-177, 0, -176, 1), 2)])
    groups = groups_of(draw_map(row, 0, {})[0])
    assert {"1-0", "2-0"} == {name for name in groups if "-" in name}
    (left, right), (least, most) = ((groups[name][:, 0].min(), groups[name][:, 0].max()) for name in ("1-0", "2-0"))
    assert (right - left) / (most - least) == pytest.approx(3, rel=1e-3)
    assert right < least


def test_holes_of_an_area_stay_empty_and_its_number_is_on_it():
    ring = shapely.box(0, 0, 3, 3) - shapely.box(0.5, 0.5, 2.5, 2.5)
    drawn, _ = draw_map(Row(ASKED, [hit("a", orjson.loads(shapely.to_geojson(ring)), 1, tiles=["a", "b"])]), 0, {})
    (path,) = re.findall(r'<g id="hit-0-1-0">\s*<path d="(.*?)"', drawn, re.DOTALL)
    outer, inner = (np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", each), float) for each in path.split("z")[:2])
    outer, inner = shapely.LinearRing(outer), shapely.LinearRing(inner)
    assert outer.is_ccw != inner.is_ccw  # so it is not filled
    assert shapely.Polygon(outer).area / shapely.Polygon(inner).area == pytest.approx(9 / 4, rel=1e-3)
    mark = re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)"', drawn[drawn.index('<g id="hit-0-1">') :])[0]
    drawn_ring = shapely.Polygon(outer, [inner])
    assert drawn_ring.contains(shapely.Point(*map(float, mark)))


@pytest.mark.parametrize("slim", [False, True])
def test_the_query_is_where_the_hit_with_its_id_is_unless_that_is_an_area(slim):
    """As of a query by id; its record is not among those of --queries."""
    asked = Item(name="q", record=None, place="", labels=None)
    for tiles, found in (({}, True), ({"tiles": ["q"]}, True), ({"tiles": ["q", "r"]}, False)):
        own = hit("q", box_geometry(0, 0, 1, 1), 1, 0, asked, **tiles)
        own.record = placed(own.record) if slim else own.record
        drawn, lost = draw_map(Row(asked, [own, hit("x", box_geometry(4, 0, 5, 1), 2, 9, asked)]), 0, {})
        groups = groups_of(drawn)
        assert ("0-0" in groups, lost) == (found, [])
        if found:
            np.testing.assert_array_equal(groups["0-0"], groups["1-0"])


def colours_of(drawn):
    groups = re.findall(r'<g id="hit-0-([1-9]\d*)-0">(.*?)</g>', drawn, re.DOTALL)
    return {rank: re.search(r"fill: (#\w+)", group)[1] for rank, group in groups}


def test_colours_are_those_of_distances_where_no_labels_are_known():
    def colour(share):
        return mpl.colors.to_hex(mpl.colormaps["viridis"](share))

    places = [box_geometry(3 * i, 0, 3 * i + 1, 1) for i in range(5)]
    distances = [0, 40, 50, None, 60]
    names = ["q", "a", "b", "c", "d"]
    hits = [hit(*each) for each in zip(names, places, range(1, 6), distances, strict=True)]
    drawn, _ = draw_map(Row(ASKED, hits), 0, {})
    # that of the query itself is below the scale, which the others fill
    expected = [colour(0.0), colour(0.0), colour(0.5), "#767676", colour(1.0)]
    assert [colours_of(drawn)[str(rank)] for rank in range(1, 6)] == expected
    assert re.findall(r">(Distance)<", drawn) == ["Distance"]
    hits[2].labels = ("b",)
    labelled, _ = draw_map(Row(ASKED, hits), 0, {})
    assert (colours_of(labelled)["3"], colours_of(labelled)["2"]) == (FRAMES["none"].colour, "#767676")
    assert ">Distance<" not in labelled
    key = {f">{frame.meaning}<" for frame in FRAMES.values()}  # a page has its own
    assert {text for text in key if text in draw_maps([Row(ASKED, hits)], "svg", {}).decode()} == {">none<"}
    assert not [text for text in key if text in labelled]
    same, _ = draw_map(Row(ASKED, [hit("a", places[0], 1, 5), hit("b", places[1], 2, 5)]), 0, {})
    assert len({*colours_of(same).values()}) == 1


def test_outlines_are_dashed_named_and_on_the_map_across_the_antimeridian():
    row = Row(ASKED, [hit("a", box_geometry(178, 0, 179, 1), 1)])
    area = shapely.MultiPolygon([shapely.box(179, -2, 180, -1), shapely.box(-180, -2, -179, -1)])
    drawn, _ = draw_map(row, 0, {"box": outline_of((177, -3, -178, 3)), "lake.geojson": area})
    assert {"box", "lake.geojson"} <= set(re.findall(r">([^<>]+)</text>", drawn))
    dashed = re.findall(r'<path d="([^"]*)"[^>]*style="[^"]*stroke-dasharray', drawn)
    box, lake, *key = (np.array(re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path), float) for path in dashed)
    assert len(key) == 2
    tile = groups_of(drawn)["1-0"]
    degree = np.ptp(tile[:, 0])
    left = tile[:, 0].min() - 178 * degree
    for path, west, east in ((box, 177, 182), (lake, 179, 181)):
        np.testing.assert_allclose([path[:, 0].min(), path[:, 0].max()], [left + west * degree, left + east * degree])


def grid_of(n, stride):
    """Return n x n tiles of 64 pixels of 0.001 degrees, every ``stride`` pixels, as hits in the order of the rows."""
    hits = []
    for i, j in np.ndindex(n, n):
        west, north = 10 + j * stride / 1000, 50 - i * stride / 1000
        placed_at = {"proj:transform": [0.001, 0, west, 0, -0.001, north], "proj:shape": [64, 64]}
        geometry = box_geometry(west, north - 0.064, west + 0.064, north)
        name = f"s_{j * stride}_{i * stride}"
        hits.append(hit(name, geometry, len(hits) + 1, len(hits), **placed_at, **{"proj:code": "EPSG:4326"}))
    return hits


@pytest.mark.parametrize("stride", [64, 32, 80])
def test_many_hits_are_filled_each_where_it_is(stride):
    """Tiles that overlap do not hide each other, whatever their ranks."""
    n = 8
    hits = grid_of(n, stride)
    drawn = draw_maps([Row(ASKED, hits[::-1])], "png", {})
    pixels = np.array(Image.open(io.BytesIO(drawn)).convert("RGB")).astype(int)[:, :1100]  # without the scale
    colours = (mpl.colormaps["viridis"](np.arange(n * n) / (n * n - 1))[:, :3] * 255).round().astype(int)
    places = [np.argwhere((pixels == colour).all(axis=-1)) for colour in colours]
    areas = np.array([len(place) for place in places])
    assert areas.min() > 500
    assert areas.min() / areas.max() > 0.9
    middles = np.array([place.mean(axis=0) for place in places]).reshape(n, n, 2)
    down, right = np.diff(middles[..., 0], axis=0), np.diff(middles[..., 1], axis=1)
    assert down.min() > 0
    assert right.min() > 0
    np.testing.assert_allclose([np.ptp(down), np.ptp(right)], 0, atol=2)
    np.testing.assert_allclose(down.mean() / right.mean(), 1 / np.cos(np.radians(50)), rtol=0.02)
    covered = min(stride, 64) / stride  # of a side
    np.testing.assert_allclose(np.median(areas) / (down.mean() * right.mean()), covered**2, rtol=0.1)


def test_a_figure_has_a_map_per_query_and_counts_what_has_no_place(caplog):
    other = Item(name="r", record=None, place="", labels=None)
    rows = [
        Row(ASKED, [hit("a", box_geometry(0, 0, 1, 1), 1, 3), hit("b", None, 2, 4)]),
        Row(other, [hit("c", {"type": "Point", "coordinates": [5, 5]}, i, i, other) for i in range(1, 60)]),
    ]
    heights = [Image.open(io.BytesIO(draw_maps(rows[:count], "png", {}))).height for count in (1, 2)]
    assert heights[1] == 2 * heights[0]
    assert caplog.messages == ["1 record without a footprint in longitude and latitude and is not on the map"] * 2
    with pytest.raises(RsrError, match="no hit of the query 'r' has a footprint"):
        draw_maps([Row(other, [hit("b", None, 1, 4, other)])], "png", {})
