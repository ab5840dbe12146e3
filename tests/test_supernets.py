"""Supernets in a submit: when one is trained, and its subnets as trials like any other."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from automl import supernets
from automl._bench import steadiness
from automl.candidate import Candidate
from automl.device import Device
from automl.engine import submit
from automl.errors import InputError
from automl.extract import extract
from automl.home import cache_folder
from automl.replay import replay
from automl.supernet_trial import SUPERNET_FILE, sides
from automl.task import Constraint, Task
from search_spaces.backbones import SUBNET, Backbone, create_backbone, may_convert
from search_spaces.counts import count_macs
from search_spaces.stored import load
from tests._models import write_model
from tests.conftest import write_shapes


def backbone(name: str, pretrained: bool = True) -> Backbone:
    return Backbone(name, f"local-dir:/{name}", name, pretrained)


def table(**latencies: float) -> pd.DataFrame:
    """Networks at 96 and 160 px; a latency is that at 160."""
    rows = [
        {
            "architecture": name, "resolution": side, "precision": precision, "size_mb": 9.0,
            "latency_upper_ms": latency * (side / 160) ** 2, "macs_m": 150.0 * (side / 160) ** 2, "feasible": True,
            "cause": "", "latency_ms": latency * (side / 160) ** 2, "basis": "scaled",
        }
        for name, latency in latencies.items()
        for side in (96, 160)
        for precision in ("fp32", "int8")
    ]  # fmt: skip
    return pd.DataFrame(rows)


TWO = [backbone("resnet18"), backbone("mobilenetv2_100")]


def chosen(*limits: str, **changes: Any) -> Candidate | None:
    options: dict[str, Any] = {"images": 900, "folds": 1, "budget": 7200.0, "work": 1e9, **changes}
    backbones = options.pop("backbones", TWO)
    scores = options.pop("scores", {"mobilenetv2_100": 0.9, "resnet18": 0.8})
    sets = [[Constraint.parse(text) for text in limits]]
    return supernets.choose(backbones, table(resnet18=40.0, mobilenetv2_100=9.0), sets, scores, **options)


def test_a_supernet_is_trained_where_limits_keep_the_best_backbone_out() -> None:
    assert chosen("latency_ms<=4") == Candidate("mobilenetv2_100", 160, "fp32", "supernet")
    assert chosen("latency_ms<=2") == Candidate("mobilenetv2_100", 96, "fp32", "supernet")
    assert chosen("size_mb<=5") == Candidate("mobilenetv2_100", 160, "fp32", "supernet")
    assert chosen("latency_ms<=4", scores={"resnet18": 0.95}) == Candidate(
        "mobilenetv2_100", 160, "fp32", "supernet"
    )  # no subnet of the better one is quick enough
    assert chosen("latency_ms<=20", scores={"resnet18": 0.95}) == Candidate(
        "resnet18", 160, "fp32", "supernet"
    )


def test_no_supernet_is_trained_of_a_worse_backbone_where_a_better_one_keeps_the_limits() -> None:
    better = {"mobilenetv2_100": 0.99, "resnet18": 0.5}
    assert chosen("latency_ms<=20", scores=better) is None
    other = replace(backbone("swin_tiny"), name="mobilenetv2_100")  # whatever it is
    assert chosen("latency_ms<=20", scores=better, backbones=[TWO[0], other]) is None
    # At 96 px the better one keeps the limit, at 160 only subnets do, of the other one.
    options: dict[str, Any] = {"images": 900, "folds": 1, "budget": 7200.0, "work": 1e9}
    limits, costs = [[Constraint.parse("latency_ms<=4")]], table(resnet18=11.0, mobilenetv2_100=9.0)
    found = supernets.choose([TWO[0], other], costs, limits, better, **options)
    assert found == Candidate("resnet18", 160, "fp32", "supernet")
    # Each set of limits for itself: the first is kept, of the second nothing keeps all.
    sets = [[Constraint.parse(text)] for text in ("latency_ms<=20", "latency_ms<=4")]
    found = supernets.choose(TWO, table(resnet18=40.0, mobilenetv2_100=9.0), sets, better, **options)
    assert found == Candidate("mobilenetv2_100", 160, "fp32", "supernet")


def test_a_backbone_that_limits_keep_out_at_every_side_is_expected_to_be_as_good_as_it_is_large() -> None:
    options: dict[str, Any] = {"images": 900, "folds": 1, "budget": 7200.0, "work": 1e9}
    limits = [[Constraint.parse("latency_ms<=4")]]
    frame = table(resnet18=11.0, mobilenetv2_100=9.0)
    frame.loc[frame["architecture"].eq("resnet18"), "macs_m"] *= 8
    known = {"mobilenetv2_100": 0.9}
    assert supernets.choose(TWO, frame, limits, known, **options) == Candidate(
        "resnet18", 160, "fp32", "supernet"
    )
    # One that was seen to be better goes first, and one that cannot be run is no supernet.
    known = {"mobilenetv2_100": 0.9, "third": 0.7}
    third = [*TWO, backbone("third")]
    frame = pd.concat([frame, table(third=1.0)])
    assert supernets.choose(third, frame, limits, known, **options) == Candidate(
        "mobilenetv2_100", 160, "fp32", "supernet"
    )
    frame.loc[frame["architecture"].eq("resnet18"), "cause"] = "failed"
    assert supernets.choose(TWO, frame, limits, {}, **options) == Candidate(
        "mobilenetv2_100", 160, "fp32", "supernet"
    )


def test_a_supernet_needs_time_for_many_epochs_of_its_backbone() -> None:
    epoch = 3 * 900 * 150.0
    assert chosen("latency_ms<=4", work=121 * epoch) == Candidate("mobilenetv2_100", 160, "fp32", "supernet")
    assert chosen("latency_ms<=4", work=119 * epoch) is None
    # At a smaller side there is time, and limits that ask for it.
    assert chosen("latency_ms<=2", work=50 * epoch) == Candidate("mobilenetv2_100", 96, "fp32", "supernet")
    unknown = table(mobilenetv2_100=9.0).assign(macs_m=math.nan)
    options = {"images": 900, "folds": 1, "budget": 7200.0, "work": math.inf}
    limits = [[Constraint.parse("latency_ms<=4")]]
    assert supernets.choose(TWO, unknown, limits, {}, **options) is None  # type: ignore[arg-type]


def data(images: int, folds: int = 1) -> SimpleNamespace:
    return SimpleNamespace(indices=lambda _part: np.arange(images), folds=[()] * folds)


def a_run(**changes: Any) -> SimpleNamespace:
    """A run that has half an hour for a supernet of mobilenetv2_100."""
    clock = SimpleNamespace(budget=7200.0, search_end=time.monotonic() + 4500.0)
    values: dict[str, Any] = {
        "how": {"use_supernet": True}, "finished": [], "backbones": TWO[1:], "sets": [[Constraint.parse("latency_ms<=4")]],
        "table": table(mobilenetv2_100=9.0), "backbone_scores": dict, "dataset": data(900), "sample": data(900),
        "clock": clock, "workers": 1, "say": lambda _line: None,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def test_the_images_that_count_are_those_that_a_supernet_learns_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernets, "cores", lambda: 8)
    assert supernets.choose_for(a_run()) == Candidate("mobilenetv2_100", 160, "fp32", "supernet")
    assert supernets.choose_for(a_run(dataset=data(900_000))) is not None
    assert supernets.choose_for(a_run(sample=data(900_000))) is None  # no time for so many
    assert supernets.choose_for(a_run(sample=data(150))) is None
    assert supernets.choose_for(a_run(sample=data(900, folds=3))) is None


def test_no_supernet_is_trained_where_there_is_nothing_to_win() -> None:
    assert chosen() is None
    assert chosen("recall[a]>=0.9") is None
    assert chosen("latency_ms<=100") is None  # everything fits
    assert chosen("latency_ms<=0.5") is None  # nothing will
    assert chosen("macs_m<=10") is None  # nothing will
    assert chosen("memory_mb<=10") is None  # nothing is known
    for less in ({"budget": 3599.0}, {"budget": None}, {"images": 100}, {"folds": 3}):
        assert chosen("latency_ms<=4", **less) is None
    for other in (backbone("mobilenetv2_100", pretrained=False), backbone("swin_tiny")):
        assert chosen("latency_ms<=4", backbones=[other]) is None


@pytest.mark.parametrize(
    ("name", "known"),
    [("mobilenetv2_100", True), ("tf_efficientnet_lite0", True), ("resnet50d", True), ("vit_tiny_patch16_224", True),
     ("swin_tiny", False), ("seresnet18", False), ("resnetv2_50", False), ("regnetx_002", False)],
)  # fmt: skip
def test_kinds_that_become_supernets(name: str, known: bool) -> None:
    assert may_convert(name) == known


def test_a_subnet_is_known_at_every_side_that_it_comes_at(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    run = a_run(folder=tmp_path, macs={}, backbones=[])
    taken = {"name": "net:1", "source": "timm:net", "architecture": "00", "pretrained": False, "family": SUBNET,
             "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip

    def admitted(side: int, purpose: str = "search", **metrics: Any) -> None:
        spec = SimpleNamespace(
            candidate=Candidate("net:1", side, "fp32", "any"), backbone=taken, purpose=purpose
        )
        supernets.admit(run, spec, SimpleNamespace(metrics=metrics))  # type: ignore[arg-type]

    for side in (96, 128, 96):
        admitted(side, costs={"latency_ms": side / 10, "latency_median_ms": side / 20, "macs_m": float(side)})
    admitted(128, "refit")  # which has no costs of its own
    found = run.table[run.table["architecture"].eq("net:1")]
    assert found["resolution"].tolist() == [96, 128] and found["macs_m"].tolist() == [96.0, 128.0]
    assert found["latency_ms"].tolist() == [4.8, 6.4] and found["latency_upper_ms"].tolist() == [9.6, 12.8]
    assert run.macs == {("net:1", 96, "fp32"): 96.0, ("net:1", 128, "fp32"): 128.0}
    assert [b.name for b in run.backbones] == ["net:1"]
    assert len(pd.read_parquet(tmp_path / "search" / "feasibility.parquet")) == len(run.table)


def test_a_supernets_trial_is_told_what_is_known_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOML_HOME", str(tmp_path))
    run = a_run(task=SimpleNamespace(device=Device()))
    assert supernets.asked(run) == {"limits": [["latency_ms<=4"]], "slow_moment": 1.0}
    steadiness(cache_folder("feasibility"), Device()).note([1.0, 1.2])
    assert supernets.asked(run)["slow_moment"] == pytest.approx(1.2)


def test_sides() -> None:
    assert sides(160) == [128, 160]
    assert sides(32) == [32]
    assert all(side % 16 == 0 for r in (64, 96, 128, 224) for side in sides(r))


@pytest.mark.slow
def test_subnets_become_trials_and_the_supernet_serves_other_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOML_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(supernets, "LEAST_BUDGET", 20.0)
    monkeypatch.setattr(supernets, "_LEAST_IMAGES", 50)
    monkeypatch.setattr(supernets, "_LEAST_EPOCHS", 1)
    data = write_shapes(tmp_path / "shapes", per_class=200)
    source = f"local-dir:{write_model(tmp_path / 'tiny.random')}"
    whole = create_backbone(Backbone("tiny", source, "test_efficientnet", True))
    most = count_macs(whole, 32) / 1e6
    task = Task.make(data, constraints=[f"macs_m<={0.7 * most}"], budget=70, backbones=[source], seed=1)
    result = submit(
        task,
        out=tmp_path / "run",
        in_process=True,
        quiet=True,
        history_url=f"sqlite:///{tmp_path}/history.db",
    )
    frame = result.trials
    found = frame[frame["source"].eq("supernet")]
    subnets = found[found["strategy"].ne("supernet")]
    assert len(found) > len(subnets) > 0
    assert subnets["score"].notna().all() and (subnets["macs_m"] <= 0.7 * most).all()
    assert subnets["architecture"].str.startswith("test_efficientnet:").all()
    assert result.status == "ok"
    told = json.loads((result.folder / "result.json").read_text())
    if told["winner"]["source"] == "supernet":
        assert told["winner"]["subnet"]["resolution"] == told["winner"]["resolution"]
    stored = load(result.folder / SUPERNET_FILE)
    assert stored.about.classes == tuple(sorted(p.name for p in data.iterdir()))
    smallest = stored.counted({**stored.space.smallest(), "resolution": 32}).macs / 1e6
    other = 0.5 * (smallest + 0.7 * most)
    done = extract(result.folder, tmp_path / "small", constraints=[f"macs_m<={other}"])
    assert done.satisfied and done.found[0].costs["macs_m"] <= other
    with pytest.raises(InputError, match="is a subnet of the supernet of t0"):
        replay(result.folder, str(subnets["trial_id"].iloc[0]))
    # A resumed run has them too, and trains no second supernet.
    before = {p.name for p in (result.folder / "search" / "trials").iterdir()}
    (result.folder / "result.json").unlink()
    again = submit(
        task, out=tmp_path / "run", resume=True, in_process=True, quiet=True,
        history_url=f"sqlite:///{tmp_path}/history.db",
    )  # fmt: skip
    kept = again.trials[again.trials["source"].eq("supernet")]
    assert set(found["trial_id"]) <= set(kept["trial_id"])
    assert (kept["strategy"] == "supernet").sum() == 1
    assert before <= {p.name for p in (result.folder / "search" / "trials").iterdir()}
    assert np.isfinite(kept[kept["strategy"].ne("supernet")]["macs_m"]).all()
