"""Other people's engines on the same images, splits, weights, cores and time, each in an environment of its own.

What a peer needs is installed by ``make peers ARGS=NAME`` into ``benchmarks/work/peers/NAME``, so that its pins do not
matter. A script of this folder runs there: it reads the images from files and writes the class of each test image.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automl.device import cores
from automl.errors import AutomlError, InputError
from benchmarks.references import PLAIN_SIDE

if TYPE_CHECKING:
    from automl.data import Dataset
    from benchmarks.references import Answer
    from search_spaces.backbones import Backbone

#: Where the environments are; the environment variable names another folder.
FOLDER, VARIABLE = "benchmarks/work/peers", "AUTOML_PEERS"
#: A peer that takes so many times its budget, and so many seconds, hangs.
_PATIENCE, _SLACK = 3.0, 900.0
_PARTS = ("train", "validation", "test")
#: Side of the images that a network is given, as for plain fine-tuning: larger ones leave a processor few epochs.
_SIDE = PLAIN_SIDE


@dataclass(frozen=True)
class Peer:
    """Somebody else's engine.

    Attributes:
        title: what it is, for tables.
        packages: what pip installs.
        module: what has to be importable then.
        script: file of this folder that runs in its environment.
        answers: whether the script judges images itself; else it proposes trials (:mod:`benchmarks.transfer`).
    """

    title: str
    packages: tuple[str, ...]
    module: str
    script: str
    answers: bool = True


PEERS: Mapping[str, Peer] = {
    "autogluon": Peer(
        "AutoGluon multimodal, fine-tuning the network that does best on frozen features",
        ("autogluon.multimodal>=1.2",),
        "autogluon.multimodal",
        "autogluon_multimodal.py",
    ),
    "syne-tune": Peer(
        "Syne Tune's searchers that learn from earlier tasks",
        ("syne-tune>=0.16", "huggingface_hub"),
        "syne_tune.optimizer.schedulers.transfer_learning.zero_shot",
        "syne_tune_searchers.py",
        answers=False,
    ),
    "quick-tune": Peer(
        "Quick-Tune-Tool's optimizer",
        ("quicktunetool>=0.0.4", "requests"),
        "qtt.optimizers",
        "quick_tune_optimizer.py",
        answers=False,
    ),
}


def folder_of(name: str) -> Path:
    """Folder of a peer's environment."""
    return Path(os.environ.get(VARIABLE, FOLDER)).expanduser().resolve() / name


def python_of(name: str) -> Path:
    """The peer's interpreter.

    Raises:
        InputError: the peer is not installed.
    """
    found = folder_of(name) / "bin" / "python"
    if not (folder_of(name) / "installed.json").is_file():
        raise InputError(f"{name} is not installed; make peers ARGS={name} installs it (or set {VARIABLE})")
    return found


def install(name: str) -> Path:
    """Make a peer's environment; what an earlier call finished stays.

    Raises:
        InputError: an unknown name, pip fails, or what it installed does not work together.
    """
    from automl.errors import did_you_mean

    if name not in PEERS:
        raise InputError(f"there is no peer '{name}'{did_you_mean(name, sorted(PEERS))}")
    folder = folder_of(name)
    if (folder / "installed.json").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    python = str(folder / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [python, *_pip(PEERS[name].packages)],
        [python, "-c", f"import {PEERS[name].module}"],  # pip may choose builds that do not fit each other
    ):
        if subprocess.run(command, check=False).returncode:
            raise InputError(f"{name} could not be installed: '{' '.join(command)}' failed")
    found = importlib.metadata.distributions(
        path=[str(path) for path in folder.glob("lib/python*/site-packages")]
    )
    versions = {item.metadata["Name"]: item.version for item in found}
    (folder / "installed.json").write_text(json.dumps(versions, indent=1, sort_keys=True))
    return folder


def _pip(packages: Sequence[str]) -> list[str]:
    return ["-m", "pip", "install", "--quiet", "--progress-bar", "off", *packages]


def answer(
    name: str, dataset: Dataset, backbone: Backbone, work: Path, *, seconds: float, seed: int
) -> Answer:
    """Let a peer learn and judge the test images.

    Writing the images and predicting do not count as its time.

    Args:
        name: of the peer.
        dataset: with its split.
        backbone: pretrained network that it fine-tunes.
        work: folder for its files.
        seconds: that it may take to learn.
        seed: of everything random.

    Raises:
        InputError: the peer is not installed.
        AutomlError: it failed.
    """
    from benchmarks.references import Answer

    python = python_of(name)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_images(dataset, work)
    write_weights(backbone, work / "weights")
    spec = {
        "classes": len(dataset.class_names), "seconds": seconds, "seed": seed, "threads": cores(),
        "arguments": dict(backbone.arguments), "side": _SIDE,
    }  # fmt: skip
    (work / "spec.json").write_text(json.dumps(spec))
    with open(work / "log.txt", "wb") as log:
        try:
            code = subprocess.run(
                [str(python), str(Path(__file__).parent / PEERS[name].script), str(work)],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False, env=_environment(),
                cwd=work, timeout=_PATIENCE * seconds + _SLACK,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            raise AutomlError(f"{name} hangs (see {work / 'log.txt'})") from None
    if code:
        raise AutomlError(f"{name} ended with {code} (see {work / 'log.txt'})")
    predicted = np.load(work / "predicted.npy", allow_pickle=False).astype(np.int64)
    if predicted.shape != (len(dataset.indices("test")),):
        raise AutomlError(f"{name} judged {len(predicted)} images of {len(dataset.indices('test'))}")
    told: dict[str, Any] = json.loads((work / "told.json").read_text(encoding="utf-8"))
    shutil.rmtree(work, ignore_errors=True)
    details = {"backbone": backbone.name, "resolution": _SIDE, **told, "versions": _versions(name)}
    return Answer(predicted, details, told["training_seconds"])


def _environment() -> dict[str, str]:
    """Nothing of this environment is for the other one."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {key: value for key, value in os.environ.items() if key not in hidden}


@contextmanager
def talking(name: str, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A peer's script as a process that reads lines and answers with lines, until the end of the context.

    Args:
        name: of the peer.
        log: file for its standard error.

    Raises:
        InputError: the peer is not installed.
    """
    command = [str(python_of(name)), str(Path(__file__).parent / PEERS[name].script)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log, "wb") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(),
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _versions(name: str) -> dict[str, str]:
    """Of what the peer was asked for, and of torch."""
    installed = json.loads((folder_of(name) / "installed.json").read_text(encoding="utf-8"))
    asked = {re.split(r"[<>=!~\[ ]", text)[0] for text in PEERS[name].packages}
    return {key: installed[key] for key in sorted({*asked, "torch"}) if key in installed}


def write_images(dataset: Dataset, folder: Path) -> None:
    """Write each image as a PNG and, per part of the split, a table of path and class number: ``train.csv``, …."""
    from PIL import Image

    pictures, labels = dataset.images(), np.asarray(dataset.labels)
    for part in _PARTS:
        (folder / part).mkdir()
        lines = ["image,label"]
        for row in dataset.indices(part):
            path = folder / part / f"{row}.png"
            Image.fromarray(np.asarray(pictures[int(row)])).save(path, compress_level=1)
            lines.append(f"{path},{labels[row]}")
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_weights(backbone: Backbone, folder: Path) -> None:
    """Write a network without its head as timm's older form: ``config.json`` and ``pytorch_model.bin``.

    ``probe.npz`` holds an input and what the network makes of it, so that a peer can check that it has built the same one.
    """
    import torch

    from search_spaces.backbones import create_backbone

    folder.mkdir()
    network = create_backbone(backbone).eval()
    images = torch.rand(2, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = network(images)
    np.savez(folder / "probe.npz", images=images.numpy(), features=features.numpy())
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    settings = {"input_size": [3, _SIDE, _SIDE], "mean": list(backbone.mean), "std": list(backbone.std)}
    about = {
        "architecture": backbone.architecture,
        "num_features": features.shape[1],
        "pretrained_cfg": settings,
    }
    (folder / "config.json").write_text(json.dumps(about))
