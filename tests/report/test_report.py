from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from automl.errors import InputError
from automl.report import build_report
from tests.report.browser import open_page
from tests.report.run_folders import Pictures, edit_result, make_run

PLOTS = {"confusion", "precision-recall", "mistakes", "scatter", "curves", "classes"}


class _Tags(HTMLParser):
    """Tags and attribute names of a page, and whether every tag was closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "line", "circle", "rect", "path", "polyline", "polygon"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.plots: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]
        for name, value in attrs:
            if name == "data-plot":
                self.plots[str(value)] = self.plots.get(str(value), 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def read(path: Path) -> tuple[str, _Tags]:
    text = path.read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(text)
    assert not tags.open
    return text, tags


@pytest.mark.browser
@pytest.mark.parametrize("width", [1300, 500])
def test_every_plot_is_drawn_without_a_console_error(
    run_folder: Path, pictures: Pictures, tmp_path: Path, width: int
) -> None:
    seen = open_page(build_report(run_folder, pictures), tmp_path, width=width)
    assert seen.plots == dict.fromkeys(PLOTS, "true")
    assert seen.errors == "0"
    assert seen.console == []


@pytest.mark.browser
def test_a_broken_script_would_be_noticed(run_folder: Path, pictures: Pictures, tmp_path: Path) -> None:
    path = build_report(run_folder, pictures)
    text = path.read_text().replace("data:image/jpeg;base64,", "data:image/jpeg;base64,AAAA", 1)
    path.write_text(text)
    seen = open_page(path, tmp_path)
    assert seen.plots["mistakes"] is None
    assert seen.errors == "1"


@pytest.mark.browser
def test_a_foreign_script_does_not_run(run_folder: Path, pictures: Pictures, tmp_path: Path) -> None:
    path = build_report(run_folder, pictures)
    path.write_text(path.read_text().replace("<footer>", "<script>document.title='taken'</script><footer>"))
    seen = open_page(path, tmp_path)
    assert "<title>taken" not in seen.html
    assert len(seen.console) == 1


@pytest.mark.browser
def test_a_click_on_a_heading_sorts(run_folder: Path, pictures: Pictures, tmp_path: Path) -> None:
    path = build_report(run_folder, pictures)
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text())
    click = "document.querySelectorAll('table.trials th button')[{}].click();"
    orders = {}
    for name, clicks in (
        ("score", []),
        ("trial", [0]),
        ("trial, down", [0, 0]),
        ("latency", [8]),
        ("score, up", [5]),
    ):
        script = f"<script>{''.join(click.format(k) for k in clicks)}</script>"
        path.write_text(text.replace("</body>", f"{script}</body>"))
        seen = open_page(path, tmp_path)
        assert seen.errors == "0" and seen.console == []
        orders[name] = re.findall(r"<tr[^>]*><td>(t\d{4})</td>", seen.html)
    names = [f"t{k + 1:04d}" for k in range(14)]
    assert orders["trial"] == names
    assert orders["trial, down"] == names[::-1]
    frame = pd.read_parquet(run_folder / "trials.parquet").set_index("trial_id")
    assert frame.loc[orders["latency"], "latency_ms"].is_monotonic_increasing
    scores = frame.loc[orders["score"], "score"]
    assert scores.dropna().is_monotonic_decreasing and np.isnan(scores.iloc[-1])
    scores = frame.loc[orders["score, up"], "score"]
    assert scores.dropna().is_monotonic_increasing and np.isnan(scores.iloc[-1])


def test_nothing_is_loaded_from_elsewhere(run_folder: Path, pictures: Pictures) -> None:
    text, tags = read(build_report(run_folder, pictures))
    assert tags.links
    assert all(link.startswith(("#", "data:")) for link in tags.links)
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r'base64,[^"]*', "", text))
    assert "url(" not in text and "@import" not in text
    assert set(tags.plots) == PLOTS and set(tags.plots.values()) == {1}
    assert text.count("<script>") == 1


def test_names_that_look_like_html_stay_text(tmp_path: Path) -> None:
    hostile = ["<script>alert(1)</script>", '" onmouseover="alert(2)', "</style><img src=x onerror=alert(3)>"]
    folder = tmp_path / "run"
    pictures = make_run(folder, classes=hostile, limits=(), objective=f"recall[{hostile[0]}]")
    _, calm = read(build_report(folder, pictures))
    assert not {name for name in calm.attributes if name.startswith("on")}
    assert calm.tags & {"script", "img"} == {"script", "img"}
    assert all(link.startswith(("#", "data:")) for link in calm.links)
    text = (folder / "report.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_control_characters_are_made_visible(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    names = ["a\x1b[31mb", "c\u202ed", "e\nf"]
    build_report(folder, make_run(folder, classes=names, limits=()))
    text = (folder / "report.html").read_text()
    assert "\x1b" not in text and "\u202e" not in text and "e f" in text


def test_it_tells_the_numbers_of_the_result(run_folder: Path, pictures: Pictures, tmp_path: Path) -> None:
    from automl.result import Result

    text, _ = read(build_report(run_folder, pictures))
    result = Result.open(run_folder)
    found = result.metrics["test"]["balanced_accuracy"]
    assert f"{100 * found['value']:.1f} %" in text
    assert f"{100 * found['low']:.1f}–{100 * found['high']:.1f} %" in text
    assert "Done: all 3 limits hold" in text
    assert "recall of red at least 60 %" in text
    assert "not proved" in text  # met, but not by the whole interval
    assert "out of memory &amp; other trouble" in text
    assert "17 further settings" in text
    assert "All but the column of validation is measured with the exported file on test images" in text
    assert "/home/someone" not in text and "/data/colours" not in text


def test_mistakes_are_the_surest_first(run_folder: Path, pictures: Pictures) -> None:
    text, _ = read(build_report(run_folder, pictures))
    with np.load(run_folder / "search" / "test_scores.npz") as stored:
        wrong = stored["labels"] != stored["predicted"]
        sure = np.sort(stored["probabilities"].max(1)[wrong])[::-1][:24]
    shown = [int(v) for v in re.findall(r"<div>(\d+)(?:\.\d+)? % sure", text)]
    assert len(shown) == min(24, int(wrong.sum()))
    assert shown == sorted(shown, reverse=True)
    assert abs(shown[0] - 100 * float(sure[0])) <= 1
    assert text.count("data:image/jpeg;base64,") == len(shown)


def test_without_a_data_set_there_are_no_pictures(run_folder: Path) -> None:
    text, tags = read(build_report(run_folder))
    assert "img" not in tags.tags
    assert "no picture at hand" in text


def test_no_mistakes_shows_the_least_sure_calls(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    text, _ = read(build_report(folder, make_run(folder, noise=1.0, per_class=10)))
    assert "No mistake on 12 test images" in text
    assert text.count('class="card"') == 8


@pytest.mark.browser
@pytest.mark.parametrize(
    "options",
    [
        {"latency": False, "limits": ()},
        {"trials": 1, "members": 1},
        {"trials": 0, "members": 0, "limits": ()},
        {"limits": ("latency_ms<=0.01", "recall[red]>=0.999")},
        {"classes": [f"class {k}" for k in range(2)], "limits": ("precision[class 1]>=0.3",)},
        {"classes": [f"class {k}" for k in range(9)], "limits": (), "per_class": 8},
        {"classes": [f"class {k}" for k in range(30)], "limits": (), "per_class": 5},
        {"classes": [f"class {k}" for k in range(60)], "limits": ("recall[class 41]>=0.2",), "per_class": 5},
    ],
    ids=[
        "no latency",
        "one trial",
        "no trial",
        "infeasible",
        "2 classes",
        "9 classes",
        "30 classes",
        "60 classes",
    ],
)
def test_missing_pieces_leave_a_whole_page(tmp_path: Path, options: dict[str, object]) -> None:
    folder = tmp_path / "run"
    path = build_report(folder, make_run(folder, **options))  # type: ignore[arg-type]
    text, tags = read(path)
    assert set(tags.plots) == PLOTS
    assert not re.search(
        r"\b(nan|NaN|None|inf)\b", re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
    )
    seen = open_page(path, tmp_path)
    assert seen.plots == dict.fromkeys(PLOTS, "true")
    assert seen.console == []


def test_the_words_fit_what_is_drawn(tmp_path: Path) -> None:
    many, few = tmp_path / "many", tmp_path / "few"
    pictures = make_run(many, classes=[f"c{k}" for k in range(60)], limits=(), per_class=3, latency=False)
    text, _ = read(build_report(many, pictures))
    assert "Blue is right" not in text and "most frequent mistakes" in text
    assert "larger dot" not in text
    text, _ = read(build_report(few, make_run(few)))
    assert "Blue is right" in text and "larger dot" in text


def test_an_infeasible_run_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    pictures = make_run(folder, limits=("latency_ms<=0.01", "size_mb<=4"))
    text, _ = read(build_report(folder, pictures))
    assert "1 of 2 limits could not be kept; this is the closest model" in text
    assert "it would do with the measured value" in text
    assert text.count("✕ missed") == 1


def test_what_is_left_of_a_damaged_run_is_shown(run_folder: Path) -> None:
    shutil.rmtree(run_folder / "search")
    (run_folder / "trials.parquet").write_bytes(b"PAR1 nonsense")
    (run_folder / "labels.json").write_text("{")
    edit_result(run_folder, dataset={}, costs={}, members=["a@64/fp32/b"], why=None)
    text, tags = read(build_report(run_folder))
    assert set(tags.plots) == PLOTS
    assert "There are no test images" in text


def test_scores_that_do_not_fit_are_not_drawn(run_folder: Path, pictures: Pictures) -> None:
    with np.load(run_folder / "search" / "test_scores.npz") as stored:
        parts = {k: stored[k] for k in stored.files}
    np.savez(run_folder / "search" / "test_scores.npz", **{**parts, "labels": parts["labels"][:5]})
    text, _ = read(build_report(run_folder, pictures))
    assert "There are no test images" in text


def test_a_result_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no result\.json"):
        build_report(tmp_path)


def test_nothing_but_the_report_is_left_behind(run_folder: Path, pictures: Pictures) -> None:
    before = {p.name for p in run_folder.iterdir()}
    build_report(run_folder, pictures)
    build_report(run_folder, pictures)
    assert {p.name for p in run_folder.iterdir()} - before == {"report.html"}


def test_pictures_of_a_real_data_set(tiny_folder: Path, tmp_path: Path) -> None:
    from automl.data import load_dataset

    dataset = load_dataset(tiny_folder, cache_dir=tmp_path / "cache")
    folder = tmp_path / "run"
    make_run(folder, classes=list(dataset.class_names), limits=())
    test = dataset.indices("test")
    labels = np.asarray(dataset.labels)[test]
    probabilities = np.eye(3, dtype=np.float32)[(labels + 1) % 3] * 0.9
    np.savez(
        folder / "search" / "test_scores.npz",
        index=test, labels=labels, probabilities=probabilities, predicted=(labels + 1) % 3,
    )  # fmt: skip
    text, _ = read(build_report(folder, dataset))
    assert f"{dataset.source_names[int(test[0])]}" in text
    assert text.count("data:image/jpeg;base64,") == min(24, len(test))
