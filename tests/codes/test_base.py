"""What every code has in common: packing, fingerprints, settings, and embeddings that cannot be used."""

from __future__ import annotations

import base64
import hashlib
import json

import numpy as np
import pytest
from support import batches, binarized, bits_of, codes_of, embedding, embedding_records, feature

from rsr_cli.core.codes.base import binarize
from rsr_cli.core.codes.registry import binarizer_class
from rsr_cli.core.errors import FingerprintError, RecordError, Skips, UsageError
from rsr_cli.core.records.space import Space


def test_bits_that_fill_no_byte_are_padded_with_zeros():
    embeddings = np.ones((1, 11), np.float32)
    raw = base64.b64decode(codes_of(embeddings, "sign")[0]["properties"]["code"]["data"])
    assert raw == bytes([0b11111111, 0b11100000])


def test_the_code_takes_the_embeddings_place_and_names_it(embeddings):
    record = codes_of(embeddings, "sign")[0]
    assert "embedding" not in record["properties"]
    assert record["properties"]["code"]["of"] == "emb"
    assert set(record["properties"]["code"]) == {"model", "method", "bits", "of", "fingerprint", "data"}


def test_every_setting_makes_another_fingerprint():
    settings = [("sign", 64, 64, None), ("trivial", 64, 64, None), ("trivial", 64, 32, None), ("lsh", 64, 32, 1)]
    settings += [("lsh", 64, 32, 2), ("lsh", 128, 32, 1)]
    prints = {
        binarizer_class(method)(Space("embedding", dim, "float32", of), bits, seed).space.fingerprint
        for method, dim, bits, seed in settings
        for of in ("a", "b")
    }
    assert len(prints) == 2 * len(settings)


def test_codes_do_not_depend_on_the_batch(embeddings):
    whole = [r["properties"]["code"]["data"] for r in codes_of(embeddings, "lsh", 96, 3)]
    single = [codes_of(v[None], "lsh", 96, 3)[0]["properties"]["code"]["data"] for v in embeddings]
    assert whole == single


@pytest.mark.parametrize(
    ("method", "bits", "seed", "says"),
    [
        ("trivial", None, None, "needs a number of bits"),
        ("lsh", None, None, "needs a number of bits"),
        ("trivial", 100, None, "divide"),
        ("sign", 32, None, "one bit per dimension"),
        ("sign", None, 1, "takes no seed"),
    ],
)
def test_settings_that_do_not_fit(embeddings, method, bits, seed, says):
    with pytest.raises(UsageError, match=says):
        codes_of(embeddings, method, bits, seed)


def test_two_spaces_are_refused_by_both_names(embeddings):
    records = [*embedding_records(embeddings[:2], "first"), *embedding_records(embeddings[:1], "second")]
    with pytest.raises(FingerprintError, match=r"in:3: .*second.*first"):
        binarized(records)


def _broken(change) -> list[dict]:
    records = embedding_records(np.ones((3, 16), np.float32))
    change(records[1]["properties"])
    return records


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.pop("embedding"), "in:2: has no embedding"),
        (lambda p: p.update(embedding="x"), "in:2: its embedding is no object that states .*: 'x'"),
        (lambda p: p["embedding"].update(data="AAAA"), "3 bytes where 64"),
        (lambda p: p["embedding"].update(data="!!"), "not base64"),
        (lambda p: p["embedding"].update(data=None), "not base64"),
        (lambda p: p["embedding"].update(data=base64.b64encode(np.full(16, np.nan, "<f4")).decode()), "NaN"),
    ],
)
def test_a_broken_record_is_named_or_skipped(change, says):
    with pytest.raises(RecordError, match=says):
        binarized(_broken(change))
    skips = Skips(keep_going=True)
    (batch,) = binarize(batches(_broken(change), ("embedding",), skips=skips), "sign", None, None)
    assert [record["id"] for record in batch.records] == ["t0", "t2"]
    assert batch.lines == [1, 3]
    assert skips.count == 1


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_types_are_read(dtype):
    values = np.array([1, -1, 0.5, -0.5, 0, 2, 3, -4], dtype)
    record = {"type": "Feature", "id": 1, "geometry": None, "properties": {}}
    record["properties"]["embedding"] = {
        "model": "m",
        "fingerprint": "f",
        "dim": 8,
        "dtype": dtype,
        "data": base64.b64encode(values.tobytes()).decode(),
    }
    (done,) = binarized([record])
    assert bits_of(done) == [1, 0, 1, 0, 0, 1, 1, 0]


def test_a_code_keeps_what_its_embedding_states():
    made = embedding(np.ones(8), "rcf:seed=3", "emb") | {"weights": "f" * 64, "filled": ["nir08"]}
    (record,) = binarized([feature("a", embedding=made)], "lsh", 32)
    stated = record["properties"]["code"]
    assert (stated["model"], stated["weights"], stated["filled"]) == ("rcf:seed=3", "f" * 64, ["nir08"])
    assert (stated["method"], stated["seed"], stated["of"]) == ("lsh", 42, "emb")
    assert Space.of_property("code", stated).of_embedding().model == "rcf:seed=3"


def test_codes_made_before_this_version_have_the_same_fingerprints():
    """As the index of an earlier version states them: a hash of method, bits, seed, embedding and dimensions."""
    of = Space("embedding", 64, "float32", "emb")
    for method, bits, seed in (("sign", 64, None), ("trivial", 32, None), ("lsh", 32, 7)):
        facts = {"method": method, "bits": bits, "of": "emb", "dim": 64} | ({} if seed is None else {"seed": seed})
        expected = hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
        assert binarizer_class(method)(of, bits, seed).space.fingerprint == expected
