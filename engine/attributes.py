"""Words for what a saliency map shows: confidence, agreement with the map, prior (SANE.md, Attributes)."""

import dataclasses

import numpy as np

from engine.errors import OptionError
from kernels.areas import areas

CONFIDENCES = ("softmax", "sigmoid")


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
    """What the attribute network saw in one picture: confidences (A,) and activation maps (A, h, w), each summing to 1."""

    confidences: np.ndarray
    maps: np.ndarray


def see(table: AttributeTable, activations: np.ndarray) -> Seen:
    """(A, h, w) activation maps -> confidences from their spatial means, maps by softmax over space."""
    count = len(activations)
    scores = activations.reshape(count, -1).mean(1) + table.bias
    confidences = _softmax(scores[None])[0] if table.confidence == "softmax" else 1 / (1 + np.exp(-scores))
    return Seen(confidences, _softmax(activations.reshape(count, -1)).reshape(activations.shape))


def rank(table: AttributeTable, seen: Seen, saliency: np.ndarray) -> tuple[Attribute, ...]:
    """Attributes at or above the table's threshold, best first.

    saliency: (H, W); it is averaged to the activation maps' resolution and correlated with each
    """
    agreement = match(seen.maps, area_mean(saliency, *seen.maps.shape[1:]))
    prior = np.zeros(len(table.names)) if table.prior is None else table.prior
    first, second, third = table.weights
    scores = first * seen.confidences + second * agreement + third * prior
    named = [i for i in np.argsort(-scores, kind="stable") if seen.confidences[i] >= table.threshold]
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


def match(maps: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Pearson correlation of each map (A, h, w) with the saliency (h, w): (A,); 0 where either is constant."""
    a = maps.reshape(len(maps), -1).astype(np.float64)
    s = saliency.reshape(-1).astype(np.float64)
    a = a - a.mean(1, keepdims=True)
    s = s - s.mean()
    norms = np.sqrt((a**2).sum(1) * (s**2).sum())
    return np.clip(np.divide(a @ s, norms, out=np.zeros(len(a)), where=norms > 0), -1, 1)


def area_mean(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) averaged over height x width equal areas, pixels that straddle two counted in proportion: float64."""
    return areas(image.shape[0], height) @ image.astype(np.float64) @ areas(image.shape[1], width).T


def _softmax(rows: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) float64, each row summing to 1."""
    raised = np.exp(rows.astype(np.float64) - rows.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)
