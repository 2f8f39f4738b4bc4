"""Finding scenes among files and directories, and learning their bands and grid."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from rasterio.enums import ColorInterp

from rsr_cli.core.errors import BandError, RasterError, UsageError
from rsr_cli.core.rasters.footprints import Locator
from rsr_cli.core.rasters.opening import file_and_band, is_all_valid, is_virtual, open_raster
from rsr_cli.core.sensors.base import SENSORS, UNUSED, Sensor, name_bands, parse_datetime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rasterio.io import DatasetReader

log = logging.getLogger("rsr")

Edge = Literal["drop", "pad", "shift"]
Source = str | dict[str, str]

#: File names that a walk through a directory takes for rasters.
RASTER_ENDINGS = (".tif", ".tiff", ".gtif", ".gtiff", ".jp2", ".img", ".vrt", ".png", ".jpg", ".jpeg")
#: Sentinel-2 keeps a product's bands in one directory a resolution.
RESOLUTION_DIRECTORIES = frozenset({"R10m", "R20m", "R60m"})

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class TileSettings:
    """How scenes are found, named and cut.

    Attributes
    ----------
    size_px, stride_px : int
        Height and width of a tile, and the step from one to the next, in pixels of the finest band used.
    edge : str
        What becomes of tiles that reach over the scene's right and lower edge: ``drop`` leaves them out, ``pad``
        keeps them with invalid pixels outside, ``shift`` moves them inside.
    whole : bool
        One tile a scene, of its size.
    min_valid : float or None
        Least share of valid pixels; ``None`` is any pixel at all, 0 measures nothing.
    sensor : str, optional
        A name in `bands.SENSORS`.
    bands : sequence of str, optional
        The names of a multi-band file's bands in order, ``-`` for one not used; the bands to take of single-band files.
    scale, offset : float, optional
        Reflectance x 10000 = DN * scale + offset; else the sensor's, else the file's own.
    datetime : str, optional
        Acquisition time of every scene, RFC 3339; else read from the product's name where the sensor has such names.
    per_band : bool
        A directory of single-band files is one scene.
    labels_from_parent : bool
        The name of the directory that holds the scene is its label.
    dataset, split : str, optional
        A name in `archives.ARCHIVES`, and ``train``, ``val`` or ``test``.
    classes : int, optional
        Into how many classes the data set's labels fall.
    seed : int
        Of the draw of splits where a data set has none.
    id_prefix : str
        Put before every id.
    chips : str, optional
        Directory to write each tile to as a GeoTIFF.
    overwrite : bool
        Replace chips that are there.
    """

    size_px: int = 224
    stride_px: int = 224
    edge: Edge = "drop"
    whole: bool = False
    min_valid: float | None = None
    sensor: str | None = None
    bands: Sequence[str] | None = None
    scale: float | None = None
    offset: float | None = None
    datetime: str | None = None
    per_band: bool = False
    labels_from_parent: bool = False
    dataset: str | None = None
    split: str | None = None
    classes: int | None = None
    seed: int = 0
    id_prefix: str = ""
    chips: str | None = None
    overwrite: bool = False

    @property
    def profile(self) -> Sensor | None:
        """The sensor, where one is named."""
        return SENSORS[self.sensor] if self.sensor else None


@dataclass(frozen=True)
class Scene:
    """One image: a multi-band file, or single-band files of one place and time.

    Attributes
    ----------
    name : str
        What its tiles' ids begin with.
    source : str or dict of str to str
        Path of the file, or STAC common name -> path.
    bands : tuple of str
        Names in order; ``-`` for a band of the file that is not used.
    width, height : int
        In pixels of the finest band used.
    locate : Locator
        From pixels to lon/lat.
    geometry : dict or None
        Where it is, where pixels cannot be located.
    properties : dict
        What all its tiles share.
    maskable : bool
        Pixels may be invalid.
    """

    name: str
    source: Source
    bands: tuple[str, ...]
    width: int
    height: int
    locate: Locator
    geometry: dict[str, Any] | None
    properties: dict[str, Any]
    maskable: bool

    @property
    def place(self) -> str:
        """The path to name in a message."""
        return place_of(self.source)


def place_of(source: Source) -> str:
    """Name a source in a message: its path, or the directory of its single-band files."""
    return source if isinstance(source, str) else str(Path(file_and_band(next(iter(source.values())))[0]).parent)


@dataclass(frozen=True)
class Found:
    """A scene's files, before they are opened.

    Attributes
    ----------
    name : str
        What its tiles' ids begin with.
    source : str, list of str, or dict of str to str
        A file, single-band files whose names tell their bands, or STAC common name -> file of one band.
    parent : str
        Name of the directory above.
    properties : dict
        What its records say beside what the files tell.
    geometry : dict or None
        Where it is, for files that do not tell.
    """

    name: str
    source: str | list[str] | dict[str, str]
    parent: str
    properties: dict[str, Any] = field(default_factory=dict)
    geometry: dict[str, Any] | None = None

    @property
    def paths(self) -> list[str]:
        """The files."""
        if isinstance(self.source, dict):
            return list(self.source.values())
        return [self.source] if isinstance(self.source, str) else self.source

    @property
    def path(self) -> str:
        """The file, or the first of the files."""
        return self.paths[0]


def find_scenes(paths: Iterable[str], settings: TileSettings) -> Iterator[Found]:
    """Find the scenes among files and directories, in the order given, directories walked in sorted order.

    Parameters
    ----------
    paths : iterable of str
        Rasters, directories of rasters, with ``per_band`` directories of single-band files.
    settings : TileSettings
        Of which ``per_band`` and ``sensor`` are used.

    Yields
    ------
    Found
        Names are the path below the given directory, or the file's name, without its ending.

    Raises
    ------
    RasterError
        Nothing is there, or a directory holds no scene.
    """
    for path in paths:
        if settings.per_band:
            yield from _find_per_band(path, settings.profile)
        elif Path(path).is_dir():
            found = False
            for directory, files in _walk(path):
                for file in files:
                    if file.lower().endswith(RASTER_ENDINGS):
                        full = os.path.join(directory, file)  # noqa: PTH118  as given, "./" and all
                        name = Path(full).relative_to(path).with_suffix("").as_posix()
                        yield Found(name, full, _parent(full))
                        found = True
            if not found:
                raise RasterError(f"holds no raster ({' '.join(RASTER_ENDINGS)})", path)
        else:
            yield Found(_stem(path), path, _parent(path))


def _stem(path: str) -> str:
    """Name a file by its last part without the ending; a subdataset (netCDF:"x.nc":ndvi) by file and part."""
    if _URL.match(path):
        return Path(urlsplit(path).path).stem
    if ":" in path and not Path(path).exists():
        return "_".join(Path(part.strip('"')).stem for part in path.split(":")[1:])
    return Path(path).stem


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  takes "..", but follows no link


def _parent(path: str) -> str:
    return _absolute(path).parent.name


def _walk(path: str) -> Iterator[tuple[str, list[str]]]:
    """Walk through a directory and the directories that it links to, each once."""
    seen = set()
    for directory, below, files in os.walk(path, followlinks=True):
        here = os.stat(directory)  # noqa: PTH116
        if (here.st_dev, here.st_ino) in seen:
            below.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        below.sort()
        yield directory, sorted(files)


def _find_per_band(path: str, sensor: Sensor | None) -> Iterator[Found]:
    if sensor is None:
        raise UsageError("--per-band needs --sensor, which says how its single-band files are named")
    if not Path(path).is_dir():
        raise RasterError("is not a directory; --per-band takes directories that hold one file a band", path)
    found = False
    for directory, files in _walk(path):
        here = Path(directory)
        if here.name in RESOLUTION_DIRECTORIES and directory != path:
            continue
        below = [here / name / file for name in sorted(RESOLUTION_DIRECTORIES) for file in _files(here / name)]
        names = [*(os.path.join(directory, file) for file in files), *map(str, below)]  # noqa: PTH118
        singles = [name for name in names if sensor.band_of_file(Path(name).name)]
        if singles:
            found = True
            relative = here.relative_to(path).as_posix()
            name = _absolute(path).name if relative == "." else relative
            yield Found(name, singles, _parent(directory))
    if not found:
        raise RasterError(f"holds no single-band files named as {sensor.name}'s are", path)


def _files(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


def open_scene(found: Found, settings: TileSettings) -> Scene:
    """Open a scene, name its bands and learn its grid.

    Raises
    ------
    RasterError
        It cannot be read, or its name is not UTF-8.
    BandError
        It is another sensor's, or its bands cannot be told apart, are missing, or do not lie on one grid.
    """
    sensor = settings.profile
    nodata = sensor.nodata if sensor else None
    try:
        (settings.id_prefix + found.name + "".join(found.paths)).encode()
    except UnicodeEncodeError:
        raise RasterError("has a name that is not UTF-8, which JSON cannot hold; rename it", found.path) from None
    if isinstance(found.source, list):
        assert sensor is not None
        source: Source = _choose_files(found.source, sensor, settings.bands)
    else:
        source = found.source
    paths = [source] if isinstance(source, str) else [file_and_band(path)[0] for path in source.values()]
    opened: dict[str, DatasetReader] = {}
    try:
        for path in dict.fromkeys(paths):  # bands may share a file
            opened[path] = open_raster(path, nodata)
        try:
            return _scene(found, source, [opened[path] for path in paths], settings)
        except BandError as error:
            error.place = error.place or place_of(source)
            raise
    finally:
        for dataset in opened.values():
            dataset.close()


def _choose_files(paths: Sequence[str], sensor: Sensor, wanted: Sequence[str] | None) -> dict[str, str]:
    """Choose one file a band, the finest that is there, in the sensor's order or the order wanted."""
    by_band: dict[str, tuple[int, str]] = {}
    for path in paths:
        band, metres = sensor.band_of_file(Path(path).name) or ("", 0)
        if band in by_band and by_band[band][0] == metres:
            raise BandError(f"{band} is in two files, {by_band[band][1]} and {path}", str(Path(path).parent))
        by_band[band] = min(by_band.get(band, (metres, path)), (metres, path))
    names = [name for name in wanted or sensor.bands.values() if name != UNUSED]
    missing = [name for name in wanted or () if name != UNUSED and name not in by_band]
    if missing:
        raise BandError(f"band {', '.join(missing)} is missing (has {' '.join(by_band)})", str(Path(paths[0]).parent))
    return {name: by_band[name][1] for name in names if name in by_band}


def _scene(found: Found, source: Source, datasets: Sequence[DatasetReader], settings: TileSettings) -> Scene:
    sensor = settings.profile
    first = datasets[0]
    metadata = {} if isinstance(source, str) else _landsat_metadata(found.path)
    if sensor:
        sensor.check_product(str(_absolute(found.path)), metadata, scaled=settings.scale is not None)
    if isinstance(source, str):
        finest = first
        color = [ColorInterp.alpha == interpretation for interpretation in first.colorinterp]
        descriptions = [text for text, alpha in zip(first.descriptions, color, strict=True) if not alpha]
        if len(descriptions) == 1 and sensor and sensor.band_of_file(Path(source).name) and not settings.bands:
            raise BandError(f"holds one band of {sensor.name}; pass --per-band with the directory of all of them")
        names = name_bands(len(descriptions), descriptions, sensor, settings.bands)
    else:
        finest = min(datasets, key=lambda dataset: abs(dataset.transform.determinant))
        names = tuple(source)
        for name, dataset in zip(names, datasets, strict=True):
            band = file_and_band(source[name])[1]
            if (band or 1) > dataset.count or (band is None and dataset.count != 1):
                expected = "where one is expected" if band is None else f"and no band {band}"
                raise BandError(f"{name} has {dataset.count} bands in its file, {expected}", source[name])
            if not _same_area(dataset, finest):
                raise BandError(
                    f"{name} has another coordinate system, or covers another area, than the finest band"
                    f" ({source[names[datasets.index(finest)]]})",
                    source[name],
                )
    scale, offset = _scale(datasets, found, settings)
    properties: dict[str, Any] = {}
    when = settings.datetime or (sensor.datetime_of(found.name, Path(found.path).name) if sensor else None)
    if not when and {"DATE_ACQUIRED", "SCENE_CENTER_TIME"} <= metadata.keys():
        when = parse_datetime(f"{metadata['DATE_ACQUIRED']}T{metadata['SCENE_CENTER_TIME']}")
    if when:
        properties["datetime"] = when
    if settings.labels_from_parent:
        properties["labels"] = [found.parent]
    properties |= found.properties
    properties |= {"source": source, "bands": list(names), "scale": scale, "offset": offset}
    if sensor and any(map(is_virtual, datasets)):
        properties["nodata"] = sensor.nodata
    return Scene(
        name=settings.id_prefix + found.name,
        source=source,
        bands=names,
        width=finest.width,
        height=finest.height,
        locate=Locator(finest),
        geometry=found.geometry,
        properties=properties,
        maskable=any(_maskable(dataset) for dataset in datasets),
    )


def _landsat_metadata(path: str) -> dict[str, str]:
    """Read the MTL file beside a band's file, of a key that recurs the first; empty where there is not one file."""
    files = list(Path(path).parent.glob("*_MTL.txt"))
    if len(files) != 1:
        return {}
    pairs = re.findall(r'^\s*(\w+) = "?([^"\n]*?)"?\s*$', files[0].read_text(errors="replace"), re.MULTILINE)
    return dict(reversed(pairs))


def _maskable(dataset: DatasetReader) -> bool:
    return not is_all_valid(dataset) or any(np.dtype(kind).kind == "f" for kind in dataset.dtypes)


def _same_area(dataset: DatasetReader, finest: DatasetReader) -> bool:
    """Tell whether a band covers the finest band's extent, to half of its own pixel."""
    corners = [
        ~dataset.transform @ (finest.transform @ (right * finest.width, down * finest.height))
        for right, down in ((0, 0), (1, 1))
    ]
    apart = np.subtract(corners, [(0, 0), (dataset.width, dataset.height)])
    return bool(dataset.crs == finest.crs and np.abs(apart).max() <= 0.5)


def _scale(datasets: Sequence[DatasetReader], found: Found, settings: TileSettings) -> tuple[float, float]:
    """Say how DN become reflectance x 10000: as the user says, else the sensor, else the file itself."""
    sensor = settings.profile
    kinds = {kind for dataset in datasets for kind in dataset.dtypes}
    declared = {pair for dataset in datasets for pair in zip(dataset.scales, dataset.offsets, strict=True)}
    if settings.scale is not None:
        own = sensor and sensor.offset_of(str(_absolute(found.path)))
        if own and settings.offset is None:
            raise UsageError(f"--scale replaces that of {settings.sensor}, whose offset is {own:g}; pass --offset too")
        return settings.scale, settings.offset or 0.0
    if sensor:
        if not kinds <= set(sensor.dtypes):
            raise BandError(
                f"holds {' '.join(sorted(kinds))} numbers, and {sensor.name} has {' or '.join(sensor.dtypes)};"
                " pass --scale and --offset: reflectance x 10000 = DN * scale + offset"
            )
        scale, offset = sensor.scale, sensor.offset_of(str(_absolute(found.path)))
    elif len(declared) > 1:
        raise BandError("its bands declare different scales and offsets; pass --scale and --offset")
    else:
        scale, offset = declared.pop()
        if (scale, offset) != (1.0, 0.0):
            scale, offset = scale * 10000, offset * 10000
        elif not kinds <= {"uint16", "int16"}:
            log.warning("%s holds %s numbers, taken as reflectance x 10000; see --scale", found.name, min(kinds))
    return scale, offset if settings.offset is None else settings.offset
