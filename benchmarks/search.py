"""Compare rsr with bare libraries and databases on the same codes: building, size, memory, speed and recall.

    python benchmarks/search.py --peers-python .venv-peers/bin/python [--rows N ...] [--peer NAME ...]
    python benchmarks/search.py --page

Each peer builds, and is asked, in processes of its own. Results go to a JSON file as they come, and what is in there is
not measured again, so a run that was stopped goes on where it was. ``--page`` writes them into docs/search.md and draws
its chart. The peers are in peers.py; ``make bench-search`` creates their environment.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from paper_milvus import stop
from peers import BITS, PEERS, WIDTH, Filter, K, Order, Peer, RsrFlat, memory_mb
from structured import Structured, codes, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "search.md"
MARKS = "<!-- results -->", "<!-- end of results -->"
#: What a setting must reach to be taken.
RECALL = 0.98
TUNING, MEASURED = 300, 200
#: Seconds of queries per setting while tuning, and per filter while measuring.
TUNING_S, MEASURED_S = 4.0, 20.0
FIRST, LAST = (int(np.datetime64(day, "us").astype(int)) for day in ("2015-01-01", "2025-01-01"))
FILTERS = (
    Filter("time, 10 %", 0.1, until=FIRST + (LAST - FIRST) // 10),
    Filter("time, 1 %", 0.01, until=FIRST + (LAST - FIRST) // 100),
    Filter("box, 1 %", 0.01, box=(-18.0, -6.0, 18.0, 6.0)),
)
#: Degrees: where footprints are, and how wide and high.
EXTENT, SIDE = (-180.0, -60.0, 180.0, 60.0), 0.02
RECORDS = 50_000
#: The footer by which a table's polygons are known for footprints.
GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"]}},
}
# Everything that a peer starts ends with it, and PostgreSQL, which refuses root, is not root in there.
NAMESPACE = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--pid", "--fork", "--kill-child",
             "--mount-proc"]  # fmt: skip


class FailedError(Exception):
    """A peer could not do something; the message says why."""


# Data ----------------------------------------------------------------------------------------------------------------


def write_data(folder: Path, rows: int, noise: float, seed: int) -> None:
    """Write codes, times, boxes and queries as arrays, and as the records that rsr reads."""
    write(folder / "codes.npy", rows, noise, seed)
    rng = np.random.default_rng([seed, rows])
    np.save(folder / "times.npy", rng.integers(FIRST, LAST, rows))
    corners = rng.uniform(EXTENT[:2], EXTENT[2:], (rows, 2)).astype(np.float32)
    np.save(folder / "boxes.npy", np.concatenate([corners, corners + np.float32(SIDE)], axis=1))
    queries = codes(Structured(noise, seed).queries(TUNING + MEASURED))
    np.save(folder / "queries.npy", queries)
    space = json.dumps({"method": "sign", "of": "0" * 16, "fingerprint": "1" * 16, "bits": BITS})
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("datetime", pa.timestamp("us", "UTC")),
            ("geometry", pa.binary()),
            ("code", pa.binary(WIDTH)),
            ("code_space", pa.string()),
        ],
        {"geo": json.dumps(GEO)},
    )
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("codes", "times", "boxes")]
    with pq.ParquetWriter(folder / "in.parquet", schema, compression="zstd") as file:
        for start in range(0, rows, RECORDS):
            block, times, boxes = (array[start : start + RECORDS] for array in arrays)
            columns = [
                pa.array([f"tile_{row}" for row in range(start, start + len(block))]),
                pa.array(times).cast(schema.field("datetime").type),
                pa.array(shapely.to_wkb(shapely.box(*boxes.astype(np.float64).T)), pa.binary()),
                pa.FixedSizeBinaryArray.from_buffers(pa.binary(WIDTH), len(block), [None, pa.py_buffer(block)]),
                pa.array([space]).take(pa.array(np.zeros(len(block), np.int64))),
            ]
            file.write_table(pa.table(columns, schema=schema))
    code = {**json.loads(space), "data": base64.b64encode(queries[TUNING].tobytes()).decode()}
    query = {"type": "Feature", "id": "q", "geometry": None, "properties": {"code": code}}
    (folder / "query.geojsonl").write_text(json.dumps(query) + "\n")


class Judge:
    """Counts hits that are as near as the exact ones: many rows are at the same distance, and any of them counts.

    Parameters
    ----------
    folder : Path
        Has codes, times, boxes and queries.
    """

    def __init__(self, folder: Path) -> None:
        self._codes = np.load(folder / "codes.npy", mmap_mode="r")
        self._queries = np.load(folder / "queries.npy")
        times, boxes = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("times", "boxes"))
        self._masks = {None: None, **{kept.name: kept.mask(times, boxes) for kept in FILTERS}}
        self._furthest = {name: self._exact(mask) for name, mask in self._masks.items()}

    def _exact(self, mask: NDArray[np.bool_] | None, block: int = 1 << 20) -> NDArray[np.int64]:
        """Return the distance of each query's K-th nearest row of a mask, or the last one's."""
        nearest = np.empty((len(self._queries), 0), np.int64)
        for start in range(0, len(self._codes), block):
            part = self._codes[start : start + block]
            part = part if mask is None else part[mask[start : start + block]]
            if len(part):
                found, _ = faiss.knn_hamming(self._queries, np.ascontiguousarray(part), min(K, len(part)))
                nearest = np.sort(np.concatenate([nearest, found], axis=1), axis=1)[:, :K]
        return nearest[:, -1]

    def hits(self, start: int, found: Iterable[Sequence[int]], kept: Filter | None) -> tuple[float, float]:
        """Return recall, and the number of hits per query that the filter keeps.

        Parameters
        ----------
        start : int
            Number of the first query.
        found : iterable of sequence of int
            Each query's rows.
        kept : Filter or None
            The filter that was asked for; other rows do not count.
        """
        name = kept and kept.name
        mask = self._masks[name]
        wanted = K if mask is None else min(K, int(mask.sum()))
        shares, counts = [], []
        for number, rows in enumerate(found, start):
            unique = np.unique(np.asarray(rows, np.int64))[:K]
            unique = unique if mask is None else unique[mask[unique]]
            distances = np.bitwise_count(self._codes[unique] ^ self._queries[number]).sum(axis=1)
            shares.append(min(wanted, int((distances <= self._furthest[name][number]).sum())) / wanted)
            counts.append(len(unique))
        return statistics.fmean(shares), statistics.fmean(counts)


# Processes -----------------------------------------------------------------------------------------------------------


def run(
    command: Sequence[str], scratch: Path, limit_s: float | None = None, *, watch: bool = False
) -> tuple[str, float, float]:
    """Run a process and all that it starts to its end, or stop it; temporary files go to a directory.

    Returns
    -------
    tuple
        Its stdout; seconds; and with ``watch`` the greatest memory that was seen, in MiB.

    Raises
    ------
    FailedError
        It failed, or passed the limit.
    """
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "TMPDIR": str(scratch)}
    environment |= {} if watch else {"OMP_NUM_THREADS": "1"}
    started, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
        )
        try:
            pause = 0.05
            while True:
                try:
                    out, _ = process.communicate(timeout=pause if watch else limit_s)
                    break
                except subprocess.TimeoutExpired:
                    if limit_s is not None and time.perf_counter() - started >= limit_s:
                        raise FailedError(f"stopped after {limit_s / 60:g} minutes") from None
                    looked = time.perf_counter()
                    peak = max(peak, memory_mb(process.pid))
                    pause = max(0.05, 10 * (time.perf_counter() - looked))  # to look at many pages takes time
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = time.perf_counter() - started
        if process.returncode:
            errors.seek(0)
            lines = errors.read().strip().splitlines() or [f"status {process.returncode}"]
            raise FailedError(lines[-1][:200])
    return out, seconds, peak


def forget(folder: Path) -> None:
    """Drop the pages of all files of a directory from the system's cache."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)  # only written pages can be dropped
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def disk_mb(folder: Path) -> float:
    """Return the disk space of everything in a directory, in MiB."""
    return sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512 / 2**20


# Measuring -----------------------------------------------------------------------------------------------------------


def measure(name: str, data: Path, judge: Judge, options: argparse.Namespace) -> dict[str, Any]:
    """Build one peer, tune it, and ask it cold and warm, without and with the filters."""
    peer = PEERS[name]
    python = sys.executable if peer.ours else options.peers_python
    worker = [*NAMESPACE, python, str(HERE / "peers.py")]
    folder, scratch = data / "built", data / "tmp"
    for each in (folder, scratch):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir()

    def asked(order: Order) -> tuple[dict[str, Any], float]:
        out, seconds, _ = run([*worker, "ask", name, str(folder), order.dump()], scratch, options.limit_s)
        return json.loads(out.splitlines()[-1]), seconds

    def order(start: int, settings: Sequence[int | None], filters: Sequence[Filter | None], **more: Any) -> Order:
        return Order(str(data / "queries.npy"), start, settings=settings, filters=filters, **more)

    facts: dict[str, Any] = {}
    doing = "build"
    try:
        out, _, peak = run([*worker, "build", name, str(data), str(folder)], scratch, options.limit_s, watch=True)
        built = json.loads(out.splitlines()[-1])
        facts |= {"build_s": built["seconds"], "build_mb": max(peak, built["peak_mb"]), "disk_mb": disk_mb(folder)}
        doing = "queries"

        wanted = (None, *(FILTERS if peer.filtering else ()))
        tuned = tune(peer, wanted, asked, order, judge)
        facts["asked"] = {}
        settings: dict[Filter | None, int | None] = {}
        # All that is warm is asked before anything is cold, as a cold query begins with files that were dropped.
        for kept in wanted:
            curve = tuned.get(kept, [])
            enough = (point for point in curve if point["recall"] >= RECALL)
            best = next(enough, max(curve, key=lambda point: point["recall"], default=None))
            settings[kept] = best["setting"] if best else None
            warm, _ = asked(order(TUNING, [settings[kept]], [kept], stop=TUNING + MEASURED, budget_s=MEASURED_S))
            ms, rows = warm["lists"][0]["ms"], warm["lists"][0]["rows"]
            recall, hits = judge.hits(TUNING, rows, kept)
            facts["version"] = warm["version"]
            facts["asked"][kept.name if kept else "all"] = {
                "setting": settings[kept],
                "curve": curve,
                "queries": len(ms),
                "warm_ms": statistics.median(ms),
                "p90_ms": float(np.percentile(ms, 90)),
                "memory_mb": warm["memory_mb"],
                "recall": recall,
                "hits": hits,
            }
        for kept, setting in settings.items():
            cold, whole = [], []
            for turn in range(options.cold):
                forget(folder)
                start = TUNING + turn
                first, seconds = asked(order(start, [setting], [kept], stop=start + 1, warm_up=0))
                cold.append(first["open_ms"] + first["lists"][0]["ms"][0])
                if issubclass(peer, RsrFlat):
                    forget(folder)
                    seconds = run(peer.command(folder, data / "query.geojsonl", setting, kept), scratch)[1]
                whole.append(seconds * 1000)
            found = facts["asked"][kept.name if kept else "all"]
            found |= {"cold_ms": statistics.median(cold), "process_ms": statistics.median(whole)}
    except FailedError as error:
        facts["failed"] = f"{doing}: {error}"
    shutil.rmtree(folder)
    return facts


def tune(
    peer: type[Peer],
    filters: Sequence[Filter | None],
    asked: Callable[[Order], tuple[dict[str, Any], float]],
    order: Callable[..., Order],
    judge: Judge,
) -> dict[Filter | None, list[dict[str, Any]]]:
    """Return milliseconds and recall of each setting, the fastest first, per filter; nothing if there is no setting."""
    if not peer.setting:
        return {}
    found, _ = asked(order(0, peer.settings, filters, stop=TUNING, budget_s=TUNING_S))
    curves: dict[Filter | None, list[dict[str, Any]]] = {kept: [] for kept in filters}
    lists = iter(found["lists"])
    for setting in peer.settings:
        for kept in filters:
            each = next(lists)
            recall, _ = judge.hits(0, each["rows"], kept)
            curves[kept].append({"setting": setting, "ms": statistics.median(each["ms"]), "recall": recall})
    return curves


def exponent(rows: Sequence[int], values: Sequence[float]) -> float | None:
    """Return the slope of the logarithm of values over that of rows: 1 grows as the rows do, 0 not at all."""
    if len(rows) < 2 or min(values) <= 0:
        return None
    return float(np.polyfit(np.log(rows), np.log(values), 1)[0])


def machine() -> str:
    """Describe the machine."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in facts if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{models[0] if models else platform.machine()}, {len(os.sched_getaffinity(0))} processors,"
        f" {memory:.0f} GiB of memory, Linux {platform.release()}, Python {platform.python_version()}"
    )


# The page ------------------------------------------------------------------------------------------------------------


def number(value: float | None, unit: str = "") -> str:
    """Return a number with three digits that count, or nothing."""
    if value is None:
        return ""
    digits = 0 if abs(value) >= 100 else max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(digits, 3)}f}{unit}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Return a table in Markdown, whose first columns are text and the others numbers."""
    lines = [heads, ["---" if column < texts else "---:" for column in range(len(heads))], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def results(measured: dict[str, Any], chart: str) -> str:
    """Return what stands between the marks of the page, with the name of its chart."""
    by_rows: dict[int, list[dict[str, Any]]] = {}
    for result in sorted(measured["results"], key=lambda each: (each["rows"], list(PEERS).index(each["peer"]))):
        by_rows.setdefault(result["rows"], []).append(result)
    versions = {result["peer"]: result["version"] for result in measured["results"] if "version" in result}
    days = sorted({result["day"] for result in measured["results"]})
    peers = [
        [name, versions[name], peer.index, peer.filtering or "none"] for name, peer in PEERS.items() if name in versions
    ]
    parts = [
        f"Measured {' to '.join(dict.fromkeys([days[0], days[-1]]))} on {measured['machine']}. Codes with a noise of"
        f" {measured['noise']}, seed {measured['seed']}.\n",
        f"![Milliseconds per query over recall and over rows]({chart})\n",
        table(["", "version", "index", "applies a filter"], peers, texts=4),
    ]
    for rows, found in by_rows.items():
        parts += [f"### {rows:,} codes\n", sizes(found)]
        for name in ("all", *(kept.name for kept in FILTERS)):
            parts += [
                f"{'Without a filter' if name == 'all' else f'With the filter *{name}*'}:\n",
                queries(found, name),
            ]
    parts += ["### Growth\n", growth(by_rows)]
    return "\n".join(parts)


def sizes(found: Iterable[dict[str, Any]]) -> str:
    """Return a table of what was built."""
    keys = "build_s", "build_mb", "disk_mb", "load"
    rows = [[result["peer"], *(number(result.get(key)) for key in keys), result.get("failed", "")] for result in found]
    return table(["", "build, s", "its memory, MB", "disk, MB", "load", ""], rows)


def queries(found: Iterable[dict[str, Any]], name: str) -> str:
    """Return a table of queries with one filter, or ``all`` without."""
    rows = []
    for result in found:
        asked = result.get("asked", {}).get(name)
        if asked is None:
            rows.append([result["peer"], "not measured", *[""] * 7])
            continue
        setting = "" if asked["setting"] is None else f"{PEERS[result['peer']].setting} {asked['setting']}"
        times = [number(asked.get(key)) for key in ("process_ms", "cold_ms", "warm_ms", "p90_ms", "memory_mb")]
        rows.append([result["peer"], setting, *times, f"{asked['recall']:.3f}", f"{asked['hits']:.1f}"])
    heads = ["", "setting", "process, ms", "cold, ms", "warm, ms", "90 %, ms", "memory, MB", f"recall@{K}", "hits"]
    return table(heads, rows, texts=2)


def summary(result: dict[str, Any]) -> str:
    """Return a result in one line, for who waits."""
    asked = [
        f"{name}: {each['setting'] or ''} {number(each['warm_ms'])} ms, {each['recall']:.3f}, {each['hits']:.1f}"
        for name, each in result.get("asked", {}).items()
    ]
    facts = (result["peer"], result.get("failed"), number(result.get("build_s"), " s"), *asked)
    return "\t".join(filter(None, facts))


GROWTH: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "build": lambda result: result.get("build_s"),
    "disk": lambda result: result.get("disk_mb"),
    "cold": lambda result: result.get("asked", {}).get("all", {}).get("cold_ms"),
    "warm": lambda result: result.get("asked", {}).get("all", {}).get("warm_ms"),
    **{
        f"warm, {kept.name}": lambda result, name=kept.name: result.get("asked", {}).get(name, {}).get("warm_ms")
        for kept in FILTERS
    },
}


def growth(by_rows: dict[int, list[dict[str, Any]]]) -> str:
    """Return a table of exponents."""
    table_rows: list[Sequence[str]] = []
    for name in PEERS:
        results = [result for found in by_rows.values() for result in found if result["peer"] == name]
        if not results:
            continue
        cells = []
        for value in GROWTH.values():
            known = [(result["rows"], value(result)) for result in results if value(result) is not None]
            slope = exponent(*zip(*known, strict=True)) if known else None
            cells.append("" if slope is None else f"{slope:.2f}")
        table_rows.append([name, *cells])
    return table(["", *GROWTH], table_rows)


def draw(measured: dict[str, Any], path: Path) -> None:
    """Draw warm milliseconds over what is missed at the greatest number of rows, and over rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    over_missed, over_rows = figure.subplots(1, 2)
    known = [result for result in measured["results"] if result.get("asked")]
    most = max((result["rows"] for result in known), default=0)
    for count, name in enumerate(PEERS):
        mine = sorted((result for result in known if result["peer"] == name), key=lambda result: result["rows"])
        alone = [result["asked"]["all"] for result in mine]
        style = {"color": f"C{count % 10}", "marker": "os^vD<>ph*X"[count % 11], "label": name, "markersize": 5}
        if PEERS[name].ours:
            style |= {"color": "black", "linewidth": 2.5, "markersize": 8}
        over_rows.plot([result["rows"] for result in mine], [asked["warm_ms"] for asked in alone], **style)
        if mine and mine[-1]["rows"] == most:
            curve = alone[-1]["curve"] or [{"recall": alone[-1]["recall"], "ms": alone[-1]["warm_ms"]}]
            over_missed.plot([1 - point["recall"] for point in curve], [point["ms"] for point in curve], **style)
    over_missed.axvline(1 - RECALL, color="grey", linewidth=0.8, linestyle=":")
    over_missed.set_xscale("symlog", linthresh=1e-3)
    over_missed.set(
        xlim=(1, -2e-4), yscale="log", xlabel=f"share of the {K} nearest that is missed, of {most:,} codes",
        ylabel="warm, ms per query",
    )  # fmt: skip
    over_rows.set(xscale="log", yscale="log", xlabel="codes", ylabel="warm, ms per query, at the setting in the table")
    over_rows.legend(fontsize=7, bbox_to_anchor=(1, 1), loc="upper left")
    for axes in (over_missed, over_rows):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def write_page(measured: dict[str, Any], page: Path) -> None:
    """Write the results between the marks of a page, and draw the chart beside it."""
    chart = page.with_suffix(".png")
    head, _, rest = page.read_text().partition(MARKS[0])
    _, _, tail = rest.partition(MARKS[1])
    page.write_text(f"{head}{MARKS[0]}\n\n{results(measured, chart.name)}\n{MARKS[1]}{tail}")
    draw(measured, chart)


# The command line ----------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10**5, 10**6, 10**7], metavar="N")
    parser.add_argument(
        "--peer", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="NAME", help=", ".join(PEERS)
    )
    parser.add_argument("--noise", type=float, default=0.3, metavar="SHARE", help="see structured.py [default: 0.3]")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--limit-minutes", type=float, default=30, metavar="N", help="of a build [default: 30]")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PATH", help="a Python that has the peers")
    parser.add_argument(
        "--scratch", type=Path, metavar="DIRECTORY", help="for data and what is built [default: a temporary one]"
    )
    parser.add_argument("--json", type=Path, default=Path("search.json"), metavar="FILE", help="[default: search.json]")
    parser.add_argument("--again", action="store_true", help="measure what is in the JSON file again")
    parser.add_argument("--cold", type=int, default=3, metavar="N", help="processes for cold queries [default: 3]")
    parser.add_argument(
        "--page",
        type=Path,
        nargs="?",
        const=PAGE,
        metavar="FILE",
        help="write the JSON file's results into this page, and measure nothing [default: docs/search.md]",
    )
    options = parser.parse_args()
    options.limit_s = options.limit_minutes * 60
    return options


def load(options: argparse.Namespace) -> dict[str, Any]:
    """Return the results of a file, or none; they must be of this machine and these codes."""
    run_facts = {"machine": machine(), "noise": options.noise, "seed": options.seed}
    if not options.json.exists():
        return {**run_facts, "results": []}
    measured = json.loads(options.json.read_text())
    different = [name for name, value in run_facts.items() if measured[name] != value]
    if different and not options.page:
        sys.exit(f"search.py: {options.json} has another {' and '.join(different)}; name another file")
    return measured


def main() -> None:
    """Measure, or write the page."""
    options = arguments()
    measured = load(options)
    if options.page:
        write_page(measured, options.page)
        return
    signal.signal(signal.SIGTERM, stop)
    with contextlib.ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for rows in options.rows:
            measure_rows(rows, scratch / str(rows), measured, options)


def measure_rows(rows: int, data: Path, measured: dict[str, Any], options: argparse.Namespace) -> None:
    """Measure the peers that the results do not have yet with this number of rows, and save after each."""
    done = {(result["rows"], result["peer"]): result for result in measured["results"]}
    wanted = [name for name in options.peer if options.again or (rows, name) not in done]
    if not wanted:
        return
    data.mkdir(parents=True, exist_ok=True)
    write_data(data, rows, options.noise, options.seed)
    judge = Judge(data)
    for name in wanted:
        fewer = (each for (count, peer), each in done.items() if peer == name and count < rows and "failed" in each)
        failed = next(fewer, None)
        if failed:
            facts = {"failed": f"{failed['failed']} with {failed['rows']:,} codes"}
        else:
            facts = measure(name, data, judge, options)
        load, _, _ = os.getloadavg()
        result = {"rows": rows, "peer": name, "day": datetime.date.today().isoformat(), "load": load, **facts}
        done[rows, name] = result
        measured["results"] = list(done.values())
        options.json.write_bytes(orjson.dumps(measured, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        print(f"{rows:,}\t{summary(result)}", flush=True)
    shutil.rmtree(data)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
