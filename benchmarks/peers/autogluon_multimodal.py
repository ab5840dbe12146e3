"""AutoGluon multimodal on the images of a folder; runs in an environment of its own and imports nothing of this project.

All get the same time and weights. Metric, network and cores are set. Its defaults are for graphics cards: twenty epochs whose
learning rate has hardly begun to fall when minutes on a processor are over, and a step for 128 images. So one and two epochs
are timed first, outside of its time, and as many are planned as there is time for, with steps of 32 images and the learning
rate of plain fine-tuning. Everything else is AutoGluon's choice.
"""

import functools
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from autogluon.multimodal import MultiModalPredictor
from autogluon.multimodal.models import timm_image

BATCH, LEARNING_RATE, MOST_EPOCHS = 32, 1e-3, 20


def main(folder: Path) -> None:
    """Learn from ``train.csv`` and ``validation.csv``, write ``predicted.npy`` for ``test.csv`` and ``told.json``."""
    spec = json.loads((folder / "spec.json").read_text())
    torch.set_num_threads(spec["threads"])
    # AutoGluon builds the network by its name alone, without what its weights were trained with.
    timm_image.create_model = functools.partial(timm_image.create_model, **spec["arguments"])
    check_network(folder / "weights")
    train, validation, test = (
        pd.read_csv(folder / f"{part}.csv") for part in ("train", "validation", "test")
    )

    def fitted(epochs: int, seconds: float | None, path: Path) -> MultiModalPredictor:
        predictor = MultiModalPredictor(
            label="label",
            problem_type="binary" if spec["classes"] == 2 else "multiclass",
            eval_metric="balanced_accuracy",
            validation_metric="f1_macro"
            if spec["classes"] > 2
            else "roc_auc",  # those it knows that are nearest to it
            path=str(path),
            verbosity=1,
        )
        return predictor.fit(
            train,
            tuning_data=validation,
            time_limit=seconds,
            seed=spec["seed"],
            hyperparameters={
                "model.names": ["timm_image"],
                "model.timm_image.checkpoint_name": str(folder / "weights"),
                "optim.max_epochs": epochs,
                "optim.lr": LEARNING_RATE,
                "env.batch_size": BATCH,
                "env.per_gpu_batch_size": BATCH,
                "env.num_gpus": torch.cuda.device_count(),
            },
        )

    def timed(epochs: int) -> float:
        began = time.monotonic()
        fitted(epochs, None, folder / "timed")
        seconds = time.monotonic() - began
        shutil.rmtree(folder / "timed")
        return seconds

    one = timed(1)
    epoch = max(0.05 * one, timed(2) - one)
    epochs = min(MOST_EPOCHS, max(1, int(1 + (spec["seconds"] - one) / epoch)))
    began = time.monotonic()
    predictor = fitted(epochs, spec["seconds"], folder / "model")
    seconds = time.monotonic() - began
    predicted = predictor.predict(test[["image"]], as_pandas=False)
    np.save(folder / "predicted.npy", np.asarray(predicted, dtype=np.int64))
    told = {"training_seconds": round(seconds, 2), "epochs": epochs, "epoch_seconds": round(epoch, 2)}
    (folder / "told.json").write_text(json.dumps(told))


def check_network(weights: Path) -> None:
    """Check that the network that AutoGluon will build is the one that was written."""
    name = json.loads((weights / "config.json").read_text())["architecture"]
    network = timm_image.create_model(name, checkpoint_path=str(weights / "pytorch_model.bin"), num_classes=0)
    with np.load(weights / "probe.npz") as probe, torch.inference_mode():
        found = network.eval()(torch.from_numpy(probe["images"])).numpy()
        gap = float(np.abs(found - probe["features"]).max() / np.abs(probe["features"]).max())
    if gap > 1e-3:
        raise SystemExit(f"{name} is built otherwise here: features differ by {gap:.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
