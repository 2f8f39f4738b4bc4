"""Relevance by labels, and what is relevant in a whole database."""

from __future__ import annotations

import numpy as np
import pytest

from rsr_cli.core.errors import Skips
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.scoring.evaluation import Evaluation
from rsr_cli.core.scoring.labels import LabelTruth, relevance
from rsr_cli.core.scoring.means import Means
from rsr_cli.core.scoring.metrics import Metric


@pytest.mark.parametrize(
    ("query", "found", "any_", "exact", "jaccard"),
    [
        ("ab", "ab", 1, 1, 1),
        ("ab", "bc", 1, 0, 1 / 3),
        ("ab", "a", 1, 0, 1 / 2),
        ("ab", "c", 0, 0, 0),
        ("", "", 0, 0, 0),
        ("", "a", 0, 0, 0),
    ],
)
def test_relevance(query, found, any_, exact, jaccard):
    query, found = frozenset(query), frozenset(found)
    assert [relevance(query, found, match) for match in ("any", "exact", "jaccard")] == [
        any_,
        exact,
        pytest.approx(jaccard),
    ]


@pytest.fixture
def label_truth(tmp_path, item, lines):
    """Return a function that reads labels by id as ground truth."""

    def read(match, labels):
        path = tmp_path / "truth.geojsonl"
        path.write_bytes(lines(item(name, its) for name, its in labels.items()))
        truth = LabelTruth(match)
        truth.read(str(path), Skips())
        return truth

    return read


@pytest.mark.parametrize("match", ["any", "exact", "jaccard"])
def test_ideal_and_random_level_agree_with_a_count_of_items(label_truth, match, world):
    """The code counts R and N by label set; this test counts item by item."""
    labels, hits = world(9)
    with label_truth(match, labels) as truth, Evaluation(truth, exclude_self=True) as evaluation:
        evaluation.add(Batch("in", list(range(len(hits))), hits), Skips())
        for query, judged in evaluation.judged(Skips()):
            others = [frozenset(its) for name, its in labels.items() if name != query]
            grades = [relevance(frozenset(labels[query]), other, match) for other in others]
            expected = sorted(filter(None, grades), reverse=True)
            assert judged.n_items == len(others)
            np.testing.assert_allclose(np.repeat(judged.ideal.gains, judged.ideal.counts), expected)
            means = Means([Metric.parse("p@20")])
            means.add(judged)
            assert next(means.rows())[2] == pytest.approx(len(expected) / len(others))


def test_queries_with_equal_labels_share_their_ideal(label_truth):
    with label_truth("any", {f"i{n}": ["a"] for n in range(1000)}) as truth:
        first, _ = truth.ideal("i1", frozenset("a"), exclude_self=True)
        again, _ = truth.ideal("i2", frozenset("a"), exclude_self=True)
        assert again is first
