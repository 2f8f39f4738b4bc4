"""Files that are no records, as the libraries that own their formats write them."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import safetensors.numpy
from support import drawn_lines, feature, make_index, read_all

from rsr_cli.core.errors import RecordError, RsrError, Skips
from rsr_cli.core.records import jsonl, streams
from rsr_cli.core.records.foreign import has_records
from rsr_cli.remedies import explain


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.geojsonl", content)
    return file.getvalue()


def numpy_file():
    file = io.BytesIO()
    np.save(file, np.zeros((2, 2)))
    return file.getvalue()


def collection(**settings):
    return json.dumps({"type": "FeatureCollection", "features": [feature("a")]}, **settings).encode()


LINES = "one Feature per line is expected, as jq -c '.features[]' or ogr2ogr -f GeoJSONSeq writes them"
ICONV = "convert it with iconv -f "
CARRIAGE_RETURNS = (
    "is text whose lines end in carriage returns alone and not JSON lines; convert it with tr '\\r' '\\n'"
)
#: An encoding -> the byte order mark that Python does not write for it.
MARKS = {
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
CONTENTS = {
    "gzip": (gzip.compress(drawn_lines(2)), "is compressed (gzip); decompress it with gzip -dc"),
    "bzip2": (bz2.compress(drawn_lines(2)), "is compressed (bzip2); decompress it with bzip2 -dc"),
    "xz": (lzma.compress(drawn_lines(2)), "is compressed (xz); decompress it with xz -dc"),
    "zip": (zipped(drawn_lines(2)), "is a zip archive and not JSON lines; unpack it, or pass it through unzip -p"),
    "npy": (numpy_file(), "is a numpy array and not JSON lines; cut rasters into records with rsr tile"),
    **{
        name: (mark + '{"type": "Feature"}'.encode(name), f"is text in {name[:6].upper()} and not JSON lines; {ICONV}")
        for name, mark in MARKS.items()
    },
    "carriage returns": (drawn_lines(3).replace(b"\n", b"\r"), CARRIAGE_RETURNS),
    "carriage returns and separators": (b"\x1e" + drawn_lines(2).replace(b"\n", b"\r\x1e"), CARRIAGE_RETURNS),
    "carriage returns, cut off": (drawn_lines(3).replace(b"\n", b"\r")[:-50], CARRIAGE_RETURNS),
    "carriage returns, broken": (drawn_lines(1).replace(b"\n", b"\r") + b"nul", CARRIAGE_RETURNS),
    "carriage returns before a line feed": (drawn_lines(2).replace(b"}\n{", b"} \r\r{"), CARRIAGE_RETURNS),
    "feather": (b"FEA1\0\0", "is a Feather file and not JSON lines; convert it to Parquet"),
    "safetensors": (
        safetensors.numpy.save({"centre": np.ones(3, np.float32)}),
        "is a safetensors file and not JSON lines; if rsr fit wrote it, pass it with --with",
    ),
    "binary": (b"abc\0def\n", "is a binary file and not JSON lines"),
    "html": (b"<!DOCTYPE html>\n<html>404</html>\n", "is HTML or XML and not JSON lines"),
    "csv": (b"id,lon,lat\na,1,2\n", "is CSV and not JSON lines; convert it with ogr2ogr -f GeoJSONSeq"),
    "tabs": (b"id\tlon\r\na\t1\r\n", "is CSV and not JSON lines; convert it with ogr2ogr -f GeoJSONSeq"),
    "collection": (collection(indent=1), f"is a FeatureCollection and not JSON lines; {LINES}"),
    "collection of ogr2ogr": (
        b'{\n"type": "FeatureCollection",\n"features": [\n',
        f"is a FeatureCollection and not JSON lines; {LINES}",
    ),
    "indented": (
        json.dumps(feature("a"), indent=2).encode(),
        "is JSON over several lines and not JSON lines; one Feature per line is expected, as jq -c . writes them",
    ),
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("keep_going", [False, True])
def test_a_file_is_named_for_what_it_is(tmp_path, kind, keep_going):
    content, says = CONTENTS[kind]
    (tmp_path / "in").write_bytes(content)
    with pytest.raises(RsrError) as caught:
        read_all(tmp_path / "in", keep_going=keep_going)
    assert explain(caught.value).startswith(f"{tmp_path}/in: {says}")


@pytest.mark.parametrize("kind", ["gzip", "csv", "collection", "indented"])
def test_a_pipe_is_named_for_what_it_contains(rsr, kind):
    content, says = CONTENTS[kind]
    done = rsr("binarize", "--keep-going", input=content)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.decode().startswith(f"rsr binarize: <stdin>: {says}")


@pytest.mark.parametrize("driver", ["GTiff", "PNG", "JPEG", "JP2OpenJPEG", "VRT", "HFA", "netCDF"])
def test_rasters_are_named_whatever_their_ending(tmp_path, write_raster, driver):
    import rasterio
    import rasterio.shutil

    write_raster(tmp_path / "x.tif", np.ones((1, 16, 16), np.uint8))
    try:
        rasterio.shutil.copy(tmp_path / "x.tif", tmp_path / "in", driver=driver)
    except rasterio.errors.RasterioError:
        pytest.skip(f"this GDAL does not write {driver}")
    with pytest.raises(RsrError, match=r"in: is a raster \(.*\) and not JSON lines$") as caught:
        read_all(tmp_path / "in", keep_going=True)
    assert caught.value.remedy == "tile"


def test_parquet_is_known_by_its_first_bytes_and_by_its_ending(tmp_path, rsr):
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "in")
    assert read_all(tmp_path / "in")[0] == ["a"]
    (tmp_path / "x.gpq").write_bytes(drawn_lines(1))
    with pytest.raises(RsrError, match=r"x\.gpq: cannot be read as Parquet"):
        read_all(tmp_path / "x.gpq")
    done = rsr("binarize", input=(tmp_path / "in").read_bytes())
    assert done.stderr == b"rsr binarize: <stdin>: is a Parquet file and not JSON lines; name it as a file\n"


@pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")
@pytest.mark.parametrize("kind", ["npy", "parquet", "arrow"])
def test_what_is_compressed_is_decompressed_first(rsr, tmp_path, kind):
    content = io.BytesIO()
    if kind == "npy":
        np.save(content, np.zeros((2, 3)))
    else:
        table = pyarrow.table({"id": ["a"], "embedding": [[0.5, 1.5]]})
        (pyarrow.parquet.write_table if kind == "parquet" else pyarrow.feather.write_feather)(table, content)
    (tmp_path / f"x.{kind}.gz").write_bytes(gzip.compress(content.getvalue()))
    done = rsr("binarize", f"x.{kind}.gz", cwd=tmp_path)
    what = {"npy": "a numpy array", "parquet": "a Parquet file", "arrow": "an Arrow or Feather file"}[kind]
    says = f"rsr binarize: x.{kind}.gz: is {what}, compressed (gzip); decompress it with gzip -dc\n"
    assert (done.returncode, done.stderr.decode()) == (1, says)


def test_the_remedy_for_feather_works(rsr, tmp_path):
    pd.DataFrame({"id": ["a", "b"], "embedding": [[0.5, 1.5], [-0.5, 1.0]]}).to_feather(tmp_path / "a.feather")
    done = rsr("info", "a.feather", cwd=tmp_path)
    assert done.returncode == 1
    assert b"convert it to Parquet, as pandas.read_feather(IN).to_parquet(OUT) does" in done.stderr
    pd.read_feather(tmp_path / "a.feather").to_parquet(tmp_path / "a.parquet")
    assert json.loads(rsr("info", "--json", "a.parquet", cwd=tmp_path).stdout)["records"] == 2


def test_zstd_is_named(tmp_path):
    (tmp_path / "in").write_bytes(
        subprocess.run(["zstd", "-c"], input=drawn_lines(2), capture_output=True, check=True).stdout
    )
    with pytest.raises(RsrError, match=r"is compressed \(zstd\)$"):
        read_all(tmp_path / "in")


def test_carriage_returns_that_end_no_line_alone_are_read(tmp_path):
    """At the end of a line, and as white space in an object."""
    (tmp_path / "in").write_bytes(
        drawn_lines(2).replace(b"\n", b"\r\n").replace(b',"id"', b',\r"id"').replace(b"}}", b"}\r }")
    )
    assert read_all(tmp_path / "in")[0] == ["t0", "t1"]
    (tmp_path / "in").write_bytes(drawn_lines(1).replace(b"\n", b"\r"))
    assert read_all(tmp_path / "in")[0] == ["t0"]


@pytest.mark.parametrize("name", ["utf-16", "utf-32"])
def test_the_remedy_for_an_encoding_works(tmp_path, name):
    (tmp_path / "in").write_bytes(drawn_lines(2).decode().encode(name))
    with pytest.raises(RsrError) as caught:
        read_all(tmp_path / "in")
    command = explain(caught.value).rpartition("convert it with ")[2]
    converted = subprocess.run([*command.split(), tmp_path / "in"], capture_output=True, check=True).stdout
    assert converted.removeprefix(codecs.BOM_UTF8) == drawn_lines(2)


def test_every_file_is_checked_before_the_first_is_read(tmp_path):
    (tmp_path / "good").write_bytes(drawn_lines(2))
    (tmp_path / "bad").write_bytes(gzip.compress(b""))
    for bad, says in ((tmp_path / "bad", "is compressed"), (tmp_path / "none", "no such file")):
        with pytest.raises(RsrError, match=says):
            streams.read([str(tmp_path / "good"), str(bad)], Skips())


def test_an_index_in_place_of_records_is_named(tmp_path):
    make_index(tmp_path / "i.rsr", [], allow_empty=True)
    with pytest.raises(RsrError, match="is an index and not records") as caught:
        read_all(tmp_path / "i.rsr")
    assert explain(caught.value).endswith(
        "; pass the records that it was built from; rsr query takes an index as its first argument"
    )


def test_an_empty_file_is_a_warning_unless_something_worse_is_said(rsr, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "good").write_bytes(drawn_lines(2))
    done = rsr("binarize", "good", "empty", cwd=tmp_path)
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 2, b"rsr binarize: empty: is empty\n")
    done = rsr("index", "empty", "-o", "i.rsr", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert rsr("index", "empty", "-o", "i.rsr", "--allow-empty", cwd=tmp_path).stderr == b"rsr index: empty: is empty\n"


@pytest.mark.parametrize("cut", [1, 20, 60, 200])
@pytest.mark.parametrize("start", [b"", b"\x1e"])
def test_a_last_line_that_is_cut_off_is_named(tmp_path, cut, start):
    (tmp_path / "in").write_bytes((start + drawn_lines(2).replace(b"\n{", b"\n" + start + b"{"))[: -1 - cut])
    with pytest.raises(RecordError) as caught:
        read_all(tmp_path / "in")
    assert str(caught.value) == f"{tmp_path}/in:2: the last line is cut off in the middle of a record"
    names, _, skips = read_all(tmp_path / "in", keep_going=True)
    assert (names, skips.count) == (["t0"], 1)


def test_a_last_line_without_a_line_feed_is_whole_if_it_is_json(tmp_path):
    (tmp_path / "in").write_bytes(drawn_lines(2)[:-1])
    assert read_all(tmp_path / "in")[0] == ["t0", "t1"]
    (tmp_path / "in").write_bytes(drawn_lines(1) + b'{"type":"Feature","id":7}')
    with pytest.raises(RecordError, match="no properties object"):
        read_all(tmp_path / "in")


def test_a_line_that_is_broken_in_the_middle_is_not_called_cut_off(tmp_path):
    (tmp_path / "in").write_bytes(drawn_lines(1)[:-9] + b"\n" + drawn_lines(1))
    with pytest.raises(RecordError, match="in:1: not JSON: "):
        read_all(tmp_path / "in")


TILE = {"source": "x.tif", "window": [0, 0, 1, 1], "bands": ["red"]}
HIT = {"query": "q", "rank": 1, "distance": 0}


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({}, "has no embedding, and is not a tile to make one of; cut rasters into records with rsr tile"),
        (TILE, "has no embedding; pass the stream through rsr embed"),
        (TILE | HIT, "is a hit and has no embedding; pass the stream through rsr embed"),
        (HIT, "is a hit, and hits have no embedding; pass the records that were indexed"),
        (
            {"embedding": [0.5, 1]},
            "its embedding does not state its vector space; pass --space NAME, the same name"
            " for all embeddings that may be compared",
        ),
    ],
)
def test_records_without_a_vector_are_named_for_what_they_are(tmp_path, properties, says):
    (tmp_path / "in").write_bytes(jsonl.dump(feature("a", **properties)))
    with pytest.raises(RecordError) as caught:
        list(streams.read([str(tmp_path / "in")], Skips(), ("code", "embedding")))
    assert explain(caught.value) == f"{tmp_path}/in:1: {says}"


def test_records_in_place_of_rasters_and_of_an_index(rsr, tmp_path):
    (tmp_path / "x.geojsonl").write_bytes(drawn_lines(2))
    done = rsr("tile", "x.geojsonl", cwd=tmp_path)
    says = b"rsr tile: x.geojsonl: contains records and not a raster; pass records of tiles to rsr embed\n"
    assert (done.returncode, done.stderr) == (1, says)
    done = rsr("query", "x.geojsonl", "x.geojsonl", cwd=tmp_path)
    assert done.stderr.endswith(b"; pass the index before the records: rsr query INDEX INPUT\n")
    done = rsr("index", "-o", "i.rsr", "x.geojsonl", cwd=tmp_path)
    (tmp_path / "tile").write_bytes(jsonl.dump(feature("a", **TILE)))
    done = rsr("query", "i.rsr", "tile", cwd=tmp_path)
    assert done.stderr == b"rsr query: tile:1: has no embedding; embed the queries with rsr embed --as i.rsr\n"
    done = rsr("query", "i.rsr", "tile", "--keep-going", cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        3,
        b"rsr query: tile:1: has no embedding; embed the queries with rsr embed --as i.rsr; skipped",
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"a', True), (b"\x1e{", True), (b"\xef\xbb\xbf{", True), (b"II*\0", False), (b"", False)],
)
def test_what_seems_to_contain_records(tmp_path, content, expected):
    Path(tmp_path / "in").write_bytes(content)
    assert has_records(str(tmp_path / "in")) == expected
    assert not has_records(str(tmp_path / "none"))
