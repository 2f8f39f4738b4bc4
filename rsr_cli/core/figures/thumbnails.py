"""Thumbnails: a tile's pixels as a small image in three of its bands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.errors import BandError
from rsr_cli.core.rasters import read_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Record

#: Longest side of a thumbnail; of larger tiles, every second, third, ... pixel is used.
THUMBNAIL_PX = 256


def read(record: Record, bands: Sequence[str]) -> NDArray[np.float32]:
    """Read a tile's pixels, thinned to the size of a thumbnail.

    Parameters
    ----------
    record : dict
        A tile.
    bands : sequence of str
        STAC common names of three bands.

    Returns
    -------
    numpy.ndarray
        float32 (3, height, width), reflectance x 10000, NaN where invalid.

    Raises
    ------
    RecordError
        The tile does not have the bands or cannot be read.
    """
    try:
        pixels = read_pixels(record, bands)
    except BandError as error:
        error.remedy = "three-bands"
        raise
    step = -(-max(pixels.shape[1:]) // THUMBNAIL_PX)
    return pixels[:, ::step, ::step].copy()


def stretch(
    tiles: Sequence[NDArray[np.float32] | None], percentiles: tuple[float, float]
) -> list[NDArray[np.uint8] | None]:
    """Turn tiles into thumbnails that can be compared, because all are stretched alike.

    Parameters
    ----------
    tiles : sequence of numpy.ndarray or None
        float32 (3, height, width), NaN where invalid.
    percentiles : tuple of float
        Percentiles of a band over the valid pixels of all tiles that become 0 and 255.

    Returns
    -------
    list of numpy.ndarray or None
        uint8 (height, width, 4): red, green, blue, and 0 where a pixel is invalid in any band, else 255.
    """
    values = [tile[:, np.isfinite(tile).all(axis=0)] for tile in tiles if tile is not None]
    together = np.concatenate(values, axis=1) if values else np.empty((3, 0))
    if not together.size:  # then no pixel is visible, and any stretch will do
        together = np.zeros((3, 1))
    low, high = np.percentile(together, percentiles, axis=1)[:, :, None, None]
    thumbnails: list[NDArray[np.uint8] | None] = []
    for tile in tiles:
        if tile is None:
            thumbnails.append(None)
            continue
        mask = np.isfinite(tile).all(axis=0)
        share = np.clip((tile - low) / np.where(high > low, high - low, 1), 0, 1)
        layers = np.concatenate([np.where(mask, share, 0), [mask]])
        thumbnails.append(np.rint(255 * layers).astype(np.uint8).transpose(1, 2, 0))
    return thumbnails
