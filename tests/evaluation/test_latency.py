"""The timer: what it makes of blocks, what it remembers of a device, and files that cannot run. No timing is judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.device import Device
from automl.errors import AutomlError
from automl.evaluation import _timer
from automl.evaluation.latency import Latency, Steadiness, Timer, device_name, measure_latency
from automl.export import export_onnx
from tests._models import network, small_cnn

CPU = Device.parse("cpu:1")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latency") / "small.onnx"
    export_onnx(network(small_cnn()), 32, path)
    return path


def test_nothing_is_known_of_a_new_device() -> None:
    steadiness = Steadiness()
    assert not steadiness.known and steadiness.factor == 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(0.1, 50), min_size=1, max_size=10), min_size=1, max_size=80))
def test_the_factor_is_a_high_quantile_of_what_was_seen(noted: list[list[float]]) -> None:
    steadiness = Steadiness()
    for blocks in noted:
        steadiness.note(blocks)
    ratios = sorted(max(b) / min(b) for b in noted[-60:])
    assert steadiness.known
    assert 1.0 <= steadiness.factor <= 1.6
    assert min(1.6, ratios[0]) - 1e-9 <= steadiness.factor <= min(1.6, ratios[-1]) + 1e-9
    above = sum(min(1.6, r) > steadiness.factor + 1e-9 for r in ratios)
    assert above <= 0.1 * len(ratios) + 1


def test_a_steady_device_has_no_allowance() -> None:
    steadiness = Steadiness()
    for _ in range(5):
        steadiness.note([2.0, 2.0, 2.0])
    assert steadiness.factor == 1.0


def test_what_was_learned_is_remembered(tmp_path: Path) -> None:
    first = Steadiness(tmp_path / "steadiness.json")
    first.note([1.0, 1.3])
    assert Steadiness(tmp_path / "steadiness.json").factor == pytest.approx(first.factor)
    assert [p.name for p in tmp_path.iterdir()] == ["steadiness.json"]


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', '["x"]', "[null]", "[-1, 0.2, 1000, NaN]", "3"])
def test_a_damaged_note_is_learned_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "steadiness.json").write_text(content)
    steadiness = Steadiness(tmp_path / "steadiness.json")
    assert not steadiness.known and steadiness.factor == 1.0
    steadiness.note([1.0, 1.2])
    assert json.loads((tmp_path / "steadiness.json").read_text()) == [1.2]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    steadiness = Steadiness(tmp_path / "gone" / "steadiness.json")
    steadiness.note([1.0, 1.2])
    assert steadiness.factor == pytest.approx(1.2)


class Scripted(Timer):
    """Answers as a measuring process would."""

    def __init__(self, answer: dict[str, Any], steadiness: Steadiness | None = None) -> None:
        super().__init__(CPU, steadiness)
        self.answer = answer

    def _ask(
        self, path: Path, blocks: int, most: int, seconds: float, pause: float, above: float | None
    ) -> dict[str, Any]:
        return self.answer


def answer(blocks: list[list[float]], load: float = 0.0, complete: bool = True) -> dict[str, Any]:
    return {"blocks": blocks, "memory_mb": 12.0, "other_load": load, "complete": complete}


def test_the_numbers_of_a_measurement() -> None:
    timer = Scripted(answer([[1.0, 1.0, 4.0], [2.0, 2.0, 2.0]]))
    found = timer.measure("unused.onnx")
    assert isinstance(found, Latency)
    assert found.blocks_ms == (1.0, 2.0)
    assert (found.median_ms, found.low_ms, found.high_ms, found.memory_mb) == (2.0, 1.0, 2.0, 12.0)
    assert found.p95_ms == pytest.approx(3.5)
    assert found.calm and found.device == "cpu:1"
    assert found.upper_ms == 2.0  # the slowest block; the device's factor is capped below it
    assert timer.steadiness.factor == 1.6


def test_a_quick_look_teaches_nothing_but_uses_what_is_known() -> None:
    steadiness = Steadiness()
    steadiness.note([1.0, 1.5])
    found = Scripted(answer([[2.0], [2.1]]), steadiness).measure("unused.onnx", thorough=False)
    assert found.upper_ms == pytest.approx(3.0)
    assert steadiness.factor == pytest.approx(1.5)


def test_a_machine_that_stays_busy_is_reported_and_not_learned_from() -> None:
    timer = Scripted(answer([[9.0], [18.0]], 2.0))
    found = timer.measure("unused.onnx")
    assert not found.calm and found.low_ms == 9.0
    assert not timer.steadiness.known


def test_what_was_broken_off_is_not_learned_from() -> None:
    timer = Scripted(answer([[9.0], [18.0]], complete=False))
    found = timer.measure("unused.onnx", limit_ms=10.0)
    assert not found.complete and found.upper_ms == 18.0
    assert not timer.steadiness.known


def blocks_beside(
    loads: list[float], monkeypatch: pytest.MonkeyPatch, *, count: int, most: int, above: float | None = None
) -> Any:
    """What is kept of blocks, each of a second and numbered, during which others use so many processors."""
    clock, busy, measured = [0.0], [0.0], []
    monkeypatch.setattr(_timer.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(_timer, "_other_load", lambda: busy[0])

    def block() -> list[float]:
        clock[0] += 1.0
        busy[0] += loads[len(measured)]
        measured.append(len(measured))
        return [float(measured[-1])]

    kept, load = _timer.calmest(block, lambda: None, count, most, 0.5, above)
    return [int(one[0]) for one in kept], load, len(measured)


@pytest.mark.parametrize(
    ("loads", "kept", "load", "measured"),
    [
        ([0.1, 0.2, 0.3, 0.0], [0, 1, 2], 0.3, 3),  # no more than are wanted
        ([0.1, 2.0, 0.2, 0.6, 0.0], [0, 2, 4], 0.2, 5),  # only what was disturbed is measured again
        ([0.9, 0.8, 0.1, 0.7, 0.6, 2.0], [2, 3, 4], 0.7, 6),  # until it takes too long
    ],
)
def test_disturbed_blocks_are_measured_again(
    loads: list[float], kept: list[int], load: float, measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert blocks_beside(loads, monkeypatch, count=3, most=6) == (kept, pytest.approx(load), measured)


@pytest.mark.parametrize(
    ("loads", "measured"),
    [
        ([0.1, 0.2, 0.3, 0.0], 3),  # the third one is above the limit
        ([0.1, 0.2, 0.9, 0.8, 0.0, 0.0], 5),  # one that others disturbed says nothing
    ],
)
def test_a_limit_that_is_broken_ends_the_measurement(
    loads: list[float], measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block's number is what it takes."""
    kept, _load, count = blocks_beside(loads, monkeypatch, count=8, most=20, above=1.5)
    assert count == measured
    assert kept == list(range(measured))


def test_a_file_that_certainly_breaks_its_limit_is_left(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("automl.evaluation.latency._OTHER_LOAD", float("inf"))
    with Timer(CPU) as timer:
        found = timer.measure(file, thorough=False, limit_ms=1e-6)
        assert len(found.blocks_ms) < 5 and not found.complete and found.upper_ms > 1e-6
        assert timer.measure(file, thorough=False, limit_ms=1e6).complete


def test_a_small_file_is_measured(file: Path) -> None:
    with Timer(CPU) as timer:
        first, second = timer.measure(file, thorough=False), timer.measure(file, thorough=False)
    for found in (first, second):
        assert 0 < found.low_ms <= found.median_ms <= found.high_ms <= found.upper_ms
        assert found.median_ms <= found.p95_ms
        assert len(found.blocks_ms) == 5 and found.memory_mb >= 0


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_cannot_run_is_one_line_and_the_next_one_is_measured(
    file: Path, tmp_path: Path, content: bytes
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(content)
    with Timer(CPU) as timer:
        with pytest.raises(AutomlError, match=r"broken.onnx cannot be run on cpu:1: .+") as error:
            timer.measure(broken, thorough=False)
        assert "\n" not in str(error.value)
        assert timer.measure(file, thorough=False).median_ms > 0


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AutomlError, match=r"none.onnx cannot be run"):
        measure_latency(tmp_path / "none.onnx", CPU, thorough=False)


def test_a_measuring_process_that_dies_is_replaced(file: Path) -> None:
    with Timer(CPU) as timer:
        assert timer._child is not None
        timer._child.kill()
        timer._child.wait()
        with pytest.raises(AutomlError, match=r"the measuring process died while it ran small.onnx"):
            timer.measure(file, thorough=False)
        assert timer.measure(file, thorough=False).median_ms > 0
    assert timer._child is None


def test_no_process_is_left_behind(file: Path) -> None:
    with Timer(CPU) as timer:
        timer.measure(file, thorough=False)
        child = timer._child
    assert child is not None and child.returncode is not None


def test_a_device_is_named_by_what_a_timing_depends_on() -> None:
    one, two = device_name(CPU), device_name(Device.parse("cpu:2"))
    assert one.startswith("cpu-1-") and two.startswith("cpu-2-") and one == device_name(CPU)
    assert one.replace("-", "").isalnum()
