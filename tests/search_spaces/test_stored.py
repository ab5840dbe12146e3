"""A supernet in one file: what was written is what is read, and what is damaged is refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from search_spaces import families
from search_spaces.convert import convert
from search_spaces.propose import Codes, spread
from search_spaces.stored import (
    CONVERTED,
    RESOLUTION,
    About,
    Known,
    Stored,
    StoredError,
    check_rebuilt,
    load,
    plain_network,
)


def stored(family: str = "mobile") -> Stored:
    """A supernet that was never trained, with a few known subnets."""
    torch.manual_seed(0)
    about = About(family, ("a", "b", "c"), (32, 48), "top1", ranges={"uint16": [0.0, 4095.0]})
    if family == CONVERTED:
        about = About(CONVERTED, ("a", "b"), (32,), "top1", "resnet18")
        net = convert(timm.create_model("resnet18", num_classes=0), 2)
    else:
        net = families.supernet(family, 3)  # type: ignore[assignment]
    made = Stored(about, net, torch.randint(0, 256, (70, 3, 48, 48), dtype=torch.uint8))
    made.known = [
        Known(subnet, 1000 + at, 10 + at, None if at % 2 else 0.5, 0 if at % 2 else 40)
        for at, subnet in enumerate(spread(made.space, 6))
    ]
    return made


@pytest.mark.parametrize("family", ["mobile", "hybrid", CONVERTED])
def test_what_was_written_is_what_is_read(family: str, tmp_path: Path) -> None:
    written = stored(family)
    written.save(tmp_path / "net.safetensors")
    read = load(tmp_path / "net.safetensors")
    assert read.about == written.about
    assert read.known == written.known
    assert torch.equal(read.calibration, written.calibration)
    assert read.space == written.space
    subnet = written.known[2].subnet
    x = torch.randn(2, 3, subnet[RESOLUTION], subnet[RESOLUTION])
    with torch.inference_mode():
        expected, got = written.build(subnet)(x), read.build(subnet)(x)
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)  # matrices are stored in half precision
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_statistics_are_those_of_the_calibration_images_at_the_subnets_side() -> None:
    made = stored()
    subnet = {**made.space.smallest(), RESOLUTION: 32}
    shapes = {batch.shape[1:] for batch in made.images(32)}
    assert shapes == {(3, 32, 32)}
    network: Any = made.build(subnet)
    first = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    with torch.inference_mode():
        maps = [network.stem.conv(batch) for batch in made.images(32)]
    means = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, means, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="resolution = 40"):
        made.build({**subnet, RESOLUTION: 40})


def test_images_go_the_way_that_they_went_before_they_were_judged(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    made = stored()
    made.save(path)
    # All that an older file tells is what its images are like.
    assert [load(path).resize_chain(side) for side in (32, 48, 64)] == [[48, 32], [48], [64]]
    about = {**vars(made.about), "size": 200}
    changed(path, about=about)
    assert load(path).resize_chain(48) == [200, 48] and load(path).resize_chain(200) == [200]
    changed(path, about={name: value for name, value in about.items() if name != "size"})
    assert load(path).about == made.about
    changed(path, about={**about, "size": 10**6})
    with pytest.raises(StoredError, match="size is 1000000"):
        load(path)


@pytest.mark.parametrize(("count", "sizes"), [(2, [2]), (64, [64]), (65, [33, 32]), (129, [43, 43, 43])])
def test_no_image_is_left_over_for_a_batch_of_its_own(count: int, sizes: list[int]) -> None:
    made = stored()
    made.calibration = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    assert [len(batch) for batch in made.images(32)] == sizes
    made.build(
        {**made.space.largest(), RESOLUTION: 32}
    )  # of which the last layers see one position of each image


def test_counted_is_without_the_classifier() -> None:
    made = stored()
    subnet = made.space.smallest()
    known = made.counted(subnet)
    weights = sum(p.numel() for name, p in made.build(subnet).named_parameters() if "classifier" not in name)
    assert known.params == weights and known.macs > 0 and known.score is None


def test_codes_are_texts_and_back() -> None:
    codes = Codes(stored().space)
    for subnet in spread(stored().space, 20):
        row = codes.of([subnet])[0]
        assert codes.subnet(codes.row(codes.text(row))) == subnet
    for wrong in ("", "0" * 3, "z" * len(codes.sizes), "-" * len(codes.sizes)):
        with pytest.raises(ValueError, match=r"no subnet|invalid literal"):
            codes.row(wrong)


def changed(path: Path, **changes: object) -> None:
    """Rewrite the description of a file."""
    with safe_open(path, framework="pt") as file:
        text = json.loads(file.metadata()["supernet"])
    save_file(load_file(path), path, metadata={"supernet": json.dumps({**text, **changes})})


def test_what_is_no_supernet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(StoredError, match="does not exist"):
        load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(StoredError, match="cannot be read"):
        load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(StoredError, match="holds no supernet"):
        load(path)
    made = stored()
    made.save(path)
    changed(path, format=99)
    with pytest.raises(StoredError, match="newer version"):
        load(path)
    about = {**vars(made.about), "std": [0, 1, 1]}
    for wrong in (
        {"about": {"family": "mobile"}},
        {"about": about},
        {"about": {**vars(made.about), "mean": [0.5, math.nan, 0.5]}},
        *(
            {"about": {**vars(made.about), "resolutions": sides}}
            for sides in ([0, 32], [-32], [32, 10**6], [])
        ),
        {"about": {**vars(made.about), "resolutions": [math.inf]}},
        {"about": {**vars(made.about), "ranges": [0, 255]}},
        {"format": math.inf},
        {"known": [{"subnet": "0"}]},
        {"known": 5},
    ):
        made.save(path)
        changed(path, **wrong)
        with pytest.raises(StoredError, match="is damaged"):
            load(path)
    made.calibration = made.calibration[:1]
    made.save(path)
    with pytest.raises(StoredError, match="not 2 images for the statistics"):
        load(path)
    made = stored()
    made.save(path)
    tensors = load_file(path)
    tensors.pop("stem.conv.weight")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(StoredError, match=r"stem\.conv\.weight is missing"):
        load(path)


def test_an_architecture_that_timm_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    made = stored(CONVERTED)
    made.save(path)
    changed(path, about={**vars(made.about), "architecture": "resnet18_of_tomorrow"})
    with pytest.raises(StoredError, match="no architecture 'resnet18_of_tomorrow'"):
        load(path)


def test_no_more_is_built_than_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    made = stored(CONVERTED)
    made.save(path)
    changed(path, about={**vars(made.about), "classes": [str(number) for number in range(10**5)]})
    with pytest.raises(StoredError, match=r"is damaged .*classifier is not of 100000 classes"):
        load(path)
    created, places = timm.create_model, []

    def watched(*args: Any, **more: Any) -> Any:
        model = created(*args, **more)
        places.append(next(model.parameters()).device.type)
        return model

    monkeypatch.setattr(timm, "create_model", watched)
    made.save(path)
    for architecture, arguments in (("resnet152", {}), ("resnet50", {"base_width": 4096})):
        changed(path, about={**vars(made.about), "architecture": architecture, "arguments": arguments})
        with pytest.raises(StoredError, match=r"parameters, and \d+ are stored"):
            load(path)
    assert places == ["meta", "meta"]


def with_settings(arguments: dict[str, Any]) -> Stored:
    """A converted model whose padding is not its architecture's usual one, and what is said of it."""
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=0, pad_type="same")
    about = About(CONVERTED, ("a", "b"), (32, 48), "top1", "test_efficientnet", arguments=arguments)
    return Stored(about, convert(model, 2).eval(), torch.randint(0, 256, (70, 3, 48, 48), dtype=torch.uint8))


def test_a_model_with_settings_of_its_own_comes_back_with_them(tmp_path: Path) -> None:
    written = with_settings({"pad_type": "same"})
    check_rebuilt(written.about, written.net)
    written.save(tmp_path / "net.safetensors")
    read = load(tmp_path / "net.safetensors")
    subnet = {**written.space.smallest(), RESOLUTION: 48}
    x = torch.randn(4, 3, 48, 48)
    with torch.inference_mode():
        built: Any = written.build(subnet)
        expected = built(x)
        torch.testing.assert_close(read.build(subnet)(x), expected, rtol=0.02, atol=0.02)
        plain: Any = plain_network(read.backbone(subnet))
        classifier, built.classifier = built.classifier, None
        plain.load_state_dict(built.state_dict())
        torch.testing.assert_close(classifier(plain.eval()(x)), expected, rtol=1e-4, atol=1e-5)


def test_a_model_whose_settings_would_be_lost_is_refused() -> None:
    lost = with_settings({})
    with pytest.raises(StoredError, match="settings of its own"):
        check_rebuilt(lost.about, lost.net)


def test_a_converted_one_of_the_first_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    for family, refused in ((CONVERTED, True), ("mobile", False)):
        made = stored(family)
        made.save(path)
        about = {name: value for name, value in vars(made.about).items() if name != "arguments"}
        changed(path, format=1, about=about)
        if refused:
            with pytest.raises(StoredError, match="lost settings of its model; train it again"):
                load(path)
        else:
            assert load(path).about == made.about


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint_path": "weights.pt"}, "'checkpoint_path' is no argument of an architecture"),
        ({"pretrained": True}, "'pretrained' is no argument"),
        ({"num_classes": 5}, "'num_classes' is no argument"),
        ({"no_such_thing": 1}, "test_efficientnet cannot be built with"),
        (["pad_type"], "is damaged"),
    ],
)
def test_a_file_cannot_ask_for_more_than_an_architecture(
    arguments: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    made = with_settings({"pad_type": "same"})
    made.save(path)
    changed(path, about={**vars(made.about), "arguments": arguments})
    with pytest.raises(StoredError, match=message):
        load(path)
