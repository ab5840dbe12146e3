"""The end of an error sentence about an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, options: Iterable[str], *, limit: int = 12) -> str:
    """Return ``"; did you mean 'x'? known: a, b, c"``.

    Args:
        name: what was given.
        options: the names that exist, in the order to show them.
        limit: how many of them are listed at most.
    """
    known = [str(option) for option in options]
    lowered = {option.lower(): option for option in reversed(known)}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    listed = ", ".join(known[:limit]) + (f", … {len(known) - limit} more" if len(known) > limit else "")
    hint = f"; did you mean '{lowered[close[0]]}'?" if close else ";"
    return f"{hint} known: {listed}" if known else f"{hint} none exist"
