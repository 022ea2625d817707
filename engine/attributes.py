"""Words for what a saliency map shows: confidence, agreement with the map, prior (SANE.md, Attributes)."""

import dataclasses
import functools

import numpy as np

from engine.errors import OptionError
from kernels.areas import areas

CONFIDENCES = ("softmax", "sigmoid")
CACHED = 2**20
"""Bytes of maps that are worked on at once."""
ROUNDING = 1e-6
"""A map whose deviations are below this part of its entries says nothing: they are float32's rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class AttributeTable:
    """What a bundle says of its attributes.

    names: (A,)
    confidence: softmax (over attributes) or sigmoid (each alone) of `scale * scores + bias`
    bias: (A,) float32; with scale it calibrates the scores
    threshold: attributes of lower confidence are not named
    phi: weights of confidence, match and prior
    prior: (A,) float32 in [0, 1], or None where none was made; phi_3 then counts as 0
    scale: (A,) float32 above 0; given as None it becomes ones

    Raises OptionError where these do not fit together.
    """

    names: tuple[str, ...]
    confidence: str
    bias: np.ndarray
    threshold: float = 0.0
    phi: tuple[float, float, float] = (1.0, 1.0, 0.0)
    prior: np.ndarray | None = None
    scale: np.ndarray = None  # type: ignore[assignment] # an array once made: see below

    def __post_init__(self) -> None:
        count = len(self.names)
        if self.scale is None:
            object.__setattr__(self, "scale", np.ones(count, np.float32))  # the default needs the count
        if self.confidence not in CONFIDENCES:
            raise OptionError(f"confidence must be one of {', '.join(CONFIDENCES)}, got {self.confidence!r}")
        if not count or len(set(self.names)) != count or not all(isinstance(n, str) and n for n in self.names):
            raise OptionError("attributes need distinct names, at least one")
        if self.bias.shape != (count,) or (self.prior is not None and self.prior.shape != (count,)):
            raise OptionError(f"bias and prior must be ({count},), one per attribute")
        if len(self.phi) != 3 or not np.isfinite(self.phi).all() or not 0 <= self.threshold <= 1:
            raise OptionError(
                f"phi must be three finite numbers and the threshold lie in [0, 1], got {self.phi}, {self.threshold}"
            )
        if not np.isfinite(self.bias).all() or (self.prior is not None and not np.isfinite(self.prior).all()):
            raise OptionError("bias and prior must be finite")
        if self.scale.shape != (count,) or not (np.isfinite(self.scale) & (self.scale > 0)).all():
            raise OptionError(f"scale must be ({count},), one per attribute, finite and above 0")

    @property
    def weights(self) -> tuple[float, float, float]:
        """phi as it is used: without a prior its weight is 0."""
        return (self.phi[0], self.phi[1], self.phi[2] if self.prior is not None else 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Attribute:
    """One word for an explanation.

    score: phi_1 * confidence + phi_2 * match + phi_3 * prior
    confidence: in [0, 1]; match: Pearson correlation of `map` and the saliency, or of `map` and the opposing map for a word
    that speaks against the match, in [-1, 1]; prior: in [0, 1]
    map: (h, w) float32, where the network sees it, sums to 1; read-only, explanations of one query share it
    """

    name: str
    score: float
    confidence: float
    match: float
    prior: float
    map: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """What the attribute network saw in one picture.

    confidences: (A,) float64; maps: (A, h, w) float32 activation maps, each summing to 1
    """

    confidences: np.ndarray
    maps: np.ndarray

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
class Words:
    """Best first. agreeing: ranked by the saliency

    opposing: ranked by its `opposing` part; those that match that part, and the whole saliency negatively
    """

    agreeing: tuple[Attribute, ...] = ()
    opposing: tuple[Attribute, ...] = ()


def see(table: AttributeTable, activations: np.ndarray) -> Seen:
    """(A, h, w) activation maps -> confidences from their spatial means, maps by softmax over space."""
    count = len(activations)
    scores = table.scale * activations.reshape(count, -1).mean(1, dtype=np.float64) + table.bias
    confidences = _softmax(scores[None])[0] if table.confidence == "softmax" else (1 + np.tanh(scores / 2)) / 2
    maps = _softmax(activations.reshape(count, -1)).reshape(activations.shape).astype(np.float32)
    maps.flags.writeable = False  # every `Attribute` shows its part of it
    return Seen(confidences, maps)


def words(table: AttributeTable, seen: Seen, saliencies: np.ndarray, top: int | None = None) -> list[Words]:
    """For and against each of R references: saliencies (R, H, W) float; at most `top` of either kind."""
    shown, low = rank(table, seen, saliencies), rank(table, seen, saliencies, against=True)
    against = (low.agreement > 0) & (shown.agreement < 0)  # a map with two peaks may agree with both parts
    both = named(table, seen, shown, top), named(table, seen, low, top, against)
    return [Words(*pair) for pair in zip(*both, strict=True)]


def rank(table: AttributeTable, seen: Seen, saliencies: np.ndarray, against: bool = False) -> Ranking:
    """saliencies: (R, H, W) float; averaged to the activation maps' resolution and correlated with each of those.

    against: rank by the `opposing` part of each map instead
    """
    agreement = match(seen, saliencies, against)
    first, second, third = table.weights
    scores = first * seen.confidences + second * agreement + third * _prior(table)
    return Ranking(agreement, scores, np.argsort(-scores, axis=1, kind="stable"))


def named(
    table: AttributeTable, seen: Seen, ranking: Ranking, top: int | None = None, among: np.ndarray | None = None
) -> list[tuple[Attribute, ...]]:
    """Per reference the attributes at or above the table's threshold, best first; at most `top` of them.

    among: (R, A) bool, those that may be named at all
    """
    confident = np.broadcast_to(seen.confidences >= table.threshold, ranking.order.shape)
    allowed = np.take_along_axis(confident if among is None else confident & among, ranking.order, axis=1)
    confidences, prior = seen.confidences.tolist(), _prior(table).tolist()
    found = []
    for order, yes, scores, agreement in zip(ranking.order, allowed, ranking.scores, ranking.agreement, strict=True):
        which = order[yes][:top].tolist()
        found.append(
            tuple(
                Attribute(table.names[i], float(scores[i]), confidences[i], float(agreement[i]), prior[i], seen.maps[i])
                for i in which
            )
        )
    return found


def match(seen: Seen, saliencies: np.ndarray, against: bool = False) -> np.ndarray:
    """(R, H, W) float -> (R, A) float64: Pearson correlations of each map, averaged over areas, with each activation map.

    against: of the `opposing` part of each map. 0 where either is constant. Raises OptionError for another shape or type.
    """
    if saliencies.ndim != 3 or saliencies.dtype.kind != "f" or 0 in saliencies.shape[1:]:
        raise OptionError(f"saliency maps must be float (R, H, W), got {saliencies.dtype} {saliencies.shape}")
    part = opposing if against else _above_first
    cells = np.concatenate([area_means(part(block), *seen.maps.shape[1:]) for block in _blocks(saliencies)])
    rows = cells.reshape(len(saliencies), seen.shapes.shape[1])
    return np.clip(_standardised(rows, np.abs(saliencies[:, 0, 0])) @ seen.shapes.T, -1, 1)


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
    below[below.max((-2, -1)) <= ROUNDING * np.abs(mean[..., 0, 0])] = 0
    return below


def area_means(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """(R, H, W) float -> (R, height, width) of the same type: means over equal areas, pixels that straddle two counted in
    proportion.
    """
    rows, columns = (areas(*pair).astype(images.dtype) for pair in zip(images.shape[1:], (height, width), strict=True))
    return rows @ images @ columns.T


def _prior(table: AttributeTable) -> np.ndarray:
    """(A,) float64: 0 where none was made."""
    return np.zeros(len(table.names)) if table.prior is None else table.prior.astype(np.float64)


def _standardised(rows: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) float64, each row centred and of unit norm; 0 where it was constant, rounding aside.

    levels: (n,), how large the entries were that the rows were made of
    """
    centred = rows - rows.mean(1, keepdims=True, dtype=np.float64)
    norms = np.sqrt(np.square(centred).sum(1, keepdims=True))
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > ROUNDING * levels[:, None])


def _softmax(rows: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) float64, each row summing to 1."""
    raised = np.exp(rows.astype(np.float64) - rows.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)
