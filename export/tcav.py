"""The prior: does the similarity grow towards an attribute? TCAV on embeddings (Kim et al. 2018; SANE.md, Attributes)."""

import dataclasses

import numpy as np

from engine.evaluate.matching import halves
from engine.saliency.similarity import EPSILON

CONCEPTS = 200
LEVEL = 0.05
LEAST_PAIRS = 5
TCAV_RIDGE = 0.1
"""Penalty of the linear classifiers, in parts of a standardised feature's sum of squares."""
SHARES = 20
"""Random concepts are drawn for the share of pictures that carry an attribute within its groups in steps of 1 / SHARES."""
NOTHING = 1e-9
"""A derivative shorter than this, for unit embeddings, is rounding: of a picture and its twin."""


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """Of A attributes.

    share: (A,) float64, t_i: of the ordered pairs whose two pictures carry the attribute, those whose similarity grows along
    its concept vector; nan where there is no pair
    p_values: (A,) float64, how often a random concept reaches that share; nan where there are fewer than 5 pairs
    value: (A,) float64, the share where p <= 0.05, else 0; pairs: (A,) int, how many
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
    concepts: int = CONCEPTS,
) -> Prior:
    """t_i of every attribute, with its significance against random concepts.

    embeddings: (n, D) float, taken as they are, under no condition; truth: (n, A) bool; metric: cosine, dot or euclidean
    groups: (n,) int; pairs: (P, 2) int, query and reference, both within one group

    A concept vector is the normal of a linear classifier: ridge regression of +-1 labels on standardised features, which is
    the difference of the class means under the inverse of the features' covariance, whatever weights balance the classes. It
    is cross-fitted: learned on the pictures of one half of the groups (drawn by the seed), applied to pairs of the other.

    Significance: `concepts` random concepts, each carried by as many groups as the attribute, drawn at random, and within
    them by the same share of pictures; their vectors are learned and their shares counted in the same way.
    p = (1 + number of random shares >= t_i) / (1 + concepts). A binomial sign test over the pairs would be wrong: they share
    one vector, and embeddings have a mean in common, so that signs agree for any vector, a random one too.

    For squared distances the derivatives of a pair's two directions are opposite, so t_i is 1/2 where both are among the
    pairs: no attribute can pass. Raises OptionError where there is but one group.
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
        reached, among = _counts(folds, _random_concepts(kind, groups, concepts, random))
        # a random concept without a pair counts as reaching any share
        shares = np.divide(reached, among, out=np.ones(concepts), where=among > 0)
        p_values[same] = (1 + (shares >= share[same, None]).sum(1)) / (1 + concepts)
    value = np.where(p_values <= LEVEL, share, 0.0)
    return Prior(share, p_values, value, number)


def derivatives(query: np.ndarray, reference: np.ndarray, metric: str) -> np.ndarray:
    """(P, D), (P, D) -> (P, D) float64: of the similarity by the query's embedding, up to a positive factor per row.

    cosine: r^ - cos q^, with unit q^, r^; dot: r; euclidean, the negative squared distance: 2 (r - q).
    """
    if metric == "dot":
        return reference
    if metric == "euclidean":
        return 2 * (reference - query)
    q, r = (e / np.maximum(np.linalg.norm(e, axis=1, keepdims=True), EPSILON) for e in (query, reference))
    found = r - (q * r).sum(1, keepdims=True) * q
    found[np.linalg.norm(found, axis=1) < NOTHING] = 0
    return found


class _Fold:
    """Vectors learned on some pictures, counted on pairs of the others.

    features: (n, D) float64 of all; learned: (n,) bool, which to learn from; pairs: (P, 2)
    """

    def __init__(self, features: np.ndarray, learned: np.ndarray, pairs: np.ndarray, metric: str) -> None:
        x = features[learned]
        spread = x.std(0)
        self._learned, self._pairs = learned, pairs
        scale = np.where(spread > 0, spread, 1)
        self._x = (x - x.mean(0)) / scale
        gram = self._x.T @ self._x + TCAV_RIDGE * len(x) * np.eye(x.shape[1])
        # a normal among standardised features is, among those as they are, divided by their spread
        normal = np.linalg.inv(gram) / scale[:, None]
        self._along = derivatives(features[pairs[:, 0]], features[pairs[:, 1]], metric) @ normal  # (P, D)

    def counts(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, k) bool -> of the pairs that carry each concept those with a positive derivative, and all: (k,), (k,)."""
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
    """How many groups (n,) carry an attribute (n,) bool, and which share of their pictures, in 1 / SHARES, rounded up."""
    sizes, carriers = np.bincount(groups), np.bincount(groups, carries)
    among = int(sizes[carriers > 0].sum())
    return int((carriers > 0).sum()), -(-int(carriers.sum()) * SHARES // among) if among else 0


def _random_concepts(kind: tuple[int, int], groups: np.ndarray, concepts: int, random: np.random.Generator) -> np.ndarray:
    """(n, concepts) bool."""
    count, share = kind
    ranks = random.random((int(groups.max()) + 1, concepts)).argsort(0).argsort(0)
    return (ranks < count)[groups] & (random.random((len(groups), concepts)) * SHARES < share)
