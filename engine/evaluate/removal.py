"""Removal: does the similarity fall if the named attribute is gone (docs/method.md, Attribute recognition and removal)?"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from engine.evaluate.bootstrap import Interval, bootstrap

CONFIDENCE_RANKING = "confidence"
"""The ranking by confidence alone: the classifier's best attribute."""


def removal_drops(similarities: np.ndarray, truth: np.ndarray, groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return how far the similarity to the reference falls if the query is replaced by a picture without attribute i.

    similarities: (n, n) float, s[query, reference]; truth: (n, A) bool; groups: (n,); pairs: (P, 2) int, query and reference
    The result is (P, A) float64. The replacement lacks attribute i, is not in the query's group and not the reference; among
    such pictures it differs least from the query in the other attributes. If several differ equally, their mean similarity
    counts; the result is nan if there is none.
    """
    count = truth.shape[1]
    differing = _differing(truth)
    drops = np.empty((len(pairs), count))
    for row, (query, reference) in enumerate(pairs):
        allowed = groups != groups[query]
        allowed[reference] = False
        others = np.flatnonzero(allowed)
        # `differing` counts attribute i too, which adds the same to every picture without it
        distance = np.where(truth[others], count + 1, differing[query, others][:, None])  # (o, A)
        least = distance.min(0, initial=count + 1)
        alike = (distance == least) & (least <= count)
        number = alike.sum(0)
        sums = similarities[others, reference] @ alike
        mean = np.divide(sums, number, out=np.full(count, np.nan), where=number > 0)
        drops[row] = similarities[query, reference] - mean
    return drops


def _differing(truth: np.ndarray) -> np.ndarray:
    """Return in how many attributes two pictures differ, (n, n) int64. Products in float32 are exact below 2^24."""
    has = truth.astype(np.float32)
    both = has @ has.T
    counts = has.sum(1)
    return np.rint(counts[:, None] + counts[None] - 2 * both).astype(np.int64)


def first_named(scores: np.ndarray, confidences: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """Return the attribute that is named first for each pair: (P,) int, the one with the highest score.

    scores, confidences: (P, A) float; equal scores count in the order of the table
    Attributes with less confidence than `threshold` are not named, unless all have less.
    """
    named = confidences >= threshold
    named |= ~named.any(1, keepdims=True)
    return np.where(named, scores, -np.inf).argmax(1)


@dataclasses.dataclass(frozen=True)
class RemovalDrop:
    """How far the similarity falls if the attribute that one ranking names is removed.

    mean: of the drop; over_random: minus the drop for a random attribute, pair by pair; over_confidence: minus the drop for
    the attribute with the highest confidence, pair by pair; pairs: number of pairs with a value
    """

    mean: Interval
    over_random: Interval
    over_confidence: Interval
    pairs: int


def removal(
    drops: np.ndarray, truth: np.ndarray, rankings: Mapping[str, np.ndarray], clusters: np.ndarray
) -> dict[str, RemovalDrop]:
    """Return the drop for each ranking's first attribute, and for comparison for three other choices.

    These are `random`, an attribute at random; `random_true`, a random attribute of the query; `best`, the one with the
    largest drop.
    drops: (P, A), from `removal_drops`; truth: (P, A) bool, of the queries
    rankings: by name, the attribute named first (P,) int; the name `confidence` must be there
    clusters: (P,), equal for pairs that are resampled together
    """
    rows = np.arange(len(drops))
    chosen = {name: drops[rows, first] for name, first in rankings.items()}
    chosen["random"] = _mean(drops)
    chosen["random_true"] = _mean(np.where(truth, drops, np.nan))
    known = np.isfinite(drops).any(1)
    chosen["best"] = np.where(known, np.where(np.isfinite(drops), drops, -np.inf).max(1), np.nan)
    return {
        name: RemovalDrop(
            bootstrap(values, clusters),
            bootstrap(values - chosen["random"], clusters),
            bootstrap(values - chosen[CONFIDENCE_RANKING], clusters),
            int(np.isfinite(values).sum()),
        )
        for name, values in chosen.items()
    }


def _mean(rows: np.ndarray) -> np.ndarray:
    """(P, A) -> (P,) means without nan; nan if nothing else is left."""
    known = np.isfinite(rows)
    number = known.sum(1)
    return np.divide(np.where(known, rows, 0).sum(1), number, out=np.full(len(rows), np.nan), where=number > 0)


def direction_agreement(forward: np.ndarray, back: np.ndarray, clusters: np.ndarray) -> Interval:
    """Return the share of pairs in which the same attribute is named first in both directions.

    forward, back: (P,) int, the attribute named first in each direction; clusters: (P,)
    """
    return bootstrap((forward == back).astype(np.float64), clusters)


def top_true(first: np.ndarray, truth: np.ndarray, pairs: np.ndarray, clusters: np.ndarray) -> Interval:
    """Return the share of pairs in which both pictures have the attribute that is named first.

    first: (P,) int; truth: (n, A) bool; pairs: (P, 2) int; clusters: (P,)
    """
    both = truth[pairs[:, 0], first] & truth[pairs[:, 1], first]
    return bootstrap(both.astype(np.float64), clusters)


def top_true_gain(
    first: np.ndarray, other: np.ndarray, truth: np.ndarray, pairs: np.ndarray, clusters: np.ndarray
) -> Interval:
    """Return that share minus the share of another ranking, pair by pair; arguments as in `top_true`."""
    shares = [truth[pairs[:, 0], named] & truth[pairs[:, 1], named] for named in (first, other)]
    return bootstrap(shares[0].astype(np.float64) - shares[1], clusters)
