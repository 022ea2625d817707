"""Removal: does the similarity fall if the named attribute is gone (docs/method.md, Attribute recognition and removal)?"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from engine.evaluate.bootstrap import Interval, bootstrap

CONFIDENCE_RANKING = "confidence"
"""The ranking by confidence alone: the classifier's best attribute."""


def removal_drops(similarities: np.ndarray, truth: np.ndarray, groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P, A) float64: how far the similarity to the reference falls as the query gives way to one that lacks attribute i.

    similarities: (n, n) float, s[query, reference]; truth: (n, A) bool; groups: (n,); pairs: (P, 2) int, query and reference
    The other picture is of those that lack i, are not in the query's group and not the reference itself, the one whose other
    attributes differ least from the query's; of several that are equal, the mean similarity. nan where there is none.
    """
    count = truth.shape[1]
    differing = _differing(truth)
    drops = np.empty((len(pairs), count))
    for row, (query, reference) in enumerate(pairs):
        allowed = groups != groups[query]
        allowed[reference] = False
        others = np.flatnonzero(allowed)
        # among those that lack i, differing in i itself adds the same to all
        distance = np.where(truth[others], count + 1, differing[query, others][:, None])  # (o, A)
        least = distance.min(0, initial=count + 1)
        alike = (distance == least) & (least <= count)
        number = alike.sum(0)
        sums = similarities[others, reference] @ alike
        mean = np.divide(sums, number, out=np.full(count, np.nan), where=number > 0)
        drops[row] = similarities[query, reference] - mean
    return drops


def _differing(truth: np.ndarray) -> np.ndarray:
    """(n, n) int: in how many attributes two pictures differ; by products, exact in float32 below 2^24."""
    has = truth.astype(np.float32)
    both = has @ has.T
    own = has.sum(1)
    return np.rint(own[:, None] + own[None] - 2 * both).astype(np.int64)


def first_named(scores: np.ndarray, confidences: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """(P,) int: the attribute each ranking names first; of equals the first in the table.

    scores, confidences: (P, A); attributes below the threshold are not named, unless that leaves none at all
    """
    named = confidences >= threshold
    named |= ~named.any(1, keepdims=True)
    return np.where(named, scores, -np.inf).argmax(1)


@dataclasses.dataclass(frozen=True)
class Drop:
    """What removing the attribute that one way of choosing names costs in similarity; differences are pair by pair.

    pairs: how many had a value; over_random: less that of a random attribute; over_confidence: less that of the most
    confident one
    """

    mean: Interval
    over_random: Interval
    over_confidence: Interval
    pairs: int


def removal(
    drops: np.ndarray, truth: np.ndarray, rankings: Mapping[str, np.ndarray], clusters: np.ndarray
) -> dict[str, Drop]:
    """The drop for each ranking's first attribute, beside: `random`, any attribute; `random_true`, any of the query's; and
    `best`, the one with the largest drop.

    drops: (P, A) of `removal_drops`; truth: (P, A) bool, of the queries; rankings: name -> (P,) int, the attribute named
    first, `confidence` among the names; clusters: (P,), pairs to resample together
    """
    rows = np.arange(len(drops))
    chosen = {name: drops[rows, first] for name, first in rankings.items()}
    chosen["random"] = _mean(drops)
    chosen["random_true"] = _mean(np.where(truth, drops, np.nan))
    known = np.isfinite(drops).any(1)
    chosen["best"] = np.where(known, np.where(np.isfinite(drops), drops, -np.inf).max(1), np.nan)
    return {
        name: Drop(
            bootstrap(values, clusters),
            bootstrap(values - chosen["random"], clusters),
            bootstrap(values - chosen[CONFIDENCE_RANKING], clusters),
            int(np.isfinite(values).sum()),
        )
        for name, values in chosen.items()
    }


def _mean(rows: np.ndarray) -> np.ndarray:
    """(P, A) -> (P,): without the entries that are nan; nan where that leaves none."""
    known = np.isfinite(rows)
    number = known.sum(1)
    return np.divide(np.where(known, rows, 0).sum(1), number, out=np.full(len(rows), np.nan), where=number > 0)


def direction_agreement(forward: np.ndarray, back: np.ndarray, clusters: np.ndarray) -> Interval:
    """The share of pairs whose first attribute is the same from the query to the reference and the other way round.

    forward, back: (P,) int, of pair p in either direction; clusters: (P,)
    """
    return bootstrap((forward == back).astype(np.float64), clusters)


def top_true(first: np.ndarray, truth: np.ndarray, pairs: np.ndarray, clusters: np.ndarray) -> Interval:
    """The share of pairs (P, 2) whose first attribute (P,) both pictures have; truth: (n, A) bool; clusters: (P,)"""
    both = truth[pairs[:, 0], first] & truth[pairs[:, 1], first]
    return bootstrap(both.astype(np.float64), clusters)
