"""The prior of each attribute: TCAV on embeddings (Kim et al. 2018; docs/method.md, TCAV prior)."""

import dataclasses

import numpy as np

from engine.evaluate.matching import halves
from engine.saliency.similarity import EPSILON

CONCEPTS = 200
LEVEL = 0.05
LEAST_PAIRS = 5
TCAV_RIDGE = 0.1
"""Penalty of the linear classifiers, relative to the sum of squares of a standardised feature."""
SHARES = 20
"""The share of pictures that carry an attribute within its groups is rounded up to steps of 1 / SHARES; random concepts are
drawn for each share that occurs."""
ROUNDING_LENGTH = 1e-9
"""A derivative shorter than this, for unit embeddings, is only rounding: the two pictures are equal."""


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """The prior of A attributes.

    share: (A,) float64, t_i: the share of ordered pairs, of those whose two pictures carry the attribute, whose similarity
    grows along its concept vector; nan if there are no pairs
    p_values: (A,) float64, how often a random concept reaches that share; nan if there are fewer than 5 pairs
    value: (A,) float64, the share if p <= 0.05, else 0; pairs: (A,) int, the number of pairs
    """

    share: np.ndarray
    p_values: np.ndarray
    value: np.ndarray
    pairs: np.ndarray


def prior(
    embeddings: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray,
    pairs: np.ndarray,
    metric: str,
    seed: int,
) -> Prior:
    """Return t_i of every attribute, with its significance against random concepts.

    embeddings: (n, D) float, without a condition; truth: (n, A) bool; metric: cosine, dot or euclidean
    groups: (n,) int; pairs: (P, 2) int, query and reference, both of one group; seed: for all random choices

    A concept vector is the normal of a linear classifier: ridge regression of +-1 labels on standardised features. That is
    the difference of the class means times the inverse covariance of the features, however the classes are weighted. It is
    cross-fitted: learned on the pictures of one half of the groups (drawn from the seed), applied to pairs of the other.

    Significance: CONCEPTS random concepts, each carried by as many random groups as the attribute, and within those by the
    same share of pictures, go through the same steps; p = (1 + number of random shares >= t_i) / (1 + CONCEPTS). A binomial
    sign test over the pairs would be wrong: they share one vector, and all embeddings share a mean, so signs agree even for
    a random vector.

    For squared distances the two directions of a pair have opposite derivatives, so t_i is 1/2 if both are among the pairs,
    and no attribute can pass. Raises OptionError if there is only one group.
    """
    features = np.asarray(embeddings, np.float64)
    _, groups = np.unique(groups, return_inverse=True)
    first = halves(groups, seed)
    folds = [_Fold(features, learned, pairs[~learned[pairs].any(1)], metric) for learned in (first, ~first)]
    positive, number = _counts(folds, truth)
    share = np.divide(positive, number, out=np.full(len(number), np.nan), where=number > 0)
    random = np.random.Generator(np.random.Philox(key=seed))
    p_values = np.full(len(number), np.nan)
    kinds = [_kind(truth[:, i], groups) for i in range(truth.shape[1])]
    enough = np.flatnonzero(number >= LEAST_PAIRS)
    for kind in sorted({kinds[i] for i in enough}):
        same = [i for i in enough if kinds[i] == kind]
        reached, among = _counts(folds, _random_concepts(kind, groups, random))
        # a random concept without a pair counts as reaching any share
        shares = np.divide(reached, among, out=np.ones(CONCEPTS), where=among > 0)
        p_values[same] = (1 + (shares >= share[same, None]).sum(1)) / (1 + CONCEPTS)
    value = np.where(p_values <= LEVEL, share, 0.0)
    return Prior(share, p_values, value, number)


def derivatives(query: np.ndarray, reference: np.ndarray, metric: str) -> np.ndarray:
    """Return the derivative (P, D) float64 of the similarity by the query's embedding, up to a positive factor per row.

    query, reference: (P, D) float64
    cosine: r^ - cos q^, with unit q^, r^; dot: r; euclidean, the negative squared distance: 2 (r - q)
    """
    if metric == "dot":
        return reference
    if metric == "euclidean":
        return 2 * (reference - query)
    q, r = (e / np.maximum(np.linalg.norm(e, axis=1, keepdims=True), EPSILON) for e in (query, reference))
    found = r - (q * r).sum(1, keepdims=True) * q
    found[np.linalg.norm(found, axis=1) < ROUNDING_LENGTH] = 0
    return found


class _Fold:
    """Learns concept vectors on some pictures, and applies them to pairs of the others.

    features: (n, D) float64 of all pictures; learned: (n,) bool, those to learn from; pairs: (P, 2) int, of the others
    """

    def __init__(self, features: np.ndarray, learned: np.ndarray, pairs: np.ndarray, metric: str) -> None:
        x = features[learned]
        spread = x.std(0)
        self._learned, self._pairs = learned, pairs
        scale = np.where(spread > 0, spread, 1)
        self._x = (x - x.mean(0)) / scale
        gram = self._x.T @ self._x + TCAV_RIDGE * len(x) * np.eye(x.shape[1])
        # dividing by the spread turns a normal for standardised features into one for the features themselves
        normal = np.linalg.inv(gram) / scale[:, None]
        self._along = derivatives(features[pairs[:, 0]], features[pairs[:, 1]], metric) @ normal  # (P, D)

    def counts(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for concepts `labels` (n, k) bool, the number of pairs with a positive derivative among those that carry
        the concept, and the number of all that carry it: (k,), (k,) int.
        """
        own = labels[self._learned].astype(np.float64)
        with_it, without = own.sum(0), len(own) - own.sum(0)
        known = (with_it > 0) & (without > 0)
        difference = self._x.T @ (own / np.maximum(with_it, 1) - (1 - own) / np.maximum(without, 1))
        both = labels[self._pairs].all(1) & known
        return (both & (self._along @ difference > 0)).sum(0), both.sum(0)


def _counts(folds: list[_Fold], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = [fold.counts(labels) for fold in folds]
    return found[0][0] + found[1][0], found[0][1] + found[1][1]


def _kind(carries: np.ndarray, groups: np.ndarray) -> tuple[int, int]:
    """Return how many groups carry an attribute, and the share of their pictures that do, in 1 / SHARES, rounded up.

    carries: (n,) bool; groups: (n,) int
    """
    sizes, carriers = np.bincount(groups), np.bincount(groups, carries)
    among = int(sizes[carriers > 0].sum())
    return int((carriers > 0).sum()), -(-int(carriers.sum()) * SHARES // among) if among else 0


def _random_concepts(kind: tuple[int, int], groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw random concepts of a kind that `_kind` returned: (n, CONCEPTS) bool, which pictures carry each."""
    count, share = kind
    ranks = random.random((int(groups.max()) + 1, CONCEPTS)).argsort(0).argsort(0)
    return (ranks < count)[groups] & (random.random((len(groups), CONCEPTS)) * SHARES < share)
