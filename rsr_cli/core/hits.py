"""Hits: the found records, each with its query, rank and distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import RecordError, Skips
from rsr_cli.core.records import Vectors, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.index import Index
    from rsr_cli.core.streams import Batch, Record


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

    def by_record(self, batches: Iterable[Batch]) -> Iterator[list[Record]]:
        """Search for records with a code or an embedding.

        Parameters
        ----------
        batches : iterable of Batch
            Queries; against an index of codes, embeddings are binarized as the index was.

        Yields
        ------
        list of dict
            The hits of one query, nearest first: the found Features with ``query``, ``rank``, ``distance`` and, where
            the query has labels, ``query_labels``.

        Raises
        ------
        RecordError
            A query has no id, or no vector that the index compares.
        FingerprintError
            The queries are of another vector space than the index.
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

    def by_id(self, names: Sequence[str]) -> Iterator[list[Record]]:
        """Search for items of the index itself, as `by_record` does."""
        for name in names:
            try:
                row = self._index.row_of(name)
            except RecordError as error:
                self._skips(error)
                continue
            yield from self._hits([self._index.record(row)], self._index.vector(row)[None])

    def _kind(self, batch: Batch) -> Any:
        """Choose the vector to compare: a code only where the index holds codes."""
        if self._index.manifest.kind == "embedding" and self._index.manifest.count:
            return "embedding"
        try:
            return kind_of(batch.records[0])
        except RecordError as error:
            error.place = batch.place(0)
            raise

    def _named(self, batch: Batch, i: int, record: Record) -> bool:
        if record.get("id") is not None:
            return True
        self._skips(RecordError("has no id, by which its hits name it", batch.place(i)))
        return False

    def _hits(self, queries: Sequence[Record], values: NDArray[Any]) -> Iterator[list[Record]]:
        more = self._k if self._k is None or not self._exclude_self else self._k + 1
        for query, (distances, rows) in zip(queries, self._index.search(values, more, self._radius), strict=True):
            hits: list[Record] = []
            labels = query["properties"].get("labels")
            for distance, row in zip(distances.tolist(), rows.tolist(), strict=True):
                if self._k is not None and len(hits) == self._k:
                    break
                hit = self._index.record(row)
                if self._exclude_self and hit["id"] == query["id"]:
                    continue
                found = {"query": query["id"], "rank": len(hits) + 1, "distance": distance}
                hit["properties"] |= found if labels is None else {**found, "query_labels": labels}
                hits.append(hit)
            yield hits
