"""A trial that turns a backbone into a supernet on the task, and leaves the subnets that keep the limits as models."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from automl.device import Device
from automl.machine import seen
from automl.records import TrialSpec
from automl.task import Constraint, Objective

#: File of the supernet, in the folder of its trial and of the run.
SUPERNET_FILE = "supernet.safetensors"
#: Folder of the subnets in the trial's, and what is known of each of them.
SUBNETS, SUBNET_FILE = "subnets", "subnet.json"
#: Share of the time for training and judging; the rest is for measuring and scoring subnets.
TRAINED = 0.8
#: Share of that rest for measuring.
_MEASURED = 0.7
#: Subnets for each set of limits, and altogether.
_TOP, _MOST = 2, 8
#: The smaller side that is trained besides the asked one, as a share, and what sides are multiples of.
_SMALLER, _STEP = 0.75, 16


def sides(resolution: int) -> list[int]:
    """Sides that a supernet is trained at."""
    smaller = round(_SMALLER * resolution / _STEP) * _STEP
    return sorted({max(32, smaller), resolution})


def fit_supernet(
    spec: TrialSpec, folder: Path, dataset: Any, backbone: Any
) -> Generator[float, None, dict[str, Any]]:
    """Train, then for every set of limits export and time subnets, and leave those that keep it, with scores.

    Args:
        spec: of the trial; ``limits`` are the sets.
        folder: of the trial; gets :data:`SUPERNET_FILE` and :data:`SUBNETS`.
        dataset: an opened dataset.
        backbone: that becomes a supernet.

    Yields:
        the share that is done.

    Returns:
        numbers that go with the outcome.

    Raises:
        search_spaces.convert.ConversionError: the backbone cannot become a supernet.
        search_spaces.predict.TableError: there was no time to judge enough subnets.
        AutomlError: no subnet can be exported and run.
    """
    from automl._subnets import Subnets, missed
    from automl.training import supernet_of

    began = time.monotonic()
    seconds = spec.seconds or 0.0
    train, validation = (np.asarray(part) for part in dataset.folds[0])
    steps = supernet_of(
        dataset,
        train,
        validation,
        backbone,
        resolutions=sides(spec.candidate.resolution),
        objective=Objective.parse(spec.objective),
        seconds=TRAINED * seconds,
        seed=spec.seed,
        shared=Path(spec.shared_folder),
        threads=spec.threads,
    )
    while True:
        try:
            yield TRAINED * next(steps)
        except StopIteration as end:
            stored = end.value
            break
    stored.save(folder / SUPERNET_FILE)
    left: set[str] = set()
    due = began + seconds
    device = seen(Device.parse(spec.device))
    with Subnets(stored, device, spec.seed, slow_moment=spec.slow_moment) as subnets:
        for number, texts in enumerate(spec.limits):
            if len(left) == _MOST:
                break
            limits = [Constraint.parse(text) for text in texts]
            now = time.monotonic()
            until = now + _MEASURED * (due - now) / (len(spec.limits) - number)
            subnets.search(limits, _TOP, lambda _line: None, until)
            kept = [(s, c) for s, c in subnets.measured() if not missed(limits, c)]
            scores, _lows = subnets.scores([s for s, _ in kept]) if kept else ([], [])
            for at in np.argsort(-np.asarray(scores), kind="stable")[:_TOP]:
                subnet, costs = kept[int(at)]
                name = json.dumps(subnet, sort_keys=True)
                if name not in left and len(left) < _MOST:
                    left.add(name)
                    _leave(folder / SUBNETS / str(len(left)), stored, subnet, costs, dataset, validation)
                yield min(0.99, (time.monotonic() - began) / max(seconds, 1e-6))
        count = subnets.count
    judged = [known.score for known in stored.known if known.score is not None]
    return {"subnets": len(left), "measured": count, "judged": len(judged)}


def _leave(
    folder: Path, stored: Any, subnet: dict[str, int], costs: dict[str, float], dataset: Any, rows: np.ndarray
) -> None:
    """Write a subnet as trials leave their models; it is complete once it has its name."""
    from automl._subnets import vision_model
    from automl.training import save_model, subnet_probabilities
    from search_spaces.stored import RESOLUTION

    part = folder.with_name(f".{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model = vision_model(stored, subnet)
    save_model(model, part, resolution=subnet[RESOLUTION], whole=True)
    order = np.sort(rows)
    probabilities = subnet_probabilities(stored, subnet, dataset, order)
    np.savez(part / "scores.npz", index=order, probabilities=probabilities.astype(np.float32))
    about = {"subnet": subnet, "costs": costs, "backbone": model.spec.to_dict()}
    (part / SUBNET_FILE).write_text(json.dumps(about), encoding="utf-8")
    part.rename(folder)


def read_subnets(spec: TrialSpec) -> list[tuple[Path, dict[str, Any]]]:
    """Folders of the subnets that a trial left and that were not taken over yet, and what is known of each."""
    found = []
    for folder in sorted((Path(spec.folder) / SUBNETS).glob("[0-9]*")):
        about = json.loads((folder / SUBNET_FILE).read_text(encoding="utf-8"))
        found.append((folder, about))
    return found


def taken_over(
    spec: TrialSpec, folder: Path, about: dict[str, Any], trial_id: str, strategy: dict[str, Any]
) -> TrialSpec:
    """The specification of the trial that a subnet becomes.

    Args:
        spec: of the supernet's trial.
        folder: of the new trial.
        about: the subnet, see :func:`read_subnets`.
        trial_id: of the new trial.
        strategy: recipe by which the subnet is trained on.
    """
    from automl.candidate import Candidate
    from search_spaces.stored import RESOLUTION

    name, side = str(about["backbone"]["name"]), int(about["subnet"][RESOLUTION])
    return replace(
        spec,
        trial_id=trial_id,
        candidate=Candidate(name, side, "fp32", str(strategy["name"])),
        backbone=about["backbone"],
        folder=str(folder),
        strategy=strategy,
        purpose="search",
        limits=[],
    )
