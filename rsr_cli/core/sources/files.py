"""Rasters by path, and directories of them."""

from __future__ import annotations

import glob
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rsr_cli.core.errors import RasterError, RecordError, Skips
from rsr_cli.core.sensors.base import RASTER_ENDINGS, has_raster_ending
from rsr_cli.core.sources.base import Found, file_and_band

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rsr_cli.core.sensors.base import Sensor
    from rsr_cli.core.sources.base import Source

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Rasters:
    """Finds multi-band files: the one at a path, or all below a directory.

    Attributes
    ----------
    sensor : Sensor, optional
        States which files of a directory are scenes.
    """

    sensor: Sensor | None = None

    def find(self, path: str, skips: Skips) -> Iterator[Found]:  # noqa: ARG002  as all sources
        """Find the rasters at a path, sorted; see `Source.find`.

        A scene's name is its path below the given directory, or the file's name, without the ending.
        """
        if not Path(path).is_dir():
            yield Found(_stem(path), path, parent_name(path))
            return
        found = False
        is_scene = self.sensor.is_scene if self.sensor else has_raster_ending
        for directory, files in walk(path):
            for file in files:
                if is_scene(file):
                    full = os.path.join(directory, file)  # noqa: PTH118  as given, "./" and all
                    name = Path(full).relative_to(path).with_suffix("").as_posix()
                    yield Found(name, full, parent_name(full))
                    found = True
        if not found:
            of = f" of {self.sensor.name}" if self.sensor and self.sensor.space else ""
            endings = " ".join(RASTER_ENDINGS)
            raise RasterError(f"contains no raster{of or f' ({endings})'}", path)


def beside(path: str, pattern: str) -> list[str]:
    """Return the files that a pattern names, relative to the directory of a scene's file, sorted.

    Parameters
    ----------
    path : str
        The scene's file, or one of its files.
    pattern : str
        As the shell's, with ``{stem}`` for the file's name without its ending.
    """
    return sorted(os.path.normpath(name) for name in glob.glob(expanded(path, pattern, glob.escape)))  # noqa: PTH207


def expanded(path: str, pattern: str, spelled: Callable[[str], str] = str) -> str:
    """Return the path that a pattern stands for, see `beside`; ``spelled`` spells what is put into the pattern."""
    file = Path(file_and_band(path)[0])
    return os.path.join(spelled(str(file.parent)), pattern.replace("{stem}", spelled(file.stem)))  # noqa: PTH118


def without_safe(name: str) -> str:
    """Return a name, or the names in a path, without the ending of Sentinel's products: ``.SAFE``."""
    return re.sub(r"\.SAFE(?=/|$)", "", name, flags=re.IGNORECASE)


class Listed:
    """Scenes at the paths of a list, each with a name of its own: directories are added to those that are equal.

    A name depends on which scenes of the list have the same, and not on their order.

    Parameters
    ----------
    source : Source
        Finds the scenes at each path.
    paths : iterable of str
        The list, which is searched at once.
    """

    def __init__(self, source: Source, paths: Iterable[str]) -> None:
        self._source = source
        directories: dict[str, set[Path]] = {}
        for path in paths:
            with suppress(RecordError):  # the search that counts will report it
                for found in source.find(path, _Unreported()):
                    directories.setdefault(found.name, set()).add(_directory(found))
        self._roots = {name: os.path.commonpath(among) for name, among in directories.items() if len(among) > 1}

    def find(self, path: str, skips: Skips) -> Iterator[Found]:
        """Find the scenes at a path of the list; see `Source.find`."""
        for found in self._source.find(path, skips):
            if found.name not in self._roots:
                yield found
                continue
            own = Path(found.name).name
            parts = tuple(map(without_safe, _directory(found).relative_to(self._roots[found.name]).parts))
            parts = parts[: parts.index(own)] if own in parts else parts
            yield replace(found, name="/".join((*parts, own)))


class _Unreported(Skips):
    """Ignores scenes that cannot be used."""

    def __call__(self, error: RecordError) -> None:
        """Ignore the error."""


def _directory(found: Found) -> Path:
    """Return the directory of a scene's file, or that of its single-band files."""
    place = absolute(found.place)
    return place.parent if isinstance(found.source, str) else place


def _stem(path: str) -> str:
    """Return a file's last part without the ending; of a subdataset (netCDF:"x.nc":ndvi) the file and the part."""
    if _URL.match(path):
        return Path(urlsplit(path).path).stem
    if ":" in path and not Path(path).exists():
        return "_".join(Path(part.strip('"')).stem for part in path.split(":")[1:])
    return Path(path).stem


def absolute(path: str) -> Path:
    """Return a path from the root, without ``..``; links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100  resolve() follows links


def parent_name(path: str) -> str:
    """Return the name of the directory above a path."""
    return absolute(path).parent.name


def walk(path: str) -> Iterator[tuple[str, list[str]]]:
    """Walk through a directory and the directories it links to, each once, in sorted order.

    Hidden files and directories are left out: what notebooks, desktops and archives put beside data.

    Yields
    ------
    tuple of str and list of str
        A directory, and the names of its files.
    """
    seen = set()
    for directory, below, files in os.walk(path, followlinks=True):
        here = os.stat(directory)  # noqa: PTH116
        if (here.st_dev, here.st_ino) in seen:
            below.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        below[:] = visible(below)
        yield directory, visible(files)


def visible(names: Iterable[str]) -> list[str]:
    """Return the names of entries of a directory that are not hidden, sorted."""
    return sorted(name for name in names if not name.startswith(".") and name != "__MACOSX")
