"""Opening an index: damage, and queries of another vector space."""

from __future__ import annotations

import shutil

import numpy as np
import orjson
import pytest
from support import batches, code, code_records, embedding, embedding_records, feature, make_index

from rsr_cli.core.errors import FingerprintError, IndexFormatError
from rsr_cli.core.index.manifest import Manifest
from rsr_cli.core.index.reading import Index


def test_queries_of_another_space_are_refused_by_both_names(tmp_path):
    with make_index(tmp_path / "i.rsr", embedding_records(np.eye(4, dtype=np.float32))) as index:
        (batch,) = batches([feature("q", embedding=embedding(np.ones(4), "m", "elsewhere"))])
        with pytest.raises(FingerprintError, match=r"elsewhere.*emb"):
            index.binarizer_for(batch.space)


SEGMENT = "segments/000001"


@pytest.mark.parametrize("name", ["manifest.json", f"{SEGMENT}/vectors.npy", f"{SEGMENT}/records.sqlite"])
def test_a_damaged_index_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((30, 4), np.uint8), 32))
    (path / name).write_bytes((path / name).read_bytes()[:40])
    with pytest.raises(IndexFormatError) as caught, Index(path) as index:
        index.record(3)
    assert "\n" not in str(caught.value)
    (path / name).unlink()
    with pytest.raises(IndexFormatError), Index(path) as index:
        index.record(3)


def test_an_index_that_is_removed_and_built_again_meanwhile_is_opened_as_it_is_now(tmp_path, monkeypatch):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((3, 4), np.uint8), 32))
    read, replaced = Manifest.read, []

    def read_and_replace(index):
        manifest = read(index)
        if not replaced:
            replaced.append(index)
            shutil.rmtree(index)
            make_index(path, code_records(np.zeros((5, 4), np.uint8), 32))  # files of the same names, of another size
        return manifest

    monkeypatch.setattr(Manifest, "read", read_and_replace)
    with Index(path) as index:
        assert index.manifest.count == 5
        assert index.record(4)[0] == "t4"


@pytest.mark.parametrize("missing", ["vectors.npy", "records.sqlite", "bbox.npy"])
def test_a_missing_file_is_named(rsr, tmp_path, missing):
    record = orjson.dumps(feature("new", code=code(np.zeros(4), 32)))
    assert rsr("index", "-o", "i.rsr", input=record, cwd=tmp_path).returncode == 0
    (tmp_path / "i.rsr" / "segments" / "000001" / missing).unlink()
    with pytest.raises(IndexFormatError, match="is missing") as caught:
        Index(tmp_path / "i.rsr")
    assert missing in str(caught.value)
