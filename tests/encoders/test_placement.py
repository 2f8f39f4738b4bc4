"""The choice of device, precision, batch size and threads."""

from __future__ import annotations

import pytest
import torch

from rsr_cli.core.encoders.placement import place
from rsr_cli.core.errors import UsageError
from rsr_cli.remedies import explain


def test_a_cpu_has_its_own_defaults():
    placement = place("cpu", "bf16", None)
    assert (placement.device.type, placement.dtype, placement.batch_size) == ("cpu", torch.bfloat16, 16)
    assert placement.readers >= 1
    assert place("cpu", "fp32", 3).batch_size == 3


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_available_is_refused(device):
    with pytest.raises(UsageError, match=f"device {device!r} cannot be used") as caught:
        place(device, "fp32", None)
    assert "leave out --device" in explain(caught.value)


def test_a_cpu_does_not_compute_in_fp16():
    with pytest.raises(UsageError, match="fp16 needs an accelerator"):
        place("cpu", "fp16", None)
