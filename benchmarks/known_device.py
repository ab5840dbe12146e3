"""Measures what networks cost on this machine, for the limits of tasks, into the home folder: ``python -m … SPECS``.

A run that finds it there starts as on a machine on which something was submitted before.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from automl import networks
from automl.data import load_dataset
from automl.errors import InputError
from automl.home import home_folder
from automl.task import Task
from benchmarks.cells import Spec

#: What stays in the home folder.
_KEPT = "feasibility"


def measure(spec: Spec) -> None:
    """Measure all networks of one run as a submit does, but to the end."""
    settings = spec["settings"]
    task = Task.make(
        spec["source"],
        budget=settings["budget"],
        constraints=settings["limits"],
        weights_dirs=spec["weights_dirs"],
        backbones=settings["backbones"],
    )
    sets = [list(task.constraints)]
    dataset = load_dataset(task.data, seed=0, columns=settings["columns"] or None)
    found = networks.find(task, sets, _say, None)
    networks.measure(found, dataset, task, sets, _say, None, None)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(path: str) -> int:
    """Measure for all specs of the file; a wrong input ends with 2."""
    try:
        for spec in json.loads(Path(path).read_text(encoding="utf-8")):
            _say(f"  {spec['identity']['dataset']}: {', '.join(spec['settings']['limits'])}")
            measure(spec)
    except InputError as error:
        _say(f"error: {error}")
        return 2
    for other in home_folder().iterdir():
        if other.name != _KEPT and other.is_dir():
            shutil.rmtree(other)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
