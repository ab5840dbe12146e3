"""What is known of the networks of a task."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from automl import networks
from automl.candidate import Candidate
from automl.networks import largest_macs, macs
from automl.task import Task
from search_spaces import carried
from search_spaces.backbones import Backbone, scratch

ROWS = pd.DataFrame(
    [
        ("a", 64, "fp32", 30.0, True),
        ("a", 224, "fp32", 400.0, False),
        ("b", 64, "fp32", 70.0, True),
        ("b", 96, "fp32", math.nan, True),
    ],
    columns=["architecture", "resolution", "precision", "macs_m", "feasible"],
)


def backbone(name: str, *, pretrained: bool) -> Backbone:
    return replace(scratch("small_cnn_xs"), name=name, pretrained=pretrained)


def test_networks_without_known_costs_count_as_small_ones() -> None:
    known = macs(ROWS)
    assert known["a", 224, "fp32"] == 400.0
    assert known["b", 96, "fp32"] == known["c", 32, "int8"] == 100.0


@pytest.mark.parametrize(("pretrained", "largest"), [(("a", "b"), 100.0), (("a",), 30.0), ((), 100.0)])
def test_the_largest_is_feasible_and_where_there_are_any_pretrained(
    pretrained: tuple[str, ...], largest: float
) -> None:
    found = [backbone(name, pretrained=name in pretrained) for name in ("a", "b")]
    assert largest_macs(found, ROWS) == largest


@pytest.mark.parametrize(
    ("budget", "interrupted", "seconds"),
    [(100.0, False, 2.0), (86400.0, False, 60.0), (86400.0, True, 5.0), (100.0, True, 2.0), (None, False, 60.0), (None, True, 5.0)],
)  # fmt: skip
def test_what_was_tried_is_measured_for_a_minute_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float | None, interrupted: bool, seconds: float
) -> None:
    """An hour of networks with 4 seconds each, on a clock that they move on."""
    now, said, measured = 1000.0, [], []

    class Bench:
        factor = 1.0

        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Bench:
            return self

        def __exit__(self, *_: object) -> None: ...

        def costs(self, backbone: Backbone, *_: object) -> dict[str, float]:
            nonlocal now
            now += 4.0
            measured.append(backbone.name)
            return dict.fromkeys(("size_mb", "latency_ms", "latency_p95_ms", "memory_mb", "low"), 1.0)

    monkeypatch.setattr("automl.feasibility.Bench", Bench)
    for module in ("automl.networks", "automl.feasibility", "automl.ticker"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: now))
    names = [f"n{number}" for number in range(900)]
    frame = pd.DataFrame({"architecture": names, "resolution": 64, "precision": "fp32", "basis": ""})
    trials = [
        (SimpleNamespace(candidate=Candidate(name, 64, "fp32", "plain")), SimpleNamespace(usable_score=0.5))
        for name in names
    ]
    (tmp_path / "search").mkdir()
    run = SimpleNamespace(
        limits=(), task=Task(str(tmp_path)), finished=trials, clock=SimpleNamespace(budget=budget), table=frame,
        interrupted=interrupted, backbones=[backbone(name, pretrained=True) for name in names], say=said.append,
        dataset=SimpleNamespace(class_names=["a", "b"]), folder=tmp_path,
    )  # fmt: skip
    networks.measure_tried(run)
    assert seconds <= now - 1000.0 <= seconds + 4.0
    assert int(run.table["basis"].eq("measured").sum()) == len(measured) == (now - 1000.0) / 4.0
    assert said[:1] == (["  measuring 3 of 900 networks"] if seconds > 10 else [])


def test_without_a_supernet_the_carried_one_is_left_out_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    task, told = Task.make(tmp_path, budget=60), []
    both = [networks.find(task, [], told.append, None, use_carried=use) for use in (True, False)]
    assert {b.source == carried.SOURCE for b in both[0]} == {True, False}
    assert [b.name for b in both[1]] == [b.name for b in both[0] if b.source != carried.SOURCE]
    assert not any(b.pretrained for b in both[1])
    assert "come with this package" in told[0] and "from scratch" in told[1]
    # Who asks for one by its name gets it.
    name = next(b.name for b in both[0] if b.source == carried.SOURCE)
    asked = Task.make(tmp_path, budget=60, backbones=[name])
    assert [b.name for b in networks.find(asked, [], told.append, None, use_carried=False)] == [name]
