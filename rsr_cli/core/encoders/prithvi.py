"""Prithvi, the geospatial foundation models of IBM and NASA: encoders of masked autoencoders, built as terratorch's."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rsr_cli.core.encoders import weights
from rsr_cli.core.encoders.terratorch import Backbone
from rsr_cli.core.encoders.weights import HubFile
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from rsr_cli.core.encoders.base import EncoderSettings

BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")

# https://huggingface.co/ibm-nasa-geospatial/Prithvi-EO-1.0-100M/blob/main/config.json; terratorch rounds them
_MEAN_V1 = (
    *(775.2290211032589, 1080.992780391705, 1228.5855250417867),
    *(2497.2022620507532, 2204.2139147975554, 1610.8324823273745),
)
_STD_V1 = (
    *(1281.526139861424, 1270.0297974547493, 1399.4802505642526),
    *(1368.3446143747644, 1291.6764008585435, 1154.505683480695),
)
# https://huggingface.co/ibm-nasa-geospatial/Prithvi-EO-2.0-300M/blob/main/config.json; the same for all of version 2
_MEAN_V2 = (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0)
_STD_V2 = (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0)


@dataclass(frozen=True)
class Variant:
    """One of the models: the vision transformer's measures, and where its weights are published."""

    dim: int
    depth: int
    heads: int
    published: HubFile | None
    patch_px: int = 16
    mean: tuple[float, ...] = _MEAN_V2
    std: tuple[float, ...] = _STD_V2


def _hub(model: str, name: str) -> HubFile:
    return HubFile(f"ibm-nasa-geospatial/Prithvi-EO-{model}", f"Prithvi_EO_{name}.pt")


#: As terratorch registers them; those in ``_tl`` take date and place.
VARIANTS = {
    "prithvi_eo_v1_100": Variant(768, 12, 12, _hub("1.0-100M", "V1_100M"), mean=_MEAN_V1, std=_STD_V1),
    "prithvi_eo_v2_tiny_tl": Variant(192, 12, 3, _hub("2.0-tiny-TL", "V2_tiny_TL")),
    "prithvi_eo_v2_100_tl": Variant(768, 12, 12, _hub("2.0-100M-TL", "V2_100M_TL")),
    "prithvi_eo_v2_300": Variant(1024, 24, 16, _hub("2.0-300M", "V2_300M")),
    "prithvi_eo_v2_300_tl": Variant(1024, 24, 16, _hub("2.0-300M-TL", "V2_300M_TL")),
    "prithvi_eo_v2_600": Variant(1280, 32, 16, _hub("2.0-600M", "V2_600M"), patch_px=14),
    "prithvi_eo_v2_600_tl": Variant(1280, 32, 16, _hub("2.0-600M-TL", "V2_600M_TL"), patch_px=14),
    "prithvi_eo_tiny": Variant(256, 4, 4, None),
}


class Prithvi(Backbone):
    """A Prithvi model on one date: the pooled patch tokens of a block.

    The position embedding is the fixed sine and cosine table for the input's own grid; the checkpoint's, made for
    three or four dates of 224 px, is dropped. ``layer`` counts the transformer's blocks, and the final norm applies to
    the last one alone, as in terratorch's ``forward_features``.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        variant = VARIANTS[settings.model]
        self._declare(settings, bands=BANDS, mean=variant.mean, std=variant.std, size_px=224)
        if self.size_px % variant.patch_px:
            raise UsageError(f"{self.name} takes sizes that are multiples of {variant.patch_px} px, not {self.size_px}")
        layer = self._layer(settings, variant.depth)
        path = weights.find(self.name, settings.weights, variant.published)
        state, digest = weights.read(path)

        import torch

        terratorch = _terratorch()
        # on the meta device, as random weights would take seconds and twice the memory, only to be replaced
        with torch.device("meta"):
            module = terratorch.PrithviViT(
                img_size=self.size_px,
                patch_size=(1, variant.patch_px, variant.patch_px),
                num_frames=1,
                in_chans=len(BANDS),
                embed_dim=variant.dim,
                depth=variant.depth,
                num_heads=variant.heads,
                coords_encoding=["time", "location"] if self.needs else [],
                coords_scale_learn=True,
            )
        positions = terratorch.get_3d_sincos_pos_embed(variant.dim, module.patch_embed.grid_size, add_cls_token=True)
        state = _encoder_weights(state)
        state["pos_embed"] = torch.from_numpy(positions).float()[None]
        weights.fit(module, state, path, self.name, variant.published)

        # forward_features keeps a copy of what each block gives: one block of blocks gives only what is pooled, and
        # those behind it are not run
        if layer < variant.depth - 1:
            module.norm = torch.nn.Identity()
        module.blocks = torch.nn.ModuleList([torch.nn.Sequential(*module.blocks[: layer + 1])])
        if self.needs:  # bfloat16 cannot tell 2017 from 2016: only the embedding made of it is rounded
            for encoder in (module.temporal_embed_enc, module.location_embed_enc):
                encoder.register_forward_hook(lambda encoder, _, embedding: embedding.to(encoder.scale.dtype))
        self.module = module
        self.dim = variant.dim
        self.space = {"weights": digest, "pool": self.pool, "layer": layer}

    def forward(self, pixels: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:
        """Encode a batch, as `Encoder.forward` says."""
        module: Any = self.module
        coordinates = (context["datetime"][:, None], context["location"]) if self.needs else ()
        return self._pooled(module.forward_features(pixels, *coordinates)[-1], class_tokens=1)


class PrithviTL(Prithvi):
    """A Prithvi model that takes date and place; both stay float32 in a network of lower precision."""

    needs = ("datetime", "location")


@functools.cache
def _terratorch() -> Any:
    """Import the one file of terratorch's that defines the model.

    The package as a whole brings its training stack along: 12 s against 2 s, twice the memory, changes to the
    process's environment and warning filters, and whatever code stands in ``custom_modules/`` of the working directory.
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
    """Take the encoder's weights from a checkpoint, by the encoder's own names.

    Published are the whole autoencoder with ``encoder.`` and ``decoder.`` before the names (all of version 2, version
    1 since December 2024), the same without (version 1 before that), and fine-tuned models as Lightning saves them
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
