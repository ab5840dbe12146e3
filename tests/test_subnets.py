"""Subnets of a supernet that are searched for limits, on a device that is made up: nothing is exported or timed here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from automl import _subnets, machine, supernet_trial
from automl._subnets import FIRST, Subnets, missed
from automl.data import Dataset
from automl.device import Device
from automl.errors import AutomlError
from automl.evaluation.latency import Latency, Steadiness
from automl.export import ExportInfo
from automl.records import TrialSpec
from automl.task import Constraint
from search_spaces.counts import count_macs
from search_spaces.forecast import Forecast
from search_spaces.stored import Stored
from tests import _models
from tests._models import recipe, shapes, trial


class FakeTimer:
    """A device on which a file takes a millisecond per million multiply-accumulates."""

    calm: Callable[[int], bool] = staticmethod(lambda _number: True)
    asked = 0

    devices: ClassVar[list[str]] = []

    def __init__(self, device: Device, steadiness: Steadiness | None = None) -> None:
        FakeTimer.devices.append(str(device))
        self.device, self.steadiness = device, steadiness or Steadiness()

    def __enter__(self) -> FakeTimer:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def measure(self, path: Path, *, thorough: bool = True, limit_ms: float | None = None) -> Latency:
        del thorough, limit_ms
        took = 0.01 + int(path.read_text()) / 1e6
        FakeTimer.asked += 1
        calm = FakeTimer.calm(FakeTimer.asked)
        return Latency(took, took, took, took, took, (took,), 5.0, calm, "cpu:1")


@pytest.fixture
def exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What is exported; ``fails`` says of which multiply-accumulates it cannot be."""
    made = SimpleNamespace(macs=[], fails=lambda _macs: False)

    def export(model: Any, resolution: int, path: Path) -> ExportInfo:
        macs = count_macs(model, resolution)
        made.macs.append(macs)
        if made.fails(macs):
            raise AutomlError("the model cannot be\nexported")
        path.write_text(str(macs))
        params = sum(p.numel() for p in model.parameters())
        return ExportInfo(path, 4 * params, params, macs, 0.0, "fp32", "none")

    monkeypatch.setenv("AUTOML_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_subnets, "export_onnx", export)
    monkeypatch.setattr(_subnets, "Timer", FakeTimer)
    monkeypatch.setattr(FakeTimer, "asked", 0)
    monkeypatch.setattr(FakeTimer, "devices", [])
    monkeypatch.setattr(FakeTimer, "calm", lambda _number: True)
    return made


@pytest.fixture(scope="module")
def supernet() -> Stored:
    return _models.supernet()


def searched(stored: Stored, *limits: str, top: int = 2) -> tuple[Subnets, list[str]]:
    lines: list[str] = []
    with Subnets(stored, Device()) as subnets:
        subnets.search([Constraint.parse(text) for text in limits], top, lines.append)
    return subnets, lines


def test_a_subnet_that_cannot_be_exported_is_left_out(supernet: Stored, exports: SimpleNamespace) -> None:
    exports.fails = odd = lambda macs: macs // 16 % 2
    subnets, lines = searched(supernet, "macs_m<=5")
    costs = [cost for _, cost in subnets.measured()]
    assert len(costs) == subnets.count > FIRST
    assert not any(odd(round(1e6 * cost["macs_m"])) for cost in costs)
    left_out = sum(odd(macs) for macs in exports.macs)
    assert lines.count("  a subnet is left out: the model cannot be exported") == left_out > 0
    assert len(exports.macs) == subnets.count + left_out  # each is tried once
    kept = [cost["macs_m"] for cost in costs if cost["macs_m"] <= 5]
    assert max(kept) > 4  # which was proposed


def test_another_process_tries_again_what_one_could_not_do(
    supernet: Stored, exports: SimpleNamespace
) -> None:
    def between(subnets: Subnets) -> list[float]:
        return [cost["macs_m"] for _, cost in subnets.measured() if 4 < cost["macs_m"] <= 5]

    exports.fails = lambda macs: 4e6 < macs <= 5e6
    subnets, lines = searched(supernet, "macs_m<=5")
    assert not between(subnets) and any("left out" in line for line in lines)
    exports.fails = lambda _macs: False
    subnets, lines = searched(supernet, "macs_m<=5")
    assert between(subnets) and not any("left out" in line for line in lines)


def test_limits_that_none_can_keep_end_the_search(supernet: Stored, exports: SimpleNamespace) -> None:
    subnets, lines = searched(supernet, "macs_m<=.5")
    assert all(cost["macs_m"] > 0.5 for _, cost in subnets.measured())
    assert (
        subnets.count <= FIRST + 2
        and lines[-1] == "  0 of 2 proposed subnets keep the limits when they are measured"
    )


def test_what_no_limit_is_on_is_not_learned(
    supernet: Stored, exports: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[set[str]] = []
    learn = Forecast.learn

    def noted(self: Forecast, subnets: Any, costs: Any) -> None:
        learned.append(set(costs))
        learn(self, subnets, costs)

    monkeypatch.setattr(Forecast, "learn", noted)
    searched(supernet, "macs_m<=5")
    searched(supernet)
    assert learned and not any(learned)
    learned.clear()
    subnets, _ = searched(supernet, "latency_ms<=4", "size_mb<=3")
    assert {frozenset(costs) for costs in learned} == {frozenset({"latency_ms", "size_mb"})}
    assert any(cost["latency_ms"] <= 4 and cost["size_mb"] <= 3 for _, cost in subnets.measured())


def test_where_no_subnet_can_be_exported_it_says_why(supernet: Stored, exports: SimpleNamespace) -> None:
    exports.fails = lambda _macs: True
    with pytest.raises(
        AutomlError, match=r"^no subnet can be exported and run: the model cannot be exported$"
    ):
        searched(supernet, "macs_m<=5")
    assert len(exports.macs) == 2 * FIRST


def test_what_was_measured_while_others_worked_is_not_kept(
    supernet: Stored, exports: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTimer, "calm", lambda number: number % 2 == 0)
    subnets, _ = searched(supernet, "macs_m<=5")
    assert len(subnets.measured()) == subnets.count >= FIRST
    assert len(Subnets(supernet, Device()).measured()) == subnets.count // 2 == FakeTimer.asked // 2


@pytest.fixture
def spec(exports: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialSpec:
    """The trial of a supernet that is trained already."""
    dataset = shapes(tmp_path)
    stored = _models.supernet(dataset.class_names)

    def trained(*_args: Any, **_more: Any) -> Any:
        yield 0.5
        return stored

    monkeypatch.setattr("automl.training.supernet_of", trained)
    spec = trial(tmp_path, dataset, _models.small_cnn(), recipe("scratch"), seconds=60.0, purpose="supernet")
    Path(spec.folder).mkdir(parents=True)
    return spec


def test_what_was_found_for_the_first_limits_is_left_whatever_comes_later(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, folder = Dataset.open(spec.dataset_folder), Path(spec.folder)
    search = Subnets.search

    def fails_later(self: Subnets, limits: list[Constraint], *more: Any) -> None:
        if limits[0].name == "size_mb":
            raise AutomlError("the device is gone")
        search(self, limits, *more)

    monkeypatch.setattr(Subnets, "search", fails_later)
    spec = replace(spec, limits=[["macs_m<=3"], ["macs_m<=6"], ["size_mb<=1"]])
    steps = supernet_trial.fit_supernet(spec, folder, dataset, None)
    with pytest.raises(AutomlError, match="the device is gone"):
        list(steps)
    assert (folder / supernet_trial.SUPERNET_FILE).exists()
    found = supernet_trial.read_subnets(spec)
    assert [path.name for path, _ in found] == ["1", "2", "3", "4"]
    kept = [[about["costs"]["macs_m"] <= limit for _, about in found] for limit in (3, 6)]
    assert sum(kept[0]) >= 2 and all(kept[1])
    assert not missed([Constraint.parse("macs_m<=6")], found[0][1]["costs"])
    with np.load(found[0][0] / "scores.npz") as scores:
        assert scores["probabilities"].shape == (len(dataset.folds[0][1]), 3)
    assert json.loads((found[0][0] / "model.json").read_text())["resolution"] in (32, 48)


def test_a_worker_measures_on_the_gpu_that_it_was_given_with_what_the_driver_knows(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: 1)
    spec = replace(spec, device="cuda:1", slow_moment=1.5, limits=[["macs_m<=5"]])
    dataset = Dataset.open(spec.dataset_folder)
    list(supernet_trial.fit_supernet(spec, Path(spec.folder), dataset, None))
    assert FakeTimer.devices == ["cuda:0"]
    costs = [about["costs"] for _, about in supernet_trial.read_subnets(spec)]
    assert costs and all(cost["latency_ms"] == 1.5 * cost["latency_median_ms"] for cost in costs)
