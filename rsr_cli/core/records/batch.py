"""Records in memory: batches of GeoJSON Features with a column of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rsr_cli.core.errors import RecordError, RsrError, Skips

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rsr_cli.core.records.facts import Facts
    from rsr_cli.core.records.space import Space

Record = dict[str, Any]
R = TypeVar("R")


class Columns(Protocol):
    """Records that are still columns of a table, of a layout that a writer may share."""

    @property
    def layout(self) -> Any:
        """What the columns are."""

    @property
    def candidates(self) -> tuple[tuple[str, int, str], ...]:
        """The columns that may hold vectors, where that is not known: name, dimensions and type of number."""

    def __len__(self) -> int: ...

    def facts(self) -> Facts | None:
        """Return what an index keeps of the records, None if they have to be read one by one."""

    def spaces(self) -> dict[tuple[str, str], int]:
        """Return how many records have a vector of a kind, and what is known of its space, as JSON."""

    def texts(self, without: Collection[str] = ()) -> list[str] | None:
        """Return the records as JSON, None if they have to be written one by one."""

    def for_table(self) -> Any:
        """Return the columns of the layout, and no others."""

    def records(self) -> list[Record]:
        """Return the records."""

    def take(self, chosen: Sequence[int]) -> Columns:
        """Return the chosen ones."""


class Batch:
    """Consecutive records of one input.

    Parameters
    ----------
    name : str
        The input's name as the user gave it.
    lines : sequence of int
        Line of each record, or its row in a table, from 1.
    records : list of dict or Columns
        GeoJSON Features, or columns that become Features when they are asked for.
    vectors : numpy.ndarray, optional
        One row per record: float32 (n, dim) of embeddings, or uint8 (n, ceil(bits / 8)) of codes, most significant bit
        first. ``None`` where vectors were not asked for; then they are still in the records.
    space : Space, optional
        The space of the vectors.

    Attributes
    ----------
    size : int
        Bytes of the input that were read for the records.
    beside : tuple of numpy.ndarray and Space, or None
        A second column of vectors: embeddings, float32 (n, dim), beside the codes that were made of them.
    """

    __slots__ = ("_records", "beside", "lines", "name", "size", "space", "vectors")

    def __init__(
        self,
        name: str,
        lines: Sequence[int],
        records: list[Record] | Columns,
        vectors: NDArray[Any] | None = None,
        space: Space | None = None,
    ) -> None:
        self.name = name
        self.lines = lines
        self._records = records
        self.vectors = vectors
        self.space = space
        self.size = 0
        self.beside: tuple[NDArray[Any], Space] | None = None

    @property
    def records(self) -> list[Record]:
        """The records, which may be changed."""
        if not isinstance(self._records, list):
            try:
                self._records = self._records.records()
            except RsrError as error:
                error.place = error.place or self.name
                raise
        return self._records

    @property
    def columns(self) -> Columns | None:
        """The columns of a table that the records are, as long as nobody has asked for records."""
        return None if isinstance(self._records, list) else self._records

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, i: int) -> str:
        """Return the input and line of record ``i``, for messages."""
        return f"{self.name}:{self.lines[i]}"

    @property
    def vector_columns(self) -> list[tuple[NDArray[Any], Space]]:
        """Each column of vectors with its space, in the order in which records have them: embeddings before codes."""
        own = [] if self.vectors is None or self.space is None else [(self.vectors, self.space)]
        return own if self.beside is None else [self.beside, *own]

    def keep(self, chosen: Sequence[int]) -> None:
        """Drop all records but the chosen ones."""
        if len(chosen) == len(self):
            return
        self.lines = [self.lines[i] for i in chosen]
        records = self._records
        self._records = [records[i] for i in chosen] if isinstance(records, list) else records.take(chosen)
        if self.vectors is not None:
            self.vectors = self.vectors[list(chosen)]
        if self.beside is not None:
            values, space = self.beside
            self.beside = values[list(chosen)], space

    def split(self, count: int) -> Batch:
        """Keep the first records, and return the others as a batch of their own."""
        other = Batch(self.name, self.lines, self._records, self.vectors, self.space)
        other.beside = self.beside
        other.keep(range(count, len(self)))
        self.keep(range(count))
        return other

    def keep_sound(self, sound: NDArray[np.bool_], wrong: Callable[[int], str], skips: Skips) -> None:
        """Drop records that are not sound, bool (n,), if ``skips`` lets them go; ``wrong`` says why one is not."""
        if sound.all():
            return
        for i in (~sound).nonzero()[0].tolist():
            skips(RecordError(wrong(i), self.place(i)))
        self.keep(sound.nonzero()[0].tolist())

    def set_vectors(self, values: NDArray[Any], space: Space, skips: Skips) -> None:
        """Take vectors (n, width) of a space, beside those that are there, and drop records whose vector is unusable.

        Raises
        ------
        RecordError
            An embedding has NaN or infinite values, or a code has more bits than its space.
        """
        import numpy as np

        if space.kind == "embedding":
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused
                values = values.astype(np.float32, copy=False)
            sound, wrong = np.isfinite(values).all(axis=1), "its embedding holds NaN or infinite values"
        else:
            sound, wrong = values[:, -1] & space.padding == 0, f"its code has more than {space.size} bits"
        if self.vectors is None:
            self.vectors, self.space = values, space
        else:
            self.beside = values, space
        self.keep_sound(sound, lambda _: wrong, skips)

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
                error.within(self.place(i))
                if not isinstance(error, RecordError):
                    raise
                skips(error)
                dropped.add(i)
        if dropped:
            self.keep([i for i in range(len(self)) if i not in dropped])
        return results
