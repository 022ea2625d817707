"""The regression estimator: a RISE map from few passes, with its error (derivation and measurements: docs/estimator.md).

Masks come in pairs: a mask and its complement under the same shift. The score of the query behind mask m is modelled as
linear in m's means over 16 x 16 tiles. The covariance of masks and tiles is known in closed form, so the map follows from
the coefficients by algebra: in similarity units, independent of the number of masks, linear in the reference.
"""

import dataclasses
from typing import Protocol

import numpy as np

from engine.saliency.geometry import TILES, Geometry
from engine.saliency.operator import GROUPS, Operator

LEAST_ENERGY = 1e-10
"""Directions along which the squared weights are less than this share of the largest are rounding."""
SHOWN_SHARE = 0.5
"""E[m]: share of the masks that show a pixel."""


class Errors(Protocol):
    """See `engine.saliency.posterior.Posterior`."""

    @property
    def nbytes(self) -> int: ...
    def errors(self, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """References (R, F) float64 -> standard errors (R, T*T) of their maps' tile means, and their reliability (R,)."""

    def form(self, directions: np.ndarray) -> np.ndarray:
        """Directions (n, F) float64 -> (n, n), the variance of maps' noise as a quadratic form."""


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """A map and its error.

    saliency: (H, W) float32
    error: (T, T) float32, standard errors of its tile means; None if unknown
    reliability: its estimated correlation with the limit for infinitely many masks, in [0, 1]; None if unknown
    note: what a reader should know; "" for nothing
    """

    saliency: np.ndarray
    error: np.ndarray | None = None
    reliability: float | None = None
    note: str = ""


class Regression:
    """One prepared query's maps against any reference, linear in the reference's features.

    operator: fitted to the query's masks; z: (P, F), `differences` of the masked query's factor of the similarity
    geometry: what makes maps of coefficients; amplitude: by how much the fit shrinks maps, which is undone
    posterior: gives errors of maps and their reliability, before that is undone; None: the jackknife gives them
    """

    def __init__(self, operator: Operator, geometry: Geometry, z: np.ndarray, posterior: Errors | None = None) -> None:
        self._operator, self.geometry, self._posterior = operator, geometry, posterior
        self._weights = operator.coefficients(z)  # (T*T, F), shrunk
        fitted, again = operator.again(self._weights)
        self._residuals = z - fitted  # (P, F)
        tiles, refitted = geometry.tiles(self._weights.T), geometry.tiles(again.T)
        size = np.square(tiles).sum()
        # the fit shrinks amplitudes; fitting the fitted values again shrinks them as much, which measures it
        self.amplitude = float((tiles * refitted).sum() / size) if size > 0 else 1.0

    @property
    def nbytes(self) -> int:
        """Bytes, without the operator."""
        return self._weights.nbytes + self._residuals.nbytes + (0 if self._posterior is None else self._posterior.nbytes)

    @property
    def weights(self) -> np.ndarray:
        """(T*T, F) float64: the coefficients against a reference are these times its features; shrinkage is undone."""
        return self._weights / self.amplitude

    def estimates(self, references: np.ndarray) -> list[Estimate]:
        """Return one estimate per row of references (R, F) float64, the other factor of the similarity."""
        coefficients = self._coefficients(references)
        maps = self.geometry.maps(coefficients)
        if len(self._residuals) < GROUPS:
            return [Estimate(saliency) for saliency in maps]
        errors, reliability = self._errors(references, coefficients)
        errors = errors.reshape(-1, TILES, TILES).astype(np.float32)
        return [Estimate(*one) for one in zip(maps, errors, reliability.tolist(), strict=True)]

    def convergence(
        self, references: np.ndarray, variances: np.ndarray, masks: int, extra_noise: np.ndarray | float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the reliability (R,) of `estimates`, and the reliability (R,) of the published estimator.

        references: (R, F); variances: (R,), of the masked query's scores; masks: of the published estimator
        extra_noise: (R,), variance of other noise on the published map
        The published map is the mean score of the masks that show a pixel: its noise of variance `variances / masks` is
        multiplied by the masks' own variation over the picture.
        """
        coefficients = self._coefficients(references)
        reliability = self._errors(references, coefficients)[1]
        signal = self.geometry.tiles(coefficients).var(1) * reliability**2
        noise = variances * self._operator.rows.spread / (masks * SHOWN_SHARE**2) + extra_noise
        total = signal + noise
        return reliability, np.sqrt(np.divide(signal, total, out=np.zeros_like(signal), where=total > 0))

    def map_variance(self, references: np.ndarray) -> float:
        """Return how much the maps against references (R, F) differ from their mean: the variance over the picture, averaged
        over the references.
        """
        centred = references - references.mean(0)
        return float(self.geometry.tiles(self._coefficients(centred)).var(1).mean())

    def leading(self, count: int) -> np.ndarray:
        """Return up to `count` unit directions of the features, (n, F), along which maps are largest; none of rounding."""
        tiles, features = self._weights.shape
        if features <= tiles:
            values, directions = np.linalg.eigh(self._weights.T @ self._weights)
            return directions.T[values >= LEAST_ENERGY * values[-1]][: -count - 1 : -1]
        values, of_tiles = np.linalg.eigh(self._weights @ self._weights.T)
        strongest = self._weights.T @ of_tiles[:, values >= LEAST_ENERGY * values[-1]][:, : -count - 1 : -1]
        return (strongest / np.maximum(np.linalg.norm(strongest, axis=0), np.finfo(float).tiny)).T

    def _coefficients(self, references: np.ndarray) -> np.ndarray:
        """(R, F) references -> (R, T*T) coefficients, with the fit's shrinkage undone."""
        return (references @ self._weights.T) / self.amplitude

    def noise(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the variance of the noise of tile means, without a part that is constant over the map, as a quadratic form
        of the reference: (n, n) along directions (n, F). And the variance of that part along each of them, (n,).
        """
        if self._posterior is not None:
            return self._posterior.form(directions) / self.amplitude**2, np.zeros(len(directions))
        replicates, factor = self.replicates(directions)
        means = replicates.mean(2, keepdims=True)
        replicates -= means
        form = factor * np.einsum("grt,gst->rs", replicates, replicates, optimize=True) / replicates.shape[2]
        return form, factor * np.square(means).sum((0, 2))

    def replicates(self, references: np.ndarray) -> tuple[np.ndarray, float]:
        """Return how tile means of the maps against references (R, F) change without each group of pairs, less the mean
        change: (G, R, T*T) float64, linear in the references; and what makes a variance of the sum of their squares.
        """
        changes = self._operator.left_out(self._residuals @ (references / self.amplitude).T)  # (G, R, T*T)
        replicates = self.geometry.tiles(changes.reshape(-1, changes.shape[2])).reshape(*changes.shape[:2], -1)
        replicates -= replicates.mean(0)
        return replicates, (len(changes) - 1) / len(changes)

    def _errors(self, references: np.ndarray, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return standard errors (R, T*T), by jackknife over groups of pairs if nothing else, and the reliability (R,)."""
        if self._posterior is not None:
            errors, reliability = self._posterior.errors(references)
            return errors / self.amplitude, reliability
        replicates, factor = self.replicates(references)
        variance = factor * np.square(replicates).sum(0)
        noise = factor * replicates.var(2).sum(0)  # around each replicate's mean: adding a constant to a map changes nothing
        signal = self.geometry.tiles(coefficients).var(1)
        share = np.divide(noise, signal, out=np.ones_like(signal), where=signal > 0)
        return np.sqrt(variance), np.sqrt(np.clip(1 - share, 0, 1))


def contrasts(features: np.ndarray, parts: int) -> np.ndarray:
    """(N, F) features of masks in groups of 2 or 4 -> (P, F): what the masks of a group differ by.

    Of pairs, `differences`; of four, the three contrasts of two against two. A last group that is not whole is ignored.
    """
    if parts == 2:
        return differences(features)
    a, b, c, d = (features[i : len(features) // 4 * 4 : 4] for i in range(4))
    return np.stack([a + b - c - d, a - b + c - d, a - b - c + d], axis=1).reshape(-1, features.shape[1]) / 2


def differences(features: np.ndarray) -> np.ndarray:
    """(N, F) features, each mask followed by its complement -> (P, F): half the difference of each pair.

    A last row without its complement is ignored.
    """
    pairs = len(features) // 2
    return (features[: 2 * pairs : 2] - features[1 : 2 * pairs : 2]) / 2
