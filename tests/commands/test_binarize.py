"""``rsr binarize`` as its user runs it, against the paper's formulas."""

from __future__ import annotations

import base64

import duckdb
import geopandas
import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import scipy.linalg
from support import bits_of, embedding, embedding_records, failure_in, feature

from rsr_cli.core.codes.registry import METHODS


@pytest.fixture(scope="module")
def drawn():
    """Embeddings, float32 (30, 24), of whole numbers: their sums are exact."""
    return np.random.default_rng(4).integers(-9, 10, (30, 24)).astype(np.float32)


def parsed(done) -> list[dict]:
    assert (done.returncode, done.stderr) == (0, b"")
    return [orjson.loads(line) for line in done.stdout.splitlines()]


def side(vectors, bits, seed):
    planes = np.random.RandomState(seed).randn(bits, vectors.shape[1])
    return [[int(np.dot(plane, vector) > 0) for plane in planes] for vector in vectors.astype(float)]


def turned(vectors, bits, seed):
    signs = 1 - 2.0 * np.unpackbits(np.frombuffer(np.random.RandomState(seed).bytes(12), np.uint8)).reshape(3, 32)
    found = np.pad(vectors.astype(float), ((0, 0), (0, 8)))
    for diagonal in signs:
        found = (found * diagonal) @ scipy.linalg.hadamard(32).T
    return (found[:, :bits] > 0).astype(int).tolist()


#: Options of the command -> the bits that they make of vectors.
FORMULAS = {
    "": lambda vectors: turned(vectors, 24, 0),
    "--method sign": lambda vectors: (vectors > 0).astype(int).tolist(),
    "--method sign --bits 24": lambda vectors: (vectors > 0).astype(int).tolist(),
    "--method rotated": lambda vectors: turned(vectors, 24, 0),
    "--method rotated --bits 32 --seed 3": lambda vectors: turned(vectors, 32, 3),
    "--method trivial --bits 6": lambda vectors: [[int(sum(v[j::6]) > 0) for j in range(6)] for v in vectors.tolist()],
    "--method lsh --bits 11": lambda vectors: side(vectors, 11, 42),
    "--method lsh --bits 40 --seed 84": lambda vectors: side(vectors, 40, 84),
}


@pytest.mark.parametrize("options", FORMULAS)
def test_codes_are_those_of_the_formula(rsr, lines, drawn, options):
    records = parsed(rsr("binarize", *options.split(), input=lines(embedding_records(drawn))))
    assert [record["id"] for record in records] == [f"t{i}" for i in range(30)]
    assert [bits_of(record) for record in records] == FORMULAS[options](drawn)


def test_every_method_has_a_formula_here():
    own = {name for name, method in METHODS.items() if not method.is_fitted}  # those have tests/codes
    assert {word for options in FORMULAS for word in options.split()} >= own


def test_a_code_is_in_the_place_of_its_embedding_and_states_how_it_was_made(rsr, lines, drawn):
    sent = embedding_records(drawn[:1])[0]
    sent["properties"] |= {"labels": ["a"], "embedding": embedding(drawn[0], "rcf:seed=3") | {"filled": ["nir08"]}}
    (record,) = parsed(rsr("binarize", "--method", "lsh", "--bits", "8", "--seed", "5", input=lines([sent])))
    code = record["properties"].pop("code")
    del sent["properties"]["embedding"]
    assert record == sent
    stated = {"model": "rcf:seed=3", "filled": ["nir08"], "method": "lsh", "seed": 5, "of": "emb", "bits": 8}
    assert {name: code[name] for name in stated} == stated
    assert set(code) == {*stated, "fingerprint", "data"}


def test_files_and_stdin_are_read_in_the_order_given(rsr, tmp_path, lines, drawn):
    first, second, third = (lines(embedding_records(drawn[i : i + 1])) for i in range(3))
    (tmp_path / "a").write_bytes(first)
    (tmp_path / "b").write_bytes(third)
    done = rsr("binarize", "--method", "sign", "a", "-", "b", input=second, cwd=tmp_path)
    assert [bits_of(record) for record in parsed(done)] == (drawn[:3] > 0).astype(int).tolist()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method", "pca"], "'pca' is not one of 'rotated', 'sign', 'trivial', 'lsh'"),
        (["--bits", "0"], "0 is not in the range"),
        (["--method", "lsh", "--bits", "8", "--seed", "-1"], "-1 is not in the range"),
        (["--method", "lsh"], "lsh needs a number of bits; pass --bits"),
        (["--method", "trivial"], "trivial needs a number of bits; pass --bits"),
        (["--method", "sign", "--seed", "1"], "sign takes no seed, as it draws nothing; leave --seed out"),
        (["--method", "trivial", "--bits", "8", "--seed", "1"], "trivial takes no seed"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(rsr, options, says):
    done = rsr("binarize", *options, input=b"broken")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("rsr binarize: ")
    assert says in line
    assert (done.returncode, failure_in(done.stdout)["status"]) == (2, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--method", "sign", "--bits", "32"],
            "sign makes one bit per dimension, 24 here, not 32; pass another --method for other lengths",
        ),
        (
            ["--method", "trivial", "--bits", "7"],
            "trivial needs a number of bits that divides the 24 dimensions, not 7",
        ),
    ],
)
def test_bits_that_do_not_fit_the_embeddings_are_refused(rsr, tmp_path, lines, drawn, options, says):
    done = rsr("binarize", *options, "-o", "out", input=lines(embedding_records(drawn)), cwd=tmp_path)
    assert (done.returncode, done.stderr.decode()) == (2, f"rsr binarize: {says}\n")
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_embedding_is_named_with_what_helps(rsr, lines, drawn):
    done = rsr("binarize", input=lines([feature("tile", source="x.tif", window=[0, 0, 1, 1], bands=["red"])]))
    says = b"rsr binarize: <stdin>:1: has no embedding; pass the stream through rsr embed\n"
    assert (done.returncode, done.stderr) == (1, says)
    codes = rsr("binarize", input=lines(embedding_records(drawn))).stdout
    done = rsr("binarize", input=codes)
    says = b"<stdin>:1: has a code and no embedding: it was binarized already; pass the records as rsr embed wrote them"
    assert (done.returncode, done.stderr) == (1, b"rsr binarize: " + says + b", before rsr binarize\n")


def test_an_embedding_is_kept_beside_its_code_as_it_came(rsr, lines, drawn):
    sent = embedding_records(drawn)
    sent[3]["properties"]["embedding"] |= {"filled": ["nir08"]}
    sent = sent[3:4]
    (record,) = parsed(rsr("binarize", "--method", "sign", "--keep-embedding", input=lines(sent)))
    assert bits_of(record) == (drawn[3] > 0).astype(int).tolist()
    assert record["properties"].pop("code")["of"] == "emb"
    assert record == sent[0]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_kept_embedding_has_its_type_of_number(rsr, lines, drawn, dtype):
    made = embedding(drawn[0]) | {"dtype": dtype, "data": base64.b64encode(drawn[0].astype(dtype).tobytes()).decode()}
    (record,) = parsed(rsr("binarize", "--keep-embedding", input=lines([feature("a", embedding=made)])))
    assert record["properties"]["embedding"] == made


def test_embeddings_of_others_are_kept_with_the_space_that_they_were_given(rsr, tmp_path, lines, drawn):
    """So that whoever reads them need not be told again."""
    record = feature("a", embedding=drawn[0].tolist())
    made = rsr("binarize", "--keep-embedding", "--space", "mine", input=lines([record])).stdout
    (kept,) = [orjson.loads(line)["properties"] for line in made.splitlines()]
    assert kept["embedding"]["fingerprint"] == kept["code"]["of"]
    assert base64.b64decode(kept["embedding"]["data"]) == drawn[0].tobytes()
    assert rsr("index", "--refine", "int8", "-o", "x.rsr", input=made, cwd=tmp_path).returncode == 0


def test_both_go_through_parquet_and_back_bit_for_bit(rsr, tmp_path, lines, drawn):
    (tmp_path / "e.geojsonl").write_bytes(lines(embedding_records(drawn)))
    made = {}
    for source, target in (("e.geojsonl", "both.geojsonl"), ("e.geojsonl", "both.parquet"), ("both.parquet", "again")):
        assert (
            rsr("binarize", "--method", "sign", "--keep-embedding", source, "-o", target, cwd=tmp_path).returncode == 0
        )
        made[target] = (tmp_path / target).read_bytes()
    assert made["again"] == made["both.geojsonl"]
    frame = geopandas.read_parquet(tmp_path / "both.parquet")
    assert np.array_equal(np.stack(frame.embedding), drawn)
    assert [np.unpackbits(np.frombuffer(code, np.uint8))[:24].tolist() for code in frame.code] == (drawn > 0).tolist()
    query = f"SELECT min(len(embedding)), max(octet_length(code)), count(*) FROM '{tmp_path}/both.parquet'"
    assert duckdb.execute(query).fetchall() == [(24, 3, 30)]
    (footer,) = {pq.read_metadata(tmp_path / "both.parquet").metadata[b"emb"]}
    assert orjson.loads(footer)["dimensions"] == 24
