"""Other engines: what they are given, and that what they say is checked."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from automl.data import Dataset, load_dataset
from automl.errors import AutomlError, InputError
from benchmarks import peers
from benchmarks.built_in import write
from benchmarks.methods import METHODS
from benchmarks.peers.__main__ import main
from search_spaces.backbones import create_backbone, scratch

SCRIPT = """
import csv, json, os, sys
from pathlib import Path

import numpy as np

folder = Path(sys.argv[1])
rows = {part: list(csv.DictReader(open(folder / f"{part}.csv"))) for part in ("train", "validation", "test")}
spec = json.loads((folder / "spec.json").read_text())
answer = [int(row["label"]) for row in rows["test"]]
if MISSING:
    answer.pop()
if FAILS:
    sys.exit("no")
np.save(folder / "predicted.npy", np.array(answer))
seen = {"training_seconds": 1.5, "rows": {part: len(found) for part, found in rows.items()}, "spec": spec,
        "settings": json.loads((folder / "weights" / "config.json").read_text()),
        "hidden": os.environ.get("PYTHONPATH")}
(folder / "told.json").write_text(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write("few-digits", tmp_path_factory.mktemp("built-in")), seed=0)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A peer called ``copycat`` in an environment that is this one."""
    folder = tmp_path / "environments" / "copycat"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "installed.json").write_text(json.dumps({"copycat": "1.2", "torch": "2.0", "other": "3"}))
    monkeypatch.setenv(peers.VARIABLE, str(folder.parent))
    return tmp_path


def make(there: Path, monkeypatch: pytest.MonkeyPatch, *, missing: bool = False, fails: bool = False) -> None:
    script = there / "script.py"
    script.write_text(SCRIPT.replace("MISSING", str(missing)).replace("FAILS", str(fails)))
    monkeypatch.setattr(
        peers, "PEERS", {"copycat": peers.Peer("a copycat", ("copycat>=1",), "copycat", str(script))}
    )


def ask(there: Path, dataset: Dataset) -> peers.Answer:
    backbone = dataclasses.replace(scratch("small_cnn_xs"), arguments={"wide": True})
    return peers.answer("copycat", dataset, backbone, there / "work", seconds=7.0, seed=3)


def test_a_peer_gets_the_split_the_network_and_the_time(
    there: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset
) -> None:
    make(there, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    found = ask(there, dataset)
    test = dataset.indices("test")
    assert found.predicted.dtype == np.int64
    np.testing.assert_array_equal(found.predicted, np.asarray(dataset.labels)[test])
    parts = {part: len(dataset.indices(part)) for part in ("train", "validation", "test")}
    assert found.details["rows"] == parts
    assert found.details["spec"]["seconds"] == 7.0 and found.details["spec"]["seed"] == 3
    assert found.details["settings"]["num_features"] > 1 and found.details["resolution"] == 128
    assert found.details["spec"]["arguments"] == {"wide": True}
    assert found.details["versions"] == {"copycat": "1.2", "torch": "2.0"}
    assert found.details["hidden"] is None
    assert not (there / "work").exists()


def test_the_images_are_those_of_the_dataset(tmp_path: Path, dataset: Dataset) -> None:
    peers.write_images(dataset, tmp_path)
    row = int(dataset.indices("test")[0])
    with Image.open(tmp_path / "test" / f"{row}.png") as image:
        np.testing.assert_array_equal(np.asarray(image), dataset.images()[row])


def test_what_a_peer_leaves_out_is_seen(
    there: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset
) -> None:
    make(there, monkeypatch, missing=True)
    with pytest.raises(AutomlError, match="copycat judged"):
        ask(there, dataset)


def test_a_peer_that_fails_is_named_with_its_log(
    there: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset
) -> None:
    make(there, monkeypatch, fails=True)
    with pytest.raises(AutomlError, match=r"copycat ended with 1 \(see .*log.txt\)"):
        ask(there, dataset)


def test_one_that_is_not_installed_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset
) -> None:
    monkeypatch.setenv(peers.VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="make peers ARGS=autogluon"):
        peers.answer("autogluon", dataset, scratch("small_cnn_xs"), tmp_path / "w", seconds=1.0, seed=0)


def test_what_cannot_be_imported_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.VARIABLE, str(tmp_path))
    for module, works in (("json", True), ("nowhere_at_all", False)):
        monkeypatch.setattr(peers, "PEERS", {module: peers.Peer("nothing", (), module, "")})
        monkeypatch.setattr("benchmarks.peers._pip", lambda _packages: ["-c", "pass"])
        if works:
            peers.install(module)
            assert peers.python_of(module).exists()
        else:
            with pytest.raises(InputError, match="import nowhere_at_all"):
                peers.install(module)
            with pytest.raises(InputError, match="is not installed"):
                peers.python_of(module)


def test_the_probe_is_what_the_network_says(tmp_path: Path) -> None:
    backbone = scratch("small_cnn_xs")
    torch.manual_seed(0)
    peers.write_weights(backbone, tmp_path / "weights")
    network = create_backbone(backbone).eval()
    network.load_state_dict(torch.load(tmp_path / "weights" / "pytorch_model.bin", weights_only=True))
    with np.load(tmp_path / "weights" / "probe.npz") as probe, torch.inference_mode():
        np.testing.assert_allclose(
            network(torch.from_numpy(probe["images"])).numpy(), probe["features"], rtol=1e-4, atol=1e-5
        )


def test_peers_are_methods_and_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert {name for name, peer in peers.PEERS.items() if peer.answers} <= set(METHODS)
    assert main([]) == 0
    assert all(f"{name}: " in capsys.readouterr().out for name in list(peers.PEERS)[:1])
    assert main(["autoglue"]) == 2
    assert "did you mean 'autogluon'" in capsys.readouterr().err
    for peer in peers.PEERS.values():
        assert (Path(peers.__file__).parent / peer.script).is_file()
