"""Which sources GDAL is given: a record or an Item may be a stranger's, and GDAL opens far more than files.

What is known to be harmless is admitted, and all else is refused: what GDAL takes for XML, a service or a database.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import rasterio

from rsr_cli.core.errors import RasterError
from rsr_cli.core.inputs import named, read_bytes
from rsr_cli.core.reach import check_inside, check_network, is_confined
from rsr_cli.core.sources.base import file_and_band

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rasterio.io import DatasetReader

#: Drivers that ask servers on their own, or run what a file says, and those of headers that name another file, of which
#: they read any bytes as pixels, or which they open as anything that GDAL knows. They are not loaded.
SKIPPED_DRIVERS = (
    *("DAAS", "DERIVED", "EEDA", "EEDAI", "GDALG", "GTI", "HTTP", "OGCAPI", "PLMOSAIC", "PLSCENES", "PostGISRaster"),
    *("STACIT", "STACTA", "TileDB", "WCS", "WMS", "WMTS"),
    *("ADRG", "EIR", "ERS", "FAST", "ILWIS", "ISIS2", "ISIS3", "MFF", "MRF", "NDF", "PAux", "PCIDSK", "PDS", "PDS4"),
    *("SNODAS", "SRP", "VICAR"),
    *("DIMAP", "ECRGTOC", "KMLSUPEROVERLAY", "MAP", "RPFTOC", "RS2", "SAFE", "TIL", "TSX"),
)
#: GDAL's virtual file systems, and rasterio's schemes: archives, and what is read through the network.
_ARCHIVES = frozenset({"vsizip", "vsitar", "vsigzip", "vsi7z", "vsirar"})
_REMOTE = frozenset(
    f"vsi{name}{ending}"
    for name in ("curl", "s3", "gs", "az", "adls", "oss", "swift", "hdfs", "webhdfs")
    for ending in ("", "_streaming")
)
_LOCAL_SCHEMES = frozenset({"file", "zip", "tar", "gzip"})
_REMOTE_SCHEMES = frozenset({"http", "https", "ftp", "s3", "gs", "az", "oss"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SYSTEM = re.compile(r"/(vsi[a-z0-9_]+)[/?]")
_VIRTUAL = re.compile(r"(?<![A-Za-z0-9_])(vsi[a-z0-9_]+)[/?]")
#: What is before the file in the names of subdatasets.
_SUBDATASET = re.compile(
    r"(?:netCDF|HDF5|SENTINEL2_\w+|GPKG|ZARR|(?:HDF4_\w+|GTIFF_DIR(?::off)?|NITF_IM):\w+):", re.IGNORECASE
)
#: The formats that are read in archives, and where a run is confined to a directory, whose files GDAL lists. In others,
#: such as HDF5 and netCDF, a file can have its numbers in any other one.
IMAGES = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG", "HFA")
CONFINED = (*IMAGES, "VRT")
#: Elements of virtual rasters, and keys of their metadata, that name datasets. GDAL ignores upper and lower case.
_SOURCES = frozenset({"sourcefilename", "sourcedataset", "dempath"})
_KEYS = frozenset({"x_dataset", "y_dataset"})
#: Where the metadata of any raster names a dataset that GDAL opens as its overviews.
_OVERVIEWS = (("OVERVIEWS", "OVERVIEW_FILE"), ("ProxyOverviewRequest", "FILENAME"))
#: Files beside a raster that GDAL opens as anything that it knows, the first bytes of those that only have pixels, and
#: number of files in a directory up to which GDAL searches it for them.
_SIDECARS = (".ovr", ".msk")
_PLAIN = (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+", b"EHFA_HEADER_TAG")
_SEARCHED = 1000


def check_source(source: str) -> bool:
    """Check that a source may be given to GDAL, and return whether it is on the network.

    Parameters
    ----------
    source : str
        A path or URL, one band of either as ``vrt://SOURCE?bands=N``, a subdataset of a file, or a file in an archive.

    Raises
    ------
    RasterError
        It is on the network, which this run may not use, or outside of the directory to which it is confined, or in
        none of these forms.
    """
    if _exists(source):
        check_inside(source)
        _check_kind(source)
        return False
    if source.startswith("vrt://"):
        inner, band = file_and_band(source)
        if band is None:
            raise _unknown(source)
        return check_source(inner)
    found = _SCHEME.match(source)
    if found or source.startswith("/vsi"):
        schemes = {*found[1].lower().split("+")} if found else {"file"}
        rest = source[found.end() :] if found else source
        systems = {*_VIRTUAL.findall(rest)} if rest.startswith("/vsi") else set()
        if not schemes <= _LOCAL_SCHEMES | _REMOTE_SCHEMES or not systems <= _ARCHIVES | _REMOTE:
            raise _unknown(source)
        if (rest.startswith("/vsi") and not systems) or not rest.isprintable():  # what rasterio leaves out of a URL
            raise _unknown(source)
        remote = not schemes <= _LOCAL_SCHEMES or bool(systems & _REMOTE)
        if is_confined() and schemes <= _LOCAL_SCHEMES:
            remote = _is_remote_or_inside(rest, source, is_url=found is not None)
    elif found := _SUBDATASET.match(source):
        return check_source(_file_of(source[found.end() :], source))
    elif ":" in source or source.startswith("<"):
        raise _unknown(source)
    else:
        remote = False
    if remote:
        check_network(source)
    return remote


def _is_remote_or_inside(rest: str, source: str, *, is_url: bool) -> bool:
    """Return whether a name in a virtual file system is on the network; else check the file that it begins with.

    ``rest`` is that of a URL without its scheme. What could name another file to GDAL or rasterio is refused.
    """
    path = rest
    while (system := _SYSTEM.match(path)) and system[1] in _ARCHIVES:
        path = path[system.end() :]
    if system:
        return True
    path, _, inside = path.partition("!") if is_url else (path, "", "")
    parts = path.split("/")
    beginnings = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    file = next((each for each in beginnings if os.path.isfile(each)), None)  # noqa: PTH113  not all are paths
    if is_url and not rest.startswith("/"):
        raise RasterError("is a URL with a relative path, which could mean two files", source, remedy="absolute")
    if file is None or "{" in rest or (is_url and {*"!?#;"} & {*inside, *path}):
        raise _unknown(source)
    check_inside(file)
    return False


def is_in_archive(source: str) -> bool:
    """Return whether a source that was checked is in an archive, so that it cannot be looked into beforehand."""
    found = _SCHEME.match(source)
    schemes = {*found[1].lower().split("+")} if found else set()
    return bool(_ARCHIVES & {*_VIRTUAL.findall(source)} or schemes & {"zip", "tar", "gzip"})


def _exists(path: str) -> bool:
    """Return whether a path names something in the file system."""
    try:
        return os.path.lexists(path)
    except ValueError:  # a zero byte
        return False


def _check_kind(path: str) -> None:
    """Check that a path names no pipe or device, for which GDAL would wait."""
    file = Path(path)
    if file.is_fifo():
        raise RasterError("is a named pipe and not a file", path)
    if file.is_char_device() or file.is_block_device() or file.is_socket():
        raise RasterError("is a device and not a file", path)


def _file_of(rest: str, source: str) -> str:
    """Return the file that the name of a subdataset begins with: in quotes, or the longest beginning that exists."""
    if quoted := re.fullmatch(r'"([^"]+)"(?::[^"]*)?', rest):
        return quoted[1]
    parts = [] if '"' in rest else rest.split(":")
    names = (":".join(parts[:last]) for last in range(len(parts), 0, -1))
    file = next(filter(_exists, names), None)
    if file is None:
        raise _unknown(source)
    return file


def _unknown(source: str) -> RasterError:
    return RasterError("is no file, and in none of the forms that are read", source, remedy="source")


def check_file(path: str) -> None:
    """Check a file, and those beside it, before GDAL opens them.

    Parameters
    ----------
    path : str
        Of any raster; others than files are not looked into.

    Raises
    ------
    RasterError
        It is a virtual raster (VRT) that may not be read, see `check_dataset`, or overviews or a mask beside it are not
        plain pixels.
    """
    _check_file(file_and_band(path)[0], path, set())


def check_dataset(dataset: DatasetReader, path: str) -> None:
    """Check that a dataset, and those that it is made of, refer to sources that may be read.

    Parameters
    ----------
    dataset : rasterio.DatasetReader
        Any dataset.
    path : str
        As it was opened.

    Raises
    ------
    RasterError
        One has raw bands, which read any bytes of any file, or code, or refers to a source that may not be read.
    """
    _check_dataset(dataset, file_and_band(path)[0], path, set())


def _check_file(file: str, path: str, seen: set[str]) -> None:
    try:
        if not Path(file).is_file():
            return
    except (OSError, ValueError):  # a name that no file has
        return
    for beside in _sidecars(Path(file)):
        check_inside(str(beside))
        if (begin := _begins(beside)) and not begin.startswith(_PLAIN):
            raise RasterError(f"has overviews or a mask in {beside}, which is no TIFF", path, remedy="raw-bands")
    if b"<VRTDataset" in _begins(Path(file)):
        _check_xml(read_bytes(Path(file)), file, path, seen)


def _sidecars(file: Path) -> Iterator[Path]:
    """Yield the overviews and masks beside a file, and those of either, in upper or lower case."""
    with os.scandir(file.parent) as entries:
        listed = [entry.name for entry in islice(entries, _SEARCHED + 1)]
    if len(listed) > _SEARCHED:
        endings = [*_SIDECARS, *map(str.upper, _SIDECARS)]
        listed = [f"{file.name}{a}{b}" for a in endings for b in ("", *endings)]
    for name in listed:
        lower, one = name.lower(), file.parent / name
        if lower.startswith(file.name.lower()) and lower.endswith(_SIDECARS) and one.is_file():
            yield one


def _check_dataset(dataset: DatasetReader, file: str, path: str, seen: set[str]) -> None:
    if any(dataset.tags(ns=domain).get(key) for domain, key in _OVERVIEWS):
        raise RasterError("names another file as its overviews", path, remedy="raw-bands")
    if is_confined():
        _check_files(dataset, path)
    if dataset.driver == "VRT":
        _check_xml(str(dataset.tags(ns="xml:VRT").get("xml:VRT", "")), file, path, seen)


def _check_files(dataset: DatasetReader, path: str) -> None:
    """Check what a dataset consists of, as far as GDAL knows, which is all in `CONFINED` formats."""
    if dataset.driver not in CONFINED:
        what = f"is of the format {dataset.driver}, in which a file can lead out of a directory unseen"
        raise RasterError(what, path, remedy="raw-bands")
    for file in dataset.files:
        try:
            check_source(file)
        except RasterError as error:
            raise RasterError(f"leads to {file}, which {error.message}", path, remedy=error.remedy) from None


def _check_xml(text: str | bytes, file: str, path: str, seen: set[str]) -> None:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise RasterError(f"refers to {file}, which is not XML: {error}", path) from None
    for element in root.iter():
        tag = _plain(element.tag)
        facts = {_plain(name): value for name, value in element.items()}
        text = (element.text or "").strip()
        if facts.get("subclass", "").lower() == "vrtrawrasterband":
            raise RasterError("has raw bands, which can read any bytes of any file", path, remedy="raw-bands")
        if tag in ("pixelfunctioncode", "pixelfunctionlanguage") and text != "C":
            raise RasterError("computes its pixels by code of its own", path, remedy="raw-bands")
        names_file = tag in _SOURCES or facts.get("key", "").lower() in _KEYS or "filename" in facts.get("name", "")
        if names_file and text:
            _check_reference(text, file, path, seen, relative=facts.get("relativetovrt") == "1")


def _plain(name: str) -> str:
    """Return the name of an element or attribute as GDAL compares it: without namespace, in lower case."""
    return name.rpartition("}")[2].lower()


def _check_reference(source: str, file: str, path: str, seen: set[str], *, relative: bool) -> None:
    """Check what a virtual raster refers to, and what that refers to if it is one too."""
    if relative and not source.startswith("/") and not _SCHEME.match(source):
        source = os.path.join(os.path.dirname(file), source)  # noqa: PTH118, PTH120  a path may be GDAL's
    if source in seen:
        return
    seen.add(source)
    try:
        check_source(source)
    except RasterError as error:
        raise RasterError(f"refers to {source}, which {error.message}", path, remedy=error.remedy) from None
    inner = file_and_band(source)[0]
    _check_file(inner, path, seen)
    if is_in_archive(inner):
        raise RasterError(f"refers to {inner}, in an archive, which cannot be checked", path, remedy="raw-bands")
    with suppress(rasterio.errors.RasterioError), rasterio.open(inner) as dataset:  # else reading will report it
        _check_dataset(dataset, inner, path, seen)


def _begins(file: Path) -> bytes:
    with file.open("rb") as opened, named(file):
        return opened.read(4096)
