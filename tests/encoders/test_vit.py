"""ViT-B/16, against torchvision's own model."""

from __future__ import annotations

import copy

import pytest
import torch

from rsr_cli.core.encoders.placement import move
from rsr_cli.core.encoders.registry import load_encoder
from rsr_cli.core.encoders.specification import EncoderSettings
from rsr_cli.core.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(model, weights, **others):
    return EncoderSettings(model, weights=str(weights), **others)


def test_the_class_token_is_torchvisions(chips, encode, imagenet):
    path, model = imagenet
    encoder = load_encoder(settings("vit_b_16_rgb", path))
    assert (encoder.bands, encoder.dim, encoder.size_px) == (("red", "green", "blue"), 768, 224)
    assert set(encoder.mean + encoder.std) == {5000}
    pixels = chips(2, bands=3)
    with torch.inference_mode():
        torch.testing.assert_close(encode(encoder, pixels), model(pixels))


def test_the_patches_of_a_layer_are_pooled(chips, encode, imagenet):
    path, model = imagenet
    seen = []
    handle = model.encoder.layers[5].register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    pixels = chips(2, bands=3)
    with torch.inference_mode():
        model(pixels)
    handle.remove()
    vectors = encode(load_encoder(settings("vit_b_16_rgb", path, pool="mean", layer=5)), pixels)
    torch.testing.assert_close(vectors, seen[0][:, 1:].mean(1))


def test_the_size_is_fixed(imagenet):
    with pytest.raises(UsageError, match="takes 224 px, not 448"):
        load_encoder(settings("vit_b_16_rgb", imagenet[0], size_px=448))


def test_a_hole_is_not_seen(chips, encode, imagenet):
    """Attention is asked to leave out the hole, in torchvision's own layers."""
    path, model = imagenet
    model = copy.deepcopy(model).double()
    pixels, valid = chips(2, bands=3).double(), torch.ones(2, 224, 224)
    valid[1, 32:96] = 0  # four rows of patches
    seen = torch.ones(2, 14, 14, dtype=torch.bool)
    seen[1, 2:6] = False
    seen = torch.cat([torch.ones(2, 1, dtype=torch.bool), seen.flatten(1)], dim=1)

    def masked(attention, inputs, keywords):
        return inputs, keywords | {"key_padding_mask": ~seen}

    for layer in model.encoder.layers:
        layer.self_attention.register_forward_pre_hook(masked, with_kwargs=True)
    encoder = load_encoder(settings("vit_b_16_rgb", path))
    encoder.module.double()
    with torch.inference_mode():
        torch.testing.assert_close(encode(encoder, pixels, valid), model(pixels).float())


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_vectors_in_bf16_are_those_in_fp32(chips, encode, worst_cosine, imagenet, pool):
    encoder = load_encoder(settings("vit_b_16_rgb", imagenet[0], pool=pool))
    assert encoder.same_in_bf16
    pixels = chips(4, bands=3)
    exact = encode(encoder, pixels)
    move(encoder.module, torch.device("cpu"), torch.bfloat16)
    rounded = encode(encoder, pixels.bfloat16())
    assert worst_cosine(rounded, exact) > 0.999
    assert ((rounded > 0) == (exact > 0)).float().mean() > 0.995
