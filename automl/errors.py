"""Errors that a user can act on.

Every error names the value, the rule it broke and what to do, in one line. The command line prints
that line and ends with the error's exit code; a traceback is only ever shown for a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutomlError(Exception):
    """Base of the errors raised on purpose."""

    exit_code = 1


class InputError(AutomlError):
    """The input or the command is wrong; nothing was started (exit code 2)."""

    exit_code = 2


def did_you_mean(name: str, options: Iterable[str], *, limit: int = 12) -> str:
    """Return the end of an error sentence: the closest known name, then what exists.

    Args:
        name: what the user typed.
        options: the names that exist, in the order to show them.
        limit: how many existing names are listed at most.
    """
    known = [str(option) for option in options]
    lowered = {option.lower(): option for option in reversed(known)}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    listed = ", ".join(known[:limit]) + (f", … {len(known) - limit} more" if len(known) > limit else "")
    hint = f"; did you mean '{lowered[close[0]]}'?" if close else ";"
    return f"{hint} known: {listed}" if known else f"{hint} none exist"
