"""Embeddings beside codes: as they are stored, appended, merged, compacted, and damaged."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import batches, binarized, embedding_records, make_index, written

from rsr_cli.core.codes.base import binarize
from rsr_cli.core.errors import FingerprintError, IndexFormatError, RecordError, Skips, UsageError
from rsr_cli.core.index import build, integrity, upkeep
from rsr_cli.core.index.manifest import Manifest, Refine
from rsr_cli.core.index.reading import Index
from rsr_cli.core.index.rerank import Refined, RefineWriter
from rsr_cli.core.index.summary import summarize
from rsr_cli.core.records.scaled import written_as

SEGMENT = "segments/000001"
VECTORS = np.random.default_rng(1).standard_normal((30, 12)).astype(np.float32)


def both(vectors=VECTORS, first=0, fingerprint="emb") -> list[dict]:
    records = binarized(embedding_records(vectors, fingerprint), keep_embedding=True)
    for number, record in enumerate(records, first):
        record["id"] = f"t{number}"
    return records


def embeddings_in(index: Index) -> np.ndarray:
    rows = [s.first + row for s in index.segments for row in range(s.count) if row not in s.deleted]
    return np.array([index.embedding(row) for row in rows])


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None)
@given(vectors=arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=finite))
def test_int8_is_within_half_a_step_of_what_came(tmp_path_factory, vectors):
    folder = tmp_path_factory.mktemp("s")
    writer = RefineWriter(folder, "int8", "l1")
    writer.append(vectors)
    writer.close()
    whole, scales = np.load(folder / "refine.npy"), np.load(folder / "scales.npy").astype(float)
    assert (whole.dtype, whole.min() >= -127) == (np.int8, True)
    refined = Refined(folder, len(vectors), Refine("int8", "l1", vectors.shape[1]))
    got = np.array([refined.row(row) for row in range(len(vectors))])
    assert np.array_equal(got, whole * scales[:, None])
    step = np.maximum(scales, 2.0**-149)[:, None]  # float32's least number, below which there is no scale
    assert (np.abs(got - vectors.astype(float)) <= 64 * 2.0**-149 + step * (0.5 + 1e-4)).all()


@pytest.mark.parametrize(("dtype", "bytes_"), [("int8", 12), ("float16", 24), ("float32", 48)])
def test_what_is_stored_is_read_and_summed_up(tmp_path, dtype, bytes_):
    path = tmp_path / "x.rsr"
    with make_index(path, both(), "l2", refine=dtype) as index:
        assert (index.manifest.metric, index.manifest.refine) == ("hamming", Refine(dtype, "l2", 12))
        np.testing.assert_allclose(embeddings_in(index), VECTORS, atol=0.02 if dtype == "int8" else 2e-3)
        if dtype != "int8":
            assert np.array_equal(embeddings_in(index), VECTORS.astype(dtype))
    stored = np.load(path / SEGMENT / "refine.npy")
    assert (stored.dtype, stored.shape, stored.itemsize * 12) == (np.dtype(dtype), (30, 12), bytes_)
    assert (path / SEGMENT / "scales.npy").exists() == (dtype == "int8")
    assert summarize(path)["refine"] == {"dtype": dtype, "metric": "l2", "dim": 12}
    assert sum(integrity.check(path, pytest.fail)) > 30 * bytes_


def test_of_cosine_the_default_unit_vectors_are_stored(tmp_path):
    with make_index(tmp_path / "x.rsr", both(1e6 * VECTORS), refine="float16") as index:
        assert index.manifest.refine.metric == "cosine"
        np.testing.assert_allclose(np.linalg.norm(embeddings_in(index), axis=1), 1, atol=1e-3)


def test_embeddings_are_ignored_unless_they_are_asked_for(tmp_path):
    with make_index(tmp_path / "x.rsr", both()) as index:
        assert (index.manifest.refine, index.manifest.space.kind) == (None, "code")
        assert not {"refine.npy", "scales.npy"} & index.segments[0].facts.files.keys()
        assert "embedding" not in index.record(0)[1]


def test_a_value_beyond_float16_is_refused_or_skipped(tmp_path):
    vectors = VECTORS.copy()
    vectors[4, 3] = -70000
    with pytest.raises(RecordError, match=r"in:5: its embedding has values up to 7e\+04, beyond float16's"):
        make_index(tmp_path / "x.rsr", both(vectors), "l1", refine="float16")
    skips = Skips(keep_going=True)
    read = batches(both(vectors), ("code",), beside="embedding")
    assert sum(build.build(read, tmp_path / "x.rsr", "l1", skips, refine="float16")) == 29
    with Index(tmp_path / "x.rsr") as index:
        assert np.array_equal(embeddings_in(index), np.delete(vectors, 4, axis=0).astype(np.float16))
        assert [index.record(row)[0] for row in (3, 4)] == ["t3", "t5"]


def test_embeddings_of_which_the_codes_were_not_made_are_refused(tmp_path):
    records = both()
    for record, other in zip(records, embedding_records(VECTORS, "elsewhere"), strict=True):
        record["properties"]["embedding"] = other["properties"]["embedding"]
    says = "its embedding is not that of its code .fingerprint elsewhere, not emb"
    with pytest.raises(FingerprintError, match=says):
        make_index(tmp_path / "x.rsr", records, refine="int8")


@pytest.mark.parametrize(("kind", "says"), [("embedding", "no embedding beside its code"), ("code", "has no code")])
def test_a_record_without_one_of_the_two_is_named_or_skipped(tmp_path, kind, says):
    def records():
        made = both()
        del made[2]["properties"][kind]
        return made

    with pytest.raises(RecordError, match=f"in:3: .*{says}"):
        make_index(tmp_path / "x.rsr", records(), refine="int8")
    skips = Skips(keep_going=True)
    read = batches(records(), ("code",), beside="embedding", skips=skips)
    assert sum(build.build(read, tmp_path / "x.rsr", "l1", skips, refine="float32")) == 29
    with Index(tmp_path / "x.rsr") as index:
        assert np.array_equal(embeddings_in(index), np.delete(VECTORS, 2, axis=0))


def append(path, records, metric=None, refine=None) -> int:
    takes = build.appendable(path, metric, refine)
    read = batches(records, takes.kinds, beside=takes.beside)
    return sum(build.append(read, path, takes.metric, Skips(), refine=takes.refine))


def test_an_index_takes_what_it_stores(tmp_path):
    path = tmp_path / "x.rsr"
    append(path, both(), "cosine", "int8")
    for metric, refine in ((None, None), ("cosine", None), (None, "int8"), ("cosine", "int8")):
        assert build.appendable(path, metric, refine) == (("code",), "embedding", "cosine", "int8")
    with pytest.raises(UsageError, match="compares its vectors by cosine, not l1"):
        build.appendable(path, "l1")
    with pytest.raises(UsageError, match="stores its embeddings as int8, not float32"):
        build.appendable(path, None, "float32")
    with pytest.raises(RecordError, match="has no embedding beside its code"):
        append(path, binarized(embedding_records(VECTORS)))
    make_index(tmp_path / "y.rsr", both()).__exit__()
    with pytest.raises(UsageError, match="stores no embeddings beside its codes"):
        build.appendable(tmp_path / "y.rsr", None, "int8")
    assert build.appendable(tmp_path / "y.rsr", None) == (("code",), None, None, None)
    make_index(tmp_path / "z.rsr", embedding_records(VECTORS), "l2").__exit__()
    assert build.appendable(tmp_path / "z.rsr", None) == (("embedding",), None, "l2", None)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_appended_compacted_and_merged_rows_keep_their_embeddings_bit_for_bit(tmp_path, dtype):
    path = tmp_path / "x.rsr"
    for first in (0, 10, 20):
        append(path, both(VECTORS[first : first + 10], first), "cosine", dtype)
    upkeep.delete(path, lambda index: upkeep.rows_with_ids(index, ["t0", "t13"], Skips()))
    with Index(path) as index:
        before = embeddings_in(index)
        assert (len(index.segments), len(before)) == (3, 28)
    with make_index(tmp_path / "whole.rsr", both(), "cosine", refine=dtype) as whole:
        assert np.array_equal(before, np.delete(embeddings_in(whole), [0, 13], axis=0))
    sum(upkeep.merge([path], tmp_path / "merged.rsr", Skips()))
    sum(upkeep.compact(path))
    for name in ("x.rsr", "merged.rsr"):
        with Index(tmp_path / name) as index:
            assert index.manifest.refine == Refine(dtype, "cosine", 12)
            assert np.array_equal(embeddings_in(index), before)
        sum(integrity.check(tmp_path / name, pytest.fail))
    with Index(path) as index:
        assert len(index.segments) == 1


@pytest.mark.parametrize("other", [("l1", "float32"), ("l2", "int8"), ()])
def test_indexes_that_store_other_embeddings_are_not_merged(tmp_path, other):
    make_index(tmp_path / "x.rsr", both(), "l1", refine="int8").__exit__()
    metric, refine = other or (None, None)
    make_index(tmp_path / "y.rsr", both(first=30), metric, refine=refine).__exit__()
    with pytest.raises(UsageError, match="codes with these embeddings beside them cannot be in one index"):
        sum(upkeep.merge([tmp_path / "x.rsr", tmp_path / "y.rsr"], tmp_path / "z.rsr", Skips()))
    assert not (tmp_path / "z.rsr").exists()


def asked(path) -> None:
    with Index(path) as index:
        index.remeasure(VECTORS[0], np.arange(30))
        index.embedding(3)


def forge(path, change) -> None:
    """Change files of an index, and have the manifest state their sizes."""
    change(path / SEGMENT)
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    for name, facts in manifest["segments"][0]["files"].items():
        facts["size"] = (path / SEGMENT / name).stat().st_size
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))


def with_value(name, value):
    """Return a change that writes one value into a file."""

    def change(folder):
        array = np.load(folder / name)
        array.reshape(-1)[array.size // 2] = value
        np.save(folder / name, array)

    return change


@pytest.mark.parametrize(
    ("dtype", "change"),
    [
        ("float32", with_value("refine.npy", np.nan)),
        ("float32", with_value("refine.npy", np.inf)),
        ("float16", with_value("refine.npy", -np.inf)),
        ("int8", with_value("scales.npy", np.nan)),
        ("int8", with_value("scales.npy", np.inf)),
        ("int8", with_value("scales.npy", -1)),
        ("int8", lambda folder: np.save(folder / "refine.npy", np.zeros((30, 12), np.uint8))),
        ("int8", lambda folder: np.save(folder / "refine.npy", np.zeros((30, 11), np.int8))),
        ("int8", lambda folder: np.save(folder / "refine.npy", np.zeros((29, 12), np.int8))),
        ("int8", lambda folder: np.save(folder / "scales.npy", np.zeros(30, np.float64))),
        ("int8", lambda folder: np.save(folder / "scales.npy", np.zeros((30, 1), np.float32))),
        ("float16", lambda folder: np.save(folder / "refine.npy", np.zeros((30, 12), np.float32))),
    ],
)
@pytest.mark.parametrize("metric", ["l1", "l2", "cosine", "dot"])
def test_damage_is_refused_and_its_file_named(tmp_path, recwarn, metric, dtype, change):
    path = tmp_path / "x.rsr"
    make_index(path, both(), metric, refine=dtype).__exit__()
    asked(path)
    forge(path, change)
    with pytest.raises(IndexFormatError, match=r"(refine|scales)\.npy: is damaged"):
        asked(path)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["refine.npy", "scales.npy"])
def test_a_file_that_is_missing_or_not_stated_is_named(tmp_path, name):
    path = tmp_path / "x.rsr"
    make_index(path, both(), refine="int8").__exit__()
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"], manifest["segments"][0]["files"][name]
    whole = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))
    with pytest.raises(IndexFormatError, match=f"{name}: is damaged: the manifest does not state its size"):
        Index(path)
    (path / "manifest.json").write_bytes(whole)
    (path / SEGMENT / name).unlink()
    with pytest.raises(IndexFormatError, match=f"{name}: is missing"):
        Index(path)


def test_a_file_that_is_changed_while_it_is_open_is_named(tmp_path):
    path = tmp_path / "x.rsr"
    make_index(path, both(), refine="int8").__exit__()
    for name in ("refine.npy", "scales.npy"):
        with Index(path) as index:
            index.embedding(0)
            os.utime(path / SEGMENT / name, ns=(1, 1))
            with pytest.raises(IndexFormatError, match=rf"{name}: was changed by another process"):
                index.remeasure(VECTORS[0], np.arange(3))


def test_a_query_of_other_dimensions_is_damage(tmp_path):
    """As the codes' fingerprint would have told of any other."""
    with (
        make_index(tmp_path / "x.rsr", both(), refine="float32") as index,
        pytest.raises(IndexFormatError, match="its embeddings have 12 dimensions, and the query's 5"),
    ):
        index.remeasure(VECTORS[0, :5], np.arange(3))


@pytest.mark.parametrize(
    "refine",
    [
        5,
        [1],
        "int8",
        {"dtype": "int8"},
        {"dtype": "int4", "metric": "l1", "dim": 12},
        {"dtype": [], "metric": "l1", "dim": 12},
        {"dtype": "int8", "metric": "hamming", "dim": 12},
        *({"dtype": "int8", "metric": "l1", "dim": dim} for dim in (0, -1, "12", True, 2**40, None)),
        {"dtype": "int8", "metric": "l1", "dim": 12, "more": 1},
    ],
    ids=repr,
)
def test_a_forged_manifest_is_refused(tmp_path, refine):
    path = tmp_path / "x.rsr"
    make_index(path, both(), refine="int8").__exit__()
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    (path / "manifest.json").write_bytes(orjson.dumps(manifest | {"refine": refine}))
    with pytest.raises(IndexFormatError, match=r"manifest\.json is damaged"):
        Manifest.read(path)


def test_embeddings_have_nothing_beside_them(tmp_path):
    path = tmp_path / "x.rsr"
    make_index(path, embedding_records(VECTORS), "l1").__exit__()
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["refine"] = {"dtype": "int8", "metric": "l1", "dim": 12}
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))
    with pytest.raises(IndexFormatError, match="states embeddings beside codes that it has not"):
        Manifest.read(path)
    del manifest["refine"]  # as an older version writes it
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))
    assert Manifest.read(path).refine is None


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux states how files are mapped")
def test_rows_are_read_without_what_is_around_them(tmp_path):
    """The flag rr, of MADV_RANDOM: else a row that is not in memory takes 128 kB from the disk."""
    with make_index(tmp_path / "x.rsr", both(), refine="int8") as index:
        index.embedding(3)
        maps = re.findall(r"(refine|vectors)\.npy\n(?:\w+:.*\n)+?VmFlags: (.*)", Path("/proc/self/smaps").read_text())
        flags = {name: flags.split() for name, flags in maps}
    assert "rr" in flags["refine"]


@pytest.mark.parametrize("metric", ["l1", "cosine"])
def test_embeddings_that_are_int8_keep_their_whole_numbers(tmp_path, metric):
    read = written_as(batches(embedding_records(VECTORS), ("embedding",)), "int8", Skips())
    records = written(binarize(read, "sign", None, None, keep_embedding=True))
    data = [base64.b64decode(record["properties"]["embedding"]["data"]) for record in records]
    scales = [record["properties"]["embedding"]["scale"] for record in records]
    make_index(tmp_path / "x.rsr", records, metric, refine="int8").__exit__()
    assert np.load(tmp_path / "x.rsr" / SEGMENT / "refine.npy").tobytes() == b"".join(data)
    if metric == "l1":
        assert np.load(tmp_path / "x.rsr" / SEGMENT / "scales.npy").tolist() == scales
