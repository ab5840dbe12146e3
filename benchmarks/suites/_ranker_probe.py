"""What a process of the ranker suite does: make a history, or order many candidates.

``python -m benchmarks.suites._ranker_probe SPEC.json`` prints one JSON object.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

#: Networks and input sides of the made candidates.
_NETWORKS, _SIDES = 40, (64, 96, 128, 160, 224)


def made_pool(count: int, seed: int) -> Any:
    """So many different candidates, as a pool has them: recipes of the catalog, some with numbers of their own."""
    import pandas as pd

    from strategy_pool.strategy import load_catalog

    rng = np.random.default_rng(seed)
    names = sorted(load_catalog())
    networks = [f"network_{number:02d}.in1k" for number in range(_NETWORKS)]
    rows: dict[str, tuple[Any, ...]] = {}
    for number in itertools.count():
        if len(rows) == count:
            break
        network, side, recipe = rng.choice(networks), int(rng.choice(_SIDES)), str(rng.choice(names))
        changed = {"lr": float(10 ** rng.uniform(-4, -2))} if number % 2 else {}
        mark = f"~{number:06x}" if changed else ""
        candidate = f"{network}@{side}/fp32/{recipe}{mark}"
        rows.setdefault(candidate, (candidate, network, side, "fp32", recipe, json.dumps(changed)))
    columns = ["candidate", "architecture", "resolution", "precision", "strategy", "overrides"]
    return pd.DataFrame(list(rows.values()), columns=columns)


def make_history(url: str, trials: int, tasks: int, candidates: int, seed: int) -> dict[str, Any]:
    """Fill an empty history with made trials: each candidate has a level, each task likes some networks more.

    Rows go in as :meth:`strategy_pool.history.History.import_` takes them.
    """
    import tempfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    from strategy_pool.history import History

    rng = np.random.default_rng(seed)
    pool = made_pool(candidates, seed)
    level, network = rng.normal(size=len(pool)), rng.normal(size=_NETWORKS)
    of_network = pool["architecture"].str[8:10].astype(int).to_numpy()
    each = -(-trials // tasks)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "made.parquet"
        writer = None
        for task in range(tasks):
            chosen = (
                rng.integers(0, len(pool), each) if each > len(pool) else rng.permutation(len(pool))[:each]
            )
            taste = network[of_network[chosen]] * rng.normal()
            score = 1 / (1 + np.exp(-(level[chosen] + taste + rng.normal(0, 0.3, each))))
            part = pool.iloc[chosen].reset_index(drop=True).assign(
                uid=[f"{task}/{n}" for n in range(each)], task_id=f"task-{task:04d}", device="cpu:1", source="pool",
                score=score, seconds=np.exp(rng.normal(3, 0.7, each)), status="completed",
                created=f"2026-01-01T00:00:{task % 60:02d}",
            )  # fmt: skip
            part["task.name"] = f"made {task}"
            part["task.features"] = json.dumps({"images": float(rng.integers(100, 10_000)), "classes": 5.0})
            table = pa.Table.from_pandas(part, preserve_index=False)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
        began = time.perf_counter()
        with History(url) as history:
            added = history.import_(path)
    return {**added, "import_seconds": time.perf_counter() - began}


def order(folder: str, candidates: int, seed: int, repeats: int = 20) -> dict[str, Any]:
    """Order new candidates with the ranker in use; milliseconds of building the rows and of ordering them."""
    from strategy_pool.features import pool_rows
    from strategy_pool.strategy import load_catalog
    from strategy_pool.versions import Versions

    ranker = Versions(folder).ranker()
    if ranker is None:
        raise SystemExit("no ranker is in use")
    catalog, pool = load_catalog(), made_pool(candidates, seed + 1)
    rows, ordered = [], []
    for number in range(repeats):
        began = time.perf_counter()
        frame = pool_rows(pool, {"images": 500.0, "classes": 5.0}, catalog, "cpu:1")
        between = time.perf_counter()
        ranker.order(frame, np.random.default_rng(number))
        ordered.append(1000 * (time.perf_counter() - between))
        rows.append(1000 * (between - began))
    return {
        "candidates": len(pool), "rows_ms": float(np.median(rows)), "order_ms": float(np.median(ordered)),
        "repeats": repeats, "shares": ranker.shares,
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """``SPEC.json``: ``{"do": "history" | "order", …}``."""
    spec: Mapping[str, Any] = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    given = {name: value for name, value in spec.items() if name != "do"}
    print(json.dumps(make_history(**given) if spec["do"] == "history" else order(**given)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
