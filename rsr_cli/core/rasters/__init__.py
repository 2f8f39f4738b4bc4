"""Rasters: scenes, windows, footprints, reading pixels. The only importer of rasterio."""

from rsr_cli.core.rasters.footprints import Locator
from rsr_cli.core.rasters.pixels import read_pixels
from rsr_cli.core.rasters.scenes import TileSettings
from rsr_cli.core.rasters.windows import Tiler, offsets

__all__ = ["Locator", "TileSettings", "Tiler", "offsets", "read_pixels"]
