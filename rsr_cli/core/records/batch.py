"""Records in memory: batches of GeoJSON Features with a column of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rsr_cli.core.errors import RecordError, RsrError, Skips

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rsr_cli.core.records.space import Space

Record = dict[str, Any]
R = TypeVar("R")


@dataclass(slots=True)
class Batch:
    """Consecutive records of one input.

    Attributes
    ----------
    name : str
        The input's name as the user gave it.
    lines : list of int
        Line of each record, from 1.
    records : list of dict
        GeoJSON Features.
    vectors : numpy.ndarray, optional
        One row per record: float32 (n, dim) of embeddings, or uint8 (n, ceil(bits / 8)) of codes, most significant bit
        first. ``None`` where vectors were not asked for; then they are still in the records.
    space : Space, optional
        The space of the vectors.
    size : int
        Bytes of the input that were read for the records.
    """

    name: str
    lines: list[int]
    records: list[Record]
    vectors: NDArray[Any] | None = None
    space: Space | None = None
    size: int = 0

    def __len__(self) -> int:
        return len(self.records)

    def place(self, i: int) -> str:
        """Return the input and line of record ``i``, for messages."""
        return f"{self.name}:{self.lines[i]}"

    def keep(self, chosen: Sequence[int]) -> None:
        """Drop all records but the chosen ones."""
        if len(chosen) == len(self):
            return
        self.lines = [self.lines[i] for i in chosen]
        self.records = [self.records[i] for i in chosen]
        if self.vectors is not None:
            self.vectors = self.vectors[list(chosen)]

    def keep_sound(self, sound: NDArray[np.bool_], wrong: Callable[[int], str], skips: Skips) -> None:
        """Drop records that are not sound, bool (n,), if ``skips`` lets them go; ``wrong`` says why one is not."""
        if sound.all():
            return
        for i in (~sound).nonzero()[0].tolist():
            skips(RecordError(wrong(i), self.place(i)))
        self.keep(sound.nonzero()[0].tolist())

    def apply(self, function: Callable[[Record], R], skips: Skips) -> list[R]:
        """Call a function with each record and return what it returned.

        Records for which it raises RecordError are dropped from the batch, if ``skips`` lets them go; the error is
        given the record's place. Any other error of ours is given it too, and raised.
        """
        results: list[R] = []
        dropped: set[int] = set()
        remaining = iter(self.records)
        while True:
            try:
                for result in map(function, remaining):
                    results.append(result)  # noqa: PERF402  what came before an error is kept
                break
            except RsrError as error:
                i = len(results) + len(dropped)
                error.place = f"{self.place(i)}: {error.place}" if error.place else self.place(i)
                if not isinstance(error, RecordError):
                    raise
                skips(error)
                dropped.add(i)
        if dropped:
            self.keep([i for i in range(len(self)) if i not in dropped])
        return results
