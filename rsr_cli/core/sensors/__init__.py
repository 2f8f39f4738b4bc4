"""Sensors: which bands a product has, how its files are named, and how its numbers become reflectance.

A new sensor is an entry in ``SENSORS`` of its family's module; a new family is a module of its own and an entry here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsr_cli.core.sensors import aerial, eurosat, hls, landsat, sentinel2

if TYPE_CHECKING:
    from rsr_cli.core.sensors.base import Product, Sensor

_FAMILIES = (aerial, eurosat, hls, landsat, sentinel2)
#: Name, as in ``rsr tile --sensor`` -> sensor.
SENSORS = {sensor.name: sensor for family in _FAMILIES for sensor in family.SENSORS}


def identify(product: Product) -> Sensor | None:
    """Return the sensor that a product's name or metadata states, or None if they state none."""
    return next((sensor for sensor in SENSORS.values() if sensor.identifies(product)), None)
