"""A fitted ranker as files: plain JSON, arrays without objects, and the text form of LightGBM's trees."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd

from strategy_pool._encoding import Encoder, Neighbours
from strategy_pool.baselines import HistoryAverage, Learner
from strategy_pool.learners import Failure, LambdaRank, Regression, Trees
from strategy_pool.portfolio import Spread
from strategy_pool.ranker import Ranker

#: Raised when what is written changes.
FORMAT = 3
_KINDS: Mapping[str, type[Trees]] = {"failure": Failure, "lambdarank": LambdaRank, "regression": Regression}


class SavedError(ValueError):
    """A saved ranker cannot be read; the message is one line."""


def save(ranker: Ranker, folder: Path) -> None:
    """Write a fitted ranker into an existing folder.

    Raises:
        OSError: it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    told: dict[str, Any] = {
        "format": FORMAT,
        "shares": ranker.shares,
        "gain": list(ranker.gain),
        "model": ranker.model,
        "members": {name: _learner(name, learner, folder, arrays) for name, learner in ranker.fitted.items()},
        "pace": None if ranker.pace is None else _learner("pace", ranker.pace, folder, arrays),
        "risk": None if ranker.risk is None else _learner("risk", ranker.risk, folder, arrays),
        "spread": None,
    }
    if ranker.spread is not None:
        told["spread"] = {"shared": ranker.spread.shared}
        arrays["spread.at"], arrays["spread.quantiles"] = ranker.spread.at, ranker.spread.quantiles
    np.savez_compressed(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
    (folder / "ranker.json").write_text(json.dumps(told), encoding="utf-8")


def load(folder: Path) -> Ranker:
    """Read a ranker that :func:`save` wrote.

    Raises:
        SavedError: it is missing, damaged, or of another version of this program.
    """
    try:
        told = json.loads((folder / "ranker.json").read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise SavedError(
                f"ranker {folder} has format {told['format']}, not {FORMAT}; run 'automl rerank' anew"
            )
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        ranker = Ranker(shares=dict(told["shares"]), gain=(told["gain"][0], told["gain"][1]))
        ranker.model = told["model"]
        ranker.fitted = {
            name: _restored(name, kept, folder, arrays) for name, kept in told["members"].items()
        }
        ranker.pace = None if told["pace"] is None else _restored("pace", told["pace"], folder, arrays)
        ranker.risk = None if told["risk"] is None else _restored("risk", told["risk"], folder, arrays)
        if told["spread"] is not None:
            shared = float(told["spread"]["shared"])
            ranker.spread = Spread(arrays["spread.at"], arrays["spread.quantiles"], shared)
        return ranker
    except SavedError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        lightgbm.basic.LightGBMError,
    ) as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise SavedError(f"ranker {folder} cannot be read: {text}") from None


def _learner(name: str, learner: Learner, folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if isinstance(learner, Trees):
        for number, model in enumerate(learner.models):
            (folder / f"{name}-{number}.txt").write_text(model.model_to_string(), encoding="utf-8")
        kind = next(kind for kind, of in _KINDS.items() if isinstance(learner, of))
        return {
            "kind": kind, "models": len(learner.models), "mean": learner.mean, "encoder": _encoder(learner.encoder),
        }  # fmt: skip
    if isinstance(learner, HistoryAverage):
        arrays[f"{name}.strategies"] = learner.means.index.to_numpy(dtype=np.str_)
        arrays[f"{name}.means"] = learner.means.to_numpy(dtype=np.float64)
        arrays[f"{name}.models"] = learner.models.astype(np.str_)
        arrays[f"{name}.encoded"] = learner.encoded
        return {
            "kind": "history_average", "overall": learner.overall, "model": learner.model,
            "encoder": _encoder(learner.encoder),
        }  # fmt: skip
    raise TypeError(f"a {type(learner).__name__} cannot be saved")


def _restored(name: str, kept: Mapping[str, Any], folder: Path, arrays: Mapping[str, np.ndarray]) -> Learner:
    encoder = Encoder(list(kept["encoder"]["columns"]), dict(kept["encoder"]["categories"]))
    if kept["kind"] in _KINDS:
        trees = _KINDS[kept["kind"]](bags=int(kept["models"]))
        trees.encoder, trees.mean = encoder, float(kept["mean"])
        trees.models = [
            lightgbm.Booster(model_str=(folder / f"{name}-{number}.txt").read_text(encoding="utf-8"))
            for number in range(int(kept["models"]))
        ]
        return trees
    if kept["kind"] != "history_average":
        raise SavedError(f"ranker {folder} has a member of unknown kind {kept['kind']!r}")
    average = HistoryAverage()
    average.means = pd.Series(arrays[f"{name}.means"], index=arrays[f"{name}.strategies"].astype(str))
    average.overall, average.model = float(kept["overall"]), kept["model"]
    average.models = arrays[f"{name}.models"].astype(object)
    average.encoder, average.encoded = encoder, arrays[f"{name}.encoded"]
    average.near = Neighbours(average.encoded, encoder.categorical) if encoder.columns else None
    return average


def _encoder(encoder: Encoder) -> dict[str, Any]:
    return {"columns": encoder.columns, "categories": encoder.categories}
