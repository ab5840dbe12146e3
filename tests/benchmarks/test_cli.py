"""``automl bench``: every suite keeps the contract, and arguments reach it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from benchmarks import cli
from benchmarks.environment import PACKAGES, describe, environment


@pytest.mark.parametrize("name", list(cli.find_suites()))
def test_every_suite_keeps_the_contract(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = cli.find_suites()[name]
    assert name == module.NAME
    assert module.SUMMARY.endswith(".")
    with pytest.raises(SystemExit) as end:
        module.run(["--help"])
    assert end.value.code == 0
    assert name in capsys.readouterr().out


def test_all_suites_are_listed() -> None:
    shown = CliRunner().invoke(cli.app, [])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in cli.find_suites())


def test_arguments_and_the_exit_code_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def run(argv: list[str]) -> int:
        seen.append(argv)
        return 3

    monkeypatch.setattr(
        cli, "find_suites", lambda: {"fake": SimpleNamespace(NAME="fake", SUMMARY="A.", run=run)}
    )
    done = CliRunner().invoke(cli.make_app(), ["fake", "--data", "x", "--help", "-v"])
    assert done.exit_code == 3
    assert seen == [["--data", "x", "--help", "-v"]]


def test_listing_the_suites_imports_nothing_heavy() -> None:
    code = "import sys, benchmarks.cli; print([m for m in ('torch', 'ray', 'sklearn', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_environment_names_versions_and_no_place() -> None:
    import json
    import os
    import platform

    found = environment()
    assert found["packages"].keys() <= set(PACKAGES)
    assert {"torch", "onnxruntime"} <= found["packages"].keys()
    assert found["cores"] >= 1
    text = json.dumps(found) + describe(found)
    assert os.getcwd() not in text
    assert platform.node() == "" or platform.node() not in text.split()
