"""What a table was measured with: versions and machine, without names or paths of it."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from automl.device import cores

#: Packages whose versions a result depends on.
PACKAGES = (
    "automl-vision-engine",
    "torch",
    "torchvision",
    "timm",
    "ray",
    "optuna",
    "lightgbm",
    "scikit-learn",
    "numpy",
    "pandas",
    "onnx",
    "onnxruntime",
)


def environment() -> dict[str, Any]:
    """Return versions and machine as plain JSON values.

    Keys: ``python``, ``platform``, ``cpu`` (model), ``cores`` (that this process may use), ``ram_gb``,
    ``gpus`` (names), ``packages`` (name → version; a missing one is left out), ``commit`` (of the working
    tree this package lies in, with ``+changes`` where files other than the results differ from it; None
    outside a checkout).
    """
    import psutil

    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": cores(),
        "ram_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": _gpus(),
        "packages": _versions(PACKAGES),
        "commit": _commit(),
    }


def describe(values: Mapping[str, Any]) -> str:
    """One line for a table's footer."""
    packages = ", ".join(f"{name} {version}" for name, version in values["packages"].items())
    gpus = f", {' + '.join(values['gpus'])}" if values["gpus"] else ""
    return (
        f"{values['cpu']}, {values['cores']} cores, {values['ram_gb']:g} GB{gpus}; {values['platform']}, "
        f"Python {values['python']}; {packages}"
        + (f"; commit {values['commit'] or 'unknown'}" if "commit" in values else "")
    )


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    return _lines(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])


def _commit() -> str | None:
    here = ["git", "-C", str(Path(__file__).resolve().parent)]
    found = _lines([*here, "rev-parse", "--short=12", "HEAD"])
    if not found:
        return None
    # The tables that the benchmarks write themselves are no change of what they measure.
    measured = [":/", ":(exclude)results"]
    changed = _lines([*here, "status", "--porcelain", "--untracked-files=no", "--", *measured])
    return found[0] + ("+changes" if changed else "")


def _lines(command: list[str]) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def sources(*files: Path) -> str:
    """A digest of the code of ``search_spaces`` and of some files: what was measured with other code is measured again."""
    import search_spaces

    folder, found = Path(search_spaces.__file__).parent, hashlib.sha256()
    for file in [*sorted(folder.rglob("*.py")), *files]:
        found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]
