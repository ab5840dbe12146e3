"""A supernet learns, by every rule that its recipe may have."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from search_spaces import families, pretrain
from search_spaces._views import KEPT, MEAN, STD, Augmentation, Images, Views, read_images
from search_spaces.stored import About, Stored, load
from search_spaces.supernet import Space, Supernet
from search_spaces.train import Batch, Recipe, Step, _Learner, recalibrate, train_supernet
from tests._models import write_model


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
    net = families.supernet("mobile", 3)
    seen = list(train_supernet(net, _batches(teacher), recipe, lambda step: step / steps, report_every=10))
    return seen[-1].net, seen


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

    net.register_forward_pre_hook(forward)
    recipe = Recipe(dropout=0.3, draws=0, ema=0.0)
    list(train_supernet(net, _batches(), recipe, lambda step: step / 2))
    assert seen == {net.space.largest()["last.width"]: {0.3}, net.space.smallest()["last.width"]: {0.0}}


@pytest.mark.parametrize("mode", ["sandwich", "random"])
def test_random_subnets_may_come_from_a_pool_that_is_drawn_once(mode: str) -> None:
    net = families.supernet("mobile", 3)
    seen = set()

    def forward(module: Supernet, _inputs: object) -> None:
        layout = [stage.depth for stage in module.stages]  # type: ignore[union-attr]
        seen.add((module.last.conv.width, module.stem.conv.width, *layout))  # type: ignore[union-attr,arg-type]

    net.register_forward_pre_hook(forward)
    recipe = Recipe(mode=mode, pool=2, ema=0.0)  # type: ignore[arg-type]
    list(train_supernet(net, _batches(), recipe, lambda step: step / 8, seed=3))
    assert 2 <= len(seen) <= (4 if mode == "sandwich" else 2)


def test_the_largest_can_be_trained_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    net = families.supernet("mobile", 3)
    seen: list[tuple[dict[str, int], float]] = []
    activate = net.activate

    def active(subnet: dict[str, int]) -> None:
        seen.append((dict(subnet), net.dropout.p))
        activate(subnet)

    monkeypatch.setattr(net, "activate", active)
    recipe = Recipe(mode="largest", dropout=0.3, draws=2, ema=0.0, warmup=0.0)
    steps = list(train_supernet(net, _batches(), recipe, lambda step: step / 8, report_every=1))
    assert [subnet for subnet, _ in seen] == [net.space.largest()] * 8
    assert {dropout for _, dropout in seen[1:]} == {0.3}  # what was set is found by the next
    assert all(math.isnan(step.smallest) for step in steps)
    assert steps[-1].largest < steps[0].largest


@pytest.mark.parametrize("mode", ["sandwich", "random", "largest"])
def test_images_count_by_their_weights_and_are_told_how_wrong_they_are(mode: str) -> None:
    batch, told = next(_batches(teacher=True)), []
    twice = torch.arange(24).repeat_interleave(torch.where(torch.arange(24) < 8, 3, 1))
    gradients = []
    for images, weights in (
        (twice, None),
        (torch.arange(24), torch.where(torch.arange(24) < 8, 3.0, 1.0) * 24 / len(twice)),
    ):
        torch.manual_seed(0)
        net = families.supernet("mobile", 3).double().eval()
        given = replace(
            batch,
            images=batch.images[images].double(),
            labels=batch.labels[images],
            teacher=None if batch.teacher is None else batch.teacher[images],
            weights=None if weights is None else weights.double(),
            told=told.append,
        )
        recipe = Recipe(mode=mode, dropout=0.0)  # type: ignore[arg-type]
        learner = _Learner(net, recipe, np.random.default_rng(0), None, None)
        learner.learn(given)
        gradients.append(net.classifier.weight.grad)  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    assert [len(losses) for losses in told] == [len(twice), 24]
    torch.testing.assert_close(told[0], told[1][twice])


def test_subnets_shrink_over_a_share_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    net = families.supernet("mobile", 3)
    seen: list[float] = []
    activate = net.activate

    def active(subnet: dict[str, int]) -> None:
        seen.append(float(net.space.encode([subnet]).mean()))
        activate(subnet)

    monkeypatch.setattr(net, "activate", active)
    recipe = Recipe(mode="random", coupled=0.0, shrinking=0.5, ema=0.0)
    list(train_supernet(net, _batches(), recipe, lambda step: step / 40, seed=1))
    assert seen[0] == net.space.encode([net.space.largest()]).mean()
    assert seen[0] > np.mean(seen[5:10]) > np.mean(seen[10:20]) > np.mean(seen[20:]) + 0.05
    assert np.mean(seen[20:]) < 0.6


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 30, 70), (1.0, 100, 100)])
def test_a_share_of_the_drawn_subnets_is_coupled(
    share: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def sample(space: Space, _rng: object, *, coupled: bool, largest: float) -> dict[str, int]:
        asked.append(coupled)
        return space.smallest()

    monkeypatch.setattr(Space, "sample", sample)
    recipe = Recipe(mode="random", coupled=share)
    learner = _Learner(families.supernet("mobile", 3), recipe, np.random.default_rng(0), None, None)
    for _ in range(100):
        learner._draw()
    assert least <= sum(asked) <= most


def test_subnets_of_a_pool_do_not_shrink() -> None:
    net = families.supernet("mobile", 3)
    with pytest.raises(ValueError, match="one of the two"):
        list(train_supernet(net, _batches(), Recipe(pool=2, shrinking=0.5), lambda step: step / 2))


def test_a_loss_that_is_no_number_is_an_error() -> None:
    def broken() -> Iterator[Batch]:
        for batch in _batches():
            yield replace(batch, images=batch.images * math.nan)

    net = families.supernet("mobile", 3)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        list(train_supernet(net, broken(), Recipe(), lambda step: step / 2))


# --- pretraining -------------------------------------------------------------------------------------------


def _file(tmp_path: Path) -> Path:
    images, labels = _colours(48, 0)
    pixels = ((images.permute(0, 2, 3, 1) * 40) + 100).clamp(0, 255).byte().numpy()
    split = np.arange(48) % 4 == 0
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels.numpy(), split=split.astype(np.uint8))
    return tmp_path / "images.npz"


@pytest.mark.slow
@pytest.mark.parametrize("taught", [False, True])
def test_pretraining_writes_a_supernet_that_can_be_loaded(
    taught: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "_COUNTED", 5)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    teacher = None
    if taught:
        model = timm.create_model("test_resnet", pretrained=False, num_classes=20)
        (tmp_path / "teacher").mkdir()
        save_file(model.state_dict(), tmp_path / "teacher" / "model.safetensors")
        config = {"architecture": "test_resnet", "num_classes": 20, "pretrained_cfg": {"num_classes": 20}}
        (tmp_path / "teacher" / "config.json").write_text(json.dumps(config))
        teacher = f"local-dir:{tmp_path / 'teacher'}"
    plan = pretrain.Plan(
        "mobile", 2.0, teacher, 32, views=2, batch=16, resolutions=(32,), evaluate_every=1.0,
        recipe=Recipe(mode="random"), judged=3,
    )  # fmt: skip
    lines: list[str] = []
    path = pretrain.pretrain(_file(tmp_path), tmp_path / "out", plan, lines.append)
    assert path.stat().st_size < 15e6
    stored = load(path)
    assert stored.about.classes == ("0", "1", "2") and len(stored.known) == 8
    assert [known.score is None for known in stored.known] == [False] * 3 + [True] * 5
    training, validation, names = read_images(tmp_path / "images.npz", "cpu")
    assert (len(training), len(validation), names) == (36, 12, ["0", "1", "2"])
    first = stored.known[0]
    judged = replace(stored, calibration=training.pixels)
    score = pretrain.top1(judged.build(first.subnet), validation, 32)
    assert abs(score - (first.score or 0.0)) <= 2 / 12  # matrices are stored in half precision
    record = json.loads((tmp_path / "out" / "mobile.json").read_text())
    assert record["curve"][-1]["progress"] == 1.0
    assert record["plan"]["teacher"] == ("teacher" if taught else None)
    assert str(tmp_path) not in json.dumps(record) + json.dumps(vars(stored.about))
    assert any("asked" in line for line in lines) == taught


@pytest.mark.slow
def test_a_pretrained_model_becomes_the_supernet_and_is_judged_on_what_is_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "_COUNTED", 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    folder = write_model(tmp_path / "small", "mobilenetv2_035")
    plan = pretrain.Plan(
        "mobile", 2.0, views=1, batch=16, resolutions=(32,), recipe=Recipe(mode="random"),
        backbone=f"local-dir:{folder}", judged=2, held_out=12,
    )  # fmt: skip
    with pytest.raises(ValueError, match="small normalises images in a way of its own"):
        pretrain.pretrain(_file(tmp_path), tmp_path / "out", plan)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"].update(mean=MEAN, std=STD)
    (folder / "config.json").write_text(json.dumps(config))
    path = pretrain.pretrain(_file(tmp_path), tmp_path / "out", plan, lambda _line: None)
    stored = load(path)
    assert path.name == "small.safetensors" and stored.about.architecture == "mobilenetv2_035"
    assert [known.images for known in stored.known] == [12, 12, 0, 0, 0, 0]
    training, _validation, _names = read_images(tmp_path / "images.npz", "cpu")
    own = {image.numpy().tobytes() for image in training.pixels}
    assert len(stored.calibration) == 24 and {image.numpy().tobytes() for image in stored.calibration} <= own
    record = json.loads((tmp_path / "out" / "small.json").read_text())
    assert (record["training_images"], record["validation_images"]) == (24, 12)
    assert str(tmp_path) not in json.dumps(record) + json.dumps(vars(stored.about))
    # It can be trained on from its file.
    on = pretrain.pretrain(
        _file(tmp_path), tmp_path / "on", replace(plan, start=path, seconds=0.1), lambda _line: None
    )
    weights, before = (one.net.state_dict()["classifier.weight"] for one in (load(on), stored))
    assert (weights - before).abs().max() < 0.2 * before.abs().max()
    with pytest.raises(ValueError, match="36 of 36 images cannot be held out"):
        pretrain.pretrain(_file(tmp_path), tmp_path / "out", replace(plan, held_out=36))


def test_another_supernet_is_begun_with_but_for_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    about = About("mobile", ("a", "b"), (32,), "top1", mean=MEAN, std=STD)
    known = Stored(about, families.supernet("mobile", 2), torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    known.save(tmp_path / "known.safetensors")
    net = families.supernet("mobile", 5)
    own = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    other = replace(about, classes=("1", "2", "3", "4", "5"))
    pretrain.begin_with(net, tmp_path / "known.safetensors", other)
    for name, tensor in net.named_parameters():
        expected = own[name] if name.startswith("classifier.") else known.net.state_dict()[name]
        torch.testing.assert_close(tensor.detach(), expected, atol=2e-3, rtol=2e-3)
    pretrain.begin_with(net, tmp_path / "known.safetensors", about)  # three outputs are a teacher's
    weight = net.classifier.weight.detach()
    torch.testing.assert_close(weight[:2], known.net.classifier.weight.detach(), atol=2e-3, rtol=2e-3)  # type: ignore[union-attr]
    torch.testing.assert_close(weight[2:], own["classifier.weight"][2:])
    with pytest.raises(ValueError, match="of the kind mobile, not hybrid"):
        hybrid = replace(about, family="hybrid")
        pretrain.begin_with(families.supernet("hybrid", 5), tmp_path / "known.safetensors", hybrid)
    with pytest.raises(ValueError):
        pretrain.begin_with(net, tmp_path / "none.safetensors", about)


def test_a_file_that_lacks_something_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=[0, 1])
    with pytest.raises(ValueError, match="split are needed"):
        read_images(tmp_path / "a.npz", "cpu")
    np.savez(tmp_path / "b.npz", images=np.zeros((2, 4, 4), np.uint8), labels=[0, 1], split=[0, 1])
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\] is needed"):
        read_images(tmp_path / "b.npz", "cpu")
    np.savez(tmp_path / "c.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=[0, 1], split=[0, 0])
    with pytest.raises(ValueError, match="no image of split 1"):
        read_images(tmp_path / "c.npz", "cpu")


def test_views_are_fixed_and_keep_range_and_shape() -> None:
    images = Images(torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8), torch.arange(6) % 3)
    views, again = (Views(images, 2, Augmentation(), seed=3) for _ in range(2))
    rows = torch.tensor([4, 1])
    seen = views.pixels(1, rows, 32)
    assert seen.shape == (2, 3, 32, 32) and seen.min() >= 0 and seen.max() <= 1
    assert torch.equal(seen, again.pixels(1, rows, 32))
    assert torch.equal(seen[1:], views.pixels(1, rows[1:], 32))
    assert float((seen - views.pixels(0, rows, 32)).abs().mean()) > 0.05
    one_colour = Images(torch.full((4, 3, 20, 20), 51, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    plain = Views(one_colour, 1, Augmentation(colour=0.0), seed=0).pixels(0, torch.arange(4), 16)
    torch.testing.assert_close(plain, torch.full_like(plain, 0.2))


def test_the_opinion_of_the_teacher_is_of_the_view_that_is_seen() -> None:
    images = Images(torch.randint(0, 256, (10, 3, 24, 24), dtype=torch.uint8), torch.arange(10) % 3)
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 40))
    views = Views(images, 3, Augmentation(), seed=0)
    assert views.opinion(0, torch.arange(2)) is None
    shares: list[float] = []
    views.ask(teacher, 24, shares.append, None)
    assert shares == [1 / 3, 2 / 3, 1.0]
    batches = views.batches(5, lambda _: 24, 3, seed=0)
    for _ in range(6):
        batch = next(batches)
        assert batch.teacher is not None
        torch.testing.assert_close(batch.teacher.exp().sum(1), torch.ones(5), atol=2e-3, rtol=0)
        expected = teacher(batch.images).softmax(1).topk(KEPT, dim=1)
        got = batch.teacher.exp().gather(1, expected.indices)
        torch.testing.assert_close(got, expected.values, atol=2e-3, rtol=0)


@pytest.mark.parametrize("mode", ["sandwich", "random"])
def test_a_teacher_with_classes_of_its_own_is_learned_beside_the_labels(mode: str) -> None:
    torch.manual_seed(0)

    def taught() -> Iterator[Batch]:
        for batch in _batches():
            yield replace(batch, teacher=-8.0 * torch.nn.functional.one_hot(batch.labels, 3).float()[:, :2])

    net = families.supernet("mobile", 5)
    recipe = Recipe(mode=mode, learning_rate=0.01, dropout=0.0, ema=0.0, teacher_weight=0.5, clip=10.0)  # type: ignore[arg-type]
    steps = 12 if mode == "sandwich" else 30
    net = list(train_supernet(net, taught(), recipe, lambda step: step / steps))[-1].net
    images, labels = _colours(60, 77_777)
    built = net.build(
        net.space.largest() if mode == "sandwich" else net.space.sample(np.random.default_rng(0))
    )
    recalibrate(built, [images])
    with torch.inference_mode():
        logits = built.eval()(images)
    assert float((logits[:, :3].argmax(1) == labels).float().mean()) > 0.8
    clear = labels < 2
    assert float((logits[clear, 3:].argmin(1) == labels[clear]).float().mean()) > 0.8


def test_images_of_a_supernet_that_is_carried_are_nobodys_data() -> None:
    found = pretrain.calibration_images()
    assert found.shape == (128, 3, 64, 64) and found.dtype == torch.uint8
    assert torch.equal(found, pretrain.calibration_images())
    assert float(found.float().std()) > 30
