"""Opening rasters, with one-line errors for those that cannot be opened."""

from __future__ import annotations

import logging
import os
import resource
import threading
import warnings
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError, TransformWarning

from rsr_cli.core.errors import RasterError
from rsr_cli.core.inputs import map_array
from rsr_cli.core.rasters.admission import (
    CONFINED,
    IMAGES,
    SKIPPED_DRIVERS,
    check_dataset,
    check_file,
    check_source,
    is_in_archive,
)
from rsr_cli.core.reach import is_confined
from rsr_cli.core.records.foreign import has_records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
# What a raster from a stranger could use: these are not the user's to choose.
os.environ["GDAL_SKIP"] = " ".join([*os.environ.get("GDAL_SKIP", "").replace(",", " ").split(), *SKIPPED_DRIVERS])
os.environ["GDAL_VRT_ENABLE_PYTHON"] = "NO"

logging.getLogger("rasterio").addHandler(logging.NullHandler())  # GDAL's messages become our errors
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
warnings.filterwarnings("ignore", category=TransformWarning)  # pixels without a place get no footprint
warnings.filterwarnings("ignore", category=NodataShadowWarning)  # pixels.py reads both


#: What rasterio logs where GDAL goes on, as if a tag were not there or with other pixels: a warning that a part of a
#: header cannot be read, and as information alone, an error.
UNREAD, FAILED = "IO error during reading of", "GDAL signalled an error"
_logged = threading.local()


def _note(record: logging.LogRecord) -> bool:
    """Note what is logged in this thread; information goes no further."""
    _logged.messages = f"{getattr(_logged, 'messages', '')}{record.getMessage()}\n"
    return record.levelno > logging.INFO


_gdal = logging.getLogger("rasterio._env")
_gdal.setLevel(logging.INFO)
_gdal.addFilter(_note)


@contextmanager
def heeded(path: str, what: str, *signals: str) -> Iterator[None]:
    """Raise RasterError if one of the signals is logged meanwhile, although GDAL returns something."""
    _logged.messages = ""
    yield
    if any(signal in _logged.messages for signal in signals):
        raise RasterError(f"cannot be read: a part of its {what} is missing or damaged", path)


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
    is_path = ":" not in path and not path.startswith("/vsi")
    return is_path and not os.path.exists(path)  # noqa: PTH110  which Path answers with an error for a long name


def open_raster(
    path: str, nodata: float | None = None, *, n_bands: int | None = None, masked: bool = False
) -> DatasetReader:
    """Open a raster for reading.

    Parameters
    ----------
    path : str
        A path or URL that GDAL opens, or a numpy array (``.npy``) of (height, width) or (height, width, bands).
    nodata : float, optional
        The value of invalid pixels besides those that the file declares invalid. It becomes the dataset's own, so that
        resampling does not mix it into neighbouring pixels.
    n_bands : int, optional
        Number of bands with data. If the file has as many, none is alpha, whatever its flags say.
    masked : bool
        The file is of one band: the first of at most two is no alpha and the second is, whatever their flags say.

    Raises
    ------
    RasterError
        It may not or cannot be opened, see `admission`, or has no raster band.
    """
    if is_missing(path):
        raise RasterError("no such file", path)
    remote = check_source(path)
    if has_records(path):  # drivers that read JSON take it for references to other files
        raise RasterError("contains records and not a raster", path, remedy="records")
    if not path.endswith(".npy"):
        check_file(path)
    with explained(path):
        try:
            with heeded(path, "header", UNREAD):
                dataset = _open_array(path) if path.endswith(".npy") else _open(path, remote=remote)
        except RasterioError:
            if Path(path).is_file() and not Path(path).stat().st_size:
                raise RasterError("is empty", path) from None
            if is_confined():
                what = f"is damaged, or of another format than may be read within a directory ({', '.join(CONFINED)})"
                raise RasterError(what, path, remedy="raw-bands") from None
            raise
        if not path.endswith(".npy"):
            check_dataset(dataset, path)
        alphas = alphas_of(dataset)
        wanted = alphas
        if n_bands == dataset.count:
            wanted = []
        elif masked and dataset.count <= 2:
            wanted = [2][: dataset.count - 1]
        if wanted != alphas:
            dataset = _changed(dataset, alphas=wanted)
        if nodata is not None and dataset.count:
            dataset = with_nodata(dataset, nodata)
    if not dataset.count:
        inside = dataset.subdatasets
        dataset.close()
        hint = f"; name one of its {len(inside)} subdatasets, such as {inside[0]}" if inside else ""
        raise RasterError(f"has no raster band{hint}", path)
    if any(kind.startswith("complex") for kind in dataset.dtypes):
        dataset.close()
        raise RasterError("has complex numbers, which are not reflectance", path)
    return dataset


def with_nodata(dataset: DatasetReader, nodata: float) -> DatasetReader:
    """Return a dataset that declares ``nodata`` too, as `open_raster` does: itself, or another one in its place."""
    with explained(dataset.name):
        hidden = [MaskFlags.per_dataset] in dataset.mask_flag_enums  # nodata beside a mask, which counts for GDAL
        return dataset if set(dataset.nodatavals) == {nodata} and not hidden else _changed(dataset, nodata=nodata)


def _open(path: str, *, remote: bool) -> DatasetReader:
    """Open what GDAL reads; of a remote file nothing beside it is asked for, which takes dozens of requests.

    What is in an archive cannot be checked before GDAL opens it: only `IMAGES` are read there, and nothing beside them.
    Within a directory that the run is confined to, only `CONFINED` formats are.
    """
    alone = remote and "GDAL_DISABLE_READDIR_ON_OPEN" not in os.environ
    archived = is_in_archive(path)
    drivers = IMAGES if archived else CONFINED if is_confined() else (None,)
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR") if alone or archived else nullcontext():
        for driver in drivers[:-1]:
            with suppress(RasterioError):
                return rasterio.open(path, driver=driver)
        return rasterio.open(path, driver=drivers[-1])


def _open_array(path: str) -> DatasetReader:
    """Open a numpy array as a virtual raster, which reads the file in parts."""
    try:
        array = map_array(Path(path))
        if array.ndim not in (2, 3):
            raise ValueError(f"it has {array.ndim} dimensions")
        if not array.size:
            raise ValueError("it is empty")
        if array.dtype.kind not in "uifc":
            raise ValueError(f"it has values of type {array.dtype}")
    except ValueError as error:
        raise RasterError(f"is not an array of (height, width, bands): {error}", path) from None
    if not array.flags.c_contiguous:
        raise RasterError("is stored column by column; save it again as numpy.ascontiguousarray returns it", path)
    # What a virtual raster may read is limited, for it may come from a stranger.
    with rasterio.Env(GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE="ALL"):
        return rasterio.open(_virtual(path, array if array.ndim == 3 else array[..., None]))


def _virtual(path: str, array: NDArray[Any]) -> str:
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
        }
        for key, value in values.items():
            ElementTree.SubElement(element, key).text = str(value)
    return ElementTree.tostring(root, encoding="unicode")


def is_all_valid(dataset: DatasetReader) -> bool:
    """Return whether no band declares nodata, a mask or alpha."""
    return len(all_valid(dataset)) == dataset.count


def all_valid(dataset: DatasetReader) -> list[int]:
    """Return the numbers of the bands of which the file declares no pixel invalid, by nodata, a mask or alpha."""
    if alphas_of(dataset):  # GDAL derives no mask from alpha of some data types
        return []
    return [index for index, flags in enumerate(dataset.mask_flag_enums, 1) if flags == [MaskFlags.all_valid]]


def declared_nodata(dataset: DatasetReader) -> tuple[int, ...] | None:
    """Return the number that each band declares invalid, if all are of integers and declare nothing else invalid."""
    numbers: list[int] = []
    if alphas_of(dataset):
        return None
    for kind, nodata, flags in zip(dataset.dtypes, dataset.nodatavals, dataset.mask_flag_enums, strict=True):
        is_whole = np.dtype(kind).kind in "iu" and nodata is not None and has(kind, nodata)
        if flags != [MaskFlags.nodata] or not is_whole:
            return None
        numbers.append(int(nodata))
    return tuple(numbers)


def alphas_of(dataset: DatasetReader) -> list[int]:
    """Return the numbers of the bands that are flagged as alpha."""
    with suppress(CPLE_BaseError):  # what GDAL logged at an earlier question, as of a broken tag, is raised here
        _ = dataset.colorinterp
    return [index for index, kind in enumerate(dataset.colorinterp, 1) if kind == ColorInterp.alpha]


def is_one_band(dataset: DatasetReader) -> bool:
    """Return whether a dataset has one band, or one and its mask: all its numbers are 0 or the greatest there is.

    Sentinel Hub and EO Browser write such masks, 1 in floating point.
    """
    if dataset.count != 2:
        return dataset.count == 1
    values = 0, greatest(dataset.dtypes[1])
    return all(np.isin(dataset.read(2, window=window), values).all() for _, window in dataset.block_windows(2))


def range_of(dtype: str | np.dtype[Any]) -> range:
    """Return all numbers of a data type of integers."""
    limits = np.iinfo(dtype)
    return range(limits.min, limits.max + 1)


def has(dtype: str | np.dtype[Any], number: float) -> bool:
    """Return whether a data type of integers has a number."""
    return number.is_integer() and int(number) in range_of(dtype)  # of a float, a range would search


def greatest(dtype: str) -> int:
    """Return the number that stands for all of something in a data type, such as opaque: 1 in floating point."""
    return 1 if np.dtype(dtype).kind == "f" else range_of(dtype)[-1]


def _changed(
    dataset: DatasetReader, *, alphas: Sequence[int] | None = None, nodata: float | None = None
) -> DatasetReader:
    """Reopen a dataset as a virtual one whose alpha bands are these, or that declares ``nodata``; close the first."""
    with (
        dataset,
        rasterio.Env(GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE="ALL"),
        rasterio.MemoryFile(ext=".vrt") as memory,
    ):
        rasterio.shutil.copy(dataset, memory.name, driver="VRT")
        root = ElementTree.fromstring(memory.read())
        for band in root.findall("VRTRasterBand"):
            if alphas is not None:
                _set(band, "ColorInterp", "Alpha" if int(band.attrib["band"]) in alphas else "Undefined")
            if nodata is not None and not _is_alpha(band):
                _set(band, "NoDataValue", repr(nodata))
        if nodata is not None and not is_all_valid(dataset):
            _read_masked(root, dataset.name)
        return rasterio.open(ElementTree.tostring(root, encoding="unicode"))


def _set(band: ElementTree.Element, tag: str, text: str) -> None:
    for element in band.findall(tag):
        band.remove(element)
    ElementTree.SubElement(band, tag).text = text


def _is_alpha(band: ElementTree.Element) -> bool:
    return band.findtext("ColorInterp") == "Alpha"


def _read_masked(root: ElementTree.Element, name: str) -> None:
    """Let a virtual raster read a dataset so that what is invalid there has the virtual one's nodata."""
    root.attrib.pop("subClass", None)
    for element in root.findall("MaskBand") + root.findall("GDALWarpOptions"):
        root.remove(element)
    for band in root.findall("VRTRasterBand"):
        for element in list(band):
            if element.tag not in ("Description", "ColorInterp", "NoDataValue", "Scale", "Offset", "UnitType"):
                band.remove(element)
        band.attrib.pop("subClass", None)
        source = ElementTree.SubElement(band, "ComplexSource")
        masked = "false" if _is_alpha(band) else "true"
        for tag, text in (("SourceFilename", name), ("SourceBand", band.attrib["band"]), ("UseMaskBand", masked)):
            ElementTree.SubElement(source, tag).text = text
