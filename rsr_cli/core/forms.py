"""The formats of outputs: an existing file is replaced only by one of its own format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from rsr_cli.core.errors import OutputError, UsageError

HEAD_BYTES = 1 << 12
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Ending of a compressed file's name -> the program that writes it.
_PROGRAMS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz", ".zip": "zip"}


class Form(NamedTuple):
    """A format.

    Attributes
    ----------
    name : str
        Its name for messages.
    pattern : re.Pattern of bytes
        Matches the first bytes of a file of this format.
    """

    name: str
    pattern: re.Pattern[bytes]


#: JSON lines begin with a whole object in one line; a collection in one line is GeoJSON, but no record.
JSON_LINES = Form(
    "JSON lines",
    re.compile(rb'[\s\x1e]*\{(?!.*"FeatureCollection")[ \t]*["}]([^\n]*\}[ \t\r]*\n|[^\n]*\Z)', re.DOTALL),
)
#: Compression -> the format of JSON lines that are compressed so.
COMPRESSED = {
    "gzip": Form("a gzip file", re.compile(rb"\x1f\x8b")),
    "zstd": Form("a zstd file", re.compile(rb"\x28\xb5\x2f\xfd")),
}
PARQUET = Form("a Parquet file", re.compile(rb"PAR1"))
PARQUET_ENDINGS = (".parquet", ".geoparquet", ".gpq")
#: Tables of embeddings that others made, which are only read.
CSV_ENDINGS, ARRAY_ENDING = (".csv", ".csv.gz", ".csv.zst"), ".npy"
#: Names of vector files that users may take records for.
GDAL_ENDINGS = (".gpkg", ".shp", ".fgb", ".kml", ".gml")
ITEM_COLLECTION = Form("a STAC ItemCollection", re.compile(rb'\s*\{\s*"type"\s*:\s*"FeatureCollection"'))
ITEM_ENDING = ".stac.json"
SAFETENSORS = Form("a safetensors file", re.compile(rb".{6}\0\0\{", re.DOTALL))
RUN = Form("a run file", re.compile(rb"\s*\S+[ \t]+Q0[ \t]+\S+[ \t]+\S+[ \t]+\S+[ \t]+\S+[ \t\r]*(\n|\Z)"))
QRELS = Form("a qrels file", re.compile(rb"\s*\S+[ \t]+\S+[ \t]+\S+[ \t]+-?\d+[ \t\r]*(\n|\Z)"))
#: A table; text that is a record, a raster (VRT), a page or a PDF file is none.
TABLE = Form("a table", re.compile(rb'(?!\s*(<|%PDF|\x1e|\{\s*"type"))[^\0-\x08\x0e-\x1f]*\Z'))
#: Description in the first bytes of a similarity map, which no scene has.
SIMILARITY_MAP = "similarity map by rsr"
#: Ending of a figure's name -> its format.
FIGURES = {
    "html": Form("a page of HTML", re.compile(rb"\s*<(!doctype\s+)?html\b", re.IGNORECASE)),
    "png": Form("a PNG file", re.compile(rb"\x89PNG\r\n\x1a\n")),
    "pdf": Form("a PDF file", re.compile(rb"%PDF-")),
    "tif": Form("a similarity map", re.compile(rb"(II\*\0|MM\0\*).*" + SIMILARITY_MAP.encode(), re.DOTALL)),
}


def is_parquet(path: str) -> bool:
    """Return whether a file is named as a Parquet file, or begins as one."""
    if path.lower().endswith(PARQUET_ENDINGS):
        return True
    try:
        return Path(path).is_file() and begins(Path(path), PARQUET)
    except OSError:
        return False


def begins(path: Path, form: Form) -> bool:
    """Return whether a file's first bytes are those of a format; raise OSError if it cannot be read."""
    with path.open("rb") as file:
        return form.pattern.match(file.read(HEAD_BYTES)) is not None


def refuse_other(path: Path, form: Form) -> None:
    """Raise OutputError if there is a file that is neither empty nor of a format.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).removeprefix(BYTE_ORDER_MARK)
    if head.strip() and not form.pattern.match(head):
        raise OutputError(f"exists and is not {form.name}; it is not replaced", str(path), remedy="other-output")


def compression_of(path: str) -> str | None:
    """Return the compression that the ending of a file's name states, of those that are read and written."""
    program = _PROGRAMS.get(Path(path).suffix.lower())
    return program if program in COMPRESSED else None


def refuse_compressed(path: str, form: Form) -> None:
    """Raise UsageError if a file's name states that it is compressed, and the output is not."""
    program = _PROGRAMS.get(Path(path).suffix.lower())
    if program and form is not COMPRESSED.get(program):
        what = "is named as a compressed file, and the output is not compressed"
        raise UsageError(what, path, remedy="compress", program=program)
