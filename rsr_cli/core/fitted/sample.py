"""A random sample of a stream of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.errors import RsrError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import Space


class Reservoir:
    """Draws embeddings from a stream of unknown length, every one with the same probability.

    Algorithm R (Vitter 1985). What is drawn depends on the seed and the stream, and not on its batches.

    Parameters
    ----------
    size : int
        Maximum number of embeddings.
    seed : int
        Of the draw.

    Attributes
    ----------
    seen : int
        Number of embeddings in the stream so far.
    space : Space or None
        Of the embeddings.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = np.random.default_rng(seed)
        self.seen = 0
        self.space: Space | None = None
        self._pieces: list[NDArray[np.float32]] = []
        self._numbers = np.empty(0, np.int64)  # in the stream, once some were replaced

    def fill(self, batches: Iterable[Batch]) -> Iterator[int]:
        """Draw from a stream, and yield how many embeddings each batch has."""
        for batch in batches:
            if batch.vectors is None or not len(batch):
                continue
            self.space = self.space or batch.space
            room = max(0, self._size - self.seen)
            if room:
                self._pieces.append(batch.vectors[:room].copy())
            self.seen += min(room, len(batch))
            self._replace(batch.vectors[room:])
            yield len(batch)

    def _replace(self, embeddings: NDArray[np.float32]) -> None:
        """Let embeddings take the places of some that were drawn."""
        numbers = self.seen + np.arange(len(embeddings))
        self.seen += len(embeddings)
        places = (self._random.random(len(embeddings)) * (numbers + 1)).astype(np.int64)
        last = {place: i for i, place in enumerate(places.tolist()) if place < self._size}
        if not last:
            return
        if not len(self._numbers):
            self._pieces, self._numbers = [np.concatenate(self._pieces)], np.arange(self._size)
        at, taken = list(last), list(last.values())
        self._pieces[0][at] = embeddings[taken]
        self._numbers[at] = numbers[taken]

    def drawn(self) -> NDArray[np.float32]:
        """Return the sample, float32 (n, dim), in the order of the stream.

        Raises
        ------
        RsrError
            The stream had no embeddings.
        """
        if not self.seen:
            raise RsrError("there are no embeddings to learn from")
        drawn = np.concatenate(self._pieces)
        return drawn[np.argsort(self._numbers)] if len(self._numbers) else drawn
