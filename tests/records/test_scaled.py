"""Embeddings of int8 and float16: what is written, read and written again, in JSON lines and in Parquet."""

from __future__ import annotations

import base64
import json

import duckdb
import geopandas
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import batches, embedding_records, feature, written

from rsr_cli.core.errors import FingerprintError, RecordError, Skips
from rsr_cli.core.records import streams
from rsr_cli.core.records.scaled import quantized, widened, written_as

DTYPES = ["int8", "float16"]
RNG = np.random.default_rng(9)
VECTORS = np.concatenate([RNG.standard_normal((40, 12)), np.zeros((1, 12)), np.full((2, 12), 3.5)]).astype(np.float32)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
#: Of all sizes that float32 has, so that few vectors are of its largest numbers alone.
sized = st.builds(
    lambda drawn, power: np.ldexp(drawn, power).astype(np.float32),
    arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-1, 1, width=32)),
    st.integers(-149, 127),
)
matrices = sized | arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=finite)


def lines_of(records) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def in_type(vectors: np.ndarray, dtype: str) -> list[dict]:
    """Build records as `rsr embed --dtype` writes them."""
    return written(written_as(batches(embedding_records(vectors), ("embedding",)), dtype, Skips()))


def numbers_in(record: dict) -> np.ndarray:
    """Read an embedding as docs/design.md has it, without code of ours."""
    found = record["properties"]["embedding"]
    raw = np.frombuffer(base64.b64decode(found["data"]), {"int8": "i1", "float16": "<f2"}[found["dtype"]])
    return raw.astype(float) * found.get("scale", 1)


def copied(source, target):
    with streams.Writer(str(target), Skips(), overwrite=True) as out:
        for batch in streams.read([str(source)], Skips(), ("embedding",)):
            out.write(batch)
    return target


@settings(max_examples=400, deadline=None)
@given(matrices)
def test_numbers_of_int8_are_exact_in_float32_and_near_what_came(vectors):
    whole, scales = quantized(vectors)
    wide = scales.astype(float)[:, None]
    assert (whole.dtype, scales.dtype, np.abs(whole.astype(int)).max() <= 127) == (np.int8, np.float32, True)
    assert np.array_equal(widened(whole, scales), whole * wide)
    assert np.isfinite(widened(whole, scales)).all()
    assert (np.abs(whole * wide - vectors) <= 0.51 * wide).all()
    largest = np.abs(vectors.astype(float)).max(axis=1)
    usual = largest >= 127 * 2.0**-126
    np.testing.assert_allclose(scales[usual], largest[usual] / 127, rtol=2.0**-16)
    assert (np.abs(whole[usual]).max(axis=1, initial=0) == 127).all()


@settings(max_examples=400, deadline=None)
@given(matrices)
def test_int8_is_written_as_the_same_bytes_again(vectors):
    once = in_type(vectors, "int8")
    assert lines_of(written(batches(map(orjson.loads, map(orjson.dumps, once)), ("embedding",)))) == lines_of(once)
    (batch,) = batches(once, ("embedding",))
    assert (batch.vectors.dtype, batch.space.dtype, batch.space.facts) == (np.float32, "int8", {"model": "m"})
    assert np.array_equal(batch.vectors, np.array([numbers_in(record) for record in in_type(vectors, "int8")]))


@settings(max_examples=100, deadline=None)
@given(whole=arrays(np.int8, st.tuples(st.just(2), st.integers(1, 9))), scale=st.floats(0, 1e30))
def test_int8_of_another_scale_is_read_and_becomes_ours(whole, scale):
    """Others may write it; what is written again is within half a step of ours, and stays."""
    stated = {"fingerprint": "f", "dim": whole.shape[1], "dtype": "int8", "scale": scale}
    records = [feature("a", embedding={**stated, "data": base64.b64encode(row.tobytes()).decode()}) for row in whole]
    (batch,) = batches(records, ("embedding",))
    np.testing.assert_allclose(batch.vectors, whole * scale, rtol=1e-6, atol=1e-37)
    once = written([batch])
    for record, row in zip(once, whole * scale, strict=True):
        step = record["properties"]["embedding"]["scale"]
        np.testing.assert_allclose(numbers_in(record), row, rtol=0, atol=0.51 * step)
    again = written(batches(map(orjson.loads, map(orjson.dumps, once)), ("embedding",)))
    assert lines_of(again) == lines_of(once)


@pytest.mark.parametrize("dtype", DTYPES)
def test_records_come_back_bit_for_bit(tmp_path, dtype):
    for name in ("in.geojsonl", "in.geojsonl.gz", "in.geojsonl.zst"):
        (tmp_path / "in.geojsonl").write_bytes(lines_of(in_type(VECTORS, dtype)))
        copied(tmp_path / "in.geojsonl", tmp_path / name)
        copied(tmp_path / name, tmp_path / "x.parquet")
        copied(tmp_path / "x.parquet", tmp_path / "y.parquet")
        text = copied(tmp_path / "y.parquet", tmp_path / "out.geojsonl").read_bytes()
        assert text == lines_of(in_type(VECTORS, dtype))


@pytest.fixture
def table(tmp_path):
    (tmp_path / "in.geojsonl").write_bytes(lines_of(in_type(VECTORS, "int8")))
    return copied(tmp_path / "in.geojsonl", tmp_path / "x.parquet")


def test_other_programs_read_the_numbers(table):
    numbers = np.array([numbers_in(record) for record in in_type(VECTORS, "int8")])
    read = pq.read_table(table)
    assert (read.schema.field("embedding").type, read.schema.field("embedding_scale").type) == (
        pa.list_(pa.int8(), 12),
        pa.float32(),
    )
    scales = read["embedding_scale"].to_numpy().astype(float)[:, None]
    assert np.array_equal(np.array(read["embedding"].to_pylist()) * scales, numbers)
    found = duckdb.execute(f"SELECT [x * embedding_scale::DOUBLE for x in embedding] FROM '{table}'").fetchall()
    assert np.array_equal(np.array([row for (row,) in found]), numbers)
    frame = geopandas.read_parquet(table)
    assert np.array_equal(np.stack(frame.embedding) * frame.embedding_scale.to_numpy(float)[:, None], numbers)
    assert json.loads(pq.read_metadata(table).metadata[b"emb"])["data_type"] == "int8"


def rewritten_by_geopandas(table, to):
    geopandas.read_parquet(table).to_parquet(to)


def rewritten_by_duckdb(table, to):
    duckdb.execute(f"COPY (SELECT * FROM '{table}') TO '{to}' (FORMAT PARQUET)")


@pytest.mark.parametrize("rewrite", [rewritten_by_geopandas, rewritten_by_duckdb])
def test_what_others_write_again_comes_back_in(table, tmp_path, rewrite):
    rewrite(table, tmp_path / "again.parquet")
    text = copied(tmp_path / "again.parquet", tmp_path / "out.geojsonl").read_bytes()
    assert text == lines_of(in_type(VECTORS, "int8"))


@pytest.mark.parametrize("change", ["no column", "no value", "text"])
def test_a_scale_that_is_missing_is_named(table, tmp_path, rsr, change):
    read = pq.read_table(table)
    scales = read["embedding_scale"].to_pylist()
    at = read.schema.get_field_index("embedding_scale")
    if change == "no column":
        read = read.remove_column(at)
    else:
        changed = pa.array([None, *scales[1:]] if change == "no value" else list(map(str, scales)))
        read = read.set_column(at, "embedding_scale", changed)
    pq.write_table(read, tmp_path / "y.parquet")
    done = rsr("binarize", "y.parquet", cwd=tmp_path)
    says = {
        "text": b"its column embedding_scale is of type string and holds no numbers",
    }.get(change, b"y.parquet:1: its embedding does not have the 12 dimensions of its space, or no scale in")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert says in done.stderr
    if change == "no value":
        assert len(rsr("binarize", "y.parquet", "--keep-going", cwd=tmp_path).stdout.splitlines()) == len(VECTORS) - 1


@pytest.mark.parametrize("ending", ["geojsonl", "parquet"])
def test_a_stream_has_one_type_of_number(rsr, tmp_path, ending):
    for dtype in ("int8", "float32"):
        (tmp_path / "in.geojsonl").write_bytes(lines_of(in_type(VECTORS, dtype)))
        copied(tmp_path / "in.geojsonl", tmp_path / f"{dtype}.{ending}")
    done = rsr("index", f"int8.{ending}", f"float32.{ending}", "-o", "x.rsr", cwd=tmp_path)
    assert done.returncode == 1
    says = f"float32.{ending}:1: its embedding is of float32, and the first one of int8; pass records that rsr embed"
    assert says in done.stderr.decode()


def test_a_value_beyond_float16_is_refused_or_skipped():
    vectors = VECTORS.copy()
    vectors[4, 3] = -70000
    with pytest.raises(RecordError, match=r"in:5: its embedding has values up to 7e\+04, beyond float16's"):
        in_type(vectors, "float16")
    skips = Skips(keep_going=True)
    made = written(written_as(batches(embedding_records(vectors), ("embedding",)), "float16", skips))
    assert ([record["id"] for record in made][3:5], skips.count) == (["t3", "t5"], 1)
    assert len(in_type(vectors, "int8")) == len(vectors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_are_made_beside_them(rsr, tmp_path, dtype):
    (tmp_path / "in.geojsonl").write_bytes(lines_of(in_type(VECTORS, dtype)))
    done = rsr("binarize", "--method", "sign", "--keep-embedding", "in.geojsonl", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    for line, record in zip(done.stdout.splitlines(), in_type(VECTORS, dtype), strict=True):
        found = orjson.loads(line)["properties"]
        assert found["embedding"] == record["properties"]["embedding"]
        bits = np.packbits(numbers_in(record) > 0)
        assert base64.b64decode(found["code"]["data"]) == bits.tobytes()


def test_a_stac_item_states_that_it_is_int8(tmp_path):
    for dtype in ("int8", "float32"):
        records = in_type(VECTORS[:2], dtype)
        for record in records:
            record["properties"]["datetime"] = "2024-06-01T00:00:00Z"
        (tmp_path / "in.geojsonl").write_bytes(lines_of(records))
        copied(tmp_path / "in.geojsonl", tmp_path / f"{dtype}.stac.json")
        for item in pystac.ItemCollection.from_file(str(tmp_path / f"{dtype}.stac.json")).items:
            assert item.properties["emb:dimensions"] == 12
            stated = item.properties.get("emb:quantization", {})
            assert stated.get("quantized_dtype") == ("int8" if dtype == "int8" else None)


def test_another_space_is_still_named_as_one():
    records = in_type(VECTORS[:1], "int8") + embedding_records(VECTORS[:1], "other")
    with pytest.raises(FingerprintError, match=r"another vector space than the first one \(fingerprint other, not emb"):
        list(batches(records, ("embedding",)))


# rsr embed --dtype ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tiles(tmp_path, write_raster, rsr):
    """Return four tiles of pixels that are embeddings, one of them with values beyond float16's."""
    pixels = np.repeat(np.repeat(RNG.standard_normal((8, 2, 2)), 4, axis=1), 4, axis=2).astype(np.float32)
    pixels[2, 4:, 4:] = 1e5
    path = write_raster(tmp_path / "e.tif", pixels)
    done = rsr("tile", path, "--bands", "e0..e7", "--size", "4", "-o", tmp_path / "tiles.geojsonl")
    assert done.returncode == 0, done.stderr
    return ["embed", "--model", "mean", "--space", "m", tmp_path / "tiles.geojsonl"]


def test_embeddings_are_written_in_the_type_that_is_asked_for(rsr, tiles, tmp_path):
    plain = rsr(*tiles)
    assert rsr(*tiles, "--dtype", "float32").stdout == plain.stdout
    records = [orjson.loads(line) for line in plain.stdout.splitlines()]
    numbers = np.array([np.frombuffer(base64.b64decode(r["properties"]["embedding"]["data"]), "<f4") for r in records])
    (tmp_path / "plain").write_bytes(plain.stdout)
    whole = rsr("embed", "--as", "plain", "--dtype", "int8", tmp_path / "tiles.geojsonl", cwd=tmp_path)
    for record, was, expected in zip(whole.stdout.splitlines(), records, numbers, strict=True):
        found, stated = (each["properties"].pop("embedding") for each in (orjson.loads(record), was))
        step = np.abs(expected).max() / 127
        assert found["scale"] == pytest.approx(step, rel=1e-4)
        was["properties"]["embedding"] = found
        np.testing.assert_allclose(numbers_in(was), expected, rtol=0, atol=0.51 * step)
        kept = {name: value for name, value in found.items() if name not in ("scale", "dtype", "data")}
        assert kept == {name: value for name, value in stated.items() if name not in ("dtype", "data")}
    done = rsr(*tiles, "--dtype", "float16")
    assert done.returncode == 1
    assert b"tiles.geojsonl:4: its embedding has values up to 1e+05, beyond float16's" in done.stderr
    done = rsr(*tiles, "--dtype", "float16", "--keep-going")
    half = np.array([numbers_in(orjson.loads(line)) for line in done.stdout.splitlines()])
    assert (done.returncode, np.array_equal(half, numbers[:3].astype(np.float16))) == (3, True)


def test_the_type_is_a_setting_of_parts(rsr, tiles, tmp_path):
    parts = [*tiles, "--parts", "p", "--part-size", "3"]
    assert rsr(*parts, "--dtype", "int8", cwd=tmp_path).returncode == 0
    assert rsr("binarize", "--keep-embedding", "p", cwd=tmp_path).stdout.count(b'"dtype":"int8"') == 4
    (tmp_path / "p" / "part-0-000002.parquet").unlink()
    for arguments in ([], ["--dtype", "float16"]):
        done = rsr(*parts, *arguments, cwd=tmp_path)
        says = "with dtype 'float16'" if arguments else "without dtype"
        assert f"p: holds parts made with dtype 'int8', and this run is {says}" in done.stderr.decode()
        assert done.returncode == 2
    assert rsr(*parts, "--dtype", "int8", cwd=tmp_path).returncode == 0
    assert len(rsr("binarize", "p", cwd=tmp_path).stdout.splitlines()) == 4


def test_parts_of_a_version_without_types_go_on(rsr, tiles, tmp_path):
    parts = [*tiles, "--parts", "p", "--part-size", "3"]
    assert rsr(*parts, cwd=tmp_path).returncode == 0
    common = json.loads((tmp_path / "p" / "parts.json").read_text())
    del common["settings"]["dtype"]
    (tmp_path / "p" / "parts.json").write_text(json.dumps(common))
    (tmp_path / "p" / "part-0-000002.parquet").unlink()
    assert rsr(*parts, cwd=tmp_path).returncode == 0
    assert rsr(*parts, "--dtype", "int8", cwd=tmp_path).returncode == 2
