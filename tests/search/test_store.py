from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.records import Outcome, TrialSpec
from automl.search import TrialStore
from automl.search.store import read_outcome, read_spec, write_json, write_outcome, write_spec
from tests.search.runs import candidate, make_outcome, make_spec


@pytest.fixture
def store(tmp_path: Path) -> TrialStore:
    return TrialStore(tmp_path / "run")


def finish(store: TrialStore, **fields: Any) -> str:
    """A trial that ended."""
    trial_id = start(store)
    write_outcome(store.folder(trial_id), make_outcome(trial_id, **fields))
    return trial_id


def start(store: TrialStore) -> str:
    """A trial that began and left a file."""
    trial_id = store.new_trial_id()
    write_spec(make_spec(store.folder(trial_id), trial_id=trial_id))
    (store.folder(trial_id) / "weights.part").write_text("half")
    return trial_id


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Ids


def test_ids_are_counted_from_one(store: TrialStore) -> None:
    assert [store.new_trial_id() for _ in range(3)] == ["t0001", "t0002", "t0003"]
    assert store.trial_ids() == ["t0001", "t0002", "t0003"]


def test_a_store_that_is_opened_again_goes_on(tmp_path: Path) -> None:
    TrialStore(tmp_path).new_trial_id()
    assert TrialStore(tmp_path).new_trial_id() == "t0002"


def test_ids_beyond_four_digits_stay_in_order(store: TrialStore) -> None:
    for name in ("t9999", "t0002", "t10000"):
        (store.root / name).mkdir()
    assert store.trial_ids() == ["t0002", "t9999", "t10000"]
    assert store.new_trial_id() == "t10001"


def test_other_entries_are_no_trials(store: TrialStore) -> None:
    (store.root / "notes").mkdir()
    (store.root / "t12").mkdir()
    (store.root / "t0007").write_text("a file")
    assert store.trial_ids() == []
    assert store.new_trial_id() == "t0001"


def test_the_id_of_an_orphan_is_not_given_again(store: TrialStore) -> None:
    start(store)
    store.clean_orphans()
    assert store.new_trial_id() == "t0002"


def test_threads_and_other_processes_get_ids_of_their_own(tmp_path: Path) -> None:
    stores = [TrialStore(tmp_path), TrialStore(tmp_path)]
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda s=s: found.extend(s.new_trial_id() for _ in range(20)))
        for s in stores * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"t{number:04d}" for number in range(1, 81)]


@pytest.mark.parametrize(
    "trial_id",
    ["", "t1", "x0001", "../t0001", "t0001/..", "/t0001", "t0001\n", "t0001\0", ".", "..", "T0001", "t٠٠٠١"],
)
def test_what_is_no_id_is_refused(store: TrialStore, trial_id: str) -> None:
    for ask in (store.folder, store.spec, store.outcome):
        with pytest.raises(ValueError, match="trial id is"):
            ask(trial_id)


@given(text=st.text(max_size=12) | st.from_regex(r"[t./\\~]*\d*[t./\\~]*", fullmatch=True))
def test_no_id_leads_out_of_the_run_folder(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    store = TrialStore(tmp_path_factory.getbasetemp() / "ids")
    try:
        folder = store.folder(text)
    except ValueError:
        return
    assert folder.resolve().parent == store.root


# Files


def test_a_specification_comes_back(store: TrialStore) -> None:
    trial_id = store.new_trial_id()
    spec = make_spec(
        store.folder(trial_id),
        candidate("b", 64, "tune", lr=0.02, loss="plain"),
        trial_id,
        seconds=12.5,
        strategy={"lr": 0.02, "taps": ["last"]},
        constraints=["size_mb<=2"],
    )
    write_spec(spec)
    assert store.spec(trial_id) == spec


def test_an_outcome_comes_back(store: TrialStore) -> None:
    outcome = make_outcome(curve=[[1, 0.25, 0.5], [2, 0.5, 1.0]], epochs=2, metrics={"violations": {"a": -1}})
    write_outcome(store.root / "t0001", outcome)
    assert store.outcome("t0001") == outcome
    assert store.outcomes() == [outcome]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_written_as_null(tmp_path: Path, value: float) -> None:
    write_outcome(tmp_path, make_outcome(score=value, curve=[[1, value, 0.5]]))
    assert json.loads((tmp_path / "outcome.json").read_text())["score"] is None
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert outcome.usable_score is None
    assert outcome.curve == [[1, None, 0.5]]


def test_numbers_of_numpy_are_written(tmp_path: Path) -> None:
    write_json(
        tmp_path / "x.json",
        {"a": np.float32(0.5), "b": np.arange(3), "c": (np.int64(7), np.bool_(True)), 4: np.float64("nan")},
    )
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": 0.5,
        "b": [0, 1, 2],
        "c": [7, True],
        "4": None,
    }


def test_a_file_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    seen: list[dict[str, int]] = []
    replace = os.replace

    def slow(source: str, target: Path) -> None:
        seen.append(json.loads(path.read_text()))  # readers still see the old one
        seen.append(json.loads(Path(source).read_text()))  # the new one is whole before it gets its name
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow)
    write_json(path, {"new": 2})
    assert seen == [{"old": 1}, {"new": 2}]
    assert json.loads(path.read_text()) == {"new": 2}
    assert entries(tmp_path) == {"x.json"}


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def full(source: str, target: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"new": 2})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert entries(tmp_path) == {"x.json"}


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o644


DAMAGED = [
    b"",
    b"{",
    b'{"trial_id": "t0001"',
    b"\xff\xfe\x00",
    b"[]",
    b"null",
    b"{}",
    b'{"trial_id": "t0001", "candidate_id": "c", "status": "fine", "score": 1}',
    b'{"trial_id": "t0001", "candidate_id": "c", "status": ["completed"], "score": 1}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_outcome_is_set_aside(store: TrialStore, content: bytes) -> None:
    trial_id = start(store)
    path = store.folder(trial_id) / "outcome.json"
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"outcome\.json is damaged .*set aside as outcome\.json\.damaged"):
        assert store.outcome(trial_id) is None
    assert not path.exists()
    assert path.with_name("outcome.json.damaged").read_bytes() == content
    assert store.outcome(trial_id) is None  # without another warning


@given(content=st.binary(max_size=40) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps(value).encode()
))  # fmt: skip
def test_no_content_of_an_outcome_file_raises(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "contents"
    folder.mkdir(exist_ok=True)
    (folder / "outcome.json").write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert read_outcome(folder) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"candidate": 1}', b"\xff"])
def test_a_damaged_specification_is_an_error(store: TrialStore, content: bytes) -> None:
    trial_id = store.new_trial_id()
    (store.folder(trial_id) / "spec.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"spec\.json is damaged"):
        store.spec(trial_id)


@pytest.mark.parametrize("damage", [{"candidate": 3}, {"candidate": {}}, {"candidate": {"precision": "fp8"}}])
def test_a_specification_with_a_damaged_candidate_is_an_error(tmp_path: Path, damage: dict[str, Any]) -> None:
    write_json(tmp_path / "spec.json", {**make_spec(tmp_path).to_dict(), **damage})
    with pytest.raises(ValueError, match=r"spec\.json is damaged"):
        read_spec(tmp_path)


def test_a_trial_without_a_specification(store: TrialStore) -> None:
    with pytest.raises(FileNotFoundError):
        store.spec(store.new_trial_id())


def test_fields_that_a_later_version_added_are_no_damage(tmp_path: Path) -> None:
    write_json(tmp_path / "outcome.json", {**make_outcome().to_dict(), "later": 1})
    write_json(tmp_path / "spec.json", {**make_spec(tmp_path).to_dict(), "later": 1})
    assert isinstance(read_outcome(tmp_path), Outcome)
    assert isinstance(read_spec(tmp_path), TrialSpec)


# What is finished and what is not


def test_finished_trials_come_in_the_order_of_their_ids(store: TrialStore) -> None:
    first, open_one, last = finish(store), start(store), finish(store, status="failed", score=None)
    assert [outcome.trial_id for outcome in store.outcomes()] == [first, last]
    assert [spec.trial_id for spec, _ in store.finished()] == [first, last]
    assert store.outcome(open_one) is None


def test_a_finished_trial_without_its_specification_is_left_out(store: TrialStore) -> None:
    bad, good = finish(store), finish(store)
    (store.folder(bad) / "spec.json").write_text("{")
    with pytest.warns(UserWarning, match=f"trial {bad} is left out"):
        assert [spec.trial_id for spec, _ in store.finished()] == [good]


def test_orphans_are_emptied_and_finished_trials_are_not(store: TrialStore) -> None:
    done, orphan = finish(store), start(store)
    (store.folder(orphan) / "scratch" / "deep").mkdir(parents=True)
    assert store.clean_orphans() == [orphan]
    assert entries(store.folder(orphan)) == {"orphan.json"}
    assert entries(store.folder(done)) == {"spec.json", "outcome.json", "weights.part"}


def test_an_orphan_is_cleaned_once(store: TrialStore) -> None:
    start(store)
    assert store.clean_orphans() == ["t0001"]
    assert store.clean_orphans() == []


def test_a_trial_with_a_damaged_outcome_is_an_orphan(store: TrialStore) -> None:
    trial_id = start(store)
    (store.folder(trial_id) / "outcome.json").write_text('{"trial_id": "t00')
    with pytest.warns(UserWarning, match="counts as unfinished"):
        assert store.clean_orphans() == [trial_id]


def test_cleaning_does_not_follow_links_out_of_the_folder(store: TrialStore, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("mine")
    trial_id = start(store)
    (store.folder(trial_id) / "link").symlink_to(kept)
    store.clean_orphans()
    assert (kept / "file").read_text() == "mine"
    assert entries(store.folder(trial_id)) == {"orphan.json"}
