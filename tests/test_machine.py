"""What trials may use of a machine and of a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.device import Device, cores
from automl.errors import InputError
from automl.machine import fitting, gpus, places, require_runtime, seen, trial_resources
from automl.ticker import Ticker


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 8))
def test_so_many_trials_fit_at_a_time(workers: int, processors: int, found: int) -> None:
    each = trial_resources(workers, processors, found)
    assert each["cpu"] >= 1
    assert each["cpu"] * workers <= max(processors, workers)
    assert ("gpu" in each) == (found > 0)
    if found:
        assert 0 < each["gpu"] <= 1
        assert found * int(1 / each["gpu"]) >= workers  # so many fit on one GPU, and a trial lies on one only


@given(st.integers(1, 32), st.integers(1, 64), st.integers(0, 8), st.integers(1, 64), st.integers(0, 8))
def test_no_trial_asks_for_more_than_a_cluster_has(
    workers: int, processors: int, found: int, there: int, graphics: int
) -> None:
    wanted = trial_resources(workers, processors, found)
    each = fitting(wanted, [{"CPU": float(there), "GPU": float(graphics)}], workers)
    assert 1 <= each["cpu"] <= max(1, there)
    assert each["cpu"] <= wanted["cpu"]
    assert each.get("gpu", 0.0) <= graphics
    assert fitting({"cpu": 1, "special": 2}, [{"CPU": 4.0}], workers)["special"] == 2


@given(st.lists(st.tuples(st.integers(0, 16), st.integers(0, 4)), min_size=1, max_size=5), st.integers(1, 8))
def test_a_trial_fits_on_one_machine(machines: list[tuple[int, int]], workers: int) -> None:
    there = [{"CPU": float(c), "GPU": float(g)} for c, g in machines]
    each = fitting({"cpu": 64, "gpu": 1.0}, there, workers)
    asked = {name.upper(): amount for name, amount in each.items()}
    if any(c > 0 for c, _ in machines) and "gpu" not in each:
        assert places(asked, there) >= 1
    assert places(asked, there) == sum(places(asked, [one]) for one in there)


def test_what_is_left_over_on_each_machine_makes_no_place() -> None:
    assert places({"CPU": 3.0}, [{"CPU": 4.0}, {"CPU": 5.0}, {"memory": 1.0}]) == 2
    assert places({"CPU": 1.0, "GPU": 0.5}, [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}]) == 2
    assert fitting({"cpu": 8}, [{}, *[{"CPU": 4.0}] * 4], 2) == {"cpu": 4}


def test_a_worker_sees_only_the_gpus_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, asked, found in ((1, "cuda:1", "cuda:0"), (2, "cuda:1", "cuda:1"), (1, "cuda:0", "cuda:0"),
                                (0, "cuda:1", "cuda:1"), (1, "cpu:1", "cpu:1")):  # fmt: skip
        monkeypatch.setattr("automl.machine.gpus", lambda there=there: there)
        assert str(seen(Device.parse(asked))) == found


def test_only_cores_that_may_be_used_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {3}, raising=False)
    assert cores() == 1 and trial_resources(4, found=0) == {"cpu": 1}
    with pytest.raises(InputError, match="this machine has 1 cores for this process"):
        Device.parse("cpu:2")


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 3),
        ("", 0),
        ("-1", 0),
        ("1", 1),
        ("0,2", 2),
        ("0,1,2,3,4", 3),
        ("0,-1,2", 1),
        ("GPU-8f2a, GPU-11", 2),
    ],
)
def test_hidden_gpus_are_not_used(visible: str | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("automl.machine.sys.platform", "linux")
    monkeypatch.setattr(Path, "glob", lambda self, _pattern: iter([self / f"nvidia{i}" for i in range(3)]))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == count


def test_a_long_step_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("automl.ticker.time.monotonic", lambda: now)
    lines: list[str] = []
    tick = Ticker(lines.append, "decoding", every=10.0)
    for step in range(25):
        now = 100.0 + step
        tick(step * 1000, 40_000)
    assert lines == ["  decoding 10,000 of 40,000 images", "  decoding 20,000 of 40,000 images"]


def test_a_gpu_without_a_runtime_is_refused_before_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    require_runtime(Device("cpu", 1))
    with pytest.raises(InputError, match=r"'cuda:0'.*no CUDA.*onnxruntime-gpu.*--device cpu:1"):
        require_runtime(Device("cuda", 0))
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    require_runtime(Device("cuda", 0))
