"""The paper's RGB baseline: torchvision's ViT-B/16, trained on ImageNet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsr_cli.core.encoders import weights
from rsr_cli.core.encoders.base import Encoder
from rsr_cli.core.encoders.pooling import POOLED
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from rsr_cli.core.encoders.base import Model

SIZE_PX = 224


class ViTB16(Encoder):
    """ImageNet's ViT-B/16: the class token of a layer, or its pooled patch tokens.

    The encoder's norm applies only to the last layer. The position embedding is learned, so the size is fixed.

    Parameters
    ----------
    model : Model
        As `Model.adjust` returns it.
    checkpoint : str or None
        Path of the weights; ``None`` for the published ones.
    """

    same_in_bf16 = True
    quantizable = True

    def __init__(self, model: Model, checkpoint: str | None) -> None:
        super().__init__(model)
        assert model.layers
        if self.size_px != SIZE_PX:
            raise UsageError(f"{self.name} takes {SIZE_PX} px, not {self.size_px}")
        path = weights.find(self.name, checkpoint, model.weights)
        state, digest = weights.read(path)

        import torch

        from rsr_cli.core.encoders.transformer import VisionTransformer

        patch_px = 16
        with torch.device("meta"):
            module = VisionTransformer(
                bands=3,
                patch=(patch_px, patch_px),
                side=SIZE_PX // patch_px,
                dim=self.dim,
                depth=model.layers,
                heads=12,
                epsilon=1e-6,
            )
        weights.fit(module, _renamed(state), path, self.name, model.weights)
        module.cut(model.layer)
        self.module = module
        self.facts = {"weights": digest, "pool": model.pool, "pooled": POOLED, "layer": model.layer}

    def forward(self, pixels: torch.Tensor, valid: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Encode a batch, see `Encoder.forward`."""
        module: Any = self.module
        pooled: torch.Tensor = module.pool(module.embed(pixels), valid, self.facts["pool"])
        return pooled


#: Part of a name in torchvision's checkpoints of 2022 or of today -> the part in `VisionTransformer`.
_NAMES = {
    "encoder.pos_embedding": "pos_embed",
    "class_token": "cls_token",
    "conv_proj.": "patch_embed.proj.",
    "encoder.layers.encoder_layer_": "blocks.",
    "encoder.ln.": "norm.",
    ".ln_": ".norm",
    ".self_attention.in_proj_": ".attn.qkv.",
    ".self_attention.out_proj.": ".attn.proj.",
    ".mlp.linear_": ".mlp.fc",
    ".mlp.0.": ".mlp.fc1.",
    ".mlp.3.": ".mlp.fc2.",
}


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights without the classifier, by the names of `VisionTransformer`."""
    renamed = {}
    for name, tensor in state.items():
        for theirs, own in _NAMES.items():
            name = name.replace(theirs, own)
        if not name.startswith("heads."):
            renamed[name] = tensor
    return renamed
