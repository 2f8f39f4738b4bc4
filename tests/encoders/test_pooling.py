"""Pooling, against the published formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rsr_cli.core.encoders.pooling import POOLS, patch_shares, pool, pool_seen


def test_gem_is_the_published_one_for_positive_features_and_keeps_signs():
    features, ones = torch.rand(2, 50, 8) + 0.1, torch.ones(2, 50)
    torch.testing.assert_close(pool("gem", features, 0, ones), features.clamp(min=1e-6).pow(3).mean(1).pow(1 / 3))
    torch.testing.assert_close(pool("gem", -features, 0, ones), -pool("gem", features, 0, ones))


@pytest.mark.parametrize("method", POOLS)
def test_class_tokens_are_kept_apart_and_the_result_is_float32(method):
    tokens = torch.tensor([[[5.0], [9.0], [1.0], [3.0]]], dtype=torch.bfloat16)  # two class tokens, two patches
    pooled = pool(method, tokens, 2, torch.ones(1, 2))
    assert pooled.dtype == torch.float32
    assert pooled.item() == pytest.approx({"mean": 2, "cls": 5, "max": 3, "gem": 14 ** (1 / 3)}[method])


@pytest.mark.parametrize("method", POOLS)
def test_patches_count_by_their_share_of_valid_pixels(method):
    tokens = torch.tensor([[[5.0], [1.0], [3.0], [7.0]]])
    pooled = pool(method, tokens, 1, torch.tensor([[1.0, 0.25, 0.0]])).item()
    cubes = (1 + 27 * 0.25) / 1.25
    assert pooled == pytest.approx({"mean": 1.75 / 1.25, "cls": 5, "max": 3, "gem": cubes ** (1 / 3)}[method])


def test_shares_are_those_of_the_pixels_below_each_patch():
    valid = np.random.default_rng(0).random((3, 32, 32)) < 0.3
    expected = valid.reshape(3, 4, 8, 4, 8).mean((2, 4)).reshape(3, 16)
    np.testing.assert_allclose(patch_shares(torch.tensor(valid).float(), 16), expected, rtol=1e-6)
    assert (patch_shares(torch.ones(1, 224, 224), 196) == 1).all()
    assert (patch_shares(torch.ones(1, 21, 21), 9) == 1).all()


@pytest.mark.parametrize("method", POOLS)
def test_the_network_sees_only_patches_with_a_valid_pixel_and_the_order_is_kept(method):
    generator = torch.Generator().manual_seed(1)
    embedded = torch.randn(6, 10, 4, generator=generator)  # one class token, nine patches
    shares = torch.rand(6, 9, generator=generator)
    shares[1, :4] = shares[4, :4] = shares[3, 8] = 0
    calls = []

    def encode(tiles, tokens):
        """Mix the tokens that are there, as attention does."""
        calls.append(tiles)
        some = embedded[tiles][:, tokens]
        return some + some.mean(1, keepdim=True)

    vectors = pool_seen(method, encode, 1, shares)
    for tile in range(6):
        there = [0, *(i + 1 for i in range(9) if shares[tile, i])]
        some = embedded[tile : tile + 1, there]
        alone = pool(method, some + some.mean(1, keepdim=True), 1, shares[tile : tile + 1, shares[tile] > 0])
        torch.testing.assert_close(vectors[tile], alone[0])
    assert len(calls) == 3  # tiles with the same hole go together
