"""Building an index: what is written, what is refused, and what an existing index is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import orjson
import pytest
from support import batches, code_records, embedding, feature, make_index

from rsr_cli.core.errors import FingerprintError, OutputError, RecordError, RsrError, Skips
from rsr_cli.core.files import remove
from rsr_cli.core.index import upkeep
from rsr_cli.core.index.build import append, build
from rsr_cli.core.index.reading import Index


def nested(depth):
    """A list in a list in a list."""
    inner: list = []
    for _ in range(depth):
        inner = [inner]
    return inner


def test_the_same_stream_makes_the_same_bytes_and_moves(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (50, 8), dtype=np.uint8)
    make_index(tmp_path / "a.rsr", code_records(codes, 64))
    make_index(tmp_path / "b.rsr", code_records(codes, 64))
    files = sorted(path.relative_to(tmp_path / "a.rsr") for path in (tmp_path / "a.rsr").rglob("*.*"))
    assert len(files) == 8
    for name in files:
        assert (tmp_path / "a.rsr" / name).read_bytes() == (tmp_path / "b.rsr" / name).read_bytes()
    (tmp_path / "a.rsr").rename(tmp_path / "strange name? #1.rsr")
    with Index(tmp_path / "strange name? #1.rsr") as index:
        assert index.record(index.row_of("t7"))[0] == "t7"


def test_vectors_of_two_spaces_are_refused(tmp_path):
    records = code_records(np.zeros((4, 4), np.uint8), 32)
    records[3]["properties"]["code"]["fingerprint"] = "others"
    with pytest.raises(FingerprintError, match=r"in:4: .*others.*codes"):
        make_index(tmp_path / "i.rsr", records)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_index_is_kept_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((3, 4), np.uint8), 32))
    with pytest.raises(OutputError, match="exists already") as caught:
        make_index(path, code_records(np.zeros((2, 4), np.uint8), 32))
    assert caught.value.remedy == "overwrite"
    broken = code_records(np.zeros((2, 4), np.uint8), 32, ["x", "x"])
    with pytest.raises(RsrError):
        make_index(path, broken, overwrite=True)
    assert Index(path).manifest.count == 3
    assert make_index(path, code_records(np.zeros((2, 4), np.uint8), 32), overwrite=True).manifest.count == 2
    assert [p.name for p in tmp_path.iterdir()] == ["i.rsr"]
    assert [p.name for p in (path / "segments").iterdir()] == ["000002"]


def test_overwrite_does_not_remove_what_is_no_index(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="is not an index"):
        make_index(precious, code_records(np.zeros((1, 4), np.uint8), 32), overwrite=True)
    assert (precious / "thesis.tex").exists()


@pytest.mark.parametrize(
    "name", ["manifest.json", "lock", "segments", "segments/000001", "generations", "generations/000001.json"]
)
def test_nothing_is_changed_where_a_link_in_an_index_leads(tmp_path, name):
    path, precious = tmp_path / "i.rsr", tmp_path / "precious"
    records = code_records(np.zeros((2, 4), np.uint8), 32)
    make_index(path, records).__exit__()
    linked = path / name
    linked.parent.mkdir(exist_ok=True)
    if linked.exists():
        linked.rename(precious)
    elif "." in name:
        precious.write_text("years of work")
    elif name == "generations":
        precious.mkdir()
    if precious.is_dir():
        (precious / "thesis.tex").write_text("years of work")
    linked.symlink_to(precious)
    before = _found(precious)
    add = code_records(np.ones((1, 4), np.uint8), 32, ["added"])
    for change in (
        lambda: make_index(path, add, overwrite=True),
        lambda: sum(append(batches(add), path, None, Skips())),
        lambda: upkeep.delete(path, lambda _: {0: [1]}),
        lambda: sum(upkeep.compact(path, partitions=1)),
        lambda: sum(upkeep.merge([path], path, Skips(), overwrite=True)),
    ):
        with pytest.raises(OutputError, match=r"is not a (directory|regular file)"):
            change()
    assert _found(precious) == before


def _found(path: Path) -> dict[Path, tuple[int, int]]:
    """The files at and below a path that may not exist, with their times and sizes."""
    found = {entry: entry.stat() for entry in [*path.parent.glob(path.name), *path.rglob("*")]}
    return {entry: (each.st_mtime_ns, each.st_size) for entry, each in found.items()}


def _make_pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("manifest.json", _make_pipe),
        ("lock", Path.mkdir),
        ("lock", _make_pipe),
        ("segments", Path.touch),
        ("segments/000009", Path.touch),
        ("generations", Path.touch),
        ("generations/000001.json", Path.mkdir),
        ("generations/000001.json", _make_pipe),
    ],
)
def test_an_index_with_files_of_another_kind_is_refused(tmp_path, name, make):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((1, 4), np.uint8), 32)).__exit__()
    entry = path / name
    entry.parent.mkdir(exist_ok=True)
    remove(entry)
    make(entry)
    with pytest.raises(OutputError, match=f"{name}: cannot write: it is not a (directory|regular file)"):
        make_index(path, code_records(np.zeros((1, 4), np.uint8), 32), overwrite=True)


def test_a_damaged_index_is_replaced_and_one_that_cannot_be_read_is_kept(tmp_path):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((3, 4), np.uint8), 32))
    (path / "manifest.json").write_text("{")
    assert make_index(path, code_records(np.zeros((2, 4), np.uint8), 32), overwrite=True).manifest.count == 2
    (path / "manifest.json").rename(tmp_path / "kept")
    (path / "manifest.json").mkdir()  # cannot be read as a file, whoever tries
    before = sorted(path.rglob("*"))
    with pytest.raises(OutputError, match=r"manifest\.json: cannot write: it is not a regular file"):
        make_index(path, code_records(np.zeros((4, 4), np.uint8), 32), overwrite=True)
    assert sorted(path.rglob("*")) == before


def test_an_empty_stream_makes_an_empty_index_if_that_is_allowed(tmp_path):
    with pytest.raises(RsrError, match="no usable record was read"):
        make_index(tmp_path / "i.rsr", [])
    with make_index(tmp_path / "i.rsr", [], allow_empty=True) as index:
        assert index.manifest.count == 0
        assert [len(rows) for _, rows in index.search(np.zeros((2, 96), np.uint8), 20)] == [0, 0]


def test_embeddings_are_indexed_when_a_metric_is_given(tmp_path):
    records = code_records(np.zeros((3, 4), np.uint8), 32)
    for record, vector in zip(records, np.eye(3, dtype=np.float32), strict=True):
        record["properties"]["embedding"] = embedding(vector, "m", "emb")
    with make_index(tmp_path / "codes.rsr", [orjson.loads(orjson.dumps(r)) for r in records]) as index:
        assert (index.manifest.space.kind, index.manifest.metric) == ("code", "hamming")
    with make_index(tmp_path / "floats.rsr", records, "l2") as index:
        assert (index.manifest.space.kind, index.manifest.metric) == ("embedding", "l2")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("id", None, "no id"),
        ("id", ["a"], "neither text nor a number"),
        ("id", True, "neither text nor a number"),
        ("bbox", [1, 2, 3], "neither four nor six numbers"),
        ("bbox", [1, 2, 3, None], "neither four nor six numbers"),
        ("bbox", "all", "neither four nor six numbers"),
        ("datetime", {"a": 1}, "not text"),
        ("deep", nested(400), "is nested too deeply"),
        ("bbox", nested(2000), "neither four nor six numbers"),
        ("id", nested(2000), "neither text nor a number"),
        ("datetime", nested(2000), "not text"),
        ("labels", nested(2000), "labels must be a list of strings"),
        ("labels", "lake", "labels must be a list of strings, and are 'lake'"),
        ("labels", ["lake", 1], "labels must be a list of strings"),
    ],
)
def test_records_that_cannot_be_indexed_are_named_or_skipped(tmp_path, field, value, says):
    def records():
        made = code_records(np.arange(12, dtype=np.uint8).reshape(3, 4), 32)
        (made[1]["properties"] if field in ("datetime", "labels") else made[1])[field] = value
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
    make_index(tmp_path / "real.rsr", code_records(np.zeros((3, 4), np.uint8), 32))
    (tmp_path / "link.rsr").symlink_to("real.rsr")
    replaced = make_index(tmp_path / "link.rsr", code_records(np.zeros((2, 4), np.uint8), 32), overwrite=True)
    assert replaced.manifest.count == 2
    assert (tmp_path / "link.rsr").is_symlink()
