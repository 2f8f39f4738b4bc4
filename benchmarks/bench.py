"""Compare each command with the bare work that it wraps, in one run, as ratios.

    python benchmarks/bench.py [--full] [NAME ...]

The command and the bare work run alternately, and their medians are compared: a ratio of 1 means that the command costs
nothing beyond that work. ``--full`` measures memory for a million records instead of a hundred thousand.
"""

from __future__ import annotations

import argparse
import base64
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from rsr_cli.core.encoders.base import Encoder

RSR = [sys.executable, "-m", "rsr_cli.main"]
REPEATS = 5
DIM = 768


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(ours: Callable[[], object], bare: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Run both alternately and return the median seconds of each."""
    pairs = [(seconds(ours), seconds(bare)) for _ in range(repeats)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def report(name: str, ours: float, bare: float, n: int, against: str, target: str = "") -> None:
    """Print one row: records per second, and the bare work's share of our time."""
    print(f"| {name} | {n / ours:,.0f}/s | {n / bare:,.0f}/s ({against}) | {bare / ours:.2f} | {target} |", flush=True)


# A process inherits its parent's peak memory at fork, so a small process starts the command.
LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(*command: str) -> float:
    """Run a command to its end and return its peak resident memory in MiB."""
    done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *command], stdout=subprocess.PIPE, check=True)
    return int(done.stdout) / 1024


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
            "bands": ["blue", "green", "red", "nir08", "swir16", "swir22"],
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


def scene(path: Path, size: int) -> Path:
    """Write a six-band scene that declares nodata."""
    import rasterio

    rng = np.random.default_rng(0)
    bands = ("blue", "green", "red", "nir08", "swir16", "swir22")
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=6, dtype="uint16", nodata=0, crs="EPSG:32633",
        transform=rasterio.Affine(10, 0, 4e5, 0, -10, 5e6), tiled=True, compress="deflate",
    ) as target:  # fmt: skip
        for index, name in enumerate(bands, 1):
            target.write(rng.integers(1, 4000, (size, size), dtype=np.uint16), index)
            target.set_band_description(index, name)
    return path


# The commands --------------------------------------------------------------------------------------------------------


def bench_tile(folder: Path) -> None:
    import rasterio
    from rasterio.windows import Window

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.rasters import SceneSettings, Tiler, WindowSettings
    from rsr_cli.core.records.jsonl import dump
    from rsr_cli.core.sources import Rasters

    path = scene(folder / "scene.tif", 4096)
    size = 128
    n = (4096 // size) ** 2

    def ours(min_valid: float | None) -> None:
        windows = WindowSettings(size_px=size, stride_px=size, min_valid=min_valid)
        for tiles in Tiler(Rasters(), SceneSettings(), windows, Skips()).tiles([str(path)]):
            b"".join(map(dump, tiles))

    def bare() -> None:
        with rasterio.open(path) as source:
            for row in range(0, 4096, size):
                for column in range(0, 4096, size):
                    source.read(window=Window(column, row, size, size), masked=True)

    report("tile, valid pixels measured", *compare(lambda: ours(None), bare), n, "rasterio's masked reads")
    report("tile, nothing measured", *compare(lambda: ours(0), bare), n, "rasterio's masked reads")


def bench_embed(folder: Path) -> None:
    """Measure what reading tiles and writing records costs beside the forward pass, with the model already loaded."""
    import torch

    from rsr_cli.core.encoders.placement import place
    from rsr_cli.core.encoders.registry import load_encoder
    from rsr_cli.core.encoders.run import Embedder
    from rsr_cli.core.encoders.specification import EncoderSettings
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.jsonl import write_records
    from rsr_cli.core.records.streams import read

    path = scene(folder / "scene.tif", 2048)
    weights = random_prithvi(folder / "prithvi.pt")
    prithvi = [("prithvi_eo_v1_100", precision, 224, 64) for precision in ("fp32", "bf16", "int8")]
    for model, precision, size, n in (*prithvi, ("rcf", "fp32", 64, 512)):
        tiles = folder / f"{model}.geojsonl"
        subprocess.run([*RSR, "tile", str(path), "--size", str(size), "-o", str(tiles), "--overwrite"], check=True)
        tiles.write_bytes(b"".join(tiles.read_bytes().splitlines(keepends=True)[:n]))
        encoder = load_encoder(EncoderSettings(model=model, weights=str(weights) if model != "rcf" else None))
        placement = place(None, precision, None, quantizable=encoder.quantizable)
        embedder = Embedder(encoder, placement, Skips())
        (device,) = placement.devices
        pixels = torch.randn(n, len(encoder.bands), size, size, device=device, dtype=placement.dtype)
        tensors = pixels.split(placement.batch_size)
        valid = torch.ones(placement.batch_size, size, size, device=device)

        def ours(embedder: Embedder = embedder, tiles: Path = tiles) -> None:
            for done in embedder.embed(read([str(tiles)], Skips())):
                write_records(done, Skips())

        def bare(
            encoder: Encoder = encoder, tensors: Sequence[torch.Tensor] = tensors, valid: torch.Tensor = valid
        ) -> None:
            with torch.inference_mode():
                for batch in tensors:
                    encoder.forward(batch, valid[: len(batch)]).cpu()

        ours()
        report(f"embed {model}, {precision}, {device}", *compare(ours, bare, 3), n, "its forward pass", ">= 0.9")


def random_prithvi(path: Path) -> Path:
    """Write a checkpoint of random weights in the published layout."""
    import torch
    from terratorch.registry import BACKBONE_REGISTRY

    model = BACKBONE_REGISTRY.build("prithvi_eo_v1_100", pretrained=False, num_frames=1)
    torch.save(model.state_dict(), path)
    return path


def bench_binarize(folder: Path) -> None:
    n = 100_000
    path = write(folder / "e.geojsonl", records(n, "embedding"))

    def bare() -> None:
        with path.open("rb") as lines, Path(os.devnull).open("wb") as out:
            for line in lines:
                record = orjson.loads(line)
                raw = base64.b64decode(record["properties"].pop("embedding")["data"])
                code = np.packbits(np.frombuffer(raw, np.float32) > 0)
                record["properties"]["code"] = base64.b64encode(code.tobytes()).decode()
                out.write(orjson.dumps(record))

    ours = compare(lambda: run(*RSR, "binarize", str(path)), bare, 3)
    report("binarize", *ours, n, "orjson, base64, packbits per line", ">= 30,000/s")


def bench_index(folder: Path) -> None:
    import faiss

    for kind, n in (("embedding", 100_000), ("code", 200_000)):
        path = write(folder / "in.geojsonl", records(n, kind))

        def bare(path: Path = path, kind: str = kind) -> None:
            flat = faiss.IndexBinaryFlat(DIM) if kind == "code" else faiss.IndexFlat(DIM, faiss.METRIC_L1)
            dtype = np.uint8 if kind == "code" else np.float32
            with path.open("rb") as lines, Path(os.devnull).open("wb") as out:
                for line in lines:
                    record = orjson.loads(line)
                    raw = base64.b64decode(record["properties"].pop(kind)["data"])
                    flat.add(np.frombuffer(raw, dtype)[None])
                    out.write(orjson.dumps(record))

        def ours(path: Path = path) -> None:
            run(*RSR, "index", str(path), "-o", str(folder / "i.rsr"), "--overwrite")

        report(f"index of {kind}s", *compare(ours, bare, 3), n, "orjson, base64, faiss add per line", ">= 30,000/s")


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


def bench_query(folder: Path) -> None:
    n = 1_000_000
    lake = folder / "lake.rsr"
    with subprocess.Popen([*RSR, "index", "-q", "-o", str(lake)], stdin=subprocess.PIPE) as index:
        assert index.stdin is not None
        index.stdin.writelines(records(n, "code"))
        index.stdin.close()
    vectors = flat_index(lake, folder / "flat.faiss")
    for queries, name, target, repeats in (
        (2000, "query, 2000 queries", ">= 0.85", 3),
        (1, "query, one, a process of its own", "", 11),
    ):
        asked = write(folder / "q.geojsonl", records(queries, "code"))
        ours, bare = compare(
            lambda asked=asked: run(*RSR, "query", str(lake), str(asked)),
            lambda queries=queries: run(sys.executable, "-c", BARE_SEARCH, vectors, str(queries)),
            repeats,
        )
        report(f"{name}, {n:,} rows", ours, bare, queries, "a bare faiss script", target)
    print(f"| one query, 1,000,000 codes | {ours:.3f} s | {bare:.3f} s | {ours / bare:.2f} times | <= 1.6 times |")
    peak = run(*RSR, "query", str(lake), str(asked))
    print(f"| its resident memory | {peak:.0f} MB | | | < 200 MB |", flush=True)


def bench_memory(folder: Path, most: int) -> None:
    """Compare the peak resident memory of every streaming command for 10,000 records and for many."""
    few, side = 10_000, 8 * 1024
    raster, lake, codes, hits = folder / "m.tif", folder / "m.rsr", folder / "c.geojsonl", folder / "h.geojsonl"
    scene(raster, side)
    write(folder / "s.geojsonl", records(1000, "code"))
    run(*RSR, "index", str(folder / "s.geojsonl"), "-o", str(lake))
    peaks: dict[str, list[float]] = {}
    for n in (few, most):
        stride = (side - 8) // round(n**0.5 - 1)
        cut = ["--size", "8", "--stride", str(stride), "--min-valid", "0"]
        tiles = folder / "t.geojsonl"
        subprocess.run([*RSR, "tile", "-q", str(raster), *cut, "-o", str(tiles), "--overwrite"], check=True)
        embeddings = write(folder / "b.geojsonl", records(n, "embedding"))
        write(codes, records(n, "code"))
        asked = write(folder / "q.geojsonl", records(n // 20, "code"))
        with hits.open("wb") as out:
            subprocess.run([*RSR, "query", "-q", str(lake), str(asked)], stdout=out, check=True)
        commands = {
            "tile": [str(raster), *cut],
            "embed": [str(tiles), "--model", "rcf"],
            "binarize": [str(embeddings)],
            "index": [str(codes), "-o", str(folder / "i.rsr"), "--overwrite"],
            "query": [str(lake), str(codes), "-k", "1"],
            "score": [str(hits)],
        }
        for name, arguments in commands.items():
            peaks.setdefault(name, []).append(run(*RSR, name, "-q", *arguments))
    for name, (small, large) in peaks.items():
        what = f"memory of {name}, {few:,} and {most:,} records"
        print(f"| {what} | {large:.0f} MB | {small:.0f} MB | {large / small:.2f} | flat |", flush=True)


BENCHES = {
    "tile": bench_tile,
    "embed": bench_embed,
    "binarize": bench_binarize,
    "index": bench_index,
    "query": bench_query,
}


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", choices=[*BENCHES, "memory", []], metavar="NAME", help=" ".join([*BENCHES, "memory"])
    )
    parser.add_argument("--full", action="store_true", help="measure memory for a million records")
    arguments = parser.parse_args()
    names = arguments.names or [*BENCHES, "memory"]
    print("| what | ours | the bare work | ratio | target |\n|---|---|---|---|---|", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            if name == "memory":
                bench_memory(Path(folder), 1_000_000 if arguments.full else 100_000)
            else:
                BENCHES[name](Path(folder))


if __name__ == "__main__":
    main()
