"""Sentinel-1, radiometrically terrain corrected (RTC): backscatter in decibels, or linear.

A record states which it is (``unit``), and pixels are read in decibels, so that all compare. Names are read of ASF HyP3
(https://hyp3-docs.asf.alaska.edu/guides/rtc_product_guide/#naming-convention), Microsoft's Planetary Computer,
BigEarthNet-S1, SNAP and EO Browser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsr_cli.core.errors import BandError
from rsr_cli.core.sensors.base import Sensor

if TYPE_CHECKING:
    from rsr_cli.core.sensors.base import Product

# HyP3 states the unit in one letter: decibels, power or amplitude.
_HYP3 = re.compile(r"S1[A-D]_.*_RTC\d+_G_[gs]([dpa])")
# As SNAP describes bands.
_BAND = re.compile(r"(?:(?:gamma|sigma)0_)?(vv|vh|hh|hv)(?:_db)?", re.IGNORECASE)
#: In decibels at least this share of numbers is below zero, in a linear unit at most this one (noise was removed).
LEAST_IN_DECIBELS, MOST_IN_LINEAR = 0.5, 0.01


@dataclass(frozen=True)
class Sentinel1(Sensor):
    """Backscatter in one unit."""

    dates = ((re.compile(r"S1[A-D]_(?:IW|EW|WV|SM|S\d)_(?:[A-Z0-9]+_)*?(\d{8}T\d{6})(?!\d)"), "%Y%m%dT%H%M%S"),)
    band_pattern = "VV|VH|HH|HV"

    def common_name(self, band: str) -> str | None:
        """Return the polarization of a band, such as ``VV`` or ``Gamma0_VV``."""
        found = _BAND.fullmatch(band)
        return found[1].lower() if found else None

    def identifies(self, product: Product) -> bool:
        """Return whether the file's name states Sentinel-1, and no other unit."""
        stated = _HYP3.match(product.file_name)
        return super().identifies(product) and (not stated or self.unit.lower().startswith(stated[1]))

    def check_numbers(self, below_zero: float) -> None:
        """Check that numbers, of which this share is below zero, can be in this unit; see `Sensor.check_numbers`."""
        found = f"{below_zero:.0%} of the numbers sampled are below zero"
        if self.unit == "dB" and below_zero < LEAST_IN_DECIBELS:
            raise BandError(f"is not in dB: {found}", remedy="sensor-linear")
        if self.unit != "dB" and below_zero > MOST_IN_LINEAR:
            raise BandError(f"is not linear: {found}", remedy="sensor", sensor="sentinel1")


def _sensor(name: str, title: str, unit: str) -> Sentinel1:
    return Sentinel1(
        name,
        f"Sentinel-1 RTC, {title}",
        {"VV": "vv", "VH": "vh"},
        ("vv", "vh"),
        dtypes=("float32", "float64"),
        file_pattern=r"S1[A-D]_(?:IW|EW|WV|SM|S\d)_|.*_Sentinel-1_",
        unit=unit,
    )


SENSORS = (
    _sensor("sentinel1", "in dB", "dB"),
    _sensor("sentinel1-power", "linear power, read in dB", "power"),
    _sensor("sentinel1-amplitude", "linear amplitude, read in dB", "amplitude"),
)
