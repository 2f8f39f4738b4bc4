"""Thumbnails: a tile's pixels as a small image in three of its bands, or a grey one of a single band.

The thumbnails of a row are stretched alike, so that they can be compared: what is brighter in the raster is brighter in
the figure. The brightest quarter of the tiles does not set the limits, so that a cloud becomes white and leaves the
others as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.errors import BandError
from rsr_cli.core.rasters.pixels import bands_of, read_pixels
from rsr_cli.core.sensors.base import UNUSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Record

#: Longest side of a thumbnail; of larger tiles, every second, third, ... pixel is used.
THUMBNAIL_PX = 256
#: Reflectance of 1, white where a row has no contrast to stretch.
WHITE = 10_000.0


def read(record: Record, bands: Sequence[str]) -> NDArray[np.float32]:
    """Read a tile's pixels, thinned to the size of a thumbnail.

    Parameters
    ----------
    record : dict
        A tile.
    bands : sequence of str
        Names of three bands, which may be repeated, or of one, which is drawn grey.

    Returns
    -------
    numpy.ndarray
        float32 (3, height, width), reflectance x 10000, NaN where invalid; the north of a tile that is stored from
        south to north is at the top.

    Raises
    ------
    RecordError
        The tile does not have the bands or cannot be read.
    """
    each = list(dict.fromkeys(bands))
    try:
        pixels = read_pixels(record, each)
    except BandError as error:
        has = [band for band in bands_of(record) if band != UNUSED]
        error.remedy, error.facts = "shown-bands", {"bands": ",".join(has[: 3 if len(has) >= 3 else 1])}
        raise
    step = -(-max(pixels.shape[1:]) // THUMBNAIL_PX)
    colours = [each.index(band) for band in bands] * (3 // len(bands))
    _, _, _, skew, down, _ = record["properties"].get("proj:transform", [0.0] * 6)
    thinned = pixels[colours, ::step, ::step]
    return thinned[:, ::-1] if down > 0 and not skew else thinned


def stretch(
    tiles: Sequence[NDArray[np.float32] | None], percentiles: tuple[float, float]
) -> list[NDArray[np.uint8] | None]:
    """Turn tiles into thumbnails that can be compared, because all are stretched alike.

    Parameters
    ----------
    tiles : sequence of numpy.ndarray or None
        float32 (3, height, width), reflectance x 10000, NaN where invalid.
    percentiles : tuple of float
        Percentiles of a band that become 0 and 255: those of each tile's valid pixels, and of these over all tiles the
        least lower one and the third quartile of the upper ones. If both are equal, reflectances of 0 and 1 do.

    Returns
    -------
    list of numpy.ndarray or None
        uint8 (height, width, 4): red, green, blue, and 0 where a pixel is invalid in any band, else 255.
    """
    masks = [None if tile is None else np.isfinite(tile).all(axis=0) for tile in tiles]
    valid = [tile[:, mask] for tile, mask in zip(tiles, masks, strict=True) if tile is not None and mask is not None]
    limits = [np.percentile(values, percentiles, axis=1) for values in valid if values.size]
    low, high = np.zeros((2, 3, 1, 1))  # without a valid pixel none is visible, and any limits will do
    if limits:
        lows, highs = np.swapaxes(limits, 0, 1)[..., None, None]
        low, high = lows.min(axis=0), np.percentile(highs, 75, axis=0, method="lower")
    low, high = np.where(high > low, (low, high), ([[[0.0]]], [[[WHITE]]]))
    thumbnails: list[NDArray[np.uint8] | None] = []
    for tile, mask in zip(tiles, masks, strict=True):
        if tile is None or mask is None:
            thumbnails.append(None)
            continue
        share = np.clip((tile - low) / (high - low), 0, 1)
        layers = np.concatenate([np.where(mask, share, 0), [mask]])
        thumbnails.append(np.rint(255 * layers).astype(np.uint8).transpose(1, 2, 0))
    return thumbnails
