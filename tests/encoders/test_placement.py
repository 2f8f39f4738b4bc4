"""The choice of device, precision, batch size and threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rsr_cli.core.encoders.placement import move, place
from rsr_cli.core.errors import UsageError
from rsr_cli.remedies import explain

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_a_cpu_has_its_own_defaults():
    placement = place("cpu", "bf16", None)
    assert (placement.devices[0].type, placement.dtype, placement.batch_size) == ("cpu", torch.bfloat16, 16)
    assert place("cpu", "fp32", 3).batch_size == 3


def test_auto_is_bf16_only_where_the_processor_and_the_model_suit_it():
    x86 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    expected = "bf16" if x86 or "bf16" in Path("/proc/cpuinfo").read_text() else "fp32"
    assert place("cpu", "auto", None, same_in_bf16=True).precision == expected
    assert place("cpu", "auto", None, same_in_bf16=False).precision == "fp32"
    assert place("cpu", "fp32", None, same_in_bf16=True).dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cuda:99", "device 'cuda:99' cannot be used: "),
        pytest.param("cuda:all", "device 'cuda' cannot be used: ", marks=NO_GPU),
        ("nonsense", "there is no device 'nonsense'$"),
        ("gpu", "there is no device 'gpu'$"),
        ("cuda:x", "there is no device 'cuda:x'$"),
        ("", "there is no device ''$"),
    ],
)
def test_a_device_that_is_not_available_is_refused(device, says):
    with pytest.raises(UsageError, match=says) as caught:
        place(device, "fp32", None)
    assert "leave out --device" in explain(caught.value)


def test_a_cpu_does_not_compute_in_fp16():
    with pytest.raises(UsageError, match="fp16 needs an accelerator"):
        place("cpu", "fp16", None)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Conv3d(6, 192, (1, 16, 16), (1, 16, 16)), (2, 6, 1, 224, 224)),
        (torch.nn.Conv2d(6, 192, 16, 16), (2, 6, 224, 224)),
        (torch.nn.Conv2d(3, 8, (4, 7), (4, 7), padding="valid"), (3, 3, 30, 30)),  # rows and columns are left over
        (torch.nn.Conv2d(4, 5, 14, 14, bias=False), (1, 4, 14, 28)),
        (torch.nn.Conv3d(2, 6, (2, 3, 4), (2, 3, 4)), (2, 2, 5, 9, 9)),
        (torch.nn.Conv2d(6, 64, 3, 2, padding=1), (2, 6, 32, 32)),  # not a patch embedding
    ],
)
def test_patch_embeddings_in_bf16_are_those_in_fp32(layer, shape):
    """On some processors oneDNN's convolution returns numbers that have nothing to do with these."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(layer)
    pixels = torch.randn(shape)
    with torch.inference_mode():
        expected = network(pixels)
        move(network, torch.device("cpu"), torch.bfloat16)
        found = network(pixels.bfloat16())
    assert found.dtype == torch.bfloat16
    assert found.shape == expected.shape
    assert (found.float() - expected).abs().max() < 0.02 * expected.abs().max()
