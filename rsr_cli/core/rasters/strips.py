"""Reading tiles that lie side by side in a file at once, as calls of GDAL cost more than the pixels of small tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import RecordError
from rsr_cli.core.rasters.parts import parts_of
from rsr_cli.core.rasters.pixels import (
    MAX_TILE_BYTES,
    SCALING,
    Pixels,
    bands_of,
    check_tile,
    memory_of,
    read_stored,
    too_large,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from rsr_cli.core.records.batch import Record

#: Most tiles that are read at once, and the memory that they may take in bytes.
STRIP_TILES = 16
STRIP_BYTES = MAX_TILE_BYTES // STRIP_TILES
#: Properties that tiles have in common which are read at once.
_SHARED = ("source", "bands", *SCALING, "decode", "nodata", "unit", "mask")


def read_each(
    tiles: Sequence[Record], bands: Sequence[str], *, may_lack: Collection[str] = ()
) -> Iterator[Pixels | RecordError]:
    """Read tiles, each as `read_stored` does, those that `are_side_by_side` at once.

    Parameters
    ----------
    tiles, bands, may_lack
        As in `read_stored`.

    Yields
    ------
    Pixels or RecordError
        For each tile, its pixels, which may share memory with its neighbours', or why it cannot be read.
    """
    for strip in _strips(tiles, len(bands)):
        together = _read_strip(strip, bands, may_lack) if len(strip) > 1 else None
        for i, tile in enumerate(strip):
            yield together[i] if together else _read_one(tile, bands, may_lack)


def _read_one(tile: Record, bands: Sequence[str], may_lack: Collection[str]) -> Pixels | RecordError:
    try:
        return read_stored(tile, bands, may_lack=may_lack)
    except MemoryError:
        return too_large()
    except RecordError as error:
        return error


def _strips(tiles: Sequence[Record], n_bands: int) -> Iterator[list[Record]]:
    """Divide tiles into those that are read at once."""
    strip: list[Record] = []
    for tile in tiles:
        if strip and not _joins(tile, strip, n_bands):
            yield strip
            strip = []
        strip.append(tile)
    if strip:
        yield strip


def _joins(tile: Record, strip: Sequence[Record], n_bands: int) -> bool:
    """Return whether a tile can be read at once with those before it."""
    if len(strip) == STRIP_TILES or not are_side_by_side(strip[-1], tile):
        return False
    _, _, width, height = _span(strip[0], tile)
    return memory_of(width * height, n_bands) <= STRIP_BYTES


def _span(first: Record, last: Record) -> list[int]:
    """Return the window from the first tile of a strip to the last one."""
    left, top, _, height = first["properties"]["window"]
    column, _, width, _ = last["properties"]["window"]
    return [left, top, column + width - left, height]


def _read_strip(
    tiles: Sequence[Record], bands: Sequence[str], may_lack: Collection[str]
) -> list[Pixels | RecordError] | None:
    """Read tiles at once; None if each is to be read by itself, as one of them fails or pixels would be others."""
    window = _span(tiles[0], tiles[-1])
    together = {**tiles[0], "properties": {**tiles[0]["properties"], "window": window}}
    try:
        for tile in tiles:
            check_tile(tile)
        if not _have_whole_pixels(tiles, bands):
            return None
        strip = read_stored(together, bands, may_lack=may_lack)
    except (RecordError, MemoryError):
        return None
    read: list[Pixels | RecordError] = []
    for tile in tiles:
        column, _, width, _ = tile["properties"]["window"]
        part = slice(column - window[0], column - window[0] + width)
        invalid = None if strip.invalid is None else strip.invalid[..., part]
        if invalid is not None and not invalid.any():
            invalid = None
        if invalid is not None and invalid.all():  # it may lie outside the raster, which is an error by itself
            read.append(_read_one(tile, bands, may_lack))
        else:
            read.append(Pixels(strip.numbers[..., part], invalid, strip.scale, strip.offset))
    return read


def _have_whole_pixels(tiles: Sequence[Record], bands: Sequence[str]) -> bool:
    """Return whether tiles begin and end between two pixels of all of their bands.

    Else, where a coarser band is resampled, GDAL rounds otherwise in a part of a window than in the whole.
    """
    properties = tiles[0]["properties"]
    if isinstance(properties["source"], str):
        return True
    windows = [tile["properties"]["window"] for tile in tiles]
    first, _, first_width, _ = windows[0]
    names = {*bands_of(tiles[0])}
    parts, _ = parts_of(tiles[0], [band for band in bands if band in names])
    return all(
        (left + size * (column - first)).is_integer() and (size * width).is_integer()
        for part in parts
        for left, size in [(part.window[0], part.window[2] / first_width)]
        for column, _, width, _ in windows
    )


def are_side_by_side(one: Record, other: Record) -> bool:
    """Return whether a tile lies to the right of one of its height, in the same scene, without a gap between them.

    Tiles with a mask do not.
    """
    mine, theirs = one["properties"], other["properties"]
    here, there = mine.get("window"), theirs.get("window")
    return (
        isinstance(mine.get("source"), str | dict)
        and mine.get("mask") is None
        and all(mine.get(name) == theirs.get(name) for name in _SHARED)
        and _is_window(here)
        and _is_window(there)
        and (here[1], here[3]) == (there[1], there[3])
        and here[0] < there[0] <= here[0] + here[2] <= there[0] + there[2]
        and (
            isinstance(mine["source"], str)
            or _is_shifted(mine.get("proj:transform"), theirs.get("proj:transform"), there[0] - here[0])
        )
    )


def _is_shifted(one: Any, other: Any, columns: int) -> bool:
    """Return whether a geotransform is that of a tile a number of columns further right, or neither tile has one."""
    if one is None and other is None:
        return True
    try:
        (a, b, left, d, e, top), (*scale, right, _d, _e, bottom) = one, other
        apart = abs(right - left - a * columns), abs(bottom - top - d * columns)
        return [*scale, _d, _e] == [a, b, d, e] and max(apart) <= 1e-6 * max(abs(a), abs(d))
    except (TypeError, ValueError):  # not a tile, as reading it will report
        return False


def _is_window(window: Any) -> bool:
    """Return whether a window is four integers, the width and height above 0, as JSON has no other integers."""
    return isinstance(window, list) and len(window) == 4 and set(map(type, window)) == {int} and min(window[2:]) > 0
