"""``rsr index`` as its user runs it."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import binarized, code, code_records, embedding, embedding_records, feature

from rsr_cli.core.encoders.statistics import PRITHVI_BANDS
from rsr_cli.core.index.reading import Index


def test_what_else_lies_in_an_index_is_not_deleted(rsr, tmp_path):
    assert rsr("index", "-o", "x.rsr", "--allow-empty", input=b"", cwd=tmp_path).returncode == 0
    (tmp_path / "x.rsr" / "note.txt").write_text("mine")
    done = rsr("index", "-o", "x.rsr", "--overwrite", input=b"", cwd=tmp_path)
    assert (done.returncode, b"has other files in it; it is not replaced" in done.stderr) == (1, True)
    assert (tmp_path / "x.rsr" / "note.txt").read_text() == "mine"


def test_the_directory_above_has_to_be_there(rsr, tmp_path):
    done = rsr("index", "-o", "no/x.rsr", input=b"", cwd=tmp_path)
    assert (done.returncode, b"no/x.rsr: cannot write: no such file or directory" in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def make_schema_1(path):
    path.mkdir()
    for name in ("vectors.faiss", "records.sqlite"):
        (path / name).write_bytes(b"old")
    (path / "manifest.json").write_bytes(orjson.dumps({"schema_version": 1, "count": 3}))
    return path


def test_an_index_of_schema_1_is_refused_and_replaced(rsr, tmp_path):
    path = make_schema_1(tmp_path / "old.rsr")
    done = rsr("query", "old.rsr", "--id", "x", cwd=tmp_path)
    line = (
        b"rsr query: old.rsr: is an index of schema 1, and this version reads schema 2; build it again with rsr index\n"
    )
    assert (done.returncode, done.stderr) == (1, line)
    record = orjson.dumps(feature("new", code=code(np.zeros(4), 32)))
    assert rsr("index", "-o", "old.rsr", "--overwrite", input=record, cwd=tmp_path).returncode == 0
    assert sorted(entry.name for entry in path.iterdir()) == ["lock", "manifest.json", "segments"]
    with Index(path) as index:
        assert index.row_of("new") == 0


@pytest.mark.parametrize(
    ("content", "options", "status"), [(b"", [], 1), (b"\n \n", [], 1), (b'{"bad\n{}\n', ["--keep-going"], 1)]
)
def test_a_stream_without_a_usable_record_makes_an_index_only_if_that_is_allowed(
    rsr, tmp_path, content, options, status
):
    done = rsr("index", "-o", "i.rsr", *options, input=content, cwd=tmp_path)
    says = (
        "no usable record was read, and the index would be empty; "
        "pass --allow-empty to build an index without rows, which does not replace one with rows"
    )
    assert (done.returncode, done.stderr.decode().splitlines()[-1]) == (status, f"rsr index: {says}")
    assert list(tmp_path.iterdir()) == []
    done = rsr("index", "-o", "i.rsr", "--allow-empty", *options, input=content, cwd=tmp_path)
    assert done.returncode == (3 if options else 0)
    with Index(tmp_path / "i.rsr") as index:
        assert index.manifest.count == 0


def test_an_empty_index_becomes_one_with_rows_and_never_back(rsr, tmp_path):
    def index(content, *options):
        done = rsr("index", "-o", "i.rsr", "--overwrite", *options, input=content, cwd=tmp_path)
        with Index(tmp_path / "i.rsr") as opened:
            return done.returncode, opened.manifest.count, done.stderr.decode()

    record = orjson.dumps(feature("new", code=code(np.zeros(4), 32)))
    empty = "rsr index: <stdin>: is empty\n"
    assert index(b"", "--allow-empty") == (0, 0, empty)
    assert index(b"", "--allow-empty") == (0, 0, empty)
    assert index(record) == (0, 1, "")
    says = "i.rsr: no usable record was read, and 1 row would be lost; remove it first if you want an empty one"
    status, count, said = index(b"", "--allow-empty")
    assert (status, count, said.splitlines()[-1]) == (1, 1, f"rsr index: {says}")
    assert index(b"")[:2] == (1, 1)


@pytest.mark.parametrize("damage", ["schema 1", "damaged"])
def test_an_index_that_cannot_be_read_is_not_replaced_by_an_empty_one(rsr, tmp_path, damage):
    path = make_schema_1(tmp_path / "old.rsr")
    if damage == "damaged":
        (path / "manifest.json").write_bytes(b"{")
    done = rsr("index", "-o", "old.rsr", "--overwrite", "--allow-empty", input=b"", cwd=tmp_path)
    assert (done.returncode, b"an index that cannot be read would be lost" in done.stderr) == (1, True)
    assert (path / "vectors.faiss").read_bytes() == b"old"


def test_an_index_of_schema_1_whose_replacement_failed_can_be_replaced(rsr, tmp_path):
    path = make_schema_1(tmp_path / "old.rsr")
    assert rsr("index", "-o", "old.rsr", "--overwrite", input=b'{"bad', cwd=tmp_path).returncode == 1
    assert (path / "vectors.faiss").exists()
    record = orjson.dumps(feature("new", code=code(np.zeros(4), 32)))
    assert rsr("index", "-o", "old.rsr", "--overwrite", input=record, cwd=tmp_path).returncode == 0
    (path / "vectors.faiss").write_bytes(b"left by a writer that was killed after it had published")
    assert rsr("index", "-o", "old.rsr", "--overwrite", input=record, cwd=tmp_path).returncode == 0
    assert sorted(entry.name for entry in path.iterdir()) == ["lock", "manifest.json", "segments"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "missing option '-o'"),
        (["-o", "-"], "an index is a directory and cannot be written to stdout; pass its name to -o"),
        (["-o", "i.rsr", "--metric", "hamming"], "'hamming' is not one of 'cosine', 'l1', 'l2', 'dot'"),
        (["-o", "i.rsr", "--bits", "8"], "no such option"),
        (["-o", "i.rsr", "--delete", "--replace"], "--replace is for records that are added"),
        (["-o", "i.rsr", "--compact", "--replace"], "--replace is for records that are added"),
        (["-o", "i.rsr", "--compact", "--allow-empty"], "--allow-empty is for an index that is built"),
        (["-o", "i.rsr", "--compact", "--vector-column", "v"], "--vector-column is for records that are read"),
        (["-o", "i.rsr", "--delete", "--id", "a", "--space", "x"], "--space is for records that are read"),
        (["-o", "i.rsr", "--delete", "--filter", "a = 1", "--filter", "b = 2"], "--filter is passed 2 times"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(rsr, tmp_path, lines, arguments, says):
    done = rsr("index", *arguments, input=lines(code_records(np.zeros((1, 4), np.uint8), 32)), cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("rsr index: ")
    assert says in line
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_with_its_remedy_before_anything_is_read(rsr, tmp_path):
    assert rsr("index", "-o", "x.rsr", "--allow-empty", input=b"", cwd=tmp_path).returncode == 0
    done = rsr("index", "-o", "x.rsr", input=b"broken", cwd=tmp_path)
    says = b"rsr index: x.rsr: exists already; pass --overwrite to replace it\n"
    assert (done.returncode, done.stderr) == (1, says)


def test_overwriting_is_not_suggested_for_what_is_no_index(rsr, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "file").write_text("years of work")
    for name in ("precious", "file"):
        done = rsr("index", "-o", name, input=b"broken", cwd=tmp_path)
        says = "exists and is not an index, or has other files in it; it is not replaced; pass another name to -o"
        assert (done.returncode, done.stderr.decode()) == (1, f"rsr index: {name}: {says}\n")


def test_codes_are_preferred_and_a_metric_asks_for_the_embeddings(rsr, tmp_path, lines):
    records = code_records(np.arange(12, dtype=np.uint8).reshape(3, 4), 32)
    vectors = np.eye(3, dtype=np.float32) * 7
    for record, vector in zip(records, vectors, strict=True):
        record["properties"]["embedding"] = embedding(vector)
    (tmp_path / "in").write_bytes(lines(records))
    for options, kind, metric, first in (
        ([], "code", "hamming", [0, 1, 2, 3]),
        (["--metric", "dot"], "embedding", "dot", [7, 0, 0]),
    ):
        done = rsr("index", "in", "-o", f"{metric}.rsr", *options, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        with Index(tmp_path / f"{metric}.rsr") as index:
            assert (index.manifest.space.kind, index.manifest.metric, index.manifest.count) == (kind, metric, 3)
            assert index.vector(0).tolist() == first


def test_embeddings_are_compared_by_cosine_unless_a_metric_is_passed(rsr, tmp_path, lines):
    stream = lines(embedding_records(np.eye(4, dtype=np.float32)))
    assert rsr("index", "-o", "i.rsr", input=stream, cwd=tmp_path).returncode == 0
    with Index(tmp_path / "i.rsr") as index:
        assert index.manifest.metric == "cosine"


def test_files_are_indexed_in_the_order_given(rsr, tmp_path, lines):
    for name in "ba":
        (tmp_path / name).write_bytes(lines(code_records(np.zeros((2, 4), np.uint8), 32, [f"{name}0", f"{name}1"])))
    assert rsr("index", "b", "a", "-o", "i.rsr", cwd=tmp_path).returncode == 0
    with Index(tmp_path / "i.rsr") as index:
        assert [index.record(row)[0] for row in range(4)] == ["b0", "b1", "a0", "a1"]


def test_an_id_that_comes_twice_names_its_remedy(rsr, tmp_path, lines):
    stream = lines(code_records(np.zeros((3, 4), np.uint8), 32, ["a", "b", "a"]))
    done = rsr("index", "-o", "i.rsr", input=stream, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("rsr index: <stdin>:3: the id 'a' occurs twice, first at <stdin>:1; ids must be unique: ")
    assert "--id-prefix" in line
    assert list(tmp_path.iterdir()) == []
    done = rsr("index", "--keep-going", "-o", "i.rsr", input=stream, cwd=tmp_path)
    says = "rsr index: <stdin>:3: the id 'a' occurs twice, first at <stdin>:1; skipped\nrsr index: 1 skipped\n"
    assert (done.returncode, done.stderr.decode()) == (3, says)
    with Index(tmp_path / "i.rsr") as index:
        assert index.manifest.count == 2


def test_keep_going_skips_what_cannot_be_indexed_and_ends_with_3(rsr, tmp_path, lines):
    records = [feature("tile"), *code_records(np.zeros((2, 4), np.uint8), 32)]
    records[1]["bbox"] = [1, 2, 3]
    done = rsr("index", "-o", "i.rsr", input=lines(records), cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    done = rsr("index", "--keep-going", "-o", "i.rsr", input=lines(records), cwd=tmp_path)
    assert done.returncode == 3
    first, second, last = done.stderr.decode().splitlines()
    assert first.startswith("rsr index: <stdin>:1: has no code")
    assert second.startswith("rsr index: <stdin>:2: has a bbox that is neither four nor six numbers")
    assert last == "rsr index: 2 skipped"
    with Index(tmp_path / "i.rsr") as index:
        assert (index.manifest.count, index.row_of("t1")) == (1, 0)


def test_the_manifest_states_the_command_line_the_files_and_the_recipe(rsr, tmp_path):
    record = feature("x", embedding=embedding(np.ones(768), "rcf:seed=3"))
    done = rsr("index", "-q", "-o", "i.rsr", input=orjson.dumps(record), cwd=tmp_path)
    assert done.returncode == 0
    manifest = orjson.loads((tmp_path / "i.rsr" / "manifest.json").read_bytes())
    assert manifest["arguments"] == ["rsr", "index", "-q", "-o", "i.rsr"]
    recipe = manifest["space"]["recipe"]
    assert (recipe["model"], recipe["seed"], recipe["bands"]) == ("rcf", 3, list(PRITHVI_BANDS))
    (segment,) = manifest["segments"]
    folder = tmp_path / "i.rsr" / "segments" / segment["name"]
    assert {path.name for path in folder.iterdir()} == set(segment["files"])
    for name, stated in segment["files"].items():
        content = (folder / name).read_bytes()
        assert stated == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture(scope="module")
def both():
    """Records with embeddings and the codes that were made of them."""
    vectors = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    return binarized(embedding_records(vectors), keep_embedding=True)


@pytest.mark.parametrize("name", ["in.geojsonl", "in.parquet"])
def test_embeddings_are_stored_beside_codes(rsr, tmp_path, lines, both, name):
    (tmp_path / "lines").write_bytes(lines(both))
    assert rsr("binarize", "--keep-embedding", "lines", "-o", name, cwd=tmp_path).returncode == 0
    made = rsr("index", name, "--refine", "float32", "--metric", "cosine", "-o", "x.rsr", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, b"")
    stored = np.load(tmp_path / "x.rsr/segments/000001/refine.npy")
    vectors = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    np.testing.assert_allclose(stored, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rtol=1e-6)
    assert b"refine      dtype float32, metric cosine, dim 16\n" in rsr("info", "x.rsr", cwd=tmp_path).stdout
    appended = rsr("index", "--append", "--replace", name, "-o", "x.rsr", cwd=tmp_path)
    compacted = rsr("index", "--compact", "-o", "x.rsr", cwd=tmp_path)
    assert (appended.returncode, compacted.returncode, rsr("check", "x.rsr", cwd=tmp_path).returncode) == (0, 0, 0)
    (segment,) = (tmp_path / "x.rsr/segments").iterdir()
    assert np.array_equal(np.load(segment / "refine.npy"), stored)


@pytest.mark.parametrize("ending", ["geojsonl", "parquet"])
@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ("embedding", "1: has no code; pass the stream through rsr binarize --keep-embedding"),
        ("code", "1: has no embedding beside its code; pass --keep-embedding to rsr binarize"),
    ],
)
def test_one_vector_of_two_is_not_enough(rsr, tmp_path, lines, both, ending, keep, says):
    (tmp_path / "lines").write_bytes(lines(both))
    name, other = f"in.{ending}", "code" if keep == "embedding" else "embedding"
    if ending == "geojsonl":
        records = [record | {"properties": {keep: record["properties"][keep]}} for record in both]
        (tmp_path / name).write_bytes(lines(records))
    else:
        assert rsr("binarize", "--keep-embedding", "lines", "-o", "both.parquet", cwd=tmp_path).returncode == 0
        table = pq.read_table(tmp_path / "both.parquet")
        pq.write_table(table.drop([other, f"{other}_space"]), tmp_path / name)
    done = rsr("index", name, "--refine", "int8", "-o", "x.rsr", cwd=tmp_path)
    assert (done.returncode, done.stderr.decode()) == (1, f"rsr index: {name}:{says}\n")
    assert not (tmp_path / "x.rsr").exists()


@pytest.mark.parametrize("ending", ["geojsonl", "parquet"])
def test_rows_without_one_of_the_two_are_left_out_with_keep_going(rsr, tmp_path, lines, both, ending):
    records = [record | {"properties": dict(record["properties"])} for record in both]
    del records[4]["properties"]["code"], records[9]["properties"]["embedding"]
    (tmp_path / "in.geojsonl").write_bytes(lines(records))
    if ending == "parquet":
        (tmp_path / "lines").write_bytes(lines(both))
        made = rsr("binarize", "--method", "sign", "--keep-embedding", "lines", "-o", "both.parquet", cwd=tmp_path)
        assert made.returncode == 0
        table = pq.read_table(tmp_path / "both.parquet")
        for name, row in (("code", 4), ("embedding", 9)):
            values = table[name].to_pylist()
            values[row] = None
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
        pq.write_table(table, tmp_path / "in.parquet")
    refined = ("--refine", "float32", "--metric", "l1")
    done = rsr("index", f"in.{ending}", *refined, "--keep-going", "-o", "x.rsr", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.count(b"; skipped\n") == 2
    vectors = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    assert np.array_equal(np.load(tmp_path / "x.rsr/segments/000001/refine.npy"), np.delete(vectors, [4, 9], axis=0))
    codes = np.load(tmp_path / "x.rsr/segments/000001/vectors.npy")
    assert np.array_equal(codes, np.packbits(np.delete(vectors, [4, 9], axis=0) > 0, axis=1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--refine", "int4"], "'int4' is not one of 'int8', 'float16', 'float32'"),
        (["--refine", "int8", "--append"], "the index stores its embeddings as float16, not int8; leave --refine out"),
        (["--metric", "l2", "--append"], "the index compares its vectors by cosine, not l2; leave --metric out"),
        (["--refine", "int8", "--compact"], "--refine is for records that are added"),
        (["--refine", "int8", "--delete"], "--refine is for records that are added"),
        (["--refine", "int8", "x.rsr"], "--refine is for records that are added"),
    ],
)
def test_what_is_stored_beside_codes_is_decided_once(rsr, tmp_path, lines, both, arguments, says):
    made = rsr("index", "--refine", "float16", "-o", "x.rsr", input=lines(both), cwd=tmp_path)
    assert made.returncode == 0
    done = rsr("index", *arguments, "-o", "x.rsr" if "x.rsr" not in arguments else "y.rsr", input=b"", cwd=tmp_path)
    (line,) = done.stderr.decode().splitlines()
    assert says in line
    assert done.returncode == 2


def test_what_is_deleted_is_not_suggested(rsr, tmp_path, lines):
    records = code_records(np.zeros((2, 4), np.uint8), 32, ["t1", "at10"])
    assert rsr("index", "-o", "i.rsr", input=lines(records), cwd=tmp_path).returncode == 0
    assert rsr("index", "--delete", "-o", "i.rsr", "--id", "t1", cwd=tmp_path).returncode == 0
    done = rsr("query", "i.rsr", "--id", "t1", cwd=tmp_path)
    assert done.stderr == b"rsr query: i.rsr: has no item with the id 't1'; did you mean 'at10'?\n"


def test_merging_names_the_metrics_that_differ(rsr, tmp_path, lines):
    for metric in ("l1", "l2"):
        records = [{**each, "id": f"{metric}-{each['id']}"} for each in embedding_records(np.ones((1, 4)))]
        assert rsr("index", "-o", metric, "--metric", metric, input=lines(records), cwd=tmp_path).returncode == 0
    done = rsr("index", "l1", "l2", "-o", "i.rsr", cwd=tmp_path)
    says = b"rsr index: l2: vectors compared by l2 cannot be in one index with those compared by l1; "
    says += b"build one of them again from its records, as the other one is\n"
    assert (done.returncode, done.stderr) == (2, says)


def test_appending_an_empty_index_changes_nothing(rsr, tmp_path, lines):
    assert rsr("index", "-o", "empty", "--allow-empty", input=b"", cwd=tmp_path).returncode == 0
    records = code_records(np.zeros((2, 4), np.uint8), 32)
    assert rsr("index", "-o", "i.rsr", input=lines(records), cwd=tmp_path).returncode == 0
    before = (tmp_path / "i.rsr" / "manifest.json").read_bytes()
    done = rsr("index", "--append", "empty", "-o", "i.rsr", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "i.rsr" / "manifest.json").read_bytes() == before
    done = rsr("index", "--overwrite", "empty", "-o", "i.rsr", cwd=tmp_path)
    assert (done.returncode, b"the indexes have no rows; remove it first" in done.stderr) == (1, True)


def test_a_disk_that_is_full_as_files_are_closed_is_one_line_that_names_the_index(tmp_path, lines):
    """A file of more than 150 bytes cannot be written, and what is buffered is written as it is closed."""
    script = (
        "import resource, sys; from rsr_cli.main import main; import rsr_cli.core.index.build as b\n"
        "add = b.SegmentWriter.add\n"
        "def full(*given):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))\n"
        "    return add(*given)\n"
        "b.SegmentWriter.add = full\n"
        "main(sys.argv[1:])\n"
    )
    records = lines(code_records(np.zeros((40, 4), np.uint8), 32))
    command = [sys.executable, "-c", script, "index", "--append", "-o", "i.rsr"]
    done = subprocess.run(command, input=records, capture_output=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, b"rsr index: i.rsr: cannot write: file too large\n")
    assert list(tmp_path.iterdir()) == []


def test_items_are_deleted_by_the_beginning_of_their_ids(rsr, tmp_path, lines):
    records = code_records(np.zeros((4, 4), np.uint8), 32)
    for name, record in zip(("may_0", "may_64", "june_0", "mayor_0"), records, strict=True):
        record["id"] = name
    assert rsr("index", "-o", "x.rsr", input=lines(records), cwd=tmp_path).returncode == 0
    done = rsr("index", "--delete", "--id", "may_*", "-o", "x.rsr", cwd=tmp_path)
    says = "has no item with the id 'may_*'; to delete the items whose ids begin so, pass --filter"
    assert (done.returncode, says in done.stderr.decode()) == (1, True)
    begins = "id LIKE 'may\\_%'"
    done = rsr("index", "--delete", "--filter", begins, "-o", "x.rsr", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    with Index(tmp_path / "x.rsr") as index:
        assert [index.find(name) is None for name in ("may_0", "may_64", "june_0", "mayor_0")] == [
            True,
            True,
            False,
            False,
        ]
    told = dict(line.split(None, 1) for line in rsr("info", "x.rsr", cwd=tmp_path).stdout.decode().splitlines())
    assert shlex.split(told["arguments"]) == ["rsr", "index", "--delete", "--filter", begins, "-o", "x.rsr"]
    done = rsr("index", "--delete", "--filter", begins, "-o", "x.rsr", cwd=tmp_path)
    assert done.stderr == b"rsr index: no item of the index matches the filters, and nothing was deleted\n"


def test_an_index_is_not_appended_to_itself(rsr, tmp_path, lines):
    assert (
        rsr("index", "-o", "a.rsr", input=lines(code_records(np.zeros((2, 4), np.uint8), 32)), cwd=tmp_path).returncode
        == 0
    )
    done = rsr("index", "--append", "--replace", "./a.rsr", "-o", "a.rsr", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, b"rsr index: a.rsr cannot be appended to itself\n")


def test_a_filter_of_the_environment_is_taken_whole(rsr, tmp_path, lines):
    records = code_records(np.zeros((3, 4), np.uint8), 32)
    for number, each in enumerate(records):
        each["properties"]["n"] = number
    assert rsr("index", "-o", "a.rsr", input=lines(records), cwd=tmp_path).returncode == 0
    env = {"RSR_INDEX_FILTER": "n > 0 AND n < 2"}
    assert rsr("index", "--delete", "-o", "a.rsr", cwd=tmp_path, env=env).returncode == 0
    with Index(tmp_path / "a.rsr") as index:
        assert [index.find(each["id"]) is None for each in records] == [False, True, False]


def test_options_that_a_merge_does_not_heed_are_refused_if_they_are_typed(rsr, tmp_path, lines):
    for name in ("a", "b"):
        records = [record | {"id": name} for record in code_records(np.zeros((1, 4), np.uint8), 32)]
        assert rsr("index", "-o", f"{name}.rsr", input=lines(records), cwd=tmp_path).returncode == 0
    for option, says in (
        (["--space", "x"], "--space is for records that are read"),
        (["--allow-empty"], "--allow-empty is for an index that is built"),
    ):
        done = rsr("index", "a.rsr", "b.rsr", "-o", "c.rsr", *option, cwd=tmp_path)
        assert (done.returncode, done.stderr.decode()) == (2, f"rsr index: {says}\n")
    env = {"RSR_INDEX_SPACE": "x", "RSR_INDEX_ALLOW_EMPTY": "1", "RSR_QUERY_SPACE": "x"}
    assert rsr("index", "a.rsr", "b.rsr", "-o", "c.rsr", cwd=tmp_path, env=env).returncode == 0
    assert rsr("index", "--compact", "-o", "c.rsr", cwd=tmp_path, env=env).returncode == 0
    assert rsr("query", "c.rsr", "--id", "a", cwd=tmp_path, env=env).returncode == 0


def test_a_metric_of_the_environment_is_a_default(rsr, tmp_path, lines):
    """It is no reason to refuse what has a metric, or needs none."""
    records = embedding_records(np.eye(4, dtype=np.float32))
    other = [record | {"id": f"b{record['id']}"} for record in records]
    codes = lines(code_records(np.zeros((1, 4), np.uint8), 32))
    for name in ("cosine", "b"):
        sent = lines(other if name == "b" else records)
        assert rsr("index", "-o", f"{name}.rsr", input=sent, cwd=tmp_path).returncode == 0
    more = lines([record | {"id": f"c{record['id']}"} for record in records])
    for arguments, sent, metric in (
        (["-o", "l1.rsr"], lines(records), "l1"),
        (["-o", "codes.rsr"], codes, "hamming"),
        (["-o", "cosine.rsr", "--append"], more, "cosine"),
        (["-o", "cosine.rsr", "--compact"], b"", "cosine"),
        (["-o", "merged.rsr", "cosine.rsr", "b.rsr"], b"", "cosine"),
        (["-o", "cosine.rsr", "--delete", "--id", "t1"], b"", "cosine"),
    ):
        done = rsr("index", *arguments, input=sent, cwd=tmp_path, env={"RSR_INDEX_METRIC": "l1"})
        assert (done.returncode, done.stderr) == (0, b"")
        with Index(tmp_path / arguments[1]) as index:
            assert index.manifest.metric == metric
    for mode in ("--compact", "--append", "--delete"):
        done = rsr("index", "--metric", "l1", mode, "-o", "cosine.rsr", input=more, cwd=tmp_path)
        assert (done.returncode, b"metric" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("has", "gets", "needs"),
    [
        ("--method sign", "", "--method sign --bits 16"),
        ("", "--method sign", "--method rotated --bits 16 --seed 0"),
        ("--method lsh --bits 24 --seed 3", "--method lsh --bits 24", "--method lsh --bits 24 --seed 3"),
        ("--bits 12", "", "--method rotated --bits 12 --seed 0"),
    ],
)
def test_codes_of_another_method_are_refused_with_what_to_pass(rsr, tmp_path, lines, has, gets, needs):
    records = embedding_records(np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32))
    sent = [lines([record | {"id": f"{name}{record['id']}"} for record in records]) for name in "ab"]
    made = rsr("binarize", *has.split(), input=sent[0]).stdout
    assert rsr("index", "-o", "i.rsr", input=made, cwd=tmp_path).returncode == 0
    other = rsr("binarize", *gets.split(), input=sent[1]).stdout
    for command in (["index", "--append", "-o", "i.rsr"], ["query", "i.rsr"]):
        done = rsr(*command, input=other, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.decode().endswith(f"; pass {needs} to rsr binarize\n")
    right = rsr("binarize", *needs.split(), input=sent[1]).stdout
    assert rsr("index", "--append", "-o", "i.rsr", input=right, cwd=tmp_path).returncode == 0


def test_codes_of_another_program_have_no_method_to_pass(rsr, tmp_path, lines):
    one, other = (code_records(np.zeros((1, 2), np.uint8), 16, [name]) for name in "ab")
    for record in (*one, *other):
        for fact in ("method", "of"):
            record["properties"]["code"].pop(fact, None)
    other[0]["properties"]["code"]["fingerprint"] = "other"
    assert rsr("index", "-o", "i.rsr", input=lines(one), cwd=tmp_path).returncode == 0
    done = rsr("index", "--append", "-o", "i.rsr", input=lines(other), cwd=tmp_path)
    assert (done.returncode, done.stderr.endswith(b"; make both with the same settings, or keep them apart\n")) == (
        1,
        True,
    )


def test_an_index_that_was_emptied_has_no_ground_sample_distance(rsr, tmp_path, lines):
    (record,) = code_records(np.zeros((1, 4), np.uint8), 32)
    record["properties"]["gsd"] = 10
    assert rsr("index", "-o", "a.rsr", input=lines([record]), cwd=tmp_path).returncode == 0
    assert orjson.loads(rsr("info", "--json", "a.rsr", cwd=tmp_path).stdout)["gsd"] == [10, 10]
    assert rsr("index", "--delete", "--id", record["id"], "-o", "a.rsr", cwd=tmp_path).returncode == 0
    assert "gsd" not in orjson.loads(rsr("info", "--json", "a.rsr", cwd=tmp_path).stdout)


def test_a_merged_index_states_how_it_was_merged(rsr, tmp_path, lines):
    for name in ("a", "b"):
        records = [record | {"id": f"{name}{record['id']}"} for record in code_records(np.zeros((2, 4), np.uint8), 32)]
        assert rsr("index", "-o", f"{name}.rsr", input=lines(records), cwd=tmp_path).returncode == 0
    for arguments in (["a.rsr", "b.rsr", "-o", "c.rsr"], ["b.rsr", "--append", "-o", "a.rsr"]):
        assert rsr("index", *arguments, cwd=tmp_path).returncode == 0
        manifest = orjson.loads((tmp_path / arguments[-1] / "manifest.json").read_bytes())
        assert manifest["arguments"] == ["rsr", "index", *arguments]


@pytest.mark.parametrize(
    ("gsd", "side_px", "says"),
    [
        (10, 64, ""),
        (10, 224, "tiles of 640 m and of 2240 m on the ground"),
        (30, 64, "pixels of 10 m and of 30 m on the ground"),
    ],
)
def test_tiles_of_another_size_on_the_ground_are_warned_about(rsr, tmp_path, lines, gsd, side_px, says):
    for name, stated in (("a", (10, 64)), ("b", (gsd, side_px))):
        (record,) = code_records(np.zeros((1, 4), np.uint8), 32)
        record["id"] = name
        record["properties"] |= {"gsd": stated[0], "proj:shape": [stated[1], stated[1]]}
        (tmp_path / name).write_bytes(lines([record]))
        assert rsr("index", name, "-o", f"{name}.rsr", cwd=tmp_path).stderr == b""
    for arguments in (["a.rsr", "b.rsr", "-o", "c.rsr"], ["b", "--append", "-o", "a.rsr"]):
        done = rsr("index", *arguments, cwd=tmp_path)
        assert (done.returncode, says in done.stderr.decode(), not done.stderr) == (0, True, not says)
