from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.data import _manifest
from automl.data._listing import UNSET, class_order
from automl.data._npz import NpzReader
from automl.data._sources import list_source
from automl.errors import InputError

from ._pictures import class_folders, picture, save


def write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def images(root: Path, count: int) -> list[str]:
    return [str(save(root / "images" / f"{at}.png", picture(at)).relative_to(root)) for at in range(count)]


def test_class_folders(tmp_path: Path) -> None:
    listing = list_source(class_folders(tmp_path / "parts", {"ok": 3, "bad": 2}))
    assert listing.name == "parts"
    assert listing.class_names == ["bad", "ok"]
    assert listing.labels.tolist() == [0, 0, 1, 1, 1]
    assert (listing.split == UNSET).all()
    assert listing.names[0] == os.path.join("bad", "000.png")


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    class_folders(tmp_path, {"ok": 1, "bad": 1})
    save(tmp_path / "ok" / "monday" / "x.PNG", picture(9), format="PNG")
    assert np.bincount(list_source(tmp_path).labels).tolist() == [1, 2]


@pytest.mark.parametrize("validation", ["val", "validation", "valid", None])
def test_split_level(tmp_path: Path, validation: str | None) -> None:
    for at, part in enumerate(["train", validation, "Test"]):
        if part:
            class_folders(tmp_path / part, {"ok": 2, "bad": 2}, seed=10 * at)
    listing = list_source(tmp_path)
    assert listing.class_names == ["bad", "ok"]
    assert np.unique(listing.split).tolist() == ([0, 1, 2] if validation else [0, 2])
    ignored = list_source(tmp_path, {"split": ""})
    assert (ignored.split == UNSET).all()
    assert len(ignored.labels) == len(listing.labels)


def test_a_single_folder_around_the_classes(tmp_path: Path) -> None:
    class_folders(tmp_path / "set" / "images", {"ok": 1, "bad": 1})
    listing = list_source(tmp_path / "set")
    assert listing.class_names == ["bad", "ok"]
    assert listing.name == "set"


def test_other_files_are_ignored_and_counted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"ok": 1, "bad": 1})
    (tmp_path / "ok" / "notes.txt").write_text("x")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "ok" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    listing = list_source(tmp_path)
    assert len(listing.names) == 2
    assert listing.notes == ["2 files that are in no class folder or are no images were ignored"]


def test_empty_class_folder_is_known(tmp_path: Path) -> None:
    class_folders(tmp_path, {"ok": 1, "bad": 1})
    (tmp_path / "empty").mkdir()
    assert list_source(tmp_path).class_names == ["bad", "empty", "ok"]


def test_link_to_a_folder_above_does_not_loop(tmp_path: Path) -> None:
    class_folders(tmp_path, {"ok": 1, "bad": 1})
    (tmp_path / "ok" / "up").symlink_to(tmp_path)
    assert len(list_source(tmp_path).names) == 2


def test_numbers_are_sorted_by_value() -> None:
    assert class_order(["10", "9", "1"]) == ["1", "9", "10"]
    assert class_order(["b", "10", "a"]) == ["10", "a", "b"]


@pytest.mark.parametrize("path_column", ["path", "file", "filename", "Image"])
@pytest.mark.parametrize("label_column", ["label", "class", "Target"])
def test_column_synonyms(tmp_path: Path, path_column: str, label_column: str) -> None:
    files = images(tmp_path, 2)
    table = write_table(
        tmp_path / "t.csv", [{path_column: f, label_column: f"c{i}"} for i, f in enumerate(files)]
    )
    assert list_source(table).class_names == ["c0", "c1"]


def test_table_with_split_and_groups(tmp_path: Path) -> None:
    files = images(tmp_path, 4)
    parts = ["train", "val", "TEST", ""]
    rows = [
        {"file": f, "label": f"c{i % 2}", "split": parts[i], "group": f"g{i // 2}", "dupgroup": i}
        for i, f in enumerate(files)
    ]
    listing = list_source(write_table(tmp_path / "labels.csv", rows))
    assert listing.split.tolist() == [0, 1, 2, UNSET]
    assert [group.tolist() for group in listing.groups] == [[0, 0, 1, 1], [0, 1, 2, 3]]
    chosen = list_source(tmp_path / "labels.csv", {"split": "", "group": "group"})
    assert (chosen.split == UNSET).all()
    assert len(chosen.groups) == 1


def test_folder_with_labels_csv(tmp_path: Path) -> None:
    files = images(tmp_path / "set", 2)
    write_table(tmp_path / "set" / "labels.csv", [{"file": f, "label": i} for i, f in enumerate(files)])
    listing = list_source(tmp_path / "set")
    assert (listing.kind, listing.name, listing.class_names) == ("manifest", "set", ["0", "1"])


def test_parquet(tmp_path: Path) -> None:
    files = images(tmp_path, 3)
    frame = pd.DataFrame({"path": files, "label": [1.0, 2.0, None]})
    frame.to_parquet(tmp_path / "t.parquet")
    listing = list_source(tmp_path / "t.parquet")
    assert listing.class_names == ["1", "2"]
    assert listing.set_aside == [(files[2], "no label")]


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_separators_and_byte_order_mark(tmp_path: Path, separator: str) -> None:
    files = images(tmp_path, 2)
    text = (
        separator.join(["file", "label"])
        + "\n"
        + "\n".join(separator.join([f, n]) for f, n in zip(files, "ab", strict=True))
    )
    (tmp_path / "t.csv").write_text(text, encoding="utf-8-sig")
    assert list_source(tmp_path / "t.csv").class_names == ["a", "b"]


def test_blanks_beside_the_separators_are_no_part_of_what_is_said(tmp_path: Path) -> None:
    files = images(tmp_path, 4)
    save(tmp_path / " odd .png", picture(9))
    (tmp_path / " odd .png").rename(tmp_path / " odd ")
    lines = ["path, label, split, group", f" {files[0]} , ok , train, a", f"{files[1]},ok,test,a "]
    lines += [
        f"{files[2]} , bad, test , b",
        f"\t{files[3]},bad,train,b",
        " odd , ok, train, a",
        " , ok, train, a",
    ]
    lines += [f" {tmp_path / files[0]}, bad, train, b", " none.png , ok, train, b"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    listing = list_source(tmp_path / "t.csv")
    assert list(listing.names) == [*files, " odd ", str(tmp_path / files[0])]
    assert list(listing.paths) == [str(tmp_path / f) for f in [*files, " odd ", files[0]]]
    assert [listing.class_names[c] for c in listing.labels] == ["ok", "ok", "bad", "bad", "ok", "bad"]
    assert listing.split.tolist() == [0, 2, 2, 0, 0, 0]
    assert listing.groups[0].tolist() == [0, 0, 1, 1, 0, 1]
    assert listing.set_aside == [("t.csv line 7", "no path"), ("none.png", "file does not exist")]


def test_rows_that_cannot_be_used_are_set_aside(tmp_path: Path) -> None:
    files = images(tmp_path, 2)
    rows = [{"file": f, "label": f"c{i}"} for i, f in enumerate(files)]
    rows += [
        {"file": "none.png", "label": "c0"},
        {"file": "", "label": "c0"},
        {"file": files[0], "label": " "},
    ]
    listing = list_source(write_table(tmp_path / "t.csv", rows))
    assert [reason for _name, reason in listing.set_aside] == ["file does not exist", "no path", "no label"]


@pytest.mark.parametrize("escape", ["../secret.png", "images/../../secret.png", "/etc/hostname"])
def test_paths_stay_inside_the_folder(tmp_path: Path, escape: str) -> None:
    save(tmp_path / "secret.png", picture(0))
    files = images(tmp_path / "set", 2)
    rows = [{"file": f, "label": f"c{i}"} for i, f in enumerate([*files, escape])]
    table = write_table(tmp_path / "set" / "t.csv", rows)
    with pytest.raises(InputError, match="outside"):
        list_source(table)


def test_absolute_paths_inside_the_folder_are_fine(tmp_path: Path) -> None:
    files = images(tmp_path, 2)
    rows = [{"file": str(tmp_path / f), "label": f"c{i}"} for i, f in enumerate(files)]
    assert len(list_source(write_table(tmp_path / "t.csv", rows)).names) == 2


@pytest.mark.parametrize(("written", "opened"), [("link", "real"), ("real", "link"), ("link", "link")])
def test_a_folder_may_be_named_through_links(tmp_path: Path, written: str, opened: str) -> None:
    files = images(tmp_path / "real", 3)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "inner").symlink_to(tmp_path / "real" / "images")
    (tmp_path / "store").mkdir()
    (tmp_path / "real" / files[2]).rename(tmp_path / "store" / "key")  # as DVC and git-annex keep files
    (tmp_path / "real" / files[2]).symlink_to(tmp_path / "store" / "key")
    paths = [
        str(tmp_path / written / files[0]),
        str(tmp_path / "inner" / "1.png"),
        str(tmp_path / written / files[2]),
    ]
    write_table(tmp_path / "real" / "t.csv", [{"file": f, "label": f"c{i}"} for i, f in enumerate(paths)])
    listing = list_source(tmp_path / opened / "t.csv")
    assert list(listing.paths) == [str(tmp_path / opened / file) for file in files]


@pytest.mark.parametrize("escape", ["link/secret.png", "link/real/../secret.png", "link"])
def test_links_lead_nowhere_else(tmp_path: Path, escape: str) -> None:
    files = images(tmp_path / "real", 2)
    save(tmp_path / "secret.png", picture(0))
    (tmp_path / "link").symlink_to(tmp_path)
    rows = [{"file": f, "label": f"c{i}"} for i, f in enumerate([*files, str(tmp_path / escape)])]
    with pytest.raises(InputError, match="outside"):
        list_source(write_table(tmp_path / "real" / "t.csv", rows))


def test_table_in_a_side_folder_describes_the_folder_above(tmp_path: Path) -> None:
    files = images(tmp_path, 2)
    rows = [{"file": f"../{f}", "label": f"c{i}"} for i, f in enumerate(files)]
    assert len(list_source(write_table(tmp_path / "splits" / "t.csv", rows)).names) == 2


def arrays(count: int = 6, **more: object) -> dict[str, object]:
    pixels = np.stack([picture(at, 12) for at in range(count)])
    return {"images": pixels, "labels": np.arange(count) % 2, **more}


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_npz_of_pixels(tmp_path: Path, save_as: object) -> None:
    content = arrays(
        split=np.array([0, 0, 1, 1, 2, 2]), groups=np.array(list("aabbcc")), class_names=np.array(["z", "a"])
    )
    save_as(tmp_path / "set.npz", **content)  # type: ignore[operator]
    listing = list_source(tmp_path / "set.npz")
    assert listing.class_names == ["z", "a"]
    assert listing.split.tolist() == [0, 0, 1, 1, 2, 2]
    assert listing.groups[0].tolist() == [0, 0, 1, 1, 2, 2]
    read = NpzReader(tmp_path / "set.npz", "arrays", tmp_path / "scratch")
    assert (read[3] == content["images"][3]).all()  # type: ignore[index]


def test_npz_labels_as_text_and_as_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(labels=np.array(["x", "y"] * 3)))
    assert list_source(tmp_path / "a.npz").class_names == ["x", "y"]
    np.savez(tmp_path / "b.npz", **arrays(labels=np.array([7, 30] * 3)))
    assert list_source(tmp_path / "b.npz").class_names == ["7", "30"]


def test_npz_of_encoded_files(tmp_path: Path) -> None:
    blobs = [save(tmp_path / f"{at}.png", picture(at)).read_bytes() for at in range(4)]
    offsets = np.concatenate([[0], np.cumsum([len(b) for b in blobs])])
    np.savez(
        tmp_path / "e.npz",
        data=np.frombuffer(b"".join(blobs), np.uint8),
        offsets=offsets,
        labels=[0, 1, 0, 1],
    )
    listing = list_source(tmp_path / "e.npz")
    assert (listing.kind, len(listing.names)) == ("encoded", 4)
    read = NpzReader(tmp_path / "e.npz", "encoded", tmp_path / "scratch")
    assert read[2] == blobs[2]


def test_folder_with_one_npz(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "set" / "images.npz", **arrays())
    assert list_source(tmp_path / "set").name == "set"


def test_npz_that_holds_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", **arrays(labels=np.array([{}, {}, 1, 2, 3, 4], dtype=object)))
    with pytest.raises(InputError, match=r"o\.npz"):
        list_source(tmp_path / "o.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": np.zeros((4, 8, 8), np.float32), "labels": np.arange(4)}, "uint8"),
        ({"images": np.zeros((4, 8, 8, 2), np.uint8), "labels": np.arange(4)}, "uint8"),
        ({"images": np.zeros((4, 8, 8), np.uint8), "labels": np.arange(3)}, "one value per image"),
        ({"images": np.zeros((4, 8, 8), np.uint8)}, "no 'labels'"),
        ({"labels": np.arange(4)}, "neither 'images'"),
        (arrays(class_names=np.array(["only"])), "labels run from"),
        (arrays(class_names=np.array(["a", "a"])), "twice"),
        (arrays(split=np.array([0, 1, 2, 3, 0, 0])), "split '3'"),
        ({"data": np.zeros(9, np.uint8), "offsets": np.zeros((2, 2)), "labels": np.arange(1)}, "offsets"),
    ],
)
def test_npz_mistakes(tmp_path: Path, content: dict[str, object], message: str) -> None:
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(InputError, match=message) as caught:
        list_source(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)


def test_mistakes_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    class_folders(tmp_path / "one", {"ok": 3})
    (tmp_path / "x.json").write_text(json.dumps({}))
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00\x81")
    (tmp_path / "nothing.csv").write_text("")
    (tmp_path / "bad.npz").write_text("no zip")
    (tmp_path / "bad.parquet").write_text("no parquet")
    files = images(tmp_path, 2)
    write_table(tmp_path / "t.csv", [{"file": f, "kind": i} for i, f in enumerate(files)])
    write_table(tmp_path / "s.csv", [{"file": f, "label": i, "split": "trian"} for i, f in enumerate(files)])
    cases: list[tuple[str, dict[str, str] | None, str]] = [
        ("none", None, "does not exist"),
        ("empty", None, "no image"),
        ("one", None, "one class"),
        ("x.json", None, "known: a folder"),
        ("bad.csv", None, "UTF-8"),
        ("nothing.csv", None, "cannot be read"),
        ("bad.npz", None, "cannot be read as npz"),
        ("bad.parquet", None, "cannot be read"),
        ("t.csv", None, "no label column"),
        ("t.csv", {"label": "kinds"}, "did you mean 'kind'"),
        ("t.csv", {"lable": "kind"}, "did you mean 'label'"),
        ("s.csv", None, "did you mean 'train'"),
        ("one", {"label": "x"}, "has no column"),
    ]
    for name, columns, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            list_source(tmp_path / name, columns)
        assert "\n" not in str(caught.value)
    assert list_source(tmp_path / "t.csv", {"label": "kind"}).class_names == ["0", "1"]


def test_key_follows_the_content(tmp_path: Path) -> None:
    class_folders(tmp_path, {"ok": 2, "bad": 2})
    first = list_source(tmp_path)
    assert first.key(1) == list_source(tmp_path).key(1)
    assert first.key(1) != first.key(2)
    save(tmp_path / "ok" / "new.png", picture(77))
    assert first.key(1) != list_source(tmp_path).key(1)


@given(st.text(alphabet="ab._-/\\ ü~\n", max_size=12))
@settings(deadline=None)
def test_plain_paths_are_what_the_long_way_gives(file: str) -> None:
    base = "/data/set"
    plain = bool(_manifest._PLAIN.fullmatch(file))
    full = os.path.normpath(os.path.join(base, file.replace("\\", "/")))
    if plain:
        assert full == f"{base}/{file}" == _manifest._inside(file, base, base, Path("t.csv"))
    elif full == base or full.startswith(base + "/"):
        assert _manifest._inside(file, base, base, Path("t.csv")) == full
    else:
        with pytest.raises(InputError, match="outside"):
            _manifest._inside(file, base, base, Path("t.csv"))


@pytest.mark.parametrize(
    "file", ["a/../../x.png", "../x.png", "/etc/x.png", "..", "a/..", "./x.png", "a//x.png", ".x"]
)
def test_paths_that_are_not_plain(file: str) -> None:
    assert not _manifest._PLAIN.fullmatch(file)
