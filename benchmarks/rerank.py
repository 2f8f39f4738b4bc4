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
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np

from rsr_cli.core.codes.base import binarize
from rsr_cli.core.codes.registry import binarizer_class
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

    from rsr_cli.core.index.flat import Found

K = 20
SHORTLISTS = (50, 100, 1000)
DTYPES = ("float32", "float16", "int8")
QUERIES = 100


class Asked(NamedTuple):
    """What is asked: embeddings (n, dim), rows that are no hits of each, and which rows are relevant, (n, rows)."""

    embeddings: NDArray[np.float32]
    without: list[NDArray[np.int64]] | None = None
    relevant: NDArray[np.bool_] | None = None


def compare(batches: Callable[[], Iterable[Batch]], asked: Asked, metric: str) -> None:
    """Print a table of all ways to search."""
    n_queries, dim = asked.embeddings.shape
    signs, rotated = (binarizer_class(method)(space_of(dim), dim) for method in ("sign", "rotated"))
    gone = asked.without or [np.empty(0, np.int64)] * n_queries
    wanted = K + max(map(len, gone))
    truth: list[NDArray[np.int64]] = []
    lines: list[str] = []

    def add(what: str, bytes_: float, search: Callable[[], Iterable[NDArray[np.int64]]]) -> None:
        """Add a line of the table: search for at least K rows of each query that may be hits."""
        began = time.perf_counter()
        found = list(search())
        taken = (time.perf_counter() - began) / n_queries * 1000
        found = [rows[~np.isin(rows, each)][:K] for rows, each in zip(found, gone, strict=True)]
        truth.extend(() if truth else found)
        shared = [len(np.intersect1d(mine, right)) / len(right) for mine, right in zip(found, truth, strict=True)]
        quality = "" if asked.relevant is None else f" {mean_precision(found, asked.relevant):.3f} |"
        lines.append(f"| {what} | {bytes_:,.0f} | {taken:.2f} | {np.mean(shared):.3f} |{quality}")

    def once(index: Index, queries: NDArray[Any]) -> Callable[[], Iterable[NDArray[np.int64]]]:
        """Return a search for hits."""
        return partial(rows_of, index.search, queries, K, without=asked.without)

    def again(index: Index, queries: NDArray[Any], n: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of shortlists, ranked again."""
        found = index.search(queries, n, without=asked.without)
        for embedding, (_, shortlist) in zip(asked.embeddings, found, strict=True):
            rows = np.sort(shortlist)
            yield ranked(index.remeasure(embedding, rows), rows)[1]

    values = rotated.values(asked.embeddings)
    for dtype in DTYPES:
        with made(batches, "rotated", metric, dtype) as (index, sizes, count):
            beside = sum(sizes.get(name, 0) for name in ("refine.npy", "scales.npy"))
            codes = sizes["vectors.npy"] + sizes.get("scan.npy", 0)
            if dtype == "float32":
                (file,) = index.path.glob("segments/*/refine.npy")
                stored = np.load(file, mmap_mode="r")
                longest = max(np.linalg.norm(stored[i : i + 4096], axis=1).max() for i in range(0, count, 4096))
                flat = Flat(stored, metric, float(longest) * 1.001)
                add("embeddings, float32, exactly", beside, partial(rows_of, flat.search, asked.embeddings, wanted))
                add("codes, `--symmetric`", sizes["vectors.npy"], once(index, rotated(asked.embeddings)))
                add("codes", codes, once(index, values))
            for n in SHORTLISTS:
                add(f"codes, {n} again by {dtype}", codes + beside, partial(again, index, values, n))
    with made(batches, "sign", metric, None) as (index, sizes, count):
        codes = signs(asked.embeddings)
        add("signs", sizes["vectors.npy"], once(index, codes))
        add("signs, all by weights of bits", sizes["vectors.npy"], once(index, asked.embeddings))
        for n in SHORTLISTS:
            add(f"signs, {n} again by weights of bits", sizes["vectors.npy"], partial(again, index, codes, n))
    threads = faiss.omp_get_max_threads()
    print(f"\n{metric}, {n_queries} queries of {count:,} rows, {threads} thread(s)")
    print(f"\n| | bytes per row | ms per query | recall@{K} |{'' if asked.relevant is None else f' map@{K} |'}")
    print(f"|---|--:|--:|--:|{'' if asked.relevant is None else '--:|'}")
    print("\n".join(lines))


@contextmanager
def made(
    batches: Callable[[], Iterable[Batch]], method: str, metric: str, refine: str | None
) -> Iterator[tuple[Index, dict[str, float], int]]:
    """Build an index of codes, and yield it with the bytes per row of each file, and its rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "i.rsr"
        codes = binarize(batches(), method, None, None, keep_embedding=True)
        count = sum(build(codes, path, metric, Skips(), refine=refine))
        with Index(path) as index:
            (segment,) = index.segments
            yield index, {name: facts["size"] / count for name, facts in segment.facts.files.items()}, count


def rows_of(search: Callable[..., list[Found]], *arguments: Any, **limits: Any) -> list[NDArray[np.int64]]:
    """Return the rows that a search finds."""
    return [rows for _, rows in search(*arguments, **limits)]


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
    compare(batches, asked, options.metric)


if __name__ == "__main__":
    main()
