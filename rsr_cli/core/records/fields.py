"""Vectors in records: the ``embedding`` and ``code`` properties, in and out of base64, and their fingerprints."""

from __future__ import annotations

import hashlib
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson
import pybase64

from rsr_cli.core.errors import FingerprintError, RecordError, Skips

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch, Record

Kind = Literal["embedding", "code"]
KINDS: tuple[Kind, ...] = ("code", "embedding")

#: The longest vector that is believed, in values or bits.
MAX_SIZE = 1 << 24
#: The dtypes an embedding may have, little-endian in the record.
DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4"), "float64": np.dtype("<f8")}


def kind_of(records: Iterable[Record]) -> Kind:
    """Tell which vector the first record that has one carries; a code comes before an embedding."""
    for record in records:
        for kind in KINDS:
            if kind in record["properties"]:
                return kind
    return "embedding"


def encode(values: NDArray[Any]) -> str:
    """Write an array's bytes as base64; the array is little-endian and contiguous."""
    return pybase64.b64encode_as_string(values.data)


def decode(text: Any, n_bytes: int) -> bytes:
    """Read ``n_bytes`` bytes from base64.

    Raises
    ------
    RecordError
        The text is not base64, or holds another number of bytes.
    """
    try:
        raw = pybase64.b64decode(text, validate=True)
    except (Base64Error, TypeError, ValueError) as error:
        raise RecordError(f"data is not base64: {error}") from None
    if len(raw) != n_bytes:
        raise RecordError(f"data holds {len(raw)} bytes where {n_bytes} are expected")
    return raw


class Vectors:
    """Takes the vectors of one vector space out of a stream's records.

    Parameters
    ----------
    kind : str
        ``embedding`` or ``code``.

    Attributes
    ----------
    head : dict or None
        The first record's property without its data: what all must share.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.head: dict[str, Any] | None = None
        self._n_bytes = 0
        self._dtype = np.dtype(np.uint8)

    def take(self, batch: Batch, skips: Skips) -> NDArray[Any]:
        """Remove the vectors from a batch of records.

        Parameters
        ----------
        batch : Batch
            Loses the property that held the vector, and the records that ``skips`` lets go.
        skips : Skips
            Asked about records without a usable vector.

        Returns
        -------
        numpy.ndarray
            float32 (n, dim) of embeddings; uint8 (n, ceil(bits / 8)) of codes, most significant bit first.

        Raises
        ------
        RecordError
            A record has no such vector, or a broken one.
        FingerprintError
            A vector is of another space than the first one.
        """
        kept, raws = [], []
        for i, record in enumerate(batch.records):
            try:
                raws.append(self._take_one(record["properties"]))
                kept.append(i)
            except RecordError as error:
                error.place = batch.place(i)
                skips(error)
            except FingerprintError as error:
                error.place = batch.place(i)
                raise
        if len(kept) < len(batch):
            batch.keep(kept)
        stacked: NDArray[Any] = np.frombuffer(b"".join(raws), dtype=self._dtype)
        if self.kind == "code":
            return stacked.reshape(len(raws), -1) if raws else np.empty((0, self._n_bytes), np.uint8)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused
            values = stacked.astype(np.float32, copy=False).reshape(len(raws), self.head["dim"] if self.head else 0)
        return self._finite(values, batch, skips)

    def _take_one(self, properties: dict[str, Any]) -> bytes:
        found = properties.pop(self.kind, None)
        if not isinstance(found, dict):
            if self.kind == "embedding" and "code" in properties:
                raise RecordError("has a code and no embedding any more; it was binarized already")
            hint = "rsr embed" if self.kind == "embedding" else "rsr binarize"
            raise RecordError(f"has no {self.kind}; pass the stream through {hint}")
        if self.head is None:
            n_bytes, dtype = self._layout(found)
            raw = decode(found.get("data"), n_bytes)
            self._n_bytes, self._dtype = n_bytes, dtype
            self.head = {key: value for key, value in found.items() if key != "data"}
            return raw
        if found.get("fingerprint") != self.head["fingerprint"] or found.get("dtype") != self.head.get("dtype"):
            raise FingerprintError(
                f"its {self.kind} is of another vector space ({describe(found)}) than the first one"
                f" ({describe(self.head)}); make both with the same settings, or keep them apart"
            )
        return decode(found.get("data"), self._n_bytes)

    def _layout(self, found: dict[str, Any]) -> tuple[int, np.dtype[Any]]:
        if not isinstance(found.get("fingerprint"), str):
            raise RecordError(f"its {self.kind} has no fingerprint")
        size = found.get("bits" if self.kind == "code" else "dim")
        if type(size) is not int or not 1 <= size <= MAX_SIZE:
            raise RecordError(f"its {self.kind} does not say its {'bits' if self.kind == 'code' else 'dim'}")
        if self.kind == "code":
            return (size + 7) // 8, np.dtype(np.uint8)
        dtype = DTYPES.get(str(found.get("dtype")))
        if dtype is None:
            raise RecordError(f"its embedding's dtype is {found.get('dtype')!r}; one of {', '.join(DTYPES)} is read")
        return size * dtype.itemsize, dtype

    def _finite(self, values: NDArray[np.float32], batch: Batch, skips: Skips) -> NDArray[np.float32]:
        finite = np.isfinite(values).all(axis=1)
        if finite.all():
            return values
        for i in np.flatnonzero(~finite):
            skips(RecordError("its embedding holds NaN or infinite values", batch.place(int(i))))
        batch.keep([int(i) for i in np.flatnonzero(finite)])
        return values[finite]


def describe(head: dict[str, Any]) -> str:
    """Name a vector space for a message: its fingerprint and what made it."""
    made_by = head.get("model") or head.get("method") or "unknown"
    return f"{head.get('fingerprint')} of {made_by}"


def embedding(vector: NDArray[np.float32], model: str, fingerprint: str, filled: Sequence[str] = ()) -> dict[str, Any]:
    """Build the ``embedding`` property.

    Parameters
    ----------
    vector : numpy.ndarray
        float32 (dim,).
    model, fingerprint : str
        What made it.
    filled : sequence of str
        Bands that were not there and were given the model's mean; told only where there are any.
    """
    made: dict[str, Any] = {"model": model, "fingerprint": fingerprint}
    if filled:
        made["filled"] = list(filled)
    data = encode(np.ascontiguousarray(vector, dtype="<f4"))
    return {**made, "dim": int(vector.size), "dtype": "float32", "data": data}


def fingerprint(facts: dict[str, Any]) -> str:
    """Hash what decides a vector space: the first 16 hexadecimal digits of the sha256 of its sorted JSON."""
    return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
