"""Elastic attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.elastic._check import within
from search_spaces.elastic._linear import plain_linear


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2) over tokens.

    Args:
        query, key, value: linear layers to ``heads`` × the width of a head.
        project: linear layer from the values of all heads to the width of the tokens.
        heads: number of heads.
    """

    def __init__(
        self, query: nn.Module, key: nn.Module, value: nn.Module, project: nn.Module, heads: int
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.project = query, key, value, project
        self.heads = heads

    def forward(self, tokens: Tensor) -> Tensor:
        """``[N, T, C]`` → the same shape."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        found = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.project(found.transpose(1, 2).flatten(2))
        return out


class ElasticHeads(nn.Linear):
    """The linear layer to, or from, the first heads and the first features of each of them.

    Args:
        outer: most features of the tokens.
        heads: most heads.
        inner: most features of one head.
        to_tokens: whether it goes from the heads to the tokens rather than from the tokens to the heads.
    """

    def __init__(self, outer: int, heads: int, inner: int, *, to_tokens: bool = False) -> None:
        super().__init__(*((heads * inner, outer) if to_tokens else (outer, heads * inner)))
        self.most = (heads, inner)
        self.heads, self.inner, self.to_tokens = heads, inner, to_tokens

    def activate(self, *, heads: int | None = None, inner: int | None = None) -> None:
        """Set how many heads, and how many features of each, are active.

        Raises:
            ValueError: it has not so many.
        """
        if heads is not None:
            self.heads = within(heads, self.most[0], "heads")
        if inner is not None:
            self.inner = within(inner, self.most[1], "width of a head")

    def slices(self, outer: int) -> tuple[Tensor, Tensor]:
        """Weight ``[out, in]`` and bias ``[out]`` of the active slice for tokens of ``outer`` features."""
        if self.to_tokens:
            weight = self.weight[:outer].unflatten(1, self.most)[:, : self.heads, : self.inner]
            return weight.flatten(1), self.bias[:outer]
        weight = self.weight[:, :outer].unflatten(0, self.most)[: self.heads, : self.inner]
        bias = self.bias.unflatten(0, self.most)[: self.heads, : self.inner]
        return weight.flatten(0, 1), bias.flatten()


class ElasticAttention(nn.Module):
    """Multi-head self-attention with elastic heads, and elastic queries and keys, and values, in each.

    Args:
        width: most features of a token.
        heads: most heads.
        key_width: most features of a query and a key of one head.
        value_width: most features of a value of one head.
    """

    def __init__(self, width: int, heads: int, key_width: int, value_width: int) -> None:
        super().__init__()
        self.query = ElasticHeads(width, heads, key_width)
        self.key = ElasticHeads(width, heads, key_width)
        self.value = ElasticHeads(width, heads, value_width)
        self.project = ElasticHeads(width, heads, value_width, to_tokens=True)

    def activate(
        self, *, heads: int | None = None, key_width: int | None = None, value_width: int | None = None
    ) -> None:
        """Set how many heads are active, and how many features of each.

        Raises:
            ValueError: it has not so many.
        """
        for layer in (self.query, self.key):
            layer.activate(heads=heads, inner=key_width)
        for layer in (self.value, self.project):
            layer.activate(heads=heads, inner=value_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[N, T, C]`` → the same shape."""
        width = tokens.shape[-1]
        query, key, value = (
            F.linear(tokens, *layer.slices(width)).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        found = F.scaled_dot_product_attention(query, key, value)
        return F.linear(found.transpose(1, 2).flatten(2), *self.project.slices(width))

    def build(self, inside: int) -> Attention:
        """Return the active slice for tokens of so many features as a plain module."""
        layers = [
            plain_linear(*layer.slices(inside)) for layer in (self.query, self.key, self.value, self.project)
        ]
        return Attention(layers[0], layers[1], layers[2], layers[3], self.query.heads)
