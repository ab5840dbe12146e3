"""Frozen features: the right numbers, computed once, by several processes together, and never after the deadline."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from automl.data import Dataset
from automl.errors import AutomlError
from automl.training import Features, OutOfTime, frozen_features, inference_runner
from automl.training import _frozen as module
from search_spaces.backbones import Backbone, create_backbone
from search_spaces.stages import trunk_split
from tests._models import pictures, pretrained, shapes, transformer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shapes(tmp_path_factory.mktemp("frozen"), per_class=45)  # 135 images: three chunks


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return pretrained(tmp_path_factory.mktemp("weights"))


def expected(data: Dataset, backbone: Backbone, taps: str) -> np.ndarray:
    body = Features(create_backbone(backbone), taps).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (backbone.mean, backbone.std))
    images = torch.from_numpy(data.images(32)[np.arange(len(data))]).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        return body((images - mean) / std).numpy()


@pytest.mark.parametrize("taps", ["last", "multi"])
def test_features_are_those_of_the_network(data: Dataset, tiny: Backbone, tmp_path: Path, taps: str) -> None:
    table = frozen_features(data, tiny, 32, taps, tmp_path)
    np.testing.assert_allclose(table, expected(data, tiny, taps), atol=1e-3)


def test_they_are_computed_once(
    data: Dataset, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = np.array(frozen_features(data, tiny, 32, "last", tmp_path))
    monkeypatch.setattr(module, "inference_runner", _forbidden)
    np.testing.assert_array_equal(frozen_features(data, tiny, 32, "last", tmp_path), first)


def _forbidden(*_args: object, **_settings: object) -> None:
    raise AssertionError("the network runs again")


def test_only_the_chunks_that_are_asked_for_are_computed(
    data: Dataset, tiny: Backbone, tmp_path: Path
) -> None:
    developing = data.indices("development")
    second = developing[(developing >= 64) & (developing < 128)]
    table = frozen_features(data, tiny, 32, "last", tmp_path, indices=second[:1])
    assert (np.abs(table[second]).sum(1) > 0).all()
    assert np.abs(table[:64]).sum() == 0 and np.abs(table[128:]).sum() == 0
    table = frozen_features(data, tiny, 32, "last", tmp_path, indices=np.array([3, 130]))
    assert (np.abs(table[developing]).sum(1) > 0).all()


def test_no_test_image_is_looked_at_for_development(data: Dataset, tiny: Backbone, tmp_path: Path) -> None:
    table = frozen_features(data, tiny, 32, "last", tmp_path, indices=data.indices("development"))
    assert np.abs(table[data.indices("test")]).sum() == 0


def test_sides_and_taps_have_tables_of_their_own(data: Dataset, tiny: Backbone, tmp_path: Path) -> None:
    rows = np.arange(10)
    wide = frozen_features(data, tiny, 32, "multi", tmp_path, indices=rows)
    narrow = frozen_features(data, tiny, 32, "last", tmp_path, indices=rows)
    large = frozen_features(data, tiny, 48, "last", tmp_path, indices=rows)
    assert wide.shape[1] > narrow.shape[1] == large.shape[1]
    assert not np.allclose(narrow[data.indices("development")[0]], large[data.indices("development")[0]])


@pytest.mark.parametrize("names", [("net.a", "net.b"), ("net", "net.b"), ("org/net.a", "org/net.b")])
def test_names_that_differ_behind_a_dot_do_not_collide(
    data: Dataset, tmp_path: Path, names: tuple[str, str]
) -> None:
    tables = []
    for number, name in enumerate(names):
        architecture = ("test_efficientnet", "test_resnet")[number]
        backbone = replace(pretrained(tmp_path / str(number), architecture), name=name)
        tables.append(frozen_features(data, backbone, 32, "last", tmp_path / "shared", indices=np.arange(9)))
    assert tables[0].shape[1] != tables[1].shape[1]
    assert len({p.name for p in (tmp_path / "shared").glob("*.f32")}) == 2
    assert all(np.abs(table[data.indices("development")[0]]).sum() > 0 for table in tables)


def test_the_same_name_with_other_weights_is_another_table(data: Dataset, tmp_path: Path) -> None:
    tables = []
    for number, architecture in enumerate(("test_efficientnet", "test_resnet")):
        backbone = pretrained(tmp_path / str(number), architecture, name="same")
        tables.append(frozen_features(data, backbone, 32, "last", tmp_path / "shared", indices=np.arange(9)))
    assert tables[0].shape[1] != tables[1].shape[1]


def test_a_passed_deadline_raises_and_keeps_what_was_done(
    data: Dataset, tiny: Backbone, tmp_path: Path
) -> None:
    frozen_features(data, tiny, 32, "last", tmp_path, indices=np.array([0]))
    with pytest.raises(OutOfTime, match=r"features of tiny\.random at 32 px need more time than is left"):
        frozen_features(data, tiny, 32, "last", tmp_path, deadline=time.monotonic() - 1)
    table = frozen_features(
        data, tiny, 32, "last", tmp_path, indices=np.array([0]), deadline=time.monotonic() - 1
    )
    assert np.abs(table[data.indices("development")[0]]).sum() > 0


def no_space(_file: int, _begin: int, size: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_an_error_before_anything_is_written(
    data: Dataset, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_space)
        with pytest.raises(OSError, match=r"No space left on device.*\.f32") as error:
            frozen_features(data, tiny, 32, "last", tmp_path)
        assert error.value.errno == errno.ENOSPC
        assert not list(tmp_path.glob("*.f32")) and not list(tmp_path.glob("*.json"))
    frozen_features(data, tiny, 32, "last", tmp_path, indices=np.array([0]))


@pytest.mark.parametrize("kind", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_file_systems_that_allocate_nothing_ahead(
    tmp_path: Path, kind: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(kind, "not here")

    if kind is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    table = module.new_table(tmp_path / "table", np.float16, (5, 3))
    assert table.shape == (5, 3) and not table.any()
    table[4] = 1
    assert (tmp_path / "table").stat().st_size == 30


def test_a_table_has_all_of_its_space(tmp_path: Path, small_disk: Path) -> None:
    module.new_table(tmp_path / "table", np.float32, (1000, 100)).flush()
    assert (tmp_path / "table").stat().st_blocks * 512 >= 400_000
    with pytest.raises(OSError, match="No space left on device"):
        module.new_table(small_disk / "table", np.float32, (1000, 1000))
    assert not list(small_disk.iterdir())
    module.new_table(small_disk / "table", np.float32, (1000, 100))[:] = 1


def test_features_that_are_not_finite_are_an_error(
    data: Dataset, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_settings: object) -> module.Runner:
        return lambda images: [np.full((len(images), 4), np.nan, dtype=np.float32)]

    monkeypatch.setattr(module, "inference_runner", broken)
    with pytest.raises(AutomlError, match="gives features that are not finite"):
        frozen_features(data, tiny, 32, "last", tmp_path)


def _work(folder: str, backbone: dict[str, object], shared: str, notes: str) -> None:
    torch.set_num_threads(1)
    original = module.inference_runner

    def noting(*args: object, **settings: object) -> module.Runner:
        run = original(*args, **settings)  # type: ignore[arg-type]

        def note(images: np.ndarray) -> list[np.ndarray]:
            time.sleep(0.2)  # longer than the other process waits, so that both get a share
            with open(notes, "a") as handle:
                handle.write(f"{len(images)}\n")
            return run(images)

        return note

    module.inference_runner = noting
    frozen_features(Dataset.open(folder), Backbone.from_dict(backbone), 32, "last", Path(shared))


def test_two_processes_share_the_chunks(data: Dataset, tiny: Backbone, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    fork = multiprocessing.get_context("fork")
    workers = [
        fork.Process(
            target=_work, args=(str(data.folder), tiny.to_dict(), str(shared), str(tmp_path / f"{n}.txt"))
        )
        for n in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    done = [
        int(line)
        for n in range(2)
        for line in ((tmp_path / f"{n}.txt").read_text().split() if (tmp_path / f"{n}.txt").exists() else [])
    ]
    assert sorted(done) == [2, 7, 64, 64]  # every chunk once; the two images tell the width
    table = frozen_features(data, tiny, 32, "last", shared)
    np.testing.assert_allclose(table, expected(data, tiny, "last"), atol=1e-3)


def test_a_chunk_of_a_dead_process_is_done_by_the_next(data: Dataset, tiny: Backbone, tmp_path: Path) -> None:
    """A claim without a result is only as long-lived as its process."""
    frozen_features(data, tiny, 32, "last", tmp_path, indices=np.array([0]))
    fork = multiprocessing.get_context("fork")
    claims = next(tmp_path.glob("*.claims"))
    dying = fork.Process(target=_claim_and_die, args=(str(claims),))
    dying.start()
    dying.join(30)
    table = frozen_features(data, tiny, 32, "last", tmp_path, deadline=time.monotonic() + 60)
    assert (np.abs(table[64:]).sum(1) > 0).all()


def _claim_and_die(path: str) -> None:
    import os

    handle = os.open(path, os.O_RDWR)
    module._claim(handle, 1)
    os._exit(1)


@pytest.mark.parametrize("stages", [1, 3])
def test_a_runner_gives_all_outputs_of_a_trunk(tiny: Backbone, stages: int) -> None:
    network = create_backbone(tiny).eval()
    split = trunk_split(network, stages)
    assert split is not None
    images = pictures(3).numpy()
    runner = inference_runner(split[0], tiny, 32, threads=1, device="cpu")
    direct = module._Normalised(tiny, split[0]).eval()
    with torch.inference_mode():
        np.testing.assert_allclose(runner(images)[0], direct(torch.from_numpy(images)).numpy(), atol=1e-3)


def test_a_transformer_runs_in_onnx_at_any_side(tmp_path: Path) -> None:
    vit = transformer(tmp_path)
    wrapped = module._Normalised(vit, Features(create_backbone(vit), "multi")).eval()
    images = pictures(3, 64).numpy()
    run = module._onnx_runner(wrapped, 64, 1)
    assert run is not None
    with torch.inference_mode():
        np.testing.assert_allclose(run(images)[0], wrapped(torch.from_numpy(images)).numpy(), atol=1e-3)


def test_torch_runs_what_cannot_be_exported(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    body = Features(create_backbone(tiny), "multi")
    images = pictures(2).numpy()
    usual = inference_runner(body, tiny, 32, threads=1, device="cpu")(images)
    monkeypatch.setattr(module, "_onnx_runner", lambda *_: None)
    other = inference_runner(body, tiny, 32, threads=1, device="cpu")(images)
    np.testing.assert_allclose(other[0], usual[0], atol=1e-3)


def test_the_note_beside_the_table_says_what_it_holds(data: Dataset, tiny: Backbone, tmp_path: Path) -> None:
    table = frozen_features(data, tiny, 32, "last", tmp_path, indices=np.arange(3))
    note = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert note == {"width": table.shape[1], "count": len(data), "backbone": "tiny.random"}
