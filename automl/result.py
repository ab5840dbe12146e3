"""What a submit leaves, opened: status, model, trials, metrics, and predictions."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl import wording
from automl.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SCHEMA_VERSION = 1
_MOST_LIMITS = 6


class Result:
    """A finished run.

    Attributes:
        folder: the run folder.
        status: ``ok``, or ``infeasible`` where no model keeps all limits.
        constraints: one dict per limit: ``expression``, ``limit``, ``measured``, ``low``, ``high``, ``evidence``,
            ``satisfied``.
        metrics: ``validation`` and ``test`` → metric → ``value``, ``low``, ``high``, ``n``.
        winner: ``backbone``, ``strategy``, ``source``, ….
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder, self._content = folder, dict(content)
        self.status: str = content["status"]
        self.constraints: list[dict[str, Any]] = list(content["constraints"])
        self.metrics: dict[str, dict[str, dict[str, Any]]] = dict(content["metrics"])
        self.winner: dict[str, Any] = dict(content["winner"])

    @classmethod
    def open(cls, run_folder: str | os.PathLike[str]) -> Result:
        """Open a run folder.

        Raises:
            InputError: it holds no finished run, or one of a newer version.
        """
        folder = Path(run_folder).expanduser().resolve()
        path = folder / "result.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["schema_version"]
            if version != SCHEMA_VERSION:
                raise InputError(
                    f"{path} has schema_version {version}; this version of automl reads {SCHEMA_VERSION}"
                )
            return cls(folder, content)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(_nothing_there(folder)) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} cannot be used ({type(error).__name__}: {error})") from None

    def __repr__(self) -> str:
        return f"Result({str(self.folder)!r}, status={self.status!r})"

    @property
    def model_path(self) -> Path:
        """The exported ONNX file.

        Raises:
            InputError: ``result.json`` names a file outside the run folder.
        """
        path = (self.folder / str(self._content.get("model", "model.onnx"))).resolve()
        if not path.is_relative_to(self.folder):
            raise InputError(f"{self.folder / 'result.json'} names a model outside the run folder: {path}")
        return path

    @property
    def objective(self) -> str:
        """The metric that was maximised."""
        return str(self._content.get("objective", "balanced_accuracy"))

    @property
    def costs(self) -> dict[str, float]:
        """What was measured of the file: ``latency_ms``, ``size_mb``, ….

        Where a measurement is missing it is left out; the size is that of the file.
        """
        found = {name: float(v) for name, v in (self._content.get("costs") or {}).items() if wording.known(v)}
        for row in self.constraints:
            metric, _ = wording.split_expression(str(row["expression"]))
            if wording.is_cost(metric) and wording.known(row.get("measured")):
                found.setdefault(metric, float(row["measured"]))
        if "size_mb" not in found and self.model_path.is_file():
            found["size_mb"] = self.model_path.stat().st_size / 1e6
        return found

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Every trial, one row each.

        Raises:
            InputError: ``trials.parquet`` is missing or damaged.
        """
        import pandas as pd

        path = self.folder / "trials.parquet"
        try:
            return pd.read_parquet(path)
        except Exception as error:
            raise InputError(
                f"{path} cannot be read ({type(error).__name__}); copy the run folder again"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        content: dict[str, Any] = json.loads(json.dumps(self._content))
        return content

    def predict(
        self,
        images: str | os.PathLike[str] | np.ndarray | Sequence[str | os.PathLike[str] | np.ndarray],
        *,
        threads: int = 1,
        batch: int = 16,
    ) -> pd.DataFrame:
        """Label images.

        Args:
            images: files, folders and patterns; or uint8 arrays ``[H, W, 3]``, alone, in a list, or as ``[N, H, W, 3]``.
            threads: CPU threads.
            batch: images at a time.

        Returns:
            as :func:`automl.predict.predict_files`.

        Raises:
            InputError: the model is missing, or what was given is no image.
        """
        import numpy as np

        from automl.predict import Predictor, expand

        if self._predictor is None or self._predictor.threads != threads:
            self._predictor = Predictor(self.folder, threads=threads)
        items: Sequence[Any]
        if isinstance(images, np.ndarray):
            items = list(images) if images.ndim == 4 else [images]
        elif isinstance(images, str | os.PathLike):
            items = expand(images)
        else:
            items = []
            for image in images:
                items.extend([image] if isinstance(image, np.ndarray) else expand([image]))
        return self._predictor.predict(items, batch=batch)

    _predictor: Any = None

    def summary(self) -> str:
        """The result as plain text of at most 25 lines."""
        lines = [headline(self.status, self.constraints)]
        costs = [
            wording.value("size_mb", self.costs.get("size_mb")),
            f"{wording.value('latency_ms', self.costs['latency_ms'])} per image on {self.device}"
            if "latency_ms" in self.costs
            else "latency not measured",
        ]
        lines.append(f"model    {self.model_path} ({', '.join(costs)})")
        lines.append(f"winner   {wording.plain(winner_text(self.to_dict()))}")
        test = self.metrics.get("test", {})
        for number, name in enumerate(dict.fromkeys([self.objective, "accuracy"])):
            start = "test     " if number == 0 else "         "
            lines.append(f"{start}{wording.title(name)} {wording.metric_text(test.get(name))}")
        if test:
            lines.append("         in brackets: 95 % interval; no choice was made on these images")
        rows = self.constraints
        if len(rows) > _MOST_LIMITS:
            rows = sorted(rows, key=lambda row: bool(row["satisfied"]))  # those that are missed first
        for number, row in enumerate(rows[:_MOST_LIMITS]):
            start = "limits   " if number == 0 else "         "
            verdict = "holds" if row["satisfied"] else "MISSED"
            note = {"too_few": ", too few images to prove it", "predicted": ", predicted"}.get(
                str(row["evidence"]), ""
            )
            lines.append(
                f"{start}{verdict}: {wording.limit_text(row)}; measured {wording.measured_text(row)}{note}"
            )
        if len(rows) > _MOST_LIMITS:
            missed = sum(not row["satisfied"] for row in rows[_MOST_LIMITS:])
            lines.append(f"         … {len(rows) - _MOST_LIMITS} more limits, {missed} of them missed")
        for start, text in (("why", self._content.get("why")), ("needs", self._content.get("needs"))):
            if text:
                lines.extend(_wrapped(start, wording.plain(text), 4))
        lines.append(f"trials   {trials_text(self.to_dict())}")
        if self._content.get("interrupted"):
            lines.append("note     the search was interrupted; this is the best model until then")
        report = self.folder / "report.html"
        lines.append(f"report   {report}" if report.exists() else "report   none was written")
        return "\n".join(lines)

    @property
    def measured(self) -> bool:
        """Whether latency was measured on the device rather than predicted for it."""
        device = self._content.get("device") or {}
        return not isinstance(device, Mapping) or bool(device.get("measured", True))

    @property
    def device(self) -> str:
        """Where latency was measured; a device that it was predicted for says so."""
        device = self._content.get("device") or {}
        name = device.get("name") if isinstance(device, Mapping) else device
        known = str(name or (self._content.get("task") or {}).get("device") or "this machine")
        return known if self.measured else f"{known} (predicted)"


def headline(status: str, constraints: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: whether the limits hold."""
    missed = sum(not row["satisfied"] for row in constraints)
    total = len(constraints)
    if not total:
        return "Done: no limit was set" if status == "ok" else "No model could keep the limits"
    if status == "ok" and not missed:
        return "Done: the limit holds" if total == 1 else f"Done: all {total} limits hold"
    if total == 1:
        return "The limit could not be kept; this is the closest model"
    return f"{missed} of {total} limits could not be kept; this is the closest model"


def member_names(content: Mapping[str, Any]) -> list[str]:
    """Candidate ids of the models that make up the file."""
    return [str(m["candidate"]) if isinstance(m, Mapping) else str(m) for m in content.get("members") or []]


def winner_text(content: Mapping[str, Any]) -> str:
    """What won, in a few words."""
    winner, members = content.get("winner") or {}, member_names(content)
    if len(members) > 1:
        return f"{len(members)} models as one: {' + '.join(members)}"
    name = str(winner.get("subnet") or winner.get("backbone") or (members[0] if members else "unknown"))
    if winner.get("resolution"):
        name += f" at {winner['resolution']} px, {winner.get('precision', 'fp32')}"
    return f"{name}, trained by {winner.get('strategy')}" if winner.get("strategy") else name


def trials_text(content: Mapping[str, Any]) -> str:
    """How many trials ended how, and the time."""
    counts, seconds = content.get("trials") or {}, content.get("seconds") or {}
    words = (
        ("completed", "completed"),
        ("stopped_early", "stopped early"),
        ("cut_off", "cut off when their time was over"),
        ("failed", "failed"),
        ("infeasible_not_trained", "settings could not keep a limit and were not trained"),
    )
    parts = [f"{counts[key]:,} {text}" for key, text in words if counts.get(key)]
    return f"{', '.join(parts) or 'none'}; {wording.duration(seconds.get('total'))} in all"


def _wrapped(start: str, text: str, most: int) -> list[str]:
    return textwrap.wrap(
        text,
        110,
        initial_indent=f"{start:9s}",
        subsequent_indent=" " * 9,
        max_lines=most,
        placeholder=" …",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _nothing_there(folder: Path) -> str:
    if not folder.is_dir():
        return f"run folder '{folder}' does not exist"
    below = sorted(path.parent.name for path in folder.glob("limits-*/result.json"))
    if below:
        return f"{folder} answers several sets of limits; open one of {', '.join(below[:5])} in it"
    if (folder / "search" / "task.json").exists():
        return f"{folder} holds a run that is not finished; go on with automl submit … --resume {folder}"
    return f"{folder} is no run folder; it has no result.json"
