"""Read tiles ahead of the model, in threads and in the order of the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.encoders.base import TOGETHER_BYTES
from rsr_cli.core.errors import RecordError, Skips, UsageError
from rsr_cli.core.rasters.ahead import read_ahead
from rsr_cli.core.rasters.pixels import bands_of, too_large
from rsr_cli.core.rasters.strips import read_each
from rsr_cli.core.records.fields import bbox_of
from rsr_cli.core.sensors.base import unit_read
from rsr_cli.core.times import year_and_day

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.encoders.base import Encoder
    from rsr_cli.core.rasters.pixels import Pixels
    from rsr_cli.core.records.batch import Batch, Record


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
    def n_bytes(self) -> int:
        """Bytes of memory that its pixels take."""
        arrays = (self.pixels.numbers, self.pixels.invalid, self.valid)
        return sum(array.nbytes for array in arrays if array is not None)

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
    ahead : int
        At least this many tiles are read ahead, as far as memory allows.
    fill_missing : bool
        Let tiles lack bands.
    filled : frozenset of str, optional
        Bands to fill for every tile, whether it has them or not, and no others.
    """

    encoder: Encoder
    skips: Skips
    ahead: int
    fill_missing: bool
    filled: frozenset[str] | None

    def read(self, batches: Iterable[Batch]) -> Iterator[Ready]:
        """Read tiles in the order of the input, ahead as far as their number and their memory allow."""
        for found in read_ahead(
            (list(zip(batch.records, repeat(batch.name), batch.lines)) for batch in batches),
            self._read,
            itemgetter(0),
            n_bands=len(self.encoder.bands),
            ahead=self.ahead,
        ):
            for tile in found:
                if isinstance(tile, RecordError):
                    self.skips(tile)
                else:
                    yield tile

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
            error.within(f"{name}:{line}")
            raise
        return Ready(record, name, line, pixels, valid, filled, context)

    def _validity(self, record: Record, pixels: Pixels) -> tuple[Pixels, NDArray[np.bool_] | None, tuple[str, ...]]:
        """Return a tile's pixels, which of them are valid, if not all are, and the bands filled."""
        bands, properties, chosen = self.encoder.bands, record["properties"], self.filled or ()
        names = bands_of(record)
        has = [band in names and band not in chosen for band in bands]
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
