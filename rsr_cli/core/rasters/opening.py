"""Opening rasters, with one-line errors for those that cannot be opened."""

from __future__ import annotations

import logging
import os
import re
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError

from rsr_cli.core.errors import RasterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rasterio.io import DatasetReader

#: GDAL's cache of decoded blocks: enough for the row of blocks of a Sentinel-2 scene that its tiles are cut from.
#: GDAL's own default, a twentieth of the machine's memory, is many gigabytes on a large node, more than a job may use.
CACHE_MB = "256"
os.environ.setdefault("GDAL_CACHEMAX", CACHE_MB)

logging.getLogger("rasterio").addHandler(logging.NullHandler())  # GDAL's messages become our errors
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
warnings.filterwarnings("ignore", category=NodataShadowWarning)  # pixels.py reads both


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn GDAL's errors into ours."""
    try:
        yield
    except (RasterioError, OSError, rasterio.errors.CRSError) as error:
        text = str(error.__cause__ or error) or type(error).__name__
        raise RasterError(f"cannot be read: {text.removeprefix(f'{place}: ')}", place) from None


def open_raster(
    path: str, nodata: float | None = None, *, n_bands: int | None = None, masked: bool = False
) -> DatasetReader:
    """Open a raster for reading.

    Parameters
    ----------
    path : str
        A path or URL that GDAL opens, or a numpy array (``.npy``) of (height, width) or (height, width, bands).
    nodata : float, optional
        The value of invalid pixels, if the file declares none and has neither mask nor alpha. It becomes the dataset's
        own, so that resampling does not mix it into neighbouring pixels.
    n_bands : int, optional
        Number of bands with data. If the file has as many, none is alpha, whatever its flags say.
    masked : bool
        If the file has two bands, the second is alpha, whatever its flags say.

    Raises
    ------
    RasterError
        It cannot be opened, or has no raster band.
    """
    if ":" not in path and not path.startswith("/vsi") and not Path(path).exists():
        raise RasterError("no such file", path)
    with explained(path):
        dataset = _open_array(path) if path.endswith(".npy") else rasterio.open(path)
        alphas = alphas_of(dataset)
        wanted = [] if n_bands == dataset.count else [2] if masked and dataset.count == 2 else alphas
        if wanted != alphas:
            dataset = _changed(dataset, alphas=wanted)
        if nodata is not None and dataset.count and is_all_valid(dataset):
            dataset = _changed(dataset, nodata=nodata)
    if not dataset.count:
        inside = dataset.subdatasets
        dataset.close()
        hint = f"; name one of its {len(inside)} subdatasets, such as {inside[0]}" if inside else ""
        raise RasterError(f"has no raster band{hint}", path)
    if any(np.dtype(kind).kind == "c" for kind in dataset.dtypes):
        dataset.close()
        raise RasterError("has complex numbers, which are not reflectance", path)
    return dataset


def _open_array(path: str) -> DatasetReader:
    """Open a numpy array as a raster in memory."""
    try:
        pixels = np.load(path, allow_pickle=False)
        if not isinstance(pixels, np.ndarray):
            raise ValueError("it has several arrays")
        bands = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        shape = dict(zip(("count", "height", "width"), bands.shape, strict=True))
        dataset = rasterio.open(path, "w+", driver="MEM", dtype=bands.dtype, transform=Affine.identity(), **shape)
        dataset.write(bands)
    except (ValueError, TypeError, EOFError) as error:
        raise RasterError(f"is not an array of (height, width, bands): {error}", path) from None
    return dataset


def is_all_valid(dataset: DatasetReader) -> bool:
    """Return whether no band declares nodata, a mask or alpha."""
    # GDAL derives no mask from alpha of some data types
    return not alphas_of(dataset) and all(flags == [MaskFlags.all_valid] for flags in dataset.mask_flag_enums)


def alphas_of(dataset: DatasetReader) -> list[int]:
    """Return the numbers of the bands that are flagged as alpha."""
    return [index for index, kind in enumerate(dataset.colorinterp, 1) if kind == ColorInterp.alpha]


def is_one_band(dataset: DatasetReader) -> bool:
    """Return whether a dataset has one band, or one and its mask: all its numbers are 0 or the greatest there is.

    Sentinel Hub and EO Browser write such masks, 1 in floating point.
    """
    if dataset.count != 2:
        return dataset.count == 1
    values = 0, greatest(dataset.dtypes[1])
    return all(np.isin(dataset.read(2, window=window), values).all() for _, window in dataset.block_windows(2))


def greatest(dtype: str) -> int:
    """Return the number that stands for all of something in a data type, such as opaque: 1 in floating point."""
    return 1 if np.dtype(dtype).kind == "f" else int(np.iinfo(dtype).max)


def _changed(
    dataset: DatasetReader, *, alphas: Sequence[int] | None = None, nodata: float | None = None
) -> DatasetReader:
    """Reopen a dataset as a virtual one whose alpha bands are these, or that declares ``nodata``; close the first."""
    with dataset, rasterio.MemoryFile(ext=".vrt") as memory:
        rasterio.shutil.copy(dataset, memory.name, driver="VRT")
        xml = memory.read().decode()
    if alphas is not None:
        xml = re.sub(r"\s*<ColorInterp>Alpha</ColorInterp>", "", xml)
        for index in alphas:
            xml = re.sub(
                rf'(<VRTRasterBand[^>]* band="{index}"[^>]*>)(?:\s*<ColorInterp>\w+</ColorInterp>)?',
                r"\1<ColorInterp>Alpha</ColorInterp>",
                xml,
            )
    if nodata is not None:
        xml = re.sub(r"(<VRTRasterBand[^>]*>)", rf"\1<NoDataValue>{nodata:g}</NoDataValue>", xml)
    return rasterio.open(xml)


def is_virtual(dataset: DatasetReader) -> bool:
    """Return whether the dataset is one that `open_raster` changed."""
    return dataset.name.startswith("<VRTDataset")
