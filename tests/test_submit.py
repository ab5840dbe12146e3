"""The whole way: a folder of pictures in, a run folder with a measured model out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest

import automl
from automl.engine import submit
from automl.errors import InputError
from automl.task import Task, parse_limits_file
from tests.conftest import write_shapes
from tests.report.browser import open_page

FILES = ("model.onnx", "labels.json", "result.json", "trials.parquet", "report.html", "MODEL_CARD.md")


def small(data: Path, out: Path, *constraints: str, trials: int = 1, **options: Any) -> Any:
    """A submit of counted trials in this process, on the smallest network that there is."""
    task = Task.make(
        data, constraints=list(constraints), max_trials=trials, backbones=["small_cnn_xs"], seed=1
    )
    return submit(task, out=out, in_process=True, quiet=True, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One finished run on coloured shapes."""
    folder = tmp_path_factory.mktemp("submit")
    data = write_shapes(folder / "shapes", per_class=12)
    url = f"sqlite:///{folder}/history.db"
    return small(data, folder / "run", "latency_ms<=50", "size_mb<=2", trials=1, history_url=url, explore=0.2)


def test_the_run_folder_is_complete(run: Any) -> None:
    assert [name for name in FILES if not (run.folder / name).is_file()] == []
    assert (run.folder / "checkpoints" / "member-0" / "model.safetensors").is_file()
    assert not list((run.folder / "search").glob("export-*"))
    task = json.loads((run.folder / "search" / "task.json").read_text())
    assert (task["explore"], task["use_pool"], task["use_search"], task["use_supernet"]) == (
        0.2,
        True,
        True,
        True,
    )


@pytest.mark.browser
def test_the_report_is_drawn(run: Any, tmp_path: Path) -> None:
    seen = open_page(run.folder / "report.html", tmp_path)
    assert (seen.errors, seen.console) == ("0", [])
    assert seen.plots and set(seen.plots.values()) == {"true"}


def test_result_json_follows_the_contract(run: Any) -> None:
    told = json.loads((run.folder / "result.json").read_text())
    assert told["schema_version"] == 1
    assert told["status"] == "ok"
    assert {row["expression"] for row in told["constraints"]} == {"latency_ms<=50", "size_mb<=2"}
    for row in told["constraints"]:
        assert set(row) == {"expression", "limit", "measured", "low", "high", "evidence", "satisfied"}
        assert row["low"] <= row["measured"] <= row["high"]
    for part in ("validation", "test"):
        for metric in told["metrics"][part].values():
            assert set(metric) == {"value", "low", "high", "n"}
    assert set(told["trials"]) == {
        "completed", "stopped_early", "cut_off", "failed", "infeasible_not_trained",
    }  # fmt: skip
    assert {"total", "data", "search", "final"} <= set(told["seconds"])
    assert {"backbone", "subnet", "strategy", "source"} <= set(told["winner"])


def test_the_file_itself_is_what_was_measured(run: Any) -> None:
    size = next(row for row in run.constraints if row["expression"].startswith("size_mb"))
    assert size["measured"] == run.model_path.stat().st_size / 1e6
    session = onnxruntime.InferenceSession(str(run.model_path), providers=["CPUExecutionProvider"])
    labels = json.loads((run.folder / "labels.json").read_text())
    side = session.get_inputs()[0].shape[1]
    assert labels["resize"][-1] == side
    images = np.zeros((3, side, side, 3), np.uint8)
    probabilities, label = session.run(["probabilities", "label"], {"images": images})
    assert probabilities.shape == (3, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert label.dtype == np.int64


def test_the_test_metric_is_that_of_the_file_on_the_test_images(run: Any) -> None:
    with np.load(run.folder / "search" / "test_scores.npz") as scores:
        recalls = [
            float((scores["predicted"][scores["labels"] == c] == c).mean())
            for c in np.unique(scores["labels"])
        ]
    assert run.metrics["test"]["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))


def test_with_too_little_time_a_sample_of_the_test_images_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("automl.plan.Clock.tested", lambda *_: lambda images: images >= 8)
    data = write_shapes(tmp_path / "shapes", per_class=25)
    found = small(data, tmp_path / "run", history_url=f"sqlite:///{tmp_path}/history.db")
    with np.load(found.folder / "search" / "test_scores.npz") as scores:
        labels, index = scores["labels"], scores["index"]
    assert len(labels) == 8 and np.bincount(labels).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    assert (np.diff(index) > 0).all()
    assert found.metrics["test"]["accuracy"]["n"] == 8
    [note] = [line for line in found.to_dict()["notes"] if "test images" in line]
    assert "8 of 15 test images" in note and note in (found.folder / "report.html").read_text()


def test_predictions_and_trials(run: Any) -> None:
    folder = Path(run.to_dict()["task"]["data"])
    frame = run.predict([folder / "disc"])
    assert set(frame["label"]) <= {"bar", "disc", "square"}
    trials = pd.read_parquet(run.folder / "trials.parquet")
    assert set(trials["source"]) <= {"pool", "search", "refit"}
    assert trials["status"].eq("completed").all()


def test_the_history_has_every_trial_with_its_scores(run: Any) -> None:
    from strategy_pool.history import History

    history = History(f"sqlite:///{run.folder.parent}/history.db")
    frame = history.trials()
    assert len(frame) == len(run.trials)
    assert set(frame["trial_id"]) == set(run.trials["trial_id"])
    for row in frame[frame["score"].notna() & (frame["source"] != "refit")].itertuples():
        scores = history.scores(row.uid)
        assert scores is not None
        right = scores.probabilities.argmax(1) == scores.labels
        recalls = [right[scores.labels == c].mean() for c in np.unique(scores.labels)]
        assert np.mean(recalls) == pytest.approx(row.score, abs=0.03)  # half precision may turn a tie


def test_a_run_of_counted_trials_repeats(run: Any, tmp_path: Path) -> None:
    data = run.to_dict()["task"]["data"]
    url = f"sqlite:///{tmp_path}/history.db"
    again = small(Path(data), tmp_path / "run", "latency_ms<=50", "size_mb<=2", history_url=url)
    assert list(again.trials["candidate"]) == list(run.trials["candidate"])
    np.testing.assert_array_equal(again.trials["score"], run.trials["score"])
    with (
        np.load(run.folder / "search" / "test_scores.npz") as first,
        np.load(again.folder / "search" / "test_scores.npz") as second,
    ):
        np.testing.assert_allclose(second["probabilities"], first["probabilities"], atol=1e-6)


def test_a_recorded_trial_runs_again_outside_the_search(run: Any) -> None:
    from automl.replay import replay

    before, now = replay(run.folder, "t0001")
    assert now.status == "completed"
    assert now.score == pytest.approx(before.score)
    with pytest.raises(InputError, match="t0001"):
        replay(run.folder, "t0999")


def test_a_finished_run_is_not_overwritten_and_resumes(run: Any) -> None:
    data = Path(run.to_dict()["task"]["data"])
    with pytest.raises(InputError, match="holds a run already"):
        small(data, run.folder)
    done = list(run.trials["trial_id"])
    url = f"sqlite:///{run.folder.parent}/history.db"
    again = small(data, run.folder, "latency_ms<=50", "size_mb<=2", resume=True, history_url=url)
    assert list(again.trials["trial_id"])[: len(done)] == done


def test_a_run_is_not_resumed_on_another_split(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=12)
    files = sorted(str(path.relative_to(data)) for path in data.rglob("*.png"))
    rows = [
        {"path": f, "label": f.split("/")[0], "split": "test" if n % 4 else ""} for n, f in enumerate(files)
    ]
    pd.DataFrame(rows).to_csv(data / "labels.csv", index=False)
    url = f"sqlite:///{tmp_path}/history.db"
    small(data / "labels.csv", tmp_path / "run", history_url=url)
    before = (tmp_path / "run" / "search" / "task.json").read_bytes()
    with pytest.raises(InputError, match=r"split and folds of the images of .* changed since"):
        small(data / "labels.csv", tmp_path / "run", resume=True, history_url=url, columns={"split": ""})
    pd.DataFrame(rows[::-1]).to_csv(data / "labels.csv", index=False)
    with pytest.raises(InputError, match=r"the order of the images of .* changed since"):
        small(data / "labels.csv", tmp_path / "run", resume=True, history_url=url)
    assert (tmp_path / "run" / "search" / "task.json").read_bytes() == before


def test_runs_in_one_folder_are_two_and_a_moved_one_stays_one(tmp_path: Path) -> None:
    from strategy_pool.history import History

    data = write_shapes(tmp_path / "shapes", per_class=8)
    url = f"sqlite:///{tmp_path}/history.db"

    def known() -> list[str]:
        with History(url) as history:
            return [str(uid) for uid in history.trials()["uid"]]

    small(data, tmp_path / "run", history_url=url)
    first = known()
    assert first and str(tmp_path) not in " ".join(first)
    shutil.rmtree(tmp_path / "run")
    small(data, tmp_path / "run", history_url=url)
    both = known()
    assert len(both) == 2 * len(first) and set(first) < set(both)
    (tmp_path / "run").rename(tmp_path / "moved")
    small(data, tmp_path / "moved", resume=True, history_url=url)
    assert set(both) <= set(known()) and len(known()) <= len(both) + 1  # a refit may be made anew


def test_a_finish_that_is_broken_off_leaves_the_earlier_result(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from automl.finish import Finisher

    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    before = {name: (folder / name).read_bytes() for name in FILES}

    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Finisher, "_score", fails)
    data = Path(run.to_dict()["task"]["data"])
    with pytest.raises(KeyboardInterrupt):
        small(data, folder, "size_mb<=1", resume=True, history_url=f"sqlite:///{tmp_path}/history.db")
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_limits_that_nothing_keeps_still_give_the_closest_model(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=12)
    result = small(data, tmp_path / "run", "size_mb<=0.001")
    assert result.status == "infeasible"
    assert (tmp_path / "run" / "model.onnx").is_file()
    row = result.constraints[0]
    assert not row["satisfied"]
    assert "size_mb" in result.to_dict()["needs"]
    assert result.to_dict()["trials"]["infeasible_not_trained"] > 0


def test_many_sets_of_limits_from_one_search(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=12)
    (tmp_path / "limits.txt").write_text("size_mb<=2\nsize_mb<=0.001\n")
    results = small(data, tmp_path / "run", limits=parse_limits_file(tmp_path / "limits.txt"))
    assert [result.status for result in results] == ["ok", "infeasible"]
    index = json.loads((tmp_path / "run" / "limits.json").read_text())
    assert [row["folder"] for row in index["sets"]] == ["limits-01", "limits-02"]
    for result in results:
        assert all((result.folder / name).is_file() for name in FILES)


def test_a_quality_limit_moves_the_operating_point(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=16)
    result = small(data, tmp_path / "run", "recall[disc]>=0.9")
    row = result.constraints[0]
    assert row["expression"] == "recall[disc]>=0.9"
    assert row["evidence"] in ("proved", "met", "too_few", "violated")
    assert (result.status == "ok") == row["satisfied"]


# --- with Ray, as a user runs it ------------------------------------------------------------------


def command(data: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "automl", "submit", str(data), "--out", str(out), "--backbone", "small_cnn_xs", *more,
    ]  # fmt: skip


def wait_for_trial(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a trial is finished and another one runs."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        if process.poll() is not None:
            raise AssertionError(f"the submit ended early with {process.returncode}")
        ended = list((out / "search" / "trials").glob("t*/outcome.json"))
        begun = list((out / "search" / "trials").glob("t*/spec.json"))
        if ended and len(begun) > len(ended):
            return
        time.sleep(0.1)
    raise AssertionError("no trial ended in four minutes")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_the_command_line_with_ray(digits_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(digits_folder, tmp_path / "run", "--budget", "45s", "-c", "size_mb<=1", "--json"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["status"] == "ok"
    assert automl.load_result(tmp_path / "run").status == "ok"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fewer_workers_than_cores(digits_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(digits_folder, tmp_path / "run", "--max-trials", "1", "--workers", "1"),
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (automl.load_result(tmp_path / "run").trials["status"] == "completed").all()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_existing_cluster(digits_folder: Path, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        more = ("--budget", "60s", "--ray-address", cluster.address)
        done = subprocess.run(
            command(digits_folder, tmp_path / "run", *more),
            capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert automl.load_result(tmp_path / "run").status == "ok"
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_driver_loses_no_finished_trial(digits_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(command(digits_folder, out, "--budget", "10m"), start_new_session=True)
    wait_for_trial(out, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ended = {p.parent.name: p.read_text() for p in (out / "search" / "trials").glob("t*/outcome.json")}
    done = subprocess.run(
        command(digits_folder, out, "--budget", "60s", "--resume", str(out)), check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    for name, text in ended.items():
        assert (out / "search" / "trials" / name / "outcome.json").read_text() == text
    assert set(ended) <= set(automl.load_result(out).trials["trial_id"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_gives_the_best_model_so_far(digits_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(command(digits_folder, out, "--budget", "10m"), start_new_session=True)
    wait_for_trial(out, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=180) == 0
    result = automl.load_result(out)
    assert result.to_dict()["interrupted"]
    assert (out / "model.onnx").is_file()
