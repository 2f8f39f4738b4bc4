"""Opening a scene: its bands, their scale, its time and its grid."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import BandError, RasterError, counted
from rsr_cli.core.rasters.calibration import Band, calibrate, sample
from rsr_cli.core.rasters.footprints import Locator
from rsr_cli.core.rasters.masks import check_mask
from rsr_cli.core.rasters.opening import (
    all_valid,
    alphas_of,
    explained,
    greatest,
    has,
    is_all_valid,
    is_one_band,
    open_raster,
    with_nodata,
)
from rsr_cli.core.sensors import identify, resembling
from rsr_cli.core.sensors.base import DECIBELS, UNUSED, Product, contract, is_reflectance
from rsr_cli.core.sensors.naming import Naming, name_bands
from rsr_cli.core.sources.base import Declared, file_and_band
from rsr_cli.core.sources.files import absolute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rasterio.io import DatasetReader

    from rsr_cli.core.rasters.masks import MaskSettings
    from rsr_cli.core.sensors.base import Sensor
    from rsr_cli.core.sensors.quality import QualityBand
    from rsr_cli.core.sources.base import Found


#: Share of partly transparent pixels up to which a band flagged as alpha is taken for it: edges are feathered.
FEATHERED = 0.05


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
    nodata : float, optional
        The value of invalid pixels, besides what files declare.
    mask : MaskSettings, optional
        Where further invalid pixels are marked.
    """

    sensor: Sensor | None = None
    bands: Sequence[str] | None = None
    scale: float | None = None
    offset: float | None = None
    datetime: str | None = None
    labels_from_parent: bool = False
    id_prefix: str = ""
    nodata: float | None = None
    mask: MaskSettings | None = None


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
    doubts : tuple of BandError
        What may be wrong with its numbers or bands.
    quality : QualityBand or None
        What the numbers of its mask mean, besides invalid pixels.
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
    doubts: tuple[BandError, ...]
    quality: QualityBand | None


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
        (found.name + "".join(found.paths)).encode()
    except UnicodeEncodeError:
        raise RasterError("has a name that is not UTF-8, which JSON cannot contain; rename it", found.path) from None
    places = [file_and_band(path) for path in found.paths]
    path = places[0][0]
    signed = path.partition("?")[0] if path.startswith("/vsi") else path
    product = Product(str(absolute(signed)), isinstance(found.source, dict), settings.datetime)
    with ExitStack() as opened:
        try:
            _check_product(product, settings)
            if isinstance(found.source, str):
                naming, dataset, nodata = _open_file(found.source, settings, opened)
                return _scene(found, product, naming, [dataset], nodata, settings)
            masked = {file: index is None for file, index in places}
            by_file = {file: opened.enter_context(open_raster(file, masked=one)) for file, one in masked.items()}
            nodata = _nodata([(by_file[file], index or 1) for file, index in places], settings, found)
            if nodata is not None:
                by_file = {file: opened.enter_context(with_nodata(one, nodata)) for file, one in by_file.items()}
            datasets = [by_file[file] for file, _ in places]
            return _scene(found, product, Naming(tuple(found.source)), datasets, nodata, settings)
        except BandError as error:
            error.place = error.place or found.place
            raise


def _open_file(path: str, settings: SceneSettings, opened: ExitStack) -> tuple[Naming, DatasetReader, float | None]:
    """Open a multi-band file, and name its bands, which decides whether a band flagged as alpha is; also its nodata."""
    sensor = settings.sensor
    dataset = opened.enter_context(open_raster(path))
    if dataset.count == 1 and sensor and sensor.band_of_file(Path(path).name) and not settings.bands:
        raise BandError(f"is a single band of {sensor.name}", remedy="per-band")
    alphas = alphas_of(dataset)
    described = zip(dataset.indexes, dataset.descriptions, strict=True)
    flags = [index in alphas and not (settings.mask and settings.mask.is_in(text)) for index, text in described]
    naming = name_bands(dataset.descriptions, flags, sensor, settings.bands)
    if alphas:
        dataset = opened.enter_context(open_raster(path, n_bands=len(naming.names)))
    indexes = zip(_indexes(dataset, naming.names), naming.names, strict=True)
    nodata = _nodata([(dataset, index) for index, name in indexes if name != UNUSED], settings)
    if nodata is not None:
        dataset = opened.enter_context(with_nodata(dataset, nodata))
    return naming, dataset, nodata


def _nodata(
    bands: Sequence[tuple[DatasetReader, int]], settings: SceneSettings, found: Found | None = None
) -> float | None:
    """Return the value that marks invalid pixels besides what files declare: the user's, the source's or the sensor's.

    The others' counts if the file declares nothing of one of the bands, each given by its dataset and number there.

    Raises
    ------
    BandError
        A band cannot contain the user's, or the source states several.
    """
    if (nodata := settings.nodata) is None:
        undeclared = {dataset: all_valid(dataset) for dataset in dict(bands)}
        silent = [index in undeclared[dataset] for dataset, index in bands]
        stated = zip(found.declared.values() if found else (), silent, strict=False)
        numbers = {band.nodata for band, counts in stated if counts and band.nodata is not None}
        if len(numbers) > 1:
            listed = " and ".join(f"{number:g}" for number in sorted(numbers))
            raise BandError(f"states {listed} as the numbers of invalid pixels", remedy="nodata-one")
        if numbers:
            return numbers.pop()
        return settings.sensor.nodata if settings.sensor and any(silent) else None
    for kind in (kind for dataset, index in bands for kind in dataset.dtypes[index - 1 : index]):
        if np.dtype(kind).kind in "iu" and not has(kind, nodata):
            raise BandError(f"has {kind} numbers, none of which is {nodata:g}", remedy="nodata")
    return nodata


def _check_product(product: Product, settings: SceneSettings) -> None:
    """Raise BandError if a product is another one than the user says."""
    sensor = settings.sensor
    if sensor:
        if not sensor.identifies(product):
            sensor.check_stated(identify(product))
        if settings.scale is None:
            sensor.check_level(product)


def _scene(
    found: Found,
    product: Product,
    naming: Naming,
    datasets: Sequence[DatasetReader],
    nodata: float | None,
    settings: SceneSettings,
) -> Scene:
    """Describe a scene whose files are open; ``datasets`` has one per file, or one per band of single-band files."""
    sensor = settings.sensor
    finest = min(datasets, key=lambda dataset: abs(dataset.transform.determinant))
    mask = _mask(found, naming, finest, settings)
    if mask and isinstance(found.source, str):
        naming = _unused(naming, finest, file_and_band(mask["source"])[1])
    names = naming.names
    bands = _bands(found, names, datasets, finest)
    # before numbers are sampled: rasterio may raise an error of reading them again when it is asked for a flag
    locate, maskable = _locator(finest, found, sensor), mask is not None or any(map(_is_maskable, datasets))
    product = replace(product, tags=datasets[0].tags())
    doubts = [*_unknown(naming, sensor), *_contradicted(naming), *_misnamed(product, sensor), *_unlike_alpha(datasets)]
    properties: dict[str, Any] = {}
    if settings.datetime:
        properties["datetime"] = settings.datetime
    elif sensor:
        properties |= sensor.times_of(product)
    if settings.labels_from_parent:
        properties["labels"] = [found.parent]
    stated = found.properties
    if settings.datetime:
        stated = {name: value for name, value in stated.items() if not name.endswith("datetime")}
    properties |= stated
    properties |= {"source": found.source, "bands": contract(names)}
    decoding: dict[str, Any] = {}
    if sensor and sensor.space:
        decoding = _decoding(sensor, found.path, bands)
        pairs = dict.fromkeys((band.name for band in bands), (decoding.pop("scale", 1.0), 0.0))
    elif found.scale is None:
        calibration = calibrate(bands, product, sensor, settings.scale, settings.offset)
        pairs = dict(zip((band.name for band in bands), calibration.pairs, strict=True))
        doubts += calibration.doubts
        if found.doubt and (sensor, settings.offset) == (None, None) and not any(band.declared for band in bands):
            doubts.append(found.doubt)
    else:
        pairs = {band.name: (found.scale, 0.0) for band in bands}
    for number, key in enumerate(("scale", "offset")):
        each = [pairs.get(name, (1.0, 0.0))[number] for name in names]
        used = {pair[number] for pair in pairs.values()}
        properties[key] = used.pop() if len(used) == 1 else each
    if sensor and sensor.space:
        properties |= decoding | {"space": sensor.space}
    if mask:
        properties["mask"] = mask
    if unit := sensor.unit if sensor else _declared_unit(bands):
        properties["unit"] = unit
        maskable = maskable or unit in DECIBELS
    if nodata is not None:
        properties["nodata"] = nodata
    return Scene(
        name=found.name,
        place=found.place,
        bands=names,
        width=finest.width,
        height=finest.height,
        locate=locate,
        geometry=found.geometry,
        properties=properties,
        maskable=maskable,
        doubts=tuple(doubts),
        quality=settings.mask.quality if settings.mask else None,
    )


def _locator(finest: DatasetReader, found: Found, sensor: Sensor | None) -> Locator:
    """Return what places the pixels of a scene: its finest file, or the one that states the grid of the product."""
    grid = sensor.grid_of(found.path) if sensor and isinstance(found.source, str) else None
    if grid is None:
        return Locator(finest)
    with open_raster(grid) as dataset:
        if dataset.shape != finest.shape:
            sizes = [f"{width} x {height} px" for height, width in (dataset.shape, finest.shape)]
            raise RasterError(f"is of {sizes[0]}, but {found.path} of {sizes[1]}", grid)
        return Locator(dataset)


def _decoding(sensor: Sensor, path: str, bands: Sequence[Band]) -> dict[str, Any]:
    """Return how numbers become the components of embeddings, see `Sensor.decoding`; all bands must be there."""
    sensor.check_bands([band.name for band in bands])
    kinds = sorted({band.dtype for band in bands})
    if len(kinds) > 1 or kinds[0] not in sensor.dtypes:
        raise BandError(f"has {' '.join(kinds)} numbers, but {sensor.name} has {' or '.join(sensor.dtypes)}")
    return sensor.decoding(path, kinds[0])


def _declared_unit(bands: Sequence[Band]) -> str:
    """Return the unit that files declare of bands without reflectance, as chips do; empty unless they agree."""
    units = {"" if is_reflectance(band.name) else band.dataset.units[band.index - 1] or "" for band in bands}
    return units.pop() if len(units) == 1 else ""


def _mask(found: Found, naming: Naming, dataset: DatasetReader, settings: SceneSettings) -> dict[str, Any] | None:
    """Return the mask of a scene as its records state it; ``dataset`` is its file, or that of its finest band."""
    if settings.mask is None:
        return None
    names = {}
    if isinstance(found.source, str):
        indexes = _indexes(dataset, naming.names)
        names = {text.lower(): index for index, text in enumerate(dataset.descriptions, 1) if text}
        names |= {name.lower(): index for name, index in zip(naming.names, indexes, strict=True) if name != UNUSED}
    source = settings.mask.find(found, names, settings.sensor)
    check_mask(source, settings.mask.marks, lambda mask: _is_same_area(mask, dataset))
    return {"source": source, **settings.mask.marks.as_property()}


def _unused(naming: Naming, dataset: DatasetReader, index: int | None) -> Naming:
    """Return the names of a file's bands without one that is its mask."""
    indexes = _indexes(dataset, naming.names)
    names = tuple(UNUSED if i == index else name for i, name in zip(indexes, naming.names, strict=True))
    mask = dataset.descriptions[index - 1] if index else None
    return replace(naming, names=names, unknown=tuple(text for text in naming.unknown if text != mask))


def _indexes(dataset: DatasetReader, names: Sequence[str]) -> list[int]:
    """Return the numbers of the bands that are named: all, or those that are not flagged as alpha."""
    return [index for index in dataset.indexes if len(names) == dataset.count or index not in alphas_of(dataset)]


def _unknown(naming: Naming, sensor: Sensor | None) -> list[BandError]:
    """Return the doubt that bands are not used whose descriptions mean nothing."""
    if not naming.unknown:
        return []
    whose = f" and no band of {sensor.name}" if sensor else ""
    what = f"does not use {', '.join(naming.unknown)}, which is no STAC common name{whose}"
    return [BandError(what, remedy="bands-else")]


def _contradicted(naming: Naming) -> list[BandError]:
    """Return the doubt that a file describes bands differently than the user."""
    if not naming.contradicted:
        return []
    numbers, theirs, mine = zip(*naming.contradicted, strict=True)
    what = f"describes bands {', '.join(map(str, numbers))} as {', '.join(theirs)}; taking them as {', '.join(mine)}"
    return [BandError(what, remedy="bands-described")]


def _misnamed(product: Product, sensor: Sensor | None) -> list[BandError]:
    """Return the doubt that a file is named as other products are than the sensor's."""
    others = resembling(product, sensor) if sensor else []
    if not others:
        return []
    assert sensor is not None
    what = f"is named as products of {' or '.join(others)} are; taking it as {sensor.name}"
    return [BandError(what, remedy="sensor-named")]


def _unlike_alpha(datasets: Sequence[DatasetReader]) -> list[BandError]:
    """Return the doubt that a band of a multi-band file that is flagged as alpha is something else: near infrared."""
    alphas = alphas_of(datasets[0]) if len(datasets) == 1 and datasets[0].count > 2 else []
    for index in alphas:
        (numbers,) = sample([Band(UNUSED, datasets[0], index)])
        opaque = greatest(datasets[0].dtypes[index - 1])
        if numbers.size and ((numbers != 0) & (numbers != opaque)).mean() > FEATHERED:
            what = f"has other numbers than 0 and {opaque} in band {index}, which is flagged as alpha"
            return [BandError(f"{what}; taking it as alpha", remedy="bands-alpha")]
    return []


def _bands(found: Found, names: Sequence[str], datasets: Sequence[DatasetReader], finest: DatasetReader) -> list[Band]:
    """Return the bands that are used. Single-band files fit together, and have one band each, and perhaps its mask."""
    if isinstance(found.source, str):
        indexes = _indexes(finest, names)
        return [Band(name, finest, index) for name, index in zip(names, indexes, strict=True) if name != UNUSED]
    bands = []
    for (name, path), dataset in zip(found.source.items(), datasets, strict=True):
        index = file_and_band(path)[1]
        with explained(path):
            fits = index is not None or is_one_band(dataset)
        if not fits:
            expected = "where one is expected, or one and its mask of 0 and the greatest value"
            raise BandError(f"{name} has {counted(dataset.count, 'band')} in its file, {expected}", path)
        if (index or 1) > dataset.count:
            raise BandError(f"{name} has {counted(dataset.count, 'band')} in its file, and no band {index}", path)
        if not _is_same_area(dataset, finest):
            raise BandError(
                f"{name} has another coordinate system, or covers another area, than the finest band"
                f" ({found.paths[datasets.index(finest)]})",
                path,
            )
        stated = found.declared.get(name, Declared())
        bands.append(Band(name, dataset, index or 1, stated.pair))
    return bands


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
