"""From the numbers of a scene's bands to reflectance x 10000, and whether the result can be true."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.errors import RasterioError
from rasterio.windows import Window

from rsr_cli.core.errors import BandError, UsageError
from rsr_cli.core.rasters.opening import is_all_valid
from rsr_cli.core.sensors.base import POLARIZATIONS, factor_of, is_reflectance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from rsr_cli.core.sensors.base import Product, Sensor

#: Data types whose numbers are taken as reflectance x 10000 without a warning if nothing states their scale.
USUAL_DTYPES = frozenset({"uint16", "int16"})
#: Reflectance x 10000 of clouds, snow and roofs is below the second number, and overcorrected shadows are above the
#: first, except for the share below. In EuroSAT and BigEarthNet 0.0007 of a patch's band is outside at most.
PLAUSIBLE = (-100, 16000)
IMPLAUSIBLE_SHARES = (0.1, 0.02)
#: Backscatter in decibels is between these.
PLAUSIBLE_DECIBELS = (-100, 100)
#: If one number is at least the first share of those that are implausible, it may mark invalid pixels. Then the second
#: share of a band raises the doubt: cameras do not repeat themselves.
REPEATED, REPEATED_SHARE = 0.5, 0.01
#: Reflectance from 0 to 1 is below this number.
BRIGHTEST = 2.0
#: No scale or offset is larger, as what it makes of numbers is float32.
LARGEST = float(np.finfo(np.float32).max)
#: A scene is sampled in 3 x 3 windows of this many pixels: a block or a few of each band.
SAMPLE_PX = 64

ScaleOffset = tuple[float, float]


@dataclass(frozen=True)
class Band:
    """A band that is used: its name, where it is, and the scale and offset that its source states besides the file."""

    name: str
    dataset: DatasetReader
    index: int
    stated: ScaleOffset | None = None

    @property
    def dtype(self) -> str:
        """The data type of its numbers."""
        return str(self.dataset.dtypes[self.index - 1])

    @property
    def declared(self) -> ScaleOffset | None:
        """The scale and offset that the file declares, else its source, to reflectance x 10000 or the band's unit."""
        return self.of_file or self.stated

    @property
    def of_file(self) -> ScaleOffset | None:
        """The scale and offset that the file declares; None without."""
        scale, offset = self.dataset.scales[self.index - 1], self.dataset.offsets[self.index - 1]
        factor = factor_of(self.name)
        return None if (scale, offset) == (1.0, 0.0) else (scale * factor, offset * factor)


def sample(bands: Sequence[Band]) -> list[NDArray[np.float64]]:
    """Read some valid numbers of each band, from all over the scene; none where they cannot be read."""
    found: list[list[NDArray[Any]]] = [[np.empty(0)] for _ in bands]
    for _, group in groupby(range(len(bands)), key=lambda i: (id(bands[i].dataset), bands[i].dtype)):
        mine = list(group)
        dataset, indexes = bands[mine[0]].dataset, [bands[i].index for i in mine]
        masked = not is_all_valid(dataset)
        for row, height in _places(dataset.height):
            for column, width in _places(dataset.width):
                try:
                    numbers = dataset.read(indexes, window=Window(column, row, width, height), masked=masked)
                except RasterioError:  # reading the tile will report it
                    continue
                for i, layer in zip(mine, numbers, strict=True):
                    valid = layer.compressed() if masked else layer.ravel()
                    found[i].append(valid[np.isfinite(valid)] if valid.dtype.kind == "f" else valid)
    return [np.concatenate(parts) for parts in found]


def _places(length: int) -> list[tuple[int, int]]:
    """Return start and length of the windows along one axis."""
    if length <= 3 * SAMPLE_PX:
        return [(0, length)]
    return [(round(share * (length - SAMPLE_PX)), SAMPLE_PX) for share in (0.1, 0.5, 0.9)]


@dataclass(frozen=True)
class Calibration:
    """How the numbers of bands become reflectance x 10000, or numbers in the bands' unit: DN * scale + offset.

    Attributes
    ----------
    pairs : list of tuple of float
        Scale and offset per band.
    doubts : list of BandError
        What makes this uncertain.
    """

    pairs: list[ScaleOffset]
    doubts: list[BandError]


@np.errstate(over="ignore", invalid="ignore")  # numbers in floating point may be as large as they like
def calibrate(
    bands: Sequence[Band],
    product: Product,
    sensor: Sensor | None,
    scale: float | None,
    offset: float | None,
) -> Calibration:
    """Find the scale and offset of bands: the user's, else the file's own, else its Item's, else the sensor's.

    Parameters
    ----------
    bands : sequence of Band
        The bands that are used.
    product : Product
        Where they are from.
    sensor : Sensor, optional
        The product the user says they are.
    scale, offset : float, optional
        The user's.

    Raises
    ------
    BandError
        The sensor's scale does not apply to the numbers, or only some bands declare one, or the numbers cannot be in
        the sensor's unit.
    UsageError
        The user's scale replaces one that goes with an offset.
    """
    _check_kind(bands, sensor)
    doubts: list[BandError] = []
    samples = sample(bands)
    numbers = [sample for band, sample in zip(bands, samples, strict=True) if _applies(sensor, band)]
    if sensor and sum(sample.size for sample in numbers):
        merged = np.concatenate(numbers)
        others = merged[merged != repeated(merged[merged < 0])]
        sensor.check_numbers(float(((others if others.size else merged) < 0).mean()))
    if scale is not None:
        if offset is None:
            _check_no_offset(bands, product, sensor)
        pairs = [(scale, offset or 0.0)] * len(bands)
    else:
        pairs = _stated(bands, product, sensor, offset, doubts)
        named = zip(bands, samples, strict=True)
        undeclared = {band.name: sample for band, sample in named if not band.declared and is_reflectance(band.name)}
        if undeclared and offset is None and sensor and (doubt := sensor.doubt(product, undeclared)):
            doubts.append(doubt)
    unscaled = [band for band in bands if scale is None and not band.declared and not _applies(sensor, band)]
    small = _are_from_0_to_1(bands, pairs, samples)
    if kinds := {band.dtype for band in unscaled if is_reflectance(band.name)} - USUAL_DTYPES:
        what = f"has {min(kinds)} numbers; taking them as reflectance x 10000"
        doubts.append(BandError(what, remedy="unit-scale" if small else "scale-else"))
    elif small:
        doubts.append(BandError(f"has reflectance x 10000 of {BRIGHTEST:g} at most", remedy="unit-scale"))
    return Calibration(pairs, doubts + _implausible(bands, pairs, samples, sensor))


def _applies(sensor: Sensor | None, band: Band) -> bool:
    """Return whether a sensor's scale is for a band: not for one that only the user has a name for."""
    return sensor is not None and (band.name in POLARIZATIONS if sensor.unit else is_reflectance(band.name))


def _check_kind(bands: Sequence[Band], sensor: Sensor | None) -> None:
    """Raise BandError if there is radar where the sensor is an optical one, or the reverse, and nothing of its own."""
    others = [band.name for band in bands if is_reflectance(band.name) or band.name in POLARIZATIONS]
    if sensor and others and not any(_applies(sensor, band) for band in bands):
        raise BandError(f"has {', '.join(others)}, which {sensor.name} does not have", remedy="sensor-else")


def _check_no_offset(bands: Sequence[Band], product: Product, sensor: Sensor | None) -> None:
    """Raise UsageError if the file or the sensor states an offset, which a scale alone would drop."""
    others = [band.name for band in bands if not band.declared and _applies(sensor, band)]
    of_sensor = dict(zip(others, sensor.calibration(product, others), strict=True)) if sensor and others else {}
    for band in bands:
        own = band.declared or of_sensor.get(band.name)
        if own and own[1]:
            whose = f"of {sensor.name}" if sensor and not band.declared else "the file declares"
            raise UsageError(f"the scale replaces that {whose}, whose offset is {own[1]:g}", remedy="offset")


def _stated(
    bands: Sequence[Band], product: Product, sensor: Sensor | None, offset: float | None, doubts: list[BandError]
) -> list[ScaleOffset]:
    """Return the scale and offset that the files declare of each band, else the sensor's, or the user's offset."""
    others = [band for band in bands if not band.declared and _applies(sensor, band)]
    if sensor and (kinds := {band.dtype for band in others} - set(sensor.dtypes)):
        expected = " or ".join(sensor.dtypes)
        raise BandError(f"has {' '.join(sorted(kinds))} numbers, but {sensor.name} has {expected}", remedy="scale")
    of_sensor: dict[str, ScaleOffset] = {}
    if sensor and (names := [band.name for band in bands if _applies(sensor, band)]):
        try:
            of_sensor = dict(zip(names, sensor.calibration(product, names, offset), strict=True))
        except BandError:
            if others:
                raise
    pairs = [band.declared or of_sensor.get(band.name, (1.0, 0.0)) for band in bands]
    for band, pair in zip(bands, pairs, strict=True):
        if not pair[0] or not np.abs(pair).max() <= LARGEST:
            raise BandError(f"declares {_text(band, pair)} of {band.name}, which cannot be", remedy="scale")
    if offset is not None:
        pairs = [(scale, offset) for scale, _ in pairs]
    for band in bands:
        if band.of_file and band.stated and not np.allclose(band.of_file, band.stated):
            what = f"declares {_text(band, band.of_file)} of {band.name}, where its Item states"
            doubts.append(BandError(f"{what} {_text(band, band.stated)}; taking the file's", remedy="scale-else"))
            break
    reflectance = [(band, pair) for band, pair in zip(bands, pairs, strict=True) if is_reflectance(band.name)]
    own = [(band, pair) for band, pair in reflectance if band.declared]
    for band, pair in reflectance:
        if own and not band.declared and not np.allclose(pair, own[0][1]):
            what = f"{own[0][0].name} declares {_text(*own[0])}, but {band.name} declares none"
            raise BandError(what, remedy="scale")
    for band, pair in own:
        theirs = of_sensor.get(band.name, pair)
        # an offset where the sensor has none is what the sensor alone does not state, as of Sentinel-2
        if sensor and not np.allclose(pair, theirs) and not (np.isclose(pair[0], theirs[0]) and not theirs[1]):
            what = f"declares {_text(band, pair)} of {band.name}, where {sensor.name} has {_text(band, theirs)}"
            doubts.append(BandError(f"{what}; taking the file's", remedy="scale-else"))
            break
    return pairs


def _text(band: Band, pair: ScaleOffset) -> str:
    """Return a scale and offset to reflectance x 10000 as files declare them."""
    scale, offset = (number / factor_of(band.name) for number in pair)
    return f"scale {scale:g} and offset {offset:g}"


def repeated(numbers: NDArray[np.float64]) -> float | None:
    """Return the number that at least `REPEATED` of some numbers are, if any; it occurs more than once."""
    values, counts = np.unique(numbers, return_counts=True)
    most = int(counts.argmax()) if numbers.size else 0
    return float(values[most]) if numbers.size and counts[most] > max(1, REPEATED * numbers.size) else None


def _implausible(
    bands: Sequence[Band],
    pairs: Sequence[ScaleOffset],
    samples: Sequence[NDArray[np.float64]],
    sensor: Sensor | None,
) -> list[BandError]:
    """Return the doubts that numbers raise that reflectance x 10000, or backscatter in decibels, cannot be."""
    in_decibels = sensor is not None and sensor.unit == "dB"
    what, limits = ("backscatter in dB", PLAUSIBLE_DECIBELS) if in_decibels else ("reflectance x 10000", PLAUSIBLE)
    sides: list[tuple[list[str], list[NDArray[np.float64]]]] = [([], []), ([], [])]
    for band, (scale, offset), numbers in zip(bands, pairs, samples, strict=True):
        if not numbers.size or not (band.name in POLARIZATIONS if in_decibels else is_reflectance(band.name)):
            continue
        ends = sorted(end * scale + offset for end in (numbers.min(), numbers.max()))
        if limits[0] <= ends[0] and ends[1] <= limits[1]:
            continue
        values = numbers * scale + offset
        varies = ends[0] < ends[1]  # or the band is empty, if its number is small
        outside = varies & (values < limits[0]), values > limits[1]
        for (texts, parts), found, most in zip(sides, outside, IMPLAUSIBLE_SHARES, strict=True):
            there, share = numbers[found], found.mean()
            if share > (REPEATED_SHARE if varies and repeated(there) is not None else most):
                texts.append(f"{share:.0%} of {band.name}")
                parts.append(there[: varies * there.size])
    doubts = []
    for where, limit, (texts, parts) in zip(("below", "above"), limits, sides, strict=True):
        message = f"has numbers {where} {limit} ({', '.join(texts)}), which {what} cannot be"
        number = repeated(np.concatenate([np.empty(0), *parts]))
        if number is not None:
            text = f"{number:g}" if float(f"{number:g}") == number else repr(number)
            doubts.append(BandError(f"{message}; most of them are {text}", remedy="nodata-value", value=text))
        elif texts:
            doubts.append(BandError(message, remedy="implausible"))
    return doubts


def _are_from_0_to_1(
    bands: Sequence[Band], pairs: Sequence[ScaleOffset], samples: Sequence[NDArray[np.float64]]
) -> bool:
    """Return whether floating-point numbers would be reflectance if they were not to be reflectance x 10000."""
    highest = [
        (numbers * pair[0] + pair[1]).max() if band.dtype.startswith("float") else BRIGHTEST
        for band, pair, numbers in zip(bands, pairs, samples, strict=True)
        if is_reflectance(band.name) and numbers.size
    ]
    return 0 < max(highest, default=0.0) < BRIGHTEST
