"""Attributes by vector: an embedding alone says how likely each attribute is (docs/method.md, Attributes by vector)."""

import dataclasses

import numpy as np

from engine.attributes.probability import sigmoid, softmax
from engine.attributes.table import CONFIDENCES
from engine.errors import OptionError

SHORTEST = 1e-12
REQUIRED, OF_PASSES = ("vectors", "scale", "bias"), ("pass_own", "pass_mean", "pass_bias")
MATRICES = ("vectors", "pass_own", "pass_mean")
"""Of these, (A, D)."""


@dataclasses.dataclass(frozen=True, eq=False)
class AttributeVectors:
    """One vector per attribute: A of them, of D numbers each, in the order of the bundle's attributes.

    vectors: (A, D) float32; scale, bias: (A,) float32; an attribute's score is scale * <e / |e|, vector> + bias
    confidence: "softmax" (over all attributes) or "sigmoid" (of each alone) of the scores
    pass_own, pass_mean: (A, D) float32, pass_bias: (A,) float32: of a score that knows the passes over the picture as well,
        <e / |e|, pass_own> + <m, pass_mean> + pass_bias, m the mean of the masked pictures' unit embeddings; its confidence
        is a sigmoid; None: there is no such score

    Raises OptionError if these do not fit together.
    """

    vectors: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    confidence: str = "sigmoid"
    pass_own: np.ndarray | None = None
    pass_mean: np.ndarray | None = None
    pass_bias: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2:
            raise OptionError(f"attribute vectors must be (A, D), got {self.vectors.shape}")
        if self.confidence not in CONFIDENCES:
            raise OptionError(f"confidence must be one of {', '.join(CONFIDENCES)}, got {self.confidence!r}")
        count, size = self.vectors.shape
        shapes = {"vectors": (count, size), "scale": (count,), "bias": (count,)}
        if len([name for name in OF_PASSES if getattr(self, name) is None]) not in (0, len(OF_PASSES)):
            raise OptionError(f"{', '.join(OF_PASSES)} go together: give all or none")
        if self.pass_own is not None:
            shapes |= {"pass_own": (count, size), "pass_mean": (count, size), "pass_bias": (count,)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                raise OptionError(f"{name} must be finite float32 {shape}, got {array.dtype} {array.shape}")

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of `attribute_vectors.npz`, by name."""
        return {name: np.asarray(value) for name, value in vars(self).items() if value is not None}

    def confidences(self, embeddings: np.ndarray) -> np.ndarray:
        """Return (n, A) float64 in [0, 1] of embeddings (n, D) float."""
        scores = self.scores(embeddings)
        return softmax(scores) if self.confidence == "softmax" else sigmoid(scores)

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Return (n, A) float64 of embeddings (n, D) float: what the confidences are made of."""
        return self.scale * (unit_rows(embeddings) @ self.vectors.T.astype(np.float64)) + self.bias

    def confidences_of_passes(self, embedding: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return (A,) float64 in [0, 1] of a picture's embedding (D,) and `mean_of_units` of its passes (D,).

        Without the vectors for passes, the embedding decides alone.
        """
        if self.pass_own is None or self.pass_mean is None or self.pass_bias is None:
            return self.confidences(embedding[None])[0]
        own = unit_rows(embedding[None])[0]
        return sigmoid(self.pass_own.astype(np.float64) @ own + self.pass_mean.astype(np.float64) @ mean + self.pass_bias)


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """(n, D) float -> (n, D) float64: rows of length 1; a row of zeros stays one."""
    rows = embeddings.astype(np.float64)
    return rows / np.maximum(np.sqrt(np.square(rows).sum(-1, keepdims=True)), SHORTEST)


def mean_of_units(embeddings: np.ndarray) -> np.ndarray:
    """(N, D) float embeddings of a masked picture -> (D,) float64: the mean of their unit vectors."""
    return unit_rows(embeddings).mean(0)
