"""Elastic layers: the largest weight, and which slice of it is active.

Every layer runs with the first channels (and the centre of the kernel) of the weight that it holds, a view of
it: nothing is copied and what one subnet learns all others have. The width of the input is the input's
own, so only the width of the output is set, by ``activate``. ``build(inside)`` gives the active slice as a
plain layer of torch that knows nothing of the rest; both compute the same.

Sources: slimmable networks (Yu et al. 2019, section 3); kernels as centres of larger ones and the first
channels as the most important ones (Cai et al. 2020, Once-for-All, section 3.3); heads and the widths of
queries, keys and values (Wang et al. 2021, AlphaNet; Chen et al. 2021, AutoFormer, section 3.2).
"""

from __future__ import annotations

from search_spaces.elastic._attention import Attention, ElasticAttention
from search_spaces.elastic._conv import ElasticBatchNorm2d, ElasticConv2d
from search_spaces.elastic._linear import ElasticLayerNorm, ElasticLinear

__all__ = [
    "Attention",
    "ElasticAttention",
    "ElasticBatchNorm2d",
    "ElasticConv2d",
    "ElasticLayerNorm",
    "ElasticLinear",
]
