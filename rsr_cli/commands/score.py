"""``rsr score``."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
from collections import deque
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.errors import UsageError
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import jsonl, streams

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.scoring.evaluation import Match

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
    map_min@K by no more than K. These, r, ndcg and anmrr need --truth, and so does the value of a random ranking, which
    qrels do not tell. anmrr is 0 at best and 1 at worst, and wants hits at least twice as deep as the largest class.

    A query without any hit is not in the stream, and not in the mean; only qrels name it.

    Beside each value stand the number of queries; without_relevant, those for which the truth has nothing relevant;
    and nothing_found, those without a relevant hit. Both count as 0, for anmrr as 1.
    """
    from rsr_cli.core.scoring.evaluation import Evaluation, truth_of
    from rsr_cli.core.scoring.metrics import DEFAULT_METRICS, MEANS_COLUMNS, Means, Metric

    metrics = [Metric.parse(name) for name in names or DEFAULT_METRICS]
    blind = [metric.name for metric in metrics if metric.measure.needs_truth and truth is None]
    if blind:
        raise UsageError(f"{', '.join(blind)} needs --truth: the hits do not tell what was not found")
    if truth == "-" and (not inputs or "-" in inputs):
        raise UsageError("--truth and the hits cannot both be stdin; name a file")
    with (
        files.Output(output, overwrite=overwrite) as out,
        Progress("hits") as progress,
        contextlib.ExitStack() as spools,
    ):
        known = None
        if truth is not None:
            known = truth_of(truth, match)
            spools.enter_context(known)
            known.read(truth, skips)
        evaluation = spools.enter_context(Evaluation(match, known, exclude_self=exclude_self))
        for batch in streams.read(inputs, skips):
            evaluation.add(batch, skips)
            progress.update(len(batch))
        if evaluation.selves and not exclude_self:
            log.warning("%d hits are the query's own item; see rsr query --exclude-self", evaluation.selves)
        most_relevant = 0
        if any(metric.k is None for metric in metrics):
            most_relevant = max((judged.n_relevant for _, judged in evaluation.judged()), default=0)
        means = Means(metrics, most_relevant)
        columns = ["query", *(metric.name for metric in metrics)]
        values = ((query, *means.add(judged)) for query, judged in evaluation.judged())
        if per_query:
            _write(out, columns, values, layout, evaluation.longest_query())
        else:
            deque(values, maxlen=0)
            _write(out, MEANS_COLUMNS, means.rows(), layout, max(map(len, columns)))
        for name, depth, deepest in means.too_shallow():
            log.warning("%s looks at %d ranks, and the hits have %d; see rsr query -k", name, depth, deepest)


def _write(out: files.Output, columns: Sequence[str], rows: Iterable[Sequence[Any]], layout: str, width: int) -> None:
    """Write rows as they come; ``width`` is the greatest of a table's first column."""
    lines: Iterable[bytes]
    if layout == "jsonl":
        lines = (jsonl.dump(dict(zip(columns, row, strict=True))) for row in rows)
    elif layout == "csv":
        lines = (_csv(row) for row in chain([columns], rows))
    else:
        lines = _table(columns, rows, width)
    chunks = iter(lines)
    while some := list(islice(chunks, 1000)):
        out.write(some)


def _csv(row: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode()


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]], width: int) -> Iterable[bytes]:
    widths = [max(width, len(columns[0])), *(max(len(column), len("0.0000")) for column in columns[1:])]
    for row in chain([columns], rows):
        name, *cells = map(_cell, row)
        yield "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip().encode() + b"\n"


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
