"""Codes against the paper's formulas, written out again bit by bit."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from support import batches, embedding, feature, written

from rsr_cli.core.codes.base import binarize
from rsr_cli.core.codes.registry import binarizer_class
from rsr_cli.core.errors import FingerprintError, RecordError, Skips, UsageError
from rsr_cli.core.records.space import Space


def records_of(vectors: np.ndarray, fingerprint: str = "space") -> list[dict]:
    return [feature(f"t{i}", embedding=embedding(v, "m", fingerprint)) for i, v in enumerate(vectors)]


def binarized(records, method="sign", bits=None, seed=None, skips=None) -> list[dict]:
    return written(binarize(batches(records, ("embedding",), skips=skips), method, bits, seed))


def bits_of(record: dict) -> list[int]:
    """Unpack by hand: the first bit is the most significant one of the first byte."""
    raw = base64.b64decode(record["properties"]["code"]["data"])
    return [byte >> (7 - i) & 1 for byte in raw for i in range(8)][: record["properties"]["code"]["bits"]]


def codes_of(vectors: np.ndarray, method: str, bits: int | None = None, seed: int | None = None) -> list[dict]:
    return binarized(records_of(vectors), method, bits, seed)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(7).standard_normal((40, 768)).astype(np.float32)
    drawn[0] = 0  # zero is not above zero
    drawn[1] = -0.0
    drawn[2, ::2] = 0
    drawn[3] = np.float32(1e-45)  # the least subnormal is
    return drawn


def test_sign_is_one_bit_a_dimension(vectors):
    for record, vector in zip(codes_of(vectors, "sign"), vectors, strict=True):
        assert bits_of(record) == [1 if value > 0 else 0 for value in vector.tolist()]


@pytest.mark.parametrize("bits", [1, 32, 96, 256, 768])
def test_trivial_averages_every_lth_dimension(vectors, bits):
    for record, vector in zip(codes_of(vectors, "trivial", bits), vectors, strict=True):
        expected = [int(np.float32(vector[j::bits]).mean(dtype=np.float64) > 0) for j in range(bits)]
        found = bits_of(record)
        # A mean within float32's rounding of 0 may fall on either side in float64.
        sure = [abs(vector[j::bits].astype(float).sum()) > 1e-4 or not vector[j::bits].any() for j in range(bits)]
        assert [f for f, s in zip(found, sure, strict=True) if s] == [
            e for e, s in zip(expected, sure, strict=True) if s
        ]


def test_trivial_is_bit_for_bit_the_papers(vectors):
    bits = 32
    paper = vectors.reshape(len(vectors), 768 // bits, bits).mean(axis=1) > 0
    assert [bits_of(record) for record in codes_of(vectors, "trivial", bits)] == paper.astype(int).tolist()


def test_trivial_of_all_dimensions_is_sign(vectors):
    as_trivial = [bits_of(record) for record in codes_of(vectors, "trivial", 768)]
    assert as_trivial == [bits_of(record) for record in codes_of(vectors, "sign")]


@pytest.mark.parametrize("seed", [42, 84, 126, 168, 210])
def test_lsh_is_the_side_of_seeded_planes(vectors, seed):
    planes = np.random.RandomState(seed).randn(32, 768)
    for record, vector in zip(codes_of(vectors, "lsh", 32, seed), vectors, strict=True):
        expected = [int(sum(float(a) * float(b) for a, b in zip(plane, vector, strict=True)) > 0) for plane in planes]
        assert bits_of(record) == expected


def test_lsh_takes_42_by_default_and_says_so(vectors):
    by_default, named = codes_of(vectors, "lsh", 64), codes_of(vectors, "lsh", 64, 42)
    assert [r["properties"]["code"] for r in by_default] == [r["properties"]["code"] for r in named]
    assert by_default[0]["properties"]["code"]["seed"] == 42


def test_bits_that_fill_no_byte_are_padded_with_zeros():
    vectors = np.ones((1, 11), np.float32)
    raw = base64.b64decode(codes_of(vectors, "sign")[0]["properties"]["code"]["data"])
    assert raw == bytes([0b11111111, 0b11100000])


def test_the_code_takes_the_embeddings_place_and_names_it(vectors):
    record = codes_of(vectors, "sign")[0]
    assert "embedding" not in record["properties"]
    assert record["properties"]["code"]["of"] == "space"
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


def test_codes_do_not_depend_on_the_batch(vectors):
    whole = [r["properties"]["code"]["data"] for r in codes_of(vectors, "lsh", 96, 3)]
    single = [codes_of(v[None], "lsh", 96, 3)[0]["properties"]["code"]["data"] for v in vectors]
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
def test_settings_that_do_not_fit(vectors, method, bits, seed, says):
    with pytest.raises(UsageError, match=says):
        codes_of(vectors, method, bits, seed)


def test_two_spaces_are_refused_by_both_names(vectors):
    records = [*records_of(vectors[:2], "first"), *records_of(vectors[:1], "second")]
    with pytest.raises(FingerprintError, match=r"in:3: .*second.*first"):
        binarized(records)


def _broken(change) -> list[dict]:
    records = records_of(np.ones((3, 16), np.float32))
    change(records[1]["properties"])
    return records


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.pop("embedding"), "in:2: has no embedding"),
        (lambda p: p.update(embedding="x"), "in:2: has no embedding"),
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
