"""What every encoder declares and does."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rsr_cli.core.errors import UsageError
from rsr_cli.core.records.space import fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@dataclass(frozen=True)
class EncoderSettings:
    """What a user can say about an encoder; ``None`` leaves the model's own default.

    Attributes
    ----------
    model : str
        A name of the registry.
    weights : str, optional
        Path of a checkpoint; without it the Hugging Face cache or hub is asked.
    pool : str, optional
        ``mean``, ``cls``, ``max`` or ``gem``: how patch tokens or a feature map become one vector.
    layer : int, optional
        Which of the model's outputs to pool, counted as Python counts: -1 is the last.
    size_px : int, optional
        Height and width, in pixels, that tiles are resized to.
    seed : int
        For encoders that draw their weights.
    bands : sequence of str, optional
        STAC common names in the order the model reads them.
    mean, std : sequence of float, optional
        One value a band, in reflectance x 10000.
    """

    model: str
    weights: str | None = None
    pool: str | None = None
    layer: int | None = None
    size_px: int | None = None
    seed: int = 0
    bands: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def check_statistics(model: str, n_bands: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Check what normalises a model's input.

    Raises
    ------
    UsageError
        They are not one number a band, or no finite means and positive deviations.
    """
    for option, values in (("--mean", mean), ("--std", std)):
        if len(values) != n_bands:
            raise UsageError(f"{model} reads {n_bands} bands, {option} gives {len(values)}")
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise UsageError("--mean wants finite numbers and --std positive ones")


class Encoder(ABC):
    """Maps tiles to vectors. Subclasses set the attributes below in ``__init__``.

    Attributes
    ----------
    name : str
        The registry's name.
    bands : tuple of str
        STAC common names, in the order of the input's channels.
    mean, std : tuple of float
        One value a band, in reflectance x 10000; the input is ``(reflectance x 10000 - mean) / std``.
    size_px : int or None
        Height and width that tiles are resized to; ``None`` takes them as they are.
    dim : int
        Length of the vector.
    module : torch.nn.Module
        Moved to the device and the precision by placement.
    space : dict
        All else that decides the vector space (weights' sha256, pooling, layer, seed); part of the fingerprint.
    """

    name: str
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size_px: int | None
    dim: int
    module: torch.nn.Module
    space: dict[str, Any]

    #: Record properties, besides the pixels, that ``forward`` takes: ``datetime``, ``location``.
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, pixels: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:
        """Encode a batch.

        Parameters
        ----------
        pixels : torch.Tensor
            float (n, bands, height, width), normalised, on the module's device and in its precision.
        **context : torch.Tensor
            One tensor for each name in ``needs``: ``datetime`` float (n, 2) as year and zero-based day of the year,
            ``location`` float (n, 2) as latitude and longitude in degrees.

        Returns
        -------
        torch.Tensor
            float (n, dim).
        """

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name the vector space."""
        return fingerprint(
            {
                "model": self.name,
                "bands": self.bands,
                "mean": self.mean,
                "std": self.std,
                "size": self.size_px,
                "dim": self.dim,
                **self.space,
            }
        )
