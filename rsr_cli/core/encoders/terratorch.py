"""Pretrained networks whose features are pooled to one vector: what they share, and any backbone of terratorch's.

Of terratorch's registry, the backbones that make feature maps or tokens from pixels alone are taken: DOFA, TerraMind
on Sentinel-2 L2A, the ResNets, ViTs and Swins of torchgeo (SSL4EO, SatlasPretrain, SeCo, GASSL), and timm's. Left out
are ``dinov3_*`` (it downloads and runs code), Clay (it asks for wavelengths, date and place), the class scores of
MMEarth's ConvNeXt, tokenizers, and networks without pretraining.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsr_cli.core.encoders import weights
from rsr_cli.core.encoders.base import Encoder, EncoderSettings, check_statistics
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

POOLS = ("mean", "cls", "max", "gem")


class Backbone(Encoder):
    """An encoder that pools the features of a pretrained network."""

    def _declare(
        self,
        settings: EncoderSettings,
        *,
        bands: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        size_px: int,
        pool: str = "mean",
    ) -> None:
        """Take over what the user says, and the model's own for the rest.

        A user's bands may stand in for the model's, ``nir`` for ``nir08``, but not in another order.
        """
        self.name = settings.model
        self.bands = tuple(settings.bands or bands)
        self.mean = tuple(map(float, settings.mean or mean))
        self.std = tuple(map(float, settings.std or std))
        self.size_px: int = size_px if settings.size_px is None else settings.size_px
        self.pool = settings.pool or pool
        if len(self.bands) != len(bands):
            raise UsageError(f"{self.name} reads {len(bands)} bands, --bands gives {len(self.bands)}")
        check_statistics(self.name, len(bands), self.mean, self.std)
        if any(given != own and given in bands for given, own in zip(self.bands, bands, strict=True)):
            raise UsageError(f"{self.name} reads its bands in this order: {', '.join(bands)}")
        if self.pool not in POOLS:
            raise UsageError(f"unknown pooling {self.pool}; choose from {', '.join(POOLS)}")
        if self.size_px < 1:
            raise UsageError(f"--size wants pixels, not {self.size_px}")

    def _layer(self, settings: EncoderSettings, count: int) -> int:
        """Count the layer to pool from the front."""
        layer = -1 if settings.layer is None else settings.layer
        if not -count <= layer < count:
            raise UsageError(f"{self.name} has {count} layers, 0 to {count - 1}, and no layer {layer}")
        return layer % count

    def _pooled(self, tokens: torch.Tensor, class_tokens: int) -> torch.Tensor:
        """Pool tokens to vectors, in float32 whatever the network's precision.

        ``gem`` is the generalised mean with p = 3 (Radenovic, Tolias and Chum: Fine-tuning CNN Image Retrieval with
        No Human Annotation, 2018). There, features are positive, as a ReLU leaves them. Tokens have signs, and the
        clamping of negative ones would make every dimension positive and every bit of a binary code 1. p is odd: we
        keep the sign, ``cbrt(mean(x ** 3))``, which is the same where features are positive.

        Parameters
        ----------
        tokens : torch.Tensor
            float (n, class tokens + patches, dim).
        class_tokens : int
            How many precede those of the patches; the first of them is ``cls``.

        Returns
        -------
        torch.Tensor
            float32 (n, dim).
        """
        if self.pool == "cls":
            return tokens[:, 0].float()
        patches = tokens[:, class_tokens:].float()
        if self.pool == "mean":
            return patches.mean(1)
        if self.pool == "max":
            return patches.amax(1)
        cubes = patches.pow(3).mean(1)
        return cubes.sign() * cubes.abs().pow(1 / 3)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep away what terratorch's many dependencies print, log and warn while they are imported and built."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


#: STAC common name -> what terratorch looks DOFA's wavelength up by.
_WAVELENGTHS = {
    "coastal": "COASTAL_AEROSOL",
    "blue": "BLUE",
    "green": "GREEN",
    "red": "RED",
    "rededge071": "RED_EDGE_1",
    "rededge075": "RED_EDGE_2",
    "rededge078": "RED_EDGE_3",
    "nir": "NIR_BROAD",
    "nir08": "NIR_NARROW",
    "nir09": "WATER_VAPOR",
    "cirrus": "CIRRUS",
    "swir16": "SWIR_1",
    "swir22": "SWIR_2",
    "lwir11": "THERMAL_INFRARED_1",
    "lwir12": "THERMAL_INFRARED_12",
}


@dataclass(frozen=True)
class _Family:
    """How a family of terratorch's backbones is built and read.

    Attributes
    ----------
    names : str
        Regular expression for the start of the names, with their source.
    build : callable
        Bands -> arguments of the constructor.
    class_tokens : int or None
        How many tokens precede those of the patches; ``None`` for networks that give feature maps.
    other_inputs : tuple of str
        Starts of the names of a checkpoint's weights for inputs that are not used.
    fp32_only : bool
        Whether the network's own code mixes precisions in any other.
    """

    names: str
    build: Callable[[Sequence[str]], dict[str, Any]]
    class_tokens: int | None = None
    other_inputs: tuple[str, ...] = ()
    fp32_only: bool = False


def _with_wavelengths(bands: Sequence[str]) -> dict[str, Any]:
    unknown = [band for band in bands if band not in _WAVELENGTHS]
    if unknown:
        raise UsageError(f"DOFA knows no wavelength of {', '.join(unknown)}; it knows {', '.join(_WAVELENGTHS)}")
    return {"model_bands": [_WAVELENGTHS[band] for band in bands]}


_FAMILIES = (
    _Family(r"terratorch_dofa_", _with_wavelengths, class_tokens=1, fp32_only=True),
    _Family(r"terratorch_(fmow|satlas|seco|ssl4e)", lambda bands: {"model_bands": bands}),
    _Family(
        r"terratorch_terramind_v\d+_[a-z]+$",
        lambda _: {"modalities": ["S2L2A"]},
        class_tokens=0,
        other_inputs=("encoder_embeddings.",),
    ),
    _Family(r"timm_(?!clay_)", lambda bands: {"in_chans": len(bands)}),
)

# Layers after the features: a checkpoint may have them, lack them, or have them for other classes.
_HEADS = ("fc.", "head.", "fc_norm.")


def list_backbones() -> list[str]:
    """Name terratorch's backbones that can be encoders. It imports terratorch, which takes a while.

    Returns
    -------
    list of str
        Names with their source: ``terratorch_dofa_base_patch16_224``, ``timm_resnet50``.
    """
    with quietly():
        from terratorch.registry import BACKBONE_REGISTRY
    return sorted(name for name in BACKBONE_REGISTRY if any(re.match(family.names, name) for family in _FAMILIES))


class TerratorchBackbone(Backbone):
    """A backbone of terratorch's registry: the pooled patch tokens, or pixels of the feature map, of one output.

    The registry tells neither bands nor statistics, and its own downloads would bypass the checks that weights pass
    here: `settings` must give ``bands``, ``mean``, ``std``, ``size_px`` and ``weights``. The checkpoint has the names
    of the network itself, as timm and torchgeo publish them; ``layer`` counts the outputs of terratorch's backbone.

    Parameters
    ----------
    settings : EncoderSettings
        ``model`` with or without its source (``timm_``, ``terratorch_``).
    """

    def __init__(self, settings: EncoderSettings) -> None:
        model = settings.model
        known = list_backbones()
        name = next((name for name in (model, f"terratorch_{model}", f"timm_{model}") if name in known), None)
        if name is None:
            close = difflib.get_close_matches(model, [*known, *(name.partition("_")[2] for name in known)])
            way_out = f"did you mean {', '.join(close)}?" if close else "rsr embed -v --list-models names them all"
            raise UsageError(f"unknown model {model}; {way_out}")
        told = {"bands": settings.bands, "mean": settings.mean, "std": settings.std, "size": settings.size_px}
        missing = [f"--{option}" for option, value in told.items() if value is None]
        if missing:
            raise UsageError(f"{name} needs {', '.join(missing)}: terratorch's registry does not tell")
        bands = tuple(settings.bands or ())
        self._declare(settings, bands=bands, mean=(), std=(), size_px=0)
        self.name = name
        family = next(family for family in _FAMILIES if re.match(family.names, name))
        if self.pool == "cls" and not family.class_tokens:
            raise UsageError(f"{name} has no class token to pool")
        path = weights.find(name, settings.weights, None)

        import torch
        from terratorch.registry import BACKBONE_REGISTRY

        arguments = family.build(bands)
        try:
            with quietly():
                module = BACKBONE_REGISTRY.build(name, pretrained=False, **arguments).eval()
                with torch.inference_mode():
                    outputs = module(torch.zeros(1, len(bands), self.size_px, self.size_px))
        except Exception as error:  # whatever networks that are not ours raise for what they cannot take
            raise UsageError(f"{name} cannot encode {len(bands)} bands of {self.size_px} px ({error})") from error
        self._output = self._layer(settings, len(outputs))
        self.dim = module.out_channels[self._output]
        self._family = family
        self._channel_axis = _channel_axis(name, outputs[self._output], self.dim, family)

        state, digest = weights.read(path)
        children = list(module.children())
        network = children[0] if len(children) == 1 else module  # not a wrapper, which all names would begin with
        weights.fit(network, _own_names(state, network, family), path, name, None, optional=_HEADS)
        self.module = module
        self.space = {"weights": digest, "pool": self.pool, "layer": self._output}

    def forward(self, pixels: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Encode a batch, as `Encoder.forward` says."""
        if self._family.fp32_only and pixels.element_size() != 4:
            raise UsageError(f"{self.name} computes in fp32 alone; pass --precision fp32")
        output = self.module(pixels)[self._output]
        if self._family.class_tokens is None:
            return self._pooled(output.movedim(self._channel_axis, -1).flatten(1, 2), class_tokens=0)
        return self._pooled(output, self._family.class_tokens)


def _channel_axis(name: str, output: torch.Tensor, dim: int, family: _Family) -> int:
    """Tell which axis of an output has the channels: of tokens the last one, of some feature maps too."""
    shape = tuple(output.shape)
    axes = (1, 3) if family.class_tokens is None else (2,)
    found = [axis for axis in axes if len(shape) == axes[-1] + 1 and shape[axis] == dim]
    if len(found) != 1:
        raise UsageError(f"{name} gives features of shape {shape}, and it is not clear which of it to pool")
    return found[0]


def _own_names(state: dict[str, torch.Tensor], network: torch.nn.Module, family: _Family) -> dict[str, torch.Tensor]:
    """Take what is a network's own from a checkpoint: no heads, no decoder, no layers that timm cuts off.

    A name is the network's own when its first part is: ``blocks.12.`` is, in a network of 12 blocks, and will not fit.
    timm's feature extractors write ``stages_0.`` for ``stages.0.``.
    """
    own = network.state_dict()
    parts = {name.partition(".")[0] for name in own}
    taken = {}
    for name, tensor in state.items():
        joined = name.replace(".", "_", 1)
        name = joined if joined.partition(".")[0] in parts else name
        if name in own or (name.partition(".")[0] in parts and not name.startswith(family.other_inputs)):
            taken[name] = tensor
    return {name: tensor for name, tensor in taken.items() if not name.startswith(_HEADS)}
