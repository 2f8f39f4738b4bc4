"""GeoParquet in and out, beside the libraries that read and write it too."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from decimal import Decimal

import duckdb
import geopandas
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from support import code_records, drawn_lines, embedding, feature, read_all, says_what_is_lost

from rsr_cli.core.errors import RsrError, Skips
from rsr_cli.core.records import parquet, rows, streams
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.space import KINDS, Space
from rsr_cli.core.records.tables import TableSettings

RNG = np.random.default_rng(5)


def square(west, south, size=0.1):
    east, north = round(west + size, 7), round(south + size, 7)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [west, south, east, north]}


def tiles(n, dim=16):
    """Build records as `rsr embed` writes them."""
    found = []
    for i in range(n):
        properties = {
            "source": "scene.tif", "window": [i * 224, 0, 224, 224], "bands": ["blue", "green"], "gsd": 10.0,
            "proj:transform": [10.0, 0.0, 4e5 + i, 0.0, -10.0, 5e6], "datetime": "2024-06-01T10:36:29.024Z",
            "labels": ["lake", "forest"][: i % 3], "mask": {"source": "m.tif", "values": [1, i]},
        }  # fmt: skip
        if i % 4 == 0:
            properties["eo:cloud_cover"] = i / 7
        place = square(round(12 + i * 0.01, 7), 45.0)
        vector = embedding(RNG.standard_normal(dim))
        found.append({"type": "Feature", "id": f"s_{i}", **place, "properties": {**properties, "embedding": vector}})
    return found


def lines_of(records):
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def copied(source, target, kinds=KINDS):
    """Read a file as a command does, and write what was read."""
    with streams.Writer(str(target), Skips(), overwrite=True) as out:
        for batch in streams.read([str(source)], Skips(), kinds):
            out.write(batch)
    return target


def there_and_back(folder, text, kinds=KINDS):
    """Return what comes out of JSON lines by way of Parquet, and directly."""
    (folder / "in.geojsonl").write_bytes(text)
    directly = copied(folder / "in.geojsonl", folder / "direct.geojsonl", kinds).read_bytes()
    copied(folder / "in.geojsonl", folder / "x.parquet", kinds)
    return copied(folder / "x.parquet", folder / "out.geojsonl", kinds).read_bytes(), directly


# The same records ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 1500])
def test_records_come_back_bit_for_bit(tmp_path, n):
    text = lines_of(tiles(n))
    there, directly = there_and_back(tmp_path, text)
    assert there == directly
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert schema.field("embedding").type == pa.list_(pa.float32(), 16)
    assert schema.field("datetime").type == pa.timestamp("us", "UTC")
    assert schema.field("mask").type == pa.struct([("source", pa.string()), ("values", pa.list_(pa.int64()))])


def test_codes_come_back_bit_for_bit(tmp_path):
    text = lines_of(code_records(RNG.integers(0, 128, (40, 2), np.uint8) & np.uint8([255, 248]), 13))
    there, directly = there_and_back(tmp_path, text)
    assert there == directly
    assert pq.read_schema(tmp_path / "x.parquet").field("code").type == pa.binary(2)


NUMBERS = (
    b"1", b"1.0", b"-0.0", b"1e300", b"36893488147419103233", b"0.1234567890123456789", b"12345678901234567", b"1e-320"
)  # fmt: skip


def test_what_no_column_holds_comes_back(tmp_path):
    """Mixed types, explicit nulls, members of their own, and numbers that no double holds."""
    odd = [
        b'{"type":"Feature","id":1,"geometry":null,"properties":{"a":"x"},"links":[],"stac_version":"1.1.0"}',
        b'{"type":"Feature","id":1.5,"geometry":null,"properties":{"a":null,"b":{"c":[1,"x",null]}}}',
        b'{"id":"other order","type":"Feature","properties":{"b":{},"a":[]},"geometry":null}',
        b'{"type":"Feature","geometry":{"type":"Point","coordinates":[1,2]},"properties":{"datetime":"2024"}}',
        b'{"type":"Feature","id":"z","geometry":{"type":"Point","coordinates":[1.5,2.5,3.5]},"properties":{"id":"p"}}',
        b'{"type":"Feature","id":"none","geometry":{"type":"Polygon","coordinates":[]},"properties":{"code":"A1"}}',
        *(b'{"type":"Feature","id":"n","geometry":null,"properties":{"n":%s}}' % number for number in NUMBERS),
    ]
    text = b"\n".join(odd) + b"\n"
    there, directly = there_and_back(tmp_path, text, ())
    assert there == directly


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "id", "datetime", "bbox", "rsr_record"]), JSON_VALUES)))
def test_any_properties_come_back(tmp_path_factory, properties):
    text = lines_of(feature(f"t{i}", **each) for i, each in enumerate(properties))
    there, directly = there_and_back(tmp_path_factory.mktemp("any"), text, ())
    assert there == directly


def test_commands_give_the_same_by_either_file(rsr, tmp_path):
    (tmp_path / "e.geojsonl").write_bytes(lines_of(tiles(30)))
    copied(tmp_path / "e.geojsonl", tmp_path / "e.parquet")
    for ending in ("geojsonl", "parquet"):
        for command in (
            ["binarize", f"e.{ending}", "-o", f"c.{ending}"],
            ["index", f"c.{ending}", "-o", f"{ending}.rsr"],
            ["query", f"{ending}.rsr", f"e.{ending}", "-k", "5", "-o", f"h.{ending}"],
        ):
            done = rsr(*command, cwd=tmp_path)
            assert (done.returncode, done.stderr) == (0, b"")
    hits = (tmp_path / "h.geojsonl").read_bytes()
    assert len(hits.splitlines()) == 150
    assert copied(tmp_path / "h.parquet", tmp_path / "h2.geojsonl", ()).read_bytes() == hits
    assert (
        copied(tmp_path / "c.parquet", tmp_path / "c2.geojsonl").read_bytes() == (tmp_path / "c.geojsonl").read_bytes()
    )
    records = []
    for ending in ("geojsonl", "parquet"):
        (database,) = (tmp_path / f"{ending}.rsr").rglob("records.sqlite")
        with sqlite3.connect(database) as connection:
            records.append(connection.execute("SELECT * FROM records").fetchall())
    assert records[0] == records[1]


VARIED = {
    "zeros": [0.0, -0.0, 0.0, -0.0],
    "same": ["100 %s", "100 %s", "100 %s", "100 %s"],
    "numbers": [[1, 2], [3, 4], [5, 6], [7, 8]],
    "lists": [[], [1.5], [2.5, -0.0], []],
    "days": [None, "a", None, "b"],
    "boxes": [{"a": [1], "b": "%"}, {"a": [], "b": "x"}, {"a": [2, 3], "b": '"'}, {"a": [4], "b": ","}],
    "flags": [True, False, True, True],
    "text": ['a","b', "},{", "\\", "%"],
    "tags": [["a"], ["],["], ['","'], ["%s"]],
    "pairs": [["a", "],["], ['","', None], [None, None], ["", "b"]],
    "flat": [["a", "b"]] * 4,
    "halves": [[0.5, -0.0], [0.0, 1e300], [1.5, 2.5], [3.0, 4.0]],
    "gaps": [[0.5, None], [None, 1.5], [1.5, 2.5], [3.0, 4.0]],
    "flips": [[True, False], [False, True], [True, True], [None, True]],
    "matrix": [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[1, 2], [3, 4]], [[0, 0], [0, 0]]],
    "ragged": [[["a"], []], [[], ["b", "c"]], [["d"], ["e"]], [["f"], ["g"]]],
    "structs": [[{"a": 1}], [{"a": 2}], [{"a": 3}], [{"a": 4}]],
}


@pytest.mark.parametrize("names", [list(VARIED), ["days", "flags"], ["same"], []])
@pytest.mark.parametrize("n", [1, 4])
def test_columns_are_written_as_their_records_are(tmp_path, names, n):
    """An index takes the text of columns without making a record of each row."""
    places = [{"type": "Point", "coordinates": [1.5, -0.0]}, square(1.0, 2.0)["geometry"], square(1.0, 2.0)["geometry"]]
    for geometries in ([None] * 4, [places[1]] * 4, [*places, None]):
        records = [feature(f't"{i}', **{name: VARIED[name][i] for name in names}) for i in range(n)]
        for record, geometry in zip(records, geometries, strict=False):
            record["geometry"] = geometry
        (tmp_path / "in.geojsonl").write_bytes(lines_of(records))
        copied(tmp_path / "in.geojsonl", tmp_path / "x.parquet", ())
        (batch,) = streams.read([str(tmp_path / "x.parquet")], Skips())
        texts = batch.columns.texts()
        if texts is not None:
            assert texts == [orjson.dumps(record).decode() for record in batch.records]
        assert texts is not None or names[:1] == ["days"]


# Other programs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    (tmp_path / "e.geojsonl").write_bytes(lines_of(tiles(300)))
    return copied(tmp_path / "e.geojsonl", tmp_path / "e.parquet")


def test_geopandas_reads_it(table):
    frame = geopandas.read_parquet(table)
    assert frame.crs == "OGC:CRS84"
    records = tiles(300)
    assert list(frame.id) == [record["id"] for record in records]
    assert frame.geometry.geom_equals(geopandas.GeoSeries.from_wkt(
        [shapely.geometry.shape(record["geometry"]).wkt for record in records], crs="OGC:CRS84"
    )).all()  # fmt: skip
    some = geopandas.read_parquet(table, bbox=(12.0, 45.0, 12.05, 45.05))
    assert set(some.id) == {f"s_{i}" for i in range(6)}


def test_duckdb_reads_it_and_finds_the_boxes_of_row_groups(table):
    found = duckdb.execute(
        f"SELECT count(*), min(labels[1]), any_value(embedding).len() FROM '{table}' WHERE bbox.xmin > 12.505"
    ).fetchone()
    assert found == (249, "lake", 16)
    stats = duckdb.execute(f"SELECT path_in_schema, stats_min_value FROM parquet_metadata('{table}')").fetchall()
    assert {name for name, least in stats if least is not None} >= {f"bbox, {side}" for side in ("xmin", "ymax")}


def test_the_footer_is_that_of_geoparquet(table):
    metadata = pq.read_metadata(table).metadata
    geo = json.loads(metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"], column["encoding"]) == ("1.1.0", "geometry", "WKB")
    assert column["geometry_types"] == ["Polygon"]
    assert column["bbox"] == pytest.approx([12.0, 45.0, 15.09, 45.1])
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]


def test_the_footer_states_the_embeddings(rsr, table, tmp_path):
    """As the STAC embedding extension names it; what the columns state of the space counts."""
    emb = json.loads(pq.read_metadata(table).metadata[b"emb"])
    assert emb == {"version": "0.0.1", "type": "chip", "dimensions": 16, "data_type": "float32", "model": {"id": "m"}}
    assert rsr("binarize", table, "-o", "codes.parquet", cwd=tmp_path).returncode == 0
    assert b"emb" not in pq.read_metadata(tmp_path / "codes.parquet").metadata
    (code,) = {
        json.dumps(json.loads(text)["of"])
        for text in pq.read_table(tmp_path / "codes.parquet")["code_space"].to_pylist()
    }
    assert code == '"emb"'


def rewritten_by_geopandas(table, to):
    geopandas.read_parquet(table).to_parquet(to)


def rewritten_by_duckdb(table, to):
    duckdb.execute(f"COPY (SELECT * FROM '{table}') TO '{to}' (FORMAT PARQUET)")


@pytest.mark.parametrize("rewrite", [rewritten_by_geopandas, rewritten_by_duckdb])
def test_what_others_write_again_comes_back_in(rsr, table, tmp_path, rewrite):
    rewrite(table, tmp_path / "again.parquet")
    for name in ("e", "again"):
        assert rsr("index", f"{name}.parquet", "-o", f"{name}.rsr", cwd=tmp_path).returncode == 0
    hits = [rsr("query", f"{name}.rsr", "--id", "s_7", "-k", "3", cwd=tmp_path).stdout for name in ("e", "again")]
    first, second = ([orjson.loads(line) for line in each.splitlines()] for each in hits)
    assert [hit["id"] for hit in first] == [hit["id"] for hit in second]
    assert [hit["geometry"] for hit in first] == [hit["geometry"] for hit in second]
    assert first[0]["properties"]["window"] == second[0]["properties"]["window"] == [7 * 224, 0, 224, 224]


def test_a_column_that_was_edited_counts(tmp_path):
    records = [feature("a", n=1.5), feature("b", n=1, m=2), feature("c", n=2.5)]
    (tmp_path / "in.geojsonl").write_bytes(lines_of(records))
    copied(tmp_path / "in.geojsonl", tmp_path / "x.parquet", ())
    select = "SELECT * REPLACE (n + 0.25 AS n)"
    duckdb.execute(f"COPY ({select} FROM '{tmp_path}/x.parquet') TO '{tmp_path}/y.parquet' (FORMAT PARQUET)")
    copied(tmp_path / "y.parquet", tmp_path / "out.geojsonl", ())
    found = [orjson.loads(line)["properties"] for line in (tmp_path / "out.geojsonl").read_bytes().splitlines()]
    assert found == [{"n": 1.75}, {"n": 1.25, "m": 2}, {"n": 2.75}]


# Failures ------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_parquet(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RsrError, match=r"x\.parquet: cannot be read as Parquet"):
        read_all(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").unlink()
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(RsrError, match="not a regular file"):
        read_all(tmp_path / "x.parquet")


def test_texts_that_are_not_utf_8(tmp_path):
    """In a column of texts, in one that a dictionary has, and in the name of a time zone, which Arrow keeps beside."""
    times = pa.array([0], pa.timestamp("us", "Europe/Rome"))
    for name, column in {"id": ["mark!"], "embedding_space": ["mark!"], "datetime": times}.items():
        path = tmp_path / f"{name}.parquet"
        vectors = pa.array([[0.5]], pa.list_(pa.float32()))
        others = {"id": ["a"], "embedding": vectors}
        pq.write_table(pa.table({**others, name: column}), path, compression="none", write_statistics=False)
        sound = path.read_bytes()
        for old, new in ((b"mark!", b"mar\xfd!"), *_spoilt_zone(sound)):
            sound = sound.replace(old, new)
        path.write_bytes(sound)
        with pytest.raises(RsrError, match=rf"{name}\.parquet: cannot be read as Parquet: .*(UTF8|utf-8)"):
            next(streams.read([str(path)], Skips(), (), None, TableSettings("s"))).records.clear()


@pytest.mark.parametrize("space", [[["a"]], [{"a": "b"}]])
def test_a_space_that_is_nested_is_no_space(tmp_path, space):
    table = {"id": ["a"], "embedding": pa.array([[0.5]], pa.list_(pa.float32())), "embedding_space": space}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    assert read_all(tmp_path / "x.parquet")[0] == ["a"]


@pytest.mark.parametrize("name", ["rsr_record", "code_space"])
@pytest.mark.parametrize("column", [[7], [["a"]], [b"{}"]])
def test_columns_of_ours_that_are_no_text_are_refused(tmp_path, name, column):
    table = {"id": ["a"], "embedding": pa.array([[0.5]], pa.list_(pa.float32())), "embedding_space": ["{}"]}
    pq.write_table(pa.table({**table, name: column}), tmp_path / "x.parquet")
    with pytest.raises(RsrError, match=rf"x\.parquet: .*{name}"):
        read_all(tmp_path / "x.parquet")


def test_dates_beyond_those_of_python(tmp_path):
    days = pa.array([0, None, 2**31 - 1, -(2**31) + 1], pa.date32())
    pq.write_table(pa.table({"id": ["a", "b", "c", "d"], "day": days}), tmp_path / "x.parquet")
    (batch,) = streams.read([str(tmp_path / "x.parquet")], Skips())
    found = [record["properties"].get("day") for record in batch.records]
    assert found == ["1970-01-01", None, "5881580-07-11", "-5877641-06-24"]


def test_a_column_beside_ours_that_records_do_not_hold_is_left_out(tmp_path, caplog):
    others = {"x": pa.array([2**62], pa.duration("s")), "y": [b"\xff"], "z": [{"a": [b""]}]}
    pq.write_table(pa.table({"id": ["a"], "embedding_space": ["{}"], **others}), tmp_path / "x.parquet")
    (batch,) = streams.read([str(tmp_path / "x.parquet")], Skips())
    assert [record["properties"] for record in batch.records] == [{}]
    assert "left out, as records do not hold them: x, y, z" in caplog.text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("crs", ["OGC:CRS84", "EPSG:3857"])
def test_coordinates_that_are_no_numbers_or_beyond_any_map(tmp_path, crs):
    """No library warns of them, and none turns a longitude back for ever."""
    head = b"\x01\x02\0\0\0\x03\0\0\0"  # of a line of three points
    places = [head + np.array([x, 0, 1, 1, 2, 5], "<f8").tobytes() for x in (np.nan, 1e295, -1e12)]
    table = pa.table({"id": ["a", "b", "c"], "geometry": places})
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB", "crs": crs}}}
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / "x.parquet")
    assert read_all(tmp_path / "x.parquet", keep_going=True)[0] == ["a", "b", "c"]


def _spoilt_zone(content):
    """Return the schema that Arrow keeps in base64, if it has a time zone, and one whose zone is not UTF-8."""
    (kept,) = re.findall(rb"[A-Za-z0-9+/]{200,}=*", content)
    schema = base64.b64decode(kept)
    return [(kept, base64.b64encode(schema.replace(b"Europe/Rome", b"Europe\xfdRome")))] if b"Rome" in schema else []


def test_a_file_that_is_cut_short(table):
    table.write_bytes(table.read_bytes()[:-1000])
    with pytest.raises(RsrError, match="cannot be read as Parquet"):
        read_all(table)


def test_a_full_disk(rsr, tmp_path):
    (tmp_path / "x.parquet").symlink_to("/dev/full")
    done = rsr("binarize", "-o", "x.parquet", input=drawn_lines(2000), cwd=tmp_path)
    says = b"rsr binarize: x.parquet: cannot write: no space left on device\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", says)


def test_a_failure_leaves_no_file(rsr, tmp_path):
    for name in ("x.parquet", "x.geojsonl.gz"):
        done = rsr("binarize", "-o", name, input=drawn_lines(3000) + b"no json\n", cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.parquet", "x.geojsonl.gz"])
def test_an_interrupt_leaves_no_file_and_says_so(tmp_path, name):
    command = [sys.executable, "-m", "rsr_cli.main", "binarize", "-o", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        process.stdin.write(drawn_lines(3000))
        process.stdin.flush()
        while not any(tmp_path.iterdir()):
            time.sleep(0.01)
        time.sleep(0.5)  # in which a writer of Parquet is opened
        process.send_signal(signal.SIGINT)
        assert says_what_is_lost(process.stderr.read(), name)
        process.stdin.close()
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_not_replaced(rsr, tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"II*\0 a raster")
    done = rsr("binarize", "-o", "x.parquet", "--overwrite", input=drawn_lines(3), cwd=tmp_path)
    assert done.returncode == 1
    assert b"is not a Parquet file; it is not replaced" in done.stderr


def test_row_groups_are_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 700)
    (tmp_path / "in.geojsonl").write_bytes(drawn_lines(2000))
    copied(tmp_path / "in.geojsonl", tmp_path / "x.parquet")
    metadata = pq.read_metadata(tmp_path / "x.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [700, 700, 600]
    assert read_all(tmp_path / "x.parquet")[0] == [f"t{i}" for i in range(2000)]


def test_reading_keeps_no_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 1000)
    path = tmp_path / "x.parquet"
    with streams.Writer(str(path), Skips()) as out:
        for i in range(40):
            vectors = RNG.standard_normal((1000, 256)).astype(np.float32)
            space = Space("embedding", 256, "float32", "f", {"model": "m"})
            out.write(Batch("in", range(1000), [feature(f"{i}_{j}") for j in range(1000)], vectors, space))
    assert path.stat().st_size > 30 << 20
    before, most = pa.total_allocated_bytes(), 0
    for _ in streams.read([str(path)], Skips(), KINDS):
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < path.stat().st_size * 3 / 4


# Directories and compressed files ------------------------------------------------------------------------------------


def test_a_directory_is_read_in_the_order_of_its_names(rsr, tmp_path):
    for name, records in (("year=2024/month=06/b", tiles(3)), ("year=2023/a", tiles(1)), ("_temporary/c", tiles(1))):
        for record in records:
            record["id"] = f"{name} {record['id']}"
        (tmp_path / "in.geojsonl").write_bytes(lines_of(records))
        (tmp_path / "lake" / name).parent.mkdir(parents=True)
        copied(tmp_path / "in.geojsonl", tmp_path / "lake" / f"{name}.parquet")
    done = rsr("binarize", "lake", cwd=tmp_path)
    found = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [record["id"] for record in found] == ["year=2023/a s_0", *(f"year=2024/month=06/b s_{i}" for i in range(3))]
    assert [(record["properties"]["year"], record["properties"].get("month")) for record in found[::3]] == [
        (2023, None), (2024, 6)
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    assert b"empty: is a directory" in rsr("binarize", "empty", cwd=tmp_path).stderr


@pytest.mark.parametrize(("ending", "program"), [("gz", "gzip"), ("zst", "zstd")])
def test_compressed_lines_come_and_go(rsr, tmp_path, ending, program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    plain = rsr("binarize", input=drawn_lines(300)).stdout
    done = rsr("binarize", "-o", f"x.geojsonl.{ending}", input=drawn_lines(300), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    packed = tmp_path / f"x.geojsonl.{ending}"
    assert subprocess.check_output([program, "-dc", packed]) == plain
    twice = tmp_path / f"twice.{ending}"  # as cat makes it of two files
    twice.write_bytes(packed.read_bytes() * 2)
    assert len(read_all(twice)[0]) == 600
    assert rsr("index", packed, "-o", "lake.rsr", cwd=tmp_path).returncode == 0
    assert rsr("binarize", "-o", packed, "--overwrite", input=drawn_lines(3)).returncode == 0
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(RsrError, match=str(packed)):
        read_all(packed)
    packed.write_bytes(b"no such compression")
    done = rsr("binarize", packed)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert rsr("binarize", "-o", packed, "--overwrite", input=drawn_lines(3)).returncode == 1


# Embeddings that others made -----------------------------------------------------------------------------------------


def published(path, ids=None, crs="OGC:CRS84", centres=None, **columns):
    """Write a table as geopandas users do, of vectors (5, 8)."""
    columns.setdefault("embedding", list(RNG.standard_normal((5, 8)).astype(np.float32)))
    if ids is not None:
        columns["id"] = ids
    if centres:
        columns |= {"centroid_lon": np.arange(5) + 0.5, "centroid_lat": np.full(5, 45.5)}
    places = [shapely.box(i, 45, i + 1, 46) for i in range(5)]
    geopandas.GeoDataFrame(columns, geometry=places, crs=crs).to_parquet(path)
    return path


def test_a_plain_table_needs_a_name_for_its_space(rsr, tmp_path):
    published(tmp_path / "x.parquet", ids=[f"p{i}" for i in range(5)], city=["a", None, "c", "d", "e"])
    done = rsr("index", "x.parquet", "-o", "x.rsr", cwd=tmp_path)
    says = "x.parquet: does not state the vector space of its embeddings; pass --space NAME, the same name for all"
    assert done.stderr.decode() == f"rsr index: {says} embeddings that may be compared\n"
    done = rsr("index", "x.parquet", "--space", "mine", "-o", "x.rsr", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    done = rsr("query", "x.rsr", "--id", "p1", "-k", "5", cwd=tmp_path)
    hits = [orjson.loads(line) for line in done.stdout.splitlines()]
    vectors = np.stack(geopandas.read_parquet(tmp_path / "x.parquet").embedding)
    order = np.argsort(cdist(vectors[1:2], vectors, "cosine")[0])
    assert [hit["id"] for hit in hits] == [f"p{i}" for i in order]
    assert hits[0]["bbox"] == [1.0, 45.0, 2.0, 46.0]
    assert "city" not in hits[0]["properties"]
    other = rsr("query", "x.rsr", "x.parquet", "--space", "yours", cwd=tmp_path)
    assert b"model yours, not mine" in other.stderr


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8"])
def test_vectors_of_other_types(tmp_path, dtype):
    vectors = (RNG.standard_normal((5, 8)) * 20).astype(dtype)
    published(tmp_path / "x.parquet", ids=list("abcde"), embedding=list(vectors))
    (batch,) = streams.read([str(tmp_path / "x.parquet")], Skips(), KINDS, settings=TableSettings("mine"))
    assert batch.vectors.dtype == np.float32
    assert np.array_equal(batch.vectors, vectors.astype(np.float32))


@pytest.mark.parametrize("text", [pa.string(), pa.large_string()])
def test_places_in_well_known_text(tmp_path, text):
    places = [shapely.box(1, 2, 3, 4), shapely.Point(5, 6), None, shapely.Point(7, 8), None]
    texts = pa.array([place and place.wkt for place in places], text)
    columns = {"id": list("abcde"), "embedding": [[0.5, 1.5]] * 5, "geometry": texts}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    records = records_of(tmp_path / "x.parquet")
    found = [record["geometry"] and shapely.geometry.shape(record["geometry"]) for record in records]
    assert found == places
    assert records[0]["bbox"] == [1, 2, 3, 4]


@pytest.mark.parametrize("type_", [pa.uuid(), pa.binary(16)])
@pytest.mark.parametrize("name", ["id", "tile_id"])
def test_ids_that_are_uuids_become_their_text(tmp_path, type_, name):
    ids = [uuid.UUID(int=i**20) for i in range(4)]
    table = pa.table({name: pa.array([each.bytes for each in ids], type_), "embedding": [[0.5, 1.5]] * 4})
    pq.write_table(table, tmp_path / "x.parquet")
    assert [record["id"] for record in records_of(tmp_path / "x.parquet")] == [str(each) for each in ids]


def test_uuids_that_duckdb_writes_become_their_text(tmp_path):
    columns = "uuid() AS id, CASE WHEN i > 0 THEN uuid() END AS plot, [0.5, i]::FLOAT[] AS embedding"
    select = f"SELECT {columns} FROM range(3) t(i)"
    duckdb.execute(f"COPY ({select}) TO '{tmp_path}/x.parquet' (FORMAT PARQUET)")
    rows = duckdb.execute(f"SELECT id::TEXT, plot::TEXT FROM '{tmp_path}/x.parquet'").fetchall()
    records = records_of(tmp_path / "x.parquet")
    assert [(record["id"], record["properties"].get("plot")) for record in records] == rows


def records_of(path):
    (batch,) = streams.read([str(path)], Skips(), ("embedding",), settings=TableSettings("s"))
    return batch.records


def test_ids_that_are_missing_or_repeat_are_made(rsr, tmp_path):
    for name, ids, what in (
        ("none", None, "no column of ids"),
        ("twice", list("abbcd"), "ids are missing or repeat"),
    ):
        published(tmp_path / f"{name}.parquet", ids=ids)
        done = rsr("binarize", f"{name}.parquet", "--space", "mine", cwd=tmp_path)
        says = f"{name}.parquet: {what}; ids are made of the file's name and the row's number"
        assert done.stderr.decode().splitlines()[0] == f"rsr binarize: {says}"
        assert [orjson.loads(line)["id"] for line in done.stdout.splitlines()] == [f"{name}_{i}" for i in range(1, 6)]
    published(tmp_path / "x.parquet", plot=list("vwxyz"))
    done = rsr("binarize", "x.parquet", "--space", "mine", "--id-column", "plot", cwd=tmp_path)
    assert [orjson.loads(line)["id"] for line in done.stdout.splitlines()] == list("vwxyz")


def test_the_column_of_vectors_is_asked_for(rsr, tmp_path):
    one = list(RNG.standard_normal((5, 8)))
    published(tmp_path / "x.parquet", ids=list("abcde"), embeddings=one)
    done = rsr("binarize", "x.parquet", "--space", "mine", cwd=tmp_path)
    says = "x.parquet: has several columns of vectors: embedding, embeddings; choose it with --vector-column"
    assert (done.returncode, done.stderr.decode()) == (2, f"rsr binarize: {says}\n")
    done = rsr(
        "binarize", "x.parquet", "--space", "mine", "--method", "sign", "--vector-column", "embeddings", cwd=tmp_path
    )
    codes = [np.unpackbits(np.frombuffer(base64.b64decode(orjson.loads(line)["properties"]["code"]["data"]), np.uint8))
             for line in done.stdout.splitlines()]  # fmt: skip
    assert np.array_equal(codes, np.stack(one) > 0)
    for column in ("nope", "id"):
        done = rsr("binarize", "x.parquet", "--space", "mine", "--vector-column", column, cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_geometries_of_another_crs_are_turned(tmp_path):
    published(tmp_path / "x.parquet", ids=list("abcde"))
    geopandas.read_parquet(tmp_path / "x.parquet").to_crs(3035).to_parquet(tmp_path / "y.parquet")
    found = [next(streams.read([str(tmp_path / name)], Skips())).records for name in ("x.parquet", "y.parquet")]
    for one, other in zip(*found, strict=True):
        assert other["bbox"] == pytest.approx(one["bbox"], abs=1e-6)


def test_degrees_that_are_declared_as_metres(rsr, tmp_path):
    published(tmp_path / "x.parquet", ids=list("abcde"), crs="EPSG:3857")
    done = rsr("binarize", "x.parquet", "--space", "mine", cwd=tmp_path)
    says = "x.parquet: declares WGS 84 / Pseudo-Mercator, but its coordinates are degrees; write the file again with"
    assert done.stderr.decode() == f"rsr binarize: {says} the CRS that its coordinates are in\n"
    published(tmp_path / "x.parquet", ids=list("abcde"), crs="EPSG:3857", centres=True)
    done = rsr("binarize", "x.parquet", "--space", "mine", cwd=tmp_path)
    assert done.returncode == 0
    assert b"as its columns of centres confirm" in done.stderr
    assert orjson.loads(done.stdout.splitlines()[2])["bbox"] == [2.0, 45.0, 3.0, 46.0]


def test_the_published_samples_are_searched(rsr, shared_data, tmp_path):
    folder = shared_data / "embeddings"
    clay = folder / "clay_v0_03WVN_20220610.gpq"
    assert rsr("index", clay, "--space", "clay-v0", "-o", "clay.rsr", cwd=tmp_path).returncode == 0
    done = rsr("query", "clay.rsr", "--id", "clay_v0_03WVN_20220610_8", "-k", "4", cwd=tmp_path)
    table = pq.read_table(clay)
    vectors = np.stack(table["embeddings"].to_numpy())
    nearest = np.argsort(cdist(vectors[7:8], vectors, "cosine")[0])[:4]
    hits = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [hit["properties"]["source_url"] for hit in hits] == [table["source_url"][int(i)].as_py() for i in nearest]
    assert {hit["properties"]["datetime"] for hit in hits} == {"2022-06-10T00:00:00Z"}
    done = rsr("binarize", folder / "earth_index_21MNT_empty.parquet")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.endswith(b"earth_index_21MNT_empty.parquet: is empty\n")
    planet = folder / "planet_sample_wrong_crs.parquet"
    nulls = pq.read_table(planet)["embedding"].null_count
    done = rsr("index", planet, "--space", "planet", "-o", "planet.rsr", cwd=tmp_path)
    assert (done.returncode, done.stderr.count(b"has no embedding")) == (1, 1)
    done = rsr("index", planet, "--space", "planet", "-o", "planet.rsr", "--keep-going", cwd=tmp_path)
    assert (done.returncode, done.stderr.count(b"has no embedding")) == (3, nulls)
    assert b"declares WGS 84 / Pseudo-Mercator, but its coordinates are degrees" in done.stderr
    hit = orjson.loads(rsr("query", "planet.rsr", "--id", "planet_sample_wrong_crs_1", "-k", "1", cwd=tmp_path).stdout)
    assert hit["bbox"] == pytest.approx([-48.3292, -10.1862, -48.3196, -10.1767], abs=1e-4)


# Tables that are odd --------------------------------------------------------------------------------------------------


def odd(path, **columns):
    """Write a table of three rows with an embedding each, and other columns in its place."""
    rows = {"id": ["a", "b", "c"], "embedding": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], **columns}
    pq.write_table(pa.table({name: column for name, column in rows.items() if column is not None}), path)
    return path


def indexed(rsr, folder, *options):
    """Index a table, and return what was done and the records of the index."""
    done = rsr("index", "x.parquet", "--space", "s", "-o", "x.rsr", "--overwrite", *options, cwd=folder)
    found = [sqlite3.connect(path).execute("SELECT id, record FROM records").fetchall()
             for path in folder.glob("x.rsr/segments/*/records.sqlite")]  # fmt: skip
    return done, [(name, orjson.loads(text)) for name, text in found[0]] if found else []


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 500)
    monkeypatch.setattr(rows, "READ_ROWS", 100)
    (tmp_path / "in.geojsonl").write_bytes(drawn_lines(5000, 256))
    path = copied(tmp_path / "in.geojsonl", tmp_path / "x.parquet")
    batches = streams.read([str(path)], Skips(), KINDS)
    next(batches)
    os.truncate(path, 1000)
    with pytest.raises(RsrError, match=r"x\.parquet"):
        list(batches)


@pytest.mark.parametrize("nothing", [None, []])
def test_a_row_without_a_vector_is_told(rsr, tmp_path, nothing):
    odd(tmp_path / "x.parquet", embedding=pa.array([[1.0, 2.0], nothing, [5.0, 6.0]]))
    done, _ = indexed(rsr, tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert b"x.parquet:2: " in done.stderr
    done, records = indexed(rsr, tmp_path, "--keep-going")
    assert (done.returncode, [name for name, _ in records]) == (3, ["a", "c"])


def test_numbers_that_are_none_make_an_index_that_opens(rsr, tmp_path):
    odd(tmp_path / "x.parquet", gsd=[np.inf, 10.0, np.nan])
    done, records = indexed(rsr, tmp_path)
    assert done.returncode == 0
    assert [record["properties"].get("gsd") for _, record in records] == [None, 10.0, None]
    assert orjson.loads(rsr("info", "--json", "x.rsr", cwd=tmp_path).stdout)["gsd"] == [10.0, 10.0]
    assert orjson.loads(rsr("info", "--json", "x.parquet", cwd=tmp_path).stdout)["gsd"] == [10.0, 10.0]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([123456789012.0, 1e15, 0.5]), ["123456789012", "1000000000000000", "0.5"]),
        (pa.array([Decimal(10**17 + i) for i in range(3)]), [f"{10**17 + i}" for i in range(3)]),
        (pa.array([-1, -2, 3]), ["-1", "-2", "3"]),
        (pa.array(["1.0", "a", "b"]), ["1", "a", "b"]),
        (pa.array(["a", "b", "c"]).dictionary_encode(), ["a", "b", "c"]),
        (pa.array(["a", "b", "c"], pa.large_string()), ["a", "b", "c"]),
    ],
)  # fmt: skip
def test_ids_of_other_types_are_those_of_lines(rsr, tmp_path, ids, expected):
    odd(tmp_path / "x.parquet", id=ids)
    done, records = indexed(rsr, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [name for name, _ in records] == expected
    assert len({str(record["id"]) for _, record in records}) == 3


def test_made_ids_tell_the_files_of_a_directory_apart(rsr, tmp_path):
    for year in (2023, 2024):
        (tmp_path / f"x.parquet/year={year}").mkdir(parents=True)  # as Spark names a directory
        odd(tmp_path / f"x.parquet/year={year}/part.0.parquet", id=None)
    done, records = indexed(rsr, tmp_path)
    assert done.returncode == 0
    assert [name for name, _ in records] == [f"year={y}/part.0_{i}" for y in (2023, 2024) for i in (1, 2, 3)]


def test_an_id_and_a_place_that_were_edited_count(tmp_path):
    point = {"type": "Point", "coordinates": [1, 2]}  # integers, which no WKB holds
    (tmp_path / "in.geojsonl").write_bytes(lines_of([feature("a", n=1) | {"geometry": point, "bbox": [1, 2, 1, 2]}]))
    copied(tmp_path / "in.geojsonl", tmp_path / "x.parquet", ())
    moved = shapely.Point(3.5, 4.5).wkb_hex
    select = f"SELECT * REPLACE ('b' AS id, unhex('{moved}') AS geometry) FROM '{tmp_path}/x.parquet'"
    duckdb.execute(f"COPY ({select}) TO '{tmp_path}/y.parquet' (FORMAT PARQUET)")
    (batch,) = streams.read([str(tmp_path / "y.parquet")], Skips())
    (record,) = batch.records
    assert (record["id"], record["bbox"]) == ("b", [3.5, 4.5, 3.5, 4.5])
    assert record["geometry"] == {"type": "Point", "coordinates": [3.5, 4.5]}


@pytest.mark.parametrize("inner", [pa.list_(pa.float32(), 2), pa.list_(pa.float32())])
@pytest.mark.parametrize("outer", [lambda inner: pa.list_(inner, 1), pa.list_])
def test_vectors_in_a_list_of_one(rsr, tmp_path, inner, outer):
    odd(tmp_path / "x.parquet", embedding=pa.array([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]], outer(inner)))
    done, records = indexed(rsr, tmp_path)
    assert (done.returncode, len(records)) == (0, 3)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"geometry": [1.5] * 3}, "has geometries that are neither WKB nor WKT but of type double"),
        ({"geometry": ["POINT (1 2)", "here", None]}, "x.parquet:2: its geometry is not WKT: "),
        ({"geometry": [b"xyz"] * 3}, "a geometry is not WKB"),
        ({"id": pa.array([["a"], ["b"], ["c"]])}, None),
        ({"time": pa.array([1, 2, 3], pa.time64("us"))}, None),
        ({"datetime": pa.array([2**62] * 3, pa.timestamp("us"))}, None),
        ({"rsr_record": ["[1]", None, None]}, "x.parquet"),
        ({"embedding_space": ["no json"] * 3}, "x.parquet"),
        ({"code": [1, 2, 3], "code_space": ["{}"] * 3}, "its column code is of type int64 and holds no vectors"),
        ({"embedding": pa.array([[1, 2]] * 3, pa.list_(pa.int32()))}, "its column embedding is of type list<"),
        ({"bbox": ["1,2,3,4"] * 3}, None),
    ],
)  # fmt: skip
def test_odd_columns_are_read_or_one_line(rsr, tmp_path, columns, says):
    odd(tmp_path / "x.parquet", **columns)
    for command in (["info"], ["binarize", "--space", "s"], ["index", "--space", "s", "-o", "x.rsr"]):
        done = rsr(*command, "x.parquet", cwd=tmp_path)
        assert b"bug" not in done.stderr, done.stderr
        if says and command != ["info"]:
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
            assert says in done.stderr.decode()


@pytest.mark.parametrize(
    "geo",
    [
        {"columns": []}, {"columns": {"geometry": None}}, {"columns": {"geometry": {"crs": "nonsense"}}},
        {"columns": {"geometry": {"crs": 5}}}, {"columns": {"geometry": {"crs": None}}}, [],
        {"columns": {"geometry": {"crs": {"id": []}}}}, {"columns": {"geometry": {"crs": {"id": {"code": []}}}}},
    ],
)  # fmt: skip
def test_odd_footers_are_read_or_one_line(rsr, tmp_path, geo):
    table = pq.read_table(odd(tmp_path / "x.parquet", geometry=[shapely.Point(1, 2).wkb] * 3))
    footer = {"geo": json.dumps(geo), "rsr": json.dumps({"members": ["id"], "nulls": 5}), "emb": '{"model":{}}'}
    pq.write_table(table.replace_schema_metadata(footer), tmp_path / "x.parquet")
    for command in (["info"], ["index", "--space", "s", "-o", "x.rsr"]):
        done = rsr(*command, "x.parquet", cwd=tmp_path)
        assert done.returncode in (0, 1)
        assert b"bug" not in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) <= 1


@pytest.mark.parametrize("name", ["x.run.gz", "x.parquet.gz"])
def test_what_is_compressed_in_itself(rsr, tmp_path, name):
    done = rsr("binarize", "-o", name, input=drawn_lines(1), cwd=tmp_path)
    says = f"rsr binarize: {name}: only JSON lines are compressed; Parquet files are in themselves\n"
    assert (done.returncode, done.stderr.decode()) == (2, says)


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_are_infinite_and_refused_as_a_vector(rsr, tmp_path):
    space = json.dumps({"model": "m", "fingerprint": "f", "dim": 2, "dtype": "float32"})
    columns = {"id": ["a"], "embedding": pa.array([[1e308, 1.0]]), "embedding_space": [space]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    ((record,),) = [batch.records for batch in streams.read([str(tmp_path / "x.parquet")], Skips())]
    assert base64.b64decode(record["properties"]["embedding"]["data"]) == np.array([np.inf, 1], "<f4").tobytes()
    done = rsr("index", "x.parquet", "-o", "x.rsr", cwd=tmp_path)
    assert (done.returncode, b"its embedding holds NaN or infinite values" in done.stderr) == (1, True)


RING = [[15.0, 48.0], [16.0, 48.0], [16.0, 49.0], [15.0, 49.0]]


@pytest.mark.parametrize("last", [[15.0, 48.0], [15.0, 48.5], [None, 48.0], []])
@pytest.mark.parametrize("points", [1, 2, 4])
def test_a_ring_that_is_odd_is_kept_and_hinders_no_reader(rsr, tmp_path, last, points):
    """Readers of WKB refuse rings that are not closed, or of fewer than four points."""
    rings = [[*RING[:points], *([last] if last else [])]]
    record = feature("a", embedding=embedding(np.ones(4))) | {"geometry": {"type": "Polygon", "coordinates": rings}}
    done = rsr("transform", "--dtype", "int8", "-o", "x.parquet", input=orjson.dumps(record), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    (shape,) = geopandas.read_parquet(tmp_path / "x.parquet").geometry
    assert shape is None or shape.exterior.is_closed
    (found,) = rsr("binarize", "x.parquet", cwd=tmp_path).stdout.splitlines()
    assert orjson.loads(found)["geometry"] == record["geometry"]
