"""A process beside the engine's own in which functions are called that need torch.

Importing it takes seconds. There they go by while the data are read, and the engine's own process, which reads them
and starts Ray meanwhile, stays free of it until it finishes a model.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

#: What building and exporting a network needs.
IMPORTS = ("torch", "timm", "automl.training", "automl.feasibility")


class Aside:
    """Calls functions in a process of its own; a context manager.

    The process starts with :meth:`start` or with the first call and ends with the context.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Aside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def start(self, imports: Sequence[str] = IMPORTS) -> None:
        """Start the process, if it has not been, and let it import; returns at once."""
        if self._child is not None:
            return
        with contextlib.suppress(OSError):  # then functions are called in this process
            self._child = subprocess.Popen(
                [sys.executable, "-m", "automl.aside", *imports],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
                },
                start_new_session=True,  # Ctrl-C is the engine's to answer
            )

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call a function there, or here where the process cannot be started or dies.

        Args:
            function: at the top of a module; it, its arguments and its result are pickled.
            arguments, named: what it is called with.

        Raises:
            Exception: whatever the function raised.
        """
        try:
            self.start(())
            child = self._child
            if child is None or child.stdin is None or child.stdout is None:
                raise BrokenPipeError
            pickle.dump((function, arguments, named), child.stdin)
            child.stdin.flush()
            failed, result = pickle.load(child.stdout)  # what this program's own process wrote
        except (OSError, EOFError, pickle.UnpicklingError):
            return function(*arguments, **named)
        if failed:
            raise result
        return result


def _serve(imports: Sequence[str]) -> None:
    """Answer calls until nothing more comes."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    for name in imports:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    while True:
        try:
            function, arguments, named = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (False, function(*arguments, **named))
        except Exception as error:
            answer = (True, error)
        pickle.dump(answer, out)
        out.flush()


if __name__ == "__main__":
    _serve(sys.argv[1:])
