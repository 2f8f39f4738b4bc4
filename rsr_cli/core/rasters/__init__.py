"""Rasters: scenes, windows, footprints, pixels, chips. Only this package imports rasterio."""

from rsr_cli.core.rasters.chips import ChipWriter
from rsr_cli.core.rasters.footprints import Locator
from rsr_cli.core.rasters.grids import parse_grid
from rsr_cli.core.rasters.lattice import Lattice
from rsr_cli.core.rasters.masks import MaskSettings
from rsr_cli.core.rasters.pixels import read_pixels
from rsr_cli.core.rasters.scenes import SceneSettings
from rsr_cli.core.rasters.windows import Around, Tiler, WindowSettings, offsets, scene_in_id

__all__ = [
    "Around",
    "ChipWriter",
    "Lattice",
    "Locator",
    "MaskSettings",
    "SceneSettings",
    "Tiler",
    "WindowSettings",
    "offsets",
    "parse_grid",
    "read_pixels",
    "scene_in_id",
]
