"""Quick-Tune-Tool's optimizer; runs in an environment of its own and imports nothing of this project.

The first line of standard input is a JSON object: ``seed``, ``configurations`` (that may be tried), ``features`` (of the task, by
name) and ``history`` (task → ``features`` and ``tried``, a list of ``[configuration, score]``). A line ``"next"`` asks for a
configuration; the answer is one line with its place in ``configurations``, or ``null`` when all were given out. A line with a JSON
object tells how one did: ``place`` and ``score``, None where it failed. None comes twice.

The tool trains a configuration epoch by epoch and goes on with the one that promises most. Trials here cannot be paused, so a
configuration is one step long. Its predictor learns from the history instead of from the file that the tool would download, and
again after each result, from the third on. Everything else is the tool's choice.
"""

import functools
import json
import logging
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from qtt.optimizers import QuickOptimizer
from qtt.predictors import PerfPredictor, perf

#: Results that the tool's refit needs at least.
LEAST = 3


def table(configurations: list[Mapping[str, Any]], features: list[Mapping[str, float]]) -> pd.DataFrame:
    """One row per configuration, with the features of its task; text as the tool knows it."""
    rows = [{**one, **of_task} for one, of_task in zip(configurations, features, strict=True)]
    found = pd.DataFrame(rows)
    text = [name for name in found if not pd.api.types.is_numeric_dtype(found[name])]
    return found.astype(dict.fromkeys(text, object))


def predictor_of(asked: Mapping[str, Any], folder: str) -> PerfPredictor:
    """Trained on earlier tasks."""
    common = common_features(asked)
    tried = [
        (one, {name: of["features"][name] for name in common}, score)
        for of in asked["history"].values()
        for one, score in of["tried"]
    ]
    # Worker processes would take longer to start than the few rows take to read.
    plain = functools.partial(_in_process, perf.DataLoader)
    perf.DataLoader = plain
    torch.manual_seed(asked["seed"])  # the tool does so only once the network is there
    predictor = PerfPredictor(path=folder, seed=asked["seed"], verbosity=0)
    scores = np.array([score for *_, score in tried]).reshape(-1, 1)
    return predictor.fit(table([one for one, *_ in tried], [features for _, features, _ in tried]), scores)


def common_features(asked: Mapping[str, Any]) -> list[str]:
    """Names of the features that are known of all tasks."""
    of_all = [asked["features"], *(of["features"] for of in asked["history"].values())]
    return sorted(set.intersection(*map(set, of_all)))


def _in_process(loader: Any, dataset: Any, **arguments: Any) -> Any:
    return loader(dataset, **{**arguments, "num_workers": 0})


def main() -> None:
    """Answer until standard input ends."""
    logging.disable(logging.INFO)
    answers, sys.stdout = sys.stdout, sys.stderr
    asked = json.loads(sys.stdin.readline())
    order = np.random.default_rng(asked["seed"]).permutation(len(asked["configurations"])).tolist()
    if not asked["history"]:
        for line in sys.stdin:  # nothing to learn from
            if json.loads(line) == "next":
                print(json.dumps(order.pop() if order else None), file=answers, flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        optimizer = QuickOptimizer(
            None, 1, predictor_of(asked, folder), refit=True, refit_init_steps=LEAST, init_random_search_steps=0,
            path=folder, seed=asked["seed"], verbosity=0,
        )  # fmt: skip
        chosen = [asked["configurations"][place] for place in order]
        own = {name: asked["features"][name] for name in common_features(asked)}
        optimizer.setup_pandas(table(chosen, [own] * len(chosen)))
        ids: dict[int, int] = {}
        news = False
        for line in sys.stdin:
            told = json.loads(line)
            if told != "next":
                news |= told["score"] is not None
                optimizer.tell({
                    "config-id": ids[told["place"]], "fidelity": 1, "score": told["score"], "status": told["score"] is not None,
                })  # fmt: skip
                continue
            if news:
                optimizer.ante()
                news = False
            found = None if len(optimizer.stoped | optimizer.failed) >= len(order) else optimizer.ask()
            if found is not None:
                ids[order[found["config-id"]]] = found["config-id"]
                optimizer.stoped.add(found["config-id"])  # it is under way
            print(json.dumps(found and order[found["config-id"]]), file=answers, flush=True)


if __name__ == "__main__":
    main()
