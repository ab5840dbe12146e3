"""What all tests share: an own home folder, one thread, and small folders of pictures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Before numpy and torch are imported, which read them once.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("AUTOML_HISTORY", None)

import numpy as np
import pytest
from PIL import Image, ImageDraw


@pytest.fixture(scope="session", autouse=True)
def automl_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder that only this test session uses; child processes see it too."""
    home = tmp_path_factory.mktemp("automl-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOML_HOME", str(home))
        yield home


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Torch on one thread, where torch is loaded at all."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _needs_gpu(request: pytest.FixtureRequest) -> None:
    """Skip tests marked ``gpu`` where torch sees no CUDA device."""
    if request.node.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device is here")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "automl-test", str(place)]
    mounted = None
    if shutil.which("mount"):
        mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted is None or mounted.returncode:
        pytest.skip("a small file system cannot be mounted by this user")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the shared real datasets and weights; the test is skipped where there is none."""
    given = os.environ.get("AUTOML_SHARED")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "datasets").is_dir():
        pytest.skip("the shared real datasets are not here")
    return folder.resolve()


@pytest.fixture(scope="session")
def datasets(shared: Path) -> Path:
    """Folder of real datasets, one sub-folder each."""
    return shared / "datasets"


@pytest.fixture(scope="session")
def weights(shared: Path) -> Path:
    """Folder of pretrained models, one sub-folder each."""
    folder = shared / "weights"
    if not folder.is_dir():
        pytest.skip("the shared pretrained weights are not here")
    return folder


def write_shapes(folder: Path, per_class: int = 15, side: int = 32, seed: int = 0) -> Path:
    """Write noisy coloured shapes, one folder per class: red discs, green squares, blue bars.

    A linear model on the pixels can tell them apart; position, size and noise differ from image to image.
    """
    rng = np.random.default_rng(seed)
    colours = {"bar": (60, 80, 220), "disc": (220, 60, 60), "square": (60, 200, 80)}
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            picture = Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(90, 140, 3)))
            draw = ImageDraw.Draw(picture)
            radius = int(rng.integers(side // 5, side // 3))
            x, y = (int(v) for v in rng.integers(radius, side - radius, 2))
            if name == "disc":
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
            elif name == "square":
                draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour)
            else:
                draw.rectangle((x - radius, y - radius // 3, x + radius, y + radius // 3), fill=colour)
            noisy = np.asarray(picture, dtype=np.float32) + rng.normal(0, 12, (side, side, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:03d}.png")
    return folder


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """45 PNG files of 32×32 in 3 class folders (``bar``, ``disc``, ``square``) that are easy to tell apart."""
    return write_shapes(tmp_path / "shapes")


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real handwritten digits that scikit-learn carries: 30 PNG files of 32×32 for each of 10 classes."""
    from automl.demo import write_digits

    return write_digits(tmp_path_factory.mktemp("digits"), per_class=30)
