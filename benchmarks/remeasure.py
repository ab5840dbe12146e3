"""Measures exported models again, independently of the engine: standard library, NumPy and ONNX Runtime only.

``python remeasure.py [--rounds 5] [--seconds 0.4] FILE …`` prints one JSON object. All files are measured
once in every round, each time in another order, with one thread and one image at a time; a file's value is
the median over rounds of the median of a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_WARM_UP, _FEWEST, _MOST = 5, 10, 2000


def one_round(path: str, seconds: float, seed: int) -> tuple[float, int]:
    """Median latency of one image, milliseconds, and the number of runs.

    Args:
        path: of the ONNX file; its input is uint8 ``[N, H, W, 3]``.
        seconds: of measuring, after a warm-up.
        seed: of the image's noise.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    height, width = (int(side) for side in given.shape[1:3])
    image = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    for _ in range(_WARM_UP):
        session.run(None, {given.name: image})
    runs: list[float] = []
    began = time.perf_counter()
    while len(runs) < _FEWEST or (time.perf_counter() - began < seconds and len(runs) < _MOST):
        tick = time.perf_counter_ns()
        session.run(None, {given.name: image})
        runs.append((time.perf_counter_ns() - tick) / 1e6)
    return float(np.median(runs)), len(runs)


def remeasure(paths: Sequence[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Measure all files in turn, ``rounds`` times.

    Returns:
        ``files`` (path → ``rounds_ms``, ``median_ms``, ``runs``, ``bytes``), and with what it was measured.
    """
    files: dict[str, dict[str, Any]] = {
        path: {"rounds_ms": [], "runs": 0, "bytes": os.path.getsize(path)} for path in paths
    }
    rng = np.random.default_rng(0)
    load = []
    for number in range(rounds):
        for at in rng.permutation(len(paths)).tolist():
            median, runs = one_round(paths[at], seconds, number)
            files[paths[at]]["rounds_ms"].append(round(median, 5))
            files[paths[at]]["runs"] += runs
        load.append(round(os.getloadavg()[0], 2))
    for found in files.values():
        found["median_ms"] = float(np.median(found["rounds_ms"]))
    return {
        "files": files,
        "rounds": rounds,
        "seconds": seconds,
        "threads": 1,
        "load": load,
        "cpu": _cpu(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main(argv: Sequence[str]) -> int:
    """Measure the files of the command and print what was found."""
    parser = argparse.ArgumentParser(description="Latency and size of ONNX files, one thread, batch 1.")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rounds", type=int, default=5, help="over all files (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.4, help="per file and round (default %(default)s)")
    options = parser.parse_args(argv)
    print(json.dumps(remeasure(options.files, options.rounds, options.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
