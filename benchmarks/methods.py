"""What suites compare: the engine and its parts, searchers of the field, and what a practitioner would do by hand.

A method takes the spec of a cell (:mod:`benchmarks.child`) and answers with a class for each test image. All of them see
the same images, splits, networks, cores and time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import child, peers
from benchmarks.child import Spec
from benchmarks.references import Answer
from benchmarks.searchers import SEARCHERS

if TYPE_CHECKING:
    from automl.data import Dataset
    from search_spaces.backbones import Backbone


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        title: what it is, for tables.
        answer: spec → answer.
        alone: whether it starts as on a new machine, and is judged by what it reaches so.
    """

    title: str
    answer: Callable[[Spec], Answer]
    alone: bool = True


def submitted(spec: Spec, **options: Any) -> Answer:
    """Submit as a user does, to an empty home folder, and read what the exported model said."""
    columns = spec["settings"]["columns"] or None
    index, predicted, _names, details = child.submit_alone(
        spec, spec["source"], seed=seed_of(spec), columns=columns, **options
    )
    child.check_same(index, dataset_of(spec).indices("test"))
    return Answer(predicted, details, details["own_seconds"])


def cold(spec: Spec) -> Answer:
    """The same without the history that the package carries."""
    from strategy_pool import shipped

    shipped.FILE = Path(spec["work"]) / "none"
    return submitted(spec)


def scratch(spec: Spec) -> Answer:
    """The same with the networks for training from scratch alone."""
    from search_spaces import families

    return submitted(spec, backbones=families.architectures())


def logreg(spec: Spec) -> Answer:
    """Logistic regression on frozen features of the best backbone."""
    from benchmarks.references import logistic_reference

    dataset = dataset_of(spec)
    backbones = child.pretrained(spec)
    found = logistic_reference(dataset, backbones, child.features_folder(spec, dataset))
    chosen = next(b for b in backbones if b.name == found.details["backbone"])
    return _measured(spec, dataset, chosen, found)


def plain(spec: Spec) -> Answer:
    """Plain fine-tuning of the backbone whose logistic regression is the best on validation images."""
    from benchmarks.references import plain_reference

    dataset = dataset_of(spec)
    chosen = best_of(spec, dataset)
    found = plain_reference(dataset, chosen, spec["settings"]["budget"], seed=seed_of(spec))
    return _measured(spec, dataset, chosen, found)


def peer(name: str, spec: Spec) -> Answer:
    """Somebody else's engine, given the same backbone as plain fine-tuning."""
    dataset = dataset_of(spec)
    chosen = best_of(spec, dataset)
    found = peers.answer(
        name, dataset, chosen, Path(spec["work"]) / "peer",
        seconds=spec["settings"]["budget"], seed=seed_of(spec),
    )  # fmt: skip
    return _measured(spec, dataset, chosen, found)


def _measured(spec: Spec, dataset: Dataset, backbone: Backbone, answer: Answer) -> Answer:
    """Where there are limits, what the answering network costs as a file of the engine's kind: ``again`` of the details."""
    if spec["settings"].get("limits"):
        answer.details["again"] = child.costs_of(
            backbone, answer.details["resolution"], len(dataset.class_names), Path(spec["work"])
        )
    return answer


def best_of(spec: Spec, dataset: Dataset) -> Backbone:
    """The backbone whose logistic regression is the best on validation images."""
    from benchmarks.references import choose_probe

    backbones = child.pretrained(spec)
    name = choose_probe(dataset, backbones, child.features_folder(spec, dataset))["backbone"]
    return next(b for b in backbones if b.name == name)


METHODS: Mapping[str, Method] = {
    "engine": Method("the engine", submitted),
    "cold": Method("the engine without any history", cold),
    "no-pool": Method(
        "the engine with --no-pool: the catalog's order, no ranking and no search",
        partial(submitted, full=False),
    ),
    "no-supernet": Method("the engine with --no-supernet", partial(submitted, supernet=False)),
    "scratch": Method("the engine with networks for training from scratch alone", scratch),
    **{name: Method(one.title, partial(submitted, searcher=name)) for name, one in SEARCHERS.items()},
    "logreg": Method("logistic regression on frozen features of the best backbone", logreg, alone=False),
    "plain": Method("plain fine-tuning of the best backbone", plain, alone=False),
    **{
        name: Method(one.title, partial(peer, name), alone=False)
        for name, one in peers.PEERS.items()
        if one.answers
    },
}


def seed_of(spec: Spec) -> int:
    """Of the split and of all that is drawn."""
    return int(spec["identity"]["split"])


def dataset_of(spec: Spec) -> Dataset:
    """The images with the cell's split."""
    from automl.data import load_dataset

    return load_dataset(spec["source"], seed=seed_of(spec), columns=spec["settings"]["columns"] or None)
