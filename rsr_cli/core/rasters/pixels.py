"""Reading a tile's pixels as reflectance x 10000, invalid ones masked."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.windows import Window

from rsr_cli.core.errors import BandError, RasterError, RecordError, counted
from rsr_cli.core.rasters.opening import explained, is_all_valid, open_raster
from rsr_cli.core.sensors.base import missing_bands
from rsr_cli.core.sources.base import file_and_band

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from rsr_cli.core.records.batch import Record

OPEN_DATASETS = 64
#: Size of the largest tile that is read into memory.
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
        kinds = dict(enumerate(dataset.colorinterp, 1))
        self.alphas = [index for index, kind in kinds.items() if kind == ColorInterp.alpha]
        self.indexes = [index for index in kinds if index not in self.alphas]
        self.all_valid = is_all_valid(dataset)


class _Datasets(threading.local):
    """The datasets this thread opened last; a GDAL handle belongs to one thread."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, float | None], Opened] = OrderedDict()

    def get(self, path: str, nodata: float | None) -> Opened:
        key = (path, nodata)
        if key not in self._open:
            self._open[key] = Opened(open_raster(path, nodata))
            if len(self._open) > OPEN_DATASETS:
                self._open.popitem(last=False)[1].dataset.close()
        self._open.move_to_end(key)
        return self._open[key]


_datasets = _Datasets()


def read_pixels(tile: Record, bands: Sequence[str], *, may_lack: Collection[str] = ()) -> NDArray[np.float32]:
    """Read a tile as reflectance x 10000.

    Parameters
    ----------
    tile : dict
        A record from `Tiler`.
    bands : sequence of str
        STAC common names, in the order of the result.
    may_lack : collection of str
        Bands that are returned as NaN if the tile does not have them; any other is an error then.

    Returns
    -------
    numpy.ndarray
        float32 (bands, height, width) on the grid of the finest band; NaN where a pixel is invalid (nodata, masked,
        NaN, transparent, outside the raster).

    Raises
    ------
    RecordError
        The record does not state what to read.
    BandError
        A band is missing, or all are.
    RasterError
        The raster cannot be read.
    """
    _check(tile)
    names = tile["properties"]["bands"]
    has = [band for band in bands if band in names]
    lacks = [band for band in bands if band not in names]
    if lacks and not (has and set(lacks) <= set(may_lack)):
        needed = [band for band in lacks if band not in may_lack or not has]
        raise BandError(missing_bands(needed, names), remedy="fill-missing" if has else None)
    raw = read_raw(tile, has)
    scale, offset = (float(tile["properties"].get(key, default)) for key, default in (("scale", 1), ("offset", 0)))
    pixels = raw.data.astype(np.float32)
    if scale != 1:
        pixels *= np.float32(scale)
    if offset:
        pixels += np.float32(offset)
    pixels[~np.isfinite(pixels)] = np.nan
    if np.ma.is_masked(raw):
        pixels[raw.mask] = np.nan
    if len(has) == len(bands):
        return pixels
    full = np.full((len(bands), *pixels.shape[1:]), np.nan, np.float32)
    full[[band in has for band in bands]] = pixels
    return full


def read_raw(tile: Record, bands: Sequence[str]) -> np.ma.MaskedArray[Any, Any]:
    """Read a tile's numbers as stored, masked where invalid: (bands, height, width) in the file's data type."""
    parts, shape = parts_of(tile, bands)
    layers = [_read(part, shape) for part in parts]
    return layers[0] if len(layers) == 1 else np.ma.concatenate(layers)  # type: ignore[no-untyped-call]


def _check(tile: Record) -> None:
    """Raise RecordError unless the record states what to read, in the right types."""
    properties = tile["properties"]
    source, names, window = (properties.get(field) for field in ("source", "bands", "window"))
    numbers = [properties.get(field, 0) for field in ("scale", "offset", "nodata")]
    transform = properties.get("proj:transform", [0.0] * 6)
    well_formed = (
        _are(names, str)
        and (isinstance(source, str) or (isinstance(source, dict) and _are([source.get(n) for n in names], str)))
        and _are([window, transform], list)
        and _are([*numbers, *window, *transform], int, float)
        and (len(window), len(transform)) == (4, 6)
        and all(map(math.isfinite, [*numbers, *window, *transform]))
        and ("proj:transform" not in properties or transform[0] * transform[4] != transform[1] * transform[3])
        and 1 <= window[2] * window[3] <= MAX_PIXELS
        and max(map(abs, window)) <= MAX_PIXELS
        and min(window[2:]) >= 1
    )
    if not well_formed:
        what = "is not a tile: source, bands, window, scale or proj:transform is missing or malformed"
        raise RecordError(what, remedy="tile")


def _are(values: Any, *types: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, types) for value in values)


@dataclass(frozen=True)
class Part:
    """A tile's bands in one file: their numbers there, and the tile's window (left, top, width, height) there."""

    path: str
    opened: Opened
    indexes: list[int]
    window: tuple[float, float, float, float]


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
        opened = _datasets.get(source, nodata)
        if len(opened.indexes) != len(names):
            has = counted(len(opened.indexes), "band")
            raise RasterError(f"has {has}, but the record names {len(names)}", source)
        return [Part(source, opened, [opened.indexes[names.index(band)] for band in bands], window)], (height, width)
    parts: list[Part] = []
    for band in bands:
        path, index = file_and_band(source[band])
        if parts and parts[-1].path == path:
            parts[-1].indexes.append(index or 1)
            continue
        opened = _datasets.get(path, nodata)
        place = window
        if "proj:transform" in properties:
            place = _window_on(opened.dataset, Affine(*properties["proj:transform"]), width, height)
        parts.append(Part(path, opened, [index or 1], place))
    return parts, (height, width)


def _window_on(dataset: DatasetReader, transform: Affine, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the window of a tile, given by its geotransform and size, in pixels of another band's grid."""
    left, top = ~dataset.transform @ (transform @ (0, 0))
    right, bottom = ~dataset.transform @ (transform @ (width, height))
    return round(left, 6), round(top, 6), round(right - left, 6), round(bottom - top, 6)


def _read(part: Part, shape: tuple[int, int]) -> np.ma.MaskedArray[Any, Any]:
    """Read a window as ``shape`` (height, width), bilinear if that is not its size, masked outside the raster."""
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
        return np.ma.array(np.zeros((len(part.indexes), *shape), dataset.dtypes[part.indexes[0] - 1]), mask=True)
    window = Window(left + columns.start * across, top + rows.start * down, size[1] * across, size[0] * down)
    with explained(part.path):
        numbers = dataset.read(
            part.indexes,
            window=window,
            out_shape=(len(part.indexes), *size),
            resampling=Resampling.nearest if same_size else Resampling.bilinear,
        )
        invalid = _invalid(part, window, size)
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
