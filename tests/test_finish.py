"""Which of several choices is exported: the first that keeps its limits when the file itself is measured."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from automl.errors import AutomlError
from automl.finish import Finisher
from automl.predict import read_labels
from automl.task import Constraint, Task

LIMIT = Constraint.parse("latency_ms<=2")


class Tried:
    """A finisher whose exports take as long as they are told to, and what it measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, *, used: float = 0.0) -> None:
        self.measured: list[tuple[str, bool]] = []
        self.fails: dict[str, BaseException] = {}
        self.folder, self.used = folder, used
        (folder / "search").mkdir()
        monkeypatch.setattr("automl.evaluation.latency.measure_latency", self.measure)
        monkeypatch.setattr("automl._bench.steadiness", lambda *_: None)
        clock = SimpleNamespace(late=lambda: self.used > 60, overdue=lambda: self.used > 63)
        finisher: Any = object.__new__(Finisher)
        finisher.submit = SimpleNamespace(clock=clock, say=lambda _text: None, notes=[])
        finisher.chooser = SimpleNamespace(point=lambda *_: SimpleNamespace(bias=np.zeros(2)))
        finisher._named = lambda selection: selection.name
        finisher.refits = {}
        finisher._write = self.write
        self.finisher = finisher

    def write(self, selection: Any, _bias: Any, path: Path) -> Any:
        if selection.name in self.fails:
            raise self.fails[selection.name]
        path.write_text(selection.name)
        return SimpleNamespace(size_bytes=1e6, params=1e6, macs=1e6)

    def measure(self, path: Path, *_: Any, thorough: bool = True) -> Any:
        name = path.read_text()
        self.measured.append((name, thorough))
        self.used += 6.0 if thorough else 1.5
        value = float(name.split("=")[1])
        return SimpleNamespace(upper_ms=value, median_ms=value, p95_ms=value, memory_mb=1.0)

    def export(self, tmp_path: Path, expected: dict[str, float]) -> str:
        """The name of what became the model; choices by name, with the latency that was expected of them."""
        choices = [
            SimpleNamespace(name=name, costs={"latency_ms": ms}, weights={name: 1.0})
            for name, ms in expected.items()
        ]
        task = Task.make(str(tmp_path))
        exported, chosen, *_ = self.finisher._export(choices, [LIMIT], self.folder, task)
        assert exported.read_text() == chosen.name
        assert list((self.folder / "search").iterdir()) == [exported]
        return str(chosen.name)


def test_a_model_knows_how_deep_greys_became_bytes(tmp_path: Path) -> None:
    spec = SimpleNamespace(candidate=SimpleNamespace(resolution=32), folder=str(tmp_path / "trial"))
    (tmp_path / "trial").mkdir()
    for name in ("model.safetensors", "model.json", "new.onnx"):
        (tmp_path / "trial" / name).touch()
    finisher: Any = object.__new__(Finisher)
    finisher.submit = SimpleNamespace(folder=tmp_path, limits=())
    finisher.dataset = SimpleNamespace(
        class_names=["a", "b"], resize_chain=lambda side: [48, side], ranges={"uint16": [0.0, 4095.0]}
    )
    finisher.by_id, finisher.refits = {"t": (spec, None)}, {}
    point, selection = SimpleNamespace(bias=np.zeros(2)), SimpleNamespace(weights={"t": 1.0})
    finisher._replace(tmp_path, tmp_path / "trial" / "new.onnx", selection, point)
    assert read_labels(tmp_path) == (["a", "b"], [48, 32], {"uint16": [0.0, 4095.0]})


CHOICES = {"a=3": 1.9, "b=3": 1.8, "c=3": 1.7, "safe=1": 0.5}


def test_the_first_that_keeps_the_limits_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = Tried(monkeypatch, tmp_path)
    assert tried.export(tmp_path, {"a=3": 1.9, "b=1.5": 1.8, "safe=1": 0.5}) == "b=1.5"
    assert tried.measured == [("a=3", False), ("b=1.5", False), ("b=1.5", True)]


def test_after_two_the_safest_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = Tried(monkeypatch, tmp_path)
    assert tried.export(tmp_path, CHOICES) == "safe=1"
    assert [name for name, _ in tried.measured] == ["a=3", "b=3", "safe=1", "safe=1"]


def test_the_safest_is_tried_even_a_little_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = Tried(monkeypatch, tmp_path, used=59.0)
    assert tried.export(tmp_path, CHOICES) == "safe=1"
    assert tried.measured == [("a=3", False), ("safe=1", False)]


def test_much_too_late_there_is_one_try(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = Tried(monkeypatch, tmp_path, used=64.0)
    assert tried.export(tmp_path, CHOICES) == "a=3"
    assert tried.measured == [("a=3", False)]


def test_without_one_that_keeps_them_the_closest_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = Tried(monkeypatch, tmp_path)
    assert tried.export(tmp_path, {"a=3": 1.9, "b=2.5": 1.8, "c=4": 1.0}) == "b=2.5"


@pytest.mark.parametrize(
    "error", [RuntimeError("no kernel\nfor Conv"), MemoryError("bad allocation"), OSError("gone")]
)
def test_whatever_fails_with_one_choice_the_next_is_tried(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = Tried(monkeypatch, tmp_path)
    said: list[str] = []
    tried.finisher.submit.say = said.append
    tried.fails = {"a=1": error}
    assert tried.export(tmp_path, {"a=1": 1.9, "b=1": 1.8}) == "b=1"
    [note] = tried.finisher.submit.notes
    assert note.startswith(f"a=1 is not the model: {type(error).__name__}: ") and "\n" not in note
    assert "Traceback" in said[0]  # nobody foresaw it


def test_an_error_that_is_foreseen_needs_no_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = Tried(monkeypatch, tmp_path)
    said: list[str] = []
    tried.finisher.submit.say = said.append
    tried.fails = {"a=1": AutomlError("it cannot be exported")}
    assert tried.export(tmp_path, {"a=1": 1.9, "b=1": 1.8}) == "b=1"
    assert said == ["  a=1 is not the model: it cannot be exported; trying the next"]


def test_what_no_choice_survives_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = Tried(monkeypatch, tmp_path)
    tried.fails = {"a=1": RuntimeError("first"), "b=1": RuntimeError("second")}
    with pytest.raises(AutomlError, match="nothing could be exported: RuntimeError: second") as raised:
        tried.export(tmp_path, {"a=1": 1.9, "b=1": 1.8})
    assert raised.value.__cause__ is tried.fails["b=1"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "full"), KeyboardInterrupt()]
)
def test_a_full_disk_and_ctrl_c_end_it(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = Tried(monkeypatch, tmp_path)
    tried.fails = {"a=1": error}
    with pytest.raises(type(error)):
        tried.export(tmp_path, {"a=1": 1.9, "b=1": 1.8})


def test_the_refits_are_those_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = Tried(monkeypatch, tmp_path)
    tried.finisher.refits = {"shared": "refit"}

    def leave_out(finisher: Any, choice: Any, *_: Any) -> bool:
        return choice.name == "b=4" and bool(finisher.refits.pop("shared", None))

    monkeypatch.setattr("automl.refit_check.leave_out_worse", leave_out)
    assert tried.export(tmp_path, {"a=3": 1.9, "b=4": 1.8}) == "a=3"
    assert tried.finisher.refits == {"shared": "refit"}


def test_a_refit_that_is_left_out_is_not_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = Tried(monkeypatch, tmp_path)
    tried.finisher.refits = {"a=1": "refit"}
    monkeypatch.setattr("automl.refit_check.leave_out_worse", lambda one, *_: bool(one.refits.pop("a=1")))
    assert tried.export(tmp_path, {"a=1": 1.0}) == "a=1"
    assert tried.finisher.refits == {}
