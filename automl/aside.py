"""A process beside the engine's own that builds and times networks.

Importing torch takes seconds. There they go by while the data are read, and the engine's own process, which reads them
and starts Ray meanwhile, stays free of it until it finishes a model. The two exchange lines of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import pandas as pd

from automl import feasibility
from automl.device import Device
from automl.task import Constraint
from search_spaces.backbones import Backbone

#: What building and exporting a network needs.
IMPORTS = ("torch", "timm", "automl.training")


class Aside:
    """Measures networks in a process of its own; a context manager.

    The process starts with :meth:`start` or with the first measurement and ends with the context.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Aside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def start(self, imports: Sequence[str] = IMPORTS) -> None:
        """Start the process, if it has not been, and let it import; returns at once."""
        if self._child is not None:
            return
        with contextlib.suppress(OSError):  # then networks are measured in this process
            self._child = subprocess.Popen(
                [sys.executable, "-m", "automl.aside", *imports],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
                },
                start_new_session=True,  # Ctrl-C is the engine's to answer
            )

    def measure(
        self,
        backbones: Sequence[Backbone],
        sides: Sequence[int],
        precisions: Sequence[str],
        classes: int,
        sets: Sequence[Sequence[Constraint]],
        device: Device,
        cache: Path,
        *,
        deadline: float | None = None,
    ) -> feasibility.FeasibilityTable:
        """:func:`automl.feasibility.measure` there, or here where the process cannot be started or fails."""
        request = {
            "backbones": [backbone.to_dict() for backbone in backbones],
            "sides": list(sides),
            "precisions": list(precisions),
            "classes": classes,
            "sets": [[asdict(limit) for limit in limits] for limits in sets],
            "device": asdict(device),
            "cache": str(cache),
            "deadline": deadline,
        }
        self.start(())
        child = self._child
        if child is not None and child.stdin is not None and child.stdout is not None:
            with contextlib.suppress(OSError, ValueError):  # ValueError: it ended without an answer
                child.stdin.write(json.dumps(request) + "\n")
                child.stdin.flush()
                return feasibility.FeasibilityTable(pd.DataFrame(json.loads(child.stdout.readline())))
        return feasibility.measure(
            backbones, sides, precisions, classes, sets, device, cache, deadline=deadline
        )


def _answer(line: str) -> str:
    """Measure what a line asks for and return the table's columns."""
    asked = json.loads(line)
    table = feasibility.measure(
        [Backbone.from_dict(values) for values in asked["backbones"]],
        asked["sides"],
        asked["precisions"],
        asked["classes"],
        [[Constraint(**limit) for limit in limits] for limits in asked["sets"]],
        Device(**asked["device"]),
        Path(asked["cache"]),
        deadline=asked["deadline"],
    )
    return json.dumps(table.frame.to_dict("list"))


def _serve(imports: Sequence[str]) -> None:
    """Answer until nothing more comes."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    for name in imports:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        print(_answer(line), file=out, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1:])
