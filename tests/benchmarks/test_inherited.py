"""The suite of inherited weights: which subnets, that they are trained, that it goes on, and its figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.suites import inherited
from search_spaces import families
from search_spaces._views import MEAN, STD, Augmentation, Images, Views
from search_spaces.pretrain import top1
from search_spaces.stored import RESOLUTION, About, Stored
from tests.benchmarks.test_subnets import coloured_images

ABOUT = About("mobile", ("0", "1", "2"), (32, 48), "top1", mean=MEAN, std=STD, origin="colours")


def supernet() -> Stored:
    torch.manual_seed(0)
    return Stored(ABOUT, families.supernet("mobile", 3), torch.zeros(4, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("sides", [[32], [32, 48]])
def test_the_subnets_span_a_factor_of_four(sides: list[int]) -> None:
    stored = supernet()
    chosen = inherited.choose(stored, sides, 12, seed=0)
    macs = [stored.counted(subnet).macs for subnet in chosen]
    assert {subnet[RESOLUTION] for subnet in chosen} == set(sides)
    assert len({tuple(subnet.items()) for subnet in chosen}) == 12
    assert macs[-1] / macs[0] == pytest.approx(inherited.SPAN, rel=0.2)
    assert inherited.choose(stored, sides, 12, seed=0) == chosen


def test_fine_tuning_learns() -> None:
    torch.manual_seed(0)
    stored = supernet()
    labels = torch.arange(90) % 3
    pixels = torch.full((90, 3, 32, 32), 80, dtype=torch.uint8)
    pixels[torch.arange(90), labels] = 200
    images = Images(pixels, labels)
    model = stored.build(stored.space.smallest())
    inherited.tune(model, Views(images, 2, Augmentation(), 0), 3, 32, 12, 2e-3, 0)
    assert top1(model, images, 32) > 0.9
    assert not model.training


def test_the_figures() -> None:
    rows = [
        {
            "inherited": n / 20,
            "tuned": 0.4 + n / 40,
            "tuned_each": [0.4 + n / 40],
            "macs_m": 1.0 + (n * 7) % 20,
        }
        for n in range(20)
    ]
    found = inherited.figures(rows, 200, 0)
    assert [found[name] for name in ("tau", "low", "high")] == pytest.approx([1.0, 1.0, 1.0])
    assert abs(found["tau_macs"]) < 0.5 and found["span"] == pytest.approx(20.0)
    assert found["tau_trainings"] is None
    rng = np.random.default_rng(0)
    mixed = [{**row, "tuned": float(v)} for row, v in zip(rows, rng.permutation(20), strict=True)]
    found = inherited.figures(mixed, 200, 0)
    assert found["low"] < found["tau"] < found["high"] < 0.9
    twice = [{**row, "tuned_each": [n, -n]} for n, row in enumerate(rows)]
    assert inherited.figures(twice, 100, 0)["tau_trainings"] == pytest.approx(-1.0)
    thrice = [{**row, "tuned_each": [n, n, -n]} for n, row in enumerate(rows)]
    assert inherited.figures(thrice, 100, 0)["tau_trainings"] == pytest.approx(-1 / 3)


def test_names_go_before_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert inherited.run(["--images", "images.npz", "--results", str(tmp_path)]) == 2
    assert "NAME=FILE" in capsys.readouterr().err


def test_the_table_and_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supernet().save(tmp_path / "net.safetensors")
    arguments = [
        "--images", f"colours={coloured_images(tmp_path)}", "--supernet", f"colours={tmp_path / 'net.safetensors'}",
        "--subnets", "3", "--steps", "2", "--resamples", "100", "--results", str(tmp_path / "results"),
        "--work", str(tmp_path / "work"),
    ]  # fmt: skip
    scored: list[int] = []
    monkeypatch.setattr(
        "search_spaces.pretrain.top1",
        lambda model, images, side: scored.append(side) or top1(model, images, side),  # type: ignore[func-returns-value]
    )
    assert inherited.run(arguments) == 0
    assert len(scored) == 3 + 3 * 2  # inherited once, tuned with each seed
    told = json.loads((tmp_path / "results" / "inherited.json").read_text())
    [one] = told["tables"]
    assert len(one["rows"]) == 3 and one["resolutions"] == [32] and one["validation_images"] == 30
    assert all(0 <= row["inherited"] <= 1 and 0 <= row["tuned"] <= 1 for row in one["rows"])
    assert all(row["tuned"] == pytest.approx(np.mean(row["tuned_each"])) for row in one["rows"])
    assert told["seeds"] == [0, 1] and all(len(row["tuned_each"]) == 2 for row in one["rows"])
    monkeypatch.setattr(inherited, "tune", lambda *_: pytest.fail("it was measured already"))
    assert inherited.run([*arguments, "--seeds", "1"]) == 0
    [less] = json.loads((tmp_path / "results" / "inherited.json").read_text())["tables"]
    assert [row["tuned"] for row in less["rows"]] == [row["tuned_each"][0] for row in one["rows"]]
    assert less["tau_trainings"] is None
    assert inherited.run(arguments) == 0
    text = (tmp_path / "results" / "inherited.md").read_text()
    assert "2 steps" in text and str(tmp_path) not in text + json.dumps(told)
