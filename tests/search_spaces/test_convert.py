"""timm models as supernets: the largest subnet is the model, and every subnet computes the same inside and built."""

from __future__ import annotations

import copy
import functools
import io
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from search_spaces.convert import ConversionError, Converted, convert
from search_spaces.counts import count_macs
from search_spaces.elastic._sliced import Shortened, Sliced, slice_layer
from search_spaces.train import Batch, Recipe, recalibrate, train_supernet

#: One of each kind, and variants with other blocks.
KINDS = {
    "resnet18": {},
    "resnet50": {},
    "mobilenetv1_100": {},
    "mobilenetv1_100h": {},
    "mobilenetv2_100": {},
    "mobilenetv3_large_100": {},
    "mobilenetv3_small_075": {},
    "efficientnet_b0": {},
    "tf_efficientnet_lite0": {},
    "efficientnetv2_rw_t": {},
    "convnext_atto": {},
    "convnextv2_atto": {},
    "vit_tiny_patch16_224": {"img_size": 64},
    "deit_tiny_patch16_224": {"img_size": 64},
}


@functools.cache
def model_of(name: str) -> nn.Module:
    """A model with random weights, statistics of norms among them, in double precision."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **KINDS[name]).double().eval()
    with torch.no_grad():
        for _, tensor in model.named_parameters():
            if tensor.ndim == 1:
                tensor.add_(torch.empty_like(tensor).uniform_(-0.3, 0.3))
        recalibrate(model, [images(0), images(1)])  # or activations would grow from block to block
        for key, tensor in model.named_buffers():
            if key.endswith("running_mean"):
                tensor.add_(torch.empty_like(tensor).normal_(0, 0.1))
            elif key.endswith("running_var"):
                tensor.mul_(torch.empty_like(tensor).uniform_(0.8, 1.25))
    return model


@functools.cache
def net_of(name: str) -> Converted:
    return convert(model_of(name))


def images(seed: int, side: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", KINDS)
def test_the_largest_subnet_is_the_model(name: str) -> None:
    model, net = model_of(name), net_of(name)
    before = copy.deepcopy(model.state_dict())
    net.activate(net.space.largest())
    with torch.inference_mode():
        wanted = model(images(1))
        torch.testing.assert_close(net(images(1)), wanted, rtol=1e-9, atol=1e-8)
        torch.testing.assert_close(net.build(net.space.largest())(images(1)), wanted, rtol=1e-9, atol=1e-8)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", KINDS)
def test_a_classifier_that_was_fitted_on_the_features_fits_the_supernet(name: str) -> None:
    model: Any = copy.deepcopy(model_of(name))
    model.reset_classifier(0)
    with torch.inference_mode():
        features = model(images(1))
    fitted = nn.Linear(features.shape[1], 4).double()
    with torch.no_grad():  # some features count for much more than others
        fitted.weight.mul_(torch.randperm(features.shape[1], generator=torch.Generator().manual_seed(0)))
    weight = fitted.weight.detach().clone()
    net = convert(model, fitted=fitted)
    net.activate(net.space.largest())
    with torch.inference_mode():
        wanted = fitted(features)
        torch.testing.assert_close(net(images(1)), wanted, rtol=1e-9, atol=1e-6)
    assert torch.equal(weight, fitted.weight)


@pytest.mark.parametrize("name", KINDS)
def test_the_smallest_subnet_costs_a_third_at_most(name: str) -> None:
    net, side = net_of(name), KINDS[name].get("img_size", 128)
    assert net.cost(net.space.smallest(), side).macs <= 0.35 * net.cost(net.space.largest(), side).macs


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_subnet_computes_the_same_in_and_out_of_the_supernet(name: str, seed: int) -> None:
    net = net_of(name)
    subnet = net.space.sample(np.random.default_rng(seed))
    built = net.build(subnet)
    assert not any(
        isinstance(m, Sliced | Shortened) or type(m).__name__.startswith(("Sliced", "Elastic"))
        for m in built.modules()
    )
    with torch.inference_mode():
        torch.testing.assert_close(built(images(seed)), net(images(seed)), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_075", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv1_100"]
)
def test_what_was_built_runs_in_onnx(name: str) -> None:
    import onnxruntime

    net = convert(copy.deepcopy(model_of(name)).float(), classes=4)
    built = net.build(net.space.smallest()).eval()
    target = io.BytesIO()
    x = images(3).float()
    torch.onnx.export(built, (x,), target, dynamo=False)
    session = onnxruntime.InferenceSession(target.getvalue())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(found, built(x).numpy(), atol=1e-4)
    assert found.shape == (2, 4)


def test_important_channels_come_first() -> None:
    net = net_of("mobilenetv2_100")
    for name, parts in net._parts.items():
        if name.endswith(".width"):
            score = parts[0].importance()
            assert (score[:-1] >= score[1:] - 1e-12).all(), name


def test_a_converted_net_is_trained_like_any_other() -> None:
    torch.manual_seed(0)
    net = convert(timm.create_model("resnet10t", num_classes=0), classes=2)
    generator = torch.Generator().manual_seed(0)

    def batches() -> Any:
        while True:
            labels = torch.randint(0, 2, (16,), generator=generator)
            x = 0.3 * torch.randn(16, 3, 32, 32, generator=generator) + labels[:, None, None, None]
            yield Batch(x, labels)

    recipe = Recipe(ema=0.5, learning_rate=3e-3)
    trained = list(train_supernet(net, batches(), recipe, lambda step: step / 30, seed=0))[-1].net
    batch = next(batches())
    for subnet in (net.space.smallest(), net.space.largest()):
        built = trained.build(subnet)
        recalibrate(built, [next(batches()).images for _ in range(4)])
        built.eval()
        with torch.inference_mode():
            assert (built(batch.images).argmax(1) == batch.labels).float().mean() > 0.8


def test_features_without_a_classifier_keep_their_width() -> None:
    for name in ("mobilenetv1_100", "resnet18"):
        net = convert(timm.create_model(name, num_classes=0)).eval()
        assert net.classifier is None
        net.activate(net.space.smallest())
        assert net(torch.zeros(1, 3, 64, 64)).shape == (1, net.model.num_features)


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(ConversionError, match="none of its blocks is of a known kind"):
        convert(timm.create_model("mixer_s32_224", num_classes=2))
    with pytest.raises(TypeError, match="in 4 groups"):
        slice_layer(nn.Conv2d(8, 8, 3, groups=4))


def test_the_classifier_that_is_asked_for_is_new() -> None:
    net = convert(model_of("resnet18"), classes=3)
    assert net.eval()(images(0)).shape == (2, 3)
    macs = count_macs(net.build(net.space.largest()).float(), 64)
    assert macs == pytest.approx(count_macs(copy.deepcopy(model_of("resnet18")).float(), 64), rel=1e-3)
