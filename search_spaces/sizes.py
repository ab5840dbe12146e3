"""Networks that take images of several sizes, fixed for one of them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def for_images(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a network that computes the same for images of a size.

    A transformer has learned what belongs to each position of images of one size, and interpolates it anew for each image
    of another one. The network that is returned holds what this comes to.

    Args:
        model: in evaluation mode; stays as it is.
        images: what it takes, of the size.

    Returns:
        a copy, or the network itself where nothing of it depends on the size.
    """
    if not any(_resizes(module) for module in model.modules()):
        return model
    copied = copy.deepcopy(model)
    handles = [module.register_forward_pre_hook(_settle) for module in copied.modules() if _resizes(module)]
    try:
        copied(images)
    finally:
        for handle in handles:
            handle.remove()
    return copied


def _resizes(module: Any) -> bool:
    """Whether it is a transformer of timm's that interpolates."""
    return bool(getattr(module, "dynamic_img_size", False)) and hasattr(module, "set_input_size")


def _settle(module: Any, given: tuple[Tensor, ...]) -> None:
    module.set_input_size(img_size=tuple(int(side) for side in given[0].shape[-2:]))
