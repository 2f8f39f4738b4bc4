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
from rasterio.enums import MaskFlags
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError

from rsr_cli.core.errors import RasterError
from rsr_cli.core.records.foreign import has_records

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def open_raster(path: str, nodata: float | None = None) -> DatasetReader:
    """Open a raster for reading.

    Parameters
    ----------
    path : str
        A path or URL that GDAL opens, or a numpy array (``.npy``) of (height, width) or (height, width, bands).
    nodata : float, optional
        The value of invalid pixels, if the file declares none and has neither mask nor alpha. It becomes the dataset's
        own, so that resampling does not mix it into neighbouring pixels.

    Raises
    ------
    RasterError
        It cannot be opened, or has no raster band.
    """
    if ":" not in path and not path.startswith("/vsi") and not Path(path).exists():
        raise RasterError("no such file", path)
    with explained(path):
        try:
            dataset = _open_array(path) if path.endswith(".npy") else rasterio.open(path)
        except RasterioError:
            if has_records(path):
                raise RasterError("contains records and not a raster", path, remedy="records") from None
            raise
        if nodata is not None and dataset.count and is_all_valid(dataset):
            with dataset:
                dataset = _with_nodata(dataset, nodata)
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
    return all(flags == [MaskFlags.all_valid] for flags in dataset.mask_flag_enums)


def _with_nodata(dataset: DatasetReader, nodata: float) -> DatasetReader:
    """Reopen a dataset as a virtual one that declares ``nodata``."""
    with rasterio.MemoryFile(ext=".vrt") as memory:
        rasterio.shutil.copy(dataset, memory.name, driver="VRT")
        xml = memory.read().decode()
    return rasterio.open(re.sub(r"(<VRTRasterBand[^>]*>)", rf"\1<NoDataValue>{nodata:g}</NoDataValue>", xml))


def is_virtual(dataset: DatasetReader) -> bool:
    """Return whether `_with_nodata` made the dataset."""
    return dataset.name.startswith("<VRTDataset")
