"""EuroSAT: patches of Sentinel-2 Level-1C whose last band is B8A (https://doi.org/10.5281/zenodo.7711810)."""

from __future__ import annotations

from rsr_cli.core.sensors.base import Sensor
from rsr_cli.core.sensors.sentinel2 import BANDS

_ORDER = (*(name for name in BANDS.values() if name != "nir08"), "nir08")

SENSORS = (Sensor("eurosat", "EuroSAT multi-spectral, B8A last", BANDS, _ORDER),)
