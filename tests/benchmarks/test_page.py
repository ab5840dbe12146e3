"""The page of a suite: ranks, times to a reference, curves, and an HTML text that needs nothing else."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.page import RUNS, TRIALS, page, ranks, times_to_reference
from benchmarks.standings import anytime, critical_difference, incumbents, mean_scores, pareto

NOTHING = float("nan")
#: Elements that have no end.
_VOID = {"meta", "link", "br", "img"}


def _run(task: str, method: str, score: float, seed: int = 0, **changes: Any) -> dict[str, Any]:
    base = {
        "task": task, "method": method, "seed": seed, "budget": 100.0, "seconds": 80.0, "status": "ok", "score": score,
        "low": score - 0.02, "high": score + 0.02, "n_test": 1200, "limits": "[]", "broken": -1, "latency_ms": NOTHING,
        "size_mb": NOTHING, "macs_m": NOTHING, "first_seconds": NOTHING, "curve": "[]",
    }  # fmt: skip
    return {**base, "trained": changes.get("seconds", base["seconds"]), **changes}


def _failed(task: str, method: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    return _run(task, method, NOTHING, seed, status="failed", **changes)


def _curve(*points: tuple[float, float | None, float | None]) -> str:
    return json.dumps(points)


def _trials(*rows: tuple[str, str, int]) -> pd.DataFrame:
    found = [(*row, "a@64", "completed", 0.5, 1.0, 9.0) for row in rows]
    return pd.DataFrame(found, columns=TRIALS)


def _suite() -> pd.DataFrame:
    """Three tasks, three methods, two seeds; one run failed, one cell is missing, limits, costs and curves."""
    rows = []
    for seed in (0, 1):
        for number, task in enumerate(("digits", "leaves", "scratches")):
            top = 0.9 - 0.1 * number + 0.01 * seed
            curve = _curve((5 + seed, 0.5, top - 0.3), (20, 0.8, top - 0.05), (60, 0.9, top))
            more = {"limits": '["latency_ms<=5", "size_mb<=2"]', "latency_ms": 4.0 + seed, "size_mb": 1.5}
            rows.append(
                _run(task, "engine", top, seed, curve=curve, first_seconds=5.0 + seed, broken=0, **more)
            )
            more = {"latency_ms": 9.0, "size_mb": 40.0 + seed, "macs_m": 300.0, "limits": '["latency_ms<=5"]'}
            rows.append(_run(task, "random", top - 0.05, seed, seconds=100.0, broken=1, **more))
            if task != "leaves":
                rows.append(_run(task, "linear", top - 0.2, seed, seconds=10.0, curve="[[3, null, 0.6]]"))
    rows[-1] = _failed("scratches", "linear", 1)
    return pd.DataFrame(rows)


def _section(text: str, key: str) -> str:
    found = re.search(rf'<section id="{key}">(.*?)</section>', text, re.DOTALL)
    assert found is not None
    return found[1]


def _words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def _rows(text: str) -> list[list[str]]:
    """The words of every cell of the first table."""
    table = re.search(r"<tbody>(.*?)</tbody>", text, re.DOTALL)
    assert table is not None
    rows = re.findall(r"<tr>(.*?)</tr>", table[1], re.DOTALL)
    return [[_words(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


# --- statistics -----------------------------------------------------------------------------------


def test_a_run_without_a_score_counts_as_nothing_in_the_mean() -> None:
    runs = pd.DataFrame([_run("t", "a", 0.9, 0), _failed("t", "a", 1), _run("t", "b", 0.5)])
    assert mean_scores(runs) == {"t": {"a": 0.45, "b": 0.5}}


def test_ranks_by_hand() -> None:
    scores = {  # ranks of a, b, c: 1 2 3, 1.5 1.5 3, 1 3 2, 2 1 3
        "t1": (0.9, 0.8, 0.7),
        "t2": (0.6, 0.6, 0.5),
        "t3": (0.9, 0.1, 0.2),
        "t4": (0.5, 0.9, NOTHING),
    }
    rows = [_run(t, m, s) for t, found in scores.items() for m, s in zip("abc", found, strict=True)]
    rows += [_run("t5", "a", 0.9), _run("t5", "b", 0.8)]
    found = ranks(pd.DataFrame(rows))
    assert found["methods"] == ["a", "b", "c"]
    assert found["tasks"] == ["t1", "t2", "t3", "t4"]
    assert found["left_out"] == ["t5"]
    assert found["average"] == pytest.approx({"a": 5.5 / 4, "b": 7.5 / 4, "c": 11 / 4})
    assert found["critical_difference"] == pytest.approx(2.3437 * math.sqrt(12 / 24), abs=1e-3)  # 1.657
    assert found["groups"] == [["a", "b", "c"]]
    # chi = 12*4/12 * (1.375² + 1.875² + 2.75² - 12) = 3.875; F = 3*3.875 / (8 - 3.875) = 2.818 with 2 and 6
    assert found["p"] == pytest.approx((1 + 2 * 2.81818 / 6) ** -3, abs=1e-4)
    for method in "abc":
        assert 1 <= found["low"][method] <= found["average"][method] <= found["high"][method] <= 3
    assert found["low"]["c"] >= 2


def test_tasks_of_the_same_pictures_are_one_witness() -> None:
    tasks = {"p": ("x", 0.9, 0.5), "q": ("x", 0.4, 0.6), "r": ("y", 0.9, 0.5)}
    runs = pd.DataFrame(
        [
            _run(task, method, score, data=data)
            for task, (data, *scores) in tasks.items()
            for method, score in zip(("a", "b"), scores, strict=True)
        ]
    )
    found = ranks(runs)
    assert found["data"] == ["x", "y"] and found["average"] == {"a": 1.25, "b": 1.75}
    assert found["critical_difference"] == critical_difference(2, 2)
    alone = ranks(runs[runs["data"] == "x"])
    assert alone["critical_difference"] is None and alone["p"] is None


def test_the_mean_over_seeds_is_ranked() -> None:
    rows = [
        _run("t", "a", 0.5, 0),
        _run("t", "a", 0.9, 1),
        _run("t", "b", 0.65, 0),
        _run("t", "b", 0.65, 1),
    ]
    found = ranks(pd.DataFrame(rows))
    assert found["average"] == {"a": 1.0, "b": 2.0}
    assert found["critical_difference"] is None and found["p"] is None and found["groups"] == []


def test_methods_far_apart_are_no_group() -> None:
    rows = [_run(f"t{n}", m, s) for n in range(12) for m, s in (("a", 0.9), ("b", 0.8), ("c", 0.7))]
    found = ranks(pd.DataFrame(rows))  # critical difference 2.344 * sqrt(12 / 72) = 0.957
    assert found["groups"] == []
    assert found["p"] == 0.0
    assert (found["low"], found["high"]) == (found["average"], found["average"])


def test_only_the_longest_groups_are_named() -> None:
    places = [("a", "b", "c")] * 7 + [("b", "c", "a")] * 1 + [("a", "c", "b")] * 4
    rows = [_run(f"t{n}", m, 0.9 - 0.1 * at) for n, order in enumerate(places) for at, m in enumerate(order)]
    found = ranks(pd.DataFrame(rows))  # a 14/12, b 27/12, c 31/12, critical difference 0.957
    assert found["average"] == pytest.approx({"a": 14 / 12, "b": 27 / 12, "c": 31 / 12})
    assert found["groups"] == [["b", "c"]]


@pytest.mark.parametrize(
    ("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (10, 3.164)]
)
def test_the_critical_difference_is_that_of_the_paper(methods: int, q: float) -> None:
    """Demšar 2006, table 5(a)."""
    wanted = q * math.sqrt(methods * (methods + 1) / (6 * 14))
    assert critical_difference(methods, 14) == pytest.approx(wanted, abs=1e-3)
    assert critical_difference(methods, 1) is None and critical_difference(1, 14) is None


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_ranks_depend_on_no_order_of_the_rows(data: st.DataObject) -> None:
    methods = data.draw(st.integers(1, 4), "methods")
    score = st.sampled_from([0.1, 0.2, 0.3, 0.7, 1 / 3, NOTHING])
    rows = [
        _run(f"t{task}", f"m{method}", data.draw(score), seed)
        for task in range(data.draw(st.integers(1, 4), "tasks"))
        for method in range(methods)
        for seed in range(data.draw(st.integers(1, 3), "seeds"))
    ]
    found = ranks(pd.DataFrame(rows), resamples=50)
    assert found == ranks(pd.DataFrame(data.draw(st.permutations(rows))), resamples=50)
    assert sum(found["average"].values()) == pytest.approx(methods * (methods + 1) / 2)


def test_incumbents_end_with_the_delivered_file() -> None:
    curve = _curve((30, 0.6, 0.7), (10, 0.5, 0.6), (20, 0.55, None))
    assert incumbents(_run("t", "a", 0.8, curve=curve)) == [(10, 0.6), (30, 0.7), (80, 0.8)]
    assert incumbents(_run("t", "a", 0.8, curve=None, seconds=NOTHING)) == []
    assert incumbents(_failed("t", "a", curve=curve)) == []


def test_the_curve_is_the_median_of_the_runs() -> None:
    found = anytime([[(1, 0.2), (5, 0.8)], [(2, 0.4)], [(3, 0.6)]])
    assert found == [(2, 0.2, 0.2, 0.4), (3, 0.4, 0.2, 0.6), (5, 0.6, 0.4, 0.8)]
    assert anytime([[(1, 0.2)], [], []]) == []  # two of three never had a model
    assert anytime([]) == []


def test_times_to_reference_by_hand() -> None:
    curve = _curve((10, 0.5, 0.6), (30, 0.7, 0.8))
    rows = [
        *(_run(t, "engine", 0.9, curve=curve, seconds=90.0) for t in ("t1", "t2", "t3", "t4")),
        _run("t1", "other", 0.6, seconds=100.0),  # reached after 10 s: 10 %
        _run("t2", "other", 0.7, seconds=50.0),  # after 30 s: 60 %
        _run("t3", "other", 0.85, seconds=60.0),  # by the delivered file, after 90 s: 150 %
        _failed("t4", "other"),
        _run("t5", "other", 0.1),
        _run("t1", "better", 0.95),
        _run("t2", "better", 0.6, seconds=100.0),
        _run("t1", "alone", 0.5, seed=7),
    ]
    found = times_to_reference(pd.DataFrame(rows))
    assert list(found) == ["alone", "better", "other"]
    other = found["other"]
    assert [(t, s) for t, s, _ in other["shares"]] == [("t1", 0), ("t2", 0), ("t3", 0)]
    assert [share for _, _, share in other["shares"]] == pytest.approx([0.1, 0.6, 1.5])
    assert (other["pairs"], other["never"], other["unscored"], other["unpaired"]) == (3, 0, 1, 1)
    assert other["median"] == pytest.approx(0.6)
    # Of two pairs one is never reached, so the median is infinite; none is dropped.
    better = found["better"]
    assert (better["pairs"], better["never"], better["median"]) == (2, 1, None)
    assert better["shares"] == [["t1", 0, None], ["t2", 0, pytest.approx(0.1)]]
    assert found["alone"]["pairs"] == 0 and found["alone"]["unpaired"] == 1


def test_a_score_that_is_lost_again_is_not_reached() -> None:
    lost = _curve((10, 0.6, 0.95), (30, 0.7, 0.7))
    rows = [
        _run("t1", "engine", 0.9, curve=lost, seconds=90.0, trained=80.0),
        _run("t2", "engine", 0.96, curve=lost, seconds=90.0, trained=80.0),
        *(_run(t, "other", 0.93, seconds=100.0) for t in ("t1", "t2")),
    ]
    found = times_to_reference(pd.DataFrame(rows))["other"]
    assert found["shares"] == [["t1", 0, None], ["t2", 0, pytest.approx(0.8)]]


def test_a_method_is_timed_from_where_its_own_score_lasts() -> None:
    rows = [
        _run("t", "engine", 0.9, curve=_curve((10, 0.5, 0.85)), seconds=90.0),
        _run("t", "other", 0.8, curve=_curve((20, 0.4, 0.8), (40, 0.5, 0.82)), seconds=100.0),
        _run("t", "late", 0.8, curve=_curve((20, 0.4, 0.8), (40, 0.5, 0.79)), seconds=100.0, trained=95.0),
    ]
    found = times_to_reference(pd.DataFrame(rows))
    assert found["other"]["median"] == pytest.approx(0.5)
    assert found["late"]["median"] == pytest.approx(10 / 95)


def test_the_interval_of_times_draws_data_sets() -> None:
    rows = []
    for number, seconds in enumerate((20.0, 50.0, 100.0)):
        rows += [
            _run(f"t{number}", "engine", 0.9, seconds=10.0, data=f"d{number // 2}"),
            _run(f"t{number}", "other", 0.9, seconds=seconds, data=f"d{number // 2}"),
        ]
    found = times_to_reference(pd.DataFrame(rows))["other"]
    # Of two data sets, that of the first two tasks or that of the third is drawn twice in a quarter of all cases.
    assert (found["low"], found["median"], found["high"]) == pytest.approx((0.1, 0.2, 0.35))
    rows.append(_run("t3", "engine", 0.5, seconds=10.0, data="d2"))
    rows.append(_run("t3", "other", 0.9, seconds=10.0, data="d2"))
    found = times_to_reference(pd.DataFrame(rows))["other"]
    assert found["median"] == pytest.approx(0.35) and found["high"] is None and found["low"] < 0.2


def test_a_failed_engine_never_reaches_anything() -> None:
    rows = [_failed("t", "engine", curve=_curve((1, 0.9, 0.9))), _run("t", "other", 0.5)]
    assert times_to_reference(pd.DataFrame(rows))["other"]["never"] == 1


def test_the_run_with_the_same_budget_is_timed() -> None:
    rows = [_run("t", "engine", 0.9, seconds=10.0 * n, budget=10.0 * n) for n in (1, 2, 3)]
    rows += [
        _run("t", "a", 0.5, budget=20.0, seconds=100.0),
        _run("t", "b", 0.5, budget=70.0, seconds=100.0),
    ]
    found = times_to_reference(pd.DataFrame(rows))
    assert (found["a"]["median"], found["b"]["median"]) == (0.2, 0.3)


def test_another_method_may_be_timed() -> None:
    rows = [_run("t", "a", 0.9, seconds=20.0), _run("t", "b", 0.5, seconds=40.0)]
    assert times_to_reference(pd.DataFrame(rows), engine="a")["b"]["median"] == 0.5


def test_the_front_holds_what_nothing_beats() -> None:
    assert pareto([(2, 0.5), (1, 0.5), (3, 0.9), (3, 0.8), (4, 0.9)]) == [(1, 0.5), (3, 0.9)]


# --- the page -------------------------------------------------------------------------------------


class _Checked(HTMLParser):
    """Fails where elements are not nested."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """It opens nothing that would have to be closed."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag


def _sound(text: str) -> None:
    """The text is nested well, loads nothing, and every number in its drawings is finite."""
    parser = _Checked()
    parser.feed(text)
    assert parser.open == []
    assert not re.search(r"https?:|//[a-z]|<script|<[^>]*\bsrc=|url\(|@import", text, re.IGNORECASE)
    assert re.findall(r'href="(?!#|data:,)', text) == []
    for values in re.findall(r' (?:d|points|x|y|x1|x2|y1|y2|viewBox)="([^"]*)"', text):
        assert not re.search(r"nan|inf", values, re.IGNORECASE), values


def test_a_whole_page_is_sound() -> None:
    trials = _trials(("digits", "engine", 0), ("digits", "engine", 0), ("digits", "engine", 1))
    text = page("A suite", _suite(), trials, "First part.\n\nSecond part.")
    _sound(text)
    assert text.count("<section") == 7 and "<p>First part.</p><p>Second part.</p>" in text
    assert "prefers-color-scheme:dark" in text and "width=device-width" in text
    assert 'class="empty"' not in text.replace(_section(text, "costs"), "")
    assert text == page("A suite", _suite(), trials, "First part.\n\nSecond part.")


def test_the_table_marks_the_best_and_says_what_is_missing() -> None:
    text = _section(page("A suite", _suite(), _trials(), ""), "scores")
    rows = _rows(text)
    assert [row[0] for row in rows] == [f"{t} test images: 1,200" for t in ("digits", "leaves", "scratches")]
    assert rows[0][1] == "★ 90.5 % 90.0–91.0 %, 2 seeds"
    assert rows[0][3] == "85.5 % 85.0–86.0 %, 2 seeds 2 of 2 over a limit"
    assert rows[1][2] == "no run" and "1 cell without a run" in _words(text)
    assert rows[2][2] == "25.0 % 50.0 %, 1 seed 1 of 2 no score"
    assert text.count("★") == 3


def test_ranks_say_which_tasks_they_leave_out() -> None:
    text = _section(page("A suite", _suite(), _trials(), ""), "ranks")
    assert "Left out, because a method has no run there: leaves." in _words(text)
    assert _rows(text) == [
        ["engine", "1.00", "1.00–1.00"],
        ["random", "2.00", "2.00–2.00"],
        ["linear", "3.00", "3.00–3.00"],
    ]
    assert "critical difference 2.34, more than all ranks apart" in text


def test_the_reference_table_counts_what_is_never_reached() -> None:
    runs = pd.DataFrame([_run("t", "engine", 0.5), _run("t", "other", 0.9), _run("t", "weak", 0.4)])
    rows = _rows(_section(page("A suite", runs, _trials(), ""), "reference"))
    assert rows == [
        ["other", "never (never to never)", "–", "1 of 1", "0", "0"],
        ["weak", "100 % (100 % to 100 %)", "100–100 %", "0 of 1", "0", "0"],
    ]


def test_limits_are_drawn_and_broken_files_counted() -> None:
    text = page("A suite", _suite(), _trials(), "")
    drawn = _section(text, "costs")
    assert "≤ 5 ms" in drawn and "≤ 2 MB" in drawn and "over a limit" in drawn
    assert _rows(_section(text, "limits")) == [
        ["engine", "6", "6", "6", "0", "0", "0", "6", "0"],
        ["linear", "4", "0", "3", "0", "0", "1", "0", "–"],
        ["random", "6", "6", "6", "0", "0", "0", "6", "6"],
    ]


def test_a_file_over_a_limit_is_on_no_front() -> None:
    """Whatever its method says of it."""
    limits = '["latency_ms<=5", "macs_m<=100"]'
    rows = [
        _run("t", "engine", 0.6, latency_ms=4.0, limits=limits, macs_m=100.0),
        _run("t", "other", 0.7, latency_ms=5.5, limits=limits),
        _run("t", "third", 0.8, latency_ms=3.0, limits=limits, macs_m=101.0),
        _run("t", "fourth", 0.9, latency_ms=2.0, limits=limits, broken=1),
        _run("t", "fifth", 0.9, latency_ms=1.0, limits=limits, status="infeasible"),
    ]
    drawn = _section(page("A suite", pd.DataFrame(rows), _trials(), ""), "costs")
    assert drawn.count('class="full" d=') == 5 + 1  # the legend, and one file
    assert drawn.count('class="hollow"') == 4
    assert 'class="front"' not in drawn  # one point is no line


def test_the_effort_of_each_method() -> None:
    trials = _trials(("digits", "engine", 0), ("digits", "engine", 0), ("digits", "engine", 1))
    rows = _rows(_section(page("A suite", _suite(), trials, ""), "effort"))
    assert rows[0] == ["engine", "6", "80 s", "80 %", "80 %", "5.5 s", "0 (0–2)"]
    assert rows[1] == ["linear", "4", "10 s", "10 %", "80 %", "unknown", "none listed"]


def test_a_method_has_one_colour_on_the_whole_page() -> None:
    text = page("A suite", _suite(), _trials(), "")
    for key in ("scores", "ranks", "anytime", "reference", "costs", "limits", "effort"):
        for number, name in re.findall(
            r'<svg viewBox="0 0 14 14" class="m(\d)".*?</svg>(\w+)', _section(text, key)
        ):
            assert ("engine", "linear", "random")[int(number)] == name


@pytest.mark.parametrize("columns", [(), RUNS])
def test_an_empty_suite_says_so_everywhere(columns: tuple[str, ...]) -> None:
    text = page("Nothing yet", pd.DataFrame(columns=list(columns)), pd.DataFrame(), "")
    _sound(text)
    assert text.count('class="empty"') == 7 and "<svg" not in text and "<table" not in text


def test_a_failed_suite_has_no_empty_plots() -> None:
    runs = pd.DataFrame([_failed(t, m, seconds=NOTHING) for t in ("t1", "t2") for m in ("a", "b")])
    text = page("All failed", runs, _trials(), "")
    _sound(text)
    for key in ("anytime", "reference", "costs", "limits", "effort"):
        assert 'class="empty"' in _section(text, key)
    assert _rows(_section(text, "scores"))[0][1] == "failed"
    assert "★" not in str(_rows(_section(text, "scores")))


def test_one_run_is_enough_for_a_page() -> None:
    curve = _curve((0, None, 0.4), (3, 0.5, None))
    runs = pd.DataFrame([_run("t", "engine", 0.9, curve=curve, latency_ms=0.0, size_mb=3.0, limits="[]")])
    _sound(page("One run", runs, _trials(("t", "engine", 0)), ""))


def test_what_is_odd_draws_nothing_odd() -> None:
    runs = pd.DataFrame(
        [
            _run("t", "engine", 0.0, low=NOTHING, high=NOTHING, n_test=NOTHING, budget=0.0, latency_ms=1e-9),
            _run("t", "b", 1.0, limits='["speed", "latency_ms<=x", "latency_ms<=1e400"]', latency_ms=1e9),
            _run("t", "c", 0.5, curve='[[0, NaN, NaN], [Infinity, 0.5, 0.5], [1e-12, 0.1, 0.1]]', seconds=0.0),
            _run("u", "c", 0.5, limits='["balanced_accuracy>=0.9", "size_mb<=2"]', size_mb=1.0),
        ]
        + [_run("t", f"m{n}", 0.1 * n) for n in range(10)]
    )  # fmt: skip
    _sound(page("Odd", runs, _trials(), ""))


def test_names_cannot_bring_markup() -> None:
    bad = "<script>alert(1)</script>\"'><svg onload=x>"
    rows = [_run(t, m, 0.5, latency_ms=2.0, size_mb=1.0, curve=_curve((5, 0.4, 0.4)), limits=f'["{t}<=1"]')
            for t, m in (("<b>t", bad), ("<b>t", "engine"), ("<i>u", bad), ("<i>u", "engine"), ("<i>u", "</svg>"))]  # fmt: skip
    rows.append(_run("t3", "engine", 0.5, budget=50.0))
    rows.append(_run("t3", "engine", 0.5, seed=1, status="<u>"))
    text = page("</title><img src=x>", pd.DataFrame(rows), _trials(("<b>t", bad, 0)), "<iframe>\x1b[31m")
    _sound(text)
    lowered = text.lower()
    for tag in ("<script", "<iframe", "<img", "<b>t", "<i>u", "<u>", "onload=x>", "\x1b"):
        assert tag not in lowered.replace("<b>★", "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_mixed_budgets_are_said() -> None:
    runs = pd.DataFrame([_run("t", "engine", 0.5), _run("t", "engine", 0.6, budget=50.0)])
    assert "The budgets differ within a task (t)" in page("A suite", runs, _trials(), "")
    assert "The budgets differ" not in page("A suite", runs[:1], _trials(), "")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="the runs have no column 'curve'"):
        page("A suite", _suite().drop(columns="curve"), _trials(), "")
    with pytest.raises(ValueError, match="the trials have no column 'began'"):
        page("A suite", _suite(), _trials(("t", "engine", 0)).drop(columns="began"), "")
