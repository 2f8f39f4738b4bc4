"""What a figure of hits shows: the first queries, their first hits, how their labels agree, and their pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from rsr_cli.core.errors import BandError, RecordError, RsrError, Skips
from rsr_cli.core.rasters import read_pixels
from rsr_cli.core.records import streams
from rsr_cli.core.scoring.evaluation import query_and_rank
from rsr_cli.core.scoring.labels import label_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch, Record

Agreement = Literal["all", "some", "none"]


class Frame(NamedTuple):
    """What surrounds a hit: a colour, a sign for those who cannot tell the colours apart, and what they mean."""

    colour: str
    sign: str
    meaning: str


#: The paper's colours, in shades that differ in brightness too.
FRAMES: dict[Agreement, Frame] = {
    "all": Frame("#1b8a3a", "\N{CHECK MARK}", "all of the query's labels"),
    "some": Frame("#f5a300", "n/m", "some of them, n of m"),
    "none": Frame("#c8102e", "\N{BALLOT X}", "none"),
}
#: A picture's longest side; of larger tiles every second, third ... pixel is shown.
PICTURE_PX = 256


@dataclass(kw_only=True, slots=True)
class Item:
    """A query or a hit.

    Attributes
    ----------
    name : str
        Its id.
    record : dict or None
        ``None`` for a query whose record was not given.
    place : str
        Where the record was read.
    labels : tuple of str or None
        In the record's order; ``None`` where they are unknown.
    picture : numpy.ndarray or None
        uint8 (height, width, 4): red, green, blue, and 0 where a pixel is invalid, 255 elsewhere. ``None`` where there
        is no record, or its raster cannot be read.
    """

    name: str
    record: Record | None
    place: str
    labels: tuple[str, ...] | None
    picture: NDArray[np.uint8] | None = None


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
        How many of the query's labels it has; ``None`` where either's are unknown, or the query has none.
    shared : int or None
        Their number.
    sign : str
        As in `FRAMES`, with the numbers.
    """

    rank: int
    distance: float | None
    agreement: Agreement | None = None
    shared: int | None = None
    sign: str = ""

    def compare(self, wanted: tuple[str, ...] | None) -> None:
        """Compare the labels with the query's."""
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
    """Collects the first hits of the first queries, whatever the order in which hits come.

    Parameters
    ----------
    rows : int
        At most so many queries, those that come first.
    k : int
        At most so many hits a query, those of the lowest ranks.
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
        """Take what is to be shown out of a batch of hits.

        Raises
        ------
        RecordError
            A record is not a hit, its labels are malformed, or its query has a hit of this rank already.
        """
        for i, record in enumerate(batch.records):
            try:
                self._add(record, batch.place(i))
            except RecordError as error:
                error.place = batch.place(i)
                self._skips(error)

    def _add(self, record: Record, place: str) -> None:
        name, rank = query_and_rank(record)
        if name not in self._hits and len(self._hits) == self._rows:
            return
        labels, wanted = _labels(record, "labels"), _labels(record, "query_labels")
        hits = self._hits.setdefault(name, {})
        if rank in hits:
            raise RecordError(f"the query {name!r} has two hits of rank {rank}; show one run at a time")
        self._queries.setdefault(name, Item(name=name, record=None, place=place, labels=wanted))
        distance = record["properties"].get("distance")
        hits[rank] = Hit(
            name=str(record.get("id")),
            record=record,
            place=place,
            labels=labels,
            rank=rank,
            distance=distance if isinstance(distance, int | float) else None,
        )
        if len(hits) > self._k:
            del hits[max(hits)]

    def read_queries(self, path: str) -> int:
        """Read the records of the queries, for their pictures, and for their labels where the hits do not tell them.

        Returns
        -------
        int
            How many of the queries are not in the file.

        Raises
        ------
        RecordError
            A query's labels are malformed.
        """
        for batch in streams.read([path], self._skips):
            for i, record in enumerate(batch.records):
                query = self._queries.get(str(record.get("id")))
                if query is None or query.record is not None:
                    continue
                try:
                    labels = _labels(record, "labels")
                except RecordError as error:
                    error.place = batch.place(i)
                    self._skips(error)
                    continue
                query.record, query.place = record, batch.place(i)
                query.labels = labels if query.labels is None else query.labels
        return sum(query.record is None for query in self._queries.values())

    def rows(self, bands: Sequence[str], stretch: tuple[float, float]) -> Iterator[Row]:
        """Draw the pictures, one row after the other.

        Parameters
        ----------
        bands : sequence of str
            STAC common names of what is shown as red, green and blue.
        stretch : tuple of float
            Percentiles of a band over the valid pixels of the whole row that become black and full colour.

        Raises
        ------
        RecordError
            A tile cannot be read.
        RsrError
            There are no hits.
        """
        if not self._hits:
            raise RsrError("no hits came in, and there is nothing to draw; see rsr query")
        for name in list(self._hits):
            hits = self._hits.pop(name)  # a row's pictures need not outlive it
            query, found = self._queries.pop(name), [hits[rank] for rank in sorted(hits)]
            shown: list[Item] = [item for item in (query, *found) if item.record is not None]
            for item, picture in zip(shown, paint([self._read(item, bands) for item in shown], stretch), strict=True):
                item.picture = picture
            for hit in found:
                hit.compare(query.labels)
            yield Row(query, found)

    def _read(self, item: Item, bands: Sequence[str]) -> NDArray[np.float32] | None:
        assert item.record is not None
        try:
            names = item.record["properties"].get("bands")
            lacks = [band for band in bands if isinstance(names, list) and band not in names]
            if lacks:
                has = " ".join(map(str, names))
                raise BandError(
                    f"band {' '.join(lacks)} is missing (has {has}); name three that are there with --bands"
                )
            pixels = read_pixels(item.record, bands)
        except RecordError as error:
            error.place = f"{item.place}: {error.place}" if error.place else item.place
            self._skips(error)
            return None
        step = -(-max(pixels.shape[1:]) // PICTURE_PX)
        return pixels[:, ::step, ::step].copy()


def _labels(record: Record, name: str) -> tuple[str, ...] | None:
    labels = label_list(record, name)
    return None if labels is None else tuple(dict.fromkeys(labels))


def paint(tiles: Sequence[NDArray[np.float32] | None], stretch: tuple[float, float]) -> list[NDArray[np.uint8] | None]:
    """Turn tiles into pictures that can be compared: all are stretched alike.

    Parameters
    ----------
    tiles : sequence of numpy.ndarray or None
        float32 (3, height, width), NaN where invalid.
    stretch : tuple of float
        Percentiles of a band over the valid pixels of all tiles that become 0 and 255.

    Returns
    -------
    list of numpy.ndarray or None
        uint8 (height, width, 4); the last is 0 where a pixel is invalid in any band, 255 elsewhere.
    """
    values = [tile[:, np.isfinite(tile).all(axis=0)] for tile in tiles if tile is not None]
    together = np.concatenate(values, axis=1) if values else np.empty((3, 0))
    if not together.size:  # then any stretch will do
        together = np.zeros((3, 1))
    low, high = np.percentile(together, stretch, axis=1)[:, :, None, None]
    pictures: list[NDArray[np.uint8] | None] = []
    for tile in tiles:
        if tile is None:
            pictures.append(None)
            continue
        mask = np.isfinite(tile).all(axis=0)
        share = np.clip((tile - low) / np.where(high > low, high - low, 1), 0, 1)
        layers = np.concatenate([np.where(mask, share, 0), [mask]])
        pictures.append(np.rint(255 * layers).astype(np.uint8).transpose(1, 2, 0))
    return pictures
