"""Multiply-accumulates and parameters of networks: counted by running them, looked up for what is usual.

Building a network only to count it takes seconds, most of them the imports. ``counts.csv`` holds what
``python -m search_spaces.counts`` counted, so that a search of usual backbones begins without.
"""

from __future__ import annotations

import csv
import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces import families
from search_spaces.backbones import RESIZED, SUBNET, Backbone, usual_arguments

if TYPE_CHECKING:
    from torch import nn

#: Side of the image for which multiply-accumulates are counted; for others they are scaled from there.
COUNTED_SIDE = 128
_TABLE = Path(__file__).with_name("counts.csv")
_COLUMNS = ("architecture", "macs", "params", "width")
#: Arguments of a network's function that change nothing that is counted.
_HARMLESS = frozenset({"pad_type", "act_layer", "drop_rate", "drop_path_rate", RESIZED})
#: Larger networks are not in the table.
_LARGEST = 100_000_000


@dataclass(frozen=True)
class Counts:
    """Of a network without its head.

    Attributes:
        macs: multiply-accumulates for one image of :data:`COUNTED_SIDE` pixels.
        params: parameters.
        width: of the pooled features.
    """

    macs: int
    params: int
    width: int


def look_up(backbone: Backbone) -> Counts | None:
    """Return the counts of one of our families' networks or of timm's as it is there; None of any other."""
    if backbone.family == SUBNET:
        from search_spaces import carried

        return carried.counts(backbone)
    if not _HARMLESS.issuperset(backbone.arguments):
        return None
    return _table().get(backbone.architecture)


@functools.cache
def _table() -> dict[str, Counts]:
    with _TABLE.open(encoding="utf-8", newline="") as handle:
        rows = csv.DictReader(line for line in handle if not line.startswith("#"))
        return {r["architecture"]: Counts(int(r["macs"]), int(r["params"]), int(r["width"])) for r in rows}


def count_macs(model: nn.Module, resolution: int) -> int:
    """Multiply-accumulates of convolutions and products of matrices, those of attention too, for one image, by running it."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    device = next((p.device for p in model.parameters()), None)
    # Fused attention is not counted on every device; spelt out it is two products of matrices.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model.eval()(torch.zeros(1, 3, resolution, resolution, device=device))
    return int(counter.get_total_flops()) // 2


def count(architectures: Iterable[str]) -> Iterable[tuple[str, Counts]]:
    """Build networks without memory for their weights and count them; what cannot be run so is left out."""
    import timm
    import torch

    for name in architectures:
        try:
            with torch.device("meta"):
                own = name in families.architectures()
                model = (
                    families.create(name)
                    if own
                    else timm.create_model(name, num_classes=0, **usual_arguments(name))
                )
                model.eval()
                params = sum(p.numel() for p in model.parameters())
                if params > _LARGEST:
                    continue
                macs = count_macs(model, COUNTED_SIDE)
                with torch.inference_mode():
                    width = int(model(torch.zeros(1, 3, COUNTED_SIDE, COUNTED_SIDE)).shape[1])
        except Exception as error:  # one of a thousand that cannot be run so is built when it is needed
            print(f"{name}: {' '.join(str(error).split())[:100]}", file=sys.stderr)
            continue
        yield name, Counts(macs, params, width)


def main() -> None:
    """Count all networks of our families and of timm, and write the table."""
    import timm

    with _TABLE.open("w", encoding="utf-8", newline="") as handle:
        handle.write(f"# python -m search_spaces.counts, timm {timm.__version__}, {COUNTED_SIDE} pixels\n")
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(_COLUMNS)
        for name, found in count([*sorted(families.architectures()), *sorted(timm.list_models())]):
            table.writerow((name, found.macs, found.params, found.width))
            handle.flush()


if __name__ == "__main__":
    main()
