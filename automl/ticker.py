"""A line now and then while a long step runs."""

from __future__ import annotations

import time
from collections.abc import Callable


class Ticker:
    """Says now and then how far a long step is: ``decoding 12,000 of 40,000 images``.

    Args:
        say: tells the user a line.
        doing: what is being done.
        of: what it is done to.
        every: seconds between lines; a step that is over sooner says nothing.
    """

    def __init__(
        self, say: Callable[[str], None], doing: str, of: str = "images", every: float = 10.0
    ) -> None:
        self._say, self._doing, self._of, self._every = say, doing, of, every
        self._said: float | None = None

    def __call__(self, done: int, total: int) -> None:
        """Take in how many are done."""
        now = time.monotonic()
        if self._said is None:
            self._said = now
        if now - self._said >= self._every:
            self._said = now
            self._say(f"  {self._doing} {done:,} of {total:,} {self._of}")
