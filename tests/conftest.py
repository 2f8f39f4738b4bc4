"""What every test file shares: the real ``rsr``, real rasters, and the real imagery where it is there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real imagery that lies beside the project on some machines."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real imagery is not beside the project")
    return SHARED


@pytest.fixture(scope="session")
def rsr() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run the real ``rsr`` in a process of its own."""

    def run(*arguments: object, input: bytes | None = None, cwd: object = None, env: dict[str, str] | None = None):  # noqa: A002
        return subprocess.run(
            [sys.executable, "-m", "rsr_cli.main", *map(str, arguments)],
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def call(capfdbinary):
    """Run a command in this process; return its stdout and keep its stderr, or raise its error."""
    from rsr_cli.main import cli

    def run(*arguments: object) -> bytes:
        capfdbinary.readouterr()
        cli.main(list(map(str, arguments)), prog_name="rsr", standalone_mode=False)
        sys.stdout.flush()
        stdout, run.stderr = capfdbinary.readouterr()
        return stdout

    return run


@pytest.fixture(scope="session")
def write_raster():
    """Give a function that writes a GeoTIFF, or lossless JPEG 2000 where the path ends so, and returns its path."""
    import numpy as np
    import rasterio

    north_up = rasterio.Affine(10, 0, 600000, 0, -10, 5300040)

    def write(path, pixels, *, crs="EPSG:32633", transform=north_up, mask=None, names=None, gcps=None, **profile):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(pixels)
        pixels = pixels if pixels.ndim == 3 else pixels[None]
        lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
        profile = (lossless if path.suffix == ".jp2" else {"driver": "GTiff"}) | profile
        shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True), dtype=pixels.dtype)
        place = {} if gcps else {"crs": crs, "transform": transform}
        with rasterio.open(path, "w", **shape, **place, **profile) as raster:
            raster.write(pixels)
            if mask is not None:
                raster.write_mask(mask)
            if names:
                raster.descriptions = names
            if gcps:
                raster.gcps = gcps, rasterio.crs.CRS.from_user_input(crs)
        return str(path)

    return write


@pytest.fixture(scope="session")
def cut():
    """Give a function that cuts rasters into tiles in this process, and returns the records."""
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.rasters import Tiler, TileSettings

    def tiles(*paths, size=None, **settings):
        if size:
            settings = {"size_px": size, "stride_px": size} | settings
        tiler = Tiler(TileSettings(whole=not size, **settings), Skips())
        return [tile for row in tiler.tiles(map(str, paths)) for tile in row]

    return tiles


@pytest.fixture(scope="session")
def miniature_layouts():
    """Give the module that writes miniature copies of BigEarthNet and ForestNet for the examples of the paper."""
    spec = importlib.util.spec_from_file_location("miniature", ROOT / "examples" / "paper" / "miniature.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def corner_scene(tmp_path, write_raster):
    """Write 96 x 96 px of six bands, band b at 1010 + 10 b, with a corner of nodata and one tile at 3000."""
    import numpy as np

    data = np.stack([np.full((96, 96), 1010 + 10 * b, np.uint16) for b in range(6)])
    data[:, :16, :32] = 0
    data[:, 64:, 64:] = 3000
    names = ("blue", "green", "red", "nir08", "swir16", "swir22")
    return write_raster(tmp_path / "scene.tif", data, names=names, nodata=0)


# Encoders: checkpoints of random weights in the layouts that are published ----------------------------------------


@pytest.fixture(scope="module")
def one_thread():
    """Keep torch on one core: test processes side by side would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def random_weights():
    """Return a function that makes random weights of the given shapes."""
    import torch

    def make(shapes, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(shape, generator=generator) * 0.05 + (name.endswith(("norm.weight", "norm1.weight")))
            for name, shape in shapes.items()
        }

    return make


@pytest.fixture(scope="session")
def masked_autoencoder(random_weights):
    """Return a function that makes Prithvi's autoencoder as first published: encoder and decoder, no prefixes."""

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

    def make(dim, depth, frames, *, tl=False, seed=0):
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

    return make


@pytest.fixture(scope="session")
def prefixed():
    """Return a function that renames weights as all Prithvi checkpoints since December 2024 are named."""

    def rename(state):
        return {
            ("decoder." if name.startswith(("decoder", "mask")) else "encoder.") + name: tensor
            for name, tensor in state.items()
        }

    return rename


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, masked_autoencoder, prefixed):
    """Return a function that writes a Prithvi checkpoint and returns its path."""
    import torch

    directory = tmp_path_factory.mktemp("checkpoints")

    def write(name, dim, depth, frames, *, tl=False):
        path = directory / name
        torch.save(prefixed(masked_autoencoder(dim, depth, frames, tl=tl)), path)
        return path

    return write


@pytest.fixture(scope="session")
def v1(checkpoint):
    """Checkpoint of prithvi_eo_v1_100."""
    return checkpoint("Prithvi_EO_V1_100M.pt", 768, 12, frames=3)


@pytest.fixture(scope="session")
def tiny(checkpoint):
    """Checkpoint of prithvi_eo_tiny."""
    return checkpoint("tiny.pt", 256, 4, frames=1)


@pytest.fixture(scope="session")
def tl(checkpoint):
    """Checkpoint of prithvi_eo_v2_tiny_tl."""
    return checkpoint("Prithvi_EO_V2_tiny_TL.pt", 192, 12, frames=4, tl=True)


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory, random_weights):
    """Checkpoint of torchvision's ViT-B/16, with the names of 2022 as published, and the model without its head."""
    import torch
    from torchvision.models import vit_b_16

    model = vit_b_16().eval()
    state = random_weights({name: tensor.shape for name, tensor in model.state_dict().items()}, seed=4)
    model.load_state_dict(state)
    renamed = {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): tensor for name, tensor in state.items()
    }
    path = tmp_path_factory.mktemp("imagenet") / "vit_b_16-c867db91.pth"
    torch.save(renamed, path)
    model.heads = torch.nn.Identity()
    return path, model


@pytest.fixture(scope="session")
def backbones():
    """Terratorch's registry of backbones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from terratorch.registry import BACKBONE_REGISTRY
    return BACKBONE_REGISTRY


@pytest.fixture(scope="session")
def chips():
    """Return a function that makes normalised tiles with structure: smooth fields, each of another scale."""
    import torch

    def make(n, bands=6, size=224):
        coarse = torch.randn(n, bands, 7, 7, generator=torch.Generator().manual_seed(3))
        return (
            torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
            * torch.linspace(0.3, 2, n)[:, None, None, None]
        )

    return make


@pytest.fixture(scope="session")
def encode():
    """Return a function that encodes a batch without gradients."""
    import torch

    def encode(encoder, pixels, **context):
        with torch.inference_mode():
            return encoder.forward(pixels, **context)

    return encode


@pytest.fixture(scope="session")
def worst_cosine():
    """Return a function that compares two arrays of vectors by their least similar rows."""
    import torch

    def worst(a, b):
        return torch.nn.functional.cosine_similarity(a.double(), b.double()).min().item()

    return worst
