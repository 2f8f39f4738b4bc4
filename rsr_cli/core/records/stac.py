"""STAC ItemCollections: each record an Item of STAC 1.1, for pystac, stac-validator and their like.

What STAC has a place for stands there alone: the rasters, their bands, scale, offset and nodata in the assets. So a
collection is not read back as records.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import RecordError, RsrError, UsageError, shown
from rsr_cli.core.forms import ITEM_COLLECTION
from rsr_cli.core.records.exact import dumps
from rsr_cli.core.records.fields import bbox_of, id_of, id_text, is_hit
from rsr_cli.core.records.foreign import refuse_directory
from rsr_cli.core.records.jsonl import batch_of, give_vectors
from rsr_cli.core.sensors.base import COMMON_NAMES, POLARIZATIONS, UNUSED, factor_of
from rsr_cli.core.times import parse_datetime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.files import Output
    from rsr_cli.core.forms import Form
    from rsr_cli.core.records.batch import Batch, Record
    from rsr_cli.core.records.space import Space
    from rsr_cli.core.records.tables import TableSettings

VERSION = "1.1.0"
_EXTENSION = "https://stac-extensions.github.io/{}/v2.0.0/schema.json"
#: Properties of a record that its assets state.
_OF_ASSETS = frozenset({"source", "bands", "scale", "offset", "nodata", "unit"})
_TIMES = ("datetime", "start_datetime", "end_datetime")
#: How embeddings of int8 were quantized.
_LINEAR = "linear"
#: How vectors were quantized -> to what, if not to bits.
_QUANTIZED = {_LINEAR: "int8", "pq": "uint8", "rabitq": "uint8"}
_MEDIA_TYPES = {
    **dict.fromkeys((".tif", ".tiff", ".gtif", ".gtiff"), "image/tiff; application=geotiff"),
    **dict.fromkeys((".jpg", ".jpeg"), "image/jpeg"),
    ".jp2": "image/jp2",
    ".png": "image/png",
}
#: GDAL's virtual file system -> how others write an address there.
_ADDRESSES = {"/vsicurl/": "", "/vsis3/": "s3://", "/vsigs/": "gs://", "/vsiaz/": "az://", "/vsioss/": "oss://"}
_BAND = re.compile(r"vrt://(.+)\?bands=(\d+)")


def check(path: str, _settings: TableSettings) -> None:
    """Raise RsrError: a collection is not read as records."""
    refuse_directory(path)
    if not Path(path).exists():
        raise RsrError("no such file or directory", path)
    raise RsrError("is a STAC ItemCollection and not records", path, remedy="items")


def form_of(_path: str) -> Form:
    """Return the format of an output."""
    return ITEM_COLLECTION


class RecordWriter:
    """Writes records to an output as the Items of one collection, a line each.

    Parameters
    ----------
    output : Output
        Where the collection goes.
    skips : Skips
        Asked about records that cannot be Items.
    space : Space, optional
        The space of vectors that the records were found by, and do not state.
    """

    def __init__(self, output: Output, skips: Skips, space: Space | None = None) -> None:
        self._output = output
        self._skips = skips
        self._space = space
        self._ids: set[str] = set()
        self._before = b'{\n"type":"FeatureCollection",\n"features":[\n'

    def write(self, batch: Batch) -> None:
        """Write a batch, which gets its vectors back into its records.

        Raises
        ------
        RecordError
            A record states no time, has no geometry that an Item may have, or the id of an earlier one.
        """
        for vectors, space in batch.vector_columns:
            give_vectors(batch.records, vectors, space)
        self._output.write(self._separated(batch.apply(self._item, self._skips)))

    def write_lines(self, lines: Iterable[bytes]) -> None:
        """Write records that are lines of JSON already."""
        self.write(batch_of(lines))

    def finish(self) -> None:
        """Complete the collection."""
        self._output.write([self._before if self._before != b",\n" else b"", b"\n]\n}\n"])

    def _separated(self, items: Iterable[bytes]) -> Iterator[bytes]:
        for item in items:
            yield self._before
            yield item
            self._before = b",\n"

    def _item(self, record: Record) -> bytes:
        properties = record["properties"]
        assets = _assets(properties)
        kept = {name: value for name, value in properties.items() if name not in _OF_ASSETS and value is not None}
        kept |= _times(properties) | self._embedding(properties)
        geometry = record.get("geometry")
        if geometry is not None and not (isinstance(geometry, dict) and "coordinates" in geometry):
            raise RecordError(f"has a geometry that a STAC Item cannot have: {shown(geometry)}")
        box = {} if geometry is None else {"bbox": bbox_of(record)}
        if box == {"bbox": None}:
            raise RecordError(f"has a geometry without a place: {shown(geometry)}")
        name = id_of(record)
        if is_hit(record):  # one record may be a hit of several queries, and the ids of a collection are unique
            name = f"{name}_{id_text(properties['query'])}"
        if name in self._ids:
            raise RecordError(f"would be the second Item with the id {name}", remedy="unique-ids")
        self._ids.add(name)
        return dumps(
            {
                "type": "Feature",
                "stac_version": VERSION,
                "stac_extensions": _extensions(kept, assets),
                "id": name,
                "geometry": geometry,
                **box,
                "properties": kept,
                "links": [],
                "assets": assets,
            }
        )

    def _embedding(self, properties: dict[str, Any]) -> dict[str, Any]:
        """Return what the STAC embedding extension (v0.0.1) states of the record's vector, or of the one searched."""
        code, embedding = properties.get("code"), properties.get("embedding")
        space = self._space
        if isinstance(code, dict):
            size, method = code.get("bits"), code.get("method")
        elif isinstance(embedding, dict):
            size, method = embedding.get("dim"), _method_of(embedding.get("dtype"))
        elif space is not None:
            size, method = space.size, space.facts.get("method") if space.kind == "code" else _method_of(space.dtype)
        else:
            return {}
        facts: dict[str, Any] = {"emb:type": "chip", "emb:dimensions": size}
        if method:
            dtype = _QUANTIZED.get(method, "bit")
            facts["emb:quantization"] = {"method": method, "original_dtype": "float32", "quantized_dtype": dtype}
        return facts


def _method_of(dtype: Any) -> str | None:
    """Return how embeddings of a type of number were quantized, if they were."""
    return _LINEAR if dtype == "int8" else None


def _times(properties: dict[str, Any]) -> dict[str, str | None]:
    """Return the moment of a record, or None for it and the first and the last moment, as STAC requires.

    Raises
    ------
    RecordError
        It states none, or only one end of a range.
    """
    moment, first, last = (properties.get(name) for name in _TIMES)
    if moment is None and (first is None or last is None):
        raise RecordError("states no time, which a STAC Item must", remedy="datetime")
    if (first is None) != (last is None):
        raise RecordError(f"states {_TIMES[1 + (first is None)]} alone, which a STAC Item must not")
    times: dict[str, str | None] = {"datetime": None if moment is None else _utc(moment)}
    if first is not None and last is not None:
        times |= {"start_datetime": _utc(first), "end_datetime": _utc(last)}
    return times


def _utc(when: Any) -> str:
    """Return a time in UTC, and one that is as it is."""
    try:
        text = parse_datetime(when)
    except (UsageError, TypeError):
        raise RecordError(f"states a time that cannot be read: {shown(when)}") from None
    return when if when.endswith(("Z", "+00:00")) else text


def _extensions(properties: dict[str, Any], assets: dict[str, dict[str, Any]]) -> list[str]:
    """Return the extensions whose fields an Item has."""
    bands = [band for asset in assets.values() for band in asset["bands"]]
    names = {*properties, *(name for band in bands for name in band)}
    return [
        _EXTENSION.format(extension)
        for extension, prefix in (("eo", "eo:"), ("projection", "proj:"), ("raster", "raster:"))
        if any(name.startswith(prefix) for name in names)
    ]


# Assets --------------------------------------------------------------------------------------------------------------


def _assets(properties: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rasters of a record: one with all bands, or one per band."""
    source, names = properties.get("source"), properties.get("bands")
    if not isinstance(names, list) or not isinstance(source, str | dict):
        return {}
    names = [str(name) for name in names]
    bands = [_band(properties, number, name) for number, name in enumerate(names)]
    if isinstance(source, str):
        return {"source": _asset(properties, source, bands)}
    return {
        name: _asset(properties, str(source[name]), [band])
        for name, band in zip(names, bands, strict=True)
        if name in source
    }


def _asset(properties: dict[str, Any], source: str, bands: list[dict[str, Any]]) -> dict[str, Any]:
    asset: dict[str, Any] = {"href": _address(source)}
    path = source.partition("?")[0] if source.startswith("/vsi") else source
    if media_type := _MEDIA_TYPES.get(PurePosixPath(path).suffix.lower()):
        asset["type"] = media_type
    if (nodata := properties.get("nodata")) is not None:
        asset["nodata"] = nodata
    return {**asset, "roles": ["data"], "bands": bands}


def _band(properties: dict[str, Any], number: int, name: str) -> dict[str, Any]:
    """Return a band of an asset; a file has reflectance, and a record reflectance x 10000."""
    if name == UNUSED:
        return {"name": f"unused{number + 1}"}
    band: dict[str, Any] = {"name": name}
    if name in COMMON_NAMES and name not in POLARIZATIONS:
        band["eo:common_name"] = name
    if (unit := properties.get("unit")) is not None:
        band["unit"] = unit
    for field in ("scale", "offset"):
        value = properties.get(field)
        value = value[number] if isinstance(value, list) and number < len(value) else value
        if isinstance(value, int | float):
            band[f"raster:{field}"] = value / factor_of(name)
    return band


def _address(source: str) -> str:
    """Return a source as other programs write it: a URL, or a path from the root."""
    if found := _BAND.fullmatch(source):
        return f"vrt://{_address(found[1])}?bands={found[2]}"
    for system, scheme in _ADDRESSES.items():
        if source.startswith(system):
            return scheme + source.removeprefix(system)
    return source if ":" in source or source.startswith("/vsi") else os.path.abspath(source)  # noqa: PTH100
