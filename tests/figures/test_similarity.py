"""Similarity maps, read back by rasterio, against the hits."""

from __future__ import annotations

import io

import numpy as np
import pytest
import rasterio

from rsr_cli.core.errors import RasterError, RecordError, RsrError, Skips
from rsr_cli.core.figures.similarity import SimilarityMap
from rsr_cli.core.records.batch import Batch
from rsr_cli.remedies import explain


@pytest.fixture(scope="module")
def hits(tmp_path_factory, write_raster, cut):
    """Return hits of one query, in random order: all tiles of a scene of 6 x 8, with distances that float32 rounds."""
    scene = write_raster(tmp_path_factory.mktemp("scene") / "s.tif", np.ones((96, 128), np.uint8))
    tiles = cut(scene, bands=["red"], size=16)
    rng = np.random.default_rng(1)
    distances = np.sort(rng.uniform(0, 1e3, len(tiles)))
    for rank, i in enumerate(rng.permutation(len(tiles)).tolist()):
        tiles[i]["properties"] |= {"query": "q", "rank": rank + 1, "distance": float(distances[rank])}
    return [tiles[i] for i in rng.permutation(len(tiles))]


def collect(hits, skips=None):
    found = SimilarityMap(skips or Skips(explain=explain))
    for start in range(0, len(hits), 10):
        some = hits[start : start + 10]
        found.add(Batch("in", range(start + 1, start + 1 + len(some)), some))
    return found


def test_values_are_the_distances_of_float32(hits, caplog):
    with rasterio.open(io.BytesIO(collect(hits).geotiff())) as raster:
        values = raster.read(1)
        assert raster.descriptions == ("distance from q",)
    assert values.shape == (6, 8)
    for hit in hits:
        column, row, *_ = hit["properties"]["window"]
        assert values[row // 16, column // 16] == np.float32(hit["properties"]["distance"])
    assert caplog.messages == []


def test_pixels_without_a_hit_are_counted(hits, caplog):
    corners = ("s_0_0", "s_112_80")
    some = [hit for hit in hits if hit["properties"]["rank"] > 5 or hit["id"] in corners]
    with rasterio.open(io.BytesIO(collect(some).geotiff())) as raster:
        missing = np.isnan(raster.read(1)).sum()
    assert missing == len(hits) - len(some) > 2
    says = f"{missing} of 48 pixels have no hit and are NaN"
    assert caplog.messages == [f"{says}; if the index has tiles there, rsr query --radius inf finds them"]


def test_hits_that_are_no_pixel_are_named_or_skipped(hits):
    def changed(name, value):
        hit = hits[3]
        return [*hits[:3], {**hit, "properties": {**hit["properties"], name: value}}, *hits[4:]]

    for name, value, message in (
        ("query", "r", "in:4: is a hit of the query 'r', and the first one is of 'q'"),
        ("tiles", ["a", "b"], "in:4: is an area of 2 merged tiles, and states the distance of the nearest alone"),
        ("distance", None, "in:4: its distance is not a number: None"),
        ("proj:transform", None, "in:4: does not state its place on a map (proj:transform)"),
        ("rank", None, "in:4: is not a hit"),
    ):
        with pytest.raises(RecordError) as caught:
            collect(changed(name, value))
        assert str(caught.value).startswith(message)
        skips = Skips(keep_going=True, explain=explain)
        with rasterio.open(io.BytesIO(collect(changed(name, value), skips).geotiff())) as raster:
            assert (skips.count, np.isnan(raster.read(1)).sum()) == (1, 1)
    one = collect(changed("tiles", [hits[3]["id"]])).geotiff()  # an area of one tile
    assert one == collect(hits).geotiff()


def test_no_hits_and_hits_in_one_place_are_errors(hits):
    with pytest.raises(RsrError, match="no hits came in"):
        collect([]).geotiff()
    with pytest.raises(RasterError, match="are in the same place of the scene"):
        collect([*hits, hits[0]]).geotiff()
