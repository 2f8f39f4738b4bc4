"""A page of hits in HTML that needs no other file: thumbnails, tables and maps."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pybase64
from jinja2 import Environment, PackageLoader
from PIL import Image

from rsr_cli.core.errors import visible
from rsr_cli.core.figures.gallery import FRAMES
from rsr_cli.core.figures.map import draw_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.figures.gallery import Agreement, Row
    from rsr_cli.core.figures.map import Outlines


def write_page(
    rows: Iterable[Row], note: str, agreements: set[Agreement | None], outlines: Outlines
) -> Iterator[bytes]:
    """Fill in page.html, row by row.

    Parameters
    ----------
    rows : iterable of Row
        Queries and their hits.
    note : str
        How the thumbnails were made; empty without any.
    agreements : set of str or None
        Those of all hits, which the key of the frames explains.
    outlines : Outlines
        What to outline on each map besides footprints.

    Yields
    ------
    bytes
        HTML in UTF-8, in which text from records is never markup, and control characters are shown as escapes.
    """
    templates = Environment(
        loader=PackageLoader("rsr_cli.core.figures", ""), autoescape=True, trim_blocks=True, finalize=_shown
    )
    templates.filters["png"] = _png
    sections = ({"row": row, "map": draw_map(row, number, outlines)} for number, row in enumerate(rows))
    template = templates.get_template("page.html")
    frames = FRAMES if agreements - {None} else {}
    facts = {"frames": frames, "unknown": None in agreements, "note": note}
    return (text.encode() for text in template.generate(sections=sections, **facts))


def _shown(value: Any) -> Any:
    return visible(value) if type(value) is str else value


def _png(thumbnail: NDArray[Any]) -> str:
    """Return a thumbnail, uint8 (height, width, 4), as a data URL of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(thumbnail).save(file, format="png", optimize=True)
    return f"data:image/png;base64,{pybase64.b64encode_as_string(file.getvalue())}"
