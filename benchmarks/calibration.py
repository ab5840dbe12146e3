"""How quick this machine is right now, by a loop that has nothing to do with the engine: times are compared as ratios to it."""

from __future__ import annotations

import time

#: Repetitions, and steps of each.
_REPEATS, _STEPS = 7, 8


def calibrate() -> float:
    """Median seconds of a fixed piece of training on one thread: convolutions as mobile networks have them."""
    import numpy as np
    import torch
    from torch import nn

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(8, 32, 28, 28, generator=generator)
        net = nn.Sequential(
            nn.Conv2d(32, 96, 1),
            nn.Conv2d(96, 96, 3, padding=1, groups=96),
            nn.Hardswish(),
            nn.Conv2d(96, 32, 1),
        )
        found = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            for _ in range(_STEPS):
                net.zero_grad()
                net(images).square().mean().backward()
            found.append(time.perf_counter() - began)
        return float(np.median(found))
    finally:
        torch.set_num_threads(threads)
