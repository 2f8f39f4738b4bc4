"""Hits: the found records, each with its query, rank and distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from rsr_cli.core.errors import FingerprintError, RecordError, Skips
from rsr_cli.core.index.build import HIT_FIELDS
from rsr_cli.core.records.fields import Kind, Vectors, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.index.build import Index
    from rsr_cli.core.records.batch import Batch, Record

#: Candidates held at once: of so many queries a batch is searched that theirs are no more.
CANDIDATES = 1 << 20


class Searcher:
    """Asks one index.

    Parameters
    ----------
    index : Index
        An open index.
    k : int or None
        At most so many hits a query.
    radius : float or None
        Hits at most so far away.
    exclude_self : bool
        Leave the item with the query's own id out.
    skips : Skips
        Asked about queries that cannot be used.
    """

    def __init__(self, index: Index, k: int | None, radius: float | None, *, exclude_self: bool, skips: Skips) -> None:
        self._index = index
        self._k = k
        self._radius = radius
        self._exclude_self = exclude_self
        self._skips = skips

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
            A query has no id, or no vector that the index compares.
        FingerprintError
            The queries are of another vector space than the index, or codes against embeddings.
        """
        vectors, binarizer = None, None
        for batch in batches:
            if vectors is None:
                vectors = Vectors(self._kind(batch))
            values = vectors.take(batch, self._skips)
            binarizer = binarizer or self._index.accept(vectors)
            kept = [i for i, record in enumerate(batch.records) if self._named(batch, i, record)]
            if not kept:
                continue
            values = values[kept]
            yield from self._hits([batch.records[i] for i in kept], binarizer(values) if binarizer else values)

    def by_id(self, names: Sequence[str]) -> Iterator[list[bytes]]:
        """Search for items of the index itself, as `by_record` does."""
        for name in names:
            try:
                row = self._index.row_of(name)
            except RecordError as error:
                self._skips(error)
                continue
            query: Record = orjson.loads(self._index.record(row)[1])
            yield from self._hits([query], self._index.vector(row)[None])

    def _kind(self, batch: Batch) -> Kind:
        """Choose the vector to compare: a code only where the index holds codes."""
        kind = kind_of(batch.records)
        if self._index.manifest.kind == "code" or not self._index.manifest.count:
            return kind
        if kind == "code" and not any("embedding" in record["properties"] for record in batch.records):
            raise FingerprintError(
                f"has a code, and {self._index.path} is an index of embeddings; leave rsr binarize out", batch.place(0)
            )
        return "embedding"

    def _named(self, batch: Batch, i: int, record: Record) -> bool:
        if record.get("id") is not None:
            return True
        self._skips(RecordError("has no id, by which its hits name it", batch.place(i)))
        return False

    def _hits(self, queries: Sequence[Record], values: NDArray[Any]) -> Iterator[list[bytes]]:
        more = self._k if self._k is None or not self._exclude_self else self._k + 1
        count = self._index.manifest.count
        step = max(1, CANDIDATES // max(1, count if more is None else min(more, count)))
        for start in range(0, len(queries), step):
            found = self._index.search(values[start : start + step], more, self._radius)
            for query, (distances, rows) in zip(queries[start : start + step], found, strict=True):
                yield self._lines(query, distances.tolist(), rows.tolist())

    def _lines(self, query: Record, distances: list[float], rows: list[int]) -> list[bytes]:
        """Write one query's hits, from the text of the found records: to parse it would take longer than to find it."""
        asked, labels = query["id"], query["properties"].get("labels")
        own = str(asked) if self._exclude_self else None
        lines: list[bytes] = []
        for distance, row in zip(distances, rows, strict=True):
            if len(lines) == self._k:
                break
            name, text = self._index.record(row)
            if name == own:
                continue
            values = (asked, len(lines) + 1, distance, labels)
            added = orjson.dumps({field: v for field, v in zip(HIT_FIELDS, values, strict=True) if v is not None})
            comma = b"" if text.endswith("{}}") else b","
            lines.append(text[:-2].encode() + comma + added[1:] + b"}\n")
        return lines
