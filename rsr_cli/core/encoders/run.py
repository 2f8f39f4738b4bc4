"""Embed a stream of tiles: threads read and normalise ahead while the model encodes, and the order is kept."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from rsr_cli.core.encoders.base import MAX_INPUT_BYTES
from rsr_cli.core.encoders.placement import move
from rsr_cli.core.errors import RecordError, Skips, UsageError, counted
from rsr_cli.core.rasters.pixels import MAX_TILE_BYTES, memory_of, read_pixels
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.fields import bbox_of
from rsr_cli.core.sensors.base import unit_read
from rsr_cli.core.times import year_and_day

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from rsr_cli.core.encoders.base import Encoder
    from rsr_cli.core.encoders.placement import Placement
    from rsr_cli.core.records.batch import Record
    from rsr_cli.core.records.space import Space

#: Number of batches read ahead of the model.
AHEAD = 2
#: Size of a block in a Sentinel-2 product, and of several in most other rasters.
NEIGHBOURHOOD_PX = 1024


@dataclass(frozen=True)
class _Ready:
    """A tile ready for the model.

    ``pixels`` is float32 (bands, height, width), normalised, and ``valid`` float32 (height, width), the share of each
    pixel that is valid in all bands that are not filled; None if all pixels are.
    """

    record: Record
    name: str
    line: int
    pixels: torch.Tensor
    valid: torch.Tensor | None
    filled: tuple[str, ...]
    context: dict[str, tuple[float, float]]

    @property
    def place(self) -> str:
        return f"{self.name}:{self.line}"

    @property
    def unit(self) -> str | None:
        """The unit of the pixels, if they are not reflectance x 10000."""
        return unit_read(self.record["properties"].get("unit"))


class Embedder:
    """Adds embeddings to tiles.

    Parameters
    ----------
    encoder : Encoder
        The model; moved to the placement's device and precision.
    placement : Placement
        Where and how it runs.
    skips : Skips
        Receives the errors of tiles that cannot be embedded.
    fill_missing : bool
        Fill bands that a tile lacks with the model's mean, instead of raising an error. Such vectors are in a vector
        space of their own: the filled bands are part of the recipe.
    filled : sequence of str, optional
        Bands to fill for every tile, whether it has them or not, and no others: all vectors are in the space in which
        these bands are filled.
    """

    def __init__(
        self,
        encoder: Encoder,
        placement: Placement,
        skips: Skips,
        *,
        fill_missing: bool = False,
        filled: Sequence[str] | None = None,
    ) -> None:
        self._encoder = encoder
        self._placement = placement
        self._skips = skips
        self._fill_missing = fill_missing and filled is None
        self._one_space = filled is not None
        self._filled = frozenset(filled or ())
        self._spaces: dict[tuple[tuple[str, ...], str | None], Space] = {}
        self._mean = np.array(encoder.mean, np.float32)[:, None, None]
        self._std = np.array(encoder.std, np.float32)[:, None, None]
        move(encoder.module, placement)

    def embed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Embed a stream of tiles.

        Parameters
        ----------
        batches : iterable of Batch
            Tiles; changed in place.

        Yields
        ------
        Batch
            Consecutive tiles with their embeddings, float32 (n, dim), and with ``valid`` unless it was already there;
            tiles with other bands filled are in another space, and in a batch of their own.

        Raises
        ------
        RecordError
            A tile cannot be read, lacks a band, a date or a bbox, or has no valid pixel.
        """
        waiting: list[_Ready] = []
        with torch.inference_mode():
            for tile in self._read_ahead(batches):
                if waiting and tile.pixels.shape != waiting[0].pixels.shape:
                    yield from self._encode(waiting)
                    waiting = []
                waiting.append(tile)
                if len(waiting) == self._fitting(tile):
                    yield from self._encode(waiting)
                    waiting = []
            if waiting:
                yield from self._encode(waiting)

    def _fitting(self, tile: _Ready) -> int:
        """Return the number of tiles of this size in a batch."""
        return min(self._placement.batch_size, max(1, MAX_INPUT_BYTES // tile.pixels.nbytes))

    def _read_ahead(self, batches: Iterable[Batch]) -> Iterator[_Ready]:
        """Prepare tiles in threads, in the order of the input."""
        readers = [ThreadPoolExecutor(1, "reader") for _ in range(self._placement.readers)]
        # Tiles that share blocks of a file go to one thread, which decodes these blocks once.
        turns = cycle(readers)
        reader_of = lru_cache(maxsize=1024)(lambda _neighbourhood: next(turns))
        futures: deque[tuple[Future[_Ready], float]] = deque()
        memory = 0.0
        try:
            for batch in batches:
                for i, record in enumerate(batch.records):
                    needed = self._memory_of(record)
                    while len(futures) >= AHEAD * self._placement.batch_size or (
                        futures and memory + needed > MAX_TILE_BYTES
                    ):
                        future, freed = futures.popleft()
                        yield from self._finished(future)
                        memory -= freed
                    reader = reader_of(_neighbourhood(record))
                    futures.append((reader.submit(self._prepare, record, batch.name, batch.lines[i]), needed))
                    memory += needed
            while futures:
                yield from self._finished(futures.popleft()[0])
        finally:
            for reader in readers:
                reader.shutdown(wait=False, cancel_futures=True)  # one may wait for a network

    def _memory_of(self, record: Record) -> float:
        """Return the memory in bytes that reading a tile and resizing it takes at most, as far as the record states."""
        bands, size = len(self._encoder.bands), self._encoder.size_px or 0
        try:
            width, height = (float(length) for length in record["properties"]["window"][2:4])
        except (KeyError, TypeError, ValueError, OverflowError):  # not a tile, as reading its pixels will report
            width = height = 0.0
        needed = memory_of(max(0.0, width) * max(0.0, height), bands) + 8 * bands * size**2
        return min(needed, MAX_TILE_BYTES)

    def _finished(self, future: Future[_Ready]) -> Iterator[_Ready]:
        try:
            yield future.result()
        except RecordError as error:
            self._skips(error)

    def _prepare(self, record: Record, name: str, line: int) -> _Ready:
        try:
            pixels, valid, filled = self._pixels(record)
            context = {name: _CONTEXT[name](record) for name in self._encoder.needs}
        except (MemoryError, RuntimeError) as error:
            if not _is_about_memory(error):
                raise
            raise RecordError("is too large for the memory that is free", f"{name}:{line}", remedy="cut") from None
        except RecordError as error:
            if error.remedy in ("fill-missing", "other-bands", "stand-in") and self._one_space:
                error.remedy = "as-tiles"
            error.place = f"{name}:{line}: {error.place}" if error.place else f"{name}:{line}"
            raise
        return _Ready(record, name, line, pixels, valid, filled, context)

    def _pixels(self, record: Record) -> tuple[torch.Tensor, torch.Tensor | None, tuple[str, ...]]:
        """Read, normalise and resize a tile, invalid pixels at the mean; return its validity and the bands filled."""
        bands = self._encoder.bands
        may_lack = bands if self._fill_missing else self._filled
        pixels = read_pixels(record, bands, may_lack=may_lack)
        has = [band in record["properties"]["bands"] and band not in self._filled for band in bands]
        filled = tuple(band for band, there in zip(bands, has, strict=True) if not there)
        if filled:
            pixels[[not there for there in has]] = np.nan
        finite = np.isfinite(pixels)
        valid = np.logical_and.reduce(finite[has] if filled else finite)
        share = float(valid.mean())
        if not share:
            raise RecordError("has no valid pixel", remedy="no-valid-pixel")
        record["properties"].setdefault("valid", round(share, 4))
        pixels -= self._mean
        pixels /= self._std
        pixels[~finite] = 0
        resized = self._resize(pixels)
        if share == 1:
            return resized, None, filled
        if resized.shape != pixels.shape:  # a resized pixel is the average of the valid ones that it is made from
            resized /= self._resize(finite.astype(np.float32)).clamp_min(1e-6)
        return resized, self._resize(valid[None].astype(np.float32))[0], filled

    def _resize(self, layers: NDArray[np.float32]) -> torch.Tensor:
        """Resize float32 (layers, height, width) to the model's size, if it has one."""
        size = self._encoder.size_px
        tensor = torch.from_numpy(layers)
        if size is None or layers.shape[1:] == (size, size):
            return tensor
        return torch.nn.functional.interpolate(tensor[None], (size, size), mode="bilinear", antialias=True)[0]

    def _encode(self, tiles: list[_Ready]) -> Iterator[Batch]:
        vectors = self._forward(tiles)
        finite = np.isfinite(vectors).all(axis=1)
        for i in np.flatnonzero(~finite):
            self._skips(RecordError("the model returns NaN or infinite values", tiles[i].place, remedy="precision"))
        kept = [(tiles[i], i) for i in np.flatnonzero(finite)]
        for (filled, unit, name), group in groupby(kept, key=lambda pair: (pair[0].filled, pair[0].unit, pair[0].name)):
            some, rows = zip(*group, strict=True)
            lines, records = [tile.line for tile in some], [tile.record for tile in some]
            for record in records:
                record["properties"].pop("code", None)  # of an earlier embedding
            yield Batch(name, lines, records, vectors[list(rows)], self._space(filled, unit))

    def _forward(self, tiles: list[_Ready]) -> NDArray[np.float32]:
        """Run the model: tiles of one shape to float32 (n, dim)."""
        device, dtype = self._placement.device, self._placement.dtype
        try:
            pixels = torch.stack([tile.pixels for tile in tiles]).to(device, dtype)
            context = {
                name: torch.tensor([tile.context[name] for tile in tiles], dtype=torch.float32, device=device)
                for name in self._encoder.needs
            }
            whole = torch.ones(tiles[0].pixels.shape[1:])
            valid = torch.stack([whole if tile.valid is None else tile.valid for tile in tiles]).to(device)
            vectors: NDArray[np.float32] = self._encoder.forward(pixels, valid, **context).float().cpu().numpy()
        except (MemoryError, RuntimeError) as error:
            if not _is_about_memory(error):
                raise
            what = f"{device} has too little memory for a batch of {counted(len(tiles), 'tile')}"
            raise UsageError(what, remedy="batch-size") from None
        return vectors

    def _space(self, filled: tuple[str, ...], unit: str | None) -> Space:
        """Return the space in which these bands are filled, of pixels in this unit."""
        if (filled, unit) not in self._spaces:
            self._spaces[filled, unit] = self._encoder.space(filled, unit, self._placement.precision)
        return self._spaces[filled, unit]


def _is_about_memory(error: Exception) -> bool:
    """Return whether memory ran out, which on a CPU torch raises as a RuntimeError like any other."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def _neighbourhood(record: Record) -> str:
    """Name the part of a raster that contains a tile's corner."""
    properties = record["properties"]
    try:
        column, row = (int(start) // NEIGHBOURHOOD_PX for start in properties["window"][:2])
    except (KeyError, TypeError, ValueError):  # not a tile, as reading its pixels will report
        column = row = 0
    return f"{properties.get('source')} {column} {row}"


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
