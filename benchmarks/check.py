"""``make bench-check``: the suite ``quick`` again, held against its committed table.

Scores may be as low as the committed runs' intervals say; times are divided by a calibration loop that ran beside them
(:mod:`benchmarks.calibration`), so that a slower machine is not a slower engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SUITE = "quick"
#: By what factor a calibrated time may be longer, and the number of trials smaller.
SLOWER = 1.5
#: By what share a budget may be overrun.
OVERRUN = 0.10


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        what: is compared.
        then, now: committed and new.
        least, most: within which ``now`` has to lie.
    """

    what: str
    then: float
    now: float
    least: float
    most: float

    @property
    def fine(self) -> bool:
        """Whether nothing got worse; a value that is no number is not fine."""
        return self.least <= self.now <= self.most


def compare(then: pd.DataFrame, now: pd.DataFrame) -> list[Finding]:
    """Hold new runs against committed ones.

    Args:
        then, now: as :func:`benchmarks.matrix.runs_frame` gives them; only runs of the engine count.
    """
    infinite = float("inf")
    found = []
    old = then[then["method"] == "engine"].set_index(["task", "seed"])
    new = now[now["method"] == "engine"].set_index(["task", "seed"])
    for key in old.index:
        name = f"{key[0]}, seed {key[1]}"
        before = old.loc[key]
        if key not in new.index:
            found.append(Finding(f"{name}: run", 1.0, 0.0, 1.0, 1.0))
            continue
        after = new.loc[key]
        found += [
            Finding(f"{name}: balanced accuracy", before["score"], after["score"], before["low"], infinite),
            Finding(f"{name}: limits kept", float(before["status"] == "ok"), float(after["status"] == "ok"),
                    float(before["status"] == "ok"), 1.0),
            Finding(f"{name}: time of the run / budget", before["seconds"] / before["budget"],
                    after["seconds"] / after["budget"], 0.0, 1.0 + OVERRUN),
        ]  # fmt: skip
        first = [row["first_seconds"] / row["calibration"] for row in (before, after)]
        trials = [row["trials"] * row["calibration"] / row["budget"] for row in (before, after)]
        found += [
            Finding(f"{name}: first result, calibrated", first[0], first[1], 0.0, SLOWER * first[0]),
            Finding(
                f"{name}: trials per time, calibrated", trials[0], trials[1], trials[0] / SLOWER, infinite
            ),
        ]
    return found


def main(argv: Sequence[str]) -> int:
    """Run the suite anew and compare; exit codes: 0 nothing got worse, 1 something did or failed, 2 wrong input."""
    import pandas as pd

    from benchmarks import matrix, suites
    from benchmarks.cells import end_on_sigterm

    parser = argparse.ArgumentParser("benchmarks.check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", default="benchmarks/results", help="folder of the committed table")
    parser.add_argument("--work", default="benchmarks/work/check", help="folder of the new runs")
    options = parser.parse_args(argv)
    committed = Path(options.against) / f"{SUITE}-runs.parquet"
    if not committed.is_file():
        print(f"error: {committed} is not there; make it with 'automl bench {SUITE}'", file=sys.stderr)
        return 2
    work = Path(options.work)
    results = work / "results"
    for cell in (results / "cells" / SUITE).glob("*.json"):
        cell.unlink()  # what is compared is today's
    end_on_sigterm()
    file = Path(suites.__path__[0]) / f"{SUITE}.toml"
    code = matrix.run(
        file, ["--methods", "engine", "--results", str(results), "--work", str(work / "scratch")]
    )
    if code:
        return code
    found = compare(pd.read_parquet(committed), pd.read_parquet(results / f"{SUITE}-runs.parquet"))
    for one in found:
        print(f"{'fine ' if one.fine else 'WORSE'} {one.what}: {one.now:.3g} (committed {one.then:.3g})")
    return 0 if found and all(one.fine for one in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
