"""``rsr embed`` on real files."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
import time

import numpy as np
import orjson
import pytest
import rasterio
import torch
from rasterio.enums import Resampling
from support import failure_in, says_what_is_lost

from rsr_cli.core.encoders.placement import place
from rsr_cli.core.errors import BandError, FingerprintError, RsrError, UsageError
from rsr_cli.core.files import PREFIX
from rsr_cli.remedies import explain

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


@pytest.fixture(scope="module")
def backbone(backbones):
    """Build terratorch's Prithvi-100M with random weights."""
    torch.manual_seed(0)
    model = backbones.build("prithvi_eo_v1_100", pretrained=False, num_frames=1).eval()
    with torch.no_grad():  # constants, as in new biases and norms, would hide mistakes
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def prithvi(backbone, tmp_path_factory):
    """Write its weights in the published layout: ``encoder.`` before the names, and a decoder beside them."""
    state = {f"encoder.{name}": tensor for name, tensor in backbone.state_dict().items()}
    state["encoder.pos_embed"] = torch.zeros(1, 589, 768)  # published for three dates
    state["decoder.mask_token"] = torch.zeros(1, 1, 512)
    path = tmp_path_factory.mktemp("weights") / "Prithvi_EO_V1_100M.pt"
    torch.save(state, path)
    return path


def independent(backbone, pixels: np.ndarray) -> np.ndarray:
    """Compute the paper's embedding: normalise, resize, take the mean of the patch tokens after the norm."""
    mean, std = (torch.tensor(v).view(1, 6, 1, 1) for v in (MEAN, STD))
    x = (torch.from_numpy(pixels.astype(np.float32))[None] - mean) / std
    x = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True, align_corners=False)
    with torch.no_grad():
        return backbone(x.float())[-1][0, 1:].mean(0).numpy()


def test_terramind_chips_are_embedded_as_terratorch_does(rsr, shared_data, backbone, prithvi):
    folder = shared_data / "terramind" / "S2L2A"
    tiles = rsr("tile", "--whole", "--sensor", "sentinel2-l2a", folder).stdout
    found = parsed(rsr("embed", "--weights", prithvi, input=tiles))
    assert len(found) == 5
    expected = []
    for record in found:
        with rasterio.open(folder / f"{record['id']}.tif") as chip:
            # B02 B03 B04 B8A B11 B12 of B01..B08, B8A, B09, B11, B12
            expected.append(independent(backbone, chip.read([2, 3, 4, 9, 11, 12])))
    assert cosines(vectors(found), np.stack(expected)).min() > 0.9999
    # and the vector of another chip is different
    assert cosines(vectors(found), np.roll(np.stack(expected), 1, axis=0)).max() < 0.9999

    for size in (1, 3):
        again = parsed(rsr("embed", "--weights", prithvi, "--batch-size", size, input=tiles))
        assert cosines(vectors(found), vectors(again)).min() > 0.99999


def test_bigearthnet_patches_are_embedded_as_terratorch_does(rsr, shared_data, backbone, prithvi):
    folder = shared_data / "bigearthnet_s2"
    tiles = rsr("tile", "--whole", "--per-band", "--sensor", "sentinel2-l2a", folder).stdout
    found = parsed(rsr("embed", "--weights", prithvi, "--batch-size", "4", input=tiles))
    assert len(found) == 6
    expected = []
    for record in found:
        layers = []
        for band in ("B02", "B03", "B04", "B8A", "B11", "B12"):
            with rasterio.open(folder / record["id"] / f"{record['id']}_{band}.tif") as file:
                layers.append(file.read(1, out_shape=(120, 120), resampling=Resampling.bilinear))
        expected.append(independent(backbone, np.stack(layers)))
    assert cosines(vectors(found), np.stack(expected)).min() > 0.9999


def test_the_same_bytes_twice(rsr, corner_scene):
    tiles = rsr("tile", "--size", "16", corner_scene).stdout
    first, second = (rsr("embed", "--model", "rcf", input=tiles) for _ in range(2))
    assert parsed(first)
    assert first.stdout == second.stdout
    other = rsr("embed", "--model", "rcf", "--seed", "1", input=tiles)
    prints = {r["properties"]["embedding"]["fingerprint"] for done in (first, other) for r in parsed(done)}
    assert len(prints) == 2


@pytest.fixture
def tiles(call, corner_scene, tmp_path):
    """Cut the scene into nine tiles, in a file."""
    path = tmp_path / "tiles.geojsonl"
    call("tile", "--size", 32, corner_scene, "-o", path)
    return path


def first_embedding(lines: bytes) -> dict:
    """Return the embedding of the first record, without its data."""
    embedding = orjson.loads(lines.splitlines()[0])["properties"]["embedding"]
    return {key: value for key, value in embedding.items() if key != "data"}


@pytest.mark.parametrize(
    ("arguments", "specification"),
    [
        (["--model", "rcf"], "rcf"),
        (["--model", "rcf:seed=0"], "rcf"),
        (["--model", "rcf:seed=3"], "rcf:seed=3"),
        (["--model", "rcf", "--seed", "3"], "rcf:seed=3"),
        (["--model", "rcf:seed=3", "--seed", "3", "--size", "16"], "rcf:size=16:seed=3"),
        (["--model", "rcf:bands=red,green,blue:size=16"], "rcf:size=16:bands=red,green,blue"),
        (["--model", "rcf", "--bands", "red,green,blue", "--size", "16"], "rcf:size=16:bands=red,green,blue"),
        (
            ["--model", "rcf:bands=red,nir08:mean=1e3,1000.5", "--std", "10,20"],
            "rcf:bands=red,nir08:mean=1000,1000.5:std=10,20",
        ),
    ],
)
def test_the_record_states_a_specification_that_makes_the_same_embedding(call, tiles, arguments, specification):
    made = call("embed", *arguments, tiles)
    assert first_embedding(made)["model"] == specification
    assert call("embed", "--model", specification, tiles) == made


def test_the_band_that_is_named_for_a_missing_one_is_read(call, tiles, tmp_path):
    named = tmp_path / "nir.geojsonl"
    named.write_bytes(tiles.read_bytes().replace(b'"nir08"', b'"nir"'))
    with pytest.raises(BandError, match="band nir08 is missing") as missing:
        call("embed", "--model", "rcf", named)
    says, _, rest = explain(missing.value).partition("; pass --bands ")
    bands = rest.split()[0]
    assert (says.endswith("(has blue, green, red, nir, swir16, swir22)"), bands) == (
        True,
        "blue,green,red,nir,swir16,swir22",
    )
    made = call("embed", "--model", "rcf", "--bands", bands, named)
    assert len(made.splitlines()) == len(tiles.read_bytes().splitlines())
    assert first_embedding(made)["model"] == f"rcf:bands={bands}"


def test_what_to_type_for_tiles_without_any_band_of_the_model(call, tiles, tmp_path, write_raster):
    """Radar for a model of optical bands, and for an index made by one."""
    radar = write_raster(tmp_path / "s1.tif", np.full((2, 8, 8), -12, np.float32))
    found = tmp_path / "s1.geojsonl"
    found.write_bytes(call("tile", "--whole", "--sensor", "sentinel1", radar))
    with pytest.raises(BandError, match=r"swir22 are missing \(has vv, vh\)$") as missing:
        call("embed", "--model", "rcf", found)
    remedy = "embed bands that the tiles have, as --model rcf:bands=vv,vh does"
    assert explain(missing.value).endswith(f"; {remedy}")
    call("embed", "--model", "rcf", tiles, "-o", tmp_path / "optical")
    with pytest.raises(BandError, match=r"swir22 are missing \(has vv, vh\)$") as missing:
        call("embed", "--as", tmp_path / "optical", found)
    assert explain(missing.value).endswith(
        "; with --as, tiles must have every band that the index or file was made from"
    )


def test_filled_embeddings_do_not_meet_true_ones(call, tiles, tmp_path):
    """An RGB query with three filled bands against an index of six true bands."""
    true, filled, rgb = (tmp_path / f"{name}.geojsonl" for name in ("true", "filled", "rgb"))
    call("embed", "--model", "rcf", tiles, "-o", true)
    call("index", true, "-o", tmp_path / "true.rsr")

    records = [orjson.loads(line) for line in tiles.read_bytes().splitlines()]
    for record in records:
        record["properties"]["bands"][3:] = ["-"] * 3
    rgb.write_bytes(b"\n".join(map(orjson.dumps, records)))
    with pytest.raises(BandError, match="bands nir08, swir16, swir22 are missing") as missing:
        call("embed", "--model", "rcf", rgb)
    assert explain(missing.value).endswith("as --model rcf:bands=blue,green,red does, or pass --fill-missing")
    call("embed", "--model", "rcf:bands=blue,green,red", rgb, "-o", filled)
    filled.unlink()
    call("embed", "--model", "rcf", "--fill-missing", rgb, "-o", filled)
    embedding = first_embedding(filled.read_bytes())
    assert embedding["filled"] == ["nir08", "swir16", "swir22"]
    assert embedding["model"] == "rcf"

    with pytest.raises(FingerprintError, match=embedding["fingerprint"]) as refused:
        call("query", tmp_path / "true.rsr", "-k", 1, filled)
    assert refused.value.status == 1
    # filled on both sides, they are in one space
    call("index", filled, "-o", tmp_path / "rgb.rsr")
    assert call("query", tmp_path / "rgb.rsr", "-k", 1, filled)


def test_ctrl_c_in_the_middle_of_a_stream(rsr, corner_scene, tmp_path):
    """A pipe that never ends: the reading threads stop too, and nothing is left behind."""
    tiles = rsr("tile", "--size", "16", corner_scene).stdout
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
        deadline = time.monotonic() + 60
        while not any(p.name.startswith(PREFIX) and p.stat().st_size for p in tmp_path.iterdir()):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "nothing was written"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        said = process.stderr.read()
        assert said
        assert says_what_is_lost(said, "out.geojsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "cuda:99"], "cannot be used"),
        (["--device", "nonsense"], "there is no device 'nonsense'; leave out --device"),
        (["--device", "cpu", "--precision", "fp16"], "fp16 needs an accelerator"),
        (
            ["--device", "cpu", "--precision", "int8"],
            "this model cannot be computed in int8; leave --precision out: int8 is for",
        ),
        (["--model", "prithvi_eo_v1_1000"], "did you mean"),
        (["--model", "rfc"], "unknown model rfc; did you mean rcf?"),
        (["--bands", "red,red"], "rsr embed: --bands: red named twice"),
        (["--model", "rcf:size=99999"], "rcf takes a size of 1 to 16384 px, not 99999"),
        (["--model", "rcf:sed=3"], "unknown setting 'sed'"),
        (["--model", "rcf:bands=blau"], "not a STAC common name"),
        (["--model", "rcf:seed=3", "--seed", "4"], "--seed and --model state different values"),
        (["--model", "rcf:size=32", "--size", "64"], "--size and --model state different values"),
        (["--model", "rcf:bands=red,nir", "--bands", "nir,red"], "--bands and --model state different values"),
        (["--pool", "max"], "rcf takes no pool"),
        (["--list-models"], "--list-models is now the command rsr models"),
        (["-v", "--list-models"], "--list-models is now the command rsr models"),
        (["--fill-missing", "mean"], "--fill-missing mean is now a plain flag"),
        (["--fill-missing=mean"], "--fill-missing mean is now a plain flag"),
        (["--bands", "blau"], "not a STAC common name"),
        (["--bands", "red,-"], "'-' is not a STAC common name"),
        (["--mean", "1,x"], "list of numbers"),
    ],
)
def test_wrong_usage_is_one_line(rsr, options, says):
    done = rsr("embed", "--model", "rcf", *options, input=b"")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr.decode()


def test_everything_awkward_gives_records_or_one_line(call, shared_data, tmp_path):
    """Each file through ``tile | embed --model rcf``: any error but a user's is raised here."""
    bands = {1: "red", 3: "red,green,blue", 4: "blue,green,red,nir"}
    for i, path in enumerate(sorted((shared_data / "awkward").iterdir())):
        try:
            with rasterio.open(path) as dataset:
                alpha = sum(kind.name == "alpha" for kind in dataset.colorinterp)
                names = bands.get(dataset.count - alpha, "red")
        except (rasterio.RasterioIOError, IndexError):
            names = "red"
        mean, std = (",".join([value] * (names.count(",") + 1)) for value in ("100", "50"))
        tiles, failure = tmp_path / f"{i}.geojsonl", None
        try:
            call("tile", "--whole", "--bands", names, "-q", path, "-o", tiles)
            assert call.stderr == b"", path
            lines = call("embed", "--model", "rcf:size=64", "--bands", names, "--mean", mean, "--std", std, "-q", tiles)
            assert call.stderr == b"", path
        except RsrError as error:
            failure = error
        if failure:
            assert failure.status == 1, path
            assert len(explain(failure).splitlines()) == 1, path
        else:
            assert len(lines.splitlines()) == 1, path
            assert np.isfinite(vectors([orjson.loads(lines)])).all()


# --as: everything that decides the space comes from an index or a file ------------------------------------------------


@pytest.fixture(scope="module")
def lakes(rsr, tmp_path_factory, write_raster):
    """Return a directory with tiles, and what rcf with settings made of them: embeddings, codes and their indexes."""
    folder = tmp_path_factory.mktemp("as")
    pixels = np.random.default_rng(0).integers(1, 3000, (3, 64, 96), dtype=np.uint16)
    path = write_raster(folder / "scene.tif", pixels, names=("red", "green", "blue"))
    (folder / "tiles").write_bytes(rsr("tile", "--size", "32", path).stdout)
    model = "rcf:size=40:seed=7:bands=red,green,nir"
    embedded = rsr("embed", "--model", model, "--fill-missing", folder / "tiles")
    assert embedded.returncode == 0, embedded.stderr
    (folder / "embeddings").write_bytes(embedded.stdout)
    (folder / "codes").write_bytes(rsr("binarize", "--method", "lsh", "--bits", "64", folder / "embeddings").stdout)
    for kind in ("embeddings", "codes"):
        assert rsr("index", folder / kind, "-o", folder / f"{kind}.rsr").returncode == 0
    return folder


@pytest.mark.parametrize("like", ["embeddings", "codes", "embeddings.rsr", "codes.rsr"])
def test_as_makes_the_same_embeddings(rsr, lakes, like):
    done = rsr("embed", "--as", lakes / like, lakes / "tiles")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (lakes / "embeddings").read_bytes()


def test_as_fills_the_same_bands_of_tiles_that_have_them(rsr, lakes, tmp_path, write_raster):
    pixels = np.random.default_rng(1).integers(1, 3000, (3, 32, 32), dtype=np.uint16)
    path = write_raster(tmp_path / "x.tif", pixels, names=("red", "green", "nir"))
    done = rsr("embed", "--as", lakes / "embeddings.rsr", input=rsr("tile", "--whole", path).stdout)
    (found,) = parsed(done)
    assert found["properties"]["embedding"]["filled"] == ["nir"]
    asked = rsr("query", lakes / "embeddings.rsr", "-k", "1", input=done.stdout)
    assert (asked.returncode, len(asked.stdout.splitlines())) == (0, 1)


@pytest.mark.parametrize(
    "options",
    [
        ["--model", "prithvi_eo_v1_100"],
        ["--model", "rcf"],
        ["--size", "40"],
        ["--seed", "7"],
        ["--bands", "red,green,nir"],
        ["--fill-missing"],
        ["--pool", "mean"],
        ["--layer", "-1"],
        ["--mean", "1,1,1"],
    ],
)
def test_what_decides_the_space_is_wrong_usage_beside_as(call, lakes, options, monkeypatch):
    with pytest.raises(UsageError, match=f"{options[0]} and --as both decide the vector space"):
        call("embed", "--as", lakes / "codes.rsr", *options, lakes / "tiles")
    variable = f"RSR_EMBED_{options[0].strip('-').replace('-', '_').upper()}"
    monkeypatch.setenv(variable, [*options, "1"][1])  # a default, which --as replaces
    made = call("embed", "--as", lakes / "codes.rsr", lakes / "tiles")
    assert first_embedding(made) == first_embedding((lakes / "embeddings").read_bytes())


def test_beside_as_a_tile_must_have_the_bands_of_the_index(rsr, lakes, tmp_path, write_raster):
    pixels = np.ones((2, 32, 32), np.uint16)
    path = write_raster(tmp_path / "x.tif", pixels, names=("red", "blue"))
    done = rsr("embed", "--as", lakes / "embeddings.rsr", input=rsr("tile", "--whole", path).stdout)
    says = "<stdin>:1: band green is missing (has red, blue); with --as, tiles must have every band"
    assert done.stderr.decode().startswith(f"rsr embed: {says}")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_as_a_file_without_vectors_says_what_to_pass(rsr, lakes):
    done = rsr("embed", "--as", lakes / "tiles", lakes / "tiles")
    says = "has no embedding; pass an index, or a file that rsr embed or rsr binarize wrote"
    assert (done.returncode, done.stderr.decode()) == (1, f"rsr embed: {lakes / 'tiles'}:1: {says}\n")


def test_a_tile_too_large_for_the_memory_that_is_free_is_skipped(tmp_path, write_raster):
    """The limit on a process's memory, set when all is imported, stands in for the machine's."""
    path = write_raster(tmp_path / "x.tif", np.ones((3, 64, 64), np.uint16), names=("red", "green", "blue"))
    tile = [sys.executable, "-m", "rsr_cli.main", "tile", "--whole", path]
    record = orjson.loads(subprocess.run(tile, stdout=subprocess.PIPE, check=True).stdout)
    large = {**record, "id": "large", "properties": {**record["properties"], "window": [0, 0, 6000, 6000]}}
    code = (
        "import pathlib, re, resource, rsr_cli.core.encoders.run\n"
        "from rsr_cli.main import main\n"
        "used = int(re.search(r'VmSize:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20), -1))\n"
        "main(['embed', '--model', 'rcf:bands=red,green,blue', '--keep-going'])"
    )
    asked = b"".join(orjson.dumps(line) + b"\n" for line in (large, record))
    done = subprocess.run([sys.executable, "-c", code], input=asked, capture_output=True, check=False)
    says = "rsr embed: <stdin>:1: is too large for the memory that is free; cut smaller tiles; skipped"
    assert done.stderr.decode().splitlines()[0] == says
    assert (done.returncode, [orjson.loads(line)["id"] for line in done.stdout.splitlines()]) == (3, ["x"])


def test_what_does_not_decide_the_space_may_stand_beside_as(rsr, lakes):
    done = rsr("embed", "--as", lakes / "codes", "--batch-size", "3", "--device", "cpu", lakes / "tiles")
    assert parsed(done)


def test_as_compares_the_sha256_of_weights(rsr, tiny, corner_scene, tmp_path):
    tiles = rsr("tile", "--size", "32", corner_scene, "--min-valid", "0.9").stdout
    made = rsr("embed", "--model", "prithvi_eo_tiny:size=64", "--weights", tiny, input=tiles)
    (tmp_path / "made").write_bytes(made.stdout)
    import hashlib

    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert parsed(made)[0]["properties"]["embedding"]["weights"] == digest
    again = rsr("embed", "--as", tmp_path / "made", "--weights", tiny, input=tiles)
    assert again.stdout == made.stdout
    done = rsr("embed", "--as", tmp_path / "made", input=tiles, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1
    assert b"--weights FILE" in done.stderr
    state = torch.load(tiny, weights_only=True)
    other = tmp_path / "other.pt"
    torch.save({name: tensor + 1 for name, tensor in state.items()}, other)
    done = rsr("embed", "--as", tmp_path / "made", "--weights", other, input=tiles)
    assert (done.returncode, failure_in(done.stdout)["status"]) == (1, 1)
    differ = f"weights {hashlib.sha256(other.read_bytes()).hexdigest()[:12]}..., not {digest[:12]}..."
    assert differ in done.stderr.decode()


def test_precisions_are_stated_and_share_a_space(rsr, tiny, corner_scene, tmp_path):
    tiles = rsr("tile", "--size", "32", corner_scene, "--min-valid", "0.9").stdout
    model = ["--model", "prithvi_eo_tiny:size=64", "--weights", tiny]
    found = {}
    for precision in ("fp32", "bf16", "int8"):
        done = rsr("embed", *model, "--precision", precision, input=tiles)
        (tmp_path / precision).write_bytes(done.stdout)
        found[precision] = vectors(parsed(done))
        embedding = first_embedding(done.stdout)
        assert embedding.get("precision", "fp32") == precision
        again = rsr("embed", "--as", tmp_path / precision, "--weights", tiny, input=tiles)
        assert again.stdout == done.stdout
    for precision, cosine, signs in (("bf16", 0.999, 0.995), ("int8", 0.99, 0.98)):
        assert cosines(found["fp32"], found[precision]).min() > cosine
        assert ((found["fp32"] > 0) == (found[precision] > 0)).mean() > signs
        assert (found["fp32"] != found[precision]).any()
    codes = rsr("binarize", tmp_path / "bf16").stdout
    assert orjson.loads(codes.splitlines()[0])["properties"]["code"]["precision"] == "bf16"
    assert rsr("index", "-o", tmp_path / "lake.rsr", input=codes).returncode == 0
    asked = rsr("query", tmp_path / "lake.rsr", tmp_path / "fp32", "-k", "1")
    assert (asked.returncode, asked.stderr) == (0, b"")
    mixed = "vectors computed in int8 are compared with those in %s: a few bits of each code differ"
    asked = rsr("query", tmp_path / "lake.rsr", tmp_path / "int8", "-k", "1")
    assert (asked.returncode, asked.stderr.decode()) == (0, f"rsr query: {mixed % 'bf16'}\n")
    for first, second in (("int8", "fp32"), ("fp32", "int8")):
        made = rsr("index", "-o", tmp_path / f"{first}.rsr", "--keep-going", tmp_path / first, tmp_path / second)
        assert made.stderr.decode().startswith(f"rsr index: {mixed % 'fp32'}\n")
    again = rsr("embed", "--as", tmp_path / "lake.rsr", "--weights", tiny, input=tiles)
    assert again.stdout == (tmp_path / "bf16").read_bytes()
    chosen = place("cpu", "auto", None, same_in_bf16=True).precision
    done = rsr("embed", *model, "-v", "--device", "cpu", input=tiles)
    assert done.stdout == (tmp_path / chosen).read_bytes()
    assert f"computes in {chosen} on cpu" in done.stderr.decode()


def test_a_precision_that_changes_the_vectors_is_told(rsr, corner_scene):
    tiles = rsr("tile", "--size", "32", corner_scene, "--min-valid", "0.9").stdout
    done = rsr("embed", "--model", "rcf", "--device", "cpu", "--precision", "bf16", input=tiles)
    says = b"rsr embed: rcf is not known to keep its vectors in bf16; compare them with others in bf16 alone\n"
    assert (done.returncode, done.stderr) == (0, says)


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"", 1, "has no records, so it does not state a vector space"),
        (b'{"type":"Feature","id":1,"geometry":null,"properties":{}}\n', 1, "has no embedding"),
        (None, 1, "no such file"),
    ],
)
def test_as_of_what_states_no_space(rsr, lakes, tmp_path, content, status, says):
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    done = rsr("embed", "--as", tmp_path / "x", lakes / "tiles")
    assert (done.returncode, failure_in(done.stdout)["status"]) == (status, status)
    assert says in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_an_index_stores_the_recipe(lakes):
    manifest = orjson.loads((lakes / "codes.rsr" / "manifest.json").read_bytes())
    recipe = manifest["space"]["recipe"]
    assert (recipe["method"], recipe["bits"], recipe["seed"]) == ("lsh", 64, 42)
    made_from = recipe["embedding"]
    assert (made_from["model"], made_from["size"], made_from["seed"], made_from["dim"]) == ("rcf", 40, 7, 768)
    assert (made_from["bands"], made_from["filled"]) == (["red", "green", "nir"], ["nir"])
    assert len(made_from["mean"]) == len(made_from["std"]) == 3


def test_as_does_not_read_stdin(rsr, lakes):
    done = rsr("embed", "--as", "-", input=(lakes / "embeddings").read_bytes())
    assert (done.returncode, failure_in(done.stdout)["status"]) == (2, 2)
    assert b"--as cannot read stdin; name an index or a file" in done.stderr


def test_a_code_does_not_outlive_its_embedding(rsr, lakes):
    found = parsed(rsr("embed", "--model", "rcf:bands=red,green:seed=9", lakes / "codes"))
    assert {"code", "embedding"} & found[0]["properties"].keys() == {"embedding"}
