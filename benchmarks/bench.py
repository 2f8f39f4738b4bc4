"""Compare each command with the bare work that it wraps, and with an earlier version of rsr, in one run.

    python benchmarks/bench.py [--base COMMIT] [--full] [NAME ...]

The commands of both versions, whole processes, and the bare work run alternately, and their medians are compared: a
ratio of 1 means that the command costs nothing beyond that work. Without NAME, all is measured and written to the
README.md beside this file. ``--full`` measures memory for a million records instead of a hundred thousand.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import inspect
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from rsr_cli.core.encoders.base import Encoder
    from rsr_cli.core.encoders.placement import Placement

HERE = Path(__file__).resolve().parent
REPEATS = 3
DIM = 768
BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")
PACKAGES = ("torch", "openvino", "terratorch", "numpy", "faiss-cpu", "rasterio", "orjson")
VECTOR_UNITS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
HEADER = "| what | before | now | gain | the bare work | ratio | target |\n|---|---:|---:|---:|---|---:|---|"

# A process inherits its parent's peak memory at fork, so a small process starts the command.
LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Tree:
    """The source of a version of rsr, and the directory in which its commands run."""

    source: Path
    folder: Path

    def __call__(self, *arguments: object) -> float:
        """Run a command of rsr to its end and return its peak resident memory in MiB."""
        environment = os.environ | {"PYTHONPATH": str(self.source)}
        command = [sys.executable, "-m", "rsr_cli.main", *map(str, arguments)]
        return run(*command, env=environment, cwd=self.folder)

    def seconds(self, *arguments: object) -> float:
        """Return how long a command takes."""
        return seconds(lambda: self(*arguments))

    def can(self, *arguments: object) -> bool:
        """Return whether this version has a command, run to its end."""
        try:
            self(*arguments)
        except subprocess.CalledProcessError:
            return False
        return True


def run(*command: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> float:
    """Run a command to its end and return its peak resident memory in MiB."""
    launched = [sys.executable, "-S", "-c", LAUNCHER, *command]
    done = subprocess.run(launched, stdout=subprocess.PIPE, check=True, env=env, cwd=cwd)
    return int(done.stdout) / 1024


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Bench:
    """What the benchmarks run on: an earlier version, if one is given, and this one."""

    base: Tree | None
    now: Tree
    folder: Path
    rows: list[str]

    def compare(
        self,
        what: str,
        ours: Callable[[Tree], float],
        bare: Callable[[], float],
        against: str,
        *,
        n: int,
        target: str = "",
        repeats: int = REPEATS,
        base: bool = True,
    ) -> None:
        """Measure seconds for ``n`` records alternately, and print the medians.

        ``ours`` and ``bare`` return seconds, and ``base`` says whether the earlier version has the command.
        """
        trees = [self.base] * bool(base and self.base) + [self.now]
        took: list[list[float]] = [[] for _ in range(len(trees) + 1)]
        for _ in range(repeats):
            for times, tree in zip(took, trees, strict=False):
                assert tree is not None
                times.append(ours(tree))
            took[-1].append(bare())
        *before, now, alone = map(statistics.median, took)

        def speed(each: float) -> str:
            return f"{each:.2f} s" if n == 1 else f"{n / each:,.{1 if n / each < 100 else 0}f}/s"

        shown = [what, *([speed(before[0]), speed(now), f"{before[0] / now:.2f}"] if before else ["", speed(now), ""])]
        ratio = f"{now / alone:.2f} times as long" if n == 1 else f"{alone / now:.2f}"
        self.print(f"| {' | '.join(shown)} | {speed(alone)}, {against} | {ratio} | {target} |")

    def print(self, row: str) -> None:
        """Print a row and keep it for the README."""
        print(row, flush=True)
        self.rows.append(row)


def records(n: int, kind: str) -> Iterator[bytes]:
    """Yield lines with random embeddings or codes, as embed and binarize write them for the tiles of a scene."""
    rng = np.random.default_rng(0)
    for i in range(n):
        column, row = i % 1000, i // 1000
        west, south = round(column * 0.003, 7), round(row * 0.002, 7)
        east, north = round(west + 0.003, 7), round(south + 0.002, 7)
        ring = [[west, north], [west, south], [east, south], [east, north], [west, north]]
        properties = {
            "source": "scene.tif",
            "bands": list(BANDS),
            "scale": 1.0,
            "offset": 0.0,
            "window": [column * 224, row * 224, 224, 224],
            "proj:code": "EPSG:32633",
            "proj:transform": [10.0, 0.0, 4e5 + column * 2240, 0.0, -10.0, 5e6 - row * 2240],
            "proj:shape": [224, 224],
            "labels": [f"c{i % 10}"],
        }
        if kind == "embedding":
            data = rng.standard_normal(DIM, dtype=np.float32)
            head = {"model": "random", "fingerprint": "0" * 16, "dim": DIM, "dtype": "float32"}
        else:
            data = rng.integers(0, 256, DIM // 8, dtype=np.uint8)
            head = {"method": "sign", "bits": DIM, "of": "0" * 16, "fingerprint": "1" * 16}
        properties[kind] = {**head, "data": base64.b64encode(data.tobytes()).decode()}
        yield orjson.dumps(
            {
                "type": "Feature",
                "id": f"scene_{column * 224}_{row * 224}",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "bbox": [west, south, east, north],
                "properties": properties,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


def write(path: Path, lines: Iterator[bytes]) -> Path:
    """Write lines to a file."""
    with path.open("wb") as file:
        file.writelines(lines)
    return path


def scene(path: Path, size: int, **profile: object) -> Path:
    """Write a six-band scene that declares nodata."""
    import rasterio

    rng = np.random.default_rng(0)
    pixels = np.tile(rng.integers(1, 4000, (1024, 1024), dtype=np.uint16), (-(-size // 1024),) * 2)[:size, :size]
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=6, dtype="uint16", nodata=0, crs="EPSG:32633",
        transform=rasterio.Affine(10, 0, 4e5, 0, -10, 5e6), **profile,
    ) as target:  # fmt: skip
        for index, name in enumerate(BANDS, 1):
            target.write(np.roll(pixels, index, axis=1), index)
            target.set_band_description(index, name)
    return path


def tiles(bench: Bench, raster: Path, size: int, n: int | None = None) -> tuple[Path, int]:
    """Cut a scene, and return the first tiles, or all, and their number."""
    path = bench.folder / f"{raster.stem}_{size}.geojsonl"
    bench.now("tile", "-q", raster, "--size", size, "--min-valid", 0, "-o", path, "--overwrite")
    lines = path.read_bytes().splitlines(keepends=True)[:n]
    path.write_bytes(b"".join(lines))
    return path, len(lines)


#: Sizes of tiles and how rasterio writes the scene that they are cut from.
BLOCKS = {"tiled": True, "blockxsize": 512, "blockysize": 512}
SCENES: dict[str, tuple[tuple[int, ...], dict[str, object]]] = {
    "uncompressed": ((224, 64), {**BLOCKS, "interleave": "pixel"}),
    "deflate": ((224, 64), {**BLOCKS, "compress": "deflate"}),
    "deflate in strips": ((224,), {"compress": "deflate", "interleave": "pixel"}),
}


# The commands --------------------------------------------------------------------------------------------------------


def read_windows(path: str, size: int) -> None:
    """Read a scene window by window."""
    import rasterio
    from rasterio.windows import Window

    with rasterio.open(path) as source:
        for row in range(0, source.height - size + 1, size):
            for column in range(0, source.width - size + 1, size):
                source.read(window=Window(column, row, size, size))


def bench_tile(bench: Bench) -> None:
    """Measure whole scenes of Sentinel-2's size, whose valid pixels are measured."""
    reads = inspect.getsource(read_windows)
    for kind, (sizes, profile) in SCENES.items():
        raster = scene(bench.folder / f"{kind}.tif", 10980, **profile)
        for size in sizes:
            command = ["tile", "-q", raster, "--size", size, "-o", bench.folder / "t.geojsonl", "--overwrite"]
            _, n = tiles(bench, raster, size)
            bench.compare(
                f"`tile`, 10,980 px, 6 bands, {kind}, {size} px",
                lambda tree, command=command: tree.seconds(*command),
                lambda script=f"{reads}\nread_windows({str(raster)!r}, {size})": seconds(
                    lambda: run(sys.executable, "-c", script)
                ),
                "a script of rasterio reads the same windows",
                n=n,
                target=">= 0.7",
            )


def bench_read(bench: Bench) -> None:
    """Measure the stage of embed that reads, without a model; its interface is this version's own."""
    from rsr_cli.core.encoders.reading import Reader
    from rsr_cli.core.encoders.registry import load_encoder
    from rsr_cli.core.encoders.specification import EncoderSettings
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.streams import read

    encoder = load_encoder(EncoderSettings(model="rcf"))
    for kind, (sizes, profile) in SCENES.items():
        raster = scene(bench.folder / f"{kind}.tif", 10980, **profile)
        for size in sizes:
            path, n = tiles(bench, raster, size)

            def ours(_: Tree, path: Path = path) -> float:
                reader = Reader(encoder, Skips(), 64, fill_missing=False, filled=None)
                return seconds(lambda: [None for _ in reader.read(read([str(path)], Skips()))])

            def bare(raster: Path = raster, size: int = size) -> float:
                return seconds(lambda: read_windows(str(raster), size))

            what = f"reading for `embed`, 10,980 px, 6 bands, {kind}, {size} px"
            bench.compare(what, ours, bare, "rasterio reads the same windows", n=n, target=">= 0.7", base=False)


def bench_embed(bench: Bench) -> None:
    """Measure what reading tiles and writing records costs beside the forward pass; the start is taken off."""
    raster = scene(bench.folder / "scene.tif", 2048, **BLOCKS)
    weights = random_prithvi(bench.folder / "prithvi.pt")
    for model, precision, size, n in (
        ("prithvi_eo_v1_100", "auto", 224, 48),
        ("prithvi_eo_v1_100", "fp32", 224, 48),
        ("prithvi_eo_v1_100", "int8", 224, 64),
        ("rcf", "fp32", 64, 1008),
    ):
        options = ["--model", model, *(["--weights", weights] if model != "rcf" else [])]
        if precision != "auto":
            options += ["--precision", precision]
        forward = Forward.of(model, weights if model != "rcf" else None, precision, n, size)
        how = f"no flag: {forward.placement.precision}" if precision == "auto" else precision
        path, _ = tiles(bench, raster, size, forward.placement.batch_size + n)
        command = Started(bench.folder, path, options, forward.placement.batch_size)
        bench.compare(
            f"`embed`, {model}, {how}, batches of {forward.placement.batch_size}",
            command.seconds,
            forward.seconds,
            f"its forward pass, {forward.placement.devices[0]}",
            n=n,
            target=">= 0.9",
            repeats=5,
            base=bench.base is not None and bench.base.can(*command.arguments(command.first)),
        )


def bench_start(bench: Bench) -> None:
    """Measure `embed` of one tile, the second time, when the digest of the weights is remembered."""
    import torch
    import torchvision
    from terratorch.registry import BACKBONE_REGISTRY

    raster = scene(bench.folder / "scene.tif", 2048, **BLOCKS)
    one, _ = tiles(bench, raster, 224, 1)
    dated = bench.folder / "dated.geojsonl"
    record = orjson.loads(one.read_bytes())
    record["properties"]["datetime"] = "2024-06-01T10:00:00Z"
    dated.write_bytes(orjson.dumps(record))
    v1, v2, vit = (bench.folder / f"{name}.pt" for name in ("v1", "v2", "vit"))
    random_prithvi(v1)
    backbone = BACKBONE_REGISTRY.build("prithvi_eo_v2_100_tl", pretrained=False, num_frames=1)
    torch.save(backbone.state_dict(), v2)
    torch.save(torchvision.models.vit_b_16().state_dict(), vit)
    time.sleep(4)  # the digest of a file that is younger is not remembered
    for model, weights in (
        ("prithvi_eo_v1_100", v1),
        ("prithvi_eo_v2_100_tl", v2),
        ("vit_b_16_rgb", vit),
        ("rcf", None),
    ):
        command = ["embed", "-q", "--model", model, *(["--weights", weights] if weights else []), dated]
        bench.now(*command)
        bench.compare(
            f"`embed` of one tile, {model}",
            lambda tree, command=command: tree.seconds(*command),
            lambda: seconds(lambda: run(sys.executable, "-c", "import torch")),
            "`import torch`",
            n=1,
            target="<= 1.7 times",
            repeats=5,
            base=bench.base is not None and bench.base.can(*command),
        )


@dataclass(frozen=True)
class Started:
    """`embed` of some tiles, less the time that it takes for the first batch, in which torch prepares for its shape."""

    folder: Path
    tiles: Path
    options: Sequence[object]
    batch_size: int

    @property
    def first(self) -> Path:
        """A file with the first batch."""
        path = self.folder / "first.geojsonl"
        path.write_bytes(b"".join(self.tiles.read_bytes().splitlines(keepends=True)[: self.batch_size]))
        return path

    def arguments(self, path: Path) -> list[object]:
        """Return the command line for a file of tiles."""
        return ["embed", "-q", *self.options, path, "-o", self.folder / "embedded.geojsonl", "--overwrite"]

    def seconds(self, tree: Tree) -> float:
        """Return how long a version takes for all but the first batch."""
        return tree.seconds(*self.arguments(self.tiles)) - tree.seconds(*self.arguments(self.first))


@dataclass(frozen=True)
class Forward:
    """The forward pass alone, on tensors in memory."""

    encoder: Encoder
    placement: Placement
    tensors: Sequence[torch.Tensor]

    @classmethod
    def of(
        cls, model: str, weights: Path | None, precision: str, n: int, size: int, batch_size: int | None = None
    ) -> Forward:
        """Load a model, and make random tiles of ``size`` pixels for it."""
        import torch

        from rsr_cli.core.encoders.placement import place
        from rsr_cli.core.encoders.registry import load_encoder
        from rsr_cli.core.encoders.run import Embedder
        from rsr_cli.core.encoders.specification import EncoderSettings
        from rsr_cli.core.errors import Skips

        torch.set_float32_matmul_precision("highest")  # terratorch, which makes the random weights, lowers it
        encoder = load_encoder(EncoderSettings(model=model, weights=str(weights) if weights else None))
        facts = {"same_in_bf16": encoder.same_in_bf16, "quantizable": encoder.quantizable}
        placement = place(None, precision, batch_size, **facts)
        Embedder(encoder, placement, Skips())  # moves it, and quantizes it
        (device,) = placement.devices
        pixels = torch.randn(n, len(encoder.bands), size, size, device=device, dtype=placement.dtype)
        forward = cls(encoder, placement, pixels.split(placement.batch_size))
        forward.seconds()  # the first pass of a shape takes longer
        return forward

    def seconds(self) -> float:
        """Return how long all tiles take."""
        import torch

        def work() -> None:
            with torch.inference_mode():
                for batch in self.tensors:
                    valid = torch.ones(len(batch), *batch.shape[2:], device=batch.device)
                    self.encoder.forward(batch, valid).cpu()

        return seconds(work)


def random_prithvi(path: Path) -> Path:
    """Write a checkpoint of random weights in the published layout."""
    import torch
    from terratorch.registry import BACKBONE_REGISTRY

    model = BACKBONE_REGISTRY.build("prithvi_eo_v1_100", pretrained=False, num_frames=1)
    torch.save(model.state_dict(), path)
    return path


def bench_binarize(bench: Bench) -> None:
    import faiss

    n = 100_000
    path = write(bench.folder / "e.geojsonl", records(n, "embedding"))
    few = write(bench.folder / "few.geojsonl", records(10, "embedding"))
    size = 1 << (DIM - 1).bit_length()
    rotate = faiss.HadamardRotation(size, 0).apply

    def bare(method: str) -> None:
        padded = np.zeros((1, size), np.float32)
        with path.open("rb") as lines, Path(os.devnull).open("wb") as out:
            for line in lines:
                record = orjson.loads(line)
                values = np.frombuffer(base64.b64decode(record["properties"].pop("embedding")["data"]), np.float32)
                if method == "rotated":
                    padded[0, :DIM] = values
                    values = rotate(padded)[0, :DIM]
                record["properties"]["code"] = base64.b64encode(np.packbits(values > 0).tobytes()).decode()
                out.write(orjson.dumps(record))

    for method, what in (("sign", ""), ("rotated", " faiss's rotation,")):
        options = ("-q", "--method", method)
        bench.compare(
            f"`binarize --method {method}`",
            lambda tree, options=options: tree.seconds("binarize", *options, path),
            lambda method=method: seconds(lambda: bare(method)),
            f"orjson, base64,{what} packbits per line",
            n=n,
            target=">= 30,000/s",
            base=bench.base is not None and bench.base.can("binarize", *options, few),
        )


def bench_index(bench: Bench) -> None:
    import faiss

    for kind, n, options in (("embedding", 100_000, ("--metric", "cosine")), ("code", 200_000, ())):
        path = write(bench.folder / "in.geojsonl", records(n, kind))
        command = ("index", "-q", path, *options, "-o", bench.folder / "i.rsr", "--overwrite")

        def bare(path: Path = path, kind: str = kind) -> None:
            flat = faiss.IndexBinaryFlat(DIM) if kind == "code" else faiss.IndexFlatIP(DIM)
            dtype = np.uint8 if kind == "code" else np.float32
            with path.open("rb") as lines, Path(os.devnull).open("wb") as out:
                for line in lines:
                    record = orjson.loads(line)
                    raw = base64.b64decode(record["properties"].pop(kind)["data"])
                    flat.add(np.frombuffer(raw, dtype)[None])
                    out.write(orjson.dumps(record))

        bench.compare(
            f"`index` of {kind}s",
            lambda tree, command=command: tree.seconds(*command),
            lambda bare=bare: seconds(bare),
            "orjson, base64, faiss add per line",
            n=n,
            target=">= 30,000/s",
        )


def bench_parquet(bench: Bench) -> None:
    """Measure Parquet in and out, beside pyarrow's reading and writing of the same columns."""
    import sqlite3

    import pyarrow as pa
    import pyarrow.parquet as pq

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records import streams
    from rsr_cli.core.records.space import KINDS

    def table(kind: str, n: int) -> tuple[Path, Path]:
        """Write records as lines and as rows."""
        lines, rows = write(bench.folder / "p.geojsonl", records(n, kind)), bench.folder / f"{kind}.parquet"
        with streams.Writer(str(rows), Skips(), overwrite=True) as out:
            for batch in streams.read([str(lines)], Skips(), KINDS):
                out.write(batch)
        return lines, rows

    n = 100_000
    _, embeddings = table("embedding", n)
    made = bench.folder / "made.parquet"

    def read_pack_write() -> None:
        file = pq.ParquetFile(embeddings)
        schema = file.schema_arrow.remove(file.schema_arrow.get_field_index("embedding"))
        with pq.ParquetWriter(made, schema.append(pa.field("code", pa.binary(DIM // 8))), compression="zstd") as writer:
            for batch in file.iter_batches(8192):
                values = batch["embedding"].flatten().to_numpy().reshape(-1, DIM)
                codes = pa.py_buffer(np.packbits(values > 0, axis=1))
                column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIM // 8), len(batch), [None, codes])
                rows = pa.RecordBatch.from_arrays([*batch.select(schema.names).columns, column], schema=writer.schema)
                writer.write_batch(rows)

    bench.compare(
        "`binarize`, Parquet to Parquet",
        lambda tree: tree.seconds("binarize", "-q", "--method", "sign", embeddings, "-o", made, "--overwrite"),
        lambda: seconds(read_pack_write),
        "pyarrow reads, packbits, pyarrow writes",
        n=n,
        target=">= 0.6",
        base=False,
    )

    n = 500_000
    lines, codes = table("code", n)
    texts = []
    with lines.open("rb") as stored:
        for line in stored:
            record = orjson.loads(line)
            del record["properties"]["code"]
            texts.append((record["id"], orjson.dumps(record).decode()))

    def read_insert(make: bool) -> None:
        rows = bench.folder / "bare.sqlite"
        rows.unlink(missing_ok=True)
        database = sqlite3.connect(rows, isolation_level=None)
        database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN")
        database.execute("CREATE TABLE records (row INTEGER PRIMARY KEY, id TEXT NOT NULL, record TEXT NOT NULL)")
        row = 0
        for batch in pq.ParquetFile(codes).iter_batches(8192):
            some = texts[row : row + len(batch)]
            if make:
                some = [(each["id"], orjson.dumps(each, default=bytes.hex).decode()) for each in batch.to_pylist()]
            numbered = ((row + i, *each) for i, each in enumerate(some))
            database.executemany("INSERT INTO records VALUES (?, ?, ?)", numbered)
            row += len(batch)
        database.execute("CREATE UNIQUE INDEX by_id ON records (id)")
        database.execute("COMMIT")
        database.close()

    for make, bare in enumerate(
        ("inserts texts that are there already", "makes a text per row with orjson and inserts it")
    ):
        bench.compare(
            f"`index` of codes, Parquet, {'texts too' if make else 'texts given'}",
            lambda tree: tree.seconds("index", "-q", codes, "-o", bench.folder / "i.rsr", "--overwrite"),
            lambda make=make: seconds(lambda: read_insert(bool(make))),
            f"pyarrow reads, SQLite {bare}",
            n=n,
            target=">= 0.5",
            base=False,
        )


BARE_SEARCH = """
import sys, numpy as np, faiss
index = faiss.read_index_binary(sys.argv[1], faiss.IO_FLAG_MMAP_IFC)
queries = np.random.default_rng(1).integers(0, 256, (int(sys.argv[2]), index.d // 8), dtype=np.uint8)
index.search(queries, 20)
"""


def flat_index(lake: Path, path: Path) -> str:
    """Write the codes of an index of ours as an index of faiss's own."""
    import faiss

    (codes,) = (np.load(file, mmap_mode="r") for file in lake.glob("segments/*/vectors.npy"))
    flat = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    flat.add(codes)
    faiss.write_index_binary(flat, str(path))
    return str(path)


def bench_query(bench: Bench) -> None:
    n = 1_000_000
    path = write(bench.folder / "lake.geojsonl", records(n, "code"))
    lakes = {tree: bench.folder / f"{i}.rsr" for i, tree in enumerate(filter(None, (bench.base, bench.now)))}
    for tree, lake in lakes.items():
        tree("index", "-q", path, "-o", lake)
    vectors = flat_index(lakes[bench.now], bench.folder / "flat.faiss")
    for queries, name, target, repeats in (
        (2000, "`query`, 2,000 queries of 1,000,000 codes", ">= 0.85", 3),
        (1, "one `query` of 1,000,000 codes", "<= 1.6 times", 11),
    ):
        asked = write(bench.folder / "q.geojsonl", records(queries, "code"))
        bench.compare(
            name,
            lambda tree, asked=asked: tree.seconds("query", "-q", lakes[tree], asked),
            lambda queries=queries: seconds(lambda: run(sys.executable, "-c", BARE_SEARCH, vectors, str(queries))),
            "a bare faiss script",
            n=queries,
            target=target,
            repeats=repeats,
        )
    before, now = (
        f"{tree('query', '-q', lakes[tree], asked):.0f} MB" if tree else "" for tree in (bench.base, bench.now)
    )
    bench.print(f"| its resident memory | {before} | {now} | | | | < 200 MB |")


def bench_memory(bench: Bench, most: int) -> None:
    """Compare the peak resident memory of every streaming command for 10,000 records and for many."""
    few, side, folder = 10_000, 8 * 1024, bench.folder
    raster, lake, codes, hits = folder / "m.tif", folder / "m.rsr", folder / "c.geojsonl", folder / "h.geojsonl"
    scene(raster, side, **BLOCKS)
    write(folder / "s.geojsonl", records(1000, "code"))
    bench.now("index", "-q", folder / "s.geojsonl", "-o", lake)
    peaks: dict[str, list[float]] = {}
    for n in (few, most):
        stride = (side - 8) // round(n**0.5 - 1)
        cut = ["--size", "8", "--stride", str(stride), "--min-valid", "0"]
        tiled = folder / "t.geojsonl"
        bench.now("tile", "-q", raster, *cut, "-o", tiled, "--overwrite")
        embeddings = write(folder / "b.geojsonl", records(n, "embedding"))
        write(codes, records(n, "code"))
        asked = write(folder / "q.geojsonl", records(n // 20, "code"))
        bench.now("query", "-q", lake, asked, "-o", hits, "--overwrite")
        commands = {
            "tile": [str(raster), *cut],
            "embed": [str(tiled), "--model", "rcf"],
            "binarize": [str(embeddings)],
            "index": [str(codes), "-o", str(folder / "i.rsr"), "--overwrite"],
            "query": [str(lake), str(codes), "-k", "1"],
            "score": [str(hits)],
        }
        for name, arguments in commands.items():
            peaks.setdefault(name, []).append(bench.now(name, "-q", *arguments))
    for name, (small, large) in peaks.items():
        what = f"memory of `{name}`, {few:,} and {most:,} records"
        bench.print(f"| {what} | | {small:.0f}, {large:.0f} MB | | | {large / small:.2f} | flat |")


# The chart and the page ----------------------------------------------------------------------------------------------


def bench_chart(bench: Bench) -> None:
    """Measure tiles per second over precision and batch size, and draw them."""
    from matplotlib.figure import Figure

    n, batches = 32, (1, 4, 16)
    raster = scene(bench.folder / "scene.tif", 2048, **BLOCKS)
    weights = random_prithvi(bench.folder / "prithvi.pt")
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(
        xlabel="tiles per batch", ylabel="tiles of 224 px per second", xscale="log", xticks=batches, xticklabels=batches
    )
    bench.print(f"\n| tiles per second, batches of | {' | '.join(map(str, batches))} |\n|---|{'---:|' * len(batches)}")
    for colour, precision in enumerate(("fp32", "bf16", "int8")):
        whole, alone = [], []
        for batch_size in batches:
            options = ["--model", "prithvi_eo_v1_100", "--weights", weights, "--precision", precision]
            path, _ = tiles(bench, raster, 224, batch_size + n)
            command = Started(bench.folder, path, [*options, "--batch-size", batch_size], batch_size)
            forward = Forward.of("prithvi_eo_v1_100", weights, precision, n, 224, batch_size)
            pairs = [(command.seconds(bench.now), forward.seconds()) for _ in range(REPEATS)]
            whole.append(n / statistics.median(pair[0] for pair in pairs))
            alone.append(n / statistics.median(pair[1] for pair in pairs))
        for name, speeds, style in (("embed", whole, "o-"), ("forward pass", alone, "x--")):
            axes.plot(batches, speeds, style, color=f"C{colour}", label=f"{precision}, {name}")
            bench.print(f"| {precision}, {name} | {' | '.join(f'{speed:.1f}' for speed in speeds)} |")
    axes.set_ylim(bottom=0)
    axes.minorticks_off()
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    figure.savefig(HERE / "precisions.png", dpi=120)


def git(*arguments: str) -> str:
    """Return what git prints about this tree."""
    done = subprocess.run(["git", "-C", str(HERE.parent), *arguments], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout.strip()


PAGE = """\
# Benchmarks

Written by `make bench`, which compares the working tree with a commit (`make bench BASE=COMMIT`; without it, with the
last one). `benchmarks/bench.py NAME` prints one part. The speed of single queries has a page of its own,
[docs/speed.md](../docs/speed.md).

Both versions, as whole processes but for the reading stage, and the bare work ran in turn. A number is the median of
three runs; of starts and of `embed` five, of one query eleven. *Gain* is how many times as fast the command is now.
*Ratio* is the bare work's time as a share of the command's: at 1 the command costs nothing beyond that work. It is more
where the command does the same work faster: rasterio's loop reads in one thread and window by window, where `rsr` reads
neighbours at once and in as many threads as there are processors. Of memory it is that of 100,000 records against
10,000. Where a speed of `embed` is given, the time of its first batch is taken off, and with it the start, which has
rows of its own. Without a flag, versions before `--precision auto` compute in fp32. rcf encodes tiles of 64 px. Weights
are random, in the published layout. Processors are shared: a ratio varies by a tenth from run to run, the speeds under
the chart, of 32 tiles each, by a fifth.

{versions} Measured on {date:%Y-%m-%d}:

- Processor: {processor}, {cores} of its processors for this process, {units}. GPU: {gpus}.
- Memory: {memory:.0f} GiB. System: {system}. Python {python}, GDAL {gdal}.
- Packages: {packages}.

{table}

Prithvi-100M on tiles of 224 px, uncompressed GeoTIFF, over precision and batch size:

![Tiles per second over precision and batch size](precisions.png)

{speeds}
"""


def page(bench: Bench, base: str | None) -> str:
    """Return the README of all that was measured, with a description of the machine."""
    import rasterio
    import torch

    facts = Path("/proc/cpuinfo").read_text("utf-8")
    names, flags = (set(re.findall(rf"^{key}\s*: (.*)", facts, re.MULTILINE)) for key in ("model name", "flags"))
    chart = next(i for i, row in enumerate(bench.rows) if row.startswith("\n"))
    now = git("describe", "--always", "--dirty")
    dates = {tree: git("log", "-1", "--format=%cs", tree) for tree in (base, "HEAD") if tree}
    now = f"*now* is {now} of {dates['HEAD']}."
    before = f"*Before* is {git('rev-parse', '--short', base)} of {dates[base]}, {now}" if base else now.capitalize()
    return PAGE.format(
        versions=before,
        date=datetime.datetime.now(datetime.UTC),
        processor=", ".join(names) or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        units=", ".join(unit for unit in VECTOR_UNITS if unit in str(flags)) or "no vector units known here",
        gpus=", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none",
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        gdal=rasterio.__gdal_version__,
        packages=", ".join(f"{name} {version(name)}" for name in PACKAGES),
        table="\n".join([HEADER, *bench.rows[:chart]]),
        speeds="\n".join(bench.rows[chart:]).strip(),
    )


BENCHES: dict[str, Callable[[Bench], None]] = {
    "tile": bench_tile,
    "read": bench_read,
    "embed": bench_embed,
    "start": bench_start,
    "binarize": bench_binarize,
    "index": bench_index,
    "parquet": bench_parquet,
    "query": bench_query,
    "memory": bench_memory,
    "chart": bench_chart,
}


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME", help=" ".join(BENCHES))
    parser.add_argument("--base", metavar="COMMIT", help="the earlier version")
    parser.add_argument("--full", action="store_true", help="measure memory for a million records")
    arguments = parser.parse_args()
    print(HEADER, flush=True)
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as source:
        if arguments.base:
            archive = ["git", "-C", str(HERE.parent), "archive", "-o", f"{source}/base.tar", arguments.base]
            subprocess.run(archive, check=True)
            subprocess.run(["tar", "-xf", f"{source}/base.tar", "-C", source], check=True)
        for name in arguments.names or BENCHES:
            with tempfile.TemporaryDirectory() as folder:
                trees = [Tree(Path(path), Path(folder)) for path in (source, HERE.parent)]
                bench = Bench(trees[0] if arguments.base else None, trees[1], Path(folder), rows)
                if name == "memory":
                    bench_memory(bench, 1_000_000 if arguments.full else 100_000)
                else:
                    BENCHES[name](bench)
    if not arguments.names:
        (HERE / "README.md").write_text(page(bench, arguments.base), "utf-8")


if __name__ == "__main__":
    main()
