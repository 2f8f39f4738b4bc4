"""JSON lines: line endings, broken lines, blocks, and vectors in base64."""

from __future__ import annotations

import base64
import json

import numpy as np
import orjson
import pytest
from support import batches, code, drawn_lines, drawn_record, embedding, feature, read_all, written

from rsr_cli.core.errors import RecordError, RsrError, Skips
from rsr_cli.core.records import jsonl, streams
from rsr_cli.core.records.space import StreamSpace
from rsr_cli.core.records.tables import NOTHING_STATED, TableSettings


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n", b"\n \t\n"])
@pytest.mark.parametrize("start", [b"", b"\x1e"])
@pytest.mark.parametrize("last", [True, False])
def test_line_endings_and_record_separators(tmp_path, ending, start, last):
    text = ending.join(start + orjson.dumps(drawn_record(f"t{i}")) for i in range(5)) + (ending if last else b"")
    (tmp_path / "in").write_bytes(text)
    assert read_all(tmp_path / "in")[0] == [f"t{i}" for i in range(5)]


def test_places_count_blank_lines(tmp_path):
    (tmp_path / "in").write_bytes(b"\n\n" + drawn_lines(1) + b"\n" + drawn_lines(1))
    assert read_all(tmp_path / "in")[1] == [f"{tmp_path}/in:3", f"{tmp_path}/in:5"]


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_lines_that_span_blocks(tmp_path, monkeypatch, size):
    monkeypatch.setattr(jsonl, "BLOCK_BYTES", size)
    (tmp_path / "in").write_bytes(drawn_lines(20))
    ids, places, _ = read_all(tmp_path / "in")
    assert ids == [f"t{i}" for i in range(20)]
    assert places == [f"{tmp_path}/in:{i}" for i in range(1, 21)]


def test_what_is_not_json_is_placed_by_its_line_and_column(tmp_path):
    (tmp_path / "in").write_bytes(drawn_lines(2) + b'{"type":nul}\n')
    with pytest.raises(RecordError, match=r"/in:3: not JSON: [^:()]*, at column \d+$") as caught:
        read_all(tmp_path / "in")
    assert int(str(caught.value).rpartition(" ")[2]) == 9


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b'{"type":"Feature","properties":{"x":NaN}}', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "not a GeoJSON Feature but list"),
        (b'{"type":"FeatureCollection","features":[]}', "not a GeoJSON Feature but FeatureCollection"),
        (b'{"a":1}', "not a GeoJSON Feature but an object without a type"),
        (b'{"type":"Feature"}', "no properties"),
        (b'{"type":"Feature","properties":null}', "no properties"),
        (b'{"type":"Feature","properties":{}}{"type":"Feature"}', "not JSON"),
    ],
)
def test_a_broken_line_is_named_or_skipped(tmp_path, line, says):
    (tmp_path / "in").write_bytes(drawn_lines(2) + line + b"\n" + drawn_lines(1))
    with pytest.raises(RecordError) as caught:
        read_all(tmp_path / "in")
    assert str(caught.value).startswith(f"{tmp_path}/in:3: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    ids, _, skips = read_all(tmp_path / "in", keep_going=True)
    assert (ids, skips.count) == (["t0", "t1", "t0"], 1)


def test_a_byte_order_mark_is_no_part_of_the_first_line(rsr):
    assert (
        rsr("binarize", input=b"\xef\xbb\xbf" + drawn_lines(1)).stdout == rsr("binarize", input=drawn_lines(1)).stdout
    )


def test_a_feature_collection_is_told_what_is_expected(rsr):
    for text in (b'{"type": "FeatureCollection", "features": []}', b'{\n  "type": "FeatureCollection"\n}'):
        done = rsr("binarize", input=text)
        assert done.returncode == 1
        assert b"one Feature per line is expected, as jq -c '.features[]'" in done.stderr


def test_a_record_that_is_nested_too_deeply(rsr):
    deep = drawn_record("x")
    deep["properties"]["deep"] = None
    line = orjson.dumps(deep).replace(b'"deep":null', b'"deep":' + b"[" * 400 + b"]" * 400)
    done = rsr("binarize", input=line + b"\n")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert b"<stdin>:1: is nested too deeply" in done.stderr
    done = rsr("binarize", "--keep-going", input=line + b"\n" + orjson.dumps(drawn_record("y")) + b"\n")
    assert (done.returncode, [orjson.loads(line)["id"] for line in done.stdout.splitlines()]) == (3, ["y"])


def test_a_binary_file_is_not_records(rsr, tmp_path, write_raster):
    write_raster(tmp_path / "x.tif", np.ones((2, 8, 8), np.uint16))
    for command in (["binarize"], ["index", "-o", "x.rsr"], ["score"]):
        done = rsr(*command, "x.tif", cwd=tmp_path)
        says = (
            f"rsr {command[0]}: x.tif: is a raster (TIFF) and not JSON lines; cut rasters into records with rsr tile\n"
        )
        assert (done.returncode, done.stderr.decode()) == (1, says)


def test_a_directory_is_not_records(rsr, tmp_path):
    done = rsr("binarize", tmp_path)
    says = f"rsr binarize: {tmp_path}: is a directory; cut rasters into records with rsr tile; of tables, name"
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.decode().startswith(says)


def test_other_dtypes_and_layouts_come_as_float32():
    values = np.array([1, -2, 0.5, 3], np.float64)
    for dtype in ("float16", "float32", "float64"):
        found = embedding(values) | {"dtype": dtype, "data": base64.b64encode(values.astype(dtype).tobytes()).decode()}
        (batch,) = batches([feature("a", embedding=found)])
        assert batch.vectors.dtype == np.float32
        assert batch.vectors.tolist() == [values.tolist()]
        (record,) = written([batch])  # and are written as they came
        assert record["properties"]["embedding"] == found


@pytest.mark.parametrize("blank", [b"", b" \t", b"\r", b"\x1e", b"\x1e \r", b"\x1e" * 5000])
def test_a_line_without_anything_is_no_error(tmp_path, blank):
    (tmp_path / "in").write_bytes(drawn_lines(1) + blank + b"\n" + drawn_lines(1))
    ids, places, skips = read_all(tmp_path / "in")
    assert (ids, places, skips.count) == (["t0", "t0"], [f"{tmp_path}/in:1", f"{tmp_path}/in:3"], 0)


@pytest.mark.parametrize("size", [1, 2, 10])
def test_lines_are_numbered_through_all_blocks(tmp_path, monkeypatch, size):
    monkeypatch.setattr(jsonl, "BLOCK_BYTES", size)
    text = b"\xef\xbb\xbfone\n\ntwo and a half\nthree" + b" and more" * 9 + b"\n\nlast"
    (tmp_path / "in").write_bytes(text)
    blocks = list(jsonl.read_lines(str(tmp_path / "in")))
    assert len(blocks) > 2
    assert {block.name for block in blocks} == {f"{tmp_path}/in"}
    found = [(first + i, line) for _, first, lines, _ in blocks for i, line in enumerate(lines) if line]
    assert found == [(1, b"one"), (3, b"two and a half"), (4, b"three" + b" and more" * 9), (6, b"last")]


def test_records_are_written_as_json_that_python_reads_alike():
    values = {"text": '\u2028\n"ü\x00', "number": 1e-300, "whole": 2**53, "none": None, "list": [[], {}, True]}
    records = [feature("ü", **values), feature(7) | {"bbox": [1.5, -2, 3, 4]}]
    text = b"".join(map(jsonl.dump, records))
    assert text.endswith(b"\n")
    assert [json.loads(line) for line in text.decode().split("\n")[:-1]] == records


def test_without_kinds_of_vector_records_keep_what_they_have(tmp_path):
    both = feature("a", embedding=embedding([1, 2]), code={"anything": 1})
    (tmp_path / "in").write_bytes(orjson.dumps(both))
    (batch,) = jsonl.read_records(str(tmp_path / "in"), None, Skips())
    assert (batch.records, batch.vectors, batch.space) == ([both], None, None)


@pytest.mark.parametrize("kind", ["embedding", "code"])
def test_vectors_are_taken_out_of_the_records_and_written_back(tmp_path, kind):
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4) if kind == "embedding" else np.eye(3, dtype=np.uint8)
    made = [embedding(v) if kind == "embedding" else code(v, 24) for v in vectors]
    records = [feature(i, **{kind: vector, "mine": i}) for i, vector in enumerate(made)]
    (tmp_path / "in").write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    (batch,) = jsonl.read_records(str(tmp_path / "in"), StreamSpace((kind,)), Skips())
    assert [record["properties"] for record in batch.records] == [{"mine": i} for i in range(3)]
    np.testing.assert_array_equal(batch.vectors, vectors)
    assert (batch.vectors.dtype, batch.space.kind) == (vectors.dtype, kind)
    assert written([batch]) == records


def test_rows_that_lie_apart_in_memory_are_written_in_order():
    (batch,) = batches([feature(i, embedding=embedding(np.zeros(3))) for i in range(2)])
    batch.vectors = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
    data = [record["properties"]["embedding"]["data"] for record in written([batch])]
    assert [np.frombuffer(base64.b64decode(row), "<f4").tolist() for row in data] == [[0, 2, 4], [6, 8, 10]]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_an_embedding_that_is_not_finite_in_float32_is_named_or_skipped(value):
    def records():
        for i in range(4):
            vector = np.array([i, value if i in (1, 2) else 0], "<f8")
            found = {"dtype": "float64", "data": base64.b64encode(vector.tobytes()).decode()}
            yield feature(i, embedding=embedding(np.zeros(2)) | found)

    with pytest.raises(RecordError, match=r"^in:2: its embedding holds NaN or infinite values$"):
        list(batches(records()))
    skips = Skips(keep_going=True)
    (batch,) = batches(records(), skips=skips)
    assert ([record["id"] for record in batch.records], batch.lines, skips.count) == ([0, 3], [1, 4], 2)
    assert batch.vectors.tolist() == [[0, 0], [3, 0]]


@pytest.mark.parametrize(
    ("bits", "last", "sound"), [(12, 0xF0, True), (12, 0xF1, False), (9, 0xC0, False), (16, 1, True)]
)
def test_a_code_is_not_longer_than_it_states(bits, last, sound):
    """Bits behind its last one would count as distance."""
    records = [feature("a", code=code([255, last], bits)), feature("b", code=code([1, 0], bits))]
    skips = Skips(keep_going=True)
    (batch,) = batches(records, skips=skips)
    assert [record["id"] for record in batch.records] == ["a", "b"][not sound :]
    if not sound:
        with pytest.raises(RecordError, match=rf"^in:1: its code has more than {bits} bits$"):
            list(batches([feature("a", code=code([255, last], bits))]))


def test_a_null_in_place_of_a_vector_is_none(tmp_path):
    """As GDAL and geopandas write for a property that other records have."""
    records = [
        feature("a", code=None, embedding=embedding([1, 2])),
        feature("b", embedding=embedding([3, 4]), code=None),
    ]
    (batch,) = batches(records)
    assert (batch.space.kind, batch.vectors.tolist()) == ("embedding", [[1, 2], [3, 4]])
    for kind, other in (("code", "embedding"), ("embedding", "code")):
        with pytest.raises(RecordError, match=f"has no {kind}, and is not a tile"):
            list(
                batches(
                    [feature("a", **{kind: None, other: None, "source": None, "window": None, "bands": None})], [kind]
                )
            )


def test_a_record_that_cannot_be_written_is_named_by_its_id():
    deep = []
    for _ in range(400):
        deep = [deep]
    with pytest.raises(RecordError, match=r"^is nested too deeply$"):
        jsonl.dump(feature("x", deep=deep))


def test_a_line_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1 << 20)
    with pytest.raises(RsrError, match=r"^/dev/zero: line 1 is longer than 1 MiB$"):
        list(jsonl.read_lines("/dev/zero"))


@pytest.mark.parametrize("ending", ["geojsonl", "parquet"])
@pytest.mark.parametrize("depth", [252, 253, 600, 1000, 1020, 1100])
@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"a":', b"}"), (b"[0,", b",0]")])
def test_a_record_that_is_too_deep_is_refused_when_it_is_read_or_written(tmp_path, depth, left, right, ending):
    line = orjson.dumps(drawn_record("x")).replace(
        b'"id":', b'"deep":' + left * depth + b"1" + right * depth + b',"id":'
    )
    (tmp_path / "in").write_bytes(drawn_lines(1) + line + b"\n" + drawn_lines(1))

    def written(skips):
        batches = jsonl.read_records(str(tmp_path / "in"), None, skips)
        with streams.Writer(str(tmp_path / f"out.{ending}"), skips, overwrite=True) as out:
            for batch in batches:
                out.write(batch)
        return read_all(tmp_path / f"out.{ending}")[0]

    if depth < 254:
        assert written(Skips()) == ["t0", "x", "t0"]
        return
    with pytest.raises(RecordError, match=r"in:2: is nested too deeply$"):
        written(Skips())
    skips = Skips(keep_going=True)
    assert (written(skips), skips.count) == (["t0", "t0"], 1)


# Embeddings that others made -----------------------------------------------------------------------------------------


def as_base64(values):
    return base64.b64encode(np.array(values, np.int8).tobytes()).decode()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"data": [10, -128, 127]}, [10, -128, 127]),
        ({"data": as_base64([10, -128, 127]), "scale": 0.5}, [5, -64, 63.5]),
        ({"data": [10, -20, 30], "scale": 0.5, "offset": 1}, [6, -9, 16]),
        ({"data": [10, -20, 30], "scale": [0.5, 1, 2], "offset": [0, 0.5, 1]}, [5, -19.5, 61]),
        ({"data": [10, -20, 30], "scale": [0.5], "offset": None}, [5, -10, 15]),
    ],
)
def test_int8_with_its_scale(tmp_path, found, expected):
    stated = {"model": "m", "fingerprint": "f", "dim": 3}
    for facts, settings in (({}, TableSettings("s")), (stated, NOTHING_STATED)):
        record = feature("a", embedding={"dtype": "int8", **facts, **found})
        (tmp_path / "in").write_bytes(orjson.dumps(record))
        (batch,) = streams.read([str(tmp_path / "in")], Skips(), ("embedding",), settings=settings)
        assert batch.vectors.tolist() == [expected]
        is_ours = facts and "scale" in found and isinstance(found["data"], str)
        assert (batch.space.dtype, batch.space.model) == ("int8" if is_ours else "float32", "m" if facts else "s")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"data": [1, 2, 128]}, "its int8 data is neither a list of numbers from -128 to 127 nor base64: [1, 2, 128]"),
        ({"data": [1, 2.0]}, "its int8 data is neither"),
        ({"data": []}, "its int8 data is neither"),
        ({"data": ""}, "its int8 data is neither"),
        ({}, "its int8 data is neither a list of numbers from -128 to 127 nor base64: None"),
        ({"data": "!!"}, "data is not base64: "),
        ({"data": "\u00e9"}, "data is not base64: "),
        ({"data": [1, 2], "scale": "x"}, "the scale of its int8 embedding is neither a number nor one for each of 2"),
        ({"data": [1, 2], "scale": [1, 2, 3]}, "the scale of its int8 embedding is neither a number nor one for each"),
        ({"data": [1, 2], "offset": [[1], [2]]}, "the offset of its int8 embedding is neither a number nor one for"),
        ({"data": [1, 2], "offset": True}, "the offset of its int8 embedding is neither a number nor one for"),
        ({"data": [1, 2], "scale": 1e300}, "its embedding holds NaN or infinite values"),
        ({"data": [1, 2], "fingerprint": "f", "dim": 3}, "data holds 8 bytes where 12 are expected"),
        ({"data": [1, 2], "fingerprint": "f"}, "its embedding does not state its dim, a number from 1 to"),
    ],
)
def test_int8_that_is_odd_is_one_line(rsr, tmp_path, found, says):
    record = feature("a", embedding={"dtype": "int8", **found})
    done = rsr("binarize", "--space", "s", input=orjson.dumps(record), cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert f"<stdin>:1: {says}" in done.stderr.decode()


def test_int8_and_lists_are_compared(rsr, tmp_path):
    values = np.random.default_rng(3).integers(-128, 128, (20, 8))
    rows = [
        feature(f"a{i}", embedding={"dtype": "int8", "scale": 0.25, "data": row})
        for i, row in enumerate(values.tolist())
    ]
    rows += [feature(f"b{i}", embedding=(row / 4).tolist()) for i, row in enumerate(values)]
    done = rsr("index", "--space", "s", "-o", "x.rsr", input=b"\n".join(map(orjson.dumps, rows)), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    hits = rsr("query", "x.rsr", "--id", "b7", "-k", "2", cwd=tmp_path).stdout.splitlines()
    assert [(orjson.loads(hit)["id"], orjson.loads(hit)["properties"]["distance"]) for hit in hits] == [
        ("a7", 0),
        ("b7", 0),
    ]
