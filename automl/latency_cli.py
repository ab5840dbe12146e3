"""``automl latency``: how well latencies are predicted from tables of networks that were measured."""

from __future__ import annotations

import json
import math
import sys
from typing import Annotated, Any

import typer

from automl.errors import InputError, did_you_mean

app = typer.Typer(help="Latencies predicted from tables of measured networks.", no_args_is_help=True)
#: Share of a table that is learned from where it is not said how many rows.
_TRAIN_SHARE = 0.8


@app.callback()
def latency() -> None:
    """Latencies predicted from tables of measured networks."""


@app.command(epilog="Example: automl latency measure --kit kit; automl latency measure model.onnx")
def measure(
    files: Annotated[list[str] | None, typer.Argument(help="ONNX files that automl exported")] = None,
    kit: Annotated[
        str | None, typer.Option(help="folder for a kit that measures another device; see its README.txt")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu:THREADS, cuda:INDEX, or the device.json of a kit")
    ] = "cpu:1",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on the last line")] = False,
) -> None:
    """Measure files on this machine, or make a kit of small networks that measures another device."""
    from pathlib import Path

    from automl.device import Device
    from automl.machine import require_runtime

    where = Device.parse(device)
    where.check_present()
    require_runtime(where)
    if kit is not None:
        if files:
            raise InputError("give files to measure here, or --kit for another device, not both")
        from automl.latency_kit import write_kit

        folder = write_kit(
            Path(kit).expanduser(), where, lambda line: print(line, file=sys.stderr, flush=True)
        )
        print(f"{folder} is ready; its README.txt says how it is used")
        if as_json:
            print(json.dumps({"kit": str(folder)}))
        return
    if not files:
        raise InputError("nothing to measure; give ONNX files, or --kit FOLDER")
    missing = next((file for file in files if not Path(file).is_file()), None)
    if missing is not None:
        raise InputError(f"{missing} does not exist")
    from automl._bench import steadiness
    from automl.evaluation.latency import Timer
    from automl.home import cache_folder

    rows = []
    with Timer(where, steadiness(cache_folder("feasibility"), where)) as timer:
        for file in files:
            found = timer.measure(file)
            print(
                f"{file}  {found.median_ms:.4g} ms {where.evidence} for {where.label} (95 % of runs within {found.p95_ms:.4g} ms)"
            )
            rows.append(
                {
                    "file": file, "latency_ms": found.median_ms, "latency_p95_ms": found.p95_ms,
                    "low_ms": found.low_ms, "high_ms": found.high_ms, "memory_mb": found.memory_mb,
                    "calm": found.calm, "device": where.label, "evidence": where.evidence,
                }
            )  # fmt: skip
    if as_json:
        print(json.dumps({"files": rows}))


@app.command(
    epilog="Example: automl latency evaluate --table measured.parquet --target ms --train 500 --json"
)
def evaluate(
    table: Annotated[str, typer.Option(help="networks that were measured, one per row; .parquet or .csv")],
    target: Annotated[str, typer.Option(help="column of the latency")],
    train: Annotated[
        int | None, typer.Option(help="rows to learn from, by default four in five", min=1)
    ] = None,
    seeds: Annotated[int, typer.Option(help="how often rows are drawn", min=1)] = 3,
    without: Annotated[
        list[str], typer.Option(help="column that does not describe the network; repeatable")
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on the last line")] = False,
) -> None:
    """Learn from some rows, predict the others, and say how far off the predictions are."""
    import numpy as np

    from search_spaces.predict import TableError, feature_columns

    frame = _read(table)
    frame.columns = frame.columns.map(str)
    for name in [target, *without]:
        if name not in frame.columns:
            raise InputError(f"{table} has no column '{name}'{did_you_mean(name, [str(c) for c in frame])}")
    columns, left_out = feature_columns(frame, target, without)
    if left_out:
        print(f"not used to predict {target}: {', '.join(left_out)}", file=sys.stderr)
    frame = frame[np.isfinite(_numbers(frame, target)) & (_numbers(frame, target) > 0)]
    count = train if train is not None else int(_TRAIN_SHARE * len(frame))
    if count >= len(frame):
        raise InputError(f"--train {count} leaves none of the {len(frame)} rows with a latency to judge")
    try:
        runs = [judge(frame[columns], _numbers(frame, target), count, seed) for seed in range(seeds)]
    except TableError as error:
        raise InputError(f"{table}: {error}") from None
    told = summary(runs, count, len(frame) - count)
    spread = "" if told["mape"]["se"] is None else f" ± {told['mape']['se']:.2%}"
    order = told["kendall_tau"]
    print(
        f"{told['n_train']} rows learned from, {told['n_test']} judged, {seeds} seeds; model: {told['model']}"
    )
    print(
        f"mean absolute error {told['mape']['mean']:.2%}{spread}; within 5 %: {told['within_5']:.1%}; "
        f"within 10 %: {told['within_10']:.1%}; Kendall τ {'unknown' if order is None else f'{order:.3f}'}; "
        f"below the 95 % bound: {told['below_bound']:.1%}"
    )
    if as_json:
        print(json.dumps(told))


def judge(frame: Any, latency: Any, count: int, seed: int) -> dict[str, Any]:
    """Learn from ``count`` rows drawn at random and judge on the others.

    Args:
        frame: columns that describe networks.
        latency: float [rows].
        count: rows to learn from.
        seed: of the draw.

    Returns:
        ``model``, and ``mape``, ``within_5``, ``within_10``, ``below_bound`` (fractions) and ``kendall_tau`` (None where
        all latencies are equal, or one row is judged).

    Raises:
        TableError: the rows cannot be learned from.
    """
    import numpy as np
    from scipy.stats import kendalltau

    from search_spaces.predict import CostPredictor

    order = np.random.default_rng(seed).permutation(len(frame))
    learned, judged = order[:count], order[count:]
    predictor = CostPredictor().fit(frame.iloc[learned], latency[learned], seed)
    rows = frame.iloc[judged]
    predicted = predictor.predict(rows)
    missed = np.abs(predicted / latency[judged] - 1.0)
    return {
        "model": predictor.chosen,
        "mape": float(missed.mean()),
        "within_5": float((missed <= 0.05).mean()),
        "within_10": float((missed <= 0.1).mean()),
        "below_bound": float((latency[judged] <= predictor.upper(rows)).mean()),
        "kendall_tau": _known(float(kendalltau(predicted, latency[judged]).statistic)),
    }


def summary(runs: list[dict[str, Any]], train: int, test: int) -> dict[str, Any]:
    """Means over the seeds, and the standard error of the first figure over them; None with one seed."""
    import numpy as np

    each = np.array([run["mape"] for run in runs])
    error = None if len(runs) < 2 else float(each.std(ddof=1) / np.sqrt(len(runs)))
    means: dict[str, float | None] = {
        name: float(np.mean([run[name] for run in runs])) for name in ("within_5", "within_10", "below_bound")
    }
    orders = [run["kendall_tau"] for run in runs if run["kendall_tau"] is not None]
    means["kendall_tau"] = float(np.mean(orders)) if orders else None
    models = [run["model"] for run in runs]
    chosen = max(sorted(set(models)), key=models.count)
    return {
        "n_train": train, "n_test": test, "seeds": len(runs), "model": chosen,
        "mape": {"mean": float(each.mean()), "se": error}, **means,
    }  # fmt: skip


def _read(path: str) -> Any:
    from strategy_pool.trial_table import TableError, read_frame

    try:
        return read_frame(path, "latency table")
    except TableError as error:
        raise InputError(str(error)) from None


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _numbers(frame: Any, name: str) -> Any:
    import pandas as pd

    return pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
