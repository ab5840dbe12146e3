"""Searches over recorded trials do what the engine's own search does, on the clock of the records."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from automl.candidate import Candidate
from automl.records import Outcome, Progress, TrialSpec
from automl.search import Halving, Proposer, _inprocess
from automl.search._driver import Driver
from benchmarks import simulated
from benchmarks.simulated import FAILED, Recorded, Replayed, simulate
from benchmarks.suites import replay
from benchmarks.suites._replay_part import Shown, Tables
from benchmarks.suites._replay_searchers import Hyperband, TableProposer, TableTpe
from strategy_pool.replay import Course
from strategy_pool.strategy import FROZEN_METHODS
from tests.search.runs import SPACE, Run, make_spec, quality

EVER = 1e9


def candidates(count: int, architectures: str = "abc") -> list[Candidate]:
    return [Candidate(architectures[n % len(architectures)], 1, "fp32", f"s{n:03d}") for n in range(count)]


def record(seconds: list[float], values: list[float], failed: bool = False) -> Recorded:
    """Of epochs that took so long each, with scores that may fall."""
    best = np.maximum.accumulate(values)
    return Recorded(Course(np.cumsum(np.array(seconds, dtype=float)), best), failed)


def made(candidate: Candidate) -> Recorded:
    """A curve that depends on the candidate alone: four epochs, every fifth fails after one, all of network b do."""
    draw = np.random.default_rng(list(candidate.id.encode()))
    failed = candidate.architecture == "b" or bool(draw.random() < 0.2)
    epochs = 1 if failed else 4
    level = quality(candidate) + 0.1 * draw.random()
    return record(
        (1 + 3 * draw.random(epochs)).tolist(), (level * np.linspace(0.4, 1.0, epochs)).tolist(), failed
    )


def live_trial(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """The same curve as a trial function that does not wait."""
    course = made(spec.candidate).course
    curve = []
    for epoch, (seconds, value) in enumerate(zip(course.seconds, course.values, strict=True), 1):
        curve.append([epoch, float(value), float(seconds)])
        yield Progress(epoch, epoch / len(course.seconds), float(value), float(seconds))
    if made(spec.candidate).failed:
        raise FloatingPointError(FAILED)
    return Outcome(
        spec.trial_id, spec.candidate.id, "completed", curve[-1][1], {}, curve[-1][2], len(curve), curve
    )


def features(count: int) -> pd.DataFrame:
    """A network's name, a rate on a logarithmic scale, a whole number with gaps, and a choice with gaps."""
    draw = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "strategy.model": [c.architecture for c in candidates(count)],
            "strategy.lr": 10.0 ** draw.uniform(-5, -1, count),
            "strategy.depth": [float("nan") if n % 7 == 0 else float(n % 5) for n in range(count)],
            "strategy.opt": [None if n % 4 == 0 else "sgd" if n % 3 else "adam" for n in range(count)],
            "task.images": 100,
        }
    )


# --- the same as the live search --------------------------------------------------------------------


def over_a_table() -> Proposer:
    pool = candidates(30)
    model = TableTpe(features(30), pool, "strategy.model", seed=5)
    return TableProposer(pool, model, explore_share=0.7, pool_first=4)


SEARCHERS: dict[str, Callable[[], Proposer]] = {
    "the pool alone": lambda: Proposer(candidates(30), explore_share=0.0),
    "the pool and the model": lambda: Proposer(candidates(30), space=SPACE, seed=2, max_trials=25),
    "rounds": lambda: Proposer(candidates(20), space=SPACE, deterministic_batch=3, max_trials=20),
    "recorded candidates only": over_a_table,
}


@pytest.mark.parametrize("name", SEARCHERS)
def test_candidates_come_in_the_order_of_the_live_search(name: str, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.search(SEARCHERS[name](), f"{__name__}:live_trial")
    done = simulate(SEARCHERS[name](), made, deadline=EVER)
    assert [c.id for c in done.given] == run.tried
    assert [(one.status, one.epochs) for one in done.trials] == [(o.status, o.epochs) for _, o in run.results]
    assert {"completed", "failed"} == {one.status for one in done.trials}
    assert len(done.given) > 10


def test_a_network_that_fails_again_and_again_is_given_up() -> None:
    tried = [c.architecture for c in simulate(SEARCHERS["the pool alone"](), made, deadline=EVER).given]
    assert tried.count("b") == 3
    assert tried.count("a") == tried.count("c") == 10


@pytest.mark.parametrize("deadline", [5.0, 40.0, 90.5])
def test_the_deadline_is_on_the_clock_of_the_records(deadline: float, tmp_path: Path) -> None:
    """The driver that runs trials in this process, on a clock that trials move on."""
    now = 0.0

    def trial(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
        nonlocal now
        outcome = yield from live_trial(spec)
        now += outcome.seconds
        return outcome

    def proposer() -> Proposer:
        pool = candidates(40, "ac")
        return Proposer(pool, explore_share=0.0, cost_hint=lambda c: float(made(c).course.seconds[-1]))

    given: list[str] = []

    def spec_of(candidate: Candidate, left: float) -> TrialSpec:
        given.append(candidate.id)
        assert left == pytest.approx(deadline - now)
        return make_spec(tmp_path / f"t{len(given):04d}", candidate, f"t{len(given):04d}")

    driver = Driver(
        proposer(), spec_of, deadline=deadline, on_result=lambda spec, outcome: None,
        should_stop=lambda: False, violations=None, listener=None, clock=lambda: now,
    )  # fmt: skip
    # A failure takes no time there, as its outcome is none of the trial's own.
    free = {c.id: made(c) for c in candidates(40, "ac") if not made(c).failed}
    nothing = Recorded(Course(np.array([0.0]), np.array([0.0])), failed=True)
    _inprocess.run(driver, trial)
    driver.raise_errors()
    done = simulate(proposer(), lambda c: free.get(c.id, nothing), deadline=deadline)
    assert [c.id for c in done.given] == given
    assert 0 < len(given) < 40
    assert all(one.ended <= deadline and one.status != "stopped" for one in done.trials)  # none was too long


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = simulate(SEARCHERS["the pool alone"](), made, deadline=30.0, workers=2)
    assert done.trials[-1].status == "stopped"
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_searcher_is_raised() -> None:
    class Broken(Proposer):
        def observe(self, *_: Any, **__: Any) -> None:
            raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        simulate(Broken(candidates(3), explore_share=0.0), made, deadline=EVER)


# --- the clock --------------------------------------------------------------------------------------


def test_workers_take_the_next_trial_when_they_are_free() -> None:
    pool = candidates(5)
    takes = dict(zip([c.id for c in pool], [5.0, 3.0, 1.5, 4.0, 1.0], strict=True))
    done = simulate(
        Proposer(pool, explore_share=0.0), lambda c: record([takes[c.id]], [0.5]), deadline=EVER, workers=2
    )
    times = {one.candidate.strategy: (one.began, one.ended) for one in done.trials}
    assert times == {
        "s000": (0.0, 5.0), "s001": (0.0, 3.0), "s002": (3.0, 4.5), "s003": (4.5, 8.5), "s004": (5.0, 6.0),
    }  # fmt: skip


def test_a_score_counts_from_the_end_of_its_epoch_and_to_the_deadline() -> None:
    pool = candidates(2)
    records = {pool[0].id: record([2, 2, 2], [0.3, 0.2, 0.5]), pool[1].id: record([1, 1, 1], [0.4, 0.7, 0.9])}
    done = simulate(Proposer(pool, explore_share=0.0), lambda c: records[c.id], deadline=8.0)
    times = np.array([0.0, 1.9, 2.0, 4.0, 6.0, 7.0, 7.9, 8.0])
    assert done.best_at(times).tolist() == [0.0, 0.0, 0.3, 0.3, 0.5, 0.5, 0.5, 0.7]
    last = done.trials[-1]
    assert (last.status, last.epochs, last.ended) == ("stopped", 2, 8.0)
    assert last.error is not None


def test_epochs_that_are_over_at_once_are_reported_together() -> None:
    from automl.search._ray_trainable import REPORT_SECONDS

    assert simulated.REPORT_SECONDS == REPORT_SECONDS
    done = simulate(
        Proposer(candidates(1), explore_share=0.0),
        lambda c: record([0.1] * 7, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        deadline=EVER,
    )
    assert done.seconds == pytest.approx([0.3, 0.6, 0.7])
    assert done.best.tolist() == [0.3, 0.6, 0.7]
    assert done.trials[0].ended == pytest.approx(0.7)


def test_without_a_trial_there_is_no_score() -> None:
    done = simulate(Proposer([], explore_share=0.0), made, deadline=10.0)
    assert done == Replayed((), (), done.seconds, done.best)
    assert done.best_at(np.array([0.0, 10.0])).tolist() == [0.0, 0.0]


# --- early stopping ---------------------------------------------------------------------------------


def growing(count: int, seed: int) -> dict[str, Recorded]:
    """Curves of twelve epochs of uneven length, the better ones not always ahead."""
    draw = np.random.default_rng(seed)
    return {
        c.id: record(
            draw.uniform(0.5, 1.5, 12).tolist(),
            (draw.random() * (1 - np.exp(-np.arange(1, 13) / draw.uniform(1, 6)))).tolist(),
        )
        for c in candidates(count)
    }


def halved(records: dict[str, Recorded], first_rung: int, rule: Halving) -> list[int]:
    """Epochs that each trial gets, one after the other: the stopping rule written out.

    Li et al. 2020, *A System for Massively Parallel Hyperparameter Tuning*, section 3.3, as Ray Tune has it: at the first
    report beyond a rung a trial stops if it is below the quantile 1 − 1/η of those that were there before.
    """
    rungs: dict[int, list[float]] = {}
    epochs = []
    for ended, one in enumerate(records.values()):
        seen: set[int] = set()
        got = 0
        for used, value in zip(one.course.seconds, one.course.values, strict=True):
            got += 1
            if used < first_rung:
                continue
            rung = int(np.log(used / first_rung) / np.log(rule.factor))
            if rung in seen:
                continue
            seen.add(rung)
            before = rungs.setdefault(rung, [])
            weak = bool(before) and value < np.quantile(before, 1 - 1 / rule.factor)
            before.append(float(value))
            if weak and ended >= rule.least_ended:
                break
        epochs.append(got)
    return epochs


@pytest.mark.parametrize("rule", [Halving(), Halving(factor=3, least_ended=1)])
def test_weak_trials_stop_as_asynchronous_successive_halving_says(rule: Halving) -> None:
    records = growing(40, seed=1)
    done = simulate(
        Proposer(candidates(40), explore_share=0.0), lambda c: records[c.id],
        deadline=1000.0, first_rung=2.0, halving=rule,
    )  # fmt: skip
    expected = halved(records, 2, rule)
    assert [one.epochs for one in done.trials] == expected
    assert [one.status == "stopped" for one in done.trials] == [epochs < 12 for epochs in expected]
    assert 5 < sum(one.status == "stopped" for one in done.trials) < 40
    for one in done.trials:  # one that is stopped takes what it ran
        assert one.ended - one.began == pytest.approx(
            records[one.candidate.id].course.seconds[one.epochs - 1]
        )


def test_models_on_frozen_features_are_never_stopped() -> None:
    records = {
        name: Recorded(one.course, False, FROZEN_METHODS[0]) for name, one in growing(40, seed=1).items()
    }
    done = simulate(
        Proposer(candidates(40), explore_share=0.0), lambda c: records[c.id], deadline=1000.0, first_rung=2.0
    )
    assert {one.status for one in done.trials} == {"completed"}


def test_brackets_are_drawn_by_the_seed() -> None:
    records = growing(40, seed=1)

    def stopped(seed: int) -> list[int]:
        done = simulate(
            Proposer(candidates(40), explore_share=0.0), lambda c: records[c.id], deadline=1000.0,
            first_rung=1.0, halving=Halving(brackets=3), seed=seed,
        )  # fmt: skip
        return [one.epochs for one in done.trials]

    assert stopped(0) == stopped(0) != stopped(1)


# --- searchers --------------------------------------------------------------------------------------


def test_hyperband_runs_the_brackets_of_the_paper() -> None:
    """Algorithm 1 of Li et al. 2018 with R = 9 and η = 3; a candidate that goes on takes what it has left to train."""
    pool = candidates(40)
    level = dict(zip([c.id for c in pool], np.random.default_rng(0).permutation(40), strict=True))
    searcher = Hyperband(pool, R=9)
    done = simulate(
        searcher, lambda c: record([1.0] * 9, [level[c.id] / 100 + e / 1000 for e in range(9)]),
        deadline=EVER, most_epochs=searcher.epochs,
    )  # fmt: skip
    rungs = [(9, 1), (3, 3), (1, 9), (5, 3), (1, 9), (3, 9)]
    sizes = [size for size, _ in rungs]
    assert [one.epochs for one in done.trials[:22]] == [r for size, r in rungs for _ in range(size)]
    parts = np.split(np.array([one.candidate.id for one in done.trials[:22]]), np.cumsum(sizes)[:-1])
    assert parts[0].tolist() == [c.id for c in pool[:9]]
    assert parts[1].tolist() == sorted(parts[0], key=lambda name: -level[name])[:3]
    assert parts[2].tolist() == parts[1].tolist()[:1]
    assert parts[3].tolist() == [c.id for c in pool[9:14]]
    assert parts[5].tolist() == [c.id for c in pool[14:17]]
    # 9·1 + 3·2 + 1·6 in the first bracket, and so on.
    assert done.trials[21].ended == pytest.approx(21 + 15 + 6 + 27)
    assert {c.id for c in done.given} == {c.id for c in pool}  # over and over, to the end of the table


def test_hyperband_promotes_nothing_that_failed_and_waits_for_a_rung() -> None:
    pool = candidates(9)
    records = {c.id: record([1.0] * 9, [0.1] * 9) for c in pool}
    records[pool[0].id] = record([1.0], [0.9], failed=True)
    records[pool[1].id] = record([1.0] * 9, [0.8] * 9)
    records[pool[8].id] = record([7.0] * 9, [0.7] * 9)
    searcher = Hyperband(pool, R=9)
    done = simulate(searcher, lambda c: records[c.id], deadline=EVER, workers=4, most_epochs=searcher.epochs)
    later = [one for one in done.trials if one.epochs > 1]
    assert [one.candidate for one in later[:3]].count(pool[1]) == 1
    assert pool[0] not in [one.candidate for one in later]
    assert min(one.began for one in later) == max(one.ended for one in done.trials if one.epochs == 1)


def test_a_model_over_a_table_tries_each_candidate_once_and_the_good_ones_early() -> None:
    count = 40
    frame, pool = features(count)[["strategy.lr", "strategy.opt"]], candidates(count, "a")
    score = 5 - np.abs(np.log10(frame["strategy.lr"]) + 2.2)
    records = {c.id: record([1.0], [float(value)]) for c, value in zip(pool, score, strict=True)}
    leads = []
    for seed in range(4):
        order = [pool[at] for at in np.random.default_rng(seed).permutation(count)]
        model = TableTpe(frame, pool, None, seed)
        proposer = TableProposer(order, model, seed=seed, explore_share=1.0, pool_first=0)
        done = simulate(proposer, lambda c: records[c.id], deadline=EVER)
        assert sorted(c.id for c in done.given) == sorted(c.id for c in pool)
        tried = np.array([records[c.id].course.values[0] for c in done.given])
        leads.append(tried[: count // 2].mean() - tried[count // 2 :].mean())
    assert min(leads) > 0.25  # at random the first half is as good as the second
    assert np.mean(leads) > 0.5


# --- the suite --------------------------------------------------------------------------------------


def write_tables(folder: Path, tasks: int = 4, each: int = 12, epochs: int = 4) -> list[str]:
    """Made tables in which network c is the best everywhere, and every trial takes six minutes; the arguments."""
    rows, curves = [], []
    draw = np.random.default_rng(0)
    for task in range(tasks):
        for number in range(each):
            model = "abc"[number % 3]
            level = {"a": 0.2, "b": 0.4, "c": 0.8}[model] + 0.05 * draw.random()
            name = {"task": f"task{task}", "strategy": f"{task}-{number}"}
            rows.append(
                {
                    **name, "score": level, "seconds": 360.0, "failed": number == 0, "group": f"g{task // 2}",
                    "strategy.model": model, "strategy.lr": float(10 ** draw.uniform(-4, -1)), "task.images": 10 * task,
                }
            )  # fmt: skip
            for epoch in range(1, epochs + 1):
                curves.append(
                    {**name, "epoch": epoch, "score": level * epoch / epochs, "seconds": 360.0 / epochs}
                )
    pd.DataFrame(rows).to_parquet(folder / "trials.parquet")
    pd.DataFrame(curves).to_csv(folder / "curves.csv", index=False)
    return ["--table", str(folder / "trials.parquet"), "--curves", str(folder / "curves.csv")]


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "replay.json").read_text())
    return found


def test_the_suite_on_made_tables(tmp_path: Path) -> None:
    files = write_tables(tmp_path)
    methods = "history_average,random,random_halving,hyperband,tpe"
    asked = ["--methods", methods, "--searches", "60", "--hours", "0.1,1.2", "--processes", "1"]
    assert replay.run([*files, *asked, "--first-rung", "90", "--results", str(tmp_path)]) == 0
    found = figures(tmp_path)
    assert (found["searches"], found["seeds"], found["tasks"], found["trials"]) == (60, 3, 4, 48)
    assert list(found["methods"]) == methods.split(",")
    regret = {name: [one["mean"] for one in of["regret"]] for name, of in found["methods"].items()}
    assert all(0 <= of[1] <= of[0] <= 1 for of in regret.values())
    assert regret["history_average"][0] < 0.1 < regret["random"][0]  # network c at once
    assert regret["random"][1] < 0.1  # twelve trials of six minutes: all
    for of in found["methods"].values():
        assert all(one["low"] <= one["mean"] <= one["high"] for one in of["regret"])
    assert found["methods"]["random_halving"]["stopped"] > 0 == found["methods"]["random"]["stopped"]
    difference = found["differences"]["random"][0]
    assert difference["mean"] == pytest.approx(regret["random"][0] - regret["history_average"][0], abs=2e-5)
    assert difference["low"] > 0
    assert found["searches_per_second"] > 0 and found["environment"]["packages"]["ray"]
    text = (tmp_path / "replay.md").read_text()
    assert "| history_average |" in text and "--seed 0" in text
    assert str(tmp_path) not in text


@pytest.mark.slow
def test_figures_do_not_depend_on_the_processes(tmp_path: Path) -> None:
    files = write_tables(tmp_path)
    asked = [*files, "--searches", "80", "--hours", "0.2,0.5", "--by", "group", "--workers", "2"]
    kept = []
    for processes in ("1", "2"):
        folder = tmp_path / processes
        assert replay.run([*asked, "--processes", processes, "--results", str(folder)]) == 0
        found = figures(folder)
        kept.append(
            [{n: (of["regret"], of["tried"]) for n, of in found["methods"].items()}, found["differences"]]
        )
    assert kept[0] == kept[1]


def test_what_cannot_be_compared_is_left_out_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_tables(tmp_path, epochs=1)
    table = pd.read_parquet(files[1])
    table[["task", "strategy", "score", "seconds"]].to_parquet(files[1])
    asked = [*files, "--searches", "1", "--processes", "1", "--results", str(tmp_path)]
    methods = "random,random_halving,hyperband,tpe,lightgbm_regression"
    assert replay.run([*asked, "--methods", methods]) == 0
    found = figures(tmp_path)
    assert list(found["methods"]) == ["random"]
    reasons = found["left_out"]
    assert reasons["hyperband"] == reasons["random_halving"] == "no curve has two epochs"
    assert "strategy.*" in reasons["tpe"] and "features" in reasons["lightgbm_regression"]
    assert "hyperband: left out, as no curve" in (tmp_path / "replay.md").read_text()
    assert replay.run([*asked, "--methods", "tpe"]) == 2
    assert "no method is left" in capsys.readouterr().err


def test_outcomes_of_the_task_that_is_searched_are_hidden(tmp_path: Path) -> None:
    files = write_tables(tmp_path)
    tables = Tables.read(files[1], files[3])
    shown = Shown.of(tables, "task1")
    assert not {"score", "value", "seconds", "epochs", "failed"} & set(shown.frame.columns)
    assert set(shown.frame["task"]) == {"task1"}
    assert [shown.trials[c.id] for c in shown.candidates] == list(tables.tasks["task1"].values())
    assert sum(one.failed for one in shown.trials.values()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hours", "0,4"], "--hours is '0,4'"),
        (["--hours", "soon"], "--hours is 'soon'"),
        (["--methods", "ranger"], "unknown method 'ranger'"),
        (["--methods", ","], "--methods names none"),
        (["--first-rung", "0"], "--first-rung is 0"),
        (["--workers", "0"], "--workers is 0"),
        (["--curves", "missing.csv"], "missing.csv"),
        (["--table", "missing.txt"], "missing.txt"),
    ],
)
def test_wrong_input_is_told(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.run([*write_tables(tmp_path), "--results", str(tmp_path), *options]) == 2
    assert words in capsys.readouterr().err


def test_the_first_rung_is_that_of_a_submit_of_the_same_time() -> None:
    from automl.plan import Clock

    assert replay._first_rung(None, 16.0) == Clock(0.0, 57_600.0).first_rung()
    assert replay._first_rung(33.0, 16.0) == 33.0


@pytest.mark.slow
def test_what_was_learned_beats_chance_on_recorded_fine_tunings(shared: Path, tmp_path: Path) -> None:
    folder = shared / "meta" / "quicktune_extended"
    if not folder.is_dir():
        pytest.skip("the recorded fine-tunings are not here")
    files = ["--table", str(folder / "trials.parquet"), "--curves", str(folder / "curves.parquet")]
    asked = [
        "--methods",
        "lightgbm_regression,random",
        "--searches",
        "52",
        "--by",
        "group",
        "--processes",
        "1",
    ]
    assert replay.run([*files, *asked, "--results", str(tmp_path)]) == 0
    found = figures(tmp_path)
    assert (found["tasks"], found["trials"], found["searches"]) == (26, 4665, 52)
    assert found["differences"]["random"][1]["low"] > 0
