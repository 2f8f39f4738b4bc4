"""Reading a tile's pixels as reflectance x 10000, invalid ones masked."""

from __future__ import annotations

import atexit
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
from affine import Affine
from rasterio.enums import Interleaving, Resampling
from rasterio.windows import Window

from rsr_cli.core.errors import BandError, RasterError, RecordError, counted
from rsr_cli.core.rasters.masks import are_marked
from rsr_cli.core.rasters.opening import MAX_DESCRIPTORS, alphas_of, explained, is_all_valid, is_missing, open_raster
from rsr_cli.core.sensors.base import DECIBELS, POLARIZATIONS, STAND_INS, UNUSED, missing_bands, unit_read
from rsr_cli.core.sensors.quality import Marks
from rsr_cli.core.sources.base import file_and_band

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from rsr_cli.core.records.batch import Record

#: Properties that make reflectance x 10000 of numbers, and what they are where a record states none.
SCALING = {"scale": 1.0, "offset": 0.0}
#: Properties that tiles have in common which are read at once.
_SHARED = ("source", "bands", *SCALING, "nodata", "unit", "mask")
#: Bits of the largest integers that a mask may have.
MAX_BITS = 63
#: Maximum number of datasets that a thread keeps open, and that all threads do, which leaves room for other files.
OPEN_DATASETS = 64
ALL_OPEN_DATASETS = max(1, (MAX_DESCRIPTORS - 32) // 2)
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


class Opened:
    """An open dataset, with facts that rasterio would derive again for each window.

    Attributes
    ----------
    dataset : rasterio.DatasetReader
        The dataset.
    indexes : list of int
        Numbers of its bands, from 1, without alpha.
    alphas : list of int
        Numbers of its alpha bands.
    all_valid : bool
        It declares no invalid pixels.
    """

    def __init__(self, dataset: DatasetReader) -> None:
        self.dataset = dataset
        self.alphas = alphas_of(dataset)
        self.indexes = [index for index in dataset.indexes if index not in self.alphas]
        self.all_valid = is_all_valid(dataset)


#: Path, nodata, number of bands, and whether a second band is the mask of the first.
_Key = tuple[str, float | None, int | None, bool]


class _Datasets(threading.local):
    """The datasets this thread opened last; a GDAL handle belongs to one thread."""

    of_threads: ClassVar[WeakValueDictionary[int, OrderedDict[_Key, Opened]]] = WeakValueDictionary()

    def __init__(self) -> None:
        self._open: OrderedDict[_Key, Opened] = OrderedDict()
        self.of_threads[threading.get_ident()] = self._open

    def get(self, path: str, nodata: float | None, *, n_bands: int | None = None, masked: bool = False) -> Opened:
        key = (path, nodata, n_bands, masked)
        if key not in self._open:
            if is_missing(path) and not Path(path).is_absolute():
                raise RasterError("no such file", path, remedy="relative")
            while self._open and self._is_full():
                self._open.popitem(last=False)[1].dataset.close()
            self._open[key] = Opened(open_raster(path, nodata, n_bands=n_bands, masked=masked))
        self._open.move_to_end(key)
        return self._open[key]

    def _is_full(self) -> bool:
        """Return whether a dataset is to be closed before another one is opened."""
        counts = [len(opened) for opened in self.of_threads.values()]
        return len(self._open) >= min(OPEN_DATASETS, ALL_OPEN_DATASETS // len(counts)) or (
            sum(counts) >= ALL_OPEN_DATASETS
        )


_datasets = _Datasets()


@atexit.register  # if the interpreter is taken apart first, rasterio 1.5 writes to stderr
def _close_all() -> None:
    for opened in _Datasets.of_threads.values():
        while opened:
            opened.popitem()[1].dataset.close()


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
    _check(tile)
    names = tile["properties"]["bands"]
    has = [band for band in bands if band in names]
    lacks = [band for band in bands if band not in names]
    if lacks and not (has and set(lacks) <= set(may_lack)):
        raise _lacking([band for band in lacks if band not in may_lack or not has], bands, names)
    raw = read_raw(tile, has)
    scale, offset = (np.array(per_band(tile["properties"], key, has), np.float32)[:, None, None] for key in SCALING)
    numbers: NDArray[Any] = raw.data
    invalid: Any = raw.mask if np.ma.is_masked(raw) else None
    unit = tile["properties"].get("unit")
    is_linear = unit_read(unit) not in (unit, None)
    if is_linear or numbers.dtype not in _KEPT or np.abs(scale).max() > _LARGEST_SCALE:
        numbers = _calibrated(numbers, scale, offset)
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


def read_strip(tiles: Sequence[Record], bands: Sequence[str], *, may_lack: Collection[str] = ()) -> list[Pixels]:
    """Read tiles that `are_side_by_side` at once, each as `read_stored` does; they share memory."""
    for tile in tiles:
        _check(tile)
    windows = [tile["properties"]["window"] for tile in tiles]
    left, top, _, height = windows[0]
    width = windows[-1][0] + windows[-1][2] - left
    properties = {**tiles[0]["properties"], "window": [left, top, width, height]}
    strip = read_stored({**tiles[0], "properties": properties}, bands, may_lack=may_lack)
    read = []
    for column, _, columns, _ in windows:
        part = slice(column - left, column - left + columns)
        invalid = None if strip.invalid is None else strip.invalid[..., part]
        if invalid is not None and not invalid.any():
            invalid = None
        read.append(Pixels(strip.numbers[..., part], invalid, strip.scale, strip.offset))
    return read


def are_side_by_side(one: Record, other: Record) -> bool:
    """Return whether a tile lies to the right of one of its height, in the same file, without a gap between them.

    Only tiles whose bands are all in one file are, without a mask: then no pixel is resampled.
    """
    mine, theirs = one["properties"], other["properties"]
    here, there = mine.get("window"), theirs.get("window")
    return (
        isinstance(mine.get("source"), str)
        and mine.get("mask") is None
        and all(mine.get(name) == theirs.get(name) for name in _SHARED)
        and _is_window(here)
        and _is_window(there)
        and (here[1], here[3]) == (there[1], there[3])
        and here[0] < there[0] <= here[0] + here[2] <= there[0] + there[2]
    )


def _is_window(window: Any) -> bool:
    """Return whether a window is four integers, the width and height above 0, as JSON has no other integers."""
    return isinstance(window, list) and len(window) == 4 and set(map(type, window)) == {int} and min(window[2:]) > 0


def per_band(properties: dict[str, Any], key: str, bands: Sequence[str]) -> list[float]:
    """Return the scale or offset of some of a tile's bands; its properties state one for all, a list, or none."""
    names, stated = properties["bands"], properties.get(key, SCALING[key])
    return [stated[names.index(band)] if isinstance(stated, list) else stated for band in bands]


def _lacking(lacks: Sequence[str], bands: Sequence[str], names: Sequence[str]) -> BandError:
    """Return the error that bands are missing, with those that a tile has in their place."""
    what, has = missing_bands(lacks, names), [band for band in bands if band in names]
    instead = [STAND_INS.get(band) if band in lacks else band for band in bands]
    if all(band in names for band in instead) and len(set(instead)) == len(instead):
        return BandError(what, remedy="stand-in", bands=",".join(map(str, instead)))
    if has:
        return BandError(what, remedy="fill-missing", bands=",".join(has))
    return BandError(what, remedy="other-bands", bands=",".join(band for band in names if band != UNUSED))


def read_raw(tile: Record, bands: Sequence[str]) -> np.ma.MaskedArray[Any, Any]:
    """Read a tile's numbers as stored, masked where invalid: (bands, height, width) in the file's data type."""
    parts, shape = parts_of(tile, bands)
    _check_memory(parts, shape)
    layers = [_read(part, shape) for part in parts]
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
    part = _part(tile, properties["mask"]["source"])
    return _read(part, (height, width), classes=True)[0]


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


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.3g}"


def _check(tile: Record) -> None:
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
        and all(len(stated) == len(names) for stated in calibration if isinstance(stated, list))
        and (isinstance(source, str) or (isinstance(source, dict) and _are([source.get(n) for n in names], str)))
        and _are([window, transform], list)
        and _are([*numbers, *window, *transform], int, float)
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
    )
    if not well_formed:
        what = "source, bands, window, scale, mask or proj:transform is missing or malformed"
        raise RecordError(f"is not a tile: {what}", remedy="tile")


def _are(values: Any, *types: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, types) for value in values)


@dataclass(frozen=True)
class Part:
    """A tile's bands in one file, of one data type.

    ``indexes`` are their numbers there, and ``window`` is the tile's (left, top, width, height) there.
    """

    path: str
    opened: Opened
    indexes: list[int]
    window: tuple[float, float, float, float]

    @property
    def dtype(self) -> str:
        """The data type of the numbers."""
        return str(self.opened.dataset.dtypes[self.indexes[0] - 1])


def parts_of(tile: Record, bands: Sequence[str]) -> tuple[list[Part], tuple[int, int]]:
    """Return where the pixels of a tile's bands are, and its height and width.

    Raises
    ------
    RasterError
        A file cannot be opened, or is not as the record states.
    """
    properties = tile["properties"]
    source, names, nodata = properties["source"], properties["bands"], properties.get("nodata")
    column, row, width, height = map(int, properties["window"])
    window = (float(column), float(row), float(width), float(height))
    if isinstance(source, str):
        opened = _datasets.get(source, nodata, n_bands=len(names))
        if len(opened.indexes) != len(names):
            has = counted(len(opened.indexes), "band")
            raise RasterError(f"has {has}, but the record names {len(names)}", source)
        each = [Part(source, opened, [opened.indexes[names.index(band)]], window) for band in bands]
    else:
        each = [_part(tile, source[band], nodata) for band in bands]
    parts = each[:1]
    for part in each[1:]:
        if (part.opened, part.dtype) == (parts[-1].opened, parts[-1].dtype):
            parts[-1].indexes.extend(part.indexes)  # are read at once
        else:
            parts.append(part)
    return parts, (height, width)


def _part(tile: Record, source: str, nodata: float | None = None) -> Part:
    """Return where a tile is in the file of one band."""
    properties = tile["properties"]
    path, index = file_and_band(source)
    opened = _datasets.get(path, nodata, masked=index is None)
    column, row, width, height = map(int, properties["window"])
    window = float(column), float(row), float(width), float(height)
    if "proj:transform" in properties:
        window = _window_on(opened.dataset, Affine(*properties["proj:transform"]), width, height)
    if (index or 1) > opened.dataset.count:
        raise RasterError(f"has {counted(opened.dataset.count, 'band')}, and no band {index}", path)
    return Part(path, opened, [index or 1], window)


def _window_on(dataset: DatasetReader, transform: Affine, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the window of a tile, given by its geotransform and size, in pixels of another band's grid."""
    left, top = ~dataset.transform @ (transform @ (0, 0))
    right, bottom = ~dataset.transform @ (transform @ (width, height))
    return round(left, 6), round(top, 6), round(right - left, 6), round(bottom - top, 6)


def _read(part: Part, shape: tuple[int, int], *, classes: bool = False) -> np.ma.MaskedArray[Any, Any]:
    """Read a window as ``shape`` (height, width), bilinear if that is not its size, masked outside the raster.

    If its numbers are ``classes``, the nearest are read, and all of those in the raster are valid.
    """
    dataset = part.opened.dataset
    left, top, width, height = part.window
    same_size = (width, height) == shape[::-1]
    if same_size:  # then the nearest pixels are read; GDAL would read those to the left
        left, top = round(left), round(top)
    columns, across = _inside(left, width, dataset.width, shape[1])
    rows, down = _inside(top, height, dataset.height, shape[0])
    size = (rows.stop - rows.start, columns.stop - columns.start)
    if min(size) < 1:
        # If the bands' grids are not aligned, the scene's last pixels may be beyond this band's.
        beyond = max(left - dataset.width, -left - width, top - dataset.height, -top - height)
        if beyond >= (0 if same_size else 0.5):
            raise RasterError(f"the window {list(part.window)} lies outside the raster", part.path)
        return np.ma.array(np.zeros((len(part.indexes), *shape), part.dtype), mask=True)
    window = Window(left + columns.start * across, top + rows.start * down, size[1] * across, size[0] * down)
    with explained(part.path):
        numbers = dataset.read(
            part.indexes,
            window=window,
            out_shape=(len(part.indexes), *size),
            resampling=Resampling.nearest if same_size or classes else Resampling.bilinear,
        )
        invalid = np.ma.nomask if classes else _invalid(part, window, size)
    if size == shape:
        return np.ma.array(numbers, mask=invalid)
    whole = np.ma.array(np.zeros((len(part.indexes), *shape), numbers.dtype), mask=True)
    whole[:, rows, columns] = np.ma.array(numbers, mask=invalid)
    return whole


def _inside(start: float, length: float, limit: int, count: int) -> tuple[slice, float]:
    """Return which of ``count`` pixels along one axis of a window are in the raster, and their size there."""
    size = length / count
    first, last = math.ceil(-start / size - 1e-3), math.floor((limit - start) / size + 1e-3)
    return slice(max(0, first), min(count, last)), size


def _invalid(part: Part, window: Window, size: tuple[int, int]) -> Any:
    """Return which pixels are invalid by nodata, mask or alpha: bool (bands, height, width), or nomask for none.

    In a resampled coarse band, those are the pixels inside its invalid pixels: interpolation does not fill holes.
    """
    if part.opened.all_valid:
        return np.ma.nomask
    dataset = part.opened.dataset
    invalid = dataset.read_masks(part.indexes, window=window, out_shape=(len(part.indexes), *size)) == 0
    for index in part.opened.alphas:  # GDAL's masks ignore alpha if nodata is declared
        invalid |= dataset.read(index, window=window, out_shape=size) == 0
    return invalid
