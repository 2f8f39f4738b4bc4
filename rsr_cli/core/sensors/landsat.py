"""Landsat Collection 2 Level 2.

Reflectance = DN * 0.0000275 - 0.2, 0 is fill (USGS, Landsat 8-9 Collection 2 Level 2 Science Product Guide, LSDS-1619;
Landsat 4-7: LSDS-1618).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.errors import BandError
from rsr_cli.core.inputs import read_bytes
from rsr_cli.core.sensors.base import Sensor
from rsr_cli.core.sensors.quality import Marks, QualityBand
from rsr_cli.core.times import parse_datetime

if TYPE_CHECKING:
    from rsr_cli.core.sensors.base import Product

_TM = {"B1": "blue", "B2": "green", "B3": "red", "B4": "nir08", "B5": "swir16", "B7": "swir22"}
#: Bands of Landsat 8 and 9 that Level 2 has.
OLI = {"B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "nir08", "B6": "swir16", "B7": "swir22"}


@dataclass(frozen=True)
class Landsat(Sensor):
    """A Landsat product. ``spacecraft`` are the satellites as metadata files name them."""

    dates = ((re.compile(r"L[COTEM]0[4-9]_[A-Z0-9]{4}_\d{6}_(\d{8})_"), "%Y%m%d"),)

    spacecraft: tuple[str, ...] = ()

    def identifies(self, product: Product) -> bool:
        """Return whether the file's name or the product's metadata states one of the satellites."""
        return super().identifies(product) or self._metadata(product).get("SPACECRAFT_ID") in self.spacecraft

    def check_level(self, product: Product) -> None:
        """Refuse Level 1, by the file's name or the product's metadata."""
        metadata = self._metadata(product)
        level = metadata.get("PROCESSING_LEVEL", metadata.get("DATA_TYPE", ""))
        if level.startswith("L1") or re.match(r"L[COTE]0\d_L1|.*_Landsat_[\d-]+_L1_", product.file_name):
            raise BandError(f"is a Level-1 product, but {self.name} is Level 2", remedy="scale")

    def datetime_of(self, product: Product) -> str | None:
        """Return the acquisition time from the product's name, else from its metadata."""
        if when := super().datetime_of(product):
            return when
        metadata = self._metadata(product)
        if not {"DATE_ACQUIRED", "SCENE_CENTER_TIME"} <= metadata.keys():
            return None
        return parse_datetime(f"{metadata['DATE_ACQUIRED']}T{metadata['SCENE_CENTER_TIME']}")

    def _metadata(self, product: Product) -> dict[str, str]:
        """Read the MTL file beside a product's bands; empty unless there is exactly one, or one of the same product.

        Of a key that recurs the first value counts: Level-2 files end with the metadata of the Level 1 they were made
        from.
        """
        for path in map(Path, product.paths if product.per_band else ()):
            files = list(path.parent.glob("[!.]*_MTL.txt"))
            stem = self.product_of_file(path.name)
            same = [file for file in files if stem and file.name.startswith(stem)] or files
            if len(same) == 1:
                text = read_bytes(same[0]).decode(errors="replace")
                pairs = re.findall(r'^\s*(\w+) = "?([^"\n]*?)"?\s*$', text, re.MULTILINE)
                return dict(reversed(pairs))
        return {}


#: QA_PIXEL: bits for fill, dilated cloud, cirrus (from Landsat 8 on), cloud, shadow. Those of Collection 1 are others.
_QA_PIXEL = QualityBand(
    "QA_PIXEL",
    clouds=Marks(bits=(2, 3)),
    doubtful=Marks(bits=(1, 4)),
    fill=Marks(bits=(0,)),
    former=("BQA", "pixel_qa"),
)


def _sensor(name: str, title: str, bands: dict[str, str], file_pattern: str, *numbers: int) -> Landsat:
    return Landsat(
        name,
        f"{title}, Collection 2 Level 2",
        bands,
        tuple(bands.values()),
        scale=0.275,
        offset=-2000.0,
        dtypes=("uint16",),
        nodata=0.0,
        file_pattern=file_pattern,
        spacecraft=tuple(f"LANDSAT_{number}" for number in numbers),
        quality=_QA_PIXEL,
    )


SENSORS = (
    _sensor("landsat5", "Landsat 4-5", _TM, "LT0[45]_L[12]", 4, 5),
    _sensor("landsat7", "Landsat 7", _TM, "LE07_L[12]", 7),
    _sensor("landsat8", "Landsat 8-9", OLI, "L[CO]0[89]_L[12]", 8, 9),
)
