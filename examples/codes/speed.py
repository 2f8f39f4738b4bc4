"""Time the search of every way to store embeddings: milliseconds per query of one thread.

    python speed.py EMBEDDED FITTED -o speed.json --rows 100000

EMBEDDED is a Parquet file of tiles, and FITTED what `codes.py fit` learned from it or another. The rows are mixtures of
two of its embeddings each, drawn at random, so that they are as alike as embeddings and no two are the same; the 50
queries are too. A time is the median of single queries in one process, in which all ways take turns, of files in the
page cache, without reading or writing a record: of the search alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from codes import RERANKS, K, store, ways

from rsr_cli.core.errors import Skips
from rsr_cli.core.index.flat import ranked
from rsr_cli.core.index.reading import Index
from rsr_cli.core.records import streams
from rsr_cli.core.search.queries import Queries, asked

if TYPE_CHECKING:
    from collections.abc import Callable

QUERIES, ROUNDS = 50, 3


def mix(path: Path, count: int, output: Path) -> None:
    """Write ``count`` records with mixtures of the embeddings of a file."""
    random = np.random.default_rng(0)
    table = pq.read_table(path, columns=["embedding", "embedding_space"])
    embeddings = np.stack(table["embedding"].to_numpy()).astype(np.float32)
    space = table["embedding_space"].combine_chunks()
    dim, size = embeddings.shape[1], 10_000
    schema = pa.schema(
        [("id", pa.string()), ("embedding", pa.list_(pa.float32(), dim)), ("embedding_space", space.type)]
    )
    with pq.ParquetWriter(output, schema) as writer:
        for first in range(0, count, size):
            n = min(size, count - first)
            share = random.uniform(size=(n, 1)).astype(np.float32)
            one, other = embeddings[random.integers(len(embeddings), size=(2, n))]
            made = pa.FixedSizeListArray.from_arrays(pa.array((share * one + (1 - share) * other).ravel()), dim)
            ids = pa.array([f"{output.stem}{row}" for row in range(first, first + n)])
            writer.write_table(pa.table([ids, made, space.take(pa.array(np.zeros(n, int)))], schema=schema))


def times(searches: dict[tuple[str, str], list[Callable[[], object]]]) -> dict[tuple[str, str], float]:
    """Return the median milliseconds of the searches of each way; all ways take turns, after a round that warms up."""
    taken: dict[tuple[str, str], list[float]] = {way: [] for way in searches}
    for round_ in range(1 + ROUNDS):
        for way, each in searches.items():
            for search in each:
                began = time.perf_counter()
                search()
                if round_:
                    taken[way].append((time.perf_counter() - began) * 1000)
    return {way: statistics.median(each) for way, each in taken.items()}


def again(index: Index, values: np.ndarray, fine: np.ndarray, n: int) -> object:
    """Search for a shortlist and rank it by the embeddings beside the codes."""
    ((_, shortlist),) = index.search(values, n)
    rows = np.sort(shortlist)
    return ranked(index.remeasure(fine, rows), rows)


def measure(embedded: Path, fitted: Path, count: int) -> list[dict[str, object]]:
    """Return the milliseconds of each way to store and to ask."""
    searches: dict[tuple[str, str], list[Callable[[], object]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        place = Path(folder)
        rows, asks = place / "row.parquet", place / "ask.parquet"
        mix(embedded, count, rows)
        mix(embedded, QUERIES, asks)
        dim = len(pq.read_table(asks)["embedding"][0])
        for number, (name, way) in enumerate(ways(dim, seed=0).items()):
            # Embeddings that are written as int8 at once are searched as those that are centred before.
            file = fitted / f"{'mean' if name == 'int8' else way.fit}.safetensors"
            if way.fit and not file.exists():
                continue
            refined = name == "sign"  # what ranking again adds does not depend on the code
            path = place / f"{number}.rsr"
            store(way, rows, file if file.exists() else None, path, refined=refined)
            index = opened.enter_context(Index(path))
            for how in ("default", "symmetric") if way.asymmetric else ("default",):
                queries = Queries(index, Skips(), symmetric=how == "symmetric", fine=refined)
                read = streams.read([str(asks)], Skips(), queries.kinds)
                items = [item for some in queries.batches(read) for item in some]
                searches[name, how] = [partial(index.search, asked([item]), K) for item in items]
            for n in RERANKS if refined else ():
                searches[name, f"{n}"] = [partial(again, index, asked([item]), item.fine, n) for item in items]
        found = times(searches)
    return [{"way": name, "asked": how, "ms": round(ms, 3)} for (name, how), ms in found.items()]


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedded", type=Path)
    parser.add_argument("fitted", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    found = measure(options.embedded, options.fitted, options.rows)
    options.output.write_text(json.dumps({"rows": options.rows, "times": found}))


if __name__ == "__main__":
    main()
