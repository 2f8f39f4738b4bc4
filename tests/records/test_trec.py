"""TREC files in and out, beside ir_measures, which computes by trec_eval."""

from __future__ import annotations

import ir_measures
import numpy as np
import orjson
import pytest
from ir_measures import AP, RR, P, R, nDCG
from support import code_records, drawn_lines, read_all

from rsr_cli.core.errors import RecordError, RsrError, Skips
from rsr_cli.core.records import streams

RNG = np.random.default_rng(9)
ORACLES = {"map_cut@5": AP @ 5, "p@5": P @ 5, "r@5": R @ 5, "ndcg@5": nDCG @ 5, "mrr@30": RR}


@pytest.fixture(scope="module")
def lake(rsr, tmp_path_factory):
    """Build an index of codes of few bits, so that distances tie, and search it for some of its rows."""
    folder = tmp_path_factory.mktemp("trec")
    records = code_records(RNG.integers(0, 256, (300, 1), np.uint8), 8)
    for i, record in enumerate(records):
        record["properties"]["labels"] = [f"c{RNG.integers(4)}"] if i % 9 else ["rare", f"r{i}"]
    (folder / "codes.geojsonl").write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    (folder / "asked.geojsonl").write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records[:60]))
    assert rsr("index", "codes.geojsonl", "-o", "lake.rsr", cwd=folder).returncode == 0
    for ending in ("geojsonl", "run"):
        done = rsr("query", "lake.rsr", "asked.geojsonl", "-k", "12", "-o", f"hits.{ending}", cwd=folder)
        assert (done.returncode, done.stderr) == (0, b"")
    return folder


def scores(rsr, folder, *arguments):
    metrics = ",".join(ORACLES)
    done = rsr("score", *arguments, "--per-query", "--format", "jsonl", "--metrics", metrics, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [orjson.loads(line) for line in done.stdout.splitlines()]


def test_a_run_has_the_hits_in_their_order(lake):
    hits = [orjson.loads(line) for line in (lake / "hits.geojsonl").read_bytes().splitlines()]
    run = [line.split() for line in (lake / "hits.run").read_text().splitlines()]
    assert [(line[0], line[2], int(line[3])) for line in run] == [
        (hit["properties"]["query"], hit["id"], hit["properties"]["rank"]) for hit in hits
    ]
    assert {(line[1], line[5]) for line in run} == {("Q0", "rsr")}
    back = [record for batch in streams.read([str(lake / "hits.run")], Skips()) for record in batch.records]
    assert [(r["properties"]["query"], r["id"], r["properties"]["rank"]) for r in back] == [
        (line[0], line[2], int(line[3])) for line in run
    ]


@pytest.mark.parametrize("exclude", [[], ["--exclude-self"]])
def test_trec_eval_computes_the_same(rsr, lake, exclude):
    qrels = f"t{len(exclude)}.qrels"
    truth = ["--truth", "codes.geojsonl", "--match", "any", *exclude]
    ours = scores(rsr, lake, "hits.geojsonl", *truth, "--write-qrels", qrels)
    assert scores(rsr, lake, "hits.run", *truth) == ours
    run = [hit for hit in ir_measures.read_trec_run(str(lake / "hits.run")) if not (exclude and hit[0] == hit[1])]
    judged = list(ir_measures.read_trec_qrels(str(lake / qrels)))
    measured = {}
    for found in ir_measures.iter_calc([*ORACLES.values()], judged, run):
        measured[found.query_id, str(found.measure)] = found.value
    assert {row["query"] for row in ours} == {query for query, _ in measured}
    for row in ours:
        for name, measure in ORACLES.items():
            assert row[name] == pytest.approx(measured[row["query"], str(measure)], abs=1e-9), (row, name)


def test_a_run_of_others_is_read_in_the_order_of_trec_eval(rsr, tmp_path):
    """By score as a 32-bit float, and by id, the greatest first; the ranks do not count."""
    lines = []
    for query in range(20):
        for rank, item in enumerate(RNG.permutation(30)):
            score = [0.5, 0.5 + 1e-12, RNG.integers(3), -2e-3][RNG.integers(4)]
            lines.append(f"q{query} Q0 d{item} {rank} {score} system")
    (tmp_path / "x.run").write_text("\n".join(lines))
    judged = [(f"q{q}", f"d{d}", int(RNG.integers(0, 3))) for q in range(20) for d in range(0, 30, 2)]
    (tmp_path / "x.qrels").write_text("".join(f"{q} 0 {d} {grade}\n" for q, d, grade in judged))
    ours = scores(rsr, tmp_path, "x.run", "--truth", "x.qrels")
    run = list(ir_measures.read_trec_run(str(tmp_path / "x.run")))
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "x.qrels")))
    theirs = {(m.query_id, str(m.measure)): m.value for m in ir_measures.iter_calc([*ORACLES.values()], qrels, run)}
    for row in ours:
        for name, measure in ORACLES.items():
            assert row[name] == pytest.approx(theirs[row["query"], str(measure)], abs=1e-6), (row, name)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("q Q0 a 1 2 x\nq Q0 b 2 1\n", "2: is not a line of a run file: query Q0 item rank score tag"),
        ("q Q0 a 1 nan x\n", "1: is not a line of a run file: query Q0 item rank score tag"),
        ("q Q0 a 1 2 x\np Q0 a 1 1 x\nq Q0 b 2 1 x\n", "3: is of the query 'q', whose other lines stand further above"),
    ],
)
def test_lines_that_are_none(tmp_path, lines, says):
    (tmp_path / "x.run").write_text(lines)
    with pytest.raises((RecordError, RsrError)) as caught:
        read_all(tmp_path / "x.run")
    assert str(caught.value).startswith(f"{tmp_path}/x.run:{says}")


def test_what_no_run_holds(rsr, tmp_path):
    done = rsr("binarize", "-o", "x.run", input=drawn_lines(1), cwd=tmp_path)
    says = b"is not a hit, and a run file holds nothing else; pass the records through rsr query\n"
    assert (done.returncode, done.stderr.partition(b": <stdin>:1: ")[2]) == (1, says)
    hit = {"type": "Feature", "id": "a b", "geometry": None, "properties": {"query": "q", "rank": 1, "distance": 0}}
    what = "which separate by white space: 'a b'"
    with pytest.raises(RecordError, match=what), streams.Writer(str(tmp_path / "y.run"), Skips()) as out:
        out.write_lines([orjson.dumps(hit)])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "z.run").write_text("q Q0 a 1 2 x\n")
    done = rsr("binarize", "z.run", cwd=tmp_path)
    assert (
        done.stderr
        == b"rsr binarize: z.run:1: is a hit, and hits have no embedding; pass the records that were indexed\n"
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--write-qrels needs --truth with the labels of the database's records"),
        (["--truth", "x.qrels"], "--write-qrels needs --truth with the labels of the database's records"),
        (["--truth", "x", "--match", "jaccard"], "has grades between 0 and 1"),
        (["--truth", "x", "-o", "o.qrels"], "--write-qrels needs a file of its own"),
    ],
)
def test_qrels_are_made_of_labels(rsr, options, says):
    done = rsr("score", "--write-qrels", "o.qrels", *options, input=b"")
    assert done.returncode == 2
    assert says in done.stderr.decode()
