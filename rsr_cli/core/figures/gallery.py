"""What a figure of hits shows: the first queries and their first hits, with thumbnails and the labels in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from rsr_cli.core.errors import RecordError, RsrError, Skips
from rsr_cli.core.figures import thumbnails
from rsr_cli.core.records import streams
from rsr_cli.core.records.fields import id_of, id_text, label_list
from rsr_cli.core.scoring.evaluation import query_and_rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch, Record

Agreement = Literal["all", "some", "none"]


class Frame(NamedTuple):
    """The frame of a hit: a colour, a sign that says the same without colour, and their meaning."""

    colour: str
    sign: str
    meaning: str


#: The paper's colours, in shades that also differ in brightness.
FRAMES: dict[Agreement, Frame] = {
    "all": Frame("#1b8a3a", "\N{CHECK MARK}", "all of the query's labels"),
    "some": Frame("#f5a300", "n/m", "n of its m labels"),
    "none": Frame("#c8102e", "\N{BALLOT X}", "none"),
}


@dataclass(kw_only=True, slots=True)
class Item:
    """A query or a hit.

    Attributes
    ----------
    name : str
        Its id.
    record : dict or None
        ``None`` for a query whose record is unknown.
    place : str
        Where the record was read.
    labels : tuple of str or None
        In the record's order, ``None`` if unknown.
    thumbnail : numpy.ndarray or None
        uint8 (height, width, 4), as `thumbnails.stretch` returns it; ``None`` without a record or a readable raster.
    """

    name: str
    record: Record | None
    place: str
    labels: tuple[str, ...] | None
    thumbnail: NDArray[np.uint8] | None = None


@dataclass(kw_only=True, slots=True)
class Hit(Item):
    """A hit.

    Attributes
    ----------
    rank : int
        From 1.
    distance : float or None
        As in the record.
    agreement : str or None
        Whether it has all, some or none of the query's labels; ``None`` if either's labels are unknown, or the query
        has none.
    shared : int or None
        Number of labels in common.
    sign : str
        As in `FRAMES`, with numbers for n and m.
    """

    rank: int
    distance: float | None
    agreement: Agreement | None = None
    shared: int | None = None
    sign: str = ""

    def compare(self, wanted: tuple[str, ...] | None) -> None:
        """Set agreement, shared and sign by comparing the labels with those of the query."""
        if not wanted or self.labels is None:
            return
        self.shared = len(set(wanted) & set(self.labels))
        self.agreement = "all" if self.shared == len(wanted) else "some" if self.shared else "none"
        self.sign = f"{self.shared}/{len(wanted)}" if self.agreement == "some" else FRAMES[self.agreement].sign


@dataclass(slots=True)
class Row:
    """A query and its hits, by rank."""

    query: Item
    hits: list[Hit]


class Gallery:
    """Collects the first hits of the first queries; hits may come in any order.

    Parameters
    ----------
    rows : int
        Maximum number of queries; the first ones are kept.
    k : int
        Maximum number of hits per query; those of the lowest ranks are kept.
    skips : Skips
        Asked about records that cannot be shown.
    """

    def __init__(self, rows: int, k: int, skips: Skips) -> None:
        self._rows = rows
        self._k = k
        self._skips = skips
        self._hits: dict[str, dict[int, Hit]] = {}
        self._queries: dict[str, Item] = {}

    def add(self, batch: Batch) -> None:
        """Keep what is to be shown of a batch of hits.

        Raises
        ------
        RecordError
            A record is not a hit, has malformed labels, or has the query and rank of an earlier hit.
        """
        batch.apply(partial(self._add, map(batch.place, range(len(batch)))), self._skips)

    def _add(self, places: Iterator[str], record: Record) -> None:
        place = next(places)
        name, rank = query_and_rank(record)
        if name not in self._hits and len(self._hits) == self._rows:
            return
        labels, wanted = _labels(record, "labels"), _labels(record, "query_labels")
        hits = self._hits.setdefault(name, {})
        if rank in hits:
            raise RecordError(f"the query {name!r} has two hits of rank {rank}", remedy="one-run")
        self._queries.setdefault(name, Item(name=name, record=None, place=place, labels=wanted))
        distance = record["properties"].get("distance")
        hits[rank] = Hit(
            name=id_of(record),
            record=record,
            place=place,
            labels=labels,
            rank=rank,
            distance=distance if isinstance(distance, int | float) else None,
        )
        if len(hits) > self._k:
            del hits[max(hits)]

    def read_queries(self, path: str) -> int:
        """Read the records of the queries, for their thumbnails and for labels that the hits do not contain.

        Returns
        -------
        int
            Number of queries that are not in the file.

        Raises
        ------
        RecordError
            A query's labels are malformed.
        """
        for batch in streams.read([path], self._skips):
            batch.apply(partial(self._add_query, map(batch.place, range(len(batch)))), self._skips)
        return sum(query.record is None for query in self._queries.values())

    def _add_query(self, places: Iterator[str], record: Record) -> None:
        place = next(places)
        query = self._queries.get(id_text(record.get("id")) or "")
        if query is None or query.record is not None:
            return
        labels = _labels(record, "labels")
        query.record, query.place = record, place
        query.labels = labels if query.labels is None else query.labels

    def rows(self, bands: Sequence[str], percentiles: tuple[float, float]) -> Iterator[Row]:
        """Yield rows with their thumbnails, one by one.

        Parameters
        ----------
        bands : sequence of str
            STAC common names of the bands to display as red, green and blue.
        percentiles : tuple of float
            Percentiles of a band over the valid pixels of the whole row to display as black and full brightness.

        Raises
        ------
        RecordError
            A tile cannot be read.
        RsrError
            There are no hits.
        """
        if not self._hits:
            raise RsrError("no hits came in, so there is nothing to draw")
        for name in list(self._hits):
            hits = self._hits.pop(name)  # frees a row's thumbnails when it is drawn
            query, found = self._queries.pop(name), [hits[rank] for rank in sorted(hits)]
            shown: list[Item] = [item for item in (query, *found) if item.record is not None]
            tiles = [self._read(item, bands) for item in shown]
            for item, thumbnail in zip(shown, thumbnails.stretch(tiles, percentiles), strict=True):
                item.thumbnail = thumbnail
            for hit in found:
                hit.compare(query.labels)
            yield Row(query, found)

    def _read(self, item: Item, bands: Sequence[str]) -> NDArray[np.float32] | None:
        assert item.record is not None
        try:
            return thumbnails.read(item.record, bands)
        except RecordError as error:
            error.place = f"{item.place}: {error.place}" if error.place else item.place
            self._skips(error)
            return None


def _labels(record: Record, name: str) -> tuple[str, ...] | None:
    labels = label_list(record, name)
    return None if labels is None else tuple(dict.fromkeys(labels))
