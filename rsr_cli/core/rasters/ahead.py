"""Reading tiles ahead, in threads and in the order of the input."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeVar

from rsr_cli.core.errors import RsrError
from rsr_cli.core.rasters.opening import open_raster
from rsr_cli.core.rasters.pixels import MAX_TILE_BYTES, bands_of, memory_of
from rsr_cli.core.rasters.strips import STRIP_BYTES, STRIP_TILES
from rsr_cli.core.sources.base import file_and_band

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from rsr_cli.core.records.batch import Record

#: Most threads that read.
READER_THREADS = 8
#: Height of the part of a raster that one thread reads, and its width unless `STRIP_TILES` are wider: one block or
#: several. Where blocks are as wide as the raster, it is a row of tiles or of blocks, whichever is higher.
NEIGHBOURHOOD_PX = 1024
#: Formats of which several readers would take longer than one. GDAL decodes JPEG 2000 in as many threads as there are
#: processors, and two readers decode the blocks between their tiles twice; PNG and JPEG are decoded from the top.
_BY_ONE = {"JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "PNG", "JPEG"}

_Tile = TypeVar("_Tile")
_Read = TypeVar("_Read")
#: A raster, and the column and row of one of its parts.
_Place = tuple[str, int, int]


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_ahead(
    batches: Iterable[Sequence[_Tile]],
    read: Callable[[Sequence[_Tile]], _Read],
    record_of: Callable[[_Tile], Record],
    *,
    n_bands: int | None = None,
    ahead: int = 0,
) -> Iterator[_Read]:
    """Read tiles in the order of the input, ahead as far as their number and their memory allow.

    Parameters
    ----------
    batches : iterable of sequence
        Tiles.
    read : callable
        Reads up to `STRIP_TILES` of a batch, in a thread.
    record_of : callable
        Returns the record of a tile.
    n_bands : int, optional
        Number of bands to read; by default all of a tile's.
    ahead : int
        At least this many tiles are read ahead, as far as memory allows; more if that leaves a thread without any.

    Yields
    ------
    object
        What ``read`` returns.
    """
    threads = [ThreadPoolExecutor(1, "reader") for _ in range(min(READER_THREADS, cores()))]
    # Tiles that share blocks of a file go to one thread, which decodes these blocks once.
    turns = cycle(threads)
    thread_of = lru_cache(maxsize=1024)(lambda _place: next(turns))
    reading: deque[tuple[Future[_Read], int, float]] = deque()
    ahead = max(ahead, len(threads) * STRIP_TILES)
    count, memory = 0, 0.0
    try:
        for batch in batches:
            for place, rows, needed in _runs([record_of(tile) for tile in batch], n_bands):
                while reading and (count + len(rows) > ahead or memory + needed > MAX_TILE_BYTES):
                    future, fewer, freed = reading.popleft()
                    yield future.result()
                    count, memory = count - fewer, memory - freed
                reading.append((thread_of(place).submit(read, [batch[i] for i in rows]), len(rows), needed))
                count, memory = count + len(rows), memory + needed
        while reading:
            yield reading.popleft()[0].result()
    finally:
        for thread in threads:
            thread.shutdown(wait=False, cancel_futures=True)  # one may wait for a network


def _runs(records: Sequence[Record], n_bands: int | None) -> Iterator[tuple[_Place, list[int], float]]:
    """Divide tiles into runs for one thread: the place of the first tile, their numbers, memory in bytes."""
    run: list[int] = []
    first = last = ("", 0, 0)
    memory = 0.0
    for i, record in enumerate(records):
        place, needed = _neighbourhood(record), _memory_of(record, n_bands)
        if run and (place != last or len(run) == STRIP_TILES or memory + needed > STRIP_BYTES):
            yield first, run, memory
            run, memory = [], 0.0
        first, last = first if run else place, place
        run.append(i)
        memory += needed
    if run:
        yield first, run, memory


def _memory_of(record: Record, n_bands: int | None) -> float:
    """Return the memory in bytes that reading a tile takes at most, as far as the record states."""
    try:
        width, height = (float(length) for length in record["properties"]["window"][2:4])
        n_bands = len(bands_of(record)) if n_bands is None else n_bands
    except (KeyError, TypeError, ValueError, OverflowError):  # not a tile, as reading its pixels will report
        width = height = 0.0
    return min(memory_of(max(0.0, width) * max(0.0, height), n_bands or 0), MAX_TILE_BYTES)


def _neighbourhood(record: Record) -> _Place:
    """Return the part of a raster that contains a tile's corner, which one thread reads."""
    source = record["properties"].get("source")
    path: Any = next(iter(source.values()), None) if isinstance(source, dict) else source
    try:
        left, top, width, height = map(int, record["properties"]["window"])
        column, row = left // max(NEIGHBOURHOOD_PX, STRIP_TILES * width), top // NEIGHBOURHOOD_PX
        if left or top:
            rows = _rows_per_block(file_and_band(path)[0])
            if rows is not None:
                column, row = 0, top // max(height, rows)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):  # not a tile, as reading it will report
        column = row = 0
    return str(source), column, row


@lru_cache(maxsize=1024)
def _rows_per_block(path: str) -> int | None:
    """Return the number of rows that are decoded at once if a raster's blocks are as wide as the raster, else None.

    That is all of them in a format of which only one thread should read.
    """
    try:
        with open_raster(path) as dataset:
            height, width = dataset.block_shapes[0]
            return dataset.height if dataset.driver in _BY_ONE else height if width >= dataset.width else None
    except RsrError:  # as reading will report
        return None
