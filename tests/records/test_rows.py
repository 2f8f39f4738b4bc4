"""Rows of tables that others made: their ids, between files too, and vectors in a column per dimension."""

from __future__ import annotations

import shutil

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsr_cli.core.errors import Skips
from rsr_cli.core.records import streams
from rsr_cli.core.records.tables import TableSettings

RNG = np.random.default_rng(9)


def table(path, ids=None, **columns):
    """Write three rows with an embedding each."""
    columns |= {"embedding": list(RNG.standard_normal((3, 4)).astype(np.float32))}
    pd.DataFrame({**({} if ids is None else {"id": ids}), **columns}).to_parquet(path)


def ids_of(done):
    return [orjson.loads(line)["id"] for line in done.stdout.splitlines()]


# Ids -----------------------------------------------------------------------------------------------------------------

MADE = "ids are made of the file's name and the row's number"


def test_ids_that_repeat_between_files_are_made(rsr, tmp_path):
    (tmp_path / "lake").mkdir()
    for name, ids in (("a", [0, 1, 2]), ("b", [3, 4, 5]), ("c", [2, 6, 7]), ("d", None)):
        table(tmp_path / f"lake/{name}.parquet", ids)
    done = rsr("binarize", "lake", "--space", "s", cwd=tmp_path)
    assert ids_of(done) == ["a_1", "a_2", "a_3", 3, 4, 5, "c_1", "c_2", "c_3", "d_1", "d_2", "d_3"]
    assert done.stderr.decode() == (
        f"rsr binarize: lake/d.parquet: no column of ids; {MADE}\n"
        f"rsr binarize: lake/a.parquet and 1 other file: ids are missing or repeat; {MADE}\n"
        "rsr binarize: lake/a.parquet and 1 other file: left out, as a record has one id: id; "
        "rename that column to keep it\n"
    )
    done = rsr("binarize", "lake/a.parquet", "--space", "s", cwd=tmp_path)
    assert (ids_of(done), done.stderr) == ([0, 1, 2], b"")


def test_files_of_one_name_are_told_apart_by_their_directory(rsr, tmp_path):
    for year in ("2023", "2024"):
        (tmp_path / year).mkdir()
        table(tmp_path / year / "x.parquet")
    done = rsr("binarize", "2023/x.parquet", "2024/x.parquet", "--space", "s", cwd=tmp_path)
    says = "2024/x.parquet: has the name of 2023/x.parquet, and ids would be made of it; name the directory above both"
    assert (done.returncode, done.stderr.decode()) == (2, f"rsr binarize: {says}\n")
    done = rsr("binarize", ".", "--space", "s", cwd=tmp_path)
    assert ids_of(done) == [f"{year}/x_{i}" for year in ("2023", "2024") for i in (1, 2, 3)]


def test_columns_that_are_left_out_are_named_once(rsr, tmp_path):
    for name in "abc":
        table(
            tmp_path / f"{name}.parquet",
            [f"{name}{i}" for i in range(3)],
            **({} if name == "b" else {"png": [b"x"] * 3}),
        )
    done = rsr("binarize", "a.parquet", "b.parquet", "c.parquet", "--space", "s", cwd=tmp_path)
    says = "a.parquet and 1 other file: left out, as records do not hold them: png"
    assert (done.returncode, done.stderr.decode()) == (0, f"rsr binarize: {says}\n")


def test_records_of_ours_keep_their_ids(rsr, tmp_path):
    """That of one that comes twice is an error of the index."""
    table(tmp_path / "a.parquet", list("xyz"))
    assert rsr("binarize", "a.parquet", "--space", "s", "-o", "c.parquet", cwd=tmp_path).returncode == 0
    shutil.copy(tmp_path / "c.parquet", tmp_path / "d.parquet")
    done = rsr("index", "c.parquet", "d.parquet", "-o", "x.rsr", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert b"c.parquet:1" in done.stderr
    assert b"d.parquet:1" in done.stderr


@pytest.mark.parametrize("ids", [["a", None, "c"], ["a", "", "c"], ["a", "b", "b"], [1, 1, 2]])
def test_the_column_that_is_not_used_is_kept(rsr, tmp_path, ids):
    table(tmp_path / "x.parquet", tile_id=ids)
    done = rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path)
    assert done.stderr.decode() == f"rsr binarize: x.parquet: ids are missing or repeat; {MADE}\n"
    assert ids_of(done) == ["x_1", "x_2", "x_3"]
    kept = [orjson.loads(line)["properties"].get("tile_id") for line in done.stdout.splitlines()]
    assert kept == ids


def test_a_column_id_that_is_not_used_is_named(rsr, tmp_path):
    """No property can have its name; the file of which no id repeats keeps its own."""
    table(tmp_path / "x.parquet", list("abb"))
    table(tmp_path / "y.parquet", list("cde"))
    done = rsr("binarize", "x.parquet", "y.parquet", "--space", "s", cwd=tmp_path)
    first, second = done.stderr.decode().splitlines()
    assert first == f"rsr binarize: x.parquet: ids are missing or repeat; {MADE}"
    assert second.startswith("rsr binarize: x.parquet: left out, as a record has one id: id; rename")
    assert ids_of(done) == ["x_1", "x_2", "x_3", "c", "d", "e"]


@pytest.mark.parametrize("ids", [pd.date_range("2024-01-01", periods=3), [[1], [2], [3]], [True, False, True]])
def test_ids_of_another_type_are_named(rsr, tmp_path, ids):
    table(tmp_path / "x.parquet", ids)
    done = rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path)
    assert ids_of(done) == ["x_1", "x_2", "x_3"]
    first, second = done.stderr.decode().splitlines()
    assert first.startswith("rsr binarize: x.parquet: its column id is of type ")
    assert first.endswith(f" and holds no ids; {MADE}")
    assert second == "rsr binarize: x.parquet: left out, as a record has one id: id; rename that column to keep it"


def test_columns_that_may_be_ids_are_hinted_at(rsr, tmp_path):
    table(tmp_path / "x.parquet", name=list("abc"))
    table(tmp_path / "y.parquet", share=[0.5, 0.5, 0.5])
    hint = "; if another one has them, name it with --id-column"
    for name, says in (("x", hint), ("y", "")):
        done = rsr("binarize", f"{name}.parquet", "--space", "s", cwd=tmp_path)
        assert done.stderr.decode() == f"rsr binarize: {name}.parquet: no column of ids; {MADE}{says}\n"
    done = rsr("info", "x.parquet", cwd=tmp_path)
    assert (
        done.stderr.decode()
        == f"rsr info: x.parquet: no column of ids; {MADE}; if another one has them, rename it id\n"
    )


def test_a_row_without_a_vector_among_others_is_left_out(rsr, tmp_path):
    frame = pd.DataFrame({"id": list("abc"), "embedding": [[0.5, 1.5], None, [2.5, -1.5]]})
    frame.to_parquet(tmp_path / "x.parquet")
    lines = b"".join(orjson.dumps({"type": "Feature", "id": row["id"], "geometry": None, "properties": {
        "embedding": row["embedding"]}}) + b"\n" for row in frame.to_dict("records"))  # fmt: skip
    (tmp_path / "x.geojsonl").write_bytes(lines)
    for name in ("x.parquet", "x.geojsonl"):
        says = f"rsr binarize: {name}:2: has no embedding; pass --keep-going to leave it out"
        done = rsr("binarize", name, "--space", "s", cwd=tmp_path)
        assert (done.returncode, done.stderr.decode()) == (1, f"{says}\n")
        done = rsr("binarize", name, "--space", "s", "--keep-going", cwd=tmp_path)
        assert (done.returncode, ids_of(done)) == (3, ["a", "c"])


# Columns of known names and other types ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("time", [1700000000000] * 3, "its column time is of type int64 and holds no times, so no datetime is stated"),
        ("date", [2023.5] * 3, "its column date is of type double and holds no times, so no datetime is stated"),
        (
            "labels",
            list("abc"),
            "holds no lists of strings, so it is left out; write a list per row in Parquet, or rename",
        ),
        ("labels", [1, 2, 3], "its column labels is of type int64 and holds no lists of strings, so it is left out;"),
        ("datetime", [2023, 2024, 2025], "its column datetime is of type int64 and holds no times, so it is left out;"),
    ],
)
def test_what_a_type_does_not_state_is_said_once(rsr, tmp_path, column, values, says):
    (tmp_path / "two").mkdir()
    for name, ids in (("a", list("xyz")), ("b", list("uvw"))):
        table(tmp_path / f"two/{name}.parquet", ids, **{column: values})
    for command in (["info", "--json"], ["binarize", "--space", "s"]):
        done = rsr(*command, "two", cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
        assert done.stderr.decode().startswith(
            f"rsr {command[0]}: two/a.parquet and 1 other file: its column {column} "
        )
        assert says in done.stderr.decode()
    stays = column in ("time", "date")
    for line in done.stdout.splitlines():
        found = orjson.loads(line)["properties"]
        assert (column in found, "datetime" in found) == (stays, False)


def test_texts_that_are_no_times_are_named_once(rsr, tmp_path):
    table(tmp_path / "x.parquet", list("abc"), time=["2024-06-01", "soon", "later"])
    table(tmp_path / "y.parquet", list("def"), time=["later"] * 3)
    done = rsr("info", "--json", ".", cwd=tmp_path)
    assert (orjson.loads(done.stdout)["records"], len(done.stderr.splitlines())) == (6, 1)
    done = rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
    assert done.stderr.startswith(b"rsr binarize: x.parquet:2: its column time holds 'soon', which is no time as ")
    found = [orjson.loads(line)["properties"] for line in done.stdout.splitlines()]
    assert [each.get("datetime") for each in found] == ["2024-06-01T00:00:00Z", None, None]
    table(tmp_path / "x.parquet", list("abc"), time=["2024-06-01", None, None])
    assert rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path).stderr == b""


@pytest.mark.parametrize("inner", [pa.uint8(), pa.int32(), pa.decimal128(5, 2)])
def test_vectors_of_another_type_say_what_to_write(rsr, tmp_path, inner):
    column = pa.array([[1, 2]] * 3, pa.list_(pa.field("element", inner)))
    pq.write_table(pa.table({"id": list("abc"), "embedding": column}), tmp_path / "x.parquet")
    says = f"x.parquet: its column embedding is of type {column.type} and holds no vectors; write lists of floats"
    for command, status in (("info", 0), ("binarize", 1)):
        done = rsr(command, "x.parquet", cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (status, 1)
        assert done.stderr.decode().startswith(f"rsr {command}: {says}")


def test_columns_of_vectors_that_nobody_asks_for_do_not_matter(rsr, tmp_path):
    table(tmp_path / "both.parquet", list("abc"), embeddings=[[0.5, 1.5]] * 3, labels=[["x"], ["x"], ["y"]])
    hits = b"".join(orjson.dumps({"type": "Feature", "id": each, "geometry": None, "properties": {
        "query": "a", "rank": rank}}) + b"\n" for rank, each in enumerate("abc", 1))  # fmt: skip
    (tmp_path / "hits.geojsonl").write_bytes(hits)
    done = rsr("score", "hits.geojsonl", "--truth", "both.parquet", "--metrics", "p@3", "--format", "csv", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[1].split(b",")[1][:5]) == (0, b"0.666")
    done = rsr("show", "hits.geojsonl", "--queries", "both.parquet", "-o", "x.html", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    done = rsr("embed", "--as", "both.parquet", "hits.geojsonl", cwd=tmp_path)
    says = (
        "both.parquet: has several columns of vectors: embedding, embeddings; pass an index, or a file that rsr embed"
    )
    assert (done.returncode, done.stderr.decode().startswith(f"rsr embed: {says}")) == (2, True)


@pytest.mark.parametrize("option", ["--vector-column", "--id-column"])
def test_columns_are_of_tables(rsr, tmp_path, option):
    record = {"type": "Feature", "id": "a", "geometry": None, "properties": {"vec": [0.5, 1.5], "embedding": [1, 2]}}
    (tmp_path / "x.geojsonl").write_bytes(orjson.dumps(record))
    done = rsr("binarize", "x.geojsonl", "--space", "s", option, "vec", cwd=tmp_path)
    says = "columns are chosen, and no input is a table; leave out --vector-column and --id-column"
    assert (done.returncode, done.stderr.decode().startswith(f"rsr binarize: {says}")) == (2, True)


def test_tables_of_others_with_the_names_of_a_tile_may_have_vectors(rsr, tmp_path):
    columns = {"id": list("abc"), "vec": [[0.5, 1.5]] * 3, "source": "s2", "bands": "all", "window": "1 x 1"}
    pd.DataFrame(columns).to_parquet(tmp_path / "x.parquet")
    done = rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path)
    assert (done.returncode, b"embeddings, but vec; choose it with --vector-column" in done.stderr) == (2, True)


def test_boxes_without_geometries_are_named(rsr, tmp_path):
    """A box without a geometry places nothing, and is not dropped without a word."""
    boxes = pa.array([{"xmin": 1.0, "ymin": 2.0, "xmax": 3.0, "ymax": 4.0}] * 3)
    pq.write_table(pa.table({"embedding": [[1.0, 2.0]] * 3, "id": list("abc"), "bbox": boxes}), tmp_path / "x.parquet")
    done = rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path)
    assert done.stderr == b"rsr binarize: x.parquet: left out, as records do not hold them: bbox\n"


def test_two_files_of_clay_are_one_index(rsr, shared_data, tmp_path):
    """Each counts its rows from 0."""
    sample = shared_data / "embeddings" / "clay_v0_03WVN_20220610.gpq"
    for name in ("03WVN_20220610_v02.gpq", "more/03WVN_20220711_v02.gpq"):
        (tmp_path / "clay" / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(sample, tmp_path / "clay" / name)
    for options in ((), ("--id-column", "index")):
        done = rsr("index", "clay", "--space", "clay-v0", *options, "--overwrite", "-o", "x.rsr", cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
        assert f"03WVN_20220610_v02.gpq and 1 other file: {'ids' if options else 'no'}" in done.stderr.decode()
        done = rsr("query", "x.rsr", "--id", "more/03WVN_20220711_v02_8", "-k", "2", cwd=tmp_path)
        assert ids_of(done) == ["03WVN_20220610_v02_8", "more/03WVN_20220711_v02_8"]
        first = orjson.loads(done.stdout.splitlines()[0])["properties"]
        assert (first["distance"], first["index"]) == (0, 7)


# A column per dimension ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64"])
@pytest.mark.parametrize(("first", "last"), [("emb_0", "emb_11"), ("0", "11"), ("A00", "A11"), ("b2_098", "b2_109")])
def test_vectors_in_a_column_per_dimension(tmp_path, dtype, first, last):
    vectors = (RNG.standard_normal((5, 12)) * 20).astype(dtype)
    prefix, begin = first.rstrip("0123456789"), first[len(first.rstrip("0123456789")) :]
    names = [f"{prefix}{int(begin) + i:0{len(begin)}}" for i in range(12)]
    frame = pd.DataFrame({"id": list("abcde"), "n1": 1.5, "n2": 2.5})
    order = RNG.permutation(12)
    frame[[names[i] for i in order]] = vectors[:, order]
    frame.to_parquet(tmp_path / "x.parquet")
    stated = TableSettings("s", f"{first}..{last}")
    (batch,) = streams.read([str(tmp_path / "x.parquet")], Skips(), ("embedding",), settings=stated)
    assert np.array_equal(batch.vectors, vectors.astype(np.float32))
    assert [record["properties"] for record in batch.records] == [{"n1": 1.5, "n2": 2.5}] * 5


def test_columns_that_may_be_meant_are_named(rsr, tmp_path):
    columns = {f"e_{i}": [0.5] for i in (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9)} | {
        "B1": [1],
        "B2": [2],
        "vec": [[0.5, 1.5]],
    }
    pd.DataFrame({"id": ["a"], **columns, "t1": "x", "t2": "y", "t3": "z"}).to_parquet(tmp_path / "x.parquet")
    done = rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path)
    says = (
        "x.parquet: has no column of vectors that is named embedding or embeddings, but vec, e_0..e_10; choose it with"
    )
    assert (done.returncode, done.stderr.decode()) == (2, f"rsr binarize: {says} --vector-column\n")
    for column, what in (
        ("t1..t3", "its column t1 is of type large_string and holds no numbers"),
        ("e_0..e_11", "has no column e_11; its"),
    ):
        done = rsr("binarize", "x.parquet", "--space", "s", "--vector-column", column, cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert what in done.stderr.decode()


def test_a_column_of_that_very_name_is_meant(tmp_path):
    columns = {"e0..e1": [[1.0, 2.0, 3.0]], "e0": [4.0], "e1": [5.0]}
    pd.DataFrame({"id": ["a"], **columns}).to_parquet(tmp_path / "x.parquet")
    settings = TableSettings("s", "e0..e1")
    (batch,) = streams.read([str(tmp_path / "x.parquet")], Skips(), ("embedding",), settings=settings)
    assert batch.vectors.tolist() == [[1, 2, 3]]


def test_two_vectors_are_not_chosen_from(rsr, tmp_path):
    columns = {f"A{i:02}": [0.5] for i in range(64)}
    pd.DataFrame({"id": ["a"], "embedding": [[1.0, 2.0]], **columns}).to_parquet(tmp_path / "x.parquet")
    done = rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path)
    assert b"has several columns of vectors: embedding, A00..A63; choose it with --vector-column" in done.stderr


def test_whole_numbers_of_alphaearth_are_asked_for(rsr, tmp_path):
    """They are not what they stand for: the square root of a value, times 127.5."""
    columns = {f"A{i:02}": [i] for i in range(64)}
    pd.DataFrame({"id": ["a"], **columns}).to_parquet(tmp_path / "x.parquet")
    done = rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path)
    assert (done.returncode, b"but A00..A63; choose it" in done.stderr) == (2, True)
    pd.DataFrame({"id": ["a"], **columns}).astype(dict.fromkeys(columns, np.float32)).to_parquet(tmp_path / "x.parquet")
    assert rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path).returncode == 0


def test_dimensions_that_are_missing(rsr, tmp_path):
    columns = {"e0": pa.array([1.0, None, None, 1e300]), "e1": pa.array([2.0, 2.0, None, 1.0]), "id": list("abcd")}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    options = ("--space", "s", "--vector-column", "e0..e1", "--keep-going")
    done = rsr("binarize", "x.parquet", *options, cwd=tmp_path)
    assert (done.returncode, ids_of(done)) == (3, ["a"])
    says = [line.partition("x.parquet:")[2] for line in done.stderr.decode().splitlines()]
    assert says[0].startswith("3: has no embedding")
    assert says[1:3] == [f"{i}: its embedding holds NaN or infinite values; skipped" for i in (2, 4)]


def test_types_of_one_space_may_be_mixed(rsr, tmp_path):
    vectors = RNG.integers(-9, 9, (4, 8))
    for dtype in ("float16", "float32", "float64", "int8"):
        np.save(tmp_path / f"{dtype}.npy", vectors.astype(dtype))
    done = rsr("index", *(f"{name}.npy" for name in ("float16", "float32", "float64", "int8")), "--space", "s",
               "-o", "x.rsr", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0
    done = rsr("query", "x.rsr", "--id", "int8_2", "-k", "4", cwd=tmp_path)
    assert ids_of(done) == ["float16_2", "float32_2", "float64_2", "int8_2"]


@pytest.mark.parametrize("place", [("emb:quantization",), ("quantization",), ("embedding", "quantization")])
@pytest.mark.parametrize("form", ["lists", "fixed", "columns"])
def test_int8_whose_scale_a_footer_states(tmp_path, form, place):
    values = RNG.integers(-128, 128, (5, 4)).astype(np.int8)
    scale, offset = [0.5, 1, 2, 0.25], [1, 0, -1, 0]
    if form == "columns":
        columns = {f"e{i}": column for i, column in enumerate(values.T)}
    else:
        columns = {"embedding": pa.array(list(values), pa.list_(pa.int8(), 4 if form == "fixed" else -1))}
    footer = {"method": "linear", "scale": scale, "offset": offset}
    for name in reversed(place):
        footer = {name: footer}
    table = pa.table({"id": list("abcde"), **columns}).replace_schema_metadata({"emb": orjson.dumps(footer)})
    pq.write_table(table, tmp_path / "x.parquet")
    settings = TableSettings("s", "e0..e3" if form == "columns" else None)
    (batch,) = streams.read([str(tmp_path / "x.parquet")], Skips(), ("embedding",), settings=settings)
    assert np.array_equal(batch.vectors, (values * np.array(scale) + np.array(offset)).astype(np.float32))


def test_an_odd_scale_in_a_footer_is_one_line(rsr, tmp_path):
    columns = {"id": ["a"], "embedding": pa.array([[1, 2]], pa.list_(pa.int8()))}
    for stated in ({"scale": [1, 2, 3]}, {"scale": "x"}):
        footer = {"emb": orjson.dumps({"quantization": stated})}
        pq.write_table(pa.table(columns).replace_schema_metadata(footer), tmp_path / "x.parquet")
        done = rsr("binarize", "x.parquet", "--space", "s", cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert b"x.parquet: the scale of its int8 embedding is neither" in done.stderr
