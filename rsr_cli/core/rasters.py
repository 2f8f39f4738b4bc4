"""Rasters: finding scenes, cutting them into windows, footprints, reading pixels. The only importer of rasterio."""

from __future__ import annotations

import logging
import os
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
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import GCPTransformer, RPCTransformer
from rasterio.warp import transform as transform_points
from rasterio.windows import Window

from rsr_cli.core.bands import SENSORS, UNUSED, Sensor, name_bands
from rsr_cli.core.errors import BandError, OutputError, RasterError, RecordError, Skips, UsageError
from rsr_cli.core.streams import temporary_beside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from rsr_cli.core.streams import Record

log = logging.getLogger("rsr")
logging.getLogger("rasterio").addHandler(logging.NullHandler())  # GDAL's messages come back as our errors
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

Edge = Literal["drop", "pad", "shift"]
Source = str | dict[str, str]

#: File names that a walk through a directory takes for rasters.
RASTER_ENDINGS = (".tif", ".tiff", ".gtif", ".gtiff", ".jp2", ".img", ".vrt", ".png", ".jpg", ".jpeg")
#: Sentinel-2 keeps a product's bands in one directory a resolution.
RESOLUTION_DIRECTORIES = frozenset({"R10m", "R20m", "R60m"})

DEGREE_DIGITS = 7  # about a centimetre
EDGE_SEGMENTS = 16  # of an outline, where straight pixel edges are not straight in lon/lat
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
        The value of invalid pixels where the file declares none. It becomes the dataset's own, so that resampling
        keeps it out of its neighbours.

    Raises
    ------
    RasterError
        It cannot be opened, or holds no raster band.
    """
    if "://" not in path and not path.startswith("/vsi") and ":" not in path and not Path(path).exists():
        raise RasterError("no such file", path)
    with _explained(path):
        dataset = rasterio.open(path)
        if nodata is not None and dataset.count and dataset.nodatavals[0] is None:
            dataset.close()
            dataset = rasterio.open(f"vrt://{_gdal_path(path)}?a_nodata={nodata:g}")
    if not dataset.count:
        inside = dataset.subdatasets
        dataset.close()
        hint = f"name one of its {len(inside)} subdatasets, such as {inside[0]}" if inside else "it holds no image"
        raise RasterError(f"has no raster band; {hint}", path)
    if any(np.dtype(kind).kind == "c" for kind in dataset.dtypes):
        dataset.close()
        raise RasterError("holds complex numbers, which have no reflectance", path)
    return dataset


def _gdal_path(path: str) -> str:
    scheme = urlsplit(path).scheme if "://" in path else ""
    if scheme in ("http", "https", "ftp"):
        return f"/vsicurl/{path}"
    virtual = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}.get(scheme)
    return virtual + path.split("://", 1)[1] if virtual else path


# Finding scenes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A scene's files, before they are opened: its name, and a path or the paths of single-band files."""

    name: str
    source: str | list[str]
    parent: str


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
                        yield _Found(name, full, Path(full).absolute().parent.name)
                        found = True
            if not found:
                raise RasterError(f"holds no raster ({' '.join(RASTER_ENDINGS)})", path)
        else:
            yield _Found(_stem(path), path, Path(path).absolute().parent.name)


def _stem(path: str) -> str:
    """Name a file by its last part without the ending; a subdataset (netCDF:"x.nc":ndvi) by file and part."""
    if "://" not in path and ":" in path:
        return "_".join(Path(part.strip('"')).stem for part in path.split(":")[1:])
    return Path(urlsplit(path).path if "://" in path else path).stem


def _walk(path: str) -> Iterator[tuple[str, list[str]]]:
    for directory, below, files in os.walk(path, followlinks=True):
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
        if here.name in RESOLUTION_DIRECTORIES:
            continue
        below = [here / name / file for name in sorted(RESOLUTION_DIRECTORIES) for file in _files(here / name)]
        names = [*(os.path.join(directory, file) for file in files), *map(str, below)]  # noqa: PTH118
        singles = [name for name in names if sensor.band_of_file(Path(name).name)]
        if singles:
            found = True
            relative = here.relative_to(path).as_posix()
            name = Path(path).absolute().name if relative == "." else relative
            yield _Found(name, singles, here.absolute().parent.name)
    if not found:
        raise RasterError(f"holds no single-band files named as {sensor.name}'s are", path)


def _files(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


def open_scene(found: _Found, settings: TileSettings) -> Scene:
    """Open a scene, name its bands and learn its grid.

    Raises
    ------
    RasterError
        It cannot be read.
    BandError
        Its bands cannot be told apart, are missing, or do not lie on one grid.
    """
    sensor = settings.profile
    nodata = sensor.nodata if sensor else None
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
                raise BandError(f"{name} has {dataset.count} bands in its file, where one is expected", dataset.name)
            _check_grid(name, dataset, finest)
    scale, offset = _scale(datasets, found, settings)
    properties: dict[str, Any] = {}
    when = settings.datetime or (sensor.datetime_of(found.name) if sensor else None)
    if when:
        properties["datetime"] = when
    if settings.labels_from_parent:
        properties["labels"] = [found.parent]
    properties |= {"source": source, "bands": list(names), "scale": scale, "offset": offset}
    nodata = sensor.nodata if sensor else None
    if nodata is not None and any(dataset.name.startswith("vrt://") for dataset in datasets):
        properties["nodata"] = nodata
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
    return any(flags != [MaskFlags.all_valid] for flags in dataset.mask_flag_enums) or any(
        np.dtype(kind).kind == "f" for kind in dataset.dtypes
    )


def _check_grid(name: str, dataset: DatasetReader, finest: DatasetReader) -> None:
    """Raise BandError unless the band covers the finest band's extent, to half of its own pixel."""
    if dataset.crs != finest.crs:
        raise BandError(f"{name} has another coordinate system than the finest band ({finest.name})", dataset.name)
    for column, row in ((0, 0), (1, 1)):
        x, y = ~dataset.transform * (finest.transform * (column * finest.width, row * finest.height))
        if abs(x - column * dataset.width) > 0.5 or abs(y - row * dataset.height) > 0.5:
            raise BandError(f"{name} covers another area than the finest band ({finest.name})", dataset.name)


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
        if sensor.baseline_offset(found.source if isinstance(found.source, str) else found.source[0]):
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
        if dataset.transform == Affine.identity():
            if gcps:
                self._points, self._crs, self.transform = gcps, gcps_crs, None
            elif dataset.rpcs:
                self._rpcs, self._crs, self.transform = dataset.rpcs, CRS.from_epsg(4326), None
            elif not dataset.crs:
                self.transform = None
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
        return [
            _footprint(outline, window[2:], geographic=self._crs.is_geographic)
            for outline, window in zip(outlines, windows, strict=True)
        ]

    def _outlines(self, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project outlines, counter-clockwise on a north-up raster: float64 (n, 4 * EDGE_SEGMENTS, 2) of lon, lat."""
        step = np.linspace(0, 1, EDGE_SEGMENTS, endpoint=False)
        zero, one = np.zeros_like(step), np.ones_like(step)
        right = np.concatenate([zero, step, one, 1 - step])
        down = np.concatenate([step, one, 1 - step, zero])
        columns = windows[:, 0, None] + windows[:, 2, None] * right
        rows = windows[:, 1, None] + windows[:, 3, None] * down
        xs, ys = self._to_crs(columns.ravel(), rows.ravel())
        try:
            lon, lat = transform_points(self._crs, CRS.from_epsg(4326), xs, ys)
        except (RasterioError, rasterio.errors.CRSError, rasterio._err.CPLE_BaseError) as error:
            log.info("no footprint: %s", error)
            lon = lat = np.full(columns.size, np.nan)
        return np.stack([np.reshape(lon, columns.shape), np.reshape(lat, columns.shape)], axis=-1)

    def _to_crs(self, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[Any, Any]:
        if self.transform is not None:
            return self.transform * (columns, rows)
        transformer = GCPTransformer(self._points) if self._points else RPCTransformer(self._rpcs)
        with transformer:
            return transformer.xy(rows, columns, offset="ul")


def _footprint(outline: NDArray[np.float64], size: Sequence[int], *, geographic: bool) -> dict[str, Any]:
    if not np.isfinite(outline).all():
        return {"geometry": None}
    lon = outline[:, 0]
    jumps = not geographic and np.abs(np.diff(lon, append=lon[:1])).max() > 180
    if jumps or lon.min() < -180 or lon.max() > 180:
        return _cut(outline)
    corners = outline[::EDGE_SEGMENTS]
    ring = corners if _straight(outline, corners, size) else outline
    if _signed_area(ring) < 0:
        ring = ring[::-1]
    ring = ring.round(DEGREE_DIGITS)
    west, south = ring.min(axis=0).tolist()
    east, north = ring.max(axis=0).tolist()
    points = ring.tolist()
    return {
        "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
        "bbox": [west, south, east, north],
    }


def _straight(outline: NDArray[np.float64], corners: NDArray[np.float64], size: Sequence[int]) -> bool:
    """Tell whether the outline stays within a quarter of a pixel of the straight lines between its corners."""
    share = np.linspace(0, 1, EDGE_SEGMENTS, endpoint=False)[:, None]
    straight = corners[:, None] + (np.roll(corners, -1, axis=0) - corners)[:, None] * share
    pixel = np.ptp(corners, axis=0) / max(size)
    return bool((np.abs(straight.reshape(outline.shape) - outline) <= pixel / 4 + 1e-12).all())


def _signed_area(ring: NDArray[np.float64]) -> float:
    x, y = (ring - ring[0]).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _cut(outline: NDArray[np.float64]) -> dict[str, Any]:
    """Cut an outline at the antimeridian, and close it around a pole that it encloses."""
    import antimeridian
    from shapely.geometry import Polygon, mapping

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", antimeridian.FixWindingWarning)
        shape = antimeridian.fix_polygon(Polygon(outline), great_circle=False)
        box = antimeridian.bbox(shape)

    def rounded(numbers: Any) -> Any:
        return round(numbers, DEGREE_DIGITS) if isinstance(numbers, float) else [rounded(item) for item in numbers]

    geometry = mapping(shape)
    return {
        "geometry": {"type": geometry["type"], "coordinates": rounded(geometry["coordinates"])},
        "bbox": rounded([float(value) for value in box]),
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
                        yield from self._cut(open_scene(found, self.settings))
                    except RecordError as error:
                        self.skips(error)
            except RecordError as error:
                self.skips(error)

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
                tiles = [write_chip(tile, settings.chips) for tile in tiles]
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
        tile["properties"]["valid"] = round(valid, 4)
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


def write_chip(tile: Record, directory: str) -> Record:
    """Write a tile's pixels, as they are, to ``directory/ID.tif``, and point the record there.

    The bands that are used are written, coarser ones on the finest grid.

    Raises
    ------
    RasterError
        The tile cannot be read.
    OutputError
        The chip cannot be written.
    """
    properties = tile["properties"]
    names = [band for band in properties["bands"] if band != UNUSED]
    raw = read_raw(tile, names)
    path = Path(directory, f"{tile['id']}.tif")
    nodata = raw.fill_value.item() if np.ma.is_masked(raw) or properties.get("nodata") is not None else None
    transform = properties.get("proj:transform")
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            temporary,
            "w",
            driver="GTiff",
            count=len(names),
            height=raw.shape[1],
            width=raw.shape[2],
            dtype=raw.dtype,
            crs=properties.get("proj:code") or properties.get("proj:wkt2"),
            transform=Affine(*transform) if transform else None,
            nodata=nodata,
            compress="deflate",
            photometric="minisblack",
        ) as chip:
            chip.write(raw.filled() if nodata is not None else raw.data)
            chip.descriptions = names
        temporary.replace(path)
    except (RasterioError, OSError) as error:
        raise OutputError(f"cannot write: {error}", str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)
    height, width = raw.shape[1:]
    placed = {"source": str(path), "bands": names, "window": [0, 0, width, height]}
    return {**tile, "properties": {**{k: v for k, v in properties.items() if k != "nodata"}, **placed}}


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
    properties = tile["properties"]
    try:
        source, names = properties["source"], properties["bands"]
        column, row, width, height = (int(number) for number in properties["window"])
        nodata = properties.get("nodata")
        if width < 1 or height < 1:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise RecordError("is not a tile: source, bands or window is missing or malformed") from None
    window = (float(column), float(row), float(width), float(height))
    if isinstance(source, str):
        dataset = _datasets.get(source, nodata)
        indexes = [index for index, kind in enumerate(dataset.colorinterp, 1) if kind != ColorInterp.alpha]
        if len(indexes) != len(names):
            raise RasterError(f"has {len(indexes)} bands, and the record names {len(names)}", source)
        chosen = [indexes[names.index(band)] for band in bands]
        return _read(dataset, chosen, window, (height, width), source)
    layers = []
    for band in bands:
        dataset = _datasets.get(source[band], nodata)
        place = window
        if "proj:transform" in properties:
            place = _window_on(dataset, Affine(*properties["proj:transform"]), width, height)
        layers.append(_read(dataset, [1], place, (height, width), source[band]))
    return np.ma.concatenate(layers)  # type: ignore[no-untyped-call]


def _window_on(dataset: DatasetReader, transform: Affine, width: int, height: int) -> tuple[float, float, float, float]:
    """Find a tile, given by its geotransform and size, on another band's grid, in that band's pixels."""
    left, top = ~dataset.transform * (transform * (0, 0))
    right, bottom = ~dataset.transform * (transform * (width, height))
    return round(left, 6), round(top, 6), round(right - left, 6), round(bottom - top, 6)


def _read(
    dataset: DatasetReader,
    indexes: list[int],
    window: tuple[float, float, float, float],
    shape: tuple[int, int],
    place: str,
) -> np.ma.MaskedArray[Any, Any]:
    """Read a window onto ``shape`` (height, width), bilinear where that is not its size, masked outside the raster."""
    left, top, width, height = window
    inside_left, inside_top = max(0.0, left), max(0.0, top)
    inside_right, inside_bottom = min(float(dataset.width), left + width), min(float(dataset.height), top + height)
    if inside_right <= inside_left or inside_bottom <= inside_top:
        raise RasterError(f"the window {[left, top, width, height]} lies outside the raster", place)
    # Where the window reaches over the edge, the part inside, in pixels of the result.
    across, down = shape[1] / width, shape[0] / height
    columns = slice(round((inside_left - left) * across), max(1, round((inside_right - left) * across)))
    rows = slice(round((inside_top - top) * down), max(1, round((inside_bottom - top) * down)))
    with _explained(place):
        part = dataset.read(
            indexes,
            window=Window(inside_left, inside_top, inside_right - inside_left, inside_bottom - inside_top),
            out_shape=(len(indexes), rows.stop - rows.start, columns.stop - columns.start),
            resampling=Resampling.nearest if (width, height) == shape[::-1] else Resampling.bilinear,
            masked=True,
        )
    if part.shape[1:] == shape:
        return part
    whole = np.ma.array(np.zeros((len(indexes), *shape), part.dtype), mask=True)
    whole.fill_value = part.fill_value
    whole[:, rows, columns] = part
    return whole
