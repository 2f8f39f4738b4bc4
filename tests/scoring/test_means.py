"""Means over queries against numpy and numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rsr_cli.core.scoring.formulas import Ideal, Judged
from rsr_cli.core.scoring.means import MEANS_COLUMNS, Means
from rsr_cli.core.scoring.metrics import DEFAULT_METRICS, Metric


def judged(gains, ideal=None, n_items=None) -> Judged:
    return Judged(np.array(gains, float), None if ideal is None else Ideal.of(ideal), n_items)


def means_of(names, queries, most_relevant=0) -> Means:
    means = Means([Metric.parse(name) for name in names], most_relevant)
    for query in queries:
        means.add(query)
    return means


def column(means, name) -> list:
    """Return a column of the rows by its name."""
    return [dict(zip(MEANS_COLUMNS, row, strict=True))[name] for row in means.rows()]


def test_a_mean_is_over_all_queries_those_without_a_hit_too():
    """The first hits are at ranks 1, 3 and nowhere, and the query without hits counts."""
    queries = [judged([1, 1]), judged([0, 0, 1]), judged([0, 0]), judged([])]
    means = means_of(["mrr@3", "p@2", "p@1"], queries)
    assert means.queries == 4
    assert column(means, "metric") == ["mrr@3", "p@2", "p@1"]
    assert column(means, "value") == pytest.approx([(1 + 1 / 3) / 4, (2 / 2) / 4, 1 / 4])
    assert column(means, "queries") == [4, 4, 4]


def test_a_query_returns_its_own_values_in_the_order_of_the_metrics():
    means = Means([Metric.parse(name) for name in ("p@4", "mrr@4", "r@4")])
    assert means.add(judged([0, 1, 0, 1], [1] * 4)) == [1 / 2, 1 / 2, 1 / 2]
    assert means.add(judged([1], [1])) == [1 / 4, 1, 1]
    assert column(means, "value") == pytest.approx([3 / 8, 3 / 4, 3 / 4])


def test_the_mean_of_many_queries_agrees_with_numpy():
    rng = np.random.default_rng(8)
    gains = (rng.random((500, 10)) < 0.3).astype(float)
    means = means_of(["p@10", "p@3", "mrr@10"], map(judged, gains))
    first = np.where(gains.any(axis=1), gains.argmax(axis=1) + 1.0, np.inf)
    expected = [gains.mean(), gains[:, :3].mean(), (1 / first).mean()]
    assert column(means, "value") == pytest.approx(expected)


def test_without_a_query_there_is_no_mean():
    means = means_of(DEFAULT_METRICS, [])
    assert list(means.rows()) == [(name, None, None, 0, 0, 0) for name in DEFAULT_METRICS]
    assert means.too_shallow() == {}


# Counts --------------------------------------------------------------------------------------------------------------


def test_queries_are_counted_that_have_nothing_relevant_and_that_found_nothing():
    """What is relevant but not found, is found, is found in part, does not exist; no hits, with and without any."""
    queries = [
        judged([0, 0], [1]),
        judged([1, 0], [1]),
        judged([0, 0.5], [0.5, 1]),
        judged([0, 0], []),
        judged([], [1, 1]),
        judged([], []),
    ]
    means = means_of(["p@2", "mrr@2"], queries)
    assert column(means, "without_relevant") == [2, 2]
    assert column(means, "nothing_found") == [4, 4]


@pytest.mark.parametrize("unknown", [0, 1, 2])
def test_the_number_of_queries_without_relevant_items_is_unknown_if_it_is_for_one(unknown):
    queries = [judged([0], []) for _ in range(3)]
    queries[unknown] = judged([0])
    means = means_of(["p@1"], queries)
    assert column(means, "without_relevant") == [None]
    assert column(means, "nothing_found") == [3]


# Random rankings -----------------------------------------------------------------------------------------------------


def test_the_random_level_is_the_mean_of_the_queries_shares():
    """1 of 4, 2 of 5 and none of 10 items are relevant; with k = 1 every metric is the chance of rank 1."""
    queries = [judged([0], [1], 4), judged([1], [1, 1], 5), judged([0], [], 10)]
    means = means_of(["p@1", "mrr@1", "map@1"], queries)
    assert column(means, "random") == pytest.approx([(1 / 4 + 2 / 5) / 3] * 3)


def test_the_random_level_of_recall_is_the_share_that_is_returned():
    """3 of 12 and 3 of 6 items, whatever their relevance; a query without relevant items has a recall of 0."""
    queries = [judged([0, 0, 0], [1] * 2, 12), judged([0, 0, 0], [1] * 5, 6), judged([0, 0, 0], [], 6)]
    assert column(means_of(["r@3"], queries), "random") == pytest.approx([(3 / 12 + 3 / 6) / 3])


@pytest.mark.parametrize("unknown", [0, 1, 2])
def test_the_random_level_is_unknown_if_the_number_of_items_is_for_one_query(unknown):
    queries = [judged([1], [1], 4) for _ in range(3)]
    queries[unknown] = judged([1], [1])
    means = means_of(["p@1", "mrr@1"], queries)
    assert column(means, "random") == [None, None]
    assert column(means, "value") == [1, 1]


# Depth ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "deeper"),
    [
        ([5, 5], {10: ["p@10", "r@10"]}),
        ([4, 2], {10: ["p@10", "r@10"], 5: ["mrr@5"]}),
        ([0, 0], {10: ["p@10", "r@10"], 5: ["mrr@5"]}),
        ([3, 10], {}),
        ([12, 1], {}),
    ],
)
def test_metrics_are_named_that_are_deeper_than_the_hits_of_every_query(hits, deeper):
    means = means_of(["p@10", "mrr@5", "r@10"], [judged([1] * number, [1]) for number in hits])
    assert (means.too_shallow(), means.deepest) == (deeper, max(hits))


@pytest.mark.parametrize(
    ("n_items", "hits", "deeper"),
    [
        ((4, 4), 4, False),
        ((4, 4), 3, True),
        ((4, 5), 4, False),  # one query is itself an item, and excluded
        ((None, None), 4, True),
        ((4, None), 4, True),
        ((None, 4), 4, True),
    ],
)
def test_hits_are_not_too_few_if_they_are_all_the_items(n_items, hits, deeper):
    means = means_of(["p@10"], [judged([1] * hits, [1] * 4, number) for number in n_items])
    assert means.too_shallow() == ({10: ["p@10"]} if deeper else {})


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("hits", "deeper"), [(8, {}), (7, {8: ["anmrr"]})])
def test_a_metric_that_defines_its_own_depth_is_compared_at_its_greatest(hits, deeper, order):
    """R is 1 and 4, so the depths are min(4 * 1, 2 * 4) = 4 and min(4 * 4, 2 * 4) = 8."""
    queries = [judged([1] + [0] * (hits - 1), [1]), judged([1, 0, 0, 0], [1] * 4)][::order]
    assert means_of(["anmrr"], queries, most_relevant=4).too_shallow() == deeper
