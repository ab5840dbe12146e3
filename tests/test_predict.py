from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automl.errors import InputError
from automl.predict import Predictor, predict_files
from tests._command import automl
from tests.report.run_folders import (
    CLASSES,
    SIDE,
    STORED,
    make_run,
    save_pictures,
    write_colour_model,
    write_json,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "run"
    make_run(folder, per_class=10, trials=2)
    return folder


def by_hand(run: Path, path: Path) -> np.ndarray:
    """Probabilities with Pillow and onnxruntime alone, of an opaque picture."""
    import onnxruntime as ort

    image = Image.open(path).convert("RGB")
    for side in (STORED, SIDE):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    session = ort.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], {"images": np.asarray(image)[None]})[0][0])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_files_get_the_models_answer(run: Path, tmp_path: Path, threads: int, batch: int) -> None:
    paths = [p for p in save_pictures(tmp_path / "new", 12) if "RGBA" not in p.name]
    frame = predict_files(run, paths, threads=threads, batch=batch)
    columns = [f"probability[{name}]" for name in CLASSES]
    assert list(frame.columns) == ["file", "label", "probability", *columns, "error"]
    assert frame["file"].tolist() == [str(p) for p in paths]
    expected = np.stack([by_hand(run, p) for p in paths])
    np.testing.assert_allclose(frame[columns].to_numpy(), expected, atol=1e-6)
    assert frame["label"].tolist() == [CLASSES[k] for k in expected.argmax(1)]
    np.testing.assert_allclose(frame["probability"], expected.max(1), atol=1e-6)
    assert frame["error"].isna().all()


def test_pictures_are_resized_as_the_stored_ones_were(tmp_path: Path, tiny_folder: Path) -> None:
    from automl.data import load_dataset
    from automl.export import run_onnx

    dataset = load_dataset(tiny_folder, cache_dir=tmp_path / "cache")
    run = tmp_path / "run"
    make_run(run, per_class=5, trials=1, members=1)
    write_json(
        run / "labels.json",
        {"schema_version": 1, "classes": dataset.class_names, "resize": dataset.resize_chain(SIDE)},
    )
    probabilities, label = run_onnx(run / "model.onnx", dataset.images(SIDE), np.arange(len(dataset)))
    frame = predict_files(run, list(dataset.source_paths))
    np.testing.assert_array_equal(frame.filter(like="probability[").to_numpy(), probabilities)
    assert frame["label"].tolist() == [dataset.class_names[k] for k in label]


def test_deep_greys_are_read_with_the_range_of_the_data(tmp_path: Path) -> None:
    from automl.data import decode_image, load_dataset, squash

    from .data.test_depth import twelve_bits

    dataset = load_dataset(twelve_bits(tmp_path / "data"), cache_dir=tmp_path / "cache")
    run = tmp_path / "run"
    make_run(run, per_class=5, trials=1, members=1)
    labels = {"schema_version": 1, "classes": list(CLASSES), "resize": dataset.resize_chain(SIDE)}
    write_json(run / "labels.json", {**labels, "ranges": dataset.ranges})
    known = Predictor(run)
    write_json(run / "labels.json", labels)  # of an earlier version: 16 bits are divided by 257
    old = Predictor(run)
    for at, path in enumerate(dataset.source_paths):
        np.testing.assert_array_equal(known._read((0, path))[0], dataset.images(SIDE)[at])
        before = np.asarray(squash(decode_image(path), labels["resize"]))
        np.testing.assert_array_equal(old._read((0, path))[0], before)
        assert "colour" in path or before.max() < 20 < dataset.images(SIDE)[at].max()


def test_unreadable_files_are_told_beside_the_others(run: Path, tmp_path: Path) -> None:
    good = save_pictures(tmp_path, 2)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(good[0].read_bytes()[:60])
    wanted = [
        good[0],
        tmp_path / "empty.png",
        tmp_path / "gone.png",
        tmp_path / "text.png",
        tmp_path / "half.png",
        good[1],
    ]
    frame = predict_files(run, wanted, batch=3)
    assert frame["error"].isna().tolist() == [True, False, False, False, False, True]
    assert frame["error"].tolist()[1:4] == [
        "empty file",
        "file does not exist",
        "not an image that can be read",
    ]
    assert frame["label"].isna().tolist() == [False, True, True, True, True, False]
    assert frame["probability"].isna().tolist() == [False, True, True, True, True, False]
    assert np.isfinite(frame.loc[[0, 5], frame.columns[2:-1]].to_numpy(dtype=float)).all()


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, per_class=5, trials=1, members=1)
    classes = [f"{name}\udcfc" for name in CLASSES]  # folders may have such names too
    write_json(run / "labels.json", {"schema_version": 1, "classes": classes, "resize": [STORED, SIDE]})
    good = save_pictures(tmp_path, 1)[0]
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfc.png"))
    try:
        good.rename(odd)
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    frame = predict_files(run, [odd, f"{odd}.gone"])
    assert frame["file"].tolist() == [str(odd), f"{odd}.gone"]
    assert frame["label"][0] in classes and frame["error"].isna().tolist() == [True, False]
    table, rows = automl("predict", run, odd), automl("predict", run, odd, f"{odd}.gone", "--json")
    assert table.code == rows.code == 0
    assert "\\udcfc.png," in table.out and "*star*\\udcfc]" in table.out
    first, second = rows.last_json
    assert (first["file"], first["label"], first["error"]) == (str(odd), frame["label"][0], None)
    assert (second["label"], second["probability"]) == (None, None)


def test_nothing_readable_is_a_table_too(run: Path, tmp_path: Path) -> None:
    frame = predict_files(run, [tmp_path / "gone.png"])
    assert frame["error"].tolist() == ["file does not exist"]
    assert frame["label"].isna().all()


def test_the_label_follows_the_operating_point_and_so_does_its_probability(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, per_class=5, trials=1, members=1)
    write_colour_model(run / "model.onnx", bias=[50.0, 0.0, 0.0])
    frame = predict_files(run, save_pictures(tmp_path / "new", 3))
    assert set(frame["label"]) == {CLASSES[0]}
    np.testing.assert_array_equal(frame["probability"], frame[f"probability[{CLASSES[0]}]"].astype(float))


def test_folders_and_patterns_expand_in_order(run: Path, tmp_path: Path) -> None:
    first, second = save_pictures(tmp_path / "a" / "deep", 3), save_pictures(tmp_path / "b", 2)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / ".hidden.png").write_bytes(first[0].read_bytes())
    odd = tmp_path / "odd[1].png"
    odd.write_bytes(second[0].read_bytes())
    frame = predict_files(run, [tmp_path / "b" / "*.jpg", tmp_path / "a", odd, second[0]])
    wanted = [*sorted((tmp_path / "b").glob("*.jpg")), *sorted(first), odd, second[0]]
    assert frame["file"].tolist() == [str(p) for p in wanted]
    assert frame["error"].isna().all()
    assert predict_files(run, str(tmp_path / "**" / "*.png"))["error"].isna().all()
    with pytest.raises(InputError, match="holds no image"):
        (tmp_path / "void").mkdir()
        predict_files(run, [tmp_path / "void"])
    with pytest.raises(InputError, match="nothing matches"):
        predict_files(run, [tmp_path / "*.webp"])
    with pytest.raises(InputError, match="no images were given"):
        predict_files(run, [])


def test_arrays_are_images_too(run: Path, tmp_path: Path) -> None:
    path = save_pictures(tmp_path, 1)[0]
    array = np.asarray(Image.open(path))
    frame = Predictor(run).predict([array, np.zeros((5, 7), np.uint8), np.zeros((0, 7, 3), np.uint8)])
    assert frame["file"].tolist() == ["image[0]", "image[1]", "image[2]"]
    assert frame["error"].tolist()[2] == "no pixels"
    assert frame["probability"][0] == predict_files(run, [path])["probability"][0]
    for wrong in (np.zeros((5, 7, 3)), np.zeros((5, 7, 2), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(InputError, match="an array is uint8"):
            Predictor(run).predict([wrong])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.json", None, "has no labels.json"),
        ("labels.json", b"{", "cannot be used"),
        ("labels.json", b'{"schema_version": 2}', "schema_version 2"),
        ("labels.json", b'{"schema_version": 1, "classes": [], "resize": [8]}', "classes"),
        ("labels.json", b'{"schema_version": 1, "classes": ["a", "b", "c"], "resize": [true]}', "resize"),
        (
            "labels.json",
            b'{"schema_version": 1, "classes": ["a", "b", "c"], "resize": [8], "ranges": {"uint16": [9, 0]}}',
            "ranges of 'uint16'",
        ),
        ("labels.json", b'{"schema_version": 1, "classes": ["a", "b"], "resize": [8]}', "same run"),
        ("labels.json", b'{"schema_version": 1, "classes": ["a", "b", "c"], "resize": [8, 9]}', "same run"),
        ("model.onnx", None, r"has no model\.onnx"),
        ("model.onnx", b"nonsense", "cannot be used"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    run = tmp_path / "run"
    make_run(run, per_class=5, trials=1, members=1)
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        predict_files(run, [tmp_path / "x.png"])
    assert "\n" not in str(caught.value)


def test_wrong_numbers_are_refused(run: Path, tmp_path: Path) -> None:
    path = save_pictures(tmp_path, 1)
    with pytest.raises(InputError, match="threads is 0"):
        predict_files(run, path, threads=0)
    with pytest.raises(InputError, match="batch is 0"):
        predict_files(run, path, batch=0)


def test_neither_torch_nor_ray_is_needed(run: Path, tmp_path: Path) -> None:
    path = save_pictures(tmp_path, 1)[0]
    code = (
        "import sys, automl.predict\n"
        "assert not {'pandas', 'torch', 'ray', 'scipy'} & set(sys.modules), 'at import'\n"
        f"automl.predict.predict_files({str(run)!r}, [{str(path)!r}])\n"
        "assert not {'torch', 'ray', 'timm'} & set(sys.modules), 'while predicting'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
