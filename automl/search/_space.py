"""What may be proposed: feasible triples, strategies, and the numbers of each strategy that may move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automl.candidate import Candidate

Triple = tuple[str, int, str]
#: ``(low, high, log)`` for a number (whole where both ends are), a list for a choice.
Range = tuple[float, float, bool] | list[Any]


@dataclass(frozen=True)
class SearchSpace:
    """The space around the pool in which new candidates are made up.

    Attributes:
        triples: feasible (architecture, resolution, precision).
        strategies: names of strategies.
        ranges: per strategy, the ranges of the fields that may be overridden.
        defaults: per strategy, the values its fields have without overrides.
        allowed: tells whether a candidate makes sense, for combinations that the lists cannot exclude.
    """

    triples: tuple[Triple, ...]
    strategies: tuple[str, ...]
    ranges: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    allowed: Callable[[Candidate], bool] | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SearchSpace:
        """Build from keys ``triples``, ``strategies`` and optionally ``ranges``, ``defaults``, ``allowed``.

        Without ``ranges`` the ones of the strategy catalog are taken.

        Raises:
            ValueError: an unknown key, or a range whose ends are not finite and in order.
        """
        unknown = sorted(set(values) - {"triples", "strategies", "ranges", "defaults", "allowed"})
        if unknown:
            raise ValueError(
                f"search space has unknown key {unknown[0]!r}; known: triples, strategies, ranges, "
                "defaults, allowed"
            )
        triples = tuple(dict.fromkeys((str(a), int(r), str(p)) for a, r, p in values.get("triples", ())))
        strategies = tuple(dict.fromkeys(str(name) for name in values.get("strategies", ())))
        ranges, defaults = values.get("ranges"), values.get("defaults")
        if ranges is None:
            ranges, defaults = _from_catalog(strategies)
        ranges = {name: _checked(name, ranges.get(name, {})) for name in strategies}
        return cls(triples, strategies, ranges, defaults or {}, values.get("allowed"))

    def candidate(self, triple: Triple, strategy: str, values: Mapping[str, Any]) -> Candidate:
        """Make a candidate; values that equal the strategy's own are left out of its overrides."""
        own = self.defaults.get(strategy, {})
        overrides = tuple(
            sorted((name, tidy(value)) for name, value in values.items() if own.get(name) != tidy(value))
        )
        return Candidate(*triple, strategy, overrides)


def tidy(value: Any) -> Any:
    """Round a float to four significant digits, so that ids and tables stay readable."""
    if isinstance(value, float) and value and math.isfinite(value):
        return float(f"{value:.4g}")
    return value


def _checked(strategy: str, ranges: Mapping[str, Range]) -> dict[str, Range]:
    checked: dict[str, Range] = {}
    for name, bounds in ranges.items():
        if isinstance(bounds, tuple):
            low, high, log = bounds
            if not -math.inf < low < high < math.inf or (log and low <= 0):
                raise ValueError(
                    f"range of {strategy}.{name} is {bounds}; finite low < high are needed, and low > 0 with log"
                )
            checked[name] = (low, high, bool(log))
        elif isinstance(bounds, Sequence) and len(bounds) > 1:
            checked[name] = list(bounds)
    return checked


def _from_catalog(strategies: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    from strategy_pool import strategy as catalog

    ranges: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for name in strategies:
        recipe = catalog.get(name)
        ranges[name] = catalog.search_space(recipe)
        defaults[name] = {key: getattr(recipe, key) for key in ranges[name]}
    return ranges, defaults
