from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from automl.data import _duplicates
from automl.data._duplicates import components, group_edges, near_duplicates

from ._pictures import picture


def thumb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR))


def originals(count: int, side: int = 96) -> list[Image.Image]:
    return [Image.fromarray(picture(at, side)) for at in range(count)]


def test_different_pictures_are_no_duplicates() -> None:
    assert len(near_duplicates(np.stack([thumb(image) for image in originals(300)])).pairs) == 0


def test_copies_are_found() -> None:
    images = originals(60)
    stream = io.BytesIO()
    images[3].save(stream, "JPEG", quality=40)
    images.append(Image.open(stream))
    images.append(images[7].resize((40, 61)))
    images.append(ImageEnhance.Brightness(images[11]).enhance(0.7))
    images.append(ImageEnhance.Contrast(images[19]).enhance(0.6))
    found = near_duplicates(np.stack([thumb(image) for image in images]))
    assert found.pairs.tolist() == [[3, 60], [7, 61], [11, 62], [19, 63]]
    assert found.complete


def test_same_scene_with_different_parts_is_no_duplicate() -> None:
    generator = np.random.default_rng(0)
    scene = generator.integers(0, 256, (32, 32)).astype(float)
    thumbs = np.stack(
        [np.clip(scene + 12 * generator.normal(size=(32, 32)), 0, 255).astype(np.uint8) for _ in range(60)]
    )
    assert len(near_duplicates(thumbs).pairs) == 0


def test_scenes_that_cannot_be_told_apart_are_left_alone() -> None:
    base = thumb(originals(1)[0]).astype(np.int16)
    thumbs = np.stack([np.clip(base + at % 2, 0, 255).astype(np.uint8) for at in range(7)])
    found = near_duplicates(thumbs)
    assert found.alike
    assert not len(found.pairs)


def test_flat_and_few_pictures() -> None:
    assert not len(near_duplicates(np.zeros((0, 32, 32), np.uint8)).pairs)
    assert not len(near_duplicates(np.zeros((1, 32, 32), np.uint8)).pairs)
    assert not len(near_duplicates(np.full((50, 32, 32), 9, np.uint8)).pairs)


def test_work_is_bounded() -> None:
    images = originals(3000, 32)
    thumbs = np.stack([thumb(image) for image in images])
    found = near_duplicates(np.concatenate([thumbs, thumbs[:5]]), max_pairs=1)
    assert found.pairs.shape[1] == 2


def test_blocks_find_the_same_as_all_pairs() -> None:
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (2500, 32, 32)).astype(np.uint8)
    copies = np.clip(base[::5].astype(int) + generator.integers(-3, 4, (500, 32, 32)), 0, 255).astype(
        np.uint8
    )
    found = near_duplicates(np.concatenate([base, copies]))
    assert found.pairs.tolist() == [[5 * at, 2500 + at] for at in range(500)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 5), min_size=1, max_size=30))
def test_group_edges_join_groups_and_nothing_else(groups: list[int]) -> None:
    array = np.array(groups)
    found = components(len(array), group_edges(array))
    for i in range(len(array)):
        for j in range(i):
            assert (found[i] == found[j]) == (array[i] == array[j] != -1)


def test_very_many_images_take_their_space_before_they_write(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_duplicates, "_ROWS_IN_MEMORY", 10)
    with _duplicates._room((100, 10), small_disk) as room:
        room[:] = 1
    with (
        pytest.raises(OSError, match="No space left on device"),
        _duplicates._room((10_000, 100), small_disk),
    ):
        raise AssertionError("it was never full")
    thumbs = np.stack([thumb(image) for image in originals(40)])
    assert len(near_duplicates(np.concatenate([thumbs, thumbs[:3]]), scratch=tmp_path).pairs) == 3
