"""Sentinel-2, as ESA distributes it.

Sources: Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD); processing baseline 04.00,
https://sentiwiki.copernicus.eu/web/s2-processing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsr_cli.core.sensors.base import Sensor

if TYPE_CHECKING:
    from rsr_cli.core.sensors.base import Product

#: Bands in ESA's order.
BANDS = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge071",
    "B06": "rededge075",
    "B07": "rededge078",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B10": "cirrus",
    "B11": "swir16",
    "B12": "swir22",
}
_L2A_BANDS = {band: name for band, name in BANDS.items() if name != "cirrus"}
#: From this processing baseline on, DN carry an offset.
_OFFSET_BASELINE = 400


@dataclass(frozen=True)
class Sentinel2(Sensor):
    """A Sentinel-2 product. Its ``level`` is the one in the names of products (``S2A_MSIL1C_``)."""

    # Names of 2015 and 2016 (_OPER_) begin with the time of production.
    date = (re.compile(r"(?:_OPER_.*_V|^(?!.*_OPER_).*?(?<!\d))(\d{8}T\d{5,6})(?!\d)"), "%Y%m%dT%H%M%S")

    level: str = ""

    def identifies(self, product: Product) -> bool:
        """Return whether the name of a directory above the file is a product's name of this level."""
        levels = re.findall(r"/S2[A-D]_MSIL(1C|2A)_", product.path)
        return levels[-1:] == [self.level]

    def offset_of(self, product: Product) -> float:
        """Return -1000 from processing baseline 04.00 on, which the product's name states (``_N0400_``).

        Only the name of a ``.SAFE`` directory counts: files copied out of it may have been harmonised.
        """
        found = re.search(r"_N(\d{4})_[^/]*\.SAFE/", product.path)
        return -1000.0 if found and int(found[1]) >= _OFFSET_BASELINE else self.offset

    def complete_date(self, text: str) -> str:
        """Return the date with the hour in two digits: BigEarthNet writes 09:30:20 as T93020."""
        return re.sub(r"T(\d{5})$", r"T0\1", text)


SENSORS = (
    Sentinel2("sentinel2-l1c", "Sentinel-2 Level-1C", BANDS, tuple(BANDS.values()), nodata=0, level="1C"),
    Sentinel2("sentinel2-l2a", "Sentinel-2 Level-2A", _L2A_BANDS, tuple(_L2A_BANDS.values()), nodata=0, level="2A"),
)
