"""The only timer: median latency of an ONNX file for one image, measured so that two runs agree.

A process of its own with fixed threads, warm-up, several blocks of runs, all trials paused meanwhile; a
measurement during which something else used the processor is repeated. On a machine whose speed wanders by itself
(a shared host, a hot laptop) the blocks of one file disagree; how far they usually do is remembered per device, and a
limit is compared with what the file would take in a slow moment (:attr:`Latency.upper_ms`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from automl.device import Device, cores
from automl.errors import AutomlError
from automl.evaluation.quiet import quiet_machine

#: Processors that other programs may use during a block.
_OTHER_LOAD = 0.5
#: Of a quick look and of a thorough measurement: blocks, how many are measured at most where others disturb them, seconds
#: of a block and of the pause before the next.
_QUICK, _THOROUGH = (5, 10, 0.07, 0.0), (10, 40, 0.12, 0.3)
#: What is remembered of a device: ratios slowest block / fastest block, the newest last.
_REMEMBERED, _QUANTILE, _LARGEST_FACTOR = 60, 0.9, 1.6


@dataclass(frozen=True)
class Latency:
    """Latency of one image, milliseconds.

    Attributes:
        median_ms, p95_ms: over all runs.
        low_ms, high_ms: medians of the fastest and the slowest block.
        upper_ms: median in a slow moment: the slowest block's, or the fastest block's times the device's
            usual ratio of both, whichever is larger. A model is chosen by this value.
        blocks_ms: median of each block.
        memory_mb: resident memory that the model added to the process.
        calm: whether no other program disturbed it.
        device: where.
        complete: whether it was measured to the end; see :meth:`Timer.measure`.
    """

    median_ms: float
    p95_ms: float
    low_ms: float
    high_ms: float
    upper_ms: float
    blocks_ms: tuple[float, ...]
    memory_mb: float
    calm: bool
    device: str
    complete: bool = True


class Steadiness:
    """How much the speed of a device wanders by itself, learned from every thorough measurement on it.

    Args:
        path: JSON file in which it is remembered; None for this process only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._ratios: list[float] = []
        try:
            stored = json.loads(path.read_text(encoding="utf-8")) if path is not None else []
            self._ratios = [float(v) for v in stored if 1.0 <= float(v) < 100.0]
        except (OSError, ValueError, TypeError):
            self._ratios = []  # a damaged note is learned anew

    @property
    def known(self) -> bool:
        """Whether anything was ever noted."""
        return bool(self._ratios)

    @property
    def factor(self) -> float:
        """Slow moment / fast moment, at least 1: the 90 % quantile of what was seen."""
        if not self._ratios:
            return 1.0
        return float(min(_LARGEST_FACTOR, np.quantile(self._ratios, _QUANTILE)))

    def note(self, blocks: Sequence[float]) -> None:
        """Learn from the blocks of a thorough measurement."""
        self._ratios = [*self._ratios, max(blocks) / max(min(blocks), 1e-9)][-_REMEMBERED:]
        if self._path is None:
            return
        temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            temporary.write_text(json.dumps([round(v, 4) for v in self._ratios]), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            temporary.unlink(missing_ok=True)  # it is a convenience: nothing depends on it being kept


class Timer:
    """Measures files, each in a process of its own; use as a context manager.

    Args:
        device: where to run.
        steadiness: of the device; by default nothing is known about it.
    """

    def __init__(self, device: Device, steadiness: Steadiness | None = None) -> None:
        self.device = device
        self.steadiness = steadiness or Steadiness()
        self._there: Any = None
        if device.profile:
            from automl.device import read_profile
            from automl.evaluation._there import There

            self._name, self._there = device.label, There(read_profile(device.profile))
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Timer:
        self._child = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def measure(
        self, path: str | os.PathLike[str], *, thorough: bool = True, limit_ms: float | None = None
    ) -> Latency:
        """Measure one file; for a device that a profile describes, predict from what is measured here.

        Args:
            path: of an exported model.
            thorough: some seconds with pauses, so that slow moments of the machine are seen; otherwise a look of
                half a second.
            limit_ms: that ``upper_ms`` has to keep; the measurement ends, not complete, as soon as it certainly does not.

        Raises:
            AutomlError: the file cannot be run on the device.
        """
        with quiet_machine():
            settings = _THOROUGH if thorough else _QUICK
            answer = self._ask(Path(path), *settings, None if self._there else limit_ms)
        blocks = tuple(float(np.median(block)) for block in answer["blocks"])
        calm = answer["other_load"] < _OTHER_LOAD
        if thorough and calm and answer["complete"]:
            self.steadiness.note(blocks)
        runs = np.concatenate(answer["blocks"])
        found = Latency(
            median_ms=float(np.median(runs)),
            p95_ms=float(np.percentile(runs, 95)),
            low_ms=min(blocks),
            high_ms=max(blocks),
            upper_ms=max(*blocks, min(blocks) * self.steadiness.factor),
            blocks_ms=blocks,
            memory_mb=answer["memory_mb"],
            calm=calm,
            device=str(self.device),
            complete=answer["complete"],
        )
        return found if self._there is None else self._predicted(found, Path(path))

    def _predicted(self, here: Latency, path: Path) -> Latency:
        """What a device that is not here takes; in a slow moment it is slower by what the prediction may be off, too."""
        from automl.evaluation._there import precision_of

        middle = self._there.latency(here.median_ms, precision_of(path))
        scale = middle / here.median_ms
        return replace(
            here,
            median_ms=middle,
            p95_ms=here.p95_ms * scale,
            low_ms=here.low_ms * scale,
            high_ms=here.high_ms * scale,
            upper_ms=here.upper_ms * scale * self._there.factor,
            blocks_ms=tuple(block * scale for block in here.blocks_ms),
            device=self._name,
        )

    def _ask(
        self, path: Path, blocks: int, most: int, seconds: float, pause: float, above: float | None
    ) -> dict[str, Any]:
        child = self._child if self._child is not None else self._start()
        request = {
            "path": str(path.resolve()),
            "kind": self.device.kind,
            "threads": self.device.threads,
            "index": self.device.index,
            "blocks": blocks,
            "most": most,
            "load": _OTHER_LOAD,
            "seconds": seconds,
            "pause": pause,
            "above": above,
        }
        try:
            if child.stdin is None or child.stdout is None:
                raise BrokenPipeError
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            answer: dict[str, Any] = json.loads(child.stdout.readline())
        except (OSError, ValueError) as error:
            raise AutomlError(f"the measuring process died while it ran {path.name}") from error
        finally:
            # A process of its own for every file, so that memory is the file's alone; the next one starts ahead.
            self._child = child
            self._end()
            self._child = self._start()
        if "error" in answer:
            raise AutomlError(f"{path.name} cannot be run on {self.device}: {answer['error']}")
        return answer

    def _start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.device.threads)}
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

        def pin() -> None:
            if self.device.kind == "cpu" and len(allowed) > self.device.threads:
                os.sched_setaffinity(0, set(allowed[-self.device.threads :]))

        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("_timer.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            preexec_fn=pin if allowed else None,
            start_new_session=True,
        )


def measure_latency(
    path: str | os.PathLike[str],
    device: Device,
    steadiness: Steadiness | None = None,
    *,
    thorough: bool = True,
) -> Latency:
    """Measure one file; see :class:`Timer`."""
    with Timer(device, steadiness) as timer:
        return timer.measure(path, thorough=thorough)


def measured_costs(info: Any, latency: Latency, *, cautious: bool = False) -> dict[str, float]:
    """Costs of a file by their names in limits.

    Args:
        info: a :class:`automl.export.ExportInfo`.
        latency: of the same file.
        cautious: whether the latency is that of a slow moment.
    """
    return {
        "latency_ms": latency.upper_ms if cautious else latency.median_ms,
        "latency_p95_ms": latency.p95_ms,
        "memory_mb": latency.memory_mb,
        "size_mb": info.size_bytes / 1e6,
        "params_m": info.params / 1e6,
        "macs_m": info.macs / 1e6,
    }


def _graphics_cards() -> str:
    """Models of the NVIDIA devices of this machine, as the driver tells them."""
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    return ",".join(found)


def device_name(device: Device) -> str:
    """What a measurement depends on besides the file: device, processor, ONNX Runtime; fit for a file name."""
    import hashlib
    import platform

    import onnxruntime

    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            processor = next((line for line in handle if line.startswith("model name")), processor)
    except OSError:
        pass
    text = f"{processor.strip()}|{cores()}|{onnxruntime.__version__}"
    if device.kind == "cuda":
        text += f"|{os.environ.get('CUDA_VISIBLE_DEVICES')}|{_graphics_cards()}"
    if device.profile:
        text += f"|{hashlib.sha256(Path(device.profile).read_bytes()).hexdigest()}"
    return f"{device.kind}-{device.number}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
