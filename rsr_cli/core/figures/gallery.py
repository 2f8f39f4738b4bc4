"""What a figure of hits shows: the first queries and their first hits, with thumbnails and the labels in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from rsr_cli.core.errors import BandError, RasterError, RecordError, RsrError, Skips
from rsr_cli.core.figures import thumbnails
from rsr_cli.core.records import streams
from rsr_cli.core.records.fields import has_pixels, id_of, id_text, label_list
from rsr_cli.core.records.tables import NOTHING_STATED, TableSettings
from rsr_cli.core.scoring.evaluation import query_and_rank
from rsr_cli.core.sensors.base import expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch, Record

Agreement = Literal["all", "some", "none"]


class Frame(NamedTuple):
    """The frame of a hit: a colour, a sign that says the same without colour, and their meaning."""

    colour: str
    sign: str
    meaning: str


#: Bands to display, if the tile has them and no others are asked for.
RGB = ("red", "green", "blue")
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
        uint8 (height, width, 4), as `thumbnails.stretch` returns it; ``None`` without pixels that can be read.
    """

    name: str
    record: Record | None
    place: str
    labels: tuple[str, ...] | None
    thumbnail: NDArray[np.uint8] | None = None

    @property
    def has_pixels(self) -> bool:
        """Whether the record states where its pixels are; vectors that were made elsewhere have none."""
        return self.record is not None and has_pixels(self.record)

    @property
    def time(self) -> str:
        """Date and time of the record, or their beginning; empty if unknown."""
        properties = self.record["properties"] if self.record else {}
        return str(properties.get("datetime") or properties.get("start_datetime") or "")


@dataclass(kw_only=True, slots=True)
class Hit(Item):
    """A hit.

    Attributes
    ----------
    query : Item
        Its query.
    rank : int
        From 1.
    distance : float or None
        As in the record.
    """

    query: Item
    rank: int
    distance: float | None

    @property
    def shared(self) -> int | None:
        """Number of labels in common, ``None`` if either's labels are unknown, or the query has none."""
        if not self.query.labels or self.labels is None:
            return None
        return len(set(self.query.labels) & set(self.labels))

    @property
    def agreement(self) -> Agreement | None:
        """Whether it has all, some or none of the query's labels, ``None`` as for `shared`."""
        if self.shared is None or self.query.labels is None:
            return None
        return "all" if self.shared == len(self.query.labels) else "some" if self.shared else "none"

    @property
    def sign(self) -> str:
        """As in `FRAMES`, with numbers for n and m; empty without an agreement."""
        if self.agreement == "some":
            return f"{self.shared}/{len(self.query.labels or ())}"
        return FRAMES[self.agreement].sign if self.agreement else ""


@dataclass(slots=True)
class Row:
    """A query and its hits, by rank."""

    query: Item
    hits: list[Hit]

    @property
    def has_pixels(self) -> bool:
        """Whether any of their records states where its pixels are."""
        return any(item.has_pixels for item in (self.query, *self.hits))


class Gallery:
    """Collects the first hits of the first queries; hits may come in any order.

    Parameters
    ----------
    rows : int
        Maximum number of queries; the first ones are kept.
    k : int or None
        Maximum number of hits per query; those of the lowest ranks are kept. None keeps all.
    skips : Skips
        Asked about records that cannot be shown.
    keep : callable, optional
        What to keep of a record, in place of all of it.

    Attributes
    ----------
    without_thumbnail : dict of type to list of RecordError
        Why tiles with pixels have none: their files are gone or damaged (RasterError), or do not have the bands that
        are displayed if none are asked for (BandError).
    """

    def __init__(
        self, rows: int, k: int | None, skips: Skips, keep: Callable[[Record], Record] = lambda record: record
    ) -> None:
        self._rows = rows
        self._k = k
        self._skips = skips
        self._keep = keep
        self._found: dict[str, tuple[Item, dict[int, Hit]]] = {}
        self.without_thumbnail: dict[type[RecordError], list[RecordError]] = {RasterError: [], BandError: []}

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
        if name not in self._found and len(self._found) == self._rows:
            return
        labels, wanted = _labels(record, "labels"), _labels(record, "query_labels")
        asked = Item(name=name, record=None, place=place, labels=wanted)
        query, hits = self._found.setdefault(name, (asked, {}))
        if rank in hits:
            raise RecordError(f"the query {name!r} has two hits of rank {rank}", remedy="one-run")
        distance = record["properties"].get("distance")
        hits[rank] = Hit(
            name=id_of(record),
            record=self._keep(record),
            place=place,
            labels=labels,
            query=query,
            rank=rank,
            distance=distance if isinstance(distance, int | float) else None,
        )
        if self._k is not None and len(hits) > self._k:
            del hits[max(hits)]

    def read_queries(self, path: str, settings: TableSettings = NOTHING_STATED) -> int:
        """Read the records of the queries, for their thumbnails and for labels that the hits do not contain.

        Parameters
        ----------
        path : str
            A file.
        settings : TableSettings
            What the user states of it, if it is a table.

        Returns
        -------
        int
            Number of queries that are not in the file.

        Raises
        ------
        RecordError
            A query's labels are malformed.
        """
        for batch in streams.read([path], self._skips, settings=settings):
            batch.apply(partial(self._add_query, map(batch.place, range(len(batch)))), self._skips)
        return sum(query.record is None for query, _ in self._found.values())

    def _add_query(self, places: Iterator[str], record: Record) -> None:
        place = next(places)
        query, _ = self._found.get(id_text(record.get("id")) or "", (None, {}))
        if query is None or query.record is not None:
            return
        labels = _labels(record, "labels")
        query.record, query.place = self._keep(record), place
        query.labels = labels if query.labels is None else query.labels

    @property
    def has_pixels(self) -> bool:
        """Whether any record states where its pixels are."""
        return any(Row(query, [*hits.values()]).has_pixels for query, hits in self._found.values())

    def shows(self, bands: Sequence[str]) -> bool:
        """Return whether any record states pixels of these bands."""
        found = (item for query, hits in self._found.values() for item in (query, *hits.values()) if item.has_pixels)
        stated = (item.record["properties"].get("bands") for item in found if item.record)
        named = (expand(tuple(map(str, names))) for names in stated if isinstance(names, list))
        return any(all(band in names for band in bands) for names in named)

    def agreements(self) -> set[Agreement | None]:
        """Return how the labels of the hits agree with those of their queries: what a key has to explain."""
        return {hit.agreement for _, hits in self._found.values() for hit in hits.values()}

    def rows(self, bands: Sequence[str] | None, percentiles: tuple[float, float]) -> Iterator[Row]:
        """Yield rows with their thumbnails, one by one, and forget them.

        Parameters
        ----------
        bands : sequence of str or None
            The bands to display, as of `thumbnails.read`; ``None`` is `RGB` of the tiles that have them.
        percentiles : tuple of float
            As of `thumbnails.stretch`.

        Raises
        ------
        RecordError
            A tile does not have the bands, or does not state what to read.
        RsrError
            There are no hits.
        """
        if not self._found:
            raise RsrError("no hits came in, so there is nothing to draw")
        for name in list(self._found):
            query, found = self._found.pop(name)  # frees a row's thumbnails when it is drawn
            row = Row(query, [found[rank] for rank in sorted(found)])
            shown = [item for item in (query, *row.hits) if item.has_pixels]
            tiles = [self._read(item, bands) for item in shown]
            for item, thumbnail in zip(shown, thumbnails.stretch(tiles, percentiles), strict=True):
                item.thumbnail = thumbnail
            yield row

    def _read(self, item: Item, bands: Sequence[str] | None) -> NDArray[np.float32] | None:
        assert item.record is not None
        try:
            return thumbnails.read(item.record, bands or RGB)
        except RecordError as error:
            error.within(item.place)
            if isinstance(error, RasterError) or (isinstance(error, BandError) and bands is None):
                self.without_thumbnail[type(error)].append(error)
            else:
                self._skips(error)
            return None


def _labels(record: Record, name: str) -> tuple[str, ...] | None:
    labels = label_list(record, name)
    return None if labels is None else tuple(dict.fromkeys(labels))
