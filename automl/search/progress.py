"""What a user sees while a search runs: a live panel in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from automl.records import Outcome, Progress, TrialSpec

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live


class SearchDisplay:
    """Shows trials running, done, stopped early and failed, the best so far, and the time.

    Use it as a context manager around the search and pass it as ``listener``. All output goes to
    standard error, so that standard output stays a program's.

    Args:
        seconds: the time the search may take; None where trials are counted.
        trials: how many there will be, where they are counted.
        quiet: show nothing.
        every: seconds between lines where there is no terminal.
        best_of: turns an outcome into the value that is compared and shown (higher is better, None for
            one that does not count); by default its score.
        console: by default one on standard error.
    """

    def __init__(
        self,
        seconds: float | Callable[[], float] | None,
        *,
        trials: int | None = None,
        quiet: bool = False,
        every: float = 10.0,
        best_of: Callable[[Outcome], float | None] | None = None,
        console: Console | None = None,
    ) -> None:
        self._seconds, self._trials = seconds, trials
        self._quiet = quiet
        self._every = every
        self._best_of = best_of or (lambda outcome: outcome.usable_score)
        self._console = console
        self._live: Live | None = None
        self._begin = time.monotonic()
        self._line_at = self._begin
        self._running: dict[str, tuple[TrialSpec, Progress | None]] = {}
        self._ended: Counter[str] = Counter()
        self._best: tuple[float, str] | None = None

    def __enter__(self) -> SearchDisplay:
        self._begin = self._line_at = time.monotonic()
        if not self._quiet:
            from rich.console import Console

            self._console = self._console or Console(stderr=True)
            if self._console.is_terminal:
                from rich.live import Live

                self._live = Live(
                    get_renderable=self._panel, console=self._console, refresh_per_second=4, transient=True
                )
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if not self._quiet and self._ended.total():
            self._print()

    def started(self, spec: TrialSpec) -> None:
        """A trial was given out."""
        self._running[spec.trial_id] = (spec, None)

    def progressed(self, spec: TrialSpec, progress: Progress) -> None:
        """A trial reported."""
        if spec.trial_id in self._running:
            self._running[spec.trial_id] = (spec, progress)

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        """A trial ended."""
        self._running.pop(spec.trial_id, None)
        self._ended[outcome.status] += 1
        value = self._best_of(outcome) if outcome.status != "failed" else None
        if value is not None and (self._best is None or value > self._best[0]):
            self._best = (value, outcome.candidate_id)

    def tick(self) -> None:
        """Print a line where it is time for one and there is no live panel."""
        now = time.monotonic()
        if self._live is None and not self._quiet and now - self._line_at >= self._every:
            self._line_at = now
            self._print()

    def line(self) -> str:
        """Return the state of the search in one line."""
        used = time.monotonic() - self._begin
        whole = self._whole()
        of = "" if whole is None else f" of {_clock(whole)}"
        most = "" if self._trials is None else f" of {self._trials}"
        parts = [
            f"search {_clock(used)}{of}",
            f"{self._ended['completed']}{most} done",
            f"{len(self._running)} running",
        ]
        parts += [
            f"{self._ended[status]} {name}"
            for status, name in (("stopped", "stopped"), ("timeout", "out of time"), ("failed", "failed"))
            if self._ended[status]
        ]
        if self._best is not None:
            parts.append(f"best {self._best[0]:.4f} {self._best[1]}")
        return " · ".join(parts)

    def _whole(self) -> float | None:
        return self._seconds() if callable(self._seconds) else self._seconds

    def _print(self) -> None:
        if self._console is not None:
            self._console.print(self.line(), highlight=False, markup=False, soft_wrap=True)

    def _panel(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        used = time.monotonic() - self._begin
        table = Table.grid(padding=(0, 1))
        for spec, progress in list(self._running.values()):
            share = progress.fraction if progress is not None else 0.0
            score = (
                f"{progress.score:.4f}" if progress is not None and progress.score == progress.score else "–"
            )
            table.add_row(
                Text(spec.trial_id, style="dim"),
                ProgressBar(total=1.0, completed=share, width=20),
                Text(score),
                Text(spec.candidate.id, overflow="ellipsis", no_wrap=True),
            )
        whole, part = self._whole(), used
        if whole is None:
            whole, part = float(self._trials or 1), float(self._ended.total())
        bar = ProgressBar(total=max(whole, 1e-9), completed=min(part, whole), width=40)
        return Group(Text(self.line(), overflow="ellipsis", no_wrap=True), bar, table)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
