"""``rsr score``: what it writes for hits, labels and ground truth."""

from __future__ import annotations

import csv
import io
import random
import subprocess
import sys

import ir_measures
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
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


@pytest.fixture
def mean_of(call, tmp_path, hit, lines):
    """Return a function that scores (query, rank, item) by (query, item, grade) in this process: metric -> row."""

    def run(hits, qrels, names, *options):
        (tmp_path / "hits").write_bytes(lines([hit(*one, None, None) for one in hits]))
        (tmp_path / "t.qrels").write_text("".join(f"{query} 0 {item} {grade}\n" for query, item, grade in qrels))
        done = call(
            "score",
            tmp_path / "hits",
            "--truth",
            tmp_path / "t.qrels",
            "--metrics",
            names,
            *options,
            "--format",
            "jsonl",
        )
        rows = [orjson.loads(line) for line in done.splitlines()]
        return {row["metric"]: row for row in rows} if "--per-query" not in options else {r["query"]: r for r in rows}

    return run


@pytest.mark.parametrize("seed", range(6))
def test_odd_runs_and_qrels_agree_with_ir_measures(mean_of, seed):
    """Gaps in the ranks, any order of lines, few hits, queries without judgements, relevant items or hits, grades."""
    rng = random.Random(seed)
    hits, qrels = [], []
    for number in range(30):
        query = f"q{number}"
        items = rng.sample([f"d{n}" for n in range(40)], rng.choice([0, 1, 3, 15, 40]))
        hits += zip([query] * len(items), sorted(rng.sample(range(1, 10**6), len(items))), items, strict=True)
        grades = rng.choice([(), (0, -1), (0, 0, 1), (-2, -1, 0, 1, 2, 3), (1,)])
        qrels += [(query, f"d{n}", rng.choice(grades)) for n in rng.sample(range(45), 12 if grades else 0)]
    rng.shuffle(hits)
    measures = [make @ k for k in (1, 5, 20, 1000) for make in (AP, P, R, nDCG, RR)]
    names = [{"AP": "map_cut", "RR": "mrr"}.get(str(m.NAME), str(m.NAME).lower()) + f"@{m['cutoff']}" for m in measures]
    rows = mean_of(hits, qrels, ",".join(names))
    by_query = mean_of(hits, qrels, ",".join(names), "--per-query")
    judged = [ir_measures.Qrel(query, item, grade) for query, item, grade in qrels]
    run = [ir_measures.ScoredDoc(query, item, -float(rank)) for query, rank, item in hits]
    theirs = ir_measures.calc_aggregate(measures, judged, run)
    for name, measure in zip(names, measures, strict=True):
        assert rows[name]["queries"] == len({query for query, *_ in qrels}) == len(by_query)
        assert rows[name]["value"] == pytest.approx(theirs[measure], rel=1e-9), name
    for found in ir_measures.iter_calc(measures, judged, run):
        name = names[measures.index(found.measure)]
        assert by_query[found.query_id][name] == pytest.approx(found.value, rel=1e-9), (found, name)


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
    done = rsr("score", "--truth", "truth", "--metrics", "p@3,r@3,map@2", input=lines(hits), cwd=tmp_path)
    assert b"score: p@3, r@3 need 3 hits per query, and no query has more than 2; pass -k 3" in done.stderr
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


def test_the_truth_is_a_table_with_ids_of_its_own_name(rsr, tmp_path, hit, item, lines, scored):
    hits = [hit("q", rank, name, None, None) for rank, name in enumerate(("a", "b", "c"), 1)]
    labels = {"q": ["x"], "a": ["x"], "b": ["y"], "c": ["x"]}
    expected = scored(hits, truth=[item(name, labels=some) for name, some in labels.items()])
    (tmp_path / "hits.geojsonl").write_bytes(lines(hits))
    pq.write_table(pa.table({"plot": [*labels], "labels": [*labels.values()]}), tmp_path / "truth.parquet")
    settings = ("--truth", "truth.parquet", "--id-column", "plot", "--format", "jsonl")
    done = rsr("score", "hits.geojsonl", *settings, cwd=tmp_path)
    assert [orjson.loads(line) for line in done.stdout.splitlines()] == expected
    (tmp_path / "x.qrels").write_text("q 0 a 1\n")
    for truth in ((), ("--truth", "x.qrels")):
        done = rsr("score", "hits.geojsonl", "--id-column", "plot", *truth, cwd=tmp_path)
        assert (done.returncode, b"--id-column needs --truth with a table" in done.stderr) == (2, True)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_a_truth_that_holds_only_the_query(exclude_self, hit, item, scored):
    """Alone it is a perfect hit; excluded, the database is empty: every metric has its worst value, at random too."""
    names = [spelling.replace("K", "3") for spelling in SPELLINGS.values()]
    options = ("--exclude-self",) if exclude_self else ()
    rows = scored([hit("q", 1, "q", None, ["a"])], "--metrics", ",".join(names), *options, truth=[item("q", ["a"])])
    for row in rows:
        best = {"p@3": 1 / 3, "anmrr": 0}.get(row["metric"], 1)
        worst = 1 if row["metric"] == "anmrr" else 0
        assert row["value"] == row["random"] == pytest.approx(worst if exclude_self else best), row
        assert (row["queries"], row["without_relevant"], row["nothing_found"]) == (1, *[int(exclude_self)] * 2)


def test_a_truth_without_labels_is_no_truth(rsr, tmp_path, hit, item, lines):
    """Every score would be 0. Some records without labels are counted."""
    hits = lines([hit("q", 1, "x", ["a"], ["a"])])
    (tmp_path / "none").write_bytes(lines([item("x", None), item("y", None)]))
    done = rsr("score", "--truth", "none", input=hits, cwd=tmp_path)
    says = "none: no record has labels; label the tiles before rsr index, or pass the labels to --truth"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", f"rsr score: {says}\n")
    (tmp_path / "some").write_bytes(lines([item("x", ["a"]), item("y", None), item("z", [])]))
    done = rsr("score", "--truth", "some", "--metrics", "r@1", "--format", "jsonl", input=hits, cwd=tmp_path)
    assert orjson.loads(done.stdout)["value"] == 1
    says = "1 of 3 records in the ground truth has no labels, and counts as irrelevant"
    assert (done.returncode, done.stderr.decode()) == (0, f"rsr score: {says}\n")


def test_gaps_in_the_ranks_are_closed_with_a_warning(rsr, hit, lines):
    """The 3rd, 6th, ... of 40 hits, every other one relevant, as a filter leaves them."""
    kept = [hit("q", rank, f"d{rank}", ["a" if rank % 2 else "b"], ["a"]) for rank in range(3, 41, 3)]
    done = rsr("score", "--format", "jsonl", "--metrics", "p@13,mrr@1", input=lines([*kept, hit("r", 1, "d", [], [])]))
    assert [orjson.loads(line)["value"] for line in done.stdout.splitlines()] == [7 / 13 / 2, 1 / 2]
    says = "rsr score: 1 of 2 queries has gaps between the ranks of the hits, which were numbered anew\n"
    assert (done.returncode, done.stderr.decode()) == (0, says)


@pytest.fixture
def complaints(rsr, tmp_path, hit, lines):
    """Return a function that scores (query, rank, item) by a qrels file and returns the status and the messages."""

    def run(hits, qrels, *options):
        (tmp_path / "t.qrels").write_text("".join(f"{line}\n" for line in qrels))
        records = lines([hit(*one, None, None) for one in hits])
        done = rsr("score", "--truth", "t.qrels", "--metrics", "map_cut@1", *options, input=records, cwd=tmp_path)
        assert bool(done.stdout) == (done.returncode == 0)
        return done.returncode, done.stderr.decode().removeprefix("rsr score: ").splitlines()

    return run


def test_judgements_of_other_ids_do_not_pass_in_silence(complaints):
    hits = [("q1", 1, "d1"), ("q2", 1, "d3")]
    assert complaints(hits, ["q1 0 d1 1", "q2 0 d3 0"]) == (0, [])
    assert complaints(hits, ["q1 0 d1 1"]) == (0, ["1 of 2 queries is not judged by the ground truth, and left out"])
    pass_others = "pass to --truth the qrels of these queries, with the ids that the hits state as query"
    none = "the ground truth does not judge any of the 2 queries, such as 'q1'"
    assert complaints(hits, ["1 0 d1 1"]) == (1, [f"{none}, but '1', for example; {pass_others}"])
    assert complaints(hits, []) == (1, [f"{none}: it is empty; {pass_others}"])
    assert complaints([], ["q1 0 d1 1"])[0] == 0
    assert complaints(hits[:1], ["q1 0 d1 1", "q2 0 d1 1"]) == (
        0,
        ["1 of 2 queries in the ground truth has no hits, and the worst value"],
    )
    assert complaints(hits, ["q1 0 D1 1", "q2 0 D3 1"]) == (
        0,
        [
            "none of the 2 hits is judged, so all count as irrelevant; check that the ground truth has the ids of the"
            " hits"
        ],
    )


def test_a_query_that_counts_as_missed_by_itself_is_warned_about(complaints):
    """Hits of ``rsr query --exclude-self``, but judgements that count the query's own item."""
    hits, qrels = [("d1", 1, "d2"), ("d2", 1, "d1")], ["d1 0 d1 1", "d1 0 d2 1", "d2 0 d1 1"]
    says = (
        "1 of 2 queries does not have its own item among the hits: the ground truth says that it is relevant, so it"
        " counts as missed; pass --exclude-self if rsr query excluded it"
    )
    assert complaints(hits, qrels) == (0, [says])
    assert complaints(hits, qrels, "--exclude-self") == (0, [])


@pytest.mark.parametrize("layout", ["table", "csv", "jsonl"])
def test_ids_reach_the_terminal_as_text_only(rsr, hit, lines, layout):
    names = ["\x1b[2J\x1b]0;x\x07", "two\nlines", "\u202egpj.exe", "=1+1", "@a", "-5", "a=b", "\t=x", "é 森"]
    hits = [hit(name, 1, "x", ["a"], ["a"]) for name in names]
    done = rsr("score", "--per-query", "--metrics", "p@1", "--format", layout, input=lines(hits))
    assert done.returncode == 0
    written = done.stdout.decode().splitlines()
    if layout == "jsonl":
        assert [orjson.loads(line)["query"] for line in written] == names
        assert not set(done.stdout) & {*range(32)} - {*b"\n"}
        return
    assert all(line.isprintable() for line in written)
    assert len(written) == len(names) + 1
    shown = [r"\x1b[2J\x1b]0;x\x07", r"two\nlines", r"\u202egpj.exe", "=1+1", "@a", "-5", "a=b", r"\t=x", "é 森"]
    if layout == "table":
        assert len({len(line) for line in written}) == 1  # aligned
        assert [line.rsplit(maxsplit=1)[0] for line in written[1:]] == shown
    else:
        formulas = {"=1+1", "@a", r"\t=x"}
        assert [row[0] for row in csv.reader(written[1:])] == [f"'{one}" if one in formulas else one for one in shown]


def test_messages_reach_the_terminal_as_text_only(rsr, tmp_path, hit, item, lines):
    """Text of records, of paths and of the command line, in an error, a skipped record and a warning."""
    (tmp_path / "tru\nth\x1b[31m").write_bytes(lines([item("x", ["a"]), item("\x1b[2J\u202e", 5)]))
    done = rsr("score", "--truth", "tru\nth\x1b[31m", input=b"", cwd=tmp_path)
    assert (done.returncode, done.stderr.decode()) == (
        1,
        "rsr score: tru\\nth\\x1b[31m:2: its labels must be a list of strings, and are 5; "
        'write a list of one string too, as in ["lake"]\n',
    )
    (tmp_path / "hits\x1b]0;x\x07").write_bytes(lines([hit("q", 1, "\x1b[2J", None, ["a"])]))
    done = rsr("score", "hits\x1b]0;x\x07", "--keep-going", "--debug", cwd=tmp_path)
    assert done.returncode == 3
    assert all(line.isprintable() for line in done.stderr.decode().splitlines())
    assert r"hits\x1b]0;x\x07:1: the hit '\x1b[2J' has no labels" in done.stderr.decode()
    done = rsr("score", "--metrics", "p@1\x1b[2J", "--debug", input=b"")
    assert done.returncode == 2
    assert all(line.isprintable() for line in done.stderr.decode().splitlines())
