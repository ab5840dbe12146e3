"""Latencies of many subnets of one supernet on this machine, and how well they are predicted from one another.

Every subnet is exported and timed three times, in rounds of different order, so that what lies between them is what a
machine does from one time to another, and a slow minute of it falls on one of the three. A subnet's latency is the median
of its rounds. The predictor is that of `automl latency evaluate`; it sees the choices of a subnet, its
multiply-accumulates and its parameters. Each subnet is predicted from those of four parts in five.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.carried import WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

NAME = "latency"
SUMMARY = "Latencies of subnets on this machine, measured in rounds, and how well they are predicted."

EXAMPLE = "example: automl bench latency --subnets 320"
FOLDS, ROUNDS = 5, 3
#: Columns of the table that describe no subnet.
_BESIDES = (*(f"round_{number}_ms" for number in range(1, ROUNDS + 1)), "macs_m", "params_m")
#: What an error may be in any case.
TOLERANCE = 0.10
#: Share of subnets whose prediction has to be within the tolerance, or within twice the spread if that is more.
AIM = 0.95


def run(argv: Sequence[str]) -> int:
    """Measure what is missing, write the table, print it. Exit codes: 0 all there, 1 a step failed, 2 wrong input."""
    from benchmarks.cells import run_measured

    options = _parser().parse_args(argv)
    return run_measured(NAME, options.results, lambda: _measure(options), to_markdown)


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE, seed="of the draw, the rounds and the parts")
    add = parser.add_argument
    add("--supernet", type=Path, default=WEIGHTS, help="file (default: the one that the package carries)")
    add("--subnets", type=int, default=320, help="that are measured (default %(default)s)")
    add("--device", default="cpu:1", help="that they are timed on (default %(default)s)")
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np
    import pandas as pd

    from automl.device import Device
    from automl.errors import InputError
    from benchmarks.cells import check_at_least
    from benchmarks.environment import environment
    from search_spaces.propose import Codes, spread
    from search_spaces.stored import StoredError, load

    check_at_least(options, subnets=10 * FOLDS, seed=0)
    device = Device.parse(options.device)
    device.check_present()
    try:
        stored = load(options.supernet)
    except (StoredError, OSError) as error:
        raise InputError(str(error)) from None
    codes = Codes(stored.space)
    subnets = spread(stored.space, options.subnets, options.seed)
    rows = _rounds(stored, subnets, codes, device, options)
    counted = {f"log_{name}": np.log([row[f"{name}_m"] for row in rows]) for name in ("macs", "params")}
    values = codes.values(codes.of([subnets[row["subnet"]] for row in rows]))
    frame = pd.DataFrame(values, columns=[d.name for d in stored.space.dimensions]).assign(**counted)
    path = Path(options.results) / f"{NAME}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rounds = np.array([row["rounds"] for row in rows])
    timed = {f"round_{number}_ms": rounds[:, number - 1] for number in range(1, ROUNDS + 1)}
    frame.assign(
        latency_ms=np.median(rounds, axis=1),
        **timed,
        **{name: [row[name] for row in rows] for name in ("macs_m", "params_m")},
    ).to_parquet(path)
    return {
        "schema_version": 1, "suite": NAME, "origin": stored.about.origin, "device": device.label,
        "seed": options.seed, **figures(frame, rounds, options.seed),
        "environment": environment(),
    }  # fmt: skip


def _rounds(
    stored: Any, subnets: Sequence[Mapping[str, int]], codes: Any, device: Any, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time every subnet in each round; what an earlier call in the same folder measured on this commit is not repeated."""
    import numpy as np

    from automl._bench import steadiness
    from automl._subnets import vision_model
    from automl.evaluation.latency import Timer
    from automl.export import export_onnx
    from automl.home import cache_folder
    from benchmarks.environment import environment
    from search_spaces.stored import RESOLUTION

    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    done_file = work / "measured.jsonl"
    state = [environment()["commit"], str(options.supernet), device.label]
    done: dict[tuple[int, str], dict[str, Any]] = {}
    if done_file.is_file():
        for line in done_file.read_text().splitlines():
            row = json.loads(line)
            if row["state"] == state:
                done[row["round"], row["code"]] = row
    keys = [codes.text(row) for row in codes.of(subnets)]
    with (
        Timer(device, steadiness(cache_folder("feasibility"), device)) as timer,
        done_file.open("a", encoding="utf-8") as out,
    ):
        for number in range(ROUNDS):
            order = np.random.default_rng([options.seed, number]).permutation(len(subnets)).tolist()
            for count, at in enumerate(order):
                if (number, keys[at]) in done:
                    continue
                if count % 20 == 0:
                    print(f"round {number + 1}, {count} of {len(order)} …", file=sys.stderr, flush=True)
                file = work / "subnet.onnx"
                model = vision_model(stored, subnets[at], calibrated=False)
                info = export_onnx(model, subnets[at][RESOLUTION], file)
                found = timer.measure(file, thorough=False)
                row = {
                    "state": state, "round": number, "code": keys[at], "ms": found.median_ms,
                    "macs_m": info.macs / 1e6, "params_m": info.params / 1e6,
                }  # fmt: skip
                out.write(json.dumps(row) + "\n")
                out.flush()
                done[number, keys[at]] = row
    return [
        {
            "subnet": at, "rounds": [done[number, key]["ms"] for number in range(ROUNDS)],
            "macs_m": done[0, key]["macs_m"], "params_m": done[0, key]["params_m"],
        }
        for at, key in enumerate(keys)
    ]  # fmt: skip


def figures(frame: pd.DataFrame, rounds: np.ndarray, seed: int) -> dict[str, Any]:
    """How far measurements of one subnet are apart, and predictions from those of others.

    Args:
        frame: columns that describe the subnets.
        rounds: latencies in ms, ``[n, rounds]``; a subnet's is the median of its row.
        seed: of the parts.
    """
    import numpy as np
    from scipy.stats import binomtest, kendalltau

    spread = float(np.sqrt(np.log(rounds).var(axis=1, ddof=1).mean()))
    truth = np.median(rounds, axis=1)
    predicted, bound = np.empty(len(truth)), np.empty(len(truth))
    chosen: list[str] = []
    for part in np.array_split(np.random.default_rng(seed).permutation(len(truth)), FOLDS):
        predicted[part], bound[part], name = _predicted(frame, truth, part, seed)
        chosen.append(name)
    missed = np.abs(predicted / truth - 1)
    tolerance = max(TOLERANCE, 2 * spread)
    within = int((missed <= tolerance).sum())
    ends = binomtest(within, len(truth)).proportion_ci(method="exact")
    return {
        "subnets": len(truth), "rounds": rounds.shape[1], "least_ms": float(truth.min()), "most_ms": float(truth.max()), "spread": spread,
        "tolerance": tolerance, "within": within, "within_share": within / len(truth), "within_low": float(ends.low),
        "within_high": float(ends.high), "within_5": float((missed <= 0.05).mean()),
        "within_10": float((missed <= 0.10).mean()), "mape": float(missed.mean()),
        "kendall_tau": float(kendalltau(predicted, truth).statistic), "below_bound": float((rounds[:, -1] <= bound).mean()),
        "models": {name: chosen.count(name) for name in sorted(set(chosen))},
    }  # fmt: skip


def _predicted(
    frame: pd.DataFrame, latency: np.ndarray, part: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, str]:
    import numpy as np

    from search_spaces.predict import CostPredictor

    rest = np.setdiff1d(np.arange(len(latency)), part)
    predictor = CostPredictor().fit(frame.iloc[rest], latency[rest], seed)
    rows = frame.iloc[part]
    return predictor.predict(rows), predictor.upper(rows), predictor.chosen


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The figures as people read them."""
    from benchmarks.environment import describe

    figure = summary
    models = ", ".join(f"{name} ({count} of {FOLDS} parts)" for name, count in figure["models"].items())
    reached = "reached" if figure["within_share"] >= AIM else "not reached"
    return "\n".join(
        [
            "# Latency",
            "",
            f"{figure['subnets']} subnets of one supernet ({figure['origin']}), exported and timed in {figure['rounds']} rounds on "
            f"{figure['device']}: {figure['least_ms']:.2f} to {figure['most_ms']:.2f} ms. A measurement differs from "
            f"another by {100 * figure['spread'] * math.sqrt(2):.1f} % (root mean square), so one has a spread of "
            f"{100 * figure['spread']:.1f} %.",
            "",
            f"Each predicted from the others ({FOLDS} parts, seed {figure['seed']}; {models}): "
            f"{figure['within']} of {figure['subnets']} within {100 * figure['tolerance']:.1f} % of its median "
            f"({100 * figure['within_share']:.1f} %, 95 %: {100 * figure['within_low']:.1f} to "
            f"{100 * figure['within_high']:.1f}; aim {100 * AIM:.0f} %: {reached}). Mean absolute error "
            f"{100 * figure['mape']:.2f} %; within 5 %: {100 * figure['within_5']:.1f} %; within 10 %: "
            f"{100 * figure['within_10']:.1f} %; Kendall τ {figure['kendall_tau']:.3f}; the last round lies "
            f"below the 95 % bound for {100 * figure['below_bound']:.1f} %.",
            "",
            "The rows are in `latency.parquet`, which `automl latency evaluate --target latency_ms "
            + " ".join(f"--without {name}" for name in _BESIDES)
            + "` "
            "reads as well.",
            f"{describe(summary['environment'])}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
