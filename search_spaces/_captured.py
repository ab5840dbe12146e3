"""Passes of a network as CUDA graphs: launched as a whole instead of kernel by kernel.

A small network's kernels take less time on a GPU than it takes to launch them. A graph is launched at once (NVIDIA, CUDA
programming guide, section *CUDA graphs*), but holds fixed shapes and addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

#: Of a subnet and tensors; adds gradients, returns tensors.
Pass = Callable[..., tuple[Tensor, ...]]


class Captured:
    """Runs passes, each at first as it is, which is then captured, and from then on as its graph.

    Gradients have to be tensors that stay the same: zero them, never drop them. What a call returns is overwritten by the
    next call of the same pass.
    """

    def __init__(self) -> None:
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], list[Tensor]]] = {}
        self._inputs: dict[Any, Tensor] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def __call__(self, function: Pass, subnet: Mapping[str, int], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run one pass of a subnet."""
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs)
        key = (function.__name__, tuple(subnet.items()), shapes)
        if key in self._graphs:
            graph, static, outputs = self._graphs[key]
            for own, given in zip(static, inputs, strict=True):
                own.copy_(given)
            graph.replay()
            return tuple(outputs)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            found = tuple(tensor.detach().clone() for tensor in function(subnet, *inputs))
        torch.cuda.current_stream().wait_stream(self._stream)
        self._graphs[key] = self._capture(function, subnet, inputs, shapes, found)
        return found

    def _capture(
        self,
        function: Pass,
        subnet: Mapping[str, int],
        inputs: tuple[Tensor, ...],
        shapes: tuple[Any, ...],
        found: tuple[Tensor, ...],
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], list[Tensor]]:
        static = []
        for place, (shape, tensor) in enumerate(zip(shapes, inputs, strict=True)):
            static.append(self._inputs.setdefault((place, shape), tensor.detach().clone()))
        outputs = [torch.empty_like(tensor) for tensor in found]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool)
            try:
                for own, made in zip(outputs, function(subnet, *static), strict=True):
                    own.copy_(made)
            finally:
                graph.capture_end()
        torch.cuda.synchronize()
        return graph, static, outputs


def direct(function: Pass, subnet: Mapping[str, int], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Run one pass of a subnet as it is."""
    return function(subnet, *inputs)
