"""The vision transformer that Prithvi and ViT-B/16 share, in the few lines that inference takes.

Dosovitskiy et al.: An Image is Worth 16x16 Words, 2021, https://arxiv.org/abs/2010.11929. The libraries that define it,
timm and torchvision, take longer to import than torch itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rsr_cli.core.encoders.pooling import patch_shares, pool_seen


class VisionTransformer(nn.Module):
    """A class token and patch tokens through blocks of attention; parameters have timm's names.

    Parameters
    ----------
    bands : int
        Channels of the input.
    patch : sequence of int
        Size of a patch in pixels, one number per axis; axes before the last two have one element in the input.
    side : int
        Patches per row and column.
    dim, depth, heads : int
        Length of a token, number of blocks, heads per block.
    epsilon : float
        Of the norms.
    """

    def __init__(
        self, *, bands: int, patch: tuple[int, ...], side: int, dim: int, depth: int, heads: int, epsilon: float
    ) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbedding(bands, patch, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + side**2, dim))
        self.blocks = nn.Sequential(*(_Block(dim, heads, epsilon) for _ in range(depth)))
        self.norm: nn.Module = nn.LayerNorm(dim, epsilon)

    def cut(self, layer: int) -> None:
        """Drop the blocks after a layer, from 0; the norm belongs to the last one only."""
        if layer < len(self.blocks) - 1:
            self.norm = nn.Identity()
        self.blocks = self.blocks[: layer + 1]

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the tokens of pixels (n, bands, height, width) with their positions, (n, 1 + patches, dim)."""
        patches = self.patch_embed(pixels)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed

    def pool(self, embedded: torch.Tensor, valid: torch.Tensor, method: str) -> torch.Tensor:
        """Encode tokens as `embed` returns them, without those of invalid patches, and pool them as `pooling.pool`.

        ``valid`` is float32 (n, height, width), the share of each pixel that is valid.
        """
        shares = patch_shares(valid, embedded.shape[1] - 1)
        return pool_seen(method, lambda tiles, tokens: self(embedded[tiles][:, tokens]), 1, shares)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode tokens (n, any number of them, dim)."""
        encoded: torch.Tensor = self.norm(self.blocks(tokens))
        return encoded


class _PatchEmbedding(nn.Module):
    """A linear map of each patch, published as a convolution whose stride is its kernel."""

    def __init__(self, bands: int, patch: tuple[int, ...], dim: int) -> None:
        super().__init__()
        convolution: Any = {2: nn.Conv2d, 3: nn.Conv3d}[len(patch)]
        self.proj = convolution(bands, dim, patch, patch)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map pixels (n, bands, height, width) to tokens (n, patches, dim)."""
        size = self.proj.kernel_size[-1]
        n, bands, height, width = pixels.shape
        blocks = pixels.reshape(n, bands, height // size, size, width // size, size)
        patches = blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return functional.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, epsilon: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, epsilon), _Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, epsilon), _Perceptron(dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        summed: torch.Tensor = tokens + self.mlp(self.norm2(tokens))
        return summed


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        # (3, n, heads, tokens, dim / heads)
        query, key, value = self.qkv(tokens).view(*tokens.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: torch.Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class _Perceptron(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mapped: torch.Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return mapped


class PairEmbedding(nn.Module):
    """Embeds two numbers, as waves in half of the dimensions each, times a learned scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.scale = nn.Parameter(torch.empty(1))

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Map float32 (n, 2) to (n, dim) in the network's precision, in which 2017 and 2016 may be the same number."""
        halves = [_waves(numbers, self.dim // 2) for numbers in pairs.unbind(1)]
        return (self.scale * torch.cat(halves, 1)).to(self.scale.dtype)


def _waves(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the sines, then the cosines, of positions at ``dim / 2`` frequencies: float (n,) to float (n, dim).

    Vaswani et al.: Attention Is All You Need, 2017, section 3.5, https://arxiv.org/abs/1706.03762.
    """
    exponents = torch.arange(dim // 2, dtype=positions.dtype, device=positions.device) / (dim / 2)
    angles = positions[:, None] * (1 / 10000**exponents)
    return torch.cat([angles.sin(), angles.cos()], 1)


def grid_positions(dim: int, side: int) -> torch.Tensor:
    """Return Prithvi's fixed position embedding of a square grid on one date: float32 (1, 1 + patches, dim).

    Of each 16 numbers 6 are of the column, 6 of the row and 4 of the date; the class token has none.
    """
    steps = torch.arange(side, dtype=torch.float64)
    axis = _waves(steps, dim // 16 * 6)
    date = _waves(steps[:1] * 0, dim // 16 * 4)
    patches = torch.cat([axis.repeat(side, 1), axis.repeat_interleave(side, 0), date.expand(side**2, -1)], 1)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), patches]).float()[None]
