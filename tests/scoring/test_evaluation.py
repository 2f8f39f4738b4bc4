"""Hits grouped by query, whatever their order, and judged."""

from __future__ import annotations

import random

import pytest

from rsr_cli.core.errors import RecordError, Skips
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.scoring.evaluation import Evaluation, open_truth
from rsr_cli.core.scoring.labels import HitLabels


def judged(records, *, exclude_self=False):
    """Return query -> gains by rank."""
    with Evaluation(HitLabels("any"), exclude_self=exclude_self) as evaluation:
        evaluation.add(Batch("in", [*range(1, len(records) + 1)], records), Skips())
        return {query: found.gains.tolist() for query, found in evaluation.judged()}


def test_hits_are_ordered_by_rank_within_their_queries(world):
    _, hits = world(6)
    in_order = judged(hits)
    assert {len(gains) for gains in in_order.values()} == {30}
    random.Random(2).shuffle(hits)
    assert judged(hits) == in_order


def test_a_rank_without_a_hit_is_irrelevant_and_an_excluded_one_is_gone(hit):
    hits = [hit("q", 1, "q", ["a"], ["a"]), hit("q", 2, "x", ["a"], ["a"]), hit("q", 4, "y", ["a"], ["a"])]
    assert judged(hits) == {"q": [1, 1, 0, 1]}
    assert judged(hits, exclude_self=True) == {"q": [1, 0, 1]}


def test_the_greatest_number_of_relevant_items(tmp_path, hit, item, lines):
    (tmp_path / "truth").write_bytes(lines(item(name, [label]) for name, label in zip("abcde", "xxxyy", strict=True)))
    with (
        open_truth(str(tmp_path / "truth"), "any", Skips()) as truth,
        Evaluation(truth, exclude_self=True) as evaluation,
    ):
        hits = [hit("a", 1, "b", None, None), hit("d", 1, "e", None, None)]
        evaluation.add(Batch("in", [1, 2], hits), Skips())
        assert evaluation.most_relevant() == 2
        assert [query for query, _ in evaluation.judged()] == ["a", "d"]


@pytest.mark.parametrize(
    ("kind", "fields", "says", "remedy"),
    [
        ("item", ("x", ["a"]), "in:1: is not a hit", "query"),
        ("hit", ("q", 0, "x", ["a"], ["a"]), "is not a hit", "query"),
        ("hit", ("q", "1", "x", ["a"], ["a"]), "is not a hit", "query"),
        ("hit", ("q", True, "x", ["a"], ["a"]), "is not a hit", "query"),
        ("hit", ("q", 2**32, "x", ["a"], ["a"]), "is not a hit", "query"),
        ("hit", ("q", 1, "x", None, ["a"]), "'x' has no labels", "labels"),
        ("hit", ("q", 1, "x", ["a"], None), "query 'q' has no labels", "labels"),
        ("hit", ("q", 1, "x", "a", ["a"]), "must be a list of strings", "label-list"),
        ("hit", ("q", 1, "x", [1], ["a"]), "must be a list of strings", "label-list"),
    ],
)
def test_records_that_cannot_be_judged(request, kind, fields, says, remedy):
    record = request.getfixturevalue(kind)(*fields)
    with Evaluation(HitLabels("any"), exclude_self=False) as evaluation:
        with pytest.raises(RecordError, match=says) as raised:
            evaluation.add(Batch("in", [1], [record]), Skips())
        assert raised.value.remedy == remedy
