"""What an operator is multiplied by: the part of a reference's factor of the similarity that varies, and a basis of it."""

import dataclasses

import numpy as np

from engine.index.operators import OperatorFormat


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceBasis:
    """The columns of the references' factors that operators keep (docs/method.md, Similarity).

    size: D; has_offset: whether the metric adds a column that is constant over the references: negative squared distance
        adds two, of which one multiplies nothing that varies over the masks
    basis: (D, r) float64 with orthonormal columns; None: the D columns as they are
    """

    size: int
    has_offset: bool
    basis: np.ndarray | None

    @classmethod
    def fitted(cls, features: np.ndarray, size: int, kept: OperatorFormat) -> "ReferenceBasis":
        """Fit to the factors (R, F) of references: the first r right singular vectors of their first D columns."""
        has_offset = features.shape[1] > size
        if not kept.basis:
            return cls(size, has_offset, None)
        return cls(size, has_offset, np.linalg.svd(features[:, :size], full_matrices=False)[2][: kept.basis].T)

    @property
    def product(self) -> float:
        """What the product of two operators lacks to that of the two factors: -|a - b|^2 has <a, b> twice."""
        return 2.0 if self.has_offset else 1.0

    def split(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(M, F) coefficients per feature -> (M, D) of those that vary, and (M,) float32 of the constant one, if any."""
        return weights[:, : self.size], weights[:, -1].astype(np.float32) if self.has_offset else None

    def varying(self, features: np.ndarray) -> np.ndarray:
        """(R, F) factors -> (R, D) float32, the columns that vary."""
        return features[:, : self.size].astype(np.float32)

    def constants(self, features: np.ndarray) -> np.ndarray:
        """(R, F) factors -> (R,) float32, what an offset is multiplied by; 0 for a difference of two factors."""
        return features[:, -1].astype(np.float32)

    def inside(self, varying: np.ndarray) -> np.ndarray:
        """(R, D) -> (R, r) float32, in the basis."""
        return varying if self.basis is None else varying @ self.basis.astype(np.float32)
