"""Measure what ranking a shortlist of codes again gains and costs: recall@20, map@20, bytes and time.

    python benchmarks/rerank.py eurosat EUROSAT_MS  # a folder per class; rcf embeds it, every chip asks for the others
    python benchmarks/rerank.py rows 1000000        # vectors of structured.py, and 100 queries that are no rows

Recall is that of the 20 nearest by the embeddings themselves, exactly searched.
A time is that per query of all queries in one batch, with the threads that OMP_NUM_THREADS states, and without reading
or writing a record: of the search for the shortlist, and of ranking it again. Files are in the page cache. A million
rows take up to 4 GB below TMPDIR.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import faiss
import numpy as np

from rsr_cli.core.codes.base import binarize
from rsr_cli.core.codes.sign import Sign
from rsr_cli.core.errors import Skips
from rsr_cli.core.index.build import build
from rsr_cli.core.index.flat import Flat, ranked
from rsr_cli.core.index.reading import Index
from rsr_cli.core.records import streams
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

K = 20
SHORTLISTS = (50, 100, 1000)
DTYPES = ("float32", "float16", "int8")
QUERIES = 100
#: Rows of the full scan by weights of bits, which takes long.
SCANNED = 100_000


class Asked(NamedTuple):
    """What is asked: embeddings (n, dim), rows that are no hits of each, and which rows are relevant, (n, rows)."""

    embeddings: NDArray[np.float32]
    without: list[NDArray[np.int64]] | None = None
    relevant: NDArray[np.bool_] | None = None


def compare(batches: Callable[[], Iterable[Batch]], asked: Asked, metric: str, shortlists: Iterable[int]) -> None:
    """Print a table of all ways to search."""
    truth: list[NDArray[np.int64]] = []
    lines: list[str] = []

    def add(what: str, bytes_: float, milliseconds: float, found: list[NDArray[np.int64]]) -> None:
        shared = [len(np.intersect1d(mine, right)) / len(right) for mine, right in zip(found, truth, strict=True)]
        quality = "" if asked.relevant is None else f" {mean_precision(found, asked.relevant):.3f} |"
        lines.append(f"| {what} | {bytes_:,.0f} | {milliseconds:.2f} | {np.mean(shared):.3f} |{quality}")

    for dtype in (*DTYPES, None):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "i.rsr"
            made = binarize(batches(), "sign", None, None, keep_embedding=True)
            sum(build(made, path, metric, Skips(), refine=dtype))
            with Index(path) as index:
                (segment,) = index.segments
                binarizer = Sign(space_of(asked.embeddings.shape[1]))
                codes = binarizer(asked.embeddings)
                sizes = {name: facts["size"] / segment.count for name, facts in segment.facts.files.items()}
                beside = sum(sizes.get(name, 0) for name in ("refine.npy", "scales.npy"))
                if dtype == "float32":
                    stored = segment.refined.arrays[0]
                    longest = max(
                        np.linalg.norm(stored[i : i + 4096], axis=1).max() for i in range(0, len(stored), 4096)
                    )
                    flat, most = Flat(stored, metric, float(longest) * 1.001), max(map(len, asked.without or [[]]))
                    began = time.perf_counter()
                    exact = flat.search(asked.embeddings, K + most)
                    taken = (time.perf_counter() - began) / len(codes) * 1000
                    gone = asked.without or [np.empty(0, np.int64)] * len(codes)
                    truth += [rows[~np.isin(rows, each)][:K] for (_, rows), each in zip(exact, gone, strict=True)]
                    add("embeddings, float32, exact", beside, taken, truth)
                if dtype is None:
                    began = time.perf_counter()
                    found = index.search(codes, K, without=asked.without)
                    taken = (time.perf_counter() - began) / len(codes) * 1000
                    add("codes", sizes["vectors.npy"], taken, [rows for _, rows in found])
                for n in shortlists:
                    began = time.perf_counter()
                    found = index.search(codes, n, without=asked.without)
                    again = [
                        ranked(index.remeasure(one, np.sort(rows)), np.sort(rows))[1][:K]
                        for one, (_, rows) in zip(asked.embeddings, found, strict=True)
                    ]
                    taken = (time.perf_counter() - began) / len(codes) * 1000
                    what = f"{n} by {dtype}" if dtype else f"{n} by weights of bits"
                    add(what, sizes["vectors.npy"] + beside, taken, again)
                if dtype is None:
                    print(f"a million rows by weights of bits: {scanned(segment.vectors, asked):.1f} ms per query")
    threads = faiss.omp_get_max_threads()
    print(f"\n{metric}, {len(asked.embeddings)} queries of {segment.count:,} rows, {threads} thread(s)")
    print(f"\n| | bytes per row | ms per query | recall@{K} |{'' if asked.relevant is None else f' map@{K} |'}")
    print(f"|---|--:|--:|--:|{'' if asked.relevant is None else '--:|'}")
    print("\n".join(lines))


def scanned(codes: NDArray[np.uint8], asked: Asked) -> float:
    """Return the milliseconds that faiss takes for a query of a million codes by a table of weights per byte."""
    patterns = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1
    tables = faiss.ProductQuantizer(codes.shape[1] * 8, codes.shape[1], 8)
    faiss.copy_array_to_vector(np.tile(patterns, (codes.shape[1], 1)).ravel(), tables.centroids)
    some, heaps = np.ascontiguousarray(codes[:SCANNED]), faiss.float_maxheap_array_t()
    queries = asked.embeddings[:10]
    distances, rows = np.empty((len(queries), K), np.float32), np.empty((len(queries), K), np.int64)
    heaps.nh, heaps.k, heaps.val, heaps.ids = len(queries), K, faiss.swig_ptr(distances), faiss.swig_ptr(rows)
    began = time.perf_counter()
    tables.search(faiss.swig_ptr(queries), len(queries), faiss.swig_ptr(some), len(some), heaps, True)
    return (time.perf_counter() - began) / len(queries) * 1000 * 1e6 / len(some)


def mean_precision(found: list[NDArray[np.int64]], relevant: NDArray[np.bool_]) -> float:
    """Return map@20 as the paper defines it: the precisions at relevant ranks, divided by their number."""
    scores = []
    for rows, right in zip(found, relevant, strict=True):
        hits = right[rows]
        precisions = hits.cumsum() / np.arange(1, len(hits) + 1)
        scores.append(precisions[hits].mean() if hits.any() else 0.0)
    return float(np.mean(scores))


def space_of(dim: int) -> Space:
    """Return the space of vectors that no model made."""
    return Space("embedding", dim, "float32", "structured")


def eurosat(folder: Path) -> tuple[Callable[[], Iterable[Batch]], Asked]:
    """Embed the chips, and let each ask for the others."""
    with tempfile.TemporaryDirectory() as place:
        embedded = Path(place) / "chips.geojsonl"
        rsr = [sys.executable, "-m", "rsr_cli.main"]
        tiles = [*rsr, "tile", "--whole", "--labels-from-parent", "--sensor", "eurosat", folder]
        with subprocess.Popen(tiles, stdout=subprocess.PIPE) as tiling:
            subprocess.run([*rsr, "embed", "--model", "rcf", "-o", embedded], stdin=tiling.stdout, check=True)
        read = list(streams.read([str(embedded)], Skips(), ("embedding",)))
    vectors = np.concatenate([batch.vectors for batch in read])
    labels = np.array([record["properties"]["labels"][0] for batch in read for record in batch.records])
    lines = [record for batch in read for record in batch.records]
    asked = Asked(vectors, [np.array([row]) for row in range(len(vectors))], labels[:, None] == labels)
    return lambda: [Batch("chips", range(1, len(lines) + 1), lines, vectors, space_of(vectors.shape[1]))], asked


def structured(count: int, noise: float) -> tuple[Callable[[], Iterable[Batch]], Asked]:
    """Draw vectors that lie as embeddings do."""
    from structured import Structured

    drawn = Structured(noise)

    def batches() -> Iterator[Batch]:
        first = 0
        for block in drawn.rows(count):
            records = [
                {"type": "Feature", "id": first + i, "geometry": None, "properties": {}} for i in range(len(block))
            ]
            yield Batch("rows", range(first + 1, first + len(block) + 1), records, block, space_of(block.shape[1]))
            first += len(block)

    return batches, Asked(drawn.queries(QUERIES))


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["eurosat", "rows"])
    parser.add_argument("where", help="the folder of EuroSAT, or the number of rows")
    parser.add_argument("--metric", choices=["l1", "l2", "cosine", "dot"], default="cosine")
    parser.add_argument("--noise", type=float, default=0.3)
    options = parser.parse_args()
    if options.what == "eurosat":
        batches, asked = eurosat(Path(options.where))
    else:
        batches, asked = structured(int(options.where), options.noise)
    compare(batches, asked, options.metric, SHORTLISTS)


if __name__ == "__main__":
    main()
