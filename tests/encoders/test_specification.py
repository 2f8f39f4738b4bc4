"""Model specifications: text to settings and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_cli.core.encoders import specification
from rsr_cli.core.encoders.pooling import POOLS
from rsr_cli.core.encoders.registry import MODELS
from rsr_cli.core.encoders.specification import KEYS, EncoderSettings, parse
from rsr_cli.core.errors import UsageError
from rsr_cli.core.sensors.base import COMMON_NAMES

numbers = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4).map(tuple)
settings = st.builds(
    EncoderSettings,
    model=st.sampled_from([*MODELS, "timm_vit_base_patch16_224.augreg", "resnet50"]),
    pool=st.none() | st.sampled_from(POOLS),
    layer=st.none() | st.integers(-40, 40),
    size_px=st.none() | st.integers(1, 10_000),
    seed=st.none() | st.integers(0, 2**32 - 1),
    bands=st.none() | st.lists(st.sampled_from(COMMON_NAMES), min_size=1, unique=True).map(tuple),
    mean=st.none() | numbers,
    std=st.none() | numbers,
)


@given(settings)
def test_settings_survive_the_way_to_text_and_back(chosen):
    text = specification.format(chosen)
    assert parse(text) == chosen
    assert specification.format(parse(text)) == text
    assert re.fullmatch(r"[\w.:=,+-]+", text, re.ASCII)  # nothing that a shell would expand


@given(settings, st.randoms())
def test_the_order_of_the_keys_does_not_matter(chosen, random):
    model, *parts = specification.format(chosen).split(":")
    random.shuffle(parts)
    assert parse(":".join([model, *parts])) == chosen


def test_the_text_is_readable():
    chosen = EncoderSettings("rcf", seed=3, bands=("red", "green", "blue"), mean=(1000.0, 0.5, 1e-7))
    assert specification.format(chosen) == "rcf:seed=3:bands=red,green,blue:mean=1000,0.5,1e-07"
    embeddings = tuple(f"A{number:02}" for number in range(64))
    assert specification.format(EncoderSettings("rcf", bands=embeddings)) == "rcf:bands=A00..A63"
    assert specification.parse("rcf:bands=A00..A63").bands == embeddings
    assert specification.format(EncoderSettings("rcf", weights="some.pt")) == "rcf"
    assert list(KEYS) == ["pool", "layer", "size", "seed", "bands", "mean", "std", "space"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no name"),
        (":seed=1", "has no name"),
        ("rcf:", "unknown setting ''"),
        ("rcf:seed", "seed has no value; write seed=VALUE"),
        ("rcf:sed=1", "unknown setting 'sed'; choose from pool, layer, size, seed, bands, mean, std, space"),
        ("rcf:weights=x.pt", "unknown setting 'weights'"),
        ("rcf:seed=1:seed=1", "seed is stated twice"),
        ("rcf:seed=", "seed '' is not an integer"),
        ("rcf:seed=1.5", "seed '1.5' is not an integer"),
        ("rcf:seed=99999999999999999999", "is not an integer of up to 18 digits"),
        ("rcf:size=1_0", "size '1_0' is not an integer"),
        ("rcf:pool=", "pool is empty"),
        ("rcf:mean=1,,2", "mean '1,,2' is not a list of numbers"),
        ("rcf:bands=blau", "'blau' is not a STAC common name"),
        ("rcf:bands=red,red", "red named twice"),
    ],
)
def test_a_malformed_specification_is_refused_in_one_line(text, says):
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        parse(text)
    assert str(caught.value).startswith(f"model {text!r}: ")
    assert "\n" not in str(caught.value)
