"""Measure searches of rotated codes by weights of bits beside those by Hamming distance: milliseconds and recall@20.

    python benchmarks/asymmetric.py --rows 1000000

The rows are vectors of structured.py, and the queries are no rows. A time is the median of single queries that take
turns in one process, of files in the page cache, without reading a record. Recall is that of the nearest by the cosine
of the vectors themselves.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
from rerank import space_of, structured
from structured import DIM

from rsr_cli.core.codes.base import binarize
from rsr_cli.core.codes.rotated import Rotated
from rsr_cli.core.errors import Skips
from rsr_cli.core.index.build import build
from rsr_cli.core.index.flat import unit
from rsr_cli.core.index.reading import Index

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

K = 20
LENGTHS = 768, 1024


def nearest(rows: Iterable[NDArray[np.float32]], queries: NDArray[np.float32]) -> list[NDArray[np.int64]]:
    """Return the K nearest vectors of each query by the cosine."""
    found = [np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)]
    first = 0
    for block in rows:
        near = unit(queries) @ unit(block).T
        numbers = np.broadcast_to(np.arange(first, first + len(block)), near.shape)
        near, numbers = np.concatenate([found[0], near], axis=1), np.concatenate([found[1], numbers], axis=1)
        best = np.argsort(-near, axis=1)[:, :K]
        found = [np.take_along_axis(near, best, axis=1), np.take_along_axis(numbers, best, axis=1)]
        first += len(block)
    return list(found[1])


def measure(count: int, noise: float, threads: list[int]) -> None:
    """Print a table with a row for each length of codes, number of threads and distance."""
    batches, asked = structured(count, noise)
    truth = nearest((batch.vectors for batch in batches() if batch.vectors is not None), asked.embeddings)
    print(f"{count:,} rows, {len(truth)} queries\n\n| bits | threads | | ms per query | recall@{K} |")
    print("|--:|--:|---|--:|--:|", flush=True)
    for bits in LENGTHS:
        binarizer = Rotated(space_of(DIM), bits)
        queries = {"Hamming": binarizer(asked.embeddings), "weights": binarizer.values(asked.embeddings)}
        with tempfile.TemporaryDirectory() as folder:
            sum(build(binarize(batches(), "rotated", bits, None), Path(folder) / "i.rsr", None, Skips()))
            with Index(Path(folder) / "i.rsr") as index:
                for number in threads:
                    faiss.omp_set_num_threads(number)
                    times: dict[str, list[float]] = {name: [] for name in queries}
                    recalls: dict[str, list[float]] = {name: [] for name in queries}
                    for i, right in enumerate(truth):
                        for name, all_ in queries.items():
                            began = time.perf_counter()
                            ((_, rows),) = index.search(all_[i : i + 1], K)
                            times[name].append((time.perf_counter() - began) * 1000)
                            recalls[name].append(len(np.intersect1d(rows, right)) / K)
                    for name in queries:
                        ms, recall = statistics.median(times[name]), statistics.fmean(recalls[name])
                        print(f"| {bits} | {number} | {name} | {ms:.2f} | {recall:.3f} |", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--noise", type=float, default=0.15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    measure(options.rows, options.noise, options.threads)


if __name__ == "__main__":
    main()
