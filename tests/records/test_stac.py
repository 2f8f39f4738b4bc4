"""STAC ItemCollections, beside pystac and stac-validator, which is kept from the network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pystac
import pystac.validation
import pytest
from support import code_records, embedding_records, read_all
from support_stac import landsat, save

from rsr_cli.core.errors import RsrError

SCHEMAS = Path(pystac.validation.__file__).parent / "jsonschemas"
SPEC = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema"
# What the extensions of version 2 require of the fields that are written, and that they have no others.
NUMBER, TEXT = {"type": "number"}, {"type": "string"}
EXTENSIONS = {
    "eo": {
        "eo:cloud_cover": {"type": "number", "minimum": 0, "maximum": 100},
        "eo:common_name": {"enum": ["blue", "red", "nir08", "swir16", "lwir11"]},
    },
    "projection": {
        "proj:code": {"type": ["string", "null"]},
        "proj:transform": {"type": "array", "minItems": 6, "maxItems": 9, "items": NUMBER},
        "proj:shape": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer"}},
    },
    "raster": {"raster:scale": NUMBER, "raster:offset": NUMBER},
}
# Runs the command line of stac-validator where nothing can be connected to.
BLOCKED = """
import socket, sys
def refuse(*_): raise OSError("the network is blocked")
socket.socket.connect = socket.getaddrinfo = refuse
from stac_validator.stac_validator import cli
sys.argv[0] = "stac-validator"
cli()
"""


def schema_of(name):
    """Return a schema of an extension: its fields, wherever they stand, and no other of its prefix."""
    fields = EXTENSIONS[name]
    prefix = next(iter(fields)).partition(":")[0]
    known = {"type": "object", "properties": fields, "patternProperties": {f"^(?!{prefix}:)": {}}}
    known["additionalProperties"] = False
    bands = {"properties": {"bands": {"type": "array", "items": known}}}
    asset = {"allOf": [known, bands]}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {"properties": known, "assets": {"additionalProperties": asset}},
    }


@pytest.fixture
def validated(tmp_path):
    """Return a function that has stac-validator check a collection, and returns the number of Items that pass."""
    arguments = []
    for file in (SCHEMAS / "stac-spec" / "v1.1.0").glob("*.json"):
        arguments += ["--schema-map", f"{SPEC}/{file.name}", str(file)]
    for file in (SCHEMAS / "geojson").glob("*.json"):
        arguments += ["--schema-map", f"https://geojson.org/schema/{file.name}", str(file)]
    for name in EXTENSIONS:
        file = save(tmp_path / "schemas" / f"{name}.json", schema_of(name))
        arguments += ["--schema-map", f"https://stac-extensions.github.io/{name}/v2.0.0/schema.json", str(file)]

    def validate(path):
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            BLOCKED,
            "validate",
            str(path),
            "--item-collection",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        checked = json.loads(done.stdout[done.stdout.index("\n[\n") : done.stdout.rindex("\n]\n") + 3])
        assert [one for one in checked if not one["valid_stac"]] == []
        assert done.returncode == 0
        assert all(len(one["schema"]) == 1 + len(EXTENSIONS) for one in checked)
        return len(checked)

    return validate


@pytest.fixture(scope="module")
def lake(rsr, tmp_path_factory, write_raster, torch):
    """Find the tiles of an Item with each other."""
    folder = tmp_path_factory.mktemp("stac")
    save(folder / "item.json", landsat(folder, write_raster))
    for command in (
        ["tile", "--size", "32", "item.json", "-o", "tiles.geojsonl"],
        ["embed", "--model", "rcf:bands=red,nir08", "tiles.geojsonl", "-o", "e.geojsonl"],
        ["binarize", "e.geojsonl", "-o", "codes.geojsonl"],
        ["index", "codes.geojsonl", "-o", "lake.rsr"],
        ["query", "lake.rsr", "codes.geojsonl", "-k", "2", "-o", "hits.geojsonl"],
        ["query", "lake.rsr", "codes.geojsonl", "-k", "2", "-o", "hits.stac.json"],
    ):
        done = rsr(*command, cwd=folder)
        assert (done.returncode, done.stdout) == (0, b""), done.stderr
    return folder


def test_hits_are_items(lake, validated):
    hits = [orjson.loads(line) for line in (lake / "hits.geojsonl").read_bytes().splitlines()]
    items = pystac.ItemCollection.from_file(str(lake / "hits.stac.json")).items
    assert validated(lake / "hits.stac.json") == len(items) == len(hits) == 2 * 4
    assert len({item.id for item in items}) == len(items)
    for item, hit in zip(items, hits, strict=True):
        facts = hit["properties"]
        assert item.id == f"{hit['id']}_{facts['query']}"
        assert (item.geometry, item.bbox) == (hit["geometry"], hit["bbox"])
        for name in ("query", "rank", "distance", "window", "datetime", "eo:cloud_cover", "proj:transform", "gsd"):
            assert item.properties[name] == facts[name]
        assert item.properties["emb:dimensions"] == 768
        assert item.properties["emb:quantization"]["method"] == "rotated"
        assert {key: asset.href for key, asset in item.assets.items()} == {
            name: str(lake / path) for name, path in facts["source"].items()
        }
        red = item.assets["red"].to_dict()
        assert red["bands"] == [
            {"name": "red", "eo:common_name": "red", "raster:scale": pytest.approx(2.75e-05), "raster:offset": -0.2}
        ]
        assert item.assets["lwir11"].extra_fields["bands"][0]["raster:offset"] == 149


def test_items_are_cut_again(lake, rsr):
    """The rasters of the Items, with the same meaning of their numbers."""
    (lake / "one.stac.json").unlink(missing_ok=True)
    assert rsr("tile", "--whole", "item.json", "-o", "one.stac.json", cwd=lake).returncode == 0
    (once,) = map(orjson.loads, rsr("tile", "--whole", "item.json", cwd=lake).stdout.splitlines())
    (again,) = map(orjson.loads, rsr("tile", "--whole", "one.stac.json", cwd=lake).stdout.splitlines())
    for name in ("bands", "nodata", "proj:transform", "datetime", "eo:cloud_cover"):
        assert again["properties"][name] == once["properties"][name]
    for name in ("scale", "offset"):
        assert again["properties"][name] == pytest.approx(once["properties"][name])


def test_embeddings_state_their_dimensions(rsr, tmp_path):
    records = embedding_records(np.ones((2, 5), np.float32))
    for record in records:
        record["properties"]["datetime"] = "2023-06-10T12:00:00+02:00"
    text = b"".join(orjson.dumps(record) + b"\n" for record in records)
    done = rsr("binarize", "-o", "codes.stac.json", input=text, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for item in pystac.ItemCollection.from_file(str(tmp_path / "codes.stac.json")).items:
        assert item.properties["emb:dimensions"] == 5
        assert item.properties["datetime"] == "2023-06-10T10:00:00Z"
        assert item.assets == {}
        assert item.validate()


def test_a_record_without_a_time_is_no_item(rsr, tmp_path):
    text = b"".join(orjson.dumps(record) + b"\n" for record in code_records(np.ones((2, 1), np.uint8), 8))
    assert rsr("index", "-o", "x.rsr", input=text, cwd=tmp_path).returncode == 0
    done = rsr("query", "x.rsr", "-o", "hits.stac.json", input=text, cwd=tmp_path)
    assert done.returncode == 1
    assert b"states no time, which a STAC Item must; pass --datetime to rsr tile" in done.stderr
    assert not (tmp_path / "hits.stac.json").exists()
    done = rsr("query", "x.rsr", "--keep-going", "-o", "hits.stac.json", input=text, cwd=tmp_path)
    assert done.returncode == 3
    assert len(pystac.ItemCollection.from_file(str(tmp_path / "hits.stac.json")).items) == 0


@pytest.mark.parametrize(
    ("changed", "box"),
    [
        ({"geometry": None}, None),
        ({"geometry": {"type": "Point", "coordinates": [1, 2]}}, [1, 2, 1, 2]),
        ({"geometry": {"type": "MultiPoint", "coordinates": [[1, 2], [-3, 4, 9]]}}, [-3, 2, 1, 4]),
        ({"geometry": {"type": "Point", "coordinates": [1, 2]}, "bbox": [0, 0, 3, 3]}, [0, 0, 3, 3]),
    ],
)
def test_boxes_and_ranges_of_time(rsr, tmp_path, changed, box):
    (record,) = embedding_records(np.ones((1, 5), np.float32))
    times = {"datetime": None, "start_datetime": "2020-01-01T00:00:00Z", "end_datetime": "2020-12-31T00:00:00Z"}
    record["properties"] |= {**times, "gsd": None}
    done = rsr("binarize", "-o", "x.stac.json", input=orjson.dumps(record | changed) + b"\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (item,) = pystac.ItemCollection.from_file(str(tmp_path / "x.stac.json")).items
    assert item.bbox == box
    assert times.items() <= item.properties.items()
    assert item.validate()


@pytest.mark.parametrize(
    "geometry", ["x", {}, {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [5, 6]}]}]
)
def test_a_geometry_that_an_item_cannot_have(rsr, tmp_path, geometry):
    """The schema of an Item has no collections of geometries."""
    (record,) = embedding_records(np.ones((1, 5), np.float32))
    record["properties"]["datetime"] = "2023-06-10T00:00:00Z"
    record |= {"geometry": geometry, "bbox": [5, 6, 5, 6]}
    done = rsr("binarize", "-o", "x.stac.json", input=orjson.dumps(record) + b"\n", cwd=tmp_path)
    assert (done.returncode, b"has a geometry that a STAC Item cannot have" in done.stderr) == (1, True)


@pytest.mark.parametrize("coordinates", [[], [[]], 3, [1], ["a", "b"], [[1, 2], ["x", 3]], None])
def test_a_geometry_without_a_place(rsr, tmp_path, coordinates):
    (record,) = embedding_records(np.ones((1, 5), np.float32))
    record["properties"]["datetime"] = "2023-06-10T00:00:00Z"
    record["geometry"] = {"type": "MultiPoint", "coordinates": coordinates}
    done = rsr("binarize", "-o", "x.stac.json", input=orjson.dumps(record) + b"\n", cwd=tmp_path)
    assert (done.returncode, b"has a geometry " in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("geometry", "times", "says"),
    [
        ({"type": "Point", "coordinates": 5}, {}, "has a geometry that cannot be read"),
        ({"type": "Point", "coordinates": ["a", "b"]}, {}, "has a geometry that cannot be read"),
        ({"type": "Polygon"}, {}, "has a geometry that a STAC Item cannot have"),
        (None, {"start_datetime": "2020-01-01T00:00:00Z"}, "states start_datetime alone"),
        (None, {"end_datetime": "2020-01-01T00:00:00Z"}, "states end_datetime alone"),
    ],
)
def test_records_that_are_no_items(rsr, tmp_path, geometry, times, says):
    (record,) = embedding_records(np.ones((1, 5), np.float32))
    record["properties"] |= {"datetime": "2020-01-01T00:00:00Z", **times}
    record = {name: value for name, value in record.items() if name != "bbox"} | {"geometry": geometry}
    done = rsr("binarize", "-o", "x.stac.json", input=orjson.dumps(record) + b"\n", cwd=tmp_path)
    assert (done.returncode, says in done.stderr.decode()) == (1, True), done.stderr


def test_a_collection_is_not_read_as_records(lake, rsr):
    done = rsr("embed", "--model", "rcf", "hits.stac.json", cwd=lake)
    assert done.returncode == 1
    assert b"hits.stac.json: is a STAC ItemCollection and not records; pass the records that it was" in done.stderr
    with pytest.raises(RsrError, match="no such file"):
        read_all(str(lake / "none.stac.json"))


def test_what_may_be_replaced(lake, rsr, tmp_path):
    """A collection replaces a collection, and nothing else."""
    (tmp_path / "x.stac.json").write_text('{"type": "FeatureCollection", "features": []}')
    assert rsr("tile", "--whole", lake / "item.json", "-o", "x.stac.json", cwd=tmp_path).returncode == 1
    command = ["tile", "--whole", lake / "item.json", "--overwrite", "-o", "x.stac.json"]
    assert rsr(*command, cwd=tmp_path).returncode == 0
    assert len(pystac.ItemCollection.from_file(str(tmp_path / "x.stac.json")).items) == 1
    (tmp_path / "x.stac.json").write_text('{"type": "Feature"}\n')
    done = rsr(*command, cwd=tmp_path)
    assert (done.returncode, b"exists and is not a STAC ItemCollection" in done.stderr) == (1, True)
    done = rsr("tile", "--whole", lake / "item.json", "-o", "x.stac.json.gz", cwd=tmp_path)
    assert (done.returncode, b"only JSON lines are compressed" in done.stderr) == (2, True)
    done = rsr("tile", "--whole", "--hilbert", lake / "item.json", "-o", "y.stac.json", cwd=tmp_path)
    assert (done.returncode, b"only Parquet files" in done.stderr) == (2, True)


def test_two_items_of_one_id(rsr, tmp_path):
    """A hit's id is made of two, so that two hits may come to the same one."""
    records = embedding_records(np.ones((3, 5), np.float32))
    for record, (name, query) in zip(records, [("a_b", "c"), ("a", "b_c"), ("a", "d")], strict=True):
        record["id"] = name
        record["properties"] |= {"query": query, "rank": 1, "distance": 0.0, "datetime": "2023-06-10T00:00:00Z"}
    lines = b"".join(orjson.dumps(record) + b"\n" for record in records)
    refused = rsr("binarize", "-o", "x.stac.json", input=lines, cwd=tmp_path)
    assert (refused.returncode, b":2: would be the second Item with the id a_b_c" in refused.stderr) == (1, True)
    assert not (tmp_path / "x.stac.json").exists()
    kept = rsr("binarize", "-o", "x.stac.json", "--keep-going", input=lines, cwd=tmp_path)
    assert kept.returncode == 3
    items = orjson.loads((tmp_path / "x.stac.json").read_bytes())["features"]
    assert [item["id"] for item in items] == ["a_b_c", "a_d"]
