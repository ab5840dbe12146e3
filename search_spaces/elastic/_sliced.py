"""Layers of torch and timm made elastic where they are, whatever their own ``forward`` does.

The layer's class is replaced by a subclass in which weight, bias and statistics are views of the stored ones, of the
first channels. All that the layer computes, such as timm's padding or an activation behind a norm, stays its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.elastic._check import within

#: Class of a layer → the sliced one.
_CLASSES: dict[Any, type[nn.Module]] = {}
#: What a layer stores that has its output channels in the first dimension.
_BY_OUTPUT = ("weight", "bias", "running_mean", "running_var")


class Sliced:
    """What sliced layers have in common.

    Attributes:
        plain: class of the layer before.
        most_out, most_in: channels of the whole weight, ``most_in`` is 0 where the layer works channel by channel.
        width, inside: active output and input channels.
    """

    plain: type[nn.Module]
    most_out: int
    most_in: int
    width: int
    inside: int

    def write(self, width: int) -> None:
        """Set the active output channels; of a layer that works channel by channel, its channels.

        Raises:
            ValueError: it has not so many.
        """
        self.width = within(width, self.most_out, "width")

    def read(self, inside: int) -> None:
        """Set the active input channels.

        Raises:
            ValueError: it has not so many.
        """
        self.inside = within(inside, self.most_in, "input width")

    def stored(self, name: str) -> Tensor | None:
        """Return what the layer stores under a name, whole; None where it stores nothing."""
        module: Any = self
        found: Tensor | None = module._parameters.get(name)
        return found if found is not None else module._buffers.get(name)

    def active(self, name: str) -> Tensor | None:
        """Return the active part of what the layer stores under a name, a view."""
        whole = self.stored(name)
        if whole is None:
            return None
        part = whole[: self.width]
        return part[:, : self.inside] if name == "weight" and self.most_in else part


def _view(name: str) -> property:
    def get(self: Sliced) -> Tensor | None:
        return self.active(name)

    return property(get)


class _Layer(Sliced):
    weight, bias = _view("weight"), _view("bias")


class _Conv(_Layer):
    @property
    def groups(self) -> int:
        return 1 if self.most_in else self.width


class _Norm(_Layer):
    running_mean, running_var = _view("running_mean"), _view("running_var")


def slice_layer(module: nn.Module) -> Any:
    """Make a layer elastic in place; one that already is stays as it is.

    Args:
        module: a dense or depthwise convolution, a linear layer, batch normalisation, or a layer whose ``weight`` and
            ``bias`` have one number per channel.

    Raises:
        TypeError: it is a convolution in groups of several channels.
    """
    layer: Any = module
    if isinstance(layer, Sliced):
        return layer
    mixin: type[Sliced]
    if isinstance(layer, nn.Conv2d):
        if layer.groups not in (1, layer.in_channels) or (
            layer.groups > 1 and layer.in_channels != layer.out_channels
        ):
            raise TypeError(f"a convolution in {layer.groups} groups cannot be sliced")
        mixin, out, inside = _Conv, layer.out_channels, layer.in_channels if layer.groups == 1 else 0
    elif isinstance(layer, nn.Linear):
        mixin, out, inside = _Layer, layer.out_features, layer.in_features
    elif isinstance(layer, nn.BatchNorm2d):
        mixin, out, inside = _Norm, layer.num_features, 0
    else:
        mixin, out, inside = _Layer, len(layer.weight), 0
    plain: type[nn.Module] = type(module)
    layer.__class__ = _class(plain, mixin)
    layer.most_out, layer.most_in, layer.width, layer.inside = out, inside, out, inside
    return layer


def _class(plain: Any, mixin: type[Sliced]) -> type[nn.Module]:
    found = _CLASSES.get(plain)
    if found is None:
        found = _CLASSES[plain] = type(f"Sliced{plain.__name__}", (mixin, plain), {"plain": plain})
    return found


class Shortened(nn.Sequential):
    """A sequence of which the first ``depth`` modules run."""

    depth: int

    def forward(self, x: Tensor) -> Tensor:
        """Run them."""
        for module in list(self._modules.values())[: self.depth]:
            x = module(x)
        return x


def shorten(sequence: nn.Sequential) -> Shortened:
    """Make a sequence elastic in place.

    Raises:
        TypeError: it is of a class with a ``forward`` of its own.
    """
    if type(sequence) is not nn.Sequential:
        raise TypeError(f"a {type(sequence).__name__} cannot be shortened")
    shortened: Any = sequence
    shortened.__class__ = Shortened
    shortened.depth = len(sequence)
    return shortened


@torch.no_grad()
def permute(layer: Sliced, order: Tensor, *, inputs: bool) -> None:
    """Put the channels of a layer in another order.

    Args:
        layer: whose channels.
        order: positions, int [channels].
        inputs: whether its input channels are meant rather than its output channels.
    """
    if inputs:
        weight = layer.stored("weight")
        if weight is not None:
            weight.copy_(weight[:, order].clone())
        return
    for name in _BY_OUTPUT:
        whole = layer.stored(name)
        if whole is not None:
            whole.copy_(whole[order].clone())


def harden(root: nn.Module, replace: Callable[[nn.Module], nn.Module | None] | None = None) -> None:
    """Make a network's elastic layers plain ones of their own class again, with copies of their active slices.

    Args:
        root: changed in place; a copy of a supernet.
        replace: gives the plain module to put in a module's place, None to leave it.
    """
    for module in list(root.modules()):
        for name, child in list(module.named_children()):
            other = None if replace is None else replace(child)
            if other is not None:
                setattr(module, name, other)
    for module in list(root.modules()):
        if isinstance(module, Shortened):
            depth = module.depth
            del module.depth
            plain: Any = module
            plain.__class__ = nn.Sequential
            del plain[depth:]
    for module in list(root.modules()):
        if isinstance(module, Sliced):
            _harden(module)


def _harden(layer: Any) -> None:
    copies = {name: layer.active(name) for name in _BY_OUTPUT}
    copies = {name: part.detach().clone() for name, part in copies.items() if part is not None}
    out, inside, groups = layer.width, layer.inside, layer.groups if isinstance(layer, nn.Conv2d) else 1
    layer.__class__ = layer.plain
    for name in ("most_out", "most_in", "width", "inside"):
        delattr(layer, name)
    for name, part in copies.items():
        if name in layer._parameters:
            layer._parameters[name] = nn.Parameter(part, layer._parameters[name].requires_grad)
        else:
            layer._buffers[name] = part
    if isinstance(layer, nn.Conv2d):
        layer.groups, layer.out_channels = groups, out
        layer.in_channels = inside or out
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = out, inside
    elif isinstance(layer, nn.BatchNorm2d):
        layer.num_features = out
