"""Records in memory: GeoJSON Features in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Record = dict[str, Any]


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
    """

    name: str
    lines: list[int]
    records: list[Record]

    def __len__(self) -> int:
        return len(self.records)

    def place(self, i: int) -> str:
        """Name the input and line of record ``i``."""
        return f"{self.name}:{self.lines[i]}"

    def keep(self, chosen: Sequence[int]) -> None:
        """Drop all records but the chosen ones."""
        self.lines = [self.lines[i] for i in chosen]
        self.records = [self.records[i] for i in chosen]
