"""The folder of a run: whether it can be used, and what an interrupted run was asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from automl.errors import InputError
from automl.task import Constraint, Task, check_constraints, read_task

#: What a run writes into its folder.
WRITTEN = (
    "model.onnx", "labels.json", "result.json", "trials.parquet", "report.html", "MODEL_CARD.md", "checkpoints",
    "limits.json", "supernet.safetensors",
)  # fmt: skip

#: Names of what a run remembers, as :meth:`automl.task.Task.make` and :func:`automl.engine.submit` call them.
REMEMBERED = (
    "constraints", "objective", "budget", "max_trials", "device", "seed", "weights_dirs", "backbones",
    "limits", "columns",
)  # fmt: skip


def as_asked(folder: Path, now: Mapping[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """The arguments of a run: what was typed now, the rest as it was when the run began.

    Args:
        folder: of the run.
        now: argument → value, of all :data:`REMEMBERED`.
        typed: those of them that the user gave now.

    Raises:
        InputError: there is no run that could be gone on with.
    """
    begun = read_task(folder / "search" / "task.json", folder)
    if {"constraints", "limits"} & set(typed):  # one takes the place of the other
        typed = {*typed, "constraints", "limits"}
    asked = {name: now[name] if name in typed or name not in begun else begun[name] for name in REMEMBERED}
    if asked["limits"] is begun.get("limits"):
        asked["limits"] = parse_sets(asked["limits"] or [])
    return asked


def parse_sets(sets: Collection[Collection[str]]) -> list[tuple[Constraint, ...]]:
    """Sets of limits as ``task.json`` holds them."""
    return [check_constraints(tuple(Constraint.parse(text) for text in limits)) for limits in sets]


def told_sets(sets: Collection[Collection[Constraint]]) -> list[list[str]]:
    """Sets of limits for ``task.json``."""
    return [[limit.expression for limit in limits] for limits in sets]


def require_free(folder: Path, data: Path) -> None:
    """Check that a new run overwrites nothing.

    Raises:
        InputError: the folder lies among the images, or holds a run or files that have the same names.
    """
    if data.is_dir() and folder.is_relative_to(data):
        raise InputError(f"--out {folder} lies among the images of {data}; name a folder outside")
    if (folder / "search" / "task.json").exists() or (folder / "result.json").exists():
        raise InputError(f"{folder} holds a run already; use another --out, or --resume {folder}")
    there = [name for name in WRITTEN if (folder / name).exists()]
    if there:
        raise InputError(f"{folder} holds {', '.join(there)}, which would be overwritten; use another --out")


def changed_limits(begun: Mapping[str, Any], task: Task, sets: Sequence[Sequence[Constraint]]) -> bool:
    """Whether a resumed run has other limits than it began with.

    Args:
        begun: its ``task.json``.
        task, sets: what is asked now.

    Raises:
        InputError: it is asked for something that its trials do not fit.
    """
    before = Task.from_dict(begun)
    for name in ("data", "seed", "objective"):
        was, now = before.to_dict()[name], task.to_dict()[name]
        if was != now:
            raise InputError(f"the run was begun with {name} {was}; resume it with that, not with {now}")
    return [before.constraints, *parse_sets(begun.get("limits", []))] != [task.constraints, *sets]


def brought_folders(run: Any) -> Any:
    """What is brought to workers on other machines: the data set, the weights, and the trials of the run.

    Args:
        run: the :class:`automl.run.Run`, whose data are read.
    """
    from automl.search import Folders

    mark = "local-dir:"
    weights = [b.source.removeprefix(mark) for b in run.backbones if b.source.startswith(mark)]
    return Folders(str(run.store.root), (str(Path(run.dataset.folder).parent.parent), *weights))
