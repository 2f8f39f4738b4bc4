"""``rsr query`` as its user runs it, against a brute-force search over the records themselves."""

from __future__ import annotations

import base64
from itertools import combinations

import geopandas
import numpy as np
import orjson
import pytest
import shapely
from pyproj import Geod
from support import code_records, embedding, feature, needs_torch, weighted_distances
from support_places import box_geometry, tile_at

from rsr_cli.core.codes.rotated import Rotated
from rsr_cli.core.records.space import Space


def tile(name, vector, labels=None):
    properties = {"source": "s.tif", "window": [0, 0, 8, 8], "embedding": embedding(vector, "m", "emb")}
    if labels is not None:
        properties["labels"] = labels
    return {"type": "Feature", "id": name, "geometry": None, "properties": properties}


def lines(records) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def parsed(done) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return [orjson.loads(line) for line in done.stdout.splitlines()]


def test_a_query_too_long_for_the_index(rsr, tmp_path):
    (tmp_path / "t").write_bytes(lines([tile("x", np.ones(4, np.float32)), tile("y", np.ones(4, np.float32))]))
    assert rsr("index", "t", "-o", "x.rsr", "--metric", "l2", cwd=tmp_path).returncode == 0
    done = rsr("query", "x.rsr", input=lines([tile("q", np.full(4, 1e25, np.float32))]), cwd=tmp_path)
    assert done.returncode == 1
    assert b"too long for float32" in done.stderr


def test_embeddings_against_codes_of_another_program(rsr, tmp_path):
    codes = rsr("binarize", "--method", "sign", input=lines([tile("x", np.ones(8, np.float32))])).stdout
    (tmp_path / "codes").write_bytes(codes.replace(b'"method":"sign",', b""))
    assert rsr("index", "codes", "-o", "x.rsr", cwd=tmp_path).returncode == 0
    done = rsr("query", "x.rsr", input=lines([tile("q", np.ones(8, np.float32))]), cwd=tmp_path)
    assert (done.returncode, b"whose method is unknown" in done.stderr) == (1, True)


def test_queries_without_a_hit_are_counted(rsr, lake, vectors):
    done = rsr("query", "floats.rsr", "tiles.geojsonl", "--radius", "1e-3", "--exclude-self", cwd=lake)
    alone = sum((vectors == vector).all(axis=1).sum() == 1 for vector in vectors)
    says = f"rsr query: {alone} of 200 queries have no hits and are left out of the output\n"
    assert (done.returncode, done.stderr.decode()) == (0, says)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    drawn[50:90] = drawn[3]  # ties
    return drawn


@pytest.fixture(scope="module")
def lake(rsr, tmp_path_factory, vectors):
    """A directory with the tiles, an index of their embeddings, and one of their codes."""
    folder = tmp_path_factory.mktemp("lake")
    tiles = lines(tile(f"t{i}", v, [f"c{i % 3}"]) for i, v in enumerate(vectors))
    (folder / "tiles.geojsonl").write_bytes(tiles)
    assert rsr("index", "--metric", "l1", "tiles.geojsonl", "-o", "floats.rsr", cwd=folder).returncode == 0
    codes = rsr("binarize", "tiles.geojsonl", "--method", "lsh", "--bits", "96", "--seed", "5", cwd=folder).stdout
    (folder / "codes.geojsonl").write_bytes(codes)
    assert rsr("index", "codes.geojsonl", "-o", "codes.rsr", cwd=folder).returncode == 0
    both = rsr(
        "binarize", "--keep-embedding", "tiles.geojsonl", "--method", "lsh", "--bits", "96", "--seed", "5", cwd=folder
    )
    refined = ("--refine", "float32", "--metric", "l1")
    assert rsr("index", *refined, "-o", "both.rsr", input=both.stdout, cwd=folder).returncode == 0
    return folder


def brute(folder, vectors, kind):
    """Distances between all tiles, from the records."""
    if kind == "floats":
        return np.abs(vectors[:, None].astype(float) - vectors[None]).sum(-1)
    codes = [
        np.unpackbits(np.frombuffer(base64.b64decode(orjson.loads(line)["properties"]["code"]["data"]), np.uint8))
        for line in (folder / "codes.geojsonl").read_bytes().splitlines()
    ]
    return (np.stack(codes)[:, None] != np.stack(codes)[None]).sum(-1)


@pytest.mark.parametrize("kind", ["floats", "codes"])
@pytest.mark.parametrize("exclude", [False, True])
def test_hits_are_those_of_a_brute_force_search(rsr, lake, vectors, kind, exclude):
    options = ["--exclude-self"] if exclude else []
    hits = parsed(
        rsr(
            "query",
            f"{kind}.rsr",
            f"{'tiles' if kind == 'floats' else 'codes'}.geojsonl",
            "-k",
            "7",
            *options,
            cwd=lake,
        )
    )
    distances = brute(lake, vectors, kind)
    assert len(hits) == 200 * 7
    for i, all_ in enumerate(distances):
        mine = hits[7 * i : 7 * i + 7]
        expected = [j for j in sorted(range(200), key=lambda j, d=all_: (d[j], j)) if not (exclude and j == i)][:7]
        assert [h["id"] for h in mine] == [f"t{j}" for j in expected]
        assert [h["properties"]["rank"] for h in mine] == list(range(1, 8))
        assert {h["properties"]["query"] for h in mine} == {f"t{i}"}
        np.testing.assert_allclose([h["properties"]["distance"] for h in mine], all_[expected], rtol=1e-12)


def test_a_hit_is_the_found_record_and_names_the_query(rsr, lake):
    (hit,) = parsed(rsr("query", "floats.rsr", "--id", "t4", "-k", "1", cwd=lake))
    original = orjson.loads((lake / "tiles.geojsonl").read_bytes().splitlines()[4])
    del original["properties"]["embedding"]
    original["properties"] |= {"query": "t4", "rank": 1, "distance": 0.0, "query_labels": ["c1"]}
    assert hit == original


def test_embeddings_are_binarized_as_the_index_was(rsr, lake):
    by_code = rsr("query", "codes.rsr", "codes.geojsonl", cwd=lake)
    by_embedding = rsr("query", "codes.rsr", "tiles.geojsonl", cwd=lake)
    assert parsed(by_code)
    assert by_code.stdout == by_embedding.stdout


def test_rotated_codes_are_asked_by_weights_unless_hamming_distance_is_asked_for(rsr, lake, tmp_path, vectors):
    codes = rsr("binarize", "--method", "rotated", "tiles.geojsonl", cwd=lake).stdout
    (tmp_path / "codes.geojsonl").write_bytes(codes)
    assert rsr("index", "codes.geojsonl", "-o", "r.rsr", cwd=tmp_path).returncode == 0
    tiles = lake / "tiles.geojsonl"
    by_codes = rsr("query", "r.rsr", "codes.geojsonl", cwd=tmp_path).stdout
    assert by_codes
    assert rsr("query", "r.rsr", tiles, "--symmetric", cwd=tmp_path).stdout == by_codes
    by_ids = [word for i in range(200) for word in ("--id", f"t{i}")]
    assert rsr("query", "r.rsr", *by_ids, cwd=tmp_path).stdout == by_codes
    whole = rsr("query", "r.rsr", tiles, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    hits = parsed(whole)
    made = Rotated(Space("embedding", 64, "float32", "emb"))
    for i in (0, 3, 199):
        distances = weighted_distances(made.values(vectors[[i]])[0], made.signs(vectors))
        nearest = sorted(range(200), key=lambda row: (distances[row], row))[:20]
        assert [hit["id"] for hit in hits[20 * i :][:20]] == [f"t{row}" for row in nearest]
        assert [hit["properties"]["distance"] for hit in hits[20 * i :][:20]] == distances[nearest].tolist()
    assert rsr("query", "r.rsr", tiles, cwd=tmp_path, env={"OMP_NUM_THREADS": "4"}).stdout == whole.stdout
    again = rsr("query", "r.rsr", tiles, "--rerank", 50, cwd=tmp_path)
    assert again.stdout == whole.stdout
    (line,) = again.stderr.decode().splitlines()
    assert "by weights of their bits, so to rank them again by these changes nothing" in line
    assert "\nasymmetric  yes\n" in rsr("info", "r.rsr", cwd=tmp_path).stdout.decode()


def test_ids_ask_as_their_records_do(rsr, lake):
    by_id = rsr("query", "codes.rsr", "--id", "t9", "--id", "t60", "--exclude-self", cwd=lake)
    wanted = (lake / "codes.geojsonl").read_bytes().splitlines(keepends=True)
    by_record = rsr("query", "codes.rsr", "--exclude-self", input=wanted[9] + wanted[60], cwd=lake)
    assert parsed(by_id)
    assert by_id.stdout == by_record.stdout


def test_an_id_is_asked_for_once_however_often_and_however_it_is_written(rsr, lake, tmp_path):
    once = rsr("query", "codes.rsr", "--id", "t9", "--id", "t60", cwd=lake)
    assert rsr("query", "codes.rsr", "--id", "t9", "--id", "t60", "--id", "t9", cwd=lake).stdout == once.stdout != b""
    numbered = lines(code_records(np.zeros((2, 4), np.uint8), 32, [0, 7]))
    assert rsr("index", "-o", "i.rsr", input=numbered, cwd=tmp_path).returncode == 0
    asked = [word for name in ("-0.0", "0", "-0", "7.0") for word in ("--id", name)]
    found = parsed(rsr("query", "i.rsr", "-k", 1, *asked, cwd=tmp_path))
    assert [hit["properties"]["query"] for hit in found] == [0, 7]


@pytest.mark.parametrize("kind", ["floats", "codes"])
def test_radius_gives_all_within_and_k_the_first_of_them(rsr, lake, vectors, kind):
    distances = brute(lake, vectors, kind)[17]
    radius = float(np.sort(distances)[30])
    within = [j for j in sorted(range(200), key=lambda j: (distances[j], j)) if distances[j] <= radius + 1e-9]
    hits = parsed(rsr("query", f"{kind}.rsr", "--id", "t17", "--radius", radius + 1e-9, cwd=lake))
    assert [h["id"] for h in hits] == [f"t{j}" for j in within]
    hits = parsed(rsr("query", f"{kind}.rsr", "--id", "t17", "--radius", radius + 1e-9, "-k", "5", cwd=lake))
    assert [h["id"] for h in hits] == [f"t{j}" for j in within[:5]]


@pytest.mark.parametrize("asked", ["floats.rsr", "codes.rsr", "codes.rsr --rerank 60", "both.rsr --rerank 60"])
def test_the_same_bytes_whatever_the_threads_and_the_batches(rsr, lake, asked):
    query = ["query", *asked.split()]
    whole = rsr(*query, "tiles.geojsonl", cwd=lake, env={"OMP_NUM_THREADS": "1"}).stdout
    assert whole == rsr(*query, "tiles.geojsonl", cwd=lake, env={"OMP_NUM_THREADS": "4"}).stdout
    tiles = (lake / "tiles.geojsonl").read_bytes().splitlines(keepends=True)
    single = b"".join(rsr(*query, input=line, cwd=lake).stdout for line in tiles[48:53])
    assert single == b"".join(whole.splitlines(keepends=True)[48 * 20 : 53 * 20])


def reranked(rsr, lake, *options) -> list[tuple[str, float]]:
    hits = parsed(rsr("query", "both.rsr", *options, cwd=lake))
    return [(hit["id"], hit["properties"]["distance"]) for hit in hits]


@pytest.mark.parametrize("n", [20, 60, 200])
def test_a_shortlist_is_ranked_again_by_the_embeddings(rsr, lake, vectors, n):
    bits, floats = brute(lake, vectors, "codes")[7], brute(lake, vectors, "floats")[7]
    nearest = sorted(range(200), key=lambda row: (bits[row], row))[:n]
    expected = sorted((floats[row], row) for row in nearest)[:20]
    found = reranked(rsr, lake, "--id", "t7", "--rerank", n)
    assert [name for name, _ in found] == [f"t{row}" for _, row in expected]
    np.testing.assert_allclose([distance for _, distance in found], [distance for distance, _ in expected], rtol=1e-12)
    (lake / "one").write_bytes((lake / "tiles.geojsonl").read_bytes().splitlines(keepends=True)[7])
    assert reranked(rsr, lake, "one", "--rerank", n) == found
    radius = expected[4][0]
    assert reranked(rsr, lake, "one", "--rerank", n, "--radius", radius * (1 + 1e-9)) == found[:5]


def test_all_codes_ranked_again_are_hits_of_the_embeddings(rsr, lake):
    """By each way to ask, and by filters; a shortlist that has all rows leaves out none."""
    for options in (
        ["tiles.geojsonl"],
        ["tiles.geojsonl", "--exclude-self", "-k", "5", "--label", "c1"],
        ["--id", "t3", "--id", "t60", "--label", "c2"],
        ["--like", "t3", "--like", "t9", "--unlike", "t4", "--combine", "best"],
        ["--like", "t3", "--like", "t9", "--unlike", "t4"],
    ):
        floats = rsr("query", "floats.rsr", *options, cwd=lake)
        assert floats.returncode == 0
        assert rsr("query", "both.rsr", *options, "--rerank", "200", cwd=lake).stdout == floats.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["both.rsr", "--id", "t1", "--rerank", "19"], "--rerank 19 leaves fewer hits than -k 20 asks for; pass --rer"),
        (["both.rsr", "--id", "t1", "--rerank", "4", "-k", "5"], "--rerank 4 leaves fewer hits than -k 5 asks for"),
        (
            ["floats.rsr", "--id", "t1", "--rerank", "50"],
            "floats.rsr: compares embeddings, exactly: there are no codes",
        ),
        (["codes.rsr", "--id", "t1", "--rerank", "50"], "codes.rsr: stores no embeddings of its items beside their co"),
        (
            ["both.rsr", "--id", "t1", "--rerank", "50", "--radius", "-1"],
            "a radius of -1 contains nothing: l1 distances",
        ),
        (["both.rsr", "--id", "t1", "--rerank", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_ranked_again_is_wrong_usage(rsr, lake, options, says):
    done = rsr("query", *options, cwd=lake)
    (line,) = done.stderr.decode().splitlines()
    assert says in line
    assert done.returncode == 2


def test_codes_cannot_ask_for_a_shortlist_that_is_ranked_again(rsr, lake):
    done = rsr("query", "both.rsr", "codes.geojsonl", "--rerank", "50", cwd=lake)
    says = (
        b"rsr query: codes.geojsonl:1: has a code and no embedding: it was binarized already; pass the records as rsr"
    )
    assert (done.returncode, done.stderr.startswith(says)) == (1, True)


def test_queries_that_cannot_be_asked(rsr, lake):
    done = rsr("query", "codes.rsr", "--id", "nobody", cwd=lake)
    assert (done.returncode, done.stderr) == (1, b"rsr query: codes.rsr: has no item with the id 'nobody'\n")
    done = rsr("query", "codes.rsr", "--id", "19", cwd=lake)
    says = b"rsr query: codes.rsr: has no item with the id '19'; did you mean 't119' or 't19' or 't190'?\n"
    assert (done.returncode, done.stderr) == (1, says)
    done = rsr("query", "codes.rsr", "--id", "nobody", "--id", "t1", "--keep-going", "-k", "1", cwd=lake)
    assert (done.returncode, len(done.stdout.splitlines())) == (3, 1)
    done = rsr("query", "floats.rsr", "codes.geojsonl", cwd=lake)
    assert (
        done.returncode,
        b"codes.geojsonl:1: has a code and no embedding: it was binarized already; pass the records" in done.stderr,
    ) == (1, True)
    done = rsr("query", "nowhere.rsr", "codes.geojsonl", cwd=lake)
    assert (done.returncode, b"nowhere.rsr: no such index" in done.stderr) == (1, True)
    done = rsr("query", "codes.geojsonl", "codes.rsr", cwd=lake)
    assert (done.returncode, b"is a file and not an index" in done.stderr) == (1, True)
    (lake / "codes.parquet").write_bytes(b"PAR1")
    done = rsr("query", "codes.parquet", "codes.rsr", cwd=lake)
    assert done.stderr.endswith(b"; pass the index before the records: rsr query INDEX INPUT\n")
    done = rsr("query", "codes.rsr", "--id", "t1", "tiles.geojsonl", cwd=lake)
    assert done.returncode == 2
    for name in (True, ["a"], {"a": 1}):
        done = rsr("query", "codes.rsr", input=lines([tile(name, np.ones(64, np.float32))]), cwd=lake)
        assert (done.returncode, b"neither text nor a number" in done.stderr) == (1, True)
    nameless = tile(None, np.ones(64, np.float32))
    done = rsr("query", "codes.rsr", input=lines([nameless]), cwd=lake)
    assert (done.returncode, b"<stdin>:1: has no id" in done.stderr) == (1, True)
    done = rsr("query", "codes.rsr", "--radius", "nan", "codes.geojsonl", cwd=lake)
    assert done.returncode == 2


def test_excluding_nothing_is_warned_about(rsr, lake):
    asked = (lake / "codes.geojsonl").read_bytes().splitlines(keepends=True)[:2]
    renamed = [line.replace(b'"id":"t', b'"id":"elsewhere/t') for line in asked]
    done = rsr("query", "codes.rsr", "--exclude-self", "-k", "1", input=b"".join(renamed), cwd=lake)
    says = b"rsr query: --exclude-self excluded nothing: no query has the id of an item of the index\n"
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, says, 2)
    done = rsr("query", "codes.rsr", "--exclude-self", "-k", "1", input=b"".join([*renamed, asked[0]]), cwd=lake)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_radius_below_0_is_wrong_usage(rsr, lake):
    done = rsr("query", "codes.rsr", "--radius", "-1", "codes.geojsonl", cwd=lake)
    says = b"rsr query: a radius of -1 contains nothing: hamming distances are 0 or more\n"
    assert (done.returncode, done.stderr) == (2, says)


def test_a_distance_to_what_hits_are_to_be_unlike_is_taken_off_and_so_can_be_below_0(rsr, lake):
    farthest = orjson.loads(
        rsr("query", "codes.rsr", "--id", "t0", "--radius", "inf", cwd=lake).stdout.splitlines()[-1]
    )
    asked = ["query", "codes.rsr", "--like", "t0", "--unlike", farthest["id"]]
    nearest = [orjson.loads(line)["properties"]["distance"] for line in rsr(*asked, cwd=lake).stdout.splitlines()]
    assert nearest[0] < 0
    done = rsr(*asked, "--radius", f"{nearest[0]:g}", cwd=lake)
    assert [orjson.loads(line)["properties"]["distance"] for line in done.stdout.splitlines()] == [
        distance for distance in nearest if distance == nearest[0]
    ]
    done = rsr(*asked, "--combine", "best", "--radius", "-1", cwd=lake)
    assert (done.returncode, b"contains nothing" in done.stderr) == (2, True)


def test_a_space_that_a_user_named_is_not_asked_of_a_model(rsr, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(4, dtype=np.float32))
    np.save(tmp_path / "w.npy", np.eye(5, dtype=np.float32))
    assert rsr("index", "v.npy", "--space", "my own", "-o", "v.rsr", cwd=tmp_path).returncode == 0
    for name, space in (("v.npy", "another"), ("w.npy", "my own")):
        done = rsr("query", "v.rsr", name, "--space", space, "-q", cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert done.stderr.endswith(b"; pass embeddings of that space, and --space 'my own' if they do not state it\n")


def test_another_space_is_refused_by_both_names(rsr, lake):
    stranger = tile("x", np.ones(64, np.float32))
    stranger["properties"]["embedding"]["fingerprint"] = "elsewhere"
    for kind in ("floats", "codes"):
        done = rsr("query", f"{kind}.rsr", input=lines([stranger]), cwd=lake)
        assert done.returncode == 1
        assert b"elsewhere" in done.stderr
        assert done.stderr.endswith(f"; embed the queries with rsr embed --as {kind}.rsr\n".encode())
        assert b"emb" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("k", [200, 201, 10**6, 10**30])
def test_more_hits_than_rows_are_all_the_rows(call, lake, k):
    """Each row once, and the query itself too unless it is excluded."""
    found = [orjson.loads(line) for line in call("query", lake / "floats.rsr", "--id", "t7", "-k", k).splitlines()]
    assert sorted(hit["id"] for hit in found) == sorted(f"t{i}" for i in range(200))
    assert [hit["properties"]["rank"] for hit in found] == [*range(1, 201)]
    others = call("query", lake / "floats.rsr", "--id", "t7", "-k", k, "--exclude-self").splitlines()
    assert [orjson.loads(line)["id"] for line in others] == [hit["id"] for hit in found if hit["id"] != "t7"]


def test_dot_products_of_denormal_size_are_ranked_and_written(call, tmp_path):
    """Of 1e-50 and 1e-84, which float32 does not have, read back from the JSON."""
    random = np.random.default_rng(5)
    for size in (1e-25, 1e-42):
        rows = (random.standard_normal((60, 8)) * size).astype(np.float32)
        (tmp_path / "tiles").write_bytes(lines(tile(f"t{i}", row) for i, row in enumerate(rows)))
        call("index", tmp_path / "tiles", "-o", tmp_path / "x.rsr", "--metric", "dot", "--overwrite")
        exact = -(rows.astype(np.longdouble) @ rows[3].astype(np.longdouble))
        order = sorted(range(60), key=lambda i: (exact[i], i))
        found = [orjson.loads(line) for line in call("query", tmp_path / "x.rsr", "--id", "t3", "-k", 100).splitlines()]
        assert [hit["id"] for hit in found] == [f"t{i}" for i in order]
        distances = [hit["properties"]["distance"] for hit in found]
        assert distances == pytest.approx([float(exact[i]) for i in order], rel=1e-12, abs=0)
        (tmp_path / "hits").write_bytes(call("query", tmp_path / "x.rsr", "--id", "t3", "--radius", distances[20]))
        assert len((tmp_path / "hits").read_bytes().splitlines()) == 21


def test_the_whole_pipe_scores_what_it_found(rsr, lake):
    hits = rsr("query", "codes.rsr", "codes.geojsonl", "--exclude-self", cwd=lake).stdout
    rows = [
        orjson.loads(line)
        for line in rsr(
            "score", "--truth", "tiles.geojsonl", "--exclude-self", "--format", "jsonl", input=hits, cwd=lake
        ).stdout.splitlines()
    ]
    assert {row["metric"] for row in rows} == {"map@20", "p@20", "mrr@20"}
    assert all(row["queries"] == 200 and 0 < row["random"] < 1 for row in rows)


def test_an_id_is_the_same_as_a_number_and_as_text(rsr, tmp_path):
    tiles = [tile(n, np.eye(4, dtype=np.float32)[n]) for n in range(4)]
    assert rsr("index", "-o", "i.rsr", input=lines(tiles), cwd=tmp_path).returncode == 0
    asked = lines([tile("2", np.eye(4, dtype=np.float32)[2])])
    hits = parsed(rsr("query", "i.rsr", "--exclude-self", input=asked, cwd=tmp_path))
    assert [hit["id"] for hit in hits] == [0, 1, 3]


@pytest.mark.parametrize("spelling", [b"2.0", b"2e0", b'"2"', b'"2.0"'])
def test_a_number_is_one_id_however_it_is_written(rsr, tmp_path, spelling):
    tiles = [tile(n, np.eye(4, dtype=np.float32)[n]) for n in range(4)]
    assert rsr("index", "-o", "i.rsr", input=lines(tiles), cwd=tmp_path).returncode == 0
    asked = lines([tile(77, np.eye(4, dtype=np.float32)[2])]).replace(b'"id":77', b'"id":' + spelling)
    hits = rsr("query", "i.rsr", "--exclude-self", input=asked, cwd=tmp_path)
    assert [hit["id"] for hit in parsed(hits)] == [0, 1, 3]
    by_id = rsr(
        "query", "i.rsr", "--exclude-self", "--id", spelling.decode().strip('"').replace("e0", ".0"), cwd=tmp_path
    )
    assert [hit["id"] for hit in parsed(by_id)] == [0, 1, 3]
    # The hits' query is as it was asked; truth, qrels and records of queries spell the ids otherwise.
    (tmp_path / "hits").write_bytes(hits.stdout)
    truth = lines([tile(float(n), np.zeros(4)) | {"properties": {"labels": ["a" if n % 2 else "b"]}} for n in range(4)])
    (tmp_path / "truth").write_bytes(truth)
    (tmp_path / "truth.qrels").write_bytes(b"2 0 0 1\n2.0 0 1.0 0\n2 0 3.0 0\n")
    for known in ("truth", "truth.qrels"):
        done = rsr(
            "score",
            "hits",
            "--truth",
            known,
            "--exclude-self",
            "--metrics",
            "p@3,map_cut@3",
            "--format",
            "jsonl",
            cwd=tmp_path,
        )
        rows = [orjson.loads(line) for line in done.stdout.splitlines()]
        assert [(row["queries"], row["value"]) for row in rows] == [(1, pytest.approx(1 / 3)), (1, 1)]
    done = rsr("show", "hits", "--queries", "truth", "-o", "x.html", "--keep-going", cwd=tmp_path)
    assert b"is not in" not in done.stderr


def test_the_id_is_taken_from_the_properties_where_gdal_puts_it(rsr, tmp_path):
    record = tile("t0", np.ones(4, np.float32))
    record["properties"]["id"] = record.pop("id")
    other = tile("t1", np.zeros(4, np.float32))
    other["properties"]["id"] = "something else"
    assert rsr("index", "-o", "i.rsr", input=lines([record, other]), cwd=tmp_path).returncode == 0
    (hit,) = parsed(rsr("query", "i.rsr", "--exclude-self", input=lines([record]), cwd=tmp_path))
    assert (hit["id"], hit["properties"]["query"]) == ("t1", "t0")
    (hit,) = parsed(rsr("query", "i.rsr", "--id", "t0", "-k", "1", cwd=tmp_path))
    assert (hit["id"], hit["properties"]["id"]) == ("t0", "t0")


@pytest.mark.parametrize("labels", ["lake", [1], {"a": 1}])
def test_labels_that_are_no_list_of_text_are_refused_everywhere(rsr, tmp_path, labels):
    record = tile("t0", np.ones(4, np.float32))
    assert rsr("index", "-o", "i.rsr", input=lines([record]), cwd=tmp_path).returncode == 0
    hit = rsr("query", "i.rsr", "--id", "t0", cwd=tmp_path).stdout
    record["properties"]["labels"] = labels
    (tmp_path / "in").write_bytes(lines([record]))
    wrong = orjson.loads(hit)
    wrong["properties"] |= {"labels": labels, "query_labels": ["lake"]}
    (tmp_path / "hits").write_bytes(lines([wrong]))
    (tmp_path / "good").write_bytes(hit)
    for arguments in (
        ["index", "in", "-o", "new.rsr"],
        ["query", "i.rsr", "in"],
        ["score", "hits"],
        ["score", "good", "--truth", "in"],
        ["show", "hits", "-o", "x.html"],
        ["show", "good", "--queries", "in", "-o", "x.html"],
        ["plot", "in", "-o", "x.png"],
    ):
        done = rsr(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert f":1: its labels must be a list of strings, and are {labels!r}; write a list" in done.stderr.decode()


def test_vectors_cut_short_are_refused_in_our_words(rsr, tmp_path):
    record = feature("x", embedding=embedding(np.ones(8)))
    assert rsr("index", "-o", "x.rsr", input=orjson.dumps(record), cwd=tmp_path).returncode == 0
    vectors = tmp_path / "x.rsr" / "segments" / "000001" / "vectors.npy"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-8])
    done = rsr("query", "x.rsr", "--id", "x", cwd=tmp_path)
    sizes = f"{len(whole) - 8} bytes and the manifest {len(whole)}; build it again with rsr index"
    assert done.stderr.decode() == f"rsr query: x.rsr/segments/000001/vectors.npy: is damaged: it has {sizes}\n"


@pytest.mark.parametrize(("gsd", "warned"), [(10, False), (14, False), (16, True), (6, True), (None, False)])
def test_queries_at_another_ground_sample_distance_are_warned_about(rsr, tmp_path, gsd, warned):
    records = [feature("a", gsd=10, embedding=embedding(np.ones(8))), feature("b", embedding=embedding(np.ones(8)))]
    (tmp_path / "in").write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    assert rsr("index", "in", "-o", "i.rsr", cwd=tmp_path).returncode == 0
    query = feature("q", embedding=embedding(np.zeros(8)))
    query["properties"] |= {} if gsd is None else {"gsd": gsd}
    done = rsr("query", "i.rsr", input=orjson.dumps(query) + b"\n" + orjson.dumps(query), cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.decode().count("ground sample distance of") == warned
    if warned:
        assert f"a query has a ground sample distance of {gsd} m and the index 10 m" in done.stderr.decode()
    assert rsr("query", "-q", "i.rsr", input=orjson.dumps(query), cwd=tmp_path).stderr == b""


# By place and by example ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def field(rsr, tmp_path_factory):
    """A directory with an index of 8 x 8 tiles, which touch and state places and vectors, of two dates each."""
    folder = tmp_path_factory.mktemp("field")
    vectors = np.random.default_rng(8).standard_normal((2, 8, 8, 4)).astype(np.float32)
    records = [
        tile_at(f"{date}_{64 * col}_{64 * row}", box(col, row), vectors[number, row, col])
        for number, date in enumerate(("may", "june"))
        for row in range(8)
        for col in range(8)
    ]
    (folder / "tiles").write_bytes(lines(records))
    assert rsr("index", "tiles", "-o", "i.rsr", "--metric", "cosine", cwd=folder).returncode == 0
    assert rsr("binarize", "tiles", "-o", "codes.parquet", cwd=folder).returncode == 0
    assert rsr("index", "codes.parquet", "-o", "codes.rsr", cwd=folder).returncode == 0
    return folder


def box(col, row) -> tuple[float, float, float, float]:
    return 179.96 + col / 100 - 360 * (col > 3), row / 100, 179.97 + col / 100 - 360 * (col > 3), (row + 1) / 100


def test_a_place_asks_as_the_id_of_its_tile(rsr, field):
    by_place = rsr("query", "i.rsr", "--at", "179.985,0.031", "--at", "-179.999,0.001", cwd=field)
    by_id = rsr("query", "i.rsr", "--id", "may_128_192", "--id", "may_256_0", cwd=field)
    assert parsed(by_place)
    assert by_place.stdout == by_id.stdout


def test_a_place_without_a_tile_names_the_nearest(rsr, field):
    done = rsr("query", "i.rsr", "--at", "-179.9,0.005", cwd=field)
    km = Geod(a=6371008.8, b=6371008.8).inv(-179.9, 0.005, -179.965, 0.005)[2] / 1000
    says = (
        f"rsr query: i.rsr: has no tile that holds -179.9,0.005; the centre of the nearest, 'may_448_0', is {km:.2f} km"
    )
    assert done.returncode == 1
    assert done.stderr.decode() == f"{says} away\n"


def test_examples_are_one_query(rsr, field):
    liked = {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "geometry": box_geometry(179.965, 0, 179.99, 0.005), "properties": {}}],
    }
    (field / "liked.geojson").write_bytes(orjson.dumps(liked))
    records = (field / "tiles").read_bytes().splitlines(keepends=True)
    within = [f"{date}_{64 * col}_0" for date in ("may", "june") for col in range(3)]
    by_ids = [word for name in within for word in ("--like", name)]
    for index in ("i.rsr", "codes.rsr"):
        for combine in ((), ("--combine", "best")):
            others = ["--unlike", "june_448_448", *combine]
            done = rsr("query", index, *by_ids, *others, cwd=field)
            hits = parsed(done)
            assert len(hits) == 20
            assert {hit["properties"]["query"] for hit in hits} == {f"{'+'.join(within)}-june_448_448"}
            assert not {hit["id"] for hit in hits} & {*within, "june_448_448"}
            alone = rsr("query", index, *by_ids, *others, "--exclude-self", cwd=field)
            assert (alone.stdout, alone.stderr) == (done.stdout, b"")  # as it is anyway
            assert rsr("query", index, "--like-within", "liked.geojson", *others, cwd=field).stdout == done.stdout
            stdin = b"".join(record for record in records if orjson.loads(record)["id"] in within)
            again = parsed(rsr("query", index, "--like-from", "-", *others, cwd=field, input=stdin))
            assert [hit["id"] for hit in again] == [hit["id"] for hit in hits]  # an index by cosine keeps unit vectors
    unlike = rsr("query", "codes.rsr", *by_ids, "--unlike-from", "-", cwd=field, input=records[-1])
    assert unlike.stdout == rsr("query", "codes.rsr", *by_ids, "--unlike", "june_448_448", cwd=field).stdout


def test_examples_of_a_table_of_others(rsr, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(4, dtype=np.float32))
    assert rsr("index", "v.npy", "--space", "mine", "-o", "i.rsr", cwd=tmp_path).returncode == 0
    np.save(tmp_path / "q.npy", np.array([[1, 0, 0, 0], [0, 0.5, 0, 0]], np.float32))
    hits = parsed(rsr("query", "i.rsr", "--like-from", "q.npy", "--space", "mine", "-k", "2", cwd=tmp_path))
    assert [hit["id"] for hit in hits] == ["v:1", "v:2"] or len(hits) == 2
    done = rsr("query", "i.rsr", "--like-from", "q.npy", "--space", "yours", cwd=tmp_path)
    assert (done.returncode, b"another vector space" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--id", "a", "--at", "1,2"], "pass either --id or --at, not both"),
        (["--id", "a", "--unlike", "b"], "is for examples: pass --like ID or --like-from FILE in place of --id"),
        (["--at", "1,2", "--unlike-from", "x"], "--unlike-from is for examples: pass --like ID or --like-from FILE in"),
        (["--at", "1,2", "--like", "a"], "pass either --at or --like, not both"),
        (["--like-from", "x", "tiles"], "pass either --like-from or INPUT, not both"),
        (["--unlike-from", "x", "tiles"], "pass either --unlike-from or INPUT, not both"),
        (["--unlike", "a"], "--unlike needs an example of what hits are like: --like, --like-from or --like-within"),
        (["--combine", "best", "--id", "a"], "--combine is for examples: --like, --like-from or --like-within"),
        (["--like", "1.0", "--like", "b", "--unlike", "1"], "'1' is both --like and --unlike"),
        (
            ["--like-from", "-", "--unlike-from", "-"],
            "stdin is read once: pass - to one of --like-from and --unlike-from",
        ),
        (["--id", "a", "--merge", "--min-distance", "1km"], "--merge needs hits that touch, and --min-distance leaves"),
        (["--at", "1"], "'1' is not a longitude and a latitude in degrees, such as 13.4,52.5"),
        (["--at", "52,113"], "'52,113' is not on the Earth: the longitude is first, from -180 to 180"),
        (["--at", "nan,0"], "'nan,0' is not on the Earth"),
        (["--min-distance", "5", "--id", "a"], "'5' is not a length with its unit, such as 5km or 500m"),
        (["--min-distance", "0 m", "--id", "a"], None),
        (["--raster", "x.tif"], "--raster needs --at, the place to cut a tile around"),
        (["--at", "1,2", "--sensor", "hls-l30"], "--sensor is for --raster"),
        (["--at", "1,2", "--weights", "x"], "--weights is for --raster"),
        (["--like-within", "tiles", "--bands", "red"], "--bands is for --raster"),
        (["--at", "1,2", "--offset", "0"], "--offset is for --raster"),
        (["--id", "a", "--per-band"], "--per-band is for --raster"),
        (["--raster", "x.tif", "--at", "1,2", "--scale", "0"], "--scale is 0, which makes all pixels alike"),
        (["--raster", "x.tif", "--at", "1,2", "--per-band"], "--per-band needs --sensor"),
    ],
)
def test_options_that_do_not_fit_together(rsr, field, options, says):
    done = rsr("query", "i.rsr", *options, cwd=field)
    if says is None:
        assert (done.returncode, b"has no item with the id 'a'" in done.stderr) == (1, True)
        return
    assert done.returncode == 2
    assert says in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_diverse_hits_obey_all_rules_together(rsr, field):
    options = ["--min-distance", "1.2km", "--per-scene", "3", "--one-per-place", "--exclude-overlap", "-k", "30"]
    for index in ("i.rsr", "codes.rsr"):
        hits = parsed(rsr("query", index, "--id", "june_192_192", *options, cwd=field))
        assert [hit["properties"]["rank"] for hit in hits] == [*range(1, 7)]
        assert sorted(hit["id"].partition("_")[0] for hit in hits) == ["june"] * 3 + ["may"] * 3
        centres = [((hit["bbox"][0] + 0.005), (hit["bbox"][1] + 0.005)) for hit in hits]
        apart = [Geod(ellps="WGS84").inv(*one, *other)[2] for one, other in combinations(centres, 2)]
        assert min(apart) > 1200
        assert not {hit["id"] for hit in hits} & {"may_192_192", "june_192_192"}
    alone = parsed(rsr("query", "i.rsr", "--id", "june_192_192", "-k", "128", "--one-per-place", cwd=field))
    assert len({hit["id"].partition("_")[2] for hit in alone}) == len(alone) == 64


def test_merged_hits_are_records_that_show_and_geopandas_read(rsr, field, tmp_path):
    merge = ["query", "i.rsr", "--id", "may_192_192", "-k", "40", "--merge"]
    areas = parsed(rsr(*merge, cwd=field))
    names = [name for area in areas for name in area["properties"]["tiles"]]
    plain = parsed(rsr(*merge[:-1], cwd=field))
    assert sorted(names) == sorted(hit["id"] for hit in plain)
    assert 1 <= len(areas) < 40
    (tmp_path / "areas.geojsonl").write_bytes(lines(areas))
    assert rsr("show", "areas.geojsonl", "-o", "x.html", cwd=tmp_path).returncode == 0
    assert rsr(*merge, "-o", tmp_path / "areas.parquet", cwd=field).returncode == 0
    table = geopandas.read_parquet(tmp_path / "areas.parquet")
    expected = {hit["id"]: shapely.geometry.shape(hit["geometry"]) for hit in plain}
    for outline, tiles in zip(table.geometry, table["tiles"], strict=True):
        whole = shapely.union_all([expected[name] for name in tiles])
        assert outline.symmetric_difference(whole).area < 1e-9


@needs_torch
@pytest.mark.parametrize("kind", ["embeddings", "codes"])
def test_a_scene_of_ones_own_is_cut_embedded_and_asked_with(rsr, tmp_path, write_raster, kind):
    pixels = np.random.default_rng(0).integers(1, 3000, (3, 96, 128), dtype=np.uint16)
    write_raster(tmp_path / "scene.tif", pixels, names=("red", "green", "blue"))
    write_raster(tmp_path / "unnamed.tif", pixels)
    assert rsr("tile", "--size", "32", "scene.tif", "-o", "tiles", cwd=tmp_path).returncode == 0
    model = "rcf:size=32:bands=red,green,blue"
    assert rsr("embed", "--model", model, "tiles", "-o", "embeddings", cwd=tmp_path).returncode == 0
    assert rsr("binarize", "embeddings", "-o", "codes", cwd=tmp_path).returncode == 0
    assert rsr("index", kind, "-o", "x.rsr", cwd=tmp_path).returncode == 0
    tiles = [orjson.loads(line) for line in (tmp_path / "tiles").read_bytes().splitlines()]
    centres = [np.mean(tile["geometry"]["coordinates"][0][:4], axis=0) for tile in (tiles[5], tiles[10])]
    at = [word for lon, lat in centres for word in ("--at", f"{lon},{lat}")]
    symmetric = ["--symmetric"] if kind == "codes" else []  # as an item asks, which has no embedding
    done = rsr("query", "x.rsr", "--raster", "scene.tif", *at, *symmetric, cwd=tmp_path)
    assert done.stderr == b""
    by_id = rsr("query", "x.rsr", "--id", tiles[5]["id"], "--id", tiles[10]["id"], cwd=tmp_path)
    assert parsed(done)
    assert done.stdout == by_id.stdout
    named = ["--raster", "unnamed.tif", "--bands", "red,green,blue", "-k", "1"]
    assert [hit["id"] for hit in parsed(rsr("query", "x.rsr", *named, *at, cwd=tmp_path))] == [
        tiles[5]["id"],
        tiles[10]["id"],
    ]
    for options, says in (
        (["--raster", "unnamed.tif", *at], b"unnamed.tif: "),
        (["--raster", "scene.tif", "--at", "0,0"], b"scene.tif: does not contain the place 0,0\n"),
        (["--raster", "scene.tif", "--at", "{1},{0}".format(*centres[0])], b": the longitude is first\n"),
        (["--raster", "nowhere.tif", *at], b"nowhere.tif: "),
        (["--raster", "https://127.0.0.1/x.tif", *at], b"pass --allow-network"),
    ):
        done = rsr("query", "x.rsr", *options, cwd=tmp_path)
        assert (done.returncode, says in done.stderr, len(done.stderr.splitlines())) == (1, True, 1), done.stderr


@needs_torch
def test_a_product_of_ones_own_is_asked_with_as_it_was_tiled(rsr, tmp_path, write_raster):
    pixels = np.random.default_rng(0).integers(2000, 9000, (3, 64, 96), dtype=np.uint16)
    pixels[:, :, 64:] = 0
    (tmp_path / "p").mkdir()
    for name, band in zip(("B2", "B3", "B4"), pixels, strict=True):
        write_raster(tmp_path / "p" / f"LC08_L2SP_193024_20230610_20230614_02_T1_SR_{name}.TIF", band[None])
    product = ["--per-band", "--sensor", "landsat8", "--scale", "0.5", "--offset", "30"]
    assert rsr("tile", *product, "--size", "32", "p", "-o", "tiles", cwd=tmp_path).returncode == 0
    model = "rcf:size=32:bands=blue,green,red"
    assert rsr("embed", "--model", model, "tiles", "-o", "embeddings", cwd=tmp_path).returncode == 0
    assert rsr("index", "embeddings", "-o", "x.rsr", cwd=tmp_path).returncode == 0
    tiles = [orjson.loads(line) for line in (tmp_path / "tiles").read_bytes().splitlines()]
    lon, lat = np.mean(tiles[1]["geometry"]["coordinates"][0][:4], axis=0)
    asked = ["query", "x.rsr", "--raster", "p", "--at", f"{lon},{lat}", "-k", "2"]
    (first, second) = parsed(rsr(*asked, *product, cwd=tmp_path))
    assert (first["id"], first["properties"]["distance"]) == (tiles[1]["id"], 0)
    assert second["properties"]["distance"] > 0
    (first, _) = parsed(rsr(*asked, *product[:-1], "3000", cwd=tmp_path))
    assert first["properties"]["distance"] > 0
    west, _, east, north = tiles[0]["bbox"]
    far = ["--raster", "p", "--at", f"{west + 2.75 * (east - west)},{north - 0.5 * (east - west)}"]
    done = rsr("query", "x.rsr", *far, *product, cwd=tmp_path)
    says = "its only tile has too few valid pixels; pass a place with more valid pixels around it"
    assert (done.returncode, says in done.stderr.decode()) == (1, True)


def test_a_scene_needs_an_index_that_states_sizes_and_how_to_embed(rsr, field, tmp_path, write_raster):
    write_raster(tmp_path / "scene.tif", np.ones((3, 64, 64), np.uint16), names=("red", "green", "blue"))
    asked = ["--raster", tmp_path / "scene.tif", "--at", "16.34,47.84"]
    done = rsr("query", "i.rsr", *asked, cwd=field)
    says = "its first item, 'may_0_0', does not state its size in pixels (proj:shape); cut the tile with rsr tile"
    assert (done.returncode, says in done.stderr.decode()) == (1, True)
    assert rsr("index", "--allow-empty", "-o", "empty.rsr", input=b"", cwd=tmp_path).returncode == 0
    done = rsr("query", "empty.rsr", *asked, cwd=tmp_path)
    assert (done.returncode, b"empty.rsr: is empty, so it does not state how to embed" in done.stderr) == (1, True)


@pytest.fixture(scope="module")
def places(rsr, tmp_path_factory):
    """A directory with 60 tiles in a row, one per degree and day, an index of them, and the east of it as an area."""
    folder = tmp_path_factory.mktemp("places")
    drawn = np.random.default_rng(1).standard_normal((60, 16)).astype(np.float32)
    records = []
    for i, vector in enumerate(drawn):
        record = tile(f"t{i}", vector, [["lake"], ["road"], []][i % 3])
        ring = [[i, 0], [i + 1, 0], [i + 1, 1], [i, 1], [i, 0]]
        record |= {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [i, 0, i + 1, 1]}
        record["properties"] |= {"datetime": f"2023-{7 + i // 30:02}-{1 + i % 30:02}T10:00:00Z", "eo:cloud_cover": i}
        records.append(record)
    (folder / "tiles.geojsonl").write_bytes(lines(records))
    ring = [[30.5, -1], [70, -1], [70, 2], [30.5, 2], [30.5, -1]]
    (folder / "east.geojson").write_bytes(orjson.dumps({"type": "Polygon", "coordinates": [ring]}))
    assert rsr("index", "--metric", "l1", "tiles.geojsonl", "-o", "floats.rsr", cwd=folder).returncode == 0
    codes = rsr("binarize", "tiles.geojsonl", cwd=folder).stdout
    assert rsr("index", "-o", "codes.rsr", input=codes, cwd=folder).returncode == 0
    return folder


FILTERS = {
    "--bbox=10,0.5,20,0.6": lambda i: 9 <= i <= 20,
    "--bbox=50.5,0,5.5,1": lambda i: i <= 5 or i >= 50,
    "--within=east.geojson": lambda i: i >= 31,
    "--datetime=2023-07-11/2023-07-20": lambda i: 10 <= i <= 19,
    "--datetime=2023-08": lambda i: i >= 30,
    "--label=lake": lambda i: i % 3 == 0,
    "--label=lake --label=road": lambda i: i % 3 < 2,
    "--filter=eo:cloud_cover<7": lambda i: i < 7,
    "--bbox=5,0,50,1 --within=east.geojson --datetime=../2023-08-15 --label=road --filter=eo:cloud_cover>33": (
        lambda i: 34 <= i <= 44 and i % 3 == 1
    ),
}


@pytest.mark.parametrize("options", FILTERS)
@pytest.mark.parametrize("kind", ["floats", "codes"])
def test_filtered_hits_are_the_first_of_all_that_the_filter_keeps(rsr, places, kind, options):
    asked = [f"{kind}.rsr", "tiles.geojsonl"]
    everything = parsed(rsr("query", *asked, "-k", 60, cwd=places))
    found = parsed(rsr("query", *asked, "-k", 4, *options.split(), cwd=places))
    expected = []
    for i in range(60):
        kept = [hit for hit in everything[60 * i : 60 * i + 60] if FILTERS[options](int(hit["id"][1:]))][:4]
        expected += [(hit["id"], hit["properties"]["query"], hit["properties"]["distance"]) for hit in kept]
    assert [(hit["id"], hit["properties"]["query"], hit["properties"]["distance"]) for hit in found] == expected
    assert expected


@pytest.mark.parametrize(("box", "noticed"), [("0.5,40.2,0.6,40.4", True), ("0.5,70,0.6,80", False)])
def test_a_box_with_latitudes_first_is_noticed(rsr, places, box, noticed):
    done = rsr("query", "codes.rsr", "--id", "t3", f"--bbox={box}", cwd=places)
    south, west, north, east = box.split(",")
    says = f"touches the box {box}, but some touch {west},{south},{east},{north}: longitudes are before latitudes\n"
    assert (done.returncode, done.stdout, says in done.stderr.decode()) == (0, b"", noticed)


@pytest.mark.parametrize(("box", "noticed"), [("20,0,5,1", True), ("100,0,-100,1", False), ("5,0,20,1", False)])
def test_a_wide_box_across_the_antimeridian_is_noticed(rsr, places, box, noticed):
    done = rsr("query", "codes.rsr", "--id", "t3", f"--bbox={box}", cwd=places)
    says = "the box from 20 to 5 crosses the antimeridian and is 345 degrees wide: west is first\n"
    assert (done.returncode, says in done.stderr.decode()) == (0, noticed)


def test_items_without_a_time_are_told_where_an_interval_keeps_nothing(rsr, places, tmp_path):
    timeless = [orjson.loads(line) for line in (places / "tiles.geojsonl").read_bytes().splitlines()[:9]]
    for record in timeless[:7]:
        del record["properties"]["datetime"]
    assert rsr("index", "-o", "x.rsr", input=lines(timeless), cwd=tmp_path).returncode == 0
    for interval, noticed in (("2023-07", False), ("2024", True)):
        done = rsr("query", "x.rsr", "--id", "t3", "--datetime", interval, cwd=tmp_path)
        assert (done.returncode, b"7 items of the index state no time\n" in done.stderr) == (0, noticed)


def test_a_filter_that_keeps_nothing_is_no_failure(rsr, places):
    done = rsr("query", "codes.rsr", "--id", "t3", "--id", "t4", "--bbox", "-20,-20,-10,-10", cwd=places)
    says = "2 of 2 queries have no hits and are left out of the output: no item of the index matches the filters"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", f"rsr query: {says}\n")


def test_a_filter_is_not_to_blame_for_a_radius(rsr, places):
    done = rsr(
        "query", "codes.rsr", "--id", "t3", "--exclude-self", "--radius", "0", "--filter", "id > 'a'", cwd=places
    )
    says = "1 of 1 query has no hits and is left out of the output"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", f"rsr query: {says}\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--label", "laek"], "no item of the index has the label 'laek'; did you mean 'lake'?"),
        (
            ["--filter", "cloud_cover < 5"],
            "none of 60 items has the property 'cloud_cover'; did you mean 'eo:cloud_cover'?",
        ),
    ],
)
def test_a_name_that_nothing_has_is_warned_about(rsr, places, options, says):
    done = rsr("query", "codes.rsr", "--id", "t3", *options, cwd=places)
    assert (done.returncode, done.stderr.decode().splitlines()[0]) == (0, f"rsr query: {says}")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--bbox", "1,2,3"],
            "invalid value for '--bbox': '1,2,3' is not west,south,east,north in degrees, such as 9.9,50,10.4,50.2;"
            " see rsr query --help",
        ),
        (["--datetime", "July"], "--datetime: 'July' is not a date or time such as 2023-06-10 or 2023-06-10T07:46:21Z"),
        (
            ["--datetime", "01/06/2023"],
            "--datetime: '01' in '01/06/2023' is not a date or time such as 2023-06-10 or 2023-06-10T07:46:21Z, and an "
            "interval is as 2023-06/2023-08",
        ),
        (["--filter", "a =="], "--filter: 'a ==' is not CQL2: it goes wrong at character 4"),
        (["--filter", "near(a) = 1"], "--filter: near is no function of CQL2"),
        *(
            ([option, one, option, one], f"{option} is passed 2 times, and only one would count; see rsr query --help")
            for option, one in (("--bbox", "1,2,3,4"), ("--datetime", "2023"), ("--filter", "a = 1"), ("--within", "f"))
        ),
        (["--space", "x"], "--space is for records that are read"),
        (["--like", "t4", "--vector-column", "x"], "pass either --id or --like, not both"),
        (["--within", "none.json"], "none.json: cannot be read: no such file or directory"),
        (["--within", "tiles.tif"], "tiles.tif: is not GeoJSON; convert it with ogr2ogr -f GeoJSONSeq OUT.geojsonl IN"),
    ],
)
def test_filters_that_cannot_be_applied(rsr, places, options, says):
    (places / "tiles.tif").write_bytes(b"II*\0")
    done = rsr("query", "codes.rsr", "--id", "t3", *options, cwd=places)
    last = orjson.loads(done.stdout)
    assert (done.returncode, last["type"], last["message"]) == (2, "Failure", says)
    assert done.stderr.decode() == f"rsr query: {says}\n"
