"""Where and how a model runs: device, precision, batch size, threads."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.encoders import int8
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
#: The flags by which Linux names a processor that multiplies matrices in bfloat16, on x86 and on ARM.
_BF16_FLAGS = re.compile(r"^(flags|Features)\b.*\b(avx512_bf16|amx_bf16|bf16)\b", re.MULTILINE)
CPU_BATCH, ACCELERATOR_BATCH = 16, 64


@dataclass(frozen=True)
class Placement:
    """Devices and how to use them.

    Attributes
    ----------
    devices : tuple of torch.device
        Where the model runs, a copy on each.
    precision : str
        One of `PRECISIONS`, but ``auto``.
    batch_size : int
        Tiles per forward pass.
    """

    devices: tuple[torch.device, ...]
    precision: str
    batch_size: int

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and the arithmetic; with int8, of all that is not quantized."""
        import torch

        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision, torch.float32)


def place(
    device: str | None,
    precision: str,
    batch_size: int | None,
    *,
    same_in_bf16: bool = False,
    quantizable: bool = False,
) -> Placement:
    """Choose devices, and how to use them.

    Parameters
    ----------
    device : str, optional
        As torch names it (``cpu``, ``cuda``, ``cuda:1``, ``mps``), or ``cuda:all`` for all GPUs; ``None`` takes an
        accelerator, if there is one that computes in this precision.
    precision : str
        One of `PRECISIONS`; ``auto`` is bf16 where the device computes in it and ``same_in_bf16``, else fp32.
    batch_size : int, optional
        Tiles per forward pass; ``None`` is 16 on a CPU, 64 elsewhere.
    same_in_bf16 : bool
        Whether the model's vectors in bfloat16 are those of float32, see `Encoder`.
    quantizable : bool
        Whether the model can be computed in int8, see `Encoder`.

    Raises
    ------
    UsageError
        The device is not available, or cannot compute in this precision.
    """
    import torch

    from rsr_cli.core.rasters.ahead import cores

    if device is None:
        has_gpu, has_metal = torch.cuda.is_available(), torch.backends.mps.is_available()
        device = "cpu" if precision == "int8" else "cuda" if has_gpu else "mps" if has_metal else "cpu"
    names = [device]
    if device == "cuda:all":
        names = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cuda"]  # of which torch says why not
    devices = tuple(_usable(name) for name in names)
    chosen = devices[0]
    if chosen.type == "cpu" and precision == "fp16":
        raise UsageError("fp16 needs an accelerator; a CPU computes in fp32, bf16 or int8")
    if precision == "int8":
        if chosen.type != "cpu":
            raise UsageError("int8 needs a CPU; an accelerator computes in fp32, bf16 or fp16")
        if not quantizable:
            raise UsageError("this model cannot be computed in int8", remedy="precision-else")
        int8.require()
    if precision == "auto":
        precision = "bf16" if same_in_bf16 and all(map(computes_bf16, devices)) else "fp32"
    if "OMP_NUM_THREADS" not in os.environ:
        given = os.environ.get("SLURM_CPUS_PER_TASK", "")
        torch.set_num_threads(int(given) if given.isdecimal() and int(given) else cores())
    return Placement(
        devices=devices,
        precision=precision,
        batch_size=batch_size or (CPU_BATCH if chosen.type == "cpu" else ACCELERATOR_BATCH),
    )


def _usable(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"there is no device {name!r}", remedy="device") from None
    try:
        return torch.empty(0, device=device).device  # with its number
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used: {reason}", remedy="device") from None


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies matrices in bfloat16, rather than converting them to float32."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    return device.type == "cpu" and cpuinfo.exists() and _BF16_FLAGS.search(cpuinfo.read_text()) is not None


def move(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model to a device and precision, in place.

    In bf16 on a CPU, patch embeddings are computed as matrix products: oneDNN's convolution whose stride is its kernel
    returns wrong numbers on processors with AMX (seen with torch 2.15.0 and a kernel of 16: cosine 0.00 to fp32).
    """
    import torch

    module.to(device, dtype)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # threads with streams of their own use it next
    if device.type != "cpu" or dtype != torch.bfloat16:
        return
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d) and _is_patch_embedding(layer):
            layer.forward = partial(_project_patches, layer)  # type: ignore[method-assign]


def _is_patch_embedding(layer: torch.nn.Conv2d | torch.nn.Conv3d) -> bool:
    unpadded = layer.padding == "valid" or set(layer.padding) == {0}
    return layer.stride == layer.kernel_size and unpadded and layer.groups == 1 and set(layer.dilation) == {1}


def _project_patches(layer: torch.nn.Conv2d | torch.nn.Conv3d, pixels: torch.Tensor) -> torch.Tensor:
    """Convolve (n, channels, *size) with a stride of the kernel's size, as one matrix product per patch."""
    import torch

    kernel = layer.kernel_size
    grid = [size // step for size, step in zip(pixels.shape[2:], kernel, strict=True)]
    for axis, (count, step) in enumerate(zip(grid, kernel, strict=True), 2):
        pixels = pixels.narrow(axis, 0, count * step)
    n, channels = pixels.shape[:2]
    blocks = pixels.reshape(n, channels, *chain.from_iterable(zip(grid, kernel, strict=True)))
    axes = range(2, blocks.ndim)
    patches = blocks.permute(0, *axes[::2], 1, *axes[1::2]).flatten(len(grid) + 1).flatten(1, len(grid))
    projected = torch.nn.functional.linear(patches, layer.weight.flatten(1), layer.bias)
    return projected.transpose(1, 2).reshape(n, -1, *grid)
