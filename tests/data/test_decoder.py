"""Decoding in child processes gives what decoding here gives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automl.data import _decoder, load_dataset
from automl.data._decode import _known_formats
from automl.data._decoder import Decoder, decode_one

from ._pictures import picture


@pytest.fixture
def items(tmp_path: Path) -> list[str | bytes]:
    made: list[str | bytes] = []
    for at in range(6):
        path = tmp_path / f"picture {at} ü.png"
        Image.fromarray(picture(at, 40)).save(path)
        made.append(str(path) if at % 2 else path.read_bytes())
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    return [*made, str(tmp_path / "text.png"), str(tmp_path / "empty.png"), b"", str(tmp_path / "none.png")]


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decoder, "_MANY", 1)


def test_children_decode_alike(items: list[str | bytes], few_are_many: None) -> None:
    here = [decode_one(item, 16) for item in items]
    assert [one.reason for one in here[6:]] == [
        "not an image that can be read", "empty file", "empty file", "file does not exist"
    ]  # fmt: skip
    with Decoder(16, 99, 2, files=True) as decoder:
        assert len(decoder._children) == 2
        for _ in range(3):
            assert decoder.chunk(items) == here
        children = list(decoder._children)
    assert all(child.returncode is not None for child in children)


def test_a_dead_child_costs_no_image(items: list[str | bytes], few_are_many: None) -> None:
    here = [decode_one(item, 16) for item in items]
    with Decoder(16, 99, 2, files=True) as decoder:
        for child in decoder._children:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        for _ in range(3):
            assert decoder.chunk(items) == here


def test_large_images_are_left_to_this_process(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (5100, 5100), 9).save(path)
    body = _decoder.pack([str(path), b""], 8)[4:]
    large, empty = _decoder.unpack(body, 2, 8)
    assert large is None
    assert empty is not None
    assert empty.reason == "empty file"
    with pytest.raises(EOFError):
        _decoder.unpack(body, 3, 8)


def test_few_images_and_pixels_start_no_process() -> None:
    for count, files in ((10, True), (10**6, False)):
        with Decoder(16, count, 2, files=files) as decoder:
            assert not decoder._children
    assert "PNG" in _known_formats()


def test_a_data_set_is_the_same_either_way(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = load_dataset(tiny_folder, cache_dir=tmp_path / "a")
    monkeypatch.setattr(_decoder, "_MANY", 1)
    processes = load_dataset(tiny_folder, cache_dir=tmp_path / "b")
    assert threads.fingerprint == processes.fingerprint
    assert np.array_equal(threads.images()[:], processes.images()[:])
    assert processes.source_names == threads.source_names
