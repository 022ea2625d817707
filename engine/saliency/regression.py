"""The regression estimator: a RISE map from few passes, with its error (derivation and measurements: docs/estimator.md).

Masks come in pairs: a mask and its complement under the same shift. The score of the query behind mask m is modelled as
linear in m's means over 16 x 16 tiles. The covariance of masks and tiles is known in closed form, so the map follows from
the coefficients by algebra: in similarity units, independent of the number of masks, linear in the reference.
"""

import dataclasses
import functools
import itertools

import numpy as np

from kernels.areas import areas
from kernels.rise import upsampling

TILES = 16
"""Tiles per side. With 8 the limit is visibly biased (correlation .998 with the published one), with 16 not (.9997)."""
GROUPS = 16
"""Groups of mask pairs; for the standard errors, each is left out in turn."""
VARIANCE_ROUNDS = 2
"""Rounds of fitting the tiles' prior variances; more change the maps' correlation with their limits by less than .001."""
LEAST_VARIANCE = 0.02
"""Least prior variance of a tile, as a share of the mean."""
SHOWN_SHARE = 0.5
"""E[m]: share of the masks that show a pixel."""
LEAST_EIGENVALUE = 1e-12
"""Eigenvalues below this share of the largest are rounding errors."""
PENALTIES = np.logspace(-5, 1, 40)
"""Ridge penalties to try, as shares of the largest eigenvalue."""


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """What depends only on the picture's size and the grid: the covariance of a mask's pixel (y, x) and tile (i, j) is
    `1/4 rows[y, i] columns[x, j]`.

    rows: (H, T), columns: (W, T) float64; tile_rows, tile_columns: (T, T), their means over tiles
    """

    rows: np.ndarray
    columns: np.ndarray
    tile_rows: np.ndarray
    tile_columns: np.ndarray

    @classmethod
    def of(cls, height: int, width: int, grid: int) -> "Geometry":
        """Return the geometry of masks of grid x grid cells over height x width pixels."""
        rows, columns = _covariance(height, grid), _covariance(width, grid)
        return cls(rows, columns, areas(height, TILES) @ rows, areas(width, TILES) @ columns)

    def maps(self, coefficients: np.ndarray) -> np.ndarray:
        """(R, T*T) coefficients -> (R, H, W) float32 maps: Cov(y, m) / E[m], in similarity units."""
        return _covariance_over_mean(coefficients, self.rows, self.columns).astype(np.float32)

    def tiles(self, coefficients: np.ndarray) -> np.ndarray:
        """(R, T*T) coefficients -> (R, T*T) float64: the maps' means over tiles."""
        return _covariance_over_mean(coefficients, self.tile_rows, self.tile_columns).reshape(len(coefficients), -1)

    def coarse_tiles(self, coefficients: np.ndarray, side: int) -> np.ndarray:
        """(R, T*T) coefficients -> (R, side * side) float64: the maps' means over side x side tiles."""
        rows, columns = (areas(len(m), side) @ m for m in (self.rows, self.columns))
        return _covariance_over_mean(coefficients, rows, columns).reshape(len(coefficients), -1)


def _covariance(length: int, grid: int) -> np.ndarray:
    """Return the mean over shifts a of U_a (P U_a)^T: (length, T), with U_a the upsampling at shift a, P the tile means."""
    ups = upsampling(length, grid).astype(np.float64)  # (cell, length, grid)
    return np.mean(ups @ (areas(length, TILES) @ ups).transpose(0, 2, 1), axis=0)


def _covariance_over_mean(coefficients: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return Cov / E[m] = (1/4 rows W columns^T) / (1/2): (R, h, w).

    coefficients: W (R, T*T); rows: (h, T); columns: (w, T)
    """
    return 0.5 * (rows @ coefficients.reshape(-1, TILES, TILES) @ columns.T)


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """The regression as a linear operator on scores: fitted once per prepared query, used for every reference.

    design: X (P, T*T) float64, tile means minus 1/2 of the first mask of each of P pairs (its complement has the negative)
    factor: A (T*T, r) with A A^T = (X^T X + L)^-1 for the penalty L, on the subspace that the masks span
    """

    design: np.ndarray
    factor: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes, including `leave_out`."""
        return 2 * self.design.nbytes + self.factor.nbytes

    @classmethod
    def fitted(cls, design: np.ndarray, z: np.ndarray) -> "Operator":
        """Fit the penalty and the tiles' prior variances to z (P, F), `differences` of the pairs.

        A ridge regression in which tile t has prior variance s_t, the same for all features (automatic relevance
        determination, MacKay 1992), with one penalty for all features (generalised cross-validation, Golub, Heath and Wahba
        1979).
        """
        moments, energy = design.T @ z, float(np.square(z).sum())
        gram = design.T @ design if len(design) > design.shape[1] else None
        variances = np.ones(design.shape[1])
        for _ in range(VARIANCE_ROUNDS):
            fit = _Ridge.fitted(design, gram, moments, energy, variances)
            updated = np.square(fit.coefficients).sum(1) + fit.noise / fit.penalty * fit.posterior
            if not updated.mean() > 0:
                break  # the scores do not vary
            variances = np.maximum(updated / updated.mean(), LEAST_VARIANCE)
        return cls(design, _Ridge.fitted(design, gram, moments, energy, variances).factor)

    def coefficients(self, z: np.ndarray) -> np.ndarray:
        """Return the ridge coefficients (T*T, F) for z (P, F), `differences` of the pairs' scores."""
        return self.factor @ (self.factor.T @ (self.design.T @ z))

    @functools.cached_property
    def leave_out(self) -> np.ndarray:
        """(T*T, P): a group's columns times its residuals is what the coefficients lose without that group of pairs."""
        result = np.empty(self.design.T.shape)
        for group in groups(len(self.design)):
            influence = self.factor @ (self.factor.T @ self.design[group].T)  # (T*T, g)
            leverage = self.design[group] @ influence  # (g, g)
            result[:, group] = np.linalg.solve((np.eye(len(leverage)) - leverage).T, influence.T).T
        return result


@dataclasses.dataclass(frozen=True, eq=False)
class _Ridge:
    """A ridge regression with prior variances S, in the eigenbasis V of S^1/2 X^T X S^1/2. Its penalty l has the least score
    in generalised cross-validation.

    scaled: S^1/2 V (T*T, r); shrinkage: (r,), 1 / (eigenvalue + l); coefficients: (T*T, F)
    posterior: (T*T,), variances as multiples of l; penalty: l; noise: variance, summed over features
    """

    scaled: np.ndarray
    shrinkage: np.ndarray
    coefficients: np.ndarray
    posterior: np.ndarray
    penalty: float
    noise: float

    @classmethod
    def fitted(
        cls, design: np.ndarray, gram: np.ndarray | None, moments: np.ndarray, energy: float, variances: np.ndarray
    ) -> "_Ridge":
        """Fit. design: X (P, T*T); gram: X^T X, or None if X X^T is smaller; moments: X^T z (T*T, F); energy: |z|^2;
        variances: (T*T,), the diagonal of S
        """
        pairs, root = len(design), np.sqrt(variances)
        rows = design * root if gram is None else None
        values, vectors = np.linalg.eigh(root[:, None] * gram * root if rows is None else rows @ rows.T)
        spanned = values > max(values[-1], np.finfo(float).tiny) * LEAST_EIGENVALUE
        values, vectors = values[spanned], vectors[:, spanned]
        if rows is not None:
            vectors = rows.T @ vectors / np.sqrt(values)
        scaled = root[:, None] * vectors
        projected = scaled.T @ moments  # (r, F)
        energies = np.square(projected).sum(1) / values  # (r,)
        outside = max(energy - energies.sum(), 0.0)
        tried = PENALTIES * (values[-1] if len(values) else 1.0)
        unfitted = tried[:, None] / (
            values + tried[:, None]
        )  # (L, r): share of each direction that the fit does not explain
        residual = np.square(unfitted) @ energies + outside  # (L,)
        freedom = unfitted.sum(1) + pairs - len(values)  # (L,)
        best = np.argmin(residual / np.square(freedom))
        penalty, shrinkage = float(tried[best]), 1 / (values + tried[best])
        coefficients = scaled @ (shrinkage[:, None] * projected)
        posterior = variances * (1 - np.square(vectors) @ (values * shrinkage))
        return cls(scaled, shrinkage, coefficients, posterior, penalty, float(residual[best] / freedom[best]))

    @property
    def factor(self) -> np.ndarray:
        """(T*T, r): A of `Operator`."""
        return self.scaled * np.sqrt(self.shrinkage)


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """A map and its error.

    saliency: (H, W) float32
    error: (T, T) float32, standard errors of its tile means; None if unknown
    reliability: its estimated correlation with the limit for infinitely many masks, in [0, 1]; None if unknown
    """

    saliency: np.ndarray
    error: np.ndarray | None = None
    reliability: float | None = None


class Regression:
    """One prepared query's maps against any reference, linear in the reference's features.

    operator: fitted to the query's masks; z: (P, F), `differences` of the masked query's factor of the similarity
    """

    def __init__(self, operator: Operator, geometry: Geometry, z: np.ndarray) -> None:
        self._operator, self._geometry = operator, geometry
        self._weights = operator.coefficients(z)  # (T*T, F), shrunk
        fitted = operator.design @ self._weights
        self._residuals = z - fitted  # (P, F)
        tiles, refitted = geometry.tiles(self._weights.T), geometry.tiles(operator.coefficients(fitted).T)
        size = np.square(tiles).sum()
        # the fit shrinks amplitudes; fitting the fitted values again shrinks them as much, which measures it
        self._amplitude = float((tiles * refitted).sum() / size) if size > 0 else 1.0

    @property
    def nbytes(self) -> int:
        """Bytes, without the operator."""
        return self._weights.nbytes + self._residuals.nbytes

    def estimates(self, references: np.ndarray) -> list[Estimate]:
        """Return one estimate per row of references (R, F) float64, the other factor of the similarity."""
        coefficients = self._coefficients(references)
        maps = self._geometry.maps(coefficients)
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
        signal = self._geometry.tiles(coefficients).var(1) * reliability**2
        noise = variances * self._operator.design.var(1).mean() / (masks * SHOWN_SHARE**2) + extra_noise
        total = signal + noise
        return reliability, np.sqrt(np.divide(signal, total, out=np.zeros_like(signal), where=total > 0))

    def map_variance(self, references: np.ndarray) -> float:
        """Return how much the maps against references (R, F) differ from their mean: the variance over the picture, averaged
        over the references.
        """
        centred = references - references.mean(0)
        return float(self._geometry.tiles(self._coefficients(centred)).var(1).mean())

    def leading(self, count: int) -> np.ndarray:
        """Return up to `count` unit directions of the features, (n, F), along which the maps are largest."""
        return np.linalg.svd(self._weights, full_matrices=False)[2][:count]

    def _coefficients(self, references: np.ndarray) -> np.ndarray:
        """(R, F) references -> (R, T*T) coefficients, with the fit's shrinkage undone."""
        return (references @ self._weights.T) / self._amplitude

    def _errors(self, references: np.ndarray, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return standard errors (R, T*T) by jackknife over groups of pairs, and the reliability (R,)."""
        residuals = references @ self._residuals.T / self._amplitude  # (R, P)
        changes = [residuals[:, g] @ self._operator.leave_out[:, g].T for g in groups(residuals.shape[1])]
        replicates = self._geometry.tiles(np.concatenate(changes)).reshape(len(changes), *coefficients.shape)  # (G, R, T*T)
        replicates -= replicates.mean(0)
        factor = (len(changes) - 1) / len(changes)
        variance = factor * np.square(replicates).sum(0)
        noise = factor * replicates.var(2).sum(0)  # around each replicate's mean: adding a constant to a map changes nothing
        signal = self._geometry.tiles(coefficients).var(1)
        share = np.divide(noise, signal, out=np.ones_like(signal), where=signal > 0)
        return np.sqrt(variance), np.sqrt(np.clip(1 - share, 0, 1))


def groups(pairs: int) -> list[slice]:
    """Return slices that cut the pairs into at most GROUPS runs, whose lengths differ by at most one."""
    edges = np.linspace(0, pairs, min(GROUPS, pairs) + 1).astype(int)
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def differences(features: np.ndarray) -> np.ndarray:
    """(N, F) features, each mask followed by its complement -> (P, F): half the difference of each pair.

    A last row without its complement is ignored.
    """
    pairs = len(features) // 2
    return (features[: 2 * pairs : 2] - features[1 : 2 * pairs : 2]) / 2
