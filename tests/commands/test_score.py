"""``rsr score``: what it writes for hits, labels and ground truth."""

from __future__ import annotations

import csv
import io
import random
import subprocess
import sys

import ir_measures
import orjson
import pytest
from ir_measures import AP, RR, P, R, nDCG

from rsr_cli.core.scoring.metrics import METRICS, SPELLINGS


@pytest.fixture
def scored(rsr, tmp_path, lines):
    """Return a function that scores hits with ``rsr score`` and returns its rows."""

    def run(hits, *options, truth=None, name="truth.geojsonl"):
        (tmp_path / "hits.geojsonl").write_bytes(lines(hits))
        if truth is not None:
            (tmp_path / name).write_bytes(truth if isinstance(truth, bytes) else lines(truth))
            options = ("--truth", name, *options)
        done = rsr("score", "hits.geojsonl", "--format", "jsonl", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return [orjson.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.mark.parametrize("match", ["any", "exact", "jaccard"])
def test_truth_of_features_agrees_with_ir_measures(match, item, world, scored):
    labels, hits = world()
    truth = [item(name, its) for name, its in labels.items()]
    names = "map_cut@20,p@20,r@20,ndcg@20,mrr@20"
    rows = scored(hits, "--match", match, "--metrics", names, truth=truth)
    queries = {h["properties"]["query"] for h in hits}

    def grade(a, b):  # an integer, as trec_eval requires; multiples of 1/60 are exact for up to three labels each
        shared, total = len(set(a) & set(b)), len(set(a) | set(b))
        return {"any": bool(shared), "exact": set(a) == set(b), "jaccard": 60 * shared // total}[match]

    qrels = [ir_measures.Qrel(q, n, int(grade(labels[q], labels[n]))) for q in queries for n in labels]
    run = [ir_measures.ScoredDoc(h["properties"]["query"], h["id"], -h["properties"]["rank"]) for h in hits]
    theirs = ir_measures.calc_aggregate([AP @ 20, P @ 20, R @ 20, nDCG @ 20, RR @ 20], qrels, run)
    for row, measure in zip(rows, [AP @ 20, P @ 20, R @ 20, nDCG @ 20, RR @ 20], strict=True):
        assert row["value"] == pytest.approx(theirs[measure], rel=1e-9), row["metric"]
        assert row["queries"] == len(queries)


def test_truth_of_qrels_agrees_with_ir_measures_and_counts_queries_without_hits(world, scored):
    labels, hits = world(3)
    queries = sorted({h["properties"]["query"] for h in hits})
    rng = random.Random(5)
    qrels = [
        ir_measures.Qrel(q, n, rng.choice([0, 0, 0, 1, 2])) for q in [*queries, "missing1", "missing2"] for n in labels
    ]
    text = "".join(f"{q.query_id} 0\t{q.doc_id}  {q.relevance}\n" for q in qrels).encode()
    names = "map_cut@20,p@20,r@20,ndcg@20,mrr@20"
    rows = scored(hits, "--metrics", names, truth=text, name="t.qrels")
    run = [ir_measures.ScoredDoc(h["properties"]["query"], h["id"], -h["properties"]["rank"]) for h in hits]
    theirs = ir_measures.calc_aggregate([AP @ 20, P @ 20, R @ 20, nDCG @ 20, RR @ 20], qrels, run)
    for row, measure in zip(rows, [AP @ 20, P @ 20, R @ 20, nDCG @ 20, RR @ 20], strict=True):
        assert row["queries"] == len(queries) + 2
        assert row["value"] == pytest.approx(theirs[measure], rel=1e-9), row["metric"]


def test_lines_can_be_in_any_order(item, world, scored):
    labels, hits = world(4)
    truth = [item(name, its) for name, its in labels.items()]
    names = "map@20,ndcg@20,anmrr"
    in_order = scored(hits, "--metrics", names, truth=truth)
    random.Random(1).shuffle(hits)
    shuffled = scored(hits, "--metrics", names, truth=truth)
    assert [row["value"] for row in shuffled] == pytest.approx([row["value"] for row in in_order], rel=1e-12)


def test_the_rank_counts_not_the_distance(hit, scored):
    hits = [hit("q", 2, "x", ["a"], ["a"]), hit("q", 1, "y", ["b"], ["a"])]
    for one in hits:
        one["properties"]["distance"] = 0
    assert scored(hits, "--metrics", "mrr@5")[0]["value"] == 0.5


def test_exclude_self_leaves_the_query_out_of_hits_and_truth(hit, item, scored):
    labels = {"q": ["a"], "x": ["a"], "y": ["b"]}
    hits = [hit("q", 1, "q", ["a"], ["a"]), hit("q", 2, "y", ["b"], ["a"]), hit("q", 3, "x", ["a"], ["a"])]
    truth = [item(name, its) for name, its in labels.items()]
    names = "mrr@5,r@1,r@2,map_cut@5"
    with_self = scored(hits, "--metrics", names, truth=truth)
    assert [row["value"] for row in with_self] == pytest.approx([1, 1 / 2, 1 / 2, (1 + 2 / 3) / 2])
    without = scored(hits, "--metrics", names, "--exclude-self", truth=truth)
    assert [row["value"] for row in without] == pytest.approx([1 / 2, 0, 1, 1 / 2])
    # One relevant item among two: at rank 1 or 2, each as likely.
    assert without[0]["random"] == pytest.approx(3 / 4)


def test_counts_show_what_the_mean_hides(hit, item, scored):
    hits = [
        hit("q1", 1, "x", ["a"], ["a"]),
        hit("q2", 1, "x", ["a"], ["b"]),
        hit("q3", 1, "x", ["a"], ["z"]),
    ]
    truth = [item("x", ["a"]), item("y", ["b"]), item("unlabelled", None)]
    (row,) = scored(hits, "--metrics", "p@1", truth=truth)
    assert (row["queries"], row["without_relevant"], row["nothing_found"]) == (3, 1, 2)
    assert row["value"] == pytest.approx(1 / 3)
    assert row["random"] == pytest.approx((1 / 3 + 1 / 3 + 0) / 3)
    (row,) = scored(hits, "--metrics", "p@1")
    assert (row["without_relevant"], row["random"], row["nothing_found"]) == (None, None, 2)


def test_per_query_in_all_layouts(rsr, tmp_path, hit, scored):
    hits = [hit("q1", 1, "x", ["a"], ["a"]), hit("q2", 1, "x", ["a"], ["b"]), hit("q2", 2, "y, z", ["b"], ["b"])]
    rows = scored(hits, "--per-query", "--metrics", "map@20,p@2")
    assert rows == [{"query": "q1", "map@20": 1.0, "p@2": 0.5}, {"query": "q2", "map@20": 0.5, "p@2": 0.5}]
    done = rsr("score", "hits.geojsonl", "--format", "csv", "--per-query", "--metrics", "map@20,p@2", cwd=tmp_path)
    parsed = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    assert [(r["query"], float(r["map@20"]), float(r["p@2"])) for r in parsed] == [("q1", 1, 0.5), ("q2", 0.5, 0.5)]
    done = rsr("score", "hits.geojsonl", "--per-query", "--metrics", "map@20,p@2", cwd=tmp_path)
    table = [line.split() for line in done.stdout.decode().splitlines()]
    assert table == [["query", "map@20", "p@2"], ["q1", "1.0000", "0.5000"], ["q2", "0.5000", "0.5000"]]


@pytest.mark.parametrize("layout", ["table", "jsonl", "csv"])
def test_an_empty_stream_is_an_empty_result(rsr, layout):
    done = rsr("score", "--format", layout, input=b"")
    assert done.returncode == 0, done.stderr
    assert b"nan" not in done.stdout.lower()


def test_two_runs_in_one_stream_are_refused(rsr, tmp_path, hit, lines):
    hits = [hit("q", 1, "x", ["a"], ["a"]), hit("q", 1, "y", ["a"], ["a"])]
    (tmp_path / "hits.geojsonl").write_bytes(lines(hits))
    done = rsr("score", "hits.geojsonl", cwd=tmp_path)
    assert done.returncode == 1
    says = "rsr score: hits.geojsonl:2: the query 'q' has two hits of rank 1; pass the hits of one run at a time"
    assert done.stderr.decode() == f"{says}\n"
    done = rsr("score", "hits.geojsonl", "--keep-going", "--metrics", "p@1", cwd=tmp_path)
    assert (done.returncode, done.stderr.decode().splitlines()) == (3, [f"{says}; skipped", "rsr score: 1 skipped"])


def test_a_full_disk_is_reported(tmp_path):
    """More hits than are kept in memory, where no file may outgrow 64 KiB."""
    line = '{"type":"Feature","id":"x","properties":{"query":"%d","rank":%d,"labels":[],"query_labels":[]}}\n'
    (tmp_path / "hits").write_text("".join(line % (n // 1000, n % 1000 + 1) for n in range(400_000)))
    command = f"ulimit -f 64; exec {sys.executable} -m rsr_cli.main score -q hits"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert "temporary file" in line
    assert line.endswith("; set SQLITE_TMPDIR to a directory with more space")


def test_an_item_at_two_ranks_is_refused(rsr, hit, lines):
    """It would count twice, and recall could reach 2."""
    hits = [hit("q", 1, "x", ["a"], ["a"]), hit("p", 1, "x", ["a"], ["a"]), hit("q", 3, "x", ["a"], ["a"])]
    done = rsr("score", "--metrics", "p@1", input=lines(hits))
    says = "rsr score: the query 'q' has an item at two ranks; pass the hits of one run at a time\n"
    assert (done.returncode, done.stderr.decode()) == (1, says)


def test_truth_and_hits_cannot_both_be_stdin(rsr):
    assert rsr("score", "--truth", "-", input=b"").returncode == 2


def test_a_table_of_queries_is_aligned(rsr, hit, lines):
    hits = [hit(name, 1, "x", ["a"], ["a"]) for name in ("q", "a longer name")]
    table = rsr("score", "--per-query", "--metrics", "p@1,map@1", input=lines(hits)).stdout.decode().splitlines()
    assert table == [
        "query             p@1   map@1",
        "q              1.0000  1.0000",
        "a longer name  1.0000  1.0000",
    ]


def test_metrics_that_need_the_truth_are_refused_without_it(rsr):
    done = rsr("score", "--metrics", "map@20,r@20,anmrr", input=b"")
    assert done.returncode == 2
    assert done.stderr.decode().startswith("rsr score: r@20, anmrr needs --truth")


def test_match_is_refused_with_qrels(rsr, tmp_path):
    (tmp_path / "t.qrels").write_text("q 0 x 1\n")
    assert rsr("score", "--truth", "t.qrels", "--match", "exact", input=b"", cwd=tmp_path).returncode == 2
    (tmp_path / "t.qrels").write_text(f"q 0 x 1\nq 0 x {'9' * 400}\n")
    assert b"t.qrels:2: is not a line" in rsr("score", "--truth", "t.qrels", input=b"", cwd=tmp_path).stderr
    (tmp_path / "t.qrels").write_text("q 0 x 1\nq 0 x\n")
    done = rsr("score", "--truth", "t.qrels", input=b"", cwd=tmp_path)
    assert (done.returncode, b"t.qrels:2: " in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ((None, ["a"]), "has no id; pass records of rsr tile, or add an id to each"),
        (("x", ["b"]), "the id 'x' occurs twice; pass to --truth the records that were indexed"),
    ],
)
def test_items_of_the_truth_without_an_id_of_their_own(rsr, tmp_path, extra, says, item, lines):
    (tmp_path / "truth").write_bytes(lines([item("x", ["a"]), item(*extra)]))
    done = rsr("score", "--truth", "truth", input=b"", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode() == f"rsr score: truth:2: {says}\n"


def test_a_query_without_usable_hits_does_not_count(rsr, hit, lines):
    broken = lines([hit("q", 1, "x", None, ["a"]), hit("p", 1, "x", ["a"], ["a"])])
    done = rsr("score", "--keep-going", "--format", "jsonl", "--metrics", "p@1", input=broken)
    assert done.returncode == 3
    assert [orjson.loads(line)["queries"] for line in done.stdout.splitlines()] == [1]


def test_misleading_scores_are_warned_about(rsr, tmp_path, hit, item, lines):
    hits = [hit("q", 1, "q", ["a"], ["a"]), hit("q", 2, "y", ["b"], ["a"])]
    truth = lines([item("q", ["a"]), item("y", ["b"]), item("z", ["a"])])
    (tmp_path / "truth").write_bytes(truth)
    done = rsr("score", "--truth", "truth", "--metrics", "p@2,p@3,anmrr", input=lines(hits), cwd=tmp_path)
    assert done.returncode == 0
    warned = done.stderr.decode().splitlines()
    assert warned[0] == "rsr score: 1 hit is the query's own item; pass --exclude-self to ignore such hits"
    assert [line.split()[2] for line in warned[1:]] == ["p@3", "anmrr"]
    assert warned[1].endswith("p@3 needs 3 hits per query, and no query has more than 2; pass -k 3 to rsr query")
    done = rsr("score", "--truth", "truth", "--metrics", "p@1", "--exclude-self", input=lines(hits), cwd=tmp_path)
    assert done.stderr == b""
    done = rsr("score", "--truth", "truth", "--metrics", "p@2", "--exclude-self", input=lines(hits), cwd=tmp_path)
    assert done.stderr.endswith(b"no query has more than 1; pass --exclude-self to rsr query too\n")
    done = rsr("score", "--metrics", "p@3", input=lines([hit("p", 1, "q", ["a"], ["a"])]))
    assert done.stderr.endswith(b"no query has more than 1\n")  # there may be no more items


def test_help_lists_every_metric_in_one_line(rsr):
    help_lines = rsr("score", "--help").stdout.decode().splitlines()
    listed = {words[0]: line for line in help_lines if (words := line.split()) and line.startswith("  ")}
    for name, measure in METRICS.items():
        line = listed[SPELLINGS[name] + "*" * measure.needs_truth]
        assert line.endswith(measure.summary)
        assert len(line) <= 80


def test_a_hit_that_is_not_in_the_truth_says_what_to_pass(rsr, tmp_path, hit, item, lines):
    (tmp_path / "truth").write_bytes(lines([item("y", ["a"])]))
    done = rsr("score", "--truth", "truth", input=lines([hit("q", 1, "x", ["a"], ["a"])]), cwd=tmp_path)
    says = "<stdin>:1: the hit 'x' is not in the ground truth; pass to --truth the records that were indexed"
    assert (done.returncode, done.stderr.decode()) == (1, f"rsr score: {says}\n")
