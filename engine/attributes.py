"""Words for what a saliency map shows: confidence, agreement with the map, prior (SANE.md, Attributes)."""

import dataclasses
import functools

import numpy as np

from engine.errors import OptionError
from kernels.areas import areas

CONFIDENCES = ("softmax", "sigmoid")
CONSTANT = 1e-12
"""A map whose deviations are below this part of its largest entry says nothing: they are rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class AttributeTable:
    """What a bundle says of its attributes.

    names: (A,)
    confidence: softmax (over attributes) or sigmoid (each alone) of `scores + bias`
    bias: (A,) float32, added to the scores; calibrates them
    threshold: attributes of lower confidence are not named
    phi: weights of confidence, match and prior
    prior: (A,) float32 in [0, 1], or None where none was made; phi_3 then counts as 0
    """

    names: tuple[str, ...]
    confidence: str
    bias: np.ndarray
    threshold: float = 0.0
    phi: tuple[float, float, float] = (1.0, 1.0, 0.0)
    prior: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
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

    @property
    def weights(self) -> tuple[float, float, float]:
        """phi as it is used: without a prior its weight is 0."""
        return (self.phi[0], self.phi[1], self.phi[2] if self.prior is not None else 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Attribute:
    """One word for an explanation.

    score: phi_1 * confidence + phi_2 * match + phi_3 * prior
    confidence: in [0, 1]; match: Pearson correlation of saliency and `map`, in [-1, 1]; prior: in [0, 1]
    map: (h, w) float32, where the network sees it, sums to 1
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

    confidences: (A,) float64; maps: (A, h, w) float64 activation maps, each summing to 1
    """

    confidences: np.ndarray
    maps: np.ndarray

    @functools.cached_property
    def shapes(self) -> np.ndarray:
        """(A, h * w) float64: the maps as `_standardised`; times such a saliency that is a Pearson correlation."""
        return _standardised(self.maps.reshape(len(self.maps), -1))


def see(table: AttributeTable, activations: np.ndarray) -> Seen:
    """(A, h, w) activation maps -> confidences from their spatial means, maps by softmax over space."""
    count = len(activations)
    scores = activations.reshape(count, -1).mean(1) + table.bias
    confidences = _softmax(scores[None])[0] if table.confidence == "softmax" else 1 / (1 + np.exp(-scores))
    return Seen(confidences, _softmax(activations.reshape(count, -1)).reshape(activations.shape))


def rank(table: AttributeTable, seen: Seen, saliency: np.ndarray, top: int | None = None) -> tuple[Attribute, ...]:
    """Attributes at or above the table's threshold, best first; at most `top` of them.

    saliency: (H, W); it is averaged to the activation maps' resolution and correlated with each
    """
    agreement = match(seen, area_mean(saliency, *seen.maps.shape[1:]))
    prior = np.zeros(len(table.names)) if table.prior is None else table.prior
    first, second, third = table.weights
    scores = first * seen.confidences + second * agreement + third * prior
    order = np.argsort(-scores, kind="stable")
    named = order[seen.confidences[order] >= table.threshold][:top]
    return tuple(
        Attribute(
            table.names[i],
            float(scores[i]),
            float(seen.confidences[i]),
            float(agreement[i]),
            float(prior[i]),
            seen.maps[i].astype(np.float32),
        )
        for i in named
    )


def match(seen: Seen, saliency: np.ndarray) -> np.ndarray:
    """Pearson correlation of each activation map with the saliency (h, w): (A,); 0 where either is constant."""
    return np.clip(seen.shapes @ _standardised(saliency.reshape(1, -1))[0], -1, 1)


def _standardised(rows: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) float64, each row centred and of unit norm; 0 where it was constant, rounding aside."""
    centred = rows.astype(np.float64) - rows.mean(1, keepdims=True, dtype=np.float64)
    norms = np.sqrt(np.square(centred).sum(1, keepdims=True))
    varies = norms > CONSTANT * np.abs(rows).max(1, keepdims=True)
    return np.divide(centred, norms, out=np.zeros_like(centred), where=varies)


def area_mean(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) averaged over height x width equal areas, pixels that straddle two counted in proportion: float64."""
    return areas(image.shape[0], height) @ image.astype(np.float64) @ areas(image.shape[1], width).T


def _softmax(rows: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) float64, each row summing to 1."""
    raised = np.exp(rows.astype(np.float64) - rows.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)
