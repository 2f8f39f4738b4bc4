"""Asking an index: queries into hits."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.errors import RsrError, Skips, UsageError
from rsr_cli.core.records.fields import id_of
from rsr_cli.core.search.diversity import ALL, Chooser, Diversity
from rsr_cli.core.search.examples import Examples
from rsr_cli.core.search.hits import area_lines, lines
from rsr_cli.core.search.places import footprint_of, rows_in
from rsr_cli.core.search.queries import OVERLAP, Queries, asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch, Record
    from rsr_cli.core.search.examples import Combine
    from rsr_cli.core.search.queries import Item
    from rsr_cli.core.search.scope import Ranked, Scope

log = logging.getLogger("rsr")

#: Maximum number of candidates in memory; it limits how many queries are searched at once.
CANDIDATES = 1 << 20
#: More candidates are asked for by this factor, until enough of them are taken.
GROWTH = 4


class Searcher:
    """Asks one index.

    Parameters
    ----------
    scope : Scope
        What is searched.
    k : int or None
        Maximum number of hits per query.
    exclude_self : bool
        Leave the item with the query's own id out.
    skips : Skips
        Asked about queries that cannot be used.
    exclude_overlap : bool
        Leave items out whose footprints share area with the query's.
    diversity : Diversity
        What the hits of a query must not have in common.
    merge : bool
        Merge hits that touch into areas.
    symmetric : bool
        Embeddings ask codes by Hamming distance.

    Attributes
    ----------
    queries : Queries
        What the index can be asked with.
    selves : int
        Number of items that were left out because a query, or one of its examples, has their id.

    Raises
    ------
    UsageError
        The scope does not fit the index, see `Scope.check`.
    """

    def __init__(
        self,
        scope: Scope,
        k: int | None,
        *,
        exclude_self: bool,
        skips: Skips,
        exclude_overlap: bool = False,
        diversity: Diversity = ALL,
        merge: bool = False,
        symmetric: bool = False,
    ) -> None:
        scope.check(k)
        space = scope.index.manifest.space
        if symmetric and space and (space.kind == "embedding" or scope.index.code):
            own = f"{space.facts['method']} by a distance of their own" if scope.index.code else "embeddings"
            raise UsageError(f"compares {own}, and no bits", str(scope.index.path), remedy="no-symmetric")
        self._scope = scope
        self._index = scope.index
        self._k = k
        self._exclude_self = exclude_self
        self._exclude_overlap = exclude_overlap
        self._diversity = diversity
        self._lines = area_lines if merge else lines
        self._warned: set[str] = set()
        again = scope.rerank is not None
        self.queries = Queries(scope.index, skips, placed=exclude_overlap, fine=again, symmetric=symmetric)
        if again and self.queries.by_weights and not scope.index.manifest.refine:
            self._warn(
                "all codes are compared by weights of their bits, so to rank them again by these changes nothing"
            )
        self.selves = 0

    def by_record(self, batches: Iterable[Batch]) -> Iterator[list[bytes]]:
        """Search for records with a code or an embedding, see `Queries.batches`.

        Yields
        ------
        list of bytes
            The hits of one query, nearest first, as lines of JSON: the found Features with ``query``, ``rank``,
            ``distance`` and, where the query has labels, ``query_labels``.
        """
        for items in self.queries.batches(batches):
            yield from self._hits(items)

    def by_item(self, items: Iterable[Item]) -> Iterator[list[bytes]]:
        """Search for items of the index itself, as `by_record` does."""
        for item in items:
            yield from self._hits([item])

    def by_examples(self, likes: Iterable[Item], unlikes: Iterable[Item], combine: Combine) -> Iterator[list[bytes]]:
        """Search for what is like some examples and unlike others, see `Examples`; these are no hits.

        Yields
        ------
        list of bytes
            The hits of the one query, as `by_record` does.
        """
        liked, unliked = list(likes), list(unlikes)
        if not liked:
            raise RsrError("there is no example of what hits are to be like", remedy="like")
        examples = Examples(self._scope, liked, unliked, combine)
        self.selves += len(examples.rows)
        without = np.union1d(examples.rows, self._overlapping([item.record for item in liked]))
        chooser = self._choose(lambda k: examples.search(k, without))
        self._check_shortlist(chooser, examples.shortlisted, self._index.manifest.count - len(without))
        if examples.rejected and not chooser.taken:
            log.warning("all items are nearer to an example that they are to be unlike than to those to be like")
        yield self._lines(examples.name, examples.labels, chooser.taken)

    def _hits(self, queries: Sequence[Item]) -> Iterator[list[bytes]]:
        """Yield the hits of some queries."""
        count, width = self._index.manifest.count, self._scope.rerank or self._k
        step = max(1, CANDIDATES // max(1, count if width is None else min(width, count)))
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            without = [self._without(query.record) for query in some]
            found = self._first(some, without)
            for query, left_out, (first, length) in zip(some, without, found, strict=True):
                chooser = self._choose(partial(self._scope.ranked, asked([query]), without=left_out), first)
                self._check_shortlist(chooser, length, count - len(left_out))
                yield self._lines(query.record["id"], query.record["properties"].get("labels"), chooser.taken)

    def _first(self, queries: Sequence[Item], without: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Ranked, int]]:
        """Yield the first k rows of each query's ranking and 0, or a shortlist that is ranked again and its length."""
        vectors = asked(queries)
        if self._scope.rerank:
            for query, shortlist in zip(queries, self._scope.shortlists(vectors, without), strict=True):
                assert query.fine is not None
                yield self._scope.again(query.fine, shortlist), len(shortlist)
            return
        for distances, rows in self._scope.nearest(vectors, self._k, without):
            yield (distances, rows, self._k is None or len(rows) < self._k), 0

    def _choose(self, search: Callable[[int | None], Ranked], first: Ranked | None = None) -> Chooser:
        """Take a query's hits from more and more of its nearest rows, of which the first ones may be known."""
        chooser = Chooser(self._index, self._k, self._diversity)
        width = self._k
        ranked = search(width) if first is None else first
        while True:
            distances, rows, ended = ranked
            if chooser.see(distances, rows) or ended:
                if chooser.placeless:
                    self._warn("items without a place are left out, as they may be too near to others")
                return chooser
            assert width is not None
            width *= GROWTH
            ranked = search(width)

    def _check_shortlist(self, chooser: Chooser, length: int, possible: int) -> None:
        """Warn if a shortlist has fewer hits than were asked for, and others of the possible rows may be hits too."""
        rerank = self._scope.rerank
        if rerank and rerank == length < possible and not chooser.full:
            self._warn(f"hits are among the {rerank} codes that are ranked again: there may be more beyond these")

    def _without(self, query: Record) -> NDArray[np.int64]:
        """Return the rows that may not be hits of a query, sorted."""
        rows = self._overlapping([query])
        own = self._index.find(id_of(query)) if self._exclude_self else None
        if own is None:
            return rows
        self.selves += 1
        return np.union1d(rows, np.array([own]))

    def _overlapping(self, records: Sequence[Record]) -> NDArray[np.int64]:
        """Return the rows that share area with the footprints of records, if they are to be left out, sorted."""
        found = [np.empty(0, np.int64)]
        for record in records if self._exclude_overlap else ():
            footprint = footprint_of(record)
            if footprint is not None:
                found.append(rows_in(self._index, footprint, OVERLAP))
            else:
                self._warn("a query states no place, so nothing that overlaps it is left out")
        return np.unique(np.concatenate(found))

    def _warn(self, doubt: str) -> None:
        """Log a doubt about the answers, once."""
        if doubt not in self._warned:
            self._warned.add(doubt)
            log.warning(doubt)
