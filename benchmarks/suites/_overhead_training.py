"""Training beside itself: two trials at a time through the search, and two bare loops at a time, in turns.

``python -m benchmarks.suites._overhead_training ASKED.json`` prints one JSON object.

The bare loop is the least that trains a network: images of one size in memory, as they are, forward, backward, a step of
AdamW, and after each epoch one pass over the validation images. A trial also augments its images, sets the learning rate
and the loss, clips gradients, computes scores, reports and asks whether it goes on.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

#: Of each training. A trial evaluates six times, or after each epoch where they are fewer.
EPOCHS = 4
#: Loops at a time.
PAIR = 2
RECIPE = "full_plain_128"
#: Kinds of bare loops: in float32, and in the precision that the engine trains in.
LOOPS = ("float32", "mixed")
#: Share of a bare loop's images per second that a trial has at least.
AIM = 0.90


def measure(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Train each network in rounds of two trials and of two bare loops of each kind, in changing order.

    Args:
        asked: ``source``, ``columns``, ``seed``, ``weights_dirs``, ``networks`` (names), ``rounds`` and ``work`` (folder).

    Returns:
        per network: ``network``, ``side``, ``batch``, ``training`` and ``validation`` (images), ``rounds`` (per round and
        kind the images per second of each of the two; ``together``: share of the time that both trials were in) and
        ``share`` (:func:`shares`).

    Raises:
        InputError: the source or a network cannot be used.
        RuntimeError: a training failed.
    """
    from automl.data import load_dataset
    from automl.errors import InputError, did_you_mean
    from search_spaces.backbones import find_backbones
    from strategy_pool.strategy import load_catalog

    data = load_dataset(asked["source"], seed=asked["seed"], columns=asked["columns"] or None)
    backbones, _skipped = find_backbones(asked["weights_dirs"], [])
    known = {b.name: b for b in backbones if b.pretrained}
    recipe = load_catalog()[RECIPE]
    found = []
    for name in asked["networks"]:
        if name not in known:
            raise InputError(f"no network '{name}' among the pretrained ones{did_you_mean(name, known)}")
        task = {
            "dataset": str(data.folder), "backbone": known[name].to_dict(), "side": recipe.resolution,
            "strategy": recipe.to_dict(), "seed": asked["seed"],
        }  # fmt: skip
        found.append(_network(task, asked["rounds"], Path(asked["work"]) / name))
    return found


def _network(task: Mapping[str, Any], rounds: int, folder: Path) -> dict[str, Any]:
    from automl.data import Dataset

    folds = Dataset.open(task["dataset"]).folds
    train, validation = folds[0]
    batch = min(int(task["strategy"]["batch_size"]), len(train))
    done: list[dict[str, Any]] = []
    for number in range(rounds):
        kinds = ["trials", *LOOPS]
        kinds = kinds[number % len(kinds) :] + kinds[: number % len(kinds)]
        one: dict[str, Any] = {}
        for kind in kinds:
            if kind == "trials":
                one |= _trials(task, folder / str(number), len(train) // batch * batch, len(folds))
            else:
                one[kind] = _loops(task, kind, batch)
        done.append(one)
    return {
        "network": task["backbone"]["name"], "side": task["side"], "batch": batch, "training": len(train),
        "validation": len(validation), "rounds": done, "share": shares(done),
    }  # fmt: skip


def shares(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Per kind of bare loop the trials' images per second over its own: ``median``, ``low`` and ``high`` over the rounds."""
    found = {}
    for kind in LOOPS:
        each = [sum(one["trials"]) / sum(one[kind]) for one in rounds]
        found[kind] = {"median": statistics.median(each), "low": min(each), "high": max(each)}
    return {kind: {key: round(value, 4) for key, value in told.items()} for kind, told in found.items()}


def per_second(marks: Sequence[float], images: int) -> float:
    """Images of an epoch and the seconds at which epochs had ended → images per second between the first and the last."""
    return round((len(marks) - 1) * images / (marks[-1] - marks[0]), 2)


# --- trials -----------------------------------------------------------------------------------------


def _trials(task: Mapping[str, Any], folder: Path, images: int, folds: int) -> dict[str, Any]:
    """Two trials at a time, as a submit runs them; of each its first fold is told, of so many images in an epoch."""
    from automl.candidate import Candidate
    from automl.machine import trial_resources
    from automl.records import Outcome, TrialSpec
    from automl.search import Proposer, TrialStore, run_search, shutdown

    store, ended = TrialStore(folder), []
    plain = Candidate(task["backbone"]["name"], task["side"], "fp32", RECIPE, ())
    # The two have to differ in something, as a search never tries the same twice.
    pool = [replace(plain, overrides=(("weight_decay", 0.01 * number),)) for number in range(1, PAIR + 1)]

    def make_spec(candidate: Candidate, _left: float) -> TrialSpec:
        name = store.new_trial_id()
        return TrialSpec(
            trial_id=name, candidate=candidate, dataset_folder=task["dataset"], backbone=dict(task["backbone"]),
            folder=str(store.folder(name)), seconds=None, max_epochs=EPOCHS, seed=task["seed"], threads=1,
            device="cpu:1", objective="balanced_accuracy", constraints=[], shared_folder=str(folder / "shared"),
            strategy={**task["strategy"], **dict(candidate.overrides)},
        )  # fmt: skip

    def on_result(spec: TrialSpec, outcome: Outcome) -> None:
        if outcome.status != "completed" or len(outcome.curve) != EPOCHS * folds:
            raise RuntimeError(
                f"a trial ended as {outcome.status}: {outcome.error or 'evaluations are missing'}"
            )
        began = (Path(spec.folder) / "outcome.json").stat().st_mtime - outcome.seconds
        ended.append([began + seconds for _epoch, _score, seconds in outcome.curve[:EPOCHS]])

    try:
        run_search(
            Proposer(pool, explore_share=0.0),
            make_spec,
            deadline=time.monotonic() + 3600.0,
            concurrency=PAIR,
            on_result=on_result,
            resources=trial_resources(PAIR),
        )
    finally:
        shutdown()
    return {"trials": [per_second(marks, images) for marks in ended], "together": together(ended)}


def together(marks: Sequence[Sequence[float]]) -> float:
    """Time in which all were between their first and last mark, as a share of the longest of these spans."""
    inside = min(one[-1] for one in marks) - max(one[0] for one in marks)
    return round(max(0.0, inside) / max(one[-1] - one[0] for one in marks), 4)


# --- bare loops -------------------------------------------------------------------------------------


def _loops(task: Mapping[str, Any], kind: str, batch: int) -> list[float]:
    """Two bare loops at a time, each in a process of its own with one thread."""
    spawned = multiprocessing.get_context("spawn")
    barrier, queue = spawned.Barrier(PAIR), spawned.Queue()
    processes = [
        spawned.Process(target=_loop, args=(dict(task), kind, batch, barrier, queue)) for _ in range(PAIR)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a bare loop ended with exit code {[process.exitcode for process in processes]}")
    return [queue.get(timeout=10) for _ in processes]


def _loop(task: Mapping[str, Any], kind: str, batch: int, barrier: Any, queue: Any) -> None:
    import numpy as np
    import torch

    from automl.data import Dataset
    from automl.training import mixed_precision
    from benchmarks.references import as_tensor, plain_network
    from search_spaces.backbones import Backbone

    torch.set_num_threads(1)
    torch.manual_seed(task["seed"])
    place = torch.device("cpu")
    data = Dataset.open(task["dataset"])
    train, validation = data.folds[0]
    pictures = np.asarray(data.images(task["side"])[np.concatenate([train, validation])])
    labels = torch.from_numpy(np.asarray(data.labels)[train].astype(np.int64))
    model = plain_network(Backbone.from_dict(task["backbone"]), len(data.class_names))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    order, marks = np.random.default_rng(task["seed"]), []

    def precision() -> contextlib.AbstractContextManager[Any]:
        return mixed_precision(place) if kind == "mixed" else contextlib.nullcontext()

    barrier.wait(timeout=600)
    for _ in range(EPOCHS):
        model.train()
        shuffled = order.permutation(len(train))
        for begin in range(0, len(train) // batch * batch, batch):
            rows = shuffled[begin : begin + batch]
            with precision():
                logits = model(as_tensor(pictures[rows], place))
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode(), precision():
            for begin in range(len(train), len(pictures), batch):
                model(as_tensor(pictures[begin : begin + batch], place))
        marks.append(time.perf_counter())
    queue.put(per_second(marks, len(train) // batch * batch))


# --- the table --------------------------------------------------------------------------------------


def to_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as people read it."""
    from benchmarks.tables import table

    rows = []
    for one in found:
        rates = {
            kind: statistics.median(sum(r[kind]) / PAIR for r in one["rounds"]) for kind in ("trials", *LOOPS)
        }
        rows.append([
            one["network"], str(one["side"]), f"{rates['trials']:.0f}", f"{rates['float32']:.0f}", f"{rates['mixed']:.0f}",
            *(_share(one["share"][kind]) for kind in LOOPS),
        ])  # fmt: skip
    head = [
        "network", "side", "trial /s", "bare loop /s", "bare, mixed precision /s", "share of the bare loop",
        "share of it in mixed precision",
    ]  # fmt: skip
    rounds = len(found[0]["rounds"])
    least = min(one["together"] for network in found for one in network["rounds"])
    batch, training, validation = (found[0][key] for key in ("batch", "training", "validation"))
    return [
        *table(head, rows),
        "",
        f"Images per second of each of two trainings at a time, one thread each: two trials of the recipe `{RECIPE}` through "
        f"the search with Ray, and two bare loops (median of {rounds} rounds in turns; shares: median, least and most). From "
        f"the end of the first epoch to the end of the last of {EPOCHS}, with the evaluations between; {training} images, "
        f"{batch} in a step, {validation} for validation. The bare loop has its images in memory and does nothing but "
        "forward, backward, AdamW and the same evaluations: no augmentation, no schedule, no clipping, no scores. Both "
        f"trials were in that span for {least:.0%} of it or more. Aim: {AIM:.0%} of the bare loop.",
    ]


def _share(told: Mapping[str, float]) -> str:
    return f"{told['median']:.1%} ({told['low']:.1%} to {told['high']:.1%})"


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text()))))
