"""How far a map of tokens may be off: also by what its passes say nothing about (docs/method.md, Tokens)."""

import numpy as np

from engine.saliency.geometry import Geometry
from engine.saliency.operator import PENALTIES


class Posterior:
    """The posterior of a ridge regression with a prior variance for each token, the same for all features.

    design: X (P, T) float64; z: (P, F) float64, the contrasts of the features; geometry: what makes maps of coefficients
    variances: (T,), the prior variances up to a factor, as `engine.saliency.operator` fits them
    The penalty is chosen by generalised cross-validation, as there. Leaving passes out, as there, does not show what shrinks
    every time alike: of that there is much where tokens are more than contrasts.
    """

    def __init__(self, design: np.ndarray, z: np.ndarray, geometry: Geometry, variances: np.ndarray) -> None:
        roots = np.sqrt(variances)
        left, sizes, right = np.linalg.svd(design * roots, full_matrices=False)
        values = np.square(sizes)
        self._z, self._projected = z, left.T @ z  # (P, F), (r, F)
        energies = np.square(self._projected).sum(1)
        penalty = _penalty(values, energies, float(np.square(z).sum()), len(z))
        explained = values / (values + penalty)  # (r,)
        self._seen = 1 - np.square(1 - explained)  # (r,), what residuals do not have of z along each direction, squared
        self._freedom = len(z) - explained.sum()
        tiles = geometry.tiles(np.diag(roots)).T  # (T*T, T)
        along = tiles @ right.T  # (T*T, r)
        self._to_tiles = along * (sizes / (values + penalty))
        self._variance = np.maximum(np.square(tiles).sum(1) - np.square(along) @ explained, 0) / penalty  # (T*T,)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self._z.nbytes + self._projected.nbytes + self._to_tiles.nbytes + self._variance.nbytes

    def errors(self, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return standard errors (R, T*T) of the tile means of maps, and the maps' correlation with their limits (R,).

        references: (R, F) float64, the other factor of the similarity
        """
        projected = self._projected @ references.T  # (r, R)
        left = np.square(self._z @ references.T).sum(0) - self._seen @ np.square(projected)
        scale = np.maximum(left, 0) / self._freedom  # (R,), variance of one contrast's noise
        signal = (self._to_tiles @ projected).var(0)
        total = signal + scale * self._variance.mean()
        reliability = np.sqrt(np.divide(signal, total, out=np.zeros_like(signal), where=total > 0))
        return np.sqrt(scale[:, None] * self._variance), reliability

    def form(self, directions: np.ndarray) -> np.ndarray:
        """Return the variance of the maps' noise, the mean over tiles, as a quadratic form of the reference: (n, n) along
        directions (n, F). The fit's shrinkage is not undone.
        """
        z, projected = self._z @ directions.T, self._projected @ directions.T
        left = z.T @ z - (self._seen[:, None] * projected).T @ projected
        return left / self._freedom * float(self._variance.mean())


def _penalty(values: np.ndarray, energies: np.ndarray, energy: float, pairs: int) -> float:
    """Return the penalty with the least score in generalised cross-validation.

    values: (r,), eigenvalues of X^T X; energies: (r,), of z along each; energy: of z; pairs: P
    """
    tried = PENALTIES * max(values[0], np.finfo(float).tiny)
    unfitted = tried[:, None] / (values + tried[:, None])
    residual = np.square(unfitted) @ energies + max(energy - energies.sum(), 0.0)
    freedom = unfitted.sum(1) + pairs - len(values)
    return float(tried[np.argmin(residual / np.square(freedom))])
