"""Reading a tile's pixels as reflectance x 10000, invalid ones masked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.enums import Interleaving

from rsr_cli.core.errors import BandError, RasterError, RecordError, counted
from rsr_cli.core.rasters.masks import are_marked
from rsr_cli.core.rasters.parts import part_of, parts_of, read_part
from rsr_cli.core.records.exact import Exact
from rsr_cli.core.sensors.base import (
    DECIBELS,
    POLARIZATIONS,
    STAND_INS,
    UNUSED,
    contract,
    expand,
    missing_bands,
    unit_read,
)
from rsr_cli.core.sensors.quality import Marks

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.rasters.parts import Part
    from rsr_cli.core.records.batch import Record

#: Properties that make reflectance x 10000 of numbers, and what they are where a record states none.
SCALING = {"scale": 1.0, "offset": 0.0}
#: Bits of the largest integers that a mask may have.
MAX_BITS = 63
#: Types of numbers that are calibrated where the model runs, as they take less memory than float32, and the greatest
#: scale with which they remain finite.
_KEPT = ("uint8", "int16", "uint16")
_LARGEST_SCALE = 1e30
#: Memory that reading a tile may take, in bytes.
MAX_TILE_BYTES = 2 << 30
#: Memory that a block of a file, which is decoded whole, may take.
MAX_BLOCK_BYTES = MAX_TILE_BYTES // 2
#: The largest number in a window.
MAX_PIXELS = 1 << 30


@dataclass(frozen=True)
class Pixels:
    """A tile's pixels, which are ``numbers * scale + offset``.

    Attributes
    ----------
    numbers : numpy.ndarray
        uint8, int16 or uint16 (bands, height, width) as they are stored, else float32, and then calibrated already.
    invalid : numpy.ndarray or None
        bool (bands, height, width); None if all pixels are valid. The numbers of invalid ones are arbitrary.
    scale, offset : numpy.ndarray
        float32 (bands, 1, 1).
    """

    numbers: NDArray[Any]
    invalid: NDArray[np.bool_] | None
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    def calibrated(self) -> NDArray[np.float32]:
        """Return the pixels as float32 (bands, height, width), NaN where they are invalid."""
        pixels = _calibrated(self.numbers, self.scale, self.offset)
        if self.invalid is not None:
            pixels[self.invalid] = np.nan
        return pixels


def _calibrated(numbers: NDArray[Any], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):  # infinite ones are invalid
        pixels = numbers.astype(np.float32)
        if (scale != 1).any():
            pixels *= scale
        if offset.any():
            pixels += offset
    return pixels


def read_pixels(tile: Record, bands: Sequence[str]) -> NDArray[np.float32]:
    """Read a tile as reflectance x 10000, backscatter in decibels, and other bands in their own unit.

    Parameters
    ----------
    tile : dict
        A record from `Tiler`.
    bands : sequence of str
        STAC common names, in the order of the result.

    Returns
    -------
    numpy.ndarray
        float32 (bands, height, width) on the grid of the finest band; NaN where a pixel is invalid (nodata, masked,
        NaN, transparent, outside the raster, linear backscatter that is not positive).

    Raises
    ------
    RecordError
        The record does not state what to read.
    BandError
        A band is missing.
    RasterError
        The raster cannot be read.
    """
    return read_stored(tile, bands).calibrated()


def read_stored(tile: Record, bands: Sequence[str], *, may_lack: Collection[str] = ()) -> Pixels:
    """Read a tile as `read_pixels` does, but leave small integers as they are stored.

    Parameters
    ----------
    tile, bands
        As in `read_pixels`.
    may_lack : collection of str
        Bands that are invalid if the tile does not have them; if it has none of ``bands``, that is an error.
    """
    check_tile(tile)
    names = bands_of(tile)
    known = {*names}
    has = [band for band in bands if band in known]
    lacks = [band for band in bands if band not in known]
    if lacks and not (has and set(lacks) <= set(may_lack)):
        if tile["properties"].get("space"):
            raise BandError("has pixels that are embeddings already", remedy="model-mean")
        raise _lacking([band for band in lacks if band not in may_lack or not has], bands, names)
    raw = read_raw(tile, has)
    with np.errstate(over="ignore"):  # infinite ones are of pixels that are invalid
        scale, offset = (np.array(per_band(tile["properties"], key, has), np.float32)[:, None, None] for key in SCALING)
    numbers: NDArray[Any] = raw.data
    invalid: Any = raw.mask if np.ma.is_masked(raw) else None
    unit = tile["properties"].get("unit")
    is_linear = unit_read(unit) not in (unit, None)
    decode = tile["properties"].get("decode")
    if is_linear or decode or numbers.dtype not in _KEPT or np.abs(scale).max() > _LARGEST_SCALE:
        numbers = _calibrated(numbers, scale, offset)
        if decode:
            numbers = _decoded(numbers, tile, has)
        if is_linear:
            radar = [band in POLARIZATIONS for band in has]
            with np.errstate(divide="ignore", invalid="ignore"):
                numbers[radar] = DECIBELS[unit] * np.log10(numbers[radar])
        infinite = ~np.isfinite(numbers)
        if infinite.any():
            invalid = infinite if invalid is None else invalid | infinite
        scale, offset = np.ones_like(scale), np.zeros_like(offset)
    if not lacks:
        return Pixels(numbers, invalid, scale, offset)
    there = [band in has for band in bands]
    shape = len(bands), *numbers.shape[1:]
    whole = Pixels(np.zeros(shape, numbers.dtype), np.ones(shape, bool), *np.ones((2, len(bands), 1, 1), np.float32))
    whole.numbers[there], whole.scale[there], whole.offset[there] = numbers, scale, offset
    assert whole.invalid is not None
    whole.invalid[there] = False if invalid is None else invalid
    return whole


def bands_of(tile: Record) -> tuple[str, ...]:
    """Return the names of a tile's bands, in the order of its file."""
    return expand(tuple(tile["properties"]["bands"]))


def _decoded(numbers: NDArray[np.float32], tile: Record, bands: Sequence[str]) -> NDArray[np.float32]:
    """Return the components of embeddings that scaled numbers (bands, height, width) stand for."""
    decode, names = tile["properties"]["decode"], bands_of(tile)
    if "power" in decode:
        with np.errstate(over="ignore"):  # infinite ones are invalid
            return np.copysign(np.abs(numbers) ** float(decode["power"]), numbers)
    source = parts_of(tile, bands)[0][0]
    part = part_of(tile, decode["scales"])
    scales = part.opened.dataset
    if scales.shape != source.opened.dataset.shape or scales.count not in (1, len(names)):
        height, width = scales.shape
        what = f"has scales of {width} x {height} px and {counted(scales.count, 'band')}"
        raise RasterError(f"{what}, unlike {source.path}", decode["scales"])
    indexes = [1] if scales.count == 1 else [names.index(band) + 1 for band in bands]
    factors = read_part(replace(part, indexes=indexes, window=source.window), (numbers.shape[1], numbers.shape[2]))
    with np.errstate(invalid="ignore"):
        return numbers * np.ma.filled(factors.astype(np.float32), np.nan)


def per_band(properties: dict[str, Any], key: str, bands: Sequence[str]) -> list[float]:
    """Return the scale or offset of some of a tile's bands; its properties state one for all, a list, or none."""
    names, stated = expand(tuple(properties["bands"])), properties.get(key, SCALING[key])
    return [stated[names.index(band)] if isinstance(stated, list) else stated for band in bands]


def _lacking(lacks: Sequence[str], bands: Sequence[str], names: Sequence[str]) -> BandError:
    """Return the error that bands are missing, with those that a tile has in their place."""
    what, has = missing_bands(lacks, names), [band for band in bands if band in names]
    instead = [STAND_INS.get(band) if band in lacks else band for band in bands]
    if all(band in names for band in instead) and len(set(instead)) == len(instead):
        return BandError(what, remedy="stand-in", bands=",".join(map(str, instead)))
    if has:
        return BandError(what, remedy="fill-missing", bands=",".join(contract(has)))
    return BandError(what, remedy="other-bands", bands=",".join(contract([b for b in names if b != UNUSED])))


def read_raw(tile: Record, bands: Sequence[str]) -> np.ma.MaskedArray[Any, Any]:
    """Read a tile's numbers as stored, masked where invalid: (bands, height, width) in the file's data type."""
    parts, shape = parts_of(tile, bands)
    _check_memory(parts, shape)
    layers = [read_part(part, shape) for part in parts]
    numbers = layers[0] if len(layers) == 1 else np.ma.concatenate(layers)  # type: ignore[no-untyped-call]
    if tile["properties"].get("mask") is None:
        return numbers
    invalid = is_masked(tile, read_quality(tile))
    return np.ma.array(numbers.data, mask=np.ma.getmaskarray(numbers) | invalid)


def is_masked(tile: Record, quality: np.ma.MaskedArray[Any, Any]) -> NDArray[np.bool_]:
    """Return which pixels a tile's mask, as `read_quality` returns it, marks as invalid or does not cover."""
    marks = Marks.of_property(tile["properties"]["mask"])
    return np.asarray(np.ma.getmaskarray(quality) | are_marked(quality.data, marks))


def read_quality(tile: Record) -> np.ma.MaskedArray[Any, Any]:
    """Read the numbers of a tile's mask on the tile's grid, the nearest ones: (height, width), masked outside it.

    Raises
    ------
    RasterError
        The file cannot be read.
    """
    properties = tile["properties"]
    height, width = map(int, properties["window"][:1:-1])
    part = part_of(tile, properties["mask"]["source"])
    return read_part(part, (height, width), classes=True)[0]


def memory_of(pixels: float, bands: int, bytes_per_value: int = 2) -> float:
    """Return the memory in bytes that `read_pixels` takes at most: two copies as stored, masked, and one as float32."""
    return pixels * bands * (2 * (bytes_per_value + 1) + 10)


def _check_memory(parts: Sequence[Part], shape: tuple[int, int]) -> None:
    """Raise RasterError if reading a tile's bands as ``shape`` (height, width) takes too much memory."""
    needed = 0.0
    for part in parts:
        dataset = part.opened.dataset
        bytes_per_value = np.dtype(part.dtype).itemsize
        needed += memory_of(max(math.prod(shape), math.prod(part.window[2:])), len(part.indexes), bytes_per_value)
        height, width = dataset.block_shapes[part.indexes[0] - 1]
        together = dataset.count if dataset.interleaving == Interleaving.pixel else 1
        if (block := height * width * together * bytes_per_value) > MAX_BLOCK_BYTES:
            what = f"is stored in blocks of {width} x {height} px, which take {_gib(block)} GiB of memory"
            raise RasterError(f"{what}, more than {_gib(MAX_BLOCK_BYTES)}", part.path, remedy="tiled")
    if needed > MAX_TILE_BYTES:
        height, width = shape
        count = sum(len(part.indexes) for part in parts)
        what = f"reading {width} x {height} px of {counted(count, 'band')} takes {_gib(needed)} GiB of memory"
        raise RasterError(f"{what}, more than {_gib(MAX_TILE_BYTES)}", parts[0].path, remedy="cut")


def too_large(place: str | None = None) -> RasterError:
    """Return the error of a tile that memory does not suffice for."""
    return RasterError("is too large for the memory that is free", place, remedy="cut")


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.3g}"


def check_tile(tile: Record) -> None:
    """Raise RecordError unless the record states what to read, in the right types."""
    properties = tile["properties"]
    source, names, window = (properties.get(field) for field in ("source", "bands", "window"))
    calibration = [properties.get(field, default) for field, default in SCALING.items()]
    numbers = [number for stated in calibration for number in (stated if isinstance(stated, list) else [stated])]
    numbers.append(properties.get("nodata", 0))
    transform = properties.get("proj:transform", [0.0] * 6)
    mask = properties.get("mask", {"source": "", "values": [0]})
    well_formed = (
        _are(names, str)
        and bool(names := expand(tuple(names)))
        and all(len(stated) == len(names) for stated in calibration if isinstance(stated, list))
        and (isinstance(source, str) or (isinstance(source, dict) and _are([source.get(n) for n in names], str)))
        and _are([window, transform], list)
        and _are([*numbers, *window, *transform], int, float, Exact)
        and (len(window), len(transform)) == (4, 6)
        and all(map(math.isfinite, [*numbers, *window, *transform]))
        and ("proj:transform" not in properties or transform[0] * transform[4] != transform[1] * transform[3])
        and 1 <= window[2] * window[3] <= MAX_PIXELS
        and max(map(abs, window)) <= MAX_PIXELS
        and min(window[2:]) >= 1
        and isinstance(mask, dict)
        and isinstance(mask.get("source"), str)
        and ("values" in mask or "bits" in mask)
        and _are(mask.get("values", []), int)
        and _are(mask.get("bits", []), int)
        and all(0 <= bit < MAX_BITS for bit in mask.get("bits", []))
        and _is_decode(properties.get("decode"))
    )
    if not well_formed:
        what = "source, bands, window, scale, decode, mask or proj:transform is missing or malformed"
        raise RecordError(f"is not a tile: {what}", remedy="tile")


def _is_decode(decode: Any) -> bool:
    """Return whether ``decode`` is None, ``{"power": NUMBER}`` or ``{"scales": PATH}``."""
    match decode:
        case None:
            return True
        case {"power": int() | float() as power, **others}:
            return type(power) is not bool and 0 < power < math.inf and not others
        case {"scales": str(), **others}:
            return not others
    return False


def _are(values: Any, *types: type) -> bool:
    return isinstance(values, list) and {*map(type, values)} <= {*types}
