"""Choose pairs of labelled pictures, and find which pairs belong together.

See docs/method.md, Attribute recognition and removal.
"""

import numpy as np

from engine.errors import OptionError
from engine.evaluate.labels import Labelled


def matching_pairs(labelled: Labelled, similarities: np.ndarray) -> np.ndarray:
    """Return pairs (P, 2) int of query and reference: all ordered pairs within a group; if the labels have no groups, each
    picture with the one most similar to it.

    similarities: (n, n) float, s[query, reference]
    Raises OptionError if no two pictures share a group.
    """
    if not labelled.grouped:
        return most_similar(similarities)
    same = labelled.groups[:, None] == labelled.groups[None]
    np.fill_diagonal(same, False)
    pairs = np.argwhere(same)
    if not len(pairs):
        raise OptionError("no two pictures of the labels share a group: leave out the column, or label pictures that match")
    return pairs


def most_similar(similarities: np.ndarray) -> np.ndarray:
    """Return each picture with the other one that is most similar to it, (n, 2) int. similarities: (n, n) float"""
    others = np.where(np.eye(len(similarities), dtype=bool), -np.inf, similarities)
    return np.column_stack([np.arange(len(others)), others.argmax(1)])


def joined_groups(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return clusters (n,) int: groups (n,) int that a pair (P, 2) connects are joined. What shares a cluster is resampled,
    or held out, together.
    """
    found = np.unique(groups, return_inverse=True)[1]
    while True:
        ends = found[pairs]
        least = np.arange(found.max() + 1)
        np.minimum.at(least, ends, ends.min(1, keepdims=True).repeat(2, 1))
        if (least == np.arange(len(least))).all():
            return found
        found = np.unique(least[found], return_inverse=True)[1]


def halves(groups: np.ndarray, seed: int) -> np.ndarray:
    """Divide the groups (n,) at random into two halves; return whether each picture is in the first half, (n,) bool.

    Raises OptionError if there is only one group.
    """
    _, which = np.unique(groups, return_inverse=True)
    count = int(which.max()) + 1
    if count < 2:
        raise OptionError("all pictures of the labels belong to one group: several groups that do not match are needed")
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(count)
    return order[which] < (count + 1) // 2


def draw_pairs(pairs: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Draw at most `limit` of the pairs (P, 2), and keep their order."""
    if len(pairs) <= limit:
        return pairs
    return pairs[np.sort(np.random.Generator(np.random.Philox(key=seed)).permutation(len(pairs))[:limit])]


def split_directions(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unordered pairs among (P, 2), in one direction and in the other: (U, 2) and (U, 2)."""
    forward = np.unique(np.sort(pairs, 1), axis=0)
    return forward, forward[:, ::-1]
