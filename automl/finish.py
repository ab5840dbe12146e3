"""From finished trials to what the user keeps: the exported file, measured, checked and reported."""

from __future__ import annotations

import errno
import functools
import importlib
import itertools
import json
import math
import shutil
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from automl import refit_check
from automl.attempts import Attempts
from automl.choose import Chooser
from automl.ensemble import Selection, build_ensemble
from automl.errors import AutomlError
from automl.evaluation.latency import measured_costs
from automl.explain import needs, why
from automl.history_rows import versions
from automl.networks import cost_table
from automl.records import INTERRUPTED, Outcome, TrialSpec
from automl.task import COST_METRICS, Constraint, Task

_NEEDED = ("torch.onnx", "timm", "automl.export", "automl.report")


@functools.cache
def preload() -> threading.Thread:
    """Import what finishing needs, which takes seconds, in a thread: once, while the trials run."""
    thread = threading.Thread(
        target=lambda: [importlib.import_module(name) for name in _NEEDED], name="preload", daemon=True
    )
    thread.start()
    return thread


class Finisher:
    """Finishes one search for one or many sets of limits.

    Args:
        run: the engine's state of the submit.
        began: ``time.monotonic()`` at the start of finishing.
    """

    def __init__(self, run: Any, began: float) -> None:
        self.submit, self.began = run, began
        self.unfinished = max(1, len(run.limits))
        self.dataset = run.dataset
        self.costs = cost_table(run.table)
        names = ("architecture", "resolution", "precision", "basis")
        self.bases = {(a, int(r), p): b for a, r, p, b in run.table[list(names)].itertuples(index=False)}
        cautious = cost_table(run.table, cautious=True)
        self.chooser = Chooser(run.finished, run.dataset, run.task.objective, cautious, run.most_macs)
        self.by_id: dict[str, tuple[TrialSpec, Outcome]] = {s.trial_id: (s, o) for s, o in run.finished}
        self.refits = {
            Path(spec.initial).name: spec.trial_id
            for spec, outcome in run.finished
            if spec.purpose == "refit"
            and spec.initial
            and outcome.status == "completed"
            and (Path(spec.folder) / "model.json").exists()
        }

    def run(self, folder: Path, task: Task) -> Any:
        """Finish one set of limits in ``folder`` and return its :class:`automl.result.Result`.

        What an earlier finish left stays whole until all that takes time is done.

        Raises:
            AutomlError: no trial left a model.
        """
        from automl.card import write_card
        from automl.evaluation import constraints as checks
        from automl.report import build_report
        from automl.result import Result

        (folder / "search").mkdir(parents=True, exist_ok=True)
        if folder != self.submit.folder:
            for name in ("dataset.json", "feasibility.parquet"):
                shutil.copyfile(self.submit.folder / "search" / name, folder / "search" / name)
            _write_json(folder / "search" / "task.json", task.to_dict())
        limits = task.constraints
        choices = self.chooser.choices(limits)
        if not choices:
            if self.submit.interrupted:
                raise KeyboardInterrupt  # before there was anything to finish with
            errors = sorted({o.error for _, o in self.submit.finished if o.error and o.error != INTERRUPTED})
            raise AutomlError(
                "no trial left a model"
                + (f" ({errors[0]})" if errors else "; a larger --budget gives the first one time to end")
            )
        self.submit.say("exporting and measuring")
        exported, selection, point, info, latency, passed = self._export(choices, limits, folder, task)
        if not latency.calm:
            self.submit.notes.append(
                "other programs used the processor while the latency was measured, so it may be better than it looks"
            )
        costs = measured_costs(info, latency)
        scored = self._score(exported, folder, selection, point)
        spread = {"latency_ms_low": latency.low_ms, "latency_ms_high": latency.high_ms}
        rows = checks.check(
            list(limits),
            costs={**costs, **spread},
            quality=scored["metrics"]["test"],
            predicted_device=bool(task.device.profile),
        )
        status = "ok" if all(row["satisfied"] for row in rows) else "infeasible"
        members = [self.by_id[name][0] for name in selection.weights]
        lead = max(selection.weights, key=lambda name: selection.weights[name])
        spec = self.by_id[lead][0]
        frame = self._trials(limits)
        self._replace(folder, exported, selection, point)
        frame.to_parquet(folder / "trials.parquet")
        search = [o for s, o in self.submit.finished if s.purpose == "search"]
        _write_json(
            folder / "result.json",
            {
                "schema_version": 1,
                "status": status,
                "model": "model.onnx",
                "task": task.to_dict(),
                "objective": task.objective.expression,
                "constraints": rows,
                "metrics": {
                    part: {k: m.to_dict() for k, m in found.items()}
                    for part, found in scored["metrics"].items()
                },
                "winner": {
                    "backbone": spec.candidate.architecture,
                    "subnet": self.by_id[lead][1].metrics.get("subnet"),
                    "strategy": spec.candidate.strategy,
                    "source": source if (source := self.submit.source_of(spec)) in SOURCES else "pool",
                    "resolution": spec.candidate.resolution,
                    "precision": spec.candidate.precision,
                    "overrides": dict(spec.candidate.overrides),
                },
                "members": [
                    {
                        "candidate": m.candidate.id,
                        "trial": m.trial_id,
                        "refit": self.refits.get(m.trial_id),
                        "weight": selection.weights[m.trial_id],
                        "strategy": m.strategy,
                        "backbone": m.backbone,
                    }
                    for m in members
                ],
                "costs": costs,
                "why": self._why(selection, choices, rows, passed),
                "needs": needs(rows) if status != "ok" else None,
                "dataset": self.dataset.report.to_dict(),
                "trials": {
                    "completed": sum(o.status == "completed" for o in search),
                    "stopped_early": sum(o.status == "stopped" and o.error != INTERRUPTED for o in search),
                    "cut_off": sum(o.status == "timeout" or o.error == INTERRUPTED for o in search),
                    "failed": sum(o.status == "failed" for o in search),
                    "infeasible_not_trained": self.submit.infeasible,
                },
                "interrupted": self.submit.interrupted,
                "notes": [*self.submit.notes, *scored["notes"]],
                "seconds": {
                    "total": self.submit.clock.used(),
                    **self.submit.seconds,
                    "final": time.monotonic() - self.began,
                    "in_trials": sum(o.seconds for _, o in self.submit.finished),
                    "workers": self.submit.workers,
                },
                "seed": task.seed,
                "versions": versions(),
                "device": {
                    "name": task.device.label,
                    "measured": not task.device.profile,
                    "calm": latency.calm,
                    "blocks_ms": list(latency.blocks_ms),
                },
                "export": {"exporter": info.exporter, "max_abs_diff": info.max_abs_diff},
            },
        )
        write_card(folder)
        build_report(folder, self.dataset)
        self.unfinished -= 1
        return Result.open(folder)

    # --- export -----------------------------------------------------------------------------------

    def _export(
        self, choices: Sequence[Selection], limits: Sequence[Constraint], folder: Path, task: Task
    ) -> tuple[Path, Selection, Any, Any, Any, int]:
        """Export choices in order until one keeps its limits; otherwise the one that comes closest.

        Returns:
            the file, the choice, its operating point, what was exported, its latency, and how many choices it was
            preferred to.
        """
        from automl._bench import steadiness
        from automl.evaluation.latency import measure_latency
        from automl.home import cache_folder

        remembered = steadiness(cache_folder("feasibility"), task.device)
        cost_limits = [c for c in limits if c.is_cost]
        timed = any(c.name.startswith("latency") for c in limits)
        best: tuple[float, int, tuple[Selection, Any, Any, Any], dict[str, str]] | None = None
        failure: Exception | None = None
        attempts, late = Attempts(choices, cost_limits), False
        for number in itertools.count():
            # A model that keeps the limits is worth a little more time than there is, and no more.
            over = late or (best is not None and self.submit.clock.overdue())
            late = best is not None and self.submit.clock.late()
            selection = None if over else attempts.next(last=late)
            if selection is None:
                break
            point = self.chooser.point(selection, limits)
            path = folder / "search" / f"export-{number}.onnx"
            try:
                info = self._write(selection, point.bias, path)
                if refit_check.leave_out_worse(self, selection, point, path):
                    info = self._write(selection, point.bias, path)
                latency = measure_latency(path, task.device, remembered, thorough=False)
            except Exception as error:  # whatever is wrong with one choice, the next may still be a model
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                failure = error
                if not isinstance(error, AutomlError):
                    self.submit.say(traceback.format_exc().rstrip())
                self.submit.notes.append(f"{self._named(selection)} is not the model: {_told(error)}")
                self.submit.say(f"  {self.submit.notes[-1]}; trying the next")
                continue

            def missed(latency: Any, info: Any = info) -> float:
                costs = measured_costs(info, latency, cautious=True)
                return max((c.violation(costs.get(c.name, math.nan)) for c in cost_limits), default=0.0)

            # A quick look is enough to turn one down; to trust one it is only when there is no time for more.
            if timed and not late and missed(latency) <= 0:
                latency = measure_latency(path, task.device, remembered)
            worst = missed(latency)
            attempts.cost(selection, measured_costs(info, latency, cautious=True))
            if best is None or worst < best[0]:
                best = worst, number, (selection, point, info, latency), dict(self.refits)
            if worst <= 0:
                break
            self.submit.say(
                f"  {self._named(selection)} misses a limit by {100 * worst:.1f} % when measured; trying the next"
            )
        if best is None:
            raise AutomlError(f"nothing could be exported: {_told(failure)}") from failure
        # A later choice may have left out a refit that is in this file.
        _, number, chosen, self.refits = best
        exported = folder / "search" / f"export-{number}.onnx"
        for left in set((folder / "search").glob("export-*.onnx")) - {exported}:
            left.unlink()
        return exported, *chosen, number

    def _named(self, selection: Selection) -> str:
        return " + ".join(self.by_id[name][0].candidate.id for name in selection.weights)

    def _folder(self, name: str) -> Path:
        """Where the model of a trial lies: its refit's, where there is one."""
        return Path(self.by_id[self.refits.get(name, name)][0].folder)

    def _write(self, selection: Selection, bias: np.ndarray, path: Path) -> Any:
        from automl.export import export_onnx
        from automl.training import load_model

        names = list(selection.weights)
        specs = [self.by_id[name][0] for name in names]
        models = [load_model(self._folder(name)) for name in names]
        side = max(spec.candidate.resolution for spec in specs)
        calibration = None
        if specs[0].candidate.precision == "int8":
            rows = np.random.default_rng(self.submit.task.seed).permutation(
                self.dataset.indices("development")
            )[:200]
            calibration = self.dataset.images(side, once=True)[np.sort(rows)]
        parts = [
            (
                model,
                spec.candidate.resolution,
                selection.weights[name] / self.chooser.members[name].temperature,
            )
            for name, spec, model in zip(names, specs, models, strict=True)
        ]
        return export_onnx(
            build_ensemble(parts, side),
            side,
            path,
            bias=bias if np.any(bias) else None,
            precision=specs[0].candidate.precision,
            calibration=calibration,
        )

    # --- scores -----------------------------------------------------------------------------------

    def _score(self, exported: Path, folder: Path, selection: Selection, point: Any) -> dict[str, Any]:
        """Metrics on validation scores and, through the file itself, on the test images."""
        from automl.data import proportional_order
        from automl.evaluation import metrics, operating_point
        from automl.export import run_onnx

        labels, names = np.asarray(self.dataset.labels), list(self.dataset.class_names)
        groups = np.asarray(self.dataset.groups)
        side = max(self.by_id[name][0].candidate.resolution for name in selection.weights)
        index = self.chooser.index
        probabilities = np.exp(selection.log_probabilities).astype(np.float32)
        predicted = operating_point.apply(probabilities, point.bias)
        _save_scores(
            folder / "search" / "validation_scores.npz", index, labels[index], probabilities, predicted
        )
        found = {
            "validation": metrics.evaluate_all(labels[index], probabilities, predicted, names, groups[index])
        }
        test = np.asarray(self.dataset.indices("test"))
        # Where the time does not suffice for all, it has to be a fair sample that there are scores of.
        order = proportional_order(labels[test], self.dataset.seed)
        threads = max(1, self.submit.workers)
        got, label = run_onnx(
            exported,
            self.dataset.images(side, once=True),
            test[order],
            threads=threads,
            enough=self.submit.clock.tested(self.unfinished, len(names)),
        )
        back = np.argsort(order[: len(label)])
        test, got, label = test[order[back]], got[back], label[back]
        notes = []
        if len(test) < len(order):
            notes.append(
                f"the test scores are of {len(test)} of {len(order)} test images, a random sample with the share of "
                "each class kept, for lack of time"
            )
            self.submit.say(f"  {notes[-1]}")
        _save_scores(folder / "search" / "test_scores.npz", test, labels[test], got, label)
        found["test"] = metrics.evaluate_all(labels[test], got, label, names, groups[test])
        return {"metrics": found, "notes": notes}

    def _replace(self, folder: Path, exported: Path, selection: Selection, point: Any) -> None:
        """Put the new model in the place of what an earlier finish left; without ``result.json`` there is no result."""
        left = ["result.json", "MODEL_CARD.md", "report.html"]
        if folder == self.submit.folder and not self.submit.limits:
            left.append("limits.json")
        for name in left:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        exported.replace(folder / "model.onnx")
        side = max(self.by_id[name][0].candidate.resolution for name in selection.weights)
        _write_json(
            folder / "labels.json",
            {
                "schema_version": 1,
                "classes": list(self.dataset.class_names),
                "resize": self.dataset.resize_chain(side),
                "ranges": self.dataset.ranges,
                "input": "images",
                "outputs": ["probabilities", "label"],
                "bias": [float(v) for v in point.bias],
            },
        )
        checkpoints = folder / "checkpoints"
        for number, name in enumerate(selection.weights):
            target = checkpoints / f"member-{number}"
            target.mkdir(parents=True, exist_ok=True)
            for file in ("model.safetensors", "model.json"):
                shutil.copyfile(self._folder(name) / file, target / file)

    def _trials(self, limits: Sequence[Constraint]) -> pd.DataFrame:
        rows = []
        for spec, outcome in self.submit.finished:
            c = spec.candidate
            cost = self.costs.get(c.triple, {})
            known = {k: float(cost.get(k, math.nan)) for k in COST_METRICS}
            rows.append(
                {
                    "trial_id": spec.trial_id,
                    "candidate": c.id,
                    "architecture": c.architecture,
                    "resolution": c.resolution,
                    "precision": c.precision,
                    "strategy": c.strategy,
                    "source": self.submit.source_of(spec),
                    "status": outcome.status,
                    "score": math.nan if outcome.usable_score is None else outcome.usable_score,
                    "seconds": outcome.seconds,
                    "epochs": outcome.epochs,
                    **known,
                    "basis": self.bases.get(c.triple, ""),
                    "feasible": all(
                        not math.isfinite(known.get(k.name, math.nan)) or k.satisfied(known[k.name])
                        for k in limits
                        if k.is_cost
                    ),
                    "error": outcome.error,
                    "curve": json.dumps(outcome.curve),
                    "metrics": json.dumps(outcome.metrics, default=str),
                    "overrides": json.dumps(dict(c.overrides)),
                }
            )
        return pd.DataFrame(rows)

    def _why(
        self,
        selection: Selection,
        choices: Sequence[Selection],
        rows: Sequence[Mapping[str, Any]],
        passed: int,
    ) -> str:
        limits = [Constraint.parse(row["expression"]) for row in rows]
        missed = [c for c, row in zip(limits, rows, strict=True) if not row["satisfied"]]
        singles = [s for s in choices if len(s.weights) == 1 and s.admitted]
        rivals = [s for s in singles if s is not selection]
        best = max(rivals, key=lambda s: s.value, default=None)
        return why(
            self._named(selection),
            objective=self.submit.task.objective.expression,
            score=self.chooser.point(selection, limits).objective,
            images=len(self.chooser.index),
            candidates=len(self.chooser.members),
            keeping=len(singles),
            limited=bool(limits),
            turned_down=passed,
            missed_cost=any(c.is_cost for c in missed),
            missed_quality=any(not c.is_cost for c in missed),
            rival=None if best is None else (self._named(best), self.chooser.point(best, limits).objective),
            joint=len(selection.weights) > 1,
            refitted=any(name in self.refits for name in selection.weights),
            likely=self.chooser.by_likelihood(limits),
        )

    def index(self, results: Sequence[Any]) -> None:
        """Write ``limits.json``: which folder answers which set of limits."""
        rows = []
        for result in results:
            content = json.loads((Path(result.folder) / "result.json").read_text())
            rows.append(
                {
                    "folder": Path(result.folder).name,
                    "constraints": content["task"]["constraints"],
                    "status": content["status"],
                    "costs": content["costs"],
                    "objective": content["metrics"]["test"].get(content["objective"]),
                }
            )
        _write_json(self.submit.folder / "limits.json", {"schema_version": 1, "sets": rows})


#: Of a winner, where it is not the pool.
SOURCES = ("search", "supernet")


def _told(error: Exception | None) -> str:
    """An error in one line; of one that nobody foresaw, what kind it is."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AutomlError) else f"{type(error).__name__}: {text[:300]}"


def _save_scores(
    path: Path, index: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, label: np.ndarray
) -> None:
    np.savez_compressed(
        path,
        index=index.astype(np.int64),
        labels=labels.astype(np.int64),
        probabilities=probabilities.astype(np.float32),
        predicted=label.astype(np.int64),
    )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    from automl.search.store import write_json

    write_json(path, value)
