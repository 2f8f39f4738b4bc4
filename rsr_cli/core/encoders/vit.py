"""The paper's RGB baseline: torchvision's ViT-B/16, trained on ImageNet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsr_cli.core.encoders import weights
from rsr_cli.core.encoders.base import Encoder
from rsr_cli.core.encoders.pooling import POOLED, patch_shares, pool_seen
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from rsr_cli.core.encoders.base import Model
    from rsr_cli.core.encoders.pooling import Rows

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

    def __init__(self, model: Model, checkpoint: str | None) -> None:
        super().__init__(model)
        if self.size_px != SIZE_PX:
            raise UsageError(f"{self.name} takes {SIZE_PX} px, not {self.size_px}")
        path = weights.find(self.name, checkpoint, model.weights)
        state, digest = weights.read(path)

        import torch
        from torchvision.models import vit_b_16

        with torch.device("meta"):
            module = vit_b_16()
        module.heads = torch.nn.Identity()
        # the published file predates torchvision's present names
        state = {
            name.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."): tensor
            for name, tensor in state.items()
            if not name.startswith("heads.")
        }
        weights.fit(module, state, path, self.name, model.weights)
        if model.layer < len(module.encoder.layers) - 1:
            module.encoder.ln = torch.nn.Identity()
        module.encoder.layers = module.encoder.layers[: model.layer + 1]
        self.module = module
        self.facts = {"weights": digest, "pool": model.pool, "pooled": POOLED, "layer": model.layer}

    def forward(self, pixels: torch.Tensor, valid: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Encode a batch, see `Encoder.forward`."""
        import torch

        module: Any = self.module
        patches = module.conv_proj(pixels).flatten(2).transpose(1, 2)
        embedded = (
            torch.cat([module.class_token.expand(len(pixels), -1, -1), patches], 1) + module.encoder.pos_embedding
        )

        def encode(tiles: Rows, tokens: Rows) -> torch.Tensor:
            last: torch.Tensor = module.encoder.ln(module.encoder.layers(embedded[tiles][:, tokens]))
            return last

        return pool_seen(self.facts["pool"], encode, 1, patch_shares(valid, patches.shape[1]))
