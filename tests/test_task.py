"""What a user types: it parses, what is printed parses back, and a wrong word is answered with the right one."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from automl.device import Device, cores
from automl.errors import InputError, did_you_mean
from automl.task import (
    CLASS_METRICS,
    COST_METRICS,
    MOST_SEED,
    QUALITY_METRICS,
    Budget,
    Constraint,
    Objective,
    Task,
    check_class_names,
    check_constraints,
    check_measurable,
    parse_limits_file,
)

#: Class names as folders have them: anything but what no file name can hold.
class_names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)
shares = st.floats(0, 1)
costs = st.floats(0, exclude_min=True, allow_infinity=False)
constraints = st.one_of(
    st.builds(Constraint, st.sampled_from(COST_METRICS), st.just("<="), costs),
    st.builds(Constraint, st.sampled_from(QUALITY_METRICS), st.just(">="), shares),
    st.builds(Constraint, st.sampled_from(CLASS_METRICS), st.just(">="), shares, class_names),
)


def refused(work: Callable[[], object], *words: str) -> None:
    """The call raises an :class:`InputError` of one line that holds all words."""
    with pytest.raises(InputError) as caught:
        work()
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in text
    assert all(word in text for word in words), text


# --- constraints ------------------------------------------------------------------------------------


@given(constraints)
def test_what_is_printed_parses_back(constraint: Constraint) -> None:
    assert Constraint.parse(constraint.expression) == constraint


@given(st.text(max_size=40))
def test_any_text_is_a_constraint_or_an_error(text: str) -> None:
    try:
        constraint = Constraint.parse(text)
    except InputError as error:
        assert str(error)
    else:
        assert math.isfinite(constraint.limit)
        assert Constraint.parse(constraint.expression) == constraint


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("latency_ms<=5", "latency_ms<=5"),
        ("  latency_ms  <=  5.0  ", "latency_ms<=5"),
        ("latency_ms<=5ms", "latency_ms<=5"),
        ("latency_ms<=0.005 s", "latency_ms<=5"),
        ("latency_ms<=1100us", "latency_ms<=1.1"),
        ("latency_p95_ms<=1100µs", "latency_p95_ms<=1.1"),  # the micro sign
        ("latency_p95_ms<=1100μs", "latency_p95_ms<=1.1"),  # the Greek letter
        ("size_mb<=4MB", "size_mb<=4"),
        ("size_mb<=300kB", "size_mb<=0.3"),
        ("size_mb<=1MiB", "size_mb<=1.048576"),
        ("size_mb<=512KiB", "size_mb<=0.524288"),
        ("size_mb<=100b", "size_mb<=0.0001"),
        ("memory_mb<=1GiB", "memory_mb<=1073.741824"),
        ("params_m<=500k", "params_m<=0.5"),
        ("macs_m<=1.5G", "macs_m<=1500"),
        ("macs_m<=1e3", "macs_m<=1000"),
        ("accuracy>=.9", "accuracy>=0.9"),
        ("accuracy>=95%", "accuracy>=0.95"),
        ("accuracy>=100 %", "accuracy>=1"),
        ("recall[defect]>=99.9%", "recall[defect]>=0.999"),
        ("recall [ a class ]>=0.5", "recall[ a class ]>=0.5"),
        ("auroc[a[1]]>=0.5", "auroc[a[1]]>=0.5"),
        ("precision[x>=1]>=0.5", "precision[x>=1]>=0.5"),
    ],
)
def test_numbers_carry_units(text: str, expression: str) -> None:
    assert Constraint.parse(text).expression == expression


@given(st.integers(0, 100_000))
def test_a_percent_sign_is_exact(thousandths: int) -> None:
    text = f"{thousandths // 1000}.{thousandths % 1000:03d}"
    assert Constraint.parse(f"accuracy>={text}%").limit == float(f"{thousandths}e-5")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latency_ms", ["NAME<=NUMBER"]),
        ("", ["NAME<=NUMBER"]),
        ("latency_ms<=", ["NAME<=NUMBER"]),
        ("latency_ms=<5", ["NAME<=NUMBER"]),
        ("recall[]>=0.5", ["NAME<=NUMBER"]),
        ("latency_ms<5", ["'<' is not known", "<="]),
        ("latency_ms==5", ["'==' is not known"]),
        ("latency_ms<=five", ["'five' is not a number"]),
        ("latency_ms<=nan", ["'nan' is not a number"]),
        ("latency_ms<=1e999", ["finite"]),
        ("size_mb<=1e308gb", ["finite"]),
        ("latency_ms>=5", ["is a cost", "latency_ms<=5"]),
        ("accuracy<=0.9", ["is a quality", "accuracy>=0.9"]),
        ("latency_ms<=0", ["above 0"]),
        ("latency_ms<=-1", ["above 0"]),
        ("latency_ms<=5mb", ["unit 'mb' does not fit latency_ms", "ms"]),
        ("latency_ms<=5%", ["unit '%' does not fit latency_ms"]),
        ("size_mb<=5ms", ["unit 'ms' does not fit size_mb"]),
        ("params_m<=5mb", ["unit 'mb' does not fit params_m"]),
        ("accuracy>=5ms", ["unit 'ms' does not fit accuracy", "95%"]),
        ("accuracy>=95", ["between 0 and 1", "95 % is written 0.95"]),
        ("accuracy>=101", ["between 0 and 1"]),
        ("accuracy>=-0.1", ["between 0 and 1"]),
        ("recall>=0.9", ["recall needs a class", "recall[defect]"]),
        ("accuracy[defect]>=0.9", ["takes no class", "write accuracy without [defect]"]),
        ("latency_ms[defect]<=5", ["takes no class"]),
        ("latency<=5", ["did you mean 'latency_ms'?", "known: latency_ms"]),
        ("Accuracy>=0.9", ["did you mean 'accuracy'?"]),
        ("f1_macro>=0.9", ["did you mean 'macro_f1'?"]),
    ],
)
def test_wrong_constraints(text: str, words: list[str]) -> None:
    refused(lambda: Constraint.parse(text), f"'{text}'", *words)


def test_a_percentage_over_100_is_not_taken_for_a_share() -> None:
    with pytest.raises(InputError) as caught:
        Constraint.parse("accuracy>=101%")
    assert "is written" not in str(caught.value)


@st.composite
def misspelt(draw: st.DrawFn) -> tuple[str, str]:
    """A metric's name, and the name with one letter dropped, doubled or changed for another."""
    name = draw(st.sampled_from((*COST_METRICS, *QUALITY_METRICS, *CLASS_METRICS)))
    at = draw(st.integers(1, len(name) - 1))
    wrong = draw(
        st.sampled_from(
            [name[:at] + name[at + 1 :], name[:at] + name[at - 1 :], name[:at] + "q" + name[at + 1 :]]
        )
    )
    return name, wrong


@given(misspelt())
def test_a_misspelt_metric_is_recognised(names: tuple[str, str]) -> None:
    name, wrong = names
    if wrong == name:
        return
    op = "<=" if name in COST_METRICS else ">="
    refused(lambda: Constraint.parse(f"{wrong}{op}1"), f"did you mean '{name}'?", "known:")
    if name not in COST_METRICS:
        refused(lambda: Objective.parse(wrong), f"did you mean '{name}'?", "known:")


@given(constraints, st.floats(allow_nan=False, allow_infinity=False))
def test_violation_and_satisfied_agree(constraint: Constraint, value: float) -> None:
    assert constraint.satisfied(value) == (constraint.violation(value) <= 0)


def test_nothing_measured_satisfies_nothing() -> None:
    for text in ("latency_ms<=5", "accuracy>=0"):
        constraint = Constraint.parse(text)
        assert not constraint.satisfied(math.nan)
        assert constraint.violation(math.nan) == math.inf


def test_repetitions_are_dropped_and_contradictions_refused() -> None:
    same = [Constraint.parse(text) for text in ("latency_ms<=5", "latency_ms<=5ms", "accuracy>=0.9")]
    assert [c.expression for c in check_constraints(same)] == ["latency_ms<=5", "accuracy>=0.9"]
    other = [Constraint.parse(text) for text in ("recall[a]>=0.9", "recall[b]>=0.8")]
    assert len(check_constraints(other)) == 2
    both = [Constraint.parse(text) for text in ("recall[a]>=0.9", "recall[a]>=0.8")]
    refused(
        lambda: check_constraints(both), "contradictory", "'recall[a]>=0.9'", "'recall[a]>=0.8'", "give one"
    )


def test_classes_that_the_data_lacks() -> None:
    wanted = [Constraint.parse("recall[defct]>=0.9"), Objective.parse("precision[ok]")]
    refused(lambda: check_class_names(wanted, ["defect", "ok"]), "no class 'defct'", "did you mean 'defect'?")
    check_class_names(wanted[1:], ["defect", "ok"])


# --- objective, budget, device ----------------------------------------------------------------------


@given(st.one_of(st.builds(Objective, st.sampled_from(QUALITY_METRICS)),
                 st.builds(Objective, st.sampled_from(CLASS_METRICS), class_names)))  # fmt: skip
def test_an_objective_parses_back(objective: Objective) -> None:
    assert Objective.parse(objective.expression) == objective


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latency_ms", ["is a limit, not a goal", "--constraint"]),
        ("recall", ["needs a class"]),
        ("accuracy[x]", ["takes no class"]),
        ("accuracy>=0.9", ["is not a metric", "known:"]),
        ("", ["is not a metric"]),
        ("acuracy", ["did you mean 'accuracy'?"]),
    ],
)
def test_wrong_objectives(text: str, words: list[str]) -> None:
    refused(lambda: Objective.parse(text), *words)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("20m", 1200), ("1h30m", 5400), (" 1H 30 min ", 5400), ("1.5h", 5400), ("1d", 86400),
        ("600", 600), (75, 75), (12.5, 12.5), ("10sec", 10),
    ],
)  # fmt: skip
def test_budgets(text: str | float, seconds: float) -> None:
    assert Budget.parse(text).seconds == seconds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9s", ["9 seconds", "at least 10"]),
        ("0", ["at least 10"]),
        ("20x", ["unit 'x' is not known", "s, m, h or d"]),
        ("5ms", ["unit 'ms' is not known"]),
        ("-5m", ["is not a time", "1h30m"]),
        ("", ["is not a time"]),
        ("soon", ["is not a time"]),
        ("nan", ["is not a time"]),
        ("1h30", ["is not a time"]),
        ("9" * 400, ["longer than a year"]),
        ("400d", ["longer than a year"]),
    ],
)
def test_wrong_budgets(text: str, words: list[str]) -> None:
    refused(lambda: Budget.parse(text), f"'{text}'", *words)


@given(st.text(max_size=12))
def test_any_text_is_a_budget_or_an_error(text: str) -> None:
    try:
        seconds = Budget.parse(text).seconds
    except InputError:
        return
    assert 10 <= seconds <= 366 * 86400


@given(st.one_of(st.builds(Device, st.just("cpu"), st.integers(1, cores())),
                 st.builds(Device, st.just("cuda"), st.integers(0, 99))))  # fmt: skip
def test_a_device_parses_back(device: Device) -> None:
    assert Device.parse(str(device)) == device


def test_a_device_without_its_number() -> None:
    assert (str(Device.parse("cpu")), str(Device.parse("cuda"))) == ("cpu:1", "cuda:0")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("gpu", "cuda:0"), ("gpu:1", "cuda:0"), ("nvidia", "cuda:0"), ("cuad:0", "cuda:0"), ("CUDA:0", "cuda:0"),
        ("cpus", "cpu:1"), ("CPU:2", "cpu:1"), ("cpu2", "cpu:1"), ("cpu:-1", "cpu:1"),
    ],
)  # fmt: skip
def test_wrong_devices(text: str, hint: str) -> None:
    refused(lambda: Device.parse(text), f"'{text}' is not known", f"did you mean '{hint}'?", "cpu:2")


def test_a_device_like_nothing() -> None:
    refused(lambda: Device.parse("tpu-v5"), "is not known", "use cpu:1")
    refused(lambda: Device.parse(""), "is not known", "use cpu:1")


@pytest.mark.parametrize("number", [0, cores() + 1, 10**30])
def test_threads_that_the_machine_has_not(number: int) -> None:
    refused(lambda: Device.parse(f"cpu:{number}"), "this machine has", "cpu:1 to cpu:")


@pytest.mark.skipif(sys.platform != "linux", reason="GPUs are looked for in /dev")
def test_a_gpu_that_the_machine_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda _path: ["null", "nvidiactl", "nvidia-uvm"])
    refused(lambda: Task.make(tmp_path, device="cuda:0"), "'cuda:0'", "no NVIDIA GPU", "use cpu:1")
    monkeypatch.setattr(os, "listdir", lambda _path: ["nvidia0", "nvidia1", "nvidiactl"])
    refused(lambda: Task.make(tmp_path, device="cuda:2"), "has 2 NVIDIA GPUs", "cuda:0 to cuda:1")
    assert Task.make(tmp_path, device="cuda:1").device.index == 1


# --- the task ---------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(constraints, max_size=4, unique_by=lambda c: c.metric), st.integers(0, 2**40), st.floats(10, 1e6)
)
def test_a_task_comes_back_from_json(
    tmp_path: Path, limits: list[Constraint], seed: int, seconds: float
) -> None:
    task = Task.make(tmp_path, constraints=limits, seed=seed, objective="recall[a]", backbones=["x"])
    task = Task(**{**task.__dict__, "budget": Budget(seconds)})
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_what_a_task_refuses(tmp_path: Path) -> None:
    refused(lambda: Task.make(tmp_path / "none"), "does not exist", "folder of images")
    refused(lambda: Task.make("~no-such-user-here/x"), "does not exist")
    refused(lambda: Task.make("x" * 5000), "does not exist")
    refused(lambda: Task.make(tmp_path, seed=-1), "seed is -1", "at least 0")
    refused(lambda: Task.make(tmp_path, max_trials=0), "--max-trials is 0", "at least 1")
    refused(lambda: Task.make(tmp_path, weights_dirs=[tmp_path / "w"]), "weights folder", "does not exist")
    (tmp_path / "file").write_text("")
    refused(lambda: Task.make(tmp_path, weights_dirs=[tmp_path / "file"]), "is not a folder")


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    for given_path in ("data", "~/data", "./data/"):
        task = Task.make(given_path, weights_dirs=[given_path])
        assert task.data == task.weights_dirs[0] == str((tmp_path / "data").resolve())


def test_data_keep_the_name_that_the_user_gave(tmp_path: Path) -> None:
    (tmp_path / "cache" / "ab").mkdir(parents=True)
    (tmp_path / "cache" / "ab" / "c0ffee").write_text("path,label")
    (tmp_path / "labels.csv").symlink_to(tmp_path / "cache" / "ab" / "c0ffee")
    (tmp_path / "link").symlink_to(tmp_path / "cache" / "ab")
    assert Task.make(tmp_path / "labels.csv").data == str(tmp_path / "labels.csv")
    assert Task.make(tmp_path / "link").data == str(tmp_path / "link")
    assert Task.make(tmp_path / "link" / ".." / "ab").data == str(tmp_path.resolve() / "cache" / "ab")


# --- files of limits --------------------------------------------------------------------------------


def limits(tmp_path: Path, content: str | bytes) -> list[list[str]]:
    path = tmp_path / "limits.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [[c.expression for c in one] for one in parse_limits_file(path)]


@pytest.mark.parametrize(
    ("content", "sets"),
    [
        ("latency_ms<=2\nlatency_ms<=5, size_mb<=4\n", [["latency_ms<=2"], ["latency_ms<=5", "size_mb<=4"]]),
        ("latency_ms  <=  2 ; size_mb<=4;\r\n\r\n", [["latency_ms<=2", "size_mb<=4"]]),
        ("# all\nlatency_ms<=2  # fast [really]\n", [["latency_ms<=2"]]),
        ("recall[a, b]>=0.5, recall[C#]>=0.5, recall[no # 1]>=0.5 # x", 
         [["recall[a, b]>=0.5", "recall[C#]>=0.5", "recall[no # 1]>=0.5"]]),
        ("\ufefflatency_ms<=2", [["latency_ms<=2"]]),
        ('[["latency_ms<=2"], ["latency_ms<=5", "size_mb<=4"]]', [["latency_ms<=2"], ["latency_ms<=5", "size_mb<=4"]]),
        ('["latency_ms<=2", "size_mb<=4"]', [["latency_ms<=2"], ["size_mb<=4"]]),
        ("[[]]", [[]]),
    ],
)  # fmt: skip
def test_limits_files(tmp_path: Path, content: str, sets: list[list[str]]) -> None:
    assert limits(tmp_path, content) == sets


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["holds no set of limits", "one per line"]),
        ("\n# nothing\n", ["holds no set of limits"]),
        ("[]", ["holds no set of limits"]),
        ("[[1, 2", ["not a JSON list of lists"]),
        ("[5]", ["not a JSON list of lists"]),
        ("hello world", ["set 1", "has not the form"]),
        ("latency_ms<=2\nsize<=4", ["set 2", "did you mean 'size_mb'?"]),
        ("latency_ms<=2, latency_ms<=3", ["set 1", "contradictory"]),
        (b"\xff\xfe\x00", ["cannot be read", "UTF-8"]),
    ],
)
def test_wrong_limits_files(tmp_path: Path, content: str | bytes, words: list[str]) -> None:
    refused(lambda: limits(tmp_path, content), "limits.txt", *words)


def test_limits_file_that_is_not_there(tmp_path: Path) -> None:
    refused(lambda: parse_limits_file(tmp_path / "none"), "cannot be read", "No such file")
    refused(lambda: parse_limits_file(tmp_path), "cannot be read", "Is a directory")


# --- did you mean -----------------------------------------------------------------------------------


def test_did_you_mean() -> None:
    assert did_you_mean("trian", ["train", "test"]) == "; did you mean 'train'? known: train, test"
    assert did_you_mean("TRAIN", ["train"]) == "; did you mean 'train'? known: train"
    assert did_you_mean("zzz", ["train"]) == "; known: train"
    assert did_you_mean("x", []) == "; none exist"
    assert did_you_mean("zzz", [f"c{i}" for i in range(20)]).endswith("c11, … 8 more")


def test_seeds_that_trials_could_not_have(tmp_path: Path) -> None:
    refused(lambda: Task.make(tmp_path, seed=-1), "at least 0")
    refused(lambda: Task.make(tmp_path, seed=2**53), "at most")
    assert Task.make(tmp_path, seed=MOST_SEED).seed * 1000 + 999 < 2**53


def test_memory_is_limited_on_a_processor_only() -> None:
    limits = [Constraint.parse("memory_mb<=300")]
    refused(lambda: check_measurable(Device("cuda", 0), limits), "measured on a CPU only")
    check_measurable(Device("cpu", 1), limits)
    check_measurable(Device("cuda", 0), [Constraint.parse("size_mb<=3")])
