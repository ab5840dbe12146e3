"""A convolutional supernet with the dimensions of Once-for-All (Cai et al. 2020, section 4.1) and elastic widths.

ReLU and no squeeze and excite, which run fastest on plain processors and keep their accuracy in int8.
"""

from __future__ import annotations

from search_spaces.families._staged import ConvStage, Layout, StagedSupernet

LAYOUT = Layout(
    stem=(16, 24, 32),
    stages=(
        ConvStage(widths=(16, 24), depths=(1,), stride=1, kernels=(3,), expansions=(1,)),
        ConvStage(widths=(16, 24, 32), depths=(1, 2, 3), stride=2),
        ConvStage(widths=(24, 32, 48), depths=(1, 2, 3, 4), stride=2),
        ConvStage(widths=(48, 64, 96), depths=(1, 2, 3, 4), stride=2),
        ConvStage(widths=(64, 96, 128), depths=(1, 2, 3, 4), stride=1),
        ConvStage(widths=(96, 144, 208), depths=(1, 2, 3, 4), stride=2),
    ),
    last=(320, 640, 960),
)


def create(classes: int | None = None) -> StagedSupernet:
    """Build the supernet, with a classifier where the number of classes is given."""
    return StagedSupernet(LAYOUT, classes)
