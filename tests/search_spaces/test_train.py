"""A supernet learns, by every rule that its recipe may have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search_spaces import families, pretrain
from search_spaces.supernet import Supernet
from search_spaces.train import Batch, Recipe, Step, recalibrate, train_supernet


def _colours(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise that are red, green or blue."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randn(count, 3, 32, 32, generator=generator)
    images[torch.arange(count), labels] += 1.5
    return images, labels


def _batches(teacher: bool = False) -> Iterator[Batch]:
    for seed in range(10_000):
        images, labels = _colours(24, seed)
        logits = 8 * torch.nn.functional.one_hot(labels, 3).float() if teacher else None
        yield Batch(images, labels, logits)


def _trained(recipe: Recipe, steps: int = 30, teacher: bool = False) -> tuple[Supernet, list[Step]]:
    torch.manual_seed(0)
    seen: list[Step] = []
    net = families.supernet("mobile", 3)
    net = train_supernet(
        net,
        _batches(teacher),
        recipe,
        lambda step: step / steps,
        report=lambda step, _net: seen.append(step),
        report_every=10,
    )
    return net, seen


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sandwich", "random"])
@pytest.mark.parametrize("teacher", [False, True])
def test_all_ends_of_the_space_learn(mode: str, teacher: bool) -> None:
    steps = 30 if mode == "sandwich" else 90
    recipe = Recipe(mode=mode, learning_rate=0.01, dropout=0.0, ema=0.9, smoothing=0.0)  # type: ignore[arg-type]
    net, seen = _trained(recipe, steps, teacher)
    assert [step.number for step in seen] == list(range(10, steps + 1, 10))
    assert seen[-1].progress == 1.0 and seen[-1].learning_rate < 1e-4
    assert math.isnan(seen[-1].smallest) == (mode == "random")
    images, labels = _colours(60, 77_777)
    for subnet in (net.space.smallest(), net.space.largest(), net.space.sample(np.random.default_rng(1))):
        built = net.build(subnet)
        recalibrate(built, [_colours(60, 88_888)[0]])
        with torch.inference_mode():
            right = (built.eval()(images).argmax(1) == labels).float().mean()
        assert right > 0.9


def test_dropout_is_on_the_largest_alone() -> None:
    net = families.supernet("mobile", 3)
    seen: dict[int, set[float]] = {}

    def forward(module: Supernet, _inputs: object) -> None:
        seen.setdefault(module.last.conv.width, set()).add(module.dropout.p)  # type: ignore[union-attr,arg-type]

    net.register_forward_pre_hook(forward)  # type: ignore[arg-type]
    recipe = Recipe(dropout=0.3, draws=0, ema=0.0)
    train_supernet(net, _batches(), recipe, lambda step: step / 2)
    assert seen == {net.space.largest()["last.width"]: {0.3}, net.space.smallest()["last.width"]: {0.0}}


def test_a_loss_that_is_no_number_is_an_error() -> None:
    def broken() -> Iterator[Batch]:
        for batch in _batches():
            yield replace(batch, images=batch.images * math.nan)

    net = families.supernet("mobile", 3)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train_supernet(net, broken(), Recipe(), lambda step: step / 2)


# --- pretraining -------------------------------------------------------------------------------------------


def _file(tmp_path: Path) -> Path:
    images, labels = _colours(48, 0)
    pixels = ((images.permute(0, 2, 3, 1) * 40) + 100).clamp(0, 255).byte().numpy()
    split = np.arange(48) % 4 == 0
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels.numpy(), split=split.astype(np.uint8))
    return tmp_path / "images.npz"


@pytest.mark.slow
def test_pretraining_writes_weights_that_can_be_loaded(tmp_path: Path) -> None:
    weights = pretrain.pretrain(
        _file(tmp_path),
        "mobile",
        tmp_path / "out",
        seconds=2.0,
        batch=16,
        resolutions=(32,),
        evaluate_every=1.0,
    )
    assert weights.stat().st_size < 15e6
    net = pretrain.load(weights, "mobile", 3)
    training, validation, classes = pretrain.read_images(tmp_path / "images.npz", "cpu")
    assert (len(training), len(validation), classes) == (36, 12, 3)
    assert 0 <= pretrain.evaluate(net, net.space.smallest(), training, validation, 32) <= 1
    with pytest.raises(ValueError, match="no weights of 'hybrid'"):
        pretrain.load(weights, "hybrid", 3)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="no weights of 'mobile'"):
        pretrain.load(weights, "mobile", 3)


def test_stored_weights_compute_almost_the_same(tmp_path: Path) -> None:
    net = families.supernet("mobile", 3).eval()
    pretrain.save(net, tmp_path / "w.safetensors")
    again = pretrain.load(tmp_path / "w.safetensors", "mobile", 3).eval()
    x = torch.randn(2, 3, 32, 32)
    subnet = net.space.smallest()
    with torch.inference_mode():
        expected, found = net.build(subnet)(x), again.build(subnet)(x)
    assert float((found - expected).abs().max()) < 0.01 * float(expected.abs().max())


def test_a_file_that_lacks_something_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=[0, 1])
    with pytest.raises(ValueError, match="split are needed"):
        pretrain.read_images(tmp_path / "a.npz", "cpu")
    np.savez(tmp_path / "b.npz", images=np.zeros((2, 4, 4), np.uint8), labels=[0, 1], split=[0, 1])
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\] is needed"):
        pretrain.read_images(tmp_path / "b.npz", "cpu")
    np.savez(tmp_path / "c.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=[0, 1], split=[0, 0])
    with pytest.raises(ValueError, match="no image of split 1"):
        pretrain.read_images(tmp_path / "c.npz", "cpu")


def test_varied_images_keep_their_range_and_shape() -> None:
    pixels = torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    out = pretrain.varied(pixels, 32, pretrain.Augmentation(), generator)
    assert out.shape == (6, 3, 32, 32) and out.min() >= 0 and out.max() <= 1
    assert float((out[:3] - out[3:]).abs().mean()) > 0.05
    one_colour = torch.full((4, 3, 20, 20), 51, dtype=torch.uint8)
    again = pretrain.varied(one_colour, 32, pretrain.Augmentation(colour=0.0), generator)
    torch.testing.assert_close(again, torch.full_like(again, 0.2))
