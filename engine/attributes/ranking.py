"""Rank the attributes that name what a saliency map shows (docs/method.md, Attributes)."""

import dataclasses
import functools

import numpy as np

from engine.attributes.probability import sigmoid, softmax
from engine.attributes.table import Attribute, AttributeTable, prior_of
from engine.errors import OptionError
from kernels.areas import areas

BLOCK_BYTES = 2**20
"""Bytes of maps that are processed at a time."""
CONSTANT = 1e-6
"""A map whose deviations are below this share of its entries counts as constant: they are rounding errors of float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Activations:
    """The attribute network's result for one picture.

    confidences: (A,) float64 in [0, 1]; maps: (A, h, w) float32, activation maps, each summing to 1
    """

    confidences: np.ndarray
    maps: np.ndarray

    @classmethod
    def of(cls, table: AttributeTable, activations: np.ndarray) -> "Activations":
        """Make from the network's output (A, h, w) float32: confidences from spatial means, maps by a spatial softmax."""
        count = len(activations)
        scores = table.slopes * activations.reshape(count, -1).mean(1, dtype=np.float64) + table.bias
        confidences = softmax(scores[None])[0] if table.confidence == "softmax" else sigmoid(scores)
        maps = softmax(activations.reshape(count, -1)).reshape(activations.shape).astype(np.float32)
        maps.flags.writeable = False  # every `Attribute` is given a view of it
        return cls(confidences, maps)

    @functools.cached_property
    def standardised(self) -> np.ndarray:
        """(A, h * w) float64: the maps, centred and of unit norm; products with such a saliency map are correlations."""
        return _standardised(self.maps.reshape(len(self.maps), -1), np.abs(self.maps).max((1, 2)))


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """All attributes against the maps of R references.

    agreement: (R, A) float64, Pearson correlations in [-1, 1], 0 where either map is constant
    scores: (R, A) float64, phi_1 * confidence + phi_2 * agreement + phi_3 * prior
    """

    agreement: np.ndarray
    scores: np.ndarray

    @functools.cached_property
    def order(self) -> np.ndarray:
        """(R, A) int, attributes best first; equal ones in the order of the table."""
        return np.argsort(-self.scores, axis=1, kind="stable")


@dataclasses.dataclass(frozen=True, eq=False)
class RankedAttributes:
    """The attributes named for one map, best first.

    agreeing: true of both pictures, or ranked by the map; opposing: those that go with what lowers the similarity
    only_query, only_reference: true of one picture and not of the other
    for_other: of the query and the reference that was asked about too ("rather than"), and not of the reference explained
    note: what a reader should know; "" for nothing
    """

    agreeing: tuple[Attribute, ...] = ()
    opposing: tuple[Attribute, ...] = ()
    only_query: tuple[Attribute, ...] = ()
    only_reference: tuple[Attribute, ...] = ()
    for_other: tuple[Attribute, ...] = ()
    note: str = ""


def rank_both_ways(
    table: AttributeTable, activations: Activations, saliencies: np.ndarray, top: int | None = None
) -> list[RankedAttributes]:
    """Return the agreeing and opposing attributes of R maps, saliencies (R, H, W) float; at most `top` of either kind."""
    by_map = rank(table, activations, saliencies)
    agreeing = name_attributes(table, activations, by_map, top)
    opposed = opposing_attributes(table, activations, saliencies, by_map.agreement, top)
    return [RankedAttributes(*pair) for pair in zip(agreeing, opposed, strict=True)]


def opposing_attributes(
    table: AttributeTable, activations: Activations, saliencies: np.ndarray, agreement: np.ndarray, top: int | None = None
) -> list[tuple[Attribute, ...]]:
    """Return the attributes that go with what lowers the similarity, for R maps; at most `top` each.

    They are ranked by the maps' `opposing` parts, which they match, while they match the whole map negatively.
    saliencies: (R, H, W) float; agreement: (R, A) float, from `match`
    """
    by_opposing = rank(table, activations, saliencies, by_opposing=True)
    # an activation map with two peaks may match both the map and its opposing part
    return name_attributes(table, activations, by_opposing, top, (by_opposing.agreement > 0) & (agreement < 0))


def rank(table: AttributeTable, activations: Activations, saliencies: np.ndarray, by_opposing: bool = False) -> Ranking:
    """Rank all attributes for each map: saliencies (R, H, W) float are averaged to the size of the activation maps and
    correlated with each.

    by_opposing: rank by the `opposing` part of each map instead
    Raises OptionError for another shape or dtype.
    """
    agreement = match(activations, saliencies, by_opposing)
    first, second, third = table.weights
    scores = first * activations.confidences + second * agreement + third * prior_of(table)
    return Ranking(agreement, scores)


def name_attributes(
    table: AttributeTable,
    activations: Activations,
    ranking: Ranking,
    top: int | None = None,
    allowed: np.ndarray | None = None,
) -> list[tuple[Attribute, ...]]:
    """Return for each map the attributes that reach the table's confidence threshold, best first; at most `top` of them.

    allowed: (R, A) bool, the attributes that may be named; None for all
    """
    confident = np.broadcast_to(activations.confidences >= table.threshold, ranking.scores.shape)
    nameable = confident if allowed is None else confident & allowed
    confidences, prior = activations.confidences.tolist(), prior_of(table).tolist()
    found = []
    for keep, scores, agreement in zip(nameable, ranking.scores, ranking.agreement, strict=True):
        which = best_first(scores, keep, top)
        found.append(
            tuple(
                Attribute(
                    table.names[i], float(scores[i]), confidences[i], float(agreement[i]), prior[i], activations.maps[i]
                )
                for i in which
            )
        )
    return found


def best_first(scores: np.ndarray, allowed: np.ndarray, top: int | None) -> list[int]:
    """Return which of the allowed ones have the largest scores, best first, at most `top`; equal ones in their own order.

    scores: (A,) float; allowed: (A,) bool. Few of many are allowed: only these are sorted.
    """
    (which,) = allowed.nonzero()
    if len(which) > 1:
        which = which[(-scores[which]).argsort(kind="stable")]
    found: list[int] = which[:top].tolist()
    return found


def match(activations: Activations, saliencies: np.ndarray, by_opposing: bool = False) -> np.ndarray:
    """(R, H, W) float -> (R, A) float64: Pearson correlation of each map, averaged over areas, with each activation map.

    by_opposing: take the `opposing` part of each map instead
    A correlation is 0 if either map is constant. Raises OptionError for another shape or dtype.
    """
    if saliencies.ndim != 3 or saliencies.dtype.kind != "f" or 0 in saliencies.shape[1:]:
        raise OptionError(f"saliency maps must be float (R, H, W), got {saliencies.dtype} {saliencies.shape}")
    part = opposing if by_opposing else _minus_first_pixel
    cells = np.concatenate([area_means(part(block), *activations.maps.shape[1:]) for block in _blocks(saliencies)])
    rows = cells.reshape(len(saliencies), activations.standardised.shape[1])
    return np.clip(_standardised(rows, np.abs(saliencies[:, 0, 0])) @ activations.standardised.T, -1, 1)


def _blocks(saliencies: np.ndarray) -> list[np.ndarray]:
    """Cut (R, H, W) into blocks of one or more maps that fit the processor's cache, which halves the time."""
    count = max(BLOCK_BYTES // (saliencies[:1].nbytes or BLOCK_BYTES), 1)
    return [saliencies[start : start + count] for start in range(0, max(len(saliencies), 1), count)]


def _minus_first_pixel(saliencies: np.ndarray) -> np.ndarray:
    """Subtract each map's first pixel: raw maps are nearly constant, and float32 sums of them would lose their shape."""
    return saliencies - saliencies[:, :1, :1]


def opposing(saliency: np.ndarray) -> np.ndarray:
    """(..., H, W) float -> the same shape and dtype: max(0, mean - saliency), the negative part of each centred map.

    It is 0 everywhere for a map that is constant up to rounding errors.
    """
    mean = saliency.mean((-2, -1), keepdims=True)
    below = mean - saliency
    np.maximum(below, 0, out=below)
    below[below.max((-2, -1)) <= CONSTANT * np.abs(mean[..., 0, 0])] = 0
    return below


def area_means(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """(R, H, W) float -> (R, height, width) of the same dtype: means over equal areas. A pixel that lies in two areas counts
    in proportion.
    """
    rows, columns = (areas(*pair).astype(images.dtype) for pair in zip(images.shape[1:], (height, width), strict=True))
    return rows @ images @ columns.T


def _standardised(rows: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) float64, each row centred and of unit norm; 0 if it is constant up to rounding errors.

    levels: (n,), the size of the entries from which the rows were computed
    """
    centred = rows - rows.mean(1, keepdims=True, dtype=np.float64)
    norms = np.sqrt(np.square(centred).sum(1, keepdims=True))
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > CONSTANT * levels[:, None])
