"""Spaces of subnets, and every family's supernet: the contract that each of them keeps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import families
from search_spaces.counts import count_macs
from search_spaces.families._blocks import SqueezeExcite
from search_spaces.families._staged import ConvStage, Layout, StagedSupernet
from search_spaces.supernet import Dimension, Space, Supernet
from search_spaces.train import recalibrate

SPACE = Space(
    (
        Dimension("width", (8, 16), "s"),
        Dimension("depth", (1, 2, 3), "s"),
        *(Dimension(f"b{place}.kernel", (3, 5, 7), "s", ("depth", place)) for place in range(3)),
    )
)


def test_how_many_subnets_there_are() -> None:
    assert SPACE.count() == 2 * (3 + 9 + 27)
    drawn = {tuple(SPACE.sample(np.random.default_rng(seed)).items()) for seed in range(2000)}
    assert len(drawn) == SPACE.count()


@given(seed=st.integers(0, 10_000), coupled=st.booleans(), rate=st.floats(0, 1))
def test_what_is_drawn_is_of_the_space(seed: int, coupled: bool, rate: float) -> None:
    rng = np.random.default_rng(seed)
    subnet = SPACE.sample(rng, coupled=coupled)
    changed = SPACE.mutate(subnet, rng, rate)
    for one in (subnet, changed):
        SPACE.check(one)
        assert SPACE.canonical(one) == one
    assert SPACE.mutate(subnet, rng, 0.0) == subnet
    codes = SPACE.encode([subnet, changed])
    assert (codes[0] == codes[1]).all() == (subnet == changed)
    assert ((codes == -1) | ((codes >= 0) & (codes <= 1))).all()


@given(seed=st.integers(0, 10_000), coupled=st.booleans())
def test_a_probability_of_the_largest_choice_draws_between_all_and_the_largest(
    seed: int, coupled: bool
) -> None:
    whole = SPACE.sample(np.random.default_rng(seed), coupled=coupled, largest=1.0)
    assert whole == SPACE.largest()
    some = SPACE.sample(np.random.default_rng(seed), coupled=coupled, largest=0.5)
    assert SPACE.canonical(some) == some


def test_in_coupled_mode_a_stage_rises_together() -> None:
    for seed in range(50):
        subnet = SPACE.sample(np.random.default_rng(seed), coupled=True)
        kernels = {subnet[f"b{place}.kernel"] for place in range(subnet["depth"])}
        assert len(kernels) == 1
        assert kernels == {2 * subnet["depth"] + 1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"width": 9}, "width = 9; choices: 8, 16"),
        ({"depth": 4}, "depth = 4"),
        ({"height": 1}, r"unknown .*height"),
    ],
)
def test_what_is_not_of_the_space_is_refused(change: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SPACE.check({**SPACE.largest(), **change})


def test_a_missing_dimension_is_named() -> None:
    subnet = SPACE.largest()
    del subnet["depth"]
    with pytest.raises(ValueError, match=r"missing .*depth"):
        SPACE.check(subnet)


def test_choices_in_disorder_and_names_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="rising order"):
        Dimension("width", (8, 4), "s")
    with pytest.raises(ValueError, match="same name"):
        Space((Dimension("a", (1,), "s"), Dimension("a", (1,), "s")))


# --- every family ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=families.SUPERNETS)
def net(request: pytest.FixtureRequest) -> Supernet:
    torch.manual_seed(0)
    net = families.supernet(request.param, classes=5).double().eval()
    with torch.no_grad():  # statistics that are not the ones of a fresh layer
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return net


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), coupled=st.booleans(), side=st.sampled_from([32, 40, 64]))
def test_a_subnet_computes_the_same_in_and_out_of_the_supernet(
    net: Supernet, seed: int, coupled: bool, side: int
) -> None:
    subnet = net.space.sample(np.random.default_rng(seed), coupled=coupled)
    built = net.build(subnet)
    assert not any("Elastic" in type(module).__name__ for module in built.modules())
    x = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    net.activate(subnet)
    with torch.inference_mode():
        expected = net(x)
        assert expected.shape == (2, 5)
        torch.testing.assert_close(built(x), expected, rtol=0, atol=1e-8)
        single = built.float()(x.float()).double()
    scale = float(expected.abs().max())
    assert float((single - expected).abs().max()) <= 1e-4 * max(scale, 1e-3)


def test_all_ends_of_the_space_can_be_built(net: Supernet) -> None:
    costs = [net.cost(subnet, 64) for subnet in (net.space.smallest(), net.space.largest())]
    assert 10 * costs[0].macs < costs[1].macs and 5 * costs[0].params < costs[1].params
    built = net.build(net.space.largest())
    built.classifier = None
    assert count_macs(built.float(), 64) == costs[1].macs
    assert net.cost(net.space.largest(), 128).macs > 3.5 * costs[1].macs


@pytest.mark.parametrize("side", [32, 224])
def test_both_ends_of_the_resolutions_work(net: Supernet, side: int) -> None:
    built = net.build(net.space.smallest()).float()
    assert built(torch.zeros(1, 3, side, side)).shape == (1, 5)


def test_every_weight_is_of_the_largest_and_learns(net: Supernet) -> None:
    trained = copy.deepcopy(net).float().train()
    trained.activate(trained.space.largest())
    trained(torch.randn(4, 3, 64, 64)).square().sum().backward()
    idle = [name for name, p in trained.named_parameters() if p.grad is None]
    assert not idle


def test_recalibrated_statistics_are_the_subnets_own(net: Supernet) -> None:
    supernet = copy.deepcopy(net)
    images = [torch.randn(8, 3, 32, 32, dtype=torch.float64) for _ in range(3)]
    subnet = supernet.space.smallest()
    built = supernet.build(subnet)
    recalibrate(built, images)
    recalibrate(supernet, images)  # the same subnet is still active
    with torch.inference_mode():
        torch.testing.assert_close(built(images[0]), supernet(images[0]), rtol=0, atol=1e-8)
    assert not built.training and not supernet.training
    with pytest.raises(ValueError, match="no batch"):
        recalibrate(built, [])


def test_squeeze_and_excite_too_computes_the_same_in_and_out_of_the_supernet() -> None:
    stage = ConvStage(widths=(8, 16), depths=(1, 2), stride=2, squeeze=True)
    net = StagedSupernet(Layout((8, 16), (stage,), (16, 32)), classes=3).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for seed in range(20):
        subnet = net.space.sample(np.random.default_rng(seed))
        built = net.build(subnet)
        assert sum(isinstance(module, SqueezeExcite) for module in built.modules()) == subnet["s0.depth"]
        torch.testing.assert_close(built(x), net(x), rtol=0, atol=1e-8)


def test_a_supernet_without_a_classifier_gives_features() -> None:
    net = families.supernet("mobile").eval()
    net.activate(net.space.smallest())
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, net.space.smallest()["last.width"])


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown supernet 'mobil'; known: hybrid, mobile"):
        families.supernet("mobil")
