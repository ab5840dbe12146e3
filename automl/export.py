"""Export to ONNX: pixels in, probabilities and the label at the operating point out; checked against torch.

The graph takes ``images`` uint8 ``[N, H, W, 3]`` RGB and gives ``probabilities`` float32 ``[N, C]`` and
``label`` int64 ``[N]``; normalisation is inside.
"""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from automl.errors import AutomlError
from search_spaces.counts import count_macs
from search_spaces.sizes import for_images

OPSET = 17
_LARGEST_DIFFERENCE = 1e-2
#: Distance of two log-probabilities from which on torch is sure of its label.
_CLEAR = 0.05


@dataclass(frozen=True)
class ExportInfo:
    """What was written.

    Attributes:
        path: of the file.
        size_bytes: of it.
        params: weights of the model.
        macs: multiply-accumulates of one image.
        max_abs_diff: largest difference of a probability from torch's on random images.
        precision: ``fp32`` or ``int8``.
        exporter: which of torch's exporters wrote it.
    """

    path: Path
    size_bytes: int
    params: int
    macs: int
    max_abs_diff: float
    precision: str
    exporter: str


class DeployModel(nn.Module):
    """A trained model with the operating point on top.

    Args:
        model: images ``[N, 3, R, R]`` in 0..255 → logits ``[N, C]``.
        bias: added to the log-probabilities before the label is taken, ``[C]``; None for none.
    """

    def __init__(self, model: nn.Module, bias: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.bias: Tensor | None
        self.register_buffer("bias", None if bias is None else bias.float())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``images`` uint8 ``[N, H, W, 3]`` → probabilities ``[N, C]``, label ``[N]``."""
        logits = self.model(images.permute(0, 3, 1, 2).float())
        probabilities = torch.softmax(logits, dim=1)
        scores = logits if self.bias is None else torch.log_softmax(logits, dim=1) + self.bias
        return probabilities, scores.argmax(dim=1)


def export_onnx(
    model: nn.Module,
    resolution: int,
    path: str | os.PathLike[str],
    *,
    bias: np.ndarray | None = None,
    precision: str = "fp32",
    calibration: np.ndarray | None = None,
) -> ExportInfo:
    """Write a model as one ONNX file.

    Args:
        model: images ``[N, 3, R, R]`` in 0..255 → logits.
        resolution: R.
        path: file to write, atomically.
        bias: of the operating point, ``[C]``.
        precision: ``fp32``, or ``int8`` for static quantisation (QDQ, weights per channel).
        calibration: images uint8 ``[n, R, R, 3]`` that set the ranges of int8; without them seeded noise is
            used, which is good for timing only.

    Raises:
        AutomlError: the model cannot be exported, or the file does not compute what torch does.
        ValueError: an unknown precision.
    """
    if precision not in ("fp32", "int8"):
        raise ValueError(f"precision is {precision!r}; known: fp32, int8")
    target = Path(path)
    model = model.cpu().eval()
    deploy = DeployModel(
        model, None if bias is None else torch.as_tensor(np.asarray(bias), dtype=torch.float32)
    ).eval()
    macs = count_macs(model, resolution)
    content, exporter = _export(deploy, resolution)
    fd, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-", suffix=".onnx")
    os.close(fd)
    try:
        Path(temporary).write_bytes(content)
        difference = _difference(deploy, resolution, temporary, exact=True)
        if difference > _LARGEST_DIFFERENCE:
            raise AutomlError(f"the exported file differs from torch by {difference:.3g} in a probability")
        if precision == "int8":
            _quantise(temporary, resolution, calibration)
            difference = _difference(deploy, resolution, temporary, exact=False)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    params = sum(p.numel() for p in model.parameters())
    return ExportInfo(target, target.stat().st_size, params, macs, difference, precision, exporter)


def _export(deploy: nn.Module, resolution: int) -> tuple[bytes, str]:
    example = torch.randint(0, 256, (2, resolution, resolution, 3), dtype=torch.uint8)
    deploy = for_images(deploy, example)
    names = ["probabilities", "label"]
    first: Exception | None = None
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        try:
            buffer = io.BytesIO()
            torch.onnx.export(
                deploy,
                (example,),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=names,
                dynamic_axes={name: {0: "N"} for name in ["images", *names]},
            )
            return buffer.getvalue(), "torchscript"
        except Exception as error:
            first = error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                deploy,
                (example,),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["images"],
                output_names=names,
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            )
        return program.model_proto.SerializeToString(), "dynamo"
    except Exception as error:
        raise AutomlError(
            f"the model cannot be exported to ONNX: {error}; the other exporter said: {first}"
        ) from error


def _difference(deploy: DeployModel, resolution: int, path: str, *, exact: bool) -> float:
    """Largest difference of a probability between torch and the file, for batches of 1 and 3 random images.

    With ``exact`` it is infinite where the file gives a label that torch clearly does not.
    """
    generator = torch.Generator().manual_seed(0)
    session = _session(path)
    worst = 0.0
    for count in (1, 3):
        coarse = torch.rand(count, 3, 8, 8, generator=generator) * 255
        smooth = nn.functional.interpolate(coarse, size=(resolution, resolution), mode="bilinear")
        images = smooth.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()
        with torch.inference_mode():
            expected, wanted = (part.numpy() for part in deploy(images))
        got, label = session.run(["probabilities", "label"], {"images": images.numpy()})
        if not np.isfinite(got).all():
            return float("inf")
        worst = max(worst, float(np.abs(expected - got).max()))
        if exact:
            bias = 0.0 if deploy.bias is None else deploy.bias.numpy()
            scores = np.log(np.maximum(expected, 1e-12)) + bias
            gap = scores.max(axis=1) - np.take_along_axis(scores, label[:, None], axis=1)[:, 0]
            if (gap > _CLEAR)[label != wanted].any():
                return float("inf")
    return worst


def _quantise(path: str, resolution: int, calibration: np.ndarray | None) -> None:
    """Static QDQ quantisation in place: int8 weights per channel, uint8 activations; the head's softmax stays float."""
    import logging

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if calibration is None:
        calibration = np.random.default_rng(0).integers(
            0, 256, (4, resolution, resolution, 3), dtype=np.uint8
        )
    batches = [np.ascontiguousarray(calibration[i : i + 8]) for i in range(0, len(calibration), 8)]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            images = next(self.left, None)
            return None if images is None else {"images": images}

    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))
    prepared, quantised = f"{path}.prepared", f"{path}.int8"
    try:
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantised,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=[
                "Conv",
                "Gemm",
                "MatMul",
                "Add",
                "Mul",
                "GlobalAveragePool",
                "Relu",
                "Clip",
                "Concat",
            ],
            nodes_to_exclude=_float_nodes(prepared),
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        os.replace(quantised, path)
    except Exception as error:
        raise AutomlError(
            f"the model cannot be quantised: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    finally:
        for left in (prepared, quantised):
            Path(left).unlink(missing_ok=True)


def _float_nodes(path: str) -> list[str]:
    """Nodes before the first convolution (normalisation) and after the last matrix product."""
    import onnx

    nodes = list(onnx.load(path).graph.node)
    heavy = [i for i, node in enumerate(nodes) if node.op_type in ("Conv", "Gemm", "MatMul")]
    if not heavy:
        return []
    return [node.name for i, node in enumerate(nodes) if i < heavy[0] or i > heavy[-1]]


def run_onnx(
    path: str | os.PathLike[str],
    level: Any,
    index: np.ndarray,
    *,
    threads: int = 1,
    batch: int = 8,
    enough: Callable[[int], bool] = lambda _begun: False,
) -> tuple[np.ndarray, np.ndarray]:
    """Run a file on images.

    Args:
        path: of the ONNX file.
        level: ``level[rows]`` gives uint8 ``[n, R, R, 3]``.
        index: rows.
        threads: batches that run at the same time, each on one thread.
        batch: images at a time.
        enough: asked before each batch, with how many images were begun; once it says so, no more are.

    Returns:
        probabilities float32 ``[n, C]`` and labels int64 ``[n]`` of the first n rows: all, or as many as were enough.
    """
    session = _session(str(path))

    def run(begin: int) -> tuple[np.ndarray, np.ndarray] | None:
        if enough(begin):
            return None
        images = np.ascontiguousarray(level[index[begin : begin + batch]])
        probabilities, label = session.run(["probabilities", "label"], {"images": images})
        return probabilities, label

    with ThreadPoolExecutor(max(1, threads)) as pool:
        found = []
        for got in pool.map(run, range(0, len(index), batch)):
            if got is None:
                break
            found.append(got)
    parts, labels = [probabilities for probabilities, _ in found], [label for _, label in found]
    if not parts:
        classes = session.get_outputs()[0].shape[1]
        return np.zeros((0, classes if isinstance(classes, int) else 0), np.float32), np.zeros(0, np.int64)
    return np.concatenate(parts).astype(np.float32), np.concatenate(labels).astype(np.int64)


def _session(path: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
