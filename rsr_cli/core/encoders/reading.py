"""Read tiles ahead of the model, in threads and in the order of the input."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.encoders.preprocessing import TOGETHER_BYTES
from rsr_cli.core.errors import RecordError, Skips, UsageError
from rsr_cli.core.rasters.pixels import MAX_TILE_BYTES, memory_of, too_large
from rsr_cli.core.rasters.strips import STRIP_BYTES, STRIP_TILES, read_each
from rsr_cli.core.records.fields import bbox_of
from rsr_cli.core.sensors.base import unit_read
from rsr_cli.core.times import year_and_day

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from rsr_cli.core.encoders.base import Encoder
    from rsr_cli.core.rasters.pixels import Pixels
    from rsr_cli.core.records.batch import Batch, Record

#: Height of the part of a raster that one thread reads, and its width unless `STRIP_TILES` are wider: one block or
#: several.
NEIGHBOURHOOD_PX = 1024

#: JPEG 2000, of which GDAL decodes a block in as many threads as there are processors. Two readers at once would take
#: longer than one, as both decode the blocks that lie between their tiles.
_IN_THREADS = re.compile(r"\.(?:jp2|j2k)\b", re.IGNORECASE)

#: A raster, and the column and row of one of its parts.
_Place = tuple[str, int, int]


@dataclass(frozen=True)
class Ready:
    """A tile that has been read.

    ``valid`` is bool (height, width), which pixels are valid in all bands that are not filled; None if all are.
    """

    record: Record
    name: str
    line: int
    pixels: Pixels
    valid: NDArray[np.bool_] | None
    filled: tuple[str, ...]
    context: dict[str, tuple[float, float]]

    @property
    def place(self) -> str:
        """The tile's input and line, for messages."""
        return f"{self.name}:{self.line}"

    @property
    def is_large(self) -> bool:
        """Whether it may be too large for the memory that is free, and is to be a batch of its own."""
        return 4 * self.pixels.numbers.size > TOGETHER_BYTES

    @property
    def unit(self) -> str | None:
        """The unit of the pixels, if they are not reflectance x 10000."""
        return unit_read(self.record["properties"].get("unit"))


@dataclass(frozen=True)
class Reader:
    """Reads the pixels of tiles, and what else a model takes.

    Attributes
    ----------
    encoder : Encoder
        States bands, size and needs.
    skips : Skips
        Receives the errors of tiles that cannot be read.
    threads : int
        Number of threads that read.
    ahead : int
        Number of tiles to read ahead, or more, so that every thread has some.
    fill_missing : bool
        Let tiles lack bands.
    filled : frozenset of str, optional
        Bands to fill for every tile, whether it has them or not, and no others.
    """

    encoder: Encoder
    skips: Skips
    threads: int
    ahead: int
    fill_missing: bool
    filled: frozenset[str] | None

    def read(self, batches: Iterable[Batch]) -> Iterator[Ready]:
        """Read tiles in the order of the input, ahead as far as their number and their memory allow."""
        threads = [ThreadPoolExecutor(1, "reader") for _ in range(self.threads)]
        # Tiles that share blocks of a file go to one thread, which decodes these blocks once.
        turns = cycle(threads)
        thread_of = lru_cache(maxsize=1024)(lambda _place: next(turns))
        reading: deque[tuple[Future[list[Ready | RecordError]], int, float]] = deque()
        ahead = max(self.ahead, self.threads * STRIP_TILES)
        count, memory = 0, 0.0
        try:
            for batch in batches:
                for place, rows, needed in self._runs(batch):
                    while reading and (count + len(rows) > ahead or memory + needed > MAX_TILE_BYTES):
                        future, fewer, freed = reading.popleft()
                        yield from self._usable(future)
                        count, memory = count - fewer, memory - freed
                    tiles = [(batch.records[i], batch.name, batch.lines[i]) for i in rows]
                    reading.append((thread_of(place).submit(self._read, tiles), len(rows), needed))
                    count, memory = count + len(rows), memory + needed
            while reading:
                yield from self._usable(reading.popleft()[0])
        finally:
            for thread in threads:
                thread.shutdown(wait=False, cancel_futures=True)  # one may wait for a network

    def _runs(self, batch: Batch) -> Iterator[tuple[_Place, list[int], float]]:
        """Divide a batch into runs for one thread: the place of the first tile, their numbers, memory in bytes."""
        run: list[int] = []
        first = last = ("", 0, 0)
        memory = 0.0
        for i, record in enumerate(batch.records):
            place, needed = _neighbourhood(record), self._memory_of(record)
            is_apart = place[0] == last[0] and place != last
            if run and (is_apart or len(run) == STRIP_TILES or memory + needed > STRIP_BYTES):
                yield first, run, memory
                run, memory = [], 0.0
            first, last = first if run else place, place
            run.append(i)
            memory += needed
        if run:
            yield first, run, memory

    def _memory_of(self, record: Record) -> float:
        """Return the memory in bytes that reading a tile and resizing it takes at most, as far as the record states."""
        bands, size = len(self.encoder.bands), self.encoder.size_px or 0
        try:
            width, height = (float(length) for length in record["properties"]["window"][2:4])
        except (KeyError, TypeError, ValueError, OverflowError):  # not a tile, as reading its pixels will report
            width = height = 0.0
        needed = memory_of(max(0.0, width) * max(0.0, height), bands) + 8 * bands * size**2
        return min(needed, MAX_TILE_BYTES)

    def _usable(self, future: Future[list[Ready | RecordError]]) -> Iterator[Ready]:
        for found in future.result():
            if isinstance(found, RecordError):
                self.skips(found)
            else:
                yield found

    def _read(self, tiles: Sequence[tuple[Record, str, int]]) -> list[Ready | RecordError]:
        """Read tiles, each given with its input and line."""
        found: list[Ready | RecordError] = []
        records = [record for record, *_ in tiles]
        for tile, pixels in zip(tiles, read_each(records, self.encoder.bands, may_lack=self._may_lack), strict=True):
            try:
                found.append(self._ready(*tile, pixels))
            except RecordError as error:
                found.append(error)
        return found

    @property
    def _may_lack(self) -> Collection[str]:
        return self.encoder.bands if self.fill_missing else self.filled or ()

    def _ready(self, record: Record, name: str, line: int, pixels: Pixels | RecordError) -> Ready:
        try:
            if isinstance(pixels, RecordError):
                raise pixels
            pixels, valid, filled = self._validity(record, pixels)
            context = {name: _CONTEXT[name](record) for name in self.encoder.needs}
        except MemoryError:
            raise too_large(f"{name}:{line}") from None
        except RecordError as error:
            if error.remedy in ("fill-missing", "other-bands", "stand-in") and self.filled is not None:
                error.remedy = "as-tiles"
            error.place = f"{name}:{line}: {error.place}" if error.place else f"{name}:{line}"
            raise
        return Ready(record, name, line, pixels, valid, filled, context)

    def _validity(self, record: Record, pixels: Pixels) -> tuple[Pixels, NDArray[np.bool_] | None, tuple[str, ...]]:
        """Return a tile's pixels, which of them are valid, if not all are, and the bands filled."""
        bands, properties, chosen = self.encoder.bands, record["properties"], self.filled or ()
        has = [band in properties["bands"] and band not in chosen for band in bands]
        filled = tuple(band for band, there in zip(bands, has, strict=True) if not there)
        if filled:
            invalid = np.zeros(pixels.numbers.shape, bool) if pixels.invalid is None else pixels.invalid.copy()
            invalid[[not there for there in has]] = True
            pixels = replace(pixels, invalid=invalid)
        valid = None if pixels.invalid is None else ~np.logical_or.reduce(pixels.invalid[has])
        share = 1.0 if valid is None else float(valid.mean())
        if not share:
            raise RecordError("has no valid pixel", remedy="no-valid-pixel")
        properties.setdefault("valid", round(share, 4))
        return pixels, None if share == 1 else valid, filled


def _neighbourhood(record: Record) -> _Place:
    """Return the part of a raster that contains a tile's corner; all of one that is decoded in threads of its own."""
    properties = record["properties"]
    source = str(properties.get("source"))
    column = row = 0
    if not _IN_THREADS.search(source):
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):  # not a tile, as reading will report
            left, top, width, _ = map(int, properties["window"])
            column, row = left // max(NEIGHBOURHOOD_PX, STRIP_TILES * width), top // NEIGHBOURHOOD_PX
    return source, column, row


def _when(record: Record) -> tuple[float, float]:
    text = record["properties"].get("datetime")
    try:
        return year_and_day(text)
    except (UsageError, TypeError):
        raise RecordError(f"has datetime {text!r}, but the model needs a date", remedy="datetime") from None


def _where(record: Record) -> tuple[float, float]:
    """Return latitude and longitude of the centre of the bbox, which may cross the antimeridian."""
    box = bbox_of(record)
    if box is None:
        raise RecordError("has no bbox, but the model needs a location; its raster needs a CRS")
    west, south, east, north = box
    middle = (west + east + (360 if west > east else 0)) / 2
    return (south + north) / 2, middle - 360 if middle > 180 else middle


_CONTEXT = {"datetime": _when, "location": _where}
