"""Limits of control groups, read from made files."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import pytest

from automl import _container
from automl.device import cores


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_container, "_ROOT", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(16)), raising=False)
    return tmp_path


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_without_control_groups_there_is_no_limit(root: Path) -> None:
    assert (_container.processors(), _container.memory(), cores()) == (math.inf, math.inf, 16)


@pytest.mark.parametrize(
    ("limit", "count"), [("200000 100000", 2), ("250000 100000", 3), ("10000 100000", 1), ("max 100000", 16)]
)
def test_the_quota_of_a_container(root: Path, limit: str, count: int) -> None:
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", f"{limit}\n")
    assert cores() == count


def test_the_limits_of_all_groups_above_count(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/slice/pod/box\n")
    put(root, "sys/fs/cgroup/slice/pod/box/cpu.max", "max 100000\n")
    put(root, "sys/fs/cgroup/slice/pod/cpu.max", "300000 100000\n")
    put(root, "sys/fs/cgroup/slice/cpu.max", "400000 100000\n")
    put(root, "sys/fs/cgroup/slice/pod/box/memory.max", "max\n")
    put(root, "sys/fs/cgroup/slice/memory.max", "1000\n")
    assert (cores(), _container.memory()) == (3, 1000)


@pytest.mark.parametrize("place", ["", "/docker/abc"])
@pytest.mark.parametrize(("names", "folder"), [("cpu,cpuacct", "cpu,cpuacct"), ("cpuacct,cpu", "cpu")])
def test_version_one(root: Path, place: str, names: str, folder: str) -> None:
    """Inside a container the path is that of the host, and the container's own group lies above it."""
    put(root, "proc/self/cgroup", f"5:memory:/docker/abc\n4:{names}:/docker/abc\n3:cpuset:/elsewhere\n0::/\n")
    put(root, f"sys/fs/cgroup/{folder}{place}/cpu.cfs_quota_us", "150000\n")
    put(root, f"sys/fs/cgroup/{folder}{place}/cpu.cfs_period_us", "100000\n")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(root, f"sys/fs/cgroup/memory{place}/memory.limit_in_bytes", "2000\n")
    assert (cores(), _container.memory()) == (2, 2000)


@pytest.mark.parametrize(
    "text", ["", "-1", "0 100000", "100000", "100000 0", "many few", "\xff\xfe", "1e5 1e5"]
)
def test_what_cannot_be_understood_is_no_limit(root: Path, text: str) -> None:
    put(root, "proc/self/cgroup", "nonsense\n7:cpu\n0::/../../outside\n\n1:cpu,cpuacct:/a\n")
    for name in ("cpu.max", "cpu,cpuacct/cpu.cfs_quota_us", "outside/cpu.max"):
        put(root, f"sys/fs/cgroup/{name}", text)
    put(root, "sys/fs/cgroup/memory.max", "max" if "many" in text else "-1")
    assert (_container.processors(), _container.memory()) == (math.inf, math.inf)


def test_a_worker_has_its_share_of_the_container(root: Path) -> None:
    from automl.search._ray_runner import _memory_limit

    there = psutil.virtual_memory().total
    assert _memory_limit(2) == there // 4
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/memory.max", f"{there // 2}\n")
    assert _memory_limit(2) == pytest.approx(there / 8, abs=1)
    put(root, "sys/fs/cgroup/memory.max", f"{2 * there}\n")
    assert _memory_limit(2) == there // 4
