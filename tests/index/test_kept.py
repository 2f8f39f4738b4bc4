"""Which rows may be hits, tested a few at a time or all at once."""

from __future__ import annotations

import numpy as np
import pytest

from rsr_cli.core.index import kept as module
from rsr_cli.core.index.kept import Kept


class Test:
    """A test of rows that remembers which ones it was asked about."""

    __test__ = False

    def __init__(self, may: np.ndarray) -> None:
        self.may = may
        self.asked: list[np.ndarray] = []

    def __call__(self, rows) -> np.ndarray:
        self.asked.append(np.arange(len(self.may))[rows])
        assert (np.diff(self.asked[-1]) > 0).all()
        return self.may[rows]

    def times(self) -> np.ndarray:
        return np.bincount(np.concatenate(self.asked), minlength=len(self.may))


@pytest.fixture
def test():
    return Test(np.random.default_rng(0).random(100) < 0.3)


def test_all_rows_are_tested_in_blocks(test, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 30)
    kept = Kept(100, test)
    assert kept.mask.tolist() == kept.mask.tolist() == test.may.tolist()
    assert [len(rows) for rows in test.asked] == [30, 30, 30, 10]
    assert kept.of(np.array([5, 99, 5])).tolist() == test.may[[5, 99, 5]].tolist()
    assert len(test.asked) == 4
    assert Kept(0, test).mask.shape == (0,)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_rows_are_tested_in_order_and_no_record_is_read_twice(test, monkeypatch, slow, share):
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    monkeypatch.setattr(module, "IN_A_ROW", 3)
    for name in ("RUNS", "RUN_ROWS", "COUNTED"):
        monkeypatch.setattr(module, name, 2)
    kept, rng = Kept(100, test, slow=slow), np.random.default_rng(1)
    if share:
        assert kept.share == test.may[[0, 1, 98, 99]].mean()
    for _ in range(6):
        rows = rng.integers(0, 100, 12)
        assert kept.of(rows).tolist() == test.may[rows].tolist()
        assert kept.untested == 100 - np.count_nonzero(test.times())
    assert (kept.untested == 0) == (not slow)
    assert kept.mask.tolist() == test.may.tolist()
    assert test.times().min() == 1
    assert test.times().max() == (1 if slow else 2)  # those that follow each other are tested together


@pytest.mark.parametrize("may", [lambda rows: rows % 4 == 0, lambda rows: rows < 250_000, lambda rows: rows >= 750_000])
def test_the_share_is_estimated_and_does_not_depend_on_what_was_tested_before(may):
    test = Test(may(np.arange(1_000_000)))
    kept, whole = Kept(1_000_000, test), Kept(1_000_000, test)
    assert whole.mask is not None
    assert kept.share == whole.share == Kept.where(test.may).share
    assert kept.share == pytest.approx(0.25, abs=0.02)
    assert kept.untested > 990_000


@pytest.mark.parametrize("counts", [(30, 4000, 1, 0, 70_000, 500), (50,) * 400])
def test_the_share_of_many_segments_is_estimated_from_few_records(counts):
    numbers = np.arange(sum(counts))
    tests = [Test(part % 4 == 0) for part in np.split(numbers, np.cumsum(counts)[:-1])]
    kept = [Kept(count, test, slow=True) for count, test in zip(counts, tests, strict=True)]
    assert module.share_of(kept) == pytest.approx(0.25, abs=0.05)
    assert sum(count - each.untested for count, each in zip(counts, kept, strict=True)) <= 1024


def test_the_share_of_few_rows_is_counted_of_records_fewer():
    for count, slow, exact in ((16_384, False, True), (16_385, False, False), (1024, True, True), (1025, True, False)):
        may = np.ones(count, bool)
        may[8] = False  # in no run but the first, if any
        kept = [Kept(count // 2, Test(may[: count // 2]), slow=slow)]
        kept.append(Kept(count - count // 2, Test(may[count // 2 :]), slow=slow))
        assert (module.share_of(kept) == 1 - 1 / count) == exact
    assert module.share_of([]) == 0


def test_the_share_of_few_rows_is_counted():
    may = np.arange(10_000) == 77
    assert Kept(10_000, may.__getitem__).share == 1e-4
    assert Kept(0, may.__getitem__).share == 0
