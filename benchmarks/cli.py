"""``automl bench SUITE …``: one command per module of :mod:`benchmarks.suites`, and per suite declared there."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import typer

from benchmarks import suites
from benchmarks.cells import end_on_sigterm
from benchmarks.matrix import command


def find_suites() -> dict[str, ModuleType]:
    """Return name → module of every suite, in alphabetical order.

    Raises:
        TypeError: a module lacks ``NAME``, ``SUMMARY`` or ``run``, or two have one name.
    """
    found: dict[str, ModuleType] = {}
    names = [info.name for info in pkgutil.iter_modules(suites.__path__) if not info.name.startswith("_")]
    declared = [file for folder in suites.__path__ for file in sorted(Path(folder).glob("*.toml"))]
    modules = [import_module(f"{suites.__name__}.{name}") for name in names]
    for module in [*modules, *map(command, declared)]:
        missing = [name for name in ("NAME", "SUMMARY", "run") if not hasattr(module, name)]
        if missing:
            raise TypeError(f"{module.__name__} is no suite: it has no {', '.join(missing)}")
        if module.NAME in found:
            raise TypeError(
                f"{module.__name__} and {found[module.NAME].__name__} are both named {module.NAME!r}"
            )
        found[module.NAME] = module
    return dict(sorted(found.items()))


def _command(run: Callable[[list[str]], int]) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        end_on_sigterm()
        code = run(list(context.args))
        if code:
            raise typer.Exit(code)

    return command


def _list_suites(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def make_app() -> typer.Typer:
    """Build the command with all suites."""
    built = typer.Typer(
        name="bench",
        help="Benchmarks; each suite has its own --help.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    built.callback(invoke_without_command=True)(_list_suites)
    # A suite parses its own arguments, --help among them.
    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    for name, module in find_suites().items():
        built.command(name, help=module.SUMMARY, context_settings=settings)(_command(module.run))
    return built


app = make_app()
