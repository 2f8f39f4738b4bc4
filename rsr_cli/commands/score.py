"""``rsr score``."""

from __future__ import annotations

import csv
import io
import logging
from typing import TYPE_CHECKING, Any

import click

from rsr_cli import options
from rsr_cli.core import streams
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.evaluation import Match
    from rsr_cli.core.metrics import Judged, Metric

log = logging.getLogger("rsr")


@click.command()
@options.inputs
@options.output
@options.overwrite
@click.option(
    "--metrics",
    "names",
    envvar="RSR_SCORE_METRICS",
    type=options.NameList(),
    metavar="NAME@K,...",
    help="Of map map_cut map_min p r ndcg mrr, each with a depth, and anmrr.  [default: map@20,p@20,mrr@20]",
)
@click.option(
    "--match",
    type=click.Choice(["any", "exact", "jaccard"]),
    default="any",
    show_default=True,
    help="A hit is relevant that shares a label, has the same labels, or to the share of common labels.",
)
@click.option(
    "--truth",
    type=click.Path(),
    metavar="FILE",
    help="The database's records with labels, or a TREC qrels file (*.qrels).",
)
@options.exclude_self
@click.option("--per-query", is_flag=True, help="One line a query instead of one a metric.")
@click.option(
    "--format",
    "layout",
    envvar="RSR_SCORE_FORMAT",
    type=click.Choice(["table", "jsonl", "csv"]),
    default="table",
    show_default=True,
    help="How to write the result.",
)
@options.keep_going
@options.verbosity
def score(
    inputs: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    names: tuple[str, ...] | None,
    match: Match,
    truth: str | None,
    exclude_self: bool,
    per_query: bool,
    layout: str,
    skips: Skips,
) -> None:
    """Measure how good the hits are.

    Reads hits, trusts their ranks, and compares their labels with the query's. map@K is the paper's mean average
    precision: it divides by the relevant items found among the first K; map_cut@K divides by all relevant items, and
    map_min@K by no more than K. These, r, ndcg and anmrr, and the value of a random ranking, need --truth. anmrr is
    0 at best and 1 at worst, and wants hits at least twice as deep as the largest class.

    Beside each value stand the number of queries; without_relevant, those for which the truth has nothing relevant;
    and nothing_found, those without a relevant hit. Both count as 0, for anmrr as 1.
    """
    from rsr_cli.core.evaluation import Evaluation, read_truth
    from rsr_cli.core.metrics import DEFAULT_METRICS, Metric

    metrics = [Metric.parse(name) for name in names or DEFAULT_METRICS]
    blind = [metric.name for metric in metrics if metric.measure.needs_truth and truth is None]
    if blind:
        raise UsageError(f"{', '.join(blind)} needs --truth: the hits do not tell what was not found")
    with streams.Output(output, overwrite=overwrite) as out, streams.Progress("hits") as progress:
        known = None if truth is None else read_truth(truth, match, skips)
        evaluation = Evaluation(match, known, exclude_self=exclude_self)
        for batch in streams.read(inputs, skips):
            evaluation.add(batch, skips)
            progress.update(len(batch))
        queries = dict(evaluation.judged())
        if evaluation.selves and not exclude_self:
            log.warning("%d hits are the query's own item; see rsr query --exclude-self", evaluation.selves)
        _warn_of_depth(metrics, list(queries.values()))
        rows = _per_query(metrics, queries) if per_query else _means(metrics, list(queries.values()))
        out.write(_written(rows, layout))


def _warn_of_depth(metrics: Sequence[Metric], queries: Sequence[Judged]) -> None:
    """Say where a metric looks deeper than the hits go, which takes what is missing for irrelevant."""
    deepest = max((len(judged.gains) for judged in queries), default=0)
    most_relevant = max((judged.n_relevant for judged in queries if judged.ideal is not None), default=0)
    for metric in metrics:
        depth = max((metric.depth(judged, most_relevant) for judged in queries), default=0)
        items = min((judged.n_items for judged in queries if judged.n_items is not None), default=depth)
        if min(depth, items) > deepest:
            log.warning("%s looks at %d ranks, and the hits have %d; see rsr query -k", metric.name, depth, deepest)


def _per_query(metrics: Sequence[Metric], queries: dict[str, Judged]) -> list[dict[str, Any]]:
    values = {metric.name: metric.values(list(queries.values())).tolist() for metric in metrics}
    return [{"query": query, **{name: values[name][i] for name in values}} for i, query in enumerate(queries)]


def _means(metrics: Sequence[Metric], queries: Sequence[Judged]) -> list[dict[str, Any]]:
    knows_all = all(judged.ideal is not None for judged in queries)
    counts = {
        "queries": len(queries),
        "without_relevant": sum(not judged.n_relevant for judged in queries) if knows_all else None,
        "nothing_found": sum(not judged.relevant.any() for judged in queries),
    }
    levels = bool(queries) and all(judged.n_items is not None for judged in queries)
    return [
        {
            "metric": metric.name,
            "value": float(metric.values(queries).mean()) if queries else None,
            "random": metric.random_level(queries) if levels else None,
            **counts,
        }
        for metric in metrics
    ]


def _written(rows: Sequence[dict[str, Any]], layout: str) -> Iterable[bytes]:
    if layout == "jsonl":
        return map(streams.dump, rows)
    if not rows:
        return []
    if layout == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return [text.getvalue().encode()]
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip().encode() + b"\n"
        for row in cells
    ]


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
