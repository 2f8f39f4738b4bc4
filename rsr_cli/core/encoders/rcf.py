"""Random convolutional features: an encoder without weights to download, for any bands."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from rsr_cli.core.encoders import prithvi
from rsr_cli.core.encoders.base import Encoder, check_statistics
from rsr_cli.core.errors import UsageError

if TYPE_CHECKING:
    from rsr_cli.core.encoders.base import EncoderSettings

#: Raised with every change of the formula: vectors of two recipes must not meet.
RECIPE = 1
FILTERS = 384
KERNEL_PX = 3
BIAS = -1.0
#: Of neighbouring pixels, in the model of images that the filters are whitened for.
CORRELATION = 0.95
#: How far apart the filters stand that are compared; each gives a dimension for every filter.
STEPS = (1, 2)
# So many feature maps of a tile of 64 x 64 px stay in a core's cache, which is thrice as fast as all at once; and of
# a whole scene, they fit into memory.
_FILTERS_AT_ONCE = 48

_PRITHVI = prithvi.VARIANTS["prithvi_eo_v1_100"]
#: STAC common name -> mean and standard deviation in reflectance x 10000.
STATISTICS = {
    # Sentinel-2 surface reflectance of SSL4EO-S12, 50,000 samples all over the world: S2A_MEAN and S2A_STD of
    # https://github.com/zhu-xlab/SSL4EO-S12/blob/main/src/benchmark/pretrain_ssl/datasets/SSL4EO/ssl4eo_dataset.py
    # (Wang et al.: SSL4EO-S12, 2023, https://arxiv.org/abs/2211.07044)
    "coastal": (752.40, 1108.03),
    "rededge071": (1624.91, 1370.27),
    "rededge075": (2194.64, 1355.55),
    "rededge078": (2422.21, 1416.51),
    "nir": (2517.76, 1474.79),
    "nir09": (2645.52, 1582.28),
    **dict(zip(prithvi.BANDS, zip(_PRITHVI.mean, _PRITHVI.std, strict=True), strict=True)),
}


class RCF(Encoder):
    r"""How strongly random filters respond to a tile, each compared with others.

    For filters :math:`k = 0 \ldots 383`, indices modulo 384, and averages over the pixels of the tile :math:`x`:

    .. math::

        a_k &= \overline{\max(0,\; w_k * x - 1)} \qquad b_k = \overline{\max(0,\; 1 - w_k * x)} \\
        s_k &= \sqrt{a_k} + \sqrt{b_k} \\
        z &= (s_0 - s_1,\; s_1 - s_2, \ldots;\quad s_0 - s_2,\; s_1 - s_3, \ldots)

    :math:`a` and :math:`b` are the features of MOSAIKS [1]_. They are never negative, so their signs say nothing. But
    all filters are drawn alike: of two, either is as likely to respond more strongly, whatever the tile. So the
    differences :math:`z` have a sign that means something, each bit of a binary code is 1 for half of the seeds, and
    no constant is needed that would have to be learned from data. The square root keeps the few filters that respond
    to everything bright from outweighing the rest. Each filter is compared with two others, as that takes half the
    convolutions of a filter a dimension and retrieves no worse.

    The filters are Gaussian noise, whitened for images: neighbouring pixels are so alike that of plain noise, little
    but the mean of its nine weights would matter. MOSAIKS whitens with the covariance of patches of its own data. We
    take the textbook's: a separable first-order Markov process of correlation 0.95 [2]_. With
    :math:`C_{ij} = 0.95^{|i - j|}` and noise :math:`g` of 3 x 3 px a band, :math:`w = C^{-1/2} g\, C^{-1/2}`.

    A tile is continued beyond its borders by its outermost pixels, so it may be as small as one.

    Parameters
    ----------
    settings : EncoderSettings
        ``bands``, ``mean`` and ``std``: any bands; without statistics, those of `STATISTICS`. Without bands,
        Prithvi's six. ``size_px``: without it, tiles are taken as they are. ``seed``: of the filters.

    Raises
    ------
    UsageError
        The settings do not fit: weights, pooling or layer are given, the statistics of a band are unknown, or
        those given are not finite, not one a band, or a deviation is not positive.

    References
    ----------
    .. [1] Rolf et al.: A generalizable and accessible approach to machine learning with global satellite imagery.
       Nature Communications 12, 2021. https://www.nature.com/articles/s41467-021-24638-z
    .. [2] Jain: Fundamentals of Digital Image Processing. Prentice Hall, 1989; the covariance models of chapter 2.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        self.name = settings.model
        for option, value in (("--weights", settings.weights), ("--pool", settings.pool), ("--layer", settings.layer)):
            if value is not None:
                raise UsageError(f"{self.name} takes no {option}: it draws its filters from --seed and averages")
        self.bands = tuple(settings.bands or prithvi.BANDS)
        self.mean, self.std = _statistics(settings, self.bands)
        self.size_px = settings.size_px
        self.dim = len(STEPS) * FILTERS
        self.module = RandomFeatures(draw_filters(len(self.bands), settings.seed))
        self.space = {
            "recipe": RECIPE,
            "seed": settings.seed,
            "filters": FILTERS,
            "kernel": KERNEL_PX,
            "bias": BIAS,
            "correlation": CORRELATION,
            "steps": STEPS,
        }

    def forward(self, pixels: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Encode a batch, as `Encoder.forward` says."""
        vectors: torch.Tensor = self.module(pixels)
        return vectors


class RandomFeatures(torch.nn.Module):
    """The formula of `RCF` for given filters.

    Parameters
    ----------
    filters : torch.Tensor
        float (filters, bands, kernel, kernel), the kernel odd.
    """

    filters: torch.Tensor

    def __init__(self, filters: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("filters", filters)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode a batch.

        Parameters
        ----------
        pixels : torch.Tensor
            float (n, bands, height, width), normalised.

        Returns
        -------
        torch.Tensor
            float32 (n, len(STEPS) * filters).
        """
        # Tile by tile, so that a vector is the same to the last bit in every batch. On a CPU a thread takes a tile:
        # threads that share one wait for each other at each of its hundred small steps, and long on a busy machine.
        tiles = torch.split(pixels, 1)
        if pixels.device.type == "cpu" and len(tiles) > 1:
            strengths = torch.stack(list(self._threads.map(self._strengths, tiles)))
        else:
            strengths = torch.stack([self._strengths(tile) for tile in tiles])
        return torch.cat([strengths - strengths.roll(-step, dims=1) for step in STEPS], dim=1)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # here too: a team of threads that waits for its next step spins
        return ThreadPoolExecutor(threads, "rcf", torch.set_num_threads, (1,))

    def _strengths(self, tile: torch.Tensor) -> torch.Tensor:
        """Average what the filters respond on a tile (1, bands, height, width): float32 (filters,)."""
        margin = self.filters.shape[-1] // 2
        tile = torch.nn.functional.pad(tile, (margin,) * 4, mode="replicate")
        strengths = []
        for first in range(0, len(self.filters), _FILTERS_AT_ONCE):
            filters = self.filters[first : first + _FILTERS_AT_ONCE]
            maps = torch.nn.functional.conv2d(tile, filters, filters.new_full((len(filters),), BIAS))[0].flatten(1)
            above = maps.clamp_min(0).mean(dim=1, dtype=torch.float32)
            below = -maps.clamp_max_(0).mean(dim=1, dtype=torch.float32)
            strengths.append(above.sqrt() + below.sqrt())
        return torch.cat(strengths)


def draw_filters(bands: int, seed: int) -> torch.Tensor:
    """Draw Gaussian noise and whiten it, as `RCF` says.

    Parameters
    ----------
    bands : int
        How many.
    seed : int
        0 to 2**32 - 1.

    Returns
    -------
    torch.Tensor
        float32 (FILTERS, bands, KERNEL_PX, KERNEL_PX).
    """
    # RandomState's numbers are the same in every version of numpy (NEP 19), and so is an index that outlives one
    noise = np.random.RandomState(seed).standard_normal((FILTERS, bands, KERNEL_PX, KERNEL_PX))
    at = np.arange(KERNEL_PX)
    values, vectors = np.linalg.eigh(CORRELATION ** np.abs(at[:, None] - at))
    whitening = vectors / np.sqrt(values) @ vectors.T
    return torch.from_numpy((whitening @ noise @ whitening).astype(np.float32))


def _statistics(settings: EncoderSettings, bands: tuple[str, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Take mean and standard deviation of the bands from the user, or look them up."""
    if (settings.mean is None) != (settings.std is None):
        raise UsageError(f"{settings.model} takes --mean and --std together")
    if settings.mean is None or settings.std is None:
        unknown = [band for band in bands if band not in STATISTICS]
        if unknown:
            raise UsageError(f"{settings.model} knows no statistics of {', '.join(unknown)}; pass --mean and --std")
        return tuple(STATISTICS[band][0] for band in bands), tuple(STATISTICS[band][1] for band in bands)
    mean, std = tuple(map(float, settings.mean)), tuple(map(float, settings.std))
    check_statistics(settings.model, len(bands), mean, std)
    return mean, std
