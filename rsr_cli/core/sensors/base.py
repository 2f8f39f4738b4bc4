"""What a sensor is, and how the bands of a file get their names.

Band names are STAC common names. Reflectance x 10000 = DN * scale + offset.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from rsr_cli.core.errors import BandError, UsageError, counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Names that a band may carry: STAC's common names for optical bands.
COMMON_NAMES = (
    *("pan", "coastal", "blue", "green", "green05", "yellow", "red"),
    *("rededge", "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09", "cirrus"),
    *("swir16", "swir22", "lwir", "lwir11", "lwir12"),
)
#: Band -> one that covers about the same wavelengths.
STAND_INS = {
    "nir": "nir08",
    "nir08": "nir",
    "green": "green05",
    "rededge071": "rededge",
    "lwir11": "lwir",
    "lwir": "lwir11",
}
#: Stands for a band that has no common name or is not used.
UNUSED = "-"

# B2, B02 or B8A after a separator, then perhaps a resolution (Sentinel-2's R10m files), then the ending. Sentinel-2's
# masks (MSK_DETFOO_B02.jp2) are not bands.
_BAND_FILE = re.compile(r"^(?!MSK_)(?:|.*[_.])(B\d?\d?A?)(?:_(\d+)m)?\.(?:tiff?|jp2|img|vrt)$", re.IGNORECASE)
# As a product (B02, SR_B2) or Google Earth Engine (B2) writes it.
_BAND = re.compile(r"(?:SR_)?B0?(\d+A?)", re.IGNORECASE)


@dataclass(frozen=True)
class Product:
    """What a sensor may learn about the product that a scene comes from.

    Attributes
    ----------
    path : str
        Absolute path of the scene's file, or of the first of its single-band files.
    name : str
        Name of the scene, such as the product's directory.
    per_band : bool
        The scene is one file per band, and the product's metadata may be beside them.
    """

    path: str
    name: str = ""
    per_band: bool = False

    @property
    def file_name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Sensor:
    """A sensor's product. Families whose names or metadata state more override the methods that read them.

    Attributes
    ----------
    name : str
        Name on the command line.
    title : str
        One line for people.
    bands : dict of str to str
        Band of the product (``B8A``) -> STAC common name.
    order : tuple of str
        STAC common names in the order of the product's multi-band files.
    scale, offset : float
        Reflectance x 10000 = DN * scale + offset.
    dtypes : tuple of str
        Data types that ``scale`` and ``offset`` apply to.
    nodata : float or None
        DN of invalid pixels, where the product has one that its files may not declare.
    file_pattern : str
        Regular expression for the beginning of file names that only this product has; empty if there is none.
    """

    #: Where the acquisition time (UTC) stands in a product's name, and its layout; None if names do not state it.
    date: ClassVar[tuple[re.Pattern[str], str] | None] = None

    name: str
    title: str
    bands: dict[str, str]
    order: tuple[str, ...]
    scale: float = 1.0
    offset: float = 0.0
    dtypes: tuple[str, ...] = ("uint16", "int16")
    nodata: float | None = None
    file_pattern: str = ""

    def band_of_file(self, name: str) -> tuple[str, int] | None:
        """Return the band of a single-band file, from its name.

        Parameters
        ----------
        name : str
            File name, such as ``T33UUP_20170613T101031_B02_10m.jp2``.

        Returns
        -------
        tuple of str and int, or None
            STAC common name, and the resolution in metres that the name states (0 if it states none).
        """
        found = _BAND_FILE.match(name)
        common = self.common_name(found[1]) if found else None
        return (common, int(found[2] or 0)) if found and common else None

    def common_name(self, band: str) -> str | None:
        """Return the common name of a product's band, such as ``B8A``, ``B02``, ``B2`` or ``SR_B2``."""
        found = _BAND.fullmatch(band)
        return {key.lstrip("B0"): name for key, name in self.bands.items()}.get(found[1].upper()) if found else None

    def identifies(self, product: Product) -> bool:
        """Return whether a product's name or metadata states that it is from this sensor."""
        return bool(self.file_pattern and re.match(self.file_pattern, product.file_name))

    def check_stated(self, stated: Sensor | None) -> None:
        """Check that the sensor that a product's name or metadata states, if any, is this one.

        Raises
        ------
        BandError
            The product is another sensor's.
        """
        if stated is not None and stated is not self:
            raise BandError(f"name or metadata identifies it as {stated.name}, but the sensor is {self.name}")

    def check_level(self, product: Product) -> None:
        """Check that a product's numbers are at the level that ``scale`` and ``offset`` apply to.

        Raises
        ------
        BandError
            They are at another level.
        """

    def offset_of(self, product: Product) -> float:  # noqa: ARG002  for families whose products state it
        """Return the offset of a product's DN, in reflectance x 10000."""
        return self.offset

    def datetime_of(self, product: Product) -> str | None:
        """Return the acquisition time that a product states, as RFC 3339 in UTC, or None."""
        if self.date is None:
            return None
        pattern, layout = self.date
        for found in filter(None, map(pattern.search, (product.name, product.file_name))):
            with suppress(ValueError):
                return datetime.strptime(self.complete_date(found[1]), layout).strftime("%Y-%m-%dT%H:%M:%SZ")
        return None

    def complete_date(self, text: str) -> str:
        """Return the date that a name states with the digits that its layout requires."""
        return text


def check_names(names: Sequence[str], *, unused: bool = False) -> tuple[str, ...]:
    """Check names of bands that a user passed.

    Parameters
    ----------
    names : sequence of str
        The names.
    unused : bool
        Allow `UNUSED` among them.

    Raises
    ------
    UsageError
        A name is not a common name, occurs twice, or no band is named.
    """
    used = [name for name in names if name != UNUSED or not unused]
    for name in used:
        if name not in COMMON_NAMES:
            also = f", or {UNUSED} for a band that is not used" if unused else ""
            raise UsageError(f"{name!r} is not a STAC common name of a band; use one of {' '.join(COMMON_NAMES)}{also}")
    twice = {name for name in used if used.count(name) > 1}
    if twice:
        raise UsageError(f"{', '.join(sorted(twice))} named twice")
    if not used:
        raise UsageError("no band is named")
    return tuple(names)


def missing_bands(absent: Sequence[str], has: Iterable[str]) -> str:
    """Return that bands are missing, and which are there, for a message."""
    what = f"band {absent[0]} is" if len(absent) == 1 else f"bands {', '.join(absent)} are"
    return f"{what} missing (has {', '.join(has) or 'none'})"


def name_bands(
    count: int, descriptions: Sequence[str | None], sensor: Sensor | None, given: Sequence[str] | None
) -> tuple[str, ...]:
    """Name the bands of a multi-band file: as the user does, else as the file does, else as the sensor orders them.

    Parameters
    ----------
    count : int
        Number of bands in the file, without alpha.
    descriptions : sequence of str or None
        The file's own band descriptions.
    sensor : Sensor, optional
        The descriptions may be its band numbers (``B8A``); without usable descriptions its band order applies.
    given : sequence of str, optional
        Names in the file's order, ``-`` for a band that is not used.

    Returns
    -------
    tuple of str
        One name per band; ``-`` where a band has no common name.

    Raises
    ------
    BandError
        The bands cannot be told apart, or their number is not the expected one.
    """
    if given:
        if len(given) != count:
            named = f"{len(given)} {'is' if len(given) == 1 else 'are'} named"
            raise BandError(f"has {counted(count, 'band')}, not counting alpha, but {named}", remedy="bands")
        return tuple(given)
    described = [(text or "").strip() for text in descriptions]
    names = [_described(text, sensor) for text in described]
    known = [name for name in names if name != UNUSED]
    if known and len(set(known)) == len(known) and all(described):
        return tuple(names)
    if sensor is None:
        found = f" ({', '.join(text or 'none' for text in described[:4])}, ...)" if any(described) else ""
        raise BandError(
            f"has {counted(count, 'band')}, not each described by a STAC common name{found}", remedy="sensor-or-bands"
        )
    if len(sensor.order) == count:
        return sensor.order
    raise BandError(f"has {counted(count, 'band')}, but a {sensor.name} file has {len(sensor.order)}", remedy="bands")


def _described(text: str, sensor: Sensor | None) -> str:
    if text.lower() in COMMON_NAMES:
        return text.lower()
    return (sensor and sensor.common_name(text)) or UNUSED
