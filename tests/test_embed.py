"""``rsr embed`` on real files: the right pixels reach the model, in order, whatever the batch."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys

import numpy as np
import orjson
import pytest
import rasterio
import torch
from rasterio.enums import Resampling

from rsr_cli.core.encoders.base import Encoder
from rsr_cli.core.encoders.placement import place
from rsr_cli.core.encoders.run import Embedder
from rsr_cli.core.errors import RecordError, Skips
from rsr_cli.core.records.streams import read

PRITHVI = ("blue", "green", "red", "nir08", "swir16", "swir22")
# Prithvi-EO-1.0-100M's, from its config.json.
MEAN = [
    775.2290211032589,
    1080.992780391705,
    1228.5855250417867,
    2497.2022620507532,
    2204.2139147975554,
    1610.8324823273745,
]
STD = [
    1281.526139861424,
    1270.0297974547493,
    1399.4802505642526,
    1368.3446143747644,
    1291.6764008585435,
    1154.505683480695,
]


def parsed(done) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return [orjson.loads(line) for line in done.stdout.splitlines()]


def vectors(records: list[dict]) -> np.ndarray:
    raws = [base64.b64decode(r["properties"]["embedding"]["data"]) for r in records]
    return np.stack([np.frombuffer(raw, "<f4") for raw in raws])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(float), b.astype(float)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


# Prithvi on real chips -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone():
    """Prithvi-100M with random weights, built by terratorch."""
    from terratorch.registry import BACKBONE_REGISTRY

    torch.manual_seed(0)
    model = BACKBONE_REGISTRY.build("prithvi_eo_v1_100", pretrained=False, num_frames=1).eval()
    with torch.no_grad():  # biases and norms of fresh networks are constants that hide mistakes
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def checkpoint(backbone, tmp_path_factory):
    """Its weights in the published layout: ``encoder.`` before the names, and a decoder beside them."""
    state = {f"encoder.{name}": tensor for name, tensor in backbone.state_dict().items()}
    state["encoder.pos_embed"] = torch.zeros(1, 589, 768)  # published for three dates
    state["decoder.mask_token"] = torch.zeros(1, 1, 512)
    path = tmp_path_factory.mktemp("weights") / "Prithvi_EO_V1_100M.pt"
    torch.save(state, path)
    return path


def independent(backbone, pixels: np.ndarray) -> np.ndarray:
    """The paper's embedding in a few lines: normalise, resize, mean of the patch tokens after the norm."""
    mean, std = (torch.tensor(v).view(1, 6, 1, 1) for v in (MEAN, STD))
    x = (torch.from_numpy(pixels.astype(np.float32))[None] - mean) / std
    x = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True, align_corners=False)
    with torch.no_grad():
        return backbone(x.float())[-1][0, 1:].mean(0).numpy()


def test_terramind_chips_are_embedded_as_terratorch_does(rsr, shared_data, backbone, checkpoint):
    folder = shared_data / "terramind" / "S2L2A"
    tiles = rsr("tile", "--whole", "--sensor", "sentinel2-l2a", folder).stdout
    found = parsed(rsr("embed", "--weights", checkpoint, input=tiles))
    assert len(found) == 5
    expected = []
    for record in found:
        with rasterio.open(folder / f"{record['id']}.tif") as chip:
            # B02 B03 B04 B8A B11 B12 of B01..B08, B8A, B09, B11, B12
            expected.append(independent(backbone, chip.read([2, 3, 4, 9, 11, 12])))
    assert cosines(vectors(found), np.stack(expected)).min() > 0.9999
    # and the chips are told apart: the wrong one is another vector
    assert cosines(vectors(found), np.roll(np.stack(expected), 1, axis=0)).max() < 0.9999

    for size in (1, 3):
        again = parsed(rsr("embed", "--weights", checkpoint, "--batch-size", size, input=tiles))
        assert cosines(vectors(found), vectors(again)).min() > 0.99999


def test_bigearthnet_patches_are_embedded_as_terratorch_does(rsr, shared_data, backbone, checkpoint):
    folder = shared_data / "bigearthnet_s2"
    tiles = rsr("tile", "--whole", "--per-band", "--sensor", "sentinel2-l2a", folder).stdout
    found = parsed(rsr("embed", "--weights", checkpoint, "--batch-size", "4", input=tiles))
    assert len(found) == 6
    expected = []
    for record in found:
        layers = []
        for band in ("B02", "B03", "B04", "B8A", "B11", "B12"):
            with rasterio.open(folder / record["id"] / f"{record['id']}_{band}.tif") as file:
                layers.append(file.read(1, out_shape=(120, 120), resampling=Resampling.bilinear))
        expected.append(independent(backbone, np.stack(layers)))
    assert cosines(vectors(found), np.stack(expected)).min() > 0.9999


# The pipeline --------------------------------------------------------------------------------------------------------


class Means(Encoder):
    """The mean of each band, and how many pixels came in: an encoder whose right answer is plain."""

    def __init__(self, bands=PRITHVI, size_px=None):
        self.name, self.bands, self.size_px = "means", tuple(bands), size_px
        self.mean, self.std = (1000.0,) * len(bands), (10.0,) * len(bands)
        self.dim, self.space = len(bands) + 1, {}
        self.module = torch.nn.Identity()

    def forward(self, pixels, **_):
        count = torch.full((len(pixels), 1), float(pixels.shape[-1]))
        return torch.cat([pixels.mean((2, 3)), count], 1)


@pytest.fixture
def scene(tmp_path):
    """A 96 x 96 scene of six bands, band b at 1000 + 10 (b + 1), with a corner of nodata and one odd tile."""
    path = tmp_path / "scene.tif"
    data = np.stack([np.full((96, 96), 1010 + 10 * b, np.uint16) for b in range(6)])
    data[:, :16, :32] = 0
    data[:, 64:, 64:] = 3000
    with rasterio.open(
        path, "w", driver="GTiff", width=96, height=96, count=6, dtype="uint16", nodata=0, crs="EPSG:32633",
        transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
    ) as target:  # fmt: skip
        target.write(data)
        target.descriptions = PRITHVI
    return path


def embedded(tiles: bytes, tmp_path, encoder=None, batch_size=4, keep_going=False, **options):
    path = tmp_path / "tiles.geojsonl"
    path.write_bytes(tiles)
    skips = Skips(keep_going=keep_going)
    embedder = Embedder(encoder or Means(), place("cpu", "fp32", batch_size), skips, **options)
    return [record for batch in embedder.embed(read([str(path)], skips)) for record in batch], skips


def test_invalid_pixels_become_the_mean_and_the_rest_is_normalised(rsr, scene, tmp_path):
    tiles = rsr("tile", "--size", "32", "--min-valid", "0", scene).stdout
    records, _ = embedded(tiles, tmp_path)
    assert [record["properties"]["valid"] for record in records] == [0.5] + [1.0] * 8
    values = vectors(records)
    # half of the first tile is nodata: the mean of its bands, 1, 2 ... 6, is halved, not drawn to (0 - 1000) / 10
    np.testing.assert_allclose(values[0, :6], np.arange(1, 7) / 2, rtol=1e-6)
    np.testing.assert_allclose(values[1:8, :6], np.tile(np.arange(1, 7), (7, 1)), rtol=1e-6)
    np.testing.assert_allclose(values[8, :6], 200, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_order_and_values_do_not_depend_on_the_batch(rsr, scene, tmp_path, batch_size):
    tiles = rsr("tile", "--size", "16", "--stride", "8", "--min-valid", "0.2", scene).stdout
    lines = tiles.splitlines()
    records, _ = embedded(tiles, tmp_path, batch_size=batch_size)
    assert [record["id"] for record in records] == [orjson.loads(line)["id"] for line in lines]
    one_by_one, _ = embedded(tiles, tmp_path, batch_size=1)
    np.testing.assert_array_equal(vectors(records), vectors(one_by_one))


def test_tiles_of_mixed_sizes_are_resized_or_taken_as_they_are(rsr, scene, tmp_path):
    sizes = (16, 32, 32, 24)
    tiles = b"".join(rsr("tile", "--size", s, "--id-prefix", f"{i}-", scene).stdout for i, s in enumerate(sizes))
    native, _ = embedded(tiles, tmp_path)
    assert {int(v[-1]) for v in vectors(native)} == {16, 24, 32}
    resized, _ = embedded(tiles, tmp_path, Means(size_px=20))
    assert {int(v[-1]) for v in vectors(resized)} == {20}
    assert [r["id"] for r in native] == [r["id"] for r in resized]


def test_a_missing_band_is_an_error_or_the_mean(rsr, scene, tmp_path):
    tiles = rsr("tile", "--size", "32", scene).stdout
    encoder = Means(("coastal", *PRITHVI))
    with pytest.raises(RecordError, match=r"tiles.geojsonl:1: band coastal is missing .*--fill-missing"):
        embedded(tiles, tmp_path, encoder)
    records, _ = embedded(tiles, tmp_path, encoder, fill_missing=True)
    np.testing.assert_allclose(vectors(records)[1, :7], np.arange(7), atol=1e-5)
    assert records[0]["properties"]["embedding"]["filled"] == ["coastal"]
    assert records[0]["properties"]["valid"] == 0.5  # of the bands that are there
    with pytest.raises(RecordError, match=r"band pan is missing .*and none is there"):
        embedded(tiles, tmp_path, Means(("pan",)), fill_missing=True)


def test_a_tile_without_valid_pixels_is_refused_or_skipped(rsr, scene, tmp_path):
    tiles = rsr("tile", "--size", "16", "--min-valid", "0", scene).stdout
    with pytest.raises(RecordError, match=r":1: has no valid pixel; .*--min-valid"):
        embedded(tiles, tmp_path)
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
        ({"bands": ["pan", "-", "-", "-", "-", "-"]}, "and none is there"),
        ({"bands": ["blue"]}, "band green red nir08 swir16 swir22 is missing"),
        ({"bands": [*PRITHVI, "pan"]}, "has 6 bands, and the record names 7"),
    ],
)
def test_a_broken_tile_is_named_by_its_line(rsr, scene, tmp_path, change, says):
    lines = rsr("tile", "--size", "32", scene).stdout.splitlines(keepends=True)
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
    def forward(self, pixels, **_):
        values = super().forward(pixels)
        values[values[:, 0] > 100] = float("inf")
        return values


def test_a_model_that_overflows_is_not_believed(rsr, scene, tmp_path):
    tiles = rsr("tile", "--size", "32", scene).stdout
    with pytest.raises(RecordError, match=r":9: the model gives NaN"):
        embedded(tiles, tmp_path, Overflows())


class Located(Means):
    needs = ("datetime", "location")

    def forward(self, pixels, **context):
        return torch.cat([context["datetime"], context["location"], pixels.mean((2, 3))[:, :3]], 1)


def test_date_and_place_come_from_the_record(rsr, scene, tmp_path):
    tiles = rsr("tile", "--whole", "--datetime", "2021-03-01T10:00:00+01:00", scene).stdout
    (record,), _ = embedded(tiles, tmp_path, Located())
    year, day, lat, lon = vectors([record])[0, :4].tolist()
    assert (year, day) == (2021, 59)  # 31 + 28 days before
    west, south, east, north = record["bbox"]
    assert (lat, lon) == (pytest.approx((south + north) / 2), pytest.approx((west + east) / 2))

    across = orjson.loads(tiles)
    across["bbox"] = [179.5, -10, -179.0, -9]
    (record,), _ = embedded(orjson.dumps(across), tmp_path, Located())
    assert vectors([record])[0, 2:4].tolist() == [-9.5, -179.75]


def test_a_model_that_takes_a_date_says_when_there_is_none(rsr, scene, tmp_path):
    tiles = rsr("tile", "--whole", scene).stdout
    with pytest.raises(RecordError, match="--datetime"):
        embedded(tiles, tmp_path, Located())
    placeless = orjson.loads(rsr("tile", "--whole", "--datetime", "2021-03-01", scene).stdout)
    del placeless["bbox"]
    with pytest.raises(RecordError, match="has no bbox"):
        embedded(orjson.dumps(placeless), tmp_path, Located())


# The command ---------------------------------------------------------------------------------------------------------


def test_the_same_bytes_twice(rsr, scene):
    tiles = rsr("tile", "--size", "16", scene).stdout
    first, second = (rsr("embed", "--model", "rcf", input=tiles) for _ in range(2))
    assert parsed(first)
    assert first.stdout == second.stdout
    other = rsr("embed", "--model", "rcf", "--seed", "1", input=tiles)
    prints = {r["properties"]["embedding"]["fingerprint"] for done in (first, other) for r in parsed(done)}
    assert len(prints) == 2


def test_ctrl_c_in_the_middle_of_a_stream(rsr, scene, tmp_path):
    """A pipe that never ends: the reading threads stop too, and nothing is left behind."""
    tiles = rsr("tile", "--size", "16", scene).stdout
    command = [sys.executable, "-m", "rsr_cli.main", "embed", "--model", "rcf", "-o", "out.geojsonl"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored where the tests run in the background
    ) as process:
        process.stdin.write(tiles * 20)
        process.stdin.flush()
        while not any(p.name.startswith(".out") and p.stat().st_size for p in tmp_path.iterdir()):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "cuda:99"], "cannot be used"),
        (["--device", "nonsense"], "cannot be used"),
        (["--device", "cpu", "--precision", "fp16"], "fp16 needs an accelerator"),
        (["--model", "prithvi_eo_v1_1000"], "did you mean"),
        (["--bands", "blau"], "not a STAC common name"),
        (["--bands", "red,-"], "'-' is not a STAC common name"),
        (["--mean", "1,x"], "list of numbers"),
    ],
)
def test_settings_that_cannot_be(rsr, options, says):
    done = rsr("embed", "--model", "rcf", *options, input=b"")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr.decode()


def test_everything_awkward_gives_records_or_one_line(rsr, shared_data):
    """Each file through ``tile | embed --model rcf``."""
    bands = {1: "red", 3: "red,green,blue", 4: "blue,green,red,nir"}
    for path in sorted((shared_data / "awkward").iterdir()):
        try:
            with rasterio.open(path) as dataset:
                alpha = sum(kind.name == "alpha" for kind in dataset.colorinterp)
                names = bands.get(dataset.count - alpha, "red")
        except (rasterio.RasterioIOError, IndexError):
            names = "red"
        tiles = rsr("tile", "--whole", "--bands", names, "-q", path)
        done = rsr(
            "embed",
            "--model",
            "rcf",
            "--bands",
            names,
            "--mean",
            *[",".join(["100"] * (names.count(",") + 1))] * 1,
            "--std",
            ",".join(["50"] * (names.count(",") + 1)),
            "-q",
            input=tiles.stdout,
        )
        for step in (tiles, done):
            assert step.returncode in (0, 1), path
            assert len(step.stderr.splitlines()) == step.returncode, (path, step.stderr)
            assert b"Traceback" not in step.stderr
            assert b"defect" not in step.stderr
        assert tiles.returncode or len(done.stdout.splitlines()) == 1, path
        for line in done.stdout.splitlines():
            assert np.isfinite(vectors([orjson.loads(line)])).all()
