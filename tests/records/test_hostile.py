"""Records of a stranger: every field that the design states, with any JSON in its place, through every command.

``pytest --hypothesis-profile hostile`` tries more of them, see `conftest.py`.
"""

from __future__ import annotations

import json
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import code, embedding
from support_stac import item

from rsr_cli.core.errors import RecordError, RsrError
from rsr_cli.main import cli
from rsr_cli.remedies import explain

DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
#: A string that stands for the hostile value in a record, until it is JSON.
HERE = "-- the hostile value --"
#: What JSON has besides the values of Python: numbers that no double holds, text that is not Unicode, deep nesting.
FRAGMENTS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e400", "1e-400", "-0", "-0.0", "1E5", "12345678901234567890123"),
    *("0.1000000000000000055511151231257827", "18446744073709551615", "-9223372036854775809", "1" + "0" * 400),
    *(r'"\ud800"', r'"\u0000"', r'"\u001b[2J"', r'"\u202e"', r'"a\nb"', '"\x7f"', '"' + "x" * 70_000 + '"', '""'),
    *("[" * 100 + "]" * 100, "[" * 400 + "]" * 400, '{"a":' * 300 + "1" + "}" * 300, '{"a":1,"a":2}', '{"":null}'),
    *("[1e308,1e308,1e308,1e308]", "[179,-91,181,91]", "[0,0,1e-320,1]", "[0,0,0,0,0,0]", "[1,null,3,4]"),
    *('["a",1]', '[["A00..A99999999"]]', '["A00..A99"]', '["A00..A9999999999"]', '["red","red"]', '["-"]'),
    *("[-1,-1,1,1]", '"int8"', '"float16"', '"uint8"', '"9999-12-31T23:59:60Z"', '"2023-02-30"'),
    *("[0,0,1073741824,1]", "[0,0,1e18,1]", "[0.5,0,4,4]", "[2147483648,0,4,4]", '{"source":"x","bits":[62]}'),
    *('{"type":"Point","coordinates":[1e400,0]}', '{"type":"Polygon","coordinates":[]}', '{"type":7}'),
    *('{"type":"GeometryCollection","geometries":[]}', '{"type":"MultiPolygon","coordinates":[[[[0,0]]]]}'),
    *('{"type":"LineString","coordinates":[[0,0],[12345678901234567890123,1]]}', '{"power":1e308}', '{"scales":"/"}'),
    *('"0001-01-01T00:00:00+23:59"', '"/dev/zero"', '"/etc/passwd"', '"."'),
    *('"rcf:seed=99999999999999999999:bands="', '"a:b=c:b=d"', '"="', '"sign"', '"lsh"'),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
).map(json.dumps)
#: Names that mean something elsewhere.
OTHERS = ("kind", "records", "bytes", "gsd", "sha256", "type", "data")
HOSTILE = st.sampled_from(FRAGMENTS) | VALUES


def place() -> dict[str, Any]:
    ring = [[15, 48], [16, 48], [16, 49], [15, 49], [15, 48]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [15, 48, 16, 49]}


#: Every field that a record may have, but its vectors.
FIELDS: dict[str, Any] = {
    "source": "scene.tif", "window": [0, 0, 4, 4], "bands": ["e0", "e1"], "scale": 1, "offset": [0, 0],
    "decode": {"power": 2}, "space": "s", "unit": "dB", "nodata": -1, "gsd": 10.0, "datetime": "2023-06-10T10:00:31Z",
    "proj:code": "EPSG:32633", "proj:wkt2": "", "proj:shape": [4, 4], "proj:transform": [10, 0, 6e5, 0, -10, 5300040],
    "grid:code": "MAJORTOM-10-451U_946L", "mask": {"source": "mask.tif", "values": [7], "bits": [1]}, "valid": 1,
    "eo:cloud_cover": 3.5, "collection": "c", "labels": ["lake"], "split": "train", "tiles": ["t"],
    "start_datetime": "2023-06-10T10:00:31Z", "end_datetime": "2023-06-11T10:00:31Z", "query": "first", "rank": 1,
    "distance": 0.5, "query_labels": ["lake"],
    "embedding": embedding([0.5, -1.0]) | {"weights": "w", "filled": ["red"], "precision": "bf16"},
    "code": code([128], 2) | {"model": "m", "weights": "w", "seed": 3},
}  # fmt: skip


def record(name: str, *fields: str) -> dict[str, Any]:
    """Return a sound record with some of the fields."""
    return {"id": name, **place(), "properties": {field: FIELDS[field] for field in fields}}


BOTH, PIXELS = ("embedding", "code"), ("source", "window", "bands", "space", "proj:transform")
PLAIN = tuple({*FIELDS} - {*BOTH, "unit", "decode", "mask", "query", "rank", "distance", "query_labels", "tiles"})
HIT = ("query", "rank", "distance", "labels", "query_labels", "tiles", *PIXELS)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all values in a record, itself last."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*(found for key, each in inside for found in paths(each, (*path, key))), *([path] if path else [])]


def changed(record: dict[str, Any], path: tuple[Any, ...], fragment: str) -> bytes:
    """Return a record as JSON, with a fragment in place of a value."""
    record = json.loads(json.dumps(record))
    inside: Any = record
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = HERE
    return json.dumps(record).replace(json.dumps(HERE), fragment).encode("utf-8", "surrogatepass")


@st.composite
def hostile(draw: st.DrawFn, base: dict[str, Any]) -> bytes:
    """Draw a record with a fragment in place of one value, or beside it under another name."""
    path = draw(st.sampled_from(paths(base)))
    if draw(st.integers(0, 9)) == 0:
        path = (*path[:-1], draw(st.sampled_from(OTHERS) | st.text(max_size=8)))
        base = json.loads(json.dumps(base))
        inside: Any = base
        for key in path[:-1]:
            inside = inside[key]
        if isinstance(inside, list):
            path = (*path[:-1], 0)
    return changed(base, path, draw(HOSTILE))


def run(*words: object) -> int | RsrError:
    """Run a command in this process; return its status, or the error that the user would read."""
    try:
        return cli.main([*map(str, words)], "rsr", standalone_mode=False) or 0
    except RsrError as error:
        found = error
    assert explain(found)
    assert "--keep-going" not in words or not isinstance(found, RecordError), found
    return found


def ids(path: Path) -> list[Any]:
    return [orjson.loads(line)["id"] for line in path.read_bytes().splitlines()]


def checked(folder: Path, lines: bytes, commands: list[list[object]]) -> None:
    """Run commands on lines: each succeeds or raises `RsrError`, and with --keep-going the sound records are there."""
    (folder / "in.geojsonl").write_bytes(lines)
    for words in commands:
        run(*words)
        out = folder / "out.geojsonl"
        out.unlink(missing_ok=True)
        found = run(*words, "--keep-going")
        if not isinstance(found, RsrError) and out.exists() and words[0] in ("binarize", "embed", "tile"):
            assert {"first", "last"} <= {str(each).removesuffix("_0_0") for each in ids(out)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_raster):
    """Return a directory with what the records name."""
    path = tmp_path_factory.mktemp("hostile")
    pixels = np.random.default_rng(0).normal(size=(2, 8, 8)).astype("float32")
    write_raster(path / "scene.tif", pixels)
    write_raster(path / "mask.tif", np.zeros((1, 8, 8), "uint8"))
    (path / "sound.geojsonl").write_text(json.dumps(record("first", "code", "labels", *PIXELS)))
    assert run("index", path / "sound.geojsonl", "-o", path / "lake.rsr") == 0
    (path / "embedded.geojsonl").write_bytes(b"".join(stream(b"", "embedding").splitlines(keepends=True)))
    assert run("binarize", path / "embedded.geojsonl", "--parts", path / "parts", "--part-size", 1) == 0
    return path


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


several = settings(
    max_examples=settings.default.max_examples // 10,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=timedelta(seconds=30),  # only what hangs takes as long
)


def stream(lines: bytes, *fields: str) -> bytes:
    """Return lines between two sound records."""
    first, last = (json.dumps(record(name, *fields)).encode() for name in ("first", "last"))
    return b"\n".join([first, lines, last])


def test_the_fields_here_are_those_that_the_design_states():
    table = re.findall(r"^\| (top|properties) \| (.*?) \|", DESIGN.read_text(), re.MULTILINE)
    stated = {name for where, names in table if where == "properties" for name in re.findall(r"`(.*?)`", names)}
    assert stated | {"proj:wkt2"} == FIELDS.keys()  # in place of a code
    assert {names.strip("`") for where, names in table if where == "top"} <= record("x").keys()


@several
@given(line=hostile(record("odd", "embedding", *PLAIN)))
def test_embeddings(folder, line):
    inputs = [folder / "in.geojsonl"]
    checked(
        folder,
        stream(line, "embedding"),
        [
            ["binarize", *inputs, "--overwrite", "-o", folder / "out.geojsonl"],
            ["binarize", *inputs, "--keep-embedding", "--overwrite", "-o", folder / "out.parquet"],
            ["index", *inputs, "--metric", "l2", "--overwrite", "-o", folder / "out.rsr"],
            ["info", *inputs, "--overwrite", "-o", folder / "out.txt"],
            ["info", folder / "out.parquet", "--overwrite", "-o", folder / "out.txt"],
        ],
    )


@several
@given(line=hostile(record("odd", *BOTH, "labels", "datetime", "gsd", "grid:code")))
def test_codes(folder, line):
    inputs = [folder / "in.geojsonl"]
    checked(
        folder,
        stream(line, "code"),
        [
            ["index", *inputs, "--overwrite", "-o", folder / "out.rsr"],
            ["query", folder / "out.rsr", *inputs, "--overwrite", "-o", folder / "hits.geojsonl"],
            ["query", folder / "lake.rsr", *inputs, "--merge", "--overwrite", "-o", folder / "hits.geojsonl"],
            ["info", folder / "out.rsr", "--overwrite", "-o", folder / "out.txt"],
            ["score", folder / "hits.geojsonl", "--truth", *inputs, "--overwrite", "-o", folder / "out.txt"],
        ],
    )


@several
@given(line=hostile(record("odd", *HIT)))
def test_hits(folder, line):
    inputs = [folder / "in.geojsonl"]
    checked(
        folder,
        stream(line, *HIT),
        [
            ["score", *inputs, "--overwrite", "-o", folder / "out.txt"],
            ["score", folder / "in.geojsonl", "--truth", *inputs, "--overwrite", "-o", folder / "out.txt"],
            ["show", *inputs, "--bands", "e0", "--queries", *inputs, "--overwrite", "-o", folder / "out.html"],
        ],
    )


@several
@given(line=hostile(record("odd", *PIXELS, "scale", "offset", "decode", "nodata", "mask", "valid", "gsd", "datetime")))
def test_tiles(folder, line):
    embed = ["embed", "--model", "mean", "--overwrite", "-o", folder / "out.geojsonl", folder / "in.geojsonl"]
    checked(folder, stream(line, *PIXELS), [embed, [*embed, "--root", folder]])


ASSET = {
    "href": "scene.tif", "type": "image/tiff", "roles": ["data"], "gsd": 10, "proj:transform": [10, 0, 0, 0, -10, 0],
    "eo:bands": [{"name": "a", "common_name": "red"}, {"common_name": "rededge", "center_wavelength": 0.7}],
    "raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}, {"nodata": "nan"}],
}  # fmt: skip
ITEM = item("odd", {"a": ASSET}, **{"eo:cloud_cover": 3, "s2:processing_baseline": "04.00"}) | {"collection": "c"}


@several
@given(line=hostile(ITEM))
def test_items(folder, line):
    first, last = (json.dumps(ITEM | {"id": name}).encode() for name in ("first", "last"))
    tile = ["tile", "--bands", "red", "--size", 4, "--overwrite", "-o", folder / "out.geojsonl", folder / "in.geojsonl"]
    checked(folder, b"\n".join([first, line, last]), [tile, [*tile, "--root", folder]])


@several
@given(data=st.data())
def test_what_states_parts(folder, data):
    name = data.draw(st.sampled_from(["parts.json", "shard-0.json"]))
    shutil.rmtree(folder / "p", ignore_errors=True)
    shutil.copytree(folder / "parts", folder / "p")
    (folder / "p" / name).write_bytes(data.draw(hostile(json.loads((folder / "p" / name).read_bytes()))))
    for words in (["info", "p"], ["info", "p", "--allow-missing"], ["binarize", "embedded.geojsonl", "--parts", "p"]):
        run(*words)


@pytest.mark.parametrize("command", [["binarize"], ["info", "-"], ["score"]])
def test_the_program_says_what_is_wrong_in_visible_characters(rsr, command):
    """With every fragment as every field of a record, one after the other."""
    base = record("odd", "embedding", "labels", "datetime", "query", "rank")
    lines = [changed(base, path, fragment) for path in paths(base) for fragment in FRAGMENTS if len(fragment) < 1000]
    done = rsr(*command, "--keep-going", input=b"\n".join(lines))
    assert done.returncode in (0, 1, 3)
    text = done.stderr.decode()
    assert all(line.startswith(f"rsr {command[0]}: ") and line.isprintable() for line in text.splitlines())
    assert "bug in rsr" not in text
