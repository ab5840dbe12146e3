"""Families of networks that are built here rather than taken from timm.

A family is one module with ``NAMES`` (the architectures it offers), ``create(name) -> nn.Module`` (pooled
features ``[N, F]`` from normalised images ``[N, 3, H, W]``) and modules listed under ``stages``.
"""

from __future__ import annotations

from torch import nn

from search_spaces.families import small_cnn

#: Family name → its module; add a family by adding its module here.
FAMILIES = {"small_cnn": small_cnn}


def create(name: str) -> nn.Module:
    """Build an architecture of any family.

    Raises:
        ValueError: no family offers it.
    """
    for family in FAMILIES.values():
        if name in family.NAMES:
            return family.create(name)
    known = [n for family in FAMILIES.values() for n in family.NAMES]
    raise ValueError(f"unknown architecture {name!r}; known: {', '.join(known)}")
