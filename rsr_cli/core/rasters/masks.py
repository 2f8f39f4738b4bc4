"""Masks: pixels that a band or a file beside a scene's bands marks as invalid, such as cloudy ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsr_cli.core.sensors.quality import Marks


def are_marked(numbers: NDArray[Any], marks: Marks) -> NDArray[np.bool_]:
    """Return which numbers of a quality band mark their pixel.

    Parameters
    ----------
    numbers : numpy.ndarray
        Of any shape; integers if ``marks`` has bits.
    """
    found: NDArray[np.bool_] = np.isin(numbers, marks.values)
    if marks.bits:
        found |= (numbers & sum(1 << bit for bit in marks.bits)) != 0
    return found


def cloud_cover(numbers: np.ma.MaskedArray[Any, Any], clouds: Marks, fill: Marks) -> float | None:
    """Return the share of observed pixels that are cloudy, in percent (STAC's ``eo:cloud_cover``); None without any."""
    observed = ~np.ma.getmaskarray(numbers) & ~are_marked(numbers.data, fill)
    if not observed.any():
        return None
    return round(100 * float(are_marked(numbers.data[observed], clouds).mean()), 2)
