"""Whether two tasks are of the same pictures, told by the smallest digests of their files.

Which digests are the smallest depends on the files alone, so that a part of a data set is recognised as one
(bottom-k sketch: Cohen & Kaplan 2007, section 2).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

#: Digests of a sketch.
SIZE = 256
#: Share of common pictures from which on tasks are copies of each other.
COPY = 0.1


def shared(one: Sequence[str], other: Sequence[str]) -> float:
    """Estimated share of the images of the smaller data set that are in the other one as well, 0 … 1.

    Args:
        one, other: the :data:`SIZE` smallest digests, as hex words of one length, or all where there are fewer.
    """
    limits = [max(words) for words in (one, other) if len(words) >= SIZE]
    known = [{word for word in words if not limits or word <= min(limits)} for words in (one, other)]
    fewer = min(len(words) for words in known)
    return len(known[0] & known[1]) / fewer if fewer else 0.0


def copies(sketches: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Task → the first of the tasks that it is a copy of, directly or by way of others; itself where there is none.

    Args:
        sketches: by task; an empty one resembles nothing.
    """
    first = {task: task for task in sketches}

    def root(task: str) -> str:
        while first[task] != task:
            first[task] = first[first[task]]
            task = first[task]
        return task

    holders: dict[str, list[str]] = defaultdict(list)
    for task in sorted(sketches):
        near = {other for word in sketches[task] for other in holders[word]}
        for other in sorted(near):
            if root(other) != root(task) and shared(sketches[task], sketches[other]) >= COPY:
                low, high = sorted((root(task), root(other)))
                first[high] = low
        for word in sketches[task]:
            holders[word].append(task)
    return {task: root(task) for task in sketches}
