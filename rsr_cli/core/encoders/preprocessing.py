"""From pixels as they are stored to a model's input: calibrated, normalised and resized in batches, where it runs."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rsr_cli.core.encoders.base import TOGETHER_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.encoders.base import Encoder
    from rsr_cli.core.rasters.pixels import Pixels


@dataclass(frozen=True)
class Preprocessor:
    """Makes a model's input of the pixels of tiles.

    Attributes
    ----------
    encoder : Encoder
        States mean, standard deviation and size.
    device : torch.device
        Where the work is done, and the input is.
    """

    encoder: Encoder
    device: torch.device

    def __call__(
        self, tiles: Sequence[Pixels], valid: Sequence[NDArray[np.bool_] | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prepare a batch.

        Parameters
        ----------
        tiles : sequence of Pixels
            With the model's bands; of one size, unless the model has its own.
        valid : sequence of numpy.ndarray or None
            bool (height, width) per tile, which pixels are valid; None if all are.

        Returns
        -------
        pixels : torch.Tensor
            float32 (n, bands, height, width), normalised; invalid pixels are 0, the mean, and do not bleed into others.
        valid : torch.Tensor
            float32 (n, height, width), the share of each pixel that is valid.
        """
        alike = defaultdict(list)
        for i, tile in enumerate(tiles):
            alike[tile.numbers.shape, tile.numbers.dtype].append(i)
        order, done = [], []
        for (shape, _), rows in alike.items():
            at_once = max(1, TOGETHER_BYTES // (4 * math.prod(shape)))
            for first in range(0, len(rows), at_once):
                some = rows[first : first + at_once]
                order.extend(some)
                done.append(self._prepare([tiles[i] for i in some], [valid[i] for i in some]))
        if len(done) == 1:
            return done[0]
        back = torch.tensor(order).argsort()
        pixels, shares = (torch.cat(parts)[back] for parts in zip(*done, strict=True))
        return pixels, shares

    def _prepare(
        self, tiles: Sequence[Pixels], valid: Sequence[NDArray[np.bool_] | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prepare tiles of one size and type."""
        pixels = self._moved([tile.numbers for tile in tiles]).float()
        pixels.mul_(self._moved([tile.scale for tile in tiles])).add_(self._moved([tile.offset for tile in tiles]))
        pixels.sub_(self._per_band(self.encoder.mean)).div_(self._per_band(self.encoder.std))
        holed = [i for i, tile in enumerate(tiles) if tile.invalid is not None]
        if holed:
            invalid = self._moved([tiles[i].invalid for i in holed])
            pixels[holed] = pixels[holed].masked_fill_(invalid, 0)
        resized = self._resized(pixels)
        if holed and resized is not pixels:  # a resized pixel is the average of the valid ones that it is made from
            resized[holed] /= self._resized((~invalid).float()).clamp_min_(1e-6)
        shares = resized.new_ones(len(tiles), *resized.shape[2:])
        partial = [i for i, part in enumerate(valid) if part is not None]
        if partial:
            shares[partial] = self._resized(self._moved([valid[i] for i in partial])[:, None].float())[:, 0]
        return resized, shares

    def _moved(self, arrays: Sequence[Any]) -> torch.Tensor:
        """Stack arrays of one shape on the device; from pinned memory, a GPU copies them beside its other work."""
        is_cuda = self.device.type == "cuda"
        kind = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
        stacked = torch.empty((len(arrays), *arrays[0].shape), dtype=kind, pin_memory=is_cuda)
        np.stack(arrays, out=stacked.numpy())
        return stacked.to(self.device, non_blocking=is_cuda)

    def _per_band(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)[:, None, None]

    def _resized(self, layers: torch.Tensor) -> torch.Tensor:
        """Resize float32 (n, layers, height, width) to the model's size, if it has one."""
        size = self.encoder.size_px
        if size is None or layers.shape[2:] == (size, size):
            return layers
        return torch.nn.functional.interpolate(layers, (size, size), mode="bilinear", antialias=True)
