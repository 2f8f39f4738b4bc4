"""Prithvi, the geospatial foundation models by IBM and NASA: the encoders of masked autoencoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rsr_cli.core.encoders import weights
from rsr_cli.core.encoders.base import Encoder
from rsr_cli.core.encoders.pooling import POOLED
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from rsr_cli.core.encoders.base import Model


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
    quantizable = True
    #: The checkpoint's names of what embeds ``needs``.
    _embedded: ClassVar[tuple[str, ...]] = ()

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

        from rsr_cli.core.encoders.transformer import PairEmbedding, VisionTransformer, grid_positions

        side = size_px // patch_px
        # on the meta device, as random weights would take seconds and twice the memory, only to be replaced
        with torch.device("meta"):
            module = VisionTransformer(
                bands=len(self.bands),
                patch=(1, patch_px, patch_px),
                side=side,
                dim=self.dim,
                depth=depth,
                heads=heads,
                epsilon=1e-5,
            )
            for name in self._embedded:
                module.add_module(name, PairEmbedding(self.dim))
        state = _encoder_weights(state)
        state["pos_embed"] = grid_positions(self.dim, side)
        weights.fit(module, state, path, self.name, model.weights)
        module.cut(model.layer)
        self.module = module
        self.facts = {"weights": digest, "pool": model.pool, "pooled": POOLED, "layer": model.layer}

    def forward(self, pixels: torch.Tensor, valid: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:
        """Encode a batch, see `Encoder.forward`."""
        module: Any = self.module
        embedded = module.embed(pixels)
        for need, name in zip(self.needs, self._embedded, strict=True):
            embedded[:, 1:] += module.get_submodule(name)(context[need])[:, None]
        pooled: torch.Tensor = module.pool(embedded, valid, self.facts["pool"])
        return pooled


class PrithviTL(Prithvi):
    """A Prithvi model that takes date and place; both stay float32 in a network of lower precision."""

    needs = ("datetime", "location")
    _embedded = ("temporal_embed_enc", "location_embed_enc")


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
