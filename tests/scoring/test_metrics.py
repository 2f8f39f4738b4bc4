"""How users name metrics."""

from __future__ import annotations

import pytest

from rsr_cli.core.errors import UsageError
from rsr_cli.core.scoring.metrics import METRICS, SPELLINGS, Metric


@pytest.mark.parametrize(
    "text", ["map", "map@0", "map@-1", "foo@20", "p@x", "anmrr@20", "", "map@20@3", "p@10000001", f"p@{'9' * 400}"]
)
def test_unknown_metrics_are_refused(text):
    with pytest.raises(UsageError):
        Metric.parse(text)


def test_every_metric_is_parsed_as_it_is_spelled():
    assert list(SPELLINGS) == list(METRICS)
    for name, spelling in SPELLINGS.items():
        assert Metric.parse(spelling.replace("K", "7")).measure is METRICS[name]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("foo@20", f"unknown metric 'foo@20'; one of {' '.join(SPELLINGS.values())}"),
        ("p", "p needs a depth, such as p@20"),
        ("anmrr@20", "anmrr defines its own depth; write it without @"),
        ("p@10000001", "p@10000001 is deeper than 10000000 ranks"),
    ],
)
def test_a_metric_that_cannot_be_parsed_says_why(text, says):
    with pytest.raises(UsageError) as raised:
        Metric.parse(text)
    assert str(raised.value) == says
