"""The registry: which encoders there are, and how to get one."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from rsr_cli.core.encoders import prithvi, vit
from rsr_cli.core.encoders.base import Encoder, EncoderSettings
from rsr_cli.core.encoders.terratorch import TerratorchBackbone, list_backbones
from rsr_cli.core.errors import UsageError

__all__ = [
    "Encoder",
    "EncoderSettings",
    "ModelInfo",
    "list_backbones",
    "list_models",
    "load_encoder",
]


@dataclass(frozen=True)
class ModelInfo:
    """A line of the registry.

    Attributes
    ----------
    name : str
        What ``--model`` takes.
    bands : tuple of str
        STAC common names; empty where any will do.
    size_px : int or None
        Height and width that tiles are resized to, unless the user says otherwise; ``None`` for no resizing.
    dim : int
        Length of the vector.
    weights : str
        Where they come from.
    """

    name: str
    bands: tuple[str, ...]
    size_px: int | None
    dim: int
    weights: str


def list_models() -> list[ModelInfo]:
    """Describe the models that need no more than their name; it imports nothing heavy.

    Returns
    -------
    list of ModelInfo
        The default first. `list_backbones` names those of terratorch's that need bands, statistics and weights.
    """
    return [
        *(
            ModelInfo(name, prithvi.BANDS, 224, variant.dim, str(variant.published or "none published: --weights FILE"))
            for name, variant in prithvi.VARIANTS.items()
        ),
        ModelInfo("vit_b_16_rgb", vit.BANDS, vit.SIZE_PX, vit.DIM, str(vit.PUBLISHED)),
        ModelInfo("rcf", (), None, 768, "drawn from --seed"),
    ]


def load_encoder(settings: EncoderSettings) -> Encoder:
    """Make an encoder that is ready to encode on the CPU.

    Parameters
    ----------
    settings : EncoderSettings
        What the user says.

    Returns
    -------
    Encoder
        With its weights, in eval mode, without gradients.

    Raises
    ------
    UsageError
        The model is unknown, or the settings do not fit it.
    WeightsError
        The weights are out of reach or do not fit the model.
    """
    name = settings.model
    if name in prithvi.VARIANTS:
        return (prithvi.PrithviTL if name.endswith("_tl") else prithvi.Prithvi)(settings)
    if name == "vit_b_16_rgb":
        return vit.ViTB16(settings)
    if name == "rcf":
        from rsr_cli.core.encoders.rcf import RCF

        return RCF(settings)
    # a slip of the finger need not wait for terratorch's import
    close = difflib.get_close_matches(name, [model.name for model in list_models()], cutoff=0.9)
    if close:
        raise UsageError(f"unknown model {name}; did you mean {', '.join(close)}?")
    return TerratorchBackbone(settings)
