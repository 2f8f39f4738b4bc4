"""Prithvi, the geospatial foundation models by IBM and NASA: the encoders of masked autoencoders, as in terratorch."""

from __future__ import annotations

import functools
import importlib.util
import math
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rsr_cli.core.encoders import weights
from rsr_cli.core.encoders.base import Encoder
from rsr_cli.core.encoders.pooling import POOLED, patch_shares, pool_seen
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from rsr_cli.core.encoders.base import Model
    from rsr_cli.core.encoders.pooling import Rows


class Prithvi(Encoder):
    """A Prithvi model on one date: the pooled patch tokens of a block.

    The position embedding is the fixed sine and cosine table for the grid of the input; the checkpoint's, made for
    three or four dates of 224 px, is dropped. ``layer`` counts the transformer's blocks. The final norm applies only
    to the last one, as in terratorch's ``forward_features``.

    Parameters
    ----------
    model : Model
        As `Model.adjust` returns it.
    checkpoint : str or None
        Path of the weights; ``None`` for the published ones.
    heads, patch_px : int
        Attention heads, and height and width of a patch.
    """

    same_in_bf16 = True

    def __init__(self, model: Model, checkpoint: str | None, *, heads: int, patch_px: int) -> None:
        super().__init__(model)
        size_px, depth = model.size_px, model.layers
        assert size_px
        assert depth
        if size_px % patch_px:
            raise UsageError(f"{self.name} takes sizes that are multiples of {patch_px} px, not {size_px}")
        path = weights.find(self.name, checkpoint, model.weights)
        state, digest = weights.read(path)

        import torch

        terratorch = _terratorch()
        # on the meta device, as random weights would take seconds and twice the memory, only to be replaced
        with torch.device("meta"):
            module = terratorch.PrithviViT(
                img_size=size_px,
                patch_size=(1, patch_px, patch_px),
                num_frames=1,
                in_chans=len(self.bands),
                embed_dim=model.dim,
                depth=depth,
                num_heads=heads,
                coords_encoding=["time", "location"] if self.needs else [],
                coords_scale_learn=True,
            )
        positions = terratorch.get_3d_sincos_pos_embed(model.dim, module.patch_embed.grid_size, add_cls_token=True)
        state = _encoder_weights(state)
        state["pos_embed"] = torch.from_numpy(positions).float()[None]
        weights.fit(module, state, path, self.name, model.weights)

        # forward_features keeps a copy of each block's output: a single block made of blocks returns only the one that
        # is pooled, and later blocks are not run
        if model.layer < depth - 1:
            module.norm = torch.nn.Identity()
        module.blocks = torch.nn.ModuleList([torch.nn.Sequential(*module.blocks[: model.layer + 1])])
        if self.needs:  # 2017 and 2016 are the same number in bfloat16: only their embedding is rounded
            for encoder in (module.temporal_embed_enc, module.location_embed_enc):
                encoder.register_forward_hook(lambda encoder, _, embedding: embedding.to(encoder.scale.dtype))
        self.module = module
        self.facts = {"weights": digest, "pool": model.pool, "pooled": POOLED, "layer": model.layer}

    def forward(self, pixels: torch.Tensor, valid: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:
        """Encode a batch, see `Encoder.forward`."""
        module: Any = self.module
        coordinates = (context["datetime"][:, None], context["location"]) if self.needs else ()

        def encode(tiles: Rows, tokens: Rows) -> torch.Tensor:
            with module.blocks[0].register_forward_pre_hook(lambda _, inputs: (inputs[0][:, tokens],)):
                last: torch.Tensor = module.forward_features(*(tensor[tiles] for tensor in (pixels, *coordinates)))[-1]
            return last

        patches = math.prod(module.patch_embed.grid_size)
        return pool_seen(self.facts["pool"], encode, 1, patch_shares(valid, patches))


class PrithviTL(Prithvi):
    """A Prithvi model that takes date and place; both stay float32 in a network of lower precision."""

    needs = ("datetime", "location")


@functools.cache
def _terratorch() -> Any:
    """Import the one file of terratorch that defines the model.

    Importing the whole package brings in its training stack: 12 s instead of 2 s, twice the memory, changes to the
    process's environment and warning filters, and any code in ``custom_modules/`` of the working directory.
    """
    package = importlib.util.find_spec("terratorch")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("terratorch is not installed")
    path = Path(package.origin).with_name("models") / "backbones" / "prithvi_mae.py"
    loader = SourceFileLoader("rsr_cli.core.encoders.terratorch_prithvi_mae", str(path))
    module: Any = ModuleType(loader.name)
    loader.exec_module(module)
    return module


def _encoder_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the encoder's weights in a checkpoint, by the encoder's own names.

    Checkpoints are published as the whole autoencoder, with the prefixes ``encoder.`` and ``decoder.`` (all of version
    2, version 1 since December 2024) or without (version 1 before that), and as fine-tuned models saved by Lightning
    (``model.encoder.``).
    """
    for prefix in ("module.", "model.", "encoder."):
        inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        state = inner or state
    return {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(("decoder", "mask_token")) and name != "pos_embed"
    }
