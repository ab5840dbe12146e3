"""Runs the command line in this process, as the shell would see it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from automl import cli


@dataclass
class Done:
    """A command that has ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def last_json(self) -> Any:
        """The value on the last line of the output; JSON as the standard has it, without NaN."""

        def refuse(word: str) -> None:
            raise ValueError(f"{word} is no JSON")

        return json.loads(self.out.splitlines()[-1], parse_constant=refuse)


def automl(*arguments: object) -> Done:
    """Run ``automl ARGUMENTS``."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["automl", *map(str, arguments)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as end:
            cli.main()
    printed = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return Done(int(end.value.code or 0), *printed)


def refused(done: Done, *words: str, code: int = 2) -> None:
    """The command ended with ``code`` and one line that begins with ``error:`` and holds all words; no traceback."""
    lines = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.err
    assert done.err.splitlines()[-1] == lines[0], done.err
    assert done.code == code, done.err
    assert "Traceback" not in done.err + done.out
    assert "this is a bug" not in lines[0]
    missing = [word for word in words if word not in lines[0]]
    assert not missing, f"{missing} not in {lines[0]!r}"


def contents(*roots: Path) -> dict[str, bytes | None]:
    """Every file and folder below some folders, with its bytes."""

    def below(root: Path) -> Iterable[Path]:
        return [root, *root.rglob("*")] if root.exists() else []

    return {str(p): p.read_bytes() if p.is_file() else None for root in roots for p in below(root)}
