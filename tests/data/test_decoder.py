"""Decoding in child processes gives what decoding here gives."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from automl.data import _build, _decoder, load_dataset
from automl.data._decode import _known_formats
from automl.data._decoder import Decoded, Decoder, decode_one

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


def decoded_here(items: list[str | bytes]) -> tuple[list[Decoded], bytes]:
    """What is known of the items, and the file of their squares."""
    found = [decode_one(item, 16, None) for item in items]
    return [one for one, _ in found], b"".join(pixels for _, pixels in found)


def test_children_decode_alike(items: list[str | bytes], tmp_path: Path, few_are_many: None) -> None:
    here, squares = decoded_here(items)
    assert [one.reason for one in here[6:]] == [
        "not an image that can be read", "empty file", "empty file", "file does not exist"
    ]  # fmt: skip
    with Decoder(99, 2, files=True) as decoder:
        decoder.begin(16, tmp_path / "squares")
        assert len(decoder._children) == 2
        for place in (0, 6, 12):
            assert decoder.chunk(items, place) == here
        children = list(decoder._children)
    assert all(child.returncode is not None for child in children)
    length = 6 * 16 * 16 * 3  # after each place four items come that are no images
    assert all((tmp_path / "squares").read_bytes()[at * length :][:length] == squares for at in range(3))


def test_a_dead_child_costs_no_image(items: list[str | bytes], tmp_path: Path, few_are_many: None) -> None:
    here, squares = decoded_here(items)
    with Decoder(99, 2, files=True) as decoder:
        os.kill(decoder._children[0].pid, signal.SIGKILL)
        decoder.begin(16, tmp_path / "squares")
        assert decoder.chunk(items, 0) == here
        for child in decoder._children:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        for place in (6, 12):
            assert decoder.chunk(items, place) == here
    length = 6 * 16 * 16 * 3  # after each place four items come that are no images
    assert all((tmp_path / "squares").read_bytes()[at * length :][:length] == squares for at in range(3))


def test_squares_that_cannot_be_written_are_an_error(items: list[str | bytes], few_are_many: None) -> None:
    with Decoder(99, 2, files=True) as decoder:
        decoder.begin(16, Path("/dev/full"))
        with pytest.raises(OSError, match="No space"):
            decoder.chunk(items, 0)


def test_no_thread_is_left_when_the_file_is_closed(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that still wrote then would write into whatever file got the number next."""
    left: list[list[str]] = []
    close = Decoder.close

    def watched(decoder: Decoder) -> None:
        left.append([thread.name for thread in threading.enumerate() if thread.name.startswith("decode")])
        close(decoder)

    def interrupted(done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(Decoder, "close", watched)
    monkeypatch.setattr(_build, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(_build, "cores", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(tiny_folder, cache_dir=tmp_path, progress=interrupted)
    assert left == [[]]


def test_large_images_are_left_to_this_process(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (5100, 5100), 9).save(path)
    with open(tmp_path / "squares", "wb") as file:
        body = _decoder.pack([str(path), b""], 0, None, 8, file.fileno())[4:]
    large, empty = _decoder.unpack(body, 2)
    assert large is None
    assert empty is not None
    assert empty.reason == "empty file"
    with pytest.raises(EOFError):
        _decoder.unpack(body, 3)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_gaps_are_closed(kept: list[bool]) -> None:
    places = np.flatnonzero(kept)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records"
        path.write_bytes(b"".join(bytes([at]) * 3 for at in range(len(kept))))
        moved = _build._close_gaps(places, {path: 3})
        assert sorted(moved.tolist()) == list(range(len(places)))
        records = np.fromfile(path, np.uint8).reshape(-1, 3)
    assert len(records) == len(places)
    assert (records[moved] == places[:, None]).all()
    assert (moved == places)[places < len(places)].all(), "nothing is moved without need"


def test_few_images_and_pixels_start_no_process(tmp_path: Path) -> None:
    for count, files in ((10, True), (10**6, False)):
        with Decoder(count, 2, files=files) as decoder:
            decoder.begin(16, tmp_path / "squares")
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
