"""What several test modules build: records with vectors, and batches of them."""

from __future__ import annotations

import base64
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import orjson

from rsr_cli.core.errors import Skips
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.jsonl import take_vectors, write_records
from rsr_cli.core.records.space import KINDS, StreamSpace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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


def batches(records: Iterable[dict], kinds=KINDS, *, size=300, skips=None) -> Iterator[Batch]:
    """Lay records out as a reader does, their vectors in a column."""
    stream, first, remaining = StreamSpace(kinds), 1, iter(records)
    while some := list(islice(remaining, size)):
        batch = Batch("in", list(range(first, first + len(some))), some)
        first += len(some)
        take_vectors(batch, stream, skips or Skips())
        if len(batch):
            yield batch


def written(batches: Iterable[Batch]) -> list[dict]:
    """Parse what a writer makes of batches."""
    return [orjson.loads(line) for batch in batches for line in write_records(batch).splitlines()]
