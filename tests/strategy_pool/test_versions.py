"""Versions appear complete or not at all, whoever is killed when."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from strategy_pool.ranker import Ranker
from strategy_pool.versions import Busy, VersionError, Versions
from tests.strategy_pool.test_rankers import dense

ABOUT = {"created": "2026-01-01T00:00:00+00:00", "data": "abc"}
MARKS = np.array([1, 2, 2**63], dtype=np.uint64)
#: Publishes for ever.
PUBLISHER = """
import sys
from strategy_pool.versions import Versions
from tests.strategy_pool.test_versions import ABOUT, MARKS, fitted
ranker, versions = fitted(), Versions(sys.argv[1])
print("ready", flush=True)
with versions.lock():
    while True:
        versions.publish(ranker, ABOUT, MARKS)
"""


def fitted() -> Ranker:
    return Ranker().fit(dense(tasks=2), 0)


def test_nothing_is_in_use_before_the_first(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "none")
    assert versions.numbers() == [] and versions.in_use is None and versions.ranker() is None
    assert not (tmp_path / "none").exists()


def test_the_newest_is_used_and_an_older_one_can_be_again(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    assert [versions.publish(fitted(), {**ABOUT, "data": name}, MARKS) for name in "ab"] == [1, 2]
    assert versions.in_use == 2 and versions.data(1) == "a" and versions.data(9) == ""
    np.testing.assert_array_equal(versions.learned(2), MARKS)
    versions.use(1)
    assert versions.in_use == 1
    assert versions.publish(fitted(), ABOUT, MARKS) == 3 == versions.in_use
    versions.use(0)
    assert versions.in_use is None and versions.numbers() == [1, 2, 3]


def test_what_is_read_says_what_was_published(tmp_path: Path) -> None:
    versions, ranker = Versions(tmp_path), fitted()
    versions.publish(ranker, ABOUT, MARKS)
    read = versions.ranker()
    assert read is not None
    shown = dense().of(["t0"]).frame
    np.testing.assert_array_equal(read.predict(shown), ranker.predict(shown))


def test_a_version_that_is_not_there_is_told(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.publish(fitted(), ABOUT, MARKS)
    with pytest.raises(VersionError, match=r"no version 7 .* there are: 1"):
        versions.use(7)
    (tmp_path / "in_use").write_text("what")
    with pytest.raises(VersionError, match="in_use"):
        _ = versions.in_use


def test_only_one_publishes(tmp_path: Path) -> None:
    with Versions(tmp_path).lock():
        with pytest.raises(Busy, match="another process"), Versions(tmp_path).lock():
            pass
        (tmp_path / ".new-left").mkdir()
    with Versions(tmp_path).lock():
        assert not (tmp_path / ".new-left").exists()


def test_a_failed_publish_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = Versions(tmp_path)
    versions.publish(fitted(), ABOUT, MARKS)
    monkeypatch.setattr("strategy_pool.versions.save", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        versions.publish(fitted(), ABOUT, MARKS)
    assert versions.in_use == 1 and versions.numbers() == [1]
    assert [e.name for e in os.scandir(tmp_path) if e.name.startswith(".")] == []


def test_whoever_is_killed_leaves_a_whole_version_in_use(tmp_path: Path) -> None:
    random.seed(0)
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as publisher:
            assert publisher.stdout is not None
            assert publisher.stdout.readline() == b"ready\n"
            time.sleep(random.uniform(0.05, 0.4))
            publisher.send_signal(signal.SIGKILL)
        versions = Versions(tmp_path)
        number = versions.in_use
        if number is None:
            continue
        assert versions.ranker() is not None and versions.about(number)["version"] == number
        for known in versions.numbers():
            assert versions.about(known)["data"] == "abc"
    with Versions(tmp_path).lock():
        assert Versions(tmp_path).publish(fitted(), ABOUT, MARKS) == Versions(tmp_path).in_use
