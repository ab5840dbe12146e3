"""Grey values of more than 8 bits have one range in all images of a data set."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from automl.data import _decoder, decode_image, load_dataset
from automl.data._decode import Deep
from automl.data._depth import Extent, check_ranges, find_ranges

from ._pictures import picture, save


def bits(seed: int, white: int, share: float = 1.0) -> np.ndarray:
    """A picture of a camera, uint16 ``[24, 24]``, whose brightest pixel is this share of white."""
    grey = picture(seed)[:, :, 0].astype(np.float64)
    return np.round((grey - grey.min()) / np.ptp(grey) * white * share).astype(np.uint16)


def twelve_bits(root: Path, count: int = 12) -> Path:
    """A folder of a camera of 12 bits, each picture with a brightness of its own, beside pictures of 8 bits."""
    for at in range(count):
        save(root / "ab"[at % 2] / f"{at:02d}.png", bits(at, 4095, 0.2 + 0.8 * at / (count - 1)))
        save(root / "ab"[at % 2] / f"{at:02d} colour.png", picture(100 + at))
    return root


@pytest.mark.parametrize(
    ("largest", "white"), [(0, 255), (255, 255), (256, 1023), (4095, 4095), (4096, 16383), (65535, 65535)]
)
@pytest.mark.parametrize("kind", ["uint16", "int32"])
def test_white_is_that_of_the_camera_with_the_fewest_bits(kind: str, largest: int, white: int) -> None:
    assert find_ranges([Extent(kind, 0, 0), Extent(kind, 0, largest)]) == {kind: [0.0, float(white)]}


def test_floats_and_odd_integers_are_stretched_over_all_images() -> None:
    assert find_ranges([Extent("float32", -3, 0), Extent("float32", 1, 5)]) == {"float32": [-3.0, 5.0]}
    assert find_ranges([Extent("int32", -9, 70), Extent("int32", 0, 80)]) == {"int32": [-9.0, 80.0]}
    assert find_ranges([Extent("int32", 0, 70_000)]) == {"int32": [0.0, 70_000.0]}
    ((low, high),) = find_ranges([Extent("float32", 1e30, 1e30)]).values()
    assert low == 1e30 < high


def test_one_broken_image_of_many_does_not_decide_a_stretched_range() -> None:
    many = [Extent("float32", 0.0, 1.0)] * 200
    assert find_ranges([*many, Extent("float32", -9999, 1e30)]) == {"float32": [0.0, 1.0]}


@given(
    st.lists(
        st.builds(
            lambda kind, a, b: Extent(kind, min(a, b), max(a, b)),
            st.sampled_from(["uint16", "int32", "float32"]),
            st.floats(-1e38, 1e38),
            st.floats(-1e38, 1e38),
        ),
        max_size=30,
    ),
    st.randoms(),
)
def test_ranges_do_not_depend_on_the_order_and_are_ranges(extents: list[Extent], random: object) -> None:
    found = find_ranges(extents)
    random.shuffle(extents)  # type: ignore[attr-defined]
    assert find_ranges(extents) == found == check_ranges(found)


@pytest.mark.parametrize(
    "values",
    [[], {"uint16": 4095}, {"uint16": [0]}, {"uint16": [0, 0]}, {"uint16": [0, "9"]}, {"float32": [0, math.nan]}],
)  # fmt: skip
def test_ranges_that_are_none(values: object) -> None:
    with pytest.raises(ValueError, match="ranges"):
        check_ranges(values)


def test_without_ranges_only_the_extent_is_told(tmp_path: Path) -> None:
    with pytest.raises(Deep) as deep:
        decode_image(save(tmp_path / "a.png", bits(0, 4095)), ranges=None)
    assert deep.value.extent == Extent("uint16", 0.0, 4095.0)
    values = np.array([[np.nan, 0.25, np.inf, 2.0]], np.float32)
    with pytest.raises(Deep) as deep:
        decode_image(save(tmp_path / "a.tif", values), ranges=None)
    assert deep.value.extent == Extent("float32", 0.25, 2.0)


def test_what_exceeds_a_range_is_black_or_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 2048, 4095, 60_000]], np.uint16))
    out = np.asarray(decode_image(path, ranges={"uint16": [0, 4095]}))
    assert out[0, :, 0].tolist() == [0, 128, 255, 255]
    path = save(tmp_path / "a.tif", np.array([[-1, 0.5, 2, 4, 9, np.nan]], np.float32))
    out = np.asarray(decode_image(path, ranges={"float32": [0, 4]}))
    assert out[0, :, 0].tolist() == [0, 32, 128, 255, 255, 0]


def test_transparency_of_a_deep_grey_leaves_it_as_it_is() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(stream, "PNG", transparency=5)
    assert (np.asarray(decode_image(stream.getvalue(), ranges={"uint16": [0, 1023]})) == 75).all()


@pytest.mark.parametrize("processes", [False, True])
def test_twelve_bits_keep_their_grey_levels(
    tmp_path: Path, processes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_decoder, "_MANY", 1 if processes else 10**9)
    monkeypatch.setattr("automl.data._build.cores", lambda: 2)
    seen: list[tuple[int, int]] = []
    source = twelve_bits(tmp_path / "s")
    data = load_dataset(
        source, cache_dir=tmp_path / "cache", progress=lambda done, total: seen.append((done, total))
    )
    assert data.ranges == {"uint16": [0.0, 4095.0]}
    assert data.size == 24
    for name, square in zip(data.source_names, data.images()[np.arange(len(data))], strict=True):
        at = int(Path(name).name[:2])
        if "colour" in name:
            expected = picture(100 + at)
        else:
            expected = np.rint(bits(at, 4095, 0.2 + 0.8 * at / 11) * (255 / 4095))[:, :, None]
        assert (square == expected).all()
    assert seen[-1] == (36, 36), "images of 8 bits are read once"
    told = [line for line in data.report.lines() if "more than 8 bits" in line]
    assert told == ["grey values of more than 8 bits (uint16): in all images 0 is black and 4095 is white"]


def test_the_order_of_the_files_changes_nothing(tmp_path: Path) -> None:
    first = load_dataset(twelve_bits(tmp_path / "s"), cache_dir=tmp_path / "cache")
    for at, path in enumerate(sorted((tmp_path / "s").rglob("*.png"), reverse=True)):
        path.rename(path.with_name(f"{at:03d}.png"))
    second = load_dataset(tmp_path / "s", cache_dir=tmp_path / "cache")
    assert first.folder != second.folder
    assert (first.fingerprint, first.ranges) == (second.fingerprint, second.ranges)


def test_copies_and_damage_among_deep_images(tmp_path: Path) -> None:
    """The squares of deep images come late; their places are those of the first pass."""
    source = twelve_bits(tmp_path / "s")
    for at in (0, 1, 7):
        save(source / "ab"[at % 2] / f"{at:02d} again.png", bits(at, 4095, 0.2 + 0.8 * at / 11))
    whole = (source / "a" / "02.png").read_bytes()
    (source / "a" / "00 half.png").write_bytes(whole[: len(whole) // 2])
    grey = np.rint(bits(5, 4095, 0.2 + 0.8 * 5 / 11) * (255 / 4095)).astype(np.uint8)
    save(source / "b" / "99 of 8 bits.png", grey)
    data = load_dataset(source, cache_dir=tmp_path / "cache")
    assert (len(data), data.report.stored) == (28, 24)
    assert [Path(one["name"]).name for one in data.report.unreadable] == ["00 half.png"]
    squares = {Path(n).name: s for n, s in zip(data.source_names, data.images()[np.arange(28)], strict=True)}
    assert (squares["99 of 8 bits.png"] == squares["05.png"]).all()
    assert (squares["05.png"] == grey[:, :, None]).all()
    for name, square in squares.items():
        if "again" in name:
            assert (square == squares[name.replace(" again", "")]).all()


def test_floats_of_a_data_set_have_one_range(tmp_path: Path) -> None:
    for at in range(12):
        values = picture(at)[:, :, 0].astype(np.float32) / 255 * (at + 1) - 2
        save(tmp_path / "s" / "ab"[at % 2] / f"{at:02d}.tif", values)
    data = load_dataset(tmp_path / "s", cache_dir=tmp_path / "cache")
    ((black, white),) = data.ranges.values()
    assert -2 <= black < -1.5 < 9 < white <= 10
    brightest = [int(data.images()[at].max()) for at in np.argsort(list(data.source_names))]
    assert max(brightest) == 255
    dim = next(at for at, name in enumerate(data.source_names) if name.endswith("00.tif"))
    assert data.images()[dim].max() <= 0.1 * 255


def test_images_of_8_bits_have_no_range(tmp_path: Path, tiny_folder: Path) -> None:
    data = load_dataset(tiny_folder, cache_dir=tmp_path)
    assert data.ranges == {}
    assert not any("8 bits" in line for line in data.report.lines())
