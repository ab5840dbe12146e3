"""Elastic linear layers and layer normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.elastic._check import within


class ElasticLinear(nn.Linear):
    """A linear layer with an elastic width.

    Args:
        inside: most input features.
        outside: most output features.
        bias: whether there is one.
    """

    def __init__(self, inside: int, outside: int, bias: bool = True) -> None:
        super().__init__(inside, outside, bias)
        self.width = outside

    def activate(self, *, width: int) -> None:
        """Set how many output features are active.

        Raises:
            ValueError: it has not so many.
        """
        self.width = within(width, self.out_features, "width")

    def _active(self, inside: int) -> tuple[Tensor, Tensor | None]:
        return self.weight[: self.width, :inside], None if self.bias is None else self.bias[: self.width]

    def forward(self, x: Tensor) -> Tensor:
        """``[..., inside]`` → ``[..., width]``."""
        return F.linear(x, *self._active(x.shape[-1]))

    def build(self, inside: int) -> nn.Linear:
        """Return the active slice for an input of so many features as a plain layer."""
        return plain_linear(*self._active(inside))


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear layer with copies of a weight ``[out, in]`` and a bias ``[out]``."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, weight.device, weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear


class ElasticLayerNorm(nn.LayerNorm):
    """Layer normalisation over the first features.

    Args:
        width: most features.
        eps: added to the variance.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]`` → the same shape."""
        width = x.shape[-1]
        return F.layer_norm(x, (width,), self.weight[:width], self.bias[:width], self.eps)

    def build(self, inside: int) -> nn.LayerNorm:
        """Return the slice for an input of so many features as a plain layer."""
        norm = nn.LayerNorm(inside, self.eps).to(self.weight)
        with torch.no_grad():
            norm.weight.copy_(self.weight[:inside])
            norm.bias.copy_(self.bias[:inside])
        return norm
