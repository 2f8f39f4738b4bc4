"""Harmonized Landsat and Sentinel-2 (HLS v2.0 User Guide, https://lpdaac.usgs.gov/documents/1698/HLS_User_Guide_V2.pdf)."""

from __future__ import annotations

import re

from rsr_cli.core.sensors.base import Sensor
from rsr_cli.core.sensors.landsat import OLI
from rsr_cli.core.sensors.quality import Marks, QualityBand
from rsr_cli.core.sensors.sentinel2 import BANDS

_L30 = {f"B0{band[1]}": name for band, name in OLI.items()} | {"B09": "cirrus"}


class HLS(Sensor):
    """An HLS product."""

    dates = ((re.compile(r"HLS\.[SL]30\.T\d\d[A-Z]{3}\.(\d{7}T\d{6})(?!\d)"), "%Y%jT%H%M%S"),)


#: Bits of table 9 of the guide: cloud, adjacent to cloud or shadow, shadow. The cirrus bit is reserved; 255 is fill.
_FMASK = QualityBand("Fmask", clouds=Marks(bits=(1,)), doubtful=Marks(bits=(2, 3)), fill=Marks(values=(255,)))


def _sensor(name: str, title: str, bands: dict[str, str], file_pattern: str) -> HLS:
    return HLS(name, title, bands, tuple(bands.values()), nodata=-9999, file_pattern=file_pattern, quality=_FMASK)


SENSORS = (
    _sensor("hls-s30", "HLS Sentinel-2 (S30)", BANDS, r"HLS\.S30\."),
    _sensor("hls-l30", "HLS Landsat (L30)", _L30, r"HLS\.L30\."),
)
