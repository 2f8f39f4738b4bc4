"""Which rows may be hits, tested a few at a time or all at once."""

from __future__ import annotations

import numpy as np
import pytest

from rsr_cli.core.index.kept import Kept


def test_all_rows_are_tested_in_blocks_and_once(monkeypatch):
    monkeypatch.setattr("rsr_cli.core.index.kept.BLOCK_ROWS", 30)
    may = np.random.default_rng(0).random(100) < 0.3
    blocks = []
    kept = Kept(100, lambda rows: blocks.append(rows) or may[rows])
    assert kept.mask.tolist() == may.tolist()
    assert kept.any()
    assert kept.of(np.array([5, 99, 5])).tolist() == may[[5, 99, 5]].tolist()
    assert blocks == [slice(0, 30), slice(30, 60), slice(60, 90), slice(90, 100)]
    assert not Kept(0, lambda rows: may[rows]).any()


@pytest.mark.parametrize("may", [lambda rows: rows % 4 == 0, lambda rows: rows < 250_000, lambda rows: rows >= 750_000])
def test_the_share_is_estimated_and_does_not_depend_on_what_was_tested_before(may):
    count = 1_000_000
    kept = Kept(count, lambda rows: may(np.arange(count)[rows]))
    assert kept.share == pytest.approx(0.25, abs=0.02)
    assert "mask" not in vars(kept)
    assert Kept.where(may(np.arange(count))).share == kept.share


def test_the_share_of_few_rows_is_counted():
    may = np.arange(10_000) == 77
    assert Kept(10_000, may.__getitem__).share == 1e-4
    assert Kept(0, may.__getitem__).share == 0


def test_once_as_many_rows_were_tested_as_there_are_all_are_tested():
    may = np.random.default_rng(0).random(100) < 0.3
    tested = []
    kept = Kept(100, lambda rows: tested.append(len(may[rows])) or may[rows])
    for _ in range(50):
        assert kept.of(np.arange(30, 40)).tolist() == may[30:40].tolist()
    assert sum(tested) < 300
