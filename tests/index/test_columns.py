"""The columns to filter by, against the records they come from."""

from __future__ import annotations

import datetime
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import batches, code, feature

from rsr_cli.core.errors import IndexFormatError, Skips
from rsr_cli.core.index.build import build
from rsr_cli.core.index.columns import ArrayFile, Columns, outward

DEGREES = st.floats(-180, 180)


@given(st.lists(st.tuples(DEGREES, DEGREES, DEGREES, DEGREES), min_size=1))
def test_boxes_are_rounded_outward_and_by_no_more_than_a_step(boxes):
    exact = np.array(boxes)
    rounded = outward(exact).astype(np.float64)
    around = (exact[:, 0] > exact[:, 2]) & (rounded[:, 0] <= rounded[:, 2])
    assert (rounded[around][:, ::2] == [-180, 180]).all()
    assert (exact[around, 0] - exact[around, 2] < 4e-5).all()
    exact, rounded = exact[~around], rounded[~around]
    assert (rounded[:, :2] <= exact[:, :2]).all()
    assert (rounded[:, 2:] >= exact[:, 2:]).all()
    step = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert (np.abs(rounded - exact) <= step).all()


def test_a_box_around_the_earth_but_for_a_step_of_float32():
    boxes = np.array([[179.9, 0, 179.899999999, 1], [-0.0, 0, -1e-46, 1], [10.5, 0, 10, 1], [3, 0, 3, 1]])
    assert outward(boxes).tolist() == [[-180, 0, 180, 1], [-180, 0, 180, 1], [10.5, 0, 10, 1], [3, 0, 3, 1]]


@pytest.mark.filterwarnings("error")
def test_boxes_beyond_float32_are_rounded_outward_too():
    most = float(np.finfo(np.float32).max)
    assert outward(np.array([[-1e300, 1e300, -1e300, 1e300]])).tolist() == [[-np.inf, most, -most, np.inf]]


@pytest.mark.parametrize("shape", [(), (3,), (1, 2)])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_an_array_that_grew_is_what_numpy_reads(tmp_path, shape, count):
    rows = np.arange(count * math.prod(shape), dtype=np.int64).reshape(count, *shape)
    array = ArrayFile(tmp_path / "a.npy", np.int64, shape)
    for start in range(0, count, 300):
        array.append(rows[start : start + 300])
    array.close()
    for mode in (None, "r") if count else (None,):
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode=mode), rows)


def test_a_header_is_as_long_for_any_number_of_rows(tmp_path):
    array = ArrayFile(tmp_path / "a.npy", np.uint8, (96,))
    lengths = set()
    for array.count in (0, 1, 10**6, 10**15):
        lengths.add(len(array._header()))
    assert len(lengths) == 1


def test_columns_say_what_the_records_say(tmp_path):
    records = [feature(f"t{i}", code=code(np.zeros(4), 32)) for i in range(5)]
    records[0] |= {"bbox": [10.1, 50.2, 10.3, 50.4]}
    records[0]["properties"] |= {"datetime": "2020-01-01T12:00:00.5Z", "labels": ["forest", "water"]}
    records[1] |= {"bbox": [179.9, -1, -179.8, 1]}
    records[1]["properties"] |= {"datetime": "2020-01-01T12:00:00+02:00", "labels": ["water"]}
    records[2]["properties"] |= {"datetime": None, "start_datetime": "2001-01-01T00:00:00Z", "labels": []}
    records[3]["properties"] |= {"datetime": "some day", "end_datetime": "2001-01-01T00:00:00Z"}
    records[4]["properties"] |= {"labels": ["city", "forest"]}
    assert sum(build(batches(records, size=2), tmp_path / "i.rsr", None, Skips())) == 5
    segment = tmp_path / "i.rsr" / "segments" / "000001"
    boxes, times, labels, ends = (
        np.load(segment / f"{name}.npy") for name in ("bbox", "times", "labels", "label_ends")
    )
    assert boxes.dtype == np.float32
    np.testing.assert_allclose(boxes[:2], [[10.1, 50.2, 10.3, 50.4], [179.9, -1, -179.8, 1]], rtol=1e-6)
    assert np.isnan(boxes[2:]).all()
    moments = times.view("datetime64[us]")
    noon = datetime.datetime(2020, 1, 1, 12)
    assert moments[0].tolist() == [noon.replace(microsecond=500_000)] * 2
    assert moments[1].tolist() == [noon.replace(hour=10)] * 2
    assert moments[2, 0] == np.datetime64("2001-01-01")
    assert np.isnat(moments[2, 1])
    assert np.isnat(moments[3:]).all()
    names = ["forest", "water", "city"]
    of_rows = [[names[n] for n in part] for part in np.split(labels, ends)[:-1]]
    assert of_rows == [["forest", "water"], ["water"], [], [], ["city", "forest"]]


@pytest.fixture
def segment(tmp_path):
    """The directory of a segment of 5 rows, whose labels are 2, 1, 0, 0 and 1."""
    records = [feature(f"t{i}", code=code(np.zeros(4), 32)) for i in range(5)]
    for record, labels in zip(records, (["a", "b"], ["b"], [], [], ["c"]), strict=True):
        record["properties"]["labels"] = labels
    sum(build(batches(records), tmp_path / "i.rsr", None, Skips()))
    return tmp_path / "i.rsr" / "segments" / "000001"


def test_columns_are_read_as_numpy_reads_them(segment):
    columns = Columns(segment, 5)
    for name, found in (
        ("bbox", columns.boxes),
        ("times", columns.times),
        ("labels", columns.labels),
        ("label_ends", columns.label_ends),
    ):
        expected = np.load(segment / f"{name}.npy")
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_rows_without_any_labels(tmp_path):
    sum(build(batches([feature("a", code=code(np.zeros(4), 32))]), tmp_path / "i.rsr", None, Skips()))
    columns = Columns(tmp_path / "i.rsr" / "segments" / "000001", 1)
    assert (columns.labels.tolist(), columns.label_ends.tolist()) == ([], [0])


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("boxes", np.zeros((5, 4)), r"it has float64 \(5, 4\), and float32 \(5, 4\) is expected"),
        ("boxes", np.zeros((4, 4), np.float32), r"it has float32 \(4, 4\)"),
        ("times", np.zeros((5, 2), ">i8"), "it has >i8"),
        ("label_ends", np.zeros(5, np.int32), "it has int32"),
        ("label_ends", np.arange(10)[::2], r"it has int32 \(4,\), and int32 \(8,\) is expected"),
        ("label_ends", np.array([2, 3, 3, 3, 3]), r"it has int32 \(4,\), and int32 \(3,\) is expected"),
        ("labels", np.zeros((4, 1), np.int32), r"it has int32 \(4, 1\)"),
        ("labels", np.array([None] * 4), "is damaged"),
        ("boxes", b"", "is damaged"),
        ("boxes", None, "is missing"),
    ],
)
def test_columns_that_are_not_as_written_are_refused(segment, name, array, says):
    path = segment / {"boxes": "bbox.npy"}.get(name, f"{name}.npy")
    path.unlink()
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        np.save(path, array)
    with pytest.raises(IndexFormatError, match=says) as caught:
        Columns(segment, 5).labels if "label" in name else getattr(Columns(segment, 5), name)
    assert caught.value.place in {str(path), str(segment / "labels.npy")}
    assert caught.value.remedy == "rebuild"


@pytest.mark.parametrize(("row", "end"), [(0, -1), (2, 1), (3, 0), (3, -5)])
def test_ends_that_do_not_grow_are_refused_where_they_are_used(segment, row, end):
    ends = np.array([2, 3, 3, 3, 4])
    every = np.ones(5, bool)
    np.save(segment / "label_ends.npy", ends)
    assert Columns(segment, 5).labels_of(0, every, 9)[1].tolist() == [2, 1, 0, 0, 1]
    ends[row] = end
    np.save(segment / "label_ends.npy", ends)
    with pytest.raises(IndexFormatError, match="do not grow"):
        Columns(segment, 5).labels_of(0, every, 9)
    if row < 4 and end < 0:
        with pytest.raises(IndexFormatError, match="do not grow"):
            Columns(segment, 5).labels_of(row + 1, every[row + 1 :], 9)


def test_columns_lie_one_after_the_other_and_those_of_an_older_index_row_by_row(segment):
    for name, stored in (("boxes", "bbox.npy"), ("times", "times.npy")):
        written = np.load(segment / stored)
        assert written.flags.f_contiguous
        mapped = getattr(Columns(segment, 5), name)
        np.testing.assert_array_equal(mapped, written)
        assert mapped[:, 0].flags.c_contiguous
        np.save(segment / stored, np.ascontiguousarray(written))
        older = getattr(Columns(segment, 5), name)
        assert older.flags.c_contiguous
        np.testing.assert_array_equal(older, written)
        np.save(segment / stored, np.repeat(written, 2, axis=1)[:, ::2])  # back in the order of columns or rows
    assert not list(segment.glob(".*"))


def test_a_named_pipe_is_no_column(segment):
    (segment / "times.npy").unlink()
    os.mkfifo(segment / "times.npy")
    with pytest.raises(IndexFormatError, match="cannot be opened: not a regular file"):
        _ = Columns(segment, 5).times
