"""The search: which candidate is tried next, where, and until when. The only room that knows Ray."""

from __future__ import annotations

from automl.search._driver import Listener
from automl.search._freight import Folders
from automl.search._halving import Halving
from automl.search._ray_cluster import ensure_started, prestart, shutdown
from automl.search.progress import SearchDisplay
from automl.search.proposer import Proposer
from automl.search.runner import SearchEnd, run_search
from automl.search.store import TrialStore

__all__ = [
    "Folders",
    "Halving",
    "Listener",
    "Proposer",
    "SearchDisplay",
    "SearchEnd",
    "TrialStore",
    "ensure_started",
    "prestart",
    "run_search",
    "shutdown",
]
