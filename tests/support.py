"""What several test modules build: records with vectors, batches and indexes of them, and codes."""

from __future__ import annotations

import base64
import re
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest

from rsr_cli.core.errors import Skips
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.jsonl import dump, give_vectors, take_vectors
from rsr_cli.core.records.space import KINDS, StreamSpace
from rsr_cli.core.records.streams import read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import ModuleType

    from rsr_cli.core.fitted.state import Fitted
    from rsr_cli.core.index.reading import Index


#: Marks a test that runs an encoder with PyTorch, which a search-only installation lacks.
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


def script(path: Path) -> ModuleType:
    """Return a script, which is in no package, as a module."""
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def feature(name, **properties) -> dict:
    return {"type": "Feature", "id": name, "geometry": None, "properties": properties}


def embedding(vector, model="m", fingerprint="emb") -> dict:
    """Build the ``embedding`` property as docs/design.md has it."""
    vector = np.asarray(vector, "<f4")
    data = base64.b64encode(vector.tobytes()).decode()
    return {"model": model, "fingerprint": fingerprint, "dim": vector.size, "dtype": "float32", "data": data}


def code(packed, bits, fingerprint="codes") -> dict:
    """Build the ``code`` property as docs/design.md has it."""
    data = base64.b64encode(np.asarray(packed, np.uint8).tobytes()).decode()
    return {"method": "sign", "bits": bits, "of": "emb", "fingerprint": fingerprint, "data": data}


def embedding_records(vectors: np.ndarray, fingerprint="emb") -> list[dict]:
    return [feature(f"t{i}", embedding=embedding(v, "m", fingerprint)) for i, v in enumerate(vectors)]


def code_records(codes: np.ndarray, bits: int, names=None) -> list[dict]:
    return [feature(names[i] if names else f"t{i}", code=code(packed, bits)) for i, packed in enumerate(codes)]


def drawn_record(name, dim=16) -> dict:
    """Build a record with an embedding of random numbers."""
    vector = np.random.default_rng(abs(hash(name))).standard_normal(dim).astype(np.float32)
    return feature(name, embedding=embedding(vector, "m", "f"))


def drawn_lines(n, dim=16) -> bytes:
    return b"".join(orjson.dumps(drawn_record(f"t{i}", dim)) + b"\n" for i in range(n))


def read_all(*paths, keep_going=False) -> tuple[list, list[str], Skips]:
    """Read files as a command does; return the ids, the places, and what was skipped."""
    skips = Skips(keep_going=keep_going)
    found = list(read([str(path) for path in paths], skips))
    return [r["id"] for b in found for r in b.records], [b.place(i) for b in found for i in range(len(b))], skips


def batches(records: Iterable[dict], kinds=KINDS, *, size=300, skips=None, beside=None) -> Iterator[Batch]:
    """Lay records out as a reader does, their vectors in a column, or in two with a kind beside another one."""
    stream, first, remaining = StreamSpace(kinds, beside), 1, iter(records)
    while some := list(islice(remaining, size)):
        batch = Batch("in", list(range(first, first + len(some))), some)
        first += len(some)
        take_vectors(batch, stream, skips or Skips())
        if len(batch):
            yield batch


def says_what_is_lost(stderr: bytes, name: str) -> bool:
    """Return whether a command that was stopped says so, if it had made records for a file, and nothing else."""
    lost = (
        rf"(rsr \w+: stopped by SIG\w+: \d+ records? (was|were) made, and (is|are) lost with {re.escape(name)}; .*\n)?"
    )
    return re.fullmatch(lost, stderr.decode()) is not None


def failure_in(stream: bytes) -> dict:
    """Parse the one line that a command that failed wrote to stdout; a signal may leave an empty one before it."""
    (line,) = stream.strip().splitlines()
    failure = orjson.loads(line)
    assert failure.pop("type") == "Failure"
    return failure


def written(batches: Iterable[Batch]) -> list[dict]:
    """Parse what a writer makes of batches."""
    records = []
    for batch in batches:
        for vectors, space in batch.vector_columns:
            give_vectors(batch.records, vectors, space)
        records += [orjson.loads(dump(record)) for record in batch.records]
    return records


def make_index(path, records: list[dict], metric=None, *, refine=None, **settings) -> Index:
    """Build an index of all the records, of their embeddings alone if there is a metric and no refine, and open it."""
    from rsr_cli.core.index.build import build, taken
    from rsr_cli.core.index.reading import Index

    takes = taken(metric, refine)
    read = batches(records, takes.kinds, beside=takes.beside)
    total = sum(build(read, path, metric, Skips(), refine=refine, **settings))
    assert total == len(records)
    return Index(path)


def grown(path, records: list[dict], segments, deleted, metric=None, refine=None, fitted=()) -> Index:
    """Build an index of a segment per range of records, in which items of some numbers are deleted, and open it."""
    from rsr_cli.core.index import build, upkeep
    from rsr_cli.core.index.reading import Index

    for number, rows in enumerate(segments):
        takes = build.appendable(path, metric, refine)
        read = batches(records[rows.start : rows.stop], takes.kinds, beside=takes.beside)
        given = () if number else fitted  # the index keeps it
        sum(build.append(read, path, takes.metric, Skips(), refine=takes.refine, fitted=given))
    upkeep.delete(path, lambda index: upkeep.rows_with_ids(index, [f"t{row}" for row in deleted], Skips()))
    return Index(path)


def hits_of(lines: Iterable[bytes]) -> list[tuple[str, float]]:
    """Return the ids and distances of hits."""
    hits = [orjson.loads(line) for line in lines]
    return [(hit["id"], hit["properties"]["distance"]) for hit in hits]


def binarized(records: Iterable[dict], method="sign", bits=None, seed=None, skips=None, **keep) -> list[dict]:
    from rsr_cli.core.codes.base import binarize

    return written(binarize(batches(records, ("embedding",), skips=skips), method, bits, seed, **keep))


def learned(method: str, vectors: np.ndarray, size=None, seed=0) -> Fitted:
    """Learn from vectors, as `embedding_records` states their space, of dims or bits where a method needs them."""
    from rsr_cli.core.fitted.learn import learn
    from rsr_cli.core.fitted.registry import FIT_METHODS
    from rsr_cli.core.fitted.state import Fitted
    from rsr_cli.core.records.space import Space

    size = size if FIT_METHODS[method].size else None
    of = Space("embedding", vectors.shape[1], "float32", "emb", {"model": "m"})
    return Fitted.make(method, of, learn(method, vectors, size, seed), {"seed": seed, "sample": len(vectors)})


def codes_of(vectors: np.ndarray, method: str, bits=None, seed=None) -> list[dict]:
    return binarized(embedding_records(vectors), method, bits, seed)


def weighted_distances(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the asymmetric distances of a query's values (bits,) to rows of bits (n, bits), as design.md has them."""
    sizes = np.abs(values.astype(float)) if values.any() else np.ones(len(values))
    fours = [sizes[i : i + 4].sum() for i in range(0, len(sizes), 4)]
    weights = np.round(sizes * min(253 / max(fours), (65280 - len(sizes) / 2) / sizes.sum()))
    return ((rows != (values > 0)) * weights).sum(axis=1) * len(sizes) / weights.sum()


def bits_of(record: dict) -> list[int]:
    """Unpack by hand: the first bit is the most significant one of the first byte."""
    raw = base64.b64decode(record["properties"]["code"]["data"])
    return [byte >> (7 - i) & 1 for byte in raw for i in range(8)][: record["properties"]["code"]["bits"]]
