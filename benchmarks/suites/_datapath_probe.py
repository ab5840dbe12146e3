"""What a process of the data path suite does: bare decoding, taking a data set in, or opening it again.

``python -m benchmarks.suites._datapath_probe SPEC.json`` prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

#: Images that a thread takes at a time.
_CHUNK = 16


def bare(paths: Sequence[str], side: int, threads: int) -> dict[str, Any]:
    """Decode and resize files with Pillow on a pool of threads and do nothing else.

    Returns:
        ``images``, ``seconds`` and ``cpu`` (seconds of processor time).
    """
    from PIL import Image

    Image.init()

    def work(begin: int) -> None:
        for path in paths[begin : begin + _CHUNK]:
            with Image.open(path) as image:
                image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)

    began, cpu = time.perf_counter(), cpu_seconds()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, range(0, len(paths), _CHUNK)):
            pass
    return {"images": len(paths), "seconds": time.perf_counter() - began, "cpu": cpu_seconds() - cpu}


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
