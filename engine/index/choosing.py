"""Choose how operators are stored, from maps of a sample of the catalogue: the fewest bytes that reach the target."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from engine.index.codec import OperatorCodec, nearest
from engine.index.embeddings import ReferenceBasis
from engine.index.operators import OperatorFormat
from engine.index.settings import Fidelity
from engine.saliency.regression import Regression

TARGET = (0.98, 0.95)
"""Correlation of an index's maps with those from the passes: the median, and the 10th percentile."""
MODE_COUNTS, BASIS_COLUMNS, REST_RANKS = (36, 49, 64), (16, 32, 64, 128, 256), (0, 4, 8, 16)


@dataclasses.dataclass(frozen=True, eq=False)
class ChoiceSample:
    """What the choice is made on.

    regressions: fits of some pictures; own: (n, F), their factors as references
    held_out: (R, F) float64, factors of references that no basis was fitted to; fitted: those that it is fitted to
    size: D
    """

    regressions: Sequence[Regression]
    own: np.ndarray
    held_out: np.ndarray
    fitted: np.ndarray
    size: int

    def fidelity(self, codec: OperatorCodec) -> Fidelity:
        """Measure the pictures' maps against their nearest held-out references."""
        found = []
        for regression, own in zip(self.regressions, self.own, strict=True):
            stored = codec.stored(regression.weights)
            found.append(codec.fidelity(regression.weights, stored, nearest(own, self.held_out, self.size)))
        return Fidelity.of(np.array(found))


def choose_format(sample: ChoiceSample, target: tuple[float, float]) -> tuple[OperatorCodec, Fidelity]:
    """Return the format of the fewest bytes that reaches the target, else the most faithful one, and its fidelity."""
    found: list[tuple[OperatorCodec, Fidelity]] = []
    geometry = sample.regressions[0].geometry
    formats = candidates(len(sample.fitted), sample.size, geometry.parts)
    for kept in sorted(formats, key=lambda f: f.dtype(sample.size).itemsize):
        codec = OperatorCodec.of(kept, ReferenceBasis.fitted(sample.fitted, sample.size, kept), geometry)
        found.append((codec, sample.fidelity(codec)))
        if found[-1][1].reaches(target):
            return found[-1]
    return max(found, key=lambda one: np.nan_to_num(one[1].tenth_percentile))


def candidates(fitted: int, size: int, parts: int) -> list[OperatorFormat]:
    """Return the formats for operators from `size` numbers to maps of so many parts, where a basis can be fitted to so many
    embeddings.

    A basis that fits those few alone does not pass: fidelity is measured on others.
    """
    bases = [b for b in BASIS_COLUMNS if b <= fitted and b < size]
    counts = sorted({min(m, parts) for m in MODE_COUNTS})
    with_basis = itertools.product(counts, bases, (4, 8), REST_RANKS)
    return [
        *(OperatorFormat(*parts) for parts in with_basis),
        *(OperatorFormat(m, 0, b) for m in counts for b in (4, 8)),
    ]
