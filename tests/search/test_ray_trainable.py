"""The actor: what it touches of a trial, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from automl.records import INTERRUPTED
from automl.search._ray_trainable import TrialTrainable
from automl.search.store import SPEC_FILE, read_outcome, write_outcome, write_spec
from tests.search.runs import FAKES, make_outcome, make_spec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Where Tune gives an actor no place, its files would lie in the user's home folder.
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "results"))
    place = tmp_path / "t0001"
    write_spec(make_spec(place))
    return place


def config(folder: Path, trial: str = "empty") -> dict[str, Any]:
    return {"folder": str(folder), "trial_fn": f"{FAKES}:{trial}", "memory_limit": 10**12}


def actor(folder: Path, trial: str = "empty") -> TrialTrainable:
    return TrialTrainable(config(folder, trial))


def test_one_that_is_stopped_before_its_trial_began_leaves_it_to_whoever_runs_it(folder: Path) -> None:
    actor(folder).stop()
    assert [path.name for path in folder.iterdir()] == [SPEC_FILE]
    again = actor(folder)
    assert again.reset_config(config(folder))
    again.stop()
    assert read_outcome(folder) is None


def test_one_that_is_stopped_in_its_trial_says_that_it_was_interrupted(folder: Path) -> None:
    running = actor(folder, "steady")
    assert "report" in running.train()
    running.stop()
    outcome = read_outcome(folder)
    assert outcome is not None and (outcome.status, outcome.error) == ("stopped", INTERRUPTED)


def test_a_finished_trial_stays_as_it_is(folder: Path) -> None:
    write_outcome(folder, make_outcome())
    actor(folder).stop()
    assert read_outcome(folder) == make_outcome()
