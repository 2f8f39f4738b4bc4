"""Draw parts of embedded tiles, learn from them, and measure every way to store and search them by rsr commands.

    python codes.py halve IN A B --seed 0            # two random halves of the records, each in a random order
    python codes.py draw IN ROWS ASKS --seed 0       # all records in a random order, and 300 of them, to ask with
    python codes.py fit SAMPLE DIRECTORY --seed 0    # what rsr fit learns from the sample, a file per method
    python codes.py measure ROWS ASKS -o OUT.json [--fit NAME=DIRECTORY]... [--int8 FILE] [--labels] --seed 0

RSR is the command, `rsr` unless the environment states another.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

RSR = shlex.split(os.environ.get("RSR", "rsr"))
K = 20
RERANKS = 100, 400
ASKS = 300
#: Bits of the paper's short codes, and bytes of the short ones that are learned.
SHORT_BITS, SHORT_BYTES = 32, 32


class Way(NamedTuple):
    """A way to store embeddings: as what is learned (a file of `fits`) and the options of ``rsr binarize`` make them.

    Without these options, embeddings are stored in numbers of ``dtype``, and compared by ``metric``.
    """

    fit: str | None = None
    binarize: str | None = None
    metric: str = "cosine"
    dtype: str = "float32"
    asymmetric: bool = False


def ways(dim: int, seed: int) -> dict[str, Way]:
    """Return the ways to store embeddings of ``dim`` dimensions by name."""
    short = min(SHORT_BITS, 1 << (dim - 1).bit_length())
    trivial = max(bits for bits in range(1, SHORT_BITS + 1) if dim % bits == 0)
    return {
        "float32": Way(),
        "float32, L1": Way(metric="l1"),
        "float32, centred": Way("mean"),
        "float32, whitened to 64": Way("whiten"),
        "int8": Way(dtype="int8"),
        "int8, centred": Way("mean", dtype="int8"),
        "int8, whitened to 64": Way("whiten", dtype="int8"),
        "sign": Way(binarize="--method sign"),
        "rotated": Way(binarize=f"--method rotated --seed {seed}", asymmetric=True),
        "rotated, short": Way(binarize=f"--method rotated --bits {short} --seed {seed}", asymmetric=True),
        "trivial": Way(binarize=f"--method trivial --bits {trivial}"),
        "lsh": Way(binarize=f"--method lsh --bits {SHORT_BITS} --seed {seed}"),
        "centred sign": Way("mean", "--method sign", asymmetric=True),
        "centred rotated": Way("mean", f"--method rotated --seed {seed}", asymmetric=True),
        "median": Way("median", "--method sign", asymmetric=True),
        "itq": Way("itq", "--method sign", asymmetric=True),
        "pca, rotated": Way("pca", f"--method rotated --seed {seed}", asymmetric=True),
        "pq": Way("pq", ""),
        "pq, short": Way("pq-short", ""),
        "rabitq": Way("rabitq", ""),
    }


def fits(dim: int, count: int) -> dict[str, str]:
    """Return the options of ``rsr fit`` that ``count`` embeddings suffice for, by the name of the file."""
    most = min(dim, count - 1)  # directions in which the sample can vary
    options = {"mean": "--method mean", "median": "--method median", "rabitq": "--method rabitq"}
    if most >= 64:
        options["whiten"] = "--method whiten --dims 64"
    options["pca"] = f"--method pca --dims {min(8 * SHORT_BYTES, 2 ** (most.bit_length() - 1))}"
    options["itq"] = f"--method itq --bits {min(8 * SHORT_BYTES, most // 8 * 8)}"
    if count >= 256:  # the centroids of pq
        parts = [parts for parts in range(1, dim + 1) if dim % parts == 0]
        options["pq"] = f"--method pq --bits {8 * max(p for p in parts if p <= max(1, dim // 8))}"
        options["pq-short"] = (
            f"--method pq --bits {8 * max(p for p in parts if p <= min(SHORT_BYTES, max(1, dim // 16)))}"
        )
    return options


def rsr(*words: object) -> bytes:
    """Run a command, and return its stdout."""
    name, *rest = map(str, words)
    return subprocess.run([*RSR, name, "-q", *rest], check=True, stdout=subprocess.PIPE).stdout


def fit(sample: Path, directory: Path, seed: int) -> None:
    """Write a file per method of `fits` to a directory that appears when it is whole."""
    part = directory.with_name(directory.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, options in fits(*shape(sample)).items():
        rsr("fit", *options.split(), "--seed", seed, sample, "-o", part / f"{name}.safetensors")
    part.rename(directory)


def shape(path: Path) -> tuple[int, int]:
    """Return the dimensions and the number of the embeddings in a Parquet file."""
    file = pq.ParquetFile(path)
    first = next(file.iter_batches(1, columns=["embedding"]))
    return len(first.column(0)[0]), file.metadata.num_rows


def halve(path: Path, outputs: list[Path], seed: int) -> None:
    """Write each half of the records to a file. The order is random too, as hits at one distance keep it."""
    table = pq.read_table(path)
    drawn = np.random.default_rng(seed).permutation(len(table))
    for output, rows in zip(outputs, np.array_split(drawn, 2), strict=True):
        pq.write_table(table.take(rows), output)


def draw(path: Path, rows: Path, asks: Path, seed: int) -> None:
    """Write all records in a random order, and some of them."""
    table = pq.read_table(path)
    drawn = np.random.default_rng(seed).permutation(len(table))
    pq.write_table(table.take(drawn), rows)
    pq.write_table(table.take(drawn[:ASKS]), asks)


def store(way: Way, rows: Path, file: Path | None, index: Path, *, refined: bool) -> None:
    """Index rows in a way, with what was learned in ``file``, and int8 embeddings beside codes if ``refined``."""
    made, kept = index.with_name("made.parquet"), ["--with", file] if file else []
    if way.binarize is not None:
        beside, refine = (["--keep-embedding"], ["--refine", "int8", "--metric", "cosine"]) if refined else ([], [])
        rsr("binarize", *kept, *way.binarize.split(), *beside, rows, "-o", made, "--overwrite")
        rsr("index", *kept, *refine, made, "-o", index, "--overwrite")
        return
    if file:
        rsr("transform", *kept, "--dtype", way.dtype, rows, "-o", made, "--overwrite")
    rsr("index", *kept, "--metric", way.metric, made if file else rows, "-o", index, "--overwrite")


def bytes_per_row(index: Path, *names: str) -> float:
    """Return the bytes of a row in arrays of an index with one segment; arrays that are not there have none."""
    (segment,) = (index / "segments").iterdir()
    arrays = [np.load(segment / name, mmap_mode="r") for name in names if (segment / name).exists()]
    return float(sum(array.nbytes / len(array) for array in arrays))


def hits_of(run: Path) -> dict[str, set[str]]:
    """Return the ids of the hits of each query, from a TREC run."""
    found: dict[str, set[str]] = {}
    for line in run.read_text().splitlines():
        query, _, item = line.split()[:3]
        found.setdefault(query, set()).add(item)
    return found


def measure(rows: Path, asks: Path, fitted: dict[str, Path], int8: Path | None, labels: bool, seed: int) -> dict:
    """Return for each way to store and search the rows what each query finds, the queries in the order of their ids."""
    dim, count = shape(rows)
    exact: dict[str, set[str]] = {}
    results = []

    def ask(index: Path, *options: object, **facts: object) -> None:
        """Ask an index, and add the result."""
        run = index.with_name("hits.run")
        rsr("query", index, asks, "--exclude-self", "-k", K, *options, "-o", run, "--overwrite")
        hits = hits_of(run)
        exact.update({} if exact else hits)  # the first way is that to compare with
        queries = sorted(exact)
        values = {"recall@20": [len(hits[query] & exact[query]) / len(exact[query]) for query in queries]}
        if labels:
            scored = rsr("score", run, "--truth", rows, "--exclude-self", "--metrics", "map@20,p@20",
                         "--per-query", "--format", "jsonl")  # fmt: skip
            of = {line["query"]: line for line in map(json.loads, scored.splitlines())}
            values |= {metric: [of[query][metric] for query in queries] for metric in ("map@20", "p@20")}
        results.append(facts | values)

    def ask_all(name: str, way: Way, source: str | None, file: Path | None) -> None:
        """Store the rows in one way, and ask in all ways."""
        with tempfile.TemporaryDirectory() as folder:
            index = Path(folder) / "i.rsr"
            store(way, int8 if int8 and name == "int8" else rows, file, index, refined=True)
            facts = {"way": name, "fit": source, "asked": "default", "rerank": 0}
            facts["bytes"] = bytes_per_row(index, "vectors.npy", *["scales.npy"] * (way.binarize is None))
            ask(index, **facts)
            if way.binarize is None:
                return
            if way.asymmetric:
                ask(index, "--symmetric", **facts | {"asked": "symmetric"})
            facts["bytes"] = bytes_per_row(index, "vectors.npy", "refine.npy", "scales.npy")
            for n in RERANKS:
                if n < count - 1:  # or all others are ranked, and the codes are of no use
                    ask(index, "--rerank", n, **facts | {"rerank": n})

    for name, way in ways(dim, seed).items():
        if way.fit is None and (way.dtype == "float32" or int8):
            ask_all(name, way, None, None)
        for source, directory in fitted.items():
            if way.fit and (file := directory / f"{way.fit}.safetensors").exists():
                ask_all(name, way, source, file)
    return {"dim": dim, "count": count, "ids": sorted(exact), "results": results}


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, files in (("halve", "in a b"), ("draw", "in rows asks"), ("fit", "sample out"), ("measure", "rows asks")):
        command = commands.add_parser(name)
        for file in files.split():
            command.add_argument(file, type=Path)
        command.add_argument("--seed", type=int, default=0)
    command.add_argument("-o", "--output", type=Path, required=True)
    command.add_argument("--fit", metavar="NAME=DIRECTORY", action="append", default=[])
    command.add_argument("--int8", type=Path, help="the rows, embedded with --dtype int8")
    command.add_argument("--labels", action="store_true", help="score by labels too")
    options = vars(parser.parse_args())
    match options["command"]:
        case "halve":
            halve(options["in"], [options["a"], options["b"]], options["seed"])
        case "draw":
            draw(options["in"], options["rows"], options["asks"], options["seed"])
        case "fit":
            fit(options["sample"], options["out"], options["seed"])
        case "measure":
            fitted = {name: Path(path) for name, path in (each.split("=", 1) for each in options["fit"])}
            asked = options["rows"], options["asks"], fitted, options["int8"], options["labels"], options["seed"]
            options["output"].write_text(json.dumps(measure(*asked)))


if __name__ == "__main__":
    main()
