"""Embed a stream of tiles: threads read ahead while the model encodes on each device, and the order is kept."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, groupby
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from rsr_cli.core.encoders.base import MAX_INPUT_BYTES
from rsr_cli.core.encoders.int8 import quantize
from rsr_cli.core.encoders.placement import computes_bf16, move
from rsr_cli.core.encoders.preprocessing import Preprocessor
from rsr_cli.core.encoders.reading import Reader
from rsr_cli.core.errors import RecordError, Skips, UsageError, counted
from rsr_cli.core.rasters.pixels import too_large
from rsr_cli.core.records.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from rsr_cli.core.encoders.base import Encoder
    from rsr_cli.core.encoders.placement import Placement
    from rsr_cli.core.encoders.reading import Ready
    from rsr_cli.core.encoders.transformer import VisionTransformer
    from rsr_cli.core.records.space import Space

log = logging.getLogger("rsr")

#: Number of batches that each device has at a time, the one that it computes included, and for which tiles are read
#: ahead.
AHEAD = 2


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
        self._reader = Reader(
            encoder,
            skips,
            ahead=AHEAD * placement.batch_size * len(placement.devices),
            fill_missing=fill_missing and filled is None,
            filled=None if filled is None else frozenset(filled),
        )
        self._spaces: dict[tuple[tuple[str, ...], str | None], Space] = {}
        self._devices = []
        for device in placement.devices[1:]:
            other = copy.copy(encoder)
            other.module = copy.deepcopy(encoder.module)
            self._devices.append(_Device(other, device, placement))
        self._devices.insert(0, _Device(encoder, placement.devices[0], placement))

    @property
    def precision(self) -> str:
        """That in which the model computes."""
        return self._placement.precision

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
        running: deque[tuple[list[Ready], Future[NDArray[np.float32]]]] = deque()
        with contextlib.ExitStack() as stack:
            starts = cycle([stack.enter_context(device.started()) for device in self._devices])
            for tiles in self._gathered(self._reader.read(batches)):
                running.append((tiles, next(starts)(tiles)))
                while running and (len(running) >= AHEAD * len(self._devices) or running[0][1].done()):
                    yield from self._finished(*running.popleft())
            while running:
                yield from self._finished(*running.popleft())

    def _gathered(self, tiles: Iterable[Ready]) -> Iterator[list[Ready]]:
        """Form batches of tiles that have the same shape in the model and fit into memory."""
        waiting: list[Ready] = []
        memory = 0
        shape: tuple[int, ...] = ()
        for tile in tiles:
            needed, before, shape = tile.n_bytes, shape, self._shape(tile)
            if waiting and (shape != before or tile.is_large or memory + needed > MAX_INPUT_BYTES):
                yield waiting
                waiting, memory = [], 0
            waiting.append(tile)
            memory += needed
            count = min(self._placement.batch_size, max(1, MAX_INPUT_BYTES // (4 * math.prod(shape))))
            if len(waiting) == count or tile.is_large:
                yield waiting
                waiting, memory = [], 0
        if waiting:
            yield waiting

    def _shape(self, tile: Ready) -> tuple[int, ...]:
        """Return a tile's bands, height and width in the model."""
        size = self._encoder.size_px
        return tile.pixels.numbers.shape if size is None else (len(self._encoder.bands), size, size)

    def _finished(self, tiles: list[Ready], future: Future[NDArray[np.float32]]) -> Iterator[Batch]:
        """Wait for the vectors of a batch, and give them to its tiles."""
        try:
            vectors = future.result()
        except RecordError as error:
            self._skips(error)
            return
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

    def _space(self, filled: tuple[str, ...], unit: str | None) -> Space:
        """Return the space in which these bands are filled, of pixels in this unit."""
        if (filled, unit) not in self._spaces:
            self._spaces[filled, unit] = self._encoder.space(filled, unit, self._placement.precision)
        return self._spaces[filled, unit]


class _Device:
    """A model on one device, with threads of its own.

    A GPU has two, each with a stream, unless the encoder is not reentrant: while it computes one batch, the next one is
    copied and the last one's vectors are returned.
    """

    def __init__(self, encoder: Encoder, device: torch.device, placement: Placement) -> None:
        self._encoder = encoder
        self._device, self._dtype = device, placement.dtype
        is_cuda = device.type == "cuda"
        move(encoder.module, device, placement.dtype)
        if placement.precision == "int8":
            quantize(cast("VisionTransformer", encoder.module), bf16=computes_bf16(device))
        self._prepare = Preprocessor(encoder, device if is_cuda else torch.device("cpu"))
        self._threads = 2 if is_cuda and encoder.reentrant else 1
        self._most = sys.maxsize  # tiles that memory suffices for, as far as is known

    @contextlib.contextmanager
    def started(self) -> Iterator[Callable[[list[Ready]], Future[NDArray[np.float32]]]]:
        """Start the threads; return what begins to encode tiles of one shape to float32 (n, dim)."""
        threads = ThreadPoolExecutor(self._threads, "model", _use_own_stream, (self._device,))
        try:
            yield lambda tiles: threads.submit(self._encode, tiles)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _encode(self, tiles: list[Ready]) -> NDArray[np.float32]:
        """Encode a batch, in halves if memory does not suffice; later ones are as small at once."""
        if len(tiles) <= self._most:
            encoded = self._encode_at_once(tiles)
            if encoded is not None:
                return encoded
            if tiles[0].is_large:
                raise too_large(tiles[0].place)
            if len(tiles) == 1:
                raise UsageError(f"{self._device} has too little memory for a single tile", remedy="memory")
            what = "%s has too little memory for a batch of %s, and computes half of them at a time from here on"
            log.warning(what, self._device, counted(len(tiles), "tile"))
            self._most = min(self._most, len(tiles) // 2)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        half = -(-len(tiles) // 2)
        return np.concatenate([self._encode(tiles[:half]), self._encode(tiles[half:])])

    @torch.inference_mode()
    def _encode_at_once(self, tiles: list[Ready]) -> NDArray[np.float32] | None:
        """Encode a batch, ``None`` if memory does not suffice."""
        try:
            pixels, valid = self._prepare([tile.pixels for tile in tiles], [tile.valid for tile in tiles])
            context = {
                name: torch.tensor([tile.context[name] for tile in tiles], dtype=torch.float32, device=self._device)
                for name in self._encoder.needs
            }
            vectors = self._encoder.forward(pixels.to(self._device, self._dtype), valid.to(self._device), **context)
            encoded: NDArray[np.float32] = vectors.float().cpu().numpy()
        except (MemoryError, RuntimeError) as error:
            if not _is_about_memory(error):
                raise
            return None
        return encoded


def _use_own_stream(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _is_about_memory(error: Exception) -> bool:
    """Return whether memory ran out, which on a CPU torch raises as a RuntimeError like any other."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(error) for text in ("allocate memory", "out of memory"))
