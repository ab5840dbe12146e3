"""A kit that is taken to a device: a few small networks as ONNX files, what they take here, and a script that measures them there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from automl import _kit_measure
from automl.device import FORMAT, KIND, Device
from automl.errors import InputError

_README = """Kit for measuring a device with automl.

1. Copy this folder to the device.
2. There, with onnxruntime and numpy installed:  python measure.py
   (python measure.py --help: threads, provider, name)
3. Copy device.json back, and give it as --device:
   automl submit DATA --constraint "latency_ms<=5" --device device.json

The networks have random weights; nothing of anyone's data is in here.
"""
#: Family of a network, where it lies between the smallest and the largest, side of the image, precision.
_NETS = (
    ("mobile", 0.0, 32, "fp32"),
    ("mobile", 0.2, 96, "fp32"),
    ("mobile", 0.4, 128, "fp32"),
    ("mobile", 0.7, 64, "fp32"),
    ("mobile", 0.9, 160, "fp32"),
    ("mobile", 0.5, 224, "fp32"),
    ("hybrid", 0.5, 96, "fp32"),
    ("mobile", 0.1, 96, "int8"),
    ("mobile", 0.5, 128, "int8"),
    ("mobile", 0.8, 192, "int8"),
)


def write_kit(folder: Path, device: Device, say: Callable[[str], None]) -> Path:
    """Export the networks, measure them here, and write the kit.

    Args:
        folder: of the kit; new or empty, or a kit, which is then measured here again.
        device: of this machine.
        say: tells the user something.

    Returns:
        The folder.

    Raises:
        InputError: the folder holds something else.
    """
    from automl.evaluation.latency import Timer, device_name
    from automl.home import require_writable

    if device.profile:
        raise InputError("a kit is measured on a device of this machine, such as cpu:1")
    if folder.exists() and not (folder / "kit.json").exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{folder} is neither empty nor a kit; name another folder")
    require_writable(folder, "--kit")
    nets = folder / "nets"
    nets.mkdir(exist_ok=True)
    found = []
    with Timer(device) as timer:
        for number, (family, place, side, precision) in enumerate(_NETS):
            name = f"{number:02d}.onnx"
            if not (nets / name).exists():
                _build(nets / name, family, place, side, precision)
            latency = timer.measure(nets / name)
            say(f"  {name}: {latency.median_ms:.3g} ms here")
            found.append({"file": name, "precision": precision, "here_ms": latency.median_ms})
    kit = {
        "kind": KIND,
        "format": FORMAT,
        "base": str(device),
        "machine": device_name(device),
        "nets": found,
    }
    shutil.copyfile(_kit_measure.__file__, folder / "measure.py")
    (folder / "README.txt").write_text(_README, encoding="utf-8")
    (folder / "kit.json").write_text(json.dumps(kit, indent=1), encoding="utf-8")
    return folder


def _build(path: Path, family: str, place: float, side: int, precision: str) -> None:
    import torch

    from automl.export import export_onnx
    from search_spaces import families

    torch.manual_seed(0)
    net = families.supernet(family, 10)
    subnet = {
        d.name: d.choices[min(int(place * len(d.choices)), len(d.choices) - 1)] for d in net.space.dimensions
    }
    export_onnx(net.build(net.space.canonical(subnet)), side, path, precision=precision)
