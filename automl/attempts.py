"""Which choice is exported next, until a file keeps its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from automl.ensemble import Selection
from automl.task import Constraint

#: Choices that are exported at most.
_MOST = 6
#: Share of a limit that the second choice may be expected to take, and those after it.
_CLOSE, _SURE = 0.98, 0.8


class Attempts:
    """Gives out choices: the best first, then the best of those that should keep the limits by what files have shown.

    A single network was measured before, or one of its kind; what several cost together is only expected. So the file of
    several says by how much too little was expected, and others of several that would miss a limit too are passed over.

    Args:
        choices: best first, with the costs that are expected of them.
        limits: on costs.
    """

    def __init__(self, choices: Sequence[Selection], limits: Sequence[Constraint]) -> None:
        self._left = list(choices)
        self._limits = limits
        self._given = 0
        self._dearer: dict[str, float] = {}

    def next(self, *, last: bool = False) -> Selection | None:
        """The next choice; None after enough of them.

        Args:
            last: whether there will be no time for another one.
        """
        if not self._left or self._given == _MOST:
            return None
        at = 0
        if self._given:
            share = _SURE if last or self._given > 1 else _CLOSE
            missed = [self._missed(choice, share) for choice in self._left]
            at = next((at for at, by in enumerate(missed) if by <= 0), missed.index(min(missed)))
        self._given += 1
        return self._left.pop(at)

    def cost(self, choice: Selection, costs: Mapping[str, float]) -> None:
        """Take in what a file costs."""
        if len(choice.weights) == 1:
            return
        for limit in self._limits:
            expected, found = choice.costs.get(limit.name, 0.0), costs.get(limit.name, 0.0)
            if expected > 0:
                self._dearer[limit.name] = max(self._dearer.get(limit.name, 1.0), found / expected)

    def _missed(self, choice: Selection, share: float) -> float:
        """By how much a choice is expected to miss this share of a limit, at most 0 where it keeps all."""
        dearer = self._dearer if len(choice.weights) > 1 else {}
        return max(
            (
                c.violation(choice.costs.get(c.name, 0.0) * dearer.get(c.name, 1.0) / share)
                for c in self._limits
            ),
            default=0.0,
        )
