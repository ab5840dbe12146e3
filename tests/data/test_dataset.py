from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from automl.data import Dataset, decode_image, load_dataset, squash
from automl.data import _dataset as dataset_module
from automl.errors import InputError

from ._pictures import class_folders, picture, save


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "parts", {"ok": 12, "bad": 8}, side=40)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_opens_with_everything(source: Path, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    data = load_dataset(source, cache_dir=cache, progress=lambda done, total: seen.append((done, total)))
    assert (data.name, len(data), data.size, data.class_names) == ("parts", 20, 40, ["bad", "ok"])
    assert data.labels.dtype == np.int64
    assert data.split.dtype == np.uint8
    assert data.groups.dtype == np.int64
    assert seen[-1] == (20, 20)
    assert sorted(np.concatenate([data.indices(p) for p in ("development", "test")])) == list(range(20))
    assert (
        sorted(np.concatenate([data.indices(p) for p in ("train", "validation")]))
        == data.indices("development").tolist()
    )
    assert not data.test_override
    assert len(data.folds) == 4
    assert data.report.images == 20
    json.dumps(data.report.to_dict())
    assert all(isinstance(line, str) and "\n" not in line for line in data.report.lines())
    with pytest.raises(ValueError, match="did you mean 'test'"):
        data.indices("tset")


def test_pictures_are_those_of_the_files(source: Path, cache: Path) -> None:
    data = load_dataset(source, cache_dir=cache)
    for side in (40, 16, 64):
        level = data.images(side)
        assert level.shape == (20, side, side, 3)
        for at in (0, 13):
            original = decode_image(data.source_paths[at])
            assert (level[at] == np.asarray(squash(original, data.resize_chain(side)))).all()


def test_index_order_masks_and_copies(source: Path, cache: Path) -> None:
    level = load_dataset(source, cache_dir=cache).images()
    assert (level[[5, 2, 5]][1] == level[2]).all()
    assert (level[np.array([5, 2])] == np.stack([level[5], level[2]])).all()
    assert level[np.arange(20) < 3].shape[0] == 3
    assert level[3:6].shape[0] == 3
    assert level[np.array([])].shape == (0, 40, 40, 3)
    assert level[[]].shape == (0, 40, 40, 3)
    taken = level[[0]]
    taken[:] = 0
    assert level[[0]].any()
    with pytest.raises(IndexError):
        level[[20]]


def test_second_opening_decodes_nothing(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset(source, cache_dir=cache)
    monkeypatch.setattr(dataset_module, "build", None)
    again = load_dataset(source, cache_dir=cache)
    assert again.folder == first.folder
    reopened = Dataset.open(first.folder)
    assert (reopened.split == first.split).all()
    assert reopened.source_names == first.source_names
    restored = pickle.loads(pickle.dumps(reopened))
    assert restored.folder == first.folder


def test_changed_source_is_decoded_again(source: Path, cache: Path) -> None:
    first = load_dataset(source, cache_dir=cache)
    save(source / "ok" / "000.png", picture(999, 40))
    second = load_dataset(source, cache_dir=cache)
    assert first.folder != second.folder
    assert first.fingerprint != second.fingerprint


def test_seeds_share_the_pictures(source: Path, cache: Path) -> None:
    first, second = (load_dataset(source, cache_dir=cache, seed=seed) for seed in (0, 1))
    assert first.folder != second.folder
    assert first.folder.parent == second.folder.parent
    assert (first.split != second.split).any()
    assert (load_dataset(source, cache_dir=cache.with_name("other"), seed=1).split == second.split).all()


def test_fingerprint_does_not_depend_on_the_place(source: Path, cache: Path, tmp_path: Path) -> None:
    other = class_folders(tmp_path / "elsewhere" / "x", {"ok": 12, "bad": 8}, side=40)
    assert (
        load_dataset(source, cache_dir=cache).fingerprint == load_dataset(other, cache_dir=cache).fingerprint
    )


def test_digests_tell_what_changed_beside_the_pictures(source: Path, cache: Path) -> None:
    files = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    table = pd.DataFrame({"path": files, "label": [file.split("/")[0] for file in files]})
    table["split"] = ["test" if at % 3 else "" for at in range(len(table))]

    def read(frame: pd.DataFrame, columns: dict[str, str] | None = None) -> Dataset:
        frame.to_csv(source / "labels.csv", index=False)
        return load_dataset(source / "labels.csv", cache_dir=cache, columns=columns)

    first = read(table)
    assert first.digests == Dataset.open(first.folder).digests
    for other, changed in (
        (read(table, {"split": ""}), {"split", "folds"}),
        (read(table.assign(group=[at // 2 for at in range(len(table))])), {"groups"}),
        (read(table.iloc[[1, 0, *range(2, len(table))]]), {"order", "split"}),
    ):
        assert other.fingerprint == first.fingerprint
        assert changed <= {name for name, digest in other.digests.items() if first.digests[name] != digest}
        assert other.digests["labels"] == first.digests["labels"]


def test_pictures_of_one_class_that_change_places_change_the_order(tmp_path: Path, cache: Path) -> None:
    images = np.stack([picture(seed) for seed in range(12)])
    read = []
    for name, order in (("a", np.arange(12)), ("b", np.array([1, 0, *range(2, 12)]))):
        np.savez(tmp_path / f"{name}.npz", images=images[order], labels=np.arange(12) // 6)
        read.append(load_dataset(tmp_path / f"{name}.npz", cache_dir=cache))
    assert read[0].fingerprint == read[1].fingerprint
    assert {n for n, digest in read[0].digests.items() if read[1].digests[n] != digest} == {"order"}


def test_bad_files_are_set_aside(source: Path, cache: Path) -> None:
    (source / "ok" / "empty.png").write_bytes(b"")
    (source / "ok" / "text.jpg").write_text("no image")
    (source / "bad" / "half.png").write_bytes((source / "bad" / "000.png").read_bytes()[:300])
    (source / "none").mkdir()
    (source / "broken").mkdir()
    (source / "broken" / "a.png").write_text("x")
    data = load_dataset(source, cache_dir=cache)
    assert len(data) == 20
    assert data.class_names == ["bad", "ok"]
    reasons = {Path(item["name"]).name: item["reason"] for item in data.report.unreadable}
    assert reasons["empty.png"] == "empty file"
    assert "not an image" in reasons["text.jpg"]
    assert reasons["half.png"].startswith("damaged")
    text = "\n".join(data.report.lines())
    assert "2 classes have no usable image and were left out: 'broken', 'none'" in text
    assert "4 images could not be used" in text


def test_nothing_readable(tmp_path: Path, cache: Path) -> None:
    for name in "ab":
        (tmp_path / "s" / name).mkdir(parents=True)
        (tmp_path / "s" / name / "x.png").write_text("x")
    with pytest.raises(InputError, match="none of the 2 images"):
        load_dataset(tmp_path / "s", cache_dir=cache)
    assert not [p for p in (cache / "datasets").iterdir() if p.name != ".locks"]


def test_one_image_per_class(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="too few images"):
        load_dataset(class_folders(tmp_path / "s", {"a": 1, "b": 1, "c": 1}), cache_dir=cache)


def test_copies_are_stored_once_and_stay_together(source: Path, cache: Path) -> None:
    for at in range(8):
        save(source / "ok" / f"copy{at}.png", picture(at, 40))
    save(source / "bad" / "copy.png", picture(3, 40))
    data = load_dataset(source, cache_dir=cache)
    assert (len(data), data.report.stored, data.report.exact_duplicates) == (29, 20, 9)
    level = data.images()
    for at in range(8):
        first, second = (data.source_names.index(f"ok/{name}.png") for name in (f"{at:03d}", f"copy{at}"))
        assert data.split[first] == data.split[second]
        assert (level[first] == level[second]).all()
    assert data.report.conflicts[0]["classes"] == ["bad", "ok"]
    assert any("more than one label" in line for line in data.report.warnings)


def test_near_copies_stay_together(source: Path, cache: Path) -> None:
    for at in range(6):
        save(source / "ok" / f"copy{at}.jpg", picture(at, 40), quality=60)
    data = load_dataset(source, cache_dir=cache)
    assert data.report.near_duplicates == 12
    for at in range(6):
        assert (
            len(
                {
                    int(data.split[data.source_names.index(f"ok/{name}")])
                    for name in (f"{at:03d}.png", f"copy{at}.jpg")
                }
            )
            == 1
        )


def test_given_split_that_leaks_is_kept_and_reported(tmp_path: Path, cache: Path) -> None:
    rows = []
    for at in range(40):
        file = f"images/{at}.png"
        save(tmp_path / "s" / file, picture(0 if at == 39 else at, 40))
        rows.append(
            {
                "file": file,
                "label": "ab"[at % 2],
                "split": "test" if at >= 30 else "train",
                "group": at // 2 if at != 31 else 2,
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "s" / "labels.csv", index=False)
    data = load_dataset(tmp_path / "s", cache_dir=cache)
    assert data.indices("test").tolist() == list(range(30, 40))
    assert data.test_override
    assert data.report.leaks == {"exact": 1, "near": 0, "group": 1}
    assert "columns={'split': ''}" in data.report.warnings[0]
    free = load_dataset(tmp_path / "s", cache_dir=cache, columns={"split": ""})
    assert not free.test_override
    assert free.report.leaks == {"exact": 0, "near": 0, "group": 0}
    for group in np.unique(free.groups):
        assert len(np.unique(free.split[free.groups == group])) == 1


@pytest.mark.parametrize("whole", [True, False])
def test_a_given_validation_is_kept_where_it_has_every_class(
    tmp_path: Path, cache: Path, whole: bool
) -> None:
    for part, count in (("train", 10), ("val", 2), ("test", 4)):
        counts = {"ok": count, "bad": count if whole or part != "val" else 0}
        class_folders(tmp_path / "s" / part, counts, seed=100 * count)
    data = load_dataset(tmp_path / "s", cache_dir=cache)
    lines = "\n".join(data.report.lines())
    kept = (
        "the given validation part has no image of 'bad'; as there are few images, it is dealt into 4 folds"
    )
    if whole:
        ((train, validation),) = data.folds
        assert train.tolist() == data.indices("train").tolist()
        assert validation.tolist() == data.indices("validation").tolist()
        assert "validated by one validation part" in lines and kept not in lines
    else:
        assert len(data.folds) == 4
        assert kept in lines


def test_labels_that_look_alike_are_named(tmp_path: Path, cache: Path) -> None:
    class_folders(tmp_path / "s", {"Crack": 5, "crack ": 5, "ok": 120})
    data = load_dataset(tmp_path / "s", cache_dir=cache)
    assert len(data.class_names) == 3
    text = "\n".join(data.report.warnings)
    assert "'Crack' and 'crack '" in text
    assert "very unequal" in text


def test_sizes_are_reported(tmp_path: Path, cache: Path) -> None:
    for at in range(20):
        save(
            tmp_path / "s" / "ab"[at % 2] / f"{at}.png",
            picture(at, 20 if at < 15 else 300, 16 if at < 15 else 100),
        )
    data = load_dataset(tmp_path / "s", cache_dir=cache)
    assert data.size == 256
    notes = "\n".join(data.report.notes)
    assert "tiny" in notes
    assert "mixed" in notes
    assert "twice as long" in notes


def test_too_small_classes_are_named(tmp_path: Path, cache: Path) -> None:
    data = load_dataset(class_folders(tmp_path / "s", {"a": 30, "b": 30, "c": 2}), cache_dir=cache)
    assert data.report.too_small == ["c"]
    assert set(data.split[data.labels == 2]) <= {0, 1}


@pytest.mark.parametrize("compressed", [False, True])
def test_npz(tmp_path: Path, cache: Path, compressed: bool) -> None:
    pixels = np.stack([picture(at, 20)[:, :, 0] for at in range(30)])
    write = np.savez_compressed if compressed else np.savez
    write(tmp_path / "n.npz", images=pixels, labels=np.arange(30) % 3)
    data = load_dataset(tmp_path / "n.npz", cache_dir=cache)
    assert (data.size, data.class_names) == (20, ["0", "1", "2"])
    assert (data.images()[np.arange(30)][..., 1] == pixels).all()
    assert data.source_names[4] == "n.npz[4]"


def test_encoded_npz_with_a_damaged_image(tmp_path: Path, cache: Path) -> None:
    blobs = [save(tmp_path / "p" / f"{at}.png", picture(at)).read_bytes() for at in range(12)]
    blobs[5] = b""
    offsets = np.concatenate([[0], np.cumsum([len(b) for b in blobs])])
    content = {
        "data": np.frombuffer(b"".join(blobs), np.uint8),
        "offsets": offsets,
        "labels": np.arange(12) % 2,
    }
    np.savez(tmp_path / "e.npz", **content)
    data = load_dataset(tmp_path / "e.npz", cache_dir=cache)
    assert data.report.unreadable == [{"name": "e.npz[5]", "reason": "empty file"}]
    assert (data.images()[5] == picture(6)).all()
    np.savez(tmp_path / "e.npz", **{**content, "offsets": offsets + 50})
    with pytest.raises(InputError, match="offsets"):
        load_dataset(tmp_path / "e.npz", cache_dir=cache)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_npz_is_one_clear_line_or_read(tmp_path: Path, cache: Path, compressed: bool) -> None:
    pixels = np.stack([picture(at, 20) for at in range(30)])
    write = np.savez_compressed if compressed else np.savez
    write(tmp_path / "n.npz", images=pixels, labels=np.arange(30) % 3)
    whole = np.frombuffer((tmp_path / "n.npz").read_bytes(), np.uint8)
    generator = np.random.default_rng(0)
    for trial in range(25):
        hurt = whole.copy()
        where = 200 if trial % 2 else len(hurt)
        hurt[generator.integers(0, where, 5)] = generator.integers(0, 256, 5)
        (tmp_path / "h.npz").write_bytes(hurt.tobytes()[: len(hurt) if trial % 5 else len(hurt) // 2])
        try:
            load_dataset(tmp_path / "h.npz", cache_dir=cache)
        except InputError as error:
            assert "\n" not in str(error)


def test_many_threads_at_once(source: Path, cache: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(lambda _: load_dataset(source, cache_dir=cache), range(6)))
        sums = set(pool.map(lambda data: int(data.images(24)[np.arange(20)].sum()), opened))
    assert len({data.folder for data in opened}) == 1
    assert len(sums) == 1


def test_folder_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no data set"):
        Dataset.open(tmp_path / "a" / "b" / "c")


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_range(source: Path, cache: Path, seed: int) -> None:
    with pytest.raises(InputError, match="seed"):
        load_dataset(source, cache_dir=cache, seed=seed)


def test_wrong_side(source: Path, cache: Path) -> None:
    data = load_dataset(source, cache_dir=cache)
    with pytest.raises(ValueError, match="side is 0"):
        data.images(0)


def test_large_pictures_are_stored_at_256(tmp_path: Path, cache: Path) -> None:
    for at in range(12):
        save(tmp_path / "s" / "ab"[at % 2] / f"{at}.png", picture(at, 400, 300))
    data = load_dataset(tmp_path / "s", cache_dir=cache)
    assert data.size == 256
    assert data.resize_chain(256) == [256]
    assert data.resize_chain(128) == [256, 128]
    stored = Image.open(data.source_paths[0]).resize((256, 256), Image.Resampling.BILINEAR)
    assert (data.images()[0] == np.asarray(stored)).all()


def test_real_magnetic_tiles(shared: Path, cache: Path) -> None:
    folder = shared / "datasets" / "magnetic_tile"
    if not folder.is_dir():
        pytest.skip("magnetic_tile is not there")
    data = load_dataset(folder, cache_dir=cache)
    assert (len(data), len(data.class_names), data.name) == (1344, 6, "magnetic_tile")
    table = pd.read_csv(folder / "labels.csv")
    for _group, members in table.groupby("dupgroup"):
        assert len(np.unique(data.split[members.index])) == 1
    assert len(data.folds) == 1
    assert data.images(64)[data.indices("test")[:5]].shape == (5, 64, 64, 3)


def test_a_file_that_a_table_names_often_is_decoded_once(tmp_path: Path, cache: Path) -> None:
    source = class_folders(tmp_path / "parts", {"ok": 6, "bad": 6}, side=20)
    (source / "ok" / "broken.png").write_bytes(b"no image")
    files = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    rows = [{"path": file, "label": file.split("/")[0]} for file in files * 3]
    pd.DataFrame(rows).to_csv(source / "labels.csv", index=False)
    seen: list[tuple[int, int]] = []
    data = load_dataset(
        source / "labels.csv", cache_dir=cache, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (13, 13)
    assert (len(data), data.report.stored) == (36, 12)
    assert [one["name"] for one in data.report.unreadable] == ["ok/broken.png"] * 3
    assert (data.images()[:12] == data.images()[12:24]).all()
    assert data.labels[:12].tolist() == data.labels[24:].tolist()


def test_a_sample_keeps_parts_classes_and_folds(tmp_path: Path, cache: Path) -> None:
    source = class_folders(tmp_path / "parts", {"a": 90, "b": 60, "rare": 6}, side=8)
    data = load_dataset(source, cache_dir=cache)
    some, fewer = data.sample(70), data.sample(40)
    assert data.sampled is None
    for part in ("train", "validation", "development"):
        assert set(fewer.indices(part)) <= set(some.indices(part)) <= set(data.indices(part))
    assert some.indices("test").tolist() == data.indices("test").tolist()
    development = some.indices("development")
    assert some.sampled == len(development)
    assert 70 <= len(development) < 90
    labels, whole = np.asarray(data.labels), data.indices("development")
    for name in range(3):
        had, kept = int((labels[whole] == name).sum()), int((labels[development] == name).sum())
        assert kept >= min(had, 4)
        assert kept <= np.ceil(had * 70 / len(whole)) + 4
    assert len(some.folds) == len(data.folds)
    for (train, held), (all_train, all_held) in zip(some.folds, data.folds, strict=True):
        assert set(train) == set(all_train) & set(development)
        assert set(held) == set(all_held) & set(development)
    assert data.sample(len(whole)) is data
    assert data.sample(len(whole) - 1) is data  # shares are rounded up, so that none is left out
    assert data.sample(70).indices("train").tolist() == some.indices("train").tolist()
    assert pickle.loads(pickle.dumps(data)).sampled is None


def test_what_a_listing_is_refused_for_costs_no_decoding(source: Path, cache: Path) -> None:
    def refuse(names: list[str]) -> None:
        assert names == ["bad", "ok"]
        raise InputError("not these")

    decoded: list[int] = []
    with pytest.raises(InputError, match="not these"):
        load_dataset(
            source, cache_dir=cache, listed=refuse, progress=lambda done, _total: decoded.append(done)
        )
    assert not decoded
