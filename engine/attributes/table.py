"""A bundle's attributes: names, calibration, prior and weights; and one attribute as an explanation names it."""

import dataclasses

import numpy as np

from engine.errors import OptionError

CONFIDENCES = ("softmax", "sigmoid")
Joint = tuple[float, float, float]
"""a, b, c of the probability that an attribute is true of both pictures, see `engine.attributes.probability`."""


MOST_CHARACTERS = 1000
"""Of a name of an attribute or a condition."""


@dataclasses.dataclass(frozen=True, eq=False)
class AttributeTable:
    """A bundle's A attributes.

    names: one each, distinct
    confidence: "softmax" (over all attributes) or "sigmoid" (of each alone) of `scale * scores + bias`
    bias: (A,) float32, calibrates the scores together with `scale`
    threshold: attributes with a lower probability of being true of both pictures are not named (ranking "joint"), or with
        less confidence (ranking "sane")
    phi: weights of confidence, match and prior in ranking "sane"
    prior: (A,) float32 in [0, 1]; None if there is none, then phi_3 counts as 0
    scale: (A,) float32 above 0; None for ones
    joint: how two pictures' confidences make that probability; None: it is their product

    Raises OptionError if these do not fit together.
    """

    names: tuple[str, ...]
    confidence: str
    bias: np.ndarray
    threshold: float = 0.0
    phi: tuple[float, float, float] = (1.0, 1.0, 0.0)
    prior: np.ndarray | None = None
    scale: np.ndarray | None = None
    joint: Joint | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
        if self.confidence not in CONFIDENCES:
            raise OptionError(f"confidence must be one of {', '.join(CONFIDENCES)}, got {self.confidence!r}")
        if not count or len(set(self.names)) != count or not all(is_name(n) for n in self.names):
            raise OptionError(f"attributes need distinct names, at least one, of 1 to {MOST_CHARACTERS} characters")
        if self.bias.shape != (count,) or (self.prior is not None and self.prior.shape != (count,)):
            raise OptionError(f"bias and prior must be ({count},), one per attribute")
        if len(self.phi) != 3 or not np.isfinite(self.phi).all() or not 0 <= self.threshold <= 1:
            raise OptionError(
                f"phi must be three finite numbers and the threshold lie in [0, 1], got {self.phi}, {self.threshold}"
            )
        if self.joint is not None and (len(self.joint) != 3 or not np.isfinite(self.joint).all()):
            raise OptionError(f"joint must be three finite numbers, got {self.joint}")
        if not np.isfinite(self.bias).all():
            raise OptionError("bias must be finite")
        if self.prior is not None and not ((self.prior >= 0) & (self.prior <= 1)).all():
            raise OptionError("every prior must lie in [0, 1]")
        if self.slopes.shape != (count,) or not (np.isfinite(self.slopes) & (self.slopes > 0)).all():
            raise OptionError(f"scale must be ({count},), one per attribute, finite and above 0")

    @property
    def slopes(self) -> np.ndarray:
        """(A,) float32: `scale`, or ones."""
        return np.ones(len(self.names), np.float32) if self.scale is None else self.scale

    @property
    def weights(self) -> tuple[float, float, float]:
        """phi as it is used: without a prior, phi_3 is 0."""
        return (self.phi[0], self.phi[1], self.phi[2] if self.prior is not None else 0.0)


def is_name(value: object) -> bool:
    """Whether a value is a text of 1 to MOST_CHARACTERS characters."""
    return isinstance(value, str) and 1 <= len(value) <= MOST_CHARACTERS


@dataclasses.dataclass(frozen=True, eq=False)
class Attribute:
    """One attribute of an explanation.

    score: ranking "joint": the probability in [0, 1] that it is true of both pictures (of the query alone, where nothing is
        known of the reference); for what is true of one picture only, that probability. Ranking "sane", and opposing
        attributes: phi_1 * confidence + phi_2 * match + phi_3 * prior
    confidence, reference_confidence: that it is true of the query, and of the reference, in [0, 1]; None: not known
    match: Pearson correlation in [-1, 1] of its map over the query with the saliency map; for an opposing attribute, with
        the map's opposing part
    prior: in [0, 1]
    map: (h, w) float32, where it is seen, sums to 1; read-only, shared by explanations of one query. It lies over the query,
        and over the reference for an attribute of the reference only; None: not known
    """

    name: str
    score: float
    confidence: float
    match: float
    prior: float
    map: np.ndarray | None
    reference_confidence: float | None = None


def prior_of(table: AttributeTable) -> np.ndarray:
    """Return the prior (A,) float64; zeros if the table has none."""
    return np.zeros(len(table.names)) if table.prior is None else table.prior.astype(np.float64)
