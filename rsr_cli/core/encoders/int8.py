"""Vision transformers in int8 on a CPU, which OpenVINO computes."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from rsr_cli.core.encoders.transformer import VisionTransformer


def require() -> None:
    """Raise UsageError if OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        raise UsageError("int8 is computed by OpenVINO, which is not installed", remedy="openvino")


def quantize(transformer: VisionTransformer, *, bf16: bool) -> None:
    """Let a transformer encode tokens in int8, in place.

    The weights of linear layers are rounded to 8 bits, with a scale per output: the largest is 127. Tokens are rounded
    as they come, with a scale for each ``dim`` values of a token, so that a vector does not depend on the others in its
    batch. Attention and norms are computed in bfloat16 if ``bf16``, else in float32; pixels are embedded, and tokens
    pooled, in float32.

    Parameters
    ----------
    transformer : VisionTransformer
        With its weights in float32, on the CPU.
    bf16 : bool
        Whether the processor computes in bfloat16.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # or each import is reported
    import numpy as np
    import openvino
    import torch
    from openvino import opset13 as operations

    dim = transformer.pos_embed.shape[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how torch traces
        graph = openvino.convert_model(transformer, example_input=torch.zeros(1, 2, dim), input=[-1, -1, dim])
    for product in graph.get_ordered_ops():
        weights = product.input_value(1).get_node() if product.get_type_name() == "MatMul" else None
        if weights is None or weights.get_type_name() != "Constant":
            continue
        assert product.get_attributes()["transpose_b"]
        scale = np.abs(weights.data).max(axis=1, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        rounded = operations.constant(np.rint(weights.data / scale).astype(np.int8))
        restored = operations.multiply(operations.convert(rounded, "f32"), operations.constant(scale))
        product.input(1).replace_source_output(restored.output(0))
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": dim,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    transformer.forward = partial(_encode, request)  # type: ignore[method-assign]
    del transformer.blocks


def _encode(request: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Encode tokens, float32 (n, any number of them, dim)."""
    import torch

    return torch.from_numpy(request.infer([tokens.numpy()])[0])
