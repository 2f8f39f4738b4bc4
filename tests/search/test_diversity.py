"""Hits that differ, against the greedy rule in plain Python over the whole ranking."""

from __future__ import annotations

import geopandas
import numpy as np
import orjson
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from support import batches, make_index
from support_places import tile_at

from rsr_cli.core.errors import Skips
from rsr_cli.core.search import places
from rsr_cli.core.search.ask import Searcher
from rsr_cli.core.search.diversity import Diversity
from rsr_cli.core.search.scope import Scope

SPHERE = Geod(a=places.EARTH_M, b=places.EARTH_M)
SIDE = 0.02  # degrees of a tile
N = 90


def drawn() -> tuple[list[dict], np.ndarray]:
    """Draw tiles of four scenes at several dates, which cross the antimeridian, by halves of their side, and vectors.

    Some have a cell of a grid, some have no place, and one scene is of another collection with the same name.
    """
    rng = np.random.default_rng(12)
    vectors = rng.integers(-2, 3, (N, 3)).astype(np.float32)  # many ties
    records = []
    for i in range(N):
        col, row = rng.integers(0, 8, 2).tolist()
        scene = f"S{i % 4}_2024_0{i % 3}"
        box = (
            round(179.9 + SIDE / 2 * col, 4),
            50 + SIDE * row,
            round(179.9 + SIDE / 2 * col + SIDE, 4),
            50 + SIDE * (row + 1),
        )
        if box[0] >= 180:
            box = (round(box[0] - 360, 4), box[1], round(box[2] - 360, 4), box[3])
        facts = {"collection": "other"} if i % 11 == 0 else {}
        name = f"{scene}_{64 * col}_{-64 * row}"
        if i % 3 == 0:
            facts["grid:code"] = f"MAJORTOM-2-{row}U_{col // 2}R"
            name = f"{scene}_{facts['grid:code']}"
        if i % 13 == 5:
            name = f"image{i}"
        records.append(tile_at(f"{name}", None if i % 17 == 3 else box, vectors[i], **facts, number=i))
        if any(record["id"] == records[-1]["id"] for record in records[:-1]):
            records[-1]["id"] = f"again{i}_{records[-1]['id']}"
    return records, vectors


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    records, vectors = drawn()
    with make_index(tmp_path_factory.mktemp("i") / "x.rsr", drawn()[0], "l1") as opened:
        yield opened, records, vectors


def greedy(records, distances, k, radius, min_distance, per_scene, one_per_place) -> list[int]:
    """Apply the rules of docs/design.md to the full ranking, one hit after the other."""
    frame = geopandas.GeoDataFrame(
        geometry=[None if r["geometry"] is None else shapely.geometry.shape(r["geometry"]) for r in records], crs=4326
    )
    areas = frame.to_crs("+proj=cea +R=6371008.7714")
    taken: list[int] = []
    for _, i in sorted((d, i) for i, d in enumerate(distances.tolist()) if radius is None or d <= radius):
        if k is not None and len(taken) == k:
            break
        if min_distance is not None and records[i]["geometry"] is None:
            continue
        if min_distance is not None and any(apart(records[i], records[j]) < min_distance for j in taken):
            continue
        if per_scene is not None and sum(scene(records[i]) == scene(records[j]) for j in taken) >= per_scene:
            continue
        if one_per_place and any(same(records, areas, i, j) for j in taken):
            continue
        taken.append(i)
    return taken


def apart(record, other) -> float:
    """Measure between the middles of the boxes, which differ from the centres by centimetres here."""
    middles = [
        ((r["bbox"][0] + r["bbox"][2]) / 2 + 180 * (r["bbox"][2] < r["bbox"][0]), (r["bbox"][1] + r["bbox"][3]) / 2)
        for r in (record, other)
    ]
    return SPHERE.inv(*middles[0], *middles[1])[2]


def scene(record) -> tuple:
    name, code = record["id"], record["properties"].get("grid:code")
    if code and name.endswith(code):
        name = name[: -len(code) - 1]
    elif not name.startswith("image"):
        name = name.rsplit("_", 2)[0]
    return record["properties"].get("collection"), name


def same(records, areas, i, j) -> bool:
    codes = [records[n]["properties"].get("grid:code") for n in (i, j)]
    if all(codes):
        return codes[0] == codes[1]
    one, other = areas.geometry[i], areas.geometry[j]
    if one is None or other is None:
        return False
    return one.intersection(other).area > 0.505 * max(one.area, other.area)


@settings(max_examples=120, deadline=None)
@given(
    query=st.integers(0, N - 1),
    k=st.none() | st.integers(1, N + 5),
    radius=st.none() | st.integers(0, 9),
    min_distance=st.none() | st.sampled_from([1.0, 900.0, 1500.0, 3000.0, 10_000.0, 1e7]),
    per_scene=st.none() | st.integers(1, 9),
    one_per_place=st.booleans(),
)
def test_hits_are_those_of_the_greedy_rule(index, query, k, radius, min_distance, per_scene, one_per_place):
    opened, records, vectors = index
    diversity = Diversity(min_distance, per_scene, one_per_place)
    searcher = Searcher(Scope(opened, radius), k, exclude_self=False, skips=Skips(), diversity=diversity)
    (lines,) = searcher.by_record(batches([tile_at("q", None, vectors[query])]))
    hits = [orjson.loads(line)["properties"] for line in lines]
    distances = np.abs(vectors - vectors[query]).sum(axis=1)
    expected = greedy(records, distances, k, radius, min_distance, per_scene, one_per_place)
    assert [hit["number"] for hit in hits] == expected
    assert [hit["rank"] for hit in hits] == [*range(1, len(expected) + 1)]
    assert [hit["distance"] for hit in hits] == distances[expected].tolist()


def test_queries_together_are_answered_as_alone(index):
    opened, _, vectors = index

    def answers(some):
        searcher = Searcher(
            Scope(opened), 7, exclude_self=False, skips=Skips(), diversity=Diversity(2500.0, 2, one_per_place=True)
        )
        return list(searcher.by_record(batches(tile_at(f"q{i}", None, vectors[i]) for i in some)))

    together = answers(range(N))
    assert together == [hits for i in range(N) for hits in answers([i])]


def test_items_without_a_place_are_warned_about_once(index, caplog):
    opened, _, vectors = index
    for diversity, warned in ((Diversity(per_scene=5, one_per_place=True), False), (Diversity(1000.0), True)):
        searcher = Searcher(Scope(opened), None, exclude_self=False, skips=Skips(), diversity=diversity)
        list(searcher.by_record(batches(tile_at(f"q{i}", None, vectors[i]) for i in range(2))))
        says = "items without a place are left out, as they may be too near to others"
        assert caplog.messages == [says] * warned
