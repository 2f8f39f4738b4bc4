"""Backbones from terratorch's registry, whose features are pooled to one vector.

Included are those that make feature maps or tokens from pixels alone: DOFA, TerraMind on Sentinel-2 L2A, torchgeo's
ResNets, ViTs and Swins (SSL4EO, SatlasPretrain, SeCo, GASSL), and timm's networks. Left out are ``dinov3_*``
(downloads and runs code), Clay (requires wavelengths, date and place), MMEarth's ConvNeXt (returns class scores),
tokenizers, and networks that are never pretrained.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import re
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rsr_cli.core.encoders import specification, weights
from rsr_cli.core.encoders.base import Encoder, Model, choose_layer, require
from rsr_cli.core.encoders.pooling import POOLED, patch_shares, pool
from rsr_cli.core.errors import UsageError, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress what terratorch and its dependencies print, log, warn and change while they are imported and built.

    Importing terratorch lowers the precision in which float32 matrices are multiplied, to that of bfloat16 on many
    processors.
    """
    import torch

    precision = torch.get_float32_matmul_precision()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        torch.set_float32_matmul_precision(precision)


#: STAC common name -> terratorch's name of the band, by which it finds DOFA's wavelength.
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
    """How to build and read a family of terratorch's backbones.

    Attributes
    ----------
    names : str
        Regular expression that matches the start of the names, source included.
    build : callable
        Bands -> arguments of the constructor.
    class_tokens : int or None
        Number of tokens before the patches; ``None`` for networks that return feature maps.
    other_inputs : tuple of str
        Prefixes of weights for inputs that are not used.
    fp32_only : bool
        Whether the network's code mixes precisions in anything but fp32.
    """

    names: str
    build: Callable[[Sequence[str]], dict[str, Any]]
    class_tokens: int | None = None
    other_inputs: tuple[str, ...] = ()
    fp32_only: bool = False


def _with_wavelengths(bands: Sequence[str]) -> dict[str, Any]:
    unknown = [band for band in bands if band not in _WAVELENGTHS]
    if unknown:
        raise UsageError(f"DOFA has no wavelength for {', '.join(unknown)}; it reads {', '.join(_WAVELENGTHS)}")
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

_LIBRARIES = ("torch", "terratorch")
# Layers after the features: a checkpoint may lack them or have them for other classes.
_HEADS = ("fc.", "head.", "fc_norm.")


def list_backbones() -> list[str]:
    """Return the names of terratorch's backbones that can be encoders. Importing terratorch takes seconds.

    Returns
    -------
    list of str
        Names with their source: ``terratorch_dofa_base_patch16_224``, ``timm_resnet50``.

    Raises
    ------
    UsageError
        Terratorch is not installed.
    """
    require("the list of terratorch's backbones", *_LIBRARIES)
    with quietly():
        from terratorch.registry import BACKBONE_REGISTRY
    return sorted(name for name in BACKBONE_REGISTRY if any(re.match(family.names, name) for family in _FAMILIES))


def find_backbone(name: str) -> Model:
    """Return the model of a backbone.

    The registry states neither bands nor statistics, and its own downloads would bypass the checks on weights, so
    that users must give bands, mean, std, size and weights.

    Parameters
    ----------
    name : str
        With or without its source (``timm_``, ``terratorch_``).

    Raises
    ------
    UsageError
        There is no such backbone, or terratorch is not installed.
    """
    require(f"model {name}, which is not one of rsr's own,", *_LIBRARIES)
    known = list_backbones()
    found = next((full for full in (name, f"terratorch_{name}", f"timm_{name}") if full in known), None)
    if found is None:
        close = difflib.get_close_matches(name, [*known, *(full.partition("_")[2] for full in known)])
        suggestion = f"; did you mean {', '.join(close)}?" if close else ""
        raise UsageError(f"unknown model {name}{suggestion}", remedy=None if close else "models")
    return Model(
        name=found,
        encoder="rsr_cli.core.encoders.terratorch:Backbone",
        dim=None,
        any_bands=True,
        pool="mean",
        layers=0,
        required=("bands", "mean", "std", "size_px"),
        libraries=_LIBRARIES,
    )


class Backbone(Encoder):
    """A backbone of terratorch's registry: the pooled patch tokens, or feature map pixels, of one output.

    The checkpoint has the network's own names, as published by timm and torchgeo. ``layer`` counts the outputs of
    terratorch's backbone.

    Parameters
    ----------
    model : Model
        As `Model.adjust` returns it.
    checkpoint : str or None
        Path of the weights; nothing is downloaded.
    """

    reentrant = False  # torchgeo's DOFA keeps what it computes of the wavelengths

    def __init__(self, model: Model, checkpoint: str | None) -> None:
        super().__init__(model)
        name, bands, size_px = model.name, model.bands, model.size_px
        assert size_px
        assert model.changes
        family = next(family for family in _FAMILIES if re.match(family.names, name))
        if model.pool == "cls" and not family.class_tokens:
            raise UsageError(f"{name} has no class token to pool")
        path = weights.find(name, checkpoint, None)

        import torch
        from terratorch.registry import BACKBONE_REGISTRY

        arguments = family.build(bands)
        try:
            with quietly():
                module = BACKBONE_REGISTRY.build(name, pretrained=False, **arguments).eval()
                with torch.inference_mode():
                    outputs = module(torch.zeros(1, len(bands), size_px, size_px))
        except Exception as error:  # each network raises its own kind for input that it cannot take
            what = f"{counted(len(bands), 'band')} of {size_px} px"
            raise UsageError(f"{name} cannot encode {what} ({error})") from error
        self._output = choose_layer(name, model.layer, len(outputs))
        # only now can the specification leave out the last layer, and count others from the front
        stated = None if self._output == len(outputs) - 1 else self._output
        self.specification = specification.format(replace(model.changes, layer=stated))
        self.dim = module.out_channels[self._output]
        self._family = family
        self._channel_axis = _channel_axis(name, outputs[self._output], self.dim, family)

        state, digest = weights.read(path)
        children = list(module.children())
        network = children[0] if len(children) == 1 else module  # unwrapped, as checkpoints name the network itself
        weights.fit(network, _own_names(state, network, family), path, name, None, optional=_HEADS)
        self.module = module
        self.facts = {"weights": digest, "pool": model.pool, "pooled": POOLED, "layer": self._output}

    def forward(self, pixels: torch.Tensor, valid: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Encode a batch, see `Encoder.forward`."""
        if self._family.fp32_only and pixels.element_size() != 4:
            raise UsageError(f"{self.name} computes only in fp32", remedy="precision")
        output = self.module(pixels)[self._output]
        tokens = self._family.class_tokens
        if tokens is None:
            tokens, output = 0, output.movedim(self._channel_axis, -1).flatten(1, 2)
        return pool(self.facts["pool"], output, tokens, patch_shares(valid, output.shape[1] - tokens))


def _channel_axis(name: str, output: torch.Tensor, dim: int, family: _Family) -> int:
    """Return the axis of an output that has the channels: the last one for tokens and for some feature maps."""
    shape = tuple(output.shape)
    axes = (1, 3) if family.class_tokens is None else (2,)
    found = [axis for axis in axes if len(shape) == axes[-1] + 1 and shape[axis] == dim]
    if len(found) != 1:
        raise UsageError(f"{name} returns features of shape {shape}, and the axis of the channels is ambiguous")
    return found[0]


def _own_names(state: dict[str, torch.Tensor], network: torch.nn.Module, family: _Family) -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights for a network, without heads, decoders and layers that timm cuts off.

    A weight belongs to the network if the first part of its name does: so ``blocks.12.`` is kept for a network of 12
    blocks, and refused later. timm's feature extractors have ``stages_0.`` for ``stages.0.``.
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
