"""How matplotlib draws here: one style, reproducible files, and text cut to fit."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import textwrap
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import counted, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

log = logging.getLogger("rsr")

DPI = 200
TEXT_PT, SMALL_PT = 7.0, 6.0
GREY = "#767676"

# Text stays text in PDF and SVG files.
STYLE: dict[str, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "text.parse_math": False, "font.size": TEXT_PT}
# Without dates and versions, the same figure has the same bytes.
UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
}


@contextlib.contextmanager
def style(**settings: Any) -> Iterator[None]:
    """Draw with matplotlib's defaults and `STYLE`, regardless of the user's matplotlibrc, and leave no cache behind."""
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings(record=True) as caught:
        os.environ["MPLCONFIGDIR"] = directory
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE | settings)
            yield
    missing = {str(warning.message) for warning in caught if "missing from font" in str(warning.message)}
    if missing:
        lacks = counted(len(missing), "character")
        log.warning("the figure's font lacks %s, drawn as boxes; an HTML page shows all", lacks)


def save(figure: Figure, form: str, **options: Any) -> bytes:
    """Return a figure as a file of the format ``png``, ``pdf`` or ``svg``."""
    file = io.BytesIO()
    figure.savefig(file, format=form, dpi=DPI, metadata=UNDATED[form], **options)
    return file.getvalue()


@cache
def width_in(text: str, size_pt: float) -> float:
    """Return the width of a line of text, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    width_pt, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=size_pt), ismath=False)
    return width_pt / 72


def _most_chars(room_in: float, size_pt: float) -> int:
    """Return how many of the narrowest letters fit, which are a quarter as wide as high."""
    return int(72 * room_in / (0.25 * size_pt))


def tail(name: str, room_in: float, size_pt: float) -> str:
    """Shorten an id to the end of its last part, because ids differ at the end."""
    cut = visible(name).rpartition("/")[2][-_most_chars(room_in, size_pt) :]
    while width_in(cut, size_pt) > room_in:
        cut = f"\N{HORIZONTAL ELLIPSIS}{cut[2:]}"
    return cut


def wrap(text: str, room_in: float, size_pt: float, most: int) -> list[str]:
    """Break text into lines that fit, at most ``most`` of them."""
    text = visible(text)
    for chars in range(min(len(text), _most_chars(room_in, size_pt)), 0, -1):
        lines = textwrap.wrap(text, chars, max_lines=most, placeholder="\N{HORIZONTAL ELLIPSIS}")
        if all(width_in(line, size_pt) <= room_in for line in lines):
            return lines
    return []
