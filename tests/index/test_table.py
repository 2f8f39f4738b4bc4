"""The table of records: ids, and Features that any SQLite client reads."""

from __future__ import annotations

import sqlite3

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import batches, code_records, make_index

from rsr_cli.core.errors import IndexFormatError, RsrError, Skips
from rsr_cli.core.index import table
from rsr_cli.core.index.build import build
from rsr_cli.core.index.reading import Index
from rsr_cli.core.index.table import Table, hit_line, stored
from rsr_cli.core.records.jsonl import dump
from rsr_cli.core.records.space import KINDS
from rsr_cli.core.records.streams import read


def test_any_sqlite_client_reads_the_records(tmp_path):
    records = code_records(np.zeros((3, 4), np.uint8), 32)
    records[1] |= {"bbox": [1.0, 2.0, 3.0, 4.0]}
    records[1]["properties"] |= {"datetime": "2020-01-01T00:00:00Z", "labels": ["a", "b"], "mine": {"x": 1}}
    make_index(tmp_path / "i.rsr", records)
    with sqlite3.connect(tmp_path / "i.rsr" / "segments" / "000001" / "records.sqlite") as database:
        row = database.execute("SELECT * FROM records WHERE id = 't1'").fetchone()
        labels = database.execute("SELECT name FROM labels ORDER BY number").fetchall()
    assert row[:2] == (1, "t1")
    assert orjson.loads(row[2])["properties"]["mine"] == {"x": 1}
    assert "code" not in orjson.loads(row[2])["properties"]
    assert labels == [("a",), ("b",)]


def test_an_id_that_comes_twice_is_refused_and_leaves_nothing(tmp_path):
    records = code_records(np.zeros((5, 4), np.uint8), 32, ["a", "b", "c", "b", "d"])
    with pytest.raises(RsrError, match="in:4: the id 'b' occurs twice, first at in:2"):
        make_index(tmp_path / "i.rsr", records)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [1, 2, 3, 300])
def test_an_id_that_comes_again_is_left_out_where_records_may_be_skipped(tmp_path, caplog, size):
    """In the same batch and in another one, as text and as a number; with the vector and the labels of the first."""
    names = ["a", "b", "b", "a", 7, "c", "7.0", "a"]
    made = code_records(np.arange(32, dtype=np.uint8).reshape(8, 4), 32, names)
    for number, record in enumerate(made):
        record["properties"]["labels"] = [f"l{number}"] * (number % 3)
    made[3]["properties"]["labels"] = 5  # cannot be used, and does not count as the first of its id
    skips = Skips(keep_going=True)
    assert sum(build(batches(made, size=size), tmp_path / "i.rsr", None, skips)) == 4
    assert [message.partition(";")[0] for message in caplog.messages if "twice" in message] == [
        "in:3: the id 'b' occurs twice, first at in:2",
        "in:7: the id '7' occurs twice, first at in:5",
        "in:8: the id 'a' occurs twice, first at in:1",
    ]
    assert skips.count == 4
    segment = tmp_path / "i.rsr" / "segments" / "000001"
    assert np.load(segment / "vectors.npy").tolist() == [[4 * i + j for j in range(4)] for i in (0, 1, 4, 5)]
    assert np.load(segment / "label_ends.npy").tolist() == [0, 1, 2, 4]
    with Index(tmp_path / "i.rsr") as index:
        assert [index.record(row)[0] for row in range(4)] == ["a", "b", "7", "c"]
        assert [index.row_of(name) for name in ("a", "b", "7", "c")] == [0, 1, 2, 3]


@pytest.mark.parametrize("keep_going", [False, True])
def test_the_index_is_the_same_whether_ids_are_checked_one_by_one_or_at_the_end(tmp_path, keep_going):
    names = np.random.default_rng(0).permutation(1000).tolist()
    made = code_records(np.zeros((1000, 4), np.uint8), 32, names)
    sum(build(batches(made), tmp_path / "i.rsr", None, Skips(keep_going=keep_going)))
    with Index(tmp_path / "i.rsr") as index:
        assert [index.row_of(str(name)) for name in names] == list(range(1000))


def test_places_are_those_of_the_files_whatever_lines_they_leave_out(tmp_path, caplog):
    """Two files with empty lines, and in the first one a record that is skipped before the one that comes again."""
    made = [dump(record) for record in code_records(np.zeros((8, 4), np.uint8), 32, [*"abcdefgd"])]
    (tmp_path / "first").write_bytes(b"\n" + b"\n".join(made[:5]).replace(b'"id":"b"', b'"id":["b"]'))
    (tmp_path / "second").write_bytes(b"\n\n" + b"".join(made[5:]))
    says = f"{tmp_path}/second:5: the id 'd' occurs twice, first at {tmp_path}/first:8"
    inputs, skips = [f"{tmp_path}/first", f"{tmp_path}/second"], Skips(keep_going=True)
    assert sum(build(read(inputs, skips, KINDS), tmp_path / "i.rsr", None, skips)) == 6
    assert caplog.messages[-1] == f"{says}; skipped"
    (tmp_path / "first").write_bytes((tmp_path / "first").read_bytes().replace(b'"id":["b"]', b'"id":"b"'))
    with pytest.raises(RsrError) as caught:
        sum(build(read(inputs, Skips(), KINDS), tmp_path / "j.rsr", None, Skips()))
    assert str(caught.value) == says


def test_numbers_are_ids_too(tmp_path):
    with make_index(tmp_path / "i.rsr", code_records(np.zeros((3, 4), np.uint8), 32, [7, 8, 9])) as index:
        assert orjson.loads(index.record(index.row_of("8"))[1])["id"] == 8


def test_an_item_found_again_carries_no_old_hit(tmp_path):
    made = code_records(np.zeros((1, 4), np.uint8), 32)
    made[0]["properties"] |= {"query": "old", "rank": 9, "mine": {}, "embedding": {"data": "long"}}
    with make_index(tmp_path / "i.rsr", made) as index:
        assert orjson.loads(index.record(0)[1])["properties"] == {"mine": {}}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text(), JSON, max_size=4),
    st.dictionaries(st.sampled_from(["bbox", "links", "properties2", "}}", "assets"]), JSON),
    st.dictionaries(st.sampled_from(["query", "rank", "distance"]), JSON, min_size=1),
)
def test_a_hit_is_its_record_with_properties_added(properties, others, added):
    """Whatever a record holds: hits are spliced as text, which relies on the properties being last and unsplit."""
    record = {"type": "Feature", "id": "x", "properties": dict(properties), **others, "geometry": None}
    kept = {key: value for key, value in properties.items() if key not in ("query", "rank", "distance", "code")}
    kept = {key: value for key, value in kept.items() if key not in ("embedding", "query_labels")}
    line = hit_line(stored(record), added)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    expected = {"type": "Feature", "id": "x", **others, "geometry": None, "properties": {**kept, **added}}
    assert orjson.loads(line) == orjson.loads(dump(expected))


def test_many_rows_are_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROWS_PER_QUERY", 4)
    records = code_records(np.zeros((30, 4), np.uint8), 32)
    for number, record in enumerate(records):
        record["properties"]["n"] = number
    make_index(tmp_path / "i.rsr", records)
    opened = Table(tmp_path / "i.rsr" / "segments" / "000001", 30)
    for rows in ([], [3], [0, 29], [1, 2, 3, 4, 5, 9, 20], list(range(30))):
        found = list(opened.records(np.array(rows, np.int64)))
        assert [(name, record["id"], record["properties"]) for name, record in found] == [
            (f"t{row}", f"t{row}", {"n": row}) for row in rows
        ]
    with pytest.raises(IndexFormatError, match="it has no row 30"):
        list(opened.records(np.array([2, 30, 31])))
    with sqlite3.connect(tmp_path / "i.rsr" / "segments" / "000001" / "records.sqlite") as database:
        database.execute("UPDATE records SET record = '{}' WHERE row = 7")
    opened = Table(tmp_path / "i.rsr" / "segments" / "000001", 30)
    with pytest.raises(IndexFormatError, match="its row 7 is not a record"):
        list(opened.records(np.array([6, 7])))
