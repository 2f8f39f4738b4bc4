"""``rsr score``."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, get_args

import click

from rsr_cli import options, tables
from rsr_cli.core import files
from rsr_cli.core.errors import UsageError, counted
from rsr_cli.core.forms import QRELS, TABLE
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import streams
from rsr_cli.core.scoring.metrics import DEFAULT_METRICS, METRICS, SPELLINGS, Match, Metric

if TYPE_CHECKING:
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.scoring.evaluation import Evaluation

log = logging.getLogger("rsr")

HELP = """Compute retrieval metrics for hits.

Reads hits in any order, puts them in the order of their ranks, and compares their labels with the labels of their
queries. Ranks may have gaps: the hits are numbered anew. The metrics (* needs --truth):

\b
{metrics}

The result states for each metric its mean value over the queries; with labels in --truth also its mean for random
rankings, the level to compare with; and the number of queries. Of these, without_relevant have no relevant item in the
database and nothing_found have no relevant hit: both count with the metric's worst value.

A query without hits is absent from the input, and so from the mean, unless a qrels file names it. A query that a qrels
file does not name is left out.
""".format(
    metrics="\n".join(
        f"{SPELLINGS[name] + '*' * measure.needs_truth:<11} {measure.summary}" for name, measure in METRICS.items()
    )
)


@click.command(cls=options.Command, help=HELP)
@options.inputs
@options.output
@options.overwrite
@click.option(
    "--metrics",
    "names",
    envvar="RSR_SCORE_METRICS",
    type=options.NameList(),
    metavar="NAME@K,...",
    default=",".join(DEFAULT_METRICS),
    show_default=True,
    help="Metrics to compute.",
)
@click.option(
    "--match",
    type=click.Choice(get_args(Match)),
    default="any",
    show_default=True,
    help="A hit is relevant if it shares any label with the query, if it has exactly the query's labels, or to the"
    " degree that their labels overlap (Jaccard index).",
)
@click.option(
    "--truth",
    type=click.Path(),
    metavar="FILE",
    help="Ground truth: the database's records with labels, or a TREC qrels file (*.qrels).",
)
@options.id_column
@click.option(
    "--write-qrels",
    type=options.File(),
    metavar="FILE",
    help="Write what is relevant to the queries, by the labels in --truth, as a TREC qrels file.",
)
@options.exclude_self
@click.option("--per-query", is_flag=True, help="Write one line per query instead of one per metric.")
@click.option(
    "--format",
    "layout",
    envvar="RSR_SCORE_FORMAT",
    type=click.Choice(tables.LAYOUTS),
    default="table",
    show_default=True,
    help="Format of the result.",
)
@options.keep_going
@options.verbosity
def score(
    inputs: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    names: tuple[str, ...],
    match: Match,
    truth: str | None,
    id_column: str | None,
    write_qrels: str | None,
    exclude_self: bool,
    per_query: bool,
    layout: str,
    skips: Skips,
) -> None:
    """Compute retrieval metrics for hits; `HELP` is what users read."""
    from rsr_cli.core.records.tables import TableSettings
    from rsr_cli.core.scoring.evaluation import Evaluation, open_truth
    from rsr_cli.core.scoring.means import MEANS_COLUMNS, Means
    from rsr_cli.core.scoring.qrels import is_qrels

    metrics = [Metric.parse(name) for name in names]
    if truth is None and (blind := [metric.name for metric in metrics if metric.measure.needs_truth]):
        raise UsageError(f"{', '.join(blind)} needs --truth: the hits alone do not show what was missed")
    if truth == "-" and (not inputs or "-" in inputs):
        raise UsageError("--truth and the hits cannot both be stdin; name a file")
    if truth is not None and is_qrels(truth) and match != "any":
        raise UsageError("--match compares labels, and a qrels file has none; leave it out")
    if id_column is not None and (truth is None or is_qrels(truth)):
        raise UsageError("--id-column needs --truth with a table of the database's records")
    if write_qrels is not None and (truth is None or is_qrels(truth)):
        raise UsageError("--write-qrels needs --truth with the labels of the database's records")
    if write_qrels is not None and write_qrels in ("-", output):
        raise UsageError("--write-qrels needs a file of its own")
    if write_qrels is not None and match == "jaccard":
        raise UsageError("--match jaccard has grades between 0 and 1, which a qrels file cannot hold")
    with (
        files.Output(output, TABLE, overwrite=overwrite) as out,
        files.Output(write_qrels, QRELS, overwrite=overwrite) if write_qrels else nullcontext() as judgements,
        Progress("hits") as progress,
        open_truth(truth, match, skips, TableSettings(id_column=id_column)) as known,
        Evaluation(known, exclude_self=exclude_self) as evaluation,
    ):
        for batch in streams.read(inputs, skips, progress=progress):
            evaluation.add(batch, skips)
            progress.update(len(batch))
        means = Means(metrics, evaluation.most_relevant() if any(metric.measure.depth for metric in metrics) else 0)
        columns = ["query", *(metric.name for metric in metrics)]
        values = ((query, *means.add(judged)) for query, judged in evaluation.judged(skips))
        if per_query:
            lines = tables.lay_out(columns, values, layout, tables.width(query for query, _ in evaluation.queries()))
        else:
            deque(values, maxlen=0)
            lines = tables.lay_out(MEANS_COLUMNS, means.rows(), layout, max(map(len, columns)))
        for chunk in lines:
            out.write(chunk)
        if judgements:
            for judged in evaluation.qrels():
                judgements.write([judged])
        _warn(evaluation, exclude_self=exclude_self)
        for depth, needy in means.too_shallow().items():
            way = f"; pass -k {depth} to rsr query" if truth else ""
            if exclude_self and evaluation.selves:
                way = "; pass --exclude-self to rsr query too"
            need = f"{', '.join(needy)} need{'s' if len(needy) == 1 else ''} {counted(depth, 'hit')}"
            log.warning("%s per query, and no query has more than %d%s", need, means.deepest, way)


def _warn(evaluation: Evaluation, *, exclude_self: bool) -> None:
    """Warn where hits and ground truth do not fit together."""
    counts = evaluation.counts()

    def some(count: int, of: int, singular: str, plural: str) -> str:
        return f"{count} of {counted(of, 'query')} {singular if count == 1 else plural}"

    if evaluation.selves and not exclude_self:
        own = f"{counted(evaluation.selves, 'hit')} {'is' if evaluation.selves == 1 else 'are'}"
        log.warning("%s the query's own item; pass --exclude-self to ignore such hits", own)
    if counts.without_self:
        own = some(counts.without_self, counts.asked, "does not have its own item", "do not have their own item")
        why = "the ground truth says that it is relevant, so it counts as missed"
        log.warning("%s among the hits: %s; pass --exclude-self if rsr query excluded it", own, why)
    if counts.with_gaps:
        gaps = some(counts.with_gaps, counts.asked, "has", "have")
        log.warning("%s gaps between the ranks of the hits, which were numbered anew", gaps)
    if counts.unjudged:
        left_out = some(counts.unjudged, counts.asked, "is", "are")
        log.warning("%s not judged by the ground truth, and left out", left_out)
    if counts.without_hits:
        worst = some(counts.without_hits, counts.judged, "in the ground truth has", "in the ground truth have")
        log.warning("%s no hits, and the worst value", worst)
    if evaluation.hits and not evaluation.judged_hits:
        irrelevant = f"none of the {counted(evaluation.hits, 'hit')} is judged, so all count as irrelevant"
        log.warning("%s; check that the ground truth has the ids of the hits", irrelevant)
