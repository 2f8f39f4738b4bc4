"""Rasters: finding scenes, cutting them into windows, footprints, reading pixels. The only importer of rasterio."""

from __future__ import annotations

import copy
import logging
import math
import os
import re
import threading
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.transform import GCPTransformer, RPCTransformer
from rasterio.warp import transform as transform_points
from rasterio.windows import Window

from rsr_cli.core.bands import SENSORS, UNUSED, Sensor, name_bands
from rsr_cli.core.errors import BandError, OutputError, RasterError, RecordError, Skips, UsageError
from rsr_cli.core.streams import refuse_existing, temporary_beside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader, DatasetWriter

    from rsr_cli.core.streams import Record

log = logging.getLogger("rsr")
logging.getLogger("rasterio").addHandler(logging.NullHandler())  # GDAL's messages come back as our errors
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
warnings.filterwarnings("ignore", category=NodataShadowWarning)  # `_read` looks at both

Edge = Literal["drop", "pad", "shift"]
Source = str | dict[str, str]

#: File names that a walk through a directory takes for rasters.
RASTER_ENDINGS = (".tif", ".tiff", ".gtif", ".gtiff", ".jp2", ".img", ".vrt", ".png", ".jpg", ".jpeg")
#: Sentinel-2 keeps a product's bands in one directory a resolution.
RESOLUTION_DIRECTORIES = frozenset({"R10m", "R20m", "R60m"})

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

DEGREE_DIGITS = 7  # about a centimetre
# An edge of an outline, where straight pixel edges are not straight in lon/lat, is cut into so many pieces, or more so
# that none is longer than so many pixels.
EDGE_SEGMENTS = 16
SEGMENT_PX = 256
OPEN_DATASETS = 64


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
    properties: dict[str, Any]
    maskable: bool

    @property
    def place(self) -> str:
        """The path to name in a message."""
        return place_of(self.source)


def place_of(source: Source) -> str:
    """Name a source in a message: its path, or the directory of its single-band files."""
    return source if isinstance(source, str) else str(Path(next(iter(source.values()))).parent)


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Turn GDAL's errors into ours."""
    try:
        yield
    except (RasterioError, OSError, rasterio.errors.CRSError) as error:
        text = str(error.__cause__ or error) or type(error).__name__
        raise RasterError(f"cannot be read: {text.removeprefix(f'{place}: ')}", place) from None


def open_raster(path: str, nodata: float | None = None) -> DatasetReader:
    """Open a raster for reading.

    Parameters
    ----------
    path : str
        A path or URL that GDAL knows.
    nodata : float, optional
        The value of invalid pixels where the file declares none, has no mask and no alpha. It becomes the dataset's
        own, so that resampling keeps it out of its neighbours.

    Raises
    ------
    RasterError
        It cannot be opened, or holds no raster band.
    """
    if ":" not in path and not path.startswith("/vsi") and not Path(path).exists():
        raise RasterError("no such file", path)
    with _explained(path):
        dataset = rasterio.open(path)
        if nodata is not None and dataset.count and _is_all_valid(dataset):
            with dataset:
                dataset = _with_nodata(dataset, nodata)
    if not dataset.count:
        inside = dataset.subdatasets
        dataset.close()
        hint = f"name one of its {len(inside)} subdatasets, such as {inside[0]}" if inside else "it holds no image"
        raise RasterError(f"has no raster band; {hint}", path)
    if any(np.dtype(kind).kind == "c" for kind in dataset.dtypes):
        dataset.close()
        raise RasterError("holds complex numbers, which have no reflectance", path)
    return dataset


def _is_all_valid(dataset: DatasetReader) -> bool:
    return all(flags == [MaskFlags.all_valid] for flags in dataset.mask_flag_enums)


def _with_nodata(dataset: DatasetReader, nodata: float) -> DatasetReader:
    """Open a dataset once more, as a virtual one that declares ``nodata``."""
    with rasterio.MemoryFile(ext=".vrt") as memory:
        rasterio.shutil.copy(dataset, memory.name, driver="VRT")
        xml = memory.read().decode()
    return rasterio.open(re.sub(r"(<VRTRasterBand[^>]*>)", rf"\1<NoDataValue>{nodata:g}</NoDataValue>", xml))


def _is_virtual(dataset: DatasetReader) -> bool:
    """Tell whether `_with_nodata` made it."""
    return dataset.name.startswith("<VRTDataset")


# Finding scenes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A scene's files, before they are opened: its name, and a path or the paths of single-band files."""

    name: str
    source: str | list[str]
    parent: str

    @property
    def path(self) -> str:
        """The file, or the first of the files."""
        return self.source if isinstance(self.source, str) else self.source[0]


def find_scenes(paths: Iterable[str], settings: TileSettings) -> Iterator[_Found]:
    """Find the scenes among files and directories, in the order given, directories walked in sorted order.

    Parameters
    ----------
    paths : iterable of str
        Rasters, directories of rasters, with ``per_band`` directories of single-band files.
    settings : TileSettings
        Of which ``per_band`` and ``sensor`` are used.

    Yields
    ------
    _Found
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
                        yield _Found(name, full, _parent(full))
                        found = True
            if not found:
                raise RasterError(f"holds no raster ({' '.join(RASTER_ENDINGS)})", path)
        else:
            yield _Found(_stem(path), path, _parent(path))


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


def _find_per_band(path: str, sensor: Sensor | None) -> Iterator[_Found]:
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
            yield _Found(name, singles, _parent(directory))
    if not found:
        raise RasterError(f"holds no single-band files named as {sensor.name}'s are", path)


def _files(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


def open_scene(found: _Found, settings: TileSettings) -> Scene:
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
        (settings.id_prefix + found.name + "".join(found.source)).encode()
    except UnicodeEncodeError:
        raise RasterError("has a name that is not UTF-8, which JSON cannot hold; rename it", found.path) from None
    if isinstance(found.source, str):
        source: Source = found.source
        paths = [found.source]
    else:
        assert sensor is not None
        source = _choose_files(found.source, sensor, settings.bands)
        paths = list(source.values())
    datasets: list[DatasetReader] = []
    try:
        datasets.extend(open_raster(path, nodata) for path in paths)
        try:
            return _scene(found, source, datasets, settings)
        except BandError as error:
            error.place = error.place or place_of(source)
            raise
    finally:
        for dataset in datasets:
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


def _scene(found: _Found, source: Source, datasets: Sequence[DatasetReader], settings: TileSettings) -> Scene:
    sensor = settings.profile
    first = datasets[0]
    if sensor:
        sensor.check_name(Path(found.path).name, scaled=settings.scale is not None)
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
            if dataset.count != 1:
                raise BandError(f"{name} has {dataset.count} bands in its file, where one is expected", source[name])
            if not _same_area(dataset, finest):
                raise BandError(
                    f"{name} has another coordinate system, or covers another area, than the finest band"
                    f" ({source[names[datasets.index(finest)]]})",
                    source[name],
                )
    scale, offset = _scale(datasets, found, settings)
    properties: dict[str, Any] = {}
    when = settings.datetime or (sensor.datetime_of(found.name, Path(found.path).name) if sensor else None)
    if when:
        properties["datetime"] = when
    if settings.labels_from_parent:
        properties["labels"] = [found.parent]
    properties |= {"source": source, "bands": list(names), "scale": scale, "offset": offset}
    if sensor and any(map(_is_virtual, datasets)):
        properties["nodata"] = sensor.nodata
    return Scene(
        name=settings.id_prefix + found.name,
        source=source,
        bands=names,
        width=finest.width,
        height=finest.height,
        locate=Locator(finest),
        properties=properties,
        maskable=any(_maskable(dataset) for dataset in datasets),
    )


def _maskable(dataset: DatasetReader) -> bool:
    return not _is_all_valid(dataset) or any(np.dtype(kind).kind == "f" for kind in dataset.dtypes)


def _same_area(dataset: DatasetReader, finest: DatasetReader) -> bool:
    """Tell whether a band covers the finest band's extent, to half of its own pixel."""
    corners = [
        ~dataset.transform @ (finest.transform @ (right * finest.width, down * finest.height))
        for right, down in ((0, 0), (1, 1))
    ]
    apart = np.subtract(corners, [(0, 0), (dataset.width, dataset.height)])
    return bool(dataset.crs == finest.crs and np.abs(apart).max() <= 0.5)


def _scale(datasets: Sequence[DatasetReader], found: _Found, settings: TileSettings) -> tuple[float, float]:
    """Say how DN become reflectance x 10000: as the user says, else the sensor, else the file itself."""
    sensor = settings.profile
    kinds = {kind for dataset in datasets for kind in dataset.dtypes}
    declared = {pair for dataset in datasets for pair in zip(dataset.scales, dataset.offsets, strict=True)}
    if settings.scale is not None:
        return settings.scale, settings.offset or 0.0
    if sensor:
        if not kinds <= set(sensor.dtypes):
            raise BandError(
                f"holds {' '.join(sorted(kinds))} numbers, and {sensor.name} has {' or '.join(sensor.dtypes)};"
                " pass --scale and --offset: reflectance x 10000 = DN * scale + offset"
            )
        scale, offset = sensor.scale, sensor.offset
        if sensor.baseline_offset(str(_absolute(found.path))):
            offset = -1000.0
    elif len(declared) > 1:
        raise BandError("its bands declare different scales and offsets; pass --scale and --offset")
    else:
        scale, offset = declared.pop()
        if (scale, offset) != (1.0, 0.0):
            scale, offset = scale * 10000, offset * 10000
        elif not kinds <= {"uint16", "int16"}:
            log.warning("%s holds %s numbers, taken as reflectance x 10000; see --scale", found.name, min(kinds))
    return scale, offset if settings.offset is None else settings.offset


# Footprints ----------------------------------------------------------------------------------------------------------


class Locator:
    """From pixels to lon/lat, by a geotransform, ground control points or rational polynomials.

    Attributes
    ----------
    properties : dict
        ``proj:code``, or ``proj:wkt2`` where the CRS has no code.
    transform : Affine or None
        Pixel to CRS, where there is a geotransform.
    """

    def __init__(self, dataset: DatasetReader) -> None:
        self.transform: Affine | None = dataset.transform
        self._crs = dataset.crs
        self._points: list[Any] = []
        self._rpcs = None
        gcps, gcps_crs = dataset.gcps
        if dataset.transform == Affine.identity():  # GDAL's way to say that there is none
            self.transform = None
            if gcps:
                self._points, self._crs = gcps, gcps_crs
            elif dataset.rpcs:
                self._rpcs, self._crs = dataset.rpcs, CRS.from_epsg(4326)
            else:
                self._crs = None
        self.properties = self._describe()

    def _describe(self) -> dict[str, Any]:
        if not self._crs:
            return {}
        authority = self._crs.to_authority(confidence_threshold=100)
        if authority:
            return {"proj:code": ":".join(authority)}
        return {"proj:code": None, "proj:wkt2": self._crs.to_wkt(version="WKT2_2019")}

    def footprints(self, windows: Sequence[tuple[int, int, int, int]]) -> list[dict[str, Any]]:
        """Draw the outlines of windows in lon/lat.

        Parameters
        ----------
        windows : sequence of tuple of int
            (col_off, row_off, width, height) in pixels.

        Returns
        -------
        list of dict
            For each window ``geometry`` and ``bbox`` after RFC 7946, cut at the antimeridian; only a ``geometry``
            of ``None`` where the raster has no usable CRS or the outline leaves the Earth.
        """
        if not self._crs:
            return [{"geometry": None} for _ in windows]
        outlines = self._outlines(np.asarray(windows, dtype=float))
        sizes = np.asarray(windows)[:, 2:]
        found: list[dict[str, Any]] = [{} for _ in windows]
        plain = np.flatnonzero(_is_plain(outlines))
        straight = _is_straight(outlines[plain], sizes[plain])
        for numbers, rings in ((plain[straight], _corners(outlines)), (plain[~straight], outlines)):
            for number, polygon in zip(numbers, _polygons(rings[numbers]), strict=True):
                found[number] = polygon
        for number in np.setdiff1d(np.arange(len(found)), plain):
            found[number] = _special(outlines[number], sizes[number])
        return found

    def _outlines(self, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project outlines, counter-clockwise on a north-up raster: float64 (n, 4 * segments, 2) of lon, lat."""
        segments = max(EDGE_SEGMENTS, -(-int(windows[:, 2:].max()) // SEGMENT_PX))
        step = np.linspace(0, 1, segments, endpoint=False)
        zero, one = np.zeros_like(step), np.ones_like(step)
        right = np.concatenate([zero, step, one, 1 - step])
        down = np.concatenate([step, one, 1 - step, zero])
        columns = windows[:, 0, None] + windows[:, 2, None] * right
        rows = windows[:, 1, None] + windows[:, 3, None] * down
        try:
            xs, ys = self._to_crs(columns.ravel(), rows.ravel())
            lon, lat = transform_points(self._crs, CRS.from_epsg(4326), xs, ys)
        except (RasterioError, rasterio.errors.CRSError, CPLE_BaseError) as error:
            log.info("no footprint: %s", error)
            lon = lat = np.full(columns.size, np.nan)
        return np.stack([np.reshape(lon, columns.shape), np.reshape(lat, columns.shape)], axis=-1)

    def _to_crs(self, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[Any, Any]:
        if self.transform is not None:
            return self.transform @ (columns, rows)
        with rasterio.Env(), self._transformer() as transformer:  # Env keeps GDAL from writing to stderr
            return transformer.xy(rows, columns, offset="ul")

    def _transformer(self) -> Any:
        if self._rpcs is not None:  # at the scene's mean height; at sea level a mountain's picture is a kilometre off
            return RPCTransformer(self._rpcs, RPC_HEIGHT=self._rpcs.height_off)
        try:
            return GCPTransformer(self._points)
        except CPLE_BaseError:  # points in two rows decide no polynomial of second order
            return GCPTransformer(self._points, tps=True)


def _is_plain(outlines: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which outlines (n, points, 2) are finite and away from the antimeridian and the poles: bool (n,)."""
    lon, lat = outlines[..., 0], outlines[..., 1]
    with np.errstate(invalid="ignore"):
        steps = np.abs(np.diff(lon, axis=1, append=lon[:, :1]))
        inside = (steps < 180) & (np.abs(lon) <= 180) & (np.abs(lat) < 90 - 10**-DEGREE_DIGITS)
    return inside.all(axis=1)


def _corners(outlines: NDArray[np.float64]) -> NDArray[np.float64]:
    return outlines[:, :: outlines.shape[1] // 4]


def _is_straight(outlines: NDArray[np.float64], sizes: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Tell which outlines stay within a quarter of a pixel of the straight lines between their corners: bool (n,)."""
    corners = _corners(outlines)
    share = np.linspace(0, 1, outlines.shape[1] // 4, endpoint=False)[:, None]
    edges = np.roll(corners, -1, axis=1) - corners
    straight = corners[:, :, None] + edges[:, :, None] * share
    pixel = np.ptp(corners, axis=1) / sizes.max(axis=1)[:, None]
    apart = np.abs(straight.reshape(outlines.shape) - outlines).max(axis=1)
    return (apart <= pixel / 4 + 1e-12).all(axis=1)


def _polygons(rings: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Write rings (n, points, 2), open and in any direction, as ``geometry`` and ``bbox``."""
    x, y = np.moveaxis(rings - rings[:, :1], -1, 0)
    clockwise = (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1) < 0
    rings = np.where(clockwise[:, None, None], rings[:, ::-1], rings).round(DEGREE_DIGITS)
    boxes = np.concatenate([rings.min(axis=1), rings.max(axis=1)], axis=1).tolist()
    closed = np.concatenate([rings, rings[:, :1]], axis=1).tolist()
    return [
        {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": box}
        for ring, box in zip(closed, boxes, strict=True)
    ]


def _special(outline: NDArray[np.float64], size: NDArray[np.int_]) -> dict[str, Any]:
    """Write an outline (points, 2) that is not plain; size (width, height) in pixels."""
    if not np.isfinite(outline).all():
        return {"geometry": None}
    excess = np.abs(outline[:, 1]).max() - 90
    if excess > np.ptp(outline[:, 1]) / size[1]:  # a pixel whose centre lies on the pole is half outside
        return {"geometry": None}
    points = len(outline)
    outline = _spread_poles(outline.clip((-np.inf, -90), (np.inf, 90)))
    lon = np.unwrap(outline[:, 0], discont=180.001, period=360)
    if abs(lon[-1] - lon[0]) > 180:  # once around the Earth: a pole is inside
        north = outline[:, 1].mean() > 0
        return _close_at_pole(outline if (lon[-1] > lon[0]) == north else outline[::-1])
    lon = lon.round(DEGREE_DIGITS)
    lon -= 360 * np.floor((lon.min() + 180) / 360)
    if np.ptp(lon) >= 360:  # wherever it begins, it is all of them
        lon = (lon - lon.min()) / np.ptp(lon) * 360 - 180
    outline[:, 0] = lon
    rings = outline[None]
    if len(outline) == points and _is_straight(rings, size[None]).all():
        rings = _corners(rings)
    return _cut(rings[0]) if lon.max() > 180 else _polygons(rings)[0]


def _spread_poles(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put a corner at a pole, where any longitude is right, at the longitudes of both its neighbours."""
    at_pole = np.abs(outline[:, 1]) > 90 - 10**-DEGREE_DIGITS
    alone = at_pole & ~np.roll(at_pole, 1) & ~np.roll(at_pole, -1)
    for i in np.flatnonzero(alone)[::-1]:
        before, after = outline[i - 1, 0], outline[(i + 1) % len(outline), 0]
        turn = (round(after - before, DEGREE_DIGITS) + 180) % 360 - 180
        outline[i, 0] = before
        outline = np.insert(outline, i + 1, (before + turn, outline[i, 1]), axis=0)
    return outline


def _cut(ring: NDArray[np.float64]) -> dict[str, Any]:
    """Cut a ring that goes on to the east of the antimeridian."""
    from shapely import Polygon, box, get_parts
    from shapely.affinity import translate

    west = Polygon(ring).intersection(box(-180, -90, 180, 90))
    east = translate(Polygon(ring).intersection(box(180, -90, 540, 90)), -360)
    parts = [part for side in (west, east) for part in get_parts(side) if part.area]
    left, bottom, right, top = ring[:, 0].min(), ring[:, 1].min(), ring[:, 0].max() - 360, ring[:, 1].max()
    return _geometry(parts, (left, bottom, right, top))


def _close_at_pole(outline: NDArray[np.float64]) -> dict[str, Any]:
    """Close an outline around the pole that it encloses, seen from above counter-clockwise."""
    import antimeridian
    from shapely import Polygon, get_parts

    shape = antimeridian.fix_polygon(Polygon(outline), great_circle=False)
    return _geometry(list(get_parts(shape)), shape.bounds)


def _geometry(parts: Sequence[Any], box: Iterable[float]) -> dict[str, Any]:
    rings = [[part.normalize().reverse().exterior.coords] for part in parts]
    rounded = [[[[round(float(v), DEGREE_DIGITS) for v in point] for point in ring] for ring in part] for part in rings]
    kind, coordinates = ("MultiPolygon", rounded) if len(rounded) > 1 else ("Polygon", rounded[0])
    return {
        "geometry": {"type": kind, "coordinates": coordinates},
        "bbox": [round(float(value), DEGREE_DIGITS) for value in box],
    }


# Tiles ---------------------------------------------------------------------------------------------------------------


def offsets(length: int, size: int, stride: int, edge: Edge) -> list[int]:
    """Place windows along one axis of a scene, all in pixels.

    Raises
    ------
    RasterError
        Not one window fits, and ``edge`` does not pad.
    """
    if length < size and edge != "pad":
        raise RasterError(
            f"is {length} pixels in one direction, smaller than a tile of {size}; pass --whole, a smaller --size"
            " or --edge pad"
        )
    starts = list(range(0, length - size + 1, stride))
    if edge == "drop" or (starts and starts[-1] + size == length):
        return starts
    following = starts[-1] + stride if starts else 0
    return [*starts, following if edge == "pad" else length - size] if following < length else starts


class Tiler:
    """Cuts scenes into tiles.

    Parameters
    ----------
    settings : TileSettings
        How.
    skips : Skips
        Asked about scenes and tiles that cannot be used.

    Attributes
    ----------
    dropped : int
        Tiles left out so far for want of valid pixels.
    """

    def __init__(self, settings: TileSettings, skips: Skips) -> None:
        self.settings = settings
        self.skips = skips
        self.dropped = 0
        self._names: set[int] = set()

    def tiles(self, paths: Iterable[str]) -> Iterator[list[Record]]:
        """Cut every scene among files and directories.

        Parameters
        ----------
        paths : iterable of str
            As in `find_scenes`.

        Yields
        ------
        list of dict
            Features of one row of tiles.

        Raises
        ------
        RasterError, BandError
            As in `find_scenes` and `open_scene`.
        """
        for path in paths:
            try:
                for found in find_scenes([path], self.settings):
                    try:
                        self._claim(found)
                        yield from self._cut(open_scene(found, self.settings))
                    except RecordError as error:
                        self.skips(error)
            except RecordError as error:
                self.skips(error)

    def _claim(self, found: _Found) -> None:
        """Raise RasterError where another scene has the name already."""
        name = hash(found.name)  # a set of numbers is small, even for a million scenes
        if name in self._names:
            raise RasterError(
                f"its tiles would have the ids of another scene, {found.name}; name the directory above both, rename"
                " it, or tile it on its own with --id-prefix",
                found.path,
            )
        self._names.add(name)

    def report(self) -> None:
        """Tell how many tiles were left out for want of valid pixels."""
        if self.dropped:
            log.warning("%d tiles without enough valid pixels left out; see --min-valid", self.dropped)

    def _cut(self, scene: Scene) -> Iterator[list[Record]]:
        settings = self.settings
        if settings.whole:
            width, height, columns, rows = scene.width, scene.height, [0], [0]
        else:
            width = height = settings.size_px
            try:
                columns = offsets(scene.width, width, settings.stride_px, settings.edge)
                rows = offsets(scene.height, height, settings.stride_px, settings.edge)
            except RasterError as error:
                error.place = scene.place
                raise
        measured = settings.min_valid != 0 and (scene.maskable or settings.edge == "pad")
        kept = 0
        for row in rows:
            windows = [(column, row, width, height) for column in columns]
            tiles = [
                _tile(scene, window, footprint, whole=settings.whole)
                for window, footprint in zip(windows, scene.locate.footprints(windows), strict=True)
            ]
            if measured:
                tiles = [tile for tile in tiles if self._enough(tile, scene)]
            if settings.chips:
                tiles = [write_chip(tile, settings.chips, overwrite=settings.overwrite) for tile in tiles]
            kept += len(tiles)
            if tiles:
                yield tiles
        if not kept:
            raise RasterError(
                f"not one of its {len(rows) * len(columns)} tiles has enough valid pixels; see --min-valid", scene.place
            )

    def _enough(self, tile: Record, scene: Scene) -> bool:
        pixels = read_pixels(tile, [band for band in scene.bands if band != UNUSED])
        valid = float(np.isfinite(pixels).all(axis=0).mean())
        tile["properties"]["valid"] = round(valid, 6)
        least = self.settings.min_valid
        enough = valid > 0 if least is None else valid >= least
        self.dropped += not enough
        return enough


def _tile(scene: Scene, window: tuple[int, int, int, int], footprint: dict[str, Any], *, whole: bool) -> Record:
    column, row, width, height = window
    where = dict(scene.locate.properties)
    if scene.locate.transform is not None:
        where["proj:transform"] = list(scene.locate.transform @ Affine.translation(column, row))[:6]
    return {
        "type": "Feature",
        "id": scene.name if whole else f"{scene.name}_{column}_{row}",
        **footprint,
        "properties": {**scene.properties, "window": list(window), **where, "proj:shape": [height, width]},
    }


def write_chip(tile: Record, directory: str, *, overwrite: bool = False) -> Record:
    """Write a tile's pixels, as they are, to ``directory/ID.tif``, and point the record there.

    The bands that are used are written, coarser ones on the finest grid. What the file can say of itself it says: the
    bands' names, scale and offset, invalid pixels.

    Raises
    ------
    RasterError
        The tile cannot be read.
    OutputError
        The chip cannot be written, or is there already.
    """
    properties = tile["properties"]
    names = [band for band in properties["bands"] if band != UNUSED]
    path = Path(directory, f"{tile['id']}.tif")
    refuse_existing(path, overwrite=overwrite)
    parts, shape = _parts(tile, names)
    if path.exists() and any(path.samefile(part.path) for part in parts if Path(part.path).exists()):
        raise OutputError("is the scene itself; name another directory for chips", str(path))
    raw = read_raw(tile, names)
    nodata = _common_nodata(raw, parts)
    transform = properties.get("proj:transform")
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                temporary,
                "w",
                driver="GTiff",
                count=len(names),
                height=shape[0],
                width=shape[1],
                dtype=raw.dtype,
                crs=(properties.get("proj:code") or properties.get("proj:wkt2")) if transform else None,
                transform=Affine(*transform) if transform else None,
                nodata=nodata,
                compress="deflate",
                photometric="minisblack",
            ) as chip,
        ):
            chip.write(raw.data if nodata is None else raw.filled(nodata))
            if nodata is None and np.ma.is_masked(raw):
                chip.write_mask(~np.ma.getmaskarray(raw).any(axis=0))
            chip.descriptions = names
            if (properties["scale"], properties["offset"]) != (1, 0):
                chip.scales = [properties["scale"] / 10000] * len(names)
                chip.offsets = [properties["offset"] / 10000] * len(names)
            if not transform:
                _copy_control(parts[0], chip)
        temporary.replace(path)
    except (RasterioError, OSError) as error:
        raise OutputError(f"cannot write: {error}", str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)
    placed = {"source": str(path), "bands": names, "window": [0, 0, shape[1], shape[0]]}
    return {**tile, "properties": {**{k: v for k, v in properties.items() if k != "nodata"}, **placed}}


def _common_nodata(raw: np.ma.MaskedArray[Any, Any], parts: Sequence[_Part]) -> float | None:
    """Find the one value that marks invalid pixels in all bands; NaN where numbers have it and none is declared."""
    declared = {part.dataset.nodatavals[index - 1] for part in parts for index in part.indexes}
    if len(declared) == 1 and (value := declared.pop()) is not None:
        return value
    return np.nan if raw.dtype.kind == "f" and np.ma.is_masked(raw) else None


def _copy_control(part: _Part, chip: DatasetWriter) -> None:
    """Give a chip the control points or rational polynomials of its scene, counted from the chip's corner."""
    left, top = part.window[:2]
    points, crs = part.dataset.gcps
    rpcs = copy.copy(part.dataset.rpcs)
    if points:
        moved = [GroundControlPoint(p.row - top, p.col - left, p.x, p.y, p.z, p.id, p.info) for p in points]
        chip.gcps = moved, crs
    elif rpcs:
        rpcs.line_off -= top
        rpcs.samp_off -= left
        chip.rpcs = rpcs


# Pixels --------------------------------------------------------------------------------------------------------------


class _Datasets(threading.local):
    """The datasets this thread opened last; GDAL's handles belong to one thread."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, float | None], DatasetReader] = OrderedDict()

    def get(self, path: str, nodata: float | None) -> DatasetReader:
        key = (path, nodata)
        if key not in self._open:
            self._open[key] = open_raster(path, nodata)
            if len(self._open) > OPEN_DATASETS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return self._open[key]


_datasets = _Datasets()


def read_pixels(tile: Record, bands: Sequence[str], *, missing: bool = False) -> NDArray[np.float32]:
    """Read a tile as reflectance x 10000.

    Parameters
    ----------
    tile : dict
        A record that `Tiler` wrote.
    bands : sequence of str
        STAC common names, in the order wanted.
    missing : bool
        Give NaN for bands that the tile does not have, instead of an error.

    Returns
    -------
    numpy.ndarray
        float32 (bands, height, width) on the grid of the finest band; NaN where a pixel is invalid (nodata, masked,
        NaN, transparent, outside the raster).

    Raises
    ------
    RecordError
        The record does not say what to read.
    BandError
        A band is missing.
    RasterError
        The raster cannot be read.
    """
    has = [band for band in bands if band in tile["properties"].get("bands", ())]
    if len(has) < len(bands) and (not missing or not has):
        lacks = [band for band in bands if band not in has]
        raise BandError(
            f"band {' '.join(lacks)} is missing (has {' '.join(tile['properties'].get('bands', ())) or 'none'});"
            " pass --fill-missing mean to use the model's mean"
        )
    raw = read_raw(tile, has)
    scale, offset = (float(tile["properties"].get(key, default)) for key, default in (("scale", 1), ("offset", 0)))
    pixels = raw.data.astype(np.float32)
    if scale != 1:
        pixels *= np.float32(scale)
    if offset:
        pixels += np.float32(offset)
    pixels[np.ma.getmaskarray(raw)] = np.nan
    pixels[~np.isfinite(pixels)] = np.nan
    if len(has) == len(bands):
        return pixels
    full = np.full((len(bands), *pixels.shape[1:]), np.nan, np.float32)
    full[[band in has for band in bands]] = pixels
    return full


def read_raw(tile: Record, bands: Sequence[str]) -> np.ma.MaskedArray[Any, Any]:
    """Read a tile's numbers as stored, masked where invalid: (bands, height, width) in the file's dtype."""
    parts, shape = _parts(tile, bands)
    layers = [_read(part, shape) for part in parts]
    return layers[0] if len(layers) == 1 else np.ma.concatenate(layers)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Part:
    """A tile's bands in one file: their numbers there, and the tile's window (left, top, width, height) there."""

    path: str
    dataset: DatasetReader
    indexes: list[int]
    window: tuple[float, float, float, float]


def _parts(tile: Record, bands: Sequence[str]) -> tuple[list[_Part], tuple[int, int]]:
    """Say where the pixels of a tile's bands are, and its height and width.

    Raises
    ------
    RecordError
        The record does not say it.
    RasterError
        A file cannot be opened, or is not what the record says.
    """
    properties = tile["properties"]
    try:
        source, names = properties["source"], properties["bands"]
        column, row, width, height = (int(number) for number in properties["window"])
        nodata = properties.get("nodata")
        if width < 1 or height < 1 or not isinstance(source, str | dict):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise RecordError("is not a tile: source, bands or window is missing or malformed") from None
    window = (float(column), float(row), float(width), float(height))
    if isinstance(source, str):
        dataset = _datasets.get(source, nodata)
        indexes = [index for index, kind in enumerate(dataset.colorinterp, 1) if kind != ColorInterp.alpha]
        if len(indexes) != len(names):
            raise RasterError(f"has {len(indexes)} bands, and the record names {len(names)}", source)
        return [_Part(source, dataset, [indexes[names.index(band)] for band in bands], window)], (height, width)
    parts = []
    for band in bands:
        dataset = _datasets.get(source[band], nodata)
        place = window
        if "proj:transform" in properties:
            place = _window_on(dataset, Affine(*properties["proj:transform"]), width, height)
        parts.append(_Part(source[band], dataset, [1], place))
    return parts, (height, width)


def _window_on(dataset: DatasetReader, transform: Affine, width: int, height: int) -> tuple[float, float, float, float]:
    """Find a tile, given by its geotransform and size, on another band's grid, in that band's pixels."""
    left, top = ~dataset.transform @ (transform @ (0, 0))
    right, bottom = ~dataset.transform @ (transform @ (width, height))
    return round(left, 6), round(top, 6), round(right - left, 6), round(bottom - top, 6)


def _read(part: _Part, shape: tuple[int, int]) -> np.ma.MaskedArray[Any, Any]:
    """Read a window onto ``shape`` (height, width), bilinear where that is not its size, masked outside the raster."""
    dataset = part.dataset
    left, top, width, height = part.window
    same_size = (width, height) == shape[::-1]
    if same_size:  # then the nearest pixels are taken, and GDAL would take the ones to the left
        left, top = round(left), round(top)
    columns, across = _inside(left, width, dataset.width, shape[1])
    rows, down = _inside(top, height, dataset.height, shape[0])
    size = (rows.stop - rows.start, columns.stop - columns.start)
    if min(size) < 1:
        # Where bands' grids lie askew, the scene's last pixels may be beyond this band's.
        beyond = max(left - dataset.width, -left - width, top - dataset.height, -top - height)
        if beyond >= (0 if same_size else 0.5):
            raise RasterError(f"the window {list(part.window)} lies outside the raster", part.path)
        return np.ma.array(np.zeros((len(part.indexes), *shape), dataset.dtypes[part.indexes[0] - 1]), mask=True)
    window = Window(left + columns.start * across, top + rows.start * down, size[1] * across, size[0] * down)
    with _explained(part.path):
        numbers = dataset.read(
            part.indexes,
            window=window,
            out_shape=(len(part.indexes), *size),
            resampling=Resampling.nearest if same_size else Resampling.bilinear,
        )
        invalid = _invalid(dataset, part.indexes, window, size)
    if size == shape:
        return np.ma.array(numbers, mask=invalid)
    whole = np.ma.array(np.zeros((len(part.indexes), *shape), numbers.dtype), mask=True)
    whole[:, rows, columns] = np.ma.array(numbers, mask=invalid)
    return whole


def _inside(start: float, length: float, limit: int, count: int) -> tuple[slice, float]:
    """Find which of ``count`` pixels, dealt over a window along one axis, lie in the raster, and their size there."""
    size = length / count
    first, last = math.ceil(-start / size - 1e-3), math.floor((limit - start) / size + 1e-3)
    return slice(max(0, first), min(count, last)), size


def _invalid(dataset: DatasetReader, indexes: list[int], window: Window, size: tuple[int, int]) -> Any:
    """Tell which pixels are invalid, by nodata, mask or alpha: bool (bands, height, width), or nomask for none.

    Where a coarse band is resampled, those are the ones inside its invalid pixels: interpolation fills no hole.
    """
    if _is_all_valid(dataset):
        return np.ma.nomask
    invalid = dataset.read_masks(indexes, window=window, out_shape=(len(indexes), *size)) == 0
    for index, kind in enumerate(dataset.colorinterp, 1):
        if kind == ColorInterp.alpha:  # a declared nodata hides it from GDAL's masks
            invalid |= dataset.read(index, window=window, out_shape=size) == 0
    return invalid
