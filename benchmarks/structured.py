"""Draw vectors that lie as embeddings of imagery do: clusters within clusters, most of the variance in few directions.

    python benchmarks/structured.py --rows 10000000 --noise 0.3 --out codes.npy

Rows come in blocks, each from a seed of its own, so that any number of rows takes the memory of one block, and the
first million of ten million are the same as a million alone. Queries come from the same distribution and are no rows.

A row is a point of `LATENT` hidden dimensions, whose variance falls as 1 / number, projected to `DIM` ones, and noise
of every dimension on its own, `noise` times the standard deviation of the rest. Its point is that of a theme (a land
cover), moved by that of a place, moved by its own; few places have most rows, as Zipf's law has it (sea, forest).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

DIM = 768
LATENT = 64
THEMES, PLACES = 50, 20_000
#: Standard deviation of a theme, of a place around its theme, and of a row around its place.
SPREADS = 1.0, 0.6, 0.35
ZIPF = 0.8
BLOCK = 1 << 14


class Structured:
    """A distribution of vectors.

    Parameters
    ----------
    noise : float
        Standard deviation of each dimension's own noise, relative to that of what the dimensions share.
    seed : int
        Of everything that is drawn.
    """

    def __init__(self, noise: float, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 0])
        scales = np.arange(1, LATENT + 1) ** -0.5
        scales /= np.linalg.norm(scales) * np.linalg.norm(SPREADS)
        self._seed, self._noise = seed, noise
        self._scales = (scales * SPREADS[2]).astype(np.float32)
        themes = rng.standard_normal((THEMES, LATENT)) * scales * SPREADS[0]
        places = rng.standard_normal((PLACES, LATENT)) * scales * SPREADS[1]
        self._places = (themes[rng.integers(THEMES, size=PLACES)] + places).astype(np.float32)
        self._directions = rng.standard_normal((LATENT, DIM), dtype=np.float32)
        shares = np.arange(1, PLACES + 1) ** -ZIPF
        self._shares = np.cumsum(shares / shares.sum())

    def _blocks(self, count: int, stream: int) -> Iterator[NDArray[np.float32]]:
        for number, start in enumerate(range(0, count, BLOCK)):
            rng = np.random.default_rng([self._seed, stream, number])
            places = np.searchsorted(self._shares, rng.random(BLOCK))
            latent = self._places[places] + rng.standard_normal((BLOCK, LATENT), dtype=np.float32) * self._scales
            vectors = latent @ self._directions
            vectors += self._noise * rng.standard_normal((BLOCK, DIM), dtype=np.float32)
            yield vectors[: count - start]

    def rows(self, count: int) -> Iterator[NDArray[np.float32]]:
        """Yield rows in blocks, float32 (n, DIM)."""
        return self._blocks(count, 1)

    def queries(self, count: int) -> NDArray[np.float32]:
        """Return vectors (count, DIM) that are no rows."""
        return np.concatenate(list(self._blocks(count, 2)))


def codes(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the signs of vectors (n, DIM) as packed bits (n, DIM // 8)."""
    return np.packbits(vectors > 0, axis=1)


def write(path: Path, count: int, noise: float, seed: int = 0, *, floats: bool = False) -> None:
    """Write rows to a ``.npy`` file: codes, uint8 (count, DIM // 8), or vectors, float32 (count, DIM)."""
    shape, dtype = (count, DIM if floats else DIM // 8), np.float32 if floats else np.uint8
    with path.open("wb") as file:
        facts = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, facts)
        for block in Structured(noise, seed).rows(count):
            file.write((block if floats else codes(block)).data)


def main() -> None:
    """Write rows as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, required=True, metavar="N")
    parser.add_argument("--noise", type=float, default=0.3, metavar="SHARE")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--floats", action="store_true", help="write vectors in place of codes")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    write(options.out, options.rows, options.noise, options.seed, floats=options.floats)


if __name__ == "__main__":
    main()
