"""Data that cannot be used or is odd: the exit code, one clear line, and nothing lost or left half-done."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from automl.run import Run

from ._command import Done, automl, contents, refused
from .data._pictures import class_folders, picture, save

MAKES = Callable[[Path], object]


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray, which a submit starts in the background before it reads the data; nothing is measured or tried."""

    def started(*_args: object, **_options: object) -> None:
        raise AssertionError("a submit that cannot go on has gone on")

    monkeypatch.setattr("automl.search.prestart", lambda *_args, **_options: None)
    monkeypatch.setattr("automl.search.shutdown", lambda: None)
    monkeypatch.setattr("automl.feasibility.measure", started)
    monkeypatch.setattr(Run, "search", started)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Two classes of six pictures."""
    return class_folders(tmp_path / "parts", {"bad": 6, "ok": 6})


def submit(data: object, run: Path, *more: object) -> Done:
    return automl("submit", data, "--out", run, "--budget", "1m", *more)


# --- data that cannot be used ---------------------------------------------------------------------------


def nothing(_root: Path) -> None:
    pass


def empty(root: Path) -> None:
    root.mkdir()


def empty_classes(root: Path) -> None:
    for name in ("bad", "ok"):
        (root / name).mkdir(parents=True)


def one_class(root: Path) -> None:
    class_folders(root, {"ok": 6})


def one_image_per_class(root: Path) -> None:
    class_folders(root, {"bad": 1, "ok": 1})


def none_readable(root: Path) -> None:
    for name in ("bad/1.png", "bad/2.jpg", "ok/3.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image" * 9)


def one_class_readable(root: Path) -> None:
    class_folders(root, {"ok": 6})
    (root / "bad").mkdir()
    (root / "bad" / "1.png").write_bytes(b"")


def only_loose_images(root: Path) -> None:
    for number in range(4):
        save(root / f"{number}.png", picture(number))


def unknown_ending(root: Path) -> None:
    root.write_text("{}")


def split_without_test_classes(root: Path) -> None:
    class_folders(root / "train", {"ok": 4})
    class_folders(root / "test", {"bad": 4, "ok": 4}, seed=9)


BAD_DATA: list[tuple[str, MAKES, list[str]]] = [
    ("parts", nothing, ["does not exist", "folder of images"]),
    ("parts", empty, ["holds no image", "expected CLASS/IMAGE.png"]),
    ("parts", empty_classes, ["holds no image"]),
    ("parts", only_loose_images, ["holds no image", "CLASS/IMAGE.png"]),
    ("parts", one_class, ["one class only ('ok')", "two or more"]),
    ("parts", one_image_per_class, ["too few images", "2 images", "3 or more"]),
    ("parts", none_readable, ["none of the 3 images", "can be read", "1.png: not an image"]),
    ("parts", one_class_readable, ["readable images of one class only ('ok')"]),
    ("parts", split_without_test_classes, ["training images are all of one class", "--column split="]),
    ("parts.json", unknown_ending, ["'.json'", "known: a folder, .csv"]),
]


@pytest.mark.parametrize(
    ("name", "make", "words"), BAD_DATA, ids=[make.__name__ for _n, make, _w in BAD_DATA]
)
def test_data_that_cannot_be_used(name: str, make: MAKES, words: list[str], tmp_path: Path) -> None:
    make(tmp_path / name)
    before = contents(tmp_path / name)
    refused(submit(tmp_path / name, tmp_path / "run"), *words)
    refused(automl("check", tmp_path / name), *words)
    assert contents(tmp_path / name) == before
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("make", [empty, one_class, none_readable])
def test_after_bad_data_the_same_command_works(make: MAKES, tmp_path: Path) -> None:
    make(tmp_path / "parts")
    refused(submit(tmp_path / "parts", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_was_decoded_of_unusable_data_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOML_HOME", str(tmp_path / "home"))
    none_readable(tmp_path / "parts")
    refused(automl("check", tmp_path / "parts"))
    assert [p.name for p in (tmp_path / "home" / "datasets").iterdir()] == [".locks"]


# --- data that is odd, and used -----------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG file of few bytes whose header says 100,000 × 100,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    size = (100_000).to_bytes(4, "big")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + size + b"\x08\x02\0\0\0")
        + chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
        + chunk(b"IEND", b"")
    )


def truncated() -> bytes:
    stream = io.BytesIO()
    from PIL import Image

    Image.fromarray(picture(99, 64)).save(stream, "JPEG", quality=95)
    return stream.getvalue()[: len(stream.getvalue()) // 2]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.jpg", truncated(), "damaged"),
        ("zero.png", b"", "empty file"),
        ("bomb.png", bomb(), "megapixels"),
        ("text.jpg", b"dear reader, this is no image", "not an image"),
        ("script.png", pickle.dumps(print), "not an image"),
    ],
)
def test_an_image_that_cannot_be_read_is_set_aside_and_counted(
    name: str, content: bytes, reason: str, parts: Path
) -> None:
    (parts / "ok" / name).write_bytes(content)
    done = automl("check", parts, "--json")
    assert (done.code, done.err) == (0, "")
    assert "warning: 1 images could not be used and were set aside" in done.out.splitlines()
    found = done.last_json
    assert found["images"] == 12
    assert [item["name"] for item in found["unreadable"]] == [os.path.join("ok", name)]
    assert reason in found["unreadable"][0]["reason"]
    assert (parts / "ok" / name).read_bytes() == content


def test_a_link_that_leads_nowhere_is_set_aside(parts: Path) -> None:
    (parts / "ok" / "gone.png").symlink_to(parts / "none.png")
    found = automl("check", parts, "--json").last_json
    assert (found["images"], len(found["unreadable"])) == (12, 1)
    assert "does not exist" in found["unreadable"][0]["reason"]


def test_an_empty_class_folder_is_named_and_left_out(parts: Path) -> None:
    (parts / "rare").mkdir()
    done = automl("check", parts, "--json")
    assert done.code == 0
    assert done.last_json["class_names"] == ["bad", "ok"]
    assert any("no usable image" in note and "'rare'" in note for note in done.last_json["notes"])


def test_the_same_image_under_two_labels_is_a_warning(parts: Path) -> None:
    shutil.copy(parts / "ok" / "000.png", parts / "bad" / "copy.png")
    done = automl("check", parts, "--json")
    assert done.code == 0
    assert [set(conflict["classes"]) for conflict in done.last_json["conflicts"]] == [{"bad", "ok"}]
    assert "warning: 1 images occur under more than one label" in done.out


def test_a_class_with_one_image_is_a_warning(parts: Path) -> None:
    class_folders(parts, {"rare": 1}, seed=50)
    found = automl("check", parts, "--json").last_json
    assert found["too_small"] == ["rare"]
    assert any("fewer than 3" in line and "'rare'" in line for line in found["warnings"])


# --- tables -----------------------------------------------------------------------------------------------

ROWS = [f"{label}/{number:03d}.png,{label}" for label in ("bad", "ok") for number in range(6)]


def table(root: Path, *lines: str, encoding: str = "utf-8", name: str = "t.csv") -> Path:
    (root / name).write_bytes("\n".join(lines).encode(encoding))
    return root / name


@pytest.mark.parametrize(
    ("lines", "encoding", "words"),
    [
        ([], "utf-8", ["cannot be read as a table"]),
        (["path,label"], "utf-8", ["holds no image"]),
        (["path,kind", *ROWS], "utf-8", ["no label column", "--column label=NAME", "known: path, kind"]),
        (["picture,label", *ROWS], "utf-8", ["no path column", "--column path=NAME"]),
        (ROWS, "utf-8", ["no path column"]),
        (["path,label", *ROWS, "ok/größe.png,ok"], "latin-1", ["not UTF-8", "save the table as UTF-8"]),
        (["path,label", *ROWS], "utf-16", ["not UTF-8"]),
        (["path,label", *ROWS, "../secret.png,ok"], "utf-8", ["'../secret.png'", "outside"]),
        (["path,label", *ROWS, "ok/../../secret.png,ok"], "utf-8", ["outside"]),
        (["path,label", *ROWS, "/etc/passwd,ok"], "utf-8", ["'/etc/passwd'", "outside"]),
        (["path,label", *ROWS, "..\\secret.png,ok"], "utf-8", ["outside"]),
        (["path,label", "x.png,ok", "y.png,bad"], "utf-8", ["holds no image", "2 were set aside", "x.png"]),
        (["path,label", *(row.replace(",bad", ",") for row in ROWS)], "utf-8", ["one class only ('ok')"]),
        (["path,label,split", *(f"{row},trian" for row in ROWS)], "utf-8", ["'trian'", "did you mean 'train'?"]),
        (["path,label", *(f"{row},more" for row in ROWS)], "utf-8", ["more fields than its first line"]),
        (["path,label", '"bad/000.png,bad'], "utf-8", ["cannot be read as a table"]),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(lines: list[str], encoding: str, words: list[str], parts: Path) -> None:
    path = table(parts, *lines, encoding=encoding)
    save(parts.parent / "secret.png", picture(1))
    refused(automl("check", path), "t.csv", *words)


def test_rows_that_cannot_be_used_are_set_aside(parts: Path) -> None:
    path = table(parts, "path,label", *ROWS, "gone.png,ok", ",ok", "ok/000.png,", "ok,bad")
    done = automl("check", path, "--json")
    assert done.code == 0
    assert done.last_json["images"] == 12
    reasons = {item["name"]: item["reason"] for item in done.last_json["unreadable"]}
    assert reasons["gone.png"] == "file does not exist"
    assert reasons["t.csv line 15"] == "no path"
    assert reasons["ok/000.png"] == "no label"
    assert "damaged" in reasons["ok"]


def test_rows_that_end_with_a_separator_are_read(parts: Path) -> None:
    assert automl("check", table(parts, "path,label", *(f"{row}," for row in ROWS))).code == 0


def test_a_column_by_its_name(parts: Path) -> None:
    path = table(parts, "where,kind", *ROWS)
    refused(automl("check", path, "--column", "path=wher", "--column", "label=kind"), "did you mean 'where'?")
    assert automl("check", path, "--column", "path=where", "--column", "label=kind").code == 0


def test_a_given_split_is_ignored_as_the_error_says(parts: Path) -> None:
    path = table(parts, "path,label,split", *(f"{row},test" for row in ROWS))
    refused(automl("check", path), "leaves no image for train", "--column split=")
    assert automl("check", path, "--column", "split=").code == 0


def test_a_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    refused(automl("check", tmp_path / "t.parquet"), "t.parquet", "cannot be read as a table")


# --- npz ----------------------------------------------------------------------------------------------------


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.path, "unpickled"))


PIXELS, LABELS = np.stack([picture(n, 8) for n in range(12)]), np.arange(12) % 2


@pytest.mark.parametrize("name", ["images", "labels", "class_names", "extra"])
def test_an_npz_with_pickled_objects_is_never_unpickled(name: str, tmp_path: Path) -> None:
    trap = np.empty(12, object)
    trap[:] = [Trap(tmp_path / "sprung")] * 12
    np.savez(tmp_path / "t.npz", **{"images": PIXELS, "labels": LABELS, name: trap})  # type: ignore[arg-type]
    refused(automl("check", tmp_path / "t.npz"), "t.npz")
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_that_is_called_npz(tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_bytes(pickle.dumps({"images": Trap(tmp_path / "sprung")}))
    done = automl("check", tmp_path / "t.npz")
    refused(done, "t.npz", "cannot be read as npz")
    assert "allow_pickle" not in done.err
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": PIXELS.astype(np.float32), "labels": LABELS}, ["'images' must be uint8", "float32"]),
        ({"images": PIXELS[..., :2], "labels": LABELS}, ["1|3|4", "(12, 8, 8, 2)"]),
        ({"images": PIXELS.reshape(12, -1), "labels": LABELS}, ["'images' must be uint8 [N, H, W]"]),
        ({"images": PIXELS[:, :0], "labels": LABELS}, ["'images' must be"]),
        ({"images": np.uint8(7), "labels": np.int64(1)}, ["'images' must be"]),
        ({"images": PIXELS, "labels": LABELS[:7]}, ["one value per image (12)", "(7,)"]),
        ({"images": PIXELS, "labels": LABELS[:, None]}, ["one value per image"]),
        ({"images": PIXELS, "labels": LABELS / 2}, ["'labels' must be whole numbers or text"]),
        ({"images": PIXELS, "labels": LABELS * 0}, ["one class only"]),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, ["holds no image"]),
        ({"images": PIXELS}, ["has no 'labels'", "known: images"]),
        ({"pictures": PIXELS, "labels": LABELS}, ["neither 'images' nor 'data'", "known:"]),
        ({"images": PIXELS, "labels": LABELS, "class_names": np.array(["a"])}, ["0 to 1", "1 names"]),
        ({"images": PIXELS, "labels": LABELS - 1, "class_names": np.array(["a", "b"])}, ["-1 to 0"]),
        ({"data": np.zeros(20, np.uint8), "offsets": np.array([0, 9, 4, 20]), "labels": LABELS[:3]},
         ["'offsets' must rise"]),
        ({"data": np.zeros(20, np.uint8), "offsets": np.array([0, 99, 100]), "labels": LABELS[:2]},
         ["'offsets' must rise"]),
        ({"data": np.zeros(20, np.int64), "offsets": np.array([0, 9, 20]), "labels": LABELS[:2]},
         ["'data' must be uint8"]),
    ],
)  # fmt: skip
def test_npz_files_of_wrong_shapes(arrays: dict[str, np.ndarray], words: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", **arrays)  # type: ignore[arg-type]
    refused(automl("check", tmp_path / "t.npz"), "t.npz", *words)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_an_npz_that_was_cut_off(share: float, compressed: bool, tmp_path: Path) -> None:
    save_as = np.savez_compressed if compressed else np.savez
    save_as(tmp_path / "t.npz", images=PIXELS, labels=LABELS)
    whole = (tmp_path / "t.npz").read_bytes()
    (tmp_path / "t.npz").write_bytes(whole[: int(share * len(whole))])
    refused(automl("check", tmp_path / "t.npz"), "t.npz", "cannot be read as npz", "damaged")
