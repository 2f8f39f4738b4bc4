"""Masks: pixels that a band or a file beside a scene's bands marks as invalid, such as cloudy ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import BandError, RasterError, counted
from rsr_cli.core.rasters.opening import open_raster, range_of
from rsr_cli.core.sources.base import band_in_file, file_and_band
from rsr_cli.core.sources.files import beside, expanded
from rsr_cli.core.sources.products import other_band

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from rsr_cli.core.sensors.base import Sensor
    from rsr_cli.core.sensors.quality import Marks, QualityBand
    from rsr_cli.core.sources.base import Found


@dataclass(frozen=True)
class MaskSettings:
    """Where the masks of scenes are, and which numbers mark invalid pixels.

    Attributes
    ----------
    marks : Marks
        The numbers.
    band : str
        Name of a band of the scene's file, or of the product that its single-band files are from; or
    file : str
        Pattern of a file's path, relative to the scene's directory; ``{stem}`` is the name of the scene's file without
        its ending.
    quality : QualityBand or None
        What else the numbers mean, for the cloud cover.
    """

    marks: Marks
    band: str = ""
    file: str = ""
    quality: QualityBand | None = None

    def is_in(self, description: str | None) -> bool:
        """Return whether the description of a band states that it is the mask."""
        return bool(self.band) and (description or "").lower() == self.band.lower()

    def find(self, found: Found, names: dict[str, int], sensor: Sensor | None) -> str:
        """Return the source of a scene's mask, as records state it.

        Parameters
        ----------
        found : Found
            The scene.
        names : dict of str to int
            Name or description of a band of a multi-band file, in lower case -> its number.
        sensor : Sensor, optional
            By whose names single-band files are found.

        Raises
        ------
        BandError
            There is none, or more than one.
        """
        if self.file:
            files = beside(found.path, self.file)
            if not files:
                raise BandError(f"has no mask {expanded(found.path, self.file)}", remedy="mask")
            if len(files) > 1:
                what = f"{len(files)} files, such as {files[0]} and {files[1]},"
                raise BandError(f"has {what} that {self.file} names, where one mask is expected", remedy="mask")
            return files[0]
        if isinstance(found.source, str):
            if self.band.lower() not in names:
                has = {index: name for name, index in names.items()}  # of two names of a band, the last
                raise BandError(f"has no band {self.band} to mask with (has {', '.join(has.values()) or 'no names'})")
            return band_in_file(found.source, names[self.band.lower()])
        if found.others:
            if self.band.lower() not in found.others:
                raise BandError(f"has no asset {self.band} to mask with (has {', '.join(sorted(found.others))})")
            return found.others[self.band.lower()]
        files = other_band(sensor, found.path, self.band) if sensor else []
        if not files:
            former = [file for name in self._former for file in other_band(sensor, found.path, name)] if sensor else []
            instead = f", but {former[0]} of an earlier collection, whose numbers mean something else" if former else ""
            raise BandError(f"has no file of band {self.band} to mask with{instead}", remedy="mask")
        return files[0]

    @property
    def _former(self) -> tuple[str, ...]:
        return self.quality.former if self.quality else ()


def check_mask(source: str, marks: Marks, fits: Callable[[DatasetReader], bool]) -> None:
    """Check that a mask can be read and have the numbers or bits that are asked for.

    Parameters
    ----------
    source : str
        As a record states it.
    marks : Marks
        What is asked for.
    fits : callable
        Returns whether a dataset covers the area of the scene.

    Raises
    ------
    BandError, RasterError
        It cannot be used.
    """
    path, index = file_and_band(source)
    with open_raster(path) as dataset:
        if index is None and dataset.count != 1:
            raise BandError(f"has {counted(dataset.count, 'band')}, where a mask has one", path)
        if not fits(dataset):
            raise BandError("covers another area than the bands, or has another coordinate system", path)
        kind = np.dtype(dataset.dtypes[(index or 1) - 1])
        if marks.bits and (kind.kind not in "iu" or max(marks.bits) >= 8 * kind.itemsize):
            raise BandError(f"has {kind} numbers, which have no bit {max(marks.bits)}", path)
        if marks.values and not marks.bits and kind.kind in "iu" and not any(n in range_of(kind) for n in marks.values):
            raise BandError(f"has {kind} numbers, none of which is {marks.values[0]}", path)


def are_marked(numbers: NDArray[Any], marks: Marks) -> NDArray[np.bool_]:
    """Return which numbers of a mask mark their pixel.

    Parameters
    ----------
    numbers : numpy.ndarray
        Of any shape.
    marks : Marks
        What marks a pixel.

    Raises
    ------
    RasterError
        The marks are bits, and the numbers are not integers.
    """
    found: NDArray[np.bool_] = np.isin(numbers, marks.values)
    if marks.bits:
        if numbers.dtype.kind not in "iu":
            raise RasterError(f"the mask has {numbers.dtype} numbers, which have no bits")
        found |= (numbers.astype(np.int64) & sum(1 << bit for bit in marks.bits)) != 0
    return found


def cloud_cover(numbers: np.ma.MaskedArray[Any, Any], quality: QualityBand) -> float | None:
    """Return the share of observed pixels that are cloudy, in percent (STAC's ``eo:cloud_cover``); None without any."""
    observed = ~np.ma.getmaskarray(numbers) & ~are_marked(numbers.data, quality.fill)
    if not observed.any():
        return None
    return round(100 * float(are_marked(numbers.data[observed], quality.clouds).mean()), 2)
