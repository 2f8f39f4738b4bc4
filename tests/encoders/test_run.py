"""The embedding of a stream of tiles: the right pixels reach the model, in order, whatever the batch."""

from __future__ import annotations

import base64
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from support import binarized, written

from rsr_cli.core.encoders import reading, run
from rsr_cli.core.encoders.base import Encoder, Model
from rsr_cli.core.encoders.placement import place
from rsr_cli.core.encoders.registry import load_encoder
from rsr_cli.core.encoders.run import Embedder
from rsr_cli.core.encoders.specification import EncoderSettings, parse
from rsr_cli.core.encoders.statistics import Statistics
from rsr_cli.core.errors import RecordError, Skips, UsageError
from rsr_cli.core.rasters import ahead, strips
from rsr_cli.core.records.space import fingerprint
from rsr_cli.core.records.streams import read
from rsr_cli.remedies import explain

PRITHVI = ("blue", "green", "red", "nir08", "swir16", "swir22")


def vectors(records: list[dict]) -> np.ndarray:
    raws = [base64.b64decode(r["properties"]["embedding"]["data"]) for r in records]
    return np.stack([np.frombuffer(raw, "<f4") for raw in raws])


class Means(Encoder):
    """The mean of each band, and the number of pixel columns: an encoder whose right answer is obvious."""

    def __init__(self, bands=PRITHVI, size_px=None):
        n = len(bands)
        statistics = Statistics((1000.0,) * n, (10.0,) * n)
        model = Model(name="means", encoder="", dim=n + 1, bands=tuple(bands), statistics=statistics, size_px=size_px)
        super().__init__(model.adjust(EncoderSettings("means")))
        self.facts = {}
        self.module = torch.nn.Identity()

    def forward(self, pixels, *_, **__):
        count = torch.full((len(pixels), 1), float(pixels.shape[-1]))
        return torch.cat([pixels.mean((2, 3)), count], 1)


def embedded(tiles: bytes, tmp_path, encoder=None, batch_size=4, keep_going=False, **options):
    path = tmp_path / "tiles.geojsonl"
    path.write_bytes(tiles)
    skips = Skips(keep_going=keep_going)
    embedder = Embedder(encoder or Means(), place("cpu", "fp32", batch_size), skips, **options)
    return written(embedder.embed(read([str(path)], skips))), skips


def test_invalid_pixels_become_the_mean_and_the_rest_is_normalised(call, corner_scene, tmp_path):
    tiles = call("tile", "--size", "32", "--min-valid", "0", corner_scene)
    records, _ = embedded(tiles, tmp_path)
    assert [record["properties"]["valid"] for record in records] == [0.5] + [1.0] * 8
    values = vectors(records)
    # half of the first tile is nodata: the mean of its bands, 1, 2 ... 6, is halved, not pulled to (0 - 1000) / 10
    np.testing.assert_allclose(values[0, :6], np.arange(1, 7) / 2, rtol=1e-6)
    np.testing.assert_allclose(values[1:8, :6], np.tile(np.arange(1, 7), (7, 1)), rtol=1e-6)
    np.testing.assert_allclose(values[8, :6], 200, rtol=1e-6)


class ValidMeans(Means):
    """The mean of each band over valid pixels, and the sum of their shares."""

    def forward(self, pixels, valid, **_):
        total = valid.sum((1, 2))[:, None]
        return torch.cat([(pixels * valid[:, None]).sum((2, 3)) / total, total], 1)


@pytest.mark.parametrize("size_px", [None, 7, 20, 32, 45, 224])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_a_hole_is_resized_to_does_not_bleed_into_the_valid_pixels(
    call, corner_scene, tmp_path, size_px, batch_size
):
    """Around the hole, all pixels of a band are the same, and stay so in each size."""
    tiles = call("tile", "--size", "32", "--min-valid", "0", corner_scene)
    encoder = ValidMeans(size_px=size_px)
    seen = []
    forward = encoder.forward
    encoder.forward = lambda pixels, valid: (seen.append((pixels, valid)), forward(pixels, valid))[1]
    records, _ = embedded(tiles, tmp_path, encoder, batch_size=batch_size)
    values = vectors(records)
    np.testing.assert_allclose(values[:8, :6], np.tile(np.arange(1, 7), (8, 1)), rtol=1e-5)
    area = (size_px or 32) ** 2
    np.testing.assert_allclose(values[:, 6], [area / 2] + [area] * 8, rtol=1e-5)
    (pixels, valid), *_ = seen
    assert valid.shape == (batch_size, *pixels.shape[2:])
    assert (valid >= 0).all()
    ground = pixels[0][:, valid[0] > 1e-3]
    np.testing.assert_allclose(ground, np.arange(1, 7)[:, None] * np.ones(ground.shape[1]), rtol=1e-4)
    assert (pixels[0][:, valid[0] == 0] == 0).all()
    assert (valid[1:] == 1).all()  # not about 1, as where a hole is resized


def test_a_pixel_that_one_band_lacks_is_invalid_but_a_filled_band_is_not_asked(call, write_raster, tmp_path):
    data = np.full((2, 8, 8), 1010, np.float32)
    data[0, :2] = np.nan
    data[1, :, :2] = np.nan
    path = write_raster(tmp_path / "x.tif", data, names=("blue", "green"))
    tiles = call("tile", "--whole", "--scale", "1", path)
    (record,), _ = embedded(tiles, tmp_path, ValidMeans(("blue", "green")))
    assert vectors([record])[0].tolist() == [1, 1, 36]
    assert record["properties"]["valid"] == round(36 / 64, 4)
    (record,), _ = embedded(tiles, tmp_path, ValidMeans(("blue", "green")), filled=["green"])
    assert vectors([record])[0].tolist() == [1, 0, 48]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_order_and_values_do_not_depend_on_the_batch(call, corner_scene, tmp_path, batch_size):
    tiles = call("tile", "--size", "16", "--stride", "8", "--min-valid", "0.2", corner_scene)
    lines = tiles.splitlines()
    records, _ = embedded(tiles, tmp_path, batch_size=batch_size)
    assert [record["id"] for record in records] == [orjson.loads(line)["id"] for line in lines]
    one_by_one, _ = embedded(tiles, tmp_path, batch_size=1)
    np.testing.assert_array_equal(vectors(records), vectors(one_by_one))


@pytest.mark.parametrize("model", ["rcf", "rcf:size=20"])
def test_several_devices_share_the_tiles_and_keep_their_order(call, corner_scene, tmp_path, model):
    """GPUs are shared in the same way, each by a copy of the model."""
    settings = parse(model)
    path = tmp_path / "tiles.geojsonl"
    path.write_bytes(call("tile", "--size", "16", "--stride", "8", "--min-valid", "0.2", corner_scene))
    one = place("cpu", "fp32", 4)
    three = replace(one, devices=one.devices * 3)
    expected, shared = (
        written(Embedder(load_encoder(settings), placement, Skips()).embed(read([str(path)], Skips())))
        for placement in (one, three)
    )
    assert shared == expected
    assert len(expected) > 4 * 3


def test_an_error_on_one_of_several_devices_ends_them_all(call, corner_scene, tmp_path):
    class Fails(Means):
        def forward(self, *_, **__):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    path = tmp_path / "tiles.geojsonl"
    path.write_bytes(call("tile", "--size", "16", corner_scene))
    placement = place("cpu", "fp32", 4)
    embedder = Embedder(Fails(), replace(placement, devices=placement.devices * 2), Skips())
    with pytest.raises(UsageError, match="cpu has too little memory for a single tile") as caught:
        list(embedder.embed(read([str(path)], Skips())))
    assert "--device" in explain(caught.value)


def test_a_batch_that_memory_does_not_suffice_for_is_halved(call, corner_scene, tmp_path, caplog):
    """Those after it are as small at once, and the vectors and their order are the same."""
    sizes = []

    class Hungry(Means):
        def forward(self, pixels, *given, **context):
            torch.empty(len(pixels) << 26, dtype=torch.uint8)  # 64 MiB per tile
            sizes.append(len(pixels))
            return super().forward(pixels, *given, **context)

    tiles = call("tile", "--size", "8", "--min-valid", "0.2", corner_scene)
    expected, _ = embedded(tiles, tmp_path, batch_size=8)
    caplog.clear()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (450 << 20), limits[1]))
    try:
        found, _ = embedded(tiles, tmp_path, Hungry(), batch_size=64)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == (
        "cpu has too little memory for a batch of 64 tiles, and computes half of them at a time from here on"
    )
    assert max(sizes) in (2, 4, 6)
    assert 2 <= len(said) <= 6
    assert [record["id"] for record in found] == [record["id"] for record in expected]
    np.testing.assert_allclose(vectors(found), vectors(expected), rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"filled": ["green"]}, {"fill_missing": True}])
def test_overlapping_tiles_that_are_read_at_once_do_not_disturb_each_other(
    call, corner_scene, tmp_path, monkeypatch, options
):
    tiles = call("tile", "--size", "16", "--stride", "4", "--min-valid", "0.1", corner_scene)
    encoder = ValidMeans(("blue", "green", "pan") if "fill_missing" in options else PRITHVI)
    together, _ = embedded(tiles, tmp_path, encoder, **options)
    monkeypatch.setattr(strips, "STRIP_TILES", 1)
    alone, _ = embedded(tiles, tmp_path, encoder, **options)
    assert together == alone
    assert len(together) > 100


def test_a_tile_that_fails_does_not_take_its_neighbours_along(call, corner_scene, tmp_path):
    lines = call("tile", "--size", "16", "--stride", "8", corner_scene).splitlines()
    records = [orjson.loads(line) for line in lines]
    *_, last = (i for i, record in enumerate(records) if record["properties"]["window"][1] == 48)
    left, top, width, height = records[last]["properties"]["window"]
    for i, right in enumerate((4, 16)):  # partly beyond the raster, and wholly
        beyond = {**records[last]["properties"], "window": [left + right, top, width + right, height]}
        records.insert(last + 1 + i, {**records[last], "id": f"beyond {i}", "properties": beyond})
    done, skips = embedded(b"\n".join(map(orjson.dumps, records)), tmp_path, ValidMeans(), keep_going=True)
    failed = {record["id"] for record in records} - {record["id"] for record in done}
    assert (failed, skips.count) == ({"beyond 1"}, 1)


def test_tiles_of_mixed_sizes_are_resized_or_taken_as_they_are(call, corner_scene, tmp_path):
    sizes = (16, 32, 32, 24)
    tiles = b"".join(call("tile", "--size", s, "--id-prefix", f"{i}-", corner_scene) for i, s in enumerate(sizes))
    native, _ = embedded(tiles, tmp_path)
    assert {int(v[-1]) for v in vectors(native)} == {16, 24, 32}
    resized, _ = embedded(tiles, tmp_path, Means(size_px=20))
    assert {int(v[-1]) for v in vectors(resized)} == {20}
    assert [r["id"] for r in native] == [r["id"] for r in resized]


def test_a_missing_band_is_an_error_or_the_mean(call, corner_scene, tmp_path):
    tiles = call("tile", "--size", "32", corner_scene)
    encoder = Means(("coastal", *PRITHVI))
    with pytest.raises(RecordError, match=r"tiles.geojsonl:1: band coastal is missing"):
        embedded(tiles, tmp_path, encoder)
    records, _ = embedded(tiles, tmp_path, encoder, fill_missing=True)
    np.testing.assert_allclose(vectors(records)[1, :7], np.arange(7), atol=1e-5)
    assert records[0]["properties"]["embedding"]["filled"] == ["coastal"]
    assert records[0]["properties"]["valid"] == 0.5  # of the bands that are there
    with pytest.raises(RecordError, match=r"band pan is missing \(has blue, .*\)$"):
        embedded(tiles, tmp_path, Means(("pan",)), fill_missing=True)


def test_filled_bands_are_part_of_the_space_and_each_record_states_its_own(call, corner_scene, tmp_path):
    encoder = Means(("coastal", "pan", *PRITHVI))
    tiles = [orjson.loads(line) for line in call("tile", "--size", "32", corner_scene).splitlines()[:3]]
    tiles[1]["properties"]["bands"][0] = "pan"
    tiles[2]["properties"]["bands"][0] = "coastal"
    tiles[2]["properties"]["bands"][1] = "pan"
    records, _ = embedded(b"\n".join(map(orjson.dumps, tiles)), tmp_path, encoder, fill_missing=True)
    expected = [["coastal", "pan"], ["coastal", "blue"], ["blue", "green"]]  # in the model's order
    assert [record["properties"]["embedding"]["filled"] for record in records] == expected
    prints = [record["properties"]["embedding"]["fingerprint"] for record in records]
    assert prints == [fingerprint(encoder.recipe | {"filled": filled}) for filled in expected]
    assert "filled" not in encoder.recipe
    assert len({encoder.space().fingerprint, *prints}) == 4


def test_the_unit_of_pixels_that_are_not_reflectance_is_part_of_the_space(call, corner_scene, tmp_path):
    encoder = Means()
    tiles = [orjson.loads(line) for line in call("tile", "--size", "32", corner_scene).splitlines()[:4]]
    for tile, unit in zip(tiles, (None, "dB", "power", "K"), strict=True):
        tile["properties"] |= {"unit": unit} if unit else {}
    records, _ = embedded(b"\n".join(map(orjson.dumps, tiles)), tmp_path, encoder)
    stated = [record["properties"]["embedding"] for record in records]
    assert [embedding.get("unit") for embedding in stated] == [
        None,
        "dB",
        "dB",
        "K",
    ]  # power is read in dB
    also = ({}, {"unit": "dB"}, {"unit": "dB"}, {"unit": "K"})
    assert [embedding["fingerprint"] for embedding in stated] == [fingerprint(encoder.recipe | more) for more in also]
    (code, *_) = binarized(records[1:3])
    assert code["properties"]["code"]["unit"] == "dB"


def test_a_tile_without_valid_pixels_is_refused_or_skipped(call, corner_scene, tmp_path):
    tiles = call("tile", "--size", "16", "--min-valid", "0", corner_scene)
    with pytest.raises(RecordError, match=r":1: has no valid pixel") as caught:
        embedded(tiles, tmp_path)
    assert "--min-valid" in explain(caught.value)
    records, skips = embedded(tiles, tmp_path, keep_going=True)
    assert (len(records), skips.count) == (34, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": None}, "is not a tile"),
        ({"window": [0, 0, 0, 8]}, "is not a tile"),
        ({"window": "all"}, "is not a tile"),
        ({"window": [9999, 0, 8, 8]}, "lies outside the raster"),
        ({"source": "gone.tif"}, "no such file"),
        ({"source": {"blue": "gone.tif"}}, "is not a tile"),
        ({"window": [0, 0, 10**12, 10**12]}, "is not a tile"),
        ({"window": [0, 0, -4, -4]}, "is not a tile"),
        ({"bands": None}, "is not a tile"),
        ({"bands": [1]}, "is not a tile"),
        ({"scale": "x"}, "is not a tile"),
        ({"nodata": []}, "is not a tile"),
        ({"proj:transform": [1]}, "is not a tile"),
        (
            {"bands": ["pan", "-", "-", "-", "-", "-"]},
            "bands blue, green, red, nir08, swir16, swir22 are missing (has pan, -, -, -, -, -)",
        ),
        ({"bands": ["blue"]}, "bands green, red, nir08, swir16, swir22 are missing"),
        ({"bands": [*PRITHVI, "pan"]}, "has 6 bands, but the record names 7"),
    ],
)
def test_a_broken_tile_is_named_by_its_line(call, corner_scene, tmp_path, change, says):
    lines = call("tile", "--size", "32", corner_scene).splitlines(keepends=True)
    record = orjson.loads(lines[4])
    record["properties"] |= change
    lines[4] = orjson.dumps(record) + b"\n"
    with pytest.raises(RecordError) as caught:
        embedded(b"".join(lines), tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/tiles.geojsonl:5: ")
    assert says in str(caught.value)
    records, skips = embedded(b"".join(lines), tmp_path, keep_going=True)
    assert (len(records), skips.count) == (8, 1)


class Overflows(Means):
    def forward(self, pixels, valid, **_):
        values = super().forward(pixels, valid)
        values[values[:, 0] > 100] = float("inf")
        return values


def test_a_model_that_overflows_is_an_error(call, corner_scene, tmp_path):
    tiles = call("tile", "--size", "32", corner_scene)
    with pytest.raises(RecordError, match=r":9: the model returns NaN"):
        embedded(tiles, tmp_path, Overflows())


class Located(Means):
    needs = ("datetime", "location")

    def forward(self, pixels, *_, **context):
        return torch.cat([context["datetime"], context["location"], pixels.mean((2, 3))[:, :3]], 1)


def test_date_and_place_come_from_the_record(call, corner_scene, tmp_path):
    tiles = call("tile", "--whole", "--datetime", "2021-03-01T10:00:00+01:00", corner_scene)
    (record,), _ = embedded(tiles, tmp_path, Located())
    year, day, lat, lon = vectors([record])[0, :4].tolist()
    assert (year, day) == (2021, 59)  # 31 + 28 days before
    west, south, east, north = record["bbox"]
    assert (lat, lon) == (pytest.approx((south + north) / 2), pytest.approx((west + east) / 2))

    across = orjson.loads(tiles)
    for box in ([179.5, -10, -179.0, -9], [179.5, -10, 0, -179.0, -9, 8848], [179.5, -10, 181.0, -9]):
        across["bbox"] = box
        (record,), _ = embedded(orjson.dumps(across), tmp_path, Located())
        assert vectors([record])[0, 2:4].tolist() == [-9.5, -179.75]
    across["bbox"] = [600000, 5300000, 610000, 5310000]
    with pytest.raises(RecordError, match="has a bbox that is not west, south, east, north in degrees"):
        embedded(orjson.dumps(across), tmp_path, Located())


def test_a_missing_date_or_place_is_an_error(call, corner_scene, tmp_path):
    tiles = call("tile", "--whole", corner_scene)
    with pytest.raises(RecordError, match="has datetime None, but the model needs a date") as caught:
        embedded(tiles, tmp_path, Located())
    assert "--datetime" in explain(caught.value)
    placeless = orjson.loads(call("tile", "--whole", "--datetime", "2021-03-01", corner_scene))
    expected, _ = embedded(orjson.dumps(placeless), tmp_path, Located())
    del placeless["bbox"]
    by_geometry, _ = embedded(orjson.dumps(placeless), tmp_path, Located())
    assert by_geometry[0]["properties"]["embedding"] == expected[0]["properties"]["embedding"]
    placeless["geometry"] = None
    with pytest.raises(RecordError, match="has no bbox"):
        embedded(orjson.dumps(placeless), tmp_path, Located())


def test_batches_and_reading_ahead_are_limited_by_memory(call, corner_scene, tmp_path, monkeypatch):
    tiles = call("tile", "--size", "16", "--min-valid", "0.2", corner_scene)
    expected, _ = embedded(tiles, tmp_path, batch_size=64)
    sizes, waiting = [], []

    class Watched(Means):
        def forward(self, pixels, *given, **context):
            sizes.append(len(pixels))
            time.sleep(0.05)
            return super().forward(pixels, *given, **context)

    tile_bytes = 6 * 16 * 16 * 4
    monkeypatch.setattr(run, "MAX_INPUT_BYTES", 3 * tile_bytes + 1)
    monkeypatch.setattr(ahead, "MAX_TILE_BYTES", 5 * ahead.memory_of(16 * 16, 6))
    monkeypatch.setattr(ahead, "STRIP_BYTES", ahead.MAX_TILE_BYTES // 5)
    ready = reading.Reader._ready

    def counted(*arguments):
        waiting.append(len(sizes))
        return ready(*arguments)

    monkeypatch.setattr(reading.Reader, "_ready", counted)
    records, _ = embedded(tiles, tmp_path, Watched(), batch_size=64)
    assert set(sizes[:-1]) == {3}
    assert max(np.bincount(waiting)) <= 5 + 3 * 3  # ahead of a batch, which waits while two are in the model
    np.testing.assert_array_equal(vectors(records), vectors(expected))


@pytest.mark.parametrize(
    "window", [None, 5, "abcd", [0, 0, "a", 5], [0, 0, -1e9, 1e9], [0, 0, 1e300, 1e300], [[]] * 4, {}]
)
def test_a_malformed_window_among_tiles(call, corner_scene, tmp_path, window):
    lines = call("tile", "--size", "32", corner_scene).splitlines()
    odd = orjson.loads(lines[0])
    odd["properties"]["window"] = window
    stream = b"\n".join([lines[0], orjson.dumps(odd), *lines[1:]]) + b"\n"
    records, skips = embedded(stream, tmp_path, keep_going=True)
    assert (len(records), skips.count) == (len(lines), 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:all"])
def test_a_gpu_returns_the_vectors_of_the_cpu(call, corner_scene, tmp_path, device):
    tiles = call("tile", "--size", "16", "--stride", "4", "--min-valid", "0.1", corner_scene)
    path = tmp_path / "tiles.geojsonl"
    path.write_bytes(tiles)
    found = {}
    for name in ("cpu", device):
        embedder = Embedder(load_encoder(EncoderSettings(model="rcf")), place(name, "fp32", 7), Skips())
        done = list(embedder.embed(read([str(path)], Skips())))
        found[name] = [r["id"] for batch in done for r in batch.records], np.concatenate([b.vectors for b in done])
    assert found["cpu"][0] == found[device][0]
    np.testing.assert_allclose(found["cpu"][1], found[device][1], rtol=1e-3, atol=1e-4)
