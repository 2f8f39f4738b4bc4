"""Opening rasters, with one-line errors for those that cannot be opened."""

from __future__ import annotations

import logging
import os
import re
import resource
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError, TransformWarning

from rsr_cli.core.errors import RasterError
from rsr_cli.core.inputs import map_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

#: Number of files that the process may have open.
MAX_DESCRIPTORS = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)  # -1, unlimited, is the greatest number
#: Settings of GDAL, unless the environment has them.
DEFAULTS = {
    # Decoded blocks: enough for the row of blocks of a Sentinel-2 scene that its tiles are cut from. GDAL's own
    # default, a twentieth of the machine's memory, is many gigabytes on a large node, more than a job may use.
    "GDAL_CACHEMAX": "256",
    # GDAL alone waits forever for a server that does not answer: here 30 s, as long as less than 1 kB/s arrives.
    "GDAL_HTTP_CONNECTTIMEOUT": "30",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    # Files that all mosaics (VRT) together keep open, of those that the process may open.
    "GDAL_MAX_DATASET_POOL_SIZE": str(max(2, min(100, MAX_DESCRIPTORS // 8))),
}
#: Where rasterio's wheels keep PROJ's files. rasterio names it to GDAL alone; a part of GDAL that reads GeoTIFF's units
#: asks PROJ itself, which then writes to stderr that it finds nothing.
PROJ_DATA = Path(rasterio.__file__).with_name("proj_data")
if PROJ_DATA.is_dir() and "PROJ_LIB" not in os.environ:
    DEFAULTS["PROJ_DATA"] = str(PROJ_DATA)
if "CPL_DEBUG" not in os.environ:  # what rasterio does not turn into errors, GDAL would write to stderr
    DEFAULTS["CPL_LOG"] = os.devnull
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)

logging.getLogger("rasterio").addHandler(logging.NullHandler())  # GDAL's messages become our errors
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
warnings.filterwarnings("ignore", category=TransformWarning)  # pixels without a place get no footprint
warnings.filterwarnings("ignore", category=NodataShadowWarning)  # pixels.py reads both


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn GDAL's errors into ours."""
    try:
        yield
    except (RasterioError, OSError, rasterio.errors.CRSError) as error:
        text = str(error.__cause__ or error) or type(error).__name__
        raise RasterError(f"cannot be read: {text.removeprefix(f'{place}: ')}", place) from None


def is_missing(path: str) -> bool:
    """Return whether a path, which is no URL, names no file."""
    return ":" not in path and not path.startswith("/vsi") and not Path(path).exists()


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
    if is_missing(path):
        raise RasterError("no such file", path)
    if Path(path).is_fifo():  # GDAL would wait for a writer
        raise RasterError("is a named pipe and not a file", path)
    with explained(path):
        dataset = _open_array(path, nodata) if path.endswith(".npy") else rasterio.open(path)
        with suppress(CPLE_BaseError):  # what was wrong with the coordinate system would be raised by the next question
            _ = dataset.colorinterp
        if nodata is not None and dataset.count and is_all_valid(dataset):
            with dataset:
                dataset = _with_nodata(dataset, nodata)
    if not dataset.count:
        inside = dataset.subdatasets
        dataset.close()
        hint = f"; name one of its {len(inside)} subdatasets, such as {inside[0]}" if inside else ""
        raise RasterError(f"has no raster band{hint}", path)
    if any(kind.startswith("complex") for kind in dataset.dtypes):
        dataset.close()
        raise RasterError("has complex numbers, which are not reflectance", path)
    return dataset


def _open_array(path: str, nodata: float | None) -> DatasetReader:
    """Open a numpy array as a virtual raster, which reads the file in parts."""
    try:
        array = map_array(Path(path))
        if array.ndim not in (2, 3):
            raise ValueError(f"it has {array.ndim} dimensions")
        if array.dtype.kind not in "uifc":
            raise ValueError(f"it has values of type {array.dtype}")
    except ValueError as error:
        raise RasterError(f"is not an array of (height, width, bands): {error}", path) from None
    if not array.flags.c_contiguous:
        raise RasterError("is stored column by column; save it again as numpy.ascontiguousarray returns it", path)
    # What a virtual raster may read is limited, for it may come from a stranger.
    with rasterio.Env(GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE="ALL"):
        return rasterio.open(_virtual(path, array if array.ndim == 3 else array[..., None], nodata))


def _virtual(path: str, array: NDArray[Any], nodata: float | None) -> str:
    """Return the XML of a virtual raster of a mapped array (height, width, bands)."""
    height, width, bands = array.shape
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    name = {"u": "UInt", "i": "Int", "f": "Float", "c": "CFloat"}[kind] + str(bits)
    root = ElementTree.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    for band in range(bands):
        facts = {"dataType": "Byte" if name == "UInt8" else name, "band": str(band + 1), "subClass": "VRTRawRasterBand"}
        element = ElementTree.SubElement(root, "VRTRasterBand", facts)
        values = {
            "SourceFilename": path,
            "ImageOffset": array.offset + band * array.strides[2],  # type: ignore[attr-defined]
            "PixelOffset": array.strides[1],
            "LineOffset": array.strides[0],
            "ByteOrder": "MSB" if array.dtype.newbyteorder("=") != array.dtype else "LSB",
        } | ({} if nodata is None else {"NoDataValue": f"{nodata:g}"})
        for key, value in values.items():
            ElementTree.SubElement(element, key).text = str(value)
    return ElementTree.tostring(root, encoding="unicode")


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
    """Return whether `open_raster` made the dataset declare nodata."""
    return dataset.name.startswith("<VRTDataset") and any(value is not None for value in dataset.nodatavals)
