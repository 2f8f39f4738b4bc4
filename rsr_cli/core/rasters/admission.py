"""Which sources GDAL is given: a record or an Item may be a stranger's, and GDAL opens far more than files.

What is known to be harmless is admitted, and all else is refused: what GDAL takes for XML, a service or a database.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import rasterio

from rsr_cli.core.errors import RasterError
from rsr_cli.core.inputs import read_bytes
from rsr_cli.core.network import check_allowed
from rsr_cli.core.sources.base import file_and_band

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

#: Drivers that ask servers on their own, or run what a file says, and those of headers that name another file, of which
#: they read any bytes as pixels. They are not loaded.
SKIPPED_DRIVERS = (
    *("DAAS", "DERIVED", "EEDA", "EEDAI", "GDALG", "GTI", "HTTP", "OGCAPI", "PLMOSAIC", "PLSCENES", "PostGISRaster"),
    *("STACIT", "STACTA", "TileDB", "WCS", "WMS", "WMTS"),
    *("EIR", "ERS", "ISIS2", "ISIS3", "MFF", "MRF", "NDF", "PCIDSK", "PDS", "PDS4"),
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
_VIRTUAL = re.compile(r"(?<![A-Za-z0-9_])(vsi[a-z0-9_]+)[/?]")
#: Prefixes of the names of a file's subdatasets.
_SUBDATASET = re.compile(r"(netCDF|HDF5|HDF4_\w+|GTIFF_DIR|NITF_IM|SENTINEL2_\w+|GPKG|ZARR):", re.IGNORECASE)
_SOURCES = ("SourceFilename", "SourceDataset")


def check_source(source: str) -> bool:
    """Check that a source may be given to GDAL, and return whether it is on the network.

    Parameters
    ----------
    source : str
        A path or URL, one band of either as ``vrt://SOURCE?bands=N``, a subdataset of a file, or a file in an archive.

    Raises
    ------
    RasterError
        It is on the network, which this run may not use, or in none of these forms.
    """
    if _exists(source):
        return False
    if source.startswith("vrt://"):
        inner, band = file_and_band(source)
        if band is None:
            raise _unknown(source)
        return check_source(inner)
    remote = False
    if found := _SCHEME.match(source):
        schemes = found[1].lower().split("+")
        if not {*schemes} <= _LOCAL_SCHEMES | _REMOTE_SCHEMES:
            raise _unknown(source)
        remote = not {*schemes} <= _LOCAL_SCHEMES
    elif source.startswith("/vsi"):
        systems = {*_VIRTUAL.findall(source)}
        if not systems or not systems <= _ARCHIVES | _REMOTE:
            raise _unknown(source)
        remote = bool(systems & _REMOTE)
    elif found := _SUBDATASET.match(source):
        return check_source(_file_of(source[found.end() :], source))
    elif ":" in source or source.startswith("<"):
        raise _unknown(source)
    if remote:
        check_allowed(source)
    return remote


def _exists(path: str) -> bool:
    """Return whether a path names something in the file system."""
    try:
        return os.path.lexists(path)
    except ValueError:  # a zero byte
        return False


def _file_of(rest: str, source: str) -> str:
    """Return the file that the name of a subdataset contains: in quotes, or the longest part that exists."""
    if quoted := re.search(r'"([^"]*)"', rest):
        return quoted[1]
    parts = rest.split(":")
    spans = [(first, last) for first in range(len(parts)) for last in range(len(parts), first, -1)]
    names = (":".join(parts[first:last]) for first, last in sorted(spans, key=lambda span: span[0] - span[1]))
    file = next(filter(_exists, names), None)
    if file is None:
        raise _unknown(source)
    return file


def _unknown(source: str) -> RasterError:
    return RasterError("is no file, and in none of the forms that are read", source, remedy="source")


def check_virtual(dataset: DatasetReader, path: str) -> None:
    """Check that a virtual raster (VRT), and those that it is made of, refer to sources that may be read.

    Parameters
    ----------
    dataset : rasterio.DatasetReader
        Any dataset; others than virtual ones are not looked into.
    path : str
        As it was opened.

    Raises
    ------
    RasterError
        One has raw bands, which read any bytes of any file, or code, or refers to a source that may not be read.
    """
    if dataset.driver == "VRT":
        _check_xml(_xml_of(dataset), file_and_band(path)[0], path, set())


def _xml_of(dataset: DatasetReader) -> str:
    return str(dataset.tags(ns="xml:VRT").get("xml:VRT", ""))


def _check_xml(text: str | bytes, file: str, path: str, seen: set[str]) -> None:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise RasterError(f"refers to {file}, which is not XML: {error}", path) from None
    for element in root.iter():
        if element.get("subClass") == "VRTRawRasterBand":
            raise RasterError("has raw bands, which can read any bytes of any file", path, remedy="raw-bands")
        if element.tag in ("PixelFunctionCode", "PixelFunctionLanguage") and (element.text or "").strip() != "C":
            raise RasterError("computes its pixels by code of its own", path, remedy="raw-bands")
        if element.tag in _SOURCES and element.text:
            _check_reference(element, file, path, seen)


def _check_reference(element: ElementTree.Element, file: str, path: str, seen: set[str]) -> None:
    """Check what a virtual raster refers to, and what that refers to if it is one too."""
    source = (element.text or "").strip()
    relative = element.get("relativeToVRT") == "1" or element.get("relativetoVRT") == "1"
    if relative and not _exists(source) and not _SCHEME.match(source):
        source = os.path.join(os.path.dirname(file), source)  # noqa: PTH118, PTH120  a path may be GDAL's
    if source in seen:
        return
    seen.add(source)
    try:
        check_source(source)
    except RasterError as error:
        raise RasterError(f"refers to {source}, which {error.message}", path, remedy=error.remedy) from None
    inner = file_and_band(source)[0]
    if not Path(inner).is_file():  # on the network, or in an archive
        with suppress(rasterio.errors.RasterioError), rasterio.open(inner) as dataset:  # else reading will report it
            if dataset.driver == "VRT":
                _check_xml(_xml_of(dataset), inner, path, seen)
    elif _is_virtual(Path(inner)):
        _check_xml(read_bytes(Path(inner)), inner, path, seen)


def _is_virtual(file: Path) -> bool:
    with file.open("rb") as opened:
        return b"<VRTDataset" in opened.read(4096)
