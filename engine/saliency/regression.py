"""The regression estimator: a RISE map from few passes, with its error (derivation and measurements: docs/estimator.md).

Masks come in pairs, each with its complement under the same shift. The score of the query behind mask m is modelled as
linear in m's means over 16 x 16 tiles; the population covariance of masks and tiles is known in closed form, so the map is
algebra on the coefficients: in similarity units, independent of the number of masks, linear in the reference.
"""

import dataclasses
import functools
import itertools

import numpy as np

from kernels.areas import areas
from kernels.rise import upsampling

TILES = 16
"""Tiles a side. 8 would bias the limit visibly (correlation .998 with the published one), 16 does not (.9997)."""
GROUPS = 16
"""Of mask pairs, each left out in turn for the standard errors."""
VARIANCE_ROUNDS = 2
"""Of fitting the tiles' prior variances; more change the maps' correlation with their limits by less than .001."""
FLOOR = 0.02
"""Least prior variance of a tile, in parts of the mean."""
SHOWN = 0.5
"""E[m]: share of the masks that show a pixel."""
SPANNED = 1e-12
"""Eigenvalues below this part of the largest are rounding."""
PENALTIES = np.logspace(-5, 1, 40)
"""Ridge penalties tried, in parts of the largest eigenvalue."""


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """What size and grid alone decide. Population covariance of a mask pixel and a tile: `1/4 rows[y, i] columns[x, j]`.

    rows (H, T), columns (W, T) float64; tile_rows, tile_columns (T, T): the same, averaged over tiles
    """

    rows: np.ndarray
    columns: np.ndarray
    tile_rows: np.ndarray
    tile_columns: np.ndarray

    @classmethod
    def of(cls, height: int, width: int, grid: int) -> "Geometry":
        rows, columns = _covariance(height, grid), _covariance(width, grid)
        return cls(rows, columns, areas(height, TILES) @ rows, areas(width, TILES) @ columns)

    def maps(self, coefficients: np.ndarray) -> np.ndarray:
        """(R, T*T) coefficients -> (R, H, W) float32: Cov(y, m) / E[m], similarity units."""
        return _spread(coefficients, self.rows, self.columns).astype(np.float32)

    def tiles(self, coefficients: np.ndarray) -> np.ndarray:
        """(R, T*T) coefficients -> (R, T*T) float64: the maps' means over tiles."""
        return _spread(coefficients, self.tile_rows, self.tile_columns).reshape(len(coefficients), -1)


def _covariance(length: int, grid: int) -> np.ndarray:
    """(length, T): mean over shifts of U_a (P U_a)^T, with U_a the upsampling at shift a and P the tile means."""
    ups = upsampling(length, grid).astype(np.float64)  # (cell, length, grid)
    return np.mean(ups @ (areas(length, TILES) @ ups).transpose(0, 2, 1), axis=0)


def _spread(coefficients: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cov / E[m] = (1/4 K W K^T) / (1/2)."""
    return 0.5 * (rows @ coefficients.reshape(-1, TILES, TILES) @ columns.T)


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """The regression as a linear operator on scores: fitted once per prepared query, used for every reference.

    design X (P, T*T) float64: tile means of the first mask of each of P pairs, less 1/2 (its complement's are the negative)
    factor A (T*T, r): A A^T = (X^T X + L)^-1 with the penalty L, as far as the masks span the tiles
    """

    design: np.ndarray
    factor: np.ndarray

    @property
    def nbytes(self) -> int:
        """With `left_out`."""
        return 2 * self.design.nbytes + self.factor.nbytes

    @classmethod
    def fitted(cls, design: np.ndarray, z: np.ndarray) -> "Operator":
        """For `design` as above, with penalty and the tiles' prior variances fitted on the pairs' differences z (P, F).

        Ridge with prior variance s_t for tile t, shared by all features (automatic relevance determination, MacKay 1992);
        one penalty by generalised cross-validation (Golub, Heath and Wahba 1979) over all features.
        """
        moments, energy = design.T @ z, float(np.square(z).sum())
        gram = design.T @ design if len(design) > design.shape[1] else None
        variances = np.ones(design.shape[1])
        for _ in range(VARIANCE_ROUNDS):
            fit = _Ridge.fitted(design, gram, moments, energy, variances)
            updated = np.square(fit.coefficients).sum(1) + fit.noise / fit.penalty * fit.posterior
            if not updated.mean() > 0:
                break  # the scores do not vary
            variances = np.maximum(updated / updated.mean(), FLOOR)
        return cls(design, _Ridge.fitted(design, gram, moments, energy, variances).factor)

    def coefficients(self, z: np.ndarray) -> np.ndarray:
        """(T*T, F) ridge coefficients of half the differences z (P, F) of the pairs' scores."""
        return self.factor @ (self.factor.T @ (self.design.T @ z))

    @functools.cached_property
    def left_out(self) -> np.ndarray:
        """(T*T, P): times the residuals of a group of pairs gives what the coefficients lose without that group."""
        result = np.empty(self.design.T.shape)
        for group in groups(len(self.design)):
            spread = self.factor @ (self.factor.T @ self.design[group].T)  # (T*T, g)
            own = self.design[group] @ spread
            result[:, group] = np.linalg.solve((np.eye(len(own)) - own).T, spread.T).T
        return result


@dataclasses.dataclass(frozen=True, eq=False)
class _Ridge:
    """Ridge with prior variances S and the penalty l of least GCV score, in the eigenbasis V of S^1/2 X^T X S^1/2.

    scaled: S^1/2 V (T*T, r); shrinking: 1 / (eigenvalue + l) (r,); coefficients (T*T, F); posterior: variances (T*T,) in
    parts of l; noise: variance, summed over features
    """

    scaled: np.ndarray
    shrinking: np.ndarray
    coefficients: np.ndarray
    posterior: np.ndarray
    penalty: float
    noise: float

    @classmethod
    def fitted(
        cls, design: np.ndarray, gram: np.ndarray | None, moments: np.ndarray, energy: float, variances: np.ndarray
    ) -> "_Ridge":
        """design X (P, T*T), gram X^T X or None where X X^T is smaller; moments X^T z (T*T, F), energy |z|^2; variances
        (T*T,): the diagonal of S
        """
        pairs, root = len(design), np.sqrt(variances)
        rows = design * root if gram is None else None
        values, vectors = np.linalg.eigh(root[:, None] * gram * root if rows is None else rows @ rows.T)
        spanned = values > max(values[-1], np.finfo(float).tiny) * SPANNED  # by the masks
        values, vectors = values[spanned], vectors[:, spanned]
        if rows is not None:
            vectors = rows.T @ vectors / np.sqrt(values)
        scaled = root[:, None] * vectors
        projected = scaled.T @ moments  # (r, F)
        energies = np.square(projected).sum(1) / values  # (r,)
        outside = max(energy - energies.sum(), 0.0)
        tried = PENALTIES * (values[-1] if len(values) else 1.0)
        kept = tried[:, None] / (values + tried[:, None])  # (L, r): share of each direction that the fit leaves
        lost, freedom = np.square(kept) @ energies + outside, kept.sum(1) + pairs - len(values)
        best = np.argmin(lost / np.square(freedom))
        penalty, shrinking = float(tried[best]), 1 / (values + tried[best])
        coefficients = scaled @ (shrinking[:, None] * projected)
        posterior = variances * (1 - np.square(vectors) @ (values * shrinking))
        return cls(scaled, shrinking, coefficients, posterior, penalty, float(lost[best] / freedom[best]))

    @property
    def factor(self) -> np.ndarray:
        return self.scaled * np.sqrt(self.shrinking)


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """saliency (H, W) float32; error (T, T) float32: standard errors of its tile means; reliability: its estimated
    correlation with the limit for infinitely many masks, in [0, 1]. None where nothing tells them.
    """

    saliency: np.ndarray
    error: np.ndarray | None = None
    reliability: float | None = None


class Regression:
    """One prepared query's maps against any reference; linear in the features of the reference.

    operator: fitted to the query's masks; z (P, F): `differences` of the masked query's factor of the similarity
    """

    def __init__(self, operator: Operator, geometry: Geometry, z: np.ndarray) -> None:
        self._operator, self._geometry = operator, geometry
        self._weights = operator.coefficients(z)  # (T*T, F), shrunk
        fitted = operator.design @ self._weights
        self._residuals = z - fitted  # (P, F)
        tiles, again = geometry.tiles(self._weights.T), geometry.tiles(operator.coefficients(fitted).T)
        size = np.square(tiles).sum()
        # fitting the fitted values once more shrinks them as the truth was shrunk
        self._amplitude = float((tiles * again).sum() / size) if size > 0 else 1.0

    @property
    def nbytes(self) -> int:
        return self._weights.nbytes + self._residuals.nbytes

    def estimates(self, references: np.ndarray) -> list[Estimate]:
        """One per row of references (R, F) float64, the other factor of the similarity."""
        coefficients = self._coefficients(references)
        maps = self._geometry.maps(coefficients)
        if len(self._residuals) < GROUPS:
            return [Estimate(saliency) for saliency in maps]
        errors, reliability = self._errors(references, coefficients)
        errors = errors.reshape(-1, TILES, TILES).astype(np.float32)
        return [Estimate(*one) for one in zip(maps, errors, reliability.tolist(), strict=True)]

    def convergence(
        self, references: np.ndarray, variances: np.ndarray, masks: int, further: np.ndarray | float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reliability (R,) as in `estimates`, and that of the published estimator with so many masks.

        references (R, F); variances (R,): of the masked query's scores. The published map is the mean score of the masks
        that show a pixel: noise of variance `variances / masks` goes through the masks' own variation over the picture.
        further: (R,) variance of other noise on it
        """
        coefficients = self._coefficients(references)
        reliability = self._errors(references, coefficients)[1]
        signal = self._geometry.tiles(coefficients).var(1) * reliability**2
        noise = variances * self._operator.design.var(1).mean() / (masks * SHOWN**2) + further
        total = signal + noise
        return reliability, np.sqrt(np.divide(signal, total, out=np.zeros_like(signal), where=total > 0))

    def spread(self, references: np.ndarray) -> float:
        """Variance over the picture of the maps against references (R, F), about their mean, mean over the references."""
        about = references - references.mean(0)
        return float(self._geometry.tiles(self._coefficients(about)).var(1).mean())

    def leading(self, count: int) -> np.ndarray:
        """(count or fewer, F): unit directions of the features along which the maps are largest."""
        return np.linalg.svd(self._weights, full_matrices=False)[2][:count]

    def tiles(self, parts: int) -> np.ndarray:
        """(parts * parts, F): covariance of the features with the masks' means over parts x parts tiles."""
        geometry = self._geometry
        rows, columns = (areas(len(m), parts) @ m for m in (geometry.rows, geometry.columns))
        return _spread(self._weights.T, rows, columns).reshape(-1, parts * parts).T

    def _coefficients(self, references: np.ndarray) -> np.ndarray:
        """(R, F) -> (R, T*T)."""
        return (references @ self._weights.T) / self._amplitude

    def _errors(self, references: np.ndarray, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(R, T*T) standard errors by jackknife over groups of pairs, and reliability (R,)."""
        residuals = references @ self._residuals.T / self._amplitude  # (R, P)
        lost = [residuals[:, g] @ self._operator.left_out[:, g].T for g in groups(residuals.shape[1])]
        replicates = self._geometry.tiles(np.concatenate(lost)).reshape(len(lost), *coefficients.shape)  # (G, R, T*T)
        replicates -= replicates.mean(0)
        factor = (len(lost) - 1) / len(lost)
        variance = factor * np.square(replicates).sum(0)
        noise = factor * replicates.var(2).sum(0)  # about each replicate's mean: a constant changes no map
        signal = self._geometry.tiles(coefficients).var(1)
        share = np.divide(noise, signal, out=np.ones_like(signal), where=signal > 0)
        return np.sqrt(variance), np.sqrt(np.clip(1 - share, 0, 1))


def groups(pairs: int) -> list[slice]:
    """At most GROUPS consecutive runs of pairs, of equal length give or take one."""
    edges = np.linspace(0, pairs, min(GROUPS, pairs) + 1).astype(int)
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def differences(features: np.ndarray) -> np.ndarray:
    """(N, F) of masks and their complements in turn -> (P, F): half of what each pair differs by.

    A last row without its complement tells nothing.
    """
    pairs = len(features) // 2
    return (features[: 2 * pairs : 2] - features[1 : 2 * pairs : 2]) / 2
