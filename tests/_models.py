"""What the tests of training, export and choice share: a small data set, recipes, and networks with random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from automl.candidate import Candidate
from automl.data import Dataset, load_dataset
from automl.records import TrialSpec
from automl.training import Features, VisionModel, new_model
from automl.training._heads import LinearHead
from search_spaces import families
from search_spaces.backbones import Backbone, create_backbone, find_backbones, scratch
from search_spaces.propose import spread
from search_spaces.stored import About, Stored
from strategy_pool.strategy import Strategy
from tests.conftest import write_shapes


def shapes(folder: Path, per_class: int = 15) -> Dataset:
    """Coloured shapes of three classes, opened."""
    return load_dataset(write_shapes(folder / "shapes", per_class), cache_dir=folder / "cache")


def write_model(
    folder: Path, architecture: str = "test_efficientnet", seed: int = 0, **arguments: Any
) -> Path:
    """A model folder as users have them, with random weights instead of trained ones, and its ``model_args``."""
    import timm

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = timm.create_model(architecture, num_classes=0, **arguments)
    save_file(model.state_dict(), folder / "model.safetensors")
    settings = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "license": "none",
        "input_size": [3, 64, 64],
    }
    config = {"architecture": architecture, "num_classes": 0, "num_features": model.num_features}
    if arguments:
        config["model_args"] = arguments
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": settings}))
    return folder


def pretrained(folder: Path, architecture: str = "test_efficientnet", name: str = "tiny.random") -> Backbone:
    """A backbone that counts as pretrained; its weights are random."""
    write_model(folder / name, architecture)
    found, _ = find_backbones(names=[f"local-dir:{folder / name}"])
    return found[0]


def transformer(folder: Path, architecture: str = "vit_tiny_patch16_224", **arguments: Any) -> Backbone:
    """A small one of timm's, for images of 224 pixels, with random weights."""
    small = {"depth": 3, "embed_dim": 48, "num_heads": 3}
    path = write_model(folder / architecture, architecture, **{**small, **arguments})
    return find_backbones(names=[f"local-dir:{path}"])[0][0]


def recipe(method: str, **fields: Any) -> dict[str, Any]:
    """The fields of a strategy; plain and short unless told otherwise."""
    usual: dict[str, Any] = {"epochs": 1, "batch_size": 8, "augmentation": "none", "loss": "cross_entropy"}
    if method == "scratch":
        usual["norm"] = "batch"
    return Strategy("test", method, **{**usual, **fields}).to_dict()


def network(
    backbone: Backbone, classes: int = 3, *, taps: str = "last", rank: int = 0, seed: int = 0
) -> VisionModel:
    """A model with a random head, in evaluation mode."""
    torch.manual_seed(seed)
    with torch.inference_mode():
        width = Features(create_backbone(backbone), taps).eval()(torch.zeros(1, 3, 32, 32)).shape[1]
    head = LinearHead(int(width), classes)
    torch.nn.init.normal_(head.linear.weight, std=0.3)
    return new_model(backbone, head, taps=taps, adapter_rank=rank).eval()


def expected_score(macs: int) -> float:
    """Of a subnet of :func:`supernet`: more work, fewer errors."""
    return 1.0 - 0.8 * (macs / 2e6) ** -0.3


def supernet(classes: Sequence[str] = ("bad", "good")) -> Stored:
    """One with random weights for 32 and 48 pixels, of which enough is known for forecasts."""
    torch.manual_seed(0)
    about = About("mobile", tuple(classes), (32, 48), "top1", ranges={"uint16": [0.0, 4095.0]})
    images = torch.randint(0, 256, (32, 3, 48, 48), dtype=torch.uint8)
    made = Stored(about, families.supernet("mobile", len(classes)), images)
    counted = [made.counted(subnet) for subnet in spread(made.space, 60, seed=1)]
    made.known = [
        replace(one, score=expected_score(one.macs) if at < 30 else None, images=100)
        for at, one in enumerate(counted)
    ]
    return made


def small_cnn() -> Backbone:
    """The smallest network for training from scratch."""
    return scratch("small_cnn_xs")


def pictures(count: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Random images uint8 ``[n, side, side, 3]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def trial(
    folder: Path,
    dataset: Dataset,
    backbone: Backbone,
    strategy: dict[str, Any],
    *,
    resolution: int = 32,
    precision: str = "fp32",
    **fields: Any,
) -> TrialSpec:
    """A trial that writes into ``folder/trials/0001``."""
    values: dict[str, Any] = {
        "trial_id": "0001",
        "candidate": Candidate(backbone.name, resolution, precision, strategy["name"]),
        "dataset_folder": str(dataset.folder),
        "backbone": backbone.to_dict(),
        "folder": str(folder / "trials" / "0001"),
        "seconds": None,
        "max_epochs": None,
        "seed": 0,
        "threads": 1,
        "device": "cpu:1",
        "objective": "accuracy",
        "constraints": [],
        "shared_folder": str(folder / "shared"),
        "strategy": strategy,
    }
    return TrialSpec(**{**values, **fields})
