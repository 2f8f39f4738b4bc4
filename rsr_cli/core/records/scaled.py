"""Embeddings in other types of number than float32: int8 with a scale per vector, and float16.

A value of int8 stands for itself times the scale of its vector. The scale is the vector's largest absolute value / 127,
of as few binary digits that float32 holds each product. So the numbers that are read are those that were written, and
are written as the same bytes again; int8 of others, whose largest value may be below 127, is quantized anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch

INT8_MAX = 127
#: float32 has 24 binary digits: 17 of a scale, and the 7 of 127.
SCALE_MASK = 0xFFFFFF80
#: The least scale, that of zeros too: float32 has fewer digits below it.
LEAST_SCALE = 2.0**-126
#: The types that embeddings can be written in, the default first.
WRITTEN = ("float32", "float16", "int8")


def quantized(vectors: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return vectors, finite float32 (n, dim), as int8 (n, dim) in -127..127, and their scales, float32 (n,)."""
    import numpy as np

    values = np.asarray(vectors, np.float32)
    scales = np.maximum(np.abs(values).max(axis=1) / np.float32(INT8_MAX), np.float32(LEAST_SCALE))
    scales = (scales.view(np.uint32) & np.uint32(SCALE_MASK)).view(np.float32)
    return np.rint(values / scales[:, None]).astype(np.int8), scales


def widened(whole: NDArray[Any], scales: NDArray[Any]) -> NDArray[Any]:
    """Return what int8 (n, dim) and their scales (n,) stand for, float32 (n, dim); infinite beyond float32."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        return whole.astype(np.float32) * scales.astype(np.float32)[:, None]


def drop_beyond(batch: Batch, vectors: NDArray[Any], dtype: str, skips: Skips) -> None:
    """Drop the records of a batch whose embedding, of float32 (n, dim), a type of number cannot hold.

    Raises
    ------
    RecordError
        A value is beyond float16's.
    """
    import numpy as np

    if dtype == "float16":
        largest = np.abs(vectors).max(axis=1)
        what = "its embedding has values up to {:.2g}, beyond float16's"
        batch.keep_sound(largest <= np.finfo(np.float16).max, lambda i: what.format(largest[i]), skips)


def written_as(batches: Iterable[Batch], dtype: str, skips: Skips) -> Iterator[Batch]:
    """Yield batches whose embeddings will be written in a type of number, one of `WRITTEN`.

    Raises
    ------
    RecordError
        As of `drop_beyond`.
    """
    found = stated = None
    for batch in batches:
        assert batch.vectors is not None
        assert batch.space is not None
        if stated is None or batch.space is not found:
            found, stated = batch.space, replace(batch.space, dtype=dtype)
        batch.space = stated
        drop_beyond(batch, batch.vectors, dtype, skips)
        yield batch
