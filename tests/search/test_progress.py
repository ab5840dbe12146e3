from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from automl.records import Outcome, Progress, TrialSpec
from automl.search import SearchDisplay
from tests.search.runs import candidate, make_spec


def spec(number: int, name: str = "a") -> TrialSpec:
    return make_spec(Path("trials"), candidate(name), f"t{number:04d}")


def ended(of: TrialSpec, status: str = "completed", score: float | None = 0.5) -> Outcome:
    return Outcome(of.trial_id, of.candidate.id, status, score)


def on_paper() -> Console:
    return Console(file=io.StringIO(), width=200)


def on_screen() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=True)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_line_counts_what_happens() -> None:
    display = SearchDisplay(90.0)
    for number in range(1, 7):
        display.started(spec(number))
    for number, status in enumerate(("completed", "completed", "stopped", "timeout", "failed"), 1):
        display.finished(spec(number), ended(spec(number), status))
    parts = display.line().split(" · ")
    assert parts[0].endswith("of 1:30")
    assert parts[1:6] == ["2 done", "1 running", "1 stopped", "1 out of time", "1 failed"]


def test_what_did_not_happen_is_not_in_the_line() -> None:
    line = SearchDisplay(3600.0).line()
    assert line.endswith("of 60:00 · 0 done · 0 running")


def test_the_time_may_still_change() -> None:
    seconds = [60.0]
    display = SearchDisplay(lambda: seconds[0])
    assert " of 1:00 " in display.line()
    seconds[0] = 90.0
    assert " of 1:30 " in display.line()


def test_the_line_shows_the_best() -> None:
    display = SearchDisplay(60.0)
    for number, (name, score) in enumerate((("a", 0.5), ("b", 0.75), ("c", 0.625)), 1):
        display.finished(spec(number, name), ended(spec(number, name), score=score))
    assert display.line().endswith("best 0.7500 b@32/fp32/tune")


@pytest.mark.parametrize(
    ("status", "score"), [("failed", 0.9), ("completed", None), ("completed", float("nan"))]
)
def test_what_has_no_score_is_not_the_best(status: str, score: float | None) -> None:
    display = SearchDisplay(60.0)
    display.finished(spec(1), ended(spec(1), status, score))
    assert "best" not in display.line()


def test_the_caller_may_say_what_is_best() -> None:
    # For instance only models that meet the constraints.
    display = SearchDisplay(60.0, best_of=lambda outcome: None if "b@" in outcome.candidate_id else 0.25)
    for number, name in enumerate("ab", 1):
        display.finished(spec(number, name), ended(spec(number, name)))
    assert display.line().endswith("best 0.2500 a@32/fp32/tune")


def test_a_report_of_a_trial_that_is_over_is_no_running_trial() -> None:
    display = SearchDisplay(60.0)
    display.started(spec(1))
    display.finished(spec(1), ended(spec(1)))
    display.progressed(spec(1), Progress(1, 0.5, 0.5, 1.0))
    assert "0 running" in display.line()


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    console = on_paper()
    with SearchDisplay(60.0, every=0.0, console=console) as display:
        display.started(spec(1))
        display.tick()
        display.finished(spec(1), ended(spec(1)))
        display.tick()
    lines = text(console).splitlines()
    assert ["1 running" in line for line in lines] == [True, False, False]
    assert lines[-1].endswith("1 done · 0 running · best 0.5000 a@32/fp32/tune")


def test_lines_keep_their_distance() -> None:
    console = on_paper()
    with SearchDisplay(60.0, every=3600.0, console=console) as display:
        display.started(spec(1))
        for _ in range(50):
            display.tick()
        assert text(console) == ""


def test_a_search_in_which_nothing_ended_says_nothing_at_the_end() -> None:
    console = on_paper()
    with SearchDisplay(60.0, every=3600.0, console=console) as display:
        display.started(spec(1))
    assert text(console) == ""


def test_the_last_line_comes_after_an_error_too() -> None:
    console = on_paper()
    with pytest.raises(RuntimeError), SearchDisplay(60.0, every=3600.0, console=console) as display:
        display.finished(spec(1), ended(spec(1)))
        raise RuntimeError
    assert "1 done" in text(console)


@pytest.mark.parametrize("make", [on_paper, on_screen])
def test_quiet_is_quiet(make: Callable[[], Console]) -> None:
    console = make()
    with SearchDisplay(60.0, every=0.0, quiet=True, console=console) as display:
        display.started(spec(1))
        display.tick()
        display.finished(spec(1), ended(spec(1)))
    assert text(console) == ""


def test_in_a_terminal_the_panel_shows_what_runs() -> None:
    console = on_screen()
    with SearchDisplay(60.0, console=console) as display:
        display.started(spec(1, "net_a"))
        display.started(spec(2, "net_b"))
        display.progressed(spec(1, "net_a"), Progress(1, 0.5, 0.625, 1.0))
        display.progressed(spec(2, "net_b"), Progress(1, 0.5, float("nan"), 1.0))
        display.tick()
        console.print(display._panel())
    shown = text(console)
    for part in ("t0001", "0.6250", "net_a@32/fp32/tune", "t0002", "–", "net_b@32/fp32/tune"):
        assert part in shown
    assert "nan" not in shown


def test_names_are_not_markup() -> None:
    console = on_paper()
    with SearchDisplay(60.0, console=console) as display:
        display.finished(spec(1, "[red]x[/]"), ended(spec(1, "[red]x[/]")))
    assert "[red]x[/]@32" in text(console)


def test_standard_output_stays_free(capsys: pytest.CaptureFixture[str]) -> None:
    with SearchDisplay(60.0) as display:
        display.finished(spec(1), ended(spec(1)))
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 done" in err
