"""Narrowing down on a bench that is made up: nothing is timed here."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl import _bench as bench_module
from automl import feasibility as module
from automl._bench import counts, is_counted, untrained
from automl.device import Device
from automl.errors import AutomlError
from automl.evaluation.latency import Latency, Steadiness, device_name
from automl.feasibility import COLUMNS, closest, is_quick, measure
from automl.task import Constraint
from search_spaces.backbones import Backbone, BackboneError, create_backbone, scratch
from search_spaces.counts import count_macs

SIDES = [32, 48, 64, 96, 128, 160, 192, 224]
DEVICE = Device.parse("cpu:1")
#: Multiply-accumulates of a fake network at 32 pixels, by name.
WORK = {"small": 2_000_000, "large": 20_000_000, "scratch": 1_000_000}
PARAMS = {"small": 1_000_000, "large": 5_000_000, "scratch": 200_000}

Cost = Callable[[str, str, int], float]


def backbones(*names: str) -> list[Backbone]:
    return [Backbone(n, "none", n, n != "scratch") for n in names]


def limits(*expressions: str) -> list[Constraint]:
    return [Constraint.parse(e) for e in expressions]


def macs(name: str, side: int) -> int:
    return WORK[name] * side * side // 1024


class FakeBench:
    """Answers from a formula and remembers what was asked."""

    latency: Cost
    factor = 1.0
    waited: float | None = None
    fails: Exception | None = None
    asked: list[tuple[str, str, int]]

    def __init__(self, device: Device, classes: int, cache: Path) -> None:
        del device, classes, cache
        type(self).opened += 1

    opened = 0

    def __enter__(self) -> FakeBench:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def costs(self, backbone: Backbone, precision: str, side: int) -> dict[str, float]:
        self.asked.append((backbone.name, precision, side))
        if self.fails is not None:
            raise self.fails
        latency = type(self).latency(backbone.name, precision, side)
        size = PARAMS[backbone.name] * (4 if precision == "fp32" else 1.1) / 1e6
        return {
            "size_mb": size,
            "latency_ms": latency,
            "latency_p95_ms": latency * 1.1,
            "memory_mb": latency * 2,
            "low": latency,
        }


def run(
    cost: Cost,
    sets: list[list[Constraint]],
    *names: str,
    precisions: tuple[str, ...] = ("fp32",),
    factor: float = 1.0,
    fails: Exception | None = None,
    deadline: float | None = None,
    sides: list[int] = SIDES,
    unbuildable: str | None = None,
) -> tuple[pd.DataFrame, list[tuple[str, str, int]]]:
    """The table, and what was measured in this order."""
    asked: list[tuple[str, str, int]] = []
    bench = type(
        "Bench",
        (FakeBench,),
        {"latency": staticmethod(cost), "factor": factor, "fails": fails, "asked": asked, "opened": 0},
    )

    def fake_counts(backbone: Backbone, sides: Sequence[int], *_: object) -> tuple[dict[int, int], int]:
        if backbone.name == unbuildable:
            raise RuntimeError("no such\nlayer")
        return {side: macs(backbone.name, side) for side in sides}, PARAMS[backbone.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Bench", bench)
        patch.setattr(module, "counts", fake_counts)
        table = measure(
            backbones(*names or ("small",)),
            sides,
            precisions,
            3,
            sets,
            DEVICE,
            Path("unused"),
            deadline=deadline,
        )
    assert tuple(table.frame.columns) == COLUMNS
    assert bench.opened == int(any(c.is_cost for s in sets for c in s))  # type: ignore[attr-defined]
    return table.frame, asked


def per_mac(rate: float, fixed: float = 0.0) -> Cost:
    """Milliseconds: a share that is always there, and a rate per million multiply-accumulates."""

    def cost(name: str, precision: str, side: int) -> float:
        return (fixed + rate * macs(name, side) / 1e6) * (1.0 if precision == "fp32" else 0.5)

    return cost


def feasible(frame: pd.DataFrame, name: str = "small", precision: str = "fp32") -> list[int]:
    mine = frame[frame["feasible"] & (frame["architecture"] == name) & (frame["precision"] == precision)]
    return sorted(mine["resolution"].tolist())


def usual(rate: float, top: int = SIDES[-1]) -> Cost:
    """The shape that is assumed of a network that was measured once: a tenth of the largest side's time is fixed."""
    return per_mac(rate, fixed=rate * macs("small", top) / 9e6)


@settings(max_examples=150, deadline=None)
@given(st.floats(0.01, 0.5), st.sampled_from(SIDES), st.floats(0.7, 1.4))
def test_the_sides_that_keep_a_limit_are_found_exactly(rate: float, side: int, margin: float) -> None:
    cost = usual(rate)
    limit = cost("small", "fp32", side) * margin
    frame, asked = run(cost, [limits(f"latency_ms<={limit:.9f}")])
    assert feasible(frame) == [s for s in SIDES if cost("small", "fp32", s) <= float(f"{limit:.9f}")]
    assert len(asked) <= 4


@pytest.mark.parametrize("fixed", [0.0, 0.02, 0.3])
def test_a_tight_limit_is_not_decided_by_one_far_measurement(fixed: float) -> None:
    cost = per_mac(0.01, fixed=fixed * 0.01 * macs("small", 224) / 1e6)
    for side in SIDES:
        for margin in (0.95, 1.05):
            limit = cost("small", "fp32", side) * margin
            frame, _ = run(cost, [limits(f"latency_ms<={limit}")])
            assert feasible(frame) == [s for s in SIDES if cost("small", "fp32", s) <= limit]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(0.01, 5.0), min_size=len(SIDES), max_size=len(SIDES)),
    st.floats(0.05, 30.0),
    st.floats(1.0, 1.6),
)
def test_whatever_the_costs_a_measured_side_is_judged_by_its_measurement(
    steps: list[float], limit: float, factor: float
) -> None:
    total, costs = 0.0, {}
    for side, step in zip(SIDES, steps, strict=True):
        total += step
        costs[side] = total
    constraint = limits(f"latency_ms<={limit:.6f}")
    frame, asked = run(lambda _n, _p, s: costs[s], [constraint], factor=factor)
    measured = frame[frame["basis"] == "measured"]
    assert sorted(measured["resolution"]) == sorted(s for _, _, s in asked)
    assert 1 <= len(asked) <= 4 and len(set(asked)) == len(asked)
    for row in measured.itertuples():
        assert row.latency_ms == costs[row.resolution]
        load = row.latency_ms * factor / constraint[0].limit
        assert row.feasible == (load <= 1.0) or load == pytest.approx(1.0, rel=1e-12)
    for row in frame.itertuples():
        assert row.feasible == (row.reason == "")
        if not row.feasible:
            assert "latency_ms<=" in row.reason and row.basis in row.reason
        else:
            assert row.latency_ms <= constraint[0].limit


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 0.3), st.floats(0.5, 400), st.floats(0.5, 400))
def test_a_row_is_feasible_where_one_of_several_sets_is_kept(
    rate: float, first: float, second: float
) -> None:
    cost = usual(rate)
    one, two = (limits(f"latency_ms<={v:.6f}") for v in (first, second))
    both = feasible(run(cost, [one, two])[0])
    assert both == feasible(run(cost, [limits(f"latency_ms<={max(first, second):.6f}")])[0])


def test_all_limits_of_a_set_have_to_hold() -> None:
    cost = usual(0.01)
    tight = limits("latency_ms<=100", "memory_mb<=0.5")
    frame, _ = run(cost, [tight])
    assert feasible(frame) == [s for s in SIDES if 2 * cost("small", "fp32", s) <= 0.5] == [32, 48, 64]
    assert frame[frame["resolution"] == 224]["reason"].item().startswith("memory_mb<=0.5")


def test_a_slow_moment_of_the_device_counts() -> None:
    cost = per_mac(0.01)
    limit = cost("small", "fp32", 128) * 1.2
    assert 128 in feasible(run(cost, [limits(f"latency_ms<={limit}")])[0])
    assert 128 not in feasible(run(cost, [limits(f"latency_ms<={limit}")], factor=1.5)[0])


def test_without_a_limit_on_a_cost_nothing_is_measured() -> None:
    for sets in ([], [limits("accuracy>=0.9")]):
        frame, asked = run(per_mac(0.01), sets)
        assert asked == [] and feasible(frame) == SIDES
        assert set(frame["basis"]) == {"counted"} and frame["latency_ms"].isna().all()


@pytest.mark.parametrize(
    ("limit", "keeps"), [("params_m<=0.9", []), ("params_m<=1", SIDES), ("params_m<=9", SIDES)]
)
def test_limits_on_weights_are_decided_by_counting(limit: str, keeps: list[int]) -> None:
    frame, _ = run(per_mac(0.01), [limits(limit)])
    assert feasible(frame) == keeps


def test_limits_on_work_are_decided_side_by_side() -> None:
    limit = macs("small", 96) / 1e6
    frame, _ = run(per_mac(0.01), [limits(f"macs_m<={limit}")])
    assert feasible(frame) == [s for s in SIDES if s <= 96]


def test_what_is_too_large_by_its_weights_alone_is_never_measured() -> None:
    frame, asked = run(per_mac(0.01), [limits("size_mb<=2", "latency_ms<=100")], "small", "large")
    assert feasible(frame) == [] and asked == []
    assert frame["reason"].str.startswith("size_mb<=2").all()


def test_a_size_limit_that_only_int8_keeps() -> None:
    frame, asked = run(per_mac(0.01), [limits("size_mb<=2")], precisions=("fp32", "int8"))
    assert feasible(frame) == [] and feasible(frame, precision="int8") == SIDES
    assert {p for _, p, _ in asked} <= {"int8"}


def test_int8_is_left_out_where_fp32_keeps_everything() -> None:
    frame, asked = run(per_mac(1e-6), [limits("latency_ms<=100")], precisions=("fp32", "int8"))
    assert set(frame["precision"]) == {"fp32"}
    assert {p for _, p, _ in asked} == {"fp32"}


def test_int8_is_measured_where_fp32_breaks_a_limit() -> None:
    cost = per_mac(0.01)
    limit = cost("small", "fp32", 224) * 0.7
    frame, _ = run(cost, [limits(f"latency_ms<={limit}")], precisions=("fp32", "int8"))
    assert feasible(frame) == [s for s in SIDES if cost("small", "fp32", s) <= limit]
    assert feasible(frame, precision="int8") == SIDES


def test_int8_of_one_set_is_kept_when_another_is_broken() -> None:
    sets = [limits("latency_ms<=100"), limits("size_mb<=2")]
    frame, _ = run(per_mac(1e-6), sets, precisions=("fp32", "int8"))
    assert set(frame["precision"]) == {"fp32", "int8"}


def test_hopeless_networks_are_known_from_others_without_measuring() -> None:
    cost = usual(0.01, top=128)
    limit = cost("small", "fp32", 48)
    frame, asked = run(cost, [limits(f"latency_ms<={limit}")], "small", "large", sides=[48, 96, 128])
    assert feasible(frame, "small") == [48] and feasible(frame, "large") == []
    assert all(name == "small" for name, _, _ in asked)
    assert (frame[frame["architecture"] == "large"]["basis"] == "expected").all()


def test_pretrained_networks_are_looked_at_first_and_small_before_large() -> None:
    _, asked = run(per_mac(1e-6), [limits("latency_ms<=9")], "scratch", "large", "small")
    assert list(dict.fromkeys(name for name, _, _ in asked)) == ["small", "large", "scratch"]


def test_after_the_deadline_nothing_is_measured_and_nothing_is_promised() -> None:
    frame, asked = run(per_mac(0.01), [limits("latency_ms<=100")], deadline=time.monotonic() - 1)
    assert asked == [] and feasible(frame) == []
    assert set(frame["reason"]) == {"not measured in time"}


@pytest.mark.parametrize("error", [AutomlError("cannot be exported"), BackboneError("cannot be exported")])
def test_a_network_that_cannot_be_exported_says_so_at_every_side(error: Exception) -> None:
    frame, asked = run(per_mac(0.01), [limits("latency_ms<=100")], fails=error)
    assert len(asked) == 1 and feasible(frame) == []
    assert set(frame["reason"]) == {"cannot be exported"}


def test_a_network_that_cannot_be_built_does_not_stop_the_others() -> None:
    frame, _ = run(per_mac(1e-6), [limits("latency_ms<=100")], "small", "large", unbuildable="large")
    assert feasible(frame, "small") == SIDES and feasible(frame, "large") == []
    assert set(frame[frame["architecture"] == "large"]["reason"]) == {"it cannot be built: no such layer"}


def test_where_nothing_fits_the_closest_rows_are_named() -> None:
    sets = [limits("latency_ms<=1"), limits("latency_ms<=2")]
    frame = pd.DataFrame(
        {"latency_ms": [8.0, 4.0, 4.1, 9.0], "reason": ["", "", "", "it cannot be built: x"]}
    )
    assert closest(frame, sets) == [False, True, True, False]
    assert closest(frame.iloc[:0], sets) == []


def test_what_is_not_known_may_keep_a_limit() -> None:
    sets = [limits("latency_ms<=1", "size_mb<=2")]
    nothing = float("nan")
    frame = pd.DataFrame(
        {"latency_ms": [nothing] * 2, "size_mb": [1.5, 4.0], "reason": ["not measured in time"] * 2}
    )
    assert closest(frame, sets) == [True, False]


def test_what_a_network_counts_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = scratch("small_cnn_xs")
    macs_at, params = counts(network, [32, 64], 3, tmp_path)
    assert macs_at[64] == pytest.approx(4 * macs_at[32], rel=0.05) and params > 10_000
    (note,) = (tmp_path / "counts").iterdir()

    def build(*_: object) -> None:
        raise RuntimeError("built again")

    with monkeypatch.context() as patch:
        patch.setattr(bench_module, "untrained", build)
        assert counts(network, [32, 64], 3, tmp_path) == (macs_at, params)
        for other in ([32], [32, 96]):
            with pytest.raises(RuntimeError, match="built again"):
                counts(network, other, 3, tmp_path)
        known = counts(network, [32, 64], 4, tmp_path)
        assert is_counted(network, [32, 64], tmp_path) and not is_counted(network, [32], tmp_path)
    model = untrained(network, 4)
    assert known == ({s: count_macs(model, s) for s in (32, 64)}, sum(p.numel() for p in model.parameters()))
    full = tmp_path / "full"
    full.write_text("no folder")
    assert counts(network, [32, 64], 3, full) == (macs_at, params)
    note.write_text("{", encoding="utf-8")
    assert counts(network, [32, 64], 3, tmp_path) == (macs_at, params)


def test_only_the_first_file_is_to_show_how_steady_the_device_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class NeverCalm:
        """Where other programs always disturb, nothing is noted."""

        def __init__(self, _device: Device, steadiness: Steadiness) -> None:
            self.steadiness = steadiness

        def __enter__(self) -> None:
            return None

        def __exit__(self, *_error: object) -> None:
            return None

        def measure(self, path: Path, *, thorough: bool) -> Latency:
            asked.append(thorough)
            if len(asked) == 1:
                raise AutomlError(f"{path.name} cannot be run")
            return Latency(1.0, 1.0, 1.0, 1.0, 1.0, (1.0,), 1.0, False, "cpu:1")

    monkeypatch.setattr(bench_module, "Timer", NeverCalm)
    monkeypatch.setattr(bench_module, "_wait_until_calm", lambda: 0.0)
    with bench_module.Bench(DEVICE, 3, tmp_path) as bench:
        with pytest.raises(AutomlError, match="cannot be run"):
            bench.costs(scratch("small_cnn_xs"), "fp32", 32)
        for side in (32, 48, 64):
            bench.costs(scratch("small_cnn_xs"), "fp32", side)
    assert asked == [True, True, False, False, False, False, False]  # a disturbed one is looked at twice


def test_it_is_quick_where_everything_is_known(tmp_path: Path) -> None:
    networks = [replace(scratch("small_cnn_xs"), architecture="new"), scratch("small_cnn_xs")]
    free, limited = [limits()], [limits("recall[a]>=0.9"), limits("size_mb<=4")]
    assert not is_quick(networks, free, DEVICE, tmp_path)
    assert is_quick(networks[1:], free, DEVICE, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_module, "create_backbone", lambda *_, **__: create_backbone(networks[1]))
        counts(networks[0], [128], 2, tmp_path)
    assert is_quick(networks, free, DEVICE, tmp_path) and not is_quick(networks, limited, DEVICE, tmp_path)
    folder = tmp_path / device_name(DEVICE)
    folder.mkdir()
    (folder / "note.json").write_text("{}")
    assert is_quick(networks, limited, DEVICE, tmp_path)


def test_a_search_can_begin_without_the_imports_that_take_seconds() -> None:
    code = (
        "import sys, automl.run, automl.networks, automl.ranking\n"
        "from search_spaces.backbones import find_backbones\n"
        "assert find_backbones()[0]\n"
        "print([name for name in ('torch', 'timm', 'sklearn') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
