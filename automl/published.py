"""What the nightly job published last: the ranker, and what it changed in the catalog."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from automl.home import home_path
from strategy_pool.strategy import Strategy, StrategyError

if TYPE_CHECKING:
    from strategy_pool.ranker import Ranker
    from strategy_pool.versions import Versions


def versions() -> Versions:
    """The versions of this user; the folder is made when something is published."""
    from strategy_pool.versions import Versions

    return Versions(home_path().resolve() / "ranker")


def published(
    use_pool: bool, say: Callable[[str], None]
) -> tuple[Ranker | None, dict[str, Strategy], list[str]]:
    """The ranker in use, the catalog with what was promoted, and the names of what is retired.

    Args:
        use_pool: False for the catalog alone, as it is shipped.
        say: told where what is in use cannot be read; the catalog alone is used then.
    """
    from strategy_pool.strategy import load_catalog

    catalog = load_catalog()
    if not use_pool or not (home_path() / "ranker" / "in_use").exists():
        return None, catalog, []
    from strategy_pool._saved import SavedError
    from strategy_pool.versions import VersionError

    known = versions()
    try:
        number = known.in_use
        if number is None:
            return None, catalog, []
        about, ranker = known.about(number), known.ranker()
        if ranker is not None and ranker.spread is None:  # of so few tasks that it knows no scores
            ranker = None
        promoted = {name: Strategy.from_dict(fields) for name, fields in about["promoted"].items()}
    except (VersionError, SavedError, StrategyError) as error:
        say(f"  {error}; the history average is used instead")
        return None, catalog, []
    return ranker, {**catalog, **promoted}, list(about["retired"])
