"""Whether this run may use the network to read imagery.

The user decides it once per run. It holds for the process and all its threads, as GDAL's settings do, one of which is
part of it.
"""

from __future__ import annotations

import contextlib
import os
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
_allowed = False


@contextlib.contextmanager
def allowing(allow: bool) -> Iterator[None]:
    """Let what runs in the block use the network, or not."""
    global _allowed
    before = _allowed
    _set(allow)
    try:
        yield
    finally:
        _set(before)


def _set(allow: bool) -> None:
    global _allowed
    _allowed = allow
    if not allow:
        os.environ[_GUARD] = _NOTHING
    elif _given is None:
        os.environ.pop(_GUARD, None)
    else:
        os.environ[_GUARD] = _given


def check_allowed(source: str) -> None:
    """Raise RasterError if this run may not use the network, which a source needs."""
    if not _allowed:
        raise RasterError("is on the network, which this run may not use", source, remedy="allow-network")
