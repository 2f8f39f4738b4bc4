"""Files that are no records, named for what they are by their first bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.errors import RsrError, UsageError
from rsr_cli.core.forms import SAFETENSORS, compression_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: First bytes of a file -> what it is, and the remedy.
_SIGNATURES: dict[bytes, tuple[str, str | None]] = {
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), ("a raster (TIFF)", "tile")),
    b"\x89PNG": ("a raster (PNG)", "tile"),
    b"\xff\xd8\xff": ("a raster (JPEG)", "tile"),
    b"\0\0\0\x0cjP": ("a raster (JPEG 2000)", "tile"),
    b"\xff\x4f\xff\x51": ("a raster (JPEG 2000)", "tile"),
    **dict.fromkeys((b"\x89HDF", b"CDF\x01", b"CDF\x02", b"CDF\x05"), ("a raster (HDF5 or netCDF)", "tile")),
    b"EHFA_HEADER_TAG": ("a raster (ERDAS Imagine)", "tile"),
    b"<VRTDataset": ("a raster (VRT)", "tile"),
    b"\x93NUMPY": ("a numpy array", "array"),
    b"PAR1": ("a Parquet file", "as-file"),
    b"ARROW1": ("an Arrow or Feather file", "arrow"),
    b"FEA1": ("a Feather file", "arrow"),
    b"SQLite format 3\0": ("a GeoPackage or another SQLite database", "vector"),
    b"fgb\x03": ("a FlatGeobuf file", "vector"),
    b"\0\0\x27\x0a": ("a shapefile", "vector"),
    b"PK\x03\x04": ("a zip archive", "zip"),
    b"%PDF": ("a PDF file", None),
}
#: First bytes of a compressed file -> the program that writes and reads it.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
#: Byte order mark -> the encoding of the text.
_ENCODINGS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), "UTF-16"),
}
#: In JSON, the end of an object is followed by the end of another or by a comma alone.
_LINES_THAT_END_IN_CR = re.compile(rb"\}\s*\r\s*[^\s,\]}]")
_SEPARATORS = (b",", b";", b"\t")


def refuse_foreign(lines: Sequence[bytes], path: str) -> None:
    """Raise RsrError if a file that begins with these lines is no JSON lines, but a known other format."""
    head = lines[0]
    for signature, program in _COMPRESSED.items():
        if head.startswith(signature):
            raise RsrError(f"is compressed ({program})", path, remedy="decompress", program=program)
    for mark, encoding in _ENCODINGS.items():
        if head.startswith(mark):
            raise RsrError(f"is text in {encoding} and not JSON lines", path, remedy="utf-8", encoding=encoding)
    found = next((facts for signature, facts in _SIGNATURES.items() if head.startswith(signature)), None)
    if found is None:
        found = _of_text([line.strip() for line in lines], path)
    if found is not None:
        what, remedy = found
        compressed = compression_of(path)
        if compressed:  # what helps is for a file that is not
            raise RsrError(f"is {what}, compressed ({compressed})", path, remedy="decompress", program=compressed)
        raise RsrError(f"is {what} and not JSON lines", path, remedy=remedy)


def _of_text(lines: list[bytes], path: str) -> tuple[str, str | None] | None:
    first = lines[0]
    if SAFETENSORS.pattern.match(first):
        return "a safetensors file", "fitted"
    if b"\0" in first:
        return "a binary file", None
    if _LINES_THAT_END_IN_CR.search(first):
        return "text whose lines end in carriage returns alone", "line-feeds"
    if first in (b"{", b"["):
        collection = any(b'"FeatureCollection"' in line for line in lines)
        return ("a FeatureCollection", "lines") if collection else ("JSON over several lines", "compact")
    if first.startswith(b"<"):
        return "HTML or XML", None
    if first[:1] in (b"{", b"[", b"\x1e", b""):
        return None
    counts = [{separator: line.count(separator) for separator in _SEPARATORS} for line in lines[:2]]
    like_a_table = len(counts) == 2 and any(counts[0][mark] == counts[1][mark] > 0 for mark in _SEPARATORS)
    return ("CSV", "csv") if like_a_table or Path(path).suffix.lower() in (".csv", ".tsv") else None


def refuse_directory(path: str) -> None:
    """Raise RsrError if a path is empty, or a directory, such as an index."""
    if not path:
        raise UsageError("an input has an empty name")
    if Path(path).is_dir():
        if is_index(path):
            raise RsrError("is an index and not records", path, remedy="index-in-place")
        raise RsrError("is a directory", path, remedy="directory")


def is_index(path: str) -> bool:
    """Return whether a directory seems to be an index."""
    return Path(path, "manifest.json").exists()


def has_records(path: str) -> bool:
    """Return whether a file seems to contain records: it begins as a line of JSON does."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4).lstrip(b"\xef\xbb\xbf\x1e").startswith(b"{")
    except OSError:
        return False
