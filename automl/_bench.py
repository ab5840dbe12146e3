"""Exports untrained networks, times them, and remembers per device what it found."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from automl.device import Device
from automl.evaluation.latency import Steadiness, Timer, device_name
from search_spaces.backbones import Backbone, create_backbone
from search_spaces.counts import COUNTED_SIDE, count_macs, look_up

#: Rises when a stored measurement changes its meaning.
_FORMAT = 1
#: The same of stored counts.
_COUNTED = 2
#: Seconds to wait at most, before the first measurement, until other programs use fewer cores than this.
_PATIENCE, _CALM = 10.0, 0.5
#: Name of the folders of files that are timed, and seconds after which nobody works on one any more.
_SCRATCH, _ABANDONED = "export-", 3600.0
_KEYS = ("size_mb", "latency_ms", "latency_p95_ms", "memory_mb", "low")


class Bench:
    """Measures untrained networks; a context manager.

    Args:
        device: the models will run on.
        classes: of the task; they decide the size of the head.
        cache: folder of measurements.
        learn: take some seconds for a calm machine, and to learn how steady the device is where nothing is known of it.

    Attributes:
        waited: seconds until the machine was calm enough for the first measurement; None before it.
    """

    def __init__(self, device: Device, classes: int, cache: Path, *, learn: bool = True) -> None:
        self.folder = cache / device_name(device)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.classes = classes
        self._learn = learn
        self.timer = Timer(device, steadiness(cache, device))
        # From the first file alone: where it is never calm, nothing is learned and each one would take as long.
        self._learning = learn and not self.timer.steadiness.known
        _sweep(self.folder)
        self._models: dict[str, Any] = {}
        self.waited: float | None = None

    def __enter__(self) -> Bench:
        self.timer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.timer.__exit__(*error)

    @property
    def factor(self) -> float:
        """How much slower the device is in a slow moment."""
        return float(self.timer.steadiness.factor)

    def costs(self, backbone: Backbone, precision: str, side: int) -> dict[str, float]:
        """Measure one network, or take what is remembered.

        Returns:
            ``size_mb``, ``latency_ms``, ``latency_p95_ms``, ``memory_mb`` and ``low``, the latency of the fastest block.

        Raises:
            AutomlError: it cannot be exported or run.
            BackboneError: it cannot be built.
        """
        path = self.folder / f"{_key(backbone, side, precision, self.classes)}.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return {name: float(stored[name]) for name in _KEYS}
        except (OSError, ValueError, TypeError, KeyError):
            pass  # not measured yet, or a damaged note
        found, calm = self._measured(backbone, precision, side)
        if calm:
            _remember(path, found)
        return found

    def _measured(self, backbone: Backbone, precision: str, side: int) -> tuple[dict[str, float], bool]:
        from automl.export import export_onnx

        if backbone.name not in self._models:
            self._models = {backbone.name: untrained(backbone, self.classes)}
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=_SCRATCH) as scratch:
            file = Path(scratch) / "untrained.onnx"
            info = export_onnx(self._models[backbone.name], side, file, precision=precision)
            if self.waited is None:
                self.waited = _wait_until_calm() if self._learn else 0.0
            # The first file of all also shows how steady the device is.
            latency = self.timer.measure(file, thorough=self._learning)
            self._learning = False
            if latency.high_ms > 1.15 * latency.low_ms or not latency.calm:
                again = self.timer.measure(file, thorough=False)
                latency = min(latency, again, key=lambda seen: (not seen.calm, seen.median_ms))
        found = {
            "size_mb": info.size_bytes / 1e6,
            "latency_ms": latency.median_ms,
            "latency_p95_ms": latency.p95_ms,
            "memory_mb": latency.memory_mb,
            "low": latency.low_ms,
        }
        return found, latency.calm


def counts(backbone: Backbone, sides: Sequence[int], classes: int, cache: Path) -> tuple[dict[int, int], int]:
    """Multiply-accumulates at each side, and parameters; remembered, as building every network takes seconds.

    Raises:
        BackboneError: it cannot be built.
        Exception: whatever the network does wrong.
    """
    found = _counted(backbone, sides, cache)
    if found is None:
        model = untrained(backbone, 1)
        # A head of one class has a multiply-accumulate per feature, and a bias.
        width = int(model.head.linear.in_features)
        found = {
            "macs": {side: count_macs(model, side) - width for side in sides},
            "params": sum(p.numel() for p in model.parameters()) - width - 1,
            "width": width,
        }
        path = _counts_note(backbone, sides, cache)
        with suppress(OSError):  # a full disk must not look like a network that cannot be built
            path.parent.mkdir(parents=True, exist_ok=True)
            _remember(path, found)
    head = found["width"] * classes
    return {side: macs + head for side, macs in found["macs"].items()}, found["params"] + head + classes


def is_counted(backbone: Backbone, sides: Sequence[int], cache: Path) -> bool:
    """Whether :func:`counts` answers without building the network."""
    return _counted(backbone, sides, cache) is not None


def _counted(backbone: Backbone, sides: Sequence[int], cache: Path) -> dict[str, Any] | None:
    """The trunk's counts, None where it was not counted yet or its note is damaged."""
    known = look_up(backbone) if list(sides) == [COUNTED_SIDE] else None
    if known is not None:
        return {"macs": {COUNTED_SIDE: known.macs}, "params": known.params, "width": known.width}
    try:
        stored = json.loads(_counts_note(backbone, sides, cache).read_text(encoding="utf-8"))
        macs = {side: int(stored["macs"][str(side)]) for side in sides}
        return {"macs": macs, "params": int(stored["params"]), "width": int(stored["width"])}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _counts_note(backbone: Backbone, sides: Sequence[int], cache: Path) -> Path:
    return cache / "counts" / f"{_key(backbone, _COUNTED, list(sides))}.json"


def _key(backbone: Backbone, *rest: Any) -> str:
    versions = version("timm"), version("torch")
    text = json.dumps([_FORMAT, backbone.to_dict(), *rest, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _remember(path: Path, found: dict[str, Any]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    temporary.write_text(json.dumps(found), encoding="utf-8")
    os.replace(temporary, path)


def _sweep(folder: Path) -> None:
    """Remove the files of processes that were killed while they measured."""
    for left in folder.glob(f"{_SCRATCH}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _wait_until_calm() -> float:
    """Wait for what still starts beside this process, as it would disturb the first measurements; seconds waited."""
    import psutil

    began = time.monotonic()
    while time.monotonic() < began + _PATIENCE:
        before, since = psutil.cpu_times(), time.monotonic()
        time.sleep(0.3)
        idle = psutil.cpu_times().idle - before.idle
        if (os.cpu_count() or 1) - idle / (time.monotonic() - since) < _CALM:
            break
    return time.monotonic() - began


def untrained(backbone: Backbone, classes: int) -> Any:
    """The network as it would be exported, without its weights: normalisation, pooled features, a linear head."""
    import torch

    from automl.training import Features, VisionModel
    from automl.training._heads import LinearHead

    body = Features(create_backbone(backbone, pretrained=False), "last").eval()
    with torch.inference_mode():  # on few pixels some networks are left without any
        width = int(body(torch.zeros(1, 3, COUNTED_SIDE, COUNTED_SIDE)).shape[1])
    return VisionModel(backbone, body, LinearHead(width, classes)).eval()


def steadiness(cache: Path, device: Device) -> Steadiness:
    """What is remembered of the device's steadiness beside its measurements."""
    folder = cache / device_name(device)
    folder.mkdir(parents=True, exist_ok=True)
    return Steadiness(folder / "steadiness.json")
