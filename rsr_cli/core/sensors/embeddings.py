"""Products whose pixels are embeddings: every pixel is a vector of a foundation model, one band per dimension."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import BandError, RasterError
from rsr_cli.core.sensors.base import Sensor, has_raster_ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsr_cli.core.sensors.base import Product


@dataclass(frozen=True)
class EmbeddingRaster(Sensor):
    """Embeddings per pixel.

    Attributes
    ----------
    unit_length : bool
        Every vector has a Euclidean length of 1.
    description : str
        Regular expression for what files describe a band as, besides its name; its group is the dimension.
    year : str
        Regular expression for the year in a path, if the product is annual.
    """

    unit_length: bool = False
    description: str = ""
    year: str = ""

    @property
    def space(self) -> str:
        """The vector space of its pixels."""
        return self.name

    def common_name(self, band: str) -> str | None:
        """Return the name of a band that a file describes by its name or its dimension."""
        found = re.fullmatch(self.description, band) if self.description else None
        if found and int(found[1]) < len(self.order):
            return self.order[int(found[1])]
        return band if band in self.order else None

    def check_bands(self, names: Sequence[str]) -> None:
        """Check that every dimension is there."""
        if missing := [name for name in self.order if name not in names]:
            has, count = len(self.order) - len(missing), len(self.order)
            raise BandError(f"has {has} of the {count} bands of {self.name}, without {missing[0]}")

    def times_of(self, product: Product) -> dict[str, str | None]:
        """Return the year of an annual product as its first and last second, as STAC states a period."""
        found = next(filter(None, (re.search(self.year, path) for path in product.paths)), None) if self.year else None
        if found is None:
            return {}
        year = next(filter(None, found.groups()))
        return {
            "datetime": None,
            "start_datetime": f"{year}-01-01T00:00:00Z",
            "end_datetime": f"{year}-12-31T23:59:59Z",
        }


class AlphaEarth(EmbeddingRaster):
    """AlphaEarth Foundations' annual Satellite Embedding, as Google's COGs or as exports of Earth Engine.

    In the COGs, a vector's components are signed 8-bit integers v, which stand for sign(v) * (v / 127.5)^2
    (developers.google.com/earth-engine/guides/aef_on_gcs_readme). Their rows run from south to north.
    """

    def is_scene(self, name: str) -> bool:
        """Return whether a file is one of the COGs: Source Cooperative has a VRT beside each."""
        return has_raster_ending(name) and not name.lower().endswith(".vrt")

    def decoding(self, path: str, dtype: str) -> dict[str, Any]:  # noqa: ARG002  as of all products
        """Return how the integers of COGs become components; Earth Engine exports the components."""
        return {"scale": 1 / 127.5, "decode": {"power": 2}} if dtype == "int8" else {}


class GeoTessera(EmbeddingRaster):
    """TESSERA's annual embeddings, as GeoTessera downloads them.

    A tile is ``YEAR/grid_LON_LAT/grid_LON_LAT.npy``, int8 (height, width, 128), beside ``grid_LON_LAT_scales.npy``,
    float32 (height, width) or (height, width, 128), by which it is multiplied. Its place is that of the land mask of
    its name, in a directory beside those of the years. An exported GeoTIFF contains components, and its place.
    """

    def is_scene(self, name: str) -> bool:
        """Return whether a file is a tile: not its scales, and not a land mask, which states no year."""
        return re.fullmatch(r"grid_-?\d+\.\d+_-?\d+\.\d+(\.npy|_\d{4}\.tiff?)", name) is not None

    def decoding(self, path: str, dtype: str) -> dict[str, Any]:
        """Return where the scales of an array are."""
        if dtype != "int8":
            return {}
        scales = f"{path.removesuffix('.npy')}_scales.npy"
        if not Path(scales).exists():
            raise RasterError("is missing, which contains the scales", scales)
        return {"decode": {"scales": scales}}

    def grid_of(self, path: str) -> str | None:
        """Return the land mask of an array."""
        if not path.endswith(".npy"):
            return None
        file = Path(path)
        name = f"{file.stem}.tiff"
        candidates = [
            file.with_name(name),
            *(up / "global_0.1_degree_tiff_all" / name for up in file.absolute().parents),
        ]
        for candidate in candidates:
            if candidate.exists():
                return str(candidate)
        raise RasterError(f"has no place without its land mask, global_0.1_degree_tiff_all/{name}", path)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"e{number}" for number in range(count))


def _olmoearth(size: str, dim: int) -> EmbeddingRaster:
    """Describe rasters of a size of OlmoEarth, as rslearn writes them."""
    name = f"olmoearth-{size}"
    return EmbeddingRaster(name, f"OlmoEarth's, {size}", {}, _numbered(dim), dtypes=("float32",))


SENSORS = (
    AlphaEarth(
        "alphaearth",
        "AlphaEarth's annual embeddings",
        {},
        tuple(f"A{number:02}" for number in range(64)),
        dtypes=("int8", "float32", "float64"),
        nodata=-128,
        file_pattern=r"x[0-9a-z]{16}-\d{10}-\d{10}\.",
        unit_length=True,
        year=r"/(20\d\d)/\d{1,2}[NS]/",
    ),
    EmbeddingRaster(
        "copernicus-embed",
        "Copernicus-Embed, 0.25 degrees",
        {},
        _numbered(768),
        dtypes=("float32", "float64"),
        nodata=0,  # the ocean
    ),
    GeoTessera(
        "geotessera",
        "TESSERA's annual embeddings",
        {},
        _numbered(128),
        dtypes=("int8", "float32"),
        file_pattern=r"grid_-?\d+\.\d\d_-?\d+\.\d\d[._]",
        description=r"Tessera_Band_(\d+)",
        year=r"/(20\d\d)/grid_[^/]*/[^/]*$|_(20\d\d)\.tiff?$",
    ),
    *(_olmoearth(size, dim) for size, dim in (("nano", 128), ("tiny", 192), ("base", 768), ("large", 1024))),
)
#: Vector space -> the product whose pixels are in it.
PRODUCTS = {sensor.space: sensor for sensor in SENSORS}
