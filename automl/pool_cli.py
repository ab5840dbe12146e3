"""``automl pool``: the strategies that a search draws from, and the published versions of the ranker."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from automl.errors import InputError, did_you_mean

Json = Annotated[bool, typer.Option("--json", help="print one JSON object on the last line")]

app = typer.Typer(
    help="The strategies that a search draws from, and the versions of their ranker.", no_args_is_help=True
)


@app.command("list", epilog="Example: automl pool list")
def pool_list(as_json: Json = False) -> None:
    """Print the strategies, and below them the versions of the ranker."""
    from automl.published import published, versions
    from strategy_pool.strategy import load_catalog

    shipped = load_catalog()
    _ranker, catalog, retired = published(True, _tell)
    strategies = []
    for strategy in sorted(catalog.values(), key=lambda s: (s.order, s.name)):
        state = "retired" if strategy.name in retired else "" if strategy.name in shipped else "promoted"
        strategies.append({**strategy.to_dict(), "state": state or "shipped"})
        print(f"{strategy.order:3d}  {strategy.name:34s} {strategy.method:16s} {state:9s}{strategy.summary}")
    known = versions()
    for number in known.numbers():
        print(_line(known.about(number), number == known.in_use))
    if as_json:
        abouts = [known.about(number) for number in known.numbers()]
        print(json.dumps({"strategies": strategies, "versions": abouts, "in_use": known.in_use}))


@app.command("show", epilog="Example: automl pool show full_plain, automl pool show 3")
def pool_show(
    name: Annotated[str, typer.Argument(help="a strategy, or the number of a version")], as_json: Json = False
) -> None:
    """Print a strategy, or a version of the ranker with its figures."""
    from automl.published import published, versions

    if name.isdecimal():
        told = versions().about(int(name))
    else:
        _ranker, catalog, _retired = published(True, _tell)
        if name not in catalog:
            raise InputError(f"there is no strategy '{name}'{did_you_mean(name, list(catalog))}")
        told = catalog[name].to_dict()
    for key, value in told.items():
        print(f"{key:16s} {value if isinstance(value, str) else json.dumps(value)}")
    if as_json:
        print(json.dumps(told))


@app.command("diff", epilog="Example: automl pool diff 2 3")
def pool_diff(
    first: Annotated[int, typer.Argument(help="version", min=1)],
    second: Annotated[int, typer.Argument(help="version", min=1)],
    as_json: Json = False,
) -> None:
    """Print in what two versions of the ranker differ."""
    from automl.published import versions

    known = versions()
    one, two = known.about(first), known.about(second)
    changed = {key: [one.get(key), two.get(key)] for key in ("created", "data", "tasks", "trials", "shares")}
    changed = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
    figures = {
        name: [one["metrics"][name]["mean"], two["metrics"][name]["mean"]]
        for name in one["metrics"]
        if name in two["metrics"]
    }
    lists = {
        f"{word} in {number} only": sorted(set(mine[word]) - set(other[word]))
        for word in ("promoted", "retired")
        for number, mine, other in ((first, one, two), (second, two, one))
    }
    for key, (before, after) in changed.items():
        print(f"{key:28s} {before}  →  {after}")
    for key, (before, after) in figures.items():
        print(f"{key:28s} {before:.3f}  →  {after:.3f}  (each on its own tasks)")
    for key, names in lists.items():
        if names:
            print(f"{key:28s} {', '.join(names)}")
    if as_json:
        print(json.dumps({"changed": changed, "metrics": figures, "lists": lists}))


@app.command("rollback", epilog="Example: automl pool rollback")
def pool_rollback(
    version: Annotated[
        int | None, typer.Argument(help="to use; 0 for none, by default the one before", min=0)
    ] = None,
    as_json: Json = False,
) -> None:
    """Use an earlier version of the ranker, with the strategies that it promoted and retired; nothing is deleted."""
    from automl.published import versions
    from strategy_pool.versions import Busy

    known = versions()
    used = known.in_use
    if version is None:
        if used is None:
            raise InputError("no version of the ranker is in use; there is nothing to go back from")
        version = max((number for number in known.numbers() if number < used), default=0)
    try:
        with known.lock():
            known.use(version)
    except Busy as busy:
        raise InputError(f"{busy}; try again later") from None
    print(
        f"version {version} is in use"
        if version
        else "no version is in use: the history average orders the pool"
    )
    if as_json:
        print(json.dumps({"in_use": known.in_use, "before": used}))


def _tell(text: str) -> None:
    print(text.strip(), file=sys.stderr)


def _line(about: dict[str, Any], used: bool) -> str:
    ndcg, regret = (about["metrics"][name]["mean"] for name in ("ndcg@10", "regret@1"))
    return (
        f"version {about['version']}{' (in use)' if used else ''}: {about['created']}, {about['trials']} trials of "
        f"{about['tasks']} tasks, NDCG@10 {ndcg:.3f}, regret@1 {regret:.3f}, data {about['data']}"
    )
