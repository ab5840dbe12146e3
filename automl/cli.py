"""The command line: parses, calls the API, prints. Exit codes: 0 all limits hold, 3 none could, 2 wrong input, 1 a bug."""

from __future__ import annotations

import io
import json
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from automl.errors import AutomlError, InputError, did_you_mean
from automl.extract_cli import extract
from automl.latency_cli import app as latency_app
from automl.pool_cli import app as pool_app
from automl.rerank_cli import app as rerank_app
from automl.run_folder import HOW, as_asked
from automl.task import EXPLORE_SHARE

app = typer.Typer(
    name="automl",
    help="AutoML for images: a dataset plus limits in, a measured ONNX model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
history_app = typer.Typer(help="Every trial that was ever run.", no_args_is_help=True)
app.add_typer(pool_app, name="pool")
app.add_typer(history_app, name="history")
app.add_typer(latency_app, name="latency")
app.add_typer(rerank_app, name="rerank")
app.command("extract", epilog="Example: automl extract automl-runs/parts -c 'latency_ms<=2' --out small")(
    extract
)

Data = Annotated[str, typer.Argument(help="image folder (class/file), CSV or Parquet manifest, or .npz")]
Limit = Annotated[
    list[str], typer.Option("--constraint", "-c", help="limit such as 'latency_ms<=5'; repeatable")
]
Goal = Annotated[str, typer.Option(help="metric that is maximised within the limits")]
Where = Annotated[
    str,
    typer.Option(help="device the model will run on: cpu:THREADS, cuda:INDEX, or the device.json of a kit"),
]
Weights = Annotated[list[str], typer.Option("--weights-dir", help="folder of pretrained models; repeatable")]
Names = Annotated[
    list[str], typer.Option("--backbone", help="model by name: timm tag, local-dir:PATH; repeatable")
]
Seed = Annotated[int, typer.Option(help="of splits and everything random")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on the last line")]
Store = Annotated[
    str | None, typer.Option("--history", envvar="AUTOML_HISTORY", help="database URL of the history")
]
#: Folder of the submit that this process runs, for what is said when it ends early.
_run_folder: list[Path] = []

Columns = Annotated[
    list[str], typer.Option("--column", help="manifest column, as path=COLUMN, label=COLUMN; repeatable")
]


@app.command(
    epilog="Example: automl submit data/parts -c 'latency_ms<=5' -c 'recall[defect]>=0.995' --budget 20m"
)
def submit(
    context: typer.Context,
    data: Data,
    constraint: Limit = [],  # noqa: B006
    limits: Annotated[
        str | None, typer.Option(help="file with one set of limits per line; one model each")
    ] = None,
    objective: Goal = "balanced_accuracy",
    budget: Annotated[str, typer.Option(help="wall-clock time, as 90s, 20m, 1h30m")] = "10m",
    max_trials: Annotated[
        int | None, typer.Option(help="trials instead of the clock; the run is repeatable")
    ] = None,
    device: Where = "cpu:1",
    weights_dir: Weights = [],  # noqa: B006
    backbone: Names = [],  # noqa: B006
    history: Store = None,
    seed: Seed = 0,
    out: Annotated[
        str | None, typer.Option(help="run folder; by default a new one below automl-runs")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="go on with the run in this folder")] = None,
    ray_address: Annotated[str | None, typer.Option(help="of an existing Ray cluster, or 'auto'")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="trials at a time, by default one per core")
    ] = None,
    no_pool: Annotated[
        bool, typer.Option("--no-pool", help="catalog order, no history and no search around it")
    ] = False,
    explore: Annotated[
        float, typer.Option(min=0, max=1, help="share of the trials that Optuna proposes beside the pool")
    ] = EXPLORE_SHARE,
    no_supernet: Annotated[
        bool, typer.Option("--no-supernet", help="no supernet: none is trained, none that is carried is used")
    ] = False,
    column: Columns = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Search, train, export and measure a model that keeps the limits."""
    import automl
    from automl.task import Task, parse_limits_file

    if limits is not None and constraint:
        raise InputError(
            "--limits and --constraint exclude each other; put the constraint into every line of the file"
        )
    if resume is not None and out is not None and Path(resume).resolve() != Path(out).resolve():
        raise InputError("--resume DIR goes on in DIR; leave --out away")
    asked: dict[str, Any] = {
        "constraints": constraint,
        "objective": objective,
        "budget": budget,
        "max_trials": max_trials,
        "device": device,
        "seed": seed,
        "weights_dirs": weights_dir,
        "backbones": backbone,
        "limits": parse_limits_file(limits) if limits is not None else [],
        "columns": _columns(column),
        "use_pool": not no_pool,
        "use_search": not no_pool,
        "use_supernet": not no_supernet,
        "explore": explore,
    }
    if resume is not None:
        asked = as_asked(Path(resume), asked, _typed(context))
    sets, columns = asked.pop("limits"), asked.pop("columns")
    how = {name: asked.pop(name) for name in HOW}
    task = Task.make(data, **asked)
    folder = resume or out or automl.new_run_folder(data)
    _run_folder.append(Path(folder).expanduser())
    from automl.engine import submit as run  # only now, so that a wrong command is answered at once

    result = run(
        task,
        out=folder,
        resume=resume is not None,
        limits=sets,
        history_url=history,
        ray_address=ray_address,
        workers=workers,
        columns=columns,
        **how,
    )
    results = result if isinstance(result, list) else [result]
    for number, one in enumerate(results):
        if len(results) > 1:
            print(f"--- limits {number + 1}: {', '.join(c['expression'] for c in one.constraints) or 'none'}")
        print(one.summary())
    if as_json:
        values = [one.to_dict() for one in results]
        print(json.dumps(values if sets else values[0]))
    if any(one.status != "ok" for one in results):
        raise typer.Exit(3)


@app.command(epilog="Example: automl check data/parts")
def check(data: Data, seed: Seed = 0, column: Columns = [], as_json: Json = False) -> None:  # noqa: B006
    """Read the data and tell what is odd about it; trains nothing."""
    from automl.task import Task

    task, columns = Task.make(data, seed=seed), _columns(column)
    from automl.data import load_dataset
    from automl.ticker import Ticker

    ticker = Ticker(lambda line: print(line, file=sys.stderr, flush=True), "decoding")
    dataset = load_dataset(task.data, seed=seed, columns=columns, progress=ticker)
    for line in dataset.report.lines():
        print(line)
    if as_json:
        print(json.dumps(dataset.report.to_dict()))


@app.command(epilog="Example: automl rank data/parts -c 'latency_ms<=5' --weights-dir weights")
def rank(
    data: Data,
    constraint: Limit = [],  # noqa: B006
    objective: Goal = "balanced_accuracy",
    device: Where = "cpu:1",
    weights_dir: Weights = [],  # noqa: B006
    backbone: Names = [],  # noqa: B006
    history: Store = None,
    seed: Seed = 0,
    top: Annotated[int, typer.Option(min=1, help="rows to print")] = 20,
    column: Columns = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Print the pool in the order it would be tried on this task; trains nothing."""
    from automl.task import Task

    task = Task.make(
        data, constraints=constraint, objective=objective, device=device, seed=seed, weights_dirs=weights_dir,
        backbones=backbone,
    )  # fmt: skip
    columns = _columns(column)
    from automl.engine import rank_task

    frame = rank_task(task, history_url=history, columns=columns).head(top)
    for number, row in enumerate(frame.itertuples(), 1):
        print(f"{number:3d}  {row.expected:.3f}  {row.candidate}  ({row.why})")
    if as_json:
        print(frame.to_json(orient="records"))


@app.command(epilog="Example: automl predict automl-runs/parts new/*.png")
def predict(
    run: Annotated[str, typer.Argument(help="run folder")],
    images: Annotated[list[str], typer.Argument(help="image files or folders")],
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    as_json: Json = False,
) -> None:
    """Label images with the exported model."""
    from automl.predict import predict_files

    frame = predict_files(run, images, threads=threads)
    if as_json:
        rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
        print(json.dumps(rows))  # unlike pandas it takes names that are no UTF-8
    else:
        print(frame.to_csv(index=False), end="")
    broken = int(frame["error"].notna().sum())
    if broken == len(frame):
        raise InputError(f"none of the {broken} files could be read: {frame['error'].iloc[0]}")
    if broken:
        print(f"{broken} of {len(frame)} files could not be read; see the column error", file=sys.stderr)


@app.command(epilog="Example: automl replay automl-runs/parts t0007")
def replay(
    run: Annotated[str, typer.Argument(help="run folder")],
    trial: Annotated[str, typer.Argument(help="trial id, as in trials.parquet")],
    out: Annotated[str | None, typer.Option(help="folder for what the trial writes")] = None,
    as_json: Json = False,
) -> None:
    """Run a recorded trial again, outside the search."""
    from automl.replay import replay as again

    before, outcome = again(run, trial, out=out)
    print(f"{trial}: recorded {_number(before.score)}, now {_number(outcome.score)} "
          f"({outcome.status}, {outcome.epochs} epochs, {outcome.seconds:.1f} s)")  # fmt: skip
    if outcome.error:
        print(outcome.error)
    if as_json:
        print(json.dumps({"recorded": before.to_dict(), "now": outcome.to_dict()}))


@app.command(epilog="Example: automl demo")
def demo(
    out: Annotated[str | None, typer.Option(help="run folder")] = None,
    budget: Annotated[str, typer.Option(help="wall-clock time")] = "75s",
) -> None:
    """Real handwritten digits, a latency and a size limit, from images to a measured model."""
    from automl.demo import run_demo

    result = run_demo(out, budget)
    print(result.summary())
    if result.status != "ok":
        raise typer.Exit(3)


@history_app.command("summary", epilog="Example: automl history summary --json")
def history_summary(history: Store = None, as_json: Json = False) -> None:
    """Print how many tasks and trials are known."""
    with _history(history) as store:
        found = store.summary()
    for name, value in found.items():
        print(f"{name}: {value}")
    if as_json:
        print(json.dumps(found, default=str))


@history_app.command("export", epilog="Example: automl history export history.parquet")
def history_export(
    path: Annotated[str, typer.Argument(help="Parquet file to write; one that exists is replaced")],
    history: Store = None,
    as_json: Json = False,
) -> None:
    """Write the history to a Parquet file."""
    with _history(history) as store:
        count = store.export(path)
    print(f"{path}: {count} trials")
    if as_json:
        print(json.dumps({"path": path, "trials": count}))


@history_app.command("import", epilog="Example: automl history import history.parquet")
def history_import(
    path: Annotated[str, typer.Argument(help="Parquet file that 'automl history export' wrote")],
    history: Store = None,
    as_json: Json = False,
) -> None:
    """Merge a Parquet file into the history; nothing is duplicated."""
    with _history(history) as store:
        found = store.import_(path)
    print(f"new tasks: {found['tasks']}, new trials: {found['trials']}, known trials: {found['known']}")
    if as_json:
        print(json.dumps(found))


def _history(url: str | None) -> Any:
    from automl.home import home_folder
    from strategy_pool.history import History, default_url

    return History(url or default_url(home_folder()))


def _typed(context: typer.Context) -> set[str]:
    """The options that stand on the command line, as the engine calls them."""
    names = {
        "constraint": "constraints",
        "weights_dir": "weights_dirs",
        "backbone": "backbones",
        "column": "columns",
        "no_pool": "use_pool",
        "no_supernet": "use_supernet",
    }
    given = {name: context.get_parameter_source(name) for name in context.params}
    return {
        names.get(name, name) for name, source in given.items() if source and source.name == "COMMANDLINE"
    }


def _columns(pairs: list[str]) -> dict[str, str] | None:
    roles = ("path", "label", "split", "group")
    columns = {}
    for pair in pairs:
        role, equals, name = pair.partition("=")
        if not equals:
            raise InputError(f"--column '{pair}' has not the form ROLE=NAME, for instance label=kind")
        if role not in roles:
            raise InputError(f"--column '{pair}': there is no role '{role}'{did_you_mean(role, roles)}")
        columns[role] = name
    return columns or None


def _number(value: float | None) -> str:
    return "no score" if value is None else f"{value:.4f}"


def _add_plugins() -> None:
    for point in entry_points(group="automl.commands"):
        try:
            app.add_typer(point.load(), name=point.name)
        except Exception as error:
            print(f"command '{point.name}' cannot be loaded: {error}", file=sys.stderr)


def main() -> NoReturn:
    """Entry point: turns errors into one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file name that is no Unicode, or a terminal without Unicode, is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    wanted = next((arg for arg in sys.argv[1:] if not arg.startswith("-")), "")
    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    if wanted not in known | {"pool", "history", "rerank"}:
        _add_plugins()
    try:
        ended = app(standalone_mode=False)  # hands the code of an Exit back
        code = ended if isinstance(ended, int) else 0
    except typer.Exit as end:
        code = end.exit_code
    except AutomlError as error:
        code = _complain(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        code = _unexpected(error)
    if code == 130:
        _complain(f"interrupted{_what_is_kept()}", code)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # who read it has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.stderr.flush()
    sys.exit(code)


#: Errors of the lower floors that mean wrong input; looked up without importing what was not needed.
_INPUT_ERRORS = (
    ("strategy_pool.history", "HistoryError"),
    ("strategy_pool.versions", "VersionError"),
    ("strategy_pool._saved", "SavedError"),
    ("strategy_pool.strategy", "StrategyError"),
    ("search_spaces.backbones", "BackboneError"),
)


def _unexpected(error: Exception) -> int:
    import errno

    if hasattr(error, "format_message"):  # a wrong option or argument, as click says it
        return _usage(error)
    for module, name in _INPUT_ERRORS:
        known = getattr(sys.modules.get(module), name, None)
        if known is not None and isinstance(error, known):
            return _complain(str(error), 2)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        where = f": {error.filename}" if error.filename else ""
        return _complain(f"{error.strerror}{where}{_what_is_kept()}", 1)
    if isinstance(error, MemoryError):
        return _complain(f"the memory of this machine is not enough{_what_is_kept()}", 1)
    if os.environ.get("AUTOML_DEBUG"):
        raise error
    import traceback

    traceback.print_exc()
    return _complain(f"this is a bug: {type(error).__name__}: {error}", 1)


def _usage(error: Any) -> int:
    text = error.format_message()
    if "\n" in text:  # no command was given: this is its help
        print(text, file=sys.stderr)
        return 2
    text, context = text.rstrip("."), getattr(error, "ctx", None)
    if context is not None:
        text += f"{'' if text.endswith('?') else ';'} see {context.command_path} --help"
    return _complain(text, 2)


def _what_is_kept() -> str:
    if not _run_folder or not (_run_folder[-1] / "search" / "task.json").exists():
        return ""
    return f"; what was finished is kept, automl submit … --resume {_run_folder[-1]} goes on"


def _complain(text: str, code: int) -> int:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
