"""ViT-B/16, against torchvision's own model."""

from __future__ import annotations

import pytest
import torch

from rsr_cli.core.encoders.registry import load_encoder
from rsr_cli.core.encoders.specification import EncoderSettings
from rsr_cli.core.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(model, weights, **others):
    return EncoderSettings(model, weights=str(weights), **others)


def test_the_class_token_is_torchvisions(chips, imagenet):
    path, model = imagenet
    encoder = load_encoder(settings("vit_b_16_rgb", path))
    assert (encoder.bands, encoder.dim, encoder.size_px) == (("red", "green", "blue"), 768, 224)
    assert set(encoder.mean + encoder.std) == {5000}
    pixels = chips(2, bands=3)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.forward(pixels), model(pixels))


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
