"""The columns to filter by, against the records they come from."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import batches, code, feature

from rsr_cli.core.errors import Skips
from rsr_cli.core.index.build import build
from rsr_cli.core.index.columns import ArrayFile, outward

DEGREES = st.floats(-180, 180)


@given(st.lists(st.tuples(DEGREES, DEGREES, DEGREES, DEGREES), min_size=1))
def test_boxes_are_rounded_outward_and_by_no_more_than_a_step(boxes):
    exact = np.array(boxes)
    rounded = outward(exact).astype(np.float64)
    assert (rounded[:, :2] <= exact[:, :2]).all()
    assert (rounded[:, 2:] >= exact[:, 2:]).all()
    step = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert (np.abs(rounded - exact) <= step).all()


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
