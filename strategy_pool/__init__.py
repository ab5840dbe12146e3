"""What has been learned: recipes, the history of trials, and the order in which to try candidates.

Nothing here needs torch or Ray. The parts that import SQLAlchemy and pandas are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from strategy_pool.strategy import Strategy, StrategyError, load_catalog, search_space

if TYPE_CHECKING:
    from strategy_pool.history import History, HistoryError, default_url
    from strategy_pool.prior import history_average, rank

_LAZY = {
    "History": "strategy_pool.history",
    "HistoryError": "strategy_pool.history",
    "default_url": "strategy_pool.history",
    "history_average": "strategy_pool.prior",
    "rank": "strategy_pool.prior",
}

__all__ = [
    "History",
    "HistoryError",
    "Strategy",
    "StrategyError",
    "default_url",
    "history_average",
    "load_catalog",
    "rank",
    "search_space",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
