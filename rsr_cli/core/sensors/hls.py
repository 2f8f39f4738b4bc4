"""Harmonized Landsat and Sentinel-2 (HLS v2.0 User Guide, https://lpdaac.usgs.gov/documents/1698/HLS_User_Guide_V2.pdf)."""

from __future__ import annotations

import re

from rsr_cli.core.sensors.base import Sensor
from rsr_cli.core.sensors.landsat import OLI
from rsr_cli.core.sensors.sentinel2 import BANDS

_L30 = {f"B0{band[1]}": name for band, name in OLI.items()} | {"B09": "cirrus"}


class HLS(Sensor):
    """An HLS product."""

    dates = ((re.compile(r"HLS\.[SL]30\.T\d\d[A-Z]{3}\.(\d{7}T\d{6})(?!\d)"), "%Y%jT%H%M%S"),)


SENSORS = (
    HLS("hls-s30", "HLS Sentinel-2 (S30)", BANDS, tuple(BANDS.values()), nodata=-9999, file_pattern=r"HLS\.S30\."),
    HLS("hls-l30", "HLS Landsat (L30)", _L30, tuple(_L30.values()), nodata=-9999, file_pattern=r"HLS\.L30\."),
)
