"""The index against a brute-force search, ties included, and against faiss's own files."""

from __future__ import annotations

import sqlite3

import faiss
import numpy as np
import orjson
import pytest
from support import batches, code, embedding, feature

from rsr_cli.core.errors import FingerprintError, IndexFormatError, OutputError, RecordError, RsrError, Skips
from rsr_cli.core.index.build import build
from rsr_cli.core.index.reading import Index
from rsr_cli.core.records.space import KINDS


def nested(depth):
    """A list in a list in a list."""
    return [] if depth == 0 else [nested(depth - 1)]


def code_records(codes: np.ndarray, bits: int, names=None) -> list[dict]:
    return [feature(names[i] if names else f"t{i}", code=code(packed, bits)) for i, packed in enumerate(codes)]


def embedding_records(vectors: np.ndarray) -> list[dict]:
    return [feature(f"t{i}", embedding=embedding(v, "m", "emb")) for i, v in enumerate(vectors)]


def make(path, records, metric=None, **kwargs) -> Index:
    total = sum(build(batches(records, ("embedding",) if metric else KINDS), path, metric, Skips(), **kwargs))
    assert total == len(records)
    return Index(path)


def brute_hamming(queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.array([[bin(int.from_bytes(q ^ c, "big")).count("1") for c in codes] for q in queries])


def brute(metric: str, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Distances in extended precision, in a formulation of their own."""
    q, x = queries.astype(np.longdouble)[:, None], rows.astype(np.longdouble)[None]
    if metric == "l1":
        return np.abs(q - x).sum(-1)
    if metric == "l2":
        return np.sqrt(((q - x) ** 2).sum(-1))
    if metric == "cosine":
        return 1 - (q * x).sum(-1) / np.sqrt((q**2).sum(-1) * (x**2).sum(-1))
    return -(q * x).sum(-1)


def ranking(distances: np.ndarray, k: int) -> list[list[int]]:
    return [sorted(range(len(row)), key=lambda i, row=row: (row[i], i))[:k] for row in distances]


@pytest.mark.parametrize("bits", [32, 768, 100])
@pytest.mark.parametrize("threads", [1, 2])
def test_codes_rank_as_brute_force_with_ties(tmp_path, bits, threads):
    rng = np.random.default_rng(bits)
    n_bytes = (bits + 7) // 8
    codes = rng.integers(0, 256, (700, n_bytes), dtype=np.uint8)
    codes[:, :-1] &= rng.integers(0, 2, n_bytes - 1, dtype=np.uint8) * 255 if bits == 32 else 255  # masses of ties
    codes[100:400] = codes[5]
    queries = np.concatenate([codes[[5, 150, 699]], rng.integers(0, 256, (30, n_bytes), dtype=np.uint8)])
    distances = brute_hamming(queries, codes)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        with make(tmp_path / "i.rsr", code_records(codes, bits)) as index:
            for k in (1, 20, 250, 699, 700, 2000):
                together = index.search(queries, k)
                assert [rows.tolist() for _, rows in together] == ranking(distances, k)
                for (near, rows), all_ in zip(together, distances, strict=True):
                    assert near.tolist() == all_[rows].tolist()
                alone = [index.search(query[None], k)[0] for query in queries]
                assert [rows.tolist() for _, rows in alone] == [rows.tolist() for _, rows in together]
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("metric", ["l1", "l2", "dot"])
def test_embeddings_rank_as_brute_force_with_ties(tmp_path, metric):
    rng = np.random.default_rng(3)
    # Integers: every distance is exact in any precision, so a tie is a tie for every way to compute it.
    rows = rng.integers(-3, 4, (900, 24)).astype(np.float32)
    rows[200:500] = rows[7]
    queries = np.concatenate([rows[[7, 300]], rng.integers(-3, 4, (40, 24)).astype(np.float32)])
    distances = brute(metric, queries, rows)
    with make(tmp_path / "i.rsr", embedding_records(rows), metric) as index:
        for k in (1, 20, 333, 900):
            found = index.search(queries, k)
            assert [hit_rows.tolist() for _, hit_rows in found] == ranking(distances, k)
            np.testing.assert_allclose(
                np.stack([near for near, _ in found]), np.sort(distances, axis=1)[:, :k].astype(float), rtol=1e-12
            )


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine", "dot"])
def test_nearly_equal_embeddings_rank_as_in_exact_arithmetic(tmp_path, metric):
    """Differences far below float32's rounding of a distance: faiss alone gets their order wrong."""
    rng = np.random.default_rng(11)
    base = rng.standard_normal(768).astype(np.float32) * 30
    rows = np.tile(base, (600, 1))
    rows[np.arange(600), rng.integers(0, 768, 600)] += rng.standard_normal(600).astype(np.float32) * 1e-4
    queries = rng.standard_normal((25, 768)).astype(np.float32)
    with make(tmp_path / "i.rsr", embedding_records(rows), metric) as index:
        stored = np.stack([index.vector(i) for i in range(600)])
        distances = brute(metric, queries, stored).astype(np.float64)
        for k in (1, 20):
            together = index.search(queries, k)
            alone = [index.search(query[None], k)[0] for query in queries]
            for (near, hits), (near_alone, hits_alone), exact in zip(together, alone, distances, strict=True):
                assert hits.tolist() == hits_alone.tolist()
                assert near.tolist() == near_alone.tolist()
                # only float64's own rounding, of a cosine before it is taken from 1, may part ours from the exact order
                np.testing.assert_allclose(exact[hits], np.sort(exact)[:k], rtol=1e-13, atol=1e-15)


def test_cosine_is_one_minus_the_cosine(tmp_path):
    rows = np.array([[3, 4], [4, 3], [-3, -4], [0, 0], [30, 40]], np.float32)
    with make(tmp_path / "i.rsr", embedding_records(rows), "cosine") as index:
        ((near, hits),) = index.search(np.array([[6, 8]], np.float32), 5)
        assert hits.tolist() == [0, 4, 1, 3, 2]
        np.testing.assert_allclose(near, [0, 0, 1 - 24 / 25, 1, 2], atol=1e-6)


@pytest.mark.parametrize("metric", ["hamming", "l1", "l2", "dot"])
@pytest.mark.parametrize("k", [None, 10])
def test_radius_is_a_closed_ball(tmp_path, metric, k):
    rng = np.random.default_rng(5)
    if metric == "hamming":
        rows = rng.integers(0, 256, (1500, 4), dtype=np.uint8)
        index = make(tmp_path / "i.rsr", code_records(rows, 32))
        distances = brute_hamming(rows[:20], rows)
    else:
        rows = rng.integers(-2, 3, (1500, 12)).astype(np.float32)
        index = make(tmp_path / "i.rsr", embedding_records(rows), metric)
        distances = brute(metric, rows[:20], rows).astype(np.float64)
    with index:
        for radius in (float(np.sort(distances[0])[3]), float(np.median(distances)), float(distances.min()) - 1, 1e9):
            expected = [
                [i for i in row if all_[i] <= radius]
                for row, all_ in zip(ranking(distances, 1500), distances, strict=True)
            ]
            found = [hits.tolist() for _, hits in index.search(rows[:20], k, radius)]
            assert found == [hits[:k] for hits in expected]


@pytest.mark.parametrize("kind", ["code", "l1", "l2", "dot"])
def test_vectors_are_a_numpy_array_that_faiss_ranks_alike(tmp_path, kind):
    rng = np.random.default_rng(1)
    if kind == "code":
        rows = rng.integers(0, 256, (777, 96), dtype=np.uint8)
        index = make(tmp_path / "i.rsr", code_records(rows, 768))
        theirs = faiss.IndexBinaryFlat(768)
    else:
        rows = rng.standard_normal((777, 40)).astype(np.float32)
        index = make(tmp_path / "i.rsr", embedding_records(rows), kind)
        metrics = {"l1": faiss.METRIC_L1, "l2": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT}
        theirs = faiss.IndexFlat(40, metrics[kind])
    stored = np.load(tmp_path / "i.rsr" / "segments" / "000001" / "vectors.npy")
    assert stored.dtype == rows.dtype
    np.testing.assert_array_equal(stored, rows)
    theirs.add(stored)
    with index:
        found = [hits.tolist() for _, hits in index.search(rows[:50], 20)]
    assert found == theirs.search(rows[:50], 20)[1].tolist()


def test_any_sqlite_client_reads_the_records(tmp_path):
    records = code_records(np.zeros((3, 4), np.uint8), 32)
    records[1] |= {"bbox": [1.0, 2.0, 3.0, 4.0]}
    records[1]["properties"] |= {"datetime": "2020-01-01T00:00:00Z", "labels": ["a", "b"], "mine": {"x": 1}}
    make(tmp_path / "i.rsr", records)
    with sqlite3.connect(tmp_path / "i.rsr" / "segments" / "000001" / "records.sqlite") as database:
        row = database.execute("SELECT * FROM records WHERE id = 't1'").fetchone()
        labels = database.execute("SELECT name FROM labels ORDER BY number").fetchall()
    assert row[:2] == (1, "t1")
    assert orjson.loads(row[2])["properties"]["mine"] == {"x": 1}
    assert "code" not in orjson.loads(row[2])["properties"]
    assert labels == [("a",), ("b",)]


def test_the_same_stream_makes_the_same_bytes_and_moves(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (50, 8), dtype=np.uint8)
    make(tmp_path / "a.rsr", code_records(codes, 64))
    make(tmp_path / "b.rsr", code_records(codes, 64))
    files = sorted(path.relative_to(tmp_path / "a.rsr") for path in (tmp_path / "a.rsr").rglob("*.*"))
    assert len(files) == 7
    for name in files:
        assert (tmp_path / "a.rsr" / name).read_bytes() == (tmp_path / "b.rsr" / name).read_bytes()
    (tmp_path / "a.rsr").rename(tmp_path / "strange name? #1.rsr")
    with Index(tmp_path / "strange name? #1.rsr") as index:
        assert index.record(index.row_of("t7"))[0] == "t7"


def test_an_id_that_comes_twice_is_refused_and_leaves_nothing(tmp_path):
    records = code_records(np.zeros((5, 4), np.uint8), 32, ["a", "b", "c", "b", "d"])
    with pytest.raises(RsrError, match="'b' occurs twice, in records 2 and 4"):
        make(tmp_path / "i.rsr", records)
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_ids_too(tmp_path):
    with make(tmp_path / "i.rsr", code_records(np.zeros((3, 4), np.uint8), 32, [7, 8, 9])) as index:
        assert orjson.loads(index.record(index.row_of("8"))[1])["id"] == 8


def test_vectors_of_two_spaces_are_refused(tmp_path):
    records = code_records(np.zeros((4, 4), np.uint8), 32)
    records[3]["properties"]["code"]["fingerprint"] = "others"
    with pytest.raises(FingerprintError, match=r"in:4: .*others.*codes"):
        make(tmp_path / "i.rsr", records)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_index_is_kept_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "i.rsr"
    make(path, code_records(np.zeros((3, 4), np.uint8), 32))
    with pytest.raises(OutputError, match="exists already") as caught:
        make(path, code_records(np.zeros((2, 4), np.uint8), 32))
    assert caught.value.remedy == "overwrite"
    broken = code_records(np.zeros((2, 4), np.uint8), 32, ["x", "x"])
    with pytest.raises(RsrError):
        make(path, broken, overwrite=True)
    assert Index(path).manifest.count == 3
    assert make(path, code_records(np.zeros((2, 4), np.uint8), 32), overwrite=True).manifest.count == 2
    assert [p.name for p in tmp_path.iterdir()] == ["i.rsr"]
    assert [p.name for p in (path / "segments").iterdir()] == ["000002"]


def test_overwrite_does_not_remove_what_is_no_index(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="is not an index"):
        make(precious, code_records(np.zeros((1, 4), np.uint8), 32), overwrite=True)
    assert (precious / "thesis.tex").exists()


def test_an_empty_stream_makes_an_empty_index(tmp_path):
    with make(tmp_path / "i.rsr", []) as index:
        assert index.manifest.count == 0
        assert [len(rows) for _, rows in index.search(np.zeros((2, 96), np.uint8), 20)] == [0, 0]


def test_embeddings_are_indexed_when_a_metric_is_given(tmp_path):
    records = code_records(np.zeros((3, 4), np.uint8), 32)
    for record, vector in zip(records, np.eye(3, dtype=np.float32), strict=True):
        record["properties"]["embedding"] = embedding(vector, "m", "emb")
    with make(tmp_path / "codes.rsr", [orjson.loads(orjson.dumps(r)) for r in records]) as index:
        assert (index.manifest.space.kind, index.manifest.metric) == ("code", "hamming")
    with make(tmp_path / "floats.rsr", records, "l2") as index:
        assert (index.manifest.space.kind, index.manifest.metric) == ("embedding", "l2")


def test_queries_of_another_space_are_refused_by_both_names(tmp_path):
    with make(tmp_path / "i.rsr", embedding_records(np.eye(4, dtype=np.float32))) as index:
        (batch,) = batches([feature("q", embedding=embedding(np.ones(4), "m", "elsewhere"))])
        with pytest.raises(FingerprintError, match=r"elsewhere.*emb"):
            index.binarizer_for(batch.space)


SEGMENT = "segments/000001"


@pytest.mark.parametrize("name", ["manifest.json", f"{SEGMENT}/vectors.npy", f"{SEGMENT}/records.sqlite"])
def test_a_damaged_index_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / "i.rsr"
    make(path, code_records(np.zeros((30, 4), np.uint8), 32))
    (path / name).write_bytes((path / name).read_bytes()[:40])
    with pytest.raises(IndexFormatError) as caught, Index(path) as index:
        index.record(3)
    assert "\n" not in str(caught.value)
    (path / name).unlink()
    with pytest.raises(IndexFormatError), Index(path) as index:
        index.record(3)


def test_an_index_of_a_later_version_is_refused(tmp_path):
    path = tmp_path / "i.rsr"
    make(path, code_records(np.zeros((3, 4), np.uint8), 32))
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_bytes(orjson.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(IndexFormatError, match="schema 99"):
        Index(path)


def test_long_and_short_embeddings(tmp_path):
    """Squares that float32 cannot hold: cosine does not care, l2 and dot refuse."""
    directions = np.random.default_rng(2).standard_normal((20, 8))
    for size in (1e25, 1e-25):
        rows = (directions * size).astype(np.float32)
        with make(tmp_path / f"{size}.rsr", embedding_records(rows), "cosine") as index:
            found = index.search(rows, 3)
            assert [hits[0] for _, hits in found] == list(range(20))
            np.testing.assert_allclose([near[0] for near, _ in found], 0, atol=1e-12)
    for metric in ("l1", "l2", "dot"):
        with pytest.raises(RsrError, match="too long for float32"):
            make(tmp_path / "x.rsr", embedding_records((directions * 1e25).astype(np.float32)), metric)
    assert not (tmp_path / "x.rsr").exists()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("id", None, "no id"),
        ("id", ["a"], "neither text nor a number"),
        ("id", True, "neither text nor a number"),
        ("bbox", [1, 2, 3], "not four numbers"),
        ("bbox", [1, 2, 3, None], "not four numbers"),
        ("bbox", "all", "not four numbers"),
        ("datetime", {"a": 1}, "not text"),
        ("deep", nested(400), "cannot be written as JSON"),
    ],
)
def test_records_that_cannot_be_indexed_are_named_or_skipped(tmp_path, field, value, says):
    def records():
        made = code_records(np.arange(12, dtype=np.uint8).reshape(3, 4), 32)
        (made[1]["properties"] if field == "datetime" else made[1])[field] = value
        return batches(made)

    with pytest.raises(RecordError, match=f"in:2: .*{says}"):
        sum(build(records(), tmp_path / "i.rsr", None, Skips()))
    assert sum(build(records(), tmp_path / "i.rsr", None, Skips(keep_going=True))) == 2
    with Index(tmp_path / "i.rsr") as index:
        assert [index.record(row)[0] for row in (0, 1)] == ["t0", "t2"]
        assert index.vector(1).tolist() == [8, 9, 10, 11]


def test_a_first_record_without_a_vector_can_be_skipped(tmp_path):
    made = [feature("none"), *code_records(np.zeros((2, 4), np.uint8), 32)]
    skips = Skips(keep_going=True)
    assert sum(build(batches(made, skips=skips), tmp_path / "i.rsr", None, skips)) == 2


def test_what_another_job_made_meanwhile_is_kept(tmp_path):
    path = tmp_path / "i.rsr"

    def slowly():
        yield from batches(code_records(np.zeros((2, 4), np.uint8), 32))
        path.mkdir()
        (path / "theirs").write_text("precious")

    with pytest.raises(OutputError, match="created by another process meanwhile"):
        sum(build(slowly(), path, None, Skips()))
    assert [p.name for p in tmp_path.rglob("*")] == ["i.rsr", "theirs"]


def test_a_link_to_an_index_stays_one(tmp_path):
    make(tmp_path / "real.rsr", code_records(np.zeros((3, 4), np.uint8), 32))
    (tmp_path / "link.rsr").symlink_to("real.rsr")
    assert make(tmp_path / "link.rsr", code_records(np.zeros((2, 4), np.uint8), 32), overwrite=True).manifest.count == 2
    assert (tmp_path / "link.rsr").is_symlink()


def test_an_item_found_again_carries_no_old_hit(tmp_path):
    made = code_records(np.zeros((1, 4), np.uint8), 32)
    made[0]["properties"] |= {"query": "old", "rank": 9, "mine": {}, "embedding": {"data": "long"}}
    with make(tmp_path / "i.rsr", made) as index:
        assert orjson.loads(index.record(0)[1])["properties"] == {"mine": {}}


def test_what_else_lies_in_an_index_is_not_deleted(rsr, tmp_path):
    assert rsr("index", "-o", "x.rsr", input=b"", cwd=tmp_path).returncode == 0
    (tmp_path / "x.rsr" / "note.txt").write_text("mine")
    done = rsr("index", "-o", "x.rsr", "--overwrite", input=b"", cwd=tmp_path)
    assert (done.returncode, b"holds more than one; it is not replaced" in done.stderr) == (1, True)
    assert (tmp_path / "x.rsr" / "note.txt").read_text() == "mine"


def test_the_directory_above_has_to_be_there(rsr, tmp_path):
    done = rsr("index", "-o", "no/x.rsr", input=b"", cwd=tmp_path)
    assert (done.returncode, b"no/x.rsr: cannot write: no such file or directory" in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_vectors_cut_short_are_refused_in_our_words(rsr, tmp_path):
    record = feature("x", embedding=embedding(np.ones(8)))
    assert rsr("index", "-o", "x.rsr", input=orjson.dumps(record), cwd=tmp_path).returncode == 0
    vectors = tmp_path / "x.rsr" / SEGMENT / "vectors.npy"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-8])
    done = rsr("query", "x.rsr", "--id", "x", cwd=tmp_path)
    sizes = f"{len(whole) - 8} bytes and the manifest {len(whole)}"
    assert done.stderr.decode() == f"rsr query: x.rsr/{SEGMENT}/vectors.npy: is damaged: it has {sizes}\n"
