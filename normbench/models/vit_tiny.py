"""A small transformer on the patches of an image."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.errors import ModelError
from normbench.models._base import Model, Shape
from normbench.norms._units import UnitBuilder
from normbench.parts.options import option


@dataclass(frozen=True)
class ViTTiny(Model):
    """A plain vision transformer: patches, blocks of attention and two dense layers, their mean.

    x = W patch + position;  at each of `depth` blocks x = x + attention(norm(x)) and
    x = x + V act(U norm(x) + b) + c, at `post` x = norm(x + ...) with the same branches; logits of
    the mean over tokens of norm(x), at `post` of x. attention: `heads` of width / heads numbers,
    softmax(q k' / sqrt(width / heads)) v; U doubles the width. x: (N, tokens, width); tokens:
    H W / patch^2. A norm that takes statistics of single samples normalizes each token on its own,
    one over the batch the tokens of all its images. Positions are fixed sines and cosines.
    134,602 parameters on MNIST without a norm; dropout follows the activation.

    Args: depth: blocks. width: numbers of a token, a multiple of 4 and of heads. heads: of the
        attention. patch: pixels of the side of a patch, a divisor of H and W.
    Raises: ModelError if patch, heads or width do not divide so.
    Source: Dosovitskiy et al. 2021, arXiv 2010.11929, with the positions and the mean of Beyer et
        al. 2022, arXiv 2205.01580; theirs has gelu (`activation=gelu`). Norm at `post`: Vaswani et
        al. 2017, arXiv 1706.03762.
    """

    depth: int = option(4, low=1, high=1000)
    width: int = option(64, low=4, high=65536)
    heads: int = option(4, low=1, high=1024)
    patch: int = option(4, low=1, high=4096)

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images whose sides are multiples of `patch`."""
        _, height, width = shape
        if height % self.patch or width % self.patch:
            sides = [side for side in range(1, self.patch) if not (height % side or width % side)]
            why = f"does not divide images of {height}x{width}"
            raise ModelError("patch", self.patch, why, sides[-1] if sides else 1)
        if self.width % self.heads or self.width % 4:
            fit = max(4 * self.heads, self.width // (4 * self.heads) * 4 * self.heads)
            why = f"is no multiple of heads={self.heads} and of 4"
            raise ModelError("width", self.width, why, fit)
        return Transformer(self, units, shape, classes)


class Transformer(nn.Module):
    """The patches, the blocks and the head; tokens lie as rows (N tokens, width)."""

    def __init__(self, model: ViTTiny, units: UnitBuilder, shape: Shape, classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        down, across = height // model.patch, width // model.patch
        self.patch, self.tokens = model.patch, down * across
        self.embed = units.plain(channels * model.patch**2, model.width)
        self.register_buffer("positions", positions(down, across, model.width), persistent=False)
        blocks = [
            (f"block{number}", Block(model, units, self.tokens))
            for number in range(1, model.depth + 1)
        ]
        self.blocks = nn.Sequential(OrderedDict(blocks))
        last = units.placement != "post"
        self.norm = TokenNorm(units, model.width, self.tokens) if last else nn.Identity()
        self.head = units.head(model.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        patches = x.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        rows = self.embed(patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2))
        tokens = rows.unflatten(0, (-1, self.tokens)) + self.get_buffer("positions")
        y = self.norm(self.blocks(tokens.flatten(0, 1)))
        logits: Tensor = self.head(y.unflatten(0, (-1, self.tokens)).mean(1))
        return logits


class Block(nn.Module):
    """Attention and two dense layers, each with a norm and a skip."""

    def __init__(self, model: ViTTiny, units: UnitBuilder, tokens: int) -> None:
        super().__init__()
        self.heads, self.tokens, width = model.heads, tokens, model.width
        self.post = units.placement == "post"
        self.norm1 = TokenNorm(units, width, tokens)
        self.qkv = units.plain(width, 3 * width)
        self.out = units.plain(width, width)
        self.norm2 = TokenNorm(units, width, tokens)
        self.one = units.plain(width, 2 * width, act=True)
        self.two = units.plain(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N tokens, width) to tokens."""
        if self.post:
            x = self.norm1(x + self.attention(x))
            y: Tensor = self.norm2(x + self.two(self.one(x)))
            return y
        x = x + self.attention(self.norm1(x))
        y = x + self.two(self.one(self.norm2(x)))
        return y

    def attention(self, x: Tensor) -> Tensor:
        """Mix the tokens of each image, (N tokens, width)."""
        shape = (-1, self.tokens, 3, self.heads, x.shape[1] // self.heads)
        q, k, v = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4).unbind()
        weights = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(3)
        y: Tensor = self.out((weights @ v).transpose(1, 2).reshape(x.shape))
        return y


class TokenNorm(nn.Module):
    """A norm of tokens: of each on its own, or of those of all images of the batch together."""

    def __init__(self, units: UnitBuilder, width: int, tokens: int) -> None:
        super().__init__()
        self.tokens, self.together = tokens, units.norm.uses_batch
        self.norm = units.norm.layer(width, 1 if self.together else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` (N tokens, width)."""
        if self.norm is None:
            return x
        if not self.together:
            alone: Tensor = self.norm(x)
            return alone
        y: Tensor = self.norm(x.view(-1, self.tokens, x.shape[1]).transpose(1, 2))
        return y.transpose(1, 2).flatten(0, 1)


def positions(down: int, across: int, width: int) -> Tensor:
    """Return sines and cosines of the places of patches (down across, width), by row and column.

    Of the four quarters of a token the first two are of the column j, the others of the row i:
    sin(j w), cos(j w), sin(i w), cos(i w), where w = 10000^(-n / (width / 4 - 1)), n = 0, 1, ...
    """
    quarter = width // 4
    rates = 10_000.0 ** -(torch.arange(quarter) / max(1, quarter - 1))
    rows = torch.arange(down).repeat_interleave(across).unsqueeze(1) * rates
    columns = torch.arange(across).repeat(down).unsqueeze(1) * rates
    return torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], 1)
