from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automl.card import SNIPPET, write_card
from automl.predict import predict_files
from tests.report.run_folders import CLASSES, edit_result, make_run, save_pictures


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "run"
    make_run(folder, per_class=20, trials=4)
    write_card(folder)
    return folder


def snippet(run: Path) -> str:
    """The code that stands in the card."""
    text = (run / "MODEL_CARD.md").read_text(encoding="utf-8")
    return text.split("```python\n")[1].split("```")[0]


def pictures(folder: Path) -> list[Path]:
    """Pictures of all kinds, also turned by EXIF and half transparent."""
    paths = save_pictures(folder, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(paths[0]).convert("RGB")
    turned.save(folder / "turned.jpg", exif=exif)
    clear = np.random.default_rng(0).integers(0, 256, (12, 9, 4), dtype=np.uint8)
    clear[..., 3] = np.linspace(0, 255, 108).reshape(12, 9).astype(np.uint8)
    Image.fromarray(clear).save(folder / "clear.png")
    Image.fromarray(clear[..., 0] > 120).save(folder / "bits.png")
    return [*paths, folder / "turned.jpg", folder / "clear.png", folder / "bits.png"]


def test_the_snippet_does_what_predict_does(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = pictures(tmp_path)
    expected = predict_files(run, paths)
    assert expected["error"].isna().all()
    code = compile(snippet(run), "label.py", "exec")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run)
        for path, row in zip(paths, expected.to_dict("records"), strict=True):
            patch.setattr(sys, "argv", ["label.py", str(path)])
            exec(code, {})
            printed = capsys.readouterr().out
            label, values = printed.strip().split(" {", 1)
            found = ast.literal_eval("{" + values)
            assert label == row["label"], path.name
            for name in CLASSES:
                assert found[name] == pytest.approx(row[f"probability[{name}]"], abs=1e-6), path.name


def test_the_snippet_runs_alone(run: Path, tmp_path: Path) -> None:
    path = save_pictures(tmp_path, 1)[0]
    (tmp_path / "label.py").write_text(snippet(run) + "assert not {'torch', 'automl'} & set(sys.modules)\n")
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "label.py"), str(path)],
        cwd=run,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith(str(predict_files(run, [path])["label"][0]))
    tree = ast.parse(SNIPPET)
    used = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    used |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert used == {"json", "sys", "numpy", "onnxruntime", "PIL"}
    assert len(SNIPPET.splitlines()) <= 12


def test_it_holds_what_a_card_must(run: Path) -> None:
    text = (run / "MODEL_CARD.md").read_text(encoding="utf-8")
    found = json.loads((run / "result.json").read_text())["metrics"]["test"]["balanced_accuracy"]
    for wanted in (
        "# Model card: colours", "## Intended use", "| latency at most 1.5 ms | 1.21 ms | yes |", "95 % interval", "24 images",
        f"{100 * found['low']:.1f}–{100 * found['high']:.1f} %", "weights of mobilenetv3\\_small\\_075: apache-2.0",
        "data: as provided by you", "Fine-tune all layers", "uint8 [N, 8, 8, 3]", "16×16 then 8×8", "torch 2.15.0", "| **all** |",
        "1 image could not be read",
    ):  # fmt: skip
        assert wanted in text
    assert "/home/someone" not in text and "/data/colours" not in text
    assert not list(run.glob(".card-*"))


def test_names_cannot_break_the_tables(run: Path) -> None:
    text = (run / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "<b>" not in text and "green\\|\\*star\\*" in text
    widths: dict[int, int] = {}
    for number, line in enumerate(text.splitlines()):
        if line.startswith("|"):
            bars = line.replace("\\|", "").count("|")
            assert widths.get(number - 1, bars) == bars
            widths[number] = bars


@pytest.mark.parametrize("as_file", [False, True])
def test_a_licence_in_the_data_is_quoted(tmp_path: Path, as_file: bool) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "PROVENANCE.md").write_text("# parts\n\n- source: somewhere\n- licence: CC BY 4.0 <b>\n")
    (data / "labels.csv").write_text("path,label\n")
    run = tmp_path / "run"
    make_run(run, per_class=5, trials=1, members=1)
    task = json.loads((run / "search" / "task.json").read_text())
    edit_result(run, task={**task, "data": str(data / "labels.csv" if as_file else data)})
    text = write_card(run).read_text(encoding="utf-8")
    assert "as provided by you; its `PROVENANCE.md` says: licence: CC BY 4.0 &lt;b&gt;" in text


def test_an_infeasible_run_and_one_without_tests_say_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, limits=("size_mb<=1",), per_class=5, trials=1, members=1)
    content = json.loads((run / "result.json").read_text())
    unknown = {name: {"value": None, "low": 0.0, "high": 1.0, "n": 0} for name in content["metrics"]["test"]}
    edit_result(run, metrics={"validation": {}, "test": unknown}, interrupted=True)
    text = write_card(run).read_text(encoding="utf-8")
    assert "| file size at most 1 MB | 1.24 MB | **no** |" in text
    assert "There were no test images" in text
    assert "it would do with the measured value" in text
    assert "The search was interrupted" in text
    assert "nan" not in text


def test_an_overlap_of_the_splits_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, per_class=5, trials=1, members=1)
    content = json.loads((run / "result.json").read_text())
    edit_result(run, dataset={**content["dataset"], "leaks": {"exact": 3, "near": 0, "group": 0}})
    assert "3 images with an exact copy in another part" in write_card(run).read_text(encoding="utf-8")
