"""The suite of subnets: which it takes, and that the file's own answers are counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.suites import subnets
from search_spaces import families
from search_spaces._views import MEAN, STD, Images
from search_spaces.propose import spread
from search_spaces.stored import RESOLUTION, About, Known, Stored


def test_subnets_of_all_sizes_are_taken_of_those_that_were_judged() -> None:
    known = [Known({"a": i}, macs=100 - i, params=1, score=None if i % 2 else 0.5) for i in range(20)]
    chosen = subnets.choose(known, 4)
    assert [one.macs for one in chosen] == [82, 88, 94, 100]
    assert len(subnets.choose(known, 50)) == 10
    scored = [Known({"a": i}, macs=i * 1_000_000, params=1, score=(i * 7 % 10) / 10) for i in range(1, 10)]
    assert [one.macs // 1_000_000 for one in subnets.choose(scored, 2)] == [1, 9]
    assert [one.macs // 1_000_000 for one in subnets.choose(scored, 2, [6, 8.5, 0.5])] == [1, 4, 7, 9]


def coloured_images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(60, 120, (60, 32, 32, 3)).astype(np.uint8)
    images[np.arange(60), :, :, labels] += 100
    np.savez(folder / "images.npz", images=images, labels=labels, split=(np.arange(60) % 2).astype(np.uint8))
    return folder / "images.npz"


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--images", str(coloured_images(tmp_path)), "--results", str(tmp_path)]
    assert subnets.run([*common, "--supernet", str(tmp_path / "none.safetensors")]) == 2
    assert subnets.run([*common, "--device", "cpuu:1"]) == 2
    assert subnets.run(["--images", str(tmp_path / "none.npz"), "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("error:") == 3


@pytest.mark.slow
def test_the_table_of_a_small_supernet(tmp_path: Path) -> None:
    torch.manual_seed(0)
    about = About("mobile", ("r", "g", "b"), (32,), "top1", mean=MEAN, std=STD, origin="colours")
    stored = Stored(about, families.supernet("mobile", 3), torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    for number, subnet in enumerate(spread(stored.space, 12)):
        counted = stored.counted(subnet)
        stored.known.append(Known(counted.subnet, counted.macs, counted.params, 0.05 * number, 30))
    stored.save(tmp_path / "net.safetensors")
    code = subnets.run(
        [
            "--images", str(coloured_images(tmp_path)), "--supernet", str(tmp_path / "net.safetensors"), "--subnets", "2", "--within", "1000",
            "--results", str(tmp_path / "results"),
        ]
    )  # fmt: skip
    assert code == 0
    told = json.loads((tmp_path / "results" / "subnets.json").read_text())
    assert [row["resolution"] for row in told["rows"]] == [32] * 3 and told["images"] == 30
    assert told["rows"][0]["macs_m"] < told["rows"][1]["macs_m"]
    assert all(0 <= row["right"] <= 30 and row["latency_ms"] > 0 for row in told["rows"])
    text = (tmp_path / "results" / "subnets.md").read_text()
    assert "top-1 %" in text and str(tmp_path) not in text + json.dumps(told)


def test_the_files_answers_are_counted(tmp_path: Path) -> None:
    from automl._subnets import vision_model
    from automl.export import export_onnx

    torch.manual_seed(0)
    stored = Stored(
        About("mobile", ("r", "g", "b"), (32,), "top1", mean=MEAN, std=STD),
        families.supernet("mobile", 3),
        torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8),
    )
    subnet = stored.space.smallest()
    export_onnx(vision_model(stored, subnet), subnet[RESOLUTION], tmp_path / "model.onnx")
    pixels = torch.randint(0, 256, (150, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        said = vision_model(stored, subnet)(pixels.float()).argmax(1)
    labels = torch.where(torch.arange(150) < 120, said, (said + 1) % 3)
    assert subnets._right(tmp_path / "model.onnx", 32, Images(pixels, labels)) == 120
