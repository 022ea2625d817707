"""Which labelled pictures are taken as pairs, and which pairs belong together."""

import numpy as np

from engine.errors import OptionError
from engine.evaluate.labels import Labelled


def matching_pairs(labelled: Labelled, similarities: np.ndarray) -> np.ndarray:
    """(P, 2) int, query and reference: all ordered pairs within a group; each picture and the one most similar to it where
    the labels have no groups.

    similarities: (n, n) float. Raises OptionError where no two pictures share a group.
    """
    if not labelled.grouped:
        others = np.where(np.eye(len(similarities), dtype=bool), -np.inf, similarities)
        return np.column_stack([np.arange(len(others)), others.argmax(1)])
    same = labelled.groups[:, None] == labelled.groups[None]
    np.fill_diagonal(same, False)
    pairs = np.argwhere(same)
    if not len(pairs):
        raise OptionError("no two pictures of the labels share a group: leave the column out, or name pictures that match")
    return pairs


def linked(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(n,) int: groups (n,) joined where a pair has a picture in each; what is drawn or held out together."""
    found = np.unique(groups, return_inverse=True)[1]
    while True:
        ends = found[pairs]
        least = np.arange(found.max() + 1)
        np.minimum.at(least, ends, ends.min(1, keepdims=True).repeat(2, 1))
        if (least == np.arange(len(least))).all():
            return found
        found = np.unique(least[found], return_inverse=True)[1]


def halves(groups: np.ndarray, seed: int) -> np.ndarray:
    """(n,) bool: whether a picture is in the first half of the groups (n,), which a seed divides at random.

    Raises OptionError where there is but one group.
    """
    _, which = np.unique(groups, return_inverse=True)
    count = int(which.max()) + 1
    if count < 2:
        raise OptionError("all pictures of the labels hang together: several groups that do not match are needed")
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(count)
    return order[which] < (count + 1) // 2


def some_of(pairs: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """At most `limit` of the pairs (P, 2), drawn by a seed, in their order."""
    if len(pairs) <= limit:
        return pairs
    return pairs[np.sort(np.random.Generator(np.random.Philox(key=seed)).permutation(len(pairs))[:limit])]


def both_ways(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each two pictures of pairs (P, 2) once in one direction, then in the other: (U, 2), (U, 2)."""
    once = np.unique(np.sort(pairs, 1), axis=0)
    return once, once[:, ::-1]
