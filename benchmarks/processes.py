"""Commands that are measured from outside: their time, the memory of all their processes, and their trials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: How memory is counted; tables quote it.
MEMORY_IS = (
    "resident memory less shared file pages (psutil rss - shared), summed over processes: what would have to be "
    "swapped out; mapped files and shared libraries are not in it, pages shared after a fork count in each process"
)
#: Seconds between two samples; looking through all processes costs milliseconds that the submit then lacks.
SAMPLE_SECONDS = 0.25


def private_bytes(process: Any) -> int:
    """Resident bytes of one process without shared file pages; its unique set where a system does not tell them."""
    memory = process.memory_info()
    shared = getattr(memory, "shared", None)
    return int(process.memory_full_info().uss if shared is None else memory.rss - shared)


@dataclass
class Peaks:
    """Largest sums seen, bytes.

    Attributes:
        total: of all processes at one time.
        driver: of the process that was started.
        workers: of Ray's workers (processes called ``ray::…``) together.
        others: of all other child processes together.
        uss: unique set of the driver, which also counts file pages that only it maps.
    """

    total: int = 0
    driver: int = 0
    workers: int = 0
    others: int = 0
    uss: int = 0

    def megabytes(self) -> dict[str, float]:
        """In units of 1e6 bytes, as plain JSON values."""
        return {
            **{
                name: round(getattr(self, name) / 1e6, 1) for name in ("total", "driver", "workers", "others")
            },
            "uss": round(self.uss / 1e6, 1),
        }


class TreeMemory:
    """Samples a process and its children in a thread until :meth:`stop`.

    Args:
        pid: of the process.
        seconds: between two samples.
        unique: also ask for the driver's unique set, which takes the kernel some milliseconds.
    """

    def __init__(self, pid: int, seconds: float = SAMPLE_SECONDS, *, unique: bool = False) -> None:
        self.peaks = Peaks()
        self.samples = 0
        self._pid, self._seconds, self._unique = pid, seconds, unique
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tree-memory", daemon=True)
        self._thread.start()

    def stop(self) -> Peaks:
        """Return the peaks."""
        self._end.set()
        self._thread.join()
        return self.peaks

    def _run(self) -> None:
        import psutil

        try:
            root = psutil.Process(self._pid)
        except psutil.Error:
            return
        while not self._end.is_set():
            self._sample(root)
            self._end.wait(self._seconds)

    def _sample(self, root: Any) -> None:
        import psutil

        sums = {"driver": 0, "workers": 0, "others": 0}
        try:
            sums["driver"] = private_bytes(root)
            if self._unique:
                self.peaks.uss = max(self.peaks.uss, int(root.memory_full_info().uss))
            children = root.children(recursive=True)
        except psutil.Error:
            return
        for child in children:
            try:
                role = "workers" if "".join(child.cmdline()[:1]).startswith("ray::") else "others"
                sums[role] += private_bytes(child)
            except psutil.Error:
                continue
        for name, value in sums.items():
            setattr(self.peaks, name, max(getattr(self.peaks, name), value))
        self.peaks.total = max(self.peaks.total, sum(sums.values()))
        self.samples += 1


@dataclass(frozen=True)
class Finished:
    """A command that ended.

    Attributes:
        code: exit code.
        started: on the clock of ``time.time()``.
        seconds: from the start of the process to its end.
        output: what it wrote to standard output.
        log: file with what it wrote to standard error.
        peaks: memory.
    """

    code: int
    started: float
    seconds: float
    output: str
    log: Path
    peaks: Peaks = field(default_factory=Peaks)

    def why(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def measured(
    command: Sequence[str],
    log: Path,
    *,
    home: Path,
    seconds: float = SAMPLE_SECONDS,
    unique: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run ``python -m COMMAND`` with its own home folder and no other history, and sample its memory.

    Args:
        command: module and arguments.
        log: file for its standard error; its folder is made.
        home: ``AUTOML_HOME``.
        seconds: between two samples.
        unique: as in :class:`TreeMemory`.
        environment: further variables.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, **(environment or {}), "AUTOML_HOME": str(home)}
    variables.pop("AUTOML_HISTORY", None)
    output = log.with_suffix(".out")
    with open(log, "w", encoding="utf-8") as errors, open(output, "w", encoding="utf-8") as out:
        started, began = time.time(), time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=out, stderr=errors, stdin=subprocess.DEVNULL, env=variables,
        )  # fmt: skip
        memory = TreeMemory(process.pid, seconds, unique=unique)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            took = time.perf_counter() - began
            peaks = memory.stop()
    return Finished(code, started, took, output.read_text(encoding="utf-8"), log, peaks)


@dataclass(frozen=True)
class TrialTime:
    """When a trial ran, on the clock of ``time.time()``; ``status`` as in its outcome."""

    name: str
    began: float
    ended: float
    status: str


def trial_times(run_folder: Path) -> list[TrialTime]:
    """Times of all trials of a run that have an outcome, in the order of their ends.

    A trial ends when its outcome is written; it began as many seconds earlier as it says that it took.
    """
    found = []
    for path in (run_folder / "search" / "trials").glob("t*/outcome.json"):
        outcome = json.loads(path.read_text(encoding="utf-8"))
        ended = path.stat().st_mtime
        found.append(
            TrialTime(path.parent.name, ended - float(outcome["seconds"]), ended, str(outcome["status"]))
        )
    return sorted(found, key=lambda trial: trial.ended)


def torch_alone(home: Path, log: Path) -> float:
    """Bytes (as :data:`MEMORY_IS`) of a process that has imported torch and timm and done nothing."""
    done = measured(["benchmarks.processes"], log, home=home)
    return float(json.loads(done.output)) if done.code == 0 else 0.0


def main() -> int:
    """What :func:`torch_alone` runs."""
    import psutil
    import timm  # noqa: F401
    import torch  # noqa: F401

    print(private_bytes(psutil.Process()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
