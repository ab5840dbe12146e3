"""Frozen features: computed once per backbone, resolution and taps, shared by every trial.

The features of a dataset live in one memory-mapped file. It is filled in chunks; a worker claims a
chunk with a file lock, so two trials that need the same features compute half of them each, and a
killed worker leaves its chunk to the next. Inference runs through ONNX Runtime on a CPU, where it is
about twice as fast as eager torch, and through torch elsewhere.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from automl.errors import AutomlError
from automl.evaluation.quiet import working
from automl.machine import take_space
from automl.training._model import Features
from automl.training._precision import layout
from search_spaces.backbones import Backbone, create_backbone
from search_spaces.sizes import for_images

CHUNK = 64
#: Pixels that are run through a network at once on a CPU: more take memory and no less time.
_PIXELS_AT_ONCE = 400_000
Runner = Callable[[np.ndarray], list[np.ndarray]]


class OutOfTime(AutomlError):
    """The trial's own deadline passed."""


class _Normalised(nn.Module):
    def __init__(self, backbone: Backbone, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1) * 255.0)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1) * 255.0)

    mean: Tensor
    std: Tensor

    def forward(self, images: Tensor) -> Any:
        x = images.permute(0, 3, 1, 2).contiguous(memory_format=layout(images.device)).float()
        return self.body((x - self.mean) / self.std)


def inference_runner(
    module: nn.Module, backbone: Backbone, side: int, *, threads: int, device: str
) -> Runner:
    """Return ``run(images uint8 [n, side, side, 3]) -> [outputs]`` of a frozen module.

    Args:
        module: normalised images → a tensor or a tuple of tensors.
        backbone: for the normalisation.
        side: resolution.
        threads: CPU threads.
        device: ``cpu`` or ``cuda:N``.
    """
    wrapped = _Normalised(backbone, module).eval()
    if device.startswith("cpu"):
        run = _onnx_runner(wrapped, side, threads)
        if run is not None:
            return run
    place = torch.device("cpu" if device.startswith("cpu") else device)
    wrapped.to(place)

    @torch.inference_mode()
    def run_torch(images: np.ndarray) -> list[np.ndarray]:
        out = wrapped(torch.from_numpy(np.ascontiguousarray(images)).to(place))
        parts = out if isinstance(out, tuple | list) else (out,)
        return [part.float().cpu().numpy() for part in parts]

    return run_torch


def _onnx_runner(wrapped: nn.Module, side: int, threads: int) -> Runner | None:
    import io
    import warnings

    import onnxruntime as ort

    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            wrapped = for_images(wrapped, example)
            parts = wrapped(example)
            names = [f"out{i}" for i in range(len(parts) if isinstance(parts, tuple | list) else 1)]
            axes = {name: {0: "n"} for name in ["images", *names]}
            torch.onnx.export(
                wrapped,
                (example,),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                input_names=["images"],
                output_names=names,
                dynamic_axes=axes,
                opset_version=17,
            )
    except Exception:  # an operator that the exporter does not know: torch runs it instead
        return None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])

    step = images_at_once(side)

    def run(images: np.ndarray) -> list[np.ndarray]:
        parts = [
            session.run(None, {"images": np.ascontiguousarray(images[begin : begin + step])})
            for begin in range(0, len(images), step)
        ]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    return run


def images_at_once(side: int) -> int:
    """Images of a side that a CPU runs through a network at once."""
    return max(4, min(CHUNK, _PIXELS_AT_ONCE // side**2))


def features_key(backbone: Backbone, side: int, taps: str) -> str:
    """File name stem of one set of features."""
    text = json.dumps([backbone.to_dict(), side, taps], sort_keys=True)
    return f"{backbone.name[:40]}-{side}-{taps}-{sha256(text.encode()).hexdigest()[:10]}".replace("/", "_")


def frozen_features(
    dataset: Any,
    backbone: Backbone,
    side: int,
    taps: str,
    shared: Path,
    *,
    indices: np.ndarray | None = None,
    threads: int = 1,
    device: str = "cpu",
    deadline: float | None = None,
) -> np.ndarray:
    """Return the features of every image, memory-mapped float32 ``[N, F]``.

    Args:
        dataset: an opened :class:`automl.data.Dataset`.
        backbone: whose features.
        side: resolution.
        taps: ``last`` or ``multi``.
        shared: folder that all trials of a run share.
        indices: development images that are needed; the rows of others may be zero. None for all images.
        threads, device: how to run.
        deadline: ``time.monotonic()`` after which :class:`OutOfTime` is raised; the chunks done stay.

    Raises:
        OutOfTime: the deadline passed before all chunks were done.
        AutomlError: the features are not finite numbers.
        OSError: the disk has no room for them.
    """
    shared.mkdir(parents=True, exist_ok=True)
    key = features_key(backbone, side, taps) + ("" if dataset.sampled is None else f"-{dataset.sampled}")

    def file(ending: str) -> Path:
        return shared / f"{key}.{ending}"  # a name such as mobilenetv2_100.tf2_in1k has a dot of its own

    count = len(dataset.labels)
    chunks = -(-count // CHUNK)
    wanted = range(chunks) if indices is None else sorted(set((np.asarray(indices) // CHUNK).tolist()))
    meta = file("json")
    runner: Runner | None = None

    def make_runner() -> Runner:
        body = Features(create_backbone(backbone, num_classes=0), taps)
        return inference_runner(body, backbone, side, threads=threads, device=device)

    if not meta.exists():
        with _locked(file("lock")):
            if not meta.exists():
                runner = make_runner()
                width = runner(dataset.images(side)[np.arange(2) % count])[0].shape[1]
                for suffix, kind, shape in (
                    ("f32", np.float32, (count, width)),
                    ("done", np.uint8, (chunks,)),
                ):
                    new_table(file(suffix), kind, shape)
                temporary = file("json.part")
                temporary.write_text(json.dumps({"width": width, "count": count, "backbone": backbone.name}))
                os.replace(temporary, meta)
    width = int(json.loads(meta.read_text())["width"])
    table = np.memmap(file("f32"), dtype=np.float32, mode="r+", shape=(count, width))
    done = np.memmap(file("done"), dtype=np.uint8, mode="r+", shape=(chunks,))
    images = dataset.images(side)
    developing = np.zeros(count, dtype=bool)
    if indices is not None:
        developing[np.asarray(dataset.indices("development"))] = True
    claims = os.open(file("claims"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while todo := [chunk for chunk in wanted if not done[chunk]]:
            for chunk in todo:
                if deadline is not None and time.monotonic() > deadline:
                    raise OutOfTime(f"features of {backbone.name} at {side} px need more time than is left")
                if done[chunk] or not _claim(claims, chunk):
                    continue
                if not done[chunk]:
                    runner = runner or make_runner()
                    rows = np.arange(chunk * CHUNK, min(count, (chunk + 1) * CHUNK))
                    if indices is not None:
                        rows = rows[developing[rows]]
                    with working():
                        values = runner(images[rows])[0]
                    if not np.isfinite(values).all():
                        raise AutomlError(f"{backbone.name} at {side} px gives features that are not finite")
                    table[rows] = values
                    done[chunk] = 1
                _release(claims, chunk)
            if any(not done[chunk] for chunk in wanted):
                time.sleep(0.02)
    finally:
        os.close(claims)
    return table


def new_table(path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new file of zeros, memory-mapped, that has all of its space on the disk.

    Raises:
        OSError: the disk has no room for it.
    """
    with open(path, "wb") as file:
        try:
            take_space(file.fileno(), math.prod(shape) * np.dtype(kind).itemsize)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from None
    return np.memmap(path, kind, "r+", shape=shape)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _claim(handle: int, chunk: int) -> bool:
    """Lock one byte of the claims file; the kernel frees it when the process dies."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, chunk)
        return True
    except OSError:
        return False


def _release(handle: int, chunk: int) -> None:
    fcntl.lockf(handle, fcntl.LOCK_UN, 1, chunk)
