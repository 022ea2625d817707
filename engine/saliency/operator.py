"""The regression as a linear operator on scores: what masks are to it, and the fit of its penalty and prior variances.

Everything about the masks alone is in `MaskRows`: it is the same for every picture that is shown through them.
"""

import dataclasses
import functools

import numpy as np

GROUPS = 16
"""Groups of mask pairs; for the standard errors, each is left out in turn."""
VARIANCE_ROUNDS = 2
"""Rounds of fitting the tiles' prior variances; more change the maps' correlation with their limits by less than .001."""
LEAST_VARIANCE = 0.02
"""Least prior variance of a tile, as a share of the mean."""
LEAST_EIGENVALUE = 0.003
"""Directions whose eigenvalue is below this share of the largest are left out: the penalty would shrink them to nothing."""
PENALTIES = np.logspace(-5, 1, 40)
"""Ridge penalties to try, as shares of the largest eigenvalue."""
MARGIN = 1.3
"""The penalty of the last fit is so many times what cross-validation points to. That errs towards small penalties, and its
optimum rises once more with the last variances: maps then correlate better with their limits, by up to .001."""
LONGEST_STEP = np.log(10)
"""A step may change a penalty tenfold."""


@dataclasses.dataclass(frozen=True, eq=False)
class MaskRows:
    """A design matrix X (P, T) float64 in its leading directions: tile means minus 1/2 of the first mask of each of P pairs
    (its complement has the negative).

    basis: U (P, r), orthonormal columns; compressed: U^T X (r, T), orthogonal rows; values: (r,), eigenvalues of X X^T
    spread: variance over a mask's tiles, averaged over the masks
    """

    basis: np.ndarray
    compressed: np.ndarray
    values: np.ndarray
    spread: float

    @classmethod
    def of(cls, design: np.ndarray) -> "MaskRows":
        """Return the leading directions of a design matrix (P, T) float64."""
        pairs, tiles = design.shape
        values, vectors = np.linalg.eigh(design @ design.T if pairs <= tiles else design.T @ design)
        leading = values > values.max(initial=np.finfo(float).tiny) * LEAST_EIGENVALUE
        values, vectors = values[leading], vectors[:, leading]
        if pairs <= tiles:
            basis, compressed = vectors, vectors.T @ design
        else:
            basis, compressed = design @ vectors / np.sqrt(values), np.sqrt(values)[:, None] * vectors.T
        for array in (basis, compressed, values):
            array.setflags(write=False)  # pictures share them
        return cls(basis, compressed, values, float(design.var(1).mean()) if pairs else 0.0)

    @functools.cached_property
    def penalties(self) -> np.ndarray:
        """(L,), to choose from."""
        return PENALTIES * self.values.max(initial=np.finfo(float).tiny)

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """(G, g) int, see `groups`."""
        return groups(len(self.basis))

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.basis.nbytes + self.compressed.nbytes + self.values.nbytes


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """Fitted once per prepared query, used for every reference.

    rows: of the masks; gain: (r, T), coefficients of a score of 1 along each direction of the rows
    explained: (r, r), what the fit says of such scores; variances: (T,), the tiles' prior variances, of mean 1 or nearly
    """

    rows: MaskRows
    gain: np.ndarray
    explained: np.ndarray
    variances: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes, without the rows; with what `left_out` keeps."""
        pairs = self.rows.groups.size
        kept = pairs * (len(self.gain) + self.rows.groups.shape[1])
        return self.gain.nbytes + self.explained.nbytes + self.variances.nbytes + kept * self.gain.itemsize

    @classmethod
    def fitted(cls, rows: MaskRows, z: np.ndarray) -> "Operator":
        """Fit the penalty and the tiles' prior variances to z (P, F), `differences` of the pairs.

        A ridge regression in which tile t has prior variance s_t, the same for all features (automatic relevance
        determination, MacKay 1992), with one penalty for all features (generalised cross-validation, Golub, Heath and Wahba
        1979): the best of PENALTIES where all variances are equal, then one step of Newton's method from there, and MARGIN.
        """
        ridge = _Ridge.equal(rows, _Scores.of(rows, z))
        for round_ in range(VARIANCE_ROUNDS):
            updated = ridge.updated_variances()
            if not updated.mean() > 0:
                break  # the scores do not vary
            penalty = ridge.penalty if round_ == 0 else MARGIN * ridge.better_penalty()
            ridge = ridge.with_variances(np.maximum(updated / updated.mean(), LEAST_VARIANCE), penalty)
        return cls(rows, ridge.gain, np.eye(len(ridge.gain)) - ridge.unfitted, ridge.variances)

    def coefficients(self, z: np.ndarray) -> np.ndarray:
        """Return the ridge coefficients (T, F) for z (P, F), `differences` of the pairs' scores."""
        return self.gain.T @ (self.rows.basis.T @ z)

    def again(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, F) coefficients -> what they say of the pairs (P, F), and the coefficients (T, F) of a fit to that."""
        seen = self.rows.compressed @ coefficients
        return self.rows.basis @ seen, self.gain.T @ seen

    def left_out(self, residuals: np.ndarray) -> np.ndarray:
        """Return what the coefficients lose without each group of pairs: (G, R, T). residuals: (P, R) of the fit"""
        basis, freed = self._without
        padded = np.concatenate([residuals, np.zeros((1, residuals.shape[1]))])[self.rows.groups]  # (G, g, R)
        seen = (freed @ padded).transpose(0, 2, 1) @ basis  # (G, R, r)
        lost = seen.reshape(-1, seen.shape[2]) @ self.gain
        return lost.reshape(*seen.shape[:2], -1)

    @functools.cached_property
    def _without(self) -> tuple[np.ndarray, np.ndarray]:
        """(G, g, r), the basis by groups, and (G, g, g), what makes residuals without a group of those with it."""
        directions = self.rows.basis.shape[1]
        basis = np.concatenate([self.rows.basis, np.zeros((1, directions))])[self.rows.groups]
        fitted = basis.reshape(-1, directions) @ self.explained
        leverage = fitted.reshape(basis.shape) @ basis.transpose(0, 2, 1)
        return basis, np.linalg.inv(np.eye(leverage.shape[1]) - leverage)


@dataclasses.dataclass(frozen=True, eq=False)
class _Scores:
    """Scores z to fit. seen: (r, F), along the directions of the rows; unseen: the rest of |z|^2, along as many further
    directions as `unseen_pairs`
    """

    seen: np.ndarray
    unseen: float
    unseen_pairs: int

    @classmethod
    def of(cls, rows: MaskRows, z: np.ndarray) -> "_Scores":
        seen = rows.basis.T @ z
        unseen = max(float(np.vdot(z, z) - np.vdot(seen, seen)), 0.0)
        return cls(seen, unseen, rows.basis.shape[0] - rows.basis.shape[1])


@dataclasses.dataclass(frozen=True, eq=False)
class _Ridge:
    """A ridge regression of scores with prior variances S and penalty l, in the directions of the rows Y.

    variances: (T,), the diagonal of S; unfitted: H = l (Y S Y^T + l)^-1 (r, r), what the fit does not explain
    gain: H Y S / l (r, T)
    """

    rows: MaskRows
    scores: _Scores
    variances: np.ndarray
    penalty: float
    unfitted: np.ndarray
    gain: np.ndarray

    @classmethod
    def equal(cls, rows: MaskRows, scores: _Scores) -> "_Ridge":
        """Return the fit with equal prior variances whose penalty has the least score in generalised cross-validation."""
        tried = rows.penalties
        unfitted = tried[:, None] / (rows.values + tried[:, None])  # (L, r)
        residual = np.square(unfitted) @ np.square(scores.seen).sum(1) + scores.unseen  # (L,)
        freedom = unfitted.sum(1) + scores.unseen_pairs  # (L,)
        best = np.argmin(residual / np.square(freedom))
        gain = rows.compressed * (unfitted[best] / tried[best])[:, None]
        return cls(rows, scores, np.ones(gain.shape[1]), float(tried[best]), np.diag(unfitted[best]), gain)

    def with_variances(self, variances: np.ndarray, penalty: float) -> "_Ridge":
        """Return the fit of the same scores with other prior variances, and a penalty within those to choose from."""
        compressed, penalty = self.rows.compressed, float(np.clip(penalty, *self.rows.penalties[[0, -1]]))
        root = compressed * np.sqrt(variances)
        inverse = np.linalg.inv(root @ root.T + penalty * np.eye(len(root)))
        gain = inverse @ (compressed * variances)
        return dataclasses.replace(self, variances=variances, penalty=penalty, unfitted=penalty * inverse, gain=gain)

    def updated_variances(self) -> np.ndarray:
        """Return the mean squares (T,) of the coefficients, posterior variances included, summed over features."""
        residual = float(np.square(self.unfitted @ self.scores.seen).sum()) + self.scores.unseen
        noise = residual / (float(np.trace(self.unfitted)) + self.scores.unseen_pairs)
        posterior = self.variances * (1 - (self.gain * self.rows.compressed).sum(0))
        updated: np.ndarray = np.square(self.gain.T @ self.scores.seen).sum(1) + noise / self.penalty * posterior
        return updated

    def better_penalty(self) -> float:
        """Return the penalty after one step of Newton's method in log l towards the least score in generalised
        cross-validation, log |H z|^2 - 2 log tr H. Along a direction of which h is not explained, dh / d log l = h (1 - h).
        """
        once = self.unfitted @ self.scores.seen
        twice, square = self.unfitted @ once, self.unfitted @ self.unfitted
        z2, z3, z4 = (float(np.vdot(a, b)) for a, b in ((once, once), (once, twice), (twice, twice)))
        h1, h2, h3 = float(np.trace(self.unfitted)), float(np.trace(square)), float(np.vdot(square, self.unfitted))
        residual, freedom = z2 + self.scores.unseen, h1 + self.scores.unseen_pairs
        residual_slope, freedom_slope = 2 * (z2 - z3) / residual, (h1 - h2) / freedom
        slope = residual_slope - 2 * freedom_slope
        curvature = 2 * (2 * z2 - 5 * z3 + 3 * z4) / residual - residual_slope**2
        curvature -= 2 * ((h1 - 3 * h2 + 2 * h3) / freedom - freedom_slope**2)
        step = -slope / curvature if curvature > 0 else -np.sign(slope) * LONGEST_STEP
        return self.penalty * float(np.exp(np.clip(step, -LONGEST_STEP, LONGEST_STEP)))


def groups(pairs: int) -> np.ndarray:
    """Return the pairs in each of at most GROUPS runs whose lengths differ by at most one: (G, g) int.

    A run that is shorter than the longest ends with `pairs`, which is no pair.
    """
    edges = np.linspace(0, pairs, min(GROUPS, pairs) + 1).astype(int)
    members = edges[:-1, None] + np.arange(np.diff(edges).max())
    return np.where(members < edges[1:, None], members, pairs)
