"""Which attributes name what a saliency map shows (docs/method.md, Attributes)."""

import dataclasses
import functools

import numpy as np

from engine.attributes.table import Attribute, AttributeTable, prior_of
from engine.errors import OptionError
from kernels.areas import areas

CACHED = 2**20
"""Bytes of maps that are worked on at once."""
CONSTANT = 1e-6
"""A map whose deviations are below this part of its entries says nothing: they are float32's rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class Activations:
    """What the attribute network gave for one picture.

    confidences: (A,) float64; maps: (A, h, w) float32 activation maps, each summing to 1
    """

    confidences: np.ndarray
    maps: np.ndarray

    @classmethod
    def of(cls, table: AttributeTable, activations: np.ndarray) -> "Activations":
        """From the network's maps (A, h, w): confidences from their spatial means, maps by softmax over space."""
        count = len(activations)
        scores = table.slopes * activations.reshape(count, -1).mean(1, dtype=np.float64) + table.bias
        confidences = _softmax(scores[None])[0] if table.confidence == "softmax" else (1 + np.tanh(scores / 2)) / 2
        maps = _softmax(activations.reshape(count, -1)).reshape(activations.shape).astype(np.float32)
        maps.flags.writeable = False  # every `Attribute` shows its part of it
        return cls(confidences, maps)

    @functools.cached_property
    def shapes(self) -> np.ndarray:
        """(A, h * w) float64: the maps as `_standardised`; times such a saliency that is a Pearson correlation."""
        return _standardised(self.maps.reshape(len(self.maps), -1), np.abs(self.maps).max((1, 2)))


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """All attributes against the maps of R references.

    agreement: (R, A) float64, Pearson correlations in [-1, 1], 0 where either map is constant
    scores: (R, A) float64, phi_1 * confidence + phi_2 * agreement + phi_3 * prior
    order: (R, A) int, attributes best first; of equals, those that come first in the table
    """

    agreement: np.ndarray
    scores: np.ndarray
    order: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class RankedAttributes:
    """Best first. agreeing: ranked by the saliency

    opposing: ranked by its `opposing` part; those that match that part, and the whole saliency negatively
    """

    agreeing: tuple[Attribute, ...] = ()
    opposing: tuple[Attribute, ...] = ()


def rank_both_ways(
    table: AttributeTable, activations: Activations, saliencies: np.ndarray, top: int | None = None
) -> list[RankedAttributes]:
    """For and against each of R references: saliencies (R, H, W) float; at most `top` of either kind."""
    shown, low = rank(table, activations, saliencies), rank(table, activations, saliencies, against=True)
    against = (low.agreement > 0) & (shown.agreement < 0)  # a map with two peaks may agree with both parts
    both = named(table, activations, shown, top), named(table, activations, low, top, against)
    return [RankedAttributes(*pair) for pair in zip(*both, strict=True)]


def rank(table: AttributeTable, activations: Activations, saliencies: np.ndarray, against: bool = False) -> Ranking:
    """saliencies: (R, H, W) float; averaged to the activation maps' resolution and correlated with each of those.

    against: rank by the `opposing` part of each map instead
    """
    agreement = match(activations, saliencies, against)
    first, second, third = table.weights
    scores = first * activations.confidences + second * agreement + third * prior_of(table)
    return Ranking(agreement, scores, np.argsort(-scores, axis=1, kind="stable"))


def named(
    table: AttributeTable,
    activations: Activations,
    ranking: Ranking,
    top: int | None = None,
    among: np.ndarray | None = None,
) -> list[tuple[Attribute, ...]]:
    """Per reference the attributes at or above the table's threshold, best first; at most `top` of them.

    among: (R, A) bool, those that may be named at all
    """
    confident = np.broadcast_to(activations.confidences >= table.threshold, ranking.order.shape)
    allowed = np.take_along_axis(confident if among is None else confident & among, ranking.order, axis=1)
    confidences, prior = activations.confidences.tolist(), prior_of(table).tolist()
    found = []
    for order, yes, scores, agreement in zip(ranking.order, allowed, ranking.scores, ranking.agreement, strict=True):
        which = order[yes][:top].tolist()
        found.append(
            tuple(
                Attribute(
                    table.names[i], float(scores[i]), confidences[i], float(agreement[i]), prior[i], activations.maps[i]
                )
                for i in which
            )
        )
    return found


def match(activations: Activations, saliencies: np.ndarray, against: bool = False) -> np.ndarray:
    """(R, H, W) float -> (R, A) float64: Pearson correlations of each map, averaged over areas, with each activation map.

    against: of the `opposing` part of each map. 0 where either is constant. Raises OptionError for another shape or type.
    """
    if saliencies.ndim != 3 or saliencies.dtype.kind != "f" or 0 in saliencies.shape[1:]:
        raise OptionError(f"saliency maps must be float (R, H, W), got {saliencies.dtype} {saliencies.shape}")
    part = opposing if against else _above_first
    cells = np.concatenate([area_means(part(block), *activations.maps.shape[1:]) for block in _blocks(saliencies)])
    rows = cells.reshape(len(saliencies), activations.shapes.shape[1])
    return np.clip(_standardised(rows, np.abs(saliencies[:, 0, 0])) @ activations.shapes.T, -1, 1)


def _blocks(saliencies: np.ndarray) -> list[np.ndarray]:
    """Of whole maps (R, H, W), one at least: what is made of each stays in the processor's cache, which halves the time."""
    count = max(CACHED // (saliencies[:1].nbytes or CACHED), 1)
    return [saliencies[start : start + count] for start in range(0, max(len(saliencies), 1), count)]


def _above_first(saliencies: np.ndarray) -> np.ndarray:
    """Each map less its first pixel: raw maps are nearly constant, and sums of them in float32 would lose their shape."""
    return saliencies - saliencies[:, :1, :1]


def opposing(saliency: np.ndarray) -> np.ndarray:
    """(..., H, W) float -> the same shape and type: max(0, mean - saliency), the negative part of each centred map.

    0 everywhere for a map that is constant, rounding aside.
    """
    mean = saliency.mean((-2, -1), keepdims=True)
    below = mean - saliency
    np.maximum(below, 0, out=below)
    below[below.max((-2, -1)) <= CONSTANT * np.abs(mean[..., 0, 0])] = 0
    return below


def area_means(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """(R, H, W) float -> (R, height, width) of the same type: means over equal areas, pixels that straddle two counted in
    proportion.
    """
    rows, columns = (areas(*pair).astype(images.dtype) for pair in zip(images.shape[1:], (height, width), strict=True))
    return rows @ images @ columns.T


def _standardised(rows: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) float64, each row centred and of unit norm; 0 where it was constant, rounding aside.

    levels: (n,), how large the entries were that the rows were made of
    """
    centred = rows - rows.mean(1, keepdims=True, dtype=np.float64)
    norms = np.sqrt(np.square(centred).sum(1, keepdims=True))
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > CONSTANT * levels[:, None])


def _softmax(rows: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) float64, each row summing to 1."""
    raised = np.exp(rows.astype(np.float64) - rows.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)
