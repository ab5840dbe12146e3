"""One (dataset, split, method) of the suites that compare methods, run in a process of its own.

``python -m benchmarks.suites._quality_cell SPEC`` reads the JSON file SPEC and writes the file that it names.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import child
from benchmarks.calibration import calibrate
from benchmarks.child import Spec
from benchmarks.images import pack
from benchmarks.methods import METHODS, dataset_of


def run_cell(spec: Spec) -> dict[str, Any]:
    """Run the method; returns predictions of the test images, details and the method's own seconds."""
    began = time.monotonic()
    answer = METHODS[spec["identity"]["method"]].answer(spec)
    seconds = time.monotonic() - began if answer.seconds is None else answer.seconds
    dataset = dataset_of(spec)
    if spec["settings"].get("anytime"):
        answer.details["calibration"] = calibrate()
    return {
        "development_images": len(dataset.indices("development")),
        "seconds": round(seconds, 2),
        **pack(
            Path(spec["target"]).parent,
            labels=np.asarray(dataset.labels),
            groups=np.asarray(dataset.groups),
            classes=list(dataset.class_names),
            fingerprint=dataset.fingerprint,
            test=dataset.indices("test"),
            predicted=answer.predicted,
        ),
        "details": answer.details,
    }


if __name__ == "__main__":
    sys.exit(child.main(sys.argv[1], run_cell))
