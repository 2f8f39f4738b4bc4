"""The table of records: ids, and Features that any SQLite client reads."""

from __future__ import annotations

import sqlite3

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import code_records, make_index

from rsr_cli.core.errors import RsrError
from rsr_cli.core.index.table import hit_line, stored
from rsr_cli.core.records.jsonl import dump


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
    with pytest.raises(RsrError, match="'b' occurs twice, in records 2 and 4"):
        make_index(tmp_path / "i.rsr", records)
    assert list(tmp_path.iterdir()) == []


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
