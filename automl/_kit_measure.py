"""Measures the networks of a kit on this device: ``python measure.py``. Needs onnxruntime and numpy, nothing else.

It runs each network of ``nets`` many times, one image at a time, and writes ``device.json`` beside this file. Take that
file back to the machine that the kit comes from and give it to automl as ``--device device.json``.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import onnxruntime


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default 1)")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of ONNX Runtime")
    parser.add_argument("--name", default="", help="what the device is called in reports")
    parser.add_argument("--rounds", type=int, default=5, help="times that each network is measured")
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement")
    asked = parser.parse_args()
    folder = Path(__file__).resolve().parent
    kit = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
    if asked.provider not in onnxruntime.get_available_providers():
        raise SystemExit(
            f"error: this onnxruntime has {', '.join(onnxruntime.get_available_providers())}, not {asked.provider}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = asked.threads, 1
    found: dict[str, list[float]] = {net["file"]: [] for net in kit["nets"]}
    # In rounds, so that a slow moment of the device meets all networks alike.
    for number in range(asked.rounds):
        for net in kit["nets"]:
            path = str(folder / "nets" / net["file"])
            session = onnxruntime.InferenceSession(path, options, providers=[asked.provider])
            side = session.get_inputs()[0].shape[1]
            image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
            for _ in range(3):
                session.run(None, {"images": image})
            runs: list[float] = []
            began = time.perf_counter()
            while len(runs) < 3 or time.perf_counter() - began < asked.seconds:
                tick = time.perf_counter()
                session.run(None, {"images": image})
                runs.append(1000 * (time.perf_counter() - tick))
            found[net["file"]].append(float(np.median(runs)))
        print(f"round {number + 1} of {asked.rounds}", flush=True)
    name = asked.name or " ".join(filter(None, (platform.node(), platform.machine(), platform.system())))
    profile = {
        "kind": kit["kind"],
        "format": kit["format"],
        "name": f"{name}, {asked.provider.removesuffix('ExecutionProvider')}, {asked.threads} threads",
        "base": kit["base"],
        "machine": kit["machine"],
        "onnxruntime": onnxruntime.__version__,
        "nets": [{**net, "there_ms": float(np.median(found[net["file"]]))} for net in kit["nets"]],
    }
    (folder / "device.json").write_text(json.dumps(profile, indent=1), encoding="utf-8")
    print(f"wrote {folder / 'device.json'}")


if __name__ == "__main__":
    main()
