"""Products with one file per band, named as the sensor's products are: Sentinel-2 (SAFE), HLS, Landsat."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.errors import BandError, RasterError
from rsr_cli.core.sensors.base import UNUSED, missing_bands
from rsr_cli.core.sources.base import Found
from rsr_cli.core.sources.files import absolute, parent_name, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.sensors.base import Sensor

#: Sentinel-2 keeps a product's bands in one directory per resolution.
RESOLUTION_DIRECTORIES = frozenset({"R10m", "R20m", "R60m"})


@dataclass(frozen=True)
class Products:
    """Finds directories of single-band files; each is one scene.

    Attributes
    ----------
    sensor : Sensor
        The sensor whose names the files have.
    bands : sequence of str or None
        STAC common names of the bands to take, in order; None is all bands that are there, in the sensor's order.
    """

    sensor: Sensor
    bands: Sequence[str] | None = None

    def find(self, path: str, skips: Skips) -> Iterator[Found]:
        """Find the products at a directory and below, sorted; see `Source.find`.

        A scene's name is its path below the given directory, or that directory's own name.
        """
        if not Path(path).is_dir():
            raise RasterError("is not a directory of single-band files", path)
        found = False
        for directory, files in walk(path):
            here = Path(directory)
            if here.name in RESOLUTION_DIRECTORIES and directory != path:
                continue
            below = [here / name / file for name in sorted(RESOLUTION_DIRECTORIES) for file in _files(here / name)]
            names = [*(os.path.join(directory, file) for file in files), *map(str, below)]  # noqa: PTH118
            singles = [name for name in names if self.sensor.band_of_file(Path(name).name)]
            if not singles:
                continue
            found = True
            relative = here.relative_to(path).as_posix()
            name = absolute(path).name if relative == "." else relative
            try:
                source = self._choose(singles)
            except BandError as error:
                error.place = directory
                skips(error)
                continue
            yield Found(name, source, parent_name(directory))
        if not found:
            raise RasterError(f"contains no single-band files named as {self.sensor.name}'s are", path)

    def _choose(self, paths: Sequence[str]) -> dict[str, str]:
        """Choose one file per band: the finest one."""
        by_band: dict[str, tuple[int, str]] = {}
        for path in paths:
            band, metres = self.sensor.band_of_file(Path(path).name) or ("", 0)
            if band in by_band and by_band[band][0] == metres:
                raise BandError(f"{band} is in two files, {by_band[band][1]} and {path}")
            by_band[band] = min(by_band.get(band, (metres, path)), (metres, path))
        wanted = [name for name in self.bands or () if name != UNUSED]
        absent = [name for name in wanted if name not in by_band]
        if absent:
            raise BandError(missing_bands(absent, by_band))
        return {name: by_band[name][1] for name in wanted or self.sensor.bands.values() if name in by_band}


def _files(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
