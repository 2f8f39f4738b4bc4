"""The paper's baseline for red, green and blue: torchvision's ViT-B/16, trained on ImageNet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsr_cli.core.encoders import weights
from rsr_cli.core.encoders.terratorch import Backbone
from rsr_cli.core.encoders.weights import TorchFile
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from rsr_cli.core.encoders.base import EncoderSettings

BANDS = ("red", "green", "blue")
DIM = 768
SIZE_PX = 224
#: torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1
PUBLISHED = TorchFile("https://download.pytorch.org/models/vit_b_16-c867db91.pth")


class ViTB16(Backbone):
    """ImageNet's ViT-B/16: the class token of a layer, or its pooled patch tokens.

    The encoder's norm applies to the last layer alone. Reflectance x 10000 is taken from 0..10000 to -1..1, as in the
    paper. The position embedding is learned, so the size is fixed.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        self._declare(settings, bands=BANDS, mean=(5000.0,) * 3, std=(5000.0,) * 3, size_px=SIZE_PX, pool="cls")
        if self.size_px != SIZE_PX:
            raise UsageError(f"{self.name} takes {SIZE_PX} px, not {self.size_px}")
        layer = self._layer(settings, 12)
        path = weights.find(self.name, settings.weights, PUBLISHED)
        state, digest = weights.read(path)

        import torch
        from torchvision.models import vit_b_16

        with torch.device("meta"):
            module = vit_b_16()
        module.heads = torch.nn.Identity()
        # the published file is older than torchvision's present names
        state = {
            name.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."): tensor
            for name, tensor in state.items()
            if not name.startswith("heads.")
        }
        weights.fit(module, state, path, self.name, PUBLISHED)
        module.encoder.layers = module.encoder.layers[: layer + 1]
        if layer < 11:
            module.encoder.ln = torch.nn.Identity()
        self.module = module
        self.dim = DIM
        self.space = {"weights": digest, "pool": self.pool, "layer": layer}

    def forward(self, pixels: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Encode a batch, as `Encoder.forward` says."""
        import torch

        module: Any = self.module
        patches = module.conv_proj(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([module.class_token.expand(len(pixels), -1, -1), patches], dim=1)
        return self._pooled(module.encoder(tokens), class_tokens=1)
