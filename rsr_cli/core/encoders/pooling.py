"""Pooling: from a network's tokens to one vector per tile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    #: What selects rows or columns of a tensor.
    Rows = slice | torch.Tensor

POOLS = ("mean", "cls", "max", "gem")
#: What a recipe states as ``pooled`` of an encoder whose vectors depend on valid pixels alone, as far as it can.
POOLED = "valid pixels"


def pool(method: str, tokens: torch.Tensor, class_tokens: int, shares: torch.Tensor) -> torch.Tensor:
    """Pool tokens in float32, whatever the network's precision.

    ``mean`` and ``max`` are taken over the patch tokens; ``cls`` is the class token. Each patch token counts by the
    share of its pixels that are valid, and for ``max`` if any is: otherwise tiles with nodata would resemble each other
    by the outline of the hole.

    ``gem`` is the generalised mean with p = 3 (Radenovic, Tolias and Chum: Fine-tuning CNN Image Retrieval with No
    Human Annotation, 2018, https://arxiv.org/abs/1711.02512). That paper clamps negative features, which are absent
    after its ReLU. Tokens have signs, and clamping would make every dimension positive and every bit of a binary code
    1. As p is odd, we keep the sign: ``cbrt(mean(x ** 3))``, which is the same for positive features.

    Parameters
    ----------
    method : str
        One of `POOLS`.
    tokens : torch.Tensor
        float (n, class tokens + patches, dim).
    class_tokens : int
        Number of tokens before the patches; ``cls`` takes the first of them.
    shares : torch.Tensor
        float32 (n, patches), share of each patch that is valid; above 0 for one in each tile.

    Returns
    -------
    torch.Tensor
        float32 (n, dim).
    """
    if method == "cls":
        return tokens[:, 0].float()
    patches, shares = tokens[:, class_tokens:].float(), shares[..., None]
    if method == "max":
        return patches.masked_fill(shares == 0, -math.inf).amax(1)
    if method == "mean":
        return (patches * shares).sum(1) / shares.sum(1)
    cubes = (patches.pow(3) * shares).sum(1) / shares.sum(1)
    return cubes.sign() * cubes.abs().pow(1 / 3)


def patch_shares(valid: torch.Tensor, patches: int) -> torch.Tensor:
    """Average the validity of pixels (n, height, width) over a square grid of patches: float32 (n, patches)."""
    import torch

    side = math.isqrt(patches)
    return torch.nn.functional.adaptive_avg_pool2d(valid[:, None], (side, side)).flatten(1)


def pool_seen(
    method: str, encode: Callable[[Rows, Rows], torch.Tensor], class_tokens: int, shares: torch.Tensor
) -> torch.Tensor:
    """Pool the tokens of a transformer that does not see the patches without any valid pixel.

    The network is run on the other patches alone, as masked autoencoders are trained: attention would spread the hole
    over all tokens.

    Parameters
    ----------
    method, class_tokens, shares
        As in `pool`.
    encode : callable
        Maps indices of tiles, and of the tokens that the network is to see, class tokens included, to tokens
        (tiles, tokens, dim).

    Returns
    -------
    torch.Tensor
        float32 (n, dim).
    """
    import torch

    seen = shares > 0
    if seen.all():
        return pool(method, encode(slice(None), slice(None)), class_tokens, shares)
    patterns, pattern_of = torch.unique(seen, dim=0, return_inverse=True)
    parts = []
    for number, pattern in enumerate(patterns):
        rows = (pattern_of == number).nonzero()[:, 0]
        tokens = torch.cat([pattern.new_ones(class_tokens), pattern]).nonzero()[:, 0]
        parts.append(pool(method, encode(rows, tokens), class_tokens, shares[rows][:, pattern]))
    return torch.cat(parts)[pattern_of.argsort(stable=True).argsort()]
