"""What is seen of a picture's attributes where a bundle has vectors for them and no attribute network."""

import numpy as np

from engine.attributes.ranking import Activations, area_means
from engine.attributes.vectors import AttributeVectors, mean_of_units, unit_rows
from engine.methods.rise import RisePlan
from engine.protocol import Plan
from engine.saliency.flatness import ROUNDED
from engine.saliency.map_fits import MapFits, published_tile_effects

CELLS = 8
"""Cells a side of an activation map that a method without tiles gives."""
AT_ONCE = 16
"""Attributes whose maps are drawn at full size at a time."""


def seen_in_embedding(vectors: AttributeVectors, embedding: np.ndarray) -> Activations:
    """Return what an embedding (D,) float32 says; its activation maps have one cell, since nothing says where."""
    confidences = vectors.confidences(embedding[None])[0]
    return Activations(confidences, np.ones((len(confidences), 1, 1), np.float32))


def seen_in_passes(
    vectors: AttributeVectors,
    plan: Plan,
    fits: MapFits | None,
    size: tuple[int, int],
    embeddings: np.ndarray,
    whole: np.ndarray,
) -> Activations:
    """Return what the passes over a picture say (docs/method.md, Attributes by vector).

    plan: the masks that were run; fits: None for the published estimator; size: (H, W) of the picture
    embeddings: (N, D) float32 of the masked picture; whole: (D,) float32 of the picture itself
    An activation map is the part of the map of the attribute's score that is above its mean.
    """
    confidences = vectors.confidences_of_passes(whole, mean_of_units(embeddings))
    units = unit_rows(embeddings)
    effects = _effects(vectors, plan, fits, size, units)
    if np.ptp(units, axis=0).max() <= ROUNDED:  # hiding changes nothing: what is left is rounding
        effects[:] = 0
    maps = np.maximum(effects - effects.mean((1, 2), keepdims=True), 0)
    sums = maps.sum((1, 2), keepdims=True)
    even = np.full_like(maps, 1 / maps[0].size)
    maps = np.divide(maps, sums, out=even, where=sums > 0).astype(np.float32)
    maps.flags.writeable = False
    return Activations(confidences, maps)


def _effects(
    vectors: AttributeVectors, plan: Plan, fits: MapFits | None, size: tuple[int, int], units: np.ndarray
) -> np.ndarray:
    """(A, h, w) float64: what showing a tile does to each attribute's score. units: (N, D)"""
    weights = vectors.vectors.T.astype(np.float64)
    if fits is not None:
        return (fits.tile_effects(units)[0] @ weights).T.reshape(-1, fits.side, fits.side)
    if isinstance(plan, RisePlan):
        side = plan.grids.shape[1]
        effects = published_tile_effects(plan.grids, plan.shifts, size, units)
        return (effects[0] @ weights).T.reshape(-1, side, side)
    scores = units @ weights
    parts = range(0, scores.shape[1], AT_ONCE)
    return np.concatenate(
        [area_means(np.asarray(plan.maps(scores[:, i : i + AT_ONCE], *size)), CELLS, CELLS) for i in parts]
    ).astype(np.float64)
