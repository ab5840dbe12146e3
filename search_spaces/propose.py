"""Subnets for limits: an evolution over predictors, which measures and trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from search_spaces.supernet import Space, Subnet

#: What predicts from rows that :meth:`Codes.values` gives, float [n, dimensions], to float [n].
Predict = Callable[[np.ndarray], np.ndarray]

#: Subnets of a generation, generations, and the share of a generation that has children.
POPULATION, GENERATIONS, _PARENTS = 128, 30, 0.25
#: Sizes that an evolution over all sizes tells apart, and subnets of each that it keeps.
_SIZES, _OF_A_SIZE = 24, 4
#: Mean number of dimensions that change in a child.
_CHANGES = 2.0


class Codes:
    """The subnets of a space as rows of positions of choices, int [n, dimensions].

    Args:
        space: whose subnets.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        names = [d.name for d in space.dimensions]
        self.sizes = np.array([len(d.choices) for d in space.dimensions])
        self._table = np.zeros((len(names), int(self.sizes.max(initial=1))))
        for at, d in enumerate(space.dimensions):
            self._table[at, : len(d.choices)] = d.choices
        self._inside = np.array([names.index(d.inside[0]) if d.inside else -1 for d in space.dimensions])
        self._place = np.array([d.inside[1] if d.inside else -1 for d in space.dimensions])
        stages = list(dict.fromkeys(d.stage for d in space.dimensions))
        self._stage = np.array([stages.index(d.stage) for d in space.dimensions])

    def of(self, subnets: Iterable[Subnet]) -> np.ndarray:
        """Return the rows of subnets.

        Raises:
            ValueError: one is not of the space.
        """
        rows = []
        for subnet in subnets:
            subnet = self.space.canonical(subnet)
            rows.append([d.choices.index(subnet[d.name]) for d in self.space.dimensions])
        return np.array(rows, dtype=int).reshape(-1, len(self.sizes))

    def subnet(self, row: np.ndarray) -> dict[str, int]:
        """Return the subnet of a row."""
        return {d.name: d.choices[int(at)] for d, at in zip(self.space.dimensions, row, strict=True)}

    def text(self, row: np.ndarray) -> str:
        """Return a row as one character for each dimension, the position of its choice to base 36."""
        return "".join(np.base_repr(int(at), 36).lower() for at in row)

    def row(self, text: str) -> np.ndarray:
        """Return the row of such a text.

        Raises:
            ValueError: it is none of this space.
        """
        row = np.array([int(at, 36) for at in text], dtype=int)
        if row.shape != self.sizes.shape or (row >= self.sizes).any():
            raise ValueError(f"'{text[:80]}' is no subnet of this space")
        return row

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Return what predictors see, float [n, dimensions]: the choices themselves, 0 where a block is absent."""
        chosen = self._table[np.arange(len(self.sizes)), rows]
        return np.where(self._absent(rows), 0.0, chosen)

    def drawn(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw rows, one in two with the dimensions of a stage rising together, so that all sizes occur."""
        each = rng.random((count, len(self.sizes)))
        together = rng.random((count, int(self._stage.max(initial=0)) + 1))[:, self._stage]
        place = np.where(rng.random((count, 1)) < 0.5, together, each)
        return self._canonical(np.minimum((place * self.sizes).astype(int), self.sizes - 1))

    def children(self, parents: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return children: each takes whole stages of either of two parents, then some of its choices change."""
        first, second = rng.integers(len(parents), size=(2, count))
        takes = (rng.random((count, int(self._stage.max(initial=0)) + 1)) < 0.5)[:, self._stage]
        rows = np.where(takes, parents[first], parents[second])
        changes = rng.random(rows.shape) < _CHANGES / len(self.sizes)
        fresh = rng.integers(np.broadcast_to(self.sizes, rows.shape))
        return self._canonical(np.where(changes, fresh, rows))

    def _absent(self, rows: np.ndarray) -> np.ndarray:
        depth = self._table[np.maximum(self._inside, 0), rows[:, np.maximum(self._inside, 0)]]
        return (self._inside >= 0) & (depth <= self._place)

    def _canonical(self, rows: np.ndarray) -> np.ndarray:
        return np.where(self._absent(rows), 0, rows)


def spread(space: Space, count: int, seed: int = 0) -> list[dict[str, int]]:
    """Return different subnets of all sizes: both ends of the space, then drawn ones; fewer where there are no more."""
    codes = Codes(space)
    ends = codes.of([space.smallest(), space.largest()])
    rows = np.concatenate([ends, codes.drawn(4 * count, np.random.default_rng(seed))])
    return [codes.subnet(row) for row in _different(rows)[:count]]


def propose(
    space: Space,
    score: Predict,
    costs: Mapping[str, Predict],
    limits: Mapping[str, float],
    *,
    count: int = 8,
    seed: int = 0,
    known: Sequence[Subnet] = (),
    population: int = POPULATION,
    generations: int = GENERATIONS,
) -> list[dict[str, int]]:
    """Return the subnets with the highest predicted score within the limits, the best first.

    An evolution (Cai et al. 2020, Once-for-All, section 3.4; Real et al. 2019) in which a subnet that breaks limits comes
    behind every one that keeps them, by how far it breaks them (Deb 2000, *An efficient constraint handling method for
    genetic algorithms*). Where none keeps them, those that break them least are returned.

    Args:
        space: of the subnets.
        score: predicts what is to be high.
        costs: name → predicts a cost above 0.
        limits: name → the most that the cost may be.
        count: subnets to return, all different.
        seed: of everything random.
        known: subnets to begin with, besides drawn ones and both ends of the space.
        population: subnets of a generation.
        generations: of the evolution.

    Raises:
        ValueError: a limit is on a cost that is not predicted, or is not above 0.
    """
    for name, limit in limits.items():
        if name not in costs:
            raise ValueError(f"no '{name}' is predicted; costs: {', '.join(costs) or 'none'}")
        if not limit > 0:
            raise ValueError(f"a limit of {limit} on {name} is not above 0")
    codes, rng = Codes(space), np.random.default_rng(seed)

    def judged(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = codes.values(rows)
        broken = np.zeros(len(rows))
        for name, limit in limits.items():
            broken += np.maximum(np.asarray(costs[name](values), dtype=float) / limit - 1.0, 0.0)
        return broken, np.asarray(score(values), dtype=float)

    begun = codes.of([space.smallest(), space.largest(), *known])
    rows = _different(np.concatenate([begun, codes.drawn(population, rng)]))
    broken, scores = judged(rows)
    for _ in range(generations):
        order = np.lexsort((-scores, broken))[:population]
        rows, broken, scores = rows[order], broken[order], scores[order]
        parents = rows[: max(2, int(_PARENTS * population))]
        fresh = _different(codes.children(parents, population, rng), rows)
        if len(fresh):
            more_broken, more_scores = judged(fresh)
            rows = np.concatenate([rows, fresh])
            broken, scores = np.concatenate([broken, more_broken]), np.concatenate([scores, more_scores])
    order = np.lexsort((-scores, broken))[:count]
    return [codes.subnet(row) for row in rows[order]]


def front(
    space: Space,
    score: Predict,
    cost: Predict,
    *,
    count: int,
    seed: int = 0,
    known: Sequence[Subnet] = (),
    population: int = POPULATION,
    generations: int = GENERATIONS,
) -> list[dict[str, int]]:
    """Return for each of some limits on a cost the subnet with the highest predicted score within it that is not known.

    One evolution for all limits, in which the best subnets of every size have children (Mouret & Clune 2015,
    *Illuminating search spaces by mapping elites*).

    Args:
        space: of the subnets.
        score: predicts what is to be high.
        cost: predicts what is limited, above 0.
        count: limits, on the logarithm evenly spaced between both ends of the space.
        seed: of everything random.
        known: subnets to begin with, besides drawn ones and both ends of the space; they are not returned.
        population: subnets that are born in a generation.
        generations: of the evolution.

    Returns:
        different subnets, from the tightest limit to the widest; fewer than limits where some have none.
    """
    codes, rng = Codes(space), np.random.default_rng(seed)
    ends = codes.of([space.smallest(), space.largest()])
    taken = codes.of(known)

    def judged(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = codes.values(rows)
        return np.log(np.asarray(cost(values), dtype=float)), np.asarray(score(values), dtype=float)

    least, most = judged(ends)[0]
    rows = _different(np.concatenate([ends, taken, codes.drawn(population, rng)]))
    sizes, scores = judged(rows)
    for _ in range(generations):
        cell = np.clip((sizes - least) / max(most - least, 1e-9) * _SIZES, 0, _SIZES - 1).astype(int)
        order = np.lexsort((-scores, cell))
        place = np.arange(len(order)) - np.searchsorted(cell[order], cell[order])
        keep = order[place < _OF_A_SIZE]
        fresh = _different(codes.children(rows[keep], population, rng), rows[keep])
        more_sizes, more_scores = judged(fresh) if len(fresh) else (sizes[:0], scores[:0])
        rows = np.concatenate([rows[keep], fresh])
        sizes, scores = np.concatenate([sizes[keep], more_sizes]), np.concatenate([scores[keep], more_scores])
    seen = {row.tobytes() for row in taken}
    free = np.array([row.tobytes() not in seen for row in rows])
    found = []
    for limit in np.linspace(least, most, count + 1)[1:]:
        within = np.flatnonzero(free & (sizes <= limit + 1e-9))
        if len(within):
            best = int(within[np.argmax(scores[within])])
            free[best] = False
            found.append(codes.subnet(rows[best]))
    return found


def _different(rows: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """The rows without repetitions and without the known ones, in their order."""
    seen = set() if known is None else {row.tobytes() for row in known}
    kept = []
    for at, row in enumerate(rows):
        key = row.tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(at)
    return rows[kept]
