"""What every test file shares: the real ``rsr``, real rasters, and the real imagery where it is there."""

from __future__ import annotations

import ast
import base64
import importlib.util
import io
import logging
import os
import random
import shlex
import signal
import socketserver
import subprocess
import sys
import threading
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from support import script
from support_rasters import KINDS, NAMES, ONES, RNG, SENTINEL2, SPLITS, bilinear, grid, with_holes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

settings.register_profile("hostile", max_examples=2000)  # pytest --hypothesis-profile hostile
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


class _Skipped(pytest.Module):
    """A test file that imports PyTorch, in a search-only installation."""

    def collect(self):
        pytest.skip(f"{self.path.name} imports torch, which is not installed")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip a test file that imports PyTorch at its top where that is missing; single tests are marked `needs_torch`."""
    imports = (node.names[0].name for node in ast.parse(module_path.read_text()).body if isinstance(node, ast.Import))
    if importlib.util.find_spec("torch") or "torch" not in imports:
        return None
    return _Skipped.from_parent(parent, path=module_path)


def pytest_configure() -> None:
    """Let signals stop the programs that tests start, as a job in the background ignores some and they would too."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the directory of real imagery that is beside the project on some machines."""
    if not SHARED.is_dir():
        pytest.skip("the directory of real imagery is not beside the project")
    return SHARED


@pytest.fixture(scope="session")
def warm(tmp_path_factory) -> Iterator[list[object]]:
    """Return the first words of a command line that runs ``rsr`` in a process that starts at once; see warm.py."""
    script, place = Path(__file__).with_name("warm.py"), tmp_path_factory.mktemp("warm") / "socket"
    serve = [sys.executable, "-P", script, "serve", place]
    with subprocess.Popen(serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"ready\n"
        yield [sys.executable, "-I", "-S", script, "ask", place]
        server.stdin.close()


@pytest.fixture(scope="session")
def warm_path(warm, tmp_path_factory) -> str:
    """Return a PATH on which ``rsr`` is that of `warm`, and ``python`` is this interpreter."""
    directory = tmp_path_factory.mktemp("bin")
    (directory / "rsr").write_text(f'#!/bin/sh\nexec {shlex.join(map(str, warm))} "$@"\n')
    (directory / "rsr").chmod(0o755)
    return os.pathsep.join([str(directory), str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.fixture(scope="session")
def rsr(warm) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run the real ``rsr`` in a process of its own, from its start if ``env`` may change what it imports."""

    def run(*arguments: object, input: bytes | None = None, cwd: object = None, env: dict[str, str] | None = None):  # noqa: A002
        return subprocess.run(
            [*([sys.executable, "-m", "rsr_cli.main"] if env else warm), *map(str, arguments)],
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
def silent_server():
    """Return the URL of a raster on a server that takes requests and never answers, and an event: one has come."""
    asked, over = threading.Event(), threading.Event()

    class Silent(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1)
            asked.set()
            over.wait()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/x.tif", asked
        over.set()
        server.shutdown()


@pytest.fixture(scope="session")
def write_raster():
    """Return a function that writes a GeoTIFF, or lossless JPEG 2000 to *.jp2, and returns its path."""
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
    """Return a function that cuts rasters into tiles in this process, and returns the records.

    Its settings are those of all parts of the tiler together; each scene is one tile without ``size``, ``grid`` or
    ``around``.
    """
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.rasters import ChipWriter, SceneSettings, Tiler, WindowSettings
    from rsr_cli.core.sensors import SENSORS
    from rsr_cli.core.sources import DATASETS, Products, Rasters

    def tiles(*paths, size=None, sensor=None, chips=None, overwrite=False, skips=None, **settings):
        def take(*names):
            return {name: settings.pop(name) for name in names if name in settings}

        bands = settings.get("bands")
        sensor = SENSORS[sensor] if sensor else None
        source = Rasters()
        if dataset := settings.pop("dataset", None):
            source = DATASETS[dataset](bands=bands, **take("split", "classes", "seed"))
        elif settings.pop("per_band", False):
            source = Products(sensor, bands)
        steps = {"size_px": size, "stride_px": size} if size else {"whole": not {"grid", "around"} & {*settings}}
        windows = WindowSettings(**steps | take("stride_px", "edge", "grid", "around", "min_valid"))
        writer = ChipWriter(str(chips), overwrite) if chips else None
        tiler = Tiler(source, SceneSettings(sensor=sensor, **settings), windows, skips or Skips(), writer)
        return [tile for row in tiler.cut(tiler.find(map(str, paths))) for tile in row]

    return tiles


@pytest.fixture(scope="session")
def miniature_layouts():
    """Return the module that writes miniature copies of BigEarthNet and ForestNet for the paper's examples."""
    return script(ROOT / "examples" / "paper" / "miniature.py")


@pytest.fixture(params=KINDS)
def holes(request, tmp_path, write_raster):
    """Return a raster with holes, its invalid values as bool (bands, height, width), and the settings it needs."""
    path, invalid = with_holes(request.param, tmp_path / "x.tif", write_raster)
    assert (tmp_path / "x.tif.msk").exists() == (request.param == "mask beside")
    names = {"bands": ["red", "-", "nir"]} if request.param == "infinite" else {"bands": ["red", "green", "nir"]}
    by_sensor = {"sensor": "landsat5", "scale": 1.0, "offset": 0.0} if request.param == "nodata of the sensor" else {}
    return path, invalid, names | by_sensor


@pytest.fixture(scope="session")
def mixed(tmp_path_factory, write_raster):
    """Return a scene of 240 x 180 pixels of 10 m with bands of 10, 20 and 60 m, and its pixels by STAC name."""
    folder = tmp_path_factory.mktemp("mixed") / "S2A_MSIL2A_20210115T101351"
    pixels = {}
    for metres, bands in SENTINEL2.items():
        for number, band in enumerate(bands):
            values = RNG.uniform(100 + number, 9000, (1800 // metres, 2400 // metres)).astype(np.float32)
            write_raster(folder / f"T33UUP_{band}.tif", values, transform=grid(metres))
            pixels[NAMES[band]] = bilinear(values.astype(float), metres // 10)
    return folder, pixels


@pytest.fixture
def nested(tmp_path, write_raster):
    """Return a directory with rasters at several depths, and other files."""
    for name in ("b.tif", "a.TIFF", "c/b.tif", "c/a/z.jp2", "B/x.y.tif", "c/10.img"):
        driver = {"driver": "HFA"} if name.endswith("img") else {}
        write_raster(tmp_path / "in" / name, ONES, **driver)
    for name in ("b.tif.aux.xml", "notes.txt", "c/b.tif.ovr", "c/.hidden"):
        (tmp_path / "in" / name).write_text("")
    return tmp_path / "in"


@pytest.fixture(scope="session")
def miniature(tmp_path_factory, miniature_layouts):
    """Return a directory with BigEarthNet v1.0 and ForestNet, as the paper's examples write them."""
    folder = tmp_path_factory.mktemp("data")
    miniature_layouts.write_bigearthnet(folder / "BigEarthNet", SPLITS)
    miniature_layouts.write_forestnet(folder / "ForestNetDataset", SPLITS)
    return folder


@pytest.fixture(scope="session")
def hit():
    """Return a function that makes a hit; labels that are ``None`` are left out."""

    def make(query, rank, item, labels, query_labels):
        known = {"labels": labels, "query_labels": query_labels}
        properties = {"query": query, "rank": rank, "distance": 1.5}
        properties |= {name: value for name, value in known.items() if value is not None}
        return {"type": "Feature", "id": item, "geometry": None, "properties": properties}

    return make


@pytest.fixture(scope="session")
def item():
    """Return a function that makes a record of the database."""

    def make(name, labels):
        return {"type": "Feature", "id": name, "geometry": None, "properties": {"labels": labels}}

    return make


@pytest.fixture(scope="session")
def lines():
    """Return a function that writes records as JSON lines."""
    import orjson

    def write(records):
        return b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)

    return write


@pytest.fixture(scope="session")
def world(hit):
    """Return a function that draws items (id -> one to three labels) and, for some as queries, random hits."""

    def draw(seed=0, n_items=120, n_queries=25, depth=30):
        rng = random.Random(seed)
        labels = {f"i{n}": sorted(rng.sample("abcdefg", rng.choice([1, 1, 2, 3]))) for n in range(n_items)}
        hits = []
        for query in rng.sample(sorted(labels), n_queries):
            for rank, name in enumerate(rng.sample(sorted(labels), depth), 1):
                hits.append(hit(query, rank, name, labels[name], labels[query]))
        return labels, hits

    return draw


@pytest.fixture(scope="session")
def embeddings():
    """Embeddings, float32 (40, 768), with the numbers around zero among them."""
    drawn = np.random.default_rng(7).standard_normal((40, 768)).astype(np.float32)
    drawn[0] = 0  # zero is not above zero
    drawn[1] = -0.0
    drawn[2, ::2] = 0
    drawn[3] = np.float32(1e-45)  # the least subnormal is
    drawn.setflags(write=False)  # tests share it
    return drawn


@pytest.fixture(scope="session")
def gallery(tmp_path_factory, write_raster, cut, lines):
    """Return a directory with the hits of two queries, the queries, and their chips.

    Chips have 16 x 16 pixels and four bands, and the one of "one" is partly nodata. The second query has no labels.
    """
    import numpy as np
    import rasterio

    nasty = "<script>alert('it')</script>&amp;"
    labels_of = {"both": ["lake", "forest", "road"], "one": ["lake", "road"], "other": [nasty], "unlabelled": None}
    directory = tmp_path_factory.mktemp("gallery")
    random = np.random.default_rng(0)
    records = {}
    for number, name in enumerate(["asked", *labels_of, "plain"]):
        pixels = random.integers(500, 3000, (4, 16, 16), dtype=np.uint16) + 400 * number
        if name == "one":
            pixels[:, :4, :8] = 0
        place = {"transform": rasterio.Affine(10, 0, 600000 + 1e4 * number, 0, -10, 5300040)}
        path = write_raster(
            directory / f"{name}.tif", pixels, names=("blue", "green", "red", "nir08"), nodata=0, **place
        )
        records[name] = cut(path)[0] | {"id": name}
    records["asked"]["properties"]["labels"] = ["forest", "lake"]
    (directory / "queries.geojsonl").write_bytes(lines([records["plain"], records["asked"]]))
    hits = []
    for query, labels in (("asked", ["forest", "lake"]), ("plain", None)):
        for rank, (name, own) in enumerate(labels_of.items(), 1):
            added = {"query": query, "rank": rank, "distance": 2.5 * rank, "labels": own, "query_labels": labels}
            known = {key: value for key, value in added.items() if value is not None}
            hits.append(records[name] | {"properties": records[name]["properties"] | known})
    hits[2] |= {"id": nasty}
    (directory / "hits.geojsonl").write_bytes(lines(hits))
    return directory


@pytest.fixture(scope="session")
def parse_page():
    """Return a function that parses a page of HTML, strictly."""
    import numpy as np
    from PIL import Image

    class Page(HTMLParser):
        """Contents of a page: its elements (name, attributes), its words and its rows of tables."""

        VOID = ("img", "meta", "br")

        def __init__(self, text):
            super().__init__()
            self.elements, self.open, self.words, self.rows = [], [], [], []
            self.feed(text)
            assert self.open == []

        def handle_starttag(self, tag, attrs):
            self.elements.append((tag, dict(attrs)))
            if tag not in self.VOID:
                self.open.append(tag)
            if tag == "tr":
                self.rows.append([])
            if tag in ("td", "th"):
                self.rows[-1].append("")

        def handle_startendtag(self, tag, attrs):
            self.elements.append((tag, dict(attrs)))

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            if self.open[-1:] != ["script"]:
                self.words.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data

        def all(self, tag, name=""):
            return [
                attrs
                for found, attrs in self.elements
                if found == tag and name in [*attrs.get("class", "").split(), ""]
            ]

        def thumbnails(self):
            urls = [attrs["src"] for attrs in self.all("img")]
            assert all(url.startswith("data:image/png;base64,") for url in urls)
            return [np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]

    return Page


# Encoders: checkpoints of random weights in the layouts that are published ------------------------------------------


@pytest.fixture(scope="session")
def torch():
    """Return PyTorch; a test that takes it is skipped in a search-only installation."""
    return pytest.importorskip("torch")


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

    log = logging.getLogger("rsr")
    level = log.level
    yield run
    log.setLevel(level)  # which --quiet changes


@pytest.fixture
def corner_scene(tmp_path, write_raster):
    """Write 96 x 96 px of six bands, band b at 1010 + 10 b, with a corner of nodata and one tile at 3000."""
    import numpy as np

    data = np.stack([np.full((96, 96), 1010 + 10 * b, np.uint16) for b in range(6)])
    data[:, :16, :32] = 0
    data[:, 64:, 64:] = 3000
    names = ("blue", "green", "red", "nir08", "swir16", "swir22")
    return write_raster(tmp_path / "scene.tif", data, names=names, nodata=0)


@pytest.fixture(scope="module")
def one_thread(torch):
    """Keep torch on one core: test processes side by side would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def random_weights(torch):
    """Return a function that makes random weights of the given shapes."""

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
def checkpoint(tmp_path_factory, masked_autoencoder, prefixed, torch):
    """Return a function that writes a Prithvi checkpoint and returns its path."""
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
def imagenet(tmp_path_factory, random_weights, torch):
    """Checkpoint of torchvision's ViT-B/16, with the names of 2022 as published, and the model without its head."""
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
def lite0(tmp_path_factory, torch):
    """Checkpoint of EfficientNet-Lite0, by other names than timm's in the same order, and timm's network."""
    import timm

    torch.manual_seed(5)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("lite0") / "efficientnet-lite0-57934424.pth"
    torch.save({f"_{i}.weight": tensor for i, tensor in enumerate(model.state_dict().values())}, path)
    return path, model


@pytest.fixture(scope="session")
def backbones(torch):
    """Terratorch's registry of backbones."""
    precision = torch.get_float32_matmul_precision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from terratorch.registry import BACKBONE_REGISTRY
    torch.set_float32_matmul_precision(precision)  # which terratorch lowers
    return BACKBONE_REGISTRY


@pytest.fixture(scope="session")
def chips(torch):
    """Return a function that makes normalised tiles with structure: smooth fields, each of another scale."""

    def make(n, bands=6, size=224):
        coarse = torch.randn(n, bands, 7, 7, generator=torch.Generator().manual_seed(3))
        return (
            torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
            * torch.linspace(0.3, 2, n)[:, None, None, None]
        )

    return make


@pytest.fixture(scope="session")
def encode(torch):
    """Return a function that encodes a batch without gradients, of valid pixels unless it is given which are."""

    def encode(encoder, pixels, valid=None, **context):
        with torch.inference_mode():
            return encoder.forward(pixels, torch.ones_like(pixels[:, 0]) if valid is None else valid, **context)

    return encode


@pytest.fixture(scope="session")
def worst_cosine(torch):
    """Return a function that compares two arrays of vectors by their least similar rows."""

    def worst(a, b):
        return torch.nn.functional.cosine_similarity(a.double(), b.double()).min().item()

    return worst
