"""What an index is asked with: records of a stream, or items of the index itself, by their ids or where they are."""

from __future__ import annotations

import logging
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rsr_cli.core.errors import RecordError, Skips, shown
from rsr_cli.core.index.asked import UNSOUND
from rsr_cli.core.index.flat import drop_too_long
from rsr_cli.core.index.manifest import HAMMING
from rsr_cli.core.index.weights import by_weights
from rsr_cli.core.records.exact import loads
from rsr_cli.core.records.fields import extent_of, gsd_of, id_of, in_metres, is_near, label_list, one_form
from rsr_cli.core.records.space import KINDS, Kind
from rsr_cli.core.search.places import footprint_of, row_at, rows_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.index.reading import Index
    from rsr_cli.core.records.batch import Batch, Record

log = logging.getLogger("rsr")

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
#: Footprints share area if it is more than this share of the smaller one's: neighbours whose corners are rounded to
#: whole pixels or to digits share less.
OVERLAP = 0.01


class Item(NamedTuple):
    """A record to ask with, or to combine into a query.

    Attributes
    ----------
    record : dict
        With an id, and labels that can be written.
    vector : numpy.ndarray
        uint8 (bytes,) of a code, float32 (dim,) of an embedding.
    row : int or None
        In the index, if it has an item with this id.
    fine : numpy.ndarray or None
        What `Index.remeasure` measures from, where codes are ranked again.
    values : numpy.ndarray or None
        (bits,): the numbers whose signs are the code, where it is asked by weights of bits.
    """

    record: Record
    vector: NDArray[Any]
    row: int | None
    fine: NDArray[Any] | None = None
    values: NDArray[Any] | None = None


def asked(items: Sequence[Item]) -> NDArray[Any]:
    """Return what items ask an index with, as `Index.search` takes it: their values if all have some."""
    values = [item.values for item in items]
    return np.array([item.vector for item in items] if any(each is None for each in values) else values)


class Queries:
    """Finds what to ask an index with.

    Parameters
    ----------
    index : Index
        An open index.
    skips : Skips
        Asked about queries that cannot be used.
    placed : bool
        Queries are used by their footprints too, so that one which cannot be read is an error.
    fine : bool
        Codes are ranked again, so that queries need embeddings.
    symmetric : bool
        Codes are asked by Hamming distance, also by embeddings.

    Attributes
    ----------
    by_weights : bool
        Queries that have embeddings ask codes by weights of bits.
    """

    def __init__(
        self, index: Index, skips: Skips, *, placed: bool = False, fine: bool = False, symmetric: bool = False
    ) -> None:
        self._index = index
        self._skips = skips
        self._placed = placed
        self._fine = fine
        self.by_weights = by_weights(index.manifest.space) and not symmetric
        self._warned: set[str] = set()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The vectors to take from queries, in order of preference: codes only if nothing else is compared."""
        space = self._index.manifest.space
        if self._fine or (space and space.kind == "embedding"):
            return ("embedding",)
        return ("embedding", "code") if self.by_weights or self._index.code else KINDS

    def size_px(self) -> tuple[int, int]:
        """Return the width and height in pixels of the first item of the index, to cut queries of the same size.

        Raises
        ------
        RecordError
            It does not state them (``proj:shape``).
        """
        rows = (
            each.first + row for each in self._index.segments for row in range(each.count) if row not in each.deleted
        )
        name, text = self._index.record(next(rows))
        shape = loads(text.encode())["properties"].get("proj:shape")
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
            what = f"its first item, {name!r}, does not state its size in pixels (proj:shape)"
            raise RecordError(what, str(self._index.path), remedy="cut-at")
        return shape[1], shape[0]

    def batches(self, batches: Iterable[Batch]) -> Iterator[list[Item]]:
        """Yield the records of a stream in batches; embeddings are treated as those of the index were.

        Raises
        ------
        RecordError
            A record has no id, malformed labels, no vector that the index compares, or an embedding too long for
            float32's squares.
        FingerprintError
            They are of another vector space than the index, or codes against embeddings.
        """
        known, binarizer = None, None
        transform = self._index.transform
        for batch in batches:
            batch.apply(self._check, self._skips)
            if batch.vectors is None or batch.space is None or not len(batch):
                continue
            if transform and transform.takes(batch.space):
                batch.vectors, batch.space = transform(batch.vectors), transform.space
            if known is None:
                known, binarizer = batch.space, self._index.binarizer_for(batch.space)
            if self._index.manifest.metric not in (HAMMING, "cosine"):
                drop_too_long(batch, self._skips)
            self._compare(batch.records)
            vectors: NDArray[Any] = batch.vectors
            if self._index.code:
                if not binarizer:
                    batch.keep_sound(self._index.code.are_sound(vectors), lambda _: UNSOUND, self._skips)
                    vectors = batch.vectors
                vectors = (binarizer.values if binarizer else self._index.code.decoded)(vectors)
            elif binarizer:
                vectors = binarizer(vectors)
            fine: Iterable[Any] = batch.vectors if self._fine else repeat(None)
            values: Iterable[Any] = repeat(None)
            again = self._fine and not self._index.manifest.refine
            if binarizer and (again or self.by_weights):
                made = [binarizer.values(one[None])[0] for one in batch.vectors]  # the same whatever the batch
                fine, values = made if again else fine, made if self.by_weights else values
            yield [Item(*each) for each in zip(batch.records, vectors, repeat(None), fine, values)]

    def records(self, batches: Iterable[Batch]) -> Iterator[Item]:
        """Yield the records of a stream one by one, as `batches` does, with their rows."""
        for items in self.batches(batches):
            for item in items:
                yield item._replace(row=self._index.find(id_of(item.record)))

    def ids(self, names: Sequence[str]) -> Iterator[Item]:
        """Yield items of the index by their ids.

        Raises
        ------
        RecordError
            The index has no such id.
        """
        for name in names:
            yield from self._usable(partial(self._index.row_of, one_form(name)), shown(name))

    def at(self, places: Sequence[tuple[float, float]]) -> Iterator[Item]:
        """Yield of each place, longitude and latitude in degrees, the item of the index that holds it, each item once.

        Raises
        ------
        RecordError
            None does.
        """
        found = [(partial(row_at, self._index, lon, lat, self._skips), f"{lon:g},{lat:g}") for lon, lat in places]
        yield from {item.row: item for row, place in found for item in self._usable(row, place)}.values()

    def within(self, footprint: Any, place: str) -> Iterator[Item]:
        """Yield all items of the index whose footprints share area with one of a file, in the order of their rows.

        Raises
        ------
        RecordError
            None does.
        """
        rows = rows_in(self._index, footprint, OVERLAP)
        if not len(rows):
            raise RecordError(f"no tile of {self._index.path} shares area with its polygons", place)
        for row in rows.tolist():
            yield from self._usable(partial(int, row), place)

    def _usable(self, find: Callable[[], int], place: str) -> Iterator[Item]:
        """Yield the item of the row that is found, unless it cannot be used."""
        try:
            row = find()
            record: Record = loads(self._index.record(row)[1].encode())
            self._check(record)
        except RecordError as error:
            error.place = error.place or f"{self._index.path}: {place}"
            self._skips(error)
            return
        fine = self._index.embedding(row) if self._fine else None
        values = self._index.values(row) if self.by_weights and self._index.manifest.refine else None
        yield Item(record, self._index.vector(row), row, fine, values)

    def _check(self, query: Record) -> None:
        """Raise RecordError if a query's id, labels or footprint cannot be used."""
        id_of(query)
        label_list(query)
        if self._placed:
            footprint_of(query)

    def _compare(self, queries: Sequence[Record]) -> None:
        """Warn once of each of `MEASURES` in which queries and index differ."""
        for name, (measure, warning) in MEASURES.items():
            stated: tuple[float, float] | None = getattr(self._index.manifest, name)
            if stated is None or name in self._warned:
                continue
            for found in filter(None, map(measure, queries)):
                if not is_near((found, found), stated):
                    log.warning(warning, in_metres(found, found), in_metres(*stated))
                    self._warned.add(name)
                    break
