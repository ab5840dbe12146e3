"""What a process of the data path suite does: bare decoding, taking a data set in, or opening it again.

``python -m benchmarks.suites._datapath_probe SPEC.json`` prints one JSON object.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

#: Images that a worker takes at a time.
_CHUNK = 16


def bare(paths: Sequence[str], side: int, workers: int) -> dict[str, Any]:
    """Decode and resize files with Pillow and do nothing else: on a pool of threads, then on one of processes.

    Returns:
        of the faster pool: ``images``, ``seconds`` (without the start of the pool), ``cpu`` (seconds of processor
        time) and ``pool`` (``"threads"`` or ``"processes"``).
    """
    spawned = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("spawn"))
    found = [_bare(paths, side, workers, pool) for pool in (ThreadPoolExecutor, spawned)]
    found[0]["pool"], found[1]["pool"] = "threads", "processes"
    return min(found, key=lambda one: float(one["seconds"]))


def _bare(paths: Sequence[str], side: int, workers: int, make: Callable[[int], Executor]) -> dict[str, Any]:
    cpu = cpu_seconds()
    with make(workers) as pool:
        # Long enough that no worker takes two: each of them has started and read Pillow before the clock runs.
        list(pool.map(_ready, [0.2] * workers))
        began = time.perf_counter()
        chunks = [(paths[begin : begin + _CHUNK], side) for begin in range(0, len(paths), _CHUNK)]
        for _ in pool.map(_decode, chunks):
            pass
        seconds = time.perf_counter() - began
    return {"images": len(paths), "seconds": seconds, "cpu": cpu_seconds() - cpu}


def _ready(seconds: float) -> None:
    Image.init()
    time.sleep(seconds)


def _decode(chunk: tuple[Sequence[str], int]) -> None:
    paths, side = chunk
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)


def cpu_seconds() -> float:
    """Seconds of processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def intake(source: str, cache: str) -> dict[str, Any]:
    """Take a data set in, or open it again.

    Returns:
        ``images``, ``stored``, ``side``, ``seconds`` (until the data set is ready), ``cpu`` (seconds of
        processor time), ``decoding`` (seconds from before the first image is decoded to after the last, None where
        nothing was decoded), ``base`` (private
        bytes before) and ``left`` (after).
    """
    import psutil

    from automl.data import load_dataset
    from benchmarks.processes import private_bytes

    marks: list[float] = []

    def progress(_done: int, _total: int) -> None:
        now = time.perf_counter()
        marks[1:] = [now] if marks else []
        if not marks:
            marks.append(now)

    process = psutil.Process()
    base = private_bytes(process)
    began, cpu = time.perf_counter(), cpu_seconds()
    data = load_dataset(source, cache_dir=cache, progress=progress)
    seconds = time.perf_counter() - began
    return {
        "images": len(data),
        "stored": data.report.stored,
        "side": data.size,
        "seconds": seconds,
        "cpu": cpu_seconds() - cpu,
        "decoding": marks[1] - marks[0] if len(marks) > 1 else None,
        "base": base,
        "left": private_bytes(process),
    }


def warm(paths: Sequence[str]) -> None:
    """Read files once, so that both sides find them in the page cache."""
    for path in dict.fromkeys(paths):
        with open(path, "rb") as handle:
            handle.read()


def answer(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a spec names: ``{"do": "bare", "paths", "side", "threads"}`` or ``{"do": "intake", "source", "cache"}``."""
    if spec["do"] == "bare":
        paths = Path(spec["paths"]).read_text(encoding="utf-8").split("\0")
        warm(paths)
        return bare(paths, spec["side"], spec["threads"])
    return intake(spec["source"], spec["cache"])


def main(arguments: list[str]) -> int:
    """``SPEC.json``."""
    print(json.dumps(answer(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
