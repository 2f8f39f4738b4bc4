"""Random convolutional features: an encoder without weights to download, for any bands."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from rsr_cli.core.encoders.base import Encoder
from rsr_cli.core.encoders.pooling import POOLED

if TYPE_CHECKING:
    from rsr_cli.core.encoders.base import Model

#: Increase it with every change of the formula, so that vectors of two formulas have different fingerprints.
RECIPE = 1
FILTERS = 384
KERNEL_PX = 3
BIAS = -1.0
#: Correlation of neighbouring pixels in the images that the filters are whitened for.
CORRELATION = 0.95
#: Each filter is compared with those this many places further on, one dimension per comparison.
STEPS = (1, 2)
# This many feature maps of a 64 x 64 px tile stay in a core's cache, which is three times as fast as all at once, and
# this many of a whole scene fit into memory.
_FILTERS_AT_ONCE = 48


class RCF(Encoder):
    r"""Compare how strongly random filters respond to a tile.

    For filters :math:`k = 0 \ldots 383`, indices modulo 384, and averages over the pixels of the tile :math:`x`:

    .. math::

        a_k &= \overline{\max(0,\; w_k * x - 1)} \qquad b_k = \overline{\max(0,\; 1 - w_k * x)} \\
        s_k &= \sqrt{a_k} + \sqrt{b_k} \\
        z &= (s_0 - s_1,\; s_1 - s_2, \ldots;\quad s_0 - s_2,\; s_1 - s_3, \ldots)

    :math:`a` and :math:`b` are the features of MOSAIKS [1]_. They are never negative, so their signs carry no
    information. But all filters are drawn from the same distribution: for any tile, either of two filters is equally
    likely to respond more strongly. So the sign of a difference :math:`z` is informative, each bit of a binary code
    is 1 for half of the seeds, and no threshold has to be learned from data. The square root keeps the few filters
    that respond to everything bright from dominating. Each filter is compared with two others, which halves the
    convolutions per dimension and retrieves equally well.

    The filters are Gaussian noise, whitened for images: neighbouring pixels are so similar that only the mean of the
    nine weights would matter in plain noise. MOSAIKS whitens with the covariance of patches of its own data. We use
    the textbook's: a separable first-order Markov process with correlation 0.95 [2]_. With
    :math:`C_{ij} = 0.95^{|i - j|}` and noise :math:`g` of 3 x 3 px per band, :math:`w = C^{-1/2} g\, C^{-1/2}`.

    Borders are padded with the outermost pixels, so a tile may be as small as one pixel. In a tile with invalid pixels,
    averages are over the pixels whose whole kernel is valid, or if there are none, over the valid pixels: the edge of a
    hole is no edge on the ground.

    Parameters
    ----------
    model : Model
        As `Model.adjust` returns it: any bands, any size or none, and the seed for the filters.
    checkpoint : None
        There are no weights to read.

    References
    ----------
    .. [1] Rolf et al.: A generalizable and accessible approach to machine learning with global satellite imagery.
       Nature Communications 12, 2021. https://www.nature.com/articles/s41467-021-24638-z
    .. [2] Jain: Fundamentals of Digital Image Processing. Prentice Hall, 1989; the covariance models of chapter 2.
    """

    def __init__(self, model: Model, checkpoint: None) -> None:  # noqa: ARG002
        super().__init__(model)
        assert model.seed is not None
        self.module = RandomFeatures(draw_filters(len(self.bands), model.seed))
        self.facts = {
            "recipe": RECIPE,
            "pooled": POOLED,
            "seed": model.seed,
            "filters": FILTERS,
            "kernel": KERNEL_PX,
            "bias": BIAS,
            "correlation": CORRELATION,
            "steps": STEPS,
        }

    def forward(self, pixels: torch.Tensor, valid: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Encode a batch, see `Encoder.forward`."""
        vectors: torch.Tensor = self.module(pixels, valid)
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

    def forward(self, pixels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Encode a batch.

        Parameters
        ----------
        pixels : torch.Tensor
            float (n, bands, height, width), normalised.
        valid : torch.Tensor
            float32 (n, height, width), share of each pixel that is valid.

        Returns
        -------
        torch.Tensor
            float32 (n, len(STEPS) * filters).
        """
        # Tile by tile, so that a vector is the same to the last bit in every batch. On a CPU, one thread per tile:
        # threads that share a tile wait for each other at each of its hundred small steps, longer on a busy machine.
        tiles = torch.split(pixels, 1), torch.split(valid, 1)
        each = self._threads.map if pixels.device.type == "cpu" and len(pixels) > 1 else map
        strengths = torch.stack(list(each(self._strengths, *tiles)))
        return torch.cat([strengths - strengths.roll(-step, dims=1) for step in STEPS], dim=1)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # here too: idle threads of a team would spin
        return ThreadPoolExecutor(threads, "rcf", torch.set_num_threads, (1,))

    def _strengths(self, tile: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Return each filter's mean response to a tile (1, bands, height, width): float32 (filters,).

        ``valid`` is (1, height, width).
        """
        margin = self.filters.shape[-1] // 2
        tile = torch.nn.functional.pad(tile, (margin,) * 4, mode="replicate")
        weights = None
        if valid.min() < 1:
            inner = -torch.nn.functional.max_pool2d(-valid, self.filters.shape[-1], stride=1, padding=margin)
            weights = (inner if inner.any() else valid).flatten()
            weights = weights / weights.mean()
        strengths = []
        for first in range(0, len(self.filters), _FILTERS_AT_ONCE):
            filters = self.filters[first : first + _FILTERS_AT_ONCE]
            maps = torch.nn.functional.conv2d(tile, filters, filters.new_full((len(filters),), BIAS))[0].flatten(1)
            if weights is not None:
                maps = maps * weights  # none is negative, so signs stay
            above = maps.clamp_min(0).mean(dim=1, dtype=torch.float32)
            below = -maps.clamp_max_(0).mean(dim=1, dtype=torch.float32)
            strengths.append(above.sqrt() + below.sqrt())
        return torch.cat(strengths)


def draw_filters(bands: int, seed: int) -> torch.Tensor:
    """Draw Gaussian noise and whiten it, see `RCF`.

    Parameters
    ----------
    bands : int
        Number of bands.
    seed : int
        0 to 2**32 - 1.

    Returns
    -------
    torch.Tensor
        float32 (FILTERS, bands, KERNEL_PX, KERNEL_PX).
    """
    # RandomState draws the same numbers in every version of numpy (NEP 19), so an index survives an upgrade
    noise = np.random.RandomState(seed).standard_normal((FILTERS, bands, KERNEL_PX, KERNEL_PX))
    at = np.arange(KERNEL_PX)
    values, vectors = np.linalg.eigh(CORRELATION ** np.abs(at[:, None] - at))
    whitening = vectors / np.sqrt(values) @ vectors.T
    return torch.from_numpy((whitening @ noise @ whitening).astype(np.float32))
