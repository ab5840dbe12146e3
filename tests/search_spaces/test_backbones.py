"""Which networks can be had, what to do about those that cannot, and where their stages are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from search_spaces import families
from search_spaces.backbones import (
    IMAGENET_MEAN,
    Backbone,
    BackboneError,
    create_backbone,
    find_backbones,
    scratch,
)
from search_spaces.stages import feature_stages, stage_groups, trunk_split
from tests._models import pretrained, write_model

#: Architecture → stages that are known of it.
STAGES = {
    "test_efficientnet": 5,
    "test_resnet": 4,
    "test_convnext": 4,
    "test_vit": 6,
    "test_byobnet": 4,
    "mobilenetv3_small_050": 6,
    "vit_tiny_patch16_224": 4,
    "regnetx_002": 4,
}
SPLIT = ("test_efficientnet", "mobilenetv3_small_050", "mobilenetv2_035", "mobilenetv4_conv_small_035")


def build(architecture: str) -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(architecture, num_classes=0).eval()


def names(found: list[Backbone]) -> list[str]:
    return [backbone.name for backbone in found]


def scratch_names() -> list[str]:
    return families.architectures()


def only_line(skipped: list[str]) -> str:
    assert len(skipped) == 1
    assert "\n" not in skipped[0]
    return skipped[0]


def test_there_are_always_networks_from_scratch() -> None:
    found, skipped = find_backbones()
    assert skipped == []
    assert names([b for b in found if not b.pretrained]) == scratch_names()


def test_every_folder_below_a_weights_folder_is_a_model(tmp_path: Path) -> None:
    write_model(tmp_path / "b.one")
    write_model(tmp_path / "a.two", "test_resnet")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.md").write_text("not a model")
    found, skipped = find_backbones([tmp_path])
    assert skipped == []
    assert names(found)[:2] == ["a.two", "b.one"]
    assert names(found)[-len(scratch_names()) :] == scratch_names()
    one = next(b for b in found if b.name == "b.one")
    assert one.pretrained and one.architecture == "test_efficientnet" and one.licence == "none"
    assert one.mean == (0.5, 0.4, 0.3) and one.std == (0.2, 0.25, 0.3)


def test_a_weights_folder_may_be_a_model_itself(tmp_path: Path) -> None:
    found, skipped = find_backbones([write_model(tmp_path / "net")])
    assert names(found)[0] == "net" and skipped == []


def test_a_model_is_asked_for_by_folder_name_or_by_path(tmp_path: Path) -> None:
    write_model(tmp_path / "net")
    for asked in ("net", f"local-dir:{tmp_path / 'net'}"):
        found, skipped = find_backbones([tmp_path], [asked])
        assert names(found) == ["net"] and skipped == []


def test_a_family_is_asked_for_by_name() -> None:
    found, skipped = find_backbones(names=["small_cnn_s"])
    assert names(found) == ["small_cnn_s"] and not found[0].pretrained and skipped == []


def test_the_same_model_is_listed_once(tmp_path: Path) -> None:
    write_model(tmp_path / "net")
    assert names(find_backbones([tmp_path], ["net", "net"])[0]) == ["net"]


def test_the_weights_are_those_of_the_folder(tmp_path: Path) -> None:
    first, again = (create_backbone(pretrained(tmp_path / n)).state_dict() for n in ("a", "b"))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    bare = create_backbone(pretrained(tmp_path / "a"), pretrained=False).state_dict()
    assert any(not torch.equal(value, bare[key]) for key, value in first.items())


def test_a_folder_without_weights_says_what_is_missing(tmp_path: Path) -> None:
    (write_model(tmp_path / "net") / "model.safetensors").unlink()
    _, skipped = find_backbones([tmp_path])
    line = only_line(skipped)
    assert line.startswith("backbone net is left out") and "has no model.safetensors" in line
    assert "can run code" in line


def test_a_folder_without_a_description_says_what_it_needs(tmp_path: Path) -> None:
    (write_model(tmp_path / "net") / "config.json").unlink()
    _, skipped = find_backbones(names=[f"local-dir:{tmp_path / 'net'}"])
    assert "has no config.json; a model folder holds config.json and model.safetensors" in only_line(skipped)


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        "{}",
        '{"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.5], "std": [0.1, 0.1, 0.1]}}',
        '{"architecture": "test_resnet", "pretrained_cfg": {"std": [0.1, 0.0, 0.1]}}',
        '{"architecture": "test_resnet", "pretrained_cfg": {"mean": ["a", "b", "c"]}}',
        '{"architecture": "test_resnet", "pretrained_cfg": {"mean": 0.5}}',
        '{"architecture": "test_resnet", "model_args": ["stem_size"]}',
        '{"architecture": "test_resnet", "model_args": ["ab"]}',
        '{"architecture": "test_resnet", "model_args": "same"}',
    ],
)
def test_a_damaged_description_is_one_line(tmp_path: Path, config: str) -> None:
    (write_model(tmp_path / "net") / "config.json").write_text(config)
    found, skipped = find_backbones([tmp_path])
    assert "config.json cannot be used" in only_line(skipped)
    assert "net" not in names(found)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 100])
def test_damaged_weights_are_one_line(tmp_path: Path, content: bytes) -> None:
    (write_model(tmp_path / "net") / "model.safetensors").write_bytes(content)
    _, skipped = find_backbones([tmp_path])
    assert "cannot be read" in only_line(skipped) and "copy the model again" in skipped[0]


def test_a_description_without_settings_means_imagenet(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "net")
    (folder / "config.json").write_text('{"architecture": "test_efficientnet"}')
    (folder / "LICENSE-apache-2.0.txt").touch()
    found, _ = find_backbones([tmp_path])
    assert found[0].mean == IMAGENET_MEAN and found[0].licence == "apache-2.0"


def test_an_unknown_architecture_suggests_a_known_one(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "net")
    (folder / "config.json").write_text('{"architecture": "resnet81"}')
    assert "timm has no architecture 'resnet81'; did you mean 'resnet" in only_line(
        find_backbones([tmp_path])[1]
    )


def test_an_unknown_name_suggests_what_is_there(tmp_path: Path) -> None:
    write_model(tmp_path / "mynet")
    assert "did you mean 'mynet'" in only_line(find_backbones([tmp_path], ["mynt"])[1])
    assert "did you mean 'small_cnn_s'" in only_line(find_backbones(names=["small_cn_s"])[1])
    nothing = only_line(find_backbones(names=["qqqqqq.zzz"])[1])
    assert "timm has no model 'qqqqqq.zzz'" in nothing and "local-dir:PATH" in nothing


def test_an_unknown_tag_of_a_known_model_suggests_one_that_exists() -> None:
    line = only_line(find_backbones(names=["resnet18.a1_in2k"])[1])
    assert "timm has no weights 'resnet18.a1_in2k'; did you mean 'resnet18.a" in line
    assert "; known: resnet18." in only_line(
        find_backbones(names=["resnet18.qqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"])[1]
    )


def test_a_model_without_published_weights_says_how_to_choose_one() -> None:
    line = only_line(find_backbones(names=["vit_base_patch16_18x2_224"])[1])
    assert "timm lists no weights for it; choose a tag from timm.list_pretrained()" in line


def test_a_folder_without_models_says_what_a_model_is(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert "holds no model; a model is a folder NAME" in only_line(find_backbones([folder])[1])


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import timm

    def offline(*_args: object, **_settings: object) -> nn.Module:
        raise OSError("no\nconnection")

    monkeypatch.setattr(timm, "create_model", offline)
    line = only_line(find_backbones(names=["resnet18.a1_in1k"])[1])
    assert "cannot be fetched" in line and "below --weights-dir" in line


def test_a_backbone_survives_json(tmp_path: Path) -> None:
    write_model(tmp_path / "same", pad_type="same")
    same = find_backbones(names=[f"local-dir:{tmp_path / 'same'}"])[0][0]
    assert same.arguments == {"pad_type": "same"}
    for backbone in (pretrained(tmp_path), scratch("small_cnn_m"), same):
        assert Backbone.from_dict(json.loads(json.dumps(backbone.to_dict()))) == backbone


@pytest.mark.parametrize(
    ("settings", "expected"), [('{"model_args": {"pad_type": "same"}}', {"pad_type": "same"}), ("{}", {})]
)
def test_a_hubs_model_keeps_the_settings_of_its_cache(
    settings: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    (tmp_path / "config.json").write_text(settings)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _hub_id, name: str(tmp_path / name))
    found = {backbone.name: backbone for backbone in find_backbones()[0]}
    assert found["resnet18.a1_in1k"].arguments == expected
    (tmp_path / "config.json").write_text('{"model_args": 3}')
    assert "resnet18.a1_in1k" not in {backbone.name for backbone in find_backbones()[0]}


def test_what_cannot_be_built_is_a_backbone_error(tmp_path: Path) -> None:
    backbone = pretrained(tmp_path)
    save_file({"conv_stem.weight": torch.zeros(1)}, Path(backbone.source[10:]) / "model.safetensors")
    with pytest.raises(BackboneError, match=r"tiny.random cannot be built"):
        create_backbone(backbone)
    with pytest.raises(BackboneError, match="no family has 'nothing'"):
        scratch("nothing")
    with pytest.raises(BackboneError, match="has no head of its own"):
        create_backbone(scratch("small_cnn_s"), num_classes=3)


@pytest.mark.parametrize("architecture", STAGES)
def test_the_stages_of_known_layouts(architecture: str) -> None:
    model = build(architecture)
    stages = feature_stages(model)
    assert len(stages) == STAGES[architecture]
    order: list[int] = []
    handles = [
        stage.register_forward_hook(lambda _m, _i, _o, number=number: order.append(number))
        for number, stage in enumerate(stages)
    ]
    side = 224 if "224" in architecture else 64
    with torch.inference_mode():
        model(torch.zeros(1, 3, side, side))
    for handle in handles:
        handle.remove()
    assert order == list(range(len(stages)))


@pytest.mark.parametrize("architecture", STAGES)
def test_groups_hold_every_weight_once_from_stem_to_head(architecture: str) -> None:
    model = build(architecture)
    groups = stage_groups(model)
    listed = [name for group in groups for name in group]
    assert sorted(listed) == sorted(name for name, _ in model.named_parameters())
    assert len(groups) >= 5
    first = next(iter(dict(model.named_parameters())))
    assert first in groups[0]


def test_a_network_without_stages_is_one_group() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert stage_groups(model) == [["0.weight", "0.bias", "1.weight", "1.bias"]]
    assert feature_stages(model) == []


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("architecture", SPLIT)
def test_tail_of_trunk_is_the_network(architecture: str, stages: int) -> None:
    model = build(architecture).train()
    split = trunk_split(model, stages)
    assert split is not None and model.training
    trunk, tail = split
    model.eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(tail.eval()(trunk.eval()(x)), model(x), atol=1e-4, rtol=1e-3)


def test_trunk_and_tail_share_the_networks_weights_without_overlap() -> None:
    model = build("test_efficientnet")
    split = trunk_split(model, 2)
    assert split is not None
    early, late = ({id(p) for p in part.parameters()} for part in split)
    assert not early & late
    assert early | late == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("stages", [0, 5, 99])
def test_a_cut_outside_the_network_is_refused(stages: int) -> None:
    assert trunk_split(build("test_efficientnet"), stages) is None


@pytest.mark.parametrize("architecture", ["test_resnet", "test_convnext", "test_vit"])
def test_unknown_layouts_are_not_split(architecture: str) -> None:
    assert trunk_split(build(architecture), 2) is None


def test_a_layout_that_only_looks_known_is_not_split() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_stem = nn.Conv2d(3, 4, 3, 2, 1)
            self.blocks = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))

        def forward_head(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.forward_head(self.blocks(self.conv_stem(x))) + 1

    torch.manual_seed(0)
    assert trunk_split(Odd(), 1) is None


def test_the_shared_weights_can_all_be_had(weights: Path) -> None:
    folders = sorted(p.name for p in weights.iterdir() if (p / "config.json").exists())
    found, skipped = find_backbones([weights])
    assert [b.name for b in found if b.pretrained and b.name in folders] == folders and skipped == []
    assert all(b.licence != "unknown" for b in found)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "vit_tiny_patch16_224", "test_efficientnet"])
def test_timms_networks_are_known_without_importing_it(name: str) -> None:
    code = f"import sys; from search_spaces.backbones import _timm_has; print(_timm_has({name!r}), 'timm' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False"]
