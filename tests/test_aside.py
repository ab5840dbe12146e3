"""The process beside the engine's own: it answers, it fails as the function fails, and it never takes the run with it."""

from __future__ import annotations

import math
import os
import signal
import sys
import time

import pytest

from automl.aside import Aside
from automl.errors import InputError


def fails(text: str) -> None:
    raise InputError(text)


def dies(own: int) -> str:
    if os.getpid() != own:
        os.kill(os.getpid(), signal.SIGKILL)
    return "here"


def prints() -> str:
    print("this must not get between the answers")
    return "answer"


def loaded(name: str) -> bool:
    return name in sys.modules


def test_functions_are_called_in_another_process() -> None:
    with Aside() as aside:
        there = aside.call(os.getpid)
        assert there != os.getpid() and aside.call(os.getpid) == there
        assert aside.call(math.hypot, 3.0, 4.0) == 5.0
        assert aside.call(sorted, [1, 3, 2], reverse=True) == [3, 2, 1]
        assert aside.call(prints) == "answer"
    assert not running(there)


def test_an_error_comes_through_and_the_process_goes_on() -> None:
    with Aside() as aside:
        with pytest.raises(InputError, match="no such thing"):
            aside.call(fails, "no such thing")
        assert aside.call(prints) == "answer"


def test_where_the_process_dies_the_function_is_called_here() -> None:
    with Aside() as aside:
        assert aside.call(dies, os.getpid()) == "here"
        assert aside.call(os.getpid) == os.getpid()


def test_where_no_process_can_be_started_the_function_is_called_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with Aside() as aside:
        aside.start()
        assert aside.call(os.getpid) == os.getpid()


def test_imports_begin_before_the_first_call() -> None:
    with Aside() as aside:
        aside.start(("colorsys", "no_such_module"))
        assert aside.call(loaded, "colorsys")
    with Aside() as aside:
        assert not aside.call(loaded, "torch")


def test_one_that_is_busy_ends_with_the_context() -> None:
    with Aside() as aside:
        there = aside.call(os.getpid)
        aside._child.stdin.write(b"half a call")  # type: ignore[union-attr]
        aside._child.stdin.flush()  # type: ignore[union-attr]
    assert not running(there)


def running(number: int) -> bool:
    for _ in range(50):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    return True
