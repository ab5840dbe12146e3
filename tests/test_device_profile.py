"""A device that is not here: the kit, the profile that comes back, and latencies that are predicted from it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl import latency_kit
from automl.device import KIND, Device, DeviceProfile, Net, read_profile
from automl.errors import InputError
from automl.evaluation import latency
from automl.evaluation._there import There, precision_of
from automl.export import export_onnx
from automl.machine import require_runtime
from tests._models import network, small_cnn

from ._command import automl, refused


def nets(slower: float = 3.0, power: float = 0.9, int8: float = 0.5, noise: float = 0.0) -> tuple[Net, ...]:
    """A kit on a device that is slower, less so for large networks, and quick with int8."""
    rng = np.random.default_rng(0)
    found = []
    for at, here in enumerate(np.geomspace(0.2, 20, 10)):
        precision = "int8" if at % 3 == 0 else "fp32"
        there = slower * here**power * (int8 if precision == "int8" else 1.0) * math.exp(rng.normal(0, noise))
        found.append(Net(f"{at:02d}.onnx", precision, float(here), float(there)))
    return tuple(found)


def stored(path: Path, **changes: Any) -> Path:
    """A profile of this machine's kit as a file."""
    values = {
        "kind": KIND, "format": 1, "name": "gate camera", "base": "cpu:1",
        "machine": latency.device_name(Device()), "nets": [vars(net) for net in nets()],
    }  # fmt: skip
    path.write_text(json.dumps({**values, **changes}))
    return path


def test_a_device_is_known_by_ten_networks() -> None:
    there = There(DeviceProfile("gate", "cpu:1", "this", nets()))
    for here in (0.3, 2.0, 15.0):
        assert there.latency(here, "fp32") == pytest.approx(3.0 * here**0.9, rel=0.05)
        assert there.latency(here, "int8") == pytest.approx(1.5 * here**0.9, rel=0.05)
    assert 1.0 <= there.factor < 1.1
    assert There(DeviceProfile("gate", "cpu:1", "this", nets(noise=0.2))).factor > 1.1


def test_what_is_measured_here_is_turned_into_what_is_predicted_there(tmp_path: Path) -> None:
    device = Device.parse(str(stored(tmp_path / "device.json")))
    assert (device.kind, device.number, device.label) == ("cpu", 1, "gate camera")
    assert Device.parse(str(device)) == device
    file = export_onnx(network(small_cnn()), 32, tmp_path / "m.onnx").path
    with latency.Timer(device) as timer:
        there = timer.measure(file, thorough=False)
    assert there.device == "gate camera"
    assert there.low_ms <= there.median_ms <= there.high_ms <= there.upper_ms
    with latency.Timer(Device()) as timer:
        here = timer.measure(file, thorough=False)
    assert 1.5 < there.median_ms / here.median_ms < 6  # 3 × here^0.9 ÷ here, with both measured apart
    assert latency.device_name(device) != latency.device_name(Device())
    assert precision_of(file) == "fp32"


def test_a_profile_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    with pytest.raises(InputError, match="does not exist"):
        Device.parse(str(path))
    for changes, words in (
        ({"kind": "something"}, "another kind"),
        ({"format": 9}, "newer version"),
        ({"nets": []}, "latencies of 5 networks"),
        ({"nets": [{**vars(net), "there_ms": 0} for net in nets()]}, "latencies of 5 networks"),
        ({"nets": 4}, "cannot be used"),
        ({"base": "cpu:999"}, "cores"),
        ({"base": str(path)}, "no device of a machine such as cpu:1"),
        ({"base": "cpu"}, "no device of a machine"),
        ({"format": math.inf}, "cannot be used"),
    ):
        with pytest.raises(InputError, match=words):
            Device.parse(str(stored(path, **changes)))
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be used"):
        read_profile(path)
    with pytest.raises(InputError, match="another machine"):
        require_runtime(Device.parse(str(stored(path, machine="elsewhere"))))
    require_runtime(Device.parse(str(stored(path))))


@pytest.mark.slow
def test_a_kit_measures_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOML_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(latency, "_THOROUGH", latency._QUICK)
    small = [("mobile", place, side, "fp32") for place, side in ((0.0, 32), (0.3, 64), (0.6, 64), (0.0, 96))]
    monkeypatch.setattr(
        latency_kit, "_NETS", (*small, ("hybrid", 0.0, 32, "fp32"), ("mobile", 0.2, 64, "int8"))
    )
    kit = tmp_path / "kit"
    done = automl("latency", "measure", "--kit", kit)
    assert done.code == 0, done.err
    assert sorted(p.name for p in kit.iterdir()) == ["README.txt", "kit.json", "measure.py", "nets"]
    options = ["--rounds", "2", "--seconds", "0.05", "--name", "bench"]
    ran = subprocess.run(
        [sys.executable, str(kit / "measure.py"), *options], capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    profile = read_profile(kit / "device.json")
    assert profile.name == "bench, CPU, 1 threads" and len(profile.nets) == 6
    # The device is this very machine, so what is predicted for it is what is measured.
    there = There(profile)
    for net in profile.nets:
        assert 0.5 < there.latency(net.here_ms, net.precision) / net.here_ms < 2.0
    files = (kit / "nets" / "01.onnx", kit / "nets" / "05.onnx")
    found = automl("latency", "measure", *files, "--device", kit / "device.json", "--json")
    assert found.code == 0, found.err
    assert [row["evidence"] for row in found.last_json["files"]] == ["predicted", "predicted"]
    assert precision_of(files[1]) == "int8"
    again = automl("latency", "measure", "--kit", kit)
    assert again.code == 0, again.err
    refused(automl("latency", "measure", "--kit", tmp_path), "neither empty nor a kit")


def test_what_is_wrong_with_a_measurement_is_one_line(tmp_path: Path) -> None:
    refused(automl("latency", "measure"), "nothing to measure")
    refused(automl("latency", "measure", tmp_path / "none.onnx"), "does not exist")
    refused(automl("latency", "measure", "a.onnx", "--kit", tmp_path), "not both")
    refused(automl("latency", "measure", "a.onnx", "--device", "gpu"), "did you mean 'cuda:0'")
