"""A batch of records, and what becomes of it when some of them cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
from support import batches, embedding, feature

from rsr_cli.core.errors import BandError, FingerprintError, RecordError, Skips
from rsr_cli.core.records.batch import Batch


@pytest.fixture
def batch():
    """Five records of lines with gaps, each vector its line's number."""
    lines = [2, 3, 5, 8, 13]
    vectors = np.repeat(np.array(lines, np.float32)[:, None], 4, axis=1)
    return Batch("in", lines, [feature(f"t{line}") for line in lines], vectors)


def content(batch):
    """Return the lines, as they are stated three times over."""
    assert len(batch) == len(batch.lines)
    assert [record["id"] for record in batch.records] == [f"t{line}" for line in batch.lines]
    assert batch.vectors[:, 0].tolist() == batch.lines
    return batch.lines


def refusing(ids, error=RecordError, place=None):
    """Return a function that reads an id's number and refuses some."""

    def read(record):
        number = int(record["id"][1:])
        if number in ids:
            raise error(f"no {number}", place)
        return number

    return read


def test_a_place_is_the_input_and_the_line(batch):
    assert [batch.place(i) for i in range(len(batch))] == ["in:2", "in:3", "in:5", "in:8", "in:13"]


@pytest.mark.parametrize("chosen", [[], [0], [4], [1, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4]])
def test_records_that_are_kept_keep_their_lines_and_vectors(batch, chosen):
    expected = [batch.lines[i] for i in chosen]
    batch.keep(chosen)
    assert content(batch) == expected
    assert batch.vectors.shape == (len(chosen), 4)


def test_records_without_vectors_are_kept_too():
    batch = Batch("in", [1, 2, 3], [feature(i) for i in (1, 2, 3)])
    batch.keep([0, 2])
    assert ([record["id"] for record in batch.records], batch.lines, batch.vectors) == ([1, 3], [1, 3], None)


@pytest.mark.parametrize("bad", [[], [2], [13], [5], [3, 5], [2, 8], [2, 3, 5, 8], [2, 3, 5, 8, 13]])
def test_what_comes_before_and_after_an_error_is_kept_in_order(batch, bad):
    skips = Skips(keep_going=True)
    good = [line for line in batch.lines if line not in bad]
    assert batch.apply(refusing(bad), skips) == good
    assert content(batch) == good
    assert skips.count == len(bad)


def test_each_skipped_record_is_named_by_its_place(batch, caplog):
    batch.apply(refusing([3, 8]), Skips(keep_going=True))
    assert caplog.messages == ["in:3: no 3; skipped", "in:8: no 8; skipped"]


def test_a_function_is_called_once_with_each_record(batch):
    called = []

    def note(record):
        called.append(record["id"])
        return refusing([3])(record)

    batch.apply(note, Skips(keep_going=True))
    assert called == ["t2", "t3", "t5", "t8", "t13"]


@pytest.mark.parametrize(("place", "says"), [(None, "in:5: no 5"), ("red.tif", "in:5: red.tif: no 5")])
def test_the_place_of_an_error_follows_that_of_its_record(batch, place, says):
    with pytest.raises(RecordError) as caught:
        batch.apply(refusing([5, 8], place=place), Skips())
    assert str(caught.value) == says
    assert content(batch) == [2, 3, 5, 8, 13]


def test_a_kind_of_record_error_is_skipped_like_any(batch):
    assert batch.apply(refusing([5], BandError), Skips(keep_going=True)) == [2, 3, 8, 13]


@pytest.mark.parametrize(("place", "says"), [(None, "in:8: no 8"), ("i.rsr", "in:8: i.rsr: no 8")])
def test_an_error_that_is_not_of_one_record_ends_the_run_at_its_place(batch, place, says):
    skips = Skips(keep_going=True)
    with pytest.raises(FingerprintError) as caught:
        batch.apply(refusing([8], FingerprintError, place), skips)
    assert (str(caught.value), skips.count) == (says, 0)


def test_a_bug_is_raised_as_it_is(batch):
    with pytest.raises(ZeroDivisionError):
        batch.apply(lambda record: 1 / len(record["properties"]), Skips(keep_going=True))


def test_what_a_function_refuses_is_dropped_with_its_vector():
    def records(first):
        return batches(feature(i, embedding=embedding(np.full(2, i))) for i in range(first, 6))

    def odd(record):
        if record["id"] % 2 == 0:
            raise RecordError("is even", "inner" if record["id"] else None)
        return -record["id"]

    skips = Skips(keep_going=True)
    (batch,) = records(0)
    assert batch.apply(odd, skips) == [-1, -3, -5]
    assert (batch.lines, skips.count) == ([2, 4, 6], 3)
    assert batch.vectors[:, 0].tolist() == [1, 3, 5]
    (batch,) = records(2)
    with pytest.raises(RecordError, match="in:1: inner: is even"):
        batch.apply(odd, Skips())
