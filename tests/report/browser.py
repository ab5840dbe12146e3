"""A page as a headless browser sees it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest


@dataclass
class Seen:
    """A page after its scripts ran.

    Attributes:
        plots: name → value of ``data-drawn`` (None if it was not set).
        errors: what the body's error counter says.
        console: lines that the page or the browser wrote to the console.
        text: of the page, without markup.
        html: the whole document.
    """

    plots: dict[str, str | None]
    errors: str | None
    console: list[str]
    text: str
    html: str


def open_page(path: Path, scratch: Path, *, width: int = 1300) -> Seen:
    """Open a file in headless Chromium; the test is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium is here")
    if not _works(program):
        pytest.skip("chromium cannot open the simplest page here")
    done = _run(program, path, scratch, width)
    if done.returncode != 0 or "</html>" not in done.stdout:
        pytest.fail(f"chromium could not show {path.name}: {done.stderr.strip()[-500:]}")
    reader = _Reader()
    reader.feed(done.stdout)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(reader.plots, reader.errors, console, " ".join(" ".join(reader.words).split()), done.stdout)


@functools.cache
def _works(program: str) -> bool:
    """Whether the browser shows an empty page."""
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "page.html"
        page.write_text("<!doctype html><html><body>here</body></html>")
        done = _run(program, page, Path(scratch), 800)
        return done.returncode == 0 and "here" in done.stdout


def _run(program: str, path: Path, scratch: Path, width: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=10000",
            "--enable-logging=stderr", "--v=0", f"--window-size={width},1400", f"--user-data-dir={scratch / 'profile'}",
            path.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(scratch)},
        check=False,
    )  # fmt: skip


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.plots: dict[str, str | None] = {}
        self.errors: str | None = None
        self.words: list[str] = []
        self._silent = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._silent = tag in ("script", "style")
        if tag == "body":
            self.errors = found.get("data-errors")
        if found.get("data-plot"):
            self.plots[str(found["data-plot"])] = found.get("data-drawn")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._silent = False
