"""The kernels for GPUs compute what torch computes; Triton's interpreter runs them on a processor."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

#: Images, channels, height, width, kernel, stride: whole maps and rows, sides that are no power of two.
SHAPES = (
    (3, 5, 8, 8, 3, 1), (2, 4, 9, 7, 5, 2), (2, 3, 12, 12, 7, 1), (3, 2, 6, 6, 7, 2), (2, 3, 1, 1, 3, 1),
    (5, 2, 20, 20, 3, 2), (70, 2, 5, 7, 7, 1), (70, 2, 20, 9, 3, 2), (130, 2, 3, 3, 5, 2),
)  # fmt: skip

PROGRAM = f"""
import torch
import torch.nn.functional as F
from search_spaces.elastic import _kernels

def close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)

torch.manual_seed(0)
for images, channels, height, width, kernel, stride in {SHAPES!r}:
    # values of half precision, so that products are exact
    x = torch.randn(images, channels, height, width).half().float().requires_grad_()
    weight = torch.randn(channels, 1, kernel, kernel).half().float().requires_grad_()
    y = _kernels.depthwise(x, weight, stride, kernel // 2)
    expected = F.conv2d(x, weight, None, stride, kernel // 2, 1, channels)
    gradient = torch.randn_like(expected)
    close([y], [expected])
    close(torch.autograd.grad(y, (x, weight), gradient), torch.autograd.grad(expected, (x, weight), gradient))
    if images * height * width < 8:
        continue
    scale, shift = (torch.randn(channels, requires_grad=True) for _ in range(2))
    y, mean, variance = _kernels.batch_norm(x, scale, shift, 1e-5)
    running = [torch.zeros(channels), torch.zeros(channels)]
    expected = F.batch_norm(x, *running, scale, shift, True, 1.0, 1e-5)
    count = images * height * width
    close([y, mean, variance * count / (count - 1)], [expected, *running])
    gradient = torch.randn_like(expected)
    close(
        torch.autograd.grad(y, (x, scale, shift), gradient),
        torch.autograd.grad(expected, (x, scale, shift), gradient),
    )
print("the same")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no Triton here")
def test_they_compute_what_torch_computes() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.strip() == "the same"
