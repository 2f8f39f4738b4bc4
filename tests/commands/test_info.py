"""``rsr info``."""

from __future__ import annotations

import geopandas
import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import code, embedding, feature

from rsr_cli.core.errors import Skips
from rsr_cli.core.records import streams

RNG = np.random.default_rng(3)


def records():
    found = []
    for i, (west, east) in enumerate([(10.0, 11.0), (12.5, 13.0), (-5.25, -5.0)]):
        record = feature(f"t{i}", gsd=10.0 + i, labels=["lake", "forest"][: i + 1], code=code([i, 0], 16))
        record["properties"]["datetime"] = f"2024-0{i + 1}-01T00:00:00Z"
        ring = [[west, 40.0], [east, 40.0], [east, 41.0], [west, 41.0], [west, 40.0]]
        found.append(
            record | {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [west, 40.0, east, 41.0]}
        )
    return found


def lines_of(some):
    return b"".join(orjson.dumps(record) + b"\n" for record in some)


@pytest.fixture
def folder(rsr, tmp_path):
    (tmp_path / "c.geojsonl").write_bytes(lines_of(records()))
    with streams.Writer(str(tmp_path / "c.parquet"), Skips()) as out:
        for batch in streams.read([str(tmp_path / "c.geojsonl")], Skips(), ("code",)):
            out.write(batch)
    assert rsr("index", "c.geojsonl", "-o", "c.rsr", cwd=tmp_path).returncode == 0
    return tmp_path


SPACE = {"kind": "code", "method": "sign", "bits": 16, "of": "emb", "fingerprint": "codes", "records": 3}


@pytest.mark.parametrize("name", ["c.geojsonl", "c.parquet", "c.rsr"])
def test_the_same_is_said_of_lines_rows_and_an_index(rsr, folder, name):
    done = rsr("info", "--json", name, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    found = orjson.loads(done.stdout)
    assert found["records"] == 3
    assert found["bbox"] == [-5.25, 40.0, 13.0, 41.0]
    assert found["interval"] == ["2024-01-01T00:00:00Z", "2024-03-01T00:00:00Z"]
    assert found["gsd"] == [10.0, 12.0]
    assert found["labels"] == {"lake": 3, "forest": 2}
    assert found["spaces"] == [SPACE]
    size = sum(path.stat().st_size for path in (folder / name).rglob("segments/*/*")) or (folder / name).stat().st_size
    assert found["bytes"] == size
    assert found["type"] == ("index" if name == "c.rsr" else "records")
    if name == "c.rsr":
        assert (found["metric"], found["generation"]) == ("hamming", 1)
        assert found["arguments"] == ["rsr", "index", "c.geojsonl", "-o", "c.rsr"]


@pytest.mark.parametrize("name", ["int8.geojsonl", "int8.parquet", "int8.rsr"])
def test_a_scale_of_each_vector_makes_no_space(rsr, tmp_path, name):
    drawn = [feature(f"t{i}", embedding=embedding(RNG.standard_normal(8).astype(np.float32))) for i in range(5)]
    quantized = rsr("transform", "--dtype", "int8", input=lines_of(drawn), cwd=tmp_path).stdout
    assert len({orjson.loads(line)["properties"]["embedding"]["scale"] for line in quantized.splitlines()}) == 5
    command = "index" if name.endswith("rsr") else "transform"
    options = () if command == "index" else ("--dtype", "int8")
    assert rsr(command, *options, "-o", name, input=quantized, cwd=tmp_path).returncode == 0
    (space,) = orjson.loads(rsr("info", "--json", name, cwd=tmp_path).stdout)["spaces"]
    assert (space["dtype"], space["records"]) == ("int8", 5)
    assert "scale" not in space


def test_text_is_for_people(rsr, folder):
    lines = dict(line.split(None, 1) for line in rsr("info", "c.rsr", cwd=folder).stdout.decode().splitlines())
    assert lines["bbox"] == "-5.25, 40, 13, 41"
    assert lines["interval"] == "2024-01-01T00:00:00Z to 2024-03-01T00:00:00Z"
    assert lines["gsd"] == "10 to 12 m"
    assert lines["labels"] == "2: lake 3, forest 2"
    assert lines["code"].startswith("method sign, of emb, fingerprint codes, bits 16")


def test_records_of_a_pipe_with_two_kinds_of_vectors_and_none(rsr):
    some = [feature("a", embedding=embedding(RNG.standard_normal(4))), feature("b"), *records()[:1]]
    found = orjson.loads(rsr("info", "--json", "-", input=lines_of(some)).stdout)
    assert found["records"] == 3
    assert {(space["kind"], space["records"]) for space in found["spaces"]} == {("embedding", 1), ("code", 1)}
    assert "bytes" not in found
    text = rsr("info", "-", input=lines_of(some)).stdout.decode()
    assert "(1 records)" not in text
    assert "(1 record)" in text


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[170, 0, 175, 1], [-178, 0, -175, 1]], [170, 0, -175, 1]),
        ([[179, 0, -179, 1]], [179, 0, -179, 1]),
        ([[179, 0, -179, 1], [-100, 0, 10, 1], [30, 0, 100, 1]], [30, 0, 10, 1]),
        ([[179, 0, -179, 1], [-100, 0, 50, 1], [40, 0, 100, 1]], [-180, 0, 180, 1]),
        ([[-10, -5, 10, 5], [20, 0, 30, 1]], [-10, -5, 30, 5]),
        ([[-180, -90, 180, 90]], [-180, -90, 180, 90]),
        ([[-180, -10, 180, 10], [0, 0, 1, 1]], [-180, -10, 180, 10]),
        ([[170, 0, 180, 1], [-180, 0, -170, 1]], [170, 0, -170, 1]),
        ([], None),
    ],
)
def test_the_extent_is_the_narrower_way_around(rsr, tmp_path, boxes, expected):
    some = [feature(f"t{i}", code=code([i], 8)) | {"bbox": box} for i, box in enumerate(boxes)] or [feature("x")]
    for name in ("lines", "index"):
        if name == "index" and expected is not None:
            assert rsr("index", "-o", "i.rsr", input=lines_of(some), cwd=tmp_path).returncode == 0
            found = orjson.loads(rsr("info", "--json", "i.rsr", cwd=tmp_path).stdout)
        else:
            found = orjson.loads(rsr("info", "--json", "-", input=lines_of(some)).stdout)
        assert found.get("bbox") == (pytest.approx(expected, abs=1e-4) if expected else None)


WAYS = {
    "wide": ([{"column": "emb_0..emb_7", "dim": 8, "dtype": "float32"}], None),
    "list": ([{"column": "vec", "dim": 8, "dtype": "float64"}], None),
    "several": ([{"column": name, "dim": 8, "dtype": "float32"} for name in ("embedding", "embeddings")], None),
    "known": (None, [{"kind": "embedding", "dim": 8, "dtype": "float32", "records": 30}]),
    "half": (None, [{"kind": "embedding", "dim": 8, "dtype": "float16", "records": 29}]),
    "lines": (None, [{"kind": "embedding", "dim": 8, "records": 30}]),
    "array": (None, [{"kind": "embedding", "dim": 8, "dtype": "float64", "records": 30}]),
}


@pytest.mark.parametrize("way", WAYS)
def test_vectors_that_others_made(rsr, tmp_path, way):
    vectors, path = RNG.standard_normal((30, 8)), tmp_path / "x.parquet"
    single = list(vectors.astype(np.float32))
    ids = {"id": [f"t{i}" for i in range(30)]}
    match way:
        case "wide":
            pd.DataFrame(ids | {f"emb_{i}": vectors[:, i].astype(np.float32) for i in range(8)}).to_parquet(path)
        case "list":  # of tokens are no vectors
            pd.DataFrame(ids | {"tokens": [[[0.5], [1.5]]] * 30, "vec": list(vectors)}).to_parquet(path)
        case "several":
            pd.DataFrame(ids | {"embedding": single, "embeddings": single}).to_parquet(path)
        case "known":
            nested = pa.array([[each] for each in vectors.tolist()], pa.list_(pa.list_(pa.float32())))
            pq.write_table(pa.table(ids | {"embedding": nested}), path)
        case "half":
            pd.DataFrame(ids | {"embedding": [None, *vectors[1:].astype(np.float16)]}).to_parquet(path)
        case "lines":
            path.with_suffix(".geojsonl").write_bytes(
                lines_of(feature("a", embedding=each.tolist()) for each in vectors)
            )
            path = path.with_suffix(".geojsonl")
        case "array":
            path = path.with_suffix(".npy")
            np.save(path, vectors)
    done = rsr("info", "--json", path)
    assert (done.returncode, done.stderr) == (0, b"")
    found = orjson.loads(done.stdout)
    assert (found.get("candidates"), found.get("spaces")) == WAYS[way]
    lines = dict(line.split(None, 1) for line in rsr("info", path).stdout.decode().splitlines())
    for each in found.get("candidates", ()):
        assert f"{each['column']} (dim 8, dtype {each['dtype']})" in lines["vectors"]
        assert lines["vectors"].endswith("; pass --vector-column to rsr index")
    for each in found.get("spaces", ()):
        assert lines["embedding"].startswith("of no stated space, dim 8")
        assert f"dtype {each.get('dtype')}" in lines["embedding"] or way == "lines"


def test_an_empty_table_of_geopandas(rsr, tmp_path):
    columns = {name: pd.Series([], dtype=object) for name in ("id", "embedding")}
    geopandas.GeoDataFrame(columns, geometry=[], crs=4326).to_parquet(tmp_path / "x.parquet")
    done = rsr("info", "x.parquet", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"rsr info: x.parquet: is empty\n")


def test_a_space_that_states_what_info_states_itself(rsr, tmp_path):
    facts = {"kind": "\x1b[2J", "records": "x", "bytes": "many", "gsd": 3, "bbox": 7, "interval": None, "arguments": 5}
    record = feature("a", embedding=embedding([0.5]) | facts)
    (tmp_path / "x.geojsonl").write_bytes(orjson.dumps(record))
    assert rsr("index", tmp_path / "x.geojsonl", "-o", tmp_path / "x.rsr").returncode == 0
    for name in ("x.geojsonl", "x.rsr"):
        done = rsr("info", tmp_path / name)
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode()
        assert "\nembedding " in text
        assert "bytes many" in text
        assert "\x1b" not in text
        (space,) = orjson.loads(rsr("info", "--json", tmp_path / name).stdout)["spaces"]
        assert (space["kind"], space["records"]) == ("embedding", 1)


def test_an_index_without_rows(rsr, tmp_path):
    assert rsr("index", "--allow-empty", "-o", "i.rsr", input=b"", cwd=tmp_path).returncode == 0
    found = orjson.loads(rsr("info", "--json", "i.rsr", cwd=tmp_path).stdout)
    assert (found["records"], found["bytes"]) == (0, 0)


def test_what_is_neither(rsr, folder):
    (folder / "x.tif").write_bytes(b"II*\0")
    for name, says in (("x.tif", "is a raster (TIFF)"), ("missing", "no such file")):
        done = rsr("info", name, cwd=folder)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert says in done.stderr.decode()
    bad = [*records()[:2], feature("z", labels="bare")]
    done = rsr("info", "--json", "--keep-going", "-", input=lines_of(bad))
    assert done.returncode == 3
    assert orjson.loads(done.stdout)["records"] == 2
