"""What may be active."""

from __future__ import annotations


def within(value: int, largest: int, what: str) -> int:
    """Return a width that fits into the weight.

    Raises:
        ValueError: it does not.
    """
    if not 1 <= value <= largest:
        raise ValueError(f"{what} {value} is not between 1 and {largest}")
    return value
