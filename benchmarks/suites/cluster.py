"""The same candidates on several nodes, one of which is killed in the middle, and on as many that live: the same table.

The nodes are processes of one machine (``ray start``), each with a home folder of its own; they do not read the driver's
files, which are brought to them. Where the machine allows it (Linux, as root) each lives in a mount namespace in which the
driver's folders are empty. From what is measured follows what many workers would take.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "cluster"
SUMMARY = "A sweep on several Ray nodes without a shared disk, one of them killed in the middle."

EXAMPLE = "example: automl bench cluster --nodes 2 --candidates 16"
#: Trials that have ended when a node is killed, and seconds after that, so that others are running.
_BEFORE, _INTO = 3, 3.0
#: Workers for which it is told what they would take.
_MANY = (10, 100, 1000)
_PATIENCE = 1800.0
_HERE = "--node-ip-address=127.0.0.1"


def run(argv: Sequence[str]) -> int:
    """Measure, write the table, print it. Exit codes: 0 all there, 1 a step failed, 2 wrong input."""
    from benchmarks.cells import run_measured

    options = _parser().parse_args(argv)
    return run_measured(NAME, options.results, lambda: _measure(options), to_markdown)


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE, seed="of split and trials")
    add = parser.add_argument
    add("--data", default="built-in:digits", help="images (default %(default)s)")
    add("--nodes", type=int, default=2, help="with one worker each (default %(default)s)")
    add("--candidates", type=int, default=16, help="of the sweep (default %(default)s)")
    add("--seconds", type=float, default=15.0, help="that each may take (default %(default)s)")
    add("--weights-dir", action="append", default=[], help="folder of pretrained models; repeatable")
    add("--backbone", action="append", default=[], help="only these; repeatable")
    return parser


@dataclass
class Nodes:
    """A Ray cluster of processes on this machine; a context manager.

    Args:
        folder: for their homes and logs.
        count: of nodes with one core each, beside the head, which has none.
        hidden: folders that nodes must not see.
    """

    folder: Path
    count: int
    hidden: Sequence[Path]
    apart: bool = field(default=False, init=False)
    address: str = field(default="", init=False)
    environment: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _scratch: str | None = field(default=None, init=False)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list, init=False)

    def __enter__(self) -> Nodes:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._scratch = tempfile.mkdtemp(
            prefix="amlc-", dir="/tmp" if len(tempfile.gettempdir()) > 12 else None
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.apart = _can_hide()
        # Only who has this token may join.
        self.environment = {
            **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        try:
            self._start(
                "head",
                [
                    "--head",
                    f"--port={port}",
                    "--num-cpus=0",
                    "--include-dashboard=false",
                    _HERE,
                    f"--temp-dir={self._scratch}",
                ],
            )
            self._wait(0)
            for number in range(self.count):
                self._start(f"node-{number}", [f"--address={self.address}", "--num-cpus=1", _HERE])
                self._wait(number + 1)  # two that start at once may choose the same ports
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, name: str, arguments: Sequence[str]) -> None:
        from automl.search._freight import ALWAYS

        home = self.folder / name
        home.mkdir()
        command = [str(Path(sys.executable).parent / "ray"), "start", *arguments, "--block"]
        environment = {**self.environment, "AUTOML_HOME": str(home)}
        if name != "head":
            environment[ALWAYS] = "1"
            if self.apart:
                hide = " && ".join(f"mount -t tmpfs none '{folder}'" for folder in self.hidden)
                command = ["unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "sh", *command]
        with open(self.folder / f"{name}.log", "wb") as log:
            self._processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )

    def _wait(self, cores: int, seconds: float = 60.0) -> None:
        """Until so many cores have joined.

        Raises:
            RuntimeError: they do not.
        """
        code = (
            f"import ray; ray.init('{self.address}', logging_level='error', log_to_driver=False); "
            "print(int(ray.cluster_resources().get('CPU', 0)))"
        )
        until, said = time.monotonic() + seconds, "nothing was said"
        while time.monotonic() < until:
            done = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                check=False,
                env=self.environment,
            )
            said = (done.stdout.strip() or done.stderr.strip() or said).splitlines()[-1]
            if done.returncode == 0 and said.isdigit() and int(said) >= cores:
                return
            time.sleep(1.0)
        raise RuntimeError(f"the nodes did not start: {said} (see {self.folder})")

    def kill(self, number: int) -> None:
        """kill -9 a node with all its processes."""
        _kill(self.folder / f"node-{number}", self._processes[1 + number].pid)

    def __exit__(self, *_: object) -> None:
        names = ["head", *(f"node-{number}" for number in range(self.count))]
        for name, process in reversed(list(zip(names, self._processes, strict=False))):
            _kill(self.folder / name, process.pid)
            process.wait()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._processes.clear()


def _kill(home: Path, leader: int) -> None:
    """kill -9 all processes of a node; Ray lets some leave the family of the one that started them.

    Args:
        home: of the node, which is in the environment of each, so far as it is not written over by a title.
        leader: of its session.
    """
    import psutil

    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(leader)
        found = {process.pid: process for process in (first, *first.children(recursive=True))}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == leader or process.environ().get("AUTOML_HOME") == str(home):
                found[process.pid] = process
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)


def _can_hide() -> bool:
    """Whether processes of this one may have mounts of their own."""
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return done.returncode == 0


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.cells import check_at_least
    from benchmarks.environment import environment

    check_at_least(options, nodes=2, candidates=_BEFORE + 1, seed=0)
    work = Path(options.work).resolve()
    data = _data(options.data, work)
    whole = _sweep(options, data, work / "whole", kill=None)
    killed = _sweep(options, data, work / "killed", kill=0)
    return {
        "schema_version": 1, "suite": NAME, "nodes": options.nodes, "candidates": options.candidates,
        "seconds_each": options.seconds, "seed": options.seed, "whole": whole, "killed": killed,
        **compare(whole, killed), "environment": environment(),
    }  # fmt: skip


def _data(text: str, work: Path) -> Path:
    from automl.errors import InputError
    from benchmarks.built_in import write
    from benchmarks.matrix import BUILT_IN

    if text.startswith(BUILT_IN):
        return write(text.removeprefix(BUILT_IN), work / "built-in")
    path = Path(text).expanduser().resolve()
    if not path.exists():
        raise InputError(f"data '{text}' does not exist")
    return path


def _sweep(options: argparse.Namespace, data: Path, folder: Path, *, kill: int | None) -> dict[str, Any]:
    """One sweep in a process of its own; with ``kill``, that node dies once some trials have ended."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    driver = folder / "driver"
    out, home = driver / "run", driver / "home"
    home.mkdir(parents=True)
    spec = {
        "data": str(data), "out": str(out), "candidates": options.candidates, "seconds": options.seconds,
        "seed": options.seed, "weights_dirs": [str(Path(f).resolve()) for f in options.weights_dir],
        "backbones": options.backbone, "workers": options.nodes,
    }  # fmt: skip
    with Nodes(folder / "nodes", options.nodes, [driver]) as nodes:
        began = time.monotonic()
        environment = {**nodes.environment, "AUTOML_HOME": str(home)}
        command = [sys.executable, "-m", f"{__name__.rpartition('.')[0]}._cluster_part"]
        with open(folder / "log.txt", "wb") as log:
            process = subprocess.Popen(
                [*command, json.dumps({**spec, "address": nodes.address})],
                env=environment, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            stop = threading.Event()
            killer = threading.Thread(target=_kill_later, args=(nodes, kill, out, stop), daemon=True)
            if kill is not None:
                killer.start()
            try:
                said, _ = process.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise RuntimeError(f"the sweep hangs (see {folder / 'log.txt'})") from None
            finally:
                stop.set()
                process.kill()
                process.wait()
        apart = nodes.apart
    if process.returncode:
        raise RuntimeError(f"the sweep ended with {process.returncode} (see {folder / 'log.txt'})")
    told = json.loads(said.splitlines()[-1])
    return {**told, "wall_seconds": round(time.monotonic() - began, 1), "mounts_apart": apart}


def _kill_later(nodes: Nodes, number: int, out: Path, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        ended = list(out.glob("search/trials/*/outcome.json"))
        if len(ended) >= _BEFORE:
            if not stop.wait(_INTO):
                nodes.kill(number)
            return


def compare(whole: Mapping[str, Any], killed: Mapping[str, Any]) -> dict[str, Any]:
    """Whether both sweeps have the same candidates in the end.

    Args:
        whole, killed: ``trials``, each with ``candidate``, ``status`` and whether it is ``recorded``.
    """

    def table(sweep: Mapping[str, Any]) -> list[tuple[str, str]]:
        return sorted((t["candidate"], t["status"]) for t in sweep["trials"] if t["recorded"])

    return {"same_table": table(whole) == table(killed), "table": len(table(killed))}


def outlook(summary: Mapping[str, Any], workers: int) -> dict[str, float]:
    """What so many workers would take, from what was measured.

    Args:
        summary: of the suite.
        workers: on nodes of their own.

    Returns:
        ``bring_seconds`` until all have the data, as one porter sends them one after another; ``trials_per_second`` that
        end; ``driver_share`` of the driver's time that these take.
    """
    whole = summary["whole"]
    bring = workers * whole["bytes_per_node"] / whole["bytes_per_second"]
    rate = workers / whole["trial_seconds"]
    return {
        "bring_seconds": bring, "trials_per_second": rate, "driver_share": rate * whole["driver_seconds_per_trial"],
    }  # fmt: skip


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.environment import describe
    from benchmarks.tables import table

    whole, killed = summary["whole"], summary["killed"]
    rows = [
        [
            name, str(sum(t["recorded"] for t in sweep["trials"])), str(len(sweep["lost"])),
            f"{sweep['wall_seconds']:.0f}",
        ]
        for name, sweep in (("all nodes live", whole), ("one is killed", killed))
    ]  # fmt: skip
    many = []
    for workers in _MANY:
        found = outlook(summary, workers)
        many.append(
            [str(workers), f"{found['bring_seconds']:.0f}", f"{found['trials_per_second']:.1f}",
             f"{100 * found['driver_share']:.0f} %"]
        )  # fmt: skip
    apart = (
        "Each node has mounts of its own, in which the driver's folders are empty."
        if whole["mounts_apart"]
        else "The nodes see the driver's files and are told not to read them."
    )
    return "\n".join(
        [
            "# Cluster",
            "",
            f"A sweep of {summary['candidates']} candidates (seed {summary['seed']}, at most {summary['seconds_each']:g} s each) "
            f"on {summary['nodes']} nodes with one worker each and without a shared disk. {apart}",
            "",
            *table(["", "trials in the table", "lost and run again", "seconds"], rows),
            "",
            f"Both tables hold the same candidates with the same ends: {'yes' if summary['same_table'] else 'NO'}. "
            f"A node is killed {_INTO:g} s after {_BEFORE} trials have ended.",
            "",
            f"Brought to a node: {whole['bytes_per_node'] / 1e6:.1f} MB at {whole['bytes_per_second'] / 1e6:.0f} MB/s. The "
            f"driver spends {1000 * whole['driver_seconds_per_trial']:.0f} ms on a trial, which takes "
            f"{whole['trial_seconds']:.1f} s here. From these, with trials as long and one porter:",
            "",
            *table(
                ["workers", "seconds until all have the data", "trials per second", "of the driver's time"],
                many,
            ),
            "",
            f"{describe(summary['environment'])}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
