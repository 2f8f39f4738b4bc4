"""The mean of pixels that are embeddings: an encoder without a network, so without torch."""

from __future__ import annotations

from itertools import groupby, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rsr_cli.core.encoders import specification
from rsr_cli.core.encoders.specification import EncoderSettings
from rsr_cli.core.errors import RecordError, Skips, UsageError
from rsr_cli.core.rasters.ahead import read_ahead
from rsr_cli.core.rasters.pixels import bands_of, check_tile
from rsr_cli.core.rasters.strips import read_each
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.space import Space, fingerprint
from rsr_cli.core.sensors.base import UNUSED, is_reflectance
from rsr_cli.core.sensors.embeddings import PRODUCTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.encoders.base import Model, RunSettings
    from rsr_cli.core.rasters.pixels import Pixels
    from rsr_cli.core.records.batch import Record

#: Increase it with every change of the formula.
RECIPE = 1


class Mean:
    """Average the embeddings of a tile's valid pixels; of products whose vectors have unit length, scale to it again.

    A pixel is valid if it is in all bands. Averages are taken in float64.

    Parameters
    ----------
    model : Model
        As `Model.adjust` returns it; its settings may state the vector space of the pixels.
    checkpoint : None
        There are no weights to read.
    """

    def __init__(self, model: Model, checkpoint: None) -> None:  # noqa: ARG002
        self._declared = model.changes.space if model.changes else None

    def space(self, filled: Sequence[str] = (), unit: str | None = None) -> Space:  # noqa: ARG002  as of `Encoder`
        """Return the vector space of the means of pixels in the space that the settings state; its size is unknown."""
        return _space(self._declared or "", 0)

    def embedder(self, skips: Skips, run: RunSettings) -> PixelMeans:
        """Return what adds embeddings to tiles.

        Raises
        ------
        UsageError
            A setting of networks is stated.
        """
        for name in ("device", "precision", "batch_size", "fill_missing"):
            if getattr(run, name):
                raise UsageError(f"mean takes no {name.replace('_', ' ')}")
        return PixelMeans(self._declared, skips)


class _Asked(NamedTuple):
    """What is to be averaged: the vector space of the pixels, and the bands in its order."""

    space: str
    bands: tuple[str, ...]


_Tile = tuple["Record", str, int]


class PixelMeans:
    """Adds the mean of its pixels to each tile.

    Parameters
    ----------
    declared : str or None
        The vector space of pixels that do not state it.
    skips : Skips
        Receives the errors of tiles that cannot be averaged.
    """

    #: As of `run.Embedder`, though the means themselves are of more digits.
    precision = "fp32"

    def __init__(self, declared: str | None, skips: Skips) -> None:
        self._declared = declared
        self._skips = skips

    def embed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Average a stream of tiles.

        Parameters
        ----------
        batches : iterable of Batch
            Tiles; changed in place.

        Yields
        ------
        Batch
            Consecutive tiles with their embeddings, float32 (n, dim), and with ``valid`` unless it was already there.

        Raises
        ------
        RecordError
            A tile cannot be read, has pixels that are no embeddings, or has no valid pixel.
        """
        tiles = (list(zip(batch.records, repeat(batch.name), batch.lines)) for batch in batches)
        for found in read_ahead(tiles, self._read, itemgetter(0)):
            for (asked, name), group in groupby(found, key=lambda one: (one[0], one[1][1])):
                some = list(group)
                if isinstance(asked, RecordError):
                    for error, *_ in some:
                        self._skips(error)
                    continue
                records, lines = [tile[0] for _, tile, _ in some], [tile[2] for _, tile, _ in some]
                for record in records:
                    record["properties"].pop("code", None)  # of an earlier embedding
                vectors = np.stack([vector for *_, vector in some])
                yield Batch(name, lines, records, vectors, _space(asked.space, vectors.shape[1]))

    def _read(self, tiles: Sequence[_Tile]) -> list[tuple[Any, _Tile, Any]]:
        """Return for each tile what was averaged and the mean, or why there is none."""
        read: list[tuple[Any, _Tile, Any]] = []
        for asked, group in groupby(tiles, key=lambda tile: self._asked(tile[0])):
            some = list(group)
            if isinstance(asked, RecordError):
                read += [(_placed(asked, tile), tile, None) for tile in some]
                continue
            for tile, pixels in zip(some, read_each([tile[0] for tile in some], asked.bands), strict=True):
                try:
                    if isinstance(pixels, RecordError):
                        raise pixels
                    read.append((asked, tile, _mean(tile[0], pixels, asked.space)))
                except RecordError as error:
                    read.append((_placed(error, tile), tile, None))
        return read

    def _asked(self, record: Record) -> _Asked | RecordError:
        """Return what is to be averaged of a tile, or why nothing is."""
        try:
            check_tile(record)
        except RecordError as error:
            return error
        stated, bands = record["properties"].get("space"), bands_of(record)
        if stated is not None and not isinstance(stated, str):
            return RecordError("states space in a way that cannot be read")
        if stated and self._declared and stated != self._declared:
            return RecordError(f"has pixels in the vector space {stated}, not {self._declared}")
        if reflectance := [band for band in bands if is_reflectance(band)]:
            return RecordError(f"has pixels that are no embeddings: {', '.join(reflectance)}", remedy="model-else")
        space = stated or self._declared
        if space is None:
            return RecordError("does not state the vector space of its pixels", remedy="pixel-space")
        if product := PRODUCTS.get(space):
            try:
                product.check_bands(bands)
            except RecordError as error:
                return error
            return _Asked(space, product.order)
        if used := tuple(band for band in bands if band != UNUSED):
            return _Asked(space, used)
        return RecordError("names no band that is used")


def _placed(error: RecordError, tile: _Tile) -> RecordError:
    """Return an error with the input and line of its tile."""
    _, name, line = tile
    error.within(f"{name}:{line}")
    return error


def _mean(record: Record, pixels: Pixels, space: str) -> NDArray[np.float32]:
    """Return the mean of a tile's valid pixels: float32 (dim,)."""
    valid = None if pixels.invalid is None else ~pixels.invalid.any(axis=0)
    if valid is not None and not valid.any():
        raise RecordError("has no valid pixel", remedy="no-valid-pixel")
    record["properties"].setdefault("valid", 1.0 if valid is None else round(float(valid.mean()), 4))
    numbers = pixels.numbers.reshape(len(pixels.numbers), -1) if valid is None else pixels.numbers[:, valid]
    mean = numbers.mean(axis=1, dtype=np.float64) * pixels.scale.ravel() + pixels.offset.ravel()
    if _has_unit_length(space):
        length = np.linalg.norm(mean)
        if not length:
            raise RecordError("has pixels whose embeddings cancel each other out")
        mean /= length
    return mean.astype(np.float32)


def _has_unit_length(space: str) -> bool:
    return space in PRODUCTS and PRODUCTS[space].unit_length


def _space(name: str, dim: int) -> Space:
    """Return the space of the means of pixels in the space of a name."""
    recipe = {"model": "mean", "recipe": RECIPE, "space": name, "unit_length": _has_unit_length(name)}
    stated = specification.format(EncoderSettings("mean", space=name))
    return Space("embedding", dim, "float32", fingerprint(recipe), {"model": stated}, recipe)
