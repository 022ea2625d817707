"""From rows to maps with their errors: what an index computes for an explanation, without a network."""

import dataclasses
import functools

import numpy as np

from engine.index.codec import OperatorCodec
from engine.index.noise import lost_signal, variances
from engine.index.operators import MapModes
from engine.saliency.correspondence import correspondence
from engine.saliency.geometry import TILES
from engine.saliency.regression import Estimate

RANKED_AT = 32
"""Sides of the maps that attributes are compared with: activation maps are coarser."""


@dataclasses.dataclass(frozen=True, eq=False)
class MapAlgebra:
    """Maps of one size from stored operators.

    codec: reads them; size: (H, W) of the maps; side: tiles a side of the correspondence
    """

    codec: OperatorCodec
    size: tuple[int, int]
    side: int

    @functools.cached_property
    def shown(self) -> MapModes:
        """The modes at the maps' size."""
        full = len(self.codec.some.down), len(self.codec.some.across)
        return self.codec.some if self.size == full else self.codec.some.shown_at(*self.size)

    @functools.cached_property
    def ranked(self) -> MapModes:
        """The modes at RANKED_AT."""
        return self.codec.some.shown_at(RANKED_AT, RANKED_AT)

    def coefficients(self, records: np.ndarray, references: np.ndarray) -> np.ndarray:
        """Return the coefficients (n, M) float32 of each record's map against its reference (n, F); one of a kind goes with
        all of the other.
        """
        offsets = records["offset"] if self.codec.basis.has_offset else None
        return self.codec.coefficients(self.codec.decoded(records["operator"]), offsets, references)

    def estimates(self, records: np.ndarray, references: np.ndarray, coefficients: np.ndarray) -> list[Estimate]:
        """Return the maps with a level of error, the same for the whole map, and their reliability.

        coefficients: as `coefficients` returned them
        Of a metric with an offset neither is known: its noise goes with that of the rest, and the two nearly cancel.
        """
        if self.codec.basis.has_offset:
            return [Estimate(saliency) for saliency in self.shown.maps(coefficients)]
        varying = self.codec.basis.varying(references)
        inside, lengths = self.codec.basis.inside(varying), np.square(varying).sum(1)
        noise = variances(records["noise"], inside, lengths)
        signal = ((coefficients @ self.codec.tile_form) * coefficients).sum(1) + lost_signal(records["noise"], inside)
        reliability = self._reliability(signal, noise).tolist()
        levels = np.sqrt(noise) * records["noise"]["error"]
        errors = np.broadcast_to(levels.astype(np.float32)[:, None, None], (len(noise), TILES, TILES))
        return [Estimate(*one) for one in zip(self.shown.maps(coefficients), errors, reliability, strict=True)]

    def _reliability(self, signal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return the maps' correlations with their limits (n,), from the variance of each map (n,) and of its noise (n,)."""
        if self.codec.some.centred:  # a posterior's noise is not part of its map
            signal = np.maximum(signal, 0)  # what storing lost of it is an estimate
            total = signal + noise
            return np.sqrt(np.divide(signal, total, out=np.zeros_like(signal), where=total > 0))
        share = np.divide(noise, signal, out=np.ones_like(noise), where=signal > 0)
        return np.sqrt(np.clip(1 - share, 0, 1))

    def correspondence(self, query: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Return the correspondence (T, T) float32 of two pictures by their records, on a grid of tiles."""
        tiles = self.codec.some.shown_at(self.side, self.side)
        sides = []
        for record in (query, reference):
            matrix = self.codec.decoded(record["operator"][None]).matrices(self.codec.basis.basis)[0]  # (M, D)
            effects = tiles.maps(matrix.T).reshape(matrix.shape[1], -1).T  # (T, D)
            sides.append(effects * float(record["amplitude"]))
        return correspondence(sides[0], sides[1]) * np.float32(self.codec.basis.product)
