"""Digests of ids: a sorted column of them says at once which ids a segment does not have."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Ids that are longer are digested one by one: laid out as an array, they would take up its width for each.
MAX_BYTES = 512
_ODD, _STEP = np.uint64(0xFF51AFD7ED558CCD), 0x9E3779B97F4A7C15  # of MurmurHash3's finalizer, and the golden ratio


def digests(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Return a digest of each id, uint64 (n,), the same on every machine: two ids rarely share one.

    The words of an id, 8 bytes each, are multiplied by an odd number of their place, mixed, and added.
    """
    return _digests([name.encode("utf-8", "surrogatepass") for name in ids])


def _digests(ids: list[bytes]) -> NDArray[np.uint64]:
    longest = max(map(len, ids), default=0)
    if longest > MAX_BYTES:
        is_long = np.fromiter((len(name) > MAX_BYTES for name in ids), bool, len(ids))
        total = np.empty(len(ids), np.uint64)
        hashed = [hashlib.blake2b(name, digest_size=8).digest() for name in ids if len(name) > MAX_BYTES]
        total[is_long] = np.frombuffer(b"".join(hashed), "<u8")
        total[~is_long] = _digests([name for name in ids if len(name) <= MAX_BYTES])
        return total
    width = max(1, -(-longest // 8))
    words = np.array(ids, f"S{8 * width}").view("<u8").reshape(-1, width)
    total = np.zeros(len(ids), np.uint64)
    for place in range(width):
        mixed = words[:, place] * np.uint64((place + 1) * _STEP % 2**64 | 1)
        mixed ^= mixed >> np.uint64(32)
        mixed *= _ODD
        mixed ^= mixed >> np.uint64(29)
        total += mixed
    return total


def among(known: NDArray[np.uint64], sought: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which digests (n,) are among known ones, which are sorted: bool (n,)."""
    if not len(known):
        return np.zeros(len(sought), np.bool_)
    at = np.minimum(np.searchsorted(known, sought), len(known) - 1)
    return np.asarray(known[at] == sought)


def common(some: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the digests that are in both of two sorted arrays."""
    few, many = (some, others) if len(some) <= len(others) else (others, some)
    return np.unique(few[among(many, few)])


class Seen:
    """What was seen of a stream, 16 bytes of each and whether it was in this stream; sorted, in a few arrays."""

    def __init__(self) -> None:
        self._sorted: list[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]] = []

    def add(self, digests: Sequence[bytes], *, met: bool = False) -> None:
        """Add digests of 16 bytes; ``met`` if this stream has them."""
        if not digests:
            return
        first, second = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2).T
        flags = np.full(len(digests), met)
        while self._sorted and len(self._sorted[-1][0]) <= 2 * len(first):
            others = self._sorted.pop()
            first, second, flags = (np.concatenate(pair) for pair in zip(others, (first, second, flags), strict=True))
        order = np.argsort(first, kind="stable")  # which merges what is sorted
        self._sorted.append((first[order], second[order], flags[order]))

    def meet(self, digests: Sequence[bytes]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which digests (n,) of the stream were added before, and which it has had already: two bool (n,)."""
        first, second = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2).T
        again, added = np.zeros((2, len(digests)), np.bool_)
        order = np.argsort(first, kind="stable")
        again[order[1:]] = (first[order[1:]] == first[order[:-1]]) & (second[order[1:]] == second[order[:-1]])
        for sorted_, others, met in self._sorted:
            at = np.minimum(np.searchsorted(sorted_, first), len(sorted_) - 1)
            here = (sorted_[at] == first) & (others[at] == second)
            again |= here & met[at]
            added |= here
            met[at[here]] = True
        new = (~added & ~again).nonzero()[0]
        if len(new):
            self.add([digests[i] for i in new.tolist()], met=True)
        return added & ~again, again
