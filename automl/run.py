"""The state of one submit: what is read, found, tried and chosen on the way from a task to a model."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from automl import supernets
from automl.affinity import asked, say_finding, settled
from automl.aside import Aside
from automl.candidate import Candidate
from automl.device import cores
from automl.errors import AutomlError
from automl.machine import trial_resources
from automl.plan import LANDMARK_SHARE, Clock, PhasedProposer, Refit
from automl.records import INTERRUPTED, Outcome, TrialSpec
from automl.run_folder import RunFolder, brought_folders, changed_limits, require_same_data, told_sets
from automl.task import Constraint, Task, check_class_names
from automl.ticker import Ticker
from strategy_pool.strategy import FROZEN_METHODS

#: Networks that an ensemble is expected to have at most, before it is known.
_LIKELY_MEMBERS = 3


class Run:
    """State of one submit."""

    def __init__(
        self, task: Task, folder: Path, resume: bool, limits: tuple[tuple[Constraint, ...], ...], quiet: bool
    ) -> None:
        self.task, self.folder, self.resume, self.limits, self.quiet = task, folder, resume, limits, quiet
        self.workers = 1
        self.clock = Clock(time.monotonic(), None if task.max_trials else task.budget.seconds)
        self.finished: list[tuple[TrialSpec, Outcome]] = []
        self.all_landmarks: list[Candidate] = []
        self.sources: dict[str, str] = {}
        self.history: Any = None
        self.interrupted = False
        self.begun: dict[str, Any] = {}
        self.held: RunFolder | None = None
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.aside: Aside | None = None
        self.how: dict[str, Any] = {"use_supernet": True}

    # --- the folder -----------------------------------------------------------------------------

    def open(self) -> None:
        """Make the run folder, or check that it can be resumed; of an earlier run nothing is changed.

        Raises:
            InputError: the folder cannot be used.
        """
        self.held = RunFolder(self.folder, Path(self.task.data), self.resume)
        self.begun = self.held.begun
        if self.begun and changed_limits(self.begun, self.task, self.limits):
            self.say("the limits are others than those that the run began with; these are kept now")
        used = self.folder / "search" / "clock.json"
        if self.resume and used.exists():
            self.clock.began -= min(
                float(json.loads(used.read_text())["used"]), 0.9 * self.task.budget.seconds
            )
        from automl.search import TrialStore

        self.store = TrialStore(self.folder)
        self.say(f"run folder {self.folder}")

    def undo(self) -> None:
        """Remove what :meth:`open` made: the submit is refused, and nothing was tried yet."""
        if self.held is not None:
            self.held.undo()

    def say(self, text: str) -> None:
        """Tell the user something, on standard error."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Give back what is held open."""
        if self.history is not None:
            self.history.close()
        if self.held is not None:
            self.held.close()

    @property
    def run_id(self) -> str:
        """What tells this run's trials from those of another one in the history."""
        return self.held.run_id if self.held is not None else ""

    # --- data, backbones, feasibility, pool -------------------------------------------------------

    def find_networks(self) -> None:
        """Find the backbones."""
        from automl import networks

        self.sets = [list(limits) for limits in self.limits] or [list(self.task.constraints)]
        self.backbones = networks.find(self.task, self.sets, self.say, self.aside, self.how["use_supernet"])

    def read(self, columns: dict[str, str] | None, start: Callable[[], None] | None = None) -> None:
        """Load the data and check the task against it; ``start`` is called as soon as nothing speaks against it."""
        from automl.data import load_dataset

        def check(names: Sequence[str]) -> None:
            self.task.check_classes(list(names))
            for limits in self.limits:
                check_class_names(limits, list(names))

        def listed(names: Sequence[str]) -> None:
            check(names)
            if start is not None:
                start()

        began = time.monotonic()
        self.say(f"reading {self.task.data}")
        self.dataset = load_dataset(
            self.task.data,
            seed=self.task.seed,
            columns=columns,
            listed=listed,
            progress=Ticker(self.say, "decoding"),
        )
        check(self.dataset.class_names)
        self.sample = self.dataset
        require_same_data(self.begun, self.dataset, self.folder, self.say)
        _write_json(
            self.folder / "search" / "task.json",
            {
                **self.task.to_dict(),
                "limits": told_sets(self.limits),
                "columns": columns,
                "fingerprint": self.dataset.fingerprint,
                "digests": self.dataset.digests,
                "run_id": self.run_id,
                **self.how,
            },
        )
        _write_json(self.folder / "search" / "dataset.json", self.dataset.report.to_dict())
        for line in self.dataset.report.lines():
            self.say(f"  {line}")
        self.seconds["data"] = time.monotonic() - began

    def open_history(self, url: str | None) -> None:
        """Open the history, by default the one in the user's cache folder.

        Raises:
            HistoryError: it cannot be opened.
        """
        from automl.home import home_folder
        from strategy_pool.history import History, default_url

        self.history = History(url or os.environ.get("AUTOML_HISTORY") or default_url(home_folder()))

    def build_pool(self, use_pool: bool) -> None:
        """Measure what is feasible and build the pool."""
        from automl import networks, ranking
        from automl.published import published

        self.ranker, self.catalog, retired = published(use_pool, self.say)
        self.table, self.infeasible = networks.measure(
            self.backbones, self.dataset, self.task, self.sets, self.say, self.aside, self.clock.measured_by
        )
        self.table.to_parquet(self.folder / "search" / "feasibility.parquet")
        active = {name: recipe for name, recipe in self.catalog.items() if name not in retired}
        self.pool = ranking.build_pool(self.backbones, active, self.table, self.dataset.size)
        if not self.pool:
            raise AutomlError("no strategy of the catalog fits any of the backbones")
        self.use_pool = use_pool
        self.past = None
        if use_pool and self.ranker is None:
            from strategy_pool.shipped import with_shipped

            own = self.history.ranking_trials(()), self.history.tasks()
            self.past, _tasks = with_shipped(*own, sketch=self.dataset.sketch)
        from automl.profile import profile

        objective = self.task.objective.expression
        self.task_id = f"{self.dataset.fingerprint[:16]}-{objective}"
        self.features = profile(self.dataset)
        about = {"name": self.dataset.name, "objective": objective, "features": self.features}
        about["sketch"] = self.dataset.sketch
        self.history.add_task(self.task_id, about)
        self.clock.workers = self.workers
        self.macs = networks.macs(self.table)
        # How many test images there are to score, and how often.
        self.scored = len(self.dataset.indices("test")), max(1, len(self.limits))
        self.most_macs = self.clock.most_macs(*self.scored)
        likely = _LIKELY_MEMBERS * networks.largest_macs(self.backbones, self.table)
        self.clock.keep_for(self.scored[0], min(likely, self.most_macs), self.scored[1])

    # --- the search -------------------------------------------------------------------------------

    def choose_images(self, before: Sequence[tuple[TrialSpec, Outcome]] = ()) -> None:
        """Decide from how many images the search learns; ``before`` are finished trials of a run that is resumed."""
        from automl.ranking import search_images

        span = self.clock.final - time.monotonic()
        self.first_look: dict[str, Any] = {
            "classes": len(self.dataset.class_names),
            "core_seconds": LANDMARK_SHARE * span * self.workers if self.clock.budget else None,
        }
        images = len(self.dataset.indices("development"))
        asked = {spec.images or images for spec, _ in before if spec.purpose == "search"}
        self.images = (
            max(asked)
            if asked
            else search_images(self.backbones, self.table, images=images, **self.first_look)
        )
        self.sample = self.dataset.sample(self.images)
        if (seen := self.sample.sampled) is not None:
            self.notes.append(
                f"the search learned from {seen} of {images} development images, for lack of time"
            )
            self.say(f"  {self.notes[-1]}")
        self.first_look["images"] = seen or images

    def search(self, *, ray_address: str | None, in_process: bool) -> None:
        """Run the trials of all phases."""
        from automl.choose import choose_refits
        from automl.ranking import landmark_candidates
        from automl.search import SearchDisplay, run_search

        began = time.monotonic()
        self.rounds = self.workers if self.task.max_trials is not None else None
        before = self.store.finished() if self.resume else []
        self.choose_images(before)
        landmarks = landmark_candidates(self.backbones, self.catalog, self.table, **self.first_look)
        landmarks = landmarks[: self.task.max_trials]  # all of them where none is given
        done: set[str] = set()
        for spec, outcome in before:
            if outcome.error == INTERRUPTED:
                continue
            self._take(spec, outcome)
            if spec.purpose == "search":
                done.add(spec.candidate.id)
        if self.resume:
            self.store.clean_orphans()
        self.all_landmarks = landmarks
        waiting = [c for c in landmarks if c.id not in done]
        self.phases = PhasedProposer(
            waiting,
            self._make_proposer,
            lambda: choose_refits(self),
            self.clock,
            choose_supernet=lambda: supernets.choose_for(self),
        )
        start = time.monotonic()
        seconds = (lambda: self.clock.final - start) if self.clock.budget else None
        with SearchDisplay(seconds, trials=self.task.max_trials, quiet=self.quiet) as display:
            end = run_search(
                self.phases,  # type: ignore[arg-type]
                self._make_spec,
                deadline=lambda: self.clock.final + 1.0,
                concurrency=self.workers,
                on_result=self._on_result,
                mode="inprocess" if in_process else "ray",
                ray_address=ray_address,
                resources=trial_resources(self.workers),
                first_rung=self.clock.first_rung(),
                scratch=self.folder / "search" / "tune" if ray_address else None,
                folders=brought_folders(self) if ray_address else None,
                violations=self._violations,
                listener=display,
            )
        self.interrupted = end.interrupted
        self.seconds["search"] = time.monotonic() - began
        if self.interrupted:
            self.say("interrupted: finishing with the best model so far")

    def ranked(self) -> Any:
        """The pool's frame, best expected first, with what finished trials tell about the backbones."""
        from automl.ranking import PoolContext, catalog_order, order_by_ranker, order_pool, pool_frame
        from strategy_pool.features import pool_rows
        from strategy_pool.prior import rank

        frame = pool_frame(self.pool, self.catalog, self.table, self.backbones)
        if not self.use_pool:
            return catalog_order(frame)
        scores = self.backbone_scores()
        images = len(self.sample.indices("train"))
        context = PoolContext(images, self.clock.allotment(), self.dataset.size, scores)
        if self.ranker is None:
            return order_pool(rank(frame, self.past, self.features), context)
        tried = self.history.trials(self.task_id)
        rows = pool_rows(frame, self.features, self.catalog, str(self.task.device), tried)
        return order_by_ranker(frame, rows, self.ranker, context, self.task.seed)

    def _landmark_scores(self) -> dict[Candidate, float]:
        """Finished models on frozen features and their scores."""
        return {
            spec.candidate: outcome.usable_score
            for spec, outcome in self.finished
            if outcome.usable_score is not None and spec.strategy["method"] in FROZEN_METHODS
        }

    def backbone_scores(self) -> dict[str, float]:
        """Best score of a model on frozen features, per backbone."""
        scores: dict[str, float] = {}
        for candidate, score in self._landmark_scores().items():
            scores[candidate.architecture] = max(scores.get(candidate.architecture, -1.0), score)
        return scores

    def _make_proposer(self) -> Any:
        from automl.ranking import distinct, second_views
        from automl.search import Proposer
        from strategy_pool.strategy import search_space

        say_finding(self)
        ordered = self.ranked()
        ordered.to_parquet(self.folder / "search" / "pool.parquet")
        by_id = {c.id: c for c in self.pool}
        pool = [by_id[name] for name in ordered["candidate"]]
        if self.how["use_search"]:
            pool = [*second_views(self._landmark_scores(), self.table, **self.first_look), *pool]
        pool = distinct(pool, self.catalog, self.all_landmarks)
        if self.rounds:
            pool = [*self.all_landmarks, *pool]
        names = [s.name for s in self.catalog.values() if any(c.strategy == s.name for c in pool)]
        allowed = {(c.architecture, c.strategy) for c in self.pool}
        proposer = Proposer(
            pool,
            space={
                "triples": list(dict.fromkeys(c.triple for c in pool)),
                "strategies": names,
                "ranges": {name: search_space(self.catalog[name]) for name in names},
                "defaults": {name: self.catalog[name].to_dict() for name in names},
                "allowed": lambda c: (c.architecture, c.strategy) in allowed,
            },
            seed=self.task.seed,
            explore_share=self.how["explore"] if self.how["use_search"] else 0.0,
            pool_first=len(self.all_landmarks) + 6,
            deterministic_batch=self.rounds,
            max_trials=self.task.max_trials,
            cost_hint=self._cost_hint if self.clock.budget else None,
        )
        for spec, outcome in self.finished:
            if spec.purpose == "search" and not supernets.is_subnet(spec):
                proposer.observe(
                    spec.candidate,
                    outcome.usable_score,
                    self._violations(spec, outcome),
                    outcome.status,
                    error=outcome.error,
                    epochs=outcome.epochs,
                )
        return proposer

    def _cost_hint(self, candidate: Candidate) -> float:
        from automl.ranking import frozen_seconds

        method = self.catalog[candidate.strategy].method
        if method in FROZEN_METHODS:
            # Where the features are there already it is quicker; one that cannot end leaves nothing.
            macs = self.macs[candidate.triple]
            images, classes = len(self.sample.indices("development")), len(self.dataset.class_names)
            return 4.0 + 1.5 * frozen_seconds(images, classes, macs)
        # Once a fine-tuning cannot have half of its time any more, what is left goes to the refits.
        return 0.5 * (self.clock.allotment() or 0.0)

    def _make_spec(self, candidate: Candidate, _left: float) -> TrialSpec:
        refit: Refit | None = self.phases.current
        trial_id = self.store.new_trial_id()
        trains_supernet = candidate.strategy == supernets.SUPERNET
        recipe = self.catalog[supernets.STRATEGY if trains_supernet else candidate.strategy]
        strategy = settled(self, recipe.with_overrides(dict(candidate.overrides)).to_dict())
        backbone = next(b for b in self.backbones if b.name == candidate.architecture)
        if refit is not None:
            seconds = self.phases.refit_seconds()
            initial = str(self.store.folder(refit.source))
            self.sources[trial_id] = "refit"
        elif trains_supernet:
            seconds, initial = supernets.seconds_for(self.clock), None
            self.sources[trial_id] = supernets.SUPERNET
        else:
            seconds = self._search_seconds(strategy["method"])
            initial = None
            self.sources[trial_id] = "pool" if candidate in self.pool else "search"
        return TrialSpec(
            trial_id=trial_id,
            candidate=candidate,
            dataset_folder=str(self.dataset.folder),
            backbone=backbone.to_dict(),
            folder=str(self.store.folder(trial_id)),
            seconds=seconds,
            max_epochs=None,
            seed=self.task.seed * 1000 + int(trial_id[1:]),
            threads=max(1, cores() // self.workers),
            device=str(self.task.device),
            objective=self.task.objective.expression,
            constraints=[c.expression for c in self.task.constraints],
            shared_folder=str(self.folder / "search" / "shared"),
            strategy=strategy,
            affinity=candidate in asked(self),
            purpose="refit" if refit else supernets.SUPERNET if trains_supernet else "search",
            initial=initial,
            images=self.images if refit is None and self.sample.sampled is not None else None,
            **(supernets.asked(self) if trains_supernet else {}),
        )

    def _search_seconds(self, method: str) -> float | None:
        """Seconds of a trial of phase 2; one that would leave too little for another gets the rest."""
        if self.clock.budget is None:
            return None
        now = time.monotonic()
        left = max(1.0, self.clock.search_end - now)
        allotment = self.clock.allotment() or left
        if method in FROZEN_METHODS:
            # Without any model nothing else matters: the first ones may take the time of the others.
            return max(left if self.phases.phase > 1 else self.clock.final - now, 5.0)
        return left if left < 2 * allotment else allotment  # no crumbs that are too short for another

    def _on_result(self, spec: TrialSpec, outcome: Outcome) -> None:
        from automl.finish import preload

        preload()
        self._take(spec, outcome)
        _write_json(self.folder / "search" / "clock.json", {"used": self.clock.used()})

    def _take(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Take in a finished trial, and the subnets that it left."""
        if supernets.is_subnet(spec):
            supernets.admit(self, spec, outcome)
        self.finished.append((spec, outcome))
        self._record(spec, outcome)
        if spec.purpose == supernets.SUPERNET:
            for subnet in supernets.take_over(self, spec):
                self._take(*subnet)

    def _record(self, spec: TrialSpec, outcome: Outcome) -> None:
        from automl.history_rows import trial_row

        if spec.purpose == supernets.SUPERNET or (
            outcome.status == "stopped" and outcome.error == INTERRUPTED
        ):
            return
        try:
            self.history.add_trial(
                trial_row(
                    self.task_id,
                    self.run_id,
                    spec,
                    outcome,
                    run=self.folder.name,
                    source=self.source_of(spec),
                    dataset=self.dataset,
                )
            )
        except Exception as error:
            self.notes.append(f"trial {spec.trial_id} is not in the history: {error}")
            self.say(f"  {self.notes[-1]}")

    def source_of(self, spec: TrialSpec) -> str:
        """Where a trial came from: pool, search, refit or supernet."""
        if spec.purpose == "refit":
            known = "refit"
        elif spec.purpose == supernets.SUPERNET or supernets.is_subnet(spec):
            known = supernets.SUPERNET
        else:
            known = "search" if spec.candidate.overrides else "pool"
        return self.sources.get(spec.trial_id, known)

    def _violations(self, spec: TrialSpec, outcome: Outcome) -> dict[str, float]:
        from automl.choose import violations

        limits = [c for c in self.task.constraints if not c.is_cost]
        if not limits or outcome.usable_score is None:
            return {}
        return violations(Path(spec.folder), self.dataset, self.task.objective, limits)

    # --- the end ----------------------------------------------------------------------------------

    def finish(self) -> Any:
        """Export, measure and report for each set of limits."""
        from automl import networks
        from automl.finish import Finisher, preload

        began = time.monotonic()
        preload().join()
        networks.measure_tried(self)
        finisher = Finisher(self, began)
        if not self.limits:
            return finisher.run(self.folder, self.task)
        results = []
        for number, limits in enumerate(self.limits, 1):
            folder = self.folder / f"limits-{number:02d}"
            results.append(finisher.run(folder, replace(self.task, constraints=limits)))
        finisher.index(results)
        return results


def _write_json(path: Path, value: Any) -> None:
    from automl.search.store import write_json

    write_json(path, value)
