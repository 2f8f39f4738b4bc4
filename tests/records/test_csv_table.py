"""CSV of embeddings, as pandas, geopandas and Earth Engine write it."""

from __future__ import annotations

import geopandas
import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest
import shapely

from rsr_cli.core.errors import RsrError, Skips
from rsr_cli.core.records import csv_table, streams
from rsr_cli.core.records.tables import TableSettings

RNG = np.random.default_rng(7)


def read(path, **settings):
    """Read a file as `rsr index` does; return its records and vectors."""
    found = list(streams.read([str(path)], Skips(), ("embedding",), settings=TableSettings("s", **settings)))
    return [record for batch in found for record in batch.records], np.concatenate([batch.vectors for batch in found])


def numbered(vectors, first=0, prefix="", digits=1):
    return {f"{prefix}{i:0{digits}}": column for i, column in enumerate(vectors.T, first)}


def earth_engine(path, n=40):
    """Write a table as Earth Engine exports samples of the Satellite Embedding; return its vectors."""
    vectors = RNG.standard_normal((n, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    points = [f'{{"geodesic":false,"type":"Point","coordinates":[{10 + i / 8},45.5]}}' for i in range(n - 1)]
    columns = {
        "system:index": [f"{i:020x}_0" for i in range(n)], **numbered(vectors, 0, "A", 2), "class": range(n),
        ".geo": [*points, '{"type":"MultiPoint","coordinates":[]}'],
    }  # fmt: skip
    pd.DataFrame(columns).to_csv(path, index=False)
    return vectors


def test_an_export_of_earth_engine_is_searched(rsr, tmp_path):
    vectors = earth_engine(tmp_path / "ee.csv")
    done = rsr("index", "ee.csv", "--space", "alphaearth", "--metric", "cosine", "-o", "x.rsr", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    done = rsr("query", "x.rsr", "--id", f"{3:020x}_0", "-k", "40", cwd=tmp_path)
    hits = [orjson.loads(line) for line in done.stdout.splitlines()]
    order = np.argsort(-vectors @ vectors[3], kind="stable")
    assert [hit["id"] for hit in hits] == [f"{i:020x}_0" for i in order]
    assert [hit["properties"]["class"] for hit in hits] == order.tolist()
    places = {hit["properties"]["class"]: hit["geometry"] for hit in hits}
    assert places.pop(39) is None
    assert places == {i: {"type": "Point", "coordinates": [10 + i / 8, 45.5]} for i in range(39)}


@pytest.mark.parametrize("ending", ["csv.gz", "csv.zst"])
def test_a_compressed_table(tmp_path, ending):
    vectors = earth_engine(tmp_path / "in.csv")
    with pa.output_stream(tmp_path / f"x.{ending}", compression="detect") as out:
        out.write((tmp_path / "in.csv").read_bytes())
    assert np.allclose(read(tmp_path / f"x.{ending}")[1], vectors, atol=1e-7)


def test_the_columns_are_asked_for(rsr, tmp_path):
    vectors = RNG.standard_normal((5, 12))
    pd.DataFrame({"id": list("abcde"), **numbered(vectors, 0, "emb_")}).to_csv(tmp_path / "x.csv", index=False)
    done = rsr("binarize", "x.csv", "--space", "s", cwd=tmp_path)
    says = "x.csv: has no column of vectors that is named embedding or embeddings, but emb_0..emb_11"
    assert (done.returncode, done.stderr.decode()) == (2, f"rsr binarize: {says}; choose it with --vector-column\n")
    records, found = read(tmp_path / "x.csv", vector_column="emb_0..emb_11")
    assert np.array_equal(found, vectors.astype(np.float32))
    assert [(record["id"], record["properties"]) for record in records] == [(name, {}) for name in "abcde"]
    _, some = read(tmp_path / "x.csv", vector_column="emb_2..emb_10")
    assert np.array_equal(some, vectors[:, 2:11].astype(np.float32))
    for column in ("emb_0..emb_12", "emb_3..emb_1", "emb_1..other_3", "..", "id"):
        done = rsr("binarize", "x.csv", "--space", "s", "--vector-column", column, cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_places_in_well_known_text(tmp_path):
    frame = pd.DataFrame({"id": list("abc"), **numbered(RNG.standard_normal((3, 4)), 1)})
    places = [shapely.box(1, 2, 3, 4), shapely.Point(5, 6), None]
    geopandas.GeoDataFrame(frame, geometry=places).to_csv(tmp_path / "x.csv", index=False)
    records, _ = read(tmp_path / "x.csv", vector_column="1..4")
    assert [shapely.geometry.shape(record["geometry"]).wkt for record in records[:2]] == [
        place.wkt for place in places[:2]
    ]
    assert records[0]["bbox"] == [1, 2, 3, 4]
    assert records[2]["geometry"] is None


def test_numbers_are_told_from_texts_by_all_of_their_values(tmp_path, monkeypatch):
    """Also where the first block has numbers alone."""
    monkeypatch.setattr(csv_table, "BLOCK_BYTES", 1000)
    n = 300
    columns = {
        "id": [f"{i:03}" for i in range(n)],
        "late": [*range(n - 1), "x"], "zeros": [f"{i:03}" for i in range(n)], "whole": range(n),
        "real": [*range(n - 1), 0.5], "huge": [10**30] * n, "none": [None] * n, "gaps": [None, *range(1, n)],
    }  # fmt: skip
    vectors = RNG.standard_normal((n, 4))
    pd.DataFrame({**columns, **numbered(vectors, 0, "e")}).astype({"gaps": "Int64"}).to_csv(
        tmp_path / "x.csv", index=False
    )
    records, found = read(tmp_path / "x.csv", vector_column="e0..e3")
    assert np.allclose(found, vectors)
    assert [record["id"] for record in records] == columns["id"]
    assert [record["properties"] for record in records] == [
        {
            "late": "x" if i == n - 1 else str(i), "zeros": f"{i:03}", "whole": i,
            "real": 0.5 if i == n - 1 else float(i), "huge": str(10**30), **({"gaps": i} if i else {}),
        }
        for i in range(n)
    ]  # fmt: skip


H = b"id,1,2\n"
FIRST = "has numbers in its first line, which must name the columns; write one before it"
UNFIT = "its column embedding is of type string and holds no vectors; write lists of floats in Parquet"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "x.csv: cannot be read as CSV: Empty CSV file"),
        (H + b"\xe9,1,2\n", "x.csv: cannot be read as CSV: column id: Row #2: CSV conversion error to string: invalid"),
        (b"caf\xe9" + H, "x.csv: cannot be read as CSV: "),
        (H + b"a,1\n", "x.csv: cannot be read as CSV: CSV parse error: Row #2: Expected 3 columns, got 2"),
        (
            H + b"a,x,2\n",
            "x.csv: cannot be read as CSV: column 1: Row #2: CSV conversion error to float: invalid value",
        ),
        (b"id,1,1\na,1,2\n", "x.csv: has two columns of one name"),
        (b"0.1,0.2,0.3\n0.4,0.5,0.6\n", f"x.csv: {FIRST}"),
        (b"a,0.25,.5e-3\nb,0.5,1\n", f"x.csv: {FIRST}"),
        (b"a,-1,2\nb,0,1\n", f"x.csv: {FIRST}"),
        (b"7,0,7\n1,2,3\n", f"x.csv: {FIRST}"),
        (b"id;e0;e1\na;1.5;2.5\n", "x.csv: has other marks than commas between its fields; write it with commas"),
        (b"id\te0\te1\na\t1\t2\n", "x.csv: has other marks than commas between its fields; write it with commas"),
        (b"id;e0;e1\na;1,5;2,5\n", "x.csv: cannot be read as CSV: CSV parse error: Row #2: Expected 1 columns, got 3"),
        (H + b"a,nan,2\n", "x.csv:1: its embedding holds NaN or infinite values"),
        (H + b"a,1,2\nb,-inf,2\n", "x.csv:2: its embedding holds NaN or infinite values"),
        (H + b"a,1e300,2\n", "x.csv:1: its embedding holds NaN or infinite values"),
        (H + b"a,1,2\nb,NA,2\n", "x.csv:2: its embedding holds NaN or infinite values"),
        (H + b"a,1,2\nb,,\n", "x.csv:2: has no embedding"),
        (b"id,A00..A01,.geo\na,1,xx\n", "x.csv: has no column e0; its columns are id, A00..A01, geometry"),
        (b"id,e0,e1,.geo\na,1,2,xx\n", "x.csv:1: its .geo is no geometry of GeoJSON: 'xx'"),
        (b"id,e0,e1,geometry\na,1,2,xx\n", "x.csv:1: its geometry is not WKT: "),
        (b'id,embedding\na,"[1, 2]"\n', f"x.csv: {UNFIT}"),
        (b'embedding,embedding_space\n"[1, 2]",s\n', f"x.csv: {UNFIT.partition(';')[0]}"),
        (b"id,e0,e1,geometry,.geo\na,1,2,,\n", "x.csv: has two columns of one name"),
    ],
)
def test_what_is_odd_is_one_line(rsr, tmp_path, content, says):
    (tmp_path / "x.csv").write_bytes(content)
    more = ("--vector-column", "e0..e1") if b".geo" in content or b"geometry" in content else ()
    done = rsr("index", "x.csv", "--space", "s", "-o", "x.rsr", *more, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert done.stderr.decode().splitlines()[-1].startswith(f"rsr index: {says}")
    assert not (tmp_path / "x.rsr").exists()


def test_columns_that_are_numbered_have_names(tmp_path):
    """As pandas writes an array: 0 to the last."""
    vectors = RNG.standard_normal((5, 6))
    pd.DataFrame(vectors).to_csv(tmp_path / "x.csv", index=False)
    assert np.allclose(read(tmp_path / "x.csv", vector_column="0..5")[1], vectors)


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf" + H + b"a,1,2\n", H + b"a,1,2", H.replace(b"\n", b"\r\n") + b"a,1,2\r\n"]
)
def test_how_lines_begin_and_end(tmp_path, content):
    (tmp_path / "x.csv").write_bytes(content)
    records, vectors = read(tmp_path / "x.csv")
    assert (records[0]["id"], vectors.tolist()) == ("a", [[1, 2]])


def test_a_table_of_which_no_column_is_used(rsr, tmp_path):
    (tmp_path / "x.csv").write_bytes(b"embedding\n1\n2\n")
    done = rsr("info", "x.csv", "--json", cwd=tmp_path)
    assert (done.returncode, orjson.loads(done.stdout)["records"]) == (0, 2)


def test_a_table_without_rows_is_empty(rsr, tmp_path):
    (tmp_path / "x.csv").write_bytes(H)
    done = rsr("binarize", "x.csv", "--space", "s", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"rsr binarize: x.csv: is empty\n")


def test_memory_is_flat(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_table, "BLOCK_BYTES", 100_000)
    pd.DataFrame({"id": range(20_000), **numbered(RNG.standard_normal((20_000, 32)), 1)}).to_csv(
        tmp_path / "x.csv", index=False
    )
    before, most = pa.total_allocated_bytes(), 0
    for _ in streams.read([str(tmp_path / "x.csv")], Skips(), ("embedding",), settings=TableSettings("s")):
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < (tmp_path / "x.csv").stat().st_size / 2


def test_a_file_that_grows_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_table, "BLOCK_BYTES", 1000)
    path = tmp_path / "x.csv"
    path.write_bytes(H + b"a,1,2\n" * 300_000)
    batches = streams.read([str(path)], Skips(), ("embedding",), settings=TableSettings("s"))
    next(batches)
    with path.open("ab") as file:
        file.write(b"a,1,2\n" * 3000)
    with pytest.raises(RsrError, match=r"x\.csv: was changed while it was read"):
        list(batches)


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.npy"])
def test_it_is_not_written(rsr, tmp_path, name):
    earth_engine(tmp_path / "in.csv")
    done = rsr("binarize", "in.csv", "--space", "s", "-o", name, cwd=tmp_path)
    says = f"{name}: CSV and numpy arrays are read, and not written; name the output *.parquet or *.geojsonl"
    assert (done.returncode, done.stderr.decode()) == (2, f"rsr binarize: {says}, which ogr2ogr converts\n")


@pytest.mark.parametrize("name", ["x.gpkg", "x.shp", "x.FGB"])
def test_vector_files_of_gdal_are_not_written(rsr, tmp_path, name):
    earth_engine(tmp_path / "in.csv")
    done = rsr("binarize", "in.csv", "--space", "s", "-o", name, cwd=tmp_path)
    says = "is named as a format of GDAL's that is not written; name the output *.parquet or *.geojsonl, which ogr2ogr"
    assert (done.returncode, done.stderr.decode()) == (2, f"rsr binarize: {name}: {says} converts\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
