"""Foundation-model encoders, on checkpoints of random weights in the layouts that are published.

The layouts: https://huggingface.co/ibm-nasa-geospatial (config.json and file lists of the Prithvi repositories), and
the names that torchvision, timm and torchgeo give their own models. The oracles are these libraries.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from rsr_cli.core.encoders import EncoderSettings, list_backbones, list_models, load_encoder
from rsr_cli.core.encoders.prithvi import VARIANTS
from rsr_cli.core.errors import RsrError, UsageError, WeightsError

ROOT = Path(__file__).parents[1]


def random_weights(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.05 + (name.endswith(("norm.weight", "norm1.weight")))
        for name, shape in shapes.items()
    }


def blocks(prefix, dim, depth):
    shapes = {}
    for i in range(depth):
        for name, rows, columns in (
            ("norm1", dim, None),
            ("attn.qkv", 3 * dim, dim),
            ("attn.proj", dim, dim),
            ("norm2", dim, None),
            ("mlp.fc1", 4 * dim, dim),
            ("mlp.fc2", dim, 4 * dim),
        ):
            shapes[f"{prefix}.{i}.{name}.weight"] = (rows, columns) if columns else (rows,)
            shapes[f"{prefix}.{i}.{name}.bias"] = (rows,)
    return shapes


def masked_autoencoder(dim, depth, frames, *, tl=False, seed=0):
    """Prithvi's autoencoder as version 1 was first published: the decoder beside the encoder, no prefixes."""
    encoder = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, frames * 196 + 1, dim),
        "patch_embed.proj.weight": (dim, 6, 1, 16, 16),
        "patch_embed.proj.bias": (dim,),
        **blocks("blocks", dim, depth),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    if tl:
        encoder |= {"temporal_embed_enc.scale": (1,), "location_embed_enc.scale": (1,)}
    decoder = {
        "mask_token": (1, 1, 32),
        "decoder_pos_embed": (1, frames * 196 + 1, 32),
        "decoder_embed.weight": (32, dim),
        "decoder_embed.bias": (32,),
        **blocks("decoder_blocks", 32, 1),
        "decoder_norm.weight": (32,),
        "decoder_norm.bias": (32,),
        "decoder_pred.weight": (1536, 32),
        "decoder_pred.bias": (1536,),
    }
    return random_weights(encoder | decoder, seed)


def prefixed(state):
    """Rename as all Prithvi checkpoints since December 2024: ``encoder.`` and ``decoder.`` before the names."""
    return {("decoder." if name.startswith(("decoder", "mask")) else "encoder.") + name: t for name, t in state.items()}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Keep torch to one core: test processes side by side would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def v1(directory):
    path = directory / "Prithvi_EO_V1_100M.pt"
    torch.save(prefixed(masked_autoencoder(768, 12, frames=3)), path)
    return path


@pytest.fixture(scope="module")
def tiny(directory):
    path = directory / "tiny.pt"
    torch.save(prefixed(masked_autoencoder(256, 4, frames=1)), path)
    return path


@pytest.fixture(scope="module")
def tl(directory):
    path = directory / "Prithvi_EO_V2_tiny_TL.pt"
    torch.save(prefixed(masked_autoencoder(192, 12, frames=4, tl=True)), path)
    return path


@pytest.fixture(scope="module")
def backbones():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from terratorch.registry import BACKBONE_REGISTRY
    return BACKBONE_REGISTRY


def terratorchs(backbones, name, path, **options):
    """Terratorch's own backbone with its own way of loading the same file."""
    return backbones.build(name, pretrained=True, ckpt_path=str(path), **options).eval()


def chips(n, bands=6, size=224):
    """Normalised tiles with structure: smooth fields of a different scale each."""
    coarse = torch.randn(n, bands, 7, 7, generator=torch.Generator().manual_seed(3))
    return (
        torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
        * torch.linspace(0.3, 2, n)[:, None, None, None]
    )


def encode(encoder, pixels, **context):
    with torch.inference_mode():
        return encoder.forward(pixels, **context)


def settings(model, weights, **others):
    return EncoderSettings(model, weights=str(weights), **others)


def worst_cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double()).min().item()


# --- Prithvi -----------------------------------------------------------------------------------------------------


def test_the_default_is_the_papers_model(v1, backbones):
    encoder = load_encoder(settings("prithvi_eo_v1_100", v1))
    assert (encoder.name, encoder.size_px, encoder.dim, encoder.needs) == ("prithvi_eo_v1_100", 224, 768, ())
    assert encoder.bands == ("blue", "green", "red", "nir08", "swir16", "swir22")
    assert encoder.mean[:2] == (775.2290211032589, 1080.992780391705)
    assert encoder.std[-1] == 1154.505683480695
    assert not encoder.module.training
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())
    digest = hashlib.sha256(v1.read_bytes()).hexdigest()
    assert encoder.space == {"weights": digest, "pool": "mean", "layer": 11}

    pixels = chips(3)
    vectors = encode(encoder, pixels)
    assert vectors.shape == (3, 768)
    assert vectors.dtype == torch.float32
    with torch.inference_mode():
        expected = terratorchs(backbones, "prithvi_eo_v1_100", v1)(pixels)[-1][:, 1:].mean(1)
    torch.testing.assert_close(vectors, expected)
    assert worst_cosine(vectors[1:2], encode(encoder, pixels[1:2])) > 0.99999
    # the tiles are told apart: a broken model would give one vector for all
    assert torch.pdist(vectors).min() > 1e-3 * vectors.norm(dim=1).min()


@pytest.mark.parametrize("layout", ["flat", "state_dict", "lightning", "parallel", "half", "legacy", "safetensors"])
def test_every_published_layout_gives_the_same_model(layout, tiny, tmp_path):
    state = masked_autoencoder(256, 4, frames=1)
    path = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.pth")
    if layout == "flat":
        torch.save(state, path)
    elif layout == "state_dict":
        torch.save({"state_dict": prefixed(state), "epoch": 3}, path)
    elif layout == "lightning":
        fine_tuned = {f"model.{name}": tensor for name, tensor in prefixed(state).items()}
        torch.save({"state_dict": fine_tuned | {"model.head.weight": torch.zeros(2)}, "loops": {}}, path)
    elif layout == "parallel":
        torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    elif layout == "half":
        torch.save({name: tensor.bfloat16().float().bfloat16() for name, tensor in state.items()}, path)
    elif layout == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        save_file(prefixed(state), path)
    pixels = chips(2)
    vectors = encode(load_encoder(settings("prithvi_eo_tiny", path)), pixels)
    expected = encode(load_encoder(settings("prithvi_eo_tiny", tiny)), pixels)
    if layout == "half":
        assert vectors.dtype == torch.float32
        assert worst_cosine(vectors, expected) > 0.999
    else:
        assert torch.equal(vectors, expected)


@pytest.mark.parametrize("layer", [None, -1, 3, 0, -3])
@pytest.mark.parametrize("pool", ["mean", "cls", "max", "gem"])
def test_pools_and_layers_are_terratorchs_tokens(pool, layer, tiny, backbones):
    pixels = chips(3)
    vectors = encode(load_encoder(settings("prithvi_eo_tiny", tiny, pool=pool, layer=layer)), pixels).numpy()
    with torch.inference_mode():
        tokens = terratorchs(backbones, "prithvi_eo_tiny", tiny)(pixels)[-1 if layer is None else layer].numpy()
    patches = tokens[:, 1:].astype(np.float64)
    expected = {
        "mean": patches.mean(1),
        "cls": tokens[:, 0],
        "max": patches.max(1),
        "gem": np.cbrt((patches**3).mean(1)),
    }[pool]
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4)


def test_gem_is_the_published_one_for_positive_features_and_keeps_signs():
    from rsr_cli.core.encoders.terratorch import Backbone

    class Plain(Backbone):
        def forward(self, pixels):
            return self._pooled(pixels, class_tokens=0)

    plain = Plain()
    plain.pool = "gem"
    features = torch.rand(2, 50, 8) + 0.1
    torch.testing.assert_close(plain.forward(features), features.clamp(min=1e-6).pow(3).mean(1).pow(1 / 3))
    torch.testing.assert_close(plain.forward(-features), -plain.forward(features))


def test_another_size_has_the_position_embedding_of_its_own_grid(tiny, backbones):
    pixels = chips(2, size=96)
    vectors = encode(load_encoder(settings("prithvi_eo_tiny", tiny, size_px=96)), pixels)
    with torch.inference_mode():
        expected = terratorchs(backbones, "prithvi_eo_tiny", tiny, img_size=96)(pixels)[-1][:, 1:].mean(1)
    torch.testing.assert_close(vectors, expected)


def test_date_and_place_reach_the_model(tl, backbones):
    encoder = load_encoder(settings("prithvi_eo_v2_tiny_tl", tl))
    assert encoder.needs == ("datetime", "location")
    pixels = chips(2)
    when, where = torch.tensor([[2017.0, 163.0], [2020.0, 0.0]]), torch.tensor([[47.3, 8.5], [-23.5, -46.6]])
    vectors = encode(encoder, pixels, datetime=when, location=where)
    with torch.inference_mode():
        backbone = terratorchs(backbones, "prithvi_eo_v2_tiny_tl", tl)
        expected = backbone(pixels, temporal_coords=when[:, None], location_coords=where)[-1][:, 1:].mean(1)
    torch.testing.assert_close(vectors, expected)
    assert not torch.allclose(vectors, encode(encoder, pixels, datetime=when, location=where.flip(1)))

    encoder.module.to(torch.bfloat16)
    rounded = encode(encoder, pixels.bfloat16(), datetime=when, location=where)
    assert rounded.dtype == torch.float32
    assert worst_cosine(rounded, vectors) > 0.99
    # 2017 is 2016 in bfloat16
    with torch.inference_mode():
        years = encoder.module.temporal_embed_enc(torch.tensor([[[2017.0, 5.0]], [[2016.0, 5.0]]]))
    assert years.dtype == torch.bfloat16
    assert not torch.equal(years[0], years[1])


def test_the_variants_are_terratorchs(backbones):
    from terratorch.models.backbones import prithvi_vit

    assert set(VARIANTS) == {name for name in backbones["terratorch"] if name.startswith("prithvi_eo")}
    for name, variant in VARIANTS.items():
        with torch.device("meta"):
            module = backbones.build(name, pretrained=False)
        published = prithvi_vit.pretrained_weights.get(name)
        config = prithvi_vit.prithvi_cfgs[name]
        assert (module.embed_dim, len(module.blocks)) == (variant.dim, variant.depth)
        assert module.blocks[0].attn.num_heads == variant.heads
        assert module.patch_embed.patch_size == [1, variant.patch_px, variant.patch_px]
        assert bool(config["coords_encoding"]) is name.endswith("_tl")
        assert [round(value) for value in variant.mean] == config["mean"]
        assert [round(value) for value in variant.std] == config["std"]
        if published:
            assert dataclasses.astuple(variant.published) == tuple(published.values())
        else:
            assert variant.published is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size_px": 100}, "multiples of 16 px, not 100"),
        ({"size_px": 0}, "not 0"),
        ({"layer": 4}, "4 layers, 0 to 3"),
        ({"layer": -5}, "4 layers"),
        ({"pool": "median"}, "choose from mean, cls, max, gem"),
        ({"bands": ("red", "green", "blue")}, "reads 6 bands, --bands gives 3"),
        ({"bands": ("red", "green", "blue", "nir", "swir16", "swir22")}, "in this order: blue, green, red, nir08"),
        ({"mean": (1.0,) * 5}, "--mean gives 5"),
        ({"std": (1.0,) * 5 + (0.0,)}, "--std"),
        ({"mean": (float("nan"),) * 6}, "--mean"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_weights_are_looked_for(wrong, message):
    with pytest.raises(UsageError, match=message):
        load_encoder(settings("prithvi_eo_tiny", "nowhere.pt", **wrong))


def test_what_decides_the_vectors_decides_the_fingerprint(tiny, tmp_path):
    other = tmp_path / "other.pt"
    torch.save(masked_autoencoder(256, 4, frames=1, seed=1), other)
    variants = [
        settings("prithvi_eo_tiny", tiny),
        settings("prithvi_eo_tiny", other),
        settings("prithvi_eo_tiny", tiny, pool="max"),
        settings("prithvi_eo_tiny", tiny, layer=2),
        settings("prithvi_eo_tiny", tiny, size_px=112),
        settings("prithvi_eo_tiny", tiny, mean=(1000.0,) * 6),
        settings("prithvi_eo_tiny", tiny, bands=("blue", "green", "red", "nir", "swir16", "swir22")),
    ]
    assert len({load_encoder(variant).fingerprint for variant in variants}) == len(variants)
    same = load_encoder(settings("prithvi_eo_tiny", tiny, pool="mean", layer=3, size_px=224))
    assert same.fingerprint == load_encoder(variants[0]).fingerprint


# --- ViT-B/16 ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet(directory):
    """Write torchvision's file, with the names of 2022 that the published one still has, and its model."""
    from torchvision.models import vit_b_16

    model = vit_b_16().eval()
    state = random_weights({name: tensor.shape for name, tensor in model.state_dict().items()}, seed=4)
    model.load_state_dict(state)
    renamed = {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): tensor for name, tensor in state.items()
    }
    path = directory / "vit_b_16-c867db91.pth"
    torch.save(renamed, path)
    model.heads = torch.nn.Identity()
    return path, model


def test_vit_gives_torchvisions_class_token(imagenet):
    path, model = imagenet
    encoder = load_encoder(settings("vit_b_16_rgb", path))
    assert (encoder.bands, encoder.dim, encoder.size_px) == (("red", "green", "blue"), 768, 224)
    assert set(encoder.mean + encoder.std) == {5000}
    pixels = chips(2, bands=3)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.forward(pixels), model(pixels))


def test_vit_pools_the_patches_of_a_layer_too(imagenet):
    path, model = imagenet
    seen = []
    handle = model.encoder.layers[5].register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    pixels = chips(2, bands=3)
    with torch.inference_mode():
        model(pixels)
    handle.remove()
    vectors = encode(load_encoder(settings("vit_b_16_rgb", path, pool="mean", layer=5)), pixels)
    torch.testing.assert_close(vectors, seen[0][:, 1:].mean(1))


def test_vit_has_one_size(imagenet):
    with pytest.raises(UsageError, match="takes 224 px, not 448"):
        load_encoder(settings("vit_b_16_rgb", imagenet[0], size_px=448))


# --- weights that cannot be used ---------------------------------------------------------------------------------


class Trap:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def bad_files(tiny, touched):
    whole = tiny.read_bytes()
    legacy, trap, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"x": torch.zeros(1000)}, legacy, _use_new_zipfile_serialization=False)
    torch.save(Trap(touched), trap)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "weights are elsewhere")
    safetensors_bytes = save({"x": torch.zeros(100)})
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:d45406d5fc\nsize 454660610\n"
    return {
        "page.pt": (b"\n<!DOCTYPE html>\n<html><title>Sign in</title>", "is a web page"),
        "pointer.pt": (lfs, "is a git-lfs pointer.*git lfs pull"),
        "empty.pt": (b"", "is empty"),
        "short.pt": (whole[: len(whole) // 2], "is cut short"),
        "short_legacy.pth": (legacy.getvalue()[:-2000], "is not a checkpoint"),
        "noise.bin": (bytes(range(256)) * 40, "is not a checkpoint"),
        "short.safetensors": (safetensors_bytes[:-100], "is cut short"),
        "zip.pt": (archive.getvalue(), "is not a checkpoint"),
        "not.safetensors": (whole, "is not a checkpoint"),
        "trap.ckpt": (trap.getvalue(), "holds code .*only data is loaded"),
        "trap_plain.pt": (pickle.dumps(Trap(touched)), "holds code|is not a checkpoint"),
    }


def test_files_that_are_no_checkpoints_are_told_apart(tiny, tmp_path):
    touched = tmp_path / "touched"
    for name, (content, message) in bad_files(tiny, touched).items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=message) as caught:
            load_encoder(settings("prithvi_eo_tiny", path))
        assert str(caught.value).startswith(f"{path}: ")
        assert len(str(caught.value)) < 400 + len(str(path))
    assert not touched.exists()


def test_a_file_must_exist_and_end_as_checkpoints_do(tiny, tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pt: no such file"):
        load_encoder(settings("prithvi_eo_tiny", "nowhere.pt"))
    with pytest.raises(WeightsError, match="no such file"):
        load_encoder(settings("prithvi_eo_tiny", tmp_path))
    path = tmp_path / "weights.zip"
    path.write_bytes(tiny.read_bytes())
    with pytest.raises(UsageError, match=r"\.pt \.pth \.bin \.ckpt or \.safetensors"):
        load_encoder(settings("prithvi_eo_tiny", path))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "holds no weights"),
        ({"epoch": 3, "state_dict": {"lr": 0.1}}, "holds no weights"),
        (masked_autoencoder(256, 3, frames=1), r"12 missing: blocks\.3\.norm1\.weight, .*, \.\.\.\)"),
        (masked_autoencoder(256, 5, frames=1), r"12 left over: blocks\.4\.norm1\.weight"),
        (masked_autoencoder(192, 4, frames=1), r"of another shape: cls_token \(1, 1, 192\) for \(1, 1, 256\)"),
        (masked_autoencoder(256, 4, frames=1, tl=True), r"2 left over: temporal_embed_enc\.scale, loc"),
        (prefixed({"cls_token": torch.zeros(1, 1, 256)}), "52 missing"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(state, message, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=message):
        load_encoder(settings("prithvi_eo_tiny", path))


def test_a_model_with_date_and_place_wants_their_weights(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(prefixed(masked_autoencoder(192, 12, frames=4)), path)
    with pytest.raises(WeightsError, match=r"2 missing: .*they are at https://huggingface.co/ibm-nasa-geospatial/"):
        load_encoder(settings("prithvi_eo_v2_tiny_tl", path))


def test_a_model_without_published_weights_asks_for_a_file():
    with pytest.raises(WeightsError, match="pass --weights FILE"):
        load_encoder(EncoderSettings("prithvi_eo_tiny"))


# --- weights from the cache and the hub, as a process of its own sees them --------------------------------------

LOAD = """
import sys
from rsr_cli.core.encoders import EncoderSettings, load_encoder
from rsr_cli.core.errors import RsrError
for model in sys.argv[1:]:
    try:
        encoder = load_encoder(EncoderSettings(model))
        print(encoder.name, encoder.space["weights"])
    except RsrError as error:
        print(type(error).__name__, error)
print("terratorch" in sys.modules)
"""


def run(*models, code=LOAD, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "TORCH"))}
    return subprocess.run(
        [sys.executable, "-c", code, *models],
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def into_hub_cache(home, repo, file):
    folder = home / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123456789abcdef"
    for path in (folder / "refs", folder / "blobs", snapshot):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text(snapshot.name)
    blob = folder / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
    blob.write_bytes(file.read_bytes())
    (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return blob.name


def test_the_cache_is_enough_without_a_network(tl, tmp_path):
    home = tmp_path / "hf"
    digest = into_hub_cache(home, "ibm-nasa-geospatial/Prithvi-EO-2.0-tiny-TL", tl)
    done = run("prithvi_eo_v2_tiny_tl", "prithvi_eo_v1_100", HF_HOME=str(home), HF_HUB_OFFLINE="1")
    found, missing, terratorch = done.stdout.splitlines()
    assert found == f"prithvi_eo_v2_tiny_tl {digest}"
    assert missing == (
        f"WeightsError the weights of prithvi_eo_v1_100 are not in {home}/hub and HF_HUB_OFFLINE is set: bring "
        "https://huggingface.co/ibm-nasa-geospatial/Prithvi-EO-1.0-100M/resolve/main/Prithvi_EO_V1_100M.pt here "
        "and pass --weights FILE"
    )
    assert terratorch == "False"
    assert done.stderr == ""


@pytest.fixture
def server(tl):
    """Serve one file as the hub does, and one as download.pytorch.org does."""
    vit = f"vit-{hashlib.sha256(tl.read_bytes()).hexdigest()[:8]}.pth"

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            known = self.path in (
                "/",
                f"/ibm-nasa-geospatial/Prithvi-EO-2.0-tiny-TL/resolve/main/{tl.name}",
                f"/{vit}",
            )
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(tl.stat().st_size if known else 0))
            self.send_header("ETag", '"0123456789"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            return known

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(tl.read_bytes())

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", vit
        httpd.shutdown()


def test_what_the_caches_lack_is_downloaded_into_them_once(server, tl, tmp_path):
    endpoint, vit = server
    code = f"""
from rsr_cli.core.encoders.prithvi import VARIANTS
from rsr_cli.core.encoders.weights import TorchFile, find
from rsr_cli.core.errors import WeightsError
for published in (VARIANTS["prithvi_eo_v2_tiny_tl"].published, TorchFile("{endpoint}/{vit}")):
    print(published.cached(), find("model", None, published) == find("model", None, published), published.cached())
try:
    find("model", None, VARIANTS["prithvi_eo_v2_300"].published)
except WeightsError as error:
    print(error)
"""
    home = {"HF_HOME": str(tmp_path / "hf"), "TORCH_HOME": str(tmp_path / "torch")}
    done = run(code=code, HF_ENDPOINT=endpoint, no_proxy="127.0.0.1", **home)
    hub, torchvision, missing = done.stdout.splitlines()
    for line, name in ((hub, tl.name), (torchvision, vit)):
        before, same, after = line.split()
        assert (before, same) == ("None", "True")
        assert after.startswith(f"{tmp_path}/")
        assert after.endswith(f"/{name}")
        assert Path(after).read_bytes() == tl.read_bytes()
    assert missing.startswith("https://huggingface.co/ibm-nasa-geospatial/Prithvi-EO-2.0-300M/")
    assert "cannot be downloaded" in missing
    assert done.stderr == ""


def test_a_hub_that_does_not_answer_is_given_up_within_seconds(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        done = run("prithvi_eo_v2_300", HF_HOME=str(tmp_path), HF_ENDPOINT=endpoint, no_proxy="127.0.0.1")
    assert time.monotonic() - started < 15
    assert f"WeightsError the weights of prithvi_eo_v2_300 are not in {tmp_path}/hub and {endpoint}" in done.stdout
    assert "does not answer" in done.stdout
    assert done.stderr == ""


# --- the registry and terratorch's other backbones ---------------------------------------------------------------


def test_the_list_needs_no_torch():
    code = (
        "import sys; from rsr_cli.core.encoders import list_models; print(*(m.name for m in list_models()))\n"
        "assert not {'torch', 'terratorch', 'timm', 'torchvision', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    names = done.stdout.split()
    assert names[0] == "prithvi_eo_v1_100"
    assert {"vit_b_16_rgb", "rcf", *VARIANTS} == set(names)


def test_the_list_tells_the_truth(v1, tl, imagenet):
    told = {model.name: model for model in list_models()}
    for name, path in (
        ("prithvi_eo_v1_100", v1),
        ("prithvi_eo_v2_tiny_tl", tl),
        ("vit_b_16_rgb", imagenet[0]),
        ("rcf", None),
    ):
        encoder = load_encoder(EncoderSettings(name, weights=path and str(path)))
        model = told[name]
        assert (model.name, model.size_px, model.dim) == (encoder.name, encoder.size_px, encoder.dim)
        assert model.bands in ((), encoder.bands)


@pytest.mark.parametrize(
    ("name", "close"),
    [("prithvi_eo_v1_10", "prithvi_eo_v1_100"), ("vit_b_16_rbg", "vit_b_16_rgb"), ("resnet5O", "resnet50")],
)
def test_an_unknown_model_brings_close_matches(name, close):
    with pytest.raises(UsageError, match=f"unknown model {name}; did you mean .*{close}"):
        load_encoder(EncoderSettings(name))


def test_no_backbone_is_taken_for_a_slip_of_the_finger(backbones):
    import difflib

    built_in = [model.name for model in list_models()]
    for name in list_backbones():
        for spelling in (name, name.partition("_")[2]):
            assert spelling in built_in or not difflib.get_close_matches(spelling, built_in, cutoff=0.9)


def generic(name, path, bands=("red", "green", "blue"), **others):
    n = len(bands)
    told = {"mean": (1000.0,) * n, "std": (2000.0,) * n, "size_px": 224} | others
    return load_encoder(settings(name, path, bands=bands, **told))


def published(module, path, leave_out=()):
    """Write what a library publishes for a module: all its weights by its own names."""
    shapes = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    state = module.state_dict() | random_weights({name: tensor.shape for name, tensor in shapes.items()})
    state |= {name: tensor.abs() + 0.5 for name, tensor in state.items() if name.endswith("running_var")}
    module.load_state_dict(state)
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith(tuple(leave_out))}, path)
    return module.eval()


def test_a_timm_network_gives_its_pooled_feature_map(backbones, tmp_path):
    import timm

    path = tmp_path / "resnet18.pth"
    network = published(timm.create_model("resnet18", pretrained=False, in_chans=4), path)
    encoder = generic("resnet18", path, bands=("blue", "green", "red", "nir"), size_px=96)
    assert (encoder.name, encoder.dim, encoder.size_px) == ("timm_resnet18", 512, 96)
    assert (encoder.bands, encoder.mean[0]) == (("blue", "green", "red", "nir"), 1000)
    pixels = chips(2, bands=4, size=96)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.forward(pixels), network.forward_features(pixels).mean((2, 3)))
    early = generic("timm_resnet18", path, bands=("blue", "green", "red", "nir"), size_px=96, layer=1)
    assert early.dim == 64


def test_feature_maps_with_channels_last_and_joined_names(backbones, tmp_path):
    import timm

    path = tmp_path / "swin.pth"
    network = published(timm.create_model("swin_tiny_patch4_window7_224", pretrained=False), path)
    pixels = chips(2, bands=3)
    vectors = encode(generic("swin_tiny_patch4_window7_224", path, layer=0, pool="max"), pixels)
    with torch.inference_mode():
        expected = network.layers[0](network.patch_embed(pixels)).amax((1, 2))
    torch.testing.assert_close(vectors, expected)


def test_torchgeos_resnet_has_no_head_in_its_checkpoint(backbones, tmp_path):
    import torchgeo.models

    path = tmp_path / "moco.pth"
    network = published(torchgeo.models.resnet18(in_chans=3), path, leave_out=("fc.",))
    pixels = chips(2, bands=3)
    vectors = encode(generic("ssl4eos12_resnet18_sentinel2_rgb_moco", path), pixels)
    with torch.inference_mode():
        torch.testing.assert_close(vectors, network.forward_features(pixels).mean((2, 3)))


def test_dofa_knows_wavelengths_and_a_class_token(backbones, tmp_path):
    import torchgeo.models

    path = tmp_path / "dofa.pth"
    network = published(torchgeo.models.dofa_small_patch16_224(), path)
    pixels = chips(2, bands=2)
    tokens = []
    network.blocks[-1].register_forward_hook(lambda *arguments: tokens.append(arguments[-1]))
    with torch.inference_mode():
        network.forward_features(pixels, [0.665, 1.61])
    encoder = generic("dofa_small_patch16_224", path, ("red", "swir16"))
    torch.testing.assert_close(encode(encoder, pixels), tokens[0][:, 1:].mean(1))
    with pytest.raises(UsageError, match="fp32"):
        encode(encoder, pixels.bfloat16())
    encoder = generic("dofa_small_patch16_224", path, ("red", "swir16"), pool="cls")
    torch.testing.assert_close(encode(encoder, pixels), tokens[0][:, 0])
    with pytest.raises(UsageError, match="DOFA knows no wavelength of pan"):
        generic("dofa_small_patch16_224", path, ("red", "pan"))


def test_terramind_reads_its_sentinel_2_weights_from_a_file_for_many_inputs(backbones, tmp_path):
    path = tmp_path / "terramind.pt"
    network = published(
        backbones.build("terramind_v1_tiny", pretrained=False, modalities=["S2L2A", "S1GRD", "DEM"]), path
    )
    pixels = chips(2, bands=12)
    vectors = encode(generic("terramind_v1_tiny", path, [f"b{i}" for i in range(12)]), pixels)
    with torch.inference_mode():
        torch.testing.assert_close(vectors, network({"S2L2A": pixels})[-1].mean(1))


def test_backbones_are_told_why_not(backbones, tmp_path):
    import timm

    path = tmp_path / "resnet34.pth"
    published(timm.create_model("resnet34", pretrained=False), path)
    for call, error, message in (
        (lambda: load_encoder(EncoderSettings("timm_resnet18")), UsageError, "needs --bands, --mean, --std, --size"),
        (lambda: generic("timm_resnet18", path), WeightsError, r"18 .*left over: layer1\.2\.conv1\.weight"),
        (lambda: generic("timm_resnet34", path, ("red", "nir")), WeightsError, r"\(64, 3, 7, 7\) for \(64, 2, 7, 7\)"),
        (lambda: generic("timm_resnet34", path, pool="cls"), UsageError, "no class token"),
        (lambda: generic("timm_resnet34", path, layer=5), UsageError, "has 5 layers"),
        (
            lambda: generic("timm_vit_tiny_patch16_224", path, size_px=100),
            UsageError,
            "cannot encode 3 bands of 100 px",
        ),
        (lambda: generic("dinov3_vits16", path), UsageError, "unknown model dinov3_vits16"),
        (
            lambda: load_encoder(
                EncoderSettings("timm_resnet34", bands=["red"], mean=[0.0], std=[1.0], size_px=96),
            ),
            WeightsError,
            "pass --weights FILE",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_errors_are_one_line(tmp_path):
    with pytest.raises(RsrError) as caught:
        load_encoder(settings("prithvi_eo_v1_100", tmp_path / "nowhere.pt"))
    assert "\n" not in str(caught.value)
