"""Opening the files of a tile, and reading its bands from each of them as they are stored."""

from __future__ import annotations

import atexit
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
from affine import Affine
from rasterio.enums import Resampling
from rasterio.windows import Window

from rsr_cli.core.errors import RasterError, counted
from rsr_cli.core.rasters.opening import (
    FAILED,
    MAX_DESCRIPTORS,
    UNREAD,
    alphas_of,
    declared_nodata,
    explained,
    heeded,
    is_all_valid,
    is_missing,
    open_raster,
)
from rsr_cli.core.sensors.base import expand
from rsr_cli.core.sources.base import file_and_band

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from rsr_cli.core.records.batch import Record

#: Maximum number of datasets that a thread keeps open, and that all threads do, which leaves room for other files.
OPEN_DATASETS = 64
ALL_OPEN_DATASETS = max(1, (MAX_DESCRIPTORS - 32) // 2)


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
    nodata : tuple of int or None
        For each band, the only number that it declares invalid, if all bands are of integers and declare nothing else.
    """

    def __init__(self, dataset: DatasetReader) -> None:
        self.dataset = dataset
        self.alphas = alphas_of(dataset)
        self.indexes = [index for index in dataset.indexes if index not in self.alphas]
        self.all_valid = is_all_valid(dataset)
        self.nodata = declared_nodata(dataset)

    @cached_property
    def to_pixels(self) -> Affine:
        """From coordinates to pixels."""
        return ~self.dataset.transform


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
        counts = [len(opened) for ref in self.of_threads.valuerefs() if (opened := ref()) is not None]
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
    source, names, nodata = properties["source"], expand(tuple(properties["bands"])), properties.get("nodata")
    column, row, width, height = map(int, properties["window"])
    window = (float(column), float(row), float(width), float(height))
    if isinstance(source, str):
        opened = _datasets.get(source, nodata, n_bands=len(names))
        if len(opened.indexes) != len(names):
            has = counted(len(opened.indexes), "band")
            raise RasterError(f"has {has}, but the record names {len(names)}", source)
        each = [Part(source, opened, [opened.indexes[names.index(band)]], window) for band in bands]
    else:
        each = [part_of(tile, source[band], nodata) for band in bands]
    parts = each[:1]
    for part in each[1:]:
        if (part.opened, part.dtype) == (parts[-1].opened, parts[-1].dtype):
            parts[-1].indexes.extend(part.indexes)  # are read at once
        else:
            parts.append(part)
    return parts, (height, width)


def part_of(tile: Record, source: str, nodata: float | None = None) -> Part:
    """Return where a tile is in the file of one band."""
    properties = tile["properties"]
    path, index = file_and_band(source)
    opened = _datasets.get(path, nodata, masked=index is None)
    column, row, width, height = map(int, properties["window"])
    window = float(column), float(row), float(width), float(height)
    if "proj:transform" in properties:
        window = _window_on(opened, Affine(*properties["proj:transform"]), width, height)
    if (index or 1) > opened.dataset.count:
        raise RasterError(f"has {counted(opened.dataset.count, 'band')}, and no band {index}", path)
    return Part(path, opened, [index or 1], window)


def _window_on(opened: Opened, transform: Affine, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the window of a tile, given by its geotransform and size, in pixels of another band's grid."""
    left, top = opened.to_pixels @ (transform @ (0, 0))
    right, bottom = opened.to_pixels @ (transform @ (width, height))
    return round(left, 6), round(top, 6), round(right - left, 6), round(bottom - top, 6)


def read_part(part: Part, shape: tuple[int, int], *, classes: bool = False) -> np.ma.MaskedArray[Any, Any]:
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
    with explained(part.path), heeded(part.path, "pixels", UNREAD, FAILED):
        numbers = dataset.read(
            part.indexes,
            window=window,
            out_shape=(len(part.indexes), *size),
            resampling=Resampling.nearest if same_size or classes else Resampling.bilinear,
        )
        if classes or part.opened.all_valid:
            invalid: Any = np.ma.nomask
        elif same_size and part.opened.nodata:  # is faster than reading GDAL's mask, and the same
            marks = np.array([part.opened.nodata[index - 1] for index in part.indexes], numbers.dtype)
            invalid = numbers == marks[:, None, None]
        else:
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


def _invalid(part: Part, window: Window, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels are invalid by nodata, mask or alpha: bool (bands, height, width).

    In a resampled coarse band, those are the pixels inside its invalid pixels: interpolation does not fill holes.
    """
    dataset = part.opened.dataset
    invalid = dataset.read_masks(part.indexes, window=window, out_shape=(len(part.indexes), *size)) == 0
    for index in part.opened.alphas:  # GDAL's masks ignore alpha if nodata is declared
        invalid |= dataset.read(index, window=window, out_shape=size) == 0
    return invalid
