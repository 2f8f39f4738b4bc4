"""Opening a scene: its bands, their scale, its time and its grid."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.enums import ColorInterp

from rsr_cli.core.errors import BandError, RasterError, UsageError, counted
from rsr_cli.core.rasters.footprints import Locator
from rsr_cli.core.rasters.opening import is_all_valid, is_virtual, open_raster
from rsr_cli.core.sensors import identify
from rsr_cli.core.sensors.base import Product, name_bands
from rsr_cli.core.sources.base import file_and_band
from rsr_cli.core.sources.files import absolute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rasterio.io import DatasetReader

    from rsr_cli.core.sensors.base import Sensor
    from rsr_cli.core.sources.base import Found

log = logging.getLogger("rsr")

#: Data types whose numbers are taken as reflectance x 10000 without a warning if nothing states their scale.
_USUAL_DTYPES = frozenset({"uint16", "int16"})


@dataclass(frozen=True)
class SceneSettings:
    """What the user states about the scenes.

    Attributes
    ----------
    sensor : Sensor, optional
        The product the rasters are.
    bands : sequence of str, optional
        STAC common names of a multi-band file's bands in order, ``-`` for a band that is not used.
    scale, offset : float, optional
        Reflectance x 10000 = DN * scale + offset; by default the sensor's, else the file's own.
    datetime : str, optional
        Acquisition time, RFC 3339; by default read from the product's name or metadata.
    labels_from_parent : bool
        The name of the directory above a scene is its label.
    id_prefix : str
        The beginning of every id.
    """

    sensor: Sensor | None = None
    bands: Sequence[str] | None = None
    scale: float | None = None
    offset: float | None = None
    datetime: str | None = None
    labels_from_parent: bool = False
    id_prefix: str = ""


@dataclass(frozen=True)
class Scene:
    """One image: a multi-band file, or single-band files of one place and time.

    Attributes
    ----------
    name : str
        The beginning of its tiles' ids.
    place : str
        The path to name in a message.
    bands : tuple of str
        Names in order; ``-`` for a band of the file that is not used.
    width, height : int
        Size in pixels of the finest band used.
    locate : Locator
        From pixels to lon/lat.
    geometry : dict or None
        GeoJSON geometry, if the source states one, for pixels that cannot be located.
    properties : dict
        Properties of all its tiles.
    maskable : bool
        Pixels may be invalid.
    """

    name: str
    place: str
    bands: tuple[str, ...]
    width: int
    height: int
    locate: Locator
    geometry: dict[str, Any] | None
    properties: dict[str, Any]
    maskable: bool


def open_scene(found: Found, settings: SceneSettings) -> Scene:
    """Open a scene, name its bands and read its grid.

    Raises
    ------
    RasterError
        A file cannot be read, or a name is not UTF-8.
    BandError
        The scene is another sensor's, or its bands cannot be told apart, are missing, or are not on one grid.
    """
    try:
        (settings.id_prefix + found.name + "".join(found.paths)).encode()
    except UnicodeEncodeError:
        raise RasterError("has a name that is not UTF-8, which JSON cannot contain; rename it", found.path) from None
    nodata = settings.sensor.nodata if settings.sensor else None
    paths = [found.source] if isinstance(found.source, str) else [file_and_band(path)[0] for path in found.paths]
    opened: dict[str, DatasetReader] = {}
    try:
        for path in dict.fromkeys(paths):  # bands may share a file
            opened[path] = open_raster(path, nodata)
        try:
            return _scene(found, [opened[path] for path in paths], settings)
        except BandError as error:
            error.place = error.place or found.place
            raise
    finally:
        for dataset in opened.values():
            dataset.close()


def _scene(found: Found, datasets: Sequence[DatasetReader], settings: SceneSettings) -> Scene:
    """Describe a scene whose files are open; ``datasets`` has one per file, or one per band of single-band files."""
    sensor = settings.sensor
    product = Product(str(absolute(found.path)), found.name, per_band=isinstance(found.source, dict))
    if sensor:
        sensor.check_stated(identify(product))
        if settings.scale is None:
            sensor.check_level(product)
    if isinstance(found.source, str):
        finest = datasets[0]
        names = _bands_of_file(found.source, finest, settings)
    else:
        finest = min(datasets, key=lambda dataset: abs(dataset.transform.determinant))
        names = _bands_of_files(found.source, datasets, finest)
    scale, offset = (found.scale, 0.0) if found.scale is not None else _scale(datasets, product, settings)
    properties: dict[str, Any] = {}
    when = settings.datetime or (sensor.datetime_of(product) if sensor else None)
    if when:
        properties["datetime"] = when
    if settings.labels_from_parent:
        properties["labels"] = [found.parent]
    properties |= found.properties
    properties |= {"source": found.source, "bands": list(names), "scale": scale, "offset": offset}
    if sensor and any(map(is_virtual, datasets)):
        properties["nodata"] = sensor.nodata
    return Scene(
        name=settings.id_prefix + found.name,
        place=found.place,
        bands=names,
        width=finest.width,
        height=finest.height,
        locate=Locator(finest),
        geometry=found.geometry,
        properties=properties,
        maskable=any(map(_is_maskable, datasets)),
    )


def _bands_of_file(path: str, dataset: DatasetReader, settings: SceneSettings) -> tuple[str, ...]:
    """Name the bands of a multi-band file, without alpha."""
    sensor = settings.sensor
    descriptions = [
        text for text, kind in zip(dataset.descriptions, dataset.colorinterp, strict=True) if kind != ColorInterp.alpha
    ]
    if len(descriptions) == 1 and sensor and sensor.band_of_file(Path(path).name) and not settings.bands:
        raise BandError(f"is a single band of {sensor.name}", remedy="per-band")
    return name_bands(len(descriptions), descriptions, sensor, settings.bands)


def _bands_of_files(
    source: dict[str, str], datasets: Sequence[DatasetReader], finest: DatasetReader
) -> tuple[str, ...]:
    """Check that single-band files fit together, and return the names of their bands."""
    names = tuple(source)
    for name, dataset in zip(names, datasets, strict=True):
        band = file_and_band(source[name])[1]
        if (band or 1) > dataset.count or (band is None and dataset.count != 1):
            expected = "where one is expected" if band is None else f"and no band {band}"
            raise BandError(f"{name} has {counted(dataset.count, 'band')} in its file, {expected}", source[name])
        if not _is_same_area(dataset, finest):
            raise BandError(
                f"{name} has another coordinate system, or covers another area, than the finest band"
                f" ({source[names[datasets.index(finest)]]})",
                source[name],
            )
    return names


def _is_same_area(dataset: DatasetReader, finest: DatasetReader) -> bool:
    """Return whether a band covers the finest band's extent, to half of its own pixel."""
    corners = [
        ~dataset.transform @ (finest.transform @ (right * finest.width, down * finest.height))
        for right, down in ((0, 0), (1, 1))
    ]
    apart = np.subtract(corners, [(0, 0), (dataset.width, dataset.height)])
    return bool(dataset.crs == finest.crs and np.abs(apart).max() <= 0.5)


def _is_maskable(dataset: DatasetReader) -> bool:
    return not is_all_valid(dataset) or any(np.dtype(kind).kind == "f" for kind in dataset.dtypes)


def _scale(datasets: Sequence[DatasetReader], product: Product, settings: SceneSettings) -> tuple[float, float]:
    """Return the scale and offset from DN to reflectance x 10000: the user's, else the sensor's, else the files'."""
    sensor = settings.sensor
    if settings.scale is not None:
        own = sensor.offset_of(product) if sensor else 0.0
        if sensor and own and settings.offset is None:
            raise UsageError(f"the scale replaces that of {sensor.name}, whose offset is {own:g}", remedy="offset")
        return settings.scale, settings.offset or 0.0
    kinds = {kind for dataset in datasets for kind in dataset.dtypes}
    if sensor:
        if not kinds <= set(sensor.dtypes):
            expected = " or ".join(sensor.dtypes)
            raise BandError(f"has {' '.join(sorted(kinds))} numbers, but {sensor.name} has {expected}", remedy="scale")
        scale, offset = sensor.scale, sensor.offset_of(product)
    else:
        scale, offset = _declared_scale(datasets)
        if (scale, offset) == (1.0, 0.0) and not kinds <= _USUAL_DTYPES:
            log.warning("%s has %s numbers; taking them as reflectance x 10000", product.name, min(kinds))
    return scale, offset if settings.offset is None else settings.offset


def _declared_scale(datasets: Sequence[DatasetReader]) -> tuple[float, float]:
    """Return the scale and offset that files declare for all their bands, times 10000; 1 and 0 if they declare none."""
    declared = {pair for dataset in datasets for pair in zip(dataset.scales, dataset.offsets, strict=True)}
    if len(declared) > 1:
        raise BandError("its bands declare different scales and offsets", remedy="scale")
    scale, offset = declared.pop()
    return (1.0, 0.0) if (scale, offset) == (1.0, 0.0) else (scale * 10000, offset * 10000)
