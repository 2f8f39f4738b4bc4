"""Model specifications: ``rcf:seed=3:bands=red,green,blue`` names a model and settings that are not its defaults.

A specification needs no shell quoting. The checkpoint is not part of it: the recipe states its sha256.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import UsageError
from rsr_cli.core.sensors import check_names
from rsr_cli.core.sensors.base import contract

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class EncoderSettings:
    """A user's choice of model and settings; ``None`` keeps the model's default.

    Attributes
    ----------
    model : str
        Name of the model, as the registry or terratorch lists it.
    weights : str, optional
        Path of a checkpoint; by default the published one, from the cache or the network.
    pool : str, optional
        How patch tokens or a feature map become one vector, see `rsr_cli.core.encoders.pooling`.
    layer : int, optional
        Which of the model's layers to pool, counted as in Python: -1 is the last.
    size_px : int, optional
        Height and width in pixels to which tiles are resized.
    seed : int, optional
        Seed of an encoder that draws its weights at random.
    bands : tuple of str, optional
        STAC common names in the model's input order.
    mean, std : tuple of float, optional
        One value per band, in reflectance x 10000.
    space : str, optional
        The vector space of pixels that are embeddings.
    """

    model: str
    weights: str | None = None
    pool: str | None = None
    layer: int | None = None
    size_px: int | None = None
    seed: int | None = None
    bands: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    space: str | None = None


def _word(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def _integer(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError(f"{text!r} is not an integer of up to 18 digits")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return check_names(text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise ValueError(f"{text!r} is not a list of numbers separated by commas") from None


#: Key in a specification -> field of `EncoderSettings` and its reader, in the order in which keys are written.
KEYS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "pool": ("pool", _word),
    "layer": ("layer", _integer),
    "size": ("size_px", _integer),
    "seed": ("seed", _integer),
    "bands": ("bands", _names),
    "mean": ("mean", _numbers),
    "std": ("std", _numbers),
    "space": ("space", _word),
}


def parse(text: str) -> EncoderSettings:
    """Read a specification. Whether the settings suit the model is checked by `Model.adjust`.

    Parameters
    ----------
    text : str
        ``MODEL`` or ``MODEL:KEY=VALUE:...``, with the keys of `KEYS` in any order.

    Returns
    -------
    EncoderSettings
        The settings that the text states, defaults included.

    Raises
    ------
    UsageError
        A key is unknown or stated twice, or a value cannot be read.
    """
    model, *parts = text.split(":")
    place = f"model {text!r}"
    if not model:
        raise UsageError("has no name", place)
    settings: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if key not in KEYS:
            raise UsageError(f"unknown setting {key!r}; choose from {', '.join(KEYS)}", place)
        if not equals:
            raise UsageError(f"{key} has no value; write {key}=VALUE", place)
        field, read = KEYS[key]
        if field in settings:
            raise UsageError(f"{key} is stated twice", place)
        try:
            settings[field] = read(value)
        except ValueError as error:
            raise UsageError(f"{key} {error}", place) from None
        except UsageError as error:
            raise UsageError(error.message, place) from None
    return EncoderSettings(model, **settings)


def format(settings: EncoderSettings) -> str:  # noqa: A001
    """Write a specification that states every setting that is not ``None``, in the order of `KEYS`.

    `Encoder.specification` leaves out the model's defaults, so that one vector space has one specification.
    """
    stated = {key: getattr(settings, field) for key, (field, _) in KEYS.items()}
    if settings.bands is not None:
        stated["bands"] = tuple(contract(settings.bands))
    return ":".join(
        [settings.model, *(f"{key}={_written(value)}" for key, value in stated.items() if value is not None)]
    )


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
