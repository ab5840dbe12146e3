"""Which weights a method trains, adapters that start at the pretrained function, and learning rates per stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from automl.training import FINE_TUNING, FROZEN
from automl.training._methods import (
    ConvAdapter,
    LowRankAdapter,
    add_conv_adapters,
    add_low_rank,
    choose_parameters,
    freeze_early,
    merge_low_rank,
    parameter_groups,
)
from search_spaces.backbones import create_backbone, scratch
from search_spaces.stages import feature_stages, stage_groups
from strategy_pool.strategy import FROZEN_METHODS, TUNED_METHODS
from tests._models import network, recipe, small_cnn

ARCHITECTURES = (
    "test_efficientnet",
    "test_resnet",
    "test_convnext",
    "test_vit",
    "test_mambaout",
    "small_cnn_xs",
)


def build(architecture: str) -> nn.Module:
    torch.manual_seed(0)
    if architecture.startswith("small_cnn"):
        return create_backbone(scratch(architecture)).eval()
    import timm

    return timm.create_model(architecture, num_classes=0).eval()


@torch.inference_mode()
def output(model: nn.Module, side: int = 64) -> Tensor:
    return model.eval()(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)))


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_pool_and_the_engine_know_the_same_methods() -> None:
    assert set(FINE_TUNING) == set(TUNED_METHODS)
    assert set(FROZEN) == set(FROZEN_METHODS)


@pytest.mark.parametrize("method", ["full", "probe_then_full", "scratch", "cached_trunk"])
def test_whole_network_methods_train_every_weight(method: str) -> None:
    model = build("test_efficientnet").requires_grad_(False)
    choose_parameters(model, recipe(method))
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_norm_bias_trains_norms_and_biases_only(architecture: str) -> None:
    model = build(architecture)
    choose_parameters(model, recipe("norm_bias"))
    names = trained(model)
    vectors = {name for name, p in model.named_parameters() if p.ndim == 1}
    biases = {name for name, _ in model.named_parameters() if name.split(".")[-1] == "bias"}
    norms = {
        f"{name}.{inner}"
        for name, module in model.named_modules()
        if "Norm" in type(module).__name__
        for inner, _ in module.named_parameters(recurse=False)
    }
    assert names == biases | norms
    assert names <= vectors


@pytest.mark.parametrize("count", [1, 2, 3])
def test_last_stages_trains_the_groups_next_to_the_head(count: int) -> None:
    model = build("test_efficientnet")
    choose_parameters(model, recipe("last_stages", last_stages=count))
    groups = stage_groups(model)
    assert trained(model) == {name for group in groups[-count:] for name in group}
    assert "conv_stem.weight" not in trained(model)


def test_more_last_stages_than_there_are_is_everything() -> None:
    model = build("test_resnet")
    choose_parameters(model, recipe("last_stages", last_stages=60))
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_trains_its_factors_only(architecture: str) -> None:
    model = build(architecture)
    choose_parameters(model, recipe("lora", rank=4))
    names = trained(model)
    assert names
    assert all(".down." in name or ".up." in name for name in names)


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_resnet", "small_cnn_xs"])
def test_conv_adapter_trains_the_adapters_only(architecture: str) -> None:
    model = build(architecture)
    add_conv_adapters(model, 8)
    choose_parameters(model, recipe("conv_adapter"))
    names = trained(model)
    assert names
    assert all(".adapter." in name for name in names)


def test_a_method_on_frozen_features_trains_no_backbone() -> None:
    with pytest.raises(ValueError, match="method 'knn' does not train a backbone; known: full"):
        choose_parameters(build("small_cnn_xs"), recipe("knn"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_starts_at_identity_and_merges_without_a_change(architecture: str) -> None:
    model = build(architecture)
    before = output(model)
    wrapped = add_low_rank(model, 4)
    assert wrapped == sum(isinstance(m, LowRankAdapter) for m in model.modules()) > 0
    torch.testing.assert_close(output(model), before)
    for module in model.modules():
        if isinstance(module, LowRankAdapter):
            assert isinstance(module.up, nn.Linear | nn.Conv2d)
            nn.init.normal_(module.up.weight, std=0.2)
    moved = output(model)
    assert float((moved - before).abs().max()) > 1e-6
    merge_low_rank(model)
    assert not any(isinstance(m, LowRankAdapter) for m in model.modules())
    torch.testing.assert_close(output(model), moved, atol=1e-4, rtol=1e-3)
    fresh = build(architecture)
    assert model.state_dict().keys() == fresh.state_dict().keys()


def test_lora_leaves_depthwise_and_narrow_layers_alone() -> None:
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 32, 1))
    assert add_low_rank(model, 4) == 1
    assert isinstance(model[2], LowRankAdapter)


class ReadsWeight(nn.Module):
    """As attention layers do that never call their projection."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.project.weight, self.project.bias)


def test_lora_reaches_layers_whose_weight_is_read_instead_of_called() -> None:
    model = ReadsWeight()
    x = torch.randn(3, 16)
    before = model(x).detach()
    choose_parameters(model, recipe("lora", rank=4))
    torch.testing.assert_close(model(x), before)
    adapter = model.project
    assert isinstance(adapter, LowRankAdapter) and isinstance(adapter.up, nn.Linear)
    nn.init.normal_(adapter.up.weight)
    model(x).sum().backward()
    assert adapter.up.weight.grad is not None and float(adapter.up.weight.grad.abs().sum()) > 0
    moved = model(x).detach()
    assert not torch.allclose(moved, before)
    merge_low_rank(model)
    torch.testing.assert_close(model(x).detach(), moved)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_conv_adapters_start_at_identity(architecture: str) -> None:
    model = build(architecture)
    before = output(model)
    maps = _square_maps(model)
    add_conv_adapters(model, 8)
    assert sum(isinstance(m, ConvAdapter) for m in model.modules()) == maps
    torch.testing.assert_close(output(model), before)
    torch.testing.assert_close(output(model, 32), output(build(architecture), 32))  # at another side too


def _square_maps(model: nn.Module) -> int:
    """Stages that give ``[N, C, S, S]``; transformers give tokens, some networks put channels last."""
    found = []
    handles = [
        stage.register_forward_hook(
            lambda _m, _i, out: found.append(out.ndim == 4 and out.shape[2] == out.shape[3])
        )
        for stage in feature_stages(model)
    ]
    output(model, 80)
    for handle in handles:
        handle.remove()
    return sum(found)


def test_adapters_sit_behind_every_stage_once_and_can_learn() -> None:
    model = build("test_efficientnet")
    stages = feature_stages(model)
    add_conv_adapters(model, 16)
    wrapped = feature_stages(model)
    assert [type(stage) for stage in wrapped] == [ConvAdapter] * len(stages)
    assert [getattr(stage, "stage", None) for stage in wrapped] == stages
    before = output(model)
    last = wrapped[-1]
    assert isinstance(last, ConvAdapter) and isinstance(last.adapter[3], nn.Conv2d)
    nn.init.normal_(last.adapter[3].weight)
    assert not torch.allclose(output(model), before)


def test_the_batch_statistics_survive_adding_adapters() -> None:
    model = build("test_efficientnet").train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    add_conv_adapters(model, 8)
    assert model.training
    after = dict(model.named_buffers())
    assert all(any(torch.equal(v, a) for a in after.values()) for v in before.values())


def groups_of(**fields: Any) -> tuple[nn.Module, list[dict[str, Any]]]:
    model = network(small_cnn())
    strategy = recipe("full", **fields)
    choose_parameters(model.body.backbone, strategy)
    return model, parameter_groups(model, model.body.backbone, strategy)


def test_every_trained_weight_is_in_one_group() -> None:
    model, groups = groups_of(layer_decay=0.7, weight_decay=0.05)
    inside = [id(p) for group in groups for p in group["params"]]
    assert sorted(inside) == sorted(id(p) for p in model.parameters())


def test_vectors_are_not_decayed() -> None:
    _, groups = groups_of(weight_decay=0.05)
    assert len(groups) == 2
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}


def test_layer_decay_falls_by_a_constant_factor_per_stage_towards_the_input() -> None:
    model, groups = groups_of(layer_decay=0.5)
    base = {id(p): group["base"] for group in groups for p in group["params"]}
    stages = stage_groups(model.body.backbone)
    named = dict(model.body.backbone.named_parameters())
    assert {base[id(p)] for p in model.head.parameters()} == {1.0}
    for level, names in enumerate(stages):
        assert {base[id(named[name])] for name in names} == {0.5 ** (len(stages) - level)}


def test_without_layer_decay_all_learn_equally_fast() -> None:
    _, groups = groups_of()
    assert {group["base"] for group in groups} == {1.0}


def test_frozen_weights_are_in_no_group(tmp_path: Path) -> None:
    model = network(small_cnn())
    strategy = recipe("last_stages", last_stages=1)
    choose_parameters(model.body.backbone, strategy)
    groups = parameter_groups(model, model.body.backbone, strategy)
    assert all(p.requires_grad for group in groups for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(trained(model))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stages", [1, 3, 64])
def test_early_stages_are_frozen_and_the_last_is_not(architecture: str, stages: int) -> None:
    model = build(architecture)
    freeze_early(model, stages)
    groups = stage_groups(model)
    trained = [{dict(model.named_parameters())[name].requires_grad for name in group} for group in groups]
    assert all(len(one) == 1 for one in trained)
    learns = [one.pop() for one in trained]
    assert learns == sorted(learns)  # first what stays, then what learns
    assert not learns[0] and learns[-1] and learns[-2]
