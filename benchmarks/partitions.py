"""Compare single queries and batches in partitions with the exact search and with bare faiss, on structured codes.

    python benchmarks/partitions.py [--rows 10000000] [--noise 0.1 0.3] [--others]
    python benchmarks/partitions.py --embeddings --rows 1000000

Each noise is a set of codes of `structured.py`, or of embeddings, which are compared by Euclidean distance, written
once below ``--folder``. What is searched is mapped; one thread searches, unless OMP_NUM_THREADS says otherwise. The
time of a flat query and that of a query in partitions are medians of queries that take turns. Memory is the growth of a
fresh process by its first query and by all of them. ``--others`` builds faiss's HNSW too, which takes minutes per
million rows.
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
from rsr_cli.core.index.partitions import CENTROIDS, GRID, PartitionFacts, Partitions, partitions_of, write_partitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

K = 20
RECALL = 0.98
FLAT_QUERIES = 50
AT_ONCE = 1 << 16


def build(folder: Path, rows: int, noise: float, seed: int, *, embeddings: bool) -> str:
    """Write vectors and their partitions, unless they are there, and return how long the partitions took."""
    if not (folder / "vectors.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "vectors.npy", rows, noise, seed, floats=embeddings)
    if not (folder / "facts.json").exists():
        vectors = np.asarray(np.load(folder / "vectors.npy", mmap_mode="r"))
        longest = 0.0
        for start in range(0, rows if embeddings else 0, AT_ONCE):
            longest = max(longest, np.linalg.norm(vectors[start : start + AT_ONCE].astype(float), axis=1).max())
        started = time.perf_counter()
        flat = Flat(vectors, "l2" if embeddings else HAMMING, longest)
        facts = write_partitions(folder, flat, partitions_of(rows), seed)
        taken = f"{time.perf_counter() - started:.0f} s with {faiss.omp_get_max_threads()} threads"
        known = {"taken": taken, "flat": [flat.metric, longest], "partitions": asdict(facts)}
        (folder / "facts.json").write_text(json.dumps(known))
    return str(json.loads((folder / "facts.json").read_text())["taken"])


def opened(folder: Path) -> tuple[Flat, PartitionFacts, Partitions]:
    """Open what was built."""
    vectors = np.asarray(np.load(folder / "vectors.npy", mmap_mode="r"))
    known = json.loads((folder / "facts.json").read_text())
    flat, facts = Flat(vectors, *known["flat"]), PartitionFacts.of(known["partitions"])
    return flat, facts, Partitions(folder, facts.count, vectors, flat.metric)


def resident_mb() -> float:
    """Return the resident memory of this process, files that are mapped included, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def serve_memory(folder: Path, queries: NDArray[Any]) -> None:
    """Print how much the memory of this process grows by a first query, and by all."""
    Flat(queries, HAMMING if queries.dtype == np.uint8 else "l2", 0.0).search(queries[:1], 1)  # what faiss itself takes
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


def measure(folder: Path, queries: NDArray[Any], *, others: bool) -> None:
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
    folder: Path, queries: NDArray[Any], probe: int, flat: Flat, facts: PartitionFacts, partitions: Partitions
) -> None:
    """Print the speed of batches beside that of faiss's index in memory, with the same partitions."""
    bare: Any
    centroids = np.load(folder / CENTROIDS)
    if flat.metric == HAMMING:
        coarse = faiss.IndexBinaryFlat(DIM)
        bare = faiss.IndexBinaryIVF(coarse, DIM, facts.count)
    else:
        origin, step = np.load(folder / GRID)
        centroids = (centroids * step + origin).astype(np.float32)
        coarse = faiss.IndexFlatL2(DIM)
        bare = faiss.IndexIVFFlat(coarse, DIM, facts.count, faiss.METRIC_L2)
    coarse.add(centroids)
    bare.is_trained = True
    for start in range(0, len(flat.vectors), AT_ONCE):
        bare.add(flat.vectors[start : start + AT_ONCE])
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


def hnsw(vectors: NDArray[Any], queries: NDArray[Any], farthest: NDArray[np.float64], flat_ms: float) -> None:
    """Print the time of a query of faiss's HNSW, the first that has the recall, and what it costs."""
    started = time.perf_counter()
    is_code = vectors.dtype == np.uint8
    graph: Any = (faiss.IndexBinaryHNSW if is_code else faiss.IndexHNSWFlat)(DIM, 16)
    graph.hnsw.efConstruction = 80
    graph.add(np.ascontiguousarray(vectors))
    taken = time.perf_counter() - started
    size = (faiss.serialize_index_binary if is_code else faiss.serialize_index)(graph).size / len(vectors)
    for width in (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024):
        graph.hnsw.efSearch = width
        near = graph.search(queries, K)[0]
        # of embeddings, squares that were rounded to float32
        recall = ((near if is_code else np.sqrt(near) * (1 - 1e-5)) <= farthest[:, None]).mean()
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
    parser.add_argument("--embeddings", action="store_true", help="in place of codes")
    parser.add_argument("--others", action="store_true", help="compare with HNSW too")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_memory(options.serve, np.load(options.serve / "queries.npy"))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for noise in options.noise:
            kind = f"embeddings of {DIM} dimensions" if options.embeddings else f"codes of {DIM} bits"
            folder = (options.folder or Path(temporary)) / f"{options.rows}-{noise:g}-{kind[0]}"
            print(f"\n{options.rows:,} {kind}, noise {noise:g}, seed {options.seed}", flush=True)
            taken = build(folder, options.rows, noise, options.seed, embeddings=options.embeddings)
            size = sum(file.stat().st_size for file in folder.glob("*.npy")) - (folder / "vectors.npy").stat().st_size
            print(f"partitions: {taken}, {size / options.rows:.0f} bytes per row")
            queries = Structured(noise, options.seed).queries(options.queries)
            queries = queries if options.embeddings else codes(queries)
            np.save(folder / "queries.npy", queries)
            measure(folder, queries, others=options.others)


if __name__ == "__main__":
    main()
