"""Asking an index: queries into hits, the found records with query, rank and distance."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import RecordError, Skips, UsageError, shown
from rsr_cli.core.index.flat import drop_too_long
from rsr_cli.core.index.manifest import HAMMING
from rsr_cli.core.index.table import hit_line
from rsr_cli.core.records.exact import loads
from rsr_cli.core.records.fields import HIT_FIELDS, extent_of, gsd_of, id_of, label_list, one_form
from rsr_cli.core.records.space import KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rsr_cli.core.index.reading import Index
    from rsr_cli.core.records.batch import Batch, Record

log = logging.getLogger("rsr")

#: Maximum number of candidates in memory; it limits how many queries are searched at once.
CANDIDATES = 1 << 20
#: Measures that differ by more are worth a warning.
RATIO = 1.5
#: What an index states of its records -> how to measure it of a query, in metres, and the warning if they differ.
MEASURES = {
    "gsd": (
        gsd_of,
        "a query has a ground sample distance of %s and the index %s: the same object differs in size in pixels, and"
        " look-alikes may be missed",
    ),
    "extent": (
        extent_of,
        "a query is a tile of %s on the ground and the index has tiles of %s: the same object takes up a different"
        " share of the tile, and look-alikes may be missed",
    ),
}


class Searcher:
    """Asks one index.

    Parameters
    ----------
    index : Index
        An open index.
    k : int or None
        Maximum number of hits per query.
    radius : float or None
        Maximum distance of a hit.
    exclude_self : bool
        Leave the item with the query's own id out.
    skips : Skips
        Asked about queries that cannot be used.
    kept : sequence of numpy.ndarray or None, optional
        Per segment the rows that may be hits, as `Index.search` takes them.

    Attributes
    ----------
    selves : int
        Number of items left out because they have their query's own id.

    Raises
    ------
    UsageError
        The radius is below 0, and no distance of the index can be.
    """

    def __init__(
        self,
        index: Index,
        k: int | None,
        radius: float | None,
        *,
        exclude_self: bool,
        skips: Skips,
        kept: Sequence[NDArray[np.bool_] | None] | None = None,
    ) -> None:
        metric = index.manifest.metric
        if radius is not None and not radius >= 0 and metric != "dot":
            raise UsageError(f"a radius of {radius:g} contains nothing: {metric} distances are 0 or more")
        self._index = index
        self._k = k
        self._radius = radius
        self._exclude_self = exclude_self
        self._skips = skips
        self._kept = kept
        self._warned: set[str] = set()
        self.selves = 0

    def by_record(self, batches: Iterable[Batch]) -> Iterator[list[bytes]]:
        """Search for records with a code or an embedding.

        Parameters
        ----------
        batches : iterable of Batch
            Queries; against an index of codes, embeddings are binarized as the index was.

        Yields
        ------
        list of bytes
            The hits of one query, nearest first, as lines of JSON: the found Features with ``query``, ``rank``,
            ``distance`` and, where the query has labels, ``query_labels``.

        Raises
        ------
        RecordError
            A query has no id, malformed labels, no vector that the index compares, or an embedding too long for
            float32's squares.
        FingerprintError
            The queries are of another vector space than the index, or codes against embeddings.
        """
        known, binarizer = None, None
        for batch in batches:
            batch.apply(_check, self._skips)
            if batch.vectors is None or batch.space is None or not len(batch):
                continue
            if known is None:
                known, binarizer = batch.space, self._index.binarizer_for(batch.space)
            if self._index.manifest.metric not in (HAMMING, "cosine"):
                drop_too_long(batch, self._skips)
            self._compare(batch.records)
            yield from self._hits(batch.records, binarizer(batch.vectors) if binarizer else batch.vectors)

    def by_id(self, names: Sequence[str]) -> Iterator[list[bytes]]:
        """Search for items of the index itself, as `by_record` does."""
        for name in names:
            try:
                row = self._index.row_of(one_form(name))
                query: Record = loads(self._index.record(row)[1].encode())
                _check(query)
            except RecordError as error:
                error.place = error.place or f"{self._index.path}: {shown(name)}"
                self._skips(error)
                continue
            yield from self._hits([query], self._index.vector(row)[None])

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The vectors to take from queries, in order of preference: codes only against an index of codes."""
        space = self._index.manifest.space
        return ("embedding",) if space and space.kind == "embedding" else KINDS

    def _compare(self, queries: Sequence[Record]) -> None:
        """Warn once of each of `MEASURES` in which queries and index differ."""
        for name, (measure, warning) in MEASURES.items():
            stated: tuple[float, float] | None = getattr(self._index.manifest, name)
            if stated is None or name in self._warned:
                continue
            least, greatest = stated
            for found in filter(None, map(measure, queries)):
                if not least / RATIO <= found <= greatest * RATIO:
                    low, high = _rounded(least), _rounded(greatest)
                    has = f"{low} m" if low == high else f"{low} to {high} m"
                    log.warning(warning, f"{_rounded(found)} m", has)
                    self._warned.add(name)
                    break

    def _hits(self, queries: Sequence[Record], values: NDArray[Any]) -> Iterator[list[bytes]]:
        more = self._k if self._k is None or not self._exclude_self else self._k + 1
        count = self._index.manifest.count
        step = max(1, CANDIDATES // max(1, count if more is None else min(more, count)))
        for start in range(0, len(queries), step):
            found = self._index.search(values[start : start + step], more, self._radius, self._kept)
            for query, (distances, rows) in zip(queries[start : start + step], found, strict=True):
                yield self._lines(query, distances.tolist(), rows.tolist())

    def _lines(self, query: Record, distances: list[float], rows: list[int]) -> list[bytes]:
        """Return one query's hits as lines of JSON."""
        asked, labels = query["id"], query["properties"].get("labels")
        own = id_of(query) if self._exclude_self else None
        lines: list[bytes] = []
        for distance, row in zip(distances, rows, strict=True):
            if len(lines) == self._k:
                break
            name, text = self._index.record(row)
            if name == own:
                self.selves += 1
                continue
            values = (asked, len(lines) + 1, distance, labels)
            added = {field: v for field, v in zip(HIT_FIELDS, values, strict=True) if v is not None}
            lines.append(hit_line(text, added))
        return lines


def _check(query: Record) -> None:
    """Raise RecordError if a query's id or labels cannot be written to its hits."""
    id_of(query)
    label_list(query)


def _rounded(number: float) -> str:
    """Return a number with four digits that count."""
    return f"{float(f'{number:.4g}'):g}"
