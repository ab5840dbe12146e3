"""Families of networks that are built here rather than taken from timm.

A family is one module with ``NAMES`` (the architectures it offers), ``create(name) -> nn.Module`` (pooled
features ``[N, F]`` from normalised images ``[N, 3, H, W]``) and modules listed under ``stages``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

#: Family → its architectures; the module of that name here is imported when one of them is built.
FAMILIES: dict[str, tuple[str, ...]] = {"small_cnn": ("small_cnn_xs", "small_cnn_s", "small_cnn_m")}


def architectures() -> list[str]:
    """Return the architectures of all families."""
    return [name for names in FAMILIES.values() for name in names]


def family_of(name: str) -> str | None:
    """Return the family that offers an architecture, None where none does."""
    return next((family for family, names in FAMILIES.items() if name in names), None)


def create(name: str) -> nn.Module:
    """Build an architecture of any family.

    Raises:
        ValueError: no family offers it.
    """
    family = family_of(name)
    if family is None:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(architectures())}")
    network: nn.Module = importlib.import_module(f"search_spaces.families.{family}").create(name)
    return network
