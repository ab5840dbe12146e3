"""A supernet whose first stages are convolutional and whose last ones are attention.

Convolutions see edges and texture where maps are large and attention would be dear; attention joins what
lies far apart where maps are small (Dai et al. 2021, CoAtNet, section 2.2; Graham et al. 2021, LeViT).
"""

from __future__ import annotations

from search_spaces.families._staged import AttentionStage, ConvStage, Layout, StagedSupernet

LAYOUT = Layout(
    stem=(16, 24, 32),
    stages=(
        ConvStage(widths=(16, 24), depths=(1,), stride=1, kernels=(3,), expansions=(1,)),
        ConvStage(widths=(16, 24, 32), depths=(1, 2, 3), stride=2, kernels=(3, 5)),
        ConvStage(widths=(32, 48, 64), depths=(1, 2, 3, 4), stride=2, kernels=(3, 5)),
        AttentionStage(widths=(64, 96, 128), depths=(1, 2, 3, 4), heads=(2, 4, 6)),
        AttentionStage(widths=(96, 144, 208), depths=(1, 2, 3, 4), heads=(3, 6, 8)),
    ),
    last=(320, 640, 960),
)


def create(classes: int | None = None) -> StagedSupernet:
    """Build the supernet, with a classifier where the number of classes is given."""
    return StagedSupernet(LAYOUT, classes)
