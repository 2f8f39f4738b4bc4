"""Files of what was learned: the same again when they are read, and one line for any other file."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import orjson
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from rsr_cli.core.errors import RsrError
from rsr_cli.core.fitted.state import Fitted
from rsr_cli.core.records.space import Space

SPACE = Space("embedding", 3, "float32", "emb", {"model": "rcf:seed=3", "filled": ["nir08"]})
ARRAYS = {"centre": np.array([1, -0.0, 3e6], np.float32), "directions": np.ones((2, 3), np.float32)}


def made(method="pca", arrays=ARRAYS, **settings):
    return Fitted.make(method, SPACE, arrays, settings or {"seed": 4, "sample": 10})


def test_a_file_states_what_it_was_fitted_to(tmp_path):
    path = tmp_path / "pca.safetensors"
    path.write_bytes(made().data)
    found = Fitted.read(path)
    assert (found.method, found.of, found.of.facts) == ("pca", SPACE, SPACE.facts)
    assert found.settings == {"seed": 4, "sample": 10}
    assert {name: array.tobytes() for name, array in found.arrays.items()} == {
        name: array.tobytes() for name, array in ARRAYS.items()
    }
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest() == made().digest
    with safe_open(path, "numpy") as file:  # as others read it
        assert orjson.loads(file.metadata()["rsr"])["of"]["model"] == "rcf:seed=3"
        assert np.array_equal(file.get_tensor("centre"), ARRAYS["centre"])


def with_metadata(text):
    return save(ARRAYS, metadata={"rsr": text})


def stated(**changed):
    return orjson.dumps({"method": "mean", "of": SPACE.as_property(), **changed}).decode()


@pytest.mark.parametrize(
    ("data", "what"),
    {
        "empty": (b"", "no safetensors"),
        "text": (b'{"type":"Feature"}\n', "no safetensors"),
        "cut": (made().data[:-1], "no safetensors"),
        "long header": (struct.pack("<Q", 1 << 40) + b"{}", "no safetensors"),
        "no metadata": (save(ARRAYS), "was not fitted"),
        "other metadata": (save(ARRAYS, metadata={"format": "pt"}), "was not fitted"),
        "no JSON": (with_metadata("{"), "no safetensors"),
        "a list": (with_metadata("[]"), "was not fitted"),
        "no method": (with_metadata(orjson.dumps({"of": SPACE.as_property()}).decode()), "is damaged"),
        "unknown method": (with_metadata(stated(method="neural")), "'neural' is unknown"),
        "a method that is none": (with_metadata(stated(method=[])), "is damaged"),
        "no space": (with_metadata(stated(of=None)), "does not state what embeddings"),
        "a space without a size": (with_metadata(stated(of={"fingerprint": "f"})), "does not state its dim"),
        "no seed": (with_metadata(stated(sample=3)), "does not state seed and sample"),
        "a seed in words": (with_metadata(stated(seed="4", sample=3)), "does not state seed and sample"),
        "a seed below 0": (with_metadata(stated(seed=-1, sample=3)), "does not state seed and sample"),
        "a large seed": (with_metadata(stated(seed=1 << 40, sample=3)), "does not state seed and sample"),
        "a space that is a list": (with_metadata(stated(of=[])), "does not state what embeddings"),
        "not finite": (made(arrays={"centre": np.array([0, 1, np.nan], np.float32)}).data, "greater numbers"),
        "too large": (made(arrays={"centre": np.array([0, 1, -1e30], np.float32)}).data, "greater numbers"),
        "float64": (made(arrays={"centre": np.zeros(3)}).data, "not float32"),
    }.values(),
)
def test_another_file_is_refused_in_one_line(tmp_path, data, what):
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    with pytest.raises(RsrError, match=what) as caught:
        Fitted.read(path)
    assert caught.value.place == str(path)
    assert "\n" not in str(caught.value)


def test_any_flipped_byte_is_refused_or_another_file(tmp_path):
    data, path = made().data, tmp_path / "flipped.safetensors"
    random = np.random.default_rng(0)
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        try:
            found = Fitted.read(path)
        except RsrError:
            continue
        assert found.digest != made().digest
