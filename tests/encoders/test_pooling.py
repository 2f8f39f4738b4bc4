"""Pooling, against the published formulas."""

from __future__ import annotations

import pytest
import torch

from rsr_cli.core.encoders.pooling import POOLS, pool


def test_gem_is_the_published_one_for_positive_features_and_keeps_signs():
    features = torch.rand(2, 50, 8) + 0.1
    torch.testing.assert_close(pool("gem", features, 0), features.clamp(min=1e-6).pow(3).mean(1).pow(1 / 3))
    torch.testing.assert_close(pool("gem", -features, 0), -pool("gem", features, 0))


@pytest.mark.parametrize("method", POOLS)
def test_class_tokens_are_kept_apart_and_the_result_is_float32(method):
    tokens = torch.tensor([[[5.0], [9.0], [1.0], [3.0]]], dtype=torch.bfloat16)  # two class tokens, two patches
    pooled = pool(method, tokens, 2)
    assert pooled.dtype == torch.float32
    assert pooled.item() == pytest.approx({"mean": 2, "cls": 5, "max": 3, "gem": 14 ** (1 / 3)}[method])
