"""Syne Tune's searchers that learn from earlier tasks; runs in an environment of its own and imports nothing of this project.

The first line of standard input is a JSON object: ``method``, ``seed``, ``configurations`` (that may be tried) and ``history``
(task → ``tried``, a list of ``[configuration, score]``, higher is better). Each further line asks for a configuration; the answer is one
line with its place in ``configurations``, or ``null`` when all were given out. None comes twice.

Syne Tune draws from a product of ranges, but not every recipe goes with every network; so what it draws are the configurations
that there are. Its zero-shot method draws anew for each earlier task and then averages ranks by place; so they are the same ones
in the same order here. Everything else is Syne Tune's choice.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from syne_tune.config_space import choice, uniform
from syne_tune.optimizer.schedulers.transfer_learning.quantile_based.quantile_based_searcher import (
    QuantileBasedSurrogateSearcher,
)
from syne_tune.optimizer.schedulers.transfer_learning.transfer_learning_task_evaluation import (
    TransferLearningTaskEvaluations,
)
from syne_tune.optimizer.schedulers.transfer_learning.zero_shot import ZeroShotTransfer

METRIC = "score"
#: Configurations that the zero-shot method draws for each task.
DRAWN = 10_000

Configuration = Mapping[str, Any]
Ask = Callable[[], int | None]


def space(configurations: Sequence[Configuration]) -> dict[str, Any]:
    """Numbers as ranges, everything else as a choice, over all that occurs; what never changes is left out."""
    found = {}
    for name in configurations[0]:
        values = {one[name] for one in configurations}
        if len(values) < 2:
            continue
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        found[name] = uniform(min(values), max(values)) if numeric else choice(sorted(map(str, values)))
    return found


def rows(configurations: Sequence[Configuration], within: Mapping[str, Any]) -> pd.DataFrame:
    """One row per configuration, with the columns of a space."""
    table = pd.DataFrame(configurations)[list(within)]
    return table.apply(lambda column: column.astype(float if hasattr(within[column.name], "lower") else str))


def evaluations(
    history: Mapping[str, Mapping[str, Any]], within: Mapping[str, Any], sign: int
) -> dict[str, TransferLearningTaskEvaluations]:
    """Of each earlier task what was tried and how it did."""
    return {
        task: TransferLearningTaskEvaluations(
            configuration_space=dict(within),
            hyperparameters=rows([configuration for configuration, _score in of["tried"]], within),
            objectives_names=[METRIC],
            objectives_evaluations=sign * np.array([score for _, score in of["tried"]]).reshape(-1, 1, 1, 1),
        )
        for task, of in history.items()
    }


def zero_shot(asked: Mapping[str, Any], within: Mapping[str, Any]) -> Ask:
    """Configurations with the lowest average rank over earlier tasks, greedily (Wistuba et al. 2015)."""
    own = rows(asked["configurations"], within)
    records = own.to_dict("records")
    order = np.random.default_rng(asked["seed"]).permutation(len(records))
    drawn = 0

    class ZeroShot(ZeroShotTransfer):
        def _sample_random_config(self, _space: Any) -> dict[str, Any]:
            nonlocal drawn
            drawn += 1
            return records[order[(drawn - 1) % DRAWN % len(records)]]

    searcher = ZeroShot(
        config_space=dict(within),
        metric=METRIC,
        transfer_learning_evaluations=evaluations(asked["history"], within, 1),
        do_minimize=False,
        use_surrogates=True,
        random_seed=asked["seed"],
    )
    # Each once is enough.
    searcher._scores = searcher._scores.iloc[:, : len(records)].copy()
    searcher._hyperparameters = searcher._hyperparameters.iloc[: len(records)].copy()
    searcher._ranks = searcher._update_ranks()
    places = {json.dumps(record, sort_keys=True): place for place, record in enumerate(records)}

    def ask() -> int | None:
        found = searcher.get_config()
        return None if found is None else places[json.dumps(found, sort_keys=True)]

    return ask


def quantiles(asked: Mapping[str, Any], within: Mapping[str, Any]) -> Ask:
    """Thompson samples of a surrogate of ranks over earlier tasks (Salinas et al. 2020); what was given out is left out."""
    own = rows(asked["configurations"], within)
    records = own.to_dict("records")
    rng = np.random.default_rng(asked["seed"])

    class Quantiles(QuantileBasedSurrogateSearcher):
        def _sample_random_config(self) -> dict[str, Any]:
            return records[rng.integers(len(records))]

    searcher = Quantiles(
        config_space=dict(within),
        transfer_learning_evaluations=evaluations(asked["history"], within, -1),
        random_seed=asked["seed"],
    )
    keys = [json.dumps(record, sort_keys=True) for record in searcher.X_candidates.to_dict("records")]
    places = {json.dumps(record, sort_keys=True): place for place, record in enumerate(records)}
    drawn = np.array([places[key] for key in keys])

    def ask() -> int | None:
        if not np.isfinite(searcher.mu_pred).any():
            return None
        place = places[json.dumps(searcher.suggest(), sort_keys=True)]
        searcher.mu_pred[drawn == place] = np.inf
        return place

    return ask


def at_random(asked: Mapping[str, Any]) -> Ask:
    """Where there is nothing to learn from."""
    order = iter(np.random.default_rng(asked["seed"]).permutation(len(asked["configurations"])).tolist())
    return lambda: next(order, None)


METHODS = {"zero-shot": zero_shot, "quantiles": quantiles}


def main() -> None:
    """Answer until standard input ends."""
    logging.disable(logging.INFO)
    answers, sys.stdout = sys.stdout, sys.stderr  # Syne Tune prints how long things take
    asked = json.loads(sys.stdin.readline())
    tried = [configuration for of in asked["history"].values() for configuration, _score in of["tried"]]
    within = space([*asked["configurations"], *tried])
    learned = len(asked["history"]) > 1 and bool(within)
    ask = METHODS[asked["method"]](asked, within) if learned else at_random(asked)
    given: set[int] = set()
    for _line in sys.stdin:
        place = ask()
        while place is not None and place in given:
            place = ask()
        if place is not None:
            given.add(place)
        print(json.dumps(place), file=answers, flush=True)


if __name__ == "__main__":
    main()
