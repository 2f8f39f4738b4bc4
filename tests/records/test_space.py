"""Vector spaces: what a record states about its own, and how two are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from support import batches, code, embedding, feature

from rsr_cli.core.errors import FingerprintError, RecordError, Skips
from rsr_cli.core.records.exact import loads
from rsr_cli.core.records.space import Space, fingerprint


def test_a_property_is_read_and_written_whole():
    for kind, found in (("embedding", embedding(np.ones(5))), ("code", code(np.ones(2), 13))):
        found |= {"filled": ["nir08"], "of_another_tool": {"x": [1]}}
        space = Space.of_property(kind, found)
        assert (space.size, space.width) == ((5, 5) if kind == "embedding" else (13, 2))
        assert space.as_property() == {key: value for key, value in found.items() if key != "data"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fingerprint": None}, "no fingerprint"),
        ({"fingerprint": 7}, "no fingerprint"),
        ({"dim": 0}, "does not state its dim"),
        ({"dim": "5"}, "does not state its dim"),
        ({"dim": True}, "does not state its dim"),
        ({"dim": 1 << 25}, "does not state its dim"),
        ({"dtype": "int4"}, "dtype 'int4'; supported are int8, float16, float32, float64"),
        ({"dtype": None}, "dtype None"),
    ],
)
def test_a_property_that_does_not_state_its_space(change, says):
    with pytest.raises(RecordError, match=says):
        Space.of_property("embedding", embedding(np.ones(5)) | change)


def space(model, fingerprint="a", **facts):
    return Space("embedding", 8, "float32", fingerprint, {"model": model, **facts})


@pytest.mark.parametrize(
    ("mine", "theirs", "says"),
    [
        (space("rcf:seed=3"), space("rcf", "b"), "seed 3, not default"),
        (space("rcf:bands=red,green:seed=3"), space("rcf:seed=4", "b"), "bands red,green, not default; seed 3, not 4"),
        (space("rcf:seed=3"), space("prithvi_eo_v1_100", "b"), "model rcf:seed=3, not prithvi_eo_v1_100"),
        (
            space("m", weights="1" * 64),
            space("m", "b", weights="2" * 64),
            "weights 111111111111..., not 222222222222...",
        ),
        (space("m", filled=["nir08", "swir16"]), space("m", "b"), "filled nir08,swir16, not default"),
        (
            Space("code", 32, "uint8", "a", {"model": "rcf:seed=3", "method": "lsh", "seed": 1}),
            Space("code", 64, "uint8", "b", {"model": "rcf:seed=4", "method": "lsh", "seed": 2}),
            "seed 3, not 4; lsh seed 1, not 2; bits 32, not 64",
        ),
    ],
)
def test_a_mismatch_names_the_settings_that_differ(mine, theirs, says):
    assert mine.difference(theirs) == f"fingerprint a, not b; {says}"


def test_codes_differ_from_embeddings_in_what_they_are():
    code = Space("code", 8, "uint8", "b", {"model": "m", "method": "sign", "of": "a"})
    assert code.difference(space("m")) == "codes, not embeddings"


def test_vectors_of_two_spaces_in_one_stream_are_refused_with_their_settings():
    records = [
        feature("a", embedding=embedding(np.ones(8), "rcf", "first")),
        feature("b", embedding=embedding(np.ones(8), "rcf:seed=3", "second")),
    ]
    with pytest.raises(FingerprintError) as caught:
        list(batches(records))
    assert str(caught.value) == (
        "in:2: its embedding is in another vector space than the first one"
        " (fingerprint second, not first; seed 3, not default)"
    )


def test_a_fingerprint_is_the_hash_of_the_sorted_recipe():
    import hashlib
    import json

    recipe = {"model": "rcf", "bands": ["red"], "std": [1.5], "size": None}
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    assert fingerprint(recipe) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_first_sound_vector_decides_the_space():
    records = [feature(i, embedding=embedding(np.ones(4))) for i in range(3)]
    records[0]["properties"]["embedding"]["dim"] = 7
    skips = Skips(keep_going=True)
    (batch,) = batches(records, skips=skips)
    assert ([record["id"] for record in batch.records], skips.count) == ([1, 2], 1)


@pytest.mark.parametrize("size", [1, 3])
def test_the_first_record_with_a_vector_decides_its_kind_whatever_the_batches(size):
    records = [feature("none"), feature("a", code=code(np.zeros(2), 16)), feature("b", code=code(np.zeros(2), 16))]
    skips = Skips(keep_going=True)
    found = [record["id"] for batch in batches(records, size=size, skips=skips) for record in batch.records]
    assert (found, skips.count) == (["a", "b"], 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", ["rcf"]),
        ("weights", 5),
        ("filled", "nir08"),
        ("filled", [["nir08"]]),
        ("of", {"a": 1}),
        ("method", ["sign"]),
        ("seed", "3"),
        ("seed", 1.5),
        ("mine", loads(b"[" * 200 + b"]" * 200)),
        ("mine", loads(b"[36893488147419103233]")),
    ],
)
def test_facts_that_cannot_be_read_are_refused(key, value):
    with pytest.raises(RecordError, match=f"its code states {key} in a way that cannot be read: "):
        Space.of_property("code", code(np.ones(2), 13) | {key: value})


@pytest.mark.parametrize("dtype", [["float32"], {"a": 1}, None, "uint8"])
def test_a_dtype_that_is_not_supported_is_refused(dtype):
    with pytest.raises(RecordError, match=r"its embedding has the dtype .*; supported are"):
        Space.of_property("embedding", embedding(np.ones(5)) | {"dtype": dtype})
