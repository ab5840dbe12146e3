"""The one class that Ray Tune runs: an actor that takes up trial after trial."""

from __future__ import annotations

import gc
import json
import os
from typing import Any

from ray import tune

from automl.records import Outcome
from automl.search._freight import Freight, freight_for
from automl.search._session import TrialSession, free_memory, import_trial_function
from automl.search.store import read_spec

#: Reports are sent to the driver at most this often, so that short epochs cost no round trips.
REPORT_SECONDS = 0.25


class WorkerRetired(RuntimeError):
    """The trial's outcome is on disk, but its process should not run another one."""


class TrialTrainable(tune.Trainable):
    """Advances one trial's generator per ``train()`` call; reused for all trials of an actor.

    Nothing of a trial is touched before the first call: Tune may give a trial whose actor is still being started to one
    that became free, and then starts and stops the other one all the same.

    Its config holds ``folder`` (of the trial, with its ``spec.json``), ``trial_fn`` (``module:function``),
    ``memory_limit`` (resident bytes after a trial above which the process is replaced) and, in a cluster, ``porter``.
    """

    _given: dict[str, Any] | None = None
    _session: TrialSession | None = None
    _freight: Freight | None = None
    _porter: Any = None
    _frozen = False

    def setup(self, config: dict[str, Any]) -> None:
        """Note the first trial."""
        self._given = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Note the next trial for the same process."""
        self._end()
        self._given = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Run for at least :data:`REPORT_SECONDS` or to the end of the trial."""
        if self._given is not None:
            self._take_up(self._given)
            self._given = None
            if self._porter is not None:  # its own time begins once all is there
                return {"taken_up": True}
        session = self._session
        if session is None:
            raise RuntimeError("no trial was taken up")
        if self._freight is not None:
            self._freight.obey(session.folder)
        step = session.advance(REPORT_SECONDS)
        if not isinstance(step, Outcome):
            return {"report": json.dumps(step.to_dict()), "used": step.seconds, "score": step.score}
        retire = session.memory_error or self._too_large()
        self._end()
        if retire:
            raise WorkerRetired("memory")
        return {"outcome": json.dumps(step.to_dict()), "done": True}

    def cleanup(self) -> None:
        """End a trial that still runs when the actor is stopped."""
        self._end()

    def _take_up(self, config: dict[str, Any]) -> None:
        self._limit = int(config["memory_limit"])
        function = import_trial_function(config["trial_fn"])
        if not self._frozen:
            # What the imports made stays for ever; later collections need not look at it.
            gc.collect()
            gc.freeze()
            type(self)._frozen = True
        folder, porter = config["folder"], config.get("porter")
        if porter is not None and self._porter is None:
            self._porter, self._freight = porter, freight_for(porter, folder)
        spec = read_spec(folder) if self._freight is None else self._freight.take_up(folder)
        self._session = TrialSession(spec, function)

    def _end(self) -> None:
        if self._session is not None:
            self._session.abort()
            if self._freight is not None:
                self._freight.send(self._session.folder)
            self._session = None
            free_memory()

    def _too_large(self) -> bool:
        import psutil

        return bool(psutil.Process(os.getpid()).memory_info().rss > self._limit)
