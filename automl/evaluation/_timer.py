"""Times ONNX files in a process of its own; imports only the standard library, NumPy and ONNX Runtime.

Reads one JSON request per line from standard input and answers with one JSON object per line.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort


def _resident_mb() -> float:
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * resource.getpagesize() / 1e6


def _other_load() -> float:
    """Busy ticks of the whole machine so far, without this process's own, in seconds."""
    try:
        with open("/proc/stat") as handle:
            ticks = [int(v) for v in handle.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0.0
    busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()


def _session(path: str, kind: str, threads: int, index: int) -> tuple[ort.InferenceSession, Any]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if kind == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise RuntimeError(
                "this ONNX Runtime has no CUDA; 'pip uninstall onnxruntime', then 'pip install onnxruntime-gpu'"
            )
        if hasattr(ort, "preload_dlls"):  # CUDA's libraries that came with torch
            ort.preload_dlls()
        session = ort.InferenceSession(
            path, options, providers=[("CUDAExecutionProvider", {"device_id": index})], enable_fallback=0
        )
        if "CUDAExecutionProvider" not in session.get_providers():
            raise RuntimeError("ONNX Runtime cannot load CUDA here and would run on the processor")
    else:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    image = np.random.default_rng(0).integers(0, 256, (1, int(shape[1]), int(shape[2]), 3), dtype=np.uint8)
    return session, {"images": image}


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Blocks of single-image runs, each about ``seconds`` long, with ``pause`` seconds between them; see :func:`calmest`."""
    before = _resident_mb()
    session, feed = _session(request["path"], request["kind"], request["threads"], request["index"])
    names = ["probabilities", "label"]
    for _ in range(3):
        session.run(names, feed)
    began = time.perf_counter()
    count = 0
    while count < 3 or (time.perf_counter() - began < 0.1 and count < 500):
        session.run(names, feed)
        count += 1
    each = (time.perf_counter() - began) / count
    memory = max(0.0, _resident_mb() - before)
    per_block = int(max(5 if each < 0.1 else 2, min(400, request["seconds"] / each)))

    def block() -> list[float]:
        times = []
        for _ in range(per_block):
            tick = time.perf_counter_ns()
            session.run(names, feed)
            times.append((time.perf_counter_ns() - tick) / 1e6)
        return times

    def rest() -> None:
        if request["pause"]:
            time.sleep(request["pause"])
            session.run(names, feed)

    blocks, load = calmest(block, rest, request["blocks"], request["most"], request["load"], request["above"])
    complete = len(blocks) >= request["blocks"]
    return {"blocks": blocks, "memory_mb": memory, "other_load": load, "complete": complete}


def calmest(
    block: Callable[[], list[float]],
    rest: Callable[[], None],
    count: int,
    most: int,
    load: float,
    above: float | None = None,
) -> tuple[list[list[float]], float]:
    """Measure blocks until ``count`` of them were not disturbed, or ``most`` were measured.

    Args:
        block: measures one.
        rest: called between two.
        count: how many are wanted.
        most: how many are measured.
        load: processors that others may use during one.
        above: milliseconds; the median of an undisturbed one above it ends the measurement.

    Returns:
        the ``count`` least disturbed ones in the order of measuring, fewer where it ended before, and the most that others
        used during one of them.
    """
    blocks: list[list[float]] = []
    loads: list[float] = []
    while len(blocks) < most and sum(seen < load for seen in loads) < count:
        before, start = _other_load(), time.perf_counter()
        if blocks:
            rest()
        blocks.append(block())
        loads.append((_other_load() - before) / max(time.perf_counter() - start, 1e-6))
        if above is not None and loads[-1] < load and float(np.median(blocks[-1])) > above:
            break
    kept = sorted(sorted(range(len(blocks)), key=loads.__getitem__)[:count])
    return [blocks[at] for at in kept], max(loads[at] for at in kept)


def main() -> None:
    """Serve requests until standard input ends."""
    # Libraries print where they like; the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = measure(request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
