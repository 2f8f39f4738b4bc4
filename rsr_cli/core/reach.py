"""How far this run may reach to read imagery: over the network or not, and out of a directory or not.

The user decides it once per run. It holds for the process and all its threads, as GDAL's settings do, one of which is
part of it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.errors import RasterError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: GDAL opens this one name through the network, and no other: what a raster refers to is refused too.
_GUARD = "CPL_VSIL_CURL_ALLOWED_FILENAME"
_NOTHING = "rsr:nothing"
_given = os.environ.get(_GUARD)
if _given == _NOTHING:  # of a process that started this one
    _given = None
os.environ[_GUARD] = _NOTHING
_network = False
_root: Path | None = None


@contextlib.contextmanager
def allowing(network: bool, root: str | None = None) -> Iterator[None]:
    """Let what runs in the block use the network, or not, and open rasters anywhere, or only in a directory."""
    before = _network, _root
    _set(network, None if root is None else Path(os.path.realpath(root)))
    try:
        yield
    finally:
        _set(*before)


def _set(network: bool, root: Path | None) -> None:
    global _network, _root
    _network, _root = network, root
    if not network:
        os.environ[_GUARD] = _NOTHING
    elif _given is None:
        os.environ.pop(_GUARD, None)
    else:
        os.environ[_GUARD] = _given


def check_network(source: str) -> None:
    """Raise RasterError if this run may not use the network, which a source needs."""
    if not _network:
        raise RasterError("is on the network, which this run may not use", source, remedy="allow-network")


def is_confined() -> bool:
    """Return whether this run opens rasters only in a directory."""
    return _root is not None


def check_inside(path: str) -> None:
    """Raise RasterError if this run is confined to a directory, and a path leads out of it, links followed."""
    if _root is not None and not Path(os.path.realpath(path)).is_relative_to(_root):
        raise RasterError(f"is not in {_root}, where all rasters of this run must be", path, remedy="root")
