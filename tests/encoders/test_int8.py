"""Transformers in int8: near those in float32, and the same in every batch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from rsr_cli.core.encoders import int8
from rsr_cli.core.encoders.int8 import quantize
from rsr_cli.core.encoders.registry import load_encoder
from rsr_cli.core.encoders.specification import EncoderSettings
from rsr_cli.core.encoders.transformer import VisionTransformer
from rsr_cli.core.errors import UsageError
from rsr_cli.remedies import explain

pytestmark = pytest.mark.usefixtures("one_thread")


def random_transformer(dim=64, depth=2, side=4):
    torch.manual_seed(0)
    made = VisionTransformer(bands=3, patch=(4, 4), side=side, dim=dim, depth=depth, heads=4, epsilon=1e-6)
    for name, weights in made.named_parameters():
        torch.nn.init.normal_(weights, mean=float(name.endswith("norm.weight")), std=0.1)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("layer", [1, 0])
def test_tokens_are_near_those_in_float32_and_the_same_in_every_batch(bf16, layer):
    tokens = torch.randn(5, 17, 64)
    transformer = random_transformer()
    transformer.cut(layer)
    with torch.inference_mode():
        expected = transformer(tokens)
        quantize(transformer, bf16=bf16)
        found = transformer(tokens)
        assert (found - expected).abs().max() < 0.05 * expected.abs().max()
        assert (found - expected).abs().max() > 0  # or nothing was quantized
        torch.testing.assert_close(transformer(tokens[3:4]), found[3:4], rtol=0, atol=0)
        loud = torch.cat([tokens[:1], 1000 * tokens[1:2]])  # a batch's scale would silence the first
        torch.testing.assert_close(transformer(loud)[:1], found[:1], rtol=0, atol=0)
        assert transformer(tokens[:, :6]).shape == (5, 6, 64)  # tokens of a tile with a hole


def test_weights_are_rounded_to_the_nearest_of_255_steps_per_output():
    """Tokens with one number, a power of 2, are not rounded, so that what differs is the weights."""
    transformer = random_transformer(depth=1)
    block = transformer.blocks[0]
    for layer in (block.attn.proj, block.mlp.fc2):  # their outputs are added to the tokens
        layer.weight[:] = 0
        layer.bias[:] = 0
    block.mlp.fc2.weight[0, :3] = torch.tensor([1.0, 0.5, 0.003])
    block.mlp.fc2.weight[5] = 0  # a scale of 0 would make NaN
    transformer.norm = torch.nn.Identity()
    with torch.inference_mode():
        tokens = torch.randn(1, 3, 64)
        hidden = torch.nn.functional.gelu(block.mlp.fc1(block.norm2(tokens)))
        quantize(transformer, bf16=False)
        found = (transformer(tokens) - tokens)[0].double().numpy()
    steps = np.rint(np.array([1, 0.5, 0.003]) * 127) / 127
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:, 0], hidden[0, :, :3].double().numpy() @ steps, atol=0.02)
    np.testing.assert_array_equal(found[:, 1:], 0)


@pytest.mark.parametrize("pool", ["mean", "cls", "max", "gem"])
def test_a_model_pools_as_in_float32(chips, encode, worst_cosine, tiny, pool):
    def load():
        return load_encoder(EncoderSettings("prithvi_eo_tiny", weights=str(tiny), pool=pool))

    pixels, valid = chips(3), torch.ones(3, 224, 224)
    valid[1, :, 100:] = 0
    expected, encoder = encode(load(), pixels, valid), load()
    quantize(encoder.module, bf16=False)
    found = encode(encoder, pixels, valid)
    assert worst_cosine(found, expected) > 0.995
    torch.testing.assert_close(encode(encoder, pixels[1:2], valid[1:2]), found[1:2], rtol=1e-6, atol=1e-6)


def test_without_openvino_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match="int8 is computed by OpenVINO, which is not installed") as caught:
        int8.require()
    assert "pip install openvino" in explain(caught.value)


def test_nothing_is_reported_to_openvinos_makers():
    """Importing it sends events, from a thread that outlives a command, wherever its telemetry is installed."""
    code = (
        "import sys, torch\n"
        "from rsr_cli.core.encoders.int8 import quantize\n"
        "from rsr_cli.core.encoders.transformer import VisionTransformer\n"
        "made = VisionTransformer(bands=3, patch=(4, 4), side=2, dim=32, depth=1, heads=4, epsilon=1e-6).eval()\n"
        "quantize(made.requires_grad_(False), bf16=False)\n"
        "print([name for name in sys.modules if 'openvino_telemetry' in name and sys.modules[name]])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"[]\n", b"")
