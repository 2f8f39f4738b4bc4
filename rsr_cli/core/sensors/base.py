"""What a sensor is.

Band names are STAC common names. Reflectance x 10000 = DN * scale + offset.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from rsr_cli.core.errors import BandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.sensors.quality import QualityBand

#: STAC's polarizations of radar bands (``sar:polarizations``).
POLARIZATIONS = ("vv", "vh", "hh", "hv")
#: Unit of linear backscatter -> decibels per factor of ten.
DECIBELS = {"power": 10.0, "amplitude": 20.0}
#: STAC's names of bands: the common names of optical ones, and the polarizations.
COMMON_NAMES = (
    *("pan", "coastal", "blue", "green", "green05", "yellow", "red"),
    *("rededge", "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09", "cirrus"),
    *("swir16", "swir22", "lwir", "lwir11", "lwir12"),
    *POLARIZATIONS,
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
#: Stands for a band that has no name or is not used.
UNUSED = "-"
#: Endings of the names of rasters.
RASTER_ENDINGS = (".tif", ".tiff", ".gtif", ".gtiff", ".jp2", ".img", ".vrt", ".png", ".jpg", ".jpeg")
#: More bands with numbers in their names than this, one after the other, are written as a run: ``A00..A63``.
LONGEST_LIST = 16
LONGEST_RUN = 1 << 16

# The band after a separator, then perhaps a resolution (Sentinel-2's R10m files) or what EO Browser adds, then the
# ending. Sentinel-2's masks (MSK_DETFOO_B02.jp2) are not bands.
_BAND_FILE = r"(?!MSK_)(|.*[_.-])({})(?:_(\d+)m)?(?:_\(Raw\)|\.rtc)?\.(?:tiff?|jp2|img|vrt)"
# As a product (B02, SR_B2) or Google Earth Engine (B2) writes it.
_BAND = re.compile(r"(?:SR_)?B0?(\d+A?)", re.IGNORECASE)
# The day of an export of EO Browser or Copernicus Browser, whose names begin with the first and last moment.
_EXPORTED_DAY = re.compile(r"^(\d{4}-\d\d-\d\d)(?:-\d\d[_:]\d\d_\1-\d\d[_:]\d\d)?_(?:Sentinel|Landsat|HLS)")
# A day of this century, as names and TIFFTAG_DATETIME write it.
_DAY = re.compile(r"(?<!\d)(20\d\d)([-_.:/]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")
# One of its bands.
_EXPORTED = re.compile(r"_\(Raw\)\.tiff?$", re.IGNORECASE)


#: A name that ends with a number, and a run of such names.
NUMBERED = re.compile(r"(.*?)([0-9]{1,7})")
_RUN = re.compile(r"(.*?)([0-9]{1,7})\.\.(.*?)([0-9]{1,7})")


def span(text: str, longest: int = 10**7) -> tuple[str, ...]:
    """Return the names of a run, from the first to the last one, such as those of ``A00..A63``.

    There are none if the text states no run, or one of more names than ``longest``.
    """
    run = _RUN.fullmatch(text)
    numbers = range(int(run[2]), int(run[4]) + 1) if run and run[1] == run[3] else range(0)
    if run is None or len(numbers) > longest:
        return ()
    return tuple(f"{run[1]}{number:0{len(run[2])}}" for number in numbers)


@lru_cache(maxsize=64)
def expand(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of bands with each run, such as ``A00..A63``, in full; none has more than `LONGEST_RUN`."""
    return tuple(each for name in names for each in span(name, LONGEST_RUN) or (name,))


def contract(names: Sequence[str]) -> list[str]:
    """Return names of bands with each run of more than `LONGEST_LIST` in short; `expand` returns them again."""
    short: list[str] = []
    run: list[str] = []
    for name in [*names, ""]:
        if run and name != _following(run[-1]):
            short += [f"{run[0]}..{run[-1]}"] if len(run) > LONGEST_LIST else run
            run = []
        run.append(name)
    return short


def _following(name: str) -> str | None:
    """Return the name after one that ends with a number."""
    found = NUMBERED.fullmatch(name)
    return f"{found[1]}{int(found[2]) + 1:0{len(found[2])}}" if found else None


def is_reflectance(band: str) -> bool:
    """Return whether a band measures reflectance: not heat or radar, and not what only the user has a name for."""
    return band in COMMON_NAMES and band not in POLARIZATIONS and not band.startswith("lwir")


def has_raster_ending(name: str) -> bool:
    """Return whether a file is named as rasters are."""
    return name.lower().endswith(RASTER_ENDINGS)


def factor_of(band: str) -> int:
    """Return what the numbers of files are multiplied with that state a band in its unit: reflectance is x 10000."""
    return 10000 if is_reflectance(band) else 1


def unit_read(unit: object) -> str | None:
    """Return the unit of pixels as they are read, None without one: linear backscatter becomes decibels."""
    return ("dB" if unit in DECIBELS else unit) if isinstance(unit, str) else None


@dataclass(frozen=True)
class Product:
    """What a sensor may learn about the product that a scene comes from.

    Attributes
    ----------
    path : str
        Absolute path of the scene's file, or of the first of its single-band files.
    per_band : bool
        The scene is one file per band, and the product's metadata may be beside them.
    datetime : str or None
        The acquisition time, if the user states it.
    tags : dict of str to str
        What its first file states of itself.
    """

    path: str
    per_band: bool = False
    datetime: str | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def day(self) -> str:
        """The latest day (``2023-06-10``) in the file's name and in the tags about dates and times; empty if none is.

        It need not be that of the acquisition.
        """
        texts = [self.file_name, *(text for name, text in self.tags.items() if re.search("DATE|TIME", name.upper()))]
        return max(("-".join(found.group(1, 3, 4)) for text in texts for found in _DAY.finditer(text)), default="")

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The path that all links lead to, and if it is another one, the path as it was found."""
        return tuple(dict.fromkeys((os.path.realpath(self.path), self.path)))


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
    unit : str
        What the numbers of its bands are, where they are not reflectance x 10000; see `unit_read`.
    quality : QualityBand or None
        The band that classifies pixels: cloud, shadow, fill.
    """

    #: Where the acquisition time (UTC) stands in a product's name, and its layout, the surest first.
    dates: ClassVar[tuple[tuple[re.Pattern[str], str], ...]] = ()
    #: Regular expression for a band in the name of a single-band file.
    band_pattern: ClassVar[str] = r"B\d?\d?A?"

    name: str
    title: str
    bands: dict[str, str]
    order: tuple[str, ...]
    scale: float = 1.0
    offset: float = 0.0
    dtypes: tuple[str, ...] = ("uint16", "int16")
    nodata: float | None = None
    file_pattern: str = ""
    unit: str = ""
    quality: QualityBand | None = None

    @property
    def space(self) -> str:
        """The vector space of its pixels, if these are embeddings, else empty."""
        return ""

    def is_scene(self, name: str) -> bool:
        """Return whether a file in a directory is a scene, by its name."""
        return has_raster_ending(name)

    def check_bands(self, names: Sequence[str]) -> None:
        """Check that all bands are there that the product is useless without.

        Raises
        ------
        BandError
            One is missing.
        """

    def decoding(self, path: str, dtype: str) -> dict[str, Any]:  # noqa: ARG002  for products of embeddings
        """Return the properties of a record that state how the numbers of a file become components of embeddings.

        These are ``scale`` and ``offset`` and, after them, ``decode``.

        Parameters
        ----------
        path : str
            The file.
        dtype : str
            The data type of its numbers.

        Raises
        ------
        RasterError
            What it takes is missing.
        """
        return {}

    def grid_of(self, path: str) -> str | None:  # noqa: ARG002  for products that state their place elsewhere
        """Return the raster that states the place of a file's pixels, if the file itself does not.

        Raises
        ------
        RasterError
            It is missing.
        """
        return None

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
        found = self._parse(name)
        common = self.common_name(found[2]) if found else None
        return (common, int(found[3] or 0)) if found and common else None

    def product_of_file(self, name: str, band: str = "") -> str:
        """Return what the name of a single-band file begins with before its band: that of all files of a product.

        Parameters
        ----------
        name : str
            File name.
        band : str
            Name of a band that is none of the sensor's, such as ``SCL``; by default any of the sensor's.
        """
        found = self._parse(name, re.escape(band))
        return re.sub(r"(_SR)?[_.-]*$", "", found[1]) if found else ""

    def resolution_of_file(self, name: str, band: str) -> int | None:
        """Return the resolution in metres of the file of a band such as ``SCL`` (0 if the name states none)."""
        found = self._parse(name, re.escape(band))
        return int(found[3] or 0) if found else None

    def _parse(self, name: str, band: str = "") -> re.Match[str] | None:
        return re.fullmatch(_BAND_FILE.format(band or self.band_pattern), name, re.IGNORECASE)

    def common_name(self, band: str) -> str | None:
        """Return the common name of a product's band, such as ``B8A``, ``B02``, ``B2`` or ``SR_B2``."""
        found = _BAND.fullmatch(band)
        return {key.lstrip("B0"): name for key, name in self.bands.items()}.get(found[1].upper()) if found else None

    def identifies(self, product: Product) -> bool:
        """Return whether a product's name or metadata states that it is from this sensor."""
        return self.names(product.file_name)

    def names(self, file_name: str) -> bool:
        """Return whether a file's name is one that only this product has."""
        return bool(self.file_pattern and re.match(self.file_pattern, file_name))

    def dates_file(self, file_name: str) -> bool:
        """Return whether a file's name has a date where products of this family have it."""
        return any(pattern.search(file_name) for pattern, _ in self.dates)

    def check_stated(self, stated: Sensor | None) -> None:
        """Check that the sensor that a product's name or metadata states, if any, is this one.

        Raises
        ------
        BandError
            The product is another sensor's.
        """
        if stated is not None and stated is not self:
            raise BandError(
                f"name or metadata identifies it as {stated.name}, but the sensor is {self.name}",
                remedy="sensor",
                sensor=stated.name,
            )

    def check_level(self, product: Product) -> None:
        """Check that a product's numbers are at the level that ``scale`` and ``offset`` apply to.

        Raises
        ------
        BandError
            They are at another level.
        """

    def check_numbers(self, below_zero: float) -> None:
        """Check that numbers, of which this share is below zero, can be in the sensor's unit.

        Raises
        ------
        BandError
            They cannot.
        """

    def calibration(
        self,
        product: Product,  # noqa: ARG002  for families whose products state it
        bands: Sequence[str],
        offset: float | None = None,
    ) -> list[tuple[float, float]]:
        """Return the scale and offset of some of a product's bands, to reflectance x 10000.

        Parameters
        ----------
        product : Product
            The product.
        bands : sequence of str
            STAC common names.
        offset : float, optional
            The user's, which replaces that of all bands.

        Raises
        ------
        BandError
            The product states that they differ from other products', but not how.
        """
        return [(self.scale, self.offset if offset is None else offset)] * len(bands)

    def doubt(
        self,
        product: Product,
        samples: Mapping[str, NDArray[Any]],  # noqa: ARG002  for families whose numbers state it
    ) -> BandError | None:
        """Return why what `calibration` returns may be wrong for a product, or None.

        Parameters
        ----------
        product : Product
            The product.
        samples : dict of str to numpy.ndarray
            STAC common name -> some valid numbers of the band, (n,).
        """
        if self.unit or not _EXPORTED.search(product.file_name):
            return None
        return BandError(
            "is named as exports of EO Browser, whose 16-bit numbers are reflectance x 65535", remedy="scale-of-export"
        )

    def times_of(self, product: Product) -> dict[str, str | None]:
        """Return the properties of a record about time that a product states, as STAC names them."""
        when = self.datetime_of(product)
        return {"datetime": when} if when else {}

    def datetime_of(self, product: Product) -> str | None:
        """Return the acquisition time that a product states, as RFC 3339 in UTC, or None.

        The name of the file is searched first, then those of the directories above it. In each, only what is the
        product's own counts: a directory may have the time of an order or a download in its name.
        """
        for part in (part for path in product.paths for part in reversed(path.split("/"))):
            for pattern, layout in (*self.dates, (_EXPORTED_DAY, "%Y-%m-%d")):
                if found := pattern.search(part):
                    text = next(filter(None, found.groups()))
                    with suppress(ValueError):
                        return datetime.strptime(self.complete_date(text), layout).strftime("%Y-%m-%dT%H:%M:%SZ")
        return None

    def complete_date(self, text: str) -> str:
        """Return the date that a name states with the digits that its layout requires."""
        return text


def missing_bands(absent: Sequence[str], has: Iterable[str]) -> str:
    """Return that bands are missing, and which are there, for a message."""
    what = f"band {absent[0]} is" if len(absent) == 1 else f"bands {', '.join(absent)} are"
    return f"{what} missing (has {', '.join(contract([*has])) or 'none'})"
