"""Sentinel-2, as ESA distributes it.

Sources: Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD); processing baseline 04.00,
https://sentiwiki.copernicus.eu/web/s2-processing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from rsr_cli.core.errors import BandError
from rsr_cli.core.sensors.base import Sensor
from rsr_cli.core.sensors.quality import Marks, QualityBand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.sensors.base import Product

#: Bands in ESA's order, in which metadata numbers them from 0 (``band_id``).
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
#: From this processing baseline on, DN carry an offset; it began on this day.
_OFFSET_BASELINE, _OFFSET_DAY = 400, "2022-01-25"
_OFFSET = -1000.0
#: Baselines from here on are products that somebody else than ESA made: their number states nothing.
_FOREIGN_BASELINE = 9900

#: Water, shadow or vegetation is nearly black in these bands, in most scenes. So an offset is in numbers of which there
#: are many, hardly any is below 1000, and the darkest of the others is not far above it.
_DARK_BANDS = frozenset({"blue", "red", "cirrus", "swir22"})
_MANY, _HARDLY_ANY, _DARK = 1000, 0.001, 500

LEVELS = ("1C", "2A")
_LEVEL = re.compile(r"/S2[A-D]_MSIL(1C|2A)_|/[^/]*_Sentinel-2_L(1C|2A)_")
_BASELINE = re.compile(r"/S2[A-D]_MSIL\w\w_\d+T\d+_N(\d{4})_[^/]*")
# MTD_MSIL2A.xml, or until 2016 S2A_OPER_MTD_SAFL1C_... and S2A_USER_MTD_SAFL2A_...
_METADATA = re.compile(r"(?:MTD_MSI|S2[A-D]_(?:OPER|USER)_MTD_SAF)L(1C|2A)(?:_.*)?\.xml")
#: A band's file is at most this many directories below the metadata: GRANULE, the granule, IMG_DATA, R10m, the file.
_LEVELS_BELOW = 5


@dataclass(frozen=True)
class Sentinel2(Sensor):
    """A Sentinel-2 product. Its ``level`` is the one in the names of products (``S2A_MSIL1C_``)."""

    dates = (
        # A product's directory, or a patch that is named after one; a band's file; a granule's directory; and names of
        # 2015 and 2016 (_OPER_), which begin with the time of production; Google Earth Engine.
        (
            re.compile(
                r"S2[A-D]_MSIL(?:1C|2A)_(\d{8}T\d{5,6})(?!\d)"
                r"|(?:^|_)T\d\d[A-Z]{3}_(\d{8}T\d{6})(?!\d)"
                r"|^L(?:1C|2A)_T\d\d[A-Z]{3}_A\d{6}_(\d{8}T\d{6})(?!\d)"
                r"|_OPER_.*_V(\d{8}T\d{6})"
                r"|(?:^|_)(\d{8}T\d{6})_\d{8}T\d{6}_T\d\d[A-Z]{3}"
            ),
            "%Y%m%dT%H%M%S",
        ),
        (re.compile(r"S2[A-D]_\d\d[A-Z]{3}_(\d{8})_\d+_L(?:1C|2A)"), "%Y%m%d"),  # Earth Search
    )

    level: str = ""

    def identifies(self, product: Product) -> bool:
        """Return whether a name in the product's path, else its metadata, states this level."""
        for path in product.paths:
            if levels := _LEVEL.findall(path):
                return self.level in levels[-1]
        found = _metadata(product)
        return bool(found and self._is_mine(found))

    def calibration(
        self, product: Product, bands: Sequence[str], offset: float | None = None
    ) -> list[tuple[float, float]]:
        """Return the scale and offset of bands: those in the product's metadata, else -1000 from baseline 04.00 on.

        Without metadata, the baseline is that of a ``.SAFE`` directory's name (``_N0400_``): files that were copied
        out of one may have been harmonised. See `Sensor.calibration`.
        """
        metadata = _metadata(product)
        if metadata:
            quantification, offsets = self._read(metadata)
            scale = 10000 / quantification
            if offset is not None:
                return [(scale, offset)] * len(bands)
            lacking = [band for band in bands if band in BANDS.values() and offsets and band not in offsets]
            if lacking:
                raise BandError(f"states offsets, but none of {lacking[0]}", str(metadata), remedy="offset-unknown")
            return [(scale, offsets.get(band, 0.0) * scale) for band in bands]
        baseline, in_safe = _baseline(product)
        if offset is None and baseline >= _FOREIGN_BASELINE:
            raise BandError(
                f"has baseline {baseline / 100:05.2f}, which ESA did not make, and no metadata above it that states"
                " the offset",
                remedy="offset-unknown",
            )
        own = _OFFSET if in_safe and baseline >= _OFFSET_BASELINE else self.offset
        return [(self.scale, own if offset is None else offset)] * len(bands)

    def doubt(self, product: Product, samples: Mapping[str, NDArray[Any]]) -> BandError | None:
        """Return that the DN may have an offset that nothing states, or None; see `Sensor.doubt`."""
        since = f"products of baseline 04.00 and later have an offset of {_OFFSET:g}"
        reason = self._offset_unstated(product, since)
        if reason is None and (other := super().doubt(product, samples)):
            return other
        if reason is None and not self._is_stated(product) and (darkest := _darkest(samples)) is not None:
            reason = f"has numbers of {darkest} and more, and {since}"
        return BandError(f"{reason}; taking 0", remedy="offset-unknown") if reason else None

    def _is_stated(self, product: Product) -> bool:
        """Return whether metadata or a name state that there is an offset or none."""
        baseline, in_safe = _baseline(product)
        return in_safe or 0 < baseline < _OFFSET_BASELINE or _metadata(product) is not None

    def _offset_unstated(self, product: Product, since: str) -> str | None:
        baseline, _ = _baseline(product)
        metadata = _metadata(product)
        if metadata:
            later = _OFFSET_BASELINE <= baseline < _FOREIGN_BASELINE and not self._read(metadata)[1]
            return f"has no offset in its {metadata.name}, but {since}" if later else None
        if self._is_stated(product):
            return None
        if baseline:
            return f"is named after baseline {baseline / 100:05.2f}, and {since} unless it was removed"
        when = product.datetime or self.datetime_of(product) or ""
        dated = f"was acquired on {when[:10]}" if when else f"is dated {product.day}"
        return f"{dated}, and {since} unless it was removed" if (when or product.day) >= _OFFSET_DAY else None

    def complete_date(self, text: str) -> str:
        """Return the date with the hour in two digits: BigEarthNet writes 09:30:20 as T93020."""
        return re.sub(r"T(\d{5})$", r"T0\1", text)

    def _is_mine(self, metadata: Path) -> bool:
        found = _METADATA.fullmatch(metadata.name)
        return bool(found and found[1] == self.level)

    def _read(self, metadata: Path) -> tuple[float, dict[str, float]]:
        """Read the quantification value of reflectance, and the offset of each band, if any, in DN.

        Raises
        ------
        BandError
            The file cannot be read.
        """
        kind = {"1C": ("", "RADIO_ADD_OFFSET"), "2A": ("BOA_", "BOA_ADD_OFFSET")}[self.level]
        names = list(BANDS.values())
        quantification, offsets = 10000.0, {}
        try:
            for element in ElementTree.parse(metadata).iter():
                tag = element.tag.rpartition("}")[2].removeprefix("L2A_")
                if tag == f"{kind[0]}QUANTIFICATION_VALUE":
                    quantification = float(element.text or "")
                elif tag == kind[1]:
                    offsets[names[int(element.get("band_id", ""))]] = float(element.text or "")
            if not 0 < quantification < math.inf:
                raise ValueError(f"the quantification value is {quantification}")
        except (ElementTree.ParseError, OSError, ValueError, IndexError) as error:
            raise BandError(f"cannot be read: {error}", str(metadata), remedy="scale") from None
        return quantification, offsets


def _darkest(samples: Mapping[str, NDArray[Any]]) -> int | None:
    """Return the smallest number of bands that seem to have the offset in their numbers, None if they do not."""
    count = sum(numbers.size for numbers in samples.values())
    below = sum(int((numbers < -_OFFSET).sum()) for numbers in samples.values())
    if count < _MANY or below > count * _HARDLY_ANY or not _DARK_BANDS & samples.keys():
        return None
    darkest = min(int(numbers[numbers >= -_OFFSET].min(initial=1 << 16)) for numbers in samples.values())
    return darkest if darkest <= _DARK - _OFFSET else None


def _metadata(product: Product) -> Path | None:
    """Find the metadata of the product that contains a file, in the directories above it."""
    for path in map(Path, product.paths):
        for directory in path.parents[:_LEVELS_BELOW]:
            # only a product's own directory is listed: others may have many files
            in_safe = directory.suffix.upper() == ".SAFE"
            files = sorted(directory.glob("*.xml")) if in_safe else [directory / f"MTD_MSIL{one}.xml" for one in LEVELS]
            for file in files:
                if _METADATA.fullmatch(file.name) and file.is_file():
                    return file
            if in_safe:
                break
    return None


def _baseline(product: Product) -> tuple[int, bool]:
    """Return the processing baseline in the name of a product above a file, 0 without one, and whether it is a SAFE."""
    for path in product.paths:
        found = [(int(match[1]), match[0].upper().endswith(".SAFE")) for match in _BASELINE.finditer(path)]
        if found:
            return max(found, key=lambda pair: pair[1])
    return 0, False


#: The scene classification of Level 2A: 8 and 9 are clouds of medium and high probability, 10 thin cirrus, 3 shadow.
_SCL = QualityBand("SCL", clouds=Marks((8, 9, 10)), doubtful=Marks((3,)), fill=Marks((0,)))

SENSORS = (
    Sentinel2("sentinel2-l1c", "Sentinel-2 Level-1C", BANDS, tuple(BANDS.values()), nodata=0, level="1C"),
    Sentinel2(
        "sentinel2-l2a",
        "Sentinel-2 Level-2A",
        _L2A_BANDS,
        tuple(_L2A_BANDS.values()),
        nodata=0,
        quality=_SCL,
        level="2A",
    ),
)
