"""The index directory: build, open, search. The only importer of faiss.

An index is exact. Codes are compared by Hamming distance in integers. For embeddings faiss gives candidates in float32,
and the candidates are measured again in float64; a bound on float32's rounding error tells when no row outside them can
belong to the result. So the ranking is that of a brute-force search by (distance, row), whatever the batch or the
number of threads.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sqlite3
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import faiss
import numpy as np
import orjson

import rsr_cli
from rsr_cli.core.codes.base import METHODS, Binarizer
from rsr_cli.core.errors import FingerprintError, IndexFormatError, OutputError, RecordError, RsrError, Skips
from rsr_cli.core.files import refuse_existing, temporary_beside
from rsr_cli.core.records.fields import KINDS, Kind, Vectors, describe, kind_of
from rsr_cli.core.records.jsonl import dump

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch, Record

log = logging.getLogger("rsr")

SCHEMA_VERSION = 1
FILES = {"vectors.faiss", "records.sqlite", "manifest.json"}
#: What a search adds to the properties of a found record.
HIT_FIELDS = ("query", "rank", "distance", "query_labels")

#: Candidates of a search by radius alone, before more are asked for.
FIRST_CANDIDATES = 256
#: Candidates beyond those asked for, so that float32's rounding rarely asks for a second search.
SPARE_CANDIDATES = 32
GROWTH = 4
RESCORE_ROWS = 1 << 14
FLOAT32_ROUNDING = 2.0**-24  # greatest relative error of one operation
MAX_NORM = 1e18  # its square, and the square of a difference, are float32

_FAISS_METRIC = {
    "l1": faiss.METRIC_L1,
    "l2": faiss.METRIC_L2,
    "cosine": faiss.METRIC_INNER_PRODUCT,
    "dot": faiss.METRIC_INNER_PRODUCT,
}

_SCHEMA = """
CREATE TABLE records (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL,
    west REAL, south REAL, east REAL, north REAL, datetime TEXT, labels TEXT, record TEXT NOT NULL
)
"""


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says.

    Attributes
    ----------
    schema_version : int
        Of the directory's layout.
    count : int
        Number of rows.
    kind : str
        ``code`` or ``embedding``.
    metric : str
        ``hamming`` for codes, else ``l1``, ``l2``, ``cosine`` or ``dot``.
    vectors : dict or None
        The records' ``code`` or ``embedding`` property without its data; ``None`` in an empty index.
    max_norm : float
        Greatest Euclidean norm of an embedding, for the bound on rounding errors; 0 for codes.
    made_with : dict
        Versions.
    arguments : list of str
        The command line.
    """

    schema_version: int
    count: int
    kind: Kind
    metric: str
    vectors: dict[str, Any] | None
    max_norm: float
    made_with: dict[str, str]
    arguments: list[str]


# Building ------------------------------------------------------------------------------------------------------------


def build(
    batches: Iterable[Batch],
    path: Path,
    metric: str | None,
    skips: Skips,
    *,
    arguments: Sequence[str] = (),
    overwrite: bool = False,
) -> Iterator[int]:
    """Build an index directory from a stream of records.

    Vectors and records go to disk as they come, so memory does not grow with the stream. The directory appears under
    its name when it is whole.

    Parameters
    ----------
    batches : iterable of Batch
        Records with codes or embeddings of one vector space; what the first one has is indexed, codes before
        embeddings unless ``metric`` is given.
    path : Path
        The directory to make.
    metric : str, optional
        ``l1``, ``l2``, ``cosine`` or ``dot``, for embeddings; ``None`` is ``l1``, the paper's.
    skips : Skips
        Asked about records that cannot be indexed.
    arguments : sequence of str
        The command line, for the manifest.
    overwrite : bool
        Replace an existing index.

    Yields
    ------
    int
        Records added since the last one.

    Raises
    ------
    RecordError
        A record has no vector, or no usable id, bbox, datetime.
    RsrError
        An id comes twice, or an embedding is too long for float32's squares.
    FingerprintError
        Vectors of two spaces.
    OutputError
        The directory is there already, or cannot be written.
    """
    refuse_existing(path, overwrite=overwrite)
    if path.exists() and {entry.name for entry in path.iterdir()} != FILES:
        raise OutputError("exists and is not an index, or holds more than one; it is not replaced", str(path))
    final = Path(os.path.realpath(path))  # what a link points to
    temporary = temporary_beside(final)
    try:
        temporary.mkdir()
        with _Builder(temporary, metric) as builder:
            for batch in batches:
                yield builder.add(batch, skips)
            builder.finish(arguments)
        refuse_existing(path, overwrite=overwrite)  # somebody may have made it meanwhile
        replaced = temporary_beside(final)
        if final.exists():
            final.rename(replaced)
        temporary.rename(final)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, sqlite3.Error) as error:
        raise _unwritable(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(path: Path, error: Exception) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(f"cannot write: {reason.lower()}", str(path))


class _Builder:
    def __init__(self, directory: Path, metric: str | None) -> None:
        self._directory = directory
        self._metric = metric
        self._vectors: Vectors | None = None
        self._count = 0
        self._max_norm = 0.0
        self._file = (directory / "vectors.faiss").open("wb")
        self._database = sqlite3.connect(directory / "records.sqlite", isolation_level=None)
        # Nothing can be lost that is not thrown away anyhow: an unfinished directory is removed.
        self._database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_SCHEMA}; BEGIN")

    def __enter__(self) -> _Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._database.close()

    @property
    def _kind(self) -> Kind:
        return self._vectors.kind if self._vectors else "code"

    def add(self, batch: Batch, skips: Skips) -> int:
        if self._vectors is None:
            self._vectors = Vectors("embedding" if self._metric else kind_of(batch.records))
        values = self._vectors.take(batch, skips)
        if self._kind == "embedding":
            values = self._prepared(values)
        rows: list[tuple[Any, ...]] = []
        kept: list[int] = []
        for i, record in enumerate(batch.records):
            try:
                rows.append((self._count + len(rows), *_columns(record)))
                kept.append(i)
            except RecordError as error:
                error.place = batch.place(i)
                skips(error)
        if not kept:
            return 0
        if len(kept) < len(batch):
            values = values[kept]
        if self._count == 0:
            self._file.write(self._header(0))
        self._file.write(np.ascontiguousarray(values).tobytes())
        self._database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._count += len(kept)
        return len(kept)

    def _prepared(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._metric == "cosine":
            return _unit(values)
        self._max_norm = max(self._max_norm, greatest_norm(values))
        return values

    def _header(self, count: int) -> bytes:
        """Write all of a faiss flat index but its data, which the format keeps last."""
        head = self._vectors.head if self._vectors else None
        if self._kind == "code":
            bits = -(-head["bits"] // 8) * 8 if head else 8
            codes = faiss.IndexBinaryFlat(bits)
            codes.ntotal = count
            units = count * bits // 8  # of bytes
            empty = faiss.serialize_index_binary(codes)
        else:
            assert head is not None
            floats = faiss.IndexFlat(head["dim"], _FAISS_METRIC[self._metric or "l1"])
            floats.ntotal = count
            units = count * head["dim"]  # of floats
            empty = faiss.serialize_index(floats)
        return bytes(empty.tobytes()[:-8]) + struct.pack("<Q", units)

    def finish(self, arguments: Sequence[str]) -> None:
        self._file.seek(0)
        self._file.write(self._header(self._count))
        self._file.flush()
        self._unique_ids()
        self._database.execute("COMMIT")
        embeds = self._kind == "embedding"
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            count=self._count,
            kind=self._kind,
            metric=(self._metric or "l1") if embeds else "hamming",
            vectors=self._vectors.head if self._vectors and self._count else None,
            max_norm=1.0 if self._metric == "cosine" and embeds else self._max_norm,
            made_with={"rsr": rsr_cli.__version__, "faiss": faiss.__version__, "python": platform.python_version()},
            arguments=[os.fsencode(word).decode(errors="backslashreplace") for word in arguments],
        )
        if not self._count:
            log.warning("no record came in, and the index is empty")
        (self._directory / "manifest.json").write_bytes(orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2))
        for name in FILES:
            with (self._directory / name).open("rb") as file:
                os.fsync(file.fileno())

    def _unique_ids(self) -> None:
        try:
            self._database.execute("CREATE UNIQUE INDEX by_id ON records (id)")
        except sqlite3.IntegrityError:
            twice, first, last = self._database.execute(
                "SELECT id, min(row), max(row) FROM records GROUP BY id HAVING count(*) > 1 ORDER BY 2 LIMIT 1"
            ).fetchone()
            raise RsrError(
                f"the id {twice!r} comes twice, in records {first + 1} and {last + 1}; ids must be unique:"
                " see rsr tile --id-prefix"
            ) from None


def _columns(record: Record) -> tuple[Any, ...]:
    """Lay a record out as a row of the table, all but its number.

    Raises
    ------
    RecordError
        Its id is no name or number, its bbox or datetime is not what GeoJSON and STAC have there, or it is nested too
        deeply.
    """
    properties = record["properties"]
    name, box, when = record.get("id"), record.get("bbox"), properties.get("datetime")
    if not isinstance(name, str | int | float) or isinstance(name, bool):
        raise RecordError("has no id" if name is None else f"has an id that is no name or number: {name!r}")
    if when is not None and not isinstance(when, str):
        raise RecordError(f"has a datetime that is no text: {when!r}")
    try:
        west, south, east, north = map(float, box or [np.nan] * 4)
    except (TypeError, ValueError, OverflowError):
        raise RecordError(f"has a bbox that is not four numbers: {box!r}") from None
    for field in (*KINDS, *HIT_FIELDS):
        properties.pop(field, None)
    labels = properties.get("labels")
    # The properties come last, so that a search can add to the text what makes it a hit.
    record["properties"] = record.pop("properties")
    text = dump(record)[:-1]
    return (
        str(name),
        *((west, south, east, north) if box else [None] * 4),
        when,
        None if labels is None else orjson.dumps(labels).decode(),
        text.decode(),
    )


def greatest_norm(values: NDArray[np.float32]) -> float:
    """Give the greatest Euclidean norm of vectors (n, dim).

    Raises
    ------
    RsrError
        It is too great for the distances to be float32.
    """
    norm = float(np.linalg.norm(values.astype(np.float64), axis=1).max(initial=0))
    if norm > MAX_NORM:
        raise RsrError(f"an embedding is {norm:.1e} long, too long for float32; scale the embeddings down")
    return norm


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors (n, dim) to length 1; a vector of zeros stays."""
    wide = values.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1)).astype(np.float32)


# Searching -----------------------------------------------------------------------------------------------------------


class Index:
    """An open index.

    Parameters
    ----------
    path : Path
        The directory.

    Attributes
    ----------
    manifest : Manifest
        What it is.

    Raises
    ------
    IndexFormatError
        The directory is not an index, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            facts = orjson.loads((path / "manifest.json").read_bytes())
        except FileNotFoundError:
            reason = (
                "is not an index: it has no manifest.json" if path.exists() else "is not an index: it does not exist"
            )
            raise IndexFormatError(reason, str(path)) from None
        except NotADirectoryError:
            raise IndexFormatError("is a file and not an index, which comes before the queries", str(path)) from None
        except (OSError, orjson.JSONDecodeError) as error:
            raise IndexFormatError(f"its manifest.json cannot be read: {error}", str(path)) from None
        version = facts.get("schema_version") if isinstance(facts, dict) else None
        if version != SCHEMA_VERSION:
            raise IndexFormatError(
                f"is of version {version}, and this rsr reads version {SCHEMA_VERSION}; build it again", str(path)
            )
        try:
            self.manifest = Manifest(**facts)
            self._faiss = self._open_vectors()
            location = f"file:{quote(os.fsencode((path / 'records.sqlite').absolute()))}?mode=ro&immutable=1"
            self._database = sqlite3.connect(location, uri=True)
        except (TypeError, RuntimeError, sqlite3.Error) as error:
            # faiss says where in its source
            reason = "vectors.faiss is cut short or damaged" if "faiss::" in str(error) else str(error)
            raise IndexFormatError(f"cannot be opened: {reason}", str(path)) from None
        if self._faiss is not None and self._faiss.ntotal != self.manifest.count:
            raise IndexFormatError(
                f"vectors.faiss has {self._faiss.ntotal} rows and the manifest {self.manifest.count}", str(path)
            )

    def _open_vectors(self) -> Any:
        if self.manifest.count == 0:
            return None
        if "\udc80" <= max(str(self.path)) <= "\udcff":
            raise RuntimeError("faiss takes no path that is not UTF-8")
        read = faiss.read_index_binary if self.manifest.kind == "code" else faiss.read_index
        # Of faiss's flags this is the one that maps the vectors instead of reading them.
        return read(str(self.path / "vectors.faiss"), faiss.IO_FLAG_MMAP_IFC)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def row_of(self, name: str) -> int:
        """Find the row of an id.

        Raises
        ------
        RecordError
            The index has no such id.
        """
        found = self._ask("SELECT row FROM records WHERE id = ?", name)
        if found is None:
            raise RecordError(f"has no item with the id {name!r}", str(self.path))
        return int(found[0])

    def record(self, row: int) -> tuple[str, str]:
        """Read a row's id, and its Feature without its vector, as JSON that ends in ``properties``."""
        found = self._ask("SELECT id, record FROM records WHERE row = ?", row)
        if found is None:
            raise IndexFormatError(f"records.sqlite has no row {row}", str(self.path))
        return found[0], found[1]

    def _ask(self, statement: str, value: str | int) -> tuple[Any, ...] | None:
        try:
            found: tuple[Any, ...] | None = self._database.execute(statement, (value,)).fetchone()
        except sqlite3.Error as error:
            raise IndexFormatError(f"records.sqlite cannot be read: {error}", str(self.path)) from None
        return found

    def vector(self, row: int) -> NDArray[Any]:
        """Read a row's vector: uint8 (bytes,) of a code, float32 (dim,) of an embedding."""
        vector: NDArray[Any] = self._faiss.reconstruct(row)
        return vector

    def accept(self, vectors: Vectors) -> Binarizer | None:
        """Check that queries are of the index's vector space, and say how to binarize them where they are embeddings.

        Raises
        ------
        FingerprintError
            They are of another space.
        """
        mine, theirs = self.manifest.vectors, vectors.head
        if mine is None or theirs is None:
            return None
        binarizer = None
        found = theirs
        if self.manifest.kind == "code" and vectors.kind == "embedding":
            dim, method = theirs["dim"], mine.get("method")
            if method not in METHODS:
                raise FingerprintError(
                    f"the codes of {self.path} were not made by rsr binarize (method {method}); bring codes made alike"
                )
            bits = dim if method == "sign" else mine["bits"]
            binarizer = Binarizer(method, dim, theirs["fingerprint"], bits, mine.get("seed"))
            found = binarizer.head
        size = "bits" if self.manifest.kind == "code" else "dim"
        if found["fingerprint"] == mine["fingerprint"] and found[size] == mine[size]:
            return binarizer
        made_of = f", made of embeddings {mine['of']}" if "of" in mine else ""
        raise FingerprintError(
            f"the queries are of another vector space ({describe(theirs)}) than the index {self.path}"
            f" ({describe(mine)}{made_of}); make them with the same settings"
        )

    def search(
        self, queries: NDArray[Any], k: int | None = None, radius: float | None = None
    ) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Find each query's nearest rows, in the order of (distance, row).

        Parameters
        ----------
        queries : numpy.ndarray
            uint8 (n, bytes) of codes, or float32 (n, dim) of embeddings.
        k : int, optional
            At most so many hits.
        radius : float, optional
            Hits at most so far away.

        Returns
        -------
        list of tuple
            For each query the distances, float64 (hits,), and the rows, int64 (hits,). Distances are bits that
            differ for codes; for embeddings sums of absolute differences (l1), Euclidean (l2), one minus the cosine,
            or the negative dot product.

        Raises
        ------
        RsrError
            A query is too long for float32's squares.
        """
        count = self.manifest.count
        if count == 0 or not len(queries):
            return [(np.empty(0), np.empty(0, np.int64))] * len(queries)
        wanted = count if k is None else min(k, count)
        exact = self.manifest.kind == "code"
        if self.manifest.metric == "cosine":
            queries = _unit(queries)
        elif not exact:
            greatest_norm(queries)
        start = FIRST_CANDIDATES if k is None else wanted if exact else wanted + SPARE_CANDIDATES
        width = min(count, start)
        results: list[Any] = [None] * len(queries)
        open_queries = np.arange(len(queries))
        while len(open_queries):
            found = self._faiss.search(np.ascontiguousarray(queries[open_queries]), width)
            unsettled = []
            for i, near, rows in zip(open_queries, *found, strict=True):
                distances, rows, beyond = (
                    (near.astype(np.float64), rows, float(near[-1])) if exact else self._rescore(queries[i], near, rows)
                )
                limit = np.inf if radius is None else radius
                if len(distances) >= wanted:
                    limit = min(limit, distances[wanted - 1])
                settled = width == count or limit < beyond or (exact and width >= wanted)
                if not settled:
                    unsettled.append(i)
                    continue
                within = np.count_nonzero(distances <= (np.inf if radius is None else radius))
                hits = min(wanted, within)
                results[i] = (distances[:hits].copy(), rows[:hits].copy())
            open_queries = np.array(unsettled, dtype=np.intp)
            width = min(count, width * GROWTH)
        return results

    def _rescore(
        self, query: NDArray[np.float32], near: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
        """Measure candidates in float64 and sort them by (distance, row).

        Returns the distances, the rows, and a distance that no row outside the candidates is below: faiss's
        last one less the greatest rounding error of a float32 sum of dim + 3 products in any order
        (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1).
        """
        metric = self.manifest.metric
        wide = query.astype(np.float64)
        distances = np.concatenate(
            [
                _distances(metric, wide, self._faiss.reconstruct_batch(rows[start : start + RESCORE_ROWS]))
                for start in range(0, len(rows), RESCORE_ROWS)
            ]
        )
        order = np.lexsort((rows, distances))
        terms = (query.size + 3) * FLOAT32_ROUNDING
        gamma = terms / (1 - terms)
        norm, last = float(np.linalg.norm(wide)), float(near[-1])
        if metric == "l1":
            beyond = last * (1 - gamma)
        elif metric == "l2":
            beyond = max(0.0, last - gamma * (norm + self.manifest.max_norm) ** 2) ** 0.5
        else:
            beyond = -last - gamma * norm * self.manifest.max_norm
            if metric == "cosine":  # of unit vectors whose lengths were rounded too
                beyond += 1 - 8 * FLOAT32_ROUNDING
        return distances[order], rows[order], beyond


def _distances(metric: str, query: NDArray[np.float64], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    if metric == "l1":
        return np.abs(vectors - query).sum(axis=1)
    if metric == "l2":
        return np.sqrt(np.square(vectors - query).sum(axis=1))
    products = (vectors * query).sum(axis=1)
    if metric == "dot":
        return -products
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(query)
    return np.maximum(0.0, 1.0 - products / np.where(lengths > 0, lengths, 1))
