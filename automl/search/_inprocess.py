"""Runs a search one trial after another in this process, without Ray: for tests and for a debugger."""

from __future__ import annotations

from automl.records import Outcome
from automl.search._driver import Driver
from automl.search._session import TrialFunction, TrialSession

#: Seconds of reports that are taken together.
_REPORT_SECONDS = 0.2


def run(driver: Driver, function: TrialFunction) -> None:
    """Run trials until the driver has none left.

    Nobody can kill a trial here: one that does not watch its own time holds the search up.
    """
    while True:
        spec = driver.next_trial()
        if spec is None:
            if driver.over:
                return
            raise RuntimeError("the search waits for a trial that nobody runs")
        session = TrialSession(spec, function)
        driver.began(spec.trial_id)
        try:
            while True:
                step = session.advance(_REPORT_SECONDS)
                if isinstance(step, Outcome):
                    driver.finished(spec.trial_id, step)
                    break
                driver.progressed(spec.trial_id, step)
                driver.poll()
        except KeyboardInterrupt:
            session.abort()
            raise
