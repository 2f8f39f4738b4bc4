"""Hits grouped by query, whatever their order, and judged."""

from __future__ import annotations

import random

import pytest

from rsr_cli.core.errors import RecordError, RsrError, Skips
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.scoring.evaluation import Counts, Evaluation, open_truth
from rsr_cli.core.scoring.labels import HitLabels


def judged(records, *, exclude_self=False):
    """Return query -> gains by rank."""
    with Evaluation(HitLabels("any"), exclude_self=exclude_self) as evaluation:
        evaluation.add(Batch("in", [*range(1, len(records) + 1)], records), Skips())
        return {query: found.gains.tolist() for query, found in evaluation.judged(Skips())}


def test_hits_are_ordered_by_rank_within_their_queries(world):
    _, hits = world(6)
    in_order = judged(hits)
    assert {len(gains) for gains in in_order.values()} == {30}
    random.Random(2).shuffle(hits)
    assert judged(hits) == in_order


def test_ranks_without_a_hit_are_closed_up(hit):
    hits = [hit("q", 3, "q", ["a"], ["a"]), hit("q", 4, "x", ["b"], ["a"]), hit("q", 10**6, "y", ["a"], ["a"])]
    assert judged(hits) == {"q": [1, 0, 1]}
    assert judged(hits, exclude_self=True) == {"q": [0, 1]}


def test_the_greatest_number_of_relevant_items(tmp_path, hit, item, lines):
    (tmp_path / "truth").write_bytes(lines(item(name, [label]) for name, label in zip("abcde", "xxxyy", strict=True)))
    with (
        open_truth(str(tmp_path / "truth"), "any", Skips()) as truth,
        Evaluation(truth, exclude_self=True) as evaluation,
    ):
        hits = [hit("a", 1, "b", None, None), hit("d", 1, "e", None, None)]
        evaluation.add(Batch("in", [1, 2], hits), Skips())
        assert evaluation.most_relevant() == 2
        assert [query for query, _ in evaluation.judged(Skips())] == ["a", "d"]


@pytest.mark.parametrize(
    ("kind", "fields", "says", "remedy"),
    [
        ("item", ("x", ["a"]), "in:1: is not a hit: it has no query and rank", "query"),
        ("hit", ("q", 0, "x", ["a"], ["a"]), "is not a hit: its rank is 0, not a whole number", "query"),
        ("hit", ("q", "1", "x", ["a"], ["a"]), "is not a hit: its rank is '1', not", "query"),
        ("hit", ("q", True, "x", ["a"], ["a"]), "is not a hit", "query"),
        ("hit", ("q", 2**32, "x", ["a"], ["a"]), "is not a hit", "query"),
        ("hit", ("q", 1, None, ["a"], ["a"]), "in:1: has no id", "id"),
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


@pytest.fixture
def counted(tmp_path, hit):
    """Return a function that evaluates (query, rank, item) by the lines of a qrels file, and counts."""

    def evaluate(qrels, hits, *, exclude_self=False):
        (tmp_path / "t.qrels").write_text("".join(f"{line}\n" for line in qrels))
        records = [hit(*one, None, None) for one in hits]
        with (
            open_truth(str(tmp_path / "t.qrels"), "any", Skips()) as truth,
            Evaluation(truth, exclude_self=exclude_self) as evaluation,
        ):
            evaluation.add(Batch("in", [*range(1, len(records) + 1)], records), Skips())
            scored = {query: found.gains.tolist() for query, found in evaluation.judged(Skips())}
            assert {query for query, _ in evaluation.queries()} == scored.keys()
            return scored, evaluation.counts()

    return evaluate


def test_queries_that_are_not_judged_are_left_out_and_counted(counted):
    hits = [("b", 1, "x"), ("u", 1, "x"), ("b", 3, "y"), ("u", 7, "y"), ("a", 1, "z")]
    scored, counts = counted(["a 0 x 1", "b 0 y 2", "c 0 x 1", "d 0 x 0"], hits)
    assert scored == {"b": [0, 2], "a": [0], "c": [], "d": []}
    assert counts == Counts(asked=3, unjudged=1, judged=4, without_hits=2, with_gaps=1, without_self=0)


@pytest.mark.parametrize(
    ("qrels", "asked", "says"),
    [
        (["a 0 x 1"], "b", "does not judge the query 'b', but 'a', for example"),
        (["a 0 x 1"], "bc", "does not judge any of the 2 queries, such as 'b', but 'a', for example"),
        ([], "bc", "does not judge any of the 2 queries, such as 'b': it is empty"),
    ],
)
def test_a_truth_of_other_queries_is_refused(counted, qrels, asked, says):
    with pytest.raises(RsrError, match=says) as raised:
        counted(qrels, [(query, 1, "x") for query in asked])
    assert raised.value.remedy == "qrels"


@pytest.mark.parametrize(
    ("exclude_self", "qrels", "missing"),
    [
        (False, ["a 0 a 1", "a 0 x 1", "b 0 b 1"], 1),  # b finds itself
        (False, ["a 0 a 0", "a 0 x 1", "b 0 b 1"], 0),
        (False, ["a 0 x 1", "b 0 x 1"], 0),
        (True, ["a 0 a 1", "a 0 x 1", "b 0 b 1"], 0),
    ],
)
def test_queries_are_counted_whose_own_item_is_relevant_and_not_found(counted, exclude_self, qrels, missing):
    hits = [("a", 1, "x"), ("b", 1, "x"), ("b", 2, "b"), ("u", 1, "x")]
    _, counts = counted(qrels, hits, exclude_self=exclude_self)
    assert counts.without_self == missing


def test_an_item_at_two_ranks_counts_once_if_that_is_let_go(hit):
    hits = [hit("q", 1, "x", ["a"], ["a"]), hit("q", 2, "y", ["b"], ["a"]), hit("q", 5, "x", ["a"], ["a"])]
    skips = Skips(keep_going=True)
    with Evaluation(HitLabels("any"), exclude_self=False) as evaluation:
        evaluation.add(Batch("in", [1, 2, 3], hits), skips)
        assert [found.gains.tolist() for _, found in evaluation.judged(skips)] == [[1, 0]]
    assert skips.count == 1
