"""``automl extract``: subnets of a supernet for limits, as ONNX files."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer


def extract(
    supernet: Annotated[
        str,
        typer.Argument(
            help="file of a supernet, the folder of a run that trained one, or 'embedded' for the one of the package"
        ),
    ],
    out: Annotated[str, typer.Option(help="folder for the subnets and their table; new or empty")],
    constraint: Annotated[
        list[str], typer.Option("--constraint", "-c", help="limit such as 'latency_ms<=2'; repeatable")
    ] = [],  # noqa: B006
    device: Annotated[
        str, typer.Option(help="device the subnets will run on: cpu:THREADS or cuda:INDEX")
    ] = "cpu:1",
    top: Annotated[int, typer.Option(help="how many subnets")] = 1,
    seed: Annotated[int, typer.Option(help="of the search")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on the last line")] = False,
) -> None:
    """Extract the subnets with the best predicted score that keep the limits when they are measured."""
    from automl.extract import extract as extracted

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    done = extracted(supernet, out, constraints=constraint, device=device, top=top, seed=seed, say=say)
    for one in done.found:
        costs = one.costs
        print(
            f"{one.folder}  {costs['latency_ms']:.3g} ms {done.evidence} for {done.device}, {costs['size_mb']:.3g} MB, "
            f"{costs['macs_m']:.3g} M MACs; {done.metric} as it is {one.score:.3f} predicted "
            f"(≥ {one.low:.3f} in 95 % of cases)"
        )
        for limit, by in one.missed.items():
            print(f"  misses {limit} by {by:.1%}")
    if not done.satisfied:
        print("no subnet keeps the limits; the closest one was written")
    print(f"{done.measured} subnets measured, {done.seconds:.1f} s")
    if as_json:
        told = {
            "status": "ok" if done.satisfied else "infeasible",
            "subnets": [one.to_dict() for one in done.found],
            "metric": done.metric,
            "device": done.device,
            "evidence": done.evidence,
            "measured": done.measured,
            "seconds": done.seconds,
        }
        print(json.dumps(told))
    if not done.satisfied:
        raise typer.Exit(3)
