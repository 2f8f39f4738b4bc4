"""Opening an index: damage, and queries of another vector space."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3

import numpy as np
import orjson
import pytest
from support import batches, code, code_records, embedding, embedding_records, feature, make_index

from rsr_cli.core.errors import FingerprintError, IndexFormatError, RecordError, Skips
from rsr_cli.core.index.manifest import Manifest
from rsr_cli.core.index.reading import Index
from rsr_cli.core.search.ask import Searcher
from rsr_cli.core.search.queries import Queries
from rsr_cli.core.search.scope import Scope


def test_queries_of_another_space_are_refused_by_both_names(tmp_path):
    with make_index(tmp_path / "i.rsr", embedding_records(np.eye(4, dtype=np.float32))) as index:
        (batch,) = batches([feature("q", embedding=embedding(np.ones(4), "m", "elsewhere"))])
        with pytest.raises(FingerprintError, match=r"elsewhere.*emb"):
            index.binarizer_for(batch.space)


SEGMENT = "segments/000001"


@pytest.mark.parametrize("name", ["manifest.json", f"{SEGMENT}/vectors.npy", f"{SEGMENT}/records.sqlite"])
def test_a_damaged_index_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((30, 4), np.uint8), 32))
    (path / name).write_bytes((path / name).read_bytes()[:40])
    with pytest.raises(IndexFormatError) as caught, Index(path) as index:
        index.record(3)
    assert "\n" not in str(caught.value)
    (path / name).unlink()
    with pytest.raises(IndexFormatError), Index(path) as index:
        index.record(3)


def test_an_index_that_is_removed_and_built_again_meanwhile_is_opened_as_it_is_now(tmp_path, monkeypatch):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((3, 4), np.uint8), 32))
    read, replaced = Manifest.open, []

    def read_and_replace(index, file):
        manifest = read(index, file)
        if not replaced:
            replaced.append(index)
            shutil.rmtree(index)
            make_index(path, code_records(np.zeros((5, 4), np.uint8), 32))  # files of the same names, of another size
        return manifest

    monkeypatch.setattr(Manifest, "open", read_and_replace)
    with Index(path) as index:
        assert index.manifest.count == 5
        assert index.record(4)[0] == "t4"


@pytest.mark.parametrize("missing", ["vectors.npy", "records.sqlite", "bbox.npy"])
def test_a_missing_file_is_named(rsr, tmp_path, missing):
    record = orjson.dumps(feature("new", code=code(np.zeros(4), 32)))
    assert rsr("index", "-o", "i.rsr", input=record, cwd=tmp_path).returncode == 0
    (tmp_path / "i.rsr" / "segments" / "000001" / missing).unlink()
    with pytest.raises(IndexFormatError, match="is missing") as caught:
        Index(tmp_path / "i.rsr")
    assert missing in str(caught.value)


def opened(path) -> None:
    """Use an index in each way that a query does."""
    with Index(path) as index:
        dtype = np.uint8 if index.manifest.metric == "hamming" else np.float32
        index.search(np.ones((2, index.manifest.space.width), dtype), 3)
        index.record(index.row_of("t3"))
        index.vector(3)


def forge(path, change) -> None:
    """Change a file of an index, and have the manifest state its size."""
    change()
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    for name, facts in manifest["segments"][0]["files"].items():
        facts["size"] = (path / SEGMENT / name).stat().st_size
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/dev/null", "directory"])
@pytest.mark.parametrize("name", ["manifest.json", f"{SEGMENT}/vectors.npy", f"{SEGMENT}/records.sqlite"])
def test_only_regular_files_are_opened(tmp_path, name, kind):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((30, 4), np.uint8), 32))
    (path / name).unlink()
    if kind == "pipe":
        os.mkfifo(path / name)
    elif kind == "directory":
        (path / name).mkdir()
    else:
        (path / name).symlink_to(kind)
    with pytest.raises(IndexFormatError, match=r"not a regular file|is a directory"):
        opened(path)


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (30, 4), }"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<f4", ">f4"),
        ("<f4", "|O"),
        ("<f4", "<i4"),
        ("False", "True"),
        ("(30, 4)", "(120,)"),
        ("(30, 4)", "()"),
        ("(30, 4)", "(30, 5)"),
        ("(30, 4)", "(29, 4)"),
        ("(30, 4)", "(-30, -4)"),
        ("(30, 4)", "(30, 9223372036854775807)"),
        (HEADER, "(" * 9000),
        (HEADER, "[1"),
        (HEADER, "\x00"),
    ],
)
def test_a_forged_header_of_the_vectors_is_refused(tmp_path, one, other):
    path = tmp_path / "i.rsr"
    make_index(path, embedding_records(np.eye(30, 4, dtype=np.float32)), "l1")
    opened(path)
    header = HEADER.replace(one, other).encode() + b"\n"
    vectors = path / SEGMENT / "vectors.npy"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    forge(path, lambda: vectors.write_bytes(start + vectors.read_bytes()[128:]))
    with pytest.raises(IndexFormatError, match="is damaged") as caught:
        opened(path)
    assert caught.value.place == str(vectors)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine", "dot"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_numbers_are_refused(tmp_path, metric, value):
    path = tmp_path / "i.rsr"
    make_index(path, embedding_records(np.eye(30, 4, dtype=np.float32)), metric)
    vectors = path / SEGMENT / "vectors.npy"
    forge(path, lambda: np.save(vectors, np.full((30, 4), value, np.float32)))
    with pytest.raises(IndexFormatError, match="values that are not numbers"):
        opened(path)


@pytest.mark.parametrize("metric", ["l1", "cosine"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("asking", ["--id t3", "--like t3 --like t4", "--like t4 --unlike t3 --combine best"])
def test_one_vector_that_is_no_number_is_refused_however_it_is_asked_for(rsr, tmp_path, metric, value, asking):
    path = tmp_path / "i.rsr"
    make_index(path, embedding_records(np.eye(30, 4, dtype=np.float32)), metric)
    vectors = np.load(path / SEGMENT / "vectors.npy")
    vectors[3, 1] = value
    forge(path, lambda: np.save(path / SEGMENT / "vectors.npy", vectors))
    done = rsr("query", path, *asking.split(), "-k", "2")
    (line,) = done.stderr.decode().splitlines()
    assert (done.returncode, "values that are not numbers" in line) == (1, True)


FORGED_TEXTS = [
    "5",
    "x'7b7d7d'",
    "''",
    "'[]'",
    "'{}}'",
    "record || char(10)",
    "replace(record, ',', ',' || char(10))",
    "replace(record, ',', ',' || char(13))",
    "substr(record, 1, length(record) - 1) || ' }'",
    "replace(record, 'Feature', 'Failure')",
    "replace(record, '\"id\"', '\"name\"')",
    'replace(record, \'"properties"\', \'"properties":{},"other"\')',
    "'x' || char(10) || '{}}'",
    "replace(record, 't3', char(0))",
    "replace(record, 't3', 't4')",
    "replace(record, '\"t3\"', 'true')",
    "replace(record, '\"t3\"', '3')",
    "CAST(x'ff' AS TEXT)",
]


@pytest.mark.parametrize("text", FORGED_TEXTS)
def test_a_forged_record_is_no_line(tmp_path, text):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((30, 4), np.uint8), 32))
    opened(path)
    with contextlib.closing(sqlite3.connect(path / SEGMENT / "records.sqlite")) as table, table:
        table.execute(f"UPDATE records SET record = {text}")
    forge(path, lambda: None)
    with pytest.raises(IndexFormatError, match=r"row 3 is not a record|cannot be read"):
        opened(path)


@pytest.mark.parametrize(("one", "other"), [('"id":"t3"', '"id":["t3"]'), ('"labels":[', '"labels":[1,')])
def test_a_forged_item_that_cannot_be_asked_for_is_named(tmp_path, one, other):
    path = tmp_path / "i.rsr"
    make_index(
        path,
        [
            record | {"properties": record["properties"] | {"labels": ["a"]}}
            for record in code_records(np.zeros((30, 4), np.uint8), 32)
        ],
    )
    with contextlib.closing(sqlite3.connect(path / SEGMENT / "records.sqlite")) as table, table:
        table.execute("UPDATE records SET record = replace(record, ?, ?)", (one, other))
    forge(path, lambda: None)
    with pytest.raises((RecordError, IndexFormatError), match=rf"^{path}") as caught, Index(path) as index:
        list(Searcher(Scope(index), 3, exclude_self=False, skips=Skips()).by_item(Queries(index, Skips()).ids(["t3"])))
    assert "t3" in str(caught.value) or "row 3" in str(caught.value)


FOREVER = (
    "WITH RECURSIVE n(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n) SELECT x AS row, 'a' AS id, 'b' AS record FROM n"
)


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE records SET row = -1 WHERE row = 3",
        "UPDATE records SET row = 30 WHERE row = 3",
        "UPDATE records SET row = 9223372036854775807 WHERE row = 29",
        "DELETE FROM records WHERE row = 3",
        "DELETE FROM records",
        "DROP TABLE records",
        "DROP INDEX by_id",
        f"DROP TABLE records; CREATE VIEW records AS {FOREVER}",
        "CREATE TABLE more (x)",
        "DROP TABLE records; CREATE TABLE records (row, id, record); INSERT INTO records VALUES ('x', 't3', 1)",
    ],
)
def test_a_forged_table_is_refused(tmp_path, script):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((30, 4), np.uint8), 32))
    with contextlib.closing(sqlite3.connect(path / SEGMENT / "records.sqlite")) as table:
        table.executescript(script)
    forge(path, lambda: None)
    with pytest.raises((IndexFormatError, RecordError), match=r"is damaged|has no item with the id 't3'"):
        opened(path)


def test_a_file_that_is_changed_while_it_is_open_is_named(tmp_path):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((30, 4), np.uint8), 32))
    for name in ("vectors.npy", "records.sqlite"):
        with Index(path) as index:
            index.search(np.zeros((1, 4), np.uint8), 1)
            index.record(0)
            os.utime(path / SEGMENT / name, ns=(1, 1))
            with pytest.raises(IndexFormatError, match=rf"{name}: was changed by another process"):
                index.search(np.zeros((1, 4), np.uint8), 1)
