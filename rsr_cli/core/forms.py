"""The formats of outputs: an existing file is replaced only by one of its own format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from rsr_cli.core.errors import OutputError, UsageError

HEAD_BYTES = 1 << 12
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Ending of a compressed file's name -> the program that writes it.
_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz", ".zip": "zip"}


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
#: A table; text that is a record, a raster (VRT), a page or a PDF file is none.
TABLE = Form("a table", re.compile(rb'(?!\s*(<|%PDF|\x1e|\{\s*"type"))[^\0-\x08\x0e-\x1f]*\Z'))
#: Ending of a figure's name -> its format.
FIGURES = {
    "html": Form("a page of HTML", re.compile(rb"\s*<(!doctype\s+)?html\b", re.IGNORECASE)),
    "png": Form("a PNG file", re.compile(rb"\x89PNG\r\n\x1a\n")),
    "pdf": Form("a PDF file", re.compile(rb"%PDF-")),
}


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


def refuse_compressed(path: str) -> None:
    """Raise UsageError if a file's name states that it is compressed, which no output is."""
    program = _COMPRESSED.get(Path(path).suffix.lower())
    if program:
        what = "is named as a compressed file, and the output is not compressed"
        raise UsageError(what, path, remedy="compress", program=program)
