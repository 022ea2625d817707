"""What a stored operator knows of its own error: how noisy a map against any reference is, and what storing took from it.

(docs/method.md, An operator in few bytes)
"""

import dataclasses

import numpy as np

from engine.saliency.regression import Regression

OUTSIDE_PROBES = 16
"""Random directions along which the noise outside the basis is measured."""
WHOLE_COLUMNS, RANK = 32, 8
"""Of a basis of at most so many columns all directions of the noise are kept; of a larger one RANK of them, and of the rest
only how much there is along each column. RANK directions are kept of what storing took from the signal, too."""


@dataclasses.dataclass(frozen=True, eq=False)
class MapNoise:
    """The variance of a map's noise as a quadratic form of the reference, `b^T (L^T L + diag d) b + outside |r - B b|^2`.

    factors: L (k, r), upper trapezoidal, own: d (r,), float64, in the basis
    outside: mean variance along a direction that the basis leaves out
    error: ratio of the root mean square error of the map's tiles to the noise's, which leaves out a constant: at least 1
    lost: S (RANK, r), signs: s (RANK,): storing changes the variance of the map's tiles by -b^T (S^T diag s S) b
    """

    factors: np.ndarray
    own: np.ndarray
    outside: float
    error: float
    lost: np.ndarray
    signs: np.ndarray

    @classmethod
    def of(cls, regression: Regression, basis: np.ndarray | None, features: int, changed: np.ndarray) -> "MapNoise":
        """Measure a fit's noise, as it knows it.

        basis: (F, r), None for the features themselves; features: F that vary
        changed: (r, r), the form of the tiles' variance from the passes less that of the stored map
        """
        directions = np.eye(features) if basis is None else np.concatenate([basis.T, _outside(basis)])
        padded = np.zeros((len(directions), regression.weights.shape[1]))
        padded[:, :features] = directions
        whole, constants = regression.noise(padded)
        columns = features if basis is None else basis.shape[1]
        form, beyond = whole[:columns, :columns], np.diag(whole)[columns:]
        values, vectors = np.linalg.eigh(form)
        rank = _rank(len(form))
        factors = np.linalg.qr((vectors[:, -rank:] * np.sqrt(np.maximum(values[-rank:], 0))).T).R
        own = np.maximum(np.diag(form) - np.square(factors).sum(0), 0)
        values, vectors = np.linalg.eigh(changed)
        largest = np.argsort(-np.abs(values))[:RANK]
        lost, signs = np.zeros((RANK, len(form))), np.zeros(RANK)
        lost[: len(largest)] = (vectors[:, largest] * np.sqrt(np.abs(values[largest]))).T
        signs[: len(largest)] = np.sign(values[largest])
        inside = float(np.trace(form))
        constant = float(constants[:columns].sum())
        outside = float(beyond.mean()) if beyond.size else 0.0
        error = float(np.sqrt(1 + constant / inside)) if inside > 0 else 1.0
        return cls(factors, own, outside, error, lost, signs)

    def record(self) -> np.ndarray:
        """Return it as one record, () of `noise_dtype`."""
        record = np.zeros((), noise_dtype(len(self.own)))
        unit = float(max(np.abs(self.factors).max(), np.sqrt(self.own.max()), np.finfo(np.float32).tiny))
        record["unit"], record["outside"], record["error"] = unit, self.outside, self.error
        record["factors"] = np.rint(self.factors[_upper(len(self.own))] / unit * 127)
        record["own"] = np.rint(np.sqrt(self.own) / unit * 255)
        record["lost_unit"] = unit = float(max(np.abs(self.lost).max(), np.finfo(np.float32).tiny))
        record["lost"], record["signs"] = np.rint(self.lost / unit * 127), self.signs
        return record


def _rank(columns: int) -> int:
    return columns if columns <= WHOLE_COLUMNS else RANK


def _upper(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of factors that are not 0 for their shape."""
    return np.triu_indices(_rank(columns), 0, columns)


def _outside(basis: np.ndarray) -> np.ndarray:
    """Return random unit directions that a basis (F, r) leaves out: (n, F); none if it leaves out nothing."""
    random = np.random.Generator(np.random.Philox(key=0)).standard_normal((OUTSIDE_PROBES, len(basis)))
    random -= random @ basis @ basis.T
    return random[: len(basis) - basis.shape[1]] / np.linalg.norm(random, axis=1)[: len(basis) - basis.shape[1], None]


def noise_dtype(columns: int) -> np.dtype[np.void]:
    """Return the record of the noise along so many columns of a basis."""
    fields = [("unit", "<f4"), ("outside", "<f4"), ("error", "<f4"), ("lost_unit", "<f4")]
    kept = [("factors", np.int8, (len(_upper(columns)[0]),)), ("own", np.uint8, (columns,))]
    return np.dtype([*fields, *kept, ("lost", np.int8, (RANK, columns)), ("signs", np.int8, (RANK,))])


def variances(records: np.ndarray, inside: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the noise variance (n,) float64 of n maps, each by its record.

    records: (n,) of `noise_dtype`; inside: (n, r), the references in the basis; lengths: (n,), their squared lengths
    """
    unit, columns = records["unit"].astype(np.float64), inside.shape[1]
    factors = np.zeros((len(records), _rank(columns), columns), np.float32)
    rows, places = _upper(columns)
    factors[:, rows, places] = records["factors"]
    along = np.matmul(factors, inside[:, :, None])[:, :, 0] / 127
    own = (records["own"].astype(np.float32) / 255 * inside) ** 2
    outside = np.maximum(lengths - np.square(inside).sum(1), 0) * records["outside"]
    return unit**2 * (np.square(along).sum(1) + own.sum(1)) + outside


def lost_signal(records: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return by how much the variance of the tiles of n maps is larger than that of the stored maps, (n,) float64.

    records, inside: as in `variances`
    """
    unit = records["lost_unit"].astype(np.float64)
    along = np.matmul(records["lost"].astype(np.float32), inside[:, :, None])[:, :, 0] / 127
    return unit**2 * (np.square(along) * records["signs"]).sum(1)
