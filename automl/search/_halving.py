"""Settings of early stopping."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving, beside its first rung.

    Attributes:
        factor: of one rung to the next; of those that reach a rung, one in so many goes on.
        brackets: of asynchronous Hyperband (Li et al. 2020, *A System for Massively Parallel Hyperparameter Tuning*,
            section 3.3), each with a later first rung than the one before; one is halving alone.
        least_ended: trials that reported on their way and ended, before another one may be stopped.
    """

    factor: int = 2
    brackets: int = 1
    least_ended: int = 6
