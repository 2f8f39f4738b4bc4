"""Sensors: which bands a product has, how its files are named, and how its numbers become reflectance.

A new sensor is an entry in ``SENSORS`` of its family's module; a new family is a module of its own and an entry here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rsr_cli.core.errors import UsageError
from rsr_cli.core.sensors import aerial, embeddings, eurosat, hls, landsat, sentinel1, sentinel2
from rsr_cli.core.sensors.base import COMMON_NAMES, UNUSED, expand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsr_cli.core.sensors.base import Product, Sensor

_FAMILIES = (aerial, embeddings, eurosat, hls, landsat, sentinel1, sentinel2)
#: Name, as in ``rsr tile --sensor`` -> sensor.
SENSORS = {sensor.name: sensor for family in _FAMILIES for sensor in family.SENSORS}

# What a name of one's own may be: it must stand in a model specification, and unquoted in a shell.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
# The band of a product, as it is written anywhere.
_PRODUCT_BAND = re.compile(r"(?:SR_|ST_)?B(?:AND)?[_-]?0*(\d{1,2}A?)", re.IGNORECASE)


def identify(product: Product) -> Sensor | None:
    """Return the sensor that a product's name or metadata states, or None if they state none."""
    return next((sensor for sensor in SENSORS.values() if sensor.identifies(product)), None)


def resembling(product: Product, sensor: Sensor) -> list[str]:
    """Return the sensors of another family whose files are named as a product's is, none of its own family's.

    A sensor whose products have no names with dates, such as photographs, takes any.
    """
    if not sensor.dates or sensor.dates_file(product.file_name):
        return []
    return [other.name for other in SENSORS.values() if other.dates_file(product.file_name)]


def check_names(names: Sequence[str], *, unused: bool = False) -> tuple[str, ...]:
    """Return the names of bands that a user passed: STAC's, or names of the user's own such as ``vv`` or ``A00..A63``.

    Parameters
    ----------
    names : sequence of str
        The names.
    unused : bool
        Allow `UNUSED` among them.

    Raises
    ------
    UsageError
        A name is a product's number of a band, is nearly a common name, has other characters than a name may have,
        or occurs twice, or no band is named.
    """
    names = expand(tuple(names))
    used = [name for name in names if name != UNUSED or not unused]
    for name in used:
        _check_name(name)
    twice = {name for name in used if used.count(name) > 1}
    if twice:
        raise UsageError(f"{', '.join(sorted(twice))} named twice")
    if not used:
        raise UsageError("no band is named")
    return tuple(names)


def _check_name(name: str) -> None:
    """Raise UsageError unless a name is STAC's, or cannot be mistaken for one."""
    if name in COMMON_NAMES:
        return
    if not _NAME.fullmatch(name):
        what = f"{name!r} is not a STAC common name, and cannot be a name of your own"
        raise UsageError(f"{what}: use letters, digits, _ . and -, and begin with a letter")
    if found := _PRODUCT_BAND.fullmatch(name):
        meant: dict[str, list[str]] = {}
        for sensor in SENSORS.values():
            if common := sensor.common_name(f"B{found[1]}"):
                meant.setdefault(common, []).append(sensor.name)
        choices = "; ".join(f"{common} in {', '.join(sensors)}" for common, sensors in meant.items())
        what = f"{name!r} is not a STAC common name of a band, but the number of one in a product"
        raise UsageError(f"{what}; use {choices}" if choices else what)
    import difflib

    close = difflib.get_close_matches(name.lower(), COMMON_NAMES, cutoff=1 if len(name) < 3 else 0.75)
    if close:
        raise UsageError(f"{name!r} is not a STAC common name of a band; did you mean {' or '.join(close)}?")
