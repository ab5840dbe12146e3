"""What makes the training of a supernet cheaper, and whether it is as good then.

The same supernet is trained on the same images: for the whole time by the sandwich rule and by one random subnet a step, both
with all images and resolutions from the first step on, and for a share of that time with progressive resolution, with data
pruning (InfoBatch), with both, and with neither. Then the same subnets of all of them, with statistics of training images, are
judged on training images that were held out. All of it with several seeds. What is trained is
:mod:`search_spaces.pretrain`'s supernet; a submit's is trained more shortly, on fewer images.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

NAME = "savers"
SUMMARY = (
    "Top-1 of a supernet's subnets after a whole training, and after a cheaper one with what saves cost."
)

EXAMPLE = "example: automl bench savers --images cifar10.npz --backbone local-dir:weights/mobilenetv2_100"


@dataclass(frozen=True)
class Variant:
    """One way of training.

    Attributes:
        title: for the table.
        whole: whether it has the whole time.
        words: of ``search_spaces.pretrain``.
    """

    title: str
    whole: bool
    words: tuple[str, ...]


_RANDOM, _EVERYTHING, _PRUNED = ("--mode", "random"), ("--all-resolutions",), ("--pruned", "0.5")
#: The others are held against :data:`REFERENCES`.
VARIANTS = {
    "sandwich": Variant("sandwich rule", True, ("--mode", "sandwich", *_EVERYTHING)),
    "random": Variant("one random subnet a step", True, (*_RANDOM, *_EVERYTHING)),
    "shorter": Variant("the same, shorter", False, (*_RANDOM, *_EVERYTHING)),
    "progressive": Variant("progressive resolution", False, _RANDOM),
    "pruning": Variant("data pruning", False, (*_RANDOM, *_EVERYTHING, *_PRUNED)),
    "both": Variant("both", False, (*_RANDOM, *_PRUNED)),
}
REFERENCES = ("sandwich", "random")
#: A variant is as good as another if the interval of its difference lies above minus this.
MARGIN = 0.01


def run(argv: Sequence[str]) -> int:
    """Train what is missing, write the table, print it. Exit codes: 0 all there, 1 a step failed, 2 wrong input."""
    from benchmarks.cells import run_measured

    options = _parser().parse_args(argv)
    return run_measured(NAME, options.results, lambda: _measure(options), to_markdown)


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="npz file, as for search_spaces.pretrain")
    add(
        "--backbone",
        help="pretrained model that becomes the supernet (default: the family mobile, untrained)",
    )
    add("--seconds", type=float, default=600.0, help="of a whole training (default %(default)s)")
    add("--share", type=float, default=0.5, help="of it that the cheaper ones have (default %(default)s)")
    add("--resolutions", type=int, nargs="+", default=[64, 96], help="that are trained (default 64 96)")
    add("--batch", type=int, default=64, help="images of a step (default %(default)s)")
    add("--learning-rate", type=float, default=1e-3, help="peak of AdamW's (default %(default)s)")
    add("--ema", type=float, default=0.99, help="decay of the average of the weights (default %(default)s)")
    add("--held-out", type=int, default=2000, help="training images that are judged on (default %(default)s)")
    add("--subnets", type=int, default=12, help="that are judged (default %(default)s)")
    add("--seeds", type=int, default=2, help="trainings of each, from --seed on (default %(default)s)")
    add("--resamples", type=int, default=2000, help="of the bootstrap (default %(default)s)")
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from automl.errors import InputError
    from benchmarks.cells import check_at_least
    from benchmarks.environment import environment, sources

    check_at_least(options, subnets=2, batch=2, held_out=1, seed=0, seeds=1, resamples=100)
    if not (0 < options.share < 1 and options.seconds > 0):
        raise InputError("--share lies between 0 and 1, --seconds is above 0")
    options.resolutions = sorted(set(options.resolutions))
    seeds = range(options.seed, options.seed + options.seeds)
    # All of a seed, then the next: what is broken off has whole seeds.
    files = {(name, seed): _trained(name, seed, options) for seed in seeds for name in VARIANTS}
    right = {name: [_judged(files[name, seed], seed, options) for seed in seeds] for name in VARIANTS}
    steps = {
        name: [
            int(json.loads(files[name, seed].with_suffix(".json").read_text())["curve"][-1]["number"])
            for seed in seeds
        ]
        for name in VARIANTS
    }
    return {
        "schema_version": 2, "suite": NAME,
        **{name: getattr(options, name) for name in ("seconds", "share", "batch", "subnets", "held_out", "resamples")},
        "seeds": list(seeds), "resolutions": options.resolutions, "supernet": next(iter(files.values())).stem,
        "images": options.images.stem, "margin": MARGIN, "sources": sources(),
        "variants": {name: {"steps": steps[name], **scores(right, name, options.resamples, options.seed)} for name in VARIANTS},
        "environment": environment(),
    }  # fmt: skip


def _trained(name: str, seed: int, options: argparse.Namespace) -> Path:
    """The file of a supernet that was trained in one way; one that is there, made by the same code, is not trained again."""
    from benchmarks.environment import sources
    from benchmarks.processes import measured

    variant, folder = VARIANTS[name], Path(options.work).resolve() / f"{name}-{seed}"
    seconds = options.seconds * (1 if variant.whole else options.share)
    words = [
        "--images", str(options.images.resolve()), "--out", str(folder), "--seconds", f"{seconds:g}",
        "--resolutions", *map(str, options.resolutions), "--batch", str(options.batch), "--ema", f"{options.ema:g}",
        "--learning-rate", f"{options.learning_rate:g}", "--held-out", str(options.held_out), "--judged", "0",
        "--evaluate-every", "1e9", "--seed", str(seed), *variant.words,
    ]  # fmt: skip
    if options.backbone:
        words += ["--backbone", options.backbone]
    asked, memory = json.dumps([sources(), words]), folder / "asked.json"
    if not memory.is_file() or memory.read_text() != asked:
        print(f"{variant.title}, seed {seed}: {seconds:.0f} s of training …", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        done = measured(["search_spaces.pretrain", *words], folder / "log.txt", home=folder / "home")
        if done.code != 0:
            raise RuntimeError(f"{name}: exit code {done.code}: {done.why()} (see {done.log})")
        memory.write_text(asked)
    (file,) = folder.glob("*.safetensors")
    return file


def _judged(file: Path, seed: int, options: argparse.Namespace) -> np.ndarray:
    """Which of the images that were held out each subnet has right, bool ``[subnets, images]``."""
    import numpy as np

    from search_spaces._views import read_images
    from search_spaces.pretrain import judging_images, right
    from search_spaces.propose import spread
    from search_spaces.stored import RESOLUTION, load

    held_out, training = read_images(options.images, "cpu")[0].parted(options.held_out, seed)
    stored = load(file)
    stored.calibration = judging_images(training)
    subnets = spread(stored.space, options.subnets, seed)
    return np.stack([right(stored.build(one), held_out, one[RESOLUTION]).numpy() for one in subnets])


def scores(right: Mapping[str, Sequence[np.ndarray]], name: str, resamples: int, seed: int) -> dict[str, Any]:
    """Top-1 of the subnets of one variant, and its mean less that of the references, with a bootstrap over seeds and images.

    Args:
        right: variant → of each seed bool ``[subnets, images]``, the ends of the space first.
        name: of the variant.
        resamples: of the bootstrap.
        seed: of it.
    """
    import numpy as np

    own = right[name]
    images, rng = own[0].shape[1], np.random.default_rng(seed)
    trainings = rng.integers(0, len(own), (resamples, len(own)))
    drawn = rng.multinomial(images, np.full(images, 1 / images), (resamples, len(own))) / images
    found: dict[str, Any] = {
        "each": [float(one.mean()) for one in own],
        **{
            which: float(np.mean([one[rows].mean() for one in own]))
            for which, rows in (("mean", slice(None)), ("smallest", 0), ("largest", 1))
        },
    }
    for other in REFERENCES:
        gap = np.stack(
            [one.mean(0) - reference.mean(0) for one, reference in zip(own, right[other], strict=True)]
        )
        samples = (gap[trainings] * drawn).sum(2).mean(1)
        low, high = np.percentile(samples, [2.5, 97.5])
        found[f"less {other}"] = {"mean": float(gap.mean()), "low": float(low), "high": float(high)}
    return found


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.environment import describe
    from benchmarks.tables import points, table

    lines = []
    for name, variant in VARIANTS.items():
        one = summary["variants"][name]
        seconds = summary["seconds"] * (1 if variant.whole else summary["share"])
        gaps = [one[f"less {other}"] if name != other else None for other in REFERENCES]
        good = [gap is None or gap["low"] > -summary["margin"] for gap in gaps]
        lines.append(
            [
                variant.title,
                f"{seconds:.0f}",
                " + ".join(map(str, one["steps"])),
                *(f"{100 * one[which]:.1f}" for which in ("smallest", "mean", "largest")),
                *("" if gap is None else points(gap) for gap in gaps),
                "" if variant.whole else "yes" if all(good) else "no",
            ]
        )
    head = ["training", "seconds", "steps", "smallest top-1 %", "mean", "largest"]
    return "\n".join(
        [
            "# Cheaper training of a supernet",
            "",
            f"{summary['supernet']} on {summary['images']}, batches of {summary['batch']} images at "
            f"{', '.join(map(str, summary['resolutions']))} px, trained by `python -m search_spaces.pretrain`; top-1 of "
            f"{summary['subnets']} subnets on {summary['held_out']} held-out training images, mean over seeds "
            f"{', '.join(map(str, summary['seeds']))}.",
            "",
            *table(
                [*head, *(f"− {VARIANTS[other].title}, points [95 %]" for other in REFERENCES), "as good"],
                lines,
            ),
            "",
            f"All but the first train one random subnet a step. As good: both intervals lie above −{100 * summary['margin']:g} "
            f"point. Intervals: paired bootstrap over trainings and images, {summary['resamples']} resamples; of "
            f"{len(summary['seeds'])} trainings each, which is few.",
            f"{describe(summary['environment'])}; sources {summary['sources']}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
