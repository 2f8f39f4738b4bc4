"""Hits as lines, and merged into areas: against connected cells as scipy labels them, and the union of geopandas."""

from __future__ import annotations

import math

import geopandas
import numpy as np
import orjson
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from support import make_index
from support_places import tile_at

from rsr_cli.core.records.fields import bbox_of
from rsr_cli.core.search.hits import Hit, area_lines, lines

CELLS = 8
SIDE = 0.01


def hit(number, box, distance=0.0, **properties) -> Hit:
    """Build a hit of a record that is stored with a box."""
    record = tile_at(f"t{number}", box, np.zeros(1), **properties)
    del record["properties"]["embedding"]
    return Hit(distance, number, record["id"], orjson.dumps(record).decode())


def parsed(merged) -> list[dict]:
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in merged)
    return [orjson.loads(line) for line in merged]


def test_hits_are_the_records_with_what_the_search_adds():
    hits = [hit(3, (0, 0, 1, 1), 0.5, gsd=10), hit(1, None, 0.75)]
    found = parsed(lines("q", ["lake"], hits))
    assert [h["id"] for h in found] == ["t3", "t1"]
    assert found[0]["properties"] == {"gsd": 10, "query": "q", "rank": 1, "distance": 0.5, "query_labels": ["lake"]}
    assert found[1]["properties"] == {"query": "q", "rank": 2, "distance": 0.75, "query_labels": ["lake"]}
    assert "query_labels" not in parsed(lines(5, None, hits))[0]["properties"]


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.tuples(st.integers(0, CELLS - 1), st.integers(0, CELLS - 1)), min_size=1, unique=True),
    west=st.sampled_from([10.0, -180.0, 180 - 4 * SIDE, 180 - 3.5 * SIDE]),
    south=st.sampled_from([0.0, -SIDE, 51.3, -85.0]),
    gap=st.sampled_from([0.0, 5e-8, -0.002]),
)
def test_areas_are_the_connected_cells(cells, west, south, gap):
    """Cells that cross the antimeridian, and touch at edges and corners, or overlap, or are a rounding apart."""
    picture = np.zeros((CELLS, CELLS), int)
    hits = []
    for rank, (row, col) in enumerate(cells):
        picture[row, col] = 1
        left, bottom = west + SIDE * col, south + SIDE * row
        left -= 360 * (left >= 180)
        hits.append(hit(rank, (left, bottom, left + SIDE - gap, bottom + SIDE - gap), rank / 2))
    labels, count = ndimage.label(picture, structure=np.ones((3, 3)))
    groups = {}
    for rank, cell in enumerate(cells):
        groups.setdefault(labels[cell], []).append(f"t{rank}")
    found = parsed(area_lines("q", None, hits))
    assert len(found) == count
    assert [area["properties"]["tiles"] for area in found] == list(groups.values())
    assert [area["id"] for area in found] == [names[0] for names in groups.values()]
    assert [area["properties"]["rank"] for area in found] == [*range(1, count + 1)]
    assert [area["properties"]["distance"] for area in found] == [int(names[0][1:]) / 2 for names in groups.values()]
    for area in found:
        own = [shapely.geometry.shape(h.record["geometry"]) for h in hits if h.id in area["properties"]["tiles"]]
        expected = geopandas.GeoSeries(own, crs=4326).union_all()
        outline = shapely.geometry.shape(area["geometry"])
        assert outline.is_valid
        assert outline.symmetric_difference(expected).area < 1e-4 * expected.area
        assert all(part.exterior.is_ccw for part in getattr(outline, "geoms", [outline]))
        # the box is the one of the outline moved to a meridian where nothing crosses the antimeridian
        lon = shapely.get_coordinates(outline)[:, 0] % 360
        assert bbox_of(area)[0] % 360 == pytest.approx(lon.min(), abs=1e-6) or west == 10.0 or lon.min() == 0
        crosses = outline.bounds[0] == -180 and outline.bounds[2] == 180
        assert (area["bbox"][0] > area["bbox"][2]) == crosses


def test_an_area_is_the_record_of_its_nearest_tile():
    hits = [
        hit(
            0, (0, 0, 1, 1), 1.0, source="a.tif", window=[0, 0, 8, 8], datetime="2024-03-01T00:00:00Z", labels=["lake"]
        ),
        hit(1, (1, 0, 2, 1), 2.0, source="b.tif", window=[8, 0, 8, 8], datetime="2023-01-01T12:00:00+02:00"),
        hit(2, (5, 5, 6, 6), 3.0, source="c.tif", datetime="2022-01-01T00:00:00Z"),
        hit(
            3,
            (1, 1, 2, 2),
            4.0,
            source="d.tif",
            start_datetime="2024-01-01T00:00:00Z",
            end_datetime="2024-12-31T00:00:00Z",
        ),
        hit(4, None, 5.0),
    ]
    first, second, third = parsed(area_lines("q", ["sea"], hits))
    assert first["id"] == "t0"
    assert first["properties"] == {
        "source": "a.tif",
        "window": [0, 0, 8, 8],
        "datetime": "2024-03-01T00:00:00Z",
        "labels": ["lake"],
        "start_datetime": "2023-01-01T12:00:00+02:00",
        "end_datetime": "2024-12-31T00:00:00Z",
        "query": "q",
        "rank": 1,
        "distance": 1.0,
        "query_labels": ["sea"],
        "tiles": ["t0", "t1", "t3"],
    }
    assert first["bbox"] == [0, 0, 2, 2]
    assert second["geometry"] == hits[2].record["geometry"]
    assert (second["properties"]["tiles"], second["properties"]["rank"]) == (["t2"], 2)
    assert "start_datetime" not in second["properties"]
    assert (third["id"], third["geometry"], third["properties"]["tiles"]) == ("t4", None, ["t4"])


@pytest.mark.parametrize(
    ("gsd", "latitude", "apart_px", "areas"),
    [
        (10, 0, 0.9, 1),
        (10, 0, 1.2, 2),
        (10, 60, 0.9, 1),
        (10, 60, 1.2, 2),
        (100, 84, 0.9, 1),
        (100, 84, 1.2, 2),
        (None, 0, 0.9, 2),
    ],
)
@pytest.mark.parametrize("northward", [False, True])
def test_tiles_less_than_a_pixel_apart_touch(gsd, latitude, apart_px, areas, northward):
    """Neighbouring windows of a grid's cells are rounded to whole pixels, and so may be a pixel apart."""
    metres = apart_px * (gsd or 10)
    degrees = metres / 111_195 / (1 if northward else math.cos(math.radians(latitude + 0.005)))
    second = (
        (0, latitude + 0.01 + degrees, 0.01, latitude + 0.02)
        if northward
        else (0.01 + degrees, latitude, 0.02, latitude + 0.01)
    )
    hits = [hit(0, (0, latitude, 0.01, latitude + 0.01)), hit(1, second)]
    for each in hits:
        each.record["properties"]["gsd"] = gsd
    assert len(area_lines("q", None, hits)) == areas


def test_parts_around_a_pole_are_one_area():
    hits = [hit(i, (west, 88, west + 90, 90)) for i, west in enumerate((-180, -90, 0, 90))]
    (area,) = parsed(area_lines("q", None, hits))
    assert area["properties"]["tiles"] == ["t0", "t1", "t2", "t3"]
    assert area["bbox"] == [-180, 88, 180, 90]


def test_hits_without_a_place_are_alone():
    assert area_lines("q", None, []) == []
    found = parsed(area_lines("q", None, [hit(0, None), hit(1, None)]))
    assert [area["properties"]["tiles"] for area in found] == [["t0"], ["t1"]]


def test_numbers_that_no_double_holds_keep_their_text(tmp_path):
    text = '{"type":"Feature","id":"t0","geometry":null,"properties":{"number":12345678901234567890.123}}'
    (line,) = area_lines("q", None, [Hit(0.0, 0, "t0", text)])
    assert b'"number":12345678901234567890.123,' in line


def test_a_hit_reads_the_record_of_its_row(tmp_path):
    with make_index(
        tmp_path / "x.rsr", [tile_at(f"t{i}", (i, 0, i + 1, 1), np.ones(2)) for i in range(3)], "l2"
    ) as index:
        found = Hit.at(index, 0.5, 2)
        assert (found.id, found.record["bbox"], found.distance) == ("t2", [2, 0, 3, 1], 0.5)
