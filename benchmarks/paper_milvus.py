"""The Milvus side of paper_speed.py: an embedded server and its client, in one process.

It runs in a Python that has ``milvus`` and ``pymilvus``, never in rsr's. paper_speed.py starts it in a network
namespace of its own, where the loopback is the only interface: Milvus listens on all interfaces and has no option to
change that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

FEW_ROWS = 20
INSERT_ROWS = 5000
WARM_UP = 10
STOP_S = 5


# What every worker does ----------------------------------------------------------------------------------------------


def serve(
    asks: dict[str, Callable[[Any], Any]],
    queries: Sequence[Any],
    *,
    pid: int | None = None,
    rows_of: Callable[[Any], Iterable[int]] = iter,
) -> None:
    """Answer the lines of stdin until it ends, which it also does if the parent is killed.

    ``{"ask": NAME, "start": I, "stop": J}`` runs these queries one after the other; the answer is the milliseconds and
    the found rows of each. The answer to ``{}`` is the memory of a process and its children.

    Parameters
    ----------
    asks : dict
        Name -> function of one query, which is timed.
    queries : sequence
        Arguments for the functions.
    pid : int, optional
        The process whose memory counts; by default this one.
    rows_of : callable
        Returns the found rows of an answer; not timed.
    """
    for ask in asks.values():
        for query in queries[:WARM_UP]:
            ask(query)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if not order:
            print(resident_mb(pid or os.getpid()), flush=True)
            continue
        ms, found = [], []
        for query in queries[order["start"] : order["stop"]]:
            started = time.perf_counter()
            answer = asks[order["ask"]](query)
            ms.append((time.perf_counter() - started) * 1000)
            found.append([int(row) for row in rows_of(answer)])
        print(json.dumps([ms, found]), flush=True)


def resident_mb(pid: int) -> float:
    """Return the resident memory, in MiB, of a process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(resident_mb(int(child)) for child in children)


# Milvus --------------------------------------------------------------------------------------------------------------


def loopback_up() -> None:
    """Switch on the loopback of a new network namespace."""
    if [name for _, name in socket.if_nameindex()] != ["lo"]:
        sys.exit("paper_milvus.py: Milvus is started only where no other machine can reach it: see paper_speed.py")
    set_flags, up = 0x8914, 1  # SIOCSIFFLAGS, IFF_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", up))


@contextlib.contextmanager
def running_server(base: Path) -> Iterator[int]:
    """Start a server on a directory, connect to it, yield its process id, and stop it."""
    from milvus import MilvusServer
    from pymilvus import connections

    server = MilvusServer()
    server.set_base_dir(str(base))
    try:
        server.start()
        connections.connect(host="127.0.0.1", port=str(server.listen_port))
        yield server.server_proc.pid
    finally:
        if server.server_proc:  # the wrapper's own stop kills it after a second
            server.server_proc.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.server_proc.wait(STOP_S)
        server.stop()


def as_milvus(vectors: np.ndarray) -> Any:
    """Return vectors in the form that pymilvus takes: floats as arrays, codes, uint8 (n, bytes), as bytes."""
    return [bytes(code) for code in vectors] if vectors.dtype == np.uint8 else list(vectors)


def collection_of(name: str, vectors: np.ndarray, nlist: int) -> int:
    """Insert vectors, make them persistent, build their index, and return the number of rows."""
    from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, utility

    binary = vectors.dtype == np.uint8
    kind = DataType.BINARY_VECTOR if binary else DataType.FLOAT_VECTOR
    dim = vectors.shape[1] * (8 if binary else 1)
    fields = [
        FieldSchema("pk", DataType.INT64, is_primary=True, auto_id=False),
        FieldSchema("vector", kind, dim=dim),
    ]
    collection = Collection(name, CollectionSchema(fields))
    for start in range(0, len(vectors), INSERT_ROWS):
        part = vectors[start : start + INSERT_ROWS]
        collection.insert([list(range(start, start + len(part))), as_milvus(part)])
    collection.flush()
    index_type, metric = ("BIN_IVF_FLAT", "HAMMING") if binary else ("IVF_FLAT", "L2")
    collection.create_index("vector", {"index_type": index_type, "metric_type": metric, "params": {"nlist": nlist}})
    utility.wait_for_index_building_complete(name)
    return int(collection.num_entities)


def build(folder: Path, base: Path, nlist: int) -> None:
    """Build the collection of a cell, and one of a few rows; print the seconds that the first took."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    with running_server(base):
        started = time.perf_counter()
        count = collection_of("all", vectors, nlist)
        seconds = time.perf_counter() - started
        if count != len(vectors):
            sys.exit(f"paper_milvus.py: Milvus has {count} rows of {len(vectors)}")
        # One server has both, so disk and memory include those of the few rows, which are negligible.
        collection_of("few", vectors[:FEW_ROWS], nlist)
    print(json.dumps(seconds), flush=True)


def serve_collections(folder: Path, base: Path, nprobe: int, k: int) -> None:
    """Restart the server, load a cell's collections, and answer."""
    from pymilvus import Collection, utility

    queries = as_milvus(np.load(folder / "queries.npy"))
    metric = "HAMMING" if isinstance(queries[0], bytes) else "L2"
    settings = {"metric_type": metric, "params": {"nprobe": nprobe}}

    def search(collection: Collection) -> Callable[[Any], Sequence[int]]:
        return lambda query: collection.search([query], "vector", settings, limit=k)[0].ids

    def version(_: Any) -> Sequence[int]:
        utility.get_server_version()
        return ()

    with running_server(base) as pid:
        collections = {name: Collection(name) for name in ("all", "few")}
        for collection in collections.values():
            collection.load()
        asks = {name: search(collection) for name, collection in collections.items()}
        segments = len(utility.get_query_segment_info("all"))
        print(json.dumps({"version": utility.get_server_version(), "segments": segments}), flush=True)
        serve({**asks, "version": version}, queries, pid=pid)


def stop(*_: object) -> NoReturn:
    """Exit by an exception, so that the processes that were started are stopped."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(143)


def main() -> None:
    """Build or serve: ``paper_milvus.py build FOLDER BASE NLIST`` or ``serve FOLDER BASE NPROBE K``."""
    signal.signal(signal.SIGTERM, stop)
    warnings.filterwarnings("ignore")
    loopback_up()
    what, folder, base, *numbers = sys.argv[1:]
    {"build": build, "serve": serve_collections}[what](Path(folder), Path(base), *map(int, numbers))


if __name__ == "__main__":
    main()
