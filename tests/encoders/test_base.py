"""What a model takes, and what decides its vector space."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rsr_cli.core.encoders.registry import load_encoder
from rsr_cli.core.encoders.specification import EncoderSettings, parse
from rsr_cli.core.encoders.statistics import PRITHVI_BANDS, PRITHVI_V2
from rsr_cli.core.errors import UsageError
from rsr_cli.core.records.space import fingerprint

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(model, weights, **others):
    return EncoderSettings(model, weights=str(weights), **others)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size_px": 100}, "multiples of 16 px, not 100"),
        ({"size_px": 0}, "not 0"),
        ({"layer": 4}, "4 layers, 0 to 3"),
        ({"layer": -5}, "4 layers"),
        ({"pool": "median"}, "choose from mean, cls, max, gem"),
        ({"bands": ("red", "green", "blue")}, "reads 6 bands, not 3"),
        ({"bands": ("red", "green", "blue", "nir", "swir16", "swir22")}, "in this order: blue, green, red, nir08"),
        ({"mean": (1.0,) * 5}, "mean has 5 values"),
        ({"std": (1.0,) * 5 + (0.0,)}, "std positive"),
        ({"mean": (float("nan"),) * 6}, "mean must be finite"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_weights_are_looked_for(wrong, message):
    with pytest.raises(UsageError, match=message):
        load_encoder(settings("prithvi_eo_tiny", "nowhere.pt", **wrong))


def test_what_decides_the_vectors_decides_the_fingerprint(masked_autoencoder, tiny, tmp_path):
    other = tmp_path / "other.pt"
    torch.save(masked_autoencoder(256, 4, frames=1, seed=1), other)
    variants = [
        settings("prithvi_eo_tiny", tiny),
        settings("prithvi_eo_tiny", other),
        settings("prithvi_eo_tiny", tiny, pool="max"),
        settings("prithvi_eo_tiny", tiny, layer=2),
        settings("prithvi_eo_tiny", tiny, size_px=112),
        settings("prithvi_eo_tiny", tiny, mean=(1000.0,) * 6),
        settings("prithvi_eo_tiny", tiny, bands=("blue", "green", "red", "nir", "swir16", "swir22")),
    ]
    assert len({load_encoder(variant).space().fingerprint for variant in variants}) == len(variants)
    same = load_encoder(settings("prithvi_eo_tiny", tiny, pool="mean", layer=3, size_px=224))
    assert same.space().fingerprint == load_encoder(variants[0]).space().fingerprint


#: Settings and the fingerprint that they must keep, with zeros for the weights' sha256.
FINGERPRINTS = [
    ({"model": "rcf"}, "78673c562e8db95d"),
    ({"model": "rcf", "seed": 3, "bands": ("red", "green", "blue")}, "1263d48d8f8b9ec7"),
    ({"model": "rcf", "size_px": 32}, "279b5c8870a7d4a6"),
    ({"model": "rcf", "bands": ("red", "nir"), "mean": (1, 2.5), "std": (3, 4)}, "3d2ded2114f391df"),
    ({"model": "prithvi_eo_v1_100"}, "3dc2048ced731147"),
    ({"model": "prithvi_eo_v2_tiny_tl"}, "4a89f6cb3b5946fa"),
    ({"model": "prithvi_eo_tiny"}, "162bff5f3dd0ed7b"),
    (
        {"model": "prithvi_eo_tiny", "pool": "max", "layer": -2, "size_px": 96, "mean": (1000,) * 6},
        "408d0afb867ffaa1",
    ),
    ({"model": "vit_b_16_rgb"}, "32987c40940902d4"),
]


@pytest.mark.parametrize(("chosen", "expected"), FINGERPRINTS)
def test_fingerprints_stay_the_same(chosen, expected, v1, tl, tiny, imagenet):
    paths = {
        "prithvi_eo_v1_100": v1,
        "prithvi_eo_v2_tiny_tl": tl,
        "prithvi_eo_tiny": tiny,
        "vit_b_16_rgb": imagenet[0],
    }
    path = paths.get(chosen["model"])
    encoder = load_encoder(EncoderSettings(**chosen, weights=path and str(path)))
    assert encoder.space().fingerprint == fingerprint(encoder.recipe)
    assert fingerprint(encoder.recipe | ({"weights": "0" * 64} if path else {})) == expected


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "prithvi_eo_tiny"),
        ({"pool": "mean", "layer": 3, "size_px": 224, "mean": PRITHVI_V2.mean}, "prithvi_eo_tiny"),
        ({"layer": -1}, "prithvi_eo_tiny"),
        ({"layer": -2}, "prithvi_eo_tiny:layer=2"),
        ({"std": (1.5,) * 6, "pool": "max"}, "prithvi_eo_tiny:pool=max:std=1.5,1.5,1.5,1.5,1.5,1.5"),
    ],
)
def test_the_specification_states_what_is_not_the_default(chosen, expected, tiny):
    encoder = load_encoder(settings("prithvi_eo_tiny", tiny, **chosen))
    assert encoder.specification == expected
    again = load_encoder(replace(parse(expected), weights=str(tiny)))
    assert again.recipe == encoder.recipe


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"seed": 0, "bands": PRITHVI_BANDS}, "rcf"),
        ({"bands": ("red", "nir")}, "rcf:bands=red,nir"),
        ({"bands": ("red", "nir"), "mean": (1, 2.5), "std": (3, 4)}, "rcf:bands=red,nir:mean=1,2.5:std=3,4"),
        # the statistics that these bands have by default
        ({"bands": ("coastal",), "mean": (752.4,), "std": (1108.03,)}, "rcf:bands=coastal"),
    ],
)
def test_default_statistics_depend_on_the_bands(chosen, expected):
    encoder = load_encoder(EncoderSettings("rcf", **chosen))
    assert encoder.specification == expected
    assert load_encoder(parse(expected)).recipe == encoder.recipe


@pytest.mark.parametrize("setting", [{"seed": 1}, {"seed": 0}])
def test_a_setting_that_the_model_does_not_take_is_refused(setting, tiny):
    with pytest.raises(UsageError, match="prithvi_eo_tiny takes no seed"):
        load_encoder(settings("prithvi_eo_tiny", tiny, **setting))
