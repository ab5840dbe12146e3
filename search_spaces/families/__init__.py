"""Families of networks that are built here rather than taken from timm.

A family is one module with ``NAMES`` (the architectures it offers), ``create(name) -> nn.Module`` (pooled
features ``[N, F]`` from normalised images ``[N, 3, H, W]``) and modules listed under ``stages``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.supernet import Supernet

#: Family → its architectures; the module of that name here is imported when one of them is built.
FAMILIES: dict[str, tuple[str, ...]] = {"small_cnn": ("small_cnn_xs", "small_cnn_s", "small_cnn_m")}

#: Families that are supernets: a module here with ``create(classes) -> Supernet``.
SUPERNETS = ("hybrid", "mobile")


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


def supernet(family: str, classes: int | None = None) -> Supernet:
    """Build a family's supernet, with a classifier where the number of classes is given.

    Raises:
        ValueError: there is no such family.
    """
    if family not in SUPERNETS:
        raise ValueError(f"unknown supernet {family!r}; known: {', '.join(SUPERNETS)}")
    net: Supernet = importlib.import_module(f"search_spaces.families.{family}").create(classes)
    return net
