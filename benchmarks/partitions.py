"""Compare single queries and batches in partitions with the exact search and with bare faiss, on structured codes.

    python benchmarks/partitions.py [--rows 10000000] [--noise 0.1 0.3] [--others]

Each noise is a set of codes of `structured.py`, written once below ``--folder``. What is searched is mapped; one thread
searches, unless OMP_NUM_THREADS says otherwise. The time of a flat query and that of a query in partitions are medians
of queries that take turns. Memory is the growth of a fresh process by its first query and by all of them. ``--others``
builds faiss's HNSW too, which takes minutes per million rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from structured import DIM, Structured, codes, write

from rsr_cli.core.index.flat import Flat
from rsr_cli.core.index.manifest import HAMMING
from rsr_cli.core.index.partitions import PartitionFacts, Partitions, partitions_of, write_partitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

K = 20
RECALL = 0.98
FLAT_QUERIES = 50


def build(folder: Path, rows: int, noise: float, seed: int) -> str:
    """Write codes and their partitions, unless they are there, and return how long the partitions took."""
    if not (folder / "vectors.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "vectors.npy", rows, noise, seed)
    if not (folder / "facts.json").exists():
        vectors = np.asarray(np.load(folder / "vectors.npy", mmap_mode="r"))
        started = time.perf_counter()
        facts = write_partitions(folder, Flat(vectors, HAMMING, 0.0), partitions_of(rows), seed)
        taken = f"{time.perf_counter() - started:.0f} s with {faiss.omp_get_max_threads()} threads"
        (folder / "facts.json").write_text(json.dumps({"taken": taken, "partitions": asdict(facts)}))
    return str(json.loads((folder / "facts.json").read_text())["taken"])


def opened(folder: Path) -> tuple[Flat, PartitionFacts, Partitions]:
    """Open what was built."""
    vectors = np.asarray(np.load(folder / "vectors.npy", mmap_mode="r"))
    facts = PartitionFacts.of(json.loads((folder / "facts.json").read_text())["partitions"])
    return Flat(vectors, HAMMING, 0.0), facts, Partitions(folder, facts.count, vectors, HAMMING)


def resident_mb() -> float:
    """Return the resident memory of this process, files that are mapped included, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def serve_memory(folder: Path, queries: NDArray[np.uint8]) -> None:
    """Print how much the memory of this process grows by a first query, and by all."""
    faiss.knn_hamming(queries[:1], queries, 1)  # what faiss itself takes
    before = resident_mb()
    flat, facts, partitions = opened(folder)
    probe = facts.recall.probe_for(RECALL, K)
    partitions.search(flat, queries[:1], K, probe)
    first = resident_mb() - before
    for query in queries[1:]:
        partitions.search(flat, query[None], K, probe)
    print(json.dumps([first, resident_mb() - before]))


def spent(work: Callable[[int], Any], numbers: Iterable[int]) -> list[float]:
    """Return the time of each of some calls, in milliseconds."""
    found = []
    for i in numbers:
        started = time.perf_counter()
        work(i)
        found.append((time.perf_counter() - started) * 1e3)
    return found


def measure(folder: Path, queries: NDArray[np.uint8], *, others: bool) -> None:
    """Print what the partitions of a folder do for some queries."""
    flat, facts, partitions = opened(folder)
    probe = facts.recall.probe_for(RECALL, K)
    exact = flat.search(queries, K)
    farthest = np.array([distances[-1] for distances, _ in exact])
    stated = dict(zip(facts.recall.ks, facts.recall.recall[facts.recall.probes.index(probe)], strict=True))
    found = partitions.search(flat, queries, K, probe)
    apart = {
        k: float(np.mean([(near[:k] <= true[k - 1]).mean() for (near, _), (true, _) in zip(found, exact, strict=True)]))
        - stated[k]
        for k in range(1, K + 1)
    }
    turns: tuple[list[list[float]], list[list[float]]] = ([], [])
    for part in np.array_split(np.arange(len(queries)), FLAT_QUERIES):
        turns[0].append(spent(lambda i: flat.search(queries[i : i + 1], K), part[:1]))
        turns[1].append(spent(lambda i: partitions.search(flat, queries[i : i + 1], K, probe), part))
    flat_ms, ms = (float(np.median(np.concatenate(each))) for each in turns)
    print(
        f"{facts.count} partitions, {probe} searched: recall@{K} {apart[K] + stated[K]:.4f} (stated {stated[K]:.4f});"
        f" recall@1..{K} less the stated one: {min(apart.values()):+.4f} to {max(apart.values()):+.4f}"
    )
    print(f"one query: flat {flat_ms:.2f} ms, partitions {ms:.3f} ms, {flat_ms / ms:.0f} times faster")
    memory = subprocess.run(
        [sys.executable, __file__, "--serve", str(folder)], check=True, capture_output=True, text=True
    )
    first, every = json.loads(memory.stdout)
    print(f"memory: {first:.0f} MiB more by the first query, {every:.0f} MiB by {len(queries):,}")
    compare(folder, queries, probe, flat, facts, partitions)
    if others:
        hnsw(flat.vectors, queries, farthest, flat_ms)


def compare(
    folder: Path, queries: NDArray[np.uint8], probe: int, flat: Flat, facts: PartitionFacts, partitions: Partitions
) -> None:
    """Print the speed of batches beside that of faiss's index in memory, with the same partitions."""
    coarse = faiss.IndexBinaryFlat(DIM)
    coarse.add(np.load(folder / "centroids.npy"))
    bare: Any = faiss.IndexBinaryIVF(coarse, DIM, facts.count)
    bare.is_trained = True
    for start in range(0, len(flat.vectors), 1 << 18):
        bare.add(flat.vectors[start : start + (1 << 18)])
    bare.nprobe = probe
    rates: dict[str, list[float]] = {"bare": [], "partitions": []}
    for _ in range(7):
        started = time.perf_counter()
        bare.search(queries, K)
        between = time.perf_counter()
        partitions.search(flat, queries, K, probe)
        rates["bare"].append(len(queries) / (between - started))
        rates["partitions"].append(len(queries) / (time.perf_counter() - between))
    ours, theirs = np.median(rates["partitions"]), np.median(rates["bare"])
    ms = np.median(spent(lambda i: bare.search(queries[i : i + 1], K), range(len(queries))))
    print(f"batch of {len(queries):,}: {ours:,.0f} per second, faiss IVF {theirs:,.0f}, ratio {ours / theirs:.2f}")
    print(f"one query: faiss IVF in memory {ms:.3f} ms")


def hnsw(vectors: NDArray[np.uint8], queries: NDArray[np.uint8], farthest: NDArray[np.float64], flat_ms: float) -> None:
    """Print the time of a query of faiss's HNSW, the first that has the recall, and what it costs."""
    started = time.perf_counter()
    graph: Any = faiss.IndexBinaryHNSW(DIM, 16)
    graph.hnsw.efConstruction = 80
    graph.add(np.ascontiguousarray(vectors))
    taken = time.perf_counter() - started
    size = faiss.serialize_index_binary(graph).size / len(vectors)
    for width in (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024):
        graph.hnsw.efSearch = width
        recall = (graph.search(queries, K)[0] <= farthest[:, None]).mean()
        if recall >= RECALL:
            ms = np.median(spent(lambda i: graph.search(queries[i : i + 1], K), range(len(queries))))
            print(
                f"HNSW, efSearch {width}: recall@{K} {recall:.4f}, {ms:.3f} ms, {flat_ms / ms:.0f} times faster,"
                f" built in {taken:.0f} s, {size:.0f} bytes per row"
            )
            return
    print(f"HNSW, efSearch {width}: recall@{K} only {recall:.4f}")


def main() -> None:
    """Build and measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.3], metavar="SHARE")
    parser.add_argument("--queries", type=int, default=2000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where codes are kept [default: a temporary one]")
    parser.add_argument("--others", action="store_true", help="compare with HNSW too")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_memory(options.serve, np.load(options.serve / "queries.npy"))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for noise in options.noise:
            folder = (options.folder or Path(temporary)) / f"{options.rows}-{noise:g}"
            print(f"\n{options.rows:,} codes of {DIM} bits, noise {noise:g}, seed {options.seed}", flush=True)
            taken = build(folder, options.rows, noise, options.seed)
            size = sum(file.stat().st_size for file in folder.glob("*.npy")) - (folder / "vectors.npy").stat().st_size
            print(f"partitions: {taken}, {size / options.rows:.0f} bytes per row")
            queries = codes(Structured(noise, options.seed).queries(options.queries))
            np.save(folder / "queries.npy", queries)
            measure(folder, queries, others=options.others)


if __name__ == "__main__":
    main()
