"""Sensors: which bands a product has, how its files are named, and how its numbers become reflectance.

Band names are STAC common names. Reflectance x 10000 = DN * scale + offset.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rsr_cli.core.errors import BandError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Names that a band may carry: STAC's common names for optical bands.
COMMON_NAMES = (
    *("pan", "coastal", "blue", "green", "green05", "yellow", "red"),
    *("rededge", "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09", "cirrus"),
    *("swir16", "swir22", "lwir", "lwir11", "lwir12"),
)
#: A band of a file that has no common name and is not used.
UNUSED = "-"


#: Family of sensors -> where the acquisition time (UTC) stands in a product's name, and its layout.
DATES = {
    # Names of 2015 and 2016 (_OPER_) begin with the time of production.
    "sentinel2": (re.compile(r"(?:_OPER_.*_V|^(?!.*_OPER_).*?(?<!\d))(\d{8}T\d{5,6})(?!\d)"), "%Y%m%dT%H%M%S"),
    "hls": (re.compile(r"\.(\d{7}T\d{6})\."), "%Y%jT%H%M%S"),
    "landsat": (re.compile(r"L[COTEM]0[4-9]_[A-Z0-9]{4}_\d{6}_(\d{8})_"), "%Y%m%d"),
}
# Products whose names say what they are, where taking one for another would read the wrong bands or a wrong scale.
_SPACECRAFT = {"LANDSAT_4": "landsat5", **{f"LANDSAT_{n}": f"landsat{min(n, 8)}" for n in (5, 7, 8, 9)}}
_PRODUCTS = (
    (re.compile(r"^HLS\.S30\."), "hls-s30"),
    (re.compile(r"^HLS\.L30\."), "hls-l30"),
    (re.compile(r"^LT0[45]_L2"), "landsat5"),
    (re.compile(r"^LE07_L2"), "landsat7"),
    (re.compile(r"^L[CO]0[89]_L2"), "landsat8"),
)

# B2, B02 or B8A after a separator, then perhaps a resolution (Sentinel-2's R10m files), then the ending. Sentinel-2's
# masks (MSK_DETFOO_B02.jp2) are no bands.
_BAND_FILE = re.compile(r"^(?!MSK_)(?:|.*[_.])(B\d?\d?A?)(?:_(\d+)m)?\.(?:tiff?|jp2|img|vrt)$", re.IGNORECASE)
# As a product (B02, SR_B2) or Google Earth Engine (B2) writes it.
_BAND = re.compile(r"(?:SR_)?B0?(\d+A?)", re.IGNORECASE)


@dataclass(frozen=True)
class Sensor:
    """A product of a sensor.

    Attributes
    ----------
    name : str
        As in ``--sensor``.
    title : str
        For the help text.
    bands : dict of str to str
        Band of the product (``B8A``) -> STAC common name.
    order : tuple of str
        STAC common names in the order of the product's multi-band files.
    scale, offset : float
        Reflectance x 10000 = DN * scale + offset.
    dtypes : tuple of str
        Of the numbers that ``scale`` and ``offset`` belong to.
    nodata : float or None
        Where the product declares one and its files may not.
    family : str
        Whose habit of naming products it follows: a key of `DATES`, or none.
    """

    name: str
    title: str
    bands: dict[str, str]
    order: tuple[str, ...]
    scale: float = 1.0
    offset: float = 0.0
    dtypes: tuple[str, ...] = ("uint16", "int16")
    nodata: float | None = None
    family: str = ""

    def band_of_file(self, name: str) -> tuple[str, int] | None:
        """Read a single-band file's band from its name.

        Parameters
        ----------
        name : str
            File name, such as ``T33UUP_20170613T101031_B02_10m.jp2``.

        Returns
        -------
        tuple of str and int, or None
            STAC common name, and the resolution in metres that the name states (0 for none).
        """
        found = _BAND_FILE.match(name)
        common = self.common_name(found[1]) if found else None
        return (common, int(found[2] or 0)) if found and common else None

    def common_name(self, band: str) -> str | None:
        """Translate the product's name of a band, such as ``B8A``, ``B02``, ``B2`` or ``SR_B2``."""
        found = _BAND.fullmatch(band)
        return {key.lstrip("B0"): name for key, name in self.bands.items()}.get(found[1].upper()) if found else None

    def check_product(self, path: str, metadata: Mapping[str, str], *, scaled: bool = False) -> None:
        """Check that a file is not of another sensor's product, by its name and by what the product says of itself.

        Parameters
        ----------
        path : str
            Absolute path of the file.
        metadata : mapping of str to str
            Of the Landsat product it lies in, as its MTL file has them; empty where there is none.
        scaled : bool
            The user says how its numbers become reflectance.

        Raises
        ------
        BandError
            It is.
        """
        name = path.rpartition("/")[2]
        other = next((sensor for pattern, sensor in _PRODUCTS if pattern.match(name)), None)
        other = other or _SPACECRAFT.get(metadata.get("SPACECRAFT_ID", ""))
        level = re.findall(r"/S2[A-D]_MSIL(1C|2A)_", path)
        if level and self.name != "rgb":  # a product has a picture in true colour too
            other = f"sentinel2-l{level[-1].lower()}"
        if other and other != self.name:
            raise BandError(f"is of a product of {other}, by its name or metadata, and --sensor is {self.name}")
        processing = metadata.get("PROCESSING_LEVEL", metadata.get("DATA_TYPE", ""))
        is_level_1 = processing.startswith("L1") or re.match(r"L[COTE]0\d_L1", name)
        if self.family == "landsat" and is_level_1 and not scaled:
            raise BandError(
                f"is of a Level-1 product, and {self.name} is Level 2;"
                " pass --scale and --offset: reflectance x 10000 = DN * scale + offset"
            )

    def offset_of(self, path: str) -> float:
        """Give the offset of a file's numbers: the product's own, or -1000 in later Sentinel-2 products.

        Their numbers carry it from processing baseline 04.00 on, which the product's name states (``_N0400_``); only
        the name of a ``.SAFE`` directory is trusted, for files copied out of it may have been harmonised.
        """
        found = re.search(r"_N(\d{4})_[^/]*\.SAFE/", path)
        return -1000.0 if self.family == "sentinel2" and found and int(found[1]) >= 400 else self.offset

    def datetime_of(self, *names: str) -> str | None:
        """Read the acquisition time from the first of a product's names that states it, as RFC 3339 in UTC."""
        pattern, layout = DATES.get(self.family, (None, ""))
        for found in filter(None, map(pattern.search, names)) if pattern else ():
            with suppress(ValueError):
                # BigEarthNet writes 09:30:20 as T93020
                return datetime.strptime(re.sub(r"T(\d{5})$", r"T0\1", found[1]), layout).strftime("%Y-%m-%dT%H:%M:%SZ")
        return None


_SENTINEL2 = {
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
_S2_ORDER = tuple(_SENTINEL2.values())
_S2_L2A = {band: name for band, name in _SENTINEL2.items() if name != "cirrus"}
_EUROSAT_ORDER = (*(name for name in _S2_ORDER if name != "nir08"), "nir08")
_TM = {"B1": "blue", "B2": "green", "B3": "red", "B4": "nir08", "B5": "swir16", "B7": "swir22"}
_TM_ORDER = tuple(_TM.values())
_OLI = {"B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "nir08", "B6": "swir16", "B7": "swir22"}
_OLI_ORDER = tuple(_OLI.values())
_HLS_L30 = {f"B0{band[1]}": name for band, name in _OLI.items()} | {"B09": "cirrus"}

# Landsat Collection 2 Level 2: reflectance = DN * 0.0000275 - 0.2, 0 is fill
# (USGS, Landsat 8-9 Collection 2 Level 2 Science Product Guide, LSDS-1619; Landsat 4-7: LSDS-1618).
_C2 = (0.275, -2000.0, ("uint16",), 0.0, "landsat")

SENSORS = {
    sensor.name: sensor
    for sensor in (
        Sensor("sentinel2-l1c", "Sentinel-2 Level-1C", _SENTINEL2, _S2_ORDER, nodata=0, family="sentinel2"),
        Sensor("sentinel2-l2a", "Sentinel-2 Level-2A", _S2_L2A, tuple(_S2_L2A.values()), nodata=0, family="sentinel2"),
        Sensor("eurosat", "EuroSAT multi-spectral, B8A last", _SENTINEL2, _EUROSAT_ORDER),
        Sensor("hls-s30", "HLS Sentinel-2 (S30)", _SENTINEL2, _S2_ORDER, nodata=-9999, family="hls"),
        Sensor("hls-l30", "HLS Landsat (L30)", _HLS_L30, tuple(_HLS_L30.values()), nodata=-9999, family="hls"),
        Sensor("landsat5", "Landsat 4-5, Collection 2 Level 2", _TM, _TM_ORDER, *_C2),
        Sensor("landsat7", "Landsat 7, Collection 2 Level 2", _TM, _TM_ORDER, *_C2),
        Sensor("landsat8", "Landsat 8-9, Collection 2 Level 2", _OLI, _OLI_ORDER, *_C2),
        Sensor("rgb", "8-bit red, green, blue", {}, ("red", "green", "blue"), 10000 / 255, dtypes=("uint8",)),
    )
}


def check_names(names: Sequence[str], *, unused: bool = False) -> tuple[str, ...]:
    """Check names of bands that a user gave; ``unused`` allows `UNUSED` among them.

    Raises
    ------
    UsageError
        A name is unknown, or names two bands.
    """
    used = [name for name in names if name != UNUSED or not unused]
    for name in used:
        if name not in COMMON_NAMES:
            also = f", or {UNUSED} for a band that is not used" if unused else ""
            raise UsageError(f"{name!r} is not a STAC common name of a band; one of {' '.join(COMMON_NAMES)}{also}")
    twice = {name for name in used if used.count(name) > 1}
    if twice:
        raise UsageError(f"{', '.join(sorted(twice))} named twice")
    if not used:
        raise UsageError("no band is named")
    return tuple(names)


def name_bands(
    count: int, descriptions: Sequence[str | None], sensor: Sensor | None, given: Sequence[str] | None
) -> tuple[str, ...]:
    """Name the bands of a multi-band file, from what the user said, else from the file; never by a guess.

    Parameters
    ----------
    count : int
        Number of bands in the file, without alpha.
    descriptions : sequence of str or None
        The file's own band descriptions.
    sensor : Sensor, optional
        Whose band numbers (``B8A``) the descriptions may be, and whose order of bands holds where there are none.
    given : sequence of str, optional
        Names in the file's order, ``-`` for a band that is not used.

    Returns
    -------
    tuple of str
        One name a band; ``-`` where a band has no common name.

    Raises
    ------
    BandError
        The bands cannot be told apart, or are not as many as named.
    """
    if given:
        if len(given) != count:
            raise BandError(
                f"has {count} bands, not counting alpha, and --bands names {len(given)};"
                " name each, with - for one not used"
            )
        return tuple(given)
    described = [(text or "").strip() for text in descriptions]
    names = [_described(text, sensor) for text in described]
    known = [name for name in names if name != UNUSED]
    if known and len(set(known)) == len(known) and all(described):
        return tuple(names)
    if sensor is None:
        found = f" ({', '.join(text or 'none' for text in described[:4])}, ...)" if any(described) else ""
        raise BandError(
            f"has {count} bands whose descriptions{found} name no STAC band each;"
            " pass --sensor, or --bands with a name for each"
        )
    if len(sensor.order) == count:
        return sensor.order
    raise BandError(
        f"has {count} bands, and a file of {sensor.name} has {len(sensor.order)}; pass --bands with a name for each"
    )


def _described(text: str, sensor: Sensor | None) -> str:
    if text.lower() in COMMON_NAMES:
        return text.lower()
    return (sensor and sensor.common_name(text)) or UNUSED


def parse_datetime(text: str) -> str:
    """Check a date or a time as RFC 3339 (STAC's ``datetime``) and write it in UTC.

    Raises
    ------
    UsageError
        It is neither.
    """
    try:
        when = datetime.fromisoformat(text)
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a date or time such as 2023-06-10 or 2023-06-10T07:46:21Z") from None
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def year_and_day(when: str) -> tuple[float, float]:
    """Split STAC's ``datetime`` into year and zero-based day of the year."""
    moment = datetime.fromisoformat(parse_datetime(when))
    return float(moment.year), float((moment - datetime(moment.year, 1, 1, tzinfo=UTC)) // timedelta(days=1))
