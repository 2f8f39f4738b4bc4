"""Time single queries as the paper (Blumenstiel et al. 2024) does, with rsr, bare faiss and a running Milvus.

    python benchmarks/paper_speed.py [--milvus-python .venv-milvus/bin/python] [--json FILE]

A thousand single queries, one after the other, for 20 neighbours among 10,000, 50,000 and 100,000 rows of floats
(768-d, L2), binary embeddings (768 bits) and trivial hashes (32 bits). Every contender is a fresh process that only
opens what was built and searches. They take turns, some queries each, so that a slow spell of the machine affects all.

Milvus needs an environment of its own, which ``make bench-paper`` creates, or

    python3.11 -m venv .venv-milvus && .venv-milvus/bin/pip install -r benchmarks/milvus-requirements.txt

Its server runs in a network namespace whose only interface is the loopback; unshare(1) must be allowed to create it.
Without ``--milvus-python``, only rsr and faiss are measured.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import orjson
from paper_milvus import serve, stop

from rsr_cli.core.codes.registry import binarizer_class
from rsr_cli.core.errors import Skips
from rsr_cli.core.index.build import build
from rsr_cli.core.index.reading import Index
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.jsonl import take_vectors
from rsr_cli.core.records.space import KINDS, Space, StreamSpace
from rsr_cli.core.records.streams import read
from rsr_cli.core.search.ask import Searcher
from rsr_cli.core.search.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

DIM = 768
K = 20
#: Name -> method and bits of the code, or None for the floats.
DATA: dict[str, tuple[str, int] | None] = {
    "float-768": None,
    "binary-768": ("sign", 768),
    "hash-32": ("trivial", 32),
}
#: Number of directions in which the floats vary most: in data without structure, an index of clusters finds nothing.
HIDDEN_DIM = 16
NOISE = 0.5
FINGERPRINT = "0" * 16
#: Relative difference within which two distances between floats count as equal.
TOLERANCE = 1e-5
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes
    ----------
    name : str
        Its name in the table.
    process : str
        The process that answers; ``milvus`` answers for several contenders.
    ask : str
        Name of the function that answers, see `paper_milvus.serve`.
    threads : int or None
        Number of OpenMP threads; ``None`` leaves it to OpenMP.
    files : str
        File or directory that was built for it, in the cell's directory.
    """

    name: str
    process: str
    ask: str = "search"
    threads: int | None = 1
    files: str = ""


RSR = Contender("rsr", "rsr", files="rsr")
RSR_HITS = Contender("rsr, hits as JSON", "hits", files="rsr")
RSR_THREADS = Contender("rsr, its own threads", "rsr", threads=None, files="rsr")
FLAT = Contender("faiss flat", "flat", files="flat.faiss")
FLAT_THREADS = Contender("faiss flat, its own threads", "flat", threads=None, files="flat.faiss")
IVF = Contender("faiss IVF", "ivf", files="ivf.faiss")
MILVUS = Contender("Milvus IVF", "milvus", "all")
MILVUS_FEW = Contender("Milvus, 20 rows", "milvus", "few")
MILVUS_EMPTY = Contender("Milvus, no search", "milvus", "version")
LOCAL = (RSR, RSR_HITS, RSR_THREADS, FLAT, FLAT_THREADS, IVF)
SERVED = (MILVUS, MILVUS_FEW, MILVUS_EMPTY)


@dataclass
class Row:
    """The numbers of one contender in one cell; ``None`` if not measured or meaningless."""

    data: str
    rows: int
    name: str
    median_ms: float
    p90_ms: float
    recall: float | None
    memory_mb: float | None
    disk_mb: float | None
    build_s: float | None


# Data ----------------------------------------------------------------------------------------------------------------


def embeddings(n: int, seed: int) -> NDArray[np.float32]:
    """Draw vectors (n, DIM) that vary mostly in HIDDEN_DIM directions; all of them depend on n."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((HIDDEN_DIM, DIM), dtype=np.float32)
    vectors = rng.standard_normal((n, HIDDEN_DIM), dtype=np.float32) @ directions
    vectors += NOISE * rng.standard_normal((n, DIM), dtype=np.float32)
    return vectors


def encoded(data: str, vectors: NDArray[np.float32]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return the vectors to index, and the property of a record that describes them, without its data."""
    code = DATA[data]
    space = Space("embedding", DIM, "float32", FINGERPRINT, {"model": "random"})
    if code is None:
        return vectors, space.as_property()
    binarizer = binarizer_class(code[0])(space, code[1])
    return binarizer(vectors), binarizer.space.as_property()


def lines(vectors: NDArray[Any], head: dict[str, Any]) -> Iterator[bytes]:
    """Yield vectors as the records of a scene's tiles, whose ids are their rows."""
    kind = "code" if vectors.dtype == np.uint8 else "embedding"
    for i, vector in enumerate(vectors):
        west, south = round(i % 1000 * 0.003, 7), round(i // 1000 * 0.002, 7)
        east, north = round(west + 0.003, 7), round(south + 0.002, 7)
        record = {
            "type": "Feature",
            "id": str(i),
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[west, north], [west, south], [east, south], [east, north], [west, north]]],
            },
            "bbox": [west, south, east, north],
            "properties": {
                "source": "scene.tif",
                "window": [i % 1000 * 224, i // 1000 * 224, 224, 224],
                "bands": ["blue", "green", "red", "nir08", "swir16", "swir22"],
                "labels": [f"c{i % 10}"],
                kind: {**head, "data": base64.b64encode(vector.tobytes()).decode()},
            },
        }
        yield orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def write_cell(folder: Path, database: NDArray[Any], queries: NDArray[Any], head: dict[str, Any]) -> None:
    """Write vectors and queries, as arrays and as records."""
    for stem, records, vectors in (("vectors", "in", database), ("queries", "queries", queries)):
        np.save(folder / f"{stem}.npy", vectors)
        with (folder / f"{records}.geojsonl").open("wb") as file:
            file.writelines(lines(vectors, head))


# Building ------------------------------------------------------------------------------------------------------------


def build_rsr(folder: Path) -> None:
    """Build an index from JSON lines, as ``rsr index`` does."""
    metric = None if is_code(folder) else "l2"
    for _ in build(read([str(folder / "in.geojsonl")], Skips(), KINDS), folder / "rsr", metric, Skips()):
        pass


def build_faiss(folder: Path, nlist: int | None) -> None:
    """Write a flat faiss index, or an IVF with ``nlist`` lists."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    size = vectors.shape[1]
    index: Any
    if is_code(folder):
        index = faiss.IndexBinaryFlat(size * 8)
        index = index if nlist is None else faiss.IndexBinaryIVF(index, size * 8, nlist)
    else:
        index = faiss.IndexFlatL2(size)
        index = index if nlist is None else faiss.IndexIVFFlat(index, size, nlist, faiss.METRIC_L2)
    index.train(vectors)
    index.add(vectors)
    write = faiss.write_index_binary if is_code(folder) else faiss.write_index
    write(index, str(folder / ("flat.faiss" if nlist is None else "ivf.faiss")))


def is_code(folder: Path) -> bool:
    """Return whether a cell's vectors are codes."""
    return np.load(folder / "queries.npy", mmap_mode="r").dtype == np.uint8


def disk_mb(path: Path) -> float:
    """Return the disk space of a file, or of everything in a directory, in MiB."""
    return sum(file.lstat().st_blocks for file in (path, *path.rglob("*"))) * 512 / 2**20


# The processes that search -------------------------------------------------------------------------------------------


def serve_local(process: str, folder: Path, nprobe: int) -> None:
    """Open what was built for a process, and answer queries."""
    queries = np.load(folder / "queries.npy")
    if process == "rsr":
        with Index(folder / "rsr") as opened:
            serve({"search": lambda query: opened.search(query[None], K)[0][1]}, queries)
    elif process == "hits":
        with Index(folder / "rsr") as opened:
            searcher = Searcher(Scope(opened), K, exclude_self=False, skips=Skips())

            def hits(line: bytes) -> list[bytes]:
                batch = Batch("queries", [1], [orjson.loads(line)])
                take_vectors(batch, StreamSpace(searcher.queries.kinds), Skips())
                return next(searcher.by_record([batch]))

            asked = (folder / "queries.geojsonl").read_bytes().splitlines()
            serve({"search": hits}, asked, rows_of=lambda found: (orjson.loads(hit)["id"] for hit in found))
    else:
        name = str(folder / f"{process}.faiss")
        index = faiss.read_index_binary(name) if is_code(folder) else faiss.read_index(name)
        if process == "ivf":
            index.nprobe = nprobe
        serve({"search": lambda query: index.search(query[None], K)[1][0]}, queries)


class Worker:
    """A process that answers lines, in a session of its own; it ends when this process does, for whatever reason."""

    def __init__(self, command: Sequence[str], threads: int | None = None) -> None:
        environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                self._process.terminate()
            self._process.communicate(timeout=30)  # closes its stdin, which ends it
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def answer(self, order: dict[str, Any] | None = None) -> Any:
        """Send an order, if any, and return the next line of the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if order is not None:
            self._process.stdin.write(orjson.dumps(order) + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"paper_speed.py: {' '.join(self._process.args)} has ended")  # type: ignore[arg-type]
        return orjson.loads(line)


def isolated(python: str, *arguments: str) -> list[str]:
    """Return the command that runs Milvus's Python with the loopback as its only interface."""
    return ["unshare", "--map-root-user", "--net", python, *arguments]


# Measuring -----------------------------------------------------------------------------------------------------------


def measure(data: str, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Build a cell, let all contenders search in turn, and yield the row of each."""
    count = len(np.load(folder / "vectors.npy", mmap_mode="r"))
    milvus_base = folder.parent / "milvus"  # all cells share the server's unpacked binary
    built = {
        RSR.files: seconds(lambda: build_rsr(folder)),
        FLAT.files: seconds(lambda: build_faiss(folder, None)),
        IVF.files: seconds(lambda: build_faiss(folder, options.nlist)),
    }
    milvus = [str(HERE / "paper_milvus.py"), "{}", str(folder), str(milvus_base)]
    if options.milvus_python:
        shutil.rmtree(milvus_base / "data", ignore_errors=True)
        milvus[1] = "build"
        with Worker(isolated(options.milvus_python, *milvus, str(options.nlist))) as worker:
            built["milvus"] = worker.answer()

    contenders = (*LOCAL, *(SERVED if options.milvus_python else ()))
    spent: dict[Contender, list[float]] = {contender: [] for contender in contenders}
    found: dict[Contender, list[list[int]]] = {contender: [] for contender in contenders}
    with contextlib.ExitStack() as stack:
        workers: dict[tuple[str, int | None], Worker] = {}
        for contender in contenders:
            key = contender.process, contender.threads
            if key in workers:
                continue
            if contender.process == "milvus":
                milvus[1] = "serve"
                command = isolated(options.milvus_python, *milvus, str(options.nprobe), str(K))
                workers[key] = stack.enter_context(Worker(command))
                facts = workers[key].answer()
                print(
                    f"{data}, {count:,} rows: Milvus {facts['version']}, segments: {facts['segments']}", file=sys.stderr
                )
            else:
                serving = ["--serve", contender.process, str(folder), "--nprobe", str(options.nprobe)]
                command = [sys.executable, __file__, *serving]
                workers[key] = stack.enter_context(Worker(command, contender.threads))
        for worker in workers.values():
            worker.answer()  # "ready"
        edges = np.linspace(0, options.queries, options.turns + 1).astype(int).tolist()
        for start, end in itertools.pairwise(edges):
            for contender in contenders:
                order = {"ask": contender.ask, "start": start, "stop": end}
                ms, rows = workers[contender.process, contender.threads].answer(order)
                spent[contender] += ms
                found[contender] += rows
        memory = {key: worker.answer({}) for key, worker in workers.items()}

    judge = Judge(folder, found[FLAT])
    for contender in contenders:
        whole = contender not in (MILVUS_FEW, MILVUS_EMPTY)  # memory and disk of these two are the server's
        served = contender.process == "milvus"
        yield Row(
            data,
            count,
            contender.name,
            statistics.median(spent[contender]),
            float(np.percentile(spent[contender], 90)),
            judge.recall(found[contender]) if whole else None,
            memory[contender.process, contender.threads] if whole else None,
            disk_mb(milvus_base / "data" if served else folder / contender.files) if whole else None,
            built["milvus" if served else contender.files] if whole else None,
        )


def seconds(work: Any) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Judge:
    """Counts found rows that are as near as the exact ones: codes of 32 bits have many ties, and any of them counts.

    Parameters
    ----------
    folder : Path
        The cell's directory, with vectors and queries.
    exact : list of list of int
        Each query's rows, from an exact search.
    """

    def __init__(self, folder: Path, exact: list[list[int]]) -> None:
        self._vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self._queries = np.load(folder / "queries.npy")
        self._furthest = [self._distances(i, rows).max() for i, rows in enumerate(exact)]
        self._wanted = sum(map(len, exact))

    def _distances(self, query: int, rows: Sequence[int]) -> NDArray[np.float64]:
        vectors, asked = self._vectors[sorted(rows)], self._queries[query]
        if asked.dtype == np.uint8:
            return np.bitwise_count(vectors ^ asked).sum(axis=1).astype(np.float64)
        return np.linalg.norm(vectors.astype(np.float64) - asked, axis=1)

    def recall(self, found: list[list[int]]) -> float:
        """Return the share of the exact rows, or of others as near, that was found."""
        near = 0
        for i, rows in enumerate(found):
            distances = self._distances(i, list({row for row in rows if row >= 0}))
            near += int((distances <= self._furthest[i] * (1 + TOLERANCE)).sum())
        return near / self._wanted


# The report ----------------------------------------------------------------------------------------------------------


def machine() -> str:
    """Describe the machine and the versions."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in facts if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return (
        f"{models[0] if models else platform.machine()}, {cores} cores; Python {platform.python_version()},"
        f" faiss {faiss.__version__}, numpy {np.__version__}"
    )


def report(row: Row) -> None:
    """Print one row of the table."""

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:,.{digits}f}"

    print(
        f"| {row.data} | {row.rows:,} | {row.name} | {row.median_ms:.3f} | {row.p90_ms:.3f} | {number(row.recall, 3)}"
        f" | {number(row.memory_mb, 0)} | {number(row.disk_mb, 1)} | {number(row.build_s, 1)} |",
        flush=True,
    )


def report_round_trip(rows: Iterable[Row]) -> None:
    """Print how much of Milvus's time is the round trip, and how long rsr and faiss take in process."""
    cells: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        cells.setdefault((row.data, row.rows), {})[row.name] = row.median_ms
    print(
        "\n| data | rows | Milvus, ms | its call without a search | its round trip | its search | faiss IVF | rsr |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    for (data, count), ms in cells.items():
        whole, trip = ms[MILVUS.name], ms[MILVUS_FEW.name]
        print(
            f"| {data} | {count:,} | {whole:.2f} | {ms[MILVUS_EMPTY.name]:.2f} | {trip:.2f} | {whole - trip:.2f}"
            f" | {ms[IVF.name]:.2f} | {ms[RSR.name]:.2f} |"
        )


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", nargs="+", choices=list(DATA), default=list(DATA), metavar="KIND", help=" ".join(DATA)
    )
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 50_000, 100_000], metavar="N")
    parser.add_argument("--queries", type=int, default=1000, metavar="N")
    parser.add_argument(
        "--turns", type=int, default=5, metavar="N", help="number of turns in which the queries are asked [default: 5]"
    )
    parser.add_argument(
        "--nlist", type=int, default=128, metavar="N", help="lists of an IVF [default: 128, the paper's]"
    )
    parser.add_argument("--nprobe", type=int, default=8, metavar="N", help="lists searched [default: 8, Milvus's own]")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--milvus-python", metavar="PATH", help="a Python that has milvus and pymilvus")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--serve", nargs=2, metavar=("PROCESS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.rows) < max(options.nlist, 2 * K):
        parser.error(
            f"--rows must be at least {max(options.nlist, 2 * K)}: an IVF needs at least as many rows as lists"
        )
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json: there is no directory {options.json.parent}")
    if options.milvus_python and not options.serve:
        usable = isolated(options.milvus_python, "-W", "ignore", "-c", "import milvus, pymilvus")
        try:
            subprocess.run(usable, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
            parser.error(f"--milvus-python cannot be used: {reason}")
    return options


def main() -> None:
    """Measure every cell and print the tables."""
    options = arguments()
    if options.serve:
        serve_local(options.serve[0], Path(options.serve[1]), options.nprobe)
        return
    signal.signal(signal.SIGTERM, stop)
    print(f"{machine()}; {options.queries:,} queries, nlist {options.nlist}, nprobe {options.nprobe}\n")
    if not options.milvus_python:
        print("Milvus is not measured; run make bench-paper, or pass --milvus-python.\n")
    print(f"| data | rows | what | median ms | p90 ms | recall@{K} | memory MB | disk MB | build s |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|", flush=True)
    rows: list[Row] = []
    drawn = embeddings(max(options.rows) + options.queries, options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        for data in options.data:
            values, head = encoded(data, drawn)
            for count in options.rows:
                folder = Path(temporary) / "cell"
                folder.mkdir()
                write_cell(folder, values[:count], values[-options.queries :], head)
                for row in measure(data, folder, options):
                    rows.append(row)
                    report(row)
                shutil.rmtree(folder)
    if options.milvus_python:
        report_round_trip(rows)
    if options.json:
        settings = {name: getattr(options, name) for name in ("queries", "turns", "nlist", "nprobe", "seed")}
        facts = {"machine": machine(), "settings": settings, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
