"""Writing the pixels of tiles as GeoTIFFs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError

from rsr_cli.core.errors import OutputError, RasterError
from rsr_cli.core.files import refuse_existing, whole_file
from rsr_cli.core.rasters.opening import has, range_of
from rsr_cli.core.rasters.parts import parts_of
from rsr_cli.core.rasters.pixels import SCALING, bands_of, per_band, read_raw
from rsr_cli.core.sensors.base import UNUSED, contract, factor_of
from rsr_cli.core.sources.files import absolute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rasterio.io import DatasetWriter

    from rsr_cli.core.rasters.parts import Part
    from rsr_cli.core.records.batch import Record

#: A GeoTIFF's nodata is written as a floating-point number, which is exact up to this one.
EXACT = 1 << 53

Numbers = np.ma.MaskedArray[Any, Any]


@dataclass(frozen=True)
class ChipWriter:
    """Writes tiles to ``directory/ID.tif``.

    Attributes
    ----------
    directory : str
        Made if it does not exist.
    overwrite : bool
        Replace existing chips.
    resumes : bool
        Wait until each chip is on disk, and leave one that is there as it would be written.
    """

    directory: str
    overwrite: bool = False
    resumes: bool = False

    def write(self, tile: Record) -> Record:
        """Write a tile's pixels as they are stored, and return a record that reads the chip.

        The bands that are used are written, coarser ones on the finest grid. The chip states the bands' names, scale
        and offset, and which pixels are invalid.

        Raises
        ------
        RasterError
            The tile cannot be read.
        OutputError
            The chip cannot be written, or exists already.
        """
        properties = tile["properties"]
        names = [band for band in bands_of(tile) if band != UNUSED]
        if "scales" in (properties.get("decode") or {}):
            raise RasterError("has the scales of its numbers in another file, which a chip cannot contain")
        path = Path(self.directory, f"{tile['id']}.tif")
        if not absolute(str(path)).is_relative_to(absolute(self.directory)):  # the id may be a stranger's
            raise RasterError("has an id that leads out of the directory of the chips", str(path))
        if not self.resumes:  # before pixels are read
            refuse_existing(path, overwrite=self.overwrite)
        parts, (height, width) = parts_of(tile, names)
        if path.exists() and any(path.samefile(part.path) for part in parts if Path(part.path).exists()):
            raise OutputError("is the scene itself", str(path), remedy="chips")
        numbers = read_raw(tile, names)
        try:
            # In memory first: if the disk is full, libtiff writes its own words to stderr.
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
                _write(memory, properties, names, numbers, parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                chip = bytes(memory.getbuffer())
                if self.resumes and path.exists():
                    if path.read_bytes() != chip:
                        raise OutputError("is there already, and differs", str(path), remedy="chips")
                else:
                    with whole_file(path, overwrite=self.overwrite, sync=self.resumes) as file:
                        file.write(chip)
        except (RasterioError, OSError) as error:
            reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
            raise OutputError(f"cannot write: {reason}", str(path)) from None
        kept = {key: value for key, value in properties.items() if key not in ("nodata", "mask")}
        placed = {"source": str(path), "bands": contract(names), "window": [0, 0, width, height]}
        for key in SCALING:
            if isinstance(kept[key], list):
                placed[key] = per_band(properties, key, names)
        return {**tile, "properties": {**kept, **placed}}


def _write(
    memory: rasterio.MemoryFile,
    properties: dict[str, Any],
    names: Sequence[str],
    numbers: Numbers,
    parts: Sequence[Part],
) -> None:
    """Write numbers (bands, height, width), masked where invalid, as a GeoTIFF in memory."""
    numbers, nodata = _marked(numbers, parts)
    transform = properties.get("proj:transform")
    crs = (properties.get("proj:code") or properties.get("proj:wkt2")) if transform else None
    count, height, width = numbers.shape
    with memory.open(
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=numbers.dtype,
        crs=crs,
        transform=Affine(*transform) if transform else None,
        nodata=nodata,
        compress="deflate",
        photometric="minisblack",
    ) as chip:
        chip.write(numbers.data if nodata is None else numbers.filled(nodata))
        if nodata is None and np.ma.is_masked(numbers):
            chip.write_mask(~np.ma.getmaskarray(numbers).any(axis=0))
        chip.descriptions = names
        if "unit" in properties:
            chip.units = [properties["unit"]] * count
        if (properties["scale"], properties["offset"]) != (1, 0):
            chip.scales, chip.offsets = (
                [number / factor_of(name) for number, name in zip(per_band(properties, key, names), names, strict=True)]
                for key in SCALING
            )
        if not crs:
            _copy_control(parts[0], chip)


def _marked(numbers: Numbers, parts: Sequence[Part]) -> tuple[Numbers, float | None]:
    """Choose the value that marks the invalid pixels of each band, as a GeoTIFF has one nodata for all bands.

    Returns
    -------
    tuple of numpy.ma.MaskedArray and float or None
        The numbers, of a larger type if every value of theirs is a valid pixel's; and the value, which no valid pixel
        has, or None if pixels are valid or invalid in all bands alike and a mask marks them.
    """
    declared = {part.opened.dataset.nodatavals[index - 1] for part in parts for index in part.indexes}
    stated = [value for value in declared if value is not None]
    if len(declared) == 1 and stated and not (numbers.compressed() == stated[0]).any():
        return numbers, stated[0]
    invalid = np.ma.getmaskarray(numbers)
    if not invalid.any():
        return numbers, None
    if numbers.dtype.kind == "f":
        return numbers, np.nan
    if (invalid == invalid[0]).all():
        return numbers, None
    limits, valid = range_of(numbers.dtype), set(np.unique(numbers.compressed()).tolist())
    possible = range(max(limits[0], -EXACT), min(limits[-1], EXACT) + 1)
    candidates = chain((int(value) for value in stated if has(numbers.dtype, value)), (0, possible[-1]), possible)
    unused = next((value for value in candidates if value not in valid), None)
    if unused is not None:
        return numbers, unused
    larger = np.promote_types(numbers.dtype, np.int16 if numbers.itemsize == 1 else np.int32)
    return np.ma.array(numbers.data.astype(larger), mask=invalid), possible[0] - 1


def _copy_control(part: Part, chip: DatasetWriter) -> None:
    """Copy a scene's control points or rational polynomials to a chip, counted from the chip's corner."""
    left, top = part.window[:2]
    points, crs = part.opened.dataset.gcps
    rpcs = copy.copy(part.opened.dataset.rpcs)
    if points:
        moved = [GroundControlPoint(p.row - top, p.col - left, p.x, p.y, p.z, p.id, p.info) for p in points]
        chip.gcps = moved, crs
    elif rpcs:
        rpcs.line_off -= top
        rpcs.samp_off -= left
        chip.rpcs = rpcs
