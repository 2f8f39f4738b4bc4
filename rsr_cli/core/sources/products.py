"""Products with one file per band, named as the sensor's products are: Sentinel-2 (SAFE), HLS, Landsat."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.errors import BandError, RasterError
from rsr_cli.core.sensors.base import UNUSED, has_raster_ending, missing_bands
from rsr_cli.core.sources.base import Found, file_and_band
from rsr_cli.core.sources.files import absolute, visible, walk, without_safe

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

        A scene's name is its path below the given directory, or that directory's own name. It ends in the product's
        name, if the directory or the files state one.
        """
        if not Path(path).is_dir():
            raise RasterError("is not a directory of single-band files", path)
        found, others = False, None
        for directory, files in walk(path):
            here = Path(directory)
            if here.name in RESOLUTION_DIRECTORIES and directory != path:
                continue
            below = [here / name / file for name in sorted(RESOLUTION_DIRECTORIES) for file in _entries(here / name)]
            names = [*(os.path.join(directory, file) for file in files), *map(str, below)]  # noqa: PTH118
            singles = [name for name in names if self.sensor.band_of_file(Path(name).name)]
            if not singles:
                others = others or next((name for name in names if has_raster_ending(name)), None)
                continue
            found = True
            try:
                source = self._choose(singles)
            except BandError as error:
                error.place = directory
                skips(error)
                continue
            name, parent = self._name(here, Path(path), Path(singles[0]).name)
            yield Found(without_safe(name), source, parent)
        if not found:
            band = next(iter(self.sensor.bands), None)
            example = f", such as NAME_{band}.tif" if band else ""
            has = f" (has {Path(others).name})" if others else ""
            raise RasterError(f"contains no single-band files named as {self.sensor.name}'s are{example}{has}", path)

    def _name(self, here: Path, given: Path, file: str) -> tuple[str, str]:
        """Return the name of a scene, and the name of the directory above it."""
        relative, whole, top = here.relative_to(given), absolute(str(here)), absolute(str(given))
        if "GRANULE" in whole.parts[:-1] and relative.parts:  # the bands are in SAFE/GRANULE/.../IMG_DATA
            inside = whole.parts[::-1].index("GRANULE")
            safe, granule = whole.parents[inside], (whole, *whole.parents)[inside - 1].name
            granules = whole.parents[inside - 1]
            several = sum((granules / entry).is_dir() for entry in _entries(granules)) > 1  # until 2016
            name = safe.relative_to(top).as_posix() if top in safe.parents else safe.name
            if safe.suffix.upper() != ".SAFE" and (linked := safe.resolve()).suffix.upper() == ".SAFE":
                name = linked.name
            return f"{name}/{granule}" if several else name, safe.parent.name
        name = relative.as_posix() if relative.parts else whole.name
        product = self.sensor.product_of_file(file) if self.sensor.names(file) else ""
        if product and product not in whole.name:
            name = f"{name}/{product}" if relative.parts else product
        return name, whole.parent.name

    def _choose(self, paths: Sequence[str]) -> dict[str, str]:
        """Choose one file per band: the finest one. All are of one product."""
        by_band: dict[str, tuple[int, str]] = {}
        for path in paths:
            band, metres = self.sensor.band_of_file(Path(path).name) or ("", 0)
            if band in by_band and by_band[band][0] == metres:
                raise BandError(f"{band} is in two files, {by_band[band][1]} and {path}", remedy="one-product")
            by_band[band] = min(by_band.get(band, (metres, path)), (metres, path))
        first = Path(paths[0]).name
        for name in (Path(path).name for path in paths):
            if self.sensor.product_of_file(name).lower() != self.sensor.product_of_file(first).lower():
                raise BandError(f"contains files of two products, {first} and {name}", remedy="one-product")
        wanted = [name for name in self.bands or () if name != UNUSED]
        absent = [name for name in wanted if name not in by_band]
        if absent:
            raise BandError(missing_bands(absent, by_band))
        names = wanted or dict.fromkeys((*self.sensor.bands.values(), *by_band))
        return {name: by_band[name][1] for name in names if name in by_band}


def other_band(sensor: Sensor, path: str, band: str) -> list[str]:
    """Find the files with a band that is none of the sensor's, such as ``SCL``, of a single-band file's product.

    Returns
    -------
    list of str
        Paths, the finest resolution first.
    """
    directory, file = os.path.split(file_and_band(path)[0])
    here = Path(directory)
    product = sensor.product_of_file(file).lower()
    places = [here]
    if here.name in RESOLUTION_DIRECTORIES:
        places = [here.parent / name for name in sorted(RESOLUTION_DIRECTORIES)]
    found = [
        (metres, str(place / name))
        for place in places
        for name in _entries(place)
        if (metres := sensor.resolution_of_file(name, band)) is not None
        and sensor.product_of_file(name, band).lower() == product
    ]
    return [name for _, name in sorted(found)]


def _entries(directory: Path) -> list[str]:
    return visible(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
