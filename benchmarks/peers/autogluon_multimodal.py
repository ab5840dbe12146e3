"""AutoGluon multimodal on the images of a folder; runs in an environment of its own and imports nothing of this project.

As its documentation has it, with the time and the weights that all get: the metric, the network's folder and the number
of cores are set, everything else is AutoGluon's choice.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from autogluon.multimodal import MultiModalPredictor


def main(folder: Path) -> None:
    """Learn from ``train.csv`` and ``validation.csv``, write ``predicted.npy`` for ``test.csv`` and ``told.json``."""
    spec = json.loads((folder / "spec.json").read_text())
    torch.set_num_threads(spec["threads"])
    train, validation, test = (
        pd.read_csv(folder / f"{part}.csv") for part in ("train", "validation", "test")
    )
    began = time.monotonic()
    predictor = MultiModalPredictor(
        label="label",
        problem_type="binary" if spec["classes"] == 2 else "multiclass",
        eval_metric="balanced_accuracy",
        validation_metric="f1_macro"
        if spec["classes"] > 2
        else "roc_auc",  # those it knows that are nearest to it
        path=str(folder / "model"),
        verbosity=1,
    )
    predictor.fit(
        train,
        tuning_data=validation,
        time_limit=spec["seconds"],
        seed=spec["seed"],
        hyperparameters={
            "model.names": ["timm_image"],
            "model.timm_image.checkpoint_name": str(folder / "weights"),
            "env.num_gpus": torch.cuda.device_count(),
        },
    )
    seconds = time.monotonic() - began
    predicted = predictor.predict(test[["image"]], as_pandas=False)
    np.save(folder / "predicted.npy", np.asarray(predicted, dtype=np.int64))
    (folder / "told.json").write_text(json.dumps({"training_seconds": round(seconds, 2)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
