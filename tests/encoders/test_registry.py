"""The table of models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import needs_torch

from rsr_cli.core.encoders.registry import MODELS, list_models, load_encoder
from rsr_cli.core.encoders.specification import EncoderSettings
from rsr_cli.core.encoders.terratorch import list_backbones
from rsr_cli.core.errors import UsageError

ROOT = Path(__file__).parents[2]


def test_the_list_needs_no_torch():
    code = (
        "import sys; from rsr_cli.core.encoders.registry import list_models; print(*(m.name for m in list_models()))\n"
        "assert not {'torch', 'terratorch', 'timm', 'torchvision', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    names = done.stdout.split()
    assert names[0] == "prithvi_eo_v1_100"
    assert names == list(MODELS)


#: Models whose checkpoint the tests can write -> its fixture; models without weights need none.
CHECKPOINTS = {
    "prithvi_eo_v1_100": "v1",
    "prithvi_eo_tiny": "tiny",
    "prithvi_eo_v2_tiny_tl": "tl",
    "vit_b_16_rgb": "imagenet",
    "efficientnet_lite0_rgb": "lite0",
}
WITHOUT_WEIGHTS = [name for name, model in MODELS.items() if not model.needs_weights and not model.takes_space]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", [*CHECKPOINTS, *WITHOUT_WEIGHTS])
def test_the_table_states_the_defaults_of_the_loaded_encoders(request, name):
    path = request.getfixturevalue(CHECKPOINTS[name]) if name in CHECKPOINTS else None
    path = path[0] if isinstance(path, tuple) else path
    encoder = load_encoder(EncoderSettings(name, weights=path and str(path)))
    model = MODELS[name]
    recipe = {
        "model": name,
        "bands": model.bands,
        "mean": model.statistics.mean,
        "std": model.statistics.std,
        "size": model.size_px,
        "dim": model.dim,
    }
    if model.pool:
        recipe |= {"pool": model.pool, "layer": model.layers - 1}
    if model.seed is not None:
        recipe |= {"seed": model.seed}
    assert {key: encoder.recipe[key] for key in recipe} == recipe
    assert encoder.specification == name


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_a_model_without_weights_encodes_a_tile_alike_in_every_batch(name, encode, chips, torch):
    encoder = load_encoder(EncoderSettings(name))
    model = MODELS[name]
    pixels = chips(3, len(model.bands), model.size_px or 64)
    found = encode(encoder, pixels)
    assert found.shape == (3, model.dim)
    assert found.isfinite().all()
    torch.testing.assert_close(encode(encoder, pixels[1:2]), found[1:2])


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("prithvi_eo_v1_10", "prithvi_eo_v1_100"),
        ("vit_b_16_rbg", "vit_b_16_rgb"),
        pytest.param("resnet5O", "resnet50", marks=needs_torch),
        ("RCF", "rcf"),
        ("rfc", "rcf"),
        ("rcf1", "rcf"),
        ("Prithvi", "prithvi_eo_v1_100"),
    ],
)
def test_an_unknown_model_suggests_close_matches(name, close):
    with pytest.raises(UsageError, match=f"unknown model {name}; did you mean .*{close}"):
        load_encoder(EncoderSettings(name))


def test_no_backbone_is_taken_for_a_typing_error(backbones):
    import difflib

    built_in = [model.name for model in list_models()]
    for name in list_backbones():
        for spelling in (name, name.partition("_")[2]):
            if spelling != "efficientnet_lite0":  # of weights that were trained anew: timm_efficientnet_lite0 names it
                assert spelling in built_in or not difflib.get_close_matches(spelling, built_in, cutoff=0.9)
