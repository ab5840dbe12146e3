"""A candidate: architecture × resolution × precision × strategy, with a stable id."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PRECISIONS = ("fp32", "int8")
_ID = re.compile(
    r"(?P<architecture>.+)@(?P<resolution>\d+)/(?P<precision>\w+)/(?P<strategy>[^~]+)(~[0-9a-f]{6})?"
)


@dataclass(frozen=True)
class Candidate:
    """What one trial tries.

    Attributes:
        architecture: name of the backbone.
        resolution: side of the square input, pixels.
        precision: one of :data:`PRECISIONS`.
        strategy: name of a strategy of the catalog.
        overrides: fields of the strategy that differ from the catalog, sorted by name.
    """

    architecture: str
    resolution: int
    precision: str
    strategy: str
    overrides: tuple[tuple[str, float | int | str], ...] = ()

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; known: {', '.join(PRECISIONS)}")
        object.__setattr__(self, "overrides", tuple(sorted((str(k), v) for k, v in self.overrides)))

    @property
    def id(self) -> str:
        """``architecture@resolution/precision/strategy``, plus a hash of the overrides where there are any."""
        name = f"{self.architecture}@{self.resolution}/{self.precision}/{self.strategy}"
        if not self.overrides:
            return name
        text = json.dumps(self.overrides, sort_keys=True)
        return f"{name}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    @property
    def triple(self) -> tuple[str, int, str]:
        """(architecture, resolution, precision): what decides latency and size."""
        return self.architecture, self.resolution, self.precision

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "architecture": self.architecture,
            "resolution": self.resolution,
            "precision": self.precision,
            "strategy": self.strategy,
            "overrides": dict(self.overrides),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        """Rebuild from :meth:`to_dict`."""
        overrides = values.get("overrides") or {}
        return cls(
            str(values["architecture"]),
            int(values["resolution"]),
            str(values["precision"]),
            str(values["strategy"]),
            tuple(overrides.items()) if isinstance(overrides, Mapping) else tuple(map(tuple, overrides)),
        )

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Parse an id without overrides.

        Raises:
            ValueError: not of that form.
        """
        match = _ID.fullmatch(text)
        if match is None or match[5]:
            raise ValueError(f"candidate is {text!r}; the form is architecture@resolution/precision/strategy")
        return cls(match["architecture"], int(match["resolution"]), match["precision"], match["strategy"])
