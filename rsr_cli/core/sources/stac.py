"""STAC: Items, collections of them, and static catalogues, each Item one scene of one source per band."""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

import orjson

from rsr_cli.core.errors import BandError, RasterError, RsrError, UsageError, shown
from rsr_cli.core.files import reason
from rsr_cli.core.reach import check_inside, check_network
from rsr_cli.core.records.jsonl import FAILURE, MAX_LINE_BYTES, read_lines, upstream_error
from rsr_cli.core.sensors.base import COMMON_NAMES, RASTER_ENDINGS, UNUSED, factor_of, missing_bands
from rsr_cli.core.sources.base import Declared, Found, band_in_file
from rsr_cli.core.sources.files import Rasters, parent_name
from rsr_cli.core.times import parse_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pystac

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.sensors.base import Sensor

log = logging.getLogger("rsr")

#: An address that servers of Items have.
_WEB = re.compile(r"https?://", re.IGNORECASE)
_ON_WEB = ("http", "https", "ftp")
#: Scheme of an asset's address -> GDAL's virtual file system.
_SYSTEMS = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/", "oss": "/vsioss/"}
#: Roles of assets that show a scene or describe it.
_OTHER_ROLES = frozenset({"thumbnail", "overview", "visual", "metadata"})
#: What several providers name ``rededge``, by the centre wavelength in micrometres: the ranges of the extension eo 2.0.
_RED_EDGES = {
    "rededge071": (0.69, 0.73),
    "rededge075": (0.73, 0.76),
    "rededge078": (0.76, 0.80),
    "nir08": (0.85, 0.90),
}
#: Resolution at the end of an asset's name, where there is one per resolution: SCL_20m.
_RESOLUTION = re.compile(r"_\d+m$")
TIMEOUT_S = 30


@dataclass(frozen=True)
class Stac:
    """Finds the Items at a path, which may be a URL or ``-`` for stdin; at the path of anything else, the rasters.

    Attributes
    ----------
    sensor : Sensor or None
        Names bands by their number in its product, where an Item states no common name.
    bands : sequence of str or None
        STAC common names of the bands to take, in order; None is all that an Item has.
    """

    sensor: Sensor | None = None
    bands: Sequence[str] | None = None

    def find(self, path: str, skips: Skips) -> Iterator[Found]:
        """Find the scenes at a path, in the order of the collection or of the catalogue's links; see `Source.find`."""
        if not _is_json(path):
            yield from Rasters(self.sensor).find(path, skips)
            return
        found, skipped = False, skips.count
        for document, place, base in _documents(path, skips):
            for item, where, address in _items(document, place, base, skips):
                found = True
                try:
                    yield self._scene(item, where, address)
                except BandError as error:
                    error.place = error.place or where
                    skips(error)
        if not found and skips.count == skipped:
            log.warning("%s: contains no STAC Item", _shown(path))

    def _scene(self, item: pystac.Item, place: str, base: str) -> Found:
        """Return the scene of an Item, whose relative addresses begin at ``base``.

        Raises
        ------
        BandError
            It lacks a band, or the time that it states is none.
        """
        assets = [
            _Asset(
                key, _resolved(asset.href, base), str(asset.media_type or ""), _texts(asset.roles), asset.extra_fields
            )
            for key, asset in item.assets.items()
        ]
        chosen = self._chosen(assets)
        applied = item.properties.get("earthsearch:boa_offset_applied") is True
        return Found(
            name=item.id,
            source={name: one.source for name, one in chosen.items()},
            parent=parent_name(place),
            properties=_properties(item, place),
            declared={name: one.declared(name, offset_applied=applied) for name, one in chosen.items()},
            others={_RESOLUTION.sub("", asset.key).lower(): asset.source for asset in reversed(assets)},
            stated_in=place,
            doubt=None if applied else _offset_unstated(item),
        )

    def _chosen(self, assets: Sequence[_Asset]) -> dict[str, _Band]:
        """Choose one asset per band: of those with one band, the finest, a GeoTIFF before others."""
        offered: dict[str, list[_Band]] = {}
        for asset in assets:
            for band in asset.bands():
                if name := band.name(self.sensor):
                    offered.setdefault(name, []).append(band)
        wanted = [name for name in self.bands or () if name != UNUSED]
        if absent := [name for name in wanted if name not in offered]:
            raise BandError(missing_bands(absent, [name for name in COMMON_NAMES if name in offered]))
        names = wanted or [name for name in COMMON_NAMES if name in offered]
        if not names:
            keys = ", ".join(asset.key for asset in assets) or "none"
            raise BandError(f"has no asset whose bands have common names (has {keys})", remedy="sensor-or-item")
        return {name: _best(name, offered[name]) for name in names}


@dataclass(frozen=True)
class _Asset:
    """A file of an Item; ``source`` is what GDAL opens, ``fields`` what the Item states of it."""

    key: str
    source: str
    media_type: str
    roles: Sequence[str]
    fields: dict[str, Any]

    def bands(self) -> Iterator[_Band]:
        """Yield the bands, none of an asset that is no raster of measurements."""
        if _OTHER_ROLES & {*self.roles} or (self.media_type and not self.media_type.startswith("image/")):
            return
        parts = [
            [band if isinstance(band, dict) else {} for band in listed]
            for name in ("raster:bands", "eo:bands", "bands")
            if isinstance(listed := self.fields.get(name), list)
        ]
        count = max(map(len, parts), default=1) or 1
        for number in range(count):
            stated = [part[number] for part in parts if number < len(part)]
            facts = {
                key.removeprefix("eo:").removeprefix("raster:"): value
                for band in (self.fields, *stated)
                for key, value in band.items()
            }
            yield _Band(self, number + 1 if count > 1 else None, facts)

    @property
    def metres(self) -> float:
        """Size of a pixel, as far as the Item states it."""
        transform = self.fields.get("proj:transform")
        first = transform[0] if isinstance(transform, list) and transform else None
        sizes = (self.fields.get("gsd"), self.fields.get("raster:spatial_resolution"), first)
        return next((abs(size) for size in map(_number, sizes) if size), math.inf)


@dataclass(frozen=True)
class _Band:
    """A band of an asset: its number there, if there are several, and what the Item states of it, without prefixes."""

    asset: _Asset
    number: int | None
    facts: dict[str, Any] = field(compare=False)

    @property
    def source(self) -> str:
        """What a record names as the band's source."""
        return self.asset.source if self.number is None else band_in_file(self.asset.source, self.number)

    @property
    def stated_name(self) -> str:
        """The name that the Item states, or that of the asset if it has no other band."""
        stated = self.facts.get("name")
        return stated if isinstance(stated, str) else self.asset.key if self.number is None else ""

    def name(self, sensor: Sensor | None) -> str | None:
        """Return the band's common name: the one that is stated, else what its name is in STAC or in the sensor."""
        common = str(self.facts.get("common_name") or "").lower()
        numbered = _numbered(self, sensor)
        if common == "rededge":
            wave = _number(self.facts.get("center_wavelength"))
            near = (name for name, (low, high) in _RED_EDGES.items() if wave is not None and low <= wave < high)
            return next(near, numbered or common)
        names = (common, self.stated_name.lower())
        return next((name for name in names if name in COMMON_NAMES), numbered)

    def declared(self, name: str, *, offset_applied: bool) -> Declared:
        """Return what the Item states of the numbers of the band, by its common name.

        Parameters
        ----------
        name : str
            The common name.
        offset_applied : bool
            The offset that is stated was applied to the numbers already: Earth Search states that of Sentinel-2.
        """
        scale, offset = _number(self.facts.get("scale")), _number(self.facts.get("offset"))
        pair = 1.0 if scale is None else scale, 0.0 if offset_applied or offset is None else offset
        factor, nodata = factor_of(name), _number(self.facts.get("nodata"))
        return Declared(
            None if pair == (1.0, 0.0) else (pair[0] * factor, pair[1] * factor),  # as of a file, which states no less
            None if nodata is None or not math.isfinite(nodata) else nodata,  # NaN is invalid in any case
        )

    def rank(self) -> tuple[Any, ...]:
        """Return by what one of several assets with the same band is chosen; the least counts."""
        measured = bool({"data", "reflectance"} & {*self.asset.roles})
        tiff = self.asset.media_type.startswith("image/tiff") or ".tif" in self.asset.source.lower()
        return self.number is not None, not measured, self.asset.metres, not tiff, self.asset.key


def _best(name: str, offered: Sequence[_Band]) -> _Band:
    """Return one of the bands of the same common name.

    Raises
    ------
    BandError
        They are different bands.
    """
    ranked = sorted(offered, key=_Band.rank)
    alike = [band for band in ranked if band.rank()[:2] == ranked[0].rank()[:2]]
    different: dict[str, str] = {}
    for band in alike:
        if isinstance(stated := band.facts.get("name"), str):
            different.setdefault(stated, band.asset.key)
    if len(different) > 1:
        raise BandError(f"has {name} in several assets of different bands: {', '.join(different.values())}")
    return ranked[0]


def _numbered(band: _Band, sensor: Sensor | None) -> str | None:
    """Return the common name of the number that a band has in a sensor's product, by its name, asset or file."""
    if sensor is None:
        return None
    file = sensor.band_of_file(urlsplit(band.asset.source).path.rpartition("/")[2]) if band.number is None else None
    return sensor.common_name(band.stated_name) or (file[0] if file else None)


def _texts(values: Any) -> list[str]:
    """Return the texts of a list of an Item; none of anything else."""
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _number(value: Any) -> float | None:
    """Return a number of an Item, which may be a text, as ``nan``, ``inf`` and ``-inf`` are; None for anything else."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _properties(item: pystac.Item, place: str) -> dict[str, Any]:
    """Return the properties of an Item that all its tiles have."""
    properties: dict[str, Any] = {}
    for name in ("datetime", "start_datetime", "end_datetime"):
        when = item.properties.get(name)
        if name == "datetime" or (when is not None and properties["datetime"] is None):
            try:
                properties[name] = None if when is None else parse_datetime(str(when))
            except UsageError as error:
                raise BandError(f"its {name} cannot be read: {error.message}", place) from None
    if (cover := _number(item.properties.get("eo:cloud_cover"))) is not None:
        properties["eo:cloud_cover"] = cover
    if isinstance(item.collection_id, str):
        properties["collection"] = item.collection_id
    return properties


def _offset_unstated(item: pystac.Item) -> BandError | None:
    """Return that the numbers of an Item of Sentinel-2 may have an offset that nothing states, by its baseline."""
    baseline = item.properties.get("s2:processing_baseline")
    if not isinstance(baseline, str) or not "04.00" <= baseline < "99":
        return None
    what = f"states baseline {baseline} and no offset, and products of baseline 04.00 and later have one of -1000"
    return BandError(f"{what}; taking 0", remedy="offset-unknown")


# Documents -----------------------------------------------------------------------------------------------------------


def _is_json(path: str) -> bool:
    """Return whether there is JSON at a path, by its first bytes: a raster never begins so."""
    if path == "-":
        return True
    if _WEB.match(path):
        if urlsplit(path).path.lower().endswith(RASTER_ENDINGS):
            return False
        return _begins_as_json(_fetched(path, 64))
    try:
        if not Path(path).is_file():
            return False
        with Path(path).open("rb") as file:
            return _begins_as_json(file.read(64))
    except (OSError, ValueError):
        return False


def _begins_as_json(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\x1e \t\r\n").startswith((b"{", b"["))


def _documents(path: str, skips: Skips) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield the objects of a file, a URL or stdin: the whole, or one per line, as they arrive.

    Each comes with the place to name in a message, and the address at which relative ones begin.
    """
    if _WEB.match(path):
        yield _parsed(_fetched(path), path), path, path
        return
    whole: list[bytes] = []
    held, by_line = 0, False
    for name, first, lines, _ in read_lines(path):
        for number, line in enumerate(lines, first):
            text = line.strip(b"\x1e \t\r")
            if not text:
                continue
            if not whole:
                try:
                    document, by_line = _parsed(text, f"{name}:{number}"), True
                except RasterError as error:
                    if by_line:
                        skips(error)
                        continue
                else:
                    yield document, f"{name}:{number}" if number > 1 else name, path
                    continue
            whole.append(text)
            held += len(text)
        if held > MAX_LINE_BYTES:
            raise RasterError(f"is larger than {MAX_LINE_BYTES >> 20} MiB", name)
    if whole:
        yield _parsed(b"\n".join(whole), _shown(path)), _shown(path), path


def _parsed(text: bytes, place: str) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RasterError(f"is not JSON: {error}", place) from None
    if not isinstance(document, dict):
        raise RasterError(f"is no STAC but {shown(document)}", place)
    return document


def _fetched(url: str, size: int | None = None) -> bytes:
    """Read what is at a URL, or its first bytes."""
    import urllib.error
    import urllib.request

    check_network(url)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "rsr", "Accept": "application/json, */*"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(MAX_LINE_BYTES + 1 if size is None else size)
    except urllib.error.HTTPError as error:
        raise RasterError(f"cannot be read: the server answers {error.code} {error.reason}", url) from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", error)
        raise RasterError(f"cannot be read: {reason(cause) if isinstance(cause, OSError) else cause}", url) from None
    if len(data) > MAX_LINE_BYTES:
        raise RasterError(f"is larger than {MAX_LINE_BYTES >> 20} MiB", url)
    return data


def _items(document: dict[str, Any], place: str, base: str, skips: Skips) -> Iterator[tuple[pystac.Item, str, str]]:
    """Yield the Items of a document, each with its place and base: itself, its features, or what its links lead to.

    Each document of a catalogue is read once, whatever the links are.
    """
    waiting = [iter([(document, place, base)])]
    seen = {base if _WEB.match(base) else os.path.normpath(base)}
    while waiting:
        following = next(waiting[-1], None)
        if following is None:
            waiting.pop()
            continue
        document, place, base = following
        try:
            kind = document.get("type")
            if kind == "FeatureCollection":
                waiting.append(_features(document, place, base))
            elif kind == "Feature":
                yield _item(document, place, base)
            elif kind in ("Catalog", "Collection") or ("links" in document and "stac_version" in document):
                waiting.append(_linked(document, place, base, seen, skips))
            elif kind == FAILURE:
                raise upstream_error(document)
            else:
                raise RasterError(f"is no STAC but {shown(kind or 'an object without a type')}", place)
        except RasterError as error:
            skips(error)


def _features(document: dict[str, Any], place: str, base: str) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield the features of a collection."""
    features = document.get("features")
    for number, feature in enumerate(features if isinstance(features, list) else []):
        one = feature if isinstance(feature, dict) else {}
        yield one, f"{place}#{one.get('id', number)}", base


def _item(document: dict[str, Any], place: str, base: str) -> tuple[pystac.Item, str, str]:
    """Return a Feature as an Item."""
    if not isinstance(document.get("assets"), dict):
        raise RasterError("contains records and not a raster", place, remedy="records")
    import pystac

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an Item is deprecated is no error of its reader
            item = pystac.Item.from_dict(document, preserve_dict=False)
    except Exception as error:  # whatever a document lacks: pystac raises many kinds
        raise RasterError(f"is no sound STAC Item: {type(error).__name__}: {error}", place) from None
    if not isinstance(item.id, str) or not item.id or "\0" in item.id:
        raise RasterError("is a STAC Item without an id that a text can have", place)
    if base == "-":
        base = item.get_self_href() or base
    return item, place, base


def _linked(
    document: dict[str, Any], place: str, base: str, seen: set[str], skips: Skips
) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Read what the links of a catalogue to its children and Items lead to, except what was read."""
    links = document.get("links")
    for link in links if isinstance(links, list) else []:
        if not isinstance(link, dict) or link.get("rel") not in ("child", "item"):
            continue
        address = str(link.get("href", ""))
        try:
            address = _resolved(address, base, gdal=False)
            if address not in seen:
                seen.add(address)
                if not _WEB.match(address):
                    check_inside(address)
                yield from _documents(address, skips)
        except RsrError as error:
            skips(RasterError(f"links to {address}: {error.message}", place, remedy=error.remedy, **error.facts))


def _resolved(href: str, base: str, *, gdal: bool = True) -> str:
    """Return an address of an Item, relative to the base, as a path; the way GDAL writes it if that opens it.

    Raises
    ------
    BandError
        It is no address, or an Item on the network names a local file.
    """
    on_web = _WEB.match(base) is not None
    try:
        href = urljoin(base, href) if on_web and not href.startswith("/vsi") else href
        parts = urlsplit(href) if "://" in href else None
    except ValueError as error:
        raise BandError(f"has an address that cannot be read, {href}: {error}", base) from None
    scheme = parts.scheme.lower() if parts else ""
    if on_web and scheme not in (*_ON_WEB, *_SYSTEMS) and not href.startswith(("/vsicurl/", *_SYSTEMS.values())):
        raise BandError(f"is on the network and names a local file, {href}", base)
    if parts and scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise BandError(f"names a file of another machine, {href}", base)
        return unquote(parts.path)
    if not gdal:
        return href if scheme else _beside(href, base)
    if scheme in _ON_WEB:
        return f"/vsicurl/{href}"
    if scheme in _SYSTEMS:
        return _SYSTEMS[scheme] + href.partition("://")[2]
    return href if scheme or href.startswith("/vsi") else _beside(href, base)


def _beside(href: str, base: str) -> str:
    """Return a path relative to the file that names it: as it is, or if there is no such file, without ``%20``."""
    path, plain = (os.path.normpath(os.path.join(os.path.dirname(base), each)) for each in (href, unquote(href)))  # noqa: PTH118, PTH120  as given
    path = plain if os.path.lexists(plain) and not os.path.lexists(path) else path
    return "./-" if path == "-" else path  # no name of stdin


def _shown(path: str) -> str:
    return "<stdin>" if path == "-" else path
