"""Metrics against ir_measures, torchmetrics, values computed by hand, and thousands of random rankings."""

from __future__ import annotations

from itertools import combinations_with_replacement, permutations

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, Qrel, R, ScoredDoc, nDCG

from rsr_cli.core.scoring.formulas import Ideal, Judged
from rsr_cli.core.scoring.means import Means
from rsr_cli.core.scoring.metrics import SPELLINGS, Metric


def judged(gains, ideal=None, n_items=None) -> Judged:
    gains = np.array(gains, float)
    return Judged(gains, None if ideal is None else Ideal.of(ideal), n_items)


def values(name: str, queries: list[Judged]) -> list[float]:
    metric = Metric.parse(name)
    most_relevant = max(one.n_relevant for one in queries) if metric.measure.depth else 0
    means = Means([metric], most_relevant)
    measured = [means.add(one)[0] for one in queries]
    assert next(means.rows())[1] == pytest.approx(np.mean(measured))
    return measured


def value(name: str, one: Judged) -> float:
    return values(name, [one])[0]


def random_level(name: str, one: Judged) -> float:
    means = Means([Metric.parse(name)], one.n_relevant)
    means.add(one)
    return next(means.rows())[2]


def test_the_three_average_precisions_of_the_papers_example():
    """Relevance 1,0,1,1,1,1 with R = 5 and k = 3: (1 + 2/3) / 2, / 5 and / 3."""
    one = judged([1, 0, 1, 1, 1, 1], [1] * 5)
    assert value("map@3", one) == pytest.approx(0.8333, abs=5e-5)
    assert value("map_cut@3", one) == pytest.approx(0.3333, abs=5e-5)
    assert value("map_min@3", one) == pytest.approx(0.5556, abs=5e-5)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([1] + [0] * 19, 1.0),  # the trap of this definition: one hit at rank 1 is perfect
        ([0] * 20, 0.0),
        ([], 0.0),
        ([0, 1], 0.5),
        ([1, 1, 0, 0], 1.0),
        ([0, 0, 0, 1, 1], (1 / 4 + 2 / 5) / 2),
    ],
)
def test_the_papers_average_precision_by_hand(gains, expected):
    assert value("map@20", judged(gains)) == pytest.approx(expected)


def test_nmrr_by_hand():
    """R = 2 at ranks 1 and 5, K = min(8, 2 * 2) = 4, so rank 5 counts 1.25 * 4 = 5: (3 - 1.5) / (5 - 1.5)."""
    assert value("anmrr", judged([1, 0, 0, 0, 1], [1, 1])) == pytest.approx(1.5 / 3.5)
    assert value("anmrr", judged([1, 1, 0, 0], [1, 1])) == 0
    assert value("anmrr", judged([0, 0, 0, 0], [1, 1])) == 1


def test_the_depth_of_anmrr_depends_on_all_queries():
    """With another query of R = 8: K = min(4 * 2, 2 * 8) = 8, so rank 5 is inside: (3 - 1.5) / (10 - 1.5)."""
    queries = [judged([1, 0, 0, 0, 1], [1, 1]), judged([1] * 8, [1] * 8)]
    assert values("anmrr", queries) == pytest.approx([1.5 / 8.5, 0])


ORACLES = {
    "map_cut@5": AP @ 5,
    "map_cut@20": AP @ 20,
    "p@1": P @ 1,
    "p@5": P @ 5,
    "p@20": P @ 20,
    "r@5": R @ 5,
    "r@20": R @ 20,
    "ndcg@5": nDCG @ 5,
    "ndcg@20": nDCG @ 20,
    "mrr@5": RR @ 5,
    "mrr@20": RR @ 20,
}


def test_agrees_with_ir_measures():
    """Random and adversarial queries: nothing relevant, everything, fewer hits than k, grades."""
    rng = np.random.default_rng(0)
    gains = [rng.integers(0, 3, 30) * (rng.random(30) < share) for share in (0.1, 0.3, 0.5, 0.9) for _ in range(10)]
    gains += [np.zeros(20), np.ones(20), np.ones(3), np.zeros(2), np.array([0] * 19 + [1]), np.array([2, 0, 1])]
    missed = [rng.integers(1, 3, rng.integers(0, 40)) for _ in gains]
    queries, qrels, run = [], [], []
    for i, (found, other) in enumerate(zip(gains, missed, strict=True)):
        queries.append(judged(found, [*found[found > 0], *other]))
        run += [ScoredDoc(str(i), f"d{rank}", -float(rank)) for rank in range(len(found))]
        qrels += [Qrel(str(i), f"d{rank}", int(gain)) for rank, gain in enumerate(found)]
        qrels += [Qrel(str(i), f"m{rank}", int(gain)) for rank, gain in enumerate(other)]
    theirs = {name: {} for name in ORACLES}
    for measured in ir_measures.iter_calc(list(ORACLES.values()), qrels, run):
        name = next(name for name, oracle in ORACLES.items() if oracle == measured.measure)
        theirs[name][int(measured.query_id)] = measured.value
    for name, by_query in theirs.items():
        assert len(by_query) == len(queries)
        np.testing.assert_allclose(values(name, queries), [by_query[i] for i in range(len(queries))], rtol=1e-9)


@pytest.mark.parametrize("name", [spelling.replace("K", "10") for spelling in SPELLINGS.values()])
@pytest.mark.parametrize(
    ("n_items", "n_relevant"), [(40, 6), (12, 1), (8, 5), (30, 30), (25, 0), (8, 0), (1, 1), (1, 0), (0, 0)]
)
def test_the_random_level_is_the_mean_of_random_rankings(name, n_items, n_relevant):
    rng = np.random.default_rng(1)
    ideal = np.sort(rng.integers(1, 4, n_relevant))[::-1]
    all_gains = np.concatenate([ideal, np.zeros(n_items - n_relevant)])
    drawn = [judged(rng.permutation(all_gains), ideal, n_items) for _ in range(6000)]
    measured = np.array(values(name, drawn))
    # Five standard errors: a correct formula fails once in two million runs.
    assert random_level(name, drawn[0]) == pytest.approx(measured.mean(), abs=5 * measured.std() / 6000**0.5 + 1e-12)


@pytest.mark.parametrize("gains", [c for n in range(5) for c in combinations_with_replacement((0, 1, 3), n)])
def test_the_random_level_of_a_small_database_is_the_mean_of_all_its_orders(gains):
    """From no item to four, and depths below and beyond their number."""
    for name in (spelling.replace("K", str(k)) for spelling in SPELLINGS.values() for k in (1, 2, 5)):
        orders = [judged(order, gains, len(gains)) for order in permutations(gains)]
        measured = values(name, orders)
        assert all(0 <= one <= 1 for one in measured)
        assert random_level(name, orders[0]) == pytest.approx(np.mean(measured), abs=1e-12), name


def test_the_random_level_of_fewer_items_than_k():
    one = judged([1, 0, 0], [1], 3)
    assert random_level("p@10", one) == pytest.approx(1 / 10)
    assert random_level("r@10", one) == 1


def test_ideal_counts_items_by_relevance():
    counted = Ideal.of([0.5, 0, 1, 0.5, 0], [3, 9, 1, 2, 0])
    assert (counted.gains.tolist(), counted.counts.tolist()) == ([1, 0.5], [1, 5])
    assert Ideal.of([]).counts.sum() == 0
    assert Ideal.of([0.0, 1.0], [4, 0]).counts.tolist() == []


def test_the_papers_average_precision_agrees_with_torchmetrics(torch):
    """Random and adversarial queries: nothing relevant, everything, fewer hits than k."""
    from torchmetrics.functional.retrieval import retrieval_average_precision

    rng = np.random.default_rng(3)
    gains = [rng.random(n) < share for n in (40, 20, 7, 1) for share in (0.05, 0.3, 0.9) for _ in range(5)]
    gains += [np.zeros(30, bool), np.ones(30, bool), np.array([True]), np.array([False]), np.arange(25) == 20]
    theirs = [
        # Scores above 0: since version 1.7.4, items with other scores count as not retrieved.
        float(retrieval_average_precision(torch.arange(len(one), 0, -1.0), torch.tensor(one), top_k=20))
        for one in gains
    ]
    assert values("map@20", [judged(one) for one in gains]) == pytest.approx(theirs, abs=1e-6)
