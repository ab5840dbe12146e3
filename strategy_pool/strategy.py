"""Strategy: a named, versioned training recipe; the ones we ship are TOML files in ``catalog/``."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strategy_pool._names import did_you_mean

#: Methods that fit a classical model on frozen features.
FROZEN_METHODS = ("knn", "logistic", "linear_probe")
#: Methods that train weights of the network.
TUNED_METHODS = (
    "full",
    "probe_then_full",
    "norm_bias",
    "last_stages",
    "lora",
    "conv_adapter",
    "cached_trunk",
    "scratch",
)
#: The augmentation that is replaced by what suits the images of a task.
FITTING = "fitting"
AUGMENTATIONS = (FITTING, "none", "flips", "light", "medium", "randaugment", "trivialaugment", "strong")

_CHOICES: dict[str, tuple[str, ...]] = {
    "method": (*FROZEN_METHODS, *TUNED_METHODS),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "constant", "onecycle"),
    "augmentation": AUGMENTATIONS,
    "loss": ("cross_entropy", "class_balanced", "logit_adjusted", "focal"),
    "norm": ("batch", "frozen"),
    "taps": ("last", "multi"),
}
#: Whole numbers: smallest and largest value.
_WHOLE: dict[str, tuple[int, int]] = {
    "version": (1, 10**6),
    "order": (0, 10**6),
    "epochs": (1, 10_000),
    "batch_size": (2, 4096),
    "last_stages": (1, 64),
    "rank": (1, 1024),
    "neighbours": (0, 1000),
    "views": (1, 1000),
    "trunk_stages": (1, 64),
}
#: Real numbers: smallest and largest value, and which of the two ends are excluded.
_REAL: dict[str, tuple[float, float, str]] = {
    "lr": (0.0, 10.0, "low"),
    "weight_decay": (0.0, 1.0, ""),
    "layer_decay": (0.0, 1.0, "low"),
    "warmup": (0.0, 1.0, "high"),
    "mixup": (0.0, 10.0, ""),
    "cutmix": (0.0, 10.0, ""),
    "label_smoothing": (0.0, 1.0, "high"),
    "ema": (0.0, 1.0, "high"),
    "dropout": (0.0, 1.0, "high"),
    "strength": (0.0, 1e6, ""),
}
_SIDES = (16, 1024)
#: Fields that say which recipe it is; a candidate cannot override them.
_IDENTITY = ("name", "version", "summary", "source", "order", "method")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")

#: ``(low, high, log)`` for a number (whole where both ends are), a list for a choice.
Range = tuple[float, float, bool] | list[Any]


class StrategyError(ValueError):
    """A recipe, a catalog or an override is wrong; the message is one line."""


@dataclass(frozen=True)
class Strategy:
    """A training recipe.

    Attributes:
        name: unique in its catalog; part of a candidate's id.
        version: raised when the recipe's meaning changes.
        order: place in the catalog; where nothing has been learned, recipes are tried in this order.
        summary: one sentence for people.
        source: paper with section, or the reference recipe it follows.
        method: which weights are trained, one of :data:`FROZEN_METHODS` and :data:`TUNED_METHODS`.
        optimizer: ``adamw`` or ``sgd`` (Nesterov momentum 0.9).
        lr: highest learning rate.
        weight_decay: decoupled for AdamW; vectors are never decayed.
        layer_decay: factor of the learning rate per stage towards the input; 1 for none.
        epochs: over the training images.
        batch_size: images per step.
        warmup: share of the training in which the learning rate rises.
        schedule: how it falls afterwards.
        augmentation: name of an augmentation policy; ``fitting`` is ``flips`` where images keep their class upside down, as
            frozen features tell, and ``light`` elsewhere.
        mixup, cutmix: alpha of the Beta distribution; 0 for none.
        loss: ``cross_entropy`` or one of the losses for imbalanced classes; with ``class_balanced`` or
            ``logit_adjusted`` a logistic regression weighs classes by inverse frequency.
        label_smoothing: share of the label that is spread over all classes.
        ema: decay of the moving average of the weights; 0 for none.
        dropout: before the linear head.
        norm: ``frozen`` keeps the pretrained batch statistics, ``batch`` goes on estimating them.
        taps: ``last`` for the network's own pooled features, ``multi`` to append those of several stages.
        resolution: preferred side of the input in pixels, or ``native`` for what suits the stored images.
        progressive: whether the resolution grows during training.
        last_stages: stages trained by ``last_stages``.
        rank: width of ``lora`` and ``conv_adapter`` updates.
        neighbours: of ``knn``; 0 chooses on validation.
        strength: inverse regularisation C of a logistic regression; 0 chooses on validation.
        views: augmented views of each image that ``cached_trunk`` keeps.
        trunk_stages: stages that ``cached_trunk`` freezes.

    Raises:
        StrategyError: a value is not allowed.
    """

    name: str
    method: str
    summary: str = ""
    source: str = ""
    version: int = 1
    order: int = 1000
    optimizer: str = "adamw"
    lr: float = 3e-4
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    epochs: int = 40
    batch_size: int = 32
    warmup: float = 0.1
    schedule: str = "cosine"
    augmentation: str = FITTING
    mixup: float = 0.0
    cutmix: float = 0.0
    loss: str = "logit_adjusted"
    label_smoothing: float = 0.0
    ema: float = 0.0
    dropout: float = 0.0
    norm: str = "frozen"
    taps: str = "last"
    resolution: int | str = "native"
    progressive: bool = False
    last_stages: int = 2
    rank: int = 8
    neighbours: int = 0
    strength: float = 0.0
    views: int = 6
    trunk_stages: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise StrategyError(
                f"strategy name is {self.name!r}; it has to be lower-case letters, digits, '_', '.' or '-'"
            )
        for field in ("summary", "source"):
            if not isinstance(getattr(self, field), str):
                raise self._wrong(field, "a text")
        for field, options in _CHOICES.items():
            value = getattr(self, field)
            if not isinstance(value, str) or value not in options:
                raise StrategyError(
                    f"strategy '{self.name}': {field} is {value!r}{did_you_mean(str(value), options)}"
                )
        for field in _WHOLE:
            object.__setattr__(self, field, self._whole(field))
        for field in _REAL:
            object.__setattr__(self, field, self._real(field))
        if not isinstance(self.progressive, bool):
            raise self._wrong("progressive", "true or false")
        object.__setattr__(self, "resolution", self._resolution())
        if self.method == "scratch" and self.norm == "frozen":
            raise StrategyError(
                f"strategy '{self.name}': norm is 'frozen', which needs pretrained statistics; "
                "method 'scratch' takes norm 'batch'"
            )

    def _wrong(self, field: str, rule: str) -> StrategyError:
        return StrategyError(
            f"strategy '{self.name}': {field} is {getattr(self, field)!r}; it has to be {rule}"
        )

    def _whole(self, field: str) -> int:
        value, (low, high) = getattr(self, field), _WHOLE[field]
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or int(value) != value or not low <= value <= high:
            raise self._wrong(field, f"a whole number from {low} to {high}")
        return int(value)

    def _real(self, field: str) -> float:
        value, (low, high, excluded) = getattr(self, field), _REAL[field]
        rule = f"{'above' if excluded == 'low' else 'at least'} {low:g} and "
        rule += f"{'below' if excluded == 'high' else 'at most'} {high:g}"
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or not low <= value <= high:
            raise self._wrong(field, f"a number {rule}")
        if (excluded == "low" and value == low) or (excluded == "high" and value == high):
            raise self._wrong(field, f"a number {rule}")
        return float(value)

    def _resolution(self) -> int | str:
        value: Any = self.resolution
        low, high = _SIDES
        if value == "native":
            return "native"
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or not low <= int(value) <= high:
            raise self._wrong("resolution", f"'native' or a whole number of pixels from {low} to {high}")
        return int(value)

    def with_overrides(self, overrides: Mapping[str, Any]) -> Strategy:
        """Return the recipe with some fields replaced.

        Raises:
            StrategyError: a field does not exist, says which recipe it is, or the value is not allowed.
        """
        for field in overrides:
            if field in _IDENTITY:
                raise StrategyError(
                    f"strategy '{self.name}': {field} cannot be overridden; write a recipe of its own instead"
                )
        _check_fields(f"strategy '{self.name}'", overrides, [f for f in FIELDS if f not in _IDENTITY])
        return dataclasses.replace(self, **overrides) if overrides else self

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, in the order of the fields."""
        return {field: getattr(self, field) for field in FIELDS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Strategy:
        """Rebuild from :meth:`to_dict`.

        Raises:
            StrategyError: a field is missing, unknown or wrong.
        """
        label = f"strategy '{values.get('name', '?')}'"
        _check_fields(label, values, FIELDS)
        for field in ("name", "method"):
            if field not in values:
                raise StrategyError(f"{label} has no {field}; every strategy needs one")
        return cls(**values)


#: Names of the fields of a strategy.
FIELDS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(Strategy))


def _check_fields(label: str, values: Iterable[str], known: Iterable[str]) -> None:
    options = list(known)
    for field in values:
        if field not in options:
            raise StrategyError(
                f"{label} has no field {field!r}{did_you_mean(str(field), options, limit=40)}"
            )


def load_catalog(folder: str | os.PathLike[str] | None = None) -> dict[str, Strategy]:
    """Read every ``NAME.toml`` of a folder.

    Args:
        folder: a catalog of one's own; by default the one that is shipped.

    Returns:
        name → strategy, in the catalog's order.

    Raises:
        StrategyError: a file is not a valid recipe, two recipes share an order, or there is none.
    """
    if folder is None:
        return dict(_shipped())
    return _read(Path(folder))


@functools.cache
def _shipped() -> dict[str, Strategy]:
    return _read(Path(__file__).parent / "catalog")


def _read(folder: Path) -> dict[str, Strategy]:
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix == ".toml")
    except OSError as error:
        raise StrategyError(f"catalog {folder} cannot be read ({error.strerror}); name a folder") from None
    if not files:
        raise StrategyError(f"catalog {folder} holds no recipe; put NAME.toml files into it")
    found = [_parse(path) for path in files]
    orders: dict[int, str] = {}
    for strategy in found:
        if strategy.order in orders:
            raise StrategyError(
                f"catalog {folder}: '{orders[strategy.order]}' and '{strategy.name}' both have order "
                f"{strategy.order}; give each its own"
            )
        orders[strategy.order] = strategy.name
    return {s.name: s for s in sorted(found, key=lambda s: s.order)}


def _parse(path: Path) -> Strategy:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StrategyError(f"recipe {path} cannot be read: {' '.join(str(error).split())}") from None
    if values.setdefault("name", path.stem) != path.stem:
        raise StrategyError(f"recipe {path}: its name is {values['name']!r}; it has to be the file's name")
    for field in ("order", "summary", "source"):
        if field not in values or values[field] == "":
            raise StrategyError(f"recipe {path} has no {field}; every recipe of a catalog states it")
    try:
        return Strategy.from_dict(values)
    except StrategyError as error:
        raise StrategyError(f"recipe {path}: {error}") from None


def get(name: str) -> Strategy:
    """Return a recipe of the shipped catalog.

    Raises:
        StrategyError: there is none of that name.
    """
    catalog = _shipped()
    if name not in catalog:
        raise StrategyError(f"strategy is {name!r}{did_you_mean(name, catalog)}")
    return catalog[name]


def search_space(strategy: Strategy) -> dict[str, Range]:
    """Return the fields that a search may move around the recipe, each with a range that holds its value.

    Returns:
        field → ``(low, high, log)`` for a number, both ends whole for a whole one; or a list of choices.
    """
    if strategy.method == "knn":
        return {
            "neighbours": _choices(strategy.neighbours, [0, 2, 7, 15, 30]),
            "taps": ["last", "multi"],
        }
    if strategy.method in FROZEN_METHODS:
        return {
            "strength": _choices(strategy.strength, [0.0, 3e-4, 3e-3, 0.03, 0.3]),
            "taps": ["last", "multi"],
        }
    space: dict[str, Range] = {
        "lr": (strategy.lr / 8, min(strategy.lr * 8, 10.0), True),
        "epochs": (max(1, strategy.epochs // 3), max(2, min(strategy.epochs * 2, 10_000)), True),
        "augmentation": [a for a in AUGMENTATIONS if a != "none" or strategy.augmentation == a],
        "label_smoothing": _choices(strategy.label_smoothing, [0.0, 0.05, 0.1, 0.2]),
        "mixup": _choices(strategy.mixup, [0.0, 0.1, 0.2, 0.4]),
        "dropout": _choices(strategy.dropout, [0.0, 0.1, 0.3]),
    }
    decay = strategy.weight_decay
    if decay > 0:
        space["weight_decay"] = (decay / 30, min(decay * 10, 1.0), True)
    else:
        space["weight_decay"] = [0.0, 1e-4, 1e-3, 0.01, 0.05]
    if strategy.method in ("full", "probe_then_full"):
        space["layer_decay"] = _choices(strategy.layer_decay, [0.5, 0.65, 0.75, 0.85, 1.0])
        space["norm"] = ["batch", "frozen"]
    elif strategy.method == "last_stages":
        space["last_stages"] = _choices(strategy.last_stages, [1, 2, 3, 4])
    elif strategy.method in ("lora", "conv_adapter"):
        space["rank"] = _choices(strategy.rank, [4, 8, 16, 32])
    elif strategy.method == "cached_trunk":
        space["trunk_stages"] = _choices(strategy.trunk_stages, [2, 3, 4])
    return space


def _choices(own: float, usual: list[Any]) -> list[Any]:
    return sorted({own, *usual})
