"""Extraction: files that keep the limits, are what the supernet computes, and are the best that is predicted to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image

from automl._subnets import Written
from automl.errors import InputError
from automl.evaluation import latency
from automl.extract import TABLE_FILE, _written, extract
from automl.predict import predict_files
from automl.task import Constraint
from search_spaces.forecast import Forecast
from search_spaces.predict import TableError
from search_spaces.propose import spread
from search_spaces.stored import load
from tests._models import expected_score, pictures, supernet

from ._command import automl, refused


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("supernet") / "net.safetensors"
    supernet().save(path)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOML_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(latency, "_OTHER_LOAD", math.inf)  # or little is remembered where other programs run
    return tmp_path / "home"


@pytest.mark.slow
def test_the_best_within_a_limit(file: Path, home: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    done = extract(file, tmp_path / "out", constraints=["size_mb<=3", "macs_m<=12"], top=2, say=lines.append)
    assert done.satisfied and len(done.found) == 2
    assert any("measuring 6 subnets" in line for line in lines)
    table = pd.read_csv(tmp_path / "out" / TABLE_FILE)
    assert list(table["folder"]) == [1, 2] and table["satisfied"].all()
    stored = load(file)
    for one in done.found:
        path = one.folder / "model.onnx"
        assert one.costs["size_mb"] == path.stat().st_size / 1e6 <= 3
        assert one.costs["macs_m"] <= 12 and one.costs["latency_ms"] > 0
        side = one.subnet["resolution"]
        images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        got, _ = session.run(None, {"images": images})
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (stored.about.mean, stored.about.std))
        with torch.inference_mode():
            expected = stored.build(one.subnet)((x - mean) / std).softmax(1)
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)
    # Of the drawn subnets that keep the limits none is much better than the first one.
    best = max(
        expected_score(known.macs)
        for known in map(stored.counted, spread(stored.space, 150, seed=5))
        if known.macs <= 12e6 and known.params <= 0.73e6
    )
    assert expected_score(int(done.found[0].costs["macs_m"] * 1e6)) > best - 0.02
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1", "2", TABLE_FILE]
    again = extract(file, tmp_path / "again", constraints=["macs_m<=12", "size_mb<=3"], top=2)
    assert again.measured <= 2  # what was measured once is remembered


@pytest.mark.slow
def test_a_latency_is_kept_and_the_folder_labels_images(file: Path, home: Path, tmp_path: Path) -> None:
    free = extract(file, tmp_path / "free")
    fast = extract(file, tmp_path / "small", constraints=["macs_m<=1.2"])
    limit = math.sqrt(free.found[0].costs["latency_ms"] * fast.found[0].costs["latency_ms"])
    done = extract(file, tmp_path / "out", constraints=[f"latency_ms<={limit:.4f}"])
    assert done.satisfied and done.evidence == "measured"
    assert fast.found[0].score < done.found[0].score < free.found[0].score
    files = [tmp_path / f"{at}.png" for at in range(3)]
    for path, pixels in zip(files, pictures(3, 40), strict=True):
        Image.fromarray(pixels.numpy()).save(path)
    frame = predict_files(done.found[0].folder, files)
    assert len(frame) == 3 and frame["error"].isna().all() and set(frame["label"]) <= {"bad", "good"}


class Chosen:
    """Measured subnets of which a thorough measurement says what ``upper`` tells; a limit that is broken ends it."""

    def __init__(self, stored: Any, upper: list[float]) -> None:
        self.stored, self.upper = stored, upper
        self.subnets = spread(stored.space, len(upper), seed=1)
        self.asked: list[tuple[int, float | None]] = []

    def measured(self) -> list[tuple[dict[str, int], dict[str, float]]]:
        return [(subnet, {"latency_ms": 1.0}) for subnet in self.subnets]

    def scores(self, subnets: list[dict[str, int]]) -> tuple[list[float], list[float]]:
        return [1.0 - number / 10 for number in range(len(subnets))], [0.0] * len(subnets)

    def write(self, subnet: dict[str, int], path: Path, limit_ms: float | None = None) -> Written:
        at = self.subnets.index(subnet)
        self.asked.append((at, limit_ms))
        path.write_text("model")
        complete = limit_ms is None or self.upper[at] <= limit_ms
        return Written({"latency_ms": self.upper[at]}, {"latency_ms": 1.0}, complete)


@pytest.mark.parametrize(
    ("upper", "found", "missed", "asked"),
    [
        ([1.2, 3.0], 0, 0.0, [(0, 2.0)]),
        ([3.0, 1.9], 1, 0.0, [(0, 2.0), (1, None)]),
        ([5.0, 3.0], 1, 0.5, [(0, 2.0), (1, None)]),
        ([3.0, 5.0], 0, 0.5, [(0, 2.0), (1, None), (0, None)]),  # what is reported is measured to the end
    ],
)
def test_only_what_is_reported_is_measured_to_the_end(
    upper: list[float], found: int, missed: float, asked: list[Any], file: Path, tmp_path: Path
) -> None:
    chosen = Chosen(load(file), upper)
    limit = Constraint.parse("latency_ms<=2")
    (one,) = _written(chosen, [limit], tmp_path, 1, lambda _line: None)  # type: ignore[arg-type]
    assert one.subnet == chosen.subnets[found]
    assert max(one.missed.values(), default=0.0) == pytest.approx(missed)
    assert chosen.asked == asked
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_limits_that_no_subnet_keeps(file: Path, home: Path, tmp_path: Path) -> None:
    done = automl("extract", file, "-c", "size_mb<=0.05", "--out", tmp_path / "out", "--json")
    assert done.code == 3, done.err
    assert "no subnet keeps the limits" in done.out and "misses size_mb<=0.05" in done.out
    assert done.last_json["status"] == "infeasible"
    (one,) = done.last_json["subnets"]
    assert not one["satisfied"] and (tmp_path / "out" / "1" / "model.onnx").exists()
    labels = json.loads((tmp_path / "out" / "1" / "labels.json").read_text())
    assert (labels["classes"], labels["ranges"]) == (["bad", "good"], {"uint16": [0.0, 4095.0]})


@pytest.mark.slow
def test_the_supernet_of_the_package(home: Path, tmp_path: Path) -> None:
    done = extract("embedded", tmp_path / "out", constraints=["macs_m<=20", "size_mb<=6"])
    assert done.satisfied and done.metric == "top1"
    one = done.found[0]
    assert one.costs["macs_m"] <= 20 and (one.folder / "model.onnx").is_file()
    assert len(json.loads((one.folder / "labels.json").read_text())["classes"]) == 200


def test_what_is_wrong_is_one_line(file: Path, home: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    refused(automl("extract", tmp_path / "none", *out), "does not exist")
    refused(automl("extract", file, "-c", "recall[bad]>=0.9", *out), "measures costs only")
    refused(automl("extract", file, "-c", "latncy_ms<=2", *out), "did you mean 'latency_ms'")
    refused(automl("extract", file, "--top", 0, *out), "at least 1")
    refused(automl("extract", file, "--device", "gpu", *out), "did you mean 'cuda:0'")
    refused(automl("extract", file, "--out", file.parent), "is not an empty folder")
    assert not (tmp_path / "out").exists()


def test_a_supernet_of_which_too_little_is_known(file: Path, tmp_path: Path) -> None:
    stored = load(file)
    stored.known = stored.known[25:]
    with pytest.raises(TableError, match="5 subnets with a score are too few"):
        Forecast(stored)
    stored.save(tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="too few"):
        extract(tmp_path / "net.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_forecasts_of_measured_costs(file: Path) -> None:
    stored = load(file)
    forecast = Forecast(stored)
    seen, unseen = spread(stored.space, 60, seed=2)[:50], spread(stored.space, 60, seed=3)[2:]
    values = forecast.codes.values(forecast.codes.of(unseen))

    def cost(subnets: list[dict[str, int]]) -> np.ndarray:
        return np.array([0.1 + stored.counted(subnet).macs / 2e7 for subnet in subnets])

    expected = cost(unseen)
    for count, most in ((5, 0.25), (50, 0.15)):
        forecast.learn(seen[:count], {"latency_ms": list(cost(seen[:count]))})
        missed = np.abs(forecast.costs["latency_ms"](values) / expected - 1)
        assert missed.mean() < most
    macs = np.array([stored.counted(subnet).macs for subnet in unseen]) / 1e6
    assert np.abs(forecast.costs["macs_m"](values) / macs - 1).mean() < 0.25
    scores = np.array([expected_score(int(m * 1e6)) for m in macs])
    assert np.abs(forecast.score(values) - scores).mean() < 0.05
    assert (forecast.lowest_score(values) <= forecast.score(values)).all()
