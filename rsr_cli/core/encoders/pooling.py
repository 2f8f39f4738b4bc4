"""Pooling: from a network's tokens to one vector per tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

POOLS = ("mean", "cls", "max", "gem")


def pool(method: str, tokens: torch.Tensor, class_tokens: int) -> torch.Tensor:
    """Pool tokens in float32, whatever the network's precision.

    ``mean`` and ``max`` are taken over the patch tokens; ``cls`` is the class token.

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

    Returns
    -------
    torch.Tensor
        float32 (n, dim).
    """
    if method == "cls":
        return tokens[:, 0].float()
    patches = tokens[:, class_tokens:].float()
    if method == "mean":
        return patches.mean(1)
    if method == "max":
        return patches.amax(1)
    cubes = patches.pow(3).mean(1)
    return cubes.sign() * cubes.abs().pow(1 / 3)
